//! The Fréchet distance between two Gaussians: FID on features of the Inception network, FD-DINOv2 on those of DINOv2.
//!
//! ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ (Dowson & Landau 1982; Heusel et al. 2017). The last trace is Σ√λ over
//! the eigenvalues λ of FΣ₂Fᵀ for any F with FᵀF = Σ₁: a symmetric matrix with the spectrum of Σ₁Σ₂, so that nothing
//! is ever complex. It is also ‖FGᵀ‖_*, the sum of singular values, for any G with GᵀG = Σ₂. The centred features of
//! few samples are such a G. They give a more accurate sum: no square root of a rounding error is taken.
//!
//! Covariances are often singular: samples are few, or a feature is 0 for all of them. Eigenvalues that rounding made
//! negative count as 0, and so do those beyond the rank that n samples allow, n − 1. Features that are constant in the
//! reference add nothing to the last trace and are left out of it. The eigenvalues and singular values are checked
//! (`spectrum.rs`). A distance that is not finite is an error. A distance below 0 by rounding stays so.

use nalgebra::DMatrix;

use super::spectrum::{eigenvalues, root, singular_values};
use super::statistics::centre;
use super::{Features, Statistics};
use crate::error::{Error, Result};

/// The Fréchet distance between sets with the statistics `a` and `b`.
///
/// # Errors
/// As [`FrechetReference::distance`].
pub fn frechet_distance(a: &Statistics, b: &Statistics) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    FrechetReference::new(a).distance(b)
}

/// A set that others are compared with: the larger half of the work, done once.
#[derive(Clone, Debug)]
pub struct FrechetReference {
    mu: Vec<f64>,
    trace: f64,
    /// The most dimensions that the samples span.
    rank: usize,
    /// The features that are not constant.
    varying: Vec<usize>,
    /// R with RᵀR = Σ, of these features alone: `[any, varying]`.
    root: DMatrix<f64>,
}

impl FrechetReference {
    /// The set with these statistics.
    pub fn new(statistics: &Statistics) -> Self {
        let dim = statistics.dim();
        let varying: Vec<usize> = (0..dim).filter(|i| statistics.sigma()[i * dim + i] != 0.0).collect();
        let root = root(selected(statistics, &varying));
        let (mu, trace) = (statistics.mu().to_vec(), statistics.trace());
        Self { mu, trace, rank: rank(statistics, varying.len()), varying, root }
    }

    /// The set with these features: for samples that are few, at most as many as features.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when there are fewer than two samples.
    pub fn of_features(features: Features<'_>) -> Result<Self> {
        let Centred { mean, columns } = Centred::new(features)?;
        let varying: Vec<usize> = (0..features.dim()).filter(|i| columns.row(*i).iter().any(|x| *x != 0.0)).collect();
        let rank = (features.n() - 1).min(varying.len());
        let trace = columns.norm_squared();
        Ok(Self { mu: mean, trace, rank, root: columns.select_rows(&varying).transpose(), varying })
    }

    /// The Fréchet distance to a set with the statistics `other`.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when it has another number of features; [`Error::Usage`] when numbers are so large that their
    /// products overflow, or the eigenvalues are not found.
    pub fn distance(&self, other: &Statistics) -> Result<f64> {
        same_dim(self.mu.len(), other.dim())?;
        let product = (&self.root * selected(other, &self.varying)) * self.root.transpose();
        let mut eigenvalues = eigenvalues(finite(product)?)?;
        eigenvalues.sort_unstable_by(|a, b| b.total_cmp(a));
        let rank = self.rank.min(rank(other, other.dim()));
        let trace_of_root = eigenvalues.into_iter().take(rank).map(|eigenvalue| eigenvalue.max(0.0).sqrt()).sum();
        self.combine(other.mu(), other.trace(), trace_of_root)
    }

    /// The Fréchet distance to samples that are few: more accurate than [`Self::distance`] where covariances are
    /// singular, because singular values take no square roots of rounding errors.
    ///
    /// # Errors
    /// As [`Self::distance`], or when there are fewer than two samples.
    pub fn distance_to_few(&self, samples: Features<'_>) -> Result<f64> {
        same_dim(self.mu.len(), samples.dim())?;
        let Centred { mean, columns } = Centred::new(samples)?;
        let trace = columns.norm_squared();
        let product = finite(&self.root * columns.select_rows(&self.varying))?;
        self.combine(&mean, trace, singular_values(product)?.into_iter().sum())
    }

    fn combine(&self, mu: &[f64], trace: f64, trace_of_root: f64) -> Result<f64> {
        let squared: f64 = self.mu.iter().zip(mu).map(|(a, b)| (a - b).powi(2)).sum();
        let distance = squared + self.trace + trace - 2.0 * trace_of_root;
        if distance.is_finite() { Ok(distance) } else { Err(overflow()) }
    }
}

/// The Fréchet distance between the statistics `b` and those of `a`, samples that are few.
///
/// # Errors
/// As [`FrechetReference::distance_to_few`].
pub fn frechet_distance_of_few(a: Features<'_>, b: &Statistics) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    FrechetReference::new(b).distance_to_few(a)
}

/// The Fréchet distance between samples that are few on both sides: the most accurate way for singular covariances.
///
/// # Errors
/// As [`FrechetReference::distance_to_few`].
pub fn frechet_distance_of_features(a: Features<'_>, b: Features<'_>) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    FrechetReference::of_features(a)?.distance_to_few(b)
}

/// A set's mean, and its samples without it, divided by √(n − 1): `[dim, n]`.
struct Centred {
    mean: Vec<f64>,
    columns: DMatrix<f64>,
}

impl Centred {
    fn new(features: Features<'_>) -> Result<Self> {
        let n = features.n();
        if n < 2 {
            return Err(Error::unexpected(format!("{n} samples"), "at least 2 for a covariance"));
        }
        let (mean, centred) = centre(features.values(), features.dim());
        let columns = DMatrix::from_vec(features.dim(), n, centred) / ((n - 1) as f64).sqrt();
        Ok(Self { mean, columns })
    }
}

/// The most dimensions that samples with these statistics span: n − 1, if n is known.
fn rank(statistics: &Statistics, dim: usize) -> usize {
    statistics.n().map_or(dim, |n| (n - 1).min(dim as u64) as usize)
}

/// The covariance of some features.
fn selected(statistics: &Statistics, features: &[usize]) -> DMatrix<f64> {
    let (dim, sigma) = (statistics.dim(), statistics.sigma());
    DMatrix::from_fn(features.len(), features.len(), |i, j| sigma[features[i] * dim + features[j]])
}

fn same_dim(a: usize, b: usize) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::unexpected(format!("sets of {a} and {b} features"), "as many in both"))
}

/// Refuses what no eigenvalue can be found of.
fn finite(matrix: DMatrix<f64>) -> Result<DMatrix<f64>> {
    if matrix.iter().all(|value| value.is_finite()) {
        return Ok(matrix);
    }
    Err(overflow())
}

fn overflow() -> Error {
    Error::Usage("the features are so large that their squares, or products of their covariances, overflow".into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::RunningStatistics;
    use super::super::testing::normals;
    use super::*;

    fn statistics(features: Features<'_>) -> Statistics {
        let mut statistics = RunningStatistics::new(features.dim());
        statistics.add(features).unwrap();
        statistics.finish().unwrap()
    }

    #[test]
    fn a_set_has_no_distance_from_itself() {
        for (n, dim) in [(400, 60), (20, 60)] {
            let values = normals(1, n * dim);
            let features = Features::new(&values, dim).unwrap();
            let a = statistics(features);
            // Rounding makes eigenvalues of 1e-16 from 0, whose roots are 1e-8: those of a singular matrix add up.
            let tolerance = if n > dim { 1e-9 } else { 1e-6 } * a.trace();
            assert!(frechet_distance(&a, &a).unwrap().abs() < tolerance);
            assert!(frechet_distance_of_few(features, &a).unwrap().abs() < tolerance);
            // Singular values have no such roots.
            assert!(frechet_distance_of_features(features, features).unwrap().abs() < 1e-12 * a.trace());
        }
    }

    #[test]
    fn a_shift_counts_squared_and_a_scale_by_the_difference_of_deviations() {
        let dim = 5;
        let values = normals(1, 100 * dim);
        let moved: Vec<f32> = values.iter().map(|z| 3.0 * z + 0.5).collect();
        let (a, b) =
            (statistics(Features::new(&values, dim).unwrap()), statistics(Features::new(&moved, dim).unwrap()));
        // Σ₂ = 9Σ₁, so that the traces make (3 − 1)² tr Σ₁.
        let shift: f64 = a.mu().iter().map(|mu| (2.0 * mu + 0.5).powi(2)).sum();
        let expected = shift + 4.0 * a.trace();
        // The scaled features are rounded to f32.
        assert!((frechet_distance(&a, &b).unwrap() - expected).abs() < 1e-6 * expected);
    }

    #[test]
    fn all_ways_to_compute_it_agree() {
        for (n, m, dim) in [(30, 40, 20), (10, 13, 24), (2, 40, 24), (13, 2, 24)] {
            let (a, b) = (normals(1, n * dim), normals(2, m * dim));
            let (a, b) = (Features::new(&a, dim).unwrap(), Features::new(&b, dim).unwrap());
            let few = frechet_distance_of_features(a, b).unwrap();
            let (a_statistics, b_statistics) = (statistics(a), statistics(b));
            for other in [
                frechet_distance(&a_statistics, &b_statistics).unwrap(),
                frechet_distance(&b_statistics, &a_statistics).unwrap(),
                frechet_distance_of_few(a, &b_statistics).unwrap(),
                frechet_distance_of_few(b, &a_statistics).unwrap(),
            ] {
                // Roots of rounding errors, where the covariances are singular.
                assert!((other - few).abs() < 1e-6 * few, "{n} {m} {dim}: {other} {few}");
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let zero = |dim: usize| Statistics::new(None, vec![0.0; dim], vec![0.0; dim * dim]).unwrap();
        assert_eq!(frechet_distance(&zero(2), &zero(2)).unwrap(), 0.0);
        let message = frechet_distance(&zero(2), &zero(3)).unwrap_err().to_string();
        assert_eq!(message, "found sets of 2 and 3 features, expected as many in both");
        let one = Features::new(&[1.0, 2.0], 2).unwrap();
        assert!(frechet_distance_of_few(one, &zero(2)).unwrap_err().to_string().contains("found 1 samples"));
        let huge = Statistics::new(None, vec![0.0; 2], vec![1e300, 0.0, 0.0, 1e300]).unwrap();
        assert!(frechet_distance(&huge, &huge).unwrap_err().to_string().contains("overflow"));
    }
}
