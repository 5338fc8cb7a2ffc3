//! Folders that commands write into: nothing of anybody else's is lost, and what is there is what was asked for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use ncsn::checkpoint::TensorFile;

use crate::{TRAIN, fails, scratch, succeeds};

fn trained() -> tempfile::TempDir {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    folder
}

fn sample<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["sample", "--doc", "d", "-o", "s", "--final-only"], more].concat()
}

fn inpaint<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let n: &[&str] = if more.contains(&"--n") { &[] } else { &["--n", "2"] };
    [&["inpaint", "--doc", "d", "--images", "DIGITS", "-o", "s", "--n-per-image", "2"], n, more].concat()
}

/// The content and the time of every file below `folder/s`.
fn files(folder: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let root = folder.join("s");
    let mut found = BTreeMap::new();
    for inner in [root.clone(), root.join("images")] {
        for entry in fs::read_dir(&inner).into_iter().flatten().flatten().filter(|e| e.path().is_file()) {
            let path = entry.path();
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            found.insert(name, (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap()));
        }
    }
    found
}

#[test]
fn a_folder_of_somebody_elses_files_stays_as_it_is() {
    let folder = trained();
    for args in [
        sample(&["--n", "2"]),
        inpaint(&[]),
        vec!["toy", "-o", "s", "--n-steps", "1"],
        vec!["figures", "scorenet", "-o", "s"],
    ] {
        fs::create_dir_all(folder.path().join("s/images")).unwrap();
        let names =
            ["images/000000.png", "images/000001_000.png", "grid.png", "density.png", "scorenet.svg", "notes.txt"];
        names.iter().for_each(|name| fs::write(folder.path().join("s").join(name), "precious").unwrap());
        let before = files(folder.path());
        let message = fails(folder.path(), &args);
        assert!(message.contains("did not write") && message.contains("--overwrite"), "{message}");
        assert!(files(folder.path()) == before, "{args:?}");
        fs::remove_dir_all(folder.path().join("s")).unwrap();
    }
}

#[test]
fn overwriting_removes_what_the_manifest_lists_and_nothing_else() {
    let folder = trained();
    for args in [sample(&["--n", "3"]), inpaint(&[])] {
        succeeds(folder.path(), &args);
        let root = folder.path().join("s");
        for name in ["images/000099.png", "images/holiday.png", "notes.txt"] {
            fs::write(root.join(name), "precious").unwrap();
        }
        // Beside our own files only what could be taken for one of them is refused.
        assert!(fails(folder.path(), &args).contains("images/000099.png and 1 more"));
        let fewer = if args[0] == "sample" { sample(&["--n", "1"]) } else { inpaint(&["--n", "1"]) };
        succeeds(folder.path(), &[&fewer[..], &["--overwrite"]].concat());
        let left: Vec<String> = files(folder.path()).into_keys().filter(|name| name.starts_with("images/")).collect();
        let ours: &[&str] = if args[0] == "sample" {
            &["images/000000.png"]
        } else {
            &["images/000000_000.png", "images/000000_001.png"]
        };
        assert_eq!(left, [ours, &["images/000099.png", "images/holiday.png"]].concat());
        assert_eq!(fs::read(root.join("notes.txt")).unwrap(), b"precious");
        fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn overwriting_does_not_take_what_is_there_for_its_own() {
    let folder = trained();
    let other = folder.path().join("other");
    succeeds(folder.path(), &["sample", "--doc", "d", "-o", "other", "--n", "2", "--raw", "--seed", "1"]);
    succeeds(folder.path(), &["sample", "--doc", "d", "-o", "s", "--n", "2", "--raw", "--seed", "2"]);
    let expected = files(folder.path());
    fs::remove_dir_all(folder.path().join("s")).unwrap();
    // Whole images, an animation and a tensor of another seed, finished and not, under the names of new files.
    fs::create_dir_all(folder.path().join("s/images")).unwrap();
    for name in ["images/000000.png", "images/000001.png", "samples.gif", "samples.safetensors"] {
        fs::copy(other.join(name), folder.path().join("s").join(name)).unwrap();
    }
    fs::copy(other.join("samples.safetensors"), folder.path().join("s/.samples.safetensors.part")).unwrap();
    succeeds(folder.path(), &["sample", "--doc", "d", "-o", "s", "--n", "2", "--raw", "--seed", "2", "--overwrite"]);
    let found = files(folder.path());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, (content, _)) in &expected {
        assert!(found[name].0 == *content, "{name}");
    }
}

#[test]
fn a_tensor_that_was_lost_is_drawn_again_and_never_zeros() {
    let folder = trained();
    succeeds(folder.path(), &sample(&["--n", "3", "--raw", "--batch", "2"]));
    let path = folder.path().join("s/samples.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    succeeds(folder.path(), &sample(&["--n", "3", "--raw", "--batch", "2"]));
    assert!(fs::read(&path).unwrap() == whole);
    // A part of it, as a call that was stopped leaves it; and asked for only afterwards.
    fs::remove_dir_all(folder.path().join("s")).unwrap();
    succeeds(folder.path(), &sample(&["--n", "3"]));
    succeeds(folder.path(), &sample(&["--n", "3", "--raw"]));
    assert!(fs::read(&path).unwrap() == whole);
    let values = TensorFile::open(&path).unwrap().get("samples").unwrap().unwrap().values;
    assert!(values.chunks(64).all(|row| row.iter().any(|&x| x != 0.0)));
}

#[test]
fn an_image_counts_as_drawn_only_if_it_is_whole() {
    let folder = trained();
    for args in [sample(&["--n", "3"]), inpaint(&[])] {
        succeeds(folder.path(), &args);
        let before = files(folder.path());
        let images: Vec<&String> = before.keys().filter(|name| name.starts_with("images/")).collect();
        let path = |name: &str| folder.path().join("s").join(name);
        fs::write(path(images[0]), "").unwrap();
        let cut = &before[images[1]].0[..before[images[1]].0.len() / 2];
        fs::write(path(images[1]), cut).unwrap();
        fs::write(path("grid.png"), "").unwrap();
        succeeds(folder.path(), &args);
        let after = files(folder.path());
        for name in before.keys() {
            assert!(before[name].0 == after[name].0, "{name}");
        }
        fs::remove_dir_all(folder.path().join("s")).unwrap();
    }
}

#[test]
fn more_samples_are_added_to_those_that_are_there() {
    let folder = trained();
    succeeds(folder.path(), &sample(&["--n", "3", "--raw"]));
    let before = files(folder.path());
    succeeds(folder.path(), &sample(&["--n", "5", "--raw"]));
    let after = files(folder.path());
    for k in 0..3 {
        let name = format!("images/{k:06}.png");
        assert!(after[&name] == before[&name], "{name} is as it was, not drawn again");
    }
    let all = scratch();
    fs::create_dir_all(all.path().join("run/logs")).unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-r", "run/logs/d"])
        .arg(all.path().join("run/logs/d"))
        .current_dir(folder.path())
        .status();
    assert!(copied.unwrap().success());
    succeeds(all.path(), &sample(&["--n", "5", "--raw"]));
    let straight = files(all.path());
    assert_eq!(after.keys().collect::<Vec<_>>(), straight.keys().collect::<Vec<_>>());
    for (name, (content, _)) in &straight {
        assert!(after[name].0 == *content, "{name}");
    }
    let message = fails(folder.path(), &sample(&["--n", "4"]));
    assert!(message.contains("holds 5 samples, more than --n 4"), "{message}");
}

#[test]
fn more_completions_are_added_to_those_that_are_there() {
    let folder = trained();
    succeeds(folder.path(), &inpaint(&[]));
    let before = files(folder.path());
    succeeds(
        folder.path(),
        &["inpaint", "--doc", "d", "--images", "DIGITS", "-o", "s", "--n", "3", "--n-per-image", "3"],
    );
    let after = files(folder.path());
    assert_eq!(after.keys().filter(|name| name.starts_with("images/")).count(), 9);
    for (name, file) in before.iter().filter(|(name, _)| name.starts_with("images/")) {
        assert!(after[name] == *file, "{name}");
    }
    for other in [["--mask", "left"], ["--seed", "7"]] {
        let message = fails(folder.path(), &inpaint(&other));
        assert!(message.contains("made otherwise"), "{message}");
    }
}

#[test]
fn what_only_the_grid_depends_on_redraws_the_grid() {
    let folder = trained();
    succeeds(folder.path(), &sample(&["--n", "4"]));
    let before = files(folder.path());
    succeeds(folder.path(), &sample(&["--n", "4", "--columns", "4"]));
    let after = files(folder.path());
    assert!(after["grid.png"].0 != before["grid.png"].0);
    for (name, file) in before.iter().filter(|(name, _)| name.starts_with("images/")) {
        assert!(after[name] == *file, "{name}");
    }
}

#[test]
fn the_manifest_says_all_that_images_depend_on() {
    let folder = trained();
    succeeds(folder.path(), &sample(&["--n", "2", "--precision", "highest"]));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("s/samples.json")).unwrap()).unwrap();
    assert_eq!(manifest["precision"], "highest");
    assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["sigmas"].as_array().unwrap().len(), 3);
    for key in ["weights", "sampler", "device", "instructions", "seed", "step_lr", "n_steps_each", "files", "pictures"]
    {
        assert!(!manifest[key].is_null(), "{key}");
    }
    for other in [["--precision", "medium"], ["--seed", "5"], ["--step-lr", "1e-6"], ["--n-steps-each", "3"]] {
        let message = fails(folder.path(), &sample(&[&["--n", "2"][..], &other].concat()));
        assert!(message.contains("made otherwise") && message.contains("samples.json"), "{message}");
    }
    assert!(
        fails(folder.path(), &sample(&["--n", "2", "--precision", "medium"]))
            .contains("precision was highest, now medium")
    );
}

#[test]
fn two_programs_do_not_work_in_one_folder() {
    let folder = trained();
    for args in [sample(&["--n", "2"]), inpaint(&[])] {
        let root = folder.path().join("s");
        fs::create_dir(&root).unwrap();
        let lock = fs::File::create(root.join(".lock")).unwrap();
        lock.lock().unwrap();
        assert!(fails(folder.path(), &args).contains("another ncsn is at work"));
        drop(lock);
        succeeds(folder.path(), &args);
        fs::remove_dir_all(root).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn nothing_is_written_through_a_link_and_pipes_are_refused() {
    let folder = trained();
    let root = folder.path().join("s");
    fs::create_dir_all(&root).unwrap();
    fs::create_dir(folder.path().join("other")).unwrap();
    std::os::unix::fs::symlink("../other", root.join("images")).unwrap();
    for args in [sample(&["--n", "2"]), sample(&["--n", "2", "--overwrite"]), inpaint(&["--overwrite"])] {
        assert!(fails(folder.path(), &args).contains("expected a folder"));
    }
    assert_eq!(fs::read_dir(folder.path().join("other")).unwrap().count(), 0);
    fs::remove_file(root.join("images")).unwrap();
    let pipe = |name: &str| std::process::Command::new("mkfifo").arg(root.join(name)).status().unwrap();
    assert!(pipe("samples.json").success());
    assert!(fails(folder.path(), &sample(&["--n", "2"])).contains("a pipe or a device"));
    succeeds(folder.path(), &sample(&["--n", "2", "--overwrite"]));
    assert!(fs::symlink_metadata(root.join("samples.json")).unwrap().is_file());
}

#[test]
fn a_result_in_one_file_replaces_nothing_but_its_like() {
    let folder = trained();
    let checkpoint = "run/logs/d/checkpoint_24.safetensors";
    let tensor = ncsn::net::params::HostTensor { shape: vec![1, 1, 8, 8], values: vec![0.5; 64] };
    let labels = ncsn::net::params::HostTensor { shape: vec![1], values: vec![0.0] };
    let input = folder.path().join("in.safetensors");
    ncsn::checkpoint::write_tensors(&input, &[("x".into(), tensor), ("labels".into(), labels)], &BTreeMap::new())
        .unwrap();
    fs::write(folder.path().join("notes.txt"), "precious").unwrap();
    for output in ["notes.txt", "in.safetensors", checkpoint] {
        let before = fs::read(folder.path().join(output)).unwrap();
        let args = ["score", "--checkpoint", checkpoint, "--input", "in.safetensors", "--output", output];
        let message = fails(folder.path(), &args);
        assert!(message.contains("exists and is no result of this command"), "{message}");
        let args = ["evaluate", "stats", "digits:0..4", "--extractor", "small", "-o", output];
        assert!(fails(folder.path(), &args).contains("exists and is no result of this command"));
        assert!(fs::read(folder.path().join(output)).unwrap() == before);
    }
}
