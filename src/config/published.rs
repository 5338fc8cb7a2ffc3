//! The dialects of the published programs' files: what a file leaves open, which keys nothing reads, which key gives a width.
//! Nothing else knows them.
//!
//! NCSN's files leave the network and much of the loss to the runner on the command line. A program whose files differ adds
//! its values to [`defaults`], its keys that nothing reads to [`Unused`], and what it refuses to [`check`].

use std::fmt;
use std::str::FromStr;

use super::fields::{Fields, Flag, Number, OneOf, OrNone};
use super::reader::Reader;
use super::sampling::Method;
use super::training::{SDES, Sde};
use super::unet::EmbeddingType;
use super::{Config, Model};
use crate::data::{SETS, Set, Split};
use crate::error::{Error, Result};
use crate::net::{Activation, Architecture, Dimensions, NetworkConfig, NormKind};

/// A family of experiments of NCSN's program, which names the network and the loss that a file leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// NCSN: a network conditional on many noise levels.
    Anneal,
    /// The baseline: one noise level, plain Langevin dynamics.
    Baseline,
    /// Sliced score matching with and without a little noise.
    ScoreNet,
    /// The 2-D toy experiments.
    Toy,
    /// NCSNv2: one network for all noise levels, in a program of its own.
    NcsnV2,
    /// Score-SDE: U-Nets and continuous times, in a program of its own.
    ScoreSde,
    /// The classifier of images as the process of any file perturbs them.
    Classifier,
}

const RUNNERS: [(Runner, [&str; 2]); 7] = [
    (Runner::Anneal, ["AnnealRunner", "anneal"]),
    (Runner::Baseline, ["BaselineRunner", "baseline"]),
    (Runner::ScoreNet, ["ScoreNetRunner", "scorenet"]),
    (Runner::Toy, ["ToyRunner", "toy"]),
    (Runner::NcsnV2, ["NCSNRunner", "ncsnv2"]),
    (Runner::ScoreSde, ["ScoreSde", "score_sde"]),
    (Runner::Classifier, ["Classifier", "classifier"]),
];

impl FromStr for Runner {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = RUNNERS.iter().find(|(_, names)| names.contains(&name));
        found.map(|(runner, _)| *runner).ok_or_else(|| {
            let names: Vec<&str> = RUNNERS.iter().map(|(_, names)| names[0]).collect();
            Error::unexpected(format!("runner {name:?}"), format!("one of {}", names.join(", ")))
        })
    }
}

impl Runner {
    /// The published program's name.
    pub fn name(self) -> &'static str {
        RUNNERS.iter().find(|(runner, _)| *runner == self).map_or("", |(_, names)| names[0])
    }

    /// The runner that trains such a network.
    pub fn of(architecture: Architecture) -> Self {
        match architecture {
            Architecture::Ncsn | Architecture::Deeper => Self::Anneal,
            Architecture::Baseline => Self::Baseline,
            Architecture::NcsnV2 | Architecture::NcsnV2Deeper | Architecture::NcsnV2Deepest => Self::NcsnV2,
            Architecture::Ddpm | Architecture::NcsnPp => Self::ScoreSde,
            Architecture::WideResNet => Self::Classifier,
            _ => Self::ScoreNet,
        }
    }

    fn default_architecture(self) -> Architecture {
        match self {
            Self::Anneal | Self::Toy => Architecture::Ncsn,
            Self::Baseline => Architecture::Baseline,
            Self::ScoreNet => Architecture::ResScore,
            Self::NcsnV2 => Architecture::NcsnV2,
            Self::ScoreSde => Architecture::NcsnPp,
            Self::Classifier => Architecture::WideResNet,
        }
    }

    /// T, the steps of Langevin dynamics at each noise level, which the program fixes: of ten levels, or at the only one.
    fn n_steps_each(self) -> usize {
        match self {
            Self::Anneal | Self::Toy => 100,
            Self::Baseline | Self::ScoreNet => 1000,
            Self::NcsnV2 => 5,
            Self::ScoreSde | Self::Classifier => 1,
        }
    }

    /// What stands before each parameter's name in a checkpoint: a network for several GPUs is wrapped in a module.
    pub fn prefix(self) -> &'static str {
        if matches!(self, Self::ScoreNet | Self::Classifier) { "" } else { "module." }
    }

    /// Whether the pixels of training images are dequantised. ScoreNet's runner adds Gaussian noise instead, or none: that is its
    /// experiment.
    pub(super) fn dequantises(self) -> bool {
        !matches!(self, Self::ScoreNet | Self::NcsnV2 | Self::ScoreSde | Self::Classifier)
    }
}

/// A published program; each keeps its checkpoints in a layout of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Program {
    /// NCSN's, with all of its runners.
    #[default]
    Ncsn,
    /// NCSNv2's, which also has NCSN's networks.
    NcsnV2,
    /// Score-SDE's, which has the networks of both, too.
    ScoreSde,
}

impl Program {
    /// The program that such a network comes from first.
    pub fn of(architecture: Architecture) -> Self {
        match Runner::of(architecture) {
            Runner::NcsnV2 => Self::NcsnV2,
            Runner::ScoreSde => Self::ScoreSde,
            _ => Self::Ncsn,
        }
    }
}

impl Config {
    /// The program that the configuration was written for.
    pub fn program(&self) -> Program {
        if self.training.sde.is_some() {
            return Program::ScoreSde;
        }
        // Only NCSNv2's files choose the normalisation, and those that leave it open are given its default.
        if self.model.normalization.is_some() { Program::NcsnV2 } else { Program::of(self.model.architecture) }
    }

    /// The part of the data set whose statistics checkpoints are chosen by: NCSNv2's program has those of CelebA's test images, else of
    /// training images.
    pub fn fast_fid_split(&self) -> Split {
        match self.program() {
            Program::NcsnV2 if self.data.dataset.name() == "CELEBA" => Split::Test,
            _ => Split::Train,
        }
    }
}

/// Whether the file is that of the toy experiments, which has nothing to configure.
pub(super) fn is_toy(file: &mut Reader<'_>) -> Result<bool> {
    let mut placeholder = String::new();
    file.key("placeholder", &mut placeholder, super::fields::Text("a word"))?;
    Ok(file.has("placeholder") && !file.has("data"))
}

/// The names of keys in files of Score-SDE's program, and those that NCSN's program has for the same.
const SCORE_SDE: [[&str; 2]; 10] = [
    ["seed", "training.seed"],
    ["training.eval_freq", "training.test_freq"],
    ["data.num_channels", "data.channels"],
    ["data.centered", "data.rescaled"],
    ["data.tfrecords_path", "data.path"],
    ["model.sigma_max", "model.sigma_begin"],
    ["model.sigma_min", "model.sigma_end"],
    ["model.num_scales", "model.num_classes"],
    ["model.nf", "model.ngf"],
    ["optim.grad_clip", "training.grad_clip"],
];

/// In [`SCORE_SDE`] a negative bound of the gradient is none.
const NEGATIVE: Number = Number { expected: "a negative number", valid: |x| x < 0.0 };

/// Brings a file to the names that are known here.
pub(super) fn translate(file: &mut Reader<'_>, runner: Option<Runner>) -> Result<()> {
    let may_be_off = file.peek("optim.grad_clip", NEGATIVE).is_some();
    SCORE_SDE.into_iter().try_for_each(|[from, to]| file.rename(from, to))?;
    if may_be_off && file.peek("training.grad_clip", NEGATIVE).is_some() {
        file.take("training.grad_clip");
    }
    if is_of_score_sde(file) && file.peek("model.normalization", &[("GroupNorm", ())]).is_some() {
        // The networks that say it have no other.
        file.take("model.normalization");
    }
    if runner == Some(Runner::Classifier) {
        // It classifies what the file's network is trained on.
        for key in ["model.architecture", "model.name"] {
            file.take(key);
        }
    }
    Ok(())
}

/// Whether a file is one of Score-SDE's program.
fn is_of_score_sde(file: &Reader<'_>) -> bool {
    let architecture = given_architecture(file);
    file.has("training.sde") || architecture.is_some_and(|architecture| Runner::of(architecture) == Runner::ScoreSde)
}

/// The network that a file names.
fn given_architecture(file: &Reader<'_>) -> Option<Architecture> {
    file.peek("model.architecture", &Architecture::NAMES).or_else(|| file.peek("model.name", &NAMES))
}

/// The values of the keys that a file leaves open, by the program that it was written for.
pub(super) fn defaults(file: &Reader<'_>, runner: Option<Runner>) -> Config {
    let mut config = Config::default();
    let by_program = || match (is_of_score_sde(file), is_of_ncsnv2(file)) {
        _ if runner == Some(Runner::Classifier) => Architecture::WideResNet,
        (true, _) => Architecture::NcsnPp,
        (false, true) => by_data_set(file),
        (false, false) => runner.unwrap_or(Runner::Anneal).default_architecture(),
    };
    config.model.architecture = given_architecture(file).unwrap_or_else(by_program);
    if is_of_score_sde(file) {
        config.model.nonlinearity = Activation::Swish;
        let is_ve = file.peek("training.sde", &SDES) == Some(Sde::Ve);
        let is_fourier = is_ve && file.peek("training.continuous", Flag) == Some(true);
        let u_net = &mut config.model.u_net;
        u_net.embedding_type = if is_fourier { EmbeddingType::Fourier } else { EmbeddingType::Positional };
        u_net.scale_by_sigma = is_ve;
        (config.model.ema, config.training.ema_warmup) = (true, true);
        config.data.uniform_dequantization = Some(false);
        // Its sets with such a part are evaluated on that.
        let set = file.peek("data.dataset", &SETS.each_ref().map(|set| (set.name, set)));
        if set.is_some_and(Set::has_validation) {
            config.data.held_out = Split::Validation;
        }
        config.sampling.method = Method::PredictorCorrector;
        config.sampling.n_steps_each = 1;
        return config;
    }
    if is_of_ncsnv2(file) {
        // The published files say everything else.
        config.model.normalization = Some(NormKind::InstanceNormPlus);
        config.data.uniform_dequantization = Some(false);
        // Six rows of six.
        config.sampling.snapshot_images = 36;
    }
    config.sampling.n_steps_each = Runner::of(config.model.architecture).n_steps_each();
    config
}

/// The names by which files of Score-SDE's program choose a network, and files of ours one of NCSNv2's.
const NAMES: [(&str, Architecture); 10] = [
    ("ncsn", Architecture::Ncsn),
    ("ncsn_deeper", Architecture::Deeper),
    ("ncsnv2", Architecture::NcsnV2),
    ("ncsnv2_deeper", Architecture::NcsnV2Deeper),
    ("ncsnv2_deepest", Architecture::NcsnV2Deepest),
    ("ddpm", Architecture::Ddpm),
    ("ncsnpp", Architecture::NcsnPp),
    ("ncsnv2_64", Architecture::NcsnV2),
    ("ncsnv2_128", Architecture::NcsnV2Deeper),
    ("ncsnv2_256", Architecture::NcsnV2Deepest),
];

/// Whether a file is one of NCSNv2's program, whose keys those of NCSN's lack.
fn is_of_ncsnv2(file: &Reader<'_>) -> bool {
    // A file that we wrote has all keys.
    let is_ours = file.has("model.architecture");
    !is_ours
        && ["name", "sigma_dist", "normalization", "nonlinearity"].iter().any(|key| file.has(&format!("model.{key}")))
}

/// NCSNv2's program chooses the network by the data set, and by nothing else.
fn by_data_set(file: &Reader<'_>) -> Architecture {
    const DATA_SETS: [(&str, Architecture); 2] =
        [("LSUN", Architecture::NcsnV2Deeper), ("FFHQ", Architecture::NcsnV2Deepest)];
    file.peek("data.dataset", &DATA_SETS).unwrap_or(Architecture::NcsnV2)
}

/// Refuses a network that is not one of the runner's.
pub(super) fn check(config: &Config, runner: Option<Runner>, file: &mut Reader<'_>) -> Result<()> {
    let Some(runner) = runner else { return Ok(()) };
    let model = &config.model;
    file.check("model.architecture", runner == Runner::of(model.architecture), || {
        format!("model.architecture is {}, which is not one of {}'s", model.architecture.name(), runner.name())
    })
}

/// Keys of ScoreNet's published file that nothing reads: they are kept so that the file round-trips.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unused {
    /// `n_particles`
    pub n_particles: Option<usize>,
    /// `lam`
    pub lam: Option<f64>,
    /// `z_dim`
    pub z_dim: Option<usize>,
}

impl Unused {
    pub(super) fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("n_particles", &mut self.n_particles, OrNone(1..=1024))?;
        f.key("lam", &mut self.lam, OrNone(Number { expected: "a number", valid: |_| true }))?;
        f.key("z_dim", &mut self.z_dim, OrNone(1..=1_000_000))
    }
}

/// `name`, by which files of ours choose one of NCSNv2's networks.
pub(super) fn name(f: &mut impl Fields) -> Result<()> {
    f.key("name", &mut None, OrNone(&NAMES))
}

/// Keys of Score-SDE's `model` that nothing reads.
pub(super) fn unread(f: &mut impl Fields) -> Result<()> {
    f.key("attention_type", &mut None, OrNone(&[("ddpm", ())]))?;
    f.key("conv_size", &mut None, OrNone(OneOf([3usize])))?;
    f.key("interpolation", &mut None, OrNone(&[("bilinear", ())]))
}

/// Keys of NCSNv2's `data` that nothing reads.
pub(super) fn data(f: &mut impl Fields) -> Result<()> {
    f.key("num_workers", &mut None, OrNone(0..=4096usize))
}

/// `batch_norm`, a flag of every file that no network has a use for.
pub(super) fn batch_norm(f: &mut impl Fields) -> Result<()> {
    let mut batch_norm = false;
    f.key("batch_norm", &mut batch_norm, Flag)?;
    f.check("batch_norm", !batch_norm, || {
        "model.batch_norm is true, expected false: the network has instance norms only".into()
    })
}

impl Architecture {
    /// The key that gives the network's width.
    pub fn width_key(self) -> &'static str {
        if matches!(self, Self::ResScore | Self::Score | Self::SmallScore) { "nef" } else { "ngf" }
    }
}

impl fmt::Display for NetworkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (architecture, channels, width) = (self.architecture(), self.channels(), self.width());
        write!(f, "{architecture:?}: {channels} channels, {} {width}", architecture.width_key())?;
        if let Some(n_levels) = self.levels() {
            write!(f, ", {n_levels} noise levels")?;
        }
        if let (Self::RefineNet(own), Self::RefineNet(published)) =
            (self, architecture.network(Dimensions { channels, width, size: 0, n_levels: self.levels().unwrap_or(1) }))
        {
            if own.norm != published.norm {
                write!(f, ", {:?}", own.norm)?;
            }
            if own.activation != published.activation {
                write!(f, ", {:?}", own.activation)?;
            }
        }
        Ok(())
    }
}

impl Model {
    /// The value of the key that gives the network's width.
    pub(super) fn width(&self) -> usize {
        if self.architecture.width_key() == "nef" { self.nef } else { self.ngf }
    }
}

/// Refuses widths of encoder and decoder that differ, which no published file has, or that groups of channels do not divide.
pub(super) fn check_widths(model: &Model, f: &mut impl Fields) -> Result<()> {
    let Model { architecture, nef, ndf, .. } = model;
    let multiple = architecture.width_multiple();
    let holds = architecture.width_key() != "nef" || (nef == ndf && nef.is_multiple_of(multiple));
    f.check("nef", holds, || {
        let name = model.architecture.name();
        format!("model.nef is {nef} and model.ndf {ndf}, expected the same multiple of {multiple} for {name}")
    })
}
