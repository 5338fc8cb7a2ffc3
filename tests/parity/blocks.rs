//! Every block of the networks: output, gradient of its inputs and of its parameters.

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor};
use ncsn::net::{
    Activation, ChainedPool, Condition, Conv2d, Dual, Fusion, GroupNormBlock, MeanPoolConv, Norm, NormKind, Parts,
    Pool, Record, RefineBlock, Resample, ResidualBlock, ResidualConvUnit, Side, params,
};
use ncsn::noise::{Noise, Stream};

use crate::Case;
use crate::fixture::{self, Fixture, assert_close, open, values};

/// The reference's own f32 error is about 1e-7 in a block.
const TOLERANCE: f64 = 1e-5;

fn autodiff() -> Device {
    fixture::device().autodiff()
}

/// A block's fixture, and what the block is made with.
#[derive(Clone)]
pub struct Block {
    pub file: String,
    pub norm: NormKind,
    pub refine_norm: NormKind,
    pub n_levels: Option<usize>,
    pub pool: Pool,
}

fn check<M: Module>(
    block: &Block,
    build: impl Fn(&mut Parts<'_>) -> M,
    forward: impl Fn(&M, Vec<Dual<4>>, &Condition) -> Dual<4>,
) {
    let device = autodiff();
    let &Block { file: ref name, norm, refine_norm, n_levels, pool } = block;
    let mut case = open(name);
    // Where zeros come before a convolution, the published sequence counts them.
    case.tensors = case.tensors.into_iter().map(|(key, value)| (key.replace(".conv.1.", ".conv."), value)).collect();
    let (noise, activation): (&mut Stream, _) = (&mut Noise::new(0).stream("init", 0), Activation::Elu);
    let module =
        build(&mut Parts { norm, refine_norm, n_levels, activation, pool, spec_norm: false, noise, device: &device });
    // PyTorch counts batches, too.
    let is_ours = |key: &&String| key.starts_with("param.") && !key.ends_with("num_batches_tracked");
    let n_tensors = params::names(&module).len() + params::buffers(&module).len();
    assert_eq!(n_tensors, case.tensors.keys().filter(is_ours).count(), "{name}: number of parameters and buffers");
    let module = case.load_buffers(case.load(module, "param."), "param.");

    let keys: Vec<String> = match case.has("x") {
        true => vec!["x".into()],
        false => (0..).map(|i| format!("xs.{i}")).take_while(|key| case.has(key)).collect(),
    };
    assert!(!keys.is_empty(), "{name}: no inputs among {:?}", case.tensors.keys());
    let inputs: Vec<Tensor<4>> = keys.iter().map(|key| case.tensor(key, &device).require_grad()).collect();
    let given = match case.has("y") {
        true => case.condition("y", &device),
        false => Condition::new(Tensor::zeros([1], &device)),
    };
    let record = Record::default();
    let is_training = case.tensors.keys().any(|key| key.starts_with("buffer_after."));
    let given = if is_training { given.in_training(record.clone()) } else { given };
    let out = forward(&module, inputs.iter().cloned().map(Dual::from).collect(), &given).value;
    assert_close(&format!("{name} out"), &values(out.clone()), case.f64("out"), TOLERANCE);

    let grads = (out * case.tensor("vjp_w", &device)).sum().backward();
    for (key, input) in keys.iter().zip(&inputs) {
        let found = values(input.grad(&grads).unwrap());
        assert_close(&format!("{name} gradient of {key}"), &found, case.f64(&format!("grad_input.{key}")), TOLERANCE);
    }
    parameters_agree(name, &case, &module, &grads);
    if is_training {
        for (buffer, found) in params::buffers_to_host(&record.apply(module, None)).unwrap() {
            let found: Vec<f32> = found.values;
            assert_close(
                &format!("{name} {buffer} after"),
                &found,
                case.f64(&format!("buffer_after.{buffer}")),
                TOLERANCE,
            );
        }
    }
}

/// The gradients of a block's parameters are those of its fixture.
pub fn parameters_agree<M: Module>(name: &str, case: &Fixture, module: &M, grads: &Gradients) {
    let expected = |parameter: &str| case.f64(&format!("grad_param.{parameter}"));
    let largest = |values: &[f64]| values.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let names = params::names(module);
    let of_all = names.iter().map(|parameter| largest(expected(parameter))).fold(0.0, f64::max);
    for (parameter, grad) in names.into_iter().zip(params::gradients(module, grads)) {
        let what = format!("{name} gradient of {parameter}");
        let expected = expected(&parameter);
        // A bias that the norm behind it takes away again has a gradient of rounding errors only.
        let tolerance = if largest(expected) < 1e-5 * of_all { 10.0 } else { TOLERANCE };
        assert_close(&what, &values(grad.unwrap()), expected, tolerance);
    }
}

/// The only input of a block.
pub fn one(mut xs: Vec<Dual<4>>) -> Dual<4> {
    assert_eq!(xs.len(), 1);
    xs.remove(0)
}

impl Block {
    /// The question about the block, which needs its fixture.
    pub fn case<M: Module>(
        self,
        build: impl Fn(&mut Parts<'_>) -> M + Send + 'static,
        forward: impl Fn(&M, Vec<Dual<4>>, &Condition) -> Dual<4> + Send + 'static,
    ) -> Case {
        let name = self.file.trim_end_matches(".safetensors").replace("/blocks/", " block ");
        let file = self.file.clone();
        Case::new(format!("{name}, with all gradients"), &[&file], move || check(&self, &build, &forward))
    }
}

/// A question about one of NCSN's blocks.
fn case<M: Module>(
    name: &str,
    build: impl Fn(&mut Parts<'_>) -> M + Send + 'static,
    forward: impl Fn(&M, Vec<Dual<4>>, &Condition) -> Dual<4> + Send + 'static,
) -> Case {
    let norm = if name.contains("InstanceNorm2d_") { NormKind::InstanceNorm } else { NormKind::InstanceNormPlus };
    let file = format!("ncsn/blocks/{name}.safetensors");
    Block { file, norm, refine_norm: norm, n_levels: Some(10), pool: Pool::Mean }.case(build, forward)
}

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in ["ConditionalInstanceNorm2dPlus_bias", "ConditionalInstanceNorm2d_bias"] {
        cases.push(case(
            name,
            |p| Norm::new(p.norm, 4, p.n_levels, p.noise, p.device),
            |norm, x, y| norm.forward(one(x), y),
        ));
    }
    for name in ["ConditionalBatchNorm2d_bias_eval", "ConditionalBatchNorm2d_bias_train"] {
        cases.push(case(
            name,
            |p| Norm::new(NormKind::BatchNorm, 4, p.n_levels, p.noise, p.device),
            |norm, x, y| norm.forward(one(x), y),
        ));
    }
    let plus = |p: &mut Parts<'_>| Norm::new(p.norm, 4, None, p.noise, p.device);
    cases.push(case("InstanceNorm2dPlus_bias", plus, |norm, x, y| norm.forward(one(x), y)));
    for (name, channels, side) in [
        ("ConvResBlock_elu", [8, 8], Side::Encoder { resize: false }),
        ("ConvResBlock_resize_elu", [8, 16], Side::Encoder { resize: true }),
        ("DeconvResBlock_elu", [8, 8], Side::Decoder { resize: false }),
        ("DeconvResBlock_resize_elu", [16, 8], Side::Decoder { resize: true }),
    ] {
        let build = move |p: &mut Parts<'_>| GroupNormBlock::new(channels, side, p.noise, p.device);
        cases.push(case(name, build, |block, x, _| block.forward(one(x))));
    }
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
        let build = move |p: &mut Parts<'_>| ResidualBlock::new([4, n_out], resample, p);
        cases.push(case(&name, build, |block, x, y| block.forward(one(x), y)));
    }
    for (name, kernel, bias) in [("k3", 3, true), ("k1", 1, true), ("k3_nobias", 3, false)] {
        let build =
            move |p: &mut Parts<'_>| MeanPoolConv { conv: Conv2d::new(4, 6, kernel, 1, bias, p.noise, p.device) };
        cases.push(case(&format!("ConvMeanPool_{name}"), build, |conv, x, _| conv.forward(one(x))));
    }
    for (name, n_blocks) in [("CondRCUBlock_2x2", 2), ("CondRCUBlock_3x2", 3)] {
        let build = move |p: &mut Parts<'_>| ResidualConvUnit::new(4, n_blocks, 2, p);
        cases.push(case(name, build, |rcu, x, y| rcu.forward(one(x), y)));
    }
    cases.push(case("CondCRPBlock", |p| ChainedPool::new(4, 2, p), |crp, x, y| crp.forward(one(x), y)));
    cases.push(case("CondMSFBlock", |p| Fusion::new(&[4, 6], 5, p), |msf, xs, y| msf.forward(xs, y, [14, 13])));
    for (name, n_in, n_out, n_output_blocks, size) in [
        ("CondRefineBlock_start", &[4][..], 4, 1, [7, 9]),
        ("CondRefineBlock_middle", &[4, 6], 5, 1, [14, 13]),
        ("CondRefineBlock_end", &[4, 6], 5, 3, [14, 13]),
    ] {
        let build = move |p: &mut Parts<'_>| RefineBlock::new(n_in, n_out, n_output_blocks, p);
        cases.push(case(name, build, move |block, xs, y| block.forward(xs, y, size)));
    }
    cases
}
