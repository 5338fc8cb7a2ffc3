//! Pixels that are known while the others are drawn: inpainting.

use burn::tensor::Tensor;

use super::{Draws, Stage};
use crate::sde::{Marginal, Process};

/// When the known pixels are perturbed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Once at each time; they are put back after every stage (Song & Ermon 2019, Alg. 2).
    OncePerTime,
    /// Before every stage, which then changes them as it does the others (NCSNv2).
    BeforeEachStage,
}

/// A part of x that is known: at time t it is α·reference + std·z.
pub struct Known<const D: usize> {
    /// 1 where a pixel is known, 0 elsewhere.
    mask: Tensor<D>,
    reference: Tensor<D>,
    renewal: Renewal,
    draws: Box<dyn Draws<D>>,
    /// The time of the last stage, and the perturbed reference there.
    last: Option<(f64, Tensor<D>)>,
}

impl<const D: usize> Known<D> {
    /// `mask` is 1 where `reference` is known, 0 elsewhere; of the noise that `draws` gives only that of known pixels is used.
    ///
    /// # Shapes
    /// `mask` and `reference`: that of x, or of one example.
    pub fn new(mask: Tensor<D>, reference: Tensor<D>, renewal: Renewal, draws: impl Draws<D> + 'static) -> Self {
        Self { mask, reference, renewal, draws: Box::new(draws), last: None }
    }

    /// x before `stage`.
    pub(super) fn before(&mut self, stage: Stage, process: &dyn Process, x: Tensor<D>) -> Tensor<D> {
        let is_renewed = match (self.renewal, &self.last) {
            (Renewal::OncePerTime, Some((t, _))) => *t != stage.t(),
            _ => true,
        };
        if !is_renewed {
            return x;
        }
        let Marginal { alpha, std } = process.marginal(stage.t());
        let z = self.draws.normal(x.dims(), &x.device());
        let perturbed = self.reference.clone() * alpha + z * std;
        let x = self.put(perturbed.clone(), x);
        self.last = Some((stage.t(), perturbed));
        x
    }

    /// x after a stage.
    pub(super) fn after(&self, x: Tensor<D>) -> Tensor<D> {
        match (self.renewal, &self.last) {
            (Renewal::OncePerTime, Some((_, perturbed))) => self.put(perturbed.clone(), x),
            _ => x,
        }
    }

    fn put(&self, known: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        self.mask.clone() * known + (1.0 - self.mask.clone()) * x
    }
}
