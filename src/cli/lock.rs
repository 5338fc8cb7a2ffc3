//! One program at a time in a run.

use std::fs::File;
use std::path::Path;

use ncsn::{Error, Result};

/// Held for as long as it lives; the operating system drops it when the program dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `folder`.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(Error::Usage(format!("another ncsn is at work in {}", folder.display())))
            }
            // A file system without locks (some network ones) must not keep anyone from working.
            Ok(()) | Err(std::fs::TryLockError::Error(_)) => Ok(Self { _file: file }),
        }
    }
}
