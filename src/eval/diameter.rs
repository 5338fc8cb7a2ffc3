//! The largest distance between two images of a set (Song & Ermon 2020, technique 1).

use burn::tensor::Device;
use ncsn_kernels::ops::conv::linear;
use rayon::prelude::*;

use crate::data::{Progress, Source};
use crate::device::{self, upload};
use crate::error::{Error, Result};
use crate::noise::Noise;

/// Images whose distances to as many others are found by one product of matrices.
const BLOCK: usize = 2048;
/// Of larger sets some images are drawn.
const MOST_IMAGES: usize = 60_000;
const N_DRAWN: usize = 10_000;

/// What [`largest_distance`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diameter {
    /// The largest Euclidean distance, of pixels in [0, 1].
    pub distance: f64,
    /// The two images that have it.
    pub images: [usize; 2],
    /// How many images were compared, each with each.
    pub n_images: usize,
}

/// The largest Euclidean distance between two images of `source`, with pixels in [0, 1]: of all pairs up to 60,000 images, else of
/// 10,000 that are drawn from the stream `"diameter"` of `noise`, as the published configurations have it.
///
/// Products of blocks give all squared distances ‖x‖² + ‖y‖² − 2xᵀy up to rounding; the largest of each block is computed again, from
/// differences. The images are in memory as bytes.
///
/// # Errors
/// Those of reading an image; [`Error::Stopped`] when `progress`, which is told pairs of blocks, says so; [`Error::Unexpected`] if
/// there are fewer than two images.
pub fn largest_distance(
    source: &dyn Source,
    noise: Noise,
    device: &Device,
    progress: &mut Progress<'_>,
) -> Result<Diameter> {
    let image_len = source.shape().iter().product::<usize>();
    let chosen: Vec<usize> = match source.len() {
        n @ 0..=1 => return Err(Error::unexpected(format!("{n} images"), "at least two")),
        n @ 2..=MOST_IMAGES => (0..n).collect(),
        n => {
            let order = noise.permutation("diameter", 0, n as u64);
            (0..N_DRAWN as u64).map(|i| order.get(i) as usize).collect()
        }
    };
    let mut pixels_u8 = vec![0; chosen.len() * image_len];
    let read = |(image, &index): (&mut [u8], &usize)| source.read(index, image);
    pixels_u8.par_chunks_mut(image_len).zip(&chosen).try_for_each(read)?;
    let image = |i: usize| &pixels_u8[i * image_len..(i + 1) * image_len];
    let square_of = |i: usize| image(i).iter().map(|&p| u64::from(p).pow(2)).sum::<u64>() as f64 / 255.0_f64.powi(2);
    let squares: Vec<f64> = (0..chosen.len()).into_par_iter().map(square_of).collect();

    let blocks: Vec<_> = (0..chosen.len()).step_by(BLOCK).map(|i| i..(i + BLOCK).min(chosen.len())).collect();
    let matrix = |rows: &std::ops::Range<usize>| {
        let values = pixels_u8[rows.start * image_len..rows.end * image_len].par_iter();
        upload::<2>(values.map(|&p| f32::from(p) / 255.0).collect(), [rows.len(), image_len], device)
    };
    let (mut largest, mut pair) = (0, [0, 1]);
    let n_pairs = (blocks.len() * (blocks.len() + 1) / 2) as u64;
    let mut n_done = 0;
    for (k, a) in blocks.iter().enumerate() {
        let x = matrix(a);
        for b in &blocks[k..] {
            if progress(n_done, n_pairs).is_break() {
                return Err(Error::Stopped(format!("stopped after {n_done} of {n_pairs} blocks of distances")));
            }
            n_done += 1;
            let products = device::values(linear(x.clone(), matrix(b)))?;
            let distance = |at: usize| {
                let (i, j) = (a.start + at / b.len(), b.start + at % b.len());
                (squares[i] + squares[j] - 2.0 * f64::from(products[at]), [i, j])
            };
            let later = |p: (f64, [usize; 2]), q: (f64, [usize; 2])| if q.0 > p.0 { q } else { p };
            let rows = (0..a.len())
                .into_par_iter()
                .map(|row| (row * b.len()..(row + 1) * b.len()).map(distance).fold((-1.0, [0, 1]), later));
            // In the order of the rows, whatever the threads.
            let (_, [i, j]) = rows.collect::<Vec<_>>().into_iter().fold((-1.0, [0, 1]), later);
            let exact = image(i).iter().zip(image(j)).map(|(&p, &q)| u64::from(p.abs_diff(q)).pow(2)).sum::<u64>();
            if exact > largest {
                (largest, pair) = (exact, [i, j]);
            }
        }
    }
    let distance = (largest as f64).sqrt() / 255.0;
    Ok(Diameter { distance, images: pair.map(|i| chosen[i]), n_images: chosen.len() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::data::memory::InMemory;
    use crate::data::unwatched;

    fn random(n: usize, image_len: usize) -> Vec<u8> {
        let mut stream = Noise::new(1).stream("test", 0);
        (0..n * image_len).map(|_| stream.below(256) as u8).collect()
    }

    #[test]
    fn the_largest_distance_is_that_of_the_definition_wherever_blocks_end() {
        for (n, image_len) in [(2, 3), (5, 1), (2047, 4), (2049, 2), (4100, 6)] {
            let pixels_u8 = random(n, image_len);
            let images: Vec<&[u8]> = pixels_u8.chunks(image_len).collect();
            let square = |i: usize, j: usize| {
                images[i].iter().zip(images[j]).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
            };
            let expected =
                (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| square(i, j)).fold(0.0, f64::max).sqrt()
                    / 255.0;
            let source = InMemory::new(pixels_u8.clone(), [1, 1, image_len]).unwrap();
            let found = largest_distance(&source, Noise::new(0), &Device::flex(), &mut unwatched).unwrap();
            // The products of the chosen precision may choose a pair that is nearer by their rounding.
            assert!(
                found.distance <= expected * (1.0 + 1e-12) && found.distance >= expected * (1.0 - 1e-5),
                "{n}: {found:?} {expected}"
            );
            assert_eq!(found.distance, square(found.images[0], found.images[1]).sqrt() / 255.0);
            assert_eq!(found.n_images, n);
        }
    }

    #[test]
    fn of_large_sets_some_images_are_drawn() {
        let source = InMemory::new(vec![0; MOST_IMAGES + 1], [1, 1, 1]).unwrap();
        let found = largest_distance(&source, Noise::new(0), &Device::flex(), &mut unwatched).unwrap();
        assert_eq!((found.distance, found.n_images), (0.0, N_DRAWN));
    }

    #[test]
    fn one_image_has_no_distance_and_a_search_can_be_stopped() {
        let one = InMemory::new(vec![0; 4], [1, 2, 2]).unwrap();
        let error = largest_distance(&one, Noise::new(0), &Device::flex(), &mut unwatched).unwrap_err();
        assert!(error.to_string().contains("found 1 images, expected at least two"));
        let two = InMemory::new(vec![0; 8], [1, 2, 2]).unwrap();
        let error =
            largest_distance(&two, Noise::new(0), &Device::flex(), &mut |_, _| ControlFlow::Break(())).unwrap_err();
        assert!(matches!(error, Error::Stopped(_)), "{error}");
    }
}
