//! Maxima over 3×3 pixels.

use std::ops::Range;

use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::size;

/// Numbers that are one piece of work, if a row is not more.
const PART: usize = 1 << 14;

/// How far apart the windows are, and whether they reach beyond the border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Pixels from one window to the next.
    pub stride: usize,
    /// Rows and columns beyond each border, which count for nothing: 0 or 1.
    pub padding: usize,
}

impl Windows {
    /// How many windows there are along a side of `n` pixels.
    ///
    /// # Panics
    /// If there is none, or a window would hold no pixel.
    pub fn count(self, n: usize) -> usize {
        assert!(self.stride > 0 && self.padding < 2 && n > 0, "{self:?} of {n} pixels");
        let padded = n.checked_add(2 * self.padding).unwrap_or_else(|| panic!("found a side of {n} pixels"));
        padded.checked_sub(3).expect("a window that fits into the image") / self.stride + 1
    }

    /// The pixels of window `i`.
    fn pixels(self, i: usize, n: usize) -> Range<usize> {
        let first = i * self.stride;
        first.saturating_sub(self.padding)..(first + 3 - self.padding).min(n)
    }
}

/// The largest pixel of each window, for each channel: `x` `[n, h, w, c]` → `out` `[n, h′, w′, c]`, see [`Windows::count`]. Where a
/// pixel is not a number, it or another one of the window may come out.
///
/// # Panics
/// If a length is another.
pub fn forward(isa: Isa, x: &[f32], [n, c]: [usize; 2], [h, w]: [usize; 2], windows: Windows, out: &mut [f32]) {
    let (rows, row) = (windows.count(h), size::numbers("a row of windows", [windows.count(w), c]));
    let lens = [size::numbers("images", [n, h, w, c]), size::numbers("maxima", [n, rows, row])];
    assert_eq!([x.len(), out.len()], lens, "{n} images of {h}×{w}×{c} by {windows:?}");
    let at_once = (PART / row.max(1)).max(1);
    parallel::for_each_part(out, at_once * row, |i, out| {
        for (i, out) in (i * at_once..).zip(out.chunks_exact_mut(row)) {
            max_row(isa, &x[i / rows * h * w * c..][..h * w * c], c, windows.pixels(i % rows, h), w, windows, out);
        }
    });
}

/// The gradient for the input of [`forward`] from its output and the gradient for that: the gradient of each window goes to the first
/// pixel, row by row, that is its largest.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    isa: Isa,
    [x, maxima, grad]: [&[f32]; 3],
    [n, c]: [usize; 2],
    [h, w]: [usize; 2],
    windows: Windows,
    grad_x: &mut [f32],
) {
    let image = size::numbers("an image", [h, w, c]);
    let out = size::numbers("maxima of an image", [windows.count(h), windows.count(w), c]);
    let lens = [image, out, out, image].map(|len| size::numbers("images", [n, len]));
    let found = [x.len(), maxima.len(), grad.len(), grad_x.len()];
    assert_eq!(found, lens, "{n} images of {h}×{w}×{c} by {windows:?}");
    // An image is one piece of work: windows share pixels.
    parallel::for_each_part(grad_x, image, |i, grad_x| {
        let (x, at) = (&x[i * image..][..image], i * out..(i + 1) * out);
        backward_image(isa, x, &maxima[at.clone()], &grad[at], c, [h, w], windows, grad_x);
    });
}

kernel! {
    fn backward_image<'a>(
        s; x: &'a [f32], maxima: &'a [f32], grad: &'a [f32], c: usize, size: [usize; 2], windows: Windows,
        grad_x: &'a mut [f32]
    ) {
        let [h, w] = size;
        let (n_rows, n_columns) = (windows.count(h), windows.count(w));
        let zero = s.splat(0.0);
        grad_x.fill(0.0);
        for (row, column) in (0..n_rows).flat_map(|row| (0..n_columns).map(move |column| (row, column))) {
            let (rows, columns) = (windows.pixels(row, h), windows.pixels(column, w));
            let out = (row * n_columns + column) * c;
            for channel in (0..c).step_by(S::LANES) {
                let n = S::LANES.min(c - channel);
                let largest = s.load_some(&maxima[out + channel..][..n]);
                // What no pixel has taken yet.
                let mut left = s.load_some(&grad[out + channel..][..n]);
                for y in rows.clone() {
                    for pixel in columns.clone() {
                        let at = (y * w + pixel) * c + channel;
                        let below = s.sub(largest, s.load_some(&x[at..][..n]));
                        let place = &mut grad_x[at..][..n];
                        let sum = s.add(s.load_some(place), s.if_positive(below, zero, left));
                        s.store_some(place, sum);
                        left = s.if_positive(below, left, zero);
                    }
                }
            }
        }
    }
}

kernel! {
    /// The windows that cover `rows` of an image.
    fn max_row<'a>(
        s; x: &'a [f32], c: usize, rows: Range<usize>, w: usize, windows: Windows, out: &'a mut [f32]
    ) {
        for (i, out) in out.chunks_exact_mut(c).enumerate() {
            let columns = windows.pixels(i, w);
            for channel in (0..c).step_by(S::LANES) {
                let n = S::LANES.min(c - channel);
                let mut largest = s.splat(f32::NEG_INFINITY);
                for y in rows.clone() {
                    for pixel in columns.clone() {
                        largest = s.max(largest, s.load_some(&x[(y * w + pixel) * c + channel..][..n]));
                    }
                }
                s.store_some(&mut out[channel..channel + n], largest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_of_each_window_goes_to_its_first_largest_pixel_on_every_instruction_set() {
        for isa in Isa::available() {
            for ([h, w], stride, padding) in
                [([3, 3], 1, 0), ([1, 2], 1, 1), ([8, 5], 1, 1), ([9, 7], 2, 0), ([6, 6], 2, 1)]
            {
                let windows = Windows { stride, padding };
                let (n, c) = (2, [3, 16, 21][h % 3]);
                // Few values, so that several pixels of a window are its largest.
                let x: Vec<f32> = (0..n * h * w * c).map(|i| ((i * 7919) % 101 % 5) as f32 - 2.0).collect();
                let (n_y, n_x) = (windows.count(h), windows.count(w));
                let mut maxima = vec![0.0; n * n_y * n_x * c];
                forward(isa, &x, [n, c], [h, w], windows, &mut maxima);
                // Whole numbers, whose sums are exact.
                let grad: Vec<f32> = (0..maxima.len()).map(|i| (i % 17) as f32 - 8.0).collect();
                let mut expected = vec![0.0; x.len()];
                for (at, grad) in grad.iter().enumerate() {
                    let (channel, i, y, image) = (at % c, at / c % n_x, at / c / n_x % n_y, at / c / n_x / n_y);
                    let rows = windows.pixels(y, h).flat_map(|y| windows.pixels(i, w).map(move |x| (y, x)));
                    let mut places = rows.map(|(y, x)| ((image * h + y) * w + x) * c + channel);
                    let first = places.find(|&place| x[place] == maxima[at]).expect("a largest pixel");
                    expected[first] += grad;
                }
                let mut found = vec![f32::NAN; x.len()];
                backward(isa, [&x, &maxima, &grad], [n, c], [h, w], windows, &mut found);
                assert_eq!(found, expected, "{isa}: {h}×{w} by {windows:?}");
            }
        }
    }

    #[test]
    fn maxima_are_those_of_the_definition_on_every_instruction_set() {
        for isa in Isa::available() {
            for ([h, w], stride, padding) in [
                ([3, 3], 1, 0),
                ([1, 1], 1, 1),
                ([1, 2], 2, 1),
                ([8, 8], 1, 1),
                ([9, 35], 2, 0),
                ([17, 16], 2, 1),
                ([5, 33], 3, 1),
                ([4, 150], 1, 0),
            ] {
                let windows = Windows { stride, padding };
                // Whole vectors of channels, and a few.
                let (n, c) = (2, [3, 16, 21][h % 3]);
                let x: Vec<f32> = (0..n * h * w * c).map(|i| ((i * 7919) % 1009) as f32 - 700.0).collect();
                let (n_y, n_x) = (windows.count(h), windows.count(w));
                let mut found = vec![f32::NAN; n * n_y * n_x * c];
                forward(isa, &x, [n, c], [h, w], windows, &mut found);
                for (at, found) in found.into_iter().enumerate() {
                    let (channel, i, y, image) = (at % c, at / c % n_x, at / c / n_x % n_y, at / c / n_x / n_y);
                    let mut expected = f32::NEG_INFINITY;
                    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                        let place = (y * stride + dy).checked_sub(padding).zip((i * stride + dx).checked_sub(padding));
                        if let Some((y, x_at)) = place.filter(|&(y, x)| y < h && x < w) {
                            expected = expected.max(x[((image * h + y) * w + x_at) * c + channel]);
                        }
                    }
                    assert_eq!(found, expected, "{isa}: {h}×{w} by {windows:?}, {at}");
                }
            }
        }
    }
}
