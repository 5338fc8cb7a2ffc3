//! Maxima over 3×3 pixels of tensors.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
#[cfg(feature = "gpu")]
use burn::backend::ops::ModuleOps;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn_flex::FlexTensor;

use super::{Order, by_pixels, has_kernels, made_images};
use crate::cpu::Isa;
use crate::max_pool::{self, Windows};

/// The largest pixel of each window of 3×3.
///
/// # Shapes
/// `[batch, channels, h, w]` → `[batch, channels, h′, w′]`, see [`Windows::count`].
///
/// # Panics
/// If no window fits into the image.
pub fn max_pool_3x3(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    if !has_kernels(&x) {
        let options = MaxPoolOptions::new([3, 3]);
        return max_pool2d(x, options.with_stride([windows.stride; 2]).with_padding([windows.padding; 2]));
    }
    Tensor::from_dispatch(<Dispatch as MaxPoolOps>::max_pool_3x3(x.into_dispatch(), windows))
}

/// What a backend has for maxima.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait MaxPoolOps: Backend {
    /// See [`max_pool_3x3`].
    fn max_pool_3x3(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;

    /// The gradient for `x` from the maxima and the gradient for those, see [`max_pool::backward`].
    fn max_pool_3x3_backward(
        x: FloatTensor<Self>,
        maxima: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        windows: Windows,
    ) -> FloatTensor<Self>;
}

impl MaxPoolOps for Flex {
    fn max_pool_3x3(x: FlexTensor, windows: Windows) -> FlexTensor {
        let (order, x) = (Order::of(&x), by_pixels(x));
        let [n, c, h, w] = x.shape().dims::<4>();
        made_images(order, [n, c, windows.count(h), windows.count(w)], |out| {
            max_pool::forward(Isa::chosen(), x.storage(), [n, c], [h, w], windows, out);
        })
    }

    fn max_pool_3x3_backward(x: FlexTensor, maxima: FlexTensor, grad: FlexTensor, windows: Windows) -> FlexTensor {
        let order = Order::of(&x);
        let [x, maxima, grad] = [x, maxima, grad].map(by_pixels);
        let [n, c, h, w] = x.shape().dims::<4>();
        made_images(order, [n, c, h, w], |grad_x| {
            let inputs = [x.storage(), maxima.storage(), grad.storage()];
            max_pool::backward(Isa::chosen(), inputs, [n, c], [h, w], windows, grad_x);
        })
    }
}

#[cfg(feature = "gpu")]
impl MaxPoolOps for burn_cubecl::CubeBackend {
    fn max_pool_3x3(x: FloatTensor<Self>, Windows { stride, padding }: Windows) -> FloatTensor<Self> {
        Self::max_pool2d(x, [3, 3], [stride; 2], [padding; 2], [1, 1], false)
    }

    /// Burn's, for which the places of the maxima are found again.
    fn max_pool_3x3_backward(
        x: FloatTensor<Self>,
        _: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        Windows { stride, padding }: Windows,
    ) -> FloatTensor<Self> {
        let (kernel, stride, padding, dilation) = ([3, 3], [stride; 2], [padding; 2], [1, 1]);
        let places = burn::tensor::IntDType::I32;
        let found = Self::max_pool2d_with_indices(x.clone(), kernel, stride, padding, dilation, false, places);
        Self::max_pool2d_with_indices_backward(x, kernel, stride, padding, dilation, false, grad, found.indices).x_grad
    }
}

impl<B: MaxPoolOps, C: CheckpointStrategy> MaxPoolOps for Autodiff<B, C> {
    fn max_pool_3x3(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct MaxPoolStep;
        impl<B: MaxPoolOps> Backward<B, 1> for MaxPoolStep {
            type State = ([FloatTensor<B>; 2], Windows);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let ([x, maxima], windows) = ops.state;
                    grads.register::<B>(node.id, B::max_pool_3x3_backward(x, maxima, grad, windows));
                }
            }
        }
        let prep = MaxPoolStep.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let out = B::max_pool_3x3(x.clone(), windows);
        match prep {
            OpsKind::Tracked(prep) => prep.finish(([x, out.clone()], windows), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn max_pool_3x3_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Windows,
    ) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    #[test]
    fn gradients_are_those_of_burns_own_operation() {
        let device = Device::flex().autodiff();
        let gradient = |dtype: DType| -> Vec<f64> {
            let (shape, windows) = ([2, 5, 6, 7], Windows { stride: 1, padding: 1 });
            let values: Vec<f32> = (0..420).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
            let x = Tensor::<4>::from_data(TensorData::new(values, shape), (&device, dtype)).require_grad();
            let once = max_pool_3x3(x.clone(), windows);
            let loss = (max_pool_3x3(once.clone(), windows) * 3.0 + once.square()).sum();
            let gradient = x.grad(&loss.backward()).expect("a gradient");
            gradient.try_into_vec_as::<f64>().expect("numbers")
        };
        assert_eq!(gradient(DType::F32), gradient(DType::F64));
    }
}
