//! Folders of image files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::data::decode::{decode, header_shape};
use crate::data::folder::{LeftOut, Listing, images_below};
use crate::error::{Error, Result, few};
use crate::file;

/// A manifest has a few hundred.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Image files of one shape, `[channels, height, width]`, and those that cannot be decoded.
pub(super) struct Found {
    pub files: Vec<PathBuf>,
    pub shape: [usize; 3],
    pub broken: Vec<Error>,
    pub left_out: LeftOut,
}

/// The images of a folder, or of the `images` in a folder of samples.
pub(super) fn open(root: &Path, skip_broken: bool) -> Result<Found> {
    let Listing { files, left_out } = match n_samples(root)? {
        Some(n) => samples(root, n)?,
        None => images_below(root)?,
    };
    let n = files.len();
    let shapes: Vec<Result<[usize; 3]>> = files.par_iter().map(|file| shape(file, skip_broken)).collect();
    let (mut sound, mut broken) = (Vec::new(), Vec::new());
    for (file, shape) in files.into_iter().zip(shapes) {
        match shape {
            Ok(shape) => sound.push((file, shape)),
            Err(error) => broken.push(error),
        }
    }
    let mut faults = Vec::new();
    if !broken.is_empty() && (!skip_broken || sound.is_empty()) {
        let remedy = if skip_broken { "" } else { "; they must be skipped or moved away" };
        faults.push(format!("{} of {n} image files cannot be decoded{remedy}: {}", broken.len(), few(&broken)));
    }
    let place = |(file, _): &(PathBuf, [usize; 3])| file.strip_prefix(root).unwrap_or(file).display().to_string();
    if let Some(([height, width], others)) = minority(&sound, |&(_, [_, height, width])| [height, width]) {
        let named: Vec<String> = others.iter().map(|&image| format!("{} is {}", place(image), size(image.1))).collect();
        faults.push(format!(
            "all images must have one size: {} of {n} have not that of the others, {height}×{width}: {}",
            others.len(),
            few(&named)
        ));
    }
    if let Some((channels, others)) = minority(&sound, |&(_, [channels, ..])| channels) {
        let named: Vec<String> = others.iter().map(|&image| place(image)).collect();
        let kinds = if channels == 1 { "in colour and the others grey" } else { "grey and the others in colour" };
        faults.push(format!("{} of {n} images are {kinds}: {}", others.len(), few(&named)));
    }
    match sound.first() {
        Some(&(_, shape)) if faults.is_empty() => {
            Ok(Found { files: sound.into_iter().map(|(file, _)| file).collect(), shape, broken, left_out })
        }
        _ => Err(Error::format(root, faults.join(". "))),
    }
}

/// Writes the image in `file` to `out`, channel by channel, if it still has this shape.
pub(super) fn read(file: &Path, shape: [usize; 3], out: &mut [u8]) -> Result<()> {
    let pixels = decode(file)?;
    let found = [pixels.channels, pixels.height, pixels.width];
    if found != shape {
        let message = format!("has the shape {found:?} now, expected {shape:?} as it had before");
        return Err(Error::format(file, message));
    }
    out.copy_from_slice(&pixels.to_chw());
    Ok(())
}

/// From the header, or from the decoded image.
fn shape(file: &Path, is_decoded: bool) -> Result<[usize; 3]> {
    if is_decoded {
        decode(file).map(|pixels| [pixels.channels, pixels.height, pixels.width])
    } else {
        header_shape(file)
    }
}

fn size([_, height, width]: [usize; 3]) -> String {
    format!("{height}×{width}")
}

/// The commonest `key`, and the images that have another; `None` if all have the same.
fn minority<T, K: Ord + Copy>(images: &[T], key: impl Fn(&T) -> K) -> Option<(K, Vec<&T>)> {
    let mut counts = BTreeMap::new();
    images.iter().for_each(|image| *counts.entry(key(image)).or_insert(0) += 1);
    let (&commonest, _) = counts.iter().max_by_key(|&(_, n)| n)?;
    let others: Vec<&T> = images.iter().filter(|image| key(image) != commonest).collect();
    (!others.is_empty()).then_some((commonest, others))
}

/// How many images `ncsn sample` was to draw into `root`, if it has written there.
fn n_samples(root: &Path) -> Result<Option<u64>> {
    let path = root.join("samples.json");
    if !path.is_file() || !root.join("images").is_dir() {
        return Ok(None);
    }
    let manifest: Option<Value> = serde_json::from_slice(&file::read_at_most(&path, MAX_MANIFEST_BYTES)?).ok();
    Ok(manifest.and_then(|manifest| manifest["n"].as_u64()))
}

/// The images of a folder of `n` samples.
fn samples(root: &Path, n: u64) -> Result<Listing> {
    let listing = images_below(&root.join("images"))?;
    if listing.files.len() as u64 == n {
        return Ok(listing);
    }
    let message = format!(
        "found {} images in images/, expected {n} as samples.json says; `ncsn sample` finishes what was stopped, and images/ itself can \
         be given as a folder",
        listing.files.len()
    );
    Err(Error::format(root, message))
}
