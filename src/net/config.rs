//! What a network is built from, given or read off its parameters' shapes.

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
    /// An encoder and a decoder with group norm, for one noise level and three channels.
    ResScore,
}

impl Architecture {
    /// The sides of an image must be divisible by this: each halving needs an even size.
    pub fn size_multiple(self) -> usize {
        match self {
            Architecture::Ncsn | Architecture::Baseline => 2,
            Architecture::Deeper | Architecture::ResScore => 4,
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
    /// Channels of the first stage; `ngf` in the published program, `nef` for [`Architecture::ResScore`].
    pub width: usize,
    /// Noise levels; `num_classes` in the published program.
    pub n_levels: usize,
    /// The range of its input.
    pub input: InputRange,
}

impl NetworkConfig {
    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On zero channels or levels, a width below 2 (instance norm++ takes the variance over channels), or what ResScore
    /// cannot do.
    pub fn check(&self) -> Result<()> {
        let Self { channels, width, n_levels, .. } = self;
        if *channels == 0 || *n_levels == 0 || *width < 2 {
            return Err(Error::Usage(format!(
                "a network needs channels ≥ 1, levels ≥ 1 and width ≥ 2, found {channels}, {n_levels} and {width}"
            )));
        }
        if self.architecture == Architecture::ResScore && (*channels != 3 || !width.is_multiple_of(8)) {
            return Err(Error::Usage(format!(
                "ResScore needs 3 channels and a width that is a multiple of 8, found {channels} and {width}"
            )));
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
            Some(dims) => Err(Error::Usage(format!("{name} has shape {dims:?}, expected {rank} dimensions"))),
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
            let config = Self { architecture: Architecture::ResScore, channels: 3, width, n_levels: 1, input };
            config.check()?;
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
        let config = Self { architecture, channels, width, n_levels, input };
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
}
