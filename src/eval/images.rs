//! Sets of images, as bytes, from where users have them: folders, arrays, data sets.

mod arrays;
mod files;

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::data::Source;
use crate::data::folder::LeftOut;
use crate::error::{Error, Result};
use crate::file::hex;
use crate::image::to_u8;
use arrays::Array;

/// How much is read at a time where all images are gone through.
const CHUNK_BYTES: usize = 16 << 20;

/// How an intensity in [0, 1] becomes a byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteRule {
    /// ⌊clamp(255x + ½, 0, 255)⌋, as NCSN, NCSNv2 and this program.
    #[default]
    Round,
    /// ⌊clamp(255x, 0, 255)⌋, as Score-SDE.
    Truncate,
}

impl ByteRule {
    const ALL: [Self; 2] = [Self::Round, Self::Truncate];

    /// The byte for `x`.
    pub fn byte(self, x: f32) -> u8 {
        match self {
            Self::Round => to_u8(x),
            Self::Truncate => (255.0 * x.clamp(0.0, 1.0)) as u8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Round => "round",
            Self::Truncate => "truncate",
        }
    }
}

impl fmt::Display for ByteRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ByteRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::unexpected(format!("the rule {text:?} for bytes"), format!("one of {names}"))
        })
    }
}

/// How a set is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// Leave out image files that cannot be decoded, instead of refusing the set. All are decoded once to find them.
    pub skip_broken: bool,
    /// How floats become bytes.
    pub byte_rule: ByteRule,
}

/// Images of one size, with three channels, reachable by number. Only what is asked for is in memory, except for a compressed `.npz`.
///
/// One channel is repeated three times; a fourth, alpha, is dropped and not blended.
pub struct ImageSet {
    name: String,
    images: Images,
    n: usize,
    /// `[channels, height, width]` of what is read; 1 or 3 channels.
    shape: [usize; 3],
    broken: Vec<Error>,
    left_out: LeftOut,
}

enum Images {
    Files(Vec<PathBuf>),
    Array(Array),
    Source(Arc<dyn Source>),
}

impl ImageSet {
    /// The images at `path`, which is one of
    ///
    /// - a folder of PNG, JPEG, WebP, BMP and GIF files in any nesting, in the order of their paths;
    /// - a folder that `ncsn sample` has written: what lies in its `images`;
    /// - a `.safetensors` file as `ncsn sample --raw` writes it: the tensor `samples`, or the only one, `[n, c, h, w]`;
    /// - a `.npy` file: `[n, h, w]`, `[n, h, w, c]` or `[n, c, h, w]`;
    /// - a `.npz` file: such an array called `samples` (Score-SDE) or `arr_0` (guided-diffusion), or the only one.
    ///
    /// Numbers are bytes, or floats in [0, 1], of which a few may lie outside, as samples are not clamped.
    ///
    /// Of image files the headers are read here and, unless broken ones are to be skipped, nothing else. Of floats all are read, to see
    /// that they are in [0, 1]. A `.npz` of at most 16 GiB is read into memory to be checked; if it is compressed its images stay there.
    ///
    /// # Errors
    /// [`Error::Io`] if `path` cannot be read, [`Error::MissingData`] if a folder holds no image, [`Error::Format`] for what is no set
    /// of images of one size, all of them grey or all in colour.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self> {
        let name = path.display().to_string();
        if fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            let files::Found { files, shape, broken, left_out } = files::open(path, options.skip_broken)?;
            return Ok(Self { name, n: files.len(), images: Images::Files(files), shape, broken, left_out });
        }
        let array = Array::open(path, options.byte_rule)?;
        let (n, shape) = (array.n(), array.shape());
        Ok(Self { name, n, shape, images: Images::Array(array), broken: Vec::new(), left_out: LeftOut::default() })
    }

    /// The images of a data set, called `name` in messages.
    ///
    /// # Errors
    /// [`Error::Unexpected`] if it has none, or they have neither 1 nor 3 channels.
    pub fn of_source(source: Arc<dyn Source>, name: impl Into<String>) -> Result<Self> {
        let (name, n, shape) = (name.into(), source.len(), source.shape());
        if n == 0 || !matches!(shape[0], 1 | 3) {
            let found = format!("{n} images of {} channels in {name}", shape[0]);
            return Err(Error::unexpected(found, "at least 1, of 1 or 3"));
        }
        let images = Images::Source(source);
        Ok(Self { name, n, shape, images, broken: Vec::new(), left_out: LeftOut::default() })
    }

    /// The first `n` images alone.
    ///
    /// # Errors
    /// [`Error::Value`] if there are fewer, or `n` is 0.
    pub fn take(mut self, n: usize) -> Result<Self> {
        if n == 0 || n > self.n {
            return Err(Error::value(format!("the number of images of {}", self.name), n, format!("1 to {}", self.n)));
        }
        self.n = n;
        Ok(self)
    }

    /// The path, or the data set's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many images there are: at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.n
    }

    /// `[height, width]` of every image.
    pub fn size(&self) -> [usize; 2] {
        let [_, height, width] = self.shape;
        [height, width]
    }

    /// 1 if the images are grey, otherwise 3; [`Self::read`] gives three in any case.
    pub fn channels(&self) -> usize {
        self.shape[0]
    }

    /// How floats became bytes; `None` if the images are bytes where they come from.
    pub fn byte_rule(&self) -> Option<ByteRule> {
        match &self.images {
            Images::Array(array) => array.byte_rule(),
            _ => None,
        }
    }

    /// The image files that were left out because they cannot be decoded, each with the reason.
    pub fn broken(&self) -> &[Error] {
        &self.broken
    }

    /// The images of a folder that were left out because their formats are not read.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The images with the numbers in `range`, `[n, 3, height, width]`, decoded on all cores.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] with the name of the first file that cannot be read or decoded.
    ///
    /// # Panics
    /// If there are no such images.
    pub fn read(&self, range: Range<usize>) -> Result<Vec<u8>> {
        assert!(range.start <= range.end && range.end <= self.n, "images {range:?} of {}", self.n);
        let (n, n_pixels) = (range.len(), self.shape.iter().product());
        let pixels_u8 = match &self.images {
            Images::Files(files) => {
                let files = &files[range];
                fill(n, n_pixels, |i, out| files::read(&files[i], self.shape, out))?
            }
            Images::Source(source) => fill(n, n_pixels, |i, out| source.read(range.start + i, out))?,
            Images::Array(array) => array.read(range)?,
        };
        Ok(match self.shape[0] {
            1 => pixels_u8.chunks_exact(n_pixels).flat_map(|plane| [plane; 3]).flatten().copied().collect(),
            _ => pixels_u8,
        })
    }

    /// The SHA-256 of height and width (u64, little-endian) and all pixels, `[n, 3, height, width]`, in hexadecimal digits. The same
    /// images have the same digest whatever file they come from.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn digest(&self) -> Result<String> {
        let mut hash = Sha256::new();
        self.size().iter().for_each(|&side| hash.update((side as u64).to_le_bytes()));
        for range in chunks(self.n, 3 * self.size().iter().product::<usize>()) {
            hash.update(self.read(range)?);
        }
        Ok(hex(&hash.finalize()))
    }
}

impl fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, n, shape, .. } = self;
        f.debug_struct("ImageSet").field("name", name).field("n", n).field("shape", shape).finish_non_exhaustive()
    }
}

/// The numbers 0 to `n` of images of `n_bytes` in ranges that fit into [`CHUNK_BYTES`], or of one image.
fn chunks(n: usize, n_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let n_each = (CHUNK_BYTES / n_bytes).max(1);
    (0..n).step_by(n_each).map(move |start| start..n.min(start + n_each))
}

/// `n` images of `n_pixels`, each written by `read`, on all cores. Of several errors the first.
fn fill(n: usize, n_pixels: usize, read: impl Fn(usize, &mut [u8]) -> Result<()> + Sync) -> Result<Vec<u8>> {
    let mut pixels_u8 = vec![0; n * n_pixels];
    let images = pixels_u8.par_chunks_exact_mut(n_pixels).enumerate();
    let results: Vec<Result<()>> = images.map(|(i, out)| read(i, out)).collect();
    results.into_iter().collect::<Result<()>>()?;
    Ok(pixels_u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use ::image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::*;
    use crate::checkpoint::write_tensors;
    use crate::data::memory::InMemory;
    use crate::eval::npy;
    use crate::eval::testing::npz;
    use crate::net::params::HostTensor;

    const SKIP: ReadOptions = ReadOptions { skip_broken: true, byte_rule: ByteRule::Round };

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open(path: &Path) -> ImageSet {
        ImageSet::open(path, &ReadOptions::default()).unwrap()
    }

    #[track_caller]
    fn refused(path: &Path, options: &ReadOptions) -> String {
        ImageSet::open(path, options).unwrap_err().to_string()
    }

    fn all(set: &ImageSet) -> Vec<u8> {
        set.read(0..set.len()).unwrap()
    }

    fn put(path: &Path, image: impl Into<DynamicImage>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.into().save(path).unwrap();
    }

    /// A 2 × 1 image: this colour, then black.
    fn colour(rgb: [u8; 3]) -> DynamicImage {
        ImageBuffer::from_fn(2, 1, |x, _| Rgb(if x == 0 { rgb } else { [0; 3] })).into()
    }

    fn grey(width: u32, height: u32, value: u8) -> DynamicImage {
        ImageBuffer::from_pixel(width, height, Luma([value])).into()
    }

    /// A file of `content` called `name` in a folder of its own.
    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = scratch();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        (folder, path)
    }

    fn u1(shape: &[usize], content: &[u8]) -> Vec<u8> {
        npy::write("|u1", shape, content.iter().copied())
    }

    fn f4(shape: &[usize], values: &[f32]) -> Vec<u8> {
        npy::write("<f4", shape, values.iter().flat_map(|x| x.to_le_bytes()))
    }

    #[test]
    fn a_folders_images_are_read_in_the_order_of_their_paths() {
        let root = scratch();
        put(&root.path().join("b/1.png"), colour([4, 5, 6]));
        put(&root.path().join("a.webp"), colour([1, 2, 3]));
        put(&root.path().join("c.PNG"), colour([7, 8, 9]));
        fs::write(root.path().join("notes.txt"), "no image").unwrap();
        let set = open(root.path());
        assert_eq!((set.len(), set.size(), set.channels(), set.byte_rule()), (3, [1, 2], 3, None));
        assert_eq!(all(&set), [1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0, 9, 0]);
        assert_eq!(set.read(1..2).unwrap(), [4, 0, 5, 0, 6, 0]);
        assert!(set.read(3..3).unwrap().is_empty() && set.broken().is_empty());
    }

    #[test]
    fn grey_is_repeated_and_alpha_is_dropped() {
        let root = scratch();
        put(&root.path().join("1.png"), grey(2, 1, 7));
        put(&root.path().join("2.png"), ImageBuffer::from_pixel(2, 1, LumaA([8_u8, 0])));
        let set = open(root.path());
        assert_eq!((set.channels(), all(&set)), (1, vec![7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 8]));
        let root = scratch();
        put(&root.path().join("1.png"), ImageBuffer::from_pixel(1, 1, Rgba([1_u8, 2, 3, 4])));
        assert_eq!(all(&open(root.path())), [1, 2, 3]);
    }

    #[test]
    fn of_a_folder_of_samples_the_images_are_meant_and_must_be_complete() {
        let root = scratch();
        for k in 0..3 {
            put(&root.path().join(format!("images/{k:06}.png")), colour([k, 0, 0]));
        }
        put(&root.path().join("grid.png"), grey(50, 50, 0));
        fs::write(root.path().join("samples.json"), r#"{ "seed": 1, "n": 3 }"#).unwrap();
        assert_eq!(all(&open(root.path())).iter().step_by(6).copied().collect::<Vec<_>>(), [0, 1, 2]);
        fs::write(root.path().join("samples.json"), r#"{ "seed": 1, "n": 5 }"#).unwrap();
        let message = refused(root.path(), &ReadOptions::default());
        assert!(message.contains("found 3 images in images/, expected 5"), "{message}");
        assert_eq!(open(&root.path().join("images")).len(), 3);
    }

    #[test]
    fn other_sizes_and_other_colours_are_counted_and_named_in_one_message() {
        let root = scratch();
        for k in 0..8 {
            put(&root.path().join(format!("{k}.png")), grey(4, 4, 0));
        }
        for k in 0..6 {
            put(&root.path().join(format!("large{k}.png")), grey(4, 9, 0));
        }
        put(&root.path().join("colour.png"), ImageBuffer::from_pixel(4, 4, Rgb([1_u8, 2, 3])));
        let message = refused(root.path(), &SKIP);
        assert!(message.contains("6 of 15 have not that of the others, 4×4: large0.png is 9×4;"), "{message}");
        assert!(message.contains("large4.png is 9×4; and 1 more. "), "{message}");
        assert!(message.contains("1 of 15 images are in colour and the others grey: colour.png"), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }

    #[test]
    fn broken_files_are_counted_and_named_or_left_out() {
        let root = scratch();
        for k in 0..3 {
            put(&root.path().join(format!("{k}.png")), grey(30, 30, k));
        }
        for k in 0..7 {
            fs::write(root.path().join(format!("bad{k}.jpg")), "not a picture").unwrap();
        }
        let message = refused(root.path(), &ReadOptions::default());
        assert!(
            message.contains("7 of 10 image files cannot be decoded; they must be skipped or moved away"),
            "{message}"
        );
        assert!(message.contains("bad4.jpg") && !message.contains("bad5.jpg"), "{message}");
        assert!(message.contains("; and 2 more"), "{message}");
        let set = ImageSet::open(root.path(), &SKIP).unwrap();
        assert_eq!((set.len(), set.broken().len()), (3, 7));
        assert!(set.broken()[0].to_string().contains("bad0.jpg"));
        assert_eq!(all(&set).iter().step_by(2700).copied().collect::<Vec<_>>(), [0, 1, 2]);
        // All of them.
        (0..3).for_each(|k| fs::remove_file(root.path().join(format!("{k}.png"))).unwrap());
        assert!(refused(root.path(), &SKIP).contains("7 of 7 image files cannot be decoded: "));
    }

    #[test]
    fn a_file_with_a_sound_header_and_broken_pixels_is_named_when_read_or_left_out() {
        let root = scratch();
        (0..2).for_each(|k| put(&root.path().join(format!("{k}.png")), grey(30, 30, k)));
        let broken = root.path().join("0.png");
        let mut damaged = fs::read(&broken).unwrap();
        let pixels = damaged.windows(4).position(|bytes| bytes == b"IDAT").unwrap() + 8;
        damaged[pixels] ^= 0xff;
        fs::write(&broken, damaged).unwrap();
        let set = open(root.path());
        assert_eq!(set.len(), 2);
        let error = set.read(0..2).unwrap_err();
        assert!(matches!(&error, Error::Format { path, .. } if *path == broken), "{error}");
        assert!(set.digest().is_err());
        let set = ImageSet::open(root.path(), &SKIP).unwrap();
        assert_eq!((set.len(), set.broken().len(), all(&set)[0]), (1, 1, 1));
    }

    #[test]
    fn a_file_that_has_another_shape_when_it_is_read_is_named() {
        let root = scratch();
        put(&root.path().join("0.png"), grey(3, 3, 1));
        let set = open(root.path());
        put(&root.path().join("0.png"), grey(4, 3, 1));
        let message = set.read(0..1).unwrap_err().to_string();
        assert!(message.contains("0.png: has the shape [1, 3, 4] now, expected [1, 3, 3]"), "{message}");
    }

    #[test]
    fn nothing_an_empty_folder_and_other_files_are_refused() {
        let root = scratch();
        assert!(refused(root.path(), &SKIP).contains("the folder holds no image"));
        assert!(matches!(ImageSet::open(&root.path().join("nowhere"), &SKIP).unwrap_err(), Error::Io { .. }));
        let one = root.path().join("one.png");
        put(&one, grey(3, 3, 1));
        for content in [fs::read(&one).unwrap(), b"".to_vec(), b"hello".to_vec()] {
            fs::write(&one, content).unwrap();
            assert!(refused(&one, &SKIP).contains("expected a folder of them, or a file .npy, .npz or .safetensors"));
        }
    }

    #[test]
    fn arrays_of_bytes_are_read_in_every_layout() {
        let planes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let pixels = [1, 3, 5, 2, 4, 6, 7, 9, 11, 8, 10, 12];
        let with_alpha = [1, 3, 5, 99, 2, 4, 6, 99, 7, 9, 11, 99, 8, 10, 12, 99];
        let alpha_last = [1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12, 99, 99];
        let cases: [(&[usize], &[u8]); 4] = [
            (&[2, 3, 1, 2], &planes),
            (&[2, 2, 1, 3], &pixels),
            (&[2, 2, 1, 4], &with_alpha),
            (&[2, 4, 1, 2], &alpha_last),
        ];
        for (shape, content) in cases {
            let (_folder, path) = file("images.npy", &u1(shape, content));
            let set = open(&path);
            assert_eq!((set.len(), set.channels(), set.byte_rule()), (2, 3, None), "{shape:?}");
            assert_eq!(all(&set), planes, "{shape:?}");
            assert_eq!(set.read(1..2).unwrap(), planes[6..], "{shape:?}");
        }
        for shape in [&[2, 3, 2][..], &[2, 1, 3, 2], &[2, 2, 5, 1][..]] {
            let content: Vec<u8> = (0..shape.iter().product::<usize>() as u8).collect();
            let (_folder, path) = file("grey.npy", &u1(shape, &content));
            let set = open(&path);
            let repeated: Vec<u8> = content.chunks(content.len() / 2).flat_map(|plane| plane.repeat(3)).collect();
            assert_eq!((set.channels(), all(&set)), (1, repeated), "{shape:?}");
        }
    }

    #[test]
    fn floats_become_bytes_by_the_rule() {
        let values = [0.0, 0.499 / 255.0, 0.501 / 255.0, 0.999, 1.0, 1.05, -0.05, 0.5, 0.25, 0.1, 0.2, 0.3];
        let rounded = [0, 0, 1, 255, 255, 255, 0, 128, 64, 26, 51, 77];
        let truncated = [0, 0, 0, 254, 255, 255, 0, 127, 63, 25, 51, 76];
        let f8 =
            |values: &[f32]| npy::write("<f8", &[1, 3, 2, 2], values.iter().flat_map(|&x| f64::from(x).to_le_bytes()));
        for bytes in [f4(&[1, 3, 2, 2], &values), f8(&values)] {
            let (_folder, path) = file("images.npy", &bytes);
            for (rule, expected) in [(ByteRule::Round, rounded), (ByteRule::Truncate, truncated)] {
                let options = ReadOptions { byte_rule: rule, ..ReadOptions::default() };
                let set = ImageSet::open(&path, &options).unwrap();
                assert_eq!((all(&set), set.byte_rule()), (expected.to_vec(), Some(rule)));
            }
        }
        for rule in ByteRule::ALL {
            assert_eq!(rule.to_string().parse::<ByteRule>().unwrap(), rule);
        }
        let message = "floor".parse::<ByteRule>().unwrap_err().to_string();
        assert_eq!(message, "found the rule \"floor\" for bytes, expected one of round, truncate");
    }

    #[test]
    fn floats_that_are_no_intensities_are_refused() {
        let mut values = vec![0.5; 40 * 3 * 64];
        let message = |values: &[f32]| {
            let (_folder, path) = file("images.npy", &f4(&[40, 8, 8, 3], values));
            refused(&path, &ReadOptions::default())
        };
        for k in 30..37 {
            values[k * 192] = if k == 30 { f32::NAN } else { f32::INFINITY };
        }
        let found = message(&values);
        assert!(found.contains("7 of 40 images have numbers that are not finite: image 30; image 31;"), "{found}");
        assert!(found.contains("image 34; and 2 more"), "{found}");
        for scale in [[-1.0, 2.0], [0.0, 255.0]] {
            let values: Vec<f32> = (0..7680).map(|i| scale[0] + scale[1] * (i % 256) as f32 / 255.0).collect();
            let found = message(&values);
            let range = format!("found numbers from {} to {}", scale[0], scale[0] + scale[1]);
            assert!(found.contains("expected images in [0, 1]") && found.contains(&range), "{found}");
        }
        // Samples are not clamped: a few numbers may be anywhere, all of them a little outside.
        let mut values = vec![-0.08; 7680];
        values[..70].fill(3.0);
        let (_folder, path) = file("images.npy", &f4(&[40, 8, 8, 3], &values));
        assert_eq!(all(&open(&path))[..3], [255, 255, 255]);
    }

    #[test]
    fn archives_are_read_stored_and_compressed_by_the_names_of_score_sde_and_guided_diffusion() {
        let images = || u1(&[2, 2, 2, 3], &(0..24).collect::<Vec<u8>>());
        let other = || npy::write("<i8", &[2], [0; 16]);
        let expected: Vec<u8> = [0, 12].into_iter().flat_map(|k| (0..12).map(move |i| k + i / 4 + i % 4 * 3)).collect();
        for files in [
            vec![("samples", images()), ("labels", other())],
            vec![("arr_0", images()), ("arr_1", other())],
            vec![("anything", images())],
        ] {
            for is_deflated in [false, true] {
                let (_folder, path) = file("images.npz", &npz(&files, is_deflated));
                let set = open(&path);
                assert_eq!((all(&set), set.read(1..2).unwrap()), (expected.clone(), expected[12..].to_vec()));
            }
        }
        let message = |files: &[(&str, Vec<u8>)]| refused(&file("images.npz", &npz(files, false)).1, &SKIP);
        let found = message(&[("mu", images()), ("sigma", images())]);
        assert!(found.contains("holds 2 arrays (mu; sigma), expected samples or arr_0, or a single one"), "{found}");
        assert!(message(&[("samples", other())]).contains("samples is an array of <i8, expected bytes"));
        assert!(message(&[("samples", vec![1, 2])]).contains("samples is no array of numpy's"));
    }

    #[test]
    fn arrays_that_are_no_images_are_told() {
        let message = |bytes: &[u8]| refused(&file("images.npy", bytes).1, &SKIP);
        for shape in [&[27][..], &[3, 9], &[9, 1, 3], &[1, 1, 3, 9, 1], &[1, 3, 3, 3], &[1, 1, 9, 3], &[1, 9, 3, 1, 1]]
        {
            let found = message(&u1(shape, &[0; 27]));
            assert!(found.contains(&format!("shape {shape:?}, expected images [n, h, w], ")), "{found}");
        }
        assert!(message(&u1(&[0, 8, 8], &[])).contains("holds 0 images of 1×8×8"));
        assert!(message(&u1(&[1 << 60, 0, 8], &[])).contains("holds 1152921504606846976 images of 1×0×8"));
        assert!(
            message(&npy::write("<i4", &[1, 1, 2], [0; 8]))
                .contains("is an array of <i4, expected bytes (|u1) or floats")
        );
        assert!(message(&npy::write("|b1", &[1, 1, 2], [0; 2])).contains("is an array of |b1"));
        // Sizes are those of the file, whatever its header says.
        let found = message(&u1(&[1 << 30, 1 << 15, 1 << 15], &[0; 64]));
        assert!(found.contains("shape [1073741824, 32768, 32768] and |u1 in 64 bytes"), "{found}");
        assert!(message(&u1(&[1 << 40, 1 << 40, 2], &[0; 64])).contains("in 64 bytes"));
        assert!(message(&u1(&[2, 5, 6], &[0; 61])).contains("in 61 bytes"));
        assert!(message(&u1(&[2, 5, 6], &[0; 59])).contains("in 59 bytes"));
    }

    #[test]
    fn a_tensor_called_samples_or_a_single_one_is_read() {
        let folder = scratch();
        let path = folder.path().join("samples.safetensors");
        let write = |tensors: &[(&str, &[usize])]| {
            let tensor = |&(name, shape): &(&str, &[usize])| {
                let values = (0..shape.iter().product()).map(|i: usize| i as f32 / 255.0).collect();
                (name.to_string(), HostTensor { shape: shape.to_vec(), values })
            };
            write_tensors(&path, &tensors.iter().map(tensor).collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        };
        for tensors in [&[("before", &[9][..]), ("samples", &[2, 3, 1, 3])][..], &[("x", &[2, 3, 1, 3])]] {
            write(tensors);
            let set = open(&path);
            assert_eq!((set.len(), set.size(), set.byte_rule()), (2, [1, 3], Some(ByteRule::Round)));
            assert_eq!(all(&set), (0..18).collect::<Vec<u8>>());
        }
        write(&[("a", &[1, 1, 2, 2]), ("b", &[1, 1, 2, 2])]);
        assert!(refused(&path, &SKIP).contains("holds 2 arrays (a; b), expected samples, or a single one"));
        write(&[("samples", &[1, 2, 2, 3])]);
        assert!(refused(&path, &SKIP).contains("samples has shape [1, 2, 2, 3], expected images [n, c, h, w]"));
        write(&[("samples", &[4, 3, 2, 2])]);
        let whole = fs::read(&path).unwrap();
        for changed in [&whole[..whole.len() - 1], &[&whole[..], &[0]].concat()] {
            fs::write(&path, changed).unwrap();
            assert!(refused(&path, &SKIP).contains("which are not those that the file's header describes"));
        }
        for n_header in [whole.len() as u64, u64::MAX] {
            fs::write(&path, [&n_header.to_le_bytes(), &whole[8..]].concat()).unwrap();
            assert!(refused(&path, &SKIP).contains(&format!("a header of {n_header} bytes is not in its first")));
        }
    }

    #[test]
    fn a_data_set_is_read_with_three_channels() {
        let source = Arc::new(InMemory::new((0..24).collect(), [1, 2, 3]).unwrap());
        let set = ImageSet::of_source(source, "digits").unwrap();
        assert_eq!((set.name(), set.len(), set.size(), set.channels()), ("digits", 4, [2, 3], 1));
        assert_eq!(set.read(1..3).unwrap(), [6..12, 12..18].map(|plane| plane.collect::<Vec<u8>>().repeat(3)).concat());
        for (pixels_u8, shape) in [(vec![], [1, 2, 3]), (vec![0; 8], [2, 2, 2])] {
            let source = Arc::new(InMemory::new(pixels_u8, shape).unwrap());
            let message = ImageSet::of_source(source, "digits").unwrap_err().to_string();
            assert!(message.ends_with(" in digits, expected at least 1, of 1 or 3"), "{message}");
        }
    }

    #[test]
    fn the_first_images_are_taken_and_no_more_than_there_are() {
        let (_folder, path) = file("images.npy", &u1(&[3, 1, 2], &[1, 2, 3, 4, 5, 6]));
        assert_eq!(all(&open(&path).take(2).unwrap()), [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]);
        for n in [0, 4] {
            let message = open(&path).take(n).unwrap_err().to_string();
            assert!(message.ends_with(&format!(" is {n}, expected 1 to 3")), "{message}");
        }
    }

    #[test]
    fn a_digest_tells_pixels_and_sizes_apart_and_not_files() {
        let digest = |bytes: &[u8]| open(&file("images.npy", bytes).1).digest().unwrap();
        let pixels: Vec<u8> = (0..12).collect();
        let known = digest(&u1(&[1, 2, 2], &[1, 2, 3, 4]));
        // hashlib.sha256(struct.pack("<QQ", 2, 2) + bytes([1, 2, 3, 4] * 3)).hexdigest()
        assert_eq!(known, "33e26e08d7a27256f975199ae8a6cee6978b265abb79cfc4972a246a8dc63e19");
        let grey_file = scratch();
        put(&grey_file.path().join("1.png"), ImageBuffer::from_fn(2, 2, |x, y| Luma([(1 + x + 2 * y) as u8])));
        assert_eq!(open(grey_file.path()).digest().unwrap(), known);
        let floats: Vec<f32> = pixels.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let of_pixels = digest(&u1(&[2, 2, 3, 1], &pixels));
        assert_eq!(digest(&f4(&[2, 2, 3, 1], &floats)), of_pixels);
        let mut others = vec![known, of_pixels, digest(&u1(&[2, 1, 3, 2], &pixels)), digest(&u1(&[3, 2, 2], &pixels))];
        others.sort();
        others.dedup();
        assert_eq!(others.len(), 4);
    }

    #[test]
    fn a_digest_goes_through_all_images_of_a_set_larger_than_what_is_read_at_a_time() {
        let n = CHUNK_BYTES / (3 * 64 * 64) + 2;
        let pixels: Vec<u8> = (0..n * 64 * 64).map(|i| (i / 4096) as u8).collect();
        let (_folder, path) = file("images.npy", &u1(&[n, 64, 64], &pixels));
        let set = open(&path);
        let mut hash = Sha256::new();
        [64_u64, 64].iter().for_each(|side| hash.update(side.to_le_bytes()));
        hash.update(all(&set));
        assert_eq!(set.digest().unwrap(), hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
}
