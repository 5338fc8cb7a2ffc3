//! Files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// Opens the regular file at `path`, or the one that a link there leads to, and gives its length. Whatever else has names in a
/// file system is refused before it is opened: a pipe would block, a device has no end.
///
/// # Errors
/// [`Error::Io`] when it cannot be opened, [`Error::Format`] when it is no regular file.
pub fn open_regular(path: &Path) -> Result<(File, u64)> {
    let expect_file = |metadata: Metadata| match metadata.is_file() {
        true => Ok(metadata.len()),
        false => Err(Error::format(path, format!("found {}, expected a file", kind(&metadata)))),
    };
    expect_file(fs::metadata(path).map_err(Error::io(path))?)?;
    let file = File::open(path).map_err(Error::io(path))?;
    // Once more, in case the name was given to something else in between.
    let n_bytes = expect_file(file.metadata().map_err(Error::io(path))?)?;
    Ok((file, n_bytes))
}

fn kind(metadata: &Metadata) -> &'static str {
    if metadata.is_dir() { "a folder" } else { "a pipe or a device" }
}

/// The content of the regular file at `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is larger than `max_bytes` or no regular file.
pub fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let (file, n_bytes) = open_regular(path)?;
    if n_bytes > max_bytes {
        return Err(Error::format(path, format!("found {n_bytes} bytes, expected at most {max_bytes}")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
    file.take(n_bytes).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

/// Fills `bytes` from `at`, from several threads at a time if need be.
///
/// # Errors
/// Those of the file, which may end before.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` from `at`, from several threads at a time if need be.
///
/// # Errors
/// Those of the file, which may end before.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes = &mut bytes[n..];
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A file under a temporary, hidden name beside its target, which [`AtomicFile::commit`] moves into place.
///
/// Until then, and after a crash, whatever was at the target is untouched. Dropped uncommitted, it is removed; what a killed
/// program leaves is found by [`remove_leftovers`] and [`remove_abandoned`]. The name has the process's number in it and is created exclusively: a link
/// at that name is not followed, and programs that write the same target do not share a file.
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
        let create = || File::options().write(true).create_new(true).open(&temporary);
        let file = create().or_else(|error| match error.kind() {
            // Of a killed program that had our number.
            io::ErrorKind::AlreadyExists => fs::remove_file(&temporary).and_then(|()| create()),
            _ => Err(error),
        });
        let file = file.map_err(Error::io(target))?;
        // Tells other processes, on other machines too, that its writer lives. Some file systems have no locks.
        let _ = file.try_lock();
        let writer = BufWriter::new(file);
        Ok(Self { writer, temporary, target: target.to_path_buf(), committed: false })
    }

    /// Makes the content so far durable.
    ///
    /// # Errors
    /// When it cannot be written in full.
    pub fn sync(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()
    }

    /// Puts the file in its place, replacing what is there, once its content is on the disk. The folder is synced too,
    /// without which the new name itself could be lost.
    ///
    /// # Errors
    /// [`Error::Io`] if the content cannot be written in full; the target is then untouched.
    pub fn commit(mut self) -> Result<()> {
        self.sync().and_then(|()| fs::rename(&self.temporary, &self.target)).map_err(Error::io(&self.target))?;
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
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no regular file.
pub fn sha256(path: &Path) -> Result<String> {
    digest::<Sha256>(&mut open_regular(path)?.0, path)
}

/// The SHA-256 of `bytes`, in hexadecimal digits.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
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

/// The name under which this process writes `path` before it is complete: `.NAME.PROCESS.tmp`.
fn temporary_name(path: &Path) -> PathBuf {
    hidden_name(path, &format!("{}.tmp", std::process::id()))
}

/// The name under which `path` is written over several calls: `.NAME.part`.
pub(crate) fn partial_name(path: &Path) -> PathBuf {
    hidden_name(path, "part")
}

fn hidden_name(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

/// The name of the file that `name` is a temporary file of: of `.NAME.PROCESS.tmp`, or of `.NAME.tmp` as earlier versions wrote.
fn target_name(name: &str) -> Option<&str> {
    target_and_process(name).map(|(target, _)| target)
}

/// [`target_name`] and the number of the process that wrote it, as digits.
fn target_and_process(name: &str) -> Option<(&str, Option<&str>)> {
    let name = name.strip_prefix('.')?.strip_suffix(".tmp")?;
    let is_process = |end: &str| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit());
    match name.rsplit_once('.') {
        Some((target, end)) if is_process(end) => Some((target, Some(end))),
        _ => Some((name, None)),
    }
}

/// Removes the temporary files of `path` whose writers are dead, in a folder that anybody may write to: files of which no process
/// holds the lock, with the number of a process that does not live. Links stay, and so does what cannot be judged.
///
/// # Errors
/// When a file cannot be removed.
pub fn remove_abandoned(path: &Path) -> Result<()> {
    for entry in fs::read_dir(folder_of(path)).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some((target, Some(process))) = name.to_str().and_then(target_and_process) else { continue };
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && path.file_name() == Some(target.as_ref()) && !may_live(process) && is_unlocked(&entry.path()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether the process of this number may be living; those of systems without `/proc` are told by their locks alone.
fn may_live(process: &str) -> bool {
    let all = Path::new("/proc");
    process == std::process::id().to_string() || (all.join("self").exists() && all.join(process).exists())
}

/// Whether no process holds the lock of the file at `path`.
fn is_unlocked(path: &Path) -> bool {
    File::options().write(true).open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Removes the temporary files that killed programs left in `folder`, of those targets that `is_ours` knows. Whoever calls this
/// holds the folder's lock: nobody else is writing there.
///
/// # Errors
/// When a file cannot be removed. A folder that does not exist has none.
pub fn remove_leftovers(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_str().and_then(target_name).is_some_and(&is_ours) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what was written of `path` over several calls, if it is unfinished.
///
/// # Errors
/// When the operating system refuses.
pub fn remove_partial(path: &Path) -> Result<()> {
    remove(&partial_name(path))
}

/// Whether a killed program left a temporary file of `path`.
pub(crate) fn has_leftover(path: &Path) -> bool {
    let mut entries = fs::read_dir(folder_of(path)).into_iter().flatten().flatten();
    entries.any(|e| e.file_name().to_str().and_then(target_name).map(Path::new) == path.file_name().map(Path::new))
}

/// Removes the file at `path`, if there is one.
///
/// # Errors
/// When the operating system refuses.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in `path`'s folder durable.
///
/// # Errors
/// When the operating system cannot.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match File::open(folder_of(path)) {
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

    #[cfg(unix)]
    #[test]
    fn a_link_at_the_temporary_name_is_not_followed() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        fs::write(&other, "precious").expect("writes");
        std::os::unix::fs::symlink(&other, temporary_name(&path)).expect("links");
        write_atomically(&path, |w| w.write_all(b"new")).expect("writes");
        assert_eq!(fs::read(&other).expect("reads"), b"precious");
        assert_eq!(fs::read(&path).expect("reads"), b"new");
        assert!(fs::symlink_metadata(&path).expect("is there").is_file());
    }

    #[test]
    fn only_what_killed_programs_left_of_known_files_is_removed() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let names = [".a.1.tmp", ".a.tmp", ".b.77.tmp", "a", "a.tmp", ".a.part", ".a.x1.tmp"];
        names.iter().for_each(|name| fs::write(folder.path().join(name), "x").expect("writes"));
        remove_leftovers(folder.path(), |name| name == "a").expect("removes");
        remove_leftovers(&folder.path().join("none"), |_| true).expect("nothing to do");
        let left: Vec<bool> = names.iter().map(|name| folder.path().join(name).exists()).collect();
        assert_eq!(left, [false, false, true, true, true, true, true]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_dead_process_left_of_a_file_is_removed_and_nothing_of_a_living_one() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let mut child = std::process::Command::new("true").spawn().expect("starts");
        child.wait().expect("ends");
        let (dead, own) = (child.id(), std::process::id());
        // No process has a number of eight digits.
        let abandoned = format!(".a.{dead}.tmp");
        let mut names = vec![abandoned.clone(), ".a.99999999.tmp".into(), ".a.1.tmp".into(), format!(".a.{own}.tmp")];
        names.extend(
            [".a.tmp", ".b.99999999.tmp", "a", ".a.88888888.tmp", ".a.77777777.tmp", "other"].map(String::from),
        );
        let path = |name: &str| folder.path().join(name);
        let is_link = |name: &str| name.contains("7777");
        names.iter().filter(|name| !is_link(name)).for_each(|name| fs::write(path(name), "x").expect("writes"));
        std::os::unix::fs::symlink(path("other"), path(".a.77777777.tmp")).expect("links");
        // Of a process that lives elsewhere, whose number is of none here.
        let elsewhere = File::open(path(".a.88888888.tmp")).expect("opens");
        elsewhere.lock().expect("locks");
        remove_abandoned(&path("a")).expect("removes");
        remove_abandoned(&path("no/such/folder")).expect("nothing to do");
        let removed: Vec<&String> = names.iter().filter(|name| fs::symlink_metadata(path(name)).is_err()).collect();
        assert_eq!(removed, [&abandoned, ".a.99999999.tmp"]);
        drop(elsewhere);
        remove_abandoned(&path("a")).expect("removes");
        assert!(!path(".a.88888888.tmp").exists());
        // What is being written has its lock.
        let file = AtomicFile::create(&path("c")).expect("creates");
        assert!(!is_unlocked(&file.temporary));
        file.commit().expect("commits");
        assert!(is_unlocked(&path("c")));
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        for (path, found) in [(folder.path(), "a folder"), (Path::new("/dev/zero"), "a pipe or a device")] {
            let message = read_at_most(path, 9).expect_err("refused").to_string();
            assert!(message.contains(&format!("found {found}, expected a file")), "{message}");
        }
        let link = folder.path().join("link");
        fs::write(folder.path().join("file"), "text").expect("writes");
        std::os::unix::fs::symlink(folder.path().join("file"), &link).expect("links");
        assert_eq!(read_at_most(&link, 4).expect("reads"), b"text");
        assert!(read_at_most(&link, 3).is_err());
    }
}
