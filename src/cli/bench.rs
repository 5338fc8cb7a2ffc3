//! `ncsn bench`: how fast this machine trains and samples.

mod process;
mod table;
mod workload;

use std::process::ExitCode;

use clap::Args;

use ncsn::Result;
use ncsn::device::{DeviceKind, Precision, instructions};
use ncsn_kernels::conv;

use super::{say, say_json};
use workload::{Net, What, Workload};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// One kind of step only: a whole step of training, or one update of annealed Langevin dynamics
    #[arg(long, value_enum)]
    what: Option<What>,
    /// One network only
    #[arg(long, value_enum)]
    net: Option<Net>,
    /// Images a step [default: train mnist 32 and 128, ncsnv2-small and unet-small 32, cifar and ncsnv2-cifar 8, ddpmpp and ncsnpp 4;
    /// sample 25, unet-small 64, ddpmpp and ncsnpp 8]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: Option<u64>,
    /// Steps that are timed, after two that are not
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: u64,
    /// Precision of f32 matrix products: highest (f32), high (bf16x2, 1e-5; TF32 on GPUs), medium (bf16, 1e-2); several to compare
    /// them
    #[arg(long, default_value = "high", value_delimiter = ',', value_parser = super::parse::<Precision>)]
    precision: Vec<Precision>,
    /// A line of JSON for each workload instead of the table
    #[arg(long)]
    json: bool,
    /// Measure the serial fraction on one thread and project the step to 2, 16 and 64 cores (Amdahl's bound)
    #[arg(long, conflicts_with = "threads")]
    count: bool,
    /// Threads that compute [default: one a core]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: Option<u64>,
    /// Where to compute: auto, cpu, cuda, metal or vulkan, perhaps with a number (cuda:1)
    #[arg(long, default_value = "auto", value_parser = super::parse::<DeviceKind>)]
    device: DeviceKind,
}

impl BenchArgs {
    /// The number of threads asked for.
    pub fn threads(&self) -> Option<u64> {
        if self.count { Some(1) } else { self.threads }
    }
}

/// What is measured unless something else is asked for.
const WORKLOADS: [(What, Net, u64); 15] = [
    (What::Train, Net::Mnist, 32),
    (What::Train, Net::Mnist, 128),
    (What::Sample, Net::Mnist, 25),
    (What::Train, Net::Cifar, 8),
    (What::Sample, Net::Cifar, 25),
    (What::Train, Net::NcsnV2Small, 32),
    (What::Sample, Net::NcsnV2Small, 25),
    (What::Train, Net::NcsnV2Cifar, 8),
    (What::Sample, Net::NcsnV2Cifar, 25),
    (What::Train, Net::UNetSmall, 32),
    (What::Sample, Net::UNetSmall, 64),
    (What::Train, Net::DdpmPp, 4),
    (What::Sample, Net::DdpmPp, 8),
    (What::Train, Net::NcsnPp, 4),
    (What::Sample, Net::NcsnPp, 8),
];

pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let isa = instructions()?;
    args.device.open()?;
    let plan = plan(&args);
    if !args.json {
        let device = args.device.chosen().to_string();
        table::header(isa, &device, args.steps, args.count).iter().for_each(say);
    }
    for workload in &plan {
        // Several take turns in processes of their own: the peak of memory is that of a process.
        let measurement = match plan.len() {
            1 => workload.measure(args.steps, args.count, args.device)?,
            _ => process::measure(workload, &args)?,
        };
        if args.json {
            say_json(&measurement);
        } else {
            // Beside the workload, because the clock of a processor changes.
            say(table::row(&measurement, || conv::ceiling(isa)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The default list as far as it is asked for, with the batches and at the precisions asked for.
fn plan(args: &BenchArgs) -> Vec<Workload> {
    let mut plan = Vec::new();
    for (what, net, batch) in WORKLOADS {
        if args.what.is_some_and(|asked| asked != what) || args.net.is_some_and(|asked| asked != net) {
            continue;
        }
        for &precision in &args.precision {
            let workload = Workload { what, net, batch: args.batch.unwrap_or(batch), precision };
            if !plan.contains(&workload) {
                plan.push(workload);
            }
        }
    }
    plan
}
