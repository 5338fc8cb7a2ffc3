//! 8-bit images: resizing, cropping and conversion, bit for bit as Pillow and torchvision do them.
//!
//! The published models were trained on images prepared with Pillow, whose 8-bit arithmetic rounds after each of the
//! two passes; a floating-point resize would be off by one level in many pixels. The horizontal pass comes first, as in
//! the Pillow of their time. Pillow 13 may start with the vertical one; for sides in proportion that changes a
//! pixel only where rounding the longer side makes the two factors unequal, and by one level.

use std::ops::Range;

/// An 8-bit image in memory: rows from the top, the channels of a pixel side by side (HWC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// `height · width · channels` bytes.
    pub data: Vec<u8>,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
}

impl Pixels {
    /// An image of the given bytes, `height · width · channels` of them.
    ///
    /// # Panics
    /// If the sizes do not belong together, a side is 0, or `channels` is neither 1 nor 3.
    pub fn new(data: Vec<u8>, height: usize, width: usize, channels: usize) -> Pixels {
        assert!(channels == 1 || channels == 3, "{channels} channels: an image has 1 or 3");
        assert!(height > 0 && width > 0, "an image of {height}×{width} pixels");
        assert_eq!(data.len(), height * width * channels, "bytes of an image of {height}×{width}×{channels}");
        Pixels { data, height, width, channels }
    }

    /// An image from planes: `[channels, height, width]`, as networks and [`Source`](super::Source)s hold it.
    ///
    /// # Panics
    /// As [`Pixels::new`].
    pub fn from_chw(planes_u8: &[u8], [channels, height, width]: [usize; 3]) -> Pixels {
        let area = height * width;
        assert_eq!(planes_u8.len(), channels * area, "bytes of an image of {channels}×{height}×{width}");
        let data = (0..area).flat_map(|i| (0..channels).map(move |c| planes_u8[c * area + i])).collect();
        Pixels::new(data, height, width, channels)
    }

    /// The image as planes, `[channels, height, width]`.
    pub fn to_chw(&self) -> Vec<u8> {
        (0..self.channels).flat_map(|c| self.data.iter().skip(c).step_by(self.channels).copied()).collect()
    }

    /// The image with 1 or 3 channels: grey is repeated; colours become Pillow's "L", 0.299 R + 0.587 G + 0.114 B in
    /// 16-bit fixed point.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3.
    pub fn with_channels(self, channels: usize) -> Pixels {
        let data = match (self.channels, channels) {
            (from, to) if from == to => return self,
            (1, 3) => self.data.iter().flat_map(|&grey| [grey; 3]).collect(),
            (3, 1) => self.data.chunks_exact(3).map(|p| luma(p[0], p[1], p[2])).collect(),
            (from, to) => panic!("{from} channels cannot become {to}"),
        };
        Pixels::new(data, self.height, self.width, channels)
    }

    /// The image with every pixel as a square of `factor` × `factor` pixels, so that small images can be looked at.
    ///
    /// # Panics
    /// If `factor` is 0.
    pub fn enlarged(&self, factor: usize) -> Pixels {
        let mut data = Vec::with_capacity(self.data.len() * factor * factor);
        for row in self.data.chunks_exact(self.width * self.channels) {
            let wide: Vec<u8> = row.chunks_exact(self.channels).flat_map(|pixel| pixel.repeat(factor)).collect();
            data.extend(wide.repeat(factor));
        }
        Pixels::new(data, self.height * factor, self.width * factor, self.channels)
    }
}

fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// The network's input from an image of any size: `[channels, size, size]` bytes. Converts the channels, brings the
/// shorter side to `size` (enlarging small images), and crops the centre.
///
/// Only the part that the crop keeps is computed, so a very long image costs no more memory than it already took.
///
/// # Panics
/// If `size` is 0 or `channels` is neither 1 nor 3.
pub fn prepare(pixels: Pixels, channels: usize, size: usize) -> Vec<u8> {
    let pixels = pixels.with_channels(channels);
    let (height, width) = size_for_shorter_side(pixels.height, pixels.width, size);
    let (top, left) = (centre_offset(height, size), centre_offset(width, size));
    resize_part(&pixels, [height, width], top..top + size, left..left + size).to_chw()
}

/// The network's input from an image of any size: `[channels, size, size]` bytes, as LSUN's of 256 pixels in the program of Score-SDE.
/// Converts the channels, crops the central square, and brings it to `size` by Keys' cubic filter (a = −½) with antialias, in
/// floating point.
///
/// The filter overshoots at edges. Numbers become bytes by truncation as there, but are clamped first: there 256 becomes 0.
///
/// # Panics
/// If `size` is 0 or `channels` is neither 1 nor 3.
pub fn prepare_square(pixels: Pixels, channels: usize, size: usize) -> Vec<u8> {
    let side = pixels.height.min(pixels.width);
    let square = center_crop(&pixels.with_channels(channels), side, side);
    let taps = taps(Filter::Bicubic, side, size, 0..size);
    let mut out = Vec::with_capacity(channels * size * size);
    let mut narrow = vec![0.0; side * size];
    for plane in square.to_chw().chunks_exact(side * side) {
        for (row, narrow) in plane.chunks_exact(side).zip(narrow.chunks_exact_mut(size)) {
            for (x, Taps { first, weights }) in narrow.iter_mut().zip(&taps) {
                *x = weights.iter().zip(&row[*first..]).map(|(weight, &pixel)| weight * f64::from(pixel)).sum();
            }
        }
        for Taps { first, weights } in &taps {
            for column in 0..size {
                let rows = narrow.chunks_exact(size).skip(*first);
                let sum: f64 = weights.iter().zip(rows).map(|(weight, row)| weight * row[column]).sum();
                // Rounding must not take a level from a constant image.
                out.push((sum + 1e-6).clamp(0.0, 255.0) as u8);
            }
        }
    }
    out
}

/// The image at another size: bilinear with antialias, as Pillow's `resize(..., BILINEAR)`.
///
/// # Panics
/// If `height` or `width` is 0.
pub fn resize(pixels: &Pixels, height: usize, width: usize) -> Pixels {
    resize_part(pixels, [height, width], 0..height, 0..width)
}

/// The image with its shorter side brought to `size`, as torchvision's `Resize(size)`.
///
/// # Panics
/// If `size` is 0.
pub fn resize_shorter_side(pixels: &Pixels, size: usize) -> Pixels {
    let (height, width) = size_for_shorter_side(pixels.height, pixels.width, size);
    resize(pixels, height, width)
}

/// `(height, width)` with the shorter side brought to `size` and the longer one in proportion, rounded down.
fn size_for_shorter_side(height: usize, width: usize, size: usize) -> (usize, usize) {
    let (short, long) = (height.min(width), height.max(width));
    let long = size * long / short;
    if width <= height { (long, size) } else { (size, long) }
}

/// The middle `height` × `width` pixels, as torchvision's `CenterCrop`.
///
/// # Panics
/// If the image is smaller than that.
pub fn center_crop(pixels: &Pixels, height: usize, width: usize) -> Pixels {
    let (top, left) = (centre_offset(pixels.height, height), centre_offset(pixels.width, width));
    let n = pixels.channels;
    let rows = pixels.data.chunks_exact(pixels.width * n).skip(top).take(height);
    let data = rows.flat_map(|row| &row[left * n..(left + width) * n]).copied().collect();
    Pixels::new(data, height, width, n)
}

/// `round((n − n_crop) / 2)` with Python's rounding of halves to the even neighbour.
fn centre_offset(n: usize, n_crop: usize) -> usize {
    assert!(n_crop <= n, "a crop of {n_crop} pixels from {n}");
    let half = (n - n_crop) / 2;
    if (n - n_crop) % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// Bits behind the point of a coefficient: 32 minus 8 for the pixel, minus 2 so that sums cannot overflow.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// The input pixels from `first` on that one output pixel is made of, with their weights.
#[derive(Debug)]
pub(crate) struct Taps<W> {
    pub(crate) first: usize,
    pub(crate) weights: Vec<W>,
}

/// A filter of Pillow's.
#[derive(Clone, Copy)]
pub(crate) enum Filter {
    /// A triangle.
    Bilinear,
    /// Keys' cubic convolution with a = −½.
    Bicubic,
}

impl Filter {
    /// How far from its centre it is not 0.
    fn support(self) -> f64 {
        match self {
            Filter::Bilinear => 1.0,
            Filter::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Filter::Bilinear => (1.0 - x).max(0.0),
            Filter::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Filter::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5,
            Filter::Bicubic => 0.0,
        }
    }
}

/// The taps of output pixels `part` when `n_in` pixels become `n_out`, for each the weights with the sum 1. The filter is as wide as
/// an output pixel when that is wider than an input pixel (antialias). With `n_in == n_out` they are the identity.
pub(crate) fn taps(filter: Filter, n_in: usize, n_out: usize, part: Range<usize>) -> Vec<Taps<f64>> {
    let scale = n_in as f64 / n_out as f64;
    let filter_scale = scale.max(1.0);
    let support = filter.support() * filter_scale;
    part.map(|i| {
        let centre = (i as f64 + 0.5) * scale;
        // `as` saturates at 0, where Pillow clamps.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(n_in);
        let weight = |j: usize| filter.at((j as f64 - centre + 0.5) * (1.0 / filter_scale));
        let sum: f64 = (first..end).map(weight).sum();
        Taps { first, weights: (first..end).map(|j| weight(j) / sum).collect() }
    })
    .collect()
}

/// The taps of Pillow's bilinear filter for 8-bit images, in fixed point.
fn fixed_taps(n_in: usize, n_out: usize, part: Range<usize>) -> Vec<Taps<i32>> {
    let fixed = |weight: f64| (0.5 + weight * f64::from(1 << PRECISION_BITS)) as i32;
    let taps = taps(Filter::Bilinear, n_in, n_out, part).into_iter();
    taps.map(|Taps { first, weights }| Taps { first, weights: weights.into_iter().map(fixed).collect() }).collect()
}

fn to_pixel(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The `rows` and `columns` of the image resized to `[height, width]`: along x first, then along y.
fn resize_part(pixels: &Pixels, [height, width]: [usize; 2], rows: Range<usize>, columns: Range<usize>) -> Pixels {
    let (n_rows, n_columns, channels) = (rows.len(), columns.len(), pixels.channels);
    let vertical = fixed_taps(pixels.height, height, rows);
    let horizontal = fixed_taps(pixels.width, width, columns);
    let first_row = vertical.first().map_or(0, |t| t.first);
    let end_row = vertical.last().map_or(0, |t| t.first + t.weights.len());

    let narrow_len = n_columns * channels;
    let mut narrow = Vec::with_capacity((end_row - first_row) * narrow_len);
    for row in pixels.data.chunks_exact(pixels.width * channels).take(end_row).skip(first_row) {
        for Taps { first, weights } in &horizontal {
            let mut sums = [HALF; 3];
            for (pixel, weight) in row[first * channels..].chunks_exact(channels).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(value);
                }
            }
            narrow.extend(sums[..channels].iter().map(|&sum| to_pixel(sum)));
        }
    }

    let mut data = Vec::with_capacity(n_rows * narrow_len);
    let mut sums = vec![0; narrow_len];
    for Taps { first, weights } in &vertical {
        sums.fill(HALF);
        for (row, weight) in narrow.chunks_exact(narrow_len).skip(first - first_row).zip(weights) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += weight * i32::from(value);
            }
        }
        data.extend(sums.iter().map(|&sum| to_pixel(sum)));
    }
    Pixels::new(data, n_rows, n_columns, channels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(height: usize, width: usize, channels: usize) -> Pixels {
        let data = (0..height * width * channels).map(|i| (i * 37 % 251) as u8).collect();
        Pixels::new(data, height, width, channels)
    }

    #[test]
    fn resizing_to_the_same_size_changes_nothing() {
        let image = ramp(13, 7, 3);
        assert_eq!(resize(&image, 13, 7), image);
    }

    #[test]
    fn a_constant_image_stays_constant_at_every_size() {
        for value in [0, 1, 127, 254, 255] {
            let image = Pixels::new(vec![value; 17 * 23], 17, 23, 1);
            for (height, width) in [(1, 1), (5, 40), (17, 22), (100, 3)] {
                assert!(resize(&image, height, width).data.iter().all(|&v| v == value), "{value} at {height}×{width}");
            }
        }
    }

    #[test]
    fn prepare_is_resize_and_then_crop() {
        for (height, width, size) in [(40, 61, 16), (61, 40, 17), (9, 30, 20), (8, 8, 8), (5, 4, 8)] {
            let image = ramp(height, width, 3);
            let slow = center_crop(&resize_shorter_side(&image, size), size, size);
            assert_eq!(prepare(image, 3, size), slow.to_chw(), "{height}×{width} to {size}");
        }
    }

    #[test]
    fn the_square_of_an_image_of_its_size_is_its_middle() {
        let image = ramp(9, 12, 3);
        assert_eq!(prepare_square(image.clone(), 3, 9), center_crop(&image, 9, 9).to_chw());
        for value in [0, 1, 127, 254, 255] {
            let image = Pixels::new(vec![value; 31 * 40], 31, 40, 1);
            assert!(
                [8, 31, 50].iter().all(|&size| prepare_square(image.clone(), 3, size) == vec![value; 3 * size * size])
            );
        }
    }

    #[test]
    fn a_square_is_the_weighted_sum_of_its_pixels_truncated_and_clamped() {
        // Two columns of four become one of two; Keys' filter at ±½, ±1½ half pixels of the output, beside the sum 2.
        let image = Pixels::new([10, 20, 200, 250].repeat(4), 4, 4, 1);
        let keys = |x: f64| {
            let x = f64::abs(x);
            let near = 1.5 * x.powi(3) - 2.5 * x.powi(2) + 1.0;
            let far = -0.5 * x.powi(3) + 2.5 * x.powi(2) - 4.0 * x + 2.0;
            if x < 1.0 {
                near
            } else if x < 2.0 {
                far
            } else {
                0.0
            }
        };
        let expected = [0, 1].map(|i| {
            let weights = [0, 1, 2, 3].map(|j| keys((f64::from(j) + 0.5) / 2.0 - (f64::from(i) + 0.5)));
            let sum: f64 = weights.iter().zip([10.0, 20.0, 200.0, 250.0]).map(|(weight, pixel)| weight * pixel).sum();
            (sum / weights.iter().sum::<f64>()) as u8
        });
        assert_eq!(prepare_square(image, 1, 2), [expected, expected].concat());
        // A white line on black overshoots on both sides when it is enlarged.
        let line = Pixels::new([0, 0, 255, 255, 0, 0].repeat(6), 6, 6, 1);
        let row = &prepare_square(line, 1, 24)[..24];
        assert!(row[4..8].contains(&0) && row[11..13] == [255, 255] && !row[..4].contains(&255), "{row:?}");
    }

    #[test]
    fn a_one_pixel_wide_image_of_extreme_length_is_prepared_without_its_full_enlargement() {
        // Enlarged in full this would take 64 · 64 · 60000 = 246 MB; the part takes 64 · 64.
        let image = Pixels::new(vec![9; 60_000], 60_000, 1, 1);
        assert_eq!(prepare(image, 1, 64), vec![9; 64 * 64]);
    }

    #[test]
    fn grey_is_pillows_l() {
        // Image.new("RGB", (1, 1), colour).convert("L") in Pillow.
        for (colour, grey) in [([255, 255, 255], 255), ([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29)] {
            assert_eq!(Pixels::new(colour.to_vec(), 1, 1, 3).with_channels(1).data, [grey]);
        }
        assert_eq!(Pixels::new(vec![5, 6], 1, 2, 1).with_channels(3).data, [5, 5, 5, 6, 6, 6]);
    }

    #[test]
    fn planes_and_pixels_are_inverse() {
        let image = ramp(4, 5, 3);
        assert_eq!(Pixels::from_chw(&image.to_chw(), [3, 4, 5]), image);
        assert_eq!(Pixels::from_chw(&[1, 2, 3, 4, 5, 6], [3, 1, 2]).data, [1, 3, 5, 2, 4, 6]);
    }

    #[test]
    fn enlarging_repeats_each_pixel() {
        let image = Pixels::new(vec![1, 2], 1, 2, 1);
        assert_eq!(image.enlarged(2), Pixels::new(vec![1, 1, 2, 2, 1, 1, 2, 2], 2, 4, 1));
    }
}
