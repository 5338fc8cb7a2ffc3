//! Bits per dimension of the images of a set, each by itself.

use std::ops::Range;

use burn::tensor::{Device, Tensor};

use super::likelihood::{Likelihood, Likelihoods, bits_per_dim};
use crate::data::{N_GREY_LEVELS, Range as PixelRange, Source, batch_order, transform};
use crate::device::upload;
use crate::error::{Error, Result};
use crate::noise::{Noise, Stream};
use crate::score::Differentiable;
use crate::sde::Process;

/// Bits per dimension of images of a set, dequantised uniformly: −log₂ of the probability of an image, divided by the number of its
/// pixels and channels, of which it is an upper bound (Theis et al. 2016). All that is random about repeat r of image k is that of a
/// seed, of r and of k; so two models are compared at the same points, and with the error norm of each sample no number depends on the
/// batch that it is computed in.
///
/// The published program repeats the whole test set five times, with other noise and other probes in each pass; so do repeats here.
#[derive(Clone, Copy, Debug)]
pub struct BitsPerDim {
    /// What is computed of each image; its own repeats share the noise that dequantises the image.
    pub likelihood: Likelihood,
    /// The range in which the model sees pixels.
    pub range: PixelRange,
    /// Where the order of the images, their dequantisation and the probes come from.
    pub noise: Noise,
}

/// Bits per dimension of one image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageBits {
    /// Number of the image in its set.
    pub image: usize,
    /// Bits per dimension.
    pub bits_per_dim: f64,
    /// How many times the score was asked for.
    pub n_evaluations: usize,
}

impl BitsPerDim {
    /// Those of the images `numbers`, in repeat number `repeat`. Numbers are places in a random order of the whole set: 0 to
    /// `source.len()` are all of its images.
    ///
    /// # Errors
    /// When an image cannot be read; when a number is not finite; as [`Likelihood::along`].
    pub fn of(
        &self,
        score: &(impl Differentiable<4> + ?Sized),
        process: &dyn Process,
        source: &dyn Source,
        repeat: u64,
        numbers: Range<u64>,
        device: &Device,
    ) -> Result<Vec<ImageBits>> {
        let [channels, height, width] = source.shape();
        let image_len = channels * height * width;
        let n = numbers.end.saturating_sub(numbers.start) as usize;
        if n == 0 {
            return Ok(Vec::new());
        }
        let streams = |name: &str| -> Vec<Stream> {
            numbers.clone().map(|k| self.noise.stream(&format!("likelihood/{name}/{repeat}"), k)).collect()
        };
        let (mut pixels_u8, mut u) = (vec![0; image_len], vec![0.0; image_len]);
        let (mut images, mut x) = (Vec::with_capacity(n), vec![0.0; n * image_len]);
        for ((k, mut dequantise), x) in numbers.clone().zip(streams("dequantise")).zip(x.chunks_mut(image_len)) {
            let image = batch_order(source.len(), 1, self.noise, "likelihood", k)[0];
            source.read(image, &mut pixels_u8)?;
            dequantise.uniform(&mut u);
            transform::dequantise(&pixels_u8, &u, x);
            x.iter_mut().for_each(|x| *x = self.range.forward(*x));
            images.push(image);
        }
        let batch: Tensor<4> = upload(x.clone(), [n, channels, height, width], device);
        let found = self.likelihood.estimate(score, process, batch, &mut streams("probe"))?;
        let Likelihoods { log_p, n_evaluations, .. } = found;
        let rows = images.into_iter().zip(x.chunks(image_len)).zip(log_p).zip(n_evaluations);
        rows.map(|(((image, x), log_p), n_evaluations)| {
            let bits_per_dim = bits_per_dim(log_p, x, self.range, N_GREY_LEVELS);
            match bits_per_dim.is_finite() {
                true => Ok(ImageBits { image, bits_per_dim, n_evaluations }),
                false => Err(Error::unexpected(format!("{bits_per_dim} bits/dim of image {image}"), "a finite number")),
            }
        })
        .collect()
    }
}

/// The mean of numbers of images, and how exact it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeanBits {
    /// The mean over images and repeats.
    pub value: f64,
    /// Its standard error as an estimate of the mean of all such images: from the spread of the images; none of a single one.
    pub standard_error: Option<f64>,
    /// That part of the standard error that more repeats of the same images make smaller: from the spread of each image's repeats;
    /// none of a single repeat.
    pub standard_error_of_repeats: Option<f64>,
}

impl MeanBits {
    /// That of `repeats` of each image.
    ///
    /// # Panics
    /// If there are no images, or of one no repeats.
    pub fn of(images: &[Vec<f64>]) -> Self {
        assert!(images.iter().all(|repeats| !repeats.is_empty()) && !images.is_empty(), "a mean of nothing");
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // Of the mean of some values.
        let variance = |values: &[f64]| {
            let (mean, n) = (mean(values), values.len() as f64);
            values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / ((n - 1.0) * n)
        };
        let means: Vec<f64> = images.iter().map(|repeats| mean(repeats)).collect();
        let n = images.len() as f64;
        let of_repeats = || images.iter().map(|repeats| variance(repeats)).sum::<f64>().sqrt() / n;
        Self {
            value: mean(&means),
            standard_error: (images.len() > 1).then(|| variance(&means).sqrt()),
            standard_error_of_repeats: images.iter().all(|repeats| repeats.len() > 1).then(of_repeats),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::memory::InMemory;
    use crate::device::upload;
    use crate::sample::{DormandPrince, ErrorNorm, Probes};
    use crate::score::Score;
    use crate::sde::{Marginal, Vp};

    /// The score of pixels of N(mean, std²), as the model sees them, under a process.
    struct Normal {
        process: Vp,
        mean: f64,
        std: f64,
    }

    impl Normal {
        /// The mean and the variance at each time, and the score.
        fn at(&self, x: Tensor<4>, t: &[f64]) -> [Tensor<4>; 2] {
            let of_time = |f: &dyn Fn(Marginal) -> f64| -> Tensor<4> {
                let values = t.iter().map(|&t| f(self.process.marginal(t)) as f32).collect();
                upload(values, [t.len(), 1, 1, 1], &x.device())
            };
            let variance = of_time(&|m| (m.alpha * self.std).powi(2) + m.std.powi(2));
            let score = (of_time(&|m| m.alpha * self.mean) - x.clone()) / variance.clone();
            [score, variance]
        }
    }

    impl Score<4> for Normal {
        fn score(&self, x: Tensor<4>, t: &[f64]) -> Tensor<4> {
            let [score, _] = self.at(x, t);
            score
        }
    }

    impl Differentiable<4> for Normal {
        fn jvp(&self, x: Tensor<4>, t: &[f64], v: Tensor<4>) -> [Tensor<4>; 2] {
            let [score, variance] = self.at(x, t);
            [score, -v / variance]
        }
    }

    #[test]
    fn bits_of_normal_pixels_are_known_and_the_same_in_any_batch() {
        let (mean, std) = (0.1, 0.4);
        let score = Normal { process: Vp::new(0.1, 20.0, 100).expect("valid"), mean, std };
        let pixels_u8: Vec<u8> = (0..20).map(|i| (60 + 7 * i) as u8).collect();
        let source = InMemory::new(pixels_u8.clone(), [1, 2, 2]).expect("five images");
        let (device, noise) = (Device::flex(), Noise::new(4));
        for (range, norm) in [(PixelRange::Symmetric, ErrorNorm::PerSample), (PixelRange::Unit, ErrorNorm::Batch)] {
            let solver = DormandPrince { norm, ..DormandPrince::default() };
            let bits = BitsPerDim { likelihood: Likelihood { solver, ..Likelihood::default() }, range, noise };
            let of =
                |repeat, numbers| bits.of(&score, &score.process, &source, repeat, numbers, &device).expect("bits");
            let whole = of(0, 0..5);
            let mut images: Vec<usize> = whole.iter().map(|bits| bits.image).collect();
            images.sort_unstable();
            assert_eq!(images, [0, 1, 2, 3, 4]);
            if norm == ErrorNorm::PerSample {
                assert_eq!(whole, [of(0, 0..2), of(0, 2..3), of(0, 3..5)].concat());
            }
            assert!(of(0, 3..3).is_empty());
            let again = of(1, 0..5);
            for (found, again) in whole.iter().zip(&again) {
                assert_eq!(found.image, again.image);
                assert!(found.bits_per_dim != again.bits_per_dim, "other noise");
                // −log₂ of the density at the middle of each grey level, times its width, as the model sees it.
                let width = if range == PixelRange::Symmetric { 2.0 / 256.0 } else { 1.0 / 256.0 };
                let nats = |p: &u8| {
                    let x = f64::from(range.forward((f32::from(*p) + 0.5) / 256.0));
                    let z: f64 = (x - mean) / std;
                    0.5 * z * z + (std * std::f64::consts::TAU.sqrt()).ln() - f64::ln(width)
                };
                let image = &pixels_u8[4 * found.image..4 * found.image + 4];
                let expected = image.iter().map(nats).sum::<f64>() / 4.0 / std::f64::consts::LN_2;
                // Half of a grey level, 1/256 in σ = 0.4, times the slope of the exponent, at most 3; and the prior stands in for p_1.
                for bits in [found, again] {
                    let difference = bits.bits_per_dim - expected;
                    assert!(difference.abs() < 0.03, "{difference} off {expected}");
                }
            }
        }
    }

    #[test]
    fn a_score_that_is_not_finite_is_an_error() {
        let score = Normal { process: Vp::new(0.1, 20.0, 100).expect("valid"), mean: f64::NAN, std: 0.1 };
        let source = InMemory::new(vec![0; 4], [1, 2, 2]).expect("an image");
        let likelihood = Likelihood { probes: Probes::Gaussian, ..Likelihood::default() };
        let bits = BitsPerDim { likelihood, range: PixelRange::Unit, noise: Noise::new(1) };
        assert!(bits.of(&score, &score.process, &source, 0, 0..1, &Device::flex()).is_err());
    }

    #[test]
    fn a_mean_tells_the_spread_of_images_and_of_their_repeats() {
        let found = MeanBits::of(&[vec![1.0, 3.0], vec![4.0, 8.0]]);
        // Means 2 and 6, of which 4 is the mean with the error √(8/2); each image's mean has √(2/2) and √(8/2).
        let expected =
            MeanBits { value: 4.0, standard_error: Some(2.0), standard_error_of_repeats: Some(5f64.sqrt() / 2.0) };
        assert_eq!(found, expected);
        let found = MeanBits::of(&[vec![1.5]]);
        assert_eq!(found, MeanBits { value: 1.5, standard_error: None, standard_error_of_repeats: None });
    }
}
