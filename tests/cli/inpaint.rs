//! Filling in hidden parts of images.

use std::path::Path;

use ncsn::data::digits::Digits;
use ncsn::data::folder::read_image;
use ncsn::data::{Pixels, Source, Split};
use ncsn::image::write_png;

use crate::{TRAIN, fails, scratch, succeeds};

const SIZE: usize = 8;

fn completion(folder: &Path, output: &str, image: usize, k: usize) -> Vec<u8> {
    read_image(&folder.join(output).join(format!("images/{image:06}_{k:03}.png")), 1, SIZE).unwrap()
}

#[test]
fn known_pixels_stay_and_hidden_ones_are_filled_in_for_every_mask() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    // A mask of one's own: the upper left quarter is hidden.
    let quarter = |x: usize, y: usize| x < SIZE / 2 && y < SIZE / 2;
    let white = (0..SIZE * SIZE).map(|i| if quarter(i % SIZE, i / SIZE) { 255 } else { 0 }).collect();
    write_png(&folder.path().join("mask.png"), &Pixels::new(white, SIZE, SIZE, 1)).unwrap();
    let centre = |i: usize| (2..6).contains(&i);
    type IsHidden = Box<dyn Fn(usize, usize) -> bool>;
    let masks: [(&str, IsHidden); 6] = [
        ("left", Box::new(|x, _| x < 4)),
        ("right", Box::new(|x, _| x >= 4)),
        ("top", Box::new(|_, y| y < 4)),
        ("bottom", Box::new(|_, y| y >= 4)),
        ("centre", Box::new(move |x, y| centre(x) && centre(y))),
        ("mask.png", Box::new(quarter)),
    ];
    let digits = Digits::new(SIZE, 1, Split::Test).unwrap();
    for (mask, is_hidden) in masks {
        let args = ["inpaint", "--doc", "d", "--images", "DIGITS", "--n", "2", "--n-per-image", "3"];
        let output = format!("{mask} out");
        let said = succeeds(folder.path(), &[&args[..], &["--mask", mask, "-o", &output]].concat());
        assert!(said.contains("3 completions of each of 2 images"), "{said}");
        for image in 0..2 {
            let mut reference = vec![0; SIZE * SIZE];
            digits.read(image, &mut reference).unwrap();
            let mut n_changed = 0;
            for k in 0..3 {
                let completion = completion(folder.path(), &output, image, k);
                for (i, (found, expected)) in completion.iter().zip(&reference).enumerate() {
                    let hidden = is_hidden(i % SIZE, i / SIZE);
                    assert!(hidden || found == expected, "{mask}: pixel {i} is known");
                    n_changed += usize::from(hidden && found != expected);
                }
            }
            assert!(n_changed > 0, "{mask}: nothing was filled in");
            assert_ne!(completion(folder.path(), &output, image, 0), completion(folder.path(), &output, image, 1));
        }
    }
}

#[test]
fn a_completion_is_the_same_however_many_are_asked_for() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let draw = |output: &str, n: &str, per_image: &str| {
        let args = ["inpaint", "--doc", "d", "--images", "DIGITS", "--mask", "random:0.5", "-o", output];
        succeeds(folder.path(), &[&args[..], &["--n", n, "--n-per-image", per_image]].concat());
    };
    draw("a", "2", "3");
    draw("b", "1", "2");
    for k in 0..2 {
        assert_eq!(completion(folder.path(), "a", 0, k), completion(folder.path(), "b", 0, k));
    }
    let message = fails(folder.path(), &["inpaint", "--doc", "d", "--images", "DIGITS", "-o", "a"]);
    assert!(message.contains("--overwrite"), "{message}");
}

#[test]
fn a_folder_of_images_is_completed_and_mistakes_are_told() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let images = folder.path().join("my images");
    std::fs::create_dir(&images).unwrap();
    for k in 0..3u8 {
        write_png(&images.join(format!("{k}.png")), &Pixels::new(vec![80 * k; 12 * 20 * 3], 12, 20, 3)).unwrap();
    }
    let said = succeeds(
        folder.path(),
        &["inpaint", "--doc", "d", "--images", "my images", "-o", "out", "--n", "9", "--n-per-image", "1"],
    );
    assert!(said.contains("3 images"), "{said}");
    std::fs::write(folder.path().join("black.png"), b"not an image").unwrap();
    for (images, mask, needle) in [
        ("my images", "diagonal", "expected left, right"),
        ("my images", "random:1.5", "between 0 and 1"),
        ("my images", "black.png", "black.png"),
        ("nowhere", "left", "nowhere"),
        ("CIFAR10", "left", "3 channels"),
    ] {
        let args = ["inpaint", "--doc", "d", "--images", images, "--mask", mask, "-o", "x"];
        let message = fails(folder.path(), &args);
        assert!(message.contains(needle), "{needle} in {message}");
    }
}
