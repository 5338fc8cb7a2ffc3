//! Samplers against a score known in closed form: do they find the right distribution?
#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use ncsn::device::upload;
use ncsn::noise::{Noise, Stream};
use ncsn::sample::{
    AnnealedLangevin, Chain, Corrector, Draws, ErrorNorm, Flow, Known, Method, Norms, PlainLangevin, Predictor,
    PredictorCorrector, ProbabilityFlow, Renewal, Sampler, Stage, State, Streams, Update,
};
use ncsn::score::{GaussianMixture, Guided, Score};
use ncsn::sde::{Marginal, NoiseLevels, Process, Reverse, SubVp, Ve, Vp};

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

/// Two modes of standard deviation 0.2 in two dimensions, with weights 0.8 and 0.2, under each of the processes in 200 steps.
fn under_each_process() -> [GaussianMixture; 3] {
    fn modes(process: impl Process + 'static) -> GaussianMixture {
        GaussianMixture::new(&[(0.8, &[1.0, 1.0]), (0.2, &[-1.0, -1.0])], 0.2, process)
    }
    [
        modes(Ve::new(0.01, 10.0, 200).unwrap()),
        modes(Vp::new(0.1, 20.0, 200).unwrap()),
        modes(SubVp::new(0.1, 20.0, 200).unwrap()),
    ]
}

const PREDICTORS: [Predictor; 5] = [
    Predictor::EulerMaruyama(Reverse::Sde),
    Predictor::EulerMaruyama(Reverse::ProbabilityFlow),
    Predictor::ReverseDiffusion(Reverse::Sde),
    Predictor::ReverseDiffusion(Reverse::ProbabilityFlow),
    Predictor::AncestralSampling,
];

/// Points of the prior, and a source of noise, of a stream for each.
fn prior(process: &dyn Process, numbers: impl Iterator<Item = u64> + Clone, dim: usize) -> (Tensor<2>, Streams) {
    let streams = |name: &str| numbers.clone().map(|k| Noise::new(5).stream(name, k)).collect::<Vec<_>>();
    let mut start = Streams(streams("prior"));
    let z: Tensor<2> = start.normal([numbers.clone().count(), dim], &device());
    (z * process.prior_std(), Streams(streams("noise")))
}

#[test]
fn every_predictor_with_every_corrector_finds_both_modes() {
    const N: u64 = 2000;
    let langevin = Corrector::Langevin { snr: 0.16, norms: Norms::BatchMean };
    for score in under_each_process() {
        for predictor in PREDICTORS {
            for corrector in [Corrector::None, langevin, Corrector::Ald { snr: 0.16 }] {
                let method = PredictorCorrector { predictor, corrector, ..PredictorCorrector::default() };
                let (start, draws) = prior(&**score.process(), 0..N, 2);
                let x = Chain::new(&score, score.process().clone(), method, start, draws).finish();
                let x = x.try_into_vec_as::<f32>().unwrap().as_chunks().0.to_vec();
                let weight = weight_of_the_first_mode(&x);
                let of_first: Vec<f64> =
                    x.iter().filter(|[a, b]| a + b > 0.0).flatten().map(|&x| f64::from(x) - 1.0).collect();
                let n = of_first.len() as f64;
                let mean = of_first.iter().sum::<f64>() / n;
                let std = (of_first.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
                // Three standard errors are 0.027, 0.011 and 0.0075; the rest is what 200 steps are off.
                let what = format!("{predictor:?}, {corrector:?}, {:?}: {weight}, {mean}, {std}", score.process());
                assert!((weight - 0.8).abs() < 0.05 && mean.abs() < 0.03 && (std - 0.2).abs() < 0.025, "{what}");
            }
        }
    }
}

#[test]
fn norms_of_each_sample_do_in_many_dimensions() {
    let gaussian = GaussianMixture::new(&[(1.0, &[0.5; 300])], 0.2, Vp::new(0.1, 20.0, 100).unwrap());
    let corrector = Corrector::Langevin { snr: 0.16, norms: Norms::PerSample };
    let method = PredictorCorrector {
        predictor: Predictor::EulerMaruyama(Reverse::Sde),
        corrector,
        ..PredictorCorrector::default()
    };
    let (start, draws) = prior(&**gaussian.process(), 0..20, 300);
    let x = Chain::new(&gaussian, gaussian.process().clone(), method, start, draws).finish();
    let x: Vec<f64> = x.try_into_vec_as::<f32>().unwrap().into_iter().map(f64::from).collect();
    let mean = x.iter().sum::<f64>() / 6000.0;
    let std = (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 6000.0).sqrt();
    // Three standard errors are 0.008 and 0.006.
    assert!((mean - 0.5).abs() < 0.012 && (std - 0.2).abs() < 0.012, "{mean}, {std}");
}

#[test]
fn a_sample_does_not_depend_on_its_companions() {
    let correctors =
        [Corrector::None, Corrector::Langevin { snr: 0.16, norms: Norms::PerSample }, Corrector::Ald { snr: 0.16 }];
    for score in under_each_process() {
        for predictor in PREDICTORS.into_iter().chain([Predictor::None]) {
            for corrector in correctors {
                let method =
                    PredictorCorrector { predictor, corrector, n_steps_each: 2, ..PredictorCorrector::default() };
                let run = |numbers: std::ops::Range<u64>| {
                    let (start, draws) = prior(&**score.process(), numbers, 2);
                    let x = Chain::new(&score, score.process().clone(), method, start, draws).take(60).last();
                    x.map_or_else(Vec::new, |state| state.x.try_into_vec_as::<f32>().unwrap())
                };
                let together = run(0..5);
                let apart: Vec<f32> = (0..5).flat_map(|k| run(k..k + 1)).collect();
                assert_eq!(together, apart, "{predictor:?}, {corrector:?}, {:?}", score.process());
            }
        }
        let run = |numbers: std::ops::Range<u64>| {
            let (z, _) = prior(&**score.process(), numbers, 2);
            let flowed = ProbabilityFlow::default().sample(&score, &**score.process(), z).unwrap();
            (flowed.x.try_into_vec_as::<f32>().unwrap(), flowed.n_evaluations)
        };
        let (together, n_evaluations) = run(0..5);
        for k in 0..5 {
            assert_eq!(run(k..k + 1), (together[2 * k as usize..][..2].to_vec(), vec![n_evaluations[k as usize]]));
        }
    }
}

#[test]
fn evaluations_are_counted_as_they_are_made() {
    /// A score that counts.
    struct Counting<'a>(&'a GaussianMixture, Cell<usize>);
    impl Score<2> for Counting<'_> {
        fn score(&self, x: Tensor<2>, t: &[f64]) -> Tensor<2> {
            self.1.set(self.1.get() + 1);
            self.0.score(x, t)
        }
    }
    let [score, ..] = under_each_process();
    let corrector = Corrector::Ald { snr: 0.16 };
    for (predictor, corrector, n_steps_each, expected) in [
        (Predictor::AncestralSampling, corrector, 2, 3 * 200),
        (Predictor::AncestralSampling, Corrector::None, 2, 200),
        // And one of the stage that removes the noise.
        (Predictor::None, corrector, 1, 200 + 1),
        (Predictor::None, Corrector::None, 1, 1),
    ] {
        let method = PredictorCorrector { predictor, corrector, n_steps_each, ..PredictorCorrector::default() };
        let (start, draws) = prior(&**score.process(), 0..2, 2);
        let counting = Counting(&score, Cell::new(0));
        let last = Chain::new(&counting, score.process().clone(), method, start, draws).last().unwrap();
        assert_eq!((last.n_evaluations, counting.1.get()), (expected, expected), "{predictor:?}, {corrector:?}");
    }
    let counting = Counting(&score, Cell::new(0));
    let (z, _) = prior(&**score.process(), 0..2, 2);
    let flowed = ProbabilityFlow::default().sample(&counting, &**score.process(), z).unwrap();
    assert_eq!(flowed.n_evaluations.iter().max(), Some(&counting.1.get()));
    assert!(flowed.n_evaluations.iter().all(|n| (n - 3) % 6 == 0), "{:?}", flowed.n_evaluations);
}

#[test]
fn annealed_langevin_is_a_corrector_without_predictor() {
    // With snr = √(ε/2)/σ_L.
    let mixture = mixture();
    let run = |method: Box<dyn Method<2>>| {
        let (start, draws) = prior(&**mixture.process(), 0..50, 2);
        Chain::new(&mixture, mixture.process().clone(), method, start, draws).finish().try_into_vec_as::<f32>().unwrap()
    };
    let annealed = run(Box::new(AnnealedLangevin { step_lr: 0.05, n_steps_each: 5, denoise: true }));
    let (predictor, corrector) = (Predictor::None, Corrector::Ald { snr: (0.05f64 / 2.0).sqrt() });
    let corrected = run(Box::new(PredictorCorrector { predictor, corrector, n_steps_each: 5, noise_removal: true }));
    for (a, b) in annealed.iter().zip(corrected) {
        assert!((a - b).abs() < 1e-3, "{a}, {b}");
    }
}

#[test]
fn the_probability_flow_of_a_gaussian_is_known() {
    // States keep their place in units of the standard deviation: x = α·μ + √v·ζ with the same ζ at all times.
    let (mean, std) = ([0.5, -1.0], 0.3);
    fn gaussian(process: impl Process + 'static) -> GaussianMixture {
        GaussianMixture::new(&[(1.0, &[0.5, -1.0])], 0.3, process)
    }
    for score in [
        gaussian(Ve::new(0.01, 10.0, 1000).unwrap()),
        gaussian(Vp::new(0.1, 20.0, 1000).unwrap()),
        gaussian(SubVp::new(0.1, 20.0, 1000).unwrap()),
    ] {
        let process = &**score.process();
        let at = |t: f64| {
            let Marginal { alpha, std: noise } = process.marginal(t);
            (alpha, (alpha * std).hypot(noise))
        };
        let ((alpha, scale), (alpha_end, scale_end)) = (at(1.0), at(process.times()[0]));
        let (z, _) = prior(process, 0..7, 2);
        let start = z.clone().try_into_vec_as::<f32>().unwrap();
        for norm in [ErrorNorm::PerSample, ErrorNorm::Batch] {
            let mut flow = ProbabilityFlow { noise_removal: false, ..ProbabilityFlow::default() };
            flow.solver.norm = norm;
            let x = flow.sample(&score, process, z.clone()).unwrap().x.try_into_vec_as::<f32>().unwrap();
            for (i, (x, z)) in x.into_iter().zip(&start).enumerate() {
                let expected = alpha_end * mean[i % 2] + scale_end / scale * (f64::from(*z) - alpha * mean[i % 2]);
                // Ten times the tolerance of the solver.
                assert!((f64::from(x) - expected).abs() < 1e-4, "{x}, expected {expected}, {process:?}");
            }
        }
    }
}

/// The score of N(mean, Σ) under a process, of Σ = Σₖ variances[k]·axes[k]·axes[k]ᵀ with orthonormal axes.
struct Gaussian {
    mean: Vec<f64>,
    axes: Vec<Vec<f64>>,
    variances: Vec<f64>,
    process: Arc<dyn Process>,
}

impl<const D: usize> Score<D> for Gaussian {
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let (shape, device) = (x.dims(), x.device());
        let x: Vec<f64> = x.try_into_vec_as::<f32>().unwrap().into_iter().map(f64::from).collect();
        let mut s = Vec::with_capacity(x.len());
        for (x, &t) in x.chunks(self.mean.len()).zip(t) {
            let Marginal { alpha, std } = self.process.marginal(t);
            let off: Vec<f64> = x.iter().zip(&self.mean).map(|(x, m)| x - alpha * m).collect();
            let along = |axis: &Vec<f64>| axis.iter().zip(&off).map(|(a, o)| a * o).sum::<f64>();
            let parts: Vec<f64> = self
                .axes
                .iter()
                .zip(&self.variances)
                .map(|(axis, v)| -along(axis) / (alpha * alpha * v + std * std))
                .collect();
            s.extend((0..x.len()).map(|i| self.axes.iter().zip(&parts).map(|(a, p)| a[i] * p).sum::<f64>() as f32));
        }
        upload(s, shape, &device)
    }
}

impl Gaussian {
    fn covariance(&self, i: usize, j: usize) -> f64 {
        self.axes.iter().zip(&self.variances).map(|(a, v)| v * a[i] * a[j]).sum()
    }
}

fn each_process(n: usize) -> [Arc<dyn Process>; 3] {
    [
        Arc::new(Ve::new(0.01, 10.0, n).unwrap()),
        Arc::new(Vp::new(0.1, 20.0, n).unwrap()),
        Arc::new(SubVp::new(0.1, 20.0, n).unwrap()),
    ]
}

fn mean_and_variance(x: impl Iterator<Item = f64> + Clone) -> [f64; 2] {
    let n = x.clone().count() as f64;
    let mean = x.clone().sum::<f64>() / n;
    [mean, x.map(|x| (x - mean).powi(2)).sum::<f64>() / n]
}

#[test]
fn what_is_not_known_is_drawn_from_its_posterior() {
    // Of a Gaussian with covariances [1, 0.8; 0.8, 1]: N(m₁ + 0.8·(x₀ − m₀), 1 − 0.8²) if x₀ is known.
    const N: u64 = 2000;
    let r = std::f64::consts::FRAC_1_SQRT_2;
    let (mean, axes, variances) = (vec![0.2, -0.3], vec![vec![r, r], vec![r, -r]], vec![1.8, 0.2]);
    let expected = [-0.3 + 0.8 * (1.0 - 0.2), 0.36];
    for process in each_process(200) {
        let score =
            Gaussian { mean: mean.clone(), axes: axes.clone(), variances: variances.clone(), process: process.clone() };
        for predictor in PREDICTORS {
            // Steps that go with the score, so that the rest has time to follow the known part when that is nearly without noise: those
            // of `Ald` are too short by then.
            let corrector = Corrector::Langevin { snr: 0.16, norms: Norms::BatchMean };
            let method = PredictorCorrector { predictor, corrector, n_steps_each: 2, noise_removal: true };
            let (start, draws) = prior(&*process, 0..N, 2);
            let row = |x: [f32; 2]| upload::<2>(x.to_vec(), [1, 2], &device());
            let streams = Streams((0..N).map(|k| Noise::new(8).stream("known", k)).collect());
            let known = Known::new(row([1.0, 0.0]), row([1.0, 0.0]), Renewal::AfterEachStage, streams);
            let chain = Chain::new(&score, process.clone(), method, start, draws).with_known(known);
            let x = chain.finish().try_into_vec_as::<f32>().unwrap();
            let alpha = process.marginal(process.times()[0]).alpha as f32;
            assert!(x.iter().step_by(2).all(|x| (x - alpha).abs() < 1e-6), "the known part has no noise");
            let found = mean_and_variance(x.iter().skip(1).step_by(2).map(|&x| f64::from(x)));
            // Three standard errors are 0.040 and 0.034; the rest is what 200 steps are off.
            let off = [0, 1].map(|i| (found[i] - expected[i]).abs());
            assert!(off.iter().all(|off| *off < 0.05), "{predictor}, {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn colours_are_drawn_from_their_posterior_and_the_grey_image_stays() {
    const N: u64 = 2000;
    // Axes that are not those of the colour basis.
    let (a, b) = (1.0 / 3.0, 2.0 / 3.0);
    let axes = vec![vec![a, b, b], vec![b, a, -b], vec![b, -b, a]];
    for process in each_process(200) {
        let score = Gaussian {
            mean: vec![0.5, 0.4, 0.3],
            axes: axes.clone(),
            variances: vec![0.5, 0.2, 0.05],
            process: process.clone(),
        };
        let method = PredictorCorrector {
            corrector: Corrector::Langevin { snr: 0.16, norms: Norms::BatchMean },
            n_steps_each: 2,
            ..PredictorCorrector::default()
        };
        let (start, draws) = prior(&*process, 0..N, 3);
        let start = start.reshape([N as usize, 3, 1, 1]);
        let streams = Streams((0..N).map(|k| Noise::new(8).stream("known", k)).collect());
        let grey = upload::<4>(vec![0.9; 3], [1, 3, 1, 1], &device());
        let known = Known::grey(grey, Renewal::AfterEachStage, streams);
        let x = Chain::new(&score, process.clone(), method, start, draws).with_known(known).finish();
        let x = x.try_into_vec_as::<f32>().unwrap();
        let rows: Vec<[f64; 3]> = x.as_chunks::<3>().0.iter().map(|x| x.map(f64::from)).collect();
        let alpha = process.marginal(process.times()[0]).alpha;
        assert!(rows.iter().all(|x| (x.iter().sum::<f64>() / 3.0 - 0.9 * alpha).abs() < 1e-6));
        // Given the mean g of the channels, channel i is N(mᵢ + cᵢ/c·(g − m), Σᵢᵢ − cᵢ²/c) with the mean cᵢ of row i of Σ.
        let row = |i: usize| (0..3).map(|j| score.covariance(i, j)).sum::<f64>() / 3.0;
        let (c, m) = ((0..3).map(row).sum::<f64>() / 3.0, 0.4);
        for i in 0..3 {
            let expected = [score.mean[i] + row(i) / c * (0.9 - m), score.covariance(i, i) - row(i).powi(2) / c];
            let found = mean_and_variance(rows.iter().map(|x| x[i]));
            // Three standard errors are 0.025 and a tenth.
            let off = [(found[0] - expected[0]).abs() / 0.03, (found[1] / expected[1] - 1.0).abs() / 0.12];
            assert!(off.iter().all(|off| *off < 1.0), "{i}: {found:?}, expected {expected:?}");
        }
    }
}

#[test]
fn guidance_leads_to_one_of_two_modes() {
    // Of two components the log odds are linear in x, and so is the gradient known: ∇ₓ ln p(first | x, t) is a·(1, 1)/(1 + odds) with
    // a = 2α/v because μ₀ − μ₁ = (2, 2), and that of the second is −a·(1, 1)/(1 + 1/odds).
    for mixture in under_each_process() {
        let process = mixture.process().clone();
        let at = |t: f64| {
            let Marginal { alpha, std } = process.marginal(t);
            2.0 * alpha / ((alpha * 0.2).powi(2) + std * std)
        };
        let guidance = |x: Tensor<2>, t: &[f64], is_first: bool| -> Tensor<2> {
            let (shape, device) = (x.dims(), x.device());
            let x = x.try_into_vec_as::<f32>().unwrap();
            let gradient = |(x, &t): (&[f32; 2], &f64)| {
                let a = at(t);
                // Half the square of the distance to αμ₁ less that to αμ₀ is 2α·(x₀ + x₁).
                let log_odds = 4.0f64.ln() + a * f64::from(x[0] + x[1]);
                let one = if is_first { a / (1.0 + log_odds.exp()) } else { -a / (1.0 + (-log_odds).exp()) };
                [one as f32; 2]
            };
            upload(x.as_chunks().0.iter().zip(t).flat_map(gradient).collect(), shape, &device)
        };
        for is_first in [true, false] {
            let guidance = |x: Tensor<2>, t: &[f64]| guidance(x, t, is_first);
            let score = Guided { score: &mixture, guidance, scale: 1.0 };
            let method = PredictorCorrector { corrector: Corrector::None, ..PredictorCorrector::default() };
            let (start, draws) = prior(&*process, 0..500, 2);
            let x = Chain::new(score, process.clone(), method, start, draws).finish();
            let x = x.try_into_vec_as::<f32>().unwrap();
            let expected = if is_first { 1.0 } else { -1.0 };
            assert_eq!(weight_of_the_first_mode(x.as_chunks().0), f64::from(u8::from(is_first)));
            let [mean, variance] = mean_and_variance(x.iter().map(|&x| f64::from(x)));
            // Three standard errors are 0.019 and 0.0054; the rest is what 200 steps are off.
            assert!((mean - expected).abs() < 0.03 && (variance - 0.04).abs() < 0.012, "{mean}, {variance}");
        }
    }
}

#[test]
fn no_sampler_lets_a_sample_depend_on_its_companions_by_default() {
    let langevin = Sampler::AnnealedLangevin(AnnealedLangevin::default());
    let pc = Sampler::PredictorCorrector(PredictorCorrector::default());
    let flow = Sampler::ProbabilityFlow(ProbabilityFlow::default());
    let levels = (mixture(), vec![&langevin, &pc]);
    for (score, samplers) in under_each_process().map(|score| (score, vec![&pc, &flow])).into_iter().chain([levels]) {
        for sampler in samplers {
            let run = |numbers: std::ops::Range<u64>| {
                let (start, draws) = prior(&**score.process(), numbers, 2);
                let trajectory = sampler.trajectory(&score, score.process().clone(), start, draws);
                let state = trajectory.take(200).last().unwrap().unwrap();
                state.x.try_into_vec_as::<f32>().unwrap()
            };
            let apart: Vec<f32> = (0..4).flat_map(|k| run(k..k + 1)).collect();
            assert!(apart.iter().all(|x| x.is_finite()), "{sampler}");
            assert_eq!(run(0..4), apart, "{sampler}");
        }
    }
}

#[test]
fn the_published_programs_slips_are_there_when_asked_for() {
    // One stage, whose predictor does nothing: what is seen is the start, and the end.
    let process: Arc<dyn Process> = Arc::new(Ve::new(0.01, 10.0, 1).unwrap());
    let nothing = |x: Tensor<4>| x.zeros_like();
    struct Zero<F>(F);
    impl<F: Fn(Tensor<4>) -> Tensor<4>> Score<4> for Zero<F> {
        fn score(&self, x: Tensor<4>, _: &[f64]) -> Tensor<4> {
            self.0(x)
        }
    }
    let tensor = |x: [f32; 3]| upload::<4>(x.to_vec(), [1, 3, 1, 1], &device());
    let method = PredictorCorrector {
        predictor: Predictor::None,
        corrector: Corrector::Ald { snr: 0.0 },
        n_steps_each: 2,
        noise_removal: false,
    };
    let run = |known: Known<4>| {
        let z = || -> Tensor<4> { Tensor::ones([1, 3, 1, 1], &device()) };
        let chain = Chain::new(Zero(nothing), process.clone(), method, tensor([3.0, 4.0, 5.0]), z).with_known(known);
        chain.map(|state| state.x.try_into_vec_as::<f32>().unwrap()).collect::<Vec<_>>()
    };
    let z = || -> Tensor<4> { Tensor::ones([1, 3, 1, 1], &device()) };
    let known = |renewal| Known::new(tensor([1.0, 0.0, 0.0]), tensor([0.5, 7.0, 7.0]), renewal, z);
    // At σ = 10 with z = 1 everywhere.
    assert_eq!(run(known(Renewal::AfterEachStage)), [[10.5, 4.0, 5.0], [10.5, 4.0, 5.0]]);
    assert_eq!(run(known(Renewal::AsPublished)), [[10.5, 4.0, 5.0], [0.5, 4.0, 5.0]]);
    let close = |found: &[f32], expected: [f32; 3]| {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-5), "{found:?}, expected {expected:?}");
    };
    // z = 1 in the basis: √3/3·10 more grey than 0.9. The rest has lost its grey, (3 + 4 + 5)/3, or its red before it did.
    let noise = 10.0 / 3f32.sqrt();
    let [of_ours, of_published] = [[-1.0, 0.0, 1.0], [-3.0, 1.0, 2.0]];
    let grey = |renewal| Known::grey(tensor([0.9; 3]), renewal, z);
    let found = run(grey(Renewal::AfterEachStage));
    close(&found[1], of_ours.map(|x| x + 0.9 + noise));
    let found = run(grey(Renewal::AsPublished));
    close(&found[0], of_published.map(|x| x + 0.9 + noise));
    close(&found[1], of_published.map(|x| x + 0.9));
}

#[test]
fn data_go_to_latents_and_back() {
    for score in under_each_process() {
        let process = &**score.process();
        let data: Vec<f32> = (0..9)
            .flat_map(|k| score.sample::<2>(process.times()[0], &mut Noise::new(6).stream("data", k)))
            .map(|x| x as f32)
            .collect();
        for norm in [ErrorNorm::PerSample, ErrorNorm::Batch] {
            let mut flow = ProbabilityFlow { noise_removal: false, ..ProbabilityFlow::default() };
            flow.solver.norm = norm;
            let latents = flow.encode(&score, process, upload(data.clone(), [9, 2], &device())).unwrap();
            assert!(latents.n_evaluations.iter().all(|n| n % 6 == 2));
            let back = flow.sample(&score, process, latents.x.clone()).unwrap();
            let spread = latents.x.square().mean().into_scalar::<f32>().sqrt();
            assert!((f64::from(spread) / process.prior_std() - 1.0).abs() < 0.8, "{spread}");
            for (back, x) in back.x.try_into_vec_as::<f32>().unwrap().into_iter().zip(&data) {
                // The solver's tolerance, 1e-5, and f32's of latents of size 10 in VE, many times over between the modes, where
                // the flow spreads what is near.
                assert!((back - x).abs() < 2e-3, "{back}, expected {x}, {process:?}");
            }
        }
    }
}

#[test]
fn a_flow_that_is_watched_ends_where_it_would_have() {
    let [score, ..] = under_each_process();
    let process = score.process();
    for noise_removal in [false, true] {
        let settings = ProbabilityFlow { noise_removal, ..ProbabilityFlow::default() };
        let (z, _) = prior(&**process, 0..4, 2);
        let expected = settings.sample(&score, &**process, z.clone()).unwrap();
        let mut flow = Flow::new(&score, process.clone(), settings, z);
        let (mut last, mut part) = (None, 0.0);
        while let Some(state) = flow.next() {
            let state = state.unwrap();
            assert!(flow.part_done() >= part && flow.part_done() <= 1.0);
            part = flow.part_done();
            last = Some(state);
        }
        let last = last.unwrap();
        assert_eq!((part, flow.is_done()), (1.0, true));
        assert_eq!(flow.n_evaluations(), expected.n_evaluations);
        assert_eq!(Some(&last.n_evaluations), expected.n_evaluations.iter().max());
        assert_eq!(last.x.try_into_vec_as::<f32>().unwrap(), expected.x.try_into_vec_as::<f32>().unwrap());
        assert_eq!(matches!(last.stage, Stage::Denoise { .. }), noise_removal);
    }
    let mut broken =
        Flow::new(&score, process.clone(), ProbabilityFlow::default(), prior(&**process, 0..1, 2).0 * f64::NAN);
    assert!(broken.by_ref().any(|state| state.is_err()) && broken.next().is_none());
}
