//! Toy experiments in two dimensions, where everything can be seen and the true score is known (Song & Ermon 2019, §3.2 and figures 2 and 3).

mod shapes;
mod train;

pub use shapes::{Ring, Square};
pub use train::{ToyTraining, train};

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::device::{self, upload};
use crate::error::Result;
use crate::noise::{Noise, Stream};
use crate::sample::{Chain, Method};
use crate::score::{GaussianMixture, Score};
use crate::sde::Process;

/// Half the side of the square that the paper's figures show.
pub const HALF_WIDTH: f64 = 8.0;

/// Means of the paper's mixture, with their weights.
pub const MODES: [(f64, [f64; 2]); 2] = [(0.8, [5.0, 5.0]), (0.2, [-5.0, -5.0])];

/// The points (5, 5) with weight 0.8 and (−5, −5) with weight 0.2 as `process` perturbs them: where it only adds noise, the paper's
/// mixture 0.8·N((5, 5), σ²I) + 0.2·N((−5, −5), σ²I) at each σ.
pub fn mixture(process: impl Process + 'static) -> GaussianMixture {
    GaussianMixture::new(&MODES.each_ref().map(|(weight, mean)| (*weight, &mean[..])), 0.0, process)
}

/// `n` points of a random variable in two dimensions, `[n, 2]`.
pub fn draw(
    n: usize,
    mut sample: impl FnMut(&mut Stream) -> [f64; 2],
    mut stream: Stream,
    device: &Device,
) -> Tensor<2> {
    upload((0..n).flat_map(|_| sample(&mut stream)).map(|v| v as f32).collect(), [n, 2], device)
}

/// `n` chains of `method` by the score of data that `process` perturbs, from a uniform start in the figures' square: where they end,
/// `[n, 2]`.
pub fn sample(
    score: &impl Score<2>,
    process: &Arc<dyn Process>,
    method: impl Method<2>,
    n: usize,
    noise: Noise,
    device: &Device,
) -> Tensor<2> {
    let side = 2.0 * HALF_WIDTH as f32;
    let mut start = vec![0.0; 2 * n];
    noise.stream("toy/start", 0).uniform(&mut start);
    let start = upload(start.iter().map(|u| side * (u - 0.5)).collect(), [n, 2], device);
    let mut stream = noise.stream("toy/langevin", 0);
    let draw = || {
        let mut z = vec![0.0; 2 * n];
        stream.normal(&mut z);
        upload(z, [n, 2], device)
    };
    Chain::new(score, process.clone(), method, start, draw).finish()
}

/// An estimate with its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub std_error: f64,
}

impl Estimate {
    /// Of the mean of independent `values`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let values: Vec<f64> = values.into_iter().collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Self { mean, std_error: (variance / n).sqrt() }
    }
}

/// Points of a `[n, 2]` tensor.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when a device cannot give them.
pub fn points(x: Tensor<2>) -> Result<Vec<[f64; 2]>> {
    Ok(device::values(x)?.chunks_exact(2).map(|p| [f64::from(p[0]), f64::from(p[1])]).collect())
}

/// The share of `points` nearer to the first of [`MODES`] than to the second: the weight that a sampler gives it.
pub fn first_mode_weight(points: &[[f64; 2]]) -> Estimate {
    let squared = |p: &[f64; 2], m: [f64; 2]| (p[0] - m[0]).powi(2) + (p[1] - m[1]).powi(2);
    let is_first = |p: &[f64; 2]| squared(p, MODES[0].1) < squared(p, MODES[1].1);
    Estimate::of(points.iter().map(|p| f64::from(u8::from(is_first(p)))))
}

/// The Fisher divergence E‖ŝ(x) − s(x)‖² of an estimated score, at time `t`, over points of the data: the region of high density. In
/// the empty space between the modes, where there are no data, the estimate may be anything (§3.2.1).
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) when a device cannot compute it.
pub fn fisher_divergence(estimate: &impl Score<2>, exact: &impl Score<2>, t: f64, data: Tensor<2>) -> Result<Estimate> {
    let t = vec![t; data.dims()[0]];
    let error = estimate.score(data.clone(), &t) - exact.score(data, &t);
    let squares = device::values(error.square().sum_dim(1))?;
    Ok(Estimate::of(squares.into_iter().map(f64::from)))
}

/// Centres of the `n`² cells that the figures' square is cut into, x fastest and y from the lowest.
pub fn cell_centres(n: usize) -> Vec<[f64; 2]> {
    let at = |i: usize| HALF_WIDTH * ((2 * i + 1) as f64 / n as f64 - 1.0);
    (0..n * n).map(|k| [at(k % n), at(k / n)]).collect()
}

/// Points of an `n`×`n` grid over the figures' square, both ends included, x fastest and y from the lowest: `[n², 2]`.
pub fn grid(n: usize, device: &Device) -> Tensor<2> {
    let at = |i: usize| HALF_WIDTH * (2.0 * i as f64 / (n.max(2) - 1) as f64 - 1.0);
    let values = (0..n * n).flat_map(|k| [at(k % n) as f32, at(k / n) as f32]).collect();
    upload(values, [n * n, 2], device)
}
