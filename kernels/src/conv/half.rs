//! Any convolution with products of bf16 and sums of f32: nothing is unfolded.
//!
//! An image is rounded and laid out once. For the output and the gradient of the input its padded copy is `[pixel][channel]` too,
//! so that neighbouring outputs times 32 channels of any tap lie where a tile of A is read; weights are B. For the gradient of the
//! weights, a sum over pixels, both are laid out by `gradient`. With tile registers 3×3 kernels with stride 1 are computed by F(2, 3), in
//! `rows`, and their gradients by `gradient`.
//!
//! With numbers in two parts ([`Parts::Two`]) the same is nearly as exact as f32: 32 leading parts lie before their 32 rests.
//!
//! Sums of an image depend on nothing else, and images are added in their order.

mod gradient;
mod output;
mod rows;
mod weights;

pub use super::tiles::{Parts, Unit};
pub use gradient::weight_gradient;

use super::direct::Plan;
use super::layout::{Frame, Run};
use super::tiles::{BLOCK, Block, Conversion, Lines, Products, TERMS, Work};
use super::{ConvShape, begin};
use crate::amx::TILE;
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;
use output::{Destination, Outputs, write};
use weights::{Taps, pack_weights, packed_len};

/// Numbers of f32 in the place of [`TERMS`] of bf16: a cache line.
const LINE: usize = TERMS / 2;

/// How to multiply. What it cannot do, see [`Method::available`], is a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// With what.
    pub unit: Unit,
    /// How exactly; in two parts by tiles only.
    pub parts: Parts,
}

impl Method {
    /// Those that this processor can run.
    pub fn available() -> Vec<Self> {
        let of = |unit: Unit| {
            let parts: &[Parts] = if unit.has_tiles() { &[Parts::One, Parts::Two] } else { &[Parts::One] };
            parts.iter().map(move |&parts| Method { unit, parts })
        };
        Unit::available().into_iter().flat_map(of).collect()
    }
}

/// The output of a convolution, see [`super::forward`].
///
/// # Panics
/// As there.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn forward(
    method: Method,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    if begin::forward(shape, x, weights, bias, residual, out) {
        return;
    }
    if rows::fits(method, shape, shape.out_size()[1]) {
        let (channels, sizes) = ([shape.c_in, shape.c_out], [shape.size, shape.out_size()]);
        let zeros = shape.padding.map(|zeros| zeros as isize);
        return rows::convolve(method, x, channels, sizes, zeros, shape.dilation, weights, false, bias, residual, out);
    }
    run(method, &Plan::forward(shape), shape, false, x, weights, bias, residual, out);
}

/// The gradient of its input, or the transposed convolution, see [`super::transposed`].
///
/// # Panics
/// As there.
pub fn transposed(
    method: Method,
    shape: &ConvShape,
    grad: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if begin::transposed(shape, grad, weights, bias, out) {
        return;
    }
    if rows::fits(method, shape, shape.size[1]) {
        let (channels, sizes) = ([shape.c_out, shape.c_in], [shape.out_size(), shape.size]);
        let zeros = shape.padding.map(|zeros| (2 * shape.dilation) as isize - zeros as isize);
        return rows::convolve(method, grad, channels, sizes, zeros, shape.dilation, weights, true, bias, None, out);
    }
    run(method, &Plan::transposed(shape), shape, true, grad, weights, bias, None, out);
}

/// With `exchanged` channels and sizes the shape's output is the input.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn run(
    method: Method,
    plan: &Plan,
    shape: &ConvShape,
    exchanged: bool,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let (channels, size) = match exchanged {
        false => ([shape.c_in, shape.c_out], shape.size),
        true => ([shape.c_out, shape.c_in], shape.out_size()),
    };
    let [c_in, c_out] = channels;
    let taps = Taps::Each(shape.kernel[0] * shape.kernel[1]);
    let lens = [packed_len(method.parts, taps, channels)];
    let mut scratch = Scratch::take(lens);
    let [packed] = scratch.pieces(lens);
    pack_weights(method, weights, taps, channels, exchanged, packed);
    let packed = &*packed;
    let pixel = c_in.next_multiple_of(TERMS) * method.parts as usize;
    let outputs = Outputs::of(plan, pixel);
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * plan.out_size[0] * plan.out_size[1]);
    parallel::for_each_part(out, out_len, |i, out| {
        let [x, next] = image_and_next(x, i, in_len);
        let residual = residual.map(|r| &r[i * out_len..][..out_len]);
        let parts = method.parts;
        method.unit.run(Image {
            parts,
            plan,
            outputs: &outputs,
            x,
            next,
            channels,
            pixel,
            weights: packed,
            bias,
            residual,
            out,
        });
    });
}

/// Image `i` of those of `len` numbers, and the one behind it, if there is one.
fn image_and_next(x: &[f32], i: usize, len: usize) -> [&[f32]; 2] {
    [&x[i * len..][..len], x.get((i + 1) * len..(i + 2) * len).unwrap_or_default()]
}

/// One image.
struct Image<'a> {
    parts: Parts,
    plan: &'a Plan,
    outputs: &'a [Outputs],
    x: &'a [f32],
    /// The image behind it, which this thread probably does next.
    next: &'a [f32],
    channels: [usize; 2],
    /// Numbers of bf16 of a pixel of the padded copy.
    pixel: usize,
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Work for Image<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { parts, plan, outputs, x, next, channels, pixel, weights, bias, residual, out } = self;
        let [c_in, c_out] = channels;
        let conversion = products.conversion();
        let n_columns = c_out.div_ceil(16);
        // A tile is read as if it had 16 rows, even at the end of the image.
        let lens = [(plan.frame.n_pixels() + 16 * plan.stride) * pixel / 2, BLOCK];
        let mut scratch = Scratch::take(lens);
        let [padded, sums] = scratch.pieces(lens);
        pack_image(conversion, parts, &plan.frame, x, c_in, padded);
        let (a, b) = (halves(padded), halves(weights));
        let panel = b.len() / n_columns;
        let n_blocks = outputs.iter().map(|phase| phase.runs.len().div_ceil(2)).sum();
        for column in (0..n_columns).step_by(2) {
            let mut soon =
                Soon { weights: b, panel, column, residual: residual.unwrap_or_default(), out, next }.pieces(n_blocks);
            let columns = [column * panel, (column + 1) * panel];
            let columns = &columns[..2.min(n_columns - column)];
            for phase in outputs {
                for runs in phase.runs.chunks(2) {
                    let starts = [runs[0].from * pixel, runs[runs.len() - 1].from * pixel];
                    let block = Block {
                        parts,
                        a,
                        runs: &starts[..runs.len()],
                        n_rows: phase.n_rows,
                        row: plan.stride * pixel,
                        step: TERMS * parts as usize,
                        b,
                        columns,
                        segments: &phase.segments,
                        len: c_in.next_multiple_of(TERMS),
                        soon: [soon[0].next(), soon[1].next()],
                    };
                    products.multiply(&block, false, sums);
                    for (i, run) in runs.iter().enumerate() {
                        for j in 0..columns.len() {
                            let sums = &sums[(2 * i + j) * TILE..][..TILE];
                            let to = Destination { first: (column + j) * 16, c_out, bias, residual, every: plan.every };
                            write(conversion.simd(), sums, phase, run, to, out);
                        }
                    }
                }
            }
        }
    }
}

/// Numbers of bf16 of weights, 1 MB, of which not all stay in the L2 cache.
const LARGE: usize = 512 << 10;

/// What is read or written soon while two times 16 columns of the output are computed: what comes from memory meanwhile is not waited for
/// later.
#[derive(Clone, Copy)]
struct Soon<'a> {
    weights: &'a [u16],
    /// Numbers of 16 columns of the weights.
    panel: usize,
    column: usize,
    /// What is added to the image's outputs, and what they will be written to.
    residual: &'a [f32],
    out: &'a [f32],
    /// The image behind it.
    next: &'a [f32],
}

impl Soon<'_> {
    /// Of these in as many pieces as blocks are multiplied.
    #[inline(always)]
    fn pieces(self, n_blocks: usize) -> [Pieces; 2] {
        let Self { weights, panel, column, residual, out, next } = self;
        let [end, next_end] = [column + 2, column + 4].map(|column| weights.len().min(column * panel));
        let more = if weights.len() >= LARGE { &weights[end..next_end] } else { &[] };
        let ranges = match column {
            0 => [halves(out), halves(residual)],
            _ if end == weights.len() => [halves(next), &[]],
            _ => [more, &[]],
        };
        ranges.map(|range| Pieces::of(range, n_blocks))
    }
}

/// Cache lines, dealt out to blocks.
struct Pieces {
    left: Lines,
    /// How many each block gets.
    n_each: usize,
}

impl Pieces {
    fn of(range: &[u16], n_blocks: usize) -> Self {
        let left = Lines::of(range);
        Self { left, n_each: left.n.div_ceil(n_blocks.max(1)) }
    }

    /// Those of the next block.
    #[inline(always)]
    fn next(&mut self) -> Lines {
        self.left.take(self.n_each)
    }
}

/// Copies `image` `[pixel][channels]` to `copy`, bf16 `[pixel][channels / 32][part][32]`, zeros elsewhere.
#[inline(always)]
fn pack_image<C: Conversion>(
    conversion: C,
    parts: Parts,
    frame: &Frame,
    image: &[f32],
    channels: usize,
    copy: &mut [f32],
) {
    let s = conversion.simd();
    let (lanes, n_parts) = (C::S::LANES, parts as usize);
    let stride = channels.div_ceil(TERMS) * n_parts * LINE;
    for &[first, n] in &frame.gaps {
        copy[first * stride..(first + n) * stride].fill(0.0);
    }
    for &Run { from, to, n } in &frame.runs {
        let from = image[from * channels..][..n * channels].chunks_exact(channels);
        for (from, to) in from.zip(copy[to * stride..][..n * stride].chunks_exact_mut(stride)) {
            for (line, to) in to.chunks_exact_mut(n_parts * LINE).enumerate() {
                for i in (0..LINE).step_by(lanes) {
                    let first = TERMS * line + 2 * i;
                    let (begin, middle, end) =
                        (channels.min(first), channels.min(first + lanes), channels.min(first + 2 * lanes));
                    let [x, y] = [s.load_some(&from[begin..middle]), s.load_some(&from[middle..end])];
                    store_in_order(conversion, parts, [x, y], &mut to[i..]);
                }
            }
        }
    }
}

/// The nearest number of 8 binary digits, which is a bf16, and the exact rest (Dekker 1971, "A floating-point technique for
/// extending the available precision"). Not for numbers above 10³³.
#[inline(always)]
fn split<S: Simd>(s: S, x: S::V) -> [S::V; 2] {
    let scaled = s.mul(x, s.splat(65537.0));
    let leading = s.sub(scaled, s.sub(scaled, x));
    [leading, s.sub(x, leading)]
}

/// Writes the numbers of two vectors, and a line behind them their rests if there are any.
#[inline(always)]
fn store_in_order<C: Conversion>(conversion: C, parts: Parts, [x, y]: [<C::S as Simd>::V; 2], to: &mut [f32]) {
    let s = conversion.simd();
    match parts {
        Parts::One => s.store(to, conversion.in_order(x, y)),
        Parts::Two => {
            let ([x, x_rest], [y, y_rest]) = (split(s, x), split(s, y));
            s.store(to, conversion.in_order(x, y));
            s.store(&mut to[LINE..], conversion.in_order(x_rest, y_rest));
        }
    }
}

/// Writes a vector of pairs, and a line behind it that of their rests if there are any.
#[inline(always)]
fn store_pairs<C: Conversion>(conversion: C, parts: Parts, [even, odd]: [<C::S as Simd>::V; 2], to: &mut [f32]) {
    let s = conversion.simd();
    match parts {
        Parts::One => s.store(to, conversion.pairs(even, odd)),
        Parts::Two => {
            let ([even, even_rest], [odd, odd_rest]) = (split(s, even), split(s, odd));
            s.store(to, conversion.pairs(even, odd));
            s.store(&mut to[LINE..], conversion.pairs(even_rest, odd_rest));
        }
    }
}

/// `from` `[n_rows][n]`, rows `pitch` apart → `to` `[n][16]`; n_rows is at most 16.
#[inline(always)]
fn transpose_rows<S: Simd>(s: S, from: &[f32], pitch: usize, [n_rows, n]: [usize; 2], to: &mut [f32]) {
    for i in (0..n_rows).step_by(S::LANES) {
        for j in (0..n).step_by(S::LANES) {
            let some = S::LANES.min(n - j);
            let mut rows = [s.splat(0.0); 16];
            for (k, row) in rows.iter_mut().enumerate().take(S::LANES.min(n_rows - i)) {
                *row = s.load_some(&from[(i + k) * pitch + j..][..some]);
            }
            s.transpose(&mut rows);
            for (k, row) in rows.iter().enumerate().take(some) {
                s.store(&mut to[(j + k) * 16 + i..], *row);
            }
        }
    }
}

/// The same memory as twice as many bf16.
fn halves(x: &[f32]) -> &[u16] {
    // SAFETY: an f32 is two u16 without padding, of lesser alignment, and every bit pattern is a u16.
    unsafe { std::slice::from_raw_parts(x.as_ptr().cast(), 2 * x.len()) }
}
