//! Samples of a run's checkpoints: of one, or of all of them in turn.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use ncsn::checkpoint::{Checkpoints, Weights, saved_config};
use ncsn::config::Config;
use ncsn::device::Precision;
use ncsn::eval::ImageSet;
use ncsn::file::{read_at_most, write_atomically};
use ncsn::noise::Noise;
use ncsn::plot::{self, Content, Panel};
use ncsn::{Error, Result};

use super::super::drawing::{Drawing, Pictures};
use super::super::folders::create_folder;
use super::super::lock::Lock;
use super::super::log::Log;
use super::super::memory;
use super::super::output::Existing;
use super::super::trained::Trained;
use super::super::{RunFolders, say, say_json};
use super::args::{EvaluateArgs, Metric};
use super::report::{Drawn, Number};
use super::{Evaluation, Samples, interrupted};

/// Samples of a run where nothing says how many: what NCSN and NCSNv2 chose their checkpoints by.
const DEFAULT_N: u64 = 1000;
/// Images drawn at a time.
const BATCH: u64 = 100;

/// A run whose checkpoints are looked at.
pub struct Run<'a> {
    args: &'a EvaluateArgs,
    doc: String,
    checkpoints: Checkpoints,
    /// RUN/evaluation/NAME
    folder: PathBuf,
    /// That of its newest checkpoint.
    pub config: Config,
}

impl<'a> Run<'a> {
    pub fn open(args: &'a EvaluateArgs, doc: &str) -> Result<Self> {
        let folders = RunFolders::new(&args.common.run, doc)?;
        let checkpoints = folders.checkpoints();
        let path = checkpoints.weights_path(checkpoints.latest()?);
        let weights = Weights::open(&path)?;
        let config = saved_config(&weights, None)?;
        let config = config.ok_or_else(|| Error::format(&path, "found weights without a configuration"))?;
        let folder = args.common.run.join("evaluation").join(doc);
        Ok(Self { args, doc: doc.to_string(), checkpoints, folder, config })
    }

    /// The step of its newest checkpoint.
    pub fn latest(&self) -> Result<u64> {
        self.checkpoints.latest()
    }

    /// Draws samples of the checkpoint at `step`, or finds those that were drawn before; `None` if the user asked to stop.
    pub fn draw(&self, step: u64, device: &Device, log: &mut Log) -> Result<Option<Samples>> {
        let trained = Trained { doc: Some(self.doc.clone()), checkpoint: None, config: None, step: Some(step) };
        let (saved, model) = trained.open_on(&self.args.common, device)?;
        let config = saved.config();
        let (n, seed) = (self.args.n.unwrap_or(DEFAULT_N), self.args.seed);
        memory::check_sampling(config, BATCH.min(n), "--n", &self.args.common)?;
        let mut drawing =
            Drawing::new(config, Noise::new(seed), n, || self.args.common.training_set(&config.data, log))?;
        drawing.batch = BATCH.min(n);
        drawing.existing = Existing::overwrite(self.args.overwrite);
        drawing.weights = Some(saved.weights().digest());
        // Samples of another precision are other samples, and lie beside these.
        let precision = match self.args.common.precision {
            precision if precision == Precision::default() => String::new(),
            other => format!("_{other}"),
        };
        let folder = self.folder.join(format!("step_{step}_n{n}_seed{seed}{precision}"));
        log.info(format!("step {step}: {n} samples in {}", folder.display()));
        if drawing.to_folder(&model, &folder, &Pictures::still(), log)? != ExitCode::SUCCESS {
            return Ok(None);
        }
        let images = ImageSet::open(&folder, &self.args.how.read_options())?;
        let ema = config.training.ema_rate.is_some();
        let (n_steps_each, step_lr) = (config.sampling.n_steps_each, config.sampling.step_lr);
        let drawn = Drawn { seed, checkpoint: step, ema, n_steps_each, step_lr };
        Ok(Some(Samples { images, drawn: Some(drawn), shuffle: None }))
    }

    /// The MD5 of the weights at `step`.
    fn digest(&self, step: u64) -> Result<String> {
        Ok(Weights::open(&self.checkpoints.weights_path(step))?.digest())
    }
}

/// What was found at one checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    step: u64,
    /// All that the numbers depend on.
    key: String,
    numbers: Vec<Number>,
}

impl Row {
    /// Of metric `i`; not a number where it has none.
    fn value(&self, i: usize) -> f64 {
        self.numbers.get(i).map_or(f64::NAN, |number| number.value)
    }
}

/// `ncsn evaluate --sweep`
pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    if args.metrics.contains(&Metric::Neighbours) {
        let message = "found --metrics neighbours with --sweep, expected metrics that are numbers";
        return Err(Error::Usage(message.into()));
    }
    let doc = args.doc.as_deref().expect("clap requires it");
    let run = Run::open(args, doc)?;
    let mut log = Log::beside_output(args.common.verbose);
    let device = args.common.open_device()?;
    create_folder(&run.folder)?;
    let _lock = Lock::take(&run.folder)?;
    let path = run.folder.join("sweep.jsonl");
    let mut rows = read_rows(&path)?;
    let steps = run.checkpoints.steps()?;
    let mut evaluation: Option<Evaluation<'_>> = None;
    let mut failed: Vec<u64> = Vec::new();
    for &step in &steps {
        let key = args.key(&run.digest(step)?);
        if rows.iter().any(|row| row.step == step && row.key == key) {
            continue;
        }
        // Numbers of other settings or weights are no longer the checkpoint's.
        rows.retain(|row| row.step != step);
        let Some(samples) = run.draw(step, &device, &mut log)? else { return stopped(&mut log) };
        if evaluation.is_none() {
            let data = Some(&run.config.data);
            evaluation = Evaluation::prepare(args, &samples.images, data, device.clone(), &mut log)?;
        }
        let Some(evaluation) = &evaluation else { return stopped(&mut log) };
        let outcome = match evaluation.numbers(&samples, &mut log) {
            // Of one checkpoint, whose samples have no such numbers; the others' may have.
            Err(Error::Usage(message)) => {
                log.warning(format!("step {step}: {message}"));
                failed.push(step);
                continue;
            }
            outcome => outcome?,
        };
        let Some(outcome) = outcome else { return stopped(&mut log) };
        for number in &outcome.numbers {
            log.info(number.line(&outcome.all));
        }
        rows.push(Row { step, key, numbers: outcome.numbers });
        rows.sort_by_key(|row| row.step);
        write_rows(&path, &rows)?;
    }
    rows.retain(|row| steps.contains(&row.step));
    finish(&run, &rows, args.json, &mut log)?;
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let failed: Vec<String> = failed.iter().map(u64::to_string).collect();
    Err(Error::Usage(format!("found no metrics of {} checkpoints (above): steps {}", failed.len(), failed.join(", "))))
}

fn stopped(log: &mut Log) -> Result<ExitCode> {
    log.info("stopped; the same command goes on from here");
    Ok(interrupted())
}

impl EvaluateArgs {
    /// All that the numbers of a checkpoint with these weights depend on.
    fn key(&self, weights: &str) -> String {
        let how = &self.how;
        format!(
            "weights={weights} n={} seed={} reference={:?} metrics={:?} splits={} extractor={:?} inception={:?} resize={} precision={}",
            self.n.unwrap_or(DEFAULT_N),
            self.seed,
            self.reference,
            self.metrics,
            self.splits,
            how.extractor,
            how.weights,
            how.resize,
            self.common.precision
        )
    }
}

/// The rows of an earlier call. A line that is no row (the disk was full, say), or has a number that is not finite, is
/// left out, and found again.
fn read_rows(path: &Path) -> Result<Vec<Row>> {
    /// The largest file.
    const MAX_BYTES: u64 = 64 << 20;
    match read_at_most(path, MAX_BYTES) {
        Ok(bytes) => {
            let rows = bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
            Ok(rows.filter(|row: &Row| row.numbers.iter().all(|number| number.clone().finite().is_ok())).collect())
        }
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn write_rows(path: &Path, rows: &[Row]) -> Result<()> {
    write_atomically(path, |out| {
        rows.iter().try_for_each(|row| writeln!(out, "{}", serde_json::to_string(row).expect("numbers and names")))
    })
}

/// Table and plot.
fn finish(run: &Run<'_>, rows: &[Row], json: bool, log: &mut Log) -> Result<()> {
    let Some(best) = best(rows) else { return Ok(()) };
    let text = table(rows, best);
    let path = run.folder.join("sweep.md");
    write_atomically(&path, |out| out.write_all(text.as_bytes()))?;
    let columns = &rows[best].numbers;
    let panel = |(i, number): (usize, &Number)| Panel {
        title: number.metric.clone(),
        content: Content::Marked {
            x_label: "step".into(),
            y_label: number.metric.clone(),
            points: rows.iter().map(|row| (row.step as f64, row.value(i))).collect(),
            ring: Some((best, format!("best by {}: step {}", columns[0].metric, rows[best].step))),
        },
    };
    let panels: Vec<Panel> = columns.iter().enumerate().map(panel).collect();
    plot::write(&run.folder.join("sweep"), &panels, panels.len().min(3))?;
    match json {
        true => rows.iter().for_each(say_json),
        false => text.trim_end().lines().for_each(say),
    }
    log.info(format!("best by {}: step {}", columns[0].metric, rows[best].step));
    log.info(format!("sweep.md, sweep.svg, sweep.png in {}", run.folder.display()));
    Ok(())
}

/// The row with the best first number: the smallest distance, or the largest of anything else. One that is not finite
/// is never the best.
fn best(rows: &[Row]) -> Option<usize> {
    let badness = |row: &Row| {
        let first = &row.numbers[0];
        if first.is_better_small() { first.value } else { -first.value }
    };
    let rows = rows.iter().enumerate().filter(|(_, row)| row.value(0).is_finite());
    rows.min_by(|(_, a), (_, b)| badness(a).total_cmp(&badness(b))).map(|(i, _)| i)
}

/// A table in Markdown.
fn table(rows: &[Row], best: usize) -> String {
    let mut text = String::from("| step |");
    for number in &rows[best].numbers {
        let _ = write!(text, " {} |", number.metric);
    }
    text.push_str(" |\n|---:|");
    rows[best].numbers.iter().for_each(|_| text.push_str("---:|"));
    text.push_str("---|\n");
    for (i, row) in rows.iter().enumerate() {
        let _ = write!(text, "| {} |", row.step);
        for number in &row.numbers {
            let _ = write!(text, " {} |", number.shown());
        }
        text.push_str(if i == best { " **best** |\n" } else { " |\n" });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, metric: &str, value: f64) -> Row {
        let number = Number {
            metric: metric.into(),
            value,
            std: None,
            variant: None,
            is_distance: metric.starts_with("FID"),
            warnings: Vec::new(),
        };
        Row { step, key: String::new(), numbers: vec![number] }
    }

    #[test]
    fn the_best_has_the_smallest_distance_or_the_largest_score() {
        let rows = |metric| [row(10, metric, 3.0), row(20, metric, 1.0), row(30, metric, 2.0)];
        assert_eq!(best(&rows("FID-1k")), Some(1));
        assert_eq!(best(&rows("IS")), Some(0));
        assert_eq!(best(&[]), None);
        let infinite = [row(10, "FID", f64::NEG_INFINITY), row(20, "FID", f64::NAN), row(30, "FID", 7.0)];
        assert_eq!(best(&infinite), Some(2));
        assert_eq!(best(&infinite[..2]), None);
        assert_eq!(best(&[row(10, "IS", f64::INFINITY), row(20, "IS", 7.0)]), Some(1));
    }

    #[test]
    fn the_table_marks_the_best() {
        let rows = [row(10, "FID-1k", 31.25), row(20, "FID-1k", 12.5)];
        let expected = "| step | FID-1k | |\n|---:|---:|---|\n| 10 | 31.250 | |\n| 20 | 12.500 | **best** |\n";
        assert_eq!(table(&rows, 1), expected);
    }

    #[test]
    fn a_line_that_is_no_row_is_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sweep.jsonl");
        assert!(read_rows(&path).expect("none").is_empty());
        write_rows(&path, &[row(10, "IS", 1.5)]).expect("written");
        let mut text = std::fs::read_to_string(&path).expect("read");
        text.push_str(
            "{\"step\":15,\"key\":\"\",\"numbers\":[{\"metric\":\"IS\",\"value\":null}]}\n{\"step\": 20, \"ke",
        );
        std::fs::write(&path, text).expect("written");
        let rows = read_rows(&path).expect("read");
        assert_eq!((rows.len(), rows[0].step, rows[0].numbers[0].value), (1, 10, 1.5));
    }
}
