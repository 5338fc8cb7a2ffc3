//! Score-SDE's processes.

use ncsn::sde::{Process, Rates, Reverse, SubVp, Transition, Ve, Vp};

use crate::Case;
use crate::fixture::{assert_close, open};

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
    cases
}
