//! Memory of tensors, kept for the next tensor of the same size.
//!
//! A step makes the same tensors again and again. Memory that goes back to the system in between comes back page by page, each
//! cleared first, which costs as much as a kernel over it.

use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use burn_std::bytes::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

use crate::buffer::Aligned;

/// Smaller ones are left to the allocator, which keeps such sizes at hand for each thread.
const SMALLEST: usize = 1 << 8;

/// Free buffers at the most: all are looked through for one that fits. A step of training leaves some hundreds.
const MOST: usize = 1 << 12;

/// Buffers that are free, the oldest first, and how much memory there is.
struct Pool {
    free: Vec<Aligned>,
    free_len: usize,
    used_len: usize,
    most_used: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), free_len: 0, used_len: 0, most_used: 0 });

impl Pool {
    /// Does something with the pool. A panic elsewhere leaves it as it was: nothing in here can fail halfway.
    fn with<R>(work: impl FnOnce(&mut Pool) -> R) -> R {
        work(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A buffer of `n` numbers, if one is free.
    fn take(&mut self, n: usize) -> Option<Aligned> {
        self.used_len += n;
        self.most_used = self.most_used.max(self.used_len);
        // The newest: it is the most likely to be in a cache.
        let found = self.free.iter().rposition(|buffer| buffer.len() == n).map(|i| self.free.remove(i));
        match &found {
            Some(_) => self.free_len -= n,
            // Sizes have changed. All there is stays below twice what was needed at once so far: with less, a network's sizes
            // push each other out in every step.
            None => {
                while self.used_len + self.free_len > 2 * self.most_used && !self.free.is_empty() {
                    self.free_len -= self.free.remove(0).len();
                }
            }
        }
        found
    }

    fn give_back(&mut self, buffer: Aligned) {
        self.used_len -= buffer.len();
        self.free_len += buffer.len();
        self.free.push(buffer);
        if self.free.len() > MOST {
            self.free_len -= self.free.remove(0).len();
        }
    }
}

/// Memory of a tensor, which goes back to the pool.
struct Pooled(Aligned);

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        Pool::with(|pool| pool.give_back(buffer));
    }
}

impl AllocationController for Pooled {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Native
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let values = &mut *self.0;
        // SAFETY: a number is four bytes, and the caller promises to write initialised ones only.
        Ok(unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let values = &*self.0;
        // SAFETY: a number is four bytes.
        Ok(unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) })
    }
}

/// `n` numbers that `fill` writes, in memory that is used again: `fill` is given what was there before.
pub fn filled(n: usize, fill: impl FnOnce(&mut [f32])) -> Bytes {
    if n < SMALLEST {
        let mut values = vec![0.0; n];
        fill(&mut values);
        return Bytes::from_elems(values);
    }
    let mut pooled = Pooled(Pool::with(|pool| pool.take(n)).unwrap_or_else(|| Aligned::zeros(n)));
    fill(&mut pooled.0);
    // SAFETY: the memory has so many bytes, all of them initialised.
    unsafe { Bytes::from_controller(Box::new(pooled), n * size_of::<f32>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_tensor_that_is_gone_is_used_again() {
        let make = |value: f32| filled(SMALLEST + 5, |values| values.fill(value));
        let first = make(1.0);
        let place = first.as_ptr();
        let second = make(2.0);
        assert_ne!(second.as_ptr(), place);
        drop(first);
        let third = make(3.0);
        assert_eq!(third.as_ptr(), place);
        assert_eq!(second[..4], 2.0f32.to_ne_bytes());
        assert_eq!(third[third.len() - 4..], 3.0f32.to_ne_bytes());
    }

    #[test]
    fn all_there_is_stays_below_twice_what_was_needed_at_once() {
        let mut pool = Pool { free: Vec::new(), free_len: 0, used_len: 0, most_used: 0 };
        for size in [10, 11, 12, 13, 14, 300, 7] {
            let mut used = Vec::new();
            for _ in 0..1000 / size {
                used.push(pool.take(size).unwrap_or_else(|| Aligned::zeros(size)));
                assert!(pool.used_len + pool.free_len <= 2 * pool.most_used, "{} and {}", pool.used_len, pool.free_len);
            }
            used.into_iter().for_each(|buffer| pool.give_back(buffer));
            assert_eq!(pool.free_len, pool.free.iter().map(|buffer| buffer.len()).sum::<usize>());
            assert!((1..=1000).contains(&pool.most_used) && pool.used_len == 0, "{}", pool.most_used);
        }
        assert!(pool.free_len > 1000, "{}", pool.free_len);
    }

    #[test]
    fn free_buffers_are_not_more_than_can_be_looked_through() {
        let mut pool = Pool { free: Vec::new(), free_len: 0, used_len: 0, most_used: 0 };
        let used: Vec<Aligned> = (0..MOST + 9).map(|_| pool.take(2).unwrap_or_else(|| Aligned::zeros(2))).collect();
        used.into_iter().for_each(|buffer| pool.give_back(buffer));
        assert_eq!((pool.free.len(), pool.free_len, pool.used_len), (MOST, 2 * MOST, 0));
    }
}
