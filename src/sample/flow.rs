//! Samples by the probability flow, an ordinary differential equation.

use burn::tensor::{Device, Tensor};

use super::ode::{DormandPrince, Points};
use super::predictor_corrector::denoising;
use crate::device::{upload, values};
use crate::error::Result;
use crate::score::Score;
use crate::sde::{Process, Rates, Reverse};

/// Sampling by the probability flow dx/dt = f·x − ½g²·s(x, t), from the process's largest time to its smallest (Song et al. 2021, §4.3).
/// The state is f64 on the host; the score sees it rounded to f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbabilityFlow {
    /// What solves it.
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

/// The samples of a probability flow.
#[derive(Clone, Debug)]
pub struct Flowed<const D: usize> {
    /// `[batch, …]`
    pub x: Tensor<D>,
    /// How many times each example's score was asked for.
    pub n_evaluations: Vec<usize>,
}

impl ProbabilityFlow {
    /// The samples to which the latents `z`, states at the process's largest time, lead.
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
        let (shape, device, [first, last]) = (z.dims(), z.device(), process.times());
        let derivative = |points: Points| {
            let Points { examples, t, y } = points;
            let s = values(score.score(upload_rows(&y, examples.len(), shape, &device), &t))?;
            let n_each = y.len() / examples.len();
            let rows = y.chunks(n_each).zip(s.chunks(n_each)).zip(&t);
            Ok(rows.flat_map(|((y, s), &t)| drift(process, t, y, s)).collect())
        };
        let start: Vec<f64> = values(z)?.into_iter().map(f64::from).collect();
        let solution = self.solver.solve(derivative, [last, first], &start, shape[0])?;
        let (mut x, mut n_evaluations) = (upload_rows(&solution.y, shape[0], shape, &device), solution.n_evaluations);
        if self.noise_removal {
            let Rates { x: a, score: b, .. } = denoising(process, first);
            let s = score.score(x.clone(), &vec![first; shape[0]]);
            x = x * a + s * b;
            n_evaluations.iter_mut().for_each(|n| *n += 1);
        }
        Ok(Flowed { x, n_evaluations })
    }
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
