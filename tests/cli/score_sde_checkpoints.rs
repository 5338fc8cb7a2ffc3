//! Checkpoints of Score-SDE's program: taken wherever weights are, gone on with, and written.

use std::fs;
use std::path::Path;

use ncsn::checkpoint::TensorFile;
use ncsn::checkpoint::pth::read_published;

use crate::{fails, succeeds};

/// A small network with frozen frequencies, and a step of milliseconds.
const RUN: &str = "\
training: {sde: vesde, continuous: true, batch_size: 2, n_iters: 6, snapshot_freq: 2, test_freq: 10, seed: 5}
data: {dataset: DIGITS, image_size: 8, num_channels: 1, random_flip: true}
model: {name: ncsnpp, nf: 8, ch_mult: [1, 1], num_res_blocks: 1, attn_resolutions: [4], num_scales: 3, ema_rate: 0.99}
optim: {warmup: 3, lr: 1.0e-3}
sampling: {final_images: 1, snapshot_images: 0}
";

const CHECKPOINTS: [(&str, &str); 2] =
    [("ddpmpp_vp", "checkpoint_init.pth"), ("ncsnpp_ve_fourier_residual", "train/checkpoint_4.pth")];

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/score_sde").join(name)
}

/// The tensors of a safetensors file of ours, without the header.
fn data(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + n_header..].to_vec()
}

/// A folder with the program's checkpoints, `NAME.pth`, and their configurations, `NAME.yml`.
fn with_checkpoints() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, checkpoint) in CHECKPOINTS {
        let meta = fs::read(fixture(&format!("{name}/meta.json"))).unwrap();
        let mut config = serde_json::from_slice::<serde_json::Value>(&meta).unwrap()["config"].take();
        config["sampling"]["final_images"] = 1.into();
        config["training"]["batch_size"] = 2.into();
        config["data"]["dataset"] = "DIGITS".into();
        // JSON is YAML.
        fs::write(folder.path().join(format!("{name}.yml")), config.to_string()).unwrap();
        fs::copy(fixture(&format!("{name}/{checkpoint}")), folder.path().join(format!("{name}.pth"))).unwrap();
    }
    folder
}

#[test]
fn its_checkpoints_give_the_scores_and_samples_of_the_program() {
    let folder = with_checkpoints();
    let at = folder.path();
    let bare = succeeds(at, &["info", "--checkpoint", "ncsnpp_ve_fourier_residual.pth"]);
    assert!(bare.contains("a U-Net, whose shapes do not tell its options; --config FILE does"), "{bare}");
    assert!(bare.contains("weights      \"model\"\naverage      \"ema\": what samples"), "{bare}");
    assert!(bare.contains("training     step 4\n"), "{bare}");
    let config = ["--config", "ncsnpp_ve_fourier_residual.yml"];
    let info = succeeds(at, &[&["info", "--checkpoint", "ncsnpp_ve_fourier_residual.pth"], &config[..]].concat());
    let n_parameters = |info: &str| info.lines().find(|line| line.starts_with("parameters")).unwrap().to_string();
    assert_eq!(n_parameters(&info), n_parameters(&bare));
    assert!(info.contains("noise        σ from 50 to 0.01"), "{info}");

    let info = succeeds(at, &["info", "--checkpoint", "ddpmpp_vp.pth", "--config", "ddpmpp_vp.yml"]);
    assert!(info.contains("noise        β from 0.1 to 20"), "{info}");

    // Its program saves the first weights before the first step: those of the outputs that were recorded.
    let (name, forward) = ("ddpmpp_vp", fixture("ddpmpp_vp/forward.safetensors"));
    let forward_path = forward.display().to_string();
    let (checkpoint, config) = (format!("{name}.pth"), format!("{name}.yml"));
    let score = ["score", "--checkpoint", &checkpoint, "--config", &config, "--input"];
    for more in [&[][..], &["--no-ema", "--overwrite"]] {
        succeeds(at, &[&score[..], &[&forward_path, "--output", "score.safetensors"], more].concat());
        let [found, expected] = [&at.join("score.safetensors"), &forward].map(|path| TensorFile::open(path).unwrap());
        let (found, expected) = (found.get("score").unwrap().unwrap(), expected.get("score_at_t").unwrap().unwrap());
        let image_len: usize = found.shape[1..].iter().product();
        for (found, expected) in found.values.chunks(image_len).zip(expected.values.chunks(image_len)) {
            let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
            let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
            // The parity tests have it at 2e-5, in f32.
            assert!(differences.fold(0.0, f32::max) <= 2e-5 * largest);
        }
    }
    let message =
        fails(at, &["score", "--checkpoint", &checkpoint, "--input", &forward_path, "--output", "s.safetensors"]);
    assert!(message.contains("expected the configuration with them, which tells its options"), "{message}");

    let sample = |output| ["sample", "--checkpoint", &checkpoint, "--config", &config, "--n", "1", "-o", output];
    succeeds(at, &sample("samples"));
    assert!(at.join("samples/images/000000.png").is_file());

    // Noise levels of another configuration.
    let other = fs::read_to_string(at.join(&config)).unwrap().replace("\"sigma_max\":50", "\"sigma_max\":90");
    fs::write(at.join(&config), other).unwrap();
    let message = fails(at, &sample("others"));
    assert!(message.contains("sigmas[0] is 50, expected 90 by the configuration"), "{message}");
}

#[test]
fn its_checkpoints_become_runs_that_are_written_as_they_were_read() {
    let folder = with_checkpoints();
    let at = folder.path();
    for ((name, _), step) in CHECKPOINTS.into_iter().zip([0, 4]) {
        let [pth, yml, again, copy] = [".pth", ".yml", "-again.pth", "-copy.pth"].map(|end| format!("{name}{end}"));
        let run = format!("run/logs/{name}");
        let said = succeeds(at, &["convert", &pth, &run, "--config", &yml]);
        assert!(said.contains(&format!("a run at step {step} in {run}: ")), "{said}");
        let said = succeeds(at, &["convert", &run, &again]);
        assert!(said.contains(", their moving average and the optimiser's state in "), "{said}");
        succeeds(at, &["convert", &pth, &copy]);
        let [expected, again, copy] = [&pth, &again, &copy].map(|name| read_published(&at.join(name)).unwrap());
        assert_eq!(copy, expected);
        assert_eq!((&again.network, &again.ema, &again.prefix), (&expected.network, &expected.ema, &expected.prefix));
        let facts = |published: &ncsn::checkpoint::pth::Published| {
            (published.program, published.progress, published.ema_updates, published.ema_rate)
        };
        assert_eq!(facts(&again), facts(&expected));
        assert_eq!(again.optimizer.unwrap().state, expected.optimizer.unwrap().state);
    }
    // The average alone, as weights that anybody reads; and back, for which shapes tell too little.
    let name = "ncsnpp_ve_fourier_residual";
    let (pth, yml) = (format!("{name}.pth"), format!("{name}.yml"));
    succeeds(at, &["convert", "--ema", &pth, "average.safetensors"]);
    let message = fails(at, &["convert", "average.safetensors", "average.pth"]);
    assert!(message.contains("expected the configuration with them"), "{message}");
    succeeds(at, &["convert", "average.safetensors", "average.pth", "--config", &yml]);
    let [average, expected] = ["average.pth", &pth].map(|name| read_published(&at.join(name)).unwrap());
    assert_eq!(Some(average.network), expected.ema);
    let message = fails(at, &["convert", &pth, "b.pth", "--config", &yml]);
    assert!(message.contains("found --config"), "{message}");
}

#[test]
fn a_run_goes_on_from_its_programs_folders_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("run.yml"), RUN).unwrap();
    let train = |doc: &str, n_iters: &str| {
        let n_iters = format!("training.n_iters={n_iters}");
        succeeds(at, &["train", "--config", "run.yml", "--doc", doc, "--no-sample", "--set", &n_iters]);
    };
    train("straight", "6");
    train("first", "4");
    let logs = |doc: &str| at.join("run/logs").join(doc);
    let last = |doc: &str| logs(doc).join("checkpoint_6.safetensors");
    for (doc, place) in [("meta", "checkpoints-meta/checkpoint.pth"), ("numbered", "checkpoints/checkpoint_2.pth")] {
        let path = logs(doc).join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(logs(doc).join("config.yml"), RUN).unwrap();
        succeeds(at, &["convert", "run/logs/first", &format!("run/logs/{doc}/{place}")]);
        let info = succeeds(at, &["info", "--doc", doc]);
        assert!(info.contains("of the published program") && info.contains("training     step 4\n"), "{info}");
        // Back it is what it was.
        let back = format!("run/logs/{doc}-back");
        succeeds(at, &["convert", &format!("run/logs/{doc}"), &back]);
        for file in ["checkpoint_4.safetensors", "checkpoint_4.state.safetensors"] {
            assert!(data(&logs(&format!("{doc}-back")).join(file)) == data(&logs("first").join(file)), "{file}");
        }
        let said = succeeds(at, &["train", "--doc", doc, "--resume", "--no-sample"]);
        assert!(said.contains("going on at step 4"), "{said}");
        assert!(data(&last(doc)) == data(&last("straight")), "byte for byte");
    }
    // By its step: that of its number.
    succeeds(at, &["sample", "--doc", "numbered", "--step", "4", "-o", "samples", "--n", "1"]);
    assert!(
        fails(at, &["sample", "--doc", "numbered", "--step", "2", "-o", "none", "--n", "1"]).contains("checkpoint_2")
    );
}
