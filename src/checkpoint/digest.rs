//! The digest of a checkpoint's file, which its own header states: a bit that changed anywhere in the file is told.
//!
//! It is the SHA-256 of the header, with zeros in the digest's place, and of the CRC-32 of each MiB of the data. A
//! CRC-32 finds every change of a few bits, all cores compute it at the speed of memory, and a checkpoint guards
//! against broken disks and copies, not against forgers.

use flate2::Crc;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::file::hex;
use crate::net::params::HostTensor;

/// The digest's key in the metadata.
pub(super) const KEY: &str = "ncsn_digest";
/// Bytes of data under one checksum; a whole number of f32.
const CHUNK: usize = 1 << 20;
/// Hexadecimal digits.
const N_DIGITS: usize = 64;

/// What stands in the digest's place while it is computed.
pub(super) fn blank() -> String {
    "0".repeat(N_DIGITS)
}

/// Where the digest stands in the header `head`. In JSON nothing but a key has unescaped quotes and a colon behind it.
fn place(head: &[u8]) -> Option<std::ops::Range<usize>> {
    let before = format!("\"{KEY}\":\"");
    let at = head.windows(before.len()).position(|part| part == before.as_bytes())? + before.len();
    (head.get(at + N_DIGITS) == Some(&b'"')).then_some(at..at + N_DIGITS)
}

/// Puts the digest in its place in `head`, a header with [`blank`] there, and gives it.
pub(super) fn seal(head: &mut [u8], tensors: &[(String, HostTensor)]) -> String {
    let digest = of(head, &checksums_of_tensors(tensors));
    let place = place(head).expect("a header with a place for the digest");
    head[place].copy_from_slice(digest.as_bytes());
    digest
}

/// Whether a file of the header `head`, which states a digest, and `data` has that digest.
pub(super) fn is_whole(head: &[u8], data: &[u8]) -> bool {
    let Some(place) = place(head) else { return false };
    let mut blanked = head.to_vec();
    blanked[place.clone()].fill(b'0');
    let checksums: Vec<u32> = data.par_chunks(CHUNK).map(checksum).collect();
    of(&blanked, &checksums).as_bytes() == &head[place]
}

fn of(head: &[u8], checksums: &[u32]) -> String {
    let mut hash = Sha256::new();
    hash.update(head);
    checksums.iter().for_each(|sum| hash.update(sum.to_le_bytes()));
    hex(&hash.finalize())
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The checksums of the data that `tensors` are in a file, of which only chunks are made.
fn checksums_of_tensors(tensors: &[(String, HostTensor)]) -> Vec<u32> {
    const N_VALUES: usize = CHUNK / 4;
    let mut n_values = 0;
    // Where each tensor ends, in values from the beginning of the data.
    let ends: Vec<usize> = tensors
        .iter()
        .map(|(_, tensor)| {
            n_values += tensor.values.len();
            n_values
        })
        .collect();
    let chunk = |k: usize| {
        let (mut at, end) = (k * N_VALUES, ((k + 1) * N_VALUES).min(n_values));
        let mut bytes = Vec::with_capacity(4 * (end - at));
        let mut i = ends.partition_point(|&end| end <= at);
        while at < end {
            let values = &tensors[i].1.values;
            let start = at - (ends[i] - values.len());
            let n = (values.len() - start).min(end - at);
            bytes.extend(values[start..start + n].iter().flat_map(|value| value.to_le_bytes()));
            at += n;
            i += 1;
        }
        checksum(&bytes)
    };
    (0..n_values.div_ceil(N_VALUES)).into_par_iter().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_tensors_have_the_checksums_of_their_bytes_wherever_tensors_begin() {
        let lengths = [0, 3, CHUNK / 4 - 3, 0, 5, CHUNK / 2 + 1, 1, 0];
        let tensors: Vec<(String, HostTensor)> = lengths
            .iter()
            .enumerate()
            .map(|(k, &n)| {
                let values = (0..n).map(|i| (i * 31 + k) as f32).collect();
                (k.to_string(), HostTensor { shape: vec![n], values })
            })
            .collect();
        let bytes: Vec<u8> = tensors.iter().flat_map(|(_, t)| t.values.iter().flat_map(|v| v.to_le_bytes())).collect();
        let expected: Vec<u32> = bytes.chunks(CHUNK).map(checksum).collect();
        assert_eq!(expected.len(), 4);
        assert_eq!(checksums_of_tensors(&tensors), expected);
        assert_eq!(checksums_of_tensors(&tensors[..1]), Vec::<u32>::new());
    }
}
