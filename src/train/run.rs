//! One training step, and everything that the next one depends on.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use ncsn_kernels::ops::optimizer::sum_of_squares;

use super::{Ema, Optimizer, Rule};
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::loss::{Slicing, annealed_dsm, annealed_ssm_vr};
use crate::net::params;
use crate::noise::Noise;
use crate::score::Differentiable;
use crate::sde::NoiseLevels;

/// What is minimised, over the noise levels of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Denoising score matching.
    Denoising,
    /// Sliced score matching with variance reduction.
    Sliced {
        /// Directions for each image.
        n_particles: usize,
        /// How their products with the Jacobian are found.
        slicing: Slicing,
    },
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainingOptions {
    /// The loss.
    pub objective: Objective,
    /// p of the weight σᵖ in the loss; the paper's λ(σ) = σ² is 2.
    pub anneal_power: f64,
    /// Largest global norm of the gradient; `None` leaves it as it is.
    pub grad_clip: Option<f64>,
    /// Rate of the moving average of the weights; `None` keeps none.
    pub ema_rate: Option<f64>,
}

/// Some images with everything drawn for them, on the host.
struct Draws {
    x: Vec<f32>,
    z: Vec<f32>,
    /// The directions of an image beside each other; none for the denoising loss.
    v: Vec<f32>,
    labels: Vec<i64>,
    image_shape: [usize; 3],
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
pub struct Trainer<N> {
    net: N,
    levels: NoiseLevels,
    optimizer: Optimizer,
    ema: Option<Ema<N>>,
    options: TrainingOptions,
    noise: Noise,
    step: u64,
}

/// Where a resumed run goes on, beside the weights.
#[derive(Debug)]
pub struct TrainerState<N> {
    /// Steps made.
    pub step: u64,
    /// The optimiser with its state.
    pub optimizer: Optimizer,
    /// The averaged weights.
    pub ema: Option<N>,
}

impl<N: Module + Differentiable<4>> Trainer<N> {
    /// A run before its first step. `net` lives on an autodiff device.
    pub fn new(net: N, levels: NoiseLevels, rule: Rule, options: TrainingOptions, noise: Noise) -> Self {
        let ema = options.ema_rate.map(|rate| Ema::new(rate, &net));
        Self { net, levels, optimizer: Optimizer::new(rule), ema, options, noise, step: 0 }
    }

    /// The run at a saved state.
    pub fn resume(self, state: TrainerState<N>) -> Self {
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
    pub fn map_net(mut self, f: impl FnOnce(N) -> Result<N>) -> Result<Self> {
        self.net = f(self.net)?;
        Ok(self)
    }

    /// The network as trained so far.
    pub fn net(&self) -> &N {
        &self.net
    }

    /// The averaged network, if the options ask for one.
    pub fn ema(&self) -> Option<&N> {
        self.ema.as_ref().map(Ema::module)
    }

    /// The network to draw samples from: the average if there is one; without gradients.
    pub fn sampling_net(&self) -> N {
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

        let (names, gradients): (Vec<_>, Vec<_>) = gradients.into_iter().unzip();
        let squares = gradients.iter().map(|g| g.as_ref().map_or(0.0, |g| sum_of_squares(g.clone())));
        let squares: Vec<f64> = squares.collect();
        // As f32, which the optimiser's state is: squares beyond it would stay there for ever.
        if let Some(i) = squares.iter().position(|&s| !(s as f32).is_finite()) {
            return Err(not_finite(format!("the gradient of {}", names[i]), f64::from(squares[i] as f32)));
        }
        let clip = self.options.grad_clip.map_or(1.0, |max_norm| {
            // PyTorch's clip_grad_norm_.
            let norm = squares.iter().sum::<f64>().sqrt();
            (max_norm / (norm + 1e-6)).min(1.0)
        });

        self.optimizer.advance(&mut self.net, gradients, clip, self.ema.as_mut());
        self.step = step;
        Ok(Report { step, loss })
    }

    /// The loss of a batch of held-out images, without gradient, perhaps another than the one in training.
    pub fn test_loss(&self, batch: Batch, objective: Objective) -> f64 {
        let device = self.device().inner();
        let part = self.draws(batch, objective, ["test/level", "test/z", "test/v"], self.step);
        scalar(self.loss(&self.net.valid(), objective, part, &device))
    }

    /// The loss of a batch and its gradient.
    fn gradients(&self, batch: Batch, step: u64) -> (f64, Vec<(String, Option<Tensor<1>>)>) {
        let objective = self.options.objective;
        let draws = self.draws(batch, objective, ["train/level", "train/z", "train/v"], step);
        let loss = self.loss(&self.net, objective, draws, &self.device());
        let gradients = params::gradients(&self.net, &loss.backward());
        (scalar(loss.inner()), gradients)
    }

    /// The level, the noise and the directions of each image of a batch.
    fn draws(&self, batch: Batch, objective: Objective, streams: [&str; 3], index: u64) -> Draws {
        let mut level_stream = self.noise.stream(streams[0], index);
        let n_levels = self.levels.n_levels() as u64;
        let labels = (0..batch.shape[0]).map(|_| level_stream.below(n_levels) as i64).collect();
        let mut z = vec![0.0; batch.x.len()];
        self.noise.stream(streams[1], index).normal(&mut z);
        let n_particles = match objective {
            Objective::Denoising => 0,
            Objective::Sliced { n_particles, .. } => n_particles,
        };
        let mut v = vec![0.0; n_particles * batch.x.len()];
        self.noise.stream(streams[2], index).normal(&mut v);
        let [_, channels, height, width] = batch.shape;
        Draws { x: batch.x, z, v, labels, image_shape: [channels, height, width] }
    }

    fn loss(&self, net: &N, objective: Objective, draws: Draws, device: &Device) -> Tensor<1> {
        let Draws { x, z, v, labels, image_shape: [channels, height, width] } = draws;
        let n = labels.len();
        let shape = [n, channels, height, width];
        let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [n]), device);
        let (x, z) = (params::upload(x, shape, device), params::upload(z, shape, device));
        let (levels, power) = (&self.levels, self.options.anneal_power);
        match objective {
            Objective::Denoising => annealed_dsm(net, levels, x, &labels, z, power),
            Objective::Sliced { n_particles, slicing } => {
                let v = params::upload(v, [n, n_particles, channels * height * width], device);
                let v = v.swap_dims(0, 1).reshape([n_particles * n, channels, height, width]);
                annealed_ssm_vr(net, levels, x, &labels, [z, v], power, slicing)
            }
        }
    }

    fn device(&self) -> Device {
        self.net.devices().into_iter().next().expect("a network lives somewhere")
    }
}

fn scalar(x: Tensor<1>) -> f64 {
    f64::from(x.into_scalar::<f32>())
}
