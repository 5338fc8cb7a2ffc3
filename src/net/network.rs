//! Any of the networks, chosen at run time.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};

use super::{Architecture, Dual, NetworkConfig, RefineNet, ResScore};
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
}

impl Network {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`NetworkConfig::check`].
    pub fn new(config: &NetworkConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        Ok(match config.architecture {
            Architecture::Ncsn | Architecture::Deeper | Architecture::Baseline => {
                Self::RefineNet(RefineNet::new(config, noise, device)?)
            }
            Architecture::ResScore => Self::ResScore(ResScore::new(config.width, noise, device)),
        })
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`; `labels`: `[batch]`, level indices, which unconditional networks ignore →
    /// the score, as `x`.
    pub fn forward(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        match self {
            Self::RefineNet(net) => net.forward(x, labels),
            Self::ResScore(net) => net.forward(x),
        }
    }
}
