//! Which trained network a command uses.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;

use ncsn::checkpoint::{Saved, Weights, Which, newest};
use ncsn::net::Network;
use ncsn::score::Model;
use ncsn::{Error, Result};

use super::{Common, RunFolders};

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
    /// The run's checkpoint at this step instead of its newest
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
                    None => newest(&folders.logs),
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
