//! Resizing, cropping and grids, byte for byte as Pillow and torchvision.

use crate::Case;
use ncsn::data::resize::{Pixels, center_crop, prepare, resize_shorter_side};
use ncsn::image::{grid, to_u8};
use safetensors::{Dtype, SafeTensors};

const FILE: &str = "ncsn/data/data.safetensors";

/// All questions about pixels.
pub fn cases() -> Vec<Case> {
    let cases = [
        ("resizing is pillows byte for byte", resizing_is_pillows_byte_for_byte as fn()),
        ("planes are to tensors", planes_are_to_tensors as fn()),
        ("grids are torchvisions byte for byte", grids_are_torchvisions_byte_for_byte as fn()),
    ];
    cases.into_iter().map(|(claim, run)| Case::new(claim, &[FILE], run)).collect()
}

fn file() -> Vec<u8> {
    crate::fixture::read(FILE)
}

/// A `u8` tensor, `[H, W]` or `[H, W, C]`.
fn pixels(file: &[u8], name: &str) -> Pixels {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::U8);
    let shape = tensor.shape();
    Pixels::new(tensor.data().to_vec(), shape[0], shape[1], shape.get(2).copied().unwrap_or(1))
}

/// A tensor of intensities as bytes, and its shape.
fn bytes(file: &[u8], name: &str) -> (Vec<u8>, Vec<usize>) {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    let values = tensor.data().chunks_exact(4).map(|b| to_u8(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    (values, tensor.shape().to_vec())
}

fn resizing_is_pillows_byte_for_byte() {
    let file = file();
    let face = pixels(&file, "celeba_like.uint8_hwc");
    let small = pixels(&file, "small.uint8_hwc");
    let grey = pixels(&file, "gray.uint8_hw");
    let cropped = center_crop(&face, 140, 140);
    for (result, name) in [
        (resize_shorter_side(&face, 32), "resize32"),
        (resize_shorter_side(&cropped, 32), "crop140_resize32"),
        (resize_shorter_side(&cropped, 64), "crop140_resize64"),
        (center_crop(&resize_shorter_side(&face, 40), 40, 40), "resize_center_crop_40"),
        (Pixels::from_chw(&prepare(face.clone(), 3, 40), [3, 40, 40]), "resize_center_crop_40"),
        (center_crop(&face, 141, 141), "crop141"),
        (center_crop(&face, 139, 139), "crop139"),
        (resize_shorter_side(&small, 48), "small_resize_up"),
        (resize_shorter_side(&small, 16), "small_resize_down"),
        (resize_shorter_side(&small, 32), "small_resize_same"),
        (resize_shorter_side(&grey, 28), "gray_28"),
        (resize_shorter_side(&grey, 32), "gray_resize32"),
    ] {
        assert!(result == pixels(&file, &format!("{name}.uint8")), "{name} differs");
    }
}

fn planes_are_to_tensors() {
    let file = file();
    for name in ["crop140_resize32", "resize32", "small_resize_down", "gray_28"] {
        let image = pixels(&file, &format!("{name}.uint8"));
        let (planes_u8, shape) = bytes(&file, &format!("{name}.float_chw"));
        assert_eq!(shape, [image.channels, image.height, image.width]);
        assert!(image.to_chw() == planes_u8, "{name} differs");
    }
}

fn grids_are_torchvisions_byte_for_byte() {
    let file = file();
    for name in ["grid_gray", "grid_rgb", "grid_partial", "grid_single"] {
        let (images_u8, shape) = bytes(&file, &format!("{name}.x"));
        let result = grid(&images_u8, [shape[1], shape[2], shape[3]], 5);
        let (planes_u8, shape) = bytes(&file, &format!("{name}.grid"));
        assert!(result == Pixels::from_chw(&planes_u8, [shape[0], shape[1], shape[2]]), "{name} differs");
    }
    for name in ["grid_gray", "grid_rgb"] {
        let (images_u8, shape) = bytes(&file, &format!("{name}.x"));
        let result = grid(&images_u8, [shape[1], shape[2], shape[3]], 5);
        assert!(result == pixels(&file, &format!("{name}.uint8_hwc")), "{name} differs");
    }
}
