//! NCSNv2 through the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use ncsn::checkpoint::pth::{Progress, read_published};
use ncsn::checkpoint::{Saved, TensorFile, Which, write_tensors};
use ncsn::data::Split;
use ncsn::data::digits::Digits;
use ncsn::image::{grid, read_png};
use ncsn::net::params::{self, HostTensor};
use ncsn::net::{Condition, Form, NormKind, RefineNet, RefineNetConfig};
use ncsn::noise::Noise;
use ncsn::sample::{Images, image_trajectory};
use ncsn::sde::NoiseLevels;
use ncsn::train::TestLoss;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::evaluate::write_weights;
use crate::{fails, ncsn, scratch, succeeds};

/// A run of NCSNv2 that takes seconds.
const TINY: &str = "\
training: {batch_size: 3, n_iters: 6, snapshot_freq: 3, snapshot_sampling: false}
data: {dataset: DIGITS, image_size: 8, channels: 1}
model: {ngf: 4, sigma_begin: 5, num_classes: 4, sigma_dist: geometric, ema: true, ema_rate: 0.9}
sampling: {n_steps_each: 2, step_lr: 1.0e-5, denoise: true, n_interpolations: 3, final_images: 4}
";

fn trained() -> tempfile::TempDir {
    let folder = scratch();
    fs::write(folder.path().join("v2.yml"), TINY).unwrap();
    succeeds(folder.path(), &["train", "--config", "v2.yml", "--doc", "v2"]);
    folder
}

fn tensor(path: &Path, name: &str) -> Vec<f32> {
    TensorFile::open(path).unwrap().get(name).unwrap().unwrap().values
}

#[test]
fn a_network_without_levels_is_trained_on_many_and_draws_completes_and_interpolates() {
    let folder = trained();
    let at = folder.path();
    let samples = fs::read_to_string(at.join("run/samples/v2/step_6/samples.json")).unwrap();
    assert!(samples.contains("\"denoise\":true") || samples.contains("\"denoise\": true"), "{samples}");
    let info = succeeds(at, &["info", "--doc", "v2"]);
    assert!(info.contains("NcsnV2: 1 channels, ngf 4") && info.contains(", and their moving average"), "{info}");
    assert!(info.contains("σ from 5 to 0.01"), "{info}");

    succeeds(
        at,
        &["inpaint", "--doc", "v2", "--images", "DIGITS", "-o", "completions", "--n", "2", "--n-per-image", "2"],
    );
    assert!(at.join("completions/images/000001_001.png").is_file());

    // Three columns by the run's own key, whatever the rows; and what is there is kept.
    let interpolate = |n: &str| succeeds(at, &["interpolate", "--doc", "v2", "-o", "rows", "--n", n]);
    assert!(interpolate("1").contains("1 rows of 3 images in rows"));
    let image = |name: &str| fs::read(at.join("rows/images").join(name)).unwrap();
    let first = [image("000000_000.png"), image("000000_002.png")];
    assert!(first[0] != first[1]);
    interpolate("2");
    assert_eq!([image("000000_000.png"), image("000000_002.png")], first);
    assert!(at.join("rows/images/000001_002.png").is_file() && !at.join("rows/images/000000_003.png").exists());
    let message = fails(at, &["interpolate", "--doc", "v2", "-o", "rows", "--n", "1"]);
    assert!(message.contains("rows holds 2 rows, more than --n 1"), "{message}");
    let message = fails(at, &["interpolate", "--doc", "v2", "-o", "rows", "--n", "2", "--columns", "4"]);
    assert!(message.contains("columns"), "{message}");

    // A stopped run goes on as it would have.
    succeeds(at, &["train", "--config", "v2.yml", "--doc", "w", "--no-sample", "--set", "training.n_iters=3"]);
    succeeds(at, &["train", "--doc", "w", "--resume", "--no-sample", "--set", "training.n_iters=6"]);
    let data = |doc: &str| {
        let bytes = fs::read(at.join(format!("run/logs/{doc}/checkpoint_6.safetensors"))).unwrap();
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + n_header..].to_vec()
    };
    assert!(data("v2") == data("w"), "byte for byte");
}

#[test]
fn published_networks_are_scored_with_their_configuration() {
    let folder = scratch();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ncsnv2");
    for (name, network) in [
        ("ncsn_v2repo_32", "ncsn"),
        ("ncsn_v2repo_specnorm_32", "ncsn"),
        ("ncsndeeper_v2repo_32", "ncsn_deeper"),
        ("ncsnv2_28_gray", "ncsnv2"),
        ("ncsnv2_32", "ncsnv2"),
        ("ncsnv2_32_lrelu_variancenorm", "ncsnv2"),
        ("ncsnv2_32_rescaled_relu", "ncsnv2"),
        ("ncsnv2_32_swish_nonenorm", "ncsnv2"),
        ("ncsnv2_deeper_64", "ncsnv2_deeper"),
    ] {
        let meta: serde_json::Value =
            serde_json::from_slice(&fs::read(fixtures.join(name).join("meta.json")).unwrap()).unwrap();
        let mut config = meta["config"].clone();
        config["model"]["name"] = network.into();
        let is_grey = config["data"]["channels"] == 1;
        config["data"]["dataset"] = if is_grey { "MNIST" } else { "CIFAR10" }.into();
        // JSON is YAML.
        fs::write(folder.path().join("net.yml"), config.to_string()).unwrap();
        let [weights, input] = ["params", "forward"]
            .map(|file| fixtures.join(name).join(format!("{file}.safetensors")).display().to_string());
        let args = ["score", "--checkpoint", &weights, "--input", &input, "--output", "out.safetensors"];
        succeeds(folder.path(), &[&args[..], &["--config", "net.yml", "--precision", "highest"]].concat());
        let (out, expected) = (folder.path().join("out.safetensors"), tensor(Path::new(&input), "out"));
        let n = TensorFile::open(Path::new(&input)).unwrap().shape("x").unwrap()[0];
        for found in ["output", "score"].map(|tensor_name| tensor(&out, tensor_name)) {
            let image_len = found.len() / n;
            for (i, (found, expected)) in found.chunks(image_len).zip(expected.chunks(image_len)).enumerate() {
                let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                let difference = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
                assert!(difference <= 2e-5 * largest, "{name}, image {i}: {difference} of {largest}");
            }
        }
        if network.starts_with("ncsnv2") {
            let message = fails(folder.path(), &[&args[..5], &["--output", "other.safetensors"]].concat());
            assert!(message.contains("expected one with --config FILE: its score is divided by σ"), "{message}");
            // Other levels than the file's own.
            config["model"]["sigma_begin"] = 7.into();
            fs::write(folder.path().join("net.yml"), config.to_string()).unwrap();
            let message = fails(folder.path(), &[&args[..], &["--config", "net.yml"]].concat());
            assert!(message.contains("sigmas[0] is ") && message.contains("expected 6.99"), "{message}");
        }
    }
}

#[test]
fn noise_levels_are_printed_as_lines_of_a_configuration() {
    let folder = scratch();
    let args = ["noise-levels", "--dataset", "CIFAR10", "--sigma-begin", "50", "--overlap", "0.5669"];
    let lines = succeeds(folder.path(), &[&args[..], &["--budget", "1160"]].concat());
    for line in ["sigma_begin: 50.0", "sigma_end: 0.01", "num_classes: 232", "n_steps_each: 5", "step_lr: 6.18"] {
        assert!(lines.contains(&format!("  {line}")), "{line} in {lines}");
    }
    // A set of which every distance is known: white, black, and grey between them.
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    for (i, grey) in [0u8, 128, 255].into_iter().enumerate() {
        let image = ncsn::data::Pixels::new(vec![grey; 64], 8, 8, 1);
        ncsn::image::write_png(&images.join(format!("{i}.png")), &image).unwrap();
    }
    let args = ["noise-levels", "--dataset", "images", "--image-size", "8", "--channels", "1"];
    let lines = succeeds(folder.path(), &args);
    // 8 × 8 pixels, each of them 1 apart.
    assert!(lines.contains("  sigma_begin: 8.0\n"), "{lines}");
    let message = fails(folder.path(), &["noise-levels", "--dataset", "MNIST", "--channels", "3"]);
    assert!(message.contains("found --channels 3, expected 1 for MNIST"), "{message}");
    let message =
        fails(folder.path(), &["noise-levels", "--dataset", "MNIST", "--sigma-begin", "1", "--sigma-end", "2"]);
    assert!(message.contains("sigma_end is 2, expected less than sigma_begin, which is 1"), "{message}");
}

#[test]
fn the_files_own_keys_choose_snapshots_levels_in_the_log_checkpoint_and_samples() {
    let folder = scratch();
    let at = folder.path();
    let keys = "final_only: true, ckpt_id: 3, fid: true, num_samples4fid: 5, batch_size: 2, snapshot_images: 4, final_images: 4";
    let config = TINY
        .replace("snapshot_sampling: false", "snapshot_sampling: true, test_freq: 2, log_all_sigmas: true")
        .replace("final_images: 4", keys);
    fs::write(at.join("v2.yml"), config).unwrap();
    let said = succeeds(at, &["train", "--config", "v2.yml", "--doc", "v2"]);
    assert!(!said.contains("samples.gif"), "{said}");
    let samples = at.join("run/samples/v2");
    assert!(samples.join("step_3.png").is_file() && !samples.join("step_6/samples.gif").exists());
    let files = fs::read_dir(at.join("run/tensorboard/v2")).unwrap();
    let events: Vec<u8> = files.flat_map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    let has = |tag: &str| events.windows(tag.len()).any(|part| part == tag.as_bytes());
    assert!((0..4).any(|level| has(&format!("test_loss_sigma_{level}"))) && !has("test_loss_sigma_4"));

    let n_images = |folder: &str| fs::read_dir(at.join(folder).join("images")).unwrap().count();
    let said = String::from_utf8(ncsn(at, &["sample", "--doc", "v2", "-o", "fid"]).output().unwrap().stderr).unwrap();
    assert!(said.contains("the checkpoint of step 3, which the run's sampling.ckpt_id names"), "{said}");
    assert!(n_images("fid") == 5 && !at.join("fid/samples.gif").exists(), "{said}");
    // What is said on the command line comes first.
    let said = succeeds(at, &["sample", "--doc", "v2", "-o", "six", "--step", "6", "--n", "1", "--gif-stride", "1"]);
    assert!(n_images("six") == 1 && at.join("six/samples.gif").is_file(), "{said}");
    let manifest = |folder: &str| fs::read_to_string(at.join(folder).join("samples.json")).unwrap();
    let weights = |folder: &str| manifest(folder).lines().find(|line| line.contains("weights")).unwrap().to_string();
    assert_ne!(weights("six"), weights("fid"));
}

#[test]
fn a_run_of_ncsnv2s_program_draws_six_rows_of_six_at_a_checkpoint() {
    let folder = scratch();
    fs::write(folder.path().join("v2.yml"), TINY).unwrap();
    succeeds(folder.path(), &["train", "--config", "v2.yml", "--doc", "v2", "--no-sample"]);
    let config = fs::read_to_string(folder.path().join("run/logs/v2/config.yml")).unwrap();
    assert!(config.contains("snapshot_images: 36"), "{config}");
    assert!(!folder.path().join("run/samples").exists(), "snapshot_sampling is false");
}

#[test]
fn chains_that_begin_at_training_images_are_others_and_image_k_is_the_same_in_any_batch() {
    let folder = scratch();
    let at = folder.path();
    fs::write(at.join("v2.yml"), TINY.replace("denoise: true", "denoise: true, data_init: true")).unwrap();
    succeeds(at, &["train", "--config", "v2.yml", "--doc", "v2"]);
    fs::write(at.join("w.yml"), TINY).unwrap();
    succeeds(at, &["train", "--config", "w.yml", "--doc", "w", "--no-sample"]);
    let draw = |doc: &str, to: &str, batch: &str| {
        succeeds(at, &["sample", "--doc", doc, "-o", to, "--n", "3", "--raw", "--batch", batch]);
        tensor(&at.join(to).join("samples.safetensors"), "samples")
    };
    let [whole, one_by_one, uniform] = [draw("v2", "a", "3"), draw("v2", "b", "1"), draw("w", "c", "3")];
    assert_eq!(whole, one_by_one);
    assert_ne!(whole, uniform);
    let manifest = |folder: &str| fs::read_to_string(at.join(folder).join("samples.json")).unwrap();
    assert!(manifest("a").contains("DIGITS") && !manifest("c").contains("DIGITS"), "{}", manifest("a"));
}

#[test]
fn networks_with_batch_norms_or_spectral_norms_are_trained_resumed_and_sampled() {
    let folder = scratch();
    let at = folder.path();
    let checkpoint = |doc: &str, step: u64| at.join(format!("run/logs/{doc}/checkpoint_{step}.safetensors"));
    for (doc, options, buffers) in [
        ("batch", "name: ncsnv2, normalization: BatchNorm", &["normalizer.running_mean", "normalizer.running_var"][..]),
        (
            "levels",
            "name: ncsn, normalization: BatchNorm",
            &["normalizer.bn.running_mean", "normalizer.bn.running_var"],
        ),
        ("spectral", "name: ncsn, spec_norm: true", &["res1.0.conv1.weight_u", "refine4.crp.convs.1.weight_v"]),
        // It has nothing to divide.
        ("ignored", "name: ncsnv2, spec_norm: true", &[]),
    ] {
        let text = TINY.replace("model: {", &format!("model: {{{options}, "));
        fs::write(at.join("net.yml"), text.replace("batch_size: 3", "batch_size: 4, micro_batches: 2")).unwrap();
        let train = |doc: &str, more: &[&str]| {
            succeeds(at, &[&["train", "--config", "net.yml", "--doc", doc, "--no-sample"], more].concat());
        };
        train(doc, &[]);
        let resumed = format!("{doc}_resumed");
        train(&resumed, &["--set", "training.n_iters=3"]);
        train(&resumed, &["--set", "training.n_iters=6", "--resume"]);
        let [straight, resumed] = [doc, &resumed].map(|doc| TensorFile::open(&checkpoint(doc, 6)).unwrap());
        let names: Vec<&str> = straight.names().collect();
        for name in &names {
            assert_eq!(straight.get(name).unwrap(), resumed.get(name).unwrap(), "{doc}: {name}");
        }
        let earlier = TensorFile::open(&checkpoint(doc, 3)).unwrap();
        for name in buffers {
            let values = straight.get(name).unwrap().unwrap().values;
            assert_ne!(values, earlier.get(name).unwrap().unwrap().values, "{doc}: {name} moves");
            assert!(!names.contains(&format!("ema.{name}").as_str()), "{doc}: {name} is averaged");
        }
        assert_eq!(names.contains(&"res1.0.conv1.weight_orig"), doc == "spectral");
        succeeds(at, &["sample", "--doc", doc, "-o", doc, "--n", "2"]);
    }
}

#[test]
fn parts_of_a_batch_must_be_equal_and_as_many_as_a_power_of_two() {
    let folder = scratch();
    fs::write(folder.path().join("v2.yml"), TINY).unwrap();
    let refused = |parts: &str| {
        let set = format!("training.micro_batches={parts}");
        fails(folder.path(), &["train", "--config", "v2.yml", "--doc", "v2", "--set", &set])
    };
    let message = refused("2");
    assert!(message.contains("expected a number that divides training.batch_size, which is 3"), "{message}");
    let message = refused("3");
    assert!(message.contains("training.micro_batches") && message.contains("expected 1, 2, 4, 8"), "{message}");
    assert!(!folder.path().join("run").exists());
}

#[test]
fn damaged_spectral_norms_are_refused() {
    let folder = scratch();
    let at = folder.path();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ncsnv2/ncsn_v2repo_specnorm_32");
    let file = TensorFile::open(&fixture.join("params.safetensors")).unwrap();
    let damaged = |change: fn(&mut Vec<usize>, &mut Vec<f32>)| {
        let tensors = file.names().map(|name| {
            let HostTensor { mut shape, mut values } = file.get(name).unwrap().unwrap();
            if name == "res1.0.conv1.weight_u" {
                change(&mut shape, &mut values);
            }
            (name.to_string(), HostTensor { shape, values })
        });
        write_tensors(&at.join("damaged.safetensors"), &tensors.collect::<Vec<_>>(), &BTreeMap::new()).unwrap();
        fails(at, &["info", "--checkpoint", "damaged.safetensors"])
    };
    let message = damaged(|_, values| values.fill(0.0));
    assert!(message.contains("the spectral norm of res1.0.conv1.weight is 0"), "{message}");
    let message = damaged(|shape, values| {
        shape[0] = 3;
        values.truncate(3);
    });
    assert!(
        message.contains("res1.0.conv1.weight_orig, _u and _v have shapes [4, 4, 3, 3], [3] and [36]"),
        "{message}"
    );
}

#[test]
fn networks_with_batch_norms_are_scored() {
    let folder = scratch();
    let at = folder.path();
    let device = Device::flex();
    for (name, config) in
        [("ncsn", RefineNetConfig::ncsn(1, 3, 4)), ("ncsnv2", RefineNetConfig::ncsnv2(Form::Ncsn, 1, 3))]
    {
        let config = RefineNetConfig { norm: NormKind::BatchNorm, ..config };
        let net = RefineNet::new(&config, &mut Noise::new(1).stream("init", 0), &device).unwrap();
        let net = params::buffers_from_host(net, |name, shape| {
            let first = if name.ends_with("mean") { -0.1 } else { 0.5 };
            Ok((0..shape[0]).map(|i| first + i as f32 / 10.0).collect())
        });
        let net = net.unwrap();
        let mut tensors = params::to_host(&net).unwrap();
        tensors.extend(params::buffers_to_host(&net).unwrap());
        write_tensors(&at.join("net.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let text = TINY.replace("ngf: 4", &format!("ngf: 3, name: {name}, normalization: BatchNorm"));
        fs::write(at.join("net.yml"), text).unwrap();
        let x = HostTensor { shape: vec![1, 1, 8, 8], values: (0..64).map(|i| i as f32 / 64.0).collect() };
        let bytes: Vec<u8> = x.values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let inputs = [
            ("x", TensorView::new(Dtype::F32, x.shape, &bytes).unwrap()),
            ("labels", TensorView::new(Dtype::I32, vec![1], &[2, 0, 0, 0]).unwrap()),
        ];
        fs::write(at.join("x.safetensors"), safetensors::serialize(inputs, None).unwrap()).unwrap();
        let args = ["score", "--checkpoint", "net.safetensors", "--config", "net.yml", "--input", "x.safetensors"];
        succeeds(at, &[&args[..], &["--output", "out.safetensors", "--precision", "highest"]].concat());
        let x = Tensor::<4>::from_data(TensorData::new(x.values, [1, 1, 8, 8]), &device);
        let expected: Vec<f32> =
            net.forward(x.into(), &Condition::new(Tensor::from_data([2.0], &device))).value.try_into_vec_as().unwrap();
        let found = tensor(&at.join("out.safetensors"), "output");
        // The published NCSNv2 divides by σ.
        let sigma = if name == "ncsnv2" { NoiseLevels::geometric(5.0, 0.01, 4).unwrap().sigmas()[2] } else { 1.0 };
        let expected: Vec<f32> = expected.iter().map(|y| y / sigma as f32).collect();
        let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        assert!(largest > 0.0);
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{name}");
    }
}

#[test]
fn the_flags_of_ncsnv2s_program_mean_what_they_mean_there() {
    let folder = scratch();
    let at = folder.path();
    let config = TINY.replace("final_images: 4", "final_images: 4, final_only: true, fid: true, num_samples4fid: 3");
    let config =
        format!("{config}fast_fid: {{begin_ckpt: 100, end_ckpt: 200}}\ntest: {{begin_ckpt: 4, end_ckpt: 6}}\n");
    fs::write(at.join("v2.yml"), config).unwrap();
    let train = ["--config", "v2.yml", "--doc", "v2", "--exp", "exp"];
    succeeds(at, &train);
    assert!(at.join("exp/logs/v2/checkpoint_6.safetensors").is_file());
    // Nothing is replaced unless that is said.
    assert!(fails(at, &train).contains("v2"));
    succeeds(at, &[&train[..], &["--ni"]].concat());
    let sample = [&train[..], &["--sample", "-i", "images"]].concat();
    succeeds(at, &sample);
    let n_images = || fs::read_dir(at.join("images/images")).unwrap().count();
    assert!(n_images() == 3 && !at.join("images/samples.gif").exists());
    succeeds(at, &[&sample[..], &["--seed", "5", "--ni"]].concat());
    assert_eq!(n_images(), 3);
    // The range of the file, and not Inception's weights, is what is missing first.
    let message = fails(at, &[&train[..], &["--fast_fid"]].concat());
    assert!(
        message.contains("no checkpoint of v2 from step 100 to 200") && message.contains("its steps 3, 6"),
        "{message}"
    );
    assert!(!at.join("exp/evaluation").exists());
    // NCSN's `--test` draws samples, this program's is the test loss.
    let table = succeeds(at, &[&train[..], &["--test", "--verbose", "critical"]].concat());
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 3 && lines[2].starts_with("| 6 | ") && lines[0].contains("test_dsm_loss"), "{table}");
    assert!(at.join("exp/evaluation/v2/test_loss.md").is_file());
    succeeds(at, &[&train[..], &["--test", "--runner", "AnnealRunner", "-o", "as_ncsn"]].concat());
    assert_eq!(fs::read_dir(at.join("as_ncsn/images")).unwrap().count(), 25);
    assert!(fails(at, &[&train[..], &["--run", "other"]].concat()).contains("--run"));
}

/// The tensors of a file of ours: all of it but the header.
fn data(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + n_header..].to_vec()
}

#[test]
fn a_run_goes_to_the_published_program_and_back_as_if_it_had_never_left() {
    let folder = scratch();
    let at = folder.path();
    let logs = |doc: &str| at.join("run/logs").join(doc);
    // One of each optimiser, the last on a network of NCSN's, which this program has too; and buffers of every kind.
    for (optimizer, name, norms) in [
        ("Adam", "ncsnv2", ""),
        ("RMSProp", "ncsnv2", "normalization: BatchNorm, "),
        ("SGD", "ncsn", "normalization: BatchNorm, spec_norm: true, "),
    ] {
        let optim = format!("optim: {{optimizer: {optimizer}, lr: 1.0e-6}}\nmodel: {{name: {name}, {norms}");
        let config = TINY.replace("model: {", &optim);
        fs::write(at.join("v2.yml"), config).unwrap();
        let train = |doc: &str, n_iters: &str| {
            let n_iters = format!("training.n_iters={n_iters}");
            succeeds(at, &["train", "--config", "v2.yml", "--doc", doc, "--no-sample", "--set", &n_iters]);
        };
        let doc = |step: &str| format!("{optimizer}-{step}");
        let [straight, first, beside, ours] = ["straight", "first", "beside", "ours"].map(doc);
        train(&straight, "6");
        train(&first, "4");

        // To its program, which finds the configuration beside it.
        fs::create_dir_all(logs(&beside)).unwrap();
        fs::copy(at.join("v2.yml"), logs(&beside).join("config.yml")).unwrap();
        let pth = format!("run/logs/{beside}/checkpoint.pth");
        let said = succeeds(at, &["convert", &format!("run/logs/{first}"), &pth]);
        assert!(said.contains(", their moving average and the optimiser's state in run/logs/"), "{said}");
        let published = read_published(&at.join(&pth)).unwrap();
        assert_eq!(published.progress, Some(Progress { epoch: Some(0), step: 4 }));
        assert_eq!((&published.prefix[..], published.network[0].0 == "sigmas"), ("module.", name == "ncsnv2"));
        let average: Vec<&str> = published.averaged().unwrap().map(|(name, _)| &name[..]).collect();
        let is_buffer = |name: &&str| {
            ["sigmas", "running_mean", "running_var", "weight_u", "weight_v"].iter().any(|end| name.ends_with(end))
        };
        let all = published.network.iter().map(|(name, _)| &name[..]);
        let (buffers, trained): (Vec<&str>, Vec<&str>) = all.partition(is_buffer);
        assert_eq!(average, trained);
        assert_eq!(buffers.len() > 1, !norms.is_empty());

        let info = succeeds(at, &["info", "--doc", &beside]);
        assert!(info.contains("training     step 4, epoch 0"), "{info}");

        // Back, in its own folder and in a new one.
        let said = succeeds(at, &["convert", &pth, &format!("run/logs/{ours}")]);
        assert!(said.contains(&format!("a run at step 4 in run/logs/{ours}: ")), "{said}");
        for file in ["checkpoint_4.safetensors", "checkpoint_4.state.safetensors"] {
            assert!(data(&logs(&ours).join(file)) == data(&logs(&first).join(file)), "{optimizer}: {file}");
        }
        let again = format!("{optimizer}.pth");
        succeeds(at, &["convert", &format!("run/logs/{ours}/checkpoint_4.safetensors"), &again]);
        assert!(fs::read(at.join(&again)).unwrap() == fs::read(at.join(&pth)).unwrap(), "{optimizer}: every byte");
        for doc in [&beside, &ours] {
            let args = ["train", "--doc", doc, "--resume", "--no-sample", "--set", "training.n_iters=6"];
            let said = succeeds(at, &args);
            assert!(said.contains("going on at step 4"), "{said}");
            for file in ["checkpoint_6.safetensors", "checkpoint_6.state.safetensors"] {
                assert!(data(&logs(doc).join(file)) == data(&logs(&straight).join(file)), "{optimizer}, {doc}: {file}");
            }
        }
    }

    // What is not there, and what is.
    let message = fails(at, &["convert", "Adam.pth", "run/logs/none"]);
    assert!(message.contains("found weights without a configuration, expected one with --config FILE"), "{message}");
    assert!(!logs("none").exists());
    succeeds(at, &["convert", "RMSProp.pth", "run/logs/none", "--config", "run/logs/RMSProp-first/config.yml"]);
    let message =
        fails(at, &["convert", "RMSProp.pth", "run/logs/none", "--config", "run/logs/RMSProp-first/config.yml"]);
    assert!(message.contains("the run run/logs/none exists; `ncsn train --resume` goes on with it"), "{message}");
    let message = fails(at, &["convert", "run/logs/none", "run/logs/other"]);
    assert!(message.contains("is no checkpoint of a published program"), "{message}");
    let message = fails(at, &["convert", "Adam.pth", "run/logs/other", "--config", "run/logs/SGD-first/config.yml"]);
    assert!(message.contains("model.architecture is ncsn, which is not one of NCSNRunner's"), "{message}");
    assert!(!logs("other").exists());
    // Of the checkpoint of step 3 nothing is left but the weights, once there are two more.
    let args = ["train", "--doc", "Adam-straight", "--resume", "--no-sample", "--set", "training.n_iters=9"];
    succeeds(at, &args);
    let said = succeeds(at, &["convert", "run/logs/Adam-straight/checkpoint_3.safetensors", "weights.pth"]);
    assert!(said.contains("without the optimiser's state, which is not beside them"), "{said}");
    let published = read_published(&at.join("weights.pth")).unwrap();
    assert!(published.optimizer.is_none() && published.ema.is_some() && published.progress.unwrap().step == 3);
}

#[test]
fn the_average_alone_is_the_weights_of_a_file_that_opens_by_itself() {
    let folder = trained();
    let at = folder.path();
    let said = succeeds(at, &["convert", "run/logs/v2", "average.safetensors", "--ema"]);
    assert!(said.contains("tensors in average.safetensors"), "{said}");
    succeeds(at, &["convert", "run/logs/v2", "average.pth", "--ema"]);
    succeeds(at, &["convert", "run/logs/v2", "last.safetensors"]);
    let run = Saved::open(at.join("run/logs/v2")).unwrap();
    let device = Device::flex();
    let weights = |saved: &Saved, which| params::to_host(&saved.model(which, &device).unwrap().net).unwrap();
    let [average, last] = [Which::Averaged, Which::Last].map(|which| weights(&run, which));
    assert_ne!(average, last);
    for (name, expected) in [("average", &average), ("last", &last)] {
        let path = at.join(format!("{name}.safetensors"));
        let saved = Saved::open(&path).unwrap();
        assert_eq!((saved.config(), weights(&saved, Which::Averaged)), (run.config(), expected.clone()), "{name}");
        // Nothing but the parameters, under the published names.
        let mut names: Vec<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert!(TensorFile::open(&path).unwrap().names().eq(names), "{name}");
    }
    succeeds(at, &["sample", "--checkpoint", "average.safetensors", "-o", "a", "--n", "2"]);
    succeeds(at, &["sample", "--doc", "v2", "-o", "b", "--n", "2"]);
    succeeds(at, &["sample", "--checkpoint", "average.pth", "--config", "v2.yml", "-o", "c", "--n", "2"]);
    let image = |folder: &str| fs::read(at.join(folder).join("images/000001.png")).unwrap();
    assert!(image("a") == image("b") && image("c") == image("b"));
    let published = read_published(&at.join("average.pth")).unwrap();
    assert!(published.network[0].0 == "sigmas" && published.progress.is_none() && published.optimizer.is_none());
    assert_eq!(published.network[1..], average);

    // There is no average of an average, nor of a run that keeps none.
    fs::write(at.join("plain.yml"), TINY.replace("ema: true", "ema: false")).unwrap();
    succeeds(at, &["train", "--config", "plain.yml", "--doc", "plain", "--no-sample"]);
    for input in ["run/logs/plain", "average.safetensors", "average.pth"] {
        let message = fails(at, &["convert", input, "out.safetensors", "--ema"]);
        assert!(message.contains("found no moving average of the weights"), "{message}");
    }
    // Without an average the published list ends with the step.
    succeeds(at, &["convert", "run/logs/plain", "plain.pth"]);
    let published = read_published(&at.join("plain.pth")).unwrap();
    assert!(published.ema.is_none() && published.optimizer.is_some() && published.progress.unwrap().step == 6);
}

/// The rows of a table that was printed as JSON: step, and the first number.
fn rows(json: &str) -> Vec<(u64, f64)> {
    let row = |line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        (row["step"].as_u64().unwrap(), row["numbers"][0]["value"].as_f64().unwrap())
    };
    json.lines().map(row).collect()
}

#[test]
fn a_sweep_follows_the_keys_of_fast_fid_unless_the_command_line_says_otherwise() {
    let folder = scratch();
    let at = folder.path();
    write_weights(&at.join("weights.safetensors"), 0.03);
    let keys =
        "begin_ckpt: 3, end_ckpt: 5, num_samples: 8, batch_size: 5, step_lr: 2.0e-5, n_steps_each: 1, verbose: true";
    fs::write(at.join("v2.yml"), format!("{TINY}fast_fid: {{{keys}}}\n")).unwrap();
    succeeds(at, &["train", "--config", "v2.yml", "--doc", "v2", "--no-sample"]);
    let is = ["--weights", "weights.safetensors", "--metrics", "is", "--splits", "1", "--json"];
    let args = [&["evaluate", "--doc", "v2", "--sweep"][..], &is].concat();
    let evaluation = at.join("run/evaluation/v2");

    // What is missing is found before anything is drawn.
    let against = |reference| {
        let other =
            ["--weights", "weights.safetensors", "--metrics", "kid", "--reference", reference, "--verbose", "critical"];
        fails(at, &[&["evaluate", "--doc", "v2", "--sweep"], &other[..]].concat())
    };
    let message = against("missing.npz");
    assert!(message.contains("missing.npz"), "{message}");
    assert!(!evaluation.join("step_3_n8_seed1234_1x0.00002").exists());
    for (ends, expected) in [
        (
            ["--from", "4"],
            "no checkpoint of v2 from step 4 to 5, expected a range (--from, --to) with some of its steps 3, 6",
        ),
        (["--from", "7"], "found checkpoints from step 7 to 5, expected a range that is not empty"),
        (["--to", "2"], "found checkpoints from step 3 to 2"),
        (["--step-lr", "-1"], "found --step-lr -1, expected a positive number"),
    ] {
        let option = ends.join("=");
        let message = fails(at, &[&args[..], &[&option]].concat());
        assert!(message.contains(expected), "{message}");
    }

    let output = ncsn(at, &args).output().unwrap();
    let [said, shown] = [output.stderr, output.stdout].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{said}");
    // Two batches of four levels.
    assert_eq!(said.matches(" of 4: σ ").count(), 8, "{said}");
    assert!(said.contains("langevin 1x0.00002 denoised  seed 1234  checkpoint 3 ema"), "{said}");
    assert_eq!(rows(&shown).len(), 1, "{shown}");
    let samples = evaluation.join("step_3_n8_seed1234_1x0.00002");
    assert_eq!(fs::read_dir(samples.join("images")).unwrap().count(), 8);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(samples.join("samples.json")).unwrap()).unwrap();
    assert_eq!((manifest["n_steps_each"].as_u64(), manifest["step_lr"].as_f64()), (Some(1), Some(2e-5)));

    // Other samples lie beside these; those of the run's own steps have the name that they have without a sweep.
    let other = ["--to", "6", "--n-steps-each", "2", "--step-lr", "1e-5", "--n", "6", "--draw-batch", "2"];
    let shown = succeeds(at, &[&args[..], &other].concat());
    assert_eq!(rows(&shown).iter().map(|row| row.0).collect::<Vec<_>>(), [3, 6]);
    assert!(evaluation.join("step_6_n6_seed1234").is_dir() && samples.is_dir());
    let single = [&["evaluate", "--doc", "v2", "--n", "6"][..], &is].concat();
    let single: serde_json::Value = serde_json::from_str(&succeeds(at, &single)).unwrap();
    assert_eq!((single["value"].as_f64().unwrap(), single["n_steps_each"].as_u64()), (rows(&shown)[1].1, Some(2)));
    // Statistics that are of no use are refused before anything is drawn, too.
    fs::remove_dir_all(&evaluation).unwrap();
    let weights = ["--weights", "weights.safetensors"];
    succeeds(at, &[&["evaluate", "stats", "digits", "--size", "8", "--n", "2", "-o", "s.npz"][..], &weights].concat());
    let message = against("s.npz");
    assert!(message.contains("s.npz: holds mean and covariance only, which kid"), "{message}");
    let left: Vec<_> = fs::read_dir(&evaluation).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("step_")), "{left:?}");
}

#[test]
fn the_scores_of_the_last_checkpoints_are_averaged_where_there_is_no_average_of_the_weights() {
    let folder = trained();
    let at = folder.path();
    write_weights(&at.join("weights.safetensors"), 0.03);
    let plain = TINY.replace("ema: true", "ema: false").replace("n_iters: 6", "n_iters: 9");
    let keys = "fast_fid: {num_samples: 4, ensemble: true}\n";
    fs::write(at.join("plain.yml"), format!("{plain}{keys}")).unwrap();
    succeeds(at, &["train", "--config", "plain.yml", "--doc", "plain", "--no-sample"]);
    let draw = |to: &str, more: &[&str]| {
        let args = ["sample", "--doc", "plain", "-o", to, "--n", "2", "--raw", "--final-only"];
        let said = succeeds(at, &[&args[..], more].concat());
        (tensor(&at.join(to).join("samples.safetensors"), "samples"), said)
    };
    let (alone, _) = draw("alone", &[]);
    assert_eq!(draw("one", &["--ensemble", "1"]).0, alone);
    let (three, said) = draw("three", &["--ensemble", "5"]);
    assert_ne!(three, alone);
    assert!(said.contains("checkpoint_9.safetensors, run/logs/plain/checkpoint_6.safetensors, "), "{said}");
    // At an earlier checkpoint there are fewer before it.
    let (two, _) = draw("two", &["--ensemble", "3", "--step", "6"]);
    assert_eq!(draw("two_of_two", &["--ensemble", "2", "--step", "6"]).0, two);
    assert_ne!(draw("six", &["--step", "6"]).0, two);

    // As the library draws.
    let device = Device::flex();
    let open = |step: u64| Saved::open(at.join(format!("run/logs/plain/checkpoint_{step}.safetensors"))).unwrap();
    let members = [open(6), open(3)];
    let score = Saved::ensemble(&members, &device).unwrap();
    let images = Images { numbers: 0..2, shape: [1, 8, 8], range: ncsn::data::Range::Unit };
    let (process, noise) = (score.members()[0].process.clone(), Noise::new(1234));
    let (sampler, start) = (members[0].config().sampler(), images.uniform(noise, &device));
    let x = image_trajectory(&sampler, &score, process, start, &images, noise).finish().unwrap();
    assert_eq!(x.try_into_vec_as::<f32>().unwrap(), two);

    let sweep =
        ["evaluate", "--sweep", "--weights", "weights.safetensors", "--metrics", "is", "--splits", "1", "--json"];
    let shown = succeeds(at, &[&sweep[..], &["--doc", "plain", "--from", "6"]].concat());
    assert_eq!(rows(&shown).len(), 2, "{shown}");
    let manifest = at.join("run/evaluation/plain/step_9_n4_seed1234_ensemble5/samples.json");
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    assert_eq!(manifest["weights"].as_str().unwrap().split('+').count(), 3);
    // Alone they are others.
    succeeds(at, &[&sweep[..], &["--doc", "plain", "--from", "9", "--ensemble", "1"]].concat());
    assert!(at.join("run/evaluation/plain/step_9_n4_seed1234").is_dir());

    let expected =
        "found an ensemble of the checkpoints of a run with an EMA of its weights (rate 0.9), expected a run without";
    for args in [
        &["sample", "--doc", "v2", "-o", "no", "--ensemble", "2"][..],
        &[&sweep[..], &["--doc", "v2", "--ensemble", "2"]].concat(),
    ] {
        let message = fails(at, args);
        assert!(message.contains(expected), "{message}");
    }
    assert!(!at.join("no").exists() && !at.join("run/evaluation/v2").exists());
}

#[test]
fn the_test_loss_of_each_checkpoint_is_the_mean_over_the_images_whatever_the_batch() {
    let folder = scratch();
    let at = folder.path();
    fs::write(at.join("v2.yml"), format!("{TINY}test: {{batch_size: 4, begin_ckpt: 2}}\n")).unwrap();
    succeeds(at, &["train", "--config", "v2.yml", "--doc", "v2", "--no-sample"]);
    let args = ["evaluate", "--doc", "v2", "--test-loss", "--n", "22", "--json"];
    let lines = at.join("run/evaluation/v2/test_loss.jsonl");
    let first = rows(&succeeds(at, &args));
    assert_eq!(first.iter().map(|row| row.0).collect::<Vec<_>>(), [3, 6]);
    let written = fs::metadata(&lines).unwrap().modified().unwrap();
    assert_eq!(rows(&succeeds(at, &args)), first);
    assert_eq!(fs::metadata(&lines).unwrap().modified().unwrap(), written, "what is known is not found again");
    for name in ["test_loss.md", "test_loss.svg", "test_loss.png"] {
        assert!(at.join("run/evaluation/v2").join(name).is_file(), "{name}");
    }
    for batch in ["1", "7", "22"] {
        fs::remove_file(&lines).unwrap();
        assert_eq!(rows(&succeeds(at, &[&args[..], &["--batch", batch]].concat())), first, "--batch {batch}");
    }
    // The averaged weights', by the library.
    let device = Device::flex();
    let saved = Saved::open(at.join("run/logs/v2/checkpoint_6.safetensors")).unwrap();
    let config = saved.config();
    let test =
        TestLoss { objective: config.test_objective().0, transform: config.transform(), noise: Noise::new(1234) };
    let digits = Digits::new(8, 1, Split::Test).unwrap();
    let mean = |which| {
        let losses = test.of(&saved.model(which, &device).unwrap(), &digits, 0..22).unwrap();
        losses.iter().sum::<f64>() / 22.0
    };
    assert_eq!(mean(Which::Averaged), first[1].1);
    assert_ne!(mean(Which::Last), first[1].1);
    let other = rows(&succeeds(at, &[&args[..], &["--seed", "5", "--from", "6"]].concat()));
    assert!(other.len() == 1 && other[0].1 != first[1].1);

    // A run that the published program left has the same numbers.
    let logs = at.join("run/logs/published");
    fs::create_dir_all(&logs).unwrap();
    fs::copy(at.join("run/logs/v2/config.yml"), logs.join("config.yml")).unwrap();
    for step in [3, 6] {
        let [from, to] =
            [format!("run/logs/v2/checkpoint_{step}.safetensors"), format!("run/logs/published/checkpoint_{step}.pth")];
        succeeds(at, &["convert", &from, &to]);
    }
    let published = ["evaluate", "--doc", "published", "--test-loss", "--n", "22", "--json"];
    assert_eq!(rows(&succeeds(at, &published)), first);
    succeeds(at, &["sample", "--doc", "published", "--step", "3", "-o", "samples", "--n", "1"]);
    fs::copy(logs.join("checkpoint_6.pth"), logs.join("checkpoint.pth")).unwrap();
    let config = fs::read_to_string(logs.join("config.yml")).unwrap();
    fs::write(logs.join("config.yml"), config.replace("ckpt_id: null", "ckpt_id: 3")).unwrap();
    succeeds(at, &["sample", "--doc", "published", "-o", "by_key", "--n", "1"]);
    let image = |folder: &str| fs::read(at.join(folder).join("images/000000.png")).unwrap();
    assert!(image("by_key") == image("samples"));

    let message = fails(at, &["evaluate", "--doc", "v2", "--test-loss", "--metrics", "fid"]);
    assert!(message.contains("cannot be used with"), "{message}");
    let message = fails(at, &["evaluate", "--doc", "v2", "--test-loss", "--sweep"]);
    assert!(message.contains("cannot be used with"), "{message}");
    let message = fails(at, &["evaluate", "--doc", "v2", "--from", "3"]);
    assert!(message.contains("required"), "{message}");
}

#[test]
fn levels_are_reported_if_debugging_lines_are_asked_for_and_samples_stay_the_same() {
    let folder = trained();
    let at = folder.path();
    let draw = |to: &str, verbosity: &str| {
        let args = ["sample", "--doc", "v2", "--n", "3", "--batch", "2", "--raw", "-o", to, "--verbose", verbosity];
        (succeeds(at, &args), tensor(&at.join(to).join("samples.safetensors"), "samples"))
    };
    let ((quiet, expected), (said, found)) = (draw("a", "info"), draw("b", "debug"));
    assert_eq!(found, expected);
    assert!(!quiet.contains("level "), "{quiet}");
    // Two batches of four levels; the step that removes noise is none.
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("level ")).collect();
    assert_eq!(lines.len(), 8, "{said}");
    assert!(lines[0].starts_with("level 1 of 4: σ 5.00000, α 2.5000e0, mean ‖s‖ "), "{}", lines[0]);
    assert!(lines[7].starts_with("level 4 of 4: σ 0.01000, α 1.0000e-5, mean ‖s‖ "), "{}", lines[7]);
    assert!(lines.iter().all(|line| line.contains(", snr ") && !line.contains("NaN")), "{said}");
}

#[test]
fn the_nearest_neighbours_of_ten_samples_are_nine_each() {
    let folder = trained();
    let at = folder.path();
    write_weights(&at.join("weights.safetensors"), 0.03);
    succeeds(at, &["sample", "--doc", "v2", "-o", "reference", "--n", "11", "--final-only", "--seed", "5"]);
    let args = ["evaluate", "--doc", "v2", "--n", "12", "--weights", "weights.safetensors", "--reference", "reference"];
    succeeds(at, &[&args[..], &["--metrics", "neighbours", "-o", "near"]].concat());
    let expected = grid(&[0; 3 * 64 * 100], [3, 8, 8], 10).enlarged(2);
    for name in ["pixels.png", "features.png"] {
        let shape = [expected.channels, expected.height, expected.width];
        assert!(read_png(&at.join("near").join(name), shape).is_ok(), "{name} is ten rows of ten");
    }
}
