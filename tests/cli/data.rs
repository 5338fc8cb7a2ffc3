//! Where images come from: folders with what strangers put there, and servers that say nothing.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ncsn::data::Pixels;
use ncsn::image::write_png;

use crate::{TRAIN, fails, ncsn, scratch, succeeds};

/// Three images in `mine`.
fn write_images(folder: &Path) {
    fs::create_dir(folder.join("mine")).unwrap();
    for i in 0..3 {
        write_png(&folder.join(format!("mine/{i}.png")), &Pixels::new(vec![80 * i; 64], 8, 8, 1)).unwrap();
    }
}

/// Arguments that train on `mine`.
fn train_on_mine() -> Vec<&'static str> {
    let sets = ["data.dataset=FOLDER", "data.path=mine", "data.channels=1"];
    TRAIN.into_iter().chain(sets.into_iter().flat_map(|set| ["--set", set])).collect()
}

#[test]
fn images_of_other_formats_are_said_to_be_left_out_wherever_folders_are_read() {
    let folder = scratch();
    write_images(folder.path());
    fs::write(folder.path().join("mine/a.tif"), "II*").unwrap();
    let left_out = "mine: 1 file of other formats (.tif) is left out";
    let said = succeeds(folder.path(), &train_on_mine());
    assert_eq!(said.matches(left_out).count(), 1, "{said}");
    let args = ["inpaint", "--doc", "d", "--images", "mine", "--n", "1", "--n-per-image", "1", "-o", "out"];
    assert!(succeeds(folder.path(), &args).contains(left_out));
}

#[cfg(unix)]
#[test]
fn an_image_that_cannot_be_read_is_one_error_before_anything_is_written() {
    let folder = scratch();
    write_images(folder.path());
    succeeds(folder.path(), &train_on_mine());
    let bad = folder.path().join("mine/bad.png");
    // A palette of four bytes, at which the decoder panics; a file that is cut; a pipe.
    let palette = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x03\0\0\0\x28\xcb\x34\xbb\
        \0\0\0\x04PLTE\x01\x02\x03\x04\xf4\x14\xa7\x12";
    let whole = fs::read(folder.path().join("mine/1.png")).unwrap();
    for content in [&palette[..], &whole[..whole.len() - 12], b""] {
        let _ = fs::remove_file(&bad);
        match content {
            b"" => assert!(Command::new("mkfifo").arg(&bad).status().unwrap().success()),
            content => fs::write(&bad, content).unwrap(),
        }
        let mut train = train_on_mine();
        train[4] = "e";
        assert!(fails(folder.path(), &train).contains("bad.png: "));
        assert!(!folder.path().join("run/logs/e").exists(), "nothing was begun");
        let inpaint = ["inpaint", "--doc", "d", "--images", "mine", "-o", "out"];
        assert!(fails(folder.path(), &inpaint).contains("bad.png: "));
        fs::rename(&bad, folder.path().join("mask.png")).unwrap();
        let inpaint = ["inpaint", "--doc", "d", "--images", "mine", "-o", "out", "--mask", "mask.png"];
        assert!(fails(folder.path(), &inpaint).contains("mask"));
        assert!(!folder.path().join("out").exists(), "nothing was written");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_download_from_a_silent_server_within_a_second() {
    let folder = scratch();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let mut args = TRAIN.to_vec();
    args.extend(["--set", "data.dataset=SVHN", "--set", "data.image_size=8", "--set", "data.channels=3"]);
    let mut command = ncsn(folder.path(), &args);
    command.env("ALL_PROXY", &proxy).env_remove("no_proxy").env_remove("NO_PROXY");
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // It asks, and no answer comes.
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap();
    let took = asked.elapsed();
    assert_eq!(status.code(), Some(130), "128 + SIGINT");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(stderr.starts_with("error: stopped after 0 of 182040794 bytes of http://ufldl"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(fs::read_dir(folder.path().join("run/datasets/svhn")).unwrap().count(), 0);
}

#[test]
fn databases_are_trained_on_and_named_where_data_sets_are() {
    let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/lmdb"));
    let folder = scratch();
    let lsun = folder.path().join("run/datasets/lsun");
    for part in ["church_outdoor_train_lmdb", "church_outdoor_val_lmdb"] {
        fs::create_dir_all(lsun.join(part)).unwrap();
        fs::copy(fixtures.join(part).join("data.mdb"), lsun.join(part).join("data.mdb")).unwrap();
    }
    let train = |name, sets: &[&'static str]| -> Vec<&'static str> {
        let sets = sets.iter().copied().chain(["data.channels=3", "data.image_size=8"]);
        let mut args: Vec<_> = TRAIN.into_iter().chain(sets.flat_map(|set| ["--set", set])).collect();
        args[4] = name;
        args
    };
    let church = train("church", &["data.dataset=LSUN", "data.category=church_outdoor"]);
    succeeds(folder.path(), &church);
    // A database as a file.
    fs::copy(fixtures.join("ffhq/data.mdb"), folder.path().join("faces.mdb")).unwrap();
    let faces = train("faces", &["data.dataset=FFHQ", "data.path=faces.mdb"]);
    succeeds(folder.path(), &faces);
    let saved = fs::read_to_string(folder.path().join("run/logs/church/config.yml")).unwrap();
    assert!(saved.contains("  category: church_outdoor\n"), "{saved}");

    let levels = succeeds(folder.path(), &["noise-levels", "--dataset", "LSUN-church_outdoor", "--image-size", "8"]);
    assert!(levels.contains("sigma_begin: "), "{levels}");
    let tower = train("tower", &["data.dataset=LSUN", "data.category=tower"]);
    let message = fails(folder.path(), &tower);
    assert!(message.contains("run/datasets/lsun/tower_train_lmdb/data.mdb"), "{message}");
    let message = fails(folder.path(), &["inpaint", "--doc", "church", "--images", "LSUN", "-o", "out"]);
    assert!(message.contains("no data set \"LSUN\""), "{message}");
    // A cut database is told before anything is written.
    let data = lsun.join("church_outdoor_train_lmdb/data.mdb");
    fs::write(&data, &fs::read(&data).unwrap()[..8192]).unwrap();
    let again = train("again", &["data.dataset=LSUN", "data.category=church_outdoor"]);
    let message = fails(folder.path(), &again);
    assert!(message.contains("data.mdb: the file ends too early"), "{message}");
    assert!(!folder.path().join("run/logs/again").exists());
}
