//! Reading fixtures and comparing with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use ncsn::device::DeviceKind;
use ncsn::net::{Condition, params};
use ncsn::sde::Process;
use safetensors::{Dtype, SafeTensors};

use crate::Case;

/// The fixtures are what their makers wrote: `tests/fixtures/SHA256SUMS` lists every file, and no other is there.
pub fn cases() -> Vec<Case> {
    vec![Case::new("every fixture has the digest that SHA256SUMS says", &["SHA256SUMS"], || {
        let list = String::from_utf8(read("SHA256SUMS")).unwrap();
        let listed: BTreeMap<PathBuf, &str> = list
            .lines()
            .map(|line| line.split_once("  ").unwrap())
            .map(|(digest, name)| (path(name), digest))
            .collect();
        let found: BTreeMap<PathBuf, String> = files(&path(""))
            .into_iter()
            .filter(|file| !file.ends_with("SHA256SUMS"))
            .map(|file| (file.clone(), ncsn::file::sha256(&file).unwrap()))
            .collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), listed.keys().collect::<Vec<_>>(), "the files that are there");
        for (file, digest) in &found {
            assert_eq!(digest, listed[file], "{}", file.display());
        }
    })]
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Where everything here is computed: the processor, or the device that NCSN_TEST_DEVICE names.
pub fn device() -> Device {
    let name = std::env::var("NCSN_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    name.parse::<DeviceKind>().and_then(DeviceKind::open).unwrap_or_else(|error| panic!("NCSN_TEST_DEVICE: {error}"))
}

pub struct Fixture {
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// Where the fixture `name` lies.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The bytes of the fixture `name`.
pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|error| panic!("tests/fixtures/{name}: {error}"))
}

/// Its tensors.
pub fn open(name: &str) -> Fixture {
    let bytes = read(name);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let data = view.data();
        let values: Vec<f64> = match view.dtype() {
            Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::F64 => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
            Dtype::I64 => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
            Dtype::I32 => data.chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap()).into()).collect(),
            Dtype::U8 | Dtype::BOOL => data.iter().map(|&b| b.into()).collect(),
            other => panic!("fixtures hold no {other:?}"),
        };
        (name.to_string(), (view.shape().to_vec(), values))
    });
    Fixture { tensors: tensors.collect() }
}

/// The parameters of a network that the fixtures' README fills by a formula, kind "plain"; `name` is the file that lists
/// them.
pub fn formula(name: &str) -> Fixture {
    let meta: serde_json::Value = serde_json::from_slice(&read(name)).unwrap();
    let salt = meta["salt"].as_u64().unwrap();
    let list: BTreeMap<String, (String, Vec<usize>)> = serde_json::from_value(meta["params"].clone()).unwrap();
    let tensors = list.into_iter().enumerate().map(|(j, (name, (_, shape)))| {
        let values = plain(&name, &shape, salt, j).into_iter().map(f64::from).collect();
        (name, (shape, values))
    });
    Fixture { tensors: tensors.collect() }
}

/// The numbers of the tensor called `name`, number `j` of its network, by the formula of kind "plain".
pub fn plain(name: &str, shape: &[usize], salt: u64, j: usize) -> Vec<f32> {
    let fan_in = shape.iter().skip(1).product::<usize>() as f64;
    let value = |k| {
        let u = 2.0 * ((word(salt, j, k) >> 40) as f64 / 16_777_216.0) - 1.0;
        match name {
            name if name.ends_with("running_var") => 1.0 + 0.2 * (u * u),
            name if name.ends_with("running_mean") => 0.1 * u,
            _ if shape.len() > 1 => (6.0 / fan_in).sqrt() * u,
            name if name.ends_with("weight") => 1.0 + 0.1 * u,
            _ => 0.1 * u,
        }
    };
    (0..shape.iter().product()).map(|k| value(k) as f32).collect()
}

/// The formula's word `k` of stream `j`.
pub fn word(salt: u64, j: usize, k: usize) -> u64 {
    let mut z = ((salt << 48) + ((j as u64) << 32) + k as u64).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Fixture {
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].0
    }

    pub fn f64(&self, name: &str) -> &[f64] {
        let entry = self.tensors.get(name);
        &entry.unwrap_or_else(|| panic!("no {name} in {:?}", self.tensors.keys())).1
    }

    pub fn f32(&self, name: &str) -> Vec<f32> {
        self.f64(name).iter().map(|&v| v as f32).collect()
    }

    pub fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(self.f32(name), self.shape(name).to_vec()), device)
    }

    /// Row `i` of a tensor whose first dimension counts draws or steps.
    pub fn row<const D: usize>(&self, name: &str, i: usize, device: &Device) -> Tensor<D> {
        let shape = self.shape(name)[1..].to_vec();
        let n: usize = shape.iter().product();
        Tensor::from_data(TensorData::new(self.f32(name)[i * n..(i + 1) * n].to_vec(), shape), device)
    }

    /// Labels, as a network is given them.
    pub fn condition(&self, name: &str, device: &Device) -> Condition {
        let values = self.f32(name);
        let n = values.len();
        Condition::new(Tensor::from_data(TensorData::new(values, [n]), device))
    }

    /// The times of some levels.
    pub fn times(&self, name: &str, process: &dyn Process) -> Vec<f64> {
        self.f64(name).iter().map(|&level| process.time(level as usize)).collect()
    }

    /// The module with this fixture's parameters, under `prefix`.
    pub fn load<M: Module>(&self, module: M, prefix: &str) -> M {
        params::from_host(module, |name, shape| {
            let name = format!("{prefix}{name}");
            assert_eq!(self.shape(&name), shape, "{name}");
            Ok(self.f32(&name))
        })
        .unwrap()
    }

    /// The module with this fixture's buffers, too.
    pub fn load_buffers<M: Module>(&self, module: M, prefix: &str) -> M {
        params::buffers_from_host(module, |name, _| Ok(self.f32(&format!("{prefix}{name}")))).unwrap()
    }
}

/// Asserts that the largest difference is at most `tolerance` of the largest expected value.
pub fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let difference = found
        .iter()
        .zip(expected)
        .map(|(&a, &b)| (f64::from(a) - b).abs())
        .fold(0.0f64, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(
        difference <= tolerance * largest,
        "{what}: largest difference {difference:.3e}, largest value {largest:.3e}, tolerance {tolerance:.0e}"
    );
}

pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.try_into_vec_as::<f32>().unwrap()
}
