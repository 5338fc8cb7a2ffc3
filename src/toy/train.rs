//! Training a small MLP on points in two dimensions by sliced score matching.

use burn::module::Module as _;
use burn::tensor::Device;

use crate::device::{self, upload};
use crate::error::Result;
use crate::loss::{Slicing, ssm_vr};
use crate::net::Mlp;
use crate::net::params::gradients;
use crate::noise::{Noise, Stream};
use crate::score::Model;
use crate::train::{Optimizer, OptimizerConfig, Rule};

/// How the MLP is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ToyTraining {
    /// Steps of Adam.
    pub n_steps: usize,
    /// Points a step.
    pub batch_size: usize,
    /// Learning rate.
    pub lr: f64,
}

impl Default for ToyTraining {
    /// The published program's: 10,000 steps of 128 points at 10⁻³.
    fn default() -> Self {
        Self { n_steps: 10_000, batch_size: 128, lr: 1e-3 }
    }
}

/// An MLP 2–128–128–2 with softplus, trained by SSM-VR on points that `sample` draws; `report` hears of every step,
/// counted from 1, and its loss. The result has no gradients.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when the device cannot compute.
pub fn train(
    options: ToyTraining,
    mut sample: impl FnMut(&mut Stream) -> [f64; 2],
    noise: Noise,
    device: &Device,
    mut report: impl FnMut(usize, f64),
) -> Result<Model<Mlp>> {
    let ToyTraining { n_steps, batch_size: n, lr } = options;
    let device = device.clone().autodiff();
    let mut model = Model::unperturbed(Mlp::new(&[2, 128, 128, 2], &mut noise.stream("toy/init", 0), &device));
    let mut optimizer = Optimizer::new(OptimizerConfig::new(Rule::ADAM, lr));
    for step in 1..=n_steps {
        let x = super::draw(n, &mut sample, noise.stream("toy/data", step as u64), &device);
        let mut v = vec![0.0; 2 * n];
        noise.stream("toy/v", step as u64).normal(&mut v);
        let loss = ssm_vr(&model, x, &vec![0.0; n], upload(v, [n, 2], &device), Slicing::Exact).loss();
        let gradients = gradients(&model.net, &loss.backward());
        report(step, device::scalar(loss)?);
        model.net = optimizer.step(model.net, gradients);
    }
    Ok(model.with_net(model.net.valid()))
}
