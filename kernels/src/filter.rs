//! Separable filters of images: a short weighted sum along the height, then one along the width.

use std::ops::Range;

use crate::buffer::Scratch;
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;
use crate::size;

/// Numbers that are one piece of work, if a row is not more.
const PART: usize = 1 << 14;

/// A linear map along one side of an image: each output pixel is a weighted sum of a few neighbouring input pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    n_in: usize,
    /// For each output pixel.
    bands: Vec<Band>,
    weights: Vec<f32>,
}

/// One output pixel: where its inputs begin, where their weights begin, how many there are.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Band {
    first: usize,
    weights: usize,
    len: usize,
}

impl Filter {
    /// That with `weight(i, j)` of input pixel `j` in output pixel `i`: 0 but for the pixels `inputs(i)`, as far as these exist.
    fn new(
        n_in: usize,
        n_out: usize,
        inputs: impl Fn(usize) -> Range<usize>,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        size::expect_memory::<Band>(n_out);
        let inputs = |i: usize| inputs(i).start.min(n_in)..inputs(i).end.min(n_in);
        let n_weights = (0..n_out).fold(0usize, |sum, i| sum.saturating_add(inputs(i).len()));
        size::expect_memory::<f32>(n_weights);
        let mut filter = Self { n_in, bands: Vec::with_capacity(n_out), weights: Vec::with_capacity(n_weights) };
        for i in 0..n_out {
            let is_there = |&j: &usize| weight(i, j) != 0.0;
            let first = inputs(i).find(is_there).unwrap_or(0);
            let end = inputs(i).rfind(is_there).map_or(first, |last| last + 1);
            filter.bands.push(Band { first, weights: filter.weights.len(), len: end - first });
            filter.weights.extend((first..end).map(|j| weight(i, j)));
        }
        filter
    }

    /// Means of `width` neighbours, an odd number, with zeros beyond the ends: n → n pixels.
    pub fn window_mean(n: usize, width: usize) -> Self {
        assert!(width % 2 == 1, "found a window of {width} pixels, expected an odd number");
        Self::new(n, n, |i| window(i, width), |i, j| if i.abs_diff(j) <= width / 2 { 1.0 / width as f32 } else { 0.0 })
    }

    /// Means of those of `width` neighbours, an odd number, that are inside the image: n → n pixels.
    pub fn window_mean_inside(n: usize, width: usize) -> Self {
        assert!(width % 2 == 1, "found a window of {width} pixels, expected an odd number");
        let n_inside = |i: usize| window(i, width).end.min(n) - window(i, width).start;
        let weight = |i: usize, j: usize| if i.abs_diff(j) <= width / 2 { 1.0 / n_inside(i) as f32 } else { 0.0 };
        Self::new(n, n, |i| window(i, width), weight)
    }

    /// Means of cells of `size` pixels, at least 1: n → ⌊n/size⌋ pixels.
    pub fn cell_mean(n: usize, size: usize) -> Self {
        assert!(size > 0, "found cells of 0 pixels");
        let weight = |i: usize, j: usize| if j / size == i { 1.0 / size as f32 } else { 0.0 };
        Self::new(n, n / size, |i| i * size..(i + 1) * size, weight)
    }

    /// Linear interpolation between `n_in` points, at least one, the ends aligned.
    pub fn interpolation(n_in: usize, n_out: usize) -> Self {
        assert!(n_in > 0, "found no points to interpolate between");
        let scale = if n_out > 1 { (n_in - 1) as f64 / (n_out - 1) as f64 } else { 0.0 };
        // The hat function around each input point.
        let weight = |i: usize, j: usize| (1.0 - (scale * i as f64 - j as f64).abs()).max(0.0) as f32;
        let first = |i: usize| (scale * i as f64) as usize;
        Self::new(n_in, n_out, |i| first(i)..first(i).saturating_add(2), weight)
    }

    /// Zeros put behind each pixel, so that there are `up` times as many, then `before` and `after` more at the ends, then a convolution
    /// with `taps`, of whose output every `down`-th pixel is kept, the first one first:
    /// n → ⌊(n·up + before + after − taps)/down⌋ + 1 pixels.
    ///
    /// # Panics
    /// If there are no taps, `up` or `down` is 0, or there are more taps than pixels.
    pub fn resampling(n: usize, taps: &[f32], [up, down]: [usize; 2], [before, after]: [usize; 2]) -> Self {
        let n_padded = n.checked_mul(up).and_then(|n| n.checked_add(before)?.checked_add(after));
        let n_padded = n_padded.filter(|&n| n <= isize::MAX as usize);
        let n_padded = n_padded.unwrap_or_else(|| panic!("found {n} pixels times {up}, more than there can be"));
        assert!(!taps.is_empty() && taps.len() <= n_padded, "found {} taps for {n_padded} pixels", taps.len());
        assert!(up > 0 && down > 0, "found rates of {up} and {down}, expected at least 1");
        // Output i reads the padded pixels from i·down; input j is the padded pixel before + j·up.
        let tap = |i: usize, j: usize| (before + j * up).checked_sub(i * down).filter(|&at| at < taps.len());
        let inputs = |i: usize| {
            let first = (i * down).saturating_sub(before).div_ceil(up);
            first..(i * down + taps.len()).saturating_sub(before).div_ceil(up)
        };
        let weight = |i: usize, j: usize| tap(i, j).map_or(0.0, |at| taps[taps.len() - 1 - at]);
        Self::new(n, (n_padded - taps.len()) / down + 1, inputs, weight)
    }

    /// The gradient's filter: the transposed matrix.
    pub fn transposed(&self) -> Self {
        size::expect_memory::<Range<usize>>(self.n_in);
        // Of each input pixel, between which output pixels it is read.
        let mut outputs = vec![0..0; self.n_in];
        for (i, band) in self.bands.iter().enumerate() {
            for read in &mut outputs[band.first..][..band.len] {
                *read = if read.start == read.end { i..i + 1 } else { read.start..i + 1 };
            }
        }
        Self::new(self.n_out(), self.n_in, |i| outputs[i].clone(), |i, j| self.weight(j, i))
    }

    /// The whole matrix, `[n_out, n_in]`.
    pub fn matrix(&self) -> Vec<f64> {
        let at = |k: usize| f64::from(self.weight(k / self.n_in(), k % self.n_in()));
        let len = size::numbers("a matrix", [self.n_out(), self.n_in()]);
        size::expect_memory::<f64>(len);
        (0..len).map(at).collect()
    }

    /// Pixels that it reads.
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Pixels that it gives.
    pub fn n_out(&self) -> usize {
        self.bands.len()
    }

    /// For each output pixel, where its input pixels begin, and their weights.
    pub fn bands(&self) -> impl Iterator<Item = (usize, &[f32])> {
        self.bands.iter().map(|band| (band.first, self.weights(band)))
    }

    fn weights(&self, band: &Band) -> &[f32] {
        &self.weights[band.weights..][..band.len]
    }

    /// The weight of input pixel `j` in output pixel `i`.
    fn weight(&self, i: usize, j: usize) -> f32 {
        let Band { first, weights, len } = self.bands[i];
        if (first..first + len).contains(&j) { self.weights[weights + j - first] } else { 0.0 }
    }
}

/// The pixels of a window of `width` around pixel `i`, an odd number.
fn window(i: usize, width: usize) -> Range<usize> {
    i.saturating_sub(width / 2)..i.saturating_add(width / 2).saturating_add(1)
}

/// R·x·Cᵀ for each channel of each image, with the matrices R of `rows` (the filter along the height) and C of `columns` (along
/// the width). The gradient for x is the same of the gradient for the output, with both filters transposed.
///
/// # Shapes
/// `x`: `[n, rows.n_in(), columns.n_in(), c]` → `out`: `[n, rows.n_out(), columns.n_out(), c]`
pub fn apply(isa: Isa, x: &[f32], [n, c]: [usize; 2], rows: &Filter, columns: &Filter, out: &mut [f32]) {
    let lens = [[n, rows.n_in(), columns.n_in(), c], [n, rows.n_out(), columns.n_out(), c]];
    let lens = lens.map(|sizes| size::numbers("images", sizes));
    assert_eq!([x.len(), out.len()], lens, "numbers of {n} images of {c} channels");
    if out.is_empty() {
        return;
    }
    let out_row = columns.n_out() * c;
    let at_once = (PART / out_row).max(1);
    parallel::for_each_part(out, at_once * out_row, |i, out| filter_rows(isa, x, c, rows, columns, i * at_once, out));
}

kernel! {
    /// The rows from `first` of all images' rows.
    fn filter_rows<'a>(
        s; x: &'a [f32], c: usize, rows: &'a Filter, columns: &'a Filter, first: usize, out: &'a mut [f32]
    ) {
        let in_row = columns.n_in() * c;
        let mut scratch = Scratch::take([in_row]);
        let [row] = scratch.pieces([in_row]);
        for (i, out) in out.chunks_exact_mut(columns.n_out() * c).enumerate() {
            let (image, y) = ((first + i) / rows.n_out(), (first + i) % rows.n_out());
            let band = &rows.bands[y];
            weighted_sums(s, &x[(image * rows.n_in() + band.first) * in_row..], in_row, rows.weights(band), row);
            for (band, out) in columns.bands.iter().zip(out.chunks_exact_mut(c)) {
                weighted_sums(s, &row[band.first * c..], c, columns.weights(band), out);
            }
        }
    }
}

/// Σₖ weights[k]·x[k·stride + i] for each `i` of `out`; the weights in their order.
#[inline(always)]
fn weighted_sums<S: Simd>(s: S, x: &[f32], stride: usize, weights: &[f32], out: &mut [f32]) {
    // The lengths of the usual filters, so that their sums are straight lines of code.
    match *weights {
        [a] => sums_of(s, x, stride, [a], out),
        [a, b] => sums_of(s, x, stride, [a, b], out),
        [a, b, c] => sums_of(s, x, stride, [a, b, c], out),
        [a, b, c, d, e] => sums_of(s, x, stride, [a, b, c, d, e], out),
        _ => {
            for (i, out) in out.chunks_mut(S::LANES).enumerate() {
                let mut sum = s.splat(0.0);
                for (k, &weight) in weights.iter().enumerate() {
                    sum = s.fma(s.load_some(&x[k * stride + i * S::LANES..][..out.len()]), s.splat(weight), sum);
                }
                s.store_some(out, sum);
            }
        }
    }
}

/// [`weighted_sums`] of `K` weights.
#[inline(always)]
fn sums_of<S: Simd, const K: usize>(s: S, x: &[f32], stride: usize, weights: [f32; K], out: &mut [f32]) {
    assert!(x.len() >= (K - 1) * stride + out.len());
    let n = out.len();
    let mut vectors = out.chunks_exact_mut(S::LANES);
    for (i, out) in (&mut vectors).enumerate() {
        let mut sum = s.splat(0.0);
        for (k, weight) in weights.into_iter().enumerate() {
            // SAFETY: the largest index of a lane is (K − 1)·stride + n − 1, which is below the length of x.
            let x = unsafe { s.load_ptr(x.as_ptr().add(k * stride + i * S::LANES)) };
            sum = s.fma(x, s.splat(weight), sum);
        }
        s.store(out, sum);
    }
    let rest = vectors.into_remainder();
    if !rest.is_empty() {
        let mut sum = s.splat(0.0);
        for (k, weight) in weights.into_iter().enumerate() {
            sum = s.fma(s.load_first(&x[k * stride + n - rest.len()..][..rest.len()]), s.splat(weight), sum);
        }
        s.store_first(rest, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` numbers between −1 and 1.
    fn numbers(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i + 1) * (2 * seed + 7919) % 10_007) as f32 / 5003.5 - 1.0).collect()
    }

    fn matrix(filter: &Filter) -> Vec<Vec<f64>> {
        (0..filter.n_out()).map(|i| (0..filter.n_in()).map(|j| f64::from(filter.weight(i, j))).collect()).collect()
    }

    /// R·x·Cᵀ of each of `n` channels of one image, dense and in f64.
    fn reference(x: &[f32], n: usize, rows: &Filter, columns: &Filter) -> Vec<f64> {
        let (r, c, w) = (matrix(rows), matrix(columns), columns.n_in());
        let pixel = |i: usize, j: usize, channel: usize| -> f64 {
            let channel = x.iter().skip(channel).step_by(n);
            channel.enumerate().map(|(k, &x)| r[i][k / w] * c[j][k % w] * f64::from(x)).sum()
        };
        let mut out = Vec::new();
        for (i, j) in (0..rows.n_out()).flat_map(|i| (0..columns.n_out()).map(move |j| (i, j))) {
            out.extend((0..n).map(|channel| pixel(i, j, channel)));
        }
        out
    }

    fn filters() -> Vec<Filter> {
        let mut filters = vec![
            Filter::window_mean(1, 5),
            Filter::window_mean(3, 5),
            Filter::window_mean(14, 5),
            Filter::window_mean(9, 3),
            Filter::window_mean_inside(7, 3),
            Filter::cell_mean(8, 2),
            Filter::cell_mean(7, 2),
            Filter::interpolation(1, 4),
            Filter::interpolation(5, 1),
            Filter::interpolation(7, 14),
            Filter::interpolation(5, 3),
            Filter::resampling(6, &[0.25, 0.75, 0.75, 0.25], [2, 1], [2, 1]),
            Filter::resampling(6, &[0.125, 0.375, 0.375, 0.125], [1, 2], [1, 1]),
            Filter::resampling(5, &[0.5, 0.75, -0.25], [3, 2], [0, 4]),
            Filter::resampling(1, &[0.5, 0.5], [1, 1], [1, 0]),
        ];
        filters.extend(filters.clone().iter().map(Filter::transposed));
        filters
    }

    fn applied(isa: Isa, x: &[f32], [n, c]: [usize; 2], rows: &Filter, columns: &Filter) -> Vec<f32> {
        let mut out = vec![f32::NAN; n * c * rows.n_out() * columns.n_out()];
        apply(isa, x, [n, c], rows, columns, &mut out);
        out
    }

    #[test]
    fn resampling_spreads_pads_convolves_and_picks() {
        let taps = [1.0f32, 2.0, 4.0, 8.0, -16.0];
        for (n, k, [up, down], [before, after]) in [
            (6, 4, [2, 1], [2, 1]),
            (6, 4, [1, 2], [1, 1]),
            (7, 4, [1, 1], [2, 2]),
            (5, 3, [3, 2], [0, 4]),
            (4, 2, [2, 1], [1, 0]),
            (3, 5, [1, 3], [1, 1]),
            (1, 1, [4, 1], [0, 0]),
        ] {
            let (taps, x) = (&taps[..k], numbers(n, 3));
            let mut padded = vec![0.0; before];
            x.iter().for_each(|&x| padded.extend(std::iter::once(x).chain(vec![0.0; up - 1])));
            padded.extend(vec![0.0; after]);
            let sums = padded.windows(k).map(|w| w.iter().zip(taps.iter().rev()).map(|(x, tap)| x * tap).sum::<f32>());
            let expected: Vec<f32> = sums.step_by(down).collect();
            let filter = Filter::resampling(n, taps, [up, down], [before, after]);
            let found = applied(Isa::chosen(), &x, [1, 1], &filter, &Filter::cell_mean(1, 1));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{n} pixels, {k} taps: {found}, expected {expected}");
            }
        }
        // Pixels doubled, and means of pairs.
        let doubled = matrix(&Filter::resampling(2, &[1.0, 1.0], [2, 1], [1, 0]));
        assert_eq!(doubled, [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]);
        assert_eq!(Filter::resampling(5, &[0.5, 0.5], [1, 2], [0, 0]), Filter::cell_mean(5, 2));
    }

    #[test]
    fn filters_are_the_matrices_of_their_names() {
        assert_eq!(matrix(&Filter::cell_mean(5, 2)), [[0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5, 0.0]]);
        assert_eq!(matrix(&Filter::interpolation(2, 3)), [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]);
        assert_eq!(matrix(&Filter::interpolation(3, 1)), [[1.0, 0.0, 0.0]]);
        let third = f64::from(1.0f32 / 3.0);
        assert_eq!(matrix(&Filter::window_mean(3, 3)), [[third, third, 0.0], [third; 3], [0.0, third, third]]);
        let inside = matrix(&Filter::window_mean_inside(3, 3));
        assert_eq!(inside, [[0.5, 0.5, 0.0], [third; 3], [0.0, 0.5, 0.5]]);
        assert_eq!(matrix(&Filter::window_mean_inside(1, 3)), [[1.0]]);
        assert_eq!(matrix(&Filter::cell_mean(3, 2).transposed()), [[0.5], [0.5], [0.0]]);
    }

    #[test]
    fn filters_are_products_with_their_matrices_on_every_instruction_set() {
        for isa in Isa::available() {
            for (i, rows) in filters().iter().enumerate() {
                for (j, columns) in filters().iter().enumerate() {
                    // Whole vectors of channels, and a few.
                    let (c, len) = ([1, 16, 19, 67][(i + j) % 4], rows.n_in() * columns.n_in());
                    let x = numbers(2 * c * len, i + j);
                    let found = applied(isa, &x, [2, c], rows, columns);
                    let expected: Vec<f64> = x.chunks(c * len).flat_map(|x| reference(x, c, rows, columns)).collect();
                    for (found, expected) in found.iter().zip(expected) {
                        // At most 5 + 5 roundings of sums up to 5 (the weights of a transposed interpolation).
                        let error = (f64::from(*found) - expected).abs();
                        assert!(error < 3e-6, "{isa}, filters {i} and {j}: found {found}, expected {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_transposed_filters_are_the_adjoint() {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
        for isa in Isa::available() {
            for (rows, columns) in filters().iter().zip(filters().iter().rev()) {
                let (x, y) =
                    (numbers(20 * rows.n_in() * columns.n_in(), 1), numbers(20 * rows.n_out() * columns.n_out(), 2));
                let forward = dot(&applied(isa, &x, [4, 5], rows, columns), &y);
                let backward = dot(&x, &applied(isa, &y, [4, 5], &rows.transposed(), &columns.transposed()));
                // f32 products of some thousand numbers below 5.
                assert!((forward - backward).abs() < 1e-6 * (x.len() + y.len()) as f64, "{forward}, {backward}");
            }
        }
    }

    #[test]
    fn an_image_does_not_depend_on_the_others_or_on_threads() {
        let (rows, columns) = (Filter::window_mean(9, 5), Filter::window_mean(7, 5));
        let x = numbers(150 * 63 * 20, 3);
        for isa in Isa::available() {
            let pools = [1, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads"));
            let [one, three] = pools.map(|pool| pool.install(|| applied(isa, &x, [150, 20], &rows, &columns)));
            assert_eq!(one, three, "{isa}");
            for (x, image) in x.chunks(63 * 20).zip(one.chunks(63 * 20)) {
                assert_eq!(applied(isa, x, [1, 20], &rows, &columns), image, "{isa}");
            }
        }
    }
}
