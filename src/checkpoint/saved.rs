//! From a checkpoint to a model: weights together with the configuration that belongs to them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};

use super::exchange::SIGMAS_TOLERANCE;
use super::{Checkpoints, SIGMAS, Weights, pth};
use crate::config::{Config, Runner};
use crate::data::Pixels;
use crate::device;
use crate::error::{Error, Result};
use crate::image::to_u8;
use crate::net::{InputRange, Network};
use crate::noise::Noise;
use crate::sample::{Images, Streams, Trajectory, image_trajectory};
use crate::score::{Ensemble, Model};
use crate::sde::Process;

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The moving average, or those of the last step if there is none.
    #[default]
    Averaged,
    /// Those of the last step.
    Last,
}

/// A checkpoint and what its run was configured with.
#[derive(Debug)]
pub struct Saved {
    config: Config,
    weights: Weights,
}

impl Saved {
    /// Opens a file of weights, ours or a published one, or the newest of a run's folder. The configuration is that in the file,
    /// or the `config.yml` beside a published one.
    ///
    /// # Errors
    /// When there is no checkpoint, it is damaged or foreign, has no configuration, or one of another network.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), None)
    }

    /// [`Self::open`] with a configuration file for weights that do not hold one.
    ///
    /// # Errors
    /// As [`Self::open`]; also when the file is refused by [`Config::load`].
    pub fn open_with(path: &Path, config: Option<&str>) -> Result<Self> {
        let weights = if path.is_dir() { newest(path)? } else { Weights::open(path)? };
        Self::of(weights, config)
    }

    /// `weights` that are open already; the rest as [`Self::open_with`].
    ///
    /// # Errors
    /// As [`Self::open_with`].
    pub fn of(weights: Weights, config: Option<&str>) -> Result<Self> {
        let path = weights.path();
        let Some(config) = saved_config(&weights, config)? else {
            return Err(Error::format(path, "found weights without a configuration, expected one with --config FILE"));
        };
        let expected = config.network();
        let found = weights.network(expected.untold())?;
        if !found.has_weights_of(&expected) {
            let message = format!("found weights of {found}, but the configuration is of {expected}");
            return Err(Error::format(path, message));
        }
        // Published files of NCSNv2 have the noise levels, too, in f32.
        weights.has_of_model(SIGMAS, &config.noise_levels()?.stds(), SIGMAS_TOLERANCE)?;
        Ok(Self { config, weights })
    }

    /// What the run was configured with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The model on `device`, for evaluation.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the file holds tensors that the network lacks, or when it is a classifier.
    pub fn model(&self, which: Which, device: &Device) -> Result<Model<Network>> {
        if self.config.is_classifier() {
            return Err(Error::format(self.weights.path(), "found a classifier, expected a network that is a score"));
        }
        self.build(which, device)
    }

    /// The classifier on `device`, which [`Model::towards`] makes guidance of.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape, or the file holds tensors that the network lacks, or when it is no
    /// classifier.
    pub fn classifier(&self, which: Which, device: &Device) -> Result<Model<Network>> {
        if !self.config.is_classifier() {
            let found = self.config.model.architecture.name();
            let message = format!("found {found}, expected a classifier (ncsn train --runner classifier)");
            return Err(Error::format(self.weights.path(), message));
        }
        self.build(which, device)
    }

    fn build(&self, which: Which, device: &Device) -> Result<Model<Network>> {
        self.config.model(self.weights.build(self.config.network().untold(), which == Which::Averaged, device)?)
    }

    /// The mean of the scores of several checkpoints of a run, in their order, on `device`: what NCSNv2's program draws by in the place
    /// of an EMA. [`ensemble_steps`] chooses them.
    ///
    /// # Errors
    /// When one has an EMA of its weights, other noise levels than the first, or as [`Self::model`].
    ///
    /// # Panics
    /// If there are no members.
    pub fn ensemble(members: &[Self], device: &Device) -> Result<Ensemble<Model<Network>>> {
        let sigmas = members[0].config.noise_levels()?.stds();
        let model = |member: &Self| {
            member.config.check_ensemble()?;
            if member.config.noise_levels()?.stds() != sigmas {
                let message = "found other noise levels than those of the checkpoints whose scores it is averaged with";
                return Err(Error::format(member.weights.path(), message));
            }
            member.model(Which::Last, device)
        };
        Ok(Ensemble::new(members.iter().map(model).collect::<Result<_>>()?))
    }

    /// The way to the images `numbers` of a seed, drawn as the configuration says, but never from training images, at which `data_init`
    /// begins: a checkpoint has none. See [`image_trajectory`].
    pub fn sample<'a>(
        &self,
        model: &'a Model<Network>,
        numbers: Range<u64>,
        noise: Noise,
        device: &Device,
    ) -> Trajectory<4, &'a Model<Network>, Streams> {
        let images = Images { numbers, shape: self.config.image_shape(), range: self.config.transform().range };
        let (sampler, process) =
            (self.config.sampler(), self.config.sampling_process().expect("a process, as when it was read"));
        let x = images.begin(&sampler, &*process, noise, device);
        image_trajectory(&sampler, model, process, x, &images, noise)
    }

    /// Samples as pictures.
    ///
    /// # Shapes
    /// `x`: `[n, channels, height, width]`, what a chain ends with → `n` pictures.
    ///
    /// # Errors
    /// [`Error::Device`] if the device could not compute them.
    pub fn pictures(&self, x: Tensor<4>) -> Result<Vec<Pixels>> {
        let [_, channels, height, width] = x.dims();
        let range = self.config.transform().range;
        let pixels_u8: Vec<u8> = device::values(x)?.into_iter().map(|x| to_u8(range.inverse(x))).collect();
        let pictures = pixels_u8.chunks(channels * height * width);
        Ok(pictures.map(|picture| Pixels::from_chw(picture, [channels, height, width])).collect())
    }
}

/// The newest checkpoint of the run in `folder`: ours, else the published program's. If it is damaged, the error tells which one
/// before it is whole.
///
/// # Errors
/// When there is none, or it cannot be used.
pub fn newest(folder: &Path) -> Result<Weights> {
    let checkpoints = Checkpoints::new(folder);
    let path = match (checkpoints.latest(), published(folder)) {
        (Ok(step), _) => checkpoints.weights_path(step),
        (Err(_), Some(path)) => path,
        (Err(error), None) => return Err(error),
    };
    Weights::open(&path).map_err(|error| match error {
        Error::Damaged { path, message } | Error::Format { path, message } => {
            let is_whole = |step: &u64| Weights::open(&checkpoints.weights_path(*step)).is_ok();
            let before = checkpoints.steps().ok().and_then(|steps| steps.into_iter().rev().find(is_whole));
            let way_out =
                before.map(|step| format!("; the checkpoint of step {step} is whole: --step {step} takes it"));
            Error::Damaged { path, message: message + &way_out.unwrap_or_default() }
        }
        other => other,
    })
}

/// The checkpoints of the run in `folder`, by step: ours, and at other steps the published programs': NCSNv2's `checkpoint_STEP.pth`,
/// and Score-SDE's `checkpoints/checkpoint_K.pth` at step K·`training.snapshot_freq` of the folder's `config.yml`.
///
/// # Errors
/// When the folder cannot be read, or the configuration of Score-SDE's checkpoints. A folder that does not exist holds none.
pub fn by_step(folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let checkpoints = Checkpoints::new(folder);
    let numbered = numbered(folder)?;
    let every = match numbered.is_empty() {
        true => 1,
        false => {
            let path = folder.join(CONFIG).display().to_string();
            Config::load(&path, &[], None)?.0.images(&path)?.training.snapshot_freq
        }
    };
    let numbered = numbered.into_iter().filter_map(|(k, path)| Some((k.checked_mul(every)?, path)));
    let published = checkpoints.steps_of(".pth")?.into_iter();
    let published = published.map(|step| (step, folder.join(format!("checkpoint_{step}.pth"))));
    let ours = checkpoints.steps()?.into_iter().map(|step| (step, checkpoints.weights_path(step)));
    Ok(numbered.chain(published).chain(ours).collect())
}

/// Score-SDE's checkpoints in `folder` by their numbers, ascending.
fn numbered(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let folder = folder.join(NUMBERED);
    let numbers = Checkpoints::new(&folder).steps_of(".pth")?;
    Ok(numbers.into_iter().map(|k| (k, folder.join(format!("checkpoint_{k}.pth")))).collect())
}

/// The configuration of a run, in its folder.
const CONFIG: &str = "config.yml";
/// Score-SDE's folders in that of a run: of the checkpoint that it goes on from, and of those that it keeps.
const RESUMED: &str = "checkpoints-meta";
const NUMBERED: &str = "checkpoints";

/// The checkpoints whose scores are averaged at `step`, the newest first: it and those before it that are multiples of `every` steps
/// away, so far as they are among `all`, of at most `n` such places. NCSNv2's program has n = 5 and `every` = 5000, its
/// `snapshot_freq`.
pub fn ensemble_steps<T>(all: &BTreeMap<u64, T>, step: u64, n: usize, every: u64) -> Vec<u64> {
    let places = (0..n as u64).map_while(|k| step.checked_sub(k.checked_mul(every)?));
    places.filter(|step| all.contains_key(step)).collect()
}

/// The published program's newest checkpoint in `folder`: `checkpoint.pth`, or of Score-SDE's `checkpoints-meta/checkpoint.pth`, which
/// it goes on from, else the last one of `checkpoints`.
pub fn published(folder: &Path) -> Option<PathBuf> {
    let newest = [folder.to_path_buf(), folder.join(RESUMED)].map(|folder| folder.join("checkpoint.pth"));
    let last = || Some(numbered(folder).ok()?.pop()?.1);
    newest.into_iter().find(|path| path.is_file()).or_else(last)
}

/// The `config.yml` of the run that the published checkpoint `path` is of: beside it, or above Score-SDE's folders.
fn config_of_run(path: &Path) -> PathBuf {
    let beside = path.with_file_name(CONFIG);
    let folder = path.parent().filter(|folder| [RESUMED, NUMBERED].iter().any(|name| folder.ends_with(name)));
    let above = folder.map(|folder| folder.with_file_name(CONFIG));
    above.filter(|above| !beside.is_file() && above.is_file()).unwrap_or(beside)
}

/// The configuration that belongs to weights: the one in their header, else the file `given`, else the `config.yml` of their run if
/// they are a published checkpoint: beside them, or above Score-SDE's folders.
///
/// # Errors
/// When it is refused by [`Config::parse`], or is not that of a run on images.
pub fn saved_config(weights: &Weights, given: Option<&str>) -> Result<Option<Config>> {
    let path = weights.path();
    let (file, name) = match (weights.header(), given, config_of_run(path)) {
        (Some(header), ..) => {
            let name = format!("{} (saved configuration)", path.display());
            (Config::parse(&header.config, &name, &[], None)?, name)
        }
        (None, Some(given), _) => Config::load(given, &[], runner(weights))?,
        (None, None, beside) if pth::is_pth(path)? && beside.is_file() => {
            Config::load(&beside.display().to_string(), &[], runner(weights))?
        }
        _ => return Ok(None),
    };
    file.images(&name).map(Some)
}

/// The runner that weights come from: the published files do not name the network.
fn runner(weights: &Weights) -> Option<Runner> {
    weights.network(InputRange::Unit).ok().map(|network| Runner::of(network.architecture()))
}
