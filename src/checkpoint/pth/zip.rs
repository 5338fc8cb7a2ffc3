//! The container of PyTorch 1.6 and later: a zip archive with `NAME/data.pkl` and a `NAME/data/KEY` for each storage.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::{Content, Storage};
use crate::error::shown;
use crate::error::{Error, Result};
use crate::pickle::{Names, Pickle};
use crate::zip::Archive;

/// The newest version of the layout that PyTorch itself reads.
const MAX_VERSION: u64 = 10;

/// Parses `bytes`, the content of `path`; `scratch` is empty memory, for a pickle that is compressed.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Content<'a>> {
    let archive = Archive::open(path, bytes)?;
    let mut pickles = archive.names().filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (Some(name), None) = (pickles.next(), pickles.next()) else {
        let message = "is a zip archive, but no checkpoint of PyTorch: expected one data.pkl in it";
        return Err(Error::format(path, message));
    };
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();

    // Older files do not say it, and are little-endian all the same.
    if let Some(order) = archive.content(&format!("{folder}byteorder"))?
        && *order != *b"little"
    {
        let order = shown(&String::from_utf8_lossy(&order));
        return Err(Error::format(path, format!("found byte order {order}, expected little")));
    }
    if let Some(version) = archive.content(&format!("{folder}version"))? {
        let text = String::from_utf8_lossy(&version);
        if text.trim().parse::<u64>().ok().is_none_or(|version| version > MAX_VERSION) {
            let message = format!("found version {}, expected at most {MAX_VERSION}", shown(text.trim()));
            return Err(Error::format(path, message));
        }
    }

    let folder_of_storages = format!("{folder}data/");
    let mut n_bytes = bytes.len();
    let mut storages = HashMap::new();
    for name in archive.names() {
        let Some(key) = name.strip_prefix(&folder_of_storages) else { continue };
        if let Some(bytes) = archive.content(name)? {
            // What is not packed is the file's own bytes, perhaps those of several names.
            n_bytes += if let Cow::Owned(bytes) = &bytes { bytes.len() } else { 0 };
            storages.insert(key.to_string(), Storage { bytes, item: None });
        }
    }
    let pickled = match archive.content(name)?.unwrap_or_default() {
        Cow::Borrowed(pickled) => pickled,
        Cow::Owned(pickled) => {
            n_bytes += pickled.len();
            *scratch = pickled;
            &scratch[..]
        }
    };
    let pickle = Pickle::parse(path, pickled, Names::Torch)?;
    Ok(Content { pickle, storages, tensors: HashMap::new(), n_bytes })
}
