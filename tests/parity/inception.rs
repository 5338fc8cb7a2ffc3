//! The network behind FID and the inception score, against two of its PyTorch ports.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use ncsn::eval::{ResizeRule, Resizer};
use ncsn::net::{Inception, InceptionMaps, global_mean};
use serde_json::Value;

use crate::Case;
use crate::fixture::{Fixture, assert_close, device, open, plain, read, values, word};

/// Of the largest value, as the fixture has it.
const TOLERANCE: f64 = 1e-5;

const FILES: [&str; 2] = ["metrics/inception.safetensors", "metrics/inception.json"];

pub fn cases() -> Vec<Case> {
    vec![Case::new("inception's features and logits agree", &FILES, features_and_logits_agree)]
}

/// The network with weights by the formula of the fixture.
pub fn network(meta: &Value) -> Inception {
    let salt = meta["salt"].as_u64().unwrap();
    let keys: Vec<(usize, String, String, Vec<usize>)> = serde_json::from_value(meta["keys"].clone()).unwrap();
    let mut numbers: BTreeMap<_, _> = keys.into_iter().map(|(j, name, _, shape)| (name, (j, shape))).collect();
    let net = Inception::new(&device(), |name, shape| {
        let (j, expected) = numbers.remove(name).unwrap_or_else(|| panic!("{name} is asked for twice or unknown"));
        assert_eq!(shape, expected, "{name}");
        Ok(plain(name, shape, salt, j))
    });
    assert!(numbers.keys().all(|name| name.ends_with("num_batches_tracked")), "not asked for: {:?}", numbers.keys());
    net.unwrap()
}

/// The pixels of image `i` of the formula, `[3, 299, 299]`.
fn image299(salt: u64, i: usize) -> Vec<u8> {
    let byte = |stream: usize, k: usize| word(salt, stream + i, k) >> 56;
    let places = (0..3_usize).flat_map(|c| (0..299_usize).flat_map(move |y| (0..299_usize).map(move |x| (c, y, x))));
    let pixel = |(c, y, x)| {
        let (block, noise) = ((c * 13 + y / 23) * 13 + x / 23, (c * 299 + y) * 299 + x);
        ((3 * byte(60_000, block) + byte(61_000, noise)) >> 2) as u8
    };
    places.map(pixel).collect()
}

fn features_and_logits_agree() {
    let fixture = open(FILES[0]);
    let meta: Value = serde_json::from_slice(&read(FILES[1])).unwrap();
    let net = network(&meta);
    let images: Vec<u8> = (0..2).flat_map(|i| image299(meta["salt"].as_u64().unwrap(), i)).collect();
    for (image, sum) in images.chunks_exact(3 * 299 * 299).zip(meta["image299_sum"].as_array().unwrap()) {
        assert_eq!(image.iter().map(|&pixel| u64::from(pixel)).sum::<u64>(), sum.as_u64().unwrap());
    }
    let small: Vec<u8> = fixture.f64("images32").iter().map(|&pixel| pixel as u8).collect();
    for (rule, prefix) in [(ResizeRule::PytorchFid, ""), (ResizeRule::Compat, "tf1.")] {
        for (images, side) in [(&images, 299), (&small, 32)] {
            let x = Resizer::new(rule, [side; 2], Inception::SIDE).batch(images);
            let shape = [2, 3, Inception::SIDE, Inception::SIDE];
            let maps = net.forward(Tensor::from_data(TensorData::new(x, shape), &device()));
            agrees(&net, &maps, &fixture, &format!("{prefix}img{side}"));
        }
    }
}

fn agrees(net: &Inception, maps: &InceptionMaps, fixture: &Fixture, name: &str) {
    let features = maps.features();
    let logits = net.logits(features.clone());
    let n_classes = Inception::N_CLASSES;
    let with_bias = logits.clone() + net.bias().reshape([1, n_classes]);
    let close = |part: &str, found: Vec<f32>| {
        let name = format!("{name}.{part}");
        if fixture.has(&name) {
            assert_close(&name, &found, fixture.f64(&name), TOLERANCE);
        }
        fixture.has(&name)
    };
    assert!(close("pool2048", values(features)));
    close("logits_nobias", values(logits));
    close("logits", values(with_bias));
    for (channels, map) in [(64, &maps.first_pool), (192, &maps.second_pool), (768, &maps.mixed_6e)] {
        close(&format!("mean{channels}"), values(global_mean(map)));
        close(&format!("corner{channels}"), values(map.clone().slice([0..2, 0..8, 0..3, 0..3])));
    }
}
