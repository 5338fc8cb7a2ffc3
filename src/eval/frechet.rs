//! The Fréchet distance between two Gaussians: FID on features of the Inception network, FD-DINOv2 on those of DINOv2.
//!
//! ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½ (Dowson & Landau 1982; Heusel et al. 2017). The last trace is Σ√λ over the
//! eigenvalues λ of FΣ₂Fᵀ for any F with FᵀF = Σ₁: a symmetric matrix with the spectrum of Σ₁Σ₂, so that nothing is ever
//! complex. Eigenvalues that rounding made negative count as 0. A distance below 0 by rounding stays so.

use nalgebra::{Cholesky, DMatrix, SymmetricEigen};

use super::statistics::centre;
use super::{Features, Statistics};
use crate::error::{Error, Result};

/// The Fréchet distance between sets with the statistics `a` and `b`.
///
/// # Errors
/// As [`FrechetReference::distance`].
pub fn frechet_distance(a: &Statistics, b: &Statistics) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    FrechetReference::new(a.clone()).distance(b)
}

/// A set that others are compared with: the larger half of the work, done once.
#[derive(Clone, Debug)]
pub struct FrechetReference {
    statistics: Statistics,
    /// R with RᵀR = Σ.
    root: DMatrix<f64>,
}

impl FrechetReference {
    /// The set with these statistics.
    pub fn new(statistics: Statistics) -> Self {
        // Any R with RᵀR = Σ will do. Cholesky's factor takes a fifth of the time of the eigenvectors, which singular covariances need.
        let root = Cholesky::new(statistics.matrix()).map(|factor| factor.l().transpose()).unwrap_or_else(|| {
            let SymmetricEigen { eigenvalues, eigenvectors } = statistics.matrix().symmetric_eigen();
            let mut root = eigenvectors.transpose();
            for (mut row, eigenvalue) in root.row_iter_mut().zip(&eigenvalues) {
                row *= eigenvalue.max(0.0).sqrt();
            }
            root
        });
        Self { statistics, root }
    }

    /// The Fréchet distance to a set with the statistics `other`.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has another number of features, or numbers are so large that their products overflow.
    pub fn distance(&self, other: &Statistics) -> Result<f64> {
        let this = &self.statistics;
        same_dim(this.dim(), other.dim())?;
        let product = (&self.root * other.matrix()) * self.root.transpose();
        let traces = [this.trace(), other.trace()];
        Ok(combine([this.mu(), other.mu()], traces, sum_of_roots(product, this.dim())?))
    }
}

/// The Fréchet distance between the statistics `b` and those of `a`, samples that are few: cheaper than
/// [`frechet_distance`] if there are fewer than features, and equal.
///
/// With X the centred features, Σ₁ = XᵀX/(n − 1), and Σ₁Σ₂ has the spectrum of XΣ₂Xᵀ/(n − 1), `[n, n]`.
///
/// # Errors
/// As [`FrechetReference::distance`], or when there are fewer than two samples.
pub fn frechet_distance_of_few(a: Features<'_>, b: &Statistics) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    let a = Centred::new(a)?;
    let product = (a.columns.transpose() * b.matrix()) * &a.columns;
    // Centred samples span n − 1 dimensions at most.
    let rank = (product.nrows() - 1).min(b.dim());
    Ok(combine([&a.mean, b.mu()], [a.trace(), b.trace()], sum_of_roots(product, rank)?))
}

/// The Fréchet distance between samples that are few on both sides: tr (Σ₁Σ₂)^½ is ‖X₁X₂ᵀ‖_*, the sum of its singular
/// values, `[n₁, n₂]`. No square root of a rounding error is taken, so it is the most accurate way for singular covariances.
///
/// # Errors
/// As [`frechet_distance_of_few`].
pub fn frechet_distance_of_features(a: Features<'_>, b: Features<'_>) -> Result<f64> {
    same_dim(a.dim(), b.dim())?;
    let (a, b) = (Centred::new(a)?, Centred::new(b)?);
    let product = finite(a.columns.transpose() * &b.columns)?;
    Ok(combine([&a.mean, &b.mean], [a.trace(), b.trace()], product.singular_values().sum()))
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
            return Err(Error::Usage(format!("found {n} samples, expected at least 2 for a covariance")));
        }
        let (mean, centred) = centre(features.values(), features.dim());
        let columns = DMatrix::from_vec(features.dim(), n, centred) / ((n - 1) as f64).sqrt();
        Ok(Self { mean, columns })
    }

    fn trace(&self) -> f64 {
        self.columns.norm_squared()
    }
}

/// Σ√λ over the `rank` largest eigenvalues of a symmetric matrix, those below 0 taken as 0.
fn sum_of_roots(matrix: DMatrix<f64>, rank: usize) -> Result<f64> {
    let mut eigenvalues: Vec<f64> = finite(matrix)?.symmetric_eigenvalues().iter().copied().collect();
    eigenvalues.sort_unstable_by(|a, b| b.total_cmp(a));
    Ok(eigenvalues.into_iter().take(rank).map(|eigenvalue| eigenvalue.max(0.0).sqrt()).sum())
}

fn combine([a, b]: [&[f64]; 2], traces: [f64; 2], trace_of_root: f64) -> f64 {
    let squared: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    squared + traces[0] + traces[1] - 2.0 * trace_of_root
}

fn same_dim(a: usize, b: usize) -> Result<()> {
    if a == b {
        return Ok(());
    }
    Err(Error::Usage(format!("found sets of {a} and {b} features, expected as many in both")))
}

/// Refuses what no eigenvalue can be found of.
fn finite(matrix: DMatrix<f64>) -> Result<DMatrix<f64>> {
    if matrix.iter().all(|value| value.is_finite()) {
        return Ok(matrix);
    }
    Err(Error::Usage("the features are so large that products of their covariances overflow".into()))
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
