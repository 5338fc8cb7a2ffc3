//! Between our runs and the published program's: weights and optimisers' states.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;

use super::Weights;
use super::pth::{Group, OptimizerState, Setting, StateValue, read_published};
use crate::error::{Error, Result};
use crate::net::Backbone;
use crate::net::params::{self, HostTensor};
use crate::train::{Optimizer, Rule, Trainer, TrainerState};

/// `trainer`, fresh, brought to the state of a published checkpoint: its weights, their average if it has one, its
/// optimiser's state, and as many steps as the optimiser made.
///
/// # Errors
/// When the file is no such checkpoint, or is of another network or optimiser.
pub fn resume_published<N: Module + Backbone<4> + Sync>(
    path: &Path,
    rule: Rule,
    trainer: Trainer<N>,
) -> Result<Trainer<N>> {
    let mut published = read_published(path)?;
    let bad = |message: String| Error::format(path, message);
    let state = published.optimizer.take();
    let weights = Weights::of(path, published);
    let ema = weights.has_ema().then(|| weights.load(trainer.net().clone(), true)).transpose()?;
    let trainer = trainer.map_net(|net| weights.load(net, false))?;
    let Some(state) = state else {
        return Err(bad("found a network without its optimiser's state, expected both".into()));
    };
    // PyTorch numbers the parameters in the order of registration, which is ours too.
    let names = params::names(trainer.net());
    let numbers: Vec<u64> = state.groups.iter().flat_map(|group| group.params.iter().copied()).collect();
    if numbers.len() != names.len() {
        return Err(bad(format!("its optimiser has {} parameters, expected {}", numbers.len(), names.len())));
    }
    let numbers: BTreeMap<&str, u64> = names.iter().map(String::as_str).zip(numbers).collect();

    let mut steps = state.state.values().filter_map(|kept| kept.get("step")?.number());
    let n_steps = steps.next().unwrap_or(0.0);
    if n_steps < 0.0 || n_steps.fract() != 0.0 || steps.any(|other| other != n_steps) {
        return Err(bad("the steps of its optimiser are not one whole number, the same for each parameter".into()));
    }
    let n_steps = n_steps as u64;
    // SGD does not count its steps.
    let n_known = if state.state.is_empty() { 0 } else { n_steps.max(1) };
    let get = |key: &str| {
        let (kind, name) = key.split_once('.')?;
        match state.state.get(numbers.get(name)?)?.get(kind)? {
            StateValue::Tensor(tensor) => Some(tensor.clone()),
            _ => None,
        }
    };
    let optimizer = Optimizer::from_host(rule, n_known, trainer.net(), get).map_err(|error| bad(error.to_string()))?;
    Ok(trainer.resume(TrainerState { step: n_steps, optimizer, ema }))
}

/// An optimiser's state as PyTorch has it; `get` gives what it keeps under a state's name for the parameter `names[i]`.
///
/// # Errors
/// Those of `get`.
pub fn to_published(
    rule: Rule,
    n_steps: u64,
    names: &[String],
    mut get: impl FnMut(&str, &str) -> Result<HostTensor>,
) -> Result<OptimizerState> {
    let float = Setting::Float;
    let settings = match rule {
        Rule::Adam { lr, betas, eps, weight_decay, amsgrad } => vec![
            ("lr", float(lr)),
            ("betas", Setting::Floats(betas.to_vec())),
            ("eps", float(eps)),
            ("weight_decay", float(weight_decay)),
            ("amsgrad", Setting::Bool(amsgrad)),
        ],
        Rule::RmsProp { lr, alpha, eps, weight_decay } => vec![
            ("lr", float(lr)),
            ("alpha", float(alpha)),
            ("eps", float(eps)),
            ("weight_decay", float(weight_decay)),
            ("momentum", float(0.0)),
            ("centered", Setting::Bool(false)),
        ],
        Rule::Sgd { lr, momentum, weight_decay } => vec![
            ("lr", float(lr)),
            ("momentum", float(momentum)),
            ("weight_decay", float(weight_decay)),
            ("dampening", float(0.0)),
            ("nesterov", Setting::Bool(false)),
        ],
    };
    let settings = settings.into_iter().map(|(name, setting)| (name.to_string(), setting)).collect();
    let groups = vec![Group { params: (0..names.len() as u64).collect(), settings }];
    let mut state = BTreeMap::new();
    if n_steps > 0 {
        for (i, name) in names.iter().enumerate() {
            let mut kept = BTreeMap::new();
            if !matches!(rule, Rule::Sgd { .. }) {
                kept.insert("step".to_string(), StateValue::Int(n_steps.cast_signed()));
            }
            for kind in rule.state_names() {
                kept.insert((*kind).to_string(), StateValue::Tensor(get(kind, name)?));
            }
            state.insert(i as u64, kept);
        }
    }
    Ok(OptimizerState { groups, state })
}
