//! Keys of `model:` that belong to the U-Nets of Score-SDE.

use super::fields::{FRACTION, Fields, Flag, List, NOT_NEGATIVE, Number, POSITIVE};
use crate::error::Result;
use crate::net::{Activation, BlockForm, Combination, Embedding, Progressive, Style, Taps, UNetConfig};

/// What the U-Nets of Score-SDE are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct UNet {
    /// Features of each stage, in units of the width.
    pub ch_mult: Vec<usize>,
    /// Residual blocks of each stage.
    pub num_res_blocks: usize,
    /// The sides at which there is attention.
    pub attn_resolutions: Vec<usize>,
    /// The probability of dropout.
    pub dropout: f64,
    /// Whether changes of size that are no residual blocks have a convolution.
    pub resamp_with_conv: bool,
    /// Whether the blocks are told the time.
    pub conditional: bool,
    /// Whether the output is divided by σ.
    pub scale_by_sigma: bool,
    /// How the label becomes features.
    pub embedding_type: EmbeddingType,
    /// The standard deviation of Fourier features' frequencies.
    pub fourier_scale: f64,
    /// Whether changes of size are filtered.
    pub fir: bool,
    /// The filter.
    pub fir_kernel: Vec<f64>,
    /// Whether sums of two ways are divided by √2.
    pub skip_rescale: bool,
    /// How residual blocks are made.
    pub resblock_type: BlockForm,
    /// How the output grows with the size.
    pub progressive: Progressive,
    /// How smaller images enter.
    pub progressive_input: Progressive,
    /// How they join features.
    pub progressive_combine: Combination,
    /// Scale of initial weights at the ends of blocks.
    pub init_scale: f64,
}

/// How a label becomes features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingType {
    /// sin and cos of the label.
    Positional,
    /// sin and cos of its logarithm, with random frequencies.
    Fourier,
}

impl Default for UNet {
    /// NCSN++ for continuous times as published for CIFAR-10.
    fn default() -> Self {
        Self {
            ch_mult: vec![1, 2, 2, 2],
            num_res_blocks: 4,
            attn_resolutions: vec![16],
            dropout: 0.1,
            resamp_with_conv: true,
            conditional: true,
            scale_by_sigma: true,
            embedding_type: EmbeddingType::Fourier,
            fourier_scale: 16.0,
            fir: true,
            fir_kernel: vec![1.0, 3.0, 3.0, 1.0],
            skip_rescale: true,
            resblock_type: BlockForm::BigGan,
            progressive: Progressive::None,
            progressive_input: Progressive::Residual,
            progressive_combine: Combination::Sum,
            init_scale: 0.0,
        }
    }
}

const EMBEDDINGS: [(&str, EmbeddingType); 2] =
    [("positional", EmbeddingType::Positional), ("fourier", EmbeddingType::Fourier)];
const BLOCKS: [(&str, BlockForm); 2] =
    [("ddpm", BlockForm::Ddpm { conv_shortcut: false }), ("biggan", BlockForm::BigGan)];
const OUTPUTS: [(&str, Progressive); 3] =
    [("none", Progressive::None), ("output_skip", Progressive::Skip), ("residual", Progressive::Residual)];
const INPUTS: [(&str, Progressive); 3] =
    [("none", Progressive::None), ("input_skip", Progressive::Skip), ("residual", Progressive::Residual)];
const COMBINATIONS: [(&str, Combination); 2] = [("sum", Combination::Sum), ("cat", Combination::Cat)];
const FINITE: Number = Number { expected: "a number", valid: |_| true };

impl UNet {
    pub(super) fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("ch_mult", &mut self.ch_mult, List { of: 1..=64usize, n: 1..=12 })?;
        f.key("num_res_blocks", &mut self.num_res_blocks, 1..=64)?;
        f.key("attn_resolutions", &mut self.attn_resolutions, List { of: 1..=1024usize, n: 0..=12 })?;
        f.key("dropout", &mut self.dropout, FRACTION)?;
        f.key("resamp_with_conv", &mut self.resamp_with_conv, Flag)?;
        f.key("conditional", &mut self.conditional, Flag)?;
        f.key("scale_by_sigma", &mut self.scale_by_sigma, Flag)?;
        f.key("embedding_type", &mut self.embedding_type, &EMBEDDINGS)?;
        f.key("fourier_scale", &mut self.fourier_scale, POSITIVE)?;
        f.key("fir", &mut self.fir, Flag)?;
        f.key("fir_kernel", &mut self.fir_kernel, List { of: FINITE, n: 2..=16 })?;
        f.key("skip_rescale", &mut self.skip_rescale, Flag)?;
        f.key("resblock_type", &mut self.resblock_type, &BLOCKS)?;
        f.key("progressive", &mut self.progressive, &OUTPUTS)?;
        f.key("progressive_input", &mut self.progressive_input, &INPUTS)?;
        f.key("progressive_combine", &mut self.progressive_combine, &COMBINATIONS)?;
        f.key("init_scale", &mut self.init_scale, NOT_NEGATIVE)
    }

    /// `published` with these options; DDPM's network leaves most of them out.
    pub(super) fn network(&self, published: UNetConfig, is_ddpm: bool, activation: Activation) -> UNetConfig {
        let style = Style { activation, dropout: self.dropout, ..published.style.clone() };
        let common = UNetConfig {
            multipliers: self.ch_mult.clone(),
            n_blocks: self.num_res_blocks,
            attention: self.attn_resolutions.clone(),
            resample_conv: self.resamp_with_conv,
            conditional: self.conditional,
            style,
            ..published
        };
        if is_ddpm {
            return common;
        }
        let taps = if self.fir { Taps::Fir(self.fir_kernel.clone()) } else { Taps::Box };
        let style =
            Style { skip_rescale: self.skip_rescale, init_scale: self.init_scale, taps, ..common.style.clone() };
        let embedding = match self.embedding_type {
            EmbeddingType::Positional => Embedding::Positional,
            EmbeddingType::Fourier => Embedding::Fourier { scale: self.fourier_scale },
        };
        UNetConfig {
            embedding,
            block: self.resblock_type,
            progressive: self.progressive,
            progressive_input: self.progressive_input,
            combination: self.progressive_combine,
            style,
            ..common
        }
    }
}
