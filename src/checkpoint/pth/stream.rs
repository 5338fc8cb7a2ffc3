//! The container of PyTorch 0.2 to 1.5, and of later ones on request: pickles one after the other, then the storages.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use super::{Content, Storage};
use crate::error::{Error, Result, shown};
use crate::pickle::{Item, Names, Pickle, Value};

/// The number 0x1950a86a20f9469cfc6c as a pickle holds it: what such a file begins with.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The only version there is.
const VERSION: i64 = 1001;

/// The length of the pickle that marks such a file; `None` for another file.
pub(super) fn magic_len(bytes: &[u8]) -> Option<usize> {
    let [0x80, 2..=5, rest @ ..] = bytes else { return None };
    // From pickle protocol 4 on, a length in 8 bytes comes first.
    let rest = if let [0x95, rest @ ..] = rest { rest.get(8..)? } else { rest };
    rest.starts_with(MAGIC).then(|| bytes.len() - rest.len() + MAGIC.len())
}

/// Parses `bytes`, the content of `path`, of which the first `n_magic` are the mark.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8], n_magic: usize) -> Result<Content<'a>> {
    let mut at = n_magic;
    let next = |at: &mut usize| -> Result<Pickle<'a>> {
        let (pickle, n_bytes) = Pickle::parse_first(path, &bytes[*at..], Names::Torch)?;
        *at += n_bytes;
        Ok(pickle)
    };
    let version = next(&mut at)?;
    if *version.root() != Value::Int(VERSION) {
        return Err(Error::format(path, format!("found another version of the stream than {VERSION}")));
    }
    // What kind of machine wrote it; the storages are little-endian all the same.
    next(&mut at)?;
    let pickle = next(&mut at)?;
    let keys = next(&mut at)?;

    // The list of storages has only their names; the references have their types.
    let mut items: HashMap<&str, Item> = HashMap::new();
    for value in pickle.values() {
        let Value::Storage { item, key, .. } = value else { continue };
        let Some(key) = pickle.text(*key) else { continue };
        if *items.entry(key).or_insert(*item) != *item {
            return Err(Error::format(path, format!("storage {} has two types of items", shown(key))));
        }
    }
    let Value::List(ids) = keys.root() else {
        return Err(Error::format(path, "found no list of storages behind the object"));
    };
    let mut storages = HashMap::new();
    for id in ids {
        let key = keys.text(*id).ok_or_else(|| Error::format(path, "found a storage whose name is no string"))?;
        let unused = || Error::format(path, format!("found storage {}, which no tensor uses", shown(key)));
        let item = *items.get(key).ok_or_else(unused)?;
        let storage = storage(path, key, bytes, &mut at, item)?;
        if storages.insert(key.to_string(), storage).is_some() {
            return Err(Error::format(path, format!("found storage {} twice", shown(key))));
        }
    }
    if at != bytes.len() {
        return Err(Error::format(path, format!("goes on after its last storage, which ends at byte {at}")));
    }
    Ok(Content { pickle, storages, tensors: HashMap::new(), n_bytes: bytes.len() })
}

/// The storage at `at`, which moves behind it: the number of its items in 8 bytes, and the items.
pub(super) fn storage<'a>(path: &Path, key: &str, bytes: &'a [u8], at: &mut usize, item: Item) -> Result<Storage<'a>> {
    let rest = &bytes[*at..];
    let ends = || Error::format(path, format!("ends before the number of items of storage {}", shown(key)));
    let (n_items, rest) = rest.split_first_chunk::<8>().ok_or_else(ends)?;
    let n_items = u64::from_le_bytes(*n_items);
    let content = usize::try_from(n_items).ok().and_then(|n| rest.get(..n.checked_mul(item.n_bytes())?));
    let content = content.ok_or_else(|| {
        let n_bytes = item.n_bytes();
        Error::format(
            path,
            format!("storage {} is of {n_items} items of {n_bytes} bytes; found {} bytes", shown(key), rest.len()),
        )
    })?;
    *at += 8 + content.len();
    Ok(Storage { bytes: Cow::Borrowed(content), item: Some(item) })
}
