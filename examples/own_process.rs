//! A process of one's own: what perturbs data is one `impl`, and losses, samplers and exact scores take it.
//! `cargo run --release --example own_process` draws from a mixture through a cosine schedule.

use burn::tensor::{Device, Tensor};
use ncsn::noise::{Distribution, Noise, tensor};
use ncsn::sample::{AnnealedLangevin, Chain, Streams};
use ncsn::score::GaussianMixture;
use ncsn::sde::{Marginal, Process};

/// x_t = cos(πt/2)·x + sin(πt/2)·z: the variance stays where it is (Nichol & Dhariwal 2021).
#[derive(Debug)]
struct Cosine;

impl Process for Cosine {
    fn marginal(&self, t: f64) -> Marginal {
        let (std, alpha) = (t * std::f64::consts::FRAC_PI_2).sin_cos();
        Marginal { alpha, std }
    }

    fn times(&self) -> [f64; 2] {
        [0.02, 1.0]
    }

    fn n_levels(&self) -> usize {
        50
    }
}

fn main() {
    const N: usize = 2000;
    let (noise, device) = (Noise::new(0), Device::flex());
    let score = GaussianMixture::new(&[(0.8, &[1.0, 1.0]), (0.2, &[-1.0, -1.0])], 0.2, Cosine);
    // At t = 1 nothing is left of the data.
    let start: Tensor<2> = tensor(Distribution::Normal, &mut [noise.stream("start", 0)], [N, 2], &device);
    let langevin = AnnealedLangevin { step_lr: 2e-4, n_steps_each: 20, denoise: true };
    let draws = Streams(vec![noise.stream("langevin", 0)]);
    let x = Chain::new(&score, score.process().clone(), langevin, start, draws).finish();
    let x: Vec<f32> = x.try_into_vec_as().expect("f32");
    let share = x.chunks(2).filter(|p| p[0] + p[1] > 0.0).count() as f64 / N as f64;
    println!("weight of the mode at (1, 1): {share:.3}, exact 0.8");
    assert!((share - 0.8).abs() < 0.05);
}
