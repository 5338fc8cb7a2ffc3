//! Instance normalisation, plain or ++, with the activation behind it.

use crate::cpu::{Isa, kernel};
use crate::elu;
use crate::parallel::for_each_of;
use crate::simd::Simd;

/// Added to variances.
pub const EPSILON: f32 = 1e-5;

/// The sizes of `[n, c, h, w]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormShape {
    /// Images.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Pixels of a channel: h·w.
    pub pixels: usize,
}

/// What follows the norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// ELU with α = 1.
    Elu,
}

/// The norm's parameters for each example: `[n, c]` each.
#[derive(Clone, Copy, Debug)]
pub struct Scales<'a> {
    /// γ, the factor.
    pub gamma: &'a [f32],
    /// α, the weight of μ̂; `None` for plain instance norm.
    pub alpha: Option<&'a [f32]>,
    /// β, the summand.
    pub beta: &'a [f32],
}

/// The gradients for [`Scales`]: `[n, c]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalesGradient {
    /// For γ.
    pub gamma: Vec<f32>,
    /// For α, if there is one.
    pub alpha: Option<Vec<f32>>,
    /// For β.
    pub beta: Vec<f32>,
}

/// What [`backward`] needs to know from [`forward`]: `[n, c]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// μ, each channel's mean.
    pub mu: Vec<f32>,
    /// r = 1/√(σ² + ε), with each channel's biased variance σ².
    pub r: Vec<f32>,
}

/// act(γ·(x̂ + α·μ̂) + β), instance norm++ (Song & Ermon 2019, appendix A, with γ before α as in the published program).
///
/// x̂ = (x − μ)·r is each channel with mean 0 and variance 1; μ̂ = (μ − m)/√(v + ε) are an image's means, standardised with
/// their own mean m and unbiased variance v. Each image is computed by itself.
///
/// # Shapes
/// `x`, `out`: `[n, c, pixels]`.
pub fn forward(
    isa: Isa,
    shape: NormShape,
    x: &[f32],
    scales: Scales<'_>,
    act: Activation,
    out: &mut [f32],
) -> Statistics {
    let NormShape { n, c, .. } = shape;
    shape.check(&scales, [x.len(), out.len()]);
    let mut statistics = Statistics { mu: vec![0.0; n * c], r: vec![0.0; n * c] };
    let means = statistics.mu.chunks_mut(c).zip(statistics.r.chunks_mut(c));
    let images = out.chunks_mut(shape.image()).zip(means).enumerate();
    for_each_of(images.collect(), |(i, (out, (mu, r)))| {
        let x = &x[i * shape.image()..][..out.len()];
        normalise_image(isa, x, scales.of_image(i, c), act, mu, r, out);
    });
    statistics
}

/// The gradients of [`forward`]; that for x is written to `grad_x`.
///
/// With g = grad_out·act′(u), u the activation's input, and the sums S₁ = Σ g and S₂ = Σ g·x̂ over a channel's pixels:
/// ∂β = S₁, ∂γ = S₂ + α·μ̂·S₁, ∂α = γ·μ̂·S₁, ∂μ̂ = γ·α·S₁,
/// ∂x = γ·r·(g − S₁/pixels − x̂·S₂/pixels) + ∂μ/pixels, where
/// ∂μ = (∂μ̂ − mean ∂μ̂ − μ̂·Σ ∂μ̂·μ̂/(c − 1))/√(v + ε), mean and sum over the channels.
///
/// # Shapes
/// `x`, `grad_out`, `grad_x`: `[n, c, pixels]`.
#[allow(clippy::too_many_arguments, reason = "all that the forward pass had, its result and the gradient's two ends")]
pub fn backward(
    isa: Isa,
    shape: NormShape,
    x: &[f32],
    grad_out: &[f32],
    scales: Scales<'_>,
    statistics: &Statistics,
    act: Activation,
    grad_x: &mut [f32],
) -> ScalesGradient {
    backward_plus(isa, shape, x, grad_out, scales, statistics, act, None, grad_x)
}

/// [`backward`], with `more` added to the gradient for x: what comes from elsewhere.
#[allow(clippy::too_many_arguments, reason = "as for the gradient alone")]
pub fn backward_plus(
    isa: Isa,
    shape: NormShape,
    x: &[f32],
    grad_out: &[f32],
    scales: Scales<'_>,
    statistics: &Statistics,
    act: Activation,
    more: Option<&[f32]>,
    grad_x: &mut [f32],
) -> ScalesGradient {
    let NormShape { n, c, .. } = shape;
    shape.check(&scales, [x.len(), grad_x.len()]);
    let lens = [grad_out.len(), more.unwrap_or(grad_out).len()];
    assert_eq!(lens, [x.len(); 2], "found gradients of other lengths than x");
    let [mut gamma, mut alpha, mut beta] = [(); 3].map(|()| vec![0.0; n * c]);
    let scales_grads = gamma.chunks_mut(c).zip(alpha.chunks_mut(c)).zip(beta.chunks_mut(c));
    let images = grad_x.chunks_mut(shape.image()).zip(scales_grads).enumerate();
    for_each_of(images.collect(), |(i, (grad_x, ((gamma, alpha), beta)))| {
        let pixels = i * shape.image()..(i + 1) * shape.image();
        let (mu, r) = (&statistics.mu[i * c..][..c], &statistics.r[i * c..][..c]);
        let image = Image { x: &x[pixels.clone()], scales: scales.of_image(i, c), mu, r };
        backward_image(isa, image, &grad_out[pixels.clone()], act, grad_x, [gamma, alpha, beta]);
        if let Some(more) = more {
            // While the image is in the second cache.
            elu::add_to_part(isa, grad_x, &more[pixels]);
        }
    });
    ScalesGradient { gamma, alpha: scales.alpha.map(|_| alpha), beta }
}

impl NormShape {
    /// Numbers of an image.
    fn image(self) -> usize {
        self.c * self.pixels
    }

    fn check(self, scales: &Scales<'_>, lens: [usize; 2]) {
        let Self { n, c, .. } = self;
        assert!(self.image() > 0, "found {self:?}, expected at least one channel and one pixel");
        assert_eq!(lens, [n * self.image(); 2], "found images of other lengths than {self:?}");
        let lens = [scales.gamma, scales.beta, scales.alpha.unwrap_or(scales.beta)].map(<[f32]>::len);
        assert_eq!(lens, [n * c; 3], "found scales of other lengths than {self:?}");
        assert!(scales.alpha.is_none() || c > 1, "found one channel, expected several for instance norm++");
    }
}

impl Scales<'_> {
    /// Those of image `i`: `[c]` each.
    fn of_image(&self, i: usize, c: usize) -> Self {
        let channels = i * c..(i + 1) * c;
        Self {
            gamma: &self.gamma[channels.clone()],
            alpha: self.alpha.map(|alpha| &alpha[channels.clone()]),
            beta: &self.beta[channels],
        }
    }
}

/// One image of the forward pass.
#[derive(Clone, Copy)]
struct Image<'a> {
    x: &'a [f32],
    scales: Scales<'a>,
    mu: &'a [f32],
    r: &'a [f32],
}

/// The activation's input u = a·(x − μ) + b of one channel.
#[derive(Clone, Copy)]
struct Line {
    mu: f32,
    a: f32,
    b: f32,
}

impl Image<'_> {
    fn line(&self, channel: usize, mu_hat: &[f64]) -> Line {
        let Scales { gamma, alpha, beta } = self.scales;
        let shift = alpha.map_or(0.0, |alpha| alpha[channel] * mu_hat[channel] as f32);
        let b = gamma[channel] * shift + beta[channel];
        Line { mu: self.mu[channel], a: gamma[channel] * self.r[channel], b }
    }

    /// μ̂ (zeros for plain instance norm) and 1/√(v + ε).
    fn standardised_means(&self) -> (Vec<f64>, f64) {
        let c = self.mu.len() as f64;
        if self.scales.alpha.is_none() {
            return (vec![0.0; self.mu.len()], 0.0);
        }
        let mean = self.mu.iter().copied().map(f64::from).sum::<f64>() / c;
        let mut mu_hat: Vec<f64> = self.mu.iter().map(|&mu| f64::from(mu) - mean).collect();
        let variance = mu_hat.iter().map(|d| d * d).sum::<f64>() / (c - 1.0);
        let scale = 1.0 / (variance + f64::from(EPSILON)).sqrt();
        mu_hat.iter_mut().for_each(|d| *d *= scale);
        (mu_hat, scale)
    }
}

kernel! {
    /// The image stays in the second cache between the two passes.
    fn normalise_image<'a>(
        s; x: &'a [f32], scales: Scales<'a>, act: Activation, mu: &'a mut [f32], r: &'a mut [f32], out: &'a mut [f32]
    ) {
        let pixels = x.len() / mu.len();
        for ((x, mu), r) in x.chunks_exact(pixels).zip(&mut *mu).zip(&mut *r) {
            *mu = sum(s, x) / pixels as f32;
            *r = 1.0 / (sum_of_squares(s, x, *mu) / pixels as f32 + EPSILON).sqrt();
        }
        let image = Image { x, scales, mu, r };
        let (mu_hat, _) = image.standardised_means();
        for (channel, (x, out)) in x.chunks_exact(pixels).zip(out.chunks_exact_mut(pixels)).enumerate() {
            let line = image.line(channel, &mu_hat);
            match act {
                Activation::None => normalise_channel::<S, false>(s, x, line, out),
                Activation::Elu => normalise_channel::<S, true>(s, x, line, out),
            }
        }
    }
}

/// Σ x
#[inline(always)]
fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    // Four sums, so that an addition need not wait for the last one.
    let mut sums = [s.splat(0.0); 4];
    let blocks = x.chunks_exact(4 * S::LANES);
    let vectors = blocks.remainder().chunks_exact(S::LANES);
    let rest = vectors.remainder();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *sum = s.add(*sum, s.load(x));
        }
    }
    for x in vectors {
        sums[0] = s.add(sums[0], s.load(x));
    }
    sums[1] = s.add(sums[1], s.load_first(rest));
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// Σ (x − μ)²
#[inline(always)]
fn sum_of_squares<S: Simd>(s: S, x: &[f32], mu: f32) -> f32 {
    let mu = s.splat(mu);
    let mut sums = [s.splat(0.0); 4];
    let blocks = x.chunks_exact(4 * S::LANES);
    let vectors = blocks.remainder().chunks_exact(S::LANES);
    let rest = vectors.remainder();
    for block in blocks {
        for (sum, x) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
            let d = s.sub(s.load(x), mu);
            *sum = s.fma(d, d, *sum);
        }
    }
    for x in vectors {
        let d = s.sub(s.load(x), mu);
        sums[0] = s.fma(d, d, sums[0]);
    }
    if !rest.is_empty() {
        // The lanes beyond the end are to count 0, not μ².
        let inside = s.load_first(&[1.0; 16][..rest.len()]);
        let d = s.mul(s.sub(s.load_first(rest), mu), inside);
        sums[1] = s.fma(d, d, sums[1]);
    }
    s.sum(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3])))
}

/// act(a·(x − μ) + b)
#[inline(always)]
fn normalise_channel<S: Simd, const ELU: bool>(s: S, x: &[f32], line: Line, out: &mut [f32]) {
    let (xs, mut outs) = (x.chunks_exact(S::LANES), out.chunks_exact_mut(S::LANES));
    let rest = xs.remainder();
    for (x, out) in xs.zip(&mut outs) {
        let u = line.at(s, s.load(x));
        s.store(out, if ELU { elu::activate(s, u) } else { u });
    }
    if !rest.is_empty() {
        let u = line.at(s, s.load_first(rest));
        s.store_first(outs.into_remainder(), if ELU { elu::activate(s, u) } else { u });
    }
}

impl Line {
    #[inline(always)]
    fn at<S: Simd>(self, s: S, x: S::V) -> S::V {
        s.fma(s.sub(x, s.splat(self.mu)), s.splat(self.a), s.splat(self.b))
    }
}

kernel! {
    /// `grads`: for γ, α and β.
    fn backward_image<'a>(
        s; image: Image<'a>, grad_out: &'a [f32], act: Activation, grad_x: &'a mut [f32], grads: [&'a mut [f32]; 3]
    ) {
        let Image { x, scales: Scales { gamma, alpha, .. }, mu, r } = image;
        let (c, pixels) = (mu.len(), x.len() / mu.len());
        let (mu_hat, mu_scale) = image.standardised_means();
        let [grad_gamma, grad_alpha, grad_beta] = grads;
        // The first pass leaves g in grad_x, where the second finds it in the cache: cheaper than another exponential.
        let mut sums = vec![[0.0; 2]; c];
        let channels = x.chunks_exact(pixels).zip(grad_out.chunks_exact(pixels)).zip(grad_x.chunks_exact_mut(pixels));
        for (i, ((x, grad_out), g)) in channels.enumerate() {
            let line = image.line(i, &mu_hat);
            let [s_1, s_d] = match act {
                Activation::None => sums_of_channel::<S, false>(s, x, grad_out, line, g),
                Activation::Elu => sums_of_channel::<S, true>(s, x, grad_out, line, g),
            };
            sums[i] = [s_1, s_d * r[i]];
        }
        let mut grad_mu_hat = vec![0.0; c];
        for (i, &[s_1, s_2]) in sums.iter().enumerate() {
            let (alpha, mu_hat) = (alpha.map_or(0.0, |alpha| alpha[i]), mu_hat[i] as f32);
            grad_gamma[i] = s_2 + alpha * mu_hat * s_1;
            grad_alpha[i] = gamma[i] * mu_hat * s_1;
            grad_beta[i] = s_1;
            grad_mu_hat[i] = f64::from(gamma[i]) * f64::from(alpha) * f64::from(s_1);
        }
        let mean = grad_mu_hat.iter().sum::<f64>() / c as f64;
        let dot = grad_mu_hat.iter().zip(&mu_hat).map(|(grad, mu_hat)| grad * mu_hat).sum::<f64>();
        // Of a single channel, which has no α, 0/0 would be none.
        let slope = if c > 1 { dot / (c as f64 - 1.0) } else { 0.0 };
        for (i, (x, g)) in x.chunks_exact(pixels).zip(grad_x.chunks_exact_mut(pixels)).enumerate() {
            let grad_mu = mu_scale * (grad_mu_hat[i] - mean - mu_hat[i] * slope);
            let [mean_g, mean_g_x_hat] = sums[i].map(|sum| sum / pixels as f32);
            let scale = gamma[i] * r[i];
            let line = Line { mu: mu[i], a: -scale * r[i] * mean_g_x_hat, b: (grad_mu / pixels as f64) as f32 };
            gradient_of_channel(s, x, line, [scale, mean_g], g);
        }
    }
}

/// Writes g = grad_out·act′(u); gives Σ g and Σ g·(x − μ).
#[inline(always)]
fn sums_of_channel<S: Simd, const ELU: bool>(s: S, x: &[f32], grad_out: &[f32], line: Line, g: &mut [f32]) -> [f32; 2] {
    let mu = s.splat(line.mu);
    let mut sums = [s.splat(0.0); 2];
    let (xs, grads) = (x.chunks_exact(S::LANES), grad_out.chunks_exact(S::LANES));
    let (x_rest, grad_rest) = (xs.remainder(), grads.remainder());
    let mut gs = g.chunks_exact_mut(S::LANES);
    for ((x, grad), out) in xs.zip(grads).zip(&mut gs) {
        let (x, grad) = (s.load(x), s.load(grad));
        let g = if ELU { s.mul(grad, elu::slope(s, line.at(s, x))) } else { grad };
        sums = [s.add(sums[0], g), s.fma(g, s.sub(x, mu), sums[1])];
        s.store(out, g);
    }
    if !x_rest.is_empty() {
        // Beyond the end grad_out is 0, and so is g.
        let (x, grad) = (s.load_first(x_rest), s.load_first(grad_rest));
        let g = if ELU { s.mul(grad, elu::slope(s, line.at(s, x))) } else { grad };
        sums = [s.add(sums[0], g), s.fma(g, s.sub(x, mu), sums[1])];
        s.store_first(gs.into_remainder(), g);
    }
    [s.sum(sums[0]), s.sum(sums[1])]
}

/// scale·(g − mean) + a·(x − μ) + b, in place of g.
#[inline(always)]
fn gradient_of_channel<S: Simd>(s: S, x: &[f32], line: Line, [scale, mean]: [f32; 2], g: &mut [f32]) {
    let (scale, mean) = (s.splat(scale), s.splat(mean));
    let (xs, mut gs) = (x.chunks_exact(S::LANES), g.chunks_exact_mut(S::LANES));
    let rest = xs.remainder();
    for (x, g) in xs.zip(&mut gs) {
        let grad = s.fma(s.sub(s.load(g), mean), scale, line.at(s, s.load(x)));
        s.store(g, grad);
    }
    if !rest.is_empty() {
        let g = gs.into_remainder();
        let grad = s.fma(s.sub(s.load_first(g), mean), scale, line.at(s, s.load_first(rest)));
        s.store_first(g, grad);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` numbers between −1 and 1.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[derive(Clone)]
    struct Case {
        shape: NormShape,
        act: Activation,
        x: Vec<f32>,
        gamma: Vec<f32>,
        alpha: Option<Vec<f32>>,
        beta: Vec<f32>,
        grad_out: Vec<f32>,
    }

    impl Case {
        fn new([n, c, pixels]: [usize; 3], act: Activation, plus: bool, seed: u64) -> Self {
            let len = n * c * pixels;
            Self {
                shape: NormShape { n, c, pixels },
                act,
                // Channels with different means.
                x: numbers(len, seed).iter().enumerate().map(|(i, x)| x + (i / pixels % 5) as f32 * 0.3).collect(),
                gamma: numbers(n * c, seed + 1).iter().map(|x| 1.0 + x).collect(),
                alpha: plus.then(|| numbers(n * c, seed + 2)),
                beta: numbers(n * c, seed + 3),
                grad_out: numbers(len, seed + 4),
            }
        }

        /// Every kind of case: one pixel, whole vectors and rests, odd numbers of channels, one image and several.
        fn all() -> Vec<Self> {
            let shapes = [[1, 2, 1], [3, 5, 1], [2, 3, 7], [1, 4, 16], [2, 2, 49], [2, 7, 35], [1, 3, 64], [1, 2, 196]];
            let shapes = shapes.into_iter().flat_map(|shape| [(shape, true), (shape, false)]);
            let cases = shapes.chain([([2, 1, 9], false)]);
            let both = |(shape, plus)| [(shape, plus, Activation::None), (shape, plus, Activation::Elu)];
            cases.flat_map(both).zip(1..).map(|((shape, plus, act), seed)| Self::new(shape, act, plus, seed)).collect()
        }

        fn scales(&self) -> Scales<'_> {
            Scales { gamma: &self.gamma, alpha: self.alpha.as_deref(), beta: &self.beta }
        }

        fn forward(&self, isa: Isa) -> (Vec<f32>, Statistics) {
            let mut out = vec![f32::NAN; self.x.len()];
            let statistics = forward(isa, self.shape, &self.x, self.scales(), self.act, &mut out);
            (out, statistics)
        }

        fn backward(&self, isa: Isa) -> (Vec<f32>, ScalesGradient) {
            let (_, statistics) = self.forward(isa);
            let mut grad_x = vec![f32::NAN; self.x.len()];
            let (x, grad_out) = (&self.x, &self.grad_out);
            let grads = backward(isa, self.shape, x, grad_out, self.scales(), &statistics, self.act, &mut grad_x);
            (grad_x, grads)
        }

        fn image(&self, i: usize) -> Self {
            let NormShape { c, pixels, .. } = self.shape;
            let of = |values: &[f32], len: usize| values[i * len..(i + 1) * len].to_vec();
            Self {
                shape: NormShape { n: 1, ..self.shape },
                act: self.act,
                x: of(&self.x, c * pixels),
                gamma: of(&self.gamma, c),
                alpha: self.alpha.as_ref().map(|alpha| of(alpha, c)),
                beta: of(&self.beta, c),
                grad_out: of(&self.grad_out, c * pixels),
            }
        }
    }

    /// One image in f64, by the formulas. x, γ, α and β in a row, α = 0 without μ̂.
    fn reference(case: &Case, inputs: &[f64]) -> Vec<f64> {
        let NormShape { c, pixels, .. } = case.shape;
        let (x, scales) = inputs.split_at(c * pixels);
        let (gamma, alpha, beta) = (&scales[..c], &scales[c..2 * c], &scales[2 * c..]);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let squares = |x: &[f64]| x.iter().map(|v| (v - mean(x)).powi(2)).sum::<f64>();
        let mu: Vec<f64> = x.chunks(pixels).map(mean).collect();
        let spread = (squares(&mu) / (c as f64 - 1.0) + 1e-5).sqrt();
        let mut out = Vec::new();
        for (i, x) in x.chunks(pixels).enumerate() {
            let r = 1.0 / (squares(x) / pixels as f64 + 1e-5).sqrt();
            let shift = if case.alpha.is_some() { alpha[i] * (mu[i] - mean(&mu)) / spread } else { 0.0 };
            out.extend(x.iter().map(|x| {
                let u = gamma[i] * ((x - mu[i]) * r + shift) + beta[i];
                if case.act == Activation::Elu && u <= 0.0 { u.exp_m1() } else { u }
            }));
        }
        out
    }

    fn inputs(image: &Case) -> Vec<f64> {
        let alpha = image.alpha.clone().unwrap_or(vec![0.0; image.shape.c]);
        let all = image.x.iter().chain(&image.gamma).chain(&alpha).chain(&image.beta);
        all.copied().map(f64::from).collect()
    }

    /// Rounding of numbers up to 3 in f32, through μ and sums of up to 200, times the largest factor that they meet.
    fn tolerance(case: &Case, statistics: &Statistics) -> f64 {
        let largest_r = statistics.r.iter().copied().fold(1.0, f32::max);
        let spread = case.alpha.as_ref().map_or(1.0, |_| 4.0);
        1e-6 * f64::from(largest_r) * spread
    }

    fn assert_near(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(found) - expected).abs();
            assert!(error <= tolerance, "{what}, {i}: found {found}, expected {expected} to {tolerance:e}");
        }
    }

    #[test]
    fn what_comes_from_elsewhere_is_added_to_the_gradient() {
        let case = Case::new([2, 3, 7], Activation::Elu, true, 3);
        let more = numbers(case.x.len(), 9);
        for isa in Isa::available() {
            let (_, statistics) = case.forward(isa);
            let (grad_x, grads) = case.backward(isa);
            let mut found = vec![f32::NAN; case.x.len()];
            let (x, grad_out, scales) = (&case.x, &case.grad_out, case.scales());
            let more = Some(&more[..]);
            let same = backward_plus(isa, case.shape, x, grad_out, scales, &statistics, case.act, more, &mut found);
            let sum = grad_x.iter().zip(more.into_iter().flatten()).map(|(a, b)| a + b);
            assert_eq!(found, sum.collect::<Vec<_>>(), "{isa}");
            assert_eq!(same, grads, "{isa}");
        }
    }

    #[test]
    fn the_norm_is_its_formula_on_every_instruction_set() {
        for (isa, case) in Isa::available().into_iter().flat_map(|isa| Case::all().into_iter().map(move |c| (isa, c))) {
            let (out, statistics) = case.forward(isa);
            let what = format!("{isa}, {:?}, {:?}", case.shape, case.act);
            for (i, out) in out.chunks(case.shape.image()).enumerate() {
                let image = case.image(i);
                assert_near(out, &reference(&image, &inputs(&image)), tolerance(&case, &statistics), &what);
            }
        }
    }

    #[test]
    fn gradients_are_differences_of_the_formula_on_every_instruction_set() {
        for case in Case::all() {
            let NormShape { n, c, .. } = case.shape;
            let differences: Vec<Vec<f64>> = (0..n).map(|i| central_differences(&case.image(i))).collect();
            for isa in Isa::available() {
                let (grad_x, grads) = case.backward(isa);
                assert_eq!(grads.alpha.is_some(), case.alpha.is_some());
                // Sums over the pixels of products of such numbers as in `tolerance`; differences are exact to 1e-8.
                let largest = differences.iter().flatten().fold(1.0f64, |largest, d| largest.max(d.abs()));
                let tolerance = 2.0 * tolerance(&case, &case.forward(isa).1) * largest.sqrt() + 1e-8;
                let what = format!("{isa}, {:?}, {:?}", case.shape, case.act);
                for (i, expected) in differences.iter().enumerate() {
                    let (x, scales) = expected.split_at(case.shape.image());
                    assert_near(&grad_x[i * x.len()..][..x.len()], x, tolerance, &format!("x, {what}"));
                    let of = |grad: &[f32], expected: &[f64], name: &str| {
                        assert_near(&grad[i * c..][..c], expected, tolerance, &format!("{name}, {what}"));
                    };
                    of(&grads.gamma, &scales[..c], "gamma");
                    if let Some(alpha) = &grads.alpha {
                        of(alpha, &scales[c..2 * c], "alpha");
                    }
                    of(&grads.beta, &scales[2 * c..], "beta");
                }
            }
        }
    }

    /// The gradient of Σ grad_out·out for all [`inputs`] of one image.
    fn central_differences(image: &Case) -> Vec<f64> {
        let objective = |inputs: &[f64]| -> f64 {
            reference(image, inputs).iter().zip(&image.grad_out).map(|(out, &grad)| out * f64::from(grad)).sum()
        };
        let inputs = inputs(image);
        let difference = |i: usize| {
            // Small against the square root of ε, by which variances of one pixel are bounded from below.
            let h = 1e-6;
            let at = |shift: f64| {
                let mut inputs = inputs.clone();
                inputs[i] += shift;
                objective(&inputs)
            };
            (at(h) - at(-h)) / (2.0 * h)
        };
        (0..inputs.len()).map(difference).collect()
    }

    #[test]
    fn an_image_does_not_depend_on_its_batch() {
        for isa in Isa::available() {
            let case = Case::new([5, 6, 53], Activation::Elu, true, 7);
            let (all, (grad_all, grads_all)) = (case.forward(isa).0, case.backward(isa));
            for i in 0..case.shape.n {
                let (image, values) = (case.image(i), i * case.shape.image()..(i + 1) * case.shape.image());
                let (grad_x, grads) = image.backward(isa);
                assert_eq!(all[values.clone()], image.forward(isa).0, "{isa}");
                assert_eq!(grad_all[values], grad_x, "{isa}");
                assert_eq!(grads_all.gamma[i * 6..][..6], grads.gamma, "{isa}");
                assert_eq!(grads_all.alpha.as_ref().map(|a| &a[i * 6..][..6]), grads.alpha.as_deref(), "{isa}");
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let with = |threads: usize, isa: Isa| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let case = Case::new([7, 4, 77], Activation::Elu, true, 8);
            pool.install(|| (case.forward(isa), case.backward(isa)))
        };
        for isa in Isa::available() {
            assert_eq!(with(1, isa), with(3, isa), "{isa}");
        }
    }
}
