//! The kernel Inception distance: the squared maximum mean discrepancy under k(x, y) = (xᵀy/dim + 1)³ (Bińkowski et al.
//! 2018). Its estimate is unbiased at any number of samples, and so may be a little below 0.

use rayon::prelude::*;

use super::pairs::Tile;
use super::{Features, mean_and_variance};
use crate::error::{Error, Result};
use crate::noise::LegacyRandom;

/// How subsets are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subsets {
    /// How many.
    pub n: usize,
    /// Samples from each set in a subset.
    pub size: usize,
    /// The seed of [`LegacyRandom`].
    pub seed: u32,
}

impl Default for Subsets {
    /// torch-fidelity's: 100 of 1000, seed 2020.
    fn default() -> Self {
        Self { n: 100, size: 1000, seed: 2020 }
    }
}

/// The estimate over subsets.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelDistance {
    /// The mean.
    pub mean: f64,
    /// The standard deviation (ddof 0) of one subset's estimate.
    pub std: f64,
    /// Each subset's.
    pub subsets: Vec<f64>,
}

/// The estimate over blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// The mean.
    pub mean: f64,
    /// The mean's standard error, √(var/B) with var of ddof 1; not known from one block.
    pub standard_error: Option<f64>,
    /// Each block's.
    pub blocks: Vec<f64>,
}

/// The unbiased estimate of MMD² from all of both sets, of m and n samples:
/// Σ_{i≠j} k(xᵢ, xⱼ)/(m(m − 1)) + Σ_{i≠j} k(yᵢ, yⱼ)/(n(n − 1)) − 2·mean k(xᵢ, yⱼ).
///
/// # Errors
/// [`Error::Unexpected`] when a set has fewer than two samples, or they have different numbers of features.
pub fn mmd2_unbiased(x: Features<'_>, y: Features<'_>) -> Result<f64> {
    y.expect_dim(x.dim())?;
    for n in [x.n(), y.n()] {
        if n < 2 {
            return Err(Error::unexpected(format!("{n} samples"), "at least 2 for a kernel distance"));
        }
    }
    Ok(mmd2(x, y))
}

/// KID: the mean over random subsets of both sets, drawn without replacement. For each subset first samples of `x` are drawn,
/// then of `y`, all from one generator, as torch-fidelity does.
///
/// # Errors
/// As [`mmd2_unbiased`], or when a set has fewer samples than a subset, or there is no subset.
pub fn kid_by_subsets(x: Features<'_>, y: Features<'_>, options: Subsets) -> Result<KernelDistance> {
    y.expect_dim(x.dim())?;
    let n = x.n().min(y.n());
    if options.n == 0 || options.size < 2 || n < options.size {
        let found = format!("{} and {} samples for {} subsets of {}", x.n(), y.n(), options.n, options.size);
        let expected = "a subset at least, of two samples or more, and as many in both sets";
        return Err(Error::unexpected(found, expected));
    }
    let mut random = LegacyRandom::new(options.seed);
    let mut draw = |set: Features<'_>| random.choice(set.n(), options.size);
    let subsets: Vec<_> = (0..options.n).map(|_| (draw(x), draw(y))).collect();
    let subsets = subsets.par_iter().map(|(of_x, of_y)| {
        let (of_x, of_y) = (gather(x, of_x), gather(y, of_y));
        Ok(mmd2(Features::new(&of_x, x.dim())?, Features::new(&of_y, y.dim())?))
    });
    let subsets: Vec<f64> = subsets.collect::<Result<_>>()?;
    let (mean, variance) = mean_and_variance(&subsets, 0);
    Ok(KernelDistance { mean, std: variance.sqrt(), subsets })
}

/// KID: the mean over blocks of neighbouring samples, B = ⌈max(m, n)/`max_block`⌉ of them from each set, as TF-GAN does
/// (with `max_block` 1024; Score-SDE's published KID).
///
/// # Errors
/// As [`mmd2_unbiased`], or when a block has fewer than two samples.
pub fn kid_by_blocks(x: Features<'_>, y: Features<'_>, max_block: usize) -> Result<Blocks> {
    y.expect_dim(x.dim())?;
    let n_blocks = x.n().max(y.n()).div_ceil(max_block.max(1));
    if n_blocks == 0 || x.n().min(y.n()) / n_blocks < 2 {
        let found = format!("{} and {} samples for {n_blocks} blocks of at most {max_block}", x.n(), y.n());
        return Err(Error::unexpected(found, "at least 2 samples in each"));
    }
    let blocks: Vec<f64> =
        (0..n_blocks).into_par_iter().map(|i| mmd2(block(x, i, n_blocks), block(y, i, n_blocks))).collect();
    let (mean, variance) = mean_and_variance(&blocks, 1);
    let standard_error = (n_blocks > 1).then(|| (variance / n_blocks as f64).sqrt());
    Ok(Blocks { mean, standard_error, blocks })
}

/// Block `i`: the first blocks have ⌊n/B⌋ samples, the last n mod B one more.
fn block(set: Features<'_>, i: usize, n_blocks: usize) -> Features<'_> {
    let (size, n_small) = (set.n() / n_blocks, n_blocks - set.n() % n_blocks);
    let start = |i: usize| i * size + i.saturating_sub(n_small);
    set.rows(start(i)..start(i + 1))
}

fn gather(set: Features<'_>, indices: &[usize]) -> Vec<f32> {
    indices.iter().flat_map(|&i| set.row(i)).copied().collect()
}

/// The estimate from sets that can be compared.
fn mmd2(x: Features<'_>, y: Features<'_>) -> f64 {
    let (m, n) = (x.n() as f64, y.n() as f64);
    let within = |set, n: f64| sum_of_kernel(set, set, true) / (n * (n - 1.0));
    within(x, m) + within(y, n) - 2.0 * sum_of_kernel(x, y, false) / (m * n)
}

/// Σk(xᵢ, yⱼ), over i ≠ j only if asked.
fn sum_of_kernel(x: Features<'_>, y: Features<'_>, skips_equal: bool) -> f64 {
    let gamma = 1.0 / x.dim() as f64;
    let tiles: Vec<_> = Tile::ranges(x.n(), x.dim()).collect();
    let sums = tiles.into_par_iter().map(|rows| {
        let mut sum = 0.0;
        Tile::new(x, rows.clone()).for_each_product(y, |j, _, products| {
            let pairs = rows.clone().zip(products).filter(|&(i, _)| !(skips_equal && i == j));
            sum += pairs.map(|(_, product)| (gamma * product + 1.0).powi(3)).sum::<f64>();
        });
        sum
    });
    // Collected first, so that the sum has one order on any number of threads.
    sums.collect::<Vec<f64>>().into_iter().sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    #[test]
    fn the_estimate_is_the_definition_on_several_tiles() {
        let (m, n, dim) = (300, 261, 3);
        let (x, y) = (normals(1, m * dim), normals(2, n * dim));
        let (x, y) = (Features::new(&x, dim).unwrap(), Features::new(&y, dim).unwrap());
        let kernel = |a: &[f32], b: &[f32]| {
            let product: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            (product / 3.0 + 1.0).powi(3)
        };
        let within = |set: Features<'_>| {
            let n = set.n();
            let pairs = (0..n).flat_map(|i| (0..n).filter(move |&j| i != j).map(move |j| (i, j)));
            pairs.map(|(i, j)| kernel(set.row(i), set.row(j))).sum::<f64>() / (n * (n - 1)) as f64
        };
        let across = (0..m).flat_map(|i| (0..n).map(move |j| (i, j))).map(|(i, j)| kernel(x.row(i), y.row(j)));
        let expected = within(x) + within(y) - 2.0 * across.sum::<f64>() / (m * n) as f64;
        // Rounding in sums of 1e5 terms of order 1.
        assert!((mmd2_unbiased(x, y).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn the_estimate_of_equal_distributions_is_zero_on_average() {
        let (n, dim) = (20, 4);
        let estimates: Vec<f64> = (0..400)
            .map(|seed| {
                let (x, y) = (normals(2 * seed, n * dim), normals(2 * seed + 1, n * dim));
                mmd2_unbiased(Features::new(&x, dim).unwrap(), Features::new(&y, dim).unwrap()).unwrap()
            })
            .collect();
        let (mean, variance) = mean_and_variance(&estimates, 1);
        // Four standard errors. With its diagonals the estimate would lie 1.0 above: E k(x, x) − E k(x, y) = 11.5 − 1.75, times
        // 2/n.
        assert!(mean.abs() < 4.0 * (variance / 400.0).sqrt(), "{mean} {variance}");
        assert!((variance / 400.0).sqrt() < 0.05 && estimates.iter().any(|&estimate| estimate < 0.0));
    }

    #[test]
    fn blocks_are_neighbours_and_the_last_ones_are_larger() {
        let values: Vec<f32> = (0..11).map(|i| i as f32).collect();
        let set = Features::new(&values, 1).unwrap();
        let found: Vec<&[f32]> = (0..3).map(|i| block(set, i, 3).values()).collect();
        assert_eq!(found, [&values[..3], &values[3..7], &values[7..]]);

        let y = Features::new(&values[..6], 1).unwrap();
        let found = kid_by_blocks(set, y, 5).unwrap();
        assert_eq!(found.blocks.len(), 3);
        assert_eq!(found.blocks[1], mmd2_unbiased(set.rows(3..7), y.rows(2..4)).unwrap());
        let variance = found.blocks.iter().map(|b| (b - found.mean).powi(2)).sum::<f64>() / 2.0;
        assert_eq!(found.standard_error, Some((variance / 3.0).sqrt()));
        let whole = kid_by_blocks(set, y, 1024).unwrap();
        assert_eq!((whole.mean, whole.standard_error), (mmd2_unbiased(set, y).unwrap(), None));
    }

    #[test]
    fn too_few_samples_are_told() {
        let values = [0.0; 5];
        let set = Features::new(&values, 1).unwrap();
        let message = kid_by_subsets(set, set, Subsets::default()).unwrap_err().to_string();
        assert!(message.starts_with("found 5 and 5 samples for 100 subsets of 1000"), "{message}");
        let message = kid_by_blocks(set, set.rows(0..3), 2).unwrap_err().to_string();
        assert!(message.contains("found 5 and 3 samples for 3 blocks of at most 2"), "{message}");
        assert!(kid_by_blocks(set.rows(0..0), set.rows(0..0), 2).is_err());
        assert!(mmd2_unbiased(set, set.rows(0..1)).unwrap_err().to_string().contains("found 1 samples"));
        assert!(mmd2_unbiased(set, Features::new(&[0.0; 4], 2).unwrap()).is_err());
    }
}
