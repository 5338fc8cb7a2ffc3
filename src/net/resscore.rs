//! ResScore, the network of the sliced-score-matching experiments (Song & Ermon 2019, figure 1): an encoder and a decoder of
//! residual blocks with group norm.

use burn::module::Module;
use burn::tensor::Device;

use super::{Conv2d, ConvTranspose2d, Dual, GroupNorm, Kernel, Work, elu};
use crate::noise::Stream;

/// Of ResScore.
const N_GROUPS: usize = 8;

/// A convolution of the encoder or of the decoder.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a network has a few dozens of them")]
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

    fn work(&self, side: &mut usize) -> Work {
        match self {
            Self::Down(conv) => conv.work(side),
            Self::Up(conv) => conv.work(side),
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

/// `main_3` → `main.3`: a numbered member of a published sequence.
pub(super) fn published(path: &[&str]) -> Option<(usize, String)> {
    let number = path.first()?.strip_prefix("main_")?;
    Some((1, format!("main.{number}")))
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
                true => {
                    AnyConv::Down(Conv2d::strided(n_in, n_out, Kernel { size: 3, stride, padding: 1 }, noise, device))
                }
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

    fn work(&self, side: &mut usize) -> Work {
        let mut residual_side = *side;
        let residual = self.residual.as_ref().map_or(Work::default(), |conv| conv.work(&mut residual_side));
        self.main_0.work(side) + self.main_3.work(side) + residual
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

    fn work(&self, side: &mut usize) -> Work {
        match self {
            Self::Conv(conv) => conv.work(side),
            Self::Block(block) => block.work(side),
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

    /// What its convolutions do for one image of `side` × `side` pixels.
    pub fn work(&self, mut side: usize) -> Work {
        self.convs.iter().chain(&self.deconvs).map(|layer| layer.work(&mut side)).sum()
    }
}
