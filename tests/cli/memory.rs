//! Memory is foreseen: estimates beside what a process really took, and refusals before anything changes.
#![cfg(target_os = "linux")]

use ncsn::loss::{Loss, Objective, Slicing};
use ncsn::net::{Architecture, Dimensions, NetworkConfig};
use ncsn::train::memory::Estimate;
use ncsn::train::{EmaRate, Rule, TrainingOptions};

use super::{fails, scratch, succeeds};

const SGD: Rule = Rule::Sgd { momentum: 0.9 };
const SLICED: Loss = Loss::Sliced { n_projections: 1, slicing: Slicing::Exact };

/// MiB that two steps of training took at the most.
fn measured(
    runner: &str,
    net: &NetworkConfig,
    size: usize,
    [batch, parts]: [usize; 2],
    sliced: bool,
    optimizer: &str,
) -> f64 {
    let folder = scratch();
    let (width, channels) = (net.width(), net.channels());
    let algo = if sliced { "ssm" } else { "dsm" };
    let config = format!(
        "training: {{batch_size: {batch}, micro_batches: {parts}, n_iters: 2, snapshot_freq: 100, ema_rate: 0.9, log_freq: 1, algo: {algo}}}\n\
         data: {{dataset: DIGITS, image_size: {size}, channels: {channels}}}\n\
         model: {{ngf: {width}, nef: {width}, ndf: {width}}}\n\
         optim: {{optimizer: {optimizer}, lr: 0.000001}}\n"
    );
    std::fs::write(folder.path().join("run.yml"), config).unwrap();
    let args = ["train", "--runner", runner, "--config", "run.yml", "--doc", "m", "--no-sample", "--device", "cpu"];
    succeeds(folder.path(), &args);
    let metrics = std::fs::read_to_string(folder.path().join("run/logs/m/metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    last["peak_mib"].as_f64().unwrap()
}

#[test]
fn what_training_takes_is_foreseen_to_30_percent() {
    let net = |architecture: Architecture, width, size, channels| {
        let n_levels = if architecture.is_conditional() { 10 } else { 1 };
        (architecture.network(Dimensions { channels, width, size, n_levels }), size)
    };
    for (runner, (net, size), batch, objective, rule) in [
        ("anneal", net(Architecture::Ncsn, 16, 16, 1), 64, Loss::Denoising, Rule::ADAM),
        ("anneal", net(Architecture::Ncsn, 16, 16, 1), 16, SLICED, SGD),
        ("anneal", net(Architecture::Ncsn, 40, 8, 3), 16, Loss::Denoising, Rule::ADAM),
        ("anneal", net(Architecture::Ncsn, 40, 8, 3), 64, Loss::Denoising, SGD),
        ("baseline", net(Architecture::Baseline, 8, 28, 1), 40, SLICED, Rule::ADAM),
        ("scorenet", net(Architecture::ResScore, 16, 16, 3), 128, Loss::Denoising, SGD),
        ("scorenet", net(Architecture::ResScore, 16, 16, 3), 64, SLICED, Rule::ADAM),
    ] {
        let optimizer = if rule == SGD { "SGD" } else { "Adam" };
        for micro_batches in [1, 8] {
            let found = measured(runner, &net, size, [batch, micro_batches], objective == SLICED, optimizer);
            let objective = Objective { loss: objective, ..Objective::default() };
            let options = TrainingOptions { objective, ema_rate: Some(EmaRate::Constant(0.9)), micro_batches };
            let estimate = Estimate::of_training(&net, size, &options, rule).unwrap().bytes(batch) / 1_048_576.0;
            let what = format!("{net:?}, {batch} images in {micro_batches} parts, {objective:?}, {optimizer}");
            println!("{what}: {found:.0} MiB, foreseen {estimate:.0}");
            assert!((estimate / found - 1.0).abs() <= 0.3, "{what}: {found} MiB, foreseen {estimate}");
        }
    }
}

#[test]
fn a_run_that_would_not_fit_into_memory_is_refused_and_nothing_is_written() {
    let folder = scratch();
    std::fs::write(folder.path().join("tiny.yml"), super::TINY).unwrap();
    // Terabytes.
    let huge = ["--set", "training.batch_size=65536", "--set", "model.ngf=1024", "--device", "cpu"];
    let args = [&["train", "--config", "tiny.yml", "--doc", "m"][..], &huge].concat();
    let message = fails(folder.path(), &args);
    assert!(message.contains("GiB") && message.contains("--set training.batch_size="), "{message}");
    assert!(!folder.path().join("run/logs/m").exists());
}
