//! Trains a small network on images in memory and draws nine: `cargo run --release --example train_array [STEPS]`.

use std::sync::Arc;

use burn::tensor::Device;
use ncsn::data::memory::InMemory;
use ncsn::data::{BatchOptions, Batches, Range};
use ncsn::image::{grid, to_u8, write_png};
use ncsn::net::{RefineNet, RefineNetConfig};
use ncsn::noise::Noise;
use ncsn::sample::{AnnealedLangevin, Images, image_chain};
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{OptimizerConfig, Trainer, TrainingOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n_steps = std::env::args().nth(1).map_or(Ok(300), |n| n.parse())?;
    // 100 images of 10 × 10 pixels: a bright square of 4 × 4 pixels somewhere on black.
    let bright =
        |k: usize, y: usize, x: usize| (k % 7..k % 7 + 4).contains(&y) && (k / 7 % 7..k / 7 % 7 + 4).contains(&x);
    let pixel = |i: usize| if bright(i / 100, i / 10 % 10, i % 10) { 255 } else { 0 };
    let images = Arc::new(InMemory::new((0..10_000).map(pixel).collect(), [1, 10, 10])?);

    let (noise, device) = (Noise::new(0), Device::flex());
    let config = RefineNetConfig::ncsn(1, 8, 10);
    let net = RefineNet::new(&config, &mut noise.stream("init", 0), &device.clone().autodiff())?;
    let model = Model::new(net, NoiseLevels::geometric(1.0, 0.01, 10)?);
    let mut trainer = Trainer::new(model, OptimizerConfig::default(), TrainingOptions::default(), noise);
    let options = BatchOptions { batch_size: 32, ..BatchOptions::default() };
    for batch in Batches::new(images, options, noise, "train", 0).take(n_steps) {
        let report = trainer.step(batch?)?;
        println!("step {}: loss {:.1}", report.step, report.loss()?);
    }
    let images = Images { numbers: 0..9, shape: [1, 10, 10], range: Range::Unit };
    let x = image_chain(&trainer.sampling_model(), AnnealedLangevin::default(), &images, noise, &device).finish();
    let pixels_u8: Vec<u8> = x.try_into_vec_as::<f32>()?.into_iter().map(to_u8).collect();
    Ok(write_png("train_array.png".as_ref(), &grid(&pixels_u8, [1, 10, 10], 3).enlarged(8))?)
}
