//! Between our runs and the published programs': weights, optimisers' states, moving averages, and how far a run has come.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;

use super::pth::{Group, OptimizerState, Progress, Published, Setting, StateValue, is_buffer, read_published};
use super::{Header, SIGMAS, Weights};
use crate::config::{Config, Program, Runner};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::net::params::{self, HostTensor};
use crate::net::{Backbone, InputRange, Network};
use crate::noise::Stream;
use crate::train::{EmaRate, Optimizer, OptimizerConfig, Rule, Trainer, TrainerState};

/// The key of the prefix of names in the metadata of a safetensors file.
pub const PREFIX: &str = "prefix";

/// `trainer`, fresh, brought to the state of a published checkpoint: its weights, their average if it has one, its optimiser's
/// state under the trainer's own settings, and as many steps as were made. Gives the epoch, too, if the file has one.
///
/// Steps are those that the file says, as those of NCSNv2's and Score-SDE's programs do, else those that the optimiser counted.
///
/// # Errors
/// When the file is no such checkpoint, is of another network, optimiser or noise levels than those of `config`.
pub fn resume_published<N: Module + Backbone<4> + Sync>(
    path: &Path,
    config: &Config,
    trainer: Trainer<N>,
) -> Result<(Trainer<N>, Option<u64>)> {
    let mut published = read_published(path)?;
    let bad = |message: String| Error::format(path, message);
    let (state, progress, ema_updates) = (published.optimizer.take(), published.progress, published.ema_updates);
    let weights = Weights::of(path, published);
    weights.has_of_model(SIGMAS, config.noise_levels()?.sigmas(), SIGMAS_TOLERANCE)?;
    let ema = weights.has_ema().then(|| weights.load(trainer.net().clone(), true)).transpose()?;
    let trainer = trainer.map_net(|net| weights.load(net, false))?;
    let Some(state) = state else {
        return Err(bad("found a network without its optimiser's state, expected both".into()));
    };
    let names = numbered(&state_dict(trainer.net())?);
    let numbers: Vec<u64> = state.groups.iter().flat_map(|group| group.params.iter().copied()).collect();
    if numbers.len() != names.len() {
        return Err(bad(format!("its optimiser has {} parameters, expected {}", numbers.len(), names.len())));
    }
    let numbers: BTreeMap<&str, u64> = names.iter().map(String::as_str).zip(numbers).collect();

    let mut steps = state.state.values().filter_map(|kept| kept.get("step")?.number());
    let counted = steps.next();
    let n_counted = counted.unwrap_or(0.0);
    if n_counted < 0.0 || n_counted.fract() != 0.0 || steps.any(|other| other != n_counted) {
        return Err(bad("the steps of its optimiser are not one whole number, the same for each parameter".into()));
    }
    let step = progress.map_or(n_counted as u64, |progress| progress.step);
    // SGD does not count its steps.
    let n_steps = if counted.is_some() { n_counted as u64 } else { step };
    let n_known = if state.state.is_empty() { 0 } else { n_steps.max(1) };
    let get = |key: &str| {
        let (kind, name) = key.split_once('.')?;
        match state.state.get(numbers.get(name)?)?.get(kind)? {
            StateValue::Tensor(tensor) => Some(tensor.clone()),
            _ => None,
        }
    };
    let optimizer = Optimizer::from_host(config.optimizer(), n_known, trainer.net(), get)
        .map_err(|error| bad(error.to_string()))?;
    // Who does not count the updates makes one in every step.
    let ema = ema.map(|ema| (ema, ema_updates.unwrap_or(step)));
    Ok((trainer.resume(TrainerState { step, optimizer, ema }), progress.and_then(|progress| progress.epoch)))
}

/// How far noise levels in a file may be from those of its configuration, of themselves: files have them in f32.
pub(super) const SIGMAS_TOLERANCE: f64 = 1e-6;

impl Weights {
    /// The checkpoint as the run's own program keeps it, by [`Config::program`], or of weights without a configuration as the
    /// program of such a network. The weights of a run are those of [`Self::read`], as they are trained.
    ///
    /// Of a run of NCSN's these are the weights and the optimiser's state, of NCSNv2's also the noise levels, the epoch, the step and
    /// the average, of Score-SDE's these but the epoch, and the rate of the average with the number of its updates. Runs that do not know the size of their data set are in epoch 0. What is not there is left out: the
    /// optimiser's state of a checkpoint that is not among a run's last two, say.
    ///
    /// # Errors
    /// When these are not the weights of a network that we know, or the state beside them is damaged or of another run.
    pub fn to_published(&self, config: Option<&Config>) -> Result<Published> {
        let expected = config.map_or_else(|| self.network(InputRange::Unit), |config| Ok(config.network()))?;
        let device = DeviceKind::Cpu.open()?;
        let fresh = Network::new(&expected, &mut Stream::silent(), &device)?;
        let net = self.load(fresh.clone(), false)?;
        let architecture = expected.architecture();
        let program = config.map_or(Program::of(architecture), Config::program);

        let mut network = state_dict(&net)?;
        let names = numbered(&network);
        let mut f64s = BTreeMap::new();
        if let Some(sigmas) = self.sigmas(config)? {
            network.insert(0, (SIGMAS.to_string(), sigmas));
            // Score-SDE's levels are f64, whatever the training is.
            if let Some(config) = config.filter(|_| program == Program::ScoreSde) {
                f64s.insert(SIGMAS.to_string(), config.noise_levels()?.sigmas().to_vec());
            }
        }
        let found = Some(self.prefix()).filter(|prefix| !prefix.is_empty());
        let prefix = self.metadata(PREFIX).or(found).unwrap_or(Runner::of(architecture).prefix()).to_string();
        let ema = self.has_ema().then(|| params::to_host(&self.load(fresh, true)?)).transpose()?;
        let optimizer = match (self.header(), self.optimizer_state()?, config) {
            (Some(header), Some(state), Some(config)) => {
                let get = |kind: &str, name: &str| {
                    let key = format!("{kind}.{name}");
                    let missing = || Error::format(state.path(), format!("found no tensor {key}"));
                    state.get(&key)?.ok_or_else(missing)
                };
                let trained = params::names(&net);
                // The others are frozen.
                let names: Vec<_> = names.iter().map(|name| Some(name).filter(|name| trained.contains(name))).collect();
                Some(optimizer_state(config.optimizer(), header.optimizer_steps, &names, get)?)
            }
            _ => None,
        };
        let progress = self.header().and_then(|&Header { epoch, step, .. }| match program {
            Program::Ncsn => None,
            Program::NcsnV2 => Some(Progress { epoch: Some(epoch.unwrap_or(0)), step }),
            Program::ScoreSde => Some(Progress { epoch: None, step }),
        });
        let counted = self.header().filter(|_| program == Program::ScoreSde && ema.is_some());
        let ema_updates = counted.map(|header| header.ema_updates.unwrap_or(header.step));
        let ema_rate = counted.and(config).and_then(|config| config.training_options().ema_rate).map(EmaRate::limit);
        Ok(Published {
            program,
            network,
            f64s,
            prefix,
            ema,
            ema_updates,
            ema_rate,
            optimizer,
            progress,
            ..Published::default()
        })
    }

    /// The noise levels that the state dict of the networks of NCSNv2 and of Score-SDE's program has: those of the configuration, else
    /// the file's own.
    fn sigmas(&self, config: Option<&Config>) -> Result<Option<HostTensor>> {
        let has_sigmas = |config: &&Config| {
            config.program() == Program::ScoreSde || Runner::of(config.model.architecture) == Runner::NcsnV2
        };
        match config.filter(has_sigmas) {
            Some(config) => {
                let values: Vec<f32> = config.noise_levels()?.sigmas().iter().map(|&sigma| sigma as f32).collect();
                Ok(Some(HostTensor { shape: vec![values.len()], values }))
            }
            None => self.file.get(SIGMAS),
        }
    }
}

/// Parameters and buffers, those of each layer together and its parameters first, as PyTorch lists them.
fn state_dict<N: Module>(net: &N) -> Result<Vec<(String, HostTensor)>> {
    fn layer(name: &str) -> &str {
        name.rsplit_once('.').map_or("", |(layer, _)| layer)
    }
    let buffers = params::buffers(net);
    let all = params::state_to_host(net)?;
    let layers = all.chunk_by(|(a, _), (b, _)| layer(a) == layer(b)).map(|of_layer| {
        let (buffers, parameters): (Vec<_>, Vec<_>) =
            of_layer.iter().cloned().partition(|(name, _)| buffers.contains(name));
        [parameters, buffers].concat()
    });
    Ok(layers.flatten().collect())
}

/// The tensors of a state dict that PyTorch's optimisers number, in their order: parameters, also those that are frozen.
fn numbered(state_dict: &[(String, HostTensor)]) -> Vec<String> {
    state_dict.iter().map(|(name, _)| name).filter(|name| !is_buffer(name)).cloned().collect()
}

/// An optimiser's state as PyTorch 2 has it; `get` gives what it keeps under a state's name for the parameter `names[i]`. Nothing is
/// kept for a parameter without a name here, which is frozen.
///
/// # Errors
/// Those of `get`.
fn optimizer_state(
    config: OptimizerConfig,
    n_steps: u64,
    names: &[Option<&String>],
    mut get: impl FnMut(&str, &str) -> Result<HostTensor>,
) -> Result<OptimizerState> {
    let OptimizerConfig { rule, lr, weight_decay, .. } = config;
    // That of the last step: programs with a schedule set it before each.
    let lr = n_steps.checked_sub(1).map_or(lr.peak(), |k| lr.at(k));
    let float = Setting::Float;
    let off = Setting::Bool(false);
    // Those that no rule of ours has are at PyTorch's defaults; older versions skip them.
    let settings = match rule {
        Rule::Adam { betas, eps, amsgrad } => vec![
            ("lr", float(lr)),
            ("betas", Setting::Floats(betas.to_vec())),
            ("eps", float(eps)),
            ("weight_decay", float(weight_decay)),
            ("amsgrad", Setting::Bool(amsgrad)),
            ("maximize", off.clone()),
            ("foreach", Setting::None),
            ("capturable", off.clone()),
            ("differentiable", off.clone()),
            ("fused", Setting::None),
            ("decoupled_weight_decay", off),
        ],
        Rule::RmsProp { alpha, eps } => vec![
            ("lr", float(lr)),
            ("momentum", float(0.0)),
            ("alpha", float(alpha)),
            ("eps", float(eps)),
            ("centered", off.clone()),
            ("weight_decay", float(weight_decay)),
            ("capturable", off.clone()),
            ("foreach", Setting::None),
            ("maximize", off.clone()),
            ("differentiable", off),
        ],
        Rule::Sgd { momentum } => vec![
            ("lr", float(lr)),
            ("momentum", float(momentum)),
            ("dampening", float(0.0)),
            ("weight_decay", float(weight_decay)),
            ("nesterov", off.clone()),
            ("maximize", off.clone()),
            ("foreach", Setting::None),
            ("differentiable", off),
            ("fused", Setting::None),
        ],
    };
    let groups = vec![Group { params: (0..names.len() as u64).collect(), settings: settings.into_iter().collect() }];
    let mut state = BTreeMap::new();
    if n_steps > 0 {
        for (i, name) in names.iter().enumerate().filter_map(|(i, name)| Some((i, (*name)?))) {
            let mut kept = Vec::new();
            if !matches!(rule, Rule::Sgd { .. }) {
                // A tensor of one number since PyTorch 1.12; older versions compute with it as with a number.
                kept.push(("step", StateValue::Tensor(HostTensor { shape: Vec::new(), values: vec![n_steps as f32] })));
            }
            for kind in rule.state_names() {
                kept.push((kind, StateValue::Tensor(get(kind, name)?)));
            }
            state.insert(i as u64, kept.into_iter().collect());
        }
    }
    Ok(OptimizerState { groups, state })
}
