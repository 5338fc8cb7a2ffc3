//! Instance norms: statistics by a cube for each image and some of its channels, everything else by a unit for each pixel of a
//! channel. The composition of Burn's operations would read and write the activation a dozen times, and as often again for the
//! gradient.

use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::{DType, FloatDType};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{CubeCount, CubeDim};

use super::{cubes, laid_out, laid_out_unset, one_unit_each, unset};
use crate::norm::Activation;
use crate::ops::norm::{NormOps, Setting};
use crate::ops::optimizer::Slot;

/// What the kernels are called with: the sizes, and as many cubes as there are blocks of [`lanes`](Self::lanes) channels.
struct Launch {
    n: usize,
    c: usize,
    pixels: usize,
    /// Of a row of the table: γ, perhaps α, and β.
    parts: usize,
    is_elu: bool,
}

impl Launch {
    fn new(x: &CubeTensor, table: &CubeTensor, setting: Setting) -> Self {
        let [n, c, h, w] = x.shape().dims();
        let is_elu = setting.activation == Activation::Elu;
        Self { n, c, pixels: h * w, parts: table.shape()[1] / c.max(1), is_elu }
    }

    /// Channels that a cube takes at once: its units are beside each other in memory.
    fn lanes(&self) -> usize {
        self.c.next_power_of_two().min(32)
    }

    /// A cube for each image and block of channels.
    fn cubes_of_channels(&self, x: &CubeTensor) -> (CubeCount, CubeDim) {
        cubes(x, self.n * self.c.div_ceil(self.lanes()))
    }
}

/// The table with the numbers of each row in order. Between rows may be more: CUDA aligns them.
fn rows_in_order(table: CubeTensor) -> CubeTensor {
    if table.meta.strides()[1] == 1 { table } else { into_contiguous(table) }
}

impl NormOps for CubeBackend {
    fn normalise(
        x: CubeTensor,
        table: CubeTensor,
        rows: CubeTensor,
        setting: Setting,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let (x, table, rows) = (laid_out(x), rows_in_order(table), into_contiguous(cast(rows, DType::I32)));
        let launch = Launch::new(&x, &table, setting);
        let Launch { n, c, pixels, parts, is_elu } = launch;
        let (out, statistics) = (laid_out_unset(&x, x.shape()), unset(&x, [4, n, c]));
        if n * c * pixels == 0 {
            return (out, x, statistics);
        }
        let arg = |tensor: &CubeTensor| tensor.clone().into_tensor_arg();
        let (count, dim) = launch.cubes_of_channels(&x);
        kernel::moments::launch(&x.client, count, dim, arg(&x), arg(&statistics), n, c, pixels, launch.lanes());
        let (count, dim) = cubes(&x, n);
        let (table, rows) = (table.into_tensor_arg(), rows.into_tensor_arg());
        let [read, written] = [&statistics; 2].map(arg);
        kernel::scales::launch(&x.client, count, dim, read, written, table, rows, n, c, parts);
        let (count, dim) = one_unit_each(&x, n * c * pixels);
        kernel::apply::launch(&x.client, count, dim, arg(&x), arg(&statistics), arg(&out), n, c, pixels, is_elu);
        (out, x, statistics)
    }

    fn normalise_backward(
        x: CubeTensor,
        grad: CubeTensor,
        table: CubeTensor,
        statistics: CubeTensor,
        more: Slot<Self>,
        rows: CubeTensor,
        setting: Setting,
    ) -> (CubeTensor, CubeTensor) {
        let (x, grad, more) = (laid_out(x), laid_out(grad), more.into_option().map(laid_out));
        let (table, rows) = (rows_in_order(table), into_contiguous(cast(rows, DType::I32)));
        let launch = Launch::new(&x, &table, setting);
        let Launch { n, c, pixels, parts, is_elu } = launch;
        let [n_rows, columns] = table.shape().dims();
        let (grad_x, grad_table) = (laid_out_unset(&x, x.shape()), unset(&x, [n_rows, columns]));
        let (sums, of_images) = (unset(&x, [2, n, c]), unset(&x, [n, columns]));
        if n * c * pixels == 0 {
            return (grad_x, CubeBackend::float_zeros(table.shape(), &table.device, FloatDType::F32));
        }
        let (client, arg) = (x.client.clone(), |tensor: &CubeTensor| tensor.clone().into_tensor_arg());
        let (count, dim) = launch.cubes_of_channels(&x);
        let [a, b, s, t] = [&x, &grad, &statistics, &sums].map(arg);
        kernel::sums_of_gradients::launch(&client, count, dim, a, b, s, t, n, c, pixels, is_elu, launch.lanes());
        let (count, dim) = cubes(&x, n);
        let [a, b, s, t, u] = [&statistics, &sums, &table, &rows, &of_images].map(arg);
        kernel::gradients_of_scales::launch(&client, count, dim, a, b, s, t, u, n, c, pixels, parts);
        let (count, dim) = one_unit_each(&x, n * c * pixels);
        let has_more = more.is_some();
        let [a, b, s, t, m, o] = [&x, &grad, &statistics, &sums, more.as_ref().unwrap_or(&x), &grad_x].map(arg);
        kernel::gradients_of_pixels::launch(&client, count, dim, a, b, s, t, m, o, n, c, pixels, is_elu, has_more);
        let (count, dim) = one_unit_each(&x, n_rows * columns);
        let [a, b, o] = [&of_images, &rows, &grad_table].map(arg);
        kernel::sums_of_rows::launch(&client, count, dim, a, b, o, n, columns);
        (grad_x, grad_table)
    }
}

/// `statistics` are of `[4, n, c]`: μ, r, and scale and shift of act(scale·(x − μ) + shift). Pixels are `[n, pixels, c]`. `parts` are 3
/// of a row (γ, α, β) and 2 of (γ, β).
mod kernel {
    use cubecl::prelude::*;

    use crate::norm::EPSILON;
    use crate::ops::gpu::pixels::kernel::elu_of;
    use crate::ops::gpu::{UNITS, sum_of_lane};

    /// Where the statistics of a unit's channel are, the first of its pixels and the end of them; none beyond the last channel.
    /// Pixels are [`step`] apart.
    #[cube]
    fn place_of_unit(n: usize, c: usize, pixels: usize, #[comptime] lanes: usize) -> (usize, usize, usize) {
        let unit = UNIT_POS as usize;
        let blocks = c.div_ceil(lanes);
        let image = CUBE_POS / blocks;
        let channel = (CUBE_POS % blocks) * lanes + unit % lanes;
        let first = (image * pixels + unit / lanes) * c + channel;
        let end = select(image < n && channel < c, (image + 1) * pixels * c, 0);
        (image * c + channel, first, end)
    }

    /// From one pixel of a unit to the next.
    #[cube]
    fn step(c: usize, #[comptime] lanes: usize) -> usize {
        comptime!(UNITS / lanes) * c
    }

    #[cube(launch)]
    pub(super) fn moments(
        x: &Tensor<f32>,
        statistics: &mut Tensor<f32>,
        n: usize,
        c: usize,
        pixels: usize,
        #[comptime] lanes: usize,
    ) {
        let (at, first, end) = place_of_unit(n, c, pixels, lanes);
        let mut sum = 0.0f32;
        let mut pixel = first;
        while pixel < end {
            sum += x[pixel];
            pixel += step(c, lanes);
        }
        let mu = sum_of_lane(sum, lanes) / f32::cast_from(pixels);
        let mut squares = 0.0f32;
        let mut pixel = first;
        while pixel < end {
            let centred = x[pixel] - mu;
            squares += centred * centred;
            pixel += step(c, lanes);
        }
        let variance = sum_of_lane(squares, lanes) / f32::cast_from(pixels);
        if end > 0 && (UNIT_POS as usize) < lanes {
            statistics[at] = mu;
            statistics[n * c + at] = 1.0f32 / (variance + EPSILON).sqrt();
        }
    }

    /// m and 1/√(v + ε) of an image's means.
    #[cube]
    fn moments_of_means(statistics: &Tensor<f32>, image: usize, c: usize) -> (f32, f32) {
        let mut sum = 0.0f32;
        let mut channel = UNIT_POS as usize;
        while channel < c {
            sum += statistics[image * c + channel];
            channel += UNITS;
        }
        let m = sum_of_lane(sum, 1usize) / f32::cast_from(c);
        let mut squares = 0.0f32;
        let mut channel = UNIT_POS as usize;
        while channel < c {
            let centred = statistics[image * c + channel] - m;
            squares += centred * centred;
            channel += UNITS;
        }
        let v = sum_of_lane(squares, 1usize) / (f32::cast_from(c) - 1.0f32);
        (m, 1.0f32 / (v + EPSILON).sqrt())
    }

    /// `out` is `statistics` again, of which other parts are written than are read.
    #[cube(launch)]
    pub(super) fn scales(
        statistics: &Tensor<f32>,
        out: &mut Tensor<f32>,
        table: &Tensor<f32>,
        rows: &Tensor<i32>,
        n: usize,
        c: usize,
        #[comptime] parts: usize,
    ) {
        let image = CUBE_POS;
        if image >= n {
            terminate!();
        }
        let row = usize::cast_from(rows[image]) * table.stride(0);
        let mut m = 0.0f32;
        let mut root = 0.0f32;
        if comptime!(parts == 3usize) {
            let moments = moments_of_means(statistics, image, c);
            m = moments.0;
            root = moments.1;
        }
        let mut channel = UNIT_POS as usize;
        while channel < c {
            let at = image * c + channel;
            let gamma = table[row + channel];
            let mut shift = table[row + (parts - 1usize) * c + channel];
            if comptime!(parts == 3usize) {
                shift += gamma * table[row + c + channel] * (statistics[at] - m) * root;
            }
            out[2 * n * c + at] = gamma * statistics[n * c + at];
            out[3 * n * c + at] = shift;
            channel += UNITS;
        }
    }

    #[cube(launch)]
    pub(super) fn apply(
        x: &Tensor<f32>,
        statistics: &Tensor<f32>,
        out: &mut Tensor<f32>,
        n: usize,
        c: usize,
        pixels: usize,
        #[comptime] is_elu: bool,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let at = place / (pixels * c) * c + place % c;
        let u = (x[place] - statistics[at]) * statistics[2 * n * c + at] + statistics[3 * n * c + at];
        if is_elu {
            out[place] = elu_of(u);
        } else {
            out[place] = u;
        }
    }

    /// grad·act′(u) for pixel `place` of the plane whose statistics are `at`.
    #[cube]
    fn before_activation(
        centred: f32,
        grad: f32,
        statistics: &Tensor<f32>,
        at: usize,
        n_planes: usize,
        #[comptime] is_elu: bool,
    ) -> f32 {
        let mut g = grad;
        if is_elu {
            let u = centred * statistics[2 * n_planes + at] + statistics[3 * n_planes + at];
            g = select(u <= 0.0f32, grad * u.min(0.0f32).exp(), grad);
        }
        g
    }

    /// S₁ = Σ g and S₂ = Σ g·x̂ of each channel, `[2, n, c]`.
    #[cube(launch)]
    pub(super) fn sums_of_gradients(
        x: &Tensor<f32>,
        grad: &Tensor<f32>,
        statistics: &Tensor<f32>,
        sums: &mut Tensor<f32>,
        n: usize,
        c: usize,
        pixels: usize,
        #[comptime] is_elu: bool,
        #[comptime] lanes: usize,
    ) {
        let (at, first, end) = place_of_unit(n, c, pixels, lanes);
        let mut s1 = 0.0f32;
        let mut s2 = 0.0f32;
        let mut pixel = first;
        while pixel < end {
            let centred = x[pixel] - statistics[at];
            let g = before_activation(centred, grad[pixel], statistics, at, n * c, is_elu);
            s1 += g;
            s2 += g * centred;
            pixel += step(c, lanes);
        }
        let s1 = sum_of_lane(s1, lanes);
        let s2 = sum_of_lane(s2, lanes);
        if end > 0 && (UNIT_POS as usize) < lanes {
            sums[at] = s1;
            sums[n * c + at] = s2 * statistics[n * c + at];
        }
    }

    /// Gradients of each image's γ, α and β, `[n, columns]`. And S₁ and S₂ become a and b of ∂x = scale·g + a + b·(x − μ).
    #[cube(launch)]
    pub(super) fn gradients_of_scales(
        statistics: &Tensor<f32>,
        sums: &mut Tensor<f32>,
        table: &Tensor<f32>,
        rows: &Tensor<i32>,
        of_images: &mut Tensor<f32>,
        n: usize,
        c: usize,
        pixels: usize,
        #[comptime] parts: usize,
    ) {
        let image = CUBE_POS;
        if image >= n {
            terminate!();
        }
        let columns = parts * c;
        let row = usize::cast_from(rows[image]) * table.stride(0);
        let mut m = 0.0f32;
        let mut root = 0.0f32;
        let mut mean = 0.0f32;
        let mut product = 0.0f32;
        if comptime!(parts == 3usize) {
            let moments = moments_of_means(statistics, image, c);
            m = moments.0;
            root = moments.1;
            // ∂μ̂ = γ·α·S₁, its mean, and Σ ∂μ̂·μ̂/(c − 1).
            let mut sum = 0.0f32;
            let mut sum_of_products = 0.0f32;
            let mut channel = UNIT_POS as usize;
            while channel < c {
                let at = image * c + channel;
                let grad = table[row + channel] * table[row + c + channel] * sums[at];
                sum += grad;
                sum_of_products += grad * (statistics[at] - m) * root;
                channel += UNITS;
            }
            mean = sum_of_lane(sum, 1usize) / f32::cast_from(c);
            product = sum_of_lane(sum_of_products, 1usize) / (f32::cast_from(c) - 1.0f32);
        }
        let count = f32::cast_from(pixels);
        let mut channel = UNIT_POS as usize;
        while channel < c {
            let at = image * c + channel;
            let s1 = sums[at];
            let s2 = sums[n * c + at];
            let gamma = table[row + channel];
            let scale = statistics[2 * n * c + at];
            let mut grad_gamma = s2;
            let mut grad_mu = 0.0f32;
            if comptime!(parts == 3usize) {
                let alpha = table[row + c + channel];
                let mu_hat = (statistics[at] - m) * root;
                grad_gamma += alpha * mu_hat * s1;
                of_images[image * columns + c + channel] = gamma * mu_hat * s1;
                grad_mu = (gamma * alpha * s1 - mean - mu_hat * product) * root;
            }
            of_images[image * columns + channel] = grad_gamma;
            of_images[image * columns + columns - c + channel] = s1;
            sums[at] = (grad_mu - scale * s1) / count;
            sums[n * c + at] = -scale * s2 * statistics[n * c + at] / count;
            channel += UNITS;
        }
    }

    #[cube(launch)]
    pub(super) fn gradients_of_pixels(
        x: &Tensor<f32>,
        grad: &Tensor<f32>,
        statistics: &Tensor<f32>,
        sums: &Tensor<f32>,
        more: &Tensor<f32>,
        out: &mut Tensor<f32>,
        n: usize,
        c: usize,
        pixels: usize,
        #[comptime] is_elu: bool,
        #[comptime] has_more: bool,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let at = place / (pixels * c) * c + place % c;
        let centred = x[place] - statistics[at];
        let g = before_activation(centred, grad[place], statistics, at, n * c, is_elu);
        let mut sum = statistics[2 * n * c + at] * g + sums[at] + sums[n * c + at] * centred;
        if has_more {
            sum += more[place];
        }
        out[place] = sum;
    }

    /// Each row of the table gets the sum of its images' gradients, in their order.
    #[cube(launch)]
    pub(super) fn sums_of_rows(
        of_images: &Tensor<f32>,
        rows: &Tensor<i32>,
        out: &mut Tensor<f32>,
        n: usize,
        columns: usize,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let mut sum = 0.0f32;
        for image in 0..n {
            if usize::cast_from(rows[image]) == place / columns {
                sum += of_images[image * columns + place % columns];
            }
        }
        out[place] = sum;
    }
}
