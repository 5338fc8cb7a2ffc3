//! A network of one's own: any Burn module with one `impl` is a score model. `cargo run --release --example own_network` trains an
//! MLP that is told the noise level, by denoising score matching on points of a mixture, and compares it with the exact score.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use ncsn::loss::{Times, Weight, denoising};
use ncsn::net::{Backbone, Condition, Dual, Mlp, params};
use ncsn::noise::{Distribution, Noise, tensor};
use ncsn::score::{Label, Model, Prediction, Score};
use ncsn::sde::NoiseLevels;
use ncsn::toy;
use ncsn::train::{Optimizer, OptimizerConfig};

/// An MLP of the point and of the noise level, which stands in a column beside it.
#[derive(Module, Debug)]
struct Conditional {
    mlp: Mlp,
}

impl Backbone<2> for Conditional {
    fn forward(&self, x: Dual<2>, given: &Condition) -> Dual<2> {
        let level = given.label.clone().reshape([-1, 1]) / 4.0;
        // Along a direction of x the level does not change.
        let beside = |x: Tensor<2>, level: Tensor<2>| Tensor::cat(vec![x, level], 1);
        let tangent = x.tangent.map(|v| beside(v, level.zeros_like()));
        self.mlp.forward(Dual { value: beside(x.value, level), tangent })
    }
}

fn main() -> ncsn::Result<()> {
    const BATCH: usize = 256;
    let (noise, device) = (Noise::new(0), Device::flex().autodiff());
    let levels = NoiseLevels::geometric(8.0, 1.0, 5)?;
    let exact = toy::mixture(levels.clone());
    let net = Conditional { mlp: Mlp::new(&[3, 64, 64, 2], &mut noise.stream("init", 0), &device) };
    let mut model = Model { prediction: Prediction::ScaledScore(Label::Level), ..Model::new(net, levels) };
    let mut optimizer = Optimizer::new(OptimizerConfig::default());
    let points = toy::mixture(NoiseLevels::none());
    for step in 0..1500 {
        let x = toy::draw(BATCH, |s| points.sample(1.0, s), noise.stream("data", step), &device);
        let z = tensor(Distribution::Normal, &mut [noise.stream("z", step)], [BATCH, 2], &device);
        let t = Times::Levels.draw(BATCH, &*model.process, &mut noise.stream("t", step));
        let loss = denoising(&model, &*model.process, x, &t, z, Weight::StdPower(2.0));
        let gradients = params::gradients(&model.net, &loss.backward());
        model.net = optimizer.step(model.net, gradients);
    }
    let model = model.with_net(model.net.valid());
    for level in 0..5 {
        let t = model.process.time(level);
        let data = toy::draw(2000, |s| exact.sample(t, s), noise.stream("test", 0), &Device::flex());
        let size =
            toy::points(exact.score(data.clone(), &vec![t; 2000]))?.iter().map(|[a, b]| a * a + b * b).sum::<f64>()
                / 2000.0;
        let error = toy::fisher_divergence(&model, &exact, t, data)?.mean;
        println!("level {level}: E‖ŝ − s‖² is {:.3} of E‖s‖²", error / size);
        assert!(error < 0.2 * size);
    }
    Ok(())
}
