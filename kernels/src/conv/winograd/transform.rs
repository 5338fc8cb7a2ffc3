//! The matrices of Winograd's F(m, 3), as operations on vectors.
//!
//! F(m, 3), m outputs of 3 taps, multiplies polynomials: their values at t − 1 points and at ∞ are multiplied, and the product is
//! interpolated (Toom–Cook). With the points 0, ±1 for m = 2; 0, ±P, ±Q for m = 4; and 0, ±P, Q, which need no other weights,
//! for m = 3.

use crate::simd::Simd;

/// Places that [`Tile::Four`] evaluates polynomials at, besides 0 and ∞: ±P and ±Q. The usual 1 and 2 lose more than twice as
/// many digits; these are near the best, and their powers are exact in f32.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// Whether a tile of four has only three outputs along a side: sides that are no multiples of four end in such tiles, which
/// take five products instead of six. The place [`SKIPPED`] is then left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// All outputs.
    Full,
    /// Three of four.
    Short,
}

/// The place of −Q.
pub const SKIPPED: usize = 4;

/// The transforms along one side, `SHORT` or whole, for vectors of channels. Arrays hold what the tile has, then rubbish.
pub trait Transform {
    /// Inputs of a whole side, which also are its places.
    const N_IN: usize;

    /// Bᵀ: inputs to places.
    fn input<S: Simd, const SHORT: bool>(s: S, x: [S::V; 6]) -> [S::V; 6];
    /// Aᵀ: places to outputs.
    fn output<S: Simd, const SHORT: bool>(s: S, m: [S::V; 6]) -> [S::V; 6];
    /// A: gradients of outputs to places.
    fn output_adjoint<S: Simd, const SHORT: bool>(s: S, y: [S::V; 6]) -> [S::V; 6];
    /// G: taps to places.
    fn kernel<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6];
    /// Gᵀ: places to gradients of taps.
    fn kernel_adjoint<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3];
}

/// Two outputs from four inputs; its sides are never short.
pub struct Two;

impl Transform for Two {
    const N_IN: usize = 4;

    #[inline(always)]
    fn input<S: Simd, const SHORT: bool>(s: S, [a, b, c, d, ..]: [S::V; 6]) -> [S::V; 6] {
        [s.sub(a, c), s.add(b, c), s.sub(c, b), s.sub(d, b), a, a]
    }
    #[inline(always)]
    fn output<S: Simd, const SHORT: bool>(s: S, [a, b, c, d, ..]: [S::V; 6]) -> [S::V; 6] {
        let sum = s.add(b, c);
        let difference = s.sub(b, c);
        [s.add(a, sum), s.add(difference, d), a, a, a, a]
    }
    #[inline(always)]
    fn output_adjoint<S: Simd, const SHORT: bool>(s: S, [a, b, ..]: [S::V; 6]) -> [S::V; 6] {
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

/// Four outputs from six inputs, or three from five.
pub struct Four;

const P2: f32 = P * P;
const Q2: f32 = Q * Q;
/// Lagrange's denominators, 2p²(p² − q²) and 2q²(q² − p²).
const P_SCALE: f32 = 1.0 / (2.0 * P2 * (P2 - Q2));
const Q_SCALE: f32 = 1.0 / (2.0 * Q2 * (Q2 - P2));

impl Transform for Four {
    const N_IN: usize = 6;

    #[inline(always)]
    fn input<S: Simd, const SHORT: bool>(s: S, [x0, x1, x2, x3, x4, x5]: [S::V; 6]) -> [S::V; 6] {
        if SHORT {
            return short_input(s, [x0, x1, x2, x3, x4]);
        }
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
    fn output<S: Simd, const SHORT: bool>(s: S, [m0, m1, m2, m3, m4, m5]: [S::V; 6]) -> [S::V; 6] {
        if SHORT {
            return short_output(s, [m0, m1, m2, m3, m5]);
        }
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
    fn output_adjoint<S: Simd, const SHORT: bool>(s: S, [y0, y1, y2, y3, ..]: [S::V; 6]) -> [S::V; 6] {
        if SHORT {
            return short_output_adjoint(s, [y0, y1, y2]);
        }
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

/// Bᵀ of a short side: row i holds the coefficients of Π (x − pⱼ) over the points but pᵢ, times what makes up for the other
/// denominators that are in the weights.
#[inline(always)]
fn short_input<S: Simd>(s: S, [x0, x1, x2, x3, x4]: [S::V; 5]) -> [S::V; 6] {
    let (minus_p2, minus_q) = (s.splat(-P2), s.splat(-Q));
    // Of x·(x² − P²), and of the same over x at one input less.
    let (cubic, square) = (s.fma(minus_p2, x1, x3), s.fma(minus_p2, x0, x2));
    // Of x·(x − Q).
    let (low, high) = (s.fma(minus_q, x1, x2), s.fma(minus_q, x2, x3));
    [
        s.mul(s.splat(Q), s.fma(minus_q, square, cubic)),
        s.mul(s.splat(P + Q), s.fma(s.splat(P), low, high)),
        s.mul(s.splat(Q - P), s.fma(s.splat(-P), low, high)),
        s.mul(s.splat(2.0 * Q), cubic),
        cubic,
        s.fma(minus_q, cubic, s.fma(minus_p2, x2, x4)),
    ]
}

/// Aᵀ of a short side.
#[inline(always)]
fn short_output<S: Simd>(s: S, [m0, plus, minus, q, infinity]: [S::V; 5]) -> [S::V; 6] {
    let (sum, difference) = (s.add(plus, minus), s.sub(plus, minus));
    [
        s.add(m0, s.add(sum, q)),
        s.fma(s.splat(Q), q, s.mul(s.splat(P), difference)),
        s.fma(s.splat(Q2), q, s.fma(s.splat(P2), sum, infinity)),
        m0,
        m0,
        m0,
    ]
}

/// A of a short side.
#[inline(always)]
fn short_output_adjoint<S: Simd>(s: S, [y0, y1, y2]: [S::V; 3]) -> [S::V; 6] {
    let (even, odd) = (s.fma(s.splat(P2), y2, y0), s.mul(s.splat(P), y1));
    let q = s.fma(s.splat(Q2), y2, s.fma(s.splat(Q), y1, y0));
    [y0, s.add(even, odd), s.sub(even, odd), q, y0, y2]
}
