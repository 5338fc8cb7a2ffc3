//! One loop for all samplers.

use std::cell::RefCell;
use std::sync::Arc;
use std::vec;

use burn::tensor::Tensor;

use super::{Draws, Known};
use crate::score::Score;
use crate::sde::Process;

/// What a chain does next. Times are those of a [`Process`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stage {
    /// Changes x at time `t`; how much noise it has stays.
    Correct {
        /// The time.
        t: f64,
    },
    /// Goes from time `from` to the smaller time `to`.
    Predict {
        /// Where it begins.
        from: f64,
        /// Where it ends.
        to: f64,
    },
    /// Removes the noise that is left at time `t`.
    Denoise {
        /// The time.
        t: f64,
    },
}

impl Stage {
    /// The time at which it begins.
    pub fn t(self) -> f64 {
        match self {
            Self::Correct { t } | Self::Denoise { t } => t,
            Self::Predict { from, .. } => from,
        }
    }
}

/// A way from noise to data, one stage after the other. A method may remember what it likes from stage to stage.
pub trait Method<const D: usize> {
    /// The stages of a whole chain.
    fn stages(&self, process: &dyn Process) -> Vec<Stage>;

    /// x after `stage`.
    fn step(
        &mut self,
        stage: Stage,
        score: &dyn Score<D>,
        process: &dyn Process,
        x: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D>;

    /// How many times a stage asks for the score.
    fn n_evaluations(&self, _stage: Stage) -> usize {
        1
    }

    /// Whether x after `stage` is without the noise of its time: the known part of x has none then either.
    fn removes_noise(&self, stage: Stage, _process: &dyn Process) -> bool {
        matches!(stage, Stage::Denoise { .. })
    }
}

impl<const D: usize, M: Method<D> + ?Sized> Method<D> for Box<M> {
    fn stages(&self, process: &dyn Process) -> Vec<Stage> {
        (**self).stages(process)
    }

    fn step(
        &mut self,
        stage: Stage,
        score: &dyn Score<D>,
        process: &dyn Process,
        x: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        (**self).step(stage, score, process, x, draws)
    }

    fn n_evaluations(&self, stage: Stage) -> usize {
        (**self).n_evaluations(stage)
    }

    fn removes_noise(&self, stage: Stage, process: &dyn Process) -> bool {
        (**self).removes_noise(stage, process)
    }
}

/// A state of a chain, after a stage.
#[derive(Clone, Debug)]
pub struct State<const D: usize> {
    /// How many states there were, this one counted.
    pub n_done: usize,
    /// How many times the score was asked for: of each example the same, or, by a probability flow, of the one with most.
    pub n_evaluations: usize,
    /// The stage that led here.
    pub stage: Stage,
    /// `[batch, …]`, not clamped.
    pub x: Tensor<D>,
    /// What the stage asked of the score last, of a chain that is [watched](Chain::watched), after the last of several equal stages.
    pub evaluation: Option<Evaluation<D>>,
}

/// The score at one state.
#[derive(Clone, Debug)]
pub struct Evaluation<const D: usize> {
    /// The state: `[batch, …]`.
    pub x: Tensor<D>,
    /// Its score, shaped as `x`.
    pub score: Tensor<D>,
}

/// A score that remembers where it was asked for last, and what it gave.
struct Remembered<'a, const D: usize> {
    score: &'a dyn Score<D>,
    last: RefCell<Option<Evaluation<D>>>,
}

impl<const D: usize> Score<D> for Remembered<'_, D> {
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let score = self.score.score(x.clone(), t);
        self.last.replace(Some(Evaluation { x, score: score.clone() }));
        score
    }

    fn score_of(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let score = self.score.score_of(examples, x.clone(), t);
        self.last.replace(Some(Evaluation { x, score: score.clone() }));
        score
    }
}

/// A chain of a method's stages, as an iterator of the states after each. The last state is the sample.
pub struct Chain<const D: usize, S, M, Z> {
    score: S,
    process: Arc<dyn Process>,
    method: M,
    draws: Z,
    known: Option<Known<D>>,
    is_watched: bool,
    stages: vec::IntoIter<Stage>,
    n_done: usize,
    n_evaluations: usize,
    x: Tensor<D>,
}

/// A chain whose method is chosen when the program runs.
pub type AnyChain<const D: usize, S, Z> = Chain<D, S, Box<dyn Method<D>>, Z>;

impl<const D: usize, S: Score<D>, M: Method<D>, Z: Draws<D>> Chain<D, S, M, Z> {
    /// A chain from `x` by a score, or a reference to one, of data that `process` perturbs; `draws` gives the noise.
    pub fn new(score: S, process: Arc<dyn Process>, method: M, x: Tensor<D>, draws: Z) -> Self {
        let stages = method.stages(&*process).into_iter();
        Self { score, process, method, draws, known: None, is_watched: false, stages, n_done: 0, n_evaluations: 0, x }
    }

    /// The same with a part of x that is known.
    pub fn with_known(self, known: Known<D>) -> Self {
        Self { known: Some(known), ..self }
    }

    /// The same whose states tell what the score was, where a stage ends that is not repeated: see [`State::evaluation`]. Its states
    /// are those of the chain that nobody watches, bit for bit.
    pub fn watched(self) -> Self {
        Self { is_watched: true, ..self }
    }

    /// How many examples it draws.
    pub fn n_examples(&self) -> usize {
        self.x.dims()[0]
    }

    /// How many times the score was asked for.
    pub fn n_evaluations(&self) -> usize {
        self.n_evaluations
    }

    /// How many stages were passed.
    pub fn n_done(&self) -> usize {
        self.n_done
    }

    /// How many stages are left.
    pub fn n_left(&self) -> usize {
        self.stages.len()
    }

    /// The sample: the last state. The starting point if there are no stages.
    pub fn finish(mut self) -> Tensor<D> {
        while self.next().is_some() {}
        self.x
    }
}

impl<const D: usize, S: Score<D>, M: Method<D>, Z: Draws<D>> Iterator for Chain<D, S, M, Z> {
    type Item = State<D>;

    fn next(&mut self) -> Option<State<D>> {
        let stage = self.stages.next()?;
        // Held nowhere else, so that the update can be in place.
        let nothing = Tensor::empty([0; D], &self.x.device());
        let mut x = std::mem::replace(&mut self.x, nothing);
        if let Some(known) = &mut self.known {
            x = known.before(stage, &*self.process, x);
        }
        let mut evaluation = None;
        x = match self.is_watched && self.stages.as_slice().first() != Some(&stage) {
            false => self.method.step(stage, &self.score, &*self.process, x, &mut self.draws),
            true => {
                let score = Remembered { score: &self.score, last: RefCell::default() };
                let x = self.method.step(stage, &score, &*self.process, x, &mut self.draws);
                evaluation = score.last.into_inner();
                x
            }
        };
        if let Some(known) = &mut self.known {
            let (is_last, process) = (self.stages.len() == 0, &*self.process);
            x = known.after(stage, process, x, is_last, self.method.removes_noise(stage, process));
        }
        self.x = x;
        self.n_done += 1;
        self.n_evaluations += self.method.n_evaluations(stage);
        Some(State { n_done: self.n_done, n_evaluations: self.n_evaluations, stage, x: self.x.clone(), evaluation })
    }
}
