//! Features (or logits, or pixels) of samples, as all metrics take them.

use std::ops::Range;

use crate::error::{Error, Result};

/// `[n, dim]` finite numbers, row-major, one row a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Features<'a> {
    values: &'a [f32],
    dim: usize,
}

impl<'a> Features<'a> {
    /// The rows of `dim` numbers that `values` consists of.
    ///
    /// # Errors
    /// [`Error::Unexpected`] when `values` are no whole rows, [`Error::Value`] when one of them is infinite or not a number.
    pub fn new(values: &'a [f32], dim: usize) -> Result<Self> {
        if dim == 0 || !values.len().is_multiple_of(dim) {
            return Err(Error::unexpected(format!("{} numbers", values.len()), format!("rows of {dim} features")));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                let (sample, feature) = (at / dim, at % dim);
                let name = format!("feature {feature} of sample {sample}");
                Err(Error::value(name, values[at], "a finite number"))
            }
            None => Ok(Self { values, dim }),
        }
    }

    /// How many samples there are.
    pub fn n(self) -> usize {
        self.values.len() / self.dim
    }

    /// How many features each sample has.
    pub fn dim(self) -> usize {
        self.dim
    }

    /// All numbers, `[n, dim]`.
    pub fn values(self) -> &'a [f32] {
        self.values
    }

    /// The features of sample `i`, `[dim]`.
    pub fn row(self, i: usize) -> &'a [f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// The samples in `range` alone.
    pub fn rows(self, range: Range<usize>) -> Self {
        Self { values: &self.values[range.start * self.dim..range.end * self.dim], dim: self.dim }
    }

    /// Refuses features of another kind, which have another dimension.
    pub(super) fn expect_dim(self, dim: usize) -> Result<()> {
        if self.dim == dim {
            return Ok(());
        }
        Err(Error::unexpected(format!("samples of {} features", self.dim), format!("{dim} as in the others")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_and_finite_or_refused_with_their_place() {
        let values = [1.0, 2.0, 3.0, 4.0, f32::NAN, 6.0];
        let message = |values, dim| Features::new(values, dim).unwrap_err().to_string();
        assert_eq!(message(&values, 3), "feature 1 of sample 1 is NaN, expected a finite number");
        assert_eq!(message(&values[..4], 3), "found 4 numbers, expected rows of 3 features");
        assert_eq!(message(&[], 0), "found 0 numbers, expected rows of 0 features");
        let features = Features::new(&values[..4], 2).unwrap();
        assert_eq!((features.n(), features.dim(), features.row(1)), (2, 2, &[3.0, 4.0][..]));
        assert_eq!(features.rows(1..2).values(), [3.0, 4.0]);
    }
}
