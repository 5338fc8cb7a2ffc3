//! Named tensors in a safetensors file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use burn::module::Module;
use half::{bf16, f16};
use md5::{Digest, Md5};
use safetensors::{Dtype, SafeTensors};

use super::digest;
use super::names::prefix_len;
use crate::error::{Error, Result, shown};
use crate::file::{self, AtomicFile};
use crate::net::params::{self, HostTensor, shown_shape};

/// Larger files are refused before they are read into memory.
const MAX_BYTES: u64 = 16 << 30;

/// A safetensors file in memory, its header checked against its length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    bytes: Vec<u8>,
    entries: BTreeMap<String, (Dtype, Vec<usize>, std::ops::Range<usize>)>,
    metadata: BTreeMap<String, String>,
    /// Tensors that stand for others of the file.
    computed: BTreeMap<String, HostTensor>,
}

impl TensorFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// When it cannot be read, is truncated, is no safetensors file, or has another digest than its header states.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(path, file::read_at_most(path, MAX_BYTES)?)
    }

    /// [`Self::open`] with `bytes`, the content of `path`.
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let length = bytes.len();
        let bad = |error: safetensors::SafeTensorError| {
            let message = format!("found {length} bytes that are no complete safetensors file ({error})");
            Error::damaged(path, message)
        };
        let (n_header, header) = SafeTensors::read_metadata(&bytes).map_err(bad)?;
        let metadata: BTreeMap<String, String> =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let start = bytes.as_ptr() as usize;
        let tensors = SafeTensors::deserialize(&bytes).map_err(bad)?;
        let entries = tensors.iter().map(|(name, view)| {
            let at = view.data().as_ptr() as usize - start;
            (name.to_string(), (view.dtype(), view.shape().to_vec(), at..at + view.data().len()))
        });
        let entries = entries.collect();
        let (head, data) = bytes.split_at(8 + n_header);
        if metadata.contains_key(digest::KEY) && !digest::is_whole(head, data) {
            return Err(Error::damaged(path, "is damaged: its tensors do not have the digest that its header says"));
        }
        Ok(Self { path: path.to_path_buf(), bytes, entries, metadata, computed: BTreeMap::new() })
    }

    /// Tensors in memory, as if `path` held them.
    pub(super) fn of(path: &Path, tensors: Vec<(String, HostTensor)>) -> Self {
        let (mut bytes, mut entries) = (Vec::new(), BTreeMap::new());
        for (name, HostTensor { shape, values }) in tensors {
            let start = bytes.len();
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            entries.insert(name, (Dtype::F32, shape, start..bytes.len()));
        }
        Self { path: path.to_path_buf(), bytes, entries, metadata: BTreeMap::new(), computed: BTreeMap::new() }
    }

    /// Takes the prefix off that all names have and that is no part of them, and gives it.
    pub(super) fn strip(&mut self) -> String {
        let n = prefix_len(self.entries.iter().map(|(name, (_, shape, _))| (name.as_str(), &shape[..])));
        let prefix = self.entries.keys().next().map_or("", |name| &name[..n]).to_string();
        if n > 0 {
            let entries = std::mem::take(&mut self.entries);
            self.entries = entries.into_iter().map(|(name, entry)| (name[n..].to_string(), entry)).collect();
        }
        prefix
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The MD5 of the whole file, in hexadecimal digits.
    pub fn md5(&self) -> String {
        file::hex(&Md5::digest(&self.bytes))
    }

    /// The names of its tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let mut names: Vec<&str> = self.entries.keys().chain(self.computed.keys()).map(String::as_str).collect();
        names.sort_unstable();
        names.into_iter()
    }

    /// Lets `tensor`, called `name`, stand for the tensor `of` of the file.
    pub(super) fn replace(&mut self, of: &str, name: String, tensor: HostTensor) {
        self.leave_out(of);
        self.computed.insert(name, tensor);
    }

    /// Reads the file as if it had no tensors of these names.
    pub(super) fn leave_out_all(&mut self, is_one: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| !is_one(name));
    }

    /// Reads the file as if it had no tensor `name`.
    pub(super) fn leave_out(&mut self, name: &str) {
        self.entries.remove(name);
    }

    /// A value of its header's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// The shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let of_file = self.entries.get(name).map(|(_, shape, _)| shape);
        of_file.or(self.computed.get(name).map(|tensor| &tensor.shape)).cloned()
    }

    /// Tensor `name` as f32; f64 is rounded, f16 and bf16 are exact. `None` if there is none.
    ///
    /// # Errors
    /// When it has another type.
    pub fn get(&self, name: &str) -> Result<Option<HostTensor>> {
        let Some((dtype, shape, range)) = self.entries.get(name) else { return Ok(self.computed.get(name).cloned()) };
        let data = &self.bytes[range.clone()];
        let values = match dtype {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::F16 => data.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                let message = format!("{} is {other:?}, expected F32, F64, F16 or BF16", shown(name));
                return Err(Error::format(&self.path, message));
            }
        };
        Ok(Some(HostTensor { shape: shape.clone(), values }))
    }

    /// Tensor `name` as f64, whole numbers or others.
    ///
    /// # Errors
    /// When it has another type.
    pub fn numbers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f64>)>> {
        let dtype = self.entries.get(name).map(|(dtype, ..)| *dtype);
        if let Some(Dtype::I64 | Dtype::I32 | Dtype::U8) = dtype {
            let integers = self.integers(name)?;
            return Ok(integers.map(|(shape, values)| (shape, values.into_iter().map(|v| v as f64).collect())));
        }
        if let Some((Dtype::F64, shape, range)) = self.entries.get(name) {
            let values = self.bytes[range.clone()].as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
            return Ok(Some((shape.clone(), values.collect())));
        }
        let floats = self.get(name)?;
        Ok(floats.map(|tensor| (tensor.shape, tensor.values.into_iter().map(f64::from).collect())))
    }

    /// `module` with the tensors `PREFIX…NAME` as its parameters and buffers, of which there must be `n_tensors`, those with the
    /// prefix. Buffers that are not there with the prefix are those without it: averages have none.
    ///
    /// # Errors
    /// When one is missing or has another shape or type, or there are more of them than the module has parameters and buffers.
    pub(crate) fn load<M: Module>(&self, module: M, prefix: &str, n_tensors: usize) -> Result<M> {
        let bad = |message| Error::format(&self.path, message);
        let values = |key: &str, expected: &[usize]| {
            let missing = || bad(format!("found no tensor {key}"));
            let HostTensor { shape: found, values } = self.get(key)?.ok_or_else(missing)?;
            if found != expected {
                return Err(bad(format!("{key} has shape {}, expected {expected:?}", shown_shape(&found))));
            }
            Ok(values)
        };
        let mut n_used = 0;
        let module = params::from_host(module, |name, shape| {
            n_used += 1;
            values(&format!("{prefix}{name}"), shape)
        })?;
        let module = params::buffers_from_host(module, |name, shape| {
            let own = format!("{prefix}{name}");
            let is_own = self.shape(&own).is_some();
            n_used += usize::from(is_own);
            values(if is_own { &own } else { name }, shape)
        })?;
        if n_tensors != n_used {
            return Err(bad(format!("found {n_tensors} tensors, expected {n_used}: the weights of another network")));
        }
        Ok(module)
    }

    /// As [`Self::get`], but a tensor that cannot be had is `None`.
    pub fn take(&mut self, name: &str) -> Option<HostTensor> {
        let tensor = self.get(name).ok().flatten();
        self.entries.remove(name);
        self.computed.remove(name);
        tensor
    }

    /// Tensor `name` as whole numbers.
    ///
    /// # Errors
    /// When it has another type.
    pub fn integers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<i64>)>> {
        let Some((dtype, shape, range)) = self.entries.get(name) else { return Ok(None) };
        let data = &self.bytes[range.clone()];
        let values = match dtype {
            Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            Dtype::I32 => data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            Dtype::U8 => data.iter().map(|&b| b.into()).collect(),
            other => {
                let message = format!("{} is {other:?}, expected I64, I32 or U8", shown(name));
                return Err(Error::format(&self.path, message));
            }
        };
        Ok(Some((shape.clone(), values)))
    }
}

/// The bytes before the data: header length and header, f32 tensors in the given order, padded so that the data are
/// aligned to 8 bytes.
fn header(tensors: &[(&str, &[usize])], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0;
    for (name, shape) in tensors {
        let end = offset + 4 * shape.iter().product::<usize>();
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [offset, end] });
        entries.insert((*name).to_string(), entry);
        offset = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes
}

fn write_f32(out: &mut dyn Write, values: &[f32]) -> std::io::Result<()> {
    values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))
}

/// Writes `tensors` to `path`, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_tensors(path: &Path, tensors: &[(String, HostTensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    file::write_atomically(path, |out| write_to(out, tensors, metadata))
}

/// What [`write_tensors`] writes.
pub(crate) fn encode_tensors(tensors: &[(String, HostTensor)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, tensors, metadata).expect("memory takes bytes");
    bytes
}

fn write_to(
    out: &mut dyn Write,
    tensors: &[(String, HostTensor)],
    metadata: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    let shapes: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.shape.as_slice())).collect();
    out.write_all(&header(&shapes, metadata))?;
    tensors.iter().try_for_each(|(_, tensor)| write_f32(out, &tensor.values))
}

/// Tensors that are about to be written to a file whose header states its own digest.
pub(super) struct Sealed<'a> {
    tensors: &'a [(String, HostTensor)],
    head: Vec<u8>,
    /// The digest.
    pub digest: String,
}

impl<'a> Sealed<'a> {
    pub fn new(tensors: &'a [(String, HostTensor)], mut metadata: BTreeMap<String, String>) -> Self {
        metadata.insert(digest::KEY.to_string(), digest::blank());
        let shapes: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.shape.as_slice())).collect();
        let mut head = header(&shapes, &metadata);
        let digest = digest::seal(&mut head, tensors);
        Self { tensors, head, digest }
    }

    /// The file that is to become `path`, its content on the disk.
    pub fn stage(&self, path: &Path) -> Result<AtomicFile> {
        let mut out = AtomicFile::create(path)?;
        let mut write = || {
            out.write_all(&self.head)?;
            self.tensors.iter().try_for_each(|(_, tensor)| write_f32(&mut out, &tensor.values))?;
            out.sync()
        };
        write().map_err(Error::io(path))?;
        Ok(out)
    }
}

/// One f32 tensor `[n, …]` written row by row to its final size, for sets larger than memory. It goes by a hidden
/// name until [`Self::finish`], and an unfinished one is taken up again.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    file: File,
    data_start: u64,
    row_len: usize,
}

impl TensorWriter {
    /// Opens the tensor `name` of `shape` at `path`. Rows of an earlier one, unfinished or of another number of rows, are kept.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: &Path, name: &str, shape: &[usize]) -> Result<Self> {
        let unfinished = file::partial_name(path);
        let head = header(&[(name, shape)], &BTreeMap::new());
        let row_len: usize = shape[1..].iter().product();
        let length = head.len() as u64 + 4 * (shape[0] * row_len) as u64;
        let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
        if !is_file(&unfinished) {
            file::remove(&unfinished)?;
            if is_file(path) {
                fs::rename(path, &unfinished).map_err(Error::io(path))?;
            }
        }
        if is_file(&unfinished) && !has_rows_of(&unfinished, name, shape, head.len()) {
            file::remove(&unfinished)?;
        }
        let open = || -> std::io::Result<File> {
            let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&unfinished)?;
            file.set_len(length)?;
            file.write_all(&head)?;
            Ok(file)
        };
        let file = open().map_err(Error::io(path))?;
        Ok(Self { path: path.to_path_buf(), file, data_start: head.len() as u64, row_len })
    }

    /// Whether all of these rows were written: the file begins with zeros, which no row of samples is.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_rows(&mut self, rows: std::ops::Range<usize>) -> Result<bool> {
        let mut row = vec![0; 4 * self.row_len];
        let mut is_written = |at: u64| {
            self.file.seek(SeekFrom::Start(at))?;
            self.file.read_exact(&mut row)?;
            Ok(row.iter().any(|&byte| byte != 0))
        };
        for i in rows {
            let at = self.data_start + 4 * (i * self.row_len) as u64;
            if !is_written(at).map_err(Error::io(&self.path))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes rows from number `first`, and makes them durable.
    ///
    /// # Errors
    /// When the disk is full or gone.
    pub fn write_rows(&mut self, first: usize, values: &[f32]) -> Result<()> {
        let at = self.data_start + 4 * (first * self.row_len) as u64;
        let mut bytes = Vec::with_capacity(4 * values.len());
        write_f32(&mut bytes, values).expect("memory takes bytes");
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&bytes)?;
            file.sync_data()
        };
        write(&mut self.file).map_err(Error::io(&self.path))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn finish(self) -> Result<()> {
        let done = self.file.sync_all().and_then(|()| fs::rename(file::partial_name(&self.path), &self.path));
        done.and_then(|()| file::sync_folder(&self.path)).map_err(Error::io(&self.path))
    }
}

/// Whether the file at `path` holds rows of the tensor `name`, where one with `shape` has them: after `data_start` bytes.
fn has_rows_of(path: &Path, name: &str, shape: &[usize], data_start: usize) -> bool {
    let mut bytes = vec![0; data_start];
    if File::open(path).and_then(|mut file| file.read_exact(&mut bytes)).is_err() {
        return false;
    }
    let (length, json) = bytes.split_at(8);
    let header: serde_json::Value = serde_json::from_slice(json).unwrap_or_default();
    let found: Option<Vec<usize>> = serde_json::from_value(header[name]["shape"].clone()).ok();
    let is_same = found.is_some_and(|found| found.len() == shape.len() && found[1..] == shape[1..]);
    is_same && length == (json.len() as u64).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize]) -> HostTensor {
        let n: usize = shape.iter().product();
        HostTensor { shape: shape.to_vec(), values: (0..n).map(|i| i as f32 * 0.5 - 3.0).collect() }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("t.safetensors");
        let tensors = vec![("b".to_string(), tensor(&[2, 3])), ("a".to_string(), tensor(&[4]))];
        let metadata = BTreeMap::from([("k".to_string(), "v\n\"w\"".to_string())]);
        write_tensors(&path, &tensors, &metadata).expect("writes");
        let file = TensorFile::open(&path).expect("reads");
        assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.metadata("k"), Some("v\n\"w\""));
        for (name, expected) in &tensors {
            assert_eq!(file.get(name).expect("f32").as_ref(), Some(expected));
        }
    }

    #[test]
    fn half_precision_is_read_exactly() {
        let view =
            |dtype, data: &'static [u8]| safetensors::tensor::TensorView::new(dtype, vec![2], data).expect("fits");
        let tensors = [
            ("f16", view(Dtype::F16, &[0x00, 0x3e, 0x00, 0xc0])),
            ("bf16", view(Dtype::BF16, &[0xc0, 0x3f, 0x00, 0xc0])),
            ("f64", view(Dtype::F64, &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0])),
            ("i16\u{1b}", view(Dtype::I16, &[0; 4])),
        ];
        let bytes = safetensors::serialize(tensors, None).expect("serialises");
        let file = TensorFile::parse(Path::new("f"), bytes).expect("reads");
        for name in ["f16", "bf16", "f64"] {
            let expected = HostTensor { shape: vec![2], values: vec![1.5, -2.0] };
            assert_eq!(file.get(name).expect("a float"), Some(expected), "{name}");
        }
        let message = file.get("i16\u{1b}").expect_err("refused").to_string();
        assert_eq!(message, "f: i16\\u{1b} is I16, expected F32, F64, F16 or BF16");
    }

    #[test]
    fn rows_written_in_any_order_and_over_two_openings_make_one_tensor() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("rows.safetensors");
        let all = tensor(&[3, 2]);
        for rows in [[2, 0], [1, 1]] {
            let mut writer = TensorWriter::open(&path, "samples", &[3, 2]).expect("opens");
            for row in rows {
                writer.write_rows(row, &all.values[2 * row..2 * row + 2]).expect("writes");
            }
            if rows == [1, 1] {
                writer.finish().expect("renames");
            }
        }
        assert_eq!(TensorFile::open(&path).expect("reads").get("samples").expect("f32"), Some(all));
    }

    #[test]
    fn rows_are_kept_when_some_are_added_and_unwritten_ones_are_known() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("rows.safetensors");
        let all = tensor(&[4, 2]);
        let mut writer = TensorWriter::open(&path, "samples", &[2, 2]).expect("opens");
        writer.write_rows(0, &all.values[..4]).expect("writes");
        writer.finish().expect("renames");
        let mut writer = TensorWriter::open(&path, "samples", &[4, 2]).expect("opens");
        let has = |writer: &mut TensorWriter, rows| writer.has_rows(rows).expect("reads");
        assert!(has(&mut writer, 0..2) && !has(&mut writer, 1..3) && !has(&mut writer, 3..4));
        writer.write_rows(2, &all.values[4..]).expect("writes");
        assert!(has(&mut writer, 0..4));
        writer.finish().expect("renames");
        assert_eq!(TensorFile::open(&path).expect("reads").get("samples").expect("f32"), Some(all));
        // Rows of another length are others.
        let mut writer = TensorWriter::open(&path, "samples", &[4, 3]).expect("opens");
        assert!(!has(&mut writer, 0..1));
    }

    #[test]
    fn no_mutation_of_a_file_makes_the_reader_panic() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("t.safetensors");
        write_tensors(&path, &[("a".to_string(), tensor(&[3, 5]))], &BTreeMap::new()).expect("writes");
        let whole = fs::read(&path).expect("reads");
        let mut n_refused = 0;
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            if i % 2 == 0 {
                bytes.truncate(i);
            } else {
                bytes[i] ^= 1 << (i % 8);
            }
            fs::write(&path, &bytes).expect("writes");
            match TensorFile::open(&path) {
                Ok(file) => drop(file.get("a")),
                Err(_) => n_refused += 1,
            }
        }
        assert!(n_refused > whole.len() / 2, "every truncation is refused, {n_refused}");
    }
}
