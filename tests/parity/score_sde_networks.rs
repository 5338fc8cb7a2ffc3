//! Score-SDE's networks, and what is made with them: losses, steps of training, samples.

use std::fmt::Write as _;

use burn::tensor::Device;
use ncsn::config::Config;
use ncsn::net::params;
use ncsn::net::{Network, NetworkConfig};
use ncsn::noise::Noise;
use ncsn::score::{Model, Score};

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};

/// The networks, each with the accuracy that the fixtures' README asks for.
const NETWORKS: [(&str, f64); 7] = [
    ("ncsnpp_ve_fourier", 2e-4),
    ("ncsnpp_ve_fourier_residual", 5e-5),
    ("ncsnpp_ve_positional", 2e-5),
    ("ncsnpp_ve_inputskip_cat", 1e-4),
    ("ddpmpp_vp", 2e-5),
    ("ncsnpp_subvp", 2e-5),
    ("ddpm_vp", 1e-4),
];

pub fn meta(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fixture::read(&format!("score_sde/{name}/meta.json"))).unwrap()
}

/// The configuration of a fixture, read as a file with its keys.
pub fn config(name: &str) -> Config {
    let meta = meta(name);
    let mut yaml = String::new();
    for (section, keys) in meta["config"].as_object().unwrap() {
        writeln!(yaml, "{section}:").unwrap();
        for (key, value) in keys.as_object().unwrap() {
            writeln!(yaml, "  {key}: {value}").unwrap();
        }
    }
    Config::parse(&yaml, name, &[], None).unwrap().images(name).unwrap()
}

/// The parameters of a fixture, or those that a formula fills.
fn parameters(name: &str) -> Fixture {
    match meta(name)["parameters"] == "params.safetensors" {
        true => open(&format!("score_sde/{name}/params.safetensors")),
        false => formula(name),
    }
}

/// Those of the formula, by the names that the fixture lists.
fn formula(name: &str) -> Fixture {
    let list: std::collections::BTreeMap<String, (String, Vec<usize>)> =
        serde_json::from_value(meta(name)["params"].clone()).unwrap();
    let tensors = list.into_iter().enumerate().map(|(j, (name, (_, shape)))| {
        let values = fixture::plain(&name, &shape, 3, j).into_iter().map(f64::from).collect();
        (name, (shape, values))
    });
    Fixture { tensors: tensors.collect() }
}

/// A fixture's network with its parameters, as its shapes and its configuration stand for it.
fn network(name: &str, device: &Device) -> Network {
    let (expected, parameters) = (config(name).network(), parameters(name));
    let shape = |name: &str| parameters.tensors.get(name).map(|(shape, _)| shape.clone());
    let found = NetworkConfig::from_shapes(shape, expected.untold()).unwrap();
    assert_eq!(found, expected);
    let net = Network::new(&found, &mut Noise::new(0).stream("init", 0), device).unwrap();
    if let Some(order) = meta(name).get("parameter_order") {
        let order: Vec<String> = serde_json::from_value(order.clone()).unwrap();
        let mut names = params::names(&net);
        // Frozen frequencies are numbered there as parameters.
        for buffer in params::buffers(&net) {
            let at = order.iter().position(|name| *name == buffer).unwrap();
            names.insert(at, buffer);
        }
        assert_eq!(names, order);
    }
    parameters.load_buffers(parameters.load(net, ""), "")
}

pub fn model(name: &str, device: &Device) -> Model<Network> {
    config(name).model(network(name, device)).unwrap()
}

fn outputs_agree(name: &str, tolerance: f64) {
    let device = fixture::device();
    let forward = open(&format!("score_sde/{name}/forward.safetensors"));
    if meta(name)["parameters"] != "params.safetensors" {
        let parameters = parameters(name);
        for key in forward.tensors.keys().filter_map(|key| key.strip_prefix("first8.")).filter(|key| *key != "sigmas") {
            let first8 = forward.f32(&format!("first8.{key}"));
            assert_eq!(parameters.f32(key)[..first8.len()], first8, "{key}");
        }
    }
    let model = model(name, &device);
    let times: Vec<f64> = forward.f64("t").to_vec();
    let process = &*model.process;
    let (continuous, labels) = (config(name).training.continuous, forward.f64("labels"));
    if continuous {
        // Times are f32 there.
        let found: Vec<f32> = times.iter().map(|&t| model.prediction.label(process, t) as f32).collect();
        assert_close(&format!("{name} labels"), &found, labels, 1e-6);
    }
    let x = || forward.tensor::<4>("x", &device);
    let score = values(model.score(x(), &times));
    let output = values(model.net.forward(x().into(), &forward.condition("labels", &device)).value);
    let image_len = score.len() / times.len();
    let of_image = |i: usize| i * image_len..(i + 1) * image_len;
    for (i, &t) in times.iter().enumerate() {
        let what = format!("{name}, image {i}");
        assert_close(&what, &score[of_image(i)], &forward.f64("score_at_t")[of_image(i)], tolerance);
        // What the published network returns has been divided by σ: of discrete times the label is not that of `t`.
        let sigma =
            if continuous { process.marginal(t).std } else { process.marginal(process.time(labels[i] as usize)).std };
        let scale = if config(name).model.u_net.scale_by_sigma { sigma.recip() } else { 1.0 };
        let output: Vec<f32> = output[of_image(i)].iter().map(|&x| (f64::from(x) * scale) as f32).collect();
        assert_close(&format!("{what}, output"), &output, &forward.f64("out")[of_image(i)], tolerance);
    }
}

pub fn networks() -> Vec<Case> {
    let case = |(name, tolerance): (&'static str, f64)| {
        let forward = format!("score_sde/{name}/forward.safetensors");
        Case::new(format!("score_sde network {name}"), &[forward], move || outputs_agree(name, tolerance))
    };
    NETWORKS.into_iter().map(case).collect()
}

pub fn cases() -> Vec<Case> {
    networks()
}
