//! Figures: every promised file is there, as PNG and SVG, and is one.

use std::path::Path;

use crate::{fails, scratch, succeeds};

fn is_figure(folder: &Path, name: &str) {
    let png = std::fs::read(folder.join(format!("{name}.png"))).unwrap();
    assert!(png.starts_with(b"\x89PNG"), "{name}");
    let svg = std::fs::read_to_string(folder.join(format!("{name}.svg"))).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && !svg.contains("NaN"), "{name}");
}

#[test]
fn toy_draws_every_picture_and_prints_the_numbers() {
    let folder = scratch();
    let said = succeeds(folder.path(), &["toy", "-o", "toy", "--n-steps", "50", "--seed", "1"]);
    for name in [
        "density",
        "data_scores",
        "estimated_scores",
        "loss",
        "data",
        "langevin_data_scores",
        "langevin_estimated_scores",
        "annealed_langevin",
        "figure2",
        "figure3",
    ] {
        is_figure(&folder.path().join("toy"), name);
    }
    let weight = |title: &str| -> (f64, f64) {
        let line = said.lines().find(|line| line.contains(title)).unwrap_or_else(|| panic!("{title} in {said}"));
        let (head, error) = line.rsplit_once(" ± ").unwrap();
        (head.rsplit_once(' ').unwrap().1.parse().unwrap(), error.parse().unwrap())
    };
    let annealed = weight("Annealed Langevin, data scores");
    let plain = weight("Langevin, data scores");
    assert!((annealed.0 - 0.8).abs() < 3.0 * annealed.1, "{annealed:?}");
    assert!((plain.0 - 0.8).abs() > 3.0 * plain.1, "{plain:?}");
    let (first, _) = weight("Fisher divergence");
    assert!(first > 0.0 && said.contains("over the square"), "{said}");
}

#[test]
fn scorenet_draws_two_curves_and_goes_on_where_it_was() {
    let folder = scratch();
    let args = |n: &'static str| {
        let set = ["training.algo=ssm", "data.channels=3", "model.nef=8", "model.ndf=8"];
        let head = ["figures", "scorenet", "--config", "tiny.yml", "--n-iters", n];
        head.into_iter().chain(set.into_iter().flat_map(|value| ["--set", value])).collect::<Vec<_>>()
    };
    succeeds(folder.path(), &args("4"));
    is_figure(&folder.path().join("run/figures"), "scorenet");
    let said = succeeds(folder.path(), &args("6"));
    assert_eq!(said.matches("going on at step 4").count(), 2, "{said}");
    let svg = std::fs::read_to_string(folder.path().join("run/figures/scorenet.svg")).unwrap();
    assert_eq!(svg.matches("<polyline").count(), 2);
    let message = fails(folder.path(), &["figures", "scorenet", "--doc", "new", "--config", "nowhere.yml"]);
    assert!(message.contains("nowhere.yml"), "{message}");
}
