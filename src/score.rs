//! s(x, i) ≈ ∇ₓ log p_σᵢ(x): the one interface that losses and samplers see.

use burn::tensor::{Int, Tensor, TensorData, activation::softmax};

use crate::net::{DenseScore, Dual, Mlp, Network, RefineNet, ResNetScore, ResScore, UNetScore};
use crate::noise::Stream;
use crate::sde::NoiseLevels;

/// The score of data blurred to one of several noise levels, for `D`-dimensional tensors (4 for images, 2 for points).
pub trait Score<const D: usize> {
    /// # Shapes
    /// `x`: `[batch, …]`; `labels`: `[batch]`, level indices; result as `x`.
    fn score(&self, x: Tensor<D>, labels: &Tensor<1, Int>) -> Tensor<D>;
}

impl<const D: usize, S: Score<D>> Score<D> for &S {
    fn score(&self, x: Tensor<D>, labels: &Tensor<1, Int>) -> Tensor<D> {
        (**self).score(x, labels)
    }
}

/// A score whose product with a direction is known exactly.
pub trait Differentiable<const D: usize>: Score<D> {
    /// s(x, i) and (∂s/∂x)·v, both differentiable with respect to parameters.
    ///
    /// # Shapes
    /// `x`, `v`: `[batch, …]`; `labels`: `[batch]`; results as `x`.
    fn jvp(&self, x: Tensor<D>, labels: &Tensor<1, Int>, v: Tensor<D>) -> [Tensor<D>; 2];
}

/// What a network's forward pass gives, as a score.
macro_rules! score_of {
    ($($network:ty: $rank:literal, $forward:expr;)*) => {$(
        impl Score<$rank> for $network {
            fn score(&self, x: Tensor<$rank>, labels: &Tensor<1, Int>) -> Tensor<$rank> {
                let forward: fn(&Self, Dual<$rank>, &Tensor<1, Int>) -> Dual<$rank> = $forward;
                forward(self, x.into(), labels).value
            }
        }

        impl Differentiable<$rank> for $network {
            fn jvp(&self, x: Tensor<$rank>, labels: &Tensor<1, Int>, v: Tensor<$rank>) -> [Tensor<$rank>; 2] {
                let forward: fn(&Self, Dual<$rank>, &Tensor<1, Int>) -> Dual<$rank> = $forward;
                forward(self, Dual::along(x, v), labels).parts()
            }
        }
    )*};
}

score_of! {
    Network: 4, Network::forward;
    RefineNet: 4, RefineNet::forward;
    ResScore: 4, |net, x, _| net.forward(x);
    ResNetScore: 4, |net, x, _| net.forward(x);
    UNetScore: 4, |net, x, _| net.forward(x);
    DenseScore: 4, |net, x, _| net.forward(x);
    Mlp: 2, |net, x, _| net.forward(x);
}

/// The exact score of a mixture of isotropic Gaussians in `dim` dimensions, blurred to the given noise levels.
///
/// p_σ(x) = Σₖ wₖ N(x; μₖ, (s² + σ²)·I), so s(x) = Σₖ rₖ(x)·(μₖ − x)/(s² + σ²) with rₖ the posterior of component k.
#[derive(Clone, Debug)]
pub struct GaussianMixture {
    means: Vec<Vec<f64>>,
    weights: Vec<f64>,
    std: f64,
    sigmas: Vec<f64>,
}

impl GaussianMixture {
    /// Components `(weight, mean)`, all of standard deviation `std`; weights need not sum to 1.
    pub fn new(components: &[(f64, &[f64])], std: f64, levels: &NoiseLevels) -> Self {
        assert!(!components.is_empty() && components.iter().all(|(w, m)| *w > 0.0 && m.len() == components[0].1.len()));
        let total: f64 = components.iter().map(|(w, _)| w).sum();
        Self {
            means: components.iter().map(|(_, m)| m.to_vec()).collect(),
            weights: components.iter().map(|(w, _)| w / total).collect(),
            std,
            sigmas: levels.sigmas().to_vec(),
        }
    }

    /// ln p_σ(x) at level `level`.
    pub fn log_density(&self, x: &[f64], level: usize) -> f64 {
        let variance = self.std * self.std + self.sigmas[level] * self.sigmas[level];
        let log_scale = -0.5 * x.len() as f64 * (std::f64::consts::TAU * variance).ln();
        let terms = self.means.iter().zip(&self.weights).map(|(mean, weight)| {
            let square: f64 = x.iter().zip(mean).map(|(x, m)| (x - m).powi(2)).sum();
            weight.ln() - square / (2.0 * variance)
        });
        let terms: Vec<f64> = terms.collect();
        let largest = terms.iter().fold(f64::NEG_INFINITY, |m, t| m.max(*t));
        largest + terms.iter().map(|t| (t - largest).exp()).sum::<f64>().ln() + log_scale
    }

    /// A point of p_σ at level `level`; `D` is the mixture's dimension.
    pub fn sample<const D: usize>(&self, level: usize, stream: &mut Stream) -> [f64; D] {
        let (mut u, mut z) = ([0.0], [0.0; D]);
        stream.uniform(&mut u);
        stream.normal(&mut z);
        let mut left = f64::from(u[0]);
        let chosen = self.weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let mean = &self.means[chosen.unwrap_or(self.means.len() - 1)];
        let std = self.std.hypot(self.sigmas[level]);
        std::array::from_fn(|i| mean[i] + std * f64::from(z[i]))
    }
}

impl Score<2> for GaussianMixture {
    fn score(&self, x: Tensor<2>, labels: &Tensor<1, Int>) -> Tensor<2> {
        let device = x.device();
        let [n, dim] = x.dims();
        let k = self.means.len();
        let host = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        let means = Tensor::<3>::from_data(TensorData::new(host(self.means.concat()), [1, k, dim]), &device);
        let log_w = Tensor::<2>::from_data(
            TensorData::new(host(self.weights.iter().map(|w| w.ln()).collect()), [1, k]),
            &device,
        );
        let variances = self.sigmas.iter().map(|s| self.std * self.std + s * s).collect();
        let variances = Tensor::<1>::from_data(TensorData::new(host(variances), [self.sigmas.len()]), &device);
        let variance = variances.select(0, labels.clone()).reshape([n, 1, 1]);

        let towards = means - x.reshape([n, 1, dim]);
        let log_p = (towards.clone().square().sum_dim(2) / variance.clone() * -0.5).reshape([n, k]) + log_w;
        let r = softmax(log_p, 1).reshape([n, k, 1]);
        (r * towards / variance).sum_dim(1).reshape([n, dim])
    }
}
