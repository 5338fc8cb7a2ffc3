//! Any of the networks, chosen at run time.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{Architecture, DenseScore, Dual, NetworkConfig, RefineNet, ResNetScore, ResScore, UNetScore};
use crate::error::Result;
use crate::noise::Stream;

/// One of the networks.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has a few of them")]
pub enum Network {
    /// Conditional on the noise level, or the baseline.
    RefineNet(RefineNet),
    /// Of the sliced-score-matching experiments.
    ResScore(ResScore),
    /// Of those too.
    ResNetScore(ResNetScore),
    /// UNetScore and UNetResScore.
    UNetScore(UNetScore),
    /// Score, SmallScore and MLPScore.
    DenseScore(DenseScore),
}

impl Network {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`NetworkConfig::check`].
    pub fn new(config: &NetworkConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let NetworkConfig { architecture, channels, width, size, .. } = *config;
        Ok(match architecture {
            Architecture::Ncsn | Architecture::Deeper | Architecture::Baseline => {
                Self::RefineNet(RefineNet::new(config, noise, device)?)
            }
            Architecture::ResScore => Self::ResScore(ResScore::new(width, noise, device)),
            Architecture::ResNetScore => Self::ResNetScore(ResNetScore::new(channels, width, noise, device)),
            Architecture::UNetScore => {
                Self::UNetScore(UNetScore::new(channels, width, size.ilog2() as usize, noise, device))
            }
            Architecture::UNetResScore => {
                Self::UNetScore(UNetScore::with_residual_blocks(channels, width, noise, device))
            }
            Architecture::Score => Self::DenseScore(DenseScore::score(channels, width, noise, device)),
            Architecture::SmallScore => Self::DenseScore(DenseScore::small_score(channels, width, noise, device)),
            Architecture::MlpScore => Self::DenseScore(DenseScore::mlp_score(channels, noise, device)),
        })
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`; `labels`: `[batch]`, level indices, which unconditional networks ignore →
    /// the score, as `x`.
    pub fn forward(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        match self {
            Self::RefineNet(net) => net.forward(x, labels),
            Self::ResScore(net) => net.forward(x),
            Self::ResNetScore(net) => net.forward(x),
            Self::UNetScore(net) => net.forward(x),
            Self::DenseScore(net) => net.forward(x),
        }
    }
}
