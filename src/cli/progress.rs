//! How far along: a bar on a terminal, now and then a plain line otherwise.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log::{Log, Verbosity};

/// Between two plain lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Progress through a known number of units.
pub struct Progress {
    bar: ProgressBar,
    on_terminal: bool,
    unit: &'static str,
    started: Instant,
    n_total: u64,
    n_before: u64,
    last_line: Option<Instant>,
}

impl Progress {
    /// From `n_done` of `n_total` units ("step", "image", …).
    pub fn new(log: &Log, unit: &'static str, n_done: u64, n_total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(n_total), ProgressDrawTarget::stderr_with_hz(8));
        if !log.shows(Verbosity::Info) {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let template = "{bar:24} {pos}/{len} {msg} ETA {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        // So that the speed counts what this program did, not what an earlier one had done.
        bar.set_position(n_done);
        bar.reset_eta();
        let on_terminal = !bar.is_hidden();
        Self { bar, on_terminal, unit, started: Instant::now(), n_total, n_before: n_done, last_line: None }
    }

    /// `n_done` units are done; `message` says the rest.
    pub fn update(&mut self, log: &mut Log, n_done: u64, message: &str) {
        if self.on_terminal {
            self.bar.set_message(message.to_string());
            self.bar.set_position(n_done);
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= INTERVAL) || n_done == self.n_total;
        if !due {
            return;
        }
        self.last_line = Some(Instant::now());
        let n_here = n_done.saturating_sub(self.n_before).max(1);
        let left = self.started.elapsed().as_secs_f64() / n_here as f64 * (self.n_total.saturating_sub(n_done)) as f64;
        let line = format!("{} {n_done}/{}  {message}  ETA {}", self.unit, self.n_total, duration(left));
        if self.on_terminal {
            log.file_only(&line);
        } else {
            log.info(line);
        }
    }

    /// Says a line without disturbing the bar.
    pub fn say(&self, log: &mut Log, line: &str) {
        self.bar.suspend(|| log.info(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// 75 s → "1m 15s".
pub fn duration(seconds: f64) -> String {
    let s = seconds.round().max(0.0) as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, _) => format!("{h}h {m:02}m"),
    }
}
