//! `ncsn evaluate --sweep`: samples of all checkpoints of a run, or of a range of them, in turn.

use std::process::ExitCode;

use ncsn::{Error, Result};

use super::super::log::Log;
use super::args::{EvaluateArgs, Metric};
use super::run::Run;
use super::table::{Found, Table};
use super::{Evaluation, OfRun};

pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    if args.metrics.contains(&Metric::Neighbours) {
        let message = "found --metrics neighbours with --sweep, expected metrics that are numbers";
        return Err(Error::Usage(message.into()));
    }
    let run = Run::open(args, args.doc.as_deref().expect("clap requires it"))?;
    let steps = run.steps([run.config.fast_fid.begin_ckpt, run.config.fast_fid.end_ckpt])?;
    run.check_memory()?;
    let mut log = Log::beside_output(args.common.verbose);
    let device = args.common.open_device()?;
    let table = Table::open(&run.folder, "sweep")?;
    let mut evaluation: Option<Evaluation<'_>> = None;
    table.fill(
        &steps,
        args.json,
        &mut log,
        |step| run.key(step),
        |step, log| {
            if evaluation.is_none() {
                // Before anything is drawn.
                let of_run = OfRun { data: &run.config.data, split: run.split() };
                evaluation = Evaluation::prepare(args, &run.subject(step)?, Some(&of_run), device.clone(), log)?;
            }
            let Some(evaluation) = &evaluation else { return Ok(Found::Stopped) };
            let Some(samples) = run.draw(step, &device, log)? else { return Ok(Found::Stopped) };
            let outcome = match evaluation.numbers(&samples, log) {
                // Of its samples, not of the machine.
                Err(error @ (Error::Usage(_) | Error::Unexpected { .. } | Error::Value { .. })) => {
                    return Ok(Found::Nothing(error.to_string()));
                }
                outcome => outcome?,
            };
            let Some(outcome) = outcome else { return Ok(Found::Stopped) };
            for number in &outcome.numbers {
                log.info(number.line(&outcome.all));
            }
            Ok(Found::Numbers(outcome.numbers))
        },
    )
}

impl EvaluateArgs {
    /// All that the numbers of `n` samples of a checkpoint with these weights depend on.
    pub fn key(&self, weights: &str, n: u64) -> String {
        let how = &self.how;
        format!(
            "weights={weights} n={n} seed={} reference={:?} metrics={:?} splits={} extractor={:?} inception={:?} resize={} precision={}",
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
