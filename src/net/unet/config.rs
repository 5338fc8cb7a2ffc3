//! What a U-Net is built from, and the steps that follow from it.

use burn::tensor::Device;

use super::super::recognise::Shapes;
use super::super::{Activation, Architecture, InputRange, Memory, params};
use super::{BlockForm, Combination, Groups, Scale, Step, Style, Taps};
use crate::error::{Error, Result};
use crate::noise::Stream;

/// A U-Net (Ho et al. 2020, appendix B; Song et al. 2021, appendix H).
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// Channels of the images.
    pub channels: usize,
    /// Features of the first stage; `nf` in the published program.
    pub width: usize,
    /// The side of the images, by which [`Self::attention`] finds its stages.
    pub size: usize,
    /// The features of each stage, in units of the width; `ch_mult`. Each stage but the last halves the size.
    pub multipliers: Vec<usize>,
    /// Residual blocks of each stage on the way down; one more on the way up. `num_res_blocks`.
    pub n_blocks: usize,
    /// At which sides there is attention; `attn_resolutions`. There always is in the middle.
    pub attention: Vec<usize>,
    /// How the label becomes features.
    pub embedding: Embedding,
    /// Whether the blocks are told the time.
    pub conditional: bool,
    /// How residual blocks are made, and with them changes of size; `resblock_type`.
    pub block: BlockForm,
    /// Whether changes of size that are no residual blocks have a convolution; `resamp_with_conv`.
    pub resample_conv: bool,
    /// How smaller images enter the network; `progressive_input`.
    pub progressive_input: Progressive,
    /// How the output grows with the size; `progressive`.
    pub progressive: Progressive,
    /// How images join features, where [`Self::progressive_input`] is [`Progressive::Skip`]; `progressive_combine`.
    pub combination: Combination,
    /// What all parts have in common.
    pub style: Style,
    /// The range of its input.
    pub input: InputRange,
}

/// How a label becomes features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Embedding {
    /// sin and cos of the label.
    Positional,
    /// sin and cos of its logarithm, with random frequencies.
    Fourier {
        /// Standard deviation of the frequencies; `fourier_scale`.
        scale: f64,
    },
}

/// How images of other sizes take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progressive {
    /// They do not.
    None,
    /// Each size has images of its own: `input_skip`, `output_skip`.
    Skip,
    /// Convolutions lead from size to size: `residual`.
    Residual,
}

/// The scale of the frequencies in all published files.
const FOURIER_SCALE: f64 = 16.0;

impl UNetConfig {
    /// The network of DDPM (Ho et al. 2020) for CIFAR-10's size, of this width.
    pub fn ddpm(channels: usize, width: usize, size: usize) -> Self {
        Self {
            channels,
            width,
            size,
            multipliers: vec![1, 2, 2, 2],
            n_blocks: 2,
            attention: vec![16],
            embedding: Embedding::Positional,
            conditional: true,
            block: BlockForm::Ddpm { conv_shortcut: false },
            resample_conv: true,
            progressive_input: Progressive::None,
            progressive: Progressive::None,
            combination: Combination::Sum,
            style: Style {
                groups: Groups::Fixed,
                activation: Activation::Swish,
                dropout: 0.1,
                skip_rescale: false,
                init_scale: 0.0,
                taps: Taps::Box,
            },
            input: InputRange::Logit,
        }
    }

    /// NCSN++ (Song et al. 2021) for CIFAR-10's size, of this width, for continuous times.
    pub fn ncsnpp(channels: usize, width: usize, size: usize) -> Self {
        let ddpm = Self::ddpm(channels, width, size);
        Self {
            n_blocks: 4,
            embedding: Embedding::Fourier { scale: FOURIER_SCALE },
            block: BlockForm::BigGan,
            progressive_input: Progressive::Residual,
            style: Style {
                groups: Groups::Quarter,
                skip_rescale: true,
                taps: Taps::Fir(vec![1.0, 3.0, 3.0, 1.0]),
                ..ddpm.style
            },
            input: InputRange::Unit,
            ..ddpm
        }
    }

    /// DDPM++ (Song et al. 2021) for CIFAR-10's size, of this width.
    pub fn ddpmpp(channels: usize, width: usize, size: usize) -> Self {
        let ncsnpp = Self::ncsnpp(channels, width, size);
        Self {
            embedding: Embedding::Positional,
            progressive_input: Progressive::None,
            style: Style { taps: Taps::Box, ..ncsnpp.style },
            input: InputRange::Logit,
            ..ncsnpp
        }
    }

    /// What it is called.
    pub(in crate::net) fn architecture(&self) -> Architecture {
        match self.style.groups {
            Groups::Fixed => Architecture::Ddpm,
            Groups::Quarter => Architecture::NcsnPp,
        }
    }

    /// What the sides of images are multiples of.
    pub fn multiple(&self) -> usize {
        1 << (self.multipliers.len() - 1)
    }

    /// Whether such a network can be built.
    ///
    /// # Errors
    /// On a number that is 0, a size that cannot be halved as often as there are stages, a filter of fewer than two taps or without a
    /// sum, or channels that do not go into groups.
    pub fn check(&self) -> Result<()> {
        let Self { channels, width, size, multipliers, n_blocks, style, .. } = self;
        if *channels == 0 || *n_blocks == 0 || *width < 4 {
            return Err(Error::unexpected(
                format!("a U-Net of {channels} channels, {n_blocks} blocks a stage and width {width}"),
                "at least 1 channel, 1 block and width 4",
            ));
        }
        if multipliers.is_empty() || multipliers.len() > MAX_STAGES || multipliers.contains(&0) {
            let expected = format!("1 to {MAX_STAGES} positive numbers");
            return Err(Error::value("the multiples of a U-Net's width", format!("{multipliers:?}"), expected));
        }
        let multiple = self.multiple();
        if *size == 0 || !size.is_multiple_of(multiple) {
            let expected = format!("a multiple of {multiple}: its {} stages halve it", multipliers.len());
            return Err(Error::value("the side of a U-Net's images", size, expected));
        }
        if let Taps::Fir(taps) = &style.taps {
            let sum: f64 = taps.iter().sum();
            if !(2..=MAX_TAPS).contains(&taps.len()) || !sum.is_finite() || sum == 0.0 {
                let expected = format!("2 to {MAX_TAPS} numbers whose sum is not 0");
                return Err(Error::value("the taps of a FIR filter", format!("{taps:?}"), expected));
            }
        }
        if !(0.0..1.0).contains(&style.dropout) {
            return Err(Error::value("the probability of dropout", style.dropout, "a number from 0 to below 1"));
        }
        let normalised = self.steps().into_iter().flat_map(Step::normalised);
        for n in normalised {
            let n_groups = style.groups.of(n);
            if n_groups == 0 || !n.is_multiple_of(n_groups) {
                let expected = format!("another width than {width}, of which they are a multiple of their groups");
                return Err(Error::unexpected(format!("{n} channels in {n_groups} groups"), expected));
            }
        }
        Ok(())
    }

    /// Features of the time.
    pub(super) fn n_time(&self) -> usize {
        4 * self.width
    }

    /// What it does, from the label and the image to the output.
    pub(super) fn steps(&self) -> Vec<Step> {
        let (channels, width, n_time) = (self.channels, self.width, self.n_time());
        let mut steps = Vec::new();
        let n_features = match self.embedding {
            Embedding::Positional => width,
            Embedding::Fourier { .. } => {
                steps.push(Step::Fourier);
                2 * width
            }
        };
        if self.conditional {
            steps.extend([Step::Time([n_features, n_time]), Step::Time([n_time, n_time])]);
        }
        let change = |n, scale| match self.block {
            BlockForm::Ddpm { .. } => Step::Resample([n, n], scale),
            BlockForm::BigGan => Step::Block([n, n], Some(scale)),
        };
        let has_attention = |stage: usize| self.attention.contains(&(self.size >> stage));
        let stages: Vec<(usize, usize)> = self.multipliers.iter().map(|k| k * width).enumerate().collect();
        steps.extend([Step::Conv([channels, width]), Step::Save]);
        let (mut n, mut saved, mut n_image) = (width, vec![width], channels);
        for &(stage, n_stage) in &stages {
            for _ in 0..self.n_blocks {
                steps.push(Step::Block([n, n_stage], None));
                n = n_stage;
                steps.extend(has_attention(stage).then_some(Step::Attention(n)));
                steps.push(Step::Save);
                saved.push(n);
            }
            if stage + 1 < stages.len() {
                steps.push(change(n, Scale::Down));
                match self.progressive_input {
                    Progressive::None => {}
                    Progressive::Skip => {
                        steps.push(Step::JoinImage([channels, n]));
                        n *= if self.combination == Combination::Cat { 2 } else { 1 };
                    }
                    Progressive::Residual => {
                        steps.push(Step::AddImage([n_image, n]));
                        n_image = n;
                    }
                }
                steps.push(Step::Save);
                saved.push(n);
            }
        }
        steps.extend([Step::Block([n, n], None), Step::Attention(n), Step::Block([n, n], None)]);
        let mut n_output = None;
        for &(stage, n_stage) in stages.iter().rev() {
            for _ in 0..=self.n_blocks {
                let n_saved = saved.pop().expect("one for each block on the way up");
                steps.push(Step::BlockWithSaved([n + n_saved, n_stage]));
                n = n_stage;
            }
            steps.extend(has_attention(stage).then_some(Step::Attention(n)));
            match (self.progressive, n_output) {
                (Progressive::None, _) => {}
                (Progressive::Skip, _) => steps.push(Step::Output([n, channels])),
                (Progressive::Residual, None) => steps.push(Step::Output([n, n])),
                (Progressive::Residual, Some(n_output)) => steps.push(Step::AddOutput([n_output, n])),
            }
            n_output = Some(n);
            steps.extend((stage > 0).then(|| change(n, Scale::Up)));
        }
        if self.progressive != Progressive::Skip {
            steps.push(Step::End([n, channels]));
        }
        steps
    }

    /// Whether these are shapes of a U-Net's weights.
    pub(in crate::net) fn is_one(shapes: &Shapes<'_>) -> bool {
        ["all_modules.0.W", "all_modules.0.weight"].iter().any(|name| shapes.has(name))
    }

    /// The network with weights of these shapes, which must be `told`: shapes say little of its options. `None` if they are no U-Net's.
    pub(in crate::net) fn from_shapes(shapes: &Shapes<'_>, told: Option<Self>) -> Result<Option<Self>> {
        if !Self::is_one(shapes) {
            return Ok(None);
        }
        let Some(config) = told else {
            return Err(Error::unexpected(
                "weights of a U-Net",
                "the configuration with them, which tells its options",
            ));
        };
        config.check()?;
        config.expect_shapes(shapes).map(|()| Some(config))
    }

    /// Parameters that it has.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn n_parameters(&self) -> Result<usize> {
        self.check()?;
        // A part at a time, so that there is never a whole network.
        let count = |step: Step| -> usize {
            step.parts(self, &mut Stream::silent(), &Device::flex()).iter().map(params::count).sum()
        };
        Ok(self.steps().into_iter().map(count).sum())
    }

    /// What it keeps of an image.
    pub(in crate::net) fn memory(&self) -> Memory {
        let (mut side, mut channels) = (self.size, self.channels);
        let (mut kept, mut pairs, mut saved, mut at_once) = (0.0, 0.0, 0.0, 0.0f64);
        for step in self.steps() {
            if let Step::Block(_, Some(scale)) | Step::Resample(_, scale) = step {
                side = scale.of(side);
            }
            if let Step::Conv([_, n]) | Step::Block([_, n], _) = step {
                channels = n;
            }
            let n_pixels = (side * side) as f64;
            kept += step.n_kept() * n_pixels;
            pairs += if matches!(step, Step::Attention(_)) { 2.0 * n_pixels * n_pixels } else { 0.0 };
            at_once = at_once.max(step.n_at_once() as f64 * n_pixels);
            saved += if step == Step::Save { channels as f64 * n_pixels } else { 0.0 };
        }
        let unit = (self.width * self.size * self.size) as f64;
        // Operations with tangents keep what they pass on, and the attention of all pairs of pixels.
        let sliced = 4.0 * (kept + pairs);
        Memory { denoising: kept / unit, sliced: sliced / unit, sampling: (saved + 1.45 * at_once) / unit }
    }

    /// Whether shapes are those of the weights of this network: of one tensor of each part, so that what a file holds bounds what its
    /// network will take.
    fn expect_shapes(&self, shapes: &Shapes<'_>) -> Result<()> {
        let mut number = 0;
        for step in self.steps() {
            for (name, shape) in step.shapes(self) {
                if let Some(name) = name {
                    shapes.expect(&format!("all_modules.{number}.{name}"), &shape)?;
                }
                number += 1;
            }
        }
        Ok(())
    }
}

/// The most stages: images of 1024 pixels have eight.
const MAX_STAGES: usize = 12;
/// The most taps of a filter.
const MAX_TAPS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_the_published_networks() {
        // Modules of the published networks at CIFAR-10's size, and 256 pixels.
        let n_parts = |config: &UNetConfig| config.steps().into_iter().map(|step| step.n_parts()).sum::<usize>();
        let (ddpm, ncsnpp) = (UNetConfig::ddpm(3, 128, 32), UNetConfig::ncsnpp(3, 128, 32));
        let ddpmpp = UNetConfig::ddpmpp(3, 128, 32);
        let positional = UNetConfig { embedding: Embedding::Positional, ..ncsnpp.clone() };
        let large = UNetConfig {
            size: 256,
            multipliers: vec![1, 1, 2, 2, 2, 2, 2],
            n_blocks: 2,
            progressive_input: Progressive::Skip,
            progressive: Progressive::Skip,
            ..ncsnpp.clone()
        };
        let ddpm_256 = UNetConfig { size: 256, multipliers: vec![1, 1, 2, 2, 4, 4], ..ddpm.clone() };
        let huge = UNetConfig {
            size: 1024,
            width: 16,
            multipliers: vec![1, 2, 4, 8, 16, 32, 32, 32],
            n_blocks: 1,
            ..large.clone()
        };
        let deep = |config: &UNetConfig| UNetConfig { n_blocks: 8, ..config.clone() };
        for (config, expected) in [
            (&ddpm, 37),
            (&ddpmpp, 55),
            (&deep(&ddpmpp), 91),
            (&positional, 58),
            (&ncsnpp, 59),
            (&deep(&ncsnpp), 95),
            (&large, 77),
            (&huge, 70),
            (&ddpm_256, 51),
        ] {
            config.check().expect("a published network");
            assert_eq!(n_parts(config), expected, "{config:?}");
        }
    }

    #[test]
    fn memory_is_what_was_measured() {
        // Numbers of an image in a step of training and in an evaluation: differences of two peaks of `ncsn bench`, over that of their
        // batches. What is foreseen is within a seventh.
        let small = UNetConfig { multipliers: vec![1, 2, 2], n_blocks: 1, ..UNetConfig::ddpmpp(3, 32, 32) };
        for (config, training, sampling) in [(small, 2.20e6, 0.77e6), (UNetConfig::ddpmpp(3, 128, 32), 18.1e6, 3.70e6)]
        {
            let unit = (config.width * config.size * config.size) as f64;
            let Memory { denoising, sampling: at_once, .. } = config.memory();
            for (found, expected) in [(denoising * unit, training), (at_once * unit, sampling)] {
                assert!((found / expected - 1.0).abs() < 1.0 / 7.0, "{config:?}: {found:e}, measured {expected:e}");
            }
        }
    }

    #[test]
    fn what_cannot_be_built_is_refused_with_what_was_expected() {
        let good = UNetConfig::ncsnpp(3, 8, 16);
        good.check().expect("a small network");
        let style = |f: fn(&mut Style)| {
            let mut style = good.style.clone();
            f(&mut style);
            UNetConfig { style, ..good.clone() }
        };
        for (config, part) in [
            (UNetConfig { width: 3, ..good.clone() }, "width 3"),
            (UNetConfig { multipliers: vec![1, 0], ..good.clone() }, "[1, 0]"),
            (UNetConfig { size: 20, ..good.clone() }, "a multiple of 8"),
            (UNetConfig { multipliers: vec![], ..good.clone() }, "[]"),
            (UNetConfig { width: 136, ..good.clone() }, "136 channels in 32 groups"),
            (style(|style| style.groups = Groups::Fixed), "8 channels in 32 groups"),
            (style(|style| style.taps = Taps::Fir(vec![1.0])), "2 to 16 numbers"),
            (style(|style| style.taps = Taps::Fir(vec![1.0, -1.0])), "whose sum is not 0"),
            (style(|style| style.dropout = 1.0), "dropout"),
        ] {
            let message = config.check().expect_err(part).to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
