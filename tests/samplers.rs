//! Samplers against a score known in closed form: do they find the right distribution?
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor};
use ncsn::device::upload;
use ncsn::noise::Noise;
use ncsn::sample::{Draw, Inpainting, Langevin, Step, annealed_steps, plain_steps};
use ncsn::score::{GaussianMixture, Score};
use ncsn::sde::NoiseLevels;

const N: usize = 4000;

fn device() -> Device {
    Device::flex()
}

/// The end points of chains from U(−r, r)², as (x, y).
fn sample(score: &GaussianMixture, steps: Vec<Step>, r: f32, seed: u64) -> Vec<[f32; 2]> {
    let mut stream = Noise::new(seed).stream("test", 0);
    let mut start = vec![0.0; 2 * N];
    stream.uniform(&mut start);
    let start = upload(start.iter().map(|u| r * (2.0 * u - 1.0)).collect(), [N, 2], &device());
    let noise = || {
        let mut z = vec![0.0; 2 * N];
        stream.normal(&mut z);
        upload(z, [N, 2], &device())
    };
    let x: Tensor<2> = Langevin::new(score, steps, start, noise).finish();
    x.try_into_vec_as::<f32>().unwrap().as_chunks().0.to_vec()
}

fn mixture(levels: &NoiseLevels) -> GaussianMixture {
    GaussianMixture::new(&[(0.8, &[5.0, 5.0]), (0.2, &[-5.0, -5.0])], 0.0, levels)
}

fn weight_of_the_first_mode(x: &[[f32; 2]]) -> f64 {
    x.iter().filter(|[a, b]| a + b > 0.0).count() as f64 / x.len() as f64
}

#[test]
fn annealed_langevin_finds_both_modes_with_the_right_weights() {
    let levels = NoiseLevels::geometric(20.0, 1.0, 10).unwrap();
    let x = sample(&mixture(&levels), annealed_steps(&levels, 100, 0.05), 8.0, 1);
    let weight = weight_of_the_first_mode(&x);
    // Three standard errors of a share of 0.8 of N.
    let tolerance = 3.0 * (0.8f64 * 0.2 / N as f64).sqrt();
    assert!((weight - 0.8).abs() < tolerance, "{weight} ± {tolerance}");
}

#[test]
fn plain_langevin_gets_the_weights_wrong() {
    let levels = NoiseLevels::geometric(20.0, 1.0, 10).unwrap();
    let x = sample(&mixture(&levels), plain_steps(9, 1000, 0.05), 8.0, 1);
    let weight = weight_of_the_first_mode(&x);
    // From a uniform start half of the chains go to each mode and stay: the paper's figure 3.
    assert!((weight - 0.5).abs() < 0.05, "{weight}");
}

#[test]
fn the_stationary_variance_is_that_of_the_discretised_chain() {
    // x ← (1 − α/v)·x + √(2α)·z has variance 2α/(1 − (1 − α/v)²) = v/(1 − α/(2v)): a wrong factor in either term shows.
    let levels = NoiseLevels::geometric(2.0, 1.0, 2).unwrap();
    let gaussian = GaussianMixture::new(&[(1.0, &[0.0, 0.0])], 0.0, &levels);
    for (level, v, alpha) in [(1, 1.0, 0.1), (1, 1.0, 0.5), (0, 4.0, 1.0)] {
        let x = sample(&gaussian, plain_steps(level, 200, alpha), 1.0, 7);
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
    let steps = annealed_steps(&levels, 2, 2e-5);
    let expected = [(0, 0.2), (0, 0.2), (1, 2e-3), (1, 2e-3), (2, 2e-5), (2, 2e-5)];
    assert_eq!(steps.len(), expected.len());
    for (step, (level, alpha)) in steps.iter().zip(expected) {
        assert_eq!(step.level, level);
        assert!((step.alpha / alpha - 1.0).abs() < 1e-12, "{step:?}");
    }
}

#[test]
fn the_mixtures_score_is_the_gradient_of_its_log_density() {
    let levels = NoiseLevels::geometric(3.0, 1.0, 2).unwrap();
    let (s, sigma) = (0.5f64, 3.0f64);
    let mixture = GaussianMixture::new(&[(0.3, &[1.0, -2.0]), (0.7, &[-1.0, 0.5])], s, &levels);
    let log_p = |x: [f64; 2]| {
        let v = s * s + sigma * sigma;
        let term = |w: f64, m: [f64; 2]| w * (-((x[0] - m[0]).powi(2) + (x[1] - m[1]).powi(2)) / (2.0 * v)).exp();
        (term(0.3, [1.0, -2.0]) + term(0.7, [-1.0, 0.5])).ln()
    };
    for x in [[0.0, 0.0], [2.0, -3.0], [-4.0, 1.0]] {
        let label = Tensor::<1, Int>::zeros([1], &device());
        let point = upload(vec![x[0] as f32, x[1] as f32], [1, 2], &device());
        let score = Score::<2>::score(&mixture, point, &label).try_into_vec_as::<f32>().unwrap();
        let h = 1e-5;
        for (i, found) in score.iter().enumerate() {
            let at = |d: f64| log_p(std::array::from_fn(|k| x[k] + if k == i { d } else { 0.0 }));
            let expected = (at(h) - at(-h)) / (2.0 * h);
            // f32 against a central difference whose error is about 1e-10.
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{found}, expected {expected}");
        }
    }
}

#[test]
fn known_coordinates_stay_known_and_the_rest_follows_their_mode() {
    let levels = NoiseLevels::geometric(20.0, 1.0, 10).unwrap();
    let score = mixture(&levels);
    let n = 500;
    let column = |x: f32, y: f32| upload([x, y].repeat(n), [n, 2], &device());
    let (mask, reference) = (column(1.0, 0.0), column(-5.0, 0.0));
    let mut stream = Noise::new(2).stream("test", 0);
    let mut n_known = 0;
    let noise = |draw| {
        n_known += usize::from(draw == Draw::Known);
        let mut z = vec![0.0; 2 * n];
        stream.normal(&mut z);
        upload::<2>(z, [n, 2], &device())
    };
    let chain = Inpainting::new(
        &score,
        &levels,
        annealed_steps(&levels, 100, 0.05),
        column(0.0, 0.0),
        [mask, reference],
        noise,
    );
    let x = chain.last().unwrap().x.try_into_vec_as::<f32>().unwrap();
    assert_eq!(n_known, 10, "one draw a level");
    let mean = |i: usize| x.chunks(2).map(|p| f64::from(p[i])).sum::<f64>() / n as f64;
    // Both are N(−5, 1) at the last level: five standard errors of a mean of n.
    let tolerance = 5.0 / (n as f64).sqrt();
    assert!((mean(0) + 5.0).abs() < tolerance && (mean(1) + 5.0).abs() < tolerance, "({}, {})", mean(0), mean(1));
}
