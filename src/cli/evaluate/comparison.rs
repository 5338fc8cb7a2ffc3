//! What samples are compared with, and the numbers that come of it.

use std::path::Path;

use ncsn::error::one_line;
use ncsn::eval::sample_size::{fid_name, fid_warnings};
use ncsn::eval::{
    Extractor, Features, FrechetReference, ImageSet, InceptionScore, Manifold, ResizeRule, RunningStatistics, Subsets,
    density_coverage, expected_coverage, kid_by_subsets, mmd2_unbiased, precision_recall, read_pool_3, read_statistics,
};
use ncsn::{Error, Result};

use super::super::log::Log;
use super::args::{EvaluateArgs, ExtractorKind, Metric};
use super::pass::{self, Wanted};
use super::report::{Number, Reference};
use super::subject::Subject;

/// Fewer samples than this a split make an inception score smaller.
const N_PER_SPLIT: usize = 5000;
/// Fewer images than this on either side say little about precision and recall.
const N_PRECISION: usize = 10_000;
/// The k of improved precision and recall, and of density and coverage.
const K_PRECISION: usize = 3;
const K_DENSITY: usize = 5;

/// What samples are compared with.
pub struct Comparison {
    pub about: Reference,
    /// With the larger half of the work done.
    pub frechet: Option<FrechetReference>,
    /// `[n, n_features]`, if a metric needs them.
    pub features: Vec<f32>,
    pub images: Option<ImageSet>,
    /// Images of the same data set that nothing was trained on.
    pub held_out: Option<ImageSet>,
    /// What should be said beside distances.
    pub warnings: Vec<String>,
}

impl EvaluateArgs {
    /// A reference of `images`; `None` if the user asked to stop.
    pub fn comparison_with(
        &self,
        images: ImageSet,
        extractor: &Extractor,
        batch: usize,
        log: &mut Log,
    ) -> Result<Option<Comparison>> {
        let wanted = Wanted {
            statistics: self.metrics.contains(&Metric::Fid),
            features: self.needs_features(),
            ..Wanted::default()
        };
        let (mut frechet, mut features) = (None, Vec::new());
        if wanted.statistics || wanted.features {
            let Some(found) = pass::run(extractor, &images, batch, wanted, log)? else { return Ok(None) };
            let statistics = found.statistics.map(RunningStatistics::finish).transpose()?;
            frechet = match statistics {
                Some(_) if images.len() <= extractor.n_features() => {
                    Some(FrechetReference::of_features(Features::new(&found.features, extractor.n_features())?)?)
                }
                statistics => statistics.as_ref().map(FrechetReference::new),
            };
            features = found.features;
        }
        let about = Reference {
            name: images.name().to_string(),
            n: Some(images.len() as u64),
            sha256: images.digest()?,
            is_statistics: false,
        };
        Ok(Some(Comparison { about, frechet, features, images: Some(images), held_out: None, warnings: Vec::new() }))
    }

    /// Refuses too few samples, or too few images of the reference, for the metrics asked for: before the network looks
    /// at them.
    pub fn check_numbers(&self, n: [usize; 2], names: &[&str; 2]) -> Result<()> {
        for metric in &self.metrics {
            let (least, what) = match metric {
                Metric::Fid => ([2, 2], "a covariance".to_string()),
                Metric::Kid => ([2, 2], "a kernel distance".to_string()),
                Metric::Precision => {
                    ([K_PRECISION + 1; 2], format!("precision and recall (more than k = {K_PRECISION})"))
                }
                Metric::Density => ([1, K_DENSITY + 1], format!("density and coverage (more than k = {K_DENSITY})")),
                Metric::Is | Metric::Neighbours => continue,
            };
            for ((n, least), name) in n.into_iter().zip(least).zip(names) {
                if n < least {
                    let name = one_line(name);
                    let message = format!("{name}: found {n} images, expected at least {least} for {what}");
                    return Err(Error::Usage(message));
                }
            }
        }
        Ok(())
    }

    /// A reference of the statistics (or features) in `path`.
    pub fn comparison_from_file(&self, path: &Path, samples: &Subject, extractor: &Extractor) -> Result<Comparison> {
        let file = read_statistics(path)?;
        let bad = |what: &str, found: &str, expected: &str| {
            let message = format!("has statistics of {what} {found}, expected those of {expected} as for the samples");
            Error::format(path, message)
        };
        if file.statistics.dim() != extractor.n_features() {
            let (found, expected) = (file.statistics.dim(), extractor.n_features());
            return Err(Error::format(path, format!("has {found} features an image, expected {expected}")));
        }
        let mut warnings = Vec::new();
        match &file.extractor {
            Some(found) if *found != extractor.name() => return Err(bad("network", found, &extractor.name())),
            _ => {}
        }
        match (&file.weights_sha256, extractor.weights_sha256()) {
            (Some(found), expected) if found != expected => return Err(bad("weights", found, expected)),
            _ => {}
        }
        match (&file.resize, extractor.resize().map(ResizeRule::label)) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(bad("images resized by", found, expected));
            }
            (None, Some(_)) => warnings.push("stats: resize rule unknown".to_string()),
            _ => {}
        }
        let n = file.statistics.n();
        let few = n.is_some_and(|n| n <= file.statistics.dim() as u64);
        let features = match self.needs_features() {
            false if few => read_pool_3(path)?.map_or_else(Vec::new, |(features, _)| features),
            false => Vec::new(),
            true => match read_pool_3(path)? {
                Some((features, _)) => features,
                None => {
                    let message = "holds mean and covariance only, which kid, precision and density cannot use: expected \
                                   images, or --metrics fid,is";
                    return Err(Error::format(path, message));
                }
            },
        };
        let about =
            Reference { name: path.display().to_string(), n, sha256: ncsn::file::sha256(path)?, is_statistics: true };
        // A file that does not say of how many images it is has their covariance, which is all that can be asked of it.
        let n_reference = n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        self.check_numbers([samples.n, n_reference], &[&samples.name, &about.name])?;
        let frechet = match few && !features.is_empty() {
            true => FrechetReference::of_features(Features::new(&features, extractor.n_features())?)?,
            false => FrechetReference::new(&file.statistics),
        };
        Ok(Comparison { about, frechet: Some(frechet), features, images: None, held_out: None, warnings })
    }

    pub fn inception_score(&self, score: InceptionScore, n: usize, shuffle: Option<u32>) -> Result<Number> {
        let score = score.finish()?;
        let n_splits = score.splits.len();
        let few = n / n_splits < N_PER_SPLIT;
        Ok(Number {
            metric: self.how.named("IS"),
            value: score.mean,
            std: Some(score.std),
            variant: Some(match shuffle {
                Some(seed) => format!("{n_splits} splits, shuffled by {seed}"),
                None => format!("{n_splits} splits"),
            }),
            is_distance: false,
            warnings: few.then(|| format!("fewer than {N_PER_SPLIT} images a split")).into_iter().collect(),
        })
    }

    /// The distance of samples with these statistics, and features if they are few.
    pub fn frechet(
        &self,
        reference: &Comparison,
        statistics: RunningStatistics,
        features: Features<'_>,
    ) -> Result<Number> {
        let n = statistics.n() as usize;
        let statistics = statistics.finish()?;
        let n_reference = reference.about.n.unwrap_or(u64::MAX);
        let mut warnings = fid_warnings(n as u64, statistics.dim());
        let frechet = reference.frechet.as_ref().expect("asked for");
        let metric = match self.how.extractor {
            ExtractorKind::Inception => fid_name(n as u64),
            ExtractorKind::Small => {
                // Never compared with published ones, however many there are.
                warnings.truncate(usize::from(n <= statistics.dim()));
                self.how.named("FID")
            }
        };
        if n_reference <= statistics.dim() as u64 {
            warnings.push(format!("only {n_reference} reference images: covariance singular"));
        }
        warnings.extend(reference.warnings.clone());
        let value = match n <= statistics.dim() {
            true => frechet.distance_to_few(features)?,
            false => frechet.distance(&statistics)?,
        };
        Ok(Number { metric, value, std: None, variant: None, is_distance: true, warnings })
    }

    pub fn kernel(&self, reference: &Comparison, features: Features<'_>) -> Result<Number> {
        let of_reference = Features::new(&reference.features, features.dim())?;
        let (metric, warnings) = (self.how.named("KID"), reference.warnings.clone());
        let subsets = Subsets::default();
        if features.n().min(of_reference.n()) < subsets.size {
            let (value, variant) = (mmd2_unbiased(features, of_reference)?, Some("all pairs".into()));
            return Ok(Number { metric, value, std: None, variant, is_distance: true, warnings });
        }
        let distance = kid_by_subsets(features, of_reference, subsets)?;
        let variant = Some(format!("{} subsets of {}", subsets.n, subsets.size));
        Ok(Number { metric, value: distance.mean, std: Some(distance.std), variant, is_distance: true, warnings })
    }

    pub fn precision(&self, reference: &Comparison, features: Features<'_>) -> Result<[Number; 3]> {
        let real = Manifold::new(Features::new(&reference.features, features.dim())?, K_PRECISION)?;
        let found = precision_recall(&real, &Manifold::new(features, K_PRECISION)?, K_PRECISION)?;
        let n = features.n().min(reference.features.len() / features.dim());
        let values = [("precision", found.precision), ("recall", found.recall), ("F", found.f_score())];
        Ok(values.map(|(name, value)| {
            let mut number = self.share(name, value, K_PRECISION, reference);
            // The paper's features are VGG-16's, and it has 50,000 of each.
            number.warnings.extend((n < N_PRECISION).then(|| format!("fewer than {N_PRECISION} of each")));
            number
        }))
    }

    pub fn density(&self, reference: &Comparison, features: Features<'_>) -> Result<[Number; 2]> {
        let real = Manifold::new(Features::new(&reference.features, features.dim())?, K_DENSITY)?;
        let found = density_coverage(&real, features, K_DENSITY)?;
        let n_real = reference.features.len() / features.dim();
        let expected = expected_coverage(n_real, features.n(), K_DENSITY);
        let mut coverage = self.share("coverage", found.coverage, K_DENSITY, reference);
        coverage.variant = Some(format!("k = {K_DENSITY}, {expected:.3} for equal distributions"));
        Ok([self.share("density", found.density, K_DENSITY, reference), coverage])
    }

    fn share(&self, name: &str, value: f64, k: usize, reference: &Comparison) -> Number {
        let variant = Some(format!("k = {k}"));
        let warnings = reference.warnings.clone();
        Number { metric: self.how.named(name), value, std: None, variant, is_distance: true, warnings }
    }
}
