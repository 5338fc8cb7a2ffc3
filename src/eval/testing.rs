//! Random features for tests.

use crate::noise::Noise;

/// `n` standard normals.
pub fn normals(seed: u32, n: usize) -> Vec<f32> {
    let mut values = vec![0.0; n];
    Noise::new(u64::from(seed)).stream("eval/test", 0).normal(&mut values);
    values
}
