//! Images whose classes are known.

use crate::data::Source;
use crate::data::memory::InMemory;
use crate::error::{Error, Result};

/// Classes of every labelled data set here: ten digits, or ten kinds of things.
pub const N_CLASSES: usize = 10;

/// Images in memory, and the class of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    images: InMemory,
    labels_u8: Vec<u8>,
}

impl Labelled {
    /// Image k shows class `labels_u8[k]`.
    ///
    /// # Errors
    /// Those of [`check_labels`].
    pub fn new(images: InMemory, labels_u8: Vec<u8>) -> Result<Self> {
        check_labels(&labels_u8, images.len())?;
        Ok(Self { images, labels_u8 })
    }

    /// The images.
    pub fn images(&self) -> &InMemory {
        &self.images
    }

    /// Their classes, each below [`N_CLASSES`].
    pub fn labels_u8(&self) -> &[u8] {
        &self.labels_u8
    }

    /// The images, without their classes.
    pub fn into_images(self) -> InMemory {
        self.images
    }

    /// The same with images of `size` × `size` pixels: the shorter side resized, the centre cropped.
    pub fn resized(self, size: usize) -> Self {
        Self { images: self.images.resized(size), ..self }
    }
}

impl Source for Labelled {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.images.shape()
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        self.images.read(index, pixels_u8)
    }

    fn class_u8(&self, index: usize) -> Option<u8> {
        self.labels_u8.get(index).copied()
    }

    fn warning(&self) -> Option<String> {
        self.images.warning()
    }
}

/// Refuses labels that cannot be those of `n_images` images.
///
/// # Errors
/// [`Error::Unexpected`] when there are more or fewer of them, [`Error::Value`] when one is no class.
pub fn check_labels(labels_u8: &[u8], n_images: usize) -> Result<()> {
    if labels_u8.len() != n_images {
        return Err(Error::unexpected(format!("{} labels", labels_u8.len()), format!("{n_images}, one an image")));
    }
    match labels_u8.iter().position(|&label| usize::from(label) >= N_CLASSES) {
        Some(at) => Err(Error::value(format!("label {at}"), labels_u8[at], format!("0 to {}", N_CLASSES - 1))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_one_an_image_and_below_ten_or_refused() {
        let images = InMemory::new(vec![7; 8], [1, 2, 2]).unwrap();
        let message = |labels: &[u8]| Labelled::new(images.clone(), labels.to_vec()).unwrap_err().to_string();
        assert_eq!(message(&[1]), "found 1 labels, expected 2, one an image");
        assert_eq!(message(&[1, 2, 3]), "found 3 labels, expected 2, one an image");
        assert_eq!(message(&[9, 10]), "label 1 is 10, expected 0 to 9");
        assert_eq!(Labelled::new(images.clone(), vec![0, 9]).unwrap().labels_u8(), [0, 9]);
    }

    #[test]
    fn a_resized_image_keeps_its_label() {
        let images = InMemory::new([[10; 4], [200; 4]].concat(), [1, 2, 2]).unwrap();
        let larger = Labelled::new(images, vec![3, 4]).unwrap().resized(4);
        assert_eq!((larger.labels_u8(), larger.images().shape()), (&[3, 4][..], [1, 4, 4]));
        assert_eq!(larger.into_images().pixels_u8(), [[10; 16], [200; 16]].concat());
    }
}
