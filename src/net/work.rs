//! What a network computes, counted: for speeds in GFLOP and in GB a second.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// What convolutions and linear layers do for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Products that are added to sums. One is two floating-point operations.
    pub multiply_adds: usize,
    /// Numbers of all inputs and outputs, each of which is read or written once.
    pub numbers: usize,
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { multiply_adds: self.multiply_adds + other.multiply_adds, numbers: self.numbers + other.numbers }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::default(), Add::add)
    }
}
