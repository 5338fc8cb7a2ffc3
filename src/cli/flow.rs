//! What commands that follow the probability flow share: its tolerances, and what is decoded.

use std::path::PathBuf;

use clap::Args;

use ncsn::Result;
use ncsn::config::{Config, Method};

use super::latents::Latents;
use super::overrides::positive;

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

/// What is decoded to images.
#[derive(Clone, Debug, Default, Args)]
pub struct Decoding {
    /// Decode the latents of this file, which `ncsn encode` wrote, by the probability flow: image k is that of latent k
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    /// Draw by the probability flow from latents, of the prior or of --latents, times T: below 1 images are smoother and less varied
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    #[command(flatten)]
    tolerances: Tolerances,
}

/// Where flows begin, if not at states of the prior.
pub struct Start {
    pub latents: Option<Latents>,
    /// What they are multiplied by.
    pub temperature: Option<f64>,
}

impl Decoding {
    /// Where flows begin; `config` is then that of samples by the flow.
    pub fn start(&self, config: &mut Config) -> Result<Option<Start>> {
        self.tolerances.set(config)?;
        if self.latents.is_none() && self.temperature.is_none() {
            return Ok(None);
        }
        config.probability_flow()?;
        (config.sampling.method, config.sampling.data_init) = (Method::Ode, false);
        let temperature = self.temperature.map(|temperature| positive("--temperature", temperature)).transpose()?;
        let latents = self.latents.as_ref().map(|path| Latents::open(path, config.image_shape())).transpose()?;
        Ok(Some(Start { latents, temperature }))
    }
}
