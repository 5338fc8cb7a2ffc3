//! ResScore, the network of the sliced-score-matching experiments (Song & Ermon 2019, figure 1): an encoder and a decoder of
//! residual blocks with group norm.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ncsn_kernels::ops::conv::{Conv, conv_transpose2d};

use super::norm::standardised;
use super::{Conv2d, Dual, elu, uniform};
use crate::device::upload;
use crate::noise::Stream;

/// Of ResScore.
const N_GROUPS: usize = 8;

/// Group normalisation (Wu & He 2018): mean 0 and variance 1 over each group's channels and pixels, then a scale and a shift
/// for each channel.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[features]`
    pub weight: Param<Tensor<1>>,
    /// `[features]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    n_groups: usize,
}

impl GroupNorm {
    /// Scales 1, shifts 0. `n_features` is a multiple of `n_groups`.
    pub fn new(n_features: usize, n_groups: usize, device: &Device) -> Self {
        assert!(n_features.is_multiple_of(n_groups), "{n_features} channels in {n_groups} groups");
        let param = |value| Param::from_tensor(upload(vec![value; n_features], [n_features], device));
        Self { weight: param(1.0), bias: param(0.0), n_groups }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let [n, c, h, w] = x.dims();
        let x = x.reshape([n, self.n_groups, c / self.n_groups * h * w]);
        let by_channel = |values: &Param<Tensor<1>>| Dual::from(values.val().reshape([1, c, 1, 1]));
        standardised(x, 2).reshape([n, c, h, w]) * by_channel(&self.weight) + by_channel(&self.bias)
    }
}

/// A transposed square convolution.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[in, out, k, k]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
    #[module(skip)]
    output_padding: usize,
}

impl ConvTranspose2d {
    /// 3×3, which keeps the size (stride 1) or doubles it (stride 2).
    pub fn new(n_in: usize, n_out: usize, stride: usize, noise: &mut Stream, device: &Device) -> Self {
        Self::general(n_in, n_out, [3, stride, 1, stride - 1], noise, device)
    }

    /// Weights and bias from U(±1/√(k²·out)): PyTorch takes the second dimension for the fan-in.
    pub fn general(
        n_in: usize,
        n_out: usize,
        [kernel, stride, padding, output_padding]: [usize; 4],
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let fan_in = kernel * kernel * n_out;
        let weight = upload(uniform(n_in * fan_in, fan_in, noise), [n_in, n_out, kernel, kernel], device);
        let bias = upload(uniform(n_out, fan_in, noise), [n_out], device);
        let (weight, bias) = (Param::from_tensor(weight), Param::from_tensor(bias));
        Self { weight, bias, stride, padding, output_padding }
    }

    /// # Shapes
    /// `[batch, in, h, w]` → `[batch, out, …]`, each side stride·(h − 1) + k − 2·padding + output padding.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let weight = self.weight.val();
        let conv = Conv { stride: self.stride, padding: [self.padding; 2], dilation: 1 };
        let tangent = x.tangent.map(|t| conv_transpose2d(t, weight.clone(), None, conv, self.output_padding));
        Dual { value: conv_transpose2d(x.value, weight, Some(self.bias.val()), conv, self.output_padding), tangent }
    }
}

/// A convolution of the encoder or of the decoder.
#[derive(Module, Debug)]
pub enum AnyConv {
    /// Keeps the size or halves it.
    Down(Conv2d),
    /// Keeps the size or doubles it.
    Up(ConvTranspose2d),
}

impl AnyConv {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Down(conv) => conv.forward(x),
            Self::Up(conv) => conv.forward(x),
        }
    }
}

/// elu(norm(conv(elu(norm(conv(x))))) + residual(x)).
#[derive(Module, Debug)]
pub struct GroupNormBlock {
    main_0: AnyConv,
    main_1: GroupNorm,
    main_3: AnyConv,
    main_4: GroupNorm,
    /// `None` is the identity.
    residual: Option<AnyConv>,
}

/// Whether a block belongs to the encoder or the decoder, and whether it changes the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Convolutions; with `resize`, the size is halved, in the first one.
    Encoder {
        /// Whether it halves the size.
        resize: bool,
    },
    /// Transposed convolutions; with `resize`, the size is doubled, in the second one.
    Decoder {
        /// Whether it doubles the size.
        resize: bool,
    },
}

impl GroupNormBlock {
    /// A block `n_in → n_out`; without a change of size the two are equal.
    pub fn new([n_in, n_out]: [usize; 2], side: Side, noise: &mut Stream, device: &Device) -> Self {
        let (is_encoder, resize) = match side {
            Side::Encoder { resize } => (true, resize),
            Side::Decoder { resize } => (false, resize),
        };
        assert!(resize || n_in == n_out, "{n_in} channels to {n_out}, by the identity");
        let mut conv = |n_in, resize| {
            let stride = if resize { 2 } else { 1 };
            match is_encoder {
                true => AnyConv::Down(Conv2d::strided(n_in, n_out, 3, stride, noise, device)),
                false => AnyConv::Up(ConvTranspose2d::new(n_in, n_out, stride, noise, device)),
            }
        };
        Self {
            main_0: conv(n_in, resize && is_encoder),
            main_1: GroupNorm::new(n_out, N_GROUPS, device),
            main_3: conv(n_out, resize && !is_encoder),
            main_4: GroupNorm::new(n_out, N_GROUPS, device),
            residual: resize.then(|| conv(n_in, true)),
        }
    }

    /// # Shapes
    /// `[batch, in, height, width]` → `[batch, out, …]`, the size as [`Side`] says.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let h = elu(self.main_1.forward(self.main_0.forward(x.clone())));
        let h = self.main_4.forward(self.main_3.forward(h));
        elu(h + self.residual.as_ref().map_or(x.clone(), |conv| conv.forward(x)))
    }
}

/// A member of the encoder or the decoder.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "all but two are blocks")]
pub enum Layer {
    /// The first of the encoder, the last of the decoder.
    Conv(Conv2d),
    /// All others.
    Block(GroupNormBlock),
}

impl Layer {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x),
        }
    }
}

/// s(x) of images of three channels, whose sides are multiples of 4.
#[derive(Module, Debug)]
pub struct ResScore {
    convs: Vec<Layer>,
    deconvs: Vec<Layer>,
}

impl ResScore {
    /// With `width` channels in the encoder's first stage and the decoder's last (published as `nef` and `ndf`, which must
    /// be equal), a multiple of 8; the middle has 4 times as many.
    pub fn new(width: usize, noise: &mut Stream, device: &Device) -> Self {
        let (nef, ndf) = (width, width);
        let mut convs = vec![Layer::Conv(Conv2d::new(3, nef, 3, 1, true, noise, device))];
        for (channels, resize) in [
            ([nef, nef], false),
            ([nef, 2 * nef], true),
            ([2 * nef, 2 * nef], false),
            ([2 * nef, 4 * nef], true),
            ([4 * nef, 4 * nef], false),
        ] {
            convs.push(Layer::Block(GroupNormBlock::new(channels, Side::Encoder { resize }, noise, device)));
        }
        let mut deconvs = Vec::new();
        for (channels, resize) in [
            ([4 * ndf, 4 * ndf], false),
            ([4 * ndf, 2 * ndf], true),
            ([2 * ndf, 2 * ndf], false),
            ([2 * ndf, ndf], true),
            ([ndf, ndf], false),
        ] {
            deconvs.push(Layer::Block(GroupNormBlock::new(channels, Side::Decoder { resize }, noise, device)));
        }
        deconvs.push(Layer::Conv(Conv2d::new(ndf, 3, 3, 1, true, noise, device)));
        Self { convs, deconvs }
    }

    /// # Shapes
    /// `[batch, 3, height, width]` in [0, 1] → the score, of the same shape.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        self.convs.iter().chain(&self.deconvs).fold(x * 2.0 + -1.0, |h, layer| layer.forward(h))
    }
}
