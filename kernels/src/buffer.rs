//! Memory that begins at a cache line, so that whole vectors lie in one line each, and scratch memory that each thread keeps.

use std::cell::RefCell;

use crate::size;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read as numbers")] [f32; LINE]);

/// Numbers of a cache line.
pub const LINE: usize = 16;

/// Numbers that begin at a cache line.
#[derive(Default)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    /// `n` zeros.
    ///
    /// # Panics
    /// If there is no memory for them.
    pub fn zeros(n: usize) -> Self {
        size::expect_memory::<Line>(n.div_ceil(LINE));
        Self { lines: vec![Line([0.0; LINE]); n.div_ceil(LINE)], len: n }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &numbers(&self.lines)[..self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        &mut numbers_mut(&mut self.lines)[..len]
    }
}

fn numbers(lines: &[Line]) -> &[f32] {
    // SAFETY: a `Line` is 16 numbers without padding, so the lines are that many numbers in a row.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * LINE) }
}

fn numbers_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: as for `numbers`.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * LINE) }
}

thread_local!(static KEPT: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) });

/// Memory that a thread keeps for its next piece of work. What it holds is arbitrary.
///
/// A value, not a function that takes a closure: a closure would be compiled without the instructions of the kernel around it.
pub struct Scratch(Vec<Line>);

impl Scratch {
    /// Room for pieces of `lens` numbers.
    ///
    /// # Panics
    /// If there is no memory for them.
    pub fn take<const N: usize>(lens: [usize; N]) -> Self {
        let n_lines = lens.iter().fold(0, |sum: usize, len| sum.saturating_add(len.div_ceil(LINE)));
        // Taken off a stack: whoever takes some while this is in use gets other memory, and the same again next time.
        let mut lines = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        if lines.len() < n_lines {
            // The old content is of no use, so it is not copied.
            size::expect_memory::<Line>(n_lines);
            lines = vec![Line([0.0; LINE]); n_lines];
        }
        Self(lines)
    }

    /// Pieces of `lens` numbers, each beginning at a cache line.
    ///
    /// # Panics
    /// If room was taken for fewer.
    pub fn pieces<const N: usize>(&mut self, lens: [usize; N]) -> [&mut [f32]; N] {
        let mut rest = numbers_mut(&mut self.0);
        lens.map(|len| {
            let whole = len.checked_next_multiple_of(LINE).unwrap_or(usize::MAX);
            let (piece, more) = std::mem::take(&mut rest).split_at_mut(whole);
            rest = more;
            &mut piece[..len]
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that ends has nothing to keep it in.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(std::mem::take(&mut self.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_scratch_are_apart_and_aligned() {
        let mut scratch = Scratch::take([3, 40]);
        let [a, b] = scratch.pieces([3, 40]);
        a.fill(1.0);
        b.fill(2.0);
        let mut other = Scratch::take([100]);
        other.pieces([100])[0].fill(3.0);
        assert!(a.iter().all(|&x| x == 1.0) && b.iter().all(|&x| x == 2.0));
        assert!(a.as_ptr().addr() % 64 == 0 && b.as_ptr().addr() % 64 == 0);
    }

    #[test]
    fn a_thread_gets_the_same_scratch_again() {
        let first = Scratch::take([1000]).0.as_ptr();
        assert_eq!(Scratch::take([500]).0.as_ptr(), first);
    }
}
