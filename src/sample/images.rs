//! Images by a sampler, new ones and completions, each with its own noise.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::{Chain, Draws, Known, Method, Renewal, Sampler, Streams};
use crate::data;
use crate::net::Backbone;
use crate::noise::{self, Distribution, Noise, Stream};
use crate::score::Model;

/// Images of a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Their numbers. Each image draws from its own streams, so image k is the same whatever others it is drawn with.
    pub numbers: Range<u64>,
    /// `[channels, height, width]`
    pub shape: [usize; 3],
    /// In what range the model sees pixels: chains begin at uniform pixels.
    pub range: data::Range,
}

impl Images {
    /// The shape of all of them.
    pub(super) fn batch_shape(&self) -> [usize; 4] {
        let [channels, height, width] = self.shape;
        [(self.numbers.end - self.numbers.start) as usize, channels, height, width]
    }

    /// A stream of each.
    pub(super) fn streams(&self, noise: Noise, name: &str) -> Vec<Stream> {
        self.numbers.clone().map(|k| noise.stream(name, k)).collect()
    }

    /// Pixels from U[0, 1), as the model sees them.
    pub(super) fn start(&self, noise: Noise, name: &str, device: &Device) -> Tensor<4> {
        let u = noise::tensor(Distribution::Uniform, &mut self.streams(noise, name), self.batch_shape(), device);
        match self.range {
            // The published program of NCSN begins there whatever the range.
            data::Range::Unit | data::Range::Logit => u,
            data::Range::Symmetric => u * 2.0 - 1.0,
        }
    }
}

/// The chain of `images`.
///
/// # Shapes
/// States are `[images, channels, height, width]`.
pub fn image_chain<'a, N: Backbone<4>, M: Method<4>>(
    model: &'a Model<N>,
    method: M,
    images: &Images,
    noise: Noise,
    device: &Device,
) -> Chain<4, &'a Model<N>, M, Streams> {
    let x = images.start(noise, "sample/start", device);
    Chain::new(model, model.process.clone(), method, x, Streams(images.streams(noise, "sample/langevin")))
}

/// Completions of one image.
#[derive(Clone, Debug)]
pub struct Completions {
    /// 1 where the image is known: `[1, channels, height, width]`.
    pub mask: Tensor<4>,
    /// The image, as input of the model: `[1, channels, height, width]`.
    pub reference: Tensor<4>,
    /// When the known pixels are perturbed anew.
    pub renewal: Renewal,
    /// The image's number; its streams are its own.
    pub image: u64,
    /// The completions' numbers; each has its own streams, too.
    pub numbers: Range<u64>,
}

/// The chain of `completions`, from U[0, 1).
///
/// # Shapes
/// States are `[numbers.len(), channels, height, width]`.
pub fn completion_chain<'a, N: Backbone<4>>(
    model: &'a Model<N>,
    sampler: &Sampler,
    completions: Completions,
    noise: Noise,
) -> Chain<4, &'a Model<N>, Box<dyn Method<4>>, impl Draws<4> + use<N>> {
    let Completions { mask, reference, renewal, image, numbers } = completions;
    let device = reference.device();
    let [_, channels, height, width] = reference.dims();
    let shape = [(numbers.end - numbers.start) as usize, channels, height, width];
    let streams = |name: &str| numbers.clone().map(|k| noise.stream(&format!("{name}/{image}"), k)).collect::<Vec<_>>();
    let x = noise::tensor(Distribution::Uniform, &mut streams("inpaint/start"), shape, &device);
    let known = Known::new(mask, reference, renewal, Streams(streams("inpaint/known")));
    let mut update = streams("inpaint/langevin");
    // Not in one pass, as ever: another order of sums would make other completions of a seed.
    let draws = move || noise::tensor(Distribution::Normal, &mut update, shape, &device);
    Chain::new(model, model.process.clone(), sampler.method(), x, draws).with_known(known)
}
