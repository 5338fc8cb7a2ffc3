//! Precision of matrix products, and instruction sets.

use std::process::Output;

use crate::{TRAIN, failed, ncsn, scratch, succeeds};

#[test]
fn every_precision_trains_and_draws() {
    let folder = scratch();
    for precision in ["highest", "high", "medium"] {
        let run = ["--run", precision, "--precision", precision];
        succeeds(folder.path(), &[&TRAIN[..], &run].concat());
        succeeds(folder.path(), &[&["sample", "--doc", "d", "--n", "1"][..], &run].concat());
    }
}

#[test]
fn info_tells_the_instructions_and_what_each_precision_means() {
    let folder = scratch();
    let said = succeeds(folder.path(), &["info", "--cpu", "--precision", "medium"]);
    let sets = said.lines().find(|line| line.starts_with("instruction sets ")).unwrap();
    assert!(sets.contains("portable"), "{said}");
    assert!(said.contains("\nthreads ") && said.contains("\n  highest ") && said.contains("\n* medium "), "{said}");
}

#[test]
fn info_tells_the_devices_and_which_one_auto_is() {
    let folder = scratch();
    let said = succeeds(folder.path(), &["info", "--devices"]);
    for start in ["cpu ", "cuda", "metal", "vulkan", "auto is "] {
        assert!(said.lines().any(|line| line.starts_with(start)), "{start} in {said}");
    }
    let missing = cfg!(not(feature = "metal"));
    assert_eq!(said.contains("metal     not in this build, which --features metal adds"), missing, "{said}");
}

#[test]
fn the_environment_forces_an_instruction_set() {
    let folder = scratch();
    let output = ncsn(folder.path(), &["info", "--cpu"]).env("NCSN_CPU", "portable").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("portable (forced by NCSN_CPU)"), "{said}");
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused_once_by_every_command() {
    let folder = scratch();
    for args in [&TRAIN[..], &["info", "--cpu"], &["bench", "--json"], &["sample", "--doc", "d"]] {
        for name in ["pentium", ""] {
            let output: Output = ncsn(folder.path(), args).env("NCSN_CPU", name).output().unwrap();
            let message = failed(output, args);
            assert!(message.contains(&format!("found NCSN_CPU={name}, expected")), "{message}");
            assert_eq!(message.matches("NCSN_CPU").count(), 1, "{message}");
        }
    }
    assert!(!folder.path().join("run").exists());
}
