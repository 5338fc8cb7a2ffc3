//! Any of the networks, chosen at run time.

use burn::module::Module;
use burn::tensor::Device;

use super::{
    Condition, DenseScore, Dual, NetworkConfig, RefineNet, ResNetScore, ResScore, ScoreNet, ScoreNetConfig, UNet,
    UNetScore, WideResNet, Work,
};
use crate::error::Result;
use crate::noise::Stream;

/// One of the networks.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has a few of them")]
pub enum Network {
    /// The networks of NCSN and NCSNv2.
    RefineNet(RefineNet),
    /// ResScore; this and those below are of the sliced-score-matching experiments.
    ResScore(ResScore),
    /// ResNetScore.
    ResNetScore(ResNetScore),
    /// UNetScore and UNetResScore.
    UNetScore(UNetScore),
    /// Score, SmallScore and MLPScore.
    DenseScore(DenseScore),
    /// The networks of DDPM and Score-SDE.
    UNet(UNet),
    /// The classifier of Score-SDE.
    WideResNet(WideResNet),
}

impl Network {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`NetworkConfig::check`].
    pub fn new(config: &NetworkConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let &ScoreNetConfig { net, channels, width, size } = match config {
            NetworkConfig::RefineNet(config) => return RefineNet::new(config, noise, device).map(Self::RefineNet),
            NetworkConfig::UNet(config) => return UNet::new(config, noise, device).map(Self::UNet),
            NetworkConfig::WideResNet(config) => return WideResNet::new(config, noise, device).map(Self::WideResNet),
            NetworkConfig::ScoreNet(config) => config,
        };
        Ok(match net {
            ScoreNet::ResScore => Self::ResScore(ResScore::new(width, noise, device)),
            ScoreNet::ResNetScore => Self::ResNetScore(ResNetScore::new(channels, width, noise, device)),
            ScoreNet::UNetScore => {
                Self::UNetScore(UNetScore::new(channels, width, size.ilog2() as usize, noise, device))
            }
            ScoreNet::UNetResScore => Self::UNetScore(UNetScore::with_residual_blocks(channels, width, noise, device)),
            ScoreNet::Score => Self::DenseScore(DenseScore::score(channels, width, noise, device)),
            ScoreNet::SmallScore => Self::DenseScore(DenseScore::small_score(channels, width, noise, device)),
            ScoreNet::MlpScore => Self::DenseScore(DenseScore::mlp_score(channels, noise, device)),
        })
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`; given the noise levels, which unconditional networks ignore →
    /// the network's output, as `x`: the score, or of NCSNv2 the score times σ. Of a classifier it is the logits, `[batch, classes, 1, 1]`.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        match self {
            Self::RefineNet(net) => net.forward(x, given),
            Self::ResScore(net) => net.forward(x),
            Self::ResNetScore(net) => net.forward(x),
            Self::UNetScore(net) => net.forward(x),
            Self::DenseScore(net) => net.forward(x),
            Self::UNet(net) => net.forward(x, given),
            Self::WideResNet(net) => net.forward(x, given),
        }
    }

    /// What its convolutions and linear layers do for one image of `side` × `side` pixels.
    pub fn work(&self, side: usize) -> Work {
        match self {
            Self::RefineNet(net) => net.work(side),
            Self::ResScore(net) => net.work(side),
            Self::ResNetScore(net) => net.work(side),
            Self::UNetScore(net) => net.work(side),
            Self::DenseScore(net) => net.work(side),
            Self::UNet(net) => net.work(side),
            Self::WideResNet(net) => net.work(side),
        }
    }
}
