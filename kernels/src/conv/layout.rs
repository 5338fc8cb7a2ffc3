//! Between images, `[channel][pixel]`, and what the products read and write, `[pixel][channel]`.

use super::ConvShape;
use crate::simd::Simd;

/// Where the pixels of an image go in its padded copy `[height][width][channels]`.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Size of the copy.
    pub size: [usize; 2],
    /// For each pixel of the image, its place in the copy; [`Frame::OUTSIDE`] if it is cropped.
    pub places: Vec<u32>,
    /// Stretches of the copy that are not of the image: first pixel and number of pixels.
    pub gaps: Vec<[usize; 2]>,
}

impl Frame {
    /// The place of a pixel that is cropped.
    pub const OUTSIDE: u32 = u32::MAX;

    /// The copy of `size` of an image of `image` pixels whose first pixel is at `offset`; a negative offset crops.
    pub fn new(image: [usize; 2], offset: [isize; 2], size: [usize; 2]) -> Self {
        let mut places = Vec::with_capacity(image[0] * image[1]);
        for y in 0..image[0] {
            for x in 0..image[1] {
                let inside =
                    |at: usize, axis: usize| at.checked_add_signed(offset[axis]).filter(|&moved| moved < size[axis]);
                let place = inside(y, 0).zip(inside(x, 1)).map(|(y, x)| (y * size[1] + x) as u32);
                places.push(place.unwrap_or(Self::OUTSIDE));
            }
        }
        assert!(size[0] * size[1] < Self::OUTSIDE as usize, "an image of {size:?} pixels");
        // Places ascend, so what lies between two of them is a gap.
        let mut gaps = Vec::new();
        let mut next = 0;
        let inside = places.iter().filter(|&&place| place != Self::OUTSIDE).map(|&place| place as usize);
        for place in inside.chain([size[0] * size[1]]) {
            if place > next {
                gaps.push([next, place - next]);
            }
            next = place + 1;
        }
        Self { size, places, gaps }
    }

    /// The image itself.
    pub fn plain(image: [usize; 2]) -> Self {
        Self::new(image, [0, 0], image)
    }

    /// Pixels of the copy.
    pub fn n_pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// Copies `image` `[channels][pixel]` to `copy` `[pixel][stride]`, zeros elsewhere. `stride` is `channels` rounded up to
    /// whole vectors.
    #[inline(always)]
    pub fn pack<S: Simd>(&self, s: S, image: &[f32], channels: usize, stride: usize, copy: &mut [f32]) {
        let n = self.places.len();
        assert!(image.len() >= channels * n && copy.len() >= self.n_pixels() * stride && stride >= channels);
        assert!(stride.is_multiple_of(S::LANES));
        for &[first, n] in &self.gaps {
            copy[first * stride..(first + n) * stride].fill(0.0);
        }
        if stride > padded::<S>(channels) {
            copy.chunks_exact_mut(stride).for_each(|pixel| pixel[channels..].fill(0.0));
        }
        for first_channel in (0..channels).step_by(S::LANES) {
            let n_channels = S::LANES.min(channels - first_channel);
            for (first_pixel, n_pixels) in chunks(n, S::LANES) {
                let mut rows = [s.splat(0.0); 16];
                for (i, row) in rows.iter_mut().enumerate().take(n_channels) {
                    *row = load_some(s, &image[(first_channel + i) * n + first_pixel..][..n_pixels]);
                }
                s.transpose(&mut rows);
                for (row, &place) in rows.iter().zip(&self.places[first_pixel..first_pixel + n_pixels]) {
                    if place != Self::OUTSIDE {
                        s.store(&mut copy[place as usize * stride + first_channel..], *row);
                    }
                }
            }
        }
    }
}

/// Copies `pixels` `[pixel][stride]` to `image` `[channels][pixel]`, plus `bias` of each channel, plus `residual`, laid out as
/// the image.
#[inline(always)]
pub fn unpack<S: Simd>(
    s: S,
    pixels: &[f32],
    stride: usize,
    n_pixels: usize,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    image: &mut [f32],
) {
    let channels = image.len() / n_pixels;
    assert!(pixels.len() >= n_pixels * stride && stride.is_multiple_of(S::LANES) && stride >= channels);
    for first_channel in (0..channels).step_by(S::LANES) {
        let n_channels = S::LANES.min(channels - first_channel);
        for (first, n) in chunks(n_pixels, S::LANES) {
            let mut rows = [s.splat(0.0); 16];
            for (i, row) in rows.iter_mut().enumerate().take(n) {
                *row = s.load(&pixels[(first + i) * stride + first_channel..]);
            }
            s.transpose(&mut rows);
            for (i, row) in rows.iter().enumerate().take(n_channels) {
                let at = (first_channel + i) * n_pixels + first;
                let mut v = *row;
                if let Some(bias) = bias {
                    v = s.add(v, s.splat(bias[first_channel + i]));
                }
                if let Some(residual) = residual {
                    v = s.add(v, load_some(s, &residual[at..at + n]));
                }
                match n == S::LANES {
                    true => s.store(&mut image[at..at + n], v),
                    false => s.store_first(&mut image[at..at + n], v),
                }
            }
        }
    }
}

/// A vector, or what there is of it.
#[inline(always)]
pub fn load_some<S: Simd>(s: S, x: &[f32]) -> S::V {
    if x.len() == S::LANES { s.load(x) } else { s.load_first(x) }
}

/// `n` in chunks of `lanes`, the last shifted back to be whole (some are then done twice) or shorter if `n` < `lanes`.
#[inline(always)]
fn chunks(n: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(lanes).map(move |first| (first.min(n.saturating_sub(lanes)), lanes.min(n)))
}

/// `n` rounded up to whole vectors.
#[inline(always)]
pub fn padded<S: Simd>(n: usize) -> usize {
    n.next_multiple_of(S::LANES)
}

/// Weights `[a][b][tap]` seen as those of a convolution from `b` channels to `a`, or of its transpose.
#[derive(Clone, Copy)]
pub struct Weights<'a> {
    values: &'a [f32],
    /// Numbers from one output channel to the next, from one input channel to the next.
    strides: [usize; 2],
    n_taps: usize,
    flipped: bool,
}

impl<'a> Weights<'a> {
    /// As they are.
    pub fn forward(values: &'a [f32], shape: &ConvShape) -> Self {
        let n_taps = shape.kernel[0] * shape.kernel[1];
        Self { values, strides: [shape.c_in * n_taps, n_taps], n_taps, flipped: false }
    }

    /// Of the convolution that gives the gradient of the input: channels exchanged, the kernel mirrored.
    pub fn mirrored(values: &'a [f32], shape: &ConvShape) -> Self {
        let n_taps = shape.kernel[0] * shape.kernel[1];
        Self { values, strides: [n_taps, shape.c_in * n_taps], n_taps, flipped: true }
    }

    /// With channels exchanged, taps in their order.
    pub fn exchanged(values: &'a [f32], shape: &ConvShape) -> Self {
        Self { flipped: false, ..Self::mirrored(values, shape) }
    }

    /// Taps of the kernel.
    pub fn n_taps(&self) -> usize {
        self.n_taps
    }

    /// One number.
    #[inline(always)]
    pub fn get(&self, out: usize, input: usize, tap: usize) -> f32 {
        let tap = if self.flipped { self.n_taps - 1 - tap } else { tap };
        self.values[out * self.strides[0] + input * self.strides[1] + tap]
    }

    /// The nine taps of a 3×3 kernel from `input` to the `n_out` channels from `first_out`, as vectors of these channels; other
    /// lanes are zero.
    #[inline(always)]
    pub fn nine_taps<S: Simd>(&self, s: S, first_out: usize, n_out: usize, input: usize) -> [S::V; 9] {
        let mut taps = [s.splat(0.0); 9];
        for first in (0..9).step_by(S::LANES) {
            let n = S::LANES.min(9 - first);
            let mut rows = [s.splat(0.0); 16];
            for (i, row) in rows.iter_mut().enumerate().take(n_out.min(S::LANES)) {
                let at = (first_out + i) * self.strides[0] + input * self.strides[1] + first;
                *row = load_some(s, &self.values[at..at + n]);
            }
            s.transpose(&mut rows);
            for (i, &row) in rows.iter().enumerate().take(n) {
                taps[if self.flipped { 8 - first - i } else { first + i }] = row;
            }
        }
        taps
    }
}

/// Writes vectors of channels as the nine taps of each channel, `stride` apart, as far as `out` reaches.
#[inline(always)]
pub fn store_nine_taps<S: Simd>(s: S, taps: [S::V; 9], stride: usize, out: &mut [f32]) {
    for first in (0..9).step_by(S::LANES) {
        let n = S::LANES.min(9 - first);
        let mut rows = [s.splat(0.0); 16];
        rows[..n].copy_from_slice(&taps[first..first + n]);
        s.transpose(&mut rows);
        for (i, row) in rows.iter().enumerate().take(S::LANES) {
            let at = i * stride + first;
            if at < out.len() {
                match n == S::LANES {
                    true => s.store(&mut out[at..at + n], *row),
                    false => s.store_first(&mut out[at..at + n], *row),
                }
            }
        }
    }
}
