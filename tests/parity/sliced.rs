//! Sliced and one-level denoising losses: value, both terms, and every parameter's gradient.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn::loss::{Sliced, Slicing, Weight, denoising, perturbed_ssm_vr, ssm, ssm_vr};
use ncsn::net::{Backbone, InputRange, Mlp, params};
use ncsn::noise::Noise;
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};
use crate::network::network;

/// The reference's f32 error is 8e-7 in the values and 3e-6 in the gradients, of the largest.
const TOLERANCE: f64 = 2e-5;

/// Every other value of these losses is a difference of much larger sums.
const EXACT: Slicing = Slicing::Exact;

fn file(name: &str) -> String {
    format!("ncsn/sliced_losses/{name}.safetensors")
}

fn mlp(device: &Device) -> Mlp {
    let net = Mlp::new(&[2, 128, 128, 2], &mut Noise::new(0).stream("init", 0), device);
    open(&file("toy_mlp_params")).load(net, "")
}

/// Compares a loss, its terms if there are any, and its gradients with those of `case`.
fn check<M: Module>(case: &Fixture, net: &M, loss: Tensor<1>, terms: Option<Sliced>) {
    assert_close("loss", &values(loss.clone()), case.f64("loss"), TOLERANCE);
    if let Some(Sliced { square, slope }) = terms {
        assert_close("½‖s‖²", &values(square), case.f64("loss1"), TOLERANCE);
        assert_close("vᵀ(∂s/∂x)v", &values(slope), case.f64("loss2"), TOLERANCE);
    }
    let expected = |name: &str| case.tensors.get(&format!("grad.{name}")).map(|(_, values)| values);
    let n_expected = case.tensors.keys().filter(|key| key.starts_with("grad.")).count();
    if n_expected == 0 {
        return;
    }
    let found = params::gradients(net, &loss.backward());
    assert_eq!(found.len(), n_expected);
    let names = params::names(net);
    let largest = names.iter().flat_map(|name| expected(name).unwrap()).fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0);
    for (name, gradient) in names.into_iter().zip(found) {
        let expected = expected(&name).unwrap();
        let gradient = gradient.map_or_else(|| vec![0.0; expected.len()], values);
        let differences = gradient.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - b).abs());
        let difference = differences.fold(0.0f64, |m, d| if d > m || d.is_nan() { d } else { m });
        assert!(difference <= 1e-4 * largest, "{name}: largest difference {difference:.3e}, of {largest:.3e}");
    }
}

/// The time of the only level, for each example.
fn times(case: &Fixture) -> Vec<f64> {
    vec![1.0; case.shape("samples")[0]]
}

fn mlp_ssm(name: &str) {
    let device = fixture::device().autodiff();
    let (case, model) = (open(&file(name)), Model::unperturbed(mlp(&device)));
    let (x, t) = (case.tensor("samples", &device), times(&case));
    let sliced = match case.has("vectors") {
        true => ssm_vr(&model, x, &t, case.tensor("vectors", &device), EXACT),
        false => ssm(&model, x, &t, case.tensor("vectors_before_normalisation", &device), EXACT),
    };
    check(&case, &model.net, sliced.loss(), Some(sliced));
}

fn annealed<const D: usize, M: Module + Backbone<D>>(name: &str, net: M, device: &Device) {
    let case = open(&file(name));
    let sigmas = case.f64("sigmas");
    let levels = NoiseLevels::geometric(sigmas[0], sigmas[sigmas.len() - 1], sigmas.len()).unwrap();
    assert!(levels.sigmas().iter().zip(sigmas).all(|(a, b)| (a / b - 1.0).abs() < 1e-6));
    let noise = [case.tensor("noise", device), case.tensor("vectors", device)];
    let model = Model::new(net, levels);
    let (process, t, x) = (&*model.process, case.times("labels", &*model.process), case.tensor("samples", device));
    let loss = perturbed_ssm_vr(&model, process, x, &t, noise, Weight::StdPower(2.0), EXACT);
    check(&case, &model.net, loss, None);
}

fn one_level<const D: usize, M: Module + Backbone<D>>(name: &str, net: M, sigma: f64, device: &Device) {
    let case = open(&file(name));
    let (x, z) = (case.tensor("samples", device), case.tensor("noise", device));
    let model = Model::new(net, NoiseLevels::single(sigma).unwrap());
    // With λ = 1.
    let loss = denoising(&model, &*model.process, x, &times(&case), z, Weight::StdPower(0.0));
    check(&case, &model.net, loss, None);
}

/// All questions about these losses.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let files = |params: &str, name: &str| [params.to_string(), file(name)];
    let device = || fixture::device().autodiff();
    let mlp_params = file("toy_mlp_params");
    for particles in ["p1", "p4"] {
        for kind in ["sliced_score_estimation", "sliced_score_estimation_vr"] {
            let name = format!("toy_{kind}_{particles}");
            cases
                .push(Case::new(format!("{name}, with gradients"), &files(&mlp_params, &name), move || mlp_ssm(&name)));
        }
        let name = format!("toy_anneal_sliced_score_estimation_vr_{particles}");
        let run = move || annealed::<2, _>(&name, mlp(&device()), &device());
        let name = format!("toy_anneal_sliced_score_estimation_vr_{particles}");
        cases.push(Case::new(format!("{name}, with gradients"), &files(&mlp_params, &name), run));

        let particles = if particles == "p1" { "p1" } else { "p2" };
        let name = format!("condrefinenet_anneal_sliced_score_estimation_vr_{particles}");
        let params = file("condrefinenet_params");
        let question = format!("{name}, with gradients");
        cases.push(Case::new(question, &files(&params.clone(), &name.clone()), move || {
            annealed::<4, _>(&name, network(&open(&params), InputRange::Unit, &device()), &device());
        }));
    }
    for sigma in [0.01, 0.5] {
        let name = format!("toy_dsm_score_estimation_sigma{sigma}");
        let question = format!("{name}, with gradients");
        cases.push(Case::new(question, &files(&mlp_params, &name.clone()), move || {
            one_level::<2, _>(&name, mlp(&device()), sigma, &device());
        }));
    }
    let resscore = "ncsn/resscore_32/params.safetensors";
    for (particles, sigma) in [("p1", 0.01), ("p2", 0.3)] {
        let name = format!("resscore_sliced_score_estimation_vr_{particles}");
        let question = format!("{name}, with gradients");
        cases.push(Case::new(question, &files(resscore, &name.clone()), move || {
            let (case, net) = (open(&file(&name)), network(&open(resscore), InputRange::Unit, &device()));
            let (model, x) = (Model::unperturbed(net), case.tensor("samples", &device()));
            let sliced = ssm_vr(&model, x, &times(&case), case.tensor("vectors", &device()), EXACT);
            check(&case, &model.net, sliced.loss(), Some(sliced));
        }));
        let name = format!("resscore_dsm_score_estimation_sigma{sigma}");
        cases.push(Case::new(name.clone(), &files(resscore, &name.clone()), move || {
            one_level::<4, _>(&name, network(&open(resscore), InputRange::Unit, &device()), sigma, &device());
        }));
    }
    let (name, params) = ("refinenet_baseline_dsm_score_estimation", file("refinenet_baseline_params"));
    cases.push(Case::new(format!("{name}, with gradients"), &files(&params.clone(), name), move || {
        one_level::<4, _>(name, network(&open(&params), InputRange::Unit, &device()), 0.01, &device());
    }));
    cases
}
