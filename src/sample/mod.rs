//! The reverse: from noise to data. A [`Chain`] is an iterator of states; whoever wants frames keeps them.
//!
//! What is done at each state is a [`Method`]; what pixels must become is [`Known`]; where noise comes from are [`Draws`].

mod chain;
mod corrector;
mod draws;
mod flow;
mod images;
mod interpolate;
mod known;
mod latent;
mod langevin;
mod likelihood;
mod ode;
mod predictor;
mod predictor_corrector;

pub use chain::{Chain, Evaluation, Method, Stage, State};
pub use corrector::{Corrector, Norms};
pub use draws::{Draws, Streams};
pub use flow::{Flow, Flowed, ProbabilityFlow};
pub use images::{Completions, Images, completion_chain, image_chain, image_chain_from};
pub use interpolate::{Interpolation, interpolation_chain};
pub use known::{Known, Renewal};
pub use latent::{spherical, tempered};
pub use langevin::{AnnealedLangevin, PlainLangevin, Update};
pub use likelihood::{Likelihood, Likelihoods, Probes, bits_per_dim};
pub use ode::{DormandPrince, ErrorNorm, Points, Solution, Solving};
pub use predictor::Predictor;
pub use predictor_corrector::PredictorCorrector;

use serde::Serialize;

use crate::error::Result;
use crate::sde::Process;

/// A way to draw samples, with its settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "sampler")]
pub enum Sampler {
    /// Annealed Langevin dynamics.
    #[serde(rename = "annealed Langevin dynamics")]
    AnnealedLangevin(AnnealedLangevin),
    /// Predictor–corrector sampling.
    #[serde(rename = "predictor-corrector")]
    PredictorCorrector(PredictorCorrector),
}

impl Sampler {
    /// The method that these settings describe.
    pub fn method<const D: usize>(&self) -> Box<dyn Method<D>> {
        match self {
            Self::AnnealedLangevin(langevin) => Box::new(*langevin),
            Self::PredictorCorrector(pc) => Box::new(*pc),
        }
    }

    /// How many states a chain has.
    pub fn n_states(&self, process: &dyn Process) -> usize {
        self.method::<4>().stages(process).len()
    }

    /// What the last update did at the level that `state` is at, see [`AnnealedLangevin::last_update`].
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) if the device could not compute it.
    pub fn last_update<const D: usize>(&self, process: &dyn Process, state: &State<D>) -> Result<Option<Update>> {
        match self {
            Self::AnnealedLangevin(langevin) => langevin.last_update(process, state),
            Self::PredictorCorrector(_) => Ok(None),
        }
    }
}
