//! Samples in a folder.

use std::fs;
use std::path::Path;

use ncsn::checkpoint::TensorFile;
use ncsn::eval::{ImageSet, ReadOptions};

use crate::{TRAIN, fails, scratch, succeeds};

fn trained() -> tempfile::TempDir {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    folder
}

fn raw(folder: &Path, name: &str) -> Vec<f32> {
    let file = TensorFile::open(&folder.join(name).join("samples.safetensors")).unwrap();
    file.get("samples").unwrap().unwrap().values
}

#[test]
fn an_image_of_a_seed_is_the_same_whatever_the_batch() {
    let folder = trained();
    let draw = |name: &str, n: &str, batch: &str| {
        succeeds(folder.path(), &["sample", "--doc", "d", "-o", name, "--n", n, "--batch", batch, "--raw"]);
        raw(folder.path(), name)
    };
    let one_batch = draw("a", "7", "7");
    assert_eq!(one_batch.len(), 7 * 64);
    assert!(one_batch == draw("b", "7", "3"));
    assert!(one_batch == draw("c", "7", "1"));
    assert!(one_batch[..128] == draw("d", "2", "2")[..]);
    for k in 0..7 {
        let name = format!("images/{k:06}.png");
        assert_eq!(
            fs::read(folder.path().join("a").join(&name)).unwrap(),
            fs::read(folder.path().join("b").join(&name)).unwrap()
        );
    }
    succeeds(folder.path(), &["sample", "--doc", "d", "-o", "e", "--n", "7", "--raw", "--seed", "5"]);
    assert!(one_batch != raw(folder.path(), "e"));
}

#[test]
fn a_folder_of_samples_and_its_tensor_are_the_same_set_of_images() {
    let folder = trained();
    // Short steps leave the uniform start in [0, 1].
    let args = ["sample", "--doc", "d", "-o", "s", "--n", "5", "--step-lr", "1e-10", "--raw"];
    succeeds(folder.path(), &args);
    let open = |path: &str| ImageSet::open(&folder.path().join(path), &ReadOptions::default());
    let [images, tensor] = [open("s").unwrap(), open("s/samples.safetensors").unwrap()];
    assert_eq!((images.len(), images.size(), images.channels()), (5, [8, 8], 1));
    assert!(images.read(0..5).unwrap() == tensor.read(0..5).unwrap());
    // As if it had been stopped.
    fs::remove_file(folder.path().join("s/images/000004.png")).unwrap();
    let stopped = open("s").unwrap_err().to_string();
    assert!(stopped.contains("found 4 images in images/, expected 5"), "{stopped}");
}

#[test]
fn sampling_goes_on_where_it_stopped() {
    let folder = trained();
    let args = ["sample", "--doc", "d", "-o", "s", "--n", "6", "--batch", "2", "--raw"];
    succeeds(folder.path(), &args);
    let (images, expected) = (folder.path().join("s/images"), raw(folder.path(), "s"));
    let kept = images.join("000003.png");
    let written = fs::metadata(&kept).unwrap().modified().unwrap();
    // As if it had been stopped in the last batch.
    fs::remove_file(images.join("000005.png")).unwrap();
    succeeds(folder.path(), &args);
    assert!(images.join("000005.png").exists());
    assert!(raw(folder.path(), "s") == expected);
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), written, "a batch that is there is not drawn again");
}

#[test]
fn a_folder_of_other_samples_is_replaced_only_when_asked() {
    let folder = trained();
    let draw = |seed| vec!["sample", "--doc", "d", "-o", "s", "--n", "2", "--final-only", "--seed", seed];
    succeeds(folder.path(), &draw("1"));
    fs::write(folder.path().join("s/images/mine.png"), "precious").unwrap();
    assert!(fails(folder.path(), &draw("2")).contains("--overwrite"));
    let mut overwrite = draw("2");
    overwrite.push("--overwrite");
    succeeds(folder.path(), &overwrite);
    assert_eq!(fs::read(folder.path().join("s/images/mine.png")).unwrap(), b"precious");
    assert!(!folder.path().join("s/samples.gif").exists());
}

#[test]
fn the_published_programs_flags_train_and_sample() {
    let folder = scratch();
    let train = [
        "--runner",
        "AnnealRunner",
        "--config",
        "tiny.yml",
        "--doc",
        "p",
        "--seed",
        "3",
        "--verbose",
        "warning",
        "--comment",
        "c",
    ];
    assert_eq!(succeeds(folder.path(), &train), "", "warnings only");
    assert!(folder.path().join("run/logs/p/checkpoint_24.safetensors").exists());
    let log = fs::read_to_string(folder.path().join("run/logs/p/stdout.txt")).unwrap();
    assert!(log.contains("comment: c") && log.contains("24/24"), "{log}");
    succeeds(folder.path(), &["--runner", "AnnealRunner", "--test", "--doc", "p", "-o", "samples"]);
    assert!(folder.path().join("samples/grid.png").exists() && folder.path().join("samples/samples.gif").exists());
    succeeds(folder.path(), &["--config", "tiny.yml", "--doc", "p", "--resume_training", "--image_folder", "unused"]);
}

#[test]
fn training_ends_with_samples_and_says_where_they_are() {
    let folder = scratch();
    let said = succeeds(folder.path(), &TRAIN[..5]);
    let last = said.lines().last().unwrap();
    let grid = "run/samples/d/step_24/grid.png";
    assert!(last.contains(grid) && last.contains("samples.gif"), "{said}");
    assert!(folder.path().join(grid).exists());
    let events = fs::read_dir(folder.path().join("run/tensorboard/d")).unwrap().count();
    assert!(events >= 1);
}
