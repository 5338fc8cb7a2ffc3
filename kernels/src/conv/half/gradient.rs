//! The gradient of the weights: a sum over pixels, and over images in their order.
//!
//! Rows of A are channels of the output's gradient, columns of B those of the input, and pixels are the terms, or groups of
//! neighbours in a row: [`Layout`] tells what is multiplied.

mod layout;

use std::ops::Range;

use super::super::layout::store_taps;
use super::super::tiles::{BLOCK, Block, Conversion, Lines, Products, TERMS, Work};
use super::super::{ConvShape, begin};
use super::{Method, halves, rows};
use crate::amx::{ROWS, TILE};
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;
use layout::Layout;

/// Numbers of bf16 of laid out images that are kept at a time, 768 KB, for the L2 cache. It decides in which order sums
/// are rounded, so it does not depend on the machine.
const AT_ONCE: usize = 384 << 10;

/// Sums that a task keeps at the most, 768 KB. With fewer there would be more strips, each of which lays images out again.
const SUMS_AT_ONCE: usize = 192 << 10;

/// Sums of all groups of images at the most, but for one group: more would take longer to write than to compute.
const SUMS_OF_GROUPS: usize = 1600 << 10;

/// The largest number of groups.
const N_GROUPS: usize = 32;

/// So many tasks there are at least, if there are as many images and channels enough.
const N_TASKS: usize = 8;

/// How the sum is cut: groups of images, and strips of the output's and the input's channels, each times 32.
#[derive(Clone, Copy)]
struct Cut {
    images_in_group: usize,
    n_groups: usize,
    /// Times 32 channels of the output and of the input: of all, and of a strip, the last perhaps fewer.
    sizes: [usize; 2],
    strip: [usize; 2],
    /// Sums of 32 channels of the output times 32 of the input, for all products.
    block_len: usize,
}

impl Cut {
    fn of(shape: &ConvShape, n_products: usize) -> Self {
        let block_len = n_products * BLOCK;
        let sizes = [shape.c_out, shape.c_in].map(|channels| channels.div_ceil(32));
        let most_groups = SUMS_OF_GROUPS / (sizes[0] * sizes[1] * block_len);
        let images_in_group = shape.n.div_ceil(most_groups.clamp(1, N_GROUPS)).max(1);
        let n_groups = shape.n.div_ceil(images_in_group).max(1);
        let mut cut = Self { images_in_group, n_groups, sizes, strip: sizes, block_len };
        // The longer side, so that images are laid out as seldom as can be. If both are as long, the output's: then inputs are laid
        // out again, which is faster than gradients.
        while cut.strip != [1, 1]
            && (cut.strip[0] * cut.strip[1] * block_len > SUMS_AT_ONCE || cut.n_tasks() < shape.n.min(N_TASKS))
        {
            let longer = usize::from(cut.strip[1] > cut.strip[0]);
            cut.strip[longer] = cut.strip[longer].div_ceil(2);
        }
        cut
    }

    fn n_strips(&self) -> [usize; 2] {
        [0, 1].map(|side| self.sizes[side].div_ceil(self.strip[side]))
    }

    fn n_tasks(&self) -> usize {
        self.n_groups * self.n_strips().iter().product::<usize>()
    }

    /// Times 32 channels of one side.
    fn range(&self, side: usize, strip: usize) -> Range<usize> {
        strip * self.strip[side]..self.sizes[side].min((strip + 1) * self.strip[side])
    }

    /// Numbers of a group.
    fn group_len(&self) -> usize {
        self.sizes[0] * self.sizes[1] * self.block_len
    }

    /// Where the sums of times 32 channels of both are in a group. Strips of the output's channels follow each other, in each of
    /// them those of the input's, and in each of these columns of 32 of the input.
    fn block(&self, row: usize, column: usize) -> usize {
        let rows = self.range(0, row / self.strip[0]);
        (rows.start * self.sizes[1] + column * rows.len() + row - rows.start) * self.block_len
    }
}

/// The gradient of the weights, see [`super::weight_gradient`].
///
/// # Panics
/// As there, and if the stride is not 1: pixels that meet would not be neighbours.
pub fn weight_gradient(method: Method, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    assert_eq!(shape.stride, 1, "the stride of a gradient in bf16");
    if begin::weight_gradient(shape, x, grad, out) {
        return;
    }
    let layout = Layout::of(method, shape);
    let cut = Cut::of(shape, layout.products.len());
    let lens = [cut.n_groups * cut.group_len()];
    let mut scratch = Scratch::take(lens);
    let [sums] = scratch.pieces(lens);
    if shape.n == 0 {
        sums.fill(0.0);
    }
    let mut tasks = Vec::with_capacity(cut.n_tasks());
    let mut rest = &mut *sums;
    let [n_row_strips, n_column_strips] = cut.n_strips();
    for group in 0..cut.n_groups {
        let images = group * cut.images_in_group..shape.n.min((group + 1) * cut.images_in_group);
        for (rows, columns) in (0..n_row_strips).flat_map(|i| (0..n_column_strips).map(move |j| (i, j))) {
            let (rows, columns) = (cut.range(0, rows), cut.range(1, columns));
            let (sums, more) = rest.split_at_mut(rows.len() * columns.len() * cut.block_len);
            rest = more;
            tasks.push(Task { layout: &layout, shape, x, grad, images: images.clone(), rows, columns, sums });
        }
    }
    parallel::for_each_of(tasks, |task| method.unit.run(task));
    let sums = &*sums;
    parallel::for_each_part(out, 16 * shape.c_in * shape.kernel[0] * shape.kernel[1], |panel, out| {
        method.unit.run(Finish { sums, cut, layout: &layout, shape, panel, out });
    });
}

/// A group of images, a strip of the output's channels and one of the input's.
struct Task<'a> {
    layout: &'a Layout,
    shape: &'a ConvShape,
    x: &'a [f32],
    grad: &'a [f32],
    images: Range<usize>,
    /// Times 32 channels of the output and of the input.
    rows: Range<usize>,
    columns: Range<usize>,
    /// `[32 inputs][32 outputs][product][16 outputs][16 inputs][output][input]`
    sums: &'a mut [f32],
}

impl Work for Task<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { layout, shape, x, grad, images, rows, columns, sums } = self;
        let conversion = products.conversion();
        let &ConvShape { c_in, c_out, .. } = shape;
        let parts = layout.parts;
        let [a_tile, b_tile] = layout.tile_lens();
        let [x_len, grad_len] = [shape.input_len(), shape.output_len()].map(|len| len / shape.n.max(1));
        let outputs = 32 * rows.start..c_out.min(32 * rows.end);
        let inputs = 32 * columns.start..c_in.min(32 * columns.end);
        let [n_rows, n_columns] = [&outputs, &inputs].map(|channels| channels.len().div_ceil(16));
        let [a_len, b_len] = [n_rows * a_tile, n_columns * b_tile];
        let at_once = (AT_ONCE / (a_len + b_len)).clamp(1, images.len().max(1));
        let at_once = images.len().div_ceil(images.len().div_ceil(at_once).max(1));
        let lens = [at_once * a_len / 2, at_once * b_len / 2];
        let mut scratch = Scratch::take(lens);
        let [a, b] = scratch.pieces(lens);
        let mut segments = vec![[0; 2]; at_once];
        let mut add = false;
        for first in images.clone().step_by(at_once.max(1)) {
            let n = at_once.min(images.end - first);
            for i in 0..n {
                let (x, grad) = (&x[(first + i) * x_len..][..x_len], &grad[(first + i) * grad_len..][..grad_len]);
                layout.pack_gradient(conversion, grad, c_out, outputs.clone(), &mut a[i * a_len / 2..][..a_len / 2]);
                layout.pack_input(conversion, x, c_in, inputs.clone(), &mut b[i * b_len / 2..][..b_len / 2]);
            }
            let (a, b) = (halves(a), halves(b));
            let mut blocks = sums.chunks_exact_mut(BLOCK).peekable();
            for (column, row) in
                (0..n_columns).step_by(2).flat_map(|column| (0..n_rows).step_by(2).map(move |row| (column, row)))
            {
                let runs = [row, row + 1].map(|row| row * a_tile);
                let columns = [column, column + 1].map(|column| column * b_tile);
                for product in &layout.products {
                    for (i, segment) in segments.iter_mut().enumerate().take(n) {
                        *segment = [i * a_len + product[0], i * b_len + product[1]];
                    }
                    let sums = blocks.next().expect("sums of every block and product");
                    let next = blocks.peek().map_or(Lines::NONE, |sums| Lines::of(halves(sums)));
                    let block = Block {
                        parts,
                        a,
                        runs: &runs[..2.min(n_rows - row)],
                        n_rows: ROWS.min(c_out),
                        row: TERMS * parts as usize,
                        step: 16 * TERMS * parts as usize,
                        b,
                        columns: &columns[..2.min(n_columns - column)],
                        segments: &segments[..n],
                        len: layout.n_terms,
                        soon: [next, Lines::NONE],
                    };
                    products.multiply(&block, add, sums);
                }
            }
            add = true;
        }
    }
}

/// The gradient of the weights to 16 output channels, `[channel, c_in, taps]`, from the sums of all tasks.
struct Finish<'a> {
    sums: &'a [f32],
    cut: Cut,
    layout: &'a Layout,
    shape: &'a ConvShape,
    /// Which 16 output channels.
    panel: usize,
    out: &'a mut [f32],
}

impl Work for Finish<'_> {
    #[inline(always)]
    #[allow(
        clippy::needless_range_loop,
        reason = "closures, as iterators take them, are compiled without the instructions"
    )]
    fn run<P: Products>(self, products: &mut P) {
        let Self { sums, cut, layout, shape, panel, out } = self;
        let s = products.conversion().simd();
        let lanes = <P::C as Conversion>::S::LANES;
        let (c_in, n_taps) = (shape.c_in, shape.kernel[0] * shape.kernel[1]);
        let lens = [layout.products.len() * TILE];
        let mut scratch = Scratch::take(lens);
        let [totals] = scratch.pieces(lens);
        for input in (0..c_in).step_by(16) {
            // All groups, a tile after the other.
            let at = cut.block(panel / 2, input / 32) + (2 * (panel % 2) + input / 16 % 2) * TILE;
            for (product, total) in totals.chunks_exact_mut(TILE).enumerate() {
                let at = at + product * BLOCK;
                total.copy_from_slice(&sums[at..at + TILE]);
                for group in 1..cut.n_groups {
                    let sums = &sums[group * cut.group_len() + at..][..TILE];
                    for i in (0..TILE).step_by(lanes) {
                        let total = &mut total[i..];
                        let sum = s.add(s.load(total), s.load(&sums[i..]));
                        s.store(total, sum);
                    }
                }
            }
            for (row, out) in out.chunks_exact_mut(c_in * n_taps).enumerate() {
                for lane in (0..16.min(c_in - input)).step_by(lanes) {
                    let at = row * 16 + lane;
                    let out = &mut out[(input + lane) * n_taps..];
                    let mut by_rows = [s.splat(0.0); 16];
                    if layout.by_rows {
                        for y in 0..3 {
                            let mut places = [s.splat(0.0); rows::PLACES];
                            for i in 0..rows::PLACES {
                                places[i] = s.load(&totals[(3 * i + y) * TILE + at..]);
                            }
                            let taps = rows::weight_gradients(s, places);
                            for i in 0..3 {
                                by_rows[3 * y + i] = taps[i];
                            }
                        }
                    }
                    for first in (0..n_taps).step_by(lanes) {
                        let n = lanes.min(n_taps - first);
                        let mut taps = [s.splat(0.0); 16];
                        for i in 0..n {
                            taps[i] = match layout.by_rows {
                                true => by_rows[first + i],
                                false => s.load(&totals[(first + i) * TILE + at..]),
                            };
                        }
                        store_taps(s, taps, n, n_taps, &mut out[first..]);
                    }
                }
            }
        }
    }
}
