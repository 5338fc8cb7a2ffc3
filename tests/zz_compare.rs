#![allow(clippy::unwrap_used)]
use ncsn::eval::{ImageSet, ReadOptions};
use std::fs;
use std::path::Path;
#[test]
fn compare() {
    let mut counts: std::collections::BTreeMap<String, (usize, String)> = Default::default();
    let folder = tempfile::tempdir().unwrap();
    let mut files: Vec<_> = fs::read_dir(std::env::var("GEN").unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for p in files {
        let name = p.file_name().unwrap().to_str().unwrap().to_string();
        let to = folder.path().join(&name);
        fs::copy(&p, &to).unwrap();
        let mut stage = "header";
        let found = ImageSet::open(folder.path(), &ReadOptions::default()).and_then(|s| {
            stage = "read";
            Ok((s.size(), s.channels(), s.read(0..1)?))
        });
        fs::remove_file(&to).unwrap();
        let raw = fs::read(Path::new("/tmp/jp/ref").join(format!("{}.raw", p.file_stem().unwrap().to_str().unwrap())));
        let key = match (found, raw) {
            (Ok(([h, w], c, planes)), Ok(raw)) => {
                let (rw, rh, rc) = (
                    u32::from_le_bytes(raw[..4].try_into().unwrap()) as usize,
                    u32::from_le_bytes(raw[4..8].try_into().unwrap()) as usize,
                    raw[8] as usize,
                );
                if (w, h, c) != (rw, rh, rc) {
                    format!("shape {c} for {rc}")
                } else {
                    let d = (0..c * h * w).map(|i| planes[i % c * h * w + i / c].abs_diff(raw[9 + i])).max().unwrap();
                    format!(
                        "differs by {}",
                        match d {
                            0 => "0",
                            1..=8 => "1 to 8",
                            _ => "more",
                        }
                    )
                }
            }
            (Ok(_), Err(_)) => "accepted, Pillow refuses".into(),
            (Err(e), Ok(_)) => format!("only we refuse ({stage}): {}", e.to_string().rsplit(": ").next().unwrap()),
            (Err(_), Err(_)) => format!("both refuse ({stage})"),
        };
        let class = name.split('_').next().unwrap();
        counts.entry(format!("{class:10} {key}")).or_insert((0, name.clone())).0 += 1;
    }
    for (k, (n, e)) in counts {
        println!("{n:6} {k}   {e}");
    }
}
