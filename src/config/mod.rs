//! Configuration files: the only place where names in a file become types.
//!
//! The keys are the published program's; ours are marked. Each has the published value as its default, apart from
//! `data`, which must be given. A section is a file here, in which a key is a field with its documentation and one line of
//! `Section::fields`.

mod data;
mod evaluation;
mod experiment;
mod fields;
mod model;
mod optim;
mod published;
mod reader;
mod sampling;
mod training;
mod unet;
mod writer;
mod yaml;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use fields::Fields;
use reader::Reader;
use writer::{Explainer, Writer};

use crate::data::SETS;
use crate::error::{Error, Result, one_of};
use crate::file::read_at_most;
pub use data::{Data, Dataset};
pub use evaluation::{Eval, FastFid, Test};
pub use model::{Architecture, Model};
pub use optim::{Optim, Optimizer};
pub use published::{Program, Runner, Unused};
pub use sampling::{CorrectorName, GridName, Method, PredictorName, SOLVERS, Sampling, SolverName};
pub use training::{Algo, Sde, Slicing, Training};
pub use unet::{EmbeddingType, UNet};
pub use writer::Key;

/// What a file configures.
#[derive(Clone, Debug, PartialEq)]
pub enum File {
    /// A run on images.
    Images(Box<Config>),
    /// The 2-D toy experiments, whose published file holds nothing but a placeholder.
    Toy,
}

impl File {
    /// The configuration of a run on images; `name` is that of the file, for the error.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when it is none.
    pub fn images(self, name: &str) -> Result<Config> {
        match self {
            Self::Images(config) => Ok(*config),
            Self::Toy => {
                Err(Error::unexpected(format!("{name}, the configuration of ToyRunner"), "one that trains on images"))
            }
        }
    }
}

/// A run on images.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// `fast_fid:` (NCSNv2)
    pub fast_fid: FastFid,
    /// `test:` (NCSNv2)
    pub test: Test,
    /// `eval:` (Score-SDE)
    pub eval: Eval,
}

/// Files of `configs/` that are built into the program, each with its name there.
macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        /// The files built into the program.
        const BUILT_IN: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../configs/", $name)))),*];
    };
}

built_in![
    "quickstart.yml",
    "anneal.yml",
    "cifar10.yml",
    "baseline.yml",
    "scorenet.yml",
    "toy.yml",
    "mnist_ddpmpp.yml",
    "mnist_ncsnpp.yml",
    "ncsnv2/cifar10.yml",
    "ncsnv2/celeba.yml",
    "ncsnv2/church.yml",
    "ncsnv2/bedroom.yml",
    "ncsnv2/tower.yml",
    "ncsnv2/ffhq.yml",
    "ncsnv2/ncsn_original.yml",
    "score_sde/subvp/cifar10_ddpm_continuous.yml",
    "score_sde/subvp/cifar10_ddpmpp_continuous.yml",
    "score_sde/subvp/cifar10_ddpmpp_deep_continuous.yml",
    "score_sde/subvp/cifar10_ncsnpp_continuous.yml",
    "score_sde/subvp/cifar10_ncsnpp_deep_continuous.yml",
    "score_sde/ve/bedroom_ncsnpp_continuous.yml",
    "score_sde/ve/celeba_ncsnpp.yml",
    "score_sde/ve/celebahq_256_ncsnpp_continuous.yml",
    "score_sde/ve/celebahq_ncsnpp_continuous.yml",
    "score_sde/ve/church_ncsnpp_continuous.yml",
    "score_sde/ve/cifar10_ddpm.yml",
    "score_sde/ve/cifar10_ncsnpp.yml",
    "score_sde/ve/cifar10_ncsnpp_continuous.yml",
    "score_sde/ve/cifar10_ncsnpp_deep_continuous.yml",
    "score_sde/ve/ffhq_256_ncsnpp_continuous.yml",
    "score_sde/ve/ffhq_ncsnpp_continuous.yml",
    "score_sde/ve/ncsn/celeba.yml",
    "score_sde/ve/ncsn/celeba_124.yml",
    "score_sde/ve/ncsn/celeba_1245.yml",
    "score_sde/ve/ncsn/celeba_5.yml",
    "score_sde/ve/ncsn/cifar10.yml",
    "score_sde/ve/ncsn/cifar10_124.yml",
    "score_sde/ve/ncsn/cifar10_1245.yml",
    "score_sde/ve/ncsn/cifar10_5.yml",
    "score_sde/ve/ncsnv2/bedroom.yml",
    "score_sde/ve/ncsnv2/celeba.yml",
    "score_sde/ve/ncsnv2/cifar10.yml",
    "score_sde/vp/cifar10_ddpmpp.yml",
    "score_sde/vp/cifar10_ddpmpp_continuous.yml",
    "score_sde/vp/cifar10_ddpmpp_deep_continuous.yml",
    "score_sde/vp/cifar10_ncsnpp.yml",
    "score_sde/vp/cifar10_ncsnpp_continuous.yml",
    "score_sde/vp/cifar10_ncsnpp_deep_continuous.yml",
    "score_sde/vp/ddpm/bedroom.yml",
    "score_sde/vp/ddpm/celebahq.yml",
    "score_sde/vp/ddpm/church.yml",
    "score_sde/vp/ddpm/cifar10.yml",
    "score_sde/vp/ddpm/cifar10_continuous.yml",
];

impl Config {
    /// Reads the file `name`: as given, else in `configs/`, else among those built in. `overrides` are
    /// `section.key=value`; `runner` decides on the network where the file leaves it open. Gives the configuration and
    /// where it was found.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when there is no such file; those of [`Config::parse`].
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
            let found = format!("no {name}, neither here nor in configs/");
            return Err(Error::unexpected(found, format!("a file, or what is built in: {}", names.join(", "))));
        };
        Ok((Self::parse(text, name, overrides, runner)?, (*name).to_string()))
    }

    /// Reads `text`, the content of the file `source`.
    ///
    /// # Errors
    /// On anything unknown, of the wrong type or impossible, with its line.
    pub fn parse(text: &str, source: &str, overrides: &[String], runner: Option<Runner>) -> Result<File> {
        let mut reader = Reader::new(text, source, overrides)?;
        published::translate(&mut reader, runner)?;
        let file = if published::is_toy(&mut reader)? {
            File::Toy
        } else {
            let mut config = published::defaults(&reader, runner);
            config.fields(&mut reader)?;
            published::check(&config, runner, &mut reader)?;
            File::Images(Box::new(config))
        };
        // The published program keeps its device in the same object; a saved file may hold it.
        reader.ignore("device");
        reader.finish(reader::all_keys)?;
        Ok(file)
    }

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.section(&mut self.training)?;
        f.section(&mut self.data)?;
        f.section(&mut self.model)?;
        f.section(&mut self.optim)?;
        f.section(&mut self.sampling)?;
        f.section(&mut self.fast_fid)?;
        f.section(&mut self.test)?;
        f.section(&mut self.eval)?;
        self.check(f)
    }

    /// What the sections must satisfy together: the network takes the images, and the loss the noise levels.
    fn check(&self, f: &mut impl Fields) -> Result<()> {
        let (architecture, size, channels) = (self.model.architecture, self.data.image_size, self.data.channels);
        let sizes = architecture.sizes();
        f.check("data.image_size", sizes.contains(size), || {
            format!("data.image_size is {size}, expected {sizes}: {} takes no other", self.model.architecture.name())
        })?;
        let of_score_sde = Runner::of(architecture) == Runner::ScoreSde;
        f.check("training.sde", !of_score_sde || self.training.sde.is_some(), || {
            format!("found no training.sde, expected {}: {} is given times", training::sdes(), architecture.name())
        })?;
        let message = self.process().err().map(|error| error.to_string());
        f.check("model.num_classes", message.is_none(), || message.unwrap_or_default())?;
        if of_score_sde || self.is_classifier() {
            let message = self.network().check().err().map(|error| error.to_string());
            f.check("model.ngf", message.is_none(), || message.unwrap_or_default())?;
        }
        if of_score_sde {
            self.check_label(f)?;
        }
        f.check("data.dataset", !self.is_classifier() || self.data.dataset.set.has_labels(), || {
            let labelled = one_of(SETS.iter().filter(|set| set.has_labels()).map(|set| set.name));
            format!("data.dataset is {}, expected {labelled}, whose classes are known", self.data.dataset.name())
        })?;
        f.check("sampling.method", self.sampling.method != Method::Ode || self.training.sde.is_some(), || {
            "sampling.method is ode, expected langevin or pc: between noise levels, without training.sde, there is no equation".into()
        })?;
        let may_differ = self.training.continuous || self.sampling.method == Method::Solver;
        f.check("sampling.n_steps", self.sampling.n_steps.is_none() || may_differ, || {
            "sampling.n_steps needs training.continuous or sampling.method solver: the network is told the levels of \
             model.num_classes, one a step"
                .into()
        })?;
        let message = self.sampling_process().err().map(|error| error.to_string());
        f.check("sampling.n_steps", message.is_none(), || {
            let n = self.sampling.n_steps.unwrap_or_default();
            format!("sampling.n_steps is {n}: {}", message.unwrap_or_default())
        })?;
        f.check("data.channels", architecture != Architecture::ResScore || channels == 3, || {
            format!("data.channels is {channels}, but ResScore needs 3 channels")
        })?;
        let (batch, parts) = (self.training.batch_size, self.training.micro_batches);
        f.check("training.micro_batches", batch.is_multiple_of(parts), || {
            format!("training.micro_batches is {parts}, expected a number that divides training.batch_size, which is {batch}")
        })?;
        // Without noise there is nothing to denoise.
        let is_clean = self.noise_levels().is_ok_and(|levels| levels.sigma_min() == 0.0);
        f.check("training.noise_std", !is_clean || self.training.algo != Algo::Dsm, || {
            "training.noise_std is 0, expected a positive number for training.algo dsm".into()
        })
    }

    /// What the label of the time must be that a U-Net is given.
    fn check_label(&self, f: &mut impl Fields) -> Result<()> {
        let (UNet { embedding_type, scale_by_sigma, .. }, training) = (&self.model.u_net, &self.training);
        let is_fourier = self.model.architecture == Architecture::NcsnPp && *embedding_type == EmbeddingType::Fourier;
        f.check("model.embedding_type", training.continuous || !is_fourier, || {
            "model.embedding_type is fourier, expected positional where training.continuous is false".into()
        })?;
        let is_ve = training.sde == Some(Sde::Ve);
        f.check("model.scale_by_sigma", is_ve || !scale_by_sigma, || {
            "model.scale_by_sigma is true, expected false: without training.sde vesde the network says what the noise is"
                .into()
        })?;
        let by_sigma = is_fourier || !training.continuous || !scale_by_sigma;
        f.check("model.embedding_type", !is_ve || by_sigma, || {
            "model.embedding_type is positional, expected fourier for training.sde vesde with training.continuous and \
             model.scale_by_sigma: σ is no whole number"
                .into()
        })
    }

    /// The same with other values of `sampling`, each `sampling.key=value`: how a trained network is drawn from may be changed.
    ///
    /// # Errors
    /// On a key of another section; as [`Config::parse`].
    pub fn with_sampling(&self, overrides: &[String]) -> Result<Self> {
        if let Some(other) = overrides.iter().find(|text| !text.starts_with("sampling.")) {
            return Err(Error::unexpected(format!("--set {other}"), "sampling.KEY=VALUE: the rest is that of the run"));
        }
        if overrides.is_empty() {
            return Ok(self.clone());
        }
        Self::parse(&self.to_yaml(), "the run's configuration", overrides, None)?.images("the run's configuration")
    }

    /// Every key there is, in the order of a file, with its default and the values that it takes.
    pub fn keys() -> Vec<Key> {
        let mut explainer = Explainer::default();
        Self::default().fields(&mut explainer).expect("nothing is refused");
        explainer.keys
    }

    /// Every key with its value.
    fn entries(&self) -> Vec<writer::Entry> {
        let mut writer = Writer::default();
        self.clone().fields(&mut writer).expect("nothing is refused");
        writer.entries
    }

    /// The value of the key `section.key`, as a file has it; `None` if there is no such key.
    pub fn value(&self, name: &str) -> Option<String> {
        let (section, key) = name.rsplit_once('.')?;
        let is_it = |entry: &writer::Entry| entry.section == section && entry.name == key;
        Some(self.entries().into_iter().find(is_it)?.value.to_string())
    }

    /// The first key in whose value `other` differs, in words; `None` if none does.
    pub fn difference(&self, other: &Config) -> Option<String> {
        let (ours, theirs) = (self.entries(), other.entries());
        let (ours, theirs) = ours.iter().zip(&theirs).find(|(ours, theirs)| ours.value != theirs.value)?;
        Some(format!("{}.{} is {}, not {}", ours.section, ours.name, theirs.value, ours.value))
    }

    /// The whole configuration as a file, which [`Config::parse`] reads back equal.
    pub fn to_yaml(&self) -> String {
        let (mut out, mut section) = (String::new(), "");
        for entry in self.entries() {
            if entry.section != section {
                section = entry.section;
                let _ = writeln!(out, "{section}:");
            }
            let _ = writeln!(out, "  {}: {}", entry.name, entry.value);
        }
        out
    }
}
