//! What a network is built from.

use std::fmt;

use super::norm::EPSILON;
use super::recognise::Shapes;
use super::{Activation, NormKind, Pool, UNetConfig, Untold, WideResNetConfig};
use crate::error::{Error, Result};

/// Which network, as files of configuration name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Four stages, instance norm++: the network of the paper's results (Song & Ermon 2019).
    Ncsn,
    /// Five stages, plain conditional instance norm: for larger images.
    Deeper,
    /// As [`Self::Ncsn`], for one noise level: the norms have no table.
    Baseline,
    /// Four stages, not given the noise level: for images up to 64 pixels (Song & Ermon 2020).
    NcsnV2,
    /// Five stages: for 96 to 128 pixels.
    NcsnV2Deeper,
    /// Six stages: for 256 pixels.
    NcsnV2Deepest,
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
    /// A U-Net with attention, told the time (Ho et al. 2020).
    Ddpm,
    /// NCSN++ and DDPM++, its successors (Song et al. 2021).
    NcsnPp,
    /// The classifier of perturbed images, by whose gradients samples of a class are drawn (Song et al. 2021, appendix I.1): no score.
    WideResNet,
}

/// The stages of a RefineNet: how many there are, and how often they halve the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Four, one of which halves the size.
    Ncsn,
    /// Five, two of which do.
    Deeper,
    /// Six, three of which do.
    Deepest,
}

/// One of the networks of the sliced-score-matching experiments; they are not given the noise level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Architecture, which has the same names")]
pub enum ScoreNet {
    ResScore,
    ResNetScore,
    UNetScore,
    UNetResScore,
    Score,
    SmallScore,
    MlpScore,
}

/// What an [`Architecture`] stands for.
#[derive(Clone, Copy)]
#[allow(clippy::enum_variant_names, reason = "networks are called so")]
enum Family {
    RefineNet { form: Form, is_conditional: bool, norm: NormKind, pool: Pool },
    ScoreNet(ScoreNet),
    UNet(fn(usize, usize, usize) -> UNetConfig),
    WideResNet,
}

/// An architecture: its name in files of configuration, what it is, the sides of its images ([`Sizes`]), what its width is a multiple
/// of, and what it keeps of an image ([`Memory`]).
struct Row {
    name: &'static str,
    architecture: Architecture,
    family: Family,
    sizes: [usize; 3],
    width_multiple: usize,
    memory: Memory,
}

/// Numbers of f32 that are there at once for each image, in units of the width times the pixels: all activations of a network are
/// multiples of these, but for the few of its input and output. Measured: the difference of two peaks of resident memory, over that
/// of the batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// In a step of denoising score matching.
    pub denoising: f64,
    /// In one of sliced score matching: three to four times as many, because operations with tangents are not fused, and keep what they
    /// pass on.
    pub sliced: f64,
    /// In sampling.
    pub sampling: f64,
}

/// Each halving needs an even size, and linear layers one size.
const ROWS: [Row; 16] = {
    use {Architecture as A, Family as F, Form::*, NormKind::*, Pool::*, ScoreNet as S};
    const fn net(form: Form, is_conditional: bool, norm: NormKind, pool: Pool) -> Family {
        Family::RefineNet { form, is_conditional, norm, pool }
    }
    const fn row(
        (name, architecture): (&'static str, A),
        family: F,
        sizes: [usize; 3],
        width_multiple: usize,
        [denoising, sliced, sampling]: [f64; 3],
    ) -> Row {
        Row { name, architecture, family, sizes, width_multiple, memory: Memory { denoising, sliced, sampling } }
    }
    const MANY: usize = usize::MAX;
    [
        row(("ncsn", A::Ncsn), net(Ncsn, true, InstanceNormPlus, Mean), [2, 2, MANY], 1, [93.0, 372.0, 9.0]),
        row(("deeper", A::Deeper), net(Deeper, true, InstanceNorm, Mean), [4, 4, MANY], 1, [79.0, 316.0, 9.0]),
        row(("baseline", A::Baseline), net(Ncsn, false, InstanceNormPlus, Mean), [2, 2, MANY], 1, [93.0, 372.0, 9.0]),
        row(("ncsnv2", A::NcsnV2), net(Ncsn, false, InstanceNormPlus, Max), [2, 2, MANY], 1, [73.0, 280.0, 9.0]),
        row(
            ("ncsnv2_deeper", A::NcsnV2Deeper),
            net(Deeper, false, InstanceNormPlus, Max),
            [4, 4, MANY],
            1,
            [63.0, 242.0, 9.0],
        ),
        row(
            ("ncsnv2_deepest", A::NcsnV2Deepest),
            net(Deepest, false, InstanceNormPlus, Max),
            [8, 8, MANY],
            1,
            [56.0, 215.0, 9.0],
        ),
        row(("resscore", A::ResScore), F::ScoreNet(S::ResScore), [4, 4, MANY], 8, [41.0, 118.0, 9.0]),
        // Borders of three pixels are mirrored.
        row(("resnetscore", A::ResNetScore), F::ScoreNet(S::ResNetScore), [2, 4, MANY], 1, [89.0, 195.0, 18.0]),
        row(("unetscore", A::UNetScore), F::ScoreNet(S::UNetScore), [16, 16, 32], 1, [11.0, 26.0, 6.0]),
        // As are borders of one pixel, where 16 pixels would be one.
        row(("unetresscore", A::UNetResScore), F::ScoreNet(S::UNetResScore), [16, 32, MANY], 1, [28.0, 71.0, 8.0]),
        row(("score", A::Score), F::ScoreNet(S::Score), [28, 28, 28], 4, [5.0, 11.0, 1.5]),
        row(("smallscore", A::SmallScore), F::ScoreNet(S::SmallScore), [10, 10, 10], 1, [29.0, 62.0, 9.0]),
        row(("mlpscore", A::MlpScore), F::ScoreNet(S::MlpScore), [10, 10, 10], 1, [0.12, 0.3, 0.05]),
        // What the sides are multiples of, and what they keep, follows from their options.
        row(("ddpm", A::Ddpm), F::UNet(UNetConfig::ddpm), [1, 1, MANY], 32, [0.0; 3]),
        row(("ncsnpp", A::NcsnPp), F::UNet(UNetConfig::ncsnpp), [1, 1, MANY], 4, [0.0; 3]),
        // What it keeps follows from its depth.
        row(("wide_resnet", A::WideResNet), F::WideResNet, [4, 4, MANY], 16, [0.0; 3]),
    ]
};

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

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    fn row(self) -> &'static Row {
        ROWS.iter().find(|row| row.architecture == self).expect("every architecture has a row")
    }

    /// All of them with their names in files of configuration.
    pub const NAMES: [(&'static str, Self); ROWS.len()] = {
        let mut names = [("", Self::Ncsn); ROWS.len()];
        let mut i = 0;
        while i < ROWS.len() {
            names[i] = (ROWS[i].name, ROWS[i].architecture);
            i += 1;
        }
        names
    };

    /// Its name in files of configuration.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The sides that its images may have.
    pub fn sizes(self) -> Sizes {
        let [multiple, smallest, largest] = self.row().sizes;
        Sizes { multiple, smallest, largest }
    }

    /// What the width must be a multiple of, for groups of channels.
    pub fn width_multiple(self) -> usize {
        self.row().width_multiple
    }

    /// Whether the network is given the noise level.
    pub fn is_conditional(self) -> bool {
        matches!(
            self.row().family,
            Family::RefineNet { is_conditional: true, .. } | Family::UNet(_) | Family::WideResNet
        )
    }

    /// The network of these dimensions, with the options that the published one has.
    pub fn network(self, dimensions: Dimensions) -> NetworkConfig {
        let Dimensions { channels, width, size, n_levels } = dimensions;
        match self.row().family {
            Family::RefineNet { form, is_conditional, norm, pool } => NetworkConfig::RefineNet(RefineNetConfig {
                form,
                channels,
                width,
                levels: is_conditional.then_some(n_levels),
                norm,
                normalizer_eps: EPSILON,
                spec_norm: false,
                activation: Activation::Elu,
                pool,
                input: InputRange::Unit,
            }),
            Family::ScoreNet(net) => NetworkConfig::ScoreNet(ScoreNetConfig { net, channels, width, size }),
            Family::UNet(published) => NetworkConfig::UNet(published(channels, width, size)),
            Family::WideResNet => {
                NetworkConfig::WideResNet(WideResNetConfig { channels, width, ..WideResNetConfig::cifar10() })
            }
        }
    }
}

/// The range of the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InputRange {
    /// Pixels in [0, 1], which the network maps to 2x − 1.
    #[default]
    Unit,
    /// Logits, or pixels in [−1, 1], used as they are.
    Logit,
}

/// What all networks have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Channels of the images.
    pub channels: usize,
    /// What the numbers of features of all stages are multiples of: `ngf` or `nef` in the published program.
    /// MLPScore's are fixed.
    pub width: usize,
    /// The side of the images, which UNetScore is built for; the others take what [`Architecture::sizes`] allows.
    pub size: usize,
    /// Noise levels, of a network that is given them; `num_classes` in the published program.
    pub n_levels: usize,
}

/// A RefineNet with dilated residual blocks: NCSN, its deeper form and its baseline (Song & Ermon 2019, appendix A), and the three
/// networks of NCSNv2 (Song & Ermon 2020, appendix B).
#[derive(Clone, Debug, PartialEq)]
pub struct RefineNetConfig {
    /// Its stages.
    pub form: Form,
    /// Channels of the images.
    pub channels: usize,
    /// Features of the first stage; `ngf` in the published programs.
    pub width: usize,
    /// How many noise levels its norms have scales for; `None` for a network that is not given the level.
    pub levels: Option<usize>,
    /// Its normalisation.
    pub norm: NormKind,
    /// What its last instance or batch norm adds to variances: 1e-5, or the number of levels in networks that NCSNv2's program trained.
    pub normalizer_eps: f64,
    /// Whether the weights of all convolutions but the first and the last are divided by their spectral norms, which training
    /// estimates (Miyato et al. 2018). Weights that are opened to draw samples have been divided already.
    pub spec_norm: bool,
    /// Its activation.
    pub activation: Activation,
    /// Chained residual pooling. A network that pools by means has norms in its refine blocks (NCSN), one that pools by maxima has
    /// none there (NCSNv2).
    pub pool: Pool,
    /// The range of its input.
    pub input: InputRange,
}

/// A network of the sliced-score-matching experiments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreNetConfig {
    /// Which of them.
    pub net: ScoreNet,
    /// Channels of the images.
    pub channels: usize,
    /// Features of the first stage, see [`Dimensions::width`].
    pub width: usize,
    /// The side of the images.
    pub size: usize,
}

/// Everything that determines a network's parameters and its output, a variant a family.
#[derive(Clone, Debug, PartialEq)]
pub enum NetworkConfig {
    /// NCSN and NCSNv2.
    RefineNet(RefineNetConfig),
    /// The networks of the sliced-score-matching experiments.
    ScoreNet(ScoreNetConfig),
    /// The U-Nets of DDPM and Score-SDE.
    UNet(UNetConfig),
    /// The classifier of Score-SDE.
    WideResNet(WideResNetConfig),
}

impl RefineNetConfig {
    /// NCSN's network (Song & Ermon 2019) for `n_levels` noise levels.
    pub fn ncsn(channels: usize, width: usize, n_levels: usize) -> Self {
        let (form, norm, activation) = (Form::Ncsn, NormKind::InstanceNormPlus, Activation::Elu);
        let (levels, input) = (Some(n_levels), InputRange::Unit);
        let (normalizer_eps, pool) = (EPSILON, Pool::Mean);
        Self { form, channels, width, levels, norm, normalizer_eps, spec_norm: false, activation, pool, input }
    }

    /// NCSNv2's network (Song & Ermon 2020) of the given form.
    pub fn ncsnv2(form: Form, channels: usize, width: usize) -> Self {
        Self { form, levels: None, pool: Pool::Max, ..Self::ncsn(channels, width, 1) }
    }

    /// The normalisation of its refine blocks.
    pub(super) fn refine_norm(&self) -> NormKind {
        match self.pool {
            Pool::Mean => self.norm,
            Pool::Max => NormKind::NoNorm,
        }
    }

    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On zero channels or levels, a width below 2 (instance norm++ takes the variance over channels), or a form that has no name.
    pub fn check(&self) -> Result<()> {
        let Self { form, channels, width, levels, pool, .. } = self;
        if *channels == 0 || *levels == Some(0) || *width < 2 {
            let n_levels = levels.unwrap_or(1);
            return Err(Error::unexpected(
                format!("a network of {channels} channels, {n_levels} levels and width {width}"),
                "at least 1 channel, 1 level and width 2",
            ));
        }
        if self.architecture().is_none() {
            let levels = if levels.is_some() { "with" } else { "without" };
            return Err(Error::unexpected(
                format!("a RefineNet of the form {form:?} {levels} levels that pools by {pool:?}"),
                "NCSN's (with levels, Ncsn or Deeper, Mean), its baseline's (without, Ncsn, Mean) or NCSNv2's (without, any, Max)",
            ));
        }
        Ok(())
    }

    /// What it is called; `None` for what no program has published.
    fn architecture(&self) -> Option<Architecture> {
        let is_this = |row: &&Row| match row.family {
            Family::RefineNet { form, is_conditional, pool, .. } => {
                (form, is_conditional, pool) == (self.form, self.levels.is_some(), self.pool)
            }
            Family::ScoreNet(_) | Family::UNet(_) | Family::WideResNet => false,
        };
        Some(ROWS.iter().find(is_this)?.architecture)
    }
}

impl ScoreNetConfig {
    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On zero channels, a width below 2, or what the architecture cannot do.
    pub fn check(&self) -> Result<()> {
        let Self { net, channels, width, size } = self;
        if *channels == 0 || *width < 2 {
            return Err(Error::unexpected(
                format!("a network of {channels} channels and width {width}"),
                "at least 1 channel and width 2",
            ));
        }
        if *net == ScoreNet::ResScore && *channels != 3 {
            return Err(Error::value("the number of ResScore's channels", channels, "3"));
        }
        let multiple = self.architecture().width_multiple();
        if !width.is_multiple_of(multiple) {
            return Err(Error::value(format!("the width of {net:?}"), width, format!("a multiple of {multiple}")));
        }
        if *net == ScoreNet::UNetScore && !self.architecture().sizes().contains(*size) {
            return Err(Error::value("the side of UNetScore's images", size, "16 or 32"));
        }
        Ok(())
    }

    pub(super) fn architecture(&self) -> Architecture {
        let is_this = |row: &&Row| matches!(row.family, Family::ScoreNet(net) if net == self.net);
        ROWS.iter().find(is_this).expect("every network has a row").architecture
    }
}

impl NetworkConfig {
    /// Reads the configuration off the shapes of a network's parameters, under their published names.
    ///
    /// # Errors
    /// When a parameter that tells it is missing or has an impossible shape.
    pub fn from_shapes(shape: impl Fn(&str) -> Option<Vec<usize>>, untold: impl Into<Untold>) -> Result<Self> {
        let (shapes, untold) = (Shapes(&shape), untold.into());
        let config = if let Some(config) = UNetConfig::from_shapes(&shapes, untold.u_net.clone())? {
            Self::UNet(config)
        } else if let Some(config) = WideResNetConfig::from_shapes(&shapes)? {
            Self::WideResNet(config)
        } else if let Some(config) = ScoreNetConfig::from_shapes(&shapes)? {
            Self::ScoreNet(config)
        } else {
            Self::RefineNet(RefineNetConfig::from_shapes(&shapes, untold)?)
        };
        config.check()?;
        Ok(config)
    }

    /// Whether these are shapes of a network that we know, though they may not tell all of its options.
    pub fn is_known(shape: impl Fn(&str) -> Option<Vec<usize>>) -> bool {
        UNetConfig::is_one(&Shapes(&shape)) || Self::from_shapes(shape, InputRange::Unit).is_ok()
    }

    /// What it is called.
    ///
    /// # Panics
    /// If it is not one that [`Self::check`] lets pass.
    pub fn architecture(&self) -> Architecture {
        match self {
            Self::RefineNet(config) => config.architecture().expect("a network that was checked"),
            Self::ScoreNet(config) => config.architecture(),
            Self::UNet(config) => config.architecture(),
            Self::WideResNet(_) => Architecture::WideResNet,
        }
    }

    /// What it keeps of an image.
    pub fn memory(&self) -> Memory {
        match self {
            Self::UNet(config) => config.memory(),
            Self::WideResNet(config) => config.memory(),
            other => other.architecture().row().memory,
        }
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        match self {
            Self::RefineNet(config) => config.channels,
            Self::ScoreNet(config) => config.channels,
            Self::UNet(config) => config.channels,
            Self::WideResNet(config) => config.channels,
        }
    }

    /// See [`Dimensions::width`].
    pub fn width(&self) -> usize {
        match self {
            Self::RefineNet(config) => config.width,
            Self::ScoreNet(config) => config.width,
            Self::UNet(config) => config.width,
            Self::WideResNet(config) => config.width,
        }
    }

    /// The same network with another width.
    pub fn with_width(self, width: usize) -> Self {
        match self {
            Self::RefineNet(config) => Self::RefineNet(RefineNetConfig { width, ..config }),
            Self::ScoreNet(config) => Self::ScoreNet(ScoreNetConfig { width, ..config }),
            Self::UNet(config) => Self::UNet(UNetConfig { width, ..config }),
            Self::WideResNet(config) => Self::WideResNet(WideResNetConfig { width, ..config }),
        }
    }

    /// The same network with another range of its input; those of the sliced-score-matching experiments have one that is fixed, and to a
    /// classifier, which standardises images, it is the same.
    pub fn with_input(self, input: InputRange) -> Self {
        match self {
            Self::RefineNet(config) => Self::RefineNet(RefineNetConfig { input, ..config }),
            Self::UNet(config) => Self::UNet(UNetConfig { input, ..config }),
            Self::ScoreNet(_) | Self::WideResNet(_) => self,
        }
    }

    /// How many noise levels it knows; `None` for a network that is not given the level, or is given a number of any size.
    pub fn levels(&self) -> Option<usize> {
        match self {
            Self::RefineNet(config) => config.levels,
            Self::ScoreNet(_) | Self::UNet(_) | Self::WideResNet(_) => None,
        }
    }

    /// The sides that its images may have.
    pub fn sizes(&self) -> Sizes {
        let sizes = self.architecture().sizes();
        match self {
            Self::ScoreNet(ScoreNetConfig { net: ScoreNet::UNetScore, size, .. }) => {
                Sizes { smallest: *size, largest: *size, ..sizes }
            }
            Self::UNet(config) => Sizes { multiple: config.multiple(), smallest: config.multiple(), ..sizes },
            _ => sizes,
        }
    }

    /// What the shapes of its weights do not tell.
    pub fn untold(&self) -> Untold {
        match self {
            Self::RefineNet(RefineNetConfig { norm, normalizer_eps, activation, input, .. }) => {
                let u_net = None;
                Untold { norm: *norm, normalizer_eps: *normalizer_eps, activation: *activation, input: *input, u_net }
            }
            Self::UNet(config) => Untold { u_net: Some(config.clone()), ..Untold::default() },
            Self::ScoreNet(_) | Self::WideResNet(_) => Untold::default(),
        }
    }

    /// Whether the weights of `other` are those of this network. Most take images of any size, and weights that were divided by their
    /// spectral norms are weights as any.
    pub fn has_weights_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ScoreNet(own), Self::ScoreNet(other)) => {
                ScoreNetConfig { size: other.size, ..own.clone() } == *other
            }
            (Self::RefineNet(own), Self::RefineNet(other)) => {
                RefineNetConfig { spec_norm: other.spec_norm, ..own.clone() } == *other
            }
            _ => self == other,
        }
    }

    /// Whether such a network can be built.
    ///
    /// # Errors
    /// As [`RefineNetConfig::check`], [`ScoreNetConfig::check`], [`UNetConfig::check`] and [`WideResNetConfig::check`].
    pub fn check(&self) -> Result<()> {
        match self {
            Self::RefineNet(config) => config.check(),
            Self::UNet(config) => config.check(),
            Self::WideResNet(config) => config.check(),
            Self::ScoreNet(config) => config.check(),
        }
    }
}

/// Features of MLPScore's first layer.
pub const MLP_WIDTH: usize = 1024;
