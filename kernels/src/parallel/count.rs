//! How much of some work could run on several cores at once, found on a machine that has few: by counting.
//!
//! While work is counted, every region of independent parts notes how long it took and how many parts it had. What lies outside
//! is serial.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the thread does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Work that nobody counts: looking it up is all that counting costs then.
    NotCounted,
    /// Work that is serial.
    Serial,
    /// A region's.
    InRegion,
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::NotCounted) };
    /// The time of regions so far, by their number of parts.
    static NOTED: RefCell<BTreeMap<usize, Duration>> = const { RefCell::new(BTreeMap::new()) };
}

/// What some work was made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Count {
    /// The time of all of it.
    pub total: Duration,
    /// The time of its parallel regions, by their number of independent parts.
    pub regions: BTreeMap<usize, Duration>,
}

impl Count {
    /// Of `work`, and what that gives. Regions inside others count once. Meant for one thread: of several, only this one's regions
    /// are seen, and they take as long as the slowest.
    pub fn of<R>(work: impl FnOnce() -> R) -> (R, Self) {
        NOTED.take();
        STATE.set(State::Serial);
        let begun = Instant::now();
        let result = work();
        let total = begun.elapsed();
        STATE.set(State::NotCounted);
        (result, Self { total, regions: NOTED.take() })
    }

    /// The time outside all regions.
    pub fn serial(&self) -> Duration {
        self.total.saturating_sub(self.regions.values().sum())
    }

    /// The seconds of all of it on `n_cores`, if every core were as fast as the one that was counted on, parts of a region took
    /// equally long, and nothing were lost between regions: serial + Σ time·⌈parts/cores⌉/parts.
    ///
    /// # Panics
    /// If there are no cores.
    pub fn projected(&self, n_cores: usize) -> f64 {
        assert!(n_cores > 0, "found no cores");
        let rounds = |n_parts: usize| n_parts.div_ceil(n_cores) as f64 / n_parts as f64;
        let parallel = self.regions.iter().map(|(&n_parts, time)| time.as_secs_f64() * rounds(n_parts));
        self.serial().as_secs_f64() + parallel.sum::<f64>()
    }
}

/// Does `work`, a region of `n_parts` independent parts.
#[inline]
pub(super) fn region<R>(n_parts: usize, work: impl FnOnce() -> R) -> R {
    if STATE.get() != State::Serial {
        return work();
    }
    STATE.set(State::InRegion);
    let begun = Instant::now();
    let result = work();
    NOTED.with_borrow_mut(|noted| *noted.entry(n_parts).or_default() += begun.elapsed());
    STATE.set(State::Serial);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parallel;

    fn pause(ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    #[test]
    fn regions_are_noted_once_with_their_parts_and_the_rest_is_serial() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let work = || {
            pause(20);
            parallel::for_each(7, |_| parallel::for_each(3, |_| pause(1)));
            // One part is no region, but what is inside may be one.
            parallel::for_each(1, |_| parallel::for_each_of(vec![0, 1], |_| pause(5)));
            7
        };
        let (result, count) = pool.install(|| Count::of(work));
        assert_eq!(result, 7);
        assert_eq!(count.regions.keys().collect::<Vec<_>>(), [&2, &7]);
        assert!(count.regions[&7] >= Duration::from_millis(21) && count.regions[&2] >= Duration::from_millis(10));
        assert!(count.serial() >= Duration::from_millis(20), "{count:?}");
        assert_eq!(count.serial() + count.regions.values().sum(), count.total);
    }

    #[test]
    fn nothing_is_noted_while_nobody_counts() {
        parallel::for_each(5, |_| {});
        let ((), count) = Count::of(|| ());
        parallel::for_each(5, |_| {});
        assert!(count.regions.is_empty() && NOTED.with_borrow(BTreeMap::is_empty));
    }

    #[test]
    fn projections_are_the_serial_time_and_that_of_the_longest_queue_of_parts() {
        let seconds = Duration::from_secs;
        let regions = BTreeMap::from([(10, seconds(10)), (3, seconds(6))]);
        let count = Count { total: seconds(20), regions };
        assert_eq!(count.serial(), seconds(4));
        for (n_cores, expected) in [(1, 20.0), (2, 4.0 + 5.0 + 4.0), (4, 4.0 + 3.0 + 2.0), (64, 4.0 + 1.0 + 2.0)] {
            assert!((count.projected(n_cores) - expected).abs() < 1e-9, "{n_cores}: {}", count.projected(n_cores));
        }
    }
}
