//! What a GPU computes, against the processor, operation by operation and over whole steps.
//!
//! On the device that NCSN_TEST_DEVICE names, else on the first that is found: a program that acts as a GPU will do.
//! `NCSN_TEST_DEVICE=vulkan cargo test --release --features vulkan --test parity` compares networks with the published program.
#![allow(clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::{Device, Int, Tensor, TensorData};
use ncsn::data::{Batch, Range};
use ncsn::device::{self, Api, DeviceKind, Precision};
use ncsn::loss::{Loss, Objective, Slicing};
use ncsn::net::{Architecture, Dimensions, Network, NetworkConfig, NormKind, max_pool_5, params};
use ncsn::noise::{self, Distribution, Noise};
use ncsn::sample::{AnnealedLangevin, Images, image_chain};
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{EmaRate, OptimizerConfig, Rule, Schedule, Trainer, TrainingOptions};
use ncsn_kernels::filter::Filter;
use ncsn_kernels::max_pool::Windows;
use ncsn_kernels::ops::conv::{Conv, conv_transpose2d, conv2d, linear};
use ncsn_kernels::ops::max_pool::max_pool_3x3;
use ncsn_kernels::ops::norm::{Activation, instance_norm};
use ncsn_kernels::ops::optimizer;
use ncsn_kernels::ops::pixels::{activate, separable};
use ncsn_kernels::optimizer as kernel;

fn gpu() -> Device {
    let named = std::env::var("NCSN_TEST_DEVICE").ok().map(|name| name.parse::<DeviceKind>().unwrap());
    let found =
        [Api::Cuda, Api::Metal, Api::Vulkan].into_iter().find(|api| api.devices().is_some_and(|d| !d.is_empty()));
    let kind = named.or(found.map(|api| DeviceKind::Gpu(api, 0)));
    let device = kind.expect("a GPU, or a driver that acts as one: Mesa has one for Vulkan").open().unwrap();
    eprintln!("on {}", device::name(&device).unwrap());
    device
}

/// The precision is the program's: tests that set it take turns.
fn at(precision: Precision) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    precision.set_current();
    turn
}

fn random<const D: usize>(shape: [usize; D], name: &str, device: &Device) -> Tensor<D> {
    let mut x = vec![0.0; shape.iter().product()];
    Noise::new(5).stream(name, 0).normal(&mut x);
    Tensor::from_data(TensorData::new(x, shape), device)
}

fn values<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().try_into_vec_as().unwrap()
}

/// The largest difference, relative to the largest number.
fn difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |m, &x| m.max(f64::from(x).abs()));
    let differences = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs());
    differences.fold(0.0, |m: f64, d| if d > m || d.is_nan() { d } else { m }) / largest.max(1e-30)
}

/// The output of `f` and its gradient for each of `inputs`, from a gradient that is different everywhere.
fn with_gradients<const D: usize>(
    inputs: &[(&str, [usize; D])],
    device: &Device,
    f: impl Fn(Vec<Tensor<D>>) -> Tensor<4>,
) -> Vec<Vec<f32>> {
    let device = device.clone().autodiff();
    let inputs: Vec<_> = inputs.iter().map(|(name, shape)| random(*shape, name, &device).require_grad()).collect();
    let out = f(inputs.clone());
    // Not by `sum`: Burn's uses atomics, which not every driver has.
    let loss = (out.clone() * random(out.dims(), "gradient", &device)).reshape([1, -1]).sum_dim(1);
    let gradients = loss.backward();
    let gradients = inputs.iter().map(|x| values(&x.grad(&gradients).unwrap()));
    std::iter::once(values(&out.inner())).chain(gradients).collect()
}

fn same_on_both<const D: usize>(
    what: &str,
    inputs: &[(&str, [usize; D])],
    tolerance: f64,
    f: impl Fn(Vec<Tensor<D>>) -> Tensor<4>,
) {
    let [found, expected] = [gpu(), Device::flex()].map(|device| with_gradients(inputs, &device, &f));
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let difference = difference(found, expected);
        assert!(difference <= tolerance, "{what}, output or gradient {i}: difference {difference:.1e}");
    }
}

#[test]
fn random_numbers_are_those_of_the_processor() {
    let device = gpu();
    for (n_streams, shape) in [(1, [1, 1]), (1, [3, 7]), (5, [5, 13]), (3, [3, 1000]), (2, [2, 4096])] {
        let draw = |distribution, device: &Device| {
            let mut streams: Vec<_> = (0..n_streams).map(|k| Noise::new(3).stream("gpu", u64::MAX - k)).collect();
            let first = noise::tensor(distribution, &mut streams, shape, device);
            [first, noise::tensor(distribution, &mut streams, shape, device)].map(|x| values(&x))
        };
        let both = |distribution| [&device, &Device::flex()].map(|device| draw(distribution, device));
        let [found, expected] = both(Distribution::Uniform);
        assert_eq!(found, expected);
        let [found, expected] = both(Distribution::Normal);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            // Logarithm, root, cosine and two products, each right to about one last bit.
            assert!((found - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{found} {expected}");
        }
    }
}

#[test]
fn convolutions_and_their_gradients_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    // [images, in, out, height, width, kernel, stride, padding, dilation]
    for [n, c_in, c_out, h, w, k, stride, padding, dilation] in [
        [2, 3, 5, 9, 7, 3, 1, 1, 1],
        [1, 1, 8, 8, 8, 3, 1, 1, 1],
        [3, 8, 1, 5, 6, 3, 1, 1, 1],
        [2, 4, 4, 8, 8, 1, 1, 0, 1],
        [2, 4, 6, 8, 10, 3, 1, 2, 2],
        [1, 4, 6, 5, 5, 3, 1, 4, 4],
        [2, 3, 4, 8, 8, 3, 2, 1, 1],
        [1, 2, 3, 9, 9, 5, 1, 2, 1],
        [2, 16, 16, 14, 14, 3, 1, 1, 1],
        [1, 3, 2, 1, 1, 3, 1, 1, 1],
        [1, 2, 3, 4, 1, 1, 3, 1, 1],
    ] {
        let conv = Conv { stride, padding: [padding; 2], dilation };
        let inputs = [("x", [n, c_in, h, w]), ("weight", [c_out, c_in, k, k])];
        let what = format!("{inputs:?} {conv:?}");
        same_on_both(&what, &inputs, 1e-5, |mut inputs| {
            let [weight, x] = [inputs.pop().unwrap(), inputs.pop().unwrap()];
            let bias = random([c_out], "bias", &x.device());
            conv2d(x, weight, Some(bias), None, conv)
        });
    }
}

#[test]
fn oblong_kernels_with_bias_and_residual_and_maxima_and_their_gradients_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    for ([kh, kw], padding) in [([1, 7], [0, 3]), ([7, 1], [3, 0]), ([3, 3], [1, 1])] {
        let (conv, out) = (Conv { stride: 1, padding, dilation: 1 }, [2, 4, 9, 8]);
        let inputs = [("x", [2, 3, 9, 8]), ("weight", [4, 3, kh, kw]), ("bias", [4, 1, 1, 1]), ("residual", out)];
        same_on_both(&format!("{inputs:?} {conv:?}"), &inputs, 1e-5, |inputs| {
            let [x, weight, bias, residual] = inputs.try_into().unwrap();
            conv2d(x, weight, Some(bias.reshape([4])), Some(residual), conv)
        });
    }
    for windows in [Windows { stride: 1, padding: 1 }, Windows { stride: 2, padding: 0 }] {
        same_on_both(&format!("{windows:?}"), &[("x", [2, 3, 9, 8])], 1e-6, |mut x| {
            max_pool_3x3(x.pop().unwrap(), windows)
        });
    }
}

#[test]
fn transposed_convolutions_and_their_gradients_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    for [n, c_in, c_out, h, w, k, stride, padding, output_padding] in [
        [2, 4, 3, 5, 6, 3, 1, 1, 0],
        [2, 4, 3, 5, 6, 3, 2, 1, 1],
        [1, 2, 5, 4, 4, 5, 2, 2, 1],
        [1, 1, 1, 1, 1, 2, 2, 0, 0],
    ] {
        let conv = Conv { stride, padding: [padding; 2], dilation: 1 };
        let inputs = [("x", [n, c_in, h, w]), ("weight", [c_in, c_out, k, k])];
        same_on_both(&format!("{inputs:?} {conv:?}"), &inputs, 1e-5, |mut inputs| {
            let [weight, x] = [inputs.pop().unwrap(), inputs.pop().unwrap()];
            conv_transpose2d(x, weight, None, conv, output_padding)
        });
    }
}

#[test]
fn dense_layers_and_their_gradients_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    for [n, n_in, n_out] in [[5, 7, 3], [1, 1, 1], [16, 128, 64]] {
        let inputs = [("x", [n, n_in]), ("weight", [n_out, n_in])];
        same_on_both(&format!("{inputs:?}"), &inputs, 1e-5, |mut inputs| {
            let [weight, x] = [inputs.pop().unwrap(), inputs.pop().unwrap()];
            linear(x, weight).reshape([n, n_out, 1, 1])
        });
    }
}

#[test]
fn filters_activations_and_maxima_and_their_gradients_are_those_of_the_processor() {
    for [h, w] in [[28, 28], [7, 5], [1, 1], [4, 9]] {
        let inputs = [("x", [2, 3, h, w])];
        for activation in Activation::ALL {
            let what = format!("{activation:?}");
            same_on_both(&what, &inputs, 1e-6, |mut x| activate(x.pop().unwrap(), activation));
        }
        // NCSNv2's pool.
        same_on_both("maxima", &inputs, 1e-6, |mut x| max_pool_5(x.pop().unwrap().into()).value);
        same_on_both("window", &inputs, 1e-6, |mut x| {
            separable(x.pop().unwrap(), Filter::window_mean(h, 5), Filter::window_mean(w, 5))
        });
        same_on_both("interpolation", &inputs, 1e-6, |mut x| {
            separable(x.pop().unwrap(), Filter::interpolation(h, 2 * h), Filter::interpolation(w, w.div_ceil(2)))
        });
        if h > 1 {
            same_on_both("cells", &inputs, 1e-6, |mut x| {
                separable(x.pop().unwrap(), Filter::cell_mean(h, 2), Filter::cell_mean(w, 2))
            });
        }
    }
}

#[test]
fn instance_norms_and_their_gradients_are_those_of_the_processor() {
    // [images, channels, height, width, columns of a channel]; 40 channels are more than a cube takes at once, and no power of two.
    for [n, c, h, w, columns] in
        [[3, 4, 5, 7, 3], [2, 40, 3, 2, 3], [1, 1, 9, 9, 2], [4, 3, 28, 28, 2], [2, 70, 1, 1, 3], [1, 3, 4, 4, 3]]
    {
        for activation in Activation::ALL {
            let inputs = [("x", [n, c, h, w]), ("table", [1, 1, 5, columns * c])];
            same_on_both(&format!("{inputs:?} {activation:?}"), &inputs, 2e-5, |inputs| {
                let [x, table] = inputs.try_into().unwrap();
                // Row 3 is of no image, others perhaps of several.
                let rows = (0..n as i64).map(|i| [4, 0, 4, 1][i as usize]).collect::<Vec<_>>();
                let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [n]), &x.device());
                let [out, x] = instance_norm(x, table.reshape([5, columns * c]), rows, activation);
                // Both results are used.
                out + x * 0.5
            });
        }
    }
}

#[test]
fn steps_of_optimisers_are_those_of_the_processor() {
    let device = gpu();
    let adam = kernel::Rule::Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, t: 3 };
    let rms_prop = kernel::Rule::RmsProp { lr: 0.1, alpha: 0.9, eps: 1e-8 };
    let sgd = kernel::Rule::Sgd { lr: 0.1, momentum: 0.9 };
    for (rule, n_states) in [(adam, 2), (adam, 3), (rms_prop, 1), (sgd, 1)] {
        for has_shadow in [false, true] {
            let start = |device: &Device| optimizer::Parameter {
                value: random([1000], "value", device),
                state: (0..n_states).map(|i| random([1000], ["a", "b", "c"][i], device).square()).collect(),
                shadow: has_shadow.then(|| random([1000], "shadow", device)),
            };
            let all = |p: &optimizer::Parameter| {
                [&p.value].into_iter().chain(&p.state).chain(&p.shadow).flat_map(values).collect::<Vec<f32>>()
            };
            let step = |clip| kernel::Step { rule, clip, weight_decay: 0.1, ema_rate: 0.9 };
            let gradient = |device| random([1000], "gradient", device);
            let verdict = |clip: f32, go| {
                let clip = Tensor::from_data(TensorData::new(vec![clip], [1]), &device);
                optimizer::Verdict::new(clip, Tensor::from_data([go], &device))
            };
            let after = |clip, verdict, gradient, parameter| {
                let after = optimizer::step(&step(clip), verdict, vec![(gradient, parameter)]);
                after.into_iter().next().expect("one parameter")
            };
            let [sharper, stop] = [verdict(0.25, true), verdict(f32::NAN, false)];
            let cpu = Device::flex();
            let expected = all(&after(0.5, None, gradient(&cpu), start(&cpu)));
            let held = start(&device);
            let decided = after(0.5, None, gradient(&device), held.clone());
            let by_verdict = after(2.0, Some(&sharper), gradient(&device), held.clone());
            for found in [decided, by_verdict] {
                let difference = difference(&all(&found), &expected);
                assert!(difference <= 1e-5, "{rule:?} {n_states} {has_shadow}: {difference:.1e}");
            }
            let not_finite = gradient(&device) * f32::NAN;
            let stays = after(1.0, Some(&stop), not_finite, held.clone());
            assert_eq!([&stays, &held].map(all), [all(&start(&device)), all(&start(&device))], "{rule:?}");
            let kept = stop.choose(gradient(&device) * f32::NAN, held.value.clone());
            assert_eq!(values(&kept), values(&held.value));
            let taken = verdict(1.0, true).choose(gradient(&device), held.value * f32::NAN);
            assert_eq!(values(&taken), values(&gradient(&device)));
        }
    }
}

const SHAPE: [usize; 3] = [1, 8, 8];

fn network(architecture: Architecture, device: &Device) -> Network {
    let [channels, size, _] = SHAPE;
    let mut config = architecture.network(Dimensions { channels, width: 4, size, n_levels: 3 });
    // Norms that are composed there, and whose statistics follow the steps.
    if let (Architecture::NcsnV2, NetworkConfig::RefineNet(config)) = (architecture, &mut config) {
        config.norm = NormKind::BatchNorm;
    }
    Network::new(&config, &mut Noise::new(1).stream("init", 0), device).unwrap()
}

fn levels(architecture: Architecture) -> NoiseLevels {
    match architecture.is_conditional() {
        true => NoiseLevels::geometric(1.0, 0.1, 3).unwrap(),
        false => NoiseLevels::single(0.1).unwrap(),
    }
}

fn trainer(
    architecture: Architecture,
    options: TrainingOptions,
    optimizer: OptimizerConfig,
    device: &Device,
) -> Trainer<Network> {
    let net = network(architecture, &device.clone().autodiff());
    Trainer::new(Model::new(net, levels(architecture)), optimizer, options, Noise::new(7))
}

fn batch(step: u64) -> Batch {
    let [channels, height, width] = SHAPE;
    let shape = [4, channels, height, width];
    let mut x = vec![0.0; shape.iter().product()];
    Noise::new(2).stream("images", step).uniform(&mut x);
    Batch { x, shape, classes_u8: None }
}

const ADAM: OptimizerConfig = OptimizerConfig {
    weight_decay: 1e-4,
    ..OptimizerConfig::new(Rule::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: true }, 1e-3)
};

#[test]
fn training_steps_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    let denoising = TrainingOptions { ema_rate: Some(EmaRate::WarmedUp(0.9)), ..TrainingOptions::default() };
    let sliced = Loss::Sliced { n_projections: 2, slicing: Slicing::Exact };
    let sliced = Objective { loss: sliced, ..Objective::default() };
    let rms = OptimizerConfig::new(Rule::RmsProp { alpha: 0.99, eps: 1e-8 }, 1e-5);
    let clipped = |config| OptimizerConfig { clip: Some(5.0), ..config };
    let adam = OptimizerConfig { lr: Schedule::WarmUp { lr: 1e-3, n_steps: 2 }, ..clipped(ADAM) };
    let sgd = clipped(OptimizerConfig::new(Rule::Sgd { momentum: 0.9 }, 1e-4));
    for (architecture, options, optimizer) in [
        (Architecture::Ncsn, denoising, adam),
        (Architecture::Baseline, TrainingOptions { ema_rate: None, ..denoising }, sgd),
        (Architecture::NcsnV2, TrainingOptions { micro_batches: 2, ..denoising }, sgd),
        (Architecture::Ncsn, TrainingOptions { objective: sliced, ..denoising }, rms),
    ] {
        let [found, expected] = [gpu(), Device::flex()].map(|device| {
            let mut trainer = trainer(architecture, options, optimizer, &device);
            let reports: Vec<_> = (0..4).map(|step| trainer.step(batch(step)).unwrap()).collect();
            let losses: Vec<f32> = reports.iter().map(|report| report.loss().unwrap() as f32).collect();
            let nets = [Some(trainer.net()), trainer.ema()];
            let weights =
                nets.into_iter().flatten().flat_map(|net| params::to_host(net).unwrap()).flat_map(|(_, p)| p.values);
            (losses, weights.collect::<Vec<f32>>(), trainer.test_loss(batch(9), &options.objective).unwrap() as f32)
        });
        assert!(difference(&found.0[..1], &expected.0[..1]) <= 1e-5, "{:?} {:?}", found.0, expected.0);
        assert!(difference(&found.0, &expected.0) <= 1e-4, "{:?} {:?}", found.0, expected.0);
        assert!(difference(&[found.2], &[expected.2]) <= 1e-4, "{} {}", found.2, expected.2);
        // The first steps of Adam and RMSProp are ±lr or more whatever the gradient's size: where it is rounding alone, the sign may
        // differ.
        let difference = difference(&found.1, &expected.1);
        assert!(difference <= 8e-3, "weights of {architecture:?}: {difference:.1e}");
    }
}

#[test]
fn a_step_that_is_not_finite_leaves_the_network_as_it_was_and_is_reported() {
    let _turn = at(Precision::Highest);
    let options = TrainingOptions { ema_rate: Some(EmaRate::Constant(0.9)), ..TrainingOptions::default() };
    let clipped = OptimizerConfig { clip: Some(1.0), ..ADAM };
    let mut trainer = trainer(Architecture::Ncsn, options, clipped, &gpu());
    let weights = |trainer: &Trainer<Network>| {
        [params::to_host(trainer.net()).unwrap(), params::to_host(trainer.ema().unwrap()).unwrap()]
    };
    let first = trainer.step(batch(0)).unwrap();
    let before = weights(&trainer);
    let mut broken = batch(1);
    broken.x[3] = f32::NAN;
    let second = trainer.step(broken).unwrap();
    let third = trainer.step(batch(2)).unwrap();
    assert!(first.loss().unwrap().is_finite() && !first.is_known());
    let message = second.loss().unwrap_err().to_string();
    assert!(message.contains("the loss is NaN at step 2"), "{message}");
    assert!(third.loss().is_err());
    assert_eq!(weights(&trainer), before);
}

#[test]
fn samples_are_those_of_the_processor() {
    let _turn = at(Precision::Highest);
    let [found, expected] = [gpu(), Device::flex()].map(|device| {
        let model = Model::new(network(Architecture::Ncsn, &device), levels(Architecture::Ncsn));
        let images = Images { numbers: 3..6, shape: SHAPE, range: Range::Unit };
        let langevin = AnnealedLangevin { step_lr: 1e-4, n_steps_each: 2, denoise: false };
        values(&image_chain(&model, langevin, &images, Noise::new(4), &device).finish())
    });
    let difference = difference(&found, &expected);
    assert!(difference <= 1e-4, "{difference:.1e}");
}

#[test]
fn every_precision_is_as_exact_as_it_promises() {
    for (precision, tolerance) in [(Precision::High, 2e-3), (Precision::Medium, 2e-2)] {
        let _turn = at(precision);
        let conv = Conv { stride: 1, padding: [1; 2], dilation: 1 };
        let inputs = [("x", [2, 16, 8, 8]), ("weight", [16, 16, 3, 3])];
        same_on_both(&format!("{precision}"), &inputs, tolerance, |mut inputs| {
            let [weight, x] = [inputs.pop().unwrap(), inputs.pop().unwrap()];
            conv2d(x, weight, None, None, conv)
        });
    }
}

#[test]
fn what_follows_a_convolution_of_one_channel_is_right() {
    // Burn's fusion of elementwise operations would take one stride of such a result for another.
    let _turn = at(Precision::Highest);
    for [c_in, c_out, h, w] in [[1, 1, 8, 8], [3, 1, 8, 5], [2, 3, 1, 6], [2, 3, 6, 1], [4, 2, 1, 1]] {
        let inputs = [("x", [3, c_in, h, w]), ("weight", [c_out, c_in, 3, 3])];
        same_on_both(&format!("{inputs:?}"), &inputs, 1e-5, |mut inputs| {
            let [weight, x] = [inputs.pop().unwrap(), inputs.pop().unwrap()];
            let z = random([3, c_out, h, w], "z", &x.device());
            let y = conv2d(x, weight * 2.0, None, None, Conv { stride: 1, padding: [1; 2], dilation: 1 });
            z.clone() + y * 0.3 + z * 0.7
        });
    }
}
