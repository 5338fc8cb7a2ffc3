//! How good samples are: metrics as pure functions of features and logits.
//!
//! **Contract.** Features come as `f32`, row-major, one row a sample ([`Features`]), and are finite; every sum is in `f64`. Which
//! network made them, how images were resized and how many there should be is the caller's to choose and to say beside the
//! number. Nothing depends on the number of threads, and nothing on how features are cut into batches. No N×N matrix is ever
//! held: what needs all pairs goes through tiles.
//!
//! | metric | source | here |
//! |---|---|---|
//! | inception score | Salimans et al. 2016, "Improved Techniques for Training GANs" | [`InceptionScore`] |
//! | Fréchet distance (FID, FD-DINOv2) | Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule" | [`RunningStatistics`], [`frechet`] |
//! | FID at infinitely many samples | Chong & Forsyth 2020, "Effectively Unbiased FID" | [`sample_size`] |
//! | kernel distance (KID) | Bińkowski et al. 2018, "Demystifying MMD GANs" | [`kernel_distance`] |
//! | improved precision and recall | Kynkäänniemi et al. 2019 | [`precision_recall`] |
//! | density and coverage | Naeem et al. 2020 | [`density_coverage`] |
//! | largest distance, for σ₁ | Song & Ermon 2020, technique 1 | [`largest_distance`] |
//! | nearest training images | Song & Ermon 2020, appendix | [`NearestNeighbours`] |
//!
//! Images come as an [`ImageSet`] of bytes, and go to the network through a [`Resizer`], whose [`ResizeRule`] is part of a metric's
//! definition.
//!
//! Where no published weights are at hand, [`SmallClassifier`], trained on a reference set's labels, makes the features.

mod diameter;
mod extractor;
mod features;
pub mod frechet;
mod images;
mod inception_score;
pub mod kernel_distance;
mod manifold;
mod neighbours;
mod npy;
mod pairs;
mod resize;
pub mod sample_size;
pub mod small;
mod spectrum;
mod statistics;
mod statistics_file;
#[cfg(test)]
mod testing;

pub use diameter::{Diameter, largest_distance};
pub use extractor::{Extracted, Extractor, InceptionExtractor, SmallExtractor};
pub use features::Features;
pub use frechet::{FrechetReference, frechet_distance};
pub use images::{ByteRule, ImageSet, ReadOptions};
pub use inception_score::{InceptionScore, ScoreOverSplits};
pub use kernel_distance::{Blocks, KernelDistance, Subsets, kid_by_blocks, kid_by_subsets, mmd2_unbiased};
pub use manifold::{DensityCoverage, Manifold, PrecisionRecall, density_coverage, expected_coverage, precision_recall};
pub use neighbours::{NearestNeighbours, Neighbour};
pub use resize::{ResizeRule, Resizer};
pub use small::SmallClassifier;
pub use statistics::{RunningStatistics, Statistics};
pub use statistics_file::{NpzContent, StatisticsFile, read_pool_3, read_statistics, write_statistics};

/// Of what was found on several parts of the samples; the variance is divided by n − `ddof`.
fn mean_and_variance(values: &[f64], ddof: usize) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, squares / (values.len() - ddof) as f64)
}
