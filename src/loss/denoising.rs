//! Denoising score matching (Vincent 2011) over many noise levels.

use burn::tensor::{Int, Tensor};

use super::{per_example, sum};
use crate::score::Score;
use crate::sde::NoiseLevels;

/// Annealed denoising score matching (Song & Ermon 2019, eqs. 5 and 6): the mean over the batch of
///
/// ½‖s(x̃, i) + (x̃ − x)/σᵢ²‖² · σᵢ^p, with x̃ = x + σᵢ·z.
///
/// The paper's weight λ(σ) = σ² is `anneal_power` p = 2. The published program forms (x̃ − x)/σ² from the rounded x̃;
/// we use z/σ, the same without the cancellation.
///
/// # Shapes
/// `x`, `z`: `[batch, …]`, data and standard normal noise; `labels`: `[batch]`, level indices → `[1]`.
pub fn annealed_dsm<const D: usize>(
    score: &impl Score<D>,
    levels: &NoiseLevels,
    x: Tensor<D>,
    labels: &Tensor<1, Int>,
    z: Tensor<D>,
    anneal_power: f64,
) -> Tensor<1> {
    let n_batch = x.dims()[0];
    let sigma: Tensor<D> = per_example(levels, labels, |sigma| sigma);
    let weight = per_example(levels, labels, |sigma| 0.5 * sigma.powf(anneal_power));

    let x_tilde = x + z.clone() * sigma.clone();
    let residual = score.score(x_tilde, labels) + z / sigma;
    sum(residual.square() * weight) / n_batch as f64
}

/// Denoising score matching at one noise level: the mean over the batch of ½‖s(x̃) + (x̃ − x)/σ²‖², with x̃ = x + σ·z.
///
/// # Shapes
/// `x`, `z`: `[batch, …]` → `[1]`. The score is asked for level 0.
pub fn dsm<const D: usize>(score: &impl Score<D>, sigma: f64, x: Tensor<D>, z: Tensor<D>) -> Tensor<1> {
    let n_batch = x.dims()[0];
    let labels = Tensor::zeros([n_batch], &x.device());
    let residual = score.score(x + z.clone() * sigma, &labels) + z / sigma;
    sum(residual.square()) * (0.5 / n_batch as f64)
}
