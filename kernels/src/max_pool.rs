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
