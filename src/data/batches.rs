//! Batches of network input, prepared ahead by one thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use super::transform::{Dequantise, Range, Transform};
use super::{Source, transform};
use crate::error::Result;
use crate::noise::Noise;

/// How images become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Images a batch.
    pub batch_size: usize,
    /// Mirror every image with probability ½.
    pub random_flip: bool,
    /// What happens to their pixels.
    pub transform: Transform,
}

impl Default for BatchOptions {
    /// 128 images, dequantised, in [0, 1), as they are: the published program's.
    fn default() -> Self {
        let transform = Transform { dequantise: Dequantise::Uniform, range: Range::Unit };
        Self { batch_size: 128, random_flip: false, transform }
    }
}

/// One batch on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Pixels as the model sees them.
    pub x: Vec<f32>,
    /// `[batch, channels, height, width]`
    pub shape: [usize; 4],
    /// The class of each image, if they are known.
    pub classes_u8: Option<Vec<u8>>,
}

/// An endless sequence of batches in a random order that depends on (seed, epoch) only.
///
/// Batch b holds the items `b·batch_size ..` of the epochs' orders laid end to end: each image comes once an epoch, and
/// no batch is short. Any batch can be the first, which is how a resumed run finds its place.
///
/// They are made on a thread of their own; if it panics, whoever takes the next batch does.
pub struct Batches {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

/// How many batches wait ready; more would only take memory.
const N_PREFETCHED: usize = 3;

impl Batches {
    /// The batches of `source` from number `first_batch`, with the randomness of the streams `name/…`.
    pub fn new(
        source: Arc<dyn Source>,
        options: BatchOptions,
        noise: Noise,
        name: &'static str,
        first_batch: u64,
    ) -> Self {
        let (sender, receiver) = sync_channel(N_PREFETCHED);
        let work = move || {
            for index in first_batch.. {
                let batch = read_batch(&*source, options, noise, name, index);
                let failed = batch.is_err();
                // The receiver is gone when the run ends; an error ends the sequence.
                if sender.send(batch).is_err() || failed {
                    break;
                }
            }
        };
        Self { receiver: Some(receiver), thread: Some(std::thread::spawn(work)) }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let batch = self.receiver.as_ref()?.recv();
        if batch.is_err()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            std::panic::resume_unwind(panic);
        }
        batch.ok()
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Which images of a source of `n_images` are in batch number `index` of [`Batches`].
pub fn batch_order(n_images: usize, batch_size: usize, noise: Noise, name: &str, index: u64) -> Vec<usize> {
    let (n, n_images) = (batch_size as u64, n_images as u64);
    assert!(n > 0 && n_images > 0, "a batch of {n} from {n_images} images");
    let mut order = None;
    let at = |position: u64| {
        let (epoch, item) = (position / n_images, position % n_images);
        if order.as_ref().is_none_or(|(e, _)| *e != epoch) {
            order = Some((epoch, noise.permutation(&format!("{name}/order"), epoch, n_images)));
        }
        let (_, permutation) = order.as_ref().expect("set above");
        permutation.get(item) as usize
    };
    (index * n..(index + 1) * n).map(at).collect()
}

/// Batch number `index` of [`Batches`].
///
/// # Errors
/// When the source cannot read an image.
pub fn read_batch(source: &dyn Source, options: BatchOptions, noise: Noise, name: &str, index: u64) -> Result<Batch> {
    let [channels, height, width] = source.shape();
    let n = options.batch_size;
    let image_len = channels * height * width;
    let mut pixels_u8 = vec![0; image_len];
    let mut x = vec![0.0; n * image_len];
    let mut noise_of_image = vec![0.0; image_len];
    let mut stream = noise.stream(&format!("{name}/dequantise"), index);
    let mut flip = noise.stream(&format!("{name}/flip"), index);
    let order = batch_order(source.len(), n, noise, name, index);
    let classes_u8 = order.iter().map(|&image| source.class_u8(image)).collect();
    for (image, out) in order.into_iter().zip(x.chunks_mut(image_len)) {
        source.read(image, &mut pixels_u8)?;
        if options.random_flip && flip.below(2) == 1 {
            transform::flip(&mut pixels_u8, width);
        }
        let Transform { dequantise, range } = options.transform;
        match dequantise {
            Dequantise::None => transform::to_unit(&pixels_u8, out),
            Dequantise::Uniform => {
                stream.uniform(&mut noise_of_image);
                transform::dequantise(&pixels_u8, &noise_of_image, out);
            }
            Dequantise::Gaussian => {
                stream.normal(&mut noise_of_image);
                transform::to_unit(&pixels_u8, out);
                out.iter_mut().zip(&noise_of_image).for_each(|(x, z)| *x += 0.01 * z);
            }
        }
        if range != Range::Unit {
            out.iter_mut().for_each(|x| *x = range.forward(*x));
        }
    }
    Ok(Batch { x, shape: [n, channels, height, width], classes_u8 })
}
