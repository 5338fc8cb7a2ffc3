//! Noise levels σ₁ > … > σ_L of NCSN.

use super::{Marginal, Process};
use crate::error::{Error, Result};

/// A decreasing sequence of noise levels: level i perturbs the data with N(0, σᵢ²·I). As a process, level i of 0 … L − 1 is
/// the time t = 1 − i/(L − 1), and any other time belongs to the nearest level.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseLevels {
    sigmas: Vec<f64>,
}

impl NoiseLevels {
    /// The geometric sequence `exp(linspace(ln sigma_begin, ln sigma_end, n))` (Song & Ermon 2019, §3.1; σ₁ = 1,
    /// σ_L = 0.01 and L = 10 there). With `n = 1` the only level is `sigma_begin`.
    ///
    /// # Errors
    /// When a σ is not positive and finite, `sigma_end` is not below `sigma_begin`, or `n` is 0.
    pub fn geometric(sigma_begin: f64, sigma_end: f64, n: usize) -> Result<Self> {
        let positive = |sigma: f64| sigma.is_finite() && sigma > 0.0;
        for (name, sigma) in [("sigma_begin", sigma_begin), ("sigma_end", sigma_end)] {
            if !positive(sigma) {
                return Err(Error::value(name, sigma, "a positive number"));
            }
        }
        if sigma_end >= sigma_begin {
            let expected = format!("less than sigma_begin, which is {sigma_begin}");
            return Err(Error::value("sigma_end", sigma_end, expected));
        }
        if n == 0 {
            return Err(Error::unexpected("no noise level", "at least one"));
        }
        let (first, last) = (sigma_begin.ln(), sigma_end.ln());
        let at = |i: usize| (first + (last - first) * i as f64 / (n.max(2) - 1) as f64).exp();
        Ok(Self { sigmas: (0..n).map(at).collect() })
    }

    /// The arithmetic sequence `linspace(sigma_begin, sigma_end, n)` (`sigma_dist: uniform` of NCSNv2's program). With `n = 1` the
    /// only level is `sigma_begin`.
    ///
    /// # Errors
    /// As [`Self::geometric`].
    pub fn uniform(sigma_begin: f64, sigma_end: f64, n: usize) -> Result<Self> {
        let Self { mut sigmas } = Self::geometric(sigma_begin, sigma_end, n)?;
        let step = (sigma_end - sigma_begin) / (n.max(2) - 1) as f64;
        sigmas.iter_mut().enumerate().for_each(|(i, sigma)| *sigma = sigma_begin + step * i as f64);
        Ok(Self { sigmas })
    }

    /// A single level; 0 leaves the data as they are.
    ///
    /// # Errors
    /// When `sigma` is negative or not finite.
    pub fn single(sigma: f64) -> Result<Self> {
        if !(sigma >= 0.0 && sigma.is_finite()) {
            return Err(Error::value("the noise level", sigma, "a number from 0"));
        }
        Ok(Self { sigmas: vec![sigma] })
    }

    /// The data as they are: one level with σ = 0.
    pub fn none() -> Self {
        Self { sigmas: vec![0.0] }
    }

    /// σ₁ … σ_L, from the largest to the smallest.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// σ_L, the smallest level.
    pub fn sigma_min(&self) -> f64 {
        self.sigmas[self.sigmas.len() - 1]
    }
}

impl Process for NoiseLevels {
    fn marginal(&self, t: f64) -> Marginal {
        Marginal { alpha: 1.0, std: self.sigmas[self.level(t)] }
    }

    fn n_levels(&self) -> usize {
        self.sigmas.len()
    }

    fn drift(&self, _: f64) -> f64 {
        0.0
    }

    /// Levels are no function of time: that of the process whose Euler steps of 1/L lead from level to level.
    fn diffusion(&self, t: f64) -> f64 {
        self.transition(t).diffusion * (self.sigmas.len() as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_neighbours_is_constant_and_the_ends_are_met() {
        let levels = NoiseLevels::geometric(1.0, 0.01, 10).expect("valid");
        let s = levels.sigmas();
        let ratio = 0.01f64.powf(1.0 / 9.0);
        assert!(s.windows(2).all(|w| (w[1] / w[0] - ratio).abs() < 1e-12));
        assert!((s[0] - 1.0).abs() < 1e-15 && (levels.sigma_min() - 0.01).abs() < 1e-15);
    }

    #[test]
    fn every_level_is_found_at_its_time() {
        for n in [1, 2, 3, 10, 232, 2311] {
            let levels = NoiseLevels::geometric(348.0, 0.01, n).expect("valid");
            assert_eq!([levels.time(0), levels.level(f64::NAN) as f64], [1.0, 0.0]);
            assert_eq!([levels.level(7.0), levels.level(-7.0)], [0, n - 1]);
            assert_eq!(levels.stds(), levels.sigmas());
        }
    }

    #[test]
    fn impossible_levels_are_refused_with_their_values() {
        for (begin, end, n, needle) in [
            (1.0, 2.0, 10, "sigma_end is 2, expected less than sigma_begin, which is 1"),
            (0.0, -1.0, 10, "positive"),
            (1.0, f64::NAN, 3, "positive"),
            (1.0, 0.1, 0, "no noise level"),
        ] {
            let message = NoiseLevels::geometric(begin, end, n).expect_err("invalid").to_string();
            assert!(message.contains(needle), "{message}");
        }
    }
}
