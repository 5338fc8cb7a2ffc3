//! Whole networks: outputs, the annealed denoising loss, and its gradient for every parameter.

use burn::tensor::Device;
use ncsn::device::Precision;
use ncsn::loss::{Weight, denoising};
use ncsn::net::{Architecture, InputRange, Network, NetworkConfig, params};
use ncsn::noise::Noise;
use ncsn::score::{Model, Score};
use ncsn::sde::NoiseLevels;

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, formula, open, values};

/// A tenth of the bars of 1e-4 and 1e-3; the reference's own f32 error is 1e-6.
fn tolerance() -> f64 {
    if Precision::current() == Precision::Highest { 1e-5 } else { 1e-4 }
}

pub fn network(params: &Fixture, input: InputRange, device: &Device) -> Network {
    let config =
        NetworkConfig::from_shapes(|name| params.tensors.get(name).map(|(shape, _)| shape.clone()), input).unwrap();
    let net = Network::new(&config, &mut Noise::new(0).stream("init", 0), device).unwrap();
    assert_eq!(params::to_host(&net).unwrap().len(), params.tensors.len(), "as many parameters as published");
    params.load(net, "")
}

/// The same with the levels of all fixtures.
pub fn model(params: &Fixture, input: InputRange, device: &Device) -> Model<Network> {
    Model::new(network(params, input, device), NoiseLevels::geometric(1.0, 0.01, 10).unwrap())
}

fn outputs_agree(name: &str) {
    let device = fixture::device();
    let architecture = match name {
        "cond_refinenet_deeper_32" => Architecture::Deeper,
        "resscore_32" => Architecture::ResScore,
        "resnetscore" => Architecture::ResNetScore,
        "unetscore_16" | "unetscore_32" => Architecture::UNetScore,
        "unetresscore_32" | "unetresscore_other_size" => Architecture::UNetResScore,
        "score_28_formula" => Architecture::Score,
        "smallscore_10" => Architecture::SmallScore,
        "mlpscore_10_formula" => Architecture::MlpScore,
        _ if name.starts_with("refinenet_baseline") => Architecture::Baseline,
        _ => Architecture::Ncsn,
    };
    let forward = open(&format!("ncsn/{name}/forward.safetensors"));
    let params = match name.ends_with("_formula") {
        true => formula(&format!("ncsn/{name}/meta.json")),
        false => open(&format!("ncsn/{name}/params.safetensors")),
    };
    // The formula's first values are recorded too.
    for (key, (_, first)) in forward.tensors.iter().filter(|(key, _)| key.starts_with("first8.")) {
        assert_eq!(params.f64(&key["first8.".len()..])[..first.len()], first[..], "{key}");
    }
    let mut n_compared = 0;
    for (x, labels, out, input) in [
        ("x", "labels", "out", InputRange::Unit),
        ("x10", "labels10", "out10", InputRange::Unit),
        ("x_other_size", "labels", "out_other_size", InputRange::Unit),
        ("x_logit", "labels", "out_logit_transform", InputRange::Logit),
    ] {
        if !forward.has(x) {
            continue;
        }
        let model = model(&params, input, &device);
        let shape = |name: &str| params.tensors.get(name).map(|(shape, _)| shape.clone());
        assert_eq!(NetworkConfig::from_shapes(shape, input).unwrap().architecture(), architecture);
        let x = forward.tensor(x, &device);
        let t = if forward.has(labels) { forward.times(labels, &*model.process) } else { vec![1.0; x.dims()[0]] };
        let found = model.score(x, &t);
        assert_close(&format!("{name} {out}"), &values(found), forward.f64(out), tolerance());
        n_compared += 1;
    }
    let n_expected = forward.tensors.keys().filter(|key| key.starts_with("out")).count();
    assert_eq!(n_compared, n_expected, "every output of the fixture");
}

/// All questions about whole networks.
pub fn cases() -> Vec<Case> {
    let dir =
        |name: &str, files: &[&str]| files.iter().map(|f| format!("ncsn/{name}/{f}.safetensors")).collect::<Vec<_>>();
    let mut cases = Vec::new();
    for (name, claim) in [
        ("cond_refinenet_ch1_28", "the grey 28-pixel network gives the published output"),
        ("cond_refinenet_ch3_32", "the colour 32-pixel network gives the published output"),
        ("cond_refinenet_deeper_32", "the deeper network gives the published output"),
        ("refinenet_baseline_ch1_28", "the grey baseline gives the published output"),
        ("refinenet_baseline_ch3_32", "the colour baseline gives the published output"),
        ("resscore_32", "ResScore gives the published output"),
    ] {
        cases.push(Case::new(claim, &dir(name, &["params", "forward"]), move || outputs_agree(name)));
    }
    for name in
        ["resnetscore", "unetscore_16", "unetscore_32", "unetresscore_32", "unetresscore_other_size", "smallscore_10"]
    {
        let claim = format!("{name} gives the published output");
        cases.push(Case::new(claim, &dir(name, &["params", "forward"]), move || outputs_agree(name)));
    }
    for name in ["score_28_formula", "mlpscore_10_formula"] {
        let files = [format!("ncsn/{name}/meta.json"), format!("ncsn/{name}/forward.safetensors")];
        cases.push(Case::new(format!("{name} gives the published output"), &files, move || outputs_agree(name)));
    }
    let trained =
        ["ncsn/optimizers_smallest/final_adam.safetensors", "ncsn/optimizers_smallest/forward_adam.safetensors"];
    cases.push(Case::new("a trained network gives the published output", &trained, trained_output_agrees));
    let files = dir("cond_refinenet_ch1_28", &["params", "dsm_loss", "dsm_grads"]);
    cases.push(Case::new("the denoising loss and every parameter's gradient agree", &files, loss_and_gradients_agree));
    cases
}

fn trained_output_agrees() {
    let device = fixture::device();
    let case = open("ncsn/optimizers_smallest/forward_adam.safetensors");
    let model = model(&open("ncsn/optimizers_smallest/final_adam.safetensors"), InputRange::Unit, &device);
    let found = model.score(case.tensor("x", &device), &case.times("labels", &*model.process));
    assert_close("out", &values(found), case.f64("out"), tolerance());
}

fn loss_and_gradients_agree() {
    let device = fixture::device().autodiff();
    let dir = "ncsn/cond_refinenet_ch1_28";
    let case = open(&format!("{dir}/dsm_loss.safetensors"));
    let grads = open(&format!("{dir}/dsm_grads.safetensors"));
    let model = model(&open(&format!("{dir}/params.safetensors")), InputRange::Unit, &device);
    let (process, t) = (&*model.process, case.times("labels", &*model.process));
    let loss = |power| {
        let (x, z) = (case.tensor("X", &device), case.tensor("noise", &device));
        denoising(&model, process, x, &t, z, Weight::StdPower(power))
    };
    for (power, name) in [(2.0, "loss"), (1.0, "loss_anneal_power_1"), (0.0, "loss_anneal_power_0")] {
        // The published target is formed from rounded numbers; the fixture's README allows 1e-5.
        assert_close(name, &values(loss(power)), case.f64(name), 1e-5);
    }
    let found = params::gradients(&model.net, &loss(2.0).backward());
    assert_eq!(found.len(), grads.tensors.len());
    for (name, grad) in params::names(&model.net).iter().zip(found) {
        let grad = grad.unwrap_or_else(|| panic!("{name} has no gradient"));
        // Per tensor; the reference's f32 and f64 gradients differ by 4.4e-6 of the largest.
        assert_close(name, &values(grad), grads.f64(name), 5e-5);
    }
}
