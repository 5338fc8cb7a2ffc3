//! What a network is told beside its input.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use burn::module::{Module, ParamId};
use burn::tensor::{Bool, Int, Tensor};

use super::dropout::Masks;
use super::{Backbone, Buffer, Dual, params};
use crate::noise::Stream;

/// What a network is told beside its input.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What tells each example's time: the index of its noise level, for example. `[batch]`
    pub label: Tensor<1>,
    levels: OnceLock<Tensor<1, Int>>,
    record: Option<Record>,
    masks: Option<Masks>,
}

impl Condition {
    /// For evaluation.
    pub fn new(label: Tensor<1>) -> Self {
        Self { label, levels: OnceLock::new(), record: None, masks: None }
    }

    /// For a step of training, which takes down in `record` what it learns about the data.
    pub fn in_training(self, record: Record) -> Self {
        Self { record: Some(record), ..self }
    }

    /// With dropout, whose masks come from the streams of the images.
    pub(super) fn with_dropout(self, streams: Vec<Stream>) -> Self {
        Self { masks: Some(Masks::new(streams)), ..self }
    }

    /// The labels as indices of noise levels, `[batch]`.
    pub fn levels(&self) -> &Tensor<1, Int> {
        self.levels.get_or_init(|| self.label.clone().int())
    }

    /// Where a step of training takes down what it learns about the data; `None` in evaluation.
    pub(super) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Where dropout has its masks from; `None` where there is none.
    pub(super) fn masks(&self) -> Option<&Masks> {
        self.masks.as_ref()
    }
}

/// New values of [buffers](Buffer), which a step of training finds and which the network takes over only when the step is made.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<BTreeMap<ParamId, Tensor<1>>>>);

impl Record {
    /// Moves a buffer by what `f` makes of its value, or of the value that an earlier pass of the same step gave it.
    pub(super) fn update<const D: usize>(&self, buffer: &Buffer<D>, f: impl FnOnce(Tensor<D>) -> Tensor<D>) {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let value = buffer.val().without_autodiff();
        let shape = value.shape();
        let before = values.remove(&buffer.id()).map_or(value, |value| value.reshape(shape));
        values.insert(buffer.id(), f(before).reshape([-1]));
    }

    /// `net` with the new values; where `go` is given, only if it is true.
    pub fn apply<M: Module>(&self, net: M, go: Option<&Tensor<1, Bool>>) -> M {
        let mut values = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if values.is_empty() {
            return net;
        }
        let ids = params::buffer_ids(&net);
        params::map_buffers(net, |index, before| match (values.remove(&ids[index]), go) {
            (None, _) => before,
            (Some(new), None) => new,
            (Some(new), Some(go)) => {
                let go = go.clone().expand(before.dims());
                before.mask_where(go, new)
            }
        })
    }
}

/// A network in a step of training: batch norms take the statistics of the batch, and there is dropout.
#[derive(Debug)]
pub struct InTraining<'a, N> {
    /// The network.
    pub net: &'a N,
    /// What the step learns about the data.
    pub record: Record,
    /// The noise of dropout, a stream for each image of the batch. All passes of a step have the same masks.
    pub dropout: Vec<Stream>,
}

impl<const D: usize, N: Backbone<D>> Backbone<D> for InTraining<'_, N> {
    fn forward(&self, x: Dual<D>, given: &Condition) -> Dual<D> {
        let given = given.clone().in_training(self.record.clone()).with_dropout(self.dropout.clone());
        self.net.forward(x, &given)
    }
}
