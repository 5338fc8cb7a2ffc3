//! Tensors that are used twice: the gradients of both uses are added in a pass of the kernels, where Burn would add them on one
//! thread and in another order of memory.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, tensor::FloatTensor};

/// Where the gradient of the second use waits for that of the first.
#[derive(Clone, Debug)]
pub(super) struct Waiting<B: Backend>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Backend> Waiting<B> {
    /// For a tensor that is used twice.
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// The gradient of the second use, if there is one.
    pub(super) fn take(&self) -> Option<FloatTensor<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// `x` for its second use, whose gradient goes to `waiting`. It comes from `first`, what the first use is made of, so that its gradient
/// is there before that of the first is asked for.
pub(super) fn again<B: Backend, C: CheckpointStrategy>(
    x: FloatTensor<B>,
    first: &FloatTensor<Autodiff<B, C>>,
    waiting: Waiting<B>,
) -> FloatTensor<Autodiff<B, C>> {
    #[derive(Debug)]
    struct AgainStep;
    impl<B: Backend> Backward<B, 1> for AgainStep {
        type State = Waiting<B>;
        fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
            let grad = grads.consume::<B>(&ops.node);
            *ops.state.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(grad);
        }
    }
    match AgainStep.prepare::<C>([first.node()]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(waiting, x),
        OpsKind::UnTracked(prep) => prep.finish(x),
    }
}
