//! Metrics against the numbers of their published programs, from the same features.

use burn::tensor::{Tensor, TensorData};
use ncsn::eval::frechet::{frechet_distance_of_features, frechet_distance_of_few};
use ncsn::eval::{
    Features, ImageSet, InceptionScore, ReadOptions, ResizeRule, Resizer, RunningStatistics, ScoreOverSplits,
    Statistics, Subsets, frechet_distance, kid_by_blocks, kid_by_subsets, mmd2_unbiased,
};
use ncsn::net::Inception;
use ncsn::noise::LegacyRandom;
use safetensors::SafeTensors;
use serde_json::Value;

use crate::Case;
use crate::fixture::{device, path, read, values};
use crate::inception::network;

pub fn cases() -> Vec<Case> {
    let [frechet, isc_kid] = ["frechet", "isc_kid"].map(files);
    vec![
        Case::new(
            "frechet distances of regular covariances agree",
            &frechet,
            frechet_distances_of_regular_covariances_agree,
        ),
        Case::new(
            "frechet distances of singular covariances agree",
            &frechet,
            frechet_distances_of_singular_covariances_agree,
        ),
        Case::new("identical statistics have no distance", &frechet, identical_statistics_have_no_distance),
        Case::new("frechet distances from features agree", &frechet, frechet_distances_from_features_agree),
        Case::new(
            "four samples of 53 features, some always zero, have no distance from themselves",
            &["metrics/features_4x53.f32"],
            few_features_have_no_distance_from_themselves,
        ),
        Case::new(
            "the frechet distance of seven images agrees",
            &["metrics/two.npy", "metrics/five.npy", "metrics/inception.json"],
            the_frechet_distance_of_seven_images_agrees,
        ),
        Case::new("inception scores agree", &isc_kid, inception_scores_agree),
        Case::new("kernel distances agree", &isc_kid, kernel_distances_agree),
        Case::new("subsets are drawn as numpy draws them", &isc_kid, subsets_are_drawn_as_numpy_draws_them),
    ]
}

/// The fixture's numbers, and what is said of them.
fn files(name: &str) -> [String; 2] {
    [format!("metrics/{name}.safetensors"), format!("metrics/{name}.json")]
}

struct Fixture {
    bytes: Vec<u8>,
    meta: Value,
}

impl Fixture {
    fn open(name: &str) -> Self {
        let [bytes, meta] = files(name).map(|file| read(&file));
        let meta = serde_json::from_slice(&meta).unwrap();
        Self { bytes, meta }
    }

    fn items<T, const N: usize>(&self, name: &str, item: impl Fn([u8; N]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(name).unwrap().data().as_chunks::<N>().0.iter().map(|bytes| item(*bytes)).collect()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        self.items(name, f32::from_le_bytes)
    }

    fn f64(&self, name: &str) -> Vec<f64> {
        self.items(name, f64::from_le_bytes)
    }

    fn statistics(&self, case: &str, i: u8) -> Statistics {
        Statistics::new(None, self.f64(&format!("{case}.mu{i}")), self.f64(&format!("{case}.sigma{i}"))).unwrap()
    }
}

fn assert_close(what: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap();
    let difference = (found - expected).abs();
    assert!(difference <= tolerance * expected.abs(), "{what}: found {found}, expected {expected}");
}

fn frechet_distances_of_regular_covariances_agree() {
    let file = Fixture::open("frechet");
    for case in ["dim8", "dim48", "diagonal"] {
        let (a, b) = (file.statistics(case, 1), file.statistics(case, 2));
        for found in [frechet_distance(&a, &b).unwrap(), frechet_distance(&b, &a).unwrap()] {
            assert_close(case, found, &file.meta["cases"][case]["fid_symmetric_eigh_f64"], 1e-8);
            assert_close(case, found, &file.meta["cases"][case]["fid_pytorch_fid"], 1e-8);
        }
    }
}

fn frechet_distances_of_singular_covariances_agree() {
    let file = Fixture::open("frechet");
    for case in ["rank_deficient", "near_singular", "zero_covariance", "one_zero_covariance", "one_dimensional"] {
        let (a, b) = (file.statistics(case, 1), file.statistics(case, 2));
        let found = frechet_distance(&a, &b).unwrap();
        assert_close(case, found, &file.meta["cases"][case]["fid_symmetric_eigh_f64"], 1e-6);
    }
}

fn identical_statistics_have_no_distance() {
    let file = Fixture::open("frechet");
    let (a, b) = (file.statistics("identical", 1), file.statistics("identical", 2));
    assert_eq!(a, b);
    assert!(frechet_distance(&a, &b).unwrap().abs() < 1e-9 * a.trace());
}

fn frechet_distances_from_features_agree() {
    let file = Fixture::open("frechet");
    let (a, b) = (file.f32("activations_dim8.a"), file.f32("activations_dim8.b"));
    let statistics = |values: &[f32]| {
        let mut statistics = RunningStatistics::new(8);
        values.chunks(30 * 8).for_each(|batch| statistics.add(Features::new(batch, 8).unwrap()).unwrap());
        statistics.finish().unwrap()
    };
    let (a_statistics, b_statistics) = (statistics(&a), statistics(&b));
    let (a, b) = (Features::new(&a, 8).unwrap(), Features::new(&b, 8).unwrap());
    let expected = &file.meta["cases"]["activations_dim8"]["fid_pytorch_fid"];
    assert_close("statistics", frechet_distance(&a_statistics, &b_statistics).unwrap(), expected, 1e-8);
    assert_close("few", frechet_distance_of_few(a, &b_statistics).unwrap(), expected, 1e-8);
    assert_close("features", frechet_distance_of_features(a, b).unwrap(), expected, 1e-8);
}

fn few_features_have_no_distance_from_themselves() {
    let values: Vec<f32> =
        read("metrics/features_4x53.f32").as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let features = Features::new(&values, 53).unwrap();
    let mut statistics = RunningStatistics::new(53);
    statistics.add(features).unwrap();
    let known = statistics.finish().unwrap();
    // As files of other programs have them: of an unknown number of samples.
    let unknown = Statistics::new(None, known.mu().to_vec(), known.sigma().to_vec()).unwrap();
    for found in [
        frechet_distance(&known, &known).unwrap(),
        frechet_distance(&unknown, &unknown).unwrap(),
        frechet_distance(&unknown, &known).unwrap(),
        frechet_distance_of_few(features, &known).unwrap(),
        frechet_distance_of_features(features, features).unwrap(),
    ] {
        assert!(found.abs() <= 1e-9 * known.trace(), "{found}, a trace of {}", known.trace());
    }
}

fn the_frechet_distance_of_seven_images_agrees() {
    let net = network(&serde_json::from_slice(&read("metrics/inception.json")).unwrap());
    let [two, five] = ["metrics/two.npy", "metrics/five.npy"].map(|name| {
        let images = ImageSet::open(&path(name), &ReadOptions::default()).unwrap();
        let x = Resizer::new(ResizeRule::Compat, images.size(), Inception::SIDE)
            .batch(&images.read(0..images.len()).unwrap());
        let shape = [images.len(), 3, Inception::SIDE, Inception::SIDE];
        let features = net.forward(Tensor::from_data(TensorData::new(x, shape), &device())).features();
        values(features)
    });
    let [two, five] = [&two, &five].map(|values| Features::new(values, Inception::N_FEATURES).unwrap());
    let statistics = |features| {
        let mut statistics = RunningStatistics::new(Inception::N_FEATURES);
        statistics.add(features).unwrap();
        statistics.finish().unwrap()
    };
    for found in [
        frechet_distance_of_features(two, five).unwrap(),
        frechet_distance_of_few(two, &statistics(five)).unwrap(),
        frechet_distance_of_few(five, &statistics(two)).unwrap(),
        frechet_distance(&statistics(two), &statistics(five)).unwrap(),
    ] {
        // The value has six digits, and features are f32.
        assert!((found - 0.308_893).abs() < 2e-6, "{found}");
    }
}

fn inception_scores_agree() {
    let file = Fixture::open("isc_kid");
    let logits = file.f32("isc.logits");
    let score = |n_splits, n_batch: usize| -> ScoreOverSplits {
        let mut score = InceptionScore::new(1000, n_splits, 10).unwrap();
        logits.chunks(n_batch * 10).for_each(|batch| score.add(Features::new(batch, 10).unwrap()).unwrap());
        score.finish().unwrap()
    };
    for n_splits in [1, 3, 10] {
        let results = &file.meta["inception_score"]["results"][format!("splits{n_splits}")];
        let found = score(n_splits, 64);
        assert_eq!(found, score(n_splits, 1000));
        let exact = &results["torch_fidelity_from_logits"];
        assert_close("mean", found.mean, &exact["inception_score_mean"], 1e-9);
        assert_close("std", found.std, &exact["inception_score_std"], 1e-9);
        let rounded = &results["openai_formula_from_float32_probs"];
        for (i, &found) in found.splits.iter().enumerate() {
            assert_close("split", found, &rounded["scores"][i], 1e-5);
        }
    }
}

fn kernel_distances_agree() {
    let file = Fixture::open("isc_kid");
    let kid = &file.meta["kid"];
    let values = ["kid.f1", "kid.f2", "kid.f3"].map(|name| file.f32(name));
    let [f1, f2, f3] = values.each_ref().map(|values| Features::new(values, 16).unwrap());

    let found = mmd2_unbiased(f1, f2).unwrap();
    assert_close("all", found, &kid["full_f1_f2"], 1e-9);
    assert_close("all in f32", found, &kid["full_f1_f2_float32"], 1e-5);
    assert_close("unequal", mmd2_unbiased(f1, f3).unwrap(), &kid["unequal_sizes_f1_f3"], 1e-9);
    // TF-GAN with one block is the same.
    assert_close("one block", kid_by_blocks(f1, f3, 1024).unwrap().mean, &kid["unequal_sizes_f1_f3"], 1e-9);

    let found = kid_by_subsets(f1, f2, Subsets { n: 8, size: 40, seed: 2020 }).unwrap();
    for (i, &found) in found.subsets.iter().enumerate() {
        assert_close("subset", found, &kid["subsets"]["each"][i], 1e-9);
    }
    assert_close("mean", found.mean, &kid["subsets"]["mean"], 1e-9);
    assert_close("std", found.std, &kid["subsets"]["std_ddof0"], 1e-9);
}

fn subsets_are_drawn_as_numpy_draws_them() {
    let file = Fixture::open("isc_kid");
    let mut random = LegacyRandom::new(2020);
    let [of_x, of_y] = ["kid.subset_idx1", "kid.subset_idx2"].map(|name| file.items(name, i64::from_le_bytes));
    for (of_x, of_y) in of_x.chunks(40).zip(of_y.chunks(40)) {
        for indices in [of_x, of_y] {
            let found: Vec<i64> = random.choice(120, 40).into_iter().map(|i| i as i64).collect();
            assert_eq!(found, indices);
        }
    }
}
