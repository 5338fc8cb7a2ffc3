//! Fast solvers, along every grid, with the closed-form denoiser of a mixture: in f64.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use ncsn::sample::{Chain, Churn, Form, Grid, Solver, SolverRule};
use ncsn::score::Score;
use ncsn::sde::{Marginal, Process};

use crate::Case;
use crate::fixture::{Fixture, open};

const SOLVERS: &str = "edm/solvers/kdiffusion.safetensors";
const LEVELS: &str = "edm/schedules/sigmas.safetensors";

/// The noise is added, and its deviation is the time.
#[derive(Debug)]
struct Plain([f64; 2]);

impl Process for Plain {
    fn marginal(&self, t: f64) -> Marginal {
        Marginal { alpha: 1.0, std: t }
    }

    fn times(&self) -> [f64; 2] {
        self.0
    }

    fn n_levels(&self) -> usize {
        1000
    }
}

fn tensor<const D: usize>(values: Vec<f64>, shape: Vec<usize>) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

/// Σ w_k N(μ_k, s_k²·I) with noise.
struct Mixture<'a>(&'a Fixture);

impl Score<4> for Mixture<'_> {
    fn score(&self, x: Tensor<4>, t: &[f64]) -> Tensor<4> {
        let [mu, s, w] = ["mu", "s", "w"].map(|name| self.0.f64(name));
        let (shape, d) = (x.dims(), mu.len() / w.len());
        let x: Vec<f64> = x.try_into_vec_as().unwrap();
        let scores = x.chunks(d).zip(t).flat_map(|(x, &sigma)| {
            let variances: Vec<f64> = s.iter().map(|s| s * s + sigma * sigma).collect();
            let logs: Vec<f64> = (0..w.len())
                .map(|k| {
                    let square: f64 = x.iter().zip(&mu[k * d..]).map(|(x, mu)| (x - mu).powi(2)).sum();
                    w[k].ln() - 0.5 * d as f64 * variances[k].ln() - square / (2.0 * variances[k])
                })
                .collect();
            let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logs.iter().map(|log| (log - most).exp()).sum();
            let of_number = |i: usize| {
                (0..w.len())
                    .map(|k| (logs[k] - most).exp() / total * (mu[k * d + i] - x[i]) / variances[k])
                    .sum::<f64>()
            };
            (0..d).map(of_number).collect::<Vec<f64>>()
        });
        tensor(scores.collect(), shape.to_vec())
    }
}

fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * most, "{what}: {found}, expected {expected}");
    }
}

/// The names of the fixture's runs, with the steps that are ours.
fn runs() -> Vec<(String, SolverRule)> {
    let heun = SolverRule::Heun(Churn::default());
    let mut runs = Vec::new();
    for grid in ["karras", "vp", "geometric_open"] {
        runs.push((format!("euler.{grid}"), SolverRule::Ddim { eta: 0.0 }));
        runs.push((format!("heun.{grid}"), heun));
        runs.push((format!("dpmpp_2m.{grid}"), SolverRule::Dpm2M));
        for (eta, name) in [(0.0, "0"), (0.6, "0.6"), (1.0, "1")] {
            let s_noise = 1.0;
            for (form, form_name) in [(Form::Midpoint, "midpoint"), (Form::Heun, "heun")] {
                let rule = SolverRule::Dpm2MSde { eta, s_noise, form };
                runs.push((format!("dpmpp_2m_sde.{form_name}.eta{name}.{grid}"), rule));
            }
            let rule = SolverRule::Dpm3MSde { eta, s_noise, corrected: false };
            runs.push((format!("dpmpp_3m_sde.eta{name}.{grid}"), rule));
        }
    }
    for (eta, name) in [(0.5, "0.5"), (1.0, "1")] {
        runs.push((format!("euler_ancestral.eta{name}"), SolverRule::Ddim { eta }));
    }
    let churn = Churn { s_churn: 2.0, s_min: 0.05, s_max: 30.0, s_noise: 1.003 };
    runs.push(("heun.churn".into(), SolverRule::Heun(churn)));
    let rule = SolverRule::Dpm2MSde { eta: 1.0, s_noise: 1.01, form: Form::Midpoint };
    runs.push(("dpmpp_2m_sde.s_noise".into(), rule));
    let rule = SolverRule::Dpm3MSde { eta: 1.0, s_noise: 0.97, corrected: false };
    runs.push(("dpmpp_3m_sde.s_noise".into(), rule));
    runs
}

fn run_agrees(fixture: &Fixture, name: &str, rule: SolverRule) {
    let grid = match name.rsplit_once('.').map(|(_, last)| last) {
        Some(grid @ ("vp" | "geometric_open")) => grid,
        Some("s_noise") => "exponential",
        _ => "karras",
    };
    let levels = fixture.f64(&format!("grid.{grid}")).to_vec();
    let solver =
        Solver { rule, n_steps: levels.len() - 1, grid: Grid::Given { levels: levels.clone() }, at_levels: false };
    let shape = fixture.shape("x_unit").to_vec();
    let start = fixture.f64("x_unit").iter().map(|x| x * levels[0]).collect();
    let noise = fixture.f64("noise");
    let n: usize = shape.iter().product();
    let mut drawn = noise.chunks(n).map(|z| tensor::<4>(z.to_vec(), shape.clone()));
    let draws = move || drawn.next().expect("another draw");
    let process: Arc<dyn Process> = Arc::new(Plain([1e-3, 1e3]));
    let chain = Chain::new(Mixture(fixture), process, solver.steps(), tensor::<4>(start, shape.clone()), draws);
    let states: Vec<_> = chain.collect();
    let [of_last, rest] = [&states[states.len() - 1], &states[0]];
    let is_heun = matches!(rule, SolverRule::Heun(_));
    let is_open = levels.last() != Some(&0.0);
    let n_evaluations = if is_heun { 2 * (levels.len() - 1) - usize::from(!is_open) } else { levels.len() - 1 };
    assert_eq!(of_last.n_evaluations, n_evaluations, "{name}");
    let values = |x: &Tensor<4>| -> Vec<f64> { x.clone().try_into_vec_as().unwrap() };
    assert_close(name, &values(&of_last.x), fixture.f64(&format!("{name}.out")), 1e-11);
    if !name.ends_with("churn") {
        // The state before the second step.
        let second = &fixture.f64(&format!("{name}.x"))[n..2 * n];
        assert_close(name, &values(&rest.x), second, 1e-11);
    }
}

fn grids_agree() {
    let fixture = open(LEVELS);
    let karras = |rho| Grid::Karras { rho };
    let poly = |rho| Grid::Polyexponential { rho };
    for n_steps in [5, 18] {
        for (name, grid, range) in [
            ("karras", karras(7.0), [0.02, 50.0]),
            ("karras_rho3", karras(3.0), [0.0292, 14.6146]),
            ("exponential", Grid::Exponential, [0.02, 50.0]),
            ("polyexponential_rho1", poly(1.0), [0.02, 50.0]),
            ("polyexponential_rho2", poly(2.0), [0.02, 50.0]),
            ("vp", Grid::Vp, [1e-3, 1e3]),
        ] {
            let solver = Solver { grid, n_steps, ..Solver::default() };
            let found = solver.sigmas(&Plain(range));
            let expected = fixture.f64(&format!("k.{name}.{n_steps}"));
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{name}: {found}, expected {expected}");
            }
        }
    }
    for n_steps in [5, 18, 40] {
        for (name, rho) in [("edm", 7.0), ("edm_rho5", 5.0)] {
            let solver = Solver { grid: karras(rho), n_steps, ..Solver::default() };
            let found = solver.sigmas(&Plain([0.002, 80.0]));
            let expected = fixture.f64(&format!("{name}.{n_steps}"));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{name}: {found}, expected {expected}");
            }
        }
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("noise levels of solvers", &[LEVELS], grids_agree)];
    cases.extend(runs().into_iter().map(|(name, rule)| {
        Case::new(format!("solver {name}"), &[SOLVERS], move || run_agrees(&open(SOLVERS), &name, rule))
    }));
    cases
}
