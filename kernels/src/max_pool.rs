//! Maxima over 3×3 pixels.

use crate::buffer::Scratch;
use crate::cpu::{Isa, kernel};
use crate::parallel;

/// Planes that are one piece of work.
const PLANES: usize = 16;

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
        (n + 2 * self.padding).checked_sub(3).expect("a window that fits into the image") / self.stride + 1
    }

    /// The pixels of window `i`.
    fn pixels(self, i: usize, n: usize) -> std::ops::Range<usize> {
        let first = i * self.stride;
        first.saturating_sub(self.padding)..(first + 3 - self.padding).min(n)
    }
}

/// The largest pixel of each window: `x` `[planes, h, w]` → `out` `[planes, h′, w′]`, see [`Windows::count`]. Where a pixel is not a
/// number, it or another one of the window may come out.
///
/// # Panics
/// If a length is another.
pub fn forward(isa: Isa, x: &[f32], planes: usize, [h, w]: [usize; 2], windows: Windows, out: &mut [f32]) {
    let len_out = windows.count(h) * windows.count(w);
    assert_eq!([x.len(), out.len()], [planes * h * w, planes * len_out], "{planes} planes of {h}×{w} by {windows:?}");
    parallel::for_each_part(out, PLANES * len_out, |i, out| {
        let x = &x[i * PLANES * h * w..];
        let planes = x.chunks_exact(h * w).zip(out.chunks_exact_mut(len_out));
        planes.for_each(|(x, out)| plane(isa, x, [h, w], windows, out));
    });
}

kernel! {
    fn plane<'a>(s; x: &'a [f32], size: [usize; 2], windows: Windows, out: &'a mut [f32]) {
        let [h, w] = size;
        let (n_y, n_x) = (windows.count(h), windows.count(w));
        let mut scratch = Scratch::take([w]);
        let [columns] = scratch.pieces([w]);
        for y in 0..n_y {
            let rows = windows.pixels(y, h);
            // The maxima of the columns first.
            columns.copy_from_slice(&x[rows.start * w..][..w]);
            for row in rows.start + 1..rows.end {
                let row = &x[row * w..][..w];
                let (mut maxima, pixels) = (columns.chunks_exact_mut(S::LANES), row.chunks_exact(S::LANES));
                let rest = pixels.remainder();
                for (maximum, pixel) in (&mut maxima).zip(pixels) {
                    s.store(maximum, s.max(s.load(maximum), s.load(pixel)));
                }
                let maximum = maxima.into_remainder();
                s.store_first(maximum, s.max(s.load_first(maximum), s.load_first(rest)));
            }
            let out = &mut out[y * n_x..][..n_x];
            for (i, out) in out.iter_mut().enumerate() {
                let pixels = &columns[windows.pixels(i, w)];
                let mut largest = pixels[0];
                for &pixel in pixels {
                    largest = if pixel > largest { pixel } else { largest };
                }
                *out = largest;
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
                let planes = 3;
                let x: Vec<f32> = (0..planes * h * w).map(|i| ((i * 7919) % 1009) as f32 - 700.0).collect();
                let (n_y, n_x) = (windows.count(h), windows.count(w));
                let mut found = vec![f32::NAN; planes * n_y * n_x];
                forward(isa, &x, planes, [h, w], windows, &mut found);
                for (at, found) in found.into_iter().enumerate() {
                    let (plane, y, i) = (at / (n_y * n_x), at / n_x % n_y, at % n_x);
                    let mut expected = f32::NEG_INFINITY;
                    for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                        let place = (y * stride + dy).checked_sub(padding).zip((i * stride + dx).checked_sub(padding));
                        if let Some((y, x_at)) = place.filter(|&(y, x)| y < h && x < w) {
                            expected = expected.max(x[(plane * h + y) * w + x_at]);
                        }
                    }
                    assert_eq!(found, expected, "{isa}: {h}×{w} by {windows:?}, {at}");
                }
            }
        }
    }
}
