//! The inception score: how sure a classifier is of each sample, and how different the samples are.

use super::{Features, mean_and_variance};
use crate::error::{Error, Result};
use crate::noise::LegacyRandom;

/// exp E KL(p(c|x) ‖ p(c)) over classes c, on splits of the samples, from logits that come in batches (Salimans et al.
/// 2016). Nothing is kept but a split's Σp and ΣΣ p ln p: the mean KL is (ΣΣ p ln p)/n − Σ p̄ ln p̄.
///
/// Published scores are of all **1008** logits of the 2015 Inception network, **without bias**.
#[derive(Clone, Debug)]
pub struct InceptionScore {
    n_classes: usize,
    n_samples: usize,
    n_added: usize,
    splits: Vec<Split>,
    /// At which place each sample stands, if not where it comes.
    places: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
struct Split {
    n: usize,
    /// Σp over samples, of each class.
    p: Vec<f64>,
    /// ΣΣ p ln p over samples and classes.
    p_ln_p: f64,
}

/// A score of each split, and what is reported of them.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreOverSplits {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation (ddof 0).
    pub std: f64,
    /// Each split's score.
    pub splits: Vec<f64>,
}

impl InceptionScore {
    /// That of `n_samples` samples, of which split i of `n_splits` gets ⌊iN/S⌋ … ⌊(i + 1)N/S⌋ − 1: their number must be known
    /// beforehand. Published scores have 10 splits (Score-SDE: one), and fewer samples a split give a smaller score.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when there is no split or class, or not a sample for each split.
    pub fn new(n_samples: usize, n_splits: usize, n_classes: usize) -> Result<Self> {
        if n_splits == 0 || n_classes == 0 || n_samples < n_splits {
            let found = format!("{n_samples} samples of {n_classes} classes for {n_splits} splits");
            return Err(Error::unexpected(found, "at least one of each, and a sample for each split"));
        }
        let split = Split { n: 0, p: vec![0.0; n_classes], p_ln_p: 0.0 };
        Ok(Self { n_classes, n_samples, n_added: 0, splits: vec![split; n_splits], places: None })
    }

    /// Samples are put in the order `numpy.random.RandomState(seed).permutation(n)` before they are split: for data sets, which
    /// are often sorted by class. The published seed is 2020.
    #[must_use]
    pub fn shuffled(mut self, seed: u32) -> Self {
        let mut places = vec![0; self.n_samples];
        for (place, sample) in LegacyRandom::new(seed).permutation(self.n_samples).into_iter().enumerate() {
            places[sample] = place;
        }
        self.places = Some(places);
        self
    }

    /// Adds the logits `[batch, n_classes]` of the next samples.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when they are of another number of classes, or more than were announced.
    pub fn add(&mut self, logits: Features<'_>) -> Result<()> {
        logits.expect_dim(self.n_classes)?;
        if self.n_added + logits.n() > self.n_samples {
            return Err(self.not_announced(self.n_added + logits.n()));
        }
        for logits in logits.values().chunks_exact(self.n_classes) {
            let place = self.places.as_ref().map_or(self.n_added, |places| places[self.n_added]);
            // The last i with ⌊iN/S⌋ ≤ place.
            let i = ((place + 1) * self.splits.len() - 1) / self.n_samples;
            self.splits[i].add(logits);
            self.n_added += 1;
        }
        Ok(())
    }

    /// The score.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when fewer samples were added than announced.
    pub fn finish(self) -> Result<ScoreOverSplits> {
        if self.n_added < self.n_samples {
            return Err(self.not_announced(self.n_added));
        }
        let splits: Vec<f64> = self.splits.iter().map(Split::score).collect();
        let (mean, variance) = mean_and_variance(&splits, 0);
        Ok(ScoreOverSplits { mean, std: variance.sqrt(), splits })
    }

    fn not_announced(&self, n_found: usize) -> Error {
        Error::unexpected(format!("{n_found} samples"), format!("the {} that were announced", self.n_samples))
    }
}

impl Split {
    fn add(&mut self, logits: &[f32]) {
        // ln p of the logits themselves: a probability may be too small for a number.
        let largest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let ln_sum = logits.iter().map(|&z| (f64::from(z) - largest).exp()).sum::<f64>().ln();
        for (sum, &z) in self.p.iter_mut().zip(logits) {
            let ln_p = f64::from(z) - largest - ln_sum;
            let p = ln_p.exp();
            *sum += p;
            self.p_ln_p += p * ln_p;
        }
        self.n += 1;
    }

    fn score(&self) -> f64 {
        let n = self.n as f64;
        let marginal = self.p.iter().map(|sum| sum / n).filter(|&p| p > 0.0);
        (self.p_ln_p / n - marginal.map(|p| p * p.ln()).sum::<f64>()).exp()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn score(logits: &[f32], n_classes: usize, n_splits: usize) -> ScoreOverSplits {
        let mut score = InceptionScore::new(logits.len() / n_classes, n_splits, n_classes).unwrap();
        for batch in logits.chunks(7 * n_classes) {
            score.add(Features::new(batch, n_classes).unwrap()).unwrap();
        }
        score.finish().unwrap()
    }

    #[test]
    fn the_score_is_one_of_equal_samples_and_the_number_of_classes_of_sure_and_even_ones() {
        // Rounding of sums of 100 terms.
        assert!((score(&[1.0, 2.0, 3.0].repeat(100), 3, 1).mean - 1.0).abs() < 1e-13);
        // Probabilities of exp(−1e30), which are 0 in f64.
        let sure: Vec<f32> = (0..100).flat_map(|i| (0..4).map(move |c| if c == i % 4 { 1e30 } else { 0.0 })).collect();
        let found = score(&sure, 4, 5);
        assert!(found.splits.iter().all(|score| (score - 4.0).abs() < 1e-13), "{found:?}");
        assert!(found.std < 1e-13);
    }

    #[test]
    fn splits_hold_the_samples_between_their_bounds() {
        let (n, n_classes, n_splits) = (23, 5, 4);
        let logits = normals(1, n * n_classes);
        let found = score(&logits, n_classes, n_splits);
        for (i, found) in found.splits.iter().enumerate() {
            let rows = i * n / n_splits * n_classes..(i + 1) * n / n_splits * n_classes;
            assert_eq!(*found, score(&logits[rows], n_classes, 1).mean, "split {i}");
        }
    }

    #[test]
    fn shuffled_samples_stand_where_numpy_puts_them() {
        let (n, n_classes) = (23, 5);
        let logits = normals(1, n * n_classes);
        let mut shuffled = InceptionScore::new(n, 4, n_classes).unwrap().shuffled(2020);
        shuffled.add(Features::new(&logits, n_classes).unwrap()).unwrap();
        let order = LegacyRandom::new(2020).permutation(n);
        let moved: Vec<f32> =
            order.into_iter().flat_map(|i| logits[i * n_classes..(i + 1) * n_classes].to_vec()).collect();
        let (found, expected) = (shuffled.finish().unwrap(), score(&moved, n_classes, 4));
        // The same sums in another order.
        assert!(found.splits.iter().zip(&expected.splits).all(|(a, b)| (a - b).abs() < 1e-13));
    }

    #[test]
    fn wrong_numbers_of_samples_are_told() {
        let message = |n, n_splits| InceptionScore::new(n, n_splits, 3).unwrap_err().to_string();
        assert!(message(9, 10).contains("found 9 samples of 3 classes for 10 splits"));
        assert!(message(0, 0).contains("for 0 splits"));
        let mut score = InceptionScore::new(2, 1, 3).unwrap();
        let rows = |n: usize| vec![0.0; 3 * n];
        let message = score.add(Features::new(&rows(3), 3).unwrap()).unwrap_err().to_string();
        assert_eq!(message, "found 3 samples, expected the 2 that were announced");
        score.add(Features::new(&rows(1), 3).unwrap()).unwrap();
        let message = score.finish().unwrap_err().to_string();
        assert_eq!(message, "found 1 samples, expected the 2 that were announced");
    }
}
