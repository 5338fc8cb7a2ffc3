//! ELU and separable filters (average pools, interpolation) of tensors.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::{composed, is_for_kernels, made, whole};
use crate::cpu::Isa;
use crate::elu;
use crate::filter::{self, Filter};

/// ELU with α = 1, see [`elu::forward`].
pub fn elu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !is_for_kernels(&x) {
        return composed::elu(x);
    }
    Tensor::from_dispatch(<Dispatch as PixelOps>::elu(x.into_dispatch()))
}

/// R·x·Cᵀ for each channel, see [`filter::apply`].
///
/// # Shapes
/// `[batch, channels, rows.n_in(), columns.n_in()]` → `[batch, channels, rows.n_out(), columns.n_out()]`
///
/// # Panics
/// If the filters are for another size.
pub fn separable(x: Tensor<4>, rows: Filter, columns: Filter) -> Tensor<4> {
    let [.., h, w] = x.dims();
    assert_eq!([h, w], [rows.n_in(), columns.n_in()], "an image and its filters");
    if !is_for_kernels(&x) {
        return composed::separable(x, &rows, &columns);
    }
    Tensor::from_dispatch(<Dispatch as PixelOps>::separable(x.into_dispatch(), rows, columns))
}

/// What a backend has for ELU and filters.
#[backend_extension(Flex, Autodiff)]
pub trait PixelOps: Backend {
    /// See [`elu()`].
    fn elu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient for ELU's input from its output and the gradient for that.
    fn elu_backward(y: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`separable`].
    fn separable(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self>;
}

impl PixelOps for Flex {
    fn elu(x: FlexTensor) -> FlexTensor {
        let x = whole(x);
        made(x.shape(), |out| elu::forward(Isa::chosen(), x.storage(), out))
    }

    fn elu_backward(y: FlexTensor, grad: FlexTensor) -> FlexTensor {
        let [y, grad] = [y, grad].map(whole);
        made(y.shape(), |out| elu::backward(Isa::chosen(), y.storage(), grad.storage(), out))
    }

    fn separable(x: FlexTensor, rows: Filter, columns: Filter) -> FlexTensor {
        let x = whole(x);
        let [n, c, ..] = x.shape().dims::<4>();
        made([n, c, rows.n_out(), columns.n_out()], |out| {
            filter::apply(Isa::chosen(), x.storage(), n * c, &rows, &columns, out);
        })
    }
}

impl<B: PixelOps, C: CheckpointStrategy> PixelOps for Autodiff<B, C> {
    fn elu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct EluStep;
        impl<B: PixelOps> Backward<B, 1> for EluStep {
            type State = FloatTensor<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::elu_backward(ops.state, grad));
                }
            }
        }
        let prep = EluStep.prepare::<C>([x.node()]).compute_bound().stateful();
        // The output, not the input: the next convolution keeps it anyway.
        let out = B::elu(x.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => prep.finish(out.clone(), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn elu_backward(_: FloatTensor<Self>, _: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }

    fn separable(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SeparableStep;
        impl<B: PixelOps> Backward<B, 1> for SeparableStep {
            type State = [Filter; 2];
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [rows, columns] = ops.state;
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::separable(grad, rows.transposed(), columns.transposed()));
                }
            }
        }
        match SeparableStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = B::separable(x.into_primitive(), rows.clone(), columns.clone());
                prep.finish([rows, columns], out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::separable(x.into_primitive(), rows, columns)),
        }
    }
}
