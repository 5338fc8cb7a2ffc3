//! How often a classifier of perturbed images is right.

use burn::module::Module;

use crate::data::{BatchOptions, Source, Transform, read_batch};
use crate::device::{upload, values};
use crate::error::Result;
use crate::loss::perturb;
use crate::net::Backbone;
use crate::noise::Noise;
use crate::score::Model;

/// Images that are computed at once.
const BATCH: usize = 100;

/// How often a classifier is right about images with some noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    /// The standard deviation of the noise.
    pub std: f64,
    /// The share of the images whose class is the most probable one.
    pub share: f64,
}

/// The accuracy of `model` at each of `times`, over the first `n` images of a random order of `source`, or all if they are fewer. All that
/// is random is that of the seed.
///
/// # Errors
/// When an image cannot be read; [`Error::Device`](crate::Error::Device) if the device could not compute.
///
/// # Panics
/// If the source does not know the classes of its images, or has none.
pub fn accuracy<N: Module + Backbone<4>>(
    model: &Model<N>,
    source: &dyn Source,
    transform: Transform,
    noise: Noise,
    times: &[f64],
    n: usize,
) -> Result<Vec<Accuracy>> {
    let n = n.min(source.len());
    // Every image once: a batch of all would not fit.
    let batch_size = (1..=BATCH.min(n)).rev().find(|size| n.is_multiple_of(*size)).expect("1 divides all");
    let options = BatchOptions { batch_size, random_flip: false, transform };
    let device = model.net.devices().into_iter().next().expect("a network lives somewhere");
    let mut n_right = vec![0; times.len()];
    for number in 0..(n / batch_size) as u64 {
        let batch = read_batch(source, options, noise, "accuracy", number)?;
        let classes_u8 = batch.classes_u8.expect("the classes of a labelled set");
        let mut z = vec![0.0; batch.x.len()];
        noise.stream("accuracy/z", number).normal(&mut z);
        let [x, z] = [batch.x, z].map(|values| upload::<4>(values, batch.shape, &device));
        for (&t, n_right) in times.iter().zip(&mut n_right) {
            let x = perturb(x.clone(), z.clone(), &vec![model.process.marginal(t); batch_size]);
            let log_p = values(model.log_probabilities(x, &vec![t; batch_size]))?;
            let n_classes = log_p.len() / batch_size;
            let is_right = |(row, class): &(&[f32], &u8)| {
                let right = row[usize::from(**class)];
                row.iter().enumerate().all(|(other, &ln)| other == usize::from(**class) || ln < right)
            };
            *n_right += log_p.chunks(n_classes).zip(&classes_u8).filter(is_right).count();
        }
    }
    let share = |(&t, n_right)| Accuracy { std: model.process.marginal(t).std, share: n_right as f64 / n as f64 };
    Ok(times.iter().zip(n_right).map(share).collect())
}
