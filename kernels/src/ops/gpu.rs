//! The operations on GPUs: convolutions of Burn, and kernels for what a composition of Burn's operations would read and write too
//! often, would not do exactly, or would need the host for.

pub mod ceilings;
mod conv;
mod filter;
mod norm;
mod optimizer;
mod philox;
mod pixels;
pub(super) mod random;

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::ops::{permute_nchw_to_nhwc, permute_nhwc_to_nchw};
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::*;

/// A tensor of f32 beside `other`, whose numbers are not set yet.
fn unset(other: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(other.client.clone(), other.device.clone(), shape.into(), DType::F32)
}

/// `x` with its numbers in the order in which all kernels here take and give them: those of images by pixels, the channels of a
/// pixel beside each other, as convolutions leave them; others as they are written.
fn laid_out(x: CubeTensor) -> CubeTensor {
    match x.shape().num_dims() {
        4 => permute_nhwc_to_nchw(into_contiguous(permute_nchw_to_nhwc(x))),
        _ => into_contiguous(x),
    }
}

/// A tensor as [`laid_out`], whose numbers are not set yet.
fn laid_out_unset(other: &CubeTensor, shape: Shape) -> CubeTensor {
    match shape.num_dims() {
        4 => permute_nhwc_to_nchw(unset(other, [shape[0], shape[2], shape[3], shape[1]])),
        _ => unset(other, shape),
    }
}

/// So many cubes of so many units that there is a unit for each of `n`.
fn one_unit_each(tensor: &CubeTensor, n: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&tensor.client, n);
    (calculate_cube_count_elemwise(&tensor.client, n, dim), dim)
}

/// Units of a cube that sums together, as many as every GPU has.
const UNITS: usize = 256;

/// `n` cubes of [`UNITS`], perhaps more.
fn cubes(tensor: &CubeTensor, n: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(UNITS as u32);
    (calculate_cube_count_elemwise(&tensor.client, n * UNITS, dim), dim)
}

/// The sum over the units of a cube that have the same lane, for each of them.
#[cube]
fn sum_of_lane(value: f32, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    shared[unit] = value;
    sync_cube();
    let mut half = CUBE_DIM as usize / 2;
    while half >= lanes {
        if unit < half {
            shared[unit] += shared[unit + half];
        }
        sync_cube();
        half /= 2;
    }
    let sum = shared[unit % lanes];
    sync_cube();
    sum
}
