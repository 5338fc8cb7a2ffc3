//! The gradient of the weights, the adjoint of F(m×m, 3×3): Gᵀ [ Σ (Bᵀ x B) ⊙ (A y Aᵀ) ] G, summed over tiles.

use super::plan::{Ahead, Plan};
use super::transform::{Four, SKIPPED, Side, Transform, Two};
use super::{MOST_LANES, MOST_OUTPUTS, TILES_AT_ONCE, Tile, by_sides, pitch, transform_inputs};
use crate::buffer::Scratch;
use crate::conv::ConvShape;
use crate::conv::gemm::{Out, Panel, Rows, balanced, max_rows, multiply, panels};
use crate::conv::layout::{padded, store_nine_taps};
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// Numbers of transformed tiles that are kept at a time, unless the sums are more: 4 MB, so that they do not leave the last cache
/// for memory. It decides in which order sums are rounded, so it does not depend on the machine.
const TRANSFORMED: usize = 1 << 20;

/// Output channels whose sums one piece of work turns into gradients.
const CHANNELS_PER_PART: usize = 64;

/// Rows of the sums that one piece of work adds to.
const ROWS_PER_PART: usize = 64;

/// The gradient of the weights `[c_out, c_in, 3, 3]` of a convolution of `x` whose output has the gradient `grad`.
pub fn weight_gradient(isa: Isa, tile: Tile, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    let ConvShape { n, c_in, c_out, .. } = *shape;
    let out_size = shape.out_size();
    let plan = Plan::new(tile, shape.size, out_size, shape.padding.map(|zeros| zeros as isize), shape.dilation);
    let (n_places, n_tiles) = (tile.n_in() * tile.n_in(), plan.spots.len());
    let lanes = lanes(isa);
    let [c, k] = [c_in, c_out].map(|channels| channels.next_multiple_of(lanes));
    let [x_len, grad_len] = [c_in * shape.size[0] * shape.size[1], c_out * out_size[0] * out_size[1]];
    let n_sums = n_places * sum_pitch(c_in, k);
    let at_once = (TRANSFORMED.max(n_sums) / (n_places * n_tiles * (c + k))).clamp(1, n.max(1));

    // Of each image: [place][tile][channel].
    let [v_len, w_len] = [c, k].map(|channels| n_places * pitch(n_tiles, channels));
    let lens = [at_once * v_len, at_once * w_len, n_sums];
    let mut scratch = Scratch::take(lens);
    let [v, w, sums] = scratch.pieces(lens);
    if n == 0 {
        sums.fill(0.0);
    }
    for first in (0..n).step_by(at_once) {
        let n_images = at_once.min(n - first);
        let inputs = v.chunks_mut(v_len).take(n_images).enumerate().map(|(i, out)| (Operand::Input, first + i, out));
        let grads = w.chunks_mut(w_len).take(n_images).enumerate().map(|(i, out)| (Operand::Gradient, first + i, out));
        parallel::for_each_of(inputs.chain(grads).collect(), |(operand, i, out)| match operand {
            Operand::Input => {
                transform_image(isa, tile, operand, &plan, &x[i * x_len..][..x_len], c_in, out);
            }
            Operand::Gradient => {
                transform_image(isa, tile, operand, &plan, &grad[i * grad_len..][..grad_len], c_out, out);
            }
        });
        let rows_per_part = c_in.div_ceil(c_in.div_ceil(ROWS_PER_PART));
        let parts = sums.chunks_mut(sum_pitch(c_in, k)).enumerate().flat_map(|(place, sum)| {
            sum[..c_in * k]
                .chunks_mut(rows_per_part * k)
                .enumerate()
                .map(move |(part, sum)| (place, part * rows_per_part, sum))
        });
        let tiles = Tiles { v, w, pitches: [v_len, w_len], n_images, n_tiles };
        parallel::for_each_of(parts.collect(), |(place, first_row, sum)| {
            let having = plan.having(place / tile.n_in(), place % tile.n_in());
            let having = [having.start, having.end];
            add_products(isa, tiles, place, having, first_row, [c, k], first > 0, sum);
        });
    }

    let sums = &*sums;
    // Several vectors at a time: the sums of an input channel are read in one go.
    let per_part = CHANNELS_PER_PART.next_multiple_of(lanes);
    parallel::for_each_part(out, per_part * c_in * 9, |part, out| {
        finish(isa, tile, sums, part * per_part, [c_in, k], out);
    });
}

/// Numbers from the sums of one place to those of the next, `[c_in][k]` and a line, so that the places do not fall into the same
/// set of the L1 cache.
fn sum_pitch(c_in: usize, k: usize) -> usize {
    c_in * k + 16
}

kernel! {
    fn lanes<'a>(s;) -> usize {
        let _ = s;
        S::LANES
    }
}

/// What is transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    /// By Bᵀ x B.
    Input,
    /// By A y Aᵀ.
    Gradient,
}

kernel! {
    /// All tiles of one image: `[place][tile][channel]`.
    fn transform_image<'a>(
        s; tile: Tile, operand: Operand, plan: &'a Plan, values: &'a [f32], channels: usize, out: &'a mut [f32],
    ) {
        match tile {
            Tile::Two => transform_tiles::<S, Two>(s, operand, plan, values, channels, out),
            Tile::Four => transform_tiles::<S, Four>(s, operand, plan, values, channels, out),
        }
    }
}

#[inline(always)]
fn transform_tiles<S: Simd, T: Transform>(
    s: S,
    operand: Operand,
    plan: &Plan,
    values: &[f32],
    channels: usize,
    out: &mut [f32],
) {
    let (ahead, channels) = (Ahead::new(plan, values.len(), values), [channels, padded::<S>(channels)]);
    match operand {
        Operand::Input => transform_inputs::<S, T>(s, plan, [0, plan.spots.len()], values, ahead, channels, out),
        Operand::Gradient => transform_gradients::<S, T>(s, plan, values, ahead, channels, out),
    }
}

/// A y Aᵀ of all tiles: `[place][tile][channel]`, zeros for the channels from `k` to `c`.
#[inline(always)]
fn transform_gradients<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    y: &[f32],
    ahead: Ahead,
    [k, c]: [usize; 2],
    out: &mut [f32],
) {
    let pitch = pitch(plan.spots.len(), c);
    let step = [plan.out_size[1] * k * plan.dilation, plan.dilation * k];
    let mut part = [0.0; MOST_OUTPUTS * MOST_LANES];
    for (t, spot) in plan.spots.iter().enumerate() {
        ahead.ask(s, t);
        for channel in (0..c).step_by(S::LANES) {
            let (y, to) = (&y[spot.out * k + channel..], &mut out[t * c + channel..]);
            let n = S::LANES.min(k - channel);
            if n == S::LANES {
                by_sides!(spot.sides, transform_gradient::<S, T>(s, y, step, spot.inside, to, pitch));
                continue;
            }
            // The vector would reach beyond the pixel.
            for (i, j) in (0..spot.inside[0]).flat_map(|i| (0..spot.inside[1]).map(move |j| (i, j))) {
                let from = &y[i * step[0] + j * step[1]..][..n];
                part[(4 * i + j) * S::LANES..][..n].copy_from_slice(from);
            }
            let step = [4 * S::LANES, S::LANES];
            by_sides!(spot.sides, transform_gradient::<S, T>(s, &part, step, spot.inside, to, pitch));
        }
    }
}

/// A y Aᵀ of one tile and a vector of channels; outputs that are not `inside` count as zero.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn transform_gradient<S: Simd, T: Transform, const SHORT_HEIGHT: bool, const SHORT_WIDTH: bool>(
    s: S,
    y: &[f32],
    step: [usize; 2],
    inside: [usize; 2],
    v: &mut [f32],
    pitch: usize,
) {
    let t = T::N_IN;
    let zero = s.splat(0.0);
    let (n_rows, n_columns) = (t - 2 - usize::from(SHORT_HEIGHT), t - 2 - usize::from(SHORT_WIDTH));
    assert!(y.len() >= (inside[0] - 1) * step[0] + (inside[1] - 1) * step[1] + S::LANES);
    assert!(v.len() >= (t * t - 1) * pitch + S::LANES && inside[0] <= n_rows && inside[1] <= n_columns);
    let mut columns = [[zero; 6]; 6];
    for j in 0..n_columns {
        let mut values = [zero; 6];
        for i in 0..n_rows {
            if i < inside[0] && j < inside[1] {
                // SAFETY: inside `y`, by the assertion.
                values[i] = unsafe { s.load_ptr(y.as_ptr().add(i * step[0] + j * step[1])) };
            }
        }
        columns[j] = T::output_adjoint::<S, SHORT_HEIGHT>(s, values);
    }
    for i in 0..t {
        if SHORT_HEIGHT && i == SKIPPED {
            continue;
        }
        let mut row = [zero; 6];
        for j in 0..n_columns {
            row[j] = columns[j][i];
        }
        let row = T::output_adjoint::<S, SHORT_WIDTH>(s, row);
        for j in 0..t {
            if SHORT_WIDTH && j == SKIPPED {
                continue;
            }
            // SAFETY: inside `v`, by the assertion.
            unsafe { s.store_ptr(v.as_mut_ptr().add((i * t + j) * pitch), row[j]) };
        }
    }
}

/// The transformed tiles of some images, of the input and of the output's gradient.
#[derive(Clone, Copy)]
struct Tiles<'a> {
    v: &'a [f32],
    w: &'a [f32],
    /// Numbers from one image to the next in `v` and in `w`.
    pitches: [usize; 2],
    n_images: usize,
    /// Of one image.
    n_tiles: usize,
}

kernel! {
    /// Σ v·w over the tiles that have a place, for some rows of its sums from `first_row`; added to what is there, or in its
    /// place.
    fn add_products<'a>(
        s; tiles: Tiles<'a>, place: usize, having: [usize; 2], first_row: usize, channels: [usize; 2], add: bool,
        sum: &'a mut [f32],
    ) {
        let [c, k] = channels;
        let Tiles { v, w, pitches: [v_pitch, w_pitch], n_images, n_tiles } = tiles;
        let n_having = having[1] - having[0];
        let v = &v[place * pitch(n_tiles, c) + having[0] * c..];
        let w = &w[place * pitch(n_tiles, k) + having[0] * k..];
        // So few tiles at a time that their panel stays in the L1 cache for all rows.
        let per_group = (TILES_AT_ONCE / n_having.max(1)).max(1);
        for first_image in (0..n_images).step_by(per_group) {
            let images = first_image..n_images.min(first_image + per_group);
            let n_segments = if n_having == 0 { 0 } else { images.len() };
            let segments: Vec<[usize; 2]> = images.take(n_segments).map(|i| [i * v_pitch, i * w_pitch]).collect();
            let add = add || first_image > 0;
            for (first_vector, n) in panels(k / S::LANES) {
                let (column, width) = (first_vector * S::LANES, n * S::LANES);
                for (row, n_rows) in balanced(sum.len() / k, max_rows::<S>(n)) {
                    let (a, b) = (&v[first_row + row..], &w[column..]);
                    if let Some(&[a_last, b_last]) = segments.last() {
                        assert!(a.len() >= a_last + (n_having - 1) * c + n_rows);
                        assert!(b.len() >= b_last + (n_having - 1) * k + width);
                    }
                    let to = &mut sum[row * k + column..][..(n_rows - 1) * k + width];
                    let a = Rows { at: a.as_ptr(), row: 1, step: c };
                    let b = Panel { at: b.as_ptr(), step: k };
                    let to = Out { at: to.as_mut_ptr(), row: k, add };
                    // SAFETY: A and B as asserted for the last image, C as sliced.
                    unsafe { multiply(s, [n_rows, n], a, b, &segments, n_having, to) };
                }
            }
        }
    }
}

kernel! {
    /// Gᵀ U G for some output channels from `first`, as `[channel, c_in, 3, 3]`.
    fn finish<'a>(s; tile: Tile, sums: &'a [f32], first: usize, channels: [usize; 2], out: &'a mut [f32]) {
        match tile {
            Tile::Two => finish_tiles::<S, Two>(s, sums, first, channels, out),
            Tile::Four => finish_tiles::<S, Four>(s, sums, first, channels, out),
        }
    }
}

#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn finish_tiles<S: Simd, T: Transform>(s: S, sums: &[f32], first: usize, [c_in, k]: [usize; 2], out: &mut [f32]) {
    let t = T::N_IN;
    let zero = s.splat(0.0);
    let n_out = out.len() / (c_in * 9);
    for input in 0..c_in {
        for vector in (0..n_out).step_by(S::LANES) {
            let mut columns = [[zero; 3]; 6];
            for j in 0..t {
                let mut values = [zero; 6];
                for i in 0..t {
                    values[i] = s.load(&sums[(i * t + j) * sum_pitch(c_in, k) + input * k + first + vector..]);
                }
                columns[j] = T::kernel_adjoint(s, values);
            }
            let mut taps = [zero; 9];
            for i in 0..3 {
                let mut row = [zero; 6];
                for j in 0..t {
                    row[j] = columns[j][i];
                }
                let row = T::kernel_adjoint(s, row);
                for j in 0..3 {
                    taps[3 * i + j] = row[j];
                }
            }
            store_nine_taps(s, taps, c_in * 9, &mut out[(vector * c_in + input) * 9..]);
        }
    }
}
