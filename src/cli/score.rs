//! `ncsn score`: evaluates a network on given tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use burn::tensor::{Device, Tensor};
use clap::Args;

use ncsn::checkpoint::{Saved, TensorFile, Weights, Which, saved_config, write_tensors};
use ncsn::config::Runner;
use ncsn::device::{self, upload};
use ncsn::file::remove_abandoned;
use ncsn::net::params::HostTensor;
use ncsn::net::{InputRange, Network, NetworkConfig};
use ncsn::score::{Label, Model, Prediction, Score};
use ncsn::sde::NoiseLevels;
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
    /// Tensors `x` [batch, channels, height, width] (f32), and `labels` [batch], what the network is given, or times `t` [batch]; a
    /// network without noise levels needs neither. Of both, the output is that for the labels and the score that at the times
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// The configuration of weights that do not hold one: NCSNv2's do not tell their noise levels and activation
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Where to write the tensors `score` and `output` (what the published network returns), as `x`; of images that are not
    /// finite they are not finite, which a warning says
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
    // Earlier versions wrote the score alone.
    let is_score = |path: &Path| {
        TensorFile::open(path).is_ok_and(|file| file.names().eq(["output", "score"]) || file.names().eq(["score"]))
    };
    expect_free(&args.output, args.overwrite, is_score)?;
    let weights = Weights::open(&args.checkpoint)?;
    let device = args.common.open_device()?;
    if args.no_ema && weights.members().is_some_and(|members| members.only_average) {
        let message = "found no weights but a moving average of them, which --no-ema leaves out";
        return Err(Error::format(&args.checkpoint, message));
    }
    let (net, model) = model(weights, &args, &device)?;

    let file = TensorFile::open(&args.input)?;
    let bad = |message: String| Error::format(&args.input, message);
    let x = file.get("x")?.ok_or_else(|| bad("found no tensor x".into()))?;
    let [n, channels, height, width] = x.shape[..] else {
        return Err(bad(format!("x has shape {:?}, expected [batch, channels, height, width]", x.shape)));
    };
    let sizes = net.sizes();
    if channels != net.channels() || !sizes.contains(height) || !sizes.contains(width) {
        return Err(bad(format!(
            "x has shape {:?}, expected {} channels and each side {sizes}",
            x.shape,
            net.channels()
        )));
    }
    let label = model.prediction.told();
    let one_for_each = |name: &str, [least, most]: [f64; 2], whole: bool| -> Result<Option<Vec<f64>>> {
        let Some((shape, values)) = file.numbers(name)? else { return Ok(None) };
        if shape != [n] {
            return Err(bad(format!("{name} has shape {shape:?}, expected [{n}]")));
        }
        // What was rounded to f32 may be a little outside.
        let slack = 1e-6 * most.abs().max(least.abs());
        let is_one = |value: f64| (least - slack..=most + slack).contains(&value) && !(whole && value.fract() != 0.0);
        match values.iter().find(|&&value| !is_one(value)) {
            None => Ok(Some(values)),
            Some(value) => {
                let kind = if whole { "a whole number from " } else { "" };
                Err(bad(format!("found {value} in {name}, expected {kind}{least} to {most}")))
            }
        }
    };
    let is_level = label == Label::Level;
    let labels = one_for_each("labels", label.range(&*model.process), is_level);
    let times = one_for_each("t", [0.0, model.process.times()[1]], false);
    let (labels, times) = match model.process.n_levels() {
        1 => (Some(vec![0.0; n]), None),
        _ => (labels?, times?),
    };
    let Some(labels_of_output) = labels.clone().or_else(|| {
        let of_time = |&t: &f64| label.at(&*model.process, t);
        times.as_ref().map(|times| times.iter().map(of_time).collect())
    }) else {
        return Err(bad("found no tensor labels, and no times t".into()));
    };

    let image_len = channels * height * width;
    let not_finite = |values: &[f32]| -> Vec<bool> {
        values.chunks(image_len).map(|image| image.iter().any(|value| !value.is_finite())).collect()
    };
    // What the published programs return has been divided by σ where the score is.
    let is_noise = matches!(model.prediction, Prediction::Noise(_));
    let (mut score, mut output) = (Vec::with_capacity(x.values.len()), Vec::with_capacity(x.values.len()));
    for (first, x) in x.values.chunks(BATCH * image_len).enumerate() {
        let images = first * BATCH..(first * BATCH + x.len() / image_len);
        let x: Tensor<4> = upload(x.to_vec(), [images.len(), channels, height, width], &device);
        let [out, of_labels] = model.told(x.clone(), &labels_of_output[images.clone()]);
        let published = if is_noise { out } else { of_labels.clone() };
        output.extend(device::values(published)?);
        // Labels that were made of the times are at these.
        let of_times = match (&labels, &times) {
            (Some(_), Some(times)) => model.score(x, &times[images]),
            _ => of_labels,
        };
        score.extend(device::values(of_times)?);
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
    let [score, output] = [score, output].map(|values| HostTensor { shape: x.shape.clone(), values });
    remove_abandoned(&args.output)?;
    write_tensors(&args.output, &[("score".into(), score), ("output".into(), output)], &BTreeMap::new())?;
    super::say(format!("score of {n} images in {}", args.output.display()));
    Ok(ExitCode::SUCCESS)
}

/// The network of the weights, and its model.
fn model(weights: Weights, args: &ScoreArgs, device: &Device) -> Result<(NetworkConfig, Model<Network>)> {
    let which = if args.no_ema { Which::Last } else { Which::Averaged };
    if saved_config(&weights, args.config.as_deref())?.is_some() {
        let saved = Saved::of(weights, args.config.as_deref())?;
        return Ok((saved.config().network(), saved.model(which, device)?));
    }
    let input = if args.logit_transform { InputRange::Logit } else { InputRange::Unit };
    let net = weights.network(input)?;
    // What the network returns is the score at each of its levels, whatever these are.
    let levels = NoiseLevels::geometric(1.0, 0.01, net.levels().unwrap_or(1))?;
    if Runner::of(net.architecture()) == Runner::NcsnV2 {
        let message = format!(
            "found weights of {net} without a configuration, expected one with --config FILE: its score is divided by σ"
        );
        return Err(Error::format(&args.checkpoint, message));
    }
    Ok((net, Model::new(weights.build(input, which == Which::Averaged, device)?, levels)))
}
