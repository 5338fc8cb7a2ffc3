//! Completes the right half of a drawn digit four times, by the model of a run:
//! `cargo run --release --example inpaint [run/logs/quickstart]` writes `inpaint.png`: the digit, then its completions.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use ncsn::checkpoint::{Saved, Which};
use ncsn::data::digits::Digits;
use ncsn::data::{Source, Split};
use ncsn::device::upload;
use ncsn::image::{grid, write_png};
use ncsn::noise::Noise;
use ncsn::sample::{Completions, KnownPart, completion_chain};

fn main() -> ncsn::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "run/logs/quickstart".into());
    let (device, saved) = (Device::flex(), Saved::open(&path)?);
    let model = saved.model(Which::Averaged, &device)?;

    let shape @ [channels, height, width] = saved.config().image_shape();
    let mut digit_u8 = vec![0; channels * height * width];
    Digits::new(width, channels, Split::Test)?.read(0, &mut digit_u8)?;
    let range = saved.config().transform().range;
    let x = digit_u8.iter().map(|&p| range.forward(f32::from(p) / 255.0)).collect();
    // 1 where a pixel is known.
    let mask = (0..digit_u8.len()).map(|i| if i % width < width / 2 { 1.0 } else { 0.0 }).collect();
    let [reference, mask]: [Tensor<4>; 2] = [x, mask].map(|x| upload(x, [1, channels, height, width], &device));

    let (part, renewal) = (KnownPart::Pixels(mask.into()), saved.config().renewal());
    let completions = Completions { part, reference, renewal, image: 0, numbers: 0..4 };
    let x = completion_chain(&model, &saved.config().sampler(), completions, Noise::new(7))?.finish();
    let mut pixels_u8 = digit_u8;
    for picture in saved.pictures(x)? {
        pixels_u8.extend(picture.to_chw());
    }
    write_png(Path::new("inpaint.png"), &grid(&pixels_u8, shape, 5).enlarged(4))?;
    println!("a digit and four completions: inpaint.png");
    Ok(())
}
