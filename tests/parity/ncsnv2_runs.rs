//! NCSNv2's noise levels, samplers and training, fed with the noise that the published program drew.

use burn::tensor::{Device, Tensor};
use ncsn::loss::{Weight, denoising};
use ncsn::net::{Network, params};
use ncsn::sample::{AnnealedLangevin, Chain, Draws, Interpolation, Known, Renewal};
use ncsn::score::{Model, Prediction};
use ncsn::sde::NoiseLevels;
use ncsn::train::{Ema, Optimizer, Rule};

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, read, values};
use crate::ncsnv2::{meta, network};

/// The reference's f32 error is 4e-7 after 18 steps; its step sizes come from rounded σ.
const TOLERANCE: f64 = 1e-5;

/// All questions about runs of NCSNv2.
pub fn cases() -> Vec<Case> {
    let sampling = |files: &[&str]| {
        let files = files.iter().map(|file| format!("ncsnv2/sampling/{file}.safetensors"));
        files.chain(["ncsnv2/sampling/meta.json".to_string()]).collect::<Vec<_>>()
    };
    let train = ["meta.json", "batches.safetensors", "params_init.safetensors", "params_step3.safetensors"];
    let train: Vec<String> = train.iter().map(|file| format!("ncsnv2/train/{file}")).collect();
    vec![
        Case::new("the levels of NCSNv2's files agree", &["ncsnv2/sigma_schedules.json"], levels_agree),
        Case::new(
            "NCSNv2's Langevin dynamics with a denoising step follows the published trajectory",
            &sampling(&["params", "anneal_denoise", "anneal_no_denoise"]),
            langevin,
        ),
        Case::new(
            "NCSNv2's inpainting follows the published trajectory",
            &sampling(&["params", "inpainting"]),
            inpainting,
        ),
        Case::new(
            "NCSNv2's interpolation ends where the published one does",
            &sampling(&["params", "interpolation"]),
            interpolation,
        ),
        Case::new("three steps of NCSNv2's training give the published weights and their average", &train, training),
    ]
}

fn levels_agree() {
    let all: serde_json::Value = serde_json::from_slice(&read("ncsnv2/sigma_schedules.json")).unwrap();
    let configs = all["configs"].as_object().unwrap();
    for (name, config) in configs {
        let (begin, end) = (config["sigma_begin"].as_f64().unwrap(), config["sigma_end"].as_f64().unwrap());
        let n = config["num_classes"].as_u64().unwrap() as usize;
        let levels = match config["sigma_dist"].as_str().unwrap() {
            "geometric" => NoiseLevels::geometric(begin, end, n),
            "uniform" => NoiseLevels::uniform(begin, end, n),
            other => panic!("levels called {other}"),
        };
        let expected: Vec<f64> =
            config["all"].as_array().unwrap().iter().map(|sigma| sigma.as_f64().unwrap()).collect();
        let levels = levels.unwrap();
        assert_eq!(levels.sigmas().len(), expected.len(), "{name}");
        for (found, expected) in levels.sigmas().iter().zip(expected) {
            // The published ones are rounded to f32.
            assert!((found / expected - 1.0).abs() < 6e-8, "{name}: {found}, expected {expected}");
        }
    }
    assert_eq!(configs.len(), 8);
}

/// The model of `params`, with the levels of a fixture's configuration.
fn model(meta: &serde_json::Value, params: &Fixture, device: &Device) -> Model<Network> {
    let config = &meta["config"]["model"];
    let number = |key: &str| config[key].as_f64().unwrap();
    let levels = NoiseLevels::geometric(number("sigma_begin"), number("sigma_end"), number("num_classes") as usize);
    Model { prediction: Prediction::ScaledScore, ..Model::new(network(meta, params, device).1, levels.unwrap()) }
}

fn sampling_model() -> Model<Network> {
    model(&meta("sampling"), &open("ncsnv2/sampling/params.safetensors"), &fixture::device())
}

/// The rows of a tensor of a fixture, one after the other.
fn rows(file: &str, name: &'static str) -> impl FnMut() -> Tensor<4> + use<> {
    let (case, device, mut i) = (open(&format!("ncsnv2/sampling/{file}.safetensors")), fixture::device(), 0..);
    move || case.row(name, i.next().unwrap(), &device)
}

const THREE_STEPS_EACH: AnnealedLangevin = AnnealedLangevin { step_lr: 2e-5, n_steps_each: 3, denoise: true };

/// Row `i` of a tensor of a fixture.
fn row(case: &Fixture, name: &str, i: usize) -> Vec<f64> {
    let n: usize = case.shape(name)[1..].iter().product();
    case.f64(name)[i * n..(i + 1) * n].to_vec()
}

fn langevin() {
    let (case, model) = (open("ncsnv2/sampling/anneal_denoise.safetensors"), sampling_model());
    let x = || case.tensor::<4>("x_init", &fixture::device());
    let chain = Chain::new(&model, model.process.clone(), THREE_STEPS_EACH, x(), rows("anneal_denoise", "noise"));
    let mut n_states = 0;
    for state in chain {
        let expected = row(&case, "images", n_states);
        assert_close(&format!("state {}", state.n_done), &values(state.x), &expected, TOLERANCE);
        n_states += 1;
        assert_eq!(state.n_evaluations, n_states);
    }
    assert_eq!(n_states, 19);
    let plain = AnnealedLangevin { denoise: false, ..THREE_STEPS_EACH };
    let chain = Chain::new(&model, model.process.clone(), plain, x(), rows("anneal_denoise", "noise"));
    let case = open("ncsnv2/sampling/anneal_no_denoise.safetensors");
    assert_close("without denoising", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

/// The left half of each drawn image, in the left half of a whole one.
struct LeftHalves<Z>(Z);

impl<Z: FnMut() -> Tensor<4>> Draws<4> for LeftHalves<Z> {
    fn normal(&mut self, _: [usize; 4], _: &Device) -> Tensor<4> {
        let half = (self.0)();
        Tensor::cat(vec![half.clone(), half.zeros_like()], 3)
    }
}

fn inpainting() {
    let (case, model, device) = (open("ncsnv2/sampling/inpainting.safetensors"), sampling_model(), fixture::device());
    let mask = Tensor::<4>::ones([1, 3, 16, 8], &device);
    let mask = Tensor::cat(vec![mask.clone(), mask.zeros_like()], 3);
    let draws = LeftHalves(rows("inpainting", "half_noise_per_step"));
    let known = Known::new(mask, case.tensor("refer_image", &device), Renewal::BeforeEachStage, draws);
    let x = case.tensor::<5>("x_init", &device).reshape([2, 3, 16, 16]);
    let plain = AnnealedLangevin { denoise: false, ..THREE_STEPS_EACH };
    let chain = Chain::new(&model, model.process.clone(), plain, x, rows("inpainting", "noise_per_step"));
    let mut last = None;
    for (i, state) in chain.with_known(known).enumerate() {
        let found = values(state.x);
        assert_close(&format!("state {}", i + 1), &found, &row(&case, "x_after_each_step", i), TOLERANCE);
        last = Some(found);
    }
    assert_close("the completion", &last.unwrap(), case.f64("x_final"), TOLERANCE);
}

fn interpolation() {
    let (case, model, device) =
        (open("ncsnv2/sampling/interpolation.safetensors"), sampling_model(), fixture::device());
    let x = case.tensor::<4>("x_init", &device);
    let x = x.reshape([2, 1, 3 * 16 * 16]).repeat_dim(1, 4).reshape([8, 3, 16, 16]);
    let (p, q) = (rows("interpolation", "noise_p"), rows("interpolation", "noise_q"));
    let langevin = AnnealedLangevin { n_steps_each: 1, denoise: false, ..THREE_STEPS_EACH };
    let draws = Interpolation { p: Box::new(p) as Box<dyn FnMut() -> Tensor<4>>, q: Box::new(q) as _, n_columns: 4 };
    let mut chain = Chain::new(&model, model.process.clone(), langevin, x, draws);
    let first = chain.next().unwrap();
    assert_close("the first state", &values(first.x), case.f64("x_after_first_step"), TOLERANCE);
    assert_close("the sample", &values(chain.finish()), case.f64("x_final"), TOLERANCE);
}

fn training() {
    let device = fixture::device().autodiff();
    let [batches, params] = ["batches", "params_init"].map(|file| open(&format!("ncsnv2/train/{file}.safetensors")));
    let meta = meta("train");
    let mut model = model(&meta, &params, &device);
    let mut optimizer = Optimizer::new(Rule::default());
    let mut ema = Ema::new(0.999, &model.net);
    for step in 0..3 {
        let [x, z] = ["X", "noise"].map(|key| batches.tensor::<4>(&format!("{key}.{step}"), &device));
        let t = batches.times(&format!("labels.{step}"), &*model.process);
        let loss = denoising(&model, &*model.process, x, &t, z, Weight::StdPower(2.0));
        assert_close("loss", &values(loss.clone()), &[meta["losses"][step].as_f64().unwrap()], 1e-4);
        let gradients = params::gradients(&model.net, &loss.backward());
        model.net = optimizer.step(model.net, gradients);
        ema.update(&model.net);
    }
    // In f32 a rounding error decides which of two nearly equal pixels is the largest (the gradients above agree in f64), and a first
    // step of Adam is ±lr whatever the gradient's size: so some entries go the other way, by 2·lr a step at most. The average has
    // seen a thousandth of it.
    for (net, file, most) in [(&model.net, "params_step3", 6e-3), (ema.module(), "ema_step3", 6e-6)] {
        let expected = open(&format!("ncsnv2/train/{file}.safetensors"));
        let mut differences = Vec::new();
        for (name, found) in params::to_host(net).unwrap() {
            differences.extend(found.values.iter().zip(expected.f64(&name)).map(|(&a, b)| (f64::from(a) - b).abs()));
        }
        let worst = differences.iter().copied().fold(0.0, f64::max);
        let n_apart = differences.iter().filter(|difference| **difference > most / 60.0).count();
        assert!(worst <= most, "{file}: {worst:e}");
        assert!(n_apart * 500 <= differences.len(), "{file}: {n_apart} of {} entries", differences.len());
    }
}
