//! What programs keep in a checkpoint: a network's and an optimiser's `state_dict`, and a moving average of the
//! weights, as members of a list or of a dict.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Index;
use std::path::Path;

use super::{Pth, read_file};
use crate::checkpoint::N_BATCHES;
use crate::checkpoint::names::prefix_len;
use crate::config::Program;
use crate::error::{Error, Result, few, shown};
use crate::net::params::{HostTensor, shown_shape};
use crate::pickle::{Id, Item, Value};

/// Under what names a dict has the weights, their moving average, and the optimiser's state.
const WEIGHTS: [&str; 6] = ["state_dict", "model_state_dict", "model", "network", "net", "params"];
const AVERAGES: [&str; 6] = ["ema", "params_ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model"];
const OPTIMIZERS: [&str; 3] = ["optimizer_state_dict", "optimizer", "optim"];
/// How an average that is not a dict of tensors itself has them: NCSNv2's helper by name, Score-SDE's in the
/// parameters' order.
const SHADOW: &str = "shadow";
const SHADOW_PARAMS: &str = "shadow_params";
/// Beside these, how many updates made them.
const NUM_UPDATES: &str = "num_updates";
/// And at which rate.
const DECAY: &str = "decay";
/// How many steps Score-SDE's dict says were made.
const STEP: &str = "step";
/// Where NCSNv2's list has the epoch, the step and the average.
const THIRD: usize = 2;
const FOURTH: usize = 3;
const FIFTH: usize = 4;
/// Tensors of a `state_dict` that are no parameters.
const BUFFERS: [&str; 6] = ["sigmas", "num_batches_tracked", "running_mean", "running_var", "weight_u", "weight_v"];
/// Score-SDE's random Fourier frequencies: a parameter that is not trained, so not averaged.
const FREQUENCIES: &str = "W";

/// A network's weights, and what lies beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Published {
    /// Which program keeps its checkpoints so.
    pub program: Program,
    /// The weights by name, without the prefix, in the order of the file.
    pub network: Vec<(String, HostTensor)>,
    /// The numbers of those weights that the file has as f64, by name, not rounded to f32: Score-SDE's noise levels, `sigmas`.
    pub f64s: BTreeMap<String, Vec<f64>>,
    /// What stood before each name: `"module."`, say, or nothing.
    pub prefix: String,
    /// The moving average of the weights, if the file has one beside them: as many tensors of the same names and
    /// shapes. Those that are not averaged are the network's.
    pub ema: Option<Vec<(String, HostTensor)>>,
    /// How many updates made the average, if the file says it, as Score-SDE's do.
    pub ema_updates: Option<u64>,
    /// The largest rate of the average, if the file says it, as Score-SDE's do.
    pub ema_rate: Option<f64>,
    /// Which parts of the file these are.
    pub members: Members,
    /// The optimiser's state, if the file has one.
    pub optimizer: Option<OptimizerState>,
    /// How far the run has come, if the file is one of NCSNv2's or Score-SDE's program.
    pub progress: Option<Progress>,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The epoch of the last step, counted from 0, which only NCSNv2's program says.
    pub epoch: Option<u64>,
    /// Steps made.
    pub step: u64,
}

/// Which parts of a checkpoint are taken for what, in words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Members {
    /// The weights: `"item 1 of a list"`, `"model"`.
    pub weights: String,
    /// Their moving average; if it lacks parameters that are trained, which.
    pub ema: Option<String>,
    /// Whether the weights are themselves a moving average, the only weights that the file has.
    pub only_average: bool,
}

/// An optimiser's `state_dict`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptimizerState {
    /// Parameters that share settings.
    pub groups: Vec<Group>,
    /// What is kept for each parameter, by its number in [`Group::params`]: `step`, `exp_avg`, `square_avg`, ….
    pub state: BTreeMap<u64, Named<StateValue>>,
}

/// Values by name, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(Vec<(String, T)>);

impl<T> Named<T> {
    /// The value called `name`; the last one, if a file has several.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|(name, _)| name)
    }

    /// Names and values, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, N: Into<String>> FromIterator<(N, T)> for Named<T> {
    fn from_iter<I: IntoIterator<Item = (N, T)>>(values: I) -> Self {
        Self(values.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl<T> Index<&str> for Named<T> {
    type Output = T;

    /// # Panics
    /// When there is no value of this name.
    fn index(&self, name: &str) -> &T {
        self.get(name).unwrap_or_else(|| panic!("no value called {name:?}"))
    }
}

/// Some parameters and their settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// The parameters' numbers, in the network's order: 0, 1, …, or, before PyTorch 1.5, addresses in memory.
    pub params: Vec<u64>,
    /// `lr`, `betas`, `weight_decay`, …. Settings that are not made of numbers are left out.
    pub settings: Named<Setting>,
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

/// Reads a checkpoint: a list or tuple that begins with a network's `state_dict` and, perhaps, an optimiser's, whose third and
/// fourth items may be an epoch and a step, and whose fifth may be a moving average of the weights; a `state_dict` alone; or a dict
/// with any of these under a usual name (`state_dict`, `model`, …; `optimizer`, …; `ema`, `params_ema`, …), and perhaps a `step`.
/// Nothing in the file is executed.
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
    let found = if is_optimizer(&pth, root) { Some(root) } else { parts(&pth).ok().and_then(|parts| parts.optimizer) };
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
        let Parts { program, weights, ema, only_average, optimizer: state, progress } = parts(&pth)?;
        let (network, prefix) = network(&pth, weights.value)?;
        let f64s = f64s(&pth, weights.value, &prefix)?;
        let of_average = ema.as_ref();
        let average = of_average.map(|ema| average(&pth, ema, &network)).transpose()?;
        let optimizer = state.map(|state| optimizer(&pth, state)).transpose()?;
        let (ema, from) = average.unzip();
        let of_average = |name| of_average.and_then(|part| pth.pickle().get(part.value, name));
        let ema_updates = of_average(NUM_UPDATES).and_then(Value::as_size);
        let ema_rate = of_average(DECAY).and_then(|rate| match rate {
            Value::Float(rate) => Some(*rate),
            Value::Int(rate) => Some(*rate as f64),
            _ => None,
        });
        let members = Members { weights: weights.name, ema: from, only_average };
        Ok(Self { program, network, f64s, prefix, ema, ema_updates, ema_rate, members, optimizer, progress })
    }

    /// The tensors of the average that are trained, which are those that NCSNv2's and Score-SDE's programs keep: no buffers, no
    /// frozen parameters. `None` if there is no average.
    pub fn averaged(&self) -> Option<impl Iterator<Item = &(String, HostTensor)>> {
        Some(trained(self.ema.as_ref()?))
    }
}

/// The tensors that training changes.
pub(super) fn trained(tensors: &[(String, HostTensor)]) -> impl Iterator<Item = &(String, HostTensor)> {
    tensors.iter().filter(|(name, tensor)| is_trained(name, &tensor.shape))
}

/// A part of a checkpoint, and what it is called in words.
struct Part<'v, 'a> {
    name: String,
    value: &'v Value<'a>,
}

/// The parts of a checkpoint that have a meaning.
struct Parts<'v, 'a> {
    program: Program,
    weights: Part<'v, 'a>,
    ema: Option<Part<'v, 'a>>,
    only_average: bool,
    optimizer: Option<&'v Value<'a>>,
    progress: Option<Progress>,
}

/// Finds the parts; an error names what there is and what was looked for.
fn parts<'v, 'a>(pth: &'v Pth<'_, 'a>) -> Result<Parts<'v, 'a>> {
    let pickle = pth.pickle();
    let is_weights = |value: &Value<'a>| is_weights(pth, value);
    let of_optimizer = |value: Option<&'v Value<'a>>| value.filter(|state| is_optimizer(pth, state));
    match pickle.root() {
        Value::List(items) | Value::Tuple(items) => {
            let item = |i: usize| items.get(i).map(|id| pickle.value(*id));
            let part = |i: usize| Some(Part { name: format!("item {} of a list", i + 1), value: item(i)? });
            let weights = part(0).filter(|part| is_weights(part.value)).ok_or_else(|| {
                let first = item(0).map_or("nothing".into(), |value| pth.kind(value));
                no_network(pth, &format!("a list that begins with {first}"))
            })?;
            let ema = part(FIFTH).filter(|part| is_weights(part.value));
            let count = |i: usize| item(i)?.as_size();
            let progress = count(THIRD).zip(count(FOURTH));
            let progress = progress.map(|(epoch, step)| Progress { epoch: Some(epoch), step });
            let program = if progress.is_some() { Program::NcsnV2 } else { Program::Ncsn };
            Ok(Parts { program, weights, ema, only_average: false, optimizer: of_optimizer(item(1)), progress })
        }
        root if is_weights(root) => {
            let weights = Part { name: "the whole file".into(), value: root };
            let program = Program::default();
            Ok(Parts { program, weights, ema: None, only_average: false, optimizer: None, progress: None })
        }
        root @ Value::Dict(_) => {
            let member = |name: &&str| Some(Part { name: format!("{name:?}"), value: pickle.get(root, name)? });
            let mut weights = WEIGHTS.iter().filter_map(member).find(|part| is_weights(part.value));
            // One that is a number is the average's rate, say.
            let mut ema = AVERAGES.iter().filter_map(member).find(|part| !pairs(part.value).is_empty());
            let only_average = weights.is_none();
            if only_average {
                // An average alone is a network.
                weights = ema.take().and_then(|ema| named_tensors(pth, ema));
            }
            let weights = weights.ok_or_else(|| no_network(pth, &keys(pth, root)))?;
            let optimizer = OPTIMIZERS.iter().find_map(|name| of_optimizer(pickle.get(root, name)));
            let is_score_sde = ema.as_ref().is_some_and(|ema| pickle.get(ema.value, SHADOW_PARAMS).is_some());
            let step = pickle.get(root, STEP).and_then(Value::as_size).filter(|_| is_score_sde);
            let progress = step.map(|step| Progress { epoch: None, step });
            let program = if progress.is_some() { Program::ScoreSde } else { Program::default() };
            Ok(Parts { program, weights, ema, only_average, optimizer, progress })
        }
        other => Err(no_network(pth, &pth.kind(other))),
    }
}

fn no_network(pth: &Pth<'_, '_>, found: &str) -> Error {
    let names: Vec<&str> = WEIGHTS.iter().chain(&AVERAGES).copied().collect();
    let message = format!(
        "holds no network: found {found}; expected a state_dict (names and tensors), alone, first in a list, or in a \
         dict as {}",
        names.join(", ")
    );
    Error::format(pth.path, message)
}

/// The keys of a dict with what they lead to, for errors.
fn keys<'a>(pth: &Pth<'_, 'a>, dict: &Value<'a>) -> String {
    let key = |(key, value): &(Id, Id)| {
        let key = pth.pickle().text(*key).map_or("a key that is no string".into(), shown);
        format!("{key} ({})", pth.kind(pth.pickle().value(*value)))
    };
    let pairs = pairs(dict);
    let mut keys: Vec<String> = pairs.iter().take(MAX_KEYS).map(key).collect();
    if pairs.len() > MAX_KEYS {
        keys.push(format!("and {} more", pairs.len() - MAX_KEYS));
    }
    match keys.is_empty() {
        true => "a dict without keys".into(),
        false => format!("the keys {}", keys.join(", ")),
    }
}

/// How many keys an error names.
const MAX_KEYS: usize = 6;

/// The part of an average that is a dict of tensors: all of it, or its `shadow`.
fn named_tensors<'v, 'a>(pth: &'v Pth<'_, 'a>, part: Part<'v, 'a>) -> Option<Part<'v, 'a>> {
    if is_weights(pth, part.value) {
        return Some(part);
    }
    let value = pth.pickle().get(part.value, SHADOW)?;
    is_weights(pth, value).then(|| Part { name: format!("{SHADOW:?} in {}", part.name), value })
}

/// The average of the weights `network`, and what it is made of in words. What it lacks is the network's.
fn average<'a>(
    pth: &Pth<'_, 'a>,
    part: &Part<'_, 'a>,
    network: &[(String, HostTensor)],
) -> Result<(Vec<(String, HostTensor)>, String)> {
    let bad = |message: String| Error::format(pth.path, format!("the average {}: {message}", part.name));
    let named = named_tensors(pth, Part { name: part.name.clone(), value: part.value });
    let averaged = match (named, pth.pickle().get(part.value, SHADOW_PARAMS)) {
        (Some(named), _) => self::network(pth, named.value)?.0,
        (None, Some(Value::List(ids) | Value::Tuple(ids))) => {
            let names = averaged_names(network, ids.len()).ok_or_else(|| {
                bad(format!(
                    "found {} tensors, expected one for each parameter of a network of {}",
                    ids.len(),
                    network.len()
                ))
            })?;
            let tensor = |(name, id): (&str, &Id)| Ok((name.to_string(), host(pth, name, pth.pickle().value(*id))?));
            names.into_iter().zip(ids).map(tensor).collect::<Result<_>>()?
        }
        _ => {
            let found = keys(pth, part.value);
            return Err(bad(format!("found {found}; expected names and tensors, {SHADOW} or {SHADOW_PARAMS}")));
        }
    };
    let mut averaged: HashMap<String, HostTensor> = averaged.into_iter().collect();
    let mut lacks = Vec::new();
    let all = network.iter().map(|(name, own)| match averaged.remove(name) {
        Some(tensor) if tensor.shape != own.shape => Err(bad(format!(
            "{} has shape {}, expected {}",
            shown(name),
            shown_shape(&tensor.shape),
            shown_shape(&own.shape)
        ))),
        Some(tensor) => Ok((name.clone(), tensor)),
        None => {
            pth.spend(own.values.len())?;
            if is_trained(name, &own.shape) {
                lacks.push(shown(name));
            }
            Ok((name.clone(), own.clone()))
        }
    });
    let all = all.collect::<Result<Vec<_>>>()?;
    if !averaged.is_empty() {
        let mut more: Vec<String> = averaged.keys().map(|name| shown(name)).collect();
        more.sort();
        return Err(bad(format!("found {}, which the network lacks", few(&more))));
    }
    let without = if lacks.is_empty() { String::new() } else { format!(", without {}", few(&lacks)) };
    Ok((all, format!("{}{without}", part.name)))
}

/// The names of the `n` tensors that an average has without names: those of the parameters, in the network's order.
fn averaged_names(network: &[(String, HostTensor)], n: usize) -> Option<Vec<&str>> {
    let named = |is_meant: fn(&str, &HostTensor) -> bool| -> Vec<&str> {
        let meant = network.iter().filter(|(name, tensor)| is_meant(name, tensor));
        meant.map(|(name, _)| name.as_str()).collect()
    };
    [named(|name, _| !is_buffer(name)), named(|name, tensor| is_trained(name, &tensor.shape))]
        .into_iter()
        .find(|names| names.len() == n)
}

/// Whether a program registers the tensor as no parameter: its optimiser does not number it.
pub(in crate::checkpoint) fn is_buffer(name: &str) -> bool {
    BUFFERS.contains(&last_of(name))
}

/// Whether training changes the parameter: frequencies stay, but matrices of that name do not.
pub(in crate::checkpoint) fn is_trained(name: &str, shape: &[usize]) -> bool {
    !is_buffer(name) && (last_of(name) != FREQUENCIES || shape.len() != 1)
}

fn last_of(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
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

/// Named tensors, without the prefix that all their names have, and the prefix.
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
        if name.ends_with(N_BATCHES) {
            continue;
        }
        network.push((name.to_string(), host(pth, name, pth.pickle().value(*id))?));
    }
    let n_prefix = prefix_len(network.iter().map(|(name, tensor)| (name.as_str(), &tensor.shape[..])));
    let prefix = network.first().map_or("", |(name, _)| &name[..n_prefix]).to_string();
    for (name, _) in &mut network {
        name.drain(..n_prefix);
    }
    Ok((network, prefix))
}

/// The numbers of those named tensors that are of f64, by name without the prefix.
fn f64s<'a>(pth: &Pth<'_, 'a>, weights: &Value<'a>, prefix: &str) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut all = BTreeMap::new();
    for (name, id) in pairs(weights) {
        let Some(name) = pth.pickle().text(*name).filter(|name| !name.ends_with(N_BATCHES)) else { continue };
        let view = pth.view(pth.pickle().value(*id)).map_err(|why| pth.bad(name, &why))?;
        if view.item() == Item::F64 {
            pth.spend(name.len() + view.n_items())?;
            all.insert(name[prefix.len()..].to_string(), view.f64s().expect("items of f64"));
        }
    }
    Ok(all)
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
        let mut kept = Vec::with_capacity(values.len());
        pth.spend(1)?;
        for (name, value) in values {
            let no_name = || bad(format!("parameter {param} has a value without a name"));
            let name = pickle.text(*name).ok_or_else(no_name)?;
            pth.spend(1 + name.len())?;
            let value = state_value(pth, &format!("{name} of parameter {param}"), pickle.value(*value))?;
            kept.push((name, value));
        }
        if state.insert(param, kept.into_iter().collect()).is_some() {
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
    let mut settings = Vec::new();
    for (name, value) in pairs(value) {
        let name = pickle.text(*name).ok_or_else(|| bad("a setting has a name that is no string"))?;
        pth.spend(1 + name.len())?;
        if name != "params"
            && let Some(setting) = setting(pth, name, pickle.value(*value))?
        {
            settings.push((name, setting));
        }
    }
    Ok(Group { params, settings: settings.into_iter().collect() })
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
        value => Err(pth.bad(name, &format!("is {}, expected a number or a tensor", pth.kind(value)))),
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
