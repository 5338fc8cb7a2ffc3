//! Any convolution with products of bf16 and sums of f32: nothing is unfolded.
//!
//! An image is rounded and laid out once. For the output and the gradient of the input its padded copy is `[pixel][channel]` too,
//! so that 16 neighbouring outputs times 32 channels of any tap lie where a tile of A is read; weights are B. For the gradient of
//! the weights, a sum over pixels, it is `[channel][pixel]`, and a tap shifts where the rows of A begin; the output's gradient is
//! B. Rows of both then have one pitch, with zeros behind each row of the gradient, so that the sum runs over whole planes.
//!
//! Sums of an image depend on nothing else, and images are added in their order.

mod gradient;
mod output;
mod weights;

pub use super::tiles::Unit;
pub use gradient::weight_gradient;

use super::ConvShape;
use super::direct::Plan;
use super::layout::{Frame, Run};
use super::tiles::{BLOCK, Block, Conversion, Products, Rows, Work};
use crate::amx::TILE;
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;
use output::{Destination, Outputs, write};
use weights::{pack_weights, packed_len};

/// Terms of a sum in a tile: what channels are padded to.
const TERMS: usize = 32;

/// The output of a convolution, see [`super::forward`].
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn forward(
    unit: Unit,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    run(unit, &Plan::forward(shape), shape, false, x, weights, bias, residual, out);
}

/// The gradient of its input, or the transposed convolution, see [`super::transposed`].
pub fn transposed(unit: Unit, shape: &ConvShape, grad: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    run(unit, &Plan::transposed(shape), shape, true, grad, weights, bias, None, out);
}

/// With `exchanged` channels and sizes the shape's output is the input.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn run(
    unit: Unit,
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
    let lens = [packed_len(shape.kernel, channels)];
    let mut scratch = Scratch::take(lens);
    let [packed] = scratch.pieces(lens);
    pack_weights(unit, weights, shape.kernel, channels, exchanged, packed);
    let packed = &*packed;
    let outputs = Outputs::of(plan, c_in.next_multiple_of(TERMS), unit);
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * plan.out_size[0] * plan.out_size[1]);
    parallel::for_each_part(out, out_len, |i, out| {
        let x = &x[i * in_len..][..in_len];
        let residual = residual.map(|r| &r[i * out_len..][..out_len]);
        unit.run(Image { plan, outputs: &outputs, x, channels, weights: packed, bias, residual, out });
    });
}

/// One image.
struct Image<'a> {
    plan: &'a Plan,
    outputs: &'a [Outputs],
    x: &'a [f32],
    channels: [usize; 2],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Work for Image<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { plan, outputs, x, channels: [c_in, c_out], weights, bias, residual, out } = self;
        let conversion = products.conversion();
        let c = c_in.next_multiple_of(TERMS);
        let n_columns = c_out.div_ceil(16);
        // A tile has 16 rows, even at the end of the image.
        let lens = [(plan.frame.n_pixels() + 16 * plan.stride) * c / 2, BLOCK];
        let mut scratch = Scratch::take(lens);
        let [padded, sums] = scratch.pieces(lens);
        pack_image(conversion, &plan.frame, x, c_in, c, padded);
        let (a, b) = (halves(padded), halves(weights));
        let panel = b.len() / n_columns;
        for column in (0..n_columns).step_by(2) {
            let columns = [column * panel, (column + 1) * panel];
            let columns = &columns[..2.min(n_columns - column)];
            for phase in outputs {
                for runs in phase.runs.chunks(2) {
                    let mut rows = [Rows::default(); 2];
                    for (rows, run) in rows.iter_mut().zip(runs) {
                        *rows = Rows { at: run.rows.at * c, n: run.rows.n };
                    }
                    let (runs_of_block, row) = (&rows[..runs.len()], plan.stride * c);
                    let block = Block { a, runs: runs_of_block, row, b, columns, segments: &phase.segments, len: c };
                    products.multiply(&block, false, sums);
                    for (i, run) in runs.iter().enumerate() {
                        let pieces = &phase.pieces[run.pieces[0]..run.pieces[1]];
                        for j in 0..columns.len() {
                            let sums = &sums[(2 * i + j) * TILE..][..TILE];
                            let to = Destination { first: (column + j) * 16, c_out, bias, residual, every: plan.every };
                            write(conversion.simd(), sums, pieces, to, out);
                        }
                    }
                }
            }
        }
    }
}

/// Copies `image` `[pixel][channels]` to `copy`, bf16 `[pixel][c]`, zeros elsewhere.
#[inline(always)]
fn pack_image<C: Conversion>(conversion: C, frame: &Frame, image: &[f32], channels: usize, c: usize, copy: &mut [f32]) {
    let s = conversion.simd();
    let (lanes, stride) = (C::S::LANES, c / 2);
    for &[first, n] in &frame.gaps {
        copy[first * stride..(first + n) * stride].fill(0.0);
    }
    for &Run { from, to, n } in &frame.runs {
        let from = image[from * channels..][..n * channels].chunks_exact(channels);
        for (from, to) in from.zip(copy[to * stride..][..n * stride].chunks_exact_mut(stride)) {
            for (i, to) in to.chunks_exact_mut(lanes).enumerate() {
                let middle = channels.min((2 * i + 1) * lanes);
                let first = s.load_some(&from[channels.min(2 * i * lanes)..middle]);
                let second = s.load_some(&from[middle..channels.min((2 * i + 2) * lanes)]);
                s.store(to, conversion.in_order(first, second));
            }
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

/// The same memory as twice as many bf16.
fn halves_mut(x: &mut [f32]) -> &mut [u16] {
    // SAFETY: as for `halves`; every bit pattern is an f32, too.
    unsafe { std::slice::from_raw_parts_mut(x.as_mut_ptr().cast(), 2 * x.len()) }
}
