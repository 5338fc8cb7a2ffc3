//! Weights as the second operand of the products.

use super::super::tiles::{Conversion, Products, Unit, Work};
use super::{TERMS, transpose_rows};
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;

/// Weights that are laid out faster than other threads begin to help.
const FEW_WEIGHTS: usize = 1 << 15;

/// Numbers of the memory that [`pack_weights`] fills, of two bf16 each, from `c_in` to `c_out` channels.
pub fn packed_len(kernel: [usize; 2], [c_in, c_out]: [usize; 2]) -> usize {
    c_out.div_ceil(16) * panel_len(kernel, c_in)
}

/// The same of 16 output channels.
fn panel_len(kernel: [usize; 2], c_in: usize) -> usize {
    kernel[0] * kernel[1] * c_in.next_multiple_of(TERMS) * 16 / 2
}

/// Weights as B: bf16 `[16 output channels][tap][input channel / 2][output channel][2]`, the input's channels padded. `exchanged`:
/// the weights are those to `c_in` channels from `c_out`.
pub fn pack_weights(
    unit: Unit,
    weights: &[f32],
    kernel: [usize; 2],
    channels: [usize; 2],
    exchanged: bool,
    out: &mut [f32],
) {
    let (len, n_taps) = (panel_len(kernel, channels[0]), kernel[0] * kernel[1]);
    let panel = |i: usize, out: &mut [f32]| {
        unit.run(WeightPanel { weights, channels, n_taps, exchanged, first: 16 * i, out });
    };
    match out.len() < FEW_WEIGHTS {
        true => out.chunks_mut(len).enumerate().for_each(|(i, out)| panel(i, out)),
        false => parallel::for_each_part(out, len, panel),
    }
}

/// The weights to 16 output channels.
struct WeightPanel<'a> {
    weights: &'a [f32],
    channels: [usize; 2],
    n_taps: usize,
    exchanged: bool,
    /// The first output channel.
    first: usize,
    out: &'a mut [f32],
}

impl Work for WeightPanel<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { weights, channels: [c_in, c_out], n_taps, exchanged, first, out } = self;
        let conversion = products.conversion();
        let s = conversion.simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let n_out = 16.min(c_out - first);
        // Of 32 input channels: [channel][tap][16 output channels].
        let lens = [TERMS * n_taps * 16];
        let mut scratch = Scratch::take(lens);
        let [columns] = scratch.pieces(lens);
        for input in (0..c_in).step_by(TERMS) {
            let n_in = TERMS.min(c_in - input);
            columns.fill(0.0);
            // Weights are [output][input][tap], exchanged [input][output][tap]: what follows each other becomes a row.
            match exchanged {
                false => {
                    let from = &weights[(first * c_in + input) * n_taps..];
                    transpose_rows(s, from, c_in * n_taps, [n_out, n_in * n_taps], columns);
                }
                true if n_taps == 1 => {
                    for i in 0..n_in {
                        let from = &weights[(input + i) * c_out + first..][..n_out];
                        columns[i * 16..][..n_out].copy_from_slice(from);
                    }
                }
                true => {
                    for i in 0..n_in {
                        let from = &weights[((input + i) * c_out + first) * n_taps..];
                        transpose_rows(s, from, n_taps, [n_out, n_taps], &mut columns[i * n_taps * 16..]);
                    }
                }
            }
            for tap in 0..n_taps {
                for i in (0..TERMS).step_by(2) {
                    let to = (tap * c_in.next_multiple_of(TERMS) + input + i) * 8;
                    for lane in (0..16).step_by(lanes) {
                        let even = s.load(&columns[(i * n_taps + tap) * 16 + lane..]);
                        let odd = s.load(&columns[((i + 1) * n_taps + tap) * 16 + lane..]);
                        s.store(&mut out[to + lane..], conversion.pairs(even, odd));
                    }
                }
            }
        }
    }
}
