//! U-Nets told the time: the network of DDPM (Ho et al. 2020), and NCSN++ and DDPM++ (Song et al. 2021, appendix H).
//!
//! What such a network does is a list of [`Step`]s, which follows from its configuration. Parts are published by their number in it,
//! those steps left out that have no part.

mod blocks;
mod config;
mod embedding;
mod resample;

pub use blocks::{Attention, BlockForm, Combination, Combine, Groups, Nin, Style, TimeBlock};
pub use config::{Embedding, Progressive, UNetConfig};
pub use embedding::{FourierFeatures, positional};
pub use resample::{Resampling, Scale, Taps};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn_kernels::ops::pixels::channels_last;

use super::{Condition, Conv2d, Dual, GroupNorm, InputRange, Linear, Work};
use crate::error::Result;
use crate::noise::Stream;
use blocks::SAME;

/// F(x, label): an image to an image, given a label of its time.
#[derive(Module, Debug)]
pub struct UNet {
    all_modules: Vec<Part>,
    #[module(skip)]
    steps: Vec<Step>,
    #[module(skip)]
    config: UNetConfig,
}

/// A part of a network that has a number.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has a few dozens of them")]
pub enum Part {
    /// Features of the time.
    Fourier(FourierFeatures),
    /// A layer of what is made of these.
    Linear(Linear),
    /// A convolution.
    Conv(Conv2d),
    /// A norm.
    Norm(GroupNorm),
    /// A residual block.
    Block(TimeBlock),
    /// Attention.
    Attention(Attention),
    /// A change of size.
    Resampling(Resampling),
    /// What joins the image to features.
    Combine(Combine),
}

/// What a network does next. Those with channels have a part, from so many to so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Frozen Fourier features of the label.
    Fourier,
    /// A layer of the features of the time.
    Time([usize; 2]),
    /// A 3×3 convolution of h.
    Conv([usize; 2]),
    /// Keeps h for the way up.
    Save,
    /// A residual block of h, which may change its size.
    Block([usize; 2], Option<Scale>),
    /// A residual block of h together with what was kept last.
    BlockWithSaved([usize; 2]),
    /// Attention.
    Attention(usize),
    /// A change of size by a module.
    Resample([usize; 2], Scale),
    /// Half the size for the image, which is then joined to h.
    JoinImage([usize; 2]),
    /// The image through a convolution to half the size; h is the sum of both, and the next image.
    AddImage([usize; 2]),
    /// What h says of the output: norm, activation, convolution. It is added to what smaller sizes said.
    Output([usize; 2]),
    /// What smaller sizes said through a convolution to twice the size; h is the sum of both, and what this size says.
    AddOutput([usize; 2]),
    /// The end: norm, activation, convolution of h.
    End([usize; 2]),
}

impl Step {
    /// How many parts it has.
    pub(super) fn n_parts(self) -> usize {
        match self {
            Self::Save => 0,
            Self::Output(_) | Self::End(_) => 2,
            _ => 1,
        }
    }

    /// How many channels its norms have.
    pub(super) fn normalised(self) -> Vec<usize> {
        match self {
            Self::Block([n_in, n_out], _) | Self::BlockWithSaved([n_in, n_out]) => vec![n_in, n_out],
            Self::Attention(n) | Self::Output([n, _]) | Self::End([n, _]) => vec![n],
            _ => Vec::new(),
        }
    }

    /// The name and shape of a tensor of each of its parts; no name where a part may have none.
    pub(super) fn shapes(self, config: &UNetConfig) -> Vec<(Option<&'static str>, Vec<usize>)> {
        let conv = |name, [n_in, n_out]: [usize; 2], side| (Some(name), vec![n_out, n_in, side, side]);
        let of_resampling = match config.style.taps {
            Taps::Box => "Conv_0.weight",
            Taps::Fir(_) => "Conv2d_0.weight",
        };
        match self {
            Self::Save => Vec::new(),
            Self::Fourier => vec![(Some("W"), vec![config.width])],
            Self::Time([n_in, n_out]) => vec![(Some("weight"), vec![n_out, n_in])],
            Self::Conv(channels) => vec![conv("weight", channels, 3)],
            Self::Block(channels, _) | Self::BlockWithSaved(channels) => vec![conv("Conv_0.weight", channels, 3)],
            Self::Attention(n) => vec![(Some("NIN_0.W"), vec![n, n])],
            Self::Resample(channels, _) if config.resample_conv => vec![conv(of_resampling, channels, 3)],
            Self::Resample(..) => vec![(None, Vec::new())],
            Self::JoinImage(channels) => vec![conv("Conv_0.weight", channels, 1)],
            Self::AddImage(channels) | Self::AddOutput(channels) => vec![conv(of_resampling, channels, 3)],
            Self::Output([n_in, n_out]) | Self::End([n_in, n_out]) => {
                vec![(Some("weight"), vec![n_in]), conv("weight", [n_in, n_out], 3)]
            }
        }
    }

    /// Numbers that a step of training keeps of it, for each pixel of its output. Measured, like [`Memory`]; what a
    /// block changes in size it keeps at its input's size too.
    fn n_kept(self) -> f64 {
        let block = |[n_in, n_out]: [usize; 2], of_input: f64| of_input * n_in as f64 + 4.0 * n_out as f64;
        let both = |[n_in, n_out]: [usize; 2]| 2.0 * (n_in + n_out) as f64;
        match self {
            Self::Fourier | Self::Time(_) | Self::Save => 0.0,
            Self::Block(channels, None) => block(channels, 1.5),
            Self::Block(channels, Some(Scale::Down)) => block(channels, 3.0),
            Self::Block(channels, Some(Scale::Up)) => block(channels, 0.75),
            Self::BlockWithSaved(channels) => block(channels, 2.5),
            Self::Attention(n) => 7.0 * n as f64,
            Self::Conv([_, n]) | Self::Resample([_, n], _) | Self::JoinImage([_, n]) => 2.0 * n as f64,
            Self::AddImage(channels) | Self::AddOutput(channels) | Self::Output(channels) | Self::End(channels) => {
                both(channels)
            }
        }
    }

    /// Numbers that an evaluation of it has at once, for each pixel.
    fn n_at_once(self) -> usize {
        match self {
            Self::Block([n_in, n_out], _) | Self::BlockWithSaved([n_in, n_out]) => 3 * n_in + 5 * n_out,
            _ => 0,
        }
    }

    /// Its parts, with fresh weights.
    fn parts(self, config: &UNetConfig, noise: &mut Stream, device: &Device) -> Vec<Part> {
        let style = &config.style;
        let norm = |n| Part::Norm(style.norm(n, device));
        let mut conv = |channels, scale| Part::Conv(Conv2d::fan_average(channels, SAME, scale, noise, device));
        match self {
            Self::Save => Vec::new(),
            Self::Conv(channels) => vec![conv(channels, 1.0)],
            // What leads to further sizes is no end.
            Self::Output([n_in, n_out]) if config.progressive == Progressive::Residual => {
                vec![norm(n_in), conv([n_in, n_out], 1.0)]
            }
            Self::Output([n_in, n_out]) | Self::End([n_in, n_out]) => {
                vec![norm(n_in), conv([n_in, n_out], style.init_scale)]
            }
            Self::Fourier => {
                let Embedding::Fourier { scale } = config.embedding else { unreachable!("it has no other features") };
                vec![Part::Fourier(FourierFeatures::new(config.width, scale, noise, device))]
            }
            Self::Time([n_in, n_out]) => vec![Part::Linear(Linear::fan_average(n_in, n_out, noise, device))],
            Self::Block(channels, scale) => {
                vec![Part::Block(TimeBlock::new(
                    channels,
                    config.n_time(),
                    (config.block, scale),
                    style,
                    noise,
                    device,
                ))]
            }
            Self::BlockWithSaved(channels) => {
                vec![Part::Block(TimeBlock::new(channels, config.n_time(), (config.block, None), style, noise, device))]
            }
            Self::Attention(n) => vec![Part::Attention(Attention::new(n, style, noise, device))],
            Self::Resample(_, scale) if !config.resample_conv => {
                vec![Part::Resampling(Resampling::plain(scale, &style.taps))]
            }
            Self::Resample(channels, scale) => {
                vec![Part::Resampling(Resampling::convolving(channels, scale, &style.taps, noise, device))]
            }
            Self::AddImage(channels) => {
                vec![Part::Resampling(Resampling::convolving(channels, Scale::Down, &style.taps, noise, device))]
            }
            Self::AddOutput(channels) => {
                vec![Part::Resampling(Resampling::convolving(channels, Scale::Up, &style.taps, noise, device))]
            }
            Self::JoinImage(channels) => vec![Part::Combine(Combine::new(channels, config.combination, noise, device))],
        }
    }
}

impl UNet {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`UNetConfig::check`].
    pub fn new(config: &UNetConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let steps = config.steps();
        let all_modules = steps.iter().flat_map(|step| step.parts(config, noise, device)).collect();
        Ok(Self { all_modules, steps, config: config.clone() })
    }

    /// What this network was built from.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The steps, each with its parts.
    fn steps(&self) -> impl Iterator<Item = (Step, &[Part])> {
        let mut rest = &self.all_modules[..];
        self.steps.iter().map(move |&step| {
            let (parts, others) = rest.split_at(step.n_parts());
            rest = others;
            (step, parts)
        })
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`, sides multiples of [`UNetConfig::multiple`]; given the labels → F, as `x`.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let Style { activation, ref taps, .. } = self.config.style;
        let x = match self.config.input {
            InputRange::Unit => x * 2.0 + -1.0,
            InputRange::Logit => x,
        };
        // All that follows is made of kernels.
        let mut h = x.linear(channels_last);
        // The features of the time; Fourier's are those of a part.
        let is_positional = self.config.embedding == Embedding::Positional;
        let label = given.label.clone().cast(h.value.dtype());
        let mut time = is_positional.then(|| positional(label.clone(), self.config.width).cast(h.value.dtype()));
        // The input at the present size, what sizes up to it said of the output, and what is kept for the way up.
        let (mut image, mut output, mut saved) = (h.clone(), None, Vec::new());
        for (step, parts) in self.steps() {
            match (step, parts) {
                (Step::Fourier, [Part::Fourier(features)]) => time = Some(features.forward(label.clone())),
                (Step::Time(_), [Part::Linear(linear)]) => {
                    let features = linear.forward_each(time.expect("features of the label").into());
                    time = Some(activation.forward(features).value);
                }
                (Step::Save, []) => {
                    let [first, again] = h.twice();
                    saved.push(again);
                    h = first;
                }
                (Step::Conv(_), [Part::Conv(conv)]) => h = conv.forward(h),
                (Step::Block(..), [Part::Block(block)]) => h = block.forward(h, self.told(&time), given),
                (Step::BlockWithSaved(_), [Part::Block(block)]) => {
                    let joined = h.join(saved.pop().expect("one for each block on the way up"));
                    h = block.forward(joined, self.told(&time), given);
                }
                (Step::Attention(_), [Part::Attention(attention)]) => h = attention.forward(h),
                (Step::Resample(..), [Part::Resampling(resampling)]) => h = resampling.forward(h),
                (Step::JoinImage(_), [Part::Combine(combine)]) => {
                    image = taps.resample(Scale::Down, image);
                    h = combine.forward(image.clone(), h);
                }
                (Step::AddImage(_), [Part::Resampling(resampling)]) => {
                    [h, image] = self.config.style.sum(resampling.forward(image), h).twice();
                }
                (Step::Output(_), [Part::Norm(norm), Part::Conv(conv)]) => {
                    let said;
                    (said, h) = norm.forward_keeping(Some(activation), h);
                    output = Some(match output {
                        None => conv.forward(said),
                        Some(output) => conv.forward_plus(said, taps.resample(Scale::Up, output)),
                    });
                }
                (Step::AddOutput(_), [Part::Resampling(resampling)]) => {
                    let grown = resampling.forward(output.expect("what the smaller size said"));
                    let [first, again] = self.config.style.sum(grown, h).twice();
                    (h, output) = (first, Some(again));
                }
                (Step::End(_), [Part::Norm(norm), Part::Conv(conv)]) => {
                    output = Some(conv.forward(norm.forward_then(activation, h.clone())));
                }
                (step, parts) => unreachable!("{step:?} with {} parts of another kind", parts.len()),
            }
        }
        output.expect("the last step gives it")
    }

    /// The features of the time for blocks that are told it.
    fn told<'a>(&self, time: &'a Option<Tensor<2>>) -> Option<&'a Tensor<2>> {
        time.as_ref().filter(|_| self.config.conditional)
    }

    /// What its convolutions and attention do for one image of `side` × `side` pixels.
    pub fn work(&self, side: usize) -> Work {
        let (mut work, mut at) = (Work::default(), side);
        for (step, parts) in self.steps() {
            for part in parts {
                work += match part {
                    Part::Fourier(_) | Part::Norm(_) => Work::default(),
                    Part::Linear(linear) => linear.work(),
                    Part::Conv(conv) => conv.work(&mut { at }),
                    Part::Block(block) => block.work(&mut at),
                    Part::Attention(attention) => attention.work(at),
                    Part::Combine(combine) => combine.work(at),
                    // These come from another size to the present one.
                    Part::Resampling(resampling) => match step {
                        Step::AddImage(_) => resampling.work(&mut { 2 * at }),
                        Step::AddOutput(_) => resampling.work(&mut { at / 2 }),
                        _ => resampling.work(&mut at),
                    },
                };
            }
        }
        work
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::params;
    use crate::noise::Noise;

    #[test]
    fn an_image_does_not_depend_on_its_companions() {
        let device = Device::flex();
        let mut stream = Noise::new(4).stream("test", 0);
        for config in [UNetConfig::ncsnpp(3, 8, 16), UNetConfig::ddpmpp(3, 8, 16), UNetConfig::ddpm(3, 32, 16)] {
            let net = UNet::new(&UNetConfig { n_blocks: 1, ..config }, &mut stream, &device).expect("a network");
            // Weights that all have influence, those at the ends of blocks too.
            let net = params::from_host(net, |_, shape| {
                let mut values = vec![0.0; shape.iter().product()];
                stream.normal(&mut values);
                let scale = 1.0 / (shape.iter().skip(1).product::<usize>() as f32).sqrt();
                Ok(values.into_iter().map(|v| v * scale).collect())
            })
            .expect("as many");
            let x = crate::noise::tensor(
                crate::noise::Distribution::Normal,
                &mut [stream.clone()],
                [9, 3, 16, 16],
                &device,
            );
            let labels: Tensor<1> = Tensor::from_floats([0.3, 7.0, 20.0, 1.0, 0.1, 50.0, 3.0, 2.0, 9.0], &device);
            let out = |first: usize, n: usize| -> Vec<f32> {
                let rows = first..first + n;
                let given = Condition::new(labels.clone().slice([rows.clone()]));
                let x: Tensor<4> = x.clone().slice([rows, 0..3, 0..16, 0..16]);
                net.forward(x.into(), &given).value.try_into_vec_as().expect("f32")
            };
            let all = out(0, 9);
            for (first, n) in [(0, 1), (8, 1), (2, 2), (0, 5), (1, 8)] {
                assert!(out(first, n) == all[first * 768..(first + n) * 768], "{n} images from {first}");
            }
        }
    }
}
