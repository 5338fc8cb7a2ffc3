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
    /// A checkpoint's file that is not what was written: truncated, with changed bits, or without the file that belongs
    /// to it. An earlier checkpoint may be whole.
    #[error("{}: {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// Files of a data set that are not there, with what to put where.
    #[error("{0}")]
    MissingData(String),
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
    /// characters, which could make a terminal do things, are escaped, and long ones cut.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), message: escaped(&message.into()) }
    }

    /// A file that is not what was written; the message is escaped as that of [`Self::format`].
    pub fn damaged(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Damaged { path: path.as_ref().to_path_buf(), message: escaped(&message.into()) }
    }
}

/// The longest message about a file.
const MAX_MESSAGE: usize = 800;

/// `text` with its control characters escaped, and those that are not seen or turn the direction of writing; cut where
/// it is longer than any message of ours: the rest is quoted.
fn escaped(text: &str) -> String {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let mut escaped = String::new();
    for c in text.chars() {
        if escaped.len() >= MAX_MESSAGE {
            escaped.push('…');
            break;
        }
        match c {
            '\n' | '\r' | '\t' | '\0' => escaped.extend(c.escape_debug()),
            c if is_hidden(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    escaped
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_quotes_is_harmless_on_a_terminal_and_short() {
        let text = |message: &str| Error::format("f", message).to_string();
        assert_eq!(text("a\u{1b}[31m\n\u{202e}\u{200b}é中'\"\\"), "f: a\\u{1b}[31m\\n\\u{202e}\\u{200b}é中'\"\\");
        let long = Error::damaged("f", "中".repeat(100_000)).to_string();
        assert!(long.len() < 1000 && long.ends_with('…'), "{}", long.len());
    }
}
