//! Score-SDE's processes, the meaning of its networks' outputs, and steps of its samplers.

use burn::tensor::{Device, Tensor};
use ncsn::sample::{Corrector, Draws, Method, Norms, Predictor, PredictorCorrector, Stage};
use ncsn::score::{Label, Prediction, Score};
use ncsn::sde::{Process, Rates, Reverse, SubVp, Transition, Ve, Vp};

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};

const FUNCTIONS: &str = "score_sde/sde_functions/functions.safetensors";

/// The processes of `sde_functions`, by their names there.
fn processes() -> [(&'static str, Box<dyn Process>); 6] {
    [
        ("vesde", Box::new(Ve::new(0.01, 50.0, 1000).unwrap())),
        ("vesde_b", Box::new(Ve::new(0.02, 10.0, 50).unwrap())),
        ("vpsde", Box::new(Vp::new(0.1, 20.0, 1000).unwrap())),
        ("vpsde_b", Box::new(Vp::new(0.2, 10.0, 50).unwrap())),
        ("subvpsde", Box::new(SubVp::new(0.1, 20.0, 1000).unwrap())),
        ("subvpsde_b", Box::new(SubVp::new(0.2, 10.0, 50).unwrap())),
    ]
}

/// About twice what the published program in f32 is off from itself in f64, of the largest value.
const TOLERANCE: f64 = 2e-5;

fn functions_agree(name: &str, process: &dyn Process) {
    let fixture = open(FUNCTIONS);
    let times = fixture.f64("t");
    let compare = |what: &str, found: Vec<f64>| {
        let found: Vec<f32> = found.into_iter().map(|v| v as f32).collect();
        assert_close(&format!("{name}.{what}"), &found, fixture.f64(&format!("{name}.{what}")), TOLERANCE);
    };
    // A function of time alone, and one of x and the score too.
    let scalar = |f: &dyn Fn(f64) -> f64| times.iter().map(|&t| f(t)).collect::<Vec<f64>>();
    let vector = |f: &dyn Fn(f64) -> [f64; 2]| {
        let (x, s) = (fixture.f64("x"), fixture.f64("score"));
        let n = x.len() / times.len();
        (0..x.len()).map(|i| (f(times[i / n]), x[i], s[i])).map(|([a, b], x, s)| a * x + b * s).collect::<Vec<f64>>()
    };
    compare("marginal_mean", vector(&|t| [process.marginal(t).alpha, 0.0]));
    compare("marginal_std", scalar(&|t| process.marginal(t).std));
    compare("drift", vector(&|t| [process.drift(t), 0.0]));
    compare("diffusion", scalar(&|t| process.diffusion(t)));
    compare("discretize_f", vector(&|t| [process.transition(t).drift, 0.0]));
    compare("discretize_G", scalar(&|t| process.transition(t).diffusion));

    let [sde, flow] = [Reverse::Sde, Reverse::ProbabilityFlow];
    let both = |rates: Rates| [rates.x, rates.score];
    compare("reverse.drift", vector(&|t| both(sde.rates(process, t))));
    compare("reverse.diffusion", scalar(&|t| sde.rates(process, t).noise));
    compare("reverse.discretize_f", vector(&|t| both(sde.transition(process, t))));
    compare("reverse.discretize_G", scalar(&|t| sde.transition(process, t).noise));
    compare("reverse_ode.drift", vector(&|t| both(flow.rates(process, t))));
    compare("reverse_ode.discretize_f", vector(&|t| both(flow.transition(process, t))));
    compare("reverse_ode.discretize_G", scalar(&|t| flow.transition(process, t).noise));

    let n = fixture.f64("x").len() / times.len();
    compare("prior_logp", fixture.f64("x").chunks(n).map(|x| process.prior_log_density(x)).collect());
    let noise = fixture.f64(&format!("{name}.prior_noise"));
    compare("prior_sample", noise.iter().map(|z| z * process.prior_std()).collect());
}

fn tables_agree() {
    let fixture = open(FUNCTIONS);
    let relative = |what: &str, tolerance: f64, found: &dyn Fn(usize) -> f64| {
        for (k, expected) in fixture.f64(what).iter().enumerate() {
            assert!((found(k) / expected - 1.0).abs() < tolerance, "{what}[{k}]: {}, expected {expected}", found(k));
        }
    };
    // In f64 there; what is 1 − ᾱ loses digits where ᾱ is nearly 1.
    let vp = Vp::new(0.1, 20.0, 1000).unwrap();
    relative("get_ddpm_params.betas", 1e-14, &|k| vp.discrete_beta(k));
    relative("get_ddpm_params.alphas_cumprod", 1e-12, &|k| vp.discrete(k).alpha.powi(2));
    relative("get_ddpm_params.sqrt_1m_alphas_cumprod", 1e-11, &|k| vp.discrete(k).std);
    let ve = Ve::new(0.01, 50.0, 1000).unwrap();
    relative("get_sigmas.cifar10_ve", 1e-13, &|k| ve.discrete(999 - k).std);
    // In f32 there, summed up one after the other.
    for (name, ve) in [("vesde", ve), ("vesde_b", Ve::new(0.02, 10.0, 50).unwrap())] {
        relative(&format!("{name}.discrete_sigmas"), 2e-6, &|k| ve.discrete(k).std);
    }
    for (name, vp) in [("vpsde", vp), ("vpsde_b", Vp::new(0.2, 10.0, 50).unwrap())] {
        relative(&format!("{name}.discrete_betas"), 1e-6, &|k| vp.discrete_beta(k));
        relative(&format!("{name}.alphas"), 1e-6, &|k| vp.retention(vp.time(vp.n_levels() - 1 - k)));
        relative(&format!("{name}.alphas_cumprod"), 2e-5, &|k| vp.discrete(k).alpha.powi(2));
        relative(&format!("{name}.sqrt_alphas_cumprod"), 1e-5, &|k| vp.discrete(k).alpha);
        relative(&format!("{name}.sqrt_1m_alphas_cumprod"), 5e-4, &|k| vp.discrete(k).std);
    }
}

/// A sampler's times: linspace(1, eps, N), and the discrete level N − 1 − i at the i-th.
fn times_agree() {
    for (name, process) in processes() {
        let (n, [eps, last]) = (process.n_levels(), process.times());
        assert_eq!([process.step_time(0), process.step_time(n - 1)], [last, eps], "{name}");
        for i in 0..n {
            assert_eq!(process.index(process.step_time(i)), n - 1 - i, "{name}, step {i}");
            let Transition { drift, diffusion } = process.transition(process.step_time(i));
            assert!(drift <= 0.0 && diffusion > 0.0);
        }
    }
}

/// Networks, the processes that they know, and what they are told and give.
const PREDICTIONS: [(&str, &str, Prediction); 3] = [
    ("ncsnpp_ve_fourier_residual", "vesde", Prediction::Score(Label::Std)),
    ("ddpmpp_vp", "vpsde", Prediction::Noise(Label::Time)),
    ("ncsnpp_subvp", "subvpsde", Prediction::Noise(Label::Time)),
];

fn process(name: &str) -> Box<dyn Process> {
    processes().into_iter().find(|(other, _)| *other == name).unwrap().1
}

/// What a network is told, and the score that is made of its output.
fn predictions_agree(network: &str, sde: &str, prediction: Prediction) {
    let (forward, process) = (open(&format!("score_sde/{network}/forward.safetensors")), process(sde));
    let times = forward.f64("t");
    let labels: Vec<f32> = times.iter().map(|&t| prediction.label(&*process, t) as f32).collect();
    assert_close("labels", &labels, forward.f64("labels"), 1e-6);
    let n = forward.f64("out").len() / times.len();
    let scale = |i: usize| prediction.factors(&*process, times[i / n]).scale;
    let score: Vec<f32> = forward.f64("out").iter().enumerate().map(|(i, out)| (scale(i) * out) as f32).collect();
    assert_close("score", &score, forward.f64("score_at_t"), 1e-6);
}

/// A score that is the same wherever it is asked for.
struct Given(Tensor<4>);

impl Score<4> for Given {
    fn score(&self, _: Tensor<4>, _: &[f64]) -> Tensor<4> {
        self.0.clone()
    }
}

/// x after one stage of a sampler that adds noise in its last step too.
fn step(
    process: &dyn Process,
    method: PredictorCorrector,
    x: Tensor<4>,
    s: Tensor<4>,
    t: f64,
    z: Tensor<4>,
) -> Vec<f32> {
    let mut method = PredictorCorrector { noise_removal: false, ..method };
    let stage =
        if method.predictor == Predictor::None { Stage::Correct { t } } else { Stage::Predict { from: t, to: 0.0 } };
    let mut draws = || z.clone();
    values(method.step(stage, &Given(s), process, x, &mut draws as &mut dyn Draws<4>))
}

fn predictor(predictor: Predictor) -> PredictorCorrector {
    PredictorCorrector { predictor, corrector: Corrector::None, ..PredictorCorrector::default() }
}

fn corrector(corrector: Corrector) -> PredictorCorrector {
    PredictorCorrector { predictor: Predictor::None, corrector, ..PredictorCorrector::default() }
}

const STEPS: &str = "score_sde/samplers/single_steps.safetensors";

/// Steps at one state by one score. The fixture holds no score, but that is (x_mean − x + F·x)/(½G²) of the step of the probability
/// flow: the published program's numbers are compared with one another.
fn steps_agree(sde: &str, i: usize) {
    let (fixture, process, device) = (open(STEPS), process(sde), fixture::device());
    let name = |what: &str| format!("{sde}.{what}");
    let (x, t) = (fixture.f64(&name(&format!("x.{i}"))), fixture.f64(&name(&format!("t.{i}")))[0]);
    let flow = Reverse::ProbabilityFlow.transition(&*process, t);
    let after = fixture.f64(&name(&format!("reverse_diffusion.probability_flow.{i}.x_mean")));
    let s = after.iter().zip(x).map(|(after, x)| ((after - (1.0 - flow.x) * x) / -flow.score) as f32).collect();
    let shape: [usize; 4] = fixture.shape(&name(&format!("x.{i}"))).try_into().unwrap();
    let s = ncsn::device::upload(s, shape, &device);
    let x: Tensor<4> = fixture.tensor(&name(&format!("x.{i}")), &device);
    let z: Tensor<4> = fixture.tensor(&name(&format!("noise.{i}.0")), &device);
    let langevin = Corrector::Langevin { snr: 0.16, norms: Norms::BatchMean };
    let mut n_compared = 0;
    for (step_name, method) in [
        ("reverse_diffusion", predictor(Predictor::ReverseDiffusion(Reverse::Sde))),
        ("reverse_diffusion.probability_flow", predictor(Predictor::ReverseDiffusion(Reverse::ProbabilityFlow))),
        ("euler_maruyama", predictor(Predictor::EulerMaruyama(Reverse::Sde))),
        ("ancestral_sampling", predictor(Predictor::AncestralSampling)),
        ("langevin.n1", corrector(langevin)),
        ("ald.n1", corrector(Corrector::Ald { snr: 0.16 })),
    ] {
        let expected = name(&format!("{step_name}.{i}"));
        if !fixture.has(&format!("{expected}.x")) {
            continue;
        }
        n_compared += 1;
        // Of s as it is known here, 1e-6 of x is left as an error of up to 2.5 times in a longer step.
        let compare = |what: &str, z: Tensor<4>| {
            let found = step(&*process, method, x.clone(), s.clone(), t, z);
            let what = format!("{expected}.{what}");
            assert_close(&what, &found, fixture.f64(&what), 5e-6);
        };
        compare("x", z.clone());
        // A step of Langevin's corrector is as long as z asks for.
        if method.corrector != langevin {
            compare("x_mean", z.zeros_like());
        }
    }
    assert_eq!(n_compared, if sde == "subvpsde" { 3 } else { 6 });
}

/// A step of DDPM from its own score, each example at its own time.
fn ancestral_step_agrees() {
    let (fixture, process, device): (Fixture, _, Device) = (open(STEPS), process("vpsde"), fixture::device());
    let row = |what: &str, i: usize| -> Tensor<4> {
        fixture.row::<3>(&format!("discrete_score.ddpm_vp.{what}"), i, &device).unsqueeze()
    };
    for (i, &t) in fixture.f64("discrete_score.ddpm_vp.t").iter().enumerate() {
        let found = |z| step(&*process, predictor(Predictor::AncestralSampling), row("x", i), row("score", i), t, z);
        let z = row("ancestral.noise", i);
        for (what, z) in [("x", z.clone()), ("x_mean", z.zeros_like())] {
            let expected = values(row(&format!("ancestral.{what}"), i)).into_iter().map(f64::from).collect::<Vec<_>>();
            assert_close(&format!("{what} of example {i}"), &found(z), &expected, 2e-6);
        }
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = processes()
        .into_iter()
        .map(|(name, process)| {
            let claim = format!("score_sde::functions_of_a_process_agree::{name}");
            Case::new(claim, &[FUNCTIONS], move || functions_agree(name, &*process))
        })
        .collect();
    cases.push(Case::new("score_sde::discrete_levels_agree", &[FUNCTIONS], tables_agree));
    cases.push(Case::new("score_sde::times_of_samplers_are_those_of_the_levels", &[FUNCTIONS], times_agree));
    for (network, sde, prediction) in PREDICTIONS {
        let claim = format!("score_sde::labels_and_scores_agree::{network}");
        let fixture = format!("score_sde/{network}/forward.safetensors");
        cases.push(Case::new(claim, &[fixture], move || predictions_agree(network, sde, prediction)));
    }
    for sde in ["vesde", "vpsde", "subvpsde"] {
        let claim = format!("score_sde::steps_of_samplers_agree::{sde}");
        cases.push(Case::new(claim, &[STEPS], move || [0, 1].into_iter().for_each(|i| steps_agree(sde, i))));
    }
    cases.push(Case::new("score_sde::ancestral_step_of_ddpm_agrees", &[STEPS], ancestral_step_agrees));
    cases
}
