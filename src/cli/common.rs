//! What every command shares: its arguments, and how lines are printed.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use burn::tensor::Device;
use clap::Args;
use ncsn::config::Data;
use ncsn::data::{Source, Split};
use ncsn::device::{self, DeviceKind, Precision};
use ncsn::error::{in_one_line, is_fit_for_terminal};
use ncsn::{Error, Result};

use super::log::{Log, Verbosity};

/// What every command knows.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Folder of all runs, their data sets and their TensorBoard events
    #[arg(long, value_name = "DIR", default_value = "run")]
    pub run: PathBuf,
    /// How much to say: info, debug, warning or critical
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = parse::<Verbosity>)]
    pub verbose: Verbosity,
    /// Where to compute: auto, cpu, cuda, metal or vulkan, perhaps with a number (cuda:1); auto takes the first GPU that this
    /// build has code for
    #[arg(long, default_value = "auto", value_parser = parse::<DeviceKind>)]
    pub device: DeviceKind,
    /// Precision of f32 matrix products: highest (f32), high (bf16x2, 1e-5; TF32 on GPUs), medium (bf16, 1e-2)
    #[arg(long, default_value = "high", value_parser = parse::<Precision>)]
    pub precision: Precision,
}

impl Common {
    /// The training images, from the folder of all data sets.
    pub fn training_set(&self, data: &Data, log: &mut Log) -> Result<Arc<dyn Source>> {
        super::data::open(data, &self.run.join("datasets"), Split::Train, log)
    }

    /// The device asked for. A build that has a choice says which it is.
    pub fn open_device(&self) -> Result<Device> {
        let device = self.device.open()?;
        if cfg!(feature = "gpu") && self.verbose <= Verbosity::Info {
            let name = device::name(&device).map_or_else(String::new, |name| format!(", {name}"));
            hint(format!("computing on {}{name}", self.device.chosen()));
        }
        Ok(device)
    }
}

pub fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Why the output could not be written, after the first time that it could not.
static OUTPUT_LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Remembers that the output could not be written; only the first reason counts.
pub fn lose_output(error: std::io::Error) {
    let _ = OUTPUT_LOST.set(error);
}

/// Prints a line of a result, whatever the names in it. When it cannot be written, the program goes on and ends with an error: see [`end`].
pub fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    if let Err(error) = writeln!(out, "{}", in_one_line(&line.to_string())).and_then(|()| out.flush()) {
        lose_output(error);
    }
}

/// Prints a line of JSON as [`say`] does.
pub fn say_json(value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).expect("results are plain data");
    let escaped = |c: char| match c {
        c if is_fit_for_terminal(c) => c.to_string(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    say(json.chars().map(escaped).collect::<String>());
}

/// Prints a line about the work; one that cannot be written is no error.
pub fn remark(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{}", in_one_line(&line.to_string()));
}

/// Prints a line beside the output; one that cannot be written is no error.
pub fn hint(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{}", in_one_line(&line.to_string()));
}

/// Prints what a program ends with; some errors have lines of their own, with the files that they are about.
pub fn complain(error: &Error) {
    let _ = writeln!(std::io::stderr(), "error: {error}");
}

/// The exit code of a program whose work ended with `code`: a result that could not be written is an error, but not to a reader
/// who has closed the pipe.
pub fn end(code: ExitCode) -> ExitCode {
    match OUTPUT_LOST.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            hint(format!("error: the output cannot be written: {error}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}
