//! Runs of Score-SDE: continuous times, U-Nets with dropout, its samplers, and its program's flags.

use std::fs;
use std::path::Path;

use crate::{fails, scratch, succeeds};

/// A network of a few thousand weights, told times of VP, with its program's names of keys.
const SDE: &str = "\
training: {sde: vpsde, continuous: true, reduce_mean: true, batch_size: 4, n_iters: 6, snapshot_freq: 4, log_freq: 1,
  snapshot_freq_for_preemption: 1, eval_freq: 3, snapshot_sampling: false}
data: {dataset: DIGITS, image_size: 8, num_channels: 1, centered: true}
model: {name: ncsnpp, nf: 8, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4], dropout: 0.3, fir: false,
  progressive_input: none, num_scales: 6, beta_max: 5.0, ema_rate: 0.9}
sampling: {predictor: euler_maruyama, corrector: none, final_images: 2}
optim: {lr: 1.0e-3, warmup: 2, grad_clip: 1.0}
eval: {begin_ckpt: 1, end_ckpt: 1, enable_sampling: false}
seed: 42
";

const TRAIN: [&str; 6] = ["train", "--config", "sde.yml", "--doc", "d", "--no-sample"];

fn folder() -> tempfile::TempDir {
    let folder = scratch();
    fs::write(folder.path().join("sde.yml"), SDE).unwrap();
    folder
}

fn last(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join("run/logs/d").join(name)).unwrap()
}

#[test]
fn a_run_with_dropout_and_warm_up_that_was_stopped_equals_a_straight_one_and_keeps_the_snapshots_alone() {
    let straight = folder();
    succeeds(straight.path(), &TRAIN);
    let names = |folder: &Path| {
        let entries = fs::read_dir(folder.join("run/logs/d")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with("checkpoint_")).collect();
        names.sort();
        names
    };
    // Of the others, the last before the end is left, to go back to.
    let expected = [4, 5, 6].map(|step| format!("checkpoint_{step}.safetensors"));
    let weights = |folder: &Path| names(folder).into_iter().filter(|name| !name.contains("state")).collect::<Vec<_>>();
    assert_eq!(weights(straight.path()), expected);

    let stopped = folder();
    succeeds(stopped.path(), &[&TRAIN[..], &["--set", "training.n_iters=3"]].concat());
    assert_eq!(weights(stopped.path()), [2, 3].map(|step| format!("checkpoint_{step}.safetensors")));
    succeeds(stopped.path(), &["train", "--doc", "d", "--resume", "--no-sample", "--set", "training.n_iters=6"]);
    for name in ["checkpoint_6.safetensors", "checkpoint_6.state.safetensors"] {
        assert!(last(stopped.path(), name) == last(straight.path(), name), "{name}");
    }
}

#[test]
fn samples_are_drawn_by_every_method_and_evaluations_are_counted() {
    let folder = folder();
    succeeds(folder.path(), &TRAIN);
    for (sets, evaluations) in [
        (&["sampling.predictor=ancestral_sampling"][..], "6 evaluations"),
        (&["sampling.corrector=langevin"], "12 evaluations"),
        (&["sampling.predictor=none", "sampling.corrector=ald"], "7 evaluations"),
        (&["sampling.method=ode"], "evaluations"),
    ] {
        let mut args = vec!["sample", "--doc", "d", "--n", "2", "-o", "out", "--overwrite"];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        let said = succeeds(folder.path(), &args);
        assert!(said.contains(evaluations), "{sets:?}: {said}");
        assert!(folder.path().join("out/grid.png").is_file());
    }
}

#[test]
fn the_flags_of_its_program_train_go_on_and_evaluate() {
    let folder = folder();
    let at = folder.path();
    let flags = |mode: &'static str| vec!["--config", "sde.yml", "--workdir", "work", "--mode", mode];
    let shorter = [flags("train"), vec!["--config.training.n_iters=4", "--config.model.ema_rate", "0.8"]].concat();
    succeeds(at, &shorter);
    let logs = at.join("work/logs/sde");
    let config = fs::read_to_string(logs.join("config.yml")).unwrap();
    assert!(config.contains("ema_rate: 0.8") && config.contains("seed: 42"), "{config}");
    // The file says other values than the run has; the same flags go on.
    let message = fails(at, &flags("train"));
    assert!(message.contains("is not the configuration of the run"), "{message}");
    let longer = [flags("train"), vec!["--config.training.n_iters=6", "--config.model.ema_rate=0.8"]].concat();
    succeeds(at, &longer);
    assert!(logs.join("checkpoint_6.safetensors").is_file());

    let said = succeeds(at, &flags("eval"));
    assert!(said.contains("| 4 |") && !said.contains("| 6 |"), "{said}");
    let message = fails(at, &[flags("eval"), vec!["--config.eval.enable_loss=false"]].concat());
    assert!(message.contains("nothing to evaluate"), "{message}");
    for (args, needle) in [
        (&["--workdir", "work", "--mode", "train"][..], "--workdir without --config"),
        (&["--workdir", "work", "--config", "sde.yml"], "--mode"),
        (&["--mode", "eval", "--config", "sde.yml"], "--workdir"),
        (
            &["--workdir", "w", "--mode", "train", "--config", "sde.yml", "--config.model.nff=3"],
            "unknown key model.nff",
        ),
    ] {
        let message = fails(at, args);
        assert!(message.contains(needle), "{args:?}: {message}");
    }
    assert!(!at.join("w").exists());
}
