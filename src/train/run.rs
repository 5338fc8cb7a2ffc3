//! One training step, and everything that the next one depends on.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use ncsn_kernels::ops::is_cpu;
use ncsn_kernels::ops::optimizer::{Verdict, sums_of_squares, sums_of_squares_on_gpu};
use ncsn_kernels::ops::pixels::add;

use super::optimizer::Decision;
use super::{Ema, EmaRate, Optimizer, OptimizerConfig, tree};
use crate::data::Batch;
use crate::device;
use crate::error::{Error, Result};
use crate::loss::{Examples, Objective, Streams};
use crate::net::{Backbone, InTraining, Record, params, spectral};
use crate::noise::Noise;
use crate::score::Model;

/// Streams of times, noise and projections in steps.
const TRAIN: [&str; 3] = ["train/level", "train/z", "train/v"];
/// The same of test batches.
const TEST: [&str; 3] = ["test/level", "test/z", "test/v"];
/// Streams of dropout, one for each image of each step.
const DROPOUT: &str = "train/dropout";
/// Images of a batch are fewer, so that the numbers of their streams differ.
const MAX_BATCH: u64 = 1 << 20;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingOptions {
    /// What is minimised.
    pub objective: Objective,
    /// Rate of the moving average of the weights; `None` keeps none.
    pub ema_rate: Option<EmaRate>,
    /// In how many parts, one after another, the gradient of a batch is computed: a power of two that divides the batch. Batch norms
    /// take the statistics of each.
    pub micro_batches: usize,
}

impl Default for TrainingOptions {
    /// Denoising score matching, gradients of the whole batch at once, without a moving average.
    fn default() -> Self {
        Self { objective: Objective::default(), ema_rate: None, micro_batches: 1 }
    }
}

/// What one step gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// Steps made so far, this one included.
    pub step: u64,
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Outcome {
    Known(f64),
    OnDevice(Box<Unread>),
}

/// What is on a device that may still be busy with it.
#[derive(Clone, Debug)]
struct Unread {
    /// The loss and the sum of squares of each gradient.
    numbers: Tensor<1>,
    /// The gradients' names.
    names: Arc<[String]>,
}

impl Report {
    /// The loss before the update, in nats (up to a constant) summed over pixels, mean over the batch. On a device other than
    /// the processor this waits until the step is done.
    ///
    /// # Errors
    /// [`Error::NotFinite`], see [`Trainer::step`]; [`Error::Device`] if it could not compute.
    pub fn loss(&self) -> Result<f64> {
        match &self.outcome {
            Outcome::Known(loss) => Ok(*loss),
            Outcome::OnDevice(unread) => {
                let Unread { numbers, names } = &**unread;
                let numbers = device::values(numbers.clone())?;
                let (&loss, squares) = numbers.split_first().expect("a loss");
                finite(f64::from(loss), squares.iter().map(|&s| f64::from(s)), |i| names[i].clone(), self.step)
            }
        }
    }

    /// Whether the loss is on the host, so that nobody waits for it.
    pub fn is_known(&self) -> bool {
        matches!(self.outcome, Outcome::Known(_))
    }
}

/// The loss, if it and the gradients, of which there are sums of squares and names, are finite.
fn finite(
    loss: f64,
    squares: impl IntoIterator<Item = f64>,
    name: impl FnOnce(usize) -> String,
    step: u64,
) -> Result<f64> {
    if !loss.is_finite() {
        return Err(Error::NotFinite { what: "the loss".into(), value: loss, step });
    }
    // As f32, which the optimiser's state is: squares beyond it would stay there for ever.
    match squares.into_iter().map(|s| f64::from(s as f32)).enumerate().find(|(_, s)| !s.is_finite()) {
        Some((i, value)) => Err(Error::NotFinite { what: format!("the gradient of {}", name(i)), value, step }),
        None => Ok(loss),
    }
}

/// A model in training. Noise is addressed by step, so the step number is all there is to remember of it.
#[derive(Debug)]
pub struct Trainer<N> {
    model: Model<N>,
    optimizer: Optimizer,
    ema: Option<Ema<N>>,
    options: TrainingOptions,
    noise: Noise,
    step: u64,
    /// Whether all steps so far were finite, where that is not known on the host.
    all_finite: Option<Tensor<1, Bool>>,
}

/// Where a resumed run goes on, beside the weights.
#[derive(Debug)]
pub struct TrainerState<N> {
    /// Steps made.
    pub step: u64,
    /// The optimiser with its state.
    pub optimizer: Optimizer,
    /// The averaged weights, and how many updates made them.
    pub ema: Option<(N, u64)>,
}

impl<N: Module + Backbone<4>> Trainer<N> {
    /// A run before its first step. The model's network lives on an autodiff device.
    pub fn new(model: Model<N>, optimizer: OptimizerConfig, options: TrainingOptions, noise: Noise) -> Self {
        let ema = options.ema_rate.map(|rate| Ema::new(rate, &model.net));
        Self { model, optimizer: Optimizer::new(optimizer), ema, options, noise, step: 0, all_finite: None }
    }

    /// The run at a saved state.
    pub fn resume(self, state: TrainerState<N>) -> Self {
        let TrainerState { step, optimizer, ema } = state;
        let ema = self.options.ema_rate.map(|rate| match ema {
            Some((shadow, n_updates)) => Ema::resume(rate, n_updates, shadow),
            None => Ema::new(rate, &self.model.net),
        });
        Self { step, optimizer, ema, ..self }
    }

    /// The run with another network in the place of its own: saved weights.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn map_net(mut self, f: impl FnOnce(N) -> Result<N>) -> Result<Self> {
        self.model.net = f(self.model.net)?;
        Ok(self)
    }

    /// The model as trained so far.
    pub fn model(&self) -> &Model<N> {
        &self.model
    }

    /// Its network.
    pub fn net(&self) -> &N {
        &self.model.net
    }

    /// The averaged network, if the options ask for one.
    pub fn ema(&self) -> Option<&N> {
        self.ema.as_ref().map(Ema::module)
    }

    /// How many updates made the average; 0 if there is none.
    pub fn ema_updates(&self) -> u64 {
        self.ema.as_ref().map_or(0, Ema::n_updates)
    }

    /// The model to draw samples from: with the averaged weights if there are any; without gradients.
    pub fn sampling_model(&self) -> Model<N> {
        self.model.with_net(self.ema().cloned().unwrap_or_else(|| self.net().valid()))
    }

    /// The optimiser and its state.
    pub fn optimizer(&self) -> &Optimizer {
        &self.optimizer
    }

    /// Steps made so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// One step of optimisation on `batch`.
    ///
    /// On a device other than the processor nobody waits for the step, and errors of it are found when its loss is read.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when the loss or a gradient is not finite; the network is then as before the step, and on a device
    /// other than the processor stays so.
    ///
    /// # Panics
    /// As [`Objective::value`].
    pub fn step(&mut self, batch: Batch) -> Result<Report> {
        let step = self.step + 1;
        let device = self.device();
        let buffers = params::buffer_values(self.net());
        self.model.net = spectral::iterate(self.model.net.clone());
        let record = Record::default();
        let TrainingOptions { objective, micro_batches, .. } = self.options;
        let n_each = batch.shape[0] / micro_batches;
        let examples = self.examples(batch, &objective, TRAIN, step);
        let parts = examples.split(micro_batches).enumerate().map(|(part_number, part)| {
            let images = part_number * n_each..(part_number + 1) * n_each;
            let number = |image| step.wrapping_mul(MAX_BATCH).wrapping_add(image as u64);
            let dropout = images.map(|image| self.noise.stream(DROPOUT, number(image))).collect();
            let model = self.model.with_net(InTraining { net: self.net(), record: record.clone(), dropout });
            let loss = objective.value(&model, part);
            // Of a power of two, which rounds nothing.
            let loss = if micro_batches == 1 { loss } else { loss / micro_batches as f64 };
            let gradients = params::gradients(self.net(), &loss.backward());
            Ok::<_, Error>((loss.inner(), gradients))
        });
        let sum = tree::sum(parts, |(loss, gradients), (other_loss, others)| {
            let sums = gradients.into_iter().zip(others).map(|(a, b)| match (a, b) {
                (Some(a), Some(b)) => Some(add(a, b)),
                (a, b) => a.or(b),
            });
            (loss + other_loss, sums.collect())
        });
        let (loss, gradients): (_, Vec<_>) = sum?.expect("a batch has a part");
        let outcome = if is_cpu(&device) {
            let squares = sums_of_squares(&gradients);
            let name = |index| params::names(self.net()).swap_remove(index);
            let loss = match finite(device::scalar(loss)?, squares.iter().copied(), name, step) {
                Ok(loss) => loss,
                Err(error) => {
                    self.model.net = params::map_buffers(self.model.net.clone(), |index, _| buffers[index].clone());
                    return Err(error);
                }
            };
            let clip = self.optimizer.config().clip_factor(&squares);
            self.optimizer.advance(&mut self.model.net, gradients, Decision::Go { clip }, self.ema.as_mut());
            Outcome::Known(loss)
        } else {
            let (numbers, verdict) = self.judge(loss, &gradients);
            self.optimizer.advance(&mut self.model.net, gradients, Decision::OnDevice(&verdict), self.ema.as_mut());
            Outcome::OnDevice(Box::new(Unread { numbers, names: params::names(self.net()).into() }))
        };
        self.model.net = record.apply(self.model.net.clone(), self.all_finite.as_ref());
        if let Some(ema) = &mut self.ema {
            ema.copy_buffers(&self.model.net);
        }
        self.step = step;
        Ok(Report { step, outcome })
    }

    /// The loss and the sums of squares of gradients as one tensor, and what follows from them, without the host.
    fn judge(&mut self, loss: Tensor<1>, gradients: &[Option<Tensor<1>>]) -> (Tensor<1>, Verdict) {
        let squares = sums_of_squares_on_gpu(gradients, &loss.device());
        let clip = self.optimizer.config().clip_factor_on_device(&squares);
        let numbers = Tensor::cat(vec![loss, squares], 0);
        // Not a number is not below anything.
        let is_finite = numbers.clone().abs().lower_equal_elem(f32::MAX).all();
        let (numbers, go) = match self.all_finite.take() {
            None => (numbers, is_finite),
            // After a step that failed every report says so.
            Some(so_far) => {
                let failed = so_far.clone().bool_not().expand(numbers.dims());
                (numbers.mask_fill(failed, f32::NAN), so_far.bool_and(is_finite))
            }
        };
        self.all_finite = Some(go.clone());
        (numbers, Verdict::new(clip, go))
    }

    /// The loss of a batch of held-out images, without gradient, perhaps another than the one in training.
    ///
    /// # Errors
    /// [`Error::Device`] if it could not be computed.
    pub fn test_loss(&self, batch: Batch, objective: &Objective) -> Result<f64> {
        let (model, examples) = (self.valid_model(), self.examples(batch, objective, TEST, self.step));
        device::scalar(objective.value(&model, examples))
    }

    /// The same for the images of each noise level that [`Self::test_loss`] draws, with the level's number; of levels that are drawn.
    ///
    /// # Errors
    /// As [`Self::test_loss`].
    pub fn test_loss_by_level(&self, batch: Batch, objective: &Objective) -> Result<Vec<(usize, f64)>> {
        let (model, examples) = (self.valid_model(), self.examples(batch, objective, TEST, self.step));
        let of_level = |(level, examples)| Ok((level, device::scalar(objective.value(&model, examples))?));
        examples.by_level(&*model.process).into_iter().map(of_level).collect()
    }

    /// The model without gradients.
    fn valid_model(&self) -> Model<N> {
        self.model.with_net(self.net().valid())
    }

    /// A batch with its randomness from `streams` (of times, noise and projections) at `index`.
    fn examples(&self, batch: Batch, objective: &Objective, streams: [&str; 3], index: u64) -> Examples {
        let [times, z, v] = streams.map(|name| self.noise.stream(name, index));
        let x = device::upload(batch.x, batch.shape, &self.device());
        objective.draw(&*self.model.process, x, Streams { times, z, v }).with_classes(batch.classes_u8)
    }

    fn device(&self) -> Device {
        self.net().devices().into_iter().next().expect("a network lives somewhere")
    }
}
