//! Samples of classes: a classifier that is trained beside a network, and guides it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::flow::{TINY_SDE, trained};
use crate::{TINY, fails, scratch, succeeds};

/// Trains a classifier of what [`trained`] is trained on, in its folder.
fn classifier(at: &Path) -> String {
    let args = ["train", "--runner", "classifier", "--config", "sde.yml", "--doc", "classes"];
    // Without an average, which of so few steps is the network before them.
    let small = ["--set", "model.ngf=16", "--set", "model.depth=10", "--set", "model.ema=false"];
    let longer = ["--set", "training.n_iters=150", "--set", "training.batch_size=16"];
    succeeds(at, &[&args[..], &small, &longer].concat())
}

fn images(folder: &Path, n: usize) -> Vec<Vec<u8>> {
    (0..n).map(|k| fs::read(folder.join(format!("images/{k:06}.png"))).unwrap()).collect()
}

#[test]
fn a_classifier_is_trained_from_the_file_of_a_network_and_guides_its_samples() {
    let folder = trained();
    let at = folder.path();
    let said = classifier(at);
    let accuracy = said.split("of 1000 held-out images ").nth(1).unwrap();
    let right: f64 = accuracy.split(' ').next().unwrap().parse().unwrap();
    // A guess is right about a tenth, with a standard error of 1 % of a thousand.
    assert!(right > 14.0, "{said}");
    let sampled = at.join("run/samples/classes");
    assert!(!sampled.exists(), "nothing is drawn from a classifier");
    assert!(succeeds(at, &["info", "--doc", "classes"]).contains("WideResNet: 1 channels, ngf 16"));

    let sample = |more: &[&str]| {
        let args = ["sample", "--doc", "sde", "--n", "4", "--overwrite", "--final-only"];
        succeeds(at, &[&args[..], more].concat())
    };
    let guided = ["--classifier", "classes", "--class", "0-2", "--guidance", "2"];
    let said = sample(&[&guided[..], &["-o", "whole"]].concat());
    assert!(said.contains("guided to classes 0, 1, 2, guidance scale 2"), "{said}");
    let whole = images(&at.join("whole"), 4);
    let manifest: Value = serde_json::from_slice(&fs::read(at.join("whole/samples.json")).unwrap()).unwrap();
    assert_eq!((&manifest["classes"], &manifest["guidance"]), (&vec![0, 1, 2].into(), &2.0.into()));
    // Whatever the batch; by the file of its weights too.
    let file = "run/logs/classes/checkpoint_150.safetensors";
    sample(&["--classifier", file, "--class", "0-2", "--guidance", "2", "--batch", "3", "-o", "parts"]);
    assert_eq!(images(&at.join("parts"), 4), whole);
    // Other classes are other images, and so are none.
    sample(&["--classifier", "classes", "--class", "7", "--guidance", "2", "-o", "sevens"]);
    let sevens = images(&at.join("sevens"), 4);
    sample(&["-o", "any"]);
    let any = images(&at.join("any"), 4);
    assert!(whole != sevens && whole != any && sevens != any);
    // By the flow each image has steps of its own, and still its own class.
    let flow = ["--set", "sampling.method=ode"];
    sample(&[&guided[..], &flow, &["-o", "flow"]].concat());
    let flowed = images(&at.join("flow"), 4);
    sample(&[&guided[..], &flow, &["--batch", "1", "-o", "flow_parts"]].concat());
    assert_eq!(images(&at.join("flow_parts"), 4), flowed);
}

#[test]
fn what_a_classifier_cannot_do_is_refused() {
    let folder = trained();
    let at = folder.path();
    classifier(at);
    let sample = ["sample", "--doc", "sde", "-o", "out", "--n", "1"];
    let guided = ["--classifier", "classes"];
    for (more, part) in [
        (&["--class", "3"][..], "--classifier"),
        (&["--guidance", "3"], "--classifier"),
        (&["--classifier", "sde"], "found ncsnpp, expected a classifier"),
        (&["--classifier", "nowhere"], "found no checkpoint"),
        (&[guided[0], guided[1], "--class", "10"], "found --class 10, expected 0 to 9"),
        (&[guided[0], guided[1], "--class", "3-1"], "found classes \"3-1\""),
        (&[guided[0], guided[1], "--guidance", "0"], "found --guidance 0, expected a positive number"),
    ] {
        let message = fails(at, &[&sample[..], more].concat());
        assert!(message.contains(part), "{message}");
        assert!(!at.join("out").exists(), "{message}");
    }
    for args in [
        &["sample", "--doc", "classes", "-o", "out"][..],
        &["encode", "--doc", "classes", "--images", "DIGITS", "-o", "out"],
        &["evaluate", "--doc", "classes", "--bits-per-dim", "--images", "1"],
    ] {
        let message = fails(at, args);
        assert!(message.contains("found a classifier, expected a network that is a score"), "{message}");
    }
    // Of images that are perturbed in another way.
    fs::write(
        at.join("ve.yml"),
        TINY_SDE.replace("sde: vpsde", "sde: vesde").replace("centered: true", "centered: false"),
    )
    .unwrap();
    let train =
        ["train", "--runner", "classifier", "--doc", "other", "--set", "model.ngf=16", "--set", "model.depth=10"];
    let [of_ve, one_step] = [["--config", "ve.yml"], ["--set", "training.n_iters=1"]];
    succeeds(at, &[&train[..], &of_ve, &one_step].concat());
    let message = fails(at, &[&sample[..], &["--classifier", "other"]].concat());
    assert!(message.contains("data.rescaled is false, expected true, as of the network"), "{message}");

    // A set without classes; a width that has no groups; both before a file changes.
    let train = ["train", "--runner", "classifier", "--config", "sde.yml", "--doc", "new"];
    let celeba = ["--set", "data.dataset=CELEBA", "--set", "data.channels=3", "--set", "model.ngf=16"];
    let message = fails(at, &[&train[..], &celeba].concat());
    assert!(message.contains("data.dataset is CELEBA, expected MNIST, CIFAR10, SVHN or DIGITS"), "{message}");
    let message = fails(at, &train);
    assert!(message.contains("the width of a WideResNet is 8, expected a multiple of 16"), "{message}");
    assert!(!at.join("run/logs/new").exists());
}

#[test]
fn a_classifier_of_noise_levels_is_trained_too_and_goes_on_where_it_stopped() {
    let folder = scratch();
    let at = folder.path();
    fs::write(at.join("tiny.yml"), TINY.replace("ngf: 2", "ngf: 16, depth: 10")).unwrap();
    let train = |doc: &str, more: &[&str]| {
        let args = ["train", "--runner", "classifier", "--config", "tiny.yml", "--doc", doc];
        succeeds(at, &[&args[..], more].concat())
    };
    train("whole", &[]);
    train("parts", &["--set", "training.n_iters=8"]);
    succeeds(at, &["train", "--doc", "parts", "--resume", "--set", "training.n_iters=24"]);
    let weights = |doc: &str| fs::read(at.join(format!("run/logs/{doc}/checkpoint_24.safetensors"))).unwrap();
    assert!(weights("whole") == weights("parts"));
    succeeds(at, &["train", "--config", "tiny.yml", "--doc", "levels", "--set", "model.ngf=2", "--no-sample"]);
    succeeds(at, &["sample", "--doc", "levels", "--classifier", "whole", "--n", "2", "-o", "out", "--final-only"]);
}
