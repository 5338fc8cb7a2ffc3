//! One step of training or sampling with the published networks, timed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use burn::tensor::Device;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use ncsn::Result;
use ncsn::data::{Batch, Range};
use ncsn::device::{self, DeviceKind, Precision, instructions};
use ncsn::loss::{Objective, Times};
use ncsn::net::{Form, Network, NetworkConfig, RefineNetConfig, UNetConfig};
use ncsn::noise::Noise;
use ncsn::sample::{Images, PlainLangevin, image_chain};
use ncsn::score::{Label, Model, Prediction};
use ncsn::sde::{NoiseLevels, Process, Ve, Vp};
use ncsn::train::{EmaRate, OptimizerConfig, Schedule, Trainer, TrainingOptions};
use ncsn_kernels::ops::is_cpu;
use ncsn_kernels::parallel::count::Count;

use crate::cli::DEFAULT_SEED;
use crate::cli::train::peak_mib;

/// Steps before those that are timed.
const N_WARM_UP: u64 = 2;

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// Noise, loss, gradient, Adam: all that `ncsn train` does with a batch
    Train,
    /// Network and noise: all that `ncsn sample` does between two states
    Sample,
}

/// A network, and the size that it is measured at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Net {
    /// NCSN for MNIST: 1 channel, 28 pixels, ngf 64
    Mnist,
    /// NCSN for CIFAR-10: 3 channels, 32 pixels, ngf 128
    Cifar,
    /// NCSNv2: 1 channel, 28 pixels, ngf 32
    #[value(name = "ncsnv2-small")]
    #[serde(rename = "ncsnv2-small")]
    NcsnV2Small,
    /// NCSNv2 for CIFAR-10: 3 channels, 32 pixels, ngf 128
    #[value(name = "ncsnv2-cifar")]
    #[serde(rename = "ncsnv2-cifar")]
    NcsnV2Cifar,
    /// DDPM++: 3 channels, 32 pixels, nf 32, ch_mult 1 2 2, one residual block a stage
    #[value(name = "unet-small")]
    #[serde(rename = "unet-small")]
    UNetSmall,
    /// DDPM++ for CIFAR-10: 3 channels, 32 pixels, nf 128
    #[value(name = "ddpmpp")]
    #[serde(rename = "ddpmpp")]
    DdpmPp,
    /// NCSN++ for CIFAR-10: 3 channels, 32 pixels, nf 128
    #[value(name = "ncsnpp")]
    #[serde(rename = "ncsnpp")]
    NcsnPp,
}

/// What is measured of a [`Net`]: what its published program trains.
struct Setting {
    config: NetworkConfig,
    /// The side of the images.
    size: usize,
    process: Arc<dyn Process>,
    prediction: Prediction,
    options: TrainingOptions,
    optimizer: OptimizerConfig,
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    pub what: What,
    pub net: Net,
    /// Images a step.
    pub batch: u64,
    pub precision: Precision,
}

/// What came out; the line of `--json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measurement {
    pub what: What,
    pub net: Net,
    pub batch: u64,
    pub precision: String,
    /// The median.
    pub seconds_per_step: f64,
    pub images_per_second: f64,
    /// Of the process, where the system tells; on a GPU, of its memory.
    pub peak_mib: Option<f64>,
    /// Of the convolutions, a multiply-add counted twice.
    pub gflops: f64,
    /// Of the convolutions, each of which must read its input and write its output, in f32.
    pub gb_per_second: f64,
    pub isa: String,
    pub threads: usize,
    /// Where it was computed: `cpu`, or a GPU with its name.
    pub device: String,
    /// Of a GPU, measured beside the workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
    /// With `--count`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Counted>,
}

/// What a GPU can do at most.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ceilings {
    /// Of products of f32.
    pub ceiling_f32_gflops: Option<f64>,
    /// Of products of bf16, by matrix units.
    pub ceiling_bf16_gflops: Option<f64>,
    /// Of a copy, read and written, in GB/s.
    pub ceiling_gb_per_second: Option<f64>,
}

impl Ceilings {
    /// Nothing of the processor, whose ceiling [`ncsn_kernels::conv::ceiling`] knows.
    #[cfg(feature = "gpu")]
    fn of(device: &Device) -> Option<Self> {
        (!is_cpu(device)).then(|| {
            let found = ncsn_kernels::ops::gpu::ceilings::ceilings(device);
            let giga = |x: Option<f64>| x.map(|x| x / 1e9);
            Self {
                ceiling_f32_gflops: giga(found.f32_flops),
                ceiling_bf16_gflops: giga(found.bf16_flops),
                ceiling_gb_per_second: giga(found.bytes),
            }
        })
    }

    #[cfg(not(feature = "gpu"))]
    fn of(_: &Device) -> Option<Self> {
        None
    }
}

/// How a step of one thread would spread over more cores.
#[derive(Debug, Serialize, Deserialize)]
pub struct Counted {
    /// The time of the step that was counted, the one of median length.
    pub seconds: f64,
    /// Its time outside parallel regions.
    pub serial_seconds: f64,
    pub serial_share: f64,
    /// By the number of cores.
    pub projected_seconds: BTreeMap<usize, f64>,
    pub projected_speedup: BTreeMap<usize, f64>,
    /// The time in regions of so many independent parts.
    pub seconds_by_parts: BTreeMap<usize, f64>,
}

/// Numbers of cores for which a projection is made.
pub const CORES: [usize; 3] = [2, 16, 64];

impl Counted {
    fn new(count: &Count) -> Self {
        let (total, serial) = (count.total.as_secs_f64(), count.serial().as_secs_f64());
        let projected_seconds = CORES.map(|n_cores| (n_cores, count.projected(n_cores)));
        Self {
            seconds: total,
            serial_seconds: serial,
            serial_share: serial / total,
            projected_seconds: projected_seconds.into(),
            projected_speedup: projected_seconds.map(|(n_cores, seconds)| (n_cores, total / seconds)).into(),
            seconds_by_parts: count.regions.iter().map(|(&n_parts, time)| (n_parts, time.as_secs_f64())).collect(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, net, batch, precision } = self;
        write!(f, "{} {} {batch} {precision}", name(*what), name(*net))
    }
}

/// Its name on the command line.
pub fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_string()
}

impl Net {
    fn setting(self) -> Result<Setting> {
        let ncsn = |channels, size, width| -> Result<Setting> {
            Ok(Setting {
                config: NetworkConfig::RefineNet(RefineNetConfig::ncsn(channels, width, 10)),
                size,
                process: Arc::new(NoiseLevels::geometric(1.0, 0.01, 10)?),
                prediction: Prediction::Score(Label::Level),
                options: TrainingOptions::default(),
                optimizer: OptimizerConfig::default(),
            })
        };
        let ncsnv2 = |channels, size, width| -> Result<Setting> {
            Ok(Setting {
                config: NetworkConfig::RefineNet(RefineNetConfig::ncsnv2(Form::Ncsn, channels, width)),
                size,
                process: Arc::new(NoiseLevels::geometric(50.0, 0.01, 232)?),
                prediction: Prediction::ScaledScore(Label::Level),
                options: averaged(EmaRate::Constant(0.999)),
                optimizer: OptimizerConfig::default(),
            })
        };
        let score_sde = |config, process, prediction, ema_rate| {
            let times = Times::Uniform { smallest: 1e-5 };
            let objective = Objective { times, ..Objective::default() };
            Setting {
                config: NetworkConfig::UNet(config),
                size: 32,
                process,
                prediction,
                options: TrainingOptions { objective, ..averaged(EmaRate::WarmedUp(ema_rate)) },
                optimizer: OptimizerConfig {
                    lr: Schedule::WarmUp { lr: 2e-4, n_steps: 5000 },
                    clip: Some(1.0),
                    ..OptimizerConfig::default()
                },
            }
        };
        let vp = || -> Result<Arc<dyn Process>> { Ok(Arc::new(Vp::new(0.1, 20.0, 1000)?)) };
        let noise = Prediction::Noise(Label::Time);
        Ok(match self {
            Net::Mnist => ncsn(1, 28, 64)?,
            Net::Cifar => ncsn(3, 32, 128)?,
            Net::NcsnV2Small => ncsnv2(1, 28, 32)?,
            Net::NcsnV2Cifar => ncsnv2(3, 32, 128)?,
            Net::UNetSmall => {
                let whole = UNetConfig::ddpmpp(3, 32, 32);
                score_sde(UNetConfig { multipliers: vec![1, 2, 2], n_blocks: 1, ..whole }, vp()?, noise, 0.9999)
            }
            Net::DdpmPp => score_sde(UNetConfig::ddpmpp(3, 128, 32), vp()?, noise, 0.9999),
            Net::NcsnPp => {
                let ve = Arc::new(Ve::new(0.01, 50.0, 1000)?);
                score_sde(UNetConfig::ncsnpp(3, 128, 32), ve, Prediction::ScaledScore(Label::Std), 0.999)
            }
        })
    }
}

/// Training as by default, with an EMA.
fn averaged(rate: EmaRate) -> TrainingOptions {
    TrainingOptions { ema_rate: Some(rate), ..TrainingOptions::default() }
}

impl Workload {
    /// Times `n_steps` steps on random images, with random weights; `count` tells more of one of them.
    pub fn measure(&self, n_steps: u64, count: bool, device: DeviceKind) -> Result<Measurement> {
        let Self { what, net, batch, precision } = *self;
        precision.set_current();
        let Setting { config, size, process, prediction, options, optimizer } = net.setting()?;
        let noise = Noise::new(DEFAULT_SEED);
        let new_model = |device: &Device| -> Result<Model<Network>> {
            let net = Network::new(&config, &mut noise.stream("init", 0), device)?;
            Ok(Model { net, process: process.clone(), prediction })
        };
        let kind = device.chosen();
        let device = device.open()?;
        let (steps, work, passes) = match what {
            What::Train => {
                let model = new_model(&device.clone().autodiff())?;
                let mut trainer = Trainer::new(model, optimizer, options, noise);
                let shape = [batch as usize, config.channels(), size, size];
                let mut x = vec![0.0; shape.iter().product()];
                noise.stream("bench/x", 0).uniform(&mut x);
                let images = Batch { x, shape, classes_u8: None };
                let steps =
                    counted_steps(n_steps, || trainer.step(images.clone()).and_then(|_| device::wait(&device)))?;
                // The gradient of a convolution is two more: to its input, and to its weights.
                (steps, trainer.net().work(size), 3.0)
            }
            What::Sample => {
                let model = new_model(&device)?;
                let method =
                    PlainLangevin { t: model.process.time(0), n_steps: (N_WARM_UP + n_steps) as usize, alpha: 2e-5 };
                let shape = [config.channels(), size, size];
                let images = Images { numbers: 0..batch, shape, range: Range::Unit };
                let mut chain = image_chain(&model, method, &images, noise, &device);
                let mut update = || {
                    chain.next();
                    device::wait(&device)
                };
                (counted_steps(n_steps, &mut update)?, model.net.work(size), 1.0)
            }
        };
        let seconds = median_seconds(&steps);
        let images_per_second = batch as f64 / seconds;
        Ok(Measurement {
            what,
            net,
            batch,
            precision: precision.to_string(),
            seconds_per_step: seconds,
            images_per_second,
            peak_mib: if is_cpu(&device) { peak_mib() } else { device::reserved_mib(&device) },
            gflops: passes * 2.0 * work.multiply_adds as f64 * images_per_second / 1e9,
            gb_per_second: passes * 4.0 * work.numbers as f64 * images_per_second / 1e9,
            isa: instructions()?.to_string(),
            threads: rayon::current_num_threads(),
            device: device::name(&device).map_or_else(|| kind.to_string(), |name| format!("{kind} {name}")),
            ceilings: Ceilings::of(&device),
            count: count.then(|| Counted::new(&steps[steps.len() / 2])),
        })
    }
}

/// Steps after those that warm up, the shortest first.
fn counted_steps(n_steps: u64, mut step: impl FnMut() -> Result<()>) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    for i in 0..N_WARM_UP + n_steps {
        let (result, count) = Count::of(&mut step);
        result?;
        if i >= N_WARM_UP {
            counts.push(count);
        }
    }
    counts.sort_by_key(|count| count.total);
    Ok(counts)
}

fn median_seconds(sorted: &[Count]) -> f64 {
    let n = sorted.len();
    (sorted[(n - 1) / 2].total + sorted[n / 2].total).as_secs_f64() / 2.0
}

#[cfg(test)]
mod tests {
    use ncsn::noise::Stream;

    use super::*;

    #[test]
    fn multiply_adds_are_those_counted_layer_by_layer_by_hand() {
        for (net, expected) in [(Net::Mnist, 1_893_140_480), (Net::Cifar, 9_893_052_416)] {
            let Setting { config, size, .. } = net.setting().expect("levels");
            let mut stream = Noise::new(1).stream("init", 0);
            let network = Network::new(&config, &mut stream, &Device::flex()).expect("a network");
            assert_eq!(network.work(size).multiply_adds, expected, "{net:?}");
        }
    }

    #[test]
    fn u_nets_do_the_work_that_was_published() {
        // GFLOP of an image, to three digits.
        for (net, expected) in [(Net::DdpmPp, 21.7), (Net::NcsnPp, 21.8)] {
            let Setting { config, size, .. } = net.setting().expect("a process");
            let network = Network::new(&config, &mut Stream::silent(), &Device::flex()).expect("a network");
            let gflop = 2.0 * network.work(size).multiply_adds as f64 / 1e9;
            assert!((gflop - expected).abs() <= 0.05, "{net:?}: {gflop}");
        }
    }

    #[test]
    fn the_median_leaves_the_first_two_steps_out() {
        let mut n = 0;
        let steps = counted_steps(3, || {
            n += 1;
            std::thread::sleep(std::time::Duration::from_millis(if n <= 2 { 80 } else { 1 }));
            Ok(())
        });
        assert_eq!(n, 5);
        assert!((0.001..0.06).contains(&median_seconds(&steps.expect("no step fails"))));
    }
}
