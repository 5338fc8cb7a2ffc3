//! Instance normalisation, plain and ++, with scales by noise level or without (Song & Ermon 2019, appendix A.1).

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ncsn_kernels::ops::has_kernels;
use ncsn_kernels::ops::norm::{Activation, instance_norm};

use super::{Dual, elu};
use crate::device::upload;
use crate::noise::Stream;

/// Which normalisation a network uses everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Conditional instance norm++, which keeps the channels' means: table rows (γ, α, β).
    ConditionalPlus,
    /// Conditional instance norm: table rows (γ, β).
    Conditional,
    /// Instance norm++ with one γ, α and β for all levels.
    Plus,
}

/// A table with one row a noise level.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[levels, columns]`
    pub weight: Param<Tensor<2>>,
}

/// Scales and shifts by noise level.
#[derive(Module, Debug)]
pub struct ByLevel {
    /// Rows (γ, α, β) or (γ, β).
    pub embed: Embedding,
}

/// The same scales and shifts at every level, each `[features]`.
#[derive(Module, Debug)]
pub struct ForAll {
    /// Of the channels' means.
    pub alpha: Param<Tensor<1>>,
    /// Of everything but the shift.
    pub gamma: Param<Tensor<1>>,
    /// Shift.
    pub beta: Param<Tensor<1>>,
}

/// Instance normalisation.
#[derive(Module, Debug)]
pub enum Norm {
    /// Conditional.
    ByLevel(ByLevel),
    /// Unconditional.
    ForAll(ForAll),
}

/// Added to variances before the square root, as in PyTorch.
const EPSILON: f64 = 1e-5;

/// `x` with mean 0 and variance 1 along `dim`: what normalisations of any kind begin with.
pub(super) fn standardised<const D: usize>(x: Dual<D>, dim: usize) -> Dual<D> {
    let centred = x.clone() - x.mean_dim(dim);
    let scale = (centred.clone().square().mean_dim(dim) + EPSILON).rsqrt();
    centred * scale
}

impl Norm {
    /// For `n_features` channels and `n_levels` levels. Instance norm++ starts with γ, α ~ N(1, 0.02²) and β = 0;
    /// plain instance norm with γ ~ U[0, 1) and β = 0.
    pub fn new(kind: NormKind, n_features: usize, n_levels: usize, noise: &mut Stream, device: &Device) -> Self {
        let near_one = |noise: &mut Stream, values: &mut [f32]| {
            noise.normal(values);
            values.iter_mut().for_each(|z| *z = 1.0 + 0.02 * *z);
        };
        let (n_random, n_columns) = match kind {
            NormKind::ConditionalPlus => (2 * n_features, 3 * n_features),
            NormKind::Conditional => (n_features, 2 * n_features),
            NormKind::Plus => {
                let param = |values| Param::from_tensor(upload(values, [n_features], device));
                let mut random = || {
                    let mut values = vec![0.0; n_features];
                    near_one(noise, &mut values);
                    param(values)
                };
                let (alpha, gamma) = (random(), random());
                return Self::ForAll(ForAll { alpha, gamma, beta: param(vec![0.0; n_features]) });
            }
        };
        let mut table = vec![0.0; n_levels * n_columns];
        for row in table.chunks_mut(n_columns) {
            let scales = &mut row[..n_random];
            if kind == NormKind::ConditionalPlus { near_one(noise, scales) } else { noise.uniform(scales) }
        }
        let weight = Param::from_tensor(upload(table, [n_levels, n_columns], device));
        Self::ByLevel(ByLevel { embed: Embedding { weight } })
    }

    /// Instance norm++: out = γ·(h + α·μ̂) + β, where h has mean 0 and variance 1 over each channel's pixels (biased
    /// variance) and μ̂ are the channels' means, themselves normalised over the channels (unbiased variance). The
    /// paper adds α·μ̂ beside γ·h; the published program, which we follow, multiplies it by γ too. Without α it is
    /// instance norm.
    ///
    /// # Shapes
    /// `x`: `[batch, features, height, width]`; `labels`: `[batch]`, level indices; result as `x`.
    pub fn forward(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        self.forward_keeping(Activation::None, x, labels).0
    }

    /// [`Self::forward`], then ELU, in one pass.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub fn forward_elu(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        self.forward_keeping(Activation::Elu, x, labels).0
    }

    /// The normalised x, and x itself for the way around a block: the gradients of both are then added in one pass.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub(super) fn forward_keeping(
        &self,
        activation: Activation,
        x: Dual<4>,
        labels: &Tensor<1, Int>,
    ) -> (Dual<4>, Dual<4>) {
        let [n, c, ..] = x.dims();
        if x.tangent.is_none() && has_kernels(&x.value) {
            let (table, rows) = self.table(n, labels);
            let [out, x] = instance_norm(x.value, table, rows, activation);
            return (out.into(), x.into());
        }
        let (gamma, alpha, beta) = self.scales([n, c], labels);
        let out = normalised(x.clone(), gamma, alpha, beta);
        (if activation == Activation::Elu { elu(out) } else { out }, x)
    }

    /// Rows (γ, α, β) or (γ, β), and that of each of `n` examples.
    fn table(&self, n: usize, labels: &Tensor<1, Int>) -> (Tensor<2>, Tensor<1, Int>) {
        match self {
            Self::ByLevel(ByLevel { embed }) => (embed.weight.val(), labels.clone()),
            Self::ForAll(ForAll { alpha, gamma, beta }) => {
                let table = Tensor::cat(vec![gamma.val(), alpha.val(), beta.val()], 0).unsqueeze();
                (table, Tensor::zeros([n], &labels.device()))
            }
        }
    }

    /// γ, α (`None` for instance norm) and β of each example: `[batch, features]`.
    fn scales(&self, [n, c]: [usize; 2], labels: &Tensor<1, Int>) -> (Tensor<2>, Option<Tensor<2>>, Tensor<2>) {
        match self {
            Self::ByLevel(ByLevel { embed }) => {
                let row = embed.weight.val().select(0, labels.clone());
                let part = |i: usize| row.clone().slice([0..n, i * c..(i + 1) * c]);
                if row.dims()[1] == 3 * c { (part(0), Some(part(1)), part(2)) } else { (part(0), None, part(1)) }
            }
            Self::ForAll(ForAll { alpha, gamma, beta }) => {
                let all = |values: &Param<Tensor<1>>| values.val().reshape([1, c]).expand([n, c]);
                (all(gamma), Some(all(alpha)), all(beta))
            }
        }
    }
}

/// [`Norm::forward`] made of operations that also carry a tangent.
fn normalised(x: Dual<4>, gamma: Tensor<2>, alpha: Option<Tensor<2>>, beta: Tensor<2>) -> Dual<4> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c, h * w]);
    let mu = x.clone().mean_dim(2);
    let centred = x - mu.clone();
    let h_scale = (centred.clone().square().mean_dim(2) + EPSILON).rsqrt();
    let shift: Dual<2> = match alpha {
        None => beta.into(),
        Some(alpha) => {
            let mu = mu.reshape([n, c]);
            let centred = mu.clone() - mu.mean_dim(1);
            let variance = centred.clone().square().linear(|s| s.sum_dim(1) / (c as f64 - 1.0));
            let mu_hat = centred * (variance + EPSILON).rsqrt();
            Dual::from(gamma.clone() * alpha) * mu_hat + Dual::from(beta)
        }
    };
    // γ·h + shift as one product and one sum over the pixels.
    let scale = Dual::from(gamma.reshape([n, c, 1])) * h_scale;
    (centred * scale + shift.reshape([n, c, 1])).reshape([n, c, h, w])
}
