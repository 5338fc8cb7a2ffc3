//! What U-Nets are made of: residual blocks told the time, attention over pixels, and what joins an image to them (Ho et al. 2020;
//! Song et al. 2021, appendix H).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ncsn_kernels::ops::attention::attention;
use ncsn_kernels::ops::channels::{scale, shift};
use ncsn_kernels::ops::conv::Conv;

use super::super::conv::convolved;
use super::super::dropout::dropout;
use super::super::{Activation, Condition, Conv2d, Dual, GroupNorm, Kernel, Linear, Work, fan_average};
use super::resample::{Scale, Taps};
use crate::device::upload;
use crate::noise::Stream;

/// Added to variances.
const EPSILON: f64 = 1e-6;
/// The most groups of a norm.
const MAX_GROUPS: usize = 32;

/// What every part of a U-Net is made with.
#[derive(Clone, Debug, PartialEq)]
pub struct Style {
    /// How many groups a norm of so many channels has.
    pub groups: Groups,
    /// The activation used everywhere.
    pub activation: Activation,
    /// The probability of zeros before the second convolution of each residual block, in training.
    pub dropout: f64,
    /// Whether sums of two ways are divided by √2.
    pub skip_rescale: bool,
    /// Scale of the initial weights of what ends a residual block or attention; 0 stands for 1e-10.
    pub init_scale: f64,
    /// The filter of changes of size.
    pub taps: Taps,
}

/// How many groups the norms have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// 32 (Ho et al. 2020).
    Fixed,
    /// A quarter of the channels, but at most 32 (Song et al. 2021).
    Quarter,
}

impl Groups {
    /// Groups of a norm of `n` channels.
    pub fn of(self, n: usize) -> usize {
        match self {
            Self::Fixed => MAX_GROUPS,
            Self::Quarter => (n / 4).min(MAX_GROUPS),
        }
    }
}

impl Style {
    pub(super) fn norm(&self, n: usize, device: &Device) -> GroupNorm {
        GroupNorm::new(n, self.groups.of(n), device).with_epsilon(EPSILON)
    }

    /// x + h, or that divided by √2.
    pub(super) fn sum(&self, x: Dual<4>, h: Dual<4>) -> Dual<4> {
        self.rescaled(x + h)
    }

    fn rescaled(&self, sum: Dual<4>) -> Dual<4> {
        if self.skip_rescale { sum.linear(|x| scale(x, std::f64::consts::FRAC_1_SQRT_2)) } else { sum }
    }
}

/// A 3×3 convolution that keeps the size.
pub(super) const SAME: Kernel = Kernel { size: 3, stride: 1, padding: 1 };
/// One of single pixels.
pub(super) const PIXEL: Kernel = Kernel { size: 1, stride: 1, padding: 0 };

/// A linear map over the channels of each pixel ("network in network").
#[derive(Module, Debug)]
pub struct Nin {
    /// `[in, out]`
    W: Param<Tensor<2>>,
    /// `[out]`
    b: Param<Tensor<1>>,
}

impl Nin {
    /// With weights from U(±√(3·scale/m)), m the mean of both numbers of channels, and biases 0.
    pub fn new([n_in, n_out]: [usize; 2], scale: f64, noise: &mut Stream, device: &Device) -> Self {
        let weight = upload(fan_average(n_in * n_out, [n_in, n_out], scale, noise), [n_in, n_out], device);
        Self { W: Param::from_tensor(weight), b: Param::from_tensor(upload(vec![0.0; n_out], [n_out], device)) }
    }

    /// # Shapes
    /// `[batch, in, height, width]` → `[batch, out, height, width]`
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        self.with_residual(x, None)
    }

    fn with_residual(&self, x: Dual<4>, residual: Option<Dual<4>>) -> Dual<4> {
        let weight = self.W.val().transpose().unsqueeze_dims::<4>(&[2, 3]);
        let conv = Conv { stride: 1, padding: [0; 2], dilation: 1 };
        convolved(x, weight, Some(self.b.val()), residual, conv)
    }

    fn work(&self, side: usize) -> Work {
        let ([n_in, n_out], n_pixels) = (self.W.dims(), side * side);
        Work { multiply_adds: n_in * n_out * n_pixels, numbers: (n_in + n_out) * n_pixels }
    }
}

/// How a residual block is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockForm {
    /// It keeps the size (Ho et al. 2020).
    Ddpm {
        /// Whether a change of channels goes through a 3×3 convolution, not a linear map.
        conv_shortcut: bool,
    },
    /// It may change the size (Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis").
    BigGan,
}

/// x + conv(act(norm(conv(act(norm(x))) + dense(act(time))))), where x may change its size and its channels.
#[derive(Module, Debug)]
pub struct TimeBlock {
    GroupNorm_0: GroupNorm,
    Conv_0: Conv2d,
    Dense_0: Linear,
    GroupNorm_1: GroupNorm,
    Conv_1: Conv2d,
    /// The way around it, of blocks that change something; else this is the identity.
    Conv_2: Option<Conv2d>,
    NIN_0: Option<Nin>,
    #[module(skip)]
    scale: Option<Scale>,
    #[module(skip)]
    style: Style,
}

impl TimeBlock {
    /// A block of `n_in` channels to `n_out`, told the time by `n_time` features.
    pub fn new(
        [n_in, n_out]: [usize; 2],
        n_time: usize,
        (form, scale): (BlockForm, Option<Scale>),
        style: &Style,
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let changes = n_in != n_out || scale.is_some();
        let norm_0 = style.norm(n_in, device);
        let conv_0 = Conv2d::fan_average([n_in, n_out], SAME, 1.0, noise, device);
        let dense_0 = Linear::fan_average(n_time, n_out, noise, device);
        let norm_1 = style.norm(n_out, device);
        let conv_1 = Conv2d::fan_average([n_out; 2], SAME, style.init_scale, noise, device);
        let kernel = match form {
            BlockForm::BigGan => Some(PIXEL),
            BlockForm::Ddpm { conv_shortcut } => conv_shortcut.then_some(SAME),
        };
        let conv_2 = kernel.filter(|_| changes);
        let conv_2 = conv_2.map(|kernel| Conv2d::fan_average([n_in, n_out], kernel, 1.0, noise, device));
        let nin_0 = (changes && conv_2.is_none()).then(|| Nin::new([n_in, n_out], 0.1, noise, device));
        Self {
            GroupNorm_0: norm_0,
            Conv_0: conv_0,
            Dense_0: dense_0,
            GroupNorm_1: norm_1,
            Conv_1: conv_1,
            Conv_2: conv_2,
            NIN_0: nin_0,
            scale,
            style: style.clone(),
        }
    }

    /// # Shapes
    /// `x`: `[batch, in, height, width]`; `time`: the activation of its features, `[batch, n_time]`, of a network that is told it →
    /// `[batch, out, …]`
    pub fn forward(&self, x: Dual<4>, time: Option<&Tensor<2>>, given: &Condition) -> Dual<4> {
        let Style { activation, dropout: rate, ref taps, .. } = self.style;
        let (h, x) = self.GroupNorm_0.forward_keeping(Some(activation), x);
        let [h, x] = match self.scale {
            Some(scale) => [h, x].map(|x| taps.resample(scale, x)),
            None => [h, x],
        };
        let h = self.Conv_0.forward(h);
        let h = match time {
            None => h,
            Some(time) => {
                let by = self.Dense_0.forward_each(time.clone().into()).value;
                // No tangent goes through the time.
                Dual { value: shift(h.value, by), tangent: h.tangent }
            }
        };
        let h = dropout(self.GroupNorm_1.forward_then(activation, h), rate, given);
        let x = match (&self.Conv_2, &self.NIN_0) {
            (Some(conv), _) => conv.forward(x),
            (None, Some(nin)) => nin.forward(x),
            (None, None) => x,
        };
        self.style.rescaled(self.Conv_1.forward_plus(h, x))
    }

    /// What it does for one image; `side` is that of the input before, and of the output after.
    pub fn work(&self, side: &mut usize) -> Work {
        *side = self.scale.map_or(*side, |scale| scale.of(*side));
        let of_conv = |conv: &Conv2d| conv.work(&mut { *side });
        let shortcut = self.Conv_2.as_ref().map(of_conv).or(self.NIN_0.as_ref().map(|nin| nin.work(*side)));
        of_conv(&self.Conv_0) + of_conv(&self.Conv_1) + shortcut.unwrap_or_default() + self.Dense_0.work()
    }
}

/// Attention of each pixel to all others, with one head (Wang et al. 2018, "Non-local Neural Networks").
#[derive(Module, Debug)]
pub struct Attention {
    GroupNorm_0: GroupNorm,
    NIN_0: Nin,
    NIN_1: Nin,
    NIN_2: Nin,
    NIN_3: Nin,
    #[module(skip)]
    style: Style,
}

impl Attention {
    /// Of `n` channels.
    pub fn new(n: usize, style: &Style, noise: &mut Stream, device: &Device) -> Self {
        let mut nin = |scale| Nin::new([n, n], scale, noise, device);
        Self {
            GroupNorm_0: style.norm(n, device),
            NIN_0: nin(0.1),
            NIN_1: nin(0.1),
            NIN_2: nin(0.1),
            NIN_3: nin(style.init_scale),
            style: style.clone(),
        }
    }

    /// x + W₃·softmax(q·kᵀ/√C)·v, where q, k and v are linear maps of norm(x).
    ///
    /// # Shapes
    /// `[batch, channels, height, width]`, unchanged.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let [n, c, height, width] = x.dims();
        let (h, x) = self.GroupNorm_0.forward_keeping(None, x);
        let [q, k, v] = [&self.NIN_0, &self.NIN_1, &self.NIN_2].map(|nin| nin.forward(h.clone()));
        let h = match h.tangent {
            None => attention(q.value, k.value, v.value, 1).into(),
            Some(_) => {
                // Pixels are rows, as they lie in memory.
                let rows = |x: Dual<4>| x.linear(|x| x.permute([0, 2, 3, 1]).reshape([n, height * width, c]));
                let [q, k, v] = [q, k, v].map(rows);
                let weights = (q * (c as f64).sqrt().recip()).matmul(k.linear(|k| k.swap_dims(1, 2))).softmax(2);
                weights.matmul(v).linear(|x| x.reshape([n, height, width, c]).permute([0, 3, 1, 2]))
            }
        };
        self.style.rescaled(self.NIN_3.with_residual(h, Some(x)))
    }

    /// What it does for one image.
    pub fn work(&self, side: usize) -> Work {
        let ([c, _], n_pixels) = (self.NIN_0.W.dims(), side * side);
        // q·kᵀ and its product with v.
        let weights = Work { multiply_adds: 2 * n_pixels * n_pixels * c, numbers: 4 * n_pixels * c };
        [&self.NIN_0, &self.NIN_1, &self.NIN_2, &self.NIN_3].into_iter().map(|nin| nin.work(side)).sum::<Work>()
            + weights
    }
}

/// What joins an image to the features of its size.
#[derive(Module, Debug)]
pub struct Combine {
    Conv_0: Conv2d,
    #[module(skip)]
    how: Combination,
}

/// How an image is joined to features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combination {
    /// Added to them.
    Sum,
    /// Put beside them, which doubles the channels.
    Cat,
}

impl Combine {
    /// An image of `n_image` channels to features of `n`.
    pub fn new([n_image, n]: [usize; 2], how: Combination, noise: &mut Stream, device: &Device) -> Self {
        Self { Conv_0: Conv2d::fan_average([n_image, n], PIXEL, 1.0, noise, device), how }
    }

    /// # Shapes
    /// `image`: `[batch, image, height, width]`; `h`: `[batch, n, height, width]` → as `h`, or twice as many channels.
    pub fn forward(&self, image: Dual<4>, h: Dual<4>) -> Dual<4> {
        match self.how {
            Combination::Sum => self.Conv_0.forward_plus(image, h),
            Combination::Cat => self.Conv_0.forward(image).join(h),
        }
    }

    /// What it does for one image.
    pub fn work(&self, mut side: usize) -> Work {
        self.Conv_0.work(&mut side)
    }
}
