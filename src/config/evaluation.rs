//! `fast_fid:` and `test:` (NCSNv2) and `eval:` (Score-SDE), measures over a range of checkpoints.

use super::fields::{Fields, Flag, OrNone, POSITIVE, Section};
use super::{Config, Sampling};
use crate::data::Split;
use crate::error::{Error, Result};

/// FID of few samples of each checkpoint: `ncsn evaluate --sweep`.
#[derive(Clone, Debug, PartialEq)]
pub struct FastFid {
    /// Images drawn at a time.
    pub batch_size: u64,
    /// Samples of each checkpoint.
    pub num_samples: u64,
    /// Step size at σ_L; that of `sampling` if the file does not say it.
    pub step_lr: Option<f64>,
    /// Steps at each level; those of `sampling` if the file does not say it.
    pub n_steps_each: Option<usize>,
    /// First step of the range; from the first checkpoint on if the file does not say it.
    pub begin_ckpt: Option<u64>,
    /// Last step of the range, which belongs to it; to the last checkpoint if the file does not say it.
    pub end_ckpt: Option<u64>,
    /// Whether the sampler reports each level.
    pub verbose: bool,
    /// Whether the score is the mean of those of the last checkpoints, up to five, `training.snapshot_freq` steps apart.
    pub ensemble: bool,
}

impl Default for FastFid {
    fn default() -> Self {
        Self {
            batch_size: 1000,
            num_samples: 1000,
            step_lr: None,
            n_steps_each: None,
            begin_ckpt: None,
            end_ckpt: None,
            verbose: false,
            ensemble: false,
        }
    }
}

impl FastFid {
    /// `sampling` as these samples are drawn.
    pub fn sampling(&self, sampling: &Sampling) -> Sampling {
        Sampling {
            step_lr: self.step_lr.unwrap_or(sampling.step_lr),
            n_steps_each: self.n_steps_each.unwrap_or(sampling.n_steps_each),
            ..sampling.clone()
        }
    }

    /// Of how many checkpoints at most the scores are averaged.
    pub fn n_members(&self) -> usize {
        if self.ensemble { 5 } else { 1 }
    }
}

impl Config {
    /// Refuses the mean of the scores of several checkpoints where the weights are averaged already.
    ///
    /// # Errors
    /// When the run keeps an EMA of its weights.
    pub fn check_ensemble(&self) -> Result<()> {
        match self.training_options().ema_rate {
            None => Ok(()),
            Some(rate) => Err(Error::unexpected(
                format!("an ensemble of the checkpoints of a run with an EMA of its weights (rate {rate})"),
                "a run without one: the EMA is such an average already",
            )),
        }
    }
}

impl Section for FastFid {
    const NAME: &'static str = "fast_fid";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("batch_size", &mut self.batch_size, 1..=65_536)?;
        f.key("num_samples", &mut self.num_samples, 1..=10_000_000)?;
        f.key("step_lr", &mut self.step_lr, OrNone(POSITIVE))?;
        f.key("n_steps_each", &mut self.n_steps_each, OrNone(1..=1_000_000))?;
        f.key("begin_ckpt", &mut self.begin_ckpt, OrNone(0..=u64::MAX))?;
        f.key("end_ckpt", &mut self.end_ckpt, OrNone(0..=u64::MAX))?;
        check_range(f, self.begin_ckpt, self.end_ckpt)?;
        f.key("verbose", &mut self.verbose, Flag)?;
        f.key("ensemble", &mut self.ensemble, Flag)
    }
}

/// The test loss of each checkpoint: `ncsn evaluate --test-loss`.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// First step of the range; from the first checkpoint on if the file does not say it.
    pub begin_ckpt: Option<u64>,
    /// Last step of the range, which belongs to it; to the last checkpoint if the file does not say it.
    pub end_ckpt: Option<u64>,
    /// Images at a time.
    pub batch_size: u64,
}

impl Default for Test {
    fn default() -> Self {
        Self { begin_ckpt: None, end_ckpt: None, batch_size: 100 }
    }
}

impl Section for Test {
    const NAME: &'static str = "test";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("begin_ckpt", &mut self.begin_ckpt, OrNone(0..=u64::MAX))?;
        f.key("end_ckpt", &mut self.end_ckpt, OrNone(0..=u64::MAX))?;
        check_range(f, self.begin_ckpt, self.end_ckpt)?;
        f.key("batch_size", &mut self.batch_size, 1..=65_536)
    }
}

/// What Score-SDE's `--mode eval` does with each checkpoint of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// Number of the first one, counted in `training.snapshot_freq`.
    pub begin_ckpt: u64,
    /// Number of the last one.
    pub end_ckpt: u64,
    /// Images at a time.
    pub batch_size: u64,
    /// Samples of each checkpoint.
    pub num_samples: u64,
    /// Whether samples are drawn, and their metrics computed.
    pub enable_sampling: bool,
    /// Whether the test loss is computed.
    pub enable_loss: bool,
    /// Whether bits per dimension are.
    pub enable_bpd: bool,
    /// Of which images.
    pub bpd_dataset: Split,
}

impl Default for Eval {
    fn default() -> Self {
        Self {
            begin_ckpt: 1,
            end_ckpt: u64::MAX,
            batch_size: 1024,
            num_samples: 50_000,
            enable_sampling: false,
            enable_loss: true,
            enable_bpd: false,
            bpd_dataset: Split::Test,
        }
    }
}

impl Section for Eval {
    const NAME: &'static str = "eval";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("begin_ckpt", &mut self.begin_ckpt, 0..=u64::MAX)?;
        f.key("end_ckpt", &mut self.end_ckpt, 0..=u64::MAX)?;
        check_range(f, Some(self.begin_ckpt), Some(self.end_ckpt))?;
        f.key("batch_size", &mut self.batch_size, 1..=65_536)?;
        f.key("num_samples", &mut self.num_samples, 1..=10_000_000)?;
        f.key("enable_sampling", &mut self.enable_sampling, Flag)?;
        f.key("enable_loss", &mut self.enable_loss, Flag)?;
        f.key("enable_bpd", &mut self.enable_bpd, Flag)?;
        f.key("bpd_dataset", &mut self.bpd_dataset, &[("train", Split::Train), ("test", Split::Test)])
    }
}

/// The published file for FFHQ has an empty range.
fn check_range(f: &mut impl Fields, begin: Option<u64>, end: Option<u64>) -> Result<()> {
    let (begin, end) = (begin.unwrap_or(0), end.unwrap_or(u64::MAX));
    f.check("end_ckpt", begin <= end, || {
        format!("found checkpoints from {begin} to {end}, expected a range that is not empty")
    })
}
