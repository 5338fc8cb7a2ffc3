//! Guidance by a classifier that is told how data are perturbed.

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use super::{Guidance, Model, Prediction};
use crate::device::upload;
use crate::net::{Backbone, Condition};

/// Of a network that classifies perturbed data, whose output are logits: see [`Prediction::Classes`](super::Prediction::Classes).
impl<C> Model<C> {
    /// ln p(y | x, t) for all classes y.
    ///
    /// # Shapes
    /// `x`: `[batch, …]`; `t`: `batch` times → `[batch, classes]`
    ///
    /// # Panics
    /// If the model is a score.
    pub fn log_probabilities<const D: usize>(&self, x: Tensor<D>, t: &[f64]) -> Tensor<2>
    where
        C: Backbone<D>,
    {
        let is_classifier = matches!(self.prediction, Prediction::Classes(_));
        assert!(is_classifier, "found {:?}, expected a classifier", self.prediction);
        let labels = t.iter().map(|&t| self.prediction.label(&*self.process, t) as f32).collect();
        let given = Condition::new(upload(labels, [t.len()], &x.device()));
        let logits = self.net.forward(x.into(), &given).value;
        activation::log_softmax(logits.reshape([t.len() as isize, -1]), 1)
    }
}

impl<C: Module> Model<C> {
    /// The gradients of a classifier for these classes: one for each example of a batch, or one for all.
    ///
    /// # Panics
    /// If there are no classes.
    pub fn towards(&self, classes_u8: &[u8]) -> ClassGuidance<C> {
        assert!(!classes_u8.is_empty(), "found no classes, expected one for each example, or one for all");
        // Its weights are constants, on a device that has gradients.
        let net = self.net.valid().train().no_grad();
        ClassGuidance { model: self.with_net(net), classes_u8: classes_u8.to_vec() }
    }
}

/// ∇ₓ ln p(y | x, t) of the classes y that a batch is to be of (Song et al. 2021, §5 and appendix I.1).
#[derive(Clone, Debug)]
pub struct ClassGuidance<C> {
    model: Model<C>,
    classes_u8: Vec<u8>,
}

impl<const D: usize, C: Backbone<D>> Guidance<D> for ClassGuidance<C> {
    /// # Panics
    /// If there are several classes, but none for an example; if a class is unknown to the classifier.
    fn gradient(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        assert_eq!(examples.len(), t.len(), "a time for each example");
        let class = |&example: &usize| match self.classes_u8[..] {
            [class] => class,
            _ => self.classes_u8[example],
        };
        let classes_u8: Vec<u8> = examples.iter().map(class).collect();
        let is_autodiff = x.is_autodiff();
        let x = Tensor::from_inner(x.without_autodiff()).require_grad();
        let log_p = of_classes(self.model.log_probabilities(x.clone(), t), &classes_u8);
        let gradient = x.grad(&log_p.sum().backward()).expect("logits depend on the image");
        if is_autodiff { Tensor::from_inner(gradient) } else { gradient }
    }
}

/// ln p of the class of each example where it stands among all classes, and 0 elsewhere.
///
/// # Shapes
/// `log_p`: `[batch, classes]`, unchanged.
///
/// # Panics
/// If there are not as many classes as examples, or one is not known.
pub(crate) fn of_classes(log_p: Tensor<2>, classes_u8: &[u8]) -> Tensor<2> {
    let [n, n_classes] = log_p.dims();
    assert_eq!(classes_u8.len(), n, "a class for each example");
    let mut is_it = vec![0.0; n * n_classes];
    for (row, &class) in is_it.chunks_exact_mut(n_classes).zip(classes_u8) {
        row[usize::from(class)] = 1.0;
    }
    let is_it = upload(is_it, [n, n_classes], &log_p.device());
    log_p * is_it
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::module::Param;
    use burn::tensor::Device;

    use super::*;
    use crate::device::values;
    use crate::net::Dual;
    use crate::score::{GaussianMixture, Guided, Label, Score};
    use crate::sde::{Marginal, Ve};

    const MEANS: [[f64; 2]; 2] = [[1.0, 0.5], [-0.8, 0.2]];
    const STD: f64 = 0.2;

    /// The posterior of the components of a mixture, whose logits are ln w − ‖x − μ‖²/(2(STD² + σ²)).
    #[derive(Module, Debug)]
    struct Bayes {
        log_weights: Param<Tensor<1>>,
    }

    impl Backbone<2> for Bayes {
        fn forward(&self, x: Dual<2>, given: &Condition) -> Dual<2> {
            let variance = (given.label.clone().square() + STD * STD).unsqueeze_dim::<2>(1);
            let squares = MEANS.into_iter().map(|mean| {
                let mean = Tensor::<2>::from_floats([mean.map(|x| x as f32)], &x.value.device());
                (x.value.clone() - mean).square().sum_dim(1)
            });
            (Tensor::cat(squares.collect(), 1) / variance * -0.5 + self.log_weights.val().unsqueeze()).into()
        }
    }

    #[test]
    fn a_mixture_that_is_guided_by_its_posterior_is_the_component_that_each_example_asks_for() {
        let ve = Ve::new(0.01, 5.0, 100).expect("valid");
        let [a, b] = MEANS;
        let mixture = GaussianMixture::new(&[(0.3, &a), (0.7, &b)], STD, ve.clone());
        let components = MEANS.map(|mean| GaussianMixture::new(&[(1.0, &mean)], STD, ve.clone()));
        let log_weights = Tensor::from_floats([0.3_f32.ln(), 0.7_f32.ln()], &Device::flex());
        let net = Bayes { log_weights: Param::from_tensor(log_weights) };
        let model = Model { net, process: Arc::new(ve), prediction: Prediction::Classes(Label::Std) };
        let x = || upload::<2>(vec![0.3, -1.0, 0.1, 2.5, -0.8, 0.2, 0.0, 0.3], [4, 2], &Device::flex());
        let t = [0.05, 0.3, 0.6, 0.9];
        let by = |classes_u8: &[u8]| {
            let guided = Guided { score: &mixture, guidance: model.towards(classes_u8), scale: 1.0 };
            values(guided.score(x(), &t)).expect("a processor")
        };
        let expected = components.map(|score| values(score.score(x(), &t)).expect("a processor"));
        let close = |found: &[f32], expected: &[f32]| {
            for (found, expected) in found.iter().zip(expected) {
                // Two f32 sums of numbers of up to 100.
                assert!((found - expected).abs() < 5e-5, "{found}, expected {expected}");
            }
        };
        close(&by(&[0]), &expected[0]);
        close(&by(&[1]), &expected[1]);
        let each = by(&[0, 1, 1, 0]);
        for (i, class) in [0, 1, 1, 0].into_iter().enumerate() {
            close(&each[2 * i..2 * i + 2], &expected[class][2 * i..2 * i + 2]);
        }
        // Of the last two alone, whose classes they keep.
        let guided = Guided { score: &mixture, guidance: model.towards(&[0, 1, 1, 0]), scale: 1.0 };
        let last = guided.score_of(&[2, 3], x().slice([2..4, 0..2]), &t[2..]);
        close(&values(last).expect("a processor"), &each[4..]);
        let log_p = values(model.log_probabilities(x(), &t)).expect("a processor");
        for row in log_p.chunks(2) {
            // Probabilities, in f32.
            assert!((row.iter().map(|ln| ln.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        }
        let Marginal { std, .. } = model.process.marginal(t[3]);
        assert!(std > 2.0, "much noise is among the times");
    }
}
