//! Eigenvalues, singular values and square roots of matrices that may be singular, checked before anybody uses them.
//!
//! nalgebra's own symmetric eigenvalues are NaN or infinite for some singular matrices, and for others the search does
//! not end. So only the tridiagonal form is nalgebra's. It is diagonalised here, by QL steps that count what is small
//! beside the whole matrix as 0.

use nalgebra::{Cholesky, DMatrix, SVD, SymmetricTridiagonal};

use crate::error::{Error, Result};

/// QL steps for an eigenvalue; three are usual.
const MAX_STEPS: usize = 60;
/// Sweeps of a singular value decomposition for each singular value, and some more for few.
const MAX_SWEEPS: usize = 100;
/// The largest difference between a trace and the sum of the eigenvalues, relative to the sum of their absolute values.
/// For matrices of up to 2048 rows rounding leaves about 1e-14.
const TOLERANCE: f64 = 1e-10;

/// The eigenvalues of a symmetric matrix, in no order. Their errors are about the rounding of the largest.
///
/// # Errors
/// [`Error::Usage`] when they are not found, or their sum is not the trace.
pub fn eigenvalues(mut matrix: DMatrix<f64>) -> Result<Vec<f64>> {
    let largest = matrix.amax();
    if matrix.is_empty() || largest == 0.0 {
        return Ok(vec![0.0; matrix.nrows()]);
    }
    // Squares neither overflow nor vanish.
    matrix /= largest;
    let trace = matrix.trace();
    let mut values: Vec<f64> = if matrix.nrows() == 1 {
        vec![trace]
    } else {
        let (diagonal, beside) = SymmetricTridiagonal::new(matrix).unpack_tridiagonal();
        diagonalise(diagonal.as_slice().to_vec(), beside.as_slice().to_vec()).ok_or_else(|| not_found("eigenvalues"))?
    };
    check("eigenvalues", values.iter().sum(), trace, values.iter().map(|value| value.abs()).sum())?;
    values.iter_mut().for_each(|value| *value *= largest);
    Ok(values)
}

/// The eigenvalues of a tridiagonal matrix by implicit QL steps (Dubrulle et al. 1971); `None` when there are too many
/// steps.
fn diagonalise(mut d: Vec<f64>, mut e: Vec<f64>) -> Option<Vec<f64>> {
    let n = d.len();
    e.resize(n, 0.0);
    // Relative to the entries beside it alone, what rounding leaves between eigenvalues of 0 would never be small.
    let norm = d.iter().zip(&e).map(|(d, e)| d.abs() + e.abs()).fold(0.0, f64::max);
    let is_small = |e: f64, a: f64, b: f64| e.abs() <= f64::EPSILON * (a.abs() + b.abs()).max(0.5 * norm);
    for l in 0..n {
        for n_steps in 0.. {
            let m = (l..n - 1).find(|&m| is_small(e[m], d[m], d[m + 1])).unwrap_or(n - 1);
            if m == l {
                break;
            }
            if n_steps == MAX_STEPS {
                return None;
            }
            let shift = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (shift + shift.hypot(1.0).copysign(shift));
            let (mut sine, mut cosine, mut p) = (1.0, 1.0, 0.0);
            let mut is_whole = true;
            for i in (l..m).rev() {
                let (f, b) = (sine * e[i], cosine * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    // The matrix falls apart here.
                    d[i + 1] -= p;
                    is_whole = false;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * sine + 2.0 * cosine * b;
                p = sine * r;
                d[i + 1] = g + p;
                g = cosine * r - b;
            }
            if is_whole {
                d[l] -= p;
                e[l] = g;
            }
            e[m] = 0.0;
        }
    }
    Some(d)
}

/// The singular values of a matrix, in no order.
///
/// # Errors
/// [`Error::Usage`] when they are not found, or their squares do not add up to those of the matrix.
pub fn singular_values(mut matrix: DMatrix<f64>) -> Result<Vec<f64>> {
    let n = matrix.nrows().min(matrix.ncols());
    let largest = matrix.amax();
    if n == 0 || largest == 0.0 {
        return Ok(vec![0.0; n]);
    }
    matrix /= largest;
    let squares = matrix.norm_squared();
    let found = SVD::try_new_unordered(matrix, false, false, 5.0 * f64::EPSILON, MAX_SWEEPS * (n + 10));
    let values = found.ok_or_else(|| not_found("singular values"))?.singular_values;
    check("singular values", values.norm_squared(), squares, squares)?;
    Ok(values.iter().map(|value| value * largest).collect())
}

/// R with RᵀR = Σ, for a covariance Σ: Cholesky's factor, or of a singular Σ one with fewer rows.
pub fn root(sigma: DMatrix<f64>) -> DMatrix<f64> {
    if sigma.is_empty() {
        return sigma;
    }
    match Cholesky::new(sigma.clone()) {
        Some(factor) => factor.l().transpose(),
        None => pivoted_root(&sigma),
    }
}

/// Cholesky's factor with the largest remaining variance first, until what remains is rounding (Higham 1990).
fn pivoted_root(sigma: &DMatrix<f64>) -> DMatrix<f64> {
    let dim = sigma.nrows();
    let mut remaining: Vec<f64> = sigma.diagonal().iter().copied().collect();
    let rounding = dim as f64 * f64::EPSILON * remaining.iter().copied().fold(0.0, f64::max);
    let mut is_done = vec![false; dim];
    let mut rows: Vec<Vec<f64>> = Vec::new();
    let largest = |remaining: &[f64]| (0..dim).max_by(|&i, &j| remaining[i].total_cmp(&remaining[j]));
    while let Some(pivot) = largest(&remaining).filter(|&i| remaining[i] > rounding) {
        let mut row: Vec<f64> = sigma.column(pivot).iter().copied().collect();
        for above in &rows {
            let factor = above[pivot];
            row.iter_mut().zip(above).for_each(|(x, y)| *x -= factor * y);
        }
        let scale = remaining[pivot].sqrt();
        for (i, x) in row.iter_mut().enumerate() {
            *x = match i {
                _ if is_done[i] => 0.0,
                _ if i == pivot => scale,
                _ => *x / scale,
            };
            remaining[i] -= *x * *x;
        }
        is_done[pivot] = true;
        remaining[pivot] = 0.0;
        rows.push(row);
    }
    DMatrix::from_fn(rows.len(), dim, |i, j| rows[i][j])
}

fn check(what: &str, sum: f64, expected: f64, size: f64) -> Result<()> {
    // Not the other way round: it is false for NaN.
    if (sum - expected).abs() <= TOLERANCE * size && size.is_finite() {
        return Ok(());
    }
    Err(not_found(what))
}

fn not_found(what: &str) -> Error {
    Error::Usage(format!("the {what} behind a Fréchet distance were not found: please report these features"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn sorted(mut values: Vec<f64>) -> Vec<f64> {
        values.sort_by(f64::total_cmp);
        values
    }

    /// The covariance of features as networks have them: never negative, some always 0, some equal to others.
    fn covariance(seed: u32, n: usize, dim: usize, share_of_zeros: f64) -> DMatrix<f64> {
        let values = normals(seed, n * dim + dim);
        let (shifts, values) = values.split_at(dim);
        let n_zeros = (share_of_zeros * dim as f64) as usize;
        let mut x = DMatrix::from_fn(n, dim, |i, j| match (j * 7 + seed as usize) % dim {
            place if place < n_zeros => 0.0,
            _ => f64::from((values[i * dim + j] + shifts[j]).max(0.0)),
        });
        if dim > 5 {
            let copy = x.column(dim - 1).clone_owned();
            x.set_column(3, &copy);
        }
        let mean = x.row_mean();
        x.row_iter_mut().for_each(|mut row| row -= &mean);
        x.transpose() * &x / (n - 1) as f64
    }

    #[test]
    fn eigenvalues_of_singular_matrices_are_finite_and_have_the_right_power_sums() {
        for seed in 0..240 {
            let dim = [2, 3, 17, 53, 128][seed as usize % 5];
            let share = [0.0, 0.05, 0.2, 0.3, 0.5][seed as usize % 7 % 5];
            let n = [2, 4, dim / 2 + 2, 2 * dim][seed as usize % 4];
            let sigma = covariance(seed, n, dim, share);
            let size = sigma.norm();
            let (trace, squares) = (sigma.trace(), sigma.norm_squared());
            let cubes = (&sigma * &sigma * &sigma).trace();
            let found = eigenvalues(sigma).unwrap();
            let sum = |power: i32| found.iter().map(|value| value.powi(power)).sum::<f64>();
            // Rounding, for each of up to 128 rows.
            let tolerance = 1e-13 * dim as f64;
            assert!((sum(1) - trace).abs() <= tolerance * size, "{seed}");
            assert!((sum(2) - squares).abs() <= tolerance * size.powi(2), "{seed}");
            assert!((sum(3) - cubes).abs() <= tolerance * size.powi(3), "{seed}");
            let n_positive = found.iter().filter(|&&value| value > 1e-13 * dim as f64 * size).count();
            assert!(n_positive < n, "{seed}: {n} samples span at most {} dimensions, found {n_positive}", n - 1);
            assert!(found.iter().all(|&value| value >= -1e-14 * dim as f64 * size), "{seed}");
        }
    }

    #[test]
    fn eigenvalues_that_are_known_are_found_at_every_scale() {
        for scale in [1e-300, 1e-160, 1e-8, 1.0, 1e150, 1e300] {
            // HDH with H = I − 2vvᵀ/vᵀv: the eigenvalues are those of D.
            for (dim, n_zeros) in [(2, 1), (7, 5), (40, 39), (60, 20)] {
                let v = DMatrix::from_fn(dim, 1, |i, _| if i % 3 == 0 { 0.0 } else { (i as f64).sin() });
                let h = DMatrix::identity(dim, dim) - &v * v.transpose() * (2.0 / v.norm_squared());
                let known: Vec<f64> = (0..dim).map(|i| if i < n_zeros { 0.0 } else { i as f64 }).collect();
                let d = DMatrix::from_diagonal(&nalgebra::DVector::from_vec(known.clone()));
                let matrix = &h * d * &h;
                let matrix = (&matrix + matrix.transpose()) * (0.5 * scale);
                let found = sorted(eigenvalues(matrix.clone()).unwrap());
                let singular = sorted(singular_values(matrix).unwrap());
                for ((found, singular), known) in found.iter().zip(&singular).zip(&known) {
                    let tolerance = 1e-14 * dim as f64 * dim as f64 * scale;
                    assert!((found - known * scale).abs() <= tolerance, "{dim} {scale}: {found} {known}");
                    assert!((singular - known * scale).abs() <= tolerance, "{dim} {scale}: {singular} {known}");
                }
            }
        }
    }

    #[test]
    fn outer_products_and_graded_matrices_have_their_eigenvalues() {
        for seed in 0..300 {
            let dim = 2 + seed as usize % 60;
            let v = normals(seed, 2 * dim);
            let (v, is_kept) = v.split_at(dim);
            let v = DMatrix::from_fn(dim, 1, |i, _| if is_kept[i] > 0.0 { f64::from(v[i]) } else { 0.0 });
            let found = sorted(eigenvalues(&v * v.transpose()).unwrap());
            let length = v.norm_squared();
            assert!((found[dim - 1] - length).abs() <= 1e-14 * length, "{seed}");
            assert!(found[..dim - 1].iter().all(|value| value.abs() <= 1e-14 * length), "{seed}");
            // Rows from 1 down to 1e-162, whose products vanish.
            let scales = [1.0, 1e-8, 1e-80, 1e-150, 1e-162];
            let graded = DMatrix::from_fn(dim, dim, |i, j| scales[i * 7 % 5] * scales[j * 7 % 5] / (1 + i + j) as f64);
            let sum: f64 = eigenvalues(graded.clone()).unwrap().iter().sum();
            assert!((sum - graded.trace()).abs() <= 1e-13 * graded.trace());
        }
        assert_eq!(eigenvalues(DMatrix::zeros(5, 5)).unwrap(), [0.0; 5]);
        assert_eq!(eigenvalues(DMatrix::zeros(0, 0)).unwrap(), [0.0; 0]);
        assert_eq!(eigenvalues(DMatrix::from_element(1, 1, -3.0)).unwrap(), [-3.0]);
        assert_eq!(singular_values(DMatrix::zeros(0, 3)).unwrap(), [0.0; 0]);
        assert_eq!(singular_values(DMatrix::zeros(2, 3)).unwrap(), [0.0; 2]);
    }

    #[test]
    fn singular_values_are_those_of_the_definition() {
        for seed in 0..100 {
            let (n, dim) = (2 + seed as usize % 9, 3 + seed as usize % 40);
            let values = normals(seed, n * dim);
            let x = DMatrix::from_fn(n, dim, |i, j| if j % 4 == 1 { 0.0 } else { f64::from(values[i * dim + j]) });
            let found = sorted(singular_values(x.clone()).unwrap());
            let mut squares = sorted(eigenvalues(&x * x.transpose()).unwrap());
            squares.drain(..n - found.len());
            let largest = squares[squares.len() - 1];
            assert!(found.iter().zip(&squares).all(|(s, square)| (s * s - square).abs() < 1e-13 * largest), "{seed}");
        }
    }

    #[test]
    fn a_root_times_itself_is_the_covariance() {
        for (n, dim, share) in [(200, 30, 0.0), (5, 30, 0.0), (12, 64, 0.3), (300, 64, 0.2), (2, 2, 0.5)] {
            let sigma = covariance(9, n, dim, share);
            let root = root(sigma.clone());
            assert!(root.nrows() <= dim);
            let error = (root.transpose() * &root - &sigma).amax();
            assert!(error <= 1e-14 * dim as f64 * sigma.amax(), "{n} {dim}: {error}");
        }
        assert_eq!(root(DMatrix::zeros(3, 3)).nrows(), 0);
        assert_eq!(root(DMatrix::zeros(0, 0)).shape(), (0, 0));
    }

    #[test]
    fn what_is_not_the_spectrum_is_refused() {
        for (sum, expected, size) in [(f64::NAN, 1.0, 1.0), (1.0, 1.0, f64::INFINITY), (1.001, 1.0, 1.0)] {
            let message = check("eigenvalues", sum, expected, size).unwrap_err().to_string();
            assert!(message.starts_with("the eigenvalues behind a Fréchet distance were not found"), "{message}");
        }
        let nan = DMatrix::from_element(2, 2, f64::NAN);
        assert!(eigenvalues(nan.clone()).is_err() && singular_values(nan).is_err());
    }
}
