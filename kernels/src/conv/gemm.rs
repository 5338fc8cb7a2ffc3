//! The product at the bottom of every convolution: a few rows of A times a panel of B, summed in registers.

use crate::buffer::Scratch;
use crate::cpu::kernel;
use crate::simd::Simd;

/// Rows of A that are done at once with panels of `n_vectors` vectors: as many as there are registers for.
#[inline(always)]
pub fn max_rows<S: Simd>(n_vectors: usize) -> usize {
    match (S::MANY_REGISTERS, n_vectors) {
        (true, _) => 12,
        (false, 2) => 6,
        _ => 8,
    }
}

/// The largest number of vectors in a panel: more would need fewer loads of A, but a panel of 128 terms would then fill the
/// L1 cache, and be read from the second for every block of rows.
pub const MAX_VECTORS: usize = 2;

/// Panels of vectors that together are `n_vectors`: (first, how many) of each.
pub fn panels(n_vectors: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n_vectors).step_by(MAX_VECTORS).map(move |first| (first, MAX_VECTORS.min(n_vectors - first)))
}

/// `n` things in as few groups of at most `most` as possible, all groups nearly equal: (first, how many) of each.
pub fn balanced(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let n_groups = n.div_ceil(most);
    (0..n_groups).map(move |i| {
        let (first, next) = (i * n / n_groups, (i + 1) * n / n_groups);
        (first, next - first)
    })
}

/// One operand in memory: where it begins, and how far apart neighbours are in its two directions.
#[derive(Clone, Copy)]
pub struct Rows {
    /// First number.
    pub at: *const f32,
    /// From one row (an output) to the next.
    pub row: usize,
    /// From one term of the sum to the next.
    pub step: usize,
}

/// A panel of the other operand: a term of the sum is some vectors in a row.
#[derive(Clone, Copy)]
pub struct Panel {
    /// First number.
    pub at: *const f32,
    /// From one term to the next.
    pub step: usize,
}

/// Where the result goes.
#[derive(Clone, Copy)]
pub struct Out {
    /// First number.
    pub at: *mut f32,
    /// From one row to the next.
    pub row: usize,
    /// Whether it is added to what is there.
    pub add: bool,
}

/// C\[m\]\[v\] (+)= Σ over segments (a, b), Σ over k < `len` of A\[a + m·row + k·step\] · B\[b + k·step\]\[v\], for `n_rows`
/// rows and `n_vectors` vectors.
///
/// # Safety
/// All these places are valid, those of C for writing, and C overlaps neither A nor B. `n_rows` is at most
/// [`max_rows`], `n_vectors` at most [`MAX_VECTORS`].
#[inline(always)]
pub unsafe fn multiply<S: Simd>(
    s: S,
    [n_rows, n_vectors]: [usize; 2],
    a: Rows,
    b: Panel,
    segments: &[[usize; 2]],
    len: usize,
    c: Out,
) {
    macro_rules! rows {
        ($n_vectors:literal: $($n_rows:literal)*) => {
            match n_rows {
                // SAFETY: the caller's promise.
                $($n_rows => unsafe { block::<S, $n_rows, $n_vectors>(s, a, b, segments, len, c) },)*
                _ => unreachable!("a block of {n_rows} rows"),
            }
        };
    }
    match n_vectors {
        1 if S::MANY_REGISTERS => rows!(1: 1 2 3 4 5 6 7 8 9 10 11 12),
        1 => rows!(1: 1 2 3 4 5 6 7 8),
        2 if S::MANY_REGISTERS => rows!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
        2 => rows!(2: 1 2 3 4 5 6),
        _ => unreachable!("a panel of {n_vectors} vectors"),
    }
}

/// [`multiply`] for a number of rows and vectors known when compiled, so that all sums stay in registers.
///
/// Loops over indices: closures, as iterators take them, would be compiled without the instructions.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "see above")]
unsafe fn block<S: Simd, const ROWS: usize, const VECTORS: usize>(
    s: S,
    a: Rows,
    b: Panel,
    segments: &[[usize; 2]],
    len: usize,
    c: Out,
) {
    let mut sums = [[s.splat(0.0); VECTORS]; ROWS];
    for &[a_first, b_first] in segments {
        // SAFETY: the caller's promise, for all that follows.
        let (mut a_at, mut b_at) = unsafe { (a.at.add(a_first), b.at.add(b_first)) };
        for _ in 0..len {
            // SAFETY: as above; past the last term the pointers are moved, but not read.
            unsafe {
                let mut b_term = [s.splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    b_term[v] = s.load_ptr(b_at.add(v * S::LANES));
                }
                for m in 0..ROWS {
                    let x = s.splat(*a_at.add(m * a.row));
                    for v in 0..VECTORS {
                        sums[m][v] = s.fma(x, b_term[v], sums[m][v]);
                    }
                }
                a_at = a_at.wrapping_add(a.step);
                b_at = b_at.wrapping_add(b.step);
            }
        }
    }
    for m in 0..ROWS {
        for v in 0..VECTORS {
            // SAFETY: the caller's promise.
            unsafe {
                let at = c.at.add(m * c.row + v * S::LANES);
                let sum = if c.add { s.add(s.load_ptr(at), sums[m][v]) } else { sums[m][v] };
                s.store_ptr(at, sum);
            }
        }
    }
}

kernel! {
    /// Multiplies a tile of the largest size `n_times`, its operands in the L1 cache; gives the number of
    /// multiplications and additions.
    pub fn tile_products<'a>(s; n_times: usize) -> f64 {
        let (n_vectors, len) = (MAX_VECTORS, 64);
        let (n_rows, width) = (max_rows::<S>(n_vectors), n_vectors * S::LANES);
        let lens = [n_rows * len, len * width, n_rows * width];
        let mut scratch = Scratch::take(lens);
        let [a, b, c] = scratch.pieces(lens);
        a.fill(1.0);
        b.fill(1.0);
        let a = Rows { at: a.as_ptr(), row: len, step: 1 };
        let b = Panel { at: b.as_ptr(), step: width };
        let c = Out { at: c.as_mut_ptr(), row: width, add: false };
        for _ in 0..n_times {
            // SAFETY: the pieces have the lengths that are read and written.
            unsafe { multiply(s, [n_rows, n_vectors], a, b, &[[0, 0]], len, std::hint::black_box(c)) };
        }
        (n_times * n_rows * len * width * 2) as f64
    }
}
