//! Which outputs are computed together, and where their sums go.

use super::super::direct::Plan;
use super::super::layout::write_rows;
use super::super::tiles::{Rows, Unit};
use crate::simd::Simd;

/// Outputs that are next to each other in the padded image, at most 16.
#[derive(Debug)]
pub struct Run {
    /// The pixel of the padded image that the first one's taps count from, and how many there are.
    pub rows: Rows,
    /// Which of the [`Outputs::pieces`] are of it.
    pub pieces: [usize; 2],
}

/// Some rows of a run whose outputs are in one row of the image.
#[derive(Debug)]
pub struct Piece {
    /// The first row.
    pub row: usize,
    pub n: usize,
    /// Pixel of the output.
    pub to: usize,
}

/// The outputs of one phase of a plan.
#[derive(Debug)]
pub struct Outputs {
    /// Of each tap: where it is in the image and in the weights.
    pub segments: Vec<[usize; 2]>,
    pub runs: Vec<Run>,
    pub pieces: Vec<Piece>,
}

impl Outputs {
    /// Of all phases. `c`: channels of the padded image.
    pub fn of(plan: &Plan, c: usize, unit: Unit) -> Vec<Self> {
        let width = plan.frame.size[1];
        let outputs = plan.phases.iter().map(|phase| {
            let segments = phase.taps.iter().map(|&(offset, tap)| [offset * c, tap * c * 16]).collect();
            let mut outputs = Self { segments, runs: Vec::new(), pieces: Vec::new() };
            let [n_y, n_x] = phase.count;
            let to = |y: usize, x: usize| {
                (phase.first[0] + y * plan.every) * plan.out_size[1] + phase.first[1] + x * plan.every
            };
            // Runs may go on from one row to the next, through outputs between them that do not exist. Where tiles are
            // computed whole that can be less work than a run for each row.
            let flat = (n_y - 1) * width + n_x;
            let by_rows = n_y * n_x.div_ceil(16);
            if unit.has_tiles() && plan.stride == 1 && n_x <= width && 10 * flat.div_ceil(16) <= 9 * by_rows {
                let mut first = 0;
                while first < flat {
                    if first % width >= n_x {
                        // What does not exist needs no run of its own.
                        first = first.next_multiple_of(width);
                    }
                    let n = 16.min(flat - first);
                    let first_piece = outputs.pieces.len();
                    for y in first / width..n_y.min((first + n).div_ceil(width)) {
                        let (from, end) = (first.max(y * width), (first + n).min(y * width + n_x));
                        if from < end {
                            let to = to(y, from - y * width);
                            outputs.pieces.push(Piece { row: from - first, n: end - from, to });
                        }
                    }
                    let pieces = [first_piece, outputs.pieces.len()];
                    outputs.runs.push(Run { rows: Rows { at: phase.base + first, n }, pieces });
                    first += 16;
                }
            } else {
                for (y, x) in (0..n_y).flat_map(|y| (0..n_x).step_by(16).map(move |x| (y, x))) {
                    let n = 16.min(n_x - x);
                    let rows = Rows { at: phase.base + (y * width + x) * plan.stride, n };
                    let piece = outputs.pieces.len();
                    outputs.pieces.push(Piece { row: 0, n, to: to(y, x) });
                    outputs.runs.push(Run { rows, pieces: [piece, piece + 1] });
                }
            }
            outputs
        });
        outputs.collect()
    }
}

/// Where sums go.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// The first of 16 channels.
    pub first: usize,
    pub c_out: usize,
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
    /// Between pixels.
    pub every: usize,
}

/// Writes sums `[row of the run][channel]` to the image, plus bias and residual, as far as pixels and channels exist.
#[inline(always)]
pub fn write<S: Simd>(s: S, sums: &[f32], pieces: &[Piece], to: Destination<'_>, out: &mut [f32]) {
    let Destination { first, c_out, bias, residual, every } = to;
    for piece in pieces {
        let sums = &sums[piece.row * 16..][..piece.n * 16];
        write_rows(s, sums, 16, [piece.to, every], [first, c_out], [bias, residual], out);
    }
}
