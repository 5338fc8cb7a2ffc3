//! What training minimises.

mod denoising;
mod sliced;

pub use denoising::{annealed_dsm, dsm};
pub use sliced::{Sliced, Slicing, annealed_ssm_vr, ssm, ssm_vr};

use burn::tensor::{Int, Tensor};

use crate::device::upload;
use crate::sde::NoiseLevels;

/// f(σ) of each example's level, to be broadcast over the example: `[batch, 1, …]`.
fn per_example<const D: usize>(levels: &NoiseLevels, labels: &Tensor<1, Int>, f: impl Fn(f64) -> f64) -> Tensor<D> {
    let values = levels.sigmas().iter().map(|&sigma| f(sigma) as f32).collect();
    let mut shape = [1; D];
    shape[0] = labels.dims()[0];
    upload(values, [levels.n_levels()], &labels.device()).select(0, labels.clone()).reshape(shape)
}

/// The sum of all numbers, `[1]`. Burn's own `sum` may add by atomics on a GPU, in another order each time.
pub(crate) fn sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.reshape([1, -1]).sum_dim(1).reshape([1])
}

/// The mean of all numbers, `[1]`.
pub(crate) fn mean<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.shape().num_elements();
    sum(x) / n as f64
}
