//! The library's one error type. Each variant says what was found, what was expected, and where.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong by the user's doing or the machine's. Programmers' mistakes are assertions instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration that cannot be meant: unknown key, wrong type, impossible value.
    /// `place` is `file:line` (or `--set`, or just the file).
    #[error("{place}: {message}")]
    Config {
        /// Where: `configs/anneal.yml:37`.
        place: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The operating system refused to read or write `path`.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that is not what its name or place promises: truncated, foreign, or inconsistent.
    #[error("{}: {message}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// Files of a data set that are not there, with what to put where.
    #[error("{0}")]
    MissingData(String),
    /// Work that was given up because whoever asked for it wanted to stop.
    #[error("{0}")]
    Stopped(String),
    /// A loss or gradient that is not finite.
    #[error(
        "{what} is {value} at step {step}: training has diverged (a smaller optim.lr or training.grad_clip may help)"
    )]
    NotFinite {
        /// "the loss" or "the gradient of NAME".
        what: String,
        /// The value found.
        value: f64,
        /// The step, counted from 1, that produced it.
        step: u64,
    },
    /// A device that could not compute: out of memory, say, or lost.
    #[error("the device failed: {0}")]
    Device(String),
    /// A request that cannot be met as asked.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Wraps an [`io::Error`] with the path it is about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// A file with the wrong content. Messages quote files, and so do those of the libraries that read them: control
    /// characters, which could make a terminal do things, are escaped.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
        let message = message.into().chars().map(escaped).collect();
        Error::Format { path: path.as_ref().to_path_buf(), message }
    }
}

/// The first five of `things`, and how many more there are.
pub(crate) fn few<T: Display>(things: &[T]) -> String {
    const N_NAMED: usize = 5;
    let named: Vec<String> = things.iter().take(N_NAMED).map(T::to_string).collect();
    match things.len().saturating_sub(N_NAMED) {
        0 => named.join("; "),
        n_more => format!("{}; and {n_more} more", named.join("; ")),
    }
}
