//! Sliced score matching (Song et al. 2019, "Sliced Score Matching"): Hyvärinen's loss ½‖s‖² + tr(∂s/∂x), its trace
//! replaced by vᵀ(∂s/∂x)v for random projections v.

use burn::tensor::Tensor;

use super::{Weight, mean, per_example, perturb, sum_each};
use crate::score::Differentiable;
use crate::sde::Process;

/// How vᵀ(∂s/∂x)v is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slicing {
    /// By a Jacobian–vector product.
    #[default]
    Exact,
    /// By central differences, vᵀ(s(x + εv) − s(x − εv))/2ε with ε = 10⁻³ (Pang et al. 2020, "Efficient Learning of
    /// Generative Models via Finite-Difference Score Matching"): no derivative of the network inside the loss, and an
    /// error of order ε².
    FiniteDifference,
}

/// A tenth of the smallest noise level of NCSN, far above what f32 loses in the difference.
const EPSILON: f64 = 1e-3;

/// A sliced loss, in its two terms.
#[derive(Clone, Debug)]
pub struct Sliced {
    /// The mean of ½‖s‖², or of ½(vᵀs)²: `[1]`.
    pub square: Tensor<1>,
    /// The mean of vᵀ(∂s/∂x)v: `[1]`.
    pub slope: Tensor<1>,
}

impl Sliced {
    /// Their sum, the loss: `[1]`.
    pub fn loss(&self) -> Tensor<1> {
        self.square.clone() + self.slope.clone()
    }
}

/// Sliced score matching: ½(vᵀs)² + vᵀ(∂s/∂x)v, each v normalised to length 1 over the last axis.
///
/// As in the published program, products are summed over the last axis only, and everything else is averaged: it is meant
/// for flat data.
///
/// # Shapes
/// `x`: `[batch, …]`; `t`: `batch` times; `v`: `[n_projections·batch, …]`, standard normals, all of the first
/// projection of each example first.
pub fn ssm<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    t: &[f64],
    v: Tensor<D>,
    slicing: Slicing,
) -> Sliced {
    let length = v.clone().square().sum_dim(D - 1).sqrt();
    let v = v / length;
    let [s, slope] = slice(score, x, t, v.clone(), slicing);
    let square = (s * v).sum_dim(D - 1).square() * 0.5;
    Sliced { square: mean(square), slope: mean(slope.sum_dim(D - 1)) }
}

/// Sliced score matching with variance reduction: ½‖s‖² + vᵀ(∂s/∂x)v, the first term being its own mean over v ~ N(0, I).
///
/// # Shapes
/// As [`ssm`].
pub fn ssm_vr<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    t: &[f64],
    v: Tensor<D>,
    slicing: Slicing,
) -> Sliced {
    let [square, slope] = reduced(score, x, t, v, slicing);
    Sliced { square: mean(square), slope: mean(slope) }
}

/// [`ssm_vr`] of perturbed data: at x_t = α·x + std·z, weighted by λ(t). Its minimum is the score of the perturbed data, as that of
/// [`super::denoising`]. The published program of NCSN has λ = σ², whatever its configuration says.
///
/// # Shapes
/// As [`ssm`]; `z`: standard normals shaped as `x` → `[1]`.
pub fn perturbed_ssm_vr<const D: usize>(
    score: &impl Differentiable<D>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    [z, v]: [Tensor<D>; 2],
    weight: Weight,
    slicing: Slicing,
) -> Tensor<1> {
    mean(perturbed_each(score, process, x, t, [z, v], weight, slicing))
}

/// The summands of [`perturbed_ssm_vr`], one for each row of `v`: `[n_projections·batch]`.
pub(super) fn perturbed_each<const D: usize>(
    score: &impl Differentiable<D>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    [z, v]: [Tensor<D>; 2],
    weight: Weight,
    slicing: Slicing,
) -> Tensor<1> {
    let (n_projections, device) = (v.dims()[0] / x.dims()[0], x.device());
    let marginals: Vec<_> = t.iter().map(|&t| process.marginal(t)).collect();
    let [square, slope] = reduced(score, perturb(x, z, &marginals), t, v, slicing);
    let lambda = per_example::<1, _>(t, |t| weight.lambda(process, t), &device).repeat_dim(0, n_projections);
    (square + slope) * lambda
}

/// ½‖s‖² and vᵀ(∂s/∂x)v of each row of `v`: `[n_projections·batch]`.
fn reduced<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    t: &[f64],
    v: Tensor<D>,
    slicing: Slicing,
) -> [Tensor<1>; 2] {
    let [s, slope] = slice(score, x, t, v, slicing);
    [sum_each(s.square()) * 0.5, sum_each(slope)]
}

/// s and v ⊙ (∂s/∂x)v, at each row of `v`.
fn slice<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    t: &[f64],
    v: Tensor<D>,
    slicing: Slicing,
) -> [Tensor<D>; 2] {
    let (n_batch, n_rows) = (x.dims()[0], v.dims()[0]);
    assert!(n_rows > 0 && n_rows.is_multiple_of(n_batch), "{n_rows} projections for a batch of {n_batch}");
    let (x, t) = (x.repeat_dim(0, n_rows / n_batch), t.repeat(n_rows / n_batch));
    match slicing {
        Slicing::Exact => {
            let [s, jv] = score.jvp(x, &t, v.clone());
            [s, v * jv]
        }
        Slicing::FiniteDifference => {
            let shift = v.clone() * EPSILON;
            let ahead = score.score(x.clone() + shift.clone(), &t);
            let behind = score.score(x - shift, &t);
            let jv = (ahead.clone() - behind.clone()) / (2.0 * EPSILON);
            [(ahead + behind) * 0.5, v * jv]
        }
    }
}
