//! The forward process p(x_t | x_0): how data are perturbed over time. Scalars (`f64`) only, no tensor in sight.

mod design;
mod discrete;
mod levels;
mod reverse;
mod sub_vp;
mod ve;
mod vp;

pub use design::Design;
pub use discrete::Discrete;
pub use levels::NoiseLevels;
pub use reverse::{Rates, Reverse};
pub use sub_vp::SubVp;
pub use ve::Ve;
pub use vp::Vp;

use std::fmt::Debug;

/// The perturbation kernel p(x_t | x_0) = N(alpha·x_0, std²·I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marginal {
    /// Factor of the data.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub std: f64,
}

impl Marginal {
    /// The data as they are.
    const CLEAN: Self = Self { alpha: 1.0, std: 0.0 };
}

/// A step of a discretised process, from the level below to a level: x ← x + F·x + G·z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition {
    /// F, factor of x.
    pub drift: f64,
    /// G, factor of standard normal noise z.
    pub diffusion: f64,
}

/// A process that perturbs data more and more over time: dx = f(t)·x dt + g(t) dw (Song et al. 2021, eq. 5, with a linear drift),
/// and its discrete form, N levels k = 0 … N − 1 of rising noise.
///
/// A network knows [`Self::n_levels`] points in time; counted as its labels are, level 0 has the most noise, so that level i is
/// k = N − 1 − i. What is not [`Self::marginal`] and [`Self::n_levels`] follows from these unless a process says otherwise.
pub trait Process: Debug + Send + Sync {
    /// The perturbation kernel at time `t`.
    fn marginal(&self, t: f64) -> Marginal;

    /// The smallest time at which data are sampled, and the largest.
    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    /// L or N, the number of levels.
    fn n_levels(&self) -> usize;

    /// f(t), factor of x in the drift: the slope of ln alpha.
    fn drift(&self, t: f64) -> f64 {
        slope(self, t, |m| m.alpha.ln())
    }

    /// g(t), the diffusion: g² = (std²)′ − 2·f·std².
    fn diffusion(&self, t: f64) -> f64 {
        let growth = slope(self, t, |m| m.std.powi(2));
        (growth - 2.0 * self.drift(t) * self.marginal(t).std.powi(2)).max(0.0).sqrt()
    }

    /// The standard deviation of the prior, N(0, prior_std²·I), from which samplers start.
    fn prior_std(&self) -> f64 {
        self.marginal(self.times()[1]).std
    }

    /// The logarithm of the prior's density at `z`.
    fn prior_log_density(&self, z: &[f64]) -> f64 {
        let variance = self.prior_std().powi(2);
        let square: f64 = z.iter().map(|z| z * z).sum();
        -0.5 * z.len() as f64 * (std::f64::consts::TAU * variance).ln() - square / (2.0 * variance)
    }

    /// The time of step `i` of 0 … N − 1 of a sampler: they divide [`Self::times`] evenly, from the largest to the smallest, both
    /// included. A single step has the largest.
    fn step_time(&self, i: usize) -> f64 {
        let [first, last] = self.times();
        let part = i as f64 / (self.n_levels().max(2) - 1) as f64;
        last * (1.0 - part) + first * part
    }

    /// The time of level `level` of 0 … L − 1.
    fn time(&self, level: usize) -> f64 {
        self.step_time(level)
    }

    /// The level whose time is nearest to `t`.
    fn level(&self, t: f64) -> usize {
        let [first, last] = self.times();
        nearest_level((last - t) / (last - first), self.n_levels())
    }

    /// k, the discrete level to which the time `t` belongs.
    fn index(&self, t: f64) -> usize {
        self.n_levels().max(1) - 1 - self.level(t)
    }

    /// The perturbation kernel of the discrete level `k`.
    fn discrete(&self, k: usize) -> Marginal {
        self.marginal(self.time(self.n_levels() - 1 - k))
    }

    /// The step to the discrete level at time `t` from the one below it, or from the data: that which leads from kernel to kernel.
    fn transition(&self, t: f64) -> Transition {
        let [below, here] = neighbours(self, t);
        let ratio = here.alpha / below.alpha;
        let variance = here.std.powi(2) - (ratio * below.std).powi(2);
        Transition { drift: ratio - 1.0, diffusion: variance.max(0.0).sqrt() }
    }

    /// α_k, the share of the data's variance that the step to the discrete level at time `t` leaves: 1 if noise is only added.
    fn retention(&self, t: f64) -> f64 {
        let [below, here] = neighbours(self, t);
        (here.alpha / below.alpha).powi(2)
    }

    /// The standard deviation of the noise of ancestral sampling from the discrete level at time `t` to the one below it: that of
    /// p(x_{k−1} | x_k, x_0), which is G·std_{k−1}/std_k.
    fn ancestral_std(&self, t: f64) -> f64 {
        let [below, here] = neighbours(self, t);
        self.transition(t).diffusion * below.std / here.std
    }

    /// The standard deviations of all levels, from the largest to the smallest.
    fn stds(&self) -> Vec<f64> {
        (0..self.n_levels()).map(|level| self.marginal(self.time(level)).std).collect()
    }
}

/// The kernels of the discrete level below the one at time `t`, and of that.
fn neighbours(process: &(impl Process + ?Sized), t: f64) -> [Marginal; 2] {
    let k = process.index(t);
    let below = if k == 0 { Marginal::CLEAN } else { process.discrete(k - 1) };
    [below, process.discrete(k)]
}

/// The slope over time of a function of the kernel, by a central difference; one-sided at the ends.
fn slope(process: &(impl Process + ?Sized), t: f64, f: impl Fn(Marginal) -> f64) -> f64 {
    // Between the errors of the difference, of order 1e-10, and of rounding, of order 1e-11.
    const HALF_WIDTH: f64 = 1e-5;
    let [before, after] = [(t - HALF_WIDTH).max(0.0), (t + HALF_WIDTH).min(process.times()[1])];
    (f(process.marginal(after)) - f(process.marginal(before))) / (after - before)
}

/// The level nearest to the part `part` of the way from the most noise to the least.
fn nearest_level(part: f64, n_levels: usize) -> usize {
    let n_steps = n_levels.max(1) - 1;
    // Casts saturate: what lies outside belongs to the first or the last level.
    ((part * n_steps as f64).round() as usize).min(n_steps)
}

/// ⌊t(N − 1)⌋, the discrete level of Song et al. 2021 at time t of [0, 1].
fn floor_index(t: f64, n_levels: usize) -> usize {
    let n_steps = n_levels.max(1) - 1;
    // Times k/(N − 1) belong to k although they are rounded.
    ((t * n_steps as f64 + 1e-9).floor() as usize).min(n_steps)
}

/// linspace(first, last, n)[k].
fn spaced([first, last]: [f64; 2], k: usize, n: usize) -> f64 {
    first + (last - first) * k as f64 / (n.max(2) - 1) as f64
}
