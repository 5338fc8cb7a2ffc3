//! Normalisations: of instances, plain and ++, with scales by noise level or without (Song & Ermon 2019, appendix A.1); of groups
//! of channels; of layers.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use ncsn_kernels::ops::batch_norm::{Options, batch_norm, moments};
use ncsn_kernels::ops::norm::{Activation as Kernel, group_norm, instance_norm};
use ncsn_kernels::ops::{has_kernels, is_cpu};

use super::{Activation, Buffer, Condition, Dual, Record};
use crate::device::upload;
use crate::noise::Stream;

/// A normalisation of each channel of each image, without its scales. With levels, its scales are rows of a table; without, they are
/// the same for all images (Song & Ermon 2019, appendix A.1; 2020, appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Instance norm++, which keeps the channels' means: γ·(h + α·μ̂) + β.
    InstanceNormPlus,
    /// Instance norm: h has mean 0 and (biased) variance 1 over the pixels. With levels γ·h + β, without h alone.
    InstanceNorm,
    /// Division by the (unbiased) standard deviation over the pixels; the mean stays. α·x/√(v + 1e-5).
    VarianceNorm,
    /// Batch norm: mean 0 and variance 1 over the pixels of all images of a batch in steps of training, else by the running statistics
    /// that these left, which are buffers. γ·h + β (Ioffe & Szegedy 2015).
    BatchNorm,
    /// No normalisation. With levels γ·x + β, without x alone.
    NoNorm,
}

/// A table with one row a noise level.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[levels, columns]`
    pub weight: Param<Tensor<2>>,
}

/// Statistics over many images.
#[derive(Module, Debug)]
pub struct Running {
    /// `[features]`
    running_mean: Buffer<1>,
    /// `[features]`
    running_var: Buffer<1>,
}

/// A normalisation with its scales: a table with one row a level, or the entries that its kind has without levels.
#[derive(Module, Debug)]
pub struct Norm {
    /// Rows (γ, α, β), (γ, β) or γ.
    embed: Option<Embedding>,
    /// `[features]`
    alpha: Option<Param<Tensor<1>>>,
    /// `[features]`
    gamma: Option<Param<Tensor<1>>>,
    /// `[features]`
    beta: Option<Param<Tensor<1>>>,
    /// γ of batch norm without levels: `[features]`
    weight: Option<Param<Tensor<1>>>,
    /// β of batch norm without levels: `[features]`
    bias: Option<Param<Tensor<1>>>,
    /// Those of batch norm without levels.
    running_mean: Option<Buffer<1>>,
    running_var: Option<Buffer<1>>,
    /// Those of batch norm with levels.
    bn: Option<Running>,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    epsilon: f64,
}

/// Added to variances before the square root, as in PyTorch.
pub(super) const EPSILON: f64 = 1e-5;
/// How far the running statistics of batch norms move in a step, as in PyTorch.
const MOMENTUM: f64 = 0.1;

/// `x` with mean 0 and variance 1 along `dim`: what normalisations of any kind begin with.
pub(super) fn standardised<const D: usize>(x: Dual<D>, dim: usize, epsilon: f64) -> Dual<D> {
    let centred = x.clone() - x.mean_dim(dim);
    let scale = (centred.clone().square().mean_dim(dim) + epsilon).rsqrt();
    centred * scale
}

impl NormKind {
    /// The columns of a table, in units of the features, and how many of them do not start at 0.
    pub(super) fn columns(self) -> [usize; 2] {
        match self {
            Self::InstanceNormPlus => [3, 2],
            Self::InstanceNorm | Self::BatchNorm | Self::NoNorm => [2, 1],
            Self::VarianceNorm => [1, 1],
        }
    }
}

impl Norm {
    /// For `n_features` channels, with a table for so many levels or without. Of instance norm++ and variance norm γ and α start at
    /// N(1, 0.02²), of the others γ at U[0, 1); β starts at 0.
    pub fn new(
        kind: NormKind,
        n_features: usize,
        n_levels: Option<usize>,
        noise: &mut Stream,
        device: &Device,
    ) -> Self {
        let near_one = |noise: &mut Stream, values: &mut [f32]| {
            noise.normal(values);
            values.iter_mut().for_each(|z| *z = 1.0 + 0.02 * *z);
        };
        let mut norm = Self {
            embed: None,
            alpha: None,
            gamma: None,
            beta: None,
            weight: None,
            bias: None,
            running_mean: None,
            running_var: None,
            bn: None,
            kind,
            epsilon: EPSILON,
        };
        let buffer = |value| Buffer::new(upload(vec![value; n_features], [n_features], device));
        let Some(n_levels) = n_levels else {
            let param = |values| Some(Param::from_tensor(upload(values, [n_features], device)));
            if kind == NormKind::BatchNorm {
                (norm.weight, norm.bias) = (param(vec![1.0; n_features]), param(vec![0.0; n_features]));
                (norm.running_mean, norm.running_var) = (Some(buffer(0.0)), Some(buffer(1.0)));
            }
            let mut random = || {
                let mut values = vec![0.0; n_features];
                near_one(noise, &mut values);
                param(values)
            };
            if matches!(kind, NormKind::InstanceNormPlus | NormKind::VarianceNorm) {
                norm.alpha = random();
            }
            if kind == NormKind::InstanceNormPlus {
                norm.gamma = random();
                norm.beta = param(vec![0.0; n_features]);
            }
            return norm;
        };
        let [n_columns, n_random] = kind.columns().map(|n| n * n_features);
        let mut table = vec![0.0; n_levels * n_columns];
        for row in table.chunks_mut(n_columns) {
            let scales = &mut row[..n_random];
            match kind {
                NormKind::InstanceNormPlus | NormKind::VarianceNorm => near_one(noise, scales),
                NormKind::InstanceNorm | NormKind::BatchNorm | NormKind::NoNorm => noise.uniform(scales),
            }
        }
        let weight = Param::from_tensor(upload(table, [n_levels, n_columns], device));
        norm.embed = Some(Embedding { weight });
        if kind == NormKind::BatchNorm {
            norm.bn = Some(Running { running_mean: buffer(0.0), running_var: buffer(1.0) });
        }
        norm
    }

    /// With another number added to the variances of instance norm and batch norm.
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        let takes_one = matches!(self.kind, NormKind::InstanceNorm | NormKind::BatchNorm);
        if takes_one { Self { epsilon, ..self } } else { self }
    }

    /// The normalised `x`. Of instance norm++ it is γ·(h + α·μ̂) + β, where h has mean 0 and variance 1 over each channel's pixels
    /// (biased variance) and μ̂ are the channels' means, themselves normalised over the channels (unbiased variance). The
    /// paper adds α·μ̂ beside γ·h; the published program, which we follow, multiplies it by γ too.
    ///
    /// # Shapes
    /// `x`: `[batch, features, height, width]`; `given`: the noise levels; result as `x`.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        self.forward_keeping(None, x, given).0
    }

    /// [`Self::forward`], then the activation, where there are kernels in one pass.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub fn forward_then(&self, activation: Activation, x: Dual<4>, given: &Condition) -> Dual<4> {
        self.forward_keeping(Some(activation), x, given).0
    }

    /// The normalised x, and x itself for the way around a block: the gradients of both are then added in one pass. Whoever uses
    /// the second must use the first too.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub(super) fn forward_keeping(
        &self,
        activation: Option<Activation>,
        x: Dual<4>,
        given: &Condition,
    ) -> (Dual<4>, Dual<4>) {
        let [n, c, ..] = x.dims();
        let [.., h, w] = x.dims();
        let fits = match self.kind {
            NormKind::InstanceNormPlus | NormKind::InstanceNorm => self.epsilon == EPSILON,
            NormKind::VarianceNorm => is_cpu(&x.value.device()) && h * w > 1,
            // Tables and moments of their own.
            NormKind::BatchNorm | NormKind::NoNorm => false,
        };
        if fits && x.tangent.is_none() && has_kernels(&x.value) {
            let (table, rows) = self.table([n, c], given, &x.value.device());
            let activation = activation.map_or(Kernel::None, Activation::kernel);
            let [out, x] = instance_norm(x.value, table, rows, activation);
            return (out.into(), x.into());
        }
        let [x, same] = x.twice();
        if x.tangent.is_none() && has_kernels(&x.value) && is_cpu(&x.value.device()) && self.has_moments() {
            return (self.by_moments(x.value, activation, given).into(), same);
        }
        let scales = self.scales([n, c], given);
        let out = match self.kind {
            NormKind::InstanceNormPlus | NormKind::InstanceNorm => instance_normalised(x, scales, self.epsilon),
            NormKind::VarianceNorm => variance_normalised(x, scales),
            NormKind::BatchNorm => match given.record() {
                Some(record) => self.of_batch(x, scales, record),
                None => scaled(x, self.standardising(scales)),
            },
            NormKind::NoNorm => scaled(x, scales),
        };
        (activation.into_iter().fold(out, |out, activation| activation.forward(out)), same)
    }

    /// Whether it is one with the same mean and variance for all images, or, without norm, with none.
    fn has_moments(&self) -> bool {
        self.kind == NormKind::BatchNorm || self.kind == NormKind::NoNorm && self.embed.is_some()
    }

    /// Batch norm, or none with scales, in one pass.
    fn by_moments(&self, x: Tensor<4>, activation: Option<Activation>, given: &Condition) -> Tensor<4> {
        let ([n, c, ..], device) = (x.dims(), x.device());
        let record = given.record().filter(|_| self.kind == NormKind::BatchNorm);
        let moments = match (self.kind, record) {
            (NormKind::BatchNorm, Some(record)) => {
                let moments = moments(x.clone());
                self.remember(record, moments.clone(), x.shape().num_elements() / c);
                moments
            }
            (NormKind::BatchNorm, None) => Tensor::stack(self.running().map(Buffer::val).to_vec(), 0),
            // (x − 0)/√(1 + 0)
            _ => Tensor::cat(vec![Tensor::zeros([1, c], &device), Tensor::ones([1, c], &device)], 0),
        };
        let epsilon = if self.kind == NormKind::BatchNorm { self.epsilon } else { 0.0 };
        let activation = activation.map_or(Kernel::None, Activation::kernel);
        let (table, rows) = self.table([n, c], given, &device);
        batch_norm(x, table, rows, moments, Options { of_batch: record.is_some(), epsilon, activation })
    }

    /// The running statistics move towards the moments of a batch, whose variance is biased, of so many values.
    fn remember(&self, record: &Record, moments: Tensor<2>, n_values: usize) {
        let moments = moments.without_autodiff();
        let c = moments.dims()[1];
        let unbiased = n_values as f64 / (n_values as f64 - 1.0);
        for (row, (buffer, factor)) in self.running().into_iter().zip([1.0, unbiased]).enumerate() {
            let new = moments.clone().slice([row..row + 1, 0..c]).reshape([c]) * factor;
            record.update(buffer, |old| old * (1.0 - MOMENTUM) + new * MOMENTUM);
        }
    }

    /// For kernels: rows (γ, α, β), (γ, β) or γ, and the number of that of each of `n` images.
    fn table(&self, [n, c]: [usize; 2], given: &Condition, device: &Device) -> (Tensor<2>, Tensor<1, Int>) {
        let Self { embed, alpha, gamma, beta, weight, bias, .. } = self;
        if let (Some(gamma), Some(beta)) = (weight, bias) {
            let table = Tensor::cat(vec![gamma.val(), beta.val()], 0);
            return (table.unsqueeze(), Tensor::zeros([n], device));
        }
        let table = match (embed, alpha, gamma, beta) {
            (Some(embed), ..) => return (embed.weight.val(), given.levels().clone()),
            (None, Some(alpha), Some(gamma), Some(beta)) => Tensor::cat(vec![gamma.val(), alpha.val(), beta.val()], 0),
            // The one scale of variance norm is published as alpha.
            (None, Some(alpha), None, None) => alpha.val(),
            _ => Tensor::cat(vec![Tensor::ones([c], device), Tensor::zeros([c], device)], 0),
        };
        (table.unsqueeze(), Tensor::zeros([n], device))
    }

    /// The scales of each of `n` images.
    fn scales(&self, [n, c]: [usize; 2], given: &Condition) -> Scales {
        if let Some(embed) = &self.embed {
            let row = embed.weight.val().select(0, given.levels().clone());
            let part = |i: usize| Some(row.clone().slice([0..n, i * c..(i + 1) * c]));
            return match self.kind {
                NormKind::InstanceNormPlus => Scales { gamma: part(0), alpha: part(1), beta: part(2) },
                NormKind::InstanceNorm | NormKind::BatchNorm | NormKind::NoNorm => {
                    Scales { gamma: part(0), alpha: None, beta: part(1) }
                }
                NormKind::VarianceNorm => Scales { gamma: part(0), alpha: None, beta: None },
            };
        }
        let all = |values: &Option<Param<Tensor<1>>>| Some(values.as_ref()?.val().reshape([1, c]).expand([n, c]));
        let [alpha, gamma, beta] = [&self.alpha, &self.gamma, &self.beta].map(all);
        if self.kind == NormKind::BatchNorm {
            let [gamma, beta] = [&self.weight, &self.bias].map(all);
            return Scales { gamma, alpha: None, beta };
        }
        // The one scale of variance norm is published as alpha.
        if self.kind == NormKind::VarianceNorm {
            return Scales { gamma: alpha, alpha: None, beta: None };
        }
        Scales { gamma, alpha, beta }
    }

    /// The mean and the variance of batch norm.
    fn running(&self) -> [&Buffer<1>; 2] {
        let own = self.running_mean.as_ref().zip(self.running_var.as_ref());
        let (mean, variance) =
            self.bn.as_ref().map(|bn| (&bn.running_mean, &bn.running_var)).or(own).expect("batch norm has statistics");
        [mean, variance]
    }

    /// γ·h + β, h with mean 0 and (biased) variance 1 over the batch. The running statistics move towards those of the batch, with the
    /// unbiased variance.
    fn of_batch(&self, x: Dual<4>, scales: Scales, record: &Record) -> Dual<4> {
        let [n, c, h, w] = x.dims();
        let mean = |x: Dual<4>| x.reshape([n, c, h * w]).mean_dim(2).mean_dim(0).reshape([1, c, 1, 1]);
        let mu = mean(x.clone());
        let centred = x - mu.clone();
        let variance = mean(centred.clone().square());
        let moments = [mu.value, variance.value.clone()].map(|x| x.reshape([1, c])).to_vec();
        self.remember(record, Tensor::cat(moments, 0), n * h * w);
        scaled(centred * (variance + self.epsilon).rsqrt(), scales)
    }

    /// γ and β of x for γ·h + β with h = (x − mean)/√(variance + ε), for the running statistics of batch norm.
    fn standardising(&self, Scales { gamma, beta, .. }: Scales) -> Scales {
        let [mean, variance] = self.running().map(|buffer| buffer.val().unsqueeze::<2>());
        let gamma = gamma.expect("and scales") * (variance + self.epsilon).sqrt().recip();
        let beta = beta.expect("and shifts") - gamma.clone() * mean;
        Scales { gamma: Some(gamma), alpha: None, beta: Some(beta) }
    }
}

/// γ, α and β of each image, `[batch, features]`; `None` for 1, 0 and 0.
struct Scales {
    gamma: Option<Tensor<2>>,
    alpha: Option<Tensor<2>>,
    beta: Option<Tensor<2>>,
}

/// Instance norms made of operations that also carry a tangent.
fn instance_normalised(x: Dual<4>, Scales { gamma, alpha, beta }: Scales, epsilon: f64) -> Dual<4> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c, h * w]);
    let mu = x.clone().mean_dim(2);
    let centred = x - mu.clone();
    let h_scale = (centred.clone().square().mean_dim(2) + epsilon).rsqrt();
    let Some(gamma) = gamma else { return (centred * h_scale).reshape([n, c, h, w]) };
    let mut shift = beta.map(Dual::from);
    if let Some(alpha) = alpha {
        let mu = mu.reshape([n, c]);
        let centred = mu.clone() - mu.mean_dim(1);
        let variance = centred.clone().square().linear(|s| s.sum_dim(1) / (c as f64 - 1.0));
        let mu_hat = centred * (variance + EPSILON).rsqrt();
        let of_means = Dual::from(gamma.clone() * alpha) * mu_hat;
        shift = Some(shift.into_iter().fold(of_means, |of_means, beta| of_means + beta));
    }
    // γ·h + shift as one product and one sum over the pixels.
    let scaled = centred * (Dual::from(gamma.reshape([n, c, 1])) * h_scale);
    let out = shift.into_iter().fold(scaled, |scaled, shift| scaled + shift.reshape([n, c, 1]));
    out.reshape([n, c, h, w])
}

/// γ·x/√(v + 1e-5), v the unbiased variance over the pixels.
fn variance_normalised(x: Dual<4>, Scales { gamma, .. }: Scales) -> Dual<4> {
    let [n, c, h, w] = x.dims();
    let x = x.reshape([n, c, h * w]);
    let centred = x.clone() - x.clone().mean_dim(2);
    let n_pixels = (h * w) as f64;
    let variance = centred.square().linear(|s| s.sum_dim(2) / (n_pixels - 1.0));
    let scale = (variance + EPSILON).rsqrt();
    let scale = gamma.into_iter().fold(scale, |scale, gamma| Dual::from(gamma.reshape([n, c, 1])) * scale);
    (x * scale).reshape([n, c, h, w])
}

/// γ·x + β
fn scaled(x: Dual<4>, Scales { gamma, beta, .. }: Scales) -> Dual<4> {
    let [n, c, ..] = x.dims();
    let x = gamma.into_iter().fold(x, |x, gamma| x * Dual::from(gamma.reshape([n, c, 1, 1])));
    beta.into_iter().fold(x, |x, beta| x + Dual::from(beta.reshape([n, c, 1, 1])))
}

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
    #[module(skip)]
    epsilon: f64,
}

impl GroupNorm {
    /// Scales 1, shifts 0. `n_features` is a multiple of `n_groups`.
    pub fn new(n_features: usize, n_groups: usize, device: &Device) -> Self {
        assert!(n_features.is_multiple_of(n_groups), "{n_features} channels in {n_groups} groups");
        let param = |value| Param::from_tensor(upload(vec![value; n_features], [n_features], device));
        Self { weight: param(1.0), bias: param(0.0), n_groups, epsilon: EPSILON }
    }

    /// With another number added to the variances than 1e-5.
    pub fn with_epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, x: Dual<4>) -> Dual<4> {
        self.forward_keeping(None, x).0
    }

    /// [`Self::forward`], then the activation, where there are kernels in one pass.
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub fn forward_then(&self, activation: Activation, x: Dual<4>) -> Dual<4> {
        self.forward_keeping(Some(activation), x).0
    }

    /// The normalised x, and x itself for the way around a block, as [`Norm::forward_keeping`].
    ///
    /// # Shapes
    /// As [`Self::forward`].
    pub(super) fn forward_keeping(&self, activation: Option<Activation>, x: Dual<4>) -> (Dual<4>, Dual<4>) {
        let [n, c, h, w] = x.dims();
        if x.tangent.is_none() && has_kernels(&x.value) && is_cpu(&x.value.device()) {
            let scales = [&self.weight, &self.bias].map(Param::val);
            let activation = activation.map_or(Kernel::None, Activation::kernel);
            let [out, x] = group_norm(x.value, scales, self.n_groups, self.epsilon as f32, activation);
            return (out.into(), x.into());
        }
        let [x, same] = x.twice();
        let x = x.reshape([n, self.n_groups, c / self.n_groups * h * w]);
        let by_channel = |values: &Param<Tensor<1>>| Dual::from(values.val().reshape([1, c, 1, 1]));
        let standardised = standardised(x, 2, self.epsilon).reshape([n, c, h, w]);
        let out = standardised * by_channel(&self.weight) + by_channel(&self.bias);
        (activation.into_iter().fold(out, |out, activation| activation.forward(out)), same)
    }
}

/// Layer normalisation (Ba et al. 2016): mean 0 and variance 1 over the features, then a scale and a shift for each.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[features]`
    pub weight: Param<Tensor<1>>,
    /// `[features]`
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm {
    /// Scales 1, shifts 0.
    pub fn new(n_features: usize, device: &Device) -> Self {
        let param = |value| Param::from_tensor(upload(vec![value; n_features], [n_features], device));
        Self { weight: param(1.0), bias: param(0.0) }
    }

    /// # Shapes
    /// `[batch, features]`, unchanged.
    pub fn forward(&self, x: Dual<2>) -> Dual<2> {
        let row = |values: &Param<Tensor<1>>| Dual::from(values.val().reshape([1, -1]));
        standardised(x, 1, EPSILON) * row(&self.weight) + row(&self.bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::params;
    use crate::noise::Noise;

    #[test]
    fn another_epsilon_is_that_of_instance_norm_on_either_path() {
        let device = Device::flex();
        let x: Tensor<4> = upload((0..24).map(|i| (i * i % 7) as f32).collect(), [2, 3, 2, 2], &device);
        let norm = |kind| Norm::new(kind, 3, None, &mut Noise::new(1).stream("norm", 0), &device);
        let values = |norm: &Norm, x: Dual<4>| -> Vec<f32> {
            norm.forward(x, &Condition::new(Tensor::from_data([0.0, 0.0], &device)))
                .value
                .try_into_vec_as()
                .expect("f32")
        };
        let plain = norm(NormKind::InstanceNorm);
        let other = plain.clone().with_epsilon(10.0);
        let found = values(&other, x.clone().into());
        let pixels: Vec<f32> = x.clone().try_into_vec_as().expect("f32");
        for (found, x) in found.chunks(4).zip(pixels.chunks(4)) {
            let mean = x.iter().sum::<f32>() / 4.0;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4.0;
            for (y, x) in found.iter().zip(x) {
                assert!((y - (x - mean) / (variance + 10.0).sqrt()).abs() < 1e-6, "{y}");
            }
        }
        assert_ne!(found, values(&plain, x.clone().into()));
        let plus = norm(NormKind::InstanceNormPlus);
        assert_eq!(values(&plus.clone().with_epsilon(10.0), x.clone().into()), values(&plus, x.into()));
    }

    #[test]
    fn batch_norm_is_by_its_running_statistics() {
        let device = Device::flex();
        for n_levels in [None, Some(2)] {
            let norm = Norm::new(NormKind::BatchNorm, 3, n_levels, &mut Noise::new(1).stream("norm", 0), &device);
            let prefix = if n_levels.is_some() { "bn." } else { "" };
            let names = ["running_mean", "running_var"].map(|name| format!("{prefix}{name}"));
            assert_eq!(params::buffers(&norm), names);
            let norm = params::buffers_from_host(norm, |name, _| {
                Ok(if name.ends_with("mean") { vec![0.5, -1.0, 2.0] } else { vec![4.0, 0.25, 1.0] })
            })
            .expect("three of each");
            let norm = params::from_host(norm, |name, shape| {
                let n: usize = shape.iter().product();
                let first = if name == "bias" { -1.0 } else { 1.0 };
                Ok((0..n).map(|i| first + i as f32 / 2.0).collect())
            })
            .expect("as many");
            let x = upload((0..12).map(|i| i as f32 / 3.0).collect(), [2, 3, 1, 2], &device);
            let found = norm.forward(x.into(), &Condition::new(Tensor::from_data([1.0, 0.0], &device))).value;
            let found: Vec<f32> = found.try_into_vec_as().expect("f32");
            for (i, y) in found.into_iter().enumerate() {
                let (image, channel) = (i / 6, i / 2 % 3);
                let h = (i as f64 / 3.0 - [0.5, -1.0, 2.0][channel]) / ([4.0, 0.25, 1.0][channel] + 1e-5f64).sqrt();
                // Rows of 6: γ of three channels, then β; image 0 has the second.
                let scale = |column: usize| 1.0 + ((1 - image) * 6 + column) as f64 / 2.0;
                let [gamma, beta] = match n_levels {
                    Some(_) => [scale(channel), scale(3 + channel)],
                    None => [1.0 + channel as f64 / 2.0, -1.0 + channel as f64 / 2.0],
                };
                assert!((f64::from(y) - (gamma * h + beta)).abs() < 1e-5, "{n_levels:?}: number {i} is {y}");
            }
        }
    }
}
