//! Random features for tests.

use super::LegacyRandom;

/// `n` standard normals by Box and Muller's transform.
pub fn normals(seed: u32, n: usize) -> Vec<f32> {
    let mut random = LegacyRandom::new(seed);
    let mut uniform = || (f64::from(random.next_u32()) + 0.5) / 4_294_967_296.0;
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (2.0 * std::f64::consts::PI * uniform()).cos();
    (0..n).map(|_| normal() as f32).collect()
}
