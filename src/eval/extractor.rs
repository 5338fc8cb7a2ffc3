//! From images to the features and logits that metrics are of.

use std::path::Path;

use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::small::{self, SmallClassifier};
use super::{ResizeRule, Resizer};
use crate::checkpoint::TensorFile;
use crate::checkpoint::pth::{Numbers, Pth, is_pth};
use crate::data::N_CLASSES;
use crate::device::{upload, values};
use crate::error::{Error, Result};
use crate::file;
use crate::net::Inception;

/// Larger files of weights are refused before they are read; the published one has 96 MB.
const MAX_BYTES: u64 = 1 << 30;

/// A network that metrics look at images with.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a program has one of them")]
pub enum Extractor {
    /// That of published numbers.
    Inception(InceptionExtractor),
    /// One trained here, whose numbers can be compared with each other alone.
    Small(SmallExtractor),
}

/// Features and logits of some images, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Extracted {
    /// `[n, n_features]`
    pub features: Vec<f32>,
    /// `[n, n_classes]`, without bias as the inception score has them.
    pub logits: Vec<f32>,
}

impl Extractor {
    /// Network and layer, as written beside numbers.
    pub fn name(&self) -> String {
        match self {
            Self::Inception(_) => format!("inception-2015-12-05/{}", Inception::N_FEATURES),
            Self::Small(_) => format!("small/{}", small::N_FEATURES),
        }
    }

    /// The rule by which images are resized; a small network takes them as they are.
    pub fn resize(&self) -> Option<ResizeRule> {
        match self {
            Self::Inception(inception) => Some(inception.rule),
            Self::Small(_) => None,
        }
    }

    /// The SHA-256 of its weights' file, in hexadecimal digits.
    pub fn weights_sha256(&self) -> &str {
        match self {
            Self::Inception(inception) => &inception.sha256,
            Self::Small(small) => &small.sha256,
        }
    }

    /// How many features an image has.
    pub fn n_features(&self) -> usize {
        match self {
            Self::Inception(_) => Inception::N_FEATURES,
            Self::Small(_) => small::N_FEATURES,
        }
    }

    /// How many logits an image has.
    pub fn n_classes(&self) -> usize {
        match self {
            Self::Inception(_) => Inception::N_CLASSES,
            Self::Small(_) => N_CLASSES,
        }
    }

    /// Features and logits of images `[n, 3, height, width]` of one `size`, `[height, width]`. What an image gives does not depend on
    /// the others.
    ///
    /// # Errors
    /// [`Error::Device`] when the device fails; [`Error::Unexpected`] when a small network was trained on images of another size.
    pub fn extract(&self, pixels_u8: &[u8], size: [usize; 2]) -> Result<Extracted> {
        match self {
            Self::Inception(inception) => inception.extract(pixels_u8, size),
            Self::Small(small) => small.extract(pixels_u8, size),
        }
    }
}

/// A small classifier, and its digest.
#[derive(Debug)]
pub struct SmallExtractor {
    net: SmallClassifier,
    sha256: String,
}

impl SmallExtractor {
    /// That of `net`.
    ///
    /// # Errors
    /// [`Error::Device`] when its device fails.
    pub fn new(net: SmallClassifier) -> Result<Self> {
        let sha256 = net.digest()?;
        Ok(Self { net, sha256 })
    }

    /// A network for grey images takes one of the three channels, which are equal.
    fn extract(&self, pixels_u8: &[u8], size: [usize; 2]) -> Result<Extracted> {
        let [channels, height, width] = self.net.about().shape;
        if size != [height, width] {
            let [h, w] = size;
            return Err(Error::unexpected(format!("images of {h}x{w} pixels"), format!("{height}x{width}")));
        }
        let grey: Vec<u8>;
        let pixels_u8 = if channels == 1 {
            let n_pixels = height * width;
            grey = pixels_u8.chunks_exact(3 * n_pixels).flat_map(|image| &image[..n_pixels]).copied().collect();
            &grey[..]
        } else {
            pixels_u8
        };
        let (features, logits) = self.net.features_and_logits(pixels_u8)?;
        Ok(Extracted { features, logits })
    }
}

/// Inception-v3 with published weights, and a rule to resize images for it.
#[derive(Debug)]
pub struct InceptionExtractor {
    net: Inception,
    device: Device,
    rule: ResizeRule,
    sha256: String,
}

impl InceptionExtractor {
    /// With the weights in `path`: the published `pt_inception-2015-12-05-6726825d.pth`, or a safetensors file with the same names.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read; [`Error::Format`] when it has not the weights of this network, or one of them is not
    /// finite, or a variance is negative.
    pub fn open(path: &Path, rule: ResizeRule, device: &Device) -> Result<Self> {
        let bytes = file::read_at_most(path, MAX_BYTES)?;
        let sha256 = file::hex(&Sha256::digest(&bytes));
        let net = if is_pth(path)? {
            let mut scratch = Vec::new();
            let pth = Pth::parse(path, &bytes, &mut scratch)?;
            load(path, device, |name| {
                Ok(match pth.tensor(&[name])? {
                    Some((shape, Numbers::F32(values))) => Some((shape, values)),
                    _ => None,
                })
            })?
        } else {
            let file = TensorFile::parse(path, bytes)?;
            load(path, device, |name| Ok(file.get(name)?.map(|tensor| (tensor.shape, tensor.values))))?
        };
        Ok(Self { net, device: device.clone(), rule, sha256 })
    }

    /// Features and logits of images `[n, 3, height, width]`, of one `size`.
    fn extract(&self, pixels_u8: &[u8], size: [usize; 2]) -> Result<Extracted> {
        let side = Inception::SIDE;
        let n = pixels_u8.len() / (3 * size[0] * size[1]);
        let x = Resizer::new(self.rule, size, side).batch(pixels_u8);
        let features = self.net.forward(upload(x, [n, 3, side, side], &self.device)).features();
        let logits = self.net.logits(features.clone());
        Ok(Extracted { features: values(features)?, logits: values(logits)? })
    }
}

/// The network with the tensors that `get` finds by their names.
fn load(
    path: &Path,
    device: &Device,
    get: impl Fn(&str) -> Result<Option<(Vec<usize>, Vec<f32>)>>,
) -> Result<Inception> {
    Inception::new(device, |name, expected| {
        let bad = |what: String| {
            let message = format!("{what}: these are not the weights of FID's Inception (2015-12-05)");
            Error::format(path, message)
        };
        let (shape, values) = get(name)?.ok_or_else(|| bad(format!("found no tensor {name} of floats")))?;
        if shape != expected {
            return Err(bad(format!("{name} has shape {shape:?}, expected {expected:?}")));
        }
        let is_variance = name.ends_with("running_var");
        match values.iter().find(|value| !value.is_finite() || is_variance && **value < 0.0) {
            Some(value) => Err(bad(format!("{name} contains {value}"))),
            None => Ok(values),
        }
    })
}
