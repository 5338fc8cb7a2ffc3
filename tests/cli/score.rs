//! `ncsn score` and `ncsn info`.

use std::collections::BTreeMap;

use burn::tensor::Device;
use ncsn::checkpoint::{TensorFile, write_tensors};
use ncsn::net::params::{self, HostTensor};
use ncsn::net::{RefineNet, RefineNetConfig};
use ncsn::noise::Noise;

use crate::{TRAIN, fails, ncsn, scratch, succeeds};

/// A safetensors file with f32 `x` and i64 `labels`.
fn input(x_shape: [usize; 4], labels: &[i64]) -> Vec<u8> {
    let n: usize = x_shape.iter().product();
    let x: Vec<u8> = (0..n).flat_map(|i| ((i % 7) as f32 / 7.0).to_le_bytes()).collect();
    let y: Vec<u8> = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    use safetensors::{Dtype, tensor::TensorView};
    let tensors = BTreeMap::from([
        ("x", TensorView::new(Dtype::F32, x_shape.to_vec(), &x).unwrap()),
        ("labels", TensorView::new(Dtype::I64, vec![labels.len()], &y).unwrap()),
    ]);
    safetensors::serialize(tensors, None).unwrap()
}

#[test]
fn a_network_is_evaluated_on_given_tensors() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let checkpoint = "run/logs/d/checkpoint_24.safetensors";
    let score = |input_file: &str, extra: &[&str]| {
        let mut args = vec!["score", "--checkpoint", checkpoint, "--input", input_file, "--output", "out.safetensors"];
        args.extend(extra);
        succeeds(folder.path(), &args);
        TensorFile::open(&folder.path().join("out.safetensors")).unwrap().get("score").unwrap().unwrap()
    };
    std::fs::write(folder.path().join("in.safetensors"), input([2, 1, 8, 8], &[0, 2])).unwrap();
    let averaged = score("in.safetensors", &[]);
    assert_eq!(averaged.shape, [2, 1, 8, 8]);
    assert!(averaged.values.iter().all(|v| v.is_finite()) && averaged.values.iter().any(|&v| v != 0.0));
    assert_ne!(averaged, score("in.safetensors", &["--no-ema"]), "the average differs from the last weights");

    for (bytes, needle) in [
        (input([2, 1, 8, 8], &[0, 3]), "found 3 in labels, expected a whole number from 0 to 2"),
        (input([2, 1, 8, 8], &[0]), "expected [2]"),
        (input([2, 3, 8, 8], &[0, 0]), "expected 1 channels"),
        (input([2, 1, 7, 8], &[0, 0]), "each side a multiple of 2"),
    ] {
        std::fs::write(folder.path().join("bad.safetensors"), bytes).unwrap();
        let args = ["score", "--checkpoint", checkpoint, "--input", "bad.safetensors", "--output", "o.safetensors"];
        let message = fails(folder.path(), &args);
        assert!(message.contains(needle), "{message}");
    }
}

#[test]
fn a_score_that_is_not_finite_is_said_or_refused() {
    let folder = scratch();
    let at = folder.path();
    let net = RefineNetConfig::ncsn(1, 2, 3);
    let net = RefineNet::new(&net, &mut Noise::new(1).stream("init", 0), &Device::flex()).unwrap();
    let mut tensors = params::to_host(&net).unwrap();
    write_tensors(&at.join("good.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    tensors.iter_mut().flat_map(|(_, tensor)| &mut tensor.values).for_each(|value| *value *= 1e30);
    write_tensors(&at.join("huge.safetensors"), &tensors, &BTreeMap::new()).unwrap();

    let x = |values: Vec<f32>| HostTensor { shape: vec![3, 1, 8, 8], values };
    let labels = HostTensor { shape: vec![3], values: vec![0.0, 1.0, 2.0] };
    let write = |name: &str, x: HostTensor| {
        use safetensors::{Dtype, tensor::TensorView};
        let bytes: Vec<u8> = x.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let labels: Vec<u8> = labels.values.iter().flat_map(|&label| (label as i64).to_le_bytes()).collect();
        let tensors = BTreeMap::from([
            ("x", TensorView::new(Dtype::F32, x.shape, &bytes).unwrap()),
            ("labels", TensorView::new(Dtype::I64, vec![3], &labels).unwrap()),
        ]);
        std::fs::write(at.join(name), safetensors::serialize(tensors, None).unwrap()).unwrap();
    };
    let mut values = vec![0.5; 3 * 64];
    write("finite.safetensors", x(values.clone()));
    values[64 + 7] = f32::NAN;
    values[2 * 64] = f32::INFINITY;
    write("nan.safetensors", x(values));

    let args = |weights, input, output| ["score", "--checkpoint", weights, "--input", input, "--output", output];
    let output = ncsn(at, &args("good.safetensors", "nan.safetensors", "out.safetensors")).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("nan.safetensors: x is not finite in image 1, and so is its score: 2 of 3 images"), "{said}");
    let score = TensorFile::open(&at.join("out.safetensors")).unwrap().get("score").unwrap().unwrap().values;
    assert!(score[..64].iter().all(|value| value.is_finite()) && score[64..128].iter().any(|value| value.is_nan()));

    let message = fails(at, &args("huge.safetensors", "finite.safetensors", "none.safetensors"));
    assert!(message.contains("huge.safetensors: the score of image 0 is not finite, though the image is"), "{message}");
    assert!(!at.join("none.safetensors").exists());
}

#[test]
fn info_tells_what_a_run_and_a_checkpoint_hold() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let info = succeeds(folder.path(), &["info", "--doc", "d"]);
    for needle in ["step 24 of 24", "ngf 2", "3 noise levels", "moving average", "DIGITS", "seed 1234", "loss"] {
        assert!(info.contains(needle), "{needle} in {info}");
    }
    let of_file = succeeds(folder.path(), &["info", "--checkpoint", "run/logs/d/checkpoint_8.safetensors"]);
    assert!(of_file.contains("step 8 of 24"), "{of_file}");
}

#[test]
fn weights_alone_can_be_described() {
    let folder = scratch();
    let info = |tensors: &[(String, HostTensor)]| {
        write_tensors(&folder.path().join("w.safetensors"), tensors, &BTreeMap::new()).unwrap();
        ["info", "--checkpoint", "w.safetensors"]
    };
    let net = RefineNetConfig::ncsn(1, 2, 3);
    let mut tensors =
        params::to_host(&RefineNet::new(&net, &mut Noise::new(1).stream("init", 0), &Device::flex()).unwrap()).unwrap();
    let described = succeeds(folder.path(), &info(&tensors));
    for needle in ["Ncsn: 1 channels, ngf 2, 3 noise levels", "the file holds weights only"] {
        assert!(described.contains(needle), "{needle} in {described}");
    }

    // One tensor missing anywhere, and a width that the file's other tensors do not bear out.
    let last = tensors.pop().unwrap();
    let message = fails(folder.path(), &info(&tensors));
    assert!(message.contains(&format!("found no tensor {}", last.0)), "{message}");
    tensors.push(last);
    let begin = tensors.iter_mut().find(|(name, _)| name == "begin_conv.weight").unwrap();
    begin.1 = HostTensor { shape: vec![4096, 1, 1, 1], values: vec![0.0; 4096] };
    let message = fails(folder.path(), &info(&tensors));
    assert!(message.contains("res1.0.conv1.weight has shape [2, 2, 3, 3], expected [4096, 4096, 3, 3]"), "{message}");
}
