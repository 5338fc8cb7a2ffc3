//! Samples by the probability flow, an ordinary differential equation.

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::ode::{DormandPrince, ErrorNorm, Points, Solution, Solving};
use super::predictor_corrector::denoising;
use super::{Stage, State};
use crate::device::{upload, values};
use crate::error::Result;
use crate::score::Score;
use crate::sde::{Process, Rates, Reverse};

/// Sampling by the probability flow dx/dt = f·x − ½g²·s(x, t), from the process's largest time to its smallest (Song et al. 2021, §4.3).
/// The state is f64 on the host; the score sees it rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProbabilityFlow {
    /// What solves it.
    #[serde(flatten)]
    pub solver: DormandPrince,
    /// Whether a step of reverse diffusion without noise ends it.
    pub noise_removal: bool,
}

impl Default for ProbabilityFlow {
    /// As in the paper, with steps of each example's own.
    fn default() -> Self {
        Self { solver: DormandPrince::default(), noise_removal: true }
    }
}

impl fmt::Display for ProbabilityFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DormandPrince { rtol, atol, norm } = self.solver;
        write!(f, "ode rtol {rtol} atol {atol}")?;
        f.write_str(if norm == ErrorNorm::Batch { " batch norm" } else { "" })?;
        f.write_str(if self.noise_removal { " denoised" } else { "" })
    }
}

/// The ends of a probability flow.
#[derive(Clone, Debug)]
pub struct Flowed<const D: usize> {
    /// `[batch, …]`
    pub x: Tensor<D>,
    /// How many times each example's score was asked for.
    pub n_evaluations: Vec<usize>,
}

impl ProbabilityFlow {
    /// The samples to which the latents `z`, states at the process's largest time, lead: it decodes.
    ///
    /// # Shapes
    /// `z`: `[batch, …]` → as `z`.
    ///
    /// # Errors
    /// As [`DormandPrince::solve`]; when the device fails.
    pub fn sample<const D: usize>(
        &self,
        score: &(impl Score<D> + ?Sized),
        process: &dyn Process,
        z: Tensor<D>,
    ) -> Result<Flowed<D>> {
        let [first, last] = process.times();
        let Flowed { mut x, mut n_evaluations } = self.solve(score, process, z, [last, first])?;
        if self.noise_removal {
            x = denoised(score, process, x);
            n_evaluations.iter_mut().for_each(|n| *n += 1);
        }
        Ok(Flowed { x, n_evaluations })
    }

    /// The latents, states at the process's largest time, of the data `x`, which are taken to be at its smallest. What
    /// [`Self::sample`] makes of them without noise removal is `x` again, but for the errors of both ways.
    ///
    /// # Shapes
    /// `x`: `[batch, …]` → as `x`.
    ///
    /// # Errors
    /// As [`Self::sample`].
    pub fn encode<const D: usize>(
        &self,
        score: &(impl Score<D> + ?Sized),
        process: &dyn Process,
        x: Tensor<D>,
    ) -> Result<Flowed<D>> {
        self.solve(score, process, x, process.times())
    }

    fn solve<const D: usize>(
        &self,
        score: &(impl Score<D> + ?Sized),
        process: &dyn Process,
        x: Tensor<D>,
        ends: [f64; 2],
    ) -> Result<Flowed<D>> {
        let (shape, device) = (x.dims(), x.device());
        let start: Vec<f64> = values(x)?.into_iter().map(f64::from).collect();
        let derivative = |points| derivative(score, process, shape, &device, points);
        let Solution { y, n_evaluations } = self.solver.solve(derivative, ends, &start, shape[0])?;
        Ok(Flowed { x: upload_rows(&y, shape[0], shape, &device), n_evaluations })
    }
}

/// The same as [`ProbabilityFlow::sample`] as an iterator: of the states after each round of steps, one of each example that is not at
/// the end yet, and after the removal of the noise. The last state is the samples.
pub struct Flow<const D: usize, S> {
    score: S,
    process: Arc<dyn Process>,
    settings: ProbabilityFlow,
    x: Tensor<D>,
    /// From the first round on.
    solving: Option<Solving>,
    n_done: usize,
    n_evaluations: Vec<usize>,
    is_done: bool,
}

impl<const D: usize, S: Score<D>> Flow<D, S> {
    /// From the latents `z` by a score, or a reference to one.
    pub fn new(score: S, process: Arc<dyn Process>, settings: ProbabilityFlow, z: Tensor<D>) -> Self {
        let n_evaluations = vec![0; z.dims()[0]];
        Self { score, process, settings, x: z, solving: None, n_done: 0, n_evaluations, is_done: false }
    }

    /// How many times each example's score was asked for.
    pub fn n_evaluations(&self) -> &[usize] {
        &self.n_evaluations
    }

    /// The state: the latents, then what is seen after each round.
    pub fn into_x(self) -> Tensor<D> {
        self.x
    }

    /// The share of the time that all examples have passed.
    pub fn part_done(&self) -> f64 {
        let [first, last] = self.process.times();
        self.solving.as_ref().map_or(0.0, |solving| (last - solving.t()) / (last - first))
    }

    /// Whether there are no more states.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    fn advance(&mut self) -> Result<Stage> {
        let Self { score, process, settings, .. } = self;
        let (shape, device, [first, last]) = (self.x.dims(), self.x.device(), process.times());
        let derivative = |points| derivative(&*score, &**process, shape, &device, points);
        let mut solving = match self.solving.take() {
            Some(solving) => solving,
            None => {
                let start: Vec<f64> = values(self.x.clone())?.into_iter().map(f64::from).collect();
                settings.solver.begin(derivative, [last, first], &start, shape[0])?
            }
        };
        let from = solving.t();
        let stage = if solving.is_done() {
            self.x = denoised(score, &**process, self.x.clone());
            self.n_evaluations.iter_mut().for_each(|n| *n += 1);
            self.is_done = true;
            Stage::Denoise { t: from }
        } else {
            solving.step(derivative)?;
            let Solution { y, n_evaluations } = solving.solution();
            (self.x, self.n_evaluations) = (upload_rows(&y, shape[0], shape, &device), n_evaluations);
            self.is_done = solving.is_done() && !settings.noise_removal;
            Stage::Predict { from, to: solving.t() }
        };
        self.solving = Some(solving);
        Ok(stage)
    }
}

impl<const D: usize, S: Score<D>> Iterator for Flow<D, S> {
    type Item = Result<State<D>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let stage = match self.advance() {
            Ok(stage) => stage,
            Err(error) => {
                self.is_done = true;
                return Some(Err(error));
            }
        };
        self.n_done += 1;
        let n_evaluations = self.n_evaluations.iter().copied().max().unwrap_or(0);
        Some(Ok(State { n_done: self.n_done, n_evaluations, stage, x: self.x.clone(), evaluation: None }))
    }
}

/// The derivatives of the flow at some points.
fn derivative<const D: usize>(
    score: &(impl Score<D> + ?Sized),
    process: &dyn Process,
    shape: [usize; D],
    device: &Device,
    Points { examples, t, y }: Points,
) -> Result<Vec<f64>> {
    let s = values(score.score_of(&examples, upload_rows(&y, examples.len(), shape, device), &t))?;
    let n_each = y.len() / examples.len();
    let rows = y.chunks(n_each).zip(s.chunks(n_each)).zip(&t);
    Ok(rows.flat_map(|((y, s), &t)| drift(process, t, y, s)).collect())
}

/// x without the noise that is left at the smallest time.
fn denoised<const D: usize>(score: &(impl Score<D> + ?Sized), process: &dyn Process, x: Tensor<D>) -> Tensor<D> {
    let [first, _] = process.times();
    let Rates { x: a, score: b, .. } = denoising(process, first);
    let s = score.score(x.clone(), &vec![first; x.dims()[0]]);
    x * a + s * b
}

/// `n` examples, one after the other in `rows`, as a batch, each shaped as one of `shape`.
pub(super) fn upload_rows<const D: usize>(rows: &[f64], n: usize, shape: [usize; D], device: &Device) -> Tensor<D> {
    let mut batch = shape;
    batch[0] = n;
    upload(rows.iter().map(|&v| v as f32).collect(), batch, device)
}

/// f·x − ½g²·s at time `t`.
fn drift<'a>(process: &dyn Process, t: f64, x: &'a [f64], s: &'a [f32]) -> impl Iterator<Item = f64> + use<'a> {
    let Rates { x: a, score: b, .. } = Reverse::ProbabilityFlow.rates(process, t);
    x.iter().zip(s).map(move |(x, s)| a * x + b * f64::from(*s))
}
