//! Attention between the pixels of images, on the processor without the weights of all pairs in memory.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{AutodiffBackend, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::{Order, by_pixels, composed, has_kernels, is_cpu, made, made_images, whole};
use crate::attention::{AttentionShape, backward, forward};
use crate::cpu::Isa;

/// softmax(q·kᵀ/√width)·v between the pixels of each image, for each of `heads` heads of `width` channels beside each other.
///
/// # Shapes
/// All `[batch, heads·width, h, w]`.
///
/// # Panics
/// If shapes differ, or the heads do not divide the channels.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, heads: usize) -> Tensor<4> {
    let dims @ [_, c, ..] = q.dims();
    assert_eq!([k.dims(), v.dims()], [dims; 2], "keys and values for these queries");
    assert!(heads > 0 && c.is_multiple_of(heads), "{heads} heads of {c} channels");
    if !has_kernels(&q) || !is_cpu(&q.device()) || dims.contains(&0) {
        return composed::attention(q, k, v, heads);
    }
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    let (out, _) = <Dispatch as AttentionOps>::attend(q, k, v, heads);
    Tensor::from_dispatch(out)
}

/// What a backend has for attention.
#[backend_extension(Flex, Autodiff)]
pub trait AttentionOps: Backend {
    /// The output, and what the gradients need of the weights.
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients of queries, keys and values.
    fn attend_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        logs: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn shape_of([n, c, h, w]: [usize; 4], heads: usize) -> AttentionShape {
    let width = c / heads;
    AttentionShape { n, pixels: h * w, heads, width, scale: (width as f32).sqrt().recip() }
}

impl AttentionOps for Flex {
    fn attend(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize) -> (FlexTensor, FlexTensor) {
        let order = Order::of(&q);
        let [q, k, v] = [q, k, v].map(by_pixels);
        let dims: [usize; 4] = q.layout().shape().dims();
        let shape = shape_of(dims, heads);
        let mut out = None;
        let logs = made([shape.n, shape.pixels, heads], |logs| {
            let operands = [q.storage(), k.storage(), v.storage()];
            out = Some(made_images(order, dims, |out| forward(Isa::chosen(), &shape, operands, logs, out)));
        });
        (out.expect("set above"), logs)
    }

    fn attend_backward(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        grad: FlexTensor,
        logs: FlexTensor,
        heads: usize,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let order = Order::of(&q);
        let ([q, k, v, grad], logs) = ([q, k, v, grad].map(by_pixels), whole(logs));
        let dims = q.layout().shape().dims();
        let operands = [q.storage(), k.storage(), v.storage()];
        let (mut of_k, mut of_v) = (None, None);
        let of_q = made_images(order, dims, |of_q| {
            of_k = Some(made_images(order, dims, |of_k| {
                of_v = Some(made_images(order, dims, |of_v| {
                    let (shape, grads) = (shape_of(dims, heads), [of_q, of_k, of_v]);
                    backward(Isa::chosen(), &shape, operands, grad.storage(), logs.storage(), grads);
                }));
            }));
        });
        (of_q, of_k.expect("set above"), of_v.expect("set above"))
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct AttentionStep;
        impl<B: AttentionOps> Backward<B, 3> for AttentionStep {
            type State = ([FloatTensor<B>; 4], usize);
            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([q, k, v, logs], heads) = ops.state;
                let (q, k, v) = B::attend_backward(q, k, v, grad, logs, heads);
                for (node, grad) in ops.parents.into_iter().zip([q, k, v]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }
        let nodes = [q.node(), k.node(), v.node()];
        let [q, k, v] = [q, k, v].map(|x| x.into_primitive());
        let (out, logs) = B::attend(q.clone(), k.clone(), v.clone(), heads);
        let constant = Autodiff::<B, C>::from_inner(logs.clone());
        let out = match AttentionStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([q, k, v, logs], heads), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, constant)
    }

    fn attend_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("first-order gradients only")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.cast(DType::F32).try_into_vec_as().expect("f32")
    }

    #[test]
    fn output_and_gradients_are_those_of_burns_operations_in_f64_in_either_order() {
        let device = Device::flex().autodiff();
        for (dims, heads) in [([2, 6, 3, 5], 1), ([1, 8, 4, 4], 2), ([3, 3, 1, 1], 3)] {
            let numbers = |factor: usize, dtype: DType| -> Tensor<4> {
                let n = dims.iter().product();
                let values: Vec<f32> = (0..n).map(|i| (i * factor % 101) as f32 / 50.0 - 1.0).collect();
                Tensor::from_data(TensorData::new(values, dims), (&device, dtype))
            };
            let results = |dtype: DType, by_pixels: bool| {
                let inputs = [37, 53, 71].map(|factor| numbers(factor, dtype).require_grad());
                let [q, k, v] = inputs.clone().map(|x| match by_pixels {
                    true => x
                        .permute([0, 2, 3, 1])
                        .reshape([0, -1])
                        .reshape([dims[0], dims[2], dims[3], dims[1]])
                        .permute([0, 3, 1, 2]),
                    false => x,
                });
                let out = attention(q, k, v, heads);
                let gradients = (out.clone() * numbers(29, dtype)).sum().backward();
                let of = |x: &Tensor<4>| values(x.grad(&gradients).expect("a gradient"));
                [vec![values(out.inner())], inputs.iter().map(of).collect()].concat()
            };
            let expected = results(DType::F64, false);
            for by_pixels in [false, true] {
                for (found, expected) in results(DType::F32, by_pixels).iter().flatten().zip(expected.iter().flatten())
                {
                    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
                }
            }
        }
    }
}
