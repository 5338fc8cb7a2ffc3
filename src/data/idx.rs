//! IDX files, the format of MNIST: a big-endian header, then the pixels. Plain or gzipped.
//!
//! Source: <https://yann.lecun.com/exdb/mnist/>, "the IDX file format".

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::data::bounded::{self, read_exactly};
use crate::data::memory::InMemory;
use crate::error::{Error, Result};

/// Unsigned bytes (`08`) in three dimensions (`03`): images × rows × columns.
const MAGIC_IMAGES: u32 = 0x0803;
/// Unsigned bytes in one dimension: the labels that lie beside the images.
const MAGIC_LABELS: u32 = 0x0801;
const N_HEADER_BYTES: u64 = 16;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The grey images of an IDX file, shape `[1, rows, columns]`. Gzip is told by the content, not by the name.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Format`] when it is not an IDX file of `u8` images, holds none,
/// or is longer or shorter than its header says.
pub fn read_images(path: &Path) -> Result<InMemory> {
    let file = File::open(path).map_err(Error::io(path))?;
    let n_file_bytes = file.metadata().map_err(Error::io(path))?.len();
    let mut reader = BufReader::new(file);
    let mut start = Vec::new();
    (&mut reader).take(2).read_to_end(&mut start).map_err(Error::io(path))?;
    reader.rewind().map_err(Error::io(path))?;

    if start == GZIP_MAGIC {
        let mut unpacked = GzDecoder::new(reader);
        let header = Header::read(&mut unpacked, path)?;
        bounded::check_declared(path, header.n_pixels(), n_file_bytes)?;
        let images = header.read_images(&mut unpacked, path)?;
        bounded::expect_end(&mut unpacked.into_inner(), path, "its gzip stream")?;
        Ok(images)
    } else {
        let header = Header::read(&mut reader, path)?;
        let n_expected = header.n_pixels().saturating_add(N_HEADER_BYTES);
        if n_file_bytes != n_expected {
            let message = format!("has {n_file_bytes} bytes; expected {n_expected} for {header}");
            return Err(Error::format(path, message));
        }
        header.read_images(&mut reader, path)
    }
}

struct Header {
    n_images: u32,
    height: u32,
    width: u32,
}

impl Header {
    fn read(reader: &mut dyn Read, path: &Path) -> Result<Self> {
        let bytes = read_exactly(reader, N_HEADER_BYTES, path, "the IDX header")?;
        let mut words = bytes.chunks_exact(4).map(|word| word.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)));
        let mut next = || words.next().unwrap_or(0);
        let (magic, n_images, height, width) = (next(), next(), next(), next());
        if magic != MAGIC_IMAGES {
            let hint = if magic == MAGIC_LABELS { " (these are labels)" } else { "" };
            let message =
                format!("starts with {magic:#010x}{hint}; expected {MAGIC_IMAGES:#010x}, an IDX file of u8 images");
            return Err(Error::format(path, message));
        }
        let header = Self { n_images, height, width };
        if header.n_pixels() == 0 {
            return Err(Error::format(path, format!("declares {header}; expected at least one pixel")));
        }
        Ok(header)
    }

    /// All images' pixels; `u64::MAX` stands for more than any file has.
    fn n_pixels(&self) -> u64 {
        // Two factors of 32 bits cannot overflow 64.
        (u64::from(self.height) * u64::from(self.width)).saturating_mul(u64::from(self.n_images))
    }

    fn read_images(&self, reader: &mut dyn Read, path: &Path) -> Result<InMemory> {
        bounded::check_declared(path, self.n_pixels(), u64::MAX)?;
        let pixels_u8 = read_exactly(reader, self.n_pixels(), path, &format!("pixels of {self}"))?;
        bounded::expect_end(reader, path, &format!("{self}"))?;
        InMemory::new(pixels_u8, [1, self.height as usize, self.width as usize])
    }
}

impl std::fmt::Display for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} images of {}x{}", self.n_images, self.height, self.width)
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

    fn read(bytes: &[u8]) -> Result<InMemory> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images");
        std::fs::write(&path, bytes).unwrap();
        read_images(&path)
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
        assert!(message(&idx(0x803, [0, 28, 28], &[])).contains("0 images of 28x28; expected at least one pixel"));
    }

    #[test]
    fn truncated_and_overlong_files_are_refused_with_both_lengths() {
        let plain = idx(0x803, [2, 3, 2], &[7; 12]);
        assert!(message(&plain[..27]).contains("has 27 bytes; expected 28 for 2 images of 3x2"));
        assert!(message(&[&plain[..], &[0]].concat()).contains("has 29 bytes; expected 28"));

        assert!(message(&gzip(&plain[..27])).contains("ends after 11 bytes of pixels of 2 images of 3x2; expected 12"));
        assert!(message(&gzip(&[&plain[..], &[0]].concat())).contains("goes on after the end of 2 images of 3x2"));
        let packed = gzip(&plain);
        assert!(message(&packed[..packed.len() - 1]).contains("truncated"));
        assert!(message(&[&packed[..], b"garbage"].concat()).contains("goes on after the end of its gzip stream"));
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
}
