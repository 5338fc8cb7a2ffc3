//! Images between channels first (NCHW) and channels last (NHWC).

use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::size;

/// Numbers that are one piece of work.
const PART: usize = 1 << 14;

/// `x` `[n, a, b]` → `out` `[n, b, a]`.
///
/// # Panics
/// If a length is another.
pub fn exchange(isa: Isa, x: &[f32], [n, a, b]: [usize; 3], out: &mut [f32]) {
    let len = size::numbers("images", [n, a, b]);
    assert_eq!([x.len(), out.len()], [len; 2], "numbers of {n} times {a} times {b}");
    if out.is_empty() {
        return;
    }
    // Rows of the output, in whole squares.
    let at_once = (PART / a).max(1).next_multiple_of(16).min(b);
    let images = x.chunks_exact(a * b).zip(out.chunks_exact_mut(a * b));
    let parts =
        images.flat_map(|(x, out)| out.chunks_mut(at_once * a).enumerate().map(move |(i, out)| (x, i * at_once, out)));
    parallel::for_each_of(parts.collect(), |(x, first, out)| exchange_rows(isa, x, [a, b], first, out));
}

kernel! {
    /// The rows of the output from `first`.
    fn exchange_rows<'a>(s; x: &'a [f32], size: [usize; 2], first: usize, out: &'a mut [f32]) {
        let [a, b] = size;
        let n_rows = out.len() / a;
        for row in (0..n_rows).step_by(S::LANES) {
            let rows = S::LANES.min(n_rows - row);
            for column in (0..a).step_by(S::LANES) {
                let columns = S::LANES.min(a - column);
                let mut square = [s.splat(0.0); 16];
                // Loops over the square have fixed lengths, so that it stays in registers.
                for (i, v) in square.iter_mut().enumerate().take(S::LANES) {
                    if i < columns {
                        *v = s.load_some(&x[(column + i) * b + first + row..][..rows]);
                    }
                }
                s.transpose(&mut square);
                for (i, &v) in square.iter().enumerate().take(S::LANES) {
                    if i < rows {
                        s.store_some(&mut out[(row + i) * a + column..][..columns], v);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_finds_its_place_on_every_instruction_set() {
        for isa in Isa::available() {
            for [n, a, b] in
                [[1, 1, 1], [2, 3, 5], [1, 16, 16], [3, 17, 33], [2, 64, 784], [1, 784, 3], [0, 2, 2], [1, 40_000, 2]]
            {
                let x: Vec<f32> = (0..n * a * b).map(|i| i as f32).collect();
                let mut out = vec![f32::NAN; x.len()];
                exchange(isa, &x, [n, a, b], &mut out);
                for (at, found) in out.into_iter().enumerate() {
                    let (image, i, j) = (at / (a * b), at / a % b, at % a);
                    assert_eq!(found, x[(image * a + j) * b + i], "{isa}: {n} times {a} times {b}, {at}");
                }
            }
        }
    }
}
