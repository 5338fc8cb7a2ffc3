//! Draws nine images from a run or a checkpoint, ours or a published one:
//! `cargo run --release --example sample_checkpoint [run/logs/quickstart]` writes `sample_0.png` … `sample_8.png`.

use burn::tensor::Device;
use ncsn::checkpoint::{Saved, Which};
use ncsn::image::write_png;
use ncsn::noise::Noise;

fn main() -> ncsn::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "run/logs/quickstart".into());
    let device = Device::flex();
    let saved = Saved::open(&path)?;
    let model = saved.model(Which::Averaged, &device)?;
    let x = saved.sample(&model, 0..9, Noise::new(7), &device).finish()?;
    for (k, picture) in saved.pictures(x)?.iter().enumerate() {
        write_png(format!("sample_{k}.png").as_ref(), picture)?;
    }
    println!("nine samples of {path}: sample_0.png to sample_8.png");
    Ok(())
}
