//! What is read is what was written, of one run and one step.

use std::collections::BTreeMap;

use burn::module::Param;
use burn::tensor::Tensor;

use super::*;
use crate::net::{Architecture, Buffer, Dimensions};
use crate::noise::Noise;
use crate::score::Model;
use crate::sde::NoiseLevels;
use crate::train::{EmaRate, Rule, TrainingOptions};

const SGD: OptimizerConfig = OptimizerConfig::new(Rule::Sgd { momentum: 0.9 }, 0.1);

/// A run that has made `step` steps, all of whose numbers depend on `seed`.
fn trainer(seed: u64, step: u64) -> Trainer<Network> {
    let device = Device::flex();
    let config = Architecture::ResNetScore.network(Dimensions { channels: 1, width: 2, size: 4, n_levels: 1 });
    let net = Network::new(&config, &mut Noise::new(seed).stream("init", 0), &device).unwrap();
    let weights: BTreeMap<_, _> = params::to_host(&net).unwrap().into_iter().collect();
    let momentum = |key: &str| weights.get(key.split_once('.')?.1).cloned();
    let optimizer = Optimizer::from_host(SGD, step, &net, momentum).unwrap();
    let model = Model::new(net, NoiseLevels::single(1.0).unwrap());
    let trainer = Trainer::new(model, SGD, TrainingOptions::default(), Noise::new(seed));
    trainer.resume(TrainerState { step, optimizer, ema: None })
}

fn header_of(seed: u64, step: u64) -> Header {
    Header {
        step,
        seed,
        loss: Some(2.5),
        optimizer_steps: step,
        config: "training: {}\n".into(),
        precision: None,
        epoch: None,
        ema_updates: None,
    }
}

/// A folder with checkpoints of one run at `steps`.
fn saved(seed: u64, steps: &[u64]) -> (tempfile::TempDir, Checkpoints) {
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(folder.path());
    for &step in steps {
        checkpoints.save(&trainer(seed, step), &header_of(seed, step)).unwrap();
    }
    (folder, checkpoints)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, expected: &str) -> Error {
    let error = result.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    error
}

/// `bytes` with `metadata` instead of its own, and without a digest.
fn with_metadata(bytes: &[u8], metadata: &[(&str, &str)]) -> Vec<u8> {
    let (n, _) = safetensors::SafeTensors::read_metadata(bytes).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    json["__metadata__"] = serde_json::to_value(metadata.iter().copied().collect::<BTreeMap<_, _>>()).unwrap();
    let json = json.to_string();
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &bytes[8 + n..]].concat()
}

#[test]
fn a_checkpoint_is_read_as_it_was_written() {
    let (_folder, checkpoints) = saved(1, &[4]);
    let checkpoint = checkpoints.open(4).unwrap();
    assert_eq!(checkpoint.header(), &header_of(1, 4));
    let resumed = checkpoint.resume(SGD, trainer(2, 0)).unwrap();
    assert_eq!((resumed.step_count(), resumed.optimizer().n_steps()), (4, 4));
    assert_eq!(params::to_host(resumed.net()).unwrap(), params::to_host(trainer(1, 4).net()).unwrap());
}

#[test]
fn an_average_is_resumed_after_as_many_updates_as_it_was_saved_with() {
    let averaged = |ema| {
        let fresh = trainer(1, 4);
        let options = TrainingOptions { ema_rate: Some(EmaRate::WarmedUp(0.99)), ..TrainingOptions::default() };
        let (model, optimizer) = (fresh.model().clone(), fresh.optimizer().clone());
        let run = Trainer::new(model, SGD, options, Noise::new(1));
        run.resume(TrainerState { step: 4, optimizer, ema })
    };
    for (n_updates, written) in [(4, None), (3, Some(3))] {
        let run = averaged(Some((trainer(2, 0).net().clone(), n_updates)));
        let header = Header { ema_updates: Header::ema_updates_of(&run), ..header_of(1, 4) };
        assert_eq!(header.ema_updates, written);
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(folder.path());
        checkpoints.save(&run, &header).unwrap();
        let resumed = checkpoints.open(4).unwrap().resume(SGD, averaged(None)).unwrap();
        assert_eq!(resumed.ema_updates(), n_updates);
        assert_eq!(params::to_host(resumed.ema().unwrap()).unwrap(), params::to_host(run.ema().unwrap()).unwrap());
    }
}

#[test]
fn a_flipped_bit_anywhere_in_a_file_is_refused() {
    let (_folder, checkpoints) = saved(1, &[4]);
    for (path, kind) in [(checkpoints.weights_path(4), Kind::Weights), (checkpoints.state_path(4), Kind::State)] {
        let whole = fs::read(&path).unwrap();
        let read = |bytes: Vec<u8>| TensorFile::parse(&path, bytes).and_then(|file| header(&file, kind));
        assert_eq!(read(whole.clone()).unwrap(), header_of(1, 4));
        let (n, _) = safetensors::SafeTensors::read_metadata(&whole).unwrap();
        // Every bit of the metadata, a bit of every byte of the rest of the header, and of some of the data.
        let n_metadata = whole.windows(2).position(|pair| pair == b"},").unwrap();
        let bits_of = |i: usize| if i < n_metadata { 0..8 } else { i % 8..i % 8 + 1 };
        let bytes = (0..8 + n).chain((8 + n..whole.len()).step_by(97)).chain([whole.len() - 1]);
        for (i, bit) in bytes.flat_map(|i| bits_of(i).map(move |bit| (i, bit))) {
            let mut changed = whole.clone();
            changed[i] ^= 1 << bit;
            let error = read(changed).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "byte {i}, bit {bit}: {error:?}");
        }
        for n_bytes in [0, 7, 8, 100, 8 + n, whole.len() - 1] {
            assert!(matches!(read(whole[..n_bytes].to_vec()), Err(Error::Damaged { .. })), "{n_bytes} bytes");
        }
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 4;
        fs::write(&path, changed).unwrap();
        let error = refused(checkpoints.open(4), "is damaged: its tensors do not have the digest that its header says");
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        fs::write(&path, whole).unwrap();
    }
    checkpoints.open(4).unwrap();
}

#[test]
fn weights_and_state_must_be_of_one_run_and_step() {
    let (_one, checkpoints) = saved(1, &[4]);
    let put = |(_folder, other): (tempfile::TempDir, Checkpoints), step| {
        fs::copy(other.state_path(step), checkpoints.state_path(4)).unwrap();
    };
    let saved_as = |header: Header| {
        let folder = tempfile::tempdir().unwrap();
        let other = Checkpoints::new(folder.path());
        other.save(&trainer(1, 4), &header).unwrap();
        (folder, other)
    };
    put(saved(2, &[4]), 4);
    refused(checkpoints.open(4), "is of another run (seed 2, expected 1)");
    put(saved(1, &[8]), 8);
    refused(checkpoints.open(4), "is of another run (step 8, expected 4)");
    put(saved_as(Header { optimizer_steps: 3, ..header_of(1, 4) }), 4);
    refused(checkpoints.open(4), "is of another run (steps of its optimiser: 3, expected 4)");
    put(saved_as(Header { config: "training: {n_iters: 1}\n".into(), ..header_of(1, 4) }), 4);
    refused(checkpoints.open(4), "is of another run (its configuration is another)");
    // The same run on another device, say.
    let other = tempfile::tempdir().unwrap();
    let others = Checkpoints::new(other.path());
    others.save(&trainer(9, 4), &header_of(1, 4)).unwrap();
    put((other, others), 4);
    let error = refused(checkpoints.open(4), "is the state of other weights of the same run");
    assert!(matches!(error, Error::Damaged { .. }));
    put(saved(1, &[4]), 4);
    checkpoints.open(4).unwrap();

    fs::copy(checkpoints.weights_path(4), checkpoints.state_path(4)).unwrap();
    refused(checkpoints.open(4), "found a file of kind weights, expected \"state\"");
    fs::remove_file(checkpoints.state_path(4)).unwrap();
    assert!(matches!(refused(checkpoints.open(4), "found no such file"), Error::Damaged { .. }));
    assert!(matches!(checkpoints.open(5), Err(Error::Io { .. })));
}

#[test]
fn weights_under_the_name_of_another_step_are_refused_and_under_any_other_name_read() {
    let (folder, checkpoints) = saved(1, &[20]);
    fs::copy(checkpoints.weights_path(20), checkpoints.weights_path(40)).unwrap();
    fs::copy(checkpoints.state_path(20), checkpoints.state_path(40)).unwrap();
    refused(checkpoints.open(40), "found the weights of step 20, expected step 40");
    refused(Weights::open(&checkpoints.weights_path(40)), "found the weights of step 20, expected step 40");
    let copy = folder.path().join("best.safetensors");
    fs::copy(checkpoints.weights_path(20), &copy).unwrap();
    assert_eq!(Weights::open(&copy).unwrap().header(), Some(&header_of(1, 20)));
}

#[test]
fn checkpoints_without_digests_are_read() {
    let (_folder, checkpoints) = saved(1, &[4]);
    let json = serde_json::to_string(&header_of(1, 4)).unwrap();
    let rewrite = |path: &Path, kind: &str, json: &str| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, with_metadata(&bytes, &[("format", "ncsn-1"), ("kind", kind), ("run", json)])).unwrap();
    };
    rewrite(&checkpoints.weights_path(4), "weights", &json);
    rewrite(&checkpoints.state_path(4), "state", &json);
    assert_eq!(checkpoints.open(4).unwrap().resume(SGD, trainer(2, 0)).unwrap().step_count(), 4);
    let other = serde_json::to_string(&header_of(2, 4)).unwrap();
    rewrite(&checkpoints.state_path(4), "state", &other);
    refused(checkpoints.open(4), "is of another run (seed 2, expected 1)");

    // The format that has digests must have one; later formats are not known.
    let path = checkpoints.weights_path(4);
    let bytes = fs::read(&path).unwrap();
    for (format, message) in [
        ("ncsn-2", "found no digest in its header"),
        ("ncsn-3\u{1b}", "found format ncsn-3\\u{1b}, expected \"ncsn-2\""),
    ] {
        fs::write(&path, with_metadata(&bytes, &[("format", format), ("kind", "weights"), ("run", &json)])).unwrap();
        refused(checkpoints.open(4), message);
    }
}

#[test]
fn only_names_as_they_are_written_are_checkpoints() {
    let (folder, checkpoints) = saved(1, &[4]);
    let others = ["+99", "007", "-1", "4 ", "", "99999999999999999999999", "5.state", "04.state", "x.state"];
    let others = others.map(|name| folder.path().join(format!("checkpoint_{name}.safetensors")));
    others.iter().for_each(|path| fs::write(path, "precious").unwrap());
    fs::create_dir(checkpoints.weights_path(6)).unwrap();
    assert_eq!(checkpoints.steps().unwrap(), [4]);
    checkpoints.remove_all().unwrap();
    assert!(!checkpoints.weights_path(4).exists() && !checkpoints.state_path(4).exists());
    // "checkpoint_5.state.safetensors" is a state of ours, the last of a run whose weights are gone.
    let left: Vec<bool> = others.iter().map(|path| path.exists()).collect();
    assert_eq!(left, [true, true, true, true, true, true, false, true, true]);
    assert!(checkpoints.weights_path(6).is_dir());
}

#[test]
fn leftovers_are_temporary_files_and_states_without_weights() {
    let (folder, checkpoints) = saved(1, &[4, 8]);
    let leftovers = [
        ".checkpoint_12.safetensors.77.tmp",
        ".checkpoint_12.state.safetensors.77.tmp",
        ".checkpoint_8.safetensors.tmp",
        "checkpoint_12.state.safetensors",
    ];
    let others = [".checkpoint_012.safetensors.77.tmp", ".config.yml.77.tmp", "checkpoint_12.state", "config.yml"];
    leftovers.iter().chain(&others).for_each(|name| fs::write(folder.path().join(name), "x").unwrap());
    checkpoints.remove_leftovers().unwrap();
    assert!(leftovers.iter().all(|name| !folder.path().join(name).exists()));
    assert!(others.iter().all(|name| folder.path().join(name).exists()));
    [4, 8].iter().for_each(|&step| drop(checkpoints.open(step).unwrap()));
    Checkpoints::new(folder.path().join("none")).remove_leftovers().unwrap();
}

#[test]
fn the_state_just_saved_stays_however_many_later_checkpoints_there_are() {
    let (_folder, checkpoints) = saved(1, &[2, 4, 8, 12]);
    let has_state = |step: u64| checkpoints.state_path(step).exists();
    assert_eq!([2, 4, 8, 12].map(has_state), [false, false, true, true]);
    // The run went back.
    checkpoints.save(&trainer(1, 6), &header_of(1, 6)).unwrap();
    checkpoints.open(6).unwrap();
    assert_eq!([2, 4, 6, 8, 12].map(has_state), [false, false, true, true, true]);
    assert_eq!(checkpoints.steps().unwrap(), [2, 4, 6, 8, 12]);
}

#[test]
fn buffers_come_with_either_weights_and_what_follows_from_the_configuration_may_be_there() {
    #[derive(Module, Debug)]
    struct Net {
        weight: Param<Tensor<1>>,
        running_mean: Buffer<1>,
    }
    let device = Device::flex();
    let net = || {
        let zeros = || Tensor::zeros([2], &device);
        Net { weight: Param::from_tensor(zeros()), running_mean: Buffer::new(zeros()) }
    };
    let weights = |more: &[&str]| {
        let named = [("weight", 1.0), ("running_mean", 2.0), ("ema.weight", 3.0), ("sigmas", 4.0)];
        let named = named.into_iter().chain(more.iter().map(|name| (*name, 5.0)));
        let tensors = named.map(|(name, x)| (name.to_string(), HostTensor { shape: vec![2], values: vec![x; 2] }));
        let file = TensorFile::of(Path::new("w"), tensors.collect());
        Weights { file, header: None, prefix: String::new(), members: None, progress: None }
    };
    let values = |net: &Net| {
        let all = params::to_host(net).unwrap().into_iter().chain(params::buffers_to_host(net).unwrap());
        all.map(|(name, tensor)| (name, tensor.values[0])).collect::<Vec<_>>()
    };
    let expected = |weight: f32, mean: f32| [("weight".to_string(), weight), ("running_mean".to_string(), mean)];
    assert_eq!(values(&weights(&[]).load(net(), false).unwrap()), expected(1.0, 2.0));
    assert_eq!(values(&weights(&[]).load(net(), true).unwrap()), expected(3.0, 2.0));
    // An average may have buffers of its own, as copies of a whole network do.
    assert_eq!(values(&weights(&["ema.running_mean", "ema.sigmas"]).load(net(), true).unwrap()), expected(3.0, 5.0));
    let message = weights(&["other"]).load(net(), false).unwrap_err().to_string();
    assert_eq!(message, "w: found 3 tensors, expected 2: the weights of another network");

    assert!(weights(&[]).has_of_model("sigmas", &[4.0, 4.000_003], 1e-6).unwrap());
    assert!(!weights(&[]).has_of_model("other", &[4.0], 1e-6).unwrap());
    let message = weights(&[]).has_of_model("sigmas", &[4.0, 4.000_005], 1e-6).unwrap_err().to_string();
    assert_eq!(message, "w: sigmas[1] is 4, expected 4.000005 by the configuration");
}

#[test]
fn the_members_of_an_ensemble_are_the_last_ones_equally_far_apart() {
    let all: BTreeMap<u64, ()> = [5, 10, 12, 15, 25, 30].into_iter().map(|step| (step, ())).collect();
    for (step, n, every, expected) in [
        (30, 5, 5, &[30, 25, 15, 10][..]),
        (30, 2, 5, &[30, 25]),
        (30, 1, 5, &[30]),
        (10, 5, 5, &[10, 5]),
        (12, 5, 5, &[12]),
        (15, 100, u64::MAX, &[15]),
    ] {
        assert_eq!(ensemble_steps(&all, step, n, every), expected, "{n} at {step}, {every} apart");
    }
}
