//! From a configuration's data set to a source of images.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ncsn::Result;
use ncsn::config::{Data, Dataset};
use ncsn::data::celeba::CelebA;
use ncsn::data::digits::Digits;
use ncsn::data::folder::Folder;
use ncsn::data::memory::InMemory;
use ncsn::data::sets::{self, Download};
use ncsn::data::{Labelled, Source, Split};

use super::log::Log;
use super::stop;

/// Opens the images of `data` below `root`, `RUN/datasets`; what is missing is downloaded.
pub fn open(data: &Data, root: &Path, split: Split, log: &mut Log) -> Result<Arc<dyn Source>> {
    let Data { image_size: size, channels, .. } = *data;
    let resized = |images: InMemory| -> Result<Arc<dyn Source>> { Ok(Arc::new(images.resized(size))) };
    let name = data.dataset.name();
    match &data.dataset {
        Dataset::Mnist => {
            resized(sets::mnist(&root.join("mnist"), split, Download::Allowed, &mut progress(name, log))?)
        }
        Dataset::Cifar10 => {
            resized(sets::cifar10(&root.join("cifar10"), split, Download::Allowed, &mut progress(name, log))?)
        }
        Dataset::Svhn => resized(sets::svhn(&root.join("svhn"), split, Download::Allowed, &mut progress(name, log))?),
        Dataset::CelebA => {
            Ok(Arc::new(CelebA::open(&root.join("celeba"), split, channels, size, &mut headers(name, log))?))
        }
        Dataset::Folder(path) => open_folder(path, split, [channels, size], log),
        Dataset::Digits => Ok(Arc::new(Digits::new(size, channels, split)?)),
    }
}

fn open_folder(path: &Path, split: Split, [channels, size]: [usize; 2], log: &mut Log) -> Result<Arc<dyn Source>> {
    let folder = Folder::open(path, split, channels, size, &mut headers("the folder", log))?;
    // Both splits of one folder leave out the same; those of two folders have their own.
    if split == Split::Train || path.join("test").is_dir() {
        report_left_out(&folder, path, log);
    }
    Ok(Arc::new(folder))
}

/// Says how many images of a folder are not read because of their formats.
pub fn report_left_out(folder: &Folder, path: &Path, log: &mut Log) {
    if !folder.left_out().is_empty() {
        log.warning(format!("{}: {}", path.display(), folder.left_out()));
    }
}

/// The same with labels, of those data sets that have some; of the digits, which have no end, so many as MNIST has.
pub fn open_labelled(data: &Data, root: &Path, split: Split, log: &mut Log) -> Result<Labelled> {
    data.dataset.expect_labels()?;
    let Data { image_size: size, channels, .. } = *data;
    let mut progress = progress(data.dataset.name(), log);
    let labelled = match &data.dataset {
        Dataset::Mnist => sets::mnist_labelled(&root.join("mnist"), split, Download::Allowed, &mut progress)?,
        Dataset::Cifar10 => sets::cifar10_labelled(&root.join("cifar10"), split, Download::Allowed, &mut progress)?,
        Dataset::Svhn => sets::svhn_labelled(&root.join("svhn"), split, Download::Allowed, &mut progress)?,
        _ => {
            let n = if split == Split::Train { 60_000 } else { 10_000 };
            Digits::new(size, channels, split)?.labelled(n)?
        }
    };
    Ok(labelled.resized(size))
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
