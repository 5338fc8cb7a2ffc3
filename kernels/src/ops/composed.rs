//! The same operations made of Burn's own: for what the kernels are not for, which is anything but f32 on the CPU.

use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{DType, Device, Tensor, TensorData, module};

use super::conv::Conv;
use super::optimizer::Parameter;
use crate::filter::Filter;
use crate::optimizer::{Rule, Step};

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

/// The exponent is clamped: Burn's own `elu` takes exp of every x, and its gradient is then 0·∞ for large x.
pub(super) fn elu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let exp = x.clone().clamp_max(0.0).exp();
    burn::tensor::activation::relu(x) + (exp - 1.0)
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

pub(super) fn step(step: &Step, gradient: Tensor<1>, parameter: Parameter) -> Parameter {
    let Parameter { value, mut state, shadow } = parameter;
    let n_states = if matches!(step.rule, Rule::Adam { .. }) { 2..=3 } else { 1..=1 };
    assert!(n_states.contains(&state.len()), "{} states of {:?}", state.len(), step.rule);
    let gradient = gradient * step.clip;
    let g = if step.weight_decay == 0.0 { gradient } else { gradient + value.clone() * step.weight_decay };
    let mean = |old: Tensor<1>, decay: f64, new: Tensor<1>| old * decay + new * (1.0 - decay);
    let change = match step.rule {
        Rule::Adam { lr, betas, eps, t } => {
            let [correction1, correction2] = betas.map(|beta| 1.0 - beta.powf(t as f64));
            state[0] = mean(state[0].clone(), betas[0], g.clone());
            state[1] = mean(state[1].clone(), betas[1], g.square());
            if let [_, squares, largest] = &mut state[..] {
                *largest = largest.clone().max_pair(squares.clone());
            }
            let squares = state[state.len() - 1].clone();
            state[0].clone() / (squares.sqrt() / correction2.sqrt() + eps) * (-lr / correction1)
        }
        Rule::RmsProp { lr, alpha, eps } => {
            state[0] = mean(state[0].clone(), alpha, g.clone().square());
            g / (state[0].clone().sqrt() + eps) * -lr
        }
        Rule::Sgd { lr, momentum } => {
            state[0] = state[0].clone() * momentum + g;
            state[0].clone() * -lr
        }
    };
    let value = value + change;
    let shadow = shadow.map(|shadow| mean(shadow, step.ema_rate, value.clone()));
    Parameter { value, state, shadow }
}
