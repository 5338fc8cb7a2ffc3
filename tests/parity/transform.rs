//! Dequantisation and the logit transform.

use ncsn::data::transform::{dequantise_one, logit};

use crate::Case;
use crate::fixture::{assert_close, open};

const FILE: &str = "ncsn/data/data.safetensors";

/// All questions about transforms.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("dequantised pixels agree", &[FILE], dequantised),
        Case::new("logits agree with the exact ones", &[FILE], logits),
    ]
}

fn dequantised() {
    let file = open(FILE);
    let found: Vec<f32> =
        file.f32("dequant.x").into_iter().zip(file.f32("dequant.u")).map(|(x, u)| dequantise_one(x, u)).collect();
    // One rounding of f32.
    assert_close("dequant.y", &found, file.f64("dequant.y"), 1e-7);
    let logits: Vec<f32> = found.into_iter().map(logit).collect();
    // The published transform loses digits near x = 1; ours, in f64, does not.
    assert_close("dequant_logit.y", &logits, file.f64("dequant_logit.y"), 1e-4);
}

fn logits() {
    let file = open(FILE);
    let found: Vec<f32> = file.f32("logit.x").into_iter().map(logit).collect();
    assert_close("logit.y_f64", &found, file.f64("logit.y_f64"), 1e-6);
}
