//! MATLAB level 5 files, the format of SVHN: a header, then one element for each variable, mostly zlib-compressed.
//!
//! Source: "MAT-File Format", The MathWorks, chapter 1.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::ZlibDecoder;

use crate::data::bounded::{self, read_exactly};
use crate::data::memory::InMemory;
use crate::error::{Error, Result};
use crate::file::open_regular;

const N_HEADER_BYTES: u64 = 128;
const HDF5_MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";

// Types of data elements.
const MI_INT8: u32 = 1;
const MI_UINT8: u32 = 2;
const MI_INT32: u32 = 5;
const MI_UINT32: u32 = 6;
const MI_MATRIX: u32 = 14;
const MI_COMPRESSED: u32 = 15;

/// The class of arrays of `u8`.
const MX_UINT8: u32 = 9;
/// The flag of complex numbers.
const FLAG_COMPLEX: u32 = 0x0800;

const SIDE: usize = 32;
const N_CHANNELS: usize = 3;
const N_PIXELS: usize = N_CHANNELS * SIDE * SIDE;

/// The images of SVHN's cropped digits: variable `X`, `u8`, `32x32x3xN` (row, column, channel, image). Shape
/// `[3, 32, 32]`. Other variables are passed over.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Format`] when it is no MATLAB level 5 file, is truncated, or
/// its `X` is missing or something else.
pub fn read_images(path: &Path) -> Result<InMemory> {
    InMemory::new(read(path, Wanted::Images)?, [N_CHANNELS, SIDE, SIDE])
}

/// The labels of SVHN's cropped digits: variable `y`, `u8`, `Nx1` or `1xN`. The file's 10 stands for the digit 0 and is
/// given as 0. Other variables are passed over.
///
/// # Errors
/// As for [`read_images`]; [`Error::Format`] too when a label is not 1 to 10.
pub fn read_labels(path: &Path) -> Result<Vec<u8>> {
    let mut labels_u8 = read(path, Wanted::Labels)?;
    for (i, label) in labels_u8.iter_mut().enumerate() {
        *label = match *label {
            digit @ 1..=9 => digit,
            10 => 0,
            other => {
                return Err(Error::format(path, format!("label {i} is {other}; expected 1 to 10, which is the 0")));
            }
        };
    }
    Ok(labels_u8)
}

/// The variable that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Images,
    Labels,
}

impl Wanted {
    fn name(self) -> &'static str {
        match self {
            Wanted::Images => "X",
            Wanted::Labels => "y",
        }
    }

    /// Its bytes, if such a variable can have these dimensions.
    fn n_bytes(self, dims: &[u32]) -> Option<u64> {
        let n = match (self, dims) {
            // MATLAB leaves out a last dimension of 1.
            (Wanted::Images, [32, 32, 3]) => 1,
            (Wanted::Images, [32, 32, 3, n]) | (Wanted::Labels, [n, 1] | [1, n]) => u64::from(*n),
            _ => 0,
        };
        let n_each = match self {
            Wanted::Images => N_PIXELS as u64,
            Wanted::Labels => 1,
        };
        // A factor of 32 bits and a small one cannot overflow 64.
        Some(n * n_each).filter(|&n_bytes| n_bytes > 0)
    }

    fn expected(self) -> &'static str {
        match self {
            Wanted::Images => "32x32x3xN",
            Wanted::Labels => "Nx1",
        }
    }
}

/// The content of a variable, images as `[image][channel][row][column]`.
fn read(path: &Path, wanted: Wanted) -> Result<Vec<u8>> {
    let (file, n_file_bytes) = open_regular(path)?;
    let mut reader = BufReader::new(file);
    let is_big_endian = read_header(&mut reader, path)?;

    let mut content = None;
    let mut other_names = Vec::new();
    let mut at = N_HEADER_BYTES;
    while at < n_file_bytes {
        let tag = Elements { reader: &mut reader, path, is_big_endian }.tag()?;
        let end = at + 8 + u64::from(tag.n_bytes);
        if end > n_file_bytes {
            let message = format!("has {n_file_bytes} bytes, but the element at byte {at} goes on to {end}: truncated");
            return Err(Error::format(path, message));
        }
        let body = (&mut reader).take(tag.n_bytes.into());
        let found = match tag.kind {
            MI_MATRIX => variable(body, tag.n_bytes, path, is_big_endian, wanted)?,
            MI_COMPRESSED => compressed_variable(body, tag.n_bytes, path, is_big_endian, wanted)?,
            kind => {
                let message = format!("has an element of type {kind} at byte {at}; expected a variable (14 or 15)");
                return Err(Error::format(path, message));
            }
        };
        match found {
            Variable::Wanted(found) => content = content.or(Some(found)),
            Variable::Other(name) if other_names.len() < 8 => other_names.push(name),
            Variable::Other(_) => {}
        }
        at = end;
        reader.seek(SeekFrom::Start(at)).map_err(Error::io(path))?;
    }
    content.ok_or_else(|| {
        let message = format!("has no variable {} (found: {})", wanted.name(), other_names.join(", "));
        Error::format(path, message)
    })
}

/// Checks the header; gives whether numbers are big-endian.
fn read_header(reader: &mut dyn Read, path: &Path) -> Result<bool> {
    let header = read_exactly(reader, N_HEADER_BYTES, path, "the MATLAB header")?;
    if header.starts_with(b"MATLAB 7.3") || header.starts_with(HDF5_MAGIC) {
        let message = "is a MATLAB 7.3 (HDF5) file; expected level 5: save it with `save(file, '-v7')`";
        return Err(Error::format(path, message));
    }
    match header.get(124..) {
        Some([0, 1, b'I', b'M']) => Ok(false),
        Some([1, 0, b'M', b'I']) => Ok(true),
        found => {
            let found = found.unwrap_or_default().escape_ascii();
            let message = format!("is no MATLAB level 5 file: \"{found}\" at byte 124; expected \"\\x00\\x01IM\"");
            Err(Error::format(path, message))
        }
    }
}

enum Variable {
    /// The content of the one that is asked for.
    Wanted(Vec<u8>),
    /// Any other variable, by its name.
    Other(String),
}

/// A variable inside a zlib stream, which is one more element with its own tag.
fn compressed_variable(
    packed: impl BufRead,
    n_packed_bytes: u32,
    path: &Path,
    is_big_endian: bool,
    wanted: Wanted,
) -> Result<Variable> {
    let mut unpacked = ZlibDecoder::new(packed);
    let tag = Elements { reader: &mut unpacked, path, is_big_endian }.tag()?;
    if tag.kind != MI_MATRIX {
        let message = format!("has a compressed element of type {}; expected a variable ({MI_MATRIX})", tag.kind);
        return Err(Error::format(path, message));
    }
    let found = variable((&mut unpacked).take(tag.n_bytes.into()), n_packed_bytes, path, is_big_endian, wanted)?;
    if let Variable::Wanted(_) = found {
        bounded::expect_end(&mut unpacked, path, &format!("the compressed variable {}", wanted.name()))?;
    }
    Ok(found)
}

/// A variable's parts: flags, dimensions, name, and, if it is `wanted`, its content. The parts take `n_stored_bytes` in
/// the file, if need be compressed.
fn variable(
    mut body: impl Read,
    n_stored_bytes: u32,
    path: &Path,
    is_big_endian: bool,
    wanted: Wanted,
) -> Result<Variable> {
    let mut parts = Elements { reader: &mut body, path, is_big_endian };
    let flags = parts.words(MI_UINT32, "array flags")?;
    let dims = parts.words(MI_INT32, "dimensions")?;
    let name = parts.small(MI_INT8, "name")?;
    if name != wanted.name().as_bytes() {
        return Ok(Variable::Other(name.escape_ascii().to_string()));
    }

    let bad = |message: String| Error::format(path, format!("variable {} {message}", wanted.name()));
    let flags = flags.first().copied().unwrap_or(0);
    if flags & 0xff != MX_UINT8 || flags & FLAG_COMPLEX != 0 {
        return Err(bad(format!("has array flags {flags:#x}; expected an array of u8 (class {MX_UINT8})")));
    }
    let n_bytes = wanted.n_bytes(&dims).ok_or_else(|| {
        let dims: Vec<_> = dims.iter().map(u32::to_string).collect();
        bad(format!("is {}; expected {}", dims.join("x"), wanted.expected()))
    })?;
    let tag = parts.tag()?;
    if tag.kind != MI_UINT8 || u64::from(tag.n_bytes) != n_bytes {
        let found = format!("{} bytes of type {}", tag.n_bytes, tag.kind);
        return Err(bad(format!("has {found}; expected {n_bytes} of type {MI_UINT8}")));
    }
    bounded::check_declared(path, n_bytes, n_stored_bytes.into())?;
    let content = match wanted {
        Wanted::Images => parts.images(n_bytes / N_PIXELS as u64)?,
        Wanted::Labels => parts.content(&tag, "the labels y")?,
    };
    bounded::expect_end(&mut body, path, &format!("the content of {}", wanted.name()))?;
    Ok(Variable::Wanted(content))
}

/// The type and size of a data element.
struct Tag {
    kind: u32,
    n_bytes: u32,
    /// The content itself, if it is in the tag.
    small: Option<[u8; 4]>,
}

/// A sequence of data elements.
struct Elements<'a> {
    reader: &'a mut dyn Read,
    path: &'a Path,
    is_big_endian: bool,
}

impl Elements<'_> {
    fn fill(&mut self, buffer: &mut [u8], what: &str) -> Result<()> {
        self.reader.read_exact(buffer).map_err(|source| bounded::read_error(self.path, what, source))
    }

    fn word(&self, bytes: [u8; 4]) -> u32 {
        if self.is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }

    /// The pixels of `n_images` images, in our order.
    fn images(&mut self, n_images: u64) -> Result<Vec<u8>> {
        let mut pixels_u8 = Vec::new();
        let mut column_major = [0; N_PIXELS];
        for _ in 0..n_images {
            self.fill(&mut column_major, "the pixels of X")?;
            // In the file, the row is the fastest index; in memory, the column.
            for channel in column_major.as_chunks::<{ SIDE * SIDE }>().0 {
                pixels_u8.extend((0..SIDE * SIDE).map(|i| channel[i % SIDE * SIDE + i / SIDE]));
            }
        }
        Ok(pixels_u8)
    }

    /// Two words, type and size; or, in the small format, both in one word and at most four bytes of content.
    fn tag(&mut self) -> Result<Tag> {
        let (mut first, mut second) = ([0; 4], [0; 4]);
        self.fill(&mut first, "an element's tag")?;
        self.fill(&mut second, "an element's tag")?;
        let kind = self.word(first);
        match kind >> 16 {
            0 => Ok(Tag { kind, n_bytes: self.word(second), small: None }),
            n_bytes @ 1..=4 => Ok(Tag { kind: kind & 0xffff, n_bytes, small: Some(second) }),
            n_bytes => {
                let message = format!("has an element with {n_bytes} bytes in its tag; expected at most 4");
                Err(Error::format(self.path, message))
            }
        }
    }

    /// The content of the element that `tag` begins, and the padding that follows it.
    fn content(&mut self, tag: &Tag, what: &str) -> Result<Vec<u8>> {
        let mut content = match tag.small {
            Some(content) => content.to_vec(),
            None => read_exactly(self.reader, u64::from(tag.n_bytes).next_multiple_of(8), self.path, what)?,
        };
        content.truncate(tag.n_bytes as usize);
        Ok(content)
    }

    /// The content of an element of a few bytes.
    fn small(&mut self, kind: u32, what: &str) -> Result<Vec<u8>> {
        let tag = self.tag()?;
        // 32 dimensions or a name of 63 characters need far less than 1024.
        if tag.kind != kind || tag.n_bytes > 1024 {
            let message =
                format!("{} bytes of type {} as a variable's {what}; expected type {kind}", tag.n_bytes, tag.kind);
            return Err(Error::format(self.path, message));
        }
        self.content(&tag, what)
    }

    fn words(&mut self, kind: u32, what: &str) -> Result<Vec<u32>> {
        let bytes = self.small(kind, what)?;
        Ok(bytes.as_chunks().0.iter().map(|&word| self.word(word)).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::sets::{self, Download};
    use crate::data::{Source, Split};

    /// Writes files as MATLAB does.
    #[derive(Clone, Copy)]
    struct Writer {
        is_big_endian: bool,
        is_small_format: bool,
    }

    const LITTLE: Writer = Writer { is_big_endian: false, is_small_format: true };

    impl Writer {
        fn word(self, word: u32) -> [u8; 4] {
            if self.is_big_endian { word.to_be_bytes() } else { word.to_le_bytes() }
        }

        fn element(self, kind: u32, content: &[u8]) -> Vec<u8> {
            let n_bytes = content.len() as u32;
            let mut bytes = if self.is_small_format && (1..=4).contains(&n_bytes) {
                [&self.word(n_bytes << 16 | kind), content].concat()
            } else {
                [&self.word(kind)[..], &self.word(n_bytes), content].concat()
            };
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        }

        fn matrix(self, name: &str, class: u32, dims: &[u32], kind: u32, content: &[u8]) -> Vec<u8> {
            let flags = [self.word(class), self.word(0)].concat();
            let dims: Vec<u8> = dims.iter().flat_map(|&dim| self.word(dim)).collect();
            let parts = [
                self.element(MI_UINT32, &flags),
                self.element(MI_INT32, &dims),
                self.element(MI_INT8, name.as_bytes()),
                self.element(kind, content),
            ];
            self.element(MI_MATRIX, &parts.concat())
        }

        fn compressed(self, element: &[u8]) -> Vec<u8> {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(element).unwrap();
            let packed = encoder.finish().unwrap();
            [&self.word(MI_COMPRESSED)[..], &self.word(packed.len() as u32), &packed].concat()
        }

        fn file(self, elements: &[Vec<u8>]) -> Vec<u8> {
            let mut bytes = b"MATLAB 5.0 MAT-file, made by a test".to_vec();
            bytes.resize(124, b' ');
            bytes.extend(if self.is_big_endian { [1, 0, b'M', b'I'] } else { [0, 1, b'I', b'M'] });
            bytes.extend(elements.concat());
            bytes
        }
    }

    /// A pixel that tells all four of its coordinates apart.
    fn pixel(image: usize, channel: usize, row: usize, column: usize) -> u8 {
        (image * 101 + channel * 67 + row * 5 + column * 3) as u8
    }

    /// The variable X's bytes: the row is the fastest index, then column, channel, image.
    fn column_major(n_images: usize) -> Vec<u8> {
        let n = n_images * N_PIXELS;
        (0..n).map(|i| pixel(i / N_PIXELS, i / 1024 % 3, i % 32, i / 32 % 32)).collect()
    }

    fn read(bytes: &[u8]) -> Result<InMemory> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train_32x32.mat");
        std::fs::write(&path, bytes).unwrap();
        read_images(&path)
    }

    fn message(bytes: &[u8]) -> String {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn images_are_transposed_from_either_endianness_compressed_or_not() {
        for is_big_endian in [false, true] {
            for is_small_format in [false, true] {
                let writer = Writer { is_big_endian, is_small_format };
                let x = writer.matrix("X", 9, &[32, 32, 3, 2], MI_UINT8, &column_major(2));
                let y = writer.matrix("y", 9, &[2, 1], MI_UINT8, &[1, 10]);
                let plain = writer.file(&[y.clone(), x.clone()]);
                let packed = writer.file(&[writer.compressed(&x), writer.compressed(&y)]);
                for bytes in [plain, packed] {
                    let images = read(&bytes).unwrap();
                    assert_eq!((images.len(), images.shape()), (2, [3, 32, 32]));
                    let expected: Vec<u8> =
                        (0..2 * N_PIXELS).map(|i| pixel(i / N_PIXELS, i / 1024 % 3, i / 32 % 32, i % 32)).collect();
                    assert_eq!(images.pixels_u8(), expected);
                }
            }
        }
    }

    #[test]
    fn a_single_image_may_lack_the_last_dimension() {
        let x = LITTLE.matrix("X", 9, &[32, 32, 3], MI_UINT8, &column_major(1));
        assert_eq!(read(&LITTLE.file(&[x])).unwrap().len(), 1);
    }

    #[test]
    fn empty_foreign_and_newer_files_are_told() {
        assert!(message(b"").contains("ends after 0 bytes of the MATLAB header"));
        assert!(message(&[b'x'; 200]).contains("is no MATLAB level 5 file: \"xxxx\" at byte 124"));
        let mut newer = LITTLE.file(&[]);
        newer[..10].copy_from_slice(b"MATLAB 7.3");
        assert!(message(&newer).contains("is a MATLAB 7.3 (HDF5) file; expected level 5"));
        assert!(message(&[HDF5_MAGIC, &[0; 200]].concat()).contains("is a MATLAB 7.3 (HDF5) file"));
    }

    #[test]
    fn a_missing_or_different_x_is_told_with_what_there_is() {
        assert!(message(&LITTLE.file(&[])).contains("has no variable X (found: )"));
        let y = LITTLE.matrix("digit\x1bStruct", 9, &[1, 1], MI_UINT8, &[1]);
        let error = message(&LITTLE.file(&[y.clone(), LITTLE.compressed(&y)]));
        assert!(error.contains("(found: digit\\x1bStruct, digit\\x1bStruct)"), "{error}");

        let with_x = |class, dims: &[u32], kind, content: &[u8]| {
            message(&LITTLE.file(&[LITTLE.matrix("X", class, dims, kind, content)]))
        };
        let pixels = column_major(1);
        assert!(with_x(6, &[32, 32, 3, 1], MI_UINT8, &pixels).contains("flags 0x6; expected an array of u8"));
        assert!(with_x(0x809, &[32, 32, 3, 1], MI_UINT8, &pixels).contains("flags 0x809"));
        assert!(with_x(9, &[3, 32, 32, 1], MI_UINT8, &pixels).contains("X is 3x32x32x1; expected 32x32x3xN"));
        assert!(with_x(9, &[32, 32, 3, 0], MI_UINT8, &[]).contains("X is 32x32x3x0"));
        assert!(with_x(9, &[32, 32, 3, 1], 3, &pixels).contains("3072 bytes of type 3"));
        assert!(with_x(9, &[32, 32, 3, 2], MI_UINT8, &pixels).contains("expected 6144 of type 2"));
        assert!(with_x(9, &[32, 32, 3, u32::MAX], MI_UINT8, &pixels).contains("expected 13194139530240 of type 2"));
    }

    #[test]
    fn truncated_and_overlong_files_are_refused() {
        let x = LITTLE.matrix("X", 9, &[32, 32, 3, 1], MI_UINT8, &column_major(1));
        let plain = LITTLE.file(std::slice::from_ref(&x));
        let packed = LITTLE.file(&[LITTLE.compressed(&x)]);
        for bytes in [&plain, &packed] {
            assert!(message(&bytes[..bytes.len() - 1]).contains("truncated"));
            assert!(message(&bytes[..130]).contains("ends inside an element's tag: truncated"));
            assert!(message(&[&bytes[..], b"garbage"].concat()).contains("ends inside an element's tag"));
            assert!(message(&[&bytes[..], &LITTLE.element(9, &[0; 8])].concat()).contains("has an element of type 9"));
        }
        // The file is whole, but the stream inside is not.
        let mut damaged = packed.clone();
        let n = damaged.len();
        damaged[n - 1] ^= 1;
        let error = message(&damaged);
        assert!(error.contains("is broken inside"), "{error}");
        let x_and_more = [&x[..], &[0; 8]].concat();
        let error = message(&LITTLE.file(&[LITTLE.compressed(&x_and_more)]));
        assert!(error.contains("goes on after the end of the compressed variable X"), "{error}");
    }

    #[test]
    fn a_size_that_the_compressed_bytes_cannot_hold_is_refused() {
        let n_images = u32::MAX / N_PIXELS as u32;
        let mut x = LITTLE.matrix("X", 9, &[32, 32, 3, n_images], MI_UINT8, &column_major(1));
        let n = x.len() - N_PIXELS;
        x[n - 4..n].copy_from_slice(&(n_images * N_PIXELS as u32).to_le_bytes());
        x[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = message(&LITTLE.file(&[LITTLE.compressed(&x)]));
        assert!(error.contains("compressed bytes cannot hold"), "{error}");
        // Uncompressed, they are simply not there.
        let shortened = LITTLE.matrix("X", 9, &[32, 32, 3, 1], MI_UINT8, &column_major(1));
        let mut bytes = LITTLE.file(&[shortened]);
        bytes.truncate(bytes.len() - 8);
        let n_bytes = (bytes.len() as u32 - 136).to_le_bytes();
        bytes[132..136].copy_from_slice(&n_bytes);
        assert!(message(&bytes).contains("ends inside the pixels of X: truncated"));
    }

    fn labels(bytes: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("train_32x32.mat");
        std::fs::write(&path, bytes).unwrap();
        read_labels(&path)
    }

    #[test]
    fn labels_are_read_beside_images_and_ten_becomes_zero() {
        for is_big_endian in [false, true] {
            for is_small_format in [false, true] {
                let writer = Writer { is_big_endian, is_small_format };
                let x = writer.matrix("X", 9, &[32, 32, 3, 1], MI_UINT8, &column_major(1));
                for (dims, file, digits) in [
                    ([3, 1], &[1, 10, 9][..], &[1, 0, 9][..]),
                    ([1, 4], &[10, 2, 3, 4], &[0, 2, 3, 4]),
                    ([9, 1], &[1, 2, 3, 4, 5, 6, 7, 8, 10], &[1, 2, 3, 4, 5, 6, 7, 8, 0]),
                ] {
                    let y = writer.matrix("y", 9, &dims, MI_UINT8, file);
                    assert_eq!(labels(&writer.file(&[x.clone(), y.clone()])).unwrap(), digits);
                    let packed = [writer.compressed(&y), writer.compressed(&x)];
                    assert_eq!(labels(&writer.file(&packed)).unwrap(), digits);
                }
            }
        }
    }

    #[test]
    fn the_published_file_gives_images_and_as_many_labels() {
        let folder = tempfile::tempdir().unwrap();
        let read = |n_labels: u8| {
            let x = LITTLE.matrix("X", 9, &[32, 32, 3, 2], MI_UINT8, &column_major(2));
            let y = LITTLE.matrix("y", 9, &[n_labels.into(), 1], MI_UINT8, &vec![10; n_labels.into()]);
            std::fs::write(folder.path().join("test_32x32.mat"), LITTLE.file(&[x, y])).unwrap();
            sets::svhn_labelled(folder.path(), Split::Test, Download::Never, &mut |_, _| {
                std::ops::ControlFlow::Continue(())
            })
        };
        let found = read(2).unwrap();
        assert_eq!((found.images().len(), found.labels_u8()), (2, &[0, 0][..]));
        let error = read(3).unwrap_err();
        assert!(error.to_string().ends_with("test_32x32.mat: found 3 labels, expected 2, one an image"), "{error}");
    }

    #[test]
    fn labels_that_cannot_be_are_told() {
        let of = |class, dims: &[u32], kind, content: &[u8]| {
            let y = LITTLE.matrix("y", class, dims, kind, content);
            let error = labels(&LITTLE.file(&[LITTLE.compressed(&y)])).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error:?}");
            error.to_string()
        };
        assert!(of(9, &[2, 1], MI_UINT8, &[1, 0]).contains("label 1 is 0; expected 1 to 10"));
        assert!(of(9, &[2, 1], MI_UINT8, &[11, 1]).contains("label 0 is 11; expected 1 to 10"));
        assert!(of(6, &[2, 1], MI_UINT8, &[1, 2]).contains("y has array flags 0x6; expected an array of u8"));
        assert!(of(9, &[2, 2], MI_UINT8, &[1; 4]).contains("y is 2x2; expected Nx1"));
        assert!(of(9, &[0, 1], MI_UINT8, &[]).contains("y is 0x1; expected Nx1"));
        assert!(of(9, &[5, 1], MI_UINT8, &[1; 6]).contains("y has 6 bytes of type 2; expected 5 of type 2"));
        assert!(of(9, &[5, 1], MI_INT32, &[1; 5]).contains("y has 5 bytes of type 5; expected 5 of type 2"));
        let x = LITTLE.matrix("X", 9, &[32, 32, 3, 1], MI_UINT8, &column_major(1));
        let error = labels(&LITTLE.file(&[x])).unwrap_err().to_string();
        assert!(error.contains("has no variable y (found: X)"), "{error}");
        // Three bytes where the tag has room for them, said to be five.
        let mut y = LITTLE.matrix("y", 9, &[3, 1], MI_UINT8, &[1, 2, 3]);
        let at = y.len() - 6;
        y[at..at + 2].copy_from_slice(&5_u16.to_le_bytes());
        let error = labels(&LITTLE.file(&[y])).unwrap_err().to_string();
        assert!(error.contains("has an element with 5 bytes in its tag; expected at most 4"), "{error}");
        // A size that the compressed bytes cannot hold.
        let mut y = LITTLE.matrix("y", 9, &[1 << 20, 1], MI_UINT8, &[1; 8]);
        let at = y.len() - 12;
        y[at..at + 4].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        let error = labels(&LITTLE.file(&[LITTLE.compressed(&y)])).unwrap_err().to_string();
        assert!(error.contains("compressed bytes cannot hold"), "{error}");
    }
}
