//! Which trained network a command uses.

use std::path::PathBuf;

use burn::tensor::Device;
use clap::Args;

use ncsn::checkpoint::Weights;
use ncsn::config::Config;
use ncsn::net::{Network, NetworkConfig};
use ncsn::score::Model;
use ncsn::{Error, Result};

use super::{Common, RunFolders, noise_levels, saved_config};

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
    /// The model (with the average of its weights, if there is one), its run's configuration, and the MD5 of its file.
    pub fn open(&self, common: &Common) -> Result<(Model<Network>, Config, String)> {
        self.open_on(common, &common.open_device()?)
    }

    /// The same on a device that is open.
    pub fn open_on(&self, common: &Common, device: &Device) -> Result<(Model<Network>, Config, String)> {
        let at = |path: PathBuf| Weights::open(&path).map(|weights| (path, weights));
        let (path, weights) = match (&self.checkpoint, &self.doc) {
            (Some(path), _) => at(path.clone()),
            (None, Some(doc)) => {
                let folders = RunFolders::new(&common.run, doc)?;
                match self.step {
                    Some(step) => at(folders.checkpoints().weights_path(step)),
                    None => folders.open_newest(),
                }
            }
            (None, None) => unreachable!("clap requires one of them"),
        }?;
        let Some(config) = saved_config(&weights, &path, self.config.as_deref())? else {
            let message = "found weights without a configuration, expected one with --config FILE".to_string();
            return Err(Error::Format { path, message });
        };
        let (found, expected) = (weights.network(config.network().input)?, config.network());
        if (NetworkConfig { size: found.size, ..expected.clone() }) != found {
            let show = |NetworkConfig { architecture, channels, width, n_levels, .. }: NetworkConfig| {
                let key = architecture.width_key();
                format!("{architecture:?} with {channels} channels, {key} {width} and {n_levels} noise levels")
            };
            let message = format!("found weights of {}, but the configuration is of {}", show(found), show(expected));
            return Err(Error::Format { path, message });
        }
        let net = weights.build(config.network().input, true, device)?;
        let levels = noise_levels(&config)?;
        Ok((Model::new(net, levels), config, weights.digest()))
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
