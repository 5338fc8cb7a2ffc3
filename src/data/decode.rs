//! Image files into [`Pixels`], with limits, since a file of a few kilobytes can claim to be an image of gigabytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use image::{DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::jpeg;
use super::resize::Pixels;
use crate::error::{Error, Result};
use crate::file::open_regular;
use crate::guard::guarded;

/// The formats that are read, as messages name them.
pub(crate) const FORMATS: &str = "PNG, JPEG, WebP, BMP or GIF";
/// The longest side of an image that is decoded, in pixels.
const MAX_SIDE: u32 = 32_768;
/// The longest file that is read.
const MAX_FILE_BYTES: u64 = 512 << 20;
/// The most memory that one image may take: its file, what the decoder keeps, the decoded pixels, and their conversion to the
/// channels and the size that are asked for.
const MAX_BYTES: u64 = 1 << 30;
/// Of a pixel, once it is decoded: converted to 8 bits, 1 or 3 channels, or resized.
const N_CONVERTED_BYTES: u64 = 4;
/// How much of a file usually holds its header.
const HEADER_BYTES: u64 = 64 << 10;
/// The last chunk of a PNG file.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// The image in a PNG, JPEG, WebP, BMP or GIF file, whatever the file's name says; grey images with 1 channel, others with 3.
///
/// As Pillow's `convert("RGB")`: alpha is dropped, not blended; palettes are resolved; colour profiles and the camera's
/// orientation tag are ignored. Of 16 bits the high 8 remain; grey of 16 bits, which Pillow cuts off at 255, is refused. Of an
/// animation, the first picture, which must fill the image.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is no regular file, cannot be decoded, is too large or lacks its
/// end.
pub(crate) fn decode(path: &Path) -> Result<Pixels> {
    let (reader, n_bytes) = open(path)?;
    let mut file = Vec::with_capacity(usize::try_from(n_bytes).unwrap_or(0));
    reader.take(n_bytes).read_to_end(&mut file).map_err(Error::io(path))?;
    decode_bytes(path, &file)
}

/// [`decode`] for what an image file holds, which errors call `path`.
pub(crate) fn decode_bytes(path: &Path, file: &[u8]) -> Result<Pixels> {
    let n_bytes = file.len() as u64;
    let format = format(path, file)?;
    check_complete(path, format, file)?;
    guarded(path, || {
        if format == ImageFormat::Jpeg {
            let bad = |message| Error::format(path, message);
            let header =
                jpeg::Header::parse(file).map_err(bad)?.ok_or_else(|| bad("the JPEG file ends too early".into()))?;
            check_jpeg_size(path, &header, n_bytes)?;
            return jpeg::decode(file, &header).map_err(bad);
        }
        if format == ImageFormat::Gif {
            check_first_picture(path, Cursor::new(file))?;
        }
        let decoder = decoder(Cursor::new(file), format).map_err(|error| unreadable(path, error))?;
        check_size(path, format, &decoder, n_bytes)?;
        let image = DynamicImage::from_decoder(decoder).map_err(|error| unreadable(path, error))?;
        Ok(to_eight_bits(image))
    })
}

/// `[channels, height, width]` of what [`decode`] makes of the file, by its header and its end; the pixels between may still be broken.
///
/// # Errors
/// As [`decode`].
pub(crate) fn header_shape(path: &Path) -> Result<[usize; 3]> {
    let (mut reader, n_bytes) = open(path)?;
    let mut start = Vec::new();
    (&mut reader).take(HEADER_BYTES).read_to_end(&mut start).map_err(Error::io(path))?;
    let format = format(path, &start)?;
    let has_usual_end = match format {
        ImageFormat::Jpeg => ends_with(&mut reader, n_bytes, &[0xff, 0xd9]),
        ImageFormat::Png => ends_with(&mut reader, n_bytes, PNG_END),
        _ => Ok(true),
    };
    if !has_usual_end.map_err(Error::io(path))? {
        read_all(&mut reader, n_bytes, &mut start).map_err(Error::io(path))?;
    }
    check_end(path, format, &start, n_bytes)?;
    guarded(path, || {
        if format == ImageFormat::Jpeg {
            let bad = |message| Error::format(path, message);
            let mut header = jpeg::Header::parse(&start).map_err(bad)?;
            if header.is_none() && (start.len() as u64) < n_bytes {
                // Long metadata can push the header out of the start.
                read_all(&mut reader, n_bytes, &mut start).map_err(Error::io(path))?;
                header = jpeg::Header::parse(&start).map_err(bad)?;
            }
            let header = header.ok_or_else(|| bad("the JPEG file ends too early".into()))?;
            check_jpeg_size(path, &header, n_bytes)?;
            let channels = if header.n_components == 1 { 1 } else { 3 };
            return Ok([channels, header.height as usize, header.width as usize]);
        }
        if format == ImageFormat::Gif {
            reader.rewind().map_err(Error::io(path))?;
            check_first_picture(path, &mut reader)?;
        }
        if let Ok(decoder) = decoder(Cursor::new(&start), format) {
            return check_size(path, format, &decoder, n_bytes);
        }
        reader.rewind().map_err(Error::io(path))?;
        let decoder = decoder(reader, format).map_err(|error| unreadable(path, error))?;
        check_size(path, format, &decoder, n_bytes)
    })
}

/// The file and its length.
fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let (file, n_bytes) = open_regular(path)?;
    if n_bytes > MAX_FILE_BYTES {
        let message = format!("an image file of {n_bytes} bytes; at most {MAX_FILE_BYTES} are read");
        return Err(Error::format(path, message));
    }
    Ok((BufReader::new(file), n_bytes))
}

/// What the first bytes of a file say it is.
fn format(path: &Path, start: &[u8]) -> Result<ImageFormat> {
    let of_webp = |start: &[u8]| start.get(8..12) == Some(b"WEBP");
    Ok(match start {
        [b'\x89', b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ImageFormat::Png,
        start if start.starts_with(&jpeg::START) => ImageFormat::Jpeg,
        [b'R', b'I', b'F', b'F', ..] if of_webp(start) => ImageFormat::WebP,
        [b'B', b'M', ..] => ImageFormat::Bmp,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => ImageFormat::Gif,
        _ => return Err(Error::format(path, format!("not a {FORMATS} image"))),
    })
}

fn ends_with(reader: &mut (impl Read + Seek), n_bytes: u64, end: &[u8]) -> std::io::Result<bool> {
    let mut found = Vec::new();
    reader.seek(SeekFrom::Start(n_bytes.saturating_sub(end.len() as u64)))?;
    reader.take(end.len() as u64).read_to_end(&mut found)?;
    Ok(found == end)
}

fn read_all(reader: &mut (impl Read + Seek), n_bytes: u64, file: &mut Vec<u8>) -> std::io::Result<()> {
    file.clear();
    reader.rewind()?;
    reader.take(n_bytes).read_to_end(file).map(drop)
}

/// Refuses a whole file that lacks its end: decoders would fill what is missing with grey.
fn check_complete(path: &Path, format: ImageFormat, file: &[u8]) -> Result<()> {
    if format == ImageFormat::Jpeg {
        return jpeg::check_complete(file).map_err(|message| Error::format(path, message));
    }
    check_end(path, format, file, file.len() as u64)
}

/// The same by the first bytes of a file of `n_bytes`, of which all are there if it does not end as usual.
fn check_end(path: &Path, format: ImageFormat, start: &[u8], n_bytes: u64) -> Result<()> {
    let is_whole = start.len() as u64 == n_bytes;
    let is_complete = match format {
        ImageFormat::Jpeg if is_whole => {
            return jpeg::check_complete(start).map_err(|message| Error::format(path, message));
        }
        ImageFormat::Png if png_palette_is_cut(start) => {
            return Err(Error::format(path, "a PNG image whose palette ends within a colour"));
        }
        ImageFormat::Png if is_whole => png_has_end(start),
        ImageFormat::WebP => {
            let n_expected = start.get(4..8).map(|n| n.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
            n_expected.is_some_and(|n_expected| n_expected + 8 <= n_bytes)
        }
        _ => true,
    };
    if is_complete { Ok(()) } else { Err(Error::format(path, "the image file ends too early, without its end")) }
}

/// The chunks of a PNG file that begins with `start`: where each begins, its kind and how long its content is.
fn png_chunks(start: &[u8]) -> impl Iterator<Item = (usize, &[u8], usize)> {
    let mut at = 8_usize;
    std::iter::from_fn(move || {
        let (length, kind) = start.get(at..)?.first_chunk::<8>()?.split_first_chunk::<4>()?;
        let (begin, n) = (at, u32::from_be_bytes(*length) as usize);
        at = at.saturating_add(n).saturating_add(12);
        Some((begin, &start[begin + 4..begin + 4 + kind.len()], n))
    })
}

/// Whether the last chunk of a PNG file is there, perhaps with something behind it.
fn png_has_end(file: &[u8]) -> bool {
    png_chunks(file).any(|(begin, kind, _)| kind == b"IEND" && file.len() >= begin + PNG_END.len())
}

/// Whether a PNG file that begins with `start` has a palette with a part of a colour, at which its decoder panics.
fn png_palette_is_cut(start: &[u8]) -> bool {
    let mut chunks = png_chunks(start).take_while(|(_, kind, _)| *kind != b"IDAT");
    chunks.any(|(_, kind, n)| kind == b"PLTE" && !n.is_multiple_of(3))
}

/// Refuses a GIF file whose first picture leaves a part of the image open: programs differ in what they fill it with.
fn check_first_picture(path: &Path, reader: impl Read) -> Result<()> {
    let first = || -> Result<_, gif::DecodingError> {
        let mut decoder = gif::DecodeOptions::new().read_info(reader)?;
        let screen = [decoder.width(), decoder.height()];
        let frame = decoder.next_frame_info()?;
        Ok(frame.map(|frame| (screen, [frame.width, frame.height], [frame.left, frame.top])))
    };
    let message = match first() {
        Ok(Some((screen, size, [0, 0]))) if size == screen => return Ok(()),
        Ok(Some(([width, height], ..))) => {
            format!("a GIF image whose first picture does not fill its {width}×{height} pixels")
        }
        Ok(None) => "a GIF file without a picture".to_string(),
        Err(error) => format!("not a sound image: {error}"),
    };
    Err(Error::format(path, message))
}

/// A decoder that has read the header.
fn decoder<'a>(reader: impl BufRead + Seek + 'a, format: ImageFormat) -> Result<impl ImageDecoder + 'a, ImageError> {
    let mut reader = ImageReader::with_format(reader, format);
    let mut limits = Limits::no_limits();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    reader.into_decoder()
}

/// The shape of the decoded image, unless it would take too much memory or is of a kind that is not read.
fn check_size(path: &Path, format: ImageFormat, decoder: &impl ImageDecoder, n_bytes: u64) -> Result<[usize; 3]> {
    let (width, height) = decoder.dimensions();
    let n_pixels = u64::from(width) * u64::from(height);
    let n_kept_each = match format {
        // A picture of an animation and the canvas that it is drawn on, or the planes of a lossy image and its alpha.
        ImageFormat::WebP | ImageFormat::Gif => 8,
        _ => 0,
    };
    let n_needed = n_pixels
        .saturating_mul(n_kept_each + N_CONVERTED_BYTES)
        .saturating_add(decoder.total_bytes())
        .saturating_add(n_bytes);
    check_memory(path, [width, height], n_needed)?;
    if decoder.original_color_type() == ExtendedColorType::L16 {
        return Err(Error::format(
            path,
            "a grey image of 16 bits, expected 8: which of its values are white is not known",
        ));
    }
    Ok([if decoder.color_type().has_color() { 3 } else { 1 }, height as usize, width as usize])
}

fn check_jpeg_size(path: &Path, header: &jpeg::Header, n_bytes: u64) -> Result<()> {
    let n_pixels = u64::from(header.width) * u64::from(header.height);
    let n_needed = n_pixels * (header.n_components as u64 + N_CONVERTED_BYTES) + header.n_coefficient_bytes + n_bytes;
    check_memory(path, [header.width, header.height], n_needed)
}

fn check_memory(path: &Path, [width, height]: [u32; 2], n_needed: u64) -> Result<()> {
    let message = if width == 0 || height == 0 {
        format!("an image of {width}×{height} pixels, expected at least one")
    } else if width > MAX_SIDE || height > MAX_SIDE {
        format!("the image is too large: {width}×{height} pixels; at most {MAX_SIDE} a side are decoded")
    } else if n_needed > MAX_BYTES {
        format!(
            "the image is too large: {width}×{height} pixels may take {} MiB of memory; at most {} are used for an image",
            n_needed >> 20,
            MAX_BYTES >> 20
        )
    } else {
        return Ok(());
    };
    Err(Error::format(path, message))
}

fn to_eight_bits(image: DynamicImage) -> Pixels {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let high = |word: u16| (word >> 8) as u8;
    let (data, channels) = match image {
        DynamicImage::ImageLumaA16(image) => (image.as_raw().iter().step_by(2).copied().map(high).collect(), 1),
        DynamicImage::ImageRgb16(image) => (image.into_raw().into_iter().map(high).collect(), 3),
        DynamicImage::ImageRgba16(image) => {
            (image.as_raw().as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b].map(high)).collect(), 3)
        }
        image if image.color().has_color() => (image.into_rgb8().into_raw(), 3),
        image => (image.into_luma8().into_raw(), 1),
    };
    Pixels::new(data, height, width, channels)
}

fn unreadable(path: &Path, error: ImageError) -> Error {
    let message = match error {
        ImageError::IoError(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            format!("the image cannot be read: {source}")
        }
        ImageError::IoError(_) => "the image file ends too early".to_string(),
        ImageError::Limits(_) => format!(
            "the image is too large: at most {MAX_SIDE} pixels a side and {} MiB of memory are used for an image",
            MAX_BYTES >> 20
        ),
        ImageError::Unsupported(_) => format!("not a {FORMATS} image that can be decoded ({error})"),
        error => format!("not a sound image: {error}"),
    };
    Error::format(path, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use image::{ImageBuffer, Luma, LumaA, Rgb, Rgba};

    use super::super::jpeg::testing::baseline;
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
    fn of_sixteen_bits_the_high_eight_remain_and_grey_is_refused() {
        let colour = decoded(ImageBuffer::from_pixel(1, 1, Rgb([0x00ff_u16, 0x8080, 0xffff])));
        assert_eq!(colour, Pixels::new(vec![0, 0x80, 0xff], 1, 1, 3));
        let grey = decoded(ImageBuffer::from_pixel(1, 1, LumaA([0x12ff_u16, 0])));
        assert_eq!(grey, Pixels::new(vec![0x12], 1, 1, 1));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        ImageBuffer::from_pixel(1, 1, Luma([0x1234_u16])).save(&path).unwrap();
        for error in [header_shape(&path).unwrap_err(), decode(&path).unwrap_err()] {
            assert!(error.to_string().contains("a grey image of 16 bits"), "{error}");
        }
    }

    #[test]
    fn a_palette_that_is_cut_is_refused_by_the_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("palette.png");
        // A palette that is cut within its second entry, which the only pixel uses.
        let parts = [(b"PLTE", &[1, 2, 3, 4][..]), (b"IDAT", b"x\x9cc`\x04\0\0\x04\0\x02"), (b"IEND", b"")];
        let chunks = parts.map(|(kind, content)| chunk(kind, content)).concat();
        fs::write(&path, [&png_header(1, 1, [8, 3])[..], &chunks].concat()).unwrap();
        for error in [header_shape(&path).unwrap_err(), decode(&path).unwrap_err()] {
            assert!(matches!(&error, Error::Format { path: named, .. } if *named == path), "{error:?}");
            assert!(error.to_string().contains("whose palette ends within a colour"), "{error}");
        }
    }

    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(content);
        [&(content.len() as u32).to_be_bytes(), &kind[..], content, &crc.sum().to_be_bytes()].concat()
    }

    /// The first chunk of a PNG file of the given size, bits a channel and kind of colour.
    fn png_header(width: u32, height: u32, bits_and_kind: [u8; 2]) -> Vec<u8> {
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &bits_and_kind, &[0; 3]].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header)].concat()
    }

    /// A PNG file without pixels.
    fn empty_png(width: u32, height: u32, bits_and_kind: [u8; 2]) -> Vec<u8> {
        [&png_header(width, height, bits_and_kind)[..], &chunk(b"IDAT", b""), PNG_END].concat()
    }

    #[test]
    fn an_image_that_claims_to_be_huge_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bomb.png");
        // The last has 58 MB in its file and would take 2.4 GB once it is converted.
        for (width, height, kind) in
            [(40_000, 1, [8, 2]), (1, 40_000, [8, 2]), (30_000, 30_000, [8, 2]), (22_000, 22_000, [1, 0])]
        {
            fs::write(&path, empty_png(width, height, kind)).unwrap();
            assert!(header_shape(&path).unwrap_err().to_string().contains("too large"));
            assert!(decode(&path).unwrap_err().to_string().contains("too large"));
        }
    }

    #[test]
    fn a_header_without_pixels_passes_the_check_and_fails_to_decode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.png");
        fs::write(&path, empty_png(8, 8, [8, 2])).unwrap();
        header_shape(&path).unwrap();
        let message = decode(&path).unwrap_err().to_string();
        assert!(message.contains("cut.png"), "{message}");
    }

    #[test]
    fn a_truncated_file_of_any_format_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let image = ImageBuffer::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, (x * y) as u8]));
        for name in ["x.jpg", "x.png", "x.webp", "x.bmp", "x.gif"] {
            let path = folder.path().join(name);
            match name {
                "x.jpg" => fs::write(&path, baseline(image.as_raw(), 40)).unwrap(),
                _ => image.save(&path).unwrap(),
            }
            assert_eq!((decode(&path).unwrap().height, decode(&path).unwrap().width), (30, 40));
            let whole = fs::read(&path).unwrap();
            for n_bytes in [0, 1, 2, 3, 20, whole.len() / 2, whole.len() - 20, whole.len() - 2] {
                fs::write(&path, &whole[..n_bytes]).unwrap();
                // Of GIF the pixels are complete before the last bytes.
                let complete = name == "x.gif" && n_bytes == whole.len() - 2;
                assert_eq!(decode(&path).is_ok(), complete, "{n_bytes} of {} bytes of {name}", whole.len());
                if ["x.jpg", "x.png", "x.webp"].contains(&name) {
                    assert!(header_shape(&path).is_err(), "{n_bytes} of {} bytes of {name}", whole.len());
                }
            }
            // What other programs put behind the end is no harm.
            fs::write(&path, [&whole[..], b"trailing"].concat()).unwrap();
            assert!(header_shape(&path).is_ok() && decode(&path).is_ok(), "{name}");
        }
    }

    #[test]
    fn coded_pixels_that_end_before_the_image_does_are_refused_and_not_filled_with_grey() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jpg");
        let noise: Vec<u8> = (0..3 * 32 * 32_u32).map(|i| (i * i % 251) as u8).collect();
        let whole = baseline(&noise, 32);
        for n_bytes in [whole.len() / 2, whole.len() * 3 / 4, whole.len() - 40] {
            fs::write(&path, [&whole[..n_bytes], b"\xff\xd9"].concat()).unwrap();
            let message = decode(&path).unwrap_err().to_string();
            assert!(message.contains("x.jpg: not a sound JPEG image: its coded pixels are damaged"), "{message}");
        }
    }

    #[test]
    fn kinds_of_jpeg_that_are_not_read_are_refused_by_their_headers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jpg");
        let whole = baseline(&[7; 3 * 64], 8);
        let frame = whole.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
        for (at, value, expected) in [
            (1, 0xc3, "a lossless JPEG file"),
            (1, 0xc5, "a hierarchical JPEG file"),
            (1, 0xc9, "a JPEG file with arithmetic coding"),
            (4, 12, "12 bits a sample, expected 8"),
            (6, 0, "of 8×0 pixels"),
            (9, 2, "2 components, expected 1"),
            (11, 0x55, "sampling factors that are not 1 to 4"),
            (11, 0x44, "interleaves 18 blocks, expected at most 10"),
            (14, 0x13, "sampling factors do not divide"),
        ] {
            let mut changed = whole.clone();
            changed[frame + at] = value;
            fs::write(&path, &changed).unwrap();
            for error in [header_shape(&path).unwrap_err(), decode(&path).unwrap_err()] {
                assert!(error.to_string().contains(expected), "{expected}: {error}");
            }
        }
        // A hundred scans are read, and a thousand refused.
        let scan = whole.windows(2).position(|bytes| bytes == [0xff, 0xda]).unwrap();
        let scans = whole[scan..whole.len() - 2].repeat(1000);
        fs::write(&path, [&whole[..scan], &scans, b"\xff\xd9"].concat()).unwrap();
        assert!(decode(&path).unwrap_err().to_string().contains("more than 500 scans"));
    }

    #[test]
    fn a_gif_whose_first_picture_leaves_a_part_open_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gif");
        ImageBuffer::from_pixel(4, 3, Rgba([1_u8, 2, 3, 255])).save(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        header_shape(&path).unwrap();
        // One column more.
        fs::write(&path, [&whole[..6], &[5], &whole[7..]].concat()).unwrap();
        for error in [header_shape(&path).unwrap_err(), decode(&path).unwrap_err()] {
            assert!(error.to_string().contains("does not fill its 5×3 pixels"), "{error}");
        }
    }

    #[test]
    fn a_large_progressive_jpeg_is_refused_for_what_its_coefficients_take() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jpg");
        let mut file = baseline(&[7; 3 * 64], 8);
        let frame = file.windows(2).position(|bytes| bytes == [0xff, 0xc0]).unwrap();
        // 10,500 × 10,500: 7 bytes a pixel in one scan, 10 in several.
        file[frame + 5..frame + 9].copy_from_slice(&[0x29, 0x04, 0x29, 0x04]);
        fs::write(&path, &file).unwrap();
        assert_eq!(header_shape(&path).unwrap(), [3, 10_500, 10_500]);
        file[frame + 1] = 0xc2;
        fs::write(&path, &file).unwrap();
        assert!(
            header_shape(&path).unwrap_err().to_string().contains("too large: 10500×10500 pixels may take 1052 MiB")
        );
    }

    #[test]
    fn other_formats_are_refused_whatever_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        for content in [&b"II*\0\x08\0\0\0"[..], b"hello", b""] {
            fs::write(&path, content).unwrap();
            for error in [header_shape(&path).unwrap_err(), decode(&path).unwrap_err()] {
                assert!(error.to_string().contains("not a PNG, JPEG, WebP, BMP or GIF image"), "{error}");
            }
        }
    }
}
