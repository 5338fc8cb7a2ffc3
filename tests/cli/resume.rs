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

#[test]
fn a_run_that_warms_up_goes_on_from_every_checkpoint_as_a_straight_one() {
    let warm = ["optim.warmup=15", "training.ema_warmup=true", "training.ema_rate=0.7", "training.grad_clip=5"];
    let settings: Vec<&str> = warm.iter().flat_map(|set| ["--set", set]).collect();
    let folder = scratch();
    succeeds(folder.path(), &[&TRAIN[..], &settings].concat());
    let expected = final_files(folder.path());
    let plain = straight_run().0;
    assert!(expected[0] != plain[0] && expected[1] != plain[1], "the settings matter");

    // Within the warm-up of the learning rate and of the average, 24 steps by four.
    let folder = scratch();
    succeeds(folder.path(), &[&TRAIN[..], &settings, &["--set", "training.n_iters=4"]].concat());
    for n in [8, 12, 16, 20, 24] {
        let set = format!("training.n_iters={n}");
        succeeds(folder.path(), &["train", "--doc", "d", "--resume", "--no-sample", "--set", &set]);
    }
    assert!(final_files(folder.path()) == expected);
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

/// Every file of the run, but for its log.
fn run_files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder.join("run/logs/d")).unwrap().flatten();
    let mut files: Vec<_> = entries
        .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
        .filter(|(name, _)| !name.starts_with('.'))
        .collect();
    files.sort();
    files
}

const RESUME: [&str; 5] = ["train", "--doc", "d", "--resume", "--no-sample"];

#[test]
fn a_resume_that_is_refused_changes_nothing() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    fs::create_dir(folder.path().join("empty")).unwrap();
    let before = run_files(folder.path());
    for (set, needle) in [
        (&["--set", "model.ngf=4"][..], "ngf"),
        (&["--set", "data.dataset=FOLDER", "--set", "data.path=empty"], "empty"),
        (&["--set", "data.image_size=3"], "image_size"),
        (&["--set", "training.nonsense=3"], "nonsense"),
        (&["--seed", "99"], "keeps the seed"),
        (&["--device", "cuda"], "cuda"),
        (&["--config", "tiny.yml", "--set", "model.num_classes=4"], "shape"),
        (&["--config", "other.yml"], "training.batch_size is 5, not 3"),
        (&["--step", "5"], "checkpoint_5"),
    ] {
        fs::write(folder.path().join("other.yml"), crate::TINY.replace("batch_size: 3", "batch_size: 5")).unwrap();
        let message = fails(folder.path(), &[&RESUME[..], set].concat());
        assert!(message.contains(needle) || needle == "shape" || needle == "ngf", "{needle} in {message}");
        assert!(run_files(folder.path()) == before, "{set:?}");
    }
    // What cannot be written.
    let run = folder.path().join("run");
    let board = run.join("tensorboard/d");
    fs::remove_dir_all(&board).unwrap();
    fs::write(&board, "x").unwrap();
    assert!(fails(folder.path(), &[&RESUME[..], &["--step", "20"]].concat()).contains("TensorBoard"));
    assert!(run_files(folder.path()) == before);
    fs::remove_file(&board).unwrap();
    fs::rename(run.join("logs/d/stdout.txt"), run.join("kept")).unwrap();
    fs::create_dir(run.join("logs/d/stdout.txt")).unwrap();
    let args = [&RESUME[..], &["--set", "training.n_iters=30"]].concat();
    assert!(fails(folder.path(), &args).contains("found a folder, expected a file"));
    fs::remove_dir(run.join("logs/d/stdout.txt")).unwrap();
    fs::rename(run.join("kept"), run.join("logs/d/stdout.txt")).unwrap();
    assert!(run_files(folder.path()) == before);
    // The file that the run began with may be named.
    succeeds(folder.path(), &[&RESUME[..], &["--config", "tiny.yml"]].concat());
}

#[test]
fn a_new_run_that_is_refused_leaves_no_folder() {
    let folder = scratch();
    for set in ["data.image_size=3", "data.dataset=FOLDER", "training.batch_size=0"] {
        fails(folder.path(), &[&TRAIN[..], &["--set", set]].concat());
    }
    fails(folder.path(), &[&TRAIN[..], &["--set", "data.dataset=FOLDER", "--set", "data.path=nowhere"]].concat());
    assert!(!folder.path().join("run").exists());
}

#[test]
fn a_resume_without_a_checkpoint_says_that_it_starts_at_step_0_unless_weights_were_lost() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let run = folder.path().join("run/logs/d");
    let names: Vec<String> = run_files(folder.path()).into_iter().map(|(name, _)| name).collect();
    for name in names.iter().filter(|n| n.starts_with("checkpoint") && !n.ends_with("state.safetensors")) {
        fs::remove_file(run.join(name)).unwrap();
    }
    let message = fails(folder.path(), &RESUME);
    assert!(message.contains("without its weights, checkpoint_20.safetensors"), "{message}");
    for name in names.iter().filter(|n| n.ends_with("state.safetensors")) {
        fs::remove_file(run.join(name)).unwrap();
    }
    let said = succeeds(folder.path(), &RESUME);
    assert!(said.contains("without a checkpoint: starting at step 0"), "{said}");
}

#[test]
fn a_damaged_newest_checkpoint_is_refused_with_the_command_that_goes_on_before_it() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let expected = final_files(folder.path());
    let path = folder.path().join("run/logs/d/checkpoint_24.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let n = flipped.len();
    flipped[n - 40] ^= 4;
    for damaged in [&whole[..1000], &flipped[..]] {
        fs::write(&path, damaged).unwrap();
        let message = fails(folder.path(), &RESUME);
        let command = "the checkpoint of step 20 is whole: ncsn train --doc d --resume --step 20";
        assert!(message.contains("checkpoint_24.safetensors") && message.contains(command), "{message}");
        let sample = ["sample", "--doc", "d", "-o", "s", "--n", "1", "--final-only"];
        let message = fails(folder.path(), &sample);
        assert!(message.contains("the checkpoint of step 20 is whole: --step 20 takes it"), "{message}");
    }
    succeeds(folder.path(), &[&RESUME[..], &["--step", "20"]].concat());
    assert!(final_files(folder.path()) == expected);
    assert!(fs::read(path.with_extension("safetensors.old")).unwrap() == flipped, "nothing is lost");
}

#[test]
fn a_run_whose_overwriting_was_interrupted_is_not_resumed_with_the_old_configuration() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    // As a kill leaves it: the configuration goes first.
    fs::remove_file(folder.path().join("run/logs/d/config.yml")).unwrap();
    let message = fails(folder.path(), &RESUME);
    assert!(message.contains("config.yml") && message.contains("--overwrite"), "{message}");
    succeeds(folder.path(), &[&TRAIN[..], &["--overwrite"]].concat());
}

#[test]
fn a_run_whose_folder_was_removed_and_begun_anew_is_not_written_into() {
    let folder = scratch();
    let long = ["--set", "training.n_iters=1000000", "--set", "training.snapshot_freq=1000000"];
    let mut child = ncsn(folder.path(), &[&TRAIN[..], &long].concat());
    let child = child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    while !folder.path().join("run/logs/d/metrics.jsonl").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::remove_dir_all(folder.path().join("run/logs/d")).unwrap();
    succeeds(folder.path(), &TRAIN);
    let before = run_files(folder.path());
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("was removed or replaced by another program"), "{said}");
    assert!(run_files(folder.path()) == before);
}

#[test]
fn a_relative_folder_of_images_is_saved_absolute() {
    let folder = scratch();
    // Names that YAML would take for something else.
    for name in ["photos #1", "a: b", "[x]", "'quoted'", "null"] {
        let images = folder.path().join(name);
        fs::create_dir(&images).unwrap();
        for k in 0..4u8 {
            let pixels = ncsn::data::Pixels::new(vec![60 * k; 64], 8, 8, 1);
            ncsn::image::write_png(&images.join(format!("{k}.png")), &pixels).unwrap();
        }
        let path = format!("data.path={name}");
        let args = ["--overwrite", "--set", "data.dataset=FOLDER", "--set", &path, "--set", "training.n_iters=2"];
        succeeds(folder.path(), &[&TRAIN[..], &args].concat());
        let config = fs::read_to_string(folder.path().join("run/logs/d/config.yml")).unwrap();
        let absolute = fs::canonicalize(folder.path()).unwrap().join(name);
        assert!(config.contains(&format!("path: {:?}", absolute.display().to_string())), "{config}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let run = folder.path().join("run").display().to_string();
    succeeds(elsewhere.path(), &[&RESUME[..], &["--run", &run, "--set", "training.n_iters=3"]].concat());
}

#[test]
fn leftovers_of_killed_programs_are_removed_by_the_next() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let run = folder.path().join("run/logs/d");
    let left = [".checkpoint_28.safetensors.77.tmp", ".config.yml.77.tmp", "checkpoint_28.state.safetensors"];
    left.iter().for_each(|name| fs::write(run.join(name), "half").unwrap());
    fs::write(run.join(".mine.tmp"), "precious").unwrap();
    fs::write(run.join("checkpoint_007.safetensors"), "precious").unwrap();
    succeeds(folder.path(), &[&RESUME[..], &["--set", "training.n_iters=25"]].concat());
    assert!(left.iter().all(|name| !run.join(name).exists()));
    assert!(run.join(".mine.tmp").exists() && run.join("checkpoint_007.safetensors").exists());
}

#[test]
fn a_run_that_goes_on_at_another_precision_says_so() {
    let folder = scratch();
    let said = succeeds(folder.path(), &TRAIN);
    let last = said.lines().last().unwrap();
    assert!(last.contains("24 steps done in") && last.contains(", loss ") && last.contains(", test loss "), "{said}");
    let warning = "trained at --precision high so far and goes on at medium";
    let said = succeeds(folder.path(), &[&RESUME[..], &["--set", "training.n_iters=25"]].concat());
    assert!(!said.contains("--precision"), "{said}");
    let args = ["--set", "training.n_iters=26", "--precision", "medium"];
    let said = succeeds(folder.path(), &[&RESUME[..], &args].concat());
    assert!(said.contains(warning), "{said}");
}
