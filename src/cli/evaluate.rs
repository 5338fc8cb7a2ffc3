//! `ncsn evaluate`: how good samples are.

mod args;
mod bits;
mod comparison;
mod extractor;
mod images;
mod neighbours;
mod pass;
mod report;
mod run;
mod subject;
mod sweep;
mod table;
mod test_loss;

use std::process::ExitCode;

use burn::tensor::Device;

use ncsn::data::Split;
use ncsn::device::Precision;
use ncsn::error::one_line;
use ncsn::eval::{
    Extractor, Features, ImageSet, InceptionScore, NpzContent, ResizeRule, Statistics, StatisticsFile, read_statistics,
    write_statistics,
};
use ncsn::file::remove_abandoned;
use ncsn::{Error, Result};

use super::log::Log;
use super::output::expect_free;
use super::{say, say_json, stop};
use args::{Evaluate, ExtractorKind, StatsArgs, npz_content};
pub use args::{EvaluateArgs, How, Metric};
pub use bits::BitsArgs;
pub use bits::Part;
use comparison::Comparison;
use images::{Images, Set};
use pass::Wanted;
use report::{Circumstances, Drawn, Number};
use run::Run;
use subject::Subject;

/// The seed by which torch-fidelity puts images in another order before the inception score splits them.
const SHUFFLE_SEED: u32 = 2020;

pub fn run(mut args: EvaluateArgs) -> Result<ExitCode> {
    stop::listen();
    if args.doc.is_none() && !args.overrides.is_empty() {
        let found = "another sampler (--solver, --steps, --set, --n-steps-each, --step-lr) without --doc";
        return Err(Error::unexpected(found, "the run that samples are drawn from"));
    }
    if args.metrics.is_empty() {
        args.metrics = args.default_metrics()?;
    }
    match &args.command {
        Some(Evaluate::Stats(stats)) => write_stats(stats),
        None if args.sweep => sweep::run(&args),
        None if args.test_loss => test_loss::run(&args),
        None if args.bits.bits_per_dim => bits::run(&args),
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
    let Some(extractor) = extractor::open(how, Some(given), None, &Subject::from(&images), common, &device, &mut log)?
    else {
        return Ok(interrupted());
    };
    let wanted = Wanted { statistics: true, ..Wanted::default() };
    let Some(found) = pass::run(&extractor, &images, how.batch(&device), wanted, &mut log)? else {
        return Ok(interrupted());
    };
    let statistics = found.statistics.expect("asked for").finish()?;
    remove_abandoned(output)?;
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

/// Samples that there are, or a run's checkpoint of which they are drawn.
enum Source<'a> {
    Images(Box<Samples>),
    Run(Box<Run<'a>>, u64),
}

fn evaluate(args: &EvaluateArgs) -> Result<ExitCode> {
    let common = &args.common;
    let mut log = Log::beside_output(common.verbose);
    let device = common.open_device()?;
    let (source, subject) = match (&args.samples, &args.doc) {
        (Some(given), _) => {
            let datasets = common.run.join("datasets");
            let mut images = given.open(None, &args.how.read_options(), &datasets, &mut log)?;
            if let Some(n) = args.n {
                images = images.take(n as usize)?;
            }
            let shuffle = given.may_be_sorted().then_some(SHUFFLE_SEED);
            let subject = Subject::from(&images);
            (Source::Images(Box::new(Samples { images, drawn: None, shuffle })), subject)
        }
        (None, Some(doc)) => {
            let run = Run::open(args, doc)?;
            run.check_memory()?;
            let step = args.step.unwrap_or_else(|| run.latest());
            let subject = run.subject(step)?;
            (Source::Run(Box::new(run), step), subject)
        }
        (None, None) => unreachable!("clap requires one of them"),
    };
    let of_run = match &source {
        Source::Images(_) => None,
        Source::Run(run, _) => Some(OfRun { data: &run.config.data, split: run.split() }),
    };
    // Before anything is drawn.
    let evaluation = match Evaluation::prepare(args, &subject, of_run.as_ref(), device, &mut log)? {
        Some(evaluation) => evaluation,
        None => return Ok(interrupted()),
    };
    // Refused before samples are drawn and looked at, and held until the pictures are there.
    let wants_neighbours = args.metrics.contains(&Metric::Neighbours);
    let folder = || neighbours::open_folder(&args.output, &subject.name, args.overwrite);
    let _folder = wants_neighbours.then(folder).transpose()?;
    let samples = match source {
        Source::Images(samples) => *samples,
        Source::Run(run, step) => match run.draw(step, &evaluation.device, &mut log)? {
            Some(samples) => samples,
            None => return Ok(interrupted()),
        },
    };
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

/// The run that samples are of.
struct OfRun<'a> {
    data: &'a ncsn::config::Data,
    /// The part of its data set that they are compared with.
    split: Split,
}

/// All that stays the same from one set of samples to the next.
struct Evaluation<'a> {
    args: &'a EvaluateArgs,
    device: Device,
    extractor: Extractor,
    reference: Option<Comparison>,
}

impl<'a> Evaluation<'a> {
    /// Opens the network and looks at the reference of `samples`; `None` if the user asked to stop.
    fn prepare(
        args: &'a EvaluateArgs,
        samples: &Subject,
        run: Option<&OfRun<'_>>,
        device: Device,
        log: &mut Log,
    ) -> Result<Option<Self>> {
        if samples.n < 2 {
            let name = &samples.name;
            let message = format!("{name}: found 1 image, expected at least 2 (better 10000, published: 50000)");
            return Err(Error::Usage(message));
        }
        let datasets = args.common.run.join("datasets");
        let size = samples.size;
        let side = (size[0] == size[1]).then_some(size[0]);
        let run_data = run.map(|run| run.data);
        let of_run = run.map(|run| (Set::of_run(run.data, run.split), run.data));
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
            args.check_numbers([samples.n, images.len()], &[&samples.name, images.name()])?;
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
            InceptionScore::new(samples.n, args.splits as usize, extractor.n_classes())?;
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
