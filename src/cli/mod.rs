//! The program: arguments, progress, files. Uses the public library only, and is the only part that prints.

mod bench;
mod common;
mod convert;
mod cpu;
mod data;
mod devices;
mod drawing;
mod encode;
mod evaluate;
mod figures;
mod flow;
mod folders;
mod guide;
mod info;
mod inpaint;
mod interpolate;
mod latents;
mod lock;
mod log;
mod memory;
mod noise_levels;
mod output;
mod overrides;
mod panic;
mod progress;
mod published;
mod sample;
mod score;
mod stop;
mod toy;
mod train;
mod trained;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ncsn::device::instructions;
use ncsn::{Error, Result};

use self::common::{Common, complain, end, hint, lose_output, parse, remark, say, say_json};
use self::folders::RunFolders;
use self::published::{DEFAULT_SEED, Published};

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
    /// Draw rows of images that go over into one another
    Interpolate(interpolate::InterpolateArgs),
    /// Find the latents of images: what the probability flow makes of them, and `sample --latents` turns back
    Encode(encode::EncodeArgs),
    /// Run the 2-D toy experiments: pictures and numbers
    Toy(toy::ToyArgs),
    /// Draw a figure of the paper from short runs
    Figures(figures::FiguresArgs),
    /// Rewrite a checkpoint: PyTorch's to safetensors and back
    Convert(convert::ConvertArgs),
    /// Say how good samples are: FID, inception score, KID, precision and recall, nearest neighbours
    Evaluate(Box<evaluate::EvaluateArgs>),
    /// Evaluate a network: tensors `x` and `labels` in, `score` out
    Score(score::ScoreArgs),
    /// Choose noise levels and steps for a data set, by the techniques of NCSNv2; prints lines of a configuration
    NoiseLevels(noise_levels::NoiseLevelsArgs),
    /// Show what a run or a checkpoint holds, what the processor can do, or which devices there are
    Info(info::InfoArgs),
    /// Measure how fast this machine trains and samples
    Bench(bench::BenchArgs),
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
            Command::Interpolate(args) => interpolate::run(args),
            Command::Encode(args) => encode::run(args),
            Command::Toy(args) => toy::run(args),
            Command::Figures(args) => figures::run(args),
            Command::Convert(args) => convert::run(args),
            Command::Evaluate(args) => evaluate::run(*args),
            Command::Score(args) => score::run(args),
            Command::NoiseLevels(args) => noise_levels::run(args),
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
            Command::Interpolate(args) => Some(&args.common),
            Command::Encode(args) => Some(&args.common),
            Command::Toy(args) => Some(&args.common),
            Command::Figures(args) => Some(args.common()),
            Command::Convert(args) => Some(&args.common),
            Command::Evaluate(args) => Some(args.common()),
            Command::Score(args) => Some(&args.common),
            Command::NoiseLevels(args) => Some(&args.common),
            Command::Info(args) => Some(&args.common),
            Command::Bench(_) => None,
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    panic::listen();
    stop::survive_limits();
    let cli = match Cli::try_parse_from(published::translated(std::env::args_os())) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are results, mistakes are not.
            if let Err(error) = answer.print().and_then(|()| std::io::stdout().flush()) {
                lose_output(error);
            }
            return if answer.use_stderr() { ExitCode::from(2) } else { end(ExitCode::SUCCESS) };
        }
    };
    let commands = cli.command.map_or_else(|| cli.published.commands(), |command| Ok(vec![command]));
    match commands.and_then(|commands| panic::caught(|| on_threads(commands))) {
        Ok(code) => end(code),
        Err(error) => {
            complain(&error);
            match error {
                Error::Stopped(_) => stop::code(),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Runs commands, one after the other while they succeed, on one of the threads that compute, as many as asked for.
fn on_threads(commands: Vec<Command>) -> Result<ExitCode> {
    /// As much as a program's first thread has.
    const STACK: usize = 8 << 20;
    let n_threads = match &commands[..] {
        [Command::Bench(args)] => args.threads().unwrap_or(0),
        _ => 0,
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads as usize).stack_size(STACK).build_global();
    pool.map_err(|error| Error::Usage(format!("the threads to compute with cannot be started: {error}")))?;
    ncsn_kernels::parallel::inside(|| {
        for command in commands {
            let code = command.run()?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
