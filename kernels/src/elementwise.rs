//! Activations and sums, number by number.

use crate::activation::{Activation, Slope, with_slope};
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// Numbers that are one piece of work: three arrays of so many fit into a core's second cache.
const PART: usize = 1 << 16;

/// The activation of `x`.
pub fn activate(isa: Isa, activation: Activation, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "found an output of another length than x");
    parallel::for_each_part(out, PART, |i, out| activate_part(isa, activation, &x[i * PART..][..out.len()], out));
}

/// The gradient for an activation's input, from the gradient for its output, and what is [kept](Activation::keeps_input): its input or
/// its output.
pub fn activate_backward(isa: Isa, activation: Activation, kept: &[f32], grad_out: &[f32], grad_x: &mut [f32]) {
    assert_eq!([kept.len(), grad_out.len()], [grad_x.len(); 2], "found inputs of other lengths than the output");
    parallel::for_each_part(grad_x, PART, |i, part| {
        let range = i * PART..i * PART + part.len();
        backward_part(isa, activation, &kept[range.clone()], &grad_out[range], part);
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

kernel! {
    fn activate_part<'a>(s; activation: Activation, x: &'a [f32], out: &'a mut [f32]) {
        with_slope!(activation, |A| activate_lanes::<S, A>(s, x, out))
    }
}

#[inline(always)]
fn activate_lanes<S: Simd, A: Slope>(s: S, x: &[f32], out: &mut [f32]) {
    let (mut outs, xs) = (out.chunks_exact_mut(S::LANES), x.chunks_exact(S::LANES));
    let rest = xs.remainder();
    for (out, x) in (&mut outs).zip(xs) {
        s.store(out, A::value(s, s.load(x)));
    }
    s.store_first(outs.into_remainder(), A::value(s, s.load_first(rest)));
}

kernel! {
    fn backward_part<'a>(s; activation: Activation, kept: &'a [f32], grad: &'a [f32], out: &'a mut [f32]) {
        with_slope!(activation, |A| backward_lanes::<S, A>(s, kept, grad, out))
    }
}

#[inline(always)]
fn backward_lanes<S: Simd, A: Slope>(s: S, kept: &[f32], grad: &[f32], out: &mut [f32]) {
    let (all, grads) = (kept.chunks_exact(S::LANES), grad.chunks_exact(S::LANES));
    let rest = (all.remainder(), grads.remainder());
    let mut outs = out.chunks_exact_mut(S::LANES);
    for ((out, kept), grad) in (&mut outs).zip(all).zip(grads) {
        s.store(out, A::gradient(s, s.load(kept), s.load(grad)));
    }
    s.store_first(outs.into_remainder(), A::gradient(s, s.load_first(rest.0), s.load_first(rest.1)));
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

    /// On every instruction set and of every length.
    fn each(f: impl Fn(Isa, Activation, usize)) {
        for (isa, activation) in Isa::available().into_iter().flat_map(|isa| Activation::ALL.map(|a| (isa, a))) {
            LENGTHS.into_iter().for_each(|n| f(isa, activation, n));
        }
    }

    #[test]
    fn activations_are_exact_to_a_few_roundings_on_every_instruction_set() {
        each(|isa, activation, n| {
            let x = numbers(n);
            let mut out = vec![f32::NAN; n];
            activate(isa, activation, &x, &mut out);
            for (&x, &found) in x.iter().zip(&out) {
                let (expected, _) = activation.definition(f64::from(x));
                // ELU near −ln 2/2, where its two terms have opposite signs: some six roundings of 2⁻²⁴ add up. Swish where eˣ ends.
                let tolerance = 4e-7 * expected.abs() + if x < -80.0 { 1e-32 } else { 0.0 };
                assert!((f64::from(found) - expected).abs() <= tolerance, "{activation:?} of {x} is {found} on {isa}");
            }
        });
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        for (isa, activation) in Isa::available().into_iter().flat_map(|isa| Activation::ALL.map(|a| (isa, a))) {
            let of = |x: f32| {
                let mut out = [0.0; 17];
                activate(isa, activation, &[x; 17], &mut out);
                assert!(out.iter().all(|y| y.to_bits() == out[0].to_bits() || y.is_nan() && out[0].is_nan()));
                out[0]
            };
            assert!(of(f32::NAN).is_nan(), "{activation:?} on {isa}");
            assert_eq!(of(f32::INFINITY), f32::INFINITY, "{activation:?} on {isa}");
            let lowest = match activation {
                Activation::Elu => -1.0,
                Activation::Relu => 0.0,
                // e⁸⁸ is the largest power that there is.
                Activation::Swish => of(f32::NEG_INFINITY),
                Activation::None | Activation::LeakyRelu => f32::NEG_INFINITY,
            };
            assert_eq!(of(f32::NEG_INFINITY), lowest, "{activation:?} on {isa}");
        }
    }

    #[test]
    fn gradients_are_those_of_the_definitions() {
        each(|isa, activation, n| {
            let x = numbers(n);
            let grad_out: Vec<f32> = (0..n).map(|i| (i % 13) as f32 - 6.0).collect();
            let (mut y, mut grad_x) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            activate(isa, activation, &x, &mut y);
            let kept = if activation.keeps_input() { &x } else { &y };
            activate_backward(isa, activation, kept, &grad_out, &mut grad_x);
            for ((&x, &grad), &found) in x.iter().zip(&grad_out).zip(&grad_x) {
                let expected = f64::from(grad) * activation.definition(f64::from(x)).1;
                // ELU's y is rounded near −1: an absolute error of y + 1, as large as that of y. Swish's slope is a sum of 1 and less.
                assert!(
                    (f64::from(found) - expected).abs()
                        <= 6e-7 * f64::from(grad.abs()) * (1.0 + f64::from(x.abs())).min(3.0),
                    "{activation:?} at {x} on {isa}: {found}, expected {expected}"
                );
            }
        });
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
