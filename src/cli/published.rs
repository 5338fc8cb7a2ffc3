//! The command lines of the published programs, which have no commands: NCSN's, and with `--exp`, `--sample`, `--fast_fid` and `--ni`
//! NCSNv2's, with `--workdir` and `--mode` Score-SDE's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use ncsn::checkpoint::by_step;
use ncsn::config::{Config, Eval, File, Program, Runner};
use ncsn::eval::ByteRule;
use ncsn::{Error, Result};

use super::common::{Common, hint, parse};
use super::evaluate::{BitsArgs, EvaluateArgs, How, Metric};
use super::folders::RunFolders;
use super::{Command, sample, toy, train};

/// The published program's default.
pub const DEFAULT_SEED: u64 = 1234;

/// The published programs' flags.
#[derive(Debug, Args)]
pub struct Published {
    /// The runner
    #[arg(long, hide = true, value_parser = parse::<Runner>)]
    runner: Option<Runner>,
    #[arg(long, hide = true)]
    config: Option<String>,
    #[arg(long, hide = true)]
    doc: Option<String>,
    #[arg(long, hide = true)]
    seed: Option<u64>,
    #[arg(long, default_value = "", hide = true)]
    comment: String,
    #[arg(long, hide = true)]
    test: bool,
    #[arg(long = "resume_training", hide = true)]
    resume_training: bool,
    /// NCSNv2's: draw samples
    #[arg(long, conflicts_with = "test", hide = true)]
    sample: bool,
    /// NCSNv2's: FID of each checkpoint
    #[arg(long = "fast_fid", conflicts_with_all = ["test", "sample"], hide = true)]
    fast_fid: bool,
    /// NCSNv2's: the folder of all runs
    #[arg(long, value_name = "DIR", conflicts_with = "run", hide = true)]
    exp: Option<PathBuf>,
    /// NCSNv2's: replace what is there, and ask nothing
    #[arg(long, hide = true)]
    ni: bool,
    /// Score-SDE's: the folder of the run
    #[arg(long, value_name = "DIR", conflicts_with_all = ["run", "doc", "exp", "runner"], requires = "mode", hide = true)]
    workdir: Option<PathBuf>,
    /// Score-SDE's: what to do
    #[arg(long, value_enum, requires = "workdir", hide = true)]
    mode: Option<Mode>,
    #[arg(short = 'o', short_alias = 'i', long = "image_folder", hide = true)]
    image_folder: Option<PathBuf>,
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// What Score-SDE's program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Trains, or goes on with it.
    Train,
    /// Evaluates checkpoints, by the keys of `eval`.
    Eval,
}

/// How Score-SDE's program names a key on the command line.
const KEY: &str = "--config.";

/// The arguments with `--config.SECTION.KEY=VALUE`, as Score-SDE's program has them, as `--set SECTION.KEY=VALUE`; the value may be
/// an argument of its own.
pub fn translated(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut args, mut out) = (args, Vec::new());
    while let Some(arg) = args.next() {
        match arg.to_str().and_then(|arg| arg.strip_prefix(KEY)) {
            None => out.push(arg),
            Some(key) => {
                let mut set = OsString::from(key);
                if !key.contains('=') {
                    set.push("=");
                    set.push(args.next().unwrap_or_default());
                }
                out.extend(["--set".into(), set]);
            }
        }
    }
    out
}

impl Published {
    /// The commands that the flags mean, in their order.
    pub fn commands(mut self) -> Result<Vec<Command>> {
        match (self.workdir.take(), self.mode) {
            (Some(workdir), Some(mode)) => self.score_sde(&workdir, mode),
            _ => self.command().map(|command| vec![command]),
        }
    }

    /// Those of Score-SDE's program. Its folder is that of all runs here, in which the run has the name of its configuration.
    fn score_sde(mut self, workdir: &Path, mode: Mode) -> Result<Vec<Command>> {
        let Some(config) = self.config.take() else {
            return Err(Error::Usage("found --workdir without --config, expected the file that the run is of".into()));
        };
        let doc = Path::new(&config).file_stem().and_then(|stem| stem.to_str()).unwrap_or("run").to_string();
        self.common.run = workdir.to_path_buf();
        let folders = RunFolders::new(workdir, &doc)?;
        if mode == Mode::Train {
            return Ok(vec![Command::Train(train::TrainArgs {
                runner: None,
                config: Some(config),
                doc,
                resume: !folders.checkpoints().steps()?.is_empty(),
                step: None,
                overwrite: false,
                seed: self.seed,
                comment: self.comment,
                set: self.set,
                no_sample: false,
                common: self.common,
            })]);
        }
        let (file, name) = Config::load(&config, &self.set, None)?;
        let config = file.images(&name)?;
        let Eval { begin_ckpt, end_ckpt, batch_size, num_samples, enable_sampling, enable_loss, enable_bpd, .. } =
            config.eval;
        let step = |number: u64| Some(number.saturating_mul(config.training.snapshot_freq));
        let seed = self.seed.or(config.training.seed).unwrap_or(DEFAULT_SEED);
        let evaluate = |test_loss: bool| {
            let all = EvaluateArgs::published(doc.clone(), test_loss, seed, false, self.common.clone());
            EvaluateArgs { from: step(begin_ckpt), to: step(end_ckpt), ..all }
        };
        let mut commands = Vec::new();
        if enable_bpd {
            // A checkpoint at a time; the split is that of the configuration.
            let range = step(begin_ckpt)..=step(end_ckpt);
            for (at, _) in by_step(&folders.logs)?.into_iter().filter(|(at, _)| range.contains(&Some(*at))) {
                let bits = BitsArgs::published();
                let args = EvaluateArgs { sweep: false, from: None, to: None, step: Some(at), bits, ..evaluate(false) };
                commands.push(Command::Evaluate(Box::new(args)));
            }
        }
        if enable_loss {
            commands.push(Command::Evaluate(Box::new(evaluate(true))));
        }
        if enable_sampling {
            let all = evaluate(false);
            // Its metrics are of bytes that were cut off, and its inception score of all samples at once.
            let how = How { bytes: ByteRule::Truncate, ..all.how.clone() };
            let metrics = vec![Metric::Fid, Metric::Is, Metric::Kid];
            let (n, draw_batch) = (Some(num_samples), Some(batch_size));
            let args = EvaluateArgs { n, draw_batch, metrics, splits: 1, how, ..all };
            commands.push(Command::Evaluate(Box::new(args)));
        }
        match commands.is_empty() {
            false => Ok(commands),
            true => Err(Error::Usage(format!(
                "found nothing to evaluate in {name}, expected eval.enable_loss, eval.enable_sampling or eval.enable_bpd to be true, \
                 and checkpoints from number eval.begin_ckpt to eval.end_ckpt"
            ))),
        }
    }

    fn command(mut self) -> Result<Command> {
        if let Some(exp) = self.exp.take() {
            self.common.run = exp;
        }
        if self.runner == Some(Runner::Toy) {
            let output = self.doc.map(|doc| RunFolders::new(&self.common.run, &doc)).transpose()?;
            return Ok(Command::Toy(toy::ToyArgs {
                output: self.image_folder.or(output.map(|folders| folders.samples)),
                n_steps: toy::DEFAULT_N_STEPS,
                seed: self.seed.unwrap_or(DEFAULT_SEED),
                overwrite: self.ni,
                common: self.common,
            }));
        }
        let Some(doc) = self.doc else {
            return Err(Error::Usage("found no command and no --doc; see ncsn --help".into()));
        };
        let test_loss = self.test && is_of_ncsnv2(self.runner, &self.common, &doc)?;
        if self.fast_fid || test_loss {
            if self.image_folder.is_some() {
                let folder = self.common.run.join("evaluation").join(&doc);
                hint(format!("leaving the folder of images aside: everything goes to {}", folder.display()));
            }
            let seed = self.seed.unwrap_or(DEFAULT_SEED);
            let args = EvaluateArgs::published(doc, test_loss, seed, self.ni, self.common);
            return Ok(Command::Evaluate(Box::new(args)));
        }
        Ok(if self.test || self.sample {
            let seed = self.seed.unwrap_or(DEFAULT_SEED);
            // NCSN's `--test` draws 25, NCSNv2's files say how many.
            let n = self.test.then_some(25);
            Command::Sample(sample::SampleArgs::published(doc, n, seed, self.image_folder, self.ni, self.common))
        } else {
            Command::Train(train::TrainArgs {
                runner: self.runner,
                config: self.config,
                doc,
                resume: self.resume_training,
                step: None,
                overwrite: self.ni && !self.resume_training,
                seed: self.seed,
                comment: self.comment,
                set: self.set,
                no_sample: false,
                common: self.common,
            })
        })
    }
}

/// Whether `--test` asks for the test loss, as in NCSNv2's program, and not for samples, as in NCSN's: by the runner, else by the
/// configuration of the run.
fn is_of_ncsnv2(runner: Option<Runner>, common: &Common, doc: &str) -> Result<bool> {
    if let Some(runner) = runner {
        return Ok(runner == Runner::NcsnV2);
    }
    let path = RunFolders::new(&common.run, doc)?.config();
    // Whatever is wrong with the run, the command that looks at it says so.
    let config = Config::load(&path.display().to_string(), &[], None);
    Ok(matches!(config, Ok((File::Images(config), _)) if config.program() == Program::NcsnV2))
}
