//! The gradient of the weights: a sum over pixels, and over images in their order.
//!
//! Rows of A are channels of the output's gradient, columns of B those of the input, and pixels are the terms. A tap shifts where
//! B begins, by whole pairs of pixels: rows of pixels have an even width there, and pairs begin at even pixels in one copy and, where
//! a tap needs it, at odd ones in another. So no row of a tile crosses from one cache line to the next, which would take three
//! times as long to load.

use std::ops::Range;

use super::super::ConvShape;
use super::super::direct::Plan;
use super::super::layout::store_taps;
use super::super::tiles::{BLOCK, Block, Conversion, Lines, Parts, Products, TERMS, Work};
use super::{LINE, Method, halves, split, store_pairs};
use crate::amx::{ROWS, TILE};
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;

/// Numbers of bf16 of laid out images that are kept at a time, 768 KB, for the second-level cache. It decides in which order sums
/// are rounded, so it does not depend on the machine.
const AT_ONCE: usize = 384 << 10;

/// Sums that a task keeps at the most, 640 KB, for the same cache.
const SUMS_AT_ONCE: usize = 160 << 10;

/// Sums of all groups of images at the most, but for one group: more would take longer to write than to compute.
const SUMS_OF_GROUPS: usize = 1280 << 10;

/// The largest number of groups.
const N_GROUPS: usize = 32;

/// So many tasks there are at least, if there are as many images and channels enough.
const N_TASKS: usize = 8;

/// In the place of a pixel where there is none.
const OUTSIDE: usize = usize::MAX;

/// Where everything of one image is.
struct Layout {
    parts: Parts,
    /// Channels of the input and of the gradient.
    channels: [usize; 2],
    /// The pixel of the gradient at each term.
    grad_pixels: Vec<usize>,
    /// The pixel of the input at each place that a tap shifts a term to.
    x_pixels: Vec<usize>,
    /// Copies of the input: one, or two if there are taps by odd numbers of pixels.
    n_copies: usize,
    /// Pairs of a copy.
    n_pairs: usize,
    /// Of each tap: which copy, and the pair that the first term meets.
    taps: Vec<[usize; 2]>,
}

impl Layout {
    fn of(parts: Parts, shape: &ConvShape) -> Self {
        let ConvShape { size, kernel, padding, dilation, .. } = *shape;
        let out_size = shape.out_size();
        let width = Plan::forward(shape).frame.size[1].next_multiple_of(2);
        let n_terms = ((out_size[0] - 1) * width + out_size[1]).next_multiple_of(TERMS);
        let offset = |tap: usize| (tap / kernel[1] * width + tap % kernel[1]) * dilation;
        let n_taps = kernel[0] * kernel[1];
        let n_pairs = (n_terms + offset(n_taps - 1)) / 2;
        let grad_pixels = (0..n_terms).map(|term| match (term / width, term % width) {
            (y, x) if y < out_size[0] && x < out_size[1] => y * out_size[1] + x,
            _ => OUTSIDE,
        });
        // One more than pairs have, for those that begin at odd pixels.
        let x_pixels = (0..2 * n_pairs + 1).map(|place| {
            match ((place / width).checked_sub(padding[0]), (place % width).checked_sub(padding[1])) {
                (Some(y), Some(x)) if y < size[0] && x < size[1] => y * size[1] + x,
                _ => OUTSIDE,
            }
        });
        let taps: Vec<[usize; 2]> = (0..n_taps).map(|tap| [offset(tap) % 2, offset(tap) / 2]).collect();
        let n_copies = 1 + usize::from(taps.iter().any(|&[copy, _]| copy == 1));
        let (grad_pixels, x_pixels) = (grad_pixels.collect(), x_pixels.collect());
        Self { parts, channels: [shape.c_in, shape.c_out], grad_pixels, x_pixels, n_copies, n_pairs, taps }
    }

    /// Numbers of bf16 of 16 channels of the gradient.
    fn a_len(&self) -> usize {
        self.grad_pixels.len() * 16 * self.parts as usize
    }

    /// Numbers of bf16 of a copy of 16 channels of the input.
    fn b_len(&self) -> usize {
        self.n_pairs * TERMS * self.parts as usize
    }
}

/// How the sum is cut: groups of images, and strips of the input's channels, each times 32.
#[derive(Clone, Copy)]
struct Cut {
    images_in_group: usize,
    n_groups: usize,
    /// Times 32 channels of a strip, the last perhaps fewer; and of all.
    strip: usize,
    n_columns: usize,
    n_strips: usize,
    /// Numbers of 32 channels of the input.
    column_len: usize,
}

impl Cut {
    fn of(shape: &ConvShape) -> Self {
        let column_len = shape.c_out.div_ceil(32) * shape.kernel[0] * shape.kernel[1] * BLOCK;
        let n_columns = shape.c_in.div_ceil(32);
        let most_groups = SUMS_OF_GROUPS / (n_columns * column_len);
        let images_in_group = shape.n.div_ceil(most_groups.clamp(1, N_GROUPS)).max(1);
        let n_groups = shape.n.div_ceil(images_in_group).max(1);
        let most = (SUMS_AT_ONCE / column_len).clamp(1, n_columns);
        let mut strip = n_columns.div_ceil(n_columns.div_ceil(most));
        while strip > 1 && n_groups * n_columns.div_ceil(strip) < shape.n.min(N_TASKS) {
            strip = strip.div_ceil(2);
        }
        Self { images_in_group, n_groups, strip, n_columns, n_strips: n_columns.div_ceil(strip), column_len }
    }

    /// Times 32 channels of the input.
    fn columns(&self, strip: usize) -> Range<usize> {
        strip * self.strip..self.n_columns.min((strip + 1) * self.strip)
    }
}

/// The gradient of the weights, see [`super::weight_gradient`].
///
/// # Panics
/// If the stride is not 1: pixels that meet would not be neighbours.
pub fn weight_gradient(method: Method, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    assert_eq!(shape.stride, 1, "the stride of a gradient in bf16");
    let layout = Layout::of(method.parts, shape);
    let cut = Cut::of(shape);
    let lens = [cut.n_groups * cut.n_columns * cut.column_len];
    let mut scratch = Scratch::take(lens);
    let [sums] = scratch.pieces(lens);
    if shape.n == 0 {
        sums.fill(0.0);
    }
    let mut tasks = Vec::new();
    let mut rest = &mut *sums;
    for (group, strip) in (0..cut.n_groups).flat_map(|group| (0..cut.n_strips).map(move |strip| (group, strip))) {
        let (sums, more) = rest.split_at_mut(cut.columns(strip).len() * cut.column_len);
        rest = more;
        let images = group * cut.images_in_group..shape.n.min((group + 1) * cut.images_in_group);
        tasks.push(Task { layout: &layout, shape, x, grad, images, columns: cut.columns(strip), sums });
    }
    parallel::for_each_of(tasks, |task| method.unit.run(task));
    let (sums, n_taps) = (&*sums, shape.kernel[0] * shape.kernel[1]);
    parallel::for_each_part(out, 16 * shape.c_in * n_taps, |rows, out| {
        method.unit.run(Finish { sums, cut, c_in: shape.c_in, n_taps, rows, out });
    });
}

/// A group of images and a strip of the input's channels.
struct Task<'a> {
    layout: &'a Layout,
    shape: &'a ConvShape,
    x: &'a [f32],
    grad: &'a [f32],
    images: Range<usize>,
    /// Times 32 channels of the input.
    columns: Range<usize>,
    /// `[32 inputs][32 outputs][tap][16 outputs][16 inputs][output][input]`
    sums: &'a mut [f32],
}

impl Work for Task<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { layout, shape, x, grad, images, columns, sums } = self;
        let conversion = products.conversion();
        let &Layout { parts, channels: [c_in, c_out], .. } = layout;
        let [a_tile, b_tile] = [layout.a_len(), layout.n_copies * layout.b_len()];
        let [x_len, grad_len] = [shape.input_len(), shape.output_len()].map(|len| len / shape.n.max(1));
        let inputs = 32 * columns.start..c_in.min(32 * columns.end);
        let [n_rows, n_columns] = [c_out.div_ceil(16), inputs.len().div_ceil(16)];
        let [a_len, b_len] = [n_rows * a_tile, n_columns * b_tile];
        let at_once = (AT_ONCE / (a_len + b_len)).clamp(1, images.len().max(1));
        let lens = [at_once * a_len / 2, at_once * b_len / 2];
        let mut scratch = Scratch::take(lens);
        let [a, b] = scratch.pieces(lens);
        let mut segments = vec![[0; 2]; at_once];
        let mut add = false;
        for first in images.clone().step_by(at_once) {
            let n = at_once.min(images.end - first);
            for i in 0..n {
                let (x, grad) = (&x[(first + i) * x_len..][..x_len], &grad[(first + i) * grad_len..][..grad_len]);
                pack_gradient(conversion, layout, grad, &mut a[i * a_len / 2..][..a_len / 2]);
                pack_input(conversion, layout, x, inputs.clone(), &mut b[i * b_len / 2..][..b_len / 2]);
            }
            let (a, b) = (halves(a), halves(b));
            let mut blocks = sums.chunks_exact_mut(BLOCK);
            for (column, row) in
                (0..n_columns).step_by(2).flat_map(|column| (0..n_rows).step_by(2).map(move |row| (column, row)))
            {
                let runs = [row, row + 1].map(|row| row * a_tile);
                let columns = [column, column + 1].map(|column| column * b_tile);
                for &[copy, pair] in &layout.taps {
                    for (i, segment) in segments.iter_mut().enumerate().take(n) {
                        *segment = [i * a_len, i * b_len + copy * layout.b_len() + pair * TERMS * parts as usize];
                    }
                    let block = Block {
                        parts,
                        a,
                        runs: &runs[..2.min(n_rows - row)],
                        n_rows: ROWS.min(c_out),
                        row: TERMS * parts as usize,
                        step: 16 * TERMS * parts as usize,
                        b,
                        columns: &columns[..2.min(n_columns - column)],
                        segments: &segments[..n],
                        len: layout.grad_pixels.len(),
                        soon: [Lines::NONE; 2],
                    };
                    products.multiply(&block, add, blocks.next().expect("sums of every block and tap"));
                }
            }
            add = true;
        }
    }
}

/// The channels of a pixel in `range`, or as many of `zeros`.
#[inline(always)]
fn channels_of<'a>(
    image: &'a [f32],
    channels: usize,
    range: &Range<usize>,
    zeros: &'a [f32],
    pixel: usize,
) -> &'a [f32] {
    match pixel {
        OUTSIDE => &zeros[..range.len()],
        pixel => &image[pixel * channels..][range.clone()],
    }
}

/// Asks for the channels of pixels in `range`, which are soon to be read, a stretch of memory for each.
#[inline(always)]
fn ask<S: Simd>(s: S, image: &[f32], channels: usize, range: &Range<usize>, pixels: &[usize]) {
    for &pixel in pixels {
        if pixel != OUTSIDE {
            for channel in range.clone().step_by(LINE) {
                s.prefetch(image.as_ptr().wrapping_add(pixel * channels + channel));
            }
        }
    }
}

/// The gradient of the output of one image as A: bf16 `[16 channels][term / 32][channel][part][32]`, zeros where there is no pixel.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn pack_gradient<C: Conversion>(conversion: C, layout: &Layout, grad: &[f32], out: &mut [f32]) {
    let (s, lanes) = (conversion.simd(), C::S::LANES);
    let (c_out, n_parts) = (layout.channels[1], layout.parts as usize);
    let zeros = [0.0; 16];
    let block_len = 16 * n_parts * LINE;
    let mut squares = [[s.splat(0.0); 16]; 2];
    for (block, pixels) in layout.grad_pixels.chunks_exact(TERMS).enumerate() {
        let next = layout.grad_pixels.chunks_exact(TERMS).nth(block + 1).unwrap_or_default();
        ask(s, grad, c_out, &(0..c_out), next);
        for (tile, out) in out.chunks_exact_mut(layout.a_len() / 2).enumerate() {
            let out = &mut out[block * block_len..][..block_len];
            // Squares of channels and pairs of pixels.
            for (channel, pair) in (0..16).step_by(lanes).flat_map(|c| (0..LINE).step_by(lanes).map(move |p| (c, p))) {
                let first = 16 * tile + channel;
                let range = c_out.min(first)..c_out.min(first + lanes);
                for i in 0..lanes {
                    let [even, odd] = [pixels[2 * (pair + i)], pixels[2 * (pair + i) + 1]];
                    let even = s.load_some(channels_of(grad, c_out, &range, &zeros, even));
                    let odd = s.load_some(channels_of(grad, c_out, &range, &zeros, odd));
                    match layout.parts {
                        Parts::One => squares[0][i] = conversion.pairs(even, odd),
                        Parts::Two => {
                            let ([even, even_rest], [odd, odd_rest]) = (split(s, even), split(s, odd));
                            squares[0][i] = conversion.pairs(even, odd);
                            squares[1][i] = conversion.pairs(even_rest, odd_rest);
                        }
                    }
                }
                for part in 0..n_parts {
                    s.transpose(&mut squares[part]);
                    for i in 0..lanes {
                        s.store(&mut out[((channel + i) * n_parts + part) * LINE + pair..], squares[part][i]);
                    }
                }
            }
        }
    }
}

/// Channels of the input of one image as B: bf16 `[16 channels][copy][pair][part][channel][2]`, zeros where there is no pixel.
#[inline(always)]
fn pack_input<C: Conversion>(conversion: C, layout: &Layout, x: &[f32], channels: Range<usize>, out: &mut [f32]) {
    /// Pairs of pixels that are asked for ahead.
    const AHEAD: usize = 16;
    let (s, lanes) = (conversion.simd(), C::S::LANES);
    let &Layout { parts, channels: [c_in, _], ref x_pixels, n_copies, n_pairs, .. } = layout;
    let pair_len = parts as usize * LINE;
    let lens = [channels.len()];
    let mut scratch = Scratch::take(lens);
    let [zeros] = scratch.pieces(lens);
    zeros.fill(0.0);
    let zeros = &*zeros;
    for pair in 0..n_pairs {
        ask(s, x, c_in, &channels, x_pixels.get(2 * (pair + AHEAD)..2 * (pair + AHEAD) + 2).unwrap_or_default());
        let [first, second, third] = [0, 1, 2].map(|i| channels_of(x, c_in, &channels, zeros, x_pixels[2 * pair + i]));
        for channel in (0..channels.len().next_multiple_of(16)).step_by(lanes) {
            let (begin, end) = (channels.len().min(channel), channels.len().min(channel + lanes));
            let at = (channel / 16 * n_copies * n_pairs + pair) * pair_len + channel % 16;
            let middle = s.load_some(&second[begin..end]);
            store_pairs(conversion, parts, [s.load_some(&first[begin..end]), middle], &mut out[at..]);
            if n_copies == 2 {
                let last = s.load_some(&third[begin..end]);
                store_pairs(conversion, parts, [middle, last], &mut out[at + n_pairs * pair_len..]);
            }
        }
    }
}

/// The gradient of the weights to 16 output channels, `[channel, c_in, taps]`, from the sums of all tasks.
struct Finish<'a> {
    sums: &'a [f32],
    cut: Cut,
    c_in: usize,
    n_taps: usize,
    /// Which 16 output channels.
    rows: usize,
    out: &'a mut [f32],
}

impl Work for Finish<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { sums, cut, c_in, n_taps, rows, out } = self;
        let s = products.conversion().simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let group_len = cut.n_columns * cut.column_len;
        for input in (0..c_in).step_by(lanes) {
            // Strips follow each other, so that all columns do.
            let block = input / 32 * cut.column_len + rows / 2 * n_taps * BLOCK;
            let at = block + (2 * (rows % 2) + input / 16 % 2) * TILE + input % 16;
            for (row, out) in out.chunks_exact_mut(c_in * n_taps).enumerate() {
                for first in (0..n_taps).step_by(lanes) {
                    let n = lanes.min(n_taps - first);
                    let mut taps = [s.splat(0.0); 16];
                    for (i, tap) in taps.iter_mut().enumerate().take(n) {
                        let at = at + (first + i) * BLOCK + row * 16;
                        *tap = s.load(&sums[at..]);
                        for group in 1..cut.n_groups {
                            *tap = s.add(*tap, s.load(&sums[group * group_len + at..]));
                        }
                    }
                    store_taps(s, taps, n, n_taps, &mut out[input * n_taps + first..]);
                }
            }
        }
    }
}
