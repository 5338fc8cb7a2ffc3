//! The program: arguments, progress, files. Uses the public library only, and is the only part that prints.

mod bench;
mod convert;
mod cpu;
mod data;
mod devices;
mod drawing;
mod evaluate;
mod figures;
mod info;
mod inpaint;
mod lock;
mod log;
mod memory;
mod output;
mod panic;
mod progress;
mod sample;
mod score;
mod stop;
mod toy;
mod train;
mod trained;

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand};
use ncsn::checkpoint::{Checkpoints, published};
use ncsn::config::Runner;
use ncsn::device::{self, DeviceKind, Precision, instructions};
use ncsn::error::{fit_for_terminal, is_fit_for_terminal};
use ncsn::{Error, Result};

use self::log::Verbosity;

const EXAMPLES: &str = "\
Train a small network on built-in digits and draw new ones, no download, a few minutes:
    ncsn train --config quickstart.yml --doc quickstart

Draw 64 images from what a run has learnt:
    ncsn sample --doc quickstart -o samples --n 64 --seed 7

Show what a run holds:
    ncsn info --doc quickstart
";

/// Score-based generative modelling: train a noise-conditional score network, sample it with annealed Langevin dynamics.
#[derive(Debug, Parser)]
#[command(name = "ncsn", version, before_help = EXAMPLES, args_conflicts_with_subcommands = true, max_term_width = 110)]
#[command(
    after_help = "Without a command, the flags of the published PyTorch program mean what they mean there:\n    \
    ncsn --runner AnnealRunner --config anneal.yml --doc cifar10\n    \
    ncsn --runner AnnealRunner --test --doc cifar10 -o samples"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    published: Published,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a network; ends with a grid of samples and an animation
    Train(train::TrainArgs),
    /// Draw images from a trained network
    Sample(sample::SampleArgs),
    /// Fill in the hidden part of images
    Inpaint(inpaint::InpaintArgs),
    /// Run the experiments in the plane: pictures and numbers
    Toy(toy::ToyArgs),
    /// Draw a figure of the paper from short runs
    Figures(figures::FiguresArgs),
    /// Rewrite a checkpoint: PyTorch's to safetensors and back
    Convert(convert::ConvertArgs),
    /// Say how good samples are: FID, inception score, KID, precision and recall, nearest neighbours
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Evaluate a network: tensors `x` and `labels` in, `score` out
    Score(score::ScoreArgs),
    /// Show what a run or a checkpoint holds, what the processor can do, or which devices there are
    Info(info::InfoArgs),
    /// Measure how fast this machine trains and samples
    Bench(bench::BenchArgs),
}

/// What every command knows.
#[derive(Clone, Debug, Args)]
struct Common {
    /// Folder of all runs, their data sets and their TensorBoard events
    #[arg(long, value_name = "DIR", default_value = "run")]
    run: PathBuf,
    /// How much to say: info, debug, warning or critical
    #[arg(long, value_name = "LEVEL", default_value = "info", value_parser = parse::<Verbosity>)]
    verbose: Verbosity,
    /// Where to compute: auto, cpu, cuda, metal or vulkan, perhaps with a number (cuda:1); auto takes the first GPU that this
    /// build has code for
    #[arg(long, default_value = "auto", value_parser = parse::<DeviceKind>)]
    device: DeviceKind,
    /// How exact products of f32 are: highest, high or medium
    #[arg(long, default_value = "high", value_parser = parse::<Precision>)]
    precision: Precision,
}

impl Common {
    /// The device asked for. A build that has a choice says which it is.
    fn open_device(&self) -> Result<Device> {
        let device = self.device.open()?;
        if cfg!(feature = "gpu") && self.verbose <= Verbosity::Info {
            let name = device::name(&device).map_or_else(String::new, |name| format!(", {name}"));
            hint(format!("computing on {}{name}", self.device.chosen()));
        }
        Ok(device)
    }
}

/// The published program's flags.
#[derive(Debug, Args)]
struct Published {
    /// The runner
    #[arg(long, hide = true, value_parser = parse::<Runner>)]
    runner: Option<Runner>,
    #[arg(long, hide = true)]
    config: Option<String>,
    #[arg(long, hide = true)]
    doc: Option<String>,
    #[arg(long, hide = true)]
    seed: Option<u64>,
    #[arg(long, default_value = "", hide = true)]
    comment: String,
    #[arg(long, hide = true)]
    test: bool,
    #[arg(long = "resume_training", hide = true)]
    resume_training: bool,
    #[arg(short = 'o', long = "image_folder", hide = true)]
    image_folder: Option<PathBuf>,
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// The published program's default.
const DEFAULT_SEED: u64 = 1234;

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

impl Command {
    fn run(self) -> Result<ExitCode> {
        // Refused here, once: the library's operations would choose another.
        instructions()?;
        if let Some(common) = self.common() {
            // Before anything is written.
            common.device.open()?;
            common.precision.set_current();
        }
        match self {
            Command::Train(args) => train::run(args),
            Command::Sample(args) => sample::run(args),
            Command::Inpaint(args) => inpaint::run(args),
            Command::Toy(args) => toy::run(args),
            Command::Figures(args) => figures::run(args),
            Command::Convert(args) => convert::run(args),
            Command::Evaluate(args) => evaluate::run(*args),
            Command::Score(args) => score::run(args),
            Command::Info(args) => info::run(args),
            Command::Bench(args) => bench::run(args),
        }
    }

    /// What every command knows; `bench` leaves no files and has a precision for each workload.
    fn common(&self) -> Option<&Common> {
        match self {
            Command::Train(args) => Some(&args.common),
            Command::Sample(args) => Some(&args.common),
            Command::Inpaint(args) => Some(&args.common),
            Command::Toy(args) => Some(&args.common),
            Command::Figures(args) => Some(args.common()),
            Command::Convert(args) => Some(&args.common),
            Command::Evaluate(args) => Some(args.common()),
            Command::Score(args) => Some(&args.common),
            Command::Info(args) => Some(&args.common),
            Command::Bench(_) => None,
        }
    }
}

impl Published {
    fn command(self) -> Result<Command> {
        if self.runner == Some(Runner::Toy) {
            let output = self.doc.map(|doc| RunFolders::new(&self.common.run, &doc)).transpose()?;
            return Ok(Command::Toy(toy::ToyArgs {
                output: self.image_folder.or(output.map(|folders| folders.samples)),
                n_steps: toy::DEFAULT_N_STEPS,
                seed: self.seed.unwrap_or(DEFAULT_SEED),
                overwrite: false,
                common: self.common,
            }));
        }
        let Some(doc) = self.doc else {
            return Err(Error::Usage("found no command and no --doc; see ncsn --help".into()));
        };
        Ok(if self.test {
            let args =
                sample::SampleArgs::published(doc, self.seed.unwrap_or(DEFAULT_SEED), self.image_folder, self.common);
            Command::Sample(args)
        } else {
            Command::Train(train::TrainArgs {
                runner: self.runner,
                config: self.config,
                doc,
                resume: self.resume_training,
                step: None,
                overwrite: false,
                seed: self.seed,
                comment: self.comment,
                set: self.set,
                no_sample: false,
                common: self.common,
            })
        })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    panic::listen();
    stop::survive_limits();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are results, mistakes are not.
            if let Err(error) = answer.print().and_then(|()| std::io::stdout().flush()) {
                let _ = OUTPUT_LOST.set(error);
            }
            return if answer.use_stderr() { ExitCode::from(2) } else { end(ExitCode::SUCCESS) };
        }
    };
    let command = cli.command.map_or_else(|| cli.published.command(), Ok);
    match command.and_then(|command| panic::caught(|| on_threads(command))) {
        Ok(code) => end(code),
        Err(error) => {
            hint(format!("error: {error}"));
            match error {
                Error::Stopped(_) => stop::code(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Runs a command on one of the threads that compute, as many as asked for.
fn on_threads(command: Command) -> Result<ExitCode> {
    /// As much as a program's first thread has.
    const STACK: usize = 8 << 20;
    let n_threads = match &command {
        Command::Bench(args) => args.threads().unwrap_or(0),
        _ => 0,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads as usize).stack_size(STACK).build_global();
    pool.map_err(|error| Error::Usage(format!("the threads to compute with cannot be started: {error}")))?;
    ncsn_kernels::parallel::inside(|| command.run())
}

/// Why the output could not be written, after the first time that it could not.
static OUTPUT_LOST: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a line of a result. When it cannot be written, the program goes on and ends with an error: see [`end`].
fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    if let Err(error) = writeln!(out, "{}", fit_for_terminal(&line.to_string())).and_then(|()| out.flush()) {
        let _ = OUTPUT_LOST.set(error);
    }
}

/// Prints a line of JSON as [`say`] does.
fn say_json(value: &impl serde::Serialize) {
    let json = serde_json::to_string(value).expect("results are plain data");
    let escaped = |c: char| match c {
        c if is_fit_for_terminal(c) => c.to_string(),
        c => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    say(json.chars().map(escaped).collect::<String>());
}

/// Prints a line about the work; one that cannot be written is no error.
fn remark(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{}", fit_for_terminal(&line.to_string()));
}

/// Prints a line beside the output; one that cannot be written is no error.
fn hint(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{}", fit_for_terminal(&line.to_string()));
}

/// The exit code of a program whose work ended with `code`: a result that could not be written is an error, but not to a reader
/// who has closed the pipe.
fn end(code: ExitCode) -> ExitCode {
    match OUTPUT_LOST.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            hint(format!("error: the output cannot be written: {error}"));
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// The folders of one run.
struct RunFolders {
    logs: PathBuf,
    board: PathBuf,
    samples: PathBuf,
}

impl RunFolders {
    fn new(run: &Path, doc: &str) -> Result<Self> {
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

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(&self.logs)
    }

    /// The published program's newest checkpoint.
    fn published(&self) -> Option<PathBuf> {
        published(&self.logs)
    }

    fn config(&self) -> PathBuf {
        self.logs.join("config.yml")
    }
}
