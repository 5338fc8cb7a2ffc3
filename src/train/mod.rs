//! Training: one step, and the run as an iterator of reports. The caller logs, saves and stops.

mod accuracy;
mod ema;
pub mod memory;
mod optimizer;
mod run;
mod schedule;
mod test_loss;
mod tree;

pub use accuracy::accuracy;
pub use ema::{Ema, EmaRate};
pub use optimizer::{Optimizer, OptimizerConfig, Rule};
pub use run::{Report, Trainer, TrainerState, TrainingOptions};
pub use schedule::Schedule;
pub use test_loss::TestLoss;
