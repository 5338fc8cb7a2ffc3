//! Image files of every kind give the pixels that Pillow makes of them, bit for bit. `tests/fixtures/images/make.py` made both.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use ncsn::eval::{ImageSet, ReadOptions};
use sha2::{Digest, Sha256};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images");

/// The shape of the only image in a folder, and its bytes, pixel by pixel.
fn image(folder: &Path) -> ncsn::Result<([usize; 3], Vec<u8>)> {
    let set = ImageSet::open(folder, &ReadOptions::default())?;
    let ([height, width], channels) = (set.size(), set.channels());
    let planes = set.read(0..1)?;
    let at = |i: usize| planes[i % channels * height * width + i / channels];
    Ok(([channels, height, width], (0..channels * height * width).map(at).collect()))
}

#[test]
fn pixels_are_pillow_s_bit_for_bit() {
    let table = fs::read_to_string(Path::new(FIXTURES).join("pixels.txt")).unwrap();
    let mut wrong = Vec::new();
    for line in table.lines() {
        let [name, channels, height, width, sha256] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let folder = tempfile::tempdir().unwrap();
        fs::copy(Path::new(FIXTURES).join(name), folder.path().join(name)).unwrap();
        match image(folder.path()) {
            Ok((shape, pixels_u8)) => {
                let found: String = Sha256::digest(&pixels_u8).iter().map(|byte| format!("{byte:02x}")).collect();
                let expected = [channels, height, width].map(|n| n.parse::<usize>().unwrap());
                if (shape, found.as_str()) != (expected, sha256) {
                    wrong.push(format!("{name}: other pixels, {shape:?}"));
                }
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(table.lines().count() > 50 && wrong.is_empty(), "{wrong:#?}");
}

#[cfg(unix)]
#[test]
fn exactly_what_is_refused_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let fixture = |name: &str| fs::read(Path::new(FIXTURES).join(name)).unwrap();
    for name in ["420.jpg", "rgb.png", "lossy.webp", "palette.gif"] {
        fs::write(path(name), fixture(name)).unwrap();
    }
    let jpeg = fixture("444.jpg");
    let cut = |bytes: &[u8]| bytes[..bytes.len() * 2 / 3].to_vec();
    let lossless = jpeg.iter().scan(0, |last, &byte| {
        let marker = *last == 0xff && byte == 0xc0;
        *last = byte;
        Some(if marker { 0xc3 } else { byte })
    });
    let broken: [(&str, Vec<u8>); 6] = [
        ("cut.jpg", cut(&jpeg)),
        ("cut and ended.jpg", [&cut(&jpeg)[..], &[0xff, 0xd9]].concat()),
        ("lossless.jpg", lossless.collect()),
        ("cut.png", cut(&fixture("rgb.png"))),
        ("cut.webp", cut(&fixture("lossy.webp"))),
        ("text.gif", b"text".to_vec()),
    ];
    for (name, content) in &broken {
        fs::write(path(name), content).unwrap();
    }
    assert!(std::process::Command::new("mkfifo").arg(path("pipe.png")).status().unwrap().success());
    std::os::unix::fs::symlink("nowhere", path("link.png")).unwrap();
    fs::write(path("other.tif"), "II*").unwrap();

    // By their headers and ends alone, all but the one whose damage lies between.
    let message = ImageSet::open(folder.path(), &ReadOptions::default()).unwrap_err().to_string();
    assert!(message.contains("7 of 12 image files cannot be decoded"), "{message}");
    let set = ImageSet::open(folder.path(), &ReadOptions { skip_broken: true, ..Default::default() }).unwrap();
    assert_eq!((set.len(), set.broken().len()), (4, 8));
    assert_eq!(set.left_out().to_string(), "1 file of other formats (.tif) is left out");
    let named: Vec<String> = set.broken().iter().map(ToString::to_string).collect();
    for name in broken.iter().map(|(name, _)| *name).chain(["pipe.png", "link.png"]) {
        assert!(named.iter().any(|error| error.contains(&format!("/{name}: "))), "{name} not in {named:?}");
    }
    set.read(0..4).unwrap();
}
