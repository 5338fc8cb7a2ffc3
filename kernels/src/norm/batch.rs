//! Batch normalisation (Ioffe & Szegedy 2015), with the activation behind it.

use std::marker::PhantomData;

use super::{Activation, Gradients, Lines, NormShape, Squares, gradient_of_pixels, normalise_pixels};
use crate::activation::with_slope;
use crate::buffer::Scratch;
use crate::channels::{Values, sum_terms};
use crate::cpu::{Isa, kernel};
use crate::parallel::{for_each_pair_of_parts, for_each_part};
use crate::size;

/// A norm with the same mean μ and variance σ² of each channel for all images: act(γ·(x − μ)·r + β), r = 1/√(σ² + ε).
#[derive(Clone, Copy, Debug)]
pub struct BatchNorm<'a> {
    /// The images' sizes.
    pub shape: NormShape,
    /// Its parameters: rows (γ, β), of `c` numbers each.
    pub table: &'a [f32],
    /// The row of each image, `[n]`.
    pub rows: &'a [usize],
    /// μ and σ²: `[2, c]`.
    pub moments: &'a [f32],
    /// Whether these are the [`moments`] of the images themselves, so that they move with them.
    pub of_batch: bool,
    /// ε.
    pub epsilon: f32,
    /// What follows.
    pub activation: Activation,
}

/// The mean and the biased variance of each channel over the pixels of all images. Each image is summed by itself, then images in their
/// order.
///
/// # Shapes
/// `x`: `[n, pixels, c]`; `moments`: `[2, c]`.
///
/// # Panics
/// If a length is another, or there is no number.
pub fn moments(isa: Isa, shape: NormShape, x: &[f32], moments: &mut [f32]) {
    let NormShape { n, c, pixels } = shape;
    assert!(n > 0 && c > 0 && pixels > 0, "found {shape:?}, expected at least one image, channel and pixel");
    let [len, n_sums] = [[n, c, pixels], [n, 2, c]].map(|sizes| size::numbers(shape, sizes));
    assert_eq!([x.len(), moments.len()], [len, 2 * c], "found images or moments of other lengths than {shape:?}");
    let image = shape.image();
    let mut scratch = Scratch::take([n_sums / 2]);
    let [sums] = scratch.pieces([n_sums / 2]);
    let count = n as f64 * pixels as f64;
    let (mean, variance) = moments.split_at_mut(c);
    let reduced = |sums: &[f32], out: &mut [f32]| {
        for (channel, out) in out.iter_mut().enumerate() {
            let sum: f64 = sums.iter().skip(channel).step_by(c).map(|&x| f64::from(x)).sum();
            *out = (sum / count) as f32;
        }
    };
    for_each_part(sums, c, |i, sums| sum_image(isa, &x[i * image..][..image], sums));
    reduced(sums, mean);
    let mean = &*mean;
    for_each_part(sums, c, |i, sums| sum_squares(isa, &x[i * image..][..image], mean, sums));
    reduced(sums, variance);
}

kernel! {
    fn sum_image<'a>(s; x: &'a [f32], sums: &'a mut [f32]) {
        let c = sums.len();
        // SAFETY: x has so many pixels and channels.
        unsafe { sum_terms(s, [x.len() / c, c], &mut Values(x), sums) }
    }
}

kernel! {
    /// Σ (x − μ)²
    fn sum_squares<'a>(s; x: &'a [f32], mu: &'a [f32], sums: &'a mut [f32]) {
        let c = sums.len();
        assert_eq!(mu.len(), c);
        // SAFETY: x has so many pixels and channels, and μ so many channels.
        unsafe { sum_terms(s, [x.len() / c, c], &mut Squares { x, mu }, sums) }
    }
}

impl BatchNorm<'_> {
    /// # Shapes
    /// `x`, `out`: `[n, pixels, c]`
    ///
    /// # Panics
    /// If a length is another, the table has no such row, or there is no channel or pixel.
    pub fn forward(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        self.check([x.len(), out.len()]);
        let (r, image) = (self.inverse_stds(), self.shape.image());
        let mu = &self.moments[..self.shape.c];
        for_each_part(out, image, |i, out| {
            normalise_image(isa, &x[i * image..][..image], [mu, &r], self.scales(i), self.activation, out);
        });
    }

    /// The gradients of [`Self::forward`]: that for x is written to `grad_x`, that for the table to `grad_table`, a row's images added up
    /// in their order.
    ///
    /// With g = grad_out·act′(u), u the activation's input, x̂ = (x − μ)·r, and for each image the sums S₁ = Σ g and S₂ = Σ g·x̂ over a
    /// channel's pixels: ∂β = S₁, ∂γ = S₂, ∂x = γ·r·g for given moments; for those of the batch
    /// ∂x = r·(γ·g − mean γ·S₁ − x̂·mean γ·S₂), means over all pixels.
    ///
    /// # Shapes
    /// `x`, `grad_out`, `grad_x`: `[n, pixels, c]`; `grad_table` as the table.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn backward(&self, isa: Isa, x: &[f32], grad_out: &[f32], grad_table: &mut [f32], grad_x: &mut [f32]) {
        self.check([x.len(), grad_x.len()]);
        let NormShape { n, c, pixels } = self.shape;
        assert_eq!(grad_out.len(), x.len(), "found a gradient of another length than x");
        assert_eq!(grad_table.len(), self.table.len(), "found a gradient of another length than the table");
        let (r, image) = (self.inverse_stds(), self.shape.image());
        let mu = &self.moments[..c];
        let mut scratch = Scratch::take([2 * n * c]);
        let [of_images] = scratch.pieces([2 * n * c]);
        // The first pass leaves g in grad_x.
        for_each_pair_of_parts([grad_x, &mut *of_images], [image, 2 * c], |i, [g, sums]| {
            let [x, grad_out] = [x, grad_out].map(|values| &values[i * image..][..image]);
            sum_gradients(isa, x, grad_out, [mu, &r], self.scales(i), self.activation, g, sums);
        });
        grad_table.fill(0.0);
        let mut means = vec![[0.0f64; 2]; c];
        for (i, &row) in self.rows.iter().enumerate() {
            let (s_1, s_2) = of_images[2 * i * c..][..2 * c].split_at(c);
            let sums = &mut grad_table[2 * row * c..][..2 * c];
            let [gamma, _] = self.scales(i);
            for channel in 0..c {
                let (s_1, s_2) = (s_1[channel], s_2[channel] * r[channel]);
                sums[channel] += s_2;
                sums[c + channel] += s_1;
                let [of_1, of_2] = &mut means[channel];
                *of_1 += f64::from(gamma[channel]) * f64::from(s_1);
                *of_2 += f64::from(gamma[channel]) * f64::from(s_2);
            }
        }
        let count = if self.of_batch { n as f64 * pixels as f64 } else { f64::INFINITY };
        let a: Vec<f32> = means.iter().zip(&r).map(|([_, m], &r)| -r * r * (m / count) as f32).collect();
        let b: Vec<f32> = means.iter().zip(&r).map(|([m, _], &r)| -r * (m / count) as f32).collect();
        for_each_part(grad_x, image, |i, g| {
            let [gamma, _] = self.scales(i);
            finish_image(isa, &x[i * image..][..image], Lines { mu, a: &a, b: &b }, [gamma, &r], g);
        });
    }

    fn inverse_stds(&self) -> Vec<f32> {
        self.moments[self.shape.c..].iter().map(|variance| 1.0 / (variance + self.epsilon).sqrt()).collect()
    }

    /// γ and β of image `i`.
    fn scales(&self, i: usize) -> [&[f32]; 2] {
        let (gamma, beta) = self.table[2 * self.rows[i] * self.shape.c..][..2 * self.shape.c].split_at(self.shape.c);
        [gamma, beta]
    }

    fn check(&self, images: [usize; 2]) {
        let NormShape { n, c, pixels } = self.shape;
        assert!(c > 0 && pixels > 0, "found {:?}, expected at least one channel and one pixel", self.shape);
        let [len, _] = [[n, c, pixels], [n, 2, c]].map(|sizes| size::numbers(self.shape, sizes));
        assert_eq!(images, [len; 2], "found images of other lengths than {:?}", self.shape);
        assert_eq!([self.rows.len(), self.moments.len()], [n, 2 * c], "found rows or moments of other images");
        assert!(self.table.len().is_multiple_of(2 * c), "found a table of other rows than {c} channels need");
        let n_rows = self.table.len() / (2 * c);
        assert!(self.rows.iter().all(|&row| row < n_rows), "found rows {:?} of a table of {n_rows}", self.rows);
    }
}

/// The lines of an image: a = γ·r, b = β.
fn slopes(a: &mut [f32], gamma: &[f32], r: &[f32]) {
    for ((a, gamma), r) in a.iter_mut().zip(gamma).zip(r) {
        *a = gamma * r;
    }
}

kernel! {
    fn normalise_image<'a>(
        s; x: &'a [f32], of_batch: [&'a [f32]; 2], scales: [&'a [f32]; 2], activation: Activation, out: &'a mut [f32]
    ) {
        let ([mu, r], [gamma, beta]) = (of_batch, scales);
        let mut scratch = Scratch::take([mu.len()]);
        let [a] = scratch.pieces([mu.len()]);
        slopes(a, gamma, r);
        with_slope!(activation, |A| normalise_pixels::<S, A>(s, x, Lines { mu, a, b: beta }, out));
    }
}

kernel! {
    /// g, and Σ g and Σ g·(x − μ) of each channel.
    fn sum_gradients<'a>(
        s; x: &'a [f32], grad_out: &'a [f32], of_batch: [&'a [f32]; 2], scales: [&'a [f32]; 2], activation: Activation,
        g: &'a mut [f32], sums: &'a mut [f32]
    ) {
        let ([mu, r], [gamma, beta], c) = (of_batch, scales, of_batch[0].len());
        let mut scratch = Scratch::take([c]);
        let [a] = scratch.pieces([c]);
        slopes(a, gamma, r);
        let lines = Lines { mu, a, b: beta };
        assert_eq!(lines.check(), c);
        assert!(x.len().is_multiple_of(c));
        assert_eq!([grad_out.len(), g.len()], [x.len(); 2]);
        // SAFETY: all have so many pixels and channels, as asserted.
        unsafe {
            with_slope!(activation, |A| {
                let slope = PhantomData::<A>;
                sum_terms(s, [x.len() / c, c], &mut Gradients { x, grad_out, lines, g, slope }, sums);
            });
        }
    }
}

kernel! {
    /// γ·r·g + a·(x − μ) + b in place of g.
    fn finish_image<'a>(s; x: &'a [f32], lines: Lines<'a>, of_g: [&'a [f32]; 2], g: &'a mut [f32]) {
        let [gamma, r] = of_g;
        let lens = [r.len(); 2];
        let mut scratch = Scratch::take(lens);
        let [scale, none] = scratch.pieces(lens);
        slopes(scale, gamma, r);
        none.fill(0.0);
        gradient_of_pixels(s, x, lines, [scale, none], None, g);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::numbers;
    use super::*;

    struct Case {
        shape: NormShape,
        x: Vec<f32>,
        table: Vec<f32>,
        rows: Vec<usize>,
        moments: Vec<f32>,
        of_batch: bool,
        activation: Activation,
        grad_out: Vec<f32>,
    }

    impl Case {
        fn new([n, c, pixels]: [usize; 3], activation: Activation, of_batch: bool, seed: u64) -> Self {
            let shape = NormShape { n, c, pixels };
            let shift = |i: usize| (i % c % 5) as f32 * 0.3;
            let x: Vec<f32> = numbers(n * c * pixels, seed).iter().enumerate().map(|(i, x)| x + shift(i)).collect();
            let mut table = numbers((n + 1) * 2 * c, seed + 1);
            table.chunks_mut(2 * c).for_each(|row| row[..c].iter_mut().for_each(|gamma| *gamma += 1.0));
            let mut found = vec![f32::NAN; 2 * c];
            match of_batch {
                true => moments(Isa::available()[0], shape, &x, &mut found),
                false => found.iter_mut().enumerate().for_each(|(i, x)| *x = 0.2 + shift(i)),
            }
            Self {
                shape,
                x,
                table,
                rows: (0..n).map(|i| if i % 3 == 2 { n } else { n - i }).collect(),
                moments: found,
                of_batch,
                activation,
                grad_out: numbers(n * c * pixels, seed + 2),
            }
        }

        fn all() -> Vec<Self> {
            let shapes = [[1, 2, 2], [3, 5, 1], [3, 3, 7], [2, 16, 4], [4, 17, 9], [2, 7, 35], [3, 67, 3], [1, 1, 9]];
            let each =
                |shape| Activation::ALL.into_iter().flat_map(move |act| [(shape, act, true), (shape, act, false)]);
            let cases = shapes.into_iter().flat_map(each);
            cases.zip(1..).map(|((shape, act, of_batch), seed)| Self::new(shape, act, of_batch, seed)).collect()
        }

        fn norm(&self) -> BatchNorm<'_> {
            let Self { shape, ref table, ref rows, ref moments, of_batch, activation, .. } = *self;
            BatchNorm { shape, table, rows, moments, of_batch, epsilon: 1e-2, activation }
        }

        /// By the formulas in f64, of the images and the table one behind the other.
        fn reference(&self, inputs: &[f64]) -> Vec<f64> {
            let NormShape { n, c, pixels } = self.shape;
            let (x, table) = inputs.split_at(n * c * pixels);
            let mut out = vec![0.0; x.len()];
            for channel in 0..c {
                let of_channel = || x.iter().skip(channel).step_by(c);
                let count = (n * pixels) as f64;
                let (mean, variance) = match self.of_batch {
                    true => {
                        let mean = of_channel().sum::<f64>() / count;
                        (mean, of_channel().map(|x| (x - mean).powi(2)).sum::<f64>() / count)
                    }
                    false => (f64::from(self.moments[channel]), f64::from(self.moments[c + channel])),
                };
                for (k, x) in of_channel().enumerate() {
                    let row = &table[2 * self.rows[k / pixels] * c..][..2 * c];
                    let u = row[channel] * (x - mean) / (variance + f64::from(1e-2f32)).sqrt() + row[c + channel];
                    out[k * c + channel] = self.activation.definition(u).0;
                }
            }
            out
        }

        fn inputs(&self) -> Vec<f64> {
            self.x.iter().chain(&self.table).copied().map(f64::from).collect()
        }
    }

    #[test]
    fn the_norm_is_its_formula_on_every_instruction_set() {
        for (isa, case) in Isa::available().into_iter().flat_map(|isa| Case::all().into_iter().map(move |c| (isa, c))) {
            let mut out = vec![f32::NAN; case.x.len()];
            case.norm().forward(isa, &case.x, &mut out);
            for (found, expected) in out.iter().zip(case.reference(&case.inputs())) {
                let what = format!("{isa}, {:?}, {:?}, {}", case.shape, case.activation, case.of_batch);
                assert!((f64::from(*found) - expected).abs() < 1e-5, "{what}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_differences_of_the_formula_on_every_instruction_set() {
        for case in Case::all() {
            let objective = |inputs: &[f64]| -> f64 {
                case.reference(inputs).iter().zip(&case.grad_out).map(|(out, &grad)| out * f64::from(grad)).sum()
            };
            let mut inputs = case.inputs();
            let differences: Vec<f64> = (0..inputs.len())
                .map(|i| {
                    let (at, h) = (inputs[i], 1e-6);
                    let mut of = |x: f64| {
                        inputs[i] = x;
                        objective(&inputs)
                    };
                    let difference = (of(at + h) - of(at - h)) / (2.0 * h);
                    inputs[i] = at;
                    difference
                })
                .collect();
            for isa in Isa::available() {
                let [mut grad_x, mut grad_table] = [&case.x, &case.table].map(|values| vec![f32::NAN; values.len()]);
                case.norm().backward(isa, &case.x, &case.grad_out, &mut grad_table, &mut grad_x);
                let largest = differences.iter().fold(1.0f64, |largest, d| largest.max(d.abs()));
                for (i, (found, expected)) in grad_x.iter().chain(&grad_table).zip(&differences).enumerate() {
                    let what = format!("{isa}, {:?}, {:?}, {}, {i}", case.shape, case.activation, case.of_batch);
                    let error = (f64::from(*found) - expected).abs();
                    assert!(error < 1e-5 * largest, "{what}: {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let with = |threads: usize, isa: Isa| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| {
                let case = Case::new([7, 4, 77], Activation::Elu, true, 8);
                let (mut found, mut out) = (vec![f32::NAN; 8], vec![f32::NAN; case.x.len()]);
                moments(isa, case.shape, &case.x, &mut found);
                case.norm().forward(isa, &case.x, &mut out);
                let (mut grad_table, mut grad_x) = (vec![f32::NAN; case.table.len()], out.clone());
                case.norm().backward(isa, &case.x, &case.grad_out, &mut grad_table, &mut grad_x);
                (found, out, grad_table, grad_x)
            })
        };
        for isa in Isa::available() {
            assert_eq!(with(1, isa), with(3, isa), "{isa}");
        }
    }
}
