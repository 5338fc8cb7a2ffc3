//! Batch norm of tensors, with the activation behind it in the same pass, on the processor.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{
    AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Int, Tensor};
use burn_flex::FlexTensor;

use super::norm::numbers_of_rows;
use super::{Order, by_pixels, has_kernels, is_cpu, made, made_images, whole};
use crate::cpu::Isa;
use crate::norm::batch::{self, BatchNorm};
use crate::norm::{Activation, NormShape};

/// What a batch norm is, beside its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Whether the moments are those of the images themselves.
    pub of_batch: bool,
    /// What is added to variances.
    pub epsilon: f64,
    /// What follows.
    pub activation: Activation,
}

/// The mean and the biased variance of each channel over all images, without gradient: `[2, channels]`.
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`
///
/// # Panics
/// If `x` has no number, is not [for the kernels](has_kernels), or not on the processor.
pub fn moments(x: Tensor<4>) -> Tensor<2> {
    check(&x);
    Tensor::from_dispatch(<Dispatch as BatchNormOps>::moments(x.into_dispatch()))
}

/// act(γ·(x − μ)/√(σ² + ε) + β), see [`BatchNorm`].
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`, as the result; `table`: `[levels, 2·channels]` with rows (γ, β); `rows`: that of each image,
/// `[batch]`; `moments`: μ and σ², `[2, channels]`.
///
/// # Panics
/// As [`moments`], and if shapes do not fit together or there is no such row.
pub fn batch_norm(
    x: Tensor<4>,
    table: Tensor<2>,
    rows: Tensor<1, Int>,
    moments: Tensor<2>,
    options: Options,
) -> Tensor<4> {
    check(&x);
    let [n, c, ..] = x.dims();
    assert_eq!((table.dims()[1], rows.dims(), moments.dims()), (2 * c, [n], [2, c]), "of {n} images of {c} channels");
    let (x, table, rows) = (x.into_dispatch(), table.into_dispatch(), rows.into_dispatch());
    let out = <Dispatch as BatchNormOps>::normalise_batch(x, table, rows, moments.into_dispatch(), options);
    Tensor::from_dispatch(out)
}

fn check(x: &Tensor<4>) {
    assert!(
        has_kernels(x) && is_cpu(&x.device()),
        "found {:?} on {:?}, expected f32 on the processor",
        x.dtype(),
        x.device()
    );
}

/// What a backend has for batch norms.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait BatchNormOps: Backend {
    /// See [`moments`].
    fn moments(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`batch_norm`].
    fn normalise_batch(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        moments: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self>;

    /// The gradients for x and for the table.
    fn normalise_batch_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        moments: FloatTensor<Self>,
        options: Options,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Calls `f` with the norm that the tensors stand for.
fn with_norm(
    x: &FlexTensor,
    [table, moments]: [FlexTensor; 2],
    rows: FlexTensor,
    options: Options,
    f: impl FnOnce(BatchNorm<'_>) -> FlexTensor,
) -> FlexTensor {
    let [n, c, h, w] = x.shape().dims();
    let (table, moments) = (whole(table), whole(moments));
    let rows = numbers_of_rows(rows, &table);
    let Options { of_batch, epsilon, activation } = options;
    f(BatchNorm {
        shape: NormShape { n, c, pixels: h * w },
        table: table.storage(),
        rows: &rows,
        moments: moments.storage(),
        of_batch,
        epsilon: epsilon as f32,
        activation,
    })
}

impl BatchNormOps for Flex {
    fn moments(x: FlexTensor) -> FlexTensor {
        let x = by_pixels(x);
        let [n, c, h, w] = x.shape().dims();
        made([2, c], |out| batch::moments(Isa::chosen(), NormShape { n, c, pixels: h * w }, x.storage(), out))
    }

    fn normalise_batch(
        x: FlexTensor,
        table: FlexTensor,
        rows: FlexTensor,
        moments: FlexTensor,
        options: Options,
    ) -> FlexTensor {
        let (order, x) = (Order::of(&x), by_pixels(x));
        with_norm(&x, [table, moments], rows, options, |norm| {
            made_images(order, x.shape().dims(), |out| norm.forward(Isa::chosen(), x.storage(), out))
        })
    }

    fn normalise_batch_backward(
        x: FlexTensor,
        grad: FlexTensor,
        table: FlexTensor,
        rows: FlexTensor,
        moments: FlexTensor,
        options: Options,
    ) -> (FlexTensor, FlexTensor) {
        let order = Order::of(&x);
        let [x, grad] = [x, grad].map(by_pixels);
        let table_dims = table.shape().dims::<2>();
        let mut grad_x = None;
        let grad_table = with_norm(&x, [table, moments], rows, options, |norm| {
            made(table_dims, |grad_table| {
                grad_x = Some(made_images(order, x.shape().dims(), |grad_x| {
                    norm.backward(Isa::chosen(), x.storage(), grad.storage(), grad_table, grad_x);
                }));
            })
        });
        (grad_x.expect("set above"), grad_table)
    }
}

#[cfg(feature = "gpu")]
impl BatchNormOps for burn_cubecl::CubeBackend {
    fn moments(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("on the processor only")
    }

    fn normalise_batch(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: Options,
    ) -> FloatTensor<Self> {
        unreachable!("on the processor only")
    }

    fn normalise_batch_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: Options,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("on the processor only")
    }
}

impl<B: BatchNormOps, C: CheckpointStrategy> BatchNormOps for Autodiff<B, C> {
    fn moments(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::from_inner(B::moments(x.into_primitive()))
    }

    fn normalise_batch(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        moments: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BatchNormStep;
        impl<B: BatchNormOps> Backward<B, 2> for BatchNormStep {
            type State = ([FloatTensor<B>; 3], IntTensor<B>, Options);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x, table, moments], rows, options) = ops.state;
                let (x, table) = B::normalise_batch_backward(x, grad, table, rows, moments, options);
                for (node, grad) in ops.parents.into_iter().zip([x, table]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }
        let prep = BatchNormStep.prepare::<C>([x.node(), table.node()]).compute_bound().stateful();
        let [x, table, moments] = [x, table, moments].map(|tensor| tensor.into_primitive());
        let out = B::normalise_batch(x.clone(), table.clone(), rows.clone(), moments.clone(), options);
        match prep {
            OpsKind::Tracked(prep) => prep.finish(([x, table, moments], rows, options), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn normalise_batch_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: IntTensor<Self>,
        _: FloatTensor<Self>,
        _: Options,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("first-order gradients only")
    }
}
