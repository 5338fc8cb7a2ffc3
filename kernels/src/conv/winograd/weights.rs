//! The weights' transform.

use super::Tile;
use super::transform::{Four, Transform, Two};
use crate::conv::gemm::panels;
use crate::conv::layout::{Weights, padded};
use crate::cpu::{Isa, kernel};
use crate::parallel;
use crate::simd::Simd;

/// Input channels whose transformed weights lie together.
pub const BLOCK: usize = 16;

/// Numbers from one place of a block to the next: a line more than they take, so that the places do not fall into the same set
/// of the L1 cache.
pub const fn place_pitch(width: usize) -> usize {
    BLOCK * width + 16
}

/// G g Gᵀ of all kernels: `[panel of c_out][block of c_in][place][channel of the block][width of the panel]`, places
/// [`place_pitch`] apart.
pub fn transform_weights(isa: Isa, tile: Tile, weights: Weights<'_>, [c_in, c_out]: [usize; 2], out: &mut [f32]) {
    let n_blocks = c_in.div_ceil(BLOCK);
    let mut rest = out;
    for [first_out, width] in weight_panels(isa, c_out) {
        let len = tile.n_in() * tile.n_in() * place_pitch(width);
        let (panel, more) = rest.split_at_mut(n_blocks * len);
        rest = more;
        parallel::for_each_part(panel, len, |block, out| {
            let inputs = [block * BLOCK, c_in.min((block + 1) * BLOCK)];
            let outputs = [first_out, c_out.min(first_out + width)];
            transform_block(isa, tile, weights, inputs, outputs, width, out);
        });
    }
}

/// How many numbers [`transform_weights`] gives.
pub fn transformed_len(isa: Isa, tile: Tile, [c_in, c_out]: [usize; 2]) -> usize {
    let of_panel = |[_, width]: [usize; 2]| c_in.div_ceil(BLOCK) * tile.n_in() * tile.n_in() * place_pitch(width);
    weight_panels(isa, c_out).into_iter().map(of_panel).sum()
}

kernel! {
    /// The first channel and the width of each panel of output channels.
    fn weight_panels<'a>(s; c_out: usize) -> Vec<[usize; 2]> {
        let _ = s;
        panels(padded::<S>(c_out) / S::LANES).map(|(first, n)| [first * S::LANES, n * S::LANES]).collect()
    }
}

kernel! {
    fn transform_block<'a>(
        s; tile: Tile, weights: Weights<'a>, inputs: [usize; 2], outputs: [usize; 2], width: usize, out: &'a mut [f32],
    ) {
        match tile {
            Tile::Two => weight_block::<S, Two>(s, weights, inputs, outputs, width, out),
            Tile::Four => weight_block::<S, Four>(s, weights, inputs, outputs, width, out),
        }
    }
}

/// The weights from some input channels (first, end) to those of a panel; zeros for channels that do not exist.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn weight_block<S: Simd, T: Transform>(
    s: S,
    weights: Weights<'_>,
    [first_in, end_in]: [usize; 2],
    [first_out, end_out]: [usize; 2],
    width: usize,
    out: &mut [f32],
) {
    let t = T::N_IN;
    for input in 0..BLOCK {
        for vector in (0..width).step_by(S::LANES) {
            let first = first_out + vector;
            let mut taps = [s.splat(0.0); 9];
            if first_in + input < end_in {
                taps = weights.nine_taps(s, first, end_out.saturating_sub(first), first_in + input);
            }
            let mut columns = [[s.splat(0.0); 6]; 3];
            for j in 0..3 {
                columns[j] = T::kernel(s, [taps[j], taps[3 + j], taps[6 + j]]);
            }
            for i in 0..t {
                let row = T::kernel(s, [columns[0][i], columns[1][i], columns[2][i]]);
                for j in 0..t {
                    s.store(&mut out[(i * t + j) * place_pitch(width) + input * width + vector..], row[j]);
                }
            }
        }
    }
}
