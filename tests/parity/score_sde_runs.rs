//! Whole runs of Score-SDE's samplers, and its likelihoods.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::Tensor;
use ncsn::data::Range;
use ncsn::net::Network;
use ncsn::sample::{
    Chain, Corrector, DormandPrince, ErrorNorm, Known, Likelihood, Norms, Predictor, PredictorCorrector,
    ProbabilityFlow, Renewal, bits_per_dim,
};
use ncsn::score::Model;
use ncsn::sde::{Process, Reverse, SubVp, Ve, Vp};
use ncsn_kernels::ops::is_cpu;

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};
use crate::score_sde_networks::model;

const VE: &str = "ncsnpp_ve_fourier_residual";
const VP: &str = "ddpmpp_vp";
const SUB_VP: &str = "ncsnpp_subvp";

fn with_process(network: &str, process: impl Process + 'static) -> Model<Network> {
    Model { process: Arc::new(process), ..model(network, &fixture::device()) }
}

/// The range of a network's data.
fn range(network: &str) -> Range {
    if network == VE { Range::Unit } else { Range::Symmetric }
}

/// The draws of a run after that of its prior, in their order, for all who draw.
fn draws(fixture: &Fixture, name: &str) -> impl FnMut() -> Tensor<4> + Clone + use<> {
    let device = fixture::device();
    let names = (1..).map(|i| format!("{name}.noise.{i}")).take_while(|name| fixture.has(name));
    let tensors: Vec<Tensor<4>> = names.map(|name| fixture.tensor(&name, &device)).collect();
    let tensors = Rc::new(RefCell::new(tensors.into_iter()));
    move || tensors.borrow_mut().next().expect("another draw")
}

fn pixels(network: &str, x: Tensor<4>) -> Vec<f32> {
    values(x).into_iter().map(|x| range(network).inverse(x)).collect()
}

const RUNS: &str = "score_sde/pc_samplers/pc.safetensors";

/// A run from prior to sample.
fn run_agrees(name: &str, network: &str, process: impl Process + 'static, method: PredictorCorrector, tolerance: f64) {
    let (fixture, model) = (open(RUNS), with_process(network, process));
    let prior: Tensor<4> = fixture.tensor(&format!("{name}.noise.0"), &fixture::device());
    let start = prior * model.process.prior_std();
    let chain = Chain::new(&model, model.process.clone(), method, start, draws(&fixture, name));
    assert_close(name, &pixels(network, chain.finish()), fixture.f64(&format!("{name}.out")), tolerance);
}

fn langevin(snr: f64) -> Corrector {
    Corrector::Langevin { snr, norms: Norms::BatchMean }
}

fn runs() -> Vec<Case> {
    fn case(
        name: &'static str,
        network: &'static str,
        process: impl Process + 'static,
        (predictor, corrector, n_steps_each, noise_removal): (Predictor, Corrector, usize, bool),
        tolerance: f64,
    ) -> Case {
        let method = PredictorCorrector { predictor, corrector, n_steps_each, noise_removal };
        let claim = format!("score_sde run {name}");
        Case::new(claim, &[RUNS], move || run_agrees(name, network, process, method, tolerance))
    }
    let ve = |n| Ve::new(0.01, 50.0, n).unwrap();
    let vp = |n| Vp::new(0.1, 2.0, n).unwrap();
    let euler = (Predictor::EulerMaruyama(Reverse::Sde), Corrector::None, 1, true);
    vec![
        case(
            "pc.vesde.reverse_diffusion.langevin",
            VE,
            ve(4),
            (Predictor::ReverseDiffusion(Reverse::Sde), langevin(0.16), 1, true),
            1e-5,
        ),
        // Without a predictor the published program leaves the noise there.
        case("pc.vesde.none.ald", VE, ve(3), (Predictor::None, Corrector::Ald { snr: 0.1 }, 2, false), 1e-5),
        case("pc.vpsde.euler_maruyama.none", VP, vp(4), euler, 1e-3),
        case(
            "pc.vpsde.ancestral_sampling.langevin",
            VP,
            vp(3),
            (Predictor::AncestralSampling, langevin(0.1), 1, true),
            1e-3,
        ),
        case("pc.subvpsde.euler_maruyama.none", SUB_VP, SubVp::new(0.1, 2.0, 4).unwrap(), euler, 5e-5),
    ]
}

/// Inpainting and colourisation with the published program's slips: the noise of the last step stays where nothing is known.
fn completion_agrees(name: &str) {
    let (fixture, device) = (open(RUNS), fixture::device());
    let model = with_process(VE, Ve::new(0.01, 50.0, 3).unwrap());
    let tensor = |what: &str| -> Tensor<4> { fixture.tensor(&format!("{name}.{what}"), &device) };
    let draws = draws(&fixture, name);
    let (data, renewal) = (tensor("data"), Renewal::AsPublished);
    let known = match name {
        "inpaint" => Known::new(tensor("mask"), data, renewal, draws.clone()),
        _ => Known::grey(data, renewal, draws.clone()),
    };
    let method = PredictorCorrector {
        predictor: Predictor::ReverseDiffusion(Reverse::Sde),
        corrector: langevin(0.16),
        n_steps_each: 1,
        noise_removal: false,
    };
    let start = tensor("noise.0") * model.process.prior_std();
    let chain = Chain::new(&model, model.process.clone(), method, start, draws).with_known(known);
    assert_close(name, &pixels(VE, chain.finish()), fixture.f64(&format!("{name}.out")), 1e-5);
}

const ODE: &str = "score_sde/ode/ode.safetensors";

/// The published program's: one vector of the whole batch.
const SOLVER: DormandPrince = DormandPrince { rtol: 1e-5, atol: 1e-5, norm: ErrorNorm::Batch };

/// A network and the process of its fixtures of flows.
fn flow_model(sde: &str) -> (&'static str, Model<Network>) {
    match sde {
        "vesde" => (VE, with_process(VE, Ve::new(0.01, 5.0, 1000).unwrap())),
        "vpsde" => (VP, with_process(VP, Vp::new(0.1, 20.0, 1000).unwrap())),
        _ => (SUB_VP, with_process(SUB_VP, SubVp::new(0.1, 20.0, 1000).unwrap())),
    }
}

/// Evaluations differ where rounding makes a step one that is rejected.
fn assert_as_many(found: &[usize], expected: f64) {
    assert!(found.iter().all(|&n| (n as f64 / expected - 1.0).abs() < 0.1), "{found:?}, expected {expected}");
}

fn flow_agrees(sde: &str, expected: f64, tolerance: f64) {
    let (fixture, (network, model)) = (open(ODE), flow_model(sde));
    let z: Tensor<4> = fixture.tensor(&format!("{sde}.sample.z"), &fixture::device());
    for (what, noise_removal) in [("x", false), ("x_denoised", true)] {
        let flow = ProbabilityFlow { solver: SOLVER, noise_removal };
        let flowed = flow.sample(&model, &*model.process, z.clone()).unwrap();
        let name = format!("{sde}.sample.{what}");
        assert_close(&name, &pixels(network, flowed.x), fixture.f64(&name), tolerance);
        assert_as_many(&flowed.n_evaluations, expected);
    }
}

fn likelihood_agrees(sde: &str, probes: &str, expected: f64, tolerance: f64) {
    let (fixture, (network, model)) = (open(ODE), flow_model(sde));
    let name = |what: &str| format!("{sde}.likelihood.{probes}.{what}");
    let tensor = |what: &str| -> Tensor<4> { fixture.tensor(&name(what), &fixture::device()) };
    let likelihood = Likelihood { solver: SOLVER, ..Likelihood::default() };
    let found = likelihood.along(&model, &*model.process, tensor("X"), tensor("epsilon")).unwrap();
    assert_close(&name("z"), &values(found.latents), fixture.f64(&name("z")), tolerance);
    let (x, bpd) = (fixture.f32(&name("X")), fixture.f64(&name("bpd")));
    for ((x, log_p), expected) in x.chunks(x.len() / bpd.len()).zip(found.log_p).zip(bpd) {
        let bits = bits_per_dim(log_p, x, range(network), 256);
        assert!((bits - expected).abs() < 1e-2, "{}: {bits}, expected {expected}", name("bpd"));
    }
    assert_as_many(&found.n_evaluations, expected);
}

pub fn cases() -> Vec<Case> {
    let mut cases = runs();
    for name in ["inpaint", "colorize"] {
        cases.push(Case::new(format!("score_sde run {name}"), &[RUNS], move || completion_agrees(name)));
    }
    // Thousands of evaluations one after another last very long on a program that acts as a GPU.
    if !is_cpu(&fixture::device()) {
        return cases;
    }
    for (sde, n, tolerance) in [("vpsde", 494.0, 2e-3), ("subvpsde", 452.0, 2e-3), ("vesde", 338.0, 1e-3)] {
        cases.push(Case::new(format!("score_sde flow of {sde}"), &[ODE], move || flow_agrees(sde, n, tolerance)));
    }
    for (sde, probes, n, tolerance) in [
        ("vpsde", "Rademacher", 1682.0, 1e-2),
        ("vpsde", "Gaussian", 1670.0, 1e-2),
        ("subvpsde", "Rademacher", 2036.0, 1e-2),
        ("vesde", "Rademacher", 1478.0, 5e-2),
    ] {
        let claim = format!("score_sde likelihood of {sde} by {probes}");
        cases.push(Case::new(claim, &[ODE], move || likelihood_agrees(sde, probes, n, tolerance)));
    }
    cases
}
