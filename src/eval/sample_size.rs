//! How many samples a Fréchet distance is of, which decides what it may be called: it falls by about 1/n as n grows.

use crate::error::{Error, Result};

/// The fewest samples whose FID may be compared with published ones (Heusel et al. 2017 recommend at least as many).
const N_COMPARABLE: u64 = 10_000;
/// The smallest of the sizes from which FID∞ is extrapolated.
const N_SMALLEST: usize = 5000;
/// How many sizes that takes.
const N_SIZES: usize = 15;

/// What to call the FID of `n` samples: `FID` only if it may be compared with others, else `FID-1k`, `FID-500`, …
pub fn fid_name(n: u64) -> String {
    match n {
        N_COMPARABLE.. => "FID".into(),
        _ if n > 0 && n.is_multiple_of(1000) => format!("FID-{}k", n / 1000),
        _ => format!("FID-{n}"),
    }
}

/// What must be said beside a Fréchet distance of `n` samples with `dim` features.
pub fn fid_warnings(n: u64, dim: usize) -> Vec<String> {
    let singular = (n <= dim as u64).then(|| format!("n <= {dim}: covariance singular"));
    let incomparable = (n < N_COMPARABLE).then(|| "not comparable with published FID".to_string());
    singular.into_iter().chain(incomparable).collect()
}

/// The sizes of subsets from which FID∞ is extrapolated: 15, evenly spaced from 5,000 (or n/10, if that is smaller) to n.
///
/// # Errors
/// [`Error::Unexpected`] when `n` is below 3, for a line needs two sizes.
pub fn fid_infinity_sizes(n: usize) -> Result<Vec<usize>> {
    if n < 3 {
        return Err(Error::unexpected(format!("{n} samples"), "at least 3 to extrapolate a distance"));
    }
    let first = N_SMALLEST.min(n / 10).max(2);
    Ok((0..N_SIZES).map(|i| first + (n - first) * i / (N_SIZES - 1)).collect())
}

/// FID∞: the value at 1/n = 0 of the line that fits (n, distance) best.
///
/// # Errors
/// [`Error::Unexpected`] when there are not two different n; [`Error::Value`] when an n is 0 or a distance is not finite.
pub fn fid_infinity(distances: &[(usize, f64)]) -> Result<f64> {
    let count = distances.len() as f64;
    let mean = |f: &dyn Fn(f64, f64) -> f64| {
        distances.iter().map(|&(n, distance)| f(1.0 / n as f64, distance)).sum::<f64>() / count
    };
    let (x_mean, y_mean) = (mean(&|x, _| x), mean(&|_, y| y));
    let variance = mean(&|x, _| (x - x_mean).powi(2));
    let first = distances.first().map(|&(n, _)| n);
    if distances.iter().any(|&(n, _)| n == 0) {
        return Err(Error::value("the number of samples behind a distance", 0, "at least 1"));
    }
    if distances.iter().all(|&(n, _)| Some(n) == first) {
        let found = first.map_or("no distances".into(), |n| format!("distances of {n} samples alone"));
        return Err(Error::unexpected(found, "those of at least two different numbers"));
    }
    if let Some((n, distance)) = distances.iter().find(|(_, distance)| !distance.is_finite()) {
        return Err(Error::value(format!("the distance of {n} samples"), distance, "a finite number"));
    }
    let slope = mean(&|x, y| (x - x_mean) * (y - y_mean)) / variance;
    Ok(y_mean - slope * x_mean)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_of_few_samples_is_never_called_fid() {
        assert_eq!(["FID-39", "FID-1k", "FID-9999", "FID"], [39, 1000, 9999, 10_000].map(fid_name)[..]);
        assert_eq!(fid_warnings(2048, 2048), ["n <= 2048: covariance singular", "not comparable with published FID"]);
        assert_eq!(fid_warnings(2049, 2048), ["not comparable with published FID"]);
        assert!(fid_warnings(10_000, 2048).is_empty());
    }

    #[test]
    fn the_sizes_go_evenly_from_5000_or_a_tenth_to_all() {
        let sizes = fid_infinity_sizes(50_000).unwrap();
        assert_eq!((sizes.len(), sizes[0], sizes[7], sizes[14]), (15, 5000, 27_500, 50_000));
        let sizes = fid_infinity_sizes(3).unwrap();
        assert_eq!((sizes[0], sizes[14]), (2, 3));
        assert!(fid_infinity_sizes(2).unwrap_err().to_string().contains("found 2 samples"));
    }

    #[test]
    fn a_bias_of_one_over_n_is_taken_off() {
        let sizes = fid_infinity_sizes(10_000).unwrap();
        let distances: Vec<_> = sizes.into_iter().map(|n| (n, 3.0 + 700.0 / n as f64)).collect();
        assert!((fid_infinity(&distances).unwrap() - 3.0).abs() < 1e-12);
        for (impossible, message) in [
            (&[][..], "found no distances, expected those of at least two different numbers"),
            (
                &[(5, 1.0), (5, 2.0)],
                "found distances of 5 samples alone, expected those of at least two different numbers",
            ),
            (&[(0, 1.0), (5, 2.0)], "the number of samples behind a distance is 0, expected at least 1"),
        ] {
            assert_eq!(fid_infinity(impossible).unwrap_err().to_string(), message);
        }
        let message = fid_infinity(&[(5, 1.0), (6, f64::NEG_INFINITY)]).unwrap_err().to_string();
        assert_eq!(message, "the distance of 6 samples is -inf, expected a finite number");
    }
}
