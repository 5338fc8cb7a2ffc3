//! A multi-layer perceptron, for points in the plane.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use ncsn_kernels::ops::conv::linear;

use super::{Dual, uniform};
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
        let bias = uniform(n_out, n_in, noise);
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
}

/// Linear layers with softplus between them; published as a sequence, in which a softplus takes a number too.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// With layers of the sizes `n_features`, the input's first and the output's last.
    pub fn new(n_features: &[usize], noise: &mut Stream, device: &Device) -> Self {
        assert!(n_features.len() >= 2, "a perceptron has an input and an output");
        Self { layers: n_features.windows(2).map(|w| Linear::new(w[0], w[1], noise, device)).collect() }
    }

    /// # Shapes
    /// `[batch, in]` → `[batch, out]`
    pub fn forward(&self, x: Dual<2>) -> Dual<2> {
        let (last, hidden) = self.layers.split_last().expect("a perceptron has layers");
        last.forward(hidden.iter().fold(x, |h, layer| softplus(layer.forward(h))))
    }
}

/// ln(1 + eˣ); its derivative is the logistic function.
pub fn softplus<const D: usize>(x: Dual<D>) -> Dual<D> {
    x.map(|x| activation::softplus(x, 1.0), |x, _| activation::sigmoid(x))
}
