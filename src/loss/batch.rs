//! What losses compute over a batch.

use burn::tensor::{Device, Tensor};

use crate::device::upload;
use crate::sde::Marginal;

/// f of what is given for each example, to be broadcast over the example: `[batch, 1, …]`.
pub(super) fn per_example<const D: usize, T: Copy>(given: &[T], f: impl Fn(T) -> f64, device: &Device) -> Tensor<D> {
    let mut shape = [1; D];
    shape[0] = given.len();
    upload(given.iter().map(|&given| f(given) as f32).collect(), shape, device)
}

/// x_t = α·x + std·z of each example.
pub(crate) fn perturb<const D: usize>(x: Tensor<D>, z: Tensor<D>, marginals: &[Marginal]) -> Tensor<D> {
    let device = x.device();
    let noise = z * per_example(marginals, |m| m.std, &device);
    match marginals.iter().all(|m| m.alpha == 1.0) {
        true => x + noise,
        false => x * per_example(marginals, |m| m.alpha, &device) + noise,
    }
}

/// The sum of all numbers, `[1]`. Burn's own `sum` may add by atomics on a GPU, in another order each time.
pub(crate) fn sum<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.reshape([1, -1]).sum_dim(1).reshape([1])
}

/// The sum of each example's numbers, `[batch]`.
pub(super) fn sum_each<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.dims()[0];
    x.reshape([n as isize, -1]).sum_dim(1).reshape([n])
}

/// The mean of all numbers, `[1]`.
pub(crate) fn mean<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let n = x.shape().num_elements();
    sum(x) / n as f64
}
