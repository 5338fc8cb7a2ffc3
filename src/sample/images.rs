//! Images by a sampler, new ones and completions, each with its own noise.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::{AnyChain, Chain, Draws, Known, Method, Renewal, Sampler, Streams, Trajectory};
use crate::data::{self, BatchOptions, Source, Transform, read_batch};
use crate::device::upload;
use crate::error::{Error, Result};
use crate::net::Backbone;
use crate::noise::{self, Distribution, Noise, Stream};
use crate::score::{Model, Score};
use crate::sde::{Marginal, Process};

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

    /// Pixels from U[0, 1), as the model sees them, of the streams `name`.
    pub(super) fn start(&self, noise: Noise, name: &str, device: &Device) -> Tensor<4> {
        let u = noise::tensor(Distribution::Uniform, &mut self.streams(noise, name), self.batch_shape(), device);
        match self.range {
            // The published program of NCSN begins there whatever the range.
            data::Range::Unit | data::Range::Logit => u,
            data::Range::Symmetric => u * 2.0 - 1.0,
        }
    }

    /// Pixels from U[0, 1), as the model sees them, where chains begin.
    ///
    /// # Shapes
    /// → `[images, channels, height, width]`
    pub fn uniform(&self, noise: Noise, device: &Device) -> Tensor<4> {
        self.start(noise, "sample/start", device)
    }

    /// Where `sampler` begins: at [`Self::prior`] or at [`Self::uniform`].
    pub fn begin(&self, sampler: &Sampler, process: &dyn Process, noise: Noise, device: &Device) -> Tensor<4> {
        match sampler.begins_at_prior() {
            true => self.prior(process, noise, device),
            false => self.uniform(noise, device),
        }
    }

    /// The prior of a process, N(0, prior_std²·I).
    pub fn prior(&self, process: &dyn Process, noise: Noise, device: &Device) -> Tensor<4> {
        self.prior_of(process, noise, "sample/prior", device)
    }

    /// The same of the streams `name`.
    pub(super) fn prior_of(&self, process: &dyn Process, noise: Noise, name: &str, device: &Device) -> Tensor<4> {
        let z = noise::tensor(Distribution::Normal, &mut self.streams(noise, name), self.batch_shape(), device);
        z * process.prior_std()
    }

    /// An image of `source` for each, none twice before all were taken, perturbed to the first of the process's levels:
    /// α·x + std·z. Chains that begin there begin where those of the data at that level are (`data_init` in NCSNv2's files).
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn perturbed(
        &self,
        source: &dyn Source,
        transform: Transform,
        process: &dyn Process,
        noise: Noise,
        device: &Device,
    ) -> Result<Tensor<4>> {
        let options = BatchOptions { batch_size: 1, random_flip: false, transform };
        let mut x = Vec::new();
        for k in self.numbers.clone() {
            x.extend(read_batch(source, options, noise, "sample/data", k)?.x);
        }
        let Marginal { alpha, std } = process.marginal(process.time(0));
        let shape = self.batch_shape();
        let z = noise::tensor(Distribution::Normal, &mut self.streams(noise, "sample/data/z"), shape, device);
        Ok(upload(x, shape, device) * alpha + z * std)
    }
}

/// The chain of `images`, from uniform pixels.
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
    let draws = Streams(images.streams(noise, "sample/langevin"));
    Chain::new(model, model.process.clone(), method, images.uniform(noise, device), draws)
}

/// The way of `images` from the states `x`, [`Images::begin`] or [`Images::perturbed`], to samples by any sampler.
///
/// # Shapes
/// States are `[images, channels, height, width]`.
pub fn image_trajectory<S: Score<4>>(
    sampler: &Sampler,
    score: S,
    process: Arc<dyn Process>,
    x: Tensor<4>,
    images: &Images,
    noise: Noise,
) -> Trajectory<4, S, Streams> {
    sampler.trajectory(score, process, x, Streams(images.streams(noise, "sample/langevin")))
}

/// A part of an image.
#[derive(Clone, Debug)]
pub enum KnownPart {
    /// Where this is 1, `[1, channels, height, width]`, and not where it is 0.
    Pixels(Box<Tensor<4>>),
    /// The mean over its three channels.
    Grey,
}

/// Completions of one image.
#[derive(Clone, Debug)]
pub struct Completions {
    /// What of the image is known.
    pub part: KnownPart,
    /// The image, as input of the model: `[1, channels, height, width]`.
    pub reference: Tensor<4>,
    /// When the known pixels are perturbed anew.
    pub renewal: Renewal,
    /// The image's number; its streams are its own.
    pub image: u64,
    /// The completions' numbers; each has its own streams, too.
    pub numbers: Range<u64>,
}

/// The chain of `completions`, from U[0, 1), or from the prior if the sampler begins there.
///
/// # Shapes
/// States are `[numbers.len(), channels, height, width]`.
///
/// # Errors
/// Of the probability flow, which has no stages between which known pixels could be put back; of colourisation, when the image does
/// not have three channels.
pub fn completion_chain<'a, N: Backbone<4>>(
    model: &'a Model<N>,
    sampler: &Sampler,
    completions: Completions,
    noise: Noise,
) -> Result<AnyChain<4, &'a Model<N>, impl Draws<4> + use<N>>> {
    let method = sampler.method()?;
    let Completions { part, reference, renewal, image, numbers } = completions;
    let device = reference.device();
    let [_, channels, height, width] = reference.dims();
    if matches!(part, KnownPart::Grey) && channels != 3 {
        return Err(Error::unexpected(format!("an image of {channels} channels"), "three, whose colours are drawn"));
    }
    let shape = [(numbers.end - numbers.start) as usize, channels, height, width];
    let streams = |name: &str| numbers.clone().map(|k| noise.stream(&format!("{name}/{image}"), k)).collect::<Vec<_>>();
    let start = |distribution| noise::tensor(distribution, &mut streams("inpaint/start"), shape, &device);
    let x = match sampler.begins_at_prior() {
        true => start(Distribution::Normal) * model.process.prior_std(),
        false => start(Distribution::Uniform),
    };
    let of_known = Streams(streams("inpaint/known"));
    let known = match part {
        KnownPart::Pixels(mask) => Known::new(*mask, reference, renewal, of_known),
        KnownPart::Grey => Known::grey(reference, renewal, of_known),
    };
    let mut update = streams("inpaint/langevin");
    // Not in one pass, as ever: another order of sums would make other completions of a seed.
    let draws = move || noise::tensor(Distribution::Normal, &mut update, shape, &device);
    Ok(Chain::new(model, model.process.clone(), method, x, draws).with_known(known))
}
