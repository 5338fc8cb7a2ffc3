//! The kernels as operations on Burn tensors, with their gradients.

mod again;
pub mod attention;
pub mod batch_norm;
pub mod channels;
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

use burn::backend::{DispatchDevice, TensorMetadata};
use burn::tensor::{DType, Device, Shape, Tensor, TensorData};
use burn_flex::{FlexTensor, Layout};

use crate::cpu::Isa;
use crate::order::exchange;
use crate::size;

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
    if x.is_contiguous() && is_alone(&x) { x } else { x.to_contiguous() }
}

/// Whether there are no other numbers beside those of the tensor, whose axes follow each other in some order.
fn is_alone(x: &FlexTensor) -> bool {
    x.layout().start_offset() == 0 && x.bytes().len() == x.layout().num_elements() * x.dtype().size()
}

/// In which order the numbers of images `[n, c, h, w]` lie in memory. Kernels take and give them by pixels. Burn's operations give
/// them by channels, most of them whatever they took, so that each result comes in the order of what it is made of: networks of
/// kernels stay in their order, and others in Burn's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Channels last: `[n, h, w, c]`.
    Pixels,
    /// Channels first: `[n, c, h, w]`.
    Channels,
}

/// The axes of `[n, c, h, w]` in the order `[n, h, w, c]`, and those of that in the first order.
const TO_PIXELS: [usize; 4] = [0, 2, 3, 1];
const FROM_PIXELS: [usize; 4] = [0, 3, 1, 2];

impl Order {
    /// Asked often, so nothing is allocated for it, as it would be for another view.
    fn of(x: &FlexTensor) -> Self {
        let (shape, strides) = (x.layout().shape(), x.layout().strides());
        let mut expected = 1;
        let follow = TO_PIXELS.iter().rev().all(|&axis| {
            let follows = shape[axis] == 1 || strides[axis] == expected;
            expected *= shape[axis] as isize;
            follows
        });
        if follow || x.layout().num_elements() == 0 { Self::Pixels } else { Self::Channels }
    }
}

/// Of images `[n, c, h, w]` by pixels, with no other numbers beside them.
fn layout_by_pixels([n, c, h, w]: [usize; 4]) -> Layout {
    let strides = [h * w * c, 1, w * c, c].map(|stride| stride as isize);
    Layout::new(Shape::new([n, c, h, w]), strides.to_vec(), 0)
}

/// The images by pixels, with no other numbers beside them.
fn by_pixels(x: FlexTensor) -> FlexTensor {
    if Order::of(&x) == Order::Pixels {
        return if is_alone(&x) { x } else { x.permute(&TO_PIXELS).to_contiguous().permute(&FROM_PIXELS) };
    }
    let ([n, c, h, w], x) = (x.shape().dims(), whole(x));
    made_images(Order::Pixels, [n, c, h, w], |out| exchange(Isa::chosen(), x.storage(), [n, c, h * w], out))
}

/// The images in an order, with no other numbers beside them.
fn in_order(x: FlexTensor, order: Order) -> FlexTensor {
    match order {
        Order::Pixels => by_pixels(x),
        // Of one channel the two are one.
        Order::Channels if x.is_contiguous() || Order::of(&x) == Order::Channels => whole(x),
        Order::Channels => by_channels(by_pixels(x)),
    }
}

/// From images [`by_pixels`].
fn by_channels(x: FlexTensor) -> FlexTensor {
    let [n, c, h, w] = x.shape().dims();
    made([n, c, h, w], |out| exchange(Isa::chosen(), x.storage(), [n, h * w, c], out))
}

/// The tensor with its numbers in some order and no others beside them: images as they come.
fn dense(x: FlexTensor) -> FlexTensor {
    match x.layout().num_dims() {
        4 if Order::of(&x) == Order::Pixels => by_pixels(x),
        _ => whole(x),
    }
}

/// The tensor with its numbers in the order of `other`, which is of the same shape and [`dense`].
fn dense_as(x: FlexTensor, other: &FlexTensor) -> FlexTensor {
    match x.layout().num_dims() {
        4 => in_order(x, if other.is_contiguous() { Order::Channels } else { Order::Pixels }),
        _ => whole(x),
    }
}

/// The numbers of a tensor that may have been left out.
fn some(x: &FlexTensor) -> Option<&[f32]> {
    Some(x.storage()).filter(|values| !values.is_empty())
}

/// A tensor of `values`.
fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape.into()))
}

/// Images `[n, c, h, w]` whose numbers `fill` writes by pixels, all of them.
fn made_images(order: Order, size: [usize; 4], fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    size::numbers("images", size);
    let images = made_as(layout_by_pixels(size), fill);
    if order == Order::Channels { by_channels(images) } else { images }
}

/// A tensor of the shape of `other` and with its numbers in the same order, of which `fill` writes all.
fn made_like(other: &FlexTensor, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    made_as(other.layout().clone(), fill)
}

/// A tensor whose numbers `fill` writes, all of them.
fn made<const D: usize>(shape: [usize; D], fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    size::numbers("a tensor", shape);
    made_as(Layout::contiguous(shape.into()), fill)
}

/// A tensor of which `fill` writes all numbers in their order in memory. There are no others beside them.
fn made_as(layout: Layout, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
    FlexTensor::new(pool::filled(layout.num_elements(), fill), layout, DType::F32)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn images_of_any_view_come_in_the_order_that_is_asked_for_with_no_other_numbers_beside_them() {
        let numbers = |shape: [usize; 4]| {
            let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
            tensor(values, shape)
        };
        for size in [[3, 4, 5, 2], [3, 1, 5, 2], [3, 4, 1, 1], [1, 4, 2, 3], [3, 1, 1, 1], [0, 4, 5, 2]] {
            let [n, c, h, w] = size;
            let odd = |stride| Layout::new(Shape::new([1, c, h, w]), vec![stride, (h * w) as isize, w as isize, 1], 0);
            let mut views = vec![
                ("by channels", numbers(size)),
                ("by pixels", numbers([n, h, w, c]).permute(&FROM_PIXELS)),
                ("some images", numbers([n + 2, c, h, w]).narrow(0, 1, n)),
                ("the first images by pixels", numbers([n + 2, h, w, c]).narrow(0, 0, n).permute(&FROM_PIXELS)),
                ("the last images by pixels", numbers([n + 2, h, w, c]).narrow(0, 2, n).permute(&FROM_PIXELS)),
                ("some channels", numbers([n, c + 3, h, w]).narrow(1, 2, c)),
                ("some channels by pixels", numbers([n, h, w, c + 3]).narrow(3, 2, c).permute(&FROM_PIXELS)),
            ];
            if n == 1 {
                views.push(("one image that is repeated", numbers(size).with_layout(odd(0))));
                views.push(("one image, backwards", numbers(size).with_layout(odd(-1))));
            }
            for (what, view) in views {
                let expected: Vec<f32> = view.to_contiguous().storage().to_vec();
                let by_burn = view.permute(&TO_PIXELS).is_contiguous();
                assert!(Order::of(&view) == Order::Pixels || !by_burn, "{what}, {size:?}");
                for order in [Order::Pixels, Order::Channels] {
                    let found = in_order(view.clone(), order);
                    let what = format!("{what}, {size:?} {order:?}");
                    assert_eq!(found.shape(), view.shape(), "{what}");
                    let in_memory = match order {
                        Order::Pixels => view.permute(&TO_PIXELS).to_contiguous(),
                        Order::Channels => view.to_contiguous(),
                    };
                    assert_eq!(found.storage::<f32>(), in_memory.storage::<f32>(), "{what}");
                    let values = Tensor::<4>::from_primitive::<Flex>(found).try_into_vec_as::<f32>().expect("f32");
                    assert_eq!(values, expected, "{what}");
                }
            }
        }
    }
}
