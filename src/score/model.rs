//! A network, and what makes it a score: the process that perturbs its data, and the meaning of its output.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::{Differentiable, Factors, Label, Prediction, Score};
use crate::device::upload;
use crate::net::{Backbone, Condition, Dual};
use crate::sde::{NoiseLevels, Process};

/// A score model: s(x, t) = skip(t)·x + scale(t)·F(input(t)·x, label(t)) with a network F, see [`Prediction`].
///
/// With [`Prediction::Classes`] it is a classifier, and panics where a score is asked for.
#[derive(Clone, Debug)]
pub struct Model<N> {
    /// F, which knows neither the process nor the loss.
    pub net: N,
    /// How data are perturbed.
    pub process: Arc<dyn Process>,
    /// What the network's output means.
    pub prediction: Prediction,
}

impl<N> Model<N> {
    /// A network whose output is the score of data that `process` perturbs.
    pub fn new(net: N, process: impl Process + 'static) -> Self {
        Self { net, process: Arc::new(process), prediction: Prediction::Score(Label::Level) }
    }

    /// A network whose output is the score of the data themselves.
    pub fn unperturbed(net: N) -> Self {
        Self::new(net, NoiseLevels::none())
    }

    /// The same with another network.
    pub fn with_net<M>(&self, net: M) -> Model<M> {
        Model { net, process: self.process.clone(), prediction: self.prediction }
    }

    /// F and the score at the times that these labels tell.
    ///
    /// # Shapes
    /// `x`: `[batch, …]`; `labels`: `batch` of them; results as `x`.
    pub fn told<const D: usize>(&self, x: Tensor<D>, labels: &[f64]) -> [Tensor<D>; 2]
    where
        N: Backbone<D>,
    {
        let t: Vec<f64> = labels.iter().map(|&l| self.prediction.told().time(&*self.process, l)).collect();
        let [output, score] = self.output_and_score(x.into(), &t, labels);
        [output.value, score.value]
    }

    fn dual<const D: usize>(&self, x: Dual<D>, t: &[f64]) -> Dual<D>
    where
        N: Backbone<D>,
    {
        let labels: Vec<f64> = t.iter().map(|&t| self.prediction.label(&*self.process, t)).collect();
        let [_, score] = self.output_and_score(x, t, &labels);
        score
    }

    fn output_and_score<const D: usize>(&self, x: Dual<D>, t: &[f64], labels: &[f64]) -> [Dual<D>; 2]
    where
        N: Backbone<D>,
    {
        assert!(!matches!(self.prediction, Prediction::Classes(_)), "found a classifier, expected a score");
        let device = x.value.device();
        let given = Condition::new(upload(labels.iter().map(|&l| l as f32).collect(), [t.len()], &device));
        let factors: Vec<Factors> = t.iter().map(|&t| self.prediction.factors(&*self.process, t)).collect();
        // Factors of nothing cost nothing.
        let [input, skip, scale]: [fn(&Factors) -> f64; 3] = [|f| f.input, |f| f.skip, |f| f.scale];
        let skipped = factors.iter().any(|f| f.skip != 0.0).then(|| times(x.clone(), &factors, skip, &device));
        let x = times(x, &factors, input, &device);
        let output = self.net.forward(x, &given);
        let scaled = times(output.clone(), &factors, scale, &device);
        let score = match skipped {
            Some(skipped) => skipped + scaled,
            None => scaled,
        };
        [output, score]
    }
}

/// x times the factor of each example.
fn times<const D: usize>(x: Dual<D>, factors: &[Factors], factor: fn(&Factors) -> f64, device: &Device) -> Dual<D> {
    if factors.iter().all(|f| factor(f) == 1.0) {
        return x;
    }
    let mut shape = [1; D];
    shape[0] = factors.len();
    let values: Tensor<D> = upload(factors.iter().map(|f| factor(f) as f32).collect(), shape, device);
    x * Dual::from(values)
}

impl<const D: usize, N: Backbone<D>> Score<D> for Model<N> {
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        self.dual(x.into(), t).value
    }
}

impl<const D: usize, N: Backbone<D>> Differentiable<D> for Model<N> {
    fn jvp(&self, x: Tensor<D>, t: &[f64], v: Tensor<D>) -> [Tensor<D>; 2] {
        self.dual(Dual::along(x, v), t).parts()
    }
}
