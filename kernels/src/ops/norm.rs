//! Instance norm and instance norm++ of tensors, with the activation behind it in the same pass.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{AutodiffBackend, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use super::{is_for_kernels, made, some, tensor, whole};
use crate::cpu::Isa;
pub use crate::norm::Activation;
use crate::norm::{self, NormShape, Scales, Statistics};

/// act(γ·(x̂ + α·μ̂) + β), see [`norm::forward`]; without α, instance norm.
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`; `gamma`, `alpha`, `beta`: `[batch, channels]` → as `x`.
///
/// # Panics
/// If shapes do not fit together, or `x` is not [for the kernels](is_for_kernels).
pub fn instance_norm(
    x: Tensor<4>,
    gamma: Tensor<2>,
    alpha: Option<Tensor<2>>,
    beta: Tensor<2>,
    activation: Activation,
) -> Tensor<4> {
    assert!(is_for_kernels(&x), "found {:?}, expected f32", x.dtype());
    let alpha = alpha.unwrap_or_else(|| Tensor::empty([0, 1], &x.device()));
    let [gamma, alpha, beta] = [gamma, alpha, beta].map(Tensor::into_dispatch);
    let (out, _) = <Dispatch as NormOps>::instance_norm(x.into_dispatch(), gamma, alpha, beta, activation);
    Tensor::from_dispatch(out)
}

/// What a backend has for instance norms. An α without elements stands for none.
#[backend_extension(Flex, Autodiff)]
pub trait NormOps: Backend {
    /// The output, and the statistics `[2, batch, channels]` for the gradients.
    fn instance_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        alpha: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients for x, γ, α and β.
    fn instance_norm_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        alpha: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

fn shape_of(x: &FlexTensor) -> ([usize; 4], NormShape) {
    let [n, c, h, w] = x.layout().shape().dims();
    ([n, c, h, w], NormShape { n, c, pixels: h * w })
}

impl NormOps for Flex {
    fn instance_norm(
        x: FlexTensor,
        gamma: FlexTensor,
        alpha: FlexTensor,
        beta: FlexTensor,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor) {
        let [x, gamma, alpha, beta] = [x, gamma, alpha, beta].map(whole);
        let (dims, shape) = shape_of(&x);
        let scales = Scales { gamma: gamma.storage(), alpha: some(&alpha), beta: beta.storage() };
        let mut statistics = None;
        let out = made(dims, |out| {
            statistics = Some(norm::forward(Isa::chosen(), shape, x.storage(), scales, activation, out));
        });
        let Statistics { mut mu, r } = statistics.expect("set above");
        mu.extend(r);
        (out, tensor(mu, [2, shape.n, shape.c]))
    }

    fn instance_norm_backward(
        x: FlexTensor,
        grad: FlexTensor,
        gamma: FlexTensor,
        alpha: FlexTensor,
        beta: FlexTensor,
        statistics: FlexTensor,
        activation: Activation,
    ) -> (FlexTensor, FlexTensor, FlexTensor, FlexTensor) {
        let [x, grad, gamma, alpha, beta, statistics] = [x, grad, gamma, alpha, beta, statistics].map(whole);
        let (dims, shape) = shape_of(&x);
        let scales = Scales { gamma: gamma.storage(), alpha: some(&alpha), beta: beta.storage() };
        let (mu, r) = statistics.storage::<f32>().split_at(shape.n * shape.c);
        let statistics = Statistics { mu: mu.to_vec(), r: r.to_vec() };
        let mut gradient = None;
        let grad_x = made(dims, |out| {
            let (isa, x, grad) = (Isa::chosen(), x.storage(), grad.storage());
            gradient = Some(norm::backward(isa, shape, x, grad, scales, &statistics, activation, out));
        });
        let gradient = gradient.expect("set above");
        let by_channel = |values| tensor(values, [shape.n, shape.c]);
        let alpha = gradient.alpha.map_or_else(|| tensor(Vec::new(), [0, 1]), by_channel);
        (grad_x, by_channel(gradient.gamma), alpha, by_channel(gradient.beta))
    }
}

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn instance_norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        alpha: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct NormStep;
        impl<B: NormOps> Backward<B, 4> for NormStep {
            type State = ([FloatTensor<B>; 5], Activation);
            fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x, gamma, alpha, beta, statistics], activation) = ops.state;
                let (x, gamma, alpha, beta) =
                    B::instance_norm_backward(x, grad, gamma, alpha, beta, statistics, activation);
                for (node, grad) in ops.parents.into_iter().zip([x, gamma, alpha, beta]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }
        let nodes = [x.node(), gamma.node(), alpha.node(), beta.node()];
        let [x, gamma, alpha, beta] = [x, gamma, alpha, beta].map(|t| t.into_primitive());
        let (out, statistics) = B::instance_norm(x.clone(), gamma.clone(), alpha.clone(), beta.clone(), activation);
        let constant = Autodiff::<B, C>::from_inner(statistics.clone());
        let out = match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, gamma, alpha, beta, statistics], activation), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        (out, constant)
    }

    fn instance_norm_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("first-order gradients only")
    }
}
