//! s(x, t) ≈ ∇ₓ log p_t(x): the one interface that losses and samplers see.

mod classes;
mod ensemble;
mod guided;
mod mixture;
mod model;
mod prediction;

pub use classes::ClassGuidance;
pub(crate) use classes::of_classes;
pub use ensemble::Ensemble;
pub use guided::{Guidance, Guided};
pub use mixture::GaussianMixture;
pub use model::Model;
pub use prediction::{Factors, Label, Prediction};

use burn::tensor::Tensor;

/// The score of data that a process perturbs, for `D`-dimensional tensors (4 for images, 2 for points).
pub trait Score<const D: usize> {
    /// # Shapes
    /// `x`: `[batch, …]`; `t`: the time of each example, `batch` of them; result as `x`.
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D>;

    /// The same of some examples of the batch that a sampler began with, which have these numbers in it: samplers whose steps are each
    /// example's own ask for those that are not at the end yet. It matters to a score that is another for each example.
    ///
    /// # Shapes
    /// As [`Self::score`], of as many examples as numbers.
    fn score_of(&self, _examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        self.score(x, t)
    }
}

macro_rules! forward_score {
    ($($pointer:ty),*) => {$(
        impl<const D: usize, S: Score<D> + ?Sized> Score<D> for $pointer {
            fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
                (**self).score(x, t)
            }

            fn score_of(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
                (**self).score_of(examples, x, t)
            }
        }
    )*};
}

forward_score! { &S, Box<S> }

/// A score whose product with a direction is known exactly.
pub trait Differentiable<const D: usize>: Score<D> {
    /// s(x, t) and (∂s/∂x)·v, both differentiable with respect to parameters.
    ///
    /// # Shapes
    /// `x`, `v`: `[batch, …]`; `t`: `batch` times; results as `x`.
    fn jvp(&self, x: Tensor<D>, t: &[f64], v: Tensor<D>) -> [Tensor<D>; 2];
}

impl<const D: usize, S: Differentiable<D> + ?Sized> Differentiable<D> for &S {
    fn jvp(&self, x: Tensor<D>, t: &[f64], v: Tensor<D>) -> [Tensor<D>; 2] {
        (**self).jvp(x, t, v)
    }
}
