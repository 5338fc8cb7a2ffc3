//! Files of reference statistics: NumPy's `.npz`, with `mu` and `sigma` as TTUR, pytorch-fid and EDM have them, and what they were
//! made with; or with all features as `pool_3`, as Score-SDE has them.

use std::io::Write;
use std::path::Path;

use super::npy::{self, Array};
use super::{Features, RunningStatistics, Statistics};
use crate::error::{Error, Result};
use crate::file;
use crate::zip::{self, Archive};

/// Larger files are refused before they are read: 50,000 × 2048 features in f64 are 0.8 GB.
const MAX_BYTES: u64 = 4 << 30;
/// The most features, those of VGG-16: a covariance's memory and its check grow with their square and cube, the features' file does
/// not.
const MAX_DIM: usize = 4096;
/// Where in the file arrays begin: at multiples of this, so that they can be mapped into memory.
const ALIGNMENT: usize = 64;

/// Statistics, and what they were made with, as far as the file says it.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticsFile {
    /// μ, Σ and n.
    pub statistics: Statistics,
    /// Network and layer: `inception-2015-12-05/2048`.
    pub extractor: Option<String>,
    /// The rule by which images were resized: `tf1`. Samples must be resized by the same.
    pub resize: Option<String>,
    /// The digest of the network's weights, in hexadecimal digits.
    pub weights_sha256: Option<String>,
}

/// Reads the statistics in `path`; those of the features, if it has only these.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no such file or its numbers cannot be statistics: shapes that do
/// not fit, a number that is not finite, a covariance that is not symmetric or has a negative eigenvalue.
pub fn read_statistics(path: &Path) -> Result<StatisticsFile> {
    parse_statistics(path, &file::read_at_most(path, MAX_BYTES)?)
}

/// [`read_statistics`] of `bytes`, the content of `path`.
fn parse_statistics(path: &Path, bytes: &[u8]) -> Result<StatisticsFile> {
    let archive = Npz { path, archive: Archive::open(path, bytes)? };
    let statistics = match (archive.numbers("mu")?, archive.numbers("sigma")?) {
        (Some((mu_shape, mu)), Some((sigma_shape, sigma))) => {
            let dim = mu.len();
            if mu_shape != [dim] || sigma_shape != [dim, dim] {
                let message = format!("mu has shape {mu_shape:?} and sigma {sigma_shape:?}, expected [d] and [d, d]");
                return Err(Error::format(path, message));
            }
            check_dim(path, dim)?;
            let n = archive.value("n", |array| array.integer())?;
            let n = n.map(|n| u64::try_from(n).map_err(|_| archive.bad("n", &format!("is {n}")))).transpose()?;
            Statistics::checked(n, mu, sigma).map_err(|message| Error::format(path, message))?
        }
        (None, None) => match archive.pool_3()? {
            Some((values, dim)) => statistics_of(path, &values, dim)?,
            None => return Err(Error::format(path, "has neither mu and sigma nor pool_3, expected one of them")),
        },
        (mu, _) => {
            let (found, missing) = if mu.is_some() { ("mu", "sigma") } else { ("sigma", "mu") };
            return Err(Error::format(path, format!("has {found} but no {missing}, expected both")));
        }
    };
    Ok(StatisticsFile {
        statistics,
        extractor: archive.value("extractor", |array| array.text())?,
        resize: archive.value("resize", |array| array.text())?,
        weights_sha256: archive.value("weights_sha256", |array| array.text())?,
    })
}

/// What a `.npz` file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NpzContent {
    /// Mean and covariance alone.
    Statistics,
    /// Features.
    Features,
    /// Neither: images, perhaps.
    Other,
}

impl NpzContent {
    /// Looks at the names in `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no such file.
    pub fn of(path: &Path) -> Result<Self> {
        let bytes = file::read_at_most(path, MAX_BYTES)?;
        let archive = Archive::open(path, &bytes)?;
        let has = |name: &str| archive.names().any(|found| found == name);
        Ok(match (has("pool_3.npy"), has("mu.npy") || has("sigma.npy")) {
            (true, _) => Self::Features,
            (false, true) => Self::Statistics,
            (false, false) => Self::Other,
        })
    }
}

/// Reads the features `pool_3` in `path`, if it has them: all numbers of `[n, dim]`, and `dim`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, [`Error::Format`] when it is no `.npz` file or `pool_3` no such array.
pub fn read_pool_3(path: &Path) -> Result<Option<(Vec<f32>, usize)>> {
    let bytes = file::read_at_most(path, MAX_BYTES)?;
    Npz { path, archive: Archive::open(path, &bytes)? }.pool_3()
}

/// Writes `path`, whole or not at all; other programs read `mu` and `sigma` and do not mind the rest. The same content gives the
/// same bytes.
///
/// # Errors
/// [`Error::Io`] when it cannot be written, [`Error::Usage`] when it would be larger than 4 GiB.
pub fn write_statistics(path: &Path, content: &StatisticsFile) -> Result<()> {
    let StatisticsFile { statistics, extractor, resize, weights_sha256 } = content;
    let dim = statistics.dim();
    let numbers =
        |shape: &[usize], values: &[f64]| npy::write("<f8", shape, values.iter().flat_map(|x| x.to_le_bytes()));
    let mut files =
        vec![("mu.npy", numbers(&[dim], statistics.mu())), ("sigma.npy", numbers(&[dim, dim], statistics.sigma()))];
    if let Some(n) = statistics.n() {
        files.push(("n.npy", npy::write("<i8", &[], n.to_le_bytes())));
    }
    for (name, text) in [("extractor.npy", extractor), ("resize.npy", resize), ("weights_sha256.npy", weights_sha256)] {
        if let Some(text) = text {
            files.push((name, npy::write_text(text)));
        }
    }
    let sizes: Vec<_> = files.iter().map(|(name, bytes)| (*name, bytes.len(), zip::crc(bytes))).collect();
    let too_large = || Error::Usage(format!("{}: such a file is limited to 4 GiB", path.display()));
    let (headers, end) = zip::layout(&sizes, ALIGNMENT).ok_or_else(too_large)?;
    file::write_atomically(path, |out| {
        for (header, (_, bytes)) in headers.iter().zip(&files) {
            out.write_all(header)?;
            out.write_all(bytes)?;
        }
        out.write_all(&end)
    })
}

fn statistics_of(path: &Path, values: &[f32], dim: usize) -> Result<Statistics> {
    check_dim(path, dim)?;
    let mut statistics = RunningStatistics::new(dim);
    let added = Features::new(values, dim).and_then(|features| statistics.add(features));
    added.and_then(|()| statistics.finish()).map_err(|error| Error::format(path, format!("pool_3: {error}")))
}

fn check_dim(path: &Path, dim: usize) -> Result<()> {
    if dim <= MAX_DIM {
        return Ok(());
    }
    Err(Error::format(path, format!("has {dim} features, expected at most {MAX_DIM}")))
}

/// An archive of arrays.
struct Npz<'p, 'a> {
    path: &'p Path,
    archive: Archive<'p, 'a>,
}

impl Npz<'_, '_> {
    fn bad(&self, name: &str, message: &str) -> Error {
        Error::format(self.path, format!("{name} {message}"))
    }

    /// What `read` makes of the array `name`, if there is one.
    fn value<T>(&self, name: &str, read: impl FnOnce(&Array<'_>) -> Result<T, String>) -> Result<Option<T>> {
        let Some(bytes) = self.archive.content(&format!("{name}.npy"))? else { return Ok(None) };
        let value = Array::parse(&bytes).and_then(|array| read(&array));
        value.map(Some).map_err(|message| self.bad(name, &message))
    }

    /// The shape and the numbers of the array `name`, if there is one.
    fn numbers(&self, name: &str) -> Result<Option<(Vec<usize>, Vec<f64>)>> {
        self.value(name, |array| Ok((array.shape().to_vec(), array.f64()?)))
    }

    /// The numbers of `pool_3` and how many a sample has, if it is there.
    fn pool_3(&self) -> Result<Option<(Vec<f32>, usize)>> {
        self.value("pool_3", |array| match *array.shape() {
            [_, dim] if dim > 0 => Ok((array.f32()?, dim)),
            ref shape => Err(format!("has shape {shape:?}, expected [n, d]")),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::eval::testing::npz;

    fn f8(shape: &[usize], values: &[f64]) -> Vec<u8> {
        npy::write("<f8", shape, values.iter().flat_map(|x| x.to_le_bytes()))
    }

    fn read(bytes: &[u8]) -> Result<StatisticsFile> {
        parse_statistics(Path::new("statistics.npz"), bytes)
    }

    fn message(files: &[(&str, Vec<u8>)]) -> String {
        let error = read(&npz(files, false)).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error:?}");
        error.to_string()
    }

    fn example() -> StatisticsFile {
        StatisticsFile {
            statistics: Statistics::new(Some(50_000), vec![1.0, -2.0], vec![2.0, 0.5, 0.5, 3.0]).unwrap(),
            extractor: Some("inception-2015-12-05/2048".into()),
            resize: Some("tf1".into()),
            weights_sha256: Some("6726825d".into()),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statistics.npz");
        let bare = StatisticsFile {
            statistics: Statistics::new(None, vec![1.0], vec![0.0]).unwrap(),
            extractor: None,
            resize: None,
            weights_sha256: None,
        };
        for content in [example(), bare] {
            write_statistics(&path, &content).unwrap();
            assert_eq!(read_statistics(&path).unwrap(), content);
            assert_eq!(read_pool_3(&path).unwrap(), None);
        }
    }

    #[test]
    fn stored_deflated_f32_and_column_major_files_are_read() {
        let expected = Statistics::new(None, vec![1.0, -2.0], vec![2.0, 0.5, 0.5, 3.0]).unwrap();
        let wide =
            [("mu", f8(&[2], &[1.0, -2.0])), ("sigma", f8(&[2, 2], &[2.0, 0.5, 0.5, 3.0])), ("other", vec![7; 9])];
        let f4 =
            |shape: &[usize], values: &[f32]| npy::write("<f4", shape, values.iter().flat_map(|x| x.to_le_bytes()));
        let narrow = [("mu", f4(&[2], &[1.0, -2.0])), ("sigma", f4(&[2, 2], &[2.0, 0.5, 0.5, 3.0]))];
        for files in [&wide[..], &narrow] {
            for is_deflated in [false, true] {
                let found = read(&npz(files, is_deflated)).unwrap();
                assert_eq!(found.statistics, expected);
                assert_eq!((found.extractor, found.resize, found.weights_sha256), (None, None, None));
            }
        }
        let place = wide[1].1.windows(7).position(|bytes| bytes == b"False, ").unwrap();
        let mut turned = wide[1].1.clone();
        turned[place..place + 7].copy_from_slice(b"True,  ");
        assert_eq!(read(&npz(&[wide[0].clone(), ("sigma", turned)], false)).unwrap().statistics, expected);
    }

    #[test]
    fn features_are_summed_up() {
        let values = [1.0, 2.0, 3.0, 5.0, 5.0, 2.0];
        let bytes = npz(&[("pool_3", f8(&[3, 2], &values)), ("resize", npy::write_text("tf1"))], true);
        let found = read(&bytes).unwrap();
        assert_eq!(found.resize.as_deref(), Some("tf1"));
        assert_eq!((found.statistics.n(), found.statistics.mu()), (Some(3), &[3.0, 3.0][..]));
        assert_eq!(found.statistics.sigma(), [4.0, 0.0, 0.0, 3.0]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("features.npz");
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(read_pool_3(&path).unwrap(), Some((values.map(|x| x as f32).to_vec(), 2)));
    }

    #[test]
    fn files_of_other_content_are_told() {
        let mu = || ("mu", f8(&[2], &[0.0; 2]));
        let sigma = || ("sigma", f8(&[2, 2], &[1.0, 0.0, 0.0, 1.0]));
        assert!(message(&[]).contains("has neither mu and sigma nor pool_3"));
        assert!(message(&[mu()]).contains("has mu but no sigma"));
        assert!(message(&[sigma()]).contains("has sigma but no mu"));
        assert!(message(&[mu(), ("sigma", f8(&[4], &[1.0; 4]))]).contains("mu has shape [2] and sigma [4]"));
        assert!(message(&[mu(), ("sigma", f8(&[2, 2], &[1.0, 2.0, 2.0, 1.0]))]).contains("an eigenvalue below"));
        assert!(message(&[mu(), ("sigma", f8(&[2, 2], &[f64::NAN; 4]))]).contains("the covariance contains NaN"));
        assert!(message(&[mu(), ("sigma", vec![1, 2, 3])]).contains("sigma is no array of numpy's"));
        assert!(message(&[mu(), sigma(), ("n", npy::write_text("many"))]).contains("n is not one integer"));
        let n = |n: i64| ("n", npy::write("<i8", &[], n.to_le_bytes()));
        assert!(message(&[mu(), sigma(), n(-1)]).contains("n is -1"));
        assert!(message(&[mu(), sigma(), n(1)]).contains("statistics of 1 samples"));
        assert!(message(&[mu(), sigma(), ("resize", f8(&[], &[1.0]))]).contains("resize is not one text"));
        assert!(message(&[("mu", npy::write_text("a")), sigma()]).contains("mu is no array of f32 or f64"));
        assert!(message(&[("pool_3", f8(&[3], &[1.0; 3]))]).contains("pool_3 has shape [3], expected [n, d]"));
        assert!(message(&[("pool_3", f8(&[1, 3], &[1.0; 3]))]).contains("pool_3: found 1 samples"));
        assert!(message(&[("pool_3", f8(&[3, 0], &[]))]).contains("pool_3 has shape [3, 0]"));
        // Nothing is as much as any number of features of no sample.
        assert!(message(&[("pool_3", f8(&[0, 1 << 60], &[]))]).contains("has 1152921504606846976 features"));
        assert!(
            message(&[("pool_3", f8(&[2, 5000], &[0.0; 10_000]))]).contains("has 5000 features, expected at most 4096")
        );
        assert!(message(&[("pool_3", f8(&[1, 1], &[f64::INFINITY]))]).contains("feature 0 of sample 0 is inf"));
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("statistics.npz");
        write_statistics(&path, &example()).unwrap();
        let written = std::fs::read(&path).unwrap();
        let packed = npz(&[("pool_3", f8(&[3, 2], &[1.0, 2.0, 3.0, 5.0, 5.0, 2.0]))], true);
        for bytes in [written, packed] {
            for n_bytes in 0..bytes.len() {
                assert!(parse_statistics(&path, &bytes[..n_bytes]).is_err(), "{n_bytes}");
            }
            for i in 0..bytes.len() {
                for change in [1, 0x7f, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[i] ^= change;
                    let _ = parse_statistics(&path, &changed);
                }
            }
        }
    }
}
