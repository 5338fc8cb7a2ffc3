//! Sliced score matching (Song et al. 2019, "Sliced Score Matching"): Hyvärinen's loss ½‖s‖² + tr(∂s/∂x), its trace
//! replaced by vᵀ(∂s/∂x)v for random directions v.

use burn::tensor::{Int, Tensor};

use super::{mean, per_example};
use crate::score::Differentiable;
use crate::sde::NoiseLevels;

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
/// `x`: `[batch, …]`; `labels`: `[batch]`; `v`: `[n_particles·batch, …]`, standard normals, all of the first
/// particle's first.
pub fn ssm<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    labels: &Tensor<1, Int>,
    v: Tensor<D>,
    slicing: Slicing,
) -> Sliced {
    let length = v.clone().square().sum_dim(D - 1).sqrt();
    let v = v / length;
    let [s, slope] = slice(score, x, labels, v.clone(), slicing);
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
    labels: &Tensor<1, Int>,
    v: Tensor<D>,
    slicing: Slicing,
) -> Sliced {
    let [square, slope] = reduced(score, x, labels, v, slicing);
    Sliced { square: mean(square), slope: mean(slope) }
}

/// [`ssm_vr`] at many noise levels: at x̃ = x + σᵢz, weighted by σᵢ^p. Its minimum is the score of the blurred data, as
/// that of [`super::annealed_dsm`]. The published program's p is 2, whatever its configuration says.
///
/// # Shapes
/// As [`ssm`]; `z`: standard normals shaped as `x` → `[1]`.
pub fn annealed_ssm_vr<const D: usize>(
    score: &impl Differentiable<D>,
    levels: &NoiseLevels,
    x: Tensor<D>,
    labels: &Tensor<1, Int>,
    [z, v]: [Tensor<D>; 2],
    anneal_power: f64,
    slicing: Slicing,
) -> Tensor<1> {
    let n_particles = v.dims()[0] / x.dims()[0];
    let x_tilde = x + z * per_example(levels, labels, |sigma| sigma);
    let [square, slope] = reduced(score, x_tilde, labels, v, slicing);
    let weight = per_example::<1>(levels, &labels.clone().repeat_dim(0, n_particles), |sigma| sigma.powf(anneal_power));
    mean((square + slope) * weight)
}

/// ½‖s‖² and vᵀ(∂s/∂x)v of each row of `v`: `[n_particles·batch]`.
fn reduced<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    labels: &Tensor<1, Int>,
    v: Tensor<D>,
    slicing: Slicing,
) -> [Tensor<1>; 2] {
    let [s, slope] = slice(score, x, labels, v, slicing);
    let sum = |t: Tensor<D>| {
        let n = t.dims()[0];
        t.reshape([n as isize, -1]).sum_dim(1).reshape([n])
    };
    [sum(s.square()) * 0.5, sum(slope)]
}

/// s and v ⊙ (∂s/∂x)v, at each row of `v`.
fn slice<const D: usize>(
    score: &impl Differentiable<D>,
    x: Tensor<D>,
    labels: &Tensor<1, Int>,
    v: Tensor<D>,
    slicing: Slicing,
) -> [Tensor<D>; 2] {
    let (n_batch, n_rows) = (x.dims()[0], v.dims()[0]);
    assert!(n_rows > 0 && n_rows.is_multiple_of(n_batch), "{n_rows} directions for a batch of {n_batch}");
    let (x, labels) = (x.repeat_dim(0, n_rows / n_batch), labels.clone().repeat_dim(0, n_rows / n_batch));
    match slicing {
        Slicing::Exact => {
            let [s, jv] = score.jvp(x, &labels, v.clone());
            [s, v * jv]
        }
        Slicing::FiniteDifference => {
            let shift = v.clone() * EPSILON;
            let ahead = score.score(x.clone() + shift.clone(), &labels);
            let behind = score.score(x - shift, &labels);
            let jv = (ahead.clone() - behind.clone()) / (2.0 * EPSILON);
            [(ahead + behind) * 0.5, v * jv]
        }
    }
}
