//! The exponential moving average of the weights (Song & Ermon 2020, technique 5).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::net::params::{self, Replace};

/// shadow ← rate·shadow + (1 − rate)·weights, after each step, starting from the first weights.
#[derive(Clone, Debug)]
pub struct Ema<M> {
    pub(super) rate: f64,
    pub(super) shadow: M,
}

/// rate·shadow + (1 − rate)·weights
pub(super) fn blend<const D: usize>(rate: f64, shadow: Tensor<D>, weights: Tensor<D>) -> Tensor<D> {
    shadow * rate + weights * (1.0 - rate)
}

impl<M: Module> Ema<M> {
    /// Starts at `module`'s weights, without their gradients.
    pub fn new(rate: f64, module: &M) -> Self {
        Self { rate, shadow: module.valid() }
    }

    /// Goes on from a saved average.
    pub fn resume(rate: f64, shadow: M) -> Self {
        Self { rate, shadow: shadow.valid() }
    }

    /// Moves towards `module`.
    pub fn update(&mut self, module: &M) {
        struct Blend(f64, Vec<Tensor<1>>);
        impl Replace for Blend {
            fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D> {
                let target = self.1[index].clone().reshape(value.dims());
                blend(self.0, value, target)
            }
        }
        let mut weights = Vec::new();
        params::visit(module, |_, _, value| weights.push(value.inner()));
        self.shadow = params::replace(self.shadow.clone(), Blend(self.rate, weights)).0;
    }

    /// Takes over `module`'s buffers, which are not averaged.
    pub fn copy_buffers(&mut self, module: &M) {
        let values = params::buffer_values(module);
        if !values.is_empty() {
            self.shadow = params::map_buffers(self.shadow.clone(), |index, _| values[index].clone());
        }
    }

    /// The averaged module, for evaluation.
    pub fn module(&self) -> &M {
        &self.shadow
    }
}
