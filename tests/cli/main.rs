//! The program as its users meet it.
#![allow(clippy::unwrap_used)]

mod bench;
mod classifier;
mod cpu;
mod data;
mod evaluate;
mod figures;
mod flow;
mod folders;
mod inpaint;
mod memory;
mod ncsnv2;
#[cfg(target_os = "linux")]
mod output;
mod published;
mod resume;
mod runners;
mod sampling;
mod score;
mod score_sde;
mod score_sde_checkpoints;
#[cfg(unix)]
mod signals;
mod wrong_input;

use std::path::Path;
use std::process::{Command, Output};

/// A run of a tiny network on tiny digits: a step takes milliseconds.
pub const TINY: &str = "\
training: {batch_size: 3, n_iters: 24, snapshot_freq: 4, ema_rate: 0.9, test_freq: 10}
data: {dataset: DIGITS, image_size: 8, channels: 1}
model: {ngf: 2, num_classes: 3}
sampling: {n_steps_each: 2, snapshot_images: 0, final_images: 2}
";

/// The program, in `folder`.
pub fn ncsn(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ncsn"));
    command.current_dir(folder).args(args);
    command
}

/// What it said, given that it succeeded.
pub fn succeeds(folder: &Path, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = ncsn(folder, args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "ncsn {args:?} ended with {status}\n{stdout}\n{stderr}");
    stdout
}

/// Its one line of error, given that it failed as a program should: exit code 1 or 2, no panic.
pub fn fails(folder: &Path, args: &[&str]) -> String {
    failed(ncsn(folder, args).output().unwrap(), args)
}

/// [`fails`] for a program that has run.
pub fn failed(output: Output, args: &[&str]) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(matches!(output.status.code(), Some(1 | 2)), "ncsn {args:?} ended with {}\n{stderr}", output.status);
    assert!(!stderr.contains("mistake in ncsn") && !stderr.contains("panicked"), "{stderr}");
    assert!(stderr.starts_with("error: "), "{stderr}");
    // Our own errors are one line, or one with the files it is about below; clap's have a hint or two.
    assert!(
        stderr.lines().count() == 1
            || stderr.lines().skip(1).all(|l| l.is_empty() || l.starts_with("  ") || output.status.code() == Some(2)),
        "{stderr}"
    );
    stderr
}

/// A folder with the tiny configuration in it.
pub fn scratch() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tiny.yml"), TINY).unwrap();
    folder
}

/// Trains the tiny network.
pub const TRAIN: [&str; 6] = ["train", "--config", "tiny.yml", "--doc", "d", "--no-sample"];
