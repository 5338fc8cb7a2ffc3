//! The product at the bottom of convolutions in bf16, with sums in f32: up to 32 rows of A times up to 32 columns of B.
//!
//! One trait, [`Products`], and two ways: tile registers ([`Tiles`], on the matrix unit or its emulation) and vectors of pairs
//! ([`Vectors`], AVX-512-BF16). bf16 are held as u16.

use super::gemm::balanced;
use crate::amx::{Config, Emulated, TILE, TileUnit};
use crate::cpu::Isa;
use crate::simd::{Portable, Simd};

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tile registers in plain Rust, for tests: any processor.
    Emulated,
    /// Vectors of 16 pairs.
    Avx512Bf16,
    /// Tile registers.
    Amx,
    /// The same, without asking whether the processor has them.
    #[cfg(all(test, target_arch = "x86_64"))]
    Unchecked,
}

/// Work that is written for any [`Unit`].
pub trait Work {
    /// Does it. To be marked `#[inline(always)]`, and to call intrinsics in no closure: the instructions are enabled around
    /// this function only.
    fn run<P: Products>(self, products: &mut P);
}

impl Unit {
    /// That of an instruction set.
    pub fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Amx => Some(Unit::Amx),
            Isa::Avx512Bf16 => Some(Unit::Avx512Bf16),
            _ => None,
        }
    }

    /// Those that this processor can run.
    pub fn available() -> Vec<Self> {
        [Unit::Emulated].into_iter().chain(Isa::available().into_iter().filter_map(Self::of)).collect()
    }

    /// Whether rows that a run lacks cost as much as those it has, see [`Rows::n`].
    pub fn has_tiles(self) -> bool {
        self != Unit::Avx512Bf16
    }

    /// Does `work` with it.
    ///
    /// # Panics
    /// If the processor lacks it.
    pub fn run<W: Work>(self, work: W) {
        match self {
            Unit::Emulated => work.run(&mut Tiles::new(Emulated::new(), Software)),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512Bf16 => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                // SAFETY: just detected.
                unsafe { enabled(work, &mut Vectors(conversion)) }
            }
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                let amx = crate::amx::Amx::detect().expect("a processor with AMX");
                // SAFETY: just detected.
                unsafe { enabled(work, &mut Tiles::new(amx, conversion)) }
            }
            #[cfg(all(test, target_arch = "x86_64"))]
            Unit::Unchecked => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                // SAFETY: just detected; the test sees to the rest.
                unsafe { enabled(work, &mut Tiles::new(crate::amx::Amx::unchecked(), conversion)) }
            }
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => panic!("{self:?} is of another architecture"),
        }
    }
}

/// `work`, compiled with the instructions of [`Hardware`].
///
/// # Safety
/// The processor has them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn enabled<W: Work, P: Products>(work: W, products: &mut P) {
    work.run(products);
}

/// Pairs of bf16 in vectors of f32, each lane a pair; rounded to nearest, halves to even. Numbers below 2⁻¹²⁶ may become zero.
pub trait Conversion: Copy {
    type S: Simd;
    fn simd(self) -> Self::S;
    /// Lane i: (even\[i\], odd\[i\])
    fn pairs(self, even: V<Self>, odd: V<Self>) -> V<Self>;
    /// The numbers of one vector, then those of the other.
    fn in_order(self, first: V<Self>, second: V<Self>) -> V<Self>;
}

type V<C> = <<C as Conversion>::S as Simd>::V;

/// Some rows of A, at most 16.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows {
    /// The first number of the first row.
    pub at: usize,
    /// How many. Tiles read 16 whatever it is, so numbers must be there.
    pub n: usize,
}

/// C\[m\]\[n\] = Σ over segments (a, b), Σ over k < `len` of A\[a + m·row + k\] · B\[b + k\]\[n\].
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub a: &'a [u16],
    /// One or two.
    pub runs: &'a [Rows],
    /// From one row of a run to the next.
    pub row: usize,
    /// Pairs of k of 16 columns, `[k / 2][16][2]`.
    pub b: &'a [u16],
    /// Where k = 0 of one or two times 16 columns is.
    pub columns: &'a [usize],
    /// Places in A and B that are added to those above. That in B is k times 16.
    pub segments: &'a [[usize; 2]],
    /// A multiple of 32.
    pub len: usize,
}

/// Numbers of the result of a [`Block`]: `[run][columns][16][16]`, two of each whether used or not.
pub const BLOCK: usize = 4 * TILE;

/// What multiplies, and the vectors to prepare operands with.
pub trait Products {
    type C: Conversion;
    fn conversion(&self) -> Self::C;
    /// The block's sums, added to what is in `c` if `add`. Of rows beyond those of a run, and of unused parts, what is written is
    /// arbitrary.
    fn multiply(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]);
}

/// Products by tile registers, which are configured as long as this lives.
pub struct Tiles<T: TileUnit, C> {
    unit: T,
    conversion: C,
}

impl<T: TileUnit, C> Tiles<T, C> {
    #[inline(always)]
    fn new(mut unit: T, conversion: C) -> Self {
        unit.configure(&Config::FULL);
        Self { unit, conversion }
    }
}

impl<T: TileUnit, C> Drop for Tiles<T, C> {
    #[inline(always)]
    fn drop(&mut self) {
        self.unit.release();
    }
}

impl<T: TileUnit, C: Conversion> Products for Tiles<T, C> {
    type C = C;

    #[inline(always)]
    fn conversion(&self) -> C {
        self.conversion
    }

    #[inline(always)]
    fn multiply(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]) {
        match (block.runs.len(), block.columns.len()) {
            (1, 1) => self.tiles::<1, 1>(block, add, c),
            (1, 2) => self.tiles::<1, 2>(block, add, c),
            (2, 1) => self.tiles::<2, 1>(block, add, c),
            (2, 2) => self.tiles::<2, 2>(block, add, c),
            sizes => unreachable!("a block of {sizes:?} tiles"),
        }
    }
}

impl<T: TileUnit, C> Tiles<T, C> {
    /// Tiles 0 to 3 are sums (two of each run), 4 and 5 rows of A, 6 and 7 columns of B: four products for four loads.
    #[inline(always)]
    fn tiles<const RUNS: usize, const COLUMNS: usize>(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]) {
        let Block { a, runs, row, b, columns, segments, len } = *block;
        let (unit, two_runs, two_columns) = (&mut self.unit, RUNS == 2, COLUMNS == 2);
        let (a_0, a_1) = (runs[0].at, runs[RUNS - 1].at);
        let (b_0, b_1) = (columns[0], columns[COLUMNS - 1]);
        assert!(c.len() == BLOCK && len.is_multiple_of(32));
        if add {
            unit.load_sums::<0>(c);
            unit.load_sums::<1>(&c[TILE..]);
            unit.load_sums::<2>(&c[2 * TILE..]);
            unit.load_sums::<3>(&c[3 * TILE..]);
        } else {
            unit.zero::<0>();
            unit.zero::<1>();
            unit.zero::<2>();
            unit.zero::<3>();
        }
        for &[a_first, b_first] in segments {
            for k in (0..len).step_by(32) {
                let (a_at, b_at) = (a_first + k, b_first + 16 * k);
                unit.load::<4>(&a[a_0 + a_at..], row);
                unit.load::<6>(&b[b_0 + b_at..], 32);
                unit.multiply::<0, 4, 6>();
                if two_columns {
                    unit.load::<7>(&b[b_1 + b_at..], 32);
                    unit.multiply::<1, 4, 7>();
                }
                if two_runs {
                    unit.load::<5>(&a[a_1 + a_at..], row);
                    unit.multiply::<2, 5, 6>();
                    if two_columns {
                        unit.multiply::<3, 5, 7>();
                    }
                }
            }
        }
        unit.store::<0>(c);
        if two_columns {
            unit.store::<1>(&mut c[TILE..]);
        }
        if two_runs {
            unit.store::<2>(&mut c[2 * TILE..]);
            if two_columns {
                unit.store::<3>(&mut c[3 * TILE..]);
            }
        }
    }
}

/// In plain Rust, one pair at a time.
#[derive(Clone, Copy, Debug)]
pub struct Software;

impl Conversion for Software {
    type S = Portable;

    fn simd(self) -> Portable {
        Portable
    }

    fn pairs(self, even: f32, odd: f32) -> f32 {
        f32::from_bits(u32::from(bf16(even)) | u32::from(bf16(odd)) << 16)
    }

    fn in_order(self, first: f32, second: f32) -> f32 {
        self.pairs(first, second)
    }
}

/// The nearest bf16, halves to even.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Quiet, so that cutting digits off does not leave infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    // The half of the last digit that is kept, less one unless that digit is odd.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Hardware, Vectors};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{BLOCK, Block, Conversion, Products, TILE, balanced};
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
            let Block { a, runs, row, b, columns, segments, len } = *block;
            assert!(c.len() == BLOCK && len.is_multiple_of(2));
            let (mut last_a, mut last_b) = (0, 0);
            for &[a_first, b_first] in segments {
                (last_a, last_b) = (last_a.max(a_first), last_b.max(b_first));
            }
            for &first in columns {
                assert!(segments.is_empty() || b.len() >= first + last_b + 16 * len);
            }
            for (run, rows) in runs.iter().enumerate() {
                assert!(segments.is_empty() || a.len() >= rows.at + (rows.n - 1) * row + last_a + len && rows.n <= 16);
                for (first, n) in balanced(rows.n, 8) {
                    let a_at = a.as_ptr().wrapping_add(rows.at + first * row);
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
                                    vectors::<$n, $columns>(self, a_at, row, b_at, segments, len, add, to)
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
        row: usize,
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
                for _ in 0..len / 2 {
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
                    a_at = a_at.wrapping_add(2);
                }
            }
            for m in 0..ROWS {
                for n in 0..COLUMNS {
                    _mm512_storeu_ps(c.add(n * TILE + m * 16), sums[m][n]);
                }
            }
        }
    }
}
