//! The gradient of the weights: a sum over pixels, and over images in their order.

use super::super::ConvShape;
use super::super::direct::Plan;
use super::super::tiles::{BLOCK, Block, Conversion, Products, Rows, Unit, Work};
use super::{TERMS, halves, halves_mut};
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;

/// Numbers of bf16 of laid out images that are kept at a time for the gradient of the weights: 16 MB. It decides in which order
/// sums are rounded, so it does not depend on the machine.
const AT_ONCE: usize = 8 << 20;

/// Where the operands of the gradient of the weights are.
#[derive(Clone, Copy)]
struct Planes {
    /// Of the input, and of the output's gradient.
    channels: [usize; 2],
    size: [usize; 2],
    out_size: [usize; 2],
    padding: [usize; 2],
    /// Numbers from a row of pixels to the next.
    width: usize,
    /// Terms of the sum over an image: from the first pixel of the gradient to the last, padded.
    terms: usize,
    /// Numbers of a plane of the input.
    pitch: usize,
}

impl Planes {
    fn of(shape: &ConvShape, plan: &Plan) -> Self {
        let (out_size, width) = (shape.out_size(), plan.frame.size[1]);
        let terms = ((out_size[0] - 1) * width + out_size[1]).next_multiple_of(TERMS);
        let last_tap = plan.phases[0].taps.iter().map(|&(offset, _)| offset).max().unwrap_or(0);
        // Vectors that begin inside the image may end a whole one behind it. An odd number of cache lines, so that the 16 rows
        // of a tile do not fall into the same set of the first-level cache.
        let lines = (plan.frame.n_pixels() + TERMS).max(last_tap + terms).div_ceil(TERMS);
        let (channels, padding) = ([shape.c_in, shape.c_out], shape.padding);
        Self { channels, size: shape.size, out_size, padding, width, terms, pitch: (lines | 1) * TERMS }
    }

    /// Numbers of the input and of the output's gradient of one image.
    fn lens(&self) -> [usize; 2] {
        let [rows, columns] = self.channels.map(|channels| channels.next_multiple_of(16));
        [rows * self.pitch, columns * self.terms]
    }
}

/// The gradient of the weights, see [`super::weight_gradient`].
///
/// # Panics
/// If the stride is not 1: pixels that meet would not be neighbours.
pub fn weight_gradient(unit: Unit, shape: &ConvShape, x: &[f32], grad: &[f32]) -> Vec<f32> {
    assert_eq!(shape.stride, 1, "the stride of a gradient in bf16");
    let ConvShape { n, c_in, c_out, kernel, .. } = *shape;
    let n_taps = kernel[0] * kernel[1];
    let plan = Plan::forward(shape);
    let planes = Planes::of(shape, &plan);
    let [x_len, grad_len] = [shape.input_len() / n.max(1), shape.output_len() / n.max(1)];
    let [a_len, b_len] = planes.lens();
    let at_once = (AT_ONCE / (a_len + b_len)).clamp(1, n.max(1));
    let [n_rows, n_columns] = [c_in, c_out].map(|channels| channels.div_ceil(32));
    let lens = [at_once * a_len / 2, at_once * b_len / 2, n_rows * n_columns * n_taps * BLOCK];
    let mut scratch = Scratch::take(lens);
    let [a, b, sums] = scratch.pieces(lens);
    if n == 0 {
        sums.fill(0.0);
    }
    for first in (0..n).step_by(at_once) {
        let n_images = at_once.min(n - first);
        let a_parts = a.chunks_mut(a_len / 2).take(n_images).enumerate().map(|(i, part)| (true, i, part));
        let b_parts = b.chunks_mut(b_len / 2).take(n_images).enumerate().map(|(i, part)| (false, i, part));
        parallel::for_each_of(a_parts.chain(b_parts).collect(), |(is_input, i, out)| match is_input {
            true => unit.run(InputPlanes { planes, x: &x[(first + i) * x_len..][..x_len], out }),
            false => unit.run(GradientPairs { planes, grad: &grad[(first + i) * grad_len..][..grad_len], out }),
        });
        let (a, b, plan) = (halves(a), halves(b), &plan);
        // The taps of a row of the kernel.
        parallel::for_each_part(sums, kernel[1] * BLOCK, |i, sums| {
            let (block, tap) = (i / kernel[0], i % kernel[0] * kernel[1]);
            let at = [block / n_columns, block % n_columns];
            let taps = &plan.phases[0].taps[tap..tap + kernel[1]];
            unit.run(Sums { planes, a, b, n_images, at, taps, add: first > 0, sums });
        });
    }
    let mut out = vec![0.0; shape.weight_len()];
    let sums = &*sums;
    parallel::for_each_part(&mut out, 16 * c_in * n_taps, |column, out| {
        unit.run(Finish { sums, channels: [c_in, c_out], n_taps, column, out });
    });
    out
}

/// Two pixels, of which either may be missing, as pairs of some channels from `channel`; zeros for channels that do not exist.
#[inline(always)]
fn pairs_of<C: Conversion>(
    conversion: C,
    image: &[f32],
    channels: usize,
    pixels: [Option<usize>; 2],
    channel: usize,
) -> <C::S as Simd>::V {
    let s = conversion.simd();
    let n = C::S::LANES.min(channels.saturating_sub(channel));
    let mut values = [s.splat(0.0); 2];
    for (values, pixel) in values.iter_mut().zip(pixels) {
        if let Some(pixel) = pixel {
            *values = s.load_some(&image[pixel * channels + channel.min(channels)..][..n]);
        }
    }
    conversion.pairs(values[0], values[1])
}

/// The input of one image as A: bf16 `[channel][pitch]`, channels in whole tiles, rows of pixels `width` apart, zeros elsewhere.
struct InputPlanes<'a> {
    planes: Planes,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for InputPlanes<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Planes { channels: [c_in, _], size, padding, width, pitch, .. } = self.planes;
        let (conversion, lanes) = (products.conversion(), <P::C as Conversion>::S::LANES);
        let s = conversion.simd();
        self.out.fill(0.0);
        let out = halves_mut(self.out);
        for channel in (0..c_in).step_by(lanes) {
            for y in 0..size[0] {
                for x in (0..size[1]).step_by(2 * lanes) {
                    // A square of channels and pairs of pixels. Zeros behind the row's end fall into the gap, or where the next row
                    // is about to be written.
                    let pixel = |x: usize| (x < size[1]).then_some(y * size[1] + x);
                    let mut square = [s.splat(0.0); 16];
                    for (i, pairs) in square.iter_mut().enumerate().take(lanes) {
                        let pixels = [pixel(x + 2 * i), pixel(x + 2 * i + 1)];
                        *pairs = pairs_of(conversion, self.x, c_in, pixels, channel);
                    }
                    s.transpose(&mut square);
                    for (i, &pairs) in square.iter().enumerate().take(lanes.min(c_in - channel)) {
                        let at = (channel + i) * pitch + (padding[0] + y) * width + padding[1] + x;
                        let to = &mut out[at..][..2 * lanes];
                        // SAFETY: there is room for 2 · LANES numbers of 2 bytes, which are a vector.
                        unsafe { s.store_ptr(to.as_mut_ptr().cast(), pairs) };
                    }
                }
            }
        }
    }
}

/// The gradient of the output of one image as B: bf16 `[16 channels][pixel / 2][channel][2]`, channels in whole tiles, rows of
/// pixels `width` apart, zeros elsewhere.
struct GradientPairs<'a> {
    planes: Planes,
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl Work for GradientPairs<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Planes { channels: [_, c_out], out_size, width, terms, .. } = self.planes;
        let (conversion, lanes) = (products.conversion(), <P::C as Conversion>::S::LANES);
        let s = conversion.simd();
        let pixel = |at: usize| {
            let (y, x) = (at / width, at % width);
            (y < out_size[0] && x < out_size[1]).then_some(y * out_size[1] + x)
        };
        for pair in 0..terms / 2 {
            let pixels = [pixel(2 * pair), pixel(2 * pair + 1)];
            for channel in (0..c_out.next_multiple_of(16)).step_by(lanes) {
                let to = channel / 16 * 16 * terms / 2 + pair * 16 + channel % 16;
                s.store(&mut self.out[to..], pairs_of(conversion, self.grad, c_out, pixels, channel));
            }
        }
    }
}

/// The products of 32 channels of the input with 32 of the gradient at some taps, added over images in their order.
struct Sums<'a> {
    planes: Planes,
    a: &'a [u16],
    b: &'a [u16],
    n_images: usize,
    /// Which 32 channels of each.
    at: [usize; 2],
    taps: &'a [(usize, usize)],
    /// Whether to what is there.
    add: bool,
    sums: &'a mut [f32],
}

impl Work for Sums<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { planes, a, b, n_images, at, taps, add, sums } = self;
        let [a_len, b_len] = planes.lens();
        let rows = |i: usize| {
            let first = 32 * at[0] + 16 * i;
            Rows { at: first * planes.pitch, n: 16.min(planes.channels[0].saturating_sub(first)) }
        };
        let column = |i: usize| (32 * at[1] + 16 * i) * planes.terms;
        let (runs, columns) = ([rows(0), rows(1)], [column(0), column(1)]);
        let runs = &runs[..1 + usize::from(runs[1].n > 0)];
        let columns = &columns[..1 + usize::from(planes.channels[1] > 32 * at[1] + 16)];
        for image in 0..n_images {
            let (a, b) = (&a[image * a_len..][..a_len], &b[image * b_len..][..b_len]);
            for (&(offset, _), sums) in taps.iter().zip(sums.chunks_exact_mut(BLOCK)) {
                let segments = [[offset, 0]];
                let block = Block { a, runs, row: planes.pitch, b, columns, segments: &segments, len: planes.terms };
                products.multiply(&block, add || image > 0, sums);
            }
        }
    }
}

/// The gradient of the weights to 16 output channels, `[channel, c_in, taps]`, from all sums
/// `[32 inputs][32 outputs][tap][16 inputs][16 outputs][input][output]`.
struct Finish<'a> {
    sums: &'a [f32],
    channels: [usize; 2],
    n_taps: usize,
    column: usize,
    out: &'a mut [f32],
}

impl Work for Finish<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { sums, channels: [c_in, c_out], n_taps, column, out } = self;
        let s = products.conversion().simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let (n, n_columns) = (c_in * n_taps, c_out.div_ceil(32));
        for first in (0..n).step_by(lanes) {
            let some = lanes.min(n - first);
            for lane in (0..16).step_by(lanes) {
                let mut rows = [s.splat(0.0); 16];
                for (k, row) in rows.iter_mut().enumerate().take(some) {
                    let (input, tap) = ((first + k) / n_taps, (first + k) % n_taps);
                    let block = (input / 32 * n_columns + column / 2) * n_taps + tap;
                    let tile = 4 * block + 2 * (input / 16 % 2) + column % 2;
                    *row = s.load(&sums[(16 * tile + input % 16) * 16 + lane..]);
                }
                s.transpose(&mut rows);
                for (k, row) in rows.iter().enumerate().take(lanes.min((c_out - 16 * column).saturating_sub(lane))) {
                    s.store_first(&mut out[(lane + k) * n + first..][..some], *row);
                }
            }
        }
    }
}
