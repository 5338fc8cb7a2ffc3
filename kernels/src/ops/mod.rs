//! The kernels as operations on Burn tensors, with their gradients.

mod composed;
pub mod conv;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod max_pool;
pub mod norm;
pub mod optimizer;
pub mod pixels;
mod pool;
pub mod random;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use burn_flex::{FlexTensor, Layout};

/// Whether the kernels can take `x`: f32 on the processor or a GPU. Everything here but instance norms and optimisers is made of
/// other operations for anything else.
pub fn has_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && (cfg!(feature = "gpu") || is_cpu(&x.device()))
}

/// Whether a device is the processor.
pub fn is_cpu(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns, reason = "what else there is depends on Burn's features")]
        _ => false,
    }
}

/// The tensor with its numbers in order and no others beside them.
fn whole(x: FlexTensor) -> FlexTensor {
    // By reference, then the original goes: if it is whole already, the result holds the same storage alone.
    x.to_contiguous()
}

/// The numbers of a tensor that may have been left out.
fn some(x: &FlexTensor) -> Option<&[f32]> {
    Some(x.storage()).filter(|values| !values.is_empty())
}

/// A tensor of `values`.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// A tensor whose numbers `fill` writes, all of them.
fn made(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    let shape = shape.into();
    let bytes = pool::filled(shape.num_elements(), fill);
    FlexTensor::new(bytes, Layout::contiguous(shape), DType::F32)
}
