//! Speed, measured and compared.

use serde_json::Value;

use crate::{fails, scratch, succeeds};

const SMALLEST: [&str; 9] = ["bench", "--what", "sample", "--net", "mnist", "--batch", "1", "--steps", "1"];

#[test]
fn a_workload_is_a_line_of_json_with_the_peers_keys_and_ours() {
    let folder = scratch();
    let said = succeeds(folder.path(), &[&SMALLEST[..], &["--json", "--threads", "1"]].concat());
    let line: Value = serde_json::from_str(&said).unwrap();
    for (key, expected) in [("what", "sample"), ("net", "mnist"), ("precision", "high")] {
        assert_eq!(line[key], expected, "{key} of {said}");
    }
    assert_eq!((&line["batch"], &line["threads"]), (&Value::from(1), &Value::from(1)), "{said}");
    assert!(line["isa"].is_string(), "{said}");
    for key in ["seconds_per_step", "images_per_second", "gflops"] {
        assert!(line[key].as_f64().unwrap() > 0.0, "{key} of {said}");
    }
    if cfg!(target_os = "linux") {
        assert!(line["peak_mib"].as_f64().unwrap() > 1.0, "{said}");
    }
    let [seconds, images] = ["seconds_per_step", "images_per_second"].map(|key| line[key].as_f64().unwrap());
    assert!((seconds * images - 1.0).abs() < 1e-9, "one image a step: {said}");
}

#[test]
fn counting_tells_what_is_serial_and_what_more_cores_would_bring() {
    let folder = scratch();
    let args = [&SMALLEST[..6], &["3", "--steps", "1", "--count", "--json"]].concat();
    let said = succeeds(folder.path(), &args);
    let line: Value = serde_json::from_str(&said).unwrap();
    let (count, number) = (&line["count"], |value: &Value| value.as_f64().unwrap());
    assert_eq!(line["threads"], 1, "{said}");
    let (total, serial) = (number(&count["seconds"]), number(&count["serial_seconds"]));
    assert!(0.0 < serial && serial < 0.5 * total, "{said}");
    assert!((serial / total - number(&count["serial_share"])).abs() < 1e-9, "{said}");
    let in_regions: f64 = count["seconds_by_parts"].as_object().unwrap().values().map(number).sum();
    assert!((in_regions + serial - total).abs() < 1e-6, "{said}");
    let speedup = |n_cores: &str| number(&count["projected_speedup"][n_cores]);
    assert!(1.0 < speedup("2") && speedup("2") <= 2.0 && speedup("2") <= speedup("64"), "{said}");
    assert!((number(&count["projected_seconds"]["16"]) * speedup("16") - total).abs() < 1e-9, "{said}");
    // Two workloads, each in a process of its own.
    let table = succeeds(folder.path(), &[&args[..args.len() - 1], &["--precision", "high,medium"]].concat());
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("sample mnist 3 ")).collect();
    assert!(table.contains("s on 64 cores") && rows.len() == 2 && rows[0].ends_with("x)"), "{table}");
    assert!(fails(folder.path(), &["bench", "--count", "--threads", "2"]).contains("--threads"));
}

#[test]
fn several_precisions_are_measured_one_after_the_other() {
    let folder = scratch();
    let args = [&SMALLEST[..], &["--precision", "highest,medium", "--precision", "highest"]].concat();
    let said = succeeds(folder.path(), &args);
    let rows: Vec<&str> = said.lines().filter(|line| line.starts_with("sample mnist 1 ")).collect();
    assert_eq!(rows.len(), 2, "{said}");
    assert!(rows[0].contains(" highest ") && rows[1].contains(" medium "), "{said}");
    let json = succeeds(folder.path(), &[&args[..], &["--json"]].concat());
    let precision = |line| serde_json::from_str::<Value>(line).unwrap()["precision"].clone();
    assert_eq!(json.lines().map(precision).collect::<Vec<_>>(), ["highest", "medium"]);
}

#[test]
fn wrong_values_are_refused() {
    let folder = scratch();
    for (flag, value, needle) in [
        ("--what", "sleep", "train, sample"),
        ("--net", "imagenet", "mnist, cifar"),
        ("--batch", "0", "1..=4096"),
        ("--steps", "0", "1.."),
        ("--threads", "none", "--threads"),
        ("--precision", "high,exact", "found precision exact, expected highest, high or medium"),
        ("--device", "tpu", "found device tpu, expected auto, cpu, cuda"),
    ] {
        let message = fails(folder.path(), &["bench", flag, value]);
        assert!(message.contains(needle), "{needle} in {message}");
    }
}

/// `tools/compare` with two programs that print what they are told to.
#[cfg(unix)]
mod compare {
    use std::fs;
    use std::path::Path;
    use std::process::{Command, Output};

    use crate::scratch;

    const OURS: &str = "echo '{\"what\":\"train\",\"seconds_per_step\":0.5,\"peak_mib\":250.4}'";
    /// Faster with every call, and with channels last.
    const PEER: &str = "\
echo called >> calls
n=$(wc -l < calls)
case \"$*\" in *--channels-last*) s=0.$((90 - n));; *) s=1.$((90 - n));; esac
echo a warning
echo \"{\\\"what\\\": \\\"$1\\\", \\\"seconds_per_step\\\": $s, \\\"peak_mib\\\": 500}\"
";

    fn compare(folder: &Path, args: &[&str]) -> Output {
        for (name, text) in [("ours", OURS), ("peer", PEER)] {
            fs::write(folder.join(name), text).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/compare");
        let mut command = Command::new("bash");
        command.arg(script).args(["--ncsn", "sh ours"]).args(args).current_dir(folder).output().unwrap()
    }

    #[test]
    fn the_ratio_of_medians_is_that_to_the_better_layout() {
        let folder = scratch();
        let args = ["--peer", "sh peer", "--rounds", "3", "--workloads", "train:mnist:32:high:f32", "--log", "log"];
        let output = compare(folder.path(), &args);
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        // Channels last is called second, third (backwards), and sixth: 0.88, 0.87 and 0.84 s against 0.5 s.
        let row = "| train mnist 32 | high | f32 | 0.5000 | 0.8700 | channels-last | 1.74 | 1.68–1.76 | 250 | 500 |";
        assert_eq!(said.lines().last().unwrap(), row);
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap().matches("seconds_per_step").count(), 9);
    }

    #[test]
    fn mistakes_and_a_peer_that_fails_are_told() {
        let folder = scratch();
        for (args, needle) in [
            (&["--peer", "sh peer", "--rounds", "0"][..], "--rounds 0"),
            (&["--peer", "sh peer", "--workloads", "train mnist"], "workload train"),
            (&["--peer"], "--peer without a value"),
            (&["--round", "3"], "found --round"),
            (&[], "found no --peer"),
            (&["--peer", "sh nowhere.sh"], "nowhere.sh train --net mnist --batch 32 --steps 5 --precision f32 failed"),
            (&["--peer", "echo"], "seconds_per_step"),
        ] {
            let output = compare(folder.path(), args);
            let stderr = String::from_utf8(output.stderr).unwrap();
            let error = stderr.lines().last().unwrap();
            assert!(!output.status.success() && error.starts_with("error: ") && error.contains(needle), "{stderr}");
        }
    }
}

/// `tools/gpu-bench` with programs that print what they are told to: no GPU, no PyTorch.
#[cfg(unix)]
mod gpu_bench {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::{Command, Output};

    use crate::scratch;

    /// Twice as fast at `medium`; batches of 512 do not fit.
    const OURS: &str = r#"case "$*" in
  "info --devices") echo vulkan:0 a stub; exit ;;
  *"--batch 512"*) echo error: out of memory >&2; exit 1 ;;
  *"--precision medium"*) s=0.25 ;;
  *) s=0.5 ;;
esac
echo "[$CUBECL_ENVIRONMENT] $*" >> calls
echo "{\"seconds_per_step\":$s,\"peak_mib\":250.4,\"gflops\":800,\"gb_per_second\":99.5,\"ceiling_bf16_gflops\":4e3,\"ceiling_gb_per_second\":null}"
"#;
    /// Faster with every call; channels last help in bf16 alone, and nothing can be compiled.
    const PEER: &str = r#"echo called >> peer_calls
n=$(wc -l < peer_calls)
case "$*" in
  *--compile) echo a trace >&2; echo no compiler >&2; exit 1 ;;
  *"--device gpu --precision bf16 --channels-last") s=0.3 ;;
  *"--device gpu --precision bf16" | *"--device gpu --precision f32"*) s=1.$((90 - n)) ;;
esac
echo a warning
echo "{\"seconds_per_step\": $s, \"peak_mib\": 500}"
"#;

    fn gpu_bench(folder: &Path, args: &[&str]) -> Output {
        for (name, text) in [
            ("ours", OURS),
            ("peer", PEER),
            ("right", "echo running 2 tests; echo test result: ok. 2 passed"),
            ("wrong", "echo failures:; echo test result: FAILED. 1 passed; exit 101"),
            ("no-test", "exit 127"),
        ] {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/gpu-bench/run");
        let mut command = Command::new("bash");
        command.arg(script).args(["--ncsn", "./ours", "--device", "vulkan"]).args(args);
        command.env_remove("CUBECL_ENVIRONMENT").current_dir(folder).output().unwrap()
    }

    #[test]
    fn the_table_has_medians_the_ratio_to_the_fastest_variant_and_shares_of_ceilings() {
        let folder = scratch();
        let workloads =
            ["--whats", "train", "--nets", "mnist", "--batches", "128 512", "--precisions", "highest medium"];
        let rest = ["--peer", "./peer", "--peer-device", "gpu", "--tests", "./right ./right", "--log", "log"];
        let output = gpu_bench(folder.path(), &[&workloads[..], &rest].concat());
        let [said, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        assert!(output.status.success(), "{said}{stderr}");
        let parity = "vulkan:0 a stub\n## Parity\ntest result: ok. 2 passed\ntest result: ok. 2 passed\n## Times\n";
        assert!(said.starts_with(parity), "{said}");
        let mut rows: Vec<Vec<&str>> = said.lines().map(|line| line.split(" | ").collect()).collect();
        let mut rows = rows.split_off(rows.len() - 4);
        // Of the calls that are first in their process; nobody knows how long.
        for row in &mut rows[..2] {
            assert!(row.remove(6).parse::<f64>().unwrap() >= 0.0, "{said}");
        }
        // Its calls 1, 15 and 25 of 36, of which every third fails, are eager in f32: 1.89, 1.75 and 1.65 s.
        assert_eq!(rows[0].join(" "), "| train mnist 128 highest 0.5000 1.7500 eager 3.50 250 500 20 % ? |");
        assert_eq!(rows[1].join(" "), "| train mnist 128 medium 0.2500 0.3000 channels-last 1.20 250 500 20 % ? |");
        assert_eq!(rows[2].join(" "), "| train mnist 512 highest failed 1.6900 eager ? ? ? 500 ? ? |");
        assert_eq!(rows[3].join(" "), "| train mnist 512 medium failed 0.3000 channels-last ? ? ? 500 ? ? |");
        for (side, reason) in [("512:medium, ours", "error: out of memory"), ("128:medium, compile", "no compiler")] {
            assert!(stderr.contains(&format!("train:mnist:{side}\n  failed: {reason}\n")), "{stderr}");
        }
        let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
        let call = "bench --json --device vulkan --precision medium --what train --net mnist --batch 128 --steps 20";
        assert_eq!(calls.lines().filter(|line| *line == format!("[] {call}")).count(), 3, "{calls}");
        let cold =
            |line: &&str| line.starts_with("[cold-") && line.ends_with(&format!("-train-mnist-128-medium] {call}"));
        assert_eq!(calls.lines().filter(cold).count(), 1, "{calls}");
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap().matches("seconds_per_step").count(), 8 + 24);
    }

    #[test]
    fn mistakes_and_wrong_numbers_are_told_before_anything_is_measured() {
        let folder = scratch();
        let with_peer = |args: &[&'static str]| [&["--peer", "./peer"], args].concat();
        for (args, needle) in [
            (with_peer(&["--rounds", "0"]), "--rounds 0"),
            (with_peer(&["--precisions", "high f32"]), "workload train:mnist:128:f32"),
            (with_peer(&["--batches", "0"]), "workload train:mnist:0:highest"),
            (with_peer(&["--round", "3"]), "found --round"),
            (vec!["--peer"], "--peer without a value"),
            (vec![], "found no --peer"),
            (with_peer(&["--tests", "./right ./wrong"]), "what vulkan computes is not right: ./wrong failed"),
            (with_peer(&["--tests", "./no-test"]), "./no-test failed"),
        ] {
            let output = gpu_bench(folder.path(), &args);
            let stderr = String::from_utf8(output.stderr).unwrap();
            let error = stderr.lines().last().unwrap();
            assert!(!output.status.success() && error.starts_with("error: ") && error.contains(needle), "{stderr}");
            assert!(!folder.path().join("calls").exists() && !folder.path().join("peer_calls").exists(), "{args:?}");
        }
        let output =
            gpu_bench(folder.path(), &with_peer(&["--tests", "", "--batches", "512", "--variants", "compile"]));
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().last(), Some("error: nothing could be measured"));
        assert_eq!(output.status.code(), Some(1));
    }
}
