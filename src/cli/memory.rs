//! Memory that is not there is found before it is taken, and before a file changes.

use ncsn::config::Config;
use ncsn::device::DeviceKind;
use ncsn::net::{Architecture, NetworkConfig};
use ncsn::train::memory::{self, Estimate};
use ncsn::train::{Rule, TrainingOptions};
use ncsn::{Error, Result};

use super::Common;

/// Whether a run's steps fit into memory.
///
/// # Errors
/// [`Error::Usage`] with what to lower.
pub fn check_training(config: &Config, common: &Common) -> Result<()> {
    let Some(available) = memory_of(common) else { return Ok(()) };
    check_training_in(config, available)
}

fn check_training_in(config: &Config, available: u64) -> Result<()> {
    let (options, net, batch) = (config.training_options(), config.network(), config.training.batch_size);
    let (size, rule) = (config.data.image_size, config.optimizer().rule);
    let in_parts = |micro_batches: usize, net: &NetworkConfig| {
        Estimate::of_training(net, size, &TrainingOptions { micro_batches, ..options }, rule)
    };
    let flag = |batch: usize| match batch.is_multiple_of(options.micro_batches) {
        true => format!("--set training.batch_size={batch}"),
        false => format!("--set training.batch_size={batch} --set training.micro_batches=1"),
    };
    let estimate = |net: &NetworkConfig| in_parts(options.micro_batches, net);
    check("training", &net, estimate, batch, available, flag).map_err(|error| {
        let parts = std::iter::successors(Some(2 * options.micro_batches), |parts| Some(2 * parts));
        let mut parts = parts.take_while(|&parts| batch.is_multiple_of(parts));
        let fits = |parts: &usize| in_parts(*parts, &net).is_ok_and(|found| found.bytes(batch) <= available as f64);
        match parts.find(fits) {
            Some(parts) => {
                let or = format!("{error}, or compute each step in parts with --set training.micro_batches={parts}");
                Error::Usage(or)
            }
            None => error,
        }
    })
}

/// Whether `batch` samples at a time fit into memory. `flag` sets how many they are.
///
/// # Errors
/// [`Error::Usage`] with what to lower.
pub fn check_sampling(config: &Config, batch: u64, flag: &str, common: &Common) -> Result<()> {
    check_ensemble(config, 1, batch, flag, common)
}

/// [`check_sampling`] by the mean of the scores of `n_members` networks.
///
/// # Errors
/// As [`check_sampling`].
pub fn check_ensemble(config: &Config, n_members: usize, batch: u64, flag: &str, common: &Common) -> Result<()> {
    let Some(available) = memory_of(common) else { return Ok(()) };
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
    let estimate = |net: &NetworkConfig| Ok(Estimate::of_sampling(net, config.data.image_size)?.of_networks(n_members));
    check("sampling", &config.network(), estimate, batch, available, |batch| {
        let joint = if flag.starts_with("--set") { '=' } else { ' ' };
        format!("{flag}{joint}{batch}")
    })
}

/// [`check_sampling`] where a classifier guides samples: its gradients are there while those of the score are not.
///
/// # Errors
/// As [`check_sampling`].
pub fn check_guided(
    [config, classifier]: [&Config; 2],
    n_members: usize,
    batch: u64,
    flag: &str,
    common: &Common,
) -> Result<()> {
    let Some(available) = memory_of(common) else { return Ok(()) };
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
    let (size, guide) = (config.data.image_size, classifier.network());
    let estimate = |net: &NetworkConfig| {
        let score = Estimate::of_sampling(net, size)?.of_networks(n_members);
        let weights = Estimate::of_sampling(&guide, size)?;
        let gradients =
            Estimate::of_training(&guide, size, &classifier.training_options(), Rule::Sgd { momentum: 0.0 })?;
        let per_image = score.per_image.max(gradients.per_image * classifier.training.micro_batches as f64);
        // The program is there once.
        Ok(Estimate { fixed: score.fixed + weights.fixed - weights.of_networks(0).fixed, per_image })
    };
    check("guided sampling", &config.network(), estimate, batch, available, |batch| format!("{flag} {batch}"))
}

/// Whether the likelihoods of `batch` images at a time fit into memory. `flag` sets how many they are.
///
/// # Errors
/// As [`check_sampling`].
pub fn check_likelihood(config: &Config, batch: u64, flag: &str, common: &Common) -> Result<()> {
    let Some(available) = memory_of(common) else { return Ok(()) };
    // A tangent beside each value.
    let estimate = |net: &NetworkConfig| {
        let sampling = Estimate::of_sampling(net, config.data.image_size)?;
        Ok(Estimate { per_image: 2.0 * sampling.per_image, ..sampling })
    };
    let batch = usize::try_from(batch).unwrap_or(usize::MAX);
    check("a likelihood", &config.network(), estimate, batch, available, |batch| format!("{flag} {batch}"))
}

/// What there is, where a device takes its memory from it.
fn memory_of(common: &Common) -> Option<u64> {
    memory::available().filter(|_| common.device.chosen() == DeviceKind::Cpu)
}

fn check(
    what: &str,
    net: &NetworkConfig,
    estimate: impl Fn(&NetworkConfig) -> Result<Estimate>,
    batch: usize,
    available: u64,
    flag: impl Fn(usize) -> String,
) -> Result<()> {
    let gib = |bytes: f64| bytes / (1u64 << 30) as f64;
    let found = estimate(net)?;
    if found.bytes(batch) <= available as f64 {
        return Ok(());
    }
    let (needed, there) = (gib(found.bytes(batch)), gib(available as f64));
    let lower = match found.largest_batch(available) {
        0 => {
            let (key, multiple) = (net.architecture().width_key(), net.architecture().width_multiple());
            let narrower = |width: &usize| -> Option<bool> {
                let width = width.next_multiple_of(multiple);
                Some(estimate(&net.clone().with_width(width)).ok()?.largest_batch(available) > 0)
            };
            let widths = std::iter::successors(Some(net.width() / 2), |width| Some(width / 2));
            let width = widths.take_while(|&width| width >= 2).find(|width| narrower(width) == Some(true));
            match width.filter(|_| what == "training" && net.architecture() != Architecture::MlpScore) {
                Some(width) => {
                    let set = format!("--set model.{key}={}", width.next_multiple_of(multiple));
                    format!("lower it with {} {set}", flag(1))
                }
                None => "a smaller network is needed".into(),
            }
        }
        most => format!("lower it with {}", flag(most)),
    };
    Err(Error::Usage(format!(
        "{what} with {batch} images at a time takes about {needed:.1} GiB of memory, but there are {there:.1} GiB: {lower}"
    )))
}

#[cfg(test)]
mod tests {
    use ncsn::net::RefineNetConfig;
    use ncsn::train::{EmaRate, Rule};

    use super::*;

    fn refused(net: &NetworkConfig, batch: usize, available: u64) -> Option<String> {
        let rule = Rule::Sgd { momentum: 0.9 };
        let options = TrainingOptions { ema_rate: Some(EmaRate::Constant(0.999)), ..TrainingOptions::default() };
        let estimate = |net: &NetworkConfig| Estimate::of_training(net, 32, &options, rule);
        let flag = |batch: usize| format!("--set training.batch_size={batch}");
        check("training", net, estimate, batch, available, flag).err().map(|error| error.to_string())
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_value_that_does() {
        let net = NetworkConfig::RefineNet(RefineNetConfig::ncsn(3, 128, 10));
        assert_eq!(refused(&net, 128, 16 << 30), None);
        for batch in [1000, usize::MAX] {
            let message = refused(&net, batch, 8 << 30).expect("more than there is");
            assert!(message.contains("there are 8.0 GiB"), "{message}");
            let (_, value) = message.split_once("--set training.batch_size=").expect("what to lower");
            let value: usize = value.parse().expect("a number");
            assert!(value > 10 && refused(&net, value, 8 << 30).is_none(), "{message}");
            assert!(refused(&net, value + 1, 8 << 30).is_some(), "{message}");
        }
        // In parts it is the same step.
        let mut config = Config::default();
        (config.training.batch_size, config.data.image_size, config.model.ngf) = (96, 32, 128);
        let message = check_training_in(&config, 2 << 30).expect_err("more than there is").to_string();
        let (_, parts) = message.split_once("in parts with --set training.micro_batches=").expect("another way");
        config.training.micro_batches = parts.parse().expect("a number");
        assert!(check_training_in(&config, 2 << 30).is_ok(), "{message}");
        config.training.micro_batches /= 2;
        assert!(check_training_in(&config, 2 << 30).is_err(), "{message}");
        // Too little for a single image.
        let message = refused(&net, 16, 300 << 20).expect("more than there is");
        let (_, width) = message.split_once("--set training.batch_size=1 --set model.ngf=").expect("what to lower");
        let width = width.parse().expect("a number");
        assert!(refused(&net.with_width(width), 1, 300 << 20).is_none(), "{message}");
    }
}
