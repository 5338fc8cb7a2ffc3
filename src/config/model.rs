//! `model:`, the network and its noise levels.

use super::fields::{FRACTION, Fields, Flag, OneOf, OrNone, POSITIVE, Section};
use super::published::{self, Unused};
use super::unet::UNet;
use crate::error::Result;
pub use crate::net::Architecture;
use crate::net::{Activation, NormKind};
use crate::sde::NoiseLevels;

/// The network and its noise levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Ours: the network, which the published files leave to the runner.
    pub architecture: Architecture,
    /// σ₁, the largest noise level.
    pub sigma_begin: f64,
    /// σ_L, the smallest noise level.
    pub sigma_end: f64,
    /// L, the number of noise levels.
    pub num_classes: usize,
    /// NCSNv2: the spacing of the noise levels.
    pub sigma_dist: SigmaDist,
    /// NCSNv2: the normalisation; the architecture's own if the file does not say it.
    pub normalization: Option<NormKind>,
    /// Ours: what the last instance or batch norm adds to variances; 1e-5 if the file does not say it.
    pub normalizer_eps: Option<f64>,
    /// NCSNv2: the activation.
    pub nonlinearity: Activation,
    /// NCSNv2: whether the convolutions of its program's older networks are divided by their spectral norm.
    pub spec_norm: bool,
    /// NCSNv2: whether there is an EMA of the weights.
    pub ema: bool,
    /// NCSNv2: rate of the EMA; with 0 there is none.
    pub ema_rate: f64,
    /// Channels of the first stage.
    pub ngf: usize,
    /// Ours: convolutions of a classifier.
    pub depth: usize,
    /// ScoreNet's encoder channels.
    pub nef: usize,
    /// ScoreNet's decoder channels.
    pub ndf: usize,
    /// Score-SDE: β at time 0 of VP and sub-VP.
    pub beta_min: f64,
    /// Score-SDE: β at time 1.
    pub beta_max: f64,
    /// Score-SDE: what its U-Nets are made of.
    pub u_net: UNet,
    /// Keys that nothing reads.
    pub unused: Unused,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            architecture: Architecture::Ncsn,
            sigma_begin: 1.0,
            sigma_end: 0.01,
            num_classes: 10,
            sigma_dist: SigmaDist::Geometric,
            normalization: None,
            normalizer_eps: None,
            nonlinearity: Activation::Elu,
            spec_norm: false,
            ema: false,
            ema_rate: 0.999,
            ngf: 64,
            depth: 28,
            nef: 32,
            ndf: 32,
            beta_min: 0.1,
            beta_max: 20.0,
            u_net: UNet::default(),
            unused: Unused::default(),
        }
    }
}

impl Section for Model {
    const NAME: &'static str = "model";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("architecture", &mut self.architecture, &Architecture::NAMES)?;
        f.key("sigma_begin", &mut self.sigma_begin, POSITIVE)?;
        f.key("sigma_end", &mut self.sigma_end, POSITIVE)?;
        let (begin, end) = (self.sigma_begin, self.sigma_end);
        f.check("sigma_end", end < begin, || format!("sigma_end {end} must be below sigma_begin {begin}"))?;
        f.key("num_classes", &mut self.num_classes, 1..=10_000)?;
        f.key("sigma_dist", &mut self.sigma_dist, &SIGMA_DISTS)?;
        f.key("normalization", &mut self.normalization, OrNone(&NORMALIZATIONS))?;
        f.key("normalizer_eps", &mut self.normalizer_eps, OrNone(POSITIVE))?;
        f.key("nonlinearity", &mut self.nonlinearity, &NONLINEARITIES)?;
        f.key("spec_norm", &mut self.spec_norm, Flag)?;
        published::name(f)?;
        published::unread(f)?;
        f.key("ema", &mut self.ema, Flag)?;
        f.key("ema_rate", &mut self.ema_rate, FRACTION)?;
        published::batch_norm(f)?;
        // One channel has no variance over channels, which instance norm++ takes.
        f.key("ngf", &mut self.ngf, 2..=1024)?;
        f.key("depth", &mut self.depth, DEPTH)?;
        f.key("nef", &mut self.nef, 1..=1024)?;
        f.key("ndf", &mut self.ndf, 1..=1024)?;
        f.key("beta_min", &mut self.beta_min, POSITIVE)?;
        f.key("beta_max", &mut self.beta_max, POSITIVE)?;
        let (min, max) = (self.beta_min, self.beta_max);
        f.check("beta_max", min < max, || format!("beta_max {max} must be above beta_min {min}"))?;
        self.u_net.fields(f)?;
        self.unused.fields(f)?;
        published::check_widths(self, f)
    }
}

const DEPTH: OneOf<usize, 16> = OneOf([10, 16, 22, 28, 34, 40, 46, 52, 58, 64, 70, 76, 82, 88, 94, 100]);

/// The spacing of noise levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigmaDist {
    /// Equal ratios.
    Geometric,
    /// Equal differences.
    Uniform,
}

const SIGMA_DISTS: [(&str, SigmaDist); 2] = [("geometric", SigmaDist::Geometric), ("uniform", SigmaDist::Uniform)];

const NORMALIZATIONS: [(&str, NormKind); 5] = [
    ("InstanceNorm++", NormKind::InstanceNormPlus),
    ("InstanceNorm", NormKind::InstanceNorm),
    ("BatchNorm", NormKind::BatchNorm),
    ("VarianceNorm", NormKind::VarianceNorm),
    ("NoneNorm", NormKind::NoNorm),
];

const NONLINEARITIES: [(&str, Activation); 4] = [
    ("elu", Activation::Elu),
    ("relu", Activation::Relu),
    ("lrelu", Activation::LeakyRelu),
    ("swish", Activation::Swish),
];

impl Model {
    /// The noise levels of a network that is trained on many.
    pub(super) fn noise_levels(&self) -> Result<NoiseLevels> {
        let levels = match self.sigma_dist {
            SigmaDist::Geometric => NoiseLevels::geometric,
            SigmaDist::Uniform => NoiseLevels::uniform,
        };
        levels(self.sigma_begin, self.sigma_end, self.num_classes)
    }
}
