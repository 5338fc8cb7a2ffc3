//! Steps of Score-SDE's training: its loss, clipping, warm-up and moving average together; and its checkpoints.

use ncsn::checkpoint::pth::{Named, Progress, Published, StateValue, read_published, write_published};
use ncsn::checkpoint::{Checkpoints, Header, Saved, resume_published};
use ncsn::config::{Config, Program};
use ncsn::loss::{Weight, denoising};
use ncsn::net::Network;
use ncsn::net::params::{self, HostTensor};
use ncsn::noise::Noise;
use ncsn::score::Model;
use ncsn::train::{Ema, EmaRate, Optimizer, OptimizerConfig, Schedule, Trainer, TrainerState};

use crate::Case;
use crate::fixture::{self, open};
use crate::score_sde_networks::{config, meta, model};

const NETWORKS: [&str; 2] = ["ncsnpp_ve_fourier_residual", "ddpmpp_vp"];
/// Checkpoints of the program, each of one of the networks: before its first step, and after four.
const CHECKPOINTS: [(&str, &str); 2] = [
    ("ddpmpp_vp", "score_sde/ddpmpp_vp/checkpoint_init.pth"),
    ("ncsnpp_ve_fourier_residual", "score_sde/ncsnpp_ve_fourier_residual/train/checkpoint_4.pth"),
];

/// A network after four steps from the fixture's parameters, on its images, times and noise, with its optimiser and average.
fn four_steps(name: &str) -> (Model<Network>, Optimizer, Ema<Network>) {
    let (dir, device) = (format!("{name}/train"), fixture::device().autodiff());
    let (about, batches) = (meta(&dir), open(&format!("score_sde/{dir}/batches.safetensors")));
    let number = |key: &str| about[key].as_f64().unwrap();
    let lr = Schedule::WarmUp { lr: number("lr"), n_steps: about["warmup"].as_u64().unwrap() };
    let mut optimizer =
        Optimizer::new(OptimizerConfig { lr, clip: Some(number("grad_clip")), ..config(name).optimizer() });
    let mut model = model(name, &device);
    let mut ema = Ema::new(EmaRate::WarmedUp(number("ema_rate")), &model.net);
    let weight = if about["likelihood_weighting"] == true { Weight::Likelihood } else { Weight::StdPower(2.0) };
    for step in 0..4 {
        let expected_lr = about["lr_used"][step as usize].as_f64().unwrap();
        assert!((lr.at(step) - expected_lr).abs() <= 1e-12 * lr.peak(), "{name}, step {step}");
        let [x, z] = ["X", "z"].map(|key| batches.tensor::<4>(&format!("{key}.{step}"), &device));
        let t: Vec<f64> = batches.f64(&format!("u.{step}")).iter().map(|u| u * (1.0 - 1e-5) + 1e-5).collect();
        let n_numbers: usize = x.dims()[1..].iter().product();
        let loss = denoising(&model, &*model.process, x, &t, z, weight);
        // Half a sum becomes a mean.
        let loss = if about["reduce_mean"] == true { loss * (2.0 / n_numbers as f64) } else { loss };
        let gradients = params::gradients(&model.net, &loss.backward());
        let found = f64::from(loss.into_scalar::<f32>());
        let expected = about["losses_f64"][step as usize].as_f64().unwrap();
        // The README's tolerances, here and below.
        assert!((found / expected - 1.0).abs() <= 1e-5, "{name}, step {step}: {found}, expected {expected}");
        model.net = optimizer.step(model.net, gradients);
        ema.update(&model.net);
    }
    (model, optimizer, ema)
}

fn training(name: &str) {
    let (model, _, ema) = four_steps(name);
    for (net, file) in [(&model.net, "params_step4"), (ema.module(), "ema_step4")] {
        let expected = open(&format!("score_sde/{name}/train/{file}.safetensors"));
        for (parameter, found) in params::to_host(net).unwrap() {
            let differences = found.values.iter().zip(expected.f64(&parameter)).map(|(&a, b)| (f64::from(a) - b).abs());
            let worst = differences.fold(0.0, f64::max);
            assert!(worst <= 1e-5, "{name}, {file}, {parameter}: {worst:e}");
        }
    }
}

/// The checkpoint that `trainer` saves, as the published program has it, written and read back.
fn as_published(trainer: &Trainer<Network>, config: &Config) -> Published {
    let folder = tempfile::tempdir().unwrap();
    let header = Header {
        step: trainer.step_count(),
        seed: 1,
        loss: None,
        optimizer_steps: trainer.optimizer().n_steps(),
        config: config.to_yaml(),
        precision: None,
        epoch: None,
        ema_updates: Header::ema_updates_of(trainer),
    };
    let path = Checkpoints::new(folder.path()).save(trainer, &header).unwrap();
    let saved = Saved::open(path).unwrap();
    let path = folder.path().join("checkpoint.pth");
    write_published(&path, &saved.weights().to_published(Some(saved.config())).unwrap()).unwrap();
    read_published(&path).unwrap()
}

/// Asserts that noise levels in f64 agree, and leaves them out.
fn same_levels(found: &mut Published, expected: &mut Published) {
    let [found, expected] = [found, expected].map(|published| std::mem::take(&mut published.f64s));
    assert_eq!(found.keys().collect::<Vec<_>>(), ["sigmas"]);
    assert_eq!((expected.len(), found["sigmas"].len()), (1, expected["sigmas"].len()));
    for (found, expected) in found["sigmas"].iter().zip(&expected["sigmas"]) {
        // The exponential of a logarithm of a few, whose last bit is up to each library.
        assert!((found / expected - 1.0).abs() <= 4e-15, "{found} and {expected}");
    }
}

fn four_steps_are_kept_alike() {
    let (name, path) = CHECKPOINTS[1];
    let (model, optimizer, ema) = four_steps(name);
    let mut config = config(name);
    (config.optim.warmup, config.training.grad_clip) = (5, optimizer.config().clip);
    assert_eq!(config.optimizer(), optimizer.config());
    let options = config.training_options();
    let trainer = Trainer::new(model, optimizer.config(), options, Noise::new(1));
    let ema = Some((ema.module().clone(), ema.n_updates()));
    let trainer = trainer.resume(TrainerState { step: 4, optimizer, ema });

    let (mut found, mut expected) = (as_published(&trainer, &config), read_published(&fixture::path(path)).unwrap());
    same_levels(&mut found, &mut expected);
    assert_eq!(found.program, Program::ScoreSde);
    assert_eq!(found.progress, Some(Progress { epoch: None, step: 4 }));
    assert_eq!((found.ema_updates, found.ema_rate), (Some(4), Some(0.999)));
    let facts = |published: &Published| {
        let Published { program, prefix, members, progress, ema_updates, ema_rate, .. } = published.clone();
        (program, prefix, members, progress, ema_updates, ema_rate)
    };
    assert_eq!(facts(&found), facts(&expected));
    fn named(tensors: &[(String, HostTensor)]) -> impl Iterator<Item = (&str, &HostTensor)> {
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }
    // As `training`: in f32 the weights differ by 1e-5, of the largest entry of each. The last bias of a network begins at 0.
    let averages = [&found, &expected].map(|published| published.ema.as_ref().unwrap());
    for [found, expected] in [[&found.network, &expected.network], averages] {
        for ((name, found), (expected_name, expected)) in named(found).zip(named(expected)) {
            assert_eq!((name, &found.shape), (expected_name, &expected.shape));
            let differences = found.values.iter().zip(&expected.values).map(|(a, b)| (a - b).abs());
            assert!(differences.fold(0.0, f32::max) <= 1e-5, "{name}");
        }
        assert_eq!(found.len(), expected.len());
    }

    let [found, expected] = [found, expected].map(|published| published.optimizer.unwrap());
    assert_eq!(found.groups[0].params, expected.groups[0].params);
    // Nothing is kept for the frozen frequencies, which have the first number.
    assert_eq!(found.state.keys().collect::<Vec<_>>(), expected.state.keys().collect::<Vec<_>>());
    assert!(found.groups[0].params.contains(&0) && !found.state.contains_key(&0));
    for (number, expected) in &expected.state {
        let kept = &found.state[number];
        assert!(kept.names().eq(expected.names()) && kept["step"] == expected["step"], "{number}");
        for name in ["exp_avg", "exp_avg_sq"] {
            let (StateValue::Tensor(kept), StateValue::Tensor(expected)) = (&kept[name], &expected[name]) else {
                panic!("{name} of {number}")
            };
            assert_eq!(kept.shape, expected.shape, "{name} of {number}");
            // Gradients of norm 1 at most, which agree to 1e-5 as the losses do.
            let differences = kept.values.iter().zip(&expected.values).map(|(a, b)| (a - b).abs());
            assert!(differences.fold(0.0, f32::max) <= 1e-5, "{name} of {number}");
        }
    }
}

fn what_was_read_is_written() {
    let (noise, device) = (Noise::new(1), fixture::device().autodiff());
    for (name, path) in CHECKPOINTS {
        let (config, path) = (config(name), fixture::path(path));
        let net = Network::new(&config.network(), &mut noise.stream("init", 0), &device).unwrap();
        let new = Trainer::new(config.model(net).unwrap(), config.optimizer(), config.training_options(), noise);
        let (trainer, epoch) = resume_published(&path, &config, new).unwrap();
        let (mut found, mut expected) = (as_published(&trainer, &config), read_published(&path).unwrap());
        assert_eq!((Some(trainer.step_count()), epoch), (expected.progress.map(|progress| progress.step), None));
        same_levels(&mut found, &mut expected);
        // Settings are the configuration's, and numbers of NumPy there.
        for published in [&mut found, &mut expected] {
            let groups = &mut published.optimizer.as_mut().unwrap().groups;
            groups.iter_mut().for_each(|group| group.settings = Named::default());
        }
        assert_eq!(found, expected, "{name}: every tensor and number");

        // As it was read it is written, too, without a run in between.
        let (folder, expected) = (tempfile::tempdir().unwrap(), read_published(&path).unwrap());
        let again = folder.path().join("again.pth");
        write_published(&again, &expected).unwrap();
        assert_eq!(read_published(&again).unwrap(), expected, "{name}");
    }
}

pub fn cases() -> Vec<Case> {
    let case = |name: &'static str| {
        let files = ["batches", "params_step4", "ema_step4"].map(|f| format!("score_sde/{name}/train/{f}.safetensors"));
        Case::new(format!("four training steps of {name} agree"), &files, move || training(name))
    };
    let checkpoints = CHECKPOINTS.map(|(_, path)| path);
    let more = [
        Case::new("four steps are kept as the program keeps them", &checkpoints[1..], four_steps_are_kept_alike),
        Case::new("what becomes a run of ours is written as it was read", &checkpoints, what_was_read_is_written),
    ];
    NETWORKS.into_iter().map(case).chain(more).collect()
}
