//! Denoising score matching (Vincent 2011).

use burn::tensor::Tensor;

use super::{Weight, per_example, perturb, sum, sum_each};
use crate::score::Score;
use crate::sde::Process;

/// Denoising score matching: the mean over the batch of
///
/// λ(t)·½‖s(x_t, t) − ∇ log p(x_t | x)‖² = (λ(t)/std²)·½‖std·s(x_t, t) + z‖², with x_t = α·x + std·z.
///
/// With λ = σ² these are eqs. 5 and 6 of Song & Ermon 2019. Their published program forms (x_t − x)/σ² from the rounded x_t, which
/// loses digits where σ is small; in the second form nothing is divided by σ.
///
/// # Shapes
/// `x`, `z`: `[batch, …]`, data and standard normal noise; `t`: `batch` times → `[1]`.
pub fn denoising<const D: usize>(
    score: &impl Score<D>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    z: Tensor<D>,
    weight: Weight,
) -> Tensor<1> {
    let n_batch = x.dims()[0];
    sum(terms(score, process, x, t, z, weight)) / n_batch as f64
}

/// [`denoising`] of each example: `[batch]`.
pub(super) fn denoising_each<const D: usize>(
    score: &impl Score<D>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    z: Tensor<D>,
    weight: Weight,
) -> Tensor<1> {
    sum_each(terms(score, process, x, t, z, weight))
}

/// The summands of [`denoising`], shaped as `x`.
fn terms<const D: usize>(
    score: &impl Score<D>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    z: Tensor<D>,
    weight: Weight,
) -> Tensor<D> {
    let device = x.device();
    let marginals: Vec<_> = t.iter().map(|&t| process.marginal(t)).collect();
    let std: Tensor<D> = per_example(&marginals, |m| m.std, &device);
    let lambdas = t.iter().map(|&t| weight.lambda(process, t));
    let weights: Vec<_> = marginals.iter().zip(lambdas).map(|(m, lambda)| 0.5 * lambda / m.std.powi(2)).collect();
    let w = per_example(&weights, |w| w, &device);

    let residual = score.score(perturb(x, z.clone(), &marginals), t) * std + z;
    residual.square() * w
}
