//! Checkpoints: a network's weights, and beside them what a resumed run needs.
//!
//! `checkpoint_STEP.safetensors` holds the weights under their published names (and `ema.NAME`, the averaged ones) with
//! the run's configuration in its header; `checkpoint_STEP.state.safetensors` holds the optimiser's state. The state is
//! written first: a checkpoint exists once its weights do, so a crash in between leaves the one before.
//!
//! The published program's checkpoints, PyTorch files, are read and written too: [`pth`], [`resume_published`].

mod exchange;
pub mod pth;
mod tensors;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::net::params::{self, HostTensor};
use crate::net::{InputRange, Network, NetworkConfig};
use crate::noise::Noise;
use crate::score::Differentiable;
use crate::train::{Optimizer, Rule, Trainer, TrainerState};

pub use exchange::{resume_published, to_published};
pub(crate) use tensors::encode_tensors;
pub use tensors::{TensorFile, TensorWriter, write_tensors};

/// Written into the header of the weights, so that a foreign file is told from ours.
const FORMAT: &str = "ncsn-1";

/// The prefix of averaged weights.
const EMA: &str = "ema.";

/// What a checkpoint's header says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Training steps made.
    pub step: u64,
    /// The seed of every noise stream; with the step it is the streams' whole state, and the position in the epoch.
    pub seed: u64,
    /// The training loss, smoothed; `None` before the first step here.
    pub loss: Option<f64>,
    /// Steps made by the optimiser.
    pub optimizer_steps: u64,
    /// The run's configuration, as a YAML file.
    pub config: String,
}

/// The checkpoints of one run, in one folder.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
}

impl Checkpoints {
    /// Those in `folder`, which need not hold any yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The weights' file at `step`.
    pub fn weights_path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("checkpoint_{step}.safetensors"))
    }

    fn state_path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("checkpoint_{step}.state.safetensors"))
    }

    /// The steps of all checkpoints, ascending.
    ///
    /// # Errors
    /// When the folder cannot be read. A folder that does not exist holds none.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let name = entry.map_err(Error::io(&self.folder))?.file_name();
            let name = name.to_string_lossy();
            let step = name.strip_prefix("checkpoint_").and_then(|n| n.strip_suffix(".safetensors"));
            steps.extend(step.and_then(|n| n.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest checkpoint's step.
    ///
    /// # Errors
    /// When there is none, or the folder cannot be read.
    pub fn latest(&self) -> Result<u64> {
        let none = || Error::Usage(format!("found no checkpoint in {}", self.folder.display()));
        self.steps()?.pop().ok_or_else(none)
    }

    /// Saves a run. The states of all but the last two checkpoints are removed afterwards: only the newest is resumed
    /// from, and they are twice as large as the weights.
    ///
    /// # Errors
    /// When a file cannot be written, or a device cannot give the weights; the earlier checkpoints are then untouched.
    pub fn save<N: Module + Differentiable<4> + Sync>(&self, trainer: &Trainer<N>, header: &Header) -> Result<PathBuf> {
        let weights = params::to_host(trainer.net())?;
        let names: Vec<_> = weights.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
        let state = trainer.optimizer().to_host(&names)?;
        let mut tensors = weights;
        if let Some(ema) = trainer.ema() {
            tensors.extend(params::to_host(ema)?.into_iter().map(|(name, t)| (format!("{EMA}{name}"), t)));
        }
        let json = serde_json::to_string(header).expect("a header is plain data");
        let metadata = |kind: &str| {
            BTreeMap::from([
                ("format".to_string(), FORMAT.to_string()),
                ("kind".into(), kind.into()),
                ("run".into(), json.clone()),
            ])
        };
        write_tensors(&self.state_path(header.step), &state, &metadata("state"))?;
        let path = self.weights_path(header.step);
        write_tensors(&path, &tensors, &metadata("weights"))?;
        let steps = self.steps()?;
        for &old in &steps[..steps.len().saturating_sub(2)] {
            let _ = fs::remove_file(self.state_path(old));
        }
        Ok(path)
    }

    /// What the header of the checkpoint at `step` says.
    ///
    /// # Errors
    /// When its weights are missing, truncated or foreign.
    pub fn header(&self, step: u64) -> Result<Header> {
        let path = self.weights_path(step);
        Weights::open(&path)?
            .header
            .ok_or_else(|| Error::format(&path, "found no run in its header: not a checkpoint of ncsn"))
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_all(&self) -> Result<()> {
        for step in self.steps()? {
            // The state first: weights without a state are still worth having, a state without weights is not.
            for path in [self.state_path(step), self.weights_path(step)] {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// `trainer`, fresh, brought to the state saved at `step`.
    ///
    /// # Errors
    /// When a file is missing, truncated, foreign, or of another network.
    pub fn resume<N: Module + Differentiable<4> + Sync>(
        &self,
        step: u64,
        rule: Rule,
        trainer: Trainer<N>,
    ) -> Result<Trainer<N>> {
        let path = self.state_path(step);
        let (mut state, header) = open_state(&path, step)?;
        let weights = Weights::open(&self.weights_path(step))?;
        let ema = weights.has_ema().then(|| weights.load(trainer.net().clone(), true)).transpose()?;
        let trainer = trainer.map_net(|net| weights.load(net, false))?;
        let optimizer = Optimizer::from_host(rule, header.optimizer_steps, trainer.net(), |name| state.take(name))
            .map_err(|error| Error::format(&path, error.to_string()))?;
        Ok(trainer.resume(TrainerState { step, optimizer, ema }))
    }
}

/// The optimiser's state of `step`, with its header.
fn open_state(path: &Path, step: u64) -> Result<(TensorFile, Header)> {
    let file = TensorFile::open(path)?;
    let header = header(&file)?;
    if header.step != step {
        return Err(Error::format(path, format!("found the state of step {}, expected step {step}", header.step)));
    }
    Ok((file, header))
}

fn header(file: &TensorFile) -> Result<Header> {
    match (file.metadata("format"), file.metadata("run")) {
        (Some(FORMAT), Some(json)) => serde_json::from_str(json)
            .map_err(|error| Error::format(file.path(), format!("its header is damaged: {error}"))),
        (Some(other), _) if other != FORMAT => {
            Err(Error::format(file.path(), format!("found format {other:?}, expected {FORMAT:?}")))
        }
        _ => Err(Error::format(file.path(), "found no run in its header: not a checkpoint of ncsn")),
    }
}

/// The weights of a network: a safetensors file, one of ours or any with the published names, or a published checkpoint.
#[derive(Debug)]
pub struct Weights {
    file: TensorFile,
    header: Option<Header>,
}

impl Weights {
    /// Reads `path`.
    ///
    /// # Errors
    /// When it is missing, truncated, or neither a safetensors file nor a checkpoint of PyTorch.
    pub fn open(path: &Path) -> Result<Self> {
        if pth::is_pth(path)? {
            return Ok(Self::of(path, pth::read_published(path)?.network));
        }
        let file = TensorFile::open(path)?;
        let header = match file.metadata("format") {
            Some(format) if format.starts_with("ncsn") => Some(header(&file)?),
            // Other programs call theirs "pt".
            _ => None,
        };
        Ok(Self { file, header })
    }

    /// Weights in memory, of the file `path`.
    fn of(path: &Path, network: Vec<(String, HostTensor)>) -> Self {
        Self { file: TensorFile::of(path, network), header: None }
    }

    /// The optimiser's state beside a checkpoint of ours, if it is still there.
    ///
    /// # Errors
    /// When it is truncated, foreign, or of another step.
    pub fn optimizer_state(&self) -> Result<Option<TensorFile>> {
        let path = self.file.path().with_extension("state.safetensors");
        let Some(own) = self.header.as_ref().filter(|_| path.exists()) else { return Ok(None) };
        open_state(&path, own.step).map(|(file, _)| Some(file))
    }

    /// A value of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.file.metadata(key)
    }

    /// The run it comes from; `None` for a file with nothing but weights.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// The MD5 of the file, which tells whether two sets of samples come from the same weights.
    pub fn digest(&self) -> String {
        self.file.md5()
    }

    /// Whether it holds averaged weights too.
    pub fn has_ema(&self) -> bool {
        self.file.names().any(|name| name.starts_with(EMA))
    }

    /// What the network must be, read off the shapes.
    ///
    /// # Errors
    /// When these are not the weights of a network we know.
    pub fn network(&self, input: InputRange) -> Result<NetworkConfig> {
        NetworkConfig::from_shapes(|name| self.file.shape(name), input)
            .map_err(|error| Error::format(self.file.path(), error.to_string()))
    }

    /// `net` with these weights; with `ema`, the averaged ones.
    ///
    /// # Errors
    /// When one is missing or has another shape, or the file holds weights that the network lacks.
    pub fn load<N: Module>(&self, net: N, ema: bool) -> Result<N> {
        let n_tensors = self.file.names().filter(|name| name.starts_with(EMA) == ema).count();
        self.file.load(net, if ema { EMA } else { "" }, n_tensors)
    }

    /// The network for evaluation; with `ema`, with the averaged weights if there are any.
    ///
    /// # Errors
    /// As [`Self::network`] and [`Self::load`].
    pub fn build(&self, input: InputRange, ema: bool, device: &Device) -> Result<Network> {
        let fresh = Network::new(&self.network(input)?, &mut Noise::new(0).stream("init", 0), device)?;
        self.load(fresh, ema && self.has_ema())
    }
}
