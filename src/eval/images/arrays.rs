//! Images in an array: `.npy`, `.npz`, `.safetensors`.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::{ByteRule, chunks, fill};
use crate::error::shown;
use crate::error::{Error, Result, few};
use crate::eval::npy::{self, Header};
use crate::file;
use crate::zip::Archive;

/// How long the header of a file may be.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Larger archives are refused before they are read into memory.
const MAX_ARCHIVE_BYTES: u64 = 16 << 30;
/// Samples are not clamped; this far outside [0, 1] they are still taken for such.
const MARGIN: f32 = 0.1;
/// The share of numbers that may lie even further outside. Of images in [−1, 1] or with mean 0 it is about half, of 0…255 nearly all.
const MAX_SHARE_OUTSIDE: f64 = 0.01;

/// What a number is.
#[derive(Clone, Copy)]
enum Item {
    U8,
    F32,
    F64,
}

impl Item {
    fn n_bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }
}

/// Where the numbers are: from this byte on in the file, or in memory.
enum Place {
    File(u64),
    Memory(Vec<u8>, usize),
}

/// At least one image, `[n, c, h, w]` or `[n, h, w, c]`.
struct Layout {
    item: Item,
    is_channels_last: bool,
    n: usize,
    /// `[channels, height, width]`; 1, 3 or 4 channels.
    shape: [usize; 3],
}

/// Images in a file.
pub(super) struct Array {
    path: PathBuf,
    place: Place,
    layout: Layout,
    rule: ByteRule,
}

impl Layout {
    fn new(item: Item, is_channels_last: bool, n: usize, shape: [usize; 3]) -> Result<Self, String> {
        if n == 0 || shape.contains(&0) {
            let [channels, height, width] = shape;
            return Err(format!("holds {n} images of {channels}×{height}×{width}, expected at least one with pixels"));
        }
        Ok(Self { item, is_channels_last, n, shape })
    }

    /// Of an array of NumPy's with items in `n_bytes`.
    fn of_numpy(header: &Header<'_>, n_bytes: u64) -> Result<Self, String> {
        header.expect_bytes(n_bytes)?;
        let item = match header.item {
            npy::Item::U8 => Item::U8,
            npy::Item::F32 => Item::F32,
            npy::Item::F64 => Item::F64,
            _ => {
                let descr = header.descr;
                return Err(format!("is an array of {descr}, expected bytes (|u1) or floats (<f4, <f8) in [0, 1]"));
            }
        };
        let is_channels = |n: usize| matches!(n, 1 | 3 | 4);
        match header.shape[..] {
            // A single image [h, w, c] would look like this, too.
            [n, height, width] if !is_channels(width) => Self::new(item, false, n, [1, height, width]),
            [n, a, b, c] if is_channels(a) && !is_channels(c) => Self::new(item, false, n, [a, b, c]),
            [n, a, b, c] if is_channels(c) && !is_channels(a) => Self::new(item, true, n, [c, a, b]),
            _ => Err(format!(
                "is an array of shape {:?}, expected images [n, h, w], [n, h, w, c] or [n, c, h, w] with 1, 3 or 4 channels, on one \
                 axis only",
                header.shape
            )),
        }
    }

    fn n_image_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.item.n_bytes()
    }
}

impl Array {
    /// Opens `path`, whose content tells what it is.
    pub fn open(path: &Path, rule: ByteRule) -> Result<Self> {
        let (file, n_bytes) = file::open_regular(path)?;
        let mut start = Vec::new();
        file.take(MAX_HEADER_BYTES).read_to_end(&mut start).map_err(Error::io(path))?;
        let bad = |message| Error::format(path, message);
        let (place, layout) = if start.starts_with(npy::MAGIC) {
            numpy(&start, n_bytes).map_err(bad)?
        } else if start.starts_with(b"PK\x03\x04") {
            numpy_archive(path)?
        } else if start.get(8) == Some(&b'{') {
            safetensors(&start, n_bytes).map_err(bad)?
        } else {
            let message = "is no set of images: expected a folder of them, or a file .npy, .npz or .safetensors";
            return Err(bad(message.into()));
        };
        let array = Self { path: path.to_path_buf(), place, layout, rule };
        match array.layout.item {
            Item::U8 => {}
            Item::F32 => array.check_floats(of_f32)?,
            Item::F64 => array.check_floats(of_f64)?,
        }
        Ok(array)
    }

    /// How many images.
    pub fn n(&self) -> usize {
        self.layout.n
    }

    /// `[channels, height, width]` of what is read, without alpha.
    pub fn shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.layout.shape;
        [channels.min(3), height, width]
    }

    /// How floats become bytes; `None` if the numbers are bytes.
    pub fn byte_rule(&self) -> Option<ByteRule> {
        match self.layout.item {
            Item::U8 => None,
            Item::F32 | Item::F64 => Some(self.rule),
        }
    }

    /// The images in `range`, `[n, c, h, w]`, without alpha.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let n = range.len();
        let bytes = self.bytes(range)?;
        let rule = self.rule;
        let (n_pixels, n_bytes) = (self.shape().iter().product(), self.layout.n_image_bytes());
        fill(n, n_pixels, |i, out| {
            let image = &bytes[i * n_bytes..][..n_bytes];
            match self.layout.item {
                Item::U8 => self.arrange(image, out, |&[byte]| byte),
                Item::F32 => self.arrange(image, out, |bytes| rule.byte(of_f32(bytes))),
                Item::F64 => self.arrange(image, out, |bytes| rule.byte(of_f64(bytes))),
            }
            Ok(())
        })
    }

    /// The numbers of one image as bytes, channel by channel.
    fn arrange<const N: usize>(&self, image: &[u8], out: &mut [u8], byte: impl Fn(&[u8; N]) -> u8) {
        let [channels, height, width] = self.layout.shape;
        let items = image.as_chunks::<N>().0;
        if self.layout.is_channels_last {
            for (c, plane) in out.chunks_exact_mut(height * width).enumerate() {
                plane.iter_mut().zip(items.iter().skip(c).step_by(channels)).for_each(|(out, item)| *out = byte(item));
            }
        } else {
            // What is left over is alpha.
            out.iter_mut().zip(items).for_each(|(out, item)| *out = byte(item));
        }
    }

    /// What the images in `range` are made of.
    fn bytes(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let n_bytes = self.layout.n_image_bytes();
        let (first, n) = (range.start * n_bytes, range.len() * n_bytes);
        match &self.place {
            Place::Memory(content, at) => Ok(Cow::Borrowed(&content[at + first..][..n])),
            Place::File(at) => {
                let (mut file, _) = file::open_regular(&self.path)?;
                let mut read = || {
                    file.seek(SeekFrom::Start(at + first as u64))?;
                    let mut bytes = vec![0; n];
                    file.read_exact(&mut bytes)?;
                    Ok(Cow::Owned(bytes))
                };
                read().map_err(Error::io(&self.path))
            }
        }
    }

    /// Refuses floats that are no intensities.
    fn check_floats<const N: usize>(&self, number: impl Fn(&[u8; N]) -> f32) -> Result<()> {
        let n_bytes = self.layout.n_image_bytes();
        let mut not_finite = Vec::new();
        let (mut min, mut max, mut n_outside) = (f32::INFINITY, f32::NEG_INFINITY, 0_u64);
        for range in chunks(self.n(), n_bytes) {
            let bytes = self.bytes(range.clone())?;
            for (k, image) in range.zip(bytes.chunks_exact(n_bytes)) {
                let mut is_finite = true;
                for x in image.as_chunks().0.iter().map(&number) {
                    is_finite &= x.is_finite();
                    (min, max) = (min.min(x), max.max(x));
                    n_outside += u64::from(!(-MARGIN..=1.0 + MARGIN).contains(&x));
                }
                if !is_finite {
                    not_finite.push(format!("image {k}"));
                }
            }
        }
        let share = n_outside as f64 / (self.n() * n_bytes / N) as f64;
        let message = if !not_finite.is_empty() {
            let (n, named) = (not_finite.len(), few(&not_finite));
            format!("{n} of {} images have numbers that are not finite: {named}", self.n())
        } else if share > MAX_SHARE_OUTSIDE {
            let percent = 100.0 * share;
            format!(
                "expected images in [0, 1], found numbers from {min} to {max}, {percent:.0} % of them clearly outside"
            )
        } else {
            return Ok(());
        };
        Err(Error::format(&self.path, message))
    }
}

fn of_f32(bytes: &[u8; 4]) -> f32 {
    f32::from_le_bytes(*bytes)
}

fn of_f64(bytes: &[u8; 8]) -> f32 {
    f64::from_le_bytes(*bytes) as f32
}

/// Of a file that begins with `start` and has `n_bytes`.
fn numpy(start: &[u8], n_bytes: u64) -> Result<(Place, Layout), String> {
    let header = Header::parse(start)?;
    let at = header.n_bytes as u64;
    Ok((Place::File(at), Layout::of_numpy(&header, n_bytes.saturating_sub(at))?))
}

fn numpy_archive(path: &Path) -> Result<(Place, Layout)> {
    let bytes = file::read_at_most(path, MAX_ARCHIVE_BYTES)?;
    let archive = Archive::open(path, &bytes)?;
    let names: Vec<&str> = archive.names().filter_map(|name| name.strip_suffix(".npy")).collect();
    let name = chosen(&names, &["samples", "arr_0"]).map_err(|message| Error::format(path, message))?;
    let bad = |message: String| Error::format(path, format!("{} {message}", shown(name)));
    let content = archive.content(&format!("{name}.npy"))?.unwrap_or_default();
    let header = Header::parse(&content).map_err(bad)?;
    let at = header.n_bytes;
    let layout = Layout::of_numpy(&header, (content.len() - at) as u64).map_err(bad)?;
    let place = match content {
        // What is not compressed is read from the file, batch by batch.
        Cow::Borrowed(content) => Place::File((content.as_ptr() as usize - bytes.as_ptr() as usize + at) as u64),
        Cow::Owned(content) => Place::Memory(content, at),
    };
    Ok((place, layout))
}

/// Of a file that begins with `start` and has `n_bytes`.
fn safetensors(start: &[u8], n_bytes: u64) -> Result<(Place, Layout), String> {
    let (n_header, rest) = start.split_first_chunk().ok_or("is no safetensors file")?;
    let n_header = u64::from_le_bytes(*n_header);
    let header = usize::try_from(n_header).ok().and_then(|n| rest.get(..n)).ok_or_else(|| {
        format!("is no safetensors file: a header of {n_header} bytes is not in its first {MAX_HEADER_BYTES}")
    })?;
    let metadata: Metadata =
        serde_json::from_slice(header).map_err(|error| format!("is no safetensors file ({error})"))?;
    let n_expected = (8 + n_header).checked_add(metadata.data_len() as u64);
    if n_expected != Some(n_bytes) {
        return Err(format!("found {n_bytes} bytes, which are not those that the file's header describes"));
    }
    let names = metadata.offset_keys();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let name = chosen(&names, &["samples"])?;
    let info = metadata.info(name).expect("a name from the list");
    let (name, shape) = (shown(name), &info.shape);
    let item = match info.dtype {
        Dtype::U8 => Item::U8,
        Dtype::F32 => Item::F32,
        Dtype::F64 => Item::F64,
        other => return Err(format!("{name} is {other:?}, expected U8, F32 or F64")),
    };
    let [n, channels @ (1 | 3 | 4), height, width] = shape[..] else {
        return Err(format!("{name} has shape {shape:?}, expected images [n, c, h, w] with 1, 3 or 4 channels"));
    };
    let layout = Layout::new(item, false, n, [channels, height, width])?;
    Ok((Place::File(8 + n_header + info.data_offsets.0 as u64), layout))
}

/// The array that is meant: the first of `wanted` that is there, or the only one.
fn chosen<'a>(names: &[&'a str], wanted: &[&str]) -> Result<&'a str, String> {
    let found = wanted.iter().find_map(|wanted| names.iter().find(|name| *name == wanted));
    match (found, names) {
        (Some(name), _) | (None, [name]) => Ok(name),
        _ => {
            let shown: Vec<String> = names.iter().map(|name| shown(name)).collect();
            let (n, wanted) = (names.len(), wanted.join(" or "));
            Err(format!("holds {n} arrays ({}), expected {wanted}, or a single one", few(&shown)))
        }
    }
}
