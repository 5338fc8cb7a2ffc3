//! Networks by the shapes of their weights.

use super::params::shown_shape;
use super::{
    Activation, Form, InputRange, MLP_WIDTH, NetworkConfig, NormKind, Pool, RefineNetConfig, ScoreNet, ScoreNetConfig,
};
use crate::error::{Error, Result};

/// What the shapes of a network's weights do not tell; a configuration does, see [`NetworkConfig::untold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold {
    /// The range of the network's input.
    pub input: InputRange,
    /// Its activation.
    pub activation: Activation,
    /// Its norm, where [`NormKind::InstanceNorm`] and [`NormKind::NoNorm`] have the same entries.
    pub norm: NormKind,
}

impl Default for Untold {
    fn default() -> Self {
        InputRange::default().into()
    }
}

impl From<InputRange> for Untold {
    /// The published activation and norm.
    fn from(input: InputRange) -> Self {
        Self { input, activation: Activation::Elu, norm: NormKind::InstanceNorm }
    }
}

impl NetworkConfig {
    /// Reads the configuration off the shapes of a network's parameters, under their published names.
    ///
    /// # Errors
    /// When a parameter that tells it is missing or has an impossible shape.
    pub fn from_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>, untold: impl Into<Untold>) -> Result<Self> {
        let shapes = Shapes(shape);
        let config = match shapes.score_net()? {
            Some(config) => Self::ScoreNet(config),
            None => Self::RefineNet(shapes.refine_net(untold.into())?),
        };
        config.check()?;
        Ok(config)
    }
}

/// The shape of each parameter, by its name.
struct Shapes<F>(F);

impl<F: Fn(&str) -> Option<Vec<usize>>> Shapes<F> {
    fn has(&self, name: &str) -> bool {
        (self.0)(name).is_some()
    }

    /// The shape of a tensor of `RANK` dimensions.
    fn of<const RANK: usize>(&self, name: &str) -> Result<[usize; RANK]> {
        match (self.0)(name) {
            Some(dims) => dims.as_slice().try_into().map_err(|_| {
                Error::Usage(format!("{name} has shape {}, expected {RANK} dimensions", shown_shape(&dims)))
            }),
            None => Err(Error::Usage(format!("found no tensor {name}: these are not the weights of an NCSN"))),
        }
    }

    /// Checks a shape that follows from what was found: one of the largest, so that what a file claims and holds bounds what its
    /// network will take.
    fn expect(&self, name: &str, expected: &[usize]) -> Result<()> {
        match (self.0)(name) {
            Some(found) if found == expected => Ok(()),
            Some(found) => {
                Err(Error::Usage(format!("{name} has shape {}, expected {expected:?}", shown_shape(&found))))
            }
            None => Err(Error::Usage(format!("found no tensor {name}, expected one of shape {expected:?}"))),
        }
    }

    fn refine_net(&self, Untold { input, activation, norm: untold }: Untold) -> Result<RefineNetConfig> {
        let [width, channels, ..] = self.of::<4>("begin_conv.weight")?;
        self.expect("res1.0.conv1.weight", &[width, width, 3, 3])?;
        let form = match ["res31", "res5"].map(|stage| self.has(&format!("{stage}.0.conv1.weight"))) {
            [true, _] => Form::Deepest,
            [false, true] => Form::Deeper,
            [false, false] => Form::Ncsn,
        };
        // Which of those that have the same entries.
        let same_entries = if untold == NormKind::NoNorm { untold } else { NormKind::InstanceNorm };
        let (levels, norm) = if self.has("normalizer.embed.weight") {
            let [n_levels, n_columns] = self.of::<2>("normalizer.embed.weight")?;
            let norm = match n_columns.checked_div(width) {
                Some(3) => NormKind::InstanceNormPlus,
                Some(1) => NormKind::VarianceNorm,
                _ => same_entries,
            };
            let [n_columns, _] = norm.columns().map(|n| width.saturating_mul(n));
            self.expect("normalizer.embed.weight", &[n_levels, n_columns])?;
            (Some(n_levels), norm)
        } else {
            let norm = match ["gamma", "alpha"].map(|entry| self.has(&format!("normalizer.{entry}"))) {
                [true, _] => NormKind::InstanceNormPlus,
                [false, true] => NormKind::VarianceNorm,
                [false, false] => same_entries,
            };
            if norm != same_entries {
                self.expect("normalizer.alpha", &[width])?;
            }
            (None, norm)
        };
        // Only NCSN's refine blocks have norms; without entries, they would be those of NCSNv2.
        let has_norms = ["embed.weight", "alpha"].iter().any(|entry| self.has(&format!("refine1.crp.norms.0.{entry}")));
        let pool = if has_norms { Pool::Mean } else { Pool::Max };
        Ok(RefineNetConfig { form, channels, width, levels, norm, activation, pool, input })
    }

    /// The networks of the sliced-score-matching experiments; `None` for others.
    fn score_net(&self) -> Result<Option<ScoreNetConfig>> {
        let below = |level: &str| self.has(&format!("{level}.model.1.weight"));
        // The name tells the network; the first weight's output features are so many times the width.
        let (net, name, factor) = if self.has("deconvs.5.weight") {
            (ScoreNet::ResScore, "convs.0.weight", 1)
        } else if self.has("model.17.weight") {
            (ScoreNet::ResNetScore, "model.1.weight", 2)
        } else if self.has("model.model.8.conv_block.5.weight") {
            (ScoreNet::UNetResScore, "model.model.0.weight", 2)
        } else if below("model.model.1") {
            (ScoreNet::UNetScore, "model.model.0.weight", 2)
        } else if self.has("u_net.15.weight") {
            (ScoreNet::Score, "u_net.0.weight", 1)
        } else if self.has("u_net.9.weight") {
            (ScoreNet::SmallScore, "u_net.0.weight", 4)
        } else if self.has("main.9.weight") {
            return match self.of("main.0.weight") {
                Ok([_, n_pixels]) if n_pixels.is_multiple_of(100) => {
                    let channels = n_pixels / 100;
                    Ok(Some(ScoreNetConfig { net: ScoreNet::MlpScore, channels, width: MLP_WIDTH, size: 10 }))
                }
                _ => Err(Error::Usage("main.0.weight is not that of an MLPScore".into())),
            };
        } else {
            return Ok(None);
        };
        let [n_out, n_in, ..] = match self.of::<4>(name) {
            Ok(dims) if dims[0].is_multiple_of(factor) => dims,
            _ => return Err(Error::Usage(format!("{name} is not that of a network we know"))),
        };
        let (width, channels) = (n_out / factor, if net == ScoreNet::ResScore { 3 } else { n_in });
        let deep = net == ScoreNet::UNetScore && below("model.model.1.model.3.model.3.model.3");
        let mut config = ScoreNetConfig { net, channels, width, size: 32 };
        if !deep {
            config.size = NetworkConfig::ScoreNet(config.clone()).architecture().sizes().smallest;
        }
        let times = |n: usize| width.saturating_mul(n);
        let pixels = |side: usize| channels.saturating_mul(side * side);
        match net {
            ScoreNet::ResScore => self.expect("convs.5.main.0.weight", &[times(4), times(4), 3, 3])?,
            ScoreNet::ResNetScore => self.expect("model.7.conv_block.1.weight", &[times(4), times(4), 3, 3])?,
            ScoreNet::UNetScore => {
                self.expect("model.model.1.model.3.model.5.weight", &[times(16), times(4), 4, 4])?;
            }
            ScoreNet::UNetResScore => {
                self.expect("model.model.4.model.5.model.7.weight", &[times(16), times(4), 4, 4])?;
            }
            ScoreNet::Score => {
                self.expect("fc.0.weight", &[1024, pixels(28)])?;
                self.expect("u_net.6.weight", &[times(4), times(2), 5, 5])?;
            }
            ScoreNet::SmallScore => {
                self.expect("fc.0.weight", &[256, pixels(10)])?;
                self.expect("u_net.3.weight", &[times(8), times(4), 3, 3])?;
            }
            ScoreNet::MlpScore => {}
        }
        Ok(Some(config))
    }
}
