//! Tensors of a network's state that are no parameters.

use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;

/// A tensor that a network keeps beside its parameters: running statistics, vectors of a power iteration, frozen frequencies.
///
/// It has a published name and is saved with the network, but it has no gradient: the optimiser, the moving average and the number
/// of parameters do not see it. [`params::buffers`](super::params::buffers) lists all of a network.
#[derive(Module, Debug)]
pub struct Buffer<const D: usize> {
    value: Param<Tensor<D>>,
}

impl<const D: usize> Buffer<D> {
    /// With a first value.
    pub fn new(value: Tensor<D>) -> Self {
        Self { value: Param::from_tensor(value).set_require_grad(false) }
    }

    /// What tells it from all others.
    pub(super) fn id(&self) -> ParamId {
        self.value.id
    }

    /// Its value, of which there is no gradient.
    pub fn val(&self) -> Tensor<D> {
        self.value.val()
    }
}
