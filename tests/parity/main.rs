//! Numbers of the published program, reproduced.
//!
//! The fixtures lie in `tests/fixtures`, whose README names the programs that made them. A case without its fixture
//! fails. Cases are rows of tables, hence the test harness of our own.
#![allow(clippy::unwrap_used)]

mod blocks;
mod checkpoints;
mod edm_solvers;
mod fixture;
mod inception;
mod langevin;
mod metrics;
mod ncsnv2;
mod ncsnv2_runs;
mod network;
mod optimizers;
mod pixels;
mod resize;
mod score_sde;
mod score_sde_blocks;
mod score_sde_networks;
mod score_sde_runs;
mod score_sde_training;
mod sliced;
mod toy;
mod transform;

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use ncsn::device::Precision;
use ncsn_kernels::ops::is_cpu;

/// A claim, the fixtures that it needs, and how to find out.
pub struct Case {
    claim: String,
    fixtures: Vec<String>,
    run: Box<dyn FnOnce() + Send>,
}

impl Case {
    /// `run` panics if the claim is wrong.
    pub fn new(claim: impl Into<String>, fixtures: &[impl AsRef<str>], run: impl FnOnce() + Send + 'static) -> Self {
        let fixtures = fixtures.iter().map(|f| f.as_ref().to_string()).collect();
        Self { claim: claim.into(), fixtures, run: Box::new(run) }
    }
}

fn main() {
    // As exactly as can be; then the networks again, as the program computes by default.
    Precision::Highest.set_current();
    let mut conclusion = run_all(cases());
    // A GPU tries its kernels before it takes one, which lasts minutes on a program that acts as one; `tests/gpu.rs` has that.
    if !conclusion.has_failed() && is_cpu(&fixture::device()) {
        Precision::High.set_current();
        conclusion = run_all(network::cases().into_iter().chain(ncsnv2::networks()).collect());
    }
    conclusion.exit();
}

fn cases() -> Vec<Case> {
    [
        fixture::cases(),
        blocks::cases(),
        checkpoints::cases(),
        edm_solvers::cases(),
        inception::cases(),
        network::cases(),
        langevin::cases(),
        metrics::cases(),
        ncsnv2::cases(),
        ncsnv2_runs::cases(),
        optimizers::cases(),
        sliced::cases(),
        pixels::cases(),
        resize::cases(),
        score_sde::cases(),
        score_sde_blocks::cases(),
        score_sde_networks::cases(),
        score_sde_runs::cases(),
        score_sde_training::cases(),
        toy::cases(),
        transform::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn run_all(cases: Vec<Case>) -> Conclusion {
    let trials = cases.into_iter().map(|case| {
        let run = move || -> Result<(), Failed> {
            for name in &case.fixtures {
                assert!(fixture::path(name).exists(), "tests/fixtures/{name} is missing: it belongs to every clone");
            }
            (case.run)();
            Ok(())
        };
        Trial::test(format!("{} ({})", case.claim, Precision::current()), run)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect())
}
