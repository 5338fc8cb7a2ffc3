//! Numbers of a run's checkpoints: as lines of JSON that a later call goes on from, a table and a plot.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use ncsn::file::{self, read_at_most, write_atomically};
use ncsn::plot::{self, Content, Panel};
use ncsn::{Error, Result};

use super::super::lock::Lock;
use super::super::log::Log;
use super::super::{folders::create_folder, say, say_json};
use super::interrupted;
use super::report::Number;

/// The checkpoints of a run in a folder, NAME.jsonl, NAME.md, NAME.svg and NAME.png, which this call alone writes.
pub struct Table {
    folder: PathBuf,
    name: &'static str,
    rows: Vec<Row>,
    _lock: Lock,
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

/// What there is to say of a checkpoint.
pub enum Found {
    /// The numbers of its row.
    Numbers(Vec<Number>),
    /// It has no such numbers, and why; the others may have.
    Nothing(String),
    /// The user asked to stop.
    Stopped,
}

impl Table {
    /// That of earlier calls in `folder`.
    pub fn open(folder: &Path, name: &'static str) -> Result<Self> {
        create_folder(folder)?;
        let lock = Lock::take(folder)?;
        let rows = read_rows(&folder.join(format!("{name}.jsonl")))?;
        Ok(Self { folder: folder.to_path_buf(), name, rows, _lock: lock })
    }

    /// Fills in what `find` finds at the checkpoints of `steps`, unless it is there under the same `key`, which says all that the numbers
    /// of a checkpoint depend on; then writes table and plot, and prints the table, or with `json` its rows. A checkpoint that has no
    /// such numbers is left out, and at the end an error.
    pub fn fill(
        mut self,
        steps: &[u64],
        json: bool,
        log: &mut Log,
        key: impl Fn(u64) -> Result<String>,
        mut find: impl FnMut(u64, &mut Log) -> Result<Found>,
    ) -> Result<ExitCode> {
        let mut failed: Vec<String> = Vec::new();
        for &step in steps {
            let key = key(step)?;
            if self.rows.iter().any(|row| row.step == step && row.key == key) {
                continue;
            }
            self.forget(step)?;
            let numbers = match find(step, log)? {
                Found::Numbers(numbers) => numbers,
                Found::Nothing(why) => {
                    log.warning(format!("step {step}: {why}"));
                    failed.push(step.to_string());
                    continue;
                }
                Found::Stopped => {
                    log.info("stopped; the same command goes on from here");
                    return Ok(interrupted());
                }
            };
            self.rows.push(Row { step, key, numbers });
            self.rows.sort_by_key(|row| row.step);
            self.save()?;
        }
        self.rows.retain(|row| steps.contains(&row.step));
        self.finish(json, log)?;
        if failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        Err(Error::Usage(format!(
            "found no metrics of {} checkpoints (above): steps {}",
            failed.len(),
            failed.join(", ")
        )))
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    /// Removes the numbers at `step`, which are of other settings or weights, and what shows them.
    fn forget(&mut self, step: u64) -> Result<()> {
        let n = self.rows.len();
        self.rows.retain(|row| row.step != step);
        if self.rows.len() == n {
            return Ok(());
        }
        self.remove_pictures()?;
        self.save()
    }

    /// Removes table and plot.
    fn remove_pictures(&self) -> Result<()> {
        ["md", "svg", "png"].iter().try_for_each(|ending| file::remove(&self.path(ending)))
    }

    fn save(&self) -> Result<()> {
        write_rows(&self.path("jsonl"), &self.rows)
    }

    /// Table and plot. Where there is nothing to show, those of an earlier call do not stay.
    fn finish(&self, json: bool, log: &mut Log) -> Result<()> {
        let (rows, name) = (&self.rows, self.name);
        let Some(best) = best(rows) else { return self.remove_pictures() };
        let text = table(rows, best);
        write_atomically(&self.path("md"), |out| out.write_all(text.as_bytes()))?;
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
        plot::write(&self.folder.join(name), &panels, panels.len().min(3))?;
        match json {
            true => rows.iter().for_each(say_json),
            false => text.trim_end().lines().for_each(say),
        }
        log.info(format!("best by {}: step {}", columns[0].metric, rows[best].step));
        log.info(format!("{name}.md, {name}.svg, {name}.png in {}", self.folder.display()));
        Ok(())
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
