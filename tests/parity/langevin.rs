//! The samplers, fed with the noise that the published program drew.

use burn::tensor::Tensor;
use ncsn::net::InputRange;
use ncsn::sample::{Draw, Inpainting, Langevin, annealed_steps, plain_steps};
use ncsn::sde::NoiseLevels;

use crate::Case;
use crate::fixture::{self, assert_close, open, values};
use crate::network::network;

/// The reference's f32 error is 4e-7 after 20 steps.
const TOLERANCE: f64 = 1e-5;

/// All questions about samplers.
pub fn cases() -> Vec<Case> {
    let case = |claim: &str, net: &str, file: &str, run: fn()| {
        let files = [format!("ncsn/{net}/params.safetensors"), format!("ncsn/langevin/{file}.safetensors")];
        Case::new(claim, &files, run)
    };
    let (grey, colour) = ("cond_refinenet_ch1_28", "cond_refinenet_ch3_32");
    vec![
        case("annealed Langevin follows the published trajectory", grey, "anneal_ch1_28", annealed),
        case("plain Langevin follows the published trajectory", grey, "plain_conditional_label9", plain),
        case("the baseline follows the published trajectory", "refinenet_baseline_ch1_28", "plain_baseline", baseline),
        case("inpainting follows the published trajectory", colour, "inpainting_ch3_32", inpainting),
    ]
}

fn annealed() {
    let device = fixture::device();
    let case = open("ncsn/langevin/anneal_ch1_28.safetensors");
    let net = network(&open("ncsn/cond_refinenet_ch1_28/params.safetensors"), InputRange::Unit, &device);
    let levels = NoiseLevels::geometric(1.0, 0.01, 10).unwrap();
    for (found, expected) in levels.sigmas().iter().zip(case.f64("sigmas_f64")) {
        assert!((found - expected).abs() < 1e-14);
    }
    let mut draws = 0..;
    let noise = || case.row("noise", draws.next().unwrap(), &device);
    let chain = Langevin::new(&net, annealed_steps(&levels, 2, 2e-5), case.tensor::<4>("x_init", &device), noise);
    assert_eq!(chain.n_steps(), 20);
    let mut last = None;
    for (i, state) in chain.enumerate() {
        let expected: Tensor<4> = case.row("x_after_each_step", i, &device);
        let expected: Vec<f64> = values(expected).into_iter().map(f64::from).collect();
        let found = values(state.x);
        assert_close(&format!("state {}", state.n_done), &found, &expected, TOLERANCE);
        last = Some(found);
    }
    assert_close("the sample", &last.unwrap(), case.f64("x_final"), TOLERANCE);
}

fn plain() {
    let device = fixture::device();
    let case = open("ncsn/langevin/plain_conditional_label9.safetensors");
    let net = network(&open("ncsn/cond_refinenet_ch1_28/params.safetensors"), InputRange::Unit, &device);
    let mut draws = 0..;
    let noise = || case.row("noise", draws.next().unwrap(), &device);
    let chain = Langevin::new(&net, plain_steps(9, 5, 2e-5), case.tensor::<4>("x_init", &device), noise);
    assert_close("the sample", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

fn baseline() {
    let device = fixture::device();
    let case = open("ncsn/langevin/plain_baseline.safetensors");
    let net = network(&open("ncsn/refinenet_baseline_ch1_28/params.safetensors"), InputRange::Unit, &device);
    let mut draws = 0..;
    let noise = || case.row("noise", draws.next().unwrap(), &device);
    let chain = Langevin::new(&net, plain_steps(0, 5, 2e-5), case.tensor::<4>("x_init", &device), noise);
    assert_close("the sample", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

fn inpainting() {
    let device = fixture::device();
    let case = open("ncsn/langevin/inpainting_ch3_32.safetensors");
    let net = network(&open("ncsn/cond_refinenet_ch3_32/params.safetensors"), InputRange::Unit, &device);
    // The fixture runs the first five of ten levels; the fifth is its σ_L.
    let sigmas = case.f64("sigmas_f64");
    let levels = NoiseLevels::geometric(sigmas[0], sigmas[4], 5).unwrap();
    let mask = Tensor::<4>::ones([2, 3, 32, 16], &device);
    let mask = Tensor::cat(vec![mask.clone(), mask.zeros_like()], 3);
    let reference = case.tensor::<4>("refer_image", &device).repeat_dim(0, 2);
    let (mut known, mut full) = (0.., 0..);
    let noise = |draw| match draw {
        Draw::Update => case.row("noise_per_step", full.next().unwrap(), &device),
        Draw::Known => {
            let half: Tensor<4> = case.row("half_noise_per_level", known.next().unwrap(), &device);
            Tensor::cat(vec![half.clone(), half.zeros_like()], 3)
        }
    };
    let x = case.tensor::<5>("x_init", &device).reshape([2, 3, 32, 32]);
    let chain = Inpainting::new(&net, &levels, annealed_steps(&levels, 2, 2e-5), x, [mask, reference], noise);
    let last = chain.last().unwrap();
    assert_eq!(last.n_done, 10);
    assert_close("the completion", &values(last.x), case.f64("x_final"), TOLERANCE);
}
