//! What U-Nets do to channels-last images beside convolutions and norms: images put beside each other, numbers added to channels, all
//! numbers scaled, some dropped.

use crate::channels::{Values, sum_terms};
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::random::{self, Position};
use crate::size;

/// Numbers that are one piece of work.
const PART: usize = 1 << 14;

/// The channels of `a` and, behind them, of `b`, for each pixel.
///
/// # Shapes
/// `a`: `[pixels, ca]`; `b`: `[pixels, cb]`; `out`: `[pixels, ca + cb]`, pixels of all images.
///
/// # Panics
/// If a length is another.
pub fn join(a: &[f32], b: &[f32], [ca, cb]: [usize; 2], out: &mut [f32]) {
    let c = check(a.len(), b.len(), [ca, cb], out.len());
    let pixels = (PART / c).max(1);
    parallel::for_each_part(out, pixels * c, |i, out| {
        let [a, b] = [(a, ca), (b, cb)].map(|(x, c)| &x[i * pixels * c..]);
        for (pixel, out) in out.chunks_exact_mut(c).enumerate() {
            let (left, right) = out.split_at_mut(ca);
            left.copy_from_slice(&a[pixel * ca..][..ca]);
            right.copy_from_slice(&b[pixel * cb..][..cb]);
        }
    });
}

/// The two parts of what [`join`] made.
///
/// # Shapes
/// As [`join`]; `x` is its output.
///
/// # Panics
/// If a length is another.
pub fn split(x: &[f32], [ca, cb]: [usize; 2], a: &mut [f32], b: &mut [f32]) {
    let c = check(a.len(), b.len(), [ca, cb], x.len());
    let pixels = (PART / c).max(1);
    let parts = a.chunks_mut(pixels * ca).zip(b.chunks_mut(pixels * cb)).zip(x.chunks(pixels * c)).collect();
    parallel::for_each_of(parts, |((a, b), x)| {
        let x = x.chunks_exact(c);
        for ((x, a), b) in x.zip(a.chunks_exact_mut(ca)).zip(b.chunks_exact_mut(cb)) {
            let (left, right) = x.split_at(ca);
            a.copy_from_slice(left);
            b.copy_from_slice(right);
        }
    });
}

/// The number of channels of both, of which the lengths are those of as many pixels.
fn check(a: usize, b: usize, [ca, cb]: [usize; 2], both: usize) -> usize {
    assert!(ca > 0 && cb > 0, "found {ca} and {cb} channels, expected at least one of each");
    let c = ca.checked_add(cb).unwrap_or_else(|| panic!("found {ca} and {cb} channels, more than there can be"));
    let pixels = both / c;
    let lens = [[pixels, ca], [pixels, cb], [pixels, c]].map(|sizes| size::numbers("images", sizes));
    assert_eq!([a, b, both], lens, "found images of other lengths than {ca} and {cb} channels");
    c
}

/// x ← x + shift, a number for each channel of each image.
///
/// # Shapes
/// `x`: `[n, pixels, c]`; `shift`: `[n, c]`
///
/// # Panics
/// If a length is another.
pub fn shift(x: &mut [f32], shift: &[f32], [n, c]: [usize; 2]) {
    let image = image_len(x.len(), shift.len(), [n, c]).max(1);
    parallel::for_each_part(x, image, |i, x| {
        let shift = &shift[i * c..][..c];
        for pixel in x.chunks_exact_mut(c) {
            pixel.iter_mut().zip(shift).for_each(|(x, shift)| *x += shift);
        }
    });
}

/// The sum of each channel of each image over its pixels: the gradient for the `shift` of [`shift`].
///
/// # Shapes
/// `x`: `[n, pixels, c]`; `sums`: `[n, c]`
///
/// # Panics
/// If a length is another.
pub fn sum_pixels(isa: Isa, x: &[f32], sums: &mut [f32], [n, c]: [usize; 2]) {
    let image = image_len(x.len(), sums.len(), [n, c]);
    parallel::for_each_part(sums, c, |i, sums| sum_image(isa, &x[i * image..][..image], sums));
}

/// Numbers of an image.
fn image_len(x: usize, of_channels: usize, [n, c]: [usize; 2]) -> usize {
    assert!(n > 0 && c > 0, "found {n} images of {c} channels, expected at least one of both");
    let image = x / n;
    let lens = [size::numbers("images", [n, image]), size::numbers("channels", [n, c])];
    assert_eq!([x, of_channels], lens, "found other lengths than {n} images of {c} channels have");
    assert!(image.is_multiple_of(c), "found images of {image} numbers in {c} channels");
    image
}

kernel! {
    fn sum_image<'a>(s; x: &'a [f32], sums: &'a mut [f32]) {
        let c = sums.len();
        // SAFETY: x has so many pixels and channels.
        unsafe { sum_terms(s, [x.len() / c, c], &mut Values(x), sums) };
    }
}

/// x ← factor·x
pub fn scale(x: &mut [f32], factor: f32) {
    parallel::for_each_part(x, PART, |_, x| x.iter_mut().for_each(|x| *x *= factor));
}

/// Zeros in the place of those numbers whose random number is below `rate`, the others divided by 1 − `rate`. Each image has its own
/// random numbers, in the order of its numbers.
///
/// # Shapes
/// `x`, `out`: `[at.len(), …]`
///
/// # Panics
/// If the lengths differ or are none of as many images.
pub fn dropout(isa: Isa, x: &[f32], at: &[Position], rate: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "found an output of another length than x");
    assert!(!at.is_empty() && x.len().is_multiple_of(at.len()), "found {} numbers of {} images", x.len(), at.len());
    let image = x.len() / at.len();
    if image == 0 {
        return;
    }
    /// Random numbers at a time, a multiple of those of a block of the generator.
    const AT_ONCE: usize = 4096;
    let factor = 1.0 / (1.0 - rate);
    parallel::for_each_part(out, image, |i, out| {
        let mut uniform = [0.0; AT_ONCE];
        for (k, (x, out)) in x[i * image..][..image].chunks(AT_ONCE).zip(out.chunks_mut(AT_ONCE)).enumerate() {
            let uniform = &mut uniform[..x.len()];
            random::fill_uniform(isa, at[i].after((k * AT_ONCE / 4) as u64), uniform);
            keep(isa, x, uniform, [rate, factor], out);
        }
    });
}

kernel! {
    /// out ← factor·x where `uniform` is not below the rate, else 0.
    fn keep<'a>(s; x: &'a [f32], uniform: &'a [f32], numbers: [f32; 2], out: &'a mut [f32]) {
        let [rate, factor] = numbers.map(|number| s.splat(number));
        let (zero, n) = (s.splat(0.0), out.len());
        for at in (0..n).step_by(S::LANES) {
            let end = n.min(at + S::LANES);
            let (x, u) = (s.load_some(&x[at..end]), s.load_some(&uniform[at..end]));
            s.store_some(&mut out[at..end], s.if_positive(s.sub(rate, u), zero, s.mul(x, factor)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 31 + seed * 17) % 101) as f32 / 10.0 - 5.0).collect()
    }

    #[test]
    fn what_is_joined_is_split_again() {
        for (pixels, [ca, cb]) in [(1, [1, 1]), (7, [3, 5]), (1000, [33, 8]), (0, [2, 2]), (3, [20_000, 1])] {
            let (a, b) = (numbers(pixels * ca, 1), numbers(pixels * cb, 2));
            let mut both = vec![f32::NAN; pixels * (ca + cb)];
            join(&a, &b, [ca, cb], &mut both);
            for (i, pixel) in both.chunks(ca + cb).enumerate() {
                assert_eq!((&pixel[..ca], &pixel[ca..]), (&a[i * ca..][..ca], &b[i * cb..][..cb]));
            }
            let (mut a_again, mut b_again) = (vec![f32::NAN; a.len()], vec![f32::NAN; b.len()]);
            split(&both, [ca, cb], &mut a_again, &mut b_again);
            assert_eq!((a, b), (a_again, b_again));
        }
    }

    #[test]
    fn a_shift_is_added_to_its_channel_and_its_gradient_is_the_sum() {
        for (n, pixels, c) in [(1, 1, 1), (3, 7, 5), (2, 300, 33), (2, 0, 4)] {
            let (x, by) = (numbers(n * pixels * c, 3), numbers(n * c, 4));
            let mut found = x.clone();
            shift(&mut found, &by, [n, c]);
            let image = pixels * c;
            for (k, (found, x)) in found.iter().zip(&x).enumerate() {
                assert_eq!(*found, x + by[k / image * c + k % c]);
            }
            for isa in Isa::available() {
                let mut sums = vec![f32::NAN; n * c];
                sum_pixels(isa, &x, &mut sums, [n, c]);
                for (k, sum) in sums.into_iter().enumerate() {
                    let of_channel = x[k / c * image..][..image].iter().skip(k % c).step_by(c);
                    let expected: f64 = of_channel.map(|&x| f64::from(x)).sum();
                    assert!((f64::from(sum) - expected).abs() < 1e-3, "{isa}: {sum}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn dropped_are_those_whose_random_number_is_below_the_rate() {
        let at: Vec<Position> = (0..3).map(|index| Position { key: [7, 9], index, block: 2 }).collect();
        for (isa, n) in Isa::available().into_iter().flat_map(|isa| [1, 5, 4096, 10_001].map(|n| (isa, n))) {
            let x = numbers(3 * n, 5);
            let mut found = vec![f32::NAN; 3 * n];
            dropout(isa, &x, &at, 0.3, &mut found);
            for (i, at) in at.iter().enumerate() {
                let mut uniform = vec![0.0; n];
                random::fill_uniform(Isa::Portable, *at, &mut uniform);
                for ((found, x), u) in found[i * n..][..n].iter().zip(&x[i * n..]).zip(uniform) {
                    assert_eq!(*found, if u >= 0.3 { x * (1.0 / 0.7) } else { 0.0 }, "{isa}");
                }
            }
        }
    }

    #[test]
    fn every_number_is_scaled() {
        let x = numbers(100_000, 6);
        let mut found = x.clone();
        scale(&mut found, 0.5);
        assert!(found.iter().zip(&x).all(|(found, x)| *found == 0.5 * x));
    }
}
