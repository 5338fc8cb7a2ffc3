//! `tf.train.Example`, a protocol-buffer message: as much of it as an image needs.

use crate::error::shown;

/// The longest side of an image in pixels: no product of shapes overflows.
const MAX_SIDE: u64 = 1 << 14;

/// An image as a record has it.
#[derive(Debug, PartialEq)]
pub struct Image<'a> {
    /// `[channels, height, width]`
    pub shape: [usize; 3],
    /// That many bytes.
    pub pixels_u8: &'a [u8],
}

impl<'a> Image<'a> {
    /// The image in a `tf.train.Example`.
    pub fn parse(example: &'a [u8]) -> Result<Self, String> {
        let found = int64_list(feature(example, "shape")?)?;
        let &[channels @ (1 | 3), height @ 1..=MAX_SIDE, width @ 1..=MAX_SIDE] = &found[..] else {
            let expected = "1 or 3 channels, height and width";
            return Err(format!("found the shape {found:?}, expected {expected}"));
        };
        let [channels, height, width] = [channels, height, width].map(|n| n as usize);
        let pixels_u8 = bytes_of(feature(example, "data")?)?;
        if pixels_u8.len() != channels * height * width {
            let n_bytes = pixels_u8.len();
            return Err(format!("found {n_bytes} bytes of pixels, expected those of {channels}×{height}×{width}"));
        }
        Ok(Self { shape: [channels, height, width], pixels_u8 })
    }
}

/// The content of a field of a protocol-buffer message.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// 4 or 8 bytes, which no feature of an image has.
    Fixed,
}

/// The fields of a message, in their order: number and content.
#[derive(Debug)]
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n_bytes: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(n_bytes).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let n_bytes = self.varint()?;
                Value::Bytes(self.take(n_bytes)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups, which nobody writes any more.
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Message<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field().ok_or_else(|| "its protocol-buffer message is damaged".to_string());
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The messages in the fields of this number.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], String>> {
    Message(message).filter_map(move |field| match field {
        Ok((found, Value::Bytes(bytes))) if found == number => Some(Ok(bytes)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// The `Feature` of this name: of several the last, as protocol buffers have it.
fn feature<'a>(example: &'a [u8], name: &str) -> Result<&'a [u8], String> {
    let mut found = None;
    // Example.features, a map from names to features.
    for features in messages(example, 1) {
        for entry in messages(features?, 1) {
            let (mut key, mut value) = (&[][..], &[][..]);
            for field in Message(entry?) {
                match field? {
                    (1, Value::Bytes(bytes)) => key = bytes,
                    (2, Value::Bytes(bytes)) => value = bytes,
                    _ => {}
                }
            }
            if key == name.as_bytes() {
                found = Some(value);
            }
        }
    }
    found.ok_or_else(|| format!("found no feature {}, expected shape and data", shown(name)))
}

/// The numbers of a feature that is a list of integers, of which there must be few.
fn int64_list(feature: &[u8]) -> Result<Vec<u64>, String> {
    /// A list this long is refused by all who ask.
    const MOST: usize = 8;
    let mut numbers = Vec::new();
    for list in messages(feature, 3) {
        for field in Message(list?) {
            match field? {
                (1, Value::Varint(number)) => numbers.push(number),
                // Packed.
                (1, Value::Bytes(bytes)) => {
                    let mut packed = Message(bytes);
                    while !packed.0.is_empty() && numbers.len() < MOST {
                        numbers.push(packed.varint().ok_or("its list of integers is damaged")?);
                    }
                }
                _ => {}
            }
            if numbers.len() >= MOST {
                return Ok(numbers);
            }
        }
    }
    Ok(numbers)
}

/// The bytes of a feature that is a list of one string of bytes.
fn bytes_of(feature: &[u8]) -> Result<&[u8], String> {
    let mut found = None;
    for list in messages(feature, 1) {
        for bytes in messages(list?, 1) {
            if found.replace(bytes?).is_some() {
                return Err("found several strings of bytes under data, expected one".into());
            }
        }
    }
    found.ok_or_else(|| "found no bytes under data".into())
}
