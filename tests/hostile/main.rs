//! No reader of foreign files panics, takes much memory or long, whatever bytes its file has: small valid files of every
//! format, damaged in thousands of ways that are the same in every run. `NCSN_FUZZ_ROUNDS` makes it more than thousands, and
//! `NCSN_FUZZ_FORMAT` chooses formats by a part of their names: so came the table in `docs/fuzzing.md` about.

#![allow(clippy::unwrap_used)]

mod checkpoints;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::panic;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use checkpoints::{score_sde, zip};
use ncsn::checkpoint::pth::{Numbers, Pth, read_file, read_optimizer, read_published};
use ncsn::checkpoint::{Checkpoints, Header, TensorFile, Weights};
use ncsn::config::Config;
use ncsn::data::celeba::CelebA;
use ncsn::data::digits::Digits;
use ncsn::data::ffhq::Ffhq;
use ncsn::data::folder::read_image;
use ncsn::data::lmdb::Lmdb;
use ncsn::data::lsun::Lsun;
use ncsn::data::tfrecord::TfRecords;
use ncsn::data::{Pixels, Source, Split, cifar, idx, mat, unwatched};
use ncsn::error::Result;
use ncsn::eval::{
    ImageSet, ReadOptions, SmallClassifier, Statistics, StatisticsFile, read_statistics, write_statistics,
};
use ncsn::image::write_png;
use ncsn::net::{InputRange, Network, NetworkConfig, RefineNetConfig, params};
use ncsn::noise::Noise;
use ncsn::record::write_record;
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{Optimizer, OptimizerConfig, Rule, Trainer, TrainerState, TrainingOptions};

/// Reads every image of 3×8×8 pixels.
fn all_images(set: &dyn Source) -> Result<()> {
    (0..set.len()).try_for_each(|index| set.read(index, &mut [0; 3 * 64]))
}

/// Rounds for each format.
fn n_rounds() -> usize {
    std::env::var("NCSN_FUZZ_ROUNDS").map_or(2000, |n| n.parse().expect("a number of rounds"))
}

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

fn idx_labels() -> Vec<u8> {
    [&[0, 0, 8, 1, 0, 0, 0, 12][..], &[5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5]].concat()
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
    let labels = [
        element(6, &[9, 0, 0, 0, 0, 0, 0, 0]),
        element(5, &[2, 0, 0, 0, 1, 0, 0, 0]),
        [&word(1 << 16 | 1)[..], b"y\0\0\0"].concat(),
        [&word(2 << 16 | 2)[..], &[10, 7, 0, 0]].concat(),
    ];
    let variables = [labels.concat(), parts.concat()].map(|parts| {
        let variable = element(14, &parts);
        if !is_compressed {
            return variable;
        }
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&variable).unwrap();
        element(15, &encoder.finish().unwrap())
    });
    let mut bytes = b"MATLAB 5.0 MAT-file".to_vec();
    bytes.resize(124, b' ');
    [&bytes[..], &[0, 1, b'I', b'M'], &variables.concat()].concat()
}

/// The archive before gzip: damage to the gzip layer alone would never reach tar.
fn cifar_tar() -> Vec<u8> {
    let content = pixels(100);
    tar(cifar::BATCHES.map(|name| (format!("{}/{name}.bin", cifar::FOLDER_BIN), &content[..])))
}

/// A tar archive of the given names and contents.
pub fn tar<'a>(files: impl IntoIterator<Item = (impl AsRef<Path>, &'a [u8])>) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

const ADAM: OptimizerConfig = OptimizerConfig::new(Rule::ADAM, 1e-3);
/// Of the run whose weights and state are damaged.
const STEP: u64 = 3;

/// A run of a tiny network before its first step.
fn fresh() -> Trainer<Network> {
    let config = NetworkConfig::RefineNet(RefineNetConfig::ncsn(1, 2, 1));
    // It takes no step. (Of networks that could, and are dropped before one, Burn's graph keeps the memory.)
    let device = Device::flex();
    let net = Network::new(&config, &mut Noise::new(0).stream("init", 0), &device).unwrap();
    Trainer::new(Model::new(net, NoiseLevels::single(1.0).unwrap()), ADAM, TrainingOptions::default(), Noise::new(0))
}

/// The weights and the optimiser's state of a run, as we write them.
fn checkpoint() -> [Vec<u8>; 2] {
    let trainer = fresh();
    let weights: BTreeMap<_, _> = params::to_host(trainer.net()).unwrap().into_iter().collect();
    let moments = |key: &str| weights.get(key.split_once('.')?.1).cloned();
    let optimizer = Optimizer::from_host(ADAM, STEP, trainer.net(), moments).unwrap();
    let trainer = trainer.resume(TrainerState { step: STEP, optimizer, ema: None });
    let folder = tempfile::tempdir().unwrap();
    let header = Header {
        step: STEP,
        seed: 1,
        loss: Some(2.5),
        optimizer_steps: STEP,
        config: String::new(),
        precision: None,
        epoch: None,
        ema_updates: None,
    };
    let path = Checkpoints::new(folder.path()).save(&trainer, &header).unwrap();
    [fs::read(&path).unwrap(), fs::read(path.with_extension("state.safetensors")).unwrap()]
}

/// The tar format of PyTorch 0.1: a tensor of two items in a storage of three.
fn pth_tar() -> Vec<u8> {
    let storages = [
        &b"\x80\x02K\x01.\x80\x02(K\x05U\x03cpuctorch\nFloatStorage\nt.\x03\0\0\0\0\0\0\0"[..],
        &[1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat(),
        b"\x80\x02].",
    ]
    .concat();
    let tensors = [
        &b"\x80\x02K\x01.\x80\x02(K\x07K\x05ctorch\nFloatTensor\nt.\x01\0\0\0\0\0\0\0"[..],
        &[2_i64, 1, 1].map(i64::to_le_bytes).concat(),
    ]
    .concat();
    let pickle = b"\x80\x02]ccollections\nOrderedDict\n)RU\x01wU\x017Qsa.";
    tar([("sys_info", &b"\x80\x02}."[..]), ("pickle", pickle), ("tensors", &tensors), ("storages", &storages)])
}

/// Statistics of three features.
fn npz() -> Vec<u8> {
    let statistics =
        Statistics::new(Some(10), vec![0.5, -1.0, 2.0], vec![2.0, 0.5, 0.0, 0.5, 1.0, 0.25, 0.0, 0.25, 3.0]).unwrap();
    let text = |text: &str| Some(text.to_string());
    let (extractor, resize) = (text("inception"), text("compat"));
    let content = StatisticsFile { statistics, extractor, resize, weights_sha256: None };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("statistics.npz");
    write_statistics(&path, &content).unwrap();
    fs::read(path).unwrap()
}

/// Two images of 3 × 6 × 5 as NumPy writes them, bytes or floats.
fn npy_images(is_float: bool) -> Vec<u8> {
    let (descr, shape) = if is_float { ("<f4", "(2, 3, 6, 5)") } else { ("|u1", "(2, 6, 5, 3)") };
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    let content = if is_float { floats(180) } else { pixels(180) };
    [&b"\x93NUMPY\x01\0"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes(), &content].concat()
}

/// The same as `ncsn sample --raw` writes them.
fn samples() -> Vec<u8> {
    let header = br#"{"samples":{"dtype":"F32","shape":[2,3,6,5],"data_offsets":[0,720]}}"#;
    [&(header.len() as u64).to_le_bytes()[..], header, &floats(180)].concat()
}

/// Numbers from 0 to 1.
fn floats(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| ((i * 31 % 253) as f32 / 252.0).to_le_bytes()).collect()
}

/// A classifier behind FID-small, hardly trained.
fn classifier() -> Vec<u8> {
    let set = Digits::new(8, 1, Split::Train).unwrap().labelled(10).unwrap();
    let (images, labels_u8) = (set.images(), set.labels_u8());
    let trained = SmallClassifier::train_for(1, images, labels_u8, 1, &Device::flex(), &mut |_, _, _| Ok(())).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.safetensors");
    trained.described("DIGITS", Some(0.5)).unwrap().save(&path).unwrap();
    fs::read(path).unwrap()
}

/// A `tf.train.Example` with an image of 3×8×8 pixels.
fn example() -> Vec<u8> {
    // Fields of bytes, each of fewer than 2¹⁴.
    let field = |number: u8, content: &[u8]| {
        let n = content.len();
        let length = if n < 128 { vec![n as u8] } else { vec![n as u8 | 0x80, (n >> 7) as u8] };
        [&[number << 3 | 2][..], &length, content].concat()
    };
    let feature = |name: &[u8], value: &[u8]| field(1, &[field(1, name), field(2, value)].concat());
    let shape = feature(b"shape", &field(3, &field(1, &[3, 8, 8])));
    let data = feature(b"data", &field(1, &field(1, &pixels(192))));
    field(1, &[shape, data].concat())
}

/// A file of two equal records.
fn records(content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    (0..2).for_each(|_| write_record(&mut bytes, content).unwrap());
    bytes
}

/// One of `tests/fixtures/images`.
fn image(name: &str) -> Vec<u8> {
    fixture(&format!("images/{name}"))
}

/// A PNG file of the same pixels with the checksums that its chunks should have.
fn with_checksums(png: &[u8]) -> Vec<u8> {
    let (mut bytes, mut at) = (png.to_vec(), 8);
    while let Some(&[a, b, c, d]) = bytes.get(at..at + 4).and_then(|n| n.first_chunk()) {
        let n = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some(content) = bytes.get(at + 4..at.saturating_add(n).saturating_add(8)) else { break };
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let end = at + 8 + n;
        if let Some(place) = bytes.get_mut(end..end + 4) {
            place.copy_from_slice(&crc.sum().to_be_bytes());
        }
        at = end + 4;
    }
    bytes
}

/// The most memory that this process has had so far, where the system tells.
fn peak_memory_bytes() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

#[test]
fn damaged_files_never_panic_or_take_much_memory_or_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    type Read = fn(&Path) -> Result<()>;
    type Pack = fn(&[u8]) -> Vec<u8>;
    let idx: Read = |path| idx::read_images(path).map(drop);
    let idx_label: Read = |path| idx::read_labels(path).map(drop);
    let bin: Read = |path| cifar::read_bin(&[path.to_path_buf()]).map(drop);
    let pickle: Read = |path| cifar::read_pickle(&[path.to_path_buf()]).map(drop);
    let mat: Read = |path| mat::read_images(path).map(drop);
    let mat_label: Read = |path| {
        let labels_u8 = mat::read_labels(path)?;
        assert!(labels_u8.iter().all(|&label| label < 10));
        Ok(())
    };
    let unpack: Read = |path| {
        let unpacked = cifar::unpack(path, path.parent().unwrap());
        let _ = fs::remove_dir_all(path.with_file_name(cifar::FOLDER_BIN));
        unpacked
    };
    let (as_is, gzipped): (Pack, Pack) = (<[u8]>::to_vec, gzip);

    let published: Read = |path| read_published(path).map(drop);
    let optimizer: Read = |path| read_optimizer(path).map(drop);
    // Every kind of tensor, each reached by its place.
    let mixed: Read = |path| {
        let (bytes, mut scratch) = (read_file(path)?, Vec::new());
        let pth = Pth::parse(path, &bytes, &mut scratch)?;
        for name in ["weight", "transposed", "rows_2_4", "every_second_column"] {
            let read = pth.tensor(&["0", &format!("module.a.{name}")])?;
            assert!(read.is_none_or(|(shape, numbers)| match numbers {
                Numbers::F32(numbers) => shape.iter().product::<usize>() == numbers.len(),
                Numbers::I64(numbers) => shape.iter().product::<usize>() == numbers.len(),
            }));
        }
        for name in ["b.int64", "b.bool", "b.float16", "b.bfloat16", "c.expanded", "c.shared_1", "p.parameter"] {
            pth.tensor(&["0", &format!("module.{name}")])?;
        }
        Ok(())
    };
    let weights_of: Read = |path| {
        let file = TensorFile::open(path)?;
        for name in file.names() {
            let _ = (file.get(name)?, file.integers(name));
        }
        let weights = Weights::open(path)?;
        weights.build(InputRange::Unit, true, &Device::flex()).map(drop)
    };
    // Beside the whole weights.
    let state_of: Read = |path| {
        let checkpoints = Checkpoints::new(path.with_file_name("run"));
        fs::copy(path, checkpoints.weights_path(STEP).with_extension("state.safetensors")).unwrap();
        checkpoints.open(STEP)?.resume(ADAM, fresh()).map(drop)
    };
    let [weights, state] = checkpoint();
    fs::create_dir(folder.path().join("run")).unwrap();
    fs::write(Checkpoints::new(folder.path().join("run")).weights_path(STEP), &weights).unwrap();
    let statistics: Read = |path| read_statistics(path).map(drop);
    let small: Read = |path| SmallClassifier::open(path, &Device::flex()).map(drop);
    let images: Read = |path| {
        let set = ImageSet::open(path, &ReadOptions::default())?;
        let pixels_u8 = set.read(0..set.len())?;
        assert_eq!(pixels_u8.len(), 3 * set.len() * set.size().iter().product::<usize>());
        Ok(())
    };
    // As a folder of one image, by its header, and with all its pixels.
    let one_image: Read = |path| {
        let folder = path.with_file_name("folder");
        let image = folder.join("image.png");
        fs::create_dir_all(&folder).unwrap();
        fs::copy(path, &image).unwrap();
        let header = ImageSet::open(&folder, &ReadOptions::default());
        let pixels_u8 = read_image(&image, 3, 8)?;
        assert_eq!(pixels_u8.len(), 3 * 8 * 8);
        let set = header.expect("what can be decoded has a sound header");
        assert_eq!(set.read(0..1)?.len(), 3 * set.size().iter().product::<usize>());
        Ok(())
    };
    // A list of images that are there.
    let celeba: Read = |path| {
        let root = path.with_file_name("celeba");
        if !root.exists() {
            fs::create_dir_all(root.join("img_align_celeba")).unwrap();
            for name in ["1.jpg", "2.jpg"] {
                let image = Pixels::new(vec![7; 140 * 140], 140, 140, 1);
                write_png(&root.join("img_align_celeba").join(name), &image).unwrap();
            }
        }
        fs::copy(path, root.join("list_eval_partition.txt")).unwrap();
        let set = CelebA::open(&root, Split::Train, 1, 8, &mut unwatched)?;
        (0..set.len()).try_for_each(|index| set.read(index, &mut [0; 64]))
    };
    let lmdb: Read = |path| {
        let (database, mut positions) = (Lmdb::open(path)?, Vec::new());
        database.walk(&mut unwatched, |_, position| positions.push(position))?;
        positions.into_iter().try_for_each(|position| database.entry(position).map(drop))
    };
    let lsun: Read = |path| {
        let root = path.with_file_name("lsun");
        fs::create_dir_all(&root).unwrap();
        fs::copy(path, root.join("tower_train_lmdb")).unwrap();
        all_images(&Lsun::open(&root, "tower", Split::Train, 3, 8, &mut unwatched)?)
    };
    let ffhq: Read = |path| all_images(&Ffhq::open(path, Split::Train, 3, 8, &mut unwatched)?);
    let tfrecords: Read = |path| all_images(&TfRecords::open(path, 3, 8, &mut unwatched)?);
    let npz_of: Pack = |npy| zip(&[("samples.npy", npy, false)]);
    let packed_npz_of: Pack = |npy| zip(&[("samples.npy", npy, true)]);
    let yaml: Read = |path| Config::load(&path.display().to_string(), &[], None).map(drop);

    type Format = (&'static str, Vec<u8>, Pack, Read);
    // Damage, then pack: so damage reaches what lies inside the compression, too.
    let formats: [Format; 41] = [
        ("IDX", idx_file(), as_is, idx),
        ("IDX in gzip", idx_file(), gzipped, idx),
        ("gzipped IDX", gzip(&idx_file()), as_is, idx),
        ("labels in IDX", idx_labels(), as_is, idx_label),
        ("labels in IDX in gzip", idx_labels(), gzipped, idx_label),
        ("labels in gzipped IDX", gzip(&idx_labels()), as_is, idx_label),
        ("CIFAR-10, binary", cifar_bin(), as_is, bin),
        ("CIFAR-10, Python 2", cifar_python_2(), as_is, pickle),
        ("CIFAR-10, Python 3", cifar_python_3(), as_is, pickle),
        ("MATLAB", mat_file(false), as_is, mat),
        ("compressed MATLAB", mat_file(true), as_is, mat),
        ("labels in MATLAB", mat_file(false), as_is, mat_label),
        ("labels in compressed MATLAB", mat_file(true), as_is, mat_label),
        ("CIFAR-10's archive", cifar_tar(), gzipped, unpack),
        ("CIFAR-10's gzipped archive", gzip(&cifar_tar()), as_is, unpack),
        ("LMDB database", fixture("lmdb/small.mdb"), as_is, lmdb),
        ("LMDB database of three levels", fixture("lmdb/long_keys.mdb"), as_is, lmdb),
        ("LMDB database with overflow pages", fixture("lmdb/overflow.mdb"), as_is, lmdb),
        ("TFRecords", records(&example()), as_is, tfrecords),
        ("TFRecords with sound checksums", example(), records, tfrecords),
        ("configuration", include_bytes!("../../configs/anneal.yml").to_vec(), as_is, yaml),
        ("ScoreNet's configuration", include_bytes!("../../configs/scorenet.yml").to_vec(), as_is, yaml),
        ("our weights", weights, as_is, weights_of),
        ("our run", state, as_is, state_of),
        ("NumPy's statistics", npz(), as_is, statistics),
        ("NumPy's images", npy_images(false), as_is, images),
        ("NumPy's images in f32", npy_images(true), as_is, images),
        ("NumPy's images in an archive", npy_images(false), npz_of, images),
        ("NumPy's images in a compressed archive", npy_images(true), packed_npz_of, images),
        ("NumPy's archive of images", npz_of(&npy_images(false)), as_is, images),
        ("our samples", samples(), as_is, images),
        ("a small classifier", classifier(), as_is, small),
        ("PyTorch's zip", fixture("pth_reader/mixed_zip.pth"), as_is, mixed),
        ("PyTorch's stream", fixture("pth_reader/mixed_legacy.pth"), as_is, mixed),
        ("PyTorch's old checkpoint", fixture("pth_reader/old_style_checkpoint.pth"), as_is, published),
        ("PyTorch's older checkpoint", fixture("pth_reader/older_style_checkpoint.pth"), as_is, published),
        ("PyTorch's tar", pth_tar(), as_is, published),
        ("Score-SDE's checkpoint", score_sde(), as_is, published),
        ("Adam's state", fixture("ncsn/optimizers_arithmetic/optimizer_state_adam_amsgrad.pth"), as_is, optimizer),
        ("RMSProp's state", fixture("ncsn/optimizers_arithmetic/optimizer_state_rmsprop.pth"), as_is, optimizer),
        ("SGD's state", fixture("ncsn/optimizers_arithmetic/optimizer_state_sgd_momentum_0.9.pth"), as_is, optimizer),
    ];
    // Decoders may panic, if that becomes an error. Whatever else panics fails the test.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !ncsn::guard::is_guarded() {
            hook(panic);
        }
    }));
    // Of images a header alone can claim many pixels, which the file then has by chance.
    let images: [Format; 17] = [
        ("JPEG image, baseline", image("420.jpg"), as_is, one_image),
        ("JPEG image, progressive", image("420_progressive.jpg"), as_is, one_image),
        ("JPEG image, separate scans", image("420_separate.jpg"), as_is, one_image),
        ("JPEG image, coarse luma", image("coarse_luma.jpg"), as_is, one_image),
        ("JPEG image, CMYK", image("cmyk.jpg"), as_is, one_image),
        ("PNG image", image("rgb.png"), as_is, one_image),
        ("PNG image, sound checksums", image("rgb.png"), with_checksums, one_image),
        ("PNG image, palette, sound checksums", image("palette_transparent.png"), with_checksums, one_image),
        ("WebP image, lossy", image("lossy.webp"), as_is, one_image),
        ("WebP image, lossless", image("lossless.webp"), as_is, one_image),
        ("BMP image", image("rgb.bmp"), as_is, one_image),
        ("BMP image, palette", image("palette.bmp"), as_is, one_image),
        ("GIF image", image("palette.gif"), as_is, one_image),
        ("GIF image, animated", image("animated.gif"), as_is, one_image),
        ("LSUN's database", fixture("lmdb/church_outdoor_val_lmdb/data.mdb"), as_is, lsun),
        ("FFHQ's database", fixture("lmdb/ffhq/data.mdb"), as_is, ffhq),
        ("CelebA's list", b"1.jpg 0\n2.jpg 0\n3.jpg 1\n4.jpg 2\r\n".to_vec(), as_is, celeba),
    ];
    let n_rounds = n_rounds();
    let before = peak_memory_bytes();
    let mut random = XorShift(0x9e37_79b9_7f4a_7c15);
    let chosen = std::env::var("NCSN_FUZZ_FORMAT").unwrap_or_default();
    let mut check = |formats: &[Format], longest: Duration, most_bytes: usize| {
        let mut slowest = Duration::ZERO;
        for (name, valid, pack, read) in formats.iter().filter(|(name, ..)| name.contains(&chosen)) {
            fs::write(&path, pack(valid)).unwrap();
            read(&path).unwrap_or_else(|error| panic!("{name}: the undamaged file is refused: {error}"));
            let (mut n_refused, started) = (0, Instant::now());
            for _ in 0..n_rounds {
                fs::write(&path, pack(&damage(valid, &mut random))).unwrap();
                let begun = Instant::now();
                if let Err(error) = read(&path) {
                    n_refused += 1;
                    // What an error quotes of a file is harmless on a terminal.
                    let message = error.to_string();
                    assert!(!message.contains(char::is_control), "{name}: {message:?}");
                }
                slowest = slowest.max(begun.elapsed());
            }
            println!("{name}: {n_rounds} executions in {:.0?}, {n_refused} refused", started.elapsed());
            // Damage to a pixel or a comment goes unseen where there is no checksum; some other damage must not.
            assert!(n_refused > n_rounds / 20, "{name}: only {n_refused} of {n_rounds} damaged files were refused");
        }
        println!("the slowest took {slowest:?}");
        assert!(slowest < longest, "one took {slowest:?}");
        if let (Some(before), Some(after)) = (before, peak_memory_bytes()) {
            println!("memory grew by {} bytes", after - before);
            assert!(after - before < most_bytes, "memory grew by {} bytes", after - before);
        }
    };
    // Every file is below 150 kB, but for the classifier of 1.1 MB; the largest buffers are the decompressors' and the
    // readers' own, far below 32 MiB.
    check(&formats, Duration::from_secs(1), 32 << 20);
    // What an image may take.
    check(&images, Duration::from_secs(5), 1 << 30);
}
