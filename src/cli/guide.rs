//! Samples of classes, by the gradients of a classifier.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use burn::tensor::Device;
use clap::Args;
use serde::Serialize;

use ncsn::checkpoint::{Saved, Weights, Which, newest};
use ncsn::config::Config;
use ncsn::net::Network;
use ncsn::score::{ClassGuidance, Guided, Model, Score};
use ncsn::{Error, Result};

use super::overrides::positive;
use super::{Common, RunFolders, hint, memory};

/// Which classes are drawn.
#[derive(Clone, Debug, Default, Args)]
pub struct GuideArgs {
    /// Draw images of classes by the gradients of this classifier (ncsn train --runner classifier): a run, or a file of its weights
    #[arg(long, value_name = "NAME|FILE")]
    classifier: Option<String>,
    /// The class of the images, or those that they have in turn: 3, 0-9 or 1,7 [default: all]
    #[arg(long, value_name = "CLASSES", requires = "classifier", value_parser = super::parse::<Classes>)]
    class: Option<Classes>,
    /// How much of the gradient: 1 is the classifier's, more makes images more typical and less varied [default: 1]
    #[arg(long, value_name = "SCALE", requires = "classifier")]
    guidance: Option<f64>,
}

/// Some classes, in the order in which images have them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Classes(Vec<u8>);

impl FromStr for Classes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let error = || Error::unexpected(format!("classes {text:?}"), "numbers such as 3, 0-9 or 1,7");
        let range = |part: &str| -> Option<Range<u16>> {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let [first, last] = [first, last].map(|number| number.parse::<u8>().ok().map(u16::from));
            first.zip(last).filter(|(first, last)| first <= last).map(|(first, last)| first..last + 1)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let classes = ranges.ok_or_else(error)?.into_iter().flatten();
        Ok(Self(classes.map(|class| u8::try_from(class).expect("read as such")).collect()))
    }
}

impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u8::to_string).collect();
        f.write_str(&numbers.join(", "))
    }
}

/// A classifier that leads samples to their classes.
pub struct Guide {
    model: Model<Network>,
    classes: Classes,
    pub settings: Settings,
}

/// What samples depend on.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The MD5 of the classifier's checkpoint.
    classifier: String,
    /// Image k is of number k of these, over and over.
    classes: Vec<u8>,
    guidance: f64,
}

impl GuideArgs {
    /// The guide of samples of `config`, `batch` of them at a time, if one is asked for.
    pub fn open(
        &self,
        config: &Config,
        n_members: usize,
        batch: u64,
        device: &Device,
        common: &Common,
    ) -> Result<Option<Guide>> {
        let Some(name) = &self.classifier else { return Ok(None) };
        let weights = match Path::new(name) {
            path if path.is_file() => Weights::open(path)?,
            _ => newest(&RunFolders::new(&common.run, name)?.logs)?,
        };
        let saved = Saved::of(weights, None)?;
        let path = saved.weights().path();
        expect_same_images(config, saved.config()).map_err(|message| Error::format(path, message))?;
        let sets = [config, saved.config()].map(|config| config.data.dataset.label());
        if sets[0] != sets[1] {
            hint(format!("the classifier {name} is of the classes of {}, not of {}", sets[1], sets[0]));
        }
        let n_classes = ncsn::data::N_CLASSES;
        let classes = self.class.clone().unwrap_or_else(|| Classes((0..n_classes as u8).collect()));
        if let Some(class) = classes.0.iter().find(|class| usize::from(**class) >= n_classes) {
            return Err(Error::Usage(format!("found --class {class}, expected 0 to {}", n_classes - 1)));
        }
        let guidance = self.guidance.map_or(Ok(1.0), |scale| positive("--guidance", scale))?;
        memory::check_guided([config, saved.config()], n_members, batch, "--batch", common)?;
        let model = saved.classifier(Which::Averaged, device)?;
        // It is told how much noise there is; how that grows with the time is the process that is run back.
        let model = Model { process: config.sampling_process()?, ..model };
        let settings = Settings { classifier: saved.weights().digest(), classes: classes.0.clone(), guidance };
        Ok(Some(Guide { model, classes, settings }))
    }
}

/// Refuses, in words, a classifier of other images, or of images that are perturbed in another way, than those of `config`.
fn expect_same_images(config: &Config, of_classifier: &Config) -> Result<(), String> {
    let both = [config, of_classifier];
    // What pixels and noise are like, as a file says it.
    for key in ["data.image_size", "data.channels", "data.rescaled", "data.logit_transform", "training.sde"] {
        let [expected, found] = both.map(|config| config.value(key).unwrap_or_default());
        if found != expected {
            return Err(format!(
                "{key} is {found}, expected {expected}, as of the network that the classifier is to guide"
            ));
        }
    }
    let range = |config: &Config| -> Result<[f64; 2], String> {
        let stds = config.process().map_err(|error| error.to_string())?.stds();
        Ok([stds.iter().copied().fold(f64::INFINITY, f64::min), stds.iter().copied().fold(0.0, f64::max)])
    };
    let ([min, max], [known_min, known_max]) = (range(config)?, range(of_classifier)?);
    if min < known_min * 0.99 || max > known_max * 1.01 {
        return Err(format!(
            "found a classifier of noise from {known_min} to {known_max}, expected one that knows the network's, from {min} to {max}"
        ));
    }
    Ok(())
}

impl Guide {
    /// The score of the images `numbers` of their classes.
    pub fn score<'a>(
        &self,
        score: &'a dyn Score<4>,
        numbers: Range<u64>,
    ) -> Guided<&'a dyn Score<4>, ClassGuidance<Network>> {
        let n_classes = self.classes.0.len() as u64;
        let classes_u8: Vec<u8> = numbers.map(|k| self.classes.0[(k % n_classes) as usize]).collect();
        Guided { score, guidance: self.model.towards(&classes_u8), scale: self.settings.guidance }
    }

    /// What the log says of it.
    pub fn line(&self) -> String {
        format!("guided to classes {}, guidance scale {}", self.classes, self.settings.guidance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_numbers_and_ranges() {
        let parse = |text: &str| text.parse::<Classes>().ok().map(|classes| classes.0);
        assert_eq!(parse("3"), Some(vec![3]));
        assert_eq!(parse("1,7"), Some(vec![1, 7]));
        assert_eq!(parse("0-3,9,2-2"), Some(vec![0, 1, 2, 3, 9, 2]));
        assert_eq!(parse("250-255").map(|classes| classes.len()), Some(6));
        for bad in ["", "x", "3-1", "1,,2", "-1", "256", "1-", "0x1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
