//! 3×3 kernels with stride 1 by Winograd's F(2, 3) along rows (Lavin & Gray 2016): two outputs from four
//! inputs d and three weights g by four products, not six,
//!
//! ```text
//! m₀ = (d₀ − d₂)·g₀    m₁ = (d₁ + d₂)·(g₀ + g₁ + g₂)/2    m₂ = (d₂ − d₁)·(g₀ − g₁ + g₂)/2    m₃ = (d₁ − d₃)·g₂
//! y₀ = m₀ + m₁ + m₂    y₁ = m₁ − m₂ − m₃
//! ```
//!
//! where each m is a sum over channels and the rows of the kernel first. The four are called places. Tiles of three or four outputs
//! would need fewer products still, but with numbers of 16 digits they err by more than 1e-5, whatever their points are. With numbers of 8
//! digits two outputs are off by 6e-3 of the largest, of the 1e-2 that are allowed.
//!
//! With dilation the pixels of a tile are as far apart.

use super::super::ConvShape;
use super::super::tiles::{BLOCK, Block, Conversion, Parts, Products, TERMS, Work};
use super::output::starts;
use super::weights::{Taps, pack_weights, packed_len};
use super::{LARGE, LINE, Method, Soon, halves, image_and_next, store_in_order};
use crate::amx::TILE;
use crate::buffer::Scratch;
use crate::parallel;
use crate::simd::Simd;

/// Products of a tile.
pub const PLACES: usize = 4;

/// Runs of tiles whose sums are kept at a time.
const RUNS_AT_ONCE: usize = 16;

/// What an input is multiplied as.
#[inline(always)]
pub fn inputs<S: Simd>(s: S, [d0, d1, d2, d3]: [S::V; 4]) -> [S::V; PLACES] {
    [s.sub(d0, d2), s.add(d1, d2), s.sub(d2, d1), s.sub(d1, d3)]
}

/// What a row of the kernel is multiplied as.
#[inline(always)]
pub fn weights<S: Simd>(s: S, [g0, g1, g2]: [S::V; 3]) -> [S::V; PLACES] {
    let half = s.splat(0.5);
    let outer = s.add(g0, g2);
    [g0, s.mul(s.add(outer, g1), half), s.mul(s.sub(outer, g1), half), g2]
}

/// The gradient of a row of the kernel, from products of the gradients of a tile's outputs as `gradient` lays them out.
#[inline(always)]
pub fn weight_gradients<S: Simd>(s: S, [m0, m1, m2, m3]: [S::V; PLACES]) -> [S::V; 3] {
    let half = s.splat(0.5);
    let outer = s.mul(s.add(m1, m2), half);
    [s.add(m0, outer), s.mul(s.sub(m1, m2), half), s.sub(outer, m3)]
}

/// The outputs of a tile.
#[inline(always)]
fn outputs<S: Simd>(s: S, [m0, m1, m2, m3]: [S::V; PLACES]) -> [S::V; 2] {
    [s.add(s.add(m0, m1), m2), s.sub(s.sub(m1, m2), m3)]
}

/// The first outputs of the tiles of a row of `width`; the second are `dilation` further, if there.
pub fn tiles(width: usize, dilation: usize) -> Vec<usize> {
    (0..width).filter(|x| (x / dilation).is_multiple_of(2)).collect()
}

/// Whether this way is open, by tile registers, and tiles are more than half full.
pub fn fits(method: Method, shape: &ConvShape, out_width: usize) -> bool {
    method.unit.has_tiles() && shape.kernel == [3, 3] && shape.stride == 1 && out_width > shape.dilation
}

/// Where everything of one image is, for some rows of its output.
struct Plan {
    channels: [usize; 2],
    size: [usize; 2],
    out_size: [usize; 2],
    /// Zeros above and left of the image; negative crops it.
    offset: [isize; 2],
    dilation: usize,
    /// First outputs of a row's tiles.
    tiles: Vec<usize>,
    /// Tiles that are done together, at most 16, and where such runs begin in all of these rows.
    n_rows: usize,
    runs: Vec<usize>,
    /// Of each tile of these rows its first pixel, and whether the second is there.
    targets: Vec<(usize, bool)>,
    /// Numbers of bf16 of a place of a tile.
    pixel: usize,
    /// Numbers of bf16 of a place.
    place: usize,
}

impl Plan {
    fn of(
        parts: Parts,
        channels: [usize; 2],
        [size, out_size]: [[usize; 2]; 2],
        offset: [isize; 2],
        dilation: usize,
        tiles: &[usize],
    ) -> Self {
        let n = out_size[0] * tiles.len();
        let n_rows = n.div_ceil(n.div_ceil(16));
        let target = |i: usize| {
            let (y, x) = (i / tiles.len(), tiles[i % tiles.len()]);
            (y * out_size[1] + x, x + dilation < out_size[1])
        };
        let pixel = channels[0].next_multiple_of(TERMS) * parts as usize;
        Self {
            channels,
            size,
            out_size,
            offset,
            dilation,
            tiles: tiles.to_vec(),
            n_rows,
            runs: starts(n, n_rows).collect(),
            targets: (0..n).map(target).collect(),
            pixel,
            // A tile register is read as if it had 16 rows.
            place: ((out_size[0] + 2 * dilation) * tiles.len() + 16) * pixel,
        }
    }
}

/// The convolution of `x` `[n, size, c_in]` → `out` `[n, out_size, c_out]`. `exchanged`: with the mirrored kernel, and weights from
/// `c_out` channels to `c_in`.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn convolve(
    method: Method,
    x: &[f32],
    channels: [usize; 2],
    [size, out_size]: [[usize; 2]; 2],
    offset: [isize; 2],
    dilation: usize,
    weights: &[f32],
    exchanged: bool,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    if out.is_empty() {
        return;
    }
    let [c_in, c_out] = channels;
    let parts = method.parts;
    let lens = [packed_len(parts, Taps::Places, channels)];
    let mut scratch = Scratch::take(lens);
    let [packed] = scratch.pieces(lens);
    pack_weights(method, weights, Taps::Places, channels, exchanged, packed);
    let packed = &*packed;

    let tiles = tiles(out_size[1], dilation);
    let (in_len, out_len) = (c_in * size[0] * size[1], c_out * out_size[0] * out_size[1]);
    let band_height = band_height(parts, channels, out.len() / out_len, out_size[0], tiles.len(), dilation);
    let plan = |first: usize| {
        let out_size = [band_height.min(out_size[0] - first), out_size[1]];
        let offset = [offset[0] - first as isize, offset[1]];
        Plan::of(parts, channels, [size, out_size], offset, dilation, &tiles)
    };
    let plans: Vec<Plan> = (0..out_size[0]).step_by(band_height).map(plan).collect();
    let band_len = c_out * band_height * out_size[1];
    let mut bands = Vec::with_capacity(out.len() / out_len * plans.len());
    for (image, out) in out.chunks_mut(out_len).enumerate() {
        let of_image = plans.iter().zip(out.chunks_mut(band_len)).enumerate();
        bands.extend(of_image.map(|(band, (plan, out))| (image, band, plan, out)));
    }
    parallel::for_each_of(bands, |(image, band, plan, out)| {
        let [x, next] = image_and_next(x, image, in_len);
        let next = if band + 1 == plans.len() { next } else { &[] };
        let residual = residual.map(|r| &r[image * out_len + band * band_len..][..out.len()]);
        method.unit.run(Band { parts, plan, x, next, weights: packed, bias, residual, out });
    });
}

/// Rows of the output that are computed by themselves: the places of many would not stay in the L2 cache, and few images
/// are cut so that there is work for many threads.
fn band_height(
    parts: Parts,
    channels: [usize; 2],
    n_images: usize,
    height: usize,
    n_tiles: usize,
    dilation: usize,
) -> usize {
    /// Numbers of bf16 of a band's places, 768 KB: that much stays in the cache beside weights that are not large.
    const PLACES_AT_ONCE: usize = 384 << 10;
    /// Bands of few images, of all of them at the most. Large weights come from further away for each.
    const N_BANDS: usize = 16;
    const N_BANDS_LARGE: usize = 8;
    /// Tiles of a band, but for the last, at the least: two blocks of products.
    const LEAST_TILES: usize = 64;
    let row = PLACES * n_tiles * channels[0].next_multiple_of(TERMS) * parts as usize;
    let reach = 2 * dilation;
    let is_large = packed_len(parts, Taps::Places, channels) >= LARGE / 2;
    let for_cache = match is_large || (height + reach) * row <= PLACES_AT_ONCE {
        true => 1,
        false => height.div_ceil((PLACES_AT_ONCE / row).saturating_sub(reach).max(1)),
    };
    let for_threads = if is_large { N_BANDS_LARGE } else { N_BANDS } / n_images;
    // A band also reads the rows that the kernel reaches beyond its own: no more than those, but for the last band.
    let most = (height * n_tiles / LEAST_TILES).min(height / reach);
    height.div_ceil(for_cache.max(for_threads).min(most).max(1))
}

/// Some rows of the output of one image.
struct Band<'a> {
    parts: Parts,
    plan: &'a Plan,
    x: &'a [f32],
    /// The image behind it, which this thread probably does next.
    next: &'a [f32],
    weights: &'a [f32],
    bias: Option<&'a [f32]>,
    residual: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Work for Band<'_> {
    #[inline(always)]
    fn run<P: Products>(self, products: &mut P) {
        let Self { parts, plan, x, next, weights, bias, residual, out } = self;
        let &Plan { channels: [c_in, c_out], dilation, pixel, place, .. } = plan;
        let conversion = products.conversion();
        let lens = [PLACES * place / 2, RUNS_AT_ONCE / 2 * PLACES * BLOCK];
        let mut scratch = Scratch::take(lens);
        let [packed, sums] = scratch.pieces(lens);
        pack_image(conversion, parts, plan, x, packed);
        let (a, b) = (halves(packed), halves(weights));
        let n_columns = c_out.div_ceil(16);
        let panel = b.len() / n_columns;
        let segments = [0, 1, 2].map(|row| [row * dilation * plan.tiles.len() * pixel, row * PLACES * pixel * 16]);
        let n_blocks = PLACES * plan.runs.len().div_ceil(2);
        for column in (0..n_columns).step_by(2) {
            let mut soon =
                Soon { weights: b, panel, column, residual: residual.unwrap_or_default(), out, next }.pieces(n_blocks);
            for runs in plan.runs.chunks(RUNS_AT_ONCE) {
                // Place by place, so that its weights stay in the L1 cache for all of the runs.
                for i in 0..PLACES {
                    let columns = [column, column + 1].map(|column| column * panel + i * pixel * 16);
                    for (pair, runs) in runs.chunks(2).enumerate() {
                        let starts = [runs[0], runs[runs.len() - 1]].map(|run| i * place + run * pixel);
                        let block = Block {
                            parts,
                            a,
                            runs: &starts[..runs.len()],
                            n_rows: plan.n_rows,
                            row: pixel,
                            step: TERMS * parts as usize,
                            b,
                            columns: &columns[..2.min(n_columns - column)],
                            segments: &segments,
                            len: c_in.next_multiple_of(TERMS),
                            soon: [soon[0].next(), soon[1].next()],
                        };
                        let sums = &mut sums[(pair * PLACES + i) * BLOCK..][..BLOCK];
                        products.multiply(&block, false, sums);
                    }
                }
                for (i, &run) in runs.iter().enumerate() {
                    let targets = &plan.targets[run..][..plan.n_rows];
                    for j in 0..2.min(n_columns - column) {
                        let sums = &sums[i / 2 * PLACES * BLOCK + (2 * (i % 2) + j) * TILE..];
                        let channels = [(column + j) * 16, c_out];
                        write(conversion.simd(), sums, targets, channels, dilation, [bias, residual], out);
                    }
                }
            }
        }
    }
}

/// The places of an image: bf16 `[place][row][tile][channels / 32][part][32]`.
#[inline(always)]
fn pack_image<C: Conversion>(conversion: C, parts: Parts, plan: &Plan, x: &[f32], out: &mut [f32]) {
    let (s, lanes) = (conversion.simd(), C::S::LANES);
    let &Plan { channels: [c_in, _], size, out_size, offset, dilation, pixel, place, .. } = plan;
    let row_len = plan.tiles.len() * pixel / 2;
    let lens = [c_in];
    let mut scratch = Scratch::take(lens);
    let [zeros] = scratch.pieces(lens);
    zeros.fill(0.0);
    let inside = |x: isize, size: usize| usize::try_from(x).ok().filter(|&x| x < size);
    for row in 0..out_size[0] + 2 * dilation {
        let Some(y) = inside(row as isize - offset[0], size[0]) else {
            for i in 0..PLACES {
                out[i * place / 2 + row * row_len..][..row_len].fill(0.0);
            }
            continue;
        };
        for (tile, &first) in plan.tiles.iter().enumerate() {
            let mut pixels = [&*zeros; 4];
            for (i, pixel) in pixels.iter_mut().enumerate() {
                if let Some(x_at) = inside((first + i * dilation) as isize - offset[1], size[1]) {
                    *pixel = &x[(y * size[1] + x_at) * c_in..][..c_in];
                }
            }
            let at = row * row_len + tile * pixel / 2;
            for (channel, i) in (0..c_in).step_by(TERMS).flat_map(|c| (0..LINE).step_by(lanes).map(move |i| (c, i))) {
                let begin = channel + 2 * i;
                let [begin, middle, end] = [begin, begin + lanes, begin + 2 * lanes].map(|channel| channel.min(c_in));
                let mut values = [[s.splat(0.0); 4]; 2];
                for k in 0..4 {
                    values[0][k] = s.load_some(&pixels[k][begin..middle]);
                    values[1][k] = s.load_some(&pixels[k][middle..end]);
                }
                let [first, second] = [inputs(s, values[0]), inputs(s, values[1])];
                for k in 0..PLACES {
                    let to = &mut out[k * place / 2 + at + channel / TERMS * parts as usize * LINE + i..];
                    store_in_order(conversion, parts, [first[k], second[k]], to);
                }
            }
        }
    }
}

/// Writes the outputs of tiles from the sums of their places `[place]`, [`BLOCK`] apart, `[tile][16 channels]`, plus bias and
/// residual, as far as channels from `first` of `c_out` exist.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "closures, as iterators take them, are compiled without the instructions"
)]
fn write<S: Simd>(
    s: S,
    sums: &[f32],
    targets: &[(usize, bool)],
    [first, c_out]: [usize; 2],
    dilation: usize,
    [bias, residual]: [Option<&[f32]>; 2],
    out: &mut [f32],
) {
    for channel in (first..c_out.min(first + 16)).step_by(S::LANES) {
        let n = S::LANES.min(c_out - channel);
        let bias = match bias {
            Some(bias) => s.load_some(&bias[channel..channel + n]),
            None => s.splat(0.0),
        };
        for (tile, &(pixel, two)) in targets.iter().enumerate() {
            let mut places = [s.splat(0.0); PLACES];
            for i in 0..PLACES {
                places[i] = s.load(&sums[i * BLOCK + tile * 16 + channel - first..]);
            }
            let values = outputs(s, places);
            for i in 0..1 + usize::from(two) {
                let at = (pixel + i * dilation) * c_out + channel;
                let mut v = s.add(values[i], bias);
                if let Some(residual) = residual {
                    v = s.add(v, s.load_some(&residual[at..at + n]));
                }
                s.store_some(&mut out[at..at + n], v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_cut_for_the_cache_and_for_threads() {
        for (channels, n_images, side, dilation, expected) in [
            // Small enough, and images enough.
            (64, 32, 28, 1, 28),
            (256, 8, 16, 1, 16),
            // 1.1 MB of places, with weights that are not large and such as are.
            (128, 25, 32, 1, 16),
            (128, 8, 32, 1, 16),
            (128, 25, 32, 4, 16),
            (256, 8, 32, 1, 32),
            // Few images: 16 bands or, of large weights, 8, of no less than 64 tiles and no less rows than the kernel reaches.
            (64, 1, 64, 1, 4),
            (256, 1, 64, 1, 8),
            (64, 4, 28, 1, 7),
            (64, 1, 28, 1, 5),
            (128, 1, 32, 1, 4),
            (256, 1, 32, 1, 4),
            (256, 1, 16, 1, 8),
            (64, 1, 28, 4, 10),
            (64, 1, 5, 1, 5),
        ] {
            let n_tiles = tiles(side, dilation).len();
            let found = band_height(Parts::Two, [channels; 2], n_images, side, n_tiles, dilation);
            assert_eq!(found, expected, "{n_images} images of {side}, {channels} channels, dilation {dilation}");
        }
    }
}
