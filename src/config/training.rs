//! `training:`, how long a network is trained and on what loss.

use super::fields::{Fields, Flag, NOT_NEGATIVE, Number, OneOf, OrNone, POSITIVE, Section};
use crate::error::{Result, one_of};
use crate::loss::Loss;
pub use crate::loss::Slicing;

/// How long a network is trained, and on what loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Images a step.
    pub batch_size: usize,
    /// Ours: in how many parts, one after another, the gradient of a step is computed.
    pub micro_batches: usize,
    /// Largest number of passes over the data.
    pub n_epochs: u64,
    /// Largest number of steps.
    pub n_iters: u64,
    /// Number of GPUs, which is read and ignored.
    pub n_gpu: usize,
    /// Steps between checkpoints.
    pub snapshot_freq: u64,
    /// Score-SDE: steps between checkpoints that are kept until the next one only, to resume from; none if the file does not say it.
    pub snapshot_freq_for_preemption: Option<u64>,
    /// Denoising or sliced score matching.
    pub algo: Algo,
    /// Projections of sliced score matching.
    pub n_particles: usize,
    /// Ours: the Jacobian–vector products of sliced score matching.
    pub slicing: Slicing,
    /// Score-SDE: the process that perturbs the data; noise levels if the file does not say it.
    pub sde: Option<Sde>,
    /// Score-SDE: whether times are any, not those of the levels.
    pub continuous: bool,
    /// Score-SDE: whether the loss bounds the likelihood.
    pub likelihood_weighting: bool,
    /// Score-SDE: whether the loss is a mean over the numbers of an image, not half their sum.
    pub reduce_mean: bool,
    /// p of the loss weight σᵖ.
    pub anneal_power: f64,
    /// σ of the noise that ScoreNets are trained with.
    pub noise_std: f64,
    /// NCSNv2: whether samples are drawn at each checkpoint.
    pub snapshot_sampling: bool,
    /// NCSNv2: whether the test loss of each noise level is recorded, too.
    pub log_all_sigmas: bool,
    /// Ours: the seed of all randomness; the program's `--seed` comes first.
    pub seed: Option<u64>,
    /// Ours: rate of the EMA of the weights.
    pub ema_rate: Option<f64>,
    /// Score-SDE: whether the rate of the EMA rises to `ema_rate`; as its program does if the file is of it.
    pub ema_warmup: bool,
    /// Ours: largest global norm of the gradient.
    pub grad_clip: Option<f64>,
    /// Ours: steps between evaluations of a test batch.
    pub test_freq: u64,
    /// Ours: steps between records of the loss.
    pub log_freq: u64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            batch_size: 128,
            micro_batches: 1,
            n_epochs: 500_000,
            n_iters: 200_001,
            n_gpu: 1,
            snapshot_freq: 5_000,
            snapshot_freq_for_preemption: None,
            algo: Algo::Dsm,
            n_particles: 1,
            slicing: Slicing::Exact,
            sde: None,
            continuous: false,
            likelihood_weighting: false,
            reduce_mean: false,
            anneal_power: 2.0,
            noise_std: 0.01,
            snapshot_sampling: true,
            log_all_sigmas: false,
            seed: None,
            ema_rate: None,
            ema_warmup: false,
            grad_clip: None,
            test_freq: 100,
            log_freq: 1,
        }
    }
}

impl Section for Training {
    const NAME: &'static str = "training";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("batch_size", &mut self.batch_size, 1..=65_536)?;
        f.key("micro_batches", &mut self.micro_batches, OneOf([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]))?;
        f.key("n_epochs", &mut self.n_epochs, 1..=u64::MAX)?;
        f.key("n_iters", &mut self.n_iters, 1..=u64::MAX)?;
        f.key("ngpu", &mut self.n_gpu, 0..=1024)?;
        f.key("snapshot_freq", &mut self.snapshot_freq, 1..=u64::MAX)?;
        let for_preemption = &mut self.snapshot_freq_for_preemption;
        f.key("snapshot_freq_for_preemption", for_preemption, OrNone(1..=u64::MAX))?;
        f.key("algo", &mut self.algo, &[("dsm", Algo::Dsm), ("ssm", Algo::Ssm)])?;
        f.key("n_particles", &mut self.n_particles, 1..=1024)?;
        f.key("slicing", &mut self.slicing, &SLICINGS)?;
        f.key("sde", &mut self.sde, OrNone(&SDES))?;
        f.key("continuous", &mut self.continuous, Flag)?;
        f.check("continuous", !self.continuous || self.sde.is_some(), || {
            format!("training.continuous is true, but there is no training.sde, which would be {}", sdes())
        })?;
        f.check("continuous", self.continuous || self.sde != Some(Sde::SubVp), || {
            "training.continuous is false, expected true with training.sde subvpsde: it has no discrete form".into()
        })?;
        f.key("likelihood_weighting", &mut self.likelihood_weighting, Flag)?;
        f.check("likelihood_weighting", self.continuous || !self.likelihood_weighting, || {
            "training.likelihood_weighting is true, expected false where training.continuous is false: only the loss \
             over all times bounds the likelihood"
                .into()
        })?;
        f.key("reduce_mean", &mut self.reduce_mean, Flag)?;
        f.key("anneal_power", &mut self.anneal_power, ANNEAL_POWER)?;
        f.key("noise_std", &mut self.noise_std, NOT_NEGATIVE)?;
        f.key("snapshot_sampling", &mut self.snapshot_sampling, Flag)?;
        f.key("log_all_sigmas", &mut self.log_all_sigmas, Flag)?;
        f.key("seed", &mut self.seed, OrNone(0..=u64::MAX))?;
        f.key("ema_rate", &mut self.ema_rate, OrNone(EMA_RATE))?;
        f.key("ema_warmup", &mut self.ema_warmup, Flag)?;
        f.key("grad_clip", &mut self.grad_clip, OrNone(POSITIVE))?;
        f.key("test_freq", &mut self.test_freq, 1..=u64::MAX)?;
        f.key("log_freq", &mut self.log_freq, 1..=u64::MAX)
    }
}

impl Training {
    /// How the error of the score is estimated.
    pub(super) fn loss(&self) -> Loss {
        match self.algo {
            Algo::Dsm => Loss::Denoising,
            Algo::Ssm => Loss::Sliced { n_projections: self.n_particles, slicing: self.slicing },
        }
    }
}

/// A process of Song et al. 2021.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sde {
    /// Variance exploding.
    Ve,
    /// Variance preserving.
    Vp,
    /// Sub-VP.
    SubVp,
}

pub(super) const SDES: [(&str, Sde); 3] = [("vesde", Sde::Ve), ("vpsde", Sde::Vp), ("subvpsde", Sde::SubVp)];

/// Their names.
pub(super) fn sdes() -> String {
    one_of(SDES.map(|(name, _)| name))
}

/// The loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algo {
    /// Denoising score matching.
    Dsm,
    /// Sliced score matching.
    Ssm,
}

const SLICINGS: [(&str, Slicing); 2] = [("exact", Slicing::Exact), ("finite_difference", Slicing::FiniteDifference)];
const ANNEAL_POWER: Number = Number { expected: "a number from -10 to 10", valid: |x| x.abs() <= 10.0 };
const EMA_RATE: Number = Number { expected: "a number between 0 and 1", valid: |x| x > 0.0 && x < 1.0 };
