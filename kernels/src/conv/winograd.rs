//! Convolutions with 3×3 kernels and stride 1 by Winograd's F(m×m, 3×3) (Lavin & Gray 2016, "Fast algorithms for
//! convolutional neural networks").
//!
//! A tile of m×m outputs depends on t×t inputs, t = m + 2. With matrices A, B, G that depend on m alone,
//!
//! ```text
//! Y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ x B) ] A
//! ```
//!
//! so that after summing over channels a tile costs t² products for each pair of channels, not 9·m²: 2.25 times fewer for
//! m = 2, 4 times for m = 4. The sums are products of matrices, one for each of the t² places, `[tile][c_in]·[c_in][c_out]`.
//!
//! With dilation d the pixels that meet are d apart: the image falls into d² smaller ones, each convolved without dilation,
//! and a tile's pixels are d apart in memory.
//!
//! The gradient of the input is a convolution with the mirrored kernel; that of the kernel is in [`gradient`].

mod gradient;
mod plan;
mod transform;
mod weights;

pub use gradient::weight_gradient;

use super::gemm::{MAX_VECTORS, Out, Panel, Rows, balanced, max_rows, multiply, panels};
use super::layout::{Weights, padded};
use crate::buffer::Scratch;
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;
use plan::{Ahead, MOST_INPUTS, OUTSIDE, Plan, Spot};
use transform::{Four, SKIPPED, Side, Transform, Two};
use weights::{BLOCK, place_pitch, transform_weights, transformed_len};

/// How many outputs a tile has on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 2×2 outputs from 4×4 inputs: errors as of the plain sum.
    Two,
    /// 4×4 outputs from 6×6 inputs: errors four times as large.
    Four,
}

impl Tile {
    /// Outputs on a side.
    pub const fn n_out(self) -> usize {
        match self {
            Tile::Two => 2,
            Tile::Four => 4,
        }
    }

    /// Inputs on a side.
    pub const fn n_in(self) -> usize {
        self.n_out() + 2
    }
}

/// Tiles whose transforms are kept at a time: enough to use each weight often, few enough for the L2 cache. Images that have fewer are
/// done together.
const TILES_AT_ONCE: usize = 32;

/// Numbers from the matrix of one place to that of the next, for `n_rows` rows of `n`: a line more than they take, so that the
/// places do not fall into the same set of the L1 cache.
fn pitch(n_rows: usize, n: usize) -> usize {
    n_rows * n + 16
}

/// The output, or the gradient of the input, which is the convolution with the mirrored kernel.
///
/// `x` `[n, size, c_in]` → `out` `[n, out_size, c_out]`. `offset`: the zeros above and left of the image; negative crops it.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn convolve(
    isa: Isa,
    tile: Tile,
    x: &[f32],
    channels: [usize; 2],
    [size, out_size]: [[usize; 2]; 2],
    offset: [isize; 2],
    dilation: usize,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let [c_in, c_out] = channels;
    let plan = Plan::new(tile, size, out_size, offset, dilation);
    let lens = [transformed_len(isa, tile, channels)];
    let mut scratch = Scratch::take(lens);
    let [transformed] = scratch.pieces(lens);
    transform_weights(isa, tile, weights, channels, transformed);
    let transformed = &*transformed;
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * out_size[0] * out_size[1]);
    let n = out.len() / out_len;
    // Every tile has sums of its own: images are the same in groups of any number.
    let at_once = (TILES_AT_ONCE / plan.spots.len()).clamp(1, n.div_ceil(rayon::current_num_threads()));
    parallel::for_each_part(out, at_once * out_len, |i, out| {
        let n = out.len() / out_len;
        let residual = residual.map(|r| &r[i * at_once * out_len..][..n * out_len]);
        images(isa, tile, &plan, &x[i * at_once * in_len..][..n * in_len], channels, transformed, bias, residual, out);
    });
}

kernel! {
    /// Some images.
    fn images<'a>(
        s; tile: Tile, plan: &'a Plan, x: &'a [f32], channels: [usize; 2], weights: &'a [f32], bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>, out: &'a mut [f32],
    ) {
        match tile {
            Tile::Two => convolve_images::<S, Two>(s, plan, x, channels, weights, bias, residual, out),
            Tile::Four => convolve_images::<S, Four>(s, plan, x, channels, weights, bias, residual, out),
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn convolve_images<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    x: &[f32],
    [c_in, c_out]: [usize; 2],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let n_places = T::N_IN * T::N_IN;
    let (c, n_vectors) = (c_in.next_multiple_of(BLOCK), padded::<S>(c_out) / S::LANES);
    let widest = panels(n_vectors).map(|(_, n)| n * S::LANES).max().unwrap_or(0);
    let (in_len, out_len) = (plan.n_pixels * c_in, plan.out_size[0] * plan.out_size[1] * c_out);
    let n_tiles_in_all = out.len() / out_len * plan.spots.len();
    let most = n_tiles_in_all.min(TILES_AT_ONCE);
    let lens = [n_places * pitch(most, c), n_places * pitch(most, widest)];
    let mut scratch = Scratch::take(lens);
    let [v, m] = scratch.pieces(lens);
    let (inputs, outputs) = (Ahead::new(plan, in_len, x), Ahead::new(plan, out_len, out));
    let residuals = residual.map(|residual| Ahead::new(plan, out_len, residual));
    for (first, n_tiles) in balanced(n_tiles_in_all, TILES_AT_ONCE) {
        transform_inputs::<S, T>(s, plan, [first, n_tiles], x, inputs, [c_in, c], v);
        for (first_vector, n) in panels(n_vectors) {
            let (first_channel, width) = (first_vector * S::LANES, n * S::LANES);
            // All panels before the last are as wide as any.
            let before = first_channel / (MAX_VECTORS * S::LANES) * (c / BLOCK) * n_places;
            let panel = &weights[before * place_pitch(MAX_VECTORS * S::LANES)..];
            multiply_places::<S, T>(s, plan, [first, n_tiles], [c, n], v, panel, m);
            for t in 0..n_tiles {
                let (image, spot) = plan.tile(first + t);
                let (residual, out) =
                    (residual.map(|residual| &residual[image * out_len..]), &mut out[image * out_len..]);
                if first_vector == 0 {
                    outputs.ask(s, first + t);
                    if let Some(residuals) = residuals {
                        residuals.ask(s, first + t);
                    }
                }
                for vector in (0..width).step_by(S::LANES) {
                    let m = &m[t * width + vector..];
                    let channels = [first_channel + vector, c_out];
                    write_tile::<S, T>(s, plan, spot, m, pitch(n_tiles, width), channels, [bias, residual], out);
                }
            }
        }
    }
}

/// The outputs of one tile and a vector of channels from `first` of `c_out`, as far as both exist, plus bias and residual.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn write_tile<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    spot: &Spot,
    m: &[f32],
    pitch: usize,
    [first, c_out]: [usize; 2],
    [bias, residual]: [Option<&[f32]>; 2],
    out: &mut [f32],
) {
    let at = spot.out * c_out + first;
    let step = [plan.out_size[1] * c_out * plan.dilation, plan.dilation * c_out];
    let n = S::LANES.min(c_out - first);
    let bias = match bias {
        Some(bias) => s.load_some(&bias[first..first + n]),
        None => s.splat(0.0),
    };
    if n == S::LANES {
        let residual = residual.map(|residual| &residual[at..]);
        let to = Target { step, inside: spot.inside, bias, residual };
        by_sides!(spot.sides, transform_output::<S, T>(s, m, pitch, to, &mut out[at..]));
        return;
    }
    // Whole vectors beside the output first.
    let mut whole = [0.0; MOST_OUTPUTS * MOST_LANES];
    let to = Target { step: [4 * S::LANES, S::LANES], inside: spot.inside, bias, residual: None };
    by_sides!(spot.sides, transform_output::<S, T>(s, m, pitch, to, &mut whole));
    for (i, j) in (0..spot.inside[0]).flat_map(|i| (0..spot.inside[1]).map(move |j| (i, j))) {
        let at = at + i * step[0] + j * step[1];
        let mut v = s.load(&whole[(4 * i + j) * S::LANES..]);
        if let Some(residual) = residual {
            v = s.add(v, s.load_first(&residual[at..at + n]));
        }
        s.store_first(&mut out[at..at + n], v);
    }
}

/// The products at every place of the tiles `first`, … with a panel of `n` vectors of the weights: `m` `[place][tile][width]`.
#[inline(always)]
fn multiply_places<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    [first, n_tiles]: [usize; 2],
    [c, n]: [usize; 2],
    v: &[f32],
    panel: &[f32],
    m: &mut [f32],
) {
    let n_places = T::N_IN * T::N_IN;
    let width = n * S::LANES;
    let (v_pitch, m_pitch) = (pitch(n_tiles, c), pitch(n_tiles, width));
    let segments: Vec<[usize; 2]> =
        (0..c / BLOCK).map(|block| [block * BLOCK, block * n_places * place_pitch(width)]).collect();
    for place in 0..n_places {
        let b = &panel[place * place_pitch(width)..];
        assert!(b.len() >= (c / BLOCK - 1) * n_places * place_pitch(width) + BLOCK * width);
        // Of one image after the other, unless all tiles have the place.
        let having = plan.having(place / T::N_IN, place % T::N_IN);
        let n_each = plan.spots.len();
        let (images, having) = match having.len() == n_each {
            true => (0..1, first..first + n_tiles),
            false => (first / n_each..(first + n_tiles).div_ceil(n_each), having),
        };
        for image in images {
            let begin = (image * n_each + having.start).clamp(first, first + n_tiles) - first;
            let end = (image * n_each + having.end).clamp(first, first + n_tiles) - first;
            for (row, n_rows) in balanced(end.saturating_sub(begin), max_rows::<S>(n)) {
                let row = begin + row;
                let a = &v[place * v_pitch + row * c..][..n_rows * c];
                let to = &mut m[place * m_pitch + row * width..][..n_rows * width];
                let a = Rows { at: a.as_ptr(), row: c, step: 1 };
                let b = Panel { at: b.as_ptr(), step: width };
                let to = Out { at: to.as_mut_ptr(), row: width, add: false };
                // SAFETY: the three slices have the lengths that are read and written.
                unsafe { multiply(s, [n_rows, n], a, b, &segments, BLOCK, to) };
            }
        }
    }
}

/// Bᵀ x B of the tiles `first`, … of some images: `v` `[place][tile][channel]`, zeros for the channels from `c_in` to `c`.
#[inline(always)]
fn transform_inputs<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    [first, n_tiles]: [usize; 2],
    x: &[f32],
    ahead: Ahead,
    [c_in, c]: [usize; 2],
    v: &mut [f32],
) {
    let pitch = pitch(n_tiles, c);
    let lens = [c];
    let mut scratch = Scratch::take(lens);
    let [zeros] = scratch.pieces(lens);
    zeros.fill(0.0);
    let whole = c_in / S::LANES * S::LANES;
    let mut part = [0.0; MOST_INPUTS * MOST_LANES];
    for t in 0..n_tiles {
        let (image, spot) = plan.tile(first + t);
        let x = &x[image * plan.n_pixels * c_in..][..plan.n_pixels * c_in];
        ahead.ask(s, first + t);
        let mut from = [zeros.as_ptr(); MOST_INPUTS];
        for (from, &pixel) in from.iter_mut().zip(&spot.inputs) {
            if pixel != OUTSIDE {
                *from = x.as_ptr().wrapping_add(pixel as usize * c_in);
            }
        }
        for channel in (0..whole).step_by(S::LANES) {
            let to = &mut v[t * c + channel..];
            // SAFETY: at each there are the channels of a pixel, or as many zeros.
            unsafe { by_sides!(spot.sides, transform_input::<S, T>(s, &from, channel, to, pitch)) };
        }
        for channel in (whole..c).step_by(S::LANES) {
            // A vector would reach beyond the pixel, perhaps wholly.
            let n = c_in.saturating_sub(channel);
            let mut from = [zeros.as_ptr(); MOST_INPUTS];
            for ((from, part), &pixel) in from.iter_mut().zip(part.chunks_exact_mut(S::LANES)).zip(&spot.inputs) {
                if n > 0 && pixel != OUTSIDE {
                    part[..n].copy_from_slice(&x[pixel as usize * c_in + channel..][..n]);
                    *from = part.as_ptr();
                }
            }
            let to = &mut v[t * c + channel..];
            // SAFETY: at each there is a vector of zeros, or of the channels that there are and zeros.
            unsafe { by_sides!(spot.sides, transform_input::<S, T>(s, &from, 0, to, pitch)) };
        }
    }
}

/// Lanes of the widest vectors.
const MOST_LANES: usize = 16;

/// Outputs of the largest tile.
const MOST_OUTPUTS: usize = 16;

/// Calls `$function::<S, T, SHORT_HEIGHT, SHORT_WIDTH>(…)` for a tile's sides: loops over a tile are unrolled only if its size is
/// known when they are compiled.
macro_rules! by_sides {
    ($sides:expr, $function:ident::<$s:ident, $t:ident>($($argument:expr),* $(,)?)) => {
        match $sides {
            [Side::Full, Side::Full] => $function::<$s, $t, false, false>($($argument),*),
            [Side::Full, Side::Short] => $function::<$s, $t, false, true>($($argument),*),
            [Side::Short, Side::Full] => $function::<$s, $t, true, false>($($argument),*),
            [Side::Short, Side::Short] => $function::<$s, $t, true, true>($($argument),*),
        }
    };
}
use by_sides;

/// Bᵀ x B of one tile and a vector of channels from `channel`. `x`: its inputs; `v`: the first place, `pitch` apart.
///
/// # Safety
/// A vector can be read `channel` numbers behind each of `x` that the tile has.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
unsafe fn transform_input<S: Simd, T: Transform, const SHORT_HEIGHT: bool, const SHORT_WIDTH: bool>(
    s: S,
    x: &[*const f32; MOST_INPUTS],
    channel: usize,
    v: &mut [f32],
    pitch: usize,
) {
    let t = T::N_IN;
    let zero = s.splat(0.0);
    let (n_rows, n_columns) = (t - usize::from(SHORT_HEIGHT), t - usize::from(SHORT_WIDTH));
    assert!(v.len() >= (t * t - 1) * pitch + S::LANES);
    let mut columns = [[zero; 6]; 6];
    for j in 0..n_columns {
        let mut values = [zero; 6];
        for i in 0..n_rows {
            // SAFETY: the caller's promise.
            values[i] = unsafe { s.load_ptr(x[i * t + j].add(channel)) };
        }
        columns[j] = T::input::<S, SHORT_HEIGHT>(s, values);
    }
    for i in 0..t {
        if SHORT_HEIGHT && i == SKIPPED {
            continue;
        }
        let mut row = [zero; 6];
        for j in 0..n_columns {
            row[j] = columns[j][i];
        }
        let row = T::input::<S, SHORT_WIDTH>(s, row);
        for j in 0..t {
            if SHORT_WIDTH && j == SKIPPED {
                continue;
            }
            // SAFETY: inside `v`, by the assertion.
            unsafe { s.store_ptr(v.as_mut_ptr().add((i * t + j) * pitch), row[j]) };
        }
    }
}

/// Where and how a tile's outputs are written.
struct Target<'a, V> {
    /// Numbers between rows and between columns.
    step: [usize; 2],
    /// Rows and columns that exist.
    inside: [usize; 2],
    /// Added to all.
    bias: V,
    /// Added to each, laid out as the output.
    residual: Option<&'a [f32]>,
}

/// Aᵀ M A of one tile and a vector of channels, of which the part that is inside the output is written.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn transform_output<S: Simd, T: Transform, const SHORT_HEIGHT: bool, const SHORT_WIDTH: bool>(
    s: S,
    m: &[f32],
    pitch: usize,
    Target { step, inside, bias, residual }: Target<'_, S::V>,
    out: &mut [f32],
) {
    let t = T::N_IN;
    let zero = s.splat(0.0);
    let (n_rows, n_columns) = (t - 2 - usize::from(SHORT_HEIGHT), t - 2 - usize::from(SHORT_WIDTH));
    assert!(m.len() >= (t * t - 1) * pitch + S::LANES && inside[0] <= n_rows && inside[1] <= n_columns);
    let reach = (inside[0] - 1) * step[0] + (inside[1] - 1) * step[1] + S::LANES;
    assert!(out.len() >= reach && residual.is_none_or(|residual| residual.len() >= reach));
    let mut columns = [[zero; 6]; 6];
    for j in 0..t {
        if SHORT_WIDTH && j == SKIPPED {
            continue;
        }
        let mut values = [zero; 6];
        for i in 0..t {
            // SAFETY: inside `m`, by the assertion.
            values[i] = unsafe { s.load_ptr(m.as_ptr().add((i * t + j) * pitch)) };
        }
        columns[j] = T::output::<S, SHORT_HEIGHT>(s, values);
    }
    for i in 0..n_rows {
        let mut row = [zero; 6];
        for j in 0..t {
            row[j] = columns[j][i];
        }
        let row = T::output::<S, SHORT_WIDTH>(s, row);
        for j in 0..n_columns {
            if i < inside[0] && j < inside[1] {
                let at = i * step[0] + j * step[1];
                let mut y = s.add(row[j], bias);
                if let Some(residual) = residual {
                    // SAFETY: inside the residual, by the assertion.
                    y = s.add(y, unsafe { s.load_ptr(residual.as_ptr().add(at)) });
                }
                // SAFETY: inside `out`, by the assertion.
                unsafe { s.store_ptr(out.as_mut_ptr().add(at), y) };
            }
        }
    }
}
