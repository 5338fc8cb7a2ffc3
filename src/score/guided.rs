//! Scores of data under a condition: guidance by a gradient.

use burn::tensor::Tensor;

use super::Score;

/// The gradient ∇ₓ ln p(y | x, t) of a condition y on data that are perturbed to time t: a classifier's, say.
pub trait Guidance<const D: usize> {
    /// # Shapes
    /// `x`: `[batch, …]`; `t`: the time of each example, `batch` of them; `examples`: their numbers in the batch that sampling began
    /// with, see [`Score::score_of`], for a condition that is another for each example; result as `x`.
    fn gradient(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D>;
}

impl<const D: usize, F: Fn(Tensor<D>, &[f64]) -> Tensor<D>> Guidance<D> for F {
    fn gradient(&self, _examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        self(x, t)
    }
}

/// The score of p_t(x | y) by Bayes's rule, s(x, t) + scale·∇ₓ ln p(y | x, t) (Song et al. 2021, §5 and appendix I.1), which every
/// sampler takes.
///
/// With a scale of 1 that is the conditional score. A larger one is that of p_t(x)·p(y | x, t)^scale, up to a constant, whose samples
/// are more typical of y and less varied (Dhariwal & Nichol 2021).
#[derive(Clone, Debug)]
pub struct Guided<S, G> {
    /// s.
    pub score: S,
    /// ∇ₓ ln p(y | x, t).
    pub guidance: G,
    /// How much of it.
    pub scale: f64,
}

impl<const D: usize, S: Score<D>, G: Guidance<D>> Score<D> for Guided<S, G> {
    fn score(&self, x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        self.score_of(&(0..t.len()).collect::<Vec<_>>(), x, t)
    }

    fn score_of(&self, examples: &[usize], x: Tensor<D>, t: &[f64]) -> Tensor<D> {
        let score = self.score.score_of(examples, x.clone(), t);
        match self.scale {
            0.0 => score,
            scale => score + self.guidance.gradient(examples, x, t) * scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::Device;

    use super::*;
    use crate::device::{upload, values};
    use crate::score::GaussianMixture;
    use crate::sde::{Marginal, Process, Vp};

    const MEANS: [[f64; 2]; 2] = [[1.0, 0.5], [-0.8, 0.2]];

    /// ∇ₓ ln p(y = 0 | x, t) of two components of equal variance v: (1 − p)·α(μ₀ − μ₁)/v, since the log odds are linear in x.
    fn gradient(process: &Arc<dyn Process>, x: [f64; 2], t: f64) -> [f64; 2] {
        let Marginal { alpha, std } = process.marginal(t);
        let v = (alpha * 0.2).powi(2) + std * std;
        let square = |k: usize| (0..2).map(|i| (x[i] - alpha * MEANS[k][i]).powi(2)).sum::<f64>() / (2.0 * v);
        let odds = 0.3 / 0.7 * (square(1) - square(0)).exp();
        [0, 1].map(|i| alpha * (MEANS[0][i] - MEANS[1][i]) / v / (1.0 + odds))
    }

    #[test]
    fn a_guided_mixture_is_one_of_its_components() {
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let [a, b] = MEANS;
        let mixture = GaussianMixture::new(&[(0.3, &a), (0.7, &b)], 0.2, vp.clone());
        let component = GaussianMixture::new(&[(1.0, &a)], 0.2, vp);
        let process = mixture.process().clone();
        let guidance = move |x: Tensor<2>, t: &[f64]| -> Tensor<2> {
            let (shape, device) = (x.dims(), x.device());
            let x = values(x).expect("a processor");
            let rows = x.as_chunks::<2>().0.iter().zip(t);
            let gradients = rows.flat_map(|(x, &t)| gradient(&process, x.map(f64::from), t).map(|g| g as f32));
            upload(gradients.collect(), shape, &device)
        };
        let x = || upload::<2>(vec![0.3, -1.0, 0.1, 2.5, -0.8, 0.2], [3, 2], &Device::flex());
        let t = [0.05, 0.3, 0.9];
        let by =
            |scale| values(Guided { score: &mixture, guidance: &guidance, scale }.score(x(), &t)).expect("a processor");
        let [plain, expected] = [&mixture, &component].map(|score| values(score.score(x(), &t)).expect("a processor"));
        assert_eq!(by(0.0), plain);
        for (found, expected) in by(1.0).iter().zip(&expected) {
            // Two f32 sums of numbers of up to 100.
            assert!((found - expected).abs() < 5e-5, "{found}, expected {expected}");
        }
        // Twice as far.
        for ((found, plain), expected) in by(2.0).iter().zip(plain).zip(expected) {
            assert!((found - (2.0 * expected - plain)).abs() < 1e-4);
        }
    }
}
