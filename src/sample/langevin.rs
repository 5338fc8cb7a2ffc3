//! Langevin dynamics, plain and annealed.

use std::fmt;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Draws, Evaluation, Method, Stage, State};
use crate::device::values;
use crate::error::Result;
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

impl fmt::Display for AnnealedLangevin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step_lr, n_steps_each, denoise } = self;
        write!(f, "langevin {n_steps_each}x{step_lr}{}", if *denoise { " denoised" } else { "" })
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

    /// The last update at the level that `state` is at, of a [watched](super::Chain::watched) chain of data that `process` perturbs;
    /// `None` where no level ends with an update.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device could not compute it.
    pub fn last_update<const D: usize>(&self, process: &dyn Process, state: &State<D>) -> Result<Option<Update>> {
        let (Stage::Correct { t }, Some(Evaluation { x: before, score })) = (state.stage, &state.evaluation) else {
            return Ok(None);
        };
        let n = before.dims()[0].max(1);
        let [before, s, x] = [before, score, &state.x].map(|tensor| values(tensor.clone()));
        let (before, s, x) = (before?, s?, x?);
        let len = (x.len() / n).max(1);
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let mean_norm =
            |x: &[f32]| x.chunks(len).map(|x| norm(&mut x.iter().map(|&x| f64::from(x)))).sum::<f64>() / n as f64;
        let (alpha, sigma) = (self.alpha(process, t), process.marginal(t).std);
        // What the update added beside α·s, which no method keeps.
        let z = |i: usize| (f64::from(x[i]) - f64::from(before[i]) - alpha * f64::from(s[i])) / (2.0 * alpha).sqrt();
        let z_norm = (0..n).map(|k| norm(&mut (k * len..(k + 1) * len).map(z))).sum::<f64>() / n as f64;
        let mean_of_s = |i: usize| s[i..].iter().step_by(len).map(|&s| f64::from(s)).sum::<f64>() / n as f64;
        let score_norm = mean_norm(&s);
        Ok(Some(Update {
            level: process.level(t),
            sigma,
            alpha,
            score_norm,
            x_norm: mean_norm(&x),
            snr: (alpha / 2.0).sqrt() * score_norm / z_norm,
            mean_score: (norm(&mut (0..len).map(mean_of_s)) * sigma).powi(2),
        }))
    }
}

/// What an update x ← x + α·s + √(2α)·z did, averaged over a batch, as NCSNv2's program logs it of each level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The number of the level, the one of the most noise being 0.
    pub level: usize,
    /// σ, its standard deviation.
    pub sigma: f64,
    /// α, the step size.
    pub alpha: f64,
    /// The mean of ‖s‖.
    pub score_norm: f64,
    /// The mean of ‖x‖ after the update.
    pub x_norm: f64,
    /// The signal-to-noise ratio √(α/2)·mean ‖s‖ / mean ‖z‖: of the two terms, as vectors of length α‖s‖ and √(2α)‖z‖. z is what the
    /// update added beside α·s, to some roundings of x.
    pub snr: f64,
    /// ‖mean of s over the batch‖²·σ², which is small where the scores of the batch point in all directions.
    pub mean_score: f64,
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
