//! Trains a small network on drawn digits for a minute and draws nine images from it:
//! `cargo run --release --example sample_grid [STEPS]` writes `sample_grid.png`.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use ncsn::data::digits::Digits;
use ncsn::data::{BatchOptions, Batches, Dequantise, Range, Split, Transform};
use ncsn::image::{grid, to_u8, write_png};
use ncsn::net::{RefineNet, RefineNetConfig};
use ncsn::noise::Noise;
use ncsn::sample::{AnnealedLangevin, Images, image_chain};
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{Rule, Trainer, TrainingOptions};

const SIZE: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let n_steps = std::env::args().nth(1).map_or(Ok(200), |n| n.parse())?;
    let noise = Noise::new(0);
    let levels = NoiseLevels::geometric(1.0, 0.01, 10)?;

    let config = RefineNetConfig::ncsn(1, 16, 10);
    let device = Device::flex();
    let net = RefineNet::new(&config, &mut noise.stream("init", 0), &device.clone().autodiff())?;
    let rule = Rule::Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, amsgrad: false };
    let options = TrainingOptions { ema_rate: Some(0.99), ..TrainingOptions::default() };
    let mut trainer = Trainer::new(Model::new(net, levels), rule, options, noise);

    let digits = Arc::new(Digits::new(SIZE, 1, Split::Train)?);
    let options = BatchOptions {
        batch_size: 32,
        random_flip: false,
        transform: Transform { dequantise: Dequantise::Uniform, range: Range::Unit },
    };
    for batch in Batches::new(digits, options, noise, "train", 0).take(n_steps) {
        let report = trainer.step(batch?)?;
        if report.step % 20 == 0 {
            println!("step {}: loss {:.1}", report.step, report.loss()?);
        }
    }

    let model = trainer.sampling_model();
    let images = Images { numbers: 0..9, shape: [1, SIZE, SIZE], range: Range::Unit };
    let chain = image_chain(&model, AnnealedLangevin::default(), &images, noise, &device);
    let pixels: Vec<u8> = chain.finish().try_into_vec_as::<f32>()?.into_iter().map(to_u8).collect();
    write_png(Path::new("sample_grid.png"), &grid(&pixels, [1, SIZE, SIZE], 3).enlarged(4))?;
    println!("nine samples in sample_grid.png");
    Ok(())
}
