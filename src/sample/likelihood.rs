//! Likelihoods of data by the probability flow.

use burn::tensor::{Device, Tensor};
use serde::Serialize;

use super::flow::upload_rows;
use super::ode::{DormandPrince, Points};
use crate::data::Range;
use crate::device::values;
use crate::error::{Error, Result};
use crate::noise::{self, Distribution, Stream};
use crate::score::Differentiable;
use crate::sde::{Process, Rates, Reverse};

/// Likelihoods by the probability flow dx/dt = f·x − ½g²·s(x, t) =: f̃(x, t), which carries the density of the data to the prior's
/// (Song et al. 2021, §4.3 and appendix D.2, eq. 39; Grathwohl et al. 2019):
///
/// ln p(x) = ln p_prior(z) + Δ, where dΔ/dt = vᵀ(∂f̃/∂x)v along the way from x to its latent z,
///
/// whose mean over the probes v is the divergence of f̃ (Skilling 1989; Hutchinson 1990). The Jacobian–vector product is exact. The
/// state (x, Δ) is f64 on the host, and its Δ belongs to the numbers whose error is controlled; the score sees x rounded to f32.
///
/// Networks must be as in evaluation: averaged weights, no dropout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// What solves it.
    pub solver: DormandPrince,
    /// The time at which the data are taken to be.
    pub smallest_time: f64,
    /// What the probes v are drawn from.
    pub probes: Probes,
    /// How many probes each example has, one after the other; the mean of what they give is the result.
    pub n_repeats: usize,
}

/// Distributions of mean 0 and covariance I, from which probes are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Probes {
    /// −1 or 1, each with probability ½ (Rademacher's): of all the one of the smallest variance.
    #[default]
    Rademacher,
    /// N(0, 1).
    Gaussian,
}

/// Likelihoods of a batch.
#[derive(Clone, Debug)]
pub struct Likelihoods<const D: usize> {
    /// ln p of each example, in nats, as density of what the model sees.
    pub log_p: Vec<f64>,
    /// The standard error of each `log_p`, from the spread over the probes; none of a single one.
    pub standard_error: Option<Vec<f64>>,
    /// The latents at the process's largest time, as the first probes led to them: `[batch, …]`.
    pub latents: Tensor<D>,
    /// How many times each example's score was asked for, by all probes together.
    pub n_evaluations: Vec<usize>,
}

impl Default for Likelihood {
    /// As in the paper, with steps of each example's own and a single probe.
    fn default() -> Self {
        Self { solver: DormandPrince::default(), smallest_time: 1e-5, probes: Probes::Rademacher, n_repeats: 1 }
    }
}

impl Probes {
    /// v of the given shape; each stream gives an equal share.
    pub fn draw<const D: usize>(self, streams: &mut [Stream], shape: [usize; D], device: &Device) -> Tensor<D> {
        match self {
            Self::Gaussian => noise::tensor(Distribution::Normal, streams, shape, device),
            Self::Rademacher => {
                let u: Tensor<D> = noise::tensor(Distribution::Uniform, streams, shape, device);
                u.ones_like().mask_fill(u.lower_elem(0.5), -1.0)
            }
        }
    }
}

impl Likelihood {
    /// The likelihoods of `x`; `streams`, one of each example, give the probes. With the default [`super::ErrorNorm::PerSample`] an example's
    /// likelihood does not depend on its companions.
    ///
    /// # Shapes
    /// `x`: `[batch, …]`, as the model sees data; `streams`: `batch`.
    ///
    /// # Errors
    /// As [`Self::along`]; when there are no repeats.
    ///
    /// # Panics
    /// If there are not as many streams as examples.
    pub fn estimate<const D: usize>(
        &self,
        score: &(impl Differentiable<D> + ?Sized),
        process: &dyn Process,
        x: Tensor<D>,
        streams: &mut [Stream],
    ) -> Result<Likelihoods<D>> {
        let (shape, device, n) = (x.dims(), x.device(), self.n_repeats);
        assert_eq!(streams.len(), shape[0], "a stream for each example");
        if n == 0 {
            return Err(Error::value("n_repeats", n, "at least 1"));
        }
        let mut repeats = Vec::with_capacity(n);
        for _ in 0..n {
            let v = self.probes.draw(streams, shape, &device);
            repeats.push(self.along(score, process, x.clone(), v)?);
        }
        // Over the repeats, of example i.
        let mean = |i: usize| repeats.iter().map(|repeat| repeat.log_p[i]).sum::<f64>() / n as f64;
        let log_p: Vec<f64> = (0..shape[0]).map(mean).collect();
        let standard_error = |(i, mean): (usize, &f64)| {
            let squares = repeats.iter().map(|repeat| (repeat.log_p[i] - mean).powi(2)).sum::<f64>();
            (squares / ((n - 1) * n) as f64).sqrt()
        };
        let standard_error = (n > 1).then(|| log_p.iter().enumerate().map(standard_error).collect());
        let n_evaluations = (0..shape[0]).map(|i| repeats.iter().map(|repeat| repeat.n_evaluations[i]).sum()).collect();
        let latents = repeats.swap_remove(0).latents;
        Ok(Likelihoods { log_p, standard_error, latents, n_evaluations })
    }

    /// What one probe `v` gives of each example.
    ///
    /// # Shapes
    /// `x`, `v`: `[batch, …]`.
    ///
    /// # Errors
    /// As [`DormandPrince::solve`]; when `smallest_time` is no time before the process's largest; when the device fails.
    pub fn along<const D: usize>(
        &self,
        score: &(impl Differentiable<D> + ?Sized),
        process: &dyn Process,
        x: Tensor<D>,
        v: Tensor<D>,
    ) -> Result<Likelihoods<D>> {
        let (shape, device, [_, last]) = (x.dims(), x.device(), process.times());
        if !(self.smallest_time >= 0.0 && self.smallest_time < last) {
            return Err(Error::value("smallest_time", self.smallest_time, format!("a number from 0 to below {last}")));
        }
        let len = shape[1..].iter().product::<usize>();
        let [x, v] = [x, v].map(values);
        let (x, v): (Vec<f32>, Vec<f64>) = (x?, v?.into_iter().map(f64::from).collect());
        let probe = |example: usize| &v[example * len..(example + 1) * len];
        let derivative = |Points { examples, t, y }: Points| {
            let x: Vec<f64> = y.chunks(len + 1).flat_map(|row| &row[..len]).copied().collect();
            let v: Vec<f64> = examples.iter().flat_map(|&example| probe(example)).copied().collect();
            let [x_f32, v_f32] = [&x, &v].map(|rows| upload_rows(rows, examples.len(), shape, &device));
            let [s, jv] = score.jvp(x_f32, &t, v_f32).map(values);
            let (s, jv) = (s?, jv?);
            let mut dy = Vec::with_capacity(y.len());
            for (k, &t) in t.iter().enumerate() {
                let row = k * len..(k + 1) * len;
                let Rates { x: a, score: b, .. } = Reverse::ProbabilityFlow.rates(process, t);
                dy.extend(x[row.clone()].iter().zip(&s[row.clone()]).map(|(x, s)| a * x + b * f64::from(*s)));
                let slopes = v[row.clone()].iter().zip(&jv[row]);
                dy.push(slopes.map(|(v, jv)| v * (a * v + b * f64::from(*jv))).sum());
            }
            Ok(dy)
        };
        let start: Vec<f64> = x.chunks(len).flat_map(|x| x.iter().map(|&x| f64::from(x)).chain([0.0])).collect();
        let solution = self.solver.solve(derivative, [self.smallest_time, last], &start, shape[0])?;
        let ends = || solution.y.chunks(len + 1).map(|row| row.split_at(len));
        let log_p = ends().map(|(z, delta)| process.prior_log_density(z) + delta[0]).collect();
        let z: Vec<f64> = ends().flat_map(|(z, _)| z).copied().collect();
        let latents = upload_rows(&z, shape[0], shape, &device);
        Ok(Likelihoods { log_p, standard_error: None, latents, n_evaluations: solution.n_evaluations })
    }
}

/// Bits per dimension of an image x in `range`, whose pixels are dequantised from `n_grey_levels` grey levels:
/// (−ln p(x) + Σ ln slope)/(D·ln 2) + log₂ `n_grey_levels`, with the slope of the way back from x to pixels in [0, 1] at each pixel.
///
/// With 256 levels that adds 8 for pixels in [0, 1] and 7 for those in [−1, 1]. The published program has these two numbers whatever
/// the data's grey levels are.
///
/// # Panics
/// If `x` is empty.
pub fn bits_per_dim(log_p: f64, x: &[f32], range: Range, n_grey_levels: u32) -> f64 {
    assert!(!x.is_empty(), "an image without pixels");
    let log_slopes: f64 = x.iter().map(|&x| range.log_slope(x)).sum();
    (log_slopes - log_p) / (x.len() as f64 * std::f64::consts::LN_2) + f64::from(n_grey_levels).log2()
}

#[cfg(test)]
mod tests {
    use super::super::ErrorNorm;
    use super::*;
    use crate::device::upload;
    use crate::noise::Noise;
    use crate::score::GaussianMixture;
    use crate::sde::{Marginal, SubVp, Ve, Vp};

    const EPS: f64 = 1e-5;

    fn under_each_process(components: &[(f64, &[f64])], std: f64) -> [GaussianMixture; 3] {
        [
            GaussianMixture::new(components, std, Ve::new(0.01, 10.0, 1000).expect("valid")),
            GaussianMixture::new(components, std, Vp::new(0.1, 20.0, 1000).expect("valid")),
            GaussianMixture::new(components, std, SubVp::new(0.1, 20.0, 1000).expect("valid")),
        ]
    }

    /// Two modes that are not far apart, so that the score is not linear where the points are.
    const MIXTURE: [(f64, &[f64]); 2] = [(0.7, &[0.5, -0.4]), (0.3, &[-0.6, 0.3])];

    fn points(score: &GaussianMixture, n: u64) -> Vec<f32> {
        let point = |k| score.sample::<2>(EPS, &mut Noise::new(3).stream("x", k));
        (0..n).flat_map(point).map(|x| x as f32).collect()
    }

    fn tensor(x: &[f32]) -> Tensor<2> {
        upload(x.to_vec(), [x.len() / 2, 2], &Device::flex())
    }

    fn rows(x: &[f32]) -> Vec<[f64; 2]> {
        x.as_chunks::<2>().0.iter().map(|x| x.map(f64::from)).collect()
    }

    #[test]
    fn the_likelihood_of_a_gaussian_is_known() {
        // ∂s/∂x = −I/v has no other entries, so that one probe of −1 and 1 is exact; and x keeps its place in units of the standard
        // deviation on its way to z.
        let (mean, std) = ([0.5, -1.0], 0.3);
        for score in under_each_process(&[(1.0, &mean)], std) {
            let process = &**score.process();
            let x = points(&score, 5);
            for norm in [ErrorNorm::PerSample, ErrorNorm::Batch] {
                let mut likelihood = Likelihood::default();
                likelihood.solver.norm = norm;
                let v = tensor(&[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0]);
                let found = likelihood.along(&score, process, tensor(&x), v).expect("a solution");
                let z = rows(&values(found.latents).expect("a processor"));
                let [start, end] = [EPS, 1.0].map(|t| {
                    let Marginal { alpha, std: noise } = process.marginal(t);
                    (alpha, (alpha * std).hypot(noise))
                });
                for (i, x) in rows(&x).into_iter().enumerate() {
                    let place = |k: usize| (x[k] - start.0 * mean[k]) / start.1;
                    let expected = [0, 1].map(|k| end.0 * mean[k] + end.1 * place(k));
                    let log_p = process.prior_log_density(&expected) + 2.0 * (end.1 / start.1).ln();
                    // Ten times the tolerances, of z relative to its size; Δ and the prior's logarithm are of size 10.
                    let scale = process.prior_std();
                    assert!(
                        z[i].iter().zip(expected).all(|(z, e)| (z - e).abs() < 1e-4 * scale),
                        "{:?}, {expected:?}",
                        z[i]
                    );
                    assert!((found.log_p[i] - log_p).abs() < 1e-3, "{}, expected {log_p}, {process:?}", found.log_p[i]);
                }
                assert!(found.n_evaluations.iter().all(|n| n % 6 == 2), "{:?}", found.n_evaluations);
            }
        }
    }

    #[test]
    fn the_likelihood_of_a_mixture_is_known() {
        // In two dimensions the mean over v = (1, 1) and (1, −1) is the divergence itself, at every point of the way.
        for score in under_each_process(&MIXTURE, 0.2) {
            let process = &**score.process();
            let x = points(&score, 6);
            let likelihood = Likelihood::default();
            let [a, b] = [[1.0, 1.0], [1.0, -1.0]]
                .map(|v| likelihood.along(&score, process, tensor(&x), tensor(&v.repeat(6))).expect("a solution"));
            let z = rows(&values(a.latents).expect("a processor"));
            for (i, x) in rows(&x).into_iter().enumerate() {
                let found = (a.log_p[i] + b.log_p[i]) / 2.0;
                // The flow leads to p_1, for which the prior stands in.
                let expected =
                    score.log_density(&x, EPS) + process.prior_log_density(&z[i]) - score.log_density(&z[i], 1.0);
                assert!((found - expected).abs() < 1e-3, "{found}, expected {expected}, {process:?}");
            }
            // Of each example alone a probe gives something else.
            assert!((0..6).any(|i| (a.log_p[i] - b.log_p[i]).abs() > 0.1), "{:?} {:?}", a.log_p, b.log_p);
        }
    }

    #[test]
    fn both_kinds_of_probes_have_the_likelihood_as_their_mean_and_tell_their_error() {
        let [_, score, _] = under_each_process(&MIXTURE, 0.2);
        let process = &**score.process();
        let x = points(&score, 8);
        let mut errors = Vec::new();
        for probes in [Probes::Rademacher, Probes::Gaussian] {
            let likelihood = Likelihood { probes, n_repeats: 40, ..Likelihood::default() };
            let mut streams: Vec<Stream> = (0..8).map(|k| Noise::new(9).stream("probe", k)).collect();
            let found = likelihood.estimate(&score, process, tensor(&x), &mut streams).expect("a solution");
            let standard_error = found.standard_error.expect("of 40 probes");
            // The prior stands in for p_1, of whose mean it knows nothing: 1e-2 and less.
            let off =
                |(i, x): (usize, [f64; 2])| (found.log_p[i] - score.log_density(&x, EPS)) / (standard_error[i] + 2e-3);
            let off: Vec<f64> = rows(&x).into_iter().enumerate().map(off).collect();
            // Eight deviations of about one standard error each.
            assert!(off.iter().all(|off| off.abs() < 4.0), "{probes:?}: {off:?}");
            errors.push(standard_error.iter().sum::<f64>());
        }
        assert!(errors[0] > 0.0 && errors[0] < errors[1], "{errors:?}");
    }

    #[test]
    fn a_likelihood_does_not_depend_on_its_companions() {
        let [_, _, score] = under_each_process(&MIXTURE, 0.2);
        let x = points(&score, 3);
        let likelihood = Likelihood { n_repeats: 2, ..Likelihood::default() };
        let run = |numbers: std::ops::Range<u64>| {
            let mut streams: Vec<Stream> = numbers.clone().map(|k| Noise::new(9).stream("probe", k)).collect();
            let x = tensor(&x[2 * numbers.start as usize..2 * numbers.end as usize]);
            let found = likelihood.estimate(&score, &**score.process(), x, &mut streams).expect("a solution");
            (found.log_p, found.standard_error, found.n_evaluations)
        };
        let together = run(0..3);
        for k in 0..3 {
            let alone = run(k as u64..k as u64 + 1);
            assert_eq!(alone, (vec![together.0[k]], together.1.as_ref().map(|e| vec![e[k]]), vec![together.2[k]]));
        }
    }

    #[test]
    fn bits_are_those_of_the_probability_of_the_grey_level() {
        // A density that is 1 on [0, 1] gives each of 2^b grey levels 2^−b, in whatever range it is seen.
        let pixels = [0.1f32, 0.5, 0.8];
        for n_grey_levels in [2, 16, 256] {
            for range in [Range::Unit, Range::Symmetric, Range::Logit] {
                let x = pixels.map(|pixel| range.forward(pixel));
                let log_p = x.iter().map(|&x| range.log_slope(x)).sum();
                let bits = bits_per_dim(log_p, &x, range, n_grey_levels);
                assert!((bits - f64::from(n_grey_levels).log2()).abs() < 1e-12, "{bits}");
            }
        }
        // The offsets of the published program.
        let bits = |range| bits_per_dim(3.0 * std::f64::consts::LN_2, &[0.3; 3], range, 256);
        assert_eq!([bits(Range::Unit), bits(Range::Symmetric)], [8.0 - 1.0, 7.0 - 1.0]);
    }

    #[test]
    fn impossible_settings_are_refused() {
        let [score, ..] = under_each_process(&MIXTURE, 0.2);
        let error = |likelihood: Likelihood| {
            let mut streams = [Noise::new(1).stream("probe", 0)];
            let found = likelihood.estimate(&score, &**score.process(), tensor(&[0.0, 0.0]), &mut streams);
            found.expect_err("refused").to_string()
        };
        assert_eq!(error(Likelihood { n_repeats: 0, ..Likelihood::default() }), "n_repeats is 0, expected at least 1");
        for smallest_time in [1.0, -1e-5, f64::NAN] {
            let message = error(Likelihood { smallest_time, ..Likelihood::default() });
            assert!(message.ends_with("expected a number from 0 to below 1"), "{message}");
        }
    }
}
