//! Conversions and products by AVX-512-BF16.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::super::gemm::balanced;
use super::{BLOCK, Block, Conversion, Parts, Products, TERMS};
use crate::amx::TILE;
use crate::simd::Avx512;

/// AVX-512 with its extension for bf16.
#[derive(Clone, Copy, Debug)]
pub struct Hardware(Avx512);

impl Hardware {
    /// If the processor has it.
    pub fn detect() -> Option<Self> {
        Avx512::detect().filter(|_| is_x86_feature_detected!("avx512bf16")).map(Self)
    }
}

impl Conversion for Hardware {
    type S = Avx512;

    #[inline(always)]
    fn simd(self) -> Avx512 {
        self.0
    }

    #[inline(always)]
    fn pairs(self, even: __m512, odd: __m512) -> __m512 {
        const ORDER: [u16; 32] = {
            let mut order = [0; 32];
            let mut i = 0;
            while i < 32 {
                order[i] = (i / 2 + 16 * (i % 2)) as u16;
                i += 1;
            }
            order
        };
        // SAFETY: `self` proves that the processor has the instructions; the order is 64 bytes.
        unsafe {
            let numbers = _mm512_castps_si512(self.in_order(even, odd));
            _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(ORDER.as_ptr().cast()), numbers))
        }
    }

    #[inline(always)]
    fn in_order(self, first: __m512, second: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has the instruction; both types are 64 bytes of numbers.
        unsafe { transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(second, first)) }
    }
}

/// Products by vectors of pairs.
pub struct Vectors(pub Hardware);

impl Products for Vectors {
    type C = Hardware;

    #[inline(always)]
    fn conversion(&self) -> Hardware {
        self.0
    }

    #[inline(always)]
    fn multiply(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]) {
        let Block { parts, a, runs, n_rows, row, step, b, columns, segments, len, .. } = *block;
        assert_eq!(parts, Parts::One, "numbers by vectors");
        assert!(c.len() == BLOCK && n_rows <= 16 && len > 0 && len.is_multiple_of(TERMS));
        let (mut last_a, mut last_b) = (0, 0);
        for &[a_first, b_first] in segments {
            (last_a, last_b) = (last_a.max(a_first), last_b.max(b_first));
        }
        for &first in columns {
            assert!(segments.is_empty() || b.len() >= first + last_b + 16 * len);
        }
        for (run, &rows) in runs.iter().enumerate() {
            let last = rows + (n_rows - 1) * row + last_a + (len / TERMS - 1) * step;
            assert!(segments.is_empty() || a.len() >= last + TERMS);
            for (first, n) in balanced(n_rows, 8) {
                let a_at = a.as_ptr().wrapping_add(rows + first * row);
                let to = c[2 * run * TILE + 16 * first..].as_mut_ptr();
                macro_rules! rows {
                    ($columns:literal: $($n:literal)*) => {{
                        let mut b_at = [b.as_ptr(); $columns];
                        for column in 0..$columns {
                            b_at[column] = b.as_ptr().wrapping_add(columns[column]);
                        }
                        match n {
                            // SAFETY: `self` proves that the processor has the instructions; places in A and B are
                            // there, as asserted for the largest; C has room for 16 rows from that of the run.
                            $($n => unsafe {
                                vectors::<$n, $columns>(self, a_at, [row, step], b_at, segments, len, add, to)
                            },)*
                            _ => unreachable!("{n} rows"),
                        }
                    }};
                }
                match columns.len() {
                    1 => rows!(1: 1 2 3 4 5 6 7 8),
                    2 => rows!(2: 1 2 3 4 5 6 7 8),
                    n => unreachable!("{n} times 16 columns"),
                }
            }
        }
    }
}

/// A vector of pairs as what it is.
#[inline(always)]
fn bf16(pairs: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { transmute::<__m512i, __m512bh>(pairs) }
}

/// Some rows and columns whose sums all stay in registers.
///
/// Loops over indices: closures, as iterators take them, would be compiled without the instructions.
///
/// # Safety
/// All places of A and B are valid, and `c` has room for the rows.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "see above")]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
unsafe fn vectors<const ROWS: usize, const COLUMNS: usize>(
    _: &Vectors,
    a: *const u16,
    [row, step]: [usize; 2],
    b: [*const u16; COLUMNS],
    segments: &[[usize; 2]],
    len: usize,
    add: bool,
    c: *mut f32,
) {
    // SAFETY: the caller's promise; past the last term pointers are moved, but not read.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); COLUMNS]; ROWS];
        if add {
            for m in 0..ROWS {
                for n in 0..COLUMNS {
                    sums[m][n] = _mm512_loadu_ps(c.add(n * TILE + m * 16));
                }
            }
        }
        for &[a_first, b_first] in segments {
            let mut a_at = a.wrapping_add(a_first);
            let mut b_at = b;
            for n in 0..COLUMNS {
                b_at[n] = b[n].wrapping_add(b_first);
            }
            for pair in 0..len / 2 {
                let mut b_pairs = [_mm512_setzero_si512(); COLUMNS];
                for n in 0..COLUMNS {
                    b_pairs[n] = _mm512_loadu_si512(b_at[n].cast());
                    b_at[n] = b_at[n].wrapping_add(32);
                }
                for m in 0..ROWS {
                    let pair = _mm512_set1_epi32(a_at.add(m * row).cast::<i32>().read_unaligned());
                    for n in 0..COLUMNS {
                        sums[m][n] = _mm512_dpbf16_ps(sums[m][n], bf16(b_pairs[n]), bf16(pair));
                    }
                }
                // The next row of a tile begins elsewhere.
                let is_last = pair % (TERMS / 2) == TERMS / 2 - 1;
                a_at = a_at.wrapping_add(if is_last { step - (TERMS - 2) } else { 2 });
            }
        }
        for m in 0..ROWS {
            for n in 0..COLUMNS {
                _mm512_storeu_ps(c.add(n * TILE + m * 16), sums[m][n]);
            }
        }
    }
}
