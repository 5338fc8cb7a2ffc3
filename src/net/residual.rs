//! The residual block: norm → activation → convolution, twice, plus a shortcut.

use burn::module::Module;

use super::{Activation, Condition, Conv2d, Dual, MeanPoolConv, Norm, Parts, Work};

/// What a residual block does to the size of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resample {
    /// Keeps it; convolutions with this dilation.
    Keep {
        /// 1 for a plain convolution.
        dilation: usize,
    },
    /// Halves it: a mean over 2×2 cells after the second convolution and after the shortcut's.
    Halve,
    /// "Down" with dilation: widens the view instead of halving the size (Yu et al. 2017, dilated residual networks).
    Dilate {
        /// 2, 4, …
        dilation: usize,
    },
}

/// A convolution with or without a mean pool behind it.
#[derive(Module, Debug)]
pub enum Conv {
    /// Keeps the size.
    Same(Conv2d),
    /// Halves it.
    Pooled(MeanPoolConv),
}

impl Conv {
    fn forward(&self, x: Dual<4>) -> Dual<4> {
        match self {
            Conv::Same(conv) => conv.forward(x),
            Conv::Pooled(conv) => conv.forward(x),
        }
    }

    fn forward_plus(&self, x: Dual<4>, residual: Dual<4>) -> Dual<4> {
        match self {
            Conv::Same(conv) => conv.forward_plus(x, residual),
            Conv::Pooled(conv) => conv.forward(x) + residual,
        }
    }

    fn work(&self, side: &mut usize) -> Work {
        match self {
            Conv::Same(conv) => conv.work(side),
            Conv::Pooled(conv) => conv.work(side),
        }
    }
}

/// shortcut(x) + conv2(act(normalize2(conv1(act(normalize1(x)))))).
#[derive(Module, Debug)]
pub struct ResidualBlock {
    /// First convolution.
    pub conv1: Conv2d,
    /// Before the second convolution.
    pub normalize2: Norm,
    /// Second convolution.
    pub conv2: Conv,
    /// `None` is the identity.
    pub shortcut: Option<Conv>,
    /// Before the first convolution.
    pub normalize1: Norm,
    #[module(skip)]
    activation: Activation,
}

impl ResidualBlock {
    /// A block `n_in → n_out`. The blocks that keep the size change the number of channels in the first convolution,
    /// the others in the second.
    pub fn new([n_in, n_out]: [usize; 2], resample: Resample, parts: &mut Parts<'_>) -> Self {
        let n_mid = if matches!(resample, Resample::Keep { .. }) { n_out } else { n_in };
        let dilation = match resample {
            Resample::Keep { dilation } | Resample::Dilate { dilation } => dilation,
            Resample::Halve => 1,
        };
        let conv1 = parts.conv(n_in, n_mid, 3, dilation, true);
        let normalize2 = parts.norm(n_mid);
        let mut conv = |n_in, kernel| {
            let conv = parts.conv(n_in, n_out, kernel, dilation, true);
            if resample == Resample::Halve { Conv::Pooled(MeanPoolConv { conv }) } else { Conv::Same(conv) }
        };
        let conv2 = conv(n_mid, 3);
        let shortcut = match resample {
            Resample::Halve => Some(conv(n_in, 1)),
            Resample::Keep { .. } if n_in == n_out => None,
            Resample::Keep { dilation: 1 } => Some(conv(n_in, 1)),
            Resample::Keep { .. } | Resample::Dilate { .. } => Some(conv(n_in, 3)),
        };
        let normalize1 = parts.norm(n_in);
        Self { conv1, normalize2, conv2, shortcut, normalize1, activation: parts.activation }
    }

    /// # Shapes
    /// `x`: `[batch, in, height, width]`, given the noise levels → `[batch, out, height, width]`, or half of both.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let (h, x) = self.normalize1.forward_keeping(Some(self.activation), x, given);
        let h = self.conv1.forward(h);
        let h = self.normalize2.forward_then(self.activation, h, given);
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(x),
            None => x,
        };
        self.conv2.forward_plus(h, shortcut)
    }

    /// What its convolutions do for one image; `side` is that of the input before, and of the output after.
    pub(super) fn work(&self, side: &mut usize) -> Work {
        let input_side = *side;
        let mut work = self.conv1.work(side);
        let mut shortcut_side = input_side;
        work += self.shortcut.as_ref().map_or(Work::default(), |conv| conv.work(&mut shortcut_side));
        work + self.conv2.work(side)
    }
}
