//! How much memory training and sampling will take on the processor, before they take it, and how much there is.

use std::path::Path;

use burn::tensor::Device;

use super::{Rule, TrainingOptions};
use crate::error::Result;
use crate::loss::{Loss, Slicing};
use crate::net::{Architecture, Network, NetworkConfig, params};
use crate::noise::Noise;

/// Bytes that something takes, as far as they depend on how many images it works on at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Whatever the batch is: the program, the weights and what belongs to them.
    pub fixed: f64,
    /// For each image.
    pub per_image: f64,
}

/// The program itself, with its threads: 16 MiB.
const PROGRAM: f64 = (16 << 20) as f64;

const BYTES: f64 = size_of::<f32>() as f64;

impl Estimate {
    /// Of steps of training with images of `size` × `size` pixels: weights, gradients, state of the optimiser, moving average, and the
    /// activations that are kept for the gradients. With micro-batches there are more gradients at once, see
    /// [`TrainingOptions::micro_batches`], and fewer activations.
    ///
    /// # Errors
    /// When the configuration is impossible, see [`NetworkConfig::check`].
    pub fn of_training(net: &NetworkConfig, size: usize, options: &TrainingOptions, rule: Rule) -> Result<Self> {
        let n_ema = if options.ema_rate.is_some() { 1.0 } else { 0.0 };
        let n_parts = options.micro_batches as f64;
        let per_parameter = 2.0 + n_parts.log2() + rule.state_names().len() as f64 + n_ema;
        let memory = net.memory();
        let factor = match options.objective.loss {
            Loss::Denoising | Loss::Classification => memory.denoising,
            Loss::Sliced { n_projections, slicing: Slicing::Exact } => memory.sliced * n_projections as f64,
            Loss::Sliced { n_projections, slicing: Slicing::FiniteDifference } => {
                2.0 * memory.denoising * n_projections as f64
            }
        };
        Self::new(net, size, per_parameter, factor / n_parts)
    }

    /// Of the network's evaluations of `size` × `size` pixels without gradients, as samples are drawn: the weights, as they are read
    /// and as they are used, and the activations that there are at once.
    ///
    /// # Errors
    /// As [`Self::of_training`].
    pub fn of_sampling(net: &NetworkConfig, size: usize) -> Result<Self> {
        Self::new(net, size, 2.0, net.memory().sampling)
    }

    fn new(net: &NetworkConfig, size: usize, per_parameter: f64, factor: f64) -> Result<Self> {
        let fixed = PROGRAM + BYTES * per_parameter * n_parameters(net)?;
        let pixels = (size as f64).powi(2);
        Ok(Self { fixed, per_image: BYTES * factor * net.width() as f64 * pixels })
    }

    /// The same with `n` networks, which are evaluated one after the other.
    pub fn of_networks(self, n: usize) -> Self {
        Self { fixed: PROGRAM + n as f64 * (self.fixed - PROGRAM), ..self }
    }

    /// Bytes for a batch.
    pub fn bytes(&self, batch: usize) -> f64 {
        self.fixed + self.per_image * batch as f64
    }

    /// The largest batch for which `available` bytes are enough; 0 if they are for none.
    pub fn largest_batch(&self, available: u64) -> usize {
        ((available as f64 - self.fixed) / self.per_image).max(0.0) as usize
    }
}

/// The parameters of a network, without making it: their number is a polynomial of the width, of degree 2, which three narrow
/// networks determine.
///
/// # Errors
/// When the configuration is impossible, see [`NetworkConfig::check`].
fn n_parameters(config: &NetworkConfig) -> Result<f64> {
    if let NetworkConfig::UNet(config) = config {
        return Ok(config.n_parameters()? as f64);
    }
    config.check()?;
    let step = 8.max(config.architecture().width_multiple());
    let count = |width: usize| -> Result<f64> {
        let narrow = config.clone().with_width(width);
        Ok(params::count(&Network::new(&narrow, &mut Noise::new(0).stream("init", 0), &Device::flex())?) as f64)
    };
    if config.architecture() == Architecture::MlpScore || config.width() <= 3 * step {
        return count(config.width());
    }
    let [a, b, c] = [count(step)?, count(2 * step)?, count(3 * step)?];
    // Newton's interpolation.
    let x = config.width() as f64 / step as f64 - 1.0;
    Ok(a + x * (b - a) + x * (x - 1.0) / 2.0 * (c - 2.0 * b + a))
}

/// The memory that this process may take: the machine's, or what its control groups allow, whichever is least, in bytes. `None` where
/// the system does not tell.
pub fn available() -> Option<u64> {
    available_by(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

fn available_by(proc: &Path, cgroups: &Path) -> Option<u64> {
    let meminfo = std::fs::read_to_string(proc.join("meminfo")).ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    let groups = std::fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
    // Lines are `number:controllers:path`; of version 2 there are no controllers. A group has no more than those above it.
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let (root, file) = match controllers {
            "" => (cgroups.to_path_buf(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (cgroups.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = root.join(path);
        let above = group.ancestors().take_while(|folder| folder.starts_with(&root));
        // No limit is the word "max", or a number beyond all memory.
        above.filter_map(|folder| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.chain([kib.saturating_mul(1024)]).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Objective;
    use crate::net::{Dimensions, MLP_WIDTH};
    use crate::train::EmaRate;

    fn config(architecture: Architecture, width: usize, size: usize, channels: usize) -> NetworkConfig {
        let n_levels = if architecture.is_conditional() { 10 } else { 1 };
        architecture.network(Dimensions { channels, width, size, n_levels })
    }

    fn options(loss: Loss, micro_batches: usize) -> TrainingOptions {
        let objective = Objective { loss, ..Objective::default() };
        TrainingOptions { objective, ema_rate: Some(EmaRate::Constant(0.999)), micro_batches }
    }

    #[test]
    fn micro_batches_take_fewer_activations_and_more_gradients() {
        let net = config(Architecture::Ncsn, 64, 28, 1);
        let of = |n| Estimate::of_training(&net, 28, &options(Loss::Denoising, n), Rule::ADAM).expect("a network");
        assert_eq!(of(4).per_image, of(1).per_image / 4.0);
        let gradients = BYTES * n_parameters(&net).expect("a network");
        assert!((of(4).fixed - of(1).fixed - 2.0 * gradients).abs() < 1.0);
        // Of several networks there are the weights of each, as read and as used, and the activations of one.
        let sampling = Estimate::of_sampling(&net, 28).expect("a network");
        let five = sampling.of_networks(5);
        assert!(sampling.of_networks(1) == sampling && five.per_image == sampling.per_image);
        assert!((five.fixed - sampling.fixed - 8.0 * gradients).abs() < 1.0);
    }

    #[test]
    fn parameters_are_counted_without_the_network() {
        for net in [
            config(Architecture::Ncsn, 40, 28, 1),
            config(Architecture::Deeper, 33, 16, 3),
            config(Architecture::Baseline, 7, 16, 1),
            config(Architecture::NcsnV2, 40, 16, 1),
            config(Architecture::NcsnV2Deeper, 40, 16, 3),
            config(Architecture::NcsnV2Deepest, 27, 16, 3),
            config(Architecture::ResScore, 48, 16, 3),
            config(Architecture::ResNetScore, 30, 16, 1),
            config(Architecture::UNetScore, 28, 16, 3),
            config(Architecture::UNetResScore, 28, 32, 1),
            config(Architecture::Score, 44, 28, 1),
            config(Architecture::SmallScore, 37, 10, 3),
            config(Architecture::MlpScore, MLP_WIDTH, 10, 1),
        ] {
            let made = Network::new(&net, &mut Noise::new(0).stream("init", 0), &Device::flex()).expect("a network");
            assert_eq!(n_parameters(&net).expect("a network"), params::count(&made) as f64, "{net:?}");
        }
    }

    #[test]
    fn the_largest_batch_is_the_last_that_fits_and_none_overflows() {
        let rule = Rule::Sgd { momentum: 0.9 };
        let net = config(Architecture::Ncsn, 64, 28, 1);
        for loss in [Loss::Denoising, Loss::Sliced { n_projections: usize::MAX, slicing: Slicing::Exact }] {
            let options = options(loss, 1);
            let estimate = Estimate::of_training(&net, 28, &options, rule).expect("a network");
            assert!(estimate.bytes(usize::MAX).is_finite() && estimate.bytes(usize::MAX) > 1e20);
            assert_eq!(estimate.largest_batch(0), 0);
            for available in [8 << 30, u64::MAX] {
                let batch = estimate.largest_batch(available);
                assert!(estimate.bytes(batch) <= available as f64 * (1.0 + 1e-12), "{batch}");
                assert!(estimate.bytes(batch + 1) >= available as f64 * (1.0 - 1e-12), "{batch}");
            }
        }
    }

    #[test]
    fn memory_is_what_the_machine_has_or_the_least_of_what_its_groups_allow() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        };
        let found = || available_by(&folder.path().join("proc"), &folder.path().join("cgroup"));
        assert_eq!(found(), None);
        write("proc/meminfo", "MemFree: 3 kB\nMemTotal:       1000 kB\n");
        assert_eq!(found(), Some(1_024_000));
        write("proc/self/cgroup", "0::/a/b\n");
        write("cgroup/a/b/memory.max", "max\n");
        assert_eq!(found(), Some(1_024_000));
        write("cgroup/a/memory.max", "5000\n");
        assert_eq!(found(), Some(5000));
        write("proc/self/cgroup", "7:cpu,cpuacct:/x\n5:memory:/c/d\n");
        assert_eq!(found(), Some(1_024_000));
        write("cgroup/memory/c/memory.limit_in_bytes", "7000\n");
        write("cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(found(), Some(7000));
        // A group that is not seen from here, as in a container.
        write("proc/self/cgroup", "0::/elsewhere\n");
        write("cgroup/memory.max", "6000\n");
        assert_eq!(found(), Some(6000));
    }
}
