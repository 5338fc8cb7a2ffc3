//! Random numbers of counter-based streams as tensors, made where the tensor is.

use burn::tensor::{Device, Tensor, TensorData};

#[cfg(feature = "gpu")]
use super::is_cpu;
use crate::cpu::Isa;
use crate::parallel;
use crate::random::{self, Position};

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
    let n = at.len() * n_each;
    #[cfg(feature = "gpu")]
    if !is_cpu(device) && n > 0 {
        return super::gpu::random::draw(distribution, at, n_each, device);
    }
    let mut values = vec![0.0; n];
    let fill = match distribution {
        Distribution::Uniform => random::fill_uniform,
        Distribution::Normal => random::fill_normal,
    };
    let parts = at.iter().zip(values.chunks_mut(n_each.max(1))).collect();
    parallel::for_each_of(parts, |(&at, part)| fill(Isa::chosen(), at, part));
    Tensor::from_data(TensorData::new(values, [n]), device)
}
