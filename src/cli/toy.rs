//! `ncsn toy`: the 2-D toy experiments (Song & Ermon 2019, figures 2 and 3).

use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::Tensor;
use clap::Args;
use serde::Serialize;

use ncsn::Result;
use ncsn::noise::Noise;
use ncsn::plot::{self, Content, Panel};
use ncsn::sample::{AnnealedLangevin, PlainLangevin};
use ncsn::score::Score;
use ncsn::sde::{NoiseLevels, Process};
use ncsn::toy::{self, Estimate, HALF_WIDTH, ToyTraining};

use super::log::Log;
use super::output::{Existing, Kind, Output, Platform};
use super::progress::Progress;
use super::{Common, DEFAULT_SEED};

#[derive(Debug, Args)]
pub struct ToyArgs {
    /// Folder for the pictures [default: RUN/toy]
    #[arg(short = 'o', long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Training steps of the MLP
    #[arg(long, default_value_t = DEFAULT_N_STEPS, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub n_steps: u64,
    /// Seed of all randomness
    #[arg(long, default_value_t = DEFAULT_SEED)]
    pub seed: u64,
    /// Remove the figures that are there, and draw anew
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub common: Common,
}

/// What the figures depend on.
#[derive(Serialize)]
struct Manifest {
    n_steps: u64,
    seed: u64,
    #[serde(flatten)]
    platform: Platform,
}

/// The figures' names.
const NAMES: [&str; 10] = [
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
];

/// A folder of figures.
const FIGURES: Kind = Kind {
    manifest: "toy.json",
    free: &[],
    files: |_| NAMES.iter().flat_map(|name| [format!("{name}.png"), format!("{name}.svg")]).collect(),
    neighbours: |_| false,
};

/// The paper's.
pub const DEFAULT_N_STEPS: u64 = 10_000;
/// Points drawn, by each sampler.
const N_POINTS: usize = 1280;
/// Points over which the Fisher divergence is taken.
const N_FISHER: usize = 10_000;
/// A side of the density's grid, and of the arrows'.
const N_DENSITY: usize = 100;
const N_ARROWS: usize = 20;
/// The paper's ε = 0.1 in x ← x + ε/2·s + √ε·z.
const ALPHA: f64 = 0.05;
const N_LANGEVIN: usize = 1000;
/// The time of the only level.
const T: f64 = 1.0;

pub fn run(args: ToyArgs) -> Result<ExitCode> {
    let mut log = Log::terminal(args.common.verbose);
    let folder = args.output.unwrap_or_else(|| args.common.run.join("toy"));
    let (noise, device) = (Noise::new(args.seed), args.common.open_device()?);
    let manifest = Manifest { n_steps: args.n_steps, seed: args.seed, platform: Platform::of(&device)? };
    let output = Output::open(&folder, FIGURES, &manifest, Existing::overwrite(args.overwrite))?;
    output.describe(&manifest)?;
    let mixture = toy::mixture(NoiseLevels::single(1.0)?);
    let data = |n, name| toy::draw(n, |s| mixture.sample(T, s), noise.stream(name, 0), &device);

    let options = ToyTraining { n_steps: args.n_steps as usize, ..ToyTraining::default() };
    let mut progress = Progress::new(&log, "step", 0, args.n_steps);
    let mut losses = Vec::new();
    let model = toy::train(
        options,
        |s| mixture.sample(T, s),
        noise,
        &device,
        |step, loss| {
            losses.push((step as f64, loss));
            progress.update(&mut log, step as u64, &format!("loss {loss:.3}"));
        },
    )?;
    drop(progress);

    let wide = NoiseLevels::geometric(20.0, 1.0, 10)?;
    let plain = PlainLangevin { t: T, n_steps: N_LANGEVIN, alpha: ALPHA };
    let n_steps_each = N_LANGEVIN / wide.n_levels();
    let annealed = AnnealedLangevin { step_lr: ALPHA, n_steps_each, denoise: false };
    let annealed_score = toy::mixture(wide);
    let samples = [
        ("data", "Data samples", toy::points(data(N_POINTS, "toy/shown"))?),
        (
            "langevin_data_scores",
            "Langevin, data scores",
            toy::points(toy::sample(&mixture, mixture.process(), plain, N_POINTS, noise, &device))?,
        ),
        (
            "langevin_estimated_scores",
            "Langevin, estimated scores",
            toy::points(toy::sample(&model, &model.process, plain, N_POINTS, noise, &device))?,
        ),
        (
            "annealed_langevin",
            "Annealed Langevin, data scores",
            toy::points(toy::sample(&annealed_score, annealed_score.process(), annealed, N_POINTS, noise, &device))?,
        ),
    ];

    let panel = |title: &str, content| Panel { title: title.into(), content };
    let points = |points: &[[f64; 2]]| Content::Points { half_width: HALF_WIDTH, points: points.to_vec() };
    let cells = toy::cell_centres(N_DENSITY);
    let density = cells.iter().map(|x| mixture.log_density(x, T).exp()).collect();
    let density = panel("Data density", Content::Density { half_width: HALF_WIDTH, values: density });
    let places = toy::grid(N_ARROWS, &device);
    let data_scores = panel("Data scores", arrows(&mixture, &places)?);
    let estimated_scores = panel("Estimated scores", arrows(&model, &places)?);
    let loss = panel(
        "Sliced score matching",
        Content::Lines {
            x_label: "step".into(),
            y_label: "loss (mean of 100 steps)".into(),
            series: vec![("loss".into(), plot::averaged(&losses, 100))],
        },
    );
    let mut pictures = vec![("density", density.clone()), ("data_scores", data_scores.clone())];
    pictures.extend([("estimated_scores", estimated_scores.clone()), ("loss", loss)]);
    pictures.extend(samples.iter().map(|(name, title, x)| (*name, panel(title, points(x)))));
    for (name, picture) in &pictures {
        plot::write(&output.path(name), std::slice::from_ref(picture), 1)?;
    }
    plot::write(&output.path("figure2"), &[density, data_scores, estimated_scores], 3)?;
    let shown = [&samples[0], &samples[1], &samples[3]];
    let figure3 = shown.map(|(_, title, x)| panel(title, points(x)));
    plot::write(&output.path("figure3"), &figure3, 3)?;

    let show = |e: Estimate| format!("{:.3} ± {:.3}", e.mean, e.std_error);
    let uniform = |stream: &mut ncsn::noise::Stream| toy::Square { half_width: HALF_WIDTH }.sample(stream);
    let anywhere = toy::draw(N_FISHER, uniform, noise.stream("toy/anywhere", 0), &device);
    let near = toy::fisher_divergence(&model, &mixture, T, data(N_FISHER, "toy/fisher"))?;
    let far = toy::fisher_divergence(&model, &mixture, T, anywhere)?;
    log.info(format!("Fisher divergence E‖ŝ − s‖², over data:        {}", show(near)));
    log.info(format!("                             over the square:  {}", show(far)));
    log.info("weight of the mode at (5, 5), which is 0.8:");
    for (_, title, x) in &samples {
        log.info(format!("  {title:30} {}", show(toy::first_mode_weight(x))));
    }
    log.info(format!("{} pictures, as PNG and SVG, in {}", pictures.len() + 2, folder.display()));
    Ok(ExitCode::SUCCESS)
}

fn arrows(score: &impl Score<2>, places: &Tensor<2>) -> Result<Content> {
    let vectors = toy::points(score.score(places.clone(), &vec![T; places.dims()[0]]))?;
    let arrows = toy::points(places.clone())?.into_iter().zip(vectors).collect();
    // More than the distance of two places: the longest, at the borders, are few and nearly parallel.
    let longest = 1.6 * 2.0 * HALF_WIDTH / (N_ARROWS - 1) as f64;
    Ok(Content::Arrows { half_width: HALF_WIDTH, arrows, longest })
}
