//! All randomness: seeded, named streams of a counter-based generator.
//!
//! The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A block of four
//! words is a pure function of (seed, stream name, index, position), so a draw can be addressed instead of remembered:
//! the noise of training step 700 is that of [`Noise::stream`]`("train/noise", 700)`, whether or not the run was
//! interrupted before it, and image 12 of a sampling run has the same noise whatever the batch it is drawn in.

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
        Stream { key: [key as u32, (key >> 32) as u32], index, block: 0 }
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

/// One block of Philox4x32-10.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9e37_79b9);
            key[1] = key[1].wrapping_add(0xbb67_ae85);
        }
        let p0 = u64::from(counter[0]) * 0xd251_1f53;
        let p1 = u64::from(counter[2]) * 0xcd9e_8d57;
        counter =
            [(p1 >> 32) as u32 ^ counter[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ counter[3] ^ key[1], p0 as u32];
    }
    counter
}

/// A sequence of random numbers. Every call starts at a new block of four words, so a draw's values depend on how many
/// blocks were drawn before, not on how they were used.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    index: u64,
    block: u64,
}

impl Stream {
    fn next_block(&mut self) -> [u32; 4] {
        let (b, i) = (self.block, self.index);
        self.block += 1;
        philox([b as u32, (b >> 32) as u32, i as u32, (i >> 32) as u32], self.key)
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
        for chunk in out.chunks_mut(4) {
            for (x, word) in chunk.iter_mut().zip(self.next_block()) {
                *x = (word >> 8) as f32 * (1.0 / 16_777_216.0);
            }
        }
    }

    /// Fills `out` with N(0, 1) by Box and Muller's transform, two from each two words.
    pub fn normal(&mut self, out: &mut [f32]) {
        for chunk in out.chunks_mut(4) {
            let w = self.next_block();
            let (a, b) = box_muller(w[0], w[1]);
            let (c, d) = box_muller(w[2], w[3]);
            for (x, z) in chunk.iter_mut().zip([a, b, c, d]) {
                *x = z;
            }
        }
    }
}

fn box_muller(a: u32, b: u32) -> (f32, f32) {
    // In f64: ln and the angle near 2³² different words would lose their last bits in f32, the tail most of all.
    let r = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
    let (sin, cos) = (std::f64::consts::TAU * (f64::from(b) / 4_294_967_296.0)).sin_cos();
    ((r * cos) as f32, (r * sin) as f32)
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
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
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
