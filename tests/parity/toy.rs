//! Distributions in the plane and their samplers.

use burn::tensor::Tensor;
use ncsn::sample::{AnnealedLangevin, Chain, PlainLangevin};
use ncsn::score::{GaussianMixture, Score};
use ncsn::sde::NoiseLevels;
use ncsn::toy::{Ring, Square, mixture};

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};

const FILE: &str = "ncsn/toy/toy.safetensors";

/// All questions about the plane.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("the mixture's density and score agree", &[FILE], mixture_agrees),
        Case::new("the mixture's density and score agree in five dimensions", &[FILE], mixture_in_five_dimensions),
        Case::new("the square's and the ring's densities and scores agree", &[FILE], shapes_agree),
        Case::new("both toy samplers follow the published trajectories", &[FILE], samplers_agree),
    ]
}

fn one_level(sigma: f64) -> NoiseLevels {
    NoiseLevels::geometric(sigma, sigma / 2.0, 1).unwrap()
}

fn log_densities(case: &Fixture, x: &str, f: impl Fn(&[f64]) -> f64) -> Vec<f32> {
    let dim = case.shape(x)[1];
    case.f64(x).chunks(dim).map(|x| f(x) as f32).collect()
}

/// Two f32 computations of the score far from the modes differ by 3e-6 of the largest, as the reference's do.
const SCORES: f64 = 3e-5;

fn score_of<S: Score<2>>(case: &Fixture, x: &str, score: &S) -> Vec<f32> {
    let x: Tensor<2> = case.tensor(x, &fixture::device());
    let t = vec![1.0; x.dims()[0]];
    values(score.score(x, &t))
}

fn mixture_agrees() {
    let case = open(FILE);
    for sigma in [1.0, 3.0] {
        let mixture = mixture(one_level(sigma));
        // The published density lacks one of its two factors 1/√(2πσ²).
        let constant = 0.5 * (std::f64::consts::TAU * sigma * sigma).ln();
        let found = log_densities(&case, "grid", |x| mixture.log_density(x, 1.0) + constant);
        for name in ["GMMDist", "GMMDistAnneal"] {
            assert_close(name, &found, case.f64(&format!("{name}.log_prob.sigma{sigma}")), 2e-6);
        }
        let found = score_of(&case, "grid", &mixture);
        for name in ["GMMDistAnneal.score", "GMMDist.autograd_score"] {
            assert_close(name, &found, case.f64(&format!("{name}.sigma{sigma}")), SCORES);
        }
    }
}

fn mixture_in_five_dimensions() {
    let case = open(FILE);
    let mixture = GaussianMixture::new(&[(0.8, &[5.0; 5]), (0.2, &[-5.0; 5])], 0.0, one_level(2.0));
    let constant = 2.0 * (std::f64::consts::TAU * 4.0).ln();
    let found = log_densities(&case, "x_dimD", |x| mixture.log_density(x, 1.0) + constant);
    assert_close("log density", &found, case.f64("GMMDistAnneal.dimD.log_prob.sigma2"), 2e-6);
    assert_close("score", &score_of(&case, "x_dimD", &mixture), case.f64("GMMDistAnneal.dimD.score.sigma2"), SCORES);
}

fn shapes_agree() {
    let case = open(FILE);
    for half_width in [4.0, 2.5] {
        let square = Square { half_width };
        // The published −∞ is −10¹⁰.
        let found = log_densities(&case, "grid", |x| square.log_density([x[0], x[1]]).max(-1e10));
        let name = format!("Square.log_prob.range{half_width:?}");
        // Not relative to that.
        for (found, &expected) in found.iter().zip(case.f64(&name)) {
            assert!((f64::from(*found) / expected - 1.0).abs() < 1e-6, "{name}: {found}, expected {expected}");
        }
    }
    for (radius, width) in [(5.0, 1.0), (3.0, 3.0)] {
        let ring = Ring { radius, width };
        let found = log_densities(&case, "grid", |x| ring.log_density([x[0], x[1]]));
        let name = format!("radius{radius:?}_width{width:?}");
        assert_close(&name, &found, case.f64(&format!("Ring.log_prob.{name}")), 2e-6);
        let found = score_of(&case, "grid", &ring);
        assert_close(&name, &found, case.f64(&format!("Ring.autograd_score.{name}")), SCORES);
    }
}

fn samplers_agree() {
    let (case, device) = (open(FILE), fixture::device());
    let x = || case.tensor::<2>("langevin.x_init", &device);
    let draws = |name: &'static str| {
        let (case, device, mut i) = (&case, &device, 0..);
        move || case.row(name, i.next().unwrap(), device)
    };
    // The toy program steps by ε/2·s + √ε·z: our α is ε/2.
    let one = mixture(one_level(1.0));
    let plain = PlainLangevin { t: 1.0, n_steps: 10, alpha: 0.05 };
    let plain = Chain::new(&one, one.process().clone(), plain, x(), draws("langevin.noise")).finish();
    assert_close("plain", &values(plain), case.f64("langevin.x_final"), 1e-5);
    let ten = mixture(NoiseLevels::geometric(20.0, 1.0, 10).unwrap());
    let annealed = AnnealedLangevin { step_lr: 0.05, n_steps_each: 3, denoise: false };
    let annealed = Chain::new(&ten, ten.process().clone(), annealed, x(), draws("anneal_langevin.noise")).finish();
    assert_close("annealed", &values(annealed), case.f64("anneal_langevin.x_final"), 1e-5);
}
