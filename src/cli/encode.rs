//! `ncsn encode`: images to latents, by the probability flow.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use burn::tensor::Tensor;
use clap::Args;
use serde::Serialize;

use ncsn::checkpoint::TensorWriter;
use ncsn::data::Split;
use ncsn::device::{self, upload};
use ncsn::file::hex_sha256;
use ncsn::sample::{DormandPrince, ErrorNorm};
use ncsn::{Error, Result};

use super::common::{Common, parse};
use super::drawing::place;
use super::evaluate::Part;
use super::flow::Tolerances;
use super::latents::LATENTS;
use super::log::Log;
use super::output::{Existing, Kind, Output, Platform};
use super::progress::Progress;
use super::trained::Trained;
use super::{data, memory, stop};

/// Images of a data set, where nothing says which.
const N_IMAGES: u64 = 25;
/// The most numbers of a list.
const MAX_NUMBERS: u64 = 10_000_000;

#[derive(Debug, Args)]
pub struct EncodeArgs {
    #[command(flatten)]
    trained: Trained,
    /// A folder of images, or the name of a data set as in data.dataset, e.g. MNIST [default: the run's]
    #[arg(long, value_name = "FOLDER_OR_DATASET")]
    images: Option<String>,
    /// Which images of a data set
    #[arg(long, value_enum, default_value = "test")]
    split: Part,
    /// Numbers of the images, from 0, in the order in which they are encoded: 3,17,40..50 [default: the first 25]
    #[arg(long, value_name = "NUMBERS", value_parser = parse::<Numbers>)]
    index: Option<Numbers>,
    /// Folder for the latents
    #[arg(short = 'o', long, value_name = "DIR")]
    output: PathBuf,
    /// Images encoded at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    #[command(flatten)]
    tolerances: Tolerances,
    /// Remove the latents that are there, and encode anew
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// Numbers and ranges of numbers.
#[derive(Clone, Debug, PartialEq)]
struct Numbers(Vec<Range<u64>>);

impl Numbers {
    /// 0 to below `n`.
    fn first(n: u64) -> Self {
        Self(std::iter::once(0..n).collect())
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().cloned().flatten()
    }

    fn n(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }
}

impl FromStr for Numbers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let one = |text: &str| -> Option<Range<u64>> {
            let range = match text.split_once("..") {
                Some((start, end)) => start.parse().ok()?..end.parse().ok()?,
                None => {
                    let number: u64 = text.parse().ok()?;
                    number..number.checked_add(1)?
                }
            };
            (!range.is_empty() && range.end - range.start <= MAX_NUMBERS).then_some(range)
        };
        let numbers = text.split(',').map(|part| one(part.trim())).collect::<Option<Vec<_>>>().map(Self);
        numbers.filter(|numbers| numbers.n() <= MAX_NUMBERS).ok_or_else(|| {
            Error::Usage(format!(
                "found numbers {text:?}, expected numbers and ranges that are not empty, as 3,17,40..50"
            ))
        })
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Range { start, end }) in self.0.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match end - start {
                1 => write!(f, "{start}")?,
                _ => write!(f, "{start}..{end}")?,
            }
        }
        Ok(())
    }
}

/// What the latents depend on; see [`Kind`].
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: String,
    images: String,
    index: String,
    n: u64,
    /// Of all pixels, in the order of the latents: a SHA-256.
    images_sha256: String,
    #[serde(flatten)]
    solver: DormandPrince,
    sigmas: Vec<f64>,
    shape: [usize; 3],
    rescaled: bool,
    logit_transform: bool,
    #[serde(flatten)]
    platform: Platform,
    /// Of the published program's error norm: images of a batch depend on each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<u64>,
}

const FILE: &str = "latents.safetensors";

/// A folder of latents.
const ENCODED: Kind =
    Kind { manifest: "latents.json", free: &["images"], files: |_| vec![FILE.to_string()], neighbours: |_| false };

pub fn run(args: EncodeArgs) -> Result<ExitCode> {
    stop::listen();
    let mut log = Log::terminal(args.common.verbose);
    let (saved, model) = args.trained.open(&args.common)?;
    let mut config = saved.config().clone();
    args.tolerances.set(&mut config)?;
    let flow = config.probability_flow()?;
    memory::check_sampling(&config, args.batch, "--batch", &args.common)?;
    let (split, datasets) = (Split::from(args.split), args.common.run.join("datasets"));
    let (source, name) = match &args.images {
        Some(images) => (data::open_named(images, &config.data, &datasets, split, &mut log)?, images.clone()),
        None => (data::open(&config.data, &datasets, split, &mut log)?, config.data.dataset.label()),
    };
    let n_images = source.len() as u64;
    let index = args.index.clone().unwrap_or_else(|| Numbers::first(N_IMAGES.min(n_images)));
    if let Some(number) = index.iter().find(|&number| number >= n_images) {
        let expected = format!("numbers of the {n_images} images of {name}, 0 to {}", n_images.saturating_sub(1));
        return Err(Error::unexpected(format!("--index {number}"), expected));
    }
    let (n, range, shape) = (index.n(), config.transform().range, source.shape());
    let image_len = shape.iter().product::<usize>();
    let numbers: Vec<u64> = index.iter().collect();
    let read = |numbers: &[u64]| -> Result<Vec<u8>> {
        let mut pixels_u8 = vec![0; numbers.len() * image_len];
        let mut images = numbers.iter().zip(pixels_u8.chunks_mut(image_len));
        images.try_for_each(|(&number, image)| source.read(number as usize, image))?;
        Ok(pixels_u8)
    };
    // Of one image and the digest of those before it, so that one is in memory at a time.
    let digest = |before: String, &number: &u64| {
        let pixels_u8 = read(&[number])?;
        Ok::<_, Error>(hex_sha256(&[before.as_bytes(), &pixels_u8].concat()))
    };
    let images_sha256 = numbers.iter().try_fold(String::new(), digest)?;
    let device = place(&model);
    let manifest = Manifest {
        weights: saved.weights().digest(),
        images: format!("{name}, {}", if split == Split::Train { "train" } else { "test" }),
        index: index.to_string(),
        n,
        images_sha256,
        solver: flow.solver,
        sigmas: model.process.stds(),
        shape,
        rescaled: config.data.rescaled,
        logit_transform: config.data.logit_transform,
        platform: Platform::of(&device)?,
        batch: (flow.solver.norm == ErrorNorm::Batch).then_some(args.batch),
    };
    drop(saved);
    let output = Output::open(&args.output, ENCODED, &manifest, Existing::overwrite(args.overwrite))?;
    output.describe(&manifest)?;

    let [channels, height, width] = shape;
    let mut latents = TensorWriter::open(&output.path(FILE), LATENTS, &[n as usize, channels, height, width])?;
    let mut progress = Progress::new(&log, "image", 0, n);
    let (mut n_evaluations, mut n_done) = (Vec::new(), 0);
    for numbers in numbers.chunks(args.batch as usize) {
        let rows = n_done as usize..n_done as usize + numbers.len();
        n_done = rows.end as u64;
        if latents.has_rows(rows.clone())? {
            continue;
        }
        if stop::asked() {
            drop(progress);
            log.info(format!("stopped; {} of {n} latents are kept; the same command goes on", rows.start));
            return Ok(stop::code());
        }
        let x = read(numbers)?.into_iter().map(|p| range.forward(f32::from(p) / 255.0)).collect();
        let x: Tensor<4> = upload(x, [numbers.len(), channels, height, width], &device);
        let flowed = flow.encode(&model, &*model.process, x)?;
        let z = device::values(flowed.x)?;
        if let Some(i) = z.iter().position(|z| !z.is_finite()) {
            let found = format!("a latent of image {} that is not finite", numbers[i / image_len]);
            return Err(Error::unexpected(found, "a finite one (more training may help)"));
        }
        latents.write_rows(rows.start, &z)?;
        n_evaluations.extend(flowed.n_evaluations);
        progress.update(&mut log, n_done, &format!("of {name}"));
    }
    latents.finish()?;
    drop(progress);
    if !n_evaluations.is_empty() {
        let mean = n_evaluations.iter().sum::<usize>() as f64 / n_evaluations.len() as f64;
        log.info(format!("{mean:.1} evaluations of the score on average over {} images", n_evaluations.len()));
    }
    log.info(format!("latents of {n} images of {name} in {}", output.path(FILE).display()));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_listed_alone_and_in_ranges() {
        for (text, numbers, shown) in
            [("3", vec![3], "3"), ("3, 17,4..6", vec![3, 17, 4, 5], "3,17,4..6"), ("7..8,0", vec![7, 0], "7,0")]
        {
            let found: Numbers = text.parse().expect("numbers");
            assert_eq!((found.iter().collect::<Vec<_>>(), found.n()), (numbers.clone(), numbers.len() as u64));
            assert_eq!(found.to_string(), shown);
        }
        for text in ["", "3,", "5..5", "9..3", "-1", "a", "1..2..3", "0..99999999999", "18446744073709551615"] {
            let message = text.parse::<Numbers>().expect_err("no numbers").to_string();
            assert!(message.contains(&format!("found numbers {text:?}")), "{message}");
        }
    }
}
