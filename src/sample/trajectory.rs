//! What a sampler of any kind does, as an iterator of states.

use burn::tensor::Tensor;

use super::{AnyChain, Draws, Flow, State};
use crate::error::Result;
use crate::score::Score;

/// The way of a batch from its start to the samples, by any [`Sampler`](super::Sampler): an iterator of the states. The last is the
/// samples.
pub enum Trajectory<const D: usize, S, Z> {
    /// By a chain of stages.
    Chain(Box<AnyChain<D, S, Z>>),
    /// By the probability flow.
    Flow(Box<Flow<D, S>>),
}

impl<const D: usize, S: Score<D>, Z: Draws<D>> Trajectory<D, S, Z> {
    /// The same whose states tell what the score was: see [`Chain::watched`](super::Chain::watched). Flows tell nothing.
    pub fn watched(self) -> Self {
        match self {
            Self::Chain(chain) => Self::Chain(Box::new(chain.watched())),
            flow => flow,
        }
    }

    /// How many times the score of each example was asked for.
    pub fn n_evaluations(&self) -> Vec<usize> {
        match self {
            Self::Chain(chain) => vec![chain.n_evaluations(); chain.n_examples()],
            Self::Flow(flow) => flow.n_evaluations().to_vec(),
        }
    }

    /// The share of the way that is done: of the stages of a chain, of the time of a flow.
    pub fn part_done(&self) -> f64 {
        match self {
            Self::Chain(chain) => chain.n_done() as f64 / (chain.n_done() + chain.n_left()).max(1) as f64,
            Self::Flow(flow) => flow.part_done(),
        }
    }

    /// Whether there are no more states.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Chain(chain) => chain.n_left() == 0,
            Self::Flow(flow) => flow.is_done(),
        }
    }

    /// The samples: the last state. The start if there are no states.
    ///
    /// # Errors
    /// As the iterator's.
    pub fn finish(mut self) -> Result<Tensor<D>> {
        for state in &mut self {
            state?;
        }
        Ok(match self {
            Self::Chain(chain) => chain.finish(),
            Self::Flow(flow) => flow.into_x(),
        })
    }
}

impl<const D: usize, S: Score<D>, Z: Draws<D>> Iterator for Trajectory<D, S, Z> {
    /// Errors are those of [`ProbabilityFlow::sample`](super::ProbabilityFlow::sample), after which there are no more states; chains
    /// have none.
    type Item = Result<State<D>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Chain(chain) => chain.next().map(Ok),
            Self::Flow(flow) => flow.next(),
        }
    }
}
