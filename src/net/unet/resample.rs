//! Changes of size by a factor of 2, by finite impulse response (FIR) filters, alone and together with a convolution
//! (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"; Song et al. 2021, appendix H.1).

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn_kernels::filter::Filter;
use ncsn_kernels::ops::conv::{Conv, conv_transpose2d};
use ncsn_kernels::ops::pixels::separable;

use super::super::{Conv2d, Dual, Kernel, Work};
use crate::noise::Stream;

/// A change of size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Half the sides.
    Down,
    /// Twice the sides.
    Up,
}

impl Scale {
    /// The side after it.
    pub fn of(self, side: usize) -> usize {
        match self {
            Self::Down => side / 2,
            Self::Up => 2 * side,
        }
    }
}

/// What pixels are filtered by when the size changes. Sizes are even.
#[derive(Clone, Debug, PartialEq)]
pub enum Taps {
    /// Pixels are doubled; means of 2×2 are taken.
    Box,
    /// A FIR filter, the same along both axes; [1, 3, 3, 1] in all published networks. The taps are divided by their sum.
    Fir(Vec<f64>),
}

impl Taps {
    /// Those with the sum `gain`.
    fn with_sum(&self, gain: f64) -> Vec<f32> {
        let taps = match self {
            Self::Box => &[1.0, 1.0][..],
            Self::Fir(taps) => taps,
        };
        let sum: f64 = taps.iter().sum();
        taps.iter().map(|tap| (tap * gain / sum) as f32).collect()
    }

    /// x filtered along both axes, see [`Filter::resampling`], by taps with the sum `gain`.
    fn filter(&self, x: Dual<4>, gain: f64, rates: [usize; 2], padding: [usize; 2]) -> Dual<4> {
        let taps = self.with_sum(gain);
        let [.., height, width] = x.dims();
        let along = |n| Filter::resampling(n, &taps, rates, padding);
        let (rows, columns) = (along(height), along(width));
        x.linear(|x| separable(x, rows.clone(), columns.clone()))
    }

    /// By how many pixels a filter is longer than what a step of 2 moves.
    fn n_more(&self) -> usize {
        match self {
            Self::Box => 0,
            Self::Fir(taps) => taps.len() - 2,
        }
    }

    /// `x` with another size.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]` → both sides halved or doubled.
    pub fn resample(&self, scale: Scale, x: Dual<4>) -> Dual<4> {
        let p = self.n_more();
        match scale {
            Scale::Down => self.filter(x, 1.0, [1, 2], [p.div_ceil(2), p / 2]),
            Scale::Up => self.filter(x, 2.0, [2, 1], [p.div_ceil(2) + 1, p / 2]),
        }
    }
}

/// A change of size, with a 3×3 convolution or without.
#[derive(Module, Debug)]
pub struct Resampling {
    /// After doubling the pixels, or with steps of 2.
    Conv_0: Option<Conv2d>,
    /// Behind, or in front of, a FIR filter.
    Conv2d_0: Option<Conv2d>,
    #[module(skip)]
    taps: Taps,
    #[module(skip)]
    scale: Scale,
}

impl Resampling {
    /// Without convolution.
    pub fn plain(scale: Scale, taps: &Taps) -> Self {
        Self { Conv_0: None, Conv2d_0: None, taps: taps.clone(), scale }
    }

    /// With a convolution, `n_in` channels to `n_out`.
    pub fn convolving(channels: [usize; 2], scale: Scale, taps: &Taps, noise: &mut Stream, device: &Device) -> Self {
        let kernel = match (scale, taps) {
            // Zeros are put where the image ends only, or by the filter.
            (Scale::Down, _) => Kernel { size: 3, stride: 2, padding: 0 },
            // A transposed convolution takes the weights of the other.
            (Scale::Up, _) => Kernel { size: 3, stride: 1, padding: 1 },
        };
        let conv = Some(Conv2d::fan_average(channels, kernel, 1.0, noise, device));
        let plain = Self::plain(scale, taps);
        match taps {
            Taps::Box => Self { Conv_0: conv, ..plain },
            Taps::Fir(_) => Self { Conv2d_0: conv, ..plain },
        }
    }

    /// # Shapes
    /// `[batch, in, height, width]` → `[batch, out, …]`, both sides halved or doubled.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let Self { taps, scale, .. } = self;
        let p = taps.n_more();
        match (scale, &self.Conv_0, &self.Conv2d_0) {
            (Scale::Down, Some(conv), _) => conv.forward(x.linear(|x| x.pad((0, 1, 0, 1), 0.0))),
            (Scale::Up, Some(conv), _) => conv.forward(taps.resample(Scale::Up, x)),
            (Scale::Down, None, Some(conv)) => {
                conv.forward(taps.filter(x, 1.0, [1, 1], [(p + 2).div_ceil(2), (p + 2) / 2]))
            }
            (Scale::Up, None, Some(conv)) => {
                let spread = x.linear(|x| transposed(x, conv.weight()));
                // The convolution has added a pixel to the doubled side.
                let out = taps.filter(spread, 2.0, [1, 1], [p.div_ceil(2), p / 2]);
                let bias = conv.bias().expect("it has one");
                out + Dual::from(bias.reshape([1, -1, 1, 1]))
            }
            (scale, None, None) => taps.resample(*scale, x),
        }
    }

    /// What it does for one image; `side` is that of the input before, and of the output after.
    pub fn work(&self, side: &mut usize) -> Work {
        let before = std::mem::replace(side, self.scale.of(*side));
        let Some(conv) = self.Conv_0.as_ref().or(self.Conv2d_0.as_ref()) else { return Work::default() };
        let [n_out, n_in, ..] = conv.dims();
        // Behind FIR filters a transposed convolution spreads the pixels of the smaller image.
        let side_of_products = if self.taps == Taps::Box { *side } else { before.min(*side) };
        let multiply_adds = 9 * n_out * n_in * side_of_products * side_of_products;
        Work { multiply_adds, numbers: n_in * before * before + n_out * *side * *side }
    }
}

/// Zeros between the pixels, and around them, then the correlation with `weight`, `[out, in, 3, 3]`: n → 2n + 1 pixels.
fn transposed(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let weight = weight.swap_dims(0, 1).flip([2, 3]);
    conv_transpose2d(x, weight, None, Conv { stride: 2, padding: [0; 2], dilation: 1 }, 0)
}
