//! A multi-layer perceptron (MLP), for points.

use burn::module::Module;
use burn::tensor::{Device, activation};

use super::{Dual, Linear, Work};
use crate::noise::Stream;

/// Linear layers with softplus between them; published as a sequence, in which a softplus takes a number too.
#[derive(Module, Debug)]
pub struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    /// With layers of the sizes `n_features`, the input's first and the output's last.
    pub fn new(n_features: &[usize], noise: &mut Stream, device: &Device) -> Self {
        assert!(n_features.len() >= 2, "an MLP has an input and an output");
        Self { layers: n_features.windows(2).map(|w| Linear::new(w[0], w[1], noise, device)).collect() }
    }

    /// # Shapes
    /// `[batch, in]` → `[batch, out]`
    pub fn forward(&self, x: Dual<2>) -> Dual<2> {
        let (last, hidden) = self.layers.split_last().expect("an MLP has layers");
        last.forward(hidden.iter().fold(x, |h, layer| softplus(layer.forward(h))))
    }

    /// What its layers do for one point.
    pub fn work(&self) -> Work {
        self.layers.iter().map(Linear::work).sum()
    }
}

/// `layers.1` → `2`: every other member of the published sequence is a softplus.
pub(super) fn published(path: &[&str]) -> Option<(usize, String)> {
    match path {
        ["layers", layer, ..] => Some((2, (2 * layer.parse::<usize>().ok()?).to_string())),
        _ => None,
    }
}

/// ln(1 + eˣ); its derivative is the logistic function.
pub fn softplus<const D: usize>(x: Dual<D>) -> Dual<D> {
    x.map(|x| activation::softplus(x, 1.0), |x, _| activation::sigmoid(x))
}
