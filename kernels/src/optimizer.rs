//! One step of an optimiser over all parameters in one pass: clipping, decay, state, weights and their moving average.
//!
//! The arithmetic is PyTorch's: constants are computed in f64, numbers are f32, and every operation is rounded by itself,
//! so that the bits are the same on every instruction set. Memory is what a pass waits for, so fusing would gain nothing.

use crate::cpu::{Isa, kernel};
use crate::parallel::for_each_of;
use crate::simd::Simd;

/// Numbers of one piece of work.
const PART: usize = 1 << 16;

/// An update rule with its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Kingma & Ba 2015, with two states: the means of gradients and of their squares. With a third, the largest mean of
    /// squares so far, AMSGrad (Reddi et al. 2018).
    Adam {
        /// Learning rate.
        lr: f64,
        /// Decays of the means.
        betas: [f64; 2],
        /// Added to the root of the squares' mean.
        eps: f64,
        /// The number of the step, from 1.
        t: u64,
    },
    /// Tieleman & Hinton 2012, with one state: the mean of squares.
    RmsProp {
        /// Learning rate.
        lr: f64,
        /// Decay of the mean.
        alpha: f64,
        /// Added to the root of the mean.
        eps: f64,
    },
    /// Gradient descent, with one state: the momentum.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// Decay of the momentum.
        momentum: f64,
    },
}

impl Rule {
    /// Whether it can have so many states.
    pub(crate) fn takes(self, n_states: usize) -> bool {
        match self {
            Rule::Adam { .. } => matches!(n_states, 2 | 3),
            Rule::RmsProp { .. } | Rule::Sgd { .. } => n_states == 1,
        }
    }
}

/// What one step does with every parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The rule.
    pub rule: Rule,
    /// Factor of gradients: below 1 where their norm is clipped.
    pub clip: f64,
    /// L2: its product with the parameter is added to the gradient.
    pub weight_decay: f64,
    /// The rate of the moving average: shadow ← rate·shadow + (1 − rate)·value.
    pub ema_rate: f64,
}

/// The numbers of a parameter and all that belongs to them. What there is not is empty, everything else of one length.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// The weights.
    pub value: &'a mut [f32],
    /// The states of the rule, in its order.
    pub state: [&'a mut [f32]; 3],
    /// The moving average of the weights.
    pub shadow: &'a mut [f32],
}

impl<'a> Parameter<'a> {
    /// The first `n` numbers and the others.
    fn split_at(self, n: usize) -> (Self, Self) {
        let split = |x: &'a mut [f32]| x.split_at_mut(n.min(x.len()));
        let [a, b, c] = self.state.map(split);
        let (value, shadow) = (split(self.value), split(self.shadow));
        (
            Self { value: value.0, state: [a.0, b.0, c.0], shadow: shadow.0 },
            Self { value: value.1, state: [a.1, b.1, c.1], shadow: shadow.1 },
        )
    }
}

/// Moves parameters, all in one go, against their gradients.
///
/// # Panics
/// If lengths of a parameter differ, or the states are not those of the rule.
pub fn step<'a>(isa: Isa, step: &Step, parameters: impl IntoIterator<Item = (&'a [f32], Parameter<'a>)>) {
    let mut parts = Vec::new();
    for (gradient, parameter) in parameters {
        let n = gradient.len();
        let lens = || parameter.state.iter().chain([&parameter.value, &parameter.shadow]).map(|x| x.len());
        if n == 0 && lens().all(|len| len == 0) {
            continue;
        }
        let n_states = parameter.state.iter().take_while(|state| !state.is_empty()).count();
        assert!(step.rule.takes(n_states), "{n_states} states of {:?}", step.rule);
        let fit = parameter.value.len() == n && lens().all(|len| len == 0 || len == n);
        assert!(fit, "lengths of a parameter of {n} numbers");

        let mut rest = parameter;
        for gradient in gradient.chunks(PART) {
            let (part, others) = rest.split_at(gradient.len());
            parts.push((gradient, part));
            rest = others;
        }
    }
    for_each_of(parts, |(gradient, part)| pass(isa, step, gradient, part));
}

/// The sum of squares of each of `xs`, in f64, in which a square of an f32 is exact. Not finite if any number is not.
pub fn sums_of_squares(isa: Isa, xs: &[&[f32]]) -> Vec<f64> {
    let parts = || xs.iter().flat_map(|x| x.chunks(PART));
    let mut sums = vec![0.0; parts().count()];
    for_each_of(sums.iter_mut().zip(parts()).collect(), |(sum, part)| *sum = part_of_squares(isa, part));
    let mut sums = sums.into_iter();
    xs.iter().map(|x| sums.by_ref().take(x.len().div_ceil(PART)).sum()).collect()
}

kernel! {
    fn part_of_squares<'a>(_s; x: &'a [f32]) -> f64 {
        // As many sums as four vectors of AVX2 or two of AVX-512 hold: the same order everywhere.
        let mut sums = [0.0f64; 16];
        let mut blocks = x.chunks_exact(16);
        for block in &mut blocks {
            for (sum, &x) in sums.iter_mut().zip(block) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        for (sum, &x) in sums.iter_mut().zip(blocks.remainder()) {
            *sum += f64::from(x) * f64::from(x);
        }
        sums.into_iter().sum()
    }
}

kernel! {
    fn pass<'a>(s; step: &'a Step, gradient: &'a [f32], parameter: Parameter<'a>) {
        match parameter.state.iter().take_while(|state| !state.is_empty()).count() {
            1 => pass_with::<S, 1>(s, step, gradient, parameter),
            2 => pass_with::<S, 2>(s, step, gradient, parameter),
            _ => pass_with::<S, 3>(s, step, gradient, parameter),
        }
    }
}

/// A pass with `N` states.
#[inline(always)]
fn pass_with<S: Simd, const N: usize>(s: S, step: &Step, gradient: &[f32], parameter: Parameter<'_>) {
    let Parameter { value, state: states, shadow } = parameter;
    let formula = Formula::new(step.rule);
    let [clip, decay] = [step.clip, step.weight_decay].map(|x| s.splat(x as f32));
    let [rate, share] = [step.ema_rate, 1.0 - step.ema_rate].map(|x| s.splat(x as f32));
    for i in (0..gradient.len()).step_by(S::LANES) {
        let mut p = load(s, &value[i..]);
        let g = s.add(s.mul(load(s, &gradient[i..]), clip), s.mul(p, decay));
        let mut state = [s.splat(0.0); 3];
        for k in 0..N {
            state[k] = load(s, &states[k][i..]);
        }
        p = s.add(p, formula.change(s, g, &mut state, N == 3));
        store(s, &mut value[i..], p);
        for k in 0..N {
            store(s, &mut states[k][i..], state[k]);
        }
        if let Some(shadow) = shadow.get_mut(i..).filter(|shadow| !shadow.is_empty()) {
            let average = s.add(s.mul(load(s, shadow), rate), s.mul(p, share));
            store(s, shadow, average);
        }
    }
}

/// A vector, or what there is for one.
#[inline(always)]
fn load<S: Simd>(s: S, x: &[f32]) -> S::V {
    if x.len() >= S::LANES { s.load(x) } else { s.load_first(x) }
}

/// Writes a vector, or what there is room for.
#[inline(always)]
fn store<S: Simd>(s: S, x: &mut [f32], v: S::V) {
    if x.len() >= S::LANES { s.store(x, v) } else { s.store_first(x, v) }
}

/// A rule with its constants as they enter. `share` is 1 − decay; `factor` is negative.
pub(crate) enum Formula {
    Adam { decay: [f32; 2], share: [f32; 2], root_correction: f32, eps: f32, factor: f32 },
    RmsProp { decay: f32, share: f32, eps: f32, factor: f32 },
    Sgd { decay: f32, factor: f32 },
}

impl Formula {
    pub(crate) fn new(rule: Rule) -> Self {
        match rule {
            Rule::Adam { lr, betas, eps, t } => {
                let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(t as f64));
                Formula::Adam {
                    decay: betas.map(|beta| beta as f32),
                    share: betas.map(|beta| (1.0 - beta) as f32),
                    root_correction: correction2.sqrt() as f32,
                    eps: eps as f32,
                    factor: (-lr / correction1) as f32,
                }
            }
            Rule::RmsProp { lr, alpha, eps } => Formula::RmsProp {
                decay: alpha as f32,
                share: (1.0 - alpha) as f32,
                eps: eps as f32,
                factor: -lr as f32,
            },
            Rule::Sgd { lr, momentum } => Formula::Sgd { decay: momentum as f32, factor: -lr as f32 },
        }
    }

    /// The change of weights with gradient `g`, after that of the state.
    #[inline(always)]
    fn change<S: Simd>(&self, s: S, g: S::V, state: &mut [S::V; 3], amsgrad: bool) -> S::V {
        match *self {
            Formula::Adam { decay, share, root_correction, eps, factor } => {
                state[0] = mean(s, state[0], decay[0], g, share[0]);
                state[1] = mean(s, state[1], decay[1], s.mul(g, g), share[1]);
                if amsgrad {
                    state[2] = s.max(state[2], state[1]);
                }
                let squares = if amsgrad { state[2] } else { state[1] };
                let root = s.div(s.sqrt(squares), s.splat(root_correction));
                s.mul(s.div(state[0], s.add(root, s.splat(eps))), s.splat(factor))
            }
            Formula::RmsProp { decay, share, eps, factor } => {
                state[0] = mean(s, state[0], decay, s.mul(g, g), share);
                s.mul(s.div(g, s.add(s.sqrt(state[0]), s.splat(eps))), s.splat(factor))
            }
            Formula::Sgd { decay, factor } => {
                state[0] = s.add(s.mul(state[0], s.splat(decay)), g);
                s.mul(state[0], s.splat(factor))
            }
        }
    }
}

/// decay·old + share·new
#[inline(always)]
fn mean<S: Simd>(s: S, old: S::V, decay: f32, new: S::V, share: f32) -> S::V {
    s.add(s.mul(old, s.splat(decay)), s.mul(new, s.splat(share)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [(Rule, usize); 4] = [
        (Rule::Adam { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, t: 1 }, 2),
        (Rule::Adam { lr: 0.01, betas: [0.5, 0.9], eps: 1e-3, t: 1 }, 3),
        (Rule::RmsProp { lr: 0.01, alpha: 0.99, eps: 1e-8 }, 1),
        (Rule::Sgd { lr: 0.1, momentum: 0.9 }, 1),
    ];

    fn at_step(rule: Rule, t: u64) -> Step {
        let rule = match rule {
            Rule::Adam { lr, betas, eps, .. } => Rule::Adam { lr, betas, eps, t },
            other => other,
        };
        Step { rule, clip: 0.7, weight_decay: 0.02, ema_rate: 0.9 }
    }

    /// Gradients of step `t`, of very different sizes.
    fn gradient(t: u64, i: usize) -> f32 {
        let x = (i as f32 * 0.37 + t as f32 * 1.3).sin();
        x * x * x * if i.is_multiple_of(5) { 1.0 } else { 0.01 }
    }

    fn start(i: usize) -> f32 {
        (i as f32 * 0.11).cos()
    }

    /// Value, states and shadow of one number after 5 steps, by the formulas in f64.
    fn reference(rule: Rule, amsgrad: bool, i: usize) -> [f64; 5] {
        let (mut p, mut state, mut shadow) = (f64::from(start(i)), [0.0f64; 3], f64::from(start(i)));
        for t in 1..=5 {
            let Step { clip, weight_decay, ema_rate, .. } = at_step(rule, t);
            let g = f64::from(gradient(t, i)) * clip + weight_decay * p;
            p -= match rule {
                Rule::Adam { lr, betas: [beta1, beta2], eps, .. } => {
                    state[0] = beta1 * state[0] + (1.0 - beta1) * g;
                    state[1] = beta2 * state[1] + (1.0 - beta2) * g * g;
                    state[2] = state[2].max(state[1]);
                    let v = if amsgrad { state[2] } else { state[1] };
                    let (m_hat, v_hat) = (state[0] / (1.0 - beta1.powi(t as i32)), v / (1.0 - beta2.powi(t as i32)));
                    lr * m_hat / (v_hat.sqrt() + eps)
                }
                Rule::RmsProp { lr, alpha, eps } => {
                    state[0] = alpha * state[0] + (1.0 - alpha) * g * g;
                    lr * g / (state[0].sqrt() + eps)
                }
                Rule::Sgd { lr, momentum } => {
                    state[0] = momentum * state[0] + g;
                    lr * state[0]
                }
            };
            shadow = ema_rate * shadow + (1.0 - ema_rate) * p;
        }
        [p, shadow, state[0], state[1], state[2]]
    }

    /// Value, shadow and states after 5 steps.
    fn five_steps(isa: Isa, rule: Rule, n_states: usize, n: usize) -> Vec<Vec<f32>> {
        let start: Vec<f32> = (0..n).map(start).collect();
        let (mut value, mut shadow) = (start.clone(), start);
        let mut state = [0, 1, 2].map(|k| vec![0.0; if k < n_states { n } else { 0 }]);
        for t in 1..=5 {
            let gradient: Vec<f32> = (0..n).map(|i| gradient(t, i)).collect();
            let state = state.each_mut().map(Vec::as_mut_slice);
            // In two of different lengths, which are as one.
            let parameter = Parameter { value: &mut value, state, shadow: &mut shadow };
            let (first, second) = parameter.split_at(n / 3);
            let (first_gradient, second_gradient) = gradient.split_at(n / 3);
            step(isa, &at_step(rule, t), [(first_gradient, first), (second_gradient, second)]);
        }
        [value, shadow].into_iter().chain(state).collect()
    }

    fn bits(values: &[Vec<f32>]) -> Vec<Vec<u32>> {
        values.iter().map(|values| values.iter().map(|x| x.to_bits()).collect()).collect()
    }

    #[test]
    fn five_steps_are_those_of_the_formulas_in_f64() {
        for (rule, n_states) in RULES {
            for n in [0, 1, 7, 1003] {
                let found = five_steps(Isa::chosen(), rule, n_states, n);
                for i in 0..n {
                    let expected = reference(rule, n_states == 3, i);
                    for (found, expected) in found.iter().filter(|found| !found.is_empty()).zip(expected) {
                        let found = f64::from(found[i]);
                        // Some tens of roundings of 6e-8; gradients differ by cancellation with the decay.
                        let tolerance = 2e-6 * expected.abs() + 2e-7;
                        assert!((found - expected).abs() <= tolerance, "{rule:?}, {i} of {n}: {found}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_depend_on_neither_instructions_nor_threads() {
        for (rule, n_states) in RULES {
            for n in [1, 7, 100_003] {
                let expected = bits(&five_steps(Isa::Portable, rule, n_states, n));
                for n_threads in [1, 3] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
                    for isa in Isa::available() {
                        let found = pool.install(|| bits(&five_steps(isa, rule, n_states, n)));
                        assert!(found == expected, "{rule:?} on {isa} with {n_threads} threads, {n} numbers");
                    }
                }
            }
        }
    }

    #[test]
    fn without_a_shadow_the_weights_are_the_same() {
        let (mut with, mut without, mut shadow) = (vec![1.0; 100], vec![1.0; 100], vec![1.0; 100]);
        let (mut momentum, mut other_momentum) = (vec![0.5; 100], vec![0.5; 100]);
        let (gradient, sgd) = (vec![0.3; 100], at_step(RULES[3].0, 1));
        let state = [&mut momentum[..], &mut [], &mut []];
        step(Isa::chosen(), &sgd, [(&gradient[..], Parameter { value: &mut with, state, shadow: &mut shadow })]);
        let state = [&mut other_momentum[..], &mut [], &mut []];
        step(Isa::chosen(), &sgd, [(&gradient[..], Parameter { value: &mut without, state, shadow: &mut [] })]);
        assert_eq!((with, momentum), (without, other_momentum));
    }

    #[test]
    fn sums_of_squares_are_those_of_f64_on_any_threads_and_instructions() {
        let xs = [0, 1, 7, 100_003, 3 * PART].map(|n| (0..n).map(|i| gradient(1, i) * 1e3).collect::<Vec<f32>>());
        let xs = xs.each_ref().map(Vec::as_slice);
        let found = sums_of_squares(Isa::Portable, &xs);
        for (x, found) in xs.iter().zip(&found) {
            let expected: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
            assert!((found - expected).abs() <= 1e-12 * expected, "{}: {found}, not {expected}", x.len());
        }
        for n_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            for isa in Isa::available() {
                assert_eq!(pool.install(|| sums_of_squares(isa, &xs)), found, "{isa}, {n_threads} threads");
            }
        }
    }

    #[test]
    fn one_number_that_is_not_finite_is_seen_anywhere() {
        for isa in Isa::available() {
            for n in [1, 19, PART + 5] {
                for i in [0, n / 2, n - 1] {
                    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                        let mut x = vec![1.0; n];
                        x[i] = bad;
                        let sums = sums_of_squares(isa, &[&[1.0; 3], &x, &[2.0; 5]]);
                        let finite: Vec<bool> = sums.iter().map(|sum| sum.is_finite()).collect();
                        assert_eq!(finite, [true, false, true], "{bad} at {i} of {n} on {isa}");
                    }
                }
            }
            assert!(sums_of_squares(isa, &[&[f32::MAX; 40]])[0].is_finite(), "{isa}");
        }
    }
}
