//! The command line of the published program, which has no commands.

use std::path::PathBuf;

use clap::Args;
use ncsn::config::Runner;
use ncsn::{Error, Result};

use super::common::{Common, parse};
use super::folders::RunFolders;
use super::{Command, sample, toy, train};

/// The published program's default.
pub const DEFAULT_SEED: u64 = 1234;

/// The published program's flags.
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
    #[arg(short = 'o', long = "image_folder", hide = true)]
    image_folder: Option<PathBuf>,
    #[arg(long, value_name = "KEY=VALUE", hide = true)]
    set: Vec<String>,
    #[command(flatten)]
    common: Common,
}

impl Published {
    pub fn command(self) -> Result<Command> {
        if self.runner == Some(Runner::Toy) {
            let output = self.doc.map(|doc| RunFolders::new(&self.common.run, &doc)).transpose()?;
            return Ok(Command::Toy(toy::ToyArgs {
                output: self.image_folder.or(output.map(|folders| folders.samples)),
                n_steps: toy::DEFAULT_N_STEPS,
                seed: self.seed.unwrap_or(DEFAULT_SEED),
                overwrite: false,
                common: self.common,
            }));
        }
        let Some(doc) = self.doc else {
            return Err(Error::Usage("found no command and no --doc; see ncsn --help".into()));
        };
        Ok(if self.test {
            let args =
                sample::SampleArgs::published(doc, self.seed.unwrap_or(DEFAULT_SEED), self.image_folder, self.common);
            Command::Sample(args)
        } else {
            Command::Train(train::TrainArgs {
                runner: self.runner,
                config: self.config,
                doc,
                resume: self.resume_training,
                step: None,
                overwrite: false,
                seed: self.seed,
                comment: self.comment,
                set: self.set,
                no_sample: false,
                common: self.common,
            })
        })
    }
}
