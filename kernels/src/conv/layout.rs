//! Copies of images with zeros around them, and weights as the products read them.

use super::ConvShape;
use crate::simd::Simd;

/// How an image is copied to a larger place, `[height][width][channels]` each.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Size of the copy.
    pub size: [usize; 2],
    /// What is copied.
    pub runs: Vec<Run>,
    /// Stretches of the copy that are not of the image: first pixel and number of pixels.
    pub gaps: Vec<[usize; 2]>,
}

/// Pixels that follow each other in the image and in its copy.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The first in the image.
    pub from: usize,
    /// The first in the copy.
    pub to: usize,
    /// How many.
    pub n: usize,
}

impl Frame {
    /// The copy of `size` of an image of `image` pixels with `before` zeros above and left of it; what does not fit is left out.
    pub fn new(image: [usize; 2], before: [usize; 2], size: [usize; 2]) -> Self {
        let n = image[1].min(size[1].saturating_sub(before[1]));
        let mut runs = Vec::<Run>::new();
        // Of a copy that ends before the image begins, no row has a place in it.
        let n_rows = if n > 0 { image[0].min(size[0].saturating_sub(before[0])) } else { 0 };
        for y in 0..n_rows {
            let run = Run { from: y * image[1], to: (before[0] + y) * size[1] + before[1], n };
            match runs.last_mut() {
                Some(last) if last.from + last.n == run.from && last.to + last.n == run.to => last.n += n,
                _ => runs.push(run),
            }
        }
        let mut gaps = Vec::new();
        let mut next = 0;
        for [first, end] in runs.iter().map(|run| [run.to, run.to + run.n]).chain([[size[0] * size[1]; 2]]) {
            if first > next {
                gaps.push([next, first - next]);
            }
            next = end;
        }
        Self { size, runs, gaps }
    }

    /// Pixels of the copy.
    pub fn n_pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// `image` `[pixel][channels]` as `[pixel][stride]`, zeros where there is nothing: copied to `copy` unless it is so already.
    #[inline(always)]
    pub fn pack<'a>(&self, image: &'a [f32], channels: usize, stride: usize, copy: &'a mut [f32]) -> &'a [f32] {
        if stride == channels && self.gaps.is_empty() && image.len() == self.n_pixels() * channels {
            return image;
        }
        for &[first, n] in &self.gaps {
            copy[first * stride..(first + n) * stride].fill(0.0);
        }
        for &Run { from, to, n } in &self.runs {
            let (from, to) = (&image[from * channels..][..n * channels], &mut copy[to * stride..][..n * stride]);
            if stride == channels {
                to.copy_from_slice(from);
                continue;
            }
            for (from, to) in from.chunks_exact(channels).zip(to.chunks_exact_mut(stride)) {
                to[..channels].copy_from_slice(from);
                to[channels..].fill(0.0);
            }
        }
        copy
    }
}

/// Writes rows of sums, `width` channels from `first` each, to pixels `every` apart, as far as the channels exist, plus bias and
/// residual.
#[inline(always)]
pub fn write_rows<S: Simd>(
    s: S,
    sums: &[f32],
    width: usize,
    [pixel, every]: [usize; 2],
    [first, c_out]: [usize; 2],
    [bias, residual]: [Option<&[f32]>; 2],
    out: &mut [f32],
) {
    let (n_rows, step) = (sums.len() / width, every * c_out);
    for (vector, channel) in (first..c_out.min(first + width)).step_by(S::LANES).enumerate() {
        let (n, at) = (S::LANES.min(c_out - channel), pixel * c_out + channel);
        let (sums, out) = (&sums[vector * S::LANES..], &mut out[at..]);
        let bias = match bias {
            Some(bias) => s.load_some(&bias[channel..channel + n]),
            None => s.splat(0.0),
        };
        let residual = residual.map(|residual| &residual[at..]);
        for row in 0..n_rows {
            let mut v = s.add(s.load(&sums[row * width..]), bias);
            if let Some(residual) = residual {
                v = s.add(v, s.load_some(&residual[row * step..][..n]));
            }
            s.store_some(&mut out[row * step..][..n], v);
        }
    }
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

    /// Whether the output channels of an input channel follow each other in memory, not the other way round.
    pub fn is_exchanged(&self) -> bool {
        self.strides[0] < self.strides[1]
    }

    /// The taps between two channels, in the order of memory.
    #[inline(always)]
    pub fn taps(&self, out: usize, input: usize) -> &'a [f32] {
        &self.values[out * self.strides[0] + input * self.strides[1]..][..self.n_taps]
    }

    /// The nine taps of a 3×3 kernel from `input` to the `n_out` channels from `first_out`, as vectors of these channels; other
    /// lanes are zero.
    #[inline(always)]
    pub fn nine_taps<S: Simd>(&self, s: S, first_out: usize, n_out: usize, input: usize) -> [S::V; 9] {
        let mut taps = [s.splat(0.0); 9];
        for first in (0..9).step_by(S::LANES) {
            let n = S::LANES.min(9 - first);
            let mut rows = [s.splat(0.0); 16];
            // A fixed number of rows, so that they stay in registers.
            for (i, row) in rows.iter_mut().enumerate().take(S::LANES) {
                if i < n_out {
                    let at = (first_out + i) * self.strides[0] + input * self.strides[1] + first;
                    *row = s.load_some(&self.values[at..at + n]);
                }
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
        let mut some = [s.splat(0.0); 16];
        some[..n].copy_from_slice(&taps[first..first + n]);
        store_taps(s, some, n, stride, &mut out[first..]);
    }
}

/// Writes the first `n` vectors of channels, at most `LANES`, as so many numbers of each channel, `stride` apart, as far as `out`
/// reaches.
#[inline(always)]
pub fn store_taps<S: Simd>(s: S, mut taps: [S::V; 16], n: usize, stride: usize, out: &mut [f32]) {
    s.transpose(&mut taps);
    for (i, channel) in taps.iter().enumerate().take(S::LANES) {
        let at = i * stride;
        if at < out.len() {
            s.store_some(&mut out[at..at + n], *channel);
        }
    }
}
