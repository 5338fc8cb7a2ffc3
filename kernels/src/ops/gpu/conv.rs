//! Convolutions by Burn's kernels, with the arithmetic that a precision asks for.

use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::DType;
use burn::tensor::ops::ConvOptions;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_data_backward, conv_forward, conv_weight_backward};
use burn_cubecl::tensor::CubeTensor;

use super::unset;
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

/// The product in f32, plus a bias `[channels]` or a residual, which may have been left out.
fn plus(product: CubeTensor, summand: CubeTensor) -> CubeTensor {
    let shape = summand.shape();
    let product = cast(product, DType::F32);
    match shape.num_elements() {
        0 => product,
        c if shape.num_dims() == 1 => {
            CubeBackend::float_add(product, CubeBackend::float_reshape(summand, [1, c, 1, 1].into()))
        }
        _ => CubeBackend::float_add(product, summand),
    }
}

impl ConvOps for CubeBackend {
    fn conv(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, residual: CubeTensor, setting: Setting) -> CubeTensor {
        let [x, weight] = factors(x, weight);
        let out = conv_forward(x, weight, None, setting.options(), setting.strategy()).expect(ANY_SHAPE);
        plus(plus(out, bias), residual)
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
        plus(conv_data_backward(x, weight, shape, setting.options(), setting.strategy()).expect(ANY_SHAPE), bias)
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
