//! All pairs of two sets, tile by tile: products xᵀy, and distances from them.
//!
//! Products are in `f64`, and each is summed in one order, whichever tile it falls into and whichever of the two comes first: so
//! ‖x − y‖ is bit for bit ‖y − x‖, and comparing it with a distance found elsewhere is exact.

use std::ops::Range;

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::Features;

/// The most rows of a tile.
const MAX_TILE_ROWS: usize = 256;
/// Numbers in a tile, 8 MiB, where rows are so long that fewer of them suffice.
const N_TILE: usize = 1 << 20;
/// Tiles have a multiple of these rows, zeros at the end: the product of few rows would be summed in another order.
const ROW_MULTIPLE: usize = 8;
/// Squared distances below this share of ‖x‖² + ‖y‖² have lost up to four digits in ‖x‖² + ‖y‖² − 2xᵀy, and are computed
/// again from differences. Equal rows thus have the distance 0.
const EXACT_BELOW: f64 = 1e-4;

/// Some rows x of a set, which meet all rows y of another.
pub(super) struct Tile {
    /// Which rows.
    pub rows: Range<usize>,
    /// `[rows, dim]`. Matrices here are never views with gaps between the numbers of a column, of which nalgebra 0.35 reads too
    /// many (its issue 1616).
    x: DMatrix<f64>,
}

impl Tile {
    /// How many rows a tile of `dim` features has at most.
    pub fn n_rows(dim: usize) -> usize {
        (N_TILE / dim / ROW_MULTIPLE * ROW_MULTIPLE).clamp(ROW_MULTIPLE, MAX_TILE_ROWS)
    }

    /// The tiles of `n` rows.
    pub fn ranges(n: usize, dim: usize) -> impl Iterator<Item = Range<usize>> {
        let n_rows = Self::n_rows(dim);
        (0..n).step_by(n_rows).map(move |start| start..(start + n_rows).min(n))
    }

    /// The rows `rows` of `features`.
    pub fn new(features: Features<'_>, rows: Range<usize>) -> Self {
        let x = columns(features.rows(rows.clone())).transpose();
        Self { rows, x }
    }

    /// ‖x‖² of each row.
    fn squared_norms(&self) -> Vec<f64> {
        self.x.row_iter().take(self.rows.len()).map(|x| squared_norm(x.iter())).collect()
    }

    /// Calls `visit(j, ‖y‖², xᵀy of all x in this tile)` for each row y, number `j`, of `others`, in order.
    pub fn for_each_product(&self, others: Features<'_>, mut visit: impl FnMut(usize, f64, &[f64])) {
        let mut products = DMatrix::zeros(0, 0);
        for rows in Self::ranges(others.n(), others.dim()) {
            let y = columns(others.rows(rows.clone()));
            if products.ncols() != y.ncols() {
                products = DMatrix::zeros(self.x.nrows(), y.ncols());
            }
            products.gemm(1.0, &self.x, &y, 0.0);
            let products = products.as_slice().chunks_exact(self.x.nrows());
            for ((j, y), products) in rows.zip(y.column_iter()).zip(products) {
                visit(j, squared_norm(y.iter()), &products[..self.rows.len()]);
            }
        }
    }
}

/// Rows as the columns of a matrix, and zeros.
fn columns(features: Features<'_>) -> DMatrix<f64> {
    let (n, dim) = (features.n().next_multiple_of(ROW_MULTIPLE), features.dim());
    let mut values = Vec::with_capacity(n * dim);
    values.extend(features.values().iter().map(|&value| f64::from(value)));
    values.resize(n * dim, 0.0);
    DMatrix::from_vec(dim, n, values)
}

fn squared_norm<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.map(|x| x * x).sum()
}

/// Calls `step(state, i, j, d²)` for each row `i` of `a`, whose state is `states[i]`, and each row `j` of `b` in order, with
/// their squared distance. Rows of `a` are shared out among the cores.
pub(super) fn fold_distances<S: Send>(
    a: Features<'_>,
    b: Features<'_>,
    states: &mut [S],
    step: impl Fn(&mut S, usize, usize, f64) + Sync,
) {
    let n_rows = Tile::n_rows(a.dim());
    states.par_chunks_mut(n_rows).enumerate().for_each(|(t, states)| {
        let start = t * n_rows;
        let tile = Tile::new(a, start..start + states.len());
        let x_norms = tile.squared_norms();
        tile.for_each_product(b, |j, y_norm, products| {
            for (k, (state, product)) in states.iter_mut().zip(products).enumerate() {
                let sum = x_norms[k] + y_norm;
                let d2 = sum - 2.0 * product;
                let d2 = if d2 < EXACT_BELOW * sum { squared_distance(a.row(start + k), b.row(j)) } else { d2 };
                step(state, start + k, j, d2);
            }
        });
    });
}

/// ‖x − y‖², from differences.
pub(super) fn squared_distance(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2)).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    fn distances(a: Features<'_>, b: Features<'_>) -> Vec<Vec<f64>> {
        let mut rows = vec![Vec::new(); a.n()];
        fold_distances(a, b, &mut rows, |row: &mut Vec<f64>, _, j, d2| {
            assert_eq!(row.len(), j, "in order");
            row.push(d2);
        });
        rows
    }

    #[test]
    fn distances_are_those_of_the_definition_at_the_ends_of_tiles_too() {
        for (n, m, dim) in [(1, 1, 1), (3, 700, 2), (257, 5, 7), (9, 17, 150_000)] {
            let (a, b) = (normals(1, n * dim), normals(2, m * dim));
            let (a, b) = (Features::new(&a, dim).unwrap(), Features::new(&b, dim).unwrap());
            let found = distances(a, b);
            for (i, row) in found.iter().enumerate() {
                assert_eq!(row.len(), m);
                for (j, d2) in row.iter().enumerate() {
                    let expected = squared_distance(a.row(i), b.row(j));
                    // An f64 sum's rounding, four digits of which may be lost.
                    assert!((d2 - expected).abs() <= 1e-10 * expected, "{i} {j}: {d2} {expected}");
                }
            }
        }
    }

    #[test]
    fn a_distance_is_the_same_both_ways_bit_for_bit() {
        let (a, b) = (normals(1, 259 * 300), normals(2, 41 * 300));
        let (a, b) = (Features::new(&a, 300).unwrap(), Features::new(&b, 300).unwrap());
        let (there, back) = (distances(a, b), distances(b, a));
        assert!((0..259).all(|i| (0..41).all(|j| there[i][j].to_bits() == back[j][i].to_bits())));
    }

    #[test]
    fn close_points_far_from_the_origin_keep_their_distance() {
        // Their squared norms are 3e10, of which rounding in f64 leaves 4e-6; the squared distance is 3e-4.
        let (x, y) = ([1e5; 3], [1e5 + 0.007_812_5; 3]);
        let found = distances(Features::new(&x, 3).unwrap(), Features::new(&y, 3).unwrap());
        assert_eq!(found, [[3.0 * 0.007_812_5 * 0.007_812_5]]);
        assert_eq!(distances(Features::new(&x, 3).unwrap(), Features::new(&x, 3).unwrap()), [[0.0]]);
    }
}
