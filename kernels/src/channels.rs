//! Sums over the pixels of channels-last images: a lane is a channel.

use crate::simd::Simd;

/// Pixels that are summed before their sum is added to that of others: rounding errors then grow with the sum of two small
/// numbers of terms, not with their product.
const BLOCK: usize = 32;

/// What is summed.
pub trait Terms<S: Simd, const N: usize> {
    /// The terms of `n` channels of a pixel from `channel`, the first at `at` in the image: a vector if `WHOLE`, else fewer, and then
    /// the other lanes are arbitrary.
    ///
    /// # Safety
    /// The image has so many numbers, and as many channels.
    unsafe fn terms<const WHOLE: bool>(&mut self, s: S, at: usize, channel: usize, n: usize) -> [S::V; N];
}

/// Σ over the pixels of an image `[pixels][c]`, for each channel: `sums` `[N][c]`.
///
/// # Safety
/// All that `terms` reads has so many pixels and channels.
#[inline(always)]
pub unsafe fn sum_terms<S: Simd, const N: usize>(
    s: S,
    [pixels, c]: [usize; 2],
    terms: &mut impl Terms<S, N>,
    sums: &mut [f32],
) {
    assert_eq!(sums.len(), N * c);
    sums.fill(0.0);
    // More channels than there are registers for are summed pixel by pixel, so that memory is read in its order.
    let widest = if S::MANY_REGISTERS { 8 * S::LANES } else { 4 * S::LANES };
    let at_once = if c <= widest { BLOCK } else { 1 };
    for first in (0..pixels).step_by(at_once) {
        let block = [first, pixels.min(first + at_once)];
        let mut channel = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while S::MANY_REGISTERS && channel + 8 * S::LANES <= c {
                sum_block::<S, N, 8, true>(s, block, [channel, c], terms, sums);
                channel += 8 * S::LANES;
            }
            while channel + 4 * S::LANES <= c {
                sum_block::<S, N, 4, true>(s, block, [channel, c], terms, sums);
                channel += 4 * S::LANES;
            }
            while channel + S::LANES <= c {
                sum_block::<S, N, 1, true>(s, block, [channel, c], terms, sums);
                channel += S::LANES;
            }
            if channel < c {
                sum_block::<S, N, 1, false>(s, block, [channel, c], terms, sums);
            }
        }
    }
}

/// Adds the terms of some pixels and of `M` vectors of channels.
///
/// # Safety
/// As [`sum_terms`].
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
unsafe fn sum_block<S: Simd, const N: usize, const M: usize, const WHOLE: bool>(
    s: S,
    [first, end]: [usize; 2],
    [channel, c]: [usize; 2],
    terms: &mut impl Terms<S, N>,
    sums: &mut [f32],
) {
    let n = if WHOLE { S::LANES } else { c - channel };
    let mut block = [[s.splat(0.0); N]; M];
    for pixel in first..end {
        for m in 0..M {
            let channel = channel + m * S::LANES;
            // SAFETY: the caller's promise.
            let new = unsafe { terms.terms::<WHOLE>(s, pixel * c + channel, channel, n) };
            for k in 0..N {
                block[m][k] = s.add(block[m][k], new[k]);
            }
        }
    }
    for m in 0..M {
        for k in 0..N {
            let sums = &mut sums[k * c + channel + m * S::LANES..][..n];
            s.store_some(sums, s.add(s.load_some(sums), block[m][k]));
        }
    }
}

/// A vector of `values` from `at`, or the `n` numbers that there are of it.
///
/// # Safety
/// `values` has so many.
#[inline(always)]
pub unsafe fn load<S: Simd, const WHOLE: bool>(s: S, values: &[f32], at: usize, n: usize) -> S::V {
    debug_assert!(at + n <= values.len() && (n == S::LANES || !WHOLE));
    match WHOLE {
        // SAFETY: the caller's promise.
        true => unsafe { s.load_ptr(values.as_ptr().add(at)) },
        false => s.load_first(&values[at..at + n]),
    }
}

/// The inverse of [`load`].
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn store<S: Simd, const WHOLE: bool>(s: S, values: &mut [f32], at: usize, n: usize, v: S::V) {
    debug_assert!(at + n <= values.len() && (n == S::LANES || !WHOLE));
    match WHOLE {
        // SAFETY: the caller's promise.
        true => unsafe { s.store_ptr(values.as_mut_ptr().add(at), v) },
        false => s.store_first(&mut values[at..at + n], v),
    }
}

/// The numbers of an image themselves.
pub struct Values<'a>(pub &'a [f32]);

impl<S: Simd> Terms<S, 1> for Values<'_> {
    #[inline(always)]
    unsafe fn terms<const WHOLE: bool>(&mut self, s: S, at: usize, _: usize, n: usize) -> [S::V; 1] {
        // SAFETY: the caller's promise.
        [unsafe { load::<S, WHOLE>(s, self.0, at, n) }]
    }
}
