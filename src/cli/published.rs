//! The command lines of the published programs, which have no commands: NCSN's, and with `--exp`, `--sample`, `--fast_fid` and `--ni`
//! NCSNv2's.

use std::path::PathBuf;

use clap::Args;
use ncsn::config::{Config, File, Program, Runner};
use ncsn::{Error, Result};

use super::common::{Common, hint, parse};
use super::evaluate::EvaluateArgs;
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
    #[arg(short = 'o', short_alias = 'i', long = "image_folder", hide = true)]
    image_folder: Option<PathBuf>,
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
    #[command(flatten)]
    common: Common,
}

impl Published {
    pub fn command(mut self) -> Result<Command> {
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
