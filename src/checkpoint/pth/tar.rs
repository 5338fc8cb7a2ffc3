//! The container of PyTorch 0.1: a tar archive of `sys_info`, `pickle`, `tensors` and `storages`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::{Content, Outside, Storage, name_outside, stream, view};
use crate::error::{Error, Result, shown};
use crate::pickle::{Names, Pickle, Value};

/// Whether `bytes` begin as a tar archive does.
pub(super) fn is_tar(bytes: &[u8]) -> bool {
    bytes.get(257..262) == Some(b"ustar")
}

/// Parses `bytes`, the content of `path`.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Content<'a>> {
    let [pickle, tensors, storages] = members(path, bytes)?;
    let storages = read_storages(path, storages)?;
    let tensors = read_tensors(path, tensors)?;
    let pickle = Pickle::parse(path, pickle, Names::Torch)?;
    Ok(Content { pickle, storages, tensors, n_bytes: bytes.len() })
}

/// The content of the three members that matter.
fn members<'a>(path: &Path, bytes: &'a [u8]) -> Result<[&'a [u8]; 3]> {
    // What the tar reader has to say may quote the archive, with any bytes.
    let broken = |source: std::io::Error| Error::format(path, format!("tar archive: {}", shown(&source.to_string())));
    let mut archive = ::tar::Archive::new(bytes);
    let mut found = [None; 3];
    // Raw: extensions, which could hold names of any length, count as files of their own and are passed over.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let entry = entry.map_err(broken)?;
        let names: [&[u8]; 3] = [b"pickle", b"tensors", b"storages"];
        let name = entry.path_bytes();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let Some(i) = names.iter().position(|wanted| *wanted == name) else { continue };
        let range = usize::try_from(entry.raw_file_position()).ok().zip(usize::try_from(entry.size()).ok());
        let content = range.and_then(|(start, n_bytes)| bytes.get(start..)?.get(..n_bytes));
        if entry.header().entry_type().is_file() {
            found[i] =
                Some(content.ok_or_else(|| Error::format(path, "tar archive: ends inside a member: truncated"))?);
        }
    }
    let [Some(pickle), Some(tensors), Some(storages)] = found else {
        let message = "is a tar archive, but no checkpoint of PyTorch: expected pickle, tensors and storages in it";
        return Err(Error::format(path, message));
    };
    Ok([pickle, tensors, storages])
}

/// The number of storages; of each (key, location, class) and its items; then parts of them under keys of their own.
fn read_storages<'a>(path: &Path, bytes: &'a [u8]) -> Result<HashMap<String, Storage<'a>>> {
    let bad = |message: &str| Error::format(path, format!("storages: {message}"));
    let mut at = 0;
    let next = |at: &mut usize| -> Result<Pickle<'a>> {
        let (pickle, n_bytes) = Pickle::parse_first(path, &bytes[*at..], Names::Torch)?;
        *at += n_bytes;
        Ok(pickle)
    };
    let n_storages = next(&mut at)?.root().as_size().ok_or_else(|| bad("found no number of storages"))?;
    let mut storages: HashMap<String, Storage<'a>> = HashMap::new();
    for _ in 0..n_storages {
        let head = next(&mut at)?;
        let parts = if let Value::Tuple(parts) = head.root() { &parts[..] } else { &[] };
        let &[key, _location, class] = parts else { return Err(bad("expected a key, a location and a class")) };
        let item = head.value(class).as_item().ok_or_else(|| bad("found no class of storages"))?;
        let key = name_outside(head.value(key)).ok_or_else(|| bad("found a key that is no number"))?;
        let storage = stream::storage(path, &key, bytes, &mut at, item)?;
        storages.insert(key, storage);
    }
    let views = next(&mut at)?;
    let Value::List(ids) = views.root() else { return Err(bad("found no list of their parts")) };
    for id in ids {
        let parts = if let Value::Tuple(parts) = views.value(*id) { &parts[..] } else { &[] };
        let &[key, root, offset, n_items] = parts else {
            return Err(bad("expected parts of two keys, an offset and a length"));
        };
        let part = || {
            let root = storages.get(&name_outside(views.value(root))?)?;
            let item = root.item?;
            let size = |id| usize::try_from(views.value(id).as_size()?).ok()?.checked_mul(item.n_bytes());
            let start = size(offset)?;
            let end = start.checked_add(size(n_items)?)?;
            // The roots are borrowed from the file, so a part is, too.
            let Cow::Borrowed(bytes) = root.bytes else { return None };
            Some(Storage { bytes: bytes.get(start..end)?.into(), item: Some(item) })
        };
        let part = part().ok_or_else(|| bad("found a part that is not inside its storage"))?;
        storages.insert(name_outside(views.value(key)).ok_or_else(|| bad("found a key that is no number"))?, part);
    }
    Ok(storages)
}

/// The number of tensors; of each (key, storage, class), and in binary the number of axes, the shape, the strides, and
/// the offset.
fn read_tensors(path: &Path, bytes: &[u8]) -> Result<HashMap<String, Outside>> {
    let bad = |message: &str| Error::format(path, format!("tensors: {message}"));
    let (n_tensors, mut at) = Pickle::parse_first(path, bytes, Names::Torch)?;
    let n_tensors = n_tensors.root().as_size().ok_or_else(|| bad("found no number of tensors"))?;
    let mut tensors = HashMap::new();
    for _ in 0..n_tensors {
        let (head, n_bytes) = Pickle::parse_first(path, &bytes[at..], Names::Torch)?;
        at += n_bytes;
        let parts = if let Value::Tuple(parts) = head.root() { &parts[..] } else { &[] };
        let &[key, storage, _class] = parts else { return Err(bad("expected a key, a storage and a class")) };
        let names = name_outside(head.value(key)).zip(name_outside(head.value(storage)));
        let (key, storage) = names.ok_or_else(|| bad("found a key that is no number"))?;

        let (words, _) = bytes[at..].as_chunks::<8>();
        let word = |i: usize| words.get(i).map(|word| u64::from_le_bytes(*word));
        // A number in 4 bytes, and 4 that mean nothing.
        let n_axes = word(0).map(|word| word as u32 as usize).filter(|&n| n <= view::MAX_AXES);
        let n_axes = n_axes.ok_or_else(|| bad("found a tensor without a number of axes"))?;
        let axes = |first: usize| (first..first + n_axes).map(word).collect::<Option<Vec<u64>>>();
        let parts = axes(1).zip(axes(1 + n_axes)).zip(word(1 + 2 * n_axes));
        let ((shape, strides), offset) = parts.ok_or_else(|| bad("ends inside a tensor's shape: truncated"))?;
        at += 8 * (2 + 2 * n_axes);
        tensors.insert(key, Outside { storage, offset, shape, strides });
    }
    Ok(tensors)
}
