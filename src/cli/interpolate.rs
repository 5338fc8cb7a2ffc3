//! `ncsn interpolate`: rows of images that go over into one another.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use ncsn::config::Method;
use ncsn::data::Pixels;
use ncsn::device;
use ncsn::image::{grid, read_png, to_u8, write_png};
use ncsn::noise::Noise;
use ncsn::sample::{Flow, Images, Sampler, Trajectory, arcs, interpolation_chain, latent_ends};
use ncsn::{Error, Result};

use super::common::Common;
use super::drawing::place;
use super::flow::Tolerances;
use super::latents::Latents;
use super::log::Log;
use super::output::{Existing, Kind, Output, Platform, numbers};
use super::progress::Progress;
use super::published::DEFAULT_SEED;
use super::trained::Trained;
use super::{memory, stop};

#[derive(Debug, Args)]
pub struct InterpolateArgs {
    #[command(flatten)]
    trained: Trained,
    /// How many rows [default: 5, or as many as --latents has]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    n: Option<u64>,
    /// Images of a row [default: the run's sampling.n_interpolations]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1000))]
    columns: Option<u64>,
    /// Rows between latents of the prior, decoded by the probability flow [default: if the run's sampling.method is ode]
    #[arg(long)]
    flow: bool,
    /// Rows between the latents of this file, which `ncsn encode` wrote: row k goes from latent 2k to latent 2k + 1
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    #[command(flatten)]
    tolerances: Tolerances,
    /// Folder for the images
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,
    /// Seed; row k of a seed is the same whatever --n is
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// Enlarge the grid by this factor
    #[arg(long, default_value_t = 2, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=16))]
    scale: u64,
    /// Remove the images that are there, and draw anew
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Rows, where nothing says how many.
const N_ROWS: u64 = 5;

const GRID: &str = "grid.png";

/// What the files of a folder depend on; see [`Kind`].
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: String,
    #[serde(flatten)]
    sampler: Sampler,
    sigmas: Vec<f64>,
    /// None of given latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// The SHA-256 of the file of latents.
    #[serde(skip_serializing_if = "Option::is_none")]
    latents: Option<String>,
    shape: [usize; 3],
    #[serde(flatten)]
    platform: Platform,
    columns: u64,
    n: u64,
    scale: u64,
}

/// A folder of interpolations.
const INTERPOLATIONS: Kind = Kind {
    manifest: "interpolations.json",
    free: &["n", "scale"],
    files: |manifest| {
        let count = |key| manifest.get(key).and_then(Value::as_u64).unwrap_or(0);
        vec![GRID.to_string(), format!("images/{}_{}.png", numbers(count("n"), 6), numbers(count("columns"), 3))]
    },
    neighbours: |_| false,
};

pub fn run(args: InterpolateArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let (saved, model) = args.trained.open(&args.common)?;
    let mut config = saved.config().clone();
    args.tolerances.set(&mut config)?;
    if args.flow || args.latents.is_some() {
        config.sampling.method = Method::Ode;
    }
    if config.sampling.method == Method::Ode {
        config.probability_flow()?;
    }
    let columns = args.columns.unwrap_or(config.sampling.n_interpolations);
    memory::check_sampling(&config, columns, "--columns", &args.common)?;
    let device = place(&model);
    let (sampler, shape, range) = (config.sampler(), config.image_shape(), config.transform().range);
    let latents = args.latents.as_ref().map(|path| Latents::open(path, shape)).transpose()?;
    let n_pairs = latents.as_ref().map(|latents| latents.n() / 2);
    let n = args.n.or(n_pairs).unwrap_or(N_ROWS);
    if let Some(n_pairs) = n_pairs.filter(|&n_pairs| n > n_pairs || n == 0) {
        let found = format!("{} rows between {n_pairs} pairs of latents", n.max(1));
        return Err(Error::unexpected(found, "two latents for each row"));
    }
    // Of a flow the time is what is known of its progress.
    let (unit, n_units) = sampler.size(&*model.process).map_or(("percent", 100), |size| ("step", size.n_states as u64));
    let manifest = Manifest {
        weights: saved.weights().digest(),
        sampler: sampler.clone(),
        sigmas: model.process.stds(),
        seed: latents.is_none().then_some(args.seed),
        latents: latents.as_ref().map(|latents| latents.sha256.clone()),
        shape,
        platform: Platform::of(&device)?,
        columns,
        n,
        scale: args.scale,
    };
    let output = Output::open(&args.output, INTERPOLATIONS, &manifest, Existing::overwrite(args.overwrite))?;
    let n_earlier = output.earlier.as_ref().and_then(|earlier| earlier.get("n")).and_then(Value::as_u64).unwrap_or(0);
    if n_earlier > n {
        let folder = args.output.display();
        return Err(Error::Usage(format!(
            "{folder} holds {n_earlier} rows, more than --n {n}; --overwrite removes them"
        )));
    }
    output.describe(&manifest)?;
    output.make_folders(&manifest)?;

    let image_len = shape.iter().product::<usize>();
    let mut progress = Progress::new(&log, unit, 0, n * n_units);
    let mut pixels_u8 = Vec::new();
    for row in 0..n {
        let name = |column: u64| output.path(&format!("images/{row:06}_{column:03}.png"));
        // Those that are there, from a call that was stopped or asked for fewer, are not drawn again.
        let there: Result<Vec<Vec<u8>>> = (0..columns).map(|column| read_png(&name(column), shape)).collect();
        if let Ok(there) = there {
            pixels_u8.extend(there.concat());
            continue;
        }
        let images = Images { numbers: row..row + 1, shape, range };
        let mut last = None;
        let noise = Noise::new(args.seed);
        let mut trajectory = match &sampler {
            Sampler::ProbabilityFlow(flow) => {
                let [a, b] = match &latents {
                    Some(latents) => [2 * row, 2 * row + 1].map(|k| latents.of(k..k + 1, &device)),
                    None => latent_ends(&images, &*model.process, noise, &device),
                };
                let z = arcs(a, b, columns as usize);
                Trajectory::Flow(Box::new(Flow::new(&model, model.process.clone(), *flow, z)))
            }
            _ => Trajectory::Chain(Box::new(interpolation_chain(
                &model,
                &sampler,
                &images,
                columns as usize,
                noise,
                &device,
            )?)),
        };
        while let Some(state) = trajectory.next() {
            let state = state?;
            if stop::asked() {
                drop(progress);
                log.info(format!("stopped; {row} of {n} rows are kept, without a grid; the same command goes on"));
                return Ok(stop::code());
            }
            let n_done = row * n_units + (trajectory.part_done() * n_units as f64).round() as u64;
            progress.update(&mut log, n_done, &format!("row {} of {n}", row + 1));
            last = Some(state.x);
        }
        let x = device::values(last.expect("a chain has steps"))?;
        if x.iter().any(|x| !x.is_finite()) {
            let message = "the chain has diverged: an image is not finite (a smaller sampling.step_lr may help)";
            return Err(Error::Usage(message.into()));
        }
        let drawn: Vec<u8> = x.into_iter().map(|x| to_u8(range.inverse(x))).collect();
        for (column, image) in (0..).zip(drawn.chunks(image_len)) {
            write_png(&name(column), &Pixels::from_chw(image, shape))?;
        }
        pixels_u8.extend(drawn);
    }
    drop(progress);
    write_png(&output.path(GRID), &grid(&pixels_u8, shape, columns as usize).enlarged(args.scale as usize))?;
    log.info(format!("{n} rows of {columns} images in {}: grid.png, images/", args.output.display()));
    Ok(ExitCode::SUCCESS)
}
