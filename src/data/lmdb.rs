//! LMDB databases, the containers of LSUN and FFHQ, read only.
//!
//! Source: the format of Symas' LMDB 0.9 (data version 1), of 64-bit little-endian machines. A file is a sequence of pages. Pages 0
//! and 1 each describe a state of the database, of which that of the later transaction counts. The entries are a B+ tree in
//! the order of their keys: branch pages lead to leaf pages, and a value too large for its leaf lies in overflow pages of its own.
//!
//! The C library maps the file into memory and follows the pointers in it: of 9,000 damaged databases 3,147 ended a program with
//! SIGSEGV or SIGBUS. So pages are read and checked here, without a map. Nothing is locked: a data set is not written while it is read.

use std::cmp::Ordering;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::Progress;
use super::decode::decode_bytes;
use super::resize::Pixels;
use crate::error::{Error, Result, shown};
use crate::file::{open_regular, read_exact_at};

/// The file of a database that is a folder.
pub const DATA_FILE: &str = "data.mdb";

/// The longest value that is read.
const MAX_VALUE_BYTES: u64 = 512 << 20;
/// LMDB's own bound on the levels of a tree.
const MAX_DEPTH: u16 = 32;

const MAGIC: u32 = 0xbeef_c0de;
const VERSION: u32 = 1;
/// Where a page's content begins: number (8 bytes), pad (2), kind (2), ends of the free space (2 + 2) or number of pages (4).
const HEADER: usize = 16;
/// The header and the description of page 0 or 1.
const META_BYTES: usize = HEADER + 136;
/// Size or page (6 bytes, flags among them), length of the key (2).
const NODE: usize = 8;
/// The root of a tree without entries.
const NO_PAGE: u64 = u64::MAX;

/// The kinds of pages, as bits.
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;
/// These, and the leaves of databases with several values a key.
const ALL_KINDS: u16 = 0x6f;

/// A node's value lies in overflow pages.
const BIG: u16 = 0x01;

/// A database of which all entries can be read.
#[derive(Debug)]
pub struct Lmdb {
    path: PathBuf,
    file: File,
    n_bytes: u64,
    state: State,
}

/// What pages 0 and 1 say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    page_bytes: usize,
    transaction: u64,
    /// Pages in use have smaller numbers.
    n_pages: u64,
    root: Option<u64>,
    /// Levels of the tree: 1 if the root is a leaf.
    depth: u16,
    n_entries: u64,
}

/// Where an entry is: the number of its leaf page (48 bits) and its place there (16 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u64);

impl Position {
    fn new(page: u64, slot: usize) -> Self {
        Self(page << 16 | slot as u64)
    }

    fn page(self) -> u64 {
        self.0 >> 16
    }

    fn slot(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Up to 511 bytes.
    pub key: Vec<u8>,
    /// Up to 512 MiB.
    pub value: Vec<u8>,
}

impl Lmdb {
    /// The database in a folder with `data.mdb`, or in the file `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Format`] if it is no LMDB database, or one of a kind that is not read: of a
    /// 32-bit or big-endian machine, of another version, with several values a key or an order of its own.
    pub fn open(path: &Path) -> Result<Self> {
        let path = if path.is_dir() { path.join(DATA_FILE) } else { path.to_path_buf() };
        let (file, n_bytes) = open_regular(&path)?;
        let bad = |message| Error::format(&path, message);
        let meta = |at: u64| -> Result<State> {
            let mut page = [0; META_BYTES];
            if at + META_BYTES as u64 > n_bytes {
                return Err(bad(format!("the file ends too early: {n_bytes} bytes are no LMDB database")));
            }
            read_exact_at(&file, &mut page, at).map_err(Error::io(&path))?;
            State::parse(&page).map_err(bad)
        };
        let first = meta(0)?;
        let second = meta(first.page_bytes as u64)?;
        // As LMDB: both must be sound. If only one is, the file is damaged, and which state the other has is not known.
        if first.page_bytes != second.page_bytes {
            let sizes = [first.page_bytes, second.page_bytes];
            return Err(bad(format!("found pages of {} and of {} bytes, expected one size", sizes[0], sizes[1])));
        }
        let state = if second.transaction > first.transaction { second } else { first };
        Ok(Self { file, n_bytes, state, path })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries the file says that there are; [`Self::walk`] checks it.
    pub fn n_entries(&self) -> u64 {
        self.state.n_entries
    }

    /// Passes the key and the position of each entry to `visit`, in the order of the keys. The leaf pages are read, and
    /// of values it is checked that the file is long enough for them. `progress` counts entries.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] if the tree is damaged or cut off, has not as many entries as it
    /// says, or holds named databases; [`Error::Stopped`] when `progress` says so.
    pub fn walk(&self, progress: &mut Progress<'_>, mut visit: impl FnMut(&[u8], Position)) -> Result<()> {
        /// Pages between two looks at whether to go on.
        const N_AT_A_TIME: usize = 256;
        let (mut pages, mut n_pages, mut n_done) = (Vec::new(), 0_usize, 0_u64);
        let mut last_key: Option<Vec<u8>> = None;
        if let Some(root) = self.state.root {
            pages.push((self.branch_or_leaf(root, self.state.depth)?, 0, self.state.depth));
        }
        // From the root to the current page: each with the place to go on at, and its level.
        while let Some((page, slot, level)) = pages.last_mut() {
            if *slot == page.n_nodes() {
                pages.pop();
                continue;
            }
            if *level > 1 {
                let (child, level) = (page.child(*slot).map_err(|e| self.damaged(e))?, *level - 1);
                *slot += 1;
                if n_pages.is_multiple_of(N_AT_A_TIME) && progress(n_done, self.state.n_entries).is_break() {
                    let n = self.state.n_entries;
                    return Err(Error::Stopped(format!("stopped after {n_done} of {n} entries")));
                }
                n_pages += 1;
                pages.push((self.branch_or_leaf(child, level)?, 0, level));
                continue;
            }
            for slot in *slot..page.n_nodes() {
                let (key, value) = page.entry(slot).map_err(|e| self.damaged(e))?;
                // So that no page is come to twice, whatever its parents say.
                if last_key.as_deref().is_some_and(|last| last.cmp(key) != Ordering::Less) {
                    return Err(self.damaged(format!("page {}: its keys are out of order", page.number)));
                }
                if let Value::Overflow { page, n_bytes } = value {
                    self.check_overflow(page, n_bytes)?;
                }
                let last = last_key.get_or_insert_default();
                last.clear();
                last.extend_from_slice(key);
                visit(key, Position::new(page.number, slot));
                n_done += 1;
            }
            *slot = page.n_nodes();
        }
        if n_done != self.state.n_entries {
            let message = format!("found {n_done} entries, expected the {} that it says it has", self.state.n_entries);
            return Err(self.damaged(message));
        }
        Ok(())
    }

    /// The entry at a position that [`Self::walk`] gave.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is damaged.
    pub fn entry(&self, position: Position) -> Result<Entry> {
        let page = self.branch_or_leaf(position.page(), 1)?;
        if position.slot() >= page.n_nodes() {
            return Err(self.damaged(format!("page {} has changed since it was first read", page.number)));
        }
        let (key, value) = page.entry(position.slot()).map_err(|e| self.damaged(e))?;
        let value = match value {
            Value::Inline(bytes) => bytes.to_vec(),
            Value::Overflow { page, n_bytes } => self.overflow(page, n_bytes)?,
        };
        Ok(Entry { key: key.to_vec(), value })
    }

    /// The image that is the value of the entry at this position.
    ///
    /// # Errors
    /// As [`Self::entry`]; [`Error::Format`] with the key if the value is no image.
    pub(super) fn image(&self, position: Position) -> Result<Pixels> {
        let Entry { key, value } = self.entry(position)?;
        let key = shown(&String::from_utf8_lossy(&key));
        decode_bytes(Path::new(&format!("{}, key \"{key}\"", self.path.display())), &value)
    }

    /// Reads a page of the tree at this level, 1 being that of the leaves.
    fn branch_or_leaf(&self, number: u64, level: u16) -> Result<Page> {
        let n_bytes = self.state.page_bytes;
        let start = self.start_of(number, n_bytes as u64)?;
        let mut bytes = vec![0; n_bytes];
        read_exact_at(&self.file, &mut bytes, start).map_err(Error::io(&self.path))?;
        let kind = if level > 1 { BRANCH } else { LEAF };
        Page::parse(number, bytes, kind).map_err(|e| self.damaged(e))
    }

    /// A value of `n_bytes` that begins at page `number`.
    fn overflow(&self, number: u64, n_bytes: u64) -> Result<Vec<u8>> {
        let start = self.check_overflow(number, n_bytes)?;
        let mut header = [0; HEADER];
        read_exact_at(&self.file, &mut header, start).map_err(Error::io(&self.path))?;
        check_header(&header, number, OVERFLOW).map_err(|e| self.damaged(e))?;
        // A smaller value that takes the place of a larger one may leave pages over.
        let (n_pages, n_needed) = (u64::from(u32_at(&header, 12)), self.n_overflow_pages(n_bytes));
        if n_pages < n_needed {
            let message = format!("page {number}: found {n_pages} pages of a value, expected at least {n_needed}");
            return Err(self.damaged(message));
        }
        // It was checked that the file has them.
        let mut value = vec![0; n_bytes as usize];
        read_exact_at(&self.file, &mut value, start + HEADER as u64).map_err(Error::io(&self.path))?;
        Ok(value)
    }

    /// Where a value begins that the file has room for.
    fn check_overflow(&self, number: u64, n_bytes: u64) -> Result<u64> {
        if n_bytes > MAX_VALUE_BYTES {
            let message = format!("a value of {n_bytes} bytes; at most {MAX_VALUE_BYTES} are read");
            return Err(self.damaged(message));
        }
        if number.checked_add(self.n_overflow_pages(n_bytes)).is_none_or(|end| end > self.state.n_pages) {
            return Err(self.damaged(format!("found a value at page {number} of {}", self.state.n_pages)));
        }
        self.start_of(number, HEADER as u64 + n_bytes)
    }

    fn n_overflow_pages(&self, n_bytes: u64) -> u64 {
        (HEADER as u64 + n_bytes).div_ceil(self.state.page_bytes as u64)
    }

    /// Where page `number` begins, of which the file has `n_bytes`.
    fn start_of(&self, number: u64, n_bytes: u64) -> Result<u64> {
        if !(2..self.state.n_pages).contains(&number) {
            return Err(self.damaged(format!("found page {number}, expected one of 2 to {}", self.state.n_pages - 1)));
        }
        let start = number.checked_mul(self.state.page_bytes as u64);
        start.filter(|start| start.checked_add(n_bytes).is_some_and(|end| end <= self.n_bytes)).ok_or_else(|| {
            let n_bytes = self.n_bytes;
            Error::format(&self.path, format!("the file ends too early: its {n_bytes} bytes end before page {number}"))
        })
    }

    fn damaged(&self, message: String) -> Error {
        Error::format(&self.path, format!("a damaged LMDB database: {message}"))
    }
}

impl State {
    fn parse(page: &[u8; META_BYTES]) -> Result<Self, String> {
        if u32_at(page, HEADER) != MAGIC {
            // Page numbers of 32 bits make headers of 12 bytes.
            let is_big = |at| u32::from_be_bytes(four(page, at)) == MAGIC;
            return Err(match is_big(HEADER) || is_big(12) || u32_at(page, 12) == MAGIC {
                true => {
                    "an LMDB database of a 32-bit or big-endian machine, expected one of a 64-bit little-endian one; \
                         mdb_dump there and mdb_load here convert it"
                        .into()
                }
                false => "not an LMDB database".into(),
            });
        }
        let version = u32_at(page, 20);
        if version != VERSION {
            return Err(format!("an LMDB database of version {version}, expected {VERSION}"));
        }
        let kind = u16_at(page, 10) & ALL_KINDS;
        if kind != META {
            return Err(format!("a damaged LMDB database: found a first page of kind {kind:#x}, expected {META:#x}"));
        }
        // Of the free pages' tree only the first word counts here, which is the size of pages; then comes the tree of entries.
        let (page_bytes, flags, depth) = (u32_at(page, 40), u16_at(page, 92), u16_at(page, 94));
        let (n_entries, root, last_page, transaction) =
            (u64_at(page, 120), u64_at(page, 128), u64_at(page, 136), u64_at(page, 144));
        if !page_bytes.is_power_of_two() || !(512..=32768).contains(&page_bytes) {
            let expected = "expected a power of two from 512 to 32768";
            return Err(format!("a damaged LMDB database: found pages of {page_bytes} bytes, {expected}"));
        }
        if flags != 0 {
            let expected = "expected plain ones, in the order of their bytes, with one value a key";
            return Err(format!(
                "an LMDB database with keys of a kind that is not read (flags {flags:#x}), {expected}"
            ));
        }
        let root = Some(root).filter(|&root| root != NO_PAGE);
        if last_page >= 1 << 48
            || depth > MAX_DEPTH
            || root.is_some() != (depth > 0)
            || root.is_some() != (n_entries > 0)
        {
            return Err(format!(
                "a damaged LMDB database: {n_entries} entries on {depth} levels in pages up to {last_page} cannot be"
            ));
        }
        Ok(Self { page_bytes: page_bytes as usize, transaction, n_pages: last_page + 1, root, depth, n_entries })
    }
}

/// A branch or leaf page. Its nodes are listed in the order of their keys, from the page's start, and lie at its end.
struct Page {
    number: u64,
    bytes: Vec<u8>,
    /// Where the nodes' list ends, and where the nodes begin.
    free: [usize; 2],
}

/// A value in a leaf page.
enum Value<'a> {
    Inline(&'a [u8]),
    Overflow { page: u64, n_bytes: u64 },
}

impl Page {
    fn parse(number: u64, bytes: Vec<u8>, kind: u16) -> Result<Self, String> {
        check_header(&bytes, number, kind)?;
        let free = [u16_at(&bytes, 12).into(), u16_at(&bytes, 14).into()];
        let [lower, upper]: [usize; 2] = free;
        // Every page has a node.
        if lower <= HEADER || lower % 2 != 0 || lower > upper || upper > bytes.len() {
            return Err(format!("page {number}: found free space from byte {lower} to {upper} of {}", bytes.len()));
        }
        Ok(Self { number, bytes, free })
    }

    fn n_nodes(&self) -> usize {
        (self.free[0] - HEADER) / 2
    }

    /// A node's header, and what follows it to the end of the page.
    fn node(&self, slot: usize) -> Result<(&[u8], &[u8]), String> {
        let start = usize::from(u16_at(&self.bytes, HEADER + 2 * slot));
        let node = self.bytes.get(start..).filter(|node| start >= self.free[1] && node.len() >= NODE);
        let node = node.ok_or_else(|| format!("page {}: found a node at byte {start}", self.number))?;
        Ok(node.split_at(NODE))
    }

    /// The page to which node `slot` of a branch page leads.
    fn child(&self, slot: usize) -> Result<u64, String> {
        let (header, _) = self.node(slot)?;
        Ok(u64::from(u32_at(header, 0)) | u64::from(u16_at(header, 4)) << 32)
    }

    /// The key and the value of node `slot` of a leaf page.
    fn entry(&self, slot: usize) -> Result<(&[u8], Value<'_>), String> {
        let (header, content) = self.node(slot)?;
        let (n_bytes, flags, n_key_bytes) = (u32_at(header, 0), u16_at(header, 4), usize::from(u16_at(header, 6)));
        let long = |what| format!("page {}: {what} of node {slot} is longer than the page", self.number);
        let (key, rest) = content.split_at_checked(n_key_bytes).ok_or_else(|| long("the key"))?;
        let value = match flags {
            0 => Value::Inline(rest.get(..n_bytes as usize).ok_or_else(|| long("the value"))?),
            BIG if rest.len() >= 8 => Value::Overflow { page: u64_at(rest, 0), n_bytes: n_bytes.into() },
            BIG => return Err(long("the value's page")),
            _ => {
                let expected = "expected plain values: named databases and several values a key are not read";
                return Err(format!("page {}: found a value of flags {flags:#x}, {expected}", self.number));
            }
        };
        Ok((key, value))
    }
}

fn check_header(page: &[u8], number: u64, kind: u16) -> Result<(), String> {
    let (found_number, found_kind) = (u64_at(page, 0), u16_at(page, 10) & ALL_KINDS);
    if (found_number, found_kind) == (number, kind) {
        return Ok(());
    }
    Err(format!("page {number}: found page {found_number} of kind {found_kind:#x}, expected kind {kind:#x}"))
}

fn four(bytes: &[u8], at: usize) -> [u8; 4] {
    [0, 1, 2, 3].map(|i| bytes[at + i])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([0, 1].map(|i| bytes[at + i]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(four(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::ops::ControlFlow;

    use sha2::{Digest, Sha256};

    use super::super::unwatched;
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lmdb");
    const PAGE: usize = 4096;

    fn fixture(name: &str) -> Vec<u8> {
        fs::read(Path::new(FIXTURES).join(name)).unwrap()
    }

    /// All entries, in the order of their keys, or why they cannot be read.
    fn read(path: &Path) -> Result<Vec<Entry>> {
        let database = Lmdb::open(path)?;
        let mut positions = Vec::new();
        database.walk(&mut unwatched, |_, position| positions.push(position))?;
        assert_eq!(positions.len() as u64, database.n_entries());
        // In another order than that of the walk.
        let mut entries: Vec<Entry> =
            positions.into_iter().rev().map(|at| database.entry(at)).collect::<Result<_>>()?;
        entries.reverse();
        Ok(entries)
    }

    fn refusal(bytes: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.mdb");
        fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err().to_string()
    }

    /// `small.mdb` or another fixture with other bytes at some places.
    fn changed(name: &str, changes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = fixture(name);
        changes.iter().for_each(|(at, new)| bytes[*at..at + new.len()].copy_from_slice(new));
        bytes
    }

    #[test]
    fn entries_are_those_that_lmdb_reads() {
        let table = fs::read_to_string(Path::new(FIXTURES).join("entries.txt")).unwrap();
        let mut n_levels = Vec::new();
        for line in table.lines() {
            let [name, n, expected] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let path = Path::new(FIXTURES).join(name);
            let entries = read(&path).unwrap();
            assert_eq!(entries.len(), n.parse::<usize>().unwrap(), "{name}");
            let parts = entries.iter().flat_map(|Entry { key, value }| [key, value]);
            let digest = parts.fold(Sha256::new(), |mut digest, part| {
                digest.update((part.len() as u32).to_le_bytes());
                digest.update(part);
                digest
            });
            let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, expected, "{name}");
            n_levels.push(Lmdb::open(&path).unwrap().state.depth);
        }
        assert!([0, 1, 2, 3].iter().all(|n| n_levels.contains(n)), "trees of {n_levels:?} levels");
    }

    #[test]
    fn a_database_is_a_folder_or_a_file() {
        let folder = Path::new(FIXTURES).join("ffhq");
        assert_eq!(Lmdb::open(&folder).unwrap().path(), folder.join(DATA_FILE));
        assert_eq!(read(&folder).unwrap(), read(&folder.join(DATA_FILE)).unwrap());
    }

    #[test]
    fn the_state_of_the_later_transaction_counts() {
        // Of the pages 0 and 1 of a database without entries, that of an older transaction has some.
        let with_entries = fixture("small.mdb");
        let older = |transaction: u8| {
            let mut bytes = changed("small.mdb", &[(144, &[transaction])]);
            // The other page says that there are none.
            bytes[PAGE + 120..PAGE + 128].fill(0);
            bytes[PAGE + 128..PAGE + 136].fill(0xff);
            bytes[PAGE + 94..PAGE + 96].fill(0);
            // And this one has what the other had.
            bytes[88..144].copy_from_slice(&with_entries[PAGE + 88..PAGE + 144]);
            bytes
        };
        let folder = tempfile::tempdir().unwrap();
        for (transaction, n) in [(0, 0), (2, 40)] {
            let path = folder.path().join("x.mdb");
            fs::write(&path, older(transaction)).unwrap();
            assert_eq!(read(&path).unwrap().len(), n, "transaction {transaction} and 1");
        }
    }

    #[test]
    fn databases_of_other_kinds_are_refused_by_what_they_are() {
        let magic = MAGIC.to_le_bytes();
        let big = MAGIC.to_be_bytes();
        for (changes, needle) in [
            (&[(16, &[0; 4][..])][..], "not an LMDB database"),
            (&[(16, &[0; 4]), (12, &magic)], "of a 32-bit or big-endian machine"),
            (&[(16, &big)], "of a 32-bit or big-endian machine"),
            (&[(20, &[2])], "version 2, expected 1"),
            (&[(10, &[2])], "a first page of kind 0x2"),
            (&[(40, &[0, 0x11])], "found pages of 4352 bytes"),
            (&[(40, &[0, 0x40])], "the file ends too early"),
            (&[(PAGE + 40, &[0, 0x20])], "found pages of 4096 and of 8192 bytes"),
            (&[(PAGE + 92, &[4])], "one value a key"),
            (&[(PAGE + 94, &[33])], "on 33 levels"),
            (&[(PAGE + 120, &[39])], "found 40 entries, expected the 39"),
            (&[(PAGE + 128, &[1])], "found page 1, expected one of 2 to 2"),
            (&[(PAGE + 128, &[3])], "found page 3, expected one of 2 to 2"),
            (&[(2 * PAGE, &[9])], "found page 9 of kind 0x2, expected kind 0x2"),
            (&[(2 * PAGE + 10, &[1])], "page 2: found page 2 of kind 0x1, expected kind 0x2"),
            (&[(2 * PAGE + 12, &[0xff, 0xff])], "found free space from byte 65535"),
            (&[(2 * PAGE + 16, &[0xff, 0xff])], "found a node at byte 65535"),
            (&[(2 * PAGE + 16, &[0x10, 0])], "found a node at byte 16"),
        ] {
            let message = refusal(&changed("small.mdb", changes));
            assert!(message.contains(needle), "{needle}: {message}");
        }
        let message = refusal(&fixture("named.mdb"));
        assert!(message.contains("named databases"), "{message}");
        for n_bytes in [0, 100, PAGE, PAGE + 100] {
            assert!(refusal(&fixture("small.mdb")[..n_bytes]).contains("the file ends too early"));
        }
    }

    #[test]
    fn a_cut_file_is_refused_before_a_value_is_read() {
        for name in ["overflow.mdb", "deleted.mdb", "long_keys.mdb"] {
            let whole = fixture(name);
            let last_page = u64_at(&whole[PAGE..], 136).max(u64_at(&whole, 136)) as usize;
            for n_pages in [3, last_page / 2, last_page] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("x.mdb");
                fs::write(&path, &whole[..n_pages * PAGE]).unwrap();
                let database = Lmdb::open(&path).unwrap();
                let result = database.walk(&mut unwatched, |_, _| {});
                // The last page may be a free one.
                if n_pages < last_page || name != "deleted.mdb" {
                    let message = result.unwrap_err().to_string();
                    assert!(message.contains("the file ends too early"), "{name}: {message}");
                }
            }
        }
    }

    #[test]
    fn branches_that_lead_in_circles_end() {
        let whole = fixture("long_keys.mdb");
        let database = Lmdb::open(&Path::new(FIXTURES).join("long_keys.mdb")).unwrap();
        let (root, depth) = (database.state.root.unwrap(), database.state.depth);
        let root_page = database.branch_or_leaf(root, depth).unwrap();
        let node = |slot: usize| {
            let start = usize::from(u16_at(&root_page.bytes, HEADER + 2 * slot));
            root as usize * PAGE + start
        };
        let (first, second) = (root_page.child(0).unwrap(), root_page.child(1).unwrap());
        assert_ne!(first, second);
        let lead = |slot: usize, to: u64| {
            let mut bytes = whole.clone();
            bytes[node(slot)..node(slot) + 4].copy_from_slice(&(to as u32).to_le_bytes());
            refusal(&bytes)
        };
        // To itself, it comes to a branch where a leaf must be; to one page twice, keys come again.
        assert!(lead(0, root).contains("expected kind 0x2"), "{}", lead(0, root));
        assert!(lead(1, first).contains("out of order"), "{}", lead(1, first));
        assert!(lead(0, second).contains("out of order"));
    }

    #[test]
    fn a_value_longer_than_the_file_takes_no_memory() {
        let whole = fixture("overflow.mdb");
        let database = Lmdb::open(&Path::new(FIXTURES).join("overflow.mdb")).unwrap();
        let mut positions = Vec::new();
        database.walk(&mut unwatched, |_, position| positions.push(position)).unwrap();
        let last = *positions.last().unwrap();
        let page = database.branch_or_leaf(last.page(), 1).unwrap();
        let at = last.page() as usize * PAGE + usize::from(u16_at(&page.bytes, HEADER + 2 * last.slot()));
        for (n_bytes, needle) in [(u32::MAX, "at most 536870912 are read"), (1 << 28, "found a value at page")] {
            let mut bytes = whole.clone();
            bytes[at..at + 4].copy_from_slice(&n_bytes.to_le_bytes());
            assert!(refusal(&bytes).contains(needle), "{}", refusal(&bytes));
        }
    }

    #[test]
    fn a_walk_can_be_stopped() {
        let database = Lmdb::open(&Path::new(FIXTURES).join("levels.mdb")).unwrap();
        let mut n_calls = 0;
        let mut stop = |n_done: u64, n: u64| {
            assert!(n_done <= n && n == 1500);
            n_calls += 1;
            ControlFlow::Break(())
        };
        let error = database.walk(&mut stop, |_, _| {}).unwrap_err();
        assert!(matches!(error, Error::Stopped(_)), "{error}");
        assert_eq!(n_calls, 1);
    }
}
