//! `ncsn convert`: checkpoints from one format to another.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use ncsn::checkpoint::pth::{Published, is_pth, read_published, write_published};
use ncsn::checkpoint::{
    Checkpoints, Header, OF_MODELS, PREFIX, Weights, newest, resume_published, saved_config, write_tensors,
    write_weights,
};
use ncsn::device::Precision;
use ncsn::file::remove_abandoned;
use ncsn::noise::Noise;
use ncsn::{Error, Result};

use super::folders::config_path;
use super::lock::Lock;
use super::train::{new_trainer, save_config, with_absolute_path};
use super::{Common, DEFAULT_SEED, say};

#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A checkpoint: PyTorch's (zip, older stream or tar), safetensors with the published names, or ours; or the folder of
    /// a run, whose newest is taken
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where to: FILE.pth, as the published program of such a run keeps it, which PyTorch loads with weights_only=True;
    /// FILE.safetensors, the weights alone; or, of a published checkpoint, the folder of a new run that goes on from it:
    /// run/logs/NAME
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Write the moving average of the weights alone, as weights
    #[arg(long)]
    ema: bool,
    /// What stands before each name in a .pth file
    /// [default: as it was, else "module." as the published programs have it, but for ScoreNetRunner]
    #[arg(long)]
    prefix: Option<String>,
    /// The configuration of a run that goes on from a published checkpoint [default: config.yml beside it], or of weights in
    /// safetensors whose shapes do not tell their network
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Replace OUT if it is there
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What is written.
enum To {
    Pth,
    Safetensors,
    Run,
}

/// A checkpoint as a program of its family keeps it, and the run it comes from.
struct Found {
    published: Published,
    header: Option<Header>,
}

pub fn run(args: ConvertArgs) -> Result<ExitCode> {
    let output = args.output.display();
    let to = match args.output.extension().map(|extension| extension.to_string_lossy()) {
        Some(extension) if extension == "pth" || extension == "pt" => To::Pth,
        Some(extension) if extension == "safetensors" => To::Safetensors,
        None => To::Run,
        Some(extension) => {
            return Err(Error::Usage(format!(
                "{output}: found extension {extension:?}, expected .pth, .safetensors, or none for the folder of a run"
            )));
        }
    };
    if let To::Run = to {
        return to_run(&args);
    }
    if args.config.is_some() && !is_bare(&args.input)? {
        return Err(Error::Usage(format!(
            "found --config, but {output} is no folder of a run that would go on with it, and {} needs none",
            args.input.display()
        )));
    }
    if args.output.exists() && !args.overwrite {
        return Err(Error::Usage(format!("{output} exists; --overwrite replaces it")));
    }
    let Found { mut published, header } = found(&args.input, args.config.as_deref())?;
    let mut more = String::new();
    if args.ema {
        published = only_average(&args.input, published)?;
    } else if published.ema.is_some() && !(matches!(to, To::Pth) && published.progress.is_some()) {
        more = "; their moving average is left out, --ema writes it".into();
    }
    if let Some(prefix) = args.prefix {
        published.prefix = prefix;
    }
    remove_abandoned(&args.output)?;
    let state = match (to, &published, &header) {
        (To::Pth, Published { optimizer, progress, ema, .. }, _) => {
            write_published(&args.output, &published)?;
            let average = if progress.is_some() && ema.is_some() { ", their moving average" } else { "" };
            match (optimizer, progress) {
                (Some(_), _) => format!("{average} and the optimiser's state"),
                // NCSNv2's program would fail to go on from it.
                (None, Some(_)) => format!("{average}, without the optimiser's state, which is not beside them"),
                (None, None) => String::new(),
            }
        }
        (_, Published { network, prefix, .. }, Some(header)) => {
            let is_own = |(name, _): &&(String, _)| !OF_MODELS.contains(&&name[..]);
            let own: Vec<_> = network.iter().filter(is_own).cloned().collect();
            write_weights(&args.output, &own, header, prefix)?;
            published.network = own;
            left_out(&published)
        }
        (_, Published { network, prefix, .. }, None) => {
            write_tensors(&args.output, network, &BTreeMap::from([(PREFIX.to_string(), prefix.clone())]))?;
            left_out(&published)
        }
    };
    say(format!("{} tensors{state} in {output}{more}", published.network.len()));
    Ok(ExitCode::SUCCESS)
}

/// What is said of an optimiser's state that no weights file has.
fn left_out(published: &Published) -> String {
    let said = published.optimizer.as_ref().map(|_| " (the optimiser's state is in .pth files only)");
    said.unwrap_or_default().to_string()
}

/// Whether the file has nothing but weights, whose network a configuration tells.
fn is_bare(path: &Path) -> Result<bool> {
    Ok(path.is_file() && !is_pth(path)? && Weights::read(path)?.header().is_none())
}

fn found(path: &Path, config: Option<&str>) -> Result<Found> {
    if path.is_file() && is_pth(path)? {
        return Ok(Found { published: read_published(path)?, header: None });
    }
    let weights = if path.is_dir() { newest(path)? } else { Weights::open(path)? };
    if is_pth(weights.path())? {
        return found(weights.path(), None);
    }
    let config = saved_config(&weights, config)?;
    // A run's as they are trained: PyTorch divides by spectral norms itself.
    let weights = if config.is_some() { Weights::read(weights.path())? } else { weights };
    Ok(Found { published: weights.to_published(config.as_ref())?, header: weights.header().cloned() })
}

/// The average as the weights, and nothing else. Buffers that are not averaged stay.
fn only_average(path: &Path, published: Published) -> Result<Published> {
    let Published { network, f64s, prefix, ema, .. } = published;
    let ema = ema.ok_or_else(|| Error::format(path, "found no moving average of the weights"))?;
    let mut averages: BTreeMap<_, _> = ema.into_iter().collect();
    let average = |(name, own)| (averages.remove(&name).unwrap_or(own), name);
    let network = network.into_iter().map(average).map(|(tensor, name)| (name, tensor)).collect();
    Ok(Published { network, f64s, prefix, ..Published::default() })
}

/// Makes a run of ours of a published checkpoint, in a folder that has none.
fn to_run(args: &ConvertArgs) -> Result<ExitCode> {
    let (input, output) = (args.input.display(), args.output.display());
    if args.ema || args.prefix.is_some() || args.overwrite {
        let message =
            format!("found --ema, --prefix or --overwrite, which are for files; {output} is the folder of a run");
        return Err(Error::Usage(message));
    }
    let path = if args.input.is_dir() { newest(&args.input)?.path().to_path_buf() } else { args.input.clone() };
    if !is_pth(&path)? {
        return Err(Error::Usage(format!(
            "{input} is no checkpoint of a published program, of which a run is made; a run of ours goes on by itself"
        )));
    }
    let weights = Weights::open(&path)?;
    let Some(mut config) = saved_config(&weights, args.config.as_deref())? else {
        return Err(Error::format(&path, "found weights without a configuration, expected one with --config FILE"));
    };
    with_absolute_path(&mut config)?;
    let seed = *config.training.seed.get_or_insert(DEFAULT_SEED);
    let trainer = new_trainer(&config, Noise::new(seed), &args.common)?;
    let (trainer, epoch) = resume_published(&path, &config, trainer)?;

    let lock = Lock::take(&args.output)?;
    let (checkpoints, own_config) = (Checkpoints::new(&args.output), config_path(&args.output));
    let save = || {
        if own_config.exists() || !checkpoints.steps()?.is_empty() {
            return Err(Error::Usage(format!("the run {output} exists; `ncsn train --resume` goes on with it")));
        }
        save_config(&own_config, &config)?;
        checkpoints.save(
            &trainer,
            &Header {
                step: trainer.step_count(),
                seed,
                loss: None,
                optimizer_steps: trainer.optimizer().n_steps(),
                config: config.to_yaml(),
                precision: Some(Precision::current().to_string()),
                epoch,
                ema_updates: Header::ema_updates_of(&trainer),
            },
        )
    };
    match save() {
        Ok(path) => say(format!("a run at step {} in {output}: {}", trainer.step_count(), path.display())),
        Err(error) => {
            lock.give_back();
            return Err(error);
        }
    }
    Ok(ExitCode::SUCCESS)
}
