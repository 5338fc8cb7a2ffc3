//! Random numbers of the counter-based generator Philox4x32-10, and Langevin's update with them.
//!
//! Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". A block of four words is a pure function of its
//! [`Position`], so blocks are made side by side in the lanes of vectors and on all cores.
//!
//! The bits are the same on every instruction set: nothing is fused, only basic operations are used, which IEEE 754
//! rounds in one way, and the logarithm, sine and cosine are our own. Loops over blocks are plain Rust, which the
//! compiler turns into vectors of whatever instruction set a kernel is compiled for.

use std::f64::consts::{LN_2, SQRT_2, TAU};

use crate::cpu::{Isa, kernel};
use crate::parallel::for_each_part;

/// Numbers of one piece of work: some tens of microseconds.
const PART: usize = 1 << 14;

/// The lower half of a number in which a word is kept.
const LOW: u64 = 0xffff_ffff;

/// Where numbers begin: a block of one of 2⁶⁴ sequences of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Which generator.
    pub key: [u32; 2],
    /// Which of its sequences.
    pub index: u64,
    /// Which block of four words.
    pub block: u64,
}

impl Position {
    /// The position `n` blocks further.
    pub fn after(self, n: u64) -> Self {
        Self { block: self.block.wrapping_add(n), ..self }
    }

    /// The words of the block.
    pub fn words(self) -> [u32; 4] {
        block(self, 0).map(|word| word as u32)
    }

    /// That of a part of numbers which begin here.
    fn of_part(self, i: usize, len: usize) -> Self {
        self.after((i * (len / 4)) as u64)
    }
}

/// Fills `out` with N(0, 1), four from each block, by Box and Muller's transform in f64: of words a and b,
/// √(−2 ln((a + 1)/2³²)) times the cosine and the sine of b/2³² of a turn.
pub fn fill_normal(isa: Isa, at: Position, out: &mut [f32]) {
    for_each_part(out, PART, |i, part| normals(isa, at.of_part(i, PART), part));
}

/// Fills `out` with U[0, 1), multiples of 2⁻²⁴, four from each block.
pub fn fill_uniform(isa: Isa, at: Position, out: &mut [f32]) {
    for_each_part(out, PART, |i, part| uniforms(isa, at.of_part(i, PART), part));
}

/// x ← x + α·score + c·z with the z of [`fill_normal`], which are never in memory. c is √(2α) in Langevin dynamics.
pub fn langevin_update(isa: Isa, x: &mut [f32], score: &[f32], at: Position, [alpha, noise_scale]: [f64; 2]) {
    assert_eq!(x.len(), score.len(), "numbers of the state and of its score");
    let factors = [alpha as f32, noise_scale as f32];
    for_each_part(x, PART, |i, part| {
        updates(isa, at.of_part(i, PART), part, &score[i * PART..][..part.len()], factors);
    });
}

kernel! {
    fn normals<'a>(_s; at: Position, out: &'a mut [f32]) {
        fill::<Normal>(at, out)
    }
}

kernel! {
    fn uniforms<'a>(_s; at: Position, out: &'a mut [f32]) {
        fill::<Uniform>(at, out)
    }
}

kernel! {
    fn updates<'a>(_s; at: Position, x: &'a mut [f32], score: &'a [f32], factors: [f32; 2]) {
        let [alpha, noise_scale] = factors;
        // In pieces that the first cache holds.
        let mut z = [0.0; 1024];
        for (i, (x, score)) in x.chunks_mut(z.len()).zip(score.chunks(z.len())).enumerate() {
            let z = &mut z[..x.len()];
            fill::<Normal>(at.of_part(i, 1024), z);
            for ((x, score), z) in x.iter_mut().zip(score).zip(z) {
                *x = *x + score * alpha + *z * noise_scale;
            }
        }
    }
}

/// `out` from the blocks that begin at `at`.
#[inline(always)]
fn fill<N: Numbers>(at: Position, out: &mut [f32]) {
    let n_blocks = out.len() / 4;
    let (whole, rest) = out.split_at_mut(4 * n_blocks);
    for (i, out) in whole.chunks_exact_mut(4).enumerate() {
        let values = N::of(block(at, i as u64));
        out[0] = values[0];
        out[1] = values[1];
        out[2] = values[2];
        out[3] = values[3];
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&N::of(block(at, n_blocks as u64))[..rest.len()]);
    }
}

/// The words of block `at.block + i`, each in the lower half of a number: so a product of two words needs no shuffles.
#[inline(always)]
fn block(at: Position, i: u64) -> [u64; 4] {
    let number = at.block.wrapping_add(i);
    // Upper halves may hold anything until they are cleared.
    let mut counter = [number, number >> 32, at.index, at.index >> 32];
    let mut key = at.key;
    for _ in 0..10 {
        let p0 = (counter[0] & LOW) * 0xd251_1f53;
        let p1 = (counter[2] & LOW) * 0xcd9e_8d57;
        let [k0, k1] = key.map(u64::from);
        counter = [(p1 >> 32) ^ counter[1] ^ k0, p1, (p0 >> 32) ^ counter[3] ^ k1, p0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter.map(|word| word & LOW)
}

/// What becomes of a block. A trait, because a function that is an argument would not be compiled with its caller's
/// instructions.
trait Numbers {
    /// The numbers of the words, which are in lower halves. To be marked `#[inline(always)]`.
    fn of(words: [u64; 4]) -> [f32; 4];
}

struct Uniform;

impl Numbers for Uniform {
    #[inline(always)]
    fn of(words: [u64; 4]) -> [f32; 4] {
        words.map(|word| (word >> 8) as i32 as f32 * (1.0 / 16_777_216.0))
    }
}

struct Normal;

impl Numbers for Normal {
    #[inline(always)]
    fn of([a, b, c, d]: [u64; 4]) -> [f32; 4] {
        let ((x0, x1), (x2, x3)) = (box_muller(a, b), box_muller(c, d));
        [x0, x1, x2, x3]
    }
}

#[inline(always)]
fn box_muller(a: u64, b: u64) -> (f32, f32) {
    // In f64: ln and the angle near 2³² different words would lose their last bits in f32, the tail most of all.
    let r = (-2.0 * ln_fraction(a)).sqrt();
    let (sin, cos) = sin_cos_turn(b);
    ((r * cos) as f32, (r * sin) as f32)
}

/// The number of an integer below 2⁵², by bits: the conversion that every instruction set has.
#[inline(always)]
fn integer(n: u64) -> f64 {
    const TWO_52: f64 = 4_503_599_627_370_496.0;
    f64::from_bits(TWO_52.to_bits() | n) - TWO_52
}

/// c₀ + c₁x + c₂x² + …
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: [f64; N]) -> f64 {
    c.into_iter().rev().reduce(|sum, c| sum * x + c).unwrap_or(0.0)
}

/// 1/n! for n from 0.
const fn inverse_factorials<const N: usize>() -> [f64; N] {
    let mut inverse = [1.0; N];
    let (mut n, mut factorial) = (1, 1.0);
    while n < N {
        factorial *= n as f64;
        inverse[n] = 1.0 / factorial;
        n += 1;
    }
    inverse
}

/// ln((a + 1)/2³²) of a word, relative error below 1e-15.
#[inline(always)]
fn ln_fraction(a: u64) -> f64 {
    // a + 1 = m·2ᵉ with m from √½ to √2, so that there is no cancellation near a fraction of 1, where e is 32.
    let bits = integer(a + 1).to_bits();
    let e = (bits - (SQRT_2 / 2.0).to_bits()) >> 52;
    let m = f64::from_bits(bits - (e << 52));
    // ln m = 2 artanh s with |s| < 0.172; its series to s¹⁹, of which the next term is 2e-17 of the first.
    let s = (m - 1.0) / (m + 1.0);
    let c =
        [2.0, 2.0 / 3.0, 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0, 2.0 / 13.0, 2.0 / 15.0, 2.0 / 17.0, 2.0 / 19.0];
    (integer(e) - 32.0) * LN_2 + s * polynomial(s * s, c)
}

/// Sine and cosine of b/2³² of a turn, absolute error below 1e-15 and relative too.
#[inline(always)]
fn sin_cos_turn(b: u64) -> (f64, f64) {
    // To the nearest quarter of a turn, in integers: the angle that is left is exact.
    let from_eighth = b + (1 << 29);
    let quarter = from_eighth >> 30;
    let x = (integer(from_eighth & ((1 << 30) - 1)) - 536_870_912.0) * (TAU / 4_294_967_296.0);
    // |x| ≤ π/4: Taylor's series to x¹⁵ and x¹⁶, of which the next terms are below 1e-16.
    const F: [f64; 17] = inverse_factorials();
    let y = x * x;
    let sin = x * polynomial(y, [F[1], -F[3], F[5], -F[7], F[9], -F[11], F[13], -F[15]]);
    let cos = polynomial(y, [F[0], -F[2], F[4], -F[6], F[8], -F[10], F[12], -F[14], F[16]]);
    // Each quarter turns (cos, sin) into (−sin, cos).
    let (s, c) = if quarter & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let negative = |x: f64, bit: u64| f64::from_bits(x.to_bits() ^ (bit & 2) << 62);
    (negative(s, quarter), negative(c, quarter + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Position = Position { key: [0xa409_3822, 0x299f_31d0], index: 5, block: u32::MAX as u64 - 1000 };

    fn normals(isa: Isa, at: Position, n: usize) -> Vec<f32> {
        let mut z = vec![f32::NAN; n];
        fill_normal(isa, at, &mut z);
        z
    }

    fn uniforms(isa: Isa, at: Position, n: usize) -> Vec<f32> {
        let mut u = vec![f32::NAN; n];
        fill_uniform(isa, at, &mut u);
        u
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn blocks_are_the_published_known_answers() {
        // Random123's kat_vectors, philox4x32 10.
        for (key, index, block, words) in [
            ([0; 2], 0, 0, [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 2], u64::MAX, u64::MAX, [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0xa4093822, 0x299f31d0],
                0x0370734413198a2e,
                0x85a308d3243f6a88,
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ] {
            let at = Position { key, index, block };
            assert_eq!(at.words(), words);
            for isa in Isa::available() {
                let expected = words.map(|w| (w >> 8) as f32 / 16_777_216.0);
                assert_eq!(uniforms(isa, at, 4), expected, "{isa}");
            }
        }
    }

    #[test]
    fn bits_depend_on_neither_instructions_nor_threads_nor_pieces() {
        // An odd length beyond two parts, across a carry of the block's lower word.
        let n = 2 * PART + 1003;
        let score: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 8.0).collect();
        let all = |isa| {
            let mut x = score.clone();
            x.reverse();
            langevin_update(isa, &mut x, &score, AT, [0.3, 0.7]);
            [normals(isa, AT, n), uniforms(isa, AT, n), x].map(|values| bits(&values))
        };
        let expected = all(Isa::Portable);
        for n_threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            for isa in Isa::available() {
                assert!(pool.install(|| all(isa)) == expected, "{isa} on {n_threads} threads");
            }
        }
        for isa in Isa::available() {
            for (first, len) in [(0, 1), (1, 7), (250, 1000), (0, 0)] {
                let at = AT.after(first as u64);
                assert_eq!(bits(&normals(isa, at, len)), expected[0][4 * first..][..len], "{isa}");
                assert_eq!(bits(&uniforms(isa, at, len)), expected[1][4 * first..][..len], "{isa}");
            }
        }
    }

    /// Box and Muller's transform with the standard library's functions.
    fn reference(a: u32, b: u32) -> [f64; 2] {
        let r = (-2.0 * ((f64::from(a) + 1.0) / 4_294_967_296.0).ln()).sqrt();
        let (sin, cos) = (TAU * (f64::from(b) / 4_294_967_296.0)).sin_cos();
        [r * cos, r * sin]
    }

    #[test]
    fn normals_are_those_of_the_standard_librarys_functions() {
        let n = 100_000;
        let expected = (0..n / 4).flat_map(|i| {
            let [a, b, c, d] = AT.after(i as u64).words();
            [reference(a, b), reference(c, d)].concat()
        });
        let found = normals(Isa::chosen(), AT, n);
        let mut n_different = 0;
        for (&z, expected) in found.iter().zip(expected) {
            let expected = expected as f32;
            assert!(z.to_bits().abs_diff(expected.to_bits()) <= 1, "{z:e}, expected {expected:e}");
            n_different += usize::from(z != expected);
        }
        // With relative errors of 1e-15, one of 10⁷ lies so near to a rounding boundary of f32.
        assert!(n_different <= 1, "{n_different} of {n} differ");
    }

    #[test]
    fn logarithm_sine_and_cosine_are_exact_to_a_few_units_in_the_last_place() {
        let edges = (0..32).flat_map(|i| [0, 1, 2, 3].map(|d| (1u32 << i).wrapping_add(d).wrapping_sub(2)));
        let words = edges.chain([u32::MAX, u32::MAX - 1, 3_037_000_499, 3_037_000_500]);
        let random = (0..20_000).map(|i| AT.after(i).words()[0]);
        for word in words.chain(random) {
            let fraction = (f64::from(word) + 1.0) / 4_294_967_296.0;
            let (found, expected) = (ln_fraction(u64::from(word)), fraction.ln());
            assert!((found - expected).abs() <= 1e-15 * expected.abs(), "ln({fraction}): {found}, not {expected}");
            let turn = f64::from(word) / 4_294_967_296.0;
            let (sin, cos) = sin_cos_turn(u64::from(word));
            // The standard library's angle is rounded, by up to 4.5e-16.
            assert!((sin - (TAU * turn).sin()).abs() <= 1e-15, "the sine of {turn} turns: {sin}");
            assert!((cos - (TAU * turn).cos()).abs() <= 1e-15, "the cosine of {turn} turns: {cos}");
        }
        assert_eq!([0u64, 1, 2, 3].map(|q| sin_cos_turn(q << 30)), [(0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0)]);
    }

    #[test]
    fn normals_have_the_moments_of_a_standard_normal() {
        let z = normals(Isa::chosen(), AT, 400_000);
        let n = z.len() as f64;
        let moment = |p: i32| z.iter().map(|&z| f64::from(z).powi(p)).sum::<f64>() / n;
        // Five standard errors of each moment: sqrt(Var(zᵖ)/n) with Var = 1, 2, 15, 96.
        for (p, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let tolerance = 5.0 * f64::sqrt(variance / n);
            assert!((moment(p) - expected).abs() < tolerance, "moment {p}: {}", moment(p));
        }
    }

    #[test]
    fn langevins_update_is_its_formula_with_the_same_normals() {
        let n = 3000;
        let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
        let score: Vec<f32> = (0..n).map(|i| (i as f32 * 0.73).cos()).collect();
        let alpha = 0.01;
        let scale = f64::sqrt(2.0 * alpha);
        let z = normals(Isa::chosen(), AT, n);
        let expected = |i: usize| x[i] + score[i] * alpha as f32 + z[i] * scale as f32;
        let mut found = x.clone();
        langevin_update(Isa::chosen(), &mut found, &score, AT, [alpha, scale]);
        assert_eq!(found, (0..n).map(expected).collect::<Vec<_>>());
    }
}
