//! Convolutions of tensors, plain and transposed, with the residual added in the same pass.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Tensor};
use burn_flex::FlexTensor;

use super::{Order, by_pixels, composed, has_kernels, in_order, is_cpu, made, made_images, some, whole};
use crate::conv::{self, ConvShape};
use crate::cpu::{Isa, Precision};

/// How a kernel is laid over an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv {
    /// Distance between the pixels that two neighbours of the output look at.
    pub stride: usize,
    /// Zeros above and below, and at the left and the right.
    pub padding: [usize; 2],
    /// Distance between the pixels that two neighbours of the kernel look at.
    pub dilation: usize,
}

impl Conv {
    /// The side along an axis of the output of [`conv_transpose2d`], from `n` pixels and a kernel of `k`.
    fn transposed_side(self, n: usize, k: usize, axis: usize, output_padding: usize) -> usize {
        let steps = |step: usize, n: usize| step.checked_mul(n.checked_sub(1)?);
        let side = || {
            let reach = steps(self.stride, n)?.checked_add(steps(self.dilation, k)?)?;
            let padded = reach.checked_add(1)?.checked_add(output_padding)?;
            padded.checked_sub(self.padding[axis].checked_mul(2)?)
        };
        side().unwrap_or_else(|| panic!("found no output of {n} pixels and a kernel of {k}: {self:?}"))
    }
}

/// A convolution, plus `bias`, plus `residual`, at the current [`Precision`].
///
/// # Shapes
/// `x`: `[batch, in, h, w]`; `weight`: `[out, in, k, k]`; `bias`: `[out]`; `residual` as the output, `[batch, out, h′, w′]`,
/// h′ = ⌊(h + 2·padding − dilation·(k − 1) − 1)/stride⌋ + 1.
///
/// # Panics
/// If shapes do not fit together.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<4>>,
    conv: Conv,
) -> Tensor<4> {
    if !has_kernels(&x) {
        return composed::conv2d(x, weight, bias, residual, conv);
    }
    let none = x.device();
    let bias = bias.unwrap_or_else(|| Tensor::empty([0], &none));
    let residual = residual.unwrap_or_else(|| Tensor::empty([0, 1, 1, 1], &none));
    let [x, weight, residual] = [factor(x), factor(weight), residual].map(Tensor::into_dispatch);
    let conv = Setting { conv, precision: Precision::current() };
    Tensor::from_dispatch(<Dispatch as ConvOps>::conv(x, weight, bias.into_dispatch(), residual, conv))
}

/// A transposed convolution, the adjoint of [`conv2d`], plus `bias`. `output_padding` more rows and columns than the smallest
/// output that the input can come from.
///
/// # Shapes
/// `x`: `[batch, in, h, w]`; `weight`: `[in, out, k, k]`; `bias`: `[out]` → `[batch, out, h′, w′]`,
/// h′ = stride·(h − 1) + dilation·(k − 1) + 1 − 2·padding + output padding.
///
/// # Panics
/// If shapes do not fit together.
pub fn conv_transpose2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    conv: Conv,
    output_padding: usize,
) -> Tensor<4> {
    let ([.., h, w], [.., kh, kw]) = (x.dims(), weight.dims());
    let size = [conv.transposed_side(h, kh, 0, output_padding), conv.transposed_side(w, kw, 1, output_padding)];
    if !has_kernels(&x) {
        return composed::conv_transpose2d(x, weight, bias, conv, output_padding);
    }
    let bias = bias.unwrap_or_else(|| Tensor::empty([0], &x.device()));
    let [x, weight] = [x, weight].map(|t| factor(t).into_dispatch());
    let setting = Setting { conv, precision: Precision::current() };
    Tensor::from_dispatch(<Dispatch as ConvOps>::conv_transposed(x, weight, bias.into_dispatch(), size, setting))
}

/// x·Wᵀ: in f32 on the processor, on a GPU at the current [`Precision`].
///
/// # Shapes
/// `x`: `[batch, in]`; `weight`: `[out, in]` → `[batch, out]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if x.dtype() != DType::F32 || is_cpu(&x.device()) {
        return x.matmul(weight.transpose());
    }
    linear_each(x, weight)
}

/// x·Wᵀ at the current [`Precision`], each row as if it were alone: it does not depend on how many others there are, as those of
/// [`linear`] do on the processor.
///
/// # Shapes
/// As [`linear`].
pub fn linear_each(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    // A convolution of single pixels, because the arithmetic of that can be chosen.
    let ([n, n_in], [n_out, _]) = (x.dims(), weight.dims());
    let one_pixel = Conv { stride: 1, padding: [0; 2], dilation: 1 };
    let [x, weight] = [(x, n), (weight, n_out)].map(|(t, n)| t.reshape([n, n_in, 1, 1]));
    conv2d(x, weight, None, None, one_pixel).reshape([n, n_out])
}

/// A factor as it is multiplied: in bf16 if the precision allows it and a GPU has it. This is no part of its kernel, so that what
/// is kept for the gradients takes half the memory.
fn factor(x: Tensor<4>) -> Tensor<4> {
    let device = x.device();
    let in_bf16 =
        Precision::current() == Precision::Medium && !is_cpu(&device) && device.supports_dtype(FloatDType::BF16);
    if in_bf16 { x.cast(DType::BF16) } else { x }
}

/// A convolution and its precision: gradients are taken at the precision that the output was.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub(super) conv: Conv,
    pub(super) precision: Precision,
}

impl Setting {
    /// From the shapes of the input and the weights.
    fn shape(self, [n, c_in, h, w]: [usize; 4], [c_out, kh, kw]: [usize; 3]) -> ConvShape {
        let Conv { stride, padding, dilation } = self.conv;
        ConvShape { n, c_in, c_out, size: [h, w], kernel: [kh, kw], stride, padding, dilation }
    }
}

/// What a backend has for convolutions. Tensors without elements stand for those that are left out.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait ConvOps: Backend {
    /// See [`conv2d`].
    fn conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        setting: Setting,
    ) -> FloatTensor<Self>;

    /// See [`conv_transpose2d`]; `size` is that of the output. Without bias also the gradient of a convolution's input.
    fn conv_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        size: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self>;

    /// The gradient of a convolution's weights, whose kernel has size `kernel`.
    fn conv_weight_gradient(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self>;

    /// The sum over all but the channels.
    fn conv_bias_gradient(grad: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x` in the order of memory in which all here is done, so that this is not done for each of several uses.
    fn conv_prepared(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }

    /// `grad` in the order of memory of `x`, whose gradient it is.
    fn conv_gradient_like(grad: FloatTensor<Self>, x: &FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = x;
        grad
    }

    /// No numbers.
    fn conv_nothing(like: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl ConvOps for Flex {
    fn conv(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, residual: FlexTensor, setting: Setting) -> FlexTensor {
        let order = Order::of(&x);
        let (x, [weight, bias]) = (by_pixels(x), [weight, bias].map(whole));
        let residual = (residual.layout().num_elements() > 0).then(|| by_pixels(residual));
        let [c_out, _, kh, kw] = weight.shape().dims();
        let shape = setting.shape(x.shape().dims(), [c_out, kh, kw]);
        let [h, w] = shape.out_size();
        let (isa, precision) = (Isa::chosen(), setting.precision);
        made_images(order, [shape.n, c_out, h, w], |out| {
            let (bias, residual) = (some(&bias), residual.as_ref().map(FlexTensor::storage));
            conv::forward(isa, precision, &shape, x.storage(), weight.storage(), bias, residual, out);
        })
    }

    fn conv_transposed(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        [h, w]: [usize; 2],
        setting: Setting,
    ) -> FlexTensor {
        let order = Order::of(&x);
        let (x, [weight, bias]) = (by_pixels(x), [weight, bias].map(whole));
        let ([n, ..], [c_in, c_out, kh, kw]) = (x.shape().dims::<4>(), weight.shape().dims());
        let shape = setting.shape([n, c_out, h, w], [c_in, kh, kw]);
        made_images(order, [n, c_out, h, w], |out| {
            conv::transposed(Isa::chosen(), setting.precision, &shape, x.storage(), weight.storage(), some(&bias), out);
        })
    }

    fn conv_weight_gradient(x: FlexTensor, grad: FlexTensor, [kh, kw]: [usize; 2], setting: Setting) -> FlexTensor {
        let [x, grad] = [x, grad].map(by_pixels);
        let [_, c_out, ..] = grad.shape().dims::<4>();
        let shape = setting.shape(x.shape().dims(), [c_out, kh, kw]);
        made([c_out, shape.c_in, kh, kw], |out| {
            conv::weight_gradient(Isa::chosen(), setting.precision, &shape, x.storage(), grad.storage(), out);
        })
    }

    fn conv_bias_gradient(grad: FlexTensor) -> FlexTensor {
        let grad = by_pixels(grad);
        let [_, c, h, w] = grad.shape().dims();
        super::tensor(conv::bias_gradient(Isa::chosen(), grad.storage(), c, h * w), [c])
    }

    fn conv_prepared(x: FlexTensor) -> FlexTensor {
        by_pixels(x)
    }

    fn conv_gradient_like(grad: FlexTensor, x: &FlexTensor) -> FlexTensor {
        in_order(grad, Order::of(x))
    }

    fn conv_nothing(_: FlexTensor) -> FlexTensor {
        super::tensor(Vec::new(), [0])
    }
}

impl<B: ConvOps, C: CheckpointStrategy> ConvOps for Autodiff<B, C> {
    fn conv(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        setting: Setting,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ConvStep;
        impl<B: ConvOps> Backward<B, 4> for ConvStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Setting);
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x_node, weight_node, bias_node, residual_node] = ops.parents;
                let (x, weight, setting) = ops.state;
                let [.., kh, kw] = weight.shape().dims::<4>();
                let [.., h, w] = x.shape().dims::<4>();
                if let Some(node) = residual_node {
                    grads.register::<B>(node.id, grad.clone());
                }
                let grad = B::conv_prepared(grad);
                if let Some(node) = bias_node {
                    grads.register::<B>(node.id, B::conv_bias_gradient(grad.clone()));
                }
                if let Some(node) = weight_node {
                    let grad = B::conv_weight_gradient(x.clone(), grad.clone(), [kh, kw], setting);
                    grads.register::<B>(node.id, grad);
                }
                if let Some(node) = x_node {
                    let bias = B::conv_nothing(weight.clone());
                    let grad = B::conv_transposed(grad, weight, bias, [h, w], setting);
                    grads.register::<B>(node.id, B::conv_gradient_like(grad, &x));
                }
            }
        }
        match ConvStep.prepare::<C>([x.node(), weight.node(), bias.node(), residual.node()]).compute_bound().stateful()
        {
            OpsKind::Tracked(prep) => {
                let [x, weight, bias, residual] = [x, weight, bias, residual].map(|t| t.into_primitive());
                let out = B::conv(x.clone(), weight.clone(), bias, residual, setting);
                prep.finish((x, weight, setting), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias, residual] = [x, weight, bias, residual].map(|t| t.into_primitive());
                prep.finish(B::conv(x, weight, bias, residual, setting))
            }
        }
    }

    fn conv_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        size: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct TransposedStep;
        impl<B: ConvOps> Backward<B, 3> for TransposedStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Setting);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x_node, weight_node, bias_node] = ops.parents;
                let (x, weight, setting) = ops.state;
                let grad = B::conv_prepared(grad);
                let [.., kh, kw] = weight.shape().dims::<4>();
                if let Some(node) = bias_node {
                    grads.register::<B>(node.id, B::conv_bias_gradient(grad.clone()));
                }
                if let Some(node) = weight_node {
                    // The convolution of which this is the adjoint goes from the output to the input.
                    let grad = B::conv_weight_gradient(grad.clone(), x.clone(), [kh, kw], setting);
                    grads.register::<B>(node.id, grad);
                }
                if let Some(node) = x_node {
                    let nothing = B::conv_nothing(weight.clone());
                    let grad = B::conv(grad, weight, nothing.clone(), nothing, setting);
                    grads.register::<B>(node.id, B::conv_gradient_like(grad, &x));
                }
            }
        }
        match TransposedStep.prepare::<C>([x.node(), weight.node(), bias.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
                let out = B::conv_transposed(x.clone(), weight.clone(), bias, size, setting);
                prep.finish((x, weight, setting), out)
            }
            OpsKind::UnTracked(prep) => {
                let [x, weight, bias] = [x, weight, bias].map(|t| t.into_primitive());
                prep.finish(B::conv_transposed(x, weight, bias, size, setting))
            }
        }
    }

    fn conv_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: [usize; 2],
        _: Setting,
    ) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }

    fn conv_bias_gradient(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }

    fn conv_nothing(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }
}
