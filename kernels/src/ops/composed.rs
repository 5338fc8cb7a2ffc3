//! The same operations made of Burn's own: for what the kernels are not for, which is anything but f32.

use burn::tensor::activation::{leaky_relu, relu, silu, softmax};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{DType, Device, Tensor, TensorData, module};

use super::conv::Conv;
use crate::activation::{Activation, LeakyRelu};
use crate::filter::Filter;

pub(super) fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    residual: Option<Tensor<4>>,
    conv: Conv,
) -> Tensor<4> {
    let Conv { stride, padding, dilation } = conv;
    let options = ConvOptions::new([stride; 2], padding, [dilation; 2], 1);
    let out = with_bias(module::conv2d(x, weight, None, options), bias);
    match residual {
        Some(residual) => out + residual,
        None => out,
    }
}

pub(super) fn conv_transpose2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    conv: Conv,
    output_padding: usize,
) -> Tensor<4> {
    let Conv { stride, padding, dilation } = conv;
    let options = ConvTransposeOptions::new([stride; 2], padding, [output_padding; 2], [dilation; 2], 1);
    with_bias(module::conv_transpose2d(x, weight, None, options), bias)
}

fn with_bias(x: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    match bias {
        Some(bias) => x + bias.reshape([1, -1, 1, 1]),
        None => x,
    }
}

pub(super) fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::None => x,
        // The exponent is clamped: Burn's own `elu` takes exp of every x, and its gradient is then 0·∞ for large x.
        Activation::Elu => {
            let exp = x.clone().clamp_max(0.0).exp();
            relu(x) + (exp - 1.0)
        }
        Activation::Relu => relu(x),
        Activation::LeakyRelu => leaky_relu(x, LeakyRelu::SLOPE),
        Activation::Swish => silu(x),
    }
}

/// With the weights of all pairs of pixels in memory.
pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, heads: usize) -> Tensor<4> {
    let [n, c, h, w] = q.dims();
    let width = c / heads;
    let rows =
        |x: Tensor<4>| -> Tensor<4> { x.permute([0, 2, 3, 1]).reshape([n, h * w, heads, width]).swap_dims(1, 2) };
    let [q, k, v] = [q, k, v].map(rows);
    let weights = softmax((q * (width as f64).sqrt().recip()).matmul(k.swap_dims(2, 3)), 3);
    weights.matmul(v).swap_dims(1, 2).reshape([n, h, w, c]).permute([0, 3, 1, 2])
}

/// By two constant matrices.
pub(super) fn separable(x: Tensor<4>, rows: &Filter, columns: &Filter) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (device, dtype): (Device, DType) = (x.device(), x.dtype());
    let matrix = |filter: &Filter| {
        Tensor::<2>::from_data(TensorData::new(filter.matrix(), [filter.n_out(), filter.n_in()]), (&device, dtype))
    };
    // One small product for each channel, never one large one: the large one's rounding depends on the batch's size.
    let left = matrix(rows).reshape([1, rows.n_out(), h]).expand([n * c, rows.n_out(), h]);
    let right = matrix(columns).transpose().reshape([1, w, columns.n_out()]).expand([n * c, w, columns.n_out()]);
    left.matmul(x.reshape([n * c, h, w]).matmul(right)).reshape([n, c, rows.n_out(), columns.n_out()])
}
