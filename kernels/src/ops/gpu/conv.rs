//! Convolutions by Burn's kernels, with the arithmetic that a precision asks for.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, FloatDType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward};
use burn_cubecl::tensor::CubeTensor;

use crate::cpu::Precision;
use crate::ops::conv::{Conv, Setting};

/// A convolution without bias.
pub(crate) fn conv2d(x: Tensor<4>, weight: Tensor<4>, conv: Conv) -> Tensor<4> {
    computed(x, weight, |x, weight| {
        <Dispatch as GpuConvOps>::gpu_conv(x, weight, Setting { conv, precision: Precision::current() })
    })
}

/// A transposed convolution without bias, whose output is of `size`.
pub(crate) fn conv_transpose2d(x: Tensor<4>, weight: Tensor<4>, size: [usize; 2], conv: Conv) -> Tensor<4> {
    computed(x, weight, |x, weight| {
        <Dispatch as GpuConvOps>::gpu_conv_transposed(
            x,
            weight,
            size,
            Setting { conv, precision: Precision::current() },
        )
    })
}

type Primitive = FloatTensor<Dispatch>;

/// `f` of both in bf16 if the precision allows it and the device multiplies it, and the result in f32.
fn computed(x: Tensor<4>, weight: Tensor<4>, f: impl FnOnce(Primitive, Primitive) -> Primitive) -> Tensor<4> {
    let in_bf16 = Precision::current() == Precision::Medium && x.device().supports_dtype(FloatDType::BF16);
    // Casts are tensor operations, not a part of the kernel: so what is kept for the gradients takes half the memory.
    let [x, weight] = if in_bf16 { [x, weight].map(|t| t.cast(DType::BF16)) } else { [x, weight] };
    let out = Tensor::<4>::from_dispatch(f(x.into_dispatch(), weight.into_dispatch()));
    if in_bf16 { out.cast(DType::F32) } else { out }
}

/// What a backend on a GPU has for convolutions.
#[backend_extension(Cube, Autodiff)]
pub trait GpuConvOps: Backend {
    /// See [`super::super::conv::conv2d`].
    fn gpu_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, setting: Setting) -> FloatTensor<Self>;

    /// Its adjoint, which is also the gradient of its input; `size` is that of the result.
    fn gpu_conv_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        size: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self>;

    /// The gradient of its weights, whose kernel has size `kernel`.
    fn gpu_conv_weight_gradient(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        kernel: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self>;
}

impl Setting {
    fn options(&self) -> ConvOptions<2> {
        let Conv { stride, padding, dilation } = self.conv;
        ConvOptions::new([stride; 2], padding, [dilation; 2], 1)
    }

    /// The direct kernel multiplies f32 as f32. The fastest of several may use matrix units, which take f32 as TF32.
    fn strategy(&self) -> ConvStrategy {
        match self.precision {
            Precision::Highest => ConvStrategy::Direct,
            Precision::High | Precision::Medium => ConvStrategy::Autotune,
        }
    }
}

const ANY_SHAPE: &str = "the direct kernel takes any shape";

impl GpuConvOps for CubeBackend {
    fn gpu_conv(x: CubeTensor, weight: CubeTensor, setting: Setting) -> CubeTensor {
        conv_forward(x, weight, None, setting.options(), setting.strategy()).expect(ANY_SHAPE)
    }

    fn gpu_conv_transposed(x: CubeTensor, weight: CubeTensor, [h, w]: [usize; 2], setting: Setting) -> CubeTensor {
        let shape = [x.shape()[0], weight.shape()[1], h, w];
        conv_data_backward(x, weight, shape.into(), setting.options(), setting.strategy()).expect(ANY_SHAPE)
    }

    fn gpu_conv_weight_gradient(x: CubeTensor, grad: CubeTensor, [kh, kw]: [usize; 2], setting: Setting) -> CubeTensor {
        let shape = [grad.shape()[1], x.shape()[1], kh, kw];
        conv_weight_backward(x, grad, shape.into(), setting.options(), setting.strategy()).expect(ANY_SHAPE)
    }
}

impl<B: GpuConvOps, C: CheckpointStrategy> GpuConvOps for Autodiff<B, C> {
    fn gpu_conv(x: FloatTensor<Self>, weight: FloatTensor<Self>, setting: Setting) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ConvStep;
        impl<B: GpuConvOps> Backward<B, 2> for ConvStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Setting);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x_node, weight_node] = ops.parents;
                let (x, weight, setting) = ops.state;
                let ([.., kh, kw], [.., h, w]) = (weight.shape().dims::<4>(), x.shape().dims::<4>());
                if let Some(node) = weight_node {
                    let grad = B::gpu_conv_weight_gradient(x, grad.clone(), [kh, kw], setting);
                    grads.register::<B>(node.id, grad);
                }
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, B::gpu_conv_transposed(grad, weight, [h, w], setting));
                }
            }
        }
        let prep = ConvStep.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let [x, weight] = [x, weight].map(|t| t.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => {
                let out = B::gpu_conv(x.clone(), weight.clone(), setting);
                prep.finish((x, weight, setting), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gpu_conv(x, weight, setting)),
        }
    }

    fn gpu_conv_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        size: [usize; 2],
        setting: Setting,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct TransposedStep;
        impl<B: GpuConvOps> Backward<B, 2> for TransposedStep {
            type State = (FloatTensor<B>, FloatTensor<B>, Setting);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x_node, weight_node] = ops.parents;
                let (x, weight, setting) = ops.state;
                let [.., kh, kw] = weight.shape().dims::<4>();
                if let Some(node) = weight_node {
                    // The convolution of which this is the adjoint goes from the output to the input.
                    let grad = B::gpu_conv_weight_gradient(grad.clone(), x, [kh, kw], setting);
                    grads.register::<B>(node.id, grad);
                }
                if let Some(node) = x_node {
                    grads.register::<B>(node.id, B::gpu_conv(grad, weight, setting));
                }
            }
        }
        let prep = TransposedStep.prepare::<C>([x.node(), weight.node()]).compute_bound().stateful();
        let [x, weight] = [x, weight].map(|t| t.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => {
                let out = B::gpu_conv_transposed(x.clone(), weight.clone(), size, setting);
                prep.finish((x, weight, setting), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gpu_conv_transposed(x, weight, size, setting)),
        }
    }

    fn gpu_conv_weight_gradient(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: [usize; 2],
        _: Setting,
    ) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }
}
