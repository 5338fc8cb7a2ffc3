//! TFRecord, the framing of TensorBoard's events and of TensorFlow's data sets: records, each with its length and checksums.
//!
//! A record is the number n of its bytes (`u64`, little-endian), the masked CRC-32C of those eight bytes (`u32`), n bytes, and their
//! masked CRC-32C.

use std::io::{self, Write};

/// Bytes before those of a record: its length and the checksum of that.
pub const HEADER_BYTES: usize = 12;
/// Bytes behind those of a record: their checksum.
pub const FOOTER_BYTES: usize = 4;

/// Writes one record.
///
/// # Errors
/// Those of `out`.
pub fn write_record(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

/// The length of the record behind `header`; `None` if its checksum is another.
pub fn length(header: &[u8; HEADER_BYTES]) -> Option<u64> {
    let [length @ .., a, b, c, d] = *header;
    (masked_crc(&length) == u32::from_le_bytes([a, b, c, d])).then_some(u64::from_le_bytes(length))
}

/// Whether `footer` is the checksum of `data`.
pub fn is_sound(data: &[u8], footer: [u8; FOOTER_BYTES]) -> bool {
    masked_crc(data) == u32::from_le_bytes(footer)
}

/// CRC-32C, rotated and shifted so that a record of records does not check itself.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78; eight bytes at a time, because images are megabytes.
fn crc32c(data: &[u8]) -> u32 {
    /// `TABLES[k][b]` is the remainder of the byte b with k zero bytes behind it.
    static TABLES: [[u32; 256]; 8] = {
        let mut tables = [[0; 256]; 8];
        let mut i = 0;
        while i < 256 {
            let mut crc = i as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            tables[0][i] = crc;
            i += 1;
        }
        let mut k = 1;
        while k < 8 {
            let mut i = 0;
            while i < 256 {
                let before = tables[k - 1][i];
                tables[k][i] = before >> 8 ^ tables[0][(before & 0xff) as usize];
                i += 1;
            }
            k += 1;
        }
        tables
    };
    let (eights, rest) = data.as_chunks::<8>();
    let crc = eights.iter().fold(!0, |crc: u32, eight| {
        let [a, b, c, d] = crc.to_le_bytes();
        let [first, second, third, fourth, others @ ..] = *eight;
        let mixed = [first ^ a, second ^ b, third ^ c, fourth ^ d];
        let bytes = mixed.into_iter().chain(others);
        bytes.zip(TABLES.iter().rev()).fold(0, |crc, (byte, table)| crc ^ table[usize::from(byte)])
    });
    !rest.iter().fold(crc, |crc, &byte| crc >> 8 ^ TABLES[0][usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_gives_the_known_answers() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 zeros, 32 ones, 32 rising bytes.
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!([&[0; 32][..], &[0xff; 32], &rising].map(crc32c), [0x8a91_36aa, 0x62a8_ab43, 0x46dd_794e]);
    }

    #[test]
    fn eight_bytes_at_a_time_are_as_good_as_one() {
        let data: Vec<u8> = (0..100).map(|i| (i * 37 % 251) as u8).collect();
        for n in 0..data.len() {
            let mut crc = !0_u32;
            for &byte in &data[..n] {
                crc ^= u32::from(byte);
                (0..8).for_each(|_| crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 });
            }
            assert_eq!(crc32c(&data[..n]), !crc, "{n} bytes");
        }
    }

    #[test]
    fn a_record_is_found_again_and_every_flipped_bit_in_it() {
        let mut file = Vec::new();
        write_record(&mut file, b"some data").expect("memory");
        let read = |file: &[u8]| {
            let n = length(file.first_chunk()?)?;
            let (data, footer) = file[HEADER_BYTES..].split_at_checked(usize::try_from(n).ok()?)?;
            is_sound(data, footer.try_into().ok()?).then(|| data.to_vec())
        };
        assert_eq!(read(&file).as_deref(), Some(&b"some data"[..]));
        for bit in 0..8 * file.len() {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged), None, "bit {bit}");
        }
    }
}
