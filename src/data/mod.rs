//! Images in: sources of `u8` pixels, their transforms to network input, and batches with prefetch.

mod batches;
mod bounded;
pub mod celeba;
pub mod cifar;
mod dataset;
pub(crate) mod decode;
pub mod digits;
pub mod download;
pub mod ffhq;
pub mod folder;
pub mod idx;
mod jpeg;
mod labelled;
pub mod lmdb;
pub mod lsun;
pub mod mat;
pub mod memory;
pub mod resize;
pub mod sets;
pub mod tfrecord;
pub mod transform;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use celeba::CelebA;
use digits::Digits;
use ffhq::Ffhq;
use folder::Folder;
use lsun::Lsun;
use memory::InMemory;
use tfrecord::TfRecords;

pub use batches::{Batch, BatchOptions, Batches, batch_order, read_batch};
pub use dataset::{Dataset, Place, Request, Set, Work};
pub use labelled::{Labelled, N_CLASSES, check_labels};
pub use resize::Pixels;
pub use transform::{Dequantise, Range, Transform};

/// All data sets, in the order in which they are listed. A new one is a row here, and its source in a file of its own.
pub static SETS: [Set; 9] = [
    // LeCun et al. 1998.
    Set {
        name: "MNIST",
        channels: &[1],
        size: 28,
        place: Place::Datasets,
        categories: &[],
        work: Work::Download,
        open: |_, r, p| in_memory(sets::mnist(&r.root.join("mnist"), r.split, r.download, p)?, r),
        labelled: Some(|r, p| sets::mnist_labelled(&r.root.join("mnist"), r.split, r.download, p)),
    },
    // Krizhevsky 2009.
    Set {
        name: "CIFAR10",
        channels: &[3],
        size: 32,
        place: Place::Datasets,
        categories: &[],
        work: Work::Download,
        open: |_, r, p| in_memory(sets::cifar10(&r.root.join("cifar10"), r.split, r.download, p)?, r),
        labelled: Some(|r, p| sets::cifar10_labelled(&r.root.join("cifar10"), r.split, r.download, p)),
    },
    // Liu et al. 2015.
    Set {
        name: "CELEBA",
        channels: &[3],
        size: 32,
        place: Place::Datasets,
        categories: &[],
        work: Work::Headers,
        open: |_, r, p| Ok(Arc::new(CelebA::open(&r.root.join("celeba"), r.split, r.channels, r.size, p)?)),
        labelled: None,
    },
    // Netzer et al. 2011, the cropped digits.
    Set {
        name: "SVHN",
        channels: &[3],
        size: 32,
        place: Place::Datasets,
        categories: &[],
        work: Work::Download,
        open: |_, r, p| in_memory(sets::svhn(&r.root.join("svhn"), r.split, r.download, p)?, r),
        labelled: Some(|r, p| sets::svhn_labelled(&r.root.join("svhn"), r.split, r.download, p)),
    },
    // Yu et al. 2015.
    Set {
        name: "LSUN",
        channels: &[3, 1],
        size: 128,
        place: Place::DatasetsOrPath,
        categories: &lsun::CATEGORIES,
        work: Work::Headers,
        open: |d, r, p| {
            let (root, category) = (d.path.clone().unwrap_or(r.root.join("lsun")), d.category.unwrap_or_default());
            Ok(Arc::new(Lsun::open(&root, category, r.split, r.channels, r.size, p)?))
        },
        labelled: None,
    },
    // Karras et al. 2019.
    Set {
        name: "FFHQ",
        channels: &[3, 1],
        size: 256,
        place: Place::DatasetsOrPath,
        categories: &[],
        work: Work::Headers,
        open: |d, r, p| {
            let root = d.path.clone().unwrap_or_else(|| Ffhq::place(r.root));
            if let Some(path) = TfRecords::find(&root, r.size)? {
                return Ok(Arc::new(TfRecords::open(&path, r.channels, r.size, p)?));
            }
            Ok(Arc::new(Ffhq::open(&root, r.split, r.channels, r.size, p)?))
        },
        labelled: None,
    },
    // Karras et al. 2018.
    Set {
        name: "CELEBAHQ",
        channels: &[3, 1],
        size: 256,
        place: Place::DatasetsOrPath,
        categories: &[],
        work: Work::Headers,
        open: |d, r, p| {
            let root = d.path.clone().unwrap_or_else(|| r.root.join("celebahq"));
            Ok(Arc::new(TfRecords::celeba_hq(&root, r.channels, r.size, p)?))
        },
        labelled: None,
    },
    // Ours: drawn digits, built in.
    Set {
        name: "DIGITS",
        channels: &[1, 3],
        size: 28,
        place: Place::Datasets,
        categories: &[],
        work: Work::None,
        open: |_, r, _| Ok(Arc::new(Digits::new(r.size, r.channels, r.split)?)),
        // The digits have no end: as many as MNIST has.
        labelled: Some(|r, _| {
            let n = if r.split == Split::Train { 60_000 } else { 10_000 };
            Digits::new(r.size, r.channels, r.split)?.labelled(n)
        }),
    },
    // Ours: all images below a folder.
    Set {
        name: "FOLDER",
        channels: &[3, 1],
        size: 32,
        place: Place::Path,
        categories: &[],
        work: Work::Headers,
        open: |d, r, p| {
            let root = d.path.as_deref().unwrap_or(Path::new(""));
            Ok(Arc::new(Folder::open(root, r.split, r.channels, r.size, p)?))
        },
        labelled: None,
    },
];

fn in_memory(images: InMemory, request: &Request<'_>) -> Result<Arc<dyn Source>> {
    Ok(Arc::new(images.resized(request.size)))
}

/// How many grey levels the pixels of a [`Source`] have.
pub const N_GREY_LEVELS: u32 = 1 << u8::BITS;

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

    /// The class of image `index`, if it is known: of all images or of none.
    fn class_u8(&self, _index: usize) -> Option<u8> {
        None
    }

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
    /// The images held out to choose among models, of a set that has such a part; of others those of [`Split::Test`].
    Validation,
}
