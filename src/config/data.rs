//! `data:`, the images.

use super::fields::{Fields, FilePath, Flag, OneOf, OrNone, Section};
use super::published;
pub use crate::data::Dataset;
use crate::data::lsun::CATEGORIES;
use crate::data::{Place, SETS, Split};
use crate::error::{Result, one_of};

/// The images.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// The data set.
    pub dataset: Dataset,
    /// Height and width in pixels.
    pub image_size: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
    /// Whether the network is trained on logits of the pixels.
    pub logit_transform: bool,
    /// Whether images are mirrored at random.
    pub random_flip: bool,
    /// Ours: the images that test losses are of.
    pub held_out: Split,
    /// NCSNv2: whether uniform noise makes pixels continuous; as the program does if the file does not say it.
    pub uniform_dequantization: Option<bool>,
    /// NCSNv2: whether Gaussian noise does.
    pub gaussian_dequantization: bool,
    /// NCSNv2: whether the network is trained on pixels from −1 to 1; `centered` in files of Score-SDE.
    pub rescaled: bool,
}

impl Default for Data {
    /// MNIST as published. A file must say its own data set, size and channels.
    fn default() -> Self {
        Self {
            dataset: Dataset { set: &SETS[0], path: None, category: None },
            image_size: 28,
            channels: 1,
            logit_transform: false,
            random_flip: false,
            held_out: Split::Test,
            uniform_dequantization: None,
            gaussian_dequantization: false,
            rescaled: false,
        }
    }
}

impl Section for Data {
    const NAME: &'static str = "data";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        let Dataset { set, path, category } = &mut self.dataset;
        f.key("dataset", set, &SETS.each_ref().map(|set| (set.name, set)))?;
        f.require("dataset", &one_of(SETS.iter().map(|set| set.name)))?;
        f.key("path", path, OrNone(FilePath("a folder or a file")))?;
        f.check("path", set.place != Place::Datasets || path.is_none(), || {
            format!("found data.path, expected it only with data.dataset {}", with_path())
        })?;
        f.check("path", set.place != Place::Path || path.is_some(), || {
            format!("found no data.path, expected the folder of images that data.dataset {} means", set.name)
        })?;
        f.key("category", category, OrNone(&CATEGORIES.map(|name| (name, name))))?;
        f.check("category", category.is_none() || !set.categories.is_empty(), || {
            let with_categories = one_of(SETS.iter().filter(|set| !set.categories.is_empty()).map(|set| set.name));
            format!("found data.category, expected it only with data.dataset {with_categories}")
        })?;
        f.check("category", category.is_some() || set.categories.is_empty(), || {
            let categories = one_of(set.categories.iter().copied());
            format!("found no data.category, expected one of {}'s: {categories}", set.name)
        })?;
        f.key("image_size", &mut self.image_size, 4..=1024)?;
        f.require("image_size", "the height and width of the images in pixels")?;
        f.key("channels", &mut self.channels, OneOf([1, 3]))?;
        f.require("channels", "1 (grey) or 3 (colour)")?;
        let (dataset, channels) = (&self.dataset, self.channels);
        f.check("channels", dataset.set.channels.contains(&channels), || {
            let expected: Vec<String> = dataset.set.channels.iter().map(usize::to_string).collect();
            let expected = one_of(expected.iter().map(String::as_str));
            format!("data.channels is {channels}, expected {expected} for {}", dataset.name())
        })?;
        f.key("logit_transform", &mut self.logit_transform, Flag)?;
        f.key("random_flip", &mut self.random_flip, Flag)?;
        f.key("held_out", &mut self.held_out, &HELD_OUT)?;
        let is_there = self.held_out != Split::Validation || self.dataset.set.has_validation();
        f.check("held_out", is_there, || {
            let with = one_of(SETS.iter().filter(|set| set.has_validation()).map(|set| set.name));
            format!("data.held_out is validation, expected it only with data.dataset {with}")
        })?;
        f.key("uniform_dequantization", &mut self.uniform_dequantization, OrNone(Flag))?;
        f.key("gaussian_dequantization", &mut self.gaussian_dequantization, Flag)?;
        let both = self.gaussian_dequantization && self.uniform_dequantization == Some(true);
        f.check("gaussian_dequantization", !both, || "found both ways to dequantise, expected one".into())?;
        f.key("rescaled", &mut self.rescaled, Flag)?;
        f.check("rescaled", !(self.rescaled && self.logit_transform), || {
            "found data.rescaled and data.logit_transform, expected one: the published program undoes them differently"
                .into()
        })?;
        published::data(f)
    }
}

const HELD_OUT: [(&str, Split); 2] = [("test", Split::Test), ("validation", Split::Validation)];

/// The data sets that are given with a path.
fn with_path() -> String {
    one_of(SETS.iter().filter(|set| set.place != Place::Datasets).map(|set| set.name))
}
