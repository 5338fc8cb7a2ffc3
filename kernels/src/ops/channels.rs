//! Images joined, shifted by channel, scaled, and dropped in part, on the processor in passes of the kernels.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::random::{Distribution, draw};
use super::{Order, by_pixels, has_kernels, in_order, is_cpu, made, made_images, whole};
use crate::channels_last as kernels;
use crate::cpu::Isa;
use crate::random::Position;

fn on_cpu(x: &Tensor<4>) -> bool {
    has_kernels(x) && is_cpu(&x.device())
}

/// The channels of `a`, and behind them those of `b`.
///
/// # Shapes
/// `a`: `[batch, ca, h, w]`; `b`: `[batch, cb, h, w]` → `[batch, ca + cb, h, w]`
///
/// # Panics
/// If the other sizes differ.
pub fn join(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let ([n, ca, h, w], [m, cb, g, v]) = (a.dims(), b.dims());
    assert_eq!([n, h, w], [m, g, v], "images that are joined");
    if !on_cpu(&a) || ca == 0 || cb == 0 {
        return Tensor::cat(vec![a, b], 1);
    }
    Tensor::from_dispatch(<Dispatch as ChannelOps>::join(a.into_dispatch(), b.into_dispatch()))
}

/// `x` plus a number for each channel of each image.
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`; `by`: `[batch, channels]`; result as `x`.
///
/// # Panics
/// If shapes do not fit together.
pub fn shift(x: Tensor<4>, by: Tensor<2>) -> Tensor<4> {
    let [n, c, ..] = x.dims();
    assert_eq!(by.dims(), [n, c], "shifts of {n} images");
    if !on_cpu(&x) || n * c == 0 {
        return x + by.reshape([n, c, 1, 1]);
    }
    Tensor::from_dispatch(<Dispatch as ChannelOps>::shift(x.into_dispatch(), by.into_dispatch()))
}

/// `factor`·x
///
/// # Shapes
/// `[batch, channels, h, w]`, unchanged.
pub fn scale(x: Tensor<4>, factor: f64) -> Tensor<4> {
    if !on_cpu(&x) {
        return x * factor;
    }
    Tensor::from_dispatch(<Dispatch as ChannelOps>::scale(x.into_dispatch(), factor as f32))
}

/// Zeros in the place of each number with probability `rate`, the others divided by 1 − `rate`. An image has its random numbers from
/// its own position, by pixels; of more images than positions, as many after each other have the same.
///
/// # Shapes
/// `[batch, channels, h, w]`, unchanged.
///
/// # Panics
/// If the batch is no multiple of the positions.
pub fn dropout(x: Tensor<4>, at: Vec<Position>, rate: f64) -> Tensor<4> {
    let ([n, c, h, w], n_own) = (x.dims(), at.len());
    assert!(n_own > 0 && n.is_multiple_of(n_own), "random numbers of {n_own} images for {n}");
    if on_cpu(&x) {
        let at = (0..n / n_own).flat_map(|_| at.iter().copied()).collect();
        return Tensor::from_dispatch(<Dispatch as ChannelOps>::dropout(x.into_dispatch(), at, rate as f32));
    }
    let device = x.device();
    let uniform = draw(Distribution::Uniform, &at, h * w * c, &device.clone().without_autodiff());
    let uniform = if device.is_autodiff() { Tensor::from_inner(uniform) } else { uniform };
    let kept = uniform.reshape([n_own, h, w, c]).permute([0, 3, 1, 2]).greater_equal_elem(rate as f32);
    let mask = kept.float().cast(x.dtype()) * (1.0 - rate).recip();
    x * mask.repeat_dim(0, n / n_own)
}

/// What a backend has for channels of images.
#[backend_extension(Flex, Autodiff)]
pub trait ChannelOps: Backend {
    /// See [`join`].
    fn join(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The parts of what was joined, the first of so many channels.
    fn split(x: FloatTensor<Self>, ca: usize) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// See [`shift`].
    fn shift(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Sums over the pixels.
    fn sum_pixels(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`scale`].
    fn scale(x: FloatTensor<Self>, factor: f32) -> FloatTensor<Self>;
    /// See [`dropout`].
    fn dropout(x: FloatTensor<Self>, at: Vec<Position>, rate: f32) -> FloatTensor<Self>;
}

/// Images by pixels that nobody else holds, changed by `f`, in the order that they came in.
fn changed(x: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
    let (order, mut x) = (Order::of(&x), by_pixels(x));
    if x.is_unique() {
        f(x.storage_mut());
        return in_order(x, order);
    }
    let dims = x.shape().dims();
    made_images(order, dims, |out| {
        out.copy_from_slice(x.storage());
        f(out);
    })
}

impl ChannelOps for Flex {
    fn join(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let order = Order::of(&a);
        let [a, b] = [a, b].map(by_pixels);
        let ([n, ca, h, w], [_, cb, ..]) = (a.shape().dims::<4>(), b.shape().dims::<4>());
        made_images(order, [n, ca + cb, h, w], |out| kernels::join(a.storage(), b.storage(), [ca, cb], out))
    }

    fn split(x: FlexTensor, ca: usize) -> (FlexTensor, FlexTensor) {
        let (order, x) = (Order::of(&x), by_pixels(x));
        let [n, c, h, w] = x.shape().dims::<4>();
        let mut first = None;
        let second = made_images(order, [n, c - ca, h, w], |b| {
            first = Some(made_images(order, [n, ca, h, w], |a| kernels::split(x.storage(), [ca, c - ca], a, b)));
        });
        (first.expect("set above"), second)
    }

    fn shift(x: FlexTensor, by: FlexTensor) -> FlexTensor {
        let ([n, c, ..], by) = (x.shape().dims::<4>(), whole(by));
        changed(x, |x| kernels::shift(x, by.storage(), [n, c]))
    }

    fn sum_pixels(x: FlexTensor) -> FlexTensor {
        let x = by_pixels(x);
        let [n, c, ..] = x.shape().dims::<4>();
        made([n, c], |sums| kernels::sum_pixels(Isa::chosen(), x.storage(), sums, [n, c]))
    }

    fn scale(x: FlexTensor, factor: f32) -> FlexTensor {
        changed(x, |x| kernels::scale(x, factor))
    }

    fn dropout(x: FlexTensor, at: Vec<Position>, rate: f32) -> FlexTensor {
        let (order, x) = (Order::of(&x), by_pixels(x));
        made_images(order, x.shape().dims(), |out| kernels::dropout(Isa::chosen(), x.storage(), &at, rate, out))
    }
}

/// The step backwards of an operation on one tensor: its name, what it keeps, and the gradient.
macro_rules! step {
    ($step:ident($x:ident, $kept:ty), |$grad:ident, $state:ident| $backward:expr) => {{
        #[derive(Debug)]
        struct $step;
        impl<B: ChannelOps> Backward<B, 1> for $step {
            type State = $kept;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let $grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let $state = ops.state;
                    grads.register::<B>(node.id, $backward);
                }
            }
        }
        $step.prepare::<C>([$x.node()]).compute_bound().stateful()
    }};
}

impl<B: ChannelOps, C: CheckpointStrategy> ChannelOps for Autodiff<B, C> {
    fn join(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct JoinStep;
        impl<B: ChannelOps> Backward<B, 2> for JoinStep {
            type State = usize;
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let (a, b) = B::split(grad, ops.state);
                for (node, grad) in ops.parents.into_iter().zip([a, b]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }
        let prep = JoinStep.prepare::<C>([a.node(), b.node()]).compute_bound().stateful();
        let (a, b) = (a.into_primitive(), b.into_primitive());
        let ca = a.shape()[1];
        let out = B::join(a, b);
        match prep {
            OpsKind::Tracked(prep) => prep.finish(ca, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn shift(x: FloatTensor<Self>, by: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ShiftStep;
        impl<B: ChannelOps> Backward<B, 2> for ShiftStep {
            type State = ();
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [x, by] = ops.parents;
                if let Some(by) = by {
                    grads.register::<B>(by.id, B::sum_pixels(grad.clone()));
                }
                if let Some(x) = x {
                    grads.register::<B>(x.id, grad);
                }
            }
        }
        let prep = ShiftStep.prepare::<C>([x.node(), by.node()]).compute_bound().stateful();
        let out = B::shift(x.into_primitive(), by.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => prep.finish((), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn scale(x: FloatTensor<Self>, factor: f32) -> FloatTensor<Self> {
        let prep = step!(ScaleStep(x, f32), |grad, factor| B::scale(grad, factor));
        let out = B::scale(x.into_primitive(), factor);
        match prep {
            OpsKind::Tracked(prep) => prep.finish(factor, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn dropout(x: FloatTensor<Self>, at: Vec<Position>, rate: f32) -> FloatTensor<Self> {
        // The mask is drawn again on the way back.
        let prep = step!(DropoutStep(x, (Vec<Position>, f32)), |grad, kept| B::dropout(grad, kept.0, kept.1));
        let out = B::dropout(x.into_primitive(), at.clone(), rate);
        match prep {
            OpsKind::Tracked(prep) => prep.finish((at, rate), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn split(_: FloatTensor<Self>, _: usize) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("first-order gradients only")
    }

    fn sum_pixels(_: FloatTensor<Self>) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    fn numbers(shape: [usize; 4], seed: usize, device: &Device) -> Tensor<4> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 37 + seed * 11) % 101) as f32 / 50.0 - 1.0).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The same images, channels last in memory.
    fn channels_last(x: Tensor<4>) -> Tensor<4> {
        super::super::pixels::channels_last(x)
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f64> {
        x.cast(DType::F64).try_into_vec_as::<f64>().expect("f64")
    }

    /// Output and gradients of all inputs by the kernels, in both orders of memory, and by Burn in f64.
    fn agree(f: impl Fn(Tensor<4>, Tensor<4>, Tensor<2>) -> Tensor<4>) {
        let device = Device::flex().autodiff();
        let [n, ca, cb, h, w] = [3, 5, 4, 6, 7];
        let run = |dtype: DType, last: bool| {
            let place = |x: Tensor<4>| if last { channels_last(x) } else { x };
            let leaf = |c, seed| place(numbers([n, c, h, w], seed, &device)).cast(dtype).require_grad();
            let (a, b) = (leaf(ca, 1), leaf(cb, 2));
            let by = numbers([n, ca, 1, 1], 3, &device).cast(dtype).reshape([n, ca]).require_grad();
            let out = f(a.clone(), b.clone(), by.clone());
            let weights = numbers(out.dims(), 4, &device).cast(dtype);
            let grads = (out.clone() * weights).sum().backward();
            let of = |gradient: Option<Vec<f64>>| gradient.unwrap_or_default();
            let [a, b] = [a, b].map(|x| of(x.grad(&grads).map(values)));
            [values(out.inner()), a, b, of(by.grad(&grads).map(values))]
        };
        let expected = run(DType::F64, false);
        for last in [false, true] {
            for (found, expected) in run(DType::F32, last).into_iter().zip(&expected) {
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.into_iter().zip(expected) {
                    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn operations_are_burns_with_their_gradients() {
        let at: Vec<Position> = (0..3).map(|index| Position { key: [1, 2], index, block: 3 }).collect();
        agree(|a, b, _| join(a, b));
        agree(|a, _, by| shift(a, by));
        agree(|a, _, _| scale(a, 0.3));
        agree(|a, _, _| dropout(a, at.clone(), 0.4));
        agree(|a, b, by| scale(join(shift(a, by), dropout(b, at.clone(), 0.1)), -2.0));
    }

    #[test]
    fn an_input_that_is_held_elsewhere_stays() {
        let device = Device::flex();
        let x = channels_last(numbers([2, 3, 4, 5], 1, &device));
        let before = values(x.clone());
        scale(x.clone(), 3.0);
        shift(x.clone(), Tensor::ones([2, 3], &device));
        assert_eq!(values(x), before);
    }

    #[test]
    fn rows_beyond_the_positions_have_the_same_masks() {
        let device = Device::flex();
        let at: Vec<Position> = (0..2).map(|index| Position { key: [1, 2], index, block: 0 }).collect();
        let found = values(dropout(Tensor::ones([4, 3, 5, 5], &device), at, 0.5));
        assert_eq!(found[..150], found[150..]);
        assert_ne!(found[..75], found[75..150]);
    }
}
