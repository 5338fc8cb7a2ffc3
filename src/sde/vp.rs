//! The variance-preserving process.

use super::{Marginal, Process, Transition, floor_index, nearest_level, spaced};
use crate::error::{Error, Result};

/// The variance-preserving process (VP; Song et al. 2021, eqs. 11 and 32), DDPM (Ho et al. 2020) in continuous time:
///
/// dx = −½β(t)·x dt + √β(t) dw with β(t) = β_min + t·(β_max − β_min), so that x_t = e^λ·x_0 + √(1 − e^{2λ})·z with
/// λ(t) = −¼t²(β_max − β_min) − ½tβ_min.
///
/// Its discrete form is DDPM's: β_k = linspace(β_min/N, β_max/N, N), α_k = 1 − β_k, ᾱ_k = ∏_{j≤k} α_j and
/// x_k = √α_k·x_{k−1} + √β_k·z.
#[derive(Clone, Debug, PartialEq)]
pub struct Vp {
    beta_min: f64,
    beta_max: f64,
    /// ln ᾱ_k.
    log_alphas: Vec<f64>,
}

impl Vp {
    /// The smallest time at which data are sampled.
    pub const SMALLEST_TIME: f64 = 1e-3;

    /// From `beta_min` to `beta_max`, in `n` steps when it is discretised (0.1, 20 and 1000 in the published files).
    ///
    /// # Errors
    /// When β is not positive and rising, `n` is 0, or the last step, β_max/N, leaves nothing of the data.
    pub fn new(beta_min: f64, beta_max: f64, n: usize) -> Result<Self> {
        if !(beta_min > 0.0 && beta_min.is_finite()) {
            return Err(Error::value("beta_min", beta_min, "a positive number"));
        }
        if !(beta_max >= beta_min && beta_max.is_finite()) {
            return Err(Error::value("beta_max", beta_max, format!("a number not below beta_min, {beta_min}")));
        }
        if n == 0 || beta_max >= n as f64 {
            return Err(Error::value("num_scales", n, format!("a number above beta_max, {beta_max}")));
        }
        let mut vp = Self { beta_min, beta_max, log_alphas: vec![0.0; n] };
        let mut sum = 0.0;
        for k in 0..n {
            sum += (-vp.discrete_beta(k)).ln_1p();
            vp.log_alphas[k] = sum;
        }
        Ok(vp)
    }

    /// β(t).
    pub fn beta(&self, t: f64) -> f64 {
        self.beta_min + t * (self.beta_max - self.beta_min)
    }

    /// λ(t), the logarithm of the mean's factor.
    pub fn log_mean(&self, t: f64) -> f64 {
        -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
    }

    /// β_k.
    pub fn discrete_beta(&self, k: usize) -> f64 {
        let n = self.log_alphas.len();
        spaced([self.beta_min / n as f64, self.beta_max / n as f64], k, n)
    }

    /// ln ᾱ_k.
    pub(super) fn discrete_log_alpha(&self, k: usize) -> f64 {
        self.log_alphas[k]
    }

    /// e^λ and √(1 − e^{2λ}). The published program forms 1 − e^{2λ} in f32, which is 1.3% off at t = 1e-5.
    fn kernel(lambda: f64) -> Marginal {
        Marginal { alpha: lambda.exp(), std: (-(2.0 * lambda).exp_m1()).sqrt() }
    }
}

impl Process for Vp {
    fn marginal(&self, t: f64) -> Marginal {
        Self::kernel(self.log_mean(t))
    }

    fn times(&self) -> [f64; 2] {
        [Self::SMALLEST_TIME, 1.0]
    }

    fn n_levels(&self) -> usize {
        self.log_alphas.len()
    }

    fn drift(&self, t: f64) -> f64 {
        -0.5 * self.beta(t)
    }

    fn diffusion(&self, t: f64) -> f64 {
        self.beta(t).sqrt()
    }

    fn prior_std(&self) -> f64 {
        1.0
    }

    /// k/(N − 1); a sampler's times end a little above 0 instead.
    fn time(&self, level: usize) -> f64 {
        spaced([1.0, 0.0], level, self.n_levels())
    }

    fn level(&self, t: f64) -> usize {
        nearest_level(1.0 - t, self.n_levels())
    }

    fn index(&self, t: f64) -> usize {
        floor_index(t, self.n_levels())
    }

    fn discrete(&self, k: usize) -> Marginal {
        Self::kernel(0.5 * self.log_alphas[k])
    }

    fn transition(&self, t: f64) -> Transition {
        let beta = self.discrete_beta(self.index(t));
        Transition { drift: (1.0 - beta).sqrt() - 1.0, diffusion: beta.sqrt() }
    }

    fn retention(&self, t: f64) -> f64 {
        1.0 - self.discrete_beta(self.index(t))
    }

    /// √β_k, the larger of the two choices of Ho et al. 2020, §3.2, and that of Song et al. 2021.
    fn ancestral_std(&self, t: f64) -> f64 {
        self.transition(t).diffusion
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_discrete_steps_lead_from_kernel_to_kernel() {
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let (mut alpha, mut variance) = (1.0, 0.0);
        for k in 0..1000 {
            let t = vp.time(999 - k);
            assert_eq!([vp.index(t), vp.level(t)], [k, 999 - k]);
            let Transition { drift, diffusion } = vp.transition(t);
            alpha *= 1.0 + drift;
            variance = (1.0 + drift).powi(2) * variance + diffusion.powi(2);
            let expected = vp.discrete(k);
            assert!((alpha / expected.alpha - 1.0).abs() < 1e-12, "{k}");
            assert!((variance.sqrt() / expected.std - 1.0).abs() < 1e-12, "{k}");
            assert!((vp.retention(t) - (1.0 + drift).powi(2)).abs() < 1e-15);
        }
    }

    #[test]
    fn its_standard_deviation_keeps_its_digits_where_there_is_little_noise() {
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        // √(tβ_min) but for terms of the order of t.
        let std = vp.marginal(1e-12).std;
        assert!((std / 1e-13f64.sqrt() - 1.0).abs() < 1e-9, "{std}");
    }

    #[test]
    fn impossible_values_are_refused() {
        for (min, max, n, needle) in [
            (0.0, 1.0, 10, "beta_min is 0, expected a positive number"),
            (2.0, 1.0, 10, "beta_max is 1, expected a number not below beta_min, 2"),
            (0.1, 20.0, 20, "num_scales is 20, expected a number above beta_max, 20"),
            (0.1, f64::INFINITY, 20, "beta_max is inf"),
        ] {
            let message = Vp::new(min, max, n).expect_err("invalid").to_string();
            assert!(message.contains(needle), "{message}");
        }
    }
}
