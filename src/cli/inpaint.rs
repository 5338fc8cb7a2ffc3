//! `ncsn inpaint`: completes images of which a part is hidden.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;

use burn::module::Module as _;
use burn::tensor::Tensor;
use clap::Args;

use ncsn::config::{Data, Dataset};
use ncsn::data::folder::{Folder, read_image};
use ncsn::data::transform::{logit, sigmoid};
use ncsn::data::{Pixels, Source, Split};
use ncsn::device;
use ncsn::image::{grid, to_u8, write_png};
use ncsn::net::params::upload;
use ncsn::noise::Noise;
use ncsn::sample::{annealed_steps, completion_chain};
use ncsn::{Error, Result};

use super::log::Log;
use super::progress::Progress;
use super::sample::positive;
use super::train::create_folder;
use super::trained::Trained;
use super::{Common, DEFAULT_SEED, data, memory, noise_levels, stop};

#[derive(Debug, Args)]
pub struct InpaintArgs {
    #[command(flatten)]
    trained: Trained,
    /// A folder of images, or the name of a data set (its held-out images): MNIST, CIFAR10, SVHN, CELEBA, DIGITS
    #[arg(long, value_name = "FOLDER_OR_DATASET")]
    images: String,
    /// What is hidden and filled in: left, right, top or bottom (that half), centre (a square of half the side), random:P
    /// (each pixel with probability P), or an image file, white where it is hidden
    #[arg(long, default_value = "right", value_parser = super::parse::<Mask>)]
    mask: Mask,
    /// How many images
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    n: u64,
    /// Completions of each
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=400))]
    n_per_image: u64,
    /// Folder for the completions
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,
    /// Seed; completion k of an image is the same whatever --n and --n-per-image are
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// Langevin steps at each noise level, instead of the run's
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    n_steps_each: Option<u64>,
    /// Step size at the smallest level, instead of the run's
    #[arg(long, value_name = "ALPHA")]
    step_lr: Option<f64>,
    /// Enlarge the grid by this factor
    #[arg(long, default_value_t = 2, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=16))]
    scale: u64,
    /// Replace completions that are there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What is hidden of an image.
#[derive(Clone, Debug, PartialEq)]
enum Mask {
    Left,
    Right,
    Top,
    Bottom,
    Centre,
    Random(f64),
    File(PathBuf),
}

impl FromStr for Mask {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let error = || {
            Error::Usage(format!(
                "found mask {text:?}, expected left, right, top, bottom, centre, random:P with P between 0 and 1, or an \
                 image file"
            ))
        };
        Ok(match text {
            "left" => Self::Left,
            "right" => Self::Right,
            "top" => Self::Top,
            "bottom" => Self::Bottom,
            "centre" | "center" => Self::Centre,
            _ => match text.strip_prefix("random:") {
                Some(p) => Self::Random(p.parse().ok().filter(|p| *p > 0.0 && *p < 1.0).ok_or_else(error)?),
                None if Path::new(text).is_file() => Self::File(text.into()),
                None => return Err(error()),
            },
        })
    }
}

impl Mask {
    /// Whether each pixel of an image of `[height, width]` is hidden; the same of every image but for `random`.
    fn hidden(&self, [height, width]: [usize; 2], image: u64, noise: Noise) -> Result<Vec<bool>> {
        let inside = |i: usize, n: usize| (n / 4..n - n / 4).contains(&i);
        let pixels = (0..height * width).map(|k| (k / width, k % width));
        Ok(match self {
            Self::Left => pixels.map(|(_, x)| x < width / 2).collect(),
            Self::Right => pixels.map(|(_, x)| x >= width / 2).collect(),
            Self::Top => pixels.map(|(y, _)| y < height / 2).collect(),
            Self::Bottom => pixels.map(|(y, _)| y >= height / 2).collect(),
            Self::Centre => pixels.map(|(y, x)| inside(y, height) && inside(x, width)).collect(),
            Self::Random(p) => {
                let mut u = vec![0.0; height * width];
                noise.stream("inpaint/mask", image).uniform(&mut u);
                u.into_iter().map(|u| f64::from(u) < *p).collect()
            }
            Self::File(path) => {
                let pixels = read_image(path, 1, width)?;
                let hidden: Vec<bool> = pixels.into_iter().map(|p| p >= 128).collect();
                if hidden.iter().all(|h| *h) || !hidden.contains(&true) {
                    return Err(Error::format(
                        path,
                        "hides all pixels or none, expected a part white and a part black",
                    ));
                }
                hidden
            }
        })
    }
}

/// What hidden pixels look like in the grid.
const GREY: u8 = 128;

pub fn run(args: InpaintArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let (net, mut config, _) = args.trained.open(&args.common)?;
    if let Some(n) = args.n_steps_each {
        config.sampling.n_steps_each = n as usize;
    }
    if let Some(step_lr) = args.step_lr {
        config.sampling.step_lr = positive("--step-lr", step_lr)?;
    }
    let source = open_images(&args, &config.data, &mut log)?;
    let n_images = args.n.min(source.len() as u64);
    let grid_path = args.output.join("grid.png");
    if grid_path.exists() && !args.overwrite {
        return Err(Error::Usage(format!("{} exists; --overwrite replaces it", grid_path.display())));
    }
    memory::check_sampling(&config, args.n_per_image, "--n-per-image", &args.common)?;
    create_folder(&args.output.join("images"))?;

    let shape @ [channels, height, width] = source.shape();
    let (image_len, noise) = (channels * height * width, Noise::new(args.seed));
    let levels = noise_levels(&config)?;
    let steps = annealed_steps(&levels, config.sampling.n_steps_each, config.sampling.step_lr);
    let device = net.devices().into_iter().next().expect("a network lives somewhere");
    let n_steps = steps.len() as u64;
    let mut progress = Progress::new(&log, "step", 0, n_images * n_steps);
    // A row an image: the image, what is known of it, its completions.
    let mut rows = Vec::new();
    for image in 0..n_images {
        let mut reference_u8 = vec![0; image_len];
        source.read(image as usize, &mut reference_u8)?;
        let hidden = args.mask.hidden([height, width], image, noise)?;
        let is_hidden = |i: usize| hidden[i % (height * width)];
        let to_input = |p: &u8| {
            let x = f32::from(*p) / 255.0;
            if config.data.logit_transform { logit(x) } else { x }
        };
        let tensor = |values: Vec<f32>| upload::<4>(values, [1, channels, height, width], &device);
        let reference = tensor(reference_u8.iter().map(to_input).collect());
        let mask: Tensor<4> = tensor((0..image_len).map(|i| f32::from(u8::from(!is_hidden(i)))).collect());
        let chain =
            completion_chain(&net, &levels, steps.clone(), [mask, reference], image, 0..args.n_per_image, noise);
        let mut last = None;
        for state in chain {
            if stop::asked() {
                drop(progress);
                log.info(format!("stopped; the completions of {image} of {n_images} images are kept, without a grid"));
                return Ok(ExitCode::from(stop::INTERRUPTED));
            }
            let message = format!("image {} of {n_images}", image + 1);
            progress.update(&mut log, image * n_steps + state.n_done as u64, &message);
            last = Some(state.x);
        }
        let x = device::values(last.expect("a chain has steps"))?;
        if x.iter().any(|x| !x.is_finite()) {
            let message = "the chain has diverged: a completion is not finite (a smaller --step-lr may help)";
            return Err(Error::Usage(message.into()));
        }
        let to_pixel = |(i, x): (usize, &f32)| {
            // What is known is the image itself, without the last level's blur.
            let i = i % image_len;
            let pixel = to_u8(if config.data.logit_transform { sigmoid(*x) } else { *x });
            if is_hidden(i) { pixel } else { reference_u8[i] }
        };
        let completions: Vec<u8> = x.iter().enumerate().map(to_pixel).collect();
        for (k, completion) in completions.chunks(image_len).enumerate() {
            let name = format!("{image:06}_{k:03}.png");
            write_png(&args.output.join("images").join(name), &Pixels::from_chw(completion, shape))?;
        }
        let masked = reference_u8.iter().enumerate().map(|(i, &p)| if is_hidden(i) { GREY } else { p });
        rows.extend_from_slice(&reference_u8);
        rows.extend(masked);
        rows.extend(completions);
    }
    drop(progress);
    let columns = 2 + args.n_per_image as usize;
    write_png(&grid_path, &grid(&rows, shape, columns).enlarged(args.scale as usize))?;
    log.info(format!(
        "{} completions of each of {n_images} images in {}: grid.png (image, what is known, completions), images/",
        args.n_per_image,
        args.output.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// The images to complete, in the shape that the network was trained on.
fn open_images(args: &InpaintArgs, trained_on: &Data, log: &mut Log) -> Result<Arc<dyn Source>> {
    let Data { image_size, channels, .. } = *trained_on;
    let Some(dataset) = Dataset::named(&args.images) else {
        let known = Path::new(&args.images);
        if !known.is_dir() {
            return Err(Error::MissingData(format!("found no folder and no data set {:?}", args.images)));
        }
        return Ok(Arc::new(Folder::all(known, channels, image_size)?));
    };
    if let Some(expected) = dataset.fixed_channels().filter(|&expected| expected != channels) {
        return Err(Error::Usage(format!(
            "{} has images of {expected} channels, expected {channels}, on which the network was trained",
            dataset.name()
        )));
    }
    let data = Data { dataset, ..trained_on.clone() };
    data::open(&data, &args.common.run.join("datasets"), Split::Test, log)
}
