//! The definitions, in f64 and one product after the other: what the fast kernels are compared with. A length that is not
//! the shape's is a panic.

use super::ConvShape;
use crate::size;

/// Calls `f` with the places of all pairs that meet: (input, weight, output).
fn for_each_product(shape: &ConvShape, mut f: impl FnMut(usize, usize, usize)) {
    let ConvShape { n, c_in, c_out, size, kernel, stride, padding, dilation } = *shape;
    let [height, width] = shape.out_size();
    if c_in == 0 {
        // The kernel may have any number of taps then.
        return;
    }
    for (image, out) in (0..n).flat_map(|image| (0..c_out).map(move |out| (image, out))) {
        for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
            let to = ((image * height + y) * width + x) * c_out + out;
            for (ky, kx) in (0..kernel[0]).flat_map(|ky| (0..kernel[1]).map(move |kx| (ky, kx))) {
                let inside = |at: usize, tap: usize, axis: usize| {
                    (at * stride + tap * dilation).checked_sub(padding[axis]).filter(|&at| at < size[axis])
                };
                let Some((iy, ix)) = inside(y, ky, 0).zip(inside(x, kx, 1)) else { continue };
                for input in 0..c_in {
                    let from = ((image * size[0] + iy) * size[1] + ix) * c_in + input;
                    let weight = ((out * c_in + input) * kernel[0] + ky) * kernel[1] + kx;
                    f(from, weight, to);
                }
            }
        }
    }
}

/// As [`super::forward`], without bias and residual.
pub fn forward(shape: &ConvShape, x: &[f32], weights: &[f32]) -> Vec<f64> {
    shape.check(x.len(), weights.len(), shape.output_len());
    let mut out = size::zeros(shape.output_len());
    for_each_product(shape, |from, weight, to| out[to] += f64::from(x[from]) * f64::from(weights[weight]));
    out
}

/// As [`super::transposed`], without bias.
pub fn transposed(shape: &ConvShape, grad: &[f32], weights: &[f32]) -> Vec<f64> {
    shape.check(shape.input_len(), weights.len(), grad.len());
    let mut out = size::zeros(shape.input_len());
    for_each_product(shape, |from, weight, to| out[from] += f64::from(grad[to]) * f64::from(weights[weight]));
    out
}

/// As [`super::weight_gradient`].
pub fn weight_gradient(shape: &ConvShape, x: &[f32], grad: &[f32]) -> Vec<f64> {
    shape.check(x.len(), shape.weight_len(), grad.len());
    let mut out = size::zeros(shape.weight_len());
    for_each_product(shape, |from, weight, to| out[weight] += f64::from(x[from]) * f64::from(grad[to]));
    out
}
