//! One clear message, a non-zero exit code, nothing lost.

use std::fs;
use std::path::Path;

use crate::{TINY, TRAIN, failed, fails, ncsn, scratch, succeeds};

fn train_with(folder: &Path, dataset: &str, size: u32, channels: u32) -> String {
    let set = |text: String| ["--set".to_string(), text];
    let sets = [
        set(format!("data.dataset={dataset}")),
        set(format!("data.image_size={size}")),
        set(format!("data.channels={channels}")),
    ]
    .concat();
    let mut args = TRAIN.to_vec();
    args.extend(sets.iter().map(String::as_str));
    fails(folder, &args)
}

#[test]
fn yaml_mistakes_are_told_with_file_and_line() {
    let folder = scratch();
    for (old, new, needles) in [
        (
            "batch_size: 3",
            "batch_sise: 3",
            &["bad.yml:1", "training.batch_sise", "did you mean training.batch_size"][..],
        ),
        ("batch_size: 3", "batch_size: three", &["bad.yml:1", "is three", "whole number"]),
        ("batch_size: 3", "batch_size: 0", &["bad.yml:1", "is 0"]),
        ("image_size: 8", "image_size: 9", &["bad.yml:2", "is 9", "multiple of 2"]),
        ("channels: 1", "channels: 0", &["bad.yml:2", "is 0", "1 or 3"]),
        ("dataset: DIGITS", "dataset: DIGITZ", &["bad.yml:2", "DIGITZ", "MNIST"]),
        ("ngf: 2", "ngf: 2, sigma_end: 2", &["bad.yml:3", "sigma_end 2 must be below sigma_begin 1"]),
        ("ngf: 2", "ngf: 2, sigma_begin: -1", &["bad.yml:3", "-1", "positive"]),
        ("data: {dataset: DIGITS, ", "data: {", &["bad.yml:2", "found no data.dataset"]),
        ("ngf: 2", "ngf: [2]", &["bad.yml:3", "a list"]),
        ("ngf: 2", "ngf: 2, ngf: 3", &["bad.yml:3", "twice"]),
        ("ngf: 2", "ngf: {{", &["bad.yml:", "not YAML"]),
    ] {
        assert!(TINY.contains(old));
        fs::write(folder.path().join("bad.yml"), TINY.replace(old, new)).unwrap();
        let message = fails(folder.path(), &["train", "--config", "bad.yml", "--doc", "d"]);
        for needle in needles {
            assert!(message.contains(needle), "{needle:?} in {message}");
        }
    }
    let message = fails(folder.path(), &["train", "--config", "none.yml", "--doc", "d"]);
    assert!(message.contains("none.yml") && message.contains("quickstart.yml"), "{message}");
    assert!(fails(folder.path(), &["train", "--config", "toy.yml", "--doc", "d"]).contains("ToyRunner"));
    assert!(!folder.path().join("run/logs").exists(), "nothing was made for runs that never began");
}

#[test]
fn wrong_overrides_and_names_are_told() {
    let folder = scratch();
    for (set, needle) in [
        ("training.batch_size", "SECTION.KEY=VALUE"),
        ("training.batch_sise=3", "did you mean training.batch_size"),
        ("trainin.batch_size=3", "did you mean training"),
        ("optim.lr=fast", "is fast"),
    ] {
        let mut args = TRAIN.to_vec();
        args.extend(["--set", set]);
        let message = fails(folder.path(), &args);
        assert!(message.contains(needle) && message.contains("--set"), "{message}");
    }
    assert!(fails(folder.path(), &["train", "--config", "tiny.yml", "--doc", "../up"]).contains("without slashes"));
    assert!(fails(folder.path(), &["sample", "--doc", "none"]).contains("found no checkpoint"));
    assert!(fails(folder.path(), &["--runner", "NoRunner", "--doc", "d"]).contains("AnnealRunner"));
    for (device, needle) in
        [("tpu", "found device tpu, expected auto, cpu, cuda"), ("metal:99", "found device metal:99")]
    {
        let message = fails(folder.path(), &["train", "--config", "tiny.yml", "--doc", "d", "--device", device]);
        assert!(message.contains(needle), "{message}");
        assert!(!folder.path().join("run").exists(), "nothing was begun");
    }
    let message = fails(folder.path(), &["train", "--config", "tiny.yml", "--doc", "d", "--precision", "exact"]);
    assert!(message.contains("found precision exact, expected highest, high or medium"), "{message}");
}

#[test]
fn missing_data_sets_say_which_files_to_put_where() {
    let folder = scratch();
    let message = train_with(folder.path(), "CELEBA", 8, 3);
    assert!(message.contains("run/datasets/celeba") && message.contains("list_eval_partition.txt"), "{message}");
    let mut args = TRAIN.to_vec();
    args.extend(["--set", "data.dataset=FOLDER", "--set", "data.path=nowhere"]);
    assert!(fails(folder.path(), &args).contains("nowhere"));
}

#[test]
fn damaged_data_sets_are_refused_by_name() {
    let folder = scratch();
    let sets = folder.path().join("run/datasets");
    let write = |path: &str, bytes: &[u8]| {
        let path = sets.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let idx = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 8, 0, 0, 0, 8][..], &[7; 128]].concat();
    for bytes in [&idx[..100], b"", b"<html>not found</html>", &[0x1f, 0x8b, 8, 0, 1, 2, 3]] {
        write("mnist/train-images-idx3-ubyte", bytes);
        let message = train_with(folder.path(), "MNIST", 8, 1);
        assert!(message.contains("run/datasets/mnist/train-images-idx3-ubyte: "), "{message}");
    }
    for bytes in [&[3; 3072][..], b""] {
        write("cifar10/cifar-10-batches-bin/data_batch_1.bin", bytes);
        for i in 2..=5 {
            write(&format!("cifar10/cifar-10-batches-bin/data_batch_{i}.bin"), &[0; 3073]);
        }
        assert!(train_with(folder.path(), "CIFAR10", 8, 3).contains("data_batch_1.bin"));
    }
    for bytes in [&b"MATLAB 5.0 MAT-file"[..], b"", &[0; 200]] {
        write("svhn/train_32x32.mat", bytes);
        assert!(train_with(folder.path(), "SVHN", 8, 3).contains("train_32x32.mat"));
    }
    write("mine/a.png", b"\x89PNG\r\n\x1a\n and then nothing");
    let mut args = TRAIN.to_vec();
    args.extend(["--set", "data.dataset=FOLDER", "--set", "data.path=run/datasets/mine"]);
    assert!(fails(folder.path(), &args).contains("a.png"));
}

#[test]
fn a_damaged_checkpoint_is_refused_and_an_older_one_still_works() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let logs = folder.path().join("run/logs/d");
    let path = logs.join("checkpoint_24.safetensors");
    let whole = fs::read(&path).unwrap();
    for bytes in [&whole[..whole.len() / 2], b"", b"PK\x03\x04 a zip file", &[0xff; 64]] {
        fs::write(&path, bytes).unwrap();
        for args in [
            &["info", "--doc", "d"][..],
            &["sample", "--doc", "d", "-o", "s"],
            &["train", "--doc", "d", "--resume"],
            &["score", "--checkpoint", "run/logs/d/checkpoint_24.safetensors", "--input", "tiny.yml", "--output", "o"],
        ] {
            assert!(fails(folder.path(), args).contains("checkpoint_24.safetensors"));
        }
    }
    fs::remove_file(&path).unwrap();
    succeeds(folder.path(), &["train", "--doc", "d", "--resume", "--no-sample"]);
    assert_eq!(fs::read(&path).unwrap(), whole, "going on from step 20 leads to the same step 24");
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_the_run_and_keeps_the_last_checkpoint() {
    let folder = scratch();
    let mut args = TRAIN.to_vec();
    args.extend(["--set", "training.n_iters=8"]);
    succeeds(folder.path(), &args);
    let logs = folder.path().join("run/logs/d");
    let before = fs::read(logs.join("checkpoint_8.safetensors")).unwrap();
    // No file may grow beyond 8 KiB: what a full disk looks like to the program.
    let shell = format!(
        "trap '' XFSZ; ulimit -f 16; exec {} train --doc d --resume --no-sample --set training.n_iters=24",
        env!("CARGO_BIN_EXE_ncsn")
    );
    let output = std::process::Command::new("sh").args(["-c", &shell]).current_dir(folder.path()).output().unwrap();
    let message = failed(output, &["under a limit of file size"]);
    assert!(message.contains("checkpoint_12"), "{message}");
    assert_eq!(fs::read(logs.join("checkpoint_8.safetensors")).unwrap(), before);
    assert!(!logs.join("checkpoint_12.safetensors").exists());
    let leftovers =
        fs::read_dir(&logs).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
    assert_eq!(leftovers.count(), 0);
    succeeds(folder.path(), &["train", "--doc", "d", "--resume", "--no-sample", "--set", "training.n_iters=24"]);
}

#[test]
fn a_run_folder_that_cannot_be_written_is_told() {
    let folder = scratch();
    // A file where the folder should be; permissions would not stop a superuser.
    fs::write(folder.path().join("run"), "a file").unwrap();
    assert!(fails(folder.path(), &TRAIN).contains("run"));
}

#[test]
fn two_programs_do_not_share_a_run() {
    let folder = scratch();
    let mut slow = TRAIN.to_vec();
    slow.extend(["--set", "training.n_iters=100000", "--set", "training.snapshot_freq=1000000"]);
    let mut first = ncsn(folder.path(), &slow).stdout(std::process::Stdio::null()).spawn().unwrap();
    while !folder.path().join("run/logs/d/metrics.jsonl").exists() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let message = fails(folder.path(), &["train", "--doc", "d", "--resume"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(message.contains("another ncsn is at work"), "{message}");
}

#[cfg(unix)]
#[test]
fn names_with_new_lines_and_control_characters_are_escaped_wherever_they_are_shown() {
    let folder = scratch();
    let evil = "a\nerror: b\u{1b}[2J";
    let shown = "a\\nerror: b\\u{1b}[2J";
    fs::create_dir(folder.path().join(evil)).unwrap();
    let [pth, there, run] = [".pth", ".safetensors", ""].map(|end| format!("{evil}/{evil}{end}"));
    fs::write(folder.path().join(&there), "x").unwrap();
    let train = ["train", "--config", "tiny.yml", "--doc", "d", "--no-sample", "--set"];
    for args in [
        &["convert", "tiny.yml", &there][..],
        &["convert", &there, &pth],
        &["convert", &pth, &run],
        &["info", "--doc", "d", "--run", evil],
        &["train", "--doc", "d", "--resume", "--run", evil],
        &["train", "--config", evil, "--doc", "d"],
        &[&train[..], &[&format!("data={{dataset: folder, path: {:?}, image_size: 8, channels: 1}}", run)]].concat(),
        &["noise-levels", "--dataset", evil],
        &["noise-levels", "--dataset", "images", "--run", evil, "--set", &run],
        &["evaluate", "--samples", &run, "--reference", evil],
    ] {
        let message = fails(folder.path(), args);
        assert!(
            !message.contains('\u{1b}') && !message.trim_end().lines().any(|l| l.starts_with("error: b")),
            "{message}"
        );
        assert!(message.contains(shown) || message.contains("error: unexpected argument"), "{args:?}: {message}");
    }
    // And where all goes well.
    succeeds(folder.path(), &[&TRAIN[..], &["--run", evil, "--set", "training.n_iters=4"]].concat());
    let said = succeeds(folder.path(), &["convert", &format!("{evil}/logs/d"), &pth]);
    assert!(said.contains(shown) && said.lines().count() == 1, "{said}");
    let said = succeeds(folder.path(), &["info", "--doc", "d", "--run", evil]);
    assert!(said.contains(shown) && !said.contains('\u{1b}'), "{said}");
}
