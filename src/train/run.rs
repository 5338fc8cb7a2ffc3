//! One training step, and everything that the next one depends on.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{Ema, Optimizer, Rule};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::loss::annealed_dsm;
use crate::net::{RefineNet, params};
use crate::noise::Noise;
use crate::sde::NoiseLevels;

/// What a step does besides following the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingOptions {
    /// p of the weight σᵖ in the loss; the paper's λ(σ) = σ² is 2.
    pub anneal_power: f64,
    /// Largest global norm of the gradient; `None` leaves it as it is.
    pub grad_clip: Option<f64>,
    /// Rate of the moving average of the weights; `None` keeps none.
    pub ema_rate: Option<f64>,
}

/// Into how many parts a batch is cut. Burn's CPU backend leaves one of two cores idle half of the time on small images;
/// two parts fill both. The number is fixed, not that of the cores, because it decides in which order sums are rounded.
const N_PARTS: usize = 2;

/// Some images with everything drawn for them, on the host.
struct Draws {
    x: Vec<f32>,
    z: Vec<f32>,
    labels: Vec<i64>,
    image_shape: [usize; 3],
}

impl Draws {
    /// Parts of `n` images, the last perhaps smaller.
    fn split(self, n: usize) -> Vec<Draws> {
        let image_len: usize = self.image_shape.iter().product();
        let images = self.x.chunks(n * image_len).zip(self.z.chunks(n * image_len));
        let part = |((x, z), labels): ((&[f32], &[f32]), &[i64])| Draws {
            x: x.to_vec(),
            z: z.to_vec(),
            labels: labels.to_vec(),
            image_shape: self.image_shape,
        };
        images.zip(self.labels.chunks(n)).map(part).collect()
    }
}

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Steps made so far, this one included.
    pub step: u64,
    /// The loss before the update, in nats (up to a constant) summed over pixels, mean over the batch.
    pub loss: f64,
}

/// A network in training. Noise is addressed by step, so the step number is all there is to remember of it.
#[derive(Debug)]
pub struct Trainer {
    net: RefineNet,
    levels: NoiseLevels,
    optimizer: Optimizer,
    ema: Option<Ema<RefineNet>>,
    options: TrainingOptions,
    noise: Noise,
    step: u64,
}

/// Where a resumed run goes on, beside the weights.
#[derive(Debug)]
pub struct TrainerState {
    /// Steps made.
    pub step: u64,
    /// The optimiser with its state.
    pub optimizer: Optimizer,
    /// The averaged weights.
    pub ema: Option<RefineNet>,
}

impl Trainer {
    /// A run before its first step. `net` lives on an autodiff device.
    pub fn new(net: RefineNet, levels: NoiseLevels, rule: Rule, options: TrainingOptions, noise: Noise) -> Self {
        let ema = options.ema_rate.map(|rate| Ema::new(rate, &net));
        Self { net, levels, optimizer: Optimizer::new(rule), ema, options, noise, step: 0 }
    }

    /// The run at a saved state.
    pub fn resume(self, state: TrainerState) -> Self {
        let TrainerState { step, optimizer, ema } = state;
        let ema = self.options.ema_rate.map(|rate| match ema {
            Some(shadow) => Ema::resume(rate, shadow),
            None => Ema::new(rate, &self.net),
        });
        Self { step, optimizer, ema, ..self }
    }

    /// The run with another network in the place of its own: saved weights.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn map_net(mut self, f: impl FnOnce(RefineNet) -> Result<RefineNet>) -> Result<Self> {
        self.net = f(self.net)?;
        Ok(self)
    }

    /// The network as trained so far.
    pub fn net(&self) -> &RefineNet {
        &self.net
    }

    /// The averaged network, if the options ask for one.
    pub fn ema(&self) -> Option<&RefineNet> {
        self.ema.as_ref().map(Ema::module)
    }

    /// The network to draw samples from: the average if there is one; without gradients.
    pub fn sampling_net(&self) -> RefineNet {
        self.ema().cloned().unwrap_or_else(|| self.net.valid())
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
    /// # Errors
    /// [`Error::NotFinite`] when the loss or a gradient is not finite; the network is then as before the step.
    pub fn step(&mut self, batch: Batch) -> Result<Report> {
        let step = self.step + 1;
        let not_finite = |what: String, value: f64| Error::NotFinite { what, value, step };
        let (loss, gradients) = self.gradients(batch, step);
        if !loss.is_finite() {
            return Err(not_finite("the loss".into(), loss));
        }

        let (names, mut gradients): (Vec<_>, Vec<_>) = gradients.into_iter().unzip();
        let squares: Vec<Tensor<1>> = gradients.iter().flatten().map(|g| g.clone().square().sum()).collect();
        let squares = Tensor::cat(squares, 0).try_into_vec_as::<f32>().expect("gradients are f32");
        if let Some(i) = squares.iter().position(|s| !s.is_finite()) {
            let with_gradient = names.iter().zip(&gradients).filter(|(_, g)| g.is_some());
            let name = with_gradient.map(|(name, _)| name).nth(i).map_or("?", String::as_str);
            return Err(not_finite(format!("the gradient of {name}"), f64::from(squares[i])));
        }
        if let Some(max_norm) = self.options.grad_clip {
            let norm = squares.iter().map(|&s| f64::from(s)).sum::<f64>().sqrt();
            // PyTorch's clip_grad_norm_.
            let coefficient = (max_norm / (norm + 1e-6)).min(1.0);
            gradients.iter_mut().flatten().for_each(|g| *g = g.clone() * coefficient);
        }

        self.net = self.optimizer.step(self.net.clone(), gradients);
        if let Some(ema) = &mut self.ema {
            ema.update(&self.net);
        }
        self.step = step;
        Ok(Report { step, loss })
    }

    /// The denoising loss of a batch of held-out images, without gradient.
    pub fn test_loss(&self, batch: Batch) -> f64 {
        let device = self.device().inner();
        let part = self.draws(batch, ["test/level", "test/z"], self.step);
        scalar(self.loss(&self.net.valid(), part, &device))
    }

    /// The loss of a batch and its gradient, the batch cut into [`N_PARTS`] and each part on a thread of its own.
    fn gradients(&self, batch: Batch, step: u64) -> (f64, Vec<(String, Option<Tensor<1>>)>) {
        let device = self.device();
        let n = batch.shape[0];
        let parts = self.draws(batch, ["train/level", "train/z"], step).split(n.div_ceil(N_PARTS));
        let work = |part: Draws| {
            let share = part.labels.len() as f64 / n as f64;
            // Leaves of its own: graphs that share a leaf would wait for each other.
            let net = self.net.clone().fork(&device);
            let loss = self.loss(&net, part, &device) * share;
            let gradients = params::gradients(&net, &loss.backward());
            (scalar(loss.inner()), gradients)
        };
        let done: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(|| work(part))).collect();
            threads.into_iter().map(|t| t.join().expect("a part of the batch")).collect()
        });
        // Summed in the order of the parts, not in that of the threads: the same bits every time.
        done.into_iter()
            .reduce(|(loss, mut sum), (more, gradients)| {
                for ((_, total), (_, part)) in sum.iter_mut().zip(gradients) {
                    *total = match (total.take(), part) {
                        (Some(a), Some(b)) => Some(a + b),
                        (a, b) => a.or(b),
                    };
                }
                (loss + more, sum)
            })
            .expect("a batch has images")
    }

    /// The level and the noise of each image of a batch.
    fn draws(&self, batch: Batch, streams: [&str; 2], index: u64) -> Draws {
        let mut level_stream = self.noise.stream(streams[0], index);
        let n_levels = self.levels.n_levels() as u64;
        let labels = (0..batch.shape[0]).map(|_| level_stream.below(n_levels) as i64).collect();
        let mut z = vec![0.0; batch.x.len()];
        self.noise.stream(streams[1], index).normal(&mut z);
        let [_, channels, height, width] = batch.shape;
        Draws { x: batch.x, z, labels, image_shape: [channels, height, width] }
    }

    fn loss(&self, net: &RefineNet, draws: Draws, device: &Device) -> Tensor<1> {
        let Draws { x, z, labels, image_shape: [channels, height, width] } = draws;
        let shape = [labels.len(), channels, height, width];
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [shape[0]]), device);
        let (x, z) = (params::upload(x, shape, device), params::upload(z, shape, device));
        annealed_dsm(net, &self.levels, x, &labels, z, self.options.anneal_power)
    }

    fn device(&self) -> Device {
        self.net.devices().into_iter().next().expect("a network lives somewhere")
    }
}

fn scalar(x: Tensor<1>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}
