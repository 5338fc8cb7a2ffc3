//! The samplers, fed with the noise that the published program drew.

use burn::tensor::{Device, Tensor};
use ncsn::net::InputRange;
use ncsn::sample::{AnnealedLangevin, Chain, Draws, Known, PlainLangevin, Renewal};
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};
use crate::network::{model, network};

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

const TWO_STEPS_EACH: AnnealedLangevin = AnnealedLangevin { step_lr: 2e-5, n_steps_each: 2, denoise: false };

/// The rows of a tensor of a fixture, one after the other.
fn rows(file: &str, name: &'static str) -> impl FnMut() -> Tensor<4> {
    let (case, device, mut i) = (open(&format!("ncsn/langevin/{file}.safetensors")), fixture::device(), 0..);
    move || case.row(name, i.next().unwrap(), &device)
}

fn annealed() {
    let device = fixture::device();
    let case = open("ncsn/langevin/anneal_ch1_28.safetensors");
    let model = model(&open("ncsn/cond_refinenet_ch1_28/params.safetensors"), InputRange::Unit, &device);
    for (found, expected) in model.process.stds().iter().zip(case.f64("sigmas_f64")) {
        assert!((found - expected).abs() < 1e-14);
    }
    let x = case.tensor("x_init", &device);
    let chain = Chain::new(&model, model.process.clone(), TWO_STEPS_EACH, x, rows("anneal_ch1_28", "noise"));
    assert_eq!(chain.n_left(), 20);
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
    let model = model(&open("ncsn/cond_refinenet_ch1_28/params.safetensors"), InputRange::Unit, &device);
    let plain = PlainLangevin { t: model.process.time(9), n_steps: 5, alpha: 2e-5 };
    let (x, draws) = (case.tensor("x_init", &device), rows("plain_conditional_label9", "noise"));
    let chain = Chain::new(&model, model.process.clone(), plain, x, draws);
    assert_close("the sample", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

fn baseline() {
    let device = fixture::device();
    let case = open("ncsn/langevin/plain_baseline.safetensors");
    let model = model(&open("ncsn/refinenet_baseline_ch1_28/params.safetensors"), InputRange::Unit, &device);
    let plain = PlainLangevin { t: 1.0, n_steps: 5, alpha: 2e-5 };
    let (x, draws) = (case.tensor("x_init", &device), rows("plain_baseline", "noise"));
    let chain = Chain::new(&model, model.process.clone(), plain, x, draws);
    assert_close("the sample", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

/// The left half of each drawn image, in the left half of a whole one.
struct LeftHalves {
    case: Fixture,
    n_done: usize,
}

impl Draws<4> for LeftHalves {
    fn normal(&mut self, _: [usize; 4], device: &Device) -> Tensor<4> {
        let half: Tensor<4> = self.case.row("half_noise_per_level", self.n_done, device);
        self.n_done += 1;
        Tensor::cat(vec![half.clone(), half.zeros_like()], 3)
    }
}

fn inpainting() {
    let device = fixture::device();
    let file = "ncsn/langevin/inpainting_ch3_32.safetensors";
    let case = open(file);
    let net = network(&open("ncsn/cond_refinenet_ch3_32/params.safetensors"), InputRange::Unit, &device);
    // The fixture runs the first five of ten levels; the fifth is its σ_L.
    let sigmas = case.f64("sigmas_f64");
    let model = Model::new(net, NoiseLevels::geometric(sigmas[0], sigmas[4], 5).unwrap());
    let mask = Tensor::<4>::ones([1, 3, 32, 16], &device);
    let mask = Tensor::cat(vec![mask.clone(), mask.zeros_like()], 3);
    let reference = case.tensor::<4>("refer_image", &device);
    let known = Known::new(mask, reference, Renewal::OncePerTime, LeftHalves { case: open(file), n_done: 0 });
    let x = case.tensor::<5>("x_init", &device).reshape([2, 3, 32, 32]);
    let draws = rows("inpainting_ch3_32", "noise_per_step");
    let chain = Chain::new(&model, model.process.clone(), TWO_STEPS_EACH, x, draws).with_known(known);
    let last = chain.last().unwrap();
    assert_eq!(last.n_done, 10);
    assert_close("the completion", &values(last.x), case.f64("x_final"), TOLERANCE);
}
