//! `ncsn sample`, and the samples at the end of a training run.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::module::Module;
use clap::Args;
use serde::{Deserialize, Serialize};

use ncsn::checkpoint::TensorWriter;
use ncsn::config::Config;
use ncsn::data::Pixels;
use ncsn::data::transform::sigmoid;
use ncsn::device;
use ncsn::image::{GifWriter, grid, to_u8, write_png};
use ncsn::net::Network;
use ncsn::noise::Noise;
use ncsn::sample::{State, Step, annealed_steps, image_chain};
use ncsn::{Error, Result};

use super::lock::Lock;
use super::log::Log;
use super::progress::Progress;
use super::train::create_folder;
use super::trained::Trained;
use super::{Common, DEFAULT_SEED, memory, noise_levels, stop};

/// How long a frame of the animation is shown.
const FRAME_MS: u32 = 50;
/// How far a GPU may be behind.
const WAIT_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct SampleArgs {
    #[command(flatten)]
    trained: Trained,
    /// Folder for the samples [default: RUN/samples/NAME]
    #[arg(short = 'o', long = "output", alias = "image_folder", value_name = "DIR")]
    output: Option<PathBuf>,
    /// How many images
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// Images drawn at a time; the grid and the animation show the first so many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// Seed; image k of a seed is the same whatever --n and --batch are
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// Langevin steps at each noise level, instead of the run's
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    n_steps_each: Option<u64>,
    /// Step size at the smallest level, instead of the run's
    #[arg(long, value_name = "ALPHA")]
    step_lr: Option<f64>,
    /// Columns of the grid [default: a square]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1000))]
    columns: Option<u64>,
    #[command(flatten)]
    pictures: Pictures,
    /// Replace samples that were drawn otherwise
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What is written beside the images.
#[derive(Clone, Debug, Args, Serialize, Deserialize, PartialEq)]
pub struct Pictures {
    /// No animation
    #[arg(long)]
    final_only: bool,
    /// Every how many states a frame of the animation
    #[arg(long, default_value_t = 10, value_name = "STATES", value_parser = clap::value_parser!(u64).range(1..))]
    gif_stride: u64,
    /// Enlarge the animation and the grid by this factor
    #[arg(long, default_value_t = 2, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=16))]
    scale: u64,
    /// Also write the samples as tensor `samples` [n, channels, height, width] (samples.safetensors, not clamped)
    #[arg(long)]
    raw: bool,
}

impl Default for Pictures {
    fn default() -> Self {
        Self { final_only: false, gif_stride: 10, scale: 2, raw: false }
    }
}

impl Pictures {
    /// No animation.
    pub fn still() -> Self {
        Self { final_only: true, ..Self::default() }
    }
}

impl SampleArgs {
    /// What the published program's `--test` means.
    pub fn published(doc: String, seed: u64, output: Option<PathBuf>, common: Common) -> Self {
        Self {
            trained: Trained { doc: Some(doc), checkpoint: None, config: None, step: None },
            output,
            n: 25,
            batch: 25,
            seed,
            n_steps_each: None,
            step_lr: None,
            columns: None,
            pictures: Pictures::default(),
            overwrite: false,
            common,
        }
    }
}

pub fn run(args: SampleArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let (net, mut config, digest) = args.trained.open(&args.common)?;
    if let Some(n) = args.n_steps_each {
        config.sampling.n_steps_each = n as usize;
    }
    if let Some(step_lr) = args.step_lr {
        config.sampling.step_lr = positive("--step-lr", step_lr)?;
    }
    let output = args.trained.folder(args.output, &args.common)?;
    memory::check_sampling(&config, args.batch.min(args.n), "--batch", &args.common)?;
    let mut drawing = Drawing::new(&config, Noise::new(args.seed), args.n)?;
    drawing.batch = args.batch.min(args.n);
    drawing.columns = args.columns;
    drawing.overwrite = args.overwrite;
    drawing.weights = Some(digest);
    let code = drawing.to_folder(&net, &output, &args.pictures, &mut log)?;
    if code == ExitCode::SUCCESS {
        let gif = if args.pictures.final_only { "" } else { ", samples.gif" };
        let raw = if args.pictures.raw { ", samples.safetensors" } else { "" };
        log.info(format!("{} samples in {}: grid.png{gif}{raw}, images/", args.n, output.display()));
    }
    Ok(code)
}

/// `value`, if a step can be that long.
pub fn positive(flag: &str, value: f64) -> Result<f64> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(Error::Usage(format!("found {flag} {value}, expected a positive number")))
}

/// What the images of a folder depend on; a folder is only added to when it is the same.
#[derive(Serialize, Deserialize, PartialEq)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: Option<String>,
    step_lr: f64,
    n_steps_each: usize,
    seed: u64,
    n: u64,
    pictures: Pictures,
}

/// Everything that determines the samples of a network.
pub struct Drawing {
    steps: Vec<Step>,
    shape: [usize; 3],
    logit_transform: bool,
    noise: Noise,
    n: u64,
    /// Images drawn at a time.
    pub batch: u64,
    columns: Option<u64>,
    /// Whether samples that were drawn otherwise are replaced.
    pub overwrite: bool,
    /// The MD5 of the checkpoint, for the folder's manifest.
    pub weights: Option<String>,
    manifest_of_steps: (f64, usize),
}

impl Drawing {
    /// `n` images as `config` says.
    pub fn new(config: &Config, noise: Noise, n: u64) -> Result<Self> {
        let sampling = &config.sampling;
        let size = config.data.image_size;
        Ok(Self {
            steps: annealed_steps(&noise_levels(config)?, sampling.n_steps_each, sampling.step_lr),
            shape: [config.data.channels, size, size],
            logit_transform: config.data.logit_transform,
            noise,
            n,
            batch: n,
            columns: None,
            overwrite: false,
            weights: None,
            manifest_of_steps: (sampling.step_lr, sampling.n_steps_each),
        })
    }

    /// The grid of all images in one batch; `None` if the user asked to stop.
    pub fn grid_only(&self, net: &Network) -> Result<Option<Pixels>> {
        let mut last = None;
        for state in self.chain(net, 0..self.n) {
            if stop::asked() {
                return Ok(None);
            }
            last = Some(state.x);
        }
        last.map(|x| Ok(self.grid(&self.to_pixels(&device::values(x)?), 1))).transpose()
    }

    /// Draws into `folder`, batch by batch: `images/NUMBER.png`, `grid.png`, `samples.gif`. Images that are there
    /// already, from a call that was stopped, are not drawn again.
    pub fn to_folder(&self, net: &Network, folder: &Path, pictures: &Pictures, log: &mut Log) -> Result<ExitCode> {
        let images = folder.join("images");
        create_folder(&images)?;
        let _lock = Lock::take(folder)?;
        self.check_manifest(folder, pictures)?;
        let raw = || TensorWriter::open(&folder.join("samples.safetensors"), "samples", &self.tensor_shape());
        let mut raw = pictures.raw.then(raw).transpose()?;

        let n_steps = self.steps.len() as u64;
        let mut progress = Progress::new(log, "step", 0, n_steps * self.n.div_ceil(self.batch));
        let mut last_wait = Instant::now();
        let mut n_done = 0;
        for first in (0..self.n).step_by(self.batch as usize) {
            let numbers = first..(first + self.batch).min(self.n);
            n_done += n_steps;
            // The grid is written after the first batch's images, so it tells that the animation is whole too.
            let complete = (first > 0 || folder.join("grid.png").exists())
                && numbers.clone().all(|k| image_path(&images, k).exists());
            if complete {
                progress.skip(n_done);
                continue;
            }
            let before = n_done - n_steps;
            let mut gif = None;
            let mut last = None;
            for state in self.chain(net, numbers.clone()) {
                if stop::asked() {
                    drop(progress);
                    log.info(format!("stopped; {first} of {} images are drawn and kept", self.n));
                    return Ok(ExitCode::from(stop::INTERRUPTED));
                }
                let State { n_done, x, .. } = state;
                let is_frame = (n_done as u64).is_multiple_of(pictures.gif_stride) || n_done == self.steps.len();
                if first == 0 && !pictures.final_only && is_frame {
                    let frame = self.grid(&self.to_pixels(&device::values(x.clone())?), pictures.scale as usize);
                    let gif = match &mut gif {
                        Some(gif) => gif,
                        none => none.insert(GifWriter::new(
                            &folder.join("samples.gif"),
                            frame.width,
                            frame.height,
                            FRAME_MS,
                        )?),
                    };
                    gif.frame(&frame)?;
                }
                // A GPU would run far behind the progress shown, and a stop would have to wait for it.
                if last_wait.elapsed() >= WAIT_EVERY {
                    device::wait(&x.device())?;
                    last_wait = Instant::now();
                }
                last = Some(x);
                let message = format!("images {}–{} of {}", numbers.start, numbers.end - 1, self.n);
                progress.update(log, before + n_done as u64, &message);
            }
            let x = device::values(last.expect("a chain has steps"))?;
            if let Some(i) = x.iter().position(|x| !x.is_finite()) {
                return Err(Error::Usage(format!(
                    "image {} is not finite: the chain has diverged (a smaller --step-lr may help, or more training)",
                    numbers.start + (i / self.image_len()) as u64
                )));
            }
            if let Some(raw) = &mut raw {
                raw.write_rows(first as usize, &x)?;
            }
            let pixels_u8 = self.to_pixels(&x);
            for (k, image) in numbers.clone().zip(pixels_u8.chunks(self.image_len())) {
                write_png(&image_path(&images, k), &Pixels::from_chw(image, self.shape))?;
            }
            if let Some(gif) = gif {
                gif.finish()?;
            }
            if first == 0 {
                write_png(&folder.join("grid.png"), &self.grid(&pixels_u8, pictures.scale as usize))?;
            }
        }
        if let Some(raw) = raw {
            raw.finish()?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn chain<'a>(&self, net: &'a Network, numbers: Range<u64>) -> impl Iterator<Item = State<4>> + use<'a> {
        let device = net.devices().into_iter().next().expect("a network lives somewhere");
        image_chain(net, self.steps.clone(), numbers, self.shape, self.noise, &device)
    }

    fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    fn tensor_shape(&self) -> [usize; 4] {
        let [channels, height, width] = self.shape;
        [self.n as usize, channels, height, width]
    }

    /// Network output to bytes: logits through the sigmoid, then clamped.
    fn to_pixels(&self, x: &[f32]) -> Vec<u8> {
        let pixel = |&x: &f32| to_u8(if self.logit_transform { sigmoid(x) } else { x });
        x.iter().map(pixel).collect()
    }

    fn grid(&self, pixels_u8: &[u8], scale: usize) -> Pixels {
        let n = pixels_u8.len() / self.image_len();
        let columns = self.columns.map_or_else(|| (n as f64).sqrt().ceil() as usize, |c| c as usize);
        grid(pixels_u8, self.shape, columns.max(1)).enlarged(scale)
    }

    fn check_manifest(&self, folder: &Path, pictures: &Pictures) -> Result<()> {
        let path = folder.join("samples.json");
        let (step_lr, n_steps_each) = self.manifest_of_steps;
        let manifest = Manifest {
            weights: self.weights.clone(),
            step_lr,
            n_steps_each,
            seed: self.noise.seed(),
            n: self.n,
            pictures: pictures.clone(),
        };
        let json = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
        let found = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice::<Manifest>(&bytes).ok(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(&path)(error)),
        };
        if found.as_ref() != Some(&manifest) {
            if path.exists() && !self.overwrite {
                return Err(Error::Usage(format!(
                    "{} holds samples drawn otherwise (samples.json tells how); --overwrite replaces them",
                    folder.display()
                )));
            }
            // Only what an earlier call wrote is removed, image by image.
            for name in ["grid.png", "samples.gif", "samples.safetensors"] {
                remove(&folder.join(name))?;
            }
            let entries = std::fs::read_dir(folder.join("images")).map_err(Error::io(folder))?;
            for entry in entries.flatten() {
                let path = entry.path();
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                if path.extension().is_some_and(|e| e == "png") && stem.bytes().all(|b| b.is_ascii_digit()) {
                    remove(&path)?;
                }
            }
            ncsn::file::write_atomically(&path, |out| out.write_all(json.as_bytes()))?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}

fn image_path(images: &Path, k: u64) -> PathBuf {
    images.join(format!("{k:06}.png"))
}
