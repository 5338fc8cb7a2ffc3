//! The networks of NCSN: a RefineNet with dilated residual blocks, conditional on the noise level, its deeper variant, and
//! the baseline without noise levels (Song & Ermon 2019, appendix A).

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use ncsn_kernels::ops::pixels::channels_last;

use super::{
    Architecture, Conv2d, Dual, InputRange, NetworkConfig, Norm, NormKind, Parts, RefineBlock, Resample, ResidualBlock,
};
use crate::error::{Error, Result};
use crate::noise::Stream;

/// s(x, i): an image to an image, given the index of its noise level.
///
/// `res` and `refine` hold the published `res1, res2, …` and `refine1, refine2, …`.
#[derive(Module, Debug)]
pub struct RefineNet {
    begin_conv: Conv2d,
    normalizer: Norm,
    end_conv: Conv2d,
    res: Vec<Vec<ResidualBlock>>,
    refine: Vec<RefineBlock>,
    #[module(skip)]
    config: NetworkConfig,
}

/// One resolution's two residual blocks: channels out, and what the first and the second do to the size.
type StageSpec = (usize, Resample, Resample);

impl RefineNet {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`NetworkConfig::check`].
    pub fn new(config: &NetworkConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let width = config.width;
        let plain = Resample::Keep { dilation: 1 };
        let dilated = |dilation| (Resample::Dilate { dilation }, Resample::Keep { dilation });
        let (d2, d4) = (dilated(2), dilated(4));
        let (norm, stages): (_, Vec<StageSpec>) = match config.architecture {
            Architecture::Ncsn | Architecture::Baseline => (
                if config.architecture == Architecture::Baseline { NormKind::Plus } else { NormKind::ConditionalPlus },
                vec![
                    (width, plain, plain),
                    (2 * width, Resample::Halve, plain),
                    (2 * width, d2.0, d2.1),
                    (2 * width, d4.0, d4.1),
                ],
            ),
            Architecture::Deeper => (
                NormKind::Conditional,
                vec![
                    (width, plain, plain),
                    (2 * width, Resample::Halve, plain),
                    (2 * width, Resample::Halve, plain),
                    (4 * width, d2.0, d2.1),
                    (4 * width, d4.0, d4.1),
                ],
            ),
            other => {
                return Err(Error::Usage(format!(
                    "found the configuration of {other:?}, expected that of a RefineNet"
                )));
            }
        };
        let parts = &mut Parts { norm, n_levels: config.n_levels, noise, device };
        let begin_conv = parts.conv(config.channels, width, 3, 1, true);
        let normalizer = parts.norm(width);
        let end_conv = parts.conv(width, config.channels, 3, 1, true);
        let mut n_in = width;
        let mut res = Vec::new();
        for &(n_out, first, second) in &stages {
            let pair = [([n_in, n_out], first), ([n_out, n_out], second)];
            res.push(pair.into_iter().map(|(channels, how)| ResidualBlock::new(channels, how, parts)).collect());
            n_in = n_out;
        }
        // From the deepest stage up: each block fuses a stage with what came from below and takes on the channels of
        // the next stage above; the first sees its stage alone, the last gives `width`.
        let mut refine = Vec::new();
        let mut below = None;
        for (i, &(n_stage, ..)) in stages.iter().enumerate().rev() {
            let n_out = match (below, i) {
                (None, _) => n_stage,
                (_, 0) => width,
                _ => stages[i - 1].0,
            };
            let n_in: Vec<usize> = std::iter::once(n_stage).chain(below).collect();
            refine.push(RefineBlock::new(&n_in, n_out, if i == 0 { 3 } else { 1 }, parts));
            below = Some(n_out);
        }
        Ok(Self { begin_conv, normalizer, end_conv, res, refine, config: config.clone() })
    }

    /// What this network was built from.
    pub fn config(&self) -> &NetworkConfig {
        &self.config
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`, sides of [`Architecture::sizes`]; `labels`: `[batch]`,
    /// level indices → the score, as `x`. It is the score with respect to `x` as given: no chain-rule factor for the
    /// 2x − 1 inside.
    pub fn forward(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        let x = match self.config.input {
            InputRange::Unit => x * 2.0 + -1.0,
            InputRange::Logit => x,
        };
        // All that follows is made of kernels.
        let mut h = self.begin_conv.forward(x.linear(channels_last));
        let mut layers = Vec::with_capacity(self.res.len());
        for (i, blocks) in self.res.iter().enumerate() {
            if i > 0 {
                let [next, layer] = h.twice();
                layers.push(layer);
                h = next;
            }
            h = blocks.iter().fold(h, |h, block| block.forward(h, labels));
        }
        layers.push(h);
        let mut below = None;
        for (block, layer) in self.refine.iter().zip(layers.into_iter().rev()) {
            let [_, _, height, width] = layer.dims();
            let inputs = std::iter::once(layer).chain(below).collect();
            below = Some(block.forward(inputs, labels, [height, width]));
        }
        let h = below.expect("a network has refine blocks");
        self.end_conv.forward(self.normalizer.forward_elu(h, labels))
    }
}
