//! Lines for the user, and the same in the run's log file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use ncsn::error::in_one_line;
use ncsn::file::open_regular;
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

/// Where lines go beside the terminal.
#[derive(Debug)]
enum Written {
    Nowhere,
    /// Kept until it is known that the file may be written.
    Kept(Vec<u8>),
    To(File),
}

/// Where lines go. Nothing here fails: a line that cannot be written must not stop a run.
#[derive(Debug)]
pub struct Log {
    least: Verbosity,
    started: Instant,
    file: Written,
    /// Whether the terminal gets its lines on the error output.
    on_stderr: bool,
}

impl Log {
    /// To the terminal only.
    pub fn terminal(least: Verbosity) -> Self {
        Self { least, started: Instant::now(), file: Written::Nowhere, on_stderr: false }
    }

    /// To the terminal's error output only: for commands whose output is read by other programs.
    pub fn beside_output(least: Verbosity) -> Self {
        Self { on_stderr: true, ..Self::terminal(least) }
    }

    /// To the terminal, and kept for [`Self::write_to`].
    pub fn kept(least: Verbosity) -> Self {
        Self { file: Written::Kept(Vec::new()), ..Self::terminal(least) }
    }

    /// Appends the lines so far, and all that follow, to `path`.
    pub fn write_to(&mut self, path: &Path) -> Result<()> {
        if path.exists() {
            // A pipe of that name would block.
            open_regular(path)?;
        }
        let mut file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        if let Written::Kept(lines) = &self.file {
            let _ = file.write_all(lines);
        }
        self.file = Written::To(file);
        Ok(())
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
        let line = format!("[{seconds:9.1} s] {}\n", in_one_line(line));
        let _ = match &mut self.file {
            Written::Nowhere => Ok(()),
            Written::Kept(lines) => lines.write_all(line.as_bytes()),
            Written::To(file) => file.write_all(line.as_bytes()),
        };
    }

    fn line(&mut self, level: Verbosity, line: &str) {
        if level >= self.least {
            match self.on_stderr {
                true => super::hint(line),
                false => super::remark(line),
            }
        }
        self.file_only(line);
    }

    /// Whether lines of `level` are shown.
    pub fn shows(&self, level: Verbosity) -> bool {
        level >= self.least
    }
}
