//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The content of the file at `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is larger than `max_bytes`.
pub fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let n_bytes = file.metadata().map_err(Error::io(path))?.len();
    if n_bytes > max_bytes {
        return Err(Error::format(path, format!("found {n_bytes} bytes, expected at most {max_bytes}")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
    file.take(n_bytes).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

/// A file under a temporary, hidden name beside its target, which [`AtomicFile::commit`] moves into place.
///
/// Until then, and after a crash, whatever was at the target is untouched. Dropped uncommitted, it is removed; left by a
/// killed program, it is overwritten by the next one.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    temporary: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl AtomicFile {
    /// A new empty file that is to become `target`.
    ///
    /// # Errors
    /// [`Error::Io`] if the target's folder cannot be written to.
    pub fn create(target: &Path) -> Result<Self> {
        let temporary = temporary_name(target);
        let writer = BufWriter::new(File::create(&temporary).map_err(Error::io(target))?);
        Ok(Self { writer, temporary, target: target.to_path_buf(), committed: false })
    }

    /// Puts the file in its place, replacing what is there, once its content is on the disk. The folder is synced too,
    /// without which the new name itself could be lost.
    ///
    /// # Errors
    /// [`Error::Io`] if the content cannot be written in full; the target is then untouched.
    pub fn commit(mut self) -> Result<()> {
        let written = self.writer.flush().and_then(|()| self.writer.get_ref().sync_all());
        written.and_then(|()| fs::rename(&self.temporary, &self.target)).map_err(Error::io(&self.target))?;
        self.committed = true;
        sync_folder(&self.target).map_err(Error::io(&self.target))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing can be done about a failure here, and a hidden leftover harms nobody.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Replaces `path` by what `write` writes, through an [`AtomicFile`].
///
/// # Errors
/// [`Error::Io`] with what `write` returns, or when the file cannot be put in place; the old one then stays.
pub fn write_atomically(path: &Path, write: impl FnOnce(&mut AtomicFile) -> io::Result<()>) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    write(&mut file).map_err(Error::io(path))?;
    file.commit()
}

/// The SHA-256 of a file, in hexadecimal digits.
///
/// # Errors
/// [`Error::Io`] when it cannot be read.
pub fn sha256(path: &Path) -> Result<String> {
    digest::<Sha256>(&mut File::open(path).map_err(Error::io(path))?, path)
}

/// The digest of the rest of `file`, which is at `path`, in hexadecimal digits.
pub(crate) fn digest<H: Digest>(file: &mut File, path: &Path) -> Result<String> {
    let mut hash = H::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).map_err(Error::io(path))? {
            0 => return Ok(hex(&hash.finalize())),
            n_read => hash.update(&chunk[..n_read]),
        }
    }
}

/// `bytes` in lower-case hexadecimal digits, as digests are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name under which `path` is written before it is complete.
pub fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Makes the names in `path`'s folder durable.
///
/// # Errors
/// When the operating system cannot.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder) {
        Ok(folder) => folder.sync_all(),
        // Some systems (Windows) do not open folders; there the rename is durable by itself or not at all.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("file");
        write_atomically(&path, |w| w.write_all(b"old")).expect("writes");
        let failed = write_atomically(&path, |w| {
            w.write_all(b"half of the n")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(failed.expect_err("refused").to_string().contains("the disk is full"));
        assert_eq!(fs::read(&path).expect("reads"), b"old");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_file_appears_when_it_is_committed_and_not_before() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let path = folder.path().join("file");
        let mut file = AtomicFile::create(&path).expect("creates");
        file.write_all(b"new").expect("writes");
        assert!(!path.exists());
        file.commit().expect("commits");
        assert_eq!(fs::read(&path).expect("reads"), b"new");
        assert_eq!(fs::read_dir(folder.path()).expect("lists").count(), 1);
    }
}
