//! Samplers against a score known in closed form: do they find the right distribution?
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use burn::tensor::{Device, Tensor};
use ncsn::device::upload;
use ncsn::noise::{Noise, Stream};
use ncsn::sample::{AnnealedLangevin, Chain, Draws, Known, Method, PlainLangevin, Renewal, Stage, State, Update};
use ncsn::score::{GaussianMixture, Score};
use ncsn::sde::{NoiseLevels, Process};

const N: usize = 4000;

fn device() -> Device {
    Device::flex()
}

/// The end points of chains from U(−r, r)², as (x, y).
fn sample(score: &GaussianMixture, method: impl Method<2>, r: f32, seed: u64) -> Vec<[f32; 2]> {
    let mut stream = Noise::new(seed).stream("test", 0);
    let mut start = vec![0.0; 2 * N];
    stream.uniform(&mut start);
    let start = upload(start.iter().map(|u| r * (2.0 * u - 1.0)).collect(), [N, 2], &device());
    let noise = || {
        let mut z = vec![0.0; 2 * N];
        stream.normal(&mut z);
        upload(z, [N, 2], &device())
    };
    let x = Chain::new(score, score.process().clone(), method, start, noise).finish();
    x.try_into_vec_as::<f32>().unwrap().as_chunks().0.to_vec()
}

/// Perturbed from σ = 20 to 1.
fn mixture() -> GaussianMixture {
    let levels = NoiseLevels::geometric(20.0, 1.0, 10).unwrap();
    GaussianMixture::new(&[(0.8, &[5.0, 5.0]), (0.2, &[-5.0, -5.0])], 0.0, levels)
}

const ANNEALED: AnnealedLangevin = AnnealedLangevin { step_lr: 0.05, n_steps_each: 100, denoise: false };

fn weight_of_the_first_mode(x: &[[f32; 2]]) -> f64 {
    x.iter().filter(|[a, b]| a + b > 0.0).count() as f64 / x.len() as f64
}

#[test]
fn annealed_langevin_finds_both_modes_with_the_right_weights() {
    let x = sample(&mixture(), ANNEALED, 8.0, 1);
    let weight = weight_of_the_first_mode(&x);
    // Three standard errors of a share of 0.8 of N.
    let tolerance = 3.0 * (0.8f64 * 0.2 / N as f64).sqrt();
    assert!((weight - 0.8).abs() < tolerance, "{weight} ± {tolerance}");
}

#[test]
fn plain_langevin_gets_the_weights_wrong() {
    let x = sample(&mixture(), PlainLangevin { t: 0.0, n_steps: 1000, alpha: 0.05 }, 8.0, 1);
    let weight = weight_of_the_first_mode(&x);
    // From a uniform start half of the chains go to each mode and stay: the paper's figure 3.
    assert!((weight - 0.5).abs() < 0.05, "{weight}");
}

#[test]
fn the_stationary_variance_is_that_of_the_discretised_chain() {
    // x ← (1 − α/v)·x + √(2α)·z has variance 2α/(1 − (1 − α/v)²) = v/(1 − α/(2v)): a wrong factor in either term shows.
    let levels = NoiseLevels::geometric(2.0, 1.0, 2).unwrap();
    let gaussian = GaussianMixture::new(&[(1.0, &[0.0, 0.0])], 0.0, levels);
    for (t, v, alpha) in [(0.0, 1.0, 0.1), (0.0, 1.0, 0.5), (1.0, 4.0, 1.0)] {
        let x = sample(&gaussian, PlainLangevin { t, n_steps: 200, alpha }, 1.0, 7);
        let n = 2.0 * N as f64;
        let variance = x.iter().flatten().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
        let expected = v / (1.0 - alpha / (2.0 * v));
        // Four standard errors of a variance: √(2/n) of it.
        assert!(
            (variance / expected - 1.0).abs() < 4.0 * (2.0 / n).sqrt(),
            "α {alpha}: {variance}, expected {expected}"
        );
    }
}

#[test]
fn step_sizes_grow_with_the_square_of_the_level() {
    let levels = NoiseLevels::geometric(1.0, 0.01, 3).unwrap();
    let langevin = AnnealedLangevin { step_lr: 2e-5, n_steps_each: 2, denoise: true };
    let stages = Method::<2>::stages(&langevin, &levels);
    let expected = [(0, 0.2), (0, 0.2), (1, 2e-3), (1, 2e-3), (2, 2e-5), (2, 2e-5)];
    assert_eq!(stages.len(), expected.len() + 1);
    for (&stage, (level, alpha)) in stages.iter().zip(expected) {
        assert_eq!(stage, Stage::Correct { t: levels.time(level) });
        assert!((langevin.alpha(&levels, stage.t()) / alpha - 1.0).abs() < 1e-12, "{stage:?}");
    }
    assert_eq!(stages[6], Stage::Denoise { t: 0.0 });
}

#[test]
fn the_mixtures_score_is_the_gradient_of_its_log_density() {
    let levels = NoiseLevels::geometric(3.0, 1.0, 2).unwrap();
    let (s, sigma) = (0.5f64, 3.0f64);
    let mixture = GaussianMixture::new(&[(0.3, &[1.0, -2.0]), (0.7, &[-1.0, 0.5])], s, levels);
    let log_p = |x: [f64; 2]| {
        let v = s * s + sigma * sigma;
        let term = |w: f64, m: [f64; 2]| w * (-((x[0] - m[0]).powi(2) + (x[1] - m[1]).powi(2)) / (2.0 * v)).exp();
        (term(0.3, [1.0, -2.0]) + term(0.7, [-1.0, 0.5])).ln()
    };
    for x in [[0.0, 0.0], [2.0, -3.0], [-4.0, 1.0]] {
        let point = upload(vec![x[0] as f32, x[1] as f32], [1, 2], &device());
        let score = mixture.score(point, &[1.0]).try_into_vec_as::<f32>().unwrap();
        let h = 1e-5;
        for (i, found) in score.iter().enumerate() {
            let at = |d: f64| log_p(std::array::from_fn(|k| x[k] + if k == i { d } else { 0.0 }));
            let expected = (at(h) - at(-h)) / (2.0 * h);
            // f32 against a central difference whose error is about 1e-10.
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found}, expected {expected}");
        }
    }
}

/// Standard normals of `n` points, which are counted.
struct Counted {
    stream: Stream,
    n_draws: Rc<Cell<usize>>,
}

impl Draws<2> for Counted {
    fn normal(&mut self, shape: [usize; 2], device: &Device) -> Tensor<2> {
        self.n_draws.set(self.n_draws.get() + 1);
        let mut z = vec![0.0; shape.iter().product()];
        self.stream.normal(&mut z);
        upload(z, shape, device)
    }
}

#[test]
fn the_unknown_coordinate_follows_the_mode_of_the_known_one() {
    let (score, n) = (mixture(), 500);
    let column = |x: f32, y: f32| upload([x, y].repeat(n), [n, 2], &device());
    for (renewal, denoise, n_draws_expected) in [
        (Renewal::OncePerTime, false, 10),
        (Renewal::BeforeEachStage, false, 1000),
        (Renewal::BeforeEachStage, true, 1001),
    ] {
        let n_draws = Rc::new(Cell::new(0));
        let draws = |name, n_draws: &Rc<Cell<usize>>| Counted {
            stream: Noise::new(2).stream(name, 0),
            n_draws: n_draws.clone(),
        };
        let known = Known::new(column(1.0, 0.0), column(-5.0, 0.0), renewal, draws("known", &n_draws));
        let method = AnnealedLangevin { denoise, ..ANNEALED };
        let (start, updates) = (column(0.0, 0.0), Rc::default());
        let chain = Chain::new(&score, score.process().clone(), method, start, draws("updates", &updates));
        let last = chain.with_known(known).last().unwrap();
        assert_eq!((n_draws.get(), updates.get()), (n_draws_expected, 1000), "{renewal:?}");
        assert_eq!(last.n_evaluations, 1000 + usize::from(denoise));
        let x = last.x.try_into_vec_as::<f32>().unwrap();
        let mean = |i: usize| x.chunks(2).map(|p| f64::from(p[i])).sum::<f64>() / n as f64;
        // Both are N(−5, 1) at the last level, or less: five standard errors of a mean of n.
        let tolerance = 5.0 / (n as f64).sqrt();
        assert!((mean(0) + 5.0).abs() < tolerance && (mean(1) + 5.0).abs() < tolerance, "({}, {})", mean(0), mean(1));
    }
}

#[test]
fn the_last_stage_removes_the_noise_that_is_left() {
    // Of one point the score is known: x + σ²·s(x, t) is the point.
    let levels = NoiseLevels::geometric(2.0, 0.5, 5).unwrap();
    let point = GaussianMixture::new(&[(1.0, &[3.0, -1.0])], 0.0, levels);
    let spread = |denoise| {
        let x = sample(&point, AnnealedLangevin { denoise, step_lr: 0.05, n_steps_each: 20 }, 1.0, 3);
        x.iter().map(|[a, b]| (a - 3.0).abs().max((b + 1.0).abs())).fold(0.0, f32::max)
    };
    assert!(spread(false) > 1.0 && spread(true) < 1e-5, "{} {}", spread(false), spread(true));
}

#[test]
fn a_watched_chain_goes_the_same_way_and_says_what_the_last_update_did_at_each_level() {
    let (score, n) = (mixture(), 7);
    let method = AnnealedLangevin { n_steps_each: 3, denoise: true, ..ANNEALED };
    let drawn: Rc<RefCell<Vec<Tensor<2>>>> = Rc::default();
    let states = |is_watched: bool| -> Vec<State<2>> {
        let mut stream = Noise::new(5).stream("test", 0);
        let drawn = drawn.clone();
        drawn.borrow_mut().clear();
        let mut normal = move || {
            let mut z = vec![0.0; 2 * n];
            stream.normal(&mut z);
            let z = upload(z, [n, 2], &device());
            drawn.borrow_mut().push(z.clone());
            z
        };
        let start = normal() * 20.0;
        let chain = Chain::new(&score, score.process().clone(), method, start, normal);
        if is_watched { chain.watched().collect() } else { chain.collect() }
    };
    let plain = states(false);
    let watched = states(true);
    let values = |x: &Tensor<2>| x.clone().try_into_vec_as::<f32>().unwrap();
    assert!(plain.iter().all(|state| state.evaluation.is_none()));
    assert!(plain.iter().zip(&watched).all(|(a, b)| values(&a.x) == values(&b.x)));

    let process: &dyn Process = &**score.process();
    let updates: Vec<_> = watched.iter().map(|state| method.last_update(process, state).unwrap()).collect();
    // At the end of each level, and not of the step without noise.
    let places: Vec<usize> = (0..updates.len()).filter(|&i| updates[i].is_some()).collect();
    assert_eq!(places, (0..10).map(|level| 3 * level + 2).collect::<Vec<_>>());
    for (level, i) in places.into_iter().enumerate() {
        let found = updates[i].unwrap();
        let t = process.time(level);
        let (alpha, sigma) = (method.alpha(process, t), process.marginal(t).std);
        let s = values(&score.score(watched[i - 1].x.clone(), &vec![t; n]));
        let mean_norm = |x: &[f32]| x.chunks(2).map(|x| f64::from(x[0]).hypot(f64::from(x[1]))).sum::<f64>() / n as f64;
        let mean = |i: usize| s.iter().skip(i).step_by(2).map(|&s| f64::from(s)).sum::<f64>() / n as f64;
        // The first of the draws is the start.
        let z = values(&drawn.borrow()[i + 1]);
        let expected = [
            level as f64,
            sigma,
            alpha,
            mean_norm(&s),
            mean_norm(&values(&watched[i].x)),
            (alpha / 2.0).sqrt() * mean_norm(&s) / mean_norm(&z),
            (mean(0).hypot(mean(1)) * sigma).powi(2),
        ];
        let Update { level, sigma, alpha, score_norm, x_norm, snr, mean_score } = found;
        let found = [level as f64, sigma, alpha, score_norm, x_norm, snr, mean_score];
        for (found, expected) in found.into_iter().zip(expected) {
            // z is found again from x of about 20, whose roundings are 2e-6, while it moves x by a third.
            assert!((found - expected).abs() <= 2e-5 * expected.abs(), "{found} and {expected}");
        }
    }
}
