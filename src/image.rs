//! Images out: samples as grids, PNG files and GIF animations.

use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use ::image::codecs::png::{PngDecoder, PngEncoder};
use ::image::{ColorType, ExtendedColorType, ImageDecoder as _, ImageEncoder, ImageError};

use crate::data::resize::Pixels;
use crate::error::{Error, Result};
use crate::file::{self, AtomicFile};

/// Black pixels around every image of a grid.
const PADDING: usize = 2;
/// How long an animation rests on its last frame before it starts again, in hundredths of a second.
const LAST_FRAME_CS: u16 = 200;
/// Effort of the colour quantiser from 1 (best) to 30; 3 is visibly better than the usual 10 in 1.5 times its time.
const QUANTISER_SPEED: i32 = 3;

/// The byte for an intensity: 0 and below give 0, 1 and above 255, the rest `⌊255 x + ½⌋`; NaN gives 0.
pub fn to_u8(x: f32) -> u8 {
    // `as` truncates, which is the floor here, and turns NaN into 0.
    (255.0 * x.clamp(0.0, 1.0) + 0.5) as u8
}

/// Images side by side in rows of `n_columns`, as torchvision's `make_grid`: two black pixels around each, grey repeated
/// to 3 channels, empty places of the last row black. A single image is returned without a border.
///
/// `pixels_u8` holds whole images of `shape`, `[channels, height, width]`, one after the other.
///
/// # Panics
/// If `pixels_u8` is empty or no multiple of `shape`, or `n_columns` is 0.
pub fn grid(pixels_u8: &[u8], shape: [usize; 3], n_columns: usize) -> Pixels {
    let [channels, height, width] = shape;
    let image_len = channels * height * width;
    assert!(!pixels_u8.is_empty() && pixels_u8.len().is_multiple_of(image_len), "whole images, at least one");
    assert!(n_columns > 0, "a grid without columns");
    let images = pixels_u8.chunks_exact(image_len).map(|planes| Pixels::from_chw(planes, shape).with_channels(3));
    let n = images.len();
    if n == 1 {
        return Pixels::from_chw(pixels_u8, shape).with_channels(3);
    }
    let n_columns = n_columns.min(n);
    let (cell_height, cell_width) = (height + PADDING, width + PADDING);
    let grid_height = n.div_ceil(n_columns) * cell_height + PADDING;
    let grid_width = n_columns * cell_width + PADDING;
    let mut data = vec![0; grid_height * grid_width * 3];
    for (i, image) in images.enumerate() {
        let top = i / n_columns * cell_height + PADDING;
        let left = i % n_columns * cell_width + PADDING;
        for (y, row) in image.data.chunks_exact(width * 3).enumerate() {
            let start = ((top + y) * grid_width + left) * 3;
            data[start..start + row.len()].copy_from_slice(row);
        }
    }
    Pixels::new(data, grid_height, grid_width, 3)
}

/// Writes an image as PNG, grey or RGB. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`] if it cannot be written, [`Error::Value`] if a side is too long for the format.
pub fn write_png(path: &Path, pixels: &Pixels) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    let color = if pixels.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let (Ok(width), Ok(height)) = (u32::try_from(pixels.width), u32::try_from(pixels.height)) else {
        let found = format!("{}×{} pixels", pixels.width, pixels.height);
        return Err(Error::value(
            format!("the size of {}", path.display()),
            found,
            format!("at most {} a side", u32::MAX),
        ));
    };
    PngEncoder::new(&mut file).write_image(&pixels.data, width, height, color).map_err(|error| {
        let source = if let ImageError::IoError(source) = error { source } else { io::Error::other(error) };
        Error::io(path)(source)
    })?;
    file.commit()
}

/// The bytes `[channels, height, width]` of an image that [`write_png`] wrote.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Format`] if it is not whole or has another shape.
pub fn read_png(path: &Path, [channels, height, width]: [usize; 3]) -> Result<Vec<u8>> {
    let (file, _) = file::open_regular(path)?;
    let broken = |error: ImageError| Error::format(path, format!("found no whole PNG image ({error})"));
    let decoder = PngDecoder::new(BufReader::new(file)).map_err(broken)?;
    let color = if channels == 1 { ColorType::L8 } else { ColorType::Rgb8 };
    let found = (decoder.color_type(), decoder.dimensions());
    if found != (color, (width as u32, height as u32)) {
        let message =
            format!("found {:?} with sides {:?}, expected {color:?} with ({width}, {height})", found.0, found.1);
        return Err(Error::format(path, message));
    }
    let mut pixels = vec![0; channels * height * width];
    decoder.read_image(&mut pixels).map_err(broken)?;
    Ok((0..pixels.len()).map(|i| pixels[i % (height * width) * channels + i / (height * width)]).collect())
}

/// An animated GIF written frame by frame, so that no more than one frame is held in memory. It plays for ever and rests on
/// its last frame.
///
/// Grey frames are exact; colours are reduced to the 256 that suit each frame best. The file appears at
/// [`GifWriter::finish`], whole.
pub struct GifWriter {
    encoder: gif::Encoder<AtomicFile>,
    path: PathBuf,
    width: u16,
    height: u16,
    delay_cs: u16,
    /// The latest frame, kept back because only the next one tells whether it was the last.
    pending: Option<gif::Frame<'static>>,
}

impl GifWriter {
    /// An animation of `width` × `height` pixels that shows each frame for `delay_ms` milliseconds, rounded down to
    /// hundredths of a second.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be created, [`Error::Value`] if a side is over 65535, GIF's limit.
    pub fn new(path: &Path, width: usize, height: usize, delay_ms: u32) -> Result<GifWriter> {
        let (Ok(width), Ok(height)) = (u16::try_from(width), u16::try_from(height)) else {
            let name = format!("the size of {}", path.display());
            return Err(Error::value(name, format!("{width}×{height} pixels"), "at most 65535 a side, GIF's limit"));
        };
        let delay_cs = u16::try_from(delay_ms / 10).unwrap_or(u16::MAX);
        let greys: Vec<u8> = (0..=255).flat_map(|grey| [grey; 3]).collect();
        let file = AtomicFile::create(path)?;
        let mut encoder = gif::Encoder::new(file, width, height, &greys).map_err(encoding(path))?;
        encoder.set_repeat(gif::Repeat::Infinite).map_err(encoding(path))?;
        Ok(GifWriter { encoder, path: path.to_path_buf(), width, height, delay_cs, pending: None })
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    ///
    /// # Panics
    /// If the frame does not have the animation's size.
    pub fn frame(&mut self, pixels: &Pixels) -> Result<()> {
        let (width, height) = (usize::from(self.width), usize::from(self.height));
        assert_eq!((pixels.width, pixels.height), (width, height), "size of a frame of {}", self.path.display());
        let mut frame = if pixels.data.chunks_exact(pixels.channels).all(|p| p.iter().all(|&v| v == p[0])) {
            // The file's own palette: index = grey.
            let greys: Vec<u8> = pixels.data.iter().copied().step_by(pixels.channels).collect();
            gif::Frame { width: self.width, height: self.height, buffer: greys.into(), ..gif::Frame::default() }
        } else {
            gif::Frame::from_rgb_speed(self.width, self.height, &pixels.data, QUANTISER_SPEED)
        };
        frame.delay = self.delay_cs;
        match self.pending.replace(frame) {
            Some(previous) => self.encoder.write_frame(&previous).map_err(encoding(&self.path)),
            None => Ok(()),
        }
    }

    /// Writes the last frame and puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written, [`Error::Unexpected`] if there was no frame.
    pub fn finish(mut self) -> Result<()> {
        let Some(mut last) = self.pending.take() else {
            return Err(Error::unexpected(format!("no frame for {}", self.path.display()), "at least one"));
        };
        last.delay = last.delay.max(LAST_FRAME_CS);
        self.encoder.write_frame(&last).map_err(encoding(&self.path))?;
        self.encoder.into_inner().map_err(encoding(&self.path))?.commit()
    }
}

fn encoding(path: &Path) -> impl FnOnce(gif::EncodingError) -> Error {
    move |error| {
        let source = if let gif::EncodingError::Io(source) = error { source } else { io::Error::other(error) };
        Error::io(path)(source)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn intensities_are_clamped_rounded_and_nan_is_black() {
        let pairs = [(-1.0, 0), (0.0, 0), (1.0, 255), (2.0, 255), (f32::NAN, 0), (f32::INFINITY, 255)];
        for (x, byte) in pairs {
            assert_eq!(to_u8(x), byte, "{x}");
        }
        for byte in 0..=255 {
            assert_eq!(to_u8(f32::from(byte) / 255.0), byte);
        }
    }

    #[test]
    fn png_files_keep_grey_and_colour_exactly() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.png");
        for channels in [1, 3] {
            let image = Pixels::new((0..5 * 7 * channels).map(|i| (i * 41) as u8).collect(), 5, 7, channels);
            write_png(&path, &image).unwrap();
            assert_eq!(crate::data::decode::decode(&path).unwrap(), image);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    /// Each frame of a GIF file as (RGBA bytes, delay in hundredths of a second).
    fn frames(path: &Path) -> Vec<(Vec<u8>, u16)> {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(File::open(path).unwrap()).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            frames.push((frame.buffer.to_vec(), frame.delay));
        }
        assert_eq!(decoder.repeat(), gif::Repeat::Infinite);
        frames
    }

    fn rgba(pixels: &Pixels) -> Vec<u8> {
        pixels.clone().with_channels(3).data.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect()
    }

    #[test]
    fn grey_animations_are_exact_loop_and_rest_on_the_last_frame() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gif");
        let grey = Pixels::new((0..=255).collect(), 16, 16, 1);
        let inverted = Pixels::new((0..=255).rev().collect(), 16, 16, 1).with_channels(3);
        let mut gif = GifWriter::new(&path, 16, 16, 50).unwrap();
        for image in [&grey, &inverted, &grey] {
            gif.frame(image).unwrap();
        }
        assert!(!path.exists(), "the file must not appear before it is finished");
        gif.finish().unwrap();
        assert_eq!(frames(&path), [(rgba(&grey), 5), (rgba(&inverted), 5), (rgba(&grey), 200)]);
    }

    #[test]
    fn few_colours_are_exact_and_many_are_close() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gif");
        let few = Pixels::new([255, 0, 0, 0, 255, 9].repeat(512), 32, 32, 3);
        let many =
            Pixels::new((0..1024).flat_map(|i| [(i % 32 * 8) as u8, (i / 32 * 8) as u8, 90]).collect(), 32, 32, 3);
        let mut gif = GifWriter::new(&path, 32, 32, 100).unwrap();
        gif.frame(&few).unwrap();
        gif.frame(&many).unwrap();
        gif.finish().unwrap();
        let frames = frames(&path);
        assert_eq!(frames[0].0, rgba(&few));
        let error: u32 = frames[1].0.iter().zip(rgba(&many)).map(|(&a, b)| u32::from(a.abs_diff(b))).sum();
        // The quantiser is a small neural network, not an optimum; 8 is what a fixed palette of 8×8×4 colours would give.
        assert!(error < 8 * 4096, "mean error {}", f64::from(error) / 4096.0);
    }

    #[test]
    fn an_unfinished_animation_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut gif = GifWriter::new(&folder.path().join("x.gif"), 4, 4, 50).unwrap();
        gif.frame(&Pixels::new(vec![7; 16], 4, 4, 1)).unwrap();
        drop(gif);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let empty = GifWriter::new(&folder.path().join("y.gif"), 4, 4, 50).unwrap();
        let message = empty.finish().unwrap_err().to_string();
        assert!(
            message.starts_with("found no frame for ") && message.ends_with("y.gif, expected at least one"),
            "{message}"
        );
        let message = GifWriter::new(&folder.path().join("z.gif"), 70_000, 4, 50).err().unwrap().to_string();
        assert!(message.ends_with("z.gif is 70000×4 pixels, expected at most 65535 a side, GIF's limit"), "{message}");
    }
}
