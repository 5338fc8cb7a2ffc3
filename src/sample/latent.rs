//! Latents, the states at a process's largest time: ways between two of them, and temperatures.

use burn::tensor::Tensor;

/// Spherical interpolation: the point at `part` of the way from `a` to `b` along the great circle through them,
///
/// sin((1 − part)·ω)/sin ω·a + sin(part·ω)/sin ω·b with the angle ω between a and b, for each example.
///
/// Of independent normal latents the points between have the same law, where those of a straight line would be too short. Along the
/// line where a and b have no angle: where they point the same way, or opposite ways, or one of them is 0.
///
/// # Shapes
/// `a`, `b`: `[batch, …]` → as `a`.
pub fn spherical<const D: usize>(a: Tensor<D>, b: Tensor<D>, part: f64) -> Tensor<D> {
    let n = a.dims()[0];
    let mut each = [1; D];
    each[0] = n;
    let sum = |x: Tensor<D>| x.reshape([n as i32, -1]).sum_dim(1).reshape(each);
    let lengths = (sum(a.clone().square()) * sum(b.clone().square())).sqrt();
    let cos = sum(a.clone() * b.clone()) / lengths;
    // 0/0 is no angle; f32 may be a rounding above 1.
    let cos = cos.clone().mask_fill(cos.is_nan(), 1.0).clamp(-1.0, 1.0);
    let omega = cos.acos();
    let sin = omega.clone().sin();
    let has_no_angle = sin.clone().lower_elem(1e-4);
    let factor = |part: f64| {
        let straight = Tensor::full(each, part, &sin.device());
        ((omega.clone() * part).sin() / sin.clone()).mask_where(has_no_angle.clone(), straight)
    };
    a * factor(1.0 - part) + b * factor(part)
}

/// Rows of `n` points at equal distances along the great circles from latents `a` to latents `b`, both ends included: see [`spherical`].
///
/// # Shapes
/// `a`, `b`: `[rows, …]` → `[rows·n, …]`, row by row.
///
/// # Panics
/// If `n` is below 2.
pub fn arcs<const D: usize>(a: Tensor<D>, b: Tensor<D>, n: usize) -> Tensor<D> {
    assert!(n >= 2, "an arc of {n} points");
    let mut shape = a.dims();
    let (rows, len) = (shape[0], shape[1..].iter().product::<usize>());
    let point = |i: usize| match i {
        // Exactly.
        0 => a.clone(),
        i if i == n - 1 => b.clone(),
        i => spherical(a.clone(), b.clone(), i as f64 / (n - 1) as f64),
    };
    let points = (0..n).map(|i| point(i).reshape([rows, 1, len])).collect();
    shape[0] *= n;
    Tensor::<3>::cat(points, 1).reshape(shape)
}

/// Latents of N(0, (temperature·prior_std)²·I) in the place of those of the prior: `temperature`·z. Below 1 samples are smoother and
/// less varied (Song et al. 2021, §4.3, where the norm of the latents is reduced).
///
/// # Shapes
/// `z`: `[batch, …]` → as `z`.
pub fn tempered<const D: usize>(z: Tensor<D>, temperature: f64) -> Tensor<D> {
    z * temperature
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::device::{upload, values};

    fn at(a: &[f32], b: &[f32], part: f64) -> Vec<f32> {
        let tensor = |x: &[f32]| upload::<2>(x.to_vec(), [1, x.len()], &Device::flex());
        values(spherical(tensor(a), tensor(b), part)).expect("a processor")
    }

    fn are_close(found: &[f32], expected: &[f32]) -> bool {
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-6)
    }

    #[test]
    fn the_way_between_two_latents_is_an_arc() {
        let (sin, cos) = std::f32::consts::FRAC_PI_6.sin_cos();
        assert!(are_close(&at(&[2.0, 0.0], &[0.0, 2.0], 1.0 / 3.0), &[2.0 * cos, 2.0 * sin]));
        // Lengths that differ are weighted as they are.
        assert!(are_close(&at(&[1.0, 0.0], &[0.0, 3.0], 1.0 / 3.0), &[cos, 3.0 * sin]));
        let (a, b) = ([0.3, -1.0, 2.0], [1.5, 0.2, -0.4]);
        assert!(are_close(&at(&a, &b, 0.0), &a) && are_close(&at(&a, &b, 1.0), &b));
    }

    #[test]
    fn rows_go_from_one_latent_to_the_other_in_equal_steps() {
        let tensor = |x: &[f32]| upload::<2>(x.to_vec(), [2, 2], &Device::flex());
        let (a, b) = (tensor(&[2.0, 0.0, 0.0, 1.0]), tensor(&[0.0, 2.0, 0.0, 5.0]));
        let found = values(arcs(a, b, 4)).expect("a processor");
        let (sin, cos) = std::f32::consts::FRAC_PI_6.sin_cos();
        let arc = [2.0, 0.0, 2.0 * cos, 2.0 * sin, 2.0 * sin, 2.0 * cos, 0.0, 2.0];
        // Without an angle, a line.
        let line = [0.0, 1.0, 0.0, 7.0 / 3.0, 0.0, 11.0 / 3.0, 0.0, 5.0];
        assert!(are_close(&found, &[arc, line].concat()), "{found:?}");
    }

    #[test]
    fn the_way_is_a_line_where_there_is_no_angle() {
        assert!(are_close(&at(&[1.0, 2.0], &[2.0, 4.0], 0.25), &[1.25, 2.5]));
        assert!(are_close(&at(&[1.0, 2.0], &[-1.0, -2.0], 0.25), &[0.5, 1.0]));
        assert!(are_close(&at(&[0.0, 0.0], &[1.0, 2.0], 0.25), &[0.25, 0.5]));
    }

    #[test]
    fn the_points_between_latents_are_as_long_as_they_are_and_tempered_ones_are_shorter() {
        let streams = |name| [crate::noise::Noise::new(4).stream(name, 0)];
        let draw = |name| -> Tensor<2> {
            let normal = crate::noise::Distribution::Normal;
            crate::noise::tensor(normal, &mut streams(name), [20, 3000], &Device::flex())
        };
        let mean_square = |x: Tensor<2>| values(x.square().mean()).expect("a processor")[0];
        // Five standard errors of the mean of 60,000 squares of normals.
        let tolerance = 5.0 * (2.0f32 / 60_000.0).sqrt();
        for part in [0.0, 0.3, 0.5, 1.0] {
            let found = mean_square(spherical(draw("a"), draw("b"), part));
            assert!((found - 1.0).abs() < tolerance, "{part}: {found}");
        }
        let found = mean_square(tempered(draw("a"), 0.7));
        assert!((found - 0.49).abs() < 0.49 * tolerance, "{found}");
    }
}
