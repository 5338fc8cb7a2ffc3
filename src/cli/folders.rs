//! Where a run's files are.

use std::path::{Path, PathBuf};

use ncsn::checkpoint::{Checkpoints, published};
use ncsn::{Error, Result};

/// The folders of one run.
pub struct RunFolders {
    pub logs: PathBuf,
    pub board: PathBuf,
    pub samples: PathBuf,
}

impl RunFolders {
    pub fn new(run: &Path, doc: &str) -> Result<Self> {
        let plain = !doc.is_empty() && doc != "." && doc != ".." && !doc.contains(['/', '\\', '\0']);
        if !plain {
            return Err(Error::Usage(format!("found --doc {doc:?}, expected a name without slashes")));
        }
        Ok(Self {
            logs: run.join("logs").join(doc),
            board: run.join("tensorboard").join(doc),
            samples: run.join("samples").join(doc),
        })
    }

    pub fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.logs)
    }

    /// The published program's newest checkpoint.
    pub fn published(&self) -> Option<PathBuf> {
        published(&self.logs)
    }

    pub fn config(&self) -> PathBuf {
        config_path(&self.logs)
    }
}

/// Where the configuration of the run in `logs` is.
pub fn config_path(logs: &Path) -> PathBuf {
    logs.join("config.yml")
}

/// Makes the folder `path` and those above it, unless they exist.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(Error::io(path))
}
