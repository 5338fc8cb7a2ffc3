//! From a configuration's data set to a source of images.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ncsn::config::{Config, Data};
use ncsn::data::folder::Folder;
use ncsn::data::sets::Download;
use ncsn::data::{Dataset, Labelled, Place, Progress, Request, Source, Split, Work};
use ncsn::{Error, Result};

use super::log::Log;
use super::stop;

/// Opens the images of `data` below `root`, `RUN/datasets`; what is missing is downloaded.
pub fn open(data: &Data, root: &Path, split: Split, log: &mut Log) -> Result<Arc<dyn Source>> {
    let Data { dataset, .. } = data;
    let source = watched(dataset, log, |progress| dataset.open(&request(data, root, split), progress))?;
    let path = dataset.path.as_deref();
    // Both splits of one folder leave out the same; those of two folders have their own.
    if split == Split::Train || path.is_some_and(|path| path.join("test").is_dir()) {
        report_warning(&*source, path.unwrap_or(root), log);
    }
    Ok(source)
}

/// The images of a folder, or of a part of the data set of this name, in the shape of those that a network was trained on.
pub fn open_named(
    images: &str,
    trained_on: &Data,
    root: &Path,
    split: Split,
    log: &mut Log,
) -> Result<Arc<dyn Source>> {
    let Data { image_size, channels, .. } = *trained_on;
    let Some(dataset) = Dataset::named(images) else {
        let folder = Path::new(images);
        if !folder.is_dir() {
            return Err(Error::MissingData(format!("found no folder and no data set {images:?}")));
        }
        let source = Folder::all(folder, channels, image_size, &mut headers("the folder", log))?;
        report_warning(&source, folder, log);
        return Ok(Arc::new(source));
    };
    if let Some(expected) = dataset.fixed_channels().filter(|&expected| expected != channels) {
        return Err(Error::Usage(format!(
            "{} has images of {expected} channels, expected {channels}, on which the network was trained",
            dataset.name()
        )));
    }
    open(&Data { dataset, ..trained_on.clone() }, root, split, log)
}

/// What a run of `config` trains on, or looks at beside: images, with their classes if it is one of a classifier.
pub fn open_for(config: &Config, root: &Path, split: Split, log: &mut Log) -> Result<Arc<dyn Source>> {
    match config.is_classifier() {
        true => Ok(Arc::new(open_labelled(&config.data, root, split, log)?)),
        false => open(&config.data, root, split, log),
    }
}

/// [`open`] with labels, of those data sets that have some.
pub fn open_labelled(data: &Data, root: &Path, split: Split, log: &mut Log) -> Result<Labelled> {
    let Data { dataset, .. } = data;
    watched(dataset, log, |progress| dataset.open_labelled(&request(data, root, split), progress))
}

fn request<'a>(data: &Data, root: &'a Path, split: Split) -> Request<'a> {
    Request { root, split, channels: data.channels, size: data.image_size, download: Download::Allowed }
}

/// Opens a data set while the log tells how far that is.
fn watched<T>(dataset: &Dataset, log: &mut Log, open: impl FnOnce(&mut Progress<'_>) -> Result<T>) -> Result<T> {
    let name = if dataset.set.place == Place::Path { "the folder" } else { dataset.name() };
    match dataset.set.work {
        Work::Headers => open(&mut headers(name, log)),
        Work::Download | Work::None => open(&mut progress(name, log)),
    }
}

/// Says what a user should know of the images in `path`, if there is something.
pub fn report_warning(source: &dyn Source, path: &Path, log: &mut Log) {
    if let Some(warning) = source.warning() {
        log.warning(format!("{}: {warning}", path.display()));
    }
}

/// Says how many headers of images are read, if they are many, and ends it when the user wants the program to stop.
pub fn headers<'a>(name: &'a str, log: &'a mut Log) -> impl FnMut(u64, u64) -> ControlFlow<()> + use<'a> {
    /// Seconds before the first line and between two.
    const PAUSE: Duration = Duration::from_secs(5);
    let mut last = Instant::now();
    move |n_done, n| {
        if last.elapsed() >= PAUSE {
            last = Instant::now();
            log.info(format!("reading the headers of {name}: {n_done} of {n} images"));
        }
        if stop::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Says how far a download is, and ends it when the user wants the program to stop.
pub fn progress<'a>(name: &'static str, log: &'a mut Log) -> impl FnMut(u64, u64) -> ControlFlow<()> + use<'a> {
    let mut shown = None;
    move |done: u64, total: u64| {
        let percent = 100 * done / total.max(1);
        if shown.is_none_or(|last| percent >= last + 5 || percent < last) {
            shown = Some(percent);
            log.info(format!("downloading {name}: {percent} % of {:.1} MB", total as f64 / 1e6));
        }
        if stop::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
