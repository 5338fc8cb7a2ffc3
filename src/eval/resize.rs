//! Images as Inception takes them: from bytes to a square of 299 pixels a side, in [−1, 1].
//!
//! The rule is part of a metric's definition: numbers of different rules are not comparable.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;

use crate::data::resize::{Filter, Taps, taps};
use crate::error::{Error, Result};

/// Red, green and blue.
const N_CHANNELS: usize = 3;

/// How images are resized and scaled for the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResizeRule {
    /// That of TTUR, OpenAI's inception score and torch-fidelity: TensorFlow 1's bilinear resize of the 0…255 values (output i lies at
    /// i·I/O, without half a pixel's offset), then (v − 128)/128. In f32, bit for bit.
    #[default]
    Compat,
    /// That of pytorch-fid: v/255, bilinear with half-pixel centres (output i lies at (i + ½)·I/O − ½, not below 0) and without antialias,
    /// even when shrinking, then 2v − 1. In f32, as PyTorch's `F.interpolate`.
    PytorchFid,
    /// That of clean-fid's mode "clean" (Parmar et al. 2022, "On Aliased Resizing and Surprising Subtleties in GAN Evaluation"): Pillow's
    /// bicubic resize with antialias of each channel as floats (mode "F"), clipped to 0…255, then (v − 128)/128.
    ///
    /// Source: `make_resizer` in clean-fid's `resize.py` and `InceptionV3W.forward` in its `inception_torchscript.py` (which leaves out
    /// the network's own resize, and does not divide by 255 before). Its first versions did not clip. Pillow sums in f64 and rounds to
    /// f32 after each pass, along x first; so do we, bit for bit.
    CleanFid,
}

impl ResizeRule {
    /// All of them.
    const ALL: [Self; 3] = [Self::Compat, Self::PytorchFid, Self::CleanFid];

    /// What is written beside a number: `resize=tf1`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Compat => "tf1",
            other => other.name(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Compat => "compat",
            Self::PytorchFid => "pytorch-fid",
            Self::CleanFid => "clean-fid",
        }
    }
}

impl fmt::Display for ResizeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ResizeRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::unexpected(format!("the resize rule {text:?}"), format!("one of {names}"))
        })
    }
}

/// Brings images of one size to a square, by one rule.
#[derive(Debug)]
pub struct Resizer {
    rule: ResizeRule,
    size: [usize; 2],
    side: usize,
    grids: Grids,
}

/// What each output row and each output column is made of.
#[derive(Debug)]
enum Grids {
    Bilinear { y: Vec<Between>, x: Vec<Between> },
    Bicubic { y: Vec<Taps<f64>>, x: Vec<Taps<f64>> },
}

/// A place between two input pixels, `d` of their distance away from `lo`.
#[derive(Clone, Copy, Debug)]
struct Between {
    lo: usize,
    hi: usize,
    d: f32,
}

impl Resizer {
    /// For images of `[height, width]`, which become `side` × `side`.
    ///
    /// # Panics
    /// If a side is 0.
    pub fn new(rule: ResizeRule, size: [usize; 2], side: usize) -> Self {
        let [height, width] = size;
        assert!(height > 0 && width > 0 && side > 0, "images of {height}×{width} to {side}×{side}");
        let bilinear = |position: fn(f32, f32) -> f32| Grids::Bilinear {
            y: between(height, side, position),
            x: between(width, side, position),
        };
        let grids = match rule {
            ResizeRule::Compat => bilinear(|i, scale| i * scale),
            ResizeRule::PytorchFid => bilinear(|i, scale| (scale * (i + 0.5) - 0.5).max(0.0)),
            ResizeRule::CleanFid => Grids::Bicubic {
                y: taps(Filter::Bicubic, height, side, 0..side),
                x: taps(Filter::Bicubic, width, side, 0..side),
            },
        };
        Self { rule, size, side, grids }
    }

    /// One image, `[3, height, width]`, written to `out`, `[3, side, side]`.
    ///
    /// # Panics
    /// If they have other lengths.
    pub fn image(&self, pixels_u8: &[u8], out: &mut [f32]) {
        let [height, width] = self.size;
        assert_eq!(pixels_u8.len(), N_CHANNELS * height * width, "bytes of an image of 3×{height}×{width}");
        assert_eq!(out.len(), self.out_len(), "numbers of an image of 3×{0}×{0}", self.side);
        let centred = |v: f32| (v - 128.0) / 128.0;
        for (plane, out) in pixels_u8.chunks_exact(height * width).zip(out.chunks_exact_mut(self.side * self.side)) {
            match (&self.grids, self.rule) {
                (Grids::Bicubic { y, x }, _) => {
                    bicubic(plane, [y, x], width, out, |v| centred(v.clamp(0.0, 255.0)));
                }
                (Grids::Bilinear { y, x }, ResizeRule::PytorchFid) => {
                    bilinear(plane, [y, x], width, out, |byte| f32::from(byte) / 255.0, |v| 2.0 * v - 1.0);
                }
                (Grids::Bilinear { y, x }, _) => bilinear(plane, [y, x], width, out, f32::from, centred),
            }
        }
    }

    /// Any number of images, `[n, 3, height, width]` to `[n, 3, side, side]`, on all cores.
    ///
    /// # Panics
    /// If `pixels_u8` are no whole images.
    pub fn batch(&self, pixels_u8: &[u8]) -> Vec<f32> {
        let [height, width] = self.size;
        let n_pixels = N_CHANNELS * height * width;
        assert!(pixels_u8.len().is_multiple_of(n_pixels), "{} bytes of images of 3×{height}×{width}", pixels_u8.len());
        let mut out = vec![0.0; pixels_u8.len() / n_pixels * self.out_len()];
        let pairs = pixels_u8.par_chunks_exact(n_pixels).zip(out.par_chunks_exact_mut(self.out_len()));
        pairs.for_each(|(image, out)| self.image(image, out));
        out
    }

    fn out_len(&self) -> usize {
        N_CHANNELS * self.side * self.side
    }
}

/// Where each of `n_out` pixels lies among `n_in`: `position` of its number and of the scale, in f32 as the programs have it.
fn between(n_in: usize, n_out: usize, position: fn(f32, f32) -> f32) -> Vec<Between> {
    let scale = n_in as f32 / n_out as f32;
    let place = |i: usize| {
        let position = position(i as f32, scale);
        let lo = (position as usize).min(n_in - 1);
        Between { lo, hi: (lo + 1).min(n_in - 1), d: position - lo as f32 }
    };
    (0..n_out).map(place).collect()
}

/// A plane of rows of `width` pixels: `start` of each pixel, along x, along y, `finish`.
fn bilinear(
    plane: &[u8],
    [y, x]: [&[Between]; 2],
    width: usize,
    out: &mut [f32],
    start: impl Fn(u8) -> f32,
    finish: impl Fn(f32) -> f32,
) {
    let side = x.len();
    let mut row_f32 = vec![0.0; width];
    let mut narrow = vec![0.0; plane.len() / width * side];
    for (row, narrow) in plane.chunks_exact(width).zip(narrow.chunks_exact_mut(side)) {
        row_f32.iter_mut().zip(row).for_each(|(v, &byte)| *v = start(byte));
        for (v, &Between { lo, hi, d }) in narrow.iter_mut().zip(x) {
            *v = row_f32[lo] + (row_f32[hi] - row_f32[lo]) * d;
        }
    }
    for (out, &Between { lo, hi, d }) in out.chunks_exact_mut(side).zip(y) {
        let (top, bottom) = (&narrow[lo * side..][..side], &narrow[hi * side..][..side]);
        for ((v, top), bottom) in out.iter_mut().zip(top).zip(bottom) {
            *v = finish(top + (bottom - top) * d);
        }
    }
}

/// A plane of rows of `width` pixels: along x, along y, `finish`. Sums are in f64, results of both passes in f32.
fn bicubic(plane: &[u8], [y, x]: [&[Taps<f64>]; 2], width: usize, out: &mut [f32], finish: impl Fn(f32) -> f32) {
    let side = x.len();
    let mut narrow = vec![0.0_f32; plane.len() / width * side];
    for (row, narrow) in plane.chunks_exact(width).zip(narrow.chunks_exact_mut(side)) {
        for (v, Taps { first, weights }) in narrow.iter_mut().zip(x) {
            let products = row[*first..].iter().zip(weights).map(|(&byte, weight)| f64::from(byte) * weight);
            *v = products.fold(0.0, |sum, product| sum + product) as f32;
        }
    }
    let mut sums = vec![0.0_f64; side];
    for (out, Taps { first, weights }) in out.chunks_exact_mut(side).zip(y) {
        sums.fill(0.0);
        for (row, weight) in narrow.chunks_exact(side).skip(*first).zip(weights) {
            for (sum, &v) in sums.iter_mut().zip(row) {
                *sum += f64::from(v) * weight;
            }
        }
        out.iter_mut().zip(&sums).for_each(|(v, &sum)| *v = finish(sum as f32));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ALL: [ResizeRule; 3] = ResizeRule::ALL;

    /// Three planes of the same pixels.
    fn grey(plane: &[u8]) -> Vec<u8> {
        plane.repeat(3)
    }

    fn ramp(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 97 % 256) as u8).collect()
    }

    fn resized(rule: ResizeRule, pixels_u8: &[u8], size: [usize; 2], side: usize) -> Vec<f32> {
        Resizer::new(rule, size, side).batch(pixels_u8)
    }

    /// What a rule makes of a pixel when nothing is resized.
    fn scaled(rule: ResizeRule, byte: u8) -> f32 {
        match rule {
            ResizeRule::PytorchFid => 2.0 * (f32::from(byte) / 255.0) - 1.0,
            _ => (f32::from(byte) - 128.0) / 128.0,
        }
    }

    #[test]
    fn names_are_read_as_they_are_written_and_others_are_refused_with_a_list() {
        for rule in ALL {
            assert_eq!(rule.to_string().parse::<ResizeRule>().unwrap(), rule);
        }
        assert_eq!(ALL.map(ResizeRule::label), ["tf1", "pytorch-fid", "clean-fid"]);
        let message = "tf".parse::<ResizeRule>().unwrap_err().to_string();
        assert_eq!(message, "found the resize rule \"tf\", expected one of compat, pytorch-fid, clean-fid");
    }

    #[test]
    fn an_image_of_the_networks_size_is_only_scaled() {
        let image = ramp(3 * 9 * 9);
        for rule in ALL {
            let expected: Vec<f32> = image.iter().map(|&byte| scaled(rule, byte)).collect();
            assert_eq!(resized(rule, &image, [9, 9], 9), expected, "{rule}");
        }
    }

    #[test]
    fn a_constant_image_stays_constant_at_every_size() {
        for rule in ALL {
            for byte in [0, 1, 127, 255] {
                for (height, width, side) in [(1, 1, 5), (7, 3, 20), (40, 9, 6), (2, 300, 1)] {
                    let image = vec![byte; 3 * height * width];
                    let expected = scaled(rule, byte);
                    for v in resized(rule, &image, [height, width], side) {
                        // Cubic weights sum to 1 but for rounding; linear ones are not summed.
                        let tolerance = if rule == ResizeRule::CleanFid { 1e-6 } else { 0.0 };
                        assert!((v - expected).abs() <= tolerance, "{rule}: {v} of {expected}, {height}×{width}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_ranges_are_those_of_the_programs() {
        let image = grey(&[0, 0, 255, 255, 0, 255]);
        for (rule, top) in ALL.into_iter().zip([127.0 / 128.0, 1.0, 127.0 / 128.0]) {
            let out = resized(rule, &image, [2, 3], 31);
            let (min, max) = out.iter().fold((f32::MAX, f32::MIN), |(min, max), &v| (min.min(v), max.max(v)));
            assert_eq!((min, max), (-1.0, top), "{rule}");
        }
    }

    #[test]
    fn channels_do_not_mix_and_images_of_a_batch_are_resized_as_alone() {
        let (n, size, side) = (5, [6, 4], 11);
        let images = ramp(n * 3 * 24);
        for rule in ALL {
            let resizer = Resizer::new(rule, size, side);
            let all = resizer.batch(&images);
            for (plane, out) in images.chunks_exact(24).zip(all.chunks_exact(side * side)) {
                assert_eq!(resizer.batch(&grey(plane))[..side * side], *out, "{rule}");
            }
            assert!(resizer.batch(&[]).is_empty());
        }
    }

    #[test]
    fn compat_is_the_formula_bit_for_bit() {
        for (height, width, side) in [(32, 32, 299), (28, 28, 299), (5, 7, 13), (64, 40, 13), (400, 299, 299)] {
            let image = ramp(3 * height * width);
            let found = resized(ResizeRule::Compat, &image, [height, width], side);
            let place = |i: usize, n_in: usize| {
                let p = i as f32 * (n_in as f32 / side as f32);
                let lo = p.floor() as usize;
                (lo, (lo + 1).min(n_in - 1), p - lo as f32)
            };
            for (i, v) in found.into_iter().enumerate() {
                let (c, y, x) = (i / (side * side), i / side % side, i % side);
                let ((lo_y, hi_y, d_y), (lo_x, hi_x, d_x)) = (place(y, height), place(x, width));
                let a = |y: usize, x: usize| f32::from(image[(c * height + y) * width + x]);
                let top = a(lo_y, lo_x) + (a(lo_y, hi_x) - a(lo_y, lo_x)) * d_x;
                let bottom = a(hi_y, lo_x) + (a(hi_y, hi_x) - a(hi_y, lo_x)) * d_x;
                let expected = (top + (bottom - top) * d_y - 128.0) / 128.0;
                assert_eq!(v.to_bits(), expected.to_bits(), "{height}×{width}, channel {c}, row {y}, column {x}");
            }
        }
    }

    #[test]
    fn shrinking_takes_single_pixels_for_two_rules_and_means_for_clean_fid() {
        // Of eight columns, TensorFlow's grid takes the first and the fifth, the half-pixel grid what is between the second and
        // the third, and between the sixth and the seventh.
        let image = grey(&[10, 200, 100, 40, 90, 0, 60, 250].repeat(8));
        let row = |rule| resized(rule, &image, [8, 8], 2)[..2].to_vec();
        assert_eq!(row(ResizeRule::Compat), [10, 90].map(|byte| scaled(ResizeRule::Compat, byte)));
        for (v, byte) in row(ResizeRule::PytorchFid).into_iter().zip([150, 30]) {
            assert!((v - scaled(ResizeRule::PytorchFid, byte)).abs() < 1e-6);
        }
        let stripes = grey(&[0, 255].repeat(512));
        assert!(resized(ResizeRule::Compat, &stripes, [32, 32], 8).iter().all(|&v| v == -1.0));
        for row in resized(ResizeRule::CleanFid, &stripes, [32, 32], 8).chunks_exact(8) {
            // Where the image's edge does not cut the filter.
            assert!(row[2..6].iter().all(|v| (v - (127.5 - 128.0) / 128.0).abs() < 0.01), "{row:?}");
        }
    }

    /// `Image.fromarray(plane.astype(numpy.float32)).resize((side, side), Image.BICUBIC)` in Pillow 9.5 and 13.0.
    #[test]
    fn clean_fid_is_pillows_bicubic_resize_of_floats_clipped() {
        let enlarged = [
            -0.13425253,
            -31.525486,
            128.53773,
            287.98865,
            255.4463,
            -10.714337,
            38.77575,
            122.06157,
            208.55634,
            264.079,
            1.7788461,
            158.78818,
            113.75,
            76.82501,
            249.08653,
            166.26328,
            240.9746,
            122.06157,
            6.3574815,
            87.10139,
            274.11102,
            281.80273,
            128.53773,
            -25.339586,
            -18.798985,
        ];
        let shrunk =
            [128.67288, 127.12225, 124.83489, 127.64022, 127.86328, 128.63272, 129.23589, 125.94438, 130.58438];
        let small = vec![0, 0, 255, 255, 10, 200, 30, 240, 255, 255, 0, 0];
        let large = (0..260).map(|i| ((i * 97 + i / 20 * 31) % 256) as u8).collect();
        let cases: [(Vec<u8>, _, _, &[f32]); 2] = [(small, [3, 4], 5, &enlarged), (large, [13, 20], 3, &shrunk)];
        for (plane, size, side, expected) in cases {
            let expected: Vec<f32> = expected.iter().map(|v| (v.clamp(0.0, 255.0) - 128.0) / 128.0).collect();
            assert_eq!(resized(ResizeRule::CleanFid, &grey(&plane), size, side)[..side * side], expected);
        }
    }
}
