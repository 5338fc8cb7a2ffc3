//! Weights as the second operand of the products.

use super::super::tiles::{Conversion, Parts, Products, TERMS, Work};
use super::rows::{self, PLACES};
use super::{LINE, Method, store_pairs, transpose_rows};
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;

/// Weights that are laid out faster than other threads begin to help.
const FEW_WEIGHTS: usize = 1 << 15;

/// What becomes of the taps of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Taps {
    /// Each of so many is multiplied.
    Each(usize),
    /// The places of the rows of a 3×3 kernel are, see [`rows`]; with channels exchanged the kernel is mirrored.
    Places,
}

impl Taps {
    /// Of the weights.
    fn n(self) -> usize {
        match self {
            Taps::Each(n) => n,
            Taps::Places => 9,
        }
    }

    /// What is laid out.
    fn n_packed(self) -> usize {
        match self {
            Taps::Each(n) => n,
            Taps::Places => 3 * PLACES,
        }
    }
}

/// Numbers of the memory that [`pack_weights`] fills, of two bf16 each, from `c_in` to `c_out` channels.
pub fn packed_len(parts: Parts, taps: Taps, [c_in, c_out]: [usize; 2]) -> usize {
    c_out.div_ceil(16) * panel_len(parts, taps, c_in)
}

/// The same of 16 output channels.
fn panel_len(parts: Parts, taps: Taps, c_in: usize) -> usize {
    taps.n_packed() * c_in.next_multiple_of(TERMS) * parts as usize * 16 / 2
}

/// Weights as B: bf16 `[16 output channels][tap][input channel / 2][part][output channel][2]`, the input's channels padded; the
/// places of a row are taps that follow each other. `exchanged`: the weights are those to `c_in` channels from `c_out`.
pub fn pack_weights(
    method: Method,
    weights: &[f32],
    taps: Taps,
    channels: [usize; 2],
    exchanged: bool,
    out: &mut [f32],
) {
    let (parts, len) = (method.parts, panel_len(method.parts, taps, channels[0]));
    let panel = |i: usize, out: &mut [f32]| {
        method.unit.run(WeightPanel { parts, weights, channels, taps, exchanged, first: 16 * i, out });
    };
    match out.len() < FEW_WEIGHTS {
        true => out.chunks_mut(len).enumerate().for_each(|(i, out)| panel(i, out)),
        false => parallel::for_each_part(out, len, panel),
    }
}

/// The weights to 16 output channels.
struct WeightPanel<'a> {
    parts: Parts,
    weights: &'a [f32],
    channels: [usize; 2],
    taps: Taps,
    exchanged: bool,
    /// The first output channel.
    first: usize,
    out: &'a mut [f32],
}

impl Work for WeightPanel<'_> {
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "closures, as iterators take them, are compiled without the instructions"
    )]
    fn run<P: Products>(self, products: &mut P) {
        let Self { parts, weights, channels: [c_in, c_out], taps, exchanged, first, out } = self;
        let n_taps = taps.n();
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
            for i in (0..TERMS).step_by(2) {
                let pair = (input + i) / 2;
                let to = |tap: usize| (tap * c_in.next_multiple_of(TERMS) / 2 + pair) * parts as usize * LINE;
                for lane in (0..16).step_by(lanes) {
                    let [even, odd] = [i, i + 1].map(|i| &columns[i * n_taps * 16 + lane..]);
                    match taps {
                        Taps::Each(n) => {
                            for tap in 0..n {
                                let pairs = [s.load(&even[tap * 16..]), s.load(&odd[tap * 16..])];
                                store_pairs(conversion, parts, pairs, &mut out[to(tap) + lane..]);
                            }
                        }
                        Taps::Places => {
                            for row in 0..3 {
                                let mut values = [[s.splat(0.0); 3]; 2];
                                for k in 0..3 {
                                    let tap = if exchanged { 8 - (3 * row + k) } else { 3 * row + k };
                                    values[0][k] = s.load(&even[tap * 16..]);
                                    values[1][k] = s.load(&odd[tap * 16..]);
                                }
                                let [even, odd] = [rows::weights(s, values[0]), rows::weights(s, values[1])];
                                for i in 0..PLACES {
                                    let to = &mut out[to(row * PLACES + i) + lane..];
                                    store_pairs(conversion, parts, [even[i], odd[i]], to);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
