//! `ncsn evaluate`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use ncsn::checkpoint::write_tensors;
use ncsn::data::Pixels;
use ncsn::eval::{StatisticsFile, read_statistics, write_statistics};
use ncsn::image::write_png;
use ncsn::net::Inception;
use ncsn::net::params::HostTensor;
use ncsn::noise::Noise;
use serde_json::Value;

use crate::{TRAIN, fails, scratch, succeeds};

/// PNG files `0.png`, `1.png`, … of noise.
fn write_images(folder: &Path, n: usize, [channels, height, width]: [usize; 3]) {
    fs::create_dir_all(folder).unwrap();
    let mut stream = Noise::new(n as u64).stream("images", 0);
    for i in 0..n {
        let mut values = vec![0.0; channels * height * width];
        stream.uniform(&mut values);
        let planes: Vec<u8> = values.iter().map(|u| (u * 255.0) as u8).collect();
        write_png(&folder.join(format!("{i}.png")), &Pixels::from_chw(&planes, [channels, height, width])).unwrap();
    }
}

/// Weights under Inception's published names, of no use but for having the right shapes; those of the logits are of size `logits`.
pub fn write_weights(path: &Path, logits: f32) {
    let mut stream = Noise::new(1).stream("weights", 0);
    let mut tensors = Vec::new();
    Inception::new(&Device::flex(), |name, shape| {
        let fan_in = shape.iter().skip(1).product::<usize>() as f32;
        let mut values = vec![0.0; shape.iter().product()];
        stream.normal(&mut values);
        let scale = if shape.len() > 1 { (2.0 / fan_in).sqrt() } else { 0.1 };
        let scale = if name == "fc.weight" { logits } else { scale };
        let base = if name.ends_with("bn.weight") || name.ends_with("running_var") { 1.0 } else { 0.0 };
        values.iter_mut().for_each(|value| *value = base + scale * value.clamp(-0.9, 0.9));
        tensors.push((name.to_string(), HostTensor { shape: shape.to_vec(), values: values.clone() }));
        Ok(values)
    })
    .unwrap();
    write_tensors(path, &tensors, &BTreeMap::new()).unwrap();
}

/// The lines of JSON that the program printed.
fn numbers(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn inception_s_metrics_do_not_depend_on_the_batch_and_say_what_they_are_of() {
    let folder = scratch();
    let at = folder.path();
    write_weights(&at.join("weights.safetensors"), 0.03);
    write_images(&at.join("a"), 6, [3, 9, 12]);
    write_images(&at.join("b"), 5, [3, 9, 12]);
    let run = |batch: &str, extra: &[&str]| {
        let mut args = vec!["evaluate", "a", "--reference", "b", "--weights", "weights.safetensors", "--json"];
        args.extend(["--splits", "2", "--metrics", "is,kid,precision,neighbours", "--batch", batch]);
        args.extend(extra);
        numbers(&succeeds(at, &args))
    };
    let found = run("4", &[]);
    assert_eq!(run("1", &[]), found);
    let names: Vec<&str> = found.iter().map(|number| number["metric"].as_str().unwrap()).collect();
    assert_eq!(names, ["IS", "KID", "precision", "recall", "F"]);
    for number in &found {
        assert_eq!((&number["n"], &number["reference"]["n"]), (&6.into(), &5.into()));
        assert_eq!(number["resize"], "tf1");
        assert_eq!(number["extractor"], "inception-2015-12-05/2048");
        assert_eq!(number["weights_sha256"], ncsn::file::sha256(&at.join("weights.safetensors")).unwrap());
    }
    for name in ["pixels.png", "features.png", "distances_pixels.svg", "distances_features.png"] {
        assert!(at.join("neighbours").join(name).is_file(), "{name}");
    }
    // Few images have no distance from themselves, though their covariance is singular.
    let distance = |reference: &str| {
        let args = ["evaluate", "a", "--reference", reference, "--weights", "weights.safetensors", "--json"];
        let found = numbers(&succeeds(at, &[&args[..], &["--metrics", "fid"]].concat()));
        assert_eq!(found[0]["metric"], "FID-6");
        found[0]["value"].as_f64().unwrap()
    };
    let (own, other) = (distance("a"), distance("b"));
    assert!(own.abs() < 1e-9 * other && other > 0.0, "{own} {other}");
    // Another rule gives other numbers, and says so.
    let other = run("4", &["--resize", "pytorch-fid"]);
    assert_eq!(other[1]["resize"], "pytorch-fid");
    assert_ne!(other[1]["value"], found[1]["value"]);
}

#[test]
fn a_small_network_compares_runs_statistics_and_checkpoints() {
    let folder = scratch();
    let at = folder.path();
    succeeds(at, &TRAIN);
    let small = ["--extractor", "small", "--json"];
    let of_run = |extra: &[&str]| {
        let args = [&["evaluate", "--doc", "d", "--n", "12", "--splits", "1"][..], &small, extra];
        numbers(&succeeds(at, &args.concat()))
    };
    // Drawn and trained once; found again.
    let first = of_run(&[]);
    assert_eq!(of_run(&[]), first);
    let names: Vec<&str> = first.iter().map(|number| number["metric"].as_str().unwrap()).collect();
    assert_eq!(names, ["FID-small", "IS-small", "KID-small"]);
    assert_eq!((&first[0]["checkpoint"], &first[0]["reference"]["n"]), (&24.into(), &10_000.into()));
    assert_eq!(first[0]["warnings"][0], "n <= 128: covariance singular");

    // Drawn in another way they are others, in a folder of their own.
    let denoised = of_run(&["--set", "sampling.denoise=true"]);
    assert!(denoised[0]["denoise"] == true && denoised[0]["value"] != first[0]["value"], "{}", denoised[0]);
    assert!(at.join("run/evaluation/d/step_24_n12_seed1234_denoise=true/images/000011.png").is_file());

    // The same from a file of statistics, and samples from their folder.
    succeeds(at, &["evaluate", "stats", "digits", "--size", "8", "--extractor", "small", "-o", "digits.npz"]);
    let samples = "run/evaluation/d/step_24_n12_seed1234";
    let args = [&["evaluate", samples, "--reference", "digits.npz", "--splits", "1"][..], &small].concat();
    let error = fails(at, &args);
    assert!(error.contains("--extractor small learns from a data set's labels"), "{error}");
    let args = [&["evaluate", "--doc", "d", "--n", "12", "--reference", "digits.npz", "--splits", "1"][..], &small];
    let from_file = numbers(&succeeds(at, &args.concat()));
    assert_eq!((&from_file[0]["value"], &from_file[1]["metric"]), (&first[0]["value"], &"IS-small".into()));
    assert_eq!(from_file.len(), 2, "a kernel distance needs features");

    // Statistics of other weights cannot be compared.
    let file = read_statistics(&at.join("digits.npz")).unwrap();
    let other = StatisticsFile { weights_sha256: Some("00".into()), ..file };
    write_statistics(&at.join("other.npz"), &other).unwrap();
    let args = ["evaluate", "--doc", "d", "--n", "12", "--reference", "other.npz", "--extractor", "small"];
    let error = fails(at, &[&args[..], &["--verbose", "critical"]].concat());
    assert!(error.contains("other.npz: has statistics of weights 00, expected those of "), "{error}");

    // Neighbours are pictures, with held-out images beside the samples.
    let args = ["evaluate", "--doc", "d", "--n", "12", "--extractor", "small", "--metrics", "neighbours", "-o", "near"];
    assert_eq!(succeeds(at, &args), "");
    let distances = fs::read_to_string(at.join("near/distances_features.svg")).unwrap();
    assert!(distances.contains("samples, n = 12: run/evaluation/d/") && !distances.contains("<polyline"));
    assert!(distances.contains("held out, n = 500: digits-test"), "{distances}");

    // A sweep scores every checkpoint once.
    let args = ["evaluate", "--doc", "d", "--sweep", "--n", "8", "--extractor", "small", "--metrics", "fid,kid"];
    let table = succeeds(at, &args);
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), 6, "{table}");
    assert_eq!(rows.iter().filter(|row| row.ends_with(" **best** |")).count(), 1, "{table}");
    // In each panel a dot for each checkpoint, and a ring around the best and in the legend.
    let drawn = fs::read_to_string(at.join("run/evaluation/d/sweep.svg")).unwrap();
    assert_eq!((drawn.matches("<circle").count(), drawn.matches(">best by FID-small: step ").count()), (2 * 8, 2));
    for name in ["sweep.md", "sweep.svg", "sweep.png", "sweep.jsonl"] {
        assert!(at.join("run/evaluation/d").join(name).is_file(), "{name}");
    }
    // What is known is not found again: the samples are gone, and nothing asks for them.
    fs::remove_dir_all(at.join("run/evaluation/d/step_4_n8_seed1234")).unwrap();
    assert_eq!(succeeds(at, &args), table);
    assert!(!at.join("run/evaluation/d/step_4_n8_seed1234").exists());
    // Other settings are other numbers.
    let other = succeeds(at, &[&args[..], &["--seed", "5"]].concat());
    assert_ne!(other, table);
}

#[test]
fn what_cannot_be_evaluated_is_told() {
    let folder = scratch();
    let at = folder.path();
    write_images(&at.join("one"), 1, [1, 8, 8]);
    write_images(&at.join("two"), 2, [1, 8, 8]);
    write_images(&at.join("mixed"), 2, [1, 8, 8]);
    write_images(&at.join("mixed/larger"), 1, [1, 8, 9]);
    write_images(&at.join("coloured"), 2, [1, 8, 8]);
    write_images(&at.join("coloured/more"), 1, [3, 8, 8]);
    write_images(&at.join("broken"), 3, [1, 8, 8]);
    let whole = fs::read(at.join("broken/1.png")).unwrap();
    fs::write(at.join("broken/1.png"), &whole[..whole.len() - 20]).unwrap();
    fs::write(at.join("no.npz"), b"PK").unwrap();
    write_tensors(&at.join("other.safetensors"), &[], &BTreeMap::new()).unwrap();
    write_weights(&at.join("weights.safetensors"), 0.03);
    write_weights(&at.join("huge.safetensors"), 1e38);
    let weights = ["--weights", "weights.safetensors"];
    let is = ["--metrics", "is", "--splits", "1"];
    for (args, expected) in [
        (vec!["evaluate", "nowhere"], "nowhere: found neither this nor a data set, expected mnist, cifar10,"),
        (vec!["evaluate", "one"], "one: found 1 image, expected at least 2"),
        (vec!["evaluate", "two", "--metrics", "fid"], "found no --reference"),
        (vec!["evaluate", "two", "--n", "3"], "the number of images of two is 3, expected 1 to 2"),
        (vec!["evaluate", "mnist-test:7"], "found \"mnist-test:7\", expected a part like"),
        (vec!["evaluate", "two", "--reference", "no.npz"], "no.npz: "),
        (vec!["evaluate", "two", "--reference", "two", "--extractor", "small"], "--extractor small learns from"),
        (vec!["evaluate", "two", "--weights", "other.safetensors"], "found no tensor Conv2d_1a_3x3.conv.weight"),
        (vec!["evaluate", "two", "--weights", "no.npz"], "no.npz: "),
        (vec!["evaluate", "--doc", "nothing"], "nothing"),
        (vec!["evaluate", "two", "--resize", "lanczos"], "expected one of compat, pytorch-fid, clean-fid"),
        ([&["evaluate", "mixed"][..], &weights, &is].concat(), "mixed"),
        ([&["evaluate", "coloured"][..], &weights, &is].concat(), "coloured"),
        ([&["evaluate", "broken"][..], &weights, &is].concat(), "1.png"),
        ([&["evaluate", "two", "--weights", "huge.safetensors"][..], &is].concat(), " of sample 0 is "),
        (
            vec!["evaluate", "--doc", "nothing", "--sweep", "--metrics", "neighbours"],
            "expected metrics that are numbers",
        ),
        (
            [&["evaluate", "two", "--reference", "mixed/larger", "--metrics", "neighbours"][..], &weights].concat(),
            "found samples of 8x8 pixels and a reference of 8x9",
        ),
        (
            [&["evaluate", "two", "--reference", "two"][..], &weights].concat(),
            "found 2 samples of 1008 classes for 10 splits",
        ),
        // Before anything else is looked for.
        (
            vec!["evaluate", "two", "--reference", "two", "--metrics", "precision", "--weights", "nowhere"],
            "two: found 2 images, expected at least 4 for precision and recall (more than k = 3)",
        ),
        (
            vec![
                "evaluate",
                "two",
                "--reference",
                "broken",
                "--skip-broken",
                "--metrics",
                "density",
                "--weights",
                "nowhere",
                "--verbose",
                "critical",
            ],
            "broken: found 2 images, expected at least 6 for density and coverage (more than k = 5)",
        ),
        (
            vec!["evaluate", "two", "--reference", "one", "--metrics", "fid", "--weights", "nowhere"],
            "one: found 1 images, expected at least 2 for a covariance",
        ),
        (
            vec!["evaluate", "two", "--reference", "one", "--metrics", "kid", "--weights", "nowhere"],
            "one: found 1 images, expected at least 2 for a kernel distance",
        ),
        (vec!["evaluate"], "required"),
    ] {
        let error = fails(at, &args);
        assert!(error.contains(expected), "{args:?}: {error}");
    }
    // Left out if that is what the user wants, and counted.
    let args = [&["evaluate", "broken", "--skip-broken", "--json"][..], &weights, &is].concat();
    assert_eq!(numbers(&succeeds(at, &args))[0]["n"], 2);
}

#[test]
fn a_sweep_of_which_every_checkpoint_fails_leaves_no_table_of_an_earlier_one() {
    let folder = scratch();
    let at = folder.path();
    succeeds(at, &[&TRAIN[..], &["--set", "training.n_iters=8"]].concat());
    write_weights(&at.join("weights.safetensors"), 0.03);
    write_weights(&at.join("huge.safetensors"), 1e38);
    let args = ["evaluate", "--doc", "d", "--sweep", "--n", "2", "--metrics", "is", "--splits", "1", "--weights"];
    let table = succeeds(at, &[&args[..], &["weights.safetensors"]].concat());
    assert_eq!(table.lines().count(), 2 + 2, "{table}");
    let file = |ending: &str| at.join(format!("run/evaluation/d/sweep.{ending}"));
    assert_eq!(fs::read_to_string(file("md")).unwrap(), table);
    let message = fails(at, &[&args[..], &["huge.safetensors", "--verbose", "critical"]].concat());
    assert!(message.contains("found no metrics of 2 checkpoints (above): steps 4, 8"), "{message}");
    assert!(["md", "svg", "png"].iter().all(|ending| !file(ending).exists()));
    assert_eq!(fs::read_to_string(file("jsonl")).unwrap(), "");
    // A table of other checkpoints alone says which they are.
    assert_eq!(succeeds(at, &[&args[..], &["weights.safetensors"]].concat()), table);
    let part = succeeds(at, &[&args[..], &["weights.safetensors", "--from", "8"]].concat());
    assert!(part.lines().count() == 3 && !part.contains("| 4 |"), "{part}");
}
