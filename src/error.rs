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
    #[error("{}: {message}", in_one_line(place))]
    Config {
        /// Where: `configs/anneal.yml:37`.
        place: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The operating system refused to read or write `path`.
    #[error("{}: {source}", shown_path(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file that is not what its name or place promises: truncated, foreign, or inconsistent.
    #[error("{}: {message}", shown_path(path))]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// A checkpoint's file that is not what was written: truncated, with changed bits, or without the file that belongs to it.
    /// An earlier checkpoint may be whole.
    #[error("{}: {message}", shown_path(path))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// Files of a data set that are not there, with what to put where.
    #[error("{}", fit_for_terminal(.0))]
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
    /// A value that is none of those that are possible, called by its name.
    #[error("{} is {}, expected {}", in_one_line(name), in_one_line(found), in_one_line(expected))]
    Value {
        /// Which: a key (`model.spec_norm`), or in words.
        name: String,
        /// The value.
        found: String,
        /// Those that are possible.
        expected: String,
    },
    /// A tensor of a shape that does not fit.
    #[error("{} has shape {}, expected {}", in_one_line(name), in_one_line(found), in_one_line(expected))]
    Shape {
        /// The tensor's name.
        name: String,
        /// Its shape: `[4, 3, 3, 3]`.
        found: String,
        /// The shape that would fit, or its dimensions.
        expected: String,
    },
    /// Something else than was expected: too few samples, a name that nobody knows, sets that do not belong together.
    #[error("found {}, expected {}", in_one_line(found), in_one_line(expected))]
    Unexpected {
        /// What there is.
        found: String,
        /// What could be there.
        expected: String,
    },
    /// A request that cannot be met as asked, for a reason that the other variants do not have.
    #[error("{}", in_one_line(.0))]
    Usage(String),
}

impl Error {
    /// Wraps an [`io::Error`] with the path it is about: `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// [`Error::Value`].
    pub fn value(name: impl Into<String>, found: impl Display, expected: impl Into<String>) -> Error {
        Error::Value { name: name.into(), found: found.to_string(), expected: expected.into() }
    }

    /// [`Error::Shape`].
    pub fn shape(name: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Shape { name: name.into(), found: found.into(), expected: expected.into() }
    }

    /// [`Error::Unexpected`].
    pub fn unexpected(found: impl Into<String>, expected: impl Into<String>) -> Error {
        Error::Unexpected { found: found.into(), expected: expected.into() }
    }

    /// A file with the wrong content. Messages quote files, and so do those of the libraries that read them: see
    /// [`fit_for_terminal`]; long ones are cut.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Format { path: path.as_ref().to_path_buf(), message: one_line(&message.into()) }
    }

    /// A file that is not what was written; the message is escaped as that of [`Self::format`].
    pub fn damaged(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Damaged { path: path.as_ref().to_path_buf(), message: one_line(&message.into()) }
    }
}

/// A path in a message of several lines, which keeps those of the path from being taken for its own. Messages of one line escape
/// what they quote as a whole: see [`in_one_line`].
pub fn shown_path(path: &Path) -> String {
    one_line(&path.display().to_string())
}

/// `text` as one line, fit for a terminal, however long. File names may hold new lines.
pub fn in_one_line(text: &str) -> String {
    fit_for_terminal(text).replace('\n', "\\n")
}

/// The longest message about a file.
const MAX_MESSAGE: usize = 800;

/// `text` as one line, fit for a terminal; cut where it is longer than any message of ours: the rest is quoted.
pub fn one_line(text: &str) -> String {
    beginning(text, MAX_MESSAGE)
}

/// A file's text in an error.
pub(crate) fn shown(text: &str) -> String {
    if text.is_empty() { "\"\"".into() } else { beginning(text, 100) }
}

/// The first `n` characters of `text` as one line, fit for a terminal.
pub(crate) fn beginning(text: &str, n: usize) -> String {
    let end = text.char_indices().nth(n).map(|(at, _)| at);
    let short = fit_for_terminal(&text[..end.unwrap_or(text.len())]).replace('\n', "\\n");
    if end.is_some() { short + "…" } else { short }
}

/// `text` with what is not [`is_fit_for_terminal`] escaped; lines stay lines.
pub fn fit_for_terminal(text: &str) -> String {
    let mut fit = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\r' | '\t' | '\0' => fit.extend(c.escape_debug()),
            c if c == '\n' || is_fit_for_terminal(c) => fit.push(c),
            c => fit.extend(c.escape_unicode()),
        }
    }
    fit
}

/// Whether a terminal shows `c` and does nothing else: control characters, and those that are not seen or turn the direction of
/// writing, are not fit. File names and what files hold may be anybody's.
pub fn is_fit_for_terminal(c: char) -> bool {
    let is_hidden =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    !c.is_control() && !is_hidden
}

/// `A, B or C`: the names that could have been given.
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_string(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => "none".into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_listed_as_in_a_sentence() {
        assert_eq!([one_of([]), one_of(["A"]), one_of(["A", "B"])], ["none", "A", "A or B"]);
        assert_eq!(one_of(["A", "B", "C"]), "A, B or C");
    }

    #[test]
    fn what_was_found_and_what_was_expected_can_be_matched_and_reads_as_a_sentence() {
        let value = Error::value("label 3", 12, "0 to 9");
        assert!(matches!(&value, Error::Value { name, found, .. } if name == "label 3" && found == "12"));
        assert_eq!(value.to_string(), "label 3 is 12, expected 0 to 9");
        let shape = Error::shape("conv.weight", "[4, 3]", "4 dimensions");
        assert_eq!(shape.to_string(), "conv.weight has shape [4, 3], expected 4 dimensions");
        let unexpected = Error::unexpected(format!("{} samples", 1), "at least 2");
        assert!(matches!(&unexpected, Error::Unexpected { expected, .. } if expected == "at least 2"));
        assert_eq!(unexpected.to_string(), "found 1 samples, expected at least 2");
    }

    #[test]
    fn names_and_messages_cannot_steer_a_terminal() {
        let evil = "a\u{1b}[2J\u{202e}b";
        let errors = [
            Error::format(evil, evil),
            Error::Usage(evil.into()),
            Error::value(evil, evil, evil),
            Error::unexpected(evil, evil),
            Error::MissingData(evil.into()),
            Error::Config { place: evil.into(), message: String::new() },
            Error::io(evil)(io::Error::other("x")),
        ];
        for error in errors {
            let shown = error.to_string();
            assert!(shown.contains("a\\u{1b}[2J\\u{202e}b") && !shown.contains('\u{1b}'), "{shown}");
        }
        assert_eq!(fit_for_terminal("σ – ‖ŝ‖\nline"), "σ – ‖ŝ‖\nline");
        for error in [
            Error::format("a\nb", "c\nd"),
            Error::Usage("a\nb exists".into()),
            Error::io("a\nb")(io::Error::other("x")),
            Error::Config { place: "a\nb".into(), message: String::new() },
            Error::MissingData(format!("not in {}", shown_path(Path::new("a\nb")))),
        ] {
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn what_a_message_quotes_is_harmless_on_a_terminal_and_short() {
        let text = |message: &str| Error::format("f", message).to_string();
        assert_eq!(text("a\u{1b}[31m\n\u{202e}\u{200b}é中'\"\\"), "f: a\\u{1b}[31m\\n\\u{202e}\\u{200b}é中'\"\\");
        let long = Error::damaged("f", "中".repeat(100_000)).to_string();
        assert!(long.chars().count() < 1000 && long.ends_with('…'), "{}", long.len());
    }
}
