//! Images by Langevin dynamics, new ones and completions, each with its own noise.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::{Draw, Inpainting, Langevin, Step, Streams};
use crate::noise::{self, Distribution, Noise, Stream};
use crate::score::Score;
use crate::sde::NoiseLevels;

/// The chain of the images `numbers` of a seed, from U[0, 1) through `steps`.
///
/// Each image draws from its own streams, so image k is the same whatever range it is drawn in.
///
/// # Shapes
/// `shape` is `[channels, height, width]`; states are `[numbers.len(), channels, height, width]`.
pub fn image_chain<S: Score<4>>(
    score: S,
    steps: Vec<Step>,
    numbers: Range<u64>,
    [channels, height, width]: [usize; 3],
    noise: Noise,
    device: &Device,
) -> Langevin<4, S, Streams> {
    let shape = [(numbers.end - numbers.start) as usize, channels, height, width];
    let streams = |name| numbers.clone().map(|k| noise.stream(name, k)).collect::<Vec<_>>();
    let x = noise::tensor(Distribution::Uniform, &mut streams("sample/start"), shape, device);
    Langevin::new(score, steps, x, Streams(streams("sample/langevin")))
}

/// Completions `numbers` of one image, each from U[0, 1) and by its own streams; the streams of image `image` are its own
/// too.
///
/// # Shapes
/// `mask` (1 where the image is known) and `reference`: `[1, channels, height, width]`; states are
/// `[numbers.len(), channels, height, width]`.
pub fn completion_chain<'a, S: Score<4>>(
    score: S,
    levels: &'a NoiseLevels,
    steps: Vec<Step>,
    [mask, reference]: [Tensor<4>; 2],
    image: u64,
    numbers: Range<u64>,
    noise: Noise,
) -> Inpainting<'a, 4, S, impl FnMut(Draw) -> Tensor<4> + use<'a, S>> {
    let device = reference.device();
    let n = (numbers.end - numbers.start) as usize;
    let [_, channels, height, width] = reference.dims();
    let shape = [n, channels, height, width];
    let streams = |name: &str| numbers.clone().map(|k| noise.stream(&format!("{name}/{image}"), k)).collect::<Vec<_>>();
    let x = noise::tensor(Distribution::Uniform, &mut streams("inpaint/start"), shape, &device);
    let mut known = normals(streams("inpaint/known"), shape, &device);
    let mut update = normals(streams("inpaint/langevin"), shape, &device);
    let draw = move |draw| match draw {
        Draw::Known => known(),
        Draw::Update => update(),
    };
    Inpainting::new(score, levels, steps, x, [mask, reference.repeat_dim(0, n)], draw)
}

/// Standard normals again and again, each image from its own stream.
fn normals(mut streams: Vec<Stream>, shape: [usize; 4], device: &Device) -> impl FnMut() -> Tensor<4> + use<> {
    let device = device.clone();
    move || noise::tensor(Distribution::Normal, &mut streams, shape, &device)
}
