//! The runners beside AnnealRunner, and the losses beside the denoising one.

use crate::{fails, scratch, succeeds};

/// `key=value` pairs as `--set` arguments.
fn with<'a>(args: &[&'a str], values: &[&'a str]) -> Vec<&'a str> {
    args.iter().copied().chain(values.iter().flat_map(|value| ["--set", value])).collect()
}

const TINY: [&str; 3] = ["train", "--config", "tiny.yml"];

#[test]
fn the_baseline_trains_goes_on_and_draws() {
    let folder = scratch();
    let plain_steps = ["sampling.n_steps_each=5", "training.n_iters=6"];
    let said =
        succeeds(folder.path(), &with(&[&TINY[..], &["--runner", "baseline", "--doc", "b"]].concat(), &plain_steps));
    assert!(said.contains("2 samples"), "{said}");
    let info = succeeds(folder.path(), &["info", "--doc", "b"]);
    assert!(info.contains("Baseline: 1 channels, ngf 2\n") && info.contains("σ = 0.01"), "{info}");
    // What the flags said is in the saved configuration.
    let more = ["train", "--doc", "b", "--resume", "--set", "training.n_iters=8"];
    assert!(succeeds(folder.path(), &more).contains("going on at step 6"));
    succeeds(folder.path(), &["sample", "--doc", "b", "-o", "s", "--n", "2"]);
    let message = fails(folder.path(), &[&more[..], &["--runner", "AnnealRunner"]].concat());
    assert!(message.contains("model.architecture is baseline, which is not one of AnnealRunner's"), "{message}");
    let flags = ["--runner", "BaselineRunner", "--config", "tiny.yml", "--doc", "flags"];
    succeeds(folder.path(), &with(&flags, &["training.n_iters=2", "sampling.n_steps_each=2"]));
    let info = succeeds(folder.path(), &["info", "--doc", "flags"]);
    assert!(info.contains("Baseline"), "{info}");
}

#[test]
fn scorenet_trains_by_sliced_score_matching_with_and_without_noise() {
    let folder = scratch();
    let common = ["training.algo=ssm", "data.channels=3", "model.nef=8", "model.ndf=8", "sampling.n_steps_each=2"];
    for (doc, noise) in [("with", "training.noise_std=0.01"), ("without", "training.noise_std=0")] {
        let args = [&TINY[..], &["--runner", "ScoreNetRunner", "--doc", doc]].concat();
        succeeds(folder.path(), &with(&args, &[&common[..], &[noise, "training.n_iters=10"]].concat()));
        let metrics = std::fs::read_to_string(folder.path().join(format!("run/logs/{doc}/metrics.jsonl"))).unwrap();
        assert!(metrics.lines().count() == 10 && metrics.contains("test_loss"), "{metrics}");
    }
    let args = [&TINY[..], &["--runner", "scorenet", "--doc", "x"]].concat();
    for (set, needle) in [
        (&["data.channels=1"][..], "3 channels"),
        (&["data.channels=3", "model.nef=12"], "multiple of 8"),
        (&["data.channels=3", "model.nef=8", "model.ndf=8", "training.noise_std=0"], "noise_std is 0"),
    ] {
        let message = fails(folder.path(), &with(&args, set));
        assert!(message.contains(needle), "{needle} in {message}");
    }
}

#[test]
fn every_network_of_scorenet_trains_draws_and_is_told_from_its_weights() {
    let folder = scratch();
    let tiny =
        ["training.algo=ssm", "training.noise_std=0.01", "model.nef=4", "model.ndf=4", "sampling.n_steps_each=2"];
    let args = |name| [&TINY[..], &["--runner", "scorenet", "--doc", name]].concat();
    for (name, shown, size) in [
        ("resnetscore", "ResNetScore: 1 channels, ngf 2", 8),
        ("unetscore", "UNetScore: 1 channels, ngf 2", 16),
        ("unetresscore", "UNetResScore: 1 channels, ngf 2", 32),
        ("score", "Score: 1 channels, nef 4", 28),
        ("smallscore", "SmallScore: 1 channels, nef 4", 10),
        ("mlpscore", "MlpScore: 1 channels", 10),
    ] {
        let (architecture, side) = (format!("model.architecture={name}"), format!("data.image_size={size}"));
        let set = [&tiny[..], &[&architecture, &side, "training.n_iters=2"]].concat();
        succeeds(folder.path(), &with(&args(name), &set));
        let info = succeeds(folder.path(), &["info", "--doc", name]);
        assert!(info.contains(shown), "{info}");
    }
    for (network, size, expected) in [
        ("unetscore", 28, "expected a multiple of 16 from 16 to 32"),
        ("unetresscore", 16, "expected a multiple of 16, at least 32"),
        ("score", 32, "expected 28"),
    ] {
        let (architecture, side) = (format!("model.architecture={network}"), format!("data.image_size={size}"));
        let message = fails(folder.path(), &with(&args("x"), &[&architecture, &side]));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn ncsn_trains_by_sliced_score_matching_exactly_and_by_differences() {
    let folder = scratch();
    let mut losses = Vec::new();
    for slicing in ["exact", "finite_difference"] {
        let slicing = format!("training.slicing={slicing}");
        let set = ["training.algo=ssm", "training.n_particles=2", &slicing, "training.n_iters=12"];
        let args = [&TINY[..], &["--doc", &slicing, "--no-sample"]].concat();
        succeeds(folder.path(), &with(&args, &set));
        let metrics = folder.path().join(format!("run/logs/{slicing}/metrics.jsonl"));
        let first = std::fs::read_to_string(metrics).unwrap().lines().next().unwrap().to_string();
        let value: serde_json::Value = serde_json::from_str(&first).unwrap();
        losses.push(value["loss"].as_f64().unwrap());
        // Stopped and resumed: the directions are addressed by step, as all noise is.
        assert!(
            succeeds(folder.path(), &["train", "--doc", &slicing, "--resume", "--no-sample"])
                .contains("all of its 12 steps")
        );
    }
    // The same directions, and an error of order ε² = 1e-6.
    assert!((losses[0] - losses[1]).abs() < 1e-2 * losses[0].abs().max(0.1), "{losses:?}");
}

#[test]
fn unknown_runners_are_refused_by_name() {
    let folder = scratch();
    let message = fails(folder.path(), &["train", "--config", "tiny.yml", "--doc", "x", "--runner", "Walker"]);
    assert!(message.contains("found runner \"Walker\", expected one of AnnealRunner, BaselineRunner"), "{message}");
    let message = fails(folder.path(), &["train", "--config", "tiny.yml", "--doc", "x", "--runner", "ToyRunner"]);
    assert!(message.contains("ncsn toy"), "{message}");
}
