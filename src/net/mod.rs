//! Architectures: tensors in, tensors out. They know nothing of noise schedules; a level is an index.
//!
//! Field order is the published program's registration order, so that [`params::visit`] walks the parameters in the
//! order of its `model.parameters()`, under its names.

mod config;
mod conv;
mod dual;
mod inception;
mod mlp;
mod network;
mod norm;
pub mod params;
mod refine;
mod refinenet;
mod residual;
mod resscore;
mod scorenets;

pub use config::{Architecture, InputRange, MLP_WIDTH, NetworkConfig, Sizes};
pub use conv::{Conv2d, MeanPoolConv};
pub use dual::Dual;
pub use inception::{Inception, InceptionMaps, global_mean};
pub use mlp::{Linear, Mlp, softplus};
pub use network::Network;
pub use norm::{Norm, NormKind};
pub use refine::{ChainedPool, Fusion, RefineBlock, ResidualConvUnit, average_pool_5};
pub use refinenet::RefineNet;
pub use residual::{Resample, ResidualBlock};
pub use resscore::{ConvTranspose2d, GroupNorm, GroupNormBlock, ResScore, Side};
pub use scorenets::{DenseScore, LayerNorm, ResNetScore, UNetScore};

use burn::tensor::Device;

use crate::noise::Stream;

/// What every block of a network is made with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The normalisation used everywhere.
    pub norm: NormKind,
    /// Rows of its table.
    pub n_levels: usize,
    /// Where initial weights come from.
    pub noise: &'a mut Stream,
    /// Where they go to.
    pub device: &'a Device,
}

impl Parts<'_> {
    fn norm(&mut self, n_features: usize) -> Norm {
        Norm::new(self.norm, n_features, self.n_levels, self.noise, self.device)
    }

    fn conv(&mut self, n_in: usize, n_out: usize, kernel: usize, dilation: usize, bias: bool) -> Conv2d {
        Conv2d::new(n_in, n_out, kernel, dilation, bias, self.noise, self.device)
    }
}

/// Draws from U(±1/√fan_in), PyTorch's default for weights and biases.
fn uniform(n: usize, fan_in: usize, noise: &mut Stream) -> Vec<f32> {
    let bound = 1.0 / (fan_in as f32).sqrt();
    let mut values = vec![0.0; n];
    noise.uniform(&mut values);
    values.iter_mut().for_each(|u| *u = bound * (2.0 * *u - 1.0));
    values
}

/// ELU with α = 1: x for x > 0, eˣ − 1 otherwise.
pub fn elu<const D: usize>(x: Dual<D>) -> Dual<D> {
    // e^min(x, 0) is the derivative.
    x.map(ncsn_kernels::ops::pixels::elu, |x, _| x.clamp_max(0.0).exp())
}
