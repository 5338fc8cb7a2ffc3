//! What a run reports to files: TensorBoard events and JSON lines.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::file;
use crate::record::write_record;

/// For how long at most a report waits in memory while TensorBoard watches the file.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// Writes a file of events that TensorBoard reads: records of protocol-buffer messages `Event`
/// (tensorflow/core/util/event.proto), each with its length and checksums.
#[derive(Debug)]
pub struct EventWriter {
    out: BufWriter<File>,
    path: PathBuf,
    flushed: Instant,
}

impl EventWriter {
    /// A new file in `folder`, beside those of earlier parts of the run. If the run goes on after step `resumed`,
    /// TensorBoard is told to forget what an interrupted part reported of later steps.
    ///
    /// # Errors
    /// When the folder or the file cannot be written.
    pub fn create(folder: &Path, resumed: Option<u64>) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        // TensorBoard reads the files in the order of their names, which therefore begin with the time; the number
        // keeps two writers of one second apart, and their order.
        let seconds = wall_time() as u64;
        let open = |n: u32| {
            let path = folder.join(format!("events.out.tfevents.{seconds:010}.{n:03}.ncsn"));
            File::options().write(true).create_new(true).open(&path).map(|file| (file, path))
        };
        let taken = |e: &std::io::Error| e.kind() == std::io::ErrorKind::AlreadyExists;
        let opened = (0..1000).map(open).find(|file| !file.as_ref().is_err_and(taken));
        let (file, path) = opened.unwrap_or_else(|| open(1000)).map_err(Error::io(folder))?;
        let mut writer = Self { out: BufWriter::new(file), path, flushed: Instant::now() };
        writer.event(0, |event| event.bytes(3, b"brain.Event:2"))?;
        if let Some(step) = resumed {
            // SessionLog { status: START }: what was reported of this step and later ones is void.
            writer.event(step + 1, |event| event.message(7, |log| log.varint(1, 1)))?;
        }
        Ok(writer)
    }

    /// A number.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn scalar(&mut self, tag: &str, value: f32, step: u64) -> Result<()> {
        self.summary(tag, step, |summary| summary.float(2, value))
    }

    /// A PNG picture.
    ///
    /// # Errors
    /// When `png` is no PNG file, or the file of events cannot be written.
    pub fn image(&mut self, tag: &str, png: &[u8], step: u64) -> Result<()> {
        // The header chunk comes first: signature, length and "IHDR", then width and height.
        let side = |at| png.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        let (Some(width), Some(height)) = (side(16), side(20)) else {
            return Err(Error::unexpected(format!("{} bytes", png.len()), "a PNG picture"));
        };
        self.summary(tag, step, |value| {
            value.message(4, |image| {
                image.varint(1, height.into());
                image.varint(2, width.into());
                image.varint(3, 3); // RGB
                image.bytes(4, png);
            });
        })
    }

    /// Hands what was reported to the operating system.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        self.out.flush().map_err(Error::io(&self.path))
    }

    fn summary(&mut self, tag: &str, step: u64, value: impl FnOnce(&mut Message)) -> Result<()> {
        self.event(step, |event| {
            event.message(5, |summary| {
                summary.message(1, |v| {
                    v.bytes(1, tag.as_bytes());
                    value(v);
                });
            });
        })
    }

    fn event(&mut self, step: u64, content: impl FnOnce(&mut Message)) -> Result<()> {
        let mut event = Message::default();
        event.double(1, wall_time());
        event.varint(2, step);
        content(&mut event);
        write_record(&mut self.out, &event.0).map_err(Error::io(&self.path))?;
        if self.flushed.elapsed() > FLUSH_INTERVAL { self.flush() } else { Ok(()) }
    }
}

fn wall_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// A protocol-buffer message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn message(&mut self, field: u64, content: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        content(&mut inner);
        self.bytes(field, &inner.0);
    }
}

/// The largest file of lines: those of ten million steps are smaller.
const MAX_BYTES: u64 = 2 << 30;

/// A file of JSON objects, one a line, each with a `step`.
#[derive(Debug)]
pub struct JsonLines {
    file: File,
    path: PathBuf,
}

impl JsonLines {
    /// Opens `path` to append. If the run goes on at `step`, lines of later steps, which an interrupted part wrote after
    /// its last checkpoint, are dropped, so that each step stands once.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        match file::read_at_most(path, MAX_BYTES) {
            Ok(bytes) => {
                // Some editors mark UTF-8 so.
                let lines = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
                let is_kept = |line: &&[u8]| up_to(line, step);
                let kept: Vec<u8> =
                    lines.split_inclusive(|&byte| byte == b'\n').filter(is_kept).flatten().copied().collect();
                if kept != bytes {
                    file::write_atomically(path, |out| out.write_all(&kept))?;
                }
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(value).expect("reports are plain data");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.path))
    }
}

/// Whether a whole line reports a step up to `step`; a cut one, from a killed program, does not count.
fn up_to(line: &[u8], step: u64) -> bool {
    let value: Option<serde_json::Value> = line.ends_with(b"\n").then(|| serde_json::from_slice(line).ok()).flatten();
    value.and_then(|v| v.get("step").and_then(serde_json::Value::as_u64)).is_some_and(|found| found <= step)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::record::{FOOTER_BYTES, HEADER_BYTES, is_sound, length};

    /// The messages of a file, each record's checksums checked.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = fs::read(path).unwrap();
        let mut rest = &bytes[..];
        let mut out = Vec::new();
        while !rest.is_empty() {
            let length = length(rest.first_chunk().unwrap()).expect("the length's checksum");
            let (data, behind) = rest[HEADER_BYTES..].split_at(length as usize);
            assert!(is_sound(data, *behind.first_chunk().unwrap()));
            out.push(data.to_vec());
            rest = &behind[FOOTER_BYTES..];
        }
        out
    }

    #[test]
    fn events_are_records_of_the_messages_that_tensorboard_defines() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path(), Some(299)).unwrap();
        writer.scalar("loss", 1.5, 301).unwrap();
        let png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x82\0\0\0\x02";
        writer.image("samples", png, 302).unwrap();
        writer.flush().unwrap();
        let records = records(&writer.path);
        // Field 1 is the wall time, nine bytes; then the step as a varint.
        assert_eq!(records[0][9..], [&[0x10, 0, 0x1a, 13][..], b"brain.Event:2"].concat());
        assert_eq!(records[1][9..], [0x10, 0xac, 0x02, 0x3a, 2, 0x08, 1]);
        let value = [&[0x0a, 4][..], b"loss", &[0x15], &1.5f32.to_le_bytes()].concat();
        assert_eq!(records[2][9..], [&[0x10, 0xad, 0x02, 0x2a, 13, 0x0a, 11][..], &value].concat());
        let image = [&[0x08, 2, 0x10, 0x82, 0x01, 0x18, 3, 0x22, 24][..], png].concat();
        let value = [&[0x0a, 7][..], b"samples", &[0x22, image.len() as u8], &image].concat();
        let head = [0x10, 0xae, 0x02, 0x2a, value.len() as u8 + 2, 0x0a, value.len() as u8];
        assert_eq!(records[3][9..], [&head[..], &value].concat());
    }

    #[test]
    fn two_writers_in_one_second_get_a_file_each() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..3 {
            EventWriter::create(folder.path(), None).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    #[test]
    fn lines_that_are_no_text_are_dropped_and_a_mark_of_utf_8_and_ends_of_windows_are_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines = b"\xef\xbb\xbf{\"step\":1}\r\n\xff\xfe\x00\n{\"step\":2}\n{\"step\":3,\"a\":\"\x80\"}\ntext\n{\"step\":4}\n";
        fs::write(&path, lines).unwrap();
        drop(JsonLines::open(&path, 3).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"{\"step\":1}\r\n{\"step\":2}\n");
    }

    #[test]
    fn a_resumed_run_has_each_step_once() {
        #[derive(Serialize)]
        struct Line {
            step: u64,
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut lines = JsonLines::open(&path, 0).unwrap();
        (1..=5).for_each(|step| lines.write(&Line { step }).unwrap());
        File::options().append(true).open(&path).unwrap().write_all(b"{\"step\":6,\"lo").unwrap();
        let mut lines = JsonLines::open(&path, 3).unwrap();
        (4..=5).for_each(|step| lines.write(&Line { step }).unwrap());
        let steps: String = (1..=5).map(|step| format!("{{\"step\":{step}}}\n")).collect();
        assert_eq!(fs::read_to_string(&path).unwrap(), steps);
    }
}
