//! `ncsn interpolate`: rows of images that go over into one another.

use std::path::PathBuf;
use std::process::ExitCode;

use burn::module::Module as _;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use ncsn::data::Pixels;
use ncsn::device;
use ncsn::image::{grid, read_png, to_u8, write_png};
use ncsn::noise::Noise;
use ncsn::sample::{Images, Sampler, interpolation_chain};
use ncsn::{Error, Result};

use super::common::Common;
use super::drawing::in_stages;
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
    /// How many rows
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    n: u64,
    /// Images of a row [default: the run's sampling.n_interpolations]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..=1000))]
    columns: Option<u64>,
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

const GRID: &str = "grid.png";

/// What the files of a folder depend on; see [`Kind`].
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: String,
    #[serde(flatten)]
    sampler: Sampler,
    sigmas: Vec<f64>,
    seed: u64,
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
    let config = saved.config();
    let columns = args.columns.unwrap_or(config.sampling.n_interpolations);
    memory::check_sampling(config, columns, "--columns", &args.common)?;
    let device = model.net.devices().into_iter().next().expect("a network lives somewhere");
    let (sampler, shape, range) = (config.sampler(), config.image_shape(), config.transform().range);
    let n_states = in_stages(&sampler, &*model.process)?.n_states as u64;
    let manifest = Manifest {
        weights: saved.weights().digest(),
        sampler: sampler.clone(),
        sigmas: model.process.stds(),
        seed: args.seed,
        shape,
        platform: Platform::of(&device)?,
        columns,
        n: args.n,
        scale: args.scale,
    };
    let output = Output::open(&args.output, INTERPOLATIONS, &manifest, Existing::overwrite(args.overwrite))?;
    let n_earlier = output.earlier.as_ref().and_then(|earlier| earlier.get("n")).and_then(Value::as_u64).unwrap_or(0);
    if n_earlier > args.n {
        let (folder, n) = (args.output.display(), args.n);
        return Err(Error::Usage(format!(
            "{folder} holds {n_earlier} rows, more than --n {n}; --overwrite removes them"
        )));
    }
    output.describe(&manifest)?;
    output.make_folders(&manifest)?;

    let image_len = shape.iter().product::<usize>();
    let mut progress = Progress::new(&log, "step", 0, args.n * n_states);
    let mut pixels_u8 = Vec::new();
    for row in 0..args.n {
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
        for state in interpolation_chain(&model, &sampler, &images, columns as usize, noise, &device)? {
            if stop::asked() {
                drop(progress);
                log.info(format!(
                    "stopped; {row} of {} rows are kept, without a grid; the same command goes on",
                    args.n
                ));
                return Ok(stop::code());
            }
            progress.update(&mut log, row * n_states + state.n_done as u64, &format!("row {} of {}", row + 1, args.n));
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
    log.info(format!("{} rows of {columns} images in {}: grid.png, images/", args.n, args.output.display()));
    Ok(ExitCode::SUCCESS)
}
