//! Which trained network a command uses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;

use ncsn::checkpoint::{Saved, Weights, Which, by_step, ensemble_steps, newest, saved_config};
use ncsn::net::Network;
use ncsn::score::{Ensemble, Model};
use ncsn::{Error, Result};

use super::{Common, RunFolders, hint};

#[derive(Debug, Args)]
pub struct Trained {
    /// The run
    #[arg(long, value_name = "NAME", required_unless_present = "checkpoint")]
    pub doc: Option<String>,
    /// A checkpoint file instead of a run's newest: ours, or the published program's (.pth)
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// The configuration of weights that do not hold one [default: config.yml beside a .pth]
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    pub config: Option<String>,
    /// The run's checkpoint at this step [default: that of its sampling.ckpt_id if it is there, else the newest]
    #[arg(long, value_name = "STEP", requires = "doc", conflicts_with = "checkpoint")]
    pub step: Option<u64>,
}

impl Trained {
    /// The checkpoint and its model, with the average of its weights if there is one.
    pub fn open(&self, common: &Common) -> Result<(Saved, Model<Network>)> {
        let device = common.open_device()?;
        let saved = self.saved(common)?;
        let model = saved.model(Which::Averaged, &device)?;
        Ok((saved, model))
    }

    /// The checkpoint, and with it those before it whose scores are averaged with its own, of at most `n`.
    pub fn members(&self, n: usize, common: &Common) -> Result<Vec<Saved>> {
        let newest = self.saved(common)?;
        let Some(doc) = self.doc.as_ref().filter(|_| n > 1) else { return Ok(vec![newest]) };
        let all = by_step(&RunFolders::new(&common.run, doc)?.logs)?;
        let path = newest.weights().path();
        match all.iter().find(|(_, other)| *other == path) {
            Some((&step, _)) => members(&all, step, newest, n),
            None => Err(Error::unexpected(
                format!("an ensemble at {}", path.display()),
                "a checkpoint whose name tells its step, checkpoint_STEP (--step chooses one)",
            )),
        }
    }

    fn saved(&self, common: &Common) -> Result<Saved> {
        let weights = match (&self.checkpoint, &self.doc) {
            (Some(path), _) => Weights::open(path),
            (None, Some(doc)) => {
                let folders = RunFolders::new(&common.run, doc)?;
                match self.step {
                    Some(step) => {
                        let ours = || folders.checkpoints().weights_path(step);
                        Weights::open(&by_step(&folders.logs)?.remove(&step).unwrap_or_else(ours))
                    }
                    None => chosen(&folders),
                }
            }
            (None, None) => unreachable!("clap requires one of them"),
        }?;
        Saved::of(weights, self.config.as_deref())
    }

    /// `output`, else the run's folder of samples.
    pub fn folder(&self, output: Option<PathBuf>, common: &Common) -> Result<PathBuf> {
        match (output, &self.doc) {
            (Some(output), _) => Ok(output),
            (None, Some(doc)) => Ok(RunFolders::new(&common.run, doc)?.samples),
            (None, None) => {
                Err(Error::Usage("found --checkpoint without -o, expected a folder for the samples".into()))
            }
        }
    }
}

/// `saved`, the checkpoint at `step`, and those of `all` before it whose scores are averaged with its own, of at most `n`.
pub fn members(all: &BTreeMap<u64, PathBuf>, step: u64, saved: Saved, n: usize) -> Result<Vec<Saved>> {
    let every = saved.config().training.snapshot_freq;
    let before = ensemble_steps(all, step, n, every).into_iter().filter(|other| *other != step);
    let before = before.map(|step| Saved::of(Weights::open(&all[&step])?, None));
    std::iter::once(Ok(saved)).chain(before).collect()
}

/// The score by which samples of the first of `members` are drawn, and what tells it from others: of the checkpoint alone, with the
/// average of its weights if there is one, or, with `is_ensemble`, the mean of those of all.
pub fn score_of(members: &[Saved], is_ensemble: bool, device: &Device) -> Result<(Ensemble<Model<Network>>, String)> {
    let score = match is_ensemble {
        true => Saved::ensemble(members, device)?,
        false => Ensemble::new(vec![members[0].model(Which::Averaged, device)?]),
    };
    let digests: Vec<String> = members.iter().map(|member| member.weights().digest()).collect();
    Ok((score, digests.join("+")))
}

/// The checkpoint that the run's configuration names if it is there, else the newest.
fn chosen(folders: &RunFolders) -> Result<Weights> {
    let newest = newest(&folders.logs)?;
    let named = saved_config(&newest, None)?.and_then(|config| config.sampling.ckpt_id);
    let there = named.map(|step| Ok::<_, Error>((step, by_step(&folders.logs)?.remove(&step)))).transpose()?;
    match there {
        Some((step, Some(path))) if path != newest.path() => {
            hint(format!(
                "taking the checkpoint of step {step}, which the run's sampling.ckpt_id names; --step takes another"
            ));
            Weights::open(&path)
        }
        _ => Ok(newest),
    }
}
