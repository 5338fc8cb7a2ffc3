//! What training minimises: losses, a file each, and what is chosen among them.

mod batch;
mod denoising;
mod sliced;

pub(crate) use batch::{mean, sum};
use batch::{per_example, perturb, sum_each};
pub use denoising::denoising;
use denoising::denoising_each;
use sliced::perturbed_each;
pub use sliced::{Sliced, Slicing, perturbed_ssm_vr, ssm, ssm_vr};

use burn::tensor::{Tensor, TensorData};

use crate::noise::{self, Distribution, Stream};
use crate::score::Differentiable;
use crate::sde::{Marginal, Process};

/// What is minimised: the mean of a loss over data, times and noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// How the error of the score is estimated.
    pub loss: Loss,
    /// How much each time counts.
    pub weight: Weight,
    /// At which times.
    pub times: Times,
}

/// How the error of the score is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Denoising score matching.
    Denoising,
    /// Sliced score matching with variance reduction.
    Sliced {
        /// Projections for each image.
        n_projections: usize,
        /// How their products with the Jacobian are found.
        slicing: Slicing,
    },
}

/// λ(t), the weight of the squared error of the score at each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// λ = std^p. With p = 2 all levels count alike (Song & Ermon 2019, §4.2); p is `anneal_power` in the published program's
    /// files.
    StdPower(f64),
}

impl Weight {
    /// λ where the perturbation kernel is `marginal`.
    pub fn lambda(self, marginal: Marginal) -> f64 {
        match self {
            Self::StdPower(p) => marginal.std.powf(p),
        }
    }
}

/// The law of the times t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The levels of the process, each with the same probability.
    Levels,
}

/// Where the randomness of one batch comes from.
#[derive(Clone, Debug)]
pub struct Streams {
    /// The times.
    pub times: Stream,
    /// The noise that perturbs the data.
    pub z: Stream,
    /// The projections of sliced losses.
    pub v: Stream,
}

impl Default for Objective {
    /// That of NCSN: denoising score matching at all levels, with λ = σ².
    fn default() -> Self {
        Self { loss: Loss::Denoising, weight: Weight::StdPower(2.0), times: Times::Levels }
    }
}

impl Times {
    /// The times of `n` examples.
    pub fn draw(self, n: usize, process: &dyn Process, stream: &mut Stream) -> Vec<f64> {
        let n_levels = process.n_levels() as u64;
        match self {
            Self::Levels => (0..n).map(|_| process.time(stream.below(n_levels) as usize)).collect(),
        }
    }
}

/// Images, and all that is random about their loss.
#[derive(Clone, Debug)]
pub struct Examples {
    /// `[batch, channels, height, width]`
    x: Tensor<4>,
    /// A time for each image.
    t: Vec<f64>,
    /// Noise, shaped as `x`.
    z: Tensor<4>,
    /// Projections of sliced losses, `[n_projections·batch, …]`, all of the first one first.
    v: Option<Tensor<4>>,
}

impl Examples {
    /// The examples of each level of `process`, with the level's number. Levels that no example has are left out.
    pub fn by_level(&self, process: &dyn Process) -> Vec<(usize, Self)> {
        let rows_at = |t: f64| -> Vec<usize> { (0..self.t.len()).filter(|&row| self.t[row] == t).collect() };
        let levels = (0..process.n_levels()).map(|level| (level, rows_at(process.time(level))));
        levels.filter(|(_, rows)| !rows.is_empty()).map(|(level, rows)| (level, self.select(&rows))).collect()
    }

    /// The same in `n_parts` parts of equal size, of which their number is a multiple.
    pub fn split(&self, n_parts: usize) -> impl Iterator<Item = Self> {
        let n = self.t.len() / n_parts;
        assert_eq!(n * n_parts, self.t.len(), "examples in {n_parts} parts");
        (0..n_parts).map(move |part| match n_parts {
            1 => self.clone(),
            _ => self.select(&(part * n..(part + 1) * n).collect::<Vec<_>>()),
        })
    }

    /// Those of the given numbers.
    fn select(&self, rows: &[usize]) -> Self {
        let n = self.t.len();
        let pick = |x: &Tensor<4>| {
            // Of each projection the same ones.
            let rows = (0..x.dims()[0] / n).flat_map(|k| rows.iter().map(move |row| (k * n + row) as i32));
            let rows: Vec<i32> = rows.collect();
            let n = rows.len();
            x.clone().select(0, Tensor::from_data(TensorData::new(rows, [n]), &x.device()))
        };
        let t = rows.iter().map(|&row| self.t[row]).collect();
        Self { x: pick(&self.x), t, z: pick(&self.z), v: self.v.as_ref().map(pick) }
    }
}

impl Objective {
    /// What is random about a batch of images.
    ///
    /// # Shapes
    /// `x`: `[batch, channels, height, width]`
    pub fn draw(&self, process: &dyn Process, x: Tensor<4>, streams: Streams) -> Examples {
        self.draw_from(process, x, vec![streams])
    }

    /// [`Self::draw`] from several streams, each of which gives what is random about an equal share of the images: of as many streams
    /// as images an image's randomness is its own, whatever others are in the batch.
    ///
    /// # Shapes
    /// As [`Self::draw`].
    ///
    /// # Panics
    /// If there are no equal shares.
    pub fn draw_from(&self, process: &dyn Process, x: Tensor<4>, mut streams: Vec<Streams>) -> Examples {
        let (shape, device) = (x.dims(), &x.device());
        let [n, channels, height, width] = shape;
        assert!(!streams.is_empty() && n.is_multiple_of(streams.len()), "{} streams for {n} images", streams.len());
        let n_each = n / streams.len();
        let t = streams.iter_mut().flat_map(|streams| self.times.draw(n_each, process, &mut streams.times)).collect();
        let (mut of_z, mut of_v): (Vec<Stream>, Vec<Stream>) =
            streams.into_iter().map(|Streams { z, v, .. }| (z, v)).unzip();
        let z = noise::tensor(Distribution::Normal, &mut of_z, shape, device);
        let v = match self.loss {
            Loss::Denoising => None,
            Loss::Sliced { n_projections, .. } => {
                // The projections of an image beside each other.
                let shape = [n, n_projections, channels * height * width];
                let v = noise::tensor(Distribution::Normal, &mut of_v, shape, device);
                Some(v.swap_dims(0, 1).reshape([n_projections * n, channels, height, width]))
            }
        };
        Examples { x, t, z, v }
    }

    /// The objective on a batch: `[1]`.
    pub fn value(&self, score: &impl Differentiable<4>, process: &dyn Process, examples: Examples) -> Tensor<1> {
        let Examples { x, t, z, v } = examples;
        match (self.loss, v) {
            (Loss::Sliced { slicing, .. }, Some(v)) => {
                perturbed_ssm_vr(score, process, x, &t, [z, v], self.weight, slicing)
            }
            _ => denoising(score, process, x, &t, z, self.weight),
        }
    }

    /// The objective on each image of a batch: `[batch]`. Their mean is [`Self::value`] up to rounding.
    pub fn of_each(&self, score: &impl Differentiable<4>, process: &dyn Process, examples: Examples) -> Tensor<1> {
        let Examples { x, t, z, v } = examples;
        match (self.loss, v) {
            (Loss::Sliced { n_projections, slicing }, Some(v)) => {
                let each = perturbed_each(score, process, x, &t, [z, v], self.weight, slicing);
                // The projections of an image beside each other.
                sum_each(each.reshape([n_projections, t.len()]).swap_dims(0, 1)) / n_projections as f64
            }
            _ => denoising_each(score, process, x, &t, z, self.weight),
        }
    }
}
