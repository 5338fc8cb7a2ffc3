//! Batches and training steps.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use ncsn::data::digits::Digits;
use ncsn::data::memory::InMemory;
use ncsn::data::{Batch, BatchOptions, Batches, Dequantise, Range, Source, Split, Transform};
use ncsn::loss::{Loss, Objective, Slicing, Times};
use ncsn::net::{RefineNet, RefineNetConfig, params};
use ncsn::noise::Noise;
use ncsn::score::Model;
use ncsn::sde::NoiseLevels;
use ncsn::train::{Ema, EmaRate, OptimizerConfig, Rule, Trainer, TrainingOptions};

fn options(batch_size: usize) -> BatchOptions {
    BatchOptions {
        batch_size,
        random_flip: false,
        transform: Transform { dequantise: Dequantise::Uniform, range: Range::Unit },
    }
}

/// 20 images of one pixel, whose value is their number.
fn numbered() -> Arc<dyn Source> {
    Arc::new(InMemory::new((0..20).collect(), [1, 1, 1]).unwrap())
}

fn numbers(batch: &Batch) -> Vec<u8> {
    batch.x.iter().map(|x| (x * 256.0) as u8).collect()
}

#[test]
fn an_epoch_holds_every_image_once_though_batches_straddle_epochs() {
    let batches = Batches::new(numbered(), options(7), Noise::new(1), "train", 0);
    let seen: Vec<u8> = batches.take(20).flat_map(|b| numbers(&b.unwrap())).collect();
    assert_eq!(seen.len(), 140);
    let epochs: Vec<&[u8]> = seen.chunks(20).collect();
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
    assert_ne!(epochs[0], epochs[1], "each epoch has its own order");
}

#[test]
fn batches_from_any_number_on_are_those_of_the_whole_sequence() {
    let from = |first| Batches::new(numbered(), options(3), Noise::new(1), "train", first).map(Result::unwrap);
    let whole: Vec<Batch> = from(0).take(12).collect();
    assert_eq!(from(5).take(7).collect::<Vec<_>>(), whole[5..]);
    let other: Vec<Batch> =
        Batches::new(numbered(), options(3), Noise::new(2), "train", 0).take(12).map(Result::unwrap).collect();
    assert_ne!(other, whole, "another seed, another order");
}

#[test]
fn flips_mirror_about_half_of_the_images() {
    let pair: Arc<dyn Source> = Arc::new(InMemory::new(vec![0, 255], [1, 1, 2]).unwrap());
    let options = BatchOptions { random_flip: true, ..options(1000) };
    let batch = Batches::new(pair, options, Noise::new(1), "train", 0).next().unwrap().unwrap();
    let n_flipped = batch.x.chunks(2).filter(|row| row[0] > row[1]).count();
    // Binomial: standard deviation 16; five of them.
    assert!(n_flipped.abs_diff(500) < 80, "{n_flipped}");
}

#[test]
fn a_panic_of_the_data_s_thread_goes_on_where_batches_are_taken() {
    /// Whose images cannot even be tried.
    struct Broken;
    impl Source for Broken {
        fn len(&self) -> usize {
            2
        }
        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }
        fn read(&self, _: usize, _: &mut [u8]) -> ncsn::Result<()> {
            panic!("a broken source")
        }
    }
    let mut batches = Batches::new(Arc::new(Broken), options(1), Noise::new(1), "train", 0);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| batches.next())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a broken source"));
    assert!(batches.next().is_none());
}

fn trainer(optimizer: OptimizerConfig, options: TrainingOptions) -> Trainer<RefineNet> {
    let config = RefineNetConfig::ncsn(1, 4, 3);
    let noise = Noise::new(3);
    let net = RefineNet::new(&config, &mut noise.stream("init", 0), &Device::flex().autodiff()).unwrap();
    Trainer::new(Model::new(net, NoiseLevels::geometric(1.0, 0.1, 3).unwrap()), optimizer, options, noise)
}

const ADAM: OptimizerConfig = OptimizerConfig::new(Rule::ADAM, 1e-3);

fn digits(batch_size: usize) -> Batches {
    Batches::new(Arc::new(Digits::new(8, 1, Split::Train).unwrap()), options(batch_size), Noise::new(3), "train", 0)
}

#[test]
fn training_lowers_the_loss() {
    let mut trainer = trainer(ADAM, TrainingOptions::default());
    let losses: Vec<f64> = digits(16).take(150).map(|b| trainer.step(b.unwrap()).unwrap().loss().unwrap()).collect();
    let last = losses[140..].iter().sum::<f64>() / 10.0;
    // s = 0 has the loss E ½‖z‖² = 64/2, and so has, about, a fresh network.
    assert!((losses[0] - 32.0).abs() < 8.0 && last < 0.7 * 32.0, "{} → {last}", losses[0]);
}

#[test]
fn a_step_is_the_same_every_time() {
    let weights = |_: u32| {
        let mut trainer = trainer(ADAM, TrainingOptions::default());
        for batch in digits(5).take(3) {
            trainer.step(batch.unwrap()).unwrap();
        }
        params::to_host(trainer.net()).unwrap()
    };
    assert!(weights(0) == weights(1));
}

#[test]
fn the_moving_average_of_a_run_is_that_of_its_weights_after_each_step() {
    let mut trainer =
        trainer(ADAM, TrainingOptions { ema_rate: Some(EmaRate::Constant(0.9)), ..TrainingOptions::default() });
    let mut ema = Ema::new(EmaRate::Constant(0.9), trainer.net());
    for batch in digits(4).take(3) {
        trainer.step(batch.unwrap()).unwrap();
        ema.update(trainer.net());
    }
    assert!(params::to_host(trainer.ema().unwrap()).unwrap() == params::to_host(ema.module()).unwrap());
}

#[test]
fn copies_of_a_network_stay_as_they_are_when_it_is_trained() {
    let mut trainer =
        trainer(ADAM, TrainingOptions { ema_rate: Some(EmaRate::Constant(0.9)), ..TrainingOptions::default() });
    let mut batches = digits(4);
    trainer.step(batches.next().unwrap().unwrap()).unwrap();
    let (net, average, optimizer) = (trainer.net().clone(), trainer.sampling_model().net, trainer.optimizer().clone());
    let names = params::to_host(&net).unwrap().into_iter().map(|(name, value)| (name, value.shape)).collect::<Vec<_>>();
    let before =
        (params::to_host(&net).unwrap(), params::to_host(&average).unwrap(), optimizer.to_host(&names).unwrap());
    trainer.step(batches.next().unwrap().unwrap()).unwrap();
    assert!(
        (params::to_host(&net).unwrap(), params::to_host(&average).unwrap(), optimizer.to_host(&names).unwrap())
            == before
    );
    assert!(params::to_host(trainer.net()).unwrap() != before.0);
}

#[test]
fn a_batch_that_is_not_finite_is_refused_and_changes_nothing() {
    let mut trainer = trainer(ADAM, TrainingOptions::default());
    let mut batches = digits(2);
    trainer.step(batches.next().unwrap().unwrap()).unwrap();
    let before = params::to_host(trainer.net()).unwrap();
    let mut batch = batches.next().unwrap().unwrap();
    batch.x[5] = f32::NAN;
    let message = trainer.step(batch).unwrap_err().to_string();
    assert!(message.contains("the loss is NaN at step 2"), "{message}");
    assert!(params::to_host(trainer.net()).unwrap() == before);
    assert_eq!(trainer.step_count(), 1);
}

#[test]
fn clipping_shortens_a_long_gradient_and_leaves_a_short_one() {
    // One step of SGD moves the weights by lr·g, so the length of the move shows that of the gradient.
    let moved = |clip| {
        let sgd = OptimizerConfig { clip, ..OptimizerConfig::new(Rule::Sgd { momentum: 0.0 }, 1.0) };
        let mut trainer = trainer(sgd, TrainingOptions::default());
        let before = params::to_host(trainer.net()).unwrap();
        trainer.step(digits(4).next().unwrap().unwrap()).unwrap();
        let after = params::to_host(trainer.net()).unwrap();
        let difference = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
        let squares =
            before.iter().zip(&after).flat_map(|((_, a), (_, b))| a.values.iter().zip(&b.values).map(difference));
        squares.sum::<f64>().sqrt()
    };
    let free = moved(None);
    assert!(free > 1.0, "{free}");
    // f32 rounding of weights of size 1 moved by little.
    assert!((moved(Some(0.5)) - 0.5).abs() < 1e-3);
    assert!((moved(Some(2.0 * free)) - free).abs() < 1e-3 * free);
}

#[test]
fn a_step_in_parts_is_the_step_of_the_whole_batch() {
    for loss in [Loss::Denoising, Loss::Sliced { n_projections: 2, slicing: Slicing::Exact }] {
        let after = |micro_batches| {
            let options = TrainingOptions {
                objective: Objective { loss, ..Objective::default() },
                micro_batches,
                ..TrainingOptions::default()
            };
            // Steps as long as the gradient, whose errors would be lost in Adam's.
            let sgd = OptimizerConfig { clip: Some(1.0), ..OptimizerConfig::new(Rule::Sgd { momentum: 0.0 }, 1e-2) };
            let mut trainer = trainer(sgd, options);
            let before = params::to_host(trainer.net()).unwrap();
            let report = trainer.step(digits(8).next().unwrap().unwrap()).unwrap();
            let after = params::to_host(trainer.net()).unwrap();
            let moved = before.iter().zip(&after).flat_map(|((_, a), (_, b))| a.values.iter().zip(&b.values));
            (report.loss().unwrap(), moved.map(|(a, b)| f64::from(b - a)).collect::<Vec<_>>())
        };
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let (loss_of_whole, whole) = after(1);
        for n_parts in [2, 4, 8] {
            let (loss_of_parts, parts) = after(n_parts);
            assert!((loss_of_parts / loss_of_whole - 1.0).abs() < 1e-5, "{loss_of_parts}, {loss_of_whole}");
            let difference: Vec<f64> = parts.iter().zip(&whole).map(|(a, b)| a - b).collect();
            assert!(
                length(&difference) < 1e-4 * length(&whole),
                "{n_parts}: {} of {}",
                length(&difference),
                length(&whole)
            );
        }
    }
}

#[test]
fn the_test_loss_is_the_mean_of_those_of_its_levels() {
    let noise = Noise::new(3);
    let config = RefineNetConfig::ncsn(1, 4, 3);
    let net = RefineNet::new(&config, &mut noise.stream("init", 0), &Device::flex().autodiff()).unwrap();
    let model = Model::new(net, NoiseLevels::geometric(1.0, 0.1, 3).unwrap());
    let mut trainer = Trainer::new(model, OptimizerConfig::default(), TrainingOptions::default(), noise);
    let digits: Arc<dyn Source> = Arc::new(Digits::new(8, 1, Split::Train).unwrap());
    let batch = |i| Batches::new(digits.clone(), options(16), noise, "train", i).next().unwrap().unwrap();
    trainer.step(batch(0)).unwrap();
    for loss in [Loss::Denoising, Loss::Sliced { n_projections: 2, slicing: Slicing::Exact }] {
        let objective = Objective { loss, ..Objective::default() };
        let whole = trainer.test_loss(batch(1), &objective).unwrap();
        let by_level = trainer.test_loss_by_level(batch(1), &objective).unwrap();
        let times = Times::Levels.draw(16, &*trainer.model().process, &mut noise.stream("test/level", 1));
        let n = |level| times.iter().filter(|&&t| t == trainer.model().process.time(level)).count() as f64;
        assert!(by_level.len() > 1, "{by_level:?}");
        assert_eq!(by_level.iter().map(|&(level, _)| n(level)).sum::<f64>(), 16.0);
        let mean = by_level.iter().map(|&(level, loss)| n(level) * loss).sum::<f64>() / 16.0;
        assert!((mean - whole).abs() < 1e-5 * whole.abs(), "{loss:?}: {mean} and {whole}");
    }
}
