//! `ncsn evaluate`: how good samples are.

mod extractor;
mod images;
mod neighbours;
mod pass;
mod report;
mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use clap::{Args, Subcommand, ValueEnum};

use ncsn::data::Split;
use ncsn::device::Precision;
use ncsn::error::one_line;
use ncsn::eval::sample_size::{fid_name, fid_warnings};
use ncsn::eval::{
    ByteRule, Extractor, Features, FrechetReference, ImageSet, InceptionScore, Manifold, NpzContent, ReadOptions,
    ResizeRule, RunningStatistics, Statistics, StatisticsFile, Subsets, density_coverage, expected_coverage,
    kid_by_subsets, mmd2_unbiased, precision_recall, read_pool_3, read_statistics, write_statistics,
};
use ncsn::{Error, Result};

use super::log::Log;
use super::output::expect_free;
use super::{Common, DEFAULT_SEED, say, say_json, stop};
use images::{Images, Set};
use pass::Wanted;
use report::{Circumstances, Drawn, Number, Reference};

/// Fewer samples than this a split make an inception score smaller.
const N_PER_SPLIT: usize = 5000;
/// The seed by which torch-fidelity puts images in another order before the inception score splits them.
const SHUFFLE_SEED: u32 = 2020;
/// Fewer images than this on either side say little about precision and recall.
const N_PRECISION: usize = 10_000;
/// The k of improved precision and recall, and of density and coverage.
const K_PRECISION: usize = 3;
const K_DENSITY: usize = 5;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "\
Images are a folder of image files, a folder that `ncsn sample` wrote, its samples.safetensors, a .npy or .npz array, or a data
set: mnist, cifar10-test, mnist-test:0..5000, digits, …

    ncsn evaluate samples --reference cifar10
    ncsn evaluate --doc quickstart --n 1000 --extractor small
    ncsn evaluate --doc quickstart --sweep --extractor small
    ncsn evaluate stats cifar10 -o cifar10.npz")]
pub struct EvaluateArgs {
    #[command(subcommand)]
    command: Option<Evaluate>,
    /// The samples
    #[arg(value_name = "IMAGES", value_parser = super::parse::<Images>, required_unless_present = "doc")]
    samples: Option<Images>,
    /// A run instead, from whose newest checkpoint samples are drawn (to RUN/evaluation/NAME, and kept)
    #[arg(long, value_name = "NAME", conflicts_with = "samples")]
    doc: Option<String>,
    /// The run's checkpoint at this step instead of its newest
    #[arg(long, value_name = "STEP", requires = "doc", conflicts_with = "sweep")]
    step: Option<u64>,
    /// All checkpoints of the run, one after the other: a table, a plot, the best
    #[arg(long, requires = "doc")]
    sweep: bool,
    /// What to compare with: images, or a .npz of statistics (mu, sigma) [default: the run's training images]
    #[arg(long, value_name = "IMAGES|NPZ", value_parser = super::parse::<Images>)]
    reference: Option<Images>,
    /// Number of samples: the first N of a set, or N drawn from a run [default: all; 1000 for a run]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    n: Option<u64>,
    /// Seed of samples that are drawn
    #[arg(long, default_value_t = DEFAULT_SEED)]
    seed: u64,
    /// Remove the samples of a run, and the pictures of neighbours, that are there, and draw anew
    #[arg(long)]
    overwrite: bool,
    /// The metrics, separated by commas; `kid` and those after it keep all features in memory, 8 kB an image
    /// [default: fid,is,kid as far as the reference allows]
    #[arg(long, value_enum, value_delimiter = ',')]
    metrics: Vec<Metric>,
    /// Splits of the inception score
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    splits: u64,
    /// Folder for the pictures of nearest neighbours
    #[arg(short = 'o', long, value_name = "DIR", default_value = "neighbours")]
    output: PathBuf,
    /// Print a line of JSON for each number instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Subcommand)]
enum Evaluate {
    /// Write a set's statistics (mu, sigma) to a .npz that this and other programs read
    Stats(StatsArgs),
}

#[derive(Debug, Args)]
pub struct StatsArgs {
    /// The images
    #[arg(value_name = "IMAGES", value_parser = super::parse::<Images>)]
    images: Images,
    /// The file
    #[arg(short = 'o', long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file whatever it is; statistics are replaced anyhow
    #[arg(long)]
    overwrite: bool,
    /// Height and width of a data set's images [default: its own]
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u64).range(1..=4096))]
    size: Option<u64>,
    /// Use the first N images
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    n: Option<u64>,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    common: Common,
}

/// How images are looked at.
#[derive(Clone, Debug, Args)]
struct How {
    /// The network: inception (published numbers), or small (trained here on the reference's labels, when no weights are at hand)
    #[arg(long, value_enum, default_value = "inception")]
    extractor: ExtractorKind,
    /// Inception's weights: pt_inception-2015-12-05-6726825d.pth, or safetensors of it [default: in RUN/weights, downloaded once]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// How images are resized for Inception: compat (TTUR, OpenAI, torch-fidelity), pytorch-fid or clean-fid
    #[arg(long, value_name = "RULE", default_value = "compat", value_parser = super::parse::<ResizeRule>)]
    resize: ResizeRule,
    /// How floats in [0, 1] become bytes: round (NCSN) or truncate (Score-SDE)
    #[arg(long, value_name = "RULE", default_value = "round", value_parser = super::parse::<ByteRule>)]
    bytes: ByteRule,
    /// Leave out image files that cannot be read, instead of refusing the folder
    #[arg(long)]
    skip_broken: bool,
    /// Images looked at together [default: 16 on a processor, 64 on a GPU]; it changes no number
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExtractorKind {
    Inception,
    Small,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Metric {
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
    fn read_options(&self) -> ReadOptions {
        ReadOptions { skip_broken: self.skip_broken, byte_rule: self.bytes }
    }

    fn batch(&self, device: &Device) -> usize {
        let default = if ncsn::device::name(device).is_some() { 64 } else { 16 };
        self.batch.map_or(default, |n| n as usize)
    }

    /// `FID` with Inception, `FID-small` with a small network.
    fn named(&self, metric: &str) -> String {
        match self.extractor {
            ExtractorKind::Inception => metric.to_string(),
            ExtractorKind::Small => format!("{metric}-small"),
        }
    }
}

impl EvaluateArgs {
    pub fn common(&self) -> &Common {
        match &self.command {
            Some(Evaluate::Stats(args)) => &args.common,
            None => &self.common,
        }
    }
}

pub fn run(mut args: EvaluateArgs) -> Result<ExitCode> {
    stop::listen();
    if args.metrics.is_empty() {
        args.metrics = args.default_metrics()?;
    }
    match &args.command {
        Some(Evaluate::Stats(stats)) => write_stats(stats),
        None if args.sweep => sweep::run(&args),
        None => evaluate(&args),
    }
}

fn interrupted() -> ExitCode {
    stop::code()
}

/// `ncsn evaluate stats`
fn write_stats(args: &StatsArgs) -> Result<ExitCode> {
    let StatsArgs { images: given, output, size, n, overwrite, how, common } = args;
    expect_free(output, *overwrite, |path| read_statistics(path).is_ok())?;
    let mut log = Log::beside_output(common.verbose);
    let datasets = common.run.join("datasets");
    let mut images = given.open(size.map(|size| size as usize), &how.read_options(), &datasets, &mut log)?;
    if let Some(n) = n {
        images = images.take(*n as usize)?;
    }
    let device = common.open_device()?;
    let Some(extractor) = extractor::open(how, Some(given), None, &images, common, &device, &mut log)? else {
        return Ok(interrupted());
    };
    let wanted = Wanted { statistics: true, ..Wanted::default() };
    let Some(found) = pass::run(&extractor, &images, how.batch(&device), wanted, &mut log)? else {
        return Ok(interrupted());
    };
    let statistics = found.statistics.expect("asked for").finish()?;
    write_statistics(output, &statistics_file(statistics, &extractor))?;
    log.info(format!("statistics of {} images of {} in {}", images.len(), one_line(images.name()), output.display()));
    Ok(ExitCode::SUCCESS)
}

fn statistics_file(statistics: Statistics, extractor: &Extractor) -> StatisticsFile {
    StatisticsFile {
        statistics,
        extractor: Some(extractor.name()),
        resize: extractor.resize().map(|rule| rule.label().to_string()),
        weights_sha256: Some(extractor.weights_sha256().to_string()),
    }
}

/// Samples, and how they were drawn.
struct Samples {
    images: ImageSet,
    drawn: Option<Drawn>,
    /// The seed by which they are put in another order before the inception score splits them.
    shuffle: Option<u32>,
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let common = &args.common;
    let mut log = Log::beside_output(common.verbose);
    let device = common.open_device()?;
    let (samples, run_data) = match (&args.samples, &args.doc) {
        (Some(given), _) => {
            let datasets = common.run.join("datasets");
            let mut images = given.open(None, &args.how.read_options(), &datasets, &mut log)?;
            if let Some(n) = args.n {
                images = images.take(n as usize)?;
            }
            let shuffle = given.may_be_sorted().then_some(SHUFFLE_SEED);
            (Samples { images, drawn: None, shuffle }, None)
        }
        (None, Some(doc)) => {
            let run = sweep::Run::open(args, doc)?;
            let step = match args.step {
                Some(step) => step,
                None => run.latest()?,
            };
            let Some(samples) = run.draw(step, &device, &mut log)? else { return Ok(interrupted()) };
            (samples, Some(run.config.data))
        }
        (None, None) => unreachable!("clap requires one of them"),
    };
    let evaluation = match Evaluation::prepare(args, &samples.images, run_data.as_ref(), device, &mut log)? {
        Some(evaluation) => evaluation,
        None => return Ok(interrupted()),
    };
    // Refused before the network looks at any image, and held until the pictures are there.
    let wants_neighbours = args.metrics.contains(&Metric::Neighbours);
    let folder = || neighbours::open_folder(&args.output, samples.images.name(), args.overwrite);
    let _folder = wants_neighbours.then(folder).transpose()?;
    let Some(outcome) = evaluation.numbers(&samples, &mut log)? else { return Ok(interrupted()) };
    for number in &outcome.numbers {
        match args.json {
            true => say_json(&number.json(&outcome.all)),
            false => say(number.line(&outcome.all)),
        }
    }
    if wants_neighbours && !evaluation.neighbours(&samples, &outcome, &mut log)? {
        return Ok(interrupted());
    }
    Ok(ExitCode::SUCCESS)
}

/// What was found about one set of samples.
struct Outcome {
    numbers: Vec<Number>,
    /// What they have in common.
    all: Circumstances,
    /// `[n, n_features]`, if a metric needed them.
    features: Vec<f32>,
}

/// All that stays the same from one set of samples to the next.
struct Evaluation<'a> {
    args: &'a EvaluateArgs,
    device: Device,
    extractor: Extractor,
    reference: Option<Comparison>,
}

/// What samples are compared with.
struct Comparison {
    about: Reference,
    /// With the larger half of the work done.
    frechet: Option<FrechetReference>,
    /// `[n, n_features]`, if a metric needs them.
    features: Vec<f32>,
    images: Option<ImageSet>,
    /// Images of the same data set that nothing was trained on.
    held_out: Option<ImageSet>,
    /// What should be said beside distances.
    warnings: Vec<String>,
}

impl<'a> Evaluation<'a> {
    /// Opens the network and looks at the reference; `None` if the user asked to stop.
    fn prepare(
        args: &'a EvaluateArgs,
        samples: &ImageSet,
        run_data: Option<&ncsn::config::Data>,
        device: Device,
        log: &mut Log,
    ) -> Result<Option<Self>> {
        if samples.len() < 2 {
            let name = samples.name();
            let message = format!("{name}: found 1 image, expected at least 2 (better 10000, published: 50000)");
            return Err(Error::Usage(message));
        }
        let datasets = args.common.run.join("datasets");
        let size = samples.size();
        let side = (size[0] == size[1]).then_some(size[0]);
        let of_run = run_data.map(|data| (Set::of_run(data), data));
        let given = args.reference.clone().or_else(|| of_run.as_ref().map(|(set, _)| Images::Set(set.clone())));
        let needs_reference = args.metrics.iter().any(|metric| *metric != Metric::Is);
        let Some(given) = given.filter(|_| needs_reference || args.how.extractor == ExtractorKind::Small) else {
            if needs_reference {
                let message = "found no --reference, expected images or a .npz of statistics to compare with \
                               (--metrics is needs none)";
                return Err(Error::Usage(message.into()));
            }
            let extractor = extractor::open(&args.how, None, run_data, samples, &args.common, &device, log)?;
            return Ok(extractor.map(|extractor| Self { args, device, extractor, reference: None }));
        };
        // A file of statistics, or images.
        let statistics = match &given {
            Images::Path(path) if npz_content(path)? != NpzContent::Other => Some(path.clone()),
            _ => None,
        };
        let mut open = |set: &Set| match &of_run {
            // With the size and the channels that the run has them in.
            Some((own, data)) if set.dataset == own.dataset => set.open_as(data, &datasets, log),
            _ => set.open(side, &datasets, log),
        };
        let mut held_out = None;
        let images = match (&statistics, &given) {
            (Some(_), _) => None,
            (None, Images::Set(set)) => {
                if args.metrics.contains(&Metric::Neighbours) && set.split == Split::Train {
                    let all = open(&Set { split: Split::Test, part: None, ..set.clone() })?;
                    let n = all.len().min(neighbours::N_COUNTED);
                    held_out = Some(all.take(n)?);
                }
                Some(open(set)?)
            }
            (None, Images::Path(_)) => Some(given.open(side, &args.how.read_options(), &datasets, log)?),
        };
        if args.metrics.contains(&Metric::Neighbours) {
            neighbours::check(samples, images.as_ref())?;
        }
        if let Some(images) = &images {
            args.check_numbers([samples.len(), images.len()], &[samples.name(), images.name()])?;
        }
        // Statistics and folders have no labels; perhaps the samples have.
        let labelled = args.samples.as_ref().filter(|_| !matches!(given, Images::Set(_))).unwrap_or(&given);
        let Some(extractor) =
            extractor::open(&args.how, Some(labelled), run_data, samples, &args.common, &device, log)?
        else {
            return Ok(None);
        };
        if args.metrics.contains(&Metric::Is) {
            // Refused now rather than after the reference, which may take an hour.
            InceptionScore::new(samples.len(), args.splits as usize, extractor.n_classes())?;
        }
        if !needs_reference {
            return Ok(Some(Self { args, device, extractor, reference: None }));
        }
        let reference = match (statistics, images) {
            (Some(path), _) => args.comparison_from_file(&path, samples, &extractor)?,
            (None, Some(images)) => match args.comparison_with(images, &extractor, args.how.batch(&device), log)? {
                Some(reference) => Comparison { held_out, ..reference },
                None => return Ok(None),
            },
            (None, None) => unreachable!("either was opened"),
        };
        Ok(Some(Self { args, device, extractor, reference: Some(reference) }))
    }

    /// All numbers of `samples`; `None` if the user asked to stop.
    fn numbers(&self, samples: &Samples, log: &mut Log) -> Result<Option<Outcome>> {
        let args = self.args;
        let images = &samples.images;
        let score = args.metrics.contains(&Metric::Is).then_some((args.splits as usize, samples.shuffle));
        let wanted = Wanted { statistics: args.metrics.contains(&Metric::Fid), score, features: args.needs_features() };
        let Some(found) = pass::run(&self.extractor, images, args.how.batch(&self.device), wanted, log)? else {
            return Ok(None);
        };
        let mut numbers = Vec::new();
        let features = Features::new(&found.features, self.extractor.n_features())?;
        for metric in &args.metrics {
            match (metric, &self.reference) {
                (Metric::Is, _) => {
                    let score = found.score.clone().expect("asked for");
                    numbers.push(args.inception_score(score, images.len(), samples.shuffle)?);
                }
                (Metric::Fid, Some(reference)) => {
                    let statistics = found.statistics.clone().expect("asked for");
                    numbers.push(args.frechet(reference, statistics, features)?);
                }
                (Metric::Kid, Some(reference)) => numbers.push(args.kernel(reference, features)?),
                (Metric::Precision, Some(reference)) => numbers.extend(args.precision(reference, features)?),
                (Metric::Density, Some(reference)) => numbers.extend(args.density(reference, features)?),
                (Metric::Neighbours, _) | (_, None) => {}
            }
        }
        let numbers = numbers.into_iter().map(Number::finite).collect::<Result<_>>()?;
        Ok(Some(Outcome { numbers, all: self.circumstances(samples)?, features: found.features }))
    }

    fn circumstances(&self, samples: &Samples) -> Result<Circumstances> {
        let images = &samples.images;
        Ok(Circumstances {
            samples: images.name().to_string(),
            n: images.len(),
            samples_sha256: images.digest()?,
            reference: self.reference.as_ref().map(|reference| reference.about.clone()),
            extractor: self.extractor.name(),
            resize: self.extractor.resize().map(ResizeRule::label),
            u8: images.byte_rule().map(|rule| rule.to_string()),
            precision: Precision::current().to_string(),
            weights_sha256: self.extractor.weights_sha256().to_string(),
            drawn: samples.drawn.clone(),
        })
    }

    /// Draws the pictures of nearest neighbours; `false` if the user asked to stop.
    fn neighbours(&self, samples: &Samples, outcome: &Outcome, log: &mut Log) -> Result<bool> {
        let reference = self.reference.as_ref().expect("neighbours need one");
        let images = reference.images.as_ref().expect("neighbours need images, which was checked");
        let [samples, of_reference] = [(&samples.images, &outcome.features), (images, &reference.features)]
            .map(|(images, features)| neighbours::Side { images, features });
        let search = neighbours::Search {
            extractor: &self.extractor,
            reference: of_reference,
            batch: self.args.how.batch(&self.device),
        };
        search.run(samples, reference.held_out.as_ref(), &self.args.output, log)
    }
}

impl EvaluateArgs {
    /// All that need no folder and that the reference allows.
    fn default_metrics(&self) -> Result<Vec<Metric>> {
        Ok(match &self.reference {
            Some(Images::Path(path)) if npz_content(path)? == NpzContent::Statistics => vec![Metric::Fid, Metric::Is],
            Some(_) => vec![Metric::Fid, Metric::Is, Metric::Kid],
            None if self.doc.is_some() => vec![Metric::Fid, Metric::Is, Metric::Kid],
            None => vec![Metric::Is],
        })
    }

    fn needs_features(&self) -> bool {
        self.metrics.iter().any(|metric| !matches!(metric, Metric::Fid | Metric::Is))
    }

    /// A reference of `images`; `None` if the user asked to stop.
    fn comparison_with(
        &self,
        images: ImageSet,
        extractor: &Extractor,
        batch: usize,
        log: &mut Log,
    ) -> Result<Option<Comparison>> {
        let wanted = Wanted {
            statistics: self.metrics.contains(&Metric::Fid),
            features: self.needs_features(),
            ..Wanted::default()
        };
        let (mut frechet, mut features) = (None, Vec::new());
        if wanted.statistics || wanted.features {
            let Some(found) = pass::run(extractor, &images, batch, wanted, log)? else { return Ok(None) };
            let statistics = found.statistics.map(RunningStatistics::finish).transpose()?;
            frechet = match statistics {
                Some(_) if images.len() <= extractor.n_features() => {
                    Some(FrechetReference::of_features(Features::new(&found.features, extractor.n_features())?)?)
                }
                statistics => statistics.as_ref().map(FrechetReference::new),
            };
            features = found.features;
        }
        let about = Reference {
            name: images.name().to_string(),
            n: Some(images.len() as u64),
            sha256: images.digest()?,
            is_statistics: false,
        };
        Ok(Some(Comparison { about, frechet, features, images: Some(images), held_out: None, warnings: Vec::new() }))
    }

    /// Refuses too few samples, or too few images of the reference, for the metrics asked for: before the network looks
    /// at them.
    fn check_numbers(&self, n: [usize; 2], names: &[&str; 2]) -> Result<()> {
        for metric in &self.metrics {
            let (least, what) = match metric {
                Metric::Fid => ([2, 2], "a covariance".to_string()),
                Metric::Kid => ([2, 2], "a kernel distance".to_string()),
                Metric::Precision => {
                    ([K_PRECISION + 1; 2], format!("precision and recall (more than k = {K_PRECISION})"))
                }
                Metric::Density => ([1, K_DENSITY + 1], format!("density and coverage (more than k = {K_DENSITY})")),
                Metric::Is | Metric::Neighbours => continue,
            };
            for ((n, least), name) in n.into_iter().zip(least).zip(names) {
                if n < least {
                    let name = one_line(name);
                    let message = format!("{name}: found {n} images, expected at least {least} for {what}");
                    return Err(Error::Usage(message));
                }
            }
        }
        Ok(())
    }

    /// A reference of the statistics (or features) in `path`.
    fn comparison_from_file(&self, path: &Path, samples: &ImageSet, extractor: &Extractor) -> Result<Comparison> {
        let file = read_statistics(path)?;
        let bad = |what: &str, found: &str, expected: &str| {
            let message = format!("has statistics of {what} {found}, expected those of {expected} as for the samples");
            Error::format(path, message)
        };
        if file.statistics.dim() != extractor.n_features() {
            let (found, expected) = (file.statistics.dim(), extractor.n_features());
            return Err(Error::format(path, format!("has {found} features an image, expected {expected}")));
        }
        let mut warnings = Vec::new();
        match &file.extractor {
            Some(found) if *found != extractor.name() => return Err(bad("network", found, &extractor.name())),
            _ => {}
        }
        match (&file.weights_sha256, extractor.weights_sha256()) {
            (Some(found), expected) if found != expected => return Err(bad("weights", found, expected)),
            _ => {}
        }
        match (&file.resize, extractor.resize().map(ResizeRule::label)) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(bad("images resized by", found, expected));
            }
            (None, Some(_)) => warnings.push("stats: resize rule unknown".to_string()),
            _ => {}
        }
        let n = file.statistics.n();
        let few = n.is_some_and(|n| n <= file.statistics.dim() as u64);
        let features = match self.needs_features() {
            false if few => read_pool_3(path)?.map_or_else(Vec::new, |(features, _)| features),
            false => Vec::new(),
            true => match read_pool_3(path)? {
                Some((features, _)) => features,
                None => {
                    let message = "holds mean and covariance only, which kid, precision and density cannot use: expected \
                                   images, or --metrics fid,is";
                    return Err(Error::format(path, message));
                }
            },
        };
        let about =
            Reference { name: path.display().to_string(), n, sha256: ncsn::file::sha256(path)?, is_statistics: true };
        // A file that does not say of how many images it is has their covariance, which is all that can be asked of it.
        let n_reference = n.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        self.check_numbers([samples.len(), n_reference], &[samples.name(), &about.name])?;
        let frechet = match few && !features.is_empty() {
            true => FrechetReference::of_features(Features::new(&features, extractor.n_features())?)?,
            false => FrechetReference::new(&file.statistics),
        };
        Ok(Comparison { about, frechet: Some(frechet), features, images: None, held_out: None, warnings })
    }

    fn inception_score(&self, score: InceptionScore, n: usize, shuffle: Option<u32>) -> Result<Number> {
        let score = score.finish()?;
        let n_splits = score.splits.len();
        let few = n / n_splits < N_PER_SPLIT;
        Ok(Number {
            metric: self.how.named("IS"),
            value: score.mean,
            std: Some(score.std),
            variant: Some(match shuffle {
                Some(seed) => format!("{n_splits} splits, shuffled by {seed}"),
                None => format!("{n_splits} splits"),
            }),
            is_distance: false,
            warnings: few.then(|| format!("fewer than {N_PER_SPLIT} images a split")).into_iter().collect(),
        })
    }

    /// The distance of samples with these statistics, and features if they are few.
    fn frechet(&self, reference: &Comparison, statistics: RunningStatistics, features: Features<'_>) -> Result<Number> {
        let n = statistics.n() as usize;
        let statistics = statistics.finish()?;
        let n_reference = reference.about.n.unwrap_or(u64::MAX);
        let mut warnings = fid_warnings(n as u64, statistics.dim());
        let frechet = reference.frechet.as_ref().expect("asked for");
        let metric = match self.how.extractor {
            ExtractorKind::Inception => fid_name(n as u64),
            ExtractorKind::Small => {
                // Never compared with published ones, however many there are.
                warnings.truncate(usize::from(n <= statistics.dim()));
                self.how.named("FID")
            }
        };
        if n_reference <= statistics.dim() as u64 {
            warnings.push(format!("only {n_reference} reference images: covariance singular"));
        }
        warnings.extend(reference.warnings.clone());
        let value = match n <= statistics.dim() {
            true => frechet.distance_to_few(features)?,
            false => frechet.distance(&statistics)?,
        };
        Ok(Number { metric, value, std: None, variant: None, is_distance: true, warnings })
    }

    fn kernel(&self, reference: &Comparison, features: Features<'_>) -> Result<Number> {
        let of_reference = Features::new(&reference.features, features.dim())?;
        let (metric, warnings) = (self.how.named("KID"), reference.warnings.clone());
        let subsets = Subsets::default();
        if features.n().min(of_reference.n()) < subsets.size {
            let (value, variant) = (mmd2_unbiased(features, of_reference)?, Some("all pairs".into()));
            return Ok(Number { metric, value, std: None, variant, is_distance: true, warnings });
        }
        let distance = kid_by_subsets(features, of_reference, subsets)?;
        let variant = Some(format!("{} subsets of {}", subsets.n, subsets.size));
        Ok(Number { metric, value: distance.mean, std: Some(distance.std), variant, is_distance: true, warnings })
    }

    fn precision(&self, reference: &Comparison, features: Features<'_>) -> Result<[Number; 3]> {
        let real = Manifold::new(Features::new(&reference.features, features.dim())?, K_PRECISION)?;
        let found = precision_recall(&real, &Manifold::new(features, K_PRECISION)?, K_PRECISION)?;
        let n = features.n().min(reference.features.len() / features.dim());
        let values = [("precision", found.precision), ("recall", found.recall), ("F", found.f_score())];
        Ok(values.map(|(name, value)| {
            let mut number = self.share(name, value, K_PRECISION, reference);
            // The paper's features are VGG-16's, and it has 50,000 of each.
            number.warnings.extend((n < N_PRECISION).then(|| format!("fewer than {N_PRECISION} of each")));
            number
        }))
    }

    fn density(&self, reference: &Comparison, features: Features<'_>) -> Result<[Number; 2]> {
        let real = Manifold::new(Features::new(&reference.features, features.dim())?, K_DENSITY)?;
        let found = density_coverage(&real, features, K_DENSITY)?;
        let n_real = reference.features.len() / features.dim();
        let expected = expected_coverage(n_real, features.n(), K_DENSITY);
        let mut coverage = self.share("coverage", found.coverage, K_DENSITY, reference);
        coverage.variant = Some(format!("k = {K_DENSITY}, {expected:.3} for equal distributions"));
        Ok([self.share("density", found.density, K_DENSITY, reference), coverage])
    }

    fn share(&self, name: &str, value: f64, k: usize, reference: &Comparison) -> Number {
        let variant = Some(format!("k = {k}"));
        let warnings = reference.warnings.clone();
        Number { metric: self.how.named(name), value, std: None, variant, is_distance: true, warnings }
    }
}

/// What a file holds that may be a `.npz`.
fn npz_content(path: &Path) -> Result<NpzContent> {
    let is_npz = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("npz")) && path.is_file();
    if is_npz { NpzContent::of(path) } else { Ok(NpzContent::Other) }
}
