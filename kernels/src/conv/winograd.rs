//! Convolutions with 3×3 kernels and stride 1 by Winograd's minimal filtering (Lavin & Gray 2016, "Fast algorithms for
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
//! The gradient of the input is a convolution with the mirrored kernel. That of the kernel is the adjoint of the same formula,
//! Gᵀ [ Σ (Bᵀ x B) ⊙ (A y Aᵀ) ] G, summed over tiles.

use super::ConvShape;
use super::gemm::{Out, Panel, Rows, balanced, max_rows, multiply, panels};
use super::layout::{Frame, Weights, padded, unpack};
use crate::buffer::{Aligned, Scratch, filled_aligned};
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// How many outputs a tile has on each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 2×2 outputs from 4×4 inputs: errors as of the plain sum.
    Two,
    /// 4×4 outputs from 6×6 inputs: errors four times as large.
    Four,
}

/// Places that [`Tile::Four`] evaluates polynomials at, besides 0 and ∞: ±P and ±Q. The usual 1 and 2 lose more than twice as
/// many digits; these are near the best, and their powers are exact in f32.
const P: f32 = 0.75;
const Q: f32 = 1.5;

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

/// The transforms along one side, for vectors of tiles or channels. Arrays hold what the tile has, then rubbish.
trait Transform {
    const TILE: Tile;

    /// Bᵀ: inputs to places.
    fn input<S: Simd>(s: S, x: [S::V; 6]) -> [S::V; 6];
    /// Aᵀ: places to outputs.
    fn output<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 6];
    /// A: gradients of outputs to places.
    fn output_adjoint<S: Simd>(s: S, y: [S::V; 6]) -> [S::V; 6];
    /// G: taps to places.
    fn kernel<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6];
    /// Gᵀ: places to gradients of taps.
    fn kernel_adjoint<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3];
}

struct Two;

impl Transform for Two {
    const TILE: Tile = Tile::Two;

    #[inline(always)]
    fn input<S: Simd>(s: S, [a, b, c, d, ..]: [S::V; 6]) -> [S::V; 6] {
        [s.sub(a, c), s.add(b, c), s.sub(c, b), s.sub(d, b), a, a]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [a, b, c, d, ..]: [S::V; 6]) -> [S::V; 6] {
        let sum = s.add(b, c);
        let difference = s.sub(b, c);
        [s.add(a, sum), s.add(difference, d), a, a, a, a]
    }
    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, [a, b, ..]: [S::V; 6]) -> [S::V; 6] {
        [a, s.add(a, b), s.sub(a, b), b, a, a]
    }
    #[inline(always)]
    fn kernel<S: Simd>(s: S, [a, b, c]: [S::V; 3]) -> [S::V; 6] {
        let half = s.splat(0.5);
        let outer = s.mul(s.add(a, c), half);
        let (plus, minus) = (s.fma(b, half, outer), s.sub(outer, s.mul(b, half)));
        [a, plus, minus, c, a, a]
    }
    #[inline(always)]
    fn kernel_adjoint<S: Simd>(s: S, [a, b, c, d, ..]: [S::V; 6]) -> [S::V; 3] {
        let half = s.splat(0.5);
        let sum = s.mul(s.add(b, c), half);
        [s.add(a, sum), s.mul(s.sub(b, c), half), s.add(sum, d)]
    }
}

struct Four;

const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// Lagrange's denominators, 2p²(p² − q²) and 2q²(q² − p²).
const P_SCALE: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const Q_SCALE: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

impl Transform for Four {
    const TILE: Tile = Tile::Four;

    #[inline(always)]
    fn input<S: Simd>(s: S, [x0, x1, x2, x3, x4, x5]: [S::V; 6]) -> [S::V; 6] {
        let (product, minus_sum) = (s.splat(P2 * Q2), s.splat(-(P2 + Q2)));
        let (minus_p2, minus_q2) = (s.splat(-P2), s.splat(-Q2));
        let (p, q) = (s.splat(P), s.splat(Q));
        let (p_even, p_odd) = (s.fma(minus_q2, x2, x4), s.mul(p, s.fma(minus_q2, x1, x3)));
        let (q_even, q_odd) = (s.fma(minus_p2, x2, x4), s.mul(q, s.fma(minus_p2, x1, x3)));
        [
            s.fma(product, x0, s.fma(minus_sum, x2, x4)),
            s.add(p_even, p_odd),
            s.sub(p_even, p_odd),
            s.add(q_even, q_odd),
            s.sub(q_even, q_odd),
            s.fma(product, x1, s.fma(minus_sum, x3, x5)),
        ]
    }
    #[inline(always)]
    fn output<S: Simd>(s: S, [m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 6] {
        let (p_sum, p_difference) = (s.add(m1, m2), s.sub(m1, m2));
        let (q_sum, q_difference) = (s.add(m3, m4), s.sub(m3, m4));
        [
            s.add(m0, s.add(p_sum, q_sum)),
            s.fma(s.splat(Q), q_difference, s.mul(s.splat(P), p_difference)),
            s.fma(s.splat(Q2), q_sum, s.mul(s.splat(P2), p_sum)),
            s.fma(s.splat(Q * Q2), q_difference, s.fma(s.splat(P * P2), p_difference, m5)),
            m0,
            m0,
        ]
    }
    #[inline(always)]
    fn output_adjoint<S: Simd>(s: S, [y0, y1, y2, y3, ..]: [S::V; 6]) -> [S::V; 6] {
        let (p_even, p_odd) = (s.fma(s.splat(P2), y2, y0), s.fma(s.splat(P * P2), y3, s.mul(s.splat(P), y1)));
        let (q_even, q_odd) = (s.fma(s.splat(Q2), y2, y0), s.fma(s.splat(Q * Q2), y3, s.mul(s.splat(Q), y1)));
        [y0, s.add(p_even, p_odd), s.sub(p_even, p_odd), s.add(q_even, q_odd), s.sub(q_even, q_odd), y3]
    }
    #[inline(always)]
    fn kernel<S: Simd>(s: S, [a, b, c]: [S::V; 3]) -> [S::V; 6] {
        let (p_scale, q_scale) = (s.splat(P_SCALE), s.splat(Q_SCALE));
        let (p_even, p_odd) = (s.mul(p_scale, s.fma(s.splat(P2), c, a)), s.mul(s.splat(P * P_SCALE), b));
        let (q_even, q_odd) = (s.mul(q_scale, s.fma(s.splat(Q2), c, a)), s.mul(s.splat(Q * Q_SCALE), b));
        [
            s.mul(s.splat(1.0 / (P2 * Q2)), a),
            s.add(p_even, p_odd),
            s.sub(p_even, p_odd),
            s.add(q_even, q_odd),
            s.sub(q_even, q_odd),
            c,
        ]
    }
    #[inline(always)]
    fn kernel_adjoint<S: Simd>(s: S, [u0, u1, u2, u3, u4, u5]: [S::V; 6]) -> [S::V; 3] {
        let (p_scale, q_scale) = (s.splat(P_SCALE), s.splat(Q_SCALE));
        let (p_sum, q_sum) = (s.mul(p_scale, s.add(u1, u2)), s.mul(q_scale, s.add(u3, u4)));
        let (p_difference, q_difference) = (s.sub(u1, u2), s.sub(u3, u4));
        [
            s.fma(s.splat(1.0 / (P2 * Q2)), u0, s.add(p_sum, q_sum)),
            s.fma(s.splat(P * P_SCALE), p_difference, s.mul(s.splat(Q * Q_SCALE), q_difference)),
            s.fma(s.splat(P2), p_sum, s.fma(s.splat(Q2), q_sum, u5)),
        ]
    }
}

/// One tile: where its first input and its first output are, and how many of its outputs exist.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Pixel of the padded image.
    input: usize,
    /// Pixel of the output.
    out: usize,
    /// Rows and columns that are inside the output.
    inside: [usize; 2],
}

/// Where everything of one image is.
#[derive(Debug)]
struct Plan {
    dilation: usize,
    out_size: [usize; 2],
    /// Of the input.
    frame: Frame,
    places: Vec<Place>,
}

impl Plan {
    /// The tiles of an output of `out_size` from an image of `size` with `offset` zeros before it.
    fn new(tile: Tile, size: [usize; 2], out_size: [usize; 2], offset: isize, dilation: usize) -> Self {
        let (m, d) = (tile.n_out(), dilation);
        // Outputs y, y + d, y + 2d, … belong together. The last tile may reach beyond the output, and its inputs with it.
        let n_tiles = |side: usize, first: usize| (side - first).div_ceil(d).div_ceil(m);
        let reach = |side: usize| {
            let phases = 0..d.min(side);
            phases.map(|first| first + d * (m * n_tiles(side, first) + 1) + 1).max().unwrap_or(1)
        };
        let frame_size = [reach(out_size[0]), reach(out_size[1])];
        let mut places = Vec::new();
        for y0 in 0..d.min(out_size[0]) {
            for x0 in 0..d.min(out_size[1]) {
                for tile_y in 0..n_tiles(out_size[0], y0) {
                    for tile_x in 0..n_tiles(out_size[1], x0) {
                        let (y, x) = (y0 + d * m * tile_y, x0 + d * m * tile_x);
                        let inside = |side: usize, at: usize| (side - at).div_ceil(d).min(m);
                        places.push(Place {
                            input: y * frame_size[1] + x,
                            out: y * out_size[1] + x,
                            inside: [inside(out_size[0], y), inside(out_size[1], x)],
                        });
                    }
                }
            }
        }
        Self { dilation, out_size, frame: Frame::new(size, offset, frame_size), places }
    }
}

/// Tiles whose transforms are kept at a time: enough to use each weight often, few enough for the second-level cache.
const TILES_AT_ONCE: usize = 32;

/// Numbers from the matrix of one place to that of the next, for `n_rows` rows of `n`: a line more than they take, so that the
/// places do not fall into the same set of the first-level cache.
fn pitch(n_rows: usize, n: usize) -> usize {
    n_rows * n + 16
}

/// The output, or the gradient of the input, which is the convolution with the mirrored kernel.
///
/// `x` `[n, c_in, size]` → `out` `[n, c_out, out_size]`. `offset`: the zeros before the image; negative crops it.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn convolve(
    isa: Isa,
    tile: Tile,
    x: &[f32],
    [c_in, c_out]: [usize; 2],
    [size, out_size]: [[usize; 2]; 2],
    offset: isize,
    dilation: usize,
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let plan = Plan::new(tile, size, out_size, offset, dilation);
    let transformed = transform_weights(isa, tile, weights, c_in, c_out);
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * out_size[0] * out_size[1]);
    parallel::for_each_part(out, out_len, |i, out| {
        let x = &x[i * in_len..][..in_len];
        let residual = residual.map(|r| &r[i * out_len..][..out_len]);
        match tile {
            Tile::Two => image_by_two(isa, &plan, x, [c_in, c_out], &transformed, bias, residual, out),
            Tile::Four => image_by_four(isa, &plan, x, [c_in, c_out], &transformed, bias, residual, out),
        }
    });
}

kernel! {
    fn image_by_two<'a>(
        s; plan: &'a Plan, x: &'a [f32], channels: [usize; 2], weights: &'a [f32], bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>, out: &'a mut [f32],
    ) {
        image::<S, Two>(s, plan, x, channels, weights, bias, residual, out)
    }
}

kernel! {
    fn image_by_four<'a>(
        s; plan: &'a Plan, x: &'a [f32], channels: [usize; 2], weights: &'a [f32], bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>, out: &'a mut [f32],
    ) {
        image::<S, Four>(s, plan, x, channels, weights, bias, residual, out)
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn image<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    x: &[f32],
    [c_in, c_out]: [usize; 2],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let n_places = T::TILE.n_in() * T::TILE.n_in();
    let (c, n_vectors) = (c_in.next_multiple_of(BLOCK), padded::<S>(c_out) / S::LANES);
    let widest = panels::<S>(n_vectors).map(|(_, n)| n * S::LANES).max().unwrap_or(0);
    let most = plan.places.len().min(TILES_AT_ONCE);
    let out_pixels = plan.out_size[0] * plan.out_size[1];
    let stride = n_vectors * S::LANES;
    let lens =
        [plan.frame.n_pixels() * c, n_places * pitch(most, c), n_places * pitch(most, widest), out_pixels * stride];
    let mut scratch = Scratch::take(lens);
    let [padded_x, v, m, pixels] = scratch.pieces(lens);
    plan.frame.pack(s, x, c_in, c, padded_x);
    for (first, n_tiles) in balanced(plan.places.len(), TILES_AT_ONCE) {
        let places = &plan.places[first..first + n_tiles];
        let v_pitch = pitch(n_tiles, c);
        for (t, place) in places.iter().enumerate() {
            for channel in (0..c).step_by(S::LANES) {
                let from = place.input * c + channel;
                let row = plan.frame.size[1] * c * plan.dilation;
                transform_input::<S, T>(
                    s,
                    &padded_x[from..],
                    [row, plan.dilation * c],
                    &mut v[t * c + channel..],
                    v_pitch,
                );
            }
        }
        for (first_vector, n) in panels::<S>(n_vectors) {
            let width = n * S::LANES;
            let m_pitch = pitch(n_tiles, width);
            let panel = &weights[first_vector * S::LANES * c * n_places..][..width * c * n_places];
            let segments: Vec<[usize; 2]> =
                (0..c / BLOCK).map(|block| [block * BLOCK, block * BLOCK * n_places * width]).collect();
            for place in 0..n_places {
                for (row, n_rows) in balanced(n_tiles, max_rows::<S>(n)) {
                    let a = &v[place * v_pitch + row * c..][..n_rows * c];
                    let b = &panel[place * BLOCK * width..][..((c / BLOCK - 1) * n_places + 1) * BLOCK * width];
                    let to = &mut m[place * m_pitch + row * width..][..n_rows * width];
                    let a = Rows { at: a.as_ptr(), row: c, step: 1 };
                    let b = Panel { at: b.as_ptr(), step: width };
                    let to = Out { at: to.as_mut_ptr(), row: width, add: false };
                    // SAFETY: the three slices have the lengths that are read and written.
                    unsafe { multiply(s, [n_rows, n], a, b, &segments, BLOCK, to) };
                }
            }
            for (t, place) in places.iter().enumerate() {
                for vector in 0..n {
                    let channel = (first_vector + vector) * S::LANES;
                    let values = &m[t * width + vector * S::LANES..];
                    let row = plan.out_size[1] * stride * plan.dilation;
                    let to = &mut pixels[place.out * stride + channel..];
                    transform_output::<S, T>(s, values, m_pitch, to, [row, plan.dilation * stride], place.inside);
                }
            }
        }
    }
    unpack(s, pixels, stride, out_pixels, bias, residual, out);
}

/// Bᵀ x B of one tile and a vector of channels. `x`: its first input, `step` apart in rows and columns; `v`: the first place,
/// `pitch` apart.
#[inline(always)]
fn transform_input<S: Simd, T: Transform>(s: S, x: &[f32], step: [usize; 2], v: &mut [f32], pitch: usize) {
    let t = T::TILE.n_in();
    let zero = s.splat(0.0);
    assert!(x.len() >= (t - 1) * (step[0] + step[1]) + S::LANES && v.len() >= (t * t - 1) * pitch + S::LANES);
    let mut columns = [[zero; 6]; 6];
    for (j, column) in columns.iter_mut().enumerate().take(t) {
        let mut values = [zero; 6];
        for (i, value) in values.iter_mut().enumerate().take(t) {
            // SAFETY: inside `x`, by the assertion.
            *value = unsafe { s.load_ptr(x.as_ptr().add(i * step[0] + j * step[1])) };
        }
        *column = T::input(s, values);
    }
    for i in 0..t {
        let row = T::input(s, std::array::from_fn(|j| columns[j][i]));
        for (j, value) in row.into_iter().enumerate().take(t) {
            // SAFETY: inside `v`, by the assertion.
            unsafe { s.store_ptr(v.as_mut_ptr().add((i * t + j) * pitch), value) };
        }
    }
}

/// Aᵀ M A of one tile and a vector of channels, of which the part `inside` is written.
#[inline(always)]
fn transform_output<S: Simd, T: Transform>(
    s: S,
    m: &[f32],
    pitch: usize,
    out: &mut [f32],
    step: [usize; 2],
    inside: [usize; 2],
) {
    let (t, n_out) = (T::TILE.n_in(), T::TILE.n_out());
    let zero = s.splat(0.0);
    assert!(m.len() >= (t * t - 1) * pitch + S::LANES && inside[0] <= n_out && inside[1] <= n_out);
    assert!(out.len() >= (inside[0] - 1) * step[0] + (inside[1] - 1) * step[1] + S::LANES);
    let mut columns = [[zero; 6]; 6];
    for (j, column) in columns.iter_mut().enumerate().take(t) {
        let mut values = [zero; 6];
        for (i, value) in values.iter_mut().enumerate().take(t) {
            // SAFETY: inside `m`, by the assertion.
            *value = unsafe { s.load_ptr(m.as_ptr().add((i * t + j) * pitch)) };
        }
        *column = T::output(s, values);
    }
    for i in 0..n_out {
        let row = T::output(s, std::array::from_fn(|j| columns[j][i]));
        for (j, value) in row.into_iter().enumerate().take(n_out) {
            if i < inside[0] && j < inside[1] {
                // SAFETY: inside `out`, by the assertion.
                unsafe { s.store_ptr(out.as_mut_ptr().add(i * step[0] + j * step[1]), value) };
            }
        }
    }
}

/// A y Aᵀ of one tile and a vector of channels; outputs that are not `inside` count as zero.
#[inline(always)]
fn transform_gradient<S: Simd, T: Transform>(
    s: S,
    y: &[f32],
    step: [usize; 2],
    inside: [usize; 2],
    v: &mut [f32],
    pitch: usize,
) {
    let (t, n_out) = (T::TILE.n_in(), T::TILE.n_out());
    let zero = s.splat(0.0);
    assert!(y.len() >= (inside[0] - 1) * step[0] + (inside[1] - 1) * step[1] + S::LANES);
    assert!(v.len() >= (t * t - 1) * pitch + S::LANES && inside[0] <= n_out && inside[1] <= n_out);
    let mut columns = [[zero; 6]; 6];
    for (j, column) in columns.iter_mut().enumerate().take(inside[1]) {
        let mut values = [zero; 6];
        for (i, value) in values.iter_mut().enumerate().take(inside[0]) {
            // SAFETY: inside `y`, by the assertion.
            *value = unsafe { s.load_ptr(y.as_ptr().add(i * step[0] + j * step[1])) };
        }
        *column = T::output_adjoint(s, values);
    }
    for i in 0..t {
        let row = T::output_adjoint(s, std::array::from_fn(|j| columns[j][i]));
        for (j, value) in row.into_iter().enumerate().take(t) {
            // SAFETY: inside `v`, by the assertion.
            unsafe { s.store_ptr(v.as_mut_ptr().add((i * t + j) * pitch), value) };
        }
    }
}

/// Input channels whose transformed weights lie together.
const BLOCK: usize = 16;

/// G g Gᵀ of all kernels: `[panel of c_out][block of c_in][place][channel of the block][width of the panel]`.
fn transform_weights(isa: Isa, tile: Tile, weights: Weights<'_>, c_in: usize, c_out: usize) -> Aligned {
    let t = tile.n_in();
    let n_blocks = c_in.div_ceil(BLOCK);
    let panels = weight_panels(isa, c_out);
    let n_values = panels.iter().map(|[_, width]| width).sum::<usize>() * n_blocks * BLOCK * t * t;
    let transform = |out: &mut [f32]| {
        let mut rest = out;
        for [first_out, width] in panels {
            let len = BLOCK * t * t * width;
            let (panel, more) = rest.split_at_mut(n_blocks * len);
            rest = more;
            parallel::for_each_part(panel, len, |block, out| {
                let inputs = [block * BLOCK, c_in.min((block + 1) * BLOCK)];
                let outputs = [first_out, c_out.min(first_out + width)];
                match tile {
                    Tile::Two => weights_by_two(isa, weights, inputs, outputs, out),
                    Tile::Four => weights_by_four(isa, weights, inputs, outputs, out),
                }
            });
        }
    };
    // SAFETY: the panels' blocks are all of it, and each is written whole.
    unsafe { filled_aligned(n_values, transform) }
}

kernel! {
    /// The first channel and the width of each panel of output channels.
    fn weight_panels<'a>(s; c_out: usize) -> Vec<[usize; 2]> {
        let _ = s;
        panels::<S>(padded::<S>(c_out) / S::LANES).map(|(first, n)| [first * S::LANES, n * S::LANES]).collect()
    }
}

kernel! {
    fn weights_by_two<'a>(
        s; weights: Weights<'a>, inputs: [usize; 2], outputs: [usize; 2], out: &'a mut [f32],
    ) {
        weight_block::<S, Two>(s, weights, inputs, outputs, out)
    }
}

kernel! {
    fn weights_by_four<'a>(
        s; weights: Weights<'a>, inputs: [usize; 2], outputs: [usize; 2], out: &'a mut [f32],
    ) {
        weight_block::<S, Four>(s, weights, inputs, outputs, out)
    }
}

/// The weights from some input channels (first, end) to those of a panel; zeros for channels that do not exist.
#[inline(always)]
fn weight_block<S: Simd, T: Transform>(
    s: S,
    weights: Weights<'_>,
    [first_in, end_in]: [usize; 2],
    [first_out, end_out]: [usize; 2],
    out: &mut [f32],
) {
    let t = T::TILE.n_in();
    let width = out.len() / (BLOCK * t * t);
    for input in 0..BLOCK {
        for vector in (0..width).step_by(S::LANES) {
            let first = first_out + vector;
            let mut taps = [s.splat(0.0); 9];
            if first_in + input < end_in {
                taps = weights.nine_taps(s, first, end_out.saturating_sub(first), first_in + input);
            }
            let mut columns = [[s.splat(0.0); 6]; 3];
            for (j, column) in columns.iter_mut().enumerate() {
                *column = T::kernel(s, [taps[j], taps[3 + j], taps[6 + j]]);
            }
            for i in 0..t {
                let row = T::kernel(s, [columns[0][i], columns[1][i], columns[2][i]]);
                for (j, value) in row.into_iter().enumerate().take(t) {
                    s.store(&mut out[((i * t + j) * BLOCK + input) * width + vector..], value);
                }
            }
        }
    }
}

/// Numbers of transformed tiles that are kept at a time for the gradient of the weights: 16 MB, so that they do not leave the
/// last cache for memory. It decides in which order sums are rounded, so it does not depend on the machine.
const TRANSFORMED: usize = 4 << 20;

/// The gradient of the weights `[c_out, c_in, 3, 3]` of a convolution of `x` whose output has the gradient `grad`.
pub fn weight_gradient(isa: Isa, tile: Tile, shape: &ConvShape, x: &[f32], grad: &[f32]) -> Vec<f32> {
    let ConvShape { n, c_in, c_out, .. } = *shape;
    let out_size = shape.out_size();
    let plan = Plan::new(tile, shape.size, out_size, shape.padding as isize, shape.dilation);
    let out_frame = Frame::plain(out_size);
    let n_places = tile.n_in() * tile.n_in();
    let lanes = lanes(isa);
    let [c, k] = [c_in, c_out].map(|channels| channels.next_multiple_of(lanes));
    let [x_len, grad_len] = [c_in * shape.size[0] * shape.size[1], c_out * out_size[0] * out_size[1]];
    let per_image = n_places * plan.places.len();
    let at_once = (TRANSFORMED / (per_image * (c + k))).clamp(1, n.max(1));

    // Of each image: [place][tile][channel].
    let [v_len, w_len] = [c, k].map(|channels| n_places * pitch(plan.places.len(), channels));
    let lens = [at_once * v_len, at_once * w_len, n_places * c_in * k];
    let mut scratch = Scratch::take(lens);
    let [v, w, sums] = scratch.pieces(lens);
    if n == 0 {
        sums.fill(0.0);
    }
    for first in (0..n).step_by(at_once) {
        let n_images = at_once.min(n - first);
        let parts: Vec<(bool, usize, &mut [f32])> =
            v.chunks_mut(v_len).enumerate().map(|(i, part)| (true, i, part)).collect();
        let more = w.chunks_mut(w_len).enumerate().map(|(i, part)| (false, i, part));
        let parts = parts.into_iter().chain(more).filter(|(_, i, _)| *i < n_images).collect();
        parallel::for_each_of(parts, |(is_input, i, out)| {
            let image = first + i;
            let (values, channels, frame) = match is_input {
                true => (&x[image * x_len..][..x_len], c_in, &plan.frame),
                false => (&grad[image * grad_len..][..grad_len], c_out, &out_frame),
            };
            match tile {
                Tile::Two => tiles_by_two(isa, &plan, frame, values, channels, is_input, out),
                Tile::Four => tiles_by_four(isa, &plan, frame, values, channels, is_input, out),
            }
        });
        let rows_per_part = c_in.div_ceil(c_in.div_ceil(ROWS_PER_PART));
        let parts = sums.chunks_mut(c_in * k).enumerate().flat_map(|(place, sum)| {
            sum.chunks_mut(rows_per_part * k).enumerate().map(move |(part, sum)| (place, part * rows_per_part, sum))
        });
        let (v, w) = (&*v, &*w);
        parallel::for_each_of(parts.collect(), |(place, first_row, sum)| {
            let tiles = Tiles { v, w, pitches: [v_len, w_len], n_images, n_tiles: plan.places.len() };
            add_products(isa, tiles, place, first_row, [c, k], first > 0, sum);
        });
    }

    let mut out = vec![0.0; c_out * c_in * 9];
    let sums = &*sums;
    parallel::for_each_part(&mut out, lanes * c_in * 9, |vector, out| match tile {
        Tile::Two => finish_by_two(isa, sums, vector * lanes, [c_in, k], out),
        Tile::Four => finish_by_four(isa, sums, vector * lanes, [c_in, k], out),
    });
    out
}

/// Rows of the sums that one piece of work adds to.
const ROWS_PER_PART: usize = 64;

kernel! {
    fn lanes<'a>(s;) -> usize {
        let _ = s;
        S::LANES
    }
}

kernel! {
    fn tiles_by_two<'a>(
        s; plan: &'a Plan, frame: &'a Frame, values: &'a [f32], channels: usize, is_input: bool, out: &'a mut [f32],
    ) {
        transform_tiles::<S, Two>(s, plan, frame, values, channels, is_input, out)
    }
}

kernel! {
    fn tiles_by_four<'a>(
        s; plan: &'a Plan, frame: &'a Frame, values: &'a [f32], channels: usize, is_input: bool, out: &'a mut [f32],
    ) {
        transform_tiles::<S, Four>(s, plan, frame, values, channels, is_input, out)
    }
}

/// All tiles of one image's input, Bᵀ x B, or of its output's gradient, A y Aᵀ: `[place][tile][channel]`.
#[inline(always)]
fn transform_tiles<S: Simd, T: Transform>(
    s: S,
    plan: &Plan,
    frame: &Frame,
    values: &[f32],
    channels: usize,
    is_input: bool,
    out: &mut [f32],
) {
    let c = padded::<S>(channels);
    let pitch = pitch(plan.places.len(), c);
    let lens = [frame.n_pixels() * c];
    let mut scratch = Scratch::take(lens);
    let [pixels] = scratch.pieces(lens);
    frame.pack(s, values, channels, c, pixels);
    let step = [frame.size[1] * c * plan.dilation, plan.dilation * c];
    for (t, place) in plan.places.iter().enumerate() {
        for channel in (0..c).step_by(S::LANES) {
            let to = &mut out[t * c + channel..];
            match is_input {
                true => transform_input::<S, T>(s, &pixels[place.input * c + channel..], step, to, pitch),
                false => {
                    transform_gradient::<S, T>(s, &pixels[place.out * c + channel..], step, place.inside, to, pitch)
                }
            }
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
    /// Σ v·w over all tiles at one place, for some rows of its sums from `first_row`; added to what is there, or in its place.
    fn add_products<'a>(
        s; tiles: Tiles<'a>, place: usize, first_row: usize, channels: [usize; 2], add: bool, sum: &'a mut [f32],
    ) {
        let [c, k] = channels;
        let Tiles { v, w, pitches: [v_pitch, w_pitch], n_images, n_tiles } = tiles;
        let (v, w) = (&v[place * pitch(n_tiles, c)..], &w[place * pitch(n_tiles, k)..]);
        let segments: Vec<[usize; 2]> = (0..n_images).map(|i| [i * v_pitch, i * w_pitch]).collect();
        for (first_vector, n) in panels::<S>(k / S::LANES) {
            let (column, width) = (first_vector * S::LANES, n * S::LANES);
            for (row, n_rows) in balanced(sum.len() / k, max_rows::<S>(n)) {
                let (a, b) = (&v[first_row + row..], &w[column..]);
                let last = n_images - 1;
                assert!(a.len() >= last * v_pitch + (n_tiles - 1) * c + n_rows);
                assert!(b.len() >= last * w_pitch + (n_tiles - 1) * k + width);
                let to = &mut sum[row * k + column..][..(n_rows - 1) * k + width];
                let a = Rows { at: a.as_ptr(), row: 1, step: c };
                let b = Panel { at: b.as_ptr(), step: k };
                let to = Out { at: to.as_mut_ptr(), row: k, add };
                // SAFETY: A and B as asserted for the last image, C as sliced.
                unsafe { multiply(s, [n_rows, n], a, b, &segments, n_tiles, to) };
            }
        }
    }
}

kernel! {
    fn finish_by_two<'a>(s; sums: &'a [f32], first: usize, channels: [usize; 2], out: &'a mut [f32]) {
        finish_gradient::<S, Two>(s, sums, first, channels, out)
    }
}

kernel! {
    fn finish_by_four<'a>(s; sums: &'a [f32], first: usize, channels: [usize; 2], out: &'a mut [f32]) {
        finish_gradient::<S, Four>(s, sums, first, channels, out)
    }
}

/// Gᵀ U G for a vector of output channels from `first`, as `[channel, c_in, 3, 3]`.
#[inline(always)]
fn finish_gradient<S: Simd, T: Transform>(s: S, sums: &[f32], first: usize, [c_in, k]: [usize; 2], out: &mut [f32]) {
    let t = T::TILE.n_in();
    let zero = s.splat(0.0);
    for input in 0..c_in {
        let mut columns = [[zero; 3]; 6];
        for (j, column) in columns.iter_mut().enumerate().take(t) {
            let mut values = [zero; 6];
            for (i, value) in values.iter_mut().enumerate().take(t) {
                *value = s.load(&sums[((i * t + j) * c_in + input) * k + first..]);
            }
            *column = T::kernel_adjoint(s, values);
        }
        for i in 0..3 {
            let mut row = [zero; 6];
            for (j, value) in row.iter_mut().enumerate().take(t) {
                *value = columns[j][i];
            }
            for (j, value) in T::kernel_adjoint(s, row).into_iter().enumerate() {
                let mut lanes = [0.0; 16];
                s.store(&mut lanes, value);
                for (lane, channel) in lanes.iter().zip(out.chunks_mut(c_in * 9)) {
                    channel[input * 9 + i * 3 + j] = *lane;
                }
            }
        }
    }
}
