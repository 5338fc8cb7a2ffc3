//! What commands that follow the probability flow share: its tolerances.

use clap::Args;

use ncsn::Result;
use ncsn::config::Config;

use super::sample::positive;

/// Tolerances of the solver.
#[derive(Clone, Debug, Default, Args)]
pub struct Tolerances {
    /// Relative tolerance of the probability flow's solver, instead of the run's sampling.rtol
    #[arg(long, value_name = "TOLERANCE")]
    rtol: Option<f64>,
    /// Absolute tolerance of the probability flow's solver, instead of the run's sampling.atol
    #[arg(long, value_name = "TOLERANCE")]
    atol: Option<f64>,
}

impl Tolerances {
    /// Sets them in `config`.
    pub fn set(&self, config: &mut Config) -> Result<()> {
        let sampling = &mut config.sampling;
        for (flag, given, key) in [("--rtol", self.rtol, &mut sampling.rtol), ("--atol", self.atol, &mut sampling.atol)]
        {
            if let Some(given) = given {
                *key = positive(flag, given)?;
            }
        }
        Ok(())
    }
}
