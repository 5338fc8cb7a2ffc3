//! A part of x that is known while the rest is drawn: inpainting and colourisation.

use burn::tensor::Tensor;

use super::colour::{from_colour_basis, to_colour_basis};
use super::{Draws, Stage};
use crate::device::upload;
use crate::sde::{Marginal, Process};

/// When the known part is perturbed anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// Once at each time; it is put back after every stage (Song & Ermon 2019, Alg. 2).
    OncePerTime,
    /// Before every stage, which then changes it as it does the rest (NCSNv2).
    BeforeEachStage,
    /// Before the first stage, and after every one, at the time at which it began (Song et al. 2021, appendix I.2). After a stage that
    /// [removes the noise](super::Method::removes_noise) the known part has none either.
    AfterEachStage,
    /// The same with the slips of the published program, for its numbers: the known part begins without noise; so does, of
    /// colourisation, not the grey coordinate but the red channel; and noise is removed from the known part only, by the last stage,
    /// whose method must leave it.
    AsPublished,
}

/// A part of x that is known: at time t it is α·reference + std·z.
pub struct Known<const D: usize> {
    /// 1 where a number is known, 0 elsewhere.
    mask: Tensor<D>,
    reference: Tensor<D>,
    /// What mask and reference are about.
    coordinates: Coordinates,
    renewal: Renewal,
    draws: Box<dyn Draws<D>>,
    /// The time of the last stage, and the perturbed reference there.
    last: Option<(f64, Tensor<D>)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Coordinates {
    Pixels,
    Colours,
}

impl<const D: usize> Known<D> {
    /// `mask` is 1 where `reference` is known, 0 elsewhere; of the noise that `draws` gives only that of known pixels is used.
    ///
    /// # Shapes
    /// `mask` and `reference`: that of x, or of one example.
    pub fn new(mask: Tensor<D>, reference: Tensor<D>, renewal: Renewal, draws: impl Draws<D> + 'static) -> Self {
        Self { mask, reference, coordinates: Coordinates::Pixels, renewal, draws: Box::new(draws), last: None }
    }

    /// The grey image of `reference` is known, its colours are not: colourisation, inpainting in an orthonormal basis whose first axis
    /// is grey, see [`to_colour_basis`]. Of a reference that has colours its mean over the channels is known.
    ///
    /// # Shapes
    /// `reference`: that of x, `[batch, 3, …]`, or of one example.
    ///
    /// # Panics
    /// If there are not three channels.
    pub fn grey(reference: Tensor<D>, renewal: Renewal, draws: impl Draws<D> + 'static) -> Self {
        let mut shape = [1; D];
        shape[1] = 3;
        let mask = upload(vec![1.0, 0.0, 0.0], shape, &reference.device());
        let reference = to_colour_basis(reference);
        Self { coordinates: Coordinates::Colours, ..Self::new(mask, reference, renewal, draws) }
    }

    /// x before `stage`.
    pub(super) fn before(&mut self, stage: Stage, process: &dyn Process, x: Tensor<D>) -> Tensor<D> {
        match (self.renewal, &self.last) {
            (Renewal::OncePerTime, Some((t, _))) if *t == stage.t() => x,
            (Renewal::AfterEachStage | Renewal::AsPublished, Some(_)) => x,
            (Renewal::AsPublished, None) => {
                // The mask as if it were of the pixels.
                let rest = (1.0 - self.mask.clone()) * x;
                let known = self.pixels(self.mask.clone() * self.reference.clone());
                self.last = Some((stage.t(), self.reference.clone()));
                known + rest
            }
            _ => self.renew(stage, process, x),
        }
    }

    /// x after `stage`, which is the last or not and has removed the noise or not.
    pub(super) fn after(
        &mut self,
        stage: Stage,
        process: &dyn Process,
        x: Tensor<D>,
        is_last: bool,
        removes_noise: bool,
    ) -> Tensor<D> {
        match (self.renewal, &self.last) {
            (Renewal::OncePerTime, Some((_, perturbed))) => self.put(perturbed.clone(), x),
            (Renewal::AfterEachStage, _) if removes_noise => self.put_clean(stage, process, x),
            (Renewal::AsPublished, _) if is_last => self.put_clean(stage, process, x),
            (Renewal::AfterEachStage | Renewal::AsPublished, _) => self.renew(stage, process, x),
            _ => x,
        }
    }

    /// x with a known part that is perturbed anew.
    fn renew(&mut self, stage: Stage, process: &dyn Process, x: Tensor<D>) -> Tensor<D> {
        let Marginal { alpha, std } = process.marginal(stage.t());
        let z = self.draws.normal(x.dims(), &x.device());
        let perturbed = self.reference.clone() * alpha + z * std;
        let x = self.put(perturbed.clone(), x);
        self.last = Some((stage.t(), perturbed));
        x
    }

    /// x with a known part that has no noise.
    fn put_clean(&self, stage: Stage, process: &dyn Process, x: Tensor<D>) -> Tensor<D> {
        self.put(self.reference.clone() * process.marginal(stage.t()).alpha, x)
    }

    fn put(&self, known: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        let x = match self.coordinates {
            Coordinates::Pixels => x,
            Coordinates::Colours => to_colour_basis(x),
        };
        self.pixels(self.mask.clone() * known + (1.0 - self.mask.clone()) * x)
    }

    fn pixels(&self, x: Tensor<D>) -> Tensor<D> {
        match self.coordinates {
            Coordinates::Pixels => x,
            Coordinates::Colours => from_colour_basis(x),
        }
    }
}
