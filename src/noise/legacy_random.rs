//! NumPy's legacy generator, for numbers that were published with it: which samples a subset of KID holds, the order in
//! which an inception score splits a data set, which images of FFHQ are held out. Everything else draws from named streams.
//!
//! Source: Matsumoto & Nishimura 1998, "Mersenne Twister" (MT19937), seeded by their `init_genrand`; NumPy's
//! `RandomState`, whose draws NEP 19 froze.

const N: usize = 624;
const M: usize = 397;

/// A Mersenne twister that draws as `numpy.random.RandomState(seed)` does.
#[derive(Clone, Debug)]
pub struct LegacyRandom {
    state: [u32; N],
    /// How many words of `state` have been given out.
    n_used: usize,
}

impl LegacyRandom {
    /// The generator of `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; N];
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, n_used: N }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.n_used == N {
            self.twist();
        }
        let mut word = self.state[self.n_used];
        self.n_used += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// Makes the next `N` words.
    fn twist(&mut self) {
        for i in 0..N {
            let pair = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if pair & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (pair >> 1) ^ odd;
        }
        self.n_used = 0;
    }

    /// A number in `0..=max`: words under the smallest mask that covers `max`, until one is not above it.
    fn up_to(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// Puts `items` in a random order: `RandomState.shuffle`.
    ///
    /// # Panics
    /// When there are more than 2³² items.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let max = u32::try_from(i).expect("at most 2^32 items");
            items.swap(i, self.up_to(max) as usize);
        }
    }

    /// `0..n` in a random order: `RandomState.permutation(n)`.
    ///
    /// # Panics
    /// When `n` is above 2³².
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }

    /// `k` of `0..n`, all different: `RandomState.choice(n, k, replace=False)`; all of them if there are fewer.
    ///
    /// # Panics
    /// When `n` is above 2³².
    pub fn choice(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut order = self.permutation(n);
        order.truncate(k);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_published_generator_come_out() {
        // The C++ standard, [rand.predef]: the 10,000th word of mt19937 with its default seed, 5489, is 4123659995.
        let mut random = LegacyRandom::new(5489);
        let word = (0..10_000).map(|_| random.next_u32()).last();
        assert_eq!(word, Some(4_123_659_995));
    }

    #[test]
    fn permutations_are_those_of_numpy() {
        assert_eq!(LegacyRandom::new(2020).permutation(50_000)[..6], [24397, 39273, 6546, 13504, 49765, 31361]);
        let mut items: Vec<u32> = (0..70_000).collect();
        LegacyRandom::new(2019).shuffle(&mut items);
        assert_eq!(items[..6], [3915, 34101, 5154, 34036, 26239, 6390]);
    }

    #[test]
    fn a_permutation_holds_every_item_once() {
        for n in [0, 1, 2, 3, 64, 65, 1000] {
            let mut order = LegacyRandom::new(1).permutation(n);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..n));
        }
    }

    #[test]
    fn a_choice_is_the_beginning_of_a_permutation() {
        let permutation = LegacyRandom::new(3).permutation(100);
        assert_eq!(LegacyRandom::new(3).choice(100, 7), permutation[..7]);
        assert_eq!(LegacyRandom::new(3).choice(5, 7).len(), 5);
    }
}
