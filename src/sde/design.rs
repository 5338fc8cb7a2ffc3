//! How to choose noise levels and steps (Song & Ermon 2020, "Improved Techniques for Training Score-Based Generative Models").

use super::NoiseLevels;
use crate::error::{Error, Result};

/// Geometric noise levels for data of some dimension, and Langevin dynamics through them.
///
/// The largest level is the largest distance between two training examples (technique 1), the spacing makes neighbouring
/// levels overlap (technique 2), and the step size keeps a sample's variance where it belongs (technique 4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Design {
    /// D, the numbers of an example: channels·height·width.
    pub dim: usize,
    /// σ₁.
    pub sigma_begin: f64,
    /// σ_L.
    pub sigma_end: f64,
    /// L.
    pub n_levels: usize,
}

impl Design {
    /// The fewest levels from `sigma_begin` to `sigma_end` whose [`Self::overlap`] is at least `overlap`; the paper has 0.5.
    ///
    /// # Errors
    /// When the levels are impossible, see [`NoiseLevels::geometric`], or the overlap is not between 0 and 0.99, or would need more
    /// than a million levels.
    pub fn with_overlap(dim: usize, [sigma_begin, sigma_end]: [f64; 2], overlap: f64) -> Result<Self> {
        const MAX_LEVELS: usize = 1_000_000;
        NoiseLevels::geometric(sigma_begin, sigma_end, 2)?;
        if !(overlap > 0.0 && overlap < 0.99) || dim == 0 {
            let found = format!("an overlap of {overlap} for {dim} numbers");
            return Err(Error::unexpected(found, "one between 0 and 0.99"));
        }
        let with = |n_levels| Self { dim, sigma_begin, sigma_end, n_levels };
        // It grows with their number; where γ is beyond f64 it is none.
        let is_enough = |n_levels| with(n_levels).overlap() >= overlap;
        let (mut too_few, mut enough) = (1, 2);
        while !is_enough(enough) {
            if enough > MAX_LEVELS {
                let message = format!(
                    "levels from {sigma_begin} to {sigma_end} overlap by {overlap} only if there are over a million"
                );
                return Err(Error::Usage(message));
            }
            (too_few, enough) = (enough, 2 * enough);
        }
        while enough - too_few > 1 {
            let middle = too_few.midpoint(enough);
            if is_enough(middle) { enough = middle } else { too_few = middle }
        }
        Ok(with(enough))
    }

    /// The levels.
    ///
    /// # Errors
    /// When they are impossible, see [`NoiseLevels::geometric`].
    pub fn levels(&self) -> Result<NoiseLevels> {
        NoiseLevels::geometric(self.sigma_begin, self.sigma_end, self.n_levels)
    }

    /// γ = σᵢ₋₁/σᵢ.
    pub fn gamma(&self) -> f64 {
        ((self.sigma_begin.ln() - self.sigma_end.ln()) / (self.n_levels.max(2) - 1) as f64).exp()
    }

    /// C = Φ(√(2D)·(γ − 1) + 3γ) − Φ(√(2D)·(γ − 1) − 3γ): the probability of the shell of one level where the next one has its own
    /// (eq. 4).
    pub fn overlap(&self) -> f64 {
        let gamma = self.gamma();
        let shift = (2.0 * self.dim as f64).sqrt() * (gamma - 1.0);
        normal_cdf(shift + 3.0 * gamma) - normal_cdf(shift - 3.0 * gamma)
    }

    /// s_T²/σ²: the variance of samples of N(0, σᵢ₋₁²·I) after `n_steps_each` = T Langevin updates at level i, over σᵢ² (eq. 6):
    /// (1 − e)^2T·(γ² − A) + A with e = ε/σ_L² and A = 2/(2 − e). The nearer to 1, the better; it stays above.
    pub fn variance_ratio(&self, n_steps_each: usize, step_lr: f64) -> f64 {
        let e = step_lr / self.sigma_end.powi(2);
        let a = 2.0 / (2.0 - e);
        (1.0 - e).powf(2.0 * n_steps_each as f64) * (self.gamma().powi(2) - a) + a
    }

    /// The ε at which [`Self::variance_ratio`] is smallest.
    pub fn best_step_lr(&self, n_steps_each: usize) -> f64 {
        // It falls, then rises, for e from 0 to 1; a golden-section search over ln e.
        let ratio = |ln_e: f64| self.variance_ratio(n_steps_each, ln_e.exp() * self.sigma_end.powi(2));
        let golden = (5.0_f64.sqrt() - 1.0) / 2.0;
        let (mut low, mut high) = (1e-12_f64.ln(), 0.0);
        while high - low > 1e-9 {
            let (a, b) = (high - golden * (high - low), low + golden * (high - low));
            if ratio(a) < ratio(b) { high = b } else { low = a }
        }
        f64::midpoint(low, high).exp() * self.sigma_end.powi(2)
    }

    /// T for at most `budget` updates in all; at least 1.
    pub fn n_steps_each(&self, budget: usize) -> usize {
        (budget / self.n_levels).max(1)
    }
}

/// Φ, the standard normal distribution function.
fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x / std::f64::consts::SQRT_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published configurations: D, σ₁, L, T, ε, and γ, C and s_T²/σ² as the paper's formulas give them; then the ε at the
    /// minimum.
    #[expect(clippy::type_complexity, reason = "a table")]
    const PUBLISHED: [(&str, usize, f64, usize, usize, f64, [f64; 3], f64); 6] = [
        ("cifar10", 3 * 32 * 32, 50.0, 232, 5, 6.2e-6, [1.037_559, 0.566_97, 1.055_47], 6.18e-6),
        ("celeba", 3 * 64 * 64, 90.0, 500, 5, 3.3e-6, [1.018_414, 0.566_92, 1.031_35], 3.34e-6),
        ("church", 3 * 96 * 96, 140.0, 788, 4, 4.9e-6, [1.012_205, 0.566_20, 1.024_74], 2.31e-6),
        ("bedroom, tower", 3 * 128 * 128, 190.0, 1086, 3, 1.8e-6, [1.009_122, 0.566_47, 1.017_37], 1.77e-6),
        ("ffhq", 3 * 256 * 256, 348.0, 2311, 3, 9e-7, [1.004_537, 0.566_88, 1.008_85], 8.9e-7),
        ("ncsn_original", 3 * 32 * 32, 1.0, 10, 100, 2e-5, [1.668_101, 0.0, 1.111_11], 3.23e-6),
    ];

    #[test]
    fn the_published_configurations_have_the_published_numbers() {
        for (name, dim, sigma_begin, n_levels, n_steps_each, step_lr, [gamma, overlap, ratio], best) in PUBLISHED {
            let design = Design { dim, sigma_begin, sigma_end: 0.01, n_levels };
            assert!((design.gamma() - gamma).abs() < 5e-7, "{name}: γ {}", design.gamma());
            assert!((design.overlap() - overlap).abs() < 5e-6, "{name}: C {}", design.overlap());
            let found = design.variance_ratio(n_steps_each, step_lr);
            assert!((found - ratio).abs() < 5e-6, "{name}: {found}");
            let found = design.best_step_lr(n_steps_each);
            // Printed with two or three digits.
            assert!((found / best - 1.0).abs() < 6e-3, "{name}: ε {found:e}");
            let smallest = design.variance_ratio(n_steps_each, found);
            assert!(
                smallest >= 1.0
                    && [0.999, 1.001].iter().all(|f| design.variance_ratio(n_steps_each, f * found) > smallest)
            );
        }
    }

    #[test]
    fn the_fewest_levels_that_overlap_enough_are_found() {
        for (_, dim, sigma_begin, n_levels, ..) in PUBLISHED.into_iter().take(5) {
            let sigmas = [sigma_begin, 0.01];
            let published = Design { dim, sigma_begin, sigma_end: 0.01, n_levels };
            assert_eq!(Design::with_overlap(dim, sigmas, published.overlap() - 1e-9).expect("levels"), published);
            let found = Design::with_overlap(dim, sigmas, 0.5).expect("levels");
            let fewer = Design { n_levels: found.n_levels - 1, ..found };
            assert!(found.overlap() >= 0.5 && fewer.overlap() < 0.5, "{found:?}");
        }
        for (sigmas, overlap) in
            [([1.0, 2.0], 0.5), ([50.0, 0.01], 1.0), ([50.0, 0.01], f64::NAN), ([1e300, 1e-300], 0.98)]
        {
            assert!(Design::with_overlap(1 << 30, sigmas, overlap).is_err(), "{sigmas:?} {overlap}");
        }
    }

    #[test]
    fn steps_are_shared_out_among_the_levels() {
        let design = Design { dim: 3072, sigma_begin: 50.0, sigma_end: 0.01, n_levels: 232 };
        assert_eq!([1160, 1159, 100].map(|budget| design.n_steps_each(budget)), [5, 4, 1]);
    }
}
