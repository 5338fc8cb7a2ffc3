//! What a configuration means: from its keys to what the library computes with.

use super::{Algo, Config, Optimizer, Runner, Training};
use crate::data::{BatchOptions, Dequantise, Range, Transform};
use crate::error::Result;
use crate::loss::{Loss, Objective, Times, Weight};
use crate::net::Architecture;
use crate::sample::{AnnealedLangevin, Renewal, Sampler};
use crate::score::Model;
use crate::sde::NoiseLevels;
use crate::train::{Rule, TrainingOptions};

impl Config {
    /// The noise levels of the run; a network that is not given the level knows one.
    ///
    /// # Errors
    /// When σ₁ is not above σ_L, which files that were read do not have.
    pub fn noise_levels(&self) -> Result<NoiseLevels> {
        let model = &self.model;
        match model.architecture {
            Architecture::Ncsn | Architecture::Deeper => {
                NoiseLevels::geometric(model.sigma_begin, model.sigma_end, model.num_classes)
            }
            // The published program's baseline has 0.01, which is sigma_end of its file.
            Architecture::Baseline => NoiseLevels::single(model.sigma_end),
            _ => NoiseLevels::single(self.training.noise_std),
        }
    }

    /// `net` with the process of the run and the meaning of its output.
    ///
    /// # Errors
    /// As [`Self::noise_levels`].
    pub fn model<N>(&self, net: N) -> Result<Model<N>> {
        Ok(Model::new(net, self.noise_levels()?))
    }

    /// What training minimises.
    pub fn objective(&self) -> Objective {
        let Training { algo, n_particles, slicing, anneal_power, .. } = self.training;
        // One level needs no weight among others.
        let power = if self.model.architecture.is_conditional() { anneal_power } else { 0.0 };
        let loss = match algo {
            Algo::Dsm => Loss::Denoising,
            Algo::Ssm => Loss::Sliced { n_projections: n_particles, slicing },
        };
        Objective { loss, weight: Weight::StdPower(power), times: Times::Levels }
    }

    /// The objective of test batches and its tag. The published AnnealRunner's is the denoising one, whatever it trains on.
    pub fn test_objective(&self) -> (Objective, &'static str) {
        let objective = self.objective();
        match objective.loss {
            Loss::Sliced { .. } if !self.model.architecture.is_conditional() => (objective, "test_ssm_loss"),
            _ => (Objective { loss: Loss::Denoising, ..objective }, "test_dsm_loss"),
        }
    }

    /// What a step of training does.
    pub fn training_options(&self) -> TrainingOptions {
        let Training { grad_clip, ema_rate, .. } = self.training;
        TrainingOptions { objective: self.objective(), grad_clip, ema_rate }
    }

    /// The optimiser's rule.
    pub fn rule(&self) -> Rule {
        let optim = &self.optim;
        let (lr, weight_decay, eps) = (optim.lr, optim.weight_decay, optim.eps);
        match optim.optimizer {
            Optimizer::Adam => {
                Rule::Adam { lr, betas: [optim.beta1, optim.beta2], eps, weight_decay, amsgrad: optim.amsgrad }
            }
            // PyTorch's default decay, which the published program does not set.
            Optimizer::RmsProp => Rule::RmsProp { lr, alpha: 0.99, eps, weight_decay },
            Optimizer::Sgd => Rule::Sgd { lr, momentum: optim.momentum, weight_decay },
        }
    }

    /// How images become input of the model.
    pub fn transform(&self) -> Transform {
        // The ScoreNet runner adds Gaussian noise instead, or none: that is its experiment.
        let is_dequantised = Runner::of(self.model.architecture) != Runner::ScoreNet;
        Transform {
            dequantise: if is_dequantised { Dequantise::Uniform } else { Dequantise::None },
            range: if self.data.logit_transform { Range::Logit } else { Range::Unit },
        }
    }

    /// How images become batches.
    pub fn batch_options(&self) -> BatchOptions {
        BatchOptions {
            batch_size: self.training.batch_size,
            random_flip: self.data.random_flip,
            transform: self.transform(),
        }
    }

    /// `[channels, height, width]` of the images.
    pub fn image_shape(&self) -> [usize; 3] {
        [self.data.channels, self.data.image_size, self.data.image_size]
    }

    /// How samples are drawn.
    pub fn sampler(&self) -> Sampler {
        let (step_lr, n_steps_each) = (self.sampling.step_lr, self.sampling.n_steps_each);
        Sampler::AnnealedLangevin(AnnealedLangevin { step_lr, n_steps_each, denoise: false })
    }

    /// When the known pixels of an image that is completed are perturbed anew.
    pub fn renewal(&self) -> Renewal {
        Renewal::OncePerTime
    }
}
