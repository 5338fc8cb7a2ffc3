//! RefineNets with dilated residual blocks: the networks of NCSN, conditional on the noise level, its deeper variant and its
//! baseline (Song & Ermon 2019, appendix A), and those of NCSNv2 (Song & Ermon 2020, appendix B).

use burn::module::Module;
use burn::tensor::Device;
use ncsn_kernels::ops::pixels::channels_last;

use super::recognise::Shapes;
use super::{
    Condition, Conv2d, Dual, Form, InputRange, Norm, NormKind, Parts, Pool, RefineBlock, RefineNetConfig, Resample,
    ResidualBlock, Untold, Work,
};
use crate::error::Result;
use crate::noise::Stream;

/// F(x, i): an image to an image, given the index of its noise level if the network is conditional. It is the score of NCSN, and of
/// NCSNv2 the score times σ.
///
/// Fields are the published program's, in its order. The four stages that every form has come with those that some lack: `res31` and
/// `refine31` are Deepest's alone, `res5` and `refine5` not Ncsn's.
#[derive(Module, Debug)]
pub struct RefineNet {
    begin_conv: Conv2d,
    normalizer: Norm,
    end_conv: Conv2d,
    res1: Vec<ResidualBlock>,
    res2: Vec<ResidualBlock>,
    res3: Vec<ResidualBlock>,
    res31: Option<Vec<ResidualBlock>>,
    res4: Vec<ResidualBlock>,
    res5: Option<Vec<ResidualBlock>>,
    refine1: RefineBlock,
    refine2: RefineBlock,
    refine3: RefineBlock,
    refine31: Option<RefineBlock>,
    refine4: RefineBlock,
    refine5: Option<RefineBlock>,
    #[module(skip)]
    config: RefineNetConfig,
}

/// One resolution's two residual blocks: channels out, and what the first and the second do to the size.
type StageSpec = (usize, Resample, Resample);

/// The stages of a form, from the image down.
fn stages(form: Form, width: usize) -> Vec<StageSpec> {
    let plain = Resample::Keep { dilation: 1 };
    let keep = |n_out| (n_out, plain, plain);
    let halve = |n_out| (n_out, Resample::Halve, plain);
    let dilate = |dilation, n_out| (n_out, Resample::Dilate { dilation }, Resample::Keep { dilation });
    let (w, w2, w4) = (width, 2 * width, 4 * width);
    match form {
        Form::Ncsn => vec![keep(w), halve(w2), dilate(2, w2), dilate(4, w2)],
        Form::Deeper => vec![keep(w), halve(w2), halve(w2), dilate(2, w4), dilate(4, w4)],
        Form::Deepest => vec![keep(w), halve(w2), halve(w2), halve(w2), dilate(2, w4), dilate(4, w4)],
    }
}

impl RefineNet {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`RefineNetConfig::check`].
    pub fn new(config: &RefineNetConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let RefineNetConfig { form, channels, width, levels, norm, activation, pool, .. } = *config;
        let refine_norm = config.refine_norm();
        let spec_norm = false;
        let parts = &mut Parts { norm, refine_norm, n_levels: levels, activation, pool, spec_norm, noise, device };
        let begin_conv = parts.conv(channels, width, 3, 1, true);
        let normalizer = parts.norm(width).with_epsilon(config.normalizer_eps);
        let end_conv = parts.conv(width, channels, 3, 1, true);
        // Only what is between them is normalised.
        parts.spec_norm = config.spec_norm;
        let stages = stages(form, width);
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
        let (mut res, mut refine) = (res.into_iter(), refine.into_iter());
        let (has_31, has_5) = (form == Form::Deepest, form != Form::Ncsn);
        let mut stage = || res.next().expect("every form has four stages");
        let (res1, res2, res3) = (stage(), stage(), stage());
        let res31 = has_31.then(&mut stage);
        let (res4, res5) = (stage(), has_5.then(&mut stage));
        let mut block = || refine.next().expect("a block for each stage");
        let (refine1, refine2) = (block(), block());
        let refine31 = has_31.then(&mut block);
        let (refine3, refine4, refine5) = (block(), block(), has_5.then(&mut block));
        Ok(Self {
            begin_conv,
            normalizer,
            end_conv,
            res1,
            res2,
            res3,
            res31,
            res4,
            res5,
            refine1,
            refine2,
            refine3,
            refine31,
            refine4,
            refine5,
            config: config.clone(),
        })
    }

    /// What this network was built from.
    pub fn config(&self) -> &RefineNetConfig {
        &self.config
    }

    /// The stages, from the image down.
    fn encoder(&self) -> impl Iterator<Item = &Vec<ResidualBlock>> {
        let Self { res1, res2, res3, res31, res4, res5, .. } = self;
        [Some(res1), Some(res2), Some(res3), res31.as_ref(), Some(res4), res5.as_ref()].into_iter().flatten()
    }

    /// The refine blocks, from the deepest stage up: `refine31` comes before `refine3`.
    fn decoder(&self) -> impl Iterator<Item = &RefineBlock> {
        let Self { refine1, refine2, refine3, refine31, refine4, refine5, .. } = self;
        let blocks = [Some(refine1), Some(refine2), refine31.as_ref(), Some(refine3), Some(refine4), refine5.as_ref()];
        blocks.into_iter().flatten()
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`, sides of [`Architecture::sizes`](super::Architecture::sizes); given the
    /// noise levels, which an unconditional network does not look at → F, as `x`. It is with respect to `x` as given: no
    /// chain-rule factor for the 2x − 1 inside.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let x = match self.config.input {
            InputRange::Unit => x * 2.0 + -1.0,
            InputRange::Logit => x,
        };
        // All that follows is made of kernels.
        let mut h = self.begin_conv.forward(x.linear(channels_last));
        let mut layers = Vec::new();
        for (i, blocks) in self.encoder().enumerate() {
            if i > 0 {
                let [next, layer] = h.twice();
                layers.push(layer);
                h = next;
            }
            h = blocks.iter().fold(h, |h, block| block.forward(h, given));
        }
        layers.push(h);
        let mut below = None;
        for (block, layer) in self.decoder().zip(layers.into_iter().rev()) {
            let [_, _, height, width] = layer.dims();
            let inputs = std::iter::once(layer).chain(below).collect();
            below = Some(block.forward(inputs, given, [height, width]));
        }
        let h = below.expect("a network has refine blocks");
        self.end_conv.forward(self.normalizer.forward_then(self.config.activation, h, given))
    }

    /// What its convolutions do for one image of `side` × `side` pixels.
    pub fn work(&self, side: usize) -> Work {
        let mut work = self.begin_conv.work(&mut { side }) + self.end_conv.work(&mut { side });
        let mut at = side;
        let mut sides = Vec::new();
        for blocks in self.encoder() {
            work += blocks.iter().map(|block| block.work(&mut at)).sum();
            sides.push(at);
        }
        let mut below = None;
        for (block, &side) in self.decoder().zip(sides.iter().rev()) {
            let inputs: Vec<usize> = std::iter::once(side).chain(below).collect();
            work += block.work(&inputs);
            below = Some(side);
        }
        work
    }
}

impl RefineNetConfig {
    /// Reads it off the shapes of its parameters.
    pub(super) fn from_shapes(
        shapes: &Shapes<'_>,
        Untold { input, activation, norm: untold, normalizer_eps, .. }: Untold,
    ) -> Result<Self> {
        let [width, channels, ..] = shapes.of::<4>("begin_conv.weight")?;
        let spec_norm = shapes.has("res1.0.conv1.weight_orig");
        let first = if spec_norm { "res1.0.conv1.weight_orig" } else { "res1.0.conv1.weight" };
        shapes.expect(first, &[width, width, 3, 3])?;
        let form = match ["res31", "res5"].map(|stage| shapes.has(&format!("{stage}.0.conv1.bias"))) {
            [true, _] => Form::Deepest,
            [false, true] => Form::Deeper,
            [false, false] => Form::Ncsn,
        };
        // Which of those that have the same entries.
        let same_entries = if untold == NormKind::NoNorm { untold } else { NormKind::InstanceNorm };
        let (levels, norm) = if shapes.has("normalizer.embed.weight") {
            let [n_levels, n_columns] = shapes.of::<2>("normalizer.embed.weight")?;
            let norm = match n_columns.checked_div(width) {
                Some(3) => NormKind::InstanceNormPlus,
                Some(1) => NormKind::VarianceNorm,
                _ if shapes.has("normalizer.bn.running_mean") => NormKind::BatchNorm,
                _ => same_entries,
            };
            let [n_columns, _] = norm.columns().map(|n| width.saturating_mul(n));
            shapes.expect("normalizer.embed.weight", &[n_levels, n_columns])?;
            (Some(n_levels), norm)
        } else {
            let norm = match ["gamma", "alpha"].map(|entry| shapes.has(&format!("normalizer.{entry}"))) {
                [true, _] => NormKind::InstanceNormPlus,
                [false, true] => NormKind::VarianceNorm,
                [false, false] if shapes.has("normalizer.running_mean") => NormKind::BatchNorm,
                [false, false] => same_entries,
            };
            let of_all = match norm {
                NormKind::BatchNorm => Some("normalizer.running_mean"),
                NormKind::InstanceNormPlus | NormKind::VarianceNorm => Some("normalizer.alpha"),
                NormKind::InstanceNorm | NormKind::NoNorm => None,
            };
            if let Some(name) = of_all {
                shapes.expect(name, &[width])?;
            }
            (None, norm)
        };
        // Only NCSN's refine blocks have norms; without entries, they would be those of NCSNv2.
        let has_norms =
            ["embed.weight", "alpha"].iter().any(|entry| shapes.has(&format!("refine1.crp.norms.0.{entry}")));
        let pool = if has_norms { Pool::Mean } else { Pool::Max };
        Ok(Self { form, channels, width, levels, norm, normalizer_eps, spec_norm, activation, pool, input })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::params;
    use crate::noise::Noise;

    /// The table of `RefineNetConfig`s of the published sizes: parameters, and GFLOP of a forward pass.
    #[test]
    fn the_published_networks_have_as_many_parameters_and_do_as_much_work_as_the_table_says() {
        let deeper = RefineNetConfig { form: Form::Deeper, ..RefineNetConfig::ncsn(3, 128, 10) };
        let v2 = |form| RefineNetConfig::ncsnv2(form, 3, 128);
        for (config, n_parameters, work) in [
            (v2(Form::Ncsn), 29_694_083, vec![(32, 19.8), (64, 79.1)]),
            (v2(Form::Deeper), 83_445_379, vec![(96, 169.9), (128, 302.0)]),
            (v2(Form::Deepest), 94_132_611, vec![(256, 839.0)]),
            (RefineNetConfig::ncsn(3, 128, 10), 30_117_635, vec![(32, 19.8)]),
            (deeper, 84_183_811, vec![(64, 75.5)]),
        ] {
            let net =
                RefineNet::new(&config, &mut Noise::new(0).stream("init", 0), &Device::flex()).expect("a network");
            assert_eq!(params::count(&net), n_parameters, "{config:?}");
            for (side, gflop) in work {
                let found = 2.0 * net.work(side).multiply_adds as f64 / 1e9;
                assert!((found - gflop).abs() < 0.051, "{config:?} at {side}: {found} GFLOP, expected {gflop}");
            }
        }
    }
}
