//! Random features and NumPy's archives for tests.

use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::noise::Noise;
use crate::zip;

/// `n` standard normals.
pub fn normals(seed: u32, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    Noise::new(u64::from(seed)).stream("eval/test", 0).normal(&mut values);
    values
}

/// An archive of arrays, stored or deflated.
pub fn npz(files: &[(&str, Vec<u8>)], is_deflated: bool) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let packed = if is_deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(content).expect("memory takes bytes");
            encoder.finish().expect("memory takes bytes")
        } else {
            content.clone()
        };
        let name = format!("{name}.npy");
        let mut common = vec![20, 0, 0, 0, if is_deflated { 8 } else { 0 }, 0, 0, 0, 33, 0];
        common.extend(zip::crc(content).to_le_bytes());
        common.extend((packed.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend([b"PK\x01\x02\x14\0", &common[..], &[0; 10]].concat());
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.bytes());
        bytes.extend([b"PK\x03\x04", &common[..], name.as_bytes(), &packed].concat());
    }
    let n_files = (files.len() as u16).to_le_bytes();
    let record = [
        &b"PK\x05\x06\0\0\0\0"[..],
        &n_files,
        &n_files,
        &(directory.len() as u32).to_le_bytes(),
        &(bytes.len() as u32).to_le_bytes(),
        &[0, 0],
    ];
    [&bytes[..], &directory, &record.concat()].concat()
}
