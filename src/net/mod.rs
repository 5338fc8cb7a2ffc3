//! Architectures: tensors in, tensors out. They know nothing of noise schedules; a level is an index.
//!
//! Field order is the published program's registration order, so that [`params::visit`] walks the parameters in the
//! order of its `model.parameters()`, under its names.

mod activation;
mod buffer;
mod condition;
mod config;
mod conv;
mod dropout;
mod dual;
mod inception;
mod linear;
mod mlp;
mod names;
mod network;
mod norm;
pub mod params;
mod recognise;
mod refine;
mod refinenet;
mod residual;
mod resscore;
mod scorenets;
pub mod spectral;
#[allow(non_snake_case, reason = "fields have their published names")]
mod unet;
mod wide_resnet;
mod work;

pub use activation::{Activation, elu};
pub use buffer::Buffer;
pub use condition::{Condition, InTraining, Record};
pub use config::{
    Architecture, Dimensions, Form, InputRange, MLP_WIDTH, Memory, NetworkConfig, RefineNetConfig, ScoreNet,
    ScoreNetConfig, Sizes,
};
pub use conv::{Conv2d, ConvTranspose2d, Kernel, MeanPoolConv};
pub use dropout::dropout;
pub use dual::Dual;
pub use inception::{Inception, InceptionMaps, global_mean};
pub use linear::Linear;
pub use mlp::{Mlp, softplus};
pub use network::Network;
pub use norm::{GroupNorm, LayerNorm, Norm, NormKind};
pub use recognise::Untold;
pub use refine::{ChainedPool, Fusion, Pool, RefineBlock, ResidualConvUnit, average_pool_5, max_pool_5};
pub use refinenet::RefineNet;
pub use residual::{Resample, ResidualBlock};
pub use resscore::{GroupNormBlock, ResScore, Side};
pub use scorenets::{DenseScore, ResNetScore, UNetScore};
pub use unet::{
    Attention, BlockForm, Combination, Combine, Embedding, FourierFeatures, Groups, Nin, Progressive, Resampling,
    Scale, Style, Taps, TimeBlock, UNet, UNetConfig, positional,
};
pub use wide_resnet::{WideBlock, WideResNet, WideResNetConfig};
pub use work::Work;

use burn::tensor::Device;

use crate::noise::Stream;

/// A network F, which a [`Model`](crate::score::Model) makes a score, or a classifier.
pub trait Backbone<const D: usize> {
    /// # Shapes
    /// `x`: `[batch, …]`; result as `x`, or, of a classifier, the logits `[batch, classes, 1, …]`.
    fn forward(&self, x: Dual<D>, given: &Condition) -> Dual<D>;
}

impl<const D: usize, N: Backbone<D>> Backbone<D> for &N {
    fn forward(&self, x: Dual<D>, given: &Condition) -> Dual<D> {
        (**self).forward(x, given)
    }
}

/// The networks of this crate: `|network, x, given| …`.
macro_rules! backbones {
    ($($network:ty: $rank:literal, $forward:expr;)*) => {$(
        impl Backbone<$rank> for $network {
            fn forward(&self, x: Dual<$rank>, given: &Condition) -> Dual<$rank> {
                let forward: fn(&Self, Dual<$rank>, &Condition) -> Dual<$rank> = $forward;
                forward(self, x, given)
            }
        }
    )*};
}

backbones! {
    Network: 4, |net, x, given| net.forward(x, given);
    RefineNet: 4, |net, x, given| net.forward(x, given);
    UNet: 4, |net, x, given| net.forward(x, given);
    WideResNet: 4, |net, x, given| net.forward(x, given);
    ResScore: 4, |net, x, _| net.forward(x);
    ResNetScore: 4, |net, x, _| net.forward(x);
    UNetScore: 4, |net, x, _| net.forward(x);
    DenseScore: 4, |net, x, _| net.forward(x);
    Mlp: 2, |net, x, _| net.forward(x);
}

/// What every block of a RefineNet is made with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The normalisation of the residual blocks, and of the network's end.
    pub norm: NormKind,
    /// That of the refine blocks.
    pub refine_norm: NormKind,
    /// Rows of its tables; `None` for scales without levels.
    pub n_levels: Option<usize>,
    /// The activation used everywhere.
    pub activation: Activation,
    /// What chained residual pooling takes of its windows.
    pub pool: Pool,
    /// Whether the convolutions are divided by their spectral norms.
    pub spec_norm: bool,
    /// Where initial weights come from.
    pub noise: &'a mut Stream,
    /// Where they go to.
    pub device: &'a Device,
}

impl Parts<'_> {
    fn norm(&mut self, n_features: usize) -> Norm {
        Norm::new(self.norm, n_features, self.n_levels, self.noise, self.device)
    }

    fn refine_norm(&mut self, n_features: usize) -> Norm {
        Norm::new(self.refine_norm, n_features, self.n_levels, self.noise, self.device)
    }

    fn conv(&mut self, n_in: usize, n_out: usize, kernel: usize, dilation: usize, bias: bool) -> Conv2d {
        let conv = Conv2d::new(n_in, n_out, kernel, dilation, bias, self.noise, self.device);
        if self.spec_norm { conv.with_spectral_norm(self.noise) } else { conv }
    }
}

/// Draws from U(±1/√fan_in), PyTorch's default for weights and biases.
fn uniform(n: usize, fan_in: usize, noise: &mut Stream) -> Vec<f32> {
    between(n, 1.0 / (fan_in as f32).sqrt(), noise)
}

/// Draws from U(±√(3·scale/m)), m the mean of fan-in and fan-out (Glorot & Bengio 2010 for scale 1); a scale of 0 is 1e-10 (Song et
/// al. 2021).
fn fan_average(n: usize, [fan_in, fan_out]: [usize; 2], scale: f64, noise: &mut Stream) -> Vec<f32> {
    let scale = if scale == 0.0 { 1e-10 } else { scale };
    let mean = (fan_in + fan_out) as f64 / 2.0;
    between(n, (3.0 * scale / mean).sqrt() as f32, noise)
}

/// Draws from U(±bound).
fn between(n: usize, bound: f32, noise: &mut Stream) -> Vec<f32> {
    let mut values = vec![0.0; n];
    noise.uniform(&mut values);
    values.iter_mut().for_each(|u| *u = bound * (2.0 * *u - 1.0));
    values
}
