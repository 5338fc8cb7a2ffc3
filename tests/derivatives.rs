//! Jacobian–vector products of whole networks against differences, in f64.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use ncsn::loss::{Slicing, ssm, ssm_vr};
use ncsn::net::params::{Replace, replace, replace_buffers};
use ncsn::net::{
    Activation, Architecture, Backbone, BlockForm, Combination, Dimensions, Form, InTraining, InputRange, Mlp, Network,
    NetworkConfig, NormKind, Progressive, Record, RefineNet, RefineNetConfig, ResScore, Style, UNet, UNetConfig,
};
use ncsn::noise::{Noise, Stream};
use ncsn::score::{Differentiable, Model, Score};
use ncsn::sde::NoiseLevels;

/// Of networks that know some.
const N_LEVELS: usize = 4;

struct ToF64;

impl Replace for ToF64 {
    fn replace<const D: usize>(&mut self, _: usize, value: Tensor<D>) -> Tensor<D> {
        value.cast(DType::F64)
    }
}

fn normal<const D: usize>(shape: [usize; D], stream: &mut Stream) -> Tensor<D> {
    let mut values = vec![0.0; shape.iter().product()];
    stream.normal(&mut values);
    Tensor::from_data(TensorData::new(values, shape), (&Device::flex(), DType::F64))
}

fn largest<const D: usize>(x: Tensor<D>) -> f64 {
    x.abs().max().into_scalar::<f64>()
}

/// The largest error of the product, of the largest entry.
fn error<const D: usize>(net: impl Backbone<D>, x: Tensor<D>, levels: &[usize], v: Tensor<D>) -> f64 {
    let model = Model::new(net, NoiseLevels::geometric(1.0, 0.01, N_LEVELS).unwrap());
    let t: Vec<f64> = levels.iter().map(|&level| model.process.time(level)).collect();
    // Differences err by ε² where the network curves (instance norm of nearly equal pixels curves most) and by 10⁻¹⁶/ε
    // everywhere: measured, this ε leaves at most 2·10⁻⁷ of both.
    let epsilon = 1e-8;
    let [value, product] = model.jvp(x.clone(), &t, v.clone());
    assert_eq!(largest(value - model.score(x.clone(), &t)), 0.0, "the value is that of the plain network");
    let ahead = model.score(x.clone() + v.clone() * epsilon, &t);
    let behind = model.score(x - v * epsilon, &t);
    let difference = (ahead - behind) / (2.0 * epsilon);
    assert!(largest(difference.clone()) > 1e-6, "a network that depends on its input");
    largest(product - difference.clone()) / largest(difference)
}

fn refine_net(config: NetworkConfig) -> RefineNetConfig {
    match config {
        NetworkConfig::RefineNet(config) => config,
        other => unreachable!("{other:?} is no RefineNet"),
    }
}

#[test]
fn products_of_random_networks_equal_central_differences() {
    let device = Device::flex();
    for seed in 0..12 {
        let mut stream = Noise::new(seed).stream("test", 0);
        let mut pick = |n: u64| stream.below(n) as usize;
        let architecture = [Architecture::Ncsn, Architecture::Deeper, Architecture::Baseline][pick(3)];
        let dimensions = Dimensions { channels: 1 + pick(3), width: 2 + pick(3), n_levels: N_LEVELS, size: 0 };
        let config =
            refine_net(architecture.network(dimensions).with_input([InputRange::Unit, InputRange::Logit][pick(2)]));
        let size = [4 * (1 + pick(3)), 4 * (1 + pick(3))];
        let levels = [0, pick(N_LEVELS as u64)];
        let (net, _) = replace(RefineNet::new(&config, &mut stream, &device).unwrap(), ToF64);
        let shape = [2, config.channels, size[0], size[1]];
        let error = error(net, normal(shape, &mut stream), &levels, normal(shape, &mut stream));
        assert!(error < 1e-6, "{config:?}, {size:?}: {error:.1e}");
    }
    // NCSNv2's, with every activation and every norm.
    for seed in 0..12 {
        let mut stream = Noise::new(seed).stream("test", 4);
        let norms = [
            NormKind::InstanceNormPlus,
            NormKind::InstanceNorm,
            NormKind::BatchNorm,
            NormKind::VarianceNorm,
            NormKind::NoNorm,
        ];
        let activations = [Activation::Elu, Activation::Relu, Activation::LeakyRelu, Activation::Swish];
        let (norm, activation) = (norms[seed as usize % 5], activations[seed as usize / 4 + seed as usize % 2]);
        let form = [Form::Ncsn, Form::Deeper, Form::Deepest][seed as usize % 3];
        let config = RefineNetConfig { norm, activation, ..RefineNetConfig::ncsnv2(form, 1, 3) };
        let (net, _) = replace(RefineNet::new(&config, &mut stream, &device).unwrap(), ToF64);
        let (net, _) = replace_buffers(net, ToF64);
        let shape = [2, 1, 16, 24];
        let error = error(net, normal(shape, &mut stream), &[0; 2], normal(shape, &mut stream));
        assert!(error < 1e-6, "{config:?}: {error:.1e}");
    }
    // In training, where batch norms mix the images of a batch; and with weights that are divided by their spectral norms.
    for (seed, norm, spec_norm) in [(0, NormKind::BatchNorm, false), (1, NormKind::InstanceNormPlus, true)] {
        let mut stream = Noise::new(seed).stream("test", 5);
        let config = RefineNetConfig { norm, spec_norm, ..RefineNetConfig::ncsn(1, 3, N_LEVELS) };
        let (net, _) = replace(RefineNet::new(&config, &mut stream, &device).unwrap(), ToF64);
        let (net, _) = replace_buffers(net, ToF64);
        let in_training = InTraining { net: &net, record: Record::default(), dropout: Vec::new() };
        let [x, v] = [0; 2].map(|_| normal([3, 1, 8, 12], &mut stream));
        let error = error(in_training, x, &[0, 1, 3], v);
        assert!(error < 1e-6, "{config:?}: {error:.1e}");
    }
    for seed in 0..2 {
        let mut stream = Noise::new(seed).stream("test", 2);
        let (net, _) = replace(ResScore::new(8, &mut stream, &device), ToF64);
        let error = error(net, normal([2, 3, 8, 12], &mut stream), &[0; 2], normal([2, 3, 8, 12], &mut stream));
        assert!(error < 1e-6, "{error:.1e}");
    }
    for (architecture, channels, width, size) in [
        (Architecture::ResNetScore, 2, 2, 6),
        (Architecture::UNetScore, 1, 2, 16),
        (Architecture::UNetResScore, 2, 2, 32),
        (Architecture::Score, 1, 4, 28),
        (Architecture::SmallScore, 2, 2, 10),
        (Architecture::MlpScore, 1, 1024, 10),
    ] {
        let mut stream = Noise::new(5).stream("test", 3);
        let config = architecture.network(Dimensions { channels, width, size, n_levels: 1 });
        let (net, _) = replace(Network::new(&config, &mut stream, &device).unwrap(), ToF64);
        let shape = [2, channels, size, size];
        let error = error(net, normal(shape, &mut stream), &[0; 2], normal(shape, &mut stream));
        assert!(error < 1e-6, "{architecture:?}: {error:.1e}");
    }
    // U-Nets with every option, in training too, where dropout has the same mask for value and tangent.
    for seed in 0..12 {
        let mut stream = Noise::new(seed).stream("test", 6);
        let mut pick = |n: u64| stream.below(n) as usize;
        let progressive = [Progressive::None, Progressive::Skip, Progressive::Residual];
        let published = [UNetConfig::ncsnpp(3, 8, 8), UNetConfig::ddpmpp(1, 8, 8), UNetConfig::ddpm(1, 32, 8)];
        let net = published[pick(3)].clone();
        let config = UNetConfig {
            multipliers: [vec![1, 2], vec![2, 1, 1]][pick(2)].clone(),
            n_blocks: 1,
            attention: [vec![], vec![4, 8]][pick(2)].clone(),
            conditional: pick(4) > 0,
            block: [BlockForm::BigGan, BlockForm::Ddpm { conv_shortcut: false }][pick(2)],
            resample_conv: pick(2) == 0,
            progressive_input: progressive[pick(3)],
            progressive: progressive[pick(3)],
            combination: [Combination::Sum, Combination::Cat][pick(2)],
            style: Style { init_scale: 1.0, dropout: 0.2, ..net.style.clone() },
            ..net
        };
        let (net, _) = replace(UNet::new(&config, &mut stream, &device).unwrap(), ToF64);
        let (net, _) = replace_buffers(net, ToF64);
        let shape = [2, config.channels, 8, 12];
        let [x, v] = [0; 2].map(|_| normal(shape, &mut stream));
        let dropout = (0..2).map(|image| Noise::new(seed).stream("dropout", image)).collect();
        let in_training = InTraining { net: &net, record: Record::default(), dropout };
        let errors = [error(in_training, x.clone(), &[1, 2], v.clone()), error(&net, x, &[1, 2], v)];
        assert!(errors.iter().all(|error| *error < 1e-6), "{config:?}: {errors:.1?}");
    }
    for seed in 0..4 {
        let mut stream = Noise::new(seed).stream("test", 1);
        let (net, _) = replace(Mlp::new(&[3, 7, 5, 3], &mut stream, &device), ToF64);
        let error = error(net, normal([6, 3], &mut stream), &[0; 6], normal([6, 3], &mut stream));
        assert!(error < 1e-6, "{error:.1e}");
    }
}

/// ∂s/∂x of a linear score is its matrix, and central differences of a linear function are exact: both estimators and both
/// losses follow from the definition by hand.
#[test]
fn both_estimators_give_the_loss_of_a_linear_score() {
    struct Linear;
    impl Score<2> for Linear {
        fn score(&self, x: Tensor<2>, _: &[f64]) -> Tensor<2> {
            let matrix = Tensor::<2>::from_data([[2.0, -1.0], [0.5, -3.0]], &x.device());
            x.matmul(matrix.transpose())
        }
    }
    impl Differentiable<2> for Linear {
        fn jvp(&self, x: Tensor<2>, t: &[f64], v: Tensor<2>) -> [Tensor<2>; 2] {
            [self.score(x, t), self.score(v, t)]
        }
    }
    let device = Device::flex();
    let x = Tensor::<2>::from_data([[1.0, 2.0]], &device);
    // s = (0, −5.5); along v = (3, 4): Jv = (2, −10.5), vᵀJv = −36, vᵀs = −22, ‖v‖ = 5. Along (1, 0): vᵀJv = 2, vᵀs = 0.
    let v = Tensor::<2>::from_data([[3.0, 4.0], [1.0, 0.0]], &device);
    for slicing in [Slicing::Exact, Slicing::FiniteDifference] {
        let close = |found: Tensor<1>, expected: f32| {
            let found = found.into_scalar::<f32>();
            // The difference quotient loses 10⁻³ of its digits' last places.
            assert!((found - expected).abs() < 2e-2, "{slicing:?}: {found}, expected {expected}");
        };
        let reduced = ssm_vr(&Linear, x.clone(), &[0.0], v.clone(), slicing);
        close(reduced.square.clone(), 0.5 * 5.5 * 5.5);
        close(reduced.slope.clone(), (-36.0 + 2.0) / 2.0);
        close(reduced.loss(), 0.5 * 5.5 * 5.5 - 17.0);
        let plain = ssm(&Linear, x.clone(), &[0.0], v.clone(), slicing);
        close(plain.square.clone(), 0.5 * (22.0f32 / 5.0).powi(2) / 2.0);
        close(plain.slope.clone(), (-36.0 / 25.0 + 2.0) / 2.0);
    }
}
