//! NCSNv2's noise levels, samplers and training, fed with the noise that the published program drew.

use burn::tensor::{Device, Tensor};
use ncsn::checkpoint::pth::{OptimizerState, Progress, Published, StateValue, read_published, write_published};
use ncsn::checkpoint::{Checkpoints, Header, Saved, resume_published};
use ncsn::config::Config;
use ncsn::loss::{Weight, denoising};
use ncsn::net::params::HostTensor;
use ncsn::net::{Mlp, Network, params};
use ncsn::noise::Noise;
use ncsn::sample::{AnnealedLangevin, Chain, Draws, Interpolation, Known, Renewal};
use ncsn::score::{Label, Model, Prediction};
use ncsn::sde::NoiseLevels;
use ncsn::train::{Ema, EmaRate, Optimizer, OptimizerConfig, Rule, Trainer, TrainerState};

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
    let exchanged: Vec<String> = train.iter().cloned().chain(["ncsnv2/train/checkpoint_3.pth".to_string()]).collect();
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
        Case::new(
            "three steps of NCSNv2's training are saved as the published program saves them",
            &exchanged,
            exchange,
        ),
        Case::new(
            "NCSNv2's checkpoint becomes a run of ours and is written as it was read",
            &exchanged,
            what_becomes_ours_is_written_as_it_was_read,
        ),
        Case::new("the average follows the published one", &["ncsnv2/ema/ema.safetensors"], averages_agree),
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
    Model {
        prediction: Prediction::ScaledScore(Label::Level),
        ..Model::new(network(meta, params, device).1, levels.unwrap())
    }
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

/// The published program's first three steps, made by us.
fn three_steps() -> (Model<Network>, Optimizer, Ema<Network>) {
    let device = fixture::device().autodiff();
    let [batches, params] = ["batches", "params_init"].map(|file| open(&format!("ncsnv2/train/{file}.safetensors")));
    let meta = meta("train");
    let mut model = model(&meta, &params, &device);
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    let mut ema = Ema::new(EmaRate::Constant(0.999), &model.net);
    for step in 0..3 {
        let [x, z] = ["X", "noise"].map(|key| batches.tensor::<4>(&format!("{key}.{step}"), &device));
        let t = batches.times(&format!("labels.{step}"), &*model.process);
        let loss = denoising(&model, &*model.process, x, &t, z, Weight::StdPower(2.0));
        assert_close("loss", &values(loss.clone()), &[meta["losses"][step].as_f64().unwrap()], 1e-4);
        let gradients = params::gradients(&model.net, &loss.backward());
        model.net = optimizer.step(model.net, gradients);
        ema.update(&model.net);
    }
    (model, optimizer, ema)
}

/// The configuration of the fixture, which lacks what only a whole run needs.
fn config() -> Config {
    let mut config = meta("train")["config"].clone();
    config["data"]["dataset"] = "CIFAR10".into();
    config["training"] = serde_json::json!({ "batch_size": 4 });
    // JSON is YAML.
    Config::parse(&config.to_string(), "meta.json", &[], None).unwrap().images("meta.json").unwrap()
}

/// The checkpoint that `trainer` saves, as the published program has it, written and read back.
fn as_published(trainer: &Trainer<Network>, epoch: u64) -> Published {
    let (folder, config) = (tempfile::tempdir().unwrap(), config());
    let header = Header {
        step: trainer.step_count(),
        seed: 1,
        loss: None,
        optimizer_steps: trainer.optimizer().n_steps(),
        config: config.to_yaml(),
        precision: None,
        epoch: Some(epoch),
        ema_updates: None,
    };
    let saved = Saved::open(Checkpoints::new(folder.path()).save(trainer, &header).unwrap()).unwrap();
    let path = folder.path().join("checkpoint_3.pth");
    write_published(&path, &saved.weights().to_published(Some(saved.config())).unwrap()).unwrap();
    read_published(&path).unwrap()
}

fn published() -> Published {
    read_published(&fixture::path("ncsnv2/train/checkpoint_3.pth")).unwrap()
}

/// Asserts that tensors of the same names, in the same order, and shapes differ by at most `most` of the largest entry of each.
fn assert_alike<'a>(
    what: &str,
    found: impl Iterator<Item = (&'a str, &'a HostTensor)>,
    expected: impl Iterator<Item = (&'a str, &'a HostTensor)>,
    most: f64,
) {
    let (found, expected): (Vec<_>, Vec<_>) = (found.collect(), expected.collect());
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((name, found), (expected_name, expected)) in found.into_iter().zip(expected) {
        assert_eq!((name, &found.shape), (expected_name, &expected.shape), "{what}");
        let expected: Vec<f64> = expected.values.iter().map(|&x| x.into()).collect();
        assert_close(&format!("{what} {name}"), &found.values, &expected, most);
    }
}

/// What an optimiser keeps under one name, by the numbers of its parameters.
fn kept<'a>(optimizer: &'a OptimizerState, name: &'a str) -> impl Iterator<Item = (&'a str, &'a HostTensor)> {
    optimizer.state.values().map(move |kept| match &kept[name] {
        StateValue::Tensor(tensor) => (name, tensor),
        other => panic!("{name}: {other:?}"),
    })
}

fn exchange() {
    let (model, optimizer, ema) = three_steps();
    assert_eq!(config().optimizer(), optimizer.config());
    let options = config().training_options();
    let trainer = Trainer::new(model, optimizer.config(), options, Noise::new(1));
    let trainer =
        trainer.resume(TrainerState { step: 3, optimizer, ema: Some((ema.module().clone(), ema.n_updates())) });
    // Each batch was all of the data.
    let (found, expected) = (as_published(&trainer, config().epoch(3, 4)), published());
    assert_eq!(
        (&found.prefix, &found.members, found.progress),
        (&expected.prefix, &expected.members, expected.progress)
    );
    assert_eq!(found.progress, Some(Progress { epoch: Some(2), step: 3 }));
    assert_eq!((&found.network[0].0[..], &found.network[0]), ("sigmas", &expected.network[0]));
    fn named(tensors: &[(String, HostTensor)]) -> impl Iterator<Item = (&str, &HostTensor)> {
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
    // A pixel that is the largest by a rounding error sends some gradients another way, as in `training`: measured are 1.7e-2 and
    // 5e-5 here, and below 8e-3 of the optimiser's.
    let averages = [&found, &expected].map(|published| published.ema.as_ref().unwrap());
    for (what, [found, expected], most) in
        [("weights", [&found.network, &expected.network], 5e-2), ("average", averages, 2e-4)]
    {
        assert_alike(what, named(found), named(expected), most);
    }

    let [found, expected] = [found, expected].map(|published| published.optimizer.unwrap());
    assert_eq!(found.groups, expected.groups);
    assert_eq!(found.state.keys().collect::<Vec<_>>(), expected.state.keys().collect::<Vec<_>>());
    for (kept, expected) in found.state.values().zip(expected.state.values()) {
        assert!(kept.names().eq(expected.names()) && kept["step"] == expected["step"]);
    }
    for name in ["exp_avg", "exp_avg_sq"] {
        assert_alike(name, kept(&found, name), kept(&expected, name), 3e-2);
    }
}

fn what_becomes_ours_is_written_as_it_was_read() {
    let (config, noise, device) = (config(), Noise::new(1), fixture::device().autodiff());
    let new = |config: &Config| {
        let net = Network::new(&config.network(), &mut noise.stream("init", 0), &device).unwrap();
        Trainer::new(config.model(net).unwrap(), config.optimizer(), config.training_options(), noise)
    };
    let path = fixture::path("ncsnv2/train/checkpoint_3.pth");
    let (trainer, epoch) = resume_published(&path, &config, new(&config)).unwrap();
    assert_eq!((trainer.step_count(), epoch), (3, Some(2)));
    assert_eq!(as_published(&trainer, 2), published(), "every tensor and number");
    // The settings are the configuration's: FFHQ's epsilon was once another.
    let mut other = config.clone();
    other.optim.eps = 1e-3;
    let (trainer, _) = resume_published(&path, &other, new(&other)).unwrap();
    assert!(matches!(trainer.optimizer().config().rule, Rule::Adam { eps: 1e-3, .. }));
    // Other levels would make other steps of it.
    other.model.sigma_begin = 9.0;
    let message = resume_published(&path, &other, new(&other)).unwrap_err().to_string();
    assert!(message.contains("sigmas[0] is 10, expected 9"), "{message}");
}

/// The published average of two linear layers, at two rates.
fn averages_agree() {
    let (case, device) = (open("ncsnv2/ema/ema.safetensors"), fixture::device());
    let net = |prefix: &str| {
        let net = Mlp::new(&[3, 4, 2], &mut Noise::new(0).stream("init", 0), &device);
        // The published layers stand beside each other, ours have a softplus between them.
        params::from_host(net, |name, shape| {
            let name = format!("{prefix}.{}", name.replace("2.", "1."));
            assert_eq!(case.shape(&name), shape, "{name}");
            Ok(case.f32(&name))
        })
        .unwrap()
    };
    for rate in [0.999, 0.9] {
        let mut ema = Ema::new(EmaRate::Constant(rate), &net("step0"));
        for step in 1..=3 {
            ema.update(&net(&format!("step{step}")));
            for (name, average) in params::to_host(ema.module()).unwrap() {
                let expected = format!("ema_mu{rate}.step{step}.{}", name.replace("2.", "1."));
                // Two products and a sum in f32.
                assert_close(&expected, &average.values, case.f64(&expected), 2e-7);
            }
        }
    }
}

fn training() {
    let (model, _, ema) = three_steps();
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
