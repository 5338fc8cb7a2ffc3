//! The sub-variance-preserving process.

use super::{Marginal, Process, Transition, Vp};
use crate::error::Result;

/// The sub-VP process (Song et al. 2021, eqs. 12 and 33), whose variance is at most that of [`Vp`]:
///
/// dx = −½β(t)·x dt + √(β(t)·(1 − e^{4λ(t)})) dw, so that x_t = e^λ·x_0 + (1 − e^{2λ})·z, with β and λ of VP.
///
/// The paper discretises it by Euler's steps of 1/N, at the time itself and not at that of a level. What discrete kernels serve, the
/// factor α_k of correctors and the noise of ancestral sampling, has VP's ᾱ_k (the published program cannot run either).
#[derive(Clone, Debug, PartialEq)]
pub struct SubVp(Vp);

impl SubVp {
    /// The smallest time at which data are sampled.
    pub const SMALLEST_TIME: f64 = Vp::SMALLEST_TIME;

    /// From `beta_min` to `beta_max`, in `n` steps when it is discretised.
    ///
    /// # Errors
    /// As [`Vp::new`].
    pub fn new(beta_min: f64, beta_max: f64, n: usize) -> Result<Self> {
        Vp::new(beta_min, beta_max, n).map(Self)
    }

    /// e^λ and 1 − e^{2λ}.
    fn kernel(lambda: f64) -> Marginal {
        Marginal { alpha: lambda.exp(), std: -(2.0 * lambda).exp_m1() }
    }
}

impl Process for SubVp {
    fn marginal(&self, t: f64) -> Marginal {
        Self::kernel(self.0.log_mean(t))
    }

    fn times(&self) -> [f64; 2] {
        self.0.times()
    }

    fn n_levels(&self) -> usize {
        self.0.n_levels()
    }

    fn drift(&self, t: f64) -> f64 {
        self.0.drift(t)
    }

    fn diffusion(&self, t: f64) -> f64 {
        (self.0.beta(t) * -(4.0 * self.0.log_mean(t)).exp_m1()).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }

    fn time(&self, level: usize) -> f64 {
        self.0.time(level)
    }

    fn level(&self, t: f64) -> usize {
        self.0.level(t)
    }

    fn index(&self, t: f64) -> usize {
        self.0.index(t)
    }

    fn discrete(&self, k: usize) -> Marginal {
        Self::kernel(0.5 * self.0.discrete_log_alpha(k))
    }

    fn transition(&self, t: f64) -> Transition {
        let n = self.n_levels() as f64;
        Transition { drift: self.drift(t) / n, diffusion: self.diffusion(t) / n.sqrt() }
    }

    fn retention(&self, t: f64) -> f64 {
        self.0.retention(t)
    }
}
