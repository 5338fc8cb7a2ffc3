//! `ncsn noise-levels`: noise levels and steps for a data set, by the techniques of NCSNv2.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use ncsn::config::{Data, Dataset};
use ncsn::data::Split;
use ncsn::eval::largest_distance;
use ncsn::noise::Noise;
use ncsn::sde::Design;
use ncsn::{Error, Result};

use super::common::{Common, hint, say};
use super::data;
use super::log::Log;
use super::overrides::positive;
use super::progress::Progress;
use super::published::DEFAULT_SEED;
use super::stop;

#[derive(Debug, Args)]
pub struct NoiseLevelsArgs {
    /// The name of a data set, or a folder of images
    #[arg(long, value_name = "NAME_OR_FOLDER")]
    dataset: String,
    /// Height and width of the images in pixels [default: those of the data set]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u64).range(4..=1024))]
    image_size: Option<u64>,
    /// Channels of the images, 1 or 3 [default: those of the data set]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3))]
    channels: Option<u64>,
    /// σ₁, the largest noise level [default: the largest distance between two training images]
    #[arg(long, value_name = "SIGMA")]
    sigma_begin: Option<f64>,
    /// σ_L, the smallest noise level
    #[arg(long, value_name = "SIGMA", default_value_t = 0.01)]
    sigma_end: f64,
    /// C, the smallest overlap of neighbouring noise levels
    #[arg(long, value_name = "C", default_value_t = 0.5)]
    overlap: f64,
    /// Largest number of steps for a sample, over all noise levels
    #[arg(long, value_name = "STEPS", default_value_t = 1500, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    budget: u64,
    /// Seed of the images that are drawn from more than 60,000
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: NoiseLevelsArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let data = described(&args)?;
    let sigma_end = positive("--sigma-end", args.sigma_end)?;
    let sigma_begin = match args.sigma_begin {
        Some(sigma) => positive("--sigma-begin", sigma)?,
        None => measured(&args, &data, &mut log)?,
    };
    let dim = data.channels * data.image_size.pow(2);
    let design = Design::with_overlap(dim, [sigma_begin, sigma_end], args.overlap)?;
    let n_steps_each = design.n_steps_each(args.budget as usize);
    let step_lr = design.best_step_lr(n_steps_each);
    hint(format!(
        "{} levels, γ = {:.6}, C = {:.4}; {n_steps_each} steps at each, {} in all; s_T²/σ² = {:.5} at this step_lr, its smallest value",
        design.n_levels,
        design.gamma(),
        design.overlap(),
        n_steps_each * design.n_levels,
        design.variance_ratio(n_steps_each, step_lr),
    ));
    say("model:");
    say(format!("  sigma_begin: {sigma_begin:?}"));
    say(format!("  sigma_end: {sigma_end:?}"));
    say(format!("  num_classes: {}", design.n_levels));
    say("  sigma_dist: geometric");
    say("sampling:");
    say(format!("  n_steps_each: {n_steps_each}"));
    say(format!("  step_lr: {step_lr:.3e}"));
    Ok(ExitCode::SUCCESS)
}

/// The data set with the size and the channels asked for.
fn described(args: &NoiseLevelsArgs) -> Result<Data> {
    let dataset = match Dataset::named(&args.dataset) {
        Some(dataset) => dataset,
        None if Path::new(&args.dataset).is_dir() => Dataset::folder(&args.dataset),
        None => return Err(Error::MissingData(format!("found no folder and no data set {:?}", args.dataset))),
    };
    let set = dataset.set;
    let channels = args.channels.map_or(set.channels[0], |channels| channels as usize);
    if !set.channels.contains(&channels) {
        let known: Vec<String> = set.channels.iter().map(usize::to_string).collect();
        let message = format!("found --channels {channels}, expected {} for {}", known.join(" or "), dataset.name());
        return Err(Error::Usage(message));
    }
    let image_size = args.image_size.map_or(set.size, |size| size as usize);
    Ok(Data { dataset, image_size, channels, ..Data::default() })
}

/// The largest distance between two training images, to three digits.
fn measured(args: &NoiseLevelsArgs, data: &Data, log: &mut Log) -> Result<f64> {
    let source = data::open(data, &args.common.run.join("datasets"), Split::Train, log)?;
    let device = args.common.open_device()?;
    let mut progress = None;
    let found = largest_distance(&*source, Noise::new(args.seed), &device, &mut |n_done, n| {
        progress.get_or_insert_with(|| Progress::new(log, "block", 0, n)).update(log, n_done, "distances");
        if stop::asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    drop(progress);
    let [a, b] = found.images;
    log.info(format!(
        "the largest distance of two of {} images: {:.4}, of images {a} and {b}",
        found.n_images, found.distance
    ));
    match found.distance {
        distance if distance > 0.0 => Ok((distance * 100.0).ceil() / 100.0),
        _ => Err(Error::Usage("all images are the same, expected some that differ".into())),
    }
}
