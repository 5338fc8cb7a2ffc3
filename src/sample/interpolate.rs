//! Rows of images between two: interpolation by the noise of Langevin dynamics (NCSNv2's program).

use burn::tensor::{Device, Tensor};

use super::{AnyChain, Chain, Draws, Images, Sampler, Streams};
use crate::device::upload;
use crate::error::Result;
use crate::net::Backbone;
use crate::noise::Noise;
use crate::score::Model;
use crate::sde::Process;

/// The noise of rows of `n_columns` images: of column j it is z_p·cos θ + z_q·sin θ with θ = (π/2)·j/(n − 1) and the row's own z_p
/// and z_q. So each column alone has independent standard normal noise, and neighbours have nearly the same.
#[derive(Clone, Debug)]
pub struct Interpolation<Z> {
    /// Where z_p comes from, for all rows.
    pub p: Z,
    /// Where z_q comes from.
    pub q: Z,
    /// Images a row, at least two.
    pub n_columns: usize,
}

impl<const D: usize, Z: Draws<D>> Draws<D> for Interpolation<Z> {
    fn normal(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let n = self.n_columns;
        let mut rows = shape;
        rows[0] /= n;
        let angle = |i: usize| std::f64::consts::FRAC_PI_2 * (i % n) as f64 / (n - 1) as f64;
        let factors = |f: fn(f64) -> f64| -> Tensor<D> {
            let mut of_images = [1; D];
            of_images[0] = shape[0];
            upload((0..shape[0]).map(|i| f(angle(i)) as f32).collect(), of_images, device)
        };
        let z_p = repeat(self.p.normal(rows, device), n);
        let z_q = repeat(self.q.normal(rows, device), n);
        z_p * factors(f64::cos) + z_q * factors(f64::sin)
    }
}

/// Each example `n` times, one after the other.
fn repeat<const D: usize>(x: Tensor<D>, n: usize) -> Tensor<D> {
    let shape = x.dims();
    let len = shape.iter().skip(1).product::<usize>();
    let mut repeated = shape;
    repeated[0] *= n;
    x.reshape([shape[0], 1, len]).repeat_dim(1, n).reshape(repeated)
}

/// The chain of rows of `n_columns` images that begin at the same state; `rows` has one image of each.
///
/// # Shapes
/// States are `[rows·n_columns, channels, height, width]`, row by row.
///
/// # Errors
/// Of the probability flow, which has no noise to interpolate: it draws from [`arcs`](super::arcs) between [`latent_ends`].
///
/// # Panics
/// If `n_columns` is below 2.
pub fn interpolation_chain<'a, N: Backbone<4>>(
    model: &'a Model<N>,
    sampler: &Sampler,
    rows: &Images,
    n_columns: usize,
    noise: Noise,
    device: &Device,
) -> Result<AnyChain<4, &'a Model<N>, Interpolation<Streams>>> {
    assert!(n_columns >= 2, "an interpolation of {n_columns} images");
    let method = sampler.method()?;
    let start = match sampler.begins_at_prior() {
        true => rows.prior_of(&*model.process, noise, "interpolate/start", device),
        false => rows.start(noise, "interpolate/start", device),
    };
    let [p, q] = ["interpolate/p", "interpolate/q"].map(|name| Streams(rows.streams(noise, name)));
    let draws = Interpolation { p, q, n_columns };
    Ok(Chain::new(model, model.process.clone(), method, repeat(start, n_columns), draws))
}

/// The latents of the prior between which rows of a seed go, if the probability flow draws them: the ends of each of `rows`, whose
/// points are [`arcs`](super::arcs).
///
/// # Shapes
/// → two of `[rows, channels, height, width]`
pub fn latent_ends(rows: &Images, process: &dyn Process, noise: Noise, device: &Device) -> [Tensor<4>; 2] {
    ["interpolate/p", "interpolate/q"].map(|name| rows.prior_of(process, noise, name, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_has_standard_normal_noise_and_neighbours_have_nearly_the_same() {
        let streams = |name| Streams((0..50).map(|k| Noise::new(1).stream(name, k)).collect());
        let mut draws = Interpolation { p: streams("p"), q: streams("q"), n_columns: 4 };
        let device = Device::flex();
        let z: Tensor<2> = draws.normal([200, 300], &device);
        let z: Vec<f32> = z.try_into_vec_as().expect("numbers");
        let column = |j: usize| z.chunks(300).skip(j).step_by(4).flatten().map(|&z| f64::from(z)).collect::<Vec<f64>>();
        let product = |a: usize, b: usize| column(a).iter().zip(column(b)).map(|(a, b)| a * b).sum::<f64>() / 15_000.0;
        for (a, b) in [(0, 0), (1, 1), (3, 3), (0, 1), (1, 3), (0, 3)] {
            // E z_a·z_b = cos(θ_a − θ_b); five standard errors of a mean of 15,000 products, whose variance is at most 2.
            let expected = ((a as f64 - b as f64) * std::f64::consts::FRAC_PI_6).cos();
            assert!((product(a, b) - expected).abs() < 5.0 * (2.0_f64 / 15_000.0).sqrt(), "{a} {b}: {}", product(a, b));
        }
    }
}
