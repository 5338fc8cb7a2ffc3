//! Checkpoints of PyTorch (`.pth`): read without executing anything, from any of the three containers that
//! `torch.save` has written, and written in the newest.
//!
//! A container holds one pickled object, whose tensors are views of storages, and the storages' bytes. Files are hostile
//! until parsed: a view must lie inside its storage, and all that is read from a file together, in numbers and letters,
//! must not be more than the file holds in bytes, however often its parts refer to each other.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result, shown};
use crate::file;
use crate::pickle::{Id, Item, Pickle, Value};

mod published;
mod stream;
mod tar;
mod view;
mod write;
mod zip;

use view::View;

pub use published::{
    Group, Members, Named, OptimizerState, Progress, Published, Setting, StateValue, read_optimizer, read_published,
};
pub(in crate::checkpoint) use published::{is_buffer, is_trained};
pub use write::write_published;

/// Larger files are refused before they are read into memory.
const MAX_BYTES: u64 = 16 << 30;

/// The bytes of a storage.
#[derive(Debug)]
struct Storage<'a> {
    bytes: Cow<'a, [u8]>,
    /// Of what type, where the container says it; else the references in the pickle do.
    item: Option<Item>,
}

/// What a container holds.
#[derive(Debug)]
struct Content<'a> {
    pickle: Pickle<'a>,
    /// By the names that the pickle uses.
    storages: HashMap<String, Storage<'a>>,
    /// The tensors that lie outside the pickle, by the names that it uses.
    tensors: HashMap<String, Outside>,
    /// How many bytes the file holds, unpacked.
    n_bytes: usize,
}

/// A tensor outside the pickle.
#[derive(Debug)]
struct Outside {
    storage: String,
    offset: u64,
    shape: Vec<u64>,
    strides: Vec<u64>,
}

/// A checkpoint in memory.
#[derive(Debug)]
pub struct Pth<'p, 'a> {
    path: &'p Path,
    content: Content<'a>,
    /// How many more numbers and letters may be read.
    n_left: Cell<usize>,
}

/// A tensor's numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Those of a floating-point tensor, rounded to f32.
    F32(Vec<f32>),
    /// Those of an integer or boolean tensor.
    I64(Vec<i64>),
}

/// Whether the file at `path` begins as a checkpoint of PyTorch does, or has one's extension.
///
/// # Errors
/// When it cannot be read.
pub fn is_pth(path: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let (file, _) = file::open_regular(path)?;
    file.take(512).read_to_end(&mut start).map_err(Error::io(path))?;
    let is_known = start.starts_with(b"PK\x03\x04") || stream::magic_len(&start).is_some() || tar::is_tar(&start);
    Ok(is_known || path.extension().is_some_and(|extension| extension == "pth" || extension == "pt"))
}

/// The content of the file at `path`.
///
/// # Errors
/// When it cannot be read or is larger than 16 GiB.
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    file::read_at_most(path, MAX_BYTES)
}

impl<'p, 'a> Pth<'p, 'a> {
    /// Parses `bytes`, the content of `path` (which only errors use). `scratch` is empty memory, for a pickle that is
    /// compressed.
    ///
    /// # Errors
    /// When it is no checkpoint of PyTorch, is damaged, or names a function that tensors do not need.
    pub fn parse(path: &'p Path, bytes: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<Self> {
        let content = if bytes.starts_with(b"PK\x03\x04") {
            zip::parse(path, bytes, scratch)?
        } else if let Some(n_bytes) = stream::magic_len(bytes) {
            stream::parse(path, bytes, n_bytes)?
        } else if tar::is_tar(bytes) {
            tar::parse(path, bytes)?
        } else {
            let start = bytes[..bytes.len().min(8)].escape_ascii();
            let message = format!(
                "is no checkpoint of PyTorch: starts with \"{start}\", expected a zip archive, torch's stream or a tar archive"
            );
            return Err(Error::format(path, message));
        };
        Ok(Self { path, n_left: Cell::new(content.n_bytes), content })
    }

    /// The pickled object.
    pub fn pickle(&self) -> &Pickle<'a> {
        &self.content.pickle
    }

    /// The value reached from the outermost by keys of dicts (strings or integers) and indices of lists and tuples.
    pub fn at(&self, place: &[&str]) -> Option<&Value<'a>> {
        let pickle = self.pickle();
        let step = |value: &Value<'a>, key: &str| match value {
            Value::List(items) | Value::Tuple(items) => items.get(key.parse::<usize>().ok()?).copied(),
            Value::Dict(pairs) => {
                let number = key.parse::<i64>().ok();
                let is_key = |id: Id| match pickle.value(id) {
                    Value::Int(n) => Some(*n) == number,
                    value => value.as_text() == Some(key),
                };
                pairs.iter().rev().find(|(id, _)| is_key(*id)).map(|(_, id)| *id)
            }
            _ => None,
        };
        place.iter().try_fold(pickle.root(), |value, key| Some(pickle.value(step(value, key)?)))
    }

    /// The shape and numbers of the tensor at a [`Self::at`] place, the last axis fastest; `None` if there is none.
    ///
    /// # Errors
    /// When it is no tensor, or not one that lies inside the file.
    pub fn tensor(&self, place: &[&str]) -> Result<Option<(Vec<usize>, Numbers)>> {
        let Some(value) = self.at(place) else { return Ok(None) };
        let name = place.join(".");
        let view = self.view(value).map_err(|why| self.bad(&name, &why))?;
        self.spend(view.n_items().max(1))?;
        let numbers = match view.f32s() {
            Some(numbers) => Numbers::F32(numbers),
            None => Numbers::I64(view.i64s().unwrap_or_default()),
        };
        Ok(Some((view.shape().to_vec(), numbers)))
    }

    /// Accounts for `n` numbers or letters that are about to be copied.
    fn spend(&self, n: usize) -> Result<()> {
        let message = "describes more numbers than it has bytes: its tensors overlap or repeat items";
        let n_left = self.n_left.get().checked_sub(n).ok_or_else(|| Error::format(self.path, message))?;
        self.n_left.set(n_left);
        Ok(())
    }

    /// An error about the part called `name`.
    fn bad(&self, name: &str, why: &str) -> Error {
        Error::format(self.path, format!("{}: {why}", shown(name)))
    }

    /// The tensor that `value` is, all of whose items are in the file; else, why not.
    fn view(&self, value: &Value<'a>) -> Result<View<'_>, String> {
        match value {
            Value::Tensor { storage, offset, shape, strides } => {
                let (item, bytes) = self.storage(*storage)?;
                let offset = self.size(*offset).ok_or("has an offset that is no size")?;
                View::new(item, bytes, offset, &self.sizes(*shape)?, &self.sizes(*strides)?)
            }
            Value::Outside(id) => {
                let key = name_outside(self.pickle().value(*id)).unwrap_or_default();
                let tensor = self.content.tensors.get(&key);
                let tensor = tensor.ok_or_else(|| format!("is tensor {}, which is not in the file", shown(&key)))?;
                let (item, bytes) = self.storage_outside(&tensor.storage)?;
                View::new(item, bytes, tensor.offset, &tensor.shape, &tensor.strides)
            }
            value => Err(format!("is {}, expected a tensor", self.kind(value))),
        }
    }

    /// What a value is, for errors.
    fn kind(&self, value: &Value<'a>) -> String {
        match value {
            Value::None => "None".into(),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => "a number".into(),
            Value::Bytes(_) | Value::Str(_) | Value::Latin1(_) => "a string".into(),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Tuple(items) => format!("a tuple of {}", items.len()),
            Value::Dict(pairs) => format!("a dict of {}", pairs.len()),
            Value::Tensor { .. } | Value::Outside(_) => "a tensor".into(),
            Value::Storage { .. } => "a storage".into(),
            Value::Opaque(name) => format!("a value of another kind ({name})"),
            Value::Array { .. } | Value::Numpy(_) | Value::Torch(_) => "a name".into(),
        }
    }

    /// A storage's type and bytes.
    fn storage(&self, id: Id) -> Result<(Item, &[u8]), String> {
        match self.pickle().value(id) {
            Value::Storage { item, key, n_items, view } => {
                let key = self.pickle().text(*key).ok_or("is in a storage without a name")?;
                let storage = self.content.storages.get(key);
                let bytes = &storage.ok_or_else(|| not_found(key))?.bytes[..];
                let n_found = (bytes.len() / item.n_bytes()) as u64;
                match self.size(*n_items) {
                    Some(n) if n == n_found => {}
                    Some(n) => {
                        return Err(format!("is in storage {}, which has {n_found} items; expected {n}", shown(key)));
                    }
                    None => return Err("is in a storage whose length is no size".into()),
                }
                let Some(view) = view else { return Ok((*item, bytes)) };
                let part = match self.pickle().value(*view) {
                    Value::Tuple(view) if view.len() == 3 => self.size(view[1]).zip(self.size(view[2])),
                    _ => None,
                };
                let (offset, n) = part.ok_or("is in a part of a storage that is no key, offset and length")?;
                let end = offset.checked_add(n).filter(|end| *end <= n_found);
                let end =
                    end.ok_or_else(|| format!("is in items {offset} to {offset} + {n} of a storage of {n_found}"))?;
                // Both are at most the number of items, whose bytes are in memory.
                Ok((*item, &bytes[offset as usize * item.n_bytes()..end as usize * item.n_bytes()]))
            }
            Value::Outside(id) => self.storage_outside(&name_outside(self.pickle().value(*id)).unwrap_or_default()),
            _ => Err("is a tensor without a storage".into()),
        }
    }

    fn storage_outside(&self, key: &str) -> Result<(Item, &[u8]), String> {
        let storage = self.content.storages.get(key).ok_or_else(|| not_found(key))?;
        Ok((storage.item.ok_or_else(|| not_found(key))?, &storage.bytes))
    }

    fn size(&self, id: Id) -> Option<u64> {
        self.pickle().value(id).as_size()
    }

    /// A shape or strides.
    fn sizes(&self, id: Id) -> Result<Vec<u64>, String> {
        let sizes = match self.pickle().value(id) {
            // Before it is copied: it may be long, and belong to many tensors.
            Value::Tuple(ids) if ids.len() <= view::MAX_AXES => ids.iter().map(|id| self.size(*id)).collect(),
            _ => None,
        };
        sizes.ok_or_else(|| format!("has a shape or strides other than a tuple of at most {} sizes", view::MAX_AXES))
    }
}

/// The name of a tensor or storage of the tar format, which is a number or its digits.
fn name_outside(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Int(n) => Some(n.to_string()),
        value => value.as_text().map(str::to_string),
    }
}

fn not_found(key: &str) -> String {
    format!("is in storage {}, which is not in the file", shown(key))
}
