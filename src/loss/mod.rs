//! What training minimises: losses, a file each, and what is chosen among them.

mod batch;
mod classification;
mod denoising;
mod sliced;

pub(crate) use batch::perturb;
pub(crate) use batch::{mean, sum};
use batch::{per_example, sum_each};
pub use classification::classification;
use classification::classification_each;
pub(crate) use classification::{cross_entropy, n_right};
pub use denoising::denoising;
use denoising::denoising_each;
use sliced::perturbed_each;
pub use sliced::{Sliced, Slicing, perturbed_ssm_vr, ssm, ssm_vr};

use burn::tensor::{Tensor, TensorData};

use crate::net::Backbone;
use crate::noise::{self, Distribution, Stream};
use crate::score::Model;
use crate::sde::{Discrete, Process};

/// What is minimised: the mean of a loss over data, times and noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// How the error of the score is estimated.
    pub loss: Loss,
    /// How much each time counts.
    pub weight: Weight,
    /// At which times.
    pub times: Times,
    /// What is made of the numbers of an example.
    pub reduction: Reduction,
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
    /// The cross entropy of a classifier; weight and reduction are not those of it.
    Classification,
}

/// λ(t), the weight of the squared error of the score at each time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// λ = std^p. With p = 2 all levels count alike (Song & Ermon 2019, §4.2); p is `anneal_power` in the published program's
    /// files.
    StdPower(f64),
    /// λ = g², with which the loss over continuous times bounds the negative log-likelihood (Song et al. 2021, "Maximum Likelihood
    /// Training of Score-Based Diffusion Models"; `likelihood_weighting`).
    Likelihood,
}

impl Weight {
    /// λ at time `t` of a process.
    pub fn lambda(self, process: &dyn Process, t: f64) -> f64 {
        match self {
            Self::StdPower(p) => process.marginal(t).std.powf(p),
            Self::Likelihood => process.diffusion(t).powi(2),
        }
    }
}

/// The law of the times t.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Times {
    /// The levels of the process, each with the same probability; data are perturbed as at its discrete levels (NCSN's and DDPM's
    /// losses, SMLD and DDPM in Song et al. 2021).
    Levels,
    /// All times from `smallest` to the process's largest (Song et al. 2021, eq. 7; 1e-5 for all processes in its program).
    Uniform {
        /// The smallest time.
        smallest: f64,
    },
}

/// What is made of the D squared errors of an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Half their sum.
    #[default]
    HalfSum,
    /// Their mean, 2/D of that (`reduce_mean` in the files of Song et al. 2021).
    Mean,
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
        let (weight, reduction) = (Weight::StdPower(2.0), Reduction::HalfSum);
        Self { loss: Loss::Denoising, weight, times: Times::Levels, reduction }
    }
}

impl Times {
    /// The times of `n` examples.
    pub fn draw(self, n: usize, process: &dyn Process, stream: &mut Stream) -> Vec<f64> {
        match self {
            Self::Levels => {
                let n_levels = process.n_levels() as u64;
                (0..n).map(|_| process.time(stream.below(n_levels) as usize)).collect()
            }
            Self::Uniform { smallest } => {
                let (mut u, [_, largest]) = (vec![0.0; n], process.times());
                stream.uniform(&mut u);
                u.into_iter().map(|u| smallest + (largest - smallest) * f64::from(u)).collect()
            }
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
    /// The class of each image, if they are known.
    classes_u8: Option<Vec<u8>>,
}

impl Examples {
    /// The same with the class of each image, if they are known.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn with_classes(self, classes_u8: Option<Vec<u8>>) -> Self {
        assert!(classes_u8.as_ref().is_none_or(|c| c.len() == self.t.len()), "a class for each image");
        Self { classes_u8, ..self }
    }

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

    /// The numbers of an image.
    fn n_each(&self) -> usize {
        self.x.dims().iter().skip(1).product()
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
        let classes_u8 = self.classes_u8.as_ref().map(|classes| rows.iter().map(|&row| classes[row]).collect());
        Self { x: pick(&self.x), t, z: pick(&self.z), v: self.v.as_ref().map(pick), classes_u8 }
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
            Loss::Denoising | Loss::Classification => None,
            Loss::Sliced { n_projections, .. } => {
                // The projections of an image beside each other.
                let shape = [n, n_projections, channels * height * width];
                let v = noise::tensor(Distribution::Normal, &mut of_v, shape, device);
                Some(v.swap_dims(0, 1).reshape([n_projections * n, channels, height, width]))
            }
        };
        Examples { x, t, z, v, classes_u8: None }
    }

    /// The objective on a batch: `[1]`.
    ///
    /// # Panics
    /// Where a classifier is trained, if the classes of the images are not known.
    pub fn value<N: Backbone<4>>(&self, model: &Model<N>, examples: Examples) -> Tensor<1> {
        let n_each = examples.n_each();
        let (Examples { x, t, z, v, classes_u8 }, levels) = (examples, Discrete(&*model.process));
        let process = self.perturbing(&*model.process, &levels);
        let half_sum = match (self.loss, v) {
            (Loss::Classification, _) => return classification(model, process, x, &t, z, &known(classes_u8)),
            (Loss::Sliced { slicing, .. }, Some(v)) => {
                perturbed_ssm_vr(model, process, x, &t, [z, v], self.weight, slicing)
            }
            _ => denoising(model, process, x, &t, z, self.weight),
        };
        self.reduction.of_half_sums(half_sum, n_each)
    }

    /// The objective on each image of a batch: `[batch]`. Their mean is [`Self::value`] up to rounding.
    ///
    /// # Panics
    /// As [`Self::value`].
    pub fn of_each<N: Backbone<4>>(&self, model: &Model<N>, examples: Examples) -> Tensor<1> {
        let n_each = examples.n_each();
        let (Examples { x, t, z, v, classes_u8 }, levels) = (examples, Discrete(&*model.process));
        let process = self.perturbing(&*model.process, &levels);
        let half_sums = match (self.loss, v) {
            (Loss::Classification, _) => return classification_each(model, process, x, &t, z, &known(classes_u8)),
            (Loss::Sliced { n_projections, slicing }, Some(v)) => {
                let each = perturbed_each(model, process, x, &t, [z, v], self.weight, slicing);
                // The projections of an image beside each other.
                sum_each(each.reshape([n_projections, t.len()]).swap_dims(0, 1)) / n_projections as f64
            }
            _ => denoising_each(model, process, x, &t, z, self.weight),
        };
        self.reduction.of_half_sums(half_sums, n_each)
    }

    /// How data are perturbed at the times that are drawn: `process`, or its `levels`.
    fn perturbing<'a>(&self, process: &'a dyn Process, levels: &'a Discrete<'a>) -> &'a dyn Process {
        match self.times {
            Times::Levels => levels,
            Times::Uniform { .. } => process,
        }
    }
}

fn known(classes_u8: Option<Vec<u8>>) -> Vec<u8> {
    classes_u8.expect("a classifier is trained on images whose classes are known")
}

impl Reduction {
    /// Of half the sums of `n` squared errors each.
    fn of_half_sums(self, half_sums: Tensor<1>, n: usize) -> Tensor<1> {
        match self {
            Self::HalfSum => half_sums,
            Self::Mean => half_sums * (2.0 / n as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;

    use super::*;
    use crate::device::{scalar, upload};
    use crate::net::{Condition, Dual};
    use crate::noise::Noise;
    use crate::score::{Label, Prediction};
    use crate::sde::{SubVp, Ve, Vp};

    const T: [f64; 3] = [0.02, 0.4, 0.9];
    const N_EACH: usize = 6;

    /// s(x, t) = −x/(1 + t), by the label 999·t.
    struct Linear;

    impl Backbone<4> for Linear {
        fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
            let factors = -(given.label.clone() / 999.0 + 1.0).recip();
            x * Dual::from(factors.reshape([-1, 1, 1, 1]))
        }
    }

    /// A loss of [`Linear`] over three examples, and the mean over the batch of
    /// λ·R[(s + z/std)²] at x = alpha·x_0 + std·z, in f64.
    fn values(
        objective: Objective,
        process: &Arc<dyn Process>,
        t: [f64; 3],
        by_hand: impl Fn(f64) -> [f64; 3],
    ) -> [f64; 2] {
        let draw = |name| {
            let mut values = vec![0.0; 3 * N_EACH];
            Noise::new(3).stream(name, 0).normal(&mut values);
            values
        };
        let (x, z, device) = (draw("x"), draw("z"), Device::flex());
        let tensor = |values: &[f32]| upload(values.to_vec(), [3, 1, 2, 3], &device);
        let examples = Examples { x: tensor(&x), t: t.to_vec(), z: tensor(&z), v: None, classes_u8: None };
        let prediction = Prediction::Score(Label::Time);
        let model = Model { net: Linear, process: process.clone(), prediction };
        let found = scalar(objective.value(&model, examples)).expect("a number");
        let r = if objective.reduction == Reduction::Mean { 1.0 / N_EACH as f64 } else { 0.5 };
        let expected = (0..3 * N_EACH).map(|i| {
            let [alpha, std, lambda] = by_hand(t[i / N_EACH]);
            let (x, z) = (f64::from(x[i]), f64::from(z[i]));
            let s = -(alpha * x + std * z) / (1.0 + t[i / N_EACH]);
            lambda * r * (s + z / std).powi(2)
        });
        [found, expected.sum::<f64>() / 3.0]
    }

    /// The losses of Song et al. 2021, each by its formula.
    #[test]
    fn losses_are_those_of_the_formulas() {
        let vp: Arc<dyn Process> = Arc::new(Vp::new(0.1, 20.0, 100).expect("valid"));
        let sub_vp: Arc<dyn Process> = Arc::new(SubVp::new(0.1, 20.0, 100).expect("valid"));
        let ve: Arc<dyn Process> = Arc::new(Ve::new(0.01, 50.0, 100).expect("valid"));
        let lambda = |t: f64| -0.25 * t * t * 19.9 - 0.5 * t * 0.1;
        let beta = |t: f64| 0.1 + 19.9 * t;
        let sigma = |t: f64| 0.01 * 5000f64.powf(t);
        let of_ve = |t: f64| [1.0, sigma(t), sigma(t).powi(2) * 2.0 * 5000f64.ln()];
        let of_vp = |t: f64| [lambda(t).exp(), (1.0 - (2.0 * lambda(t)).exp()).sqrt(), beta(t)];
        let of_sub_vp = |t: f64| {
            let std = 1.0 - (2.0 * lambda(t)).exp();
            [lambda(t).exp(), std, beta(t) * (1.0 - (4.0 * lambda(t)).exp())]
        };
        let of_ddpm = |t: f64| {
            let k = (t * 99.0).round() as usize;
            let product: f64 = (0..=k).map(|k| 1.0 - (0.1 + 19.9 * k as f64 / 99.0) / 100.0).product();
            [product.sqrt(), (1.0 - product).sqrt(), f64::NAN]
        };
        type ByHand<'a> = &'a dyn Fn(f64) -> [f64; 3];
        let continuous: [(&Arc<dyn Process>, ByHand<'_>); 3] = [(&ve, &of_ve), (&vp, &of_vp), (&sub_vp, &of_sub_vp)];
        for reduction in [Reduction::HalfSum, Reduction::Mean] {
            let mut compared = Vec::new();
            let times = Times::Uniform { smallest: 1e-5 };
            for (process, by_hand) in continuous {
                let objective = Objective { times, reduction, ..Objective::default() };
                compared.push(values(objective, process, T, |t| {
                    let [alpha, std, _] = by_hand(t);
                    [alpha, std, std.powi(2)]
                }));
                compared.push(values(Objective { weight: Weight::Likelihood, ..objective }, process, T, by_hand));
            }
            // At levels: SMLD's and DDPM's losses, both with λ = std².
            let objective = Objective { reduction, ..Objective::default() };
            let at_levels: [(&Arc<dyn Process>, ByHand<'_>); 2] = [(&ve, &of_ve), (&vp, &of_ddpm)];
            for (process, by_hand) in at_levels {
                let t = [97, 60, 0].map(|level| process.time(level));
                compared.push(values(objective, process, t, |t| {
                    let [alpha, std, _] = by_hand(t);
                    [alpha, std, std.powi(2)]
                }));
            }
            for (row, [found, expected]) in compared.into_iter().enumerate() {
                // Sums of 18 numbers in f32.
                assert!(
                    (found / expected - 1.0).abs() < 2e-6,
                    "{reduction:?}, row {row}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn uniform_times_fill_their_interval() {
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let t = Times::Uniform { smallest: 0.2 }.draw(10_000, &vp, &mut Noise::new(1).stream("t", 0));
        assert!(t.iter().all(|t| (0.2..1.0).contains(t)));
        let mean = t.iter().sum::<f64>() / 10_000.0;
        // Four standard errors: the deviation is 0.8/√12.
        assert!((mean - 0.6).abs() < 4.0 * 0.8 / 12f64.sqrt() / 100.0, "{mean}");
    }
}
