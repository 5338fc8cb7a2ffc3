//! ELU, and what follows a convolution's products, in one pass.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::{laid_out, laid_out_unset, one_unit_each};
use crate::ops::pixels::{Activation, PixelOps};

impl PixelOps for CubeBackend {
    fn activate(x: CubeTensor, activation: Activation) -> CubeTensor {
        match activation {
            Activation::Elu => {}
            Activation::None => return x,
            other => unreachable!("{other:?} is composed of Burn's operations"),
        }
        let x = laid_out(x);
        let (n, out) = (x.shape().num_elements(), laid_out_unset(&x, x.shape()));
        if n > 0 {
            let (count, dim) = one_unit_each(&x, n);
            kernel::elu::launch(&x.client.clone(), count, dim, x.into_tensor_arg(), out.clone().into_tensor_arg());
        }
        out
    }

    fn activate_backward(y: CubeTensor, grad: CubeTensor, activation: Activation) -> CubeTensor {
        if activation == Activation::None {
            return grad;
        }
        let [y, grad] = [y, grad].map(laid_out);
        let (n, out) = (y.shape().num_elements(), laid_out_unset(&y, y.shape()));
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

    /// ELU of a number.
    #[cube]
    pub(in crate::ops::gpu) fn elu_of(x: f32) -> f32 {
        // What is not a number is not below 0, and stays.
        select(x <= 0.0f32, x.min(0.0f32).exp_m1(), x)
    }

    #[cube(launch)]
    pub(super) fn elu(x: &Tensor<f32>, out: &mut Tensor<f32>) {
        if ABSOLUTE_POS < out.len() {
            out[ABSOLUTE_POS] = elu_of(x[ABSOLUTE_POS]);
        }
    }

    /// From the output: the derivative is 1 above 0, and one more than the output below.
    #[cube(launch)]
    pub(super) fn elu_backward(y: &Tensor<f32>, grad: &Tensor<f32>, out: &mut Tensor<f32>) {
        if ABSOLUTE_POS < out.len() {
            out[ABSOLUTE_POS] = grad[ABSOLUTE_POS] * (y[ABSOLUTE_POS].min(0.0f32) + 1.0f32);
        }
    }
}
