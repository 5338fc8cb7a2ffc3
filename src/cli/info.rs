//! `ncsn info`: what a run or a checkpoint holds, what the processor can do, which devices there are.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use ncsn::Result;
use ncsn::checkpoint::pth::{Members, Progress};
use ncsn::checkpoint::{Saved, Weights, newest, saved_config};
use ncsn::config::{Config, Sde};
use ncsn::device::DeviceKind;
use ncsn::net::params;
use ncsn::sde::Process;

use super::{Common, RunFolders, say};

#[derive(Debug, Args)]
pub struct InfoArgs {
    /// The run
    #[arg(long, value_name = "NAME", required_unless_present_any = ["checkpoint", "cpu", "devices"])]
    doc: Option<String>,
    /// A checkpoint file instead
    #[arg(long, value_name = "FILE", conflicts_with = "doc")]
    checkpoint: Option<PathBuf>,
    /// The configuration of weights that do not hold one [default: config.yml beside a .pth]
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    config: Option<String>,
    /// The processor instead: its instruction sets, the one in use, and what a convolution does at each precision
    #[arg(long, conflicts_with_all = ["doc", "checkpoint"])]
    cpu: bool,
    /// The devices instead that this build can compute on, and which one is taken if none is named
    #[arg(long, conflicts_with_all = ["doc", "checkpoint", "cpu"])]
    devices: bool,
    #[command(flatten)]
    pub common: Common,
}

pub fn run(args: InfoArgs) -> Result<ExitCode> {
    if args.cpu {
        super::cpu::describe(args.common.precision)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.devices {
        super::devices::describe()?;
        return Ok(ExitCode::SUCCESS);
    }
    let weights = match (&args.checkpoint, &args.doc) {
        (Some(path), _) => Weights::open(path)?,
        (None, Some(doc)) => {
            let folders = RunFolders::new(&args.common.run, doc)?;
            let newest = newest(&folders.logs)?;
            say(format!("run          {}", folders.logs.display()));
            let steps: Vec<String> = folders.checkpoints().steps()?.iter().map(u64::to_string).collect();
            match steps.is_empty() {
                true => say("checkpoints  of the published program"),
                false => say(format!("checkpoints  at steps {}", steps.join(", "))),
            }
            newest
        }
        (None, None) => unreachable!("clap requires one of them"),
    };
    match saved_config(&weights, args.config.as_deref())? {
        Some(_) => {
            let saved = Saved::of(weights, args.config.as_deref())?;
            describe(saved.weights(), Some(saved.config()))?;
        }
        None => describe(&weights, None)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(weights: &Weights, saved: Option<&Config>) -> Result<()> {
    let untold = saved.map(|config| config.network().untold()).unwrap_or_default();
    say(format!("checkpoint   {}", weights.path().display()));
    let n_parameters = match weights.network(untold.clone()) {
        Err(_) if saved.is_none() && weights.is_known() => {
            say("network      a U-Net, whose shapes do not tell its options; --config FILE does");
            weights.n_parameters()
        }
        network => {
            let network = network?;
            let n_parameters = params::count(&weights.build(untold, false, &DeviceKind::Cpu.open()?)?);
            say(format!("network      {network}"));
            n_parameters
        }
    };
    say(format!("parameters   {n_parameters}{}", if weights.has_ema() { ", and their moving average" } else { "" }));
    if let Some(Members { weights, ema, .. }) = weights.members() {
        say(format!("weights      {weights}"));
        ema.iter().for_each(|ema| say(format!("average      {ema}: what samples, scores and metrics are made with")));
    }
    match (weights.header(), saved) {
        (Some(header), Some(config)) => {
            say(format!("training     step {} of {}, seed {}", header.step, config.training.n_iters, header.seed));
            say(header.loss.map_or("loss         unknown".into(), |loss| format!("loss         {loss:.3} (smoothed)")));
        }
        _ => say(match weights.progress() {
            Some(Progress { epoch: Some(epoch), step }) => format!("training     step {step}, epoch {epoch}"),
            Some(Progress { epoch: None, step }) => format!("training     step {step}"),
            None => "training     unknown: the file holds weights only".into(),
        }),
    }
    let Some(config) = saved else { return Ok(()) };
    let data = &config.data;
    say(format!("data         {}, {} × {} pixels", data.dataset.name(), data.image_size, data.image_size));
    let (levels, model) = (config.noise_levels()?, &config.model);
    say(match (config.training.sde, levels.n_levels()) {
        (Some(Sde::Vp | Sde::SubVp), _) => format!("noise        β from {} to {}", model.beta_min, model.beta_max),
        (_, 1) => format!("noise        σ = {}", levels.sigma_min()),
        _ => format!("noise        σ from {} to {}", model.sigma_begin, model.sigma_end),
    });
    Ok(())
}
