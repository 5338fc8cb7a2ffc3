//! Image files into [`Pixels`], with limits, since a file of a few kilobytes can claim to be an image of gigabytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek};
use std::path::Path;

use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::resize::Pixels;
use crate::error::{Error, Result};

/// The longest side of an image that is decoded, in pixels.
const MAX_SIDE: u32 = 32_768;
/// The most memory that decoding one image may take, and the longest file that is read.
const MAX_BYTES: u64 = 512 << 20;
/// How much of a file usually holds its header.
const HEADER_BYTES: u64 = 64 << 10;
const JPEG_START: [u8; 2] = [0xff, 0xd8];

/// The image in a PNG, JPEG or WebP file, whatever the file's name says; grey images with 1 channel, others with 3.
///
/// As Pillow's `convert("RGB")`: alpha is dropped, not blended; palettes are resolved; colour profiles and the camera's
/// orientation tag are ignored. 16 bits become 8, rounded. Of an animation, the first picture.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it cannot be decoded or is too large.
pub(crate) fn decode(path: &Path) -> Result<Pixels> {
    let mut file = Vec::new();
    open(path)?.take(MAX_BYTES).read_to_end(&mut file).map_err(Error::io(path))?;
    // The decoder would fill what is missing of a JPEG with grey.
    if file.starts_with(&JPEG_START) && !jpeg_has_end(&file) {
        return Err(Error::format(path, "the JPEG file ends too early, without its end mark"));
    }
    let decoder = decoder(Cursor::new(file)).map_err(|error| unreadable(path, error))?;
    let image = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(path, error))?;
    let (height, width) = (image.height() as usize, image.width() as usize);
    Ok(if image.color().has_color() {
        Pixels::new(image.into_rgb8().into_raw(), height, width, 3)
    } else {
        Pixels::new(image.into_luma8().into_raw(), height, width, 1)
    })
}

/// `[channels, height, width]` of what [`decode`] makes of the file, by its header; the pixels may still be broken.
///
/// # Errors
/// As [`decode`].
pub(crate) fn header_shape(path: &Path) -> Result<[usize; 3]> {
    let mut start = Vec::new();
    open(path)?.take(HEADER_BYTES).read_to_end(&mut start).map_err(Error::io(path))?;
    // Long metadata can push the header out of the start; then the decoder may have the whole file.
    if let Ok(decoder) = decoder(Cursor::new(start)) {
        return Ok(shape(&decoder));
    }
    decoder(open(path)?).map(|decoder| shape(&decoder)).map_err(|error| unreadable(path, error))
}

fn shape(decoder: &impl ImageDecoder) -> [usize; 3] {
    let (width, height) = decoder.dimensions();
    [if decoder.color_type().has_color() { 3 } else { 1 }, height as usize, width as usize]
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let n_bytes = file.metadata().map_err(Error::io(path))?.len();
    if n_bytes > MAX_BYTES {
        let message = format!("an image file of {n_bytes} bytes; at most {MAX_BYTES} are read");
        return Err(Error::format(path, message));
    }
    Ok(BufReader::new(file))
}

/// Whether the end mark of a JPEG file is there, found by walking from segment to segment, because the pictures inside
/// its metadata have end marks of their own.
fn jpeg_has_end(file: &[u8]) -> bool {
    let mut at = JPEG_START.len();
    while let Some(&[first, marker]) = file.get(at..at + 2) {
        at += match (first, marker) {
            (0xff, 0xd9) => return true,
            // A fill byte, an escaped 0xff or a restart mark among the coded pixels: no length follows.
            (0xff, 0xff) => 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            (0xff, _) => match file.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
    false
}

/// A decoder that has read the header and refuses what is over the limits.
fn decoder<'a>(reader: impl BufRead + Seek + 'a) -> Result<impl ImageDecoder + 'a, ImageError> {
    let mut reader = ImageReader::new(reader).with_guessed_format().map_err(ImageError::IoError)?;
    if !matches!(reader.format(), Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) {
        reader.clear_format();
    }
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits.clone());
    let decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes())?;
    Ok(decoder)
}

fn unreadable(path: &Path, error: ImageError) -> Error {
    let message = match error {
        ImageError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            format!("the image cannot be read: {source}")
        }
        ImageError::IoError(_) => "the image file ends too early".to_string(),
        ImageError::Limits(_) => format!(
            "the image is too large: at most {MAX_SIDE} pixels a side and {} MiB in memory are decoded",
            MAX_BYTES >> 20
        ),
        ImageError::Unsupported(_) => format!("not a PNG, JPEG or WebP image that can be decoded ({error})"),
        error => format!("not a sound image: {error}"),
    };
    Error::format(path, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::*;

    fn decoded(image: impl Into<DynamicImage>) -> Pixels {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        image.into().save(&path).unwrap();
        let pixels = decode(&path).unwrap();
        assert_eq!(header_shape(&path).unwrap(), [pixels.channels, pixels.height, pixels.width]);
        pixels
    }

    #[test]
    fn alpha_is_dropped_and_not_blended() {
        let colour = decoded(ImageBuffer::from_pixel(1, 1, Rgba([200_u8, 100, 50, 0])));
        assert_eq!(colour, Pixels::new(vec![200, 100, 50], 1, 1, 3));
        let grey = decoded(ImageBuffer::from_pixel(1, 1, LumaA([77_u8, 3])));
        assert_eq!(grey, Pixels::new(vec![77], 1, 1, 1));
    }

    #[test]
    fn sixteen_bits_become_eight() {
        let colour = decoded(ImageBuffer::from_pixel(1, 1, Rgb([0_u16, 0x8080, 0xffff])));
        assert_eq!(colour, Pixels::new(vec![0, 0x80, 0xff], 1, 1, 3));
        let grey = decoded(ImageBuffer::from_pixel(1, 1, Luma([0x1234_u16])));
        assert_eq!(grey, Pixels::new(vec![0x12], 1, 1, 1));
    }

    /// A PNG header of the given size with a sound checksum, and no pixels behind it.
    fn png_header(width: u32, height: u32) -> Vec<u8> {
        let mut chunk = b"IHDR".to_vec();
        chunk.extend(width.to_be_bytes());
        chunk.extend(height.to_be_bytes());
        chunk.extend([8, 2, 0, 0, 0]);
        let crc = !chunk.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
        });
        let mut file = b"\x89PNG\r\n\x1a\n\0\0\0\x0d".to_vec();
        file.extend(chunk);
        file.extend(crc.to_be_bytes());
        file.extend(b"\0\0\0\x01IDAT\0");
        file
    }

    #[test]
    fn an_image_that_claims_to_be_huge_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        for (width, height) in [(40_000, 1), (1, 40_000), (30_000, 30_000)] {
            std::fs::write(&path, png_header(width, height)).unwrap();
            assert!(header_shape(&path).unwrap_err().to_string().contains("too large"));
            assert!(decode(&path).unwrap_err().to_string().contains("too large"));
        }
    }

    #[test]
    fn a_header_without_pixels_passes_the_check_and_fails_to_decode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.png");
        std::fs::write(&path, png_header(8, 8)).unwrap();
        header_shape(&path).unwrap();
        let message = decode(&path).unwrap_err().to_string();
        assert!(message.contains("cut.png"), "{message}");
    }

    #[test]
    fn a_truncated_file_of_any_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x.jpg", "x.png", "x.webp"] {
            let path = folder.path().join(name);
            ImageBuffer::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]))
                .save(&path)
                .unwrap();
            assert_eq!((decode(&path).unwrap().height, decode(&path).unwrap().width), (30, 40));
            let whole = std::fs::read(&path).unwrap();
            for n_bytes in [0, 1, 2, 3, 20, whole.len() / 2, whole.len() - 20, whole.len() - 2] {
                std::fs::write(&path, &whole[..n_bytes]).unwrap();
                // PNG pixels are complete without the last chunk, of 12 bytes.
                let complete = name == "x.png" && n_bytes == whole.len() - 2;
                assert_eq!(decode(&path).is_ok(), complete, "{n_bytes} of {} bytes of {name}", whole.len());
            }
        }
    }

    #[test]
    fn other_formats_are_refused_whatever_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        for content in [&b"GIF89a\x01\0\x01\0\0\0\0;"[..], b"hello", b""] {
            std::fs::write(&path, content).unwrap();
            assert!(header_shape(&path).unwrap_err().to_string().contains("not a PNG, JPEG or WebP"));
        }
    }
}
