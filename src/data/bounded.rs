//! Reading that a file's own claims about its sizes cannot blow up.

use std::io::{self, BufRead, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::error::{Error, Result};

/// The largest size in bytes that a header may declare: well above the largest set read whole (SVHN, 225 MB).
pub(super) const MAX_BYTES: u64 = 4 << 30;

/// Deflate cannot pack better: 258 bytes in 2 bits.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// Refuses a declared size that `n_packed` bytes of deflate data cannot hold, or that is beyond [`MAX_BYTES`].
pub(super) fn check_declared(path: &Path, n_declared: u64, n_packed: u64) -> Result<()> {
    if n_declared > MAX_BYTES {
        let message = format!("declares {n_declared} bytes; expected at most {MAX_BYTES}");
        return Err(Error::format(path, message));
    }
    if n_declared > n_packed.saturating_mul(MAX_DEFLATE_RATIO) {
        let message = format!("declares {n_declared} bytes, which {n_packed} compressed bytes cannot hold");
        return Err(Error::format(path, message));
    }
    Ok(())
}

/// What gzip has packed: the members of a file one after the other, perhaps with zeros behind them, as tapes and some disks pad files.
pub(super) struct Gzip<R> {
    /// `None` once something was wrong.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    pub(super) fn new(packed: R) -> Self {
        Self { member: Some(GzDecoder::new(packed)) }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(member) = &mut self.member else { return Ok(0) };
            let n_read = member.read(buffer)?;
            if n_read > 0 || buffer.is_empty() {
                return Ok(n_read);
            }
            let packed = member.get_mut();
            match first_after_zeros(packed)? {
                None => return Ok(0),
                Some(0x1f) => self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner())),
                Some(_) => {
                    self.member = None;
                    let message = "what follows its gzip stream is no other one";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, message));
                }
            }
        }
    }
}

/// Passes over zeros, and gives the byte behind them without reading it.
fn first_after_zeros(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let bytes = reader.fill_buf()?;
        let n = bytes.len();
        match bytes.iter().position(|&byte| byte != 0) {
            Some(at) => {
                let byte = bytes[at];
                reader.consume(at);
                return Ok(Some(byte));
            }
            None if n == 0 => return Ok(None),
            None => reader.consume(n),
        }
    }
}

/// Reads `n_bytes` bytes of `what`; memory grows only as they arrive, and never beyond `n_bytes`.
pub(super) fn read_exactly(reader: &mut dyn Read, n_bytes: u64, path: &Path, what: &str) -> Result<Vec<u8>> {
    const FIRST: u64 = 1 << 16;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < n_bytes {
        let n_more = (bytes.len() as u64).max(FIRST).min(n_bytes - bytes.len() as u64);
        bytes.reserve_exact(usize::try_from(n_more).unwrap_or(usize::MAX));
        let n_read = reader.take(n_more).read_to_end(&mut bytes).map_err(|e| read_error(path, what, e))?;
        if (n_read as u64) < n_more {
            break;
        }
    }
    if (bytes.len() as u64) < n_bytes {
        let message = format!("ends after {} bytes of {what}; expected {n_bytes}", bytes.len());
        return Err(Error::format(path, message));
    }
    Ok(bytes)
}

/// Refuses anything that is left in `reader`; a decompressor also checks its stream's checksum here.
pub(super) fn expect_end(reader: &mut dyn Read, path: &Path, what: &str) -> Result<()> {
    let mut byte = Vec::new();
    match reader.take(1).read_to_end(&mut byte) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::format(path, format!("goes on after the end of {what}"))),
        Err(source) => Err(read_error(path, what, source)),
    }
}

/// Tells a broken stream (the decompressors' kinds of error) from a file system that fails.
pub(super) fn read_error(path: &Path, what: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => Error::format(path, format!("ends inside {what}: truncated")),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::Other => {
            // The tar reader quotes the archive, in which long names may stand.
            let source: String = source.to_string().chars().take(200).collect();
            Error::format(path, format!("is broken inside {what}: {source}"))
        }
        _ => Error::Io { path: path.to_path_buf(), source },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_cannot_be_true_is_refused_before_reading() {
        let path = Path::new("f");
        assert!(check_declared(path, 1032, 1).is_ok());
        assert!(check_declared(path, 1033, 1).unwrap_err().to_string().contains("cannot hold"));
        assert!(check_declared(path, MAX_BYTES + 1, u64::MAX).unwrap_err().to_string().contains("at most"));
    }

    #[test]
    fn a_short_or_long_stream_is_told_with_its_length() {
        let path = Path::new("f");
        let error = read_exactly(&mut &[1_u8, 2][..], 3, path, "the pixels").unwrap_err();
        assert_eq!(error.to_string(), "f: ends after 2 bytes of the pixels; expected 3");
        assert_eq!(read_exactly(&mut &[1_u8, 2][..], 2, path, "the pixels").unwrap(), [1, 2]);
        let error = expect_end(&mut &[1_u8][..], path, "the pixels").unwrap_err();
        assert_eq!(error.to_string(), "f: goes on after the end of the pixels");
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_members_of_a_gzip_file_are_read_and_zeros_behind_and_between_them_passed_over() {
        let read = |packed: &[u8]| {
            let mut content = Vec::new();
            // A short buffer, which ends in the zeros.
            Gzip::new(io::BufReader::with_capacity(7, packed)).read_to_end(&mut content).map(|_| content)
        };
        let (one, two) = (gzip(b"abc"), gzip(b"de"));
        for zeros in [0, 1, 600] {
            let zeros = vec![0; zeros];
            let packed = [&one[..], &zeros, &gzip(b""), &two, &zeros].concat();
            assert_eq!(read(&packed).unwrap(), b"abcde");
        }
        for behind in [&b"x"[..], b"\0x", b"\x1f\x8b", &one[..10]] {
            assert!(read(&[&one[..], behind].concat()).is_err(), "{behind:?}");
        }
    }

    #[test]
    fn no_more_memory_is_taken_than_is_asked_for() {
        let bytes = read_exactly(&mut io::repeat(7), 300_001, Path::new("f"), "the pixels").unwrap();
        assert_eq!((bytes.len(), bytes.capacity()), (300_001, 300_001));
    }

    #[test]
    fn what_a_reader_quotes_of_a_file_is_shown_harmlessly() {
        let source = io::Error::other("invalid name \u{1b}[31m\nred");
        let error = read_error(Path::new("f"), "its tar.gz", source);
        assert_eq!(error.to_string(), "f: is broken inside its tar.gz: invalid name \\u{1b}[31m\\nred");
    }
}
