//! The colour basis: an orthonormal basis of the colours of a pixel, whose first axis is grey.

use burn::tensor::{Device, Tensor};

use crate::device::upload;

/// The columns are the basis, the rows red, green and blue: (1, 1, 1)/√3, (−2, 1, 1)/√6 and (0, 1, −1)/√2.
fn basis() -> [[f64; 3]; 3] {
    let [a, b, c] = [3f64, 6.0, 2.0].map(|square| 1.0 / square.sqrt());
    [[a, -2.0 * b, 0.0], [a, b, c], [a, b, -c]]
}

/// The coordinates of colours. The first is (R + G + B)/√3, that of the grey image alone; independent normal noise of R, G and B is
/// independent normal noise of the coordinates, too (Song et al. 2021, appendix I.3).
///
/// # Shapes
/// `x`: `[batch, 3, …]` → as `x`.
///
/// # Panics
/// If there are not three channels.
pub fn to_colour_basis<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let m = basis();
    rotate(x, |row, column| m[column][row])
}

/// Colours of their coordinates: the inverse of [`to_colour_basis`].
///
/// # Shapes
/// As [`to_colour_basis`].
///
/// # Panics
/// As [`to_colour_basis`].
pub fn from_colour_basis<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let m = basis();
    rotate(x, |row, column| m[row][column])
}

/// A matrix times the channels of each pixel.
fn rotate<const D: usize>(x: Tensor<D>, matrix: impl Fn(usize, usize) -> f64) -> Tensor<D> {
    let shape = x.dims();
    assert!(D > 1 && shape[1] == 3, "a colour basis of shape {shape:?}, expected three channels");
    let device: Device = x.device();
    let matrix = (0..9).map(|i| matrix(i / 3, i % 3) as f32).collect();
    let matrix: Tensor<3> = upload(matrix, [1, 3, 3], &device);
    let pixels = shape[2..].iter().product::<usize>();
    matrix.repeat_dim(0, shape[0]).matmul(x.reshape([shape[0], 3, pixels])).reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::values;

    fn coordinates(colour: [f32; 3]) -> Vec<f32> {
        values(to_colour_basis(upload::<4>(colour.to_vec(), [1, 3, 1, 1], &Device::flex()))).expect("a processor")
    }

    #[test]
    fn grey_is_the_first_axis() {
        let found = coordinates([0.5; 3]);
        assert!((found[0] - 0.5 * 3f32.sqrt()).abs() < 1e-6 && found[1].abs() < 1e-6 && found[2].abs() < 1e-6);
        let found = coordinates([0.1, 0.2, 0.6]);
        let expected = [0.9 / 3f32.sqrt(), 0.6 / 6f32.sqrt(), -0.4 / 2f32.sqrt()];
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6), "{found:?}");
    }

    #[test]
    fn the_way_into_the_basis_and_back_is_none() {
        let x: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
        let images = || upload::<4>(x.clone(), [2, 3, 2, 3], &Device::flex());
        let back = values(from_colour_basis(to_colour_basis(images()))).expect("a processor");
        // Two products of three numbers below 1.
        assert!(back.iter().zip(&x).all(|(back, x)| (back - x).abs() < 1e-6));
        let length = |x: Tensor<4>| values(x.square().sum()).expect("a processor")[0];
        assert!((length(to_colour_basis(images())) - length(images())).abs() < 1e-4);
    }
}
