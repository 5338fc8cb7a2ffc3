//! Images held in memory.

use crate::data::Source;
use crate::data::resize::{Pixels, prepare};
use crate::error::{Error, Result};

/// Images of one shape in one block of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InMemory {
    pixels_u8: Vec<u8>,
    shape: [usize; 3],
}

impl InMemory {
    /// Images from their pixels, laid out `[N, C, H, W]` with the last axis fastest; `shape` is `[C, H, W]`.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when a side of `shape` is 0 or `pixels_u8` is not a whole number of images.
    pub fn new(pixels_u8: Vec<u8>, shape: [usize; 3]) -> Result<Self> {
        let [channels, height, width] = shape;
        let n_pixels = channels.checked_mul(height).and_then(|n| n.checked_mul(width)).unwrap_or(0);
        if n_pixels == 0 || !pixels_u8.len().is_multiple_of(n_pixels) {
            return Err(Error::unexpected(
                format!("{} bytes of pixels", pixels_u8.len()),
                format!("a whole number of images of shape {channels}x{height}x{width}"),
            ));
        }
        Ok(Self { pixels_u8, shape })
    }

    /// All pixels, `[N, C, H, W]` with the last axis fastest.
    pub fn pixels_u8(&self) -> &[u8] {
        &self.pixels_u8
    }

    /// The same images at `size` × `size` pixels: the shorter side resized, the centre cropped.
    pub fn resized(self, size: usize) -> Self {
        let [channels, height, width] = self.shape;
        if [height, width] == [size, size] {
            return self;
        }
        let resize = |image| prepare(Pixels::from_chw(image, self.shape), channels, size);
        let pixels_u8 = self.pixels_u8.chunks(self.n_pixels()).flat_map(resize).collect();
        Self { pixels_u8, shape: [channels, size, size] }
    }

    fn n_pixels(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Source for InMemory {
    fn len(&self) -> usize {
        self.pixels_u8.len() / self.n_pixels()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        let n_pixels = self.n_pixels();
        assert!(index < self.len(), "image {index} of {}", self.len());
        assert_eq!(pixels_u8.len(), n_pixels, "the buffer must hold one image");
        pixels_u8.copy_from_slice(&self.pixels_u8[index * n_pixels..][..n_pixels]);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_by_its_number() {
        let images = InMemory::new((0..24).collect(), [2, 2, 3]).unwrap();
        assert_eq!((images.len(), images.shape(), images.is_empty()), (2, [2, 2, 3], false));
        let mut pixels_u8 = [0; 12];
        images.read(1, &mut pixels_u8).unwrap();
        assert_eq!(pixels_u8.to_vec(), (12..24).collect::<Vec<u8>>());
    }

    #[test]
    fn pixels_that_do_not_fill_whole_images_are_refused() {
        for (n_bytes, shape) in [(23, [2, 2, 3]), (4, [1, 0, 4]), (0, [0, 1, 1]), (8, [usize::MAX, 2, 2])] {
            let error = InMemory::new(vec![0; n_bytes], shape).unwrap_err();
            assert!(error.to_string().contains("expected a whole number of images"), "{error}");
        }
    }

    #[test]
    fn no_images_is_a_valid_source() {
        assert!(InMemory::new(Vec::new(), [1, 28, 28]).unwrap().is_empty());
    }
}
