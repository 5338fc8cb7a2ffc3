//! Images by a sampler, new ones and completions, each with its own noise.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::{Chain, Draws, Known, Method, Renewal, Sampler, Streams};
use crate::net::Backbone;
use crate::noise::{self, Distribution, Noise};
use crate::score::Model;

/// The chain of the images `numbers` of a seed, from U[0, 1).
///
/// Each image draws from its own streams, so image k is the same whatever range it is drawn in.
///
/// # Shapes
/// `shape` is `[channels, height, width]`; states are `[numbers.len(), channels, height, width]`.
pub fn image_chain<'a, N: Backbone<4>, M: Method<4>>(
    model: &'a Model<N>,
    method: M,
    numbers: Range<u64>,
    [channels, height, width]: [usize; 3],
    noise: Noise,
    device: &Device,
) -> Chain<4, &'a Model<N>, M, Streams> {
    let shape = [(numbers.end - numbers.start) as usize, channels, height, width];
    let streams = |name| numbers.clone().map(|k| noise.stream(name, k)).collect::<Vec<_>>();
    let x = noise::tensor(Distribution::Uniform, &mut streams("sample/start"), shape, device);
    Chain::new(model, model.process.clone(), method, x, Streams(streams("sample/langevin")))
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
