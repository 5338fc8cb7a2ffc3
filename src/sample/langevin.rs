//! Langevin dynamics, plain and annealed.

use burn::tensor::{Int, Tensor};

use crate::noise::{self, Stream};
use crate::score::Score;
use crate::sde::NoiseLevels;

/// One update to make: at which level, how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Index of the noise level whose score is followed.
    pub level: usize,
    /// α: x ← x + α·s + √(2α)·z.
    pub alpha: f64,
}

/// The updates of annealed Langevin dynamics (Song & Ermon 2019, Alg. 1): `n_steps_each` at every level, from the
/// largest σ to the smallest, with αᵢ = `step_lr`·(σᵢ/σ_L)².
///
/// The published program steps by α·s + √(2α)·z where the paper has α/2·s + √α·z; with the same `step_lr` its steps are
/// twice the paper's, and we follow the program.
pub fn annealed_steps(levels: &NoiseLevels, n_steps_each: usize, step_lr: f64) -> Vec<Step> {
    let at = |level: usize| {
        let sigma = levels.sigmas()[level];
        // The smallest level's ratio is 1 even if it is 0.
        let ratio = if sigma == levels.sigma_min() { 1.0 } else { sigma / levels.sigma_min() };
        Step { level, alpha: step_lr * ratio.powi(2) }
    };
    (0..levels.n_levels()).flat_map(|level| std::iter::repeat_n(at(level), n_steps_each)).collect()
}

/// The updates of plain Langevin dynamics at one level: `n_steps` with α = `step_lr`.
pub fn plain_steps(level: usize, n_steps: usize, step_lr: f64) -> Vec<Step> {
    vec![Step { level, alpha: step_lr }; n_steps]
}

/// A state of the chain, after an update.
#[derive(Clone, Debug)]
pub struct State<const D: usize> {
    /// How many updates were made.
    pub n_done: usize,
    /// The update that led here.
    pub step: Step,
    /// `[batch, …]`, not clamped.
    pub x: Tensor<D>,
}

/// Where the z of updates come from: a function that gives tensors of standard normals shaped as x, or [`Streams`].
pub trait Updates<const D: usize> {
    /// x + α·s + c·z.
    fn update(&mut self, x: Tensor<D>, s: Tensor<D>, factors: [f64; 2]) -> Tensor<D>;
}

impl<const D: usize, Z: FnMut() -> Tensor<D>> Updates<D> for Z {
    fn update(&mut self, x: Tensor<D>, s: Tensor<D>, [alpha, c]: [f64; 2]) -> Tensor<D> {
        x + s * alpha + self() * c
    }
}

/// A stream for each example of a batch. On the processor an update is one pass, in which z is never in memory.
#[derive(Clone, Debug)]
pub struct Streams(pub Vec<Stream>);

impl<const D: usize> Updates<D> for Streams {
    fn update(&mut self, x: Tensor<D>, s: Tensor<D>, factors: [f64; 2]) -> Tensor<D> {
        noise::langevin_update(&mut self.0, x, s, factors)
    }
}

/// A chain of Langevin updates, as an iterator of the states after each. The last state is the sample; the published
/// program returns the state before the last update instead.
pub struct Langevin<const D: usize, S, Z> {
    score: S,
    steps: Vec<Step>,
    n_done: usize,
    x: Tensor<D>,
    noise: Z,
}

impl<const D: usize, S: Score<D>, Z: Updates<D>> Langevin<D, S, Z> {
    /// A chain from `x` through `steps`, by a score or a reference to one; `noise` gives the standard normal z of each update.
    pub fn new(score: S, steps: Vec<Step>, x: Tensor<D>, noise: Z) -> Self {
        Self { score, steps, n_done: 0, x, noise }
    }

    /// How many updates the whole chain has.
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }

    /// The sample: the last state. The starting point if there are no updates.
    pub fn finish(mut self) -> Tensor<D> {
        while self.next().is_some() {}
        self.x
    }
}

impl<const D: usize, S: Score<D>, Z: Updates<D>> Iterator for Langevin<D, S, Z> {
    type Item = State<D>;

    fn next(&mut self) -> Option<State<D>> {
        let step = *self.steps.get(self.n_done)?;
        // Held nowhere else, so that the update can be in place.
        let nothing = Tensor::empty([0; D], &self.x.device());
        let x = std::mem::replace(&mut self.x, nothing);
        self.x = update(&self.score, step, x, &mut self.noise);
        self.n_done += 1;
        Some(State { n_done: self.n_done, step, x: self.x.clone() })
    }
}

/// x + α·s(x, i) + √(2α)·z.
pub(super) fn update<const D: usize>(
    score: &impl Score<D>,
    step: Step,
    x: Tensor<D>,
    noise: &mut impl Updates<D>,
) -> Tensor<D> {
    let Step { level, alpha } = step;
    let labels = Tensor::<1, Int>::full([x.dims()[0]], level as i64, &x.device());
    let s = score.score(x.clone(), &labels);
    noise.update(x, s, [alpha, (2.0 * alpha).sqrt()])
}
