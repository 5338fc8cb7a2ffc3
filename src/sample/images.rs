//! Images by annealed Langevin dynamics, each with its own noise.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::{Langevin, Step};
use crate::net::params::upload;
use crate::noise::{Noise, Stream};
use crate::score::Score;

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
) -> Langevin<4, S, impl FnMut() -> Tensor<4> + use<S>> {
    let n = (numbers.end - numbers.start) as usize;
    let image_len = channels * height * width;
    let shape = [n, channels, height, width];
    let mut x = vec![0.0; n * image_len];
    for (k, image) in numbers.clone().zip(x.chunks_mut(image_len)) {
        noise.stream("sample/start", k).uniform(image);
    }
    let x = upload(x, shape, device);
    let mut streams: Vec<Stream> = numbers.map(|k| noise.stream("sample/langevin", k)).collect();
    let device = device.clone();
    let draw = move || {
        let mut z = vec![0.0; n * image_len];
        for (stream, image) in streams.iter_mut().zip(z.chunks_mut(image_len)) {
            stream.normal(image);
        }
        upload(z, shape, &device)
    };
    Langevin::new(score, steps, x, draw)
}
