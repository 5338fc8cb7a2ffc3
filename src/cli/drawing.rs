//! Samples in a folder: of `ncsn sample`, at the end of a training run, and of the runs that are evaluated.

use std::fmt;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Device;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use ncsn::checkpoint::TensorWriter;
use ncsn::config::{Config, Sampling};
use ncsn::data::{Pixels, Range as PixelRange, Source, Transform};
use ncsn::device;
use ncsn::file::open_regular;
use ncsn::image::{GifWriter, grid, read_png, to_u8, write_png};
use ncsn::net::Network;
use ncsn::noise::Noise;
use ncsn::sample::{Images, Sampler, Size, State, Streams, Trajectory, Update, image_trajectory, tempered};
use ncsn::score::{Model, Score};
use ncsn::sde::Process;
use ncsn::{Error, Result};

use super::flow::Start;
use super::guide::{Guide, Settings};
use super::log::{Log, Verbosity};
use super::output::{Existing, Kind, Output, Platform, numbers};
use super::progress::Progress;
use super::stop;

/// How long a frame of the animation is shown.
const FRAME_MS: u32 = 50;
/// How far a GPU may be behind.
const WAIT_EVERY: Duration = Duration::from_millis(500);

const GRID: &str = "grid.png";
const ANIMATION: &str = "samples.gif";
const TENSOR: &str = "samples.safetensors";

/// What is written beside the images.
#[derive(Clone, Debug, Args)]
pub struct Pictures {
    /// No animation [default: as the run's sampling.final_only says]
    #[arg(long)]
    final_only: bool,
    /// Write every N-th state to the animation [default: 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    gif_stride: Option<u64>,
    /// Enlarge the animation and the grid by this factor
    #[arg(long, default_value_t = 2, value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(1..=16))]
    scale: u64,
    /// Also write the samples as tensor `samples` [n, channels, height, width] (samples.safetensors, not clamped)
    #[arg(long)]
    pub raw: bool,
}

impl Default for Pictures {
    fn default() -> Self {
        Self { final_only: false, gif_stride: None, scale: 2, raw: false }
    }
}

impl Pictures {
    /// Those that `sampling` of a configuration asks for.
    pub fn of(sampling: &Sampling) -> Self {
        Self::default().or(sampling)
    }

    /// These; an animation that nothing is said of is made unless `sampling` does not want it.
    pub fn or(self, sampling: &Sampling) -> Self {
        let final_only = self.final_only || (sampling.final_only && self.gif_stride.is_none());
        Self { final_only, ..self }
    }

    /// Whether there is no animation.
    pub fn final_only(&self) -> bool {
        self.final_only
    }

    /// No animation.
    pub fn still() -> Self {
        Self { final_only: true, ..Self::default() }
    }
}

/// What the files of a folder depend on; see [`Kind`].
#[derive(Serialize)]
struct Manifest {
    /// The MD5 of the checkpoint.
    weights: Option<String>,
    #[serde(flatten)]
    sampler: Sampler,
    /// Noise levels, largest first.
    sigmas: Vec<f64>,
    seed: u64,
    /// The data set at whose images chains begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    data_init: Option<String>,
    /// The SHA-256 of the file of latents at which flows begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    latents: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(flatten)]
    guide: Option<Settings>,
    /// Channels, height, width.
    shape: [usize; 3],
    logit_transform: bool,
    #[serde(flatten)]
    platform: Platform,
    n: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluations: Option<Evaluations>,
    pictures: Looks,
}

/// How many times the score was asked for, for each image.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Evaluations {
    /// The same for all.
    Each { per_image: usize },
    /// Of the images that were drawn, whose steps are their own.
    Counted { images: usize, mean: f64, most: usize },
}

impl Evaluations {
    /// Those of some images.
    fn of(counts: &[usize]) -> Option<Self> {
        let most = counts.iter().copied().max()?;
        Some(Self::Counted {
            images: counts.len(),
            mean: counts.iter().sum::<usize>() as f64 / counts.len() as f64,
            most,
        })
    }

    /// Those of these images and others.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Counted { images: a, mean: of_a, most }, Self::Counted { images: b, mean: of_b, most: other }) => {
                let mean = (a as f64 * of_a + b as f64 * of_b) / (a + b) as f64;
                Self::Counted { images: a + b, mean, most: most.max(other) }
            }
            (_, other) => other,
        }
    }
}

impl fmt::Display for Evaluations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Each { per_image } => write!(f, "{per_image} evaluations of the score for each image"),
            Self::Counted { images, mean, most } => {
                write!(f, "{mean:.1} evaluations of the score on average over {images} images, at most {most}")
            }
        }
    }
}

/// What the pictures beside the images depend on, of those that there are. A call leaves alone what it does not ask for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Looks {
    grid: Look,
    #[serde(skip_serializing_if = "Option::is_none")]
    animation: Option<Animation>,
    /// Whether there is a tensor too.
    raw: bool,
}

/// How images are put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Look {
    n: u64,
    columns: u64,
    scale: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Animation {
    #[serde(flatten)]
    look: Look,
    stride: u64,
}

/// A folder of samples.
const SAMPLES: Kind = Kind {
    manifest: "samples.json",
    free: &["n", "evaluations", "pictures"],
    files: |manifest| {
        let n = manifest.get("n").and_then(Value::as_u64).unwrap_or(0);
        let mut files: Vec<String> = [GRID, ANIMATION, TENSOR].map(String::from).to_vec();
        if n > 0 {
            files.push(format!("images/{}.png", numbers(n, 6)));
        }
        files
    },
    // A run's pictures, in the folder that its samples go to.
    neighbours: |name| {
        let step = name.strip_prefix("step_").map(|name| name.strip_suffix(".png").unwrap_or(name));
        step.is_some_and(|step| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit()))
    },
};

/// Everything that determines the samples of a network.
pub struct Drawing {
    sampler: Sampler,
    /// How long trajectories are, of a sampler of which that is known.
    size: Option<Size>,
    /// What perturbs the data.
    process: Arc<dyn Process>,
    shape: [usize; 3],
    transform: Transform,
    /// Where chains begin at training images: the data set's name, and it.
    start: Option<(String, Arc<dyn Source>)>,
    /// Where flows begin, if not at states of the prior.
    pub begin: Option<Start>,
    /// What leads images to classes, if something does.
    pub guide: Option<Guide>,
    noise: Noise,
    n: u64,
    /// Images drawn at a time.
    pub batch: u64,
    pub columns: Option<u64>,
    /// What becomes of samples that are there.
    pub existing: Existing,
    /// The MD5 of the checkpoint, for the folder's manifest; those of several with a plus between them.
    pub weights: Option<String>,
    /// Whether each level is reported even if debugging lines are not shown.
    pub is_verbose: bool,
}

impl Drawing {
    /// `n` images as `config` says; `training_set` is asked for if their chains begin there.
    pub fn new(
        config: &Config,
        noise: Noise,
        n: u64,
        training_set: impl FnOnce() -> Result<Arc<dyn Source>>,
    ) -> Result<Self> {
        let (process, sampler) = (config.sampling_process()?, config.sampler());
        let start = || {
            let name = config.data.dataset.label();
            let path = config.data.dataset.path.as_ref();
            Ok((path.map_or_else(|| name.clone(), |path| format!("{name} {}", path.display())), training_set()?))
        };
        Ok(Self {
            size: sampler.size(&*process),
            sampler,
            process,
            shape: config.image_shape(),
            transform: config.transform(),
            start: config.sampling.data_init.then(start).transpose()?,
            begin: None,
            guide: None,
            noise,
            n,
            batch: n,
            columns: None,
            existing: Existing::Keep,
            weights: None,
            is_verbose: false,
        })
    }

    /// The grid of all images in one batch, by `score` on `device`; `None` if the user asked to stop.
    pub fn grid_only(&self, score: &dyn Score<4>, device: &Device) -> Result<Option<Pixels>> {
        let mut last = None;
        for state in self.trajectory(score, device, 0..self.n, false)? {
            if stop::asked() {
                return Ok(None);
            }
            last = Some(state?.x);
        }
        let look = Look { scale: 1, ..self.look(1) };
        last.map(|x| Ok(self.grid(&self.to_pixels(&device::values(x)?), &look))).transpose()
    }

    /// Draws into `folder` by `score` on `device`, batch by batch: `images/NUMBER.png`, `grid.png`, `samples.gif`. Images that are there
    /// already, from a call that was stopped or asked for fewer, are not drawn again.
    pub fn to_folder(
        &self,
        score: &dyn Score<4>,
        device: &Device,
        folder: &Path,
        pictures: &Pictures,
        log: &mut Log,
    ) -> Result<ExitCode> {
        let (output, mut manifest) = self.open(device, folder, pictures)?;
        let looks = manifest.pictures.clone();
        let raw = || TensorWriter::open(&output.path(TENSOR), "samples", &self.tensor_shape());
        let mut raw = looks.raw.then(raw).transpose()?;

        let animated =
            looks.animation.as_ref().filter(|_| !pictures.final_only && !is_whole_gif(&output.path(ANIMATION)));
        let batches = self.missing(&output, raw.as_mut(), animated.is_some())?;
        let first = 0..looks.grid.n;
        // Of a flow the time is what is known of its progress.
        let (unit, n_units) = self.size.map_or(("percent", 100), |size| ("step", size.n_states as u64));
        let mut progress = Progress::new(log, unit, 0, n_units * batches.len() as u64);
        let mut counts = Vec::new();
        let is_watched = self.is_verbose || log.shows(Verbosity::Debug);
        for (i, numbers) in batches.iter().enumerate() {
            let animated = animated.filter(|_| *numbers == first);
            let mut trajectory = self.trajectory(score, device, numbers.clone(), is_watched)?;
            let drawn = self.draw(&mut trajectory, numbers.clone(), animated, &output, &mut |state, part_done| {
                let message = format!("images {}–{} of {}", numbers.start, numbers.end - 1, self.n);
                let n_done = (part_done * n_units as f64).round() as u64;
                progress.update(log, i as u64 * n_units + n_done, &message);
                if let Some(update) = self.sampler.last_update(&*self.process, state)? {
                    progress.say(log, &self.line(&update));
                }
                Ok(())
            });
            let Some(x) = drawn? else {
                drop(progress);
                let n_left: u64 = batches[i..].iter().map(|numbers| numbers.end - numbers.start).sum();
                log.info(format!("stopped; {} of {} images are drawn and kept", self.n - n_left, self.n));
                self.count(&output, &mut manifest, &counts)?;
                return Ok(stop::code());
            };
            counts.extend(trajectory.n_evaluations());
            if let Some(raw) = &mut raw {
                // A row that is only half written must not be taken for whole, as it would be beside its image.
                numbers.clone().try_for_each(|k| output.remove(&image_name(k)))?;
                raw.write_rows(numbers.start as usize, &x)?;
            }
            let pixels_u8 = self.to_pixels(&x);
            for (k, image) in numbers.clone().zip(pixels_u8.chunks(self.image_len())) {
                write_png(&output.path(&image_name(k)), &Pixels::from_chw(image, self.shape))?;
            }
            if i == 0 && numbers.end >= first.end {
                self.write_grid(&output, &looks.grid)?;
            }
        }
        self.write_grid(&output, &looks.grid)?;
        if let Some(raw) = raw {
            raw.finish()?;
        }
        self.count(&output, &mut manifest, &counts)?;
        drop(progress);
        if let Some(evaluations) = manifest.evaluations.filter(|_| !batches.is_empty()) {
            log.info(evaluations.to_string());
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Says in the manifest how many evaluations the images that were drawn now took, beside those from before.
    fn count(&self, output: &Output, manifest: &mut Manifest, counts: &[usize]) -> Result<()> {
        if let (None, Some(counted)) = (self.size, Evaluations::of(counts)) {
            manifest.evaluations = Some(manifest.evaluations.map_or(counted, |before| before.and(counted)));
        }
        output.describe(manifest)
    }

    /// Takes `folder`, in which afterwards only what is whole and as asked for has its name, and says what the pictures are to
    /// look like.
    fn open(&self, device: &Device, folder: &Path, pictures: &Pictures) -> Result<(Output, Manifest)> {
        let grid = self.look(pictures.scale);
        let animation = Animation { look: grid.clone(), stride: pictures.gif_stride.unwrap_or(10) };
        let animation = (!pictures.final_only).then_some(animation);
        let mut manifest = Manifest {
            weights: self.weights.clone(),
            sampler: self.sampler.clone(),
            sigmas: self.process.stds(),
            seed: self.noise.seed(),
            data_init: self.start.as_ref().map(|(name, _)| name.clone()),
            latents: self.begin.as_ref().and_then(|start| Some(start.latents.as_ref()?.sha256.clone())),
            temperature: self.begin.as_ref().and_then(|start| start.temperature),
            guide: self.guide.as_ref().map(|guide| guide.settings.clone()),
            shape: self.shape,
            logit_transform: self.transform.range == PixelRange::Logit,
            platform: Platform::of(device)?,
            n: self.n,
            evaluations: self.size.map(|size| Evaluations::Each { per_image: size.n_evaluations }),
            pictures: Looks { grid, animation, raw: pictures.raw },
        };
        let mut output = Output::open(folder, SAMPLES, &manifest, self.existing)?;
        if self.existing == Existing::ReplaceOthers && n_of(&output) > self.n {
            output.start_anew(&manifest)?;
        }
        if let Some(earlier) = &output.earlier {
            let n_earlier = n_of(&output);
            if n_earlier > self.n {
                return Err(Error::Usage(format!(
                    "{} holds {n_earlier} samples, more than --n {}; --overwrite removes them",
                    folder.display(),
                    self.n
                )));
            }
            keep_pictures(&output, earlier, &mut manifest.pictures)?;
            let counted = earlier.get("evaluations").and_then(|counted| serde_json::from_value(counted.clone()).ok());
            manifest.evaluations = manifest.evaluations.or(counted);
        }
        output.describe(&manifest)?;
        output.make_folders(&manifest)?;
        Ok((output, manifest))
    }

    /// The images to draw, in batches: those that are not there whole, and the first batch if it is to be animated.
    fn missing(&self, output: &Output, mut raw: Option<&mut TensorWriter>, animated: bool) -> Result<Vec<Range<u64>>> {
        let mut batches: Vec<Range<u64>> = Vec::new();
        let first = 0..self.batch.min(self.n);
        if output.earlier.is_none() {
            return Ok((0..self.n).step_by(self.batch as usize).map(|k| k..(k + self.batch).min(self.n)).collect());
        }
        for k in 0..self.n {
            if stop::asked() {
                break;
            }
            let in_tensor = raw.as_mut().map(|raw| raw.has_rows(k as usize..k as usize + 1)).transpose()?;
            let is_there = in_tensor != Some(false) && read_png(&output.path(&image_name(k)), self.shape).is_ok();
            if is_there && !(animated && first.contains(&k)) {
                continue;
            }
            match batches.last_mut() {
                Some(batch) if batch.end == k && k - batch.start < self.batch => batch.end = k + 1,
                _ => batches.push(k..k + 1),
            }
        }
        Ok(batches)
    }

    /// The images `numbers`, at the end of their trajectory; `None` if the user asked to stop. `report` is told each state and the
    /// share of the way that is done.
    fn draw(
        &self,
        trajectory: &mut Trajectory<4, Box<dyn Score<4> + '_>, Streams>,
        numbers: Range<u64>,
        animated: Option<&Animation>,
        output: &Output,
        report: &mut dyn FnMut(&State<4>, f64) -> Result<()>,
    ) -> Result<Option<Vec<f32>>> {
        let mut gif = None;
        let mut last = None;
        let mut last_wait = Instant::now();
        while let Some(state) = trajectory.next() {
            if stop::asked() {
                return Ok(None);
            }
            let state = state?;
            report(&state, trajectory.part_done())?;
            let State { n_done, x, .. } = state;
            if let Some(Animation { look, stride }) = animated
                && ((n_done as u64).is_multiple_of(*stride) || trajectory.is_done())
            {
                let frame = self.grid(&self.to_pixels(&device::values(x.clone())?), look);
                let gif = match &mut gif {
                    Some(gif) => gif,
                    none => none.insert(GifWriter::new(&output.path(ANIMATION), frame.width, frame.height, FRAME_MS)?),
                };
                gif.frame(&frame)?;
            }
            // A GPU would run far behind the progress shown, and a stop would have to wait for it.
            if last_wait.elapsed() >= WAIT_EVERY {
                device::wait(&x.device())?;
                last_wait = Instant::now();
            }
            last = Some(x);
        }
        let x = device::values(last.expect("a chain has steps"))?;
        if let Some(i) = x.iter().position(|x| !x.is_finite()) {
            return Err(Error::Usage(format!(
                "image {} is not finite: the chain has diverged (a smaller --step-lr may help, or more training)",
                numbers.start + (i / self.image_len()) as u64
            )));
        }
        if let Some(gif) = gif {
            gif.finish()?;
        }
        Ok(Some(x))
    }

    /// Writes the grid of images that are there, unless it is there too.
    fn write_grid(&self, output: &Output, look: &Look) -> Result<()> {
        let mut pixels_u8 = Vec::new();
        for k in 0..look.n {
            pixels_u8.extend(read_png(&output.path(&image_name(k)), self.shape)?);
        }
        let picture = self.grid(&pixels_u8, look);
        let shape = [picture.channels, picture.height, picture.width];
        let is_there = |pixels_u8: Vec<u8>| Pixels::from_chw(&pixels_u8, shape) == picture;
        match read_png(&output.path(GRID), shape).is_ok_and(is_there) {
            true => Ok(()),
            false => write_png(&output.path(GRID), &picture),
        }
    }

    fn trajectory<'a>(
        &self,
        score: &'a dyn Score<4>,
        device: &Device,
        numbers: Range<u64>,
        is_watched: bool,
    ) -> Result<Trajectory<4, Box<dyn Score<4> + 'a>, Streams>> {
        let images = Images { numbers, shape: self.shape, range: self.transform.range };
        let latents = self.begin.as_ref().and_then(|start| start.latents.as_ref());
        let mut x = match (latents, &self.start) {
            (Some(latents), _) => latents.of(images.numbers.clone(), device),
            (None, None) => images.begin(&self.sampler, &*self.process, self.noise, device),
            (None, Some((_, source))) => {
                images.perturbed(&**source, self.transform, &*self.process, self.noise, device)?
            }
        };
        if let Some(temperature) = self.begin.as_ref().and_then(|start| start.temperature) {
            x = tempered(x, temperature);
        }
        let score: Box<dyn Score<4>> = match &self.guide {
            Some(guide) => Box::new(guide.score(score, images.numbers.clone())),
            None => Box::new(score),
        };
        let trajectory = image_trajectory(&self.sampler, score, self.process.clone(), x, &images, self.noise);
        Ok(if is_watched { trajectory.watched() } else { trajectory })
    }

    /// What the log says of a level.
    fn line(&self, update: &Update) -> String {
        let Update { level, sigma, alpha, score_norm, x_norm, snr, mean_score } = update;
        format!(
            "level {} of {}: σ {sigma:.5}, α {alpha:.4e}, mean ‖s‖ {score_norm:.5}, mean ‖x‖ {x_norm:.5}, snr {snr:.5}, \
             ‖mean s‖²σ² {mean_score:.5}",
            level + 1,
            self.process.n_levels()
        )
    }

    fn image_len(&self) -> usize {
        self.shape.iter().product()
    }

    fn tensor_shape(&self) -> [usize; 4] {
        let [channels, height, width] = self.shape;
        [self.n as usize, channels, height, width]
    }

    /// What the model sees to bytes, clamped.
    fn to_pixels(&self, x: &[f32]) -> Vec<u8> {
        x.iter().map(|&x| to_u8(self.transform.range.inverse(x))).collect()
    }

    /// How the first batch is put together.
    fn look(&self, scale: u64) -> Look {
        let n = self.batch.min(self.n);
        let columns = self.columns.unwrap_or_else(|| (n as f64).sqrt().ceil() as u64);
        Look { n, columns: columns.max(1), scale }
    }

    fn grid(&self, pixels_u8: &[u8], look: &Look) -> Pixels {
        grid(pixels_u8, self.shape, look.columns as usize).enlarged(look.scale as usize)
    }
}

/// The number of samples that are there.
fn n_of(output: &Output) -> u64 {
    output.earlier.as_ref().and_then(|earlier| earlier.get("n")).and_then(Value::as_u64).unwrap_or(0)
}

/// Makes `looks` those of pictures that are there where nothing else is asked for, and removes the others.
fn keep_pictures(output: &Output, earlier: &Map<String, Value>, looks: &mut Looks) -> Result<()> {
    let was: Option<Looks> = earlier.get("pictures").and_then(|p| serde_json::from_value(p.clone()).ok());
    let is_as_asked = |was: &Animation| {
        // Of fewer images it is as good an animation.
        let asked = looks.animation.as_ref();
        asked.is_none_or(|asked| *was == Animation { look: Look { n: was.look.n, ..asked.look.clone() }, ..*asked })
    };
    match was.as_ref().and_then(|was| was.animation.clone()).filter(is_as_asked) {
        Some(was) => looks.animation = Some(was),
        None => output.remove(ANIMATION)?,
    }
    looks.raw |= was.is_some_and(|was| was.raw);
    Ok(())
}

/// How long the chains of a sampler are, which must go from stage to stage.
pub fn in_stages(sampler: &Sampler, process: &dyn Process) -> Result<Size> {
    sampler
        .size(process)
        .ok_or_else(|| Error::unexpected(sampler.to_string(), "a sampler that goes from stage to stage"))
}

/// Where a model's network is.
pub fn place(model: &Model<Network>) -> Device {
    model.net.devices().into_iter().next().expect("a network lives somewhere")
}

/// Whether the file at `path` ends as an animation does.
fn is_whole_gif(path: &Path) -> bool {
    let ends_so = |(mut file, _): (std::fs::File, u64)| {
        let mut last = [0];
        file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).is_ok() && last == *b";"
    };
    open_regular(path).is_ok_and(ends_so)
}

fn image_name(k: u64) -> String {
    format!("images/{k:06}.png")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use ncsn::sample::{PredictorCorrector, ProbabilityFlow};
    use ncsn::sde::{Marginal, Vp};

    use super::*;

    /// The score of pixels of N(0.5, 0.1²) under `process`.
    struct Grey(Arc<dyn Process>);

    impl Score<4> for Grey {
        fn score(&self, x: Tensor<4>, t: &[f64]) -> Tensor<4> {
            let of_time = |f: fn(Marginal) -> f64| -> Tensor<4> {
                let values = t.iter().map(|&t| f(self.0.marginal(t)) as f32).collect();
                device::upload(values, [t.len(), 1, 1, 1], &x.device())
            };
            let mean = of_time(|m| m.alpha * 0.5);
            (mean - x.clone()) / of_time(|m| (m.alpha * 0.1).powi(2) + m.std.powi(2))
        }
    }

    fn drawing(sampler: Sampler) -> Drawing {
        let process: Arc<dyn Process> = Arc::new(Vp::new(0.1, 20.0, 50).expect("valid"));
        let new = Drawing::new(&Config::default(), Noise::new(3), 5, || unreachable!("chains begin elsewhere"));
        let size = sampler.size(&*process);
        Drawing { sampler, size, process, shape: [1, 4, 4], batch: 3, ..new.expect("a configuration") }
    }

    #[test]
    fn every_sampler_draws_into_a_folder_and_its_evaluations_are_told() {
        for (sampler, expected) in [
            (Sampler::PredictorCorrector(PredictorCorrector::default()), Some(100)),
            (Sampler::ProbabilityFlow(ProbabilityFlow::default()), None),
        ] {
            let root = tempfile::tempdir().expect("a scratch folder");
            let draw = |name: &str, drawing: &Drawing| {
                let (score, folder) = (Grey(drawing.process.clone()), root.path().join(name));
                let (pictures, mut log) = (Pictures::default(), Log::terminal(Verbosity::Warning));
                let code = drawing.to_folder(&score, &Device::flex(), &folder, &pictures, &mut log);
                assert_eq!(code.expect("samples"), ExitCode::SUCCESS);
                let manifest = std::fs::read(folder.join("samples.json")).expect("a manifest");
                let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
                let image = |k| read_png(&folder.join(image_name(k)), drawing.shape).expect("an image");
                (manifest, (0..drawing.n).map(image).collect::<Vec<_>>())
            };
            let mut drawing = drawing(sampler);
            let (manifest, images) = draw("whole", &drawing);
            let mean = images.concat().iter().map(|&p| f64::from(p)).sum::<f64>() / 80.0;
            // Three standard errors of 80 pixels of standard deviation 25.5, and what 50 steps are off.
            assert!((mean - 127.5).abs() < 12.0, "{mean}");
            let evaluations = &manifest["evaluations"];
            let count = |key| evaluations[key].as_u64();
            match expected {
                Some(expected) => assert_eq!(count("per_image"), Some(expected)),
                None => {
                    let mean = evaluations["mean"].as_f64().expect("a mean");
                    let most = count("most").expect("a count");
                    assert!(count("images") == Some(5) && mean <= most as f64 && mean > 9.0, "{evaluations}");
                    assert_eq!(most % 6, 3, "two at the beginning, six a step, one for the noise that is left");
                }
            }
            // In other batches, and on after fewer.
            drawing.batch = 1;
            drawing.n = 2;
            draw("parts", &drawing);
            drawing.n = 5;
            let (in_parts, of_parts) = draw("parts", &drawing);
            assert_eq!((&in_parts["evaluations"], of_parts), (evaluations, images));
        }
    }
}
