//! No reader of data sets panics or takes much memory, whatever bytes its file has: small valid files of every format,
//! damaged in thousands of ways that are the same in every run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;

use ncsn::data::{cifar, idx, mat};
use ncsn::error::Result;

/// Rounds for each format.
const N_ROUNDS: usize = 2000;

/// Marsaglia's xorshift64.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Flips, overwrites, cuts, inserts, repeats: one to four times, half of them near the start, where the headers are.
fn damage(bytes: &[u8], random: &mut XorShift) -> Vec<u8> {
    const TELLING: [u8; 10] = [0x00, 0x01, 0x7f, 0x80, 0xff, b'R', b'b', b'(', b't', 0x93];
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let reach = if random.below(2) == 0 { bytes.len().min(320) } else { bytes.len() };
        let at = random.below(reach);
        let value = if random.below(2) == 0 { TELLING[random.below(TELLING.len())] } else { random.next() as u8 };
        let end = (at + 1 + random.below(12)).min(bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = value,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, value),
            4 if at < end => drop(bytes.drain(at..end)),
            5 if at < end => bytes[at..end].fill(value),
            6 if at < end => {
                let copy = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {}
        }
    }
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn pixels(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|i| (i * 31 % 253) as u8).collect()
}

fn idx_file() -> Vec<u8> {
    [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 7][..], &pixels(70)].concat()
}

fn cifar_bin() -> Vec<u8> {
    [&[3][..], &pixels(3072), &[9], &pixels(3072)].concat()
}

/// A batch of one image as Python 2 wrote it.
fn cifar_python_2() -> Vec<u8> {
    [
        &b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03K\x06aU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\n\
           ndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09(\
           K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x0c\x00\x00"[..],
        &pixels(3072),
        b"tbu.",
    ]
    .concat()
}

/// The same as Python 3 writes it in protocol 5.
fn cifar_python_3() -> Vec<u8> {
    [
        &b"\x80\x05\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(C\x06labels\x94]\x94K\x06aC\x04data\x94\x8c\x13\
           numpy._core.numeric\x94\x8c\x0b_frombuffer\x94\x93\x94(\x96\x00\x0c\x00\x00\x00\x00\x00\x00"[..],
        &pixels(3072),
        b"\x94\x8c\x05numpy\x94\x8c\x05dtype\x94\x93\x94\x8c\x02u1\x94\x89\x88\x87\x94R\x94(K\x03\x8c\x01|\x94NNN\
          J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t\x94bK\x01M\x00\x0c\x86\x94\x8c\x01C\x94t\x94R\x94u.",
    ]
    .concat()
}

fn mat_file(is_compressed: bool) -> Vec<u8> {
    let word = |n: usize| (n as u32).to_le_bytes();
    let element = |kind: usize, content: &[u8]| [&word(kind), &word(content.len()), content].concat();
    let dims: Vec<u8> = [32, 32, 3, 2].into_iter().flat_map(word).collect();
    let parts = [
        element(6, &[9, 0, 0, 0, 0, 0, 0, 0]),
        element(5, &dims),
        [&word(1 << 16 | 1)[..], b"X\0\0\0"].concat(),
        element(2, &pixels(6144)),
    ];
    let mut x = element(14, &parts.concat());
    if is_compressed {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&x).unwrap();
        x = element(15, &encoder.finish().unwrap());
    }
    let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
    bytes.resize(124, b' ');
    [&bytes[..], &[0, 1, b'I', b'M'], &x].concat()
}

/// The archive before gzip: damage to the gzip layer alone would never reach tar.
fn cifar_tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for name in cifar::BATCHES {
        let mut header = tar::Header::new_ustar();
        header.set_path(format!("{}/{name}.bin", cifar::FOLDER_BIN)).unwrap();
        header.set_size(100);
        header.set_cksum();
        builder.append(&header, &pixels(100)[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The most memory that this process has had so far, where the system tells.
fn peak_memory_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

#[test]
fn damaged_files_never_panic_or_take_much_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    type Read = fn(&Path) -> Result<()>;
    type Pack = fn(&[u8]) -> Vec<u8>;
    let idx: Read = |path| idx::read_images(path).map(drop);
    let bin: Read = |path| cifar::read_bin(&[path.to_path_buf()]).map(drop);
    let pickle: Read = |path| cifar::read_pickle(&[path.to_path_buf()]).map(drop);
    let mat: Read = |path| mat::read_images(path).map(drop);
    let unpack: Read = |path| {
        let unpacked = cifar::unpack(path, path.parent().unwrap());
        let _ = fs::remove_dir_all(path.with_file_name(cifar::FOLDER_BIN));
        unpacked
    };
    let (as_is, gzipped): (Pack, Pack) = (<[u8]>::to_vec, gzip);

    // Damage, then pack: so damage reaches what lies inside the compression, too.
    let formats: [(&str, Vec<u8>, Pack, Read); 10] = [
        ("IDX", idx_file(), as_is, idx),
        ("IDX in gzip", idx_file(), gzipped, idx),
        ("gzipped IDX", gzip(&idx_file()), as_is, idx),
        ("CIFAR-10, binary", cifar_bin(), as_is, bin),
        ("CIFAR-10, Python 2", cifar_python_2(), as_is, pickle),
        ("CIFAR-10, Python 3", cifar_python_3(), as_is, pickle),
        ("MATLAB", mat_file(false), as_is, mat),
        ("compressed MATLAB", mat_file(true), as_is, mat),
        ("CIFAR-10's archive", cifar_tar(), gzipped, unpack),
        ("CIFAR-10's gzipped archive", gzip(&cifar_tar()), as_is, unpack),
    ];
    let before = peak_memory_bytes();
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    for (name, valid, pack, read) in formats {
        fs::write(&path, pack(&valid)).unwrap();
        read(&path).unwrap_or_else(|error| panic!("{name}: the undamaged file is refused: {error}"));
        let mut n_refused = 0;
        for _ in 0..N_ROUNDS {
            fs::write(&path, pack(&damage(&valid, &mut random))).unwrap();
            n_refused += usize::from(read(&path).is_err());
        }
        // Damage to a pixel goes unseen where there is no checksum; most other damage must not.
        assert!(n_refused > N_ROUNDS / 4, "{name}: only {n_refused} of {N_ROUNDS} damaged files were refused");
    }
    if let (Some(before), Some(after)) = (before, peak_memory_bytes()) {
        // Every file is below 10 kB; the largest buffers are the decompressors' and the readers' own, far below this.
        assert!(after - before < 32 << 20, "memory grew by {} bytes", after - before);
    }
}
