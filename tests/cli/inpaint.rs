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

#[test]
fn colours_are_drawn_and_the_grey_of_an_image_stays() {
    let folder = scratch();
    let at = folder.path();
    std::fs::write(at.join("sde.yml"), crate::flow::TINY_SDE).unwrap();
    let images = at.join("images");
    std::fs::create_dir(&images).unwrap();
    // Colours, none of them near 0 or 255, where what is drawn would be cut off.
    let colour = |k: u8, i: u8| [90 + 10 * k + i % 32, 130 + i / 3, 150 - 10 * k].map(|c: u8| c);
    for k in 0..2 {
        let pixels = (0..64).flat_map(|i| colour(k, i)).collect();
        write_png(&images.join(format!("{k}.png")), &Pixels::new(pixels, SIZE, SIZE, 3)).unwrap();
    }
    let train = |doc: &str, config: &str| {
        let args = ["train", "--config", config, "--doc", doc, "--no-sample", "--set", "data.channels=3"];
        // With little noise even a network that has hardly learnt anything draws pixels between 0 and 255.
        succeeds(at, &[&args[..], &["--set", "model.beta_max=1"]].concat());
    };
    train("levels", "tiny.yml");
    train("sde", "sde.yml");
    let read = |path: &str| read_image(&at.join(path), 3, SIZE).unwrap();
    let grey = |image: &[u8], i: usize| (0..3).map(|c| f64::from(image[64 * c + i])).sum::<f64>() / 3.0;
    // Annealed Langevin dynamics, and predictor–corrector sampling.
    for doc in ["levels", "sde"] {
        let out = format!("{doc} out");
        let args = ["inpaint", "--doc", doc, "--images", "images", "--mask", "grey", "--n-per-image", "2", "-o", &out];
        assert!(succeeds(at, &args).contains("2 completions of each of 2 images"));
        for k in 0..2 {
            let expected = read(&format!("images/{k}.png"));
            let [a, b] = [0, 1].map(|j| read(&format!("{out}/images/{k:06}_{j:03}.png")));
            assert!(a != b && a != expected, "colours are drawn");
            for found in [&a, &b] {
                let is_whole = |i: &usize| (0..3).all(|c| ![0, 255].contains(&found[64 * c + i]));
                let whole: Vec<usize> = (0..64).filter(is_whole).collect();
                for &i in &whole {
                    let [found, expected] = [found, &expected].map(|image| grey(image, i));
                    // Three channels are rounded.
                    assert!((found - expected).abs() <= 0.5, "{found}, expected {expected}");
                }
                assert!(!whole.is_empty(), "{doc}: colours are cut off everywhere");
            }
        }
        let grid = ncsn::image::read_png(&at.join(&out).join("grid.png"), [3, 44, 84]);
        assert!(grid.is_ok(), "{grid:?}");
    }
    succeeds(at, &TRAIN);
    let args = ["inpaint", "--doc", "d", "--images", "DIGITS", "--mask", "grey", "-o", "x"];
    let message = fails(at, &args);
    assert!(
        message.contains("found --mask grey of images of 1 channels, expected a run on images of three"),
        "{message}"
    );
    assert!(!at.join("x").exists());
}
