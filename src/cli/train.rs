//! `ncsn train`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use ncsn::board::{EventWriter, JsonLines};
use ncsn::checkpoint::{Checkpoints, Header, Weights, resume_published};
use ncsn::config::{Config, Runner, Training};
use ncsn::data::{Batches, Source, Split, read_batch};
use ncsn::device::{DeviceKind, Precision};
use ncsn::file::{open_regular, remove, remove_leftovers, sync_folder};
use ncsn::image::write_png;
use ncsn::net::Network;
use ncsn::noise::Noise;
use ncsn::train::{OptimizerConfig, Report, Trainer, accuracy};
use ncsn::{Error, Result};

use super::data;
use super::drawing::{Drawing, Pictures, place};
use super::folders::create_folder;
use super::lock::Lock;
use super::log::Log;
use super::output::Existing;
use super::progress::{Progress, duration};
use super::{Common, DEFAULT_SEED, RunFolders, memory, stop};

/// How fast the shown loss follows the losses of single steps, which differ by a factor of several.
const SMOOTHING: f64 = 0.98;
/// How long losses stay on a GPU at most.
const READ_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// AnnealRunner, BaselineRunner or ScoreNetRunner (anneal, baseline, scorenet): the network, where the file leaves it
    /// open [default: anneal]; classifier trains a classifier of the file's perturbed images, for sample --classifier
    #[arg(long, value_parser = super::parse::<Runner>)]
    pub runner: Option<Runner>,
    /// YAML file: a path, a file in configs/, or a built-in name (quickstart.yml, anneal.yml, cifar10.yml, …)
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// The run's name
    #[arg(long, value_name = "NAME")]
    pub doc: String,
    /// Go on where the run stopped, with its saved configuration
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Go on from the checkpoint at this step; later ones are renamed to NAME.old [default: the newest]
    #[arg(long, value_name = "STEP", requires = "resume")]
    pub step: Option<u64>,
    /// Replace an existing run of this name
    #[arg(long)]
    pub overwrite: bool,
    /// Seed of all randomness
    /// [default: the configuration's, else 1234]
    #[arg(long)]
    pub seed: Option<u64>,
    /// A remark for the log
    #[arg(long, default_value = "")]
    pub comment: String,
    /// Override a value of the configuration, e.g. training.batch_size=64 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Do not draw samples at the end
    #[arg(long)]
    pub no_sample: bool,
    #[command(flatten)]
    pub common: Common,
}

/// One line of metrics.jsonl.
#[derive(Serialize)]
struct Metrics {
    step: u64,
    loss: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_loss: Option<f64>,
    /// Since this program started.
    seconds: f64,
    images_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
}

pub fn run(args: TrainArgs) -> Result<ExitCode> {
    stop::listen();
    let folders = RunFolders::new(&args.common.run, &args.doc)?;
    // A run that goes on is looked at under its lock; a new one's configuration is refused before its folder is made.
    let given = if args.resume { None } else { Some(load_config(&args, given_config(&args)?)?) };
    if args.resume && !folders.logs.is_dir() {
        return Err(Error::Usage(format!("found no run in {} to resume", folders.logs.display())));
    }
    let lock = Lock::take(&folders.logs)?;
    let result = run_locked(&args, &folders, &lock, given);
    if result.is_err() {
        lock.give_back();
    }
    result
}

fn run_locked(args: &TrainArgs, folders: &RunFolders, lock: &Lock, given: Option<Config>) -> Result<ExitCode> {
    // Everything that can refuse comes before `Session::begin`, where the first file of the run changes.
    let mut log = Log::kept(args.common.verbose);
    let found = Found::look(args, folders)?;
    let mut config = match given {
        Some(config) => config,
        None => saved_config(args, folders, &found)?,
    };
    let seed = choose_seed(args, &config)?;
    config.training.seed = Some(seed);
    let datasets = args.common.run.join("datasets");
    let train_set = data::open_for(&config, &datasets, Split::Train, &mut log)?;
    let test_set = data::open_for(&config, &datasets, config.data.held_out, &mut log)?;
    memory::check_training(&config, &args.common)?;
    if !config.is_classifier() {
        memory::check_sampling(&config, config.snapshot_images(), "--set sampling.snapshot_images", &args.common)?;
        memory::check_sampling(&config, config.sampling.final_images, "--set sampling.final_images", &args.common)?;
    }
    let noise = Noise::new(seed);
    let trainer = new_trainer(&config, noise, &args.common)?;
    let checkpoints = folders.checkpoints();
    let mut published_epoch = None;
    let (mut trainer, smoothed) = match &found {
        Found::Ours(steps) if args.resume => resume(args, &checkpoints, steps, config.optimizer(), trainer, &mut log)?,
        Found::Published(path) if args.resume => {
            let (trainer, epoch) = resume_published(path, &config, trainer)?;
            published_epoch = epoch.map(|epoch| (trainer.step_count(), epoch));
            log.info(format!("going on with the published program's {}", path.display()));
            (trainer, None)
        }
        _ => (trainer, None),
    };
    let step = trainer.step_count();
    log.info(format!(
        "{} images of {}, network with {} parameters, seed {seed}{}",
        count_images(&*train_set),
        config.data.dataset.name(),
        ncsn::net::params::count(trainer.net()),
        match step {
            0 if args.resume => ", without a checkpoint: starting at step 0".to_string(),
            0 => String::new(),
            step => format!(", going on at step {step}"),
        }
    ));
    if !args.comment.is_empty() {
        log.info(format!("comment: {}", args.comment));
    }

    let is_ours = matches!(found, Found::Ours(_));
    let config = &config;
    let mut session =
        Session { args, config, folders, lock, checkpoints, noise, train_set, smoothed, log, is_ours, published_epoch };
    match session.train(&mut trainer, &*test_set)? {
        Outcome::Stopped => Ok(stop::code()),
        Outcome::Finished if args.no_sample => Ok(ExitCode::SUCCESS),
        Outcome::Finished if config.is_classifier() => session.say_accuracy(&trainer, &*test_set),
        Outcome::Finished => session.draw_samples(&trainer),
    }
}

/// What a run's folder holds.
enum Found {
    Nothing,
    /// A configuration without a checkpoint.
    Begun,
    /// Checkpoints at these steps.
    Ours(Vec<u64>),
    /// The published program's checkpoint.
    Published(PathBuf),
}

impl Found {
    /// Looks, and refuses what does not go with the command.
    fn look(args: &TrainArgs, folders: &RunFolders) -> Result<Self> {
        let (checkpoints, logs) = (folders.checkpoints(), folders.logs.display());
        let steps = checkpoints.steps()?;
        let found = match folders.published() {
            _ if !steps.is_empty() => Self::Ours(steps),
            Some(path) => Self::Published(path),
            None if folders.config().exists() => Self::Begun,
            None => Self::Nothing,
        };
        let holds = match &found {
            Self::Nothing => None,
            Self::Begun => Some("no checkpoint yet".to_string()),
            Self::Ours(steps) => steps.last().map(|step| format!("a checkpoint at step {step}")),
            Self::Published(_) => Some("a checkpoint of the published program".to_string()),
        };
        match holds {
            None if args.resume => Err(Error::Usage(format!("found no run in {logs} to resume"))),
            Some(holds) if !args.resume && !args.overwrite => Err(Error::Usage(format!(
                "the run {logs} exists ({holds}); --resume goes on with it, --overwrite starts again, another --doc leaves it \
                 alone"
            ))),
            Some(_) if args.resume && matches!(found, Self::Begun) && !checkpoints.lost()?.is_empty() => {
                let step = checkpoints.lost()?[0];
                Err(Error::Usage(format!(
                    "{logs} holds the optimiser's state of step {step} without its weights, checkpoint_{step}.safetensors, so the \
                     run cannot go on; --overwrite starts again"
                )))
            }
            // Its config.yml may be the only copy.
            _ if args.step.is_some() && !matches!(found, Self::Ours(_)) => {
                Err(Error::Usage(format!("found --step, but {logs} holds no checkpoint of ours to go on from")))
            }
            _ if args.overwrite && folders.published().is_some() => Err(Error::Usage(format!(
                "{logs} holds a checkpoint of the published program, which --overwrite would leave without its configuration; \
                 move it away, or use another --doc"
            ))),
            _ => Ok(found),
        }
    }
}

/// `trainer`, fresh, at the checkpoint to go on from, and the smoothed loss there.
fn resume(
    args: &TrainArgs,
    checkpoints: &Checkpoints,
    steps: &[u64],
    optimizer: OptimizerConfig,
    trainer: Trainer<Network>,
    log: &mut Log,
) -> Result<(Trainer<Network>, Option<f64>)> {
    let newest = *steps.last().expect("a run has checkpoints");
    let step = args.step.unwrap_or(newest);
    let checkpoint = checkpoints.open(step).map_err(|error| match error {
        Error::Damaged { path, message } | Error::Format { path, message } if args.step.is_none() => {
            let is_whole = |step: &&u64| **step < newest && checkpoints.open(**step).is_ok();
            let way_out = match steps.iter().rev().find(is_whole) {
                Some(step) => format!("the checkpoint of step {step} is whole: {} --step {step}", resume_command(args)),
                None => "no earlier checkpoint can be resumed from".into(),
            };
            Error::Damaged { path, message: format!("{message}; {way_out}") }
        }
        other => other,
    })?;
    let Header { loss, precision, .. } = checkpoint.header().clone();
    let trainer = checkpoint.resume(optimizer, trainer)?;
    let now = Precision::current().to_string();
    if let Some(before) = precision.filter(|before| *before != now) {
        log.warning(format!(
            "the run was trained at --precision {before} so far and goes on at {now}: it will not be the run that it would have been"
        ));
    }
    Ok((trainer, loss))
}

/// The command that goes on with a run.
fn resume_command(args: &TrainArgs) -> String {
    let run = &args.common.run;
    let flag =
        if run == Path::new("run") { String::new() } else { format!(" --run {}", quoted(&run.display().to_string())) };
    // Another precision would give another run.
    let precision = match args.common.precision {
        precision if precision == Precision::default() => String::new(),
        other => format!(" --precision {other}"),
    };
    let device = match args.common.device {
        DeviceKind::Auto => String::new(),
        device => format!(" --device {device}"),
    };
    format!("ncsn train --doc {}{flag} --resume{precision}{device}", quoted(&args.doc))
}

/// `text` as a shell takes it for one word.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+,=".contains(c);
    if text.chars().all(is_plain) { text.to_string() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

enum Outcome {
    Finished,
    Stopped,
}

struct Session<'a> {
    args: &'a TrainArgs,
    config: &'a Config,
    folders: &'a RunFolders,
    lock: &'a Lock,
    checkpoints: Checkpoints,
    noise: Noise,
    train_set: Arc<dyn Source>,
    /// The loss, smoothed over steps; `None` before the first.
    smoothed: Option<f64>,
    log: Log,
    /// Whether the run's checkpoints are ours, so far as it has some.
    is_ours: bool,
    /// The step and epoch that a published checkpoint is at, from which the run goes on.
    published_epoch: Option<(u64, u64)>,
}

/// Where a run reports its losses.
struct Reports {
    events: EventWriter,
    metrics: JsonLines,
}

impl Session<'_> {
    fn train(&mut self, trainer: &mut Trainer<Network>, test_set: &dyn Source) -> Result<Outcome> {
        let Training { batch_size, snapshot_freq, test_freq, log_freq, .. } = self.config.training;
        let first = trainer.step_count();
        let n_steps = self.config.n_steps(self.train_set.len());
        let options = self.config.batch_options();
        let mut progress = Progress::new(&self.log, "step", first, n_steps);
        let batches = Batches::new(self.train_set.clone(), options, self.noise, "train", first);
        let mut batches = batches.take(n_steps.saturating_sub(first) as usize);
        let mut step = |trainer: &mut Trainer<Network>| {
            let begun = Instant::now();
            batches.next().map(|batch| (batch.and_then(|batch| trainer.step(batch)), begun))
        };
        let started = Instant::now();
        let mut next = step(trainer);
        match &next {
            // The first step is the last thing that can refuse: out of memory, say, or on data that cannot be read.
            Some((Err(_), _)) => return Err(next.and_then(|(report, _)| report.err()).expect("just seen")),
            Some((Ok(report), _)) if !report.is_known() => drop(report.loss()?),
            _ => {}
        }
        let Reports { mut events, mut metrics } = self.begin(first)?;
        let mut saved = self.is_ours.then_some(first).filter(|_| first > 0);
        // Checkpoints that only a resumed run needs.
        let passing_freq = self.config.training.snapshot_freq_for_preemption;
        let is_passing = |step: &u64| {
            passing_freq.is_some_and(|freq| step.is_multiple_of(freq)) && !step.is_multiple_of(snapshot_freq)
        };
        let mut passing: Vec<u64> = self.checkpoints.steps()?.into_iter().filter(is_passing).collect();
        // Checkpoints and pictures take time that is not the training's.
        let mut seconds_training = 0.0;
        if first >= n_steps {
            self.log.info(format!("the run has all of its {n_steps} steps"));
            if saved.is_none() && first > 0 {
                // From here on the run is ours, whether or not it makes another step.
                self.save(trainer, &mut events)?;
            }
        }
        let mut last_test_loss = None;
        // Steps whose losses have not been read: on a GPU that waits for them, so it is done when somebody would see it.
        let mut unread: Vec<Report> = Vec::new();
        let mut last_read = Instant::now();
        while let Some((report, begun)) = next.take().or_else(|| step(trainer)) {
            let report = match report {
                Ok(report) => report,
                Err(error @ Error::NotFinite { .. }) => {
                    drop(progress);
                    return Err(self.lost(error, saved));
                }
                Err(error) => {
                    if saved != Some(trainer.step_count()) {
                        self.save(trainer, &mut events)?;
                    }
                    return Err(error);
                }
            };
            let step = report.step;
            let stopping = stop::asked();
            let is_test_due = step.is_multiple_of(test_freq);
            let is_snapshot = step.is_multiple_of(snapshot_freq) || step == n_steps;
            let is_save_due = is_snapshot || is_passing(&step) || stopping;
            let is_known = report.is_known();
            unread.push(report);
            if !(is_known || is_test_due || is_save_due || last_read.elapsed() >= READ_EVERY) {
                seconds_training += begun.elapsed().as_secs_f64();
                continue;
            }
            let losses: Result<Vec<(u64, f64)>> =
                unread.drain(..).map(|report| Ok((report.step, report.loss()?))).collect();
            let losses = match losses {
                Ok(losses) => losses,
                Err(error) => {
                    drop(progress);
                    return Err(self.lost(error, saved));
                }
            };
            last_read = Instant::now();
            seconds_training += begun.elapsed().as_secs_f64();
            let images_per_second = ((step - first) * batch_size as u64) as f64 / seconds_training;

            let test_loss = is_test_due.then(|| self.test(trainer, test_set, &mut events)).transpose()?;
            last_test_loss = test_loss.or(last_test_loss);
            let seconds = started.elapsed().as_secs_f64();
            for (of_step, loss) in losses {
                self.smoothed = Some(self.smoothed.map_or(loss, |s| SMOOTHING * s + (1.0 - SMOOTHING) * loss));
                let test_loss = test_loss.filter(|_| of_step == step);
                if of_step.is_multiple_of(log_freq) || test_loss.is_some() {
                    events.scalar("loss", loss as f32, of_step)?;
                    let peak_mib = peak_mib();
                    metrics.write(&Metrics { step: of_step, loss, test_loss, seconds, images_per_second, peak_mib })?;
                }
            }
            let smoothed = self.smoothed.expect("a loss was read");
            progress.update(&mut self.log, step, &format!("loss {smoothed:.2}  {images_per_second:.1} images/s"));

            if is_save_due {
                self.save(trainer, &mut events)?;
                // The one before stays as long as there is no other to go back to.
                passing
                    .retain(|&old| saved.is_none_or(|before| old >= before) || self.checkpoints.remove(old).is_err());
                passing.extend(Some(step).filter(|step| is_passing(step) && !is_snapshot && !stopping));
                saved = Some(step);
                if is_snapshot && step < n_steps && !stopping {
                    self.snapshot(trainer, &mut events, &progress)?;
                }
            }
            if stopping && step < n_steps {
                drop(progress);
                let command = resume_command(self.args);
                self.log.info(format!("stopped at step {step} of {n_steps}, saved; go on with: {command}"));
                return Ok(Outcome::Stopped);
            }
        }
        drop(progress);
        if first < n_steps {
            let mut said = format!("{n_steps} steps done in {}", duration(started.elapsed().as_secs_f64()));
            let losses = [("loss", self.smoothed), ("test loss", last_test_loss)];
            for (name, loss) in losses.into_iter().filter_map(|(name, loss)| Some((name, loss?))) {
                let _ = write!(said, ", {name} {loss:.2}");
            }
            self.log.info(said);
        }
        Ok(Outcome::Finished)
    }

    /// Makes the folder that of this run: from here on files change.
    fn begin(&mut self, first: u64) -> Result<Reports> {
        self.lock.check()?;
        for name in OWN_FILES {
            let path = self.folders.logs.join(name);
            if std::fs::symlink_metadata(&path).is_ok() {
                open_regular(&path)?;
            }
        }
        if self.folders.board.exists() && !self.folders.board.is_dir() {
            return Err(Error::format(
                &self.folders.board,
                "found a file, expected the folder of TensorBoard's events",
            ));
        }
        if self.args.overwrite {
            clear(self.folders, &self.checkpoints)?;
        }
        self.checkpoints.remove_leftovers()?;
        for later in self.checkpoints.steps()?.into_iter().filter(|&step| step > first) {
            let path = self.checkpoints.set_aside(later)?;
            self.log.info(format!("the checkpoint of step {later} is now {}", path.display()));
        }
        remove_leftovers(&self.folders.logs, |name| OWN_FILES.contains(&name))?;
        save_config(&self.folders.config(), self.config)?;
        self.log.write_to(&self.folders.logs.join("stdout.txt"))?;
        Ok(Reports {
            events: EventWriter::create(&self.folders.board, self.args.resume.then_some(first))?,
            metrics: JsonLines::open(&self.folders.logs.join("metrics.jsonl"), first)?,
        })
    }

    /// Says what is left of a run whose numbers are not finite any more.
    fn lost(&mut self, error: Error, saved: Option<u64>) -> Error {
        let kept =
            saved.map_or("no checkpoint was saved yet".into(), |s| format!("the checkpoint of step {s} is kept"));
        self.log.warning(format!("{error}; {kept}"));
        error
    }

    /// The loss of a test batch, which goes to TensorBoard, perhaps with that of each noise level in it.
    fn test(&self, trainer: &Trainer<Network>, test_set: &dyn Source, events: &mut EventWriter) -> Result<f64> {
        let step = trainer.step_count();
        let index = step / self.config.training.test_freq;
        let batch = read_batch(test_set, self.config.batch_options(), self.noise, "test", index)?;
        let (objective, tag) = self.config.test_objective();
        if self.config.training.log_all_sigmas {
            for (level, loss) in trainer.test_loss_by_level(batch.clone(), &objective)? {
                events.scalar(&format!("test_loss_sigma_{level}"), loss as f32, step)?;
            }
        }
        let loss = trainer.test_loss(batch, &objective)?;
        events.scalar(tag, loss as f32, step)?;
        Ok(loss)
    }

    fn save(&mut self, trainer: &Trainer<Network>, events: &mut EventWriter) -> Result<()> {
        self.lock.check()?;
        events.flush()?;
        let step = trainer.step_count();
        let published = self.published_epoch.filter(|(of_step, _)| *of_step == step).map(|(_, epoch)| epoch);
        let header = Header {
            step,
            seed: self.noise.seed(),
            loss: self.smoothed,
            optimizer_steps: trainer.optimizer().n_steps(),
            config: self.config.to_yaml(),
            precision: Some(Precision::current().to_string()),
            epoch: Some(published.unwrap_or_else(|| self.config.epoch(step, self.train_set.len()))),
            ema_updates: Header::ema_updates_of(trainer),
        };
        let path = self.checkpoints.save(trainer, &header)?;
        self.log.debug(format!("saved {}", path.display()));
        Ok(())
    }

    fn drawing(&self, n: u64) -> Result<Drawing> {
        Drawing::new(self.config, self.noise, n, || Ok(self.train_set.clone()))
    }

    /// A grid of samples for TensorBoard, and as a picture beside the run's other samples.
    fn snapshot(&mut self, trainer: &Trainer<Network>, events: &mut EventWriter, progress: &Progress) -> Result<()> {
        let n = self.config.snapshot_images();
        if n == 0 {
            return Ok(());
        }
        let step = trainer.step_count();
        progress.say(&mut self.log, &format!("step {step}: drawing {n} samples"));
        let model = trainer.sampling_model();
        let Some(grid) = self.drawing(n)?.grid_only(&model, &place(&model))? else { return Ok(()) };
        self.lock.check()?;
        create_folder(&self.folders.samples)?;
        let path = self.folders.samples.join(format!("step_{step}.png"));
        write_png(&path, &grid)?;
        report_picture(events, &path, step)
    }

    /// Says how good a classifier is, of images with more and more noise.
    fn say_accuracy(&mut self, trainer: &Trainer<Network>, test_set: &dyn Source) -> Result<ExitCode> {
        /// Images of each time.
        const N: usize = 1000;
        let (model, transform) = (trainer.sampling_model(), self.config.transform());
        let n = N.min(test_set.len());
        let [first, last] = model.process.times();
        for part in [0.0, 0.25, 0.5, 0.75] {
            if stop::asked() {
                return Ok(stop::code());
            }
            let t = first + part * (last - first);
            let share = accuracy(&model, test_set, transform, self.noise, t, n)?;
            let std = model.process.marginal(t).std;
            self.log.info(format!(
                "of {n} held-out images {:.1} % are classified correctly at a noise of {std:.2}",
                100.0 * share
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn draw_samples(&mut self, trainer: &Trainer<Network>) -> Result<ExitCode> {
        let n = self.config.sampling.final_images;
        let mut drawing = self.drawing(n)?;
        // Those of a run of this name that was overwritten are not this one's.
        drawing.existing = Existing::ReplaceOthers;
        drawing.weights = Some(Weights::open(&self.checkpoints.weights_path(trainer.step_count()))?.digest());
        let pictures = Pictures::of(&self.config.sampling);
        self.lock.check()?;
        let folder = self.folders.samples.join(format!("step_{}", trainer.step_count()));
        let model = trainer.sampling_model();
        let code = drawing.to_folder(&model, &place(&model), &folder, &pictures, &mut self.log)?;
        if code != ExitCode::SUCCESS {
            self.log.info(format!("go on with: {}", resume_command(self.args)));
        } else {
            let mut events = EventWriter::create(&self.folders.board, None)?;
            report_picture(&mut events, &folder.join("grid.png"), trainer.step_count())?;
            let trajectory = match pictures.final_only() {
                true => String::new(),
                false => format!(", the sampling trajectory: {}", folder.join("samples.gif").display()),
            };
            self.log.info(format!("{n} samples: {}{trajectory}", folder.join("grid.png").display()));
        }
        Ok(code)
    }
}

/// A PNG file, for TensorBoard.
fn report_picture(events: &mut EventWriter, path: &Path, step: u64) -> Result<()> {
    let png = std::fs::read(path).map_err(Error::io(path))?;
    events.image("samples", &png, step)?;
    events.flush()
}

/// The seed asked for, else the configuration's, else the published program's. A run that goes on keeps its own.
fn choose_seed(args: &TrainArgs, config: &Config) -> Result<u64> {
    match (args.seed, config.training.seed) {
        (Some(asked), Some(saved)) if args.resume && asked != saved => Err(Error::Usage(format!(
            "found --seed {asked}, expected none or {saved}: a run keeps the seed it began with"
        ))),
        (asked, configured) => Ok(asked.or(configured).unwrap_or(DEFAULT_SEED)),
    }
}

fn given_config(args: &TrainArgs) -> Result<&str> {
    let none = || Error::Usage("found no --config, expected one (or --resume for a run that exists)".into());
    args.config.as_deref().ok_or_else(none)
}

/// The configuration that a run was saved with, with the overrides of the command line. A file that is given too must say the same.
fn saved_config(args: &TrainArgs, folders: &RunFolders, found: &Found) -> Result<Config> {
    let path = folders.config();
    if !path.exists() {
        let left = match found {
            Found::Ours(_) => {
                "its checkpoints, of which `ncsn sample --step` still draws, are there: an --overwrite was interrupted, \
                               or the file removed; --overwrite starts again"
            }
            _ => "expected the one that the published program saved",
        };
        return Err(Error::Usage(format!("found no {}; {left}", path.display())));
    }
    let saved = load_config(args, &path.display().to_string())?;
    let Some(given) = &args.config else { return Ok(saved) };
    let mut config = load_config(args, given)?;
    // A file need not say the seed.
    config.training.seed = config.training.seed.or(saved.training.seed);
    match saved.difference(&config) {
        None => Ok(saved),
        Some(difference) => Err(Error::Usage(format!(
            "{given} is not the configuration of the run: {difference}; --resume without --config goes on as the run began, --set \
             changes single values"
        ))),
    }
}

fn load_config(args: &TrainArgs, name: &str) -> Result<Config> {
    if args.runner == Some(Runner::Toy) {
        return Err(Error::Usage("found ToyRunner, whose command is: ncsn toy".into()));
    }
    let (file, name) = Config::load(name, &args.set, args.runner)?;
    let mut config = file.images(&name)?;
    with_absolute_path(&mut config)?;
    Ok(config)
}

/// Makes the path of the data absolute: the run may go on from another folder.
pub fn with_absolute_path(config: &mut Config) -> Result<()> {
    if let Some(path) = &mut config.data.dataset.path {
        *path = std::path::absolute(&*path).map_err(Error::io(&*path))?;
        if path.to_str().is_none() {
            return Err(Error::Usage(format!("data.path {} is no UTF-8 text, which config.yml is", path.display())));
        }
    }
    Ok(())
}

/// A run before its first step.
pub fn new_trainer(config: &Config, noise: Noise, common: &Common) -> Result<Trainer<Network>> {
    let device = common.open_device()?.autodiff();
    let net = Network::new(&config.network(), &mut noise.stream("init", 0), &device)?;
    Ok(Trainer::new(config.model(net)?, config.optimizer(), config.training_options(), noise))
}

fn count_images(source: &dyn Source) -> String {
    if source.len() >= 1 << 40 { "endless".into() } else { source.len().to_string() }
}

/// Writes a run's configuration, whole or not at all.
pub fn save_config(path: &Path, config: &Config) -> Result<()> {
    ncsn::file::write_atomically(path, |out| out.write_all(config.to_yaml().as_bytes()))
}

/// The files of a run beside its checkpoints.
const OWN_FILES: [&str; 3] = ["config.yml", "metrics.jsonl", "stdout.txt"];

/// Removes what an earlier run of this name wrote, file by file: nothing that is not ours. Its configuration goes first, so that
/// what is left after a kill is not resumed.
fn clear(folders: &RunFolders, checkpoints: &Checkpoints) -> Result<()> {
    remove(&folders.config())?;
    sync_folder(&folders.config()).map_err(Error::io(&folders.logs))?;
    checkpoints.remove_all()?;
    OWN_FILES.iter().try_for_each(|name| remove(&folders.logs.join(name)))?;
    let Ok(entries) = std::fs::read_dir(&folders.board) else { return Ok(()) };
    let is_events = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().contains("tfevents"));
    entries.flatten().map(|e| e.path()).filter(is_events).try_for_each(|path| remove(&path))
}

/// The most memory this program has had resident, where the system tells.
pub fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
