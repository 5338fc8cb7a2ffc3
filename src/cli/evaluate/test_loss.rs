//! `ncsn evaluate --test-loss`: the loss of held-out images at all checkpoints of a run, or at a range of them.

use std::process::ExitCode;

use ncsn::checkpoint::{Saved, Weights, Which};
use ncsn::config::Config;
use ncsn::error::one_line;
use ncsn::noise::Noise;
use ncsn::train::TestLoss;
use ncsn::{Error, Result};

use super::super::log::Log;
use super::super::progress::Progress;
use super::super::{data, memory, stop};
use super::args::EvaluateArgs;
use super::images::{N_ENDLESS, Set};
use super::report::Number;
use super::run::Run;
use super::table::{Found, Table};

pub fn run(args: &EvaluateArgs) -> Result<ExitCode> {
    let common = &args.common;
    let run = Run::open(args, args.doc.as_deref().expect("clap requires it"))?;
    let keys = &run.config.test;
    let steps = run.steps([keys.begin_ckpt, keys.end_ckpt])?;
    let batch = args.how.batch.unwrap_or(keys.batch_size);
    memory::check_sampling(&run.config, batch, "--batch", common)?;
    let mut log = Log::beside_output(common.verbose);
    let source = data::open(&run.config.data, &common.run.join("datasets"), run.config.data.held_out, &mut log)?;
    let n_images = source.len();
    let set = one_line(&Set::of_run(&run.config.data, run.config.data.held_out).name());
    let n = match args.n.map(|n| usize::try_from(n).unwrap_or(usize::MAX)) {
        Some(n) if n > n_images => {
            let found = format!("--n {n} for the {n_images} images of {set}");
            return Err(Error::unexpected(found, "at most all of them"));
        }
        Some(n) => n,
        None if n_images > u32::MAX as usize => N_ENDLESS,
        None => n_images,
    };
    let device = common.open_device()?;
    let opened = |step| Saved::of(Weights::open(run.path(step)?)?, None);
    let key = |step| {
        let saved = opened(step)?;
        let (weights, seed, precision) = (saved.weights().digest(), args.seed, common.precision);
        let test = test_loss(saved.config(), seed);
        Ok(format!("weights={weights} n={n} precision={precision} set={set} {test:?}"))
    };
    Table::open(&run.folder, "test_loss")?.fill(&steps, args.json, &mut log, key, |step, log| {
        let saved = opened(step)?;
        let model = saved.model(Which::Averaged, &device)?;
        let test = test_loss(saved.config(), args.seed);
        let mut progress = Progress::new(log, "image", 0, n as u64);
        // In the order of the images, so that the sum is the same whatever the batch is.
        let mut sum = 0.0;
        for start in (0..n as u64).step_by(batch as usize) {
            if stop::asked() {
                return Ok(Found::Stopped);
            }
            let numbers = start..(start + batch).min(n as u64);
            let n_done = numbers.end;
            let losses = test.of(&model, &*source, numbers)?;
            sum = losses.into_iter().fold(sum, |sum, loss| sum + loss);
            progress.update(log, n_done, &format!("of {set} at step {step}"));
        }
        drop(progress);
        let (_, metric) = saved.config().test_objective();
        let value = sum / n as f64;
        if !value.is_finite() {
            return Ok(Found::Nothing(format!("{metric} is {value}, expected a finite number")));
        }
        let variant = Some(format!("{n} images of {set}"));
        let number =
            Number { metric: metric.into(), value, std: None, variant, is_distance: false, warnings: Vec::new() };
        log.info(format!("step {step}: {metric} {} of {n} images of {set}", number.shown()));
        Ok(Found::Numbers(vec![number]))
    })
}

/// The loss of a run that is configured so, with the noise of `seed`.
fn test_loss(config: &Config, seed: u64) -> TestLoss {
    let (objective, _) = config.test_objective();
    TestLoss { objective, transform: config.transform(), noise: Noise::new(seed) }
}
