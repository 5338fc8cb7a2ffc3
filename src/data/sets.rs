//! The published data sets: found on disk, or downloaded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::data::download::{self, RemoteFile, fetch};
use crate::data::memory::InMemory;
use crate::data::{Labelled, Progress, Split, cifar, idx, mat};
use crate::error::{Error, Result, few, shown_path};

/// Whether files that are not there may be downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Download {
    /// From the set's public address.
    Allowed,
    /// Use only what is on disk.
    Never,
}

/// MNIST's images of one split, shape `[1, 28, 28]`, from an IDX file, gzipped or not, in `folder`, `folder/raw` or
/// `folder/MNIST/raw`. `progress` is told a download's bytes so far and in all.
///
/// # Errors
/// [`Error::MissingData`] when the file is neither there nor to be had, with the names that are accepted; [`Error::Io`]
/// and [`Error::Format`] when it is there and cannot be read: it is never replaced.
pub fn mnist(folder: &Path, split: Split, download: Download, progress: &mut Progress<'_>) -> Result<InMemory> {
    let (stem, remote) = match split {
        Split::Train => ("train-images", &download::MNIST_TRAIN),
        Split::Test | Split::Validation => ("t10k-images", &download::MNIST_TEST),
    };
    idx::read_images(&mnist_file(folder, [stem, "idx3-ubyte"], remote, download, progress)?)
}

/// [`mnist`] with the images' labels, from an IDX file in any of the same places.
///
/// # Errors
/// As for [`mnist`]; [`Error::Format`] too when there are not as many labels as images, or one is above 9.
pub fn mnist_labelled(
    folder: &Path,
    split: Split,
    download: Download,
    progress: &mut Progress<'_>,
) -> Result<Labelled> {
    let images = mnist(folder, split, download, progress)?;
    let (stem, remote) = match split {
        Split::Train => ("train-labels", &download::MNIST_TRAIN_LABELS),
        Split::Test | Split::Validation => ("t10k-labels", &download::MNIST_TEST_LABELS),
    };
    let path = mnist_file(folder, [stem, "idx1-ubyte"], remote, download, progress)?;
    Labelled::new(images, idx::read_labels(&path)?).map_err(|error| Error::format(&path, error.to_string()))
}

/// Where one of MNIST's files is; its name is `stem` and `ending`.
fn mnist_file(
    folder: &Path,
    [stem, ending]: [&str; 2],
    remote: &RemoteFile<'_>,
    download: Download,
    progress: &mut Progress<'_>,
) -> Result<PathBuf> {
    let mut names = Vec::new();
    for place in ["", "raw/", "MNIST/raw/"] {
        for name in [format!("{stem}-{ending}"), format!("{stem}.{ending}")] {
            names.push(format!("{place}{name}"));
            names.push(format!("{place}{name}.gz"));
        }
    }
    let accepted = names.join("\n  ");
    find_or_fetch("MNIST", folder, &names, &accepted, remote, download, progress)
}

/// SVHN's images of one split (cropped digits), shape `[3, 32, 32]`, from `train_32x32.mat` or `test_32x32.mat` in
/// `folder`. `progress` is told a download's bytes so far and in all.
///
/// # Errors
/// As for [`mnist`].
pub fn svhn(folder: &Path, split: Split, download: Download, progress: &mut Progress<'_>) -> Result<InMemory> {
    mat::read_images(&svhn_file(folder, split, download, progress)?)
}

/// [`svhn`] with the images' labels, from the same file.
///
/// # Errors
/// As for [`svhn`]; [`Error::Format`] too when there are not as many labels as images, or one is no digit.
pub fn svhn_labelled(folder: &Path, split: Split, download: Download, progress: &mut Progress<'_>) -> Result<Labelled> {
    let path = svhn_file(folder, split, download, progress)?;
    let (images, labels_u8) = (mat::read_images(&path)?, mat::read_labels(&path)?);
    Labelled::new(images, labels_u8).map_err(|error| Error::format(&path, error.to_string()))
}

fn svhn_file(folder: &Path, split: Split, download: Download, progress: &mut Progress<'_>) -> Result<PathBuf> {
    let remote = match split {
        Split::Train => &download::SVHN_TRAIN,
        Split::Test | Split::Validation => &download::SVHN_TEST,
    };
    let names = [remote.name.to_owned()];
    find_or_fetch("SVHN", folder, &names, remote.name, remote, download, progress)
}

/// CIFAR-10's images of one split, shape `[3, 32, 32]`, from the binary or the python version, in `folder` or in the
/// subfolder that the published archive makes. The binary version's archive itself is unpacked. `progress` is told a
/// download's bytes so far and in all.
///
/// # Errors
/// As for [`mnist`].
pub fn cifar10(folder: &Path, split: Split, download: Download, progress: &mut Progress<'_>) -> Result<InMemory> {
    cifar10_labelled(folder, split, download, progress).map(Labelled::into_images)
}

/// [`cifar10`] with the images' labels, from the same files.
///
/// # Errors
/// As for [`cifar10`].
pub fn cifar10_labelled(
    folder: &Path,
    split: Split,
    download: Download,
    progress: &mut Progress<'_>,
) -> Result<Labelled> {
    let missing = match find_cifar10(folder, split)? {
        Cifar10::Found(labelled) => return Ok(labelled),
        Cifar10::Missing(paths) => paths,
    };
    let (bin, python) = match split {
        Split::Train => ("data_batch_1.bin to data_batch_5.bin", "data_batch_1 to data_batch_5"),
        Split::Test | Split::Validation => ("test_batch.bin", "test_batch"),
    };
    let remote = &download::CIFAR10;
    let accepted = format!(
        "{bin}, in the folder itself or in {}/\n  {python} (the python version), in the folder itself or in {}/\n  {}",
        cifar::FOLDER_BIN,
        cifar::FOLDER_PYTHON,
        remote.name
    );
    let names = [remote.name.to_owned()];
    if !missing.is_empty() && !is_there(&folder.join(remote.name))? {
        let missing: Vec<String> = missing.iter().map(|path| shown_path(path)).collect();
        return Err(Error::MissingData(format!(
            "CIFAR-10 is incomplete: {} not there, beside the others; put there what is missing, or move the others away and all of \
             it is downloaded",
            few(&missing)
        )));
    }
    let archive = find_or_fetch("CIFAR-10", folder, &names, &accepted, remote, download, progress)?;
    cifar::unpack(&archive, folder)?;
    match find_cifar10(folder, split)? {
        Cifar10::Found(labelled) => Ok(labelled),
        Cifar10::Missing(_) => Err(Error::format(&archive, "was unpacked, but its files are not there")),
    }
}

/// What there is of a split.
enum Cifar10 {
    /// The images, with their labels, of the first folder that has all files.
    Found(Labelled),
    /// In the first folder that has some of the files, those that it lacks; none if there is no such folder.
    Missing(Vec<PathBuf>),
}

fn find_cifar10(folder: &Path, split: Split) -> Result<Cifar10> {
    let mut missing = Vec::new();
    let batches = match split {
        Split::Train => &cifar::BATCHES[..5],
        Split::Test | Split::Validation => &cifar::BATCHES[5..],
    };
    for place in [folder.to_path_buf(), folder.join(cifar::FOLDER_BIN), folder.join(cifar::FOLDER_PYTHON)] {
        for ending in [".bin", ""] {
            let paths: Vec<_> = batches.iter().map(|name| place.join(format!("{name}{ending}"))).collect();
            let mut absent = Vec::new();
            for path in &paths {
                if !is_there(path)? {
                    absent.push(path.clone());
                }
            }
            if absent.is_empty() {
                let read = if ending.is_empty() { cifar::read_pickle } else { cifar::read_bin };
                return read(&paths).map(Cifar10::Found);
            }
            if missing.is_empty() && absent.len() < paths.len() {
                missing = absent;
            }
        }
    }
    Ok(Cifar10::Missing(missing))
}

/// The first of `names` that is in `folder`, or else the download of `remote`. `accepted` tells the user the names.
fn find_or_fetch(
    set: &str,
    folder: &Path,
    names: &[String],
    accepted: &str,
    remote: &RemoteFile<'_>,
    download: Download,
    progress: &mut Progress<'_>,
) -> Result<PathBuf> {
    for name in names {
        let path = folder.join(name);
        if is_there(&path)? {
            return Ok(path);
        }
    }
    let why = match download {
        Download::Never => "Downloads are switched off.".to_owned(),
        Download::Allowed => match fetch(remote, folder, progress) {
            Ok(path) => return Ok(path),
            Err(error @ Error::Stopped(_)) => return Err(error),
            Err(error) => format!("The download failed: {error}"),
        },
    };
    Err(Error::MissingData(format!(
        "{set} is not in {}. Put there one of\n  {accepted}\nThe published file is {} ({} bytes). {why}",
        shown_path(folder),
        remote.url,
        remote.n_bytes
    )))
}

/// Whether something that is no folder is at `path`: what is no regular file is refused by its name when it is read. A place that
/// cannot be looked at is an error, lest it be taken for empty.
fn is_there(path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(!metadata.is_dir()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(source) => Err(Error::Io { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::data::Source;
    use crate::data::download::Digest;

    fn idx_file(pixel: u8) -> Vec<u8> {
        [&[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2][..], &[pixel; 4]].concat()
    }

    fn cifar_file(pixel: u8) -> Vec<u8> {
        [&[5][..], &[pixel; 3072]].concat()
    }

    fn write(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    type Reader = fn(&Path, Split, Download, &mut Progress<'_>) -> Result<InMemory>;

    fn never(read: Reader, folder: &Path, split: Split) -> Result<InMemory> {
        read(folder, split, Download::Never, &mut |_, _| panic!("no download was allowed"))
    }

    #[test]
    fn mnist_is_found_under_every_accepted_name() {
        for name in [
            "train-images-idx3-ubyte",
            "train-images-idx3-ubyte.gz",
            "train-images.idx3-ubyte",
            "train-images.idx3-ubyte.gz",
            "raw/train-images-idx3-ubyte",
            "MNIST/raw/train-images-idx3-ubyte.gz",
        ] {
            let folder = tempfile::tempdir().unwrap();
            write(&folder.path().join(name), &idx_file(7));
            assert_eq!(never(mnist, folder.path(), Split::Train).unwrap().pixels_u8(), [7; 4]);
            let error = never(mnist, folder.path(), Split::Test).unwrap_err();
            assert!(error.to_string().contains("t10k-images-idx3-ubyte.gz\n"), "{error}");
        }
    }

    #[test]
    fn cifar_is_found_in_every_layout_and_in_the_order_of_its_files() {
        for place in ["", "cifar-10-batches-bin/", "cifar-10-batches-py/"] {
            let folder = tempfile::tempdir().unwrap();
            for (i, name) in cifar::BATCHES.iter().enumerate() {
                write(&folder.path().join(format!("{place}{name}.bin")), &cifar_file(i as u8));
            }
            let train = never(cifar10, folder.path(), Split::Train).unwrap();
            let firsts: Vec<_> = train.pixels_u8().chunks(3072).map(|image| image[0]).collect();
            assert_eq!(firsts, [0, 1, 2, 3, 4]);
            let test = never(cifar10, folder.path(), Split::Test).unwrap();
            assert_eq!((test.len(), test.pixels_u8()[0]), (1, 5));
        }
    }

    #[test]
    fn a_missing_batch_is_named_and_nothing_is_downloaded() {
        let folder = tempfile::tempdir().unwrap();
        for name in [cifar::BATCHES[0], cifar::BATCHES[1], cifar::BATCHES[3], cifar::BATCHES[4]] {
            write(&folder.path().join(format!("cifar-10-batches-bin/{name}.bin")), &cifar_file(1));
        }
        let read = |download| {
            cifar10(folder.path(), Split::Train, download, &mut |_, _| panic!("a download")).unwrap_err().to_string()
        };
        for download in [Download::Allowed, Download::Never] {
            let message = read(download);
            let missing = folder.path().join("cifar-10-batches-bin/data_batch_3.bin");
            assert!(message.contains(&format!("CIFAR-10 is incomplete: {} not there", missing.display())), "{message}");
        }
        // The archive beside them fills the gap, or is what is wrong.
        write(&folder.path().join("cifar-10-binary.tar.gz"), b"broken");
        assert!(read(Download::Allowed).contains("cifar-10-binary.tar.gz: "));
    }

    #[test]
    fn the_python_version_is_found_and_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("cifar-10-batches-py/test_batch"), b"\x80\x02cos\nsystem\n.");
        let error = never(cifar10, folder.path(), Split::Test).unwrap_err();
        assert!(error.to_string().contains("refuses to load os.system"), "{error}");
    }

    #[test]
    fn what_is_missing_is_told_with_every_accepted_name() {
        let folder = tempfile::tempdir().unwrap();
        let message = |read: Reader, split| {
            let error = never(read, folder.path(), split).unwrap_err();
            assert!(matches!(error, Error::MissingData(_)), "{error:?}");
            error.to_string()
        };
        let place = folder.path().display();
        assert_eq!(
            message(svhn, Split::Test),
            format!(
                "SVHN is not in {place}. Put there one of\n  test_32x32.mat\nThe published file is \
                 http://ufldl.stanford.edu/housenumbers/test_32x32.mat (64275384 bytes). Downloads are switched off."
            )
        );
        let mnist = message(mnist, Split::Train);
        for name in ["train-images-idx3-ubyte\n", "train-images-idx3-ubyte.gz\n", "MNIST/raw/train-images.idx3-ubyte\n"]
        {
            assert!(mnist.contains(name), "{mnist}");
        }
        let train = message(cifar10, Split::Train);
        assert!(
            train.contains("data_batch_1.bin to data_batch_5.bin, in the folder itself or in cifar-10-batches-bin/")
        );
        assert!(train.contains("data_batch_1 to data_batch_5 (the python version)"), "{train}");
        assert!(train.contains("\n  cifar-10-binary.tar.gz\n"), "{train}");
        let test = message(cifar10, Split::Test);
        assert!(test.contains("\n  test_batch.bin, in") && test.contains("\n  test_batch (the python"), "{test}");
    }

    #[test]
    fn a_broken_file_is_an_error_and_stays_even_if_downloads_are_allowed() {
        let folder = tempfile::tempdir().unwrap();
        let names: [(Reader, &str); 4] = [
            (mnist, "t10k-images-idx3-ubyte.gz"),
            (svhn, "test_32x32.mat"),
            (cifar10, "test_batch.bin"),
            (cifar10, "cifar-10-binary.tar.gz"),
        ];
        for (read, name) in names {
            let path = folder.path().join(name);
            write(&path, b"broken");
            let error =
                read(folder.path(), Split::Test, Download::Allowed, &mut |_, _| panic!("a download")).unwrap_err();
            assert!(matches!(&error, Error::Format { path: of, .. } if *of == path), "{error:?}");
            assert_eq!(fs::read(&path).unwrap(), b"broken");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_failed_download_is_told_beside_the_accepted_names() {
        let folder = tempfile::tempdir().unwrap();
        let remote = RemoteFile { url: "http://127.0.0.1:1/x.mat", name: "x.mat", digest: Digest::Md5(""), n_bytes: 1 };
        let names = ["x.mat".to_owned()];
        let error = find_or_fetch("SET", folder.path(), &names, "x.mat", &remote, Download::Allowed, &mut |_, _| {
            ControlFlow::Continue(())
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("Put there one of\n  x.mat\n"), "{error}");
        assert!(error.contains("(1 bytes). The download failed: http://127.0.0.1:1/x.mat: "), "{error}");
    }

    fn never_labelled<T>(
        read: impl Fn(&Path, Split, Download, &mut Progress<'_>) -> Result<T>,
        folder: &Path,
    ) -> Result<T> {
        read(folder, Split::Train, Download::Never, &mut |_, _| panic!("no download was allowed"))
    }

    #[test]
    fn mnist_s_labels_are_found_under_every_accepted_name_and_must_fit_the_images() {
        let label_file = |labels: &[u8]| [&[0, 0, 8, 1, 0, 0, 0, labels.len() as u8], labels].concat();
        for place in ["", "raw/", "MNIST/raw/"] {
            for name in [
                "train-labels-idx1-ubyte",
                "train-labels-idx1-ubyte.gz",
                "train-labels.idx1-ubyte",
                "train-labels.idx1-ubyte.gz",
            ] {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(format!("{place}{name}"));
                write(&folder.path().join("train-images-idx3-ubyte"), &idx_file(7));
                let error = never_labelled(mnist_labelled, folder.path()).unwrap_err();
                assert!(matches!(error, Error::MissingData(_)), "{error:?}");
                assert!(error.to_string().contains("\n  raw/train-labels-idx1-ubyte.gz\n"), "{error}");
                assert!(error.to_string().contains("train-labels-idx1-ubyte.gz (28881 bytes)"), "{error}");
                write(&path, &label_file(&[9]));
                let found = never_labelled(mnist_labelled, folder.path()).unwrap();
                assert_eq!((found.images().pixels_u8(), found.labels_u8()), (&[7; 4][..], &[9][..]));
                for (labels, message) in [
                    (&[1, 2][..], ": found 2 labels, expected 1, one an image"),
                    (&[10], ": label 0 is 10, expected 0 to 9"),
                ] {
                    write(&path, &label_file(labels));
                    let error = never_labelled(mnist_labelled, folder.path()).unwrap_err();
                    assert!(matches!(&error, Error::Format { path: of, .. } if *of == path), "{error:?}");
                    assert!(error.to_string().ends_with(message), "{error}");
                }
            }
        }
    }

    #[test]
    fn cifar_s_labels_come_with_its_images() {
        let folder = tempfile::tempdir().unwrap();
        for (i, name) in cifar::BATCHES.iter().enumerate() {
            let record = [&[9 - i as u8][..], &[i as u8; 3072]].concat();
            write(&folder.path().join(format!("{name}.bin")), &record);
        }
        let found = never_labelled(cifar10_labelled, folder.path()).unwrap();
        assert_eq!(found.labels_u8(), [9, 8, 7, 6, 5]);
        assert_eq!(found.images(), &never(cifar10, folder.path(), Split::Train).unwrap());
    }
}
