//! Wide residual networks (Zagoruyko & Komodakis 2016) that are told the noise: the classifier by whose gradients samples of a class are
//! drawn (Song et al. 2021, appendix I.1).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn_kernels::ops::pixels::channels_last;

use super::recognise::Shapes;
use super::{
    Activation, Condition, Conv2d, Dual, FourierFeatures, GroupNorm, Groups, Kernel, Linear, Memory, Scale, Taps, Work,
};
use crate::device::upload;
use crate::error::{Error, Result};
use crate::noise::Stream;

/// Channels of the first convolution, and, times the width, of the first group of blocks; each further group has twice as many.
const N_FIRST: usize = 16;
/// Groups of blocks. Each but the first halves the size.
const N_GROUPS: usize = 3;
/// Frequencies of the features of ln σ, their standard deviation, and the features that are made of them.
const N_FREQUENCIES: usize = 128;
const FREQUENCY_SCALE: f64 = 16.0;
const N_TIME: usize = 512;
/// Means and standard deviations of the pixels of CIFAR-10, in [0, 1], which the published classifier takes away from channels, and
/// what stands for them where there are not three. Of images of one channel they change nothing: these are standardised.
const PIXELS: [[f64; 2]; 3] = [[0.49139968, 0.24703223], [0.48215841, 0.24348513], [0.44653091, 0.26158784]];
const ANY_PIXELS: [f64; 2] = [0.5, 0.25];

/// What a [`WideResNet`] is built from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WideResNetConfig {
    /// Channels of the images.
    pub channels: usize,
    /// Convolutions on the way through, without those around: 6·n + 4 for n blocks in each group; 28 for CIFAR-10.
    pub depth: usize,
    /// Channels of the first group of blocks, 16 times the widening factor: 160 for CIFAR-10. Each further group has twice as many.
    pub width: usize,
    /// Classes; 10 for CIFAR-10.
    pub n_classes: usize,
}

impl WideResNetConfig {
    /// WideResNet-28-10 for CIFAR-10.
    pub fn cifar10() -> Self {
        Self { channels: 3, depth: 28, width: 160, n_classes: 10 }
    }

    /// Blocks of each group.
    fn n_blocks(&self) -> usize {
        self.depth.saturating_sub(4) / 6
    }

    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On a depth other than 10, 16, 22, …; no channels or classes; a width that does not go into groups of channels.
    pub fn check(&self) -> Result<()> {
        let Self { channels, depth, width, n_classes } = self;
        if *depth < 10 || depth % 6 != 4 {
            return Err(Error::value("the depth of a WideResNet", depth, "10, 16, 22, … (6·n + 4)"));
        }
        for (what, n) in [("channels of a WideResNet's images", channels), ("classes", n_classes)] {
            if *n == 0 {
                return Err(Error::value(format!("the number of {what}"), n, "at least 1"));
            }
        }
        // Groups of four channels, or 32 groups.
        if *width == 0 || !width.is_multiple_of(N_FIRST) || *width > 128 && !width.is_multiple_of(32) {
            return Err(Error::value("the width of a WideResNet", width, "a multiple of 16, above 128 one of 32"));
        }
        Ok(())
    }

    /// Reads the configuration off the shapes of a network's parameters; `None` if it is another network.
    ///
    /// # Errors
    /// When a parameter that tells it is missing or has an impossible shape.
    pub(super) fn from_shapes(shapes: &Shapes<'_>) -> Result<Option<Self>> {
        if !shapes.has("blocks.0.norm_0.weight") {
            return Ok(None);
        }
        let [_, channels, ..] = shapes.of::<4>("first.weight")?;
        let [width, ..] = shapes.of::<4>("blocks.0.conv_0.weight")?;
        let [n_classes, _] = shapes.of::<2>("head.weight")?;
        let n_blocks = (0..).take_while(|block| shapes.has(&format!("blocks.{block}.norm_0.weight"))).count();
        let config = Self { channels, depth: n_blocks / N_GROUPS * 6 + 4, width, n_classes };
        config.check()?;
        // The largest of each block, so that what a file holds bounds what its network will take.
        for (block, [_, n_out]) in config.blocks().enumerate() {
            shapes.expect(&format!("blocks.{block}.conv_1.weight"), &[n_out, n_out, 3, 3])?;
        }
        Ok(Some(config))
    }

    /// What it keeps of an image.
    pub(super) fn memory(&self) -> Memory {
        // Measured as those of other networks, at 10 and 28 convolutions.
        let kept = 12.8 + 6.2 * self.n_blocks() as f64;
        Memory { denoising: kept, sliced: 4.0 * kept, sampling: 9.0 }
    }

    /// Channels that each block takes and gives.
    fn blocks(&self) -> impl Iterator<Item = [usize; 2]> {
        let (n_blocks, width) = (self.n_blocks(), self.width);
        let outputs = move |block: usize| width << (block / n_blocks);
        (0..N_GROUPS * n_blocks).map(move |block| match block {
            0 => [N_FIRST, width],
            _ => [outputs(block - 1), outputs(block)],
        })
    }
}

/// norm, ReLU, convolution, the time added, norm, ReLU, convolution; and around it the identity, or, where channels become more, means
/// over the pixels that the convolution steps over, with zeros in the new channels.
#[derive(Module, Debug)]
pub struct WideBlock {
    norm_0: GroupNorm,
    conv_0: Conv2d,
    dense: Linear,
    norm_1: GroupNorm,
    conv_1: Conv2d,
    #[module(skip)]
    channels: [usize; 2],
    #[module(skip)]
    halves: bool,
    /// Whether what goes around it is normalised, too: that of the first block of all.
    #[module(skip)]
    is_first: bool,
}

impl WideBlock {
    fn new(
        channels @ [n_in, n_out]: [usize; 2],
        halves: bool,
        is_first: bool,
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        // On a side of an even number of pixels a step of 2 needs one more, at the end.
        let kernel = match halves {
            true => Kernel { size: 3, stride: 2, padding: 0 },
            false => SAME,
        };
        Self {
            norm_0: norm(n_in, device),
            conv_0: Conv2d::without_bias(channels, kernel, noise, device),
            dense: Linear::new(N_TIME, n_out, noise, device),
            norm_1: norm(n_out, device),
            conv_1: Conv2d::without_bias([n_out; 2], SAME, noise, device),
            channels,
            halves,
            is_first,
        }
    }

    /// # Shapes
    /// `x`: `[batch, in, height, width]`; `time`: the activation of its features, `[batch, 512]` → `[batch, out, …]`, both sides halved
    /// or not.
    fn forward(&self, x: Dual<4>, time: &Dual<2>) -> Dual<4> {
        let relu = Activation::Relu;
        let (h, around) = match self.is_first {
            true => self.norm_0.forward_then(relu, x).twice().into(),
            false => self.norm_0.forward_keeping(Some(relu), x),
        };
        let h = if self.halves { h.linear(|x| x.pad((0, 1, 0, 1), 0.0)) } else { h };
        let [n_in, n_out] = self.channels;
        let time = self.dense.forward_each(time.clone());
        let n = time.dims()[0];
        let h = self.conv_0.forward(h) + time.reshape([n, n_out, 1, 1]);
        let h = self.norm_1.forward_then(relu, h);
        let around = if self.halves { Taps::Box.resample(Scale::Down, around) } else { around };
        let around = match n_out - n_in {
            0 => around,
            n_more => {
                let [n, _, height, width] = around.dims();
                let zeros = Tensor::zeros([n, n_more, height, width], (&around.value.device(), around.value.dtype()));
                around.join(zeros.into())
            }
        };
        self.conv_1.forward_plus(h, around)
    }

    fn work(&self, side: &mut usize) -> Work {
        *side += usize::from(self.halves);
        self.dense.work() + self.conv_0.work(side) + self.conv_1.work(side)
    }
}

/// A classifier of perturbed images that is told the standard deviation of the noise.
///
/// Images, pixels in [0, 1] before the noise, are shifted and scaled by the channel, then standardised, each by itself. There is no
/// dropout. Of what the paper leaves open: a convolution that halves the size has its zeros at the end of both sides, and new channels
/// stand behind the others.
#[derive(Module, Debug)]
pub struct WideResNet {
    frequencies: FourierFeatures,
    time_0: Linear,
    time_1: Linear,
    first: Conv2d,
    blocks: Vec<WideBlock>,
    norm: GroupNorm,
    head: Linear,
    #[module(skip)]
    config: WideResNetConfig,
}

impl WideResNet {
    /// A network with fresh weights drawn from `noise`.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`WideResNetConfig::check`].
    pub fn new(config: &WideResNetConfig, noise: &mut Stream, device: &Device) -> Result<Self> {
        config.check()?;
        let frequencies = FourierFeatures::new(N_FREQUENCIES, FREQUENCY_SCALE, noise, device);
        let time_0 = Linear::new(2 * N_FREQUENCIES, N_TIME, noise, device);
        let time_1 = Linear::new(N_TIME, N_TIME, noise, device);
        let first = Conv2d::without_bias([config.channels, N_FIRST], SAME, noise, device);
        let blocks = config.blocks().enumerate().map(|(block, channels)| {
            // Each group but the first begins with half the size.
            let halves = block > 0 && block.is_multiple_of(config.n_blocks());
            WideBlock::new(channels, halves, block == 0, noise, device)
        });
        let blocks: Vec<_> = blocks.collect();
        let n = config.width << (N_GROUPS - 1);
        let (norm, head) = (norm(n, device), Linear::new(n, config.n_classes, noise, device));
        Ok(Self { frequencies, time_0, time_1, first, blocks, norm, head, config: config.clone() })
    }

    /// What this network was built from.
    pub fn config(&self) -> &WideResNetConfig {
        &self.config
    }

    /// x minus the means of the channels, over their standard deviations; then minus its own mean, over its own standard deviation, of
    /// D numbers, which is 1/√D at least.
    fn standardised(&self, x: Dual<4>) -> Dual<4> {
        let shape @ [n, channels, height, width] = x.dims();
        let n_each = channels * height * width;
        let by_channel = |value: fn([f64; 2]) -> f64| -> Tensor<4> {
            let values = (0..channels).map(|c| value(if channels == PIXELS.len() { PIXELS[c] } else { ANY_PIXELS }));
            let values = values.map(|value| value as f32).collect();
            upload(values, [1, channels, 1, 1], &x.value.device()).cast(x.value.dtype())
        };
        let scale = by_channel(|[_, std]| 1.0 / std);
        let shift = by_channel(|[mean, std]| -mean / std);
        let x = (x.linear(|x| x * scale.clone()) + Dual::from(shift)).reshape([n, n_each]);
        let [centred, again] = (x.clone() - x.mean_dim(1)).twice();
        let least = 1.0 / n_each as f64;
        let variance = again.square().mean_dim(1);
        let variance = variance.map(|v| v.clamp_min(least), |v, _| (v - least).clamp_min(0.0).sign());
        (centred * variance.rsqrt()).reshape(shape)
    }

    /// # Shapes
    /// `x`: `[batch, channels, height, width]`, sides multiples of 4; given the standard deviations of the noise → logits
    /// `[batch, classes, 1, 1]`.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let swish = Activation::Swish;
        let x = self.standardised(x).linear(channels_last);
        let label = given.label.clone().cast(x.value.dtype());
        let time = swish.forward(self.time_0.forward_each(self.frequencies.forward(label).into()));
        let time = swish.forward(self.time_1.forward_each(time));
        let h = self.blocks.iter().fold(self.first.forward(x), |h, block| block.forward(h, &time));
        let h = self.norm.forward_then(Activation::Relu, h);
        let [n, channels, height, width] = h.dims();
        let mean = h.reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels]);
        self.head.forward_each(mean).reshape([n, self.config.n_classes, 1, 1])
    }

    /// What its convolutions and linear layers do for one image of `side` × `side` pixels.
    pub fn work(&self, mut side: usize) -> Work {
        let ends = self.time_0.work() + self.time_1.work() + self.head.work() + self.first.work(&mut side);
        self.blocks.iter().fold(ends, |work, block| work + block.work(&mut side))
    }
}

/// A 3×3 convolution that keeps the size.
const SAME: Kernel = Kernel { size: 3, stride: 1, padding: 1 };

fn norm(n: usize, device: &Device) -> GroupNorm {
    GroupNorm::new(n, Groups::Quarter.of(n), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::device::values;
    use crate::net::params::{self, Replace};
    use crate::noise::Noise;

    fn small() -> WideResNetConfig {
        WideResNetConfig { depth: 10, width: 16, n_classes: 3, ..WideResNetConfig::cifar10() }
    }

    fn images(shape: [usize; 4], dtype: DType, device: &Device) -> Tensor<4> {
        let mut x = vec![0.0; shape.iter().product()];
        Noise::new(3).stream("x", 0).uniform(&mut x);
        Tensor::from_data(TensorData::new(x, shape), (device, dtype))
    }

    #[test]
    fn the_published_classifier_has_as_many_parameters_as_its_parts() {
        let config = WideResNetConfig::cifar10();
        let net = WideResNet::new(&config, &mut Stream::silent(), &Device::flex()).expect("a network");
        let block =
            |n_in: usize, n_out: usize| 2 * n_in + 9 * n_in * n_out + 513 * n_out + 2 * n_out + 9 * n_out * n_out;
        let group = |n_in, n_out| block(n_in, n_out) + 3 * block(n_out, n_out);
        let groups = group(16, 160) + group(160, 320) + group(320, 640);
        // Frequencies are frozen; shortcuts have none.
        assert_eq!(params::count(&net), 257 * 512 + 513 * 512 + 9 * 3 * 16 + groups + 2 * 640 + 641 * 10);
        assert_eq!(params::buffers(&net), ["frequencies.W"]);
        assert_eq!(net.blocks.len(), 12);
        let mut shapes = Vec::new();
        params::visit(&net, |name, shape, _| shapes.push((name.to_string(), shape.to_vec())));
        let shape = |name: &str| shapes.iter().find(|(other, _)| other == name).map(|(_, shape)| shape.clone());
        assert_eq!(WideResNetConfig::from_shapes(&Shapes(&shape)).expect("its own"), Some(config));
    }

    #[test]
    fn what_cannot_be_built_is_refused() {
        let good = small();
        good.check().expect("a small network");
        for (config, part) in [
            (WideResNetConfig { depth: 12, ..good.clone() }, "6·n + 4"),
            (WideResNetConfig { width: 0, ..good.clone() }, "multiple of 16"),
            (WideResNetConfig { width: 24, ..good.clone() }, "multiple of 16"),
            (WideResNetConfig { width: 144, ..good.clone() }, "one of 32"),
            (WideResNetConfig { n_classes: 0, ..good.clone() }, "at least 1"),
            (WideResNetConfig { channels: 0, ..good.clone() }, "at least 1"),
        ] {
            let message = config.check().expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn an_image_is_classified_by_itself_whatever_its_brightness_and_contrast() {
        let device = Device::flex();
        let noise = Noise::new(1);
        let config = WideResNetConfig { channels: 1, ..small() };
        let net = WideResNet::new(&config, &mut noise.stream("init", 0), &device).expect("a network");
        let logits = |x: Tensor<4>, sigmas: &[f32]| {
            let given = Condition::new(Tensor::from_floats(sigmas, &device));
            values(net.forward(x.into(), &given).value).expect("a processor")
        };
        let x = images([2, 1, 8, 8], DType::F32, &device);
        let both = logits(x.clone(), &[0.1, 3.0]);
        assert_eq!(both.len(), 6);
        let last = x.clone().slice([1..2, 0..1, 0..8, 0..8]);
        assert_eq!(both[3..], logits(last.clone(), &[3.0]));
        assert_ne!(both[3..], logits(last.clone(), &[0.1]), "the noise is told");
        for (a, b) in both[3..].iter().zip(logits(last * 0.5 + 0.25, &[3.0])) {
            // Rounding in f32 through ten convolutions.
            assert!((a - b).abs() <= 1e-4, "{a} and {b}");
        }
        // An image of one colour is standardised to zeros.
        let flat = logits(Tensor::ones([1, 1, 8, 8], &device), &[0.1]);
        assert!(flat.iter().all(|logit| logit.is_finite()));
    }

    #[test]
    fn derivatives_forwards_and_backwards_equal_differences() {
        struct ToF64;
        impl Replace for ToF64 {
            fn replace<const D: usize>(&mut self, _: usize, value: Tensor<D>) -> Tensor<D> {
                Tensor::from_inner(value.inner().cast(DType::F64))
            }
        }
        let (plain, device) = (Device::flex(), Device::flex().autodiff());
        let net = WideResNet::new(&small(), &mut Noise::new(2).stream("init", 0), &device).expect("a network");
        let net = params::replace_buffers(params::replace(net, ToF64).0, ToF64).0;
        let x = images([2, 3, 8, 8], DType::F64, &plain);
        let v = images([2, 3, 8, 8], DType::F64, &plain).flip([0, 2]) - 0.5;
        let up = |x: &Tensor<4>| Tensor::<4>::from_inner(x.clone());
        let given = Condition::new(Tensor::<1>::from_floats([0.3, 2.0], &device));
        let scalar = |x: Tensor<1>| x.into_scalar::<f64>();
        // Different weights of the logits.
        let weights = Tensor::<2>::from_floats([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]], &device).cast(DType::F64);
        let weights = weights.reshape([2, 3, 1, 1]);
        let of = |x: Tensor<4>| (net.forward(x.into(), &given).value * weights.clone()).sum();
        let [_, tangent] = net.forward(Dual::along(up(&x), up(&v)), &given).parts();
        let forwards = scalar((tangent * weights.clone()).sum());
        let leaf = up(&x).require_grad();
        let gradient = leaf.grad(&of(leaf.clone()).backward()).expect("a gradient");
        let backwards = scalar((gradient * v.clone()).sum());
        // Errors of ε², and of 1e-16/ε.
        let epsilon = 1e-6;
        let [ahead, behind] = [epsilon, -epsilon].map(|e| scalar(of(up(&(x.clone() + v.clone() * e)))));
        let difference = (ahead - behind) / (2.0 * epsilon);
        assert!(difference.abs() > 1e-3, "it depends on its input");
        for found in [forwards, backwards] {
            assert!((found / difference - 1.0).abs() <= 1e-6, "{found}, expected {difference}");
        }
    }
}
