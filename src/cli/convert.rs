//! `ncsn convert`: checkpoints from one format to another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use ncsn::checkpoint::pth::{OptimizerState, Published, is_pth, read_published, write_published};
use ncsn::checkpoint::{Weights, saved_config, to_published, write_tensors};
use ncsn::config::Runner;
use ncsn::device::DeviceKind;
use ncsn::net::params::{HostTensor, to_host};
use ncsn::net::{InputRange, Network};
use ncsn::{Error, Result};

use super::Common;

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A checkpoint: PyTorch's (zip, older stream or tar), safetensors with the published names, or ours
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where to: FILE.pth, which PyTorch loads with weights_only=True, or FILE.safetensors
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Write the moving average of the weights, without the optimiser's state
    #[arg(long)]
    ema: bool,
    /// What stands before each name in a .pth file
    /// [default: as it was, else "module." as the published program's AnnealRunner and BaselineRunner have it]
    #[arg(long)]
    prefix: Option<String>,
    /// Replace OUT if it is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What a checkpoint holds, whatever its format.
struct Parts {
    network: Vec<(String, HostTensor)>,
    /// `None` where the format does not say it.
    prefix: Option<String>,
    optimizer: Option<OptimizerState>,
    /// What is said of the moving average.
    left_out: Option<&'static str>,
}

/// Where the file has an average that is not asked for.
const LEFT_OUT: &str = "; their moving average is left out, --ema writes it";

/// The key of the prefix in the metadata of a safetensors file.
const PREFIX: &str = "prefix";

pub fn run(args: ConvertArgs) -> Result<ExitCode> {
    let extension = args.output.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let to_pth = match extension {
        "pth" | "pt" => true,
        "safetensors" => false,
        _ => {
            let message =
                format!("{}: found extension {extension:?}, expected .pth or .safetensors", args.output.display());
            return Err(Error::Usage(message));
        }
    };
    if args.output.exists() && !args.overwrite {
        return Err(Error::Usage(format!("{} exists; --overwrite replaces it", args.output.display())));
    }
    let Parts { network, prefix, optimizer, left_out } =
        if is_pth(&args.input)? { published(&args.input, args.ema)? } else { ours(&args.input, args.ema)? };
    let n_tensors = network.len();
    let prefix = args.prefix.or(prefix).unwrap_or_else(|| "module.".into());
    if to_pth {
        write_published(&args.output, &network, &prefix, optimizer.as_ref())?;
    } else {
        write_tensors(&args.output, &network, &BTreeMap::from([(PREFIX.to_string(), prefix)]))?;
    }
    let state = match optimizer {
        Some(_) if to_pth => " and the optimiser's state",
        Some(_) => " (the optimiser's state is in .pth files only)",
        None => "",
    };
    super::say(format!("{n_tensors} tensors{state} in {}{}", args.output.display(), left_out.unwrap_or_default()));
    Ok(ExitCode::SUCCESS)
}

fn published(path: &Path, ema: bool) -> Result<Parts> {
    let Published { network, prefix, ema: average, optimizer, .. } = read_published(path)?;
    let (prefix, has_average) = (Some(prefix), average.is_some());
    if ema {
        let network = average.ok_or_else(|| Error::format(path, "found no moving average of the weights"))?;
        return Ok(Parts { network, prefix, optimizer: None, left_out: None });
    }
    Ok(Parts { network, prefix, optimizer, left_out: has_average.then_some(LEFT_OUT) })
}

fn ours(path: &Path, ema: bool) -> Result<Parts> {
    let weights = Weights::open(path)?;
    if ema && !weights.has_ema() {
        return Err(Error::format(path, "found no moving average of the weights"));
    }
    let config = weights.network(InputRange::Unit)?;
    let net: Network = weights.build(InputRange::Unit, ema, &DeviceKind::Cpu.open()?)?;
    // In the order of registration, by which PyTorch's optimisers number the parameters.
    let network = to_host(&net)?;
    let of_runner = Runner::of(config.architecture()).prefix();
    let found = Some(weights.prefix()).filter(|prefix| !prefix.is_empty());
    let prefix = Some(weights.metadata(PREFIX).or(found).unwrap_or(of_runner).to_string());
    let left_out = (weights.has_ema() && !ema).then_some(LEFT_OUT);
    let (header, state) = (weights.header(), weights.optimizer_state()?);
    let optimizer = match (header, state, saved_config(&weights, None)?) {
        (Some(header), Some(state), Some(config)) if !ema => {
            let names: Vec<String> = network.iter().map(|(name, _)| name.clone()).collect();
            let get = |kind: &str, name: &str| {
                let key = format!("{kind}.{name}");
                let missing = || Error::format(state.path(), format!("found no tensor {key}"));
                state.get(&key)?.ok_or_else(missing)
            };
            Some(to_published(config.rule(), header.optimizer_steps, &names, get)?)
        }
        _ => None,
    };
    Ok(Parts { network, prefix, optimizer, left_out })
}
