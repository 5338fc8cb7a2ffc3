//! Convolutions, alone and followed by a mean over 2×2 cells, and transposed convolutions.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ncsn_kernels::filter::Filter;
use ncsn_kernels::ops::conv::{Conv, conv_transpose2d, conv2d};
use ncsn_kernels::ops::pixels::separable;

use super::{Buffer, Dual, Work, fan_average, spectral, uniform};
use crate::device::upload;
use crate::noise::Stream;

/// A square convolution. Unless another padding is asked for, it keeps the size or divides it by its stride:
/// padding = dilation·(k − 1)/2.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, k, k]`; `None` if it is normalised.
    weight: Option<Param<Tensor<4>>>,
    /// `[out]`
    bias: Option<Param<Tensor<1>>>,
    /// The same before it is divided by its spectral norm, as published in this place.
    weight_orig: Option<Param<Tensor<4>>>,
    /// The left singular vector of its largest singular value: `[out]`
    weight_u: Option<Buffer<1>>,
    /// The right one: `[in·k·k]`
    weight_v: Option<Buffer<1>>,
    #[module(skip)]
    dilation: usize,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl Conv2d {
    /// Weights and bias from U(±1/√fan_in), PyTorch's default.
    pub fn new(
        n_in: usize,
        n_out: usize,
        kernel: usize,
        dilation: usize,
        bias: bool,
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let fan_in = n_in * kernel * kernel;
        let weight = uniform(n_out * fan_in, fan_in, noise);
        let bias = bias.then(|| uniform(n_out, fan_in, noise));
        let shape = Kernel { size: kernel, stride: 1, padding: dilation * (kernel - 1) / 2 };
        Self { dilation, ..Self::of([n_in, n_out], shape, weight, bias, device) }
    }

    /// Any kernel without dilation, with weights from U(±√(3·scale/m)), m the mean of fan-in and fan-out, and biases 0: the
    /// initial values of Song et al. 2021, for which a scale of 0 is 1e-10.
    pub fn fan_average(
        [n_in, n_out]: [usize; 2],
        kernel: Kernel,
        scale: f64,
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let area = kernel.size * kernel.size;
        let weight = fan_average(n_in * n_out * area, [n_in * area, n_out * area], scale, noise);
        Self::of([n_in, n_out], kernel, weight, Some(vec![0.0; n_out]), device)
    }

    /// With these values.
    fn of(
        [n_in, n_out]: [usize; 2],
        Kernel { size, stride, padding }: Kernel,
        weight: Vec<f32>,
        bias: Option<Vec<f32>>,
        device: &Device,
    ) -> Self {
        Self {
            weight: Some(Param::from_tensor(upload(weight, [n_out, n_in, size, size], device))),
            bias: bias.map(|bias| Param::from_tensor(upload(bias, [n_out], device))),
            weight_orig: None,
            weight_u: None,
            weight_v: None,
            dilation: 1,
            stride,
            padding,
        }
    }

    /// The same, its weight divided by its spectral norm (Miyato et al. 2018). The singular vectors start at random.
    pub fn with_spectral_norm(self, noise: &mut Stream) -> Self {
        let weight = self.weight.expect("a convolution is normalised once");
        let [n_out, n_in, kernel, _] = weight.dims();
        let device = weight.device();
        let mut vector = |n: usize| {
            let mut values = vec![0.0; n];
            noise.normal(&mut values);
            Some(Buffer::new(spectral::unit(upload(values, [n], &device))))
        };
        let (weight_u, weight_v) = (vector(n_out), vector(n_in * kernel * kernel));
        Self { weight: None, weight_orig: Some(weight), weight_u, weight_v, ..self }
    }

    /// The weight that images are convolved with: `[out, in, k, k]`
    pub(super) fn weight(&self) -> Tensor<4> {
        match (&self.weight, &self.weight_orig, &self.weight_u, &self.weight_v) {
            (Some(weight), ..) => weight.val(),
            (None, Some(weight), Some(u), Some(v)) => spectral::normalised(weight.val(), u.val(), v.val()),
            _ => unreachable!("a weight without norm, or all that the norm is of"),
        }
    }

    /// `[out]`
    pub(super) fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }

    /// The weight's shape.
    pub(super) fn dims(&self) -> [usize; 4] {
        let weight = self.weight.as_ref().or(self.weight_orig.as_ref());
        weight.expect("a convolution has one of them").dims()
    }

    /// Any kernel without dilation, without bias.
    pub fn without_bias(channels: [usize; 2], kernel: Kernel, noise: &mut Stream, device: &Device) -> Self {
        let [n_in, n_out] = channels;
        let fan_in = n_in * kernel.size * kernel.size;
        Self::of(channels, kernel, uniform(n_out * fan_in, fan_in, noise), None, device)
    }

    /// Any kernel without dilation, with bias.
    pub fn strided(n_in: usize, n_out: usize, kernel: Kernel, noise: &mut Stream, device: &Device) -> Self {
        let Kernel { size, stride, padding } = kernel;
        Self { stride, padding, ..Self::new(n_in, n_out, size, 1, true, noise, device) }
    }

    /// # Shapes
    /// `[batch, in, height, width]` → `[batch, out, ⌈height/stride⌉, ⌈width/stride⌉]`, without another padding.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        self.with_residual(x, None)
    }

    /// The convolution of `x`, plus `residual`, in one pass.
    ///
    /// # Shapes
    /// As [`Self::forward`]; `residual` as the result.
    pub fn forward_plus(&self, x: Dual<4>, residual: Dual<4>) -> Dual<4> {
        self.with_residual(x, Some(residual))
    }

    fn with_residual(&self, x: Dual<4>, residual: Option<Dual<4>>) -> Dual<4> {
        let conv = Conv { stride: self.stride, padding: [self.padding; 2], dilation: self.dilation };
        convolved(x, self.weight(), self.bias(), residual, conv)
    }

    /// What it does for one image; `side` is that of the input before, and of the output after.
    pub(super) fn work(&self, side: &mut usize) -> Work {
        let [n_out, n_in, kernel, _] = self.dims();
        let n_read = n_in * *side * *side;
        *side = (*side + 2 * self.padding - self.dilation * (kernel - 1) - 1) / self.stride + 1;
        let n_pixels = *side * *side;
        Work { multiply_adds: n_out * n_in * kernel * kernel * n_pixels, numbers: n_read + n_out * n_pixels }
    }
}

/// A convolution of a value and of its tangent, to which the bias is not added, plus `residual`.
pub(super) fn convolved(
    x: Dual<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    residual: Option<Dual<4>>,
    conv: Conv,
) -> Dual<4> {
    let (residual, residual_tangent) = residual.map_or((None, None), |r| (Some(r.value), r.tangent));
    let tangent = match (x.tangent, residual_tangent) {
        (Some(t), residual) => Some(conv2d(t, weight.clone(), None, residual, conv)),
        (None, residual) => residual,
    };
    Dual { value: conv2d(x.value, weight, bias, residual, conv), tangent }
}

/// A convolution followed by the mean of each 2×2 cell, which halves the size.
#[derive(Module, Debug)]
pub struct MeanPoolConv {
    /// The convolution, at full size.
    pub conv: Conv2d,
}

impl MeanPoolConv {
    /// # Shapes
    /// `[batch, in, height, width]` → `[batch, out, height/2, width/2]`; height and width must be even.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        match self.conv.dims() {
            // Means and mixtures of channels can be exchanged, and of means there are four times fewer.
            [.., 1, 1] => self.conv.forward(x.linear(mean_of_cells)),
            _ => self.conv.forward(x).linear(mean_of_cells),
        }
    }

    /// What its convolution does for one image, at full size as it is published; `side` is halved.
    pub(super) fn work(&self, side: &mut usize) -> Work {
        let work = self.conv.work(side);
        *side /= 2;
        work
    }
}

fn mean_of_cells(x: Tensor<4>) -> Tensor<4> {
    let [.., height, width] = x.dims();
    separable(x, Filter::cell_mean(height, 2), Filter::cell_mean(width, 2))
}

/// A square kernel, and how it is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its side.
    pub size: usize,
    /// How many pixels it moves at a time.
    pub stride: usize,
    /// Zeros at each border.
    pub padding: usize,
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
        let kernel = Kernel { size: 3, stride, padding: 1 };
        Self { output_padding: stride - 1, ..Self::general(n_in, n_out, kernel, noise, device) }
    }

    /// Any kernel, without output padding. Weights and bias from U(±1/√(k²·out)): PyTorch takes the second dimension for the fan-in.
    pub fn general(n_in: usize, n_out: usize, kernel: Kernel, noise: &mut Stream, device: &Device) -> Self {
        let Kernel { size, stride, padding } = kernel;
        let fan_in = size * size * n_out;
        let weight = upload(uniform(n_in * fan_in, fan_in, noise), [n_in, n_out, size, size], device);
        let bias = upload(uniform(n_out, fan_in, noise), [n_out], device);
        let (weight, bias) = (Param::from_tensor(weight), Param::from_tensor(bias));
        Self { weight, bias, stride, padding, output_padding: 0 }
    }

    /// # Shapes
    /// `[batch, in, h, w]` → `[batch, out, …]`, each side stride·(h − 1) + k − 2·padding + output padding.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        let weight = self.weight.val();
        let conv = Conv { stride: self.stride, padding: [self.padding; 2], dilation: 1 };
        let tangent = x.tangent.map(|t| conv_transpose2d(t, weight.clone(), None, conv, self.output_padding));
        Dual { value: conv_transpose2d(x.value, weight, Some(self.bias.val()), conv, self.output_padding), tangent }
    }

    /// What it does for one image; `side` is that of the input before, and of the output after.
    pub(super) fn work(&self, side: &mut usize) -> Work {
        let [n_in, n_out, kernel, _] = self.weight.dims();
        let n_pixels = *side * *side;
        *side = self.stride * (*side - 1) + kernel + self.output_padding - 2 * self.padding;
        let multiply_adds = n_in * n_out * kernel * kernel * n_pixels;
        Work { multiply_adds, numbers: n_in * n_pixels + n_out * *side * *side }
    }
}
