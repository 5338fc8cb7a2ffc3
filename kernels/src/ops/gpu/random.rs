//! Philox4x32-10 on the device: the words of [`crate::random`], and its numbers but for their last bits.

use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{one_unit_each, philox, unset};
use crate::ops::random::Distribution;
use crate::random::Position;

/// `n_each` numbers from each position: `[positions·n_each]`.
pub(crate) fn draw(distribution: Distribution, at: &[Position], n_each: usize, device: &Device) -> Tensor<1> {
    let words = at.iter().flat_map(|at| {
        let halves = |x: u64| [x as u32, (x >> 32) as u32];
        let ([b0, b1], [i0, i1], [k0, k1]) = (halves(at.block), halves(at.index), at.key);
        [b0, b1, i0, i1, k0, k1].map(u32::cast_signed)
    });
    let words = TensorData::new(words.collect::<Vec<i32>>(), [at.len(), 6]);
    let words = Tensor::<2, Int>::from_data(words, (device, DType::I32)).into_dispatch();
    let normal = distribution == Distribution::Normal;
    Tensor::from_dispatch(<Dispatch as GpuRandomOps>::gpu_draw(words, at.len() * n_each, n_each, normal))
}

/// What a backend on a GPU has for random numbers.
#[backend_extension(Cube)]
pub trait GpuRandomOps: Backend {
    /// `n` numbers, N(0, 1) or U[0, 1), `n_each` from each position (a row of `at`: block, index, key, their lower words
    /// first).
    fn gpu_draw(at: IntTensor<Self>, n: usize, n_each: usize, normal: bool) -> FloatTensor<Self>;
}

impl GpuRandomOps for CubeBackend {
    fn gpu_draw(at: CubeTensor, n: usize, n_each: usize, normal: bool) -> CubeTensor {
        let at = into_contiguous(at);
        let out = unset(&at, [n]);
        if n == 0 {
            return out;
        }
        let (count, dim) = one_unit_each(&at, n / n_each * n_each.div_ceil(4));
        let (at, target) = (at.into_tensor_arg(), out.clone().into_tensor_arg());
        philox::draw_blocks::launch(&out.client, count, dim, at, target, n_each, normal);
        out
    }
}
