//! `ncsn score`: evaluates a network on given tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::Tensor;
use clap::Args;

use ncsn::checkpoint::{TensorFile, Weights, saved_config, write_tensors};
use ncsn::device::{self, upload};
use ncsn::net::params::HostTensor;
use ncsn::net::{Backbone, Condition, InputRange};
use ncsn::{Error, Result};

use super::Common;
use super::output::expect_free;

/// Images evaluated at a time, so that memory does not grow with the input.
const BATCH: usize = 64;

#[derive(Debug, Args)]
pub struct ScoreArgs {
    /// Weights: a checkpoint, ours or the published program's (.pth), or any safetensors file with the published names
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// Tensors `x` [batch, channels, height, width] (f32) and `labels` [batch] (integers; a network
    /// without noise levels needs none)
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where to write the tensor `score`, as `x`; of images that are not finite it is not finite, which a warning says
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the output whatever it is; scores are replaced anyhow
    #[arg(long)]
    overwrite: bool,
    /// `x` are logits: the network does not map them to 2x − 1 (known from a checkpoint's configuration)
    #[arg(long)]
    logit_transform: bool,
    /// Use the weights of the last step, not their moving average
    #[arg(long)]
    no_ema: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: ScoreArgs) -> Result<ExitCode> {
    let is_score = |path: &Path| TensorFile::open(path).is_ok_and(|file| file.names().eq(["score"]));
    expect_free(&args.output, args.overwrite, is_score)?;
    let weights = Weights::open(&args.checkpoint)?;
    let saved = saved_config(&weights, None)?;
    let logit = saved.map_or(args.logit_transform, |config| config.data.logit_transform);
    let input = if logit { InputRange::Logit } else { InputRange::Unit };
    let device = args.common.open_device()?;
    if args.no_ema && weights.members().is_some_and(|members| members.only_average) {
        let message = "found no weights but a moving average of them, which --no-ema leaves out";
        return Err(Error::format(&args.checkpoint, message));
    }
    let net = weights.build(input, !args.no_ema, &device)?;
    let config = weights.network(input)?;

    let file = TensorFile::open(&args.input)?;
    let bad = |message: String| Error::format(&args.input, message);
    let x = file.get("x")?.ok_or_else(|| bad("found no tensor x".into()))?;
    let labels = file.integers("labels")?;
    let [n, channels, height, width] = x.shape[..] else {
        return Err(bad(format!("x has shape {:?}, expected [batch, channels, height, width]", x.shape)));
    };
    let sizes = config.sizes();
    if channels != config.channels() || !sizes.contains(height) || !sizes.contains(width) {
        return Err(bad(format!(
            "x has shape {:?}, expected {} channels and each side {sizes}",
            x.shape,
            config.channels()
        )));
    }
    let (labels_shape, labels) = match labels {
        _ if config.levels().is_none() => (vec![n], vec![0; n]),
        Some(labels) => labels,
        None => return Err(bad("found no tensor labels".into())),
    };
    if labels_shape != [n] {
        return Err(bad(format!("labels has shape {labels_shape:?}, expected [{n}]")));
    }
    let n_levels = config.levels().unwrap_or(1);
    if let Some(label) = labels.iter().find(|label| !(0..n_levels as i64).contains(label)) {
        return Err(bad(format!("found label {label}, expected 0 to {}", n_levels - 1)));
    }

    let image_len = channels * height * width;
    let not_finite = |values: &[f32]| -> Vec<bool> {
        values.chunks(image_len).map(|image| image.iter().any(|value| !value.is_finite())).collect()
    };
    let mut score = Vec::with_capacity(x.values.len());
    for (x, labels) in x.values.chunks(BATCH * image_len).zip(labels.chunks(BATCH)) {
        let x: Tensor<4> = upload(x.to_vec(), [labels.len(), channels, height, width], &device);
        let label = upload(labels.iter().map(|&label| label as f32).collect(), [labels.len()], &device);
        score.extend(device::values(Backbone::forward(&net, x.into(), &Condition { label }).value)?);
    }
    // An image is computed by itself: what is not finite in one says nothing of the others.
    let (of_x, of_score) = (not_finite(&x.values), not_finite(&score));
    if let Some(i) = of_x.iter().zip(&of_score).position(|(of_x, of_score)| !of_x && *of_score) {
        let message = format!("the score of image {i} is not finite, though the image is: expected other weights");
        return Err(Error::format(&args.checkpoint, message));
    }
    if let Some(first) = of_score.iter().position(|is_not| *is_not) {
        let n_bad = of_score.iter().filter(|is_not| **is_not).count();
        super::hint(format!(
            "warning: {}: x is not finite in image {first}, and so is its score: {n_bad} of {n} images",
            args.input.display()
        ));
    }
    let score = HostTensor { shape: x.shape, values: score };
    write_tensors(&args.output, &[("score".into(), score)], &BTreeMap::new())?;
    super::say(format!("score of {n} images in {}", args.output.display()));
    Ok(ExitCode::SUCCESS)
}
