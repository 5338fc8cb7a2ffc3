//! Lines for the user, and the same in the run's log file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use ncsn::{Error, Result};

/// The least important lines that are still said; names as in Python's `logging`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    Debug,
    Info,
    Warning,
    Critical,
}

impl FromStr for Verbosity {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" => Ok(Self::Warning),
            "critical" => Ok(Self::Critical),
            _ => Err(Error::Usage(format!("found level {name}, expected info, debug, warning or critical"))),
        }
    }
}

/// Where lines go. Nothing here fails: a line that cannot be written must not stop a run.
#[derive(Debug)]
pub struct Log {
    least: Verbosity,
    started: Instant,
    file: Option<File>,
    /// Whether the terminal gets its lines on the error output.
    on_stderr: bool,
}

impl Log {
    /// To the terminal only.
    pub fn terminal(least: Verbosity) -> Self {
        Self { least, started: Instant::now(), file: None, on_stderr: false }
    }

    /// To the terminal's error output only: for commands whose output is read by other programs.
    pub fn beside_output(least: Verbosity) -> Self {
        Self { on_stderr: true, ..Self::terminal(least) }
    }

    /// To the terminal, and all of it appended to `path`.
    pub fn with_file(least: Verbosity, path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { file: Some(file), ..Self::terminal(least) })
    }

    pub fn debug(&mut self, line: impl AsRef<str>) {
        self.line(Verbosity::Debug, line.as_ref());
    }

    pub fn info(&mut self, line: impl AsRef<str>) {
        self.line(Verbosity::Info, line.as_ref());
    }

    pub fn warning(&mut self, line: impl AsRef<str>) {
        self.line(Verbosity::Warning, line.as_ref());
    }

    /// To the file alone: what the terminal shows as a progress bar.
    pub fn file_only(&mut self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "[{seconds:9.1} s] {line}");
        }
    }

    fn line(&mut self, level: Verbosity, line: &str) {
        if level >= self.least {
            match self.on_stderr {
                true => super::hint(line),
                false => super::say(line),
            }
        }
        self.file_only(line);
    }

    /// Whether lines of `level` are shown.
    pub fn shows(&self, level: Verbosity) -> bool {
        level >= self.least
    }
}
