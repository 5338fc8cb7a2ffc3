//! The published program's checkpoints: read wherever weights are, gone on with, and written.

use std::fs;
use std::path::Path;

use half::{bf16, f16};
use ncsn::checkpoint::TensorFile;
use ncsn::checkpoint::pth::{OptimizerState, StateValue, read_published};
use ncsn::net::params::HostTensor;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::{TRAIN, fails, scratch, succeeds};

/// A run of some steps without a moving average, which published runs do not have.
fn train(folder: &Path, doc: &str, n_iters: &str) {
    let n_iters = format!("training.n_iters={n_iters}");
    let args = ["train", "--config", "plain.yml", "--doc", doc, "--no-sample", "--set", &n_iters];
    succeeds(folder, &args);
}

fn with_plain_config() -> tempfile::TempDir {
    let folder = scratch();
    let plain = crate::TINY.replace(" ema_rate: 0.9,", "");
    assert!(!plain.contains("ema"));
    fs::write(folder.path().join("plain.yml"), plain).unwrap();
    folder
}

#[test]
fn a_published_run_goes_on_with_its_adam_state_as_if_it_had_never_stopped() {
    let folder = with_plain_config();
    train(folder.path(), "straight", "16");
    train(folder.path(), "first", "8");
    // What the published program leaves: its configuration and its newest checkpoint.
    let logs = folder.path().join("run/logs/published");
    fs::create_dir_all(&logs).unwrap();
    fs::copy(folder.path().join("plain.yml"), logs.join("config.yml")).unwrap();
    let said = succeeds(
        folder.path(),
        &["convert", "run/logs/first/checkpoint_8.safetensors", "run/logs/published/checkpoint.pth"],
    );
    assert!(said.contains("and the optimiser's state in run/logs/published/checkpoint.pth"), "{said}");

    assert!(fails(folder.path(), &["train", "--config", "plain.yml", "--doc", "published"]).contains("--resume"));
    let info = succeeds(folder.path(), &["info", "--doc", "published"]);
    assert!(info.contains("of the published program") && info.contains("Ncsn: 1 channels, ngf 2"), "{info}");
    succeeds(folder.path(), &["sample", "--doc", "published", "-o", "samples", "--n", "2"]);
    // One that has all of its steps becomes ours and draws its samples.
    let done = folder.path().join("run/logs/done");
    fs::create_dir_all(&done).unwrap();
    for name in ["config.yml", "checkpoint.pth"] {
        fs::copy(logs.join(name), done.join(name)).unwrap();
    }
    let said = succeeds(folder.path(), &["train", "--doc", "done", "--resume", "--set", "training.n_iters=8"]);
    assert!(said.contains("all of its 8 steps") && said.contains("2 samples"), "{said}");
    assert!(succeeds(folder.path(), &["info", "--doc", "done"]).contains("loss         unknown"));
    let args = ["train", "--doc", "published", "--resume", "--no-sample", "--set", "training.n_iters=16"];
    let said = succeeds(folder.path(), &args);
    assert!(said.contains("going on at step 8"), "{said}");
    let weights = |doc| {
        let path = folder.path().join(format!("run/logs/{doc}/checkpoint_16.safetensors"));
        let bytes = fs::read(path).unwrap();
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + n_header..].to_vec()
    };
    assert!(weights("published") == weights("straight"), "byte for byte");
}

#[test]
fn checkpoints_are_converted_there_and_back_and_give_the_same_score() {
    let folder = with_plain_config();
    train(folder.path(), "d", "4");
    let ours = "run/logs/d/checkpoint_4.safetensors";
    for args in
        [["convert", ours, "a.pth"], ["convert", "a.pth", "b.safetensors"], ["convert", "b.safetensors", "c.pth"]]
    {
        succeeds(folder.path(), &args);
    }
    let x: Vec<f32> = (0..128).map(|i| i as f32 / 128.0).collect();
    write_input(&folder.path().join("in.safetensors"), &x);
    let mut scores = Vec::new();
    for name in [ours, "a.pth", "b.safetensors", "c.pth"] {
        let output = format!("{}.out", name.replace('/', "_"));
        succeeds(folder.path(), &["score", "--checkpoint", name, "--input", "in.safetensors", "--output", &output]);
        scores.push(fs::read(folder.path().join(output)).unwrap());
    }
    assert!(scores.windows(2).all(|pair| pair[0] == pair[1]));

    // Samples need a configuration, which such files do not hold.
    let sample = ["sample", "--checkpoint", "c.pth", "-o", "s", "--n", "1"];
    assert!(fails(folder.path(), &sample).contains("expected one with --config FILE"));
    succeeds(folder.path(), &[&sample[..], &["--config", "plain.yml"]].concat());
    let message = fails(folder.path(), &["sample", "--checkpoint", "c.pth", "-o", "t", "--config", "anneal.yml"]);
    assert!(
        message.contains("ngf 2, 3 noise levels, but the configuration is of Ncsn: 1 channels, ngf 64"),
        "{message}"
    );

    // c.pth has no optimiser's state: nothing to go on with.
    let logs = folder.path().join("run/logs/bare");
    fs::create_dir_all(&logs).unwrap();
    fs::copy(folder.path().join("plain.yml"), logs.join("config.yml")).unwrap();
    fs::copy(folder.path().join("c.pth"), logs.join("checkpoint.pth")).unwrap();
    assert!(fails(folder.path(), &["train", "--doc", "bare", "--resume"]).contains("without its optimiser's state"));
}

/// `x` of two 8×8 images, and labels.
fn write_input(path: &Path, x: &[f32]) {
    let x: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
    let labels: Vec<u8> = [0_i64, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data).unwrap();
    let tensors =
        [("x", view(Dtype::F32, vec![2, 1, 8, 8], &x[..])), ("labels", view(Dtype::I64, vec![2], &labels[..]))];
    fs::write(path, safetensors::serialize(tensors, None).unwrap()).unwrap();
}

#[test]
fn what_cannot_be_converted_is_told() {
    let folder = scratch();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("there.pth", b"");
    // A pickle that would run a command.
    write(
        "evil.pth",
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02cposix\nsystem\n\
          X\x0c\0\0\0touch hacked\x85R.\x80\x02].",
    );
    for (args, needle) in [
        (["convert", "evil.pth", "out.safetensors"], "refuses to load posix.system"),
        (["convert", "missing.pth", "out.safetensors"], "missing.pth: No such file"),
        (["convert", "there.pth", "out.safetensors"], "is no checkpoint of PyTorch"),
        (["convert", "tiny.yml", "out.safetensors"], "no complete safetensors file"),
        (["convert", "evil.pth", "there.pth"], "there.pth exists; --overwrite"),
        (["convert", "evil.pth", "out.onnx"], "expected .pth"),
        (["convert", "evil.pth", "out"], "refuses to load posix.system"),
    ] {
        let message = fails(folder.path(), &args);
        assert!(message.contains(needle), "{needle} in {message}");
    }
    assert!(!folder.path().join("hacked").exists());
    assert!(!folder.path().join("out.safetensors").exists() && !folder.path().join("out").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_killed_convert_or_score_left_goes_with_the_next_one() {
    let folder = with_plain_config();
    train(folder.path(), "d", "4");
    let left = |name: &str| folder.path().join(name);
    // No process has a number of eight digits; the first always lives.
    for name in [".a.pth.99999999.tmp", ".score.safetensors.99999999.tmp", ".other.99999999.tmp", ".a.pth.1.tmp"] {
        fs::write(left(name), "half").unwrap();
    }
    succeeds(folder.path(), &["convert", "run/logs/d/checkpoint_4.safetensors", "a.pth"]);
    assert!(!left(".a.pth.99999999.tmp").exists() && left(".score.safetensors.99999999.tmp").exists());
    score(folder.path(), "a.pth", &[]);
    assert!(!left(".score.safetensors.99999999.tmp").exists());
    assert!(left(".other.99999999.tmp").exists() && left(".a.pth.1.tmp").exists());
}

#[test]
fn a_checkpoint_of_before_there_were_digests_is_gone_on_with() {
    let folder = scratch();
    let logs = folder.path().join("run/logs/old");
    fs::create_dir_all(&logs).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoint");
    for name in ["config.yml", "checkpoint_4.safetensors", "checkpoint_4.state.safetensors"] {
        fs::copy(fixture.join(name), logs.join(name)).unwrap();
    }
    assert!(succeeds(folder.path(), &["info", "--doc", "old"]).contains("step 4 of 4, seed 1"));
    let args = ["train", "--doc", "old", "--resume", "--no-sample", "--set", "training.n_iters=6"];
    let said = succeeds(folder.path(), &args);
    assert!(said.contains("going on at step 4"), "{said}");
    // From here on it has digests.
    let path = logs.join("checkpoint_6.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    fs::write(&path, bytes).unwrap();
    let message = fails(folder.path(), &["info", "--doc", "old"]);
    assert!(message.contains("its tensors do not have the digest that its header says"), "{message}");
}

#[test]
fn a_run_goes_on_only_from_a_whole_checkpoint_of_its_own_and_else_stays_as_it_was() {
    let folder = scratch();
    let run = |doc: &str, seed: &str| {
        let args = ["train", "--config", "tiny.yml", "--doc", doc, "--no-sample", "--seed", seed];
        succeeds(folder.path(), &[&args[..], &["--set", "training.n_iters=8"]].concat());
        folder.path().join("run/logs").join(doc)
    };
    let [a, b] = [run("a", "1"), run("b", "2")];
    let state = "checkpoint_8.state.safetensors";
    let [own, foreign] = [&a, &b].map(|logs| fs::read(logs.join(state)).unwrap());
    let mut damaged = own.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let config = fs::read(a.join("config.yml")).unwrap();
    let resume = ["train", "--doc", "a", "--resume", "--no-sample", "--set", "training.n_iters=12"];
    for (content, expected) in
        [(&foreign, "is of another run (seed 2, expected 1)"), (&damaged, "do not have the digest"), (&own, "")]
    {
        fs::write(a.join(state), content).unwrap();
        if expected.is_empty() {
            succeeds(folder.path(), &resume);
            continue;
        }
        let message = fails(folder.path(), &resume);
        assert!(message.contains(expected) && message.contains(state), "{message}");
        assert!(fs::read(a.join("config.yml")).unwrap() == config);
    }
    // A copy under another step's name.
    fs::copy(a.join("checkpoint_12.safetensors"), a.join("checkpoint_40.safetensors")).unwrap();
    let message = fails(folder.path(), &["info", "--doc", "a"]);
    assert!(message.contains("found the weights of step 12, expected step 40"), "{message}");
}

/// A pickle of protocol 2 under construction, and the numbers of its storages.
#[derive(Default)]
struct Pickler {
    bytes: Vec<u8>,
    storages: Vec<Vec<f32>>,
}

impl Pickler {
    fn put(&mut self, opcodes: &[u8]) {
        self.bytes.extend(opcodes);
    }

    fn text(&mut self, text: &str) {
        self.put(b"X");
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(text.as_bytes());
    }

    fn number(&mut self, n: usize) {
        self.put(b"J");
        self.put(&(n as u32).to_le_bytes());
    }

    fn tensor(&mut self, HostTensor { shape, values }: &HostTensor) {
        let key = self.storages.len().to_string();
        self.storages.push(values.clone());
        self.put(b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n");
        self.text(&key);
        self.text("cpu");
        self.number(values.len());
        self.put(b"tQK\0(");
        shape.iter().for_each(|&n| self.number(n));
        self.put(b"t(");
        (0..shape.len()).for_each(|i| self.number(shape[i + 1..].iter().product()));
        self.put(b"t\x89NtR");
    }

    fn state_dict(&mut self, prefix: &str, network: &[(String, HostTensor)]) {
        self.put(b"}(");
        for (name, tensor) in network {
            self.text(&format!("{prefix}{name}"));
            self.tensor(tensor);
        }
        self.put(b"u");
    }

    fn optimizer(&mut self, optimizer: &OptimizerState) {
        self.put(b"}(");
        self.text("state");
        self.put(b"}(");
        for (&param, kept) in &optimizer.state {
            self.number(param as usize);
            self.put(b"}(");
            for (name, value) in kept.iter() {
                self.text(name);
                match value {
                    StateValue::Int(n) => self.number(*n as usize),
                    StateValue::Tensor(tensor) => self.tensor(tensor),
                    other => panic!("{name}: {other:?}"),
                }
            }
            self.put(b"u");
        }
        self.put(b"u");
        self.text("param_groups");
        self.put(b"]}(");
        self.text("params");
        self.put(b"](");
        optimizer.groups[0].params.iter().for_each(|&param| self.number(param as usize));
        self.put(b"euau");
    }

    /// PyTorch's stream container.
    fn write(self, path: &Path) {
        let mut file =
            b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
        file.extend([b"\x80\x02", &self.bytes[..], b"."].concat());
        let mut keys = Self::default();
        (0..self.storages.len()).for_each(|i| keys.text(&i.to_string()));
        file.extend([b"\x80\x02](", &keys.bytes[..], b"e."].concat());
        for values in &self.storages {
            file.extend((values.len() as u64).to_le_bytes());
            file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        fs::write(path, file).unwrap();
    }
}

/// The score that a checkpoint gives, and which weights are asked for.
fn score(folder: &Path, checkpoint: &str, more: &[&str]) -> Vec<u8> {
    let x: Vec<f32> = (0..128).map(|i| i as f32 / 128.0).collect();
    write_input(&folder.join("in.safetensors"), &x);
    let args = ["score", "--checkpoint", checkpoint, "--input", "in.safetensors", "--output", "score.safetensors"];
    succeeds(folder, &[&args[..], more].concat());
    fs::read(folder.join("score.safetensors")).unwrap()
}

#[test]
fn an_average_in_a_published_checkpoint_is_used_as_our_own_is() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    let ours = "run/logs/d/checkpoint_20.safetensors";
    let said = succeeds(folder.path(), &["convert", ours, "last.pth"]);
    assert!(said.contains("; their moving average is left out, --ema writes it"), "{said}");
    succeeds(folder.path(), &["convert", "--ema", ours, "average.pth"]);
    let last = read_published(&folder.path().join("last.pth")).unwrap();
    let average = read_published(&folder.path().join("average.pth")).unwrap().network;

    // As Score-SDE saves it, compiled, with its arguments; and NCSNv2's list of five.
    let mut file = Pickler::default();
    file.put(b"}(");
    file.text("model");
    file.state_dict("module._orig_mod.", &last.network);
    file.text("ema");
    file.put(b"}(");
    file.text("decay");
    file.put(b"G?\xe0\0\0\0\0\0\0");
    file.text("shadow_params");
    file.put(b"](");
    average.iter().for_each(|(_, tensor)| file.tensor(tensor));
    file.put(b"eu");
    file.text("args");
    file.put(b"cargparse\nNamespace\n)\x81}bu");
    file.write(&folder.path().join("sde.pth"));
    let mut file = Pickler::default();
    file.put(b"](");
    file.state_dict("module.", &last.network);
    file.optimizer(&last.optimizer.unwrap());
    file.number(0);
    file.number(20);
    file.state_dict("", &average);
    file.put(b"e");
    file.write(&folder.path().join("five.pth"));

    let expected = [&[][..], &["--no-ema"]].map(|more| score(folder.path(), ours, more));
    assert!(expected[0] != expected[1]);
    for name in ["sde.pth", "five.pth"] {
        let found = [&[][..], &["--no-ema"]].map(|more| score(folder.path(), name, more));
        assert!(found == expected, "{name}");
    }
    let info = succeeds(folder.path(), &["info", "--checkpoint", "sde.pth"]);
    assert!(info.contains("weights      \"model\"\naverage      \"ema\": what samples"), "{info}");
    assert!(info.contains(", and their moving average"), "{info}");
    let info = succeeds(folder.path(), &["info", "--checkpoint", "five.pth"]);
    assert!(info.contains("weights      item 1 of a list\naverage      item 5 of a list"), "{info}");

    for args in [&["sample", "--checkpoint", ours, "-o", "a"][..], &["sample", "--checkpoint", "sde.pth", "-o", "b"]] {
        succeeds(
            folder.path(),
            &[args, &["--n", "1"], if args[2] == ours { &[] } else { &["--config", "tiny.yml"] }].concat(),
        );
    }
    let image = |name: &str| fs::read(folder.path().join(name).join("images/000000.png")).unwrap();
    assert!(image("a") == image("b"));
    assert!(succeeds(folder.path(), &["convert", "sde.pth", "c.safetensors"]).contains("moving average is left out"));
    succeeds(folder.path(), &["convert", "--ema", "sde.pth", "d.safetensors"]);
    assert!(score(folder.path(), "c.safetensors", &[]) == expected[1]);
    assert!(score(folder.path(), "d.safetensors", &[]) == expected[0]);
    let message = fails(folder.path(), &["convert", "--ema", "last.pth", "e.safetensors"]);
    assert!(message.contains("found no moving average of the weights"), "{message}");

    // An average alone is a network; weights without it there are none.
    let mut file = Pickler::default();
    file.put(b"}(");
    file.text("params_ema");
    file.state_dict("", &average);
    file.put(b"u");
    file.write(&folder.path().join("alone.pth"));
    assert!(score(folder.path(), "alone.pth", &[]) == expected[0]);
    let args = ["--checkpoint", "alone.pth", "--input", "in.safetensors", "--output", "s.safetensors", "--no-ema"];
    let message = fails(folder.path(), &[&["score"], &args[..]].concat());
    assert!(message.contains("found no weights but a moving average of them, which --no-ema leaves out"), "{message}");

    // A run goes on with its average.
    let logs = folder.path().join("run/logs/five");
    fs::create_dir_all(&logs).unwrap();
    fs::copy(folder.path().join("run/logs/d/config.yml"), logs.join("config.yml")).unwrap();
    fs::copy(folder.path().join("five.pth"), logs.join("checkpoint.pth")).unwrap();
    let said = succeeds(folder.path(), &["train", "--doc", "five", "--resume", "--no-sample"]);
    assert!(said.contains("going on at step 20"), "{said}");
    let data = |doc: &str| {
        let bytes = fs::read(folder.path().join(format!("run/logs/{doc}/checkpoint_24.safetensors"))).unwrap();
        let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + n_header..].to_vec()
    };
    assert!(data("five") == data("d"), "byte for byte");
}

#[test]
fn safetensors_of_others_are_read_in_half_precision_and_behind_any_prefix() {
    let folder = scratch();
    succeeds(folder.path(), &[&TRAIN[..], &["--set", "training.n_iters=4"]].concat());
    succeeds(folder.path(), &["convert", "run/logs/d/checkpoint_4.safetensors", "plain.safetensors"]);
    let plain = TensorFile::open(&folder.path().join("plain.safetensors")).unwrap();
    let tensors: Vec<(&str, HostTensor)> =
        plain.names().map(|name| (name, plain.get(name).unwrap().unwrap())).collect();
    type Encode = fn(f32) -> Vec<u8>;
    let write = |file: &str, dtype: Dtype, prefix: &str, encode: Encode| {
        let bytes = |tensor: &HostTensor| tensor.values.iter().flat_map(|&value| encode(value)).collect::<Vec<u8>>();
        let all: Vec<(String, &[usize], Vec<u8>)> =
            tensors.iter().map(|(name, t)| (format!("{prefix}{name}"), &t.shape[..], bytes(t))).collect();
        let views = all.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.to_vec(), data).unwrap()));
        fs::write(folder.path().join(file), safetensors::serialize(views, None).unwrap()).unwrap();
        score(folder.path(), file, &[])
    };
    let f16s = write("a.safetensors", Dtype::F16, "module._orig_mod.", |x| f16::from_f32(x).to_le_bytes().to_vec());
    let f32s = write("b.safetensors", Dtype::F32, "", |x| f16::from_f32(x).to_f32().to_le_bytes().to_vec());
    assert!(f16s == f32s);
    let bf16s = write("c.safetensors", Dtype::BF16, "model.net.", |x| bf16::from_f32(x).to_le_bytes().to_vec());
    let f32s = write("d.safetensors", Dtype::F32, "network.", |x| bf16::from_f32(x).to_f32().to_le_bytes().to_vec());
    assert!(bf16s == f32s && f16s != bf16s);
}
