//! Convolutions by Burn's kernels, with the arithmetic that a precision asks for.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

use super::{laid_out, laid_out_unset, one_unit_each, unset};
use crate::cpu::Precision;
use crate::ops::conv::{Conv, ConvOps, Setting};

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

/// The factors of a product in one type: a gradient comes in f32 beside a factor that may be bf16.
fn factors(a: CubeTensor, b: CubeTensor) -> [CubeTensor; 2] {
    let dtype = if [&a, &b].iter().any(|t| t.dtype == DType::BF16) { DType::BF16 } else { DType::F32 };
    [a, b].map(|t| cast(t, dtype))
}

/// The product in f32, plus a bias `[channels]` and a residual, which may have been left out, in one pass.
fn plus(product: CubeTensor, bias: CubeTensor, residual: CubeTensor) -> CubeTensor {
    let [has_bias, has_residual] = [&bias, &residual].map(|summand| summand.shape().num_elements() > 0);
    let n = product.shape().num_elements();
    if n == 0 || !(has_bias || has_residual) {
        return cast(product, DType::F32);
    }
    let product = laid_out(product);
    let out = laid_out_unset(&product, product.shape());
    // In the place of what was left out is anything of its type.
    let bias = if has_bias { into_contiguous(bias) } else { out.clone() };
    let residual = if has_residual { laid_out(residual) } else { out.clone() };
    let ((count, dim), client) = (one_unit_each(&product, n), product.client.clone());
    let (channels, dtype) = (product.shape()[1], dtype_to_storage_type(product.dtype));
    let [product, bias, residual, target] = [product, bias, residual, out.clone()].map(CubeTensor::into_tensor_arg);
    kernel::plus::launch(&client, count, dim, product, bias, residual, target, channels, has_bias, has_residual, dtype);
    out
}

mod kernel {
    use cubecl::prelude::*;

    #[cube(launch)]
    pub(super) fn plus<F: Float>(
        product: &Tensor<F>,
        bias: &Tensor<f32>,
        residual: &Tensor<f32>,
        out: &mut Tensor<f32>,
        channels: usize,
        #[comptime] has_bias: bool,
        #[comptime] has_residual: bool,
        #[define(F)] _dtype: ElemType,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let mut sum = f32::cast_from(product[place]);
        if has_bias {
            sum += bias[place % channels];
        }
        if has_residual {
            sum += residual[place];
        }
        out[place] = sum;
    }
}

impl ConvOps for CubeBackend {
    fn conv(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, residual: CubeTensor, setting: Setting) -> CubeTensor {
        let [x, weight] = factors(x, weight);
        let out = conv_forward(x, weight, None, setting.options(), setting.strategy()).expect(ANY_SHAPE);
        plus(out, bias, residual)
    }

    fn conv_transposed(
        x: CubeTensor,
        weight: CubeTensor,
        bias: CubeTensor,
        [h, w]: [usize; 2],
        setting: Setting,
    ) -> CubeTensor {
        let [x, weight] = factors(x, weight);
        let shape = [x.shape()[0], weight.shape()[1], h, w].into();
        let out = conv_data_backward(x, weight, shape, setting.options(), setting.strategy()).expect(ANY_SHAPE);
        let nothing = Self::conv_nothing(out.clone());
        plus(out, bias, nothing)
    }

    fn conv_weight_gradient(x: CubeTensor, grad: CubeTensor, [kh, kw]: [usize; 2], setting: Setting) -> CubeTensor {
        let [x, grad] = factors(x, grad);
        let shape = [grad.shape()[1], x.shape()[1], kh, kw].into();
        let out = conv_weight_backward(x, grad, shape, setting.options(), setting.strategy()).expect(ANY_SHAPE);
        cast(out, DType::F32)
    }

    fn conv_bias_gradient(grad: CubeTensor) -> CubeTensor {
        let c = grad.shape()[1];
        CubeBackend::float_reshape(CubeBackend::float_sum_dims(grad, &[0, 2, 3]), [c].into())
    }

    fn conv_nothing(like: CubeTensor) -> CubeTensor {
        unset(&like, [0])
    }
}
