//! No checkpoint makes the reader execute anything, panic, or take much time or memory, whatever bytes it has; and what
//! is refused is refused in one line.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ncsn::checkpoint::pth::{
    Group, Members, OptimizerState, Progress, Published, Setting, StateValue, write_published,
};
use ncsn::config::Program;
use ncsn::net::params::HostTensor;

/// Reads; checks that it is fast, and that an error is one line without control characters.
fn read(bytes: &[u8]) -> Result<Published, String> {
    let start = Instant::now();
    let result = Published::parse(Path::new("f"), bytes).map_err(|error| error.to_string());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?} for {result:?}", start.elapsed());
    if let Err(message) = &result {
        assert!(
            message.starts_with("f: ") && message.len() < 1000 && !message.contains(char::is_control),
            "{message:?}"
        );
    }
    result
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let message = read(bytes).unwrap_err();
    assert!(message.contains(expected), "{message:?}; expected {expected:?}");
}

/// A file of a zip archive: name, content, whether it is to be packed.
pub type File<'a> = (&'a str, &'a [u8], bool);

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A zip archive.
pub fn zip(files: &[File<'_>]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content, is_packed) in files {
        let packed = if *is_packed { deflate(content) } else { content.to_vec() };
        let header = [
            &[0, 0, if *is_packed { 8 } else { 0 }, 0, 0, 0, 0, 0][..],
            &crc(content).to_le_bytes(),
            &(packed.len() as u32).to_le_bytes(),
            &(content.len() as u32).to_le_bytes(),
            &(name.len() as u32).to_le_bytes(),
        ]
        .concat();
        directory.extend([b"PK\x01\x02\x14\0\x14\0", &header[..], &[0; 10]].concat());
        directory.extend((bytes.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        bytes.extend([b"PK\x03\x04\x14\0", &header[..], name.as_bytes(), &packed].concat());
    }
    end(bytes, &directory, files.len())
}

fn end(bytes: Vec<u8>, directory: &[u8], n_files: usize) -> Vec<u8> {
    let n_files = (n_files as u16).to_le_bytes();
    let sizes = [directory.len() as u32, bytes.len() as u32].map(u32::to_le_bytes).concat();
    [&bytes, directory, b"PK\x05\x06\0\0\0\0", &n_files, &n_files, &sizes, &[0, 0]].concat()
}

fn checkpoint(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("x/data.pkl", pickle, false), ("x/data/0", storage, false)])
}

/// The stream format, with one storage.
fn stream(pickle: &[u8], storages: &[u8]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [&magic[..], pickle, b"\x80\x02]X\x01\0\0\x000a.", storages].concat()
}

fn long(n: i64) -> Vec<u8> {
    [&[0x8a, 8][..], &n.to_le_bytes()].concat()
}

/// The opcodes that make a tensor of f32 in storage "0".
fn tensor(n_stored: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tuple = |sizes: &[i64]| [b"(", &sizes.iter().flat_map(|&n| long(n)).collect::<Vec<_>>()[..], b"t"].concat();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu",
        &long(n_stored)[..],
        b"tQ",
        &long(offset),
        &tuple(shape),
        &tuple(strides),
        b"\x89NtR",
    ]
    .concat()
}

/// The pickle of `[{"a": tensor}]`.
fn network(tensor: &[u8]) -> Vec<u8> {
    [b"\x80\x02]}X\x01\0\0\0a", tensor, b"sa."].concat()
}

/// The archive that PyTorch 0.1 would have written of a tensor of 3 of 4 items.
fn tar() -> Vec<u8> {
    let pickle = b"\x80\x02]ccollections\nOrderedDict\n](](U\x01aU\x017Qee\x85Ra.";
    let word = |n: u64| n.to_le_bytes();
    let storages = [
        &b"\x80\x02K\x01.\x80\x02(K\x05U\x03cpuctorch\nFloatStorage\nt."[..],
        &word(4),
        &[0, 0, 128, 63].repeat(4),
        b"\x80\x02](K\x06K\x05K\x01K\x03ta.",
    ];
    let tensors = [
        &b"\x80\x02K\x01.\x80\x02(K\x07K\x06ctorch\nFloatTensor\nt."[..],
        &[word(1), word(3), word(1), word(0)].concat(),
    ];
    crate::tar([
        ("sys_info", &b"\x80\x02}."[..]),
        ("pickle", pickle),
        ("tensors", &tensors.concat()),
        ("storages", &storages.concat()),
    ])
}

/// A small checkpoint with everything in it.
fn written() -> Vec<u8> {
    let tensor = |shape: &[usize]| HostTensor {
        shape: shape.to_vec(),
        values: (0..shape.iter().product()).map(|i: usize| i as f32).collect(),
    };
    let kept = [
        ("step", StateValue::Tensor(tensor(&[]))),
        ("exp_avg", StateValue::Tensor(tensor(&[2, 3]))),
        ("n", StateValue::Int(70_000)),
        ("none", StateValue::None),
    ];
    let settings = [
        ("lr", Setting::Float(0.001)),
        ("betas", Setting::Floats(vec![0.9, 0.999])),
        ("amsgrad", Setting::Bool(false)),
        ("foreach", Setting::None),
        ("n", Setting::Int(-1)),
    ];
    let optimizer = OptimizerState {
        groups: vec![Group { params: vec![0, 140_000_000_000_000], settings: settings.into_iter().collect() }],
        state: BTreeMap::from([(140_000_000_000_000, kept.into_iter().collect())]),
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint.pth");
    let network = vec![("a.weight".to_string(), tensor(&[2, 3])), ("b".into(), tensor(&[0, 4]))];
    let written = Published {
        ema: Some(network.clone()),
        ema_updates: None,
        ema_rate: None,
        program: Program::NcsnV2,
        f64s: BTreeMap::from([("b".to_string(), Vec::new())]),
        network,
        prefix: "module.".into(),
        optimizer: Some(optimizer),
        progress: Some(Progress { epoch: Some(3), step: 70_000 }),
        members: Members {
            weights: "item 1 of a list".into(),
            ema: Some("item 5 of a list".into()),
            only_average: false,
        },
    };
    write_published(&path, &written).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(read(&bytes).unwrap(), written);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(name, value)| [text(name), value.clone()].concat()).collect();
    [b"}(", &items[..], b"u"].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", &items.concat()[..], b"e"].concat()
}

/// A container of the pickle of `value`, whose tensors are in the storage of the numbers 0 to 5.
fn containers(value: &[u8]) -> [Vec<u8>; 2] {
    let pickle = [b"\x80\x02", value, b"."].concat();
    let storage: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let with_length = [&6_u64.to_le_bytes()[..], &storage].concat();
    [checkpoint(&pickle, &storage), stream(&pickle, &with_length)]
}

const NAMESPACE: &[u8] = b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG?\xe0\0\0\0\0\0\0sb";
const DEVICE: &[u8] = b"ctorch\ndevice\nX\x04\0\0\0cudaK\0\x86R";

/// The weights a.weight = [[0, 1], [2, 3]] and b = [4, 5], and [[2, 3], [4, 5]] and [0, 1], their average.
fn weights(prefix: &str) -> Vec<u8> {
    dict(&[
        (&format!("{prefix}a.weight"), tensor(6, 0, &[2, 2], &[2, 1])),
        (&format!("{prefix}b"), tensor(6, 4, &[2], &[1])),
    ])
}

fn averages() -> [Vec<u8>; 2] {
    [tensor(6, 2, &[2, 2], &[2, 1]), tensor(6, 0, &[2], &[1])]
}

fn average() -> Vec<u8> {
    let [a, b] = averages();
    dict(&[("a.weight", a), ("b", b)])
}

/// What Score-SDE saves, with plain things beside it.
pub fn score_sde() -> Vec<u8> {
    let shadow = dict(&[
        ("decay", b"G?\xef\xf7\xce\xd9\x16\x87+".to_vec()),
        ("num_updates", b"K\x07".to_vec()),
        ("shadow_params", list(&averages())),
    ]);
    let optimizer = dict(&[("state", b"}".to_vec()), ("param_groups", b"]".to_vec())]);
    let value = dict(&[
        ("optimizer", optimizer),
        ("model", weights("module.")),
        ("ema", shadow),
        ("step", b"K\x07".to_vec()),
        ("args", NAMESPACE.to_vec()),
        ("device", DEVICE.to_vec()),
        ("seen", b"c__builtin__\nset\n](K\x01K\x02e\x85R".to_vec()),
        ("path", b"cpathlib\nPosixPath\nX\x03\0\0\0tmp\x85R".to_vec()),
        ("counts", b"ccollections\ndefaultdict\nc__builtin__\nint\n\x85R(X\x01\0\0\0aK\x02u".to_vec()),
    ]);
    containers(&value)[0].clone()
}

fn small_stream() -> Vec<u8> {
    stream(&network(&tensor(6, 1, &[2, 2], &[1, 2])), &[&6_u64.to_le_bytes()[..], &[0, 0, 128, 63].repeat(6)].concat())
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

#[test]
fn the_files_that_are_damaged_here_are_whole() {
    let values = |bytes: &[u8]| read(bytes).unwrap().network.remove(0).1.values;
    assert_eq!(values(&tar()), [1.0; 3]);
    assert_eq!(values(&small_stream()), [1.0; 4]);
    assert_eq!(values(&written()), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn every_usual_form_is_read_and_says_which_parts_were_taken() {
    let float = b"G?\xe0\0\0\0\0\0\0".to_vec();
    let shadow_params = |tensors: &[Vec<u8>]| dict(&[("decay", float.clone()), ("shadow_params", list(tensors))]);
    let five = |average| {
        let optimizer = dict(&[("state", b"}".to_vec()), ("param_groups", b"]".to_vec())]);
        list(&[weights("module."), optimizer, b"K\x01".to_vec(), b"K\x02".to_vec(), average])
    };
    let [first, _] = averages();
    let one = |name: &str, value| dict(&[("epoch", b"K\x03".to_vec()), (name, value), ("args", NAMESPACE.to_vec())]);
    let two = |weights_name: &str, name: &str, average| dict(&[(name, average), (weights_name, weights("module."))]);
    let with_shadow = dict(&[("mu", float.clone()), ("shadow", average())]);
    let whole = [2.0, 3.0, 4.0, 5.0, 0.0, 1.0];
    /// A file, what its network is made of, and what its average is.
    type Form = (Vec<u8>, &'static str, Option<(&'static str, [f32; 6])>);
    let cases: [Form; 16] = [
        (weights(""), "the whole file", None),
        (list(&[weights("")]), "item 1 of a list", None),
        (one("state_dict", weights("module.")), "\"state_dict\"", None),
        (one("model_state_dict", weights("_orig_mod.")), "\"model_state_dict\"", None),
        (one("model", weights("module._orig_mod.")), "\"model\"", None),
        (one("net", weights("module.module.")), "\"net\"", None),
        (one("ema", weights("")), "\"ema\"", None),
        (one("params_ema", weights("")), "\"params_ema\"", None),
        (two("model", "ema", float.clone()), "\"model\"", None),
        (two("model", "ema", average()), "\"model\"", Some(("\"ema\"", whole))),
        (two("params", "params_ema", average()), "\"params\"", Some(("\"params_ema\"", whole))),
        (two("state_dict", "ema", with_shadow), "\"state_dict\"", Some(("\"ema\"", whole))),
        (two("model", "ema", shadow_params(&averages())), "\"model\"", Some(("\"ema\"", whole))),
        (five(average()), "item 1 of a list", Some(("item 5 of a list", whole))),
        // What is not averaged is the network's, which is said.
        (
            five(dict(&[("a.weight", first)])),
            "item 1 of a list",
            Some(("item 5 of a list, without b", [2.0, 3.0, 4.0, 5.0, 4.0, 5.0])),
        ),
        (five(b"N".to_vec()), "item 1 of a list", None),
    ];
    for (value, weights, average) in cases {
        for bytes in containers(&value) {
            let read = read(&bytes).unwrap();
            let values = |network: &[(String, HostTensor)]| -> Vec<f32> {
                assert_eq!(network.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a.weight", "b"]);
                network.iter().flat_map(|(_, tensor)| tensor.values.clone()).collect()
            };
            assert_eq!(values(&read.network), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            assert_eq!((read.members.weights.as_str(), read.members.ema.as_deref()), (weights, average.map(|a| a.0)));
            assert_eq!(read.ema.as_deref().map(values), average.map(|a| a.1.to_vec()), "{weights}");
        }
    }
    let read = read(&score_sde()).unwrap();
    assert!(read.ema.is_some() && read.optimizer.is_some());
    assert_eq!(read.ema_updates, Some(7));
}

#[test]
fn an_average_without_names_is_in_the_order_of_the_parameters() {
    let vector = |offset| tensor(6, offset, &[2], &[1]);
    let matrix = |offset| tensor(6, offset, &[2, 1], &[1, 1]);
    let network = dict(&[
        ("module.sigmas", vector(0)),
        ("module.embed.W", vector(1)),
        ("module.attention.W", matrix(2)),
        ("module.norm.running_mean", vector(3)),
    ]);
    let read_with = |averages: &[Vec<u8>]| {
        let value = dict(&[("model", network.clone()), ("ema", dict(&[("shadow_params", list(averages))]))]);
        read(&containers(&value)[0])
    };
    let firsts = |averages: &[Vec<u8>]| -> Vec<f32> {
        read_with(averages).unwrap().ema.unwrap().iter().map(|(_, tensor)| tensor.values[0]).collect()
    };
    // Random frequencies are not trained, and perhaps not averaged; buffers never are.
    assert_eq!(firsts(&[matrix(4)]), [0.0, 1.0, 4.0, 3.0]);
    assert_eq!(firsts(&[vector(3), matrix(4)]), [0.0, 3.0, 4.0, 3.0]);
    let message = read_with(&[vector(0), vector(0), vector(0)]).unwrap_err();
    assert!(message.contains("the average \"ema\": found 3 tensors, expected one for each parameter"), "{message}");
    let message = read_with(&[tensor(6, 0, &[3], &[1])]).unwrap_err();
    assert!(message.contains("attention.W has shape [3], expected [2, 1]"), "{message}");
    let message = read_with(&[DEVICE.to_vec()]).unwrap_err();
    assert!(message.contains("attention.W: is a value of another kind (torch.device)"), "{message}");
}

#[test]
fn of_an_unknown_form_the_keys_are_named_harmlessly() {
    let number = || b"K\x01".to_vec();
    let refused = |value: &[u8], expected: &str| refused(&containers(value)[0], expected);
    refused(
        &dict(&[("generator", weights("")), ("epoch", number()), ("args", NAMESPACE.to_vec())]),
        "holds no network: found the keys generator (a dict of 2), epoch (a number), args (a value of another kind \
         (argparse.Namespace)); expected a state_dict (names and tensors), alone, first in a list, or in a dict as",
    );
    refused(
        &dict(&[("model", NAMESPACE.to_vec())]),
        "found the keys model (a value of another kind (argparse.Namespace))",
    );
    refused(&dict(&[("\u{1b}[31m\u{202e}", number())]), "found the keys \\u{1b}[31m\\u{202e} (a number)");
    refused(&dict(&[(&"long".repeat(10_000), number())]), "found the keys longlong");
    let many: Vec<String> = (0..100_000).map(|i| format!("{i:04}")).collect();
    refused(&dict(&many.iter().map(|key| (&key[..], number())).collect::<Vec<_>>()), "0005 (a number), and 99994 more");
    refused(b"}", "found a dict without keys");
    refused(b"K\x01", "found a number");
    refused(&list(&[NAMESPACE.to_vec()]), "found a list that begins with a value of another kind (argparse.Namespace)");
    refused(b"]", "found a list that begins with nothing");

    // Where a tensor is needed.
    let network = dict(&[("a", tensor(6, 0, &[6], &[1])), ("\u{1b}b", DEVICE.to_vec())]);
    refused(&network, "\\u{1b}b: is a value of another kind (torch.device), expected a tensor");
    // An average that would otherwise be passed over without a word.
    let with = |average| dict(&[("model", weights("")), ("ema", average)]);
    refused(
        &with(dict(&[("copy", average())])),
        "the average \"ema\": found the keys copy (a dict of 2); expected names",
    );
    refused(&with(weights("other.")), "found other.a.weight; other.b, which the network lacks");
    let other = dict(&[("b", tensor(6, 0, &[3], &[1]))]);
    refused(&with(other), "the average \"ema\": b has shape [3], expected [2]");
    // An average counts as the weights do: one number, repeated.
    let with = |n: i64| {
        let repeated = dict(&[("a", tensor(6, 0, &[n], &[0]))]);
        containers(&dict(&[("model", repeated.clone()), ("ema", repeated)]))[0].clone()
    };
    let n_bytes = with(1).len() as i64;
    assert!(read(&with(n_bytes / 3)).unwrap().ema.is_some());
    self::refused(&with(n_bytes * 2 / 3), "describes more numbers than it has bytes");
}

#[test]
fn every_truncation_and_every_changed_byte_is_survived() {
    let storage = [0, 0, 128, 63].repeat(6);
    let pickle = network(&tensor(6, 1, &[2, 2], &[1, 2]));
    let packed = zip(&[("x/data.pkl", &pickle, true), ("x/data/0", &storage, true), ("x/byteorder", b"little", true)]);
    let mut files = vec![written(), small_stream(), packed, tar(), score_sde()];
    for name in ["old_style_checkpoint", "older_style_checkpoint", "mixed_legacy", "mixed_zip"] {
        files.push(fixture(&format!("pth_reader/{name}.pth")));
    }
    for file in files {
        // A tar archive ends in zeros, which nobody misses.
        let n_needed = file.iter().rposition(|&byte| byte != 0).unwrap();
        for n_bytes in 0..n_needed {
            let truncated = read(&file[..n_bytes]);
            assert!(truncated.is_err(), "{n_bytes} of {} bytes are taken for a checkpoint", file.len());
        }
        let mut changed = file.clone();
        for i in 0..file.len() {
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 255, file[i], file[i] ^ b'.', file[i] ^ b'('] {
                changed[i] = file[i] ^ change;
                let _ = read(&changed);
            }
            changed[i] = file[i];
        }
    }
}

#[test]
fn nothing_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let evidence = folder.path().join("evidence");
    let command = format!("touch {}", evidence.display());
    let call = [b"cposix\nsystem\nX", &(command.len() as u32).to_le_bytes()[..], command.as_bytes(), b"\x85R"].concat();
    let pickle = [b"\x80\x02]", &call[..], b"a."].concat();
    let expected = "refuses to load posix.system: a checkpoint may load only what tensors are made of";
    refused(&checkpoint(&pickle, b""), expected);
    refused(&stream(&pickle, b""), expected);
    refused(&checkpoint(b"\x80\x02c\x1b]0;\x07\nx\n.", b""), "refuses to load \\x1b]0;\\x07.x");
    assert!(!evidence.exists());
}

#[test]
fn impossible_tensors_are_refused_before_memory_is_taken() {
    let storage = [0; 24];
    let with = |tensor: Vec<u8>| checkpoint(&network(&tensor), &storage);
    assert!(read(&with(tensor(6, 0, &[2, 3], &[3, 1]))).is_ok());
    refused(&with(tensor(6, 0, &[1 << 60], &[1])), "a: has shape [1152921504606846976], which no memory can hold");
    refused(&with(tensor(6, 0, &[1 << 50], &[1])), "does not fit in its storage of 6 items");
    refused(&with(tensor(6, 0, &[1 << 40], &[0])), "describes more numbers than it has bytes");
    refused(&with(tensor(6, 0, &[1 << 20, 1 << 20], &[0, 0])), "describes more numbers than it has bytes");
    refused(&with(tensor(6, 0, &[1 << 31, 1 << 31, 1 << 31], &[0, 0, 0])), "no memory can hold");
    refused(&with(tensor(6, 0, &[0, i64::MAX], &[0, 0])), "no memory can hold");
    refused(&with(tensor(6, 0, &[2], &[i64::MAX])), "does not fit");
    refused(&with(tensor(6, i64::MAX, &[2], &[i64::MAX])), "does not fit");
    refused(&with(tensor(6, -1, &[2], &[1])), "an offset that is no size");
    refused(&with(tensor(6, 0, &[-2], &[1])), "a shape or strides other than a tuple of at most 64 sizes");
    refused(&with(tensor(6, 0, &[1; 65], &[1; 65])), "at most 64 sizes");
    refused(&with(tensor(6, 0, &[2, 3], &[1])), "2 axes and 1 strides");
    refused(&with(tensor(1 << 60, 0, &[2], &[1])), "which has 6 items; expected 1152921504606846976");
    refused(&with(tensor(5, 0, &[2], &[1])), "which has 6 items; expected 5");

    let in_stream = |n: u64| stream(&network(&tensor(6, 0, &[6], &[1])), &[&n.to_le_bytes()[..], &storage].concat());
    assert!(read(&in_stream(6)).is_ok());
    refused(&in_stream(1 << 60), "storage 0 is of 1152921504606846976 items of 4 bytes; found 24 bytes");
    refused(&in_stream(u64::MAX), "storage 0 is of 18446744073709551615 items");
    refused(&in_stream(5), "goes on after its last storage");
}

#[test]
fn what_repeats_itself_costs_no_more_than_its_bytes() {
    // One tensor of 100,000 numbers, a thousand times.
    let storage = vec![0; 400_000];
    let first = [b"X\x04\0\0\x00aaaa", &tensor(100_000, 0, &[100_000], &[1])[..], b"q\x01"].concat();
    let names: Vec<u8> =
        (0..1000).flat_map(|i| [&b"X\x04\0\0\0"[..], format!("{i:04}").as_bytes(), b"h\x01"].concat()).collect();
    let bomb = [b"\x80\x02](}(", &first[..], &names, b"ue."].concat();
    refused(
        &checkpoint(&bomb, &storage),
        "describes more numbers than it has bytes: its tensors overlap or repeat items",
    );

    // A list of two lists of two lists of …, 2^1000 items.
    let doubled = [&b"\x80\x02]q\x00"[..], &b"](h\x00h\x00eq\x00".repeat(1000), b"\x85."].concat();
    refused(&checkpoint(&doubled, b""), "goes on after its value");
    let doubled = [&b"\x80\x02]q\x000"[..], &b"](h\x00h\x00eq\x000".repeat(1000), b"h\x00."].concat();
    refused(&checkpoint(&doubled, b""), "holds no network");

    // What is kept for one parameter, for ten thousand; and one list of parameters, in a thousand groups.
    let optimizer = |state: &[u8], groups: &[u8]| {
        let network = [b"}X\x01\0\0\0a", &tensor(6, 0, &[6], &[1])[..], b"s"].concat();
        let pickle = [
            b"\x80\x02](",
            &network[..],
            b"}(X\x05\0\0\0state}(",
            state,
            b"uX\x0c\0\0\0param_groups](",
            groups,
            b"eue.",
        ];
        checkpoint(&pickle.concat(), &[0; 24])
    };
    assert!(read(&optimizer(b"K\x01}", b"}X\x06\0\0\0params]K\x01as")).unwrap().optimizer.is_some());
    let kept: Vec<u8> =
        (0..1000).flat_map(|i| [&b"X\x04\0\0\0"[..], format!("{i:04}").as_bytes(), b"N"].concat()).collect();
    let params: Vec<u8> = (2..60_000_u16).flat_map(|i| [&b"M"[..], &i.to_le_bytes(), b"h\x01"].concat()).collect();
    let state = [b"K\x01}(", &kept[..], b"uq\x01", &params].concat();
    refused(&optimizer(&state, b""), "describes more numbers than it has bytes");
    let params =
        [b"}(X\x06\0\0\0params](", &b"K\x01".repeat(10_000)[..], b"euq\x01", &b"h\x01".repeat(10_000)].concat();
    refused(&optimizer(b"", &params), "describes more numbers than it has bytes");
}

#[test]
fn depth_is_no_danger() {
    refused(&checkpoint(&[&b"\x80\x02"[..], &[b'('; 5000]].concat(), b""), "more than 1000 open containers");
    // A hundred thousand lists, each in the one before: no mark is open.
    let nested = [&b"\x80\x02]"[..], &b"]".repeat(100_000), &b"a".repeat(100_000), b"."].concat();
    refused(&checkpoint(&nested, b""), "holds no network");
    let nested = [&b"\x80\x02)"[..], &b"\x85".repeat(100_000), b"."].concat();
    refused(&checkpoint(&nested, b""), "holds no network");
    let inside_itself = b"\x80\x02]q\x00h\x00a.";
    refused(&checkpoint(inside_itself, b""), "holds no network");
}

#[test]
fn archives_that_are_none_are_told() {
    refused(b"", "is no checkpoint of PyTorch: starts with \"\"");
    refused(b"<html>\x1b[31m", "is no checkpoint of PyTorch: starts with \"<html>\\x1b[\"");
    refused(b"\x80\x02N.", "is no checkpoint of PyTorch");
    refused(b"PK\x03\x04", "zip archive: no directory at its end: truncated");
    refused(&zip(&[("a/readme", b"hello", false)]), "no checkpoint of PyTorch: expected one data.pkl in it");
    refused(&zip(&[("a/data.pkl", b"", false), ("b/data.pkl", b"", false)]), "expected one data.pkl in it");
    refused(&zip(&[("a/data.pkl", b"", false), ("a/data.pkl", b"", false)]), "two files are called a/data.pkl");
    refused(&zip(&[("a\x1b/data.pkl", b"", false), ("a\x1b/data.pkl", b"", false)]), "called a\\u{1b}/data.pkl");
    refused(&zip(&[("data.pkl", b"", false)]), "is no Python pickle");
    refused(&zip(&[("data.pkl", b"", false), ("byteorder", b"big", false)]), "found byte order big, expected little");
    refused(&zip(&[("data.pkl", b"", false), ("version", b"11\n", false)]), "found version 11, expected at most 10");
    refused(&zip(&[("data.pkl", b"", false), ("version", b"\x07", false)]), "found version \\u{7}");
    let missing = checkpoint(&network(&tensor(6, 0, &[6], &[1])), b"");
    refused(&missing, "a: is in storage 0, which has 0 items; expected 6");
    let missing = zip(&[("data.pkl", &network(&tensor(6, 0, &[6], &[1])), false)]);
    refused(&missing, "a: is in storage 0, which is not in the file");

    let mut damaged = checkpoint(b"\x80\x02N.", b"content");
    let at = damaged.windows(7).position(|part| part == b"content").unwrap();
    damaged[at] ^= 1;
    refused(&damaged, "x/data/0: its checksum is");
}

#[test]
fn a_zip_bomb_is_refused_by_its_declared_sizes_or_at_its_true_one() {
    let zeros = vec![0; 40 << 20];
    let bomb = zip(&[("data.pkl", b"\x80\x02N.", false), ("data/0", &zeros, true)]);
    assert!(bomb.len() < 50_000);
    refused(&bomb, "its files are more than 16 times as large as the archive");

    // The same, declared to be small.
    let packed = deflate(&zeros);
    let mut lying = zip(&[("data.pkl", b"\x80\x02N.", false), ("data/0", &packed, false)]);
    let directory = lying.windows(4).rposition(|part| part == b"PK\x01\x02").unwrap();
    lying[directory + 10] = 8;
    refused(&lying, "data/0: is not of");

    // A thousand names for the same file.
    let content = vec![0; 100_000];
    let mut bytes = zip(&[("0000", &content, false)]);
    let directory = bytes.windows(4).rposition(|part| part == b"PK\x01\x02").unwrap();
    let entry = bytes.split_off(directory)[..50].to_vec();
    refused(&end(bytes, &entry.repeat(1000), 1000), "its files overlap");
}
