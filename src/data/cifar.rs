//! CIFAR-10, in its binary and its python-pickle version.
//!
//! Source: <https://www.cs.toronto.edu/~kriz/cifar.html>.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

use crate::data::bounded::{self, Gzip, read_exactly};
use crate::data::memory::InMemory;
use crate::data::{Labelled, N_CLASSES};
use crate::error::{Error, Result};
use crate::file::{open_regular, read_at_most, write_atomically};
use crate::pickle::{Names, Pickle, Value};

/// Red, green and blue, each 32 rows of 32 pixels.
const SHAPE: [usize; 3] = [3, 32, 32];
const N_PIXELS: usize = 3 * 32 * 32;
/// A published file of either version holds 10,000 images.
const N_BYTES_PUBLISHED: u64 = 10_000 * (1 + N_PIXELS as u64);

/// The folder inside the archive of the binary version.
pub const FOLDER_BIN: &str = "cifar-10-batches-bin";
/// The folder inside the archive of the python version.
pub const FOLDER_PYTHON: &str = "cifar-10-batches-py";
/// The files of the python version; the binary version adds `.bin`. The first five are the training images.
pub const BATCHES: [&str; 6] =
    ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];

/// The images of files of the binary version and their labels, in the order of `paths`: any number of records of one label
/// and 3072 pixels. Shape `[3, 32, 32]`.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Format`] when it is empty, is not a whole number of records, or
/// has a label above 9.
pub fn read_bin(paths: &[PathBuf]) -> Result<Labelled> {
    let (mut pixels_u8, mut labels_u8) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = read_file(path)?;
        let (records, rest) = bytes.as_chunks::<{ 1 + N_PIXELS }>();
        if records.is_empty() || !rest.is_empty() {
            let message = format!(
                "has {} bytes; expected CIFAR-10's binary version, a multiple of {} (the published files have {})",
                bytes.len(),
                1 + N_PIXELS,
                N_BYTES_PUBLISHED
            );
            return Err(Error::format(path, message));
        }
        pixels_u8.reserve_exact(records.len() * N_PIXELS);
        for (i, [label, pixels @ ..]) in records.iter().enumerate() {
            if usize::from(*label) >= N_CLASSES {
                let message =
                    format!("record {i} has label {label}; expected CIFAR-10's binary version, labels 0 to 9");
                return Err(Error::format(path, message));
            }
            labels_u8.push(*label);
            pixels_u8.extend_from_slice(pixels);
        }
    }
    Labelled::new(InMemory::new(pixels_u8, SHAPE)?, labels_u8)
}

/// The images of files of the python version and their labels, in the order of `paths`: pickled dicts with `data`, a `u8`
/// array `[n, 3072]`, and `labels`, a list of `n` integers. Shape `[3, 32, 32]`. Nothing in the files is executed.
///
/// # Errors
/// [`Error::Io`] when a file cannot be read; [`Error::Format`] when it is not such a pickle or names any function that
/// an array of `u8` does not need.
pub fn read_pickle(paths: &[PathBuf]) -> Result<Labelled> {
    let (mut pixels_u8, mut labels_u8) = (Vec::new(), Vec::new());
    for path in paths {
        let bytes = read_file(path)?;
        let pickle = Pickle::parse(path, &bytes, Names::NumpyU8)?;
        let (Some(data), Some(labels)) = (pickle.get(pickle.root(), "data"), pickle.get(pickle.root(), "labels"))
        else {
            let message = "is no batch of CIFAR-10: expected a dict with the keys 'data' and 'labels'";
            return Err(Error::format(path, message));
        };
        let (shape, items) = pickle.array_u8(data).map_err(|why| Error::format(path, format!("'data' {why}")))?;
        let n_images = match shape[..] {
            [n_images, N_PIXELS] if n_images > 0 => n_images,
            _ => return Err(Error::format(path, format!("'data' has shape {shape:?}; expected [n, {N_PIXELS}]"))),
        };
        let label = |value: &Value<'_>| match value {
            Value::Int(label) => u8::try_from(*label).ok().filter(|&label| usize::from(label) < N_CLASSES),
            _ => None,
        };
        let labels: Option<Vec<u8>> = match labels {
            Value::List(ids) if ids.len() == n_images => ids.iter().map(|&id| label(pickle.value(id))).collect(),
            _ => None,
        };
        let Some(labels) = labels else {
            let message = format!("'labels' is not a list of {n_images} integers from 0 to 9");
            return Err(Error::format(path, message));
        };
        labels_u8.extend(labels);
        pixels_u8.extend_from_slice(&items);
    }
    Labelled::new(InMemory::new(pixels_u8, SHAPE)?, labels_u8)
}

/// Unpacks the binary version's archive: writes its six files, and nothing else that it may hold, into
/// `folder/cifar-10-batches-bin`, each under a temporary name first. Files that are already there stay.
///
/// # Errors
/// [`Error::Io`] when a file cannot be written; [`Error::Format`] when the archive is broken or lacks one of the files,
/// or when a file that is already there differs from the archive's: mixed, images could occur twice or not at all.
pub fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    let (file, _) = open_regular(archive)?;
    let folder = folder.join(FOLDER_BIN);
    fs::create_dir_all(&folder).map_err(Error::io(&folder))?;

    // Room for the six files, the other two published ones and tar's own headers: a bomb ends here.
    let unpacked = Gzip::new(BufReader::new(file)).take(BATCHES.len() as u64 * N_BYTES_PUBLISHED + (1 << 20));
    let broken = |source| bounded::read_error(archive, "its tar.gz", source);
    let mut tar = tar::Archive::new(unpacked);
    let mut missing: Vec<String> = BATCHES.iter().map(|name| format!("{name}.bin")).collect();
    // Raw: extensions, which could hold names of any length, count as files of their own and are passed over.
    for entry in tar.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let place = entry.path_bytes();
        // `tar -C folder .` puts this in front of all names.
        let place = place.strip_prefix(b"./").unwrap_or(&place);
        let is_wanted = |name: &String| place == format!("{FOLDER_BIN}/{name}").as_bytes();
        let Some(i) = missing.iter().position(is_wanted) else { continue };
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let n_bytes = entry.size();
        if n_bytes > N_BYTES_PUBLISHED {
            let message = format!("{}: {n_bytes} bytes; expected at most {N_BYTES_PUBLISHED}", missing[i]);
            return Err(Error::format(archive, message));
        }
        let path = folder.join(missing.swap_remove(i));
        let bytes = read_exactly(&mut entry, n_bytes, archive, "its tar.gz")?;
        if !path.exists() {
            write_atomically(&path, |out| out.write_all(&bytes))?;
        } else if read_file(&path)? != bytes {
            let message = format!("differs from the file in {}: move one of them away", archive.display());
            return Err(Error::format(&path, message));
        }
    }
    if !missing.is_empty() {
        missing.sort();
        let message = format!("is not the archive of CIFAR-10's binary version: {FOLDER_BIN}/{} not in it", missing[0]);
        return Err(Error::format(archive, message));
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    read_at_most(path, bounded::MAX_BYTES)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::data::Source;

    fn pixels(n_images: usize) -> Vec<u8> {
        (0..n_images * N_PIXELS).map(|i| (i % 251) as u8).collect()
    }

    fn bin(labels: &[u8]) -> Vec<u8> {
        let pixels = pixels(labels.len());
        labels.iter().zip(pixels.chunks(N_PIXELS)).flat_map(|(&label, image)| [&[label], image].concat()).collect()
    }

    /// A batch as Python 2 wrote the published files, with `data` of shape `[n, width]`.
    fn python_2(labels: &[u8], pixels: &[u8], width: u16) -> Vec<u8> {
        let mut bytes =
            b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(".to_vec();
        bytes.extend(labels.iter().flat_map(|&label| [b'K', label]));
        bytes.extend(b"eU\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01K");
        bytes.extend([labels.len() as u8, b'M']);
        bytes.extend(width.to_le_bytes());
        bytes.extend(b"\x86cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T");
        bytes.extend((pixels.len() as u32).to_le_bytes());
        bytes.extend(pixels);
        bytes.extend(b"tbU\tfilenamesq\x0c]q\x0d(U\x05a.pngq\x0eU\x05b.pngq\x0feu.");
        bytes
    }

    fn with_files<T>(contents: &[&[u8]], read: impl Fn(&[PathBuf]) -> Result<T>) -> Result<T> {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..contents.len()).map(|i| folder.path().join(format!("batch_{i}"))).collect();
        for (path, content) in paths.iter().zip(contents) {
            fs::write(path, content).unwrap();
        }
        read(&paths)
    }

    #[test]
    fn both_versions_give_the_same_images_and_labels_in_order() {
        let expected = [pixels(2), pixels(1)].concat();
        let from_bin = with_files(&[&bin(&[3, 9]), &bin(&[0])], read_bin).unwrap();
        assert_eq!((from_bin.images().len(), from_bin.images().shape()), (3, [3, 32, 32]));
        assert_eq!(from_bin.images().pixels_u8(), expected);
        assert_eq!(from_bin.labels_u8(), [3, 9, 0]);
        let files = [python_2(&[3, 9], &pixels(2), 3072), python_2(&[0], &pixels(1), 3072)];
        assert_eq!(with_files(&[&files[0], &files[1]], read_pickle).unwrap(), from_bin);
    }

    #[test]
    fn a_binary_file_must_be_whole_records_with_labels_below_ten() {
        let message = |bytes: &[u8]| with_files(&[bytes], read_bin).unwrap_err().to_string();
        assert!(message(b"").contains("has 0 bytes; expected CIFAR-10's binary version, a multiple of 3073"));
        assert!(message(&bin(&[1, 2])[..6000]).contains("has 6000 bytes"));
        assert!(message(&bin(&[1, 10])).contains("record 1 has label 10"));
        assert!(message(&python_2(&[1], &pixels(1), 3072)).contains("expected CIFAR-10's binary version"));
    }

    #[test]
    fn a_pickle_must_hold_pixels_and_as_many_labels_below_ten() {
        let message = |bytes: &[u8]| with_files(&[bytes], read_pickle).unwrap_err().to_string();
        assert!(message(&bin(&[1])).contains("is no Python pickle"));
        assert!(message(b"\x80\x02}.").contains("expected a dict with the keys 'data' and 'labels'"));
        assert!(message(b"\x80\x02}(U\x04dataNU\x06labelsNu.").contains("'data' is no numpy array"));
        assert!(message(&python_2(&[1], &[0; 768], 768)).contains("'data' has shape [1, 768]; expected [n, 3072]"));
        assert!(message(&python_2(&[1], &pixels(1)[1..], 3072)).contains("shape [1, 3072] with 3071 items"));
        assert!(message(&python_2(&[1, 10], &pixels(2), 3072)).contains("'labels' is not a list of 2 integers"));
        // CIFAR-100 has the same 'data', but 'fine_labels'.
        let mut cifar_100 = python_2(&[1], &pixels(1), 3072);
        let at = cifar_100.windows(6).position(|part| part == b"labels").unwrap();
        cifar_100[at..at + 6].copy_from_slice(b"fine_l");
        assert!(message(&cifar_100).contains("expected a dict with the keys"));
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut builder = tar::Builder::new(encoder);
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            // `set_path` refuses `..`, which a hostile archive may well hold.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn names_of_batches() -> Vec<String> {
        BATCHES.iter().map(|name| format!("{FOLDER_BIN}/{name}.bin")).collect()
    }

    #[test]
    fn unpacking_writes_the_six_files_and_nothing_else() {
        for prefix in ["", "./"] {
            unpacks(prefix);
        }
    }

    fn unpacks(prefix: &str) {
        let (names, content) = (names_of_batches(), bin(&[7]));
        let stored: Vec<String> = names.iter().map(|name| format!("{prefix}{name}")).collect();
        let mut files: Vec<(&str, &[u8])> = stored.iter().map(|name| (name.as_str(), &content[..])).collect();
        files.insert(0, ("../evil.bin", b"evil"));
        files.insert(3, ("cifar-10-batches-bin/readme.html", b"hello"));
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("cifar10");
        fs::create_dir_all(inside.join(FOLDER_BIN)).unwrap();
        fs::write(inside.join(&names[2]), &content).unwrap();
        let path = folder.path().join("a.tar.gz");
        fs::write(&path, archive(&files)).unwrap();

        unpack(&path, &inside).unwrap();
        let paths: Vec<_> = names.iter().map(|name| inside.join(name)).collect();
        assert_eq!(read_bin(&paths).unwrap().images().pixels_u8(), pixels(1).repeat(6));
        assert_eq!(fs::read_dir(inside.join(FOLDER_BIN)).unwrap().count(), 6);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

        fs::write(&paths[2], "the user's own").unwrap();
        let error = unpack(&path, &inside).unwrap_err().to_string();
        assert!(error.contains("data_batch_3.bin: differs from the file in"), "{error}");
        assert_eq!(fs::read(&paths[2]).unwrap(), b"the user's own");
    }

    #[test]
    fn a_broken_archive_leaves_no_file_under_its_final_name() {
        let (names, content) = (names_of_batches(), bin(&[7]));
        let message = |bytes: &[u8]| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.tar.gz");
            fs::write(&path, bytes).unwrap();
            let error = unpack(&path, folder.path()).unwrap_err();
            assert!(matches!(error, Error::Format { .. }), "{error:?}");
            for file in fs::read_dir(folder.path().join(FOLDER_BIN)).unwrap() {
                assert_eq!(fs::read(file.unwrap().path()).unwrap(), content);
            }
            error.to_string()
        };
        let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &content[..])).collect();
        let whole = archive(&files);
        assert!(message(b"").contains("truncated"));
        assert!(message(b"<html>not an archive</html>").contains("is broken inside its tar.gz"));
        assert!(message(&whole[..whole.len() / 2]).contains("its tar.gz"));
        assert!(message(&archive(&files[..4])).contains("cifar-10-batches-bin/data_batch_5.bin not in it"));

        let mut header = tar::Header::new_ustar();
        header.set_path(&names[0]).unwrap();
        header.set_size(N_BYTES_PUBLISHED + 1);
        header.set_cksum();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(header.as_bytes()).unwrap();
        let too_large = encoder.finish().unwrap();
        assert!(message(&too_large).contains("data_batch_1.bin: 30730001 bytes; expected at most 30730000"));
    }
}
