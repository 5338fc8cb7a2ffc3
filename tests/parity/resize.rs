//! Images as Inception takes them, against pytorch-fid's and torch-fidelity's resize.

use ncsn::eval::{ResizeRule, Resizer};

use crate::Case;
use crate::fixture::{Fixture, assert_close, open};

const FILE: &str = "metrics/inception.safetensors";
/// The fixture has every so many pixels of a resized image.
const STRIDE: usize = 23;
const SIDE: usize = 299;

/// All questions about resizing for metrics.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "compat resizes as torch fidelity bit for bit",
            &[FILE],
            compat_resizes_as_torch_fidelity_bit_for_bit,
        ),
        Case::new("pytorch fid's rule resizes as pytorch fid", &[FILE], pytorch_fids_rule_resizes_as_pytorch_fid),
    ]
}

/// The fixture's pixels of its images, resized.
fn resized(file: &Fixture, rule: ResizeRule) -> Vec<f32> {
    let images: Vec<u8> = file.f64("images32").iter().map(|&byte| byte as u8).collect();
    let out = Resizer::new(rule, [32, 32], SIDE).batch(&images);
    let rows = out.chunks_exact(SIDE).enumerate().filter(|(i, _)| (i % SIDE).is_multiple_of(STRIDE));
    rows.flat_map(|(_, row)| row.iter().step_by(STRIDE).copied()).collect()
}

fn compat_resizes_as_torch_fidelity_bit_for_bit() {
    let file = open(FILE);
    let expected: Vec<f32> = file.f32("tf1.resized32_crop").iter().map(|v| (v - 128.0) / 128.0).collect();
    assert_eq!(resized(&file, ResizeRule::Compat), expected);
}

fn pytorch_fids_rule_resizes_as_pytorch_fid() {
    let file = open(FILE);
    let expected: Vec<f64> = file.f64("resized32_crop").iter().map(|v| 2.0 * v - 1.0).collect();
    // PyTorch weighs the four pixels in another order, and fuses products with sums.
    assert_close("resized", &resized(&file, ResizeRule::PytorchFid), &expected, 5e-7);
}
