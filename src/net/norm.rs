//! Conditional instance normalisation: plain and ++ (spec of Song & Ermon 2019, appendix A.1).

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::noise::Stream;

/// Which normalisation a network uses everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Conditional instance norm++, which keeps the channels' means: table rows (γ, α, β).
    InstancePlus,
    /// Conditional instance norm: table rows (γ, β).
    Instance,
}

/// A table with one row a noise level.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[levels, columns]`
    pub weight: Param<Tensor<2>>,
}

/// Conditional instance normalisation.
#[derive(Module, Debug)]
pub struct Norm {
    /// Scales and shifts by level.
    pub embed: Embedding,
    #[module(skip)]
    kind: NormKind,
}

/// Added to variances before the square root, as in PyTorch.
const EPSILON: f64 = 1e-5;

impl Norm {
    /// For `n_features` channels and `n_levels` levels. Instance norm++ starts with γ, α ~ N(1, 0.02²) and β = 0;
    /// plain instance norm with γ ~ U[0, 1) and β = 0.
    pub fn new(kind: NormKind, n_features: usize, n_levels: usize, noise: &mut Stream, device: &Device) -> Self {
        let (n_random, n_columns) = match kind {
            NormKind::InstancePlus => (2 * n_features, 3 * n_features),
            NormKind::Instance => (n_features, 2 * n_features),
        };
        let mut table = vec![0.0; n_levels * n_columns];
        for row in table.chunks_mut(n_columns) {
            let scales = &mut row[..n_random];
            match kind {
                NormKind::InstancePlus => {
                    noise.normal(scales);
                    scales.iter_mut().for_each(|z| *z = 1.0 + 0.02 * *z);
                }
                NormKind::Instance => noise.uniform(scales),
            }
        }
        let weight = Param::from_data(TensorData::new(table, vec![n_levels, n_columns]), device);
        Self { embed: Embedding { weight }, kind }
    }

    /// Instance norm++: out = γ·(h + α·μ̂) + β, where h has mean 0 and variance 1 over each channel's pixels (biased
    /// variance) and μ̂ are the channels' means, themselves normalised over the channels (unbiased variance). The
    /// paper adds α·μ̂ beside γ·h; the published program, which we follow, multiplies it by γ too.
    ///
    /// # Shapes
    /// `x`: `[batch, features, height, width]`; `labels`: `[batch]`, level indices; result as `x`.
    pub fn forward(&self, x: Tensor<4>, labels: &Tensor<1, Int>) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let row = self.embed.weight.val().select(0, labels.clone());
        let part = |i: usize| row.clone().slice([0..n, i * c..(i + 1) * c]);
        let x = x.reshape([n, c, h * w]);
        let mu = x.clone().mean_dim(2);
        let centred = x - mu.clone();
        let variance = centred.clone().square().mean_dim(2);
        let h_scale = (variance + EPSILON).sqrt().recip();
        let (gamma, shift) = match self.kind {
            NormKind::Instance => (part(0), part(1)),
            NormKind::InstancePlus => {
                let (gamma, alpha, beta) = (part(0), part(1), part(2));
                let mu = mu.reshape([n, c]);
                let centred = mu.clone() - mu.mean_dim(1);
                let variance = centred.clone().square().sum_dim(1) / (c as f64 - 1.0);
                let mu_hat = centred / (variance + EPSILON).sqrt();
                (gamma.clone(), gamma * alpha * mu_hat + beta)
            }
        };
        // γ·h + shift as one product and one sum over the pixels.
        let scale = gamma.reshape([n, c, 1]) * h_scale;
        (centred * scale + shift.reshape([n, c, 1])).reshape([n, c, h, w])
    }
}
