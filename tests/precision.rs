//! What a precision promises, on what networks really compute. The precision is the process's, so the questions are asked one after
//! the other, in one test.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use ncsn::data::digits::Digits;
use ncsn::data::{BatchOptions, Batches, Dequantise, Range, Split, Transform};
use ncsn::device::{self, Isa, Precision};
use ncsn::net::{Activation, Condition, Conv2d, Norm, NormKind, RefineNet, RefineNetConfig};
use ncsn::noise::Noise;
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{OptimizerConfig, Trainer, TrainingOptions};
use ncsn_kernels::conv::{self, ConvShape, reference};

fn batches(size: usize, batch_size: usize, seed: u64) -> Batches {
    let digits = Arc::new(Digits::new(size, 1, Split::Train).unwrap());
    let options = BatchOptions {
        batch_size,
        random_flip: false,
        transform: Transform { dequantise: Dequantise::Uniform, range: Range::Unit },
    };
    Batches::new(digits, options, Noise::new(seed), "train", 0)
}

/// ELU of normalised features of drawn digits: `[batch, channels, 14, 14]`.
fn activations(n: usize, channels: usize) -> Tensor<4> {
    let device = Device::flex();
    let mut noise = Noise::new(5).stream("init", 0);
    let batch = batches(14, n, 5).next().unwrap().unwrap();
    let x: Tensor<4> = device::upload(batch.x, batch.shape, &device);
    let conv = Conv2d::new(1, channels, 3, 1, true, &mut noise, &device);
    let norm = Norm::new(NormKind::InstanceNormPlus, channels, Some(1), &mut noise, &device);
    norm.forward_then(Activation::Elu, conv.forward(x.into()), &Condition::new(Tensor::zeros([n], &device))).value
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |m, x| m.max(x.abs()))
}

/// The largest error of a convolution of activations and of its gradients, relative to the largest value.
fn error(precision: Precision, dilation: usize) -> f64 {
    let (n, channels) = (2, 64);
    let host = |x: Tensor<4>| x.try_into_vec_as::<f32>().unwrap();
    let x = host(activations(n, channels));
    let mut noise = Noise::new(6).stream("test", 0);
    let shape = ConvShape {
        n,
        c_in: channels,
        c_out: channels,
        size: [14, 14],
        kernel: [3, 3],
        stride: 1,
        padding: [dilation; 2],
        dilation,
    };
    let mut random = |n: usize| {
        let mut values = vec![0.0; n];
        noise.normal(&mut values);
        values
    };
    let (weights, grad) = (random(shape.weight_len()), random(shape.output_len()));
    let isa = Isa::chosen();
    let [mut out, mut grad_x, mut grad_w] =
        [shape.output_len(), shape.input_len(), shape.weight_len()].map(|n| vec![0.0; n]);
    conv::forward(isa, precision, &shape, &x, &weights, None, None, &mut out);
    conv::transposed(isa, precision, &shape, &grad, &weights, None, &mut grad_x);
    conv::weight_gradient(isa, precision, &shape, &x, &grad, &mut grad_w);
    let errors = [
        (out, reference::forward(&shape, &x, &weights)),
        (grad_x, reference::transposed(&shape, &grad, &weights)),
        (grad_w, reference::weight_gradient(&shape, &x, &grad)),
    ]
    .map(|(found, expected)| {
        largest(found.iter().zip(&expected).map(|(&a, b)| f64::from(a) - b)) / largest(expected.into_iter())
    });
    largest(errors.into_iter())
}

/// The mean of the last losses of a short training run.
fn final_loss(precision: Precision, seed: u64) -> f64 {
    precision.set_current();
    let config = RefineNetConfig::ncsn(1, 8, 10);
    let noise = Noise::new(seed);
    let net = RefineNet::new(&config, &mut noise.stream("init", 0), &Device::flex().autodiff()).unwrap();
    let model = Model::new(net, NoiseLevels::geometric(1.0, 0.01, 10).unwrap());
    let mut trainer = Trainer::new(model, OptimizerConfig::default(), TrainingOptions::default(), noise);
    let losses: Vec<f64> =
        batches(16, 16, seed).take(60).map(|batch| trainer.step(batch.unwrap()).unwrap().loss().unwrap()).collect();
    losses[40..].iter().sum::<f64>() / 20.0
}

#[test]
fn precisions_keep_their_bounds_on_activations_and_train_alike() {
    for precision in Precision::ALL {
        for dilation in [1, 2, 4] {
            let error = error(precision, dilation);
            assert!(error <= precision.bound(), "{precision}, dilation {dilation}: error {error:.1e}");
        }
    }
    for seed in [1, 2, 3] {
        let losses = Precision::ALL.map(|precision| final_loss(precision, seed));
        // A step's loss varies by half of itself with its batch, so the mean of 20 by 11 %. The batches are the same here, so
        // only what rounding grows to over 60 steps remains.
        let spread = losses.iter().fold(0.0, |m: f64, loss| m.max((loss / losses[0] - 1.0).abs()));
        assert!(spread < 0.04, "seed {seed}: losses {losses:?}");
    }
}
