//! Which trained network a command uses.

use std::path::PathBuf;

use clap::Args;

use ncsn::checkpoint::Weights;
use ncsn::config::Config;
use ncsn::net::Network;
use ncsn::{Error, Result};

use super::{Common, RunFolders, saved_config};

#[derive(Debug, Args)]
pub struct Trained {
    /// The run
    #[arg(long, value_name = "NAME", required_unless_present = "checkpoint")]
    pub doc: Option<String>,
    /// A checkpoint file instead of a run's newest
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// The run's checkpoint at this step instead of its newest
    #[arg(long, value_name = "STEP", requires = "doc", conflicts_with = "checkpoint")]
    pub step: Option<u64>,
}

impl Trained {
    /// The network (the average of its weights, if there is one), its run's configuration, and the MD5 of its file.
    pub fn open(&self, common: &Common) -> Result<(Network, Config, String)> {
        let path = match (&self.checkpoint, &self.doc) {
            (Some(path), _) => path.clone(),
            (None, Some(doc)) => {
                let checkpoints = RunFolders::new(&common.run, doc)?.checkpoints();
                let step = self.step.map_or_else(|| checkpoints.latest(), Ok)?;
                checkpoints.weights_path(step)
            }
            (None, None) => unreachable!("clap requires one of them"),
        };
        let weights = Weights::open(&path)?;
        let Some(config) = saved_config(&weights, &path)? else {
            let message = "found weights without a configuration, expected a checkpoint of ncsn".to_string();
            return Err(Error::Format { path, message });
        };
        let net = weights.build(config.network().input, true, &common.device.open())?;
        Ok((net, config, weights.digest()))
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
