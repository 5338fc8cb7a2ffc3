//! Zip archives: read with bounded memory, and written without compression.
//!
//! Source: PKWARE's APPNOTE.TXT 6.3, 4.3 and 4.5.3 (zip64).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::Crc;
use flate2::bufread::DeflateDecoder;

use crate::error::{Error, Result, shown};

/// The most that all files together may be larger than the archive: numbers hardly compress.
const MAX_RATIO: u64 = 16;
/// Small archives may hold this much.
const MIN_UNPACKED_BYTES: u64 = 1 << 20;
/// The date 1980-01-01, so that equal content is equal bytes.
const DATE: u16 = 1 << 5 | 1;

/// One file of an archive.
struct Entry<'a> {
    is_deflated: bool,
    crc: u32,
    packed: &'a [u8],
    n_bytes: u64,
}

/// The files of an archive, by their names.
pub(crate) struct Archive<'p, 'a> {
    path: &'p Path,
    entries: BTreeMap<&'a str, Entry<'a>>,
}

impl<'p, 'a> Archive<'p, 'a> {
    /// The names of its files, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.entries.keys().copied()
    }

    /// Reads the directory of `bytes`, the content of `path`, and finds the packed bytes of each file.
    pub(crate) fn open(path: &'p Path, bytes: &'a [u8]) -> Result<Self> {
        let bad = |message: &str| Error::format(path, format!("zip archive: {message}"));
        let (n_entries, directory) =
            directory(bytes).ok_or_else(|| bad("no directory at its end: truncated, or not all of it is there"))?;
        let mut entries = BTreeMap::new();
        let (mut rest, mut n_packed, mut n_unpacked) = (&bytes[directory.clone()], 0, 0_u64);
        for i in 0..n_entries {
            let damaged = || bad(&format!("entry {i} of its directory is damaged"));
            let (name, entry, n_read) = entry(bytes, rest, directory.start).ok_or_else(damaged)?;
            rest = &rest[n_read..];
            n_packed += entry.packed.len();
            if n_packed > bytes.len() {
                return Err(bad("its files overlap"));
            }
            n_unpacked = n_unpacked.saturating_add(entry.n_bytes);
            if n_unpacked > (bytes.len() as u64).saturating_mul(MAX_RATIO).max(MIN_UNPACKED_BYTES) {
                let message = format!("its files are more than {MAX_RATIO} times as large as the archive");
                return Err(bad(&message));
            }
            if entries.insert(name, entry).is_some() {
                return Err(bad(&format!("two files are called {}", shown(name))));
            }
        }
        if !rest.is_empty() {
            return Err(bad(&format!("its directory goes on after {n_entries} entries")));
        }
        Ok(Self { path, entries })
    }

    /// The content of file `name`, its checksum checked; `None` if there is none.
    pub(crate) fn content(&self, name: &str) -> Result<Option<Cow<'a, [u8]>>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let bad = |message: String| Error::format(self.path, format!("zip archive: {}: {message}", shown(name)));
        let content = if entry.is_deflated {
            let mut content = Vec::new();
            let read =
                DeflateDecoder::new(entry.packed).take(entry.n_bytes.saturating_add(1)).read_to_end(&mut content);
            read.map_err(|_| bad("its compressed bytes are damaged".into()))?;
            Cow::Owned(content)
        } else {
            Cow::Borrowed(entry.packed)
        };
        if content.len() as u64 != entry.n_bytes {
            let message = format!("is not of {} bytes, as its directory says", entry.n_bytes);
            return Err(bad(message));
        }
        let found = crc(&content);
        if found != entry.crc {
            return Err(bad(format!("its checksum is {found:08x}, expected {:08x}: damaged", entry.crc)));
        }
        Ok(Some(content))
    }
}

/// The number of files, and where in `bytes` the directory lies.
fn directory(bytes: &[u8]) -> Option<(u64, std::ops::Range<usize>)> {
    // The last record has 22 bytes and a comment, whose length is the last of them.
    const N_RECORD: usize = 22;
    let last = bytes.len().checked_sub(N_RECORD)?;
    let first = last.saturating_sub(usize::from(u16::MAX));
    let is_record =
        |&at: &usize| bytes[at..].starts_with(b"PK\x05\x06") && number(bytes, at + 20, 2) == Some((last - at) as u64);
    let at = (first..=last).rev().find(is_record)?;
    if number(bytes, at + 4, 4)? != 0 {
        return None;
    }
    let narrow = [(at + 10, 2), (at + 12, 4), (at + 16, 4)];
    // Large archives have a longer record before it, and 20 bytes that say where.
    let locator = at.checked_sub(20).filter(|&locator| bytes[locator..].starts_with(b"PK\x06\x07"));
    let (fields, end) = match locator {
        None => (narrow, at),
        Some(locator) => {
            let at = usize::try_from(number(bytes, locator + 8, 8)?).ok()?;
            if !bytes.get(at..locator)?.starts_with(b"PK\x06\x06") {
                return None;
            }
            ([(at.checked_add(32)?, 8), (at + 40, 8), (at + 48, 8)], at)
        }
    };
    let [n_entries, n_bytes, start] = fields.map(|(at, n)| number(bytes, at, n));
    let (n_bytes, start) = (usize::try_from(n_bytes?).ok()?, usize::try_from(start?).ok()?);
    let range = start..start.checked_add(n_bytes)?;
    (range.end == end).then_some((n_entries?, range))
}

/// The entry with which `directory`, the rest of the directory, begins: its name, itself, and its length. What it
/// describes lies in `bytes` before `end`.
fn entry<'a>(bytes: &'a [u8], directory: &'a [u8], end: usize) -> Option<(&'a str, Entry<'a>, usize)> {
    let field = |at, n| number(directory, at, n);
    let length = |at| field(at, 2).map(|n| n as usize);
    let (n_name, n_extra, n_comment) = (length(28)?, length(30)?, length(32)?);
    let n_read = 46 + n_name + n_extra + n_comment;
    let name = directory.get(..n_read)?.get(46..46 + n_name)?;
    let mut extra = directory.get(46 + n_name..46 + n_name + n_extra)?;
    let is_encrypted = field(8, 2)? & 1 == 1;
    if !directory.starts_with(b"PK\x01\x02") || is_encrypted {
        return None;
    }

    let mut sizes = [field(24, 4)?, field(20, 4)?, field(42, 4)?];
    while let (Some(kind), Some(n)) = (number(extra, 0, 2), number(extra, 2, 2)) {
        let content = extra.get(4..4 + n as usize)?;
        extra = &extra[4 + n as usize..];
        // Zip64: the numbers that do not fit in their fields, in this order.
        if kind == 1 {
            let is_wide = |size: &&mut u64| **size == u64::from(u32::MAX);
            for (i, size) in sizes.iter_mut().filter(is_wide).enumerate() {
                *size = number(content, 8 * i, 8)?;
            }
        }
    }
    let [n_bytes, n_packed, header] = sizes;

    // The file's own header repeats the name, and may have other extra fields: PyTorch aligns its storages with them.
    let header = usize::try_from(header).ok()?;
    let local = bytes.get(header..end)?;
    let n_local_name = number(local, 26, 2)? as usize;
    let start = 30 + n_local_name + number(local, 28, 2)? as usize;
    if !local.starts_with(b"PK\x03\x04") || local.get(30..30 + n_local_name)? != name {
        return None;
    }
    let packed = local.get(start..)?.get(..usize::try_from(n_packed).ok()?)?;
    let is_deflated = match field(10, 2)? {
        0 => false,
        8 => true,
        _ => return None,
    };
    let entry = Entry { is_deflated, crc: field(16, 4)? as u32, packed, n_bytes };
    Some((std::str::from_utf8(name).ok()?, entry, n_read))
}

/// The checksum that archives have of each file.
pub(crate) fn crc(content: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(content);
    crc.sum()
}

/// The little-endian number in `n` bytes from `at` on.
fn number(bytes: &[u8], at: usize, n: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.get(..n)?;
    Some(bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// What comes before each file, stored under a name with a content of some bytes and a checksum, and what comes after the last;
/// `None` if the archive would be too large for the fields' 32 bits. Contents begin at multiples of `alignment`.
pub(crate) fn layout(files: &[(&str, usize, u32)], alignment: usize) -> Option<(Vec<Vec<u8>>, Vec<u8>)> {
    let (mut headers, mut directory, mut at) = (Vec::new(), Vec::new(), 0_usize);
    for &(name, n_content, crc) in files {
        let n_bytes = u32::try_from(n_content).ok()?;
        let mut common = Vec::new();
        common.extend([0, 0, 0, 0, 0, 0]); // No flags, stored, midnight.
        common.extend(DATE.to_le_bytes());
        common.extend(crc.to_le_bytes());
        common.extend([n_bytes, n_bytes].map(u32::to_le_bytes).concat());
        common.extend(u16::try_from(name.len()).ok()?.to_le_bytes());

        // An extra field, "FB" as PyTorch calls it, moves the content to the next aligned byte.
        let start = at + 30 + name.len() + 4;
        let n_padding = start.next_multiple_of(alignment) - start;
        let mut header = b"PK\x03\x04\x14\x00".to_vec();
        header.extend(&common);
        header.extend((4 + n_padding as u16).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend(b"FB");
        header.extend((n_padding as u16).to_le_bytes());
        header.extend(vec![b'Z'; n_padding]);

        directory.extend(b"PK\x01\x02\x14\x00\x14\x00");
        directory.extend(&common);
        directory.extend([0; 12]); // No extra field, comment or attributes; one disk.
        directory.extend(u32::try_from(at).ok()?.to_le_bytes());
        directory.extend(name.as_bytes());

        at += header.len() + n_content;
        headers.push(header);
    }
    let n_files = u16::try_from(files.len()).ok()?;
    let n_directory = u32::try_from(directory.len()).ok()?;
    directory.extend(b"PK\x05\x06\0\0\0\0");
    directory.extend([n_files, n_files].map(u16::to_le_bytes).concat());
    directory.extend(n_directory.to_le_bytes());
    directory.extend(u32::try_from(at).ok()?.to_le_bytes());
    directory.extend([0, 0]);
    Some((headers, directory))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// An archive of one stored file whose sizes, offset and directory are all in the fields of large archives.
    fn zip64(content: &[u8]) -> Vec<u8> {
        let n = (content.len() as u64).to_le_bytes();
        let head = [&[0; 8][..], &crc(content).to_le_bytes(), &[0xff; 8], &[8, 0]].concat();
        let file = [b"PK\x03\x04-\0", &head[..], &[20, 0], b"data.pkl\x01\0\x10\0", &n, &n, content].concat();
        let directory = [
            b"PK\x01\x02-\0-\0",
            &head[..],
            &[33, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0xff; 4],
            b"data.pkl\x99\x99\x01\0x\x01\0\x18\0",
            &n,
            &n,
            &0_u64.to_le_bytes(),
        ]
        .concat();
        let word = |n: usize| (n as u64).to_le_bytes();
        let record = [
            b"PK\x06\x06",
            &word(44)[..],
            &[45, 0, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &word(1),
            &word(1),
            &word(directory.len()),
            &word(file.len()),
        ]
        .concat();
        let locator = [b"PK\x06\x07\0\0\0\0", &word(file.len() + directory.len())[..], &[1, 0, 0, 0]].concat();
        [&file[..], &directory, &record, &locator, b"PK\x05\x06\0\0\0\0", &[0xff; 12], &[0, 0]].concat()
    }

    #[test]
    fn the_wide_fields_of_large_archives_are_read() {
        let bytes = zip64(b"content");
        let archive = Archive::open(Path::new("f"), &bytes).unwrap();
        assert_eq!(*archive.content("data.pkl").unwrap().unwrap(), *b"content");
        assert!(archive.content("data/0").unwrap().is_none());
        for n_bytes in 0..bytes.len() {
            assert!(Archive::open(Path::new("f"), &bytes[..n_bytes]).is_err(), "{n_bytes}");
        }
        // No field may reach outside the file.
        for i in 0..bytes.len() {
            for change in [1, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[i] ^= change;
                if let Ok(archive) = Archive::open(Path::new("f"), &changed) {
                    let _ = archive.content("data.pkl");
                }
            }
        }
    }
}
