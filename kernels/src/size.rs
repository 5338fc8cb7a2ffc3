//! Arithmetic of the sizes that callers give, checked once a call: no length, place or number of bytes that follows from
//! them wraps.
//!
//! An array that exists has at most `isize::MAX` bytes. Sizes of which one is 0 are those of an empty array, which exists
//! whatever the others are: they are held to the same bound without it, so that products of some of the sizes fit too.

use std::fmt::Debug;

/// The largest length of an array of f32: `isize::MAX` bytes.
pub(crate) const MOST: usize = isize::MAX as usize / size_of::<f32>();

/// The product of `sizes`; `None` if an array of f32 with 1 in place of each 0 would be longer than [`MOST`].
pub(crate) fn checked<const N: usize>(sizes: [usize; N]) -> Option<usize> {
    let product = sizes.iter().try_fold(1usize, |product, &size| product.checked_mul(size.max(1)))?;
    (product <= MOST).then_some(if sizes.contains(&0) { 0 } else { product })
}

/// The numbers of `what`, of these sizes.
///
/// # Panics
/// Where [`checked`] gives none.
#[track_caller]
pub(crate) fn numbers<const N: usize>(what: impl Debug, sizes: [usize; N]) -> usize {
    checked(sizes).unwrap_or_else(|| panic!("found {what:?} of sizes {sizes:?}, expected at most {MOST} numbers"))
}

/// `n` values of 0.
///
/// # Panics
/// If there is no memory for them. Without asking first, the process would be aborted.
#[track_caller]
pub(crate) fn zeros<T: Clone + Default>(n: usize) -> Vec<T> {
    expect_memory::<T>(n);
    vec![T::default(); n]
}

/// Panics if there is no memory for `n` values.
#[track_caller]
pub(crate) fn expect_memory<T>(n: usize) {
    /// Bytes that are taken without asking: the answer costs less than to clear so many.
    const FEW: usize = 1 << 28;
    let is_there = n.checked_mul(size_of::<T>()).is_some_and(|bytes| {
        // Not looked at, memory that is taken and given back is none to the compiler.
        bytes < FEW || std::hint::black_box(&mut Vec::<u8>::new()).try_reserve_exact(bytes).is_ok()
    });
    assert!(is_there, "found no memory for {n} values of {} bytes", size_of::<T>());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_given_up_to_the_largest_array_and_empty_arrays_have_sizes_too() {
        assert_eq!(checked([2, 3, 4]), Some(24));
        assert_eq!(checked([MOST, 1]), Some(MOST));
        assert_eq!(checked([MOST + 1]), None);
        assert_eq!(checked([0, 7]), Some(0));
        assert_eq!(checked([0, 1 << 40, 1 << 40]), None);
        assert_eq!(checked([1 << 32, 1 << 32]), None);
        assert_eq!(checked([(1 << 63) + 1, 2]), None);
        assert_eq!(checked::<0>([]), Some(1));
    }

    #[test]
    fn memory_that_is_not_there_is_a_panic() {
        for n in [1 << 45, usize::MAX / 4, usize::MAX] {
            assert!(std::panic::catch_unwind(|| zeros::<f32>(n)).is_err(), "{n}");
        }
        assert_eq!(zeros::<f64>(3), [0.0; 3]);
    }
}
