//! Two-dimensional convolution and its gradients, for any size, kernel, stride, padding and dilation.
//!
//! Three algorithms, chosen by shape, precision and instructions: sums over taps (`direct`); Winograd's F(2×2, 3×3) and F(4×4, 3×3)
//! (`winograd`) for 3×3 kernels with stride 1, with 2.25 and 4 times fewer products; and products of bf16 or of pairs of them
//! ([`half`]), by Winograd's F(2, 3) where there are tile registers.
//!
//! Images are channels last (NHWC): products read rows of channels, and vectors are of channels, so that nothing has to be transposed.
//!
//! What an image or its padding cannot be is found before, in `begin`, which also does what needs no products.
//!
//! Every image is computed by itself and every sum has one order, so results depend neither on the number of threads nor on
//! the rest of the batch.

mod begin;
mod direct;
pub(crate) mod gemm;
pub mod half;
pub(crate) mod layout;
pub mod reference;
mod tiles;
mod winograd;

use crate::buffer::Scratch;
use crate::channels::{Values, sum_terms};
use crate::cpu::{Isa, Precision, kernel};
use crate::{parallel, size};
use half::{Method, Parts, Unit};
use layout::Weights;
use winograd::Tile;

/// What a convolution computes: `[n, h, w, c_in]` with weights `[c_out, c_in, k, k]` → `[n, h_out, w_out, c_out]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub n: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Height and width of the input.
    pub size: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Distance between the pixels that two neighbours of the output look at.
    pub stride: usize,
    /// Zeros above and below, and at the left and the right.
    pub padding: [usize; 2],
    /// Distance between the pixels that two neighbours of the kernel look at.
    pub dilation: usize,
}

/// Outputs on a side, and pairs of channels, from which on tiles are worth their size.
const FEW_PIXELS: usize = 8;
const MANY_WEIGHTS: usize = 128 * 128;

impl ConvShape {
    /// Height and width of the output; `None` if there is no such convolution: a stride, a dilation or a side of the kernel
    /// is 0, the dilated kernel is larger than the padded input, or one of the arrays or of the padded sides does not fit into
    /// memory.
    pub fn checked_out_size(&self) -> Option<[usize; 2]> {
        self.lens().ok().map(|lens| lens.out_size)
    }

    /// Height and width of the output.
    ///
    /// # Panics
    /// If there is none, see [`Self::checked_out_size`].
    pub fn out_size(&self) -> [usize; 2] {
        self.expect_lens().out_size
    }

    /// Numbers of the input.
    ///
    /// # Panics
    /// As [`Self::out_size`].
    pub fn input_len(&self) -> usize {
        self.expect_lens().input
    }

    /// Numbers of the output.
    ///
    /// # Panics
    /// As [`Self::out_size`].
    pub fn output_len(&self) -> usize {
        self.expect_lens().output
    }

    /// Numbers of the weights.
    ///
    /// # Panics
    /// As [`Self::out_size`].
    pub fn weight_len(&self) -> usize {
        self.expect_lens().weights
    }

    /// The lengths, or what is wrong.
    fn lens(&self) -> Result<Lens, &'static str> {
        let &Self { n, c_in, c_out, size, kernel, stride, padding, dilation } = self;
        if stride == 0 {
            return Err("a stride of 0");
        }
        if dilation == 0 {
            return Err("a dilation of 0");
        }
        if kernel.contains(&0) {
            return Err("a kernel without pixels");
        }
        let mut out_size = [0; 2];
        for axis in 0..2 {
            let padded = padding[axis].checked_mul(2).and_then(|zeros| zeros.checked_add(size[axis]));
            let padded = padded.filter(|&side| side <= size::MOST).ok_or("padded sides that do not fit into memory")?;
            let reach = dilation.checked_mul(kernel[axis] - 1).and_then(|reach| reach.checked_add(1));
            let rest = reach.and_then(|reach| padded.checked_sub(reach));
            out_size[axis] = rest.ok_or("a kernel that is larger than the padded input")? / stride + 1;
        }
        let [height, width] = out_size;
        Ok(Lens {
            out_size,
            input: size::checked([n, c_in, size[0], size[1]]).ok_or("an input that does not fit into memory")?,
            output: size::checked([n, c_out, height, width]).ok_or("an output that does not fit into memory")?,
            weights: size::checked([c_out, c_in, kernel[0], kernel[1]]).ok_or("weights that do not fit into memory")?,
        })
    }

    fn expect_lens(&self) -> Lens {
        self.lens().unwrap_or_else(|found| panic!("found {found}: {self:?}"))
    }

    fn check(&self, input: usize, weights: usize, output: usize) {
        let lens = self.expect_lens();
        assert_eq!(input, lens.input, "numbers of the input of {self:?}");
        assert_eq!(weights, lens.weights, "numbers of the weights of {self:?}");
        assert_eq!(output, lens.output, "numbers of the output of {self:?}");
    }

    /// How to multiply in bf16 sums over `n_channels` for each tap, where that is allowed and the faster way.
    fn half(&self, isa: Isa, precision: Precision, n_channels: usize) -> Option<Method> {
        let unit = Unit::of(isa)?;
        let parts = match precision {
            Precision::Highest => return None,
            Precision::High => Parts::Two,
            Precision::Medium => Parts::One,
        };
        let faster = match unit.has_tiles() {
            // Ten times as fast as vectors of f32, but of few channels most would be padding.
            true => n_channels >= 16,
            // Twice as fast, of which nothing is left where Winograd's algorithm needs fewer products.
            false => parts == Parts::One && self.tile(precision).is_none() && self.c_in.min(self.c_out) >= 24,
        };
        faster.then_some(Method { unit, parts })
    }

    /// The tile of Winograd's algorithm, where that is the faster way.
    fn tile(&self, precision: Precision) -> Option<Tile> {
        let out = self.out_size();
        // Fewer channels than a vector has lanes would leave most of each transform empty.
        let fits = self.kernel == [3, 3] && self.stride == 1 && self.c_in.min(self.c_out) >= 8;
        // Of the smallest of the images that a dilated one falls into.
        let side = out[0].min(out[1]) / self.dilation;
        match precision {
            _ if !fits || side < 2 => None,
            Precision::Highest => Some(Tile::Two),
            _ if side < 3 => Some(Tile::Two),
            // Of few tiles the weights' transforms take longer than the products, and larger tiles have larger ones.
            _ if self.dilation * side <= FEW_PIXELS && self.c_in * self.c_out >= MANY_WEIGHTS => Some(Tile::Two),
            _ => Some(Tile::Four),
        }
    }
}

/// What follows from a [`ConvShape`].
struct Lens {
    out_size: [usize; 2],
    input: usize,
    output: usize,
    weights: usize,
}

/// The output: `x` `[n, h, w, c_in]`, `weights` `[c_out, c_in, k, k]`, `bias` `[c_out]`, `residual` as `out`, which it is added
/// to → `out` `[n, h_out, w_out, c_out]`.
///
/// # Panics
/// If a length is not that of `shape`.
#[allow(clippy::too_many_arguments, reason = "a kernel")]
pub fn forward(
    isa: Isa,
    precision: Precision,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    out: &mut [f32],
) {
    if begin::forward(shape, x, weights, bias, residual, out) {
        return;
    }
    if let Some(method) = shape.half(isa, precision, shape.c_in) {
        return half::forward(method, shape, x, weights, bias, residual, out);
    }
    match shape.tile(precision) {
        None => direct::forward(isa, shape, x, weights, bias, residual, out),
        Some(tile) => winograd::convolve(
            isa,
            tile,
            x,
            [shape.c_in, shape.c_out],
            [shape.size, shape.out_size()],
            shape.padding.map(|zeros| zeros as isize),
            shape.dilation,
            Weights::forward(weights, shape),
            bias,
            residual,
            out,
        ),
    }
}

/// The gradient of the input, or the transposed convolution with its bias: `grad` `[n, h_out, w_out, c_out]`, `bias` `[c_in]` →
/// `out` `[n, h, w, c_in]`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn transposed(
    isa: Isa,
    precision: Precision,
    shape: &ConvShape,
    grad: &[f32],
    weights: &[f32],
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    if begin::transposed(shape, grad, weights, bias, out) {
        return;
    }
    if let Some(method) = shape.half(isa, precision, shape.c_out) {
        return half::transposed(method, shape, grad, weights, bias, out);
    }
    match shape.tile(precision) {
        None => direct::transposed(isa, shape, grad, weights, bias, out),
        Some(tile) => winograd::convolve(
            isa,
            tile,
            grad,
            [shape.c_out, shape.c_in],
            [shape.out_size(), shape.size],
            shape.padding.map(|zeros| (2 * shape.dilation) as isize - zeros as isize),
            shape.dilation,
            Weights::mirrored(weights, shape),
            bias,
            None,
            out,
        ),
    }
}

/// The gradient of the weights: `x` `[n, h, w, c_in]`, `grad` `[n, h_out, w_out, c_out]` → `out` `[c_out, c_in, k, k]`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn weight_gradient(isa: Isa, precision: Precision, shape: &ConvShape, x: &[f32], grad: &[f32], out: &mut [f32]) {
    if begin::weight_gradient(shape, x, grad, out) {
        return;
    }
    let half = shape.half(isa, precision, shape.c_in.max(shape.c_out));
    if let Some(method) = half.filter(|_| shape.stride == 1) {
        return half::weight_gradient(method, shape, x, grad, out);
    }
    match shape.tile(precision) {
        None => direct::weight_gradient(isa, shape, x, grad, out),
        Some(tile) => winograd::weight_gradient(isa, tile, shape, x, grad, out),
    }
}

/// The gradient of the bias `[c_out]`: the sum of `grad` `[n, h_out·w_out, c_out]` over images and pixels.
///
/// # Panics
/// If `grad` is not of whole images.
pub fn bias_gradient(isa: Isa, grad: &[f32], c_out: usize, n_pixels: usize) -> Vec<f32> {
    let image = size::numbers("an image", [c_out, n_pixels]);
    assert!(grad.len().is_multiple_of(image), "{} numbers of images of {image}", grad.len());
    let lens = [grad.len() / image.max(1) * c_out];
    let mut scratch = Scratch::take(lens);
    let [sums] = scratch.pieces(lens);
    parallel::for_each_part(sums, c_out, |i, sums| sum_pixels(isa, &grad[i * image..][..image], n_pixels, sums));
    let mut totals = size::zeros::<f64>(c_out);
    for image in sums.chunks_exact(c_out.max(1)) {
        totals.iter_mut().zip(image).for_each(|(total, &sum)| *total += f64::from(sum));
    }
    totals.into_iter().map(|total| total as f32).collect()
}

kernel! {
    fn sum_pixels<'a>(s; image: &'a [f32], n_pixels: usize, sums: &'a mut [f32]) {
        let c = sums.len();
        assert_eq!(image.len(), n_pixels * c);
        // SAFETY: the image has so many numbers.
        unsafe { sum_terms(s, [n_pixels, c], &mut Values(image), sums) };
    }
}

/// Multiplications and additions a second that this machine's threads reach together in the product that convolutions are
/// made of, with operands in the L1 cache: what no convolution by plain sums can exceed. Winograd's algorithm can,
/// because it needs fewer.
pub fn ceiling(isa: Isa) -> f64 {
    /// Long enough for the clock to settle, short enough not to be noticed.
    const SECONDS: f64 = 0.2;
    let fastest = rayon::broadcast(|_| {
        let start = std::time::Instant::now();
        let mut fastest = 0.0f64;
        while start.elapsed().as_secs_f64() < SECONDS {
            let begun = std::time::Instant::now();
            let flops = gemm::tile_products(isa, 1000);
            fastest = fastest.max(flops / begun.elapsed().as_secs_f64());
        }
        fastest
    });
    fastest.iter().sum()
}

/// How convolutions are computed with these instructions at this precision, in words.
pub fn describe(isa: Isa, precision: Precision) -> String {
    let tile = match precision {
        Precision::Highest => "F(2×2, 3×3)",
        Precision::High | Precision::Medium => "F(4×4, 3×3)",
    };
    let winograd = format!("3×3 kernels by Winograd's {tile}");
    match (Unit::of(isa).map(Unit::has_tiles), precision) {
        (Some(true), Precision::Medium) => format!("bf16 with f32 sums by {isa}"),
        (Some(true), Precision::High) => format!("pairs of bf16 with f32 sums by {isa}"),
        (Some(false), Precision::Medium) => {
            format!("f32 by {isa}; {winograd}, others of 24 channels or more in bf16 with f32 sums")
        }
        _ => format!("f32 by {isa}; {winograd}"),
    }
}
