//! Learning rates over the steps of a run.

/// The learning rate as a function of k, the number of steps made before: the first step has k = 0.
///
/// A value of it is a function of k alone, so a resumed run needs nothing but its steps to go on as before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The same learning rate for all steps.
    Constant(f64),
    /// lr·min(k/n, 1), linear warm-up over n steps (Ho et al. 2020, Song et al. 2021). The first step has a learning rate of 0, as in
    /// the program of Song et al.: it changes no weight, but the state of the optimiser.
    WarmUp {
        /// lr, after the warm-up.
        lr: f64,
        /// n; with 0 there is no warm-up.
        n_steps: u64,
    },
    /// lr·max(1 − k/n, 0), linear decay over n steps.
    LinearDecay {
        /// lr of the first step.
        lr: f64,
        /// n, the steps of the run.
        n_steps: u64,
    },
}

impl Schedule {
    /// The learning rate of the step before which `k` were made.
    pub fn at(self, k: u64) -> f64 {
        match self {
            Self::Constant(lr) => lr,
            Self::WarmUp { lr, n_steps } if k < n_steps => lr * (k as f64 / n_steps as f64),
            Self::WarmUp { lr, .. } => lr,
            Self::LinearDecay { lr, n_steps } if k < n_steps => lr * (1.0 - k as f64 / n_steps as f64),
            Self::LinearDecay { .. } => 0.0,
        }
    }

    /// The largest learning rate: that of all steps, of those after the warm-up, or of the first one.
    pub fn peak(self) -> f64 {
        match self {
            Self::Constant(lr) | Self::WarmUp { lr, .. } | Self::LinearDecay { lr, .. } => lr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_up_begins_at_0_and_ends_at_the_peak_and_a_decay_the_other_way_round() {
        let at = |schedule: Schedule| [0, 1, 2, 3, 4, 5, u64::MAX].map(|k| schedule.at(k));
        assert_eq!(at(Schedule::Constant(0.5)), [0.5; 7]);
        // Halves and quarters have no rounding.
        assert_eq!(at(Schedule::WarmUp { lr: 0.5, n_steps: 4 }), [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5]);
        assert_eq!(at(Schedule::LinearDecay { lr: 0.5, n_steps: 4 }), [0.5, 0.375, 0.25, 0.125, 0.0, 0.0, 0.0]);
        assert_eq!(at(Schedule::WarmUp { lr: 0.5, n_steps: 0 }), [0.5; 7]);
    }

    #[test]
    fn the_published_run_of_four_steps_has_these_learning_rates() {
        let schedule = Schedule::WarmUp { lr: 2e-4, n_steps: 5 };
        for (k, expected) in [0.0, 4e-5, 8e-5, 1.2e-4].into_iter().enumerate() {
            // Rounding of one product in f64.
            assert!((schedule.at(k as u64) - expected).abs() <= 1e-19, "step {k}");
        }
        assert_eq!(schedule.peak(), 2e-4);
    }
}
