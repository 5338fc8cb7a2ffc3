//! CelebA, "Large-scale CelebFaces Attributes" (Liu, Luo, Wang & Tang, ICCV 2015), aligned and cropped.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::decode::{decode, header_shape};
use super::folder::check_headers;
use super::resize::{center_crop, prepare};
use super::{Progress, Source, Split};
use crate::error::{Error, Result, shown_path};
use crate::file::read_at_most;

const IMAGES: &str = "img_align_celeba";
const PARTITION: &str = "list_eval_partition.txt";
/// The published programs' crop of the 178×218 images, in pixels.
const CROP: usize = 140;
/// The real list has 4 MB.
const MAX_LIST_BYTES: u64 = 64 << 20;

/// One split of CelebA: the central 140×140 pixels, resized to `[channels, size, size]`.
#[derive(Debug)]
pub struct CelebA {
    folder: PathBuf,
    names: Vec<String>,
    channels: usize,
    size: usize,
}

impl CelebA {
    /// The images that `list_eval_partition.txt` assigns to the split (train 0, validation 1, test 2), in its order.
    ///
    /// `root` or its subfolder `celeba` holds that list and the folder `img_align_celeba` with the JPEG files.
    ///
    /// # Errors
    /// [`Error::MissingData`] if files are missing, saying which and where to get them; [`Error::Format`] with the line
    /// if the list is malformed, or with the names of files that are no sound images by their headers; [`Error::Io`] if something
    /// cannot be read; [`Error::Stopped`] when `progress` says so.
    ///
    /// # Panics
    /// If `channels` is neither 1 nor 3, or `size` is 0.
    pub fn open(
        root: &Path,
        split: Split,
        channels: usize,
        size: usize,
        progress: &mut Progress<'_>,
    ) -> Result<CelebA> {
        assert!((channels == 1 || channels == 3) && size > 0, "images of {channels}×{size}×{size}");
        let complete = |folder: &PathBuf| folder.join(IMAGES).is_dir() && folder.join(PARTITION).is_file();
        let Some(root) = [root.to_path_buf(), root.join("celeba")].into_iter().find(complete) else {
            return Err(missing(root));
        };
        let list = root.join(PARTITION);
        let names = names_of_split(&list, split)?;
        if names.is_empty() {
            return Err(Error::format(&list, format!("the list assigns no image to {split:?}")));
        }
        let folder = root.join(IMAGES);
        check_presence(&folder, &names)?;
        let header = |path: &Path| header_shape(path).and_then(|[_, height, width]| check_size(path, [height, width]));
        let files: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        check_headers(&folder, &files, header, progress)?;
        Ok(CelebA { folder, names, channels, size })
    }
}

impl Source for CelebA {
    fn len(&self) -> usize {
        self.names.len()
    }

    fn shape(&self) -> [usize; 3] {
        [self.channels, self.size, self.size]
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        let path = self.folder.join(&self.names[index]);
        let pixels = decode(&path)?;
        check_size(&path, [pixels.height, pixels.width])?;
        pixels_u8.copy_from_slice(&prepare(center_crop(&pixels, CROP, CROP), self.channels, self.size));
        Ok(())
    }
}

fn missing(root: &Path) -> Error {
    Error::MissingData(format!(
        "CelebA is not in {0}. It cannot be downloaded automatically, because its site hands it out by hand: from \
         https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html get img_align_celeba.zip (\"Align&Cropped Images\") and \
         {PARTITION} (\"Train/Val/Test Partitions\"), unpack the first, and put them so that these exist: \
         {0}/{PARTITION} and {0}/{IMAGES}/000001.jpg",
        shown_path(root)
    ))
}

/// The file names of a split, from lines such as `000001.jpg 0`.
fn names_of_split(list: &Path, split: Split) -> Result<Vec<String>> {
    let bytes = read_at_most(list, MAX_LIST_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Error::format(list, "found bytes that are no UTF-8 text"))?;
    // Some editors mark UTF-8 so.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let wanted = match split {
        Split::Train => "0",
        Split::Validation => "1",
        Split::Test => "2",
    };
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [name, part @ ("0" | "1" | "2")] if is_plain_name(name) => {
                if part == wanted {
                    names.push(name.to_string());
                }
            }
            _ => {
                let shown: String = line.chars().take(80).collect();
                let expected = "a file name without folders and 0, 1 or 2, such as \"000001.jpg 0\"";
                return Err(Error::format(list, format!("line {}: found {shown:?}, expected {expected}", number + 1)));
            }
        }
    }
    Ok(names)
}

/// Whether joining the name to a folder stays inside that folder, on every system, and messages can quote it.
fn is_plain_name(name: &str) -> bool {
    !name.starts_with('.') && !name.contains(['/', '\\', ':']) && !name.contains(char::is_control)
}

fn check_size(path: &Path, [height, width]: [usize; 2]) -> Result<()> {
    if height < CROP || width < CROP {
        let message = format!("{width}×{height} pixels; the aligned images of CelebA have 178×218");
        return Err(Error::format(path, message));
    }
    Ok(())
}

/// Finds out now, and not hours into a run, that the archive was only partly unpacked.
fn check_presence(folder: &Path, names: &[String]) -> Result<()> {
    let mut present = HashSet::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        present.insert(entry.map_err(Error::io(folder))?.file_name());
    }
    let mut absent = names.iter().filter(|name| !present.contains(name.as_ref() as &std::ffi::OsStr));
    let Some(first) = absent.next() else { return Ok(()) };
    let message = format!(
        "{}: {} of the {} images that {PARTITION} names are missing, the first being {first}; unpack all of \
         img_align_celeba.zip",
        shown_path(folder),
        1 + absent.count(),
        names.len()
    );
    Err(Error::MissingData(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::jpeg::testing::baseline;
    use super::super::unwatched;
    use super::*;

    fn celeba(list: &str, subfolder: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join(subfolder);
        fs::create_dir_all(base.join(IMAGES)).unwrap();
        fs::write(base.join(PARTITION), list).unwrap();
        for (name, grey) in [("1.jpg", 50_u8), ("2.jpg", 100), ("3.jpg", 150)] {
            // A white margin outside the central 140 pixels.
            let pixel = |i: usize| {
                let (x, y) = (i % 178, i / 178);
                [if (19..159).contains(&x) && (39..179).contains(&y) { grey } else { 255 }; 3]
            };
            let pixels_u8: Vec<u8> = (0..178 * 218).flat_map(pixel).collect();
            fs::write(base.join(IMAGES).join(name), baseline(&pixels_u8, 178)).unwrap();
        }
        root
    }

    #[test]
    fn the_list_decides_the_split_and_the_margin_is_cropped_away() {
        for subfolder in ["", "celeba"] {
            let root = celeba("\u{feff}1.jpg 0\n2.jpg 1\r\n3.jpg  2\n\n", subfolder);
            for (split, grey) in [(Split::Train, 50), (Split::Validation, 100), (Split::Test, 150)] {
                let data = CelebA::open(root.path(), split, 3, 32, &mut unwatched).unwrap();
                assert_eq!((data.len(), data.shape()), (1, [3, 32, 32]));
                let mut pixels_u8 = vec![0; 3 * 32 * 32];
                data.read(0, &mut pixels_u8).unwrap();
                // The middle, far from the edge where JPEG rings; a constant block is exact to 1 level.
                assert!(pixels_u8[16 * 32 + 16].abs_diff(grey) <= 1);
            }
        }
    }

    #[test]
    fn missing_files_are_explained() {
        let root = tempfile::tempdir().unwrap();
        let error = CelebA::open(root.path(), Split::Train, 3, 32, &mut unwatched).unwrap_err();
        assert!(matches!(error, Error::MissingData(_)));
        let message = error.to_string();
        assert!(message.contains("img_align_celeba.zip") && message.contains(PARTITION), "{message}");
    }

    #[test]
    fn images_that_were_not_unpacked_are_counted() {
        let root = celeba("1.jpg 0\n8.jpg 0\n9.jpg 0\n", "");
        let message = CelebA::open(root.path(), Split::Train, 3, 32, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("2 of the 3 images") && message.contains("8.jpg"), "{message}");
    }

    #[test]
    fn images_that_are_cut_are_named_before_the_first_is_used() {
        let root = celeba("1.jpg 0\n2.jpg 0\n3.jpg 0\n", "");
        for name in ["1.jpg", "3.jpg"] {
            let path = root.path().join(IMAGES).join(name);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        }
        let message = CelebA::open(root.path(), Split::Train, 3, 32, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("2 of 3 image files cannot be used"), "{message}");
        assert!(message.contains("1.jpg: the JPEG file ends too early") && !message.contains("2.jpg"), "{message}");
    }

    #[test]
    fn malformed_and_hostile_lines_are_refused_with_their_number() {
        for line in [
            "../1.jpg 0",
            "/etc/passwd 0",
            "a\\b.jpg 0",
            "C:1.jpg 0",
            ".. 0",
            "1\u{1b}[31m.jpg 0",
            "1.jpg",
            "1.jpg 3",
            "1.jpg 0 0",
        ] {
            let root = celeba(&format!("1.jpg 0\n\n{line}\n"), "");
            let message = CelebA::open(root.path(), Split::Train, 3, 32, &mut unwatched).unwrap_err().to_string();
            assert!(message.contains("line 3"), "{line}: {message}");
        }
    }

    #[test]
    fn an_image_smaller_than_the_crop_is_refused() {
        let root = celeba("1.jpg 0\n", "");
        let path = root.path().join(IMAGES).join("1.jpg");
        fs::write(&path, baseline(&[0; 3 * 139 * 218], 139)).unwrap();
        let message = CelebA::open(root.path(), Split::Train, 3, 32, &mut unwatched).unwrap_err().to_string();
        assert!(message.contains("1.jpg: 139×218 pixels"), "{message}");
    }
}
