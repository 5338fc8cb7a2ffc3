//! The other networks of the sliced-score-matching experiments: ResNetScore, two U-nets, and three that end in linear layers.
//!
//! Their parameters are published under their places in sequences of layers. So layers without parameters take a place here
//! too. All are unconditional, with ELU everywhere.

use burn::module::Module;
use burn::tensor::ops::PadMode;
use burn::tensor::{Device, Tensor};

use super::norm::{EPSILON, standardised};
use super::recognise::Shapes;
use super::{
    Conv2d, ConvTranspose2d, Dual, GroupNorm, Kernel, LayerNorm, Linear, MLP_WIDTH, ScoreNet, ScoreNetConfig, Work, elu,
};
use crate::error::{Error, Result};
use crate::noise::Stream;

/// A layer on images.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has a few dozens of them")]
pub enum Layer {
    /// A convolution.
    Conv(Conv2d),
    /// A transposed convolution.
    ConvTranspose(ConvTranspose2d),
    /// Group normalisation.
    GroupNorm(GroupNorm),
    /// A layer without parameters.
    Fixed(Fixed),
    /// x + f(x)
    Residual(Residual),
    /// x beside f(x), along the channels.
    Level(Level),
}

/// A layer without parameters.
#[derive(Module, Debug)]
pub struct Fixed {
    #[module(skip)]
    operation: Operation,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Elu,
    /// Mean 0 and variance 1 over each image's pixels, for each channel.
    InstanceNorm,
    /// Mirrors this many pixels at each border, which is not repeated itself.
    Reflect(usize),
}

/// x + norm(conv(elu(norm(conv(x))))), 3×3, mirrored at the borders.
#[derive(Module, Debug)]
pub struct Residual {
    conv_block: Vec<Layer>,
}

/// A level of a U-net with all that lies below it.
#[derive(Module, Debug)]
pub struct Level {
    model: Vec<Layer>,
}

impl Layer {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::ConvTranspose(conv) => conv.forward(x),
            Self::GroupNorm(norm) => norm.forward(x),
            Self::Fixed(fixed) => fixed.operation.forward(x),
            Self::Residual(block) => x.clone() + sequence(&block.conv_block, x),
            Self::Level(level) => {
                let inner = sequence(&level.model, x.clone());
                let cat = |a, b| Tensor::cat(vec![a, b], 1);
                Dual { value: cat(x.value, inner.value), tangent: x.tangent.zip(inner.tangent).map(|(a, b)| cat(a, b)) }
            }
        }
    }

    /// What its convolutions do for one image; `side` is that of the input before, and of the output after.
    fn work(&self, side: &mut usize) -> Work {
        match self {
            Self::Conv(conv) => conv.work(side),
            Self::ConvTranspose(conv) => conv.work(side),
            Self::GroupNorm(_) => Work::default(),
            Self::Fixed(Fixed { operation: Operation::Reflect(n) }) => {
                *side += 2 * n;
                Work::default()
            }
            Self::Fixed(_) => Work::default(),
            Self::Residual(block) => work_of(&block.conv_block, side),
            Self::Level(level) => work_of(&level.model, side),
        }
    }
}

impl Operation {
    fn forward(self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Elu => elu(x),
            Self::InstanceNorm => {
                let [n, c, h, w] = x.dims();
                standardised(x.reshape([n, c, h * w]), 2, EPSILON).reshape([n, c, h, w])
            }
            Self::Reflect(n) => x.linear(|x| x.pad((n, n, n, n), PadMode::Reflect)),
        }
    }
}

fn sequence(layers: &[Layer], x: Dual<4>) -> Dual<4> {
    layers.iter().fold(x, |h, layer| layer.forward(h))
}

fn work_of(layers: &[Layer], side: &mut usize) -> Work {
    layers.iter().map(|layer| layer.work(side)).sum()
}

const ELU: Layer = Layer::Fixed(Fixed { operation: Operation::Elu });
const NORM: Layer = Layer::Fixed(Fixed { operation: Operation::InstanceNorm });

fn reflect(n: usize) -> Layer {
    Layer::Fixed(Fixed { operation: Operation::Reflect(n) })
}

const fn kernel(size: usize, stride: usize, padding: usize) -> Kernel {
    Kernel { size, stride, padding }
}

/// Makes layers with fresh weights.
struct Maker<'a> {
    noise: &'a mut Stream,
    device: &'a Device,
}

impl Maker<'_> {
    fn conv(&mut self, n_in: usize, n_out: usize, kernel: Kernel) -> Layer {
        Layer::Conv(Conv2d::strided(n_in, n_out, kernel, self.noise, self.device))
    }

    fn conv_transpose(&mut self, n_in: usize, n_out: usize, kernel: Kernel) -> Layer {
        Layer::ConvTranspose(ConvTranspose2d::general(n_in, n_out, kernel, self.noise, self.device))
    }

    /// A convolution that halves the size.
    fn down(&mut self, n_in: usize, n_out: usize) -> Layer {
        self.conv(n_in, n_out, kernel(4, 2, 1))
    }

    /// One that doubles it.
    fn up(&mut self, n_in: usize, n_out: usize) -> Layer {
        self.conv_transpose(n_in, n_out, kernel(4, 2, 1))
    }

    fn residual(&mut self, n: usize) -> Layer {
        let mut conv = || self.conv(n, n, kernel(3, 1, 0));
        let conv_block = vec![reflect(1), conv(), NORM, ELU, reflect(1), conv(), NORM];
        Layer::Residual(Residual { conv_block })
    }
}

/// ResNetScore: six residual blocks at half the size.
#[derive(Module, Debug)]
pub struct ResNetScore {
    model: Vec<Layer>,
}

impl ResNetScore {
    /// Of images with `channels`; the first stage has twice `ngf` channels.
    pub fn new(channels: usize, ngf: usize, noise: &mut Stream, device: &Device) -> Self {
        let (make, w) = (&mut Maker { noise, device }, 2 * ngf);
        let mut model = vec![reflect(3), make.conv(channels, w, kernel(7, 1, 0)), NORM, ELU];
        model.extend([make.conv(w, 2 * w, kernel(3, 2, 1)), NORM, ELU]);
        model.extend((0..6).map(|_| make.residual(2 * w)));
        let up = ConvTranspose2d::new(2 * w, w, 2, make.noise, device);
        model.extend([Layer::ConvTranspose(up), NORM, ELU, reflect(3), make.conv(w, channels, kernel(7, 1, 0))]);
        Self { model }
    }

    /// # Shapes
    /// `[batch, channels, height, width]` in [0, 1], sides even and at least 4 → the score, of the same shape.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        sequence(&self.model, x * 2.0 + -1.0)
    }

    /// What its convolutions do for one image of `side` × `side` pixels.
    pub fn work(&self, mut side: usize) -> Work {
        work_of(&self.model, &mut side)
    }
}

/// UNetScore, which halves an image down to one pixel, and UNetResScore, which halves it four times and has residual blocks.
#[derive(Module, Debug)]
pub struct UNetScore {
    model: Level,
}

impl UNetScore {
    /// UNetScore of images with `channels` and sides of `2^n_halvings`; the first level has twice `ngf` channels.
    pub fn new(channels: usize, ngf: usize, n_halvings: usize, noise: &mut Stream, device: &Device) -> Self {
        let (make, w) = (&mut Maker { noise, device }, 2 * ngf);
        // Channels of the levels, the outermost first.
        let widths: Vec<usize> = (0..n_halvings).map(|level| w << level.min(2)).collect();
        let first = make.down(channels, w);
        let level = make.unet_level(&widths);
        Self { model: Level { model: vec![first, level, ELU, make.up(2 * w, channels)] } }
    }

    /// UNetResScore.
    pub fn with_residual_blocks(channels: usize, ngf: usize, noise: &mut Stream, device: &Device) -> Self {
        let (make, w) = (&mut Maker { noise, device }, 2 * ngf);
        let mut model = vec![make.down(channels, w), ELU, make.residual(w), ELU];
        model.push(make.unetres_level(&[w, 2 * w, 4 * w, 4 * w]));
        model.extend([ELU, make.up(2 * w, channels), ELU, make.residual(channels)]);
        Self { model: Level { model } }
    }

    /// # Shapes
    /// `[batch, channels, height, width]` in [0, 1] → the score, of the same shape.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        sequence(&self.model.model, x * 2.0 + -1.0)
    }

    /// What its convolutions do for one image of `side` × `side` pixels.
    pub fn work(&self, mut side: usize) -> Work {
        work_of(&self.model.model, &mut side)
    }
}

impl Maker<'_> {
    /// The level between the first two of `widths`, with those below.
    fn unet_level(&mut self, widths: &[usize]) -> Layer {
        let (a, b) = (widths[0], widths[1]);
        let mut model = vec![ELU, self.down(a, b)];
        match &widths[1..] {
            [_] => model.extend([ELU, self.up(b, a), NORM]),
            below => model.extend([NORM, self.unet_level(below), ELU, self.up(2 * b, a), NORM]),
        }
        Layer::Level(Level { model })
    }

    fn unetres_level(&mut self, widths: &[usize]) -> Layer {
        let (a, b) = (widths[0], widths[1]);
        let mut model = vec![ELU, self.down(a, b)];
        match &widths[1..] {
            [_] => model.extend([ELU, self.residual(b), ELU, self.up(b, a)]),
            below => {
                model.extend([NORM, ELU, self.residual(b), self.unetres_level(below), ELU, self.up(2 * b, a)]);
            }
        }
        model.extend([NORM, ELU, self.residual(a)]);
        Layer::Level(Level { model })
    }
}

/// A layer on the rows of a matrix.
#[derive(Module, Debug)]
pub enum DenseLayer {
    /// A linear layer.
    Linear(Linear),
    /// Layer normalisation.
    LayerNorm(LayerNorm),
    /// A layer without parameters.
    Fixed(Fixed),
}

/// Score, SmallScore and MLPScore: linear layers on all pixels, in the first two behind an encoder and a decoder.
#[derive(Module, Debug)]
pub struct DenseScore {
    u_net: Vec<Layer>,
    fc: Vec<DenseLayer>,
    main: Vec<DenseLayer>,
}

impl DenseScore {
    /// Score, for 28×28 pixels; the first stage has `nef` channels, a multiple of 4.
    pub fn score(channels: usize, nef: usize, noise: &mut Stream, device: &Device) -> Self {
        let stages = [
            ([channels, nef], kernel(4, 2, 1)),
            ([nef, 2 * nef], kernel(4, 2, 1)),
            ([2 * nef, 4 * nef], kernel(5, 1, 0)),
        ];
        Self::with_u_net(&stages, [channels * 28 * 28, 1024], noise, device)
    }

    /// SmallScore, for 10×10 pixels; the first stage has four times `nef` channels.
    pub fn small_score(channels: usize, nef: usize, noise: &mut Stream, device: &Device) -> Self {
        let stages = [([channels, 4 * nef], kernel(4, 2, 1)), ([4 * nef, 8 * nef], kernel(3, 1, 1))];
        Self::with_u_net(&stages, [channels * 10 * 10, 256], noise, device)
    }

    /// MLPScore, for 10×10 pixels.
    pub fn mlp_score(channels: usize, noise: &mut Stream, device: &Device) -> Self {
        let n_pixels = channels * 10 * 10;
        let mut main = Vec::new();
        for (n_in, n_out) in [(n_pixels, 1024), (1024, 1024), (1024, 512), (512, n_pixels)] {
            let linear = DenseLayer::Linear(Linear::new(n_in, n_out, noise, device));
            main.extend([linear, DenseLayer::LayerNorm(LayerNorm::new(n_out, device)), DENSE_ELU]);
        }
        main.pop();
        Self { u_net: vec![], fc: vec![], main }
    }

    /// The encoder's `stages` (channels and kernel), the same backwards, and two linear layers.
    fn with_u_net(
        stages: &[([usize; 2], Kernel)],
        [n_pixels, n_hidden]: [usize; 2],
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let make = &mut Maker { noise, device };
        let norm = |n| Layer::GroupNorm(GroupNorm::new(n, 4, device));
        let mut u_net = Vec::new();
        for &([n_in, n_out], kind) in stages {
            u_net.extend([make.conv(n_in, n_out, kind), norm(n_out), ELU]);
        }
        for (i, &([n_in, n_out], kind)) in stages.iter().enumerate().rev() {
            u_net.push(make.conv_transpose(n_out, n_in, kind));
            if i > 0 {
                u_net.push(norm(n_in));
            }
            u_net.push(ELU);
        }
        let mut linear = |n_in, n_out| DenseLayer::Linear(Linear::new(n_in, n_out, make.noise, device));
        let norm = DenseLayer::LayerNorm(LayerNorm::new(n_hidden, device));
        let fc = vec![linear(n_pixels, n_hidden), norm, DENSE_ELU, linear(n_hidden, n_pixels)];
        Self { u_net, fc, main: vec![] }
    }

    /// # Shapes
    /// `[batch, channels, height, width]` in [0, 1] → the score, of the same shape.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let [n, c, h, w] = x.dims();
        let rows = sequence(&self.u_net, x).reshape([n, c * h * w]);
        let rows = self.fc.iter().chain(&self.main).fold(rows, |x, layer| match layer {
            DenseLayer::Linear(linear) => linear.forward(x),
            DenseLayer::LayerNorm(norm) => norm.forward(x),
            DenseLayer::Fixed(_) => elu(x),
        });
        rows.reshape([n, c, h, w])
    }

    /// What its convolutions and linear layers do for one image of `side` × `side` pixels.
    pub fn work(&self, mut side: usize) -> Work {
        let linear = self.fc.iter().chain(&self.main).map(|layer| match layer {
            DenseLayer::Linear(linear) => linear.work(),
            DenseLayer::LayerNorm(_) | DenseLayer::Fixed(_) => Work::default(),
        });
        linear.sum::<Work>() + work_of(&self.u_net, &mut side)
    }
}

/// The only one without parameters among the linear layers.
const DENSE_ELU: DenseLayer = DenseLayer::Fixed(Fixed { operation: Operation::Elu });

impl ScoreNetConfig {
    /// Reads it off the shapes of its parameters; `None` for other networks.
    pub(super) fn from_shapes(shapes: &Shapes<'_>) -> Result<Option<Self>> {
        let below = |level: &str| shapes.has(&format!("{level}.model.1.weight"));
        // The name tells the network; the first weight's output features are so many times the width.
        let (net, name, factor) = if shapes.has("deconvs.5.weight") {
            (ScoreNet::ResScore, "convs.0.weight", 1)
        } else if shapes.has("model.17.weight") {
            (ScoreNet::ResNetScore, "model.1.weight", 2)
        } else if shapes.has("model.model.8.conv_block.5.weight") {
            (ScoreNet::UNetResScore, "model.model.0.weight", 2)
        } else if below("model.model.1") {
            (ScoreNet::UNetScore, "model.model.0.weight", 2)
        } else if shapes.has("u_net.15.weight") {
            (ScoreNet::Score, "u_net.0.weight", 1)
        } else if shapes.has("u_net.9.weight") {
            (ScoreNet::SmallScore, "u_net.0.weight", 4)
        } else if shapes.has("main.9.weight") {
            return match shapes.of("main.0.weight") {
                Ok([_, n_pixels]) if n_pixels.is_multiple_of(100) => {
                    let channels = n_pixels / 100;
                    Ok(Some(Self { net: ScoreNet::MlpScore, channels, width: MLP_WIDTH, size: 10 }))
                }
                _ => Err(Error::unexpected("main.0.weight of another network", "MLPScore's")),
            };
        } else {
            return Ok(None);
        };
        let [n_out, n_in, ..] = match shapes.of::<4>(name) {
            Ok(dims) if dims[0].is_multiple_of(factor) => dims,
            _ => {
                return Err(Error::unexpected(
                    format!("{name} of an unknown network"),
                    "that of a network of the table",
                ));
            }
        };
        let (width, channels) = (n_out / factor, if net == ScoreNet::ResScore { 3 } else { n_in });
        let deep = net == ScoreNet::UNetScore && below("model.model.1.model.3.model.3.model.3");
        let mut config = Self { net, channels, width, size: 32 };
        if !deep {
            config.size = config.architecture().sizes().smallest;
        }
        let times = |n: usize| width.saturating_mul(n);
        let pixels = |side: usize| channels.saturating_mul(side * side);
        match net {
            ScoreNet::ResScore => shapes.expect("convs.5.main.0.weight", &[times(4), times(4), 3, 3])?,
            ScoreNet::ResNetScore => shapes.expect("model.7.conv_block.1.weight", &[times(4), times(4), 3, 3])?,
            ScoreNet::UNetScore => {
                shapes.expect("model.model.1.model.3.model.5.weight", &[times(16), times(4), 4, 4])?;
            }
            ScoreNet::UNetResScore => {
                shapes.expect("model.model.4.model.5.model.7.weight", &[times(16), times(4), 4, 4])?;
            }
            ScoreNet::Score => {
                shapes.expect("fc.0.weight", &[1024, pixels(28)])?;
                shapes.expect("u_net.6.weight", &[times(4), times(2), 5, 5])?;
            }
            ScoreNet::SmallScore => {
                shapes.expect("fc.0.weight", &[256, pixels(10)])?;
                shapes.expect("u_net.3.weight", &[times(8), times(4), 3, 3])?;
            }
            ScoreNet::MlpScore => {}
        }
        Ok(Some(config))
    }
}
