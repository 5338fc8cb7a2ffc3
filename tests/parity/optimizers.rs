//! Optimisers: recorded gradients on two small tensors, and whole training steps.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use ncsn::loss::{Weight, denoising};
use ncsn::net::{InputRange, params};
use ncsn::train::{Ema, EmaRate, Optimizer, OptimizerConfig, Rule};

use crate::Case;
use crate::fixture::{self, assert_close, open, values};
use crate::network::model;

const ARITHMETIC: &str = "ncsn/optimizers_arithmetic/data.safetensors";

fn adam(lr: f64, betas: [f64; 2], eps: f64, weight_decay: f64, amsgrad: bool) -> OptimizerConfig {
    OptimizerConfig { weight_decay, ..OptimizerConfig::new(Rule::Adam { betas, eps, amsgrad }, lr) }
}

fn rms_prop(weight_decay: f64) -> OptimizerConfig {
    OptimizerConfig { weight_decay, ..OptimizerConfig::new(Rule::RmsProp { alpha: 0.99, eps: 1e-8 }, 1e-3) }
}

fn sgd(lr: f64) -> OptimizerConfig {
    OptimizerConfig::new(Rule::Sgd { momentum: 0.9 }, lr)
}

/// All questions about optimisers.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let usual = [0.9, 0.999];
    for (name, rule) in [
        ("adam", adam(1e-3, usual, 1e-8, 0.0, false)),
        ("adam_amsgrad", adam(1e-3, usual, 1e-8, 0.0, true)),
        ("adam_amsgrad_beta2_0.9", adam(1e-2, [0.9, 0.9], 1e-8, 0.0, true)),
        ("adam_beta2_0.9", adam(1e-2, [0.9, 0.9], 1e-8, 0.0, false)),
        ("adam_weight_decay_0.1", adam(1e-3, usual, 1e-8, 0.1, false)),
        ("adam_beta1_0.5_eps_1e-3", adam(1e-3, [0.5, 0.999], 1e-3, 0.0, false)),
        ("rmsprop", rms_prop(0.0)),
        ("rmsprop_weight_decay_0.1", rms_prop(0.1)),
        ("sgd_momentum_0.9", sgd(1e-3)),
    ] {
        cases.push(Case::new(format!("sixty steps of {name} agree"), &[ARITHMETIC], move || arithmetic(name, rule)));
    }
    for (name, rule, tolerance) in [
        // Absolute tolerances of the fixtures' README: a gradient of the size of rounding may move by a whole step.
        ("adam", adam(1e-3, usual, 1e-8, 0.0, false), 1e-5),
        ("adam_amsgrad", adam(1e-3, usual, 1e-8, 0.0, true), 1e-5),
        ("adam_weight_decay", adam(1e-3, usual, 1e-8, 0.1, false), 5e-6),
        ("rmsprop", rms_prop(0.0), 5e-4),
        ("sgd", sgd(1e-4), 2e-6),
    ] {
        let dir = "ncsn/optimizers_smallest";
        let files = ["params_init", "batches", &format!("final_{name}")].map(|f| format!("{dir}/{f}.safetensors"));
        cases.push(Case::new(format!("three training steps with {name} agree"), &files.clone(), move || {
            training(&files, rule, tolerance)
        }));
    }
    let dir = "ncsn/cond_refinenet_ch1_28";
    let files = ["params", "train_adam_batches", "train_adam_final_params"].map(|f| format!("{dir}/{f}.safetensors"));
    let rule = adam(1e-3, usual, 1e-8, 0.0, false);
    cases.push(Case::new("three training steps of the grey network agree", &files.clone(), move || {
        training(&files, rule, 1e-5)
    }));
    cases.push(Case::new("the moving average follows its formula", &[ARITHMETIC], moving_average));
    cases
}

#[derive(Module, Debug)]
struct TwoTensors {
    w: Param<Tensor<2>>,
    b: Param<Tensor<1>>,
}

impl TwoTensors {
    fn initial(device: &Device) -> Self {
        let file = open(ARITHMETIC);
        Self { w: Param::from_tensor(file.tensor("w0", device)), b: Param::from_tensor(file.tensor("b0", device)) }
    }
}

fn arithmetic(name: &str, config: OptimizerConfig) {
    let device = fixture::device().autodiff();
    let file = open(ARITHMETIC);
    let mut module = TwoTensors::initial(&device);
    let mut optimizer = Optimizer::new(config);
    let mut n_compared = 0;
    for step in 1..=60 {
        let gradient = |key| file.row::<1>(key, step - 1, &device.clone().inner());
        let gradients = vec![
            Some(file.row::<2>("grad.w", step - 1, &device.clone().inner()).reshape([-1])),
            Some(gradient("grad.b")),
        ];
        module = optimizer.step(module, gradients);
        if let Some(row) = [1, 2, 3, 10, 30, 60].iter().position(|&s| s == step) {
            for (key, found) in [("w", values(module.w.val())), ("b", values(module.b.val()))] {
                let expected = values(match key {
                    "w" => file.row::<2>(&format!("{name}.w.after"), row, &device).reshape([-1]),
                    _ => file.row::<1>(&format!("{name}.b.after"), row, &device),
                });
                // The README's tolerance.
                let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= 5e-6, "{name}, {key} after step {step}: {worst:e}");
                n_compared += 1;
            }
        }
    }
    assert_eq!(n_compared, 12);
}

fn training([params, batches, last]: &[String; 3], config: OptimizerConfig, tolerance: f64) {
    let device = fixture::device().autodiff();
    let batches = open(batches);
    let mut model = model(&open(params), InputRange::Unit, &device);
    let mut optimizer = Optimizer::new(config);
    for i in 0..3 {
        let [x, z] = ["X", "noise"].map(|key| batches.tensor::<4>(&format!("{key}.{i}"), &device));
        let t = batches.times(&format!("labels.{i}"), &*model.process);
        let loss = denoising(&model, &*model.process, x, &t, z, Weight::StdPower(2.0));
        let gradients = params::gradients(&model.net, &loss.backward());
        model.net = optimizer.step(model.net, gradients);
    }
    let expected = open(last);
    for (name, found) in params::to_host(&model.net).unwrap() {
        let worst =
            found.values.iter().zip(expected.f64(&name)).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, f64::max);
        assert!(worst <= tolerance, "{name}: {worst:e}");
    }
}

fn moving_average() {
    let device = fixture::device();
    let start = TwoTensors::initial(&device);
    let mut ema = Ema::new(EmaRate::Constant(0.9), &start);
    let target = TwoTensors { w: Param::from_tensor(start.w.val() + 1.0), b: Param::from_tensor(start.b.val() * 0.0) };
    for _ in 0..5 {
        ema.update(&target);
    }
    // shadow − target shrinks by the rate in each step.
    let left = 0.9f64.powi(5);
    let expected: Vec<f64> = values(target.w.val()).iter().map(|&t| f64::from(t) - left).collect();
    assert_close("w", &values(ema.module().w.val()), &expected, 1e-6);
    let expected: Vec<f64> = values(start.b.val()).iter().map(|&b| f64::from(b) * left).collect();
    assert_close("b", &values(ema.module().b.val()), &expected, 1e-6);
}
