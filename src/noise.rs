//! All randomness: seeded, named streams of a counter-based generator.
//!
//! The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A block of four
//! words is a pure function of (seed, stream name, index, position), so a draw can be addressed instead of remembered:
//! the noise of training step 700 is that of [`Noise::stream`]`("train/noise", 700)`, whether or not the run was
//! interrupted before it, and image 12 of a sampling run has the same noise whatever the batch it is drawn in. The numbers
//! are made by [`ncsn_kernels::random`].

mod legacy_random;

use burn::tensor::{Device, Tensor};
use ncsn_kernels::cpu::Isa;
use ncsn_kernels::ops::random::{self as ops, draw};
use ncsn_kernels::random::{self, Position};

pub use legacy_random::LegacyRandom;
pub use ncsn_kernels::ops::random::Distribution;

/// The source of every stream of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    /// All streams of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed, which together with names and indices is the whole state.
    pub fn seed(self) -> u64 {
        self.seed
    }

    /// The stream `name` at `index` (a step, an image, an epoch), from its beginning.
    pub fn stream(self, name: &str, index: u64) -> Stream {
        // FNV-1a keeps names apart; the SplitMix64 finaliser spreads the seed over all bits of the key.
        let name_hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let key = mix(name_hash ^ mix(self.seed));
        Stream { at: Position { key: [key as u32, (key >> 32) as u32], index, block: 0 }, is_silent: false }
    }

    /// A random order of `0..n`, number `index` (an epoch) of the stream `name`.
    pub fn permutation(self, name: &str, index: u64, n: u64) -> Permutation {
        Permutation::new(&mut self.stream(name, index), n)
    }
}

/// SplitMix64's output function: a bijection of 64 bits with good avalanche.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of random numbers. Every call starts at a new block of four words, so a draw's values depend on how many
/// blocks were drawn before, not on how they were used.
#[derive(Clone, Debug)]
pub struct Stream {
    at: Position,
    is_silent: bool,
}

impl Stream {
    /// A stream of zeros, for the weights of a network that others will take the place of: the numbers would be drawn in vain.
    pub fn silent() -> Self {
        Self { at: Position { key: [0; 2], index: 0, block: 0 }, is_silent: true }
    }

    fn next_block(&mut self) -> [u32; 4] {
        self.skip(1).words()
    }

    /// Where the next `n` blocks begin, which are drawn with it.
    fn skip(&mut self, n: u64) -> Position {
        let next = self.at.after(n);
        std::mem::replace(&mut self.at, next)
    }

    /// Where the next `n` numbers begin, which are drawn with it.
    pub(crate) fn take(&mut self, n: usize) -> Position {
        self.skip(n_blocks(n))
    }

    /// A number in `0..n`, without bias beyond 2⁻⁶⁴·n.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a draw from an empty range");
        let [a, b, ..] = self.next_block();
        let word = u64::from(a) | u64::from(b) << 32;
        ((u128::from(word) * u128::from(n)) >> 64) as u64
    }

    /// Fills `out` with U[0, 1), multiples of 2⁻²⁴.
    pub fn uniform(&mut self, out: &mut [f32]) {
        match self.is_silent {
            true => out.fill(0.0),
            false => random::fill_uniform(Isa::chosen(), self.skip(n_blocks(out.len())), out),
        }
    }

    /// Fills `out` with N(0, 1) by Box and Muller's transform, two from each two words.
    pub fn normal(&mut self, out: &mut [f32]) {
        match self.is_silent {
            true => out.fill(0.0),
            false => random::fill_normal(Isa::chosen(), self.skip(n_blocks(out.len())), out),
        }
    }
}

/// How many blocks a draw of `n` numbers takes: the rest of the last one is not used.
fn n_blocks(n: usize) -> u64 {
    n.div_ceil(4) as u64
}

/// A tensor of random numbers, made on its device: each stream fills an equal share of it, the first one the first. A GPU's
/// normal numbers differ from the processor's in their last bits.
pub fn tensor<const D: usize>(
    distribution: Distribution,
    streams: &mut [Stream],
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let n_each = shape.iter().product::<usize>() / streams.len().max(1);
    let at: Vec<Position> = streams.iter_mut().map(|stream| stream.skip(n_blocks(n_each))).collect();
    let numbers = draw(distribution, &at, n_each, &device.clone().without_autodiff());
    let numbers = if device.is_autodiff() { Tensor::from_inner(numbers) } else { numbers };
    numbers.reshape(shape)
}

/// x + α·s + c·z with standard normal z: each stream gives an equal share of it, as in [`tensor`]. On the processor in one pass.
///
/// # Panics
/// If shapes differ, or there are no equal shares.
pub fn langevin_update<const D: usize>(
    streams: &mut [Stream],
    x: Tensor<D>,
    s: Tensor<D>,
    factors: [f64; 2],
) -> Tensor<D> {
    let n_each = x.dims().iter().product::<usize>() / streams.len().max(1);
    let at = streams.iter_mut().map(|stream| stream.skip(n_blocks(n_each))).collect();
    ops::langevin_update(at, x, s, factors)
}

/// A random order of `0..n` that needs no memory: a Feistel cipher over the next power of four, walked until it falls
/// inside (Black & Rogaway 2002). Item `i` of an epoch is thus known without the items before it.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 8],
}

impl Permutation {
    fn new(stream: &mut Stream, n: u64) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|_| {
            let [a, b, ..] = stream.next_block();
            u64::from(a) | u64::from(b) << 32
        });
        Self { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where item `i` comes from, for `i < n`.
    pub fn get(&self, i: u64) -> u64 {
        assert!(i < self.n, "item {i} of a permutation of {}", self.n);
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = i;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            value = left << self.half_bits | right;
            if value < self.n {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_known_answers() {
        // Random123's kat_vectors, philox4x32 10.
        let words = |[c0, c1, c2, c3]: [u32; 4], key| {
            let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
            Stream { at: Position { key, index: pair(c2, c3), block: pair(c0, c1) }, is_silent: false }.next_block()
        };
        assert_eq!(words([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(words([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            words([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn a_draw_begins_at_a_new_block_after_the_last() {
        let (mut stream, mut other) = (Noise::new(1).stream("test", 2), Noise::new(1).stream("test", 2));
        let mut whole = [0.0; 20];
        stream.uniform(&mut whole);
        let (mut first, mut second) = ([0.0; 5], [0.0; 12]);
        other.uniform(&mut first);
        other.uniform(&mut second);
        assert_eq!((&first[..], &second[..]), (&whole[..5], &whole[8..]));
        assert_eq!(stream.below(u64::MAX), other.below(u64::MAX));
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        let mut z = vec![0.0; 400_000];
        Noise::new(7).stream("test", 0).normal(&mut z);
        let n = z.len() as f64;
        let moment = |p: i32| z.iter().map(|&z| f64::from(z).powi(p)).sum::<f64>() / n;
        // Five standard errors of each moment: sqrt(Var(zᵖ)/n) with Var = 1, 2, 15, 96.
        for (p, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let tolerance = 5.0 * f64::sqrt(variance / n);
            assert!((moment(p) - expected).abs() < tolerance, "moment {p}: {}", moment(p));
        }
        let beyond_four = z.iter().filter(|z| z.abs() > 4.0).count();
        assert!((8..50).contains(&beyond_four), "P(|z| > 4) = 6.3e-5, so about 25 of 400,000, not {beyond_four}");
    }

    #[test]
    fn uniforms_fill_their_interval_evenly() {
        let mut u = vec![0.0; 100_000];
        Noise::new(1).stream("test", 3).uniform(&mut u);
        assert!(u.iter().all(|u| (0.0..1.0).contains(u)));
        let mut bins = [0usize; 20];
        u.iter().for_each(|u| bins[(u * 20.0) as usize] += 1);
        // Binomial(100000, 1/20): standard deviation 69; five of them.
        assert!(bins.iter().all(|&n| n.abs_diff(5000) < 345), "{bins:?}");
    }

    #[test]
    fn streams_differ_by_seed_name_and_index_and_by_nothing_else() {
        let draw = |seed, name: &str, index| {
            let mut z = [0.0; 8];
            Noise::new(seed).stream(name, index).normal(&mut z);
            z
        };
        assert_eq!(draw(1, "a", 0), draw(1, "a", 0));
        assert_ne!(draw(1, "a", 0), draw(2, "a", 0));
        assert_ne!(draw(1, "a", 0), draw(1, "b", 0));
        assert_ne!(draw(1, "a", 0), draw(1, "a", 1));
    }

    #[test]
    fn a_permutation_holds_every_item_once_and_changes_with_the_epoch() {
        for n in [1, 2, 3, 5, 16, 17, 100, 1000] {
            let order = |epoch| {
                let p = Noise::new(3).permutation("epoch", epoch, n);
                (0..n).map(|i| p.get(i)).collect::<Vec<_>>()
            };
            let mut sorted = order(0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>());
            assert!(n < 16 || order(0) != order(1));
        }
    }

    #[test]
    fn a_permutation_puts_every_item_everywhere() {
        // Position of item 0 over 6000 epochs of 6 items: binomial, standard deviation 29; five of them.
        let mut counts = [0usize; 6];
        for epoch in 0..6000 {
            counts[Noise::new(9).permutation("epoch", epoch, 6).get(0) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| c.abs_diff(1000) < 145), "{counts:?}");
    }
}
