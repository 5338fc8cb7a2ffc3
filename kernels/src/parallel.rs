//! Work over all cores, cut into parts by the shapes alone, or so that no sum depends on how it is cut.

pub mod count;

use rayon::prelude::*;

/// Calls `work` with `0..n`, on any thread and in any order.
pub fn for_each(n: usize, work: impl Fn(usize) + Send + Sync) {
    match n {
        0 => {}
        1 => work(0),
        _ => count::region(n, || (0..n).into_par_iter().with_max_len(1).for_each(work)),
    }
}

/// Calls `work` with the number and the values of each part of `values`, of `len` numbers each (the last perhaps fewer).
///
/// # Panics
/// If there are values, and `len` is 0.
pub fn for_each_part(values: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Send + Sync) {
    if values.len() <= len {
        if !values.is_empty() {
            work(0, values);
        }
        return;
    }
    assert!(len > 0, "found parts of 0 numbers");
    count::region(values.len().div_ceil(len), || {
        values.par_chunks_mut(len).with_max_len(1).enumerate().for_each(|(i, part)| work(i, part));
    });
}

/// Calls `work` with the number and the values of each part of both, which are cut into equally many, of `lens` numbers each.
///
/// # Panics
/// If they cannot be cut so, or one of `lens` is 0.
pub fn for_each_pair_of_parts(
    [a, b]: [&mut [f32]; 2],
    lens: [usize; 2],
    work: impl Fn(usize, [&mut [f32]; 2]) + Send + Sync,
) {
    assert!(!lens.contains(&0), "found parts of {lens:?} numbers");
    let n = a.len() / lens[0];
    let expected = lens.map(|len| n.checked_mul(len));
    assert_eq!([a.len(), b.len()].map(Some), expected, "parts of {lens:?} numbers");
    match n {
        0 => {}
        1 => work(0, [a, b]),
        _ => count::region(n, || {
            let parts = a.par_chunks_exact_mut(lens[0]).zip(b.par_chunks_exact_mut(lens[1]));
            parts.with_max_len(1).enumerate().for_each(|(i, (a, b))| work(i, [a, b]));
        }),
    }
}

/// Calls `work` with each of `items`.
pub fn for_each_of<T: Send>(items: Vec<T>, work: impl Fn(T) + Send + Sync) {
    match items.len() {
        0 | 1 => items.into_iter().for_each(work),
        n => count::region(n, || items.into_par_iter().with_max_len(1).for_each(work)),
    }
}

/// Does `work` on one of the threads that kernels run on: it need not be woken for each of them.
pub fn inside<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
