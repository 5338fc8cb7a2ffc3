//! How often a classifier of perturbed images is right.

use burn::module::Module;

use crate::data::{BatchOptions, Source, Transform, read_batch};
use crate::device::{upload, values};
use crate::error::Result;
use crate::loss::{self, perturb};
use crate::net::Backbone;
use crate::noise::Noise;
use crate::score::Model;

/// Images that are computed at once.
const BATCH: u64 = 100;

/// The share of images, perturbed to time `t`, whose class `model` finds most probable: of the first `n` of a random order of `source`. All
/// that is random is that of the seed.
///
/// # Errors
/// When an image cannot be read; [`Error::Device`](crate::Error::Device) if the device could not compute.
///
/// # Panics
/// If `n` is 0, the source does not know the classes of its images, or the model is no classifier.
pub fn accuracy<N: Module + Backbone<4>>(
    model: &Model<N>,
    source: &dyn Source,
    transform: Transform,
    noise: Noise,
    t: f64,
    n: usize,
) -> Result<f64> {
    assert!(n > 0, "the accuracy over no images");
    let options = BatchOptions { batch_size: 1, random_flip: false, transform };
    let device = model.net.devices().into_iter().next().expect("a network lives somewhere");
    let mut n_right = 0;
    for first in (0..n as u64).step_by(BATCH as usize) {
        let (mut x, mut z, mut classes_u8, mut shape) = (Vec::new(), Vec::new(), Vec::new(), [0; 4]);
        for number in first..(first + BATCH).min(n as u64) {
            let image = read_batch(source, options, noise, "accuracy", number)?;
            let mut of_image = vec![0.0; image.x.len()];
            noise.stream("accuracy/z", number).normal(&mut of_image);
            shape = image.shape;
            classes_u8.extend(image.classes_u8.expect("a labelled set"));
            x.extend(image.x);
            z.extend(of_image);
        }
        shape[0] = classes_u8.len();
        let [x, z] = [x, z].map(|values| upload::<4>(values, shape, &device));
        let x = perturb(x, z, &vec![model.process.marginal(t); shape[0]]);
        let log_p = values(model.log_probabilities(x, &vec![t; shape[0]]))?;
        n_right += loss::n_right(&log_p, &classes_u8);
    }
    Ok(n_right as f64 / n as f64)
}
