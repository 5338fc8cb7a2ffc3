//! Which outputs are computed together, and where their sums go.

use super::super::direct::Plan;
use super::super::gemm::balanced;
use super::super::layout::write_rows;
use crate::simd::Simd;

/// The outputs of one phase of a plan: runs of at most 16 pixels that are next to each other in the padded image, all of the same
/// length. Runs overlap where a length is no multiple of theirs, and compute the same twice.
#[derive(Debug)]
pub struct Outputs {
    /// Of each tap: where it is in the image and in the weights.
    pub segments: Vec<[usize; 2]>,
    /// Pixels of a run.
    pub n_rows: usize,
    /// Rows of the image that a run reaches into.
    n_pieces: usize,
    /// Outputs of each.
    piece: usize,
    /// Pixels of a run from one such row to the next, and pixels of the output.
    pitch: [usize; 2],
    pub runs: Vec<Run>,
}

/// A run's first pixel.
#[derive(Debug)]
pub struct Run {
    /// The pixel of the padded image that its taps count from.
    pub from: usize,
    /// The output.
    pub to: usize,
}

impl Outputs {
    /// Of all phases. `pixel`: numbers of a pixel of the padded image.
    pub fn of(plan: &Plan, pixel: usize) -> Vec<Self> {
        let width = plan.frame.size[1];
        let outputs = plan.phases.iter().filter(|phase| !phase.count.contains(&0)).map(|phase| {
            let segments = phase.taps.iter().map(|&(offset, tap)| [offset * pixel, tap * pixel * 16]).collect();
            let [n_y, n_x] = match phase.count {
                // Rows of the image that follow each other with nothing between them are one.
                [n_y, n_x] if plan.stride == 1 && plan.every == 1 && n_x == width => [1, n_y * n_x],
                count => count,
            };
            let piece = n_x.div_ceil(n_x.div_ceil(16));
            // Short rows of the image are done together, with what is between them.
            let together = plan.stride == 1 && piece == n_x && n_x <= width;
            let n_pieces = if together { ((16 - n_x) / width + 1).min(n_y) } else { 1 };
            let mut runs = Vec::new();
            for (y, x) in starts(n_y, n_pieces).flat_map(|y| starts(n_x, piece).map(move |x| (y, x))) {
                let to = (phase.first[0] + y * plan.every) * plan.out_size[1] + phase.first[1] + x * plan.every;
                runs.push(Run { from: phase.base + (y * width + x) * plan.stride, to });
            }
            let pitch = [width, plan.every * plan.out_size[1]];
            Self { segments, n_rows: (n_pieces - 1) * width + piece, n_pieces, piece, pitch, runs }
        });
        outputs.collect()
    }
}

/// Where stretches of `len` that cover `0..n` begin, as few as possible. `len` is at most `n`.
pub fn starts(n: usize, len: usize) -> impl Iterator<Item = usize> {
    balanced(n, len).map(move |(first, _)| first.min(n - len))
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

/// Writes sums `[row of the run][channel]` to the image, plus bias and residual, as far as channels exist.
#[inline(always)]
pub fn write<S: Simd>(s: S, sums: &[f32], outputs: &Outputs, run: &Run, to: Destination<'_>, out: &mut [f32]) {
    let Destination { first, c_out, bias, residual, every } = to;
    for i in 0..outputs.n_pieces {
        let sums = &sums[i * outputs.pitch[0] * 16..][..outputs.piece * 16];
        let pixel = run.to + i * outputs.pitch[1];
        write_rows(s, sums, 16, [pixel, every], [first, c_out], [bias, residual], out);
    }
}
