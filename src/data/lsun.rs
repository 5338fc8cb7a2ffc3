//! LSUN, "Large-scale Scene Understanding" (Yu, Seff, Zhang, Song, Funkhouser & Xiao 2015, arXiv 1506.03365), its scenes.

use std::path::Path;

use super::lmdb::{DATA_FILE, Lmdb, Position};
use super::resize::{prepare, prepare_square};
use super::{Progress, Source, Split};
use crate::error::{Error, Result};

/// The names of the scenes.
pub const CATEGORIES: [&str; 10] = [
    "bedroom",
    "bridge",
    "church_outdoor",
    "classroom",
    "conference_room",
    "dining_room",
    "kitchen",
    "living_room",
    "restaurant",
    "tower",
];

/// The size that the program of Score-SDE prepares in another way.
const LARGE: usize = 256;

/// One split of a category: the shorter side brought to `size`, cropped at the centre, `[channels, size, size]`. Images of 256 pixels
/// are the central square, resized with a cubic filter, see [`prepare_square`].
///
/// The images, about 256 pixels wide, are values of an LMDB database and are decoded when they are read. Of each 8 bytes are
/// kept: 24 MB for the 3,033,042 bedrooms.
#[derive(Debug)]
pub struct Lsun {
    database: Lmdb,
    positions: Vec<Position>,
    channels: usize,
    size: usize,
}

impl Lsun {
    /// The images in the database `CATEGORY_train_lmdb` or `CATEGORY_val_lmdb` below `root`, in the order of their keys.
    /// The keys are read here, the images are not. `progress` counts them.
    ///
    /// # Errors
    /// [`Error::MissingData`] if there is no such database, saying where to get it, or no entry in it; [`Error::Io`] and
    /// [`Error::Format`] if it cannot be read (see [`Lmdb`]); [`Error::Stopped`] when `progress` says so.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3, or `size` is 0.
    pub fn open(
        root: &Path,
        category: &str,
        split: Split,
        channels: usize,
        size: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Self> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        let part = if split == Split::Train { "train" } else { "val" };
        let name = format!("{category}_{part}_lmdb");
        let path = root.join(&name);
        if !(path.is_file() || path.join(DATA_FILE).is_file()) {
            let root = root.display();
            return Err(Error::MissingData(format!(
                "LSUN's {category} is not in {root}: found no {root}/{name}/{DATA_FILE}. It is not downloaded, for its size: get \
                 {name}.zip by download.py of https://github.com/fyu/lsun (with -c {category}) and unpack it there"
            )));
        }
        let database = Lmdb::open(&path)?;
        let mut positions = Vec::new();
        database.walk(progress, |_, position| positions.push(position))?;
        if positions.is_empty() {
            return Err(Error::MissingData(format!("{}: the database holds no image", database.path().display())));
        }
        Ok(Self { database, positions, channels, size })
    }
}

impl Source for Lsun {
    fn len(&self) -> usize {
        self.positions.len()
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        let pixels = self.database.image(self.positions[index])?;
        let prepare = if self.size == LARGE { prepare_square } else { prepare };
        pixels_u8.copy_from_slice(&prepare(pixels, self.channels, self.size));
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::unwatched;
    use super::*;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lmdb");

    #[test]
    fn the_images_come_in_the_order_of_their_keys_resized_and_cropped() {
        // Uniform images of 20×12 and 12×20 pixels, red by the place of their keys.
        for (split, n) in [(Split::Train, 40), (Split::Test, 3)] {
            let set = Lsun::open(Path::new(FIXTURES), "church_outdoor", split, 3, 8, &mut unwatched).unwrap();
            assert_eq!((set.len(), set.shape()), (n, [3, 8, 8]));
            let mut pixels_u8 = vec![0; 3 * 64];
            for index in (0..n).rev() {
                set.read(index, &mut pixels_u8).unwrap();
                let expected = [5 * index as u8, 100, 50];
                // Every third is lossy; Pillow's pixels of those are as far off.
                let most = if index % 3 == 0 { 4 } else { 0 };
                let is_near = |(plane, expected): (&[u8], u8)| plane.iter().all(|p| p.abs_diff(expected) <= most);
                assert!(pixels_u8.chunks(64).zip(expected).all(is_near), "image {index}: {pixels_u8:?}");
            }
        }
        let grey = Lsun::open(Path::new(FIXTURES), "church_outdoor", Split::Test, 1, 8, &mut unwatched).unwrap();
        assert_eq!(grey.shape(), [1, 8, 8]);
    }

    #[test]
    fn images_of_256_pixels_are_the_central_square_by_a_cubic_filter() {
        let set = Lsun::open(Path::new(FIXTURES), "church_outdoor", Split::Test, 3, LARGE, &mut unwatched).unwrap();
        let mut pixels_u8 = vec![0; 3 * LARGE * LARGE];
        set.read(1, &mut pixels_u8).unwrap();
        // Uniform, without loss.
        for (plane, expected) in pixels_u8.chunks(LARGE * LARGE).zip([5, 100, 50]) {
            assert!(plane.iter().all(|&pixel| pixel == expected));
        }
        let pixels = set.database.image(set.positions[1]).unwrap();
        assert_eq!(pixels_u8, prepare_square(pixels, 3, LARGE));
    }

    #[test]
    fn a_missing_database_is_named_with_where_to_get_it() {
        let root = tempfile::tempdir().unwrap();
        let error = Lsun::open(root.path(), "tower", Split::Test, 3, 8, &mut unwatched).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::MissingData(_)), "{message}");
        let expected = root.path().join("tower_val_lmdb/data.mdb").display().to_string();
        assert!(message.contains(&expected) && message.contains("download.py"), "{message}");
    }

    #[test]
    fn a_value_that_is_no_image_is_named_by_its_key() {
        let root = tempfile::tempdir().unwrap();
        std::fs::copy(Path::new(FIXTURES).join("small.mdb"), root.path().join("bridge_train_lmdb")).unwrap();
        let set = Lsun::open(root.path(), "bridge", Split::Train, 3, 8, &mut unwatched).unwrap();
        let message = set.read(1, &mut [0; 192]).unwrap_err().to_string();
        assert!(message.contains("bridge_train_lmdb, key \"00001\": not a PNG"), "{message}");
    }
}
