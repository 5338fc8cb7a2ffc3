//! `ncsn inpaint`: completes images of which a part is hidden.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use burn::tensor::Device;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use ncsn::data::folder::read_image;
use ncsn::data::{Pixels, Range as PixelRange, Split};
use ncsn::device::{self, upload};
use ncsn::file;
use ncsn::image::{grid, read_png, to_u8, write_png};
use ncsn::noise::Noise;
use ncsn::sample::{Completions, KnownPart, Sampler, completion_chain};
use ncsn::score::Model;
use ncsn::{Error, Result};

use super::drawing::{in_stages, place};
use super::log::Log;
use super::output::{Existing, Kind, Output, Platform, numbers};
use super::overrides::Overrides;
use super::progress::Progress;
use super::trained::Trained;
use super::{Common, DEFAULT_SEED, data, memory, stop};

#[derive(Debug, Args)]
pub struct InpaintArgs {
    #[command(flatten)]
    trained: Trained,
    /// A folder of images, or the name of a data set as in data.dataset (its held-out images), e.g. MNIST
    #[arg(long, value_name = "FOLDER_OR_DATASET")]
    images: String,
    /// What is hidden and filled in: left, right, top or bottom (that half), centre (a square of half the side), random:P
    /// (each pixel with probability P), grey (the colours: of each pixel its grey is known), or an image file, white where it is hidden
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
    #[command(flatten)]
    overrides: Overrides,
    /// Enlarge the grid by this factor
    #[arg(long, default_value_t = 2, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=16))]
    scale: u64,
    /// Remove the completions that are there, and draw anew
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
    /// The colours.
    Grey,
    File(PathBuf),
}

impl FromStr for Mask {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let error = || {
            Error::Usage(format!(
                "found mask {text:?}, expected left, right, top, bottom, centre, random:P with P between 0 and 1, grey, or an \
                 image file"
            ))
        };
        Ok(match text {
            "left" => Self::Left,
            "right" => Self::Right,
            "top" => Self::Top,
            "bottom" => Self::Bottom,
            "centre" | "center" => Self::Centre,
            "grey" | "gray" => Self::Grey,
            _ => match text.strip_prefix("random:") {
                Some(p) => Self::Random(p.parse().ok().filter(|p| *p > 0.0 && *p < 1.0).ok_or_else(error)?),
                None if Path::new(text).is_file() => Self::File(text.into()),
                None => return Err(error()),
            },
        })
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("left"),
            Self::Right => f.write_str("right"),
            Self::Top => f.write_str("top"),
            Self::Bottom => f.write_str("bottom"),
            Self::Centre => f.write_str("centre"),
            Self::Random(p) => write!(f, "random:{p}"),
            Self::Grey => f.write_str("grey"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Mask {
    /// What is hidden of an image of `[height, width]`; the same of every image but for `random`.
    fn hidden(&self, [height, width]: [usize; 2], image: u64, noise: Noise) -> Result<Hidden> {
        let inside = |i: usize, n: usize| (n / 4..n - n / 4).contains(&i);
        let pixels = (0..height * width).map(|k| (k / width, k % width));
        Ok(Hidden::Pixels(match self {
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
            Self::Grey => return Ok(Hidden::Colours),
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
        }))
    }
}

/// What of an image is hidden.
enum Hidden {
    /// Some pixels, the same in all channels.
    Pixels(Vec<bool>),
    /// The colours of all pixels: the mean over the channels is known.
    Colours,
}

/// Channels of images with colours.
const N_COLOURS: usize = 3;
/// What hidden pixels look like in the grid.
const GREY: u8 = 128;

const GRID: &str = "grid.png";

/// What the files of a folder depend on; see [`Kind`].
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: String,
    images: String,
    mask: String,
    #[serde(flatten)]
    sampler: Sampler,
    sigmas: Vec<f64>,
    seed: u64,
    shape: [usize; 3],
    logit_transform: bool,
    #[serde(flatten)]
    platform: Platform,
    /// Of each image its pixels and which of them are hidden: the SHA-256.
    images_sha256: Vec<String>,
    n: u64,
    n_per_image: u64,
    scale: u64,
}

/// A folder of completions.
const COMPLETIONS: Kind = Kind {
    manifest: "completions.json",
    // The pixels of the images that both calls have are compared below.
    free: &["images", "images_sha256", "n", "n_per_image", "scale"],
    files: |manifest| {
        let count = |key| manifest.get(key).and_then(Value::as_u64).unwrap_or(0);
        let completions = format!("images/{}_{}.png", numbers(count("n"), 6), numbers(count("n_per_image"), 3));
        vec![GRID.to_string(), completions]
    },
    neighbours: |_| false,
};

/// An image and what is hidden of it.
struct Puzzle {
    reference_u8: Vec<u8>,
    hidden: Hidden,
    /// The range in which the model sees pixels.
    range: PixelRange,
}

impl Puzzle {
    /// Places in a channel.
    fn channel_len(&self) -> usize {
        match &self.hidden {
            Hidden::Pixels(hidden) => hidden.len(),
            Hidden::Colours => self.reference_u8.len() / N_COLOURS,
        }
    }

    fn sha256(&self) -> String {
        let hidden: Vec<u8> = match &self.hidden {
            Hidden::Pixels(hidden) => hidden.iter().map(|&hidden| hidden.into()).collect(),
            Hidden::Colours => Vec::new(),
        };
        file::hex_sha256(&[&self.reference_u8[..], &hidden].concat())
    }

    /// The image as the model sees it.
    fn reference(&self) -> Vec<f32> {
        self.reference_u8.iter().map(|&p| self.range.forward(f32::from(p) / 255.0)).collect()
    }

    /// What is known, of a batch with the image's shape.
    fn part(&self, shape: [usize; 4], device: &Device) -> KnownPart {
        match &self.hidden {
            Hidden::Pixels(hidden) => {
                let known = hidden.iter().cycle().take(self.reference_u8.len());
                let known = known.map(|&hidden| f32::from(u8::from(!hidden))).collect();
                KnownPart::Pixels(Box::new(upload::<4>(known, shape, device)))
            }
            Hidden::Colours => KnownPart::Grey,
        }
    }

    /// The mean of each pixel's channels.
    fn grey(&self, x: &[f32]) -> Vec<f32> {
        let len = self.channel_len();
        (0..len).map(|i| x.iter().skip(i).step_by(len).sum::<f32>() / N_COLOURS as f32).collect()
    }

    /// The picture of what is known.
    fn known_u8(&self) -> Vec<u8> {
        match &self.hidden {
            Hidden::Pixels(hidden) => {
                let pixels = self.reference_u8.iter().zip(hidden.iter().cycle());
                pixels.map(|(&p, &hidden)| if hidden { GREY } else { p }).collect()
            }
            Hidden::Colours => {
                let grey = self.grey(&self.reference());
                grey.iter().cycle().take(self.reference_u8.len()).map(|&x| to_u8(self.range.inverse(x))).collect()
            }
        }
    }

    /// The picture of a completion `x`, of which what is known is the image itself, without the last level's noise.
    fn completed_u8(&self, x: &[f32]) -> Vec<u8> {
        let pixel = |x: f32| to_u8(self.range.inverse(x));
        match &self.hidden {
            Hidden::Pixels(hidden) => {
                let pixels = x.iter().zip(&self.reference_u8).zip(hidden.iter().cycle());
                pixels.map(|((&x, &p), &hidden)| if hidden { pixel(x) } else { p }).collect()
            }
            Hidden::Colours => {
                let [known, found] = [&self.reference()[..], x].map(|x| self.grey(x));
                let shifts = known.iter().zip(&found).map(|(known, found)| known - found).collect::<Vec<_>>();
                x.iter().zip(shifts.iter().cycle()).map(|(x, shift)| pixel(x + shift)).collect()
            }
        }
    }
}

pub fn run(args: InpaintArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let (saved, model) = args.trained.open(&args.common)?;
    let config = args.overrides.of(saved.config())?;
    let model = Model { process: config.sampling_process()?, ..model };
    let datasets = args.common.run.join("datasets");
    let source = data::open_named(&args.images, &config.data, &datasets, Split::Test, &mut log)?;
    let n_images = args.n.min(source.len() as u64);
    memory::check_sampling(&config, args.n_per_image, "--n-per-image", &args.common)?;
    let shape @ [channels, height, width] = source.shape();
    if args.mask == Mask::Grey && channels != N_COLOURS {
        let found = format!("--mask grey of images of {channels} channels");
        return Err(Error::unexpected(found, "a run on images of three, whose colours are drawn"));
    }
    let (image_len, noise, range) = (channels * height * width, Noise::new(args.seed), config.transform().range);
    let puzzle = |image: u64| -> Result<Puzzle> {
        let mut reference_u8 = vec![0; image_len];
        source.read(image as usize, &mut reference_u8)?;
        Ok(Puzzle { reference_u8, hidden: args.mask.hidden([height, width], image, noise)?, range })
    };
    let puzzles = (0..n_images).map(puzzle).collect::<Result<Vec<_>>>()?;
    let sampler = config.sampler();
    let n_steps = in_stages(&sampler, &*model.process)?.n_states as u64;
    let device = place(&model);
    let manifest = Manifest {
        weights: saved.weights().digest(),
        images: args.images.clone(),
        mask: args.mask.to_string(),
        sampler: sampler.clone(),
        sigmas: model.process.stds(),
        seed: args.seed,
        shape,
        logit_transform: config.data.logit_transform,
        platform: Platform::of(&device)?,
        images_sha256: puzzles.iter().map(Puzzle::sha256).collect(),
        n: n_images,
        n_per_image: args.n_per_image,
        scale: args.scale,
    };
    let output = Output::open(&args.output, COMPLETIONS, &manifest, Existing::overwrite(args.overwrite))?;
    add_to(&output, &manifest)?;
    output.describe(&manifest)?;
    output.make_folders(&manifest)?;

    let mut progress = Progress::new(&log, "step", 0, n_images * n_steps);
    // A row an image: the image, what is known of it, its completions.
    let mut rows = Vec::new();
    for (image, puzzle) in (0..).zip(&puzzles) {
        let name = |k: u64| output.path(&format!("images/{image:06}_{k:03}.png"));
        let mut completions: Vec<u8> = Vec::new();
        // Those that are there, from a call that was stopped or asked for fewer, are not drawn again.
        let n_there = (0..args.n_per_image)
            .map_while(|k| read_png(&name(k), shape).ok())
            .map(|pixels_u8| completions.extend(pixels_u8))
            .count() as u64;
        if n_there < args.n_per_image {
            let batch = [1, channels, height, width];
            let reference = upload::<4>(puzzle.reference(), batch, &device);
            let (part, numbers) = (puzzle.part(batch, &device), n_there..args.n_per_image);
            let hidden = Completions { part, reference, renewal: config.renewal(), image, numbers: numbers.clone() };
            let chain = completion_chain(&model, &sampler, hidden, noise)?;
            let mut last = None;
            for state in chain {
                if stop::asked() {
                    drop(progress);
                    let done = format!("the completions of {image} of {n_images} images are kept, without a grid");
                    log.info(format!("stopped; {done}; the same command goes on"));
                    return Ok(stop::code());
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
            let drawn: Vec<u8> = x.chunks(image_len).flat_map(|x| puzzle.completed_u8(x)).collect();
            for (k, completion) in numbers.zip(drawn.chunks(image_len)) {
                write_png(&name(k), &Pixels::from_chw(completion, shape))?;
            }
            completions.extend(drawn);
        }
        rows.extend_from_slice(&puzzle.reference_u8);
        rows.extend(puzzle.known_u8());
        rows.extend(completions);
    }
    drop(progress);
    let columns = 2 + args.n_per_image as usize;
    write_png(&output.path(GRID), &grid(&rows, shape, columns).enlarged(args.scale as usize))?;
    log.info(format!(
        "{} completions of each of {n_images} images in {}: grid.png (image, what is known, completions), images/",
        args.n_per_image,
        args.output.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Refuses to add to completions of other images, or to more than are asked for.
fn add_to(output: &Output, manifest: &Manifest) -> Result<()> {
    let Some(earlier) = &output.earlier else { return Ok(()) };
    let refuse =
        |what: String| Err(Error::Usage(format!("{} {what}; --overwrite removes them", output.path("").display())));
    let count = |key: &str| earlier.get(key).and_then(Value::as_u64).unwrap_or(0);
    let (n, n_per_image) = (count("n"), count("n_per_image"));
    if n > manifest.n || n_per_image > manifest.n_per_image {
        return refuse(format!(
            "holds {n_per_image} completions of each of {n} images, more than the {} of {} asked for",
            manifest.n_per_image, manifest.n
        ));
    }
    let of_images: Vec<&str> =
        earlier["images_sha256"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match of_images.iter().zip(&manifest.images_sha256).all(|(was, now)| was == now) {
        true => Ok(()),
        false => refuse("holds completions of other images".into()),
    }
}
