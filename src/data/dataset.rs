//! What a data set with a name is: a row of the table [`SETS`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::sets::Download;
use super::{Labelled, Progress, SETS, Source, Split};
use crate::error::{Error, Result, one_of};

/// What is opened of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The folder of all data sets, each of which has a subfolder.
    pub root: &'a Path,
    /// The part of the data set.
    pub split: Split,
    /// Channels of the images: one of [`Set::channels`].
    pub channels: usize,
    /// Height and width of the images in pixels; those of another size are resized.
    pub size: usize,
    /// Whether missing files are downloaded, where that is possible.
    pub download: Download,
}

/// What [`Progress`] counts while a data set is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Bytes of a download.
    Download,
    /// Images whose headers are read.
    Headers,
    /// Nothing: the set is opened at once.
    None,
}

/// Where the files of a data set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the folder of all data sets.
    Datasets,
    /// There, or where a path says.
    DatasetsOrPath,
    /// Where a path says.
    Path,
}

/// One row of [`SETS`].
pub struct Set {
    /// The name in a configuration.
    pub name: &'static str,
    /// The numbers of channels that the images can be had with, the usual one first.
    pub channels: &'static [usize],
    /// Height and width of the images in pixels; the published program's choice for a set without a single size.
    pub size: usize,
    /// Where its files are.
    pub place: Place,
    /// The names of its categories, one of which is chosen; none for a set that is whole.
    pub categories: &'static [&'static str],
    /// What takes time when the set is opened.
    pub work: Work,
    /// Opens the images.
    pub(super) open: fn(&Dataset, &Request<'_>, &mut Progress<'_>) -> Result<Arc<dyn Source>>,
    /// Opens the images with their classes, perhaps at their own size; `None` for a set without labels.
    pub(super) labelled: Option<fn(&Request<'_>, &mut Progress<'_>) -> Result<Labelled>>,
}

impl Set {
    /// Whether the classes of the images are known.
    pub fn has_labels(&self) -> bool {
        self.labelled.is_some()
    }

    /// Whether there is a part of the images for [`Split::Validation`].
    pub fn has_validation(&self) -> bool {
        self.name == "CELEBA"
    }
}

impl PartialEq for Set {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A data set as a configuration names it.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The row of the table.
    pub set: &'static Set,
    /// Where the files are, if the row's [place](Set::place) leaves that open.
    pub path: Option<PathBuf>,
    /// One of the row's [categories](Set::categories), if and only if it has some.
    pub category: Option<&'static str>,
}

impl Dataset {
    /// The data set of this name, in capital letters, perhaps with the name of a category in any case: `CIFAR10`,
    /// `LSUN-bedroom`. `None` for one whose name is not enough, because it needs a path or a category.
    pub fn named(name: &str) -> Option<Self> {
        let (name, category) = name.split_once('-').map_or((name, None), |(name, category)| (name, Some(category)));
        let set = SETS.iter().find(|set| set.name == name && set.place != Place::Path)?;
        let known = |category: &str| set.categories.iter().copied().find(|known| known.eq_ignore_ascii_case(category));
        let category = category.map(|category| known(category).ok_or(())).transpose().ok()?;
        (category.is_some() != set.categories.is_empty()).then_some(Self { set, path: None, category })
    }

    /// What [`Self::named`] knows, in lower case; `category` stands for all of a set's categories.
    pub fn names() -> Vec<String> {
        let named = SETS.iter().filter(|set| set.place != Place::Path);
        let category = |set: &Set| if set.categories.is_empty() { "" } else { "-category" };
        named.map(|set| set.name.to_ascii_lowercase() + category(set)).collect()
    }

    /// All images below a folder.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        let set = SETS.iter().find(|set| set.place == Place::Path).expect("the table has such a row");
        Self { set, path: Some(path.into()), category: None }
    }

    /// The name with that of the category: `LSUN-bedroom`.
    pub fn label(&self) -> String {
        self.category.map_or_else(|| self.name().into(), |category| format!("{}-{category}", self.name()))
    }

    /// The name in a configuration.
    pub fn name(&self) -> &'static str {
        self.set.name
    }

    /// The number of channels of the images, if there is no choice.
    pub fn fixed_channels(&self) -> Option<usize> {
        match self.set.channels {
            [only] => Some(*only),
            _ => None,
        }
    }

    /// Refuses a data set whose images have no labels, on which no classifier can be trained.
    ///
    /// # Errors
    /// [`Error::Unexpected`] with the names of the data sets that have labels.
    pub fn expect_labels(&self) -> Result<()> {
        if self.set.has_labels() {
            return Ok(());
        }
        let labelled = one_of(SETS.iter().filter(|set| set.has_labels()).map(|set| set.name));
        Err(Error::unexpected(format!("{}, which has no labels", self.name()), labelled))
    }

    /// Opens the images. `progress` counts [`Set::work`].
    ///
    /// # Errors
    /// [`Error::MissingData`] when files are missing and cannot be downloaded, with their names; [`Error::Io`] and
    /// [`Error::Format`] when a file cannot be read; [`Error::Stopped`] when `progress` says so.
    pub fn open(&self, request: &Request<'_>, progress: &mut Progress<'_>) -> Result<Arc<dyn Source>> {
        (self.set.open)(self, request, progress)
    }

    /// Opens the images with their classes.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::expect_labels`].
    pub fn open_labelled(&self, request: &Request<'_>, progress: &mut Progress<'_>) -> Result<Labelled> {
        self.expect_labels()?;
        let open = self.set.labelled.expect("just checked");
        Ok(open(request, progress)?.resized(request.size))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::{Pixels, unwatched};

    #[test]
    fn names_are_distinct_and_lead_to_their_rows() {
        for set in &SETS {
            assert_eq!(SETS.iter().filter(|other| *other == set).count(), 1, "{set:?}");
            let named = Dataset::named(set.name);
            match set.place {
                Place::Path => assert_eq!((named, Dataset::folder("x").name()), (None, set.name)),
                _ if set.categories.is_empty() => assert_eq!(named.unwrap().set, set),
                _ => assert_eq!(named, None),
            }
            for category in set.categories {
                let name = format!("{}-{category}", set.name);
                assert_eq!(Dataset::named(&name).unwrap().label(), name);
            }
            assert_eq!(Dataset::named(&format!("{}-other", set.name)), None);
            assert!(!set.channels.is_empty() && set.channels.iter().all(|channels| [1, 3].contains(channels)));
        }
        assert_eq!((Dataset::named("mnist"), Dataset::named("")), (None, None));
    }

    #[test]
    fn images_come_with_the_size_and_the_channels_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        crate::image::write_png(&folder.path().join("a.png"), &Pixels::new(vec![7; 30], 5, 6, 1)).unwrap();
        for (dataset, n) in [(Dataset::named("DIGITS").unwrap(), 1 << 40), (Dataset::folder(folder.path()), 1)] {
            for &channels in dataset.set.channels {
                let request =
                    Request { root: folder.path(), split: Split::Test, channels, size: 9, download: Download::Never };
                let source = dataset.open(&request, &mut unwatched).unwrap();
                assert_eq!((source.len(), source.shape()), (n, [channels, 9, 9]), "{dataset:?}");
            }
        }
    }

    #[test]
    fn a_set_without_files_says_where_they_should_be_whether_or_not_labels_are_wanted() {
        let root = tempfile::tempdir().unwrap();
        for set in SETS.iter().filter(|set| set.work != Work::None && set.place != Place::Path) {
            let category = set.categories.first().copied();
            let (dataset, channels) = (Dataset { set, path: None, category }, set.channels[0]);
            let request =
                Request { root: root.path(), split: Split::Train, channels, size: 8, download: Download::Never };
            let folder = root.path().join(set.name.to_ascii_lowercase()).display().to_string();
            let check = |error: Error| match error {
                Error::MissingData(message) => assert!(message.contains(&folder), "{set:?}: {message}"),
                other => panic!("{set:?}: {other}"),
            };
            check(dataset.open(&request, &mut unwatched).err().unwrap());
            if set.has_labels() {
                check(dataset.open_labelled(&request, &mut unwatched).unwrap_err());
            }
        }
    }
}
