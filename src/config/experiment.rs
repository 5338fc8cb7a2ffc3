//! What a configuration means: from its keys to what the library computes with.

use std::sync::Arc;

use super::published::Runner;
use super::{Config, Method, Optim, Optimizer, Sde, Training};
use crate::data::{BatchOptions, Dequantise, N_CLASSES, Range, Transform};
use crate::error::{Error, Result};
use crate::loss::{Loss, Objective, Reduction, Times, Weight};
use crate::net::{Architecture, Dimensions, InputRange, MLP_WIDTH, NetworkConfig, RefineNetConfig, WideResNetConfig};
use crate::sample::{Likelihood, ProbabilityFlow, Probes, Renewal, Sampler};
use crate::score::{Label, Model, Prediction};
use crate::sde::{NoiseLevels, Process, SubVp, Ve, Vp};
use crate::train::{EmaRate, OptimizerConfig, Rule, Schedule, TrainingOptions};

/// The smallest time of the loss over continuous times (Song et al. 2021, appendix C).
const SMALLEST_TIME: f64 = 1e-5;

impl Config {
    /// What the network is built from.
    pub fn network(&self) -> NetworkConfig {
        let Self { model, data, .. } = self;
        let dimensions = Dimensions {
            channels: data.channels,
            width: if model.architecture == Architecture::MlpScore { MLP_WIDTH } else { model.width() },
            size: data.image_size,
            n_levels: model.num_classes,
        };
        let input = match data.logit_transform || data.rescaled {
            true => InputRange::Logit,
            false => InputRange::Unit,
        };
        let net = model.architecture.network(dimensions).with_input(input);
        match net {
            NetworkConfig::RefineNet(net) => NetworkConfig::RefineNet(RefineNetConfig {
                norm: model.normalization.unwrap_or(net.norm),
                normalizer_eps: model.normalizer_eps.unwrap_or(net.normalizer_eps),
                activation: model.nonlinearity,
                // NCSNv2's networks ignore it.
                spec_norm: model.spec_norm && net.levels.is_some(),
                ..net
            }),
            NetworkConfig::WideResNet(net) => {
                NetworkConfig::WideResNet(WideResNetConfig { depth: model.depth, n_classes: N_CLASSES, ..net })
            }
            NetworkConfig::UNet(net) => {
                let is_ddpm = model.architecture == Architecture::Ddpm;
                NetworkConfig::UNet(model.u_net.network(net, is_ddpm, model.nonlinearity))
            }
            other => other,
        }
    }

    /// The noise levels σ₁ > … > σ_L; a single one for a network that is not given the level.
    ///
    /// # Errors
    /// When the values of `model` or `training` are no levels, which [`Config::parse`] does not let through.
    pub fn noise_levels(&self) -> Result<NoiseLevels> {
        let Self { model, training, .. } = self;
        match Runner::of(model.architecture) {
            Runner::Anneal | Runner::Toy | Runner::NcsnV2 | Runner::ScoreSde | Runner::Classifier => {
                model.noise_levels()
            }
            // The published program's baseline has 0.01, which is sigma_end of its file.
            Runner::Baseline => NoiseLevels::single(model.sigma_end),
            Runner::ScoreNet => NoiseLevels::single(training.noise_std),
        }
    }

    /// `net` with the process of the run and the meaning of its output.
    ///
    /// # Errors
    /// As [`Self::noise_levels`].
    pub fn model<N>(&self, net: N) -> Result<Model<N>> {
        Ok(Model { net, process: self.process()?, prediction: self.prediction() })
    }

    /// How data are perturbed.
    ///
    /// # Errors
    /// As [`Self::noise_levels`].
    pub fn process(&self) -> Result<Arc<dyn Process>> {
        self.process_of(self.model.num_classes)
    }

    /// The same with as many levels as chains of samples have steps.
    ///
    /// # Errors
    /// As [`Self::noise_levels`].
    pub fn sampling_process(&self) -> Result<Arc<dyn Process>> {
        match self.sampling.n_steps {
            Some(n) if self.sampling.method != Method::Solver => self.process_of(n),
            _ => self.process(),
        }
    }

    /// How data are perturbed, in `n` levels where that is a choice.
    fn process_of(&self, n: usize) -> Result<Arc<dyn Process>> {
        let super::Model { sigma_begin, sigma_end, beta_min, beta_max, .. } = self.model;
        Ok(match self.training.sde {
            None => Arc::new(self.noise_levels()?),
            Some(Sde::Ve) => Arc::new(Ve::new(sigma_end, sigma_begin, n)?),
            Some(Sde::Vp) => Arc::new(Vp::new(beta_min, beta_max, n)?),
            Some(Sde::SubVp) => Arc::new(SubVp::new(beta_min, beta_max, n)?),
        })
    }

    /// What the network's output means.
    fn prediction(&self) -> Prediction {
        let continuous = self.training.continuous;
        if self.is_classifier() {
            return Prediction::Classes(Label::Std);
        }
        let is_scaled = match Runner::of(self.model.architecture) {
            Runner::NcsnV2 => true,
            Runner::ScoreSde => self.model.u_net.scale_by_sigma,
            _ => false,
        };
        let label = match self.training.sde {
            Some(Sde::Ve) if continuous => Label::Std,
            Some(Sde::Vp | Sde::SubVp) if continuous => return Prediction::Noise(Label::Time),
            Some(Sde::Vp | Sde::SubVp) => return Prediction::Noise(Label::Index),
            Some(Sde::Ve) | None => Label::Level,
        };
        if is_scaled { Prediction::ScaledScore(label) } else { Prediction::Score(label) }
    }

    /// Whether the network is a classifier: its gradients guide samples, but there are none of it alone.
    pub fn is_classifier(&self) -> bool {
        Runner::of(self.model.architecture) == Runner::Classifier
    }

    /// Whether the network is trained on many noise levels.
    fn has_levels(&self) -> bool {
        !matches!(Runner::of(self.model.architecture), Runner::Baseline | Runner::ScoreNet)
    }

    /// What training minimises.
    pub fn objective(&self) -> Objective {
        // One level needs no weight among others.
        let Training { likelihood_weighting, anneal_power, continuous, reduce_mean, .. } = self.training;
        let weight = match likelihood_weighting {
            true => Weight::Likelihood,
            false => Weight::StdPower(if self.has_levels() { anneal_power } else { 0.0 }),
        };
        // A classifier is told the deviation of the noise, whatever the network that it guides is told.
        let is_uniform = continuous || self.is_classifier() && self.training.sde.is_some();
        let times = if is_uniform { Times::Uniform { smallest: SMALLEST_TIME } } else { Times::Levels };
        let reduction = if reduce_mean { Reduction::Mean } else { Reduction::HalfSum };
        let loss = if self.is_classifier() { Loss::Classification } else { self.training.loss() };
        Objective { loss, weight, times, reduction }
    }

    /// The objective of test batches and its tag. The published AnnealRunner's is the denoising one, whatever it trains on.
    pub fn test_objective(&self) -> (Objective, &'static str) {
        let objective = self.objective();
        match objective.loss {
            Loss::Classification => (objective, "test_cross_entropy"),
            Loss::Sliced { .. } if !self.has_levels() => (objective, "test_ssm_loss"),
            _ => (Objective { loss: Loss::Denoising, ..objective }, "test_dsm_loss"),
        }
    }

    /// What a step of training does.
    pub fn training_options(&self) -> TrainingOptions {
        let Training { ema_rate, ema_warmup, micro_batches, .. } = self.training;
        let ema_rate = ema_rate.or(self.model.ema.then_some(self.model.ema_rate));
        let law = if ema_warmup { EmaRate::WarmedUp } else { EmaRate::Constant };
        // An average of rate 0 is the weights.
        let ema_rate = ema_rate.filter(|&rate| rate > 0.0).map(law);
        TrainingOptions { objective: self.objective(), ema_rate, micro_batches }
    }

    /// How the optimiser makes its steps.
    pub fn optimizer(&self) -> OptimizerConfig {
        let Optim { optimizer, lr, warmup, beta1, beta2, eps, momentum, weight_decay, amsgrad } = self.optim;
        let rule = match optimizer {
            Optimizer::Adam => Rule::Adam { betas: [beta1, beta2], eps, amsgrad },
            // PyTorch's default decay, which the published program does not set.
            Optimizer::RmsProp => Rule::RmsProp { alpha: 0.99, eps },
            Optimizer::Sgd => Rule::Sgd { momentum },
        };
        let lr = match warmup {
            0 => Schedule::Constant(lr),
            n_steps => Schedule::WarmUp { lr, n_steps },
        };
        OptimizerConfig { rule, lr, weight_decay, clip: self.training.grad_clip }
    }

    /// How images become input of the model.
    pub fn transform(&self) -> Transform {
        let data = &self.data;
        let of_program = || Runner::of(self.model.architecture).dequantises();
        let dequantise = match data.uniform_dequantization.unwrap_or_else(of_program) {
            _ if data.gaussian_dequantization => Dequantise::Gaussian,
            true => Dequantise::Uniform,
            false => Dequantise::None,
        };
        let range = match (data.logit_transform, data.rescaled) {
            (true, _) => Range::Logit,
            (_, true) => Range::Symmetric,
            _ => Range::Unit,
        };
        Transform { dequantise, range }
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
        self.sampling.sampler(matches!(self.prediction().told(), Label::Level | Label::Index))
    }

    /// The probability flow of the run's process, whatever its samples are drawn by: it leads from data to latents and back.
    ///
    /// # Errors
    /// When the noise levels are no process in continuous time, as those of NCSN and NCSNv2: without `training.sde`.
    pub fn probability_flow(&self) -> Result<ProbabilityFlow> {
        match self.training.sde {
            Some(_) => Ok(self.sampling.flow()),
            None => Err(Error::unexpected(
                "a run without training.sde, whose noise levels are no process in continuous time",
                "one that has a probability flow: training.sde vesde, vpsde or subvpsde",
            )),
        }
    }

    /// Likelihoods of data by the [`Self::probability_flow`].
    ///
    /// # Errors
    /// As [`Self::probability_flow`].
    pub fn likelihood(&self, probes: Probes) -> Result<Likelihood> {
        Ok(Likelihood { solver: self.probability_flow()?.solver, probes, ..Likelihood::default() })
    }

    /// How many samples are drawn at a checkpoint.
    pub fn snapshot_images(&self) -> u64 {
        if self.training.snapshot_sampling && !self.is_classifier() { self.sampling.snapshot_images } else { 0 }
    }

    /// When the known pixels of an image that is completed are perturbed anew.
    pub fn renewal(&self) -> Renewal {
        match Runner::of(self.model.architecture) {
            // Their steps are so long that what is known must have the noise of their beginning.
            _ if self.sampling.method == Method::Solver => Renewal::BeforeEachStage,
            Runner::NcsnV2 => Renewal::BeforeEachStage,
            Runner::ScoreSde => Renewal::AfterEachStage,
            _ => Renewal::OncePerTime,
        }
    }

    /// The steps of a whole run on `n_images` images: `n_iters`, or those of `n_epochs` if they are fewer.
    pub fn n_steps(&self, n_images: usize) -> u64 {
        let Training { n_epochs, n_iters, batch_size, .. } = self.training;
        let of_epochs = (u128::from(n_epochs) * n_images as u128).div_ceil(batch_size as u128);
        u64::try_from(of_epochs).unwrap_or(u64::MAX).min(n_iters)
    }

    /// The epoch in which step `step`, counted from 1, begins, counted from 0; before the first step also 0. Batches run on from
    /// one epoch into the next.
    ///
    /// # Panics
    /// If `n_images` is 0.
    pub fn epoch(&self, step: u64, n_images: usize) -> u64 {
        let n_before = u128::from(step.saturating_sub(1)) * self.training.batch_size as u128;
        u64::try_from(n_before / n_images as u128).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Algo;
    use crate::loss::Slicing;
    use crate::sde::Process;

    fn of(architecture: Architecture, algo: Algo) -> Config {
        let mut config = Config::default();
        config.model.architecture = architecture;
        (config.training.algo, config.training.noise_std) = (algo, 0.25);
        config
    }

    #[test]
    fn a_network_without_levels_has_the_one_level_of_its_runner() {
        let sigmas = |architecture| {
            let config = of(architecture, Algo::Ssm);
            let levels = config.noise_levels().expect("valid");
            assert_eq!(config.network().levels().unwrap_or(1), levels.n_levels(), "{architecture:?}");
            [levels.sigmas()[0], levels.sigma_min()]
        };
        assert_eq!(sigmas(Architecture::Baseline), [0.01; 2]);
        assert_eq!(sigmas(Architecture::ResScore), [0.25; 2]);
        let [begin, end] = sigmas(Architecture::Deeper);
        assert!((begin - 1.0).abs() < 1e-15 && (end - 0.01).abs() < 1e-15, "{begin} {end}");
    }

    #[test]
    fn a_single_level_is_not_weighted_and_scorenets_are_not_dequantised() {
        for (architecture, power, dequantise) in [
            (Architecture::Ncsn, 2.0, Dequantise::Uniform),
            (Architecture::Deeper, 2.0, Dequantise::Uniform),
            (Architecture::Baseline, 0.0, Dequantise::Uniform),
            (Architecture::ResScore, 0.0, Dequantise::None),
            (Architecture::MlpScore, 0.0, Dequantise::None),
        ] {
            let config = of(architecture, Algo::Dsm);
            assert_eq!(config.objective().weight, Weight::StdPower(power), "{architecture:?}");
            assert_eq!(config.batch_options().transform.dequantise, dequantise, "{architecture:?}");
        }
    }

    #[test]
    fn test_batches_are_measured_by_the_sliced_loss_only_if_a_network_without_levels_is_trained_on_it() {
        let sliced = Loss::Sliced { n_projections: 1, slicing: Slicing::Exact };
        for (architecture, algo, trained, tested) in [
            (Architecture::Ncsn, Algo::Dsm, Loss::Denoising, (Loss::Denoising, "test_dsm_loss")),
            (Architecture::Ncsn, Algo::Ssm, sliced, (Loss::Denoising, "test_dsm_loss")),
            (Architecture::ResScore, Algo::Dsm, Loss::Denoising, (Loss::Denoising, "test_dsm_loss")),
            (Architecture::ResScore, Algo::Ssm, sliced, (sliced, "test_ssm_loss")),
        ] {
            let config = of(architecture, algo);
            let (objective, (test, tag)) = (config.objective(), config.test_objective());
            assert_eq!((objective.loss, (test.loss, tag)), (trained, tested), "{architecture:?} {algo:?}");
            assert_eq!((test.weight, test.times), (objective.weight, objective.times));
        }
    }

    #[test]
    fn the_width_is_the_value_of_the_networks_own_key() {
        let mut config = Config::default();
        (config.model.ngf, config.model.nef, config.model.ndf) = (10, 16, 16);
        for (architecture, width) in [
            (Architecture::Ncsn, 10),
            (Architecture::ResScore, 16),
            (Architecture::UNetScore, 10),
            (Architecture::MlpScore, MLP_WIDTH),
        ] {
            config.model.architecture = architecture;
            assert_eq!(config.network().width(), width, "{architecture:?}");
        }
    }

    #[test]
    fn a_flow_has_the_tolerances_of_the_file_and_needs_a_process() {
        let mut config = Config::default();
        (config.sampling.rtol, config.sampling.atol) = (1e-3, 1e-4);
        let message = config.likelihood(Probes::Gaussian).expect_err("levels").to_string();
        assert!(message.contains("without training.sde") && message.contains("vpsde"), "{message}");
        config.training.sde = Some(Sde::Vp);
        let Likelihood { solver, probes, n_repeats, .. } = config.likelihood(Probes::Gaussian).expect("a process");
        assert_eq!((solver.rtol, solver.atol, probes, n_repeats), (1e-3, 1e-4, Probes::Gaussian, 1));
        config.sampling.method = Method::Ode;
        assert_eq!(config.sampler(), Sampler::ProbabilityFlow(config.probability_flow().expect("a process")));
    }

    #[test]
    fn a_run_ends_at_the_first_of_its_two_bounds() {
        let mut config = Config::default();
        (config.training.n_epochs, config.training.n_iters, config.training.batch_size) = (3, 100, 10);
        // 3 · 101 images are 31 batches, the last of them with images of a fourth epoch.
        assert_eq!([101, 1000, 1 << 40].map(|n| config.n_steps(n)), [31, 100, 100]);
        (config.training.n_epochs, config.training.n_iters) = (u64::MAX, u64::MAX);
        assert_eq!(config.n_steps(1 << 40), u64::MAX);
    }

    #[test]
    fn a_step_belongs_to_the_epoch_of_its_first_image() {
        let mut config = Config::default();
        config.training.batch_size = 4;
        // The published fixture: three batches of a set of four images end in its third epoch.
        assert_eq!([0, 1, 2, 3].map(|step| config.epoch(step, 4)), [0, 0, 1, 2]);
        assert_eq!([1, 2, 3, 4].map(|step| config.epoch(step, 6)), [0, 0, 1, 2]);
        assert_eq!(config.epoch(u64::MAX, 1), u64::MAX);
        assert_eq!(config.epoch(9, 1 << 40), 0);
    }
}
