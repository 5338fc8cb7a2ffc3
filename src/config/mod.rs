//! Configuration files: the only place where names in a file become types.
//!
//! The keys are the published program's; ours are marked. Each has the published value as its default, apart from
//! `data`, which must be given.

mod experiment;
mod section;
mod yaml;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use section::Section;
use yaml::{Entry, Node, Place, Value};

pub use crate::data::Dataset;
use crate::data::{SETS, Set};
use crate::error::one_of;
use crate::error::{Error, Result};
use crate::file::read_at_most;
pub use crate::loss::Slicing;
pub use crate::net::Architecture;
use crate::net::MLP_WIDTH;
use crate::net::{InputRange, NetworkConfig};

/// What a file configures.
#[derive(Clone, Debug, PartialEq)]
pub enum File {
    /// A run on images.
    Images(Box<Config>),
    /// The experiments in the plane, whose published file holds nothing but a placeholder.
    Toy,
}

impl File {
    /// The configuration of a run on images; `name` is that of the file, for the error.
    ///
    /// # Errors
    /// When it is none.
    pub fn images(self, name: &str) -> Result<Config> {
        match self {
            Self::Images(config) => Ok(*config),
            Self::Toy => Err(Error::Usage(format!(
                "{name} is the configuration of ToyRunner, expected one that trains on images"
            ))),
        }
    }
}

/// A run on images.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `training:`
    pub training: Training,
    /// `data:`
    pub data: Data,
    /// `model:`
    pub model: Model,
    /// `optim:`
    pub optim: Optim,
    /// `sampling:` (ours)
    pub sampling: Sampling,
}

/// A family of experiments of the published program, which names the network and the loss that a file leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// NCSN: a network conditional on many noise levels.
    Anneal,
    /// One noise level, plain Langevin dynamics.
    Baseline,
    /// Sliced score matching with and without a little noise.
    ScoreNet,
    /// The plane.
    Toy,
}

const RUNNERS: [(Runner, [&str; 2]); 4] = [
    (Runner::Anneal, ["AnnealRunner", "anneal"]),
    (Runner::Baseline, ["BaselineRunner", "baseline"]),
    (Runner::ScoreNet, ["ScoreNetRunner", "scorenet"]),
    (Runner::Toy, ["ToyRunner", "toy"]),
];

impl std::str::FromStr for Runner {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = RUNNERS.iter().find(|(_, names)| names.contains(&name));
        found.map(|(runner, _)| *runner).ok_or_else(|| {
            let names: Vec<&str> = RUNNERS.iter().map(|(_, names)| names[0]).collect();
            Error::Usage(format!("found runner {name:?}, expected one of {}", names.join(", ")))
        })
    }
}

impl Runner {
    /// The published program's name.
    pub fn name(self) -> &'static str {
        RUNNERS.iter().find(|(runner, _)| *runner == self).map_or("", |(_, names)| names[0])
    }

    /// Whose networks these are.
    pub fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Ncsn | Architecture::Deeper => Self::Anneal,
            Architecture::Baseline => Self::Baseline,
            _ => Self::ScoreNet,
        }
    }

    fn default_architecture(self) -> Architecture {
        match self {
            Self::Anneal | Self::Toy => Architecture::Ncsn,
            Self::Baseline => Architecture::Baseline,
            Self::ScoreNet => Architecture::ResScore,
        }
    }
}

/// How long and on what loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Images a step.
    pub batch_size: usize,
    /// Passes over the data, at most.
    pub n_epochs: u64,
    /// Steps, at most.
    pub n_iters: u64,
    /// GPUs; read and ignored.
    pub n_gpu: usize,
    /// Steps between checkpoints.
    pub snapshot_freq: u64,
    /// Denoising or sliced score matching.
    pub algo: Algo,
    /// Projections of sliced score matching.
    pub n_particles: usize,
    /// Ours: how sliced score matching finds its products with the Jacobian.
    pub slicing: Slicing,
    /// p of the loss weight σᵖ.
    pub anneal_power: f64,
    /// σ of the noise added by the ScoreNet runner.
    pub noise_std: f64,
    /// Ours: the seed of all randomness; the program's `--seed` comes first.
    pub seed: Option<u64>,
    /// Ours: rate of the moving average of the weights.
    pub ema_rate: Option<f64>,
    /// Ours: largest global norm of the gradient.
    pub grad_clip: Option<f64>,
    /// Ours: steps between evaluations of a test batch.
    pub test_freq: u64,
    /// Ours: steps between records of the loss.
    pub log_freq: u64,
}

/// The loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algo {
    /// Denoising score matching.
    Dsm,
    /// Sliced score matching.
    Ssm,
}

/// The images.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Which.
    pub dataset: Dataset,
    /// Height and width in pixels.
    pub image_size: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
    /// Train on logits of the pixels.
    pub logit_transform: bool,
    /// Mirror images at random.
    pub random_flip: bool,
}

/// The network and its noise levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Ours: the network of the paper or its deeper variant.
    pub architecture: Architecture,
    /// σ₁.
    pub sigma_begin: f64,
    /// σ_L.
    pub sigma_end: f64,
    /// L.
    pub num_classes: usize,
    /// Channels of the first stage.
    pub ngf: usize,
    /// ScoreNet's encoder channels.
    pub nef: usize,
    /// ScoreNet's decoder channels.
    pub ndf: usize,
    /// Keys of ScoreNet's published file that nothing reads: kept so that it round-trips.
    pub unused: Unused,
}

/// See [`Model::unused`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unused {
    /// `n_particles`
    pub n_particles: Option<usize>,
    /// `lam`
    pub lam: Option<f64>,
    /// `z_dim`
    pub z_dim: Option<usize>,
}

/// The optimiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Optim {
    /// Which.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Adam's decay of the mean.
    pub beta1: f64,
    /// Ours: Adam's decay of the squares.
    pub beta2: f64,
    /// Ours: added to the root.
    pub eps: f64,
    /// Ours: SGD's momentum.
    pub momentum: f64,
    /// L2, added to the gradient.
    pub weight_decay: f64,
    /// Adam's variant.
    pub amsgrad: bool,
}

/// An update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// Adam, with AMSGrad if `amsgrad`.
    Adam,
    /// RMSProp.
    RmsProp,
    /// SGD with momentum.
    Sgd,
}

/// Ours: Langevin dynamics, whose constants the published program fixes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// T, steps at each level.
    pub n_steps_each: usize,
    /// Step size at σ_L.
    pub step_lr: f64,
    /// Samples drawn at each snapshot; 0 for none.
    pub snapshot_images: u64,
    /// Samples drawn when training is done.
    pub final_images: u64,
}

/// The files built into the program.
const BUILT_IN: [(&str, &str); 6] = [
    ("quickstart.yml", include_str!("../../configs/quickstart.yml")),
    ("anneal.yml", include_str!("../../configs/anneal.yml")),
    ("cifar10.yml", include_str!("../../configs/cifar10.yml")),
    ("baseline.yml", include_str!("../../configs/baseline.yml")),
    ("scorenet.yml", include_str!("../../configs/scorenet.yml")),
    ("toy.yml", include_str!("../../configs/toy.yml")),
];

impl Config {
    /// Reads the file `name`: as given, else in `configs/`, else among those built in. `overrides` are
    /// `section.key=value`; `runner` decides on the network where the file leaves it open. Gives the configuration and
    /// where it was found.
    ///
    /// # Errors
    /// When there is no such file, or it is refused by [`Config::parse`].
    pub fn load(name: &str, overrides: &[String], runner: Option<Runner>) -> Result<(File, String)> {
        for path in [PathBuf::from(name), Path::new("configs").join(name)] {
            if path.exists() {
                let bytes = read_at_most(&path, yaml::MAX_BYTES as u64)?;
                let text =
                    String::from_utf8(bytes).map_err(|_| Error::format(&path, "found bytes that are no UTF-8 text"))?;
                let place = path.display().to_string();
                return Ok((Self::parse(&text, &place, overrides, runner)?, place));
            }
        }
        let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            let message = format!("found no {name}, neither here nor in configs/; built in are {}", names.join(", "));
            return Err(Error::Usage(message));
        };
        Ok((Self::parse(text, name, overrides, runner)?, (*name).to_string()))
    }

    /// The keys of every section, as `section.key`.
    fn keys() -> Vec<String> {
        let Ok(File::Images(config)) = Self::parse(BUILT_IN[0].1, BUILT_IN[0].0, &[], None) else {
            unreachable!("the built-in files are valid")
        };
        let text = config.to_yaml();
        let mut section = "";
        let keys = text.lines().filter_map(|line| match line.strip_prefix("  ") {
            Some(entry) => entry.split_once(':').map(|(key, _)| format!("{section}.{key}")),
            None => {
                section = line.trim_end_matches(':');
                None
            }
        });
        keys.collect()
    }

    /// Reads `text`, the content of the file `source`.
    ///
    /// # Errors
    /// On anything unknown, of the wrong type or impossible, with its line.
    pub fn parse(text: &str, source: &str, overrides: &[String], runner: Option<Runner>) -> Result<File> {
        let root = yaml::parse(text, source)?;
        let Value::Mapping(mut entries) = root.value else {
            let message = format!("found {}, expected a mapping", root.value.describe());
            return Err(Error::Config { place: root.place.show(source), message });
        };
        for text in overrides {
            apply(&mut entries, text)?;
        }
        let has_data = entries.iter().any(|entry| entry.key == "data");
        let mut root = Section::new(source, "", root.place, entries);
        let placeholder = root.value("placeholder", "a word", |text| Some(text.to_string()))?;
        let file = if placeholder.is_some() && !has_data {
            File::Toy
        } else {
            File::Images(Box::new(Self::read(&mut root, runner)?))
        };
        // The published program keeps its device in the same object; a saved file may hold it.
        root.ignore("device");
        root.finish(Self::keys)?;
        Ok(file)
    }

    fn read(root: &mut Section<'_>, runner: Option<Runner>) -> Result<Self> {
        let model = Model::read(root.section("model")?, runner)?;
        Ok(Self {
            training: Training::read(root.section("training")?)?,
            data: Data::read(root.section("data")?, model.architecture)?,
            sampling: Sampling::read(root.section("sampling")?, model.architecture)?,
            model,
            optim: Optim::read(root.section("optim")?)?,
        })
    }

    /// What the network is built from.
    pub fn network(&self) -> NetworkConfig {
        NetworkConfig {
            architecture: self.model.architecture,
            channels: self.data.channels,
            width: match self.model.architecture {
                Architecture::MlpScore => MLP_WIDTH,
                architecture if architecture.width_key() == "nef" => self.model.nef,
                _ => self.model.ngf,
            },
            size: self.data.image_size,
            n_levels: if self.model.architecture.is_conditional() { self.model.num_classes } else { 1 },
            input: if self.data.logit_transform { InputRange::Logit } else { InputRange::Unit },
        }
    }

    /// The first key in whose value `other` differs, in words; `None` if none does.
    pub fn difference(&self, other: &Config) -> Option<String> {
        let [ours, theirs] = [self, other].map(Self::to_yaml);
        let mut section = "";
        for (a, b) in ours.lines().zip(theirs.lines()) {
            match (a.trim().split_once(": "), b.split_once(": ")) {
                (Some((key, a)), Some((_, b))) if a != b => return Some(format!("{section}.{key} is {b}, not {a}")),
                (None, _) => section = a.trim_end_matches(':'),
                _ => {}
            }
        }
        None
    }

    /// The whole configuration as a file, which [`Config::parse`] reads back equal.
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut section = |name: &str, entries: &[(&str, Option<String>)]| {
            let _ = writeln!(out, "{name}:");
            for (key, value) in entries {
                let _ = writeln!(out, "  {key}: {}", value.as_deref().unwrap_or("null"));
            }
        };
        // `{:?}` of a float is the shortest text that reads back as the same number; PyYAML wants a point before an e.
        let float = |x: f64| {
            let text = format!("{x:?}");
            Some(if text.contains('.') { text } else { text.replace('e', ".0e") })
        };
        let some = |x: &dyn ToString| Some(x.to_string());
        let Self { training: t, data: d, model: m, optim: o, sampling: s } = self;
        section(
            "training",
            &[
                ("batch_size", some(&t.batch_size)),
                ("n_epochs", some(&t.n_epochs)),
                ("n_iters", some(&t.n_iters)),
                ("ngpu", some(&t.n_gpu)),
                ("snapshot_freq", some(&t.snapshot_freq)),
                ("algo", some(&if t.algo == Algo::Dsm { "dsm" } else { "ssm" })),
                ("n_particles", some(&t.n_particles)),
                ("slicing", Some(name_in(&SLICINGS, &t.slicing))),
                ("anneal_power", float(t.anneal_power)),
                ("noise_std", float(t.noise_std)),
                ("seed", t.seed.as_ref().and_then(|x| some(x))),
                ("ema_rate", t.ema_rate.and_then(float)),
                ("grad_clip", t.grad_clip.and_then(float)),
                ("test_freq", some(&t.test_freq)),
                ("log_freq", some(&t.log_freq)),
            ],
        );
        // A JSON string is a YAML string, whatever is in it.
        let path = d.dataset.path.as_ref().and_then(|path| serde_json::to_string(&path.to_string_lossy()).ok());
        section(
            "data",
            &[
                ("dataset", some(&d.dataset.name())),
                ("path", path),
                ("image_size", some(&d.image_size)),
                ("channels", some(&d.channels)),
                ("logit_transform", some(&d.logit_transform)),
                ("random_flip", some(&d.random_flip)),
            ],
        );
        section(
            "model",
            &[
                ("architecture", Some(name_in(&ARCHITECTURES, &m.architecture))),
                ("sigma_begin", float(m.sigma_begin)),
                ("sigma_end", float(m.sigma_end)),
                ("num_classes", some(&m.num_classes)),
                ("batch_norm", some(&false)),
                ("ngf", some(&m.ngf)),
                ("nef", some(&m.nef)),
                ("ndf", some(&m.ndf)),
                ("n_particles", m.unused.n_particles.as_ref().and_then(|x| some(x))),
                ("lam", m.unused.lam.and_then(float)),
                ("z_dim", m.unused.z_dim.as_ref().and_then(|x| some(x))),
            ],
        );
        section(
            "optim",
            &[
                ("optimizer", Some(name_in(&OPTIMIZERS, &o.optimizer))),
                ("lr", float(o.lr)),
                ("beta1", float(o.beta1)),
                ("beta2", float(o.beta2)),
                ("eps", float(o.eps)),
                ("momentum", float(o.momentum)),
                ("weight_decay", float(o.weight_decay)),
                ("amsgrad", some(&o.amsgrad)),
            ],
        );
        section(
            "sampling",
            &[
                ("n_steps_each", some(&s.n_steps_each)),
                ("step_lr", float(s.step_lr)),
                ("snapshot_images", some(&s.snapshot_images)),
                ("final_images", some(&s.final_images)),
            ],
        );
        out
    }
}

fn name_in<T: PartialEq>(names: &[(&str, T)], value: &T) -> String {
    names.iter().find(|(_, known)| known == value).map_or_else(String::new, |(name, _)| (*name).to_string())
}

/// Puts `section.key=value` into the tree.
fn apply(entries: &mut Vec<Entry>, text: &str) -> Result<()> {
    let place = Place::Set(text.to_string());
    let error = |message: &str| Error::Config { place: place.show(""), message: message.to_string() };
    let (path, value) = text.split_once('=').ok_or_else(|| error("expected SECTION.KEY=VALUE"))?;
    let (section, key) = path.split_once('.').ok_or_else(|| error("expected SECTION.KEY=VALUE"))?;
    // What is no plain value may be meant as a text: see `Section::text_or_none`.
    let plain = yaml::parse(value, "--set").map(|node| node.value).ok().filter(|v| matches!(v, Value::Scalar { .. }));
    let value = plain.unwrap_or_else(|| Value::Scalar { text: value.to_string(), quoted: false });
    let node = Node { place: place.clone(), value };
    let entry = Entry { key: key.to_string(), place: place.clone(), node };
    let found = entries.iter().position(|entry| entry.key == section);
    let at = found.unwrap_or_else(|| {
        let node = Node { place: place.clone(), value: Value::Mapping(Vec::new()) };
        entries.push(Entry { key: section.to_string(), place: place.clone(), node });
        entries.len() - 1
    });
    match &mut entries[at].node.value {
        Value::Mapping(inner) => {
            inner.retain(|other| other.key != key);
            inner.push(entry);
            Ok(())
        }
        other => Err(error(&format!("{section} is {}, expected a mapping", other.describe()))),
    }
}

const POSITIVE: &str = "a positive number";
const FRACTION: &str = "a number from 0 to below 1";

/// In f32 too, as which most of them are used.
fn positive(x: f64) -> bool {
    x as f32 > 0.0 && (x as f32).is_finite()
}

fn fraction(x: f64) -> bool {
    (0.0..1.0).contains(&x)
}

const SLICINGS: [(&str, Slicing); 2] = [("exact", Slicing::Exact), ("finite_difference", Slicing::FiniteDifference)];

impl Training {
    fn read(mut s: Section<'_>) -> Result<Self> {
        let any = 1..=u64::MAX;
        let training = Self {
            batch_size: s.count("batch_size", 1..=65_536, 128)?,
            n_epochs: s.count("n_epochs", any.clone(), 500_000)?,
            n_iters: s.count("n_iters", any.clone(), 200_001)?,
            n_gpu: s.count("ngpu", 0..=1024, 1)?,
            snapshot_freq: s.count("snapshot_freq", any.clone(), 5_000)?,
            algo: s.word("algo", &[("dsm", Algo::Dsm), ("ssm", Algo::Ssm)])?.unwrap_or(Algo::Dsm),
            n_particles: s.count("n_particles", 1..=1024, 1)?,
            slicing: s.word("slicing", &SLICINGS)?.unwrap_or_default(),
            anneal_power: s.number("anneal_power", "a number from -10 to 10", |x| x.abs() <= 10.0, 2.0)?,
            noise_std: s.number("noise_std", "a number from 0", |x| x >= 0.0, 0.01)?,
            seed: s.count_or_none("seed", 0..=u64::MAX)?,
            ema_rate: s.number_or_none("ema_rate", "a number between 0 and 1", |x| x > 0.0 && x < 1.0)?,
            grad_clip: s.number_or_none("grad_clip", POSITIVE, positive)?,
            test_freq: s.count("test_freq", any.clone(), 100)?,
            log_freq: s.count("log_freq", any, 1)?,
        };
        s.finish(Config::keys)?;
        Ok(training)
    }
}

impl Data {
    fn read(mut s: Section<'_>, architecture: Architecture) -> Result<Self> {
        let path = s.text_or_none("path", "a folder")?.map(PathBuf::from);
        let names: Vec<(&str, &'static Set)> = SETS.iter().map(|set| (set.name, set)).collect();
        let set = s.word("dataset", &names)?;
        let set = s.required("dataset", set, &one_of(SETS.iter().map(|set| set.name)))?;
        let path = match path {
            Some(_) if !set.needs_path => {
                return Err(s.error("path", "found data.path, expected it only with data.dataset FOLDER"));
            }
            None if set.needs_path => {
                s.required("path", None, "the folder of images that data.dataset FOLDER means")?
            }
            path => path,
        };
        let dataset = Dataset { set, path };
        let size = s.count_or_none("image_size", 4..=1024)?;
        let image_size = s.required("image_size", size, "the height and width of the images in pixels")?;
        if !architecture.sizes().contains(image_size) {
            let (sizes, network) = (architecture.sizes(), name_in(&ARCHITECTURES, &architecture));
            let message = format!("data.image_size is {image_size}, expected {sizes}: {network} takes no other");
            return Err(s.error("image_size", message));
        }
        let channels = s.value("channels", "1 or 3", |text| text.parse().ok().filter(|c| [1, 3].contains(c)))?;
        let channels = s.required("channels", channels, "1 (grey) or 3 (colour)")?;
        if let Some(expected) = dataset.fixed_channels().filter(|&expected| expected != channels) {
            let message = format!("data.channels is {channels}, expected {expected} for {}", dataset.name());
            return Err(s.error("channels", message));
        }
        if architecture == Architecture::ResScore && channels != 3 {
            return Err(s.error("channels", format!("data.channels is {channels}, but ResScore needs 3 channels")));
        }
        let logit_transform = s.flag("logit_transform", false)?;
        let random_flip = s.flag("random_flip", false)?;
        s.finish(Config::keys)?;
        Ok(Self { dataset, image_size, channels, logit_transform, random_flip })
    }
}

const ARCHITECTURES: [(&str, Architecture); 10] = [
    ("ncsn", Architecture::Ncsn),
    ("deeper", Architecture::Deeper),
    ("baseline", Architecture::Baseline),
    ("resscore", Architecture::ResScore),
    ("resnetscore", Architecture::ResNetScore),
    ("unetscore", Architecture::UNetScore),
    ("unetresscore", Architecture::UNetResScore),
    ("score", Architecture::Score),
    ("smallscore", Architecture::SmallScore),
    ("mlpscore", Architecture::MlpScore),
];

impl Model {
    fn read(mut s: Section<'_>, runner: Option<Runner>) -> Result<Self> {
        let default = runner.unwrap_or(Runner::Anneal).default_architecture();
        let architecture = s.word("architecture", &ARCHITECTURES)?.unwrap_or(default);
        if let Some(runner) = runner.filter(|runner| *runner != Runner::of(architecture)) {
            let name = name_in(&ARCHITECTURES, &architecture);
            let message = format!("model.architecture is {name}, which is not one of {}'s", runner.name());
            return Err(s.error("architecture", message));
        }
        let sigma_begin = s.number("sigma_begin", POSITIVE, positive, 1.0)?;
        let sigma_end = s.number("sigma_end", POSITIVE, positive, 0.01)?;
        if sigma_end >= sigma_begin {
            return Err(s.error("sigma_end", format!("sigma_end {sigma_end} must be below sigma_begin {sigma_begin}")));
        }
        if s.flag("batch_norm", false)? {
            return Err(
                s.error("batch_norm", "model.batch_norm is true, expected false: the network has instance norms only")
            );
        }
        let model = Self {
            architecture,
            sigma_begin,
            sigma_end,
            num_classes: s.count("num_classes", 1..=10_000, 10)?,
            // One channel has no variance over channels, which instance norm++ takes.
            ngf: s.count("ngf", 2..=1024, 64)?,
            nef: s.count("nef", 1..=1024, 32)?,
            ndf: s.count("ndf", 1..=1024, 32)?,
            unused: Unused {
                n_particles: s.count_or_none("n_particles", 1..=1024)?,
                lam: s.number_or_none("lam", "a number", |_| true)?,
                z_dim: s.count_or_none("z_dim", 1..=1_000_000)?,
            },
        };
        let multiple = architecture.width_multiple();
        if architecture.width_key() == "nef" && (model.nef != model.ndf || !model.nef.is_multiple_of(multiple)) {
            let (nef, ndf, network) = (model.nef, model.ndf, name_in(&ARCHITECTURES, &architecture));
            let message = format!(
                "model.nef is {nef} and model.ndf {ndf}, expected the same multiple of {multiple} for {network}"
            );
            return Err(s.error("nef", message));
        }
        s.finish(Config::keys)?;
        Ok(model)
    }
}

const OPTIMIZERS: [(&str, Optimizer); 3] =
    [("Adam", Optimizer::Adam), ("RMSProp", Optimizer::RmsProp), ("SGD", Optimizer::Sgd)];

impl Optim {
    fn read(mut s: Section<'_>) -> Result<Self> {
        let optim = Self {
            optimizer: s.word("optimizer", &OPTIMIZERS)?.unwrap_or(Optimizer::Adam),
            lr: s.number("lr", POSITIVE, positive, 0.001)?,
            beta1: s.number("beta1", FRACTION, fraction, 0.9)?,
            beta2: s.number("beta2", FRACTION, fraction, 0.999)?,
            eps: s.number("eps", POSITIVE, positive, 1e-8)?,
            momentum: s.number("momentum", FRACTION, fraction, 0.9)?,
            weight_decay: s.number("weight_decay", "a number from 0", |x| x >= 0.0, 0.0)?,
            amsgrad: s.flag("amsgrad", false)?,
        };
        s.finish(Config::keys)?;
        Ok(optim)
    }
}

impl Sampling {
    fn read(mut s: Section<'_>, architecture: Architecture) -> Result<Self> {
        // The published runners' numbers: 100 steps at each of 10 levels, or 1000 at the only one.
        let n_steps_each = if architecture.is_conditional() { 100 } else { 1000 };
        let sampling = Self {
            n_steps_each: s.count("n_steps_each", 1..=1_000_000, n_steps_each)?,
            step_lr: s.number("step_lr", POSITIVE, positive, 2e-5)?,
            snapshot_images: s.count("snapshot_images", 0..=400, 9)?,
            final_images: s.count("final_images", 1..=400, 25)?,
        };
        s.finish(Config::keys)?;
        Ok(sampling)
    }
}
