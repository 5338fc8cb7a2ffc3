//! Scores that are known in closed form.

use std::sync::Arc;

use burn::tensor::{Tensor, activation::softmax};

use super::{Differentiable, Score};
use crate::device::upload;
use crate::noise::Stream;
use crate::sde::{Marginal, Process};

/// The exact score of a mixture of isotropic Gaussians in `dim` dimensions, perturbed by a process.
///
/// p_t(x) = Σₖ wₖ N(x; αμₖ, v·I) with v = α²s² + std², so s(x) = Σₖ rₖ(x)·(αμₖ − x)/v with rₖ the posterior of component k.
#[derive(Clone, Debug)]
pub struct GaussianMixture {
    means: Vec<Vec<f64>>,
    weights: Vec<f64>,
    std: f64,
    process: Arc<dyn Process>,
}

impl GaussianMixture {
    /// Components `(weight, mean)`, all of standard deviation `std`; weights need not sum to 1.
    pub fn new(components: &[(f64, &[f64])], std: f64, process: impl Process + 'static) -> Self {
        assert!(!components.is_empty() && components.iter().all(|(w, m)| *w > 0.0 && m.len() == components[0].1.len()));
        let total: f64 = components.iter().map(|(w, _)| w).sum();
        Self {
            means: components.iter().map(|(_, m)| m.to_vec()).collect(),
            weights: components.iter().map(|(w, _)| w / total).collect(),
            std,
            process: Arc::new(process),
        }
    }

    /// The process that perturbs the data.
    pub fn process(&self) -> &Arc<dyn Process> {
        &self.process
    }

    /// α and v at time `t`.
    fn at(&self, t: f64) -> [f64; 2] {
        let Marginal { alpha, std } = self.process.marginal(t);
        [alpha, (alpha * self.std).powi(2) + std * std]
    }

    /// ln p_t(x).
    pub fn log_density(&self, x: &[f64], t: f64) -> f64 {
        let [alpha, variance] = self.at(t);
        let log_scale = -0.5 * x.len() as f64 * (std::f64::consts::TAU * variance).ln();
        let terms = self.means.iter().zip(&self.weights).map(|(mean, weight)| {
            let square: f64 = x.iter().zip(mean).map(|(x, m)| (x - alpha * m).powi(2)).sum();
            weight.ln() - square / (2.0 * variance)
        });
        let terms: Vec<f64> = terms.collect();
        let largest = terms.iter().fold(f64::NEG_INFINITY, |m, t| m.max(*t));
        largest + terms.iter().map(|t| (t - largest).exp()).sum::<f64>().ln() + log_scale
    }

    /// A point of p_t; `D` is the mixture's dimension.
    pub fn sample<const D: usize>(&self, t: f64, stream: &mut Stream) -> [f64; D] {
        let (mut u, mut z) = ([0.0], [0.0; D]);
        stream.uniform(&mut u);
        stream.normal(&mut z);
        let mut left = f64::from(u[0]);
        let chosen = self.weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        let mean = &self.means[chosen.unwrap_or(self.means.len() - 1)];
        let [alpha, variance] = self.at(t);
        std::array::from_fn(|i| alpha * mean[i] + variance.sqrt() * f64::from(z[i]))
    }
}

impl GaussianMixture {
    /// The posteriors rₖ `[n, k, 1]`, the scores of the components, (αμₖ − x)/v `[n, k, dim]`, and v `[n, 1, 1]`.
    fn parts(&self, x: Tensor<2>, t: &[f64]) -> [Tensor<3>; 3] {
        let device = x.device();
        let [n, dim] = x.dims();
        let k = self.means.len();
        let host = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        let means = upload(host(self.means.concat()), [1, k, dim], &device);
        let log_w = upload(host(self.weights.iter().map(|w| w.ln()).collect()), [1, k], &device);
        let (alphas, variances) = t.iter().map(|&t| self.at(t)).map(|[alpha, variance]| (alpha, variance)).unzip();
        let [alpha, variance] = [alphas, variances].map(|values| upload::<3>(host(values), [n, 1, 1], &device));

        let towards = alpha * means - x.reshape([n, 1, dim]);
        let log_p = (towards.clone().square().sum_dim(2) / variance.clone() * -0.5).reshape([n, k]) + log_w;
        let r = softmax(log_p, 1).reshape([n, k, 1]);
        [r, towards, variance]
    }
}

impl Score<2> for GaussianMixture {
    fn score(&self, x: Tensor<2>, t: &[f64]) -> Tensor<2> {
        let shape = x.dims();
        let [r, towards, variance] = self.parts(x, t);
        (r * towards / variance).sum_dim(1).reshape(shape)
    }
}

impl Differentiable<2> for GaussianMixture {
    /// With sₖ, the scores of the components: s = Σₖ rₖ·sₖ and (∂s/∂x)·u = −u/v + Σₖ rₖ·(sₖᵀu − sᵀu)·sₖ, because ∇rₖ = rₖ·(sₖ − s).
    fn jvp(&self, x: Tensor<2>, t: &[f64], u: Tensor<2>) -> [Tensor<2>; 2] {
        let shape @ [n, dim] = x.dims();
        let [r, towards, variance] = self.parts(x, t);
        let s = (r.clone() * towards.clone() / variance.clone()).sum_dim(1);
        let u = u.reshape([n, 1, dim]);
        let each = towards / variance.clone();
        let slopes = (each.clone() * u.clone()).sum_dim(2) - (s.clone() * u.clone()).sum_dim(2);
        let change = (r * slopes * each).sum_dim(1) - u / variance;
        [s, change].map(|tensor| tensor.reshape(shape))
    }
}
