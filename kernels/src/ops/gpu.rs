//! The operations on GPUs, where a composition of Burn's own would not be exact, or would need the host.

pub mod ceilings;
mod conv;
mod filter;
mod philox;
pub(super) mod random;

use burn::tensor::{DType, Shape};
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::calculate_cube_count_elemwise;
use cubecl::prelude::{CubeCount, CubeDim};

/// A tensor of f32 beside `other`, whose numbers are not set yet.
fn unset(other: &CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    empty_device_contiguous_dtype(other.client.clone(), other.device.clone(), shape.into(), DType::F32)
}

/// So many cubes of so many units that there is a unit for each of `n`.
fn one_unit_each(tensor: &CubeTensor, n: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&tensor.client, n);
    (calculate_cube_count_elemwise(&tensor.client, n, dim), dim)
}
