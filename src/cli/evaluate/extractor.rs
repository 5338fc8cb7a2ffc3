//! The network that looks at images: Inception's weights found or fetched, a small one trained.

use std::path::{Path, PathBuf};

use burn::tensor::Device;

use ncsn::config::Data;
use ncsn::data::download::{Digest, INCEPTION, fetch};
use ncsn::data::{SETS, Source as _, Split};
use ncsn::error::{one_of, shown_path};
use ncsn::eval::{Extractor, InceptionExtractor, SmallClassifier, SmallExtractor};
use ncsn::{Error, Result};

use super::super::folders::create_folder;
use super::super::log::Log;
use super::super::progress::Progress;
use super::super::{Common, data, stop};
use super::args::{ExtractorKind, How};
use super::images::{Images, Set};
use super::subject::Subject;

/// The seed of small networks, so that everybody has the same.
const SMALL_SEED: u64 = 1234;

/// The network that `how` asks for; `None` if the user asked to stop. A small one learns from the data set of `reference`, else from a
/// run's, at the size of `images`.
pub fn open(
    how: &How,
    reference: Option<&Images>,
    run_data: Option<&Data>,
    images: &Subject,
    common: &Common,
    device: &Device,
    log: &mut Log,
) -> Result<Option<Extractor>> {
    match how.extractor {
        ExtractorKind::Inception => {
            let path = match &how.weights {
                Some(path) => path.clone(),
                None => published_weights(&common.run.join("weights"), log)?,
            };
            let extractor = Extractor::Inception(InceptionExtractor::open(&path, how.resize, device)?);
            let expected = published_sha256();
            if how.weights.is_none() && extractor.weights_sha256() != expected {
                let found = extractor.weights_sha256();
                let message =
                    format!("has SHA-256 {found}, expected {expected}; other weights are given with --weights");
                return Err(Error::format(&path, message));
            }
            Ok(Some(extractor))
        }
        ExtractorKind::Small => {
            if how.weights.is_some() {
                let message = "found --weights, which are Inception's, with --extractor small, which is trained here";
                return Err(Error::Usage(message.into()));
            }
            let side = images.size[0];
            let data = match (reference, run_data) {
                (Some(Images::Set(set)), Some(data)) if set.dataset == data.dataset => data.clone(),
                (Some(Images::Set(set)), _) => set.data(Some(side)),
                (_, Some(data)) => data.clone(),
                _ => {
                    let labelled = SETS.iter().filter(|set| set.has_labels()).map(|set| set.name);
                    return Err(Error::Usage(format!(
                        "--extractor small learns from a data set's labels: found no data set, expected --reference {}",
                        one_of(labelled).to_ascii_lowercase()
                    )));
                }
            };
            let ([height, width], channels) = (images.size, images.channels);
            let Data { image_size: size, channels: expected, .. } = data;
            if [channels, height, width] != [expected, size, size] {
                let message = format!(
                    "{}: found images of {channels}x{height}x{width}, expected {expected}x{size}x{size} as the small network \
                     knows them from {}",
                    images.name,
                    data.dataset.name()
                );
                return Err(Error::Usage(message));
            }
            let small = small(&data, common, device, log)?.map(SmallExtractor::new).transpose()?;
            Ok(small.map(Extractor::Small))
        }
    }
}

/// The digest of Inception's published weights.
fn published_sha256() -> &'static str {
    match INCEPTION.digest {
        Digest::Sha256(digits) => digits,
        Digest::Md5(_) => unreachable!("their publisher gives SHA-256"),
    }
}

/// Inception's published weights, downloaded on first use.
fn published_weights(folder: &Path, log: &mut Log) -> Result<PathBuf> {
    fetch(&INCEPTION, folder, &mut data::progress("Inception's weights", log)).map_err(|error| match error {
        Error::MissingData(why) => {
            let sha256 = published_sha256();
            Error::MissingData(format!(
                "Inception's weights are not in {}. Put there {} ({} bytes, SHA-256 {sha256}) from\n  {}\nor give them with \
                 --weights FILE. Without them, --extractor small compares sets with each other. The download failed: {why}",
                shown_path(folder),
                INCEPTION.name,
                INCEPTION.n_bytes,
                INCEPTION.url
            ))
        }
        error => error,
    })
}

/// The small network for images as `data` says, trained on first use.
fn small(data: &Data, common: &Common, device: &Device, log: &mut Log) -> Result<Option<SmallClassifier>> {
    data.dataset.expect_labels()?;
    let name = data.dataset.name().to_ascii_lowercase();
    let folder = common.run.join("weights");
    let path = folder.join(format!("small-{name}-{}.safetensors", data.image_size));
    if path.exists() {
        let small = SmallClassifier::open(&path, device)?;
        let (found, expected) = (small.about().shape, [data.channels, data.image_size, data.image_size]);
        if found != expected {
            let message = format!("was trained on images of shape {found:?}, expected {expected:?}");
            return Err(Error::format(&path, message));
        }
        return Ok(Some(small));
    }
    let set = Set { dataset: data.dataset.clone(), split: Split::Train, part: None };
    log.info(format!("training a small classifier on {}, once, for --extractor small", set.name()));
    let datasets = common.run.join("datasets");
    let labelled = data::open_labelled(data, &datasets, Split::Train, log)?;
    let mut progress = None;
    let mut tell = |step, n_steps, loss| {
        let progress = progress.get_or_insert_with(|| Progress::new(log, "step", 0, n_steps));
        progress.update(log, step, &format!("loss {loss:.3}"));
        if stop::asked() { Err(Error::Usage("stopped".into())) } else { Ok(()) }
    };
    let trained = SmallClassifier::train(labelled.images(), labelled.labels_u8(), SMALL_SEED, device, &mut tell);
    drop(progress);
    let trained = match trained {
        Err(_) if stop::asked() => {
            log.info("stopped; the classifier is not trained");
            return Ok(None);
        }
        trained => trained?,
    };
    let held_out = data::open_labelled(data, &datasets, Split::Test, log)?;
    let accuracy = trained.accuracy(held_out.images(), held_out.labels_u8())?;
    log.info(format!(
        "{:.2} % of {} held-out images are classified rightly",
        100.0 * accuracy,
        held_out.images().len()
    ));
    create_folder(&folder)?;
    trained.described(data.dataset.name(), Some(accuracy))?.save(&path)?;
    // As every later call finds it.
    SmallClassifier::open(&path, device).map(Some)
}
