//! Sets of features as the union of balls around their members: is a sample where data are, are data where samples are?
//!
//! Improved precision and recall (Kynkäänniemi et al. 2019; compared with ≤, as torch-fidelity does) and density and
//! coverage (Naeem et al. 2020; compared with <). Distances are compared squared, in f64.

use super::Features;
use super::pairs::fold_distances;
use crate::error::{Error, Result};

/// A set, and the distances of each member to its nearest others: what all comparisons with it need, found once.
#[derive(Clone, Debug)]
pub struct Manifold<'a> {
    features: Features<'a>,
    k_max: usize,
    /// The squared distances to the `k_max` nearest others of each member, the smallest first: `[n, k_max]`.
    nearest: Vec<f64>,
}

/// Improved precision and recall.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// The share of generated samples that lie in a ball of the data.
    pub precision: f64,
    /// The share of the data that lie in a ball of the generated samples.
    pub recall: f64,
}

impl PrecisionRecall {
    /// Their harmonic mean, 2PR/max(10⁻⁵, P + R).
    pub fn f_score(self) -> f64 {
        2.0 * self.precision * self.recall / (self.precision + self.recall).max(1e-5)
    }
}

/// Density and coverage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DensityCoverage {
    /// In how many balls of the data a generated sample lies, divided by k: 1 on average if distributions are equal, more if
    /// samples crowd where data are dense.
    pub density: f64,
    /// The share of the data with a generated sample in their ball: [`expected_coverage`] if distributions are equal.
    pub coverage: f64,
}

impl<'a> Manifold<'a> {
    /// `features` with the distances to the `k_max` nearest others of each. It takes n²·dim operations.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when `k_max` is 0 or there are not more samples than that.
    pub fn new(features: Features<'a>, k_max: usize) -> Result<Self> {
        if k_max == 0 || features.n() <= k_max {
            let n = features.n();
            let found = format!("{n} samples for k = {k_max}");
            return Err(Error::unexpected(found, "k of 1 or more, and more samples than k"));
        }
        let mut nearest = vec![f64::INFINITY; features.n() * k_max];
        let mut rows: Vec<&mut [f64]> = nearest.chunks_exact_mut(k_max).collect();
        fold_distances(features, features, &mut rows, |row, i, j, d2| {
            if i != j && d2 < row[k_max - 1] {
                let at = row.partition_point(|&other| other <= d2);
                row[at..].rotate_right(1);
                row[at] = d2;
            }
        });
        Ok(Self { features, k_max, nearest })
    }

    /// The squared distance of member `i` to its `k`-th nearest other.
    fn squared_radius(&self, i: usize, k: usize) -> f64 {
        self.nearest[i * self.k_max + k - 1]
    }

    fn expect_k(&self, k: usize) -> Result<()> {
        if (1..=self.k_max).contains(&k) {
            return Ok(());
        }
        Err(Error::value("the number of the neighbour", k, format!("one of 1 to {}", self.k_max)))
    }

    /// The share of `points` in the ball of a member.
    fn share_inside(&self, points: Features<'_>, k: usize) -> f64 {
        let mut inside = vec![false; points.n()];
        fold_distances(points, self.features, &mut inside, |inside, _, j, d2| {
            *inside |= d2 <= self.squared_radius(j, k);
        });
        inside.iter().filter(|&&inside| inside).count() as f64 / points.n() as f64
    }
}

/// Improved precision and recall with the radius of the `k`-th neighbour (3 in the paper). Publications have 50,000 of each
/// set, and features of VGG-16.
///
/// # Errors
/// [`Error::Unexpected`] when features differ in their number, [`Error::Value`] when a set was made for fewer neighbours.
pub fn precision_recall(real: &Manifold<'_>, generated: &Manifold<'_>, k: usize) -> Result<PrecisionRecall> {
    generated.features.expect_dim(real.features.dim())?;
    real.expect_k(k)?;
    generated.expect_k(k)?;
    Ok(PrecisionRecall {
        precision: real.share_inside(generated.features, k),
        recall: generated.share_inside(real.features, k),
    })
}

/// Density and coverage of `generated` with the radius of the `k`-th neighbour (5 in the paper).
///
/// # Errors
/// [`Error::Unexpected`] when there is no generated sample or features differ in their number, [`Error::Value`] when `real` was made for
/// fewer neighbours.
pub fn density_coverage(real: &Manifold<'_>, generated: Features<'_>, k: usize) -> Result<DensityCoverage> {
    generated.expect_dim(real.features.dim())?;
    real.expect_k(k)?;
    if generated.n() == 0 {
        return Err(Error::unexpected("no generated sample", "at least one"));
    }
    // How many samples lie in each ball: their sum is the density's, and coverage asks whether there is one.
    let mut n_inside = vec![0_u64; real.features.n()];
    fold_distances(real.features, generated, &mut n_inside, |n_inside, i, _, d2| {
        *n_inside += u64::from(d2 < real.squared_radius(i, k));
    });
    let (n, m) = (real.features.n() as f64, generated.n() as f64);
    let n_covered = n_inside.iter().filter(|&&n_inside| n_inside > 0).count();
    Ok(DensityCoverage {
        density: n_inside.iter().sum::<u64>() as f64 / (k as f64 * m),
        coverage: n_covered as f64 / n,
    })
}

/// The mean coverage of `n_real` data by `n_generated` samples of the same distribution:
/// 1 − ∏_{i=1…k} (N − i)/(N + M − i) (Naeem et al. 2020), about 1 − 2⁻ᵏ for N = M.
pub fn expected_coverage(n_real: usize, n_generated: usize, k: usize) -> f64 {
    if n_real <= k {
        // A ball around k of fewer others holds everything.
        return 1.0;
    }
    let (n, m) = (n_real as f64, n_generated as f64);
    1.0 - (1..=k).map(|i| (n - i as f64) / (n + m - i as f64)).product::<f64>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::pairs::squared_distance;
    use super::super::testing::normals;
    use super::*;

    #[test]
    fn radii_are_the_distances_to_the_nearest_others() {
        let values = normals(1, 300 * 4);
        let features = Features::new(&values, 4).unwrap();
        let manifold = Manifold::new(features, 5).unwrap();
        for i in 0..300 {
            let others = (0..300).filter(|&j| j != i).map(|j| squared_distance(features.row(i), features.row(j)));
            let mut others: Vec<f64> = others.collect();
            others.sort_unstable_by(f64::total_cmp);
            for k in 1..=5 {
                // Rounding in ‖x‖² + ‖y‖² − 2xᵀy, four digits of which may be lost.
                assert!((manifold.squared_radius(i, k) - others[k - 1]).abs() < 1e-10 * others[k - 1]);
            }
        }
    }

    #[test]
    fn members_on_a_line_are_in_the_balls_that_can_be_counted_by_hand() {
        // Radii (k = 1) of the data 0, 1, 3, 6: 1, 1, 2, 3. Of the samples 2, 8, 8: 6, 0, 0.
        let (real, generated) = ([0.0, 1.0, 3.0, 6.0], [2.0, 8.0, 8.0]);
        let real = Manifold::new(Features::new(&real, 1).unwrap(), 1).unwrap();
        let samples = Features::new(&generated, 1).unwrap();
        let generated = Manifold::new(samples, 1).unwrap();
        // All samples are in balls: 2 in those of 1 (on its edge), 3; 8 in that of 6. All data are within 6 of 2.
        let found = precision_recall(&real, &generated, 1).unwrap();
        assert_eq!((found.precision, found.recall, found.f_score()), (1.0, 1.0, 1.0));
        // Without edges 2 is in that of 3 only, and 8 twice in that of 6.
        let found = density_coverage(&real, samples, 1).unwrap();
        assert_eq!((found.density, found.coverage), (1.0, 0.5));
        // The ball of 8 has no extent, and holds 8 itself.
        let at_8 = Manifold::new(Features::new(&[8.0, 100.0], 1).unwrap(), 1).unwrap();
        assert_eq!(generated.share_inside(at_8.features, 1), 0.5);
    }

    #[test]
    fn a_set_is_all_in_itself_and_nothing_in_a_distant_one() {
        let (a, b) = (normals(1, 50 * 3), normals(2, 60 * 3));
        let b: Vec<f32> = b.into_iter().map(|z| z + 100.0).collect();
        let (a, b) = (Features::new(&a, 3).unwrap(), Features::new(&b, 3).unwrap());
        let (a, b) = (Manifold::new(a, 3).unwrap(), Manifold::new(b, 3).unwrap());
        assert_eq!(precision_recall(&a, &a, 3).unwrap(), PrecisionRecall { precision: 1.0, recall: 1.0 });
        let apart = precision_recall(&a, &b, 3).unwrap();
        assert_eq!((apart.precision, apart.recall, apart.f_score()), (0.0, 0.0, 0.0));
        assert_eq!(density_coverage(&a, b.features, 3).unwrap(), DensityCoverage { density: 0.0, coverage: 0.0 });
        // Against itself: the balls hold their centre and, being open, k − 1 others.
        assert_eq!(density_coverage(&a, a.features, 3).unwrap(), DensityCoverage { density: 1.0, coverage: 1.0 });
    }

    #[test]
    fn equal_distributions_have_density_one_and_the_expected_coverage() {
        let (n, m, dim, k) = (1000, 800, 8, 5);
        let (mut density, mut coverage) = (0.0, 0.0);
        let n_rounds = 10;
        for round in 0..n_rounds {
            let (real, generated) = (normals(2 * round, n * dim), normals(2 * round + 1, m * dim));
            let real = Manifold::new(Features::new(&real, dim).unwrap(), k).unwrap();
            let found = density_coverage(&real, Features::new(&generated, dim).unwrap(), k).unwrap();
            density += found.density / f64::from(n_rounds);
            coverage += found.coverage / f64::from(n_rounds);
        }
        let expected = expected_coverage(n, m, k);
        assert!((expected - 0.9473).abs() < 5e-4, "{expected}");
        // Five standard errors of ten rounds' mean: a round's standard deviations are 0.030 and 0.0079, measured on 60.
        assert!((density - 1.0).abs() < 0.047, "{density}");
        assert!((coverage - expected).abs() < 0.0125, "{coverage} {expected}");
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let values = [0.0, 1.0, 2.0, 3.0];
        let features = Features::new(&values, 1).unwrap();
        assert!(Manifold::new(features, 0).unwrap_err().to_string().contains("for k = 0"));
        let message = Manifold::new(features, 4).unwrap_err().to_string();
        assert_eq!(message, "found 4 samples for k = 4, expected k of 1 or more, and more samples than k");
        assert_eq!((expected_coverage(2, 1, 5), expected_coverage(0, 0, 1)), (1.0, 1.0));
        let manifold = Manifold::new(features, 2).unwrap();
        let message = precision_recall(&manifold, &manifold, 3).unwrap_err().to_string();
        assert_eq!(message, "the number of the neighbour is 3, expected one of 1 to 2");
        assert!(density_coverage(&manifold, features.rows(0..0), 2).unwrap_err().to_string().contains("no generated"));
        assert!(density_coverage(&manifold, Features::new(&values, 2).unwrap(), 2).is_err());
    }
}
