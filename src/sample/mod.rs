//! The reverse: from noise to data. A [`Chain`], or the [`Trajectory`] of any sampler, is an iterator of states; whoever wants frames
//! keeps them.
//!
//! What is done at each state is a [`Method`]; what pixels must become is [`Known`]; where noise comes from are [`Draws`].

mod bits_per_dim;
mod chain;
mod colour;
mod corrector;
mod draws;
mod flow;
mod grid;
mod images;
mod interpolate;
mod known;
mod langevin;
mod latent;
mod likelihood;
mod ode;
mod predictor;
mod predictor_corrector;
mod solver;
mod trajectory;

pub use bits_per_dim::{BitsPerDim, ImageBits, MeanBits};
pub use chain::{AnyChain, Chain, Evaluation, Method, Stage, State};
pub use colour::{from_colour_basis, to_colour_basis};
pub use corrector::{Corrector, Norms};
pub use draws::{Draws, Streams};
pub use flow::{Flow, Flowed, ProbabilityFlow};
pub use grid::Grid;
pub use images::{Completions, Images, KnownPart, completion_chain, image_chain, image_trajectory};
pub use interpolate::{Interpolation, interpolation_chain, latent_ends};
pub use known::{Known, Renewal};
pub use langevin::{AnnealedLangevin, PlainLangevin, Update};
pub use latent::{arcs, spherical, tempered};
pub use likelihood::{Likelihood, Likelihoods, Probes, bits_per_dim};
pub use ode::{DormandPrince, ErrorNorm, Points, Solution, Solving};
pub use predictor::Predictor;
pub use predictor_corrector::PredictorCorrector;
pub use solver::{Churn, Form, Solver, SolverRule, SolverSteps};
pub use trajectory::Trajectory;

use std::fmt;
use std::sync::Arc;

use burn::tensor::Tensor;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::score::Score;
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
    /// The probability flow.
    #[serde(rename = "probability flow")]
    ProbabilityFlow(ProbabilityFlow),
    /// A fast solver.
    #[serde(rename = "solver")]
    Solver(Solver),
}

impl fmt::Display for Sampler {
    /// In a few words: names and numbers of the papers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnnealedLangevin(langevin) => langevin.fmt(f),
            Self::PredictorCorrector(pc) => pc.fmt(f),
            Self::ProbabilityFlow(flow) => flow.fmt(f),
            Self::Solver(solver) => solver.fmt(f),
        }
    }
}

/// What runs a sampler.
enum Way<const D: usize> {
    Stages(Box<dyn Method<D>>),
    Flow(ProbabilityFlow),
}

impl Sampler {
    fn way<const D: usize>(&self) -> Way<D> {
        Way::Stages(match self {
            Self::AnnealedLangevin(langevin) => Box::new(*langevin),
            Self::PredictorCorrector(pc) => Box::new(*pc),
            Self::ProbabilityFlow(flow) => return Way::Flow(*flow),
            Self::Solver(solver) => Box::new(solver.clone().steps()),
        })
    }

    /// The method that these settings describe.
    ///
    /// # Errors
    /// Of the probability flow, which is no chain of stages: [`Self::trajectory`] runs every sampler.
    pub fn method<const D: usize>(&self) -> Result<Box<dyn Method<D>>> {
        match self.way() {
            Way::Stages(method) => Ok(method),
            Way::Flow(_) => Err(Error::unexpected("the probability flow", "a sampler that goes from stage to stage")),
        }
    }

    /// The way from `x` to samples by a score, or a reference to one, of data that `process` perturbs; `draws` gives the noise.
    pub fn trajectory<const D: usize, S: Score<D>, Z: Draws<D>>(
        &self,
        score: S,
        process: Arc<dyn Process>,
        x: Tensor<D>,
        draws: Z,
    ) -> Trajectory<D, S, Z> {
        match self.way() {
            Way::Stages(method) => Trajectory::Chain(Box::new(Chain::new(score, process, method, x, draws))),
            Way::Flow(flow) => Trajectory::Flow(Box::new(Flow::new(score, process, flow, x))),
        }
    }

    /// Whether it begins at the process's prior; annealed Langevin dynamics begins at uniform pixels.
    pub fn begins_at_prior(&self) -> bool {
        !matches!(self, Self::AnnealedLangevin(_))
    }

    /// How many states a trajectory has and how many times it asks for the score; `None` if that is seen only on the way.
    pub fn size(&self, process: &dyn Process) -> Option<Size> {
        let method = self.method::<4>().ok()?;
        let stages = method.stages(process);
        let n_evaluations = stages.iter().map(|&stage| method.n_evaluations(stage)).sum();
        Some(Size { n_states: stages.len(), n_evaluations })
    }

    /// What the last update did at the level that `state` is at, see [`AnnealedLangevin::last_update`].
    ///
    /// # Errors
    /// [`Error::Device`] if the device could not compute it.
    pub fn last_update<const D: usize>(&self, process: &dyn Process, state: &State<D>) -> Result<Option<Update>> {
        match self {
            Self::AnnealedLangevin(langevin) => langevin.last_update(process, state),
            Self::PredictorCorrector(_) | Self::ProbabilityFlow(_) | Self::Solver(_) => Ok(None),
        }
    }
}

/// How long a trajectory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// States.
    pub n_states: usize,
    /// How many times the score of each example is asked for.
    pub n_evaluations: usize,
}
