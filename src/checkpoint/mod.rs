//! Checkpoints: a network's weights, and beside them what a resumed run needs.
//!
//! `checkpoint_STEP.safetensors` holds the weights under their published names (and `ema.NAME`, the averaged ones) with
//! the run's configuration in its header; `checkpoint_STEP.state.safetensors` holds the optimiser's state. The state is
//! written first: a checkpoint exists once its weights do, so a crash in between leaves the one before. Each header
//! states the digest of its file, and that of a state the weights' digest too: what is read is what was written, and
//! both are of one run.
//!
//! The published programs' checkpoints, PyTorch files, are read and written too: [`pth`], [`resume_published`],
//! [`Weights::to_published`].

mod digest;
mod exchange;
mod names;
pub mod pth;
mod saved;
mod spectral;
mod tensors;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, shown};
use crate::file;
use crate::net::params::{self, HostTensor, shown_shape};
use crate::net::{Backbone, Network, NetworkConfig, Untold};
use crate::noise::Stream;
use crate::train::{Optimizer, OptimizerConfig, Trainer, TrainerState};

pub use exchange::{PREFIX, resume_published};
pub use saved::{Saved, Which, by_step, ensemble_steps, newest, published, saved_config};
use tensors::Sealed;
pub(crate) use tensors::encode_tensors;
pub use tensors::{TensorFile, TensorWriter, write_tensors};

/// Written into the header of the weights, so that a foreign file is told from ours.
const FORMAT: &str = "ncsn-2";
/// The same without digests, as earlier versions wrote it.
const OLD_FORMAT: &str = "ncsn-1";

/// How the names of weights and states end.
const WEIGHTS: &str = ".safetensors";
const STATE: &str = ".state.safetensors";
/// In a state's metadata, the digest of the weights that it belongs to.
const DIGEST_OF_WEIGHTS: &str = "weights";

/// Tensors of checkpoints that follow from the configuration: no network has them. `sigmas` are NCSNv2's noise levels `[L]`.
pub const OF_MODELS: [&str; 1] = [SIGMAS];
const SIGMAS: &str = "sigmas";

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
    /// The precision of the last steps; `None` in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// The epoch of the last step, counted from 0; `None` in checkpoints of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Updates of the moving average, if they are not as many as steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_updates: Option<u64>,
}

impl Header {
    /// What a header says about the updates of `trainer`'s moving average.
    pub fn ema_updates_of<N: Module + Backbone<4>>(trainer: &Trainer<N>) -> Option<u64> {
        let n_updates = trainer.ema_updates();
        (trainer.ema().is_some() && n_updates != trainer.step_count()).then_some(n_updates)
    }
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
        self.folder.join(format!("checkpoint_{step}{WEIGHTS}"))
    }

    fn state_path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("checkpoint_{step}{STATE}"))
    }

    /// The steps of all checkpoints, ascending.
    ///
    /// # Errors
    /// When the folder cannot be read. A folder that does not exist holds none.
    pub fn steps(&self) -> Result<Vec<u64>> {
        self.steps_of(WEIGHTS)
    }

    /// The steps of all files whose names end in `end`, ascending.
    fn steps_of(&self, end: &str) -> Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(&self.folder)(error)),
        };
        let mut steps = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io(&self.folder))?;
            let step = entry.file_name().to_str().and_then(|name| step_of(name, end));
            steps.extend(step.filter(|_| entry.path().is_file()));
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

    /// Saves a run. The states of all earlier checkpoints but the last are removed afterwards: a run goes on from the
    /// newest, or the one before it, and they are twice as large as the weights.
    ///
    /// # Errors
    /// When a file cannot be written, or a device cannot give the weights; the earlier checkpoints are then untouched.
    pub fn save<N: Module + Backbone<4> + Sync>(&self, trainer: &Trainer<N>, header: &Header) -> Result<PathBuf> {
        let weights = params::to_host(trainer.net())?;
        let names: Vec<_> = weights.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
        let state = trainer.optimizer().to_host(&names)?;
        let mut tensors = weights;
        tensors.extend(params::buffers_to_host(trainer.net())?);
        if let Some(ema) = trainer.ema() {
            tensors.extend(params::to_host(ema)?.into_iter().map(|(name, t)| (format!("{EMA}{name}"), t)));
        }
        let weights = Sealed::new(&tensors, metadata(header, Kind::Weights));
        let mut of_state = metadata(header, Kind::State);
        of_state.insert(DIGEST_OF_WEIGHTS.into(), weights.digest.clone());
        // Both are on the disk before either has its name: a state alone with its weights' temporary file beside it tells of a kill
        // in between, a state that is quite alone of weights that somebody removed.
        let path = self.weights_path(header.step);
        let state = Sealed::new(&state, of_state).stage(&self.state_path(header.step))?;
        let weights = weights.stage(&path)?;
        state.commit()?;
        weights.commit()?;
        self.prune_states(header.step)?;
        Ok(path)
    }

    /// Removes the checkpoint of `step`.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(&self, step: u64) -> Result<()> {
        // A state alone would tell of weights that somebody removed.
        for path in [self.state_path(step), self.weights_path(step)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes the states of all checkpoints before `step` but the last of them. Later ones may be there too: damaged, if the run
    /// went back to an earlier one.
    fn prune_states(&self, step: u64) -> Result<()> {
        let before: Vec<u64> = self.steps()?.into_iter().filter(|&other| other < step).collect();
        let pruned = &before[..before.len().saturating_sub(1)];
        // What cannot be removed only takes room.
        pruned.iter().for_each(|&old| drop(fs::remove_file(self.state_path(old))));
        Ok(())
    }

    /// The checkpoint at `step`, both of its files read and verified.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a file is truncated, has another digest than its header states, or when the state is
    /// missing; [`Error::Format`] when a file is foreign, or the two are not of one run and step; [`Error::Io`] when
    /// there are no weights.
    pub fn open(&self, step: u64) -> Result<Checkpoint> {
        let weights = Weights::read(&self.weights_path(step))?;
        let not_ours = || Error::format(weights.path(), "found no run in its header: not a checkpoint of ncsn");
        let header = weights.header().cloned().ok_or_else(not_ours)?;
        let missing = || {
            let message =
                "found no such file, expected the optimiser's state beside the weights, without which no run goes on";
            Error::damaged(self.state_path(step), message)
        };
        let state = weights.optimizer_state()?.ok_or_else(missing)?;
        Ok(Checkpoint { weights, header, state })
    }

    /// The steps of states whose weights somebody removed. Those that a killed program left are not among them: see [`Self::save`].
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn lost(&self) -> Result<Vec<u64>> {
        let complete = self.steps()?;
        let is_lost = |step: &u64| !complete.contains(step) && !file::has_leftover(&self.weights_path(*step));
        Ok(self.steps_of(STATE)?.into_iter().filter(is_lost).collect())
    }

    /// Renames the checkpoint at `step` to names that are free, so that it is none any more and nothing is lost; gives that of its
    /// weights.
    ///
    /// # Errors
    /// When a file cannot be renamed.
    pub fn set_aside(&self, step: u64) -> Result<PathBuf> {
        let paths = [self.state_path(step), self.weights_path(step)];
        let aside = |path: &Path, n: u64| {
            let number = if n == 1 { String::new() } else { n.to_string() };
            path.with_extension(format!("safetensors.old{number}"))
        };
        let is_free = |n: &u64| paths.iter().all(|path| !aside(path, *n).exists());
        let n = (1..).find(is_free).expect("some number is free");
        // The state first: alone, it would be taken for what a killed program left.
        for path in paths.iter().filter(|path| path.exists()) {
            fs::rename(path, aside(path, n)).map_err(Error::io(path))?;
        }
        Ok(aside(&self.weights_path(step), n))
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_all(&self) -> Result<()> {
        // The states first: weights without a state are still worth having, a state without weights is not.
        self.steps_of(STATE)?.into_iter().try_for_each(|step| file::remove(&self.state_path(step)))?;
        self.steps()?.into_iter().try_for_each(|step| file::remove(&self.weights_path(step)))
    }

    /// Removes what a killed program left: temporary files of weights and states, and states without weights. Whoever
    /// calls this holds the run's lock.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove_leftovers(&self) -> Result<()> {
        let is_ours = |name: &str| [WEIGHTS, STATE].iter().any(|end| step_of(name, end).is_some());
        file::remove_leftovers(&self.folder, is_ours)?;
        let complete = self.steps()?;
        let alone = self.steps_of(STATE)?.into_iter().filter(|step| complete.binary_search(step).is_err());
        alone.into_iter().try_for_each(|step| file::remove(&self.state_path(step)))?;
        complete.last().map_or(Ok(()), |&newest| self.prune_states(newest))
    }
}

/// The step in the name of weights or of a state, which ends in `end`; `None` for a name that is not exactly as we
/// write it.
fn step_of(name: &str, end: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint_")?.strip_suffix(end)?;
    digits.parse().ok().filter(|step: &u64| step.to_string() == digits)
}

/// A checkpoint, whole and verified.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    header: Header,
    state: TensorFile,
}

impl Checkpoint {
    /// What its header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its weights, as they are trained.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// `trainer`, fresh, brought to the saved state.
    ///
    /// # Errors
    /// When the checkpoint is of another network or optimiser.
    pub fn resume<N: Module + Backbone<4> + Sync>(
        self,
        config: OptimizerConfig,
        trainer: Trainer<N>,
    ) -> Result<Trainer<N>> {
        let Self { weights, header, mut state } = self;
        let n_updates = header.ema_updates.unwrap_or(header.step);
        let load = || Ok::<_, Error>((weights.load(trainer.net().clone(), true)?, n_updates));
        let ema = weights.has_ema().then(load).transpose()?;
        let trainer = trainer.map_net(|net| weights.load(net, false))?;
        let path = state.path().to_path_buf();
        let optimizer = Optimizer::from_host(config, header.optimizer_steps, trainer.net(), |name| state.take(name))
            .map_err(|error| Error::format(path, error.to_string()))?;
        Ok(trainer.resume(TrainerState { step: header.step, optimizer, ema }))
    }
}

/// What a file of a checkpoint holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Weights,
    State,
}

impl Kind {
    /// The value of the key `kind` in the metadata.
    fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::State => "state",
        }
    }
}

/// The metadata of a file of ours.
fn metadata(header: &Header, kind: Kind) -> BTreeMap<String, String> {
    let json = serde_json::to_string(header).expect("a header is plain data");
    let values = [("format", FORMAT.to_string()), ("kind", kind.name().into()), ("run", json)];
    values.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Writes `path`, whole or not at all: weights of a run, with its configuration, that open to a model by themselves. The prefix is
/// what stands before each name in a published checkpoint of them.
///
/// # Errors
/// When the file cannot be written.
pub fn write_weights(path: &Path, weights: &[(String, HostTensor)], header: &Header, prefix: &str) -> Result<()> {
    let mut metadata = metadata(header, Kind::Weights);
    metadata.insert(PREFIX.into(), prefix.into());
    Sealed::new(weights, metadata).stage(path)?.commit()
}

/// The header of a file of ours, which holds what `kind` says.
fn header(file: &TensorFile, kind: Kind) -> Result<Header> {
    let bad = |message: String| Error::format(file.path(), message);
    let not_ours = || bad("found no run in its header: not a checkpoint of ncsn".into());
    match file.metadata("format").ok_or_else(not_ours)? {
        FORMAT if file.metadata(digest::KEY).is_none() => {
            return Err(Error::damaged(file.path(), "is damaged: found no digest in its header"));
        }
        FORMAT | OLD_FORMAT => {}
        other => return Err(bad(format!("found format {}, expected {FORMAT:?}", shown(other)))),
    }
    let found = file.metadata("kind").unwrap_or_default();
    if found != kind.name() {
        return Err(bad(format!("found a file of kind {}, expected {:?}", shown(found), kind.name())));
    }
    serde_json::from_str(file.metadata("run").ok_or_else(not_ours)?)
        .map_err(|error| Error::damaged(file.path(), format!("its header is damaged: {error}")))
}

/// What tells the run of `found` from that of `expected`; `None` if it is the same, at the same step.
fn difference(found: &Header, expected: &Header) -> Option<String> {
    let numbers = [
        ("step", found.step, expected.step),
        ("seed", found.seed, expected.seed),
        ("steps of its optimiser:", found.optimizer_steps, expected.optimizer_steps),
    ];
    let number = numbers.into_iter().find(|(_, found, expected)| found != expected);
    match number {
        Some((what, found, expected)) => Some(format!("{what} {found}, expected {expected}")),
        None if found.config != expected.config => Some("its configuration is another".into()),
        None => None,
    }
}

/// What PyTorch counts in batch norms, and nobody uses where their momentum is fixed.
const N_BATCHES: &str = "num_batches_tracked";

/// The weights of a network: a safetensors file, one of ours or any with the published names, or a published checkpoint.
#[derive(Debug)]
pub struct Weights {
    file: TensorFile,
    header: Option<Header>,
    prefix: String,
    members: Option<pth::Members>,
    progress: Option<pth::Progress>,
}

impl Weights {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is truncated or has another digest than its header states; others when it is missing,
    /// neither a safetensors file nor a checkpoint of PyTorch, or of another step than its name says.
    pub fn open(path: &Path) -> Result<Self> {
        let mut weights = Self::read(path)?;
        spectral::fold(&mut weights.file)?;
        Ok(weights)
    }

    /// Those of `path` as they are trained: weights that are normalised by their spectral norm have not been divided by it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(path: &Path) -> Result<Self> {
        if pth::is_pth(path)? {
            return Ok(Self::of(path, pth::read_published(path)?));
        }
        let mut file = TensorFile::open(path)?;
        let header = match file.metadata("format") {
            Some(format) if format.starts_with("ncsn") => Some(header(&file, Kind::Weights)?),
            // Other programs call theirs "pt".
            _ => None,
        };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let (Some(header), Some(step)) = (&header, step_of(name, WEIGHTS))
            && header.step != step
        {
            let found = header.step;
            return Err(Error::format(path, format!("found the weights of step {found}, expected step {step}")));
        }
        let prefix = if header.is_none() { file.strip() } else { String::new() };
        if header.is_none() {
            file.leave_out_all(|name| name.ends_with(N_BATCHES));
        }
        Ok(Self { file, header, prefix, members: None, progress: None })
    }

    /// Those of `published`, which was read from `path`.
    fn of(path: &Path, published: pth::Published) -> Self {
        let pth::Published { mut network, prefix, ema, members, progress, .. } = published;
        network.extend(ema.into_iter().flatten().map(|(name, tensor)| (format!("{EMA}{name}"), tensor)));
        let file = TensorFile::of(path, network);
        Self { file, header: None, prefix, members: Some(members), progress }
    }

    /// What stood before each name, of a file that is not ours.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Which parts of a PyTorch file these are; `None` for another file.
    pub fn members(&self) -> Option<&pth::Members> {
        self.members.as_ref()
    }

    /// How far the run had come, of a checkpoint of NCSNv2's or Score-SDE's program; [`Self::header`] says it of ours.
    pub fn progress(&self) -> Option<pth::Progress> {
        self.progress
    }

    /// The optimiser's state beside a checkpoint of ours, if it is still there.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is truncated or has another digest than its header states; [`Error::Format`] when it
    /// is foreign, or of another run or step.
    pub fn optimizer_state(&self) -> Result<Option<TensorFile>> {
        let path = self.path().with_extension("state.safetensors");
        let Some(own) = self.header.as_ref().filter(|_| path.exists()) else { return Ok(None) };
        let state = TensorFile::open(&path)?;
        if let Some(difference) = difference(&header(&state, Kind::State)?, own) {
            let weights = self.path().display();
            return Err(Error::format(&path, format!("the state beside {weights} is of another run ({difference})")));
        }
        if let Some(digest) = state.metadata(DIGEST_OF_WEIGHTS)
            && self.metadata(digest::KEY) != Some(digest)
        {
            return Err(Error::damaged(&path, "is the state of other weights of the same run than those beside it"));
        }
        Ok(Some(state))
    }

    /// Where they were read from.
    pub fn path(&self) -> &Path {
        self.file.path()
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

    /// How many numbers the parameters have that are trained.
    pub fn n_parameters(&self) -> usize {
        let names = self.file.names().filter(|name| !name.starts_with(EMA));
        let shapes = names.filter_map(|name| Some((name, self.file.shape(name)?)));
        shapes
            .filter(|(name, shape)| pth::is_trained(name, shape))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// Whether these are the weights of a network that we know, though their shapes may not tell its options.
    pub fn is_known(&self) -> bool {
        NetworkConfig::is_known(|name| self.file.shape(name))
    }

    /// What the network must be, read off the shapes; `untold` is what they do not tell, such as
    /// [`NetworkConfig::untold`] of the run's.
    ///
    /// # Errors
    /// When these are not the weights of a network we know.
    pub fn network(&self, untold: impl Into<Untold>) -> Result<NetworkConfig> {
        NetworkConfig::from_shapes(|name| self.file.shape(name), untold)
            .map_err(|error| Error::format(self.file.path(), error.to_string()))
    }

    /// `net` with these weights; with `ema`, the averaged ones. Buffers that are not averaged are the network's.
    ///
    /// # Errors
    /// When one is missing or has another shape, or the file holds weights that the network lacks.
    pub fn load<N: Module>(&self, net: N, ema: bool) -> Result<N> {
        let prefix = if ema { EMA } else { "" };
        let is_weight = |name: &&str| name.starts_with(EMA) == ema && !OF_MODELS.contains(&&name[prefix.len()..]);
        let n_tensors = self.file.names().filter(is_weight).count();
        self.file.load(net, prefix, n_tensors)
    }

    /// Whether the file has the tensor `name`, one of [`OF_MODELS`], with the values `expected`, each up to `tolerance` of itself.
    /// A file without it is none that differs.
    ///
    /// # Errors
    /// When it has other values, another shape than `[n]`, or another type.
    pub fn has_of_model(&self, name: &str, expected: &[f64], tolerance: f64) -> Result<bool> {
        let Some(HostTensor { shape, values }) = self.file.get(name)? else { return Ok(false) };
        let bad = |message| Err(Error::format(self.path(), message));
        if shape != [expected.len()] {
            let found = shown_shape(&shape);
            return bad(format!("{name} has shape {found}, expected [{}] by the configuration", expected.len()));
        }
        let differs = |(found, expected): (&f32, &f64)| {
            let difference = (f64::from(*found) - expected).abs();
            // Not a number differs, too.
            difference.is_nan() || difference > tolerance * expected.abs()
        };
        match values.iter().zip(expected).position(differs) {
            None => Ok(true),
            Some(i) => bad(format!("{name}[{i}] is {}, expected {} by the configuration", values[i], expected[i])),
        }
    }

    /// The network for evaluation; with `ema`, with the averaged weights if there are any.
    ///
    /// # Errors
    /// As [`Self::network`] and [`Self::load`].
    pub fn build(&self, untold: impl Into<Untold>, ema: bool, device: &Device) -> Result<Network> {
        let fresh = Network::new(&self.network(untold)?, &mut Stream::silent(), device)?;
        self.load(fresh, ema && self.has_ema())
    }
}
