//! `sampling:` (ours), Langevin dynamics.

use super::fields::{Fields, POSITIVE, Section};
use crate::error::Result;

/// Langevin dynamics, whose constants the published program fixes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// T, steps at each level.
    pub n_steps_each: usize,
    /// Step size at σ_L.
    pub step_lr: f64,
    /// Samples drawn at each snapshot; 0 for none.
    pub snapshot_images: u64,
    /// Samples drawn when training is done.
    pub final_images: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { n_steps_each: 100, step_lr: 2e-5, snapshot_images: 9, final_images: 25 }
    }
}

impl Section for Sampling {
    const NAME: &'static str = "sampling";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("n_steps_each", &mut self.n_steps_each, 1..=1_000_000)?;
        f.key("step_lr", &mut self.step_lr, POSITIVE)?;
        f.key("snapshot_images", &mut self.snapshot_images, 0..=400)?;
        f.key("final_images", &mut self.final_images, 1..=400)
    }
}
