//! TFRecords of images, the containers of CelebA-HQ (Karras, Aila, Laine & Lehtinen, ICLR 2018) and of one form of FFHQ, read only.
//!
//! A file holds the images of one resolution, as its name says: `ffhq-r08.tfrecords` those of 2⁸ pixels a side. Each record, framed
//! as in [`record`], is a protocol-buffer message `tf.train.Example` with the features `shape`, three integers
//! (channels, height, width), and `data`, that many bytes.

mod example;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use example::Image;

use super::resize::Pixels;
use super::{Progress, Source};
use crate::error::{Error, Result, shown_path};
use crate::file::{open_regular, read_exact_at};
use crate::record::{self, FOOTER_BYTES, HEADER_BYTES};

/// The ends of names, without the point.
const EXTENSIONS: [&str; 2] = ["tfrecords", "tfrecord"];
/// The longest record that is read: an image of 1024 pixels a side has 3 MiB.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// The images of a file of TFRecords, `[channels, size, size]`, in the order of the file.
///
/// They are read when they are asked for. Of each 16 bytes are kept: 1.1 MB for the 70,000 images of FFHQ. The files have no held-out
/// part, and the published models were trained on all images: both splits are the whole file, and [`Source::warning`] says it.
#[derive(Debug)]
pub struct TfRecords {
    path: PathBuf,
    file: File,
    records: Vec<Span>,
    channels: usize,
    size: usize,
}

/// Where the bytes of a record are.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u64,
    n_bytes: u32,
}

impl TfRecords {
    /// The file of images of `size` × `size` pixels that `root` means: itself, if it is a file of TFRecords, or in the folder `root`
    /// that whose name ends in `-rNN.tfrecords` with 2ᴺᴺ = `size`. `None` if `root` is something else or a folder without such files.
    ///
    /// # Errors
    /// [`Error::MissingData`] if the folder has such files of other resolutions only, or several of this one; [`Error::Io`] if
    /// something cannot be read.
    pub fn find(root: &Path, size: usize) -> Result<Option<PathBuf>> {
        if root.is_file() {
            return Ok((has_extension(root) || begins_with_record(root)?).then(|| root.to_path_buf()));
        }
        if !root.is_dir() {
            return Ok(None);
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(root).map_err(Error::io(root))? {
            let path = entry.map_err(Error::io(root))?.path();
            found.extend(resolution(&path).map(|side| (side, path)));
        }
        found.sort();
        let of_size: Vec<&PathBuf> = found.iter().filter(|(side, _)| *side == size).map(|(_, path)| path).collect();
        match of_size[..] {
            [path] => Ok(Some(path.clone())),
            [] if found.is_empty() => Ok(None),
            [] => {
                let mut sides: Vec<String> = found.iter().map(|(side, _)| side.to_string()).collect();
                sides.dedup();
                let (root, sides) = (shown_path(root), sides.join(", "));
                let message = format!("{root}: found no TFRecords of {size} pixels; data.image_size can be {sides}");
                Err(Error::MissingData(message))
            }
            [first, second, ..] => {
                let [first, second] = [first, second].map(|path| shown_path(path));
                Err(Error::MissingData(format!(
                    "found both {first} and {second}, expected one file of TFRecords of {size} pixels; data.path can be either"
                )))
            }
        }
    }

    /// The images of the file `path`. The lengths of the records are read here, and one image; `progress` counts records.
    ///
    /// # Errors
    /// [`Error::MissingData`] if there is no record; [`Error::Io`] if the file cannot be read; [`Error::Format`] if it is no file of
    /// TFRecords, is damaged or cut off, or holds images of another size; [`Error::Stopped`] when `progress` says so.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3, or `size` is 0.
    pub fn open(path: &Path, channels: usize, size: usize, progress: &mut Progress<'_>) -> Result<Self> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        let (file, n_bytes) = open_regular(path)?;
        if n_bytes == 0 {
            return Err(Error::MissingData(format!("{}: the file holds no record", shown_path(path))));
        }
        let mut set = Self { path: path.to_path_buf(), file, records: Vec::new(), channels, size };
        set.index(n_bytes, progress)?;
        Ok(set)
    }

    /// CelebA-HQ's images in the file, or the folder of files, `root`; see [`Self::find`] and [`Self::open`].
    ///
    /// # Errors
    /// As these; [`Error::MissingData`] if there is no such file, saying where to get it.
    ///
    /// # Panics
    /// As [`Self::open`].
    pub fn celeba_hq(root: &Path, channels: usize, size: usize, progress: &mut Progress<'_>) -> Result<Self> {
        let found = if root.is_file() { Some(root.to_path_buf()) } else { Self::find(root, size)? };
        let Some(path) = found else {
            return Err(Error::MissingData(format!(
                "CelebA-HQ is not in {}. It cannot be downloaded automatically, because it is made from CelebA: put there a file of \
                 TFRecords for each resolution, such as celebahq-r08.tfrecords for 256 pixels, made by dataset_tool.py of \
                 https://github.com/tkarras/progressive_growing_of_gans",
                shown_path(root)
            )));
        };
        Self::open(&path, channels, size, progress)
    }

    /// Finds all records of a file of `n_bytes`.
    fn index(&mut self, n_bytes: u64, progress: &mut Progress<'_>) -> Result<()> {
        /// Records between two looks at whether to go on.
        const N_AT_A_TIME: usize = 256;
        // Of one channel. Shorter records are no images, and would be many in a small file.
        let least = (self.size * self.size) as u64;
        let mut at = 0;
        while at < n_bytes {
            let number = self.records.len();
            let bad = |message: String| Error::format(&self.path, format!("record {number}: {message}"));
            let ends_early = || bad(format!("the file ends too early: it has {n_bytes} bytes"));
            let mut header = [0; HEADER_BYTES];
            if n_bytes - at < HEADER_BYTES as u64 {
                return Err(ends_early());
            }
            read_exact_at(&self.file, &mut header, at).map_err(Error::io(&self.path))?;
            let length = record::length(&header).ok_or_else(|| match number {
                0 => Error::format(&self.path, "not a file of TFRecords"),
                _ => bad("its length has another checksum than the file says: damaged".into()),
            })?;
            if length > MAX_RECORD_BYTES {
                return Err(bad(format!("found {length} bytes, expected at most {MAX_RECORD_BYTES}")));
            }
            let start = at + HEADER_BYTES as u64;
            let end = start + length + FOOTER_BYTES as u64;
            if end > n_bytes {
                return Err(ends_early());
            }
            let span = Span { start, n_bytes: length as u32 };
            // What tells of the whole file, before anything about a record.
            if number == 0 {
                self.read_span(0, span, |image| self.check_size(&image))?;
            }
            if length < least {
                let size = self.size;
                return Err(bad(format!("found {length} bytes, expected those of an image of {size}×{size} pixels")));
            }
            if number.is_multiple_of(N_AT_A_TIME) {
                let n = number as u64 + (n_bytes - at).div_ceil(end - at);
                if progress(number as u64, n).is_break() {
                    return Err(Error::Stopped(format!("stopped after {number} of about {n} images")));
                }
            }
            self.records.push(span);
            at = end;
        }
        Ok(())
    }

    /// Reads record `number` at `span`, and passes on the image in it.
    fn read_span<T>(
        &self,
        number: usize,
        span: Span,
        pass: impl FnOnce(Image<'_>) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let bad = |message: String| Error::format(&self.path, format!("record {number}: {message}"));
        // The file has them, and they are not many.
        let mut bytes = vec![0; span.n_bytes as usize + FOOTER_BYTES];
        read_exact_at(&self.file, &mut bytes, span.start).map_err(Error::io(&self.path))?;
        let (data, footer) = bytes.split_last_chunk().expect("with a footer");
        if !record::is_sound(data, *footer) {
            return Err(bad("its bytes have another checksum than the file says: damaged".into()));
        }
        Image::parse(data).and_then(pass).map_err(bad)
    }

    fn check_size(&self, image: &Image<'_>) -> std::result::Result<(), String> {
        let ([channels, height, width], size) = (image.shape, self.size);
        if [height, width] != [size; 2] {
            return Err(format!(
                "found an image of {channels}×{height}×{width}, expected {size}×{size} pixels: each resolution has a file of its own"
            ));
        }
        Ok(())
    }
}

impl Source for TfRecords {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        self.read_span(index, self.records[index], |image| {
            self.check_size(&image)?;
            if image.shape[0] == self.channels {
                pixels_u8.copy_from_slice(image.pixels_u8);
            } else {
                let pixels = Pixels::from_chw(image.pixels_u8, image.shape).with_channels(self.channels);
                pixels_u8.copy_from_slice(&pixels.to_chw());
            }
            Ok(())
        })
    }

    fn warning(&self) -> Option<String> {
        Some("TFRecords have no held-out part: test losses are of images that are trained on".into())
    }
}

fn has_extension(path: &Path) -> bool {
    path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end.eq_ignore_ascii_case(known)))
}

/// Whether the file begins as a record does.
fn begins_with_record(path: &Path) -> Result<bool> {
    let (file, n_bytes) = open_regular(path)?;
    let mut header = [0; HEADER_BYTES];
    if n_bytes < HEADER_BYTES as u64 {
        return Ok(false);
    }
    read_exact_at(&file, &mut header, 0).map_err(Error::io(path))?;
    Ok(record::length(&header).is_some())
}

/// The height and width in pixels that a name such as `ffhq-r08.tfrecords` tells.
fn resolution(path: &Path) -> Option<usize> {
    let (_, exponent) = path.file_stem().filter(|_| has_extension(path))?.to_str()?.rsplit_once("-r")?;
    let exponent: u32 = exponent.parse().ok().filter(|_| exponent.len() == 2)?;
    1_usize.checked_shl(exponent)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use super::super::unwatched;
    use super::*;
    use crate::record::write_record;

    fn varint(mut n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while n >= 0x80 {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    }

    /// A field of bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2][..], &varint(content.len() as u64), content].concat()
    }

    fn feature_of(name: &str, value: &[u8]) -> Vec<u8> {
        field(1, &[field(1, name.as_bytes()), field(2, value)].concat())
    }

    fn packed(numbers: &[u64]) -> Vec<u8> {
        field(3, &field(1, &numbers.iter().flat_map(|&n| varint(n)).collect::<Vec<_>>()))
    }

    fn unpacked(numbers: &[u64]) -> Vec<u8> {
        field(3, &numbers.iter().flat_map(|&n| [vec![1 << 3], varint(n)].concat()).collect::<Vec<_>>())
    }

    /// A `tf.train.Example`.
    fn example(features: &[Vec<u8>]) -> Vec<u8> {
        field(1, &features.concat())
    }

    fn image(shape: &[u64], pixels_u8: &[u8]) -> Vec<u8> {
        example(&[feature_of("data", &field(1, &field(1, pixels_u8))), feature_of("shape", &packed(shape))])
    }

    fn file_of(records: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|record| write_record(&mut bytes, record).unwrap());
        bytes
    }

    /// Images of 3×4×4, the first byte of each its number.
    fn faces(n: u8) -> Vec<u8> {
        let pixels = |i: u8| (0..48).map(|k| i + 5 * k).collect::<Vec<u8>>();
        file_of(&(0..n).map(|i| image(&[3, 4, 4], &pixels(i))).collect::<Vec<_>>())
    }

    fn read_all(path: &Path, channels: usize, size: usize) -> Result<Vec<Vec<u8>>> {
        let set = TfRecords::open(path, channels, size, &mut unwatched)?;
        let read = |index| {
            let mut pixels_u8 = vec![0; channels * size * size];
            set.read(index, &mut pixels_u8).map(|()| pixels_u8)
        };
        (0..set.len()).rev().map(read).collect()
    }

    fn written(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("faces-r02.tfrecords");
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    #[test]
    fn images_are_read_in_any_order_with_the_channels_asked_for() {
        let pixels_u8: Vec<u8> = (0..48).map(|i| i * 5).collect();
        let grey = [7; 16];
        // Other features, other orders and unpacked lists are the same to protocol buffers; of two the last counts.
        let shuffled = example(&[
            feature_of("label", &packed(&[9])),
            feature_of("shape", &packed(&[1, 2, 3])),
            feature_of("shape", &unpacked(&[3, 4, 4])),
            feature_of("data", &field(1, &field(1, &pixels_u8))),
            feature_of("name", &field(1, &[field(1, b"a"), field(1, b"b")].concat())),
        ]);
        let (_folder, path) = written(&file_of(&[image(&[3, 4, 4], &pixels_u8), shuffled, image(&[1, 4, 4], &grey)]));
        assert_eq!(read_all(&path, 3, 4).unwrap(), [vec![7; 48], pixels_u8.clone(), pixels_u8.clone()]);
        let expected = Pixels::from_chw(&pixels_u8, [3, 4, 4]).with_channels(1).to_chw();
        assert_eq!(read_all(&path, 1, 4).unwrap(), [grey.to_vec(), expected.clone(), expected]);
        let set = TfRecords::open(&path, 3, 4, &mut unwatched).unwrap();
        assert_eq!((set.len(), set.shape()), (3, [3, 4, 4]));
        assert!(set.warning().unwrap().contains("no held-out part"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let whole = faces(2);
        let (_folder, path) = written(&whole);
        let expected = read_all(&path, 3, 4).unwrap();
        assert_eq!(expected.len(), 2);
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).unwrap();
            assert!(matches!(read_all(&path, 3, 4), Err(Error::Format { .. })), "bit {bit}");
        }
        for n in (1..whole.len()).filter(|n| *n != whole.len() / 2) {
            fs::write(&path, &whole[..n]).unwrap();
            let message = read_all(&path, 3, 4).unwrap_err().to_string();
            assert!(message.contains("the file ends too early"), "{n} bytes: {message}");
        }
    }

    #[test]
    fn records_that_are_no_images_of_the_size_are_named() {
        let data = |pixels_u8: &[u8]| feature_of("data", &field(1, &field(1, pixels_u8)));
        let shape = |numbers: &[u64]| feature_of("shape", &packed(numbers));
        let pixels = [0; 48];
        for (records, message) in [
            (
                vec![image(&[3, 2, 8], &pixels)],
                "record 0: found an image of 3×2×8, expected 4×4 pixels: each resolution",
            ),
            (vec![image(&[3, 4, 4], &pixels[..47])], "record 0: found 47 bytes of pixels, expected those of 3×4×4"),
            (vec![image(&[4, 4, 3], &pixels)], "found the shape [4, 4, 3], expected 1 or 3 channels, height and width"),
            (vec![image(&[3, 4], &pixels)], "found the shape [3, 4], expected"),
            (vec![image(&[3, 4, 4, 1], &pixels)], "found the shape [3, 4, 4, 1], expected"),
            (vec![image(&[3, 0, 4], &[])], "found the shape [3, 0, 4], expected"),
            (vec![image(&[3, 1 << 40, 1 << 40], &pixels)], "found the shape [3, 1099511627776, 1099511627776]"),
            (vec![image(&[1; 100], &pixels)], "found the shape [1, 1, 1, 1, 1, 1, 1, 1], expected"),
            (vec![example(&[data(&pixels)])], "found no feature shape, expected shape and data"),
            (vec![example(&[shape(&[3, 4, 4])])], "found no feature data"),
            (vec![example(&[shape(&[3, 4, 4]), feature_of("data", b"")])], "found no bytes under data"),
            (
                vec![example(&[shape(&[3, 4, 4]), feature_of("data", &field(1, &field(1, &pixels).repeat(2)))])],
                "found several strings of bytes under data",
            ),
            (vec![b"no message, but long enough".to_vec()], "its protocol-buffer message is damaged"),
            (
                vec![image(&[3, 4, 4], &pixels), b"short".to_vec()],
                "record 1: found 5 bytes, expected those of an image",
            ),
        ] {
            let (_folder, path) = written(&file_of(&records));
            let found = read_all(&path, 3, 4).unwrap_err().to_string();
            assert!(found.contains(message), "{found}, expected {message}");
        }
        let (_folder, path) = written(b"this is not a file of records");
        assert!(read_all(&path, 3, 4).unwrap_err().to_string().ends_with("not a file of TFRecords"));
        let (_folder, path) = written(b"");
        assert!(matches!(read_all(&path, 3, 4), Err(Error::MissingData(_))));
        let (_folder, path) = written(&faces(3));
        let message = TfRecords::open(&path, 3, 4, &mut |_, _| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(message, Error::Stopped(_)), "{message}");
    }

    #[test]
    fn a_file_is_found_by_its_resolution() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(TfRecords::find(root, 4).unwrap(), None);
        assert_eq!(TfRecords::find(&root.join("absent"), 4).unwrap(), None);
        fs::write(root.join("faces-r02.txt"), b"").unwrap();
        fs::write(root.join("faces.tfrecords"), b"").unwrap();
        assert_eq!(TfRecords::find(root, 4).unwrap(), None);
        for name in ["faces-r02.tfrecords", "faces-r10.tfrecords"] {
            fs::write(root.join(name), faces(1)).unwrap();
        }
        assert_eq!(TfRecords::find(root, 4).unwrap(), Some(root.join("faces-r02.tfrecords")));
        assert_eq!(TfRecords::find(root, 1024).unwrap(), Some(root.join("faces-r10.tfrecords")));
        let message = TfRecords::find(root, 256).unwrap_err().to_string();
        assert!(message.ends_with("found no TFRecords of 256 pixels; data.image_size can be 4, 1024"), "{message}");
        fs::write(root.join("other-r02.TFRecord"), faces(1)).unwrap();
        assert!(TfRecords::find(root, 4).unwrap_err().to_string().contains("found both"));
        // A file is one by its name or by what it begins with.
        fs::write(root.join("faces"), faces(1)).unwrap();
        for (name, is_found) in [("faces", true), ("faces.tfrecords", true), ("faces-r02.txt", false)] {
            assert_eq!(TfRecords::find(&root.join(name), 4).unwrap(), is_found.then(|| root.join(name)), "{name}");
        }
    }

    #[test]
    fn both_sets_are_opened_from_files_and_folders() {
        use crate::data::sets::Download;
        use crate::data::{Dataset, Request, Split};
        let root = tempfile::tempdir().unwrap();
        for (name, folder) in [("FFHQ", "ffhq"), ("CELEBAHQ", "celebahq")] {
            let open = |path: Option<PathBuf>, split| {
                let dataset = Dataset { path, ..Dataset::named(name).unwrap() };
                let request = Request { root: root.path(), split, channels: 3, size: 4, download: Download::Never };
                dataset.open(&request, &mut unwatched)
            };
            let folder = root.path().join(folder);
            let message = open(None, Split::Train).err().unwrap().to_string();
            assert!(message.contains(&folder.display().to_string()), "{message}");
            fs::create_dir(&folder).unwrap();
            let file = folder.join("any-r02.tfrecords");
            fs::write(&file, faces(3)).unwrap();
            for split in [Split::Train, Split::Test] {
                assert_eq!(open(None, split).unwrap().len(), 3);
                assert_eq!(open(Some(file.clone()), split).unwrap().shape(), [3, 4, 4]);
            }
        }
    }
}
