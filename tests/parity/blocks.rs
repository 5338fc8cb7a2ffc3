//! Every block of the networks: output, gradient of its inputs and of its parameters.

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use ncsn::net::{ChainedPool, Fusion, MeanPoolConv, Norm, NormKind, Parts, RefineBlock, Resample, ResidualBlock, ResidualConvUnit, params};
use ncsn::noise::{Noise, Stream};

use crate::fixture::{Fixture, assert_close, open, values};

/// The reference's own f32 error is about 1e-7 in a block.
const TOLERANCE: f64 = 1e-5;

fn autodiff() -> Device {
    Device::flex().autodiff()
}

fn check<M: Module>(
    name: &str,
    build: impl Fn(&Fixture, &mut Parts<'_>) -> M,
    forward: impl Fn(&M, Vec<Tensor<4>>, &Tensor<1, Int>) -> Tensor<4>,
) {
    let device = autodiff();
    let case = open(&format!("ncsn/blocks/{name}.safetensors"));
    let mut noise: Stream = Noise::new(0).stream("init", 0);
    let norm = if name.contains("InstanceNorm2d_") { NormKind::Instance } else { NormKind::InstancePlus };
    let module = build(&case, &mut Parts { norm, n_levels: 10, noise: &mut noise, device: &device });
    let n_params = case.tensors.keys().filter(|key| key.starts_with("param.")).count();
    assert_eq!(params::to_host(&module).len(), n_params, "{name}: number of parameters");
    let module = case.load(module, "param.");

    let keys: Vec<String> = match case.has("x") {
        true => vec!["x".into()],
        false => (0..).map(|i| format!("xs.{i}")).take_while(|key| case.has(key)).collect(),
    };
    assert!(!keys.is_empty(), "{name}: no inputs among {:?}", case.tensors.keys());
    let inputs: Vec<Tensor<4>> = keys.iter().map(|key| case.tensor(key, &device).require_grad()).collect();
    let labels = if case.has("y") { case.labels("y", &device) } else { Tensor::zeros([1], &device) };
    let out = forward(&module, inputs.clone(), &labels);
    assert_close(&format!("{name} out"), &values(out.clone()), case.f64("out"), TOLERANCE);

    let grads = (out * case.tensor("vjp_w", &device)).sum().backward();
    for (key, input) in keys.iter().zip(&inputs) {
        let found = values(input.grad(&grads).unwrap());
        assert_close(&format!("{name} gradient of {key}"), &found, case.f64(&format!("grad_input.{key}")), TOLERANCE);
    }
    for (parameter, grad) in params::gradients(&module, &grads) {
        let found = values(grad.unwrap());
        assert_close(&format!("{name} gradient of {parameter}"), &found, case.f64(&format!("grad_param.{parameter}")), TOLERANCE);
    }
}

fn one(mut xs: Vec<Tensor<4>>) -> Tensor<4> {
    assert_eq!(xs.len(), 1);
    xs.remove(0)
}

#[test]
fn conditional_norms_agree() {
    for name in ["ConditionalInstanceNorm2dPlus_bias", "ConditionalInstanceNorm2d_bias"] {
        check(name, |_, p| Norm::new(p.norm, 4, 10, p.noise, p.device), |norm, x, y| norm.forward(one(x), y));
    }
}

#[test]
fn residual_blocks_agree() {
    let keep = |dilation| Resample::Keep { dilation };
    let dilate = |dilation| Resample::Dilate { dilation };
    for (name, n_out, resample) in [
        ("plain", 4, keep(1)),
        ("down", 8, Resample::Halve),
        ("down_samedim", 4, Resample::Halve),
        ("dilated_down", 8, dilate(2)),
        ("dilated_down_samedim", 4, dilate(4)),
        ("dilated_plain", 4, keep(2)),
        ("dilated_plain_changedim", 8, keep(2)),
        ("dilated_plain_d4", 4, keep(4)),
    ] {
        let name = format!("ConditionalResidualBlock_{name}");
        check(&name, |_, p| ResidualBlock::new([4, n_out], resample, p), |block, x, y| block.forward(one(x), y));
    }
}

#[test]
fn mean_pool_convolutions_agree() {
    for (name, kernel, bias) in [("k3", 3, true), ("k1", 1, true), ("k3_nobias", 3, false)] {
        let name = format!("ConvMeanPool_{name}");
        let build = |_: &Fixture, p: &mut Parts<'_>| MeanPoolConv {
            conv: ncsn::net::Conv2d::new(4, 6, kernel, 1, bias, p.noise, p.device),
        };
        check(&name, build, |conv, x, _| conv.forward(one(x)));
    }
}

#[test]
fn residual_convolution_units_agree() {
    for (name, n_blocks) in [("CondRCUBlock_2x2", 2), ("CondRCUBlock_3x2", 3)] {
        check(name, |_, p| ResidualConvUnit::new(4, n_blocks, 2, p), |rcu, x, y| rcu.forward(one(x), y));
    }
}

#[test]
fn chained_pooling_agrees() {
    check("CondCRPBlock", |_, p| ChainedPool::new(4, 2, p), |crp, x, y| crp.forward(one(x), y));
}

#[test]
fn fusion_agrees() {
    check("CondMSFBlock", |_, p| Fusion::new(&[4, 6], 5, p), |msf, xs, y| msf.forward(xs, y, [14, 13]));
}

#[test]
fn refine_blocks_agree() {
    for (name, n_in, n_out, n_output_blocks, size) in [
        ("CondRefineBlock_start", vec![4], 4, 1, [7, 9]),
        ("CondRefineBlock_middle", vec![4, 6], 5, 1, [14, 13]),
        ("CondRefineBlock_end", vec![4, 6], 5, 3, [14, 13]),
    ] {
        check(name, |_, p| RefineBlock::new(&n_in, n_out, n_output_blocks, p), |block, xs, y| block.forward(xs, y, size));
    }
}
