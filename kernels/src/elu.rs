//! ELU and sums, number by number.

use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// Numbers that are one piece of work: three arrays of so many fit into a core's second cache.
const PART: usize = 1 << 16;

/// ELU (Clevert et al. 2016): `x` where it is positive, else eˣ − 1. Relative error below 4e-7, also near 0.
pub fn forward(isa: Isa, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "found an output of another length than x");
    parallel::for_each_part(out, PART, |i, out| activate_part(isa, &x[i * PART..][..out.len()], out));
}

/// The gradient for ELU's input, given its output `y` and the gradient for that: `grad_out` where `y` is positive, else
/// `grad_out`·(y + 1), because eˣ = y + 1.
pub fn backward(isa: Isa, y: &[f32], grad_out: &[f32], grad_x: &mut [f32]) {
    assert_eq!([y.len(), grad_out.len()], [grad_x.len(); 2], "found inputs of other lengths than the output");
    parallel::for_each_part(grad_x, PART, |i, part| {
        let range = i * PART..i * PART + part.len();
        backward_part(isa, &y[range.clone()], &grad_out[range], part);
    });
}

/// a + b
pub fn add(isa: Isa, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!([a.len(), b.len()], [out.len(); 2], "found inputs of other lengths than the output");
    parallel::for_each_part(out, PART, |i, part| {
        let range = i * PART..i * PART + part.len();
        add_part(isa, &a[range.clone()], &b[range], part);
    });
}

/// a ← a + b
pub fn add_to(isa: Isa, a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "found summands of different lengths");
    parallel::for_each_part(a, PART, |i, part| add_to_part(isa, part, &b[i * PART..][..part.len()]));
}

/// ELU of each lane; not a number where `x` is none.
#[inline(always)]
pub(crate) fn activate<S: Simd>(s: S, x: S::V) -> S::V {
    // eˣ − 1 = 2ⁿ·(eʳ − 1) + (2ⁿ − 1) for x = n·ln 2 + r, like Simd::exp, but without its cancellation near 0. The order
    // of the arguments of min and max lets NaN through.
    let negative = s.max(s.splat(-87.0), s.min(s.splat(0.0), x));
    let n = s.round(s.mul(negative, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), negative);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    // (eʳ − 1)/r, Taylor's series to r⁶/7!: the rest is below 2⁻²⁵.
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    let scale = s.exp2i(n);
    let exp_minus_1 = s.fma(s.mul(p, r), scale, s.sub(scale, s.splat(1.0)));
    s.if_positive(x, x, exp_minus_1)
}

/// ELU's derivative at each lane of `x`: 1 where it is positive, else eˣ.
#[inline(always)]
pub(crate) fn slope<S: Simd>(s: S, x: S::V) -> S::V {
    s.if_positive(x, s.splat(1.0), s.exp(x))
}

/// grad·slope, from ELU's output.
#[inline(always)]
fn backward_lanes<S: Simd>(s: S, y: S::V, grad: S::V) -> S::V {
    s.if_positive(y, grad, s.fma(grad, y, grad))
}

kernel! {
    fn activate_part<'a>(s; x: &'a [f32], out: &'a mut [f32]) {
        let (mut outs, xs) = (out.chunks_exact_mut(S::LANES), x.chunks_exact(S::LANES));
        let rest = xs.remainder();
        for (out, x) in (&mut outs).zip(xs) {
            s.store(out, activate(s, s.load(x)));
        }
        s.store_first(outs.into_remainder(), activate(s, s.load_first(rest)));
    }
}

kernel! {
    fn backward_part<'a>(s; y: &'a [f32], grad: &'a [f32], out: &'a mut [f32]) {
        let (ys, grads) = (y.chunks_exact(S::LANES), grad.chunks_exact(S::LANES));
        let rest = (ys.remainder(), grads.remainder());
        let mut outs = out.chunks_exact_mut(S::LANES);
        for ((out, y), grad) in (&mut outs).zip(ys).zip(grads) {
            s.store(out, backward_lanes(s, s.load(y), s.load(grad)));
        }
        s.store_first(outs.into_remainder(), backward_lanes(s, s.load_first(rest.0), s.load_first(rest.1)));
    }
}

kernel! {
    fn add_part<'a>(s; a: &'a [f32], b: &'a [f32], out: &'a mut [f32]) {
        let (lefts, rights) = (a.chunks_exact(S::LANES), b.chunks_exact(S::LANES));
        let rest = (lefts.remainder(), rights.remainder());
        let mut outs = out.chunks_exact_mut(S::LANES);
        for ((out, a), b) in (&mut outs).zip(lefts).zip(rights) {
            s.store(out, s.add(s.load(a), s.load(b)));
        }
        s.store_first(outs.into_remainder(), s.add(s.load_first(rest.0), s.load_first(rest.1)));
    }
}

kernel! {
    /// a ← a + b, on one thread.
    fn add_to_part<'a>(s; a: &'a mut [f32], b: &'a [f32]) {
        let mut lefts = a.chunks_exact_mut(S::LANES);
        let rights = b.chunks_exact(S::LANES);
        let rest = rights.remainder();
        for (a, b) in (&mut lefts).zip(rights) {
            s.store(a, s.add(s.load(a), s.load(b)));
        }
        let a = lefts.into_remainder();
        s.store_first(a, s.add(s.load_first(a), s.load_first(rest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` numbers from −100 to 30, most of them near 0, and both zeros.
    fn numbers(n: usize) -> Vec<f32> {
        let spread = |i: usize| ((i * 7919 % 10_007) as f32 / 10_007.0 * 2.0 - 1.0).powi(9);
        let scaled = |x: f32| if x < 0.0 { 100.0 * x } else { 30.0 * x };
        (0..n).map(|i| [0.0, -0.0].get(i).copied().unwrap_or(scaled(spread(i)))).collect()
    }

    /// Lengths around those of vectors and of parts.
    const LENGTHS: [usize; 6] = [0, 1, 17, 1000, PART, 2 * PART + 21];

    #[test]
    fn sums_in_place_are_those_beside() {
        for n in [0, 1, 7, 16, 35, PART + 3] {
            let (a, b) = (numbers(n), numbers(n + 5)[5..].to_vec());
            for isa in Isa::available() {
                let (mut beside, mut in_place) = (vec![f32::NAN; n], a.clone());
                add(isa, &a, &b, &mut beside);
                add_to(isa, &mut in_place, &b);
                assert_eq!(in_place, beside, "{n} on {isa}");
                assert_eq!(beside, a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>(), "{n} on {isa}");
            }
        }
    }

    #[test]
    fn elu_is_exact_to_a_few_roundings_on_every_instruction_set() {
        for (isa, n) in Isa::available().into_iter().flat_map(|isa| LENGTHS.map(|n| (isa, n))) {
            let x = numbers(n);
            let mut out = vec![f32::NAN; n];
            forward(isa, &x, &mut out);
            for (&x, &found) in x.iter().zip(&out) {
                let expected = if x > 0.0 { f64::from(x) } else { f64::from(x).exp_m1() };
                // Near −ln 2/2, where the two terms have opposite signs, some six roundings of 2⁻²⁴ add up.
                assert!((f64::from(found) - expected).abs() <= 4e-7 * expected.abs(), "ELU({x}) = {found} on {isa}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for isa in Isa::available() {
            let mut out = [0.0; 17];
            forward(isa, &[f32::NAN; 17], &mut out);
            assert!(out.iter().all(|y| y.is_nan()), "{isa}");
            forward(isa, &[f32::INFINITY; 17], &mut out);
            assert_eq!(out, [f32::INFINITY; 17], "{isa}");
            forward(isa, &[f32::NEG_INFINITY; 17], &mut out);
            assert_eq!(out, [-1.0; 17], "{isa}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_elu() {
        for (isa, n) in Isa::available().into_iter().flat_map(|isa| LENGTHS.map(|n| (isa, n))) {
            let x = numbers(n);
            let grad_out: Vec<f32> = (0..n).map(|i| (i % 13) as f32 - 6.0).collect();
            let (mut y, mut grad_x) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            forward(isa, &x, &mut y);
            backward(isa, &y, &grad_out, &mut grad_x);
            for ((&x, &grad), &found) in x.iter().zip(&grad_out).zip(&grad_x) {
                let expected = f64::from(grad) * f64::from(x).min(0.0).exp();
                // y is rounded near −1: an absolute error of y + 1, as large as that of y.
                assert!((f64::from(found) - expected).abs() <= 4e-7 * f64::from(grad.abs()), "at {x} on {isa}");
            }
        }
    }

    #[test]
    fn sums_are_those_of_plain_rust() {
        // Every rest beyond whole vectors.
        let lengths = || LENGTHS.into_iter().chain(0..40);
        for (isa, n) in Isa::available().into_iter().flat_map(|isa| lengths().map(move |n| (isa, n))) {
            let a = numbers(n);
            let b: Vec<f32> = a.iter().rev().map(|x| x * 0.7).collect();
            let mut out = vec![f32::NAN; n];
            add(isa, &a, &b, &mut out);
            assert!(out.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == a + b), "{isa}, {n}");
        }
    }
}
