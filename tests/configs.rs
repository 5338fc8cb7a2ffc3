//! Configuration files: the published ones, saved ones, and what is refused.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use ncsn::config::{Algo, Architecture, Config, Dataset, File, Optimizer, Runner};
use ncsn::data::Split;
use ncsn::sample::{DormandPrince, ErrorNorm, PredictorCorrector, ProbabilityFlow, Sampler};
use ncsn::sde::Design;
use ncsn::train::{EmaRate, Schedule};

fn named(name: &str) -> Dataset {
    Dataset::named(name).unwrap()
}

fn parse(text: &str) -> Config {
    match Config::parse(text, "test.yml", &[], None).unwrap() {
        File::Images(config) => *config,
        File::Toy => panic!("a configuration of images"),
    }
}

fn load(name: &str) -> Config {
    match Config::load(name, &[], None).unwrap().0 {
        File::Images(config) => *config,
        File::Toy => panic!("{name} configures images"),
    }
}

#[test]
fn the_published_files_hold_the_published_values() {
    let anneal = load("anneal.yml");
    assert_eq!(
        (anneal.training.batch_size, anneal.training.n_iters, anneal.training.snapshot_freq),
        (128, 200_001, 5_000)
    );
    assert_eq!(
        (anneal.training.n_epochs, anneal.training.algo, anneal.training.anneal_power),
        (500_000, Algo::Dsm, 2.0)
    );
    assert_eq!((&anneal.data.dataset, anneal.data.image_size, anneal.data.channels), (&named("MNIST"), 28, 1));
    assert_eq!((anneal.model.sigma_begin, anneal.model.sigma_end, anneal.model.num_classes), (1.0, 0.01, 10));
    assert_eq!((anneal.model.ngf, anneal.model.architecture), (64, Architecture::Ncsn));
    assert_eq!(
        (anneal.optim.optimizer, anneal.optim.lr, anneal.optim.beta1, anneal.optim.amsgrad),
        (Optimizer::Adam, 0.001, 0.9, false)
    );
    assert_eq!((anneal.sampling.n_steps_each, anneal.sampling.step_lr), (100, 2e-5));
    assert_eq!((anneal.training.ema_rate, anneal.training.grad_clip), (None, None));

    // The published file is the same as anneal.yml: there, the runner is all the difference.
    let baseline = load("baseline.yml");
    assert_eq!((baseline.model.architecture, baseline.sampling.n_steps_each), (Architecture::Baseline, 1000));
    let File::Images(by_runner) = Config::load("anneal.yml", &[], Some(Runner::Baseline)).unwrap().0 else { panic!() };
    assert_eq!(*by_runner, baseline);
    let message = Config::load("baseline.yml", &[], Some(Runner::Anneal)).unwrap_err().to_string();
    assert!(message.starts_with("configs/baseline.yml:") && message.contains("is baseline"), "{message}");
    let cifar = load("cifar10.yml");
    assert_eq!(
        (cifar.data.dataset, cifar.data.channels, cifar.model.ngf, cifar.data.random_flip),
        (named("CIFAR10"), 3, 128, true)
    );
    let scorenet = load("scorenet.yml");
    assert_eq!(
        (scorenet.training.n_iters, scorenet.training.algo, scorenet.training.noise_std),
        (50_001, Algo::Ssm, 0.01)
    );
    assert_eq!(scorenet.model.architecture, Architecture::ResScore);
    assert_eq!((scorenet.data.image_size, scorenet.model.nef, scorenet.model.ndf), (32, 32, 32));
    assert_eq!(Config::load("toy.yml", &[], None).unwrap().0, File::Toy);
}

#[test]
fn a_file_saved_by_the_published_program_loads() {
    let saved = "\
!!python/object:argparse.Namespace
data: !!python/object:argparse.Namespace
  channels: 3
  dataset: CELEBA
  image_size: 32
  logit_transform: false
  random_flip: true
model: !!python/object:argparse.Namespace
  batch_norm: false
  ngf: 128
  num_classes: 10
  sigma_begin: 1
  sigma_end: 0.01
optim: !!python/object:argparse.Namespace
  amsgrad: false
  beta1: 0.9
  lr: 1.0e-05
  optimizer: RMSProp
  weight_decay: 0.0
training: !!python/object:argparse.Namespace
  algo: dsm
  anneal_power: 2.0
  batch_size: 128
  n_epochs: 500000
  n_iters: 200001
  ngpu: 1
  snapshot_freq: 5000
device: !!python/object/apply:torch.device
- cuda
";
    let config = parse(saved);
    assert_eq!((config.data.dataset, config.data.random_flip), (named("CELEBA"), true));
    assert_eq!((config.optim.optimizer, config.optim.lr), (Optimizer::RmsProp, 1e-5));
}

#[test]
fn overrides_replace_one_value_and_may_add_one() {
    let overrides = ["training.batch_size=64", "optim.eps=1e-3", "data.dataset=FOLDER", "data.path=it's here"];
    let overrides = overrides.map(String::from);
    let File::Images(config) = Config::load("anneal.yml", &overrides, None).unwrap().0 else { panic!("images") };
    let expected = load("anneal.yml");
    assert_eq!((config.training.batch_size, config.optim.eps), (64, 1e-3));
    assert_eq!(config.data.dataset, Dataset::folder("it's here"));
    assert_eq!(config.model, expected.model);
}

#[test]
fn a_configuration_written_out_reads_back_equal() {
    let mut state = 7u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        state >> 33
    };
    for _ in 0..200 {
        let mut config = load("scorenet.yml");
        let mut float = |scale: f64| scale * (random() as f64 + 1.0) / (1u64 << 31) as f64;
        config.optim.lr = float(1e-3);
        config.optim.weight_decay = float(1e-10);
        config.sampling.step_lr = float(1e-5);
        config.training.ema_rate = Some(float(0.999_999));
        config.training.grad_clip = Some(float(1e20));
        config.model.sigma_begin = 2.0 + float(100.0);
        config.model.sigma_end = float(1.0);
        config.training.n_iters = u64::MAX - random();
        config.data.logit_transform = random() % 2 == 0;
        config.data.dataset = Dataset::folder(format!("a: b's \"#{}\n\\", random()));
        config.model.architecture = if random() % 2 == 0 { Architecture::Ncsn } else { Architecture::Deeper };
        config.training.n_particles = 1 + (random() % 9) as usize;
        assert_eq!(parse(&config.to_yaml()), config);
    }
}

#[test]
fn every_file_in_the_folder_of_configurations_loads_and_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    fn files(folder: &Path) -> Vec<std::path::PathBuf> {
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }
    let mut n = 0;
    for path in files(&folder) {
        let name = path.strip_prefix(&folder).unwrap().to_str().unwrap();
        let (by_path, _) = Config::load(path.to_str().unwrap(), &[], None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(Config::parse(&text, name, &[], None).unwrap(), by_path);
        // An error that lists the built-in names must list this one.
        let message = Config::load("no such file", &[], None).unwrap_err().to_string();
        assert!(message.contains(name), "{name} is not built in: {message}");
        n += 1;
    }
    assert_eq!(n, 53);
}

#[test]
fn impossible_values_are_refused() {
    for (set, needle) in [
        ("model.sigma_begin=.inf", "expected a positive number"),
        ("model.sigma_begin=nan", "expected a positive number"),
        ("model.num_classes=0", "from 1"),
        ("model.ngf=1", "from 2"),
        ("model.batch_norm=true", "instance norms only"),
        ("training.batch_size=99999999999999999999", "whole number"),
        ("training.batch_size=1.5", "whole number"),
        ("training.batch_size='128'", "is \"128\", expected a whole number"),
        ("training.batch_size=null", "whole number"),
        ("training.n_iters=010", "whole number"),
        ("model.sigma_end=1e-300", "expected a positive number"),
        ("training.ema_rate=1", "between 0 and 1"),
        ("training.ema_warmup=1", "true or false"),
        ("model.ema_rate=1", "from 0 to below 1"),
        ("optim.beta1=1", "below 1"),
        ("optim.warmup=-1", "expected a whole number from 0"),
        ("optim.grad_clip=0", "optim.grad_clip is 0, expected a positive number"),
        ("training.grad_clip=-1", "expected a positive number"),
        ("optim.optimizer=Adagrad", "Adam, RMSProp, SGD"),
        ("data.channels=3", "expected 1 for MNIST"),
        ("data.held_out=validation", "data.held_out is validation, expected it only with data.dataset CELEBA"),
        ("data.path=x", "only with data.dataset LSUN, FFHQ, CELEBAHQ or FOLDER"),
        ("data.dataset=FOLDER", "found no data.path"),
        ("sampling.n_steps_each=0", "from 1"),
    ] {
        let message = Config::load("anneal.yml", &[set.to_string()], None).unwrap_err().to_string();
        assert!(message.contains(needle), "{set}: {message}");
    }
    let denoising = ["training.algo=dsm".to_string(), "training.noise_std=0".to_string()];
    let message = Config::load("scorenet.yml", &denoising, None).unwrap_err().to_string();
    let expected = "training.noise_std is 0, expected a positive number for training.algo dsm";
    assert_eq!(message, format!("--set training.noise_std=0: {expected}"));
    let deeper = ["model.architecture=deeper".to_string(), "data.image_size=30".to_string()];
    assert!(Config::load("anneal.yml", &deeper, None).unwrap_err().to_string().contains("multiple of 4"));
}

#[test]
fn data_sets_without_labels_say_so() {
    for name in ["MNIST", "CIFAR10", "SVHN", "DIGITS"] {
        Dataset::named(name).expect("known").expect_labels().expect("labels");
    }
    for (dataset, name) in [(named("CELEBA"), "CELEBA"), (Dataset::folder("x"), "FOLDER")] {
        let message = dataset.expect_labels().expect_err("no labels").to_string();
        assert_eq!(message, format!("found {name}, which has no labels, expected MNIST, CIFAR10, SVHN or DIGITS"));
    }
}

#[test]
fn a_text_on_the_command_line_is_taken_as_it_stands() {
    for text in ["photos #1", "a: b", "[x]", "'x'", "null", "", "{a: 1}", "&a", "x=y", "- x", "*"] {
        let overrides = ["data.dataset=FOLDER".to_string(), format!("data.path={text}")];
        let File::Images(config) = Config::load("anneal.yml", &overrides, None).unwrap().0 else { panic!("images") };
        assert_eq!(config.data.dataset, Dataset::folder(text));
    }
    for (set, needle) in [
        ("training.batch_size=[3]", "training.batch_size is [3], expected a whole number"),
        ("training.batch_size=a: b", "training.batch_size is a: b, expected a whole number"),
        ("training.batch_size", "expected SECTION.KEY=VALUE"),
    ] {
        let message = Config::load("anneal.yml", &[set.to_string()], None).unwrap_err().to_string();
        assert!(message.contains(needle), "{set}: {message}");
    }
}

#[test]
fn an_unknown_key_is_suggested_once_and_from_the_section_where_it_belongs() {
    for (set, needle) in [
        ("training.sigma_begin=1", "; did you mean model.sigma_begin?"),
        (
            "model.batchsize=1",
            "; did you mean eval.batch_size or fast_fid.batch_size or sampling.batch_size or test.batch_size or training.batch_size?",
        ),
        ("training.batchsize=1", "; did you mean training.batch_size?"),
        ("optim.path=1", "; did you mean data.path?"),
        ("model.n_particle=1", "; did you mean model.n_particles?"),
        ("sampling.ngf=1", "; did you mean model.ngf?"),
        (
            "sampling.nonsensical=1",
            "final_only, fid, num_samples4fid, inpainting, interpolation, n_interpolations, snapshot_images, final_images",
        ),
    ] {
        let message = Config::load("anneal.yml", &[set.to_string()], None).unwrap_err().to_string();
        assert!(message.ends_with(needle), "{set}: {message}");
    }
}

#[test]
fn the_first_difference_of_two_configurations_is_told() {
    let config = load("anneal.yml");
    assert_eq!(config.difference(&config), None);
    let mut other = config.clone();
    other.optim.lr = 0.5;
    assert_eq!(config.difference(&other).as_deref(), Some("optim.lr is 0.5, not 0.001"));
    other.data.dataset = Dataset::folder("a: b");
    assert_eq!(config.difference(&other).as_deref(), Some("data.dataset is FOLDER, not MNIST"));
}

#[test]
fn the_configuration_that_a_run_keeps_has_the_form_that_earlier_runs_have() {
    let mut config = load("scorenet.yml");
    config.training.ema_rate = Some(0.999);
    config.training.seed = Some(7);
    config.optim.eps = 1e-8;
    config.data.dataset = Dataset::folder("it's \"here\"");
    config.model.unused.lam = Some(10.0);
    let expected = "\
training:
  batch_size: 128
  n_epochs: 500000
  n_iters: 50001
  ngpu: 1
  snapshot_freq: 5000
  algo: ssm
  n_particles: 1
  slicing: exact
  anneal_power: 2.0
  noise_std: 0.01
  seed: 7
  ema_rate: 0.999
  grad_clip: null
  test_freq: 100
  log_freq: 1
data:
  dataset: FOLDER
  path: \"it's \\\"here\\\"\"
  image_size: 32
  channels: 3
  logit_transform: false
  random_flip: false
model:
  architecture: resscore
  sigma_begin: 1.0
  sigma_end: 0.01
  num_classes: 10
  batch_norm: false
  ngf: 64
  nef: 32
  ndf: 32
  n_particles: null
  lam: 10.0
  z_dim: null
optim:
  optimizer: Adam
  lr: 0.001
  beta1: 0.9
  beta2: 0.999
  eps: 1.0e-8
  momentum: 0.9
  weight_decay: 0.0
  amsgrad: false
sampling:
  n_steps_each: 1000
  step_lr: 2.0e-5
  snapshot_images: 9
  final_images: 25
";
    let File::Images(read) = Config::parse(expected, "earlier.yml", &[], None).unwrap() else { panic!() };
    assert_eq!(*read, config);
    // Keys keep their lines and their order; new ones may lie between.
    let written = config.to_yaml();
    let mut lines = written.lines();
    assert!(expected.lines().all(|line| lines.any(|other| other == line)), "{written}");
}

#[test]
fn the_optimiser_and_the_average_are_what_the_keys_of_score_sde_say() {
    let parse = |text: &str| {
        let data = "data: {dataset: CIFAR10, image_size: 32, channels: 3}";
        let file = Config::parse(&format!("{data}\n{text}"), "f.yml", &[], None)?;
        file.images("f.yml").map(|config| (config.optimizer(), config.training_options().ema_rate, config))
    };
    let (optimizer, _, config) = parse("optim: {lr: 2.0e-4, warmup: 5000, grad_clip: 1.0}").unwrap();
    assert_eq!(optimizer.lr, Schedule::WarmUp { lr: 2e-4, n_steps: 5000 });
    assert_eq!((optimizer.clip, config.training.grad_clip), (Some(1.0), Some(1.0)));
    // What a run keeps is what was read.
    let again = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap().images("config.yml").unwrap();
    assert_eq!(again, config);

    let (optimizer, ema_rate, _) = parse("optim: {warmup: 0, grad_clip: -1.}").unwrap();
    assert_eq!((optimizer.lr, optimizer.clip, ema_rate), (Schedule::Constant(0.001), None, None));
    assert_eq!(parse("training: {grad_clip: 2}").unwrap().0.clip, Some(2.0));

    for (text, expected) in [
        ("training: {ema_warmup: true, ema_rate: 0.9}", Some(EmaRate::WarmedUp(0.9))),
        ("training: {ema_warmup: true}\nmodel: {ema: true}", Some(EmaRate::WarmedUp(0.999))),
        ("training: {ema_warmup: true}\nmodel: {ema: true, ema_rate: 0.}", None),
        ("training: {ema_warmup: true}", None),
        ("training: {ema_rate: 0.9}", Some(EmaRate::Constant(0.9))),
    ] {
        assert_eq!(parse(text).unwrap().1, expected, "{text}");
    }
    for text in
        ["training: {grad_clip: 2}\noptim: {grad_clip: 1}", "optim: {grad_clip: -1}\ntraining: {grad_clip: null}"]
    {
        let message = parse(text).unwrap_err().to_string();
        assert!(message.contains("found optim.grad_clip and training.grad_clip, which mean the same"), "{message}");
    }
}

#[test]
fn files_of_score_sde_keep_an_average_whose_rate_rises() {
    let text = "training: {sde: vesde, continuous: true}\ndata: {dataset: CIFAR10, image_size: 32, num_channels: 3}\nmodel: {ema_rate: 0.99}";
    let config = Config::parse(text, "f.yml", &[], None).unwrap().images("f.yml").unwrap();
    assert_eq!(config.training_options().ema_rate, Some(EmaRate::WarmedUp(0.99)));
    let set = ["training.ema_warmup=false".to_string()];
    let config = Config::parse(text, "f.yml", &set, None).unwrap().images("f.yml").unwrap();
    assert_eq!(config.training_options().ema_rate, Some(EmaRate::Constant(0.99)));
}

#[test]
fn test_losses_of_celeba_can_be_of_its_validation_images() {
    let parse = |sde: &str, data: &str| {
        let text = format!("data: {{dataset: CELEBA, image_size: 64, channels: 3{data}}}\ntraining: {{{sde}}}");
        Config::parse(&text, "f.yml", &[], None).unwrap().images("f.yml").unwrap()
    };
    for (sde, data, held_out) in [
        ("", "", Split::Test),
        ("", ", held_out: validation", Split::Validation),
        ("sde: vesde, continuous: true", "", Split::Validation),
        ("sde: vesde, continuous: true", ", held_out: test", Split::Test),
    ] {
        let config = parse(sde, data);
        assert_eq!(config.data.held_out, held_out, "{sde}{data}");
        let again = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap().images("config.yml").unwrap();
        assert_eq!(again, config);
    }
}

#[test]
fn the_path_of_tfrecords_is_the_path_of_the_data() {
    let parse = |data: &str, sets: &[&str]| {
        let text = format!("data:\n  dataset: {data}\n  image_size: 256\n  channels: 3");
        let sets: Vec<String> = sets.iter().map(|set| (*set).into()).collect();
        Config::parse(&text, "f.yml", &sets, None)?.images("f.yml")
    };
    let config = parse("CelebAHQ\n  tfrecords_path: /a/celebahq-r08.tfrecords", &[]).unwrap();
    let expected = Dataset { path: Some("/a/celebahq-r08.tfrecords".into()), ..named("CELEBAHQ") };
    assert_eq!(config.data.dataset, expected);
    let again = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap().images("config.yml").unwrap();
    assert_eq!(again, config);
    // On the command line a path is taken as it stands.
    let config = parse("FFHQ", &["data.tfrecords_path=faces #1"]).unwrap();
    assert_eq!(config.data.dataset.path, Some("faces #1".into()));
    for (data, message) in [
        (
            "FFHQ\n  path: a\n  tfrecords_path: b",
            "found data.tfrecords_path and data.path, which mean the same; expected one of them",
        ),
        ("CIFAR10\n  tfrecords_path: b", "only with data.dataset LSUN, FFHQ, CELEBAHQ or FOLDER"),
        ("FFHQ\n  tfrecords_path: [b]", "data.tfrecords_path is a list, expected a folder or a file"),
    ] {
        let found = parse(data, &[]).unwrap_err().to_string();
        assert!(found.contains(message), "{found}");
    }
}

#[test]
fn null_on_the_command_line_takes_back_what_the_file_says() {
    let set = |text: &str| Config::load("quickstart.yml", &[text.to_string()], None).unwrap().0;
    let File::Images(config) = set("training.ema_rate=null") else { panic!("images") };
    assert_eq!((load("quickstart.yml").training.ema_rate, config.training.ema_rate), (Some(0.99), None));
}

#[test]
fn the_mistake_that_comes_first_in_the_file_is_told_first() {
    for (sets, needle) in [
        (["training.batch_size=0", "optim.lr=0"], "training.batch_size is 0"),
        (["optim.lr=0", "training.n_iterations=5"], "unknown key training.n_iterations"),
        (["data.image_size=30", "model.architecture=deepest"], "model.architecture is deepest"),
    ] {
        let message = Config::load("anneal.yml", &sets.map(String::from), None).unwrap_err().to_string();
        assert!(message.contains(needle), "{sets:?}: {message}");
    }
}

#[test]
fn the_default_is_the_published_file() {
    assert_eq!(load("anneal.yml"), Config::default());
}

#[test]
fn the_documentation_has_every_key_with_its_default_and_its_values() {
    let text = include_str!("../docs/configuration.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let keys = Config::keys();
    for key in &keys {
        let default = key.default.as_deref().unwrap_or("required");
        let expected = format!("| `{}` | {default} | {} | ", key.full(), key.values);
        let row = rows.iter().find_map(|row| row.strip_prefix(&expected));
        let meaning = row.and_then(|row| row.strip_suffix(" |"));
        assert!(meaning.is_some_and(|text| text.len() > 5), "docs/configuration.md lacks the row: {expected}MEANING |");
    }
    assert_eq!(rows.len(), keys.len(), "docs/configuration.md has rows of keys that there are not");
}

#[test]
fn the_readme_says_where_the_files_of_every_data_set_are() {
    for set in &ncsn::data::SETS {
        let row = format!("\n| `{}` | ", set.name);
        assert!(include_str!("../README.md").contains(&row), "README.md lacks the row of {}", set.name);
    }
}

#[test]
fn ncsnv2_s_files_hold_the_published_values() {
    // Network, size, batch, steps, Adam's ε, σ₁, L, T, ε, images a batch of sampling, columns of interpolation.
    let rows = [
        ("cifar10", "CIFAR10", 32, 128, 300_001, 1e-8, 50.0, 232, 5, 6.2e-6, 100, 15),
        ("celeba", "CELEBA", 64, 128, 210_001, 1e-8, 90.0, 500, 5, 3.3e-6, 64, 15),
        ("church", "LSUN-church_outdoor", 96, 128, 200_001, 1e-8, 140.0, 788, 4, 4.9e-6, 96, 12),
        ("bedroom", "LSUN-bedroom", 128, 128, 150_001, 1e-8, 190.0, 1086, 3, 1.8e-6, 36, 10),
        ("tower", "LSUN-tower", 128, 128, 150_001, 1e-8, 190.0, 1086, 3, 1.8e-6, 36, 10),
        ("ffhq", "FFHQ", 256, 32, 80_001, 1e-3, 348.0, 2311, 3, 9e-7, 36, 8),
    ];
    for (name, set, size, batch, n_iters, eps, sigma_1, n_levels, n_steps, step_lr, n_drawn, n_columns) in rows {
        let config = load(&format!("ncsnv2/{name}.yml"));
        assert_eq!(
            (&config.data.dataset, config.data.image_size, config.data.channels),
            (&named(set), size, 3),
            "{name}"
        );
        assert_eq!((config.training.batch_size, config.training.n_iters), (batch, n_iters), "{name}");
        assert_eq!((config.optim.lr, config.optim.eps, config.optim.optimizer), (1e-4, eps, Optimizer::Adam), "{name}");
        assert_eq!((config.model.sigma_begin, config.model.num_classes, config.model.ngf), (sigma_1, n_levels, 128));
        assert_eq!((config.sampling.n_steps_each, config.sampling.step_lr), (n_steps, step_lr), "{name}");
        assert_eq!(
            (config.sampling.batch_size, config.sampling.n_interpolations),
            (Some(n_drawn), n_columns),
            "{name}"
        );
        let expected = match size {
            32 | 64 => Architecture::NcsnV2,
            96 | 128 => Architecture::NcsnV2Deeper,
            _ => Architecture::NcsnV2Deepest,
        };
        assert_eq!(config.model.architecture, expected, "{name}");
        assert_eq!(config.training_options().ema_rate, Some(EmaRate::Constant(0.999)), "{name}");
        assert!(config.data.random_flip && config.sampling.denoise && config.sampling.final_only, "{name}");
        assert_eq!(config.data.uniform_dequantization, Some(false), "{name}");
        // No range of checkpoints is empty, and a checkpoint is written every 5000 steps.
        let (fast, test) = (&config.fast_fid, &config.test);
        for ends in [[fast.begin_ckpt, fast.end_ckpt], [test.begin_ckpt, test.end_ckpt]] {
            let [begin, end] = ends.map(Option::unwrap);
            assert!(begin < end && end == n_iters - 1 && begin % 5000 == 0, "{name}: {begin} to {end}");
        }
        let split = if name.contains("celeba") { Split::Test } else { Split::Train };
        assert_eq!((config.fast_fid_split(), config.fast_fid.n_members()), (split, 1), "{name}");
        // Neighbouring levels overlap as technique 2 wants it.
        let design = Design { dim: 3 * size * size, sigma_begin: sigma_1, sigma_end: config.model.sigma_end, n_levels };
        assert!((design.overlap() - 0.566).abs() < 2e-3, "{name}: {}", design.overlap());
    }
}

#[test]
fn a_category_is_one_of_its_data_set_s() {
    let parse =
        |data: &str| Config::parse(&format!("data: {{{data}, image_size: 32, channels: 3}}"), "f.yml", &[], None);
    for (data, needle) in [
        ("dataset: LSUN", "found no data.category, expected one of LSUN's: bedroom, bridge"),
        ("dataset: LSUN, category: cat", "data.category is cat, expected one of bedroom"),
        ("dataset: FFHQ, category: bedroom", "only with data.dataset LSUN"),
        ("dataset: CIFAR10, path: x", "only with data.dataset LSUN, FFHQ, CELEBAHQ or FOLDER"),
    ] {
        let message = parse(data).unwrap_err().to_string();
        assert!(message.contains(needle), "{data}: {message}");
    }
    let File::Images(config) = parse("dataset: LSUN, category: Tower, path: /a/b").unwrap() else { panic!("images") };
    assert_eq!((config.data.dataset.label().as_str(), config.data.dataset.path.is_some()), ("LSUN-tower", true));
    let File::Images(again) = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap() else { panic!() };
    assert_eq!(again, config);
}

#[test]
fn files_of_ncsnv2_name_the_network_by_their_data_set_unless_they_say_it() {
    let text = |data_set: &str, model: &str| {
        format!(
            "data: {{dataset: {data_set}, image_size: 32, channels: 3}}\nmodel: {{num_classes: 232, sigma_begin: 50, ema: true{model}}}"
        )
    };
    let load = |data_set, model| match Config::parse(&text(data_set, model), "f.yml", &[], None).unwrap() {
        File::Images(config) => *config,
        File::Toy => panic!("a configuration of images"),
    };
    for (model, architecture) in [
        (", sigma_dist: geometric", Architecture::NcsnV2),
        (", normalization: VarianceNorm, nonlinearity: swish", Architecture::NcsnV2),
        (", name: ncsn", Architecture::Ncsn),
        (", name: ncsnv2_deeper", Architecture::NcsnV2Deeper),
        (", name: ncsnv2_deepest, architecture: ncsnv2", Architecture::NcsnV2),
        ("", Architecture::Ncsn),
    ] {
        let config = load("CIFAR10", model);
        assert_eq!(config.model.architecture, architecture, "{model}");
        let is_of_ncsnv2 = !model.is_empty() && !model.contains("architecture");
        assert_eq!(config.data.uniform_dequantization, is_of_ncsnv2.then_some(false), "{model}");
        // What a run keeps is what was read.
        let File::Images(again) = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap() else { panic!() };
        assert_eq!(*again, config, "{model}");
        assert_eq!(config.training_options().ema_rate, Some(EmaRate::Constant(0.999)));
    }
    for (model, needle) in [
        (", name: ncsnv3", "expected one of ncsn, ncsn_deeper, ncsnv2, ncsnv2_deeper, ncsnv2_deepest, ddpm, ncsnpp"),
        (", sigma_dist: linear", "expected one of geometric, uniform"),
    ] {
        let message = Config::parse(&text("CIFAR10", model), "f.yml", &[], None).unwrap_err().to_string();
        assert!(message.contains(needle), "{message}");
    }
}

#[test]
fn the_method_of_sampling_says_what_the_other_keys_are_of() {
    const DATA: &str = "data: {dataset: MNIST, image_size: 32, channels: 1}\n";
    let sampler = |keys: &str| {
        parse(&format!("{DATA}training: {{sde: vesde, continuous: true}}\nsampling: {{{keys}}}\n")).sampler()
    };
    let flow = ProbabilityFlow::default();
    assert_eq!(sampler("method: ode"), Sampler::ProbabilityFlow(flow));
    let solver = DormandPrince { norm: ErrorNorm::Batch, ..DormandPrince::default() };
    let of_batch = Sampler::ProbabilityFlow(ProbabilityFlow { solver, noise_removal: false });
    assert_eq!(sampler("method: ode, batch_mean_norms: true, noise_removal: false"), of_batch);
    let pc = PredictorCorrector { n_steps_each: 3, ..PredictorCorrector::default() };
    assert_eq!(sampler("method: pc, n_steps_each: 3"), Sampler::PredictorCorrector(pc));
    let message =
        Config::parse(&format!("{DATA}sampling: {{method: ode}}\n"), "test.yml", &[], None).unwrap_err().to_string();
    assert!(message.contains("sampling.method is ode, expected langevin or pc"), "{message}");
}

#[test]
fn score_sde_s_files_hold_the_published_values() {
    use ncsn::config::{CorrectorName, Method, PredictorName, Sde};
    use ncsn::net::NetworkConfig;
    // Process, whether continuous, trainable parameters and modules of the network, EMA, predictor, corrector and its snr.
    let (reverse, ancestral, euler, none) = (
        PredictorName::ReverseDiffusion,
        PredictorName::AncestralSampling,
        PredictorName::EulerMaruyama,
        PredictorName::None,
    );
    let (langevin, ald, alone) = (CorrectorName::Langevin, CorrectorName::Ald, CorrectorName::None);
    let (ve, vp, sub_vp) = (Sde::Ve, Sde::Vp, Sde::SubVp);
    let positional = 62_693_251;
    let fourier = 62_758_915 - 128;
    let rows = [
        ("ve/cifar10_ncsnpp", ve, false, positional, 0.999, (reverse, langevin, 0.16)),
        ("ve/cifar10_ncsnpp_continuous", ve, true, fourier, 0.999, (reverse, langevin, 0.16)),
        ("ve/cifar10_ncsnpp_deep_continuous", ve, true, 107_587_075 - 128, 0.999, (reverse, langevin, 0.16)),
        ("ve/cifar10_ddpm", ve, false, 35_218_947, 0.999, (reverse, langevin, 0.16)),
        ("ve/celeba_ncsnpp", ve, false, positional, 0.999, (reverse, langevin, 0.17)),
        ("ve/bedroom_ncsnpp_continuous", ve, true, 65_574_549 - 128, 0.999, (reverse, langevin, 0.075)),
        ("ve/church_ncsnpp_continuous", ve, true, 65_574_549 - 128, 0.999, (reverse, langevin, 0.075)),
        ("ve/ffhq_256_ncsnpp_continuous", ve, true, 65_574_549 - 128, 0.999, (reverse, langevin, 0.075)),
        ("ve/celebahq_256_ncsnpp_continuous", ve, true, 65_574_549 - 128, 0.999, (reverse, langevin, 0.075)),
        ("ve/ffhq_ncsnpp_continuous", ve, true, 105_785_896 - 16, 0.9999, (reverse, langevin, 0.15)),
        ("ve/celebahq_ncsnpp_continuous", ve, true, 105_785_896 - 16, 0.9999, (reverse, langevin, 0.15)),
        ("vp/cifar10_ddpmpp", vp, false, 61_804_419, 0.9999, (ancestral, alone, 0.16)),
        ("vp/cifar10_ddpmpp_continuous", vp, true, 61_804_419, 0.9999, (euler, alone, 0.16)),
        ("vp/cifar10_ddpmpp_deep_continuous", vp, true, 106_632_579, 0.9999, (euler, alone, 0.16)),
        ("vp/cifar10_ncsnpp", vp, false, positional, 0.9999, (reverse, alone, 0.16)),
        ("vp/cifar10_ncsnpp_continuous", vp, true, positional, 0.9999, (euler, alone, 0.16)),
        ("vp/ddpm/cifar10", vp, false, 35_218_947, 0.9999, (ancestral, alone, 0.16)),
        ("vp/ddpm/cifar10_continuous", vp, true, 35_218_947, 0.9999, (euler, alone, 0.16)),
        ("vp/ddpm/bedroom", vp, false, 111_569_923, 0.9999, (ancestral, alone, 0.16)),
        ("vp/ddpm/church", vp, false, 111_569_923, 0.9999, (ancestral, alone, 0.16)),
        ("vp/ddpm/celebahq", vp, false, 111_569_923, 0.9999, (ancestral, alone, 0.16)),
        ("subvp/cifar10_ddpmpp_continuous", sub_vp, true, 61_804_419, 0.9999, (euler, alone, 0.16)),
        ("subvp/cifar10_ddpmpp_deep_continuous", sub_vp, true, 106_632_579, 0.9999, (euler, alone, 0.16)),
        ("subvp/cifar10_ncsnpp_continuous", sub_vp, true, positional, 0.9999, (euler, alone, 0.16)),
        ("subvp/cifar10_ddpm_continuous", sub_vp, true, 35_218_947, 0.9999, (euler, alone, 0.16)),
    ];
    for (name, sde, continuous, n_parameters, ema_rate, (predictor, corrector, snr)) in rows {
        let config = load(&format!("score_sde/{name}.yml"));
        let NetworkConfig::UNet(net) = config.network() else { panic!("{name} is no U-Net") };
        assert_eq!(net.n_parameters().unwrap(), n_parameters, "{name}");
        assert_eq!((config.training.sde, config.training.continuous), (Some(sde), continuous), "{name}");
        assert_eq!(config.training.reduce_mean, sde != ve || name == "ve/ffhq_ncsnpp_continuous", "{name}");
        assert_eq!(config.data.rescaled, sde != ve, "{name}");
        assert_eq!((config.model.ema, config.model.ema_rate), (true, ema_rate), "{name}");
        assert_eq!(config.sampling.method, Method::PredictorCorrector, "{name}");
        assert_eq!((config.sampling.predictor, config.sampling.corrector), (predictor, corrector), "{name}");
        assert_eq!((config.sampling.snr, config.training.seed), (snr, Some(42)), "{name}");
        assert_eq!((config.optim.warmup, config.training.grad_clip), (5000, Some(1.0)), "{name}");
        // What a run keeps is what was read.
        let File::Images(again) = Config::parse(&config.to_yaml(), "config.yml", &[], None).unwrap() else { panic!() };
        assert_eq!(*again, config, "{name}");
    }
    for (name, sigma_max, n_levels, ema_rate, snr, n_steps) in [
        ("ncsn/cifar10", 1.0, 10, 0.0, 0.316, 100),
        ("ncsn/celeba_5", 1.0, 10, 0.999, 0.316, 100),
        ("ncsn/cifar10_124", 50.0, 232, 0.0, 0.176, 5),
        ("ncsn/celeba_1245", 90.0, 500, 0.999, 0.128, 5),
        ("ncsnv2/cifar10", 50.0, 232, 0.999, 0.176, 5),
        ("ncsnv2/bedroom", 190.0, 1086, 0.9999, 0.095, 3),
    ] {
        let config = load(&format!("score_sde/ve/{name}.yml"));
        assert_eq!((config.model.sigma_begin, config.model.num_classes, config.model.ngf), (sigma_max, n_levels, 128));
        assert_eq!((config.sampling.snr, config.sampling.n_steps_each), (snr, n_steps), "{name}");
        assert_eq!((config.sampling.predictor, config.sampling.corrector), (none, ald), "{name}");
        assert_eq!((config.model.ema_rate, config.training.grad_clip, config.optim.warmup), (ema_rate, None, 0));
        config.network().check().unwrap();
    }
}

#[test]
fn keys_of_score_sde_that_do_not_go_together_are_refused() {
    let message = |file: &str, sets: &[&str]| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_string()).collect();
        Config::load(file, &sets, None).map(|_| ()).unwrap_err().to_string()
    };
    let (ve, vp) = ("score_sde/ve/cifar10_ncsnpp_continuous.yml", "score_sde/vp/cifar10_ddpmpp.yml");
    for (file, sets, needle) in [
        (vp, &["training.likelihood_weighting=true"][..], "training.likelihood_weighting is true, expected false"),
        (vp, &["training.sde=subvpsde"], "training.continuous is false, expected true with training.sde subvpsde"),
        (vp, &["model.scale_by_sigma=true"], "model.scale_by_sigma is true, expected false"),
        (vp, &["training.sde=null"], "found no training.sde, expected vesde, vpsde or subvpsde"),
        (ve, &["training.continuous=false"], "model.embedding_type is fourier, expected positional"),
        (ve, &["model.embedding_type=positional"], "model.embedding_type is positional, expected fourier"),
        (ve, &["model.nf=130"], "130 channels in 32 groups"),
        (ve, &["model.ch_mult=[1,0]"], "model.ch_mult is [1,0], expected a list of 1 to 12 values"),
        (ve, &["data.image_size=36"], "expected a multiple of 8"),
        (ve, &["model.sigma_max=0.001"], "must be below"),
        (ve, &["model.beta_min=30"], "beta_max 20 must be above beta_min 30"),
        (vp, &["model.num_scales=10"], "num_scales is 10, expected a number above beta_max, 20"),
        (ve, &["model.sigma_maximum=3"], "unknown key model.sigma_maximum"),
    ] {
        let found = message(file, sets);
        assert!(found.contains(needle), "{sets:?}: {found}");
    }
    let text = "model:\n  nf: 4\n  ngf: 8\n";
    let found = Config::parse(text, "f.yml", &[], None).unwrap_err().to_string();
    assert_eq!(found, "f.yml:2: found model.nf and model.ngf, which mean the same; expected one of them");
}
