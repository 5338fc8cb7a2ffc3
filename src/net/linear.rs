//! Linear layers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ncsn_kernels::ops::conv::{linear, linear_each};

use super::{Dual, Work, fan_average, uniform};
use crate::device::upload;
use crate::noise::Stream;

/// x·Wᵀ + b.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
}

impl Linear {
    /// Weights and bias from U(±1/√in), PyTorch's default.
    pub fn new(n_in: usize, n_out: usize, noise: &mut Stream, device: &Device) -> Self {
        let weight = uniform(n_in * n_out, n_in, noise);
        Self::of([n_in, n_out], weight, uniform(n_out, n_in, noise), device)
    }

    /// Weights from U(±√(3/m)), m the mean of fan-in and fan-out, biases 0: the initial values of Song et al. 2021.
    pub fn fan_average(n_in: usize, n_out: usize, noise: &mut Stream, device: &Device) -> Self {
        let weight = fan_average(n_in * n_out, [n_in, n_out], 1.0, noise);
        Self::of([n_in, n_out], weight, vec![0.0; n_out], device)
    }

    /// With these values.
    fn of([n_in, n_out]: [usize; 2], weight: Vec<f32>, bias: Vec<f32>, device: &Device) -> Self {
        Self {
            weight: Param::from_tensor(upload(weight, [n_out, n_in], device)),
            bias: Param::from_tensor(upload(bias, [n_out], device)),
        }
    }

    /// # Shapes
    /// `[batch, in]` → `[batch, out]`
    pub fn forward(&self, x: Dual<2>) -> Dual<2> {
        let weight = self.weight.val();
        let bias = self.bias.val().reshape([1, -1]);
        x.linear(|x| linear(x, weight.clone())) + Dual::from(bias)
    }

    /// The same for features of images: each row is computed as if it were alone, so that an image does not depend on its batch.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub fn forward_each(&self, x: Dual<2>) -> Dual<2> {
        let weight = self.weight.val();
        let bias = self.bias.val().reshape([1, -1]);
        x.linear(|x| linear_each(x, weight.clone())) + Dual::from(bias)
    }

    /// What it does for one row.
    pub(super) fn work(&self) -> Work {
        let [n_out, n_in] = self.weight.dims();
        Work { multiply_adds: n_out * n_in, numbers: n_in + n_out }
    }
}
