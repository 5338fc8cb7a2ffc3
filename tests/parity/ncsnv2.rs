//! NCSNv2's networks, those of its program's NCSN, their blocks, and the gradient of its loss.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use ncsn::checkpoint::Weights;
use ncsn::device::Precision;
use ncsn::net::params::{Replace, replace};
use ncsn::net::{
    Activation, Architecture, ChainedPool, Condition, Conv2d, Dual, Fusion, InputRange, MeanPoolConv, Network,
    NetworkConfig, Norm, NormKind, Pool, RefineBlock, Resample, ResidualBlock, ResidualConvUnit, Untold, params,
};
use ncsn::noise::Noise;
use ncsn_kernels::ops::is_cpu;

use crate::Case;
use crate::blocks::{self, Block};
use crate::fixture::{self, Fixture, assert_close, open, values};

/// The networks of the fixtures; those of NCSNv2's three forms last.
const NETWORKS: [(&str, Architecture); 10] = [
    ("ncsn_v2repo_32", Architecture::Ncsn),
    ("ncsndeeper_v2repo_32", Architecture::Deeper),
    ("ncsnv2_28_gray", Architecture::NcsnV2),
    ("ncsnv2_32", Architecture::NcsnV2),
    ("ncsnv2_32_lrelu_variancenorm", Architecture::NcsnV2),
    ("ncsnv2_32_rescaled_relu", Architecture::NcsnV2),
    ("ncsnv2_32_swish_nonenorm", Architecture::NcsnV2),
    ("ncsnv2_64", Architecture::NcsnV2),
    ("ncsnv2_deeper_64", Architecture::NcsnV2Deeper),
    ("ncsnv2_deepest_128", Architecture::NcsnV2Deepest),
];

/// What a fixture says of itself.
pub fn meta(name: &str) -> serde_json::Value {
    serde_json::from_slice(&fixture::read(&format!("ncsnv2/{name}/meta.json"))).unwrap()
}

/// What shapes do not tell, from the configuration in a fixture.
fn untold(meta: &serde_json::Value) -> Untold {
    let (data, model) = (&meta["config"]["data"], &meta["config"]["model"]);
    let activation = match model["nonlinearity"].as_str().unwrap() {
        "elu" => Activation::Elu,
        "relu" => Activation::Relu,
        "lrelu" => Activation::LeakyRelu,
        "swish" => Activation::Swish,
        other => panic!("an activation called {other}"),
    };
    let norm = match model["normalization"].as_str().unwrap() {
        "InstanceNorm++" => NormKind::InstanceNormPlus,
        "VarianceNorm" => NormKind::VarianceNorm,
        "NoneNorm" => NormKind::NoNorm,
        other => panic!("a norm called {other}"),
    };
    let is_mapped = data["rescaled"] == false && data["logit_transform"] == false;
    let input = if is_mapped { InputRange::Unit } else { InputRange::Logit };
    Untold { activation, norm, ..Untold::from(input) }
}

/// The network that a fixture's shapes and configuration stand for, with its parameters.
pub fn network(meta: &serde_json::Value, params: &Fixture, device: &Device) -> (NetworkConfig, Network) {
    let shape = |name: &str| params.tensors.get(name).map(|(shape, _)| shape.clone());
    let config = NetworkConfig::from_shapes(shape, untold(meta)).unwrap();
    assert_eq!(config.untold().norm, untold(meta).norm);
    let net = Network::new(&config, &mut Noise::new(0).stream("init", 0), device).unwrap();
    if let Some(order) = meta.get("parameter_order") {
        let order: Vec<String> = serde_json::from_value(order.clone()).unwrap();
        assert_eq!(params::names(&net), order, "the order of the parameters, which optimisers number");
    }
    (config, params.load(net, ""))
}

fn outputs_agree(name: &str, architecture: Architecture) {
    let device = fixture::device();
    let (meta, params) = (meta(name), open(&format!("ncsnv2/{name}/params.safetensors")));
    let forward = open(&format!("ncsnv2/{name}/forward.safetensors"));
    let (config, net) = network(&meta, &params, &device);
    assert_eq!(config.architecture(), architecture);
    let out =
        values(net.forward(forward.tensor::<4>("x", &device).into(), &forward.condition("labels", &device)).value);
    // NCSNv2's output is divided by σ: images have very different scales.
    let sigma = |image: usize| match params.has("sigmas") {
        true => params.f64("sigmas")[forward.f64("labels")[image] as usize],
        false => 1.0,
    };
    assert_eq!(params.has("sigmas"), config.levels().is_none());
    let tolerance = if Precision::current() == Precision::Highest { 2e-5 } else { 2e-4 };
    let image_len = out.len() / forward.shape("x")[0];
    for (i, (found, expected)) in out.chunks(image_len).zip(forward.f64("out").chunks(image_len)).enumerate() {
        let found: Vec<f32> = found.iter().map(|&f| (f64::from(f) / sigma(i)) as f32).collect();
        assert_close(&format!("{name}, image {i}"), &found, expected, tolerance);
    }
}

/// Gradients of ½‖s(x̃, i) + z/σ‖²·σ² = ½‖F(x̃) + z‖², the mean over the batch, computed in `dtype`.
fn gradients_agree(dtype: DType, tolerance: f64) {
    struct To(DType);
    impl Replace for To {
        fn replace<const D: usize>(&mut self, _: usize, value: Tensor<D>) -> Tensor<D> {
            Tensor::from_inner(value.inner().cast(self.0))
        }
    }
    let device = fixture::device().autodiff();
    let [batches, params, grads] =
        ["batches", "params_init", "dsm_grads_step1"].map(|file| open(&format!("ncsnv2/train/{file}.safetensors")));
    let (meta, n) = (meta("train"), batches.shape("X.0")[0]);
    let (net, _) = replace(network(&meta, &params, &device).1, To(dtype));
    let sigmas: Vec<f32> = batches.f64("labels.0").iter().map(|&i| batches.f64("sigmas")[i as usize] as f32).collect();
    let sigmas = Tensor::<4>::from_data(TensorData::new(sigmas, [n, 1, 1, 1]), &device).cast(dtype);
    let z = batches.tensor::<4>("noise.0", &device).cast(dtype);
    let x = batches.tensor::<4>("X.0", &device).cast(dtype) + z.clone() * sigmas;
    let loss =
        (net.forward(x.into(), &batches.condition("labels.0", &device)).value + z).square().sum() * (0.5 / n as f64);
    assert_close("loss", &values(loss.clone()), &[meta["losses"][0].as_f64().unwrap()], 1e-5);
    let found = params::gradients(&net, &loss.backward());
    assert_eq!(found.len(), grads.tensors.len());
    for (name, grad) in params::names(&net).iter().zip(found) {
        let grad = grad.unwrap_or_else(|| panic!("{name} has no gradient"));
        assert_close(&format!("{name} in {dtype:?}"), &values(grad), grads.f64(name), tolerance);
    }
}

/// The published checkpoint holds σ beside the parameters, and the averages without it.
fn checkpoint_is_read() {
    let weights = Weights::open(&fixture::path("ncsnv2/train/checkpoint_3.pth")).unwrap();
    let net = weights.network(InputRange::Unit).unwrap();
    assert_eq!((net.architecture(), net.width()), (Architecture::NcsnV2, 4));
    for (ema, file) in [(false, "params_step3"), (true, "ema_step3")] {
        let expected = open(&format!("ncsnv2/train/{file}.safetensors"));
        let net = weights.build(untold(&meta("train")), ema, &fixture::device()).unwrap();
        for (name, tensor) in params::to_host(&net).unwrap() {
            assert_eq!(tensor.values, expected.f32(&name), "{file}: {name}");
        }
    }
    let mut sigmas = open("ncsnv2/train/batches.safetensors").f64("sigmas").to_vec();
    assert!(weights.has_of_model("sigmas", &sigmas, 1e-6).unwrap());
    sigmas[3] *= 1.0 + 2e-6;
    let message = weights.has_of_model("sigmas", &sigmas, 1e-6).unwrap_err().to_string();
    assert!(message.contains("sigmas[3] is "), "{message}");
    let message = weights.has_of_model("sigmas", &sigmas[1..], 1e-6).unwrap_err().to_string();
    assert!(message.contains("sigmas has shape [12], expected [11]"), "{message}");
}

/// Weights with their spectral norms beside them are read as what they are in evaluation.
fn spectral_norms_are_divided_by() {
    const FOLDER: &str = "ncsnv2/ncsn_v2repo_specnorm_32";
    let (meta, device) = (meta("ncsn_v2repo_specnorm_32"), fixture::device());
    let weights = Weights::open(&fixture::path(&format!("{FOLDER}/params.safetensors"))).unwrap();
    let net = weights.build(untold(&meta), false, &device).unwrap();
    let forward = open(&format!("{FOLDER}/forward.safetensors"));
    let out = net.forward(forward.tensor::<4>("x", &device).into(), &forward.condition("labels", &device)).value;
    assert_close("out", &values(out), forward.f64("out"), 1e-5);
}

/// Questions about whole networks.
pub fn networks() -> Vec<Case> {
    let case = |(name, architecture): (&'static str, Architecture)| {
        let files = ["meta.json", "params.safetensors", "forward.safetensors"].map(|f| format!("ncsnv2/{name}/{f}"));
        Case::new(format!("{name} gives the published output"), &files, move || outputs_agree(name, architecture))
    };
    NETWORKS.into_iter().map(case).collect()
}

/// All questions.
pub fn cases() -> Vec<Case> {
    let train = |files: &[&str]| files.iter().map(|file| format!("ncsnv2/train/{file}")).collect::<Vec<_>>();
    let of_step = ["meta.json", "batches.safetensors", "params_init.safetensors", "dsm_grads_step1.safetensors"];
    let of_checkpoint = ["checkpoint_3.pth", "params_step3.safetensors", "ema_step3.safetensors", "meta.json"];
    let mut cases = networks();
    // Where two pixels of a window differ by a rounding error, another is the largest in f32, and the gradient takes another way.
    // Nothing of ours computes in f64 on a GPU, whose shading language has no f64 exponential.
    let exact = is_cpu(&fixture::device()).then_some((DType::F64, 1e-5));
    for (dtype, tolerance) in exact.into_iter().chain([(DType::F32, 5e-3)]) {
        let claim = format!("NCSNv2's loss and every parameter's gradient agree in {dtype:?}");
        cases.push(Case::new(claim, &train(&of_step), move || gradients_agree(dtype, tolerance)));
    }
    cases.push(Case::new("NCSNv2's checkpoint is read with its average", &train(&of_checkpoint), checkpoint_is_read));
    let of_spectral = ["meta.json", "params.safetensors", "forward.safetensors"]
        .map(|file| format!("ncsnv2/ncsn_v2repo_specnorm_32/{file}"));
    cases.push(Case::new("weights are divided by their spectral norms", &of_spectral, spectral_norms_are_divided_by));
    cases.extend(block_cases());
    cases
}

/// Blocks of networks that are not given the level, and norms that only this program has.
fn block_cases() -> Vec<Case> {
    let of = |name: &str, norm: NormKind, n_levels: Option<usize>| {
        let file = format!("ncsnv2/blocks/{name}.safetensors");
        Block { file, norm, refine_norm: NormKind::NoNorm, n_levels, pool: Pool::Max }
    };
    let plus = NormKind::InstanceNormPlus;
    let mut cases = Vec::new();
    for (name, norm, n_levels) in [
        ("InstanceNorm2dPlus", plus, None),
        ("VarianceNorm2d", NormKind::VarianceNorm, None),
        ("ConditionalVarianceNorm2d", NormKind::VarianceNorm, Some(7)),
        ("ConditionalNoneNorm2d", NormKind::NoNorm, Some(7)),
    ] {
        let build = move |p: &mut ncsn::net::Parts<'_>| Norm::new(p.norm, 4, p.n_levels, p.noise, p.device);
        cases.push(of(name, norm, n_levels).case(build, |norm, x, y| norm.forward(blocks::one(x), y)));
    }
    for (name, pool) in [("CRPBlock_maxpool", Pool::Max), ("CRPBlock_avgpool", Pool::Mean)] {
        let block = Block { pool, ..of(name, plus, None) };
        cases.push(block.case(|p| ChainedPool::new(4, 2, p), |crp, x, y| crp.forward(blocks::one(x), y)));
    }
    let rcu = of("RCUBlock_2x2", plus, None);
    cases.push(rcu.case(|p| ResidualConvUnit::new(4, 2, 2, p), |rcu, x, y| rcu.forward(blocks::one(x), y)));
    let msf = of("MSFBlock", plus, None);
    cases.push(msf.case(|p| Fusion::new(&[4, 6], 5, p), |msf, xs, y| msf.forward(xs, y, [14, 13])));
    for (name, n_in, n_out, n_output_blocks, size) in
        [("RefineBlock_start", &[4][..], 4, 1, [7, 9]), ("RefineBlock_end", &[4, 6], 5, 3, [14, 13])]
    {
        let build = move |p: &mut ncsn::net::Parts<'_>| RefineBlock::new(n_in, n_out, n_output_blocks, p);
        cases.push(of(name, plus, None).case(build, move |block, xs, y| block.forward(xs, y, size)));
    }
    for (name, n_out, resample) in [
        ("plain", 4, Resample::Keep { dilation: 1 }),
        ("plain_changedim", 6, Resample::Keep { dilation: 1 }),
        ("down", 8, Resample::Halve),
        ("dilated_down", 8, Resample::Dilate { dilation: 2 }),
        ("dilated_plain", 4, Resample::Keep { dilation: 4 }),
    ] {
        let build = move |p: &mut ncsn::net::Parts<'_>| ResidualBlock::new([4, n_out], resample, p);
        let block = of(&format!("ResidualBlock_{name}"), plus, None);
        cases.push(block.case(build, |block, x, y| block.forward(blocks::one(x), y)));
    }
    // No network has it: its only block of this option, of images of 28 pixels, is dilated, and does not halve them.
    let block = of("ResidualBlock_down_adjust_padding", plus, None);
    cases.push(block.case(ZerosFirst::new, |block, x, y| block.forward(blocks::one(x), y)));
    cases
}

/// A residual block that halves images of odd sides: before each convolution that is pooled, zeros are put above and to the left.
#[derive(Module, Debug)]
struct ZerosFirst {
    conv1: Conv2d,
    normalize2: Norm,
    conv2: MeanPoolConv,
    shortcut: MeanPoolConv,
    normalize1: Norm,
}

impl ZerosFirst {
    fn new(p: &mut ncsn::net::Parts<'_>) -> Self {
        let norm = |p: &mut ncsn::net::Parts<'_>| Norm::new(p.norm, 4, p.n_levels, p.noise, p.device);
        let conv =
            |n_out, kernel, p: &mut ncsn::net::Parts<'_>| Conv2d::new(4, n_out, kernel, 1, true, p.noise, p.device);
        Self {
            conv1: conv(4, 3, p),
            normalize2: norm(p),
            conv2: MeanPoolConv { conv: conv(8, 3, p) },
            shortcut: MeanPoolConv { conv: conv(8, 1, p) },
            normalize1: norm(p),
        }
    }

    fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let padded = |x: Dual<4>| {
            x.linear(|x: Tensor<4>| {
                let [n, channels, height, width] = x.dims();
                let zeros = |height, width| Tensor::zeros([n, channels, height, width], &x.device());
                let x = Tensor::cat(vec![zeros(1, width), x.clone()], 2);
                Tensor::cat(vec![zeros(height + 1, 1), x], 3)
            })
        };
        let h = self.conv1.forward(self.normalize1.forward_then(Activation::Elu, x.clone(), given));
        let h = self.normalize2.forward_then(Activation::Elu, h, given);
        self.shortcut.forward(padded(x)) + self.conv2.forward(padded(h))
    }
}
