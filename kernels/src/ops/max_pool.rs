//! Maxima over 3×3 pixels of tensors.

use burn::backend::autodiff::{Autodiff, checkpoint::strategy::CheckpointStrategy};
use burn::backend::ops::ModuleOps;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn_flex::FlexTensor;

use super::{Order, by_pixels, has_kernels, made_images};
use crate::cpu::Isa;
use crate::max_pool::{self, Windows};

/// The largest pixel of each window of 3×3.
///
/// # Shapes
/// `[batch, channels, h, w]` → `[batch, channels, h′, w′]`, see [`Windows::count`].
///
/// # Panics
/// If no window fits into the image.
pub fn max_pool_3x3(x: Tensor<4>, windows: Windows) -> Tensor<4> {
    if !has_kernels(&x) {
        let options = MaxPoolOptions::new([3, 3]);
        return max_pool2d(x, options.with_stride([windows.stride; 2]).with_padding([windows.padding; 2]));
    }
    Tensor::from_dispatch(<Dispatch as MaxPoolOps>::max_pool_3x3(x.into_dispatch(), windows))
}

/// What a backend has for maxima.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait MaxPoolOps: Backend {
    /// See [`max_pool_3x3`].
    fn max_pool_3x3(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;
}

impl MaxPoolOps for Flex {
    fn max_pool_3x3(x: FlexTensor, windows: Windows) -> FlexTensor {
        let (order, x) = (Order::of(&x), by_pixels(x));
        let [n, c, h, w] = x.shape().dims::<4>();
        made_images(order, [n, c, windows.count(h), windows.count(w)], |out| {
            max_pool::forward(Isa::chosen(), x.storage(), [n, c], [h, w], windows, out);
        })
    }
}

#[cfg(feature = "gpu")]
impl MaxPoolOps for burn_cubecl::CubeBackend {
    fn max_pool_3x3(x: FloatTensor<Self>, Windows { stride, padding }: Windows) -> FloatTensor<Self> {
        Self::max_pool2d(x, [3, 3], [stride; 2], [padding; 2], [1, 1], false)
    }
}

/// Burn's own, which has a gradient: nothing here that is trained needs it fast.
impl<B: Backend, C: CheckpointStrategy> MaxPoolOps for Autodiff<B, C> {
    fn max_pool_3x3(x: FloatTensor<Self>, Windows { stride, padding }: Windows) -> FloatTensor<Self> {
        Self::max_pool2d(x, [3, 3], [stride; 2], [padding; 2], [1, 1], false)
    }
}
