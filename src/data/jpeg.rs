//! JPEG files (ITU-T T.81): the pixels that Pillow gives, bit for bit, since both use libjpeg-turbo's decoder.
//!
//! The decoder is C code, so the header is read here first, and what it says is checked before the decoder sees the file.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use mozjpeg::decompress::{DecompressBuilder, DecompressStarted, Format};
use mozjpeg_sys::{jpeg_common_struct, jpeg_error_mgr, msg_parm_union};

use super::resize::Pixels;

/// With what every JPEG file begins.
pub(super) const START: [u8; 2] = [0xff, 0xd8];
/// A progressive file has about ten. Each of them passes over the whole image, however few bytes it has.
const MAX_SCANS: usize = 500;
/// The decoder's limit, and the standard's, of blocks in a unit of interleaved components.
const MAX_BLOCKS_PER_UNIT: usize = 10;

const SOS: u8 = 0xda;
const EOI: u8 = 0xd9;

/// What a file says about itself before its first coded pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub height: u32,
    pub width: u32,
    /// 1 (grey), 3 or 4 (CMYK).
    pub n_components: usize,
    /// Bytes of the coefficients that the decoder keeps until it has seen all scans; 0 if there is only one.
    pub n_coefficient_bytes: u64,
}

impl Header {
    /// The header of a file that begins with `file`; `None` if there is more of it.
    ///
    /// # Errors
    /// What kind of JPEG file is not read, or what is wrong with this one.
    pub fn parse(file: &[u8]) -> Result<Option<Self>, String> {
        let (mut at, mut frame) = (START.len(), None);
        while let Some(Segment { marker, content, end }) = next_segment(file, at) {
            at = end;
            match marker {
                // DHT, JPG and DAC are no frames, although their numbers lie between.
                0xc4 | 0xc8 | 0xcc => {}
                0xc0..=0xcf if frame.is_some() => return Err("a JPEG file with two frames".into()),
                0xc0..=0xcf => frame = Some(Frame::parse(marker, content)?),
                SOS => return frame.ok_or("a JPEG file whose pixels come before its sizes")?.header(content).map(Some),
                EOI => return Err("a JPEG file without an image".into()),
                _ => {}
            }
        }
        Ok(None)
    }
}

/// The frame header (T.81 B.2.2).
struct Frame {
    is_progressive: bool,
    height: u32,
    width: u32,
    components: Vec<Component>,
}

struct Component {
    id: u8,
    horizontal: u32,
    vertical: u32,
}

impl Frame {
    fn parse(marker: u8, content: &[u8]) -> Result<Self, String> {
        let is_progressive = match marker {
            0xc0 | 0xc1 => false,
            0xc2 => true,
            // The decoder could not tell where such data end too early.
            0xc9 | 0xca => return Err("a JPEG file with arithmetic coding, expected Huffman coding".into()),
            0xc3 | 0xcb => return Err("a lossless JPEG file, expected a baseline or progressive one".into()),
            _ => return Err("a hierarchical JPEG file, expected a baseline or progressive one".into()),
        };
        let &[bits, h1, h0, w1, w0, n_components, ref rest @ ..] = content else {
            return Err("a JPEG file with a damaged frame header".into());
        };
        let (height, width) = (u16::from_be_bytes([h1, h0]), u16::from_be_bytes([w1, w0]));
        if bits != 8 {
            return Err(format!("a JPEG file of {bits} bits a sample, expected 8"));
        }
        if height == 0 || width == 0 {
            return Err(format!("a JPEG file of {width}×{height} pixels, expected at least one"));
        }
        if !matches!(n_components, 1 | 3 | 4) {
            return Err(format!("a JPEG file of {n_components} components, expected 1 (grey), 3 or 4 (CMYK)"));
        }
        let (parts, rest) = rest.as_chunks::<3>();
        if parts.len() != usize::from(n_components) || !rest.is_empty() {
            return Err("a JPEG file with a damaged frame header".into());
        }
        let component = |&[id, factors, _]: &[u8; 3]| {
            let (horizontal, vertical) = (u32::from(factors >> 4), u32::from(factors & 15));
            let is_valid = (1..=4).contains(&horizontal) && (1..=4).contains(&vertical);
            is_valid.then_some(Component { id, horizontal, vertical })
        };
        let components: Option<Vec<Component>> = parts.iter().map(component).collect();
        let components = components.ok_or("a JPEG file with sampling factors that are not 1 to 4")?;
        let frame = Self { is_progressive, height: height.into(), width: width.into(), components };
        let [h, v] = frame.largest();
        if frame.components.iter().any(|c| h % c.horizontal != 0 || v % c.vertical != 0) {
            return Err("a JPEG file whose sampling factors do not divide the largest one".into());
        }
        Ok(frame)
    }

    /// The largest sampling factors.
    fn largest(&self) -> [u32; 2] {
        let largest = |factor: fn(&Component) -> u32| self.components.iter().map(factor).max().unwrap_or(1);
        [largest(|c| c.horizontal), largest(|c| c.vertical)]
    }

    /// The file's header, of which `scan` is the first scan's.
    fn header(self, scan: &[u8]) -> Result<Header, String> {
        let n_scanned = usize::from(scan.first().copied().unwrap_or(0));
        let ids = scan.get(1..1 + 2 * n_scanned).ok_or("a JPEG file with a damaged scan header")?;
        let scanned = |c: &&Component| ids.iter().step_by(2).any(|&id| id == c.id);
        let n_blocks = |c: &Component| c.horizontal as usize * c.vertical as usize;
        let n_blocks_per_unit: usize = self.components.iter().filter(scanned).map(n_blocks).sum();
        if n_scanned > 1 && n_blocks_per_unit > MAX_BLOCKS_PER_UNIT {
            let expected = format!("expected at most {MAX_BLOCKS_PER_UNIT}");
            return Err(format!("a JPEG file that interleaves {n_blocks_per_unit} blocks, {expected}"));
        }
        let [h, v] = self.largest();
        let n_units = u64::from(self.width.div_ceil(8 * h)) * u64::from(self.height.div_ceil(8 * v));
        // A block has 64 coefficients of 16 bits.
        let n_bytes: u64 = self.components.iter().map(|c| n_units * n_blocks(c) as u64 * 128).sum();
        let has_more_scans = self.is_progressive || n_scanned < self.components.len();
        Ok(Header {
            height: self.height,
            width: self.width,
            n_components: self.components.len(),
            n_coefficient_bytes: if has_more_scans { n_bytes } else { 0 },
        })
    }
}

/// A marker, what follows it, and where that ends.
struct Segment<'a> {
    marker: u8,
    content: &'a [u8],
    end: usize,
}

/// The first marker from `at` on, over coded pixels, restart markers and fill bytes; `None` if the file ends before its content does.
fn next_segment(file: &[u8], mut at: usize) -> Option<Segment<'_>> {
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match *file.get(at + 1)? {
            0xff => at += 1,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            EOI => return Some(Segment { marker: EOI, content: &[], end: at + 2 }),
            marker => {
                let length = usize::from(u16::from_be_bytes([*file.get(at + 2)?, *file.get(at + 3)?]));
                let end = at + 2 + length;
                return Some(Segment { marker, content: file.get(at + 4..end)?, end });
            }
        }
    }
}

/// Refuses a file without its end mark, of which the decoder would make up the rest, and one with so many scans that it would take
/// hours. The mark is found by walking from segment to segment, because the pictures inside metadata have end marks of their own.
pub(super) fn check_complete(file: &[u8]) -> Result<(), String> {
    let (mut at, mut n_scans) = (START.len(), 0);
    while let Some(Segment { marker, end, .. }) = next_segment(file, at) {
        at = end;
        match marker {
            EOI => return Ok(()),
            SOS => n_scans += 1,
            _ => {}
        }
        if n_scans > MAX_SCANS {
            return Err(format!("a JPEG file of more than {MAX_SCANS} scans"));
        }
    }
    Err("the JPEG file ends too early, without its end mark".into())
}

/// The image in a file whose [`Header`] and end have been checked.
///
/// # Errors
/// Whatever the decoder objects to, also where it would guess and go on.
pub(super) fn decode(file: &[u8], header: &Header) -> Result<Pixels, String> {
    let decoded = catch_unwind(AssertUnwindSafe(|| -> std::io::Result<Vec<u8>> {
        let decoder = DecompressBuilder::new().with_err(handler()).from_mem(file)?;
        match decoder.image()? {
            Format::Gray(started) | Format::RGB(started) => read(started),
            Format::CMYK(started) => read(started).map(|cmyk| rgb_of_inverted_cmyk(&cmyk)),
        }
    }));
    let data = match decoded {
        Ok(read) => read.map_err(|error| format!("not a sound JPEG image: {error}"))?,
        Err(panic) => match panic.downcast::<Refused>() {
            Ok(refused) => return Err(format!("not a sound JPEG image: {}", refused.0)),
            Err(panic) => resume_unwind(panic),
        },
    };
    let (height, width) = (header.height as usize, header.width as usize);
    let channels = if header.n_components == 1 { 1 } else { 3 };
    if data.len() != height * width * channels {
        return Err("not a sound JPEG image: it has other sizes than its header says".into());
    }
    Ok(Pixels::new(data, height, width, channels))
}

fn read<R>(mut decoder: DecompressStarted<R>) -> std::io::Result<Vec<u8>> {
    decoder.read_scanlines()
}

/// As Pillow: CMYK in JPEG files is inverted, as Adobe's programs write it.
fn rgb_of_inverted_cmyk(cmyk: &[u8]) -> Vec<u8> {
    let rgb = |&[c, m, y, k]: &[u8; 4]| {
        [c, m, y].map(|ink| {
            let product = (255 - u32::from(ink)) * u32::from(k) + 128;
            k.saturating_sub(((product + (product >> 8)) >> 8) as u8)
        })
    };
    cmyk.as_chunks().0.iter().flat_map(rgb).collect()
}

/// The panic by which the decoder is left. No panic hook learns of it.
struct Refused(&'static str);

/// What the decoder calls when it cannot go on or would have to guess.
fn handler() -> jpeg_error_mgr {
    jpeg_error_mgr {
        error_exit: Some(refuse),
        emit_message: Some(refuse_guesses),
        output_message: Some(nothing),
        format_message: None,
        reset_error_mgr: Some(nothing),
        msg_code: 0,
        msg_parm: msg_parm_union::default(),
        trace_level: 0,
        num_warnings: 0,
        jpeg_message_table: std::ptr::null(),
        last_jpeg_message: 0,
        addon_message_table: std::ptr::null(),
        first_addon_message: 0,
        last_addon_message: 0,
    }
}

extern "C-unwind" fn refuse(_: &mut jpeg_common_struct) {
    resume_unwind(Box::new(Refused("it is damaged, or not as the standard has it")))
}

/// A negative level means damage, from which the decoder would recover by making up pixels. What it says about the header (of states
/// up to 202, which is "ready") is harmless: an unknown version, say.
extern "C-unwind" fn refuse_guesses(decoder: &mut jpeg_common_struct, level: std::ffi::c_int) {
    const READY: std::ffi::c_int = 202;
    if level < 0 && decoder.global_state > READY {
        resume_unwind(Box::new(Refused("its coded pixels are damaged or incomplete")));
    }
}

extern "C-unwind" fn nothing(_: &mut jpeg_common_struct) {}

/// Files for tests.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod testing {
    use mozjpeg::{ColorSpace, Compress};

    /// An RGB image of `width` columns as a baseline file.
    pub fn baseline(pixels_u8: &[u8], width: usize) -> Vec<u8> {
        let mut compress = Compress::new(ColorSpace::JCS_RGB);
        compress.set_size(width, pixels_u8.len() / 3 / width);
        compress.set_fastest_defaults();
        compress.set_quality(95.0);
        let mut started = compress.start_compress(Vec::new()).unwrap();
        started.write_scanlines(pixels_u8).unwrap();
        started.finish().unwrap()
    }
}
