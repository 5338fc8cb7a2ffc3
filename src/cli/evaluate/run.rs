//! The checkpoints of a run, and samples of each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Device;

use ncsn::checkpoint::{Saved, Weights, by_step, ensemble_steps, saved_config};
use ncsn::config::{Config, FastFid, Method, Sampling};
use ncsn::data::Split;
use ncsn::device::Precision;
use ncsn::eval::ImageSet;
use ncsn::noise::Noise;
use ncsn::{Error, Result};

use super::super::drawing::{Drawing, Pictures};
use super::super::log::Log;
use super::super::output::Existing;
use super::super::trained::{members, score_of};
use super::super::{RunFolders, memory};
use super::Samples;
use super::args::EvaluateArgs;
use super::report::Drawn;
use super::subject::Subject;

/// Images drawn at a time, where nothing says how many.
const BATCH: u64 = 100;
/// Steps that a message names.
const N_NAMED: usize = 12;

/// A run whose checkpoints are looked at.
pub struct Run<'a> {
    args: &'a EvaluateArgs,
    doc: String,
    /// Its checkpoints, by step.
    all: BTreeMap<u64, PathBuf>,
    /// RUN/evaluation/NAME
    pub folder: PathBuf,
    /// That of its newest checkpoint.
    pub config: Config,
    /// What a sweep takes from the configuration, otherwise the defaults.
    fast_fid: FastFid,
    /// Samples of each checkpoint.
    n: u64,
    /// How many of them are drawn at a time.
    batch: u64,
    /// Of how many checkpoints at most the scores are averaged.
    n_members: usize,
}

impl<'a> Run<'a> {
    /// The run `doc`, if samples of it can be drawn as the arguments say.
    pub fn open(args: &'a EvaluateArgs, doc: &str) -> Result<Self> {
        let folders = RunFolders::new(&args.common.run, doc)?;
        let all = by_step(&folders.logs)?;
        let Some(path) = all.values().next_back() else {
            return Err(Error::Usage(format!("found no checkpoint in {}", folders.logs.display())));
        };
        let weights = Weights::open(path)?;
        let config = saved_config(&weights, None)?;
        let config = config.ok_or_else(|| Error::format(path, "found weights without a configuration"))?;
        let folder = args.common.run.join("evaluation").join(doc);

        let fast_fid = if args.sweep { config.fast_fid.clone() } else { FastFid::default() };
        let n = args.n.unwrap_or(fast_fid.num_samples);
        // The published batch is meant for those who have its keys.
        let batch = if fast_fid == FastFid::default() { BATCH } else { fast_fid.batch_size };
        let batch = args.draw_batch.unwrap_or(batch).min(n);
        let n_members = args.ensemble.map_or(fast_fid.n_members(), |n| n as usize);
        args.overrides.of(&config)?;
        if n_members > 1 {
            config.check_ensemble()?;
        }
        Ok(Self { args, doc: doc.to_string(), all, folder, config, fast_fid, n, batch, n_members })
    }

    /// The step of its newest checkpoint.
    pub fn latest(&self) -> u64 {
        *self.all.keys().next_back().expect("a run that was opened has checkpoints")
    }

    /// The steps of the checkpoints from the first to the last of `ends`, unless the command line has other ends.
    pub fn steps(&self, ends: [Option<u64>; 2]) -> Result<Vec<u64>> {
        let [from, to] = [self.args.from.or(ends[0]), self.args.to.or(ends[1])];
        let (first, last) = (from.unwrap_or(0), to.unwrap_or(u64::MAX));
        if first > last {
            let found = format!("checkpoints from step {first} to {last}");
            return Err(Error::unexpected(found, "a range that is not empty (--from, --to)"));
        }
        let steps: Vec<u64> = self.all.range(first..=last).map(|(step, _)| *step).collect();
        if steps.is_empty() {
            let end = to.map_or_else(|| "on".into(), |to| format!("to {to}"));
            let found = format!("no checkpoint of {} from step {first} {end}", self.doc);
            let expected = format!("a range (--from, --to) with some of its steps {}", listed(self.all.keys()));
            return Err(Error::unexpected(found, expected));
        }
        Ok(steps)
    }

    /// The file of the checkpoint at `step`.
    pub fn path(&self, step: u64) -> Result<&Path> {
        let none = || {
            let found = format!("no checkpoint of {} at step {step}", self.doc);
            Error::unexpected(found, format!("one of its steps {}", listed(self.all.keys())))
        };
        self.all.get(&step).map(PathBuf::as_path).ok_or_else(none)
    }

    /// The part of the run's data set that a sweep compares with, if nothing is said.
    pub fn split(&self) -> Split {
        if self.args.sweep { self.config.fast_fid_split() } else { Split::Train }
    }

    /// Whether as many samples as are drawn at a time fit into memory.
    pub fn check_memory(&self) -> Result<()> {
        memory::check_ensemble(&self.config, self.n_members, self.batch, "--draw-batch", &self.args.common)
    }

    /// What samples of the checkpoint at `step` will be.
    pub fn subject(&self, step: u64) -> Result<Subject> {
        let [channels, height, width] = self.config.image_shape();
        let name = self.samples(step, &self.config)?.display().to_string();
        Ok(Subject { name, n: self.n as usize, channels, size: [height, width] })
    }

    /// The folder of samples at `step`, of a checkpoint that was configured so.
    fn samples(&self, step: u64, own: &Config) -> Result<PathBuf> {
        self.path(step)?;
        let (n, seed) = (self.n, self.args.seed);
        // Samples of another precision, step or ensemble are other samples, and lie beside these.
        let precision = match self.args.common.precision {
            precision if precision == Precision::default() => String::new(),
            other => format!("_{other}"),
        };
        let config = self.drawn_from(own)?;
        let Sampling { n_steps_each, step_lr, .. } = config.sampling;
        let steps = match (n_steps_each, step_lr) == (own.sampling.n_steps_each, own.sampling.step_lr) {
            true => String::new(),
            false => format!("_{n_steps_each}x{step_lr}"),
        };
        let steps = steps + &self.args.overrides.named(&config);
        let ensemble = if self.n_members > 1 { format!("_ensemble{}", self.n_members) } else { String::new() };
        Ok(self.folder.join(format!("step_{step}_n{n}_seed{seed}{precision}{steps}{ensemble}")))
    }

    /// What samples are drawn by, of a checkpoint that was configured so.
    fn drawn_from(&self, own: &Config) -> Result<Config> {
        self.args.overrides.of(&Config { sampling: self.fast_fid.sampling(&own.sampling), ..own.clone() })
    }

    /// Draws samples of the checkpoint at `step`, or finds those that were drawn before; `None` if the user asked to stop.
    pub fn draw(&self, step: u64, device: &Device, log: &mut Log) -> Result<Option<Samples>> {
        let common = &self.args.common;
        let newest = Saved::of(Weights::open(self.path(step)?)?, None)?;
        let folder = self.samples(step, newest.config())?;
        let members = members(&self.all, step, newest, self.n_members)?;
        let (score, digests) = score_of(&members, self.n_members > 1, device)?;
        let ema = members[0].weights().has_ema();
        let own = members[0].config().clone();
        let ensemble = match self.n_members {
            1 => Vec::new(),
            n => ensemble_steps(&self.all, step, n, own.training.snapshot_freq),
        };
        drop(members);
        let config = self.drawn_from(&own)?;
        let (n, seed) = (self.n, self.args.seed);
        let mut drawing = Drawing::new(&config, Noise::new(seed), n, || common.training_set(&config.data, log))?;
        drawing.batch = self.batch;
        drawing.existing = Existing::overwrite(self.args.overwrite);
        drawing.weights = Some(digests);
        drawing.is_verbose = self.fast_fid.verbose;
        log.info(format!("step {step}: {n} samples in {}", folder.display()));
        if drawing.to_folder(&score, device, &folder, &Pictures::still(), log)? != ExitCode::SUCCESS {
            return Ok(None);
        }
        let images = ImageSet::open(&folder, &self.args.how.read_options())?;
        // A solver tells its own.
        let n_steps = config.sampling.n_steps.filter(|_| config.sampling.method != Method::Solver);
        let drawn = Drawn { seed, checkpoint: step, ema, ensemble, how: config.sampler().into(), n_steps };
        Ok(Some(Samples { images, drawn: Some(drawn), shuffle: None }))
    }

    /// All that numbers of samples of the checkpoint at `step` depend on: [`EvaluateArgs::key`] with what is not in the file of weights.
    pub fn key(&self, step: u64) -> Result<String> {
        let newest = Saved::of(Weights::open(self.path(step)?)?, None)?;
        let own = newest.config().clone();
        let has_header = newest.weights().header().is_some();
        let members = members(&self.all, step, newest, self.n_members)?;
        let digests: Vec<String> = members.iter().map(|member| member.weights().digest()).collect();
        let mut key = self.args.key(&digests.join("+"), self.n);
        // Of our own files the weights' digest is that of the configuration, too.
        let config = self.drawn_from(&own)?;
        if config.sampling != own.sampling || !has_header {
            key += &format!(" sampler={:?}", config.sampler());
            key += &config.sampling.n_steps.map_or_else(String::new, |n| format!(" steps={n}"));
            key += if config.sampling.data_init { " data_init" } else { "" };
        }
        if self.n_members > 1 {
            key += " ensemble";
        }
        if self.args.reference.is_none() && self.split() == Split::Test {
            key += " split=test";
        }
        Ok(key)
    }
}

/// The first and the last of some steps.
fn listed<'a>(steps: impl ExactSizeIterator<Item = &'a u64> + DoubleEndedIterator + Clone) -> String {
    let names = |steps: &mut dyn Iterator<Item = &'a u64>| steps.map(u64::to_string).collect::<Vec<_>>().join(", ");
    match steps.len() {
        n if n <= N_NAMED => names(&mut steps.clone()),
        n => {
            let last = steps.clone().next_back().map_or_else(String::new, u64::to_string);
            format!("{}, …, {last} ({n} in all)", names(&mut steps.clone().take(N_NAMED - 2)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_steps_are_named_by_the_first_and_the_last() {
        let steps = |n: u64| (1..=n).map(|k| 5 * k).collect::<Vec<u64>>();
        assert_eq!(listed(steps(3).iter()), "5, 10, 15");
        assert_eq!(listed(steps(60).iter()), "5, 10, 15, 20, 25, 30, 35, 40, 45, 50, …, 300 (60 in all)");
    }
}
