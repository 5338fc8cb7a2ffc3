//! How an output is cut into tiles.

use std::ops::Range;

use super::Tile;
use super::transform::{SKIPPED, Side};
use crate::buffer::LINE;
use crate::simd::Simd;

/// Inputs of the largest tile.
pub const MOST_INPUTS: usize = 36;

/// In place of a pixel that is outside the image, where zeros are.
pub const OUTSIDE: u32 = u32::MAX;

/// One tile: where its inputs and its first output are, and how many of its outputs exist.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// Pixels of the image, row after row.
    pub inputs: [u32; MOST_INPUTS],
    /// Pixel of the output.
    pub out: usize,
    /// Rows and columns that are inside the output.
    pub inside: [usize; 2],
    /// Along the height and the width.
    pub sides: [Side; 2],
}

/// Where everything of one image is.
#[derive(Debug)]
pub struct Plan {
    /// Between the pixels of a tile.
    pub dilation: usize,
    /// Height and width of the output.
    pub out_size: [usize; 2],
    /// Pixels of the input.
    pub n_pixels: usize,
    /// Tiles beside each other.
    pub in_a_row: usize,
    /// The tiles, ordered as [`ORDER`].
    pub spots: Vec<Spot>,
    /// Those of each kind of [`ORDER`].
    kinds: [Range<usize>; 4],
}

/// Kinds of tiles by their sides along height and width, so ordered that those that are whole along the height follow each other,
/// and those that are whole along the width too.
const ORDER: [[Side; 2]; 4] =
    [[Side::Full, Side::Short], [Side::Full, Side::Full], [Side::Short, Side::Full], [Side::Short, Side::Short]];

/// A tile along one axis.
#[derive(Clone, Copy)]
struct Piece {
    first: usize,
    inside: usize,
    side: Side,
}

/// Cuts outputs `first`, `first + d`, … below `end` into tiles.
fn pieces(tile: Tile, first: usize, end: usize, dilation: usize) -> Vec<Piece> {
    let n = (end - first).div_ceil(dilation);
    let n_tiles = n.div_ceil(tile.n_out());
    // What the tiles have too many of is left out of the last ones.
    let n_short = if tile == Tile::Four { (n_tiles * 4 - n).min(n_tiles) } else { 0 };
    let mut done = 0;
    let piece = |i: usize| {
        let (side, n_out) = if i < n_tiles - n_short { (Side::Full, tile.n_out()) } else { (Side::Short, 3) };
        let piece = Piece { first: first + done * dilation, inside: n_out.min(n - done), side };
        done += piece.inside;
        piece
    };
    (0..n_tiles).map(piece).collect()
}

impl Plan {
    /// The tiles of an output of `out_size` from an image of `size` with `offset` zeros above and left of it.
    pub fn new(tile: Tile, size: [usize; 2], out_size: [usize; 2], offset: [isize; 2], dilation: usize) -> Self {
        // Outputs y, y + d, y + 2d, … belong together.
        let axis = |side: usize| -> Vec<Piece> {
            (0..dilation.min(side)).flat_map(|first| pieces(tile, first, side, dilation)).collect()
        };
        let [rows, columns] = out_size.map(axis);
        assert!(size[0] * size[1] < OUTSIDE as usize, "an image of {size:?} pixels");
        // Along an axis, where the inputs of a piece are in the image.
        let inside = |pieces: &[Piece], axis: usize| -> Vec<[Option<usize>; 6]> {
            let place = |first: usize, k: usize| {
                (first + k * dilation)
                    .checked_add_signed(-offset[axis])
                    .filter(|&at| k < tile.n_in() && at < size[axis])
            };
            pieces.iter().map(|piece| std::array::from_fn(|k| place(piece.first, k))).collect()
        };
        let (ys, xs) = (inside(&rows, 0), inside(&columns, 1));
        let inputs = |y: usize, x: usize| {
            let mut inputs = [OUTSIDE; MOST_INPUTS];
            for (i, y) in ys[y].iter().enumerate() {
                for (j, x) in xs[x].iter().enumerate() {
                    if let (Some(y), Some(x)) = (y, x) {
                        inputs[i * tile.n_in() + j] = (y * size[1] + x) as u32;
                    }
                }
            }
            inputs
        };
        let mut spots = Vec::with_capacity(rows.len() * columns.len());
        let kinds = ORDER.map(|sides| {
            let first = spots.len();
            for (i, y) in rows.iter().enumerate().filter(|(_, y)| y.side == sides[0]) {
                for (j, x) in columns.iter().enumerate().filter(|(_, x)| x.side == sides[1]) {
                    spots.push(Spot {
                        inputs: inputs(i, j),
                        out: y.first * out_size[1] + x.first,
                        inside: [y.inside, x.inside],
                        sides,
                    });
                }
            }
            first..spots.len()
        });
        Self { dilation, out_size, n_pixels: size[0] * size[1], in_a_row: columns.len(), spots, kinds }
    }

    /// Tile `number` of all those of some images, one image after the other: the image's number, and the tile.
    #[inline(always)]
    pub fn tile(&self, number: usize) -> (usize, &Spot) {
        (number / self.spots.len(), &self.spots[number % self.spots.len()])
    }

    /// The tiles that have the place (`row`, `column`): all but those that skip it.
    pub fn having(&self, row: usize, column: usize) -> Range<usize> {
        let [full_short, full_full, short_full, short_short] = &self.kinds;
        match (row == SKIPPED, column == SKIPPED) {
            (false, false) => full_short.start..short_short.end,
            (true, false) => full_short.start..full_full.end,
            (false, true) => full_full.start..short_full.end,
            (true, true) => full_full.clone(),
        }
    }
}

/// Asks for an image a row of tiles before it is needed, a tile's share at a time: tiles read and write in no order that processors
/// foresee, and what lies in memory, not in a cache, would be waited for.
#[derive(Clone, Copy)]
pub struct Ahead {
    image: *const f32,
    len: usize,
    share: usize,
    in_a_row: usize,
}

impl Ahead {
    /// Of images of `len` numbers each that are read or written tile by tile.
    pub fn new(plan: &Plan, len: usize, images: &[f32]) -> Self {
        let share = len.div_ceil(plan.spots.len().max(1)).next_multiple_of(LINE);
        Self { image: images.as_ptr(), len: images.len(), share, in_a_row: plan.in_a_row }
    }

    /// To be called as tile `i` begins.
    #[inline(always)]
    pub fn ask<S: Simd>(self, s: S, i: usize) {
        let first = (i + self.in_a_row) * self.share;
        for at in (first..self.len.min(first + self.share)).step_by(LINE) {
            s.prefetch(self.image.wrapping_add(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_output_once() {
        for tile in [Tile::Two, Tile::Four] {
            for (height, width, dilation) in [(1, 1, 1), (28, 28, 1), (14, 14, 2), (14, 13, 4), (5, 9, 1), (3, 7, 9)] {
                let plan = Plan::new(tile, [height, width], [height, width], [dilation as isize; 2], dilation);
                let mut count = vec![0; height * width];
                for spot in &plan.spots {
                    for y in 0..spot.inside[0] {
                        for x in 0..spot.inside[1] {
                            count[spot.out + (y * width + x) * dilation] += 1;
                        }
                    }
                }
                assert!(count.iter().all(|&n| n == 1), "{tile:?} {height}×{width} by {dilation}: {count:?}");
            }
        }
    }

    #[test]
    fn sides_that_are_no_multiple_of_four_take_fewer_products() {
        let n_products = |side: usize| {
            let plan = Plan::new(Tile::Four, [side; 2], [side; 2], [1, 1], 1);
            (0..36).map(|place| plan.having(place / 6, place % 6).len()).sum::<usize>()
        };
        assert_eq!(n_products(28), 49 * 36);
        // 4 + 4 + 3 + 3: two sides of six places and two of five.
        assert_eq!(n_products(14), 22 * 22);
        assert_eq!(n_products(7), 11 * 11);
    }
}
