//! Denoising score matching (Vincent 2011) over many noise levels.

use burn::tensor::{Int, Tensor, TensorData};

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
    let per_example = |value: &dyn Fn(f64) -> f64| {
        let values: Vec<f32> = levels.sigmas().iter().map(|&sigma| value(sigma) as f32).collect();
        let table = Tensor::<1>::from_data(TensorData::new(values, [levels.n_levels()]), &x.device());
        let mut shape = [1; D];
        shape[0] = n_batch;
        table.select(0, labels.clone()).reshape(shape)
    };
    let sigma = per_example(&|sigma| sigma);
    let weight = per_example(&|sigma| 0.5 * sigma.powf(anneal_power));

    let x_tilde = x + z.clone() * sigma.clone();
    let residual = score.score(x_tilde, labels) + z / sigma;
    (residual.square() * weight).sum() / n_batch as f64
}
