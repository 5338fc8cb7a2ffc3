//! Any convolution as sums of products over taps: the padded image is read in place, nothing is unfolded.

use super::ConvShape;
use super::gemm::{MAX_VECTORS, Out, Panel, Rows, balanced, max_rows, multiply, panels};
use super::layout::{Frame, Weights, padded, write_rows};
use crate::buffer::{LINE, Scratch};
use crate::cpu::{Isa, kernel};
use crate::parallel;

/// Outputs that look at the same taps, every `every`-th in both directions.
#[derive(Debug)]
pub struct Phase {
    /// The first output.
    pub first: [usize; 2],
    /// How many there are.
    pub count: [usize; 2],
    /// The pixel of the padded image that the first output's offsets count from.
    pub base: usize,
    /// (offset from there, number of the tap)
    pub taps: Vec<(usize, usize)>,
}

/// Where everything of one image is.
#[derive(Debug)]
pub struct Plan {
    pub frame: Frame,
    pub out_size: [usize; 2],
    /// Between the outputs of a phase.
    pub every: usize,
    /// Between the inputs of two neighbouring outputs of a phase.
    pub stride: usize,
    pub phases: Vec<Phase>,
}

/// The copy of an image with `before` zeros above and left of it, of which rows and columns up to `reach` are read, for rows of `n_x` outputs.
///
/// Zeros behind a row are also those before the next one, as far as outputs of different rows still count from different pixels.
fn frame(image: [usize; 2], before: [usize; 2], reach: [usize; 2], n_x: usize) -> Frame {
    let behind = reach[1].saturating_sub(before[1] + image[1]);
    let shared = before[1].min(behind).min(reach[1].saturating_sub(n_x));
    // What is behind the last row is at the beginning of one more.
    Frame::new(image, before, [reach[0] + usize::from(shared > 0), reach[1] - shared])
}

impl Plan {
    /// From the input to the output.
    pub fn forward(shape: &ConvShape) -> Self {
        let ConvShape { size, kernel, padding, dilation, stride, .. } = *shape;
        let out_size = shape.out_size();
        let side = |axis: usize| (out_size[axis] - 1) * stride + (kernel[axis] - 1) * dilation + 1;
        let frame = frame(size, padding, [side(0), side(1)], out_size[1]);
        let tap = |tap: usize| ((tap / kernel[1]) * dilation * frame.size[1] + (tap % kernel[1]) * dilation, tap);
        let taps = (0..kernel[0] * kernel[1]).map(tap).collect();
        let phases = vec![Phase { first: [0, 0], count: out_size, base: 0, taps }];
        // Of a single output none is the next: a stride beyond the copy is not used, but products with it would wrap.
        Self { frame, out_size, every: 1, stride: stride.min(side(0).max(side(1))), phases }
    }

    /// From the gradient of the output to that of the input, whose pixel i receives from outputs o with
    /// o·stride = i + padding − tap·dilation: which taps those are depends on i modulo the stride.
    pub fn transposed(shape: &ConvShape) -> Self {
        let ConvShape { size, kernel, padding, dilation, stride, .. } = *shape;
        let out_size = shape.out_size();
        // Per axis: first pixel of the phase, its count, the output it counts from, and (outputs back, tap).
        let axis = |a: usize| {
            (0..stride.min(size[a])).map(move |first| {
                let rest = (first + padding[a]) % stride;
                let taps = (0..kernel[a]).filter(|k| (k * dilation) % stride == rest);
                let back = taps.map(|k| ((k * dilation) / stride, k)).collect::<Vec<_>>();
                (first, (size[a] - first).div_ceil(stride), (first + padding[a]) / stride, back)
            })
        };
        let most_back = |a: usize| (kernel[a] - 1) * dilation / stride;
        let before = [most_back(0), most_back(1)];
        // The furthest output that any pixel counts from, and all before it.
        let reach = |a: usize| before[a] + (size[a] - 1 + padding[a]) / stride + 1;
        let frame = frame(out_size, before, [reach(0), reach(1)], size[1]);
        let width = frame.size[1];
        let mut phases = Vec::new();
        for (y, n_y, from_y, back_y) in axis(0) {
            for (x, n_x, from_x, back_x) in axis(1) {
                let base = from_y * width + from_x;
                let offset = |[dy, dx]: [usize; 2]| (before[0] - dy) * width + before[1] - dx;
                let taps = back_y
                    .iter()
                    .flat_map(|&(dy, ky)| back_x.iter().map(move |&(dx, kx)| (offset([dy, dx]), ky * kernel[1] + kx)));
                phases.push(Phase { first: [y, x], count: [n_y, n_x], base, taps: taps.collect() });
            }
        }
        // No pixel is further from the next.
        Self { frame, out_size: size, every: stride.min(size[0].max(size[1])), stride: 1, phases }
    }
}

/// Pixels of a row of an image that is cut anew, at the most: what is read of so many fits into the L1 cache.
const ROW: usize = 256;

/// The same with longer rows, where each output looks at one pixel: rows are then cut into groups of equal size.
fn with_long_rows(shape: &ConvShape) -> ConvShape {
    let ConvShape { kernel, stride, padding, size: [height, width], .. } = *shape;
    if (kernel, stride, padding) != ([1, 1], 1, [0, 0]) {
        return *shape;
    }
    let most = (ROW / width).clamp(1, height);
    let joined = (1..=most).rev().find(|n| height.is_multiple_of(*n)).expect("1 divides all");
    ConvShape { size: [height / joined, joined * width], dilation: 1, ..*shape }
}

/// The output of a convolution: `x` `[n, h, w, c_in]` → `out` `[n, h_out, w_out, c_out]`.
pub fn forward(
    isa: Isa,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let shape = &with_long_rows(shape);
    let weights = Weights::forward(weights, shape);
    run(isa, &Plan::forward(shape), x, [shape.c_in, shape.c_out], shape.size, weights, bias, residual, out);
}

/// The gradient of its input from that of its output, which also is the transposed convolution: `grad`
/// `[n, h_out, w_out, c_out]` → `out` `[n, h, w, c_in]`.
pub fn transposed(isa: Isa, shape: &ConvShape, grad: &[f32], weights: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
    let shape = &with_long_rows(shape);
    let weights = Weights::exchanged(weights, shape);
    let plan = Plan::transposed(shape);
    run(isa, &plan, grad, [shape.c_out, shape.c_in], shape.out_size(), weights, bias, None, out);
}

#[allow(clippy::too_many_arguments, reason = "a kernel")]
fn run(
    isa: Isa,
    plan: &Plan,
    x: &[f32],
    [c_in, c_out]: [usize; 2],
    size: [usize; 2],
    weights: Weights<'_>,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    let lens = [vectors(isa, c_out) * c_in * weights.n_taps()];
    let mut scratch = Scratch::take(lens);
    let [panels] = scratch.pieces(lens);
    let parts = cut(panels, panels_of(isa, c_out), c_in * weights.n_taps());
    parallel::for_each_of(parts, |(channels, panel)| pack_panel(weights, channels, [c_in, c_out], panel));
    let panels = &*panels;
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * plan.out_size[0] * plan.out_size[1]);
    parallel::for_each_part(out, out_len, |i, out| {
        let residual = residual.map(|r| &r[i * out_len..][..out_len]);
        image(isa, plan, &x[i * in_len..][..in_len], [c_in, c_out], weights.n_taps(), panels, bias, residual, out);
    });
}

kernel! {
    /// The first output channel and the width of each panel.
    fn panels_of<'a>(s; c_out: usize) -> Vec<[usize; 2]> {
        let _ = s;
        panels(padded::<S>(c_out) / S::LANES).map(|(first, n)| [first * S::LANES, n * S::LANES]).collect()
    }
}

/// `values` in pieces of `len` numbers for each channel of the panels.
fn cut(mut values: &mut [f32], panels: Vec<[usize; 2]>, len: usize) -> Vec<([usize; 2], &mut [f32])> {
    let mut piece = |channels: [usize; 2]| {
        let (piece, rest) = std::mem::take(&mut values).split_at_mut(channels[1] * len);
        values = rest;
        (channels, piece)
    };
    panels.into_iter().map(&mut piece).collect()
}

/// The weights of a panel, `width` output channels from `first`: `[tap][c_in][width]`, zeros for channels that do not exist.
fn pack_panel(weights: Weights<'_>, [first, width]: [usize; 2], [c_in, c_out]: [usize; 2], panel: &mut [f32]) {
    let n = width.min(c_out - first);
    if n < width {
        panel.fill(0.0);
    }
    let mut pack = |column: usize, input: usize| {
        for (tap, &value) in weights.taps(first + column, input).iter().enumerate() {
            panel[(tap * c_in + input) * width + column] = value;
        }
    };
    // In the order in which they lie in memory.
    match weights.is_exchanged() {
        false => (0..n).for_each(|column| (0..c_in).for_each(|input| pack(column, input))),
        true => (0..c_in).for_each(|input| (0..n).for_each(|column| pack(column, input))),
    }
}

kernel! {
    fn image<'a>(
        s; plan: &'a Plan, x: &'a [f32], channels: [usize; 2], n_taps: usize, weights: &'a [f32], bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>, out: &'a mut [f32],
    ) {
        let [c_in, c_out] = channels;
        let lens = [plan.frame.n_pixels() * c_in, max_rows::<S>(1) * MAX_VECTORS * S::LANES];
        let mut scratch = Scratch::take(lens);
        let [copy, sums] = scratch.pieces(lens);
        let padded_x = plan.frame.pack(x, c_in, c_in, copy);
        for (first_vector, n) in panels(padded::<S>(c_out) / S::LANES) {
            let (first, width) = (first_vector * S::LANES, n * S::LANES);
            let panel = &weights[first * c_in * n_taps..][..width * c_in * n_taps];
            for phase in &plan.phases {
                let segments: Vec<[usize; 2]> =
                    phase.taps.iter().map(|&(offset, tap)| [offset * c_in, tap * c_in * width]).collect();
                let last_offset = segments.iter().map(|&[offset, _]| offset).max().unwrap_or(0);
                for y in 0..phase.count[0] {
                    for (x, n_rows) in balanced(phase.count[1], max_rows::<S>(n)) {
                        let from = phase.base + (y * plan.frame.size[1] + x) * plan.stride;
                        let a = &padded_x[from * c_in..];
                        assert!(a.len() >= last_offset + (n_rows - 1) * plan.stride * c_in + c_in);
                        let sums = &mut sums[..n_rows * width];
                        let a = Rows { at: a.as_ptr(), row: plan.stride * c_in, step: 1 };
                        let b = Panel { at: panel.as_ptr(), step: width };
                        let to = Out { at: sums.as_mut_ptr(), row: width, add: false };
                        // SAFETY: A as asserted; each tap's weights are in the panel; C as sliced.
                        unsafe { multiply(s, [n_rows, n], a, b, &segments, c_in, to) };
                        let out_y = phase.first[0] + y * plan.every;
                        let pixel = out_y * plan.out_size[1] + phase.first[1] + x * plan.every;
                        write_rows(s, sums, width, [pixel, plan.every], [first, c_out], [bias, residual], out);
                    }
                }
            }
        }
    }
}

/// Images are summed in so many groups at the most, each on its own and then one after the other: the same bits on any number
/// of threads.
const N_GROUPS: usize = 16;

/// The gradient of the weights `[c_out, c_in, k, k]` of a convolution of `x` whose output has the gradient `grad`.
pub fn weight_gradient(isa: Isa, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    let shape = &with_long_rows(shape);
    // The operand whose channels are the columns is the one with more of them: vectors are then full.
    let exchange = shape.c_in > shape.c_out;
    let plan = Plan::forward(shape);
    let out_size = shape.out_size();
    let [x_len, grad_len] = [shape.c_in * shape.size[0] * shape.size[1], shape.c_out * out_size[0] * out_size[1]];
    let per_group = shape.n.div_ceil(N_GROUPS).max(1);
    let n_taps = shape.kernel[0] * shape.kernel[1];
    let (rows, columns) = if exchange { (shape.c_out, shape.c_in) } else { (shape.c_in, shape.c_out) };
    let row_len = vectors(isa, columns);
    let len = n_taps * rows * row_len;
    let lens = [shape.n.div_ceil(per_group) * len];
    let mut scratch = Scratch::take(lens);
    let [sums] = scratch.pieces(lens);
    parallel::for_each_part(sums, len, |group, sum| {
        sum.fill(0.0);
        for i in group * per_group..shape.n.min((group + 1) * per_group) {
            let (x, grad) = (&x[i * x_len..][..x_len], &grad[i * grad_len..][..grad_len]);
            image_gradient(isa, &plan, x, grad, [shape.c_in, shape.c_out], exchange, sum);
        }
    });
    let sums = Sums { values: sums, len, rows, row_len };
    // Neighbours in memory of the sums, or of the weights, are done together.
    let n_outputs = if exchange { 1 } else { LINE };
    parallel::for_each_part(out, n_outputs * shape.c_in * n_taps, |part, out| {
        let (first, n) = (part * n_outputs, out.len() / (shape.c_in * n_taps));
        for (tap, input) in (0..n_taps).flat_map(|tap| (0..shape.c_in).map(move |input| (tap, input))) {
            for output in 0..n {
                let total = match exchange {
                    true => sums.total(tap, first + output, input),
                    false => sums.total(tap, input, first + output),
                };
                out[(output * shape.c_in + input) * n_taps + tap] = total;
            }
        }
    });
}

/// Sums of groups of images, `[tap][row][column]` each.
#[derive(Clone, Copy)]
struct Sums<'a> {
    values: &'a [f32],
    len: usize,
    rows: usize,
    row_len: usize,
}

impl Sums<'_> {
    /// That of all groups, in their order.
    fn total(&self, tap: usize, row: usize, column: usize) -> f32 {
        let at = (tap * self.rows + row) * self.row_len + column;
        self.values.chunks_exact(self.len).fold(0.0, |total, part| total + part[at])
    }
}

kernel! {
    /// Channels in whole vectors.
    fn vectors<'a>(s; channels: usize) -> usize {
        let _ = s;
        padded::<S>(channels)
    }
}

kernel! {
    /// Adds the products of one image to `sum` `[tap][row][column]`.
    fn image_gradient<'a>(
        s; plan: &'a Plan, x: &'a [f32], grad: &'a [f32], channels: [usize; 2], exchange: bool, sum: &'a mut [f32],
    ) {
        let [c_in, c_out] = channels;
        // Scalars of the rows' operand are read, and whole vectors of the columns'.
        let [c, k] = if exchange { [padded::<S>(c_in), c_out] } else { [c_in, padded::<S>(c_out)] };
        let out_frame = Frame::new(plan.out_size, [0, 0], plan.out_size);
        let [height, width] = plan.out_size;
        let taps = &plan.phases[0].taps;
        // So many rows of the output at a time that a panel of the columns stays in the L1 cache for all rows of the product.
        let at_once = (ROW / width).clamp(1, height);
        let lens = [plan.frame.n_pixels() * c, out_frame.n_pixels() * k, at_once * width * MAX_VECTORS * S::LANES];
        let mut scratch = Scratch::take(lens);
        let [copy, pixels, packed] = scratch.pieces(lens);
        let padded_x = plan.frame.pack(x, c_in, c, copy);
        let pixels = out_frame.pack(grad, c_out, k, pixels);
        let (n_rows, n_columns) = if exchange { (c_out, c) } else { (c_in, k) };
        let (x_step, grad_step) = (plan.stride * c, k);
        for first_y in (0..height).step_by(at_once) {
            let n_y = at_once.min(height - first_y);
            for (first_vector, n) in panels(n_columns / S::LANES) {
                let (first, panel) = (first_vector * S::LANES, n * S::LANES);
                for (i, &(offset, tap)) in taps.iter().enumerate() {
                    let x_at = |y: usize| (y * plan.stride * plan.frame.size[1] + offset) * c;
                    let grad_at = |y: usize| y * width * k;
                    // The gradient is the same for all taps.
                    if exchange || i == 0 {
                        for y in 0..n_y {
                            let (from, step) = match exchange {
                                true => (&padded_x[x_at(first_y + y) + first..], x_step),
                                false => (&pixels[grad_at(first_y + y) + first..], grad_step),
                            };
                            let to = &mut packed[y * width * panel..][..width * panel];
                            for (pixel, to) in to.chunks_exact_mut(panel).enumerate() {
                                for vector in (0..panel).step_by(S::LANES) {
                                    s.store(&mut to[vector..], s.load(&from[pixel * step + vector..]));
                                }
                            }
                        }
                    }
                    let (a, step) = if exchange { (pixels, grad_step) } else { (padded_x, x_step) };
                    let segments: Vec<[usize; 2]> = (0..n_y)
                        .map(|y| {
                            let a_at = if exchange { grad_at(first_y + y) } else { x_at(first_y + y) };
                            [a_at, y * width * panel]
                        })
                        .collect();
                    let last = segments[n_y - 1][0];
                    for (row, rows) in balanced(n_rows, max_rows::<S>(n)) {
                        let a = &a[row..];
                        assert!(a.len() >= last + (width - 1) * step + rows);
                        let to = &mut sum[(tap * n_rows + row) * n_columns + first..];
                        assert!(to.len() >= (rows - 1) * n_columns + panel);
                        let a = Rows { at: a.as_ptr(), row: 1, step };
                        let b = Panel { at: packed.as_ptr(), step: panel };
                        let to = Out { at: to.as_mut_ptr(), row: n_columns, add: true };
                        // SAFETY: the last row's places are inside, as asserted, and those of the others come before; `packed` has
                        // all pixels of the rows.
                        unsafe { multiply(s, [rows, n], a, b, &segments, width, to) };
                    }
                }
            }
        }
    }
}
