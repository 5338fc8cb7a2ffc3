//! What signals do to a run.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::{TRAIN, ncsn, scratch};

/// Steps that nobody waits for.
const LONG: [&str; 4] = ["--set", "training.n_iters=1000000", "--set", "training.snapshot_freq=1000000"];

/// A run that has made a step.
fn running(folder: &Path, mut command: Command) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while fs::metadata(folder.join("run/logs/d/metrics.jsonl")).map_or(0, |m| m.len()) == 0 {
        sleep(Duration::from_millis(2));
    }
    child
}

fn long_run(folder: &Path) -> Child {
    running(folder, ncsn(folder, &[&TRAIN[..], &LONG].concat()))
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn has_checkpoint(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder.join("run/logs/d")).unwrap().flatten();
    entries.any(|e| e.file_name().to_string_lossy().starts_with("checkpoint_"))
}

#[test]
fn every_request_saves_and_has_its_own_exit_code() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143), ("-USR1", 143), ("-HUP", 129)] {
        let folder = scratch();
        let child = long_run(folder.path());
        send(signal, &child);
        let Output { status, stdout, .. } = child.wait_with_output().unwrap();
        assert_eq!(status.code(), Some(code), "{signal}");
        assert!(String::from_utf8_lossy(&stdout).contains("saved; go on with"), "{signal}");
        assert!(has_checkpoint(folder.path()), "{signal}");
    }
}

#[test]
fn signals_within_a_second_are_one_request() {
    let folder = scratch();
    let child = long_run(folder.path());
    ["-TERM", "-TERM", "-INT", "-INT"].iter().for_each(|signal| send(signal, &child));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert!(has_checkpoint(folder.path()));
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let folder = scratch();
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).args(["-c", "trap '' HUP INT; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ncsn")]);
    command.args(TRAIN).args(LONG);
    let mut child = running(folder.path(), command);
    ["-HUP", "-INT"].iter().for_each(|signal| send(signal, &child));
    sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    send("-TERM", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
}

#[test]
fn a_file_beyond_the_limit_of_its_size_is_an_error_that_names_it() {
    let folder = scratch();
    let mut command = Command::new("sh");
    command.current_dir(folder.path()).args(["-c", "ulimit -f 8; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_ncsn")]);
    let Output { status, stderr, .. } = command.args(TRAIN).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), status.signal()), (Some(1), None), "{said}");
    assert!(said.starts_with("error: ") && said.contains("checkpoint_4") && said.contains("File too large"), "{said}");
}
