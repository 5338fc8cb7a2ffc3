//! Images as the user names them: a path, or a data set.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use ncsn::config::Data;
use ncsn::data::{Dataset, Source, Split};
use ncsn::error::{one_line, one_of, shown_path};
use ncsn::eval::{ImageSet, ReadOptions};
use ncsn::{Error, Result};

use super::super::data;
use super::super::log::Log;

/// Images of a data set without end.
pub const N_ENDLESS: usize = 10_000;

/// Images.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// A folder or a file.
    Path(PathBuf),
    /// Those of a data set.
    Set(Set),
}

/// A part of a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    pub dataset: Dataset,
    pub split: Split,
    pub part: Option<Part>,
}

/// Every `step`-th image of a range.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    pub range: Range<usize>,
    pub step: usize,
}

impl Part {
    /// `0..5000`, `1..10000:2`
    fn parse(text: &str) -> Option<Self> {
        let (range, step) = text.split_once(':').unwrap_or((text, "1"));
        let (start, end) = range.split_once("..")?;
        let (range, step) = (start.parse().ok()?..end.parse().ok()?, step.parse().ok()?);
        (!range.is_empty() && step > 0).then_some(Self { range, step })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.range;
        match self.step {
            1 => write!(f, "{start}..{end}"),
            step => write!(f, "{start}..{end}:{step}"),
        }
    }
}

impl FromStr for Images {
    type Err = Error;

    /// `mnist`, `cifar10-test`, `mnist-test:0..5000`, `mnist-test:0..10000:2`; anything else is a path.
    fn from_str(text: &str) -> Result<Self> {
        let (name, part) = match text.split_once(':') {
            Some((name, part)) => (name, Some(part)),
            None => (text, None),
        };
        let has_validation =
            |name: &str| Dataset::named(&name.to_ascii_uppercase()).is_some_and(|found| found.set.has_validation());
        let (name, split) = match name.rsplit_once('-') {
            Some((name, "train")) => (name, Split::Train),
            Some((name, "test")) => (name, Split::Test),
            Some((name, "validation")) if has_validation(name) => (name, Split::Validation),
            _ => (name, Split::Train),
        };
        let is_lower_case = !name.bytes().any(|byte| byte.is_ascii_uppercase());
        let Some(dataset) = Dataset::named(&name.to_ascii_uppercase()).filter(|_| is_lower_case) else {
            return Ok(Self::Path(text.into()));
        };
        let part = part.map(|part| {
            Part::parse(part).ok_or_else(|| {
                let every = format!("or {name}:0..5000:2 for every second image");
                Error::Usage(format!("found {text:?}, expected a part like {name}:0..5000 {every}, which is not empty"))
            })
        });
        Ok(Self::Set(Set { dataset, split, part: part.transpose()? }))
    }
}

impl Images {
    /// Opens them. Those of a data set are made `size` × `size` pixels, if that is given, as training makes them.
    pub fn open(&self, size: Option<usize>, options: &ReadOptions, datasets: &Path, log: &mut Log) -> Result<ImageSet> {
        match self {
            Self::Path(path) => {
                if !path.exists() {
                    let path = shown_path(path);
                    let sets = Dataset::names();
                    let sets = one_of(sets.iter().map(String::as_str));
                    return Err(Error::MissingData(format!(
                        "{path}: found neither this nor a data set, expected {sets}, perhaps with -test and :0..5000"
                    )));
                }
                let images = ImageSet::open(path, options)?;
                report_broken(&images, log);
                Ok(images)
            }
            Self::Set(set) => set.open(size, datasets, log),
        }
    }

    /// Whether they are in no order that anybody chose for an inception score: a data set's may be sorted by class.
    pub fn may_be_sorted(&self) -> bool {
        match self {
            // What `ncsn sample` wrote is in the order of its seeds.
            Self::Path(path) if path.is_dir() => !path.join("samples.json").is_file(),
            Self::Path(path) => !path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("safetensors")),
            Self::Set(_) => true,
        }
    }
}

impl Set {
    /// All images of a part of a run's data set.
    pub fn of_run(data: &Data, split: Split) -> Self {
        Self { dataset: data.dataset.clone(), split, part: None }
    }

    /// What a configuration would say of them.
    pub fn data(&self, size: Option<usize>) -> Data {
        let dataset = self.dataset.clone();
        let (image_size, channels) = (size.unwrap_or(dataset.set.size), dataset.set.channels[0]);
        Data { dataset, image_size, channels, ..Data::default() }
    }

    pub fn open(&self, size: Option<usize>, datasets: &Path, log: &mut Log) -> Result<ImageSet> {
        self.open_as(&self.data(size), datasets, log)
    }

    /// With size and channels of `data`.
    pub fn open_as(&self, data: &Data, datasets: &Path, log: &mut Log) -> Result<ImageSet> {
        let all = data::open(data, datasets, self.split, log)?;
        let n = if all.len() > u32::MAX as usize { N_ENDLESS } else { all.len() };
        let part = match &self.part {
            Some(part) if part.range.end > all.len() => {
                let name = self.name();
                return Err(Error::Usage(format!("found {name}, expected a part of its {} images", all.len())));
            }
            Some(part) => part.clone(),
            None => Part { range: 0..n, step: 1 },
        };
        ImageSet::of_source(Arc::new(Selection { all, part }), self.name())
    }

    /// `cifar10-train`
    pub fn name(&self) -> String {
        let split = match self.split {
            Split::Train => "train",
            Split::Validation => "validation",
            Split::Test => "test",
        };
        let part = self.part.as_ref().map_or_else(String::new, |part| format!(":{part}"));
        match &self.dataset.path {
            Some(path) => {
                let category = self.dataset.category.map_or_else(String::new, |category| format!("-{category}"));
                format!("{}{category}-{split}{part}", path.display())
            }
            None => format!("{}-{split}{part}", self.dataset.label().to_ascii_lowercase()),
        }
    }
}

/// Some of the images of a data set.
struct Selection {
    all: Arc<dyn Source>,
    part: Part,
}

impl Source for Selection {
    fn len(&self) -> usize {
        self.part.range.len().div_ceil(self.part.step)
    }

    fn shape(&self) -> [usize; 3] {
        self.all.shape()
    }

    fn read(&self, index: usize, pixels_u8: &mut [u8]) -> Result<()> {
        self.all.read(self.part.range.start + index * self.part.step, pixels_u8)
    }
}

/// Says which files were left out.
fn report_broken(images: &ImageSet, log: &mut Log) {
    const N_NAMED: usize = 5;
    if !images.left_out().is_empty() {
        log.warning(format!("{}: {}", images.name(), images.left_out()));
    }
    let broken = images.broken();
    if broken.is_empty() {
        return;
    }
    let name = one_line(images.name());
    log.warning(format!("{name}: {} files cannot be read and are left out:", broken.len()));
    for error in broken.iter().take(N_NAMED) {
        log.warning(format!("  {}", one_line(&error.to_string())));
    }
    if broken.len() > N_NAMED {
        log.warning(format!("  and {} more", broken.len() - N_NAMED));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ncsn::data::digits::Digits;

    use super::*;

    #[test]
    fn data_sets_are_told_from_paths() {
        let set = |name, split, part: Option<(Range<usize>, usize)>| {
            let dataset = Dataset::named(name).unwrap();
            let part = part.map(|(range, step)| Part { range, step });
            Images::Set(Set { dataset, split, part })
        };
        for (text, expected) in [
            ("mnist", set("MNIST", Split::Train, None)),
            ("cifar10-train", set("CIFAR10", Split::Train, None)),
            ("lsun-church_outdoor", set("LSUN-church_outdoor", Split::Train, None)),
            ("lsun-tower-test:0..9", set("LSUN-tower", Split::Test, Some((0..9, 1)))),
            ("lsun", Images::Path("lsun".into())),
            ("celeba-validation", set("CELEBA", Split::Validation, None)),
            ("mnist-test:0..5000", set("MNIST", Split::Test, Some((0..5000, 1)))),
            ("mnist-test:1..10000:2", set("MNIST", Split::Test, Some((1..10_000, 2)))),
            ("./mnist", Images::Path("./mnist".into())),
            ("MNIST", Images::Path("MNIST".into())),
            ("samples/mnist-best", Images::Path("samples/mnist-best".into())),
            ("folder", Images::Path("folder".into())),
        ] {
            assert_eq!(text.parse::<Images>().unwrap(), expected, "{text}");
        }
        for text in ["mnist:", "mnist:5", "mnist:5..5", "mnist:a..b", "digits-test:9..3", "mnist:0..9:0"] {
            let error = text.parse::<Images>().unwrap_err().to_string();
            assert!(error.contains(&format!("found {text:?}, expected a part like")), "{error}");
        }
    }

    #[test]
    fn only_what_sample_wrote_is_in_an_order_that_classes_cannot_have() {
        let folder = tempfile::tempdir().unwrap();
        let may_be_sorted = |path: &Path| Images::Path(path.into()).may_be_sorted();
        assert!(may_be_sorted(folder.path()));
        for name in ["a.npy", "a.npz"] {
            assert!(may_be_sorted(&folder.path().join(name)), "{name}");
        }
        assert!(!may_be_sorted(&folder.path().join("samples.safetensors")));
        std::fs::write(folder.path().join("samples.json"), "{}").unwrap();
        assert!(!may_be_sorted(folder.path()));
    }

    #[test]
    fn names_say_all_that_was_asked_for() {
        for (text, name) in [
            ("mnist-test:0..5000", "mnist-test:0..5000"),
            ("mnist-test:1..10000:2", "mnist-test:1..10000:2"),
            ("digits", "digits-train"),
        ] {
            let Images::Set(set) = text.parse().unwrap() else { panic!("a data set") };
            assert_eq!(set.name(), name);
        }
    }

    #[test]
    fn a_part_has_every_so_manieth_image_of_its_range() {
        let all = Digits::new(8, 1, Split::Test).unwrap();
        let read = |source: &dyn Source, index| {
            let mut pixels_u8 = vec![0; 64];
            source.read(index, &mut pixels_u8).unwrap();
            pixels_u8
        };
        let some = Selection { all: Arc::new(all.clone()), part: Part { range: 3..9, step: 4 } };
        assert_eq!(some.len(), 2);
        assert_eq!([0, 1].map(|index| read(&some, index)), [3, 7].map(|index| read(&all, index)));
    }
}
