//! What a classifier of perturbed data is trained by.

use burn::tensor::{Tensor, activation};

use super::{perturb, sum_each};
use crate::net::Backbone;
use crate::score::{Model, of_classes};
use crate::sde::Process;

/// The cross entropy of a classifier at perturbed data: the mean over the batch of −ln p(y | x_t, t), with x_t = α·x + std·z, which trains
/// the classifier that [`Guided`](crate::score::Guided) takes its gradients from (Song et al. 2021, appendix I.1).
///
/// # Shapes
/// `x`, `z`: `[batch, …]`, data and standard normal noise; `t`: `batch` times of the process; `classes_u8`: of as many examples → `[1]`.
///
/// # Panics
/// If there are not as many classes as examples, or one is not known to the classifier.
pub fn classification<const D: usize, C: Backbone<D>>(
    model: &Model<C>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    z: Tensor<D>,
    classes_u8: &[u8],
) -> Tensor<1> {
    super::mean(classification_each(model, process, x, t, z, classes_u8))
}

/// The same of each example, `[batch]`.
pub(super) fn classification_each<const D: usize, C: Backbone<D>>(
    model: &Model<C>,
    process: &dyn Process,
    x: Tensor<D>,
    t: &[f64],
    z: Tensor<D>,
    classes_u8: &[u8],
) -> Tensor<1> {
    let marginals: Vec<_> = t.iter().map(|&t| process.marginal(t)).collect();
    -sum_each(of_classes(model.log_probabilities(perturb(x, z, &marginals), t), classes_u8))
}

/// The mean of −ln p of the right classes.
///
/// # Shapes
/// `logits`: `[batch, classes]`, `classes_u8`: of as many examples → `[1]`.
pub(crate) fn cross_entropy(logits: Tensor<2>, classes_u8: &[u8]) -> Tensor<1> {
    -super::mean(sum_each(of_classes(activation::log_softmax(logits, 1), classes_u8)))
}

/// How many examples have their own class as the most probable one.
///
/// # Shapes
/// `logits`: `[batch, classes]`, or what differs from them by a number for each example; `classes_u8`: of as many examples.
pub(crate) fn n_right(logits: &[f32], classes_u8: &[u8]) -> usize {
    let is_right = |(logits, class): &(&[f32], &u8)| {
        let class = usize::from(**class);
        logits.iter().enumerate().all(|(other, &logit)| other == class || logit < logits[class])
    };
    logits.chunks_exact(logits.len() / classes_u8.len()).zip(classes_u8).filter(is_right).count()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;

    use super::*;
    use crate::device::{scalar, upload, values};
    use crate::net::{WideResNet, WideResNetConfig, params};
    use crate::noise::{Noise, Stream};
    use crate::score::{Guidance, Label, Prediction};
    use crate::sde::Ve;
    use crate::train::{Optimizer, OptimizerConfig};

    const SIDE: usize = 8;

    /// Images whose upper or lower half is bright, by their class.
    fn halves(classes_u8: &[u8], device: &Device) -> Tensor<4> {
        let pixel = |class: u8, i: usize| if (i % (SIDE * SIDE) < SIDE * SIDE / 2) == (class == 0) { 0.9 } else { 0.1 };
        let x = classes_u8.iter().flat_map(|&class| (0..3 * SIDE * SIDE).map(move |i| pixel(class, i)));
        upload(x.collect(), [classes_u8.len(), 3, SIDE, SIDE], device)
    }

    #[test]
    fn a_classifier_learns_perturbed_images_and_its_gradients_lead_to_the_class() {
        let (device, noise) = (Device::flex().autodiff(), Noise::new(5));
        let config = WideResNetConfig { depth: 10, width: 16, n_classes: 2, ..WideResNetConfig::cifar10() };
        let net = WideResNet::new(&config, &mut noise.stream("init", 0), &device).expect("a network");
        let process = Arc::new(Ve::new(0.01, 1.0, 100).expect("valid"));
        let mut model = Model { net, process, prediction: Prediction::Classes(Label::Std) };
        let mut optimizer = Optimizer::new(OptimizerConfig::default());
        let normal = |stream: &mut Stream, n: usize, device: &Device| -> Tensor<4> {
            let mut z = vec![0.0; n * 3 * SIDE * SIDE];
            stream.normal(&mut z);
            upload(z, [n, 3, SIDE, SIDE], device)
        };
        let classes_u8: Vec<u8> = (0..16).map(|i| i % 2).collect();
        let mut losses = Vec::new();
        for step in 0..40 {
            let (mut t, mut stream) = (vec![0.0; 16], noise.stream("t", step));
            stream.uniform(&mut t);
            let t: Vec<f64> = t.into_iter().map(f64::from).collect();
            let z = normal(&mut stream, 16, &device);
            let loss = classification(&model, &*model.process, halves(&classes_u8, &device), &t, z, &classes_u8);
            let gradients = params::gradients(&model.net, &loss.backward());
            losses.push(scalar(loss.inner()).expect("a processor"));
            model.net = optimizer.step(model.net, gradients);
        }
        // ln 2 of a guess.
        let last = losses[35..].iter().sum::<f64>() / 5.0;
        assert!(losses[0] > 0.4 && last < 0.1, "{losses:?}");

        // From pure noise along the gradient: of each image to the class that it asks for.
        let plain = Device::flex();
        let (t, wanted) = (vec![0.9; 4], [0_u8, 1, 1, 0]);
        let towards = model.towards(&wanted);
        let mut x = normal(&mut noise.stream("x", 0), 4, &plain) * 0.6;
        let log_p = |x: &Tensor<4>| {
            let all = model.log_probabilities(Tensor::from_inner(x.clone()), &t).inner();
            let all = values(all).expect("a processor");
            [0, 1, 2, 3].map(|i| all[2 * i + usize::from(wanted[i])])
        };
        let before = log_p(&x);
        for _ in 0..20 {
            let gradient = towards.gradient(&[0, 1, 2, 3], x.clone(), &t);
            assert!(!gradient.is_autodiff());
            x = x + gradient * 0.5;
        }
        for (before, after) in before.into_iter().zip(log_p(&x)) {
            assert!(after > before && after > -0.1, "{before} became {after}");
        }
    }
}
