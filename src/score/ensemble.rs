//! The mean of several scores.

use burn::tensor::Tensor;

use super::{Differentiable, Score};

/// s(x, t) = (1/n) Σₖ sₖ(x, t): the mean of n scores of the same process, of the last checkpoints of a run, say. NCSNv2's program takes
/// it in the place of an EMA of the weights.
///
/// Scores are added in their order. The mean of a single one is that one, bit for bit.
#[derive(Clone, Debug)]
pub struct Ensemble<S> {
    members: Vec<S>,
}

impl<S> Ensemble<S> {
    /// The mean of `members`.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(members: Vec<S>) -> Self {
        assert!(!members.is_empty(), "a mean of no scores");
        Self { members }
    }

    /// Those whose mean it is.
    pub fn members(&self) -> &[S] {
        &self.members
    }

    /// The mean of what `f` gives of each.
    fn mean<const N: usize, const D: usize>(&self, f: impl Fn(&S) -> [Tensor<D>; N]) -> [Tensor<D>; N] {
        let add = |sums: [Tensor<D>; N], next: [Tensor<D>; N]| {
            let mut next = next.into_iter();
            sums.map(|sum| sum + next.next().expect("as many"))
        };
        let sums = self.members.iter().map(f).reduce(add).expect("there are members");
        match self.members.len() {
            1 => sums,
            n => sums.map(|sum| sum / n as f64),
        }
    }
}

impl<const D: usize, S: Score<D>> Score<D> for Ensemble<S> {
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let [score] = self.mean(|member| [member.score(x.clone(), t)]);
        score
    }

    fn score_of(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let [score] = self.mean(|member| [member.score_of(examples, x.clone(), t)]);
        score
    }
}

impl<const D: usize, S: Differentiable<D>> Differentiable<D> for Ensemble<S> {
    fn jvp(&self, x: Tensor<D>, t: &[f64], v: Tensor<D>) -> [Tensor<D>; 2] {
        self.mean(|member| member.jvp(x.clone(), t, v.clone()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::device::{upload, values};
    use crate::net::Mlp;
    use crate::noise::Noise;
    use crate::score::{GaussianMixture, Model};
    use crate::sde::NoiseLevels;

    fn largest(x: Tensor<2>) -> f32 {
        values(x).expect("a processor").into_iter().fold(0.0, |m, x| m.max(x.abs()))
    }

    #[test]
    fn the_mean_of_the_scores_of_shifted_gaussians_is_that_of_the_gaussian_between_them() {
        // s = (μ − x)/v is linear in μ.
        let gaussian = |mean: f64| {
            let levels = NoiseLevels::geometric(2.0, 0.5, 3).expect("levels");
            GaussianMixture::new(&[(1.0, &[mean, -mean])], 0.3, levels)
        };
        let ensemble = Ensemble::new([1.0, 2.0, 6.0].map(gaussian).to_vec());
        let x = || upload::<2>(vec![0.3, -1.0, 4.0, 2.5], [2, 2], &Device::flex());
        let t = [1.0, 0.5];
        let [found, expected] = [ensemble.score(x(), &t), gaussian(3.0).score(x(), &t)];
        // A few roundings of numbers of about 10.
        assert!(largest(found - expected.clone()) < 1e-5 && largest(expected) > 1.0);
    }

    #[test]
    fn the_jacobian_vector_product_is_the_mean_of_those_of_the_members_and_one_member_is_itself() {
        let device = Device::flex();
        let model = |seed| Model::unperturbed(Mlp::new(&[2, 8, 2], &mut Noise::new(seed).stream("init", 0), &device));
        let members = [model(1), model(2)];
        let x = || upload::<2>(vec![0.3, -1.0, 4.0, 2.5], [2, 2], &device);
        let v = || upload::<2>(vec![1.0, 0.5, -2.0, 0.1], [2, 2], &device);
        let t = [0.0; 2];
        let [[s_1, jv_1], [s_2, jv_2]] = members.each_ref().map(|member| member.jvp(x(), &t, v()));
        let [s, jv] = Ensemble::new(members.iter().collect()).jvp(x(), &t, v());
        let size = largest(jv_1.clone());
        assert!(size > 0.0);
        // Two roundings.
        assert!(largest(s - (s_1.clone() + s_2) / 2.0) <= 1e-6 * largest(s_1.clone()));
        assert!(largest(jv - (jv_1.clone() + jv_2) / 2.0) <= 1e-6 * size);
        let [s, jv] = Ensemble::new(vec![&members[0]]).jvp(x(), &t, v());
        assert_eq!((largest(s - s_1), largest(jv - jv_1)), (0.0, 0.0));
    }
}
