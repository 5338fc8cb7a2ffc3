//! The probability flow: likelihoods, latents, what they are decoded to.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{TRAIN, fails, scratch, succeeds};

/// A run of Score-SDE with a tiny network and loose tolerances.
pub const TINY_SDE: &str = "\
training: {batch_size: 4, n_iters: 24, snapshot_freq: 12, sde: vpsde, continuous: true, reduce_mean: true, test_freq: 100}
data: {dataset: DIGITS, image_size: 8, channels: 1, centered: true}
model: {name: ncsnpp, nf: 8, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4], num_scales: 30, dropout: 0.1,
  embedding_type: positional, fir: false, scale_by_sigma: false, progressive: none, progressive_input: none}
optim: {lr: 0.002}
sampling: {method: pc, predictor: euler_maruyama, corrector: none, rtol: 1.0e-2, atol: 1.0e-2, snapshot_images: 0, final_images: 4}
";

/// The run `sde`, trained.
pub fn trained() -> tempfile::TempDir {
    let folder = scratch();
    fs::write(folder.path().join("sde.yml"), TINY_SDE).unwrap();
    succeeds(folder.path(), &["train", "--config", "sde.yml", "--doc", "sde", "--no-sample"]);
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The lines of images, in order.
fn lines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("images.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| [&line["repeat"], &line["number"]].map(|n| n.as_u64().unwrap()));
    lines
}

#[test]
fn bits_per_dim_are_those_of_each_image_whatever_the_batch_and_go_on_where_they_stopped() {
    let folder = trained();
    let at = folder.path();
    let evaluate = |more: &[&str]| {
        let args = ["evaluate", "--doc", "sde", "--bits-per-dim", "--images", "5", "--repeats", "2"];
        succeeds(at, &[&args[..], more].concat())
    };
    let said = evaluate(&["--batch", "3"]);
    let part = "(5 images of digits-test, 2 repeats (± ";
    assert!(said.starts_with("bits/dim ") && said.contains(part) && said.contains("rtol 0.01, atol 0.01"), "{said}");
    let results = at.join("run/evaluation/sde/bits_per_dim_step_24_test_seed1234");
    let (result, whole) = (json(&results.join("bits_per_dim.json"))["result"].clone(), lines(&results));
    assert_eq!((whole.len(), &result["n"], &result["repeats"]), (10, &5.into(), &2.into()));
    let bits = |line: &Value| line["bits_per_dim"].as_f64().unwrap();
    let mean = whole.iter().map(bits).sum::<f64>() / 10.0;
    assert!((result["bits_per_dim"].as_f64().unwrap() - mean).abs() < 1e-9 && mean > 0.0 && mean < 12.0, "{result}");
    for key in ["standard_error", "standard_error_of_repeats"] {
        assert!(result[key].as_f64().unwrap() > 0.0, "{result}");
    }
    for (first, second) in whole[..5].iter().zip(&whole[5..]) {
        assert!(first["image"] == second["image"] && bits(first) != bits(second), "{first} {second}");
    }

    // As if it had been killed in the middle of a line.
    let path = results.join("images.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> = text.lines().take(3).collect();
    fs::write(&path, kept.join("\n") + "\n{\"repeat\":0,\"nu").unwrap();
    assert_eq!(evaluate(&["--batch", "3"]), said);
    assert!(fs::read_to_string(&path).unwrap().starts_with(&(kept.join("\n") + "\n{\"repeat\":0,\"number\":3,")));
    assert_eq!(lines(&results), whole);
    // Other batches, from the beginning; and JSON.
    let manifest: Value = serde_json::from_str(&evaluate(&["--batch", "1", "--overwrite", "--json"])).unwrap();
    assert_eq!((&manifest["result"], lines(&results)), (&result, whole));
    assert_eq!((&manifest["probes"], &manifest["n_grey_levels"]), (&"rademacher".into(), &256.into()));

    // What was found otherwise is not added to.
    let args = ["evaluate", "--doc", "sde", "--bits-per-dim", "--images", "1"];
    let message = fails(at, &[&args[..], &["--rtol", "0.1"]].concat());
    assert!(message.contains("rtol was 0.01, now 0.1") && message.contains("--overwrite"), "{message}");
    let said = succeeds(at, &[&args[..], &["--split", "train", "--probes", "gaussian", "--step", "12"]].concat());
    assert!(said.contains("(1 images of digits-train, 1 repeat, gaussian probes"), "{said}");
    assert!(at.join("run/evaluation/sde/bits_per_dim_step_12_train_seed1234/images.jsonl").is_file());
}

#[test]
fn likelihoods_that_there_cannot_be_are_refused() {
    let folder = trained();
    let at = folder.path();
    succeeds(at, &TRAIN);
    let bits = |doc, more: &[&str]| fails(at, &[&["evaluate", "--doc", doc, "--bits-per-dim"], more].concat());
    for (doc, more, needle) in [
        ("d", &[][..], "found a run without training.sde"),
        ("sde", &["--step", "7"], "found no checkpoint of sde at step 7"),
        ("sde", &["--rtol", "0"], "found --rtol 0, expected a positive number"),
        ("sde", &["--probes", "uniform"], "rademacher, gaussian"),
        ("sde", &["--test-loss"], "cannot be used with"),
        ("sde", &["--sweep"], "cannot be used with"),
        ("sde", &["--metrics", "fid"], "cannot be used with"),
    ] {
        let message = bits(doc, more);
        assert!(message.contains(needle), "{needle} in {message}");
    }
    assert!(fails(at, &["evaluate", "--doc", "sde", "--repeats", "2"]).contains("--bits-per-dim"));
    // Refused before anything was written.
    assert!(!at.join("run/evaluation").exists());
    // Of a folder that has fewer images.
    let images = at.join("images");
    fs::create_dir(&images).unwrap();
    for k in 0..20u8 {
        let image = ncsn::data::Pixels::new(vec![12 * k; 64], 8, 8, 1);
        ncsn::image::write_png(&images.join(format!("{k}.png")), &image).unwrap();
    }
    let train = ["train", "--config", "sde.yml", "--doc", "folder", "--no-sample", "--set", "training.n_iters=1"];
    let set = ["--set", "data.dataset=FOLDER", "--set", "data.path=images"];
    succeeds(at, &[&train[..], &set].concat());
    let message = bits("folder", &["--images", "30", "--split", "train"]);
    assert!(message.contains("found --images 30 for the 19 images of"), "{message}");
}
