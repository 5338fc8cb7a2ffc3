//! Images laid out for the gradient of the weights.
//!
//! A tap shifts where B begins, by whole pairs of pixels: rows of pixels have an even width there, and pairs begin at even pixels in
//! one copy and, where a tap needs it, at odd ones in another. So no row of a tile register crosses from one cache line to the next,
//! which would take three times as long to load.
//!
//! With tile registers, 3×3 kernels whose output is wider than the dilation are computed by F(2, 3) along rows, by the gradient of what `rows`
//! does: of a tile's two pixels e of the gradient and the four inputs d that they meet, three taps by four products, not six,
//!
//! ```text
//! m₀ = e₀·(d₀ − d₂)    m₁ = (e₀ + e₁)·(d₁ + d₂)    m₂ = (e₀ − e₁)·(d₂ − d₁)    m₃ = e₁·(d₁ − d₃)
//! g₀ = m₀ + (m₁ + m₂)/2    g₁ = (m₁ − m₂)/2    g₂ = (m₁ + m₂)/2 − m₃
//! ```
//!
//! where each m is a sum over all tiles. Only rows of the kernel shift where B begins, by whole rows of tiles, which have an
//! even number of places: by whole pairs.

use std::ops::Range;

use super::super::super::ConvShape;
use super::super::super::direct::Plan;
use super::super::super::tiles::{Conversion, Parts, TERMS};
use super::super::rows::{self, PLACES};
use super::super::{LINE, Method, split, store_pairs};
use crate::buffer::Scratch;
use crate::simd::Simd;

/// In the place of a pixel where there is none.
const OUTSIDE: usize = usize::MAX;

/// Where everything of one image is.
pub struct Layout {
    pub parts: Parts,
    /// Terms of a sum, a multiple of [`TERMS`].
    pub n_terms: usize,
    /// Where each product begins in a tile of A and in one of B, see [`Self::tile_lens`]: of each tap, or of each row of the kernel and
    /// place.
    pub products: Vec<[usize; 2]>,
    /// Whether by tiles along rows.
    pub by_rows: bool,
    /// Pixels of the gradient at each term: one, or the two of a tile.
    grad_pixels: Vec<usize>,
    /// Pixels of the input at each place that a product shifts a term to: one, or the four of a tile.
    x_pixels: Vec<usize>,
    /// Copies of the gradient and of the input: one for each place; or one, and of the input two if there are taps by odd numbers of
    /// pixels.
    n_copies: [usize; 2],
    /// Pairs of a copy of the input.
    n_pairs: usize,
}

/// Pixels of a tile: of the gradient, of the input.
const GRAD_TILE: usize = 2;
const X_TILE: usize = 4;

impl Layout {
    pub fn of(method: Method, shape: &ConvShape) -> Self {
        match rows::fits(method, shape, shape.out_size()[1]) {
            true => Self::of_tiles(method.parts, shape),
            false => Self::of_pixels(method.parts, shape),
        }
    }

    fn of_pixels(parts: Parts, shape: &ConvShape) -> Self {
        let ConvShape { size, kernel, padding, dilation, .. } = *shape;
        let out_size = shape.out_size();
        let width = Plan::forward(shape).frame.size[1].next_multiple_of(2);
        let n_terms = ((out_size[0] - 1) * width + out_size[1]).next_multiple_of(TERMS);
        let offset = |tap: usize| (tap / kernel[1] * width + tap % kernel[1]) * dilation;
        let n_taps = kernel[0] * kernel[1];
        let n_pairs = (n_terms + offset(n_taps - 1)) / 2;
        let grid = Grid { width, tiles: (0..width).collect(), dilation };
        let copy_len = n_pairs * TERMS * parts as usize;
        let product = |tap| [0, offset(tap) % 2 * copy_len + offset(tap) / 2 * TERMS * parts as usize];
        let n_copies = [1, 1 + usize::from((0..n_taps).any(|tap| offset(tap) % 2 == 1))];
        Self {
            parts,
            n_terms,
            products: (0..n_taps).map(product).collect(),
            by_rows: false,
            grad_pixels: grid.pixels::<1>(out_size, [0; 2], n_terms),
            // One more than pairs have, for those that begin at odd pixels.
            x_pixels: grid.pixels::<1>(size, padding, 2 * n_pairs + 1),
            n_copies,
            n_pairs,
        }
    }

    fn of_tiles(parts: Parts, shape: &ConvShape) -> Self {
        let ConvShape { size, padding, dilation, .. } = *shape;
        let out_size = shape.out_size();
        let tiles = rows::tiles(out_size[1], dilation);
        let width = tiles.len().next_multiple_of(2);
        let n_terms = ((out_size[0] - 1) * width + tiles.len()).next_multiple_of(TERMS);
        let n_pairs = (n_terms + 2 * dilation * width) / 2;
        let grid = Grid { width, tiles, dilation };
        let copy_lens = [n_terms * 16 * parts as usize, n_pairs * TERMS * parts as usize];
        let product = |i: usize| {
            let (place, row) = (i / 3, i % 3);
            [place * copy_lens[0], place * copy_lens[1] + row * dilation * width / 2 * TERMS * parts as usize]
        };
        Self {
            parts,
            n_terms,
            products: (0..3 * PLACES).map(product).collect(),
            by_rows: true,
            grad_pixels: grid.pixels::<GRAD_TILE>(out_size, [0; 2], n_terms),
            x_pixels: grid.pixels::<X_TILE>(size, padding, 2 * n_pairs),
            n_copies: [PLACES; 2],
            n_pairs,
        }
    }

    /// Numbers of bf16 of all copies of 16 channels: of the gradient, and of the input.
    pub fn tile_lens(&self) -> [usize; 2] {
        let [of_gradient, of_input] = self.n_copies;
        [of_gradient * self.n_terms * 16, of_input * self.n_pairs * TERMS].map(|len| len * self.parts as usize)
    }

    /// Some channels of the gradient of the output of one image as A: bf16 `[16 channels][copy][term / 32][channel][part][32]`, zeros
    /// where there is no pixel.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "closures, as iterators take them, are compiled without the instructions"
    )]
    pub fn pack_gradient<C: Conversion>(
        &self,
        conversion: C,
        grad: &[f32],
        c_out: usize,
        channels: Range<usize>,
        out: &mut [f32],
    ) {
        let (s, lanes) = (conversion.simd(), C::S::LANES);
        let (n_parts, n_copies) = (self.parts as usize, self.n_copies[0]);
        let zeros = [0.0; 16];
        let block_len = 16 * n_parts * LINE;
        let mut squares = [[[s.splat(0.0); 16]; 2]; PLACES];
        let n_each = if self.by_rows { GRAD_TILE } else { 1 };
        for (block, pixels) in self.grad_pixels.chunks_exact(n_each * TERMS).enumerate() {
            let next = self.grad_pixels.chunks_exact(n_each * TERMS).nth(block + 1).unwrap_or_default();
            ask(s, grad, c_out, &channels, next);
            for (tile, out) in out.chunks_exact_mut(self.tile_lens()[0] / 2).enumerate() {
                // Squares of channels and pairs of terms.
                for (channel, pair) in
                    (0..16).step_by(lanes).flat_map(|c| (0..LINE).step_by(lanes).map(move |p| (c, p)))
                {
                    let first = channels.end.min(channels.start + 16 * tile + channel);
                    let range = first..channels.end.min(first + lanes);
                    for i in 0..lanes {
                        let pixels = &pixels[2 * n_each * (pair + i)..][..2 * n_each];
                        let mut values = [[s.splat(0.0); 2]; PLACES];
                        for k in 0..2 {
                            let value = s.load_some(channels_of(grad, c_out, &range, &zeros, pixels[n_each * k]));
                            values[0][k] = value;
                            if self.by_rows {
                                let second = channels_of(grad, c_out, &range, &zeros, pixels[GRAD_TILE * k + 1]);
                                let second = s.load_some(second);
                                values[1][k] = s.add(value, second);
                                values[2][k] = s.sub(value, second);
                                values[3][k] = second;
                            }
                        }
                        for copy in 0..n_copies {
                            let [even, odd] = values[copy];
                            match self.parts {
                                Parts::One => squares[copy][0][i] = conversion.pairs(even, odd),
                                Parts::Two => {
                                    let ([even, even_rest], [odd, odd_rest]) = (split(s, even), split(s, odd));
                                    squares[copy][0][i] = conversion.pairs(even, odd);
                                    squares[copy][1][i] = conversion.pairs(even_rest, odd_rest);
                                }
                            }
                        }
                    }
                    for copy in 0..n_copies {
                        let out = &mut out[(copy * self.n_terms / TERMS + block) * block_len..][..block_len];
                        for part in 0..n_parts {
                            let square = &mut squares[copy][part];
                            s.transpose(square);
                            for i in 0..lanes {
                                s.store(&mut out[((channel + i) * n_parts + part) * LINE + pair..], square[i]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Some channels of the input of one image as B: bf16 `[16 channels][copy][pair][part][channel][2]`, zeros where there is no pixel.
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "closures, as iterators take them, are compiled without the instructions"
    )]
    pub fn pack_input<C: Conversion>(
        &self,
        conversion: C,
        x: &[f32],
        c_in: usize,
        channels: Range<usize>,
        out: &mut [f32],
    ) {
        /// Pairs that are asked for ahead.
        const AHEAD: usize = 16;
        let (s, lanes) = (conversion.simd(), C::S::LANES);
        let &Self { parts, n_copies: [_, n_copies], n_pairs, .. } = self;
        let copy_len = n_pairs * parts as usize * LINE;
        let lens = [channels.len()];
        let mut scratch = Scratch::take(lens);
        let [zeros] = scratch.pieces(lens);
        zeros.fill(0.0);
        let zeros = &*zeros;
        let n_each = if self.by_rows { X_TILE } else { 1 };
        for pair in 0..n_pairs {
            let ahead = 2 * n_each * (pair + AHEAD);
            ask(s, x, c_in, &channels, self.x_pixels.get(ahead..ahead + 2 * n_each).unwrap_or_default());
            let pixels = &self.x_pixels[2 * n_each * pair..];
            macro_rules! pixel {
                ($i:expr) => {
                    channels_of(x, c_in, &channels, zeros, pixels[$i])
                };
            }
            let at = |channel: usize| channel / 16 * n_copies * copy_len + pair * parts as usize * LINE + channel % 16;
            let vectors = (0..channels.len().next_multiple_of(16)).step_by(lanes);
            if self.by_rows {
                let mut tiles = [[zeros; X_TILE]; 2];
                for i in 0..2 * X_TILE {
                    tiles[i / X_TILE][i % X_TILE] = pixel!(i);
                }
                for channel in vectors {
                    let (begin, end) = (channels.len().min(channel), channels.len().min(channel + lanes));
                    let mut values = [[s.splat(0.0); X_TILE]; 2];
                    for i in 0..X_TILE {
                        values[0][i] = s.load_some(&tiles[0][i][begin..end]);
                        values[1][i] = s.load_some(&tiles[1][i][begin..end]);
                    }
                    let [even, odd] = [rows::inputs(s, values[0]), rows::inputs(s, values[1])];
                    for i in 0..PLACES {
                        store_pairs(conversion, parts, [even[i], odd[i]], &mut out[at(channel) + i * copy_len..]);
                    }
                }
                continue;
            }
            let [first, second, third] = [pixel!(0), pixel!(1), pixel!(2)];
            for channel in vectors {
                let (begin, end) = (channels.len().min(channel), channels.len().min(channel + lanes));
                let middle = s.load_some(&second[begin..end]);
                store_pairs(conversion, parts, [s.load_some(&first[begin..end]), middle], &mut out[at(channel)..]);
                if n_copies == 2 {
                    let last = s.load_some(&third[begin..end]);
                    store_pairs(conversion, parts, [middle, last], &mut out[at(channel) + copy_len..]);
                }
            }
        }
    }
}

/// Rows of `width` places, at each of which a tile begins, at a pixel of a row of the image, or at some nothing.
struct Grid {
    width: usize,
    tiles: Vec<usize>,
    /// From one pixel of a tile to the next.
    dilation: usize,
}

impl Grid {
    /// The `N` pixels of the tile at each of `n` places, in an image of `size` with `zeros` above and left of it.
    fn pixels<const N: usize>(&self, size: [usize; 2], zeros: [usize; 2], n: usize) -> Vec<usize> {
        let mut pixels = vec![OUTSIDE; n * N];
        for (y, row) in pixels.chunks_mut(self.width * N).enumerate() {
            let Some(y) = y.checked_sub(zeros[0]).filter(|&y| y < size[0]) else { continue };
            for (first, tile) in self.tiles.iter().zip(row.chunks_mut(N)) {
                for (i, pixel) in tile.iter_mut().enumerate() {
                    let x = (first + i * self.dilation).checked_sub(zeros[1]).filter(|&x| x < size[1]);
                    *pixel = x.map_or(OUTSIDE, |x| y * size[1] + x);
                }
            }
        }
        pixels
    }
}

/// The channels of a pixel in `range`, or as many of `zeros`.
#[inline(always)]
fn channels_of<'a>(
    image: &'a [f32],
    channels: usize,
    range: &Range<usize>,
    zeros: &'a [f32],
    pixel: usize,
) -> &'a [f32] {
    match pixel {
        OUTSIDE => &zeros[..range.len()],
        pixel => &image[pixel * channels..][range.clone()],
    }
}

/// Asks for the channels of pixels in `range`, which are soon to be read, a stretch of memory for each.
#[inline(always)]
fn ask<S: Simd>(s: S, image: &[f32], channels: usize, range: &Range<usize>, pixels: &[usize]) {
    for &pixel in pixels {
        if pixel != OUTSIDE {
            for channel in range.clone().step_by(LINE) {
                s.prefetch(image.as_ptr().wrapping_add(pixel * channels + channel));
            }
        }
    }
}
