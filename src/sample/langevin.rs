//! Langevin dynamics, plain and annealed.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Draws, Method, Stage};
use crate::score::Score;
use crate::sde::Process;

/// Annealed Langevin dynamics (Song & Ermon 2019, Alg. 1): `n_steps_each` updates x ← x + α·s + √(2α)·z at every level, from the
/// most noise to the least, with α = `step_lr`·(σ/σ_L)².
///
/// The published program steps by α·s + √(2α)·z where the paper has α/2·s + √α·z; with the same `step_lr` its steps are twice the
/// paper's, and we follow the program. It returns the state before the last update; ours is the state after it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnnealedLangevin {
    /// α at the last level: ε in the papers.
    pub step_lr: f64,
    /// T, updates at each level.
    pub n_steps_each: usize,
    /// Whether x ← x + σ_L²·s ends the chain, which removes the noise that is left (NCSNv2).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub denoise: bool,
}

impl Default for AnnealedLangevin {
    /// That of the paper's experiments.
    fn default() -> Self {
        Self { step_lr: 2e-5, n_steps_each: 100, denoise: false }
    }
}

impl AnnealedLangevin {
    /// α at time `t`.
    pub fn alpha(&self, process: &dyn Process, t: f64) -> f64 {
        let [sigma, last] = [t, process.times()[0]].map(|t| process.marginal(t).std);
        // The last level's ratio is 1 even if it is 0.
        let ratio = if sigma == last { 1.0 } else { sigma / last };
        self.step_lr * ratio.powi(2)
    }
}

impl<const D: usize> Method<D> for AnnealedLangevin {
    fn stages(&self, process: &dyn Process) -> Vec<Stage> {
        let n_levels = process.n_levels();
        let level = |level| std::iter::repeat_n(Stage::Correct { t: process.time(level) }, self.n_steps_each);
        let denoise = self.denoise.then(|| Stage::Denoise { t: process.time(n_levels - 1) });
        (0..n_levels).flat_map(level).chain(denoise).collect()
    }

    fn step(
        &mut self,
        stage: Stage,
        score: &dyn Score<D>,
        process: &dyn Process,
        x: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        let t = stage.t();
        let s = score.score(x.clone(), &vec![t; x.dims()[0]]);
        match stage {
            Stage::Denoise { .. } => x + s * process.marginal(t).std.powi(2),
            _ => langevin(x, s, self.alpha(process, t), draws),
        }
    }
}

/// Langevin dynamics at one time: `n_steps` updates x ← x + α·s + √(2α)·z.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlainLangevin {
    /// The time whose score is followed.
    pub t: f64,
    /// How many updates.
    pub n_steps: usize,
    /// α.
    pub alpha: f64,
}

impl<const D: usize> Method<D> for PlainLangevin {
    fn stages(&self, _: &dyn Process) -> Vec<Stage> {
        vec![Stage::Correct { t: self.t }; self.n_steps]
    }

    fn step(
        &mut self,
        stage: Stage,
        score: &dyn Score<D>,
        _: &dyn Process,
        x: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        let s = score.score(x.clone(), &vec![stage.t(); x.dims()[0]]);
        langevin(x, s, self.alpha, draws)
    }
}

/// x + α·s + √(2α)·z.
fn langevin<const D: usize>(x: Tensor<D>, s: Tensor<D>, alpha: f64, draws: &mut dyn Draws<D>) -> Tensor<D> {
    draws.update(x, s, [alpha, (2.0 * alpha).sqrt()])
}
