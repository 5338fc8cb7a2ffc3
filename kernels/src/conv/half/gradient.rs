//! The gradient of the weights: a sum over pixels, and over images in their order.
//!
//! Rows of A are channels of the output's gradient, columns of B those of the input, and pixels are the terms. A tap shifts where
//! B begins, by whole pairs of pixels: rows of pixels have an even width there, and pairs begin at even pixels in one copy and, where
//! a tap needs it, at odd ones in another. So no row of a tile crosses from one cache line to the next, which would take three
//! times as long to load.
//!
//! By filtering along rows ([`rows`]) the terms are tiles of two outputs, and each place has a copy of both operands.

use std::ops::Range;

use super::super::ConvShape;
use super::super::direct::Plan;
use super::super::layout::store_taps;
use super::super::tiles::{BLOCK, Block, Conversion, Parts, Products, TERMS, Work};
use super::rows::{self, PLACES};
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
    /// Whether terms are tiles, not pixels.
    by_rows: bool,
    /// Channels of the input and of the gradient.
    channels: [usize; 2],
    /// At each term the pixel of the gradient, or the two of a tile.
    grad_pixels: Vec<[usize; 2]>,
    /// At each place that a tap shifts a term to the pixel of the input, or the four of a tile.
    x_pixels: Vec<[usize; 4]>,
    /// Copies of the gradient and of the input.
    n_copies: [usize; 2],
    /// Pairs of a copy of the input.
    n_pairs: usize,
    /// What is multiplied: a copy of the gradient, one of the input, and the pair that the first term meets.
    products: Vec<[usize; 3]>,
}

impl Layout {
    fn of(parts: Parts, shape: &ConvShape) -> Self {
        let ConvShape { size, kernel, padding, dilation, .. } = *shape;
        let out_size = shape.out_size();
        let by_rows = parts == Parts::Two && rows::fits(shape, out_size[1]);
        let x_pixel = |y: usize, x: usize| match (y.checked_sub(padding[0]), x.checked_sub(padding[1])) {
            (Some(y), Some(x)) if y < size[0] && x < size[1] => y * size[1] + x,
            _ => OUTSIDE,
        };
        let grad_pixel = |y: usize, x: usize| match y < out_size[0] && x < out_size[1] {
            true => y * out_size[1] + x,
            false => OUTSIDE,
        };
        // Terms of a row, and those that a tap shifts by.
        let tiles = rows::tiles(out_size[1], dilation);
        let (in_row, width) = match by_rows {
            true => (tiles.len(), tiles.len().next_multiple_of(2)),
            false => (out_size[1], Plan::forward(shape).frame.size[1].next_multiple_of(2)),
        };
        let n_terms = ((out_size[0] - 1) * width + in_row).next_multiple_of(TERMS);
        let (products, n_copies): (Vec<[usize; 3]>, _) = match by_rows {
            true => {
                let product = |i: usize| [i % PLACES, i % PLACES, i / PLACES * dilation * width / 2];
                ((0..3 * PLACES).map(product).collect(), [PLACES; 2])
            }
            false => {
                let offset = |tap: usize| (tap / kernel[1] * width + tap % kernel[1]) * dilation;
                let offsets = (0..kernel[0] * kernel[1]).map(offset);
                let has_odd = offsets.clone().any(|offset| offset % 2 == 1);
                (offsets.map(|offset| [0, offset % 2, offset / 2]).collect(), [1, 1 + usize::from(has_odd)])
            }
        };
        let furthest = products.iter().map(|&[_, _, pair]| pair).max().unwrap_or(0);
        let n_pairs = n_terms / 2 + furthest;
        let at = |term: usize| (term / width, term % width);
        let grad_pixels = (0..n_terms).map(|term| match (at(term), by_rows) {
            ((y, x), false) => [grad_pixel(y, x), OUTSIDE],
            ((y, tile), true) => match tiles.get(tile) {
                Some(&x) => [grad_pixel(y, x), grad_pixel(y, x + dilation)],
                None => [OUTSIDE; 2],
            },
        });
        // One more than pairs have, for those that begin at odd pixels.
        let x_pixels = (0..2 * n_pairs + 1).map(|term| match (at(term), by_rows) {
            ((y, x), false) => [x_pixel(y, x), OUTSIDE, OUTSIDE, OUTSIDE],
            ((y, tile), true) => match tiles.get(tile) {
                Some(&x) => [0, 1, 2, 3].map(|i| x_pixel(y, x + i * dilation)),
                None => [OUTSIDE; 4],
            },
        });
        let (grad_pixels, x_pixels) = (grad_pixels.collect(), x_pixels.collect());
        let channels = [shape.c_in, shape.c_out];
        Self { parts, by_rows, channels, grad_pixels, x_pixels, n_copies, n_pairs, products }
    }

    /// Numbers of bf16 of a copy of 16 channels of the gradient.
    fn a_len(&self) -> usize {
        self.grad_pixels.len() * 16 * self.parts as usize
    }

    /// Numbers of bf16 of a copy of 16 channels of the input.
    fn b_len(&self) -> usize {
        self.n_pairs * TERMS * self.parts as usize
    }
}

/// How the sum is cut: groups of images, places, and strips of the input's channels, each times 32.
#[derive(Clone, Copy)]
struct Cut {
    images_in_group: usize,
    n_groups: usize,
    /// Places that are done apart, so that of the operands a task lays out one copy: 1 or all.
    n_apart: usize,
    /// Times 32 channels of a strip, the last perhaps fewer; and of all.
    strip: usize,
    n_columns: usize,
    n_strips: usize,
    /// Numbers of 32 channels of the input in the sums of a task.
    column_len: usize,
}

impl Cut {
    fn of(shape: &ConvShape, layout: &Layout) -> Self {
        let product_len = shape.c_out.div_ceil(32) * BLOCK;
        let n_columns = shape.c_in.div_ceil(32);
        let all = n_columns * layout.products.len() * product_len;
        let images_in_group = shape.n.div_ceil((SUMS_OF_GROUPS / all).clamp(1, N_GROUPS)).max(1);
        let n_groups = shape.n.div_ceil(images_in_group).max(1);
        let n_apart = if layout.by_rows && all > SUMS_AT_ONCE { PLACES } else { 1 };
        let column_len = layout.products.len() / n_apart * product_len;
        let most = (SUMS_AT_ONCE / column_len).clamp(1, n_columns);
        let mut strip = n_columns.div_ceil(n_columns.div_ceil(most));
        while strip > 1 && n_groups * n_apart * n_columns.div_ceil(strip) < shape.n.min(N_TASKS) {
            strip = strip.div_ceil(2);
        }
        let n_strips = n_columns.div_ceil(strip);
        Self { images_in_group, n_groups, n_apart, strip, n_columns, n_strips, column_len }
    }

    /// Times 32 channels of the input.
    fn columns(&self, strip: usize) -> Range<usize> {
        strip * self.strip..self.n_columns.min((strip + 1) * self.strip)
    }

    /// Numbers of the sums of a group.
    fn group_len(&self) -> usize {
        self.n_apart * self.n_columns * self.column_len
    }

    /// Where in them the sums of 32 outputs with 32 inputs are of one product, of so many.
    fn block(&self, product: usize, n_products: usize, output: usize, input: usize) -> usize {
        let (apart, product) = (product % self.n_apart, product / self.n_apart);
        let n_products = n_products / self.n_apart;
        (apart * self.n_columns + input) * self.column_len + (output * n_products + product) * BLOCK
    }
}

/// The gradient of the weights, see [`super::weight_gradient`].
///
/// # Panics
/// If the stride is not 1: pixels that meet would not be neighbours.
pub fn weight_gradient(method: Method, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    assert_eq!(shape.stride, 1, "the stride of a gradient in bf16");
    let layout = Layout::of(method.parts, shape);
    let cut = Cut::of(shape, &layout);
    let lens = [cut.n_groups * cut.group_len()];
    let mut scratch = Scratch::take(lens);
    let [sums] = scratch.pieces(lens);
    if shape.n == 0 {
        sums.fill(0.0);
    }
    let mut tasks = Vec::new();
    let mut rest = &mut *sums;
    let groups = (0..cut.n_groups).flat_map(|group| (0..cut.n_apart).map(move |apart| (group, apart)));
    for (group, apart, strip) in groups.flat_map(|(group, apart)| (0..cut.n_strips).map(move |i| (group, apart, i))) {
        let (sums, more) = rest.split_at_mut(cut.columns(strip).len() * cut.column_len);
        rest = more;
        let images = group * cut.images_in_group..shape.n.min((group + 1) * cut.images_in_group);
        let places = if cut.n_apart > 1 { apart..apart + 1 } else { 0..PLACES };
        tasks.push(Task { layout: &layout, shape, x, grad, images, places, columns: cut.columns(strip), sums });
    }
    parallel::for_each_of(tasks, |task| method.unit.run(task));
    let (sums, n_taps) = (&*sums, shape.kernel[0] * shape.kernel[1]);
    parallel::for_each_part(out, 16 * shape.c_in * n_taps, |rows, out| {
        method.unit.run(Finish { sums, cut, layout: &layout, rows, out });
    });
}

/// A group of images, some places, and a strip of the input's channels.
struct Task<'a> {
    layout: &'a Layout,
    shape: &'a ConvShape,
    x: &'a [f32],
    grad: &'a [f32],
    images: Range<usize>,
    /// If terms are tiles.
    places: Range<usize>,
    /// Times 32 channels of the input.
    columns: Range<usize>,
    /// `[32 inputs][32 outputs][product][16 outputs][16 inputs][output][input]`
    sums: &'a mut [f32],
}

impl Work for Task<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { layout, shape, x, grad, images, places, columns, sums } = self;
        let conversion = products.conversion();
        let &Layout { parts, by_rows, channels: [c_in, c_out], n_copies, .. } = layout;
        let n_copies = if by_rows { [places.len(); 2] } else { n_copies };
        let [a_tile, b_tile] = [n_copies[0] * layout.a_len(), n_copies[1] * layout.b_len()];
        let [x_len, grad_len] = [shape.input_len() / shape.n, shape.output_len() / shape.n];
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
                pack_gradient(conversion, layout, grad, places.clone(), &mut a[i * a_len / 2..][..a_len / 2]);
                pack_input(conversion, layout, x, places.clone(), inputs.clone(), &mut b[i * b_len / 2..][..b_len / 2]);
            }
            let (a, b) = (halves(a), halves(b));
            let mut blocks = sums.chunks_exact_mut(BLOCK);
            for (column, row) in
                (0..n_columns).step_by(2).flat_map(|column| (0..n_rows).step_by(2).map(move |row| (column, row)))
            {
                let columns = [column, column + 1].map(|column| column * b_tile);
                for &[a_copy, b_copy, pair] in &layout.products {
                    let [a_copy, b_copy] = match by_rows {
                        true if !places.contains(&a_copy) => continue,
                        true => [a_copy - places.start; 2],
                        false => [a_copy, b_copy],
                    };
                    let runs = [row, row + 1].map(|row| row * a_tile + a_copy * layout.a_len());
                    for (i, segment) in segments.iter_mut().enumerate().take(n) {
                        *segment = [i * a_len, i * b_len + b_copy * layout.b_len() + pair * TERMS * parts as usize];
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
                        soon: &[],
                    };
                    products.multiply(&block, add, blocks.next().expect("sums of every product"));
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

/// The gradient of the output of one image as A: bf16 `[16 channels][copy][term / 32][channel][part][32]`, zeros where there is no
/// pixel. `places`: those that have a copy, if terms are tiles.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn pack_gradient<C: Conversion>(conversion: C, layout: &Layout, grad: &[f32], places: Range<usize>, out: &mut [f32]) {
    let (s, lanes) = (conversion.simd(), C::S::LANES);
    let (c_out, n_parts) = (layout.channels[1], layout.parts as usize);
    let copies = if layout.by_rows { places } else { 0..1 };
    let zeros = [0.0; 16];
    let (copy_len, block_len) = (layout.a_len() / 2, 16 * n_parts * LINE);
    let mut squares = [[[s.splat(0.0); 16]; 2]; PLACES];
    for (block, pixels) in layout.grad_pixels.chunks_exact(TERMS).enumerate() {
        let next = layout.grad_pixels.chunks_exact(TERMS).nth(block + 1).unwrap_or_default();
        ask(s, grad, c_out, &(0..c_out), next.as_flattened());
        for (tile, out) in out.chunks_exact_mut(copies.len() * copy_len).enumerate() {
            // Squares of channels and pairs of terms.
            for (channel, pair) in (0..16).step_by(lanes).flat_map(|c| (0..LINE).step_by(lanes).map(move |p| (c, p))) {
                let first = 16 * tile + channel;
                let range = c_out.min(first)..c_out.min(first + lanes);
                for i in 0..lanes {
                    // Of an even and an odd term the number in each copy.
                    let mut terms = [[s.splat(0.0); PLACES]; 2];
                    for odd in 0..2 {
                        let [first, second] = pixels[2 * (pair + i) + odd];
                        let first = s.load_some(channels_of(grad, c_out, &range, &zeros, first));
                        terms[odd][0] = first;
                        if layout.by_rows {
                            let second = s.load_some(channels_of(grad, c_out, &range, &zeros, second));
                            terms[odd] = rows::gradients(s, [first, second]);
                        }
                    }
                    for copy in copies.clone() {
                        let [even, odd] = [terms[0][copy], terms[1][copy]];
                        match layout.parts {
                            Parts::One => squares[copy][0][i] = conversion.pairs(even, odd),
                            Parts::Two => {
                                let ([even, even_rest], [odd, odd_rest]) = (split(s, even), split(s, odd));
                                squares[copy][0][i] = conversion.pairs(even, odd);
                                squares[copy][1][i] = conversion.pairs(even_rest, odd_rest);
                            }
                        }
                    }
                }
                for copy in copies.clone() {
                    let out = &mut out[(copy - copies.start) * copy_len + block * block_len..][..block_len];
                    for part in 0..n_parts {
                        s.transpose(&mut squares[copy][part]);
                        for i in 0..lanes {
                            let to = &mut out[((channel + i) * n_parts + part) * LINE + pair..];
                            s.store(to, squares[copy][part][i]);
                        }
                    }
                }
            }
        }
    }
}

/// Channels of the input of one image as B: bf16 `[16 channels][copy][pair][part][channel][2]`, zeros where there is no pixel.
/// `places`: as for [`pack_gradient`].
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn pack_input<C: Conversion>(
    conversion: C,
    layout: &Layout,
    x: &[f32],
    places: Range<usize>,
    channels: Range<usize>,
    out: &mut [f32],
) {
    /// Pairs of terms that are asked for ahead.
    const AHEAD: usize = 16;
    let (s, lanes) = (conversion.simd(), C::S::LANES);
    let &Layout { parts, channels: [c_in, _], ref x_pixels, n_copies: [_, n_copies], n_pairs, .. } = layout;
    let n_copies = if layout.by_rows { places.len() } else { n_copies };
    let pair_len = parts as usize * LINE;
    let lens = [channels.len()];
    let mut scratch = Scratch::take(lens);
    let [zeros] = scratch.pieces(lens);
    zeros.fill(0.0);
    let zeros = &*zeros;
    for pair in 0..n_pairs {
        let ahead = x_pixels.get(2 * (pair + AHEAD)..2 * (pair + AHEAD) + 2).unwrap_or_default();
        ask(s, x, c_in, &channels, ahead.as_flattened());
        // The pixels of two terms if they are tiles, else three terms.
        let mut pixels = [zeros; 8];
        for (i, from) in pixels.iter_mut().enumerate() {
            let at = match layout.by_rows {
                true => x_pixels[2 * pair + i / 4][i % 4],
                false if i < 3 => x_pixels[2 * pair + i][0],
                false => break,
            };
            *from = channels_of(x, c_in, &channels, zeros, at);
        }
        for channel in (0..channels.len().next_multiple_of(16)).step_by(lanes) {
            let (begin, end) = (channels.len().min(channel), channels.len().min(channel + lanes));
            let at = (channel / 16 * n_copies * n_pairs + pair) * pair_len + channel % 16;
            let copies = &mut out[at..];
            if layout.by_rows {
                let mut values = [[s.splat(0.0); 4]; 2];
                for i in 0..4 {
                    values[0][i] = s.load_some(&pixels[i][begin..end]);
                    values[1][i] = s.load_some(&pixels[4 + i][begin..end]);
                }
                let [even, odd] = [rows::inputs(s, values[0]), rows::inputs(s, values[1])];
                for i in places.clone() {
                    let to = &mut copies[(i - places.start) * n_pairs * pair_len..];
                    store_pairs(conversion, parts, [even[i], odd[i]], to);
                }
            } else {
                let middle = s.load_some(&pixels[1][begin..end]);
                store_pairs(conversion, parts, [s.load_some(&pixels[0][begin..end]), middle], copies);
                if n_copies == 2 {
                    let last = s.load_some(&pixels[2][begin..end]);
                    store_pairs(conversion, parts, [middle, last], &mut copies[n_pairs * pair_len..]);
                }
            }
        }
    }
}

/// The gradient of the weights to 16 output channels, `[channel, c_in, taps]`, from the sums of all tasks.
struct Finish<'a> {
    sums: &'a [f32],
    cut: Cut,
    layout: &'a Layout,
    /// Which 16 output channels.
    rows: usize,
    out: &'a mut [f32],
}

impl Work for Finish<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { sums, cut, layout, rows: of, out } = self;
        let s = products.conversion().simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let (c_in, n_products) = (layout.channels[0], layout.products.len());
        let n_taps = if layout.by_rows { 9 } else { n_products };
        for input in (0..c_in).step_by(lanes) {
            let within = (2 * (of % 2) + input / 16 % 2) * TILE + input % 16;
            for (row, out) in out.chunks_exact_mut(c_in * n_taps).enumerate() {
                macro_rules! total {
                    ($product:expr) => {{
                        let at = cut.block($product, n_products, of / 2, input / 32) + within + row * 16;
                        let mut sum = s.load(&sums[at..]);
                        for group in 1..cut.n_groups {
                            sum = s.add(sum, s.load(&sums[group * cut.group_len() + at..]));
                        }
                        sum
                    }};
                }
                if layout.by_rows {
                    for kernel_row in 0..3 {
                        let mut places = [s.splat(0.0); PLACES];
                        for (i, place) in places.iter_mut().enumerate() {
                            *place = total!(kernel_row * PLACES + i);
                        }
                        let mut taps = [s.splat(0.0); 16];
                        taps[..3].copy_from_slice(&rows::taps(s, places));
                        store_taps(s, taps, 3, n_taps, &mut out[input * n_taps + 3 * kernel_row..]);
                    }
                } else {
                    for first in (0..n_taps).step_by(lanes) {
                        let n = lanes.min(n_taps - first);
                        let mut taps = [s.splat(0.0); 16];
                        for (i, tap) in taps.iter_mut().enumerate().take(n) {
                            *tap = total!(first + i);
                        }
                        store_taps(s, taps, n, n_taps, &mut out[input * n_taps + first..]);
                    }
                }
            }
        }
    }
}
