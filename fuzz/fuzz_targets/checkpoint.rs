//! Checkpoints of PyTorch in every container. A zip archive's checksums would stop every mutation of its content, so
//! input that begins with Z or S is a pickle and a storage, which are put into a zip archive or the stream, first.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use ncsn::checkpoint::pth::{Numbers, Pth, Published};

fuzz_target!(|data: &[u8]| {
    match data {
        [b'Z', n, rest @ ..] => check(&zip(split(rest, *n))),
        [b'S', n, rest @ ..] => check(&stream(split(rest, *n))),
        data => check(data),
    }
});

/// The first `n` of 256 parts are the pickle; the rest is the storage.
fn split(data: &[u8], n: u8) -> (&[u8], &[u8]) {
    data.split_at(data.len() * usize::from(n) / 256)
}

fn check(bytes: &[u8]) {
    let path = Path::new("f");
    match Published::parse(path, bytes) {
        Ok(read) => {
            assert!(read.ema.as_ref().is_none_or(|ema| ema.len() == read.network.len()));
            let tensors = read.network.iter().chain(read.ema.iter().flatten());
            for (_, tensor) in tensors.clone() {
                assert_eq!(tensor.shape.iter().product::<usize>(), tensor.values.len());
            }
            let n_values: usize = tensors.map(|(name, tensor)| name.len() + tensor.values.len()).sum();
            // A packed archive may be of 1 MiB however small it is.
            assert!(n_values <= (17 * bytes.len()).max(2 << 20), "{n_values} from {}", bytes.len());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control) && message.len() < 1000, "{message:?}");
        }
    }
    let mut scratch = Vec::new();
    if let Ok(pth) = Pth::parse(path, bytes, &mut scratch) {
        for place in [&["0"][..], &["0", "a"], &["a"], &["0", "0", "0"], &["1", "state", "0", "step"]] {
            if let Ok(Some((shape, numbers))) = pth.tensor(place) {
                let n = match numbers {
                    Numbers::F32(values) => values.len(),
                    Numbers::I64(values) => values.len(),
                };
                assert_eq!(shape.iter().product::<usize>(), n);
            }
        }
    }
}

fn zip((pickle, storage): (&[u8], &[u8])) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", storage)] {
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let n = (content.len() as u32).to_le_bytes();
        let header =
            [&[0; 8][..], &crc.sum().to_le_bytes(), &n, &n, &(name.len() as u32).to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &header[..], &[0; 10]].concat());
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend([b"PK\x03\x04\x14\0", &header[..], name.as_bytes(), content].concat());
    }
    let sizes = [directory.len() as u32, bytes.len() as u32].map(u32::to_le_bytes).concat();
    [&bytes, &directory, &b"PK\x05\x06\0\0\0\0\x02\0\x02\0"[..], &sizes, &[0, 0]].concat()
}

fn stream((pickle, storages): (&[u8], &[u8])) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&magic[..], pickle, b"\x80\x02]X\x01\0\0\x000a.", storages].concat()
}
