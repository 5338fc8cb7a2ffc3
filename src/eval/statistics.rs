//! Mean and covariance of features: all that a Fréchet distance needs to know of a set.

use nalgebra::{Cholesky, DMatrix, DMatrixViewMut};
use rayon::prelude::*;

use super::Features;
use crate::error::{Error, Result};

/// The largest difference between σᵢⱼ and σⱼᵢ, relative to the largest entry.
const MAX_ASYMMETRY: f64 = 1e-6;
/// The most negative eigenvalue of a covariance, relative to its trace: what rounding in f32 may leave.
const MAX_NEGATIVE: f64 = 1e-6;
/// Samples that are added at once. Batches are cut anew into blocks of these, so that they change no bit of the result.
const N_BLOCK: usize = 256;
/// Rows of the covariance in a panel.
const N_PANEL: usize = 128;

/// The mean μ and the covariance Σ (ddof 1: divided by n − 1) of a set's features.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    n: Option<u64>,
    mu: Vec<f64>,
    sigma: Vec<f64>,
}

impl Statistics {
    /// Statistics from elsewhere: `mu` `[dim]`, `sigma` `[dim, dim]`, of `n` samples if that is known.
    ///
    /// # Errors
    /// [`Error::Usage`] when the shapes do not fit, a number is not finite, `sigma` is not symmetric to 10⁻⁶ of its largest
    /// entry, or has an eigenvalue below −10⁻⁶ of its trace.
    pub fn new(n: Option<u64>, mu: Vec<f64>, sigma: Vec<f64>) -> Result<Self> {
        Self::checked(n, mu, sigma).map_err(Error::Usage)
    }

    /// The same, with a sentence for an error.
    pub(super) fn checked(n: Option<u64>, mu: Vec<f64>, mut sigma: Vec<f64>) -> Result<Self, String> {
        let dim = mu.len();
        if dim == 0 || dim.checked_mul(dim) != Some(sigma.len()) {
            return Err(format!(
                "found a mean of {dim} and a covariance of {} numbers, expected some and their square",
                sigma.len()
            ));
        }
        if let Some(n) = n.filter(|&n| n < 2) {
            return Err(format!("found statistics of {n} samples, expected at least 2"));
        }
        for (name, values) in [("mean", &mu), ("covariance", &sigma)] {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(format!("the {name} contains {value}, expected finite numbers"));
            }
        }
        let largest = sigma.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for i in 0..dim {
            for j in 0..i {
                let (below, above) = (sigma[i * dim + j], sigma[j * dim + i]);
                if (below - above).abs() > MAX_ASYMMETRY * largest {
                    return Err(format!(
                        "the covariance is not symmetric: {above} at ({j}, {i}), but {below} at ({i}, {j})"
                    ));
                }
                let mean = below + 0.5 * (above - below);
                (sigma[i * dim + j], sigma[j * dim + i]) = (mean, mean);
            }
        }

        // No eigenvalue is below −ε·tr if and only if Σ + ε·tr·I has a Cholesky factor: much faster than eigenvalues.
        let statistics = Self { n, mu, sigma };
        let trace = statistics.trace();
        if !trace.is_finite() {
            return Err("the covariance's trace is not finite".into());
        }
        let mut shifted = statistics.matrix();
        (0..dim).for_each(|i| shifted[(i, i)] += MAX_NEGATIVE * trace);
        let is_zero = largest == 0.0;
        if !is_zero && Cholesky::new(shifted).is_none() {
            let message = "the covariance has an eigenvalue below −1e-6 of its trace, expected none below 0";
            return Err(format!("{message} (its trace is {trace})"));
        }
        Ok(statistics)
    }

    /// How many samples they are of, if that is known: the files of other programs do not say it.
    pub fn n(&self) -> Option<u64> {
        self.n
    }

    /// How many features there are.
    pub fn dim(&self) -> usize {
        self.mu.len()
    }

    /// μ, `[dim]`.
    pub fn mu(&self) -> &[f64] {
        &self.mu
    }

    /// Σ, `[dim, dim]`.
    pub fn sigma(&self) -> &[f64] {
        &self.sigma
    }

    /// tr Σ.
    pub fn trace(&self) -> f64 {
        self.sigma.iter().step_by(self.dim() + 1).sum()
    }

    /// Σ, for linear algebra.
    pub(super) fn matrix(&self) -> DMatrix<f64> {
        DMatrix::from_column_slice(self.dim(), self.dim(), &self.sigma)
    }
}

/// Statistics of features that come in batches, none of which is kept: 4·dim² bytes, one triangle of Σ in f64.
///
/// A block of b samples with mean m and scatter M_b = Σ(f − m)(f − m)ᵀ joins n others by δ = m − mean,
/// M += M_b + δδᵀ·n·b/(n + b), mean += δ·b/(n + b) (Chan, Golub & LeVeque 1979).
#[derive(Clone, Debug)]
pub struct RunningStatistics {
    dim: usize,
    n: u64,
    mean: Vec<f64>,
    /// One triangle of M: panel p has the rows from p·N_PANEL on, each from the first column to the panel's last diagonal one.
    panels: Vec<Vec<f64>>,
    /// Samples of the block that is not full.
    pending: Vec<f32>,
}

impl RunningStatistics {
    /// Those of no sample of `dim` features.
    pub fn new(dim: usize) -> Self {
        let panels = (0..dim).step_by(N_PANEL).map(|start| {
            let end = (start + N_PANEL).min(dim);
            vec![0.0; (end - start) * end]
        });
        Self { dim, n: 0, mean: vec![0.0; dim], panels: panels.collect(), pending: Vec::new() }
    }

    /// How many samples have been added.
    pub fn n(&self) -> u64 {
        self.n + (self.pending.len() / self.dim.max(1)) as u64
    }

    /// Adds a batch, of any size.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when its samples have another number of features.
    pub fn add(&mut self, batch: Features<'_>) -> Result<()> {
        batch.expect_dim(self.dim)?;
        let mut values = batch.values();
        while !values.is_empty() {
            let n_free = N_BLOCK * self.dim - self.pending.len();
            let (now, later) = values.split_at(n_free.min(values.len()));
            self.pending.extend_from_slice(now);
            values = later;
            if self.pending.len() == N_BLOCK * self.dim {
                self.merge_pending();
            }
        }
        Ok(())
    }

    /// The statistics of all samples that were added.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when there are fewer than two.
    pub fn finish(mut self) -> Result<Statistics> {
        self.merge_pending();
        let (n, dim) = (self.n, self.dim);
        if n < 2 {
            return Err(Error::unexpected(format!("{n} samples"), "at least 2 for a covariance"));
        }
        let mut sigma = vec![0.0; dim * dim];
        for (panel, start) in self.panels.into_iter().zip((0..dim).step_by(N_PANEL)) {
            let end = (start + N_PANEL).min(dim);
            for (i, row) in (start..end).zip(panel.chunks_exact(end)) {
                for (j, &sum) in row[..=i].iter().enumerate() {
                    let value = sum / (n - 1) as f64;
                    (sigma[i * dim + j], sigma[j * dim + i]) = (value, value);
                }
            }
        }
        Ok(Statistics { n: Some(n), mu: self.mean, sigma })
    }

    fn merge_pending(&mut self) {
        let dim = self.dim;
        if self.pending.is_empty() {
            return;
        }
        let (n, b) = (self.n as f64, (self.pending.len() / dim) as f64);
        let (block_mean, mut centred) = centre(&self.pending, dim);
        let shift: Vec<f64> = block_mean.iter().zip(&self.mean).map(|(block, mean)| block - mean).collect();
        // δδᵀ·n·b/(n + b) is what one more sample would add.
        let weight = (n * b / (n + b)).sqrt();
        centred.extend(shift.iter().map(|shift| weight * shift));

        let columns = DMatrix::from_vec(dim, centred.len() / dim, centred);
        let rows = columns.transpose();
        self.panels.par_iter_mut().enumerate().for_each(|(p, panel)| {
            let start = p * N_PANEL;
            let end = (start + N_PANEL).min(dim);
            let mut panel = DMatrixViewMut::from_slice(panel, end, end - start);
            panel.gemm(1.0, &columns.rows(0, end), &rows.columns(start, end - start), 1.0);
        });
        self.mean.iter_mut().zip(&shift).for_each(|(mean, shift)| *mean += shift * b / (n + b));
        self.n += b as u64;
        self.pending.clear();
    }
}

/// The mean of rows, and the rows without it, `[n, dim]`.
pub(super) fn centre(values: &[f32], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let n = (values.len() / dim) as f64;
    let mut mean = vec![0.0; dim];
    for row in values.chunks_exact(dim) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    mean.iter_mut().for_each(|sum| *sum /= n);
    let rows = values.chunks_exact(dim);
    let centred = rows.flat_map(|row| row.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean)).collect();
    (mean, centred)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn in_batches(values: &[f32], dim: usize, n_batch: usize) -> Statistics {
        let mut statistics = RunningStatistics::new(dim);
        for batch in values.chunks(n_batch * dim) {
            statistics.add(Features::new(batch, dim).unwrap()).unwrap();
        }
        assert_eq!(statistics.n() as usize, values.len() / dim);
        statistics.finish().unwrap()
    }

    #[test]
    fn mean_and_covariance_are_those_of_the_definition() {
        // Two panels and three blocks, the last of each incomplete; a mean that a naive sum of squares would drown in.
        let (n, dim) = (600, 150);
        let values: Vec<f32> = normals(1, n * dim).into_iter().map(|z| 1000.0 + z).collect();
        let found = in_batches(&values, dim, n);
        let value = |i: usize, k: usize| f64::from(values[i * dim + k]);
        let mean: Vec<f64> = (0..dim).map(|k| (0..n).map(|i| value(i, k)).sum::<f64>() / n as f64).collect();
        for j in 0..dim {
            assert!((found.mu()[j] - mean[j]).abs() < 1e-10, "{j}");
            for k in 0..dim {
                let products = (0..n).map(|i| (value(i, j) - mean[j]) * (value(i, k) - mean[k]));
                let expected = products.sum::<f64>() / (n - 1) as f64;
                // 600 roundings of numbers of order 1, and of differences of numbers of order 1000.
                assert!((found.sigma()[j * dim + k] - expected).abs() < 1e-11, "{j} {k}");
            }
        }
        assert_eq!(found.n(), Some(600));
    }

    #[test]
    fn batches_change_no_bit() {
        let values = normals(2, 600 * 3);
        let whole = in_batches(&values, 3, 600);
        for n_batch in [1, 7, 255, 256, 257, 512] {
            assert_eq!(in_batches(&values, 3, n_batch), whole, "{n_batch}");
        }
    }

    #[test]
    fn one_sample_has_no_covariance() {
        let mut statistics = RunningStatistics::new(2);
        statistics.add(Features::new(&[1.0, 2.0], 2).unwrap()).unwrap();
        let message = statistics.clone().finish().unwrap_err().to_string();
        assert_eq!(message, "found 1 samples, expected at least 2 for a covariance");
        let message = statistics.add(Features::new(&[1.0], 1).unwrap()).unwrap_err().to_string();
        assert_eq!(message, "found samples of 1 features, expected 2 as in the others");
    }

    #[test]
    fn what_cannot_be_a_covariance_is_refused() {
        let new = |mu: &[f64], sigma: &[f64]| Statistics::new(None, mu.to_vec(), sigma.to_vec());
        let message = |mu: &[f64], sigma: &[f64]| new(mu, sigma).unwrap_err().to_string();
        assert!(message(&[0.0], &[1.0, 2.0]).contains("a mean of 1 and a covariance of 2 numbers"));
        assert!(message(&[], &[]).contains("a mean of 0"));
        assert!(message(&[f64::NAN], &[1.0]).contains("the mean contains NaN"));
        assert!(message(&[0.0], &[f64::INFINITY]).contains("the covariance contains inf"));
        assert!(message(&[0.0; 2], &[1.0, 0.5, 0.4, 1.0]).contains("not symmetric: 0.5 at (0, 1), but 0.4 at (1, 0)"));
        assert!(message(&[0.0], &[-1.0]).contains("an eigenvalue below"));
        // Correlation above 1: eigenvalues 2.1 and −0.1.
        assert!(message(&[0.0; 2], &[1.0, 1.1, 1.1, 1.0]).contains("an eigenvalue below"));
        assert!(message(&[0.0; 2], &[0.0, 1.0, 1.0, 0.0]).contains("an eigenvalue below"));
        assert!(message(&[0.0; 2], &[f64::MAX, 0.0, 0.0, f64::MAX]).contains("trace is not finite"));
        assert!(Statistics::new(Some(1), vec![0.0], vec![1.0]).unwrap_err().to_string().contains("of 1 samples"));

        // Rounding in f32 may leave eigenvalues a little below 0, and the triangles a little different.
        assert!(new(&[0.0; 2], &[1.0, 1.000_001, 1.000_001, 1.0]).is_ok());
        assert_eq!(new(&[0.0; 2], &[1.0, 0.500_000_25, 0.5, 1.0]).unwrap().sigma()[1..3], [0.500_000_125; 2]);
        assert!(new(&[0.0; 2], &[0.0; 4]).is_ok());
    }
}
