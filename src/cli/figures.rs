//! `ncsn figures`: figures of the paper that take runs of their own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use ncsn::config::Runner;
use ncsn::file::read_at_most;
use ncsn::plot::{self, Content, Panel};
use ncsn::{Error, Result};

use super::log::Log;
use super::output::{Existing, Kind, Output};
use super::train::{self, TrainArgs};
use super::{Common, RunFolders};

#[derive(Debug, Args)]
pub struct FiguresArgs {
    #[command(subcommand)]
    figure: Figure,
}

impl FiguresArgs {
    pub fn common(&self) -> &Common {
        let Figure::Scorenet(args) = &self.figure;
        &args.common
    }
}

#[derive(Debug, Subcommand)]
enum Figure {
    /// Song & Ermon 2019, figure 1: the loss of sliced score matching without and with a little noise in the data
    Scorenet(ScoreNetArgs),
}

#[derive(Debug, Args)]
struct ScoreNetArgs {
    /// Name of the two runs, NAME_sigma_0 and NAME_sigma_0.01; they go on where they are, if they are there
    #[arg(long, value_name = "NAME", default_value = "scorenet")]
    doc: String,
    /// YAML file of both
    #[arg(long, value_name = "FILE", default_value = "scorenet.yml")]
    config: String,
    /// Training steps of each
    #[arg(long, value_name = "STEPS", default_value_t = 200)]
    n_iters: u64,
    /// Override a value of the configuration, e.g. training.batch_size=64 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder for scorenet.png and scorenet.svg [default: RUN/figures]
    #[arg(short = 'o', long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace files of these names that this command did not write
    #[arg(long)]
    overwrite: bool,
    /// Seed of both [default: the configuration's, else 1234]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// What the figure depends on.
#[derive(Serialize)]
struct Manifest {
    doc: String,
    n_iters: u64,
    set: Vec<String>,
}

/// The figure in its folder, which is drawn anew whenever its runs have gone on.
const FIGURE: Kind = Kind {
    manifest: "scorenet.json",
    free: &["doc", "n_iters", "set"],
    files: |_| vec!["scorenet.png".into(), "scorenet.svg".into()],
    neighbours: |_| false,
};

/// The standard deviations of the noise that figure 1 compares.
const NOISE: [&str; 2] = ["0", "0.01"];

pub fn run(args: FiguresArgs) -> Result<ExitCode> {
    let Figure::Scorenet(args) = args.figure;
    scorenet(args)
}

fn scorenet(args: ScoreNetArgs) -> Result<ExitCode> {
    let output = args.output.clone().unwrap_or_else(|| args.common.run.join("figures"));
    let manifest = Manifest { doc: args.doc.clone(), n_iters: args.n_iters, set: args.set.clone() };
    let output = Output::open(&output, FIGURE, &manifest, Existing::overwrite(args.overwrite))?;
    output.describe(&manifest)?;
    let mut series = Vec::new();
    for noise in NOISE {
        let doc = format!("{}_sigma_{noise}", args.doc);
        let folders = RunFolders::new(&args.common.run, &doc)?;
        let mut set = args.set.clone();
        set.extend([format!("training.noise_std={noise}"), format!("training.n_iters={}", args.n_iters)]);
        let code = train::run(TrainArgs {
            runner: Some(Runner::ScoreNet),
            config: Some(args.config.clone()),
            doc,
            resume: folders.config().exists(),
            step: None,
            overwrite: false,
            seed: args.seed,
            comment: String::new(),
            set,
            no_sample: true,
            common: args.common.clone(),
        })?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        let losses = losses(&folders.logs.join("metrics.jsonl"))?;
        let name = if noise == "0" { "data as they are".into() } else { format!("with noise, σ = {noise}") };
        series.push((name, plot::averaged(&losses, losses.len().div_ceil(100))));
    }
    let panel = Panel {
        title: "Sliced score matching, figure 1".into(),
        content: Content::Lines { x_label: "step".into(), y_label: "loss".into(), series },
    };
    let path = output.path("scorenet");
    plot::write(&path, &[panel], 1)?;
    Log::terminal(args.common.verbose).info(format!("{0}.png, {0}.svg", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// The largest file of losses.
const MAX_BYTES: u64 = 1 << 30;

/// Step and loss of every line.
fn losses(path: &Path) -> Result<Vec<(f64, f64)>> {
    #[derive(Deserialize)]
    struct Line {
        step: f64,
        loss: f64,
    }
    let text = String::from_utf8_lossy(&read_at_most(path, MAX_BYTES)?).into_owned();
    let line = |line| {
        serde_json::from_str(line)
            .map(|Line { step, loss }| (step, loss))
            .map_err(|error| Error::format(path, format!("found a line without step and loss: {error}")))
    };
    text.lines().map(line).collect()
}
