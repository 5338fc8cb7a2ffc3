//! A run that is interrupted, however rudely, ends where an uninterrupted one does.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{TRAIN, fails, ncsn, scratch, succeeds};

fn final_files(folder: &Path) -> [Vec<u8>; 2] {
    ["checkpoint_24.safetensors", "checkpoint_24.state.safetensors"]
        .map(|name| fs::read(folder.join("run/logs/d").join(name)).unwrap())
}

fn straight_run() -> ([Vec<u8>; 2], Duration) {
    let folder = scratch();
    let started = Instant::now();
    succeeds(folder.path(), &TRAIN);
    (final_files(folder.path()), started.elapsed())
}

#[test]
fn a_run_killed_twenty_times_equals_a_straight_run_byte_for_byte() {
    let (expected, seconds) = straight_run();
    // Instants all over a run, a little beyond its end too, from a fixed sequence.
    let mut state = 88172645463325252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut n_killed = 0;
    let mut folder = scratch();
    while n_killed < 20 {
        let begun = folder.path().join("run/logs/d/config.yml").exists();
        let args: &[&str] = if begun { &["train", "--doc", "d", "--resume", "--no-sample"] } else { &TRAIN };
        let mut child = ncsn(folder.path(), args).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(seconds.mul_f64(0.6 * random()));
        if child.try_wait().unwrap().is_some() {
            // It was done before the blow: compare, and start another run to hit.
            assert!(final_files(folder.path()) == expected, "after {n_killed} kills");
            folder = scratch();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        n_killed += 1;
    }
    let begun = folder.path().join("run/logs/d/config.yml").exists();
    succeeds(folder.path(), if begun { &["train", "--doc", "d", "--resume", "--no-sample"] } else { &TRAIN });
    assert!(final_files(folder.path()) == expected);
    // The metrics, too, are those of one run.
    let metrics = fs::read_to_string(folder.path().join("run/logs/d/metrics.jsonl")).unwrap();
    let steps: Vec<u64> = metrics
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=24).collect::<Vec<_>>());
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_saves_and_says_how_to_go_on() {
    let (expected, _) = straight_run();
    let folder = scratch();
    let mut slow = TRAIN.to_vec();
    slow.extend(["--set", "training.snapshot_freq=1000"]);
    let child = ncsn(folder.path(), &slow).stdout(std::process::Stdio::piped()).spawn().unwrap();
    while !folder.path().join("run/logs/d/metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("go on with: ncsn train --doc d --resume"), "{said}");
    succeeds(folder.path(), &["train", "--doc", "d", "--resume", "--no-sample", "--set", "training.snapshot_freq=4"]);
    assert!(final_files(folder.path()) == expected);
}

#[test]
fn an_existing_run_is_touched_only_when_asked() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let before = final_files(folder.path());
    let message = fails(folder.path(), &TRAIN);
    assert!(
        message.contains("--resume") && message.contains("--overwrite") && message.contains("checkpoint at step 24")
    );
    assert!(final_files(folder.path()) == before);

    let mut overwrite = TRAIN.to_vec();
    overwrite.extend(["--overwrite", "--seed", "2"]);
    succeeds(folder.path(), &overwrite);
    assert!(final_files(folder.path()) != before, "another seed, another network");
    assert!(fails(folder.path(), &["train", "--doc", "other", "--resume"]).contains("no run"));
}

#[test]
fn a_wrong_configuration_does_not_cost_an_existing_run() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let before = final_files(folder.path());
    let mut overwrite = TRAIN.to_vec();
    overwrite.extend(["--overwrite", "--set", "model.sigma_end=2"]);
    fails(folder.path(), &overwrite);
    assert!(final_files(folder.path()) == before);
}

#[test]
fn only_the_newest_two_checkpoints_keep_their_optimiser_state() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let mut names: Vec<String> = fs::read_dir(folder.path().join("run/logs/d"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("checkpoint"))
        .collect();
    names.sort();
    let mut expected: Vec<String> = [4, 8, 12, 16, 20, 24].map(|s| format!("checkpoint_{s}.safetensors")).to_vec();
    expected.extend([20, 24].map(|s| format!("checkpoint_{s}.state.safetensors")));
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn a_diverging_run_stops_and_keeps_its_last_checkpoint() {
    let folder = scratch();
    let mut wild = TRAIN.to_vec();
    wild.extend(["--set", "optim.lr=1e30", "--set", "optim.optimizer=SGD", "--set", "training.snapshot_freq=1"]);
    let message = fails(folder.path(), &wild);
    assert!(message.contains("at step"), "{message}");
    let info = succeeds(folder.path(), &["info", "--doc", "d"]);
    assert!(info.contains("step 1 of 24") || info.contains("step 2 of 24"), "{info}");
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let [one, three] = ["1", "3"].map(|n_threads| {
        let folder = scratch();
        let done = ncsn(folder.path(), &TRAIN).env("RAYON_NUM_THREADS", n_threads).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        final_files(folder.path())
    });
    assert!(one == three);
}
