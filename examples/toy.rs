//! Annealed Langevin dynamics on a mixture in two dimensions, with its exact score:
//! `cargo run --release --example toy`. Plain Langevin gets the modes' weights wrong, annealed gets them right.

use burn::tensor::{Device, Tensor};
use ncsn::device::upload;
use ncsn::noise::Noise;
use ncsn::sample::{AnnealedLangevin, Chain, Method, PlainLangevin};
use ncsn::score::GaussianMixture;
use ncsn::sde::NoiseLevels;

const N: usize = 1280;

fn main() -> ncsn::Result<()> {
    let levels = NoiseLevels::geometric(20.0, 1.0, 10)?;
    let data = [(0.8, &[5.0, 5.0][..]), (0.2, &[-5.0, -5.0])];
    // Perturbed to σ = 1 this is the mixture 0.8·N((5,5), I) + 0.2·N((−5,−5), I).
    let score = GaussianMixture::new(&data, 0.0, levels);
    let annealed = sample(&score, AnnealedLangevin { step_lr: 0.05, ..AnnealedLangevin::default() }, 8.0);
    let plain = sample(&score, PlainLangevin { t: 0.0, n_steps: 1000, alpha: 0.05 }, 8.0);
    println!("weight of the mode at (5, 5): annealed {annealed:.3}, plain {plain:.3}, exact 0.8");
    Ok(())
}

/// The share of samples that end near (5, 5), from a uniform start in a square of half-width `r`.
fn sample(score: &GaussianMixture, method: impl Method<2>, r: f32) -> f64 {
    let device = Device::flex();
    let mut stream = Noise::new(0).stream("toy", 0);
    let mut start = vec![0.0; 2 * N];
    stream.uniform(&mut start);
    let start = upload(start.iter().map(|u| r * (2.0 * u - 1.0)).collect(), [N, 2], &device);
    let noise = || {
        let mut z = vec![0.0; 2 * N];
        stream.normal(&mut z);
        upload(z, [N, 2], &device)
    };
    let x: Tensor<2> = Chain::new(score, score.process().clone(), method, start, noise).finish();
    let x: Vec<f32> = x.try_into_vec_as().expect("f32");
    x.chunks(2).filter(|p| p[0] + p[1] > 0.0).count() as f64 / N as f64
}
