//! Images in: sources of `u8` pixels, their transforms to network input, and batches with prefetch.

mod batches;
mod bounded;
pub mod celeba;
pub mod cifar;
mod dataset;
pub(crate) mod decode;
pub mod digits;
pub mod download;
pub mod folder;
pub mod idx;
mod jpeg;
mod labelled;
pub mod mat;
pub mod memory;
pub mod resize;
pub mod sets;
pub mod transform;

use std::ops::ControlFlow;

use crate::error::Result;

pub use batches::{Batch, BatchOptions, Batches, batch_order, read_batch};
pub use dataset::{Dataset, Request, SETS, Set, Work};
pub use labelled::{Labelled, N_CLASSES, check_labels};
pub use resize::Pixels;
pub use transform::{Dequantise, Range, Transform};

/// Images of one shape, as `u8`, reachable by number.
pub trait Source: Send + Sync {
    /// How many images there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `[channels, height, width]` of every image.
    fn shape(&self) -> [usize; 3];

    /// Writes image `index` into `pixels_u8`, channel by channel, row by row (`C·H·W` bytes).
    ///
    /// # Errors
    /// When a file behind the image cannot be read or decoded.
    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()>;

    /// What a user should know of the files behind the images: how many are left out, say.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// Receives how much of a long work is done, and how much there is: bytes of a download (ten times a second or more once it has
/// begun), images whose headers are read. Returns whether to go on.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// The [`Progress`] that nobody watches.
pub fn unwatched(_n_done: u64, _n: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Which part of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The images that the network is trained on.
    Train,
    /// The images held out.
    Test,
}
