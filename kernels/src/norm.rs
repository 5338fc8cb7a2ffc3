//! Instance normalisation, plain or ++, variance normalisation and group normalisation, with the activation behind it.

pub mod batch;

use std::marker::PhantomData;

pub use crate::activation::Activation;
use crate::activation::{Slope, with_slope};
use crate::buffer::Scratch;
use crate::channels::{Terms, Values, load, store, sum_terms};
use crate::cpu::{Isa, kernel};
use crate::parallel::for_each_pair_of_parts;
use crate::simd::Simd;
use crate::size;

/// Added to variances.
pub const EPSILON: f32 = 1e-5;

/// The sizes of `[n, h, w, c]`: the channels of a pixel lie beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NormShape {
    /// Images.
    pub n: usize,
    /// Channels.
    pub c: usize,
    /// Pixels of a channel: h·w.
    pub pixels: usize,
}

/// What is done to each channel of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// γ·(x − μ)·r + β, instance norm, r = 1/√(σ² + ε) with the biased variance σ².
    Instance,
    /// γ·((x − μ)·r + α·μ̂) + β, instance norm++ (Song & Ermon 2019, appendix A, with γ before α as in the published program).
    InstancePlus,
    /// γ·x·r, variance norm, with the unbiased variance.
    Variance,
    /// γ·(x − μ)·r + β with mean and (biased) variance over groups of neighbouring channels, group norm (Wu & He 2018).
    Group {
        /// How many there are.
        n_groups: usize,
    },
}

impl Kind {
    /// The columns of its table, in units of the channels: (γ, β), (γ, α, β) or γ.
    pub const fn n_columns(self) -> usize {
        match self {
            Self::Instance | Self::Group { .. } => 2,
            Self::InstancePlus => 3,
            Self::Variance => 1,
        }
    }

    /// Channels that have mean and variance together, of `c` channels.
    fn group(self, c: usize) -> usize {
        match self {
            Self::Group { n_groups } => c / n_groups,
            Self::Instance | Self::InstancePlus | Self::Variance => 1,
        }
    }
}

/// A norm of some images.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// Their sizes.
    pub shape: NormShape,
    /// Which one it is.
    pub kind: Kind,
    /// Its parameters, a row for each level: [columns](Kind::n_columns) of `c` numbers each.
    pub table: &'a [f32],
    /// The row of each image, `[n]`.
    pub rows: &'a [usize],
    /// Added to variances.
    pub epsilon: f32,
    /// What follows.
    pub activation: Activation,
}

impl Norm<'_> {
    /// The activation of what [`Kind`] says. μ̂ = (μ − m)/√(v + ε) are an image's means, standardised with their own mean m and
    /// unbiased variance v. Each image is computed by itself.
    ///
    /// # Shapes
    /// `x`, `out`: `[n, pixels, c]`; `statistics`: `[n, 2, c]`, μ and r, which [`Self::backward`] needs.
    ///
    /// # Panics
    /// If a length is another, the table has no such row, there is no channel or pixel, one channel for instance norm++, or one pixel
    /// for variance norm.
    pub fn forward(&self, isa: Isa, x: &[f32], statistics: &mut [f32], out: &mut [f32]) {
        self.check([x.len(), out.len()], statistics.len());
        let (NormShape { c, .. }, image) = (self.shape, self.shape.image());
        for_each_pair_of_parts([out, statistics], [image, 2 * c], |i, [out, statistics]| {
            normalise_image(isa, &x[i * image..][..image], self.scales(i), self.activation, statistics, out);
        });
    }

    /// The gradients of [`Self::forward`]: that for x is written to `grad_x`, and `more`, what comes from elsewhere, added to it;
    /// that for the table to `grad_table`, a row's images added up in their order.
    ///
    /// With g = grad_out·act′(u), u the activation's input, x̂ = (x − μ)·r, and the sums S₁ = Σ g and S₂ = Σ g·x̂ over a channel's pixels:
    /// ∂β = S₁, ∂γ = S₂ + α·μ̂·S₁, ∂α = γ·μ̂·S₁, ∂μ̂ = γ·α·S₁,
    /// ∂x = γ·r·(g − S₁/pixels − x̂·S₂/pixels) + ∂μ/pixels, where
    /// ∂μ = (∂μ̂ − mean ∂μ̂ − μ̂·Σ ∂μ̂·μ̂/(c − 1))/√(v + ε), mean and sum over the channels. Of variance norm, with S = Σ g·x:
    /// ∂γ = r·S, ∂x = γ·r·g − γ·r³·S·(x − μ)/(pixels − 1). Of group norm, with the sums over a group of γ·S₁ and γ·S₂ in the place of its
    /// channels': ∂x = r·(γ·g − Σ γ·S₁/m − x̂·Σ γ·S₂/m), m the numbers of a group.
    ///
    /// # Shapes
    /// `x`, `grad_out`, `more`, `grad_x`: `[n, pixels, c]`; `statistics`: `[n, 2, c]`; `grad_table` as the table.
    ///
    /// # Panics
    /// As [`Self::forward`].
    #[allow(clippy::too_many_arguments, reason = "all that the forward pass had and gave, and the gradient's two ends")]
    pub fn backward(
        &self,
        isa: Isa,
        x: &[f32],
        statistics: &[f32],
        grad_out: &[f32],
        more: Option<&[f32]>,
        grad_table: &mut [f32],
        grad_x: &mut [f32],
    ) {
        self.check([x.len(), grad_x.len()], statistics.len());
        let (NormShape { n, c, .. }, columns, image) = (self.shape, self.columns(), self.shape.image());
        let lens = [grad_out.len(), more.unwrap_or(grad_out).len()];
        assert_eq!(lens, [x.len(); 2], "found gradients of other lengths than x");
        assert_eq!(grad_table.len(), self.table.len(), "found a gradient of another length than the table");
        let lens = [n * columns];
        let mut scratch = Scratch::take(lens);
        let [of_images] = scratch.pieces(lens);
        for_each_pair_of_parts([grad_x, &mut *of_images], [image, columns], |i, [grad_x, grad_scales]| {
            let [x, grad_out] = [x, grad_out].map(|values| &values[i * image..][..image]);
            let (mu, r) = statistics[2 * i * c..][..2 * c].split_at(c);
            let more = more.map(|more| &more[i * image..][..image]);
            let image = Image { x, scales: self.scales(i), mu, r };
            backward_image(isa, image, grad_out, self.activation, more, grad_x, grad_scales);
        });
        grad_table.fill(0.0);
        for (row, of_image) in self.rows.iter().zip(of_images.chunks_exact(columns)) {
            let sums = &mut grad_table[row * columns..][..columns];
            sums.iter_mut().zip(of_image).for_each(|(sum, part)| *sum += part);
        }
    }

    /// Numbers of a row of the table.
    fn columns(&self) -> usize {
        self.kind.n_columns() * self.shape.c
    }

    /// Those of image `i`.
    fn scales(&self, i: usize) -> Scales<'_> {
        let NormShape { c, .. } = self.shape;
        let (gamma, rest) = self.table[self.rows[i] * self.columns()..][..self.columns()].split_at(c);
        let all = Scales { gamma, alpha: None, beta: None, group: self.kind.group(c), epsilon: self.epsilon };
        match self.kind {
            Kind::Instance | Kind::Group { .. } => Scales { beta: Some(rest), ..all },
            Kind::InstancePlus => Scales { alpha: Some(&rest[..c]), beta: Some(&rest[c..]), ..all },
            Kind::Variance => all,
        }
    }

    fn check(&self, images: [usize; 2], statistics: usize) {
        let NormShape { n, c, pixels } = self.shape;
        assert!(c > 0 && pixels > 0, "found {:?}, expected at least one channel and one pixel", self.shape);
        // Of these sizes all other products here are parts.
        let [len, n_statistics, _] =
            [[n, c, pixels], [n, 2, c], [n, 3, c]].map(|sizes| size::numbers(self.shape, sizes));
        assert_eq!(images, [len; 2], "found images of other lengths than {:?}", self.shape);
        assert_eq!([self.rows.len(), statistics], [n, n_statistics], "found rows or statistics of other images");
        assert!(self.kind != Kind::InstancePlus || c > 1, "found one channel, expected several for instance norm++");
        if let Kind::Group { n_groups } = self.kind {
            let fits = n_groups > 0 && c.is_multiple_of(n_groups);
            assert!(fits, "found {n_groups} groups of {c} channels, expected a divisor of them");
        }
        let has_variance = self.kind != Kind::Variance || pixels > 1;
        assert!(has_variance, "found one pixel, expected several for an unbiased variance");
        let n_rows = self.table.len() / self.columns();
        assert!(self.table.len().is_multiple_of(self.columns()), "found a table of other rows than {c} channels need");
        assert!(self.rows.iter().all(|&row| row < n_rows), "found rows {:?} of a table of {n_rows}", self.rows);
    }
}

impl NormShape {
    /// Numbers of an image.
    fn image(self) -> usize {
        self.c * self.pixels
    }
}

/// The parameters for one image: `[c]` each.
#[derive(Clone, Copy)]
struct Scales<'a> {
    /// γ, the factor.
    gamma: &'a [f32],
    /// α, the weight of μ̂; `None` for plain instance norm.
    alpha: Option<&'a [f32]>,
    /// β, the summand; `None` for variance norm, from which the mean is not taken.
    beta: Option<&'a [f32]>,
    /// Channels that have mean and variance together.
    group: usize,
    /// Added to variances.
    epsilon: f32,
}

/// One image of the forward pass.
#[derive(Clone, Copy)]
struct Image<'a> {
    x: &'a [f32],
    scales: Scales<'a>,
    mu: &'a [f32],
    r: &'a [f32],
}

/// u = a·(x − μ) + b of each channel, of which μ is known: `[c]` each.
#[derive(Clone, Copy)]
struct Lines<'a> {
    mu: &'a [f32],
    a: &'a [f32],
    b: &'a [f32],
}

impl Image<'_> {
    /// Those that give the activation's input.
    fn set_lines(&self, mu_hat: &[f64], a: &mut [f32], b: &mut [f32]) {
        let Scales { gamma, alpha, beta, .. } = self.scales;
        for (channel, (a, b)) in a.iter_mut().zip(b).enumerate() {
            let shift = alpha.map_or(0.0, |alpha| alpha[channel] * mu_hat[channel] as f32);
            *a = gamma[channel] * self.r[channel];
            *b = match beta {
                Some(beta) => gamma[channel] * shift + beta[channel],
                None => *a * self.mu[channel],
            };
        }
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
    /// The image stays in the second cache between the passes.
    fn normalise_image<'a>(
        s; x: &'a [f32], scales: Scales<'a>, act: Activation, statistics: &'a mut [f32], out: &'a mut [f32]
    ) {
        let c = scales.gamma.len();
        let pixels = x.len() / c;
        let (mu, r) = statistics.split_at_mut(c);
        // SAFETY: x has so many pixels and channels.
        unsafe { sum_terms(s, [pixels, c], &mut Values(x), mu) };
        mu.iter_mut().for_each(|mu| *mu /= pixels as f32);
        average_groups(mu, scales.group);
        // SAFETY: as above, and μ has so many channels.
        unsafe { sum_terms(s, [pixels, c], &mut Squares { x, mu }, r) };
        // The variance is unbiased where the mean stays.
        let n = if scales.beta.is_some() { pixels } else { pixels - 1 };
        r.iter_mut().for_each(|r| *r /= n as f32);
        average_groups(r, scales.group);
        r.iter_mut().for_each(|r| *r = 1.0 / (*r + scales.epsilon).sqrt());
        let image = Image { x, scales, mu, r };
        let (mu_hat, _) = image.standardised_means();
        let mut scratch = Scratch::take([c, c]);
        let [a, b] = scratch.pieces([c, c]);
        image.set_lines(&mu_hat, a, b);
        let lines = Lines { mu, a, b };
        with_slope!(act, |A| normalise_pixels::<S, A>(s, x, lines, out));
    }
}

/// Each value becomes the mean of its group of neighbours.
fn average_groups(values: &mut [f32], group: usize) {
    if group > 1 {
        for values in values.chunks_mut(group) {
            let mean = values.iter().copied().map(f64::from).sum::<f64>() / values.len() as f64;
            values.fill(mean as f32);
        }
    }
}

/// (x − μ)²
struct Squares<'a> {
    x: &'a [f32],
    mu: &'a [f32],
}

impl<S: Simd> Terms<S, 1> for Squares<'_> {
    #[inline(always)]
    unsafe fn terms<const WHOLE: bool>(&mut self, s: S, at: usize, channel: usize, n: usize) -> [S::V; 1] {
        // SAFETY: the caller's promise.
        let d = unsafe { s.sub(load::<S, WHOLE>(s, self.x, at, n), load::<S, WHOLE>(s, self.mu, channel, n)) };
        [s.mul(d, d)]
    }
}

/// Calls `$body` for each vector of channels of each pixel, whole ones first: `$at` is where it is in an image of `$pixels` times
/// `$c`, `$n` how many channels there are from `$channel`, `$WHOLE` whether that is a whole vector.
macro_rules! for_each_vector {
    ($S:ident, [$pixels:expr, $c:expr], |$at:ident, $channel:ident, $n:ident, $WHOLE:ident| $body:block) => {
        for pixel in 0..$pixels {
            let mut $channel = 0;
            while $channel + $S::LANES <= $c {
                const $WHOLE: bool = true;
                let ($at, $n) = (pixel * $c + $channel, $S::LANES);
                $body
                $channel += $S::LANES;
            }
            if $channel < $c {
                const $WHOLE: bool = false;
                let ($at, $n) = (pixel * $c + $channel, $c - $channel);
                $body
            }
        }
    };
}

/// act(a·(x − μ) + b)
#[inline(always)]
fn normalise_pixels<S: Simd, A: Slope>(s: S, x: &[f32], lines: Lines<'_>, out: &mut [f32]) {
    let c = lines.check();
    assert!(x.len() == out.len() && x.len().is_multiple_of(c));
    for_each_vector!(S, [x.len() / c, c], |at, channel, n, WHOLE| {
        // SAFETY: all have so many pixels and channels, as asserted.
        unsafe {
            let u = lines.at::<S, WHOLE>(s, load::<S, WHOLE>(s, x, at, n), channel, n);
            store::<S, WHOLE>(s, out, at, n, A::value(s, u));
        }
    });
}

impl Lines<'_> {
    /// The number of channels, of which all parts have as many.
    fn check(&self) -> usize {
        assert_eq!([self.a.len(), self.b.len()], [self.mu.len(); 2]);
        self.mu.len()
    }

    /// u of `n` channels from `channel`, see [`load`].
    ///
    /// # Safety
    /// There are so many channels.
    #[inline(always)]
    unsafe fn at<S: Simd, const WHOLE: bool>(self, s: S, x: S::V, channel: usize, n: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let d = s.sub(x, load::<S, WHOLE>(s, self.mu, channel, n));
            s.fma(d, load::<S, WHOLE>(s, self.a, channel, n), load::<S, WHOLE>(s, self.b, channel, n))
        }
    }
}

kernel! {
    /// `grad_scales`: a row, as in the table.
    fn backward_image<'a>(
        s; image: Image<'a>, grad_out: &'a [f32], act: Activation, more: Option<&'a [f32]>, grad_x: &'a mut [f32],
        grad_scales: &'a mut [f32]
    ) {
        let Image { x, scales: Scales { gamma, alpha, beta, group, .. }, mu, r } = image;
        let (c, pixels) = (mu.len(), x.len() / mu.len());
        let (mu_hat, mu_scale) = image.standardised_means();
        let (grad_gamma, rest) = grad_scales.split_at_mut(c);
        let lens = [c, c, 2 * c, c];
        let mut scratch = Scratch::take(lens);
        let [a, b, sums, scale] = scratch.pieces(lens);
        image.set_lines(&mu_hat, a, b);
        // The first pass leaves g in grad_x, where the second finds it in the cache: cheaper than another exponential.
        let lines = Lines { mu, a, b };
        lines.check();
        assert_eq!([grad_out.len(), grad_x.len()], [x.len(); 2]);
        // SAFETY: all have so many pixels and channels, as asserted.
        unsafe {
            with_slope!(act, |A| {
                let slope = PhantomData::<A>;
                sum_terms(s, [pixels, c], &mut Gradients { x, grad_out, lines, g: grad_x, slope }, sums);
            });
        }
        let (s_1, s_2) = sums.split_at_mut(c);
        if beta.is_none() {
            for i in 0..c {
                let s_x = s_2[i] + mu[i] * s_1[i];
                grad_gamma[i] = r[i] * s_x;
                scale[i] = gamma[i] * r[i];
                (a[i], b[i]) = (-scale[i] * r[i] * r[i] * s_x / (pixels as f32 - 1.0), 0.0);
            }
            s_1.fill(0.0);
            gradient_of_pixels(s, x, Lines { mu, a, b }, [scale, s_1], more, grad_x);
            return;
        }
        let (grad_alpha, grad_beta) = rest.split_at_mut(rest.len() - c);
        s_2.iter_mut().zip(r).for_each(|(sum, r)| *sum *= r);
        if group > 1 {
            for first in (0..c).step_by(group) {
                let channels = first..first + group;
                let mean = |sums: &[f32]| {
                    let sum: f64 = channels.clone().map(|i| f64::from(gamma[i]) * f64::from(sums[i])).sum();
                    sum / (group * pixels) as f64
                };
                let [mean_g, mean_g_x_hat] = [&*s_1, &*s_2].map(mean);
                for i in channels {
                    (grad_gamma[i], grad_beta[i]) = (s_2[i], s_1[i]);
                    scale[i] = gamma[i] * r[i];
                    (a[i], b[i]) = (-r[i] * r[i] * mean_g_x_hat as f32, -r[i] * mean_g as f32);
                }
            }
            s_1.fill(0.0);
            gradient_of_pixels(s, x, Lines { mu, a, b }, [scale, s_1], more, grad_x);
            return;
        }
        let mut grad_mu_hat = vec![0.0; c];
        for i in 0..c {
            let (alpha, mu_hat) = (alpha.map_or(0.0, |alpha| alpha[i]), mu_hat[i] as f32);
            grad_gamma[i] = s_2[i] + alpha * mu_hat * s_1[i];
            if !grad_alpha.is_empty() {
                grad_alpha[i] = gamma[i] * mu_hat * s_1[i];
            }
            grad_beta[i] = s_1[i];
            grad_mu_hat[i] = f64::from(gamma[i]) * f64::from(alpha) * f64::from(s_1[i]);
        }
        let mean = grad_mu_hat.iter().sum::<f64>() / c as f64;
        let dot = grad_mu_hat.iter().zip(&mu_hat).map(|(grad, mu_hat)| grad * mu_hat).sum::<f64>();
        // Of a single channel, which has no α, 0/0 would be none.
        let slope = if c > 1 { dot / (c as f64 - 1.0) } else { 0.0 };
        for i in 0..c {
            let grad_mu = mu_scale * (grad_mu_hat[i] - mean - mu_hat[i] * slope);
            let [mean_g, mean_g_x_hat] = [s_1[i], s_2[i]].map(|sum| sum / pixels as f32);
            scale[i] = gamma[i] * r[i];
            (a[i], b[i]) = (-scale[i] * r[i] * mean_g_x_hat, (grad_mu / pixels as f64) as f32);
            s_1[i] = mean_g;
        }
        gradient_of_pixels(s, x, Lines { mu, a, b }, [scale, s_1], more, grad_x);
    }
}

/// g = grad_out·act′(u), which is written, and g·(x − μ).
struct Gradients<'a, A> {
    x: &'a [f32],
    grad_out: &'a [f32],
    lines: Lines<'a>,
    g: &'a mut [f32],
    slope: PhantomData<A>,
}

impl<S: Simd, A: Slope> Terms<S, 2> for Gradients<'_, A> {
    #[inline(always)]
    unsafe fn terms<const WHOLE: bool>(&mut self, s: S, at: usize, channel: usize, n: usize) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (x, grad) = (load::<S, WHOLE>(s, self.x, at, n), load::<S, WHOLE>(s, self.grad_out, at, n));
            let g = if A::IS_IDENTITY {
                grad
            } else {
                s.mul(grad, A::slope(s, self.lines.at::<S, WHOLE>(s, x, channel, n)))
            };
            store::<S, WHOLE>(s, self.g, at, n, g);
            [g, s.mul(g, s.sub(x, load::<S, WHOLE>(s, self.lines.mu, channel, n)))]
        }
    }
}

/// scale·(g − mean) + a·(x − μ) + b, plus `more`, in place of g.
#[inline(always)]
fn gradient_of_pixels<S: Simd>(
    s: S,
    x: &[f32],
    lines: Lines<'_>,
    [scale, mean]: [&[f32]; 2],
    more: Option<&[f32]>,
    g: &mut [f32],
) {
    let c = lines.check();
    assert!(scale.len() == c && mean.len() == c && x.len().is_multiple_of(c));
    assert!(g.len() == x.len() && more.is_none_or(|more| more.len() == x.len()));
    for_each_vector!(S, [x.len() / c, c], |at, channel, n, WHOLE| {
        // SAFETY: all have so many pixels and channels, as asserted.
        unsafe {
            let line = lines.at::<S, WHOLE>(s, load::<S, WHOLE>(s, x, at, n), channel, n);
            let centred = s.sub(load::<S, WHOLE>(s, g, at, n), load::<S, WHOLE>(s, mean, channel, n));
            let mut grad = s.fma(centred, load::<S, WHOLE>(s, scale, channel, n), line);
            if let Some(more) = more {
                grad = s.add(grad, load::<S, WHOLE>(s, more, at, n));
            }
            store::<S, WHOLE>(s, g, at, n, grad);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` numbers between −1 and 1.
    pub(super) fn numbers(n: usize, seed: u64) -> Vec<f32> {
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
        kind: Kind,
        act: Activation,
        x: Vec<f32>,
        /// A row more than there are images. Of three images two have the same.
        table: Vec<f32>,
        rows: Vec<usize>,
        grad_out: Vec<f32>,
    }

    impl Case {
        fn new([n, c, pixels]: [usize; 3], act: Activation, kind: Kind, seed: u64) -> Self {
            let len = n * c * pixels;
            let columns = kind.n_columns() * c;
            let mut table = numbers((n + 1) * columns, seed + 1);
            table.chunks_mut(columns).for_each(|row| row[..c].iter_mut().for_each(|gamma| *gamma += 1.0));
            Self {
                shape: NormShape { n, c, pixels },
                kind,
                act,
                // Channels with different means.
                x: numbers(len, seed).iter().enumerate().map(|(i, x)| x + (i % c % 5) as f32 * 0.3).collect(),
                table,
                rows: (0..n).map(|i| if i % 3 == 2 { n } else { n - i }).collect(),
                grad_out: numbers(len, seed + 4),
            }
        }

        /// Every kind of case: one pixel, whole vectors and rests, odd numbers of channels, one image and several.
        fn all() -> Vec<Self> {
            let shapes = [
                [1, 2, 1],
                [3, 5, 1],
                [3, 3, 7],
                [1, 16, 4],
                [2, 17, 9],
                [2, 7, 35],
                [1, 67, 3],
                [1, 2, 196],
                [1, 64, 2],
            ];
            let kinds = [Kind::Instance, Kind::InstancePlus, Kind::Variance];
            let groups =
                [([1, 4, 1], 2), ([3, 6, 7], 3), ([2, 16, 9], 1), ([2, 34, 5], 2), ([1, 64, 4], 32), ([2, 5, 6], 5)];
            let mut cases = vec![([2, 1, 9], Kind::Instance), ([2, 1, 9], Kind::Variance)];
            cases.extend(shapes.into_iter().flat_map(|shape| kinds.map(|kind| (shape, kind))));
            // The variance of one pixel is none.
            cases.extend(groups.map(|(shape, n_groups)| (shape, Kind::Group { n_groups })));
            cases.retain(|&([.., pixels], kind)| kind != Kind::Variance || pixels > 1);
            let each = |(shape, kind)| Activation::ALL.map(|act| (shape, kind, act));
            cases
                .into_iter()
                .flat_map(each)
                .zip(1..)
                .map(|((shape, kind, act), seed)| Self::new(shape, act, kind, seed))
                .collect()
        }

        fn norm(&self) -> Norm<'_> {
            let Self { shape, kind, ref table, ref rows, act: activation, .. } = *self;
            Norm { shape, kind, table, rows, epsilon: EPSILON, activation }
        }

        /// The output and the statistics.
        fn forward(&self, isa: Isa) -> (Vec<f32>, Vec<f32>) {
            let mut out = vec![f32::NAN; self.x.len()];
            let mut statistics = vec![f32::NAN; 2 * self.shape.n * self.shape.c];
            self.norm().forward(isa, &self.x, &mut statistics, &mut out);
            (out, statistics)
        }

        /// The gradients for x and the table.
        fn backward(&self, isa: Isa, more: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
            let (_, statistics) = self.forward(isa);
            let [mut grad_x, mut grad_table] = [&self.x, &self.table].map(|values| vec![f32::NAN; values.len()]);
            self.norm().backward(isa, &self.x, &statistics, &self.grad_out, more, &mut grad_table, &mut grad_x);
            (grad_x, grad_table)
        }

        /// One image, with the whole table.
        fn image(&self, i: usize) -> Self {
            let of = |values: &[f32]| values[i * self.shape.image()..][..self.shape.image()].to_vec();
            Self {
                shape: NormShape { n: 1, ..self.shape },
                x: of(&self.x),
                rows: vec![self.rows[i]],
                grad_out: of(&self.grad_out),
                ..self.clone()
            }
        }
    }

    /// One image in f64, by the formulas. Its x, and its row of the table.
    fn reference(case: &Case, inputs: &[f64]) -> Vec<f64> {
        let NormShape { c, pixels, .. } = case.shape;
        let (x, scales) = inputs.split_at(c * pixels);
        let (gamma, alpha, beta) = (&scales[..c], &scales[c..], &scales[scales.len() - c..]);
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let squares = |x: &[f64]| x.iter().map(|v| (v - mean(x)).powi(2)).sum::<f64>();
        let channel = |i: usize| x.iter().skip(i).step_by(c).copied().collect::<Vec<f64>>();
        let group = case.kind.group(c);
        let of_group = |i: usize| (0..group).flat_map(|k| channel(i / group * group + k)).collect::<Vec<f64>>();
        let mu: Vec<f64> = (0..c).map(|i| mean(&of_group(i))).collect();
        let spread = (squares(&mu) / (c as f64 - 1.0) + 1e-5).sqrt();
        let mut out = vec![0.0; x.len()];
        for i in 0..c {
            let n = if case.kind == Kind::Variance { pixels - 1 } else { pixels * group };
            let r = 1.0 / (squares(&of_group(i)) / n as f64 + 1e-5).sqrt();
            for (out, x) in out.iter_mut().zip(x).skip(i).step_by(c) {
                let u = match case.kind {
                    Kind::Instance | Kind::Group { .. } => gamma[i] * (x - mu[i]) * r + beta[i],
                    Kind::InstancePlus => {
                        gamma[i] * ((x - mu[i]) * r + alpha[i] * (mu[i] - mean(&mu)) / spread) + beta[i]
                    }
                    Kind::Variance => gamma[i] * x * r,
                };
                *out = case.act.definition(u).0;
            }
        }
        out
    }

    fn inputs(image: &Case) -> Vec<f64> {
        let columns = image.norm().columns();
        let row = &image.table[image.rows[0] * columns..][..columns];
        image.x.iter().chain(row).copied().map(f64::from).collect()
    }

    /// Rounding of numbers up to 3 in f32, through μ and sums of up to 200, times the largest factor that they meet.
    fn tolerance(case: &Case, statistics: &[f32]) -> f64 {
        let r = statistics.chunks(case.shape.c).skip(1).step_by(2).flatten();
        let largest_r = r.copied().fold(1.0, f32::max);
        let spread = if case.kind == Kind::InstancePlus { 4.0 } else { 1.0 };
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
        let case = Case::new([2, 3, 7], Activation::Elu, Kind::InstancePlus, 3);
        let more = numbers(case.x.len(), 9);
        for isa in Isa::available() {
            let (grad_x, grad_table) = case.backward(isa, None);
            let (found, same) = case.backward(isa, Some(&more));
            let sum = grad_x.iter().zip(&more).map(|(a, b)| a + b);
            assert_eq!(found, sum.collect::<Vec<_>>(), "{isa}");
            assert_eq!(same, grad_table, "{isa}");
        }
    }

    #[test]
    fn the_norm_is_its_formula_on_every_instruction_set() {
        for (isa, case) in Isa::available().into_iter().flat_map(|isa| Case::all().into_iter().map(move |c| (isa, c))) {
            let (out, statistics) = case.forward(isa);
            let what = format!("{isa}, {:?}, {:?}, {:?}", case.shape, case.kind, case.act);
            for (i, out) in out.chunks(case.shape.image()).enumerate() {
                let image = case.image(i);
                assert_near(out, &reference(&image, &inputs(&image)), tolerance(&case, &statistics), &what);
            }
        }
    }

    #[test]
    fn gradients_are_differences_of_the_formula_on_every_instruction_set() {
        for case in Case::all() {
            let (n, columns) = (case.shape.n, case.norm().columns());
            let differences: Vec<Vec<f64>> = (0..n).map(|i| central_differences(&case.image(i))).collect();
            let mut of_table = vec![0.0; case.table.len()];
            for (row, differences) in case.rows.iter().zip(&differences) {
                let sums = &mut of_table[row * columns..][..columns];
                sums.iter_mut().zip(&differences[case.shape.image()..]).for_each(|(sum, d)| *sum += d);
            }
            for isa in Isa::available() {
                let (grad_x, grad_table) = case.backward(isa, None);
                // Sums over the pixels of products of such numbers as in `tolerance`; differences are exact to 1e-8.
                let largest = differences.iter().flatten().fold(1.0f64, |largest, d| largest.max(d.abs()));
                let tolerance = 2.0 * tolerance(&case, &case.forward(isa).1) * largest.sqrt() + 1e-8;
                let what = format!("{isa}, {:?}, {:?}, {:?}", case.shape, case.kind, case.act);
                for (differences, grad_x) in differences.iter().zip(grad_x.chunks(case.shape.image())) {
                    assert_near(grad_x, &differences[..grad_x.len()], tolerance, &format!("x, {what}"));
                }
                assert_near(&grad_table, &of_table, tolerance, &format!("table, {what}"));
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
            let case = Case::new([5, 6, 53], Activation::Elu, Kind::InstancePlus, 7);
            let (all, (grad_all, grad_table)) = (case.forward(isa).0, case.backward(isa, None));
            let mut sums = vec![0.0; case.table.len()];
            for i in 0..case.shape.n {
                let (image, values) = (case.image(i), i * case.shape.image()..(i + 1) * case.shape.image());
                let (grad_x, of_image) = image.backward(isa, None);
                assert_eq!(all[values.clone()], image.forward(isa).0, "{isa}");
                assert_eq!(grad_all[values], grad_x, "{isa}");
                sums.iter_mut().zip(of_image).for_each(|(sum, part)| *sum += part);
            }
            assert_eq!(grad_table, sums, "{isa}");
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let with = |threads: usize, isa: Isa| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            let case = Case::new([7, 4, 77], Activation::Elu, Kind::InstancePlus, 8);
            pool.install(|| (case.forward(isa), case.backward(isa, None)))
        };
        for isa in Isa::available() {
            assert_eq!(with(1, isa), with(3, isa), "{isa}");
        }
    }
}
