//! What the shapes of weights tell of their network, and what they do not.

use super::norm::EPSILON;
use super::params::shown_shape;
use super::{Activation, InputRange, NormKind, UNetConfig};
use crate::error::{Error, Result};

/// What the shapes of a network's weights do not tell; a configuration does, see [`super::NetworkConfig::untold`].
#[derive(Clone, Debug, PartialEq)]
pub struct Untold {
    /// The range of the network's input.
    pub input: InputRange,
    /// Its activation.
    pub activation: Activation,
    /// Its norm, where [`NormKind::InstanceNorm`] and [`NormKind::NoNorm`] have the same entries.
    pub norm: NormKind,
    /// See [`super::RefineNetConfig::normalizer_eps`].
    pub normalizer_eps: f64,
    /// A U-Net, of which shapes do not tell much.
    pub u_net: Option<UNetConfig>,
}

impl Default for Untold {
    fn default() -> Self {
        InputRange::default().into()
    }
}

impl From<InputRange> for Untold {
    /// The published activation and norm.
    fn from(input: InputRange) -> Self {
        let (activation, norm) = (Activation::Elu, NormKind::InstanceNorm);
        Self { input, activation, norm, normalizer_eps: EPSILON, u_net: None }
    }
}

/// The shape of each parameter, by its name.
pub(super) struct Shapes<'a>(pub(super) &'a dyn Fn(&str) -> Option<Vec<usize>>);

impl Shapes<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    /// The shape of a tensor of `RANK` dimensions.
    pub(super) fn of<const RANK: usize>(&self, name: &str) -> Result<[usize; RANK]> {
        match (self.0)(name) {
            Some(dims) => dims
                .as_slice()
                .try_into()
                .map_err(|_| Error::shape(name, shown_shape(&dims), format!("{RANK} dimensions"))),
            None => Err(Error::unexpected(format!("no tensor {name}"), "the weights of a network that we know")),
        }
    }

    /// Checks a shape that follows from what was found: one of the largest, so that what a file claims and holds bounds what its
    /// network will take.
    pub(super) fn expect(&self, name: &str, expected: &[usize]) -> Result<()> {
        match (self.0)(name) {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(Error::shape(name, shown_shape(&found), format!("{expected:?}"))),
            None => Err(Error::unexpected(format!("no tensor {name}"), format!("one of shape {expected:?}"))),
        }
    }
}
