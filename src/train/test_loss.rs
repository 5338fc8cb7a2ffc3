//! The loss of held-out images, each by itself.

use std::ops::Range;

use burn::module::Module;

use crate::data::{BatchOptions, Source, Transform, read_batch};
use crate::device::{upload, values};
use crate::error::Result;
use crate::loss::{Objective, Streams};
use crate::net::Backbone;
use crate::noise::Noise;
use crate::score::Model;

/// An objective on images of a set, with one draw of time and noise an image. All that is random about image k is that of a seed and
/// of k: losses of two models, or of two checkpoints, are of the same perturbed images, and no loss depends on the batch that it is
/// computed in.
#[derive(Clone, Copy, Debug)]
pub struct TestLoss {
    /// What is evaluated.
    pub objective: Objective,
    /// How images become input of the model. They are not mirrored.
    pub transform: Transform,
    /// Where their order, times and noise come from.
    pub noise: Noise,
}

impl TestLoss {
    /// The losses of the images `numbers`. Numbers are places in a random order of the whole set: 0 to `source.len()` are all of its
    /// images.
    ///
    /// # Errors
    /// When an image cannot be read; [`Error::Device`](crate::Error::Device) if the device could not compute the losses.
    pub fn of<N: Module + Backbone<4>>(
        &self,
        model: &Model<N>,
        source: &dyn Source,
        numbers: Range<u64>,
    ) -> Result<Vec<f64>> {
        let options = BatchOptions { batch_size: 1, random_flip: false, transform: self.transform };
        let (mut x, mut shape, mut classes_u8) = (Vec::new(), [0; 4], Vec::new());
        for k in numbers.clone() {
            let image = read_batch(source, options, self.noise, "evaluate", k)?;
            shape = image.shape;
            x.extend(image.x);
            classes_u8.extend(image.classes_u8.into_iter().flatten());
        }
        if x.is_empty() {
            return Ok(Vec::new());
        }
        shape[0] = (numbers.end - numbers.start) as usize;
        let streams = numbers.map(|k| {
            let [times, z, v] = ["evaluate/level", "evaluate/z", "evaluate/v"].map(|name| self.noise.stream(name, k));
            Streams { times, z, v }
        });
        let device = model.net.devices().into_iter().next().expect("a network lives somewhere");
        let examples = self.objective.draw_from(&*model.process, upload(x, shape, &device), streams.collect());
        let examples = examples.with_classes(Some(classes_u8).filter(|classes| !classes.is_empty()));
        let losses = values(self.objective.of_each(model, examples))?;
        Ok(losses.into_iter().map(f64::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::data::digits::Digits;
    use crate::data::{Dequantise, Range as PixelRange, Split};
    use crate::loss::{Loss, Slicing};
    use crate::net::{RefineNet, RefineNetConfig};
    use crate::sde::NoiseLevels;

    #[test]
    fn an_image_s_loss_is_the_same_in_any_batch_and_their_mean_is_the_objective() {
        let (noise, device) = (Noise::new(3), Device::flex());
        let net = RefineNet::new(&RefineNetConfig::ncsn(1, 4, 3), &mut noise.stream("init", 0), &device);
        let model = Model::new(net.expect("a network"), NoiseLevels::geometric(1.0, 0.1, 3).expect("levels"));
        let digits = Digits::new(8, 1, Split::Test).expect("a size");
        let transform = Transform { dequantise: Dequantise::Uniform, range: PixelRange::Unit };
        for loss in [Loss::Denoising, Loss::Sliced { n_projections: 2, slicing: Slicing::Exact }] {
            let objective = Objective { loss, ..Objective::default() };
            let test = TestLoss { objective, transform, noise };
            let of = |numbers| test.of(&model, &digits, numbers).expect("losses");
            let (whole, parts) = (of(0..7), [of(0..2), of(2..3), of(3..7)].concat());
            assert_eq!(whole, parts, "{loss:?}");
            assert!(whole.windows(2).all(|pair| pair[0] != pair[1]), "{whole:?}");
            assert!(of(5..5).is_empty());

            // The objective of the same images, and the same randomness.
            let streams = |k| {
                let [times, z, v] = ["level", "z", "v"].map(|name| noise.stream(&format!("evaluate/{name}"), k));
                Streams { times, z, v }
            };
            let options = BatchOptions { batch_size: 1, random_flip: false, transform };
            let x: Vec<f32> =
                (0..7).flat_map(|k| read_batch(&digits, options, noise, "evaluate", k).expect("an image").x).collect();
            let x = upload(x, [7, 1, 8, 8], &device);
            let examples = objective.draw_from(&*model.process, x, (0..7).map(streams).collect());
            let value = values(objective.value(&model, examples)).expect("a loss")[0];
            let mean = whole.iter().sum::<f64>() / 7.0;
            // f32 sums of some hundred terms of either sign.
            assert!((mean - f64::from(value)).abs() < 1e-5 * mean.abs(), "{loss:?}: {mean} and {value}");
        }
    }
}
