//! Activations, sums and separable filters (average pools, interpolation) of tensors.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor};
use burn_flex::FlexTensor;

use super::again::{Waiting, again};
use super::{Order, by_pixels, composed, dense, dense_as, has_kernels, is_cpu, made_images, made_like};
pub use crate::activation::Activation;
use crate::cpu::Isa;
use crate::elementwise;
use crate::filter::{self, Filter};

/// The activation of each number.
pub fn activate<const D: usize>(x: Tensor<D>, activation: Activation) -> Tensor<D> {
    if !has_kernels(&x) || !activation.has_kernel_on(&x.device()) {
        return composed::activate(x, activation);
    }
    Tensor::from_dispatch(<Dispatch as PixelOps>::activate(x.into_dispatch(), activation))
}

impl Activation {
    /// Whether there is a kernel for it: GPUs have ELU's.
    pub(super) fn has_kernel_on(self, device: &Device) -> bool {
        matches!(self, Self::None | Self::Elu) || is_cpu(device)
    }
}

/// a + b of one shape, in place of one of them if nobody else holds it.
///
/// # Panics
/// If shapes differ.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(a.dims(), b.dims(), "shapes of summands");
    if !(has_kernels(&a) && has_kernels(&b)) {
        return a + b;
    }
    Tensor::from_dispatch(<Dispatch as PixelOps>::add(a.into_dispatch(), b.into_dispatch()))
}

/// The images with the channels of a pixel beside each other in memory: results come in the order of what they are made of, and in
/// this one kernels need not bring them into it.
///
/// # Shapes
/// `[batch, channels, h, w]`, unchanged.
pub fn channels_last(x: Tensor<4>) -> Tensor<4> {
    if !has_kernels(&x) {
        return x;
    }
    Tensor::from_dispatch(<Dispatch as PixelOps>::channels_last(x.into_dispatch()))
}

/// `x`, to be used twice: the gradients of both are added as by [`add`]. Whoever uses the second must use the first too.
pub fn twice<const D: usize>(x: Tensor<D>) -> [Tensor<D>; 2] {
    if !has_kernels(&x) {
        return [x.clone(), x];
    }
    let (first, second) = <Dispatch as PixelOps>::twice(x.into_dispatch());
    [first, second].map(Tensor::from_dispatch)
}

/// R·x·Cᵀ for each channel, see [`filter::apply`].
///
/// # Shapes
/// `[batch, channels, rows.n_in(), columns.n_in()]` → `[batch, channels, rows.n_out(), columns.n_out()]`
///
/// # Panics
/// If the filters are for another size.
pub fn separable(x: Tensor<4>, rows: Filter, columns: Filter) -> Tensor<4> {
    let [.., h, w] = x.dims();
    assert_eq!([h, w], [rows.n_in(), columns.n_in()], "an image and its filters");
    if !has_kernels(&x) {
        return composed::separable(x, &rows, &columns);
    }
    Tensor::from_dispatch(<Dispatch as FilterOps>::separable(x.into_dispatch(), rows, columns))
}

/// What a backend has for activations and sums.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait PixelOps: Backend {
    /// See [`activate`].
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self>;
    /// The gradient for the input, from what is [kept](Activation::keeps_input) and the gradient for the output.
    fn activate_backward(kept: FloatTensor<Self>, grad: FloatTensor<Self>, activation: Activation)
    -> FloatTensor<Self>;
    /// See [`add`].
    fn add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`channels_last`]. Where all kernels' results are so, nothing needs to be done.
    fn channels_last(x: FloatTensor<Self>) -> FloatTensor<Self> {
        x
    }
    /// See [`twice`].
    fn twice(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        (x.clone(), x)
    }
}

/// What a backend has for filters.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait FilterOps: Backend {
    /// See [`separable`].
    fn separable(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self>;
}

impl PixelOps for Flex {
    fn activate(x: FlexTensor, activation: Activation) -> FlexTensor {
        let x = dense(x);
        made_like(&x, |out| elementwise::activate(Isa::chosen(), activation, x.storage(), out))
    }

    fn activate_backward(kept: FlexTensor, grad: FlexTensor, activation: Activation) -> FlexTensor {
        let kept = dense(kept);
        let grad = dense_as(grad, &kept);
        made_like(&kept, |out| {
            elementwise::activate_backward(Isa::chosen(), activation, kept.storage(), grad.storage(), out);
        })
    }

    fn add(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let mut a = dense(a);
        let mut b = dense_as(b, &a);
        if b.is_unique() && !a.is_unique() {
            std::mem::swap(&mut a, &mut b);
        }
        if !a.is_unique() {
            return made_like(&a, |out| elementwise::add(Isa::chosen(), a.storage(), b.storage(), out));
        }
        elementwise::add_to(Isa::chosen(), a.storage_mut(), b.storage());
        a
    }

    fn channels_last(x: FlexTensor) -> FlexTensor {
        by_pixels(x)
    }
}

impl FilterOps for Flex {
    fn separable(x: FlexTensor, rows: Filter, columns: Filter) -> FlexTensor {
        let (order, x) = (Order::of(&x), by_pixels(x));
        let [n, c, ..] = x.shape().dims::<4>();
        made_images(order, [n, c, rows.n_out(), columns.n_out()], |out| {
            filter::apply(Isa::chosen(), x.storage(), [n, c], &rows, &columns, out);
        })
    }
}

impl<B: PixelOps, C: CheckpointStrategy> PixelOps for Autodiff<B, C> {
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ActivationStep;
        impl<B: PixelOps> Backward<B, 1> for ActivationStep {
            type State = (FloatTensor<B>, Activation);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let (kept, activation) = ops.state;
                    grads.register::<B>(node.id, B::activate_backward(kept, grad, activation));
                }
            }
        }
        let prep = ActivationStep.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let input = activation.keeps_input().then(|| x.clone());
        let out = B::activate(x, activation);
        match prep {
            // If it can be, the output: the next convolution keeps it anyway.
            OpsKind::Tracked(prep) => prep.finish((input.unwrap_or_else(|| out.clone()), activation), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn activate_backward(_: FloatTensor<Self>, _: FloatTensor<Self>, _: Activation) -> FloatTensor<Self> {
        unreachable!("first-order gradients only")
    }

    fn add(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct AddStep;
        impl<B: PixelOps> Backward<B, 2> for AddStep {
            type State = ();
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                for node in ops.parents.into_iter().flatten() {
                    grads.register::<B>(node.id, grad.clone());
                }
            }
        }
        let prep = AddStep.prepare::<C>([a.node(), b.node()]).compute_bound().stateful();
        let out = B::add(a.into_primitive(), b.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => prep.finish((), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn twice(x: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct FirstStep;
        impl<B: PixelOps> Backward<B, 1> for FirstStep {
            type State = Waiting<B>;
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    let grad = match ops.state.take() {
                        Some(other) => B::add(grad, other),
                        None => grad,
                    };
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        let prep = FirstStep.prepare::<C>([x.node()]).compute_bound().stateful();
        let (x, waiting) = (x.into_primitive(), Waiting::<B>::new());
        let first = match prep {
            OpsKind::Tracked(prep) => prep.finish(waiting.clone(), x.clone()),
            OpsKind::UnTracked(prep) => prep.finish(x.clone()),
        };
        let second = again::<B, C>(x, &first, waiting);
        (first, second)
    }

    fn channels_last(x: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct OrderStep;
        impl<B: PixelOps> Backward<B, 1> for OrderStep {
            type State = ();
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        let prep = OrderStep.prepare::<C>([x.node()]).compute_bound().stateful();
        let out = B::channels_last(x.into_primitive());
        match prep {
            OpsKind::Tracked(prep) => prep.finish((), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

impl<B: FilterOps, C: CheckpointStrategy> FilterOps for Autodiff<B, C> {
    fn separable(x: FloatTensor<Self>, rows: Filter, columns: Filter) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SeparableStep;
        impl<B: FilterOps> Backward<B, 1> for SeparableStep {
            type State = [Filter; 2];
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let [rows, columns] = ops.state;
                if let [Some(node)] = ops.parents {
                    grads.register::<B>(node.id, B::separable(grad, rows.transposed(), columns.transposed()));
                }
            }
        }
        match SeparableStep.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let out = B::separable(x.into_primitive(), rows.clone(), columns.clone());
                prep.finish([rows, columns], out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::separable(x.into_primitive(), rows, columns)),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_sum_is_made_in_place_unless_somebody_else_holds_both_summands() {
        let device = Device::flex();
        let new = |x: f32| Tensor::<1>::from_floats([x; 100], &device);
        let first = |x: Tensor<1>| x.try_into_vec_as::<f32>().expect("f32")[0];
        let (a, b) = (new(1.0), new(2.0));
        assert_eq!(first(add(a.clone(), b.clone())), 3.0);
        assert_eq!(first(add(a.clone(), new(4.0))), 5.0);
        assert_eq!(first(add(new(8.0), b.clone())), 10.0);
        assert_eq!(first(add(a.clone(), a.clone())), 2.0);
        assert_eq!([a, b].map(first), [1.0, 2.0]);
    }

    #[test]
    fn the_gradients_of_a_tensor_that_is_used_twice_are_added() {
        let device = Device::flex().autodiff();
        let gradient = |use_second: bool| {
            let x = Tensor::<1>::from_floats([3.0; 5], &device).require_grad();
            let [first, second] = twice(x.clone());
            let loss = if use_second { first.square() + second * 10.0 } else { first.square() };
            x.grad(&loss.sum().backward()).expect("a gradient").try_into_vec_as::<f32>().expect("f32")
        };
        assert_eq!(gradient(true), [16.0; 5]);
        assert_eq!(gradient(false), [6.0; 5]);
    }

    #[test]
    fn the_gradient_of_a_sum_goes_to_both_summands() {
        let device = Device::flex().autodiff();
        let [a, b] = [3.0, 4.0].map(|x| Tensor::<1>::from_floats([x; 3], &device).require_grad());
        let gradients = add(a.clone(), add(a.clone(), b.clone())).square().sum().backward();
        let of = |x: &Tensor<1>| x.grad(&gradients).expect("a gradient").try_into_vec_as::<f32>().expect("f32");
        assert_eq!((of(&a), of(&b)), (vec![40.0; 3], vec![20.0; 3]));
    }
}
