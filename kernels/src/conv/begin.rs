//! How every convolution begins: sizes are checked, and what needs no fast products is done: what has no factors at all, and
//! what has so few that a padded copy of the image would be nothing but zeros.
//!
//! Behind this all sizes are at least 1, every array is in memory, and a padded copy is not much larger than they are. So what
//! is computed from sizes does not wrap: it is a small multiple of lengths that processors have addresses for.

use super::{ConvShape, reference};

/// [`super::forward`], if nothing is left to do.
pub fn forward(
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) -> bool {
    shape.check(x.len(), weights.len(), out.len());
    check_bias(bias, shape.c_out);
    assert!(residual.is_none_or(|r| r.len() == out.len()), "a residual of another length than the output of {shape:?}");
    match Products::of(shape, [x, weights], out, shape.c_in, forward_copy(shape)) {
        Products::Many => return false,
        Products::None => out.fill(0.0),
        Products::Few => write(&reference::forward(shape, x, weights), out),
    }
    add_bias(bias, out);
    if let Some(residual) = residual {
        out.iter_mut().zip(residual).for_each(|(out, x)| *out += x);
    }
    true
}

/// [`super::transposed`], if nothing is left to do.
pub fn transposed(shape: &ConvShape, grad: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) -> bool {
    shape.check(out.len(), weights.len(), grad.len());
    check_bias(bias, shape.c_in);
    match Products::of(shape, [grad, weights], out, shape.c_out, transposed_copy(shape)) {
        Products::Many => return false,
        Products::None => out.fill(0.0),
        Products::Few => write(&reference::transposed(shape, grad, weights), out),
    }
    add_bias(bias, out);
    true
}

/// [`super::weight_gradient`], if nothing is left to do.
pub fn weight_gradient(shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) -> bool {
    shape.check(x.len(), out.len(), grad.len());
    match Products::of(shape, [x, grad], out, shape.c_in.max(shape.c_out), forward_copy(shape)) {
        Products::Many => return false,
        Products::None => out.fill(0.0),
        Products::Few => write(&reference::weight_gradient(shape, x, grad), out),
    }
    true
}

fn check_bias(bias: Option<&[f32]>, channels: usize) {
    assert!(bias.is_none_or(|bias| bias.len() == channels), "a bias of another length than {channels} channels");
}

fn add_bias(bias: Option<&[f32]>, out: &mut [f32]) {
    if let Some(bias) = bias.filter(|bias| !bias.is_empty()) {
        out.chunks_exact_mut(bias.len()).flatten().zip(bias.iter().cycle()).for_each(|(out, x)| *out += x);
    }
}

fn write(values: &[f64], out: &mut [f32]) {
    out.iter_mut().zip(values).for_each(|(out, &value)| *out = value as f32);
}

/// How much there is to multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    /// Nothing: there is no result, or it is made of nothing.
    None,
    /// Less than what the copy would cost: strides, dilations or paddings are far larger than the image.
    Few,
    Many,
}

impl Products {
    /// Of `factors`. `copy`: the sides of the padded copy of an image, of `channels`.
    fn of(shape: &ConvShape, factors: [&[f32]; 2], out: &[f32], channels: usize, copy: [usize; 2]) -> Self {
        /// Numbers that a copy of an image may always have: 64 MB.
        const LEAST: usize = 1 << 24;
        if out.is_empty() || factors.iter().any(|factor| factor.is_empty()) {
            return Self::None;
        }
        let [height, width] = shape.out_size();
        let pixels = [shape.size[0] * shape.size[1], height * width, shape.kernel[0] * shape.kernel[1]];
        let pixels = pixels.into_iter().fold(0, usize::saturating_add);
        let most = pixels.saturating_mul(channels).saturating_mul(16).saturating_add(LEAST);
        let len = copy[0].checked_mul(copy[1]).and_then(|pixels| pixels.checked_mul(channels));
        if len.is_some_and(|len| len <= most) { Self::Many } else { Self::Few }
    }
}

/// The sides of the input's copy, at the most.
fn forward_copy(shape: &ConvShape) -> [usize; 2] {
    let out = shape.out_size();
    [0, 1].map(|axis| (out[axis] - 1) * shape.stride + (shape.kernel[axis] - 1) * shape.dilation + 2)
}

/// The same of the copy of the output's gradient.
fn transposed_copy(shape: &ConvShape) -> [usize; 2] {
    [0, 1].map(|axis| {
        let before = (shape.kernel[axis] - 1) * shape.dilation / shape.stride;
        before + (shape.size[axis] + shape.padding[axis]) / shape.stride + 2
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{Isa, Precision};

    fn values(n: usize, factor: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * factor) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    #[test]
    fn copies_that_would_be_zeros_are_not_made_and_results_are_those_of_the_definition() {
        let far = |padding: usize, stride: usize, dilation: usize| ConvShape {
            n: 2,
            c_in: 3,
            c_out: 2,
            size: [4, 3],
            kernel: [3, 3],
            stride,
            padding: [padding; 2],
            dilation,
        };
        for shape in [far(1 << 20, 1 << 19, 1 << 20), far(1 << 40, 1 << 41, 1 << 39), far(1 << 58, 1 << 58, 1 << 56)] {
            let [x, w] = [values(shape.input_len(), 389), values(shape.weight_len(), 577)];
            let grad = values(shape.output_len(), 823);
            let copy = forward_copy(&shape);
            assert_eq!(Products::of(&shape, [&x, &w], &grad, shape.c_in, copy), Products::Few, "{shape:?}");
            for isa in Isa::available() {
                let (mut out, mut grad_x, mut grad_w) = (vec![f32::NAN; grad.len()], x.clone(), w.clone());
                super::super::forward(isa, Precision::High, &shape, &x, &w, Some(&[1.0, 2.0]), Some(&grad), &mut out);
                super::super::transposed(isa, Precision::High, &shape, &grad, &w, None, &mut grad_x);
                super::super::weight_gradient(isa, Precision::High, &shape, &x, &grad, &mut grad_w);
                for (i, (found, sum)) in out.iter().zip(reference::forward(&shape, &x, &w)).enumerate() {
                    // Four roundings of numbers up to 4, and of a sum of three products.
                    let expected = sum + 1.0 + (i % 2) as f64 + f64::from(grad[i]);
                    assert!((f64::from(*found) - expected).abs() <= 1e-6, "{shape:?}, {i}");
                }
                // What is not sparse that way is computed by the fast kernels.
                let of_input = grad_x.iter().zip(reference::transposed(&shape, &grad, &w));
                let of_weights = grad_w.iter().zip(reference::weight_gradient(&shape, &x, &grad));
                for (found, sum) in of_input.chain(of_weights) {
                    assert!((f64::from(*found) - sum).abs() <= 1e-6, "{shape:?}: {found}, not {sum}");
                }
            }
        }
    }

    #[test]
    fn what_is_made_of_nothing_is_the_bias_and_the_residual() {
        let shape = ConvShape {
            n: 2,
            c_in: 0,
            c_out: 3,
            size: [4, 2],
            kernel: [3, 3],
            stride: 1,
            padding: [1; 2],
            dilation: 1,
        };
        let bias = [1.0, 2.0, 3.0];
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; shape.output_len()];
            let residual = values(out.len(), 3);
            super::super::forward(isa, Precision::High, &shape, &[], &[], Some(&bias), Some(&residual), &mut out);
            for (i, found) in out.iter().enumerate() {
                assert_eq!(*found, bias[i % 3] + residual[i], "{isa}");
            }
            let no_outputs = ConvShape { c_in: 3, c_out: 0, ..shape };
            let mut out = vec![f32::NAN; no_outputs.input_len()];
            super::super::transposed(isa, Precision::High, &no_outputs, &[], &[], Some(&bias), &mut out);
            assert!(out.iter().zip(bias.iter().cycle()).all(|(found, expected)| found == expected), "{isa}");
            let no_pixels = ConvShape { c_in: 3, size: [0, 2], padding: [2; 2], ..shape };
            let grad = vec![1.0; no_pixels.output_len()];
            let mut out = vec![f32::NAN; no_pixels.weight_len()];
            super::super::weight_gradient(isa, Precision::High, &no_pixels, &[], &grad, &mut out);
            assert!(out.iter().all(|&sum| sum == 0.0), "{isa}");
        }
    }
}
