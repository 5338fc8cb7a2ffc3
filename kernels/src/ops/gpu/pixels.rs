//! ELU, and what follows a convolution's products, in one pass.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{laid_out, one_unit_each, unset_like};
use crate::ops::pixels::PixelOps;

impl PixelOps for CubeBackend {
    fn elu(x: CubeTensor) -> CubeTensor {
        let x = laid_out(x);
        let (n, out) = (x.shape().num_elements(), unset_like(&x));
        if n > 0 {
            let (count, dim) = one_unit_each(&x, n);
            kernel::elu::launch(&x.client.clone(), count, dim, x.into_tensor_arg(), out.clone().into_tensor_arg());
        }
        out
    }

    fn elu_backward(y: CubeTensor, grad: CubeTensor) -> CubeTensor {
        let [y, grad] = [y, grad].map(laid_out);
        let (n, out) = (y.shape().num_elements(), unset_like(&y));
        if n > 0 {
            let ((count, dim), client) = (one_unit_each(&y, n), y.client.clone());
            let [y, grad, target] = [y, grad, out.clone()].map(CubeTensor::into_tensor_arg);
            kernel::elu_backward::launch(&client, count, dim, y, grad, target);
        }
        out
    }

    fn add(a: CubeTensor, b: CubeTensor) -> CubeTensor {
        CubeBackend::float_add(a, b)
    }
}

pub(super) mod kernel {
    use cubecl::prelude::*;

    #[cube]
    pub(crate) fn elu_of(x: f32) -> f32 {
        // Clamped: a branch that is not taken must not be infinite. Near 0 the difference loses what PyTorch's does too.
        select(x > 0.0f32, x, x.min(0.0f32).exp() - 1.0f32)
    }

    #[cube(launch)]
    pub(super) fn elu(x: &Tensor<f32>, out: &mut Tensor<f32>) {
        if ABSOLUTE_POS < out.len() {
            out[ABSOLUTE_POS] = elu_of(x[ABSOLUTE_POS]);
        }
    }

    /// From the output: its derivative is 1 above 0, and one more than it below.
    #[cube(launch)]
    pub(super) fn elu_backward(y: &Tensor<f32>, grad: &Tensor<f32>, out: &mut Tensor<f32>) {
        if ABSOLUTE_POS < out.len() {
            out[ABSOLUTE_POS] = grad[ABSOLUTE_POS] * (y[ABSOLUTE_POS].min(0.0f32) + 1.0f32);
        }
    }
}
