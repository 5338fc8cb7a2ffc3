//! The training images nearest to each sample: does the model remember instead of invent?

use super::Features;
use super::pairs::{fold_distances, squared_distance};
use crate::error::{Error, Result};

/// Squared distances from products are this exact, relatively; what may be nearer than the nearest so far is computed anew from
/// differences.
const MARGIN: f64 = 1e-6;

/// A member of the set that was searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its number, counted over all batches.
    pub index: usize,
    /// Its Euclidean distance.
    pub distance: f64,
}

/// The K nearest members of a set to each sample. The set comes in batches, which are not kept.
///
/// Rows are pixels in [0, 1] or features. A sample's distance is the smaller one of its own and its mirror image's.
#[derive(Clone, Debug)]
pub struct NearestNeighbours<'a> {
    samples: Features<'a>,
    mirrored: Option<Features<'a>>,
    k: usize,
    n_searched: usize,
    found: Vec<Vec<Neighbour>>,
}

impl<'a> NearestNeighbours<'a> {
    /// Of `samples`, and of the same samples mirrored left to right if given, the `k` nearest (9 in the published figures).
    ///
    /// # Errors
    /// [`Error::Value`] when `k` is 0, [`Error::Unexpected`] when there are not as many mirror images, of as many features.
    pub fn new(samples: Features<'a>, mirrored: Option<Features<'a>>, k: usize) -> Result<Self> {
        if k == 0 {
            return Err(Error::value("the number of neighbours", k, "at least 1"));
        }
        if let Some(mirrored) = mirrored {
            mirrored.expect_dim(samples.dim())?;
            if mirrored.n() != samples.n() {
                return Err(Error::unexpected(
                    format!("{} mirror images", mirrored.n()),
                    format!("one for each of {} samples", samples.n()),
                ));
            }
        }
        Ok(Self { samples, mirrored, k, n_searched: 0, found: vec![Vec::new(); samples.n()] })
    }

    /// Searches the next batch of the set.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when it has another number of features.
    pub fn add(&mut self, set: Features<'_>) -> Result<()> {
        set.expect_dim(self.samples.dim())?;
        let (k, start) = (self.k, self.n_searched);
        for samples in [Some(self.samples), self.mirrored].into_iter().flatten() {
            fold_distances(samples, set, &mut self.found, |found, i, j, d2| {
                let worst = if found.len() < k { f64::INFINITY } else { found[k - 1].distance };
                if d2 <= worst * worst * (1.0 + MARGIN) {
                    let distance = squared_distance(samples.row(i), set.row(j)).sqrt();
                    insert(found, Neighbour { index: start + j, distance }, k);
                }
            });
        }
        self.n_searched += set.n();
        Ok(())
    }

    /// The neighbours of each sample, the nearest first, of equally near ones the first in the set. They are fewer than k if the set
    /// is.
    pub fn finish(self) -> Vec<Vec<Neighbour>> {
        self.found
    }
}

/// Puts `new` where it belongs, unless its index is there with a smaller distance, and keeps the `k` nearest.
fn insert(found: &mut Vec<Neighbour>, new: Neighbour, k: usize) {
    let key = |neighbour: &Neighbour| (neighbour.distance, neighbour.index);
    if let Some(at) = found.iter().position(|old| old.index == new.index) {
        if found[at].distance <= new.distance {
            return;
        }
        found.remove(at);
    }
    let at = found.partition_point(|old| key(old) < key(&new));
    found.insert(at, new);
    found.truncate(k);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::normals;
    use super::*;

    /// By sorting all distances.
    fn by_definition(
        samples: Features<'_>,
        mirrored: Option<Features<'_>>,
        set: Features<'_>,
        k: usize,
    ) -> Vec<Vec<Neighbour>> {
        let nearest = |i: usize| {
            let distance = |j: usize| {
                let both = [Some(samples), mirrored].into_iter().flatten();
                both.map(|s| squared_distance(s.row(i), set.row(j)).sqrt()).fold(f64::INFINITY, f64::min)
            };
            let mut all: Vec<_> = (0..set.n()).map(|index| Neighbour { index, distance: distance(index) }).collect();
            all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index)));
            all.truncate(k);
            all
        };
        (0..samples.n()).map(nearest).collect()
    }

    #[test]
    fn neighbours_are_those_of_a_full_search_whatever_the_batches() {
        let (n, m, dim) = (20, 600, 12);
        let (samples, mirrored, set) = (normals(1, n * dim), normals(2, n * dim), normals(3, m * dim));
        let features = |values| Features::new(values, dim).unwrap();
        let (samples, mirrored, set) = (features(&samples[..]), features(&mirrored[..]), features(&set[..]));
        for mirrored in [None, Some(mirrored)] {
            let expected = by_definition(samples, mirrored, set, 9);
            for n_batch in [1, 100, 600] {
                let mut search = NearestNeighbours::new(samples, mirrored, 9).unwrap();
                for start in (0..m).step_by(n_batch) {
                    search.add(set.rows(start..start + n_batch)).unwrap();
                }
                assert_eq!(search.finish(), expected, "{n_batch}");
            }
        }
    }

    #[test]
    fn a_remembered_image_is_found_though_it_is_mirrored() {
        let set = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7];
        let (sample, mirrored) = ([0.7, 0.8, 0.9], [0.9, 0.8, 0.7]);
        let features = |values| Features::new(values, 3).unwrap();
        let mut search = NearestNeighbours::new(features(&sample), Some(features(&mirrored)), 9).unwrap();
        search.add(features(&set)).unwrap();
        let found = search.finish();
        assert_eq!(found[0][0], Neighbour { index: 1, distance: 0.0 });
        assert_eq!(found[0].len(), 2, "there are no more");
    }

    #[test]
    fn of_equally_near_ones_the_first_comes_first() {
        let mut search = NearestNeighbours::new(Features::new(&[0.0], 1).unwrap(), None, 2).unwrap();
        search.add(Features::new(&[1.0, -1.0], 1).unwrap()).unwrap();
        search.add(Features::new(&[1.0, 0.5], 1).unwrap()).unwrap();
        let found: Vec<usize> = search.finish()[0].iter().map(|neighbour| neighbour.index).collect();
        assert_eq!(found, [3, 0]);
    }

    #[test]
    fn what_cannot_be_searched_is_refused() {
        let (one, two) = (Features::new(&[0.0], 1).unwrap(), Features::new(&[0.0, 1.0], 1).unwrap());
        assert!(
            NearestNeighbours::new(one, None, 0)
                .unwrap_err()
                .to_string()
                .contains("neighbours is 0, expected at least 1")
        );
        let message = NearestNeighbours::new(one, Some(two), 1).unwrap_err().to_string();
        assert_eq!(message, "found 2 mirror images, expected one for each of 1 samples");
        let mut search = NearestNeighbours::new(one, None, 1).unwrap();
        assert!(search.add(Features::new(&[0.0, 1.0], 2).unwrap()).unwrap_err().to_string().contains("2 features"));
    }
}
