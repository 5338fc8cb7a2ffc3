//! A plain folder of images.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode::{decode, header_shape};
use super::resize::prepare;
use super::{Progress, Source, Split};
use crate::error::{Error, Result, few, shown_path};

/// One image in so many is held out if the folder does not say which.
const TEST_EVERY: usize = 20;

/// The ends of names, in any case, of the images that are read.
const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif"];
/// Those of images that are not.
const OTHER_EXTENSIONS: [&str; 32] = [
    "apng", "arw", "avif", "cr2", "cr3", "dds", "dib", "dng", "exr", "hdr", "heic", "heif", "ico", "j2k", "jp2", "jpf",
    "jpx", "jxl", "nef", "orf", "pam", "pbm", "pcx", "pgm", "pnm", "ppm", "psd", "qoi", "svg", "tga", "tif", "tiff",
];

/// The images of a folder, in any nesting: `*.png`, `*.jpg`, `*.jpeg`, `*.jpe`, `*.jfif`, `*.webp`, `*.bmp` and `*.gif` in any case.
/// Hidden files and folders are ignored, and so are all other files; images of other formats among them are counted.
///
/// Subfolders `train` and `test`, if both are there, are the two splits. Otherwise every 20th image is held out, and a
/// folder of fewer than 20 images serves as both splits.
///
/// Each image is converted to the channels asked for (alpha is dropped, not blended, as Pillow's `convert("RGB")`),
/// brought to the size by its shorter side, enlarged if need be, and cropped at the centre.
#[derive(Debug)]
pub struct Folder {
    files: Vec<PathBuf>,
    left_out: LeftOut,
    channels: usize,
    size: usize,
}

/// Images of formats that are not read, of which a folder holds some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many files have each of these ends of their names, in lower case.
    by_extension: BTreeMap<String, usize>,
}

impl LeftOut {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_extension.is_empty()
    }
}

/// `3 files of other formats (.heic, .tif) are left out`
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n: usize = self.by_extension.values().sum();
        let extensions: Vec<String> = self.by_extension.keys().map(|extension| format!(".{extension}")).collect();
        let (files, are) = if n == 1 { ("file", "is") } else { ("files", "are") };
        write!(f, "{n} {files} of other formats ({}) {are} left out", extensions.join(", "))
    }
}

impl Folder {
    /// One split of the folder, as images of `[channels, size, size]`, `channels` being 1 or 3.
    ///
    /// The images are in the order of their paths, so that an image has the same number on every machine. Only the
    /// header and the end of each file are read here.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read; [`Error::MissingData`] if it does not exist or holds no image;
    /// [`Error::Format`] if a file is not the image that its name promises; [`Error::Stopped`] when `progress` says so.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3, or `size` is 0.
    pub fn open(
        root: &Path,
        split: Split,
        channels: usize,
        size: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Folder> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        if !root.is_dir() {
            return Err(Error::MissingData(format!("{}: there is no such folder of images", shown_path(root))));
        }
        let (train, test) = (root.join("train"), root.join("test"));
        let Listing { files, left_out } = if train.is_dir() && test.is_dir() {
            images_below(if split == Split::Train { &train } else { &test })?
        } else {
            let Listing { files, left_out } = images_below(root)?;
            Listing { files: part(files, split), left_out }
        };
        check_headers(root, &files, header_shape, progress)?;
        Ok(Folder { files, left_out, channels, size })
    }

    /// All images of the folder, whatever their split.
    ///
    /// # Errors
    /// As [`Folder::open`].
    ///
    /// # Panics
    /// As [`Folder::open`].
    pub fn all(root: &Path, channels: usize, size: usize, progress: &mut Progress<'_>) -> Result<Folder> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        if !root.is_dir() {
            return Err(Error::MissingData(format!("{}: there is no such folder of images", shown_path(root))));
        }
        let Listing { files, left_out } = images_below(root)?;
        check_headers(root, &files, header_shape, progress)?;
        Ok(Folder { files, left_out, channels, size })
    }

    /// The images that were left out because their formats are not read.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }

    /// The file that image `index` comes from.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn path(&self, index: usize) -> &Path {
        &self.files[index]
    }
}

impl Source for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        pixels_u8.copy_from_slice(&prepare(decode(&self.files[index])?, self.channels, self.size));
        Ok(())
    }

    fn warning(&self) -> Option<String> {
        Some(self.left_out.to_string()).filter(|_| !self.left_out.is_empty())
    }
}

/// The split's part of files that are not divided into folders.
fn part(files: Vec<PathBuf>, split: Split) -> Vec<PathBuf> {
    if files.len() < TEST_EVERY {
        return files;
    }
    let is_test = |i: usize| i % TEST_EVERY == TEST_EVERY - 1;
    let wanted = split != Split::Train;
    files.into_iter().enumerate().filter(|&(i, _)| is_test(i) == wanted).map(|(_, file)| file).collect()
}

/// What [`images_below`] finds.
pub(crate) struct Listing {
    pub files: Vec<PathBuf>,
    pub left_out: LeftOut,
}

/// All image files in a folder and its subfolders, sorted by path; at least one. What has an image's name and is no file, a pipe say
/// or a link that leads nowhere, is among them, so that it is refused by its name, or skipped, when it is to be read.
pub(crate) fn images_below(root: &Path) -> Result<Listing> {
    let (mut files, mut seen, mut folders) = (Vec::new(), HashSet::new(), vec![root.to_path_buf()]);
    let mut left_out = LeftOut::default();
    while let Some(folder) = folders.pop() {
        // By its real name each folder is entered once, or links that form a loop would never end.
        if !seen.insert(fs::canonicalize(&folder).map_err(Error::io(&folder))?) {
            continue;
        }
        let entries = fs::read_dir(&folder).map_err(Error::io(&folder))?;
        let mut subfolders = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::io(&folder))?.path();
            if path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b".")) {
                continue;
            }
            // Follows links.
            if fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                subfolders.push(path);
            } else if has_extension(&path, &EXTENSIONS).is_some() {
                files.push(path);
            } else if let Some(extension) = has_extension(&path, &OTHER_EXTENSIONS) {
                *left_out.by_extension.entry(extension.to_string()).or_insert(0) += 1;
            }
        }
        // Which of two names of one folder is used must not depend on the file system's order.
        subfolders.sort_by(|a, b| b.cmp(a));
        folders.extend(subfolders);
    }
    if files.is_empty() {
        let names = EXTENSIONS.map(|extension| format!("*.{extension}")).join(", ");
        let left_out = if left_out.is_empty() { String::new() } else { format!("; {left_out}") };
        let message = format!("{}: the folder holds no image ({names}){left_out}", shown_path(root));
        return Err(Error::MissingData(message));
    }
    files.sort();
    Ok(Listing { files, left_out })
}

/// One image as `[channels, size, size]`, converted as [`Folder`]'s are.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is no image.
///
/// # Panics
/// As [`Folder::open`].
pub fn read_image(path: &Path, channels: usize, size: usize) -> Result<Vec<u8>> {
    assert!((channels == 1 || channels == 3) && size > 0, "an image of {channels}×{size}×{size}");
    Ok(prepare(decode(path)?, channels, size))
}

/// The one of `extensions` with which the file's name ends, in any case.
fn has_extension(path: &Path, extensions: &[&'static str]) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?;
    extensions.iter().copied().find(|known| extension.eq_ignore_ascii_case(known))
}

/// Looks at every header, so that a foreign file is found now and not hours into a run.
pub(super) fn check_headers<T>(
    root: &Path,
    files: &[PathBuf],
    check: impl Fn(&Path) -> Result<T> + Sync,
    progress: &mut Progress<'_>,
) -> Result<()> {
    /// Files between two looks at whether to go on.
    const N_AT_A_TIME: usize = 1024;
    let (mut broken, n) = (Vec::new(), files.len());
    for (i, part) in files.chunks(N_AT_A_TIME).enumerate() {
        let n_done = i * N_AT_A_TIME;
        if progress(n_done as u64, n as u64).is_break() {
            return Err(Error::Stopped(format!("stopped after the headers of {n_done} of {n} images")));
        }
        broken.par_extend(part.par_iter().filter_map(|file| check(file).err()));
    }
    if broken.is_empty() {
        return Ok(());
    }
    let message = format!("{} of {n} image files cannot be used; move them away: {}", broken.len(), few(&broken));
    Err(Error::format(root, message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use image::{ImageBuffer, Rgb};

    use super::super::jpeg::testing::baseline;
    use super::super::unwatched;
    use super::*;

    fn put(path: &Path, red: u8) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        ImageBuffer::from_pixel(10, 6, Rgb([red, 0, 0])).save(path).unwrap();
    }

    fn reds(folder: &Folder) -> Vec<u8> {
        let mut pixels_u8 = vec![0; folder.shape().iter().product()];
        let mut red = |i| folder.read(i, &mut pixels_u8).map(|()| pixels_u8[0]);
        (0..folder.len()).map(|i| red(i).unwrap()).collect()
    }

    #[test]
    fn images_are_found_in_any_nesting_sorted_by_path_and_others_are_ignored() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(&root.join("b/x/2.png"), 2);
        put(&root.join("a/1.PNG"), 1);
        put(&root.join("c.webp"), 3);
        put(&root.join("d.GIF"), 4);
        put(&root.join("e.bmp"), 5);
        for (name, red) in [("f.jfif", 60), ("g.jpe", 70), ("h.JPEG", 80)] {
            fs::write(root.join(name), baseline(&[red; 3 * 60], 10)).unwrap();
        }
        put(&root.join(".hidden.png"), 9);
        put(&root.join(".git/9.png"), 9);
        fs::write(root.join("notes.txt"), "no image").unwrap();
        let folder = Folder::open(root, Split::Train, 3, 4, &mut unwatched).unwrap();
        assert_eq!(reds(&folder), [1, 2, 3, 4, 5, 60, 70, 80]);
        assert!(folder.left_out().is_empty());
        assert_eq!(folder.shape(), [3, 4, 4]);
        assert_eq!(folder.path(0), root.join("a/1.PNG"));
    }

    #[test]
    fn without_split_folders_every_twentieth_image_is_held_out() {
        let root = tempfile::tempdir().unwrap();
        for i in 0..40 {
            put(&root.path().join(format!("{i:02}.png")), i);
        }
        let train = reds(&Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap());
        assert_eq!(reds(&Folder::open(root.path(), Split::Test, 3, 8, &mut unwatched).unwrap()), [19, 39]);
        assert_eq!(train, (0..40).filter(|i| ![19, 39].contains(i)).collect::<Vec<u8>>());
    }

    #[test]
    fn folders_named_train_and_test_are_the_splits() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("train/1.png"), 1);
        put(&root.path().join("test/2.png"), 2);
        assert_eq!(reds(&Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap()), [1]);
        assert_eq!(reds(&Folder::open(root.path(), Split::Test, 3, 8, &mut unwatched).unwrap()), [2]);
    }

    #[test]
    fn a_missing_and_an_empty_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let missing = Folder::open(&root.path().join("nowhere"), Split::Train, 3, 8, &mut unwatched).unwrap_err();
        assert!(missing.to_string().contains("no such folder"), "{missing}");
        let empty = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap_err();
        assert!(empty.to_string().contains("no image"), "{empty}");
    }

    #[test]
    fn images_of_other_formats_are_counted() {
        let root = tempfile::tempdir().unwrap();
        for name in ["a.tif", "b/c.TIF", "b/d.heic", "notes.txt", ".e.tif"] {
            fs::create_dir_all(root.path().join("b")).unwrap();
            fs::write(root.path().join(name), "whatever").unwrap();
        }
        let left_out = "3 files of other formats (.heic, .tif) are left out";
        let message = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("holds no image (*.png, *.jpg") && message.ends_with(left_out), "{message}");
        put(&root.path().join("1.png"), 1);
        let folder = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap();
        assert_eq!((folder.len(), folder.left_out().to_string().as_str()), (1, left_out));
    }

    #[cfg(unix)]
    #[test]
    fn what_has_an_image_s_name_and_is_no_file_is_refused_by_its_name() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("1.png"), 1);
        symlink(root.path().join("1.png"), root.path().join("good link.png")).unwrap();
        symlink(root.path().join("nowhere"), root.path().join("dangling.png")).unwrap();
        symlink(root.path().join("loop.jpg"), root.path().join("loop.jpg")).unwrap();
        symlink("/dev/zero", root.path().join("zero.png")).unwrap();
        let pipe = root.path().join("pipe.gif");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let message = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("4 of 6 image files cannot be used"), "{message}");
        for found in
            ["pipe.gif: found a pipe or a device", "zero.png: found a pipe or a device", "dangling.png: ", "loop.jpg: "]
        {
            assert!(message.contains(found), "{found} not in {message}");
        }
    }

    #[test]
    fn foreign_files_are_named_up_to_five_and_counted() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("good.png"), 1);
        for i in 0..7 {
            fs::write(root.path().join(format!("bad{i}.jpg")), "not a picture").unwrap();
        }
        let message = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("7 of 8 image files"), "{message}");
        assert!(message.contains("bad4.jpg") && !message.contains("bad5.jpg"), "{message}");
        assert!(message.contains("and 2 more"), "{message}");
    }

    #[test]
    fn a_file_that_breaks_after_opening_is_named() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("1.png");
        put(&path, 1);
        let folder = Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let error = folder.read(0, &mut [0; 3 * 64]).unwrap_err();
        assert!(matches!(&error, Error::Format { path: named, .. } if *named == path), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_loop_end_and_linked_folders_are_read_once() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("a/1.png"), 1);
        symlink(root.path(), root.path().join("a/up")).unwrap();
        symlink(root.path().join("a"), root.path().join("b")).unwrap();
        assert_eq!(reds(&Folder::open(root.path(), Split::Train, 3, 8, &mut unwatched).unwrap()), [1]);
    }

    #[test]
    fn a_jpeg_with_long_metadata_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("1.jpg");
        let file = baseline(&[200, 0, 0].repeat(60), 10);
        // Three comment segments of 60 000 bytes after the start mark push the header behind the first 64 KiB.
        let comment = [&[0xff, 0xfe, 0xea, 0x62][..], &[b' '; 60_000]].concat();
        fs::write(&path, [&file[..2], &comment.repeat(3), &file[2..]].concat()).unwrap();
        let folder = Folder::open(root.path(), Split::Train, 1, 4, &mut unwatched).unwrap();
        // JPEG is not exact: the grey of (200, 0, 0) is 60, give or take 3.
        assert!(reds(&folder)[0].abs_diff(60) <= 3);
    }

    #[test]
    fn looking_at_headers_ends_when_the_caller_says_so() {
        let root = tempfile::tempdir().unwrap();
        put(&root.path().join("1.png"), 1);
        let mut seen = Vec::new();
        let mut stop = |n_done, n| {
            seen.push((n_done, n));
            ControlFlow::Break(())
        };
        let error = Folder::all(root.path(), 3, 4, &mut stop).unwrap_err();
        assert!(matches!(error, Error::Stopped(_)), "{error}");
        assert_eq!(seen, [(0, 1)]);
    }
}
