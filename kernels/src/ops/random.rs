//! Random numbers of counter-based streams as tensors, made where the tensor is.

use burn::backend::{Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_flex::FlexTensor;

use super::{is_cpu, whole};
use crate::cpu::Isa;
use crate::random::{self, Position};
use crate::{parallel, size};

/// What the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// U[0, 1), see [`random::fill_uniform`].
    Uniform,
    /// N(0, 1), see [`random::fill_normal`].
    Normal,
}

/// `n_each` numbers from each position. Uniform ones are the same on every device; normal ones differ in their last bits
/// between processors and GPUs, which compute logarithm and cosine in f32.
///
/// # Shapes
/// `[at.len()·n_each]`
pub fn draw(distribution: Distribution, at: &[Position], n_each: usize, device: &Device) -> Tensor<1> {
    let n = size::numbers("random numbers", [at.len(), n_each]);
    #[cfg(feature = "gpu")]
    if !is_cpu(device) && n > 0 {
        return super::gpu::random::draw(distribution, at, n_each, device);
    }
    let mut values = size::zeros::<f32>(n);
    let fill = match distribution {
        Distribution::Uniform => random::fill_uniform,
        Distribution::Normal => random::fill_normal,
    };
    let parts = at.iter().zip(values.chunks_mut(n_each.max(1))).collect();
    parallel::for_each_of(parts, |(&at, part)| fill(Isa::chosen(), at, part));
    Tensor::from_data(TensorData::new(values, [n]), device)
}

/// x + α·s + c·z, with equal shares of the normals z from each position: on the processor in one pass, in which they are never in
/// memory, and in place if nobody else holds x.
///
/// # Panics
/// If shapes differ, or x has no equal shares.
pub fn langevin_update<const D: usize>(
    at: Vec<Position>,
    x: Tensor<D>,
    s: Tensor<D>,
    [alpha, c]: [f64; 2],
) -> Tensor<D> {
    let (n, device) = (x.dims().iter().product::<usize>(), x.device());
    assert_eq!(x.dims(), s.dims(), "shapes of the state and of its score");
    assert!(n == 0 || n.is_multiple_of(at.len()), "{n} numbers in {} equal shares", at.len());
    if x.dtype() != DType::F32 || !is_cpu(&device) || device.is_autodiff() || n == 0 {
        let z = draw(Distribution::Normal, &at, n / at.len().max(1), &device.without_autodiff());
        let shape = x.dims();
        return x + s * alpha + z.reshape(shape) * c;
    }
    let (x, s) = (x.into_dispatch(), s.into_dispatch());
    Tensor::from_dispatch(<Dispatch as LangevinOps>::langevin_update(x, s, at, [alpha, c]))
}

/// What a backend has for Langevin dynamics.
#[backend_extension(Flex)]
pub trait LangevinOps: Backend {
    /// See [`langevin_update()`].
    fn langevin_update(
        x: FloatTensor<Self>,
        s: FloatTensor<Self>,
        at: Vec<Position>,
        factors: [f64; 2],
    ) -> FloatTensor<Self>;
}

impl LangevinOps for Flex {
    fn langevin_update(x: FlexTensor, s: FlexTensor, at: Vec<Position>, factors: [f64; 2]) -> FlexTensor {
        let [mut x, s] = [x, s].map(whole);
        let s: &[f32] = s.storage();
        let n_each = s.len() / at.len();
        let parts = x.storage_mut().chunks_mut(n_each).zip(s.chunks(n_each)).zip(at).collect();
        parallel::for_each_of(parts, |((x, s), at)| random::langevin_update(Isa::chosen(), x, s, at, factors));
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_that_of_separate_operations_to_the_bit_and_leaves_other_holders_alone() {
        let device = Device::flex();
        let at: Vec<_> = (0..3).map(|index| Position { key: [1, 2], index, block: 5 }).collect();
        let normals = |index, n| draw(Distribution::Normal, &[Position { key: [3, 4], index, block: 0 }], n, &device);
        for n_each in [1, 7, 5000] {
            let [x, s] = [0, 1].map(|index| normals(index, 3 * n_each).reshape([3, n_each]));
            let z = draw(Distribution::Normal, &at, n_each, &device).reshape([3, n_each]);
            let expected = x.clone() + s.clone() * 0.3 + z * 0.7;
            let before = x.clone().into_data();
            let found = langevin_update(at.clone(), x.clone(), s.clone(), [0.3, 0.7]);
            assert_eq!(found.into_data(), expected.clone().into_data());
            assert_eq!(x.into_data(), before);
        }
    }
}
