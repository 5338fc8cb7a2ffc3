//! From a label to features: what a U-Net knows of the time.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};

use super::super::Buffer;
use crate::device::upload;
use crate::noise::Stream;

/// sin and cos of ln(label) times random frequencies (Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions
/// in Low Dimensional Domains"), which are drawn once and never trained.
#[derive(Module, Debug)]
pub struct FourierFeatures {
    /// `[features]`
    W: Buffer<1>,
}

impl FourierFeatures {
    /// With `n` frequencies from N(0, scale²).
    pub fn new(n: usize, scale: f64, noise: &mut Stream, device: &Device) -> Self {
        let mut frequencies = vec![0.0; n];
        noise.normal(&mut frequencies);
        frequencies.iter_mut().for_each(|w| *w *= scale as f32);
        Self { W: Buffer::new(upload(frequencies, [n], device)) }
    }

    /// # Shapes
    /// `label`, positive: `[batch]` → `[batch, 2·n]`
    pub fn forward(&self, label: Tensor<1>) -> Tensor<2> {
        let frequencies: Tensor<2> = self.W.val().unsqueeze();
        sines(label.log().unsqueeze_dim::<2>(1) * frequencies * 2.0 * std::f64::consts::PI)
    }
}

/// sin and cos of the label times frequencies from 1 down to 1/10,000 (Vaswani et al. 2017, §3.5), `n` numbers.
///
/// # Shapes
/// `label`: `[batch]` → `[batch, n]`
pub fn positional(label: Tensor<1>, n: usize) -> Tensor<2> {
    let (half, n_images, device) = (n / 2, label.dims()[0], label.device());
    let step = 10_000f64.ln() / (half as f64 - 1.0);
    let label = label.cast(DType::F32);
    let frequencies = (0..half).map(|j| (-step * j as f64).exp() as f32).collect();
    let frequencies: Tensor<2> = upload(frequencies, [1, half], &device);
    let found = sines(label.unsqueeze_dim::<2>(1) * frequencies);
    if n.is_multiple_of(2) { found } else { Tensor::cat(vec![found, Tensor::zeros([n_images, 1], &device)], 1) }
}

fn sines(phase: Tensor<2>) -> Tensor<2> {
    Tensor::cat(vec![phase.clone().sin(), phase.cos()], 1)
}
