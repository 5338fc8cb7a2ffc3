//! The program: arguments, progress, files. Uses the public library only, and is the only part that prints.

mod bench;
mod convert;
mod cpu;
mod data;
mod devices;
mod evaluate;
mod figures;
mod info;
mod inpaint;
mod lock;
mod log;
mod memory;
mod panic;
mod progress;
mod sample;
mod score;
mod stop;
mod toy;
mod train;
mod trained;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use clap::{Args, Parser, Subcommand};
use ncsn::checkpoint::pth::is_pth;
use ncsn::checkpoint::{Checkpoints, Weights};
use ncsn::config::{Config, File, Runner};
use ncsn::device::{self, DeviceKind, Precision, instructions};
use ncsn::net::{Architecture, InputRange};
use ncsn::sde::NoiseLevels;
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
    let cli = Cli::parse();
    let command = cli.command.map_or_else(|| cli.published.command(), Ok);
    match command.and_then(|command| panic::caught(|| on_threads(command))) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
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

/// Prints a line; a closed pipe is no error.
fn say(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line beside the output; a closed pipe is no error.
fn hint(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
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

    /// The newest checkpoint: ours, else the published program's.
    fn newest(&self) -> Result<PathBuf> {
        match (self.checkpoints().latest(), self.published()) {
            (Ok(step), _) => Ok(self.checkpoints().weights_path(step)),
            (Err(_), Some(path)) => Ok(path),
            (Err(error), None) => Err(error),
        }
    }

    /// The published program's newest checkpoint.
    fn published(&self) -> Option<PathBuf> {
        Some(self.logs.join("checkpoint.pth")).filter(|path| path.is_file())
    }

    fn config(&self) -> PathBuf {
        self.logs.join("config.yml")
    }
}

/// The images' part of a configuration file.
fn images_config(file: File, name: &str) -> Result<Config> {
    match file {
        File::Images(config) => Ok(*config),
        File::Toy => {
            Err(Error::Usage(format!("{name} is the configuration of ToyRunner, expected one that trains on images")))
        }
    }
}

/// The configuration that belongs to weights: the one in their header, else `given`, else the `config.yml` beside them if they
/// are a published checkpoint.
fn saved_config(weights: &Weights, path: &Path, given: Option<&str>) -> Result<Option<Config>> {
    let (file, name) = match (weights.header(), given, path.with_file_name("config.yml")) {
        (Some(header), ..) => {
            let name = format!("{} (saved configuration)", path.display());
            (Config::parse(&header.config, &name, &[], None)?, name)
        }
        (None, Some(given), _) => Config::load(given, &[], runner(weights))?,
        (None, None, beside) if is_pth(path)? && beside.is_file() => {
            Config::load(&beside.display().to_string(), &[], runner(weights))?
        }
        _ => return Ok(None),
    };
    images_config(file, &name).map(Some)
}

/// The runner that weights come from: the published files do not name the network.
fn runner(weights: &Weights) -> Option<Runner> {
    weights.network(InputRange::Unit).ok().map(|network| Runner::of(network.architecture))
}

/// The levels of a run; a network that is not given the level knows one.
fn noise_levels(config: &Config) -> Result<NoiseLevels> {
    let model = &config.model;
    match model.architecture {
        Architecture::Ncsn | Architecture::Deeper => {
            NoiseLevels::geometric(model.sigma_begin, model.sigma_end, model.num_classes)
        }
        // The published program's baseline has 0.01, which is sigma_end of its file.
        Architecture::Baseline => NoiseLevels::single(model.sigma_end),
        _ => NoiseLevels::single(config.training.noise_std),
    }
}
