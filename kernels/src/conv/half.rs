//! Any convolution with products of bf16 and sums of f32: nothing is unfolded.
//!
//! An image is rounded and laid out once. For the output and the gradient of the input its padded copy is `[pixel][channel]`,
//! so that 16 neighbouring outputs times 32 channels of any tap lie where a tile of A is read; weights are B. For the gradient of
//! the weights, a sum over pixels, it is `[channel][pixel]`, and a tap shifts where the rows of A begin; the output's gradient is
//! B. Rows of both then have one pitch, with zeros behind each row of the gradient, so that the sum runs over whole planes.
//!
//! Sums of an image depend on nothing else, and images are added in their order.

use super::ConvShape;
use super::direct::Plan;
use super::layout::{Frame, load_some};
pub use super::tiles::Unit;
use super::tiles::{BLOCK, Block, Conversion, Products, Rows, Work};
use crate::amx::TILE;
use crate::buffer::{Aligned, Scratch, filled_aligned};
use crate::parallel;
use crate::simd::Simd;

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
    let channels = [shape.c_in, shape.c_out];
    run(
        unit,
        &Plan::forward(shape),
        x,
        channels,
        shape.size,
        pack_weights(unit, weights, shape, false),
        bias,
        residual,
        out,
    );
}

/// The gradient of its input, or the transposed convolution, see [`super::transposed`].
pub fn transposed(unit: Unit, shape: &ConvShape, grad: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let channels = [shape.c_out, shape.c_in];
    let weights = pack_weights(unit, weights, shape, true);
    run(unit, &Plan::transposed(shape), grad, channels, shape.out_size(), weights, bias, None, out);
}

/// Outputs that are next to each other in the padded image, at most 16.
#[derive(Debug)]
struct Run {
    /// The pixel of the padded image that the first one's taps count from, and how many there are.
    rows: Rows,
    /// Which of the [`Outputs::pieces`] are of it.
    pieces: [usize; 2],
}

/// Some rows of a run whose outputs are in one row of the image.
#[derive(Debug)]
struct Piece {
    /// The first row.
    row: usize,
    n: usize,
    /// Pixel of the output.
    to: usize,
}

/// The outputs of one phase of a plan.
#[derive(Debug)]
struct Outputs {
    /// Of each tap: where it is in the image and in the weights.
    segments: Vec<[usize; 2]>,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
}

impl Outputs {
    /// Of all phases. `c`: channels of the padded image.
    fn of(plan: &Plan, c: usize, unit: Unit) -> Vec<Self> {
        let width = plan.frame.size[1];
        let outputs = plan.phases.iter().map(|phase| {
            let segments = phase.taps.iter().map(|&(offset, tap)| [offset * c, tap * c * 16]).collect();
            let mut outputs = Self { segments, runs: Vec::new(), pieces: Vec::new() };
            let [n_y, n_x] = phase.count;
            let to = |y: usize, x: usize| {
                (phase.first[0] + y * plan.every) * plan.out_size[1] + phase.first[1] + x * plan.every
            };
            // Runs may go on from one row to the next, through outputs between them that do not exist. Where tiles are
            // computed whole that can be less work than a run for each row.
            let flat = (n_y - 1) * width + n_x;
            let by_rows = n_y * n_x.div_ceil(16);
            if unit.has_tiles() && plan.stride == 1 && n_x <= width && 10 * flat.div_ceil(16) <= 9 * by_rows {
                for first in (0..flat).step_by(16) {
                    let n = 16.min(flat - first);
                    let first_piece = outputs.pieces.len();
                    for y in first / width..n_y.min((first + n).div_ceil(width)) {
                        let (from, end) = (first.max(y * width), (first + n).min(y * width + n_x));
                        if from < end {
                            outputs.pieces.push(Piece {
                                row: from - first,
                                n: end - from,
                                to: to(y, from - y * width),
                            });
                        }
                    }
                    let pieces = [first_piece, outputs.pieces.len()];
                    outputs.runs.push(Run { rows: Rows { at: phase.base + first, n }, pieces });
                }
            } else {
                for (y, x) in (0..n_y).flat_map(|y| (0..n_x).step_by(16).map(move |x| (y, x))) {
                    let n = 16.min(n_x - x);
                    let rows = Rows { at: phase.base + (y * width + x) * plan.stride, n };
                    let piece = outputs.pieces.len();
                    outputs.pieces.push(Piece { row: 0, n, to: to(y, x) });
                    outputs.runs.push(Run { rows, pieces: [piece, piece + 1] });
                }
            }
            outputs
        });
        outputs.collect()
    }
}

#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn run(
    unit: Unit,
    plan: &Plan,
    x: &[f32],
    [c_in, c_out]: [usize; 2],
    size: [usize; 2],
    weights: Aligned,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let c = c_in.next_multiple_of(TERMS);
    let outputs = Outputs::of(plan, c, unit);
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * plan.out_size[0] * plan.out_size[1]);
    parallel::for_each_part(out, out_len, |i, out| {
        let x = &x[i * in_len..][..in_len];
        let residual = residual.map(|r| &r[i * out_len..][..out_len]);
        unit.run(Image { plan, outputs: &outputs, x, channels: [c_in, c_out], weights: &weights, bias, residual, out });
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
        let lens = [(plan.frame.n_pixels() + 16 * plan.stride) * c / 2, BLOCK, TILE + 16];
        let mut scratch = Scratch::take(lens);
        let [padded, sums, square] = scratch.pieces(lens);
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
                            match pieces {
                                [piece] if plan.every == 1 && <P::C as Conversion>::S::LANES == 16 => {
                                    write_one(conversion.simd(), sums, piece, to, out);
                                }
                                _ => write(conversion.simd(), sums, square, pieces, to, out),
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Where sums go.
#[derive(Clone, Copy)]
struct Destination<'a> {
    /// The first of 16 channels.
    first: usize,
    c_out: usize,
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    /// Between pixels.
    every: usize,
}

impl Destination<'_> {
    /// The biases of the 16 channels, of which those that exist are given as `n`.
    #[inline(always)]
    fn biases(&self) -> ([f32; 16], usize) {
        let mut biases = [0.0; 16];
        let n = 16.min(self.c_out - self.first);
        if let Some(bias) = self.bias {
            biases[..n].copy_from_slice(&bias[self.first..self.first + n]);
        }
        (biases, n)
    }
}

/// Writes sums `[row of the run][channel]` to the image, plus bias and residual.
#[inline(always)]
fn write<S: Simd>(s: S, sums: &[f32], square: &mut [f32], pieces: &[Piece], to: Destination<'_>, out: &mut [f32]) {
    transpose_rows(s, sums, 16, [16, 16], square);
    let n_pixels = out.len() / to.c_out;
    let (biases, n_channels) = to.biases();
    for (i, bias) in biases.into_iter().enumerate().take(n_channels) {
        let sums = &square[i * 16..];
        for piece in pieces {
            let first = (to.first + i) * n_pixels + piece.to;
            if to.every > 1 {
                for k in 0..piece.n {
                    let at = first + k * to.every;
                    let residual = to.residual.map_or(0.0, |residual| residual[at]);
                    out[at] = sums[piece.row + k] + bias + residual;
                }
                continue;
            }
            for k in (0..piece.n).step_by(S::LANES) {
                let v = s.add(s.load(&sums[piece.row + k..]), s.splat(bias));
                write_vector(s, v, first + k, S::LANES.min(piece.n - k), to.residual, out);
            }
        }
    }
}

/// [`write`] of a run that is one piece of one row, with vectors of 16.
#[inline(always)]
fn write_one<S: Simd>(s: S, sums: &[f32], piece: &Piece, to: Destination<'_>, out: &mut [f32]) {
    let mut rows = [s.splat(0.0); 16];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = s.load(&sums[i * 16..]);
    }
    s.transpose(&mut rows);
    let n_pixels = out.len() / to.c_out;
    let (biases, n_channels) = to.biases();
    for (i, row) in rows.iter().enumerate().take(n_channels) {
        let v = s.add(*row, s.splat(biases[i]));
        write_vector(s, v, (to.first + i) * n_pixels + piece.to, piece.n, to.residual, out);
    }
}

/// The first `n` lanes, plus those of the residual.
#[inline(always)]
fn write_vector<S: Simd>(s: S, v: S::V, at: usize, n: usize, residual: Option<&[f32]>, out: &mut [f32]) {
    let mut v = v;
    if let Some(residual) = residual {
        v = s.add(v, load_some(s, &residual[at..at + n]));
    }
    let out = &mut out[at..at + n];
    match n == S::LANES {
        true => s.store(out, v),
        false => s.store_first(out, v),
    }
}

/// Copies `image` `[channels][pixel]` to `copy`, bf16 `[pixel][c]`, zeros elsewhere.
#[inline(always)]
fn pack_image<C: Conversion>(conversion: C, frame: &Frame, image: &[f32], channels: usize, c: usize, copy: &mut [f32]) {
    let s = conversion.simd();
    let (lanes, n, stride) = (C::S::LANES, frame.places.len(), c / 2);
    for &[first, n] in &frame.gaps {
        copy[first * stride..(first + n) * stride].fill(0.0);
    }
    for first_channel in (0..c).step_by(2 * lanes) {
        for first in (0..n).step_by(lanes) {
            let n_pixels = lanes.min(n - first);
            let mut rows = [s.splat(0.0); 16];
            for (i, row) in rows.iter_mut().enumerate().take(lanes) {
                let channel = first_channel + 2 * i;
                if channel < channels {
                    let even = load_some(s, &image[channel * n + first..][..n_pixels]);
                    let mut odd = s.splat(0.0);
                    if channel + 1 < channels {
                        odd = load_some(s, &image[(channel + 1) * n + first..][..n_pixels]);
                    }
                    *row = conversion.pairs(even, odd);
                }
            }
            s.transpose(&mut rows);
            for (row, &place) in rows.iter().zip(&frame.places[first..first + n_pixels]) {
                if place != Frame::OUTSIDE {
                    s.store(&mut copy[place as usize * stride + first_channel / 2..], *row);
                }
            }
        }
    }
}

/// Weights that are laid out faster than other threads begin to help.
const FEW_WEIGHTS: usize = 1 << 15;

/// Weights as B: bf16 `[16 output channels][tap][input channel / 2][output channel][2]`, the input's channels padded. With
/// `exchanged` channels the shape's output is the input.
fn pack_weights(unit: Unit, weights: &[f32], shape: &ConvShape, exchanged: bool) -> Aligned {
    let n_taps = shape.kernel[0] * shape.kernel[1];
    let (c_in, c_out) = if exchanged { (shape.c_out, shape.c_in) } else { (shape.c_in, shape.c_out) };
    let len = n_taps * c_in.next_multiple_of(TERMS) * 16 / 2;
    let panel = |i: usize, out: &mut [f32]| {
        unit.run(WeightPanel { weights, channels: [c_in, c_out], n_taps, exchanged, first: 16 * i, out });
    };
    let fill = |out: &mut [f32]| match out.len() < FEW_WEIGHTS {
        true => out.chunks_mut(len).enumerate().for_each(|(i, out)| panel(i, out)),
        false => parallel::for_each_part(out, len, panel),
    };
    // SAFETY: each part is written whole.
    unsafe { filled_aligned(c_out.div_ceil(16) * len, fill) }
}

/// The weights to 16 output channels.
struct WeightPanel<'a> {
    weights: &'a [f32],
    channels: [usize; 2],
    n_taps: usize,
    exchanged: bool,
    /// The first output channel.
    first: usize,
    out: &'a mut [f32],
}

impl Work for WeightPanel<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { weights, channels: [c_in, c_out], n_taps, exchanged, first, out } = self;
        let conversion = products.conversion();
        let s = conversion.simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let n_out = 16.min(c_out - first);
        // Of 32 input channels: [channel][tap][16 output channels].
        let lens = [TERMS * n_taps * 16];
        let mut scratch = Scratch::take(lens);
        let [columns] = scratch.pieces(lens);
        for input in (0..c_in).step_by(TERMS) {
            let n_in = TERMS.min(c_in - input);
            columns.fill(0.0);
            // Weights are [output][input][tap], exchanged [input][output][tap]: what follows each other becomes a row.
            match exchanged {
                false => {
                    let from = &weights[(first * c_in + input) * n_taps..];
                    transpose_rows(s, from, c_in * n_taps, [n_out, n_in * n_taps], columns);
                }
                true if n_taps == 1 => {
                    for i in 0..n_in {
                        let from = &weights[(input + i) * c_out + first..][..n_out];
                        columns[i * 16..][..n_out].copy_from_slice(from);
                    }
                }
                true => {
                    for i in 0..n_in {
                        let from = &weights[((input + i) * c_out + first) * n_taps..];
                        transpose_rows(s, from, n_taps, [n_out, n_taps], &mut columns[i * n_taps * 16..]);
                    }
                }
            }
            for tap in 0..n_taps {
                for i in (0..TERMS).step_by(2) {
                    let to = (tap * c_in.next_multiple_of(TERMS) + input + i) * 8;
                    for lane in (0..16).step_by(lanes) {
                        let even = s.load(&columns[(i * n_taps + tap) * 16 + lane..]);
                        let odd = s.load(&columns[((i + 1) * n_taps + tap) * 16 + lane..]);
                        s.store(&mut out[to + lane..], conversion.pairs(even, odd));
                    }
                }
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
                *row = load_some(s, &from[(i + k) * pitch + j..][..some]);
            }
            s.transpose(&mut rows);
            for (k, row) in rows.iter().enumerate().take(some) {
                s.store(&mut to[(j + k) * 16 + i..], *row);
            }
        }
    }
}

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
    padding: usize,
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

/// One plane: rows of pixels `width` apart, the first at `first`, zeros elsewhere.
#[inline(always)]
fn pack_plane<C: Conversion>(
    conversion: C,
    image: &[f32],
    size: [usize; 2],
    first: usize,
    width: usize,
    plane: &mut [f32],
) {
    let s = conversion.simd();
    let lanes = C::S::LANES;
    plane.fill(0.0);
    let plane = halves_mut(plane);
    for y in 0..size[0] {
        let row = &image[y * size[1]..][..size[1]];
        for x in (0..size[1]).step_by(2 * lanes) {
            // Zeros behind the row's end fall into the gap, or where the next row is about to be written.
            let middle = size[1].min(x + lanes);
            let (a, b) = (load_some(s, &row[x..middle]), load_some(s, &row[middle..size[1].min(middle + lanes)]));
            let to = &mut plane[first + y * width + x..][..2 * lanes];
            // SAFETY: there is room for 2 · LANES numbers of 2 bytes, which are a vector.
            unsafe { s.store_ptr(to.as_mut_ptr().cast(), conversion.in_order(a, b)) };
        }
    }
}

/// The input of one image as A: bf16 `[channel][pitch]`, channels in whole tiles.
struct InputPlanes<'a> {
    planes: Planes,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Work for InputPlanes<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Planes { channels: [c_in, _], size, padding, width, pitch, .. } = self.planes;
        let n_pixels = size[0] * size[1];
        for (channel, plane) in self.out.chunks_exact_mut(pitch / 2).enumerate() {
            if channel < c_in {
                let image = &self.x[channel * n_pixels..][..n_pixels];
                pack_plane(products.conversion(), image, size, padding * width + padding, width, plane);
            } else {
                plane.fill(0.0);
            }
        }
    }
}

/// The gradient of the output of one image as B: bf16 `[16 channels][pixel / 2][channel][2]`, channels in whole tiles.
struct GradientPairs<'a> {
    planes: Planes,
    grad: &'a [f32],
    out: &'a mut [f32],
}

impl Work for GradientPairs<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Planes { channels: [_, c_out], out_size, width, terms, .. } = self.planes;
        let conversion = products.conversion();
        let s = conversion.simd();
        let n_pixels = out_size[0] * out_size[1];
        // Pairs of a plane, and what a vector that begins in it may write behind it.
        let pitch = terms / 2 + 16;
        let mut scratch = Scratch::take([16 * pitch]);
        let [rows] = scratch.pieces([16 * pitch]);
        for (tile, out) in self.out.chunks_exact_mut(16 * terms / 2).enumerate() {
            for (i, plane) in rows.chunks_exact_mut(pitch).enumerate() {
                let channel = 16 * tile + i;
                if channel < c_out {
                    let image = &self.grad[channel * n_pixels..][..n_pixels];
                    pack_plane(conversion, image, out_size, 0, width, plane);
                } else {
                    plane.fill(0.0);
                }
            }
            transpose_rows(s, rows, pitch, [16, terms / 2], out);
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
