//! The paper's points about the plane.
#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use ncsn::noise::{Noise, Stream};
use ncsn::sample::{AnnealedLangevin, Method, PlainLangevin};
use ncsn::sde::NoiseLevels;
use ncsn::toy::{self, Estimate, Ring, Square, ToyTraining};

const N: usize = 1280;

/// 3 standard errors: a right sampler fails once in 370 seeds, and the seed is fixed.
fn agrees(found: Estimate, exact: f64) -> bool {
    (found.mean - exact).abs() <= 3.0 * found.std_error
}

#[test]
fn annealed_langevin_finds_both_modes_with_the_right_weights_and_plain_langevin_does_not() {
    let device = Device::flex();
    let mixture = toy::mixture(NoiseLevels::geometric(20.0, 1.0, 10).unwrap());
    let weight = |method: Box<dyn Method<2>>| {
        let ends = toy::sample(&mixture, mixture.process(), method, N, Noise::new(1), &device);
        toy::first_mode_weight(&toy::points(ends).unwrap())
    };
    let annealed = weight(Box::new(AnnealedLangevin { step_lr: 0.05, ..AnnealedLangevin::default() }));
    assert!(agrees(annealed, 0.8), "{annealed:?}");
    let plain = weight(Box::new(PlainLangevin { t: 0.0, n_steps: 1000, alpha: 0.05 }));
    assert!(!agrees(plain, 0.8), "{plain:?}");
    // The share of the start that the first mode attracts: half of the square.
    assert!(agrees(plain, 0.5), "{plain:?}");
}

#[test]
fn samples_of_each_distribution_have_its_moments() {
    let moments = |sample: &dyn Fn(&mut Stream) -> [f64; 2]| {
        let mut stream = Noise::new(3).stream("test", 0);
        let points: Vec<[f64; 2]> = (0..20_000).map(|_| sample(&mut stream)).collect();
        let radius = Estimate::of(points.iter().map(|p| p[0].hypot(p[1])));
        let square = Estimate::of(points.iter().map(|p| p[0] * p[0]));
        (Estimate::of(points.iter().map(|p| p[0])), square, radius, toy::first_mode_weight(&points))
    };
    let (mean, square, ..) = moments(&|stream| Square { half_width: 4.0 }.sample(stream));
    assert!(agrees(mean, 0.0) && agrees(square, 16.0 / 3.0), "{mean:?}, {square:?}");
    let (mean, _, radius, _) = moments(&|stream| Ring { radius: 5.0, width: 1.0 }.sample(stream));
    assert!(agrees(mean, 0.0) && agrees(radius, 5.0), "{mean:?}, {radius:?}");
    let mixture = toy::mixture(NoiseLevels::geometric(1.0, 0.5, 1).unwrap());
    let (mean, square, _, weight) = moments(&|stream| mixture.sample(1.0, stream));
    assert!(agrees(mean, 3.0) && agrees(square, 26.0) && agrees(weight, 0.8), "{mean:?}, {square:?}, {weight:?}");
}

#[test]
fn sliced_score_matching_learns_the_score_where_the_data_are() {
    let device = Device::flex();
    let mixture = toy::mixture(NoiseLevels::geometric(1.0, 0.5, 1).unwrap());
    let options = ToyTraining { n_steps: 1000, ..ToyTraining::default() };
    let train = |n_steps| {
        let options = ToyTraining { n_steps, ..options };
        let mut losses = Vec::new();
        let model =
            toy::train(options, |s| mixture.sample(1.0, s), Noise::new(1), &device, |_, loss| losses.push(loss))
                .unwrap();
        assert_eq!(losses.len(), n_steps);
        let data = toy::draw(N, |s| mixture.sample(1.0, s), Noise::new(2).stream("test", 0), &device);
        toy::fisher_divergence(&model, &mixture, 1.0, data).unwrap()
    };
    // An untrained network is off by E‖s‖² = 2, the dimension.
    let (before, after) = (train(1), train(1000));
    assert!(before.mean > 1.5, "{before:?}");
    assert!(after.mean < 0.2, "{after:?}");
}
