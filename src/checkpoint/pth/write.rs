//! Writing a checkpoint that PyTorch 1.6 and later load, also with `weights_only=True`.

use std::io::{self, Write};
use std::path::Path;

use flate2::Crc;

use super::published::{OptimizerState, Progress, Published, Setting, StateValue, trained};
use crate::config::Program;
use crate::error::{Error, Result};
use crate::file;
use crate::net::params::HostTensor;
use crate::zip;

/// The folder of all files in the archive.
const FOLDER: &str = "archive";
/// Where in the file storages begin: at multiples of this, as PyTorch's do, so that they can be mapped into memory.
const ALIGNMENT: usize = 64;
/// Chunks of numbers that are turned to bytes at once.
const N_CHUNK: usize = 1 << 14;

/// Writes `path`, whole or not at all, as [`Published::program`] keeps it. The same content gives the same bytes.
///
/// - NCSN's has the list `[state_dict, optimizer]` or, without an optimiser, `[state_dict]`.
/// - NCSNv2's, of a run whose progress is known, has `[state_dict, optimizer, epoch, step]` and, with an average, its trained parameters as a
///   fifth item, where `None` stands for an optimiser that is not there; else it is as NCSN's.
/// - Score-SDE's has a dict of `optimizer`, `model`, `ema` (`decay`, `num_updates` and the list `shadow_params` of the trained parameters) and
///   `step`, so far as they are known. A run without an average has the weights there, as the program's own runs with a decay of 0.
///
/// The prefix comes before each name of the weights.
///
/// # Errors
/// When the file cannot be written, or would be larger than 4 GiB.
///
/// # Panics
/// When a tensor has not as many values as its shape says.
pub fn write_published(path: &Path, published: &Published) -> Result<()> {
    let mut pickler = Pickler { bytes: b"\x80\x02".to_vec(), storages: Vec::new() };
    match published.program {
        Program::Ncsn | Program::NcsnV2 => pickler.list(published),
        Program::ScoreSde => pickler.dict(published),
    }
    pickler.bytes.push(b'.');
    let Pickler { bytes: pickle, storages } = pickler;

    let storages = storages.into_iter().enumerate().map(|(i, values)| (format!("data/{i}"), Content::Numbers(values)));
    let files: Vec<(String, Content<'_>)> =
        [("data.pkl".to_string(), Content::Bytes(&pickle)), ("byteorder".into(), Content::Bytes(b"little"))]
            .into_iter()
            .chain(storages)
            .chain([("version".into(), Content::Bytes(b"3\n"))])
            .collect();
    let too_large = || Error::Usage(format!("{}: such a checkpoint is limited to 4 GiB", path.display()));
    let names: Vec<String> = files.iter().map(|(name, _)| format!("{FOLDER}/{name}")).collect();
    let layout_of = names.iter().zip(&files).map(|(name, (_, content))| (&name[..], content.n_bytes(), content.crc()));
    let (headers, end) = zip::layout(&layout_of.collect::<Vec<_>>(), ALIGNMENT).ok_or_else(too_large)?;
    file::write_atomically(path, |out| {
        for (header, (_, content)) in headers.iter().zip(&files) {
            out.write_all(header)?;
            content.chunks(|bytes| out.write_all(bytes))?;
        }
        out.write_all(&end)
    })
}

/// What a file in the archive holds.
enum Content<'a> {
    Bytes(&'a [u8]),
    Numbers(Storage<'a>),
}

/// The numbers of a tensor.
#[derive(Clone, Copy)]
enum Storage<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

impl Storage<'_> {
    fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    fn n_bytes(self) -> usize {
        match self {
            Self::F32(values) => size_of_val(values),
            Self::F64(values) => size_of_val(values),
        }
    }

    /// What PyTorch calls such a storage.
    fn name(self) -> &'static [u8] {
        match self {
            Self::F32(_) => b"FloatStorage",
            Self::F64(_) => b"DoubleStorage",
        }
    }
}

/// Calls `f` with the bytes of `values`, part by part.
fn chunks<T: Copy, const N: usize>(
    values: &[T],
    bytes: fn(T) -> [u8; N],
    mut f: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    values.chunks(N_CHUNK).try_for_each(|values| {
        let bytes: Vec<u8> = values.iter().flat_map(|&value| bytes(value)).collect();
        f(&bytes)
    })
}

impl Content<'_> {
    fn n_bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Numbers(storage) => storage.n_bytes(),
        }
    }

    /// Calls `f` with the bytes, part by part.
    fn chunks(&self, mut f: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self {
            Self::Bytes(bytes) => f(bytes),
            Self::Numbers(Storage::F32(values)) => chunks(values, f32::to_le_bytes, f),
            Self::Numbers(Storage::F64(values)) => chunks(values, f64::to_le_bytes, f),
        }
    }

    fn crc(&self) -> u32 {
        let mut crc = Crc::new();
        let sum = self.chunks(|bytes| {
            crc.update(bytes);
            Ok(())
        });
        sum.map_or(0, |()| crc.sum())
    }
}

/// A pickle of protocol 2 under construction, and the storages that it refers to by their numbers.
struct Pickler<'a> {
    bytes: Vec<u8>,
    storages: Vec<Storage<'a>>,
}

impl<'a> Pickler<'a> {
    /// NCSN's list, or NCSNv2's.
    fn list(&mut self, published: &'a Published) {
        let Published { optimizer, progress, .. } = published;
        self.bytes.extend(b"](");
        self.state_dict(published);
        match optimizer {
            Some(optimizer) => self.optimizer(optimizer),
            None if progress.is_some() => self.bytes.push(b'N'),
            None => {}
        }
        if let Some(Progress { epoch, step }) = progress {
            self.int(epoch.unwrap_or(0).cast_signed());
            self.int(step.cast_signed());
            if let Some(averaged) = published.averaged() {
                self.bytes.push(b'}');
                self.tensors(averaged, "");
            }
        }
        self.bytes.push(b'e');
    }

    /// Score-SDE's dict.
    fn dict(&mut self, published: &'a Published) {
        let Published { network, optimizer, ema, ema_rate, ema_updates, progress, .. } = published;
        self.bytes.extend(b"}(");
        if let Some(optimizer) = optimizer {
            self.text("optimizer");
            self.optimizer(optimizer);
        }
        self.text("model");
        self.state_dict(published);
        let step = progress.map(|progress| progress.step);
        // An average of rate 0 is the weights.
        let averaged = ema.as_ref().or(progress.is_some().then_some(network));
        if let Some(averaged) = averaged {
            self.text("ema");
            self.bytes.extend(b"}(");
            self.text("decay");
            self.float(ema_rate.unwrap_or(0.0));
            self.text("num_updates");
            self.int(ema_updates.or(step).unwrap_or(0).cast_signed());
            self.text("shadow_params");
            self.bytes.extend(b"](");
            trained(averaged).for_each(|(_, tensor)| self.tensor(tensor));
            self.bytes.extend(b"eu");
        }
        if let Some(step) = step {
            self.text("step");
            self.int(step.cast_signed());
        }
        self.bytes.push(b'u');
    }

    /// The weights.
    fn state_dict(&mut self, Published { network, f64s, prefix, .. }: &'a Published) {
        self.bytes.extend(b"ccollections\nOrderedDict\n)R(");
        for (name, tensor) in network {
            self.text(&format!("{prefix}{name}"));
            match f64s.get(name) {
                Some(values) => self.storage(&tensor.shape, Storage::F64(values)),
                None => self.tensor(tensor),
            }
        }
        self.bytes.push(b'u');
    }

    /// The items of the dict that was written last.
    fn tensors(&mut self, tensors: impl IntoIterator<Item = &'a (String, HostTensor)>, prefix: &str) {
        self.bytes.push(b'(');
        for (name, tensor) in tensors {
            self.text(&format!("{prefix}{name}"));
            self.tensor(tensor);
        }
        self.bytes.push(b'u');
    }

    fn optimizer(&mut self, optimizer: &'a OptimizerState) {
        self.bytes.extend(b"}(");
        self.text("state");
        self.bytes.extend(b"}(");
        for (&param, values) in &optimizer.state {
            self.int(param.cast_signed());
            self.bytes.extend(b"}(");
            for (name, value) in values.iter() {
                self.text(name);
                match value {
                    StateValue::None => self.bytes.push(b'N'),
                    StateValue::Int(n) => self.int(*n),
                    StateValue::Float(x) => self.float(*x),
                    StateValue::Tensor(tensor) => self.tensor(tensor),
                }
            }
            self.bytes.push(b'u');
        }
        self.bytes.push(b'u');
        self.text("param_groups");
        self.bytes.extend(b"](");
        for group in &optimizer.groups {
            self.bytes.extend(b"}(");
            for (name, setting) in group.settings.iter() {
                self.text(name);
                self.setting(setting);
            }
            self.text("params");
            self.bytes.extend(b"](");
            group.params.iter().for_each(|&param| self.int(param.cast_signed()));
            self.bytes.extend(b"eu");
        }
        self.bytes.extend(b"eu");
    }

    fn setting(&mut self, setting: &Setting) {
        match setting {
            Setting::None => self.bytes.push(b'N'),
            Setting::Bool(flag) => self.bytes.push(if *flag { 0x88 } else { 0x89 }),
            Setting::Int(n) => self.int(*n),
            Setting::Float(x) => self.float(*x),
            Setting::Floats(numbers) => {
                self.bytes.push(b'(');
                numbers.iter().for_each(|x| self.float(*x));
                self.bytes.push(b't');
            }
        }
    }

    fn tensor(&mut self, HostTensor { shape, values }: &'a HostTensor) {
        self.storage(shape, Storage::F32(values));
    }

    /// A view of all of a new storage.
    fn storage(&mut self, shape: &[usize], values: Storage<'a>) {
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?}");
        let key = self.storages.len().to_string();
        self.storages.push(values);
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage");
        self.bytes.extend(b"ctorch\n");
        self.bytes.extend(values.name());
        self.bytes.push(b'\n');
        self.text(&key);
        self.text("cpu");
        self.size(values.len());
        self.bytes.extend(b"tQK\x00(");
        shape.iter().for_each(|&size| self.size(size));
        self.bytes.extend(b"t(");
        let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().map(|&size| size.max(1)).product());
        strides.for_each(|stride| self.size(stride));
        self.bytes.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }

    fn text(&mut self, text: &str) {
        self.bytes.push(b'X');
        // Names are far shorter than 4 GiB, or the archive is refused for its size.
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn size(&mut self, n: usize) {
        self.int(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// In the least bytes, as Python does.
    fn int(&mut self, n: i64) {
        if let Ok(n) = u8::try_from(n) {
            self.bytes.extend([b'K', n]);
        } else if let Ok(n) = u16::try_from(n) {
            self.bytes.push(b'M');
            self.bytes.extend(n.to_le_bytes());
        } else if let Ok(n) = i32::try_from(n) {
            self.bytes.push(b'J');
            self.bytes.extend(n.to_le_bytes());
        } else {
            self.bytes.extend([0x8a, 8]);
            self.bytes.extend(n.to_le_bytes());
        }
    }

    fn float(&mut self, x: f64) {
        self.bytes.push(b'G');
        self.bytes.extend(x.to_be_bytes());
    }
}
