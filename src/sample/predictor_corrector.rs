//! Predictor–corrector sampling.

use std::fmt;

use burn::tensor::Tensor;
use serde::Serialize;

use super::{Corrector, Draws, Method, Norms, Predictor, Stage};
use crate::score::Score;
use crate::sde::{Process, Rates, Reverse};

/// Predictor–corrector sampling (Song et al. 2021, alg. 1): at each of the N times of [`Process::step_time`] the corrector's
/// updates, then a step of the predictor. The paper's algorithm has them the other way round; this is the published program's order.
///
/// Chains begin at the prior, N(0, [`Process::prior_std`]²·I).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PredictorCorrector {
    /// From time to time.
    pub predictor: Predictor,
    /// At each time.
    pub corrector: Corrector,
    /// Updates of the corrector at each time.
    pub n_steps_each: usize,
    /// Whether the last step adds no noise. Without a predictor a denoising stage at the smallest time ends the chain; the published
    /// program leaves the noise there.
    pub noise_removal: bool,
}

impl Default for PredictorCorrector {
    /// That of the NCSN++ on CIFAR-10 in the paper.
    fn default() -> Self {
        Self {
            predictor: Predictor::ReverseDiffusion(Reverse::Sde),
            corrector: Corrector::Langevin { snr: 0.16, norms: Norms::PerSample },
            n_steps_each: 1,
            noise_removal: true,
        }
    }
}

impl fmt::Display for PredictorCorrector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { predictor, corrector, n_steps_each, noise_removal } = self;
        write!(f, "pc {predictor} + {corrector} x{n_steps_each}{}", if *noise_removal { " denoised" } else { "" })
    }
}

impl<const D: usize> Method<D> for PredictorCorrector {
    fn stages(&self, process: &dyn Process) -> Vec<Stage> {
        let n = process.n_levels();
        let n_corrections = if self.corrector == Corrector::None { 0 } else { self.n_steps_each };
        let mut stages = Vec::with_capacity(n * (n_corrections + 1) + 1);
        for i in 0..n {
            let from = process.step_time(i);
            stages.extend(std::iter::repeat_n(Stage::Correct { t: from }, n_corrections));
            if self.predictor != Predictor::None {
                // From the smallest time to the data.
                let to = if i + 1 < n { process.step_time(i + 1) } else { 0.0 };
                stages.push(Stage::Predict { from, to });
            }
        }
        if self.predictor == Predictor::None && self.noise_removal {
            stages.push(Stage::Denoise { t: process.step_time(n - 1) });
        }
        stages
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
            Stage::Correct { .. } => self.corrector.step(process, t, x, s, draws),
            Stage::Predict { .. } => {
                let factors = self.predictor.factors(process, t);
                let noise = if Method::<D>::removes_noise(self, stage, process) { 0.0 } else { factors.noise };
                draws.combine(x, s, Rates { noise, ..factors })
            }
            Stage::Denoise { .. } => draws.combine(x, s, denoising(process, t)),
        }
    }

    fn removes_noise(&self, stage: Stage, process: &dyn Process) -> bool {
        match stage {
            Stage::Predict { from, .. } => self.noise_removal && from == process.step_time(process.n_levels() - 1),
            _ => matches!(stage, Stage::Denoise { .. }),
        }
    }
}

/// The factors of a step of reverse diffusion without its noise, which removes the noise that is left at time `t`.
pub(super) fn denoising(process: &dyn Process, t: f64) -> Rates {
    Rates { noise: 0.0, ..Predictor::ReverseDiffusion(Reverse::Sde).factors(process, t) }
}
