//! One program at a time in a folder.

use std::fs::{self, File, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ncsn::{Error, Result};

/// Held for as long as it lives; the operating system drops it when the program dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
    /// The folders that were made for it, innermost first.
    made: Vec<PathBuf>,
}

impl Lock {
    /// Makes `folder` if it is not there, and takes its lock.
    pub fn take(folder: &Path) -> Result<Self> {
        let missing = folder.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
        let made = missing.map(Path::to_path_buf).collect();
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(".lock");
        let is_other = fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_file());
        if is_other {
            return Err(Error::format(&path, "found something else than a file where the lock belongs"));
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Usage(format!("another ncsn is at work in {}", folder.display())));
            }
            // A file system without locks (some network ones) must not keep anyone from working.
            Ok(()) | Err(fs::TryLockError::Error(_)) => {}
        }
        let lock = Self { file, path, made };
        // It may have been removed between its opening and its locking.
        lock.check()?;
        Ok(lock)
    }

    /// Refuses to go on in a folder that was removed, or removed and begun anew, while the lock was held: what is there now is
    /// somebody else's.
    pub fn check(&self) -> Result<()> {
        let ours = self.file.metadata().map_err(Error::io(&self.path))?;
        match fs::symlink_metadata(&self.path) {
            Ok(there) if is_same(&ours, &there) => Ok(()),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(&self.path)(error)),
            _ => {
                let folder = self.path.parent().unwrap_or(&self.path);
                let message = "was removed or replaced by another program; nothing more is written there";
                Err(Error::Usage(format!("{} {message}", folder.display())))
            }
        }
    }

    /// Gives the lock back after a refusal: folders that were made for it and are still empty go too.
    pub fn give_back(self) {
        if !self.made.is_empty() && self.check().is_ok() {
            // What cannot be removed holds something by now, and stays.
            let _ = fs::remove_file(&self.path);
            self.made.iter().for_each(|folder| drop(fs::remove_dir(folder)));
        }
    }
}

#[cfg(unix)]
fn is_same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_was_removed_and_begun_anew_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("a/b");
        let lock = Lock::take(&run).unwrap();
        lock.check().unwrap();
        assert!(Lock::take(&run).unwrap_err().to_string().contains("another ncsn is at work"));
        fs::remove_dir_all(&run).unwrap();
        assert!(lock.check().unwrap_err().to_string().contains("was removed or replaced"));
        let _other = Lock::take(&run).unwrap();
        assert!(lock.check().unwrap_err().to_string().contains("was removed or replaced"));
    }

    #[test]
    fn folders_made_for_a_lock_that_is_given_back_go_if_they_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("a/b");
        Lock::take(&run).unwrap().give_back();
        assert!(!folder.path().join("a").exists());
        fs::create_dir_all(&run).unwrap();
        Lock::take(&run).unwrap().give_back();
        assert!(run.exists(), "it was there before");
        let other = folder.path().join("c/d");
        let lock = Lock::take(&other).unwrap();
        fs::write(folder.path().join("c/file"), "x").unwrap();
        lock.give_back();
        assert!(!other.exists() && folder.path().join("c/file").exists());
    }
}
