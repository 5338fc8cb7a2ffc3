//! The arguments of `ncsn evaluate`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::{Args, Subcommand, ValueEnum};

use ncsn::Result;
use ncsn::eval::{ByteRule, NpzContent, ReadOptions, ResizeRule};

use super::super::common::{Common, parse};
use super::super::overrides::Overrides;
use super::super::published::DEFAULT_SEED;
use super::bits::BitsArgs;
use super::images::Images;

/// What the loss and the likelihood of images have no use for.
pub const UNUSED: [&str; 12] = [
    "reference",
    "metrics",
    "splits",
    "extractor",
    "weights",
    "set",
    "solver",
    "steps",
    "n_steps_each",
    "step_lr",
    "ensemble",
    "draw_batch",
];

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Images are a folder of image files, a folder that `ncsn sample` wrote, its samples.safetensors, a .npy or .npz array, or a data
set: mnist, cifar10-test, mnist-test:0..5000, digits, …

    ncsn evaluate samples --reference cifar10
    ncsn evaluate --doc quickstart --n 1000 --extractor small
    ncsn evaluate --doc quickstart --sweep --extractor small
    ncsn evaluate --doc quickstart --test-loss
    ncsn evaluate --doc cifar10_ddpmpp --bits-per-dim --repeats 5
    ncsn evaluate stats cifar10 -o cifar10.npz")]
pub struct EvaluateArgs {
    #[command(subcommand)]
    pub command: Option<Evaluate>,
    /// The samples
    #[arg(value_name = "IMAGES", value_parser = parse::<Images>, required_unless_present = "doc")]
    pub samples: Option<Images>,
    /// A run instead, from whose newest checkpoint samples are drawn (to RUN/evaluation/NAME, and kept)
    #[arg(long, value_name = "NAME", conflicts_with = "samples")]
    pub doc: Option<String>,
    /// The run's checkpoint at this step instead of its newest
    #[arg(long, value_name = "STEP", requires = "doc", conflicts_with = "table")]
    pub step: Option<u64>,
    /// All checkpoints of the run, one after the other: a table, a plot, the best. Of a run of NCSNv2 the keys of fast_fid choose range,
    /// number and sampling
    #[arg(long, requires = "doc", group = "table")]
    pub sweep: bool,
    /// The loss of the held-out images at all checkpoints instead, with the averaged weights: a table, a plot, the best
    #[arg(long, requires = "doc", group = "table", conflicts_with_all = UNUSED)]
    pub test_loss: bool,
    /// First step of the checkpoints [default: the run's fast_fid.begin_ckpt, or test.begin_ckpt for --test-loss; else the first]
    #[arg(long, value_name = "STEP", requires = "table")]
    pub from: Option<u64>,
    /// Last step of the checkpoints [default: the run's fast_fid.end_ckpt, or test.end_ckpt for --test-loss; else the last]
    #[arg(long, value_name = "STEP", requires = "table")]
    pub to: Option<u64>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Draw by the mean of the scores of the last N checkpoints, training.snapshot_freq steps apart, up to each: for runs without an EMA
    /// of their weights [default: 5 in a sweep if the run's fast_fid.ensemble is true, else 1]
    #[arg(long, value_name = "N", requires = "doc", value_parser = clap::value_parser!(u64).range(1..=100))]
    pub ensemble: Option<u64>,
    /// Images drawn at a time; it changes none [default: the run's fast_fid.batch_size in a sweep, else 100]
    #[arg(long, value_name = "N", requires = "doc", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub draw_batch: Option<u64>,
    /// What to compare with: images, or a .npz of statistics (mu, sigma) [default: the run's training images; in a sweep of NCSNv2's
    /// CelebA its test images]
    #[arg(long, value_name = "IMAGES|NPZ", value_parser = parse::<Images>)]
    pub reference: Option<Images>,
    /// Number of samples: the first N of a set, or N drawn from a run [default: all; 1000, or fast_fid.num_samples, for a run]. With
    /// --test-loss the number of held-out images [default: all; 10000 of a set without end]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub n: Option<u64>,
    /// Seed of samples that are drawn, or of the noise of --test-loss and --bits-per-dim
    #[arg(long, default_value_t = DEFAULT_SEED)]
    pub seed: u64,
    /// Remove the samples of a run, its likelihoods, and the pictures of neighbours, that are there, and begin anew
    #[arg(long)]
    pub overwrite: bool,
    /// The metrics, separated by commas; `kid` and those after it keep all features in memory, 8 kB an image
    /// [default: fid,is,kid as far as the reference allows]
    #[arg(long, value_enum, value_delimiter = ',')]
    pub metrics: Vec<Metric>,
    /// Splits of the inception score
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub splits: u64,
    /// Folder for the pictures of nearest neighbours
    #[arg(short = 'o', long, value_name = "DIR", default_value = "neighbours")]
    pub output: PathBuf,
    /// Print a line of JSON for each number instead
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub bits: BitsArgs,
    #[command(flatten)]
    pub how: How,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Subcommand)]
pub enum Evaluate {
    /// Write a set's statistics (mu, sigma) to a .npz that this and other programs read
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The images
    #[arg(value_name = "IMAGES", value_parser = parse::<Images>)]
    pub images: Images,
    /// The file
    #[arg(short = 'o', long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the file whatever it is; statistics are replaced anyhow
    #[arg(long)]
    pub overwrite: bool,
    /// Height and width of a data set's images [default: its own]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub size: Option<u64>,
    /// Use the first N images
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub n: Option<u64>,
    #[command(flatten)]
    pub how: How,
    #[command(flatten)]
    pub common: Common,
}

/// How images are looked at.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// The network: inception (published numbers), or small (trained here on the reference's labels, when no weights are at hand)
    #[arg(long, value_enum, default_value = "inception")]
    pub extractor: ExtractorKind,
    /// Inception's weights: pt_inception-2015-12-05-6726825d.pth, or safetensors of it [default: in RUN/weights, downloaded once]
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// How images are resized for Inception: compat (TTUR, OpenAI, torch-fidelity), pytorch-fid or clean-fid
    #[arg(long, value_name = "RULE", default_value = "compat", value_parser = parse::<ResizeRule>)]
    pub resize: ResizeRule,
    /// How floats in [0, 1] become bytes: round (NCSN) or truncate (Score-SDE)
    #[arg(long, value_name = "RULE", default_value = "round", value_parser = parse::<ByteRule>)]
    pub bytes: ByteRule,
    /// Leave out image files that cannot be read, instead of refusing the folder
    #[arg(long)]
    pub skip_broken: bool,
    /// Images looked at together [default: 16 on a processor, 64 on a GPU; test.batch_size for --test-loss]; it changes no number
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub batch: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExtractorKind {
    Inception,
    Small,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// Fréchet (inception) distance
    Fid,
    /// Inception score
    Is,
    /// Kernel (inception) distance
    Kid,
    /// Improved precision and recall
    Precision,
    /// Density and coverage
    Density,
    /// Nearest images of the reference, as pictures
    Neighbours,
}

impl How {
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions { skip_broken: self.skip_broken, byte_rule: self.bytes }
    }

    pub fn batch(&self, device: &Device) -> usize {
        let default = if ncsn::device::name(device).is_some() { 64 } else { 16 };
        self.batch.map_or(default, |n| n as usize)
    }

    /// `FID` with Inception, `FID-small` with a small network.
    pub fn named(&self, metric: &str) -> String {
        match self.extractor {
            ExtractorKind::Inception => metric.to_string(),
            ExtractorKind::Small => format!("{metric}-small"),
        }
    }
}

impl EvaluateArgs {
    /// What flags of NCSNv2's program mean: `--fast_fid` a sweep by FID, `--test` the test loss of the checkpoints.
    pub fn published(doc: String, test_loss: bool, seed: u64, overwrite: bool, common: Common) -> Self {
        Self {
            command: None,
            samples: None,
            doc: Some(doc),
            step: None,
            sweep: !test_loss,
            test_loss,
            from: None,
            to: None,
            overrides: Overrides::default(),
            ensemble: None,
            draw_batch: None,
            reference: None,
            n: None,
            seed,
            overwrite,
            metrics: vec![Metric::Fid],
            splits: 10,
            output: "neighbours".into(),
            json: false,
            bits: BitsArgs::default(),
            how: How {
                extractor: ExtractorKind::Inception,
                weights: None,
                resize: ResizeRule::default(),
                bytes: ByteRule::default(),
                skip_broken: false,
                batch: None,
            },
            common,
        }
    }

    pub fn common(&self) -> &Common {
        match &self.command {
            Some(Evaluate::Stats(args)) => &args.common,
            None => &self.common,
        }
    }

    /// All that need no folder and that the reference allows.
    pub fn default_metrics(&self) -> Result<Vec<Metric>> {
        Ok(match &self.reference {
            Some(Images::Path(path)) if npz_content(path)? == NpzContent::Statistics => vec![Metric::Fid, Metric::Is],
            Some(_) => vec![Metric::Fid, Metric::Is, Metric::Kid],
            None if self.doc.is_some() => vec![Metric::Fid, Metric::Is, Metric::Kid],
            None => vec![Metric::Is],
        })
    }

    pub fn needs_features(&self) -> bool {
        self.metrics.iter().any(|metric| !matches!(metric, Metric::Fid | Metric::Is))
    }
}

/// What a file holds that may be a `.npz`.
pub fn npz_content(path: &Path) -> Result<NpzContent> {
    let is_npz = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) && path.is_file();
    if is_npz { NpzContent::of(path) } else { Ok(NpzContent::Other) }
}
