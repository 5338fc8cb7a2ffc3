//! What training minimises: losses, a file each, and what is chosen among them.

mod batch;
mod denoising;
mod sliced;

pub(crate) use batch::{mean, sum};
use batch::{per_example, perturb};
pub use denoising::denoising;
pub use sliced::{Sliced, Slicing, perturbed_ssm_vr, ssm, ssm_vr};

use burn::tensor::{Device, Tensor, TensorData};

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

/// What is random about a batch.
struct Drawn {
    /// A time for each example.
    t: Vec<f64>,
    /// `[batch, …]`
    z: Tensor<4>,
    /// Projections of sliced losses, `[n_projections·batch, …]`, all of the first one first.
    v: Option<Tensor<4>>,
}

impl Drawn {
    /// That of the examples `rows` alone.
    fn select(&self, rows: &[usize], device: &Device) -> Self {
        let n = self.t.len();
        let pick = |x: Tensor<4>| {
            let rows = (0..x.dims()[0] / n).flat_map(|k| rows.iter().map(move |row| k * n + row));
            select(x, rows, device)
        };
        Self { t: rows.iter().map(|&row| self.t[row]).collect(), z: pick(self.z.clone()), v: self.v.clone().map(pick) }
    }
}

/// Those of the images `rows`, each as often as it is named.
fn select(x: Tensor<4>, rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<4> {
    let rows: Vec<i32> = rows.map(|row| row as i32).collect();
    let n = rows.len();
    x.select(0, Tensor::from_data(TensorData::new(rows, [n]), device))
}

impl Objective {
    /// The objective on one batch of images: `[1]`.
    ///
    /// # Shapes
    /// `x`: `[batch, channels, height, width]`, on `device`.
    pub fn value(
        &self,
        score: &impl Differentiable<4>,
        process: &dyn Process,
        x: Tensor<4>,
        streams: Streams,
        device: &Device,
    ) -> Tensor<1> {
        let drawn = self.draw(process, x.dims(), streams, device);
        self.mean(score, process, x, drawn)
    }

    /// The objective on the examples of each level that [`Self::value`] draws for the same batch, `[1]` each, with the level's
    /// number. Levels that no example has are left out.
    ///
    /// # Shapes
    /// As [`Self::value`].
    pub fn value_by_level(
        &self,
        score: &impl Differentiable<4>,
        process: &dyn Process,
        x: Tensor<4>,
        streams: Streams,
        device: &Device,
    ) -> Vec<(usize, Tensor<1>)> {
        let drawn = self.draw(process, x.dims(), streams, device);
        let rows_at = |t: f64| -> Vec<usize> { (0..drawn.t.len()).filter(|&row| drawn.t[row] == t).collect() };
        let levels = (0..process.n_levels()).map(|level| (level, rows_at(process.time(level))));
        let of_level = |(level, rows): (usize, Vec<usize>)| {
            let x = select(x.clone(), rows.iter().copied(), device);
            (level, self.mean(score, process, x, drawn.select(&rows, device)))
        };
        levels.filter(|(_, rows)| !rows.is_empty()).map(of_level).collect()
    }

    fn draw(&self, process: &dyn Process, shape: [usize; 4], mut streams: Streams, device: &Device) -> Drawn {
        let [n, channels, height, width] = shape;
        let t = self.times.draw(n, process, &mut streams.times);
        let z = noise::tensor(Distribution::Normal, &mut [streams.z], shape, device);
        let v = match self.loss {
            Loss::Denoising => None,
            Loss::Sliced { n_projections, .. } => {
                // The projections of an image beside each other.
                let shape = [n, n_projections, channels * height * width];
                let v = noise::tensor(Distribution::Normal, &mut [streams.v], shape, device);
                Some(v.swap_dims(0, 1).reshape([n_projections * n, channels, height, width]))
            }
        };
        Drawn { t, z, v }
    }

    fn mean(&self, score: &impl Differentiable<4>, process: &dyn Process, x: Tensor<4>, drawn: Drawn) -> Tensor<1> {
        let Drawn { t, z, v } = drawn;
        match (self.loss, v) {
            (Loss::Sliced { slicing, .. }, Some(v)) => {
                perturbed_ssm_vr(score, process, x, &t, [z, v], self.weight, slicing)
            }
            _ => denoising(score, process, x, &t, z, self.weight),
        }
    }
}
