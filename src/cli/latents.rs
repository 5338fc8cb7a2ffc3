//! Files of latents: `ncsn encode` writes them, `ncsn sample` and `ncsn interpolate` read them.

use std::ops::Range;
use std::path::Path;

use burn::tensor::{Device, Tensor};

use ncsn::checkpoint::TensorFile;
use ncsn::device::upload;
use ncsn::{Error, Result};

/// The tensor of latents in a file.
pub const LATENTS: &str = "latents";

/// Latents that `ncsn encode` wrote.
pub struct Latents {
    values: Vec<f32>,
    shape: [usize; 3],
    /// Of the file.
    pub sha256: String,
}

impl Latents {
    /// Reads those of images of `shape`, `[channels, height, width]`.
    pub fn open(path: &Path, shape: [usize; 3]) -> Result<Self> {
        let file = TensorFile::open(path)?;
        let bad = |message: String| Error::format(path, message);
        let found = file.get(LATENTS)?.ok_or_else(|| bad(format!("found no tensor {LATENTS}")))?;
        let [channels, height, width] = shape;
        if found.shape.len() != 4 || found.shape[1..] != shape || found.shape[0] == 0 {
            return Err(bad(format!(
                "{LATENTS} has shape {:?}, expected [n, {channels}, {height}, {width}], as the run's images",
                found.shape
            )));
        }
        let image_len = shape.iter().product::<usize>();
        if let Some(i) = found.values.iter().position(|value| !value.is_finite()) {
            return Err(bad(format!("latent {} is not finite", i / image_len)));
        }
        Ok(Self { values: found.values, shape, sha256: ncsn::file::sha256(path)? })
    }

    /// How many there are.
    pub fn n(&self) -> u64 {
        (self.values.len() / self.shape.iter().product::<usize>()) as u64
    }

    /// Those of these numbers: `[numbers, channels, height, width]`.
    pub fn of(&self, numbers: Range<u64>, device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        let len = channels * height * width;
        let [start, end] = [numbers.start, numbers.end].map(|k| k as usize);
        upload(self.values[start * len..end * len].to_vec(), [end - start, channels, height, width], device)
    }
}
