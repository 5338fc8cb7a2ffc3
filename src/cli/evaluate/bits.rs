//! `ncsn evaluate --bits-per-dim`: how probable images are to a run, by the probability flow.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ncsn::checkpoint::{Saved, Weights, Which};
use ncsn::data::{N_GREY_LEVELS, Range as PixelRange, Split};
use ncsn::error::one_line;
use ncsn::file::{read_at_most, write_atomically};
use ncsn::noise::Noise;
use ncsn::sample::{BitsPerDim, DormandPrince, ErrorNorm, MeanBits, Probes};
use ncsn::{Error, Result};

use super::super::flow::Tolerances;
use super::super::log::Log;
use super::super::output::{Existing, Kind, Output, Platform};
use super::super::progress::Progress;
use super::super::{data, memory, say, say_json, stop};
use super::args::{EvaluateArgs, UNUSED};
use super::images::{N_ENDLESS, Set};
use super::interrupted;
use super::run::Run;

/// The lines of images.
const IMAGES: &str = "images.jsonl";
/// The largest file of them.
const MAX_BYTES: u64 = 4 << 30;

/// The arguments of `--bits-per-dim`.
#[derive(Clone, Debug, Default, Args)]
pub struct BitsArgs {
    /// Bits per dimension of the run's images instead, with the averaged weights: to RUN/evaluation/NAME/bits_per_dim_…
    #[arg(long, requires = "doc", conflicts_with_all = UNUSED, conflicts_with_all = ["table", "n"])]
    pub bits_per_dim: bool,
    /// Of how many images, in a random order [default: all; 10000 of a set without end]
    #[arg(long, value_name = "N", requires = "bits_per_dim", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    images: Option<u64>,
    /// How often each image is dequantised and its likelihood estimated, each time with other noise [default: 1]
    #[arg(long, value_name = "N", requires = "bits_per_dim", value_parser = clap::value_parser!(u64).range(1..=1000))]
    repeats: Option<u64>,
    /// What the divergence is estimated with [default: rademacher]
    #[arg(long, value_enum, requires = "bits_per_dim")]
    probes: Option<ProbesName>,
    /// Which images [default: the run's eval.bpd_dataset, else test]
    #[arg(long, value_enum, requires = "bits_per_dim")]
    split: Option<Part>,
    #[command(flatten)]
    tolerances: Tolerances,
}

impl BitsArgs {
    /// What Score-SDE's program computes where its file says `enable_bpd`: of each image the mean of five passes over the test set.
    pub fn published() -> Self {
        Self { bits_per_dim: true, repeats: Some(5), ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProbesName {
    /// −1 or 1
    Rademacher,
    /// N(0, 1)
    Gaussian,
}

/// A part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Part {
    /// The images that the run was trained on
    Train,
    /// Those held out
    Test,
}

impl From<Part> for Split {
    fn from(part: Part) -> Self {
        match part {
            Part::Train => Self::Train,
            Part::Test => Self::Test,
        }
    }
}

/// What the lines depend on, see [`Kind`], and their mean.
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: String,
    images: String,
    /// How many images the set has.
    n_images: usize,
    n_grey_levels: u32,
    #[serde(flatten)]
    solver: DormandPrince,
    smallest_time: f64,
    probes: Probes,
    sigmas: Vec<f64>,
    seed: u64,
    shape: [usize; 3],
    rescaled: bool,
    logit_transform: bool,
    #[serde(flatten)]
    platform: Platform,
    /// Of the published program's error norm: images of a batch depend on each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Outcome>,
}

impl Manifest {
    /// For a line on a terminal: the levels alone may be thousands of numbers.
    fn without_levels(&self) -> Value {
        let mut json = serde_json::to_value(self).expect("a manifest is plain data");
        if let Some(json) = json.as_object_mut() {
            json.remove("sigmas");
        }
        json
    }
}

/// The mean over the images.
#[derive(Serialize)]
struct Outcome {
    bits_per_dim: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error_of_repeats: Option<f64>,
    n: u64,
    repeats: u64,
    /// Of the score, for each likelihood.
    mean_evaluations: f64,
}

/// A folder of likelihoods.
const LIKELIHOODS: Kind = Kind {
    manifest: "bits_per_dim.json",
    free: &["result"],
    files: |_| vec![IMAGES.to_string()],
    neighbours: |_| false,
};

/// One image, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    repeat: u64,
    /// Place in the random order.
    number: u64,
    /// Number of the image in its set.
    image: usize,
    bits_per_dim: f64,
    evaluations: usize,
}

pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    let (common, bits) = (&args.common, &args.bits);
    let run = Run::open(args, args.doc.as_deref().expect("clap requires it"))?;
    let step = args.step.unwrap_or_else(|| run.latest());
    let saved = Saved::of(Weights::open(run.path(step)?)?, None)?;
    let mut config = saved.config().clone();
    bits.tolerances.set(&mut config)?;
    let likelihood = config.likelihood(match bits.probes {
        Some(ProbesName::Gaussian) => Probes::Gaussian,
        Some(ProbesName::Rademacher) | None => Probes::Rademacher,
    })?;
    let device = common.open_device()?;
    let (batch, repeats) = (args.how.batch(&device) as u64, bits.repeats.unwrap_or(1));
    memory::check_likelihood(&config, batch, "--batch", common)?;

    let mut log = Log::beside_output(common.verbose);
    let split = bits.split.map_or(config.eval.bpd_dataset, Split::from);
    let source = data::open(&config.data, &common.run.join("datasets"), split, &mut log)?;
    let set = one_line(&Set::of_run(&config.data, split).name());
    let n = match bits.images {
        Some(n) if n > source.len() as u64 => {
            let found = format!("--images {n} for the {} images of {set}", source.len());
            return Err(Error::unexpected(found, "at most all of them"));
        }
        Some(n) => n,
        None if source.len() > u32::MAX as usize => N_ENDLESS as u64,
        None => source.len() as u64,
    };
    let (model, transform) = (saved.model(Which::Averaged, &device)?, config.transform());
    let mut manifest = Manifest {
        weights: saved.weights().digest(),
        images: set.clone(),
        n_images: source.len(),
        n_grey_levels: N_GREY_LEVELS,
        solver: likelihood.solver,
        smallest_time: likelihood.smallest_time,
        probes: likelihood.probes,
        sigmas: model.process.stds(),
        seed: args.seed,
        shape: config.image_shape(),
        rescaled: transform.range == PixelRange::Symmetric,
        logit_transform: transform.range == PixelRange::Logit,
        platform: Platform::of(&device)?,
        batch: (likelihood.solver.norm == ErrorNorm::Batch).then_some([batch, n]),
        result: None,
    };
    drop(saved);
    let part = if split == Split::Train { "train" } else { "test" };
    let folder = run.folder.join(format!("bits_per_dim_step_{step}_{part}_seed{}", args.seed));
    let output = Output::open(&folder, LIKELIHOODS, &manifest, Existing::overwrite(args.overwrite))?;
    output.describe(&manifest)?;

    let mut lines = Lines::open(&output.path(IMAGES))?;
    let batches = lines.missing(repeats, n, batch);
    let n_missing: u64 = batches.iter().map(|(_, numbers)| numbers.end - numbers.start).sum();
    let (n_all, mut n_done) = (repeats * n, repeats * n - n_missing);
    let mut progress = Progress::new(&log, "image", n_done, n_all);
    let bits = BitsPerDim { likelihood, range: transform.range, noise: Noise::new(args.seed) };
    for (repeat, numbers) in batches {
        if stop::asked() {
            drop(progress);
            log.info(format!("stopped; {n_done} of {n_all} likelihoods are kept; the same command goes on"));
            return Ok(interrupted());
        }
        let found = bits.of(&model, &*model.process, &*source, repeat, numbers.clone(), &device)?;
        n_done += found.len() as u64;
        lines.add(numbers.zip(found).map(|(number, found)| Line {
            repeat,
            number,
            image: found.image,
            bits_per_dim: found.bits_per_dim,
            evaluations: found.n_evaluations,
        }))?;
        progress.update(&mut log, n_done, &format!("of {set} at step {step}"));
    }
    drop(progress);

    let outcome = lines.outcome(repeats, n);
    let shown = outcome.shown(&set, &likelihood.solver, likelihood.probes);
    manifest.result = Some(outcome);
    output.describe(&manifest)?;
    match args.json {
        true => say_json(&manifest.without_levels()),
        false => say(shown),
    }
    log.info(format!("{}, {IMAGES} in {}", LIKELIHOODS.manifest, folder.display()));
    Ok(ExitCode::SUCCESS)
}

impl Outcome {
    /// In a line, with what the number depends on.
    fn shown(&self, set: &str, solver: &DormandPrince, probes: Probes) -> String {
        let Self { bits_per_dim, n, repeats, mean_evaluations, .. } = self;
        let error = |error: Option<f64>| error.map_or_else(String::new, |error| format!(" ± {error:.4}"));
        let of_repeats = match self.standard_error_of_repeats {
            Some(error) => format!("{repeats} repeats (± {error:.4})"),
            None => "1 repeat".into(),
        };
        let DormandPrince { rtol, atol, .. } = solver;
        let probes = format!("{probes:?}").to_lowercase();
        format!(
            "bits/dim {bits_per_dim:.4}{} ({n} images of {set}, {of_repeats}, {probes} probes, rtol {rtol}, atol {atol}, \
             {mean_evaluations:.1} evaluations)",
            error(self.standard_error)
        )
    }
}

/// The lines of a file, by repeat and number.
struct Lines {
    file: File,
    path: std::path::PathBuf,
    all: BTreeMap<[u64; 2], Line>,
}

impl Lines {
    /// Those of earlier calls, and their file. A line that is none, as a call leaves it that was killed, is found again.
    fn open(path: &Path) -> Result<Self> {
        let bytes = match read_at_most(path, MAX_BYTES) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            found => found?,
        };
        let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
        let lines = lines.filter(|line: &Line| line.bits_per_dim.is_finite());
        let all: BTreeMap<[u64; 2], Line> = lines.map(|line| ([line.repeat, line.number], line)).collect();
        write_atomically(path, |out| all.values().try_for_each(|line| writeln!(out, "{}", json(line))))?;
        let file = File::options().append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { file, path: path.to_path_buf(), all })
    }

    /// The batches that are not there whole.
    fn missing(&self, repeats: u64, n: u64, batch: u64) -> Vec<(u64, Range<u64>)> {
        let batches = (0..n).step_by(batch as usize).map(|start| start..(start + batch).min(n));
        let all = (0..repeats).flat_map(|repeat| batches.clone().map(move |numbers| (repeat, numbers)));
        all.filter(|(repeat, numbers)| !numbers.clone().all(|k| self.all.contains_key(&[*repeat, k]))).collect()
    }

    /// Adds a batch, which is then on the disk.
    fn add(&mut self, lines: impl Iterator<Item = Line>) -> Result<()> {
        let lines: Vec<Line> = lines.collect();
        let text: String = lines.iter().map(|line| json(line) + "\n").collect();
        let write = |file: &mut File| file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        write(&mut self.file).map_err(Error::io(&self.path))?;
        self.all.extend(lines.into_iter().map(|line| ([line.repeat, line.number], line)));
        Ok(())
    }

    /// The mean of all that was asked for.
    fn outcome(&self, repeats: u64, n: u64) -> Outcome {
        let of_image = |k| (0..repeats).map(move |repeat| &self.all[&[repeat, k]]);
        let bits: Vec<Vec<f64>> = (0..n).map(|k| of_image(k).map(|line| line.bits_per_dim).collect()).collect();
        let evaluations: usize = (0..n).flat_map(of_image).map(|line| line.evaluations).sum();
        let MeanBits { value, standard_error, standard_error_of_repeats } = MeanBits::of(&bits);
        Outcome {
            bits_per_dim: value,
            standard_error,
            standard_error_of_repeats,
            n,
            repeats,
            mean_evaluations: evaluations as f64 / (repeats * n) as f64,
        }
    }
}

fn json(line: &Line) -> String {
    serde_json::to_string(line).expect("plain numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_up_where_they_end_and_half_ones_are_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(IMAGES);
        let line = |repeat, number, bits_per_dim| Line { repeat, number, image: 7, bits_per_dim, evaluations: 20 };
        let mut lines = Lines::open(&path).expect("none");
        assert_eq!(lines.missing(1, 5, 2), [(0, 0..2), (0, 2..4), (0, 4..5)]);
        lines.add([line(0, 0, 1.0), line(0, 1, 3.0)].into_iter()).expect("written");
        let mut text = std::fs::read_to_string(&path).expect("lines");
        text.push_str("{\"repeat\":0,\"number\":2,\"ima");
        std::fs::write(&path, text).expect("written");
        let mut lines = Lines::open(&path).expect("two");
        assert_eq!(lines.missing(2, 3, 2), [(0, 2..3), (1, 0..2), (1, 2..3)]);
        lines.add([line(0, 2, 5.0)].into_iter()).expect("written");
        let lines = Lines::open(&path).expect("three");
        assert!(lines.missing(1, 3, 2).is_empty());
        let outcome = lines.outcome(1, 3);
        assert_eq!((outcome.bits_per_dim, outcome.n, outcome.mean_evaluations), (3.0, 3, 20.0));
        // √(8/2/3)
        assert!((outcome.standard_error.expect("of three") - (4.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
