//! Which trained network a command uses.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;

use ncsn::checkpoint::{Saved, Weights, Which, newest, saved_config};
use ncsn::net::Network;
use ncsn::score::Model;
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
        self.open_on(common, &common.open_device()?)
    }

    /// The same on a device that is open.
    pub fn open_on(&self, common: &Common, device: &Device) -> Result<(Saved, Model<Network>)> {
        let weights = match (&self.checkpoint, &self.doc) {
            (Some(path), _) => Weights::open(path),
            (None, Some(doc)) => {
                let folders = RunFolders::new(&common.run, doc)?;
                match self.step {
                    Some(step) => Weights::open(&folders.checkpoints().weights_path(step)),
                    None => chosen(&folders),
                }
            }
            (None, None) => unreachable!("clap requires one of them"),
        }?;
        let saved = Saved::of(weights, self.config.as_deref())?;
        let model = saved.model(Which::Averaged, device)?;
        Ok((saved, model))
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

/// The checkpoint that the run's configuration names if it is there, else the newest.
fn chosen(folders: &RunFolders) -> Result<Weights> {
    let newest = newest(&folders.logs)?;
    let named = saved_config(&newest, None)?.and_then(|config| config.sampling.ckpt_id);
    let checkpoints = folders.checkpoints();
    match named.map(|step| (step, checkpoints.weights_path(step))) {
        Some((step, path)) if path != newest.path() && path.exists() => {
            hint(format!(
                "taking the checkpoint of step {step}, which the run's sampling.ckpt_id names; --step takes another"
            ));
            Weights::open(&path)
        }
        _ => Ok(newest),
    }
}
