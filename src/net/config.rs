//! What a network is built from, given or read off its parameters' shapes.

use super::params::shown_shape;
use crate::error::{Error, Result};

/// Which network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Four stages, instance norm++: the network of the paper's results.
    Ncsn,
    /// Five stages, plain conditional instance norm: for larger images.
    Deeper,
    /// As [`Self::Ncsn`], for one noise level: the norms have no table.
    Baseline,
    /// An encoder and a decoder with group norm, for one noise level and three channels. This and those below are networks of
    /// the sliced-score-matching experiments.
    ResScore,
    /// Six residual blocks at half the size.
    ResNetScore,
    /// A U-net that halves images of 16 or 32 pixels down to one.
    UNetScore,
    /// A U-net with four halvings and residual blocks.
    UNetResScore,
    /// An encoder, a decoder and two linear layers, for 28 pixels.
    Score,
    /// The same for 10 pixels.
    SmallScore,
    /// Four linear layers, for 10 pixels.
    MlpScore,
}

/// The sides that images may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// They are multiples of this.
    pub multiple: usize,
    /// Not smaller.
    pub smallest: usize,
    /// Nor larger.
    pub largest: usize,
}

impl Sizes {
    /// Whether `side` is one of them.
    pub fn contains(self, side: usize) -> bool {
        side.is_multiple_of(self.multiple) && (self.smallest..=self.largest).contains(&side)
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { multiple, smallest, largest } = self;
        match (smallest, largest) {
            _ if smallest == largest => write!(f, "{smallest}"),
            (_, &usize::MAX) if smallest == multiple => write!(f, "a multiple of {multiple}"),
            (_, &usize::MAX) => write!(f, "a multiple of {multiple}, at least {smallest}"),
            _ => write!(f, "a multiple of {multiple} from {smallest} to {largest}"),
        }
    }
}

impl Architecture {
    /// The sides that its images may have: each halving needs an even size, and linear layers one size.
    pub fn sizes(self) -> Sizes {
        let (multiple, smallest, largest) = match self {
            Self::Ncsn | Self::Baseline => (2, 2, usize::MAX),
            Self::Deeper | Self::ResScore => (4, 4, usize::MAX),
            // Borders of three pixels are mirrored.
            Self::ResNetScore => (2, 4, usize::MAX),
            Self::UNetScore => (16, 16, 32),
            // As are borders of one pixel, where 16 pixels would be one.
            Self::UNetResScore => (16, 32, usize::MAX),
            Self::Score => (28, 28, 28),
            Self::SmallScore | Self::MlpScore => (10, 10, 10),
        };
        Sizes { multiple, smallest, largest }
    }

    /// What the width must be a multiple of, for groups of channels.
    pub fn width_multiple(self) -> usize {
        match self {
            Self::ResScore => 8,
            Self::Score => 4,
            _ => 1,
        }
    }

    /// Whether the network is given the noise level; one that is not knows a single level.
    pub fn is_conditional(self) -> bool {
        matches!(self, Architecture::Ncsn | Architecture::Deeper)
    }
}

/// The range of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputRange {
    /// Pixels in [0, 1], which the network maps to 2x − 1.
    Unit,
    /// Logits, used as they are.
    Logit,
}

/// Everything that determines a network's parameters and its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Which network.
    pub architecture: Architecture,
    /// Channels of the images.
    pub channels: usize,
    /// What the numbers of features of all stages are multiples of: [`Architecture::width_key`] in the published program.
    /// MLPScore's are fixed.
    pub width: usize,
    /// The side of the images, which UNetScore is built for; the others take what [`Architecture::sizes`] allows.
    pub size: usize,
    /// Noise levels; `num_classes` in the published program.
    pub n_levels: usize,
    /// The range of its input.
    pub input: InputRange,
}

impl NetworkConfig {
    /// The sides that its images may have.
    pub fn sizes(&self) -> Sizes {
        match self.architecture {
            Architecture::UNetScore => Sizes { smallest: self.size, largest: self.size, ..self.architecture.sizes() },
            other => other.sizes(),
        }
    }

    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On zero channels or levels, a width below 2 (instance norm++ takes the variance over channels), or what the
    /// architecture cannot do.
    pub fn check(&self) -> Result<()> {
        let Self { channels, width, n_levels, .. } = self;
        if *channels == 0 || *n_levels == 0 || *width < 2 {
            return Err(Error::Usage(format!(
                "a network needs channels ≥ 1, levels ≥ 1 and width ≥ 2, found {channels}, {n_levels} and {width}"
            )));
        }
        if self.architecture == Architecture::ResScore && *channels != 3 {
            return Err(Error::Usage(format!("ResScore needs 3 channels, found {channels}")));
        }
        let multiple = self.architecture.width_multiple();
        if !width.is_multiple_of(multiple) {
            let name = self.architecture;
            return Err(Error::Usage(format!(
                "{name:?} needs a width that is a multiple of {multiple}, found {width}"
            )));
        }
        if self.architecture == Architecture::UNetScore && !self.architecture.sizes().contains(self.size) {
            return Err(Error::Usage(format!("UNetScore needs images of 16 or 32 pixels, found {}", self.size)));
        }
        Ok(())
    }

    /// Reads the configuration off the shapes of a network's parameters, under their published names.
    ///
    /// # Errors
    /// When a parameter that tells it is missing or has an impossible shape.
    pub fn from_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>, input: InputRange) -> Result<Self> {
        let wanted = |name: &str, rank: usize| match shape(name) {
            Some(dims) if dims.len() == rank => Ok(dims),
            Some(dims) => {
                Err(Error::Usage(format!("{name} has shape {}, expected {rank} dimensions", shown_shape(&dims))))
            }
            None => Err(Error::Usage(format!("found no tensor {name}: these are not the weights of an NCSN"))),
        };
        if shape("deconvs.5.weight").is_some() {
            let width = wanted("convs.0.weight", 4)?[0];
            // The largest of its tensors bounds what the network will take.
            let (name, expected) = ("convs.5.main.0.weight", [width.saturating_mul(4); 2].to_vec());
            let found = wanted(name, 4)?;
            if found[..2] != expected {
                return Err(Error::Usage(format!("{name} has shape {found:?}, expected {expected:?} channels")));
            }
            let architecture = Architecture::ResScore;
            let config =
                Self { architecture, channels: 3, width, size: architecture.sizes().smallest, n_levels: 1, input };
            config.check()?;
            return Ok(config);
        }
        if let Some(config) = Self::from_shapes_of_sequences(&shape, input)? {
            return Ok(config);
        }
        let begin = wanted("begin_conv.weight", 4)?;
        let [width, channels] = [begin[0], begin[1]];
        let (architecture, n_levels, scales) = if shape("normalizer.gamma").is_some() {
            (Architecture::Baseline, 1, ("normalizer.gamma", vec![width]))
        } else {
            let n_levels = wanted("normalizer.embed.weight", 2)?[0];
            let (architecture, columns) = match shape("res5.0.conv1.weight") {
                Some(_) => (Architecture::Deeper, 2),
                None => (Architecture::Ncsn, 3),
            };
            (architecture, n_levels, ("normalizer.embed.weight", vec![n_levels, width.saturating_mul(columns)]))
        };
        let config = Self { architecture, channels, width, size: architecture.sizes().smallest, n_levels, input };
        // A network is about a hundred of each of these two: what they claim and hold bounds what it will take.
        for (name, expected) in [("res1.0.conv1.weight", vec![width, width, 3, 3]), scales] {
            let found = wanted(name, expected.len())?;
            if found != expected {
                return Err(Error::Usage(format!("{name} has shape {found:?}, expected {expected:?}")));
            }
        }
        config.check()?;
        Ok(config)
    }

    /// [`Self::from_shapes`] for the networks whose parameters are numbered members of sequences; `None` for others.
    fn from_shapes_of_sequences(
        shape: &impl Fn(&str) -> Option<Vec<usize>>,
        input: InputRange,
    ) -> Result<Option<Self>> {
        let rank = |name: &str, rank: usize| shape(name).filter(|dims| dims.len() == rank);
        let below = |level: &str| shape(&format!("{level}.model.1.weight")).is_some();
        // The name tells the architecture; the first weight's output features are so many times the width.
        let (architecture, name, factor) = if shape("model.17.weight").is_some() {
            (Architecture::ResNetScore, "model.1.weight", 2)
        } else if shape("model.model.8.conv_block.5.weight").is_some() {
            (Architecture::UNetResScore, "model.model.0.weight", 2)
        } else if below("model.model.1") {
            (Architecture::UNetScore, "model.model.0.weight", 2)
        } else if shape("u_net.15.weight").is_some() {
            (Architecture::Score, "u_net.0.weight", 1)
        } else if shape("u_net.9.weight").is_some() {
            (Architecture::SmallScore, "u_net.0.weight", 4)
        } else if shape("main.9.weight").is_some() {
            let dims = rank("main.0.weight", 2).filter(|dims| dims[1].is_multiple_of(100));
            let dims = dims.ok_or_else(|| Error::Usage("main.0.weight is not that of an MLPScore".into()))?;
            let (architecture, channels) = (Architecture::MlpScore, dims[1] / 100);
            let config = Self { architecture, channels, width: MLP_WIDTH, size: 10, n_levels: 1, input };
            config.check()?;
            return Ok(Some(config));
        } else {
            return Ok(None);
        };
        let dims = rank(name, 4).filter(|dims| dims[0].is_multiple_of(factor));
        let dims = dims.ok_or_else(|| Error::Usage(format!("{name} is not that of a network we know")))?;
        let deep = below("model.model.1.model.3.model.3.model.3");
        let size = if deep { 32 } else { architecture.sizes().smallest };
        let config = Self { architecture, channels: dims[1], width: dims[0] / factor, size, n_levels: 1, input };
        // The largest tensor bounds what the network will take.
        let Self { width, channels, .. } = config;
        let times = |n: usize| width.saturating_mul(n);
        let pixels = |side: usize| channels.saturating_mul(side * side);
        let (name, expected) = match architecture {
            Architecture::ResNetScore => ("model.7.conv_block.1.weight", vec![times(4), times(4), 3, 3]),
            Architecture::UNetScore => ("model.model.1.model.3.model.5.weight", vec![times(16), times(4), 4, 4]),
            Architecture::UNetResScore => ("model.model.4.model.5.model.7.weight", vec![times(16), times(4), 4, 4]),
            Architecture::SmallScore => ("fc.0.weight", vec![256, pixels(10)]),
            _ => ("fc.0.weight", vec![1024, pixels(28)]),
        };
        match shape(name) {
            Some(found) if found == expected => {}
            found => {
                let found = found.map_or("no such tensor".to_string(), |found| shown_shape(&found));
                return Err(Error::Usage(format!("{name}: found {found}, expected {expected:?}")));
            }
        }
        if architecture == Architecture::SmallScore && rank("u_net.3.weight", 4).is_none_or(|d| d[0] != times(8)) {
            return Err(Error::Usage("u_net.3.weight is not that of a SmallScore".into()));
        }
        if architecture == Architecture::Score && rank("u_net.6.weight", 4).is_none_or(|d| d[0] != times(4)) {
            return Err(Error::Usage("u_net.6.weight is not that of a Score".into()));
        }
        config.check()?;
        Ok(Some(config))
    }
}

/// Features of MLPScore's first layer.
pub const MLP_WIDTH: usize = 1024;
