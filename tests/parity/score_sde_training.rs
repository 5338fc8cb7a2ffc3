//! Steps of Score-SDE's training: its loss, clipping, warm-up and moving average together.

use ncsn::loss::{Weight, denoising};
use ncsn::net::params;
use ncsn::train::{Ema, EmaRate, Optimizer, OptimizerConfig, Schedule};

use crate::Case;
use crate::fixture::{self, open};
use crate::score_sde_networks::{config, meta, model};

const NETWORKS: [&str; 2] = ["ncsnpp_ve_fourier_residual", "ddpmpp_vp"];

/// Four steps from the fixture's parameters, on its images, times and noise.
fn training(name: &str) {
    let (dir, device) = (format!("{name}/train"), fixture::device().autodiff());
    let (about, batches) = (meta(&dir), open(&format!("score_sde/{dir}/batches.safetensors")));
    let number = |key: &str| about[key].as_f64().unwrap();
    let lr = Schedule::WarmUp { lr: number("lr"), n_steps: about["warmup"].as_u64().unwrap() };
    let mut optimizer =
        Optimizer::new(OptimizerConfig { lr, clip: Some(number("grad_clip")), ..config(name).optimizer() });
    let mut model = model(name, &device);
    let mut ema = Ema::new(EmaRate::WarmedUp(number("ema_rate")), &model.net);
    let weight = if about["likelihood_weighting"] == true { Weight::Likelihood } else { Weight::StdPower(2.0) };
    for step in 0..4 {
        let expected_lr = about["lr_used"][step as usize].as_f64().unwrap();
        assert!((lr.at(step) - expected_lr).abs() <= 1e-12 * lr.peak(), "{name}, step {step}");
        let [x, z] = ["X", "z"].map(|key| batches.tensor::<4>(&format!("{key}.{step}"), &device));
        let t: Vec<f64> = batches.f64(&format!("u.{step}")).iter().map(|u| u * (1.0 - 1e-5) + 1e-5).collect();
        let n_numbers: usize = x.dims()[1..].iter().product();
        let loss = denoising(&model, &*model.process, x, &t, z, weight);
        // Half a sum becomes a mean.
        let loss = if about["reduce_mean"] == true { loss * (2.0 / n_numbers as f64) } else { loss };
        let gradients = params::gradients(&model.net, &loss.backward());
        let found = f64::from(loss.into_scalar::<f32>());
        let expected = about["losses_f64"][step as usize].as_f64().unwrap();
        // The README's tolerances, here and below.
        assert!((found / expected - 1.0).abs() <= 1e-5, "{name}, step {step}: {found}, expected {expected}");
        model.net = optimizer.step(model.net, gradients);
        ema.update(&model.net);
    }
    for (net, file) in [(&model.net, "params_step4"), (ema.module(), "ema_step4")] {
        let expected = open(&format!("score_sde/{dir}/{file}.safetensors"));
        for (parameter, found) in params::to_host(net).unwrap() {
            let differences = found.values.iter().zip(expected.f64(&parameter)).map(|(&a, b)| (f64::from(a) - b).abs());
            let worst = differences.fold(0.0, f64::max);
            assert!(worst <= 1e-5, "{name}, {file}, {parameter}: {worst:e}");
        }
    }
}

pub fn cases() -> Vec<Case> {
    let case = |name: &'static str| {
        let files = ["batches", "params_step4", "ema_step4"].map(|f| format!("score_sde/{name}/train/{f}.safetensors"));
        Case::new(format!("four training steps of {name} agree"), &files, move || training(name))
    };
    NETWORKS.into_iter().map(case).collect()
}
