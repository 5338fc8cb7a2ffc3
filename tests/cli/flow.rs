//! The probability flow: likelihoods, latents, what they are decoded to.

use std::fs;
use std::path::Path;

use ncsn::checkpoint::TensorFile;
use ncsn::data::digits::Digits;
use ncsn::data::{Source, Split};
use ncsn::image::read_png;
use serde_json::Value;

use crate::{TRAIN, fails, scratch, succeeds};

/// A run of Score-SDE with a tiny network and loose tolerances. A last step that removes noise would be one of 30 of the process, where
/// there is next to none.
pub const TINY_SDE: &str = "\
training: {batch_size: 4, n_iters: 24, snapshot_freq: 12, sde: vpsde, continuous: true, reduce_mean: true, test_freq: 100}
data: {dataset: DIGITS, image_size: 8, channels: 1, centered: true}
model: {name: ncsnpp, nf: 8, ch_mult: [1, 2], num_res_blocks: 1, attn_resolutions: [4], num_scales: 30, dropout: 0.1,
  embedding_type: positional, fir: false, scale_by_sigma: false, progressive: none, progressive_input: none}
optim: {lr: 0.002}
sampling: {method: pc, predictor: euler_maruyama, corrector: none, noise_removal: false, rtol: 1.0e-2, atol: 1.0e-2, snapshot_images: 0, final_images: 4}
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

fn latents(folder: &Path, name: &str) -> Vec<f32> {
    let file = TensorFile::open(&folder.join(name).join("latents.safetensors")).unwrap();
    file.get("latents").unwrap().unwrap().values
}

fn image(folder: &Path, name: &str) -> Vec<u8> {
    read_png(&folder.join(name), [1, 8, 8]).unwrap()
}

/// Image `number` of the held-out digits.
fn digit(number: usize) -> Vec<u8> {
    let mut pixels_u8 = vec![0; 64];
    Digits::new(8, 1, Split::Test).unwrap().read(number, &mut pixels_u8).unwrap();
    pixels_u8
}

/// The largest difference of two images, in grey levels.
fn difference(a: &[u8], b: &[u8]) -> u8 {
    a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

const TIGHT: [&str; 4] = ["--rtol", "1e-6", "--atol", "1e-6"];

#[test]
fn images_are_encoded_and_decoded_to_themselves_and_latents_are_tempered() {
    let folder = trained();
    let at = folder.path();
    let encode = |output: &str, index: &str, more: &[&str]| {
        succeeds(at, &[&["encode", "--doc", "sde", "--index", index, "-o", output], more].concat())
    };
    let said = encode("z", "5,0..2", &[]);
    assert!(said.contains("latents of 3 images of DIGITS in z/latents.safetensors"), "{said}");
    assert!(said.contains("evaluations of the score on average over 3 images"), "{said}");
    let z = latents(at, "z");
    // Of the prior, nearly: N(0, 1).
    assert!(z.len() == 192 && z.iter().all(|z| z.abs() < 8.0));
    encode("one", "5,0,1", &["--batch", "1", "--images", "DIGITS"]);
    assert_eq!(latents(at, "one"), z, "a latent does not depend on the batch");
    assert!(!encode("z", "5,0..2", &[]).contains("evaluations"), "what is there is not encoded again");
    let message = fails(at, &["encode", "--doc", "sde", "-o", "z"]);
    assert!(message.contains("--overwrite") && message.contains("was"), "{message}");

    let decode = |file: &str, output: &str, more: &[&str]| {
        let file = format!("{file}/latents.safetensors");
        let args = ["sample", "--doc", "sde", "--latents", &file, "--final-only", "-o", output];
        succeeds(at, &[&args[..], more].concat())
    };
    encode("tight", "5,0", &TIGHT);
    assert!(decode("tight", "back", &TIGHT).contains("2 samples in back"));
    for (k, number) in [5, 0].into_iter().enumerate() {
        let (found, expected) = (image(at, &format!("back/images/{k:06}.png")), digit(number));
        // Errors of both ways, which the barely trained network makes larger, leave 20 grey levels at 1e-4, 14 at 1e-5, none here.
        assert!(difference(&found, &expected) <= 2, "{found:?}, expected {expected:?}");
    }
    let manifest = json(&at.join("back/samples.json"));
    assert!(manifest["sampler"] == "probability flow" && manifest["rtol"] == 1e-6, "{manifest}");
    assert!(manifest["latents"].is_string() && manifest["temperature"].is_null(), "{manifest}");
    // Fewer of them, in other batches; other latents are other samples.
    decode("z", "three", &[]);
    decode("z", "two", &["--n", "2", "--batch", "1"]);
    assert_eq!(image(at, "two/images/000001.png"), image(at, "three/images/000001.png"));
    let message = fails(at, &["sample", "--doc", "sde", "-o", "back", "--n", "3"]);
    assert!(message.contains("--overwrite"), "{message}");

    // Latents of the prior, by the seed: the flow is that of method ode at a temperature of 1, and another below it.
    decode("z", "cool", &["--temperature", "0.5"]);
    assert_ne!(image(at, "cool/images/000000.png"), image(at, "three/images/000000.png"));
    let sample = |output: &str, temperature: &str| {
        succeeds(at, &["sample", "--doc", "sde", "-o", output, "--n", "2", "--temperature", temperature]);
        image(at, &format!("{output}/images/000000.png"))
    };
    assert_ne!(sample("warm", "1"), sample("cold", "0.3"));
    assert_eq!(json(&at.join("cold/samples.json"))["temperature"], 0.3);
}

#[test]
fn latents_that_do_not_fit_are_refused() {
    let folder = trained();
    let at = folder.path();
    succeeds(at, &TRAIN);
    fs::write(at.join("text.safetensors"), "no tensors").unwrap();
    succeeds(at, &["encode", "--doc", "sde", "--index", "0..2", "-o", "z"]);
    let z = "z/latents.safetensors";
    for (args, needle) in [
        (&["encode", "--doc", "d", "-o", "x"][..], "found a run without training.sde"),
        (
            &["encode", "--doc", "sde", "-o", "x", "--index", "3..1"],
            "found numbers \"3..1\", expected numbers and ranges",
        ),
        (&["encode", "--doc", "sde", "-o", "x", "--images", "nowhere"], "found no folder and no data set \"nowhere\""),
        (&["encode", "--doc", "sde", "-o", "x", "--images", "CIFAR10"], "3 channels, expected 1"),
        (&["encode", "--doc", "sde", "-o", "x", "--atol", "0"], "found --atol 0, expected a positive number"),
        (&["sample", "--doc", "d", "-o", "x", "--latents", z], "found a run without training.sde"),
        (&["sample", "--doc", "d", "-o", "x", "--temperature", "0.5"], "found a run without training.sde"),
        (
            &["sample", "--doc", "sde", "-o", "x", "--temperature", "0"],
            "found --temperature 0, expected a positive number",
        ),
        (&["sample", "--doc", "sde", "-o", "x", "--latents", z, "--n", "3"], "found --n 3 for a file of 2 latents"),
        (&["sample", "--doc", "sde", "-o", "x", "--latents", "text.safetensors"], "text.safetensors"),
        (
            &["sample", "--doc", "sde", "-o", "x", "--latents", "run/logs/sde/checkpoint_24.safetensors"],
            "no tensor latents",
        ),
        (&["sample", "--doc", "sde", "-o", "x", "--latents", "none.safetensors"], "none.safetensors"),
    ] {
        let message = fails(at, args);
        assert!(message.contains(needle), "{needle} in {message}");
        assert!(!at.join("x").exists(), "{args:?}");
    }
    let train = ["train", "--config", "sde.yml", "--doc", "big", "--no-sample", "--set", "training.n_iters=1"];
    succeeds(at, &[&train[..], &["--set", "data.image_size=16"]].concat());
    let message = fails(at, &["sample", "--doc", "big", "-o", "x", "--latents", z]);
    assert!(message.contains("latents has shape [2, 1, 8, 8], expected [n, 1, 16, 16]"), "{message}");
}

#[test]
fn rows_go_from_latent_to_latent_and_their_ends_are_the_images_of_these() {
    let folder = trained();
    let at = folder.path();
    succeeds(at, &[&["encode", "--doc", "sde", "--index", "5,0", "-o", "z"][..], &TIGHT].concat());
    let interpolate = |output: &str, more: &[&str]| {
        let args = ["interpolate", "--doc", "sde", "--columns", "3", "-o", output];
        succeeds(at, &[&args[..], more].concat())
    };
    let given = [&["--latents", "z/latents.safetensors"][..], &TIGHT].concat();
    assert!(interpolate("given", &given).contains("1 rows of 3 images in given"));
    let column = |output: &str, row: usize, j: usize| image(at, &format!("{output}/images/{row:06}_{j:03}.png"));
    // Errors of the flow as in the test above.
    assert!(difference(&column("given", 0, 0), &digit(5)) <= 2 && difference(&column("given", 0, 2), &digit(0)) <= 2);
    assert!(column("given", 0, 1) != column("given", 0, 0) && column("given", 0, 1) != column("given", 0, 2));
    let manifest = json(&at.join("given/interpolations.json"));
    assert!(manifest["latents"].is_string() && manifest["seed"].is_null() && manifest["rtol"] == 1e-6, "{manifest}");

    // Of a seed, whatever the number of rows; by the flow, or by the run's own sampler, which has noise to interpolate.
    interpolate("seed", &["--flow", "--n", "2"]);
    interpolate("again", &["--flow", "--n", "1"]);
    assert_eq!(column("seed", 0, 2), column("again", 0, 2));
    assert_ne!(column("seed", 0, 2), column("seed", 1, 2));
    interpolate("noise", &["--n", "1"]);
    assert_ne!(column("noise", 0, 0), column("seed", 0, 0));
    assert!(json(&at.join("noise/interpolations.json"))["sampler"] == "predictor-corrector");

    succeeds(at, &TRAIN);
    for (doc, more, needle) in [
        ("d", &["--flow"][..], "found a run without training.sde"),
        ("sde", &["--latents", "z/latents.safetensors", "--n", "2"], "found 2 rows between 1 pairs of latents"),
        ("sde", &["--latents", "none.safetensors"], "none.safetensors"),
    ] {
        let message = fails(at, &[&["interpolate", "--doc", doc, "-o", "x"], more].concat());
        assert!(message.contains(needle) && !at.join("x").exists(), "{needle} in {message}");
    }
}

#[test]
fn chains_have_as_many_steps_as_are_asked_for() {
    let folder = trained();
    let at = folder.path();
    // Chains of a network that is told any time may have any number of steps.
    let sample = ["sample", "--doc", "sde", "-o", "out", "--n", "2", "--final-only"];
    let said = succeeds(at, &[&sample[..], &["--set", "sampling.n_steps=27"]].concat());
    assert!(said.contains("27 evaluations of the score for each image"), "{said}");

    let half = ["--set", "sampling.n_steps=25", "--set", "sampling.corrector=langevin"];
    let inpaint =
        ["inpaint", "--doc", "sde", "--images", "DIGITS", "--n", "1", "--n-per-image", "2", "-o", "completed"];
    succeeds(at, &[&inpaint[..], &half].concat());
    let manifest = json(&at.join("completed/completions.json"));
    assert_eq!(manifest["sigmas"].as_array().unwrap().len(), 25, "{manifest}");

    for (args, needle) in [
        (&["evaluate", "out", "--set", "sampling.n_steps=25"][..], "without --doc"),
        (&["evaluate", "--doc", "sde", "--set", "model.ngf=5"], "the rest is that of the run"),
        (
            &["sample", "--doc", "sde", "-o", "new", "--set", "sampling.n_steps=9"],
            "expected a number above beta_max, 20",
        ),
        (&["sample", "--doc", "sde", "-o", "new", "--set", "sampling.n_steps=0"], "expected a whole number from 1"),
    ] {
        let message = fails(at, args);
        assert!(message.contains(needle), "{needle} in {message}");
    }
    // Between levels there are none.
    succeeds(at, &TRAIN);
    let message = fails(at, &["sample", "--doc", "d", "-o", "new", "--set", "sampling.n_steps=25"]);
    assert!(message.contains("sampling.n_steps needs training.continuous"), "{message}");
}

#[test]
fn fast_solvers_draw_from_any_run_in_as_many_evaluations_as_they_say() {
    let folder = trained();
    let at = folder.path();
    succeeds(at, &TRAIN);
    let images = |name: &str| -> Vec<Vec<u8>> {
        (0..3).map(|k| fs::read(at.join(name).join(format!("images/{k:06}.png"))).unwrap()).collect()
    };
    for (doc, solver, steps, evaluations) in [
        ("sde", "heun", "6", 11),
        ("sde", "ddim", "6", 6),
        ("sde", "dpmpp_2m", "6", 6),
        ("sde", "dpmpp_2m_sde", "6", 6),
        ("sde", "dpmpp_3m_sde_corrected", "6", 6),
        // Of three levels there are no more than three steps.
        ("d", "heun", "18", 5),
        ("d", "dpmpp_2m", "2", 2),
    ] {
        let args = ["sample", "--doc", doc, "--solver", solver, "--steps", steps, "--n", "3", "--final-only"];
        let said = succeeds(at, &[&args[..], &["-o", "whole", "--overwrite"]].concat());
        assert!(said.contains(&format!("{evaluations} evaluations of the score for each image")), "{solver}: {said}");
        succeeds(at, &[&args[..], &["-o", "parts", "--overwrite", "--batch", "2"]].concat());
        assert!(images("whole") == images("parts"), "{doc} {solver}");
    }
    assert_eq!(json(&at.join("whole/samples.json"))["solver"], "dpmpp_2m");
    let inpaint =
        ["inpaint", "--doc", "sde", "--images", "DIGITS", "--n", "1", "--n-per-image", "2", "-o", "completed"];
    succeeds(at, &[&inpaint[..], &["--solver", "dpmpp_2m_sde", "--steps", "5"]].concat());
    let sample = ["sample", "--doc", "sde", "-o", "new"];
    for (more, needle) in [
        (&["--solver", "euler"][..], "sampling.solver is euler, expected one of ddim, heun"),
        (&["--solver", "heun", "--steps", "0"], "expected a whole number from 1 to 100000"),
        (&["--set", "sampling.grid=cosine"], "expected one of karras"),
    ] {
        let message = fails(at, &[&sample[..], more].concat());
        assert!(message.contains(needle), "{needle} in {message}");
        assert!(!at.join("new").exists());
    }
}
