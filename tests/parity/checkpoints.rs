//! Checkpoints that PyTorch wrote, read and compared exactly with the recorded numbers; and what is written, read back.

use std::fs;

use ncsn::checkpoint::pth::{
    Numbers, Pth, Setting, StateValue, read_file, read_optimizer, read_published, write_published,
};
use ncsn::net::params::HostTensor;
use ncsn::pickle::Value;

use crate::Case;
use crate::fixture::{self, open};

const OPTIMIZERS: [&str; 9] = [
    "adam",
    "adam_amsgrad",
    "adam_amsgrad_beta2_0.9",
    "adam_beta1_0.5_eps_1e-3",
    "adam_beta2_0.9",
    "adam_weight_decay_0.1",
    "rmsprop",
    "rmsprop_weight_decay_0.1",
    "sgd_momentum_0.9",
];

pub fn cases() -> Vec<Case> {
    let of_reader = |names: &[&str]| -> Vec<String> {
        let pth = names.iter().map(|name| format!("pth_reader/{name}.pth"));
        pth.chain(["pth_reader/expected.safetensors".into()]).collect()
    };
    let mixed = of_reader(&["mixed_zip", "mixed_zip_tagged_cuda0", "mixed_legacy", "mixed_legacy_tagged_cuda0"]);
    let old = of_reader(&["old_style_checkpoint", "older_style_checkpoint"]);
    let published = [
        "ncsn/optimizers_smallest/checkpoint_adam.pth",
        "ncsn/optimizers_smallest/checkpoint_adam_legacy.pth",
        "ncsn/optimizers_smallest/final_adam.safetensors",
        "ncsn/resscore_32/checkpoint_init.pth",
        "ncsn/resscore_32/params.safetensors",
    ];
    let optimizers = OPTIMIZERS.map(|name| format!("ncsn/optimizers_arithmetic/optimizer_state_{name}.pth"));
    vec![
        Case::new(
            "every kind of view and item is read from every container",
            &mixed,
            every_kind_of_view_and_item_is_read_from_every_container,
        ),
        Case::new("checkpoints of old versions of PyTorch are read", &old, checkpoints_of_old_versions_are_read),
        Case::new(
            "the published program's checkpoints are read",
            &published,
            the_published_programs_checkpoints_are_read,
        ),
        Case::new("every optimiser's state is read", &optimizers, every_optimisers_state_is_read),
        Case::new(
            "a checkpoint is written as it was read, and always in the same bytes",
            &old,
            what_is_written_is_read_back_and_always_the_same_bytes,
        ),
    ]
}

fn every_kind_of_view_and_item_is_read_from_every_container() {
    for name in ["mixed_zip", "mixed_zip_tagged_cuda0", "mixed_legacy", "mixed_legacy_tagged_cuda0"] {
        let path = fixture::path(&format!("pth_reader/{name}.pth"));
        let (bytes, mut scratch) = (read_file(&path).unwrap(), Vec::new());
        let pth = Pth::parse(&path, &bytes, &mut scratch).unwrap();
        let mut n_compared = 0;
        for (expected_name, (shape, values)) in open("pth_reader/expected.safetensors").tensors {
            let Some(name) = expected_name.strip_prefix("mixed.") else { continue };
            let state: Vec<&str> = name.splitn(3, '.').collect();
            let place = if state[0] == "state" { vec!["1", "state", state[1], state[2]] } else { vec!["0", name] };
            let (found_shape, numbers) = pth.tensor(&place).unwrap().unwrap_or_else(|| panic!("{name}"));
            assert_eq!(found_shape, shape, "{name}");
            match numbers {
                Numbers::F32(found) => {
                    assert_eq!(found, values.iter().map(|&x| x as f32).collect::<Vec<_>>(), "{name}")
                }
                Numbers::I64(found) => {
                    assert_eq!(found.iter().map(|&n| n as f64).collect::<Vec<_>>(), values, "{name}")
                }
            }
            n_compared += 1;
        }
        assert_eq!(n_compared, 19);
        let expected = [Value::Int(5), Value::Int(12345678901234), Value::Float(2.5), Value::Str("text é中")];
        for (i, expected) in expected.iter().enumerate() {
            assert_eq!(pth.at(&[&(2 + i).to_string()]), Some(expected));
        }
        let (shape, _) = pth.tensor(&["8", "nested", "1", "x"]).unwrap().unwrap();
        assert_eq!(shape, [2]);
        assert_eq!(pth.tensor(&["0", "no such name"]).unwrap(), None);

        // As a network's weights, integers are refused by name.
        let error = read_published(&path).unwrap_err().to_string();
        assert!(error.contains("module.b.int64: has items of type I64, expected F32"), "{error}");
    }
}

fn checkpoints_of_old_versions_are_read() {
    for (name, params) in
        [("old_style_checkpoint", [0, 1]), ("older_style_checkpoint", [140_000_000_000_000, 140_000_000_000_064])]
    {
        let path = fixture::path(&format!("pth_reader/{name}.pth"));
        let read = read_published(&path).unwrap();
        let expected = open("pth_reader/expected.safetensors").tensors;
        let assert_equal = |name: String, tensor: &HostTensor| {
            let (shape, values) = &expected[&format!("old_style.{name}")];
            assert_eq!(&tensor.shape, shape, "{name}");
            assert_eq!(tensor.values.iter().map(|&x| x.into()).collect::<Vec<f64>>(), *values, "{name}");
        };
        assert_eq!(read.prefix, "module.");
        assert_eq!(read.network.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["weight", "bias"]);
        for (name, tensor) in &read.network {
            assert_equal(format!("module.{name}"), tensor);
        }
        let optimizer = read.optimizer.unwrap();
        assert_eq!(optimizer.groups[0].params, params);
        assert_eq!(optimizer.groups[0].settings["betas"], Setting::Floats(vec![0.9, 0.999]));
        assert_eq!(optimizer.groups[0].settings["weight_decay"], Setting::Int(0));
        assert_eq!(optimizer.groups[0].settings["amsgrad"], Setting::Bool(false));
        for (i, param) in params.iter().enumerate() {
            let state = &optimizer.state[param];
            assert!(matches!(state["step"], StateValue::Int(n) if n > 0), "{:?}", state["step"]);
            for name in ["exp_avg", "exp_avg_sq"] {
                let StateValue::Tensor(tensor) = &state[name] else { panic!("{:?}", state[name]) };
                assert_equal(format!("state.{i}.{name}"), tensor);
            }
        }
    }
}

fn the_published_programs_checkpoints_are_read() {
    let path = fixture::path("ncsn/optimizers_smallest/checkpoint_adam.pth");
    let zip = read_published(&path).unwrap();
    let expected = open("ncsn/optimizers_smallest/final_adam.safetensors").tensors;
    assert_eq!((zip.prefix.as_str(), zip.network.len()), ("module.", expected.len()));
    for (name, tensor) in &zip.network {
        let (shape, values) = &expected[name];
        assert_eq!(&tensor.shape, shape, "{name}");
        assert_eq!(tensor.values.iter().map(|&x| x.into()).collect::<Vec<f64>>(), *values, "{name}");
    }
    let optimizer = zip.optimizer.as_ref().unwrap();
    assert_eq!(optimizer.groups[0].params, (0..zip.network.len() as u64).collect::<Vec<_>>());
    assert!(optimizer.state.values().all(|state| state["step"].number() == Some(3.0)));

    let path = fixture::path("ncsn/optimizers_smallest/checkpoint_adam_legacy.pth");
    assert_eq!(read_published(&path).unwrap(), zip);

    // Before the first step, and of a network that was not in a DataParallel.
    let path = fixture::path("ncsn/resscore_32/checkpoint_init.pth");
    let read = read_published(&path).unwrap();
    assert_eq!(read.prefix, "");
    assert!(read.optimizer.unwrap().state.is_empty());
    let expected = open("ncsn/resscore_32/params.safetensors").tensors;
    assert_eq!(read.network.len(), expected.len());
    for (name, tensor) in &read.network {
        assert_eq!(tensor.values.iter().map(|&x| x.into()).collect::<Vec<f64>>(), expected[name].1, "{name}");
    }
}

fn every_optimisers_state_is_read() {
    for name in OPTIMIZERS {
        let expected: &[&str] = match name {
            "sgd_momentum_0.9" => &["momentum_buffer"],
            _ if name.starts_with("rmsprop") => &["square_avg", "step"],
            _ if name.contains("amsgrad") => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step"],
            _ => &["exp_avg", "exp_avg_sq", "step"],
        };
        let path = fixture::path(&format!("ncsn/optimizers_arithmetic/optimizer_state_{name}.pth"));
        let state = read_optimizer(&path).unwrap();
        assert_eq!(state.groups[0].params, [0, 1]);
        assert!(state.groups[0].settings["lr"].number().is_some());
        for (i, shape) in [vec![4, 3], vec![5]].iter().enumerate() {
            let kept = &state.state[&(i as u64)];
            let mut names: Vec<&str> = kept.names().collect();
            names.sort_unstable();
            assert_eq!(names, expected, "{name}");
            for (key, value) in kept.iter() {
                match value {
                    StateValue::Tensor(tensor) if key != "step" => assert_eq!(&tensor.shape, shape, "{name}: {key}"),
                    value => assert_eq!((key, value.number()), ("step", Some(60.0)), "{name}"),
                }
            }
        }
        let error = read_published(&path).unwrap_err().to_string();
        assert!(error.contains("holds no network"), "{error}");
    }
}

fn what_is_written_is_read_back_and_always_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["pth_reader/old_style_checkpoint.pth", "pth_reader/older_style_checkpoint.pth"] {
        let path = fixture::path(name);
        let read = read_published(&path).unwrap();
        let paths = ["a.pth", "b.pth"].map(|name| folder.path().join(name));
        for path in &paths {
            write_published(path, &read).unwrap();
        }
        assert_eq!(read_published(&paths[0]).unwrap(), read);
        assert_eq!(fs::read(&paths[0]).unwrap(), fs::read(&paths[1]).unwrap());
    }
}
