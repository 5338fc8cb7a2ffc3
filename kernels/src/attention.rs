//! Attention between the pixels of an image: softmax(scale·q·kᵀ)·v, a band of rows at a time, so that the weights of all pairs of pixels
//! are never in memory at once (Rabe & Staats 2021; Dao et al. 2022). The backward pass computes a band's weights again.

use crate::buffer::Scratch;
use crate::conv::gemm::{Out, Panel, Rows, balanced, max_rows, multiply, panels};
use crate::conv::layout::padded;
use crate::cpu::{Isa, kernel};
use crate::simd::Simd;
use crate::{parallel, size};

/// The sizes of attention. Queries, keys, values and output are `[n, pixels, heads·width]`, the channels of a head in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Images.
    pub n: usize,
    /// Pixels of an image.
    pub pixels: usize,
    /// Heads, each of which attends by itself.
    pub heads: usize,
    /// Channels of a head.
    pub width: usize,
    /// What products of queries and keys are multiplied by: 1/√width.
    pub scale: f32,
}

/// The size of a band of weights, which fits into the L2 cache with the rest.
const BAND: usize = 1 << 14;
/// The product of a query with a key behind the last pixel, whose weight is 0.
const MASKED: f32 = -1e30;

impl AttentionShape {
    fn channels(&self) -> usize {
        self.heads * self.width
    }

    /// Numbers of queries, keys, values and output.
    ///
    /// # Panics
    /// If they do not fit into memory.
    pub fn tensor_len(&self) -> usize {
        size::numbers("images", [self.n, self.pixels, self.heads, self.width])
    }

    /// Length of what [`backward`] needs of [`forward`]: a number for each pixel and head.
    ///
    /// # Panics
    /// If they do not fit into memory.
    pub fn logs_len(&self) -> usize {
        size::numbers("weights", [self.n, self.pixels, self.heads])
    }

    /// Rows of a band.
    fn band(&self) -> usize {
        (BAND / self.pixels.max(1)).clamp(12, 48)
    }

    fn check(&self, tensors: &[&[f32]], logs: usize) {
        assert!(self.scale.is_finite() && self.scale > 0.0, "a scale of {}, expected a positive number", self.scale);
        let len = self.tensor_len();
        for tensor in tensors {
            assert_eq!(tensor.len(), len, "numbers of {self:?}");
        }
        assert_eq!(logs, self.logs_len(), "logarithms of {self:?}");
    }
}

/// The output; `logs` `[n, pixels, heads]` are the logarithms of the sums of the weights, for [`backward`].
///
/// Each row is computed by itself, in one order: it depends neither on the number of threads nor on other images.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn forward(isa: Isa, shape: &AttentionShape, [q, k, v]: [&[f32]; 3], logs: &mut [f32], out: &mut [f32]) {
    shape.check(&[q, k, v, out], logs.len());
    let (c, len) = (shape.channels(), shape.pixels * shape.channels());
    if len == 0 || shape.n == 0 {
        return;
    }
    let [keys_len, values_len] = packed_lens(isa, *shape);
    let lens = [shape.n * keys_len, shape.n * values_len];
    let mut scratch = Scratch::take(lens);
    let [keys, values] = scratch.pieces(lens);
    parallel::for_each_pair_of_parts([keys, values], [keys_len, values_len], |i, [keys, values]| {
        pack(isa, *shape, &k[i * len..][..len], &v[i * len..][..len], keys, values);
    });
    let (keys, values, band) = (&*keys, &*values, shape.band());
    let images = out.chunks_mut(len).zip(logs.chunks_mut(shape.pixels * shape.heads)).enumerate();
    let bands = images.flat_map(|(i, (out, logs))| {
        let bands = out.chunks_mut(band * c).zip(logs.chunks_mut(band * shape.heads)).enumerate();
        bands.map(move |(b, (out, logs))| (i, b * band, out, logs))
    });
    parallel::for_each_of(bands.collect(), |(i, first, out, logs)| {
        let q = &q[i * len + first * c..][..out.len()];
        let (keys, values) = (&keys[i * keys_len..][..keys_len], &values[i * values_len..][..values_len]);
        forward_band(isa, *shape, q, [keys, values], logs, out);
    });
}

/// The gradients of queries, keys and values from that of the output, `grad`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn backward(
    isa: Isa,
    shape: &AttentionShape,
    [q, k, v]: [&[f32]; 3],
    grad: &[f32],
    logs: &[f32],
    [grad_q, grad_k, grad_v]: [&mut [f32]; 3],
) {
    shape.check(&[q, k, v, grad, grad_q, grad_k, grad_v], logs.len());
    let (len, logs_len) = (shape.pixels * shape.channels(), shape.pixels * shape.heads);
    if len == 0 {
        return;
    }
    let images = grad_q.chunks_mut(len).zip(grad_k.chunks_mut(len)).zip(grad_v.chunks_mut(len)).enumerate();
    parallel::for_each_of(images.collect(), |(i, ((grad_q, grad_k), grad_v))| {
        let [q, k, v, grad] = [q, k, v, grad].map(|x| &x[i * len..][..len]);
        backward_image(isa, *shape, [q, k, v, grad], &logs[i * logs_len..][..logs_len], [grad_q, grad_k, grad_v]);
    });
}

kernel! {
    /// Numbers of an image's keys and values as [`pack`] has them.
    fn packed_lens<'a>(s; shape: AttentionShape) -> [usize; 2] {
        let _ = s;
        let AttentionShape { pixels, heads, width, .. } = shape;
        [heads * width * padded::<S>(pixels), heads * pixels * padded::<S>(width)]
    }
}

kernel! {
    /// The keys and the values of an image as products read them.
    fn pack<'a>(s; shape: AttentionShape, k: &'a [f32], v: &'a [f32], keys: &'a mut [f32], values: &'a mut [f32]) {
        pack_columns(s, shape, k, keys);
        pack_rows(s, shape, v, [0, shape.pixels], values);
    }
}

/// The channels of each head as rows of pixels, in panels: `[head][panel][channel][pixel of the panel]`, zeros for pixels that do not
/// exist.
#[inline(always)]
fn pack_columns<S: Simd>(_: S, shape: AttentionShape, x: &[f32], out: &mut [f32]) {
    let AttentionShape { pixels, heads, width, .. } = shape;
    let c = heads * width;
    for (head, out) in out.chunks_exact_mut(width * padded::<S>(pixels)).enumerate() {
        for (first, n) in panels(padded::<S>(pixels) / S::LANES) {
            let (first, columns) = (first * S::LANES, n * S::LANES);
            let panel = &mut out[first * width..][..columns * width];
            for column in 0..columns {
                let pixel = first + column;
                for channel in 0..width {
                    let value = if pixel < pixels { x[pixel * c + head * width + channel] } else { 0.0 };
                    panel[channel * columns + column] = value;
                }
            }
        }
    }
}

/// Some pixels of `x` (the first and how many) as rows of each head's channels, in panels: `[head][panel][pixel][channel of the panel]`,
/// zeros for channels that do not exist.
#[inline(always)]
fn pack_rows<S: Simd>(s: S, shape: AttentionShape, x: &[f32], [first_row, n_rows]: [usize; 2], out: &mut [f32]) {
    let AttentionShape { heads, width, .. } = shape;
    let (c, wide) = (heads * width, padded::<S>(width));
    for head in 0..heads {
        let out = &mut out[head * n_rows * wide..][..n_rows * wide];
        for (first, n) in panels(wide / S::LANES) {
            let (first, columns) = (first * S::LANES, n * S::LANES);
            let panel = &mut out[first * n_rows..][..columns * n_rows];
            for (row, panel) in panel.chunks_exact_mut(columns).enumerate() {
                let from = &x[(first_row + row) * c + head * width + first..][..columns.min(width - first)];
                for vector in (0..columns).step_by(S::LANES) {
                    let some = &from[vector.min(from.len())..];
                    s.store(&mut panel[vector..], s.load_some(&some[..some.len().min(S::LANES)]));
                }
            }
        }
    }
}

/// One factor: where it is, and how far apart its rows and terms are.
#[derive(Clone, Copy)]
struct Factor<'a> {
    at: &'a [f32],
    row: usize,
    step: usize,
}

/// C (+)= A·B for `n_rows` rows of A, `len` terms, and all panels of B, `[panel][term][column]`, of `n_vectors` vectors; C's rows are `row`
/// apart.
#[inline(always)]
fn product<S: Simd>(
    s: S,
    a: Factor<'_>,
    b: &[f32],
    [n_rows, len, n_vectors]: [usize; 3],
    c: &mut [f32],
    row: usize,
    add: bool,
) {
    assert!(b.len() >= len * n_vectors * S::LANES);
    assert!(n_rows == 0 || len == 0 || a.at.len() > (n_rows - 1) * a.row + (len - 1) * a.step);
    assert!(n_rows == 0 || c.len() >= (n_rows - 1) * row + n_vectors * S::LANES);
    for (first_vector, n) in panels(n_vectors) {
        let first = first_vector * S::LANES;
        let panel = &b[first * len..][..n * S::LANES * len];
        for (first_row, rows) in balanced(n_rows, max_rows::<S>(n)) {
            let a = Rows { at: a.at[first_row * a.row..].as_ptr(), row: a.row, step: a.step };
            let b = Panel { at: panel.as_ptr(), step: n * S::LANES };
            let to = Out { at: c[first_row * row + first..].as_mut_ptr(), row, add };
            // SAFETY: A, B and C as asserted and sliced; C is borrowed alone.
            unsafe { multiply(s, [rows, n], a, b, &[[0, 0]], len, to) };
        }
    }
}

/// The largest number of a row.
#[inline(always)]
fn largest<S: Simd>(s: S, row: &[f32]) -> f32 {
    let mut most = s.splat(f32::NEG_INFINITY);
    for at in (0..row.len()).step_by(S::LANES) {
        most = s.max(most, s.load(&row[at..]));
    }
    let mut lanes = [0.0; 16];
    s.store(&mut lanes, most);
    lanes[..S::LANES].iter().fold(f32::NEG_INFINITY, |most, &x| most.max(x))
}

/// Whether all numbers of a row are: an exponential of what is not would be a number again.
#[inline(always)]
fn are_finite<S: Simd>(s: S, row: &[f32]) -> bool {
    let mut sum = s.splat(0.0);
    for at in (0..row.len()).step_by(S::LANES) {
        // 0 of a finite number, else not a number.
        let x = s.load(&row[at..]);
        sum = s.add(sum, s.sub(x, x));
    }
    total(s, sum) == 0.0
}

/// x ← exp(scale·x − log) of a row; their sum.
#[inline(always)]
fn exponentials<S: Simd>(s: S, row: &mut [f32], scale: f32, log: f32) -> f32 {
    let (scale, log, mut sum) = (s.splat(scale), s.splat(-log), s.splat(0.0));
    for at in (0..row.len()).step_by(S::LANES) {
        let weight = s.exp(s.fma(scale, s.load(&row[at..]), log));
        s.store(&mut row[at..], weight);
        sum = s.add(sum, weight);
    }
    total(s, sum)
}

/// The sum of a vector's numbers.
#[inline(always)]
fn total<S: Simd>(s: S, v: S::V) -> f32 {
    let mut lanes = [0.0; 16];
    s.store(&mut lanes, v);
    lanes[..S::LANES].iter().sum()
}

/// Writes rows of `width` channels, `factor(row)` times what is in `from`, of whole vectors, to rows that are `step` apart.
#[inline(always)]
fn write<S: Simd>(s: S, from: &[f32], width: usize, factors: &[f32], out: &mut [f32], step: usize) {
    let row_len = padded::<S>(width);
    for (row, &factor) in factors.iter().enumerate() {
        let factor = s.splat(factor);
        for at in (0..width).step_by(S::LANES) {
            let n = S::LANES.min(width - at);
            let value = s.mul(factor, s.load(&from[row * row_len + at..]));
            s.store_some(&mut out[row * step + at..][..n], value);
        }
    }
}

kernel! {
    /// Some rows of the output of an image.
    fn forward_band<'a>(
        s; shape: AttentionShape, q: &'a [f32], packed: [&'a [f32]; 2], logs: &'a mut [f32], out: &'a mut [f32],
    ) {
        let AttentionShape { pixels, heads, width, scale, .. } = shape;
        let (c, n_rows, row_len, wide) = (heads * width, logs.len() / heads, padded::<S>(pixels), padded::<S>(width));
        let lens = [n_rows * row_len, n_rows * wide, n_rows];
        let mut scratch = Scratch::take(lens);
        let [weights, rows, factors] = scratch.pieces(lens);
        let [keys, values] = packed;
        for head in 0..heads {
            let (keys, values) = (&keys[head * width * row_len..], &values[head * pixels * wide..]);
            let q = Factor { at: &q[head * width..], row: c, step: 1 };
            product(s, q, keys, [n_rows, width, row_len / S::LANES], weights, row_len, false);
            for (row, weights) in weights.chunks_exact_mut(row_len).enumerate() {
                if !are_finite(s, weights) {
                    weights.fill(f32::NAN);
                    (logs[row * heads + head], factors[row]) = (f32::NAN, 1.0);
                    continue;
                }
                weights[pixels..].fill(MASKED);
                let most = scale * largest(s, weights);
                let sum = exponentials(s, weights, scale, most);
                logs[row * heads + head] = most + sum.ln();
                factors[row] = 1.0 / sum;
            }
            let a = Factor { at: weights, row: row_len, step: 1 };
            product(s, a, values, [n_rows, pixels, wide / S::LANES], rows, wide, false);
            write(s, rows, width, factors, &mut out[head * width..], c);
        }
    }
}

kernel! {
    /// The gradients of an image; `operands` are queries, keys, values and the output's gradient.
    fn backward_image<'a>(
        s; shape: AttentionShape, operands: [&'a [f32]; 4], logs: &'a [f32], grads: [&'a mut [f32]; 3],
    ) {
        let AttentionShape { pixels, heads, width, scale, .. } = shape;
        let ([q, k, v, grad], [grad_q, grad_k, grad_v]) = (operands, grads);
        let (c, band, row_len, wide) = (heads * width, shape.band(), padded::<S>(pixels), padded::<S>(width));
        let (columns, all_rows, some_rows) = (c * row_len, heads * pixels * wide, heads * band * wide);
        let lens =
            [columns, columns, all_rows, some_rows, some_rows, band * row_len, band * row_len, all_rows, all_rows, band * wide, pixels];
        let mut scratch = Scratch::take(lens);
        let [k_columns, v_columns, k_rows, q_rows, grad_rows, weights, changes, sums_k, sums_v, rows, ones] = scratch.pieces(lens);
        pack_columns(s, shape, k, k_columns);
        pack_columns(s, shape, v, v_columns);
        pack_rows(s, shape, k, [0, pixels], k_rows);
        ones.fill(1.0);
        sums_k.fill(0.0);
        sums_v.fill(0.0);
        for first in (0..pixels).step_by(band) {
            let n_rows = band.min(pixels - first);
            pack_rows(s, shape, q, [first, n_rows], q_rows);
            pack_rows(s, shape, grad, [first, n_rows], grad_rows);
            for head in 0..heads {
                let of_columns = head * width * row_len..(head + 1) * width * row_len;
                let of_rows = head * pixels * wide..(head + 1) * pixels * wide;
                let of_band = head * n_rows * wide..(head + 1) * n_rows * wide;
                let at = first * c + head * width;
                let shapes = [n_rows, width, row_len / S::LANES];
                let queries = Factor { at: &q[at..], row: c, step: 1 };
                product(s, queries, &k_columns[of_columns.clone()], shapes, weights, row_len, false);
                let grads = Factor { at: &grad[at..], row: c, step: 1 };
                product(s, grads, &v_columns[of_columns], shapes, changes, row_len, false);
                let bands = weights.chunks_exact_mut(row_len).zip(changes.chunks_exact_mut(row_len)).take(n_rows);
                for (row, (weights, changes)) in bands.enumerate() {
                    let log = logs[(first + row) * heads + head];
                    weights[pixels..].fill(MASKED);
                    match log.is_nan() {
                        true => weights.fill(f32::NAN),
                        false => drop(exponentials(s, weights, scale, log)),
                    }
                    differentiate(s, weights, changes, scale);
                }
                // Each band adds to the gradients of values and keys.
                let by_pixels = [pixels, n_rows, wide / S::LANES];
                let weights = Factor { at: weights, row: 1, step: row_len };
                product(s, weights, &grad_rows[of_band.clone()], by_pixels, &mut sums_v[of_rows.clone()], wide, true);
                let turned = Factor { at: changes, row: 1, step: row_len };
                product(s, turned, &q_rows[of_band], by_pixels, &mut sums_k[of_rows.clone()], wide, true);
                let changes = Factor { at: changes, row: row_len, step: 1 };
                product(s, changes, &k_rows[of_rows], [n_rows, pixels, wide / S::LANES], rows, wide, false);
                write(s, rows, width, &ones[..n_rows], &mut grad_q[at..], c);
            }
        }
        for (head, (sums_k, sums_v)) in sums_k.chunks_exact(pixels * wide).zip(sums_v.chunks_exact(pixels * wide)).enumerate() {
            write(s, sums_k, width, ones, &mut grad_k[head * width..], c);
            write(s, sums_v, width, ones, &mut grad_v[head * width..], c);
        }
    }
}

/// changes ← scale·weights·(changes − Σ weights·changes), of one row.
#[inline(always)]
fn differentiate<S: Simd>(s: S, weights: &[f32], changes: &mut [f32], scale: f32) {
    let mut sum = s.splat(0.0);
    for at in (0..weights.len()).step_by(S::LANES) {
        sum = s.fma(s.load(&weights[at..]), s.load(&changes[at..]), sum);
    }
    let (mean, scale) = (s.splat(total(s, sum)), s.splat(scale));
    for at in (0..weights.len()).step_by(S::LANES) {
        let weight = s.mul(scale, s.load(&weights[at..]));
        let change = s.mul(weight, s.sub(s.load(&changes[at..]), mean));
        s.store(&mut changes[at..], change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_threads<T: Send>(n: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads").install(work)
    }

    /// Numbers of a fixed sequence.
    fn values(n: usize, factor: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * factor) % 1009) as f32 / 504.0 - 1.0).collect()
    }

    /// By the definition, in f64: the output, and the gradients of a sum of products with `grad`.
    fn by_definition(shape: &AttentionShape, [q, k, v, grad]: [&[f32]; 4]) -> [Vec<f64>; 4] {
        let AttentionShape { n, pixels, heads, width, scale } = *shape;
        let mut results = [(); 4].map(|()| vec![0.0; shape.tensor_len()]);
        let c = heads * width;
        for (image, head) in (0..n).flat_map(|image| (0..heads).map(move |head| (image, head))) {
            let at = |pixel: usize, channel: usize| (image * pixels + pixel) * c + head * width + channel;
            let dot = |a: &[f32], i: usize, b: &[f32], j: usize| -> f64 {
                (0..width).map(|channel| f64::from(a[at(i, channel)]) * f64::from(b[at(j, channel)])).sum()
            };
            for i in 0..pixels {
                let products: Vec<f64> = (0..pixels).map(|j| f64::from(scale) * dot(q, i, k, j)).collect();
                let most = products.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = products.iter().map(|x| (x - most).exp()).sum();
                let weights: Vec<f64> = products.iter().map(|x| (x - most).exp() / sum).collect();
                let changes: Vec<f64> = (0..pixels).map(|j| dot(grad, i, v, j)).collect();
                let mean: f64 = weights.iter().zip(&changes).map(|(w, x)| w * x).sum();
                for (j, channel) in (0..pixels).flat_map(|j| (0..width).map(move |channel| (j, channel))) {
                    let change = f64::from(scale) * weights[j] * (changes[j] - mean);
                    results[0][at(i, channel)] += weights[j] * f64::from(v[at(j, channel)]);
                    results[1][at(i, channel)] += change * f64::from(k[at(j, channel)]);
                    results[2][at(j, channel)] += change * f64::from(q[at(i, channel)]);
                    results[3][at(j, channel)] += weights[j] * f64::from(grad[at(i, channel)]);
                }
            }
        }
        results
    }

    /// Output and gradients.
    fn results(isa: Isa, shape: &AttentionShape, [q, k, v, grad]: [&[f32]; 4]) -> [Vec<f32>; 4] {
        let mut results = [(); 4].map(|()| vec![f32::NAN; shape.tensor_len()]);
        let mut logs = vec![f32::NAN; shape.logs_len()];
        let [out, grads @ ..] = &mut results;
        forward(isa, shape, [q, k, v], &mut logs, out);
        backward(isa, shape, [q, k, v], grad, &logs, grads.each_mut().map(Vec::as_mut_slice));
        results
    }

    const SHAPES: [[usize; 4]; 8] = [
        [1, 1, 1, 1],
        [2, 5, 1, 3],
        [1, 49, 2, 12],
        [3, 64, 1, 16],
        [2, 100, 3, 8],
        [1, 256, 1, 33],
        [1, 7, 5, 1],
        [1, 1030, 1, 4],
    ];

    #[test]
    fn output_and_gradients_are_those_of_the_definition_on_every_instruction_set() {
        for [n, pixels, heads, width] in SHAPES {
            let shape = AttentionShape { n, pixels, heads, width, scale: 1.5 / (width as f32).sqrt() };
            let inputs = [37, 101, 53, 71].map(|factor| values(shape.tensor_len(), factor));
            let inputs = inputs.each_ref().map(Vec::as_slice);
            let expected = by_definition(&shape, inputs);
            for isa in Isa::available() {
                for (found, expected) in results(isa, &shape, inputs).iter().zip(&expected) {
                    let most = expected.iter().fold(0.1f64, |most, x| most.max(x.abs()));
                    for (found, expected) in found.iter().zip(expected) {
                        // Sums of some hundred products in f32.
                        assert!(
                            (f64::from(*found) - expected).abs() < 3e-6 * most,
                            "{isa:?} {shape:?}: {found}, expected {expected}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn large_products_are_no_overflow_and_images_do_not_depend_on_companions_or_threads() {
        let shape = AttentionShape { n: 3, pixels: 50, heads: 2, width: 8, scale: 100.0 };
        let inputs = [37, 101, 53, 71].map(|factor| values(shape.tensor_len(), factor));
        let inputs = inputs.each_ref().map(Vec::as_slice);
        for isa in Isa::available() {
            let all = on_threads(1, || results(isa, &shape, inputs));
            assert!(all.iter().flatten().all(|x| x.is_finite()), "{isa:?}");
            assert!(on_threads(3, || results(isa, &shape, inputs)) == all, "{isa:?}");
            let (one, len) = (AttentionShape { n: 1, ..shape }, shape.tensor_len() / 3);
            let last = results(isa, &one, inputs.map(|x| &x[2 * len..]));
            assert!(last.iter().zip(&all).all(|(last, all)| last[..] == all[2 * len..]), "{isa:?}");
        }
    }

    #[test]
    fn a_row_with_a_product_that_is_no_number_is_none_and_others_are_what_they_were() {
        let shape = AttentionShape { n: 1, pixels: 20, heads: 1, width: 4, scale: 0.5 };
        let inputs = [37, 101, 53, 71].map(|factor| values(shape.tensor_len(), factor));
        for isa in Isa::available() {
            let expected = results(isa, &shape, inputs.each_ref().map(Vec::as_slice));
            for bad in [f32::NAN, f32::INFINITY] {
                let mut damaged = inputs.clone();
                damaged[0][5 * 4 + 1] = bad;
                let [out, of_q, ..] = results(isa, &shape, damaged.each_ref().map(Vec::as_slice));
                for (found, expected) in [(&out, &expected[0]), (&of_q, &expected[1])] {
                    assert!(found[20..24].iter().all(|x| x.is_nan()), "{isa:?}: {found:?}");
                    assert!(found[..20] == expected[..20] && found[24..] == expected[24..], "{isa:?}");
                }
                // A key is of all rows.
                let mut damaged = inputs.clone();
                damaged[1][3] = bad;
                let [out, ..] = results(isa, &shape, damaged.each_ref().map(Vec::as_slice));
                assert!(out.iter().all(|x| x.is_nan()), "{isa:?}");
            }
        }
    }

    #[test]
    fn of_nothing_there_is_nothing() {
        for [n, pixels, heads, width] in [[0, 4, 1, 2], [2, 0, 1, 2], [2, 3, 0, 2], [2, 3, 1, 0]] {
            let shape = AttentionShape { n, pixels, heads, width, scale: 1.0 };
            assert!(results(Isa::chosen(), &shape, [&[]; 4]).iter().all(Vec::is_empty));
        }
    }
}
