//! What the published program keeps in a checkpoint: the list of a network's and an optimiser's `state_dict`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::{Pth, read_file};
use crate::error::{Error, Result};
use crate::net::params::HostTensor;
use crate::pickle::{Id, Value};

/// What `DataParallel` puts before every name.
const PREFIX: &str = "module.";

/// A network's weights, and an optimiser's state beside them.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The weights by name, without the prefix, in the order of the file.
    pub network: Vec<(String, HostTensor)>,
    /// What stood before each name: `"module."` or nothing.
    pub prefix: String,
    /// The optimiser's state, if the file has one.
    pub optimizer: Option<OptimizerState>,
}

/// An optimiser's `state_dict`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Parameters that share settings.
    pub groups: Vec<Group>,
    /// What is kept for each parameter, by its number in [`Group::params`]: `step`, `exp_avg`, `square_avg`, ….
    pub state: BTreeMap<u64, BTreeMap<String, StateValue>>,
}

/// Some parameters and their settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The parameters' numbers, in the network's order: 0, 1, …, or, before PyTorch 1.5, addresses in memory.
    pub params: Vec<u64>,
    /// `lr`, `betas`, `weight_decay`, …. Settings that are not made of numbers are left out.
    pub settings: BTreeMap<String, Setting>,
}

/// One setting of an optimiser.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Left to PyTorch.
    None,
    /// A switch.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Several numbers, such as Adam's `betas`.
    Floats(Vec<f64>),
}

/// What an optimiser keeps for a parameter under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum StateValue {
    /// Nothing yet.
    None,
    /// A whole number: `step`, as a number or as a tensor of one integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// A tensor; newer versions have `step` here, too, with shape `[]`.
    Tensor(HostTensor),
}

impl Setting {
    /// The number of a [`Self::Int`] or [`Self::Float`].
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            _ => None,
        }
    }
}

impl StateValue {
    /// The number of a [`Self::Int`], a [`Self::Float`], or a tensor of one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            Self::Tensor(HostTensor { values, .. }) => {
                if let [x] = values[..] {
                    Some(x.into())
                } else {
                    None
                }
            }
            Self::None => None,
        }
    }
}

/// Reads a checkpoint: a list or tuple that begins with a network's `state_dict` and, perhaps, an optimiser's; a
/// `state_dict` alone; or a dict with either under its usual name (`state_dict`, `model`, …; `optimizer`, …). Nothing in
/// the file is executed.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read; [`Error::Format`] when it is no such checkpoint, is damaged, or names a
/// function that tensors do not need.
pub fn read_published(path: &Path) -> Result<Published> {
    Published::parse(path, &read_file(path)?)
}

/// Reads the optimiser's state of a checkpoint, or a file with nothing else.
///
/// # Errors
/// As [`read_published`]; also when there is none.
pub fn read_optimizer(path: &Path) -> Result<OptimizerState> {
    let (bytes, mut scratch) = (read_file(path)?, Vec::new());
    let pth = Pth::parse(path, &bytes, &mut scratch)?;
    let root = pth.pickle().root();
    let found = if is_optimizer(&pth, root) { Some(root) } else { parts(&pth).and_then(|(_, optimizer)| optimizer) };
    optimizer(&pth, found.ok_or_else(|| Error::format(path, "found no optimiser's state in it"))?)
}

impl Published {
    /// Parses `bytes`, the content of `path` (which only errors use).
    ///
    /// # Errors
    /// As [`read_published`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut scratch = Vec::new();
        let pth = Pth::parse(path, bytes, &mut scratch)?;
        let no_network = "holds no network: expected a state_dict (names and tensors), alone or first in a list";
        let (weights, state) = parts(&pth).ok_or_else(|| Error::format(path, no_network))?;
        let (network, prefix) = network(&pth, weights)?;
        let optimizer = state.map(|state| optimizer(&pth, state)).transpose()?;
        Ok(Self { network, prefix, optimizer })
    }
}

/// The values that hold the weights and the optimiser's state.
fn parts<'v, 'a>(pth: &'v Pth<'_, 'a>) -> Option<(&'v Value<'a>, Option<&'v Value<'a>>)> {
    let pickle = pth.pickle();
    let named = |names: &[&str]| names.iter().find_map(|name| pickle.get(pickle.root(), name));
    let (weights, state) = match pickle.root() {
        Value::List(items) | Value::Tuple(items) => {
            let item = |i: usize| items.get(i).map(|id| pickle.value(*id));
            (item(0), item(1))
        }
        root if is_weights(pth, root) => (Some(root), None),
        _ => (
            named(&["state_dict", "model_state_dict", "model", "network", "net"]),
            named(&["optimizer_state_dict", "optimizer", "optim"]),
        ),
    };
    let weights = weights.filter(|weights| is_weights(pth, weights))?;
    Some((weights, state.filter(|state| is_optimizer(pth, state))))
}

/// Whether `value` is a dict whose first item is a tensor.
fn is_weights(pth: &Pth<'_, '_>, value: &Value<'_>) -> bool {
    pairs(value).first().is_some_and(|(_, id)| is_tensor(pth.pickle().value(*id)))
}

fn is_optimizer<'a>(pth: &Pth<'_, 'a>, value: &Value<'a>) -> bool {
    pth.pickle().get(value, "state").is_some() && pth.pickle().get(value, "param_groups").is_some()
}

fn is_tensor(value: &Value<'_>) -> bool {
    matches!(value, Value::Tensor { .. } | Value::Outside(_))
}

/// The weights, without the prefix that all their names have, and the prefix.
fn network<'a>(pth: &Pth<'_, 'a>, weights: &Value<'a>) -> Result<(Vec<(String, HostTensor)>, String)> {
    let mut network = Vec::new();
    let mut names = HashSet::new();
    for (name, id) in pairs(weights) {
        let no_name = || Error::format(pth.path, "has a tensor whose name is no string");
        let name = pth.pickle().text(*name).ok_or_else(no_name)?;
        if !names.insert(name) {
            return Err(pth.bad(name, "is there twice"));
        }
        pth.spend(name.len())?;
        network.push((name.to_string(), host(pth, name, pth.pickle().value(*id))?));
    }
    let prefix = if names.iter().all(|name| name.starts_with(PREFIX)) { PREFIX } else { "" };
    for (name, _) in &mut network {
        name.drain(..prefix.len());
    }
    Ok((network, prefix.to_string()))
}

fn optimizer<'a>(pth: &Pth<'_, 'a>, value: &Value<'a>) -> Result<OptimizerState> {
    let bad = |message: String| Error::format(pth.path, format!("optimiser's state: {message}"));
    let pickle = pth.pickle();

    let Some(Value::List(ids)) = pickle.get(value, "param_groups") else {
        return Err(bad("param_groups is no list".into()));
    };
    let groups = ids.iter().map(|id| group(pth, pickle.value(*id))).collect::<Result<Vec<_>>>()?;

    let Some(Value::Dict(params)) = pickle.get(value, "state") else { return Err(bad("state is no dict".into())) };
    let mut state = BTreeMap::new();
    for (param, values) in params {
        let no_number = || bad("a parameter is called by what is no number".into());
        let param = pickle.value(*param).as_size().ok_or_else(no_number)?;
        let Value::Dict(values) = pickle.value(*values) else {
            return Err(bad(format!("what is kept for parameter {param} is no dict")));
        };
        let mut kept = BTreeMap::new();
        pth.spend(1)?;
        for (name, value) in values {
            let no_name = || bad(format!("parameter {param} has a value without a name"));
            let name = pickle.text(*name).ok_or_else(no_name)?;
            pth.spend(1 + name.len())?;
            let value = state_value(pth, &format!("{name} of parameter {param}"), pickle.value(*value))?;
            kept.insert(name.to_string(), value);
        }
        if state.insert(param, kept).is_some() {
            return Err(bad(format!("parameter {param} is there twice")));
        }
    }
    Ok(OptimizerState { groups, state })
}

fn group<'a>(pth: &Pth<'_, 'a>, value: &Value<'a>) -> Result<Group> {
    let bad = |message: &str| Error::format(pth.path, format!("optimiser's param_groups: {message}"));
    let pickle = pth.pickle();
    let Some(Value::List(ids)) = pickle.get(value, "params") else {
        return Err(bad("expected dicts with a list of params"));
    };
    pth.spend(1 + ids.len())?;
    let params: Option<Vec<u64>> = ids.iter().map(|id| pickle.value(*id).as_size()).collect();
    let params = params.ok_or_else(|| bad("a parameter is called by what is no number"))?;
    let mut settings = BTreeMap::new();
    for (name, value) in pairs(value) {
        let name = pickle.text(*name).ok_or_else(|| bad("a setting has a name that is no string"))?;
        pth.spend(1 + name.len())?;
        if name != "params"
            && let Some(setting) = setting(pth, name, pickle.value(*value))?
        {
            settings.insert(name.to_string(), setting);
        }
    }
    Ok(Group { params, settings })
}

/// A setting that is made of numbers; `None` for another.
fn setting<'a>(pth: &Pth<'_, 'a>, name: &str, value: &Value<'a>) -> Result<Option<Setting>> {
    Ok(match value {
        Value::None => Some(Setting::None),
        Value::Bool(flag) => Some(Setting::Bool(*flag)),
        Value::Int(n) => Some(Setting::Int(*n)),
        Value::Float(x) => Some(Setting::Float(*x)),
        Value::Tuple(ids) | Value::List(ids) => {
            pth.spend(ids.len())?;
            let number = |id: &Id| match pth.pickle().value(*id) {
                Value::Float(x) => Some(*x),
                Value::Int(n) => Some(*n as f64),
                _ => None,
            };
            ids.iter().map(number).collect::<Option<_>>().map(Setting::Floats)
        }
        // So is `lr` where the optimiser is captured in a graph.
        value if is_tensor(value) => state_value(pth, name, value)?.number().map(Setting::Float),
        _ => None,
    })
}

/// What an optimiser keeps for a parameter; `name` is for errors.
fn state_value<'a>(pth: &Pth<'_, 'a>, name: &str, value: &Value<'a>) -> Result<StateValue> {
    match value {
        Value::None => Ok(StateValue::None),
        Value::Int(n) => Ok(StateValue::Int(*n)),
        Value::Float(x) => Ok(StateValue::Float(*x)),
        value if is_tensor(value) => {
            let view = pth.view(value).map_err(|why| pth.bad(name, &why))?;
            match if view.shape().is_empty() { view.i64s() } else { None }.as_deref() {
                Some(&[n]) => Ok(StateValue::Int(n)),
                _ => host(pth, name, value).map(StateValue::Tensor),
            }
        }
        _ => Err(pth.bad(name, "is neither a number nor a tensor")),
    }
}

/// A floating-point tensor's numbers.
fn host<'a>(pth: &Pth<'_, 'a>, name: &str, value: &Value<'a>) -> Result<HostTensor> {
    let view = pth.view(value).map_err(|why| pth.bad(name, &why))?;
    pth.spend(view.n_items().max(1))?;
    let not_float = || pth.bad(name, &format!("has items of type {:?}, expected F32, F64, F16 or BF16", view.item()));
    Ok(HostTensor { values: view.f32s().ok_or_else(not_float)?, shape: view.shape().to_vec() })
}

fn pairs<'v>(dict: &'v Value<'_>) -> &'v [(Id, Id)] {
    if let Value::Dict(pairs) = dict { pairs } else { &[] }
}
