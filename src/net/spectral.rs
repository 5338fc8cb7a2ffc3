//! Spectral normalisation: weights divided by their largest singular value, which a step of power iteration follows through training
//! (Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks", algorithm 1).

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::Tensor;

use super::params;

/// The least length that a vector is divided by, as in PyTorch.
const EPSILON: f64 = 1e-12;

/// How the names of the two vectors and of the weight end.
const LEFT: &str = "_u";
const RIGHT: &str = "_v";
const WEIGHT: &str = "_orig";

/// `x` with length 1.
pub(super) fn unit(x: Tensor<1>) -> Tensor<1> {
    let length = x.clone().square().sum_dim(0).sqrt().clamp_min(EPSILON);
    x / length
}

/// W/(uᵀWv), where W is the weight as a matrix of `out` rows.
pub(super) fn normalised(weight: Tensor<4>, u: Tensor<1>, v: Tensor<1>) -> Tensor<4> {
    let n_out = weight.dims()[0];
    let rows = weight.clone().reshape([n_out as isize, -1]);
    let norm = (times(rows, v) * u).sum_dim(0);
    weight / norm.reshape([1; 4])
}

/// `rows`·v
fn times(rows: Tensor<2>, v: Tensor<1>) -> Tensor<1> {
    let n_out = rows.dims()[0];
    (rows * v.unsqueeze::<2>()).sum_dim(1).reshape([n_out])
}

/// `net` after a step of power iteration for each of its normalised weights: v ← Wᵀu/‖Wᵀu‖, then u ← Wv/‖Wv‖. A step of training begins
/// with it.
pub fn iterate<M: Module>(net: M) -> M {
    let names = params::buffers(&net);
    let lefts = names.iter().zip(params::buffer_values(&net));
    let mut before: BTreeMap<String, Tensor<1>> =
        lefts.filter_map(|(name, value)| Some((name.strip_suffix(LEFT)?.to_string(), value))).collect();
    if before.is_empty() {
        return net;
    }
    let mut after = BTreeMap::new();
    params::visit(&net, |name, shape, value| {
        let stem = name.strip_suffix(WEIGHT);
        if let Some((stem, u)) = stem.and_then(|stem| Some((stem, before.remove(stem)?))) {
            let rows: Tensor<2> = value.without_autodiff().reshape([shape[0] as isize, -1]);
            let v = unit(times(rows.clone().transpose(), u));
            let u = unit(times(rows, v.clone()));
            after.extend([(format!("{stem}{LEFT}"), u), (format!("{stem}{RIGHT}"), v)]);
        }
    });
    params::map_buffers(net, |index, before| after.remove(&names[index]).unwrap_or(before))
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::net::Conv2d;
    use crate::noise::Noise;

    fn host(x: Tensor<1>) -> Vec<f64> {
        x.try_into_vec_as::<f32>().expect("f32").into_iter().map(f64::from).collect()
    }

    #[test]
    fn a_step_is_one_of_power_iteration_and_many_find_the_largest_singular_value() {
        let device = Device::flex().autodiff();
        let mut noise = Noise::new(3).stream("init", 0);
        let conv = Conv2d::new(2, 4, 3, 1, true, &mut noise, &device).with_spectral_norm(&mut noise);
        assert_eq!(params::names(&conv), ["bias", "weight_orig"]);
        assert_eq!(params::buffers(&conv), ["weight_u", "weight_v"]);
        let mut weight = Vec::new();
        params::visit(&conv, |name, _, value| {
            if name == "weight_orig" {
                weight = host(value.inner())
            }
        });
        let [u, _] =
            <[_; 2]>::try_from(params::buffer_values(&conv).into_iter().map(host).collect::<Vec<_>>()).expect("two");
        let unit = |x: Vec<f64>| {
            let length = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            x.into_iter().map(|x| x / length).collect::<Vec<_>>()
        };
        let rows_times = |v: &[f64]| -> Vec<f64> {
            weight.chunks(18).map(|row| row.iter().zip(v).map(|(w, v)| w * v).sum()).collect()
        };
        let mut v = vec![0.0; 18];
        weight.chunks(18).zip(&u).for_each(|(row, u)| v.iter_mut().zip(row).for_each(|(v, w)| *v += w * u));
        let v = unit(v);
        let expected = [unit(rows_times(&v)), v];
        let conv = iterate(conv);
        for (found, expected) in params::buffer_values(&conv).into_iter().zip(expected) {
            for (found, expected) in host(found).into_iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found}, expected {expected}");
            }
        }
        let conv = (0..300).fold(conv, |conv, _| iterate(conv));
        let [u, v] = <[_; 2]>::try_from(params::buffer_values(&conv)).expect("two");
        let matrix = nalgebra::DMatrix::from_row_slice(4, 18, &weight);
        let largest = matrix.singular_values().max();
        let found: f64 = rows_times(&host(v)).iter().zip(host(u)).map(|(w, u)| w * u).sum();
        assert!((found / largest - 1.0).abs() < 1e-5, "{found}, expected {largest}");
    }

    #[test]
    fn the_gradient_is_that_of_the_divided_weight_with_fixed_vectors() {
        let device = Device::flex().autodiff();
        let values = |n: usize, f: fn(usize) -> f64| (0..n).map(f).collect::<Vec<_>>();
        let w = values(12, |i| ((i * 7) % 5) as f64 - 1.6);
        let (u, v) = (values(3, |i| [0.6, 0.0, 0.8][i]), values(4, |_| 0.5));
        let factors = values(12, |i| (i as f64).sin());
        let of = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
        let loss = |w: &[f64]| {
            let norm: f64 =
                w.chunks(4).zip(&u).map(|(row, u)| u * row.iter().zip(&v).map(|(w, v)| w * v).sum::<f64>()).sum();
            w.iter().zip(&factors).map(|(w, f)| w / norm * f).sum::<f64>()
        };
        let tensor = |x: &[f64]| Tensor::<1>::from_data(&of(x)[..], &device);
        let weight = tensor(&w).reshape([3, 1, 2, 2]).require_grad();
        let divided = normalised(weight.clone(), tensor(&u), tensor(&v));
        let gradient = (divided.reshape([12]) * tensor(&factors)).sum().backward();
        let found = host(weight.grad(&gradient).expect("a gradient").reshape([-1]));
        for (i, found) in found.into_iter().enumerate() {
            let at = |step: f64| {
                let mut w = w.clone();
                w[i] += step;
                loss(&w)
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((found - expected).abs() < 1e-4 * (1.0 + expected.abs()), "{i}: {found}, expected {expected}");
        }
    }
}
