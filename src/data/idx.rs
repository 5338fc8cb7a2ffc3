//! IDX files, the format of MNIST: a big-endian header, then the pixels or the labels. Plain or gzipped.
//!
//! Source: <https://yann.lecun.com/exdb/mnist/>, "the IDX file format".

use std::io::{BufReader, Read, Seek};
use std::path::Path;

use crate::data::bounded::{self, Gzip, read_exactly};
use crate::data::memory::InMemory;
use crate::error::{Error, Result};
use crate::file::open_regular;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The grey images of an IDX file, shape `[1, rows, columns]`. Gzip is told by the content, not by the name.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is not an IDX file of `u8` images, holds none,
/// or is longer or shorter than its header says.
pub fn read_images(path: &Path) -> Result<InMemory> {
    let (Header { dims: [_, height, width], .. }, pixels_u8) = read(path, Kind::Images)?;
    InMemory::new(pixels_u8, [1, height as usize, width as usize])
}

/// The labels of an IDX file, whatever their values. Gzip is told by the content, not by the name.
///
/// # Errors
/// As for [`read_images`].
pub fn read_labels(path: &Path) -> Result<Vec<u8>> {
    read(path, Kind::Labels).map(|(_, labels_u8)| labels_u8)
}

/// What a file is about, and what it holds.
fn read(path: &Path, kind: Kind) -> Result<(Header, Vec<u8>)> {
    let (file, n_file_bytes) = open_regular(path)?;
    let mut reader = BufReader::new(file);
    let mut start = Vec::new();
    (&mut reader).take(2).read_to_end(&mut start).map_err(Error::io(path))?;
    reader.rewind().map_err(Error::io(path))?;

    if start == GZIP_MAGIC {
        let mut unpacked = Gzip::new(reader);
        let header = Header::read(&mut unpacked, kind, path)?;
        bounded::check_declared(path, header.n_bytes(), n_file_bytes)?;
        let bytes = header.read_content(&mut unpacked, path)?;
        Ok((header, bytes))
    } else {
        let header = Header::read(&mut reader, kind, path)?;
        let n_expected = header.n_bytes().saturating_add(kind.n_header_bytes());
        if n_file_bytes != n_expected {
            let message = format!("has {n_file_bytes} bytes; expected {n_expected} for {header}");
            return Err(Error::format(path, message));
        }
        let bytes = header.read_content(&mut reader, path)?;
        Ok((header, bytes))
    }
}

/// What a file can hold, each of unsigned bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// In three dimensions: images × rows × columns.
    Images,
    /// In one dimension: those that lie beside the images.
    Labels,
}

impl Kind {
    /// Unsigned bytes (`08`) and the number of dimensions.
    fn magic(self) -> u32 {
        match self {
            Kind::Images => 0x0803,
            Kind::Labels => 0x0801,
        }
    }

    /// A word for the magic number and one for each dimension.
    fn n_header_bytes(self) -> u64 {
        match self {
            Kind::Images => 16,
            Kind::Labels => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Images => "images",
            Kind::Labels => "labels",
        }
    }
}

struct Header {
    kind: Kind,
    /// Those that the file lacks are 1.
    dims: [u32; 3],
}

impl Header {
    fn read(reader: &mut dyn Read, kind: Kind, path: &Path) -> Result<Self> {
        let bytes = read_exactly(reader, kind.n_header_bytes(), path, "the IDX header")?;
        let mut words = bytes.chunks_exact(4).map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
        let (magic, expected) = (words.next().unwrap_or(0), kind.magic());
        if magic != expected {
            let other = [Kind::Images, Kind::Labels].into_iter().find(|other| other.magic() == magic);
            let hint = other.map_or(String::new(), |other| format!(" (these are {})", other.name()));
            let message = format!(
                "starts with {magic:#010x}{hint}; expected {expected:#010x}, an IDX file of u8 {}",
                kind.name()
            );
            return Err(Error::format(path, message));
        }
        let header = Self { kind, dims: [(); 3].map(|()| words.next().unwrap_or(1)) };
        if header.n_bytes() == 0 {
            return Err(Error::format(path, format!("declares {header}; expected at least one byte of them")));
        }
        Ok(header)
    }

    /// All pixels or labels; `u64::MAX` stands for more than any file has.
    fn n_bytes(&self) -> u64 {
        let [n, height, width] = self.dims.map(u64::from);
        // Two factors of 32 bits cannot overflow 64.
        (height * width).saturating_mul(n)
    }

    fn read_content(&self, reader: &mut dyn Read, path: &Path) -> Result<Vec<u8>> {
        bounded::check_declared(path, self.n_bytes(), u64::MAX)?;
        let bytes = read_exactly(reader, self.n_bytes(), path, &format!("{self}"))?;
        bounded::expect_end(reader, path, &format!("{self}"))?;
        Ok(bytes)
    }
}

impl std::fmt::Display for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [n, height, width] = self.dims;
        match self.kind {
            Kind::Images => write!(f, "{n} images of {height}x{width}"),
            Kind::Labels => write!(f, "{n} labels"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::Source;

    fn idx(magic: u32, dims: [u32; 3], pixels_u8: &[u8]) -> Vec<u8> {
        let mut bytes = magic.to_be_bytes().to_vec();
        bytes.extend(dims.iter().flat_map(|dim| dim.to_be_bytes()));
        bytes.extend(pixels_u8);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn with_file<T>(bytes: &[u8], read: impl Fn(&Path) -> Result<T>) -> Result<T> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        std::fs::write(&path, bytes).unwrap();
        read(&path)
    }

    fn read(bytes: &[u8]) -> Result<InMemory> {
        with_file(bytes, read_images)
    }

    fn message(bytes: &[u8]) -> String {
        let error = read(bytes).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    }

    #[test]
    fn plain_and_gzipped_files_give_the_same_images() {
        let pixels_u8: Vec<u8> = (0..12).collect();
        let plain = idx(0x803, [2, 3, 2], &pixels_u8);
        for bytes in [plain.clone(), gzip(&plain)] {
            let images = read(&bytes).unwrap();
            assert_eq!((images.len(), images.shape()), (2, [1, 3, 2]));
            assert_eq!(images.pixels_u8(), pixels_u8);
        }
    }

    #[test]
    fn empty_foreign_and_label_files_are_told_from_images() {
        assert!(message(b"").contains("ends after 0 bytes of the IDX header"));
        assert!(message(&idx(0x803, [2, 3, 2], &[])[..11]).contains("ends after 11 bytes of the IDX header"));
        assert!(message(b"<!DOCTYPE html><html>not found").contains("starts with 0x3c21444f; expected 0x00000803"));
        assert!(message(&idx(0x801, [2, 3, 2], &[0; 12])).contains("these are labels"));
        assert!(message(&idx(0xd03, [2, 3, 2], &[0; 48])).contains("expected 0x00000803"));
        assert!(message(&idx(0x803, [0, 28, 28], &[])).contains("0 images of 28x28; expected at least one byte"));
    }

    #[test]
    fn truncated_and_overlong_files_are_refused_with_both_lengths() {
        let plain = idx(0x803, [2, 3, 2], &[7; 12]);
        assert!(message(&plain[..27]).contains("has 27 bytes; expected 28 for 2 images of 3x2"));
        assert!(message(&[&plain[..], &[0]].concat()).contains("has 29 bytes; expected 28"));

        assert!(message(&gzip(&plain[..27])).contains("ends after 11 bytes of 2 images of 3x2; expected 12"));
        assert!(message(&gzip(&[&plain[..], &[0]].concat())).contains("goes on after the end of 2 images of 3x2"));
        let packed = gzip(&plain);
        assert!(message(&packed[..packed.len() - 1]).contains("truncated"));
        assert!(message(&[&packed[..], b"garbage"].concat()).contains("what follows its gzip stream is no other one"));
    }

    #[test]
    fn a_gzip_file_of_several_members_and_with_zeros_behind_is_read() {
        let plain = idx(0x803, [2, 3, 2], &[7; 12]);
        let packed = [&gzip(&plain[..20])[..], &gzip(&plain[20..]), &[0; 512]].concat();
        assert_eq!(read(&packed).unwrap().pixels_u8(), [7; 12]);
        assert!(message(&[&packed[..], &gzip(&[1])].concat()).contains("goes on after the end of 2 images of 3x2"));
    }

    #[test]
    fn a_wrong_gzip_checksum_is_found() {
        let mut packed = gzip(&idx(0x803, [2, 3, 2], &[7; 12]));
        let n = packed.len();
        packed[n - 8] ^= 1;
        assert!(message(&packed).contains("broken inside 2 images of 3x2"));
    }

    #[test]
    fn impossible_sizes_are_refused_before_any_memory_is_taken() {
        let huge = idx(0x803, [u32::MAX; 3], &[0; 12]);
        assert!(message(&huge).contains("has 28 bytes; expected 18446744073709551615"));
        assert!(message(&gzip(&huge)).contains("expected at most"));
        assert!(message(&gzip(&idx(0x803, [100, 1000, 1000], &[0; 12]))).contains("compressed bytes cannot hold"));
    }

    fn label_file(n_labels: u32, labels_u8: &[u8]) -> Vec<u8> {
        [&0x801_u32.to_be_bytes(), &n_labels.to_be_bytes(), labels_u8].concat()
    }

    #[test]
    fn labels_are_read_plain_and_gzipped() {
        let plain = label_file(5, &[3, 1, 4, 1, 5]);
        for bytes in [plain.clone(), gzip(&plain)] {
            assert_eq!(with_file(&bytes, read_labels).unwrap(), [3, 1, 4, 1, 5]);
        }
    }

    #[test]
    fn broken_label_files_are_refused_with_what_was_found() {
        let message = |bytes: &[u8]| {
            let error = with_file(bytes, read_labels).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error:?}");
            error.to_string()
        };
        let images = message(&idx(0x803, [2, 3, 2], &[7; 12]));
        assert!(images.contains("0x00000803 (these are images); expected 0x00000801, an IDX file of u8 labels"));
        assert!(message(&label_file(2, &[])[..7]).contains("ends after 7 bytes of the IDX header; expected 8"));
        assert!(message(&label_file(0, &[])).contains("declares 0 labels; expected at least one"));
        assert!(message(&label_file(2, &[1])).contains("has 9 bytes; expected 10 for 2 labels"));
        assert!(message(&label_file(2, &[1, 2, 3])).contains("has 11 bytes; expected 10"));
        assert!(message(&gzip(&label_file(2, &[1]))).contains("ends after 1 bytes of 2 labels; expected 2"));
        assert!(message(&gzip(&label_file(2, &[1, 2, 3]))).contains("goes on after the end of 2 labels"));
        assert!(message(&gzip(&label_file(u32::MAX, &[1]))).contains("compressed bytes cannot hold"));
    }
}
