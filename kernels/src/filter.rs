//! Separable filters of images: a short weighted sum along the height, then one along the width.

use crate::buffer::Scratch;
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// Planes that are one piece of work: a multiple of every vector's length.
const PLANES: usize = 64;

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
    /// That with `weight(i, j)` of input pixel `j` in output pixel `i`, most of them 0.
    fn new(n_in: usize, n_out: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        let mut filter = Self { n_in, bands: Vec::with_capacity(n_out), weights: Vec::new() };
        for i in 0..n_out {
            let is_there = |&j: &usize| weight(i, j) != 0.0;
            let first = (0..n_in).find(is_there).unwrap_or(0);
            let end = (0..n_in).rfind(is_there).map_or(first, |last| last + 1);
            filter.bands.push(Band { first, weights: filter.weights.len(), len: end - first });
            filter.weights.extend((first..end).map(|j| weight(i, j)));
        }
        filter
    }

    /// Means of `width` neighbours, an odd number, with zeros beyond the ends: n → n pixels.
    pub fn window_mean(n: usize, width: usize) -> Self {
        assert!(width % 2 == 1, "found a window of {width} pixels, expected an odd number");
        Self::new(n, n, |i, j| if i.abs_diff(j) <= width / 2 { 1.0 / width as f32 } else { 0.0 })
    }

    /// Means of those of `width` neighbours, an odd number, that are inside the image: n → n pixels.
    pub fn window_mean_inside(n: usize, width: usize) -> Self {
        assert!(width % 2 == 1, "found a window of {width} pixels, expected an odd number");
        let n_inside = |i: usize| (i + width / 2 + 1).min(n) - i.saturating_sub(width / 2);
        Self::new(n, n, |i, j| if i.abs_diff(j) <= width / 2 { 1.0 / n_inside(i) as f32 } else { 0.0 })
    }

    /// Means of cells of `size` pixels: n → ⌊n/size⌋ pixels.
    pub fn cell_mean(n: usize, size: usize) -> Self {
        Self::new(n, n / size, |i, j| if j / size == i { 1.0 / size as f32 } else { 0.0 })
    }

    /// Linear interpolation between `n_in` points, the ends aligned.
    pub fn interpolation(n_in: usize, n_out: usize) -> Self {
        let scale = if n_out > 1 { (n_in - 1) as f64 / (n_out - 1) as f64 } else { 0.0 };
        // The hat function around each input point.
        Self::new(n_in, n_out, |i, j| (1.0 - (scale * i as f64 - j as f64).abs()).max(0.0) as f32)
    }

    /// The gradient's filter: the transposed matrix.
    pub fn transposed(&self) -> Self {
        Self::new(self.n_out(), self.n_in, |i, j| self.weight(j, i))
    }

    /// The whole matrix, `[n_out, n_in]`.
    pub fn matrix(&self) -> Vec<f64> {
        let at = |k: usize| f64::from(self.weight(k / self.n_in(), k % self.n_in()));
        (0..self.n_out() * self.n_in()).map(at).collect()
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

/// R·x·Cᵀ for each plane, with the matrices R of `rows` (the filter along the height) and C of `columns` (along the width).
/// The gradient for x is the same of the gradient for the output, with both filters transposed.
///
/// # Shapes
/// `x`: `[planes, rows.n_in(), columns.n_in()]` → `out`: `[planes, rows.n_out(), columns.n_out()]`
pub fn apply(isa: Isa, x: &[f32], planes: usize, rows: &Filter, columns: &Filter, out: &mut [f32]) {
    let (len_in, len_out) = (rows.n_in() * columns.n_in(), rows.n_out() * columns.n_out());
    assert_eq!(x.len(), planes * len_in, "found an input of another length than {planes} planes of {len_in}");
    assert_eq!(out.len(), planes * len_out, "found an output of another length than {planes} planes of {len_out}");
    if out.is_empty() {
        return;
    }
    parallel::for_each_part(out, PLANES * len_out, |i, out| {
        let x = &x[i * PLANES * len_in..][..out.len() / len_out * len_in];
        filter_planes(isa, x, rows, columns, out);
    });
}

kernel! {
    /// Each lane is a plane: planes are transposed so that a pixel of `LANES` planes is one vector, and back. So filters
    /// need no shuffles, whatever their stride, and small planes fill the vectors as well as large ones.
    fn filter_planes<'a>(s; x: &'a [f32], rows: &'a Filter, columns: &'a Filter, out: &'a mut [f32]) {
        let (w, w_out) = (columns.n_in(), columns.n_out());
        let (len_in, len_out) = (rows.n_in() * w, rows.n_out() * w_out);
        let lens = [len_in * S::LANES, w * S::LANES, len_out * S::LANES];
        let mut scratch = Scratch::take(lens);
        let [pixels, row, pixels_out] = scratch.pieces(lens);
        for (x, out) in x.chunks(S::LANES * len_in).zip(out.chunks_mut(S::LANES * len_out)) {
            planes_to_lanes(s, x, len_in, pixels);
            for (band, out) in rows.bands.iter().zip(pixels_out.chunks_exact_mut(w_out * S::LANES)) {
                let pixels = &pixels[band.first * w * S::LANES..];
                weighted_sums(s, pixels, row.len(), rows.weights(band), row);
                for (band, out) in columns.bands.iter().zip(out.chunks_exact_mut(S::LANES)) {
                    weighted_sums(s, &row[band.first * S::LANES..], S::LANES, columns.weights(band), out);
                }
            }
            lanes_to_planes(s, pixels_out, len_out, out);
        }
    }
}

/// `x`: at most `LANES` planes of `len` → `pixels`: `[len, LANES]`, arbitrary in the lanes of missing planes.
#[inline(always)]
fn planes_to_lanes<S: Simd>(s: S, x: &[f32], len: usize, pixels: &mut [f32]) {
    let last_plane = x.len() / len - 1;
    let mut square = [s.splat(0.0); 16];
    // Loops over the square have fixed lengths, so that it stays in registers.
    for (i, pixels) in pixels.chunks_mut(S::LANES * S::LANES).enumerate() {
        let n = pixels.len() / S::LANES;
        for (k, v) in square.iter_mut().enumerate().take(S::LANES) {
            let plane = &x[k.min(last_plane) * len + i * S::LANES..][..n];
            *v = if n == S::LANES { s.load(plane) } else { s.load_first(plane) };
        }
        s.transpose(&mut square);
        for (k, &v) in square.iter().enumerate().take(S::LANES) {
            if k < n {
                s.store(&mut pixels[k * S::LANES..], v);
            }
        }
    }
}

/// The inverse of [`planes_to_lanes`].
#[inline(always)]
fn lanes_to_planes<S: Simd>(s: S, pixels: &[f32], len: usize, out: &mut [f32]) {
    let planes = out.len() / len;
    let mut square = [s.splat(0.0); 16];
    for (i, pixels) in pixels.chunks(S::LANES * S::LANES).enumerate() {
        let n = pixels.len() / S::LANES;
        for (k, v) in square.iter_mut().enumerate().take(S::LANES) {
            *v = s.load(&pixels[k.min(n - 1) * S::LANES..]);
        }
        s.transpose(&mut square);
        for (k, &v) in square.iter().enumerate().take(S::LANES) {
            if k < planes {
                let plane = &mut out[k * len + i * S::LANES..][..n];
                if n == S::LANES { s.store(plane, v) } else { s.store_first(plane, v) }
            }
        }
    }
}

/// Σₖ weights[k]·x[k·stride + i] for each `i` of `out`, a multiple of `LANES`; the weights in their order.
#[inline(always)]
fn weighted_sums<S: Simd>(s: S, x: &[f32], stride: usize, weights: &[f32], out: &mut [f32]) {
    // The lengths of the usual filters, so that their sums are straight lines of code.
    match *weights {
        [a] => sums_of(s, x, stride, [a], out),
        [a, b] => sums_of(s, x, stride, [a, b], out),
        [a, b, c] => sums_of(s, x, stride, [a, b, c], out),
        [a, b, c, d, e] => sums_of(s, x, stride, [a, b, c, d, e], out),
        _ => {
            for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
                let mut sum = s.splat(0.0);
                for (k, &weight) in weights.iter().enumerate() {
                    sum = s.fma(s.load(&x[k * stride + i * S::LANES..]), s.splat(weight), sum);
                }
                s.store(out, sum);
            }
        }
    }
}

/// [`weighted_sums`] of `K` weights.
#[inline(always)]
fn sums_of<S: Simd, const K: usize>(s: S, x: &[f32], stride: usize, weights: [f32; K], out: &mut [f32]) {
    assert!(x.len() >= (K - 1) * stride + out.len());
    for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        let mut sum = s.splat(0.0);
        for (k, weight) in weights.into_iter().enumerate() {
            // SAFETY: the largest index of a lane is (K − 1)·stride + out.len() − 1, which is below the length of x.
            let x = unsafe { s.load_ptr(x.as_ptr().add(k * stride + i * S::LANES)) };
            sum = s.fma(x, s.splat(weight), sum);
        }
        s.store(out, sum);
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

    /// R·x·Cᵀ of one plane, dense and in f64.
    fn reference(x: &[f32], rows: &Filter, columns: &Filter) -> Vec<f64> {
        let (r, c, w) = (matrix(rows), matrix(columns), columns.n_in());
        let pixel = |i: usize, j: usize| -> f64 {
            let products = x.iter().enumerate().map(|(k, &x)| r[i][k / w] * c[j][k % w] * f64::from(x));
            products.sum()
        };
        (0..rows.n_out()).flat_map(|i| (0..columns.n_out()).map(move |j| (i, j))).map(|(i, j)| pixel(i, j)).collect()
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
        ];
        filters.extend(filters.clone().iter().map(Filter::transposed));
        filters
    }

    fn applied(isa: Isa, x: &[f32], planes: usize, rows: &Filter, columns: &Filter) -> Vec<f32> {
        let mut out = vec![f32::NAN; planes * rows.n_out() * columns.n_out()];
        apply(isa, x, planes, rows, columns, &mut out);
        out
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
                    // Whole vectors of planes, and a few.
                    let (planes, len) = ([1, 16, 19, 67][(i + j) % 4], rows.n_in() * columns.n_in());
                    let x = numbers(planes * len, i + j);
                    let found = applied(isa, &x, planes, rows, columns);
                    let expected: Vec<f64> = x.chunks(len).flat_map(|x| reference(x, rows, columns)).collect();
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
                let forward = dot(&applied(isa, &x, 20, rows, columns), &y);
                let backward = dot(&x, &applied(isa, &y, 20, &rows.transposed(), &columns.transposed()));
                // f32 products of some thousand numbers below 5.
                assert!((forward - backward).abs() < 1e-6 * (x.len() + y.len()) as f64, "{forward}, {backward}");
            }
        }
    }

    #[test]
    fn a_plane_does_not_depend_on_the_others_or_on_threads() {
        let (rows, columns) = (Filter::window_mean(9, 5), Filter::window_mean(7, 5));
        let x = numbers(150 * 63, 3);
        for isa in Isa::available() {
            let pools = [1, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads"));
            let [one, three] = pools.map(|pool| pool.install(|| applied(isa, &x, 150, &rows, &columns)));
            assert_eq!(one, three, "{isa}");
            for (x, plane) in x.chunks(63).zip(one.chunks(63)) {
                assert_eq!(applied(isa, x, 1, &rows, &columns), plane, "{isa}");
            }
        }
    }
}
