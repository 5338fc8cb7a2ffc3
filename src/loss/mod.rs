//! What training minimises.

mod denoising;
mod sliced;

pub use denoising::{annealed_dsm, dsm};
pub use sliced::{Sliced, Slicing, annealed_ssm_vr, ssm, ssm_vr};

use burn::tensor::{Int, Tensor};

use crate::net::params::upload;
use crate::sde::NoiseLevels;

/// f(σ) of each example's level, to be broadcast over the example: `[batch, 1, …]`.
fn per_example<const D: usize>(levels: &NoiseLevels, labels: &Tensor<1, Int>, f: impl Fn(f64) -> f64) -> Tensor<D> {
    let values = levels.sigmas().iter().map(|&sigma| f(sigma) as f32).collect();
    let mut shape = [1; D];
    shape[0] = labels.dims()[0];
    upload(values, [levels.n_levels()], &labels.device()).select(0, labels.clone()).reshape(shape)
}
