//! The parts of Score-SDE's U-Nets: output, gradients of their inputs and of their parameters.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn::net::{
    Activation, Attention, BlockForm, Combination, Combine, Condition, Dual, FourierFeatures, Groups, Nin, Resampling,
    Scale, Style, Taps, TimeBlock, params, positional,
};
use ncsn::noise::{Noise, Stream};

use crate::Case;
use crate::blocks::parameters_agree;
use crate::fixture::{self, Fixture, assert_close, open, values};

/// The reference's own f32 error is up to 1e-6 in a block.
const TOLERANCE: f64 = 1e-5;
/// Features of the time in the blocks' fixtures.
const N_TIME: usize = 12;

fn file(name: &str) -> String {
    format!("score_sde/blocks/{name}.safetensors")
}

fn fir() -> Taps {
    Taps::Fir(vec![1.0, 3.0, 3.0, 1.0])
}

fn style(skip_rescale: bool, taps: Taps) -> Style {
    let (groups, activation) = (Groups::Quarter, Activation::Swish);
    Style { groups, activation, dropout: 0.0, skip_rescale, init_scale: 0.0, taps }
}

/// The inputs of a block, by name.
struct Inputs<'a>(&'a [(&'static str, Tensor<1>)], &'a Fixture);

impl Inputs<'_> {
    fn get<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (_, x) = self.0.iter().find(|(other, _)| *other == name).unwrap();
        let shape: [usize; D] = self.1.shape(name).try_into().unwrap();
        x.clone().reshape(shape)
    }

    fn image(&self, name: &str) -> Dual<4> {
        self.get::<4>(name).into()
    }
}

fn agrees<M: Module, const D: usize>(
    name: &str,
    inputs: &[&'static str],
    build: impl Fn(&mut Stream, &Device) -> M,
    forward: impl Fn(&M, &Inputs<'_>) -> Tensor<D>,
) {
    let device = fixture::device().autodiff();
    let case = open(&file(name));
    let module = build(&mut Noise::new(0).stream("init", 0), &device);
    let n_tensors = params::names(&module).len() + params::buffers(&module).len();
    assert_eq!(n_tensors, case.tensors.keys().filter(|key| key.starts_with("param.")).count(), "{name}: tensors");
    let module = case.load_buffers(case.load(module, "param."), "param.");
    let leaf = |input: &&'static str| {
        let values = case.f32(input);
        (*input, ncsn::device::upload(values.clone(), [values.len()], &device).require_grad())
    };
    let leaves: Vec<(&'static str, Tensor<1>)> = inputs.iter().map(leaf).collect();
    let out = forward(&module, &Inputs(&leaves, &case));
    assert_close(&format!("{name} output"), &values(out.clone()), case.f64("out"), TOLERANCE);
    let grads = (out * case.tensor("vjp_w", &device)).sum().backward();
    for (input, leaf) in &leaves {
        let found = values(leaf.grad(&grads).unwrap());
        let expected = case.f64(&format!("grad_input.{input}"));
        assert_close(&format!("{name} gradient of {input}"), &found, expected, TOLERANCE);
    }
    parameters_agree(name, &case, &module, &grads);
}

fn case<M: Module, const D: usize>(
    name: &'static str,
    inputs: &'static [&'static str],
    build: impl Fn(&mut Stream, &Device) -> M + Send + 'static,
    forward: impl Fn(&M, &Inputs<'_>) -> Tensor<D> + Send + 'static,
) -> Case {
    let claim = format!("score_sde block {name}, with all gradients");
    Case::new(claim, &[file(name)], move || agrees(name, inputs, build, forward))
}

fn time_block(
    name: &'static str,
    n_out: usize,
    form: (BlockForm, Option<Scale>),
    skip_rescale: bool,
    taps: Taps,
) -> Case {
    let build = move |noise: &mut Stream, device: &Device| {
        TimeBlock::new([8, n_out], N_TIME, form, &style(skip_rescale, taps.clone()), noise, device)
    };
    case(name, &["x", "temb"], build, |block, inputs| {
        let time = Activation::Swish.forward(inputs.get::<2>("temb").into()).value;
        let given = Condition::new(Tensor::zeros([1], &time.device()));
        block.forward(inputs.image("x"), Some(&time), &given).value
    })
}

/// The functions that have no parameters.
fn functions_agree() {
    let (device, case) = (fixture::device(), open(&file("functions")));
    let x = || Dual::from(case.tensor::<4>("updown.x", &device));
    let compare = |what: &str, found: Dual<4>, gain: f64| {
        assert_close(what, &values(found.value * gain), case.f64(what), 2e-6);
    };
    for (name, taps) in [("k1331", fir()), ("k121", Taps::Fir(vec![1.0, 2.0, 1.0]))] {
        compare(&format!("upsample_2d.{name}"), taps.resample(Scale::Up, x()), 1.0);
        compare(&format!("downsample_2d.{name}"), taps.resample(Scale::Down, x()), 1.0);
    }
    compare("upsample_2d.k1331_gain2", fir().resample(Scale::Up, x()), 2.0);
    compare("naive_upsample_2d", Taps::Box.resample(Scale::Up, x()), 1.0);
    compare("naive_downsample_2d", Taps::Box.resample(Scale::Down, x()), 1.0);
    for n in [15, 16, 32] {
        let (what, t) = (format!("embedding_dim{n}"), case.tensor::<1>("timesteps", &device));
        // The argument reaches 1000, of which f32 has 6e-5.
        assert_close(&what, &values(positional(t, n)), case.f64(&what), 1e-4);
    }
}

pub fn cases() -> Vec<Case> {
    let (biggan, ddpm) = (BlockForm::BigGan, |conv_shortcut| BlockForm::Ddpm { conv_shortcut });
    let (up, down) = (Some(Scale::Up), Some(Scale::Down));
    let mut cases = vec![
        time_block("ResnetBlockBigGANpp_plain", 8, (biggan, None), true, Taps::Box),
        time_block("ResnetBlockBigGANpp_change", 12, (biggan, None), true, Taps::Box),
        time_block("ResnetBlockBigGANpp_up_fir", 12, (biggan, up), true, fir()),
        time_block("ResnetBlockBigGANpp_down_fir", 8, (biggan, down), true, fir()),
        time_block("ResnetBlockBigGANpp_up_nofir", 8, (biggan, up), true, Taps::Box),
        time_block("ResnetBlockBigGANpp_down_nofir", 12, (biggan, down), true, Taps::Box),
        time_block("ResnetBlockBigGANpp_noskiprescale", 12, (biggan, None), false, Taps::Box),
        time_block("ResnetBlockDDPMpp_plain", 8, (ddpm(false), None), false, Taps::Box),
        time_block("ResnetBlockDDPMpp_change_nin", 12, (ddpm(false), None), false, Taps::Box),
        time_block("ResnetBlockDDPMpp_change_conv_shortcut", 12, (ddpm(true), None), true, Taps::Box),
    ];
    for (name, n, groups, skip_rescale) in [
        ("AttnBlockpp", 8, Groups::Quarter, false),
        ("AttnBlockpp_skip_rescale", 8, Groups::Quarter, true),
        ("DDPM_AttnBlock", 32, Groups::Fixed, false),
    ] {
        let style = Style { groups, ..style(skip_rescale, Taps::Box) };
        let build = move |noise: &mut Stream, device: &Device| Attention::new(n, &style, noise, device);
        cases.push(case(name, &["x"], build, |block, inputs| block.forward(inputs.image("x")).value));
    }
    for (name, how) in [("Combine_sum", Combination::Sum), ("Combine_cat", Combination::Cat)] {
        let build = move |noise: &mut Stream, device: &Device| Combine::new([3, 8], how, noise, device);
        let forward =
            |combine: &Combine, inputs: &Inputs<'_>| combine.forward(inputs.image("x"), inputs.image("y")).value;
        cases.push(case(name, &["x", "y"], build, forward));
    }
    for (name, scale, taps) in [
        ("Upsample_fir", Scale::Up, fir()),
        ("Downsample_fir", Scale::Down, fir()),
        ("Downsample_nofir", Scale::Down, Taps::Box),
    ] {
        let build = move |_: &mut Stream, _: &Device| Resampling::plain(scale, &taps);
        cases.push(case(name, &["x"], build, |block, inputs| block.forward(inputs.image("x")).value));
    }
    for (name, taps) in [("Downsample_nofir_conv", Taps::Box), ("Downsample_fir_conv", fir())] {
        let build = move |noise: &mut Stream, device: &Device| {
            Resampling::convolving([4, 6], Scale::Down, &taps, noise, device)
        };
        cases.push(case(name, &["x"], build, |block, inputs| block.forward(inputs.image("x")).value));
    }
    let build = |noise: &mut Stream, device: &Device| Nin::new([5, 7], 0.1, noise, device);
    cases.push(case("NIN", &["x"], build, |nin, inputs| nin.forward(inputs.image("x")).value));
    // The fixture is given the logarithm; frequencies of 16 let f32 lose digits.
    let name = "GaussianFourierProjection";
    cases.push(Case::new("score_sde block Fourier features", &[file(name)], move || {
        let (device, case) = (fixture::device(), open(&file(name)));
        let features = FourierFeatures::new(6, 16.0, &mut Noise::new(0).stream("init", 0), &device);
        assert_eq!((params::names(&features), params::buffers(&features)), (vec![], vec!["W".to_string()]));
        let features = case.load_buffers(features, "param.");
        let found = features.forward(case.tensor::<1>("x", &device).exp());
        assert_close(name, &values(found), case.f64("out"), 5e-4);
    }));
    cases.push(Case::new("score_sde resampling and embeddings", &[file("functions")], functions_agree));
    cases
}
