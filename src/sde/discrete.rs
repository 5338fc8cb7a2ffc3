//! A process seen at its discrete levels.

use super::{Marginal, Process, Transition};

/// A process whose perturbation kernel at a time is that of the discrete level there, for losses over discrete levels: those of DDPM
/// (√ᾱ_k and √(1 − ᾱ_k)) are not those of the continuous process at any time. All else is the process's own.
#[derive(Clone, Copy, Debug)]
pub struct Discrete<'a>(pub &'a dyn Process);

impl Process for Discrete<'_> {
    fn marginal(&self, t: f64) -> Marginal {
        self.0.discrete(self.0.index(t))
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
        self.0.diffusion(t)
    }

    fn prior_std(&self) -> f64 {
        self.0.prior_std()
    }

    fn step_time(&self, i: usize) -> f64 {
        self.0.step_time(i)
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
        self.0.discrete(k)
    }

    fn transition(&self, t: f64) -> Transition {
        self.0.transition(t)
    }

    fn retention(&self, t: f64) -> f64 {
        self.0.retention(t)
    }

    fn ancestral_std(&self, t: f64) -> f64 {
        self.0.ancestral_std(t)
    }
}
