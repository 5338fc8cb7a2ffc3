//! One pass of the network over a set of images, for all metrics at once.

use ncsn::error::one_line;
use ncsn::eval::{Extractor, Features, ImageSet, InceptionScore, RunningStatistics};
use ncsn::{Error, Result};

use super::super::log::Log;
use super::super::progress::Progress;
use super::super::stop;

/// What to make of the features.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Mean and covariance. Of at most as many images as features, the features too: distances are more accurate from
    /// them.
    pub statistics: bool,
    /// The score of the logits over so many splits, and the seed by which images are put in another order first.
    pub score: Option<(usize, Option<u32>)>,
    /// All of them, in memory.
    pub features: bool,
}

/// What a pass found.
pub struct Found {
    pub statistics: Option<RunningStatistics>,
    pub score: Option<InceptionScore>,
    /// `[n, n_features]`
    pub features: Vec<f32>,
}

/// Looks at all of `images`, `batch` at a time; `None` if the user asked to stop.
pub fn run(
    extractor: &Extractor,
    images: &ImageSet,
    batch: usize,
    wanted: Wanted,
    log: &mut Log,
) -> Result<Option<Found>> {
    let n = images.len();
    let n_features = extractor.n_features();
    let new_score = |(n_splits, seed): (usize, Option<u32>)| -> Result<InceptionScore> {
        let score = InceptionScore::new(n, n_splits, extractor.n_classes())?;
        Ok(match seed {
            Some(seed) => score.shuffled(seed),
            None => score,
        })
    };
    let keeps_features = wanted.features || wanted.statistics && n <= n_features;
    let mut found = Found {
        statistics: wanted.statistics.then(|| RunningStatistics::new(n_features)),
        score: wanted.score.map(new_score).transpose()?,
        features: Vec::with_capacity(if keeps_features { n * n_features } else { 0 }),
    };
    let mut progress = Progress::new(log, "image", 0, n as u64);
    for start in (0..n).step_by(batch) {
        if stop::asked() {
            drop(progress);
            log.info(format!("stopped after {start} of {n} images of {}", one_line(images.name())));
            return Ok(None);
        }
        let range = start..n.min(start + batch);
        let extracted = extractor.extract(&images.read(range.clone())?, images.size())?;
        let features = rows(&extracted.features, n_features, images, start)?;
        if let Some(statistics) = &mut found.statistics {
            statistics.add(features)?;
        }
        if let Some(score) = &mut found.score {
            score.add(rows(&extracted.logits, extractor.n_classes(), images, start)?)?;
        }
        if keeps_features {
            found.features.extend(features.values());
        }
        progress.update(log, range.end as u64, &format!("of {}", one_line(images.name())));
    }
    Ok(Some(found))
}

/// The rows of images from number `start` on, all of them finite.
fn rows<'a>(values: &'a [f32], dim: usize, images: &ImageSet, start: usize) -> Result<Features<'a>> {
    Features::new(values, dim).map_err(|error| {
        let name = one_line(images.name());
        Error::Usage(format!("{name}: the network's {error} (counted from image {start}): are these its weights?"))
    })
}
