//! `fast_fid:` and `test:` (NCSNv2), measures over a range of checkpoints.

use super::fields::{Fields, Flag, OrNone, POSITIVE, Section};
use crate::error::Result;

/// FID of few samples of each checkpoint.
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
    /// First step.
    pub begin_ckpt: Option<u64>,
    /// Last step.
    pub end_ckpt: Option<u64>,
    /// Whether the sampler reports each level.
    pub verbose: bool,
    /// Whether the score is the mean of those of the last checkpoints.
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

/// The test loss of each checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// First step.
    pub begin_ckpt: Option<u64>,
    /// Last step.
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

/// The published file for FFHQ has an empty range.
fn check_range(f: &mut impl Fields, begin: Option<u64>, end: Option<u64>) -> Result<()> {
    let (begin, end) = (begin.unwrap_or(0), end.unwrap_or(u64::MAX));
    f.check("end_ckpt", begin <= end, || {
        format!("found checkpoints from {begin} to {end}, expected a range that is not empty")
    })
}
