//! Convolutions by Burn's kernels, with the arithmetic that a precision asks for.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::conv::{
    ConvStrategy, ConvTranspose2dStrategy, conv_data_backward, conv_forward, conv_transpose2d, conv_weight_backward,
};
use burn_cubecl::kernel::{cast, into_contiguous, slice};
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
    ///
    /// For gradients Burn 0.22.1 chooses the fastest of several under the name of the direct kernel too, so at `highest` they are
    /// computed here as the convolutions that they are.
    fn strategy(&self) -> ConvStrategy {
        match self.precision {
            Precision::Highest => ConvStrategy::Direct,
            Precision::High | Precision::Medium => ConvStrategy::Autotune,
        }
    }
}

/// The gradient of the input with products of f32: the transposed convolution.
fn direct_data_gradient(grad: CubeTensor, weight: CubeTensor, size: [usize; 2], conv: Conv) -> CubeTensor {
    let Conv { stride, padding, dilation } = conv;
    let ([.., h, w], [.., kh, kw]) = (grad.shape().dims::<4>(), weight.shape().dims::<4>());
    // Pixels of the padded input behind the last that the output looks at.
    let behind =
        |n: usize, k: usize, axis: usize| size[axis] + 2 * padding[axis] - (stride * (n - 1) + dilation * (k - 1) + 1);
    let behind = [behind(h, kh, 0), behind(w, kw, 1)];
    let options = ConvTransposeOptions::new([stride; 2], padding, behind, [dilation; 2], 1);
    conv_transpose2d(grad, weight, None, options, ConvTranspose2dStrategy::Direct).expect(ANY_SHAPE)
}

/// The gradient of the weights with products of f32: a convolution whose images are the channels of the input and whose kernels are
/// those of the output's gradient, with stride and dilation exchanged.
fn direct_weight_gradient(x: CubeTensor, grad: CubeTensor, kernel: [usize; 2], conv: Conv) -> CubeTensor {
    let Conv { stride, padding, dilation } = conv;
    let [x, grad] = [x, grad].map(|t| CubeBackend::float_swap_dims(t, 0, 1));
    let options = ConvOptions::new([dilation; 2], padding, [stride; 2], 1);
    let out = conv_forward(x, grad, None, options, ConvStrategy::Direct).expect(ANY_SHAPE);
    // A stride may leave pixels over, for which there are taps then.
    let [c_in, c_out, ..] = out.shape().dims::<4>();
    let out = slice(out, &[0..c_in, 0..c_out, 0..kernel[0], 0..kernel[1]]);
    CubeBackend::float_swap_dims(out, 0, 1)
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
        let out = match setting.strategy() {
            ConvStrategy::Direct => direct_data_gradient(x, weight, [h, w], setting.conv),
            fastest => {
                let shape = [x.shape()[0], weight.shape()[1], h, w].into();
                conv_data_backward(x, weight, shape, setting.options(), fastest).expect(ANY_SHAPE)
            }
        };
        let nothing = Self::conv_nothing(out.clone());
        plus(out, bias, nothing)
    }

    fn conv_weight_gradient(x: CubeTensor, grad: CubeTensor, [kh, kw]: [usize; 2], setting: Setting) -> CubeTensor {
        let [x, grad] = factors(x, grad);
        let out = match setting.strategy() {
            ConvStrategy::Direct => direct_weight_gradient(x, grad, [kh, kw], setting.conv),
            fastest => {
                let shape = [grad.shape()[1], x.shape()[1], kh, kw].into();
                conv_weight_backward(x, grad, shape, setting.options(), fastest).expect(ANY_SHAPE)
            }
        };
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
