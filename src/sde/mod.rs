//! The forward process p(x_t | x_0): how data are perturbed over time. Scalars (`f64`) only, no tensor in sight.

mod design;
mod levels;

pub use design::Design;
pub use levels::NoiseLevels;

use std::fmt::Debug;

/// The perturbation kernel p(x_t | x_0) = N(alpha·x_0, std²·I).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Marginal {
    /// Factor of the data.
    pub alpha: f64,
    /// Standard deviation of the noise.
    pub std: f64,
}

/// A process that perturbs data more and more over time.
///
/// A network knows [`Self::n_levels`] points in time; level 0 has the most noise.
pub trait Process: Debug + Send + Sync {
    /// The perturbation kernel at time `t`.
    fn marginal(&self, t: f64) -> Marginal;

    /// The smallest time at which data are sampled, and the largest.
    fn times(&self) -> [f64; 2] {
        [0.0, 1.0]
    }

    /// L, the number of levels.
    fn n_levels(&self) -> usize;

    /// The time of level `level` of 0 … L − 1: they divide [`Self::times`] evenly, from the largest to the smallest. A single
    /// level has the largest.
    fn time(&self, level: usize) -> f64 {
        let [first, last] = self.times();
        last - (last - first) * level as f64 / (self.n_levels().max(2) - 1) as f64
    }

    /// The level whose time is nearest to `t`.
    fn level(&self, t: f64) -> usize {
        let [first, last] = self.times();
        let n_steps = self.n_levels().max(1) - 1;
        // Casts saturate: what lies outside belongs to the first or the last level.
        ((((last - t) / (last - first)) * n_steps as f64).round() as usize).min(n_steps)
    }

    /// The standard deviations of all levels, from the largest to the smallest.
    fn stds(&self) -> Vec<f64> {
        (0..self.n_levels()).map(|level| self.marginal(self.time(level)).std).collect()
    }
}
