//! FFHQ, "Flickr-Faces-HQ" (Karras, Laine & Aila, CVPR 2019), with the split of NCSNv2's program.

use std::path::{Path, PathBuf};

use super::folder::Folder;
use super::lmdb::{DATA_FILE, Lmdb, Position};
use super::resize::prepare;
use super::{Progress, Source, Split};
use crate::error::{Error, Result};
use crate::noise::LegacyRandom;

/// The seed of the order of which the first nine tenths are trained on.
const SPLIT_SEED: u32 = 2019;
/// The key of the number of images.
const LENGTH: &[u8] = b"length";

/// One split of FFHQ, as images of `[channels, size, size]`.
///
/// They come from an LMDB database, which has each image at several resolutions under keys such as `256-00042`, of which
/// `size` chooses one, and under `length` how many images there are; or from a folder of images, which are resized.
#[derive(Debug)]
pub struct Ffhq {
    images: Images,
    /// The numbers of the split's images.
    order: Vec<u32>,
    channels: usize,
    size: usize,
}

#[derive(Debug)]
enum Images {
    Database { database: Lmdb, positions: Vec<Position> },
    Folder(Folder),
}

impl Ffhq {
    /// The images in the database, or in the folder of images, `root`. `progress` counts entries of the database, whose keys are
    /// read here, or headers of images.
    ///
    /// # Errors
    /// [`Error::MissingData`] if `root` is missing or has not an image for each split; [`Error::Io`] and [`Error::Format`] if it
    /// cannot be read (see [`Lmdb`] and [`Folder`]) or lacks the resolution; [`Error::Stopped`] when `progress` says so.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3, or `size` is 0.
    pub fn open(root: &Path, split: Split, channels: usize, size: usize, progress: &mut Progress<'_>) -> Result<Self> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        if !root.exists() {
            return Err(missing(root));
        }
        let images = if root.is_file() || root.join(DATA_FILE).is_file() {
            let database = Lmdb::open(root)?;
            let positions = images_of(&database, size, progress)?;
            Images::Database { database, positions }
        } else {
            Images::Folder(Folder::all(root, channels, size, progress)?)
        };
        let n = match &images {
            Images::Database { positions, .. } => positions.len(),
            Images::Folder(folder) => folder.len(),
        };
        if n < 2 {
            let message = format!("{}: found {n} images, expected one to train on and one to test on", root.display());
            return Err(Error::MissingData(message));
        }
        Ok(Self { images, order: numbers(n, split), channels, size })
    }

    /// Where the images are among all data sets, in `datasets`: in `ffhq` or, as published, `FFHQ`.
    pub fn place(datasets: &Path) -> PathBuf {
        let [ours, published] = ["ffhq", "FFHQ"].map(|name| datasets.join(name));
        if !ours.exists() && published.exists() { published } else { ours }
    }
}

impl Source for Ffhq {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        let number = self.order[index] as usize;
        let (database, position) = match &self.images {
            Images::Folder(folder) => return folder.read(number, pixels_u8),
            Images::Database { database, positions } => (database, positions[number]),
        };
        let pixels = database.image(position)?;
        if [pixels.height, pixels.width] != [self.size; 2] {
            let (width, height, size) = (pixels.width, pixels.height, self.size);
            let message =
                format!("image {number} has {width}×{height} pixels, expected {size}×{size}, as its key says");
            return Err(Error::format(database.path(), message));
        }
        pixels_u8.copy_from_slice(&prepare(pixels, self.channels, self.size));
        Ok(())
    }

    fn warning(&self) -> Option<String> {
        match &self.images {
            Images::Folder(folder) => folder.warning(),
            Images::Database { .. } => None,
        }
    }
}

fn missing(root: &Path) -> Error {
    Error::MissingData(format!(
        "FFHQ is not in {0}. It is not downloaded, for its size: put there an LMDB database ({0}/{DATA_FILE}, or {0} as a file) with \
         images under keys such as \"256-00042\" and their number under \"length\", or a folder of images, from \
         https://github.com/NVlabs/ffhq-dataset",
        root.display()
    ))
}

/// The numbers of the split's images of `n` in their order, which NumPy's `RandomState(2019).shuffle` gives: ⌊0.9 n⌋ are trained
/// on, the others test.
fn numbers(n: usize, split: Split) -> Vec<u32> {
    let mut numbers: Vec<u32> = (0..n as u32).collect();
    LegacyRandom::new(SPLIT_SEED).shuffle(&mut numbers);
    let test = numbers.split_off(n * 9 / 10);
    if split == Split::Train { numbers } else { test }
}

/// Where each image of this resolution is.
fn images_of(database: &Lmdb, resolution: usize, progress: &mut Progress<'_>) -> Result<Vec<Position>> {
    /// Resolutions that a message can choose from.
    const N_NAMED: usize = 32;
    let (mut length, mut found, mut resolutions) = (None, Vec::new(), Vec::new());
    database.walk(progress, |key, position| match resolution_and_number(key) {
        Some((known, number)) if known == resolution => found.push((number, position)),
        Some((other, 0)) if resolutions.len() < N_NAMED => resolutions.push(other),
        None if key == LENGTH => length = Some(position),
        _ => {}
    })?;
    let bad = |message| Error::format(database.path(), message);
    let length = length.ok_or_else(|| bad("found no key \"length\", expected FFHQ's database of images".into()))?;
    let length = database.entry(length)?.value;
    let n: usize = std::str::from_utf8(&length).ok().and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        let found: Vec<u8> = length.iter().take(20).copied().collect();
        bad(format!("found {:?} under \"length\", expected a number", String::from_utf8_lossy(&found)))
    })?;
    if found.is_empty() && !resolutions.is_empty() {
        resolutions.sort_unstable();
        let resolutions = resolutions.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        return Err(bad(format!("found no images of {resolution} pixels; data.image_size can be {resolutions}")));
    }
    // Numbers of more than five digits are not in the order of their keys.
    found.sort_unstable_by_key(|&(number, _)| number);
    let n_found = found.iter().zip(0..n as u64).take_while(|((number, _), i)| u64::from(*number) == *i).count();
    if n_found < n {
        let message =
            format!("found no key \"{resolution}-{n_found:05}\", expected the {n} images that \"length\" tells of");
        return Err(bad(message));
    }
    found.truncate(n);
    Ok(found.into_iter().map(|(_, position)| position).collect())
}

/// The two numbers of a key such as `256-00042`.
fn resolution_and_number(key: &[u8]) -> Option<(usize, u32)> {
    let key = std::str::from_utf8(key).ok()?;
    let (resolution, number) = key.split_once('-')?;
    let (resolution, number) = (resolution.parse().ok()?, number.parse().ok()?);
    // Other texts of these numbers are other keys.
    (format!("{resolution}-{number:05}") == key).then_some((resolution, number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::unwatched;
    use super::*;
    use crate::data::Pixels;
    use crate::image::write_png;

    const DATABASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lmdb/ffhq");

    fn open(root: &Path, split: Split, size: usize) -> Result<Ffhq> {
        Ffhq::open(root, split, 3, size, &mut unwatched)
    }

    fn reds(set: &Ffhq) -> Vec<u8> {
        let mut pixels_u8 = vec![0; set.shape().iter().product()];
        (0..set.len()).map(|i| set.read(i, &mut pixels_u8).map(|()| pixels_u8[0])).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn the_split_of_all_of_ffhq_is_the_published_one() {
        let (train, test) = (numbers(70_000, Split::Train), numbers(70_000, Split::Test));
        assert_eq!((train.len(), test.len()), (63_000, 7_000));
        assert_eq!(test[..3], [53335, 23801, 46037]);
        let mut all = [train, test].concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..70_000));
        assert_eq!([2, 3, 10, 19].map(|n| numbers(n, Split::Train).len()), [1, 2, 9, 17]);
    }

    #[test]
    fn images_are_chosen_by_resolution_and_split() {
        // Image i has the red value 10·i, plus one at 16 pixels.
        for (size, more) in [(8, 0), (16, 1)] {
            let [train, test] =
                [Split::Train, Split::Test].map(|split| open(Path::new(DATABASE), split, size).unwrap());
            let expected = |split| numbers(20, split).into_iter().map(|i| 10 * i as u8 + more).collect::<Vec<u8>>();
            assert_eq!((train.shape(), reds(&train)), ([3, size, size], expected(Split::Train)));
            assert_eq!(reds(&test), expected(Split::Test));
        }
        let message = open(Path::new(DATABASE), Split::Train, 32).unwrap_err().to_string();
        assert!(message.contains("no images of 32 pixels; data.image_size can be 8, 16"), "{message}");
        let message = open(&Path::new(DATABASE).with_file_name("small.mdb"), Split::Train, 8).unwrap_err().to_string();
        assert!(message.contains("no key \"length\""), "{message}");
    }

    #[test]
    fn a_folder_of_images_is_split_alike() {
        let root = tempfile::tempdir().unwrap();
        for i in 0..10 {
            let image = Pixels::new([i, 0, 0].repeat(4), 2, 2, 3);
            write_png(&root.path().join(format!("{i:05}.png")), &image).unwrap();
        }
        for split in [Split::Train, Split::Test] {
            let expected: Vec<u8> = numbers(10, split).into_iter().map(|i| i as u8).collect();
            assert_eq!(reds(&open(root.path(), split, 4).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        let root = tempfile::tempdir().unwrap();
        let place = Ffhq::place(root.path());
        let message = open(&place, Split::Train, 256).unwrap_err().to_string();
        assert!(
            message.contains(&place.join(DATA_FILE).display().to_string()) && message.contains("NVlabs"),
            "{message}"
        );
        std::fs::create_dir(root.path().join("FFHQ")).unwrap();
        assert!(Ffhq::place(root.path()).exists(), "the published name");
        assert!(open(&Ffhq::place(root.path()), Split::Train, 4).unwrap_err().to_string().contains("holds no image"));
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for (key, expected) in [
            ("256-00042", Some((256, 42))),
            ("8-100000", Some((8, 100_000))),
            ("256-42", None),
            ("0256-00042", None),
            ("256-+0042", None),
            ("256-000042", None),
            ("length", None),
        ] {
            assert_eq!(resolution_and_number(key.as_bytes()), expected, "{key}");
        }
    }
}
