//! Filling in the unknown part of an image.

use burn::tensor::Tensor;

use super::langevin::{State, Step, update};
use crate::score::Score;
use crate::sde::NoiseLevels;

/// Annealed Langevin dynamics with known pixels (Song & Ermon 2019, Alg. 2): at each level they become
/// reference + σᵢ·z, one draw a level, and are put back after each update.
pub struct Inpainting<'a, const D: usize, S, Z> {
    score: S,
    levels: &'a NoiseLevels,
    steps: Vec<Step>,
    n_done: usize,
    x: Tensor<D>,
    known: Known<D>,
    noise: Z,
}

struct Known<const D: usize> {
    /// 1 where a pixel is known, 0 elsewhere.
    mask: Tensor<D>,
    reference: Tensor<D>,
    /// The reference as blurred at the current level.
    blurred: Tensor<D>,
}

/// What a draw of noise is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// The blur of the known pixels, at the start of a level.
    Known,
    /// An update.
    Update,
}

impl<'a, const D: usize, S: Score<D>, Z: FnMut(Draw) -> Tensor<D>> Inpainting<'a, D, S, Z> {
    /// A chain from `x` through `steps`. `mask` is 1 where `reference` is known; `noise` gives standard normals shaped
    /// as `x`, of which [`Draw::Known`] uses the known pixels only.
    pub fn new(
        score: S,
        levels: &'a NoiseLevels,
        steps: Vec<Step>,
        x: Tensor<D>,
        [mask, reference]: [Tensor<D>; 2],
        noise: Z,
    ) -> Self {
        let known = Known { mask, blurred: reference.clone(), reference };
        Self { score, levels, steps, n_done: 0, x, known, noise }
    }

    fn put_back(&self, x: Tensor<D>) -> Tensor<D> {
        let Known { mask, blurred, .. } = &self.known;
        mask.clone() * blurred.clone() + (1.0 - mask.clone()) * x
    }
}

impl<const D: usize, S: Score<D>, Z: FnMut(Draw) -> Tensor<D>> Iterator for Inpainting<'_, D, S, Z> {
    type Item = State<D>;

    fn next(&mut self) -> Option<State<D>> {
        let step = *self.steps.get(self.n_done)?;
        let previous = self.n_done.checked_sub(1).map(|i| self.steps[i].level);
        if previous != Some(step.level) {
            self.known.blurred =
                self.known.reference.clone() + (self.noise)(Draw::Known) * self.levels.sigmas()[step.level];
            self.x = self.put_back(self.x.clone());
        }
        let x = update(&self.score, step, self.x.clone(), &mut || (self.noise)(Draw::Update));
        self.x = self.put_back(x);
        self.n_done += 1;
        Some(State { n_done: self.n_done, step, x: self.x.clone() })
    }
}
