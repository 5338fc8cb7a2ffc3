//! The variance-exploding process.

use super::{Marginal, Process, floor_index, nearest_level, spaced};
use crate::error::{Error, Result};

/// The variance-exploding process (VE; Song et al. 2021, eqs. 9 and 30): noise is only added,
///
/// dx = σ(t)·√(2 ln(σ_max/σ_min)) dw with σ(t) = σ_min·(σ_max/σ_min)^t, so that x_t = x_0 + σ(t)·z.
///
/// Its discrete levels are σ_k = exp(linspace(ln σ_min, ln σ_max, N)), those of NCSN.
///
/// The standard deviation is σ(t) and not √(σ(t)² − σ_min²): at t = 0 the data are perturbed with σ_min already, as in the published
/// program.
#[derive(Clone, Debug, PartialEq)]
pub struct Ve {
    sigma_min: f64,
    sigma_max: f64,
    n: usize,
}

impl Ve {
    /// The smallest time at which data are sampled.
    pub const SMALLEST_TIME: f64 = 1e-5;

    /// From `sigma_min` to `sigma_max`, in `n` steps when it is discretised (0.01, 50 and 1000 on CIFAR-10).
    ///
    /// # Errors
    /// When a σ is not positive and finite, `sigma_max` is not above `sigma_min`, or `n` is 0.
    pub fn new(sigma_min: f64, sigma_max: f64, n: usize) -> Result<Self> {
        if !(sigma_min > 0.0 && sigma_min.is_finite()) {
            return Err(Error::value("sigma_min", sigma_min, "a positive number"));
        }
        if !(sigma_max > sigma_min && sigma_max.is_finite()) {
            return Err(Error::value("sigma_max", sigma_max, format!("a number above sigma_min, {sigma_min}")));
        }
        if n == 0 {
            return Err(Error::value("num_scales", n, "at least 1"));
        }
        Ok(Self { sigma_min, sigma_max, n })
    }

    /// ln(σ_max/σ_min).
    fn log_ratio(&self) -> f64 {
        (self.sigma_max / self.sigma_min).ln()
    }

    /// σ(t).
    fn sigma(&self, t: f64) -> f64 {
        self.sigma_min * (self.log_ratio() * t).exp()
    }
}

impl Process for Ve {
    fn marginal(&self, t: f64) -> Marginal {
        Marginal { alpha: 1.0, std: self.sigma(t) }
    }

    fn times(&self) -> [f64; 2] {
        [Self::SMALLEST_TIME, 1.0]
    }

    fn n_levels(&self) -> usize {
        self.n
    }

    fn drift(&self, _: f64) -> f64 {
        0.0
    }

    fn diffusion(&self, t: f64) -> f64 {
        self.sigma(t) * (2.0 * self.log_ratio()).sqrt()
    }

    /// k/(N − 1); a sampler's times end a little above 0 instead.
    fn time(&self, level: usize) -> f64 {
        spaced([1.0, 0.0], level, self.n)
    }

    fn level(&self, t: f64) -> usize {
        nearest_level(1.0 - t, self.n)
    }

    fn index(&self, t: f64) -> usize {
        floor_index(t, self.n)
    }

    fn discrete(&self, k: usize) -> Marginal {
        Marginal { alpha: 1.0, std: spaced([self.sigma_min.ln(), self.sigma_max.ln()], k, self.n).exp() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NoiseLevels, Transition};
    use super::*;

    #[test]
    fn its_discrete_levels_are_those_of_ncsn() {
        let (ve, levels) =
            (Ve::new(0.01, 50.0, 232).expect("valid"), NoiseLevels::geometric(50.0, 0.01, 232).expect("valid"));
        for level in 0..232 {
            let t = ve.time(level);
            assert_eq!([ve.level(t), ve.index(t)], [level, 231 - level]);
            let [found, expected] = [ve.discrete(231 - level).std, levels.sigmas()[level]];
            assert!((found / expected - 1.0).abs() < 1e-13, "{level}: {found}, expected {expected}");
            assert!((ve.marginal(t).std / expected - 1.0).abs() < 1e-13);
            let [Transition { diffusion, .. }, expected] = [ve.transition(t), levels.transition(levels.time(level))];
            assert!((diffusion / expected.diffusion - 1.0).abs() < 1e-10);
        }
    }

    #[test]
    fn impossible_values_are_refused() {
        for (min, max, n, needle) in [
            (0.0, 1.0, 10, "sigma_min is 0, expected a positive number"),
            (2.0, 1.0, 10, "sigma_max is 1, expected a number above sigma_min, 2"),
            (1.0, f64::NAN, 10, "sigma_max is NaN"),
            (1.0, 2.0, 0, "num_scales is 0, expected at least 1"),
        ] {
            let message = Ve::new(min, max, n).expect_err("invalid").to_string();
            assert!(message.contains(needle), "{message}");
        }
    }
}
