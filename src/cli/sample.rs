//! `ncsn sample`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use ncsn::noise::Noise;
use ncsn::{Error, Result};

use super::drawing::{Drawing, Pictures};
use super::flow::Decoding;
use super::guide::GuideArgs;
use super::latents::Latents;
use super::log::Log;
use super::output::Existing;
use super::overrides::Overrides;
use super::trained::{Trained, score_of};
use super::{Common, DEFAULT_SEED, hint, memory, stop};

#[derive(Debug, Args)]
pub struct SampleArgs {
    #[command(flatten)]
    trained: Trained,
    /// Folder for the samples [default: RUN/samples/NAME]
    #[arg(short = 'o', long = "output", alias = "image_folder", value_name = "DIR")]
    output: Option<PathBuf>,
    /// How many images [default: 25, the latents of --latents, or the run's sampling.num_samples4fid if sampling.fid is true]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    n: Option<u64>,
    /// Batch size; the grid and the animation show the first batch [default: the run's sampling.batch_size, else 100]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: Option<u64>,
    /// Seed; image k of a seed is the same whatever --n and --batch are
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    #[command(flatten)]
    overrides: Overrides,
    #[command(flatten)]
    guide: GuideArgs,
    /// Draw by the mean of the scores of the last N checkpoints, training.snapshot_freq steps apart, up to the one chosen: for runs
    /// without an EMA of their weights
    #[arg(long, value_name = "N", requires = "doc", value_parser = clap::value_parser!(u64).range(1..=100))]
    ensemble: Option<u64>,
    /// Columns of the grid [default: a square]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    columns: Option<u64>,
    #[command(flatten)]
    decoding: Decoding,
    #[command(flatten)]
    pictures: Pictures,
    /// Remove the samples that are there, and draw anew
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

impl SampleArgs {
    /// What flags of the published programs mean.
    pub fn published(
        doc: String,
        n: Option<u64>,
        seed: u64,
        output: Option<PathBuf>,
        overwrite: bool,
        common: Common,
    ) -> Self {
        Self {
            trained: Trained { doc: Some(doc), checkpoint: None, config: None, step: None },
            output,
            n,
            batch: n,
            seed,
            overrides: Overrides::default(),
            guide: GuideArgs::default(),
            ensemble: None,
            columns: None,
            decoding: Decoding::default(),
            pictures: Pictures::default(),
            overwrite,
            common,
        }
    }
}

pub fn run(args: SampleArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let device = args.common.open_device()?;
    let n_members = args.ensemble.unwrap_or(1) as usize;
    let members = args.trained.members(n_members, &args.common)?;
    let mut config = args.overrides.of(members[0].config())?;
    let start = args.decoding.start(&mut config)?;
    let sampling = &config.sampling;
    for (key, is_on, command) in
        [("inpainting", sampling.inpainting, "inpaint"), ("interpolation", sampling.interpolation, "interpolate")]
    {
        if is_on {
            hint(format!("the run's sampling.{key} is true: that is the command ncsn {command}; these are new images"));
        }
    }
    let n_latents = start.as_ref().and_then(|start| start.latents.as_ref()).map(Latents::n);
    let of_config = || if sampling.fid { sampling.num_samples4fid } else { 25 };
    let n = args.n.or(n_latents).unwrap_or_else(of_config);
    if let Some(n_latents) = n_latents.filter(|&n_latents| n > n_latents) {
        return Err(Error::unexpected(format!("--n {n} for a file of {n_latents} latents"), "at most all of them"));
    }
    let batch = args.batch.or(sampling.batch_size).unwrap_or(100).min(n);
    let pictures = args.pictures.or(sampling);
    let output = args.trained.folder(args.output, &args.common)?;
    memory::check_ensemble(&config, members.len(), batch, "--batch", &args.common)?;
    let guide = args.guide.open(&config, members.len(), batch, &device, &args.common)?;
    if let Some(guide) = &guide {
        log.info(guide.line());
    }
    let (score, digests) = score_of(&members, n_members > 1, &device)?;
    if n_members > 1 {
        let paths: Vec<String> = members.iter().map(|member| member.weights().path().display().to_string()).collect();
        log.info(format!("the mean of the scores of {}", paths.join(", ")));
    }
    drop(members);
    let mut drawing =
        Drawing::new(&config, Noise::new(args.seed), n, || args.common.training_set(&config.data, &mut log))?;
    drawing.batch = batch;
    drawing.columns = args.columns;
    drawing.existing = Existing::overwrite(args.overwrite);
    drawing.weights = Some(digests);
    drawing.begin = start;
    drawing.guide = guide;
    let code = drawing.to_folder(&score, &device, &output, &pictures, &mut log)?;
    if code == ExitCode::SUCCESS {
        let gif = if pictures.final_only() { "" } else { ", samples.gif" };
        let raw = if pictures.raw { ", samples.safetensors" } else { "" };
        log.info(format!("{n} samples in {}: grid.png{gif}{raw}, images/", output.display()));
    }
    Ok(code)
}
