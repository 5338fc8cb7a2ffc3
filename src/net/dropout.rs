//! Dropout from addressed noise.

use std::sync::{Arc, Mutex, PoisonError};

use ncsn_kernels::ops::channels as ops;
use ncsn_kernels::random::Position;

use super::{Condition, Dual};
use crate::noise::Stream;

/// `x` with each number set to 0 with probability `rate` and the others divided by 1 − `rate`, in steps of training (Srivastava et al.
/// 2014); elsewhere `x` itself.
pub fn dropout(x: Dual<4>, rate: f64, given: &Condition) -> Dual<4> {
    match given.masks() {
        Some(masks) if rate > 0.0 => {
            let at = masks.next(x.dims());
            x.linear(|x| ops::dropout(x, at.clone(), rate))
        }
        _ => x,
    }
}

/// Where the masks of one pass through a network come from: a stream for each image, so that an image's masks are its own, whatever
/// others are in the batch.
#[derive(Clone, Debug)]
pub(super) struct Masks(Arc<Mutex<Vec<Stream>>>);

impl Masks {
    /// At the beginning of each image's stream.
    pub fn new(streams: Vec<Stream>) -> Self {
        Self(Arc::new(Mutex::new(streams)))
    }

    /// Where the random numbers of the next masks begin, for images of this shape: a place for each. Where there are several rows for each
    /// image, as of sliced losses, they have the same; all images come before the first one comes again.
    fn next(&self, [n, c, height, width]: [usize; 4]) -> Vec<Position> {
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let n_images = streams.len();
        assert!(n_images > 0 && n.is_multiple_of(n_images), "masks of {n_images} images for {n} rows");
        streams.iter_mut().map(|stream| stream.take(c * height * width)).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::net::{Backbone, InTraining, Record};
    use crate::noise::Noise;

    const RATE: f64 = 0.3;

    /// Two layers of dropout, and nothing else.
    struct Twice;

    impl Backbone<4> for Twice {
        fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
            dropout(dropout(x, RATE, given), RATE, given)
        }
    }

    fn masks(images: &[u64], n_rows: usize) -> Vec<f32> {
        let device = Device::flex();
        let dropout = images.iter().map(|&image| Noise::new(7).stream("dropout", image)).collect();
        let net = InTraining { net: &Twice, record: Record::default(), dropout };
        let pass = || {
            let x = Tensor::<4>::ones([n_rows, 8, 5, 6], &device);
            let given = Condition::new(Tensor::zeros([n_rows], &device));
            net.forward(x.into(), &given).value.try_into_vec_as::<f32>().expect("f32")
        };
        let found = pass();
        assert_eq!(found, pass(), "every pass of a step has the same masks");
        found
    }

    #[test]
    fn masks_keep_the_mean_and_are_those_of_the_image_in_any_batch() {
        let (all, len) = (masks(&[0, 1, 2, 3], 4), 8 * 5 * 6);
        let kept = all.iter().filter(|&&x| x > 0.0).count() as f64 / all.len() as f64;
        // 960 numbers, each kept twice with 0.7: within four standard errors.
        assert!((kept - 0.49).abs() < 4.0 * (0.49f64 * 0.51 / 960.0).sqrt(), "{kept}");
        assert!(all.iter().all(|&x| x == 0.0 || (x - 1.0 / 0.49).abs() < 1e-5));
        assert_eq!(masks(&[2], 1), all[2 * len..3 * len]);
        assert_ne!(all[..len], all[len..2 * len]);
        // Rows of two projections.
        let rows = masks(&[1, 2], 4);
        assert_eq!(rows[..2 * len], rows[2 * len..]);
        assert_eq!(rows[..2 * len], all[len..3 * len]);
    }

    #[test]
    fn there_is_none_in_evaluation_and_a_tangent_takes_the_mask_of_its_value() {
        let device = Device::flex();
        let x = || Tensor::<4>::ones([1, 2, 3, 3], &device);
        let given = Condition::new(Tensor::zeros([1], &device));
        let values = |x: Tensor<4>| x.try_into_vec_as::<f32>().expect("f32");
        assert_eq!(values(Twice.forward(x().into(), &given).value), [1.0; 18]);
        let dropout = vec![Noise::new(1).stream("dropout", 0)];
        let net = InTraining { net: &Twice, record: Record::default(), dropout };
        let [value, tangent] = net.forward(Dual::along(x(), x() * 2.0), &given).parts().map(values);
        assert!(value.iter().zip(tangent).all(|(x, dx)| dx == 2.0 * x));
    }
}
