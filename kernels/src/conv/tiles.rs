//! The product at the bottom of convolutions in bf16, with sums in f32: up to 32 rows of A times up to 32 columns of B.
//!
//! One trait, [`Products`], and two ways: tile registers ([`Tiles`], on the matrix unit or its emulation) and vectors of pairs
//! ([`vectors`], AVX-512-BF16). bf16 are held as u16.

#[cfg(target_arch = "x86_64")]
mod vectors;

#[cfg(target_arch = "x86_64")]
use vectors::{Hardware, Vectors};

use crate::amx::{Config, Emulated, ROWS, TILE, TileUnit};
use crate::cpu::Isa;
use crate::simd::{FourNumbers, Portable, Simd};

/// What multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Tile registers in plain Rust, for tests: any processor.
    Emulated,
    /// Vectors of 16 pairs.
    Avx512Bf16,
    /// Tile registers.
    Amx,
    /// The same, without asking whether the processor has them.
    #[cfg(all(test, target_arch = "x86_64"))]
    Unchecked,
}

/// Work that is written for any [`Unit`].
pub trait Work {
    /// Does it. To be marked `#[inline(always)]`, and to call intrinsics in no closure: the instructions are enabled around
    /// this function only.
    fn run<P: Products>(self, products: &mut P);
}

impl Unit {
    /// That of an instruction set.
    pub fn of(isa: Isa) -> Option<Self> {
        match isa {
            Isa::Amx => Some(Unit::Amx),
            Isa::Avx512Bf16 => Some(Unit::Avx512Bf16),
            _ => None,
        }
    }

    /// Those that this processor can run.
    pub fn available() -> Vec<Self> {
        [Unit::Emulated].into_iter().chain(Isa::available().into_iter().filter_map(Self::of)).collect()
    }

    /// Whether it multiplies tiles, ten times as fast as vectors multiply f32, and knows numbers of two parts.
    pub fn has_tiles(self) -> bool {
        self != Unit::Avx512Bf16
    }

    /// Does `work` with it.
    ///
    /// # Panics
    /// If the processor lacks it.
    pub fn run<W: Work>(self, work: W) {
        match self {
            Unit::Emulated => work.run(&mut Tiles::new(Emulated::new(&Config::FULL), Software)),
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512Bf16 => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                // SAFETY: just detected.
                unsafe { enabled(work, &mut Vectors(conversion)) }
            }
            #[cfg(target_arch = "x86_64")]
            Unit::Amx => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                let amx = crate::amx::Amx::detect().expect("a processor with AMX");
                // SAFETY: just detected.
                unsafe { enabled(work, &mut Tiles::new(amx.configure(&Config::FULL), conversion)) }
            }
            #[cfg(all(test, target_arch = "x86_64"))]
            Unit::Unchecked => {
                let conversion = Hardware::detect().expect("a processor with AVX-512-BF16");
                let unit = crate::amx::Amx::unchecked().configure(&Config::FULL);
                // SAFETY: just detected; the test sees to the rest.
                unsafe { enabled(work, &mut Tiles::new(unit, conversion)) }
            }
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => panic!("{self:?} is of another architecture"),
        }
    }
}

/// `work`, compiled with the instructions of [`Hardware`].
///
/// # Safety
/// The processor has them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn enabled<W: Work, P: Products>(work: W, products: &mut P) {
    work.run(products);
}

/// Pairs of bf16 in vectors of f32, each lane a pair; rounded to nearest, halves to even. Numbers below 2⁻¹²⁶ may become zero.
pub trait Conversion: Copy {
    type S: Simd;
    fn simd(self) -> Self::S;
    /// Lane i: (even\[i\], odd\[i\])
    fn pairs(self, even: V<Self>, odd: V<Self>) -> V<Self>;
    /// The numbers of one vector, then those of the other.
    fn in_order(self, first: V<Self>, second: V<Self>) -> V<Self>;
}

type V<C> = <<C as Conversion>::S as Simd>::V;

/// Of how many bf16 a number is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// The nearest: 8 binary digits.
    One = 1,
    /// The nearest, and the one nearest to what is left: 16 digits. Of a product of two such numbers that of the two rests is left
    /// out, so it takes three products.
    Two = 2,
}

/// Terms of a sum in a row of a tile. Those of the leading parts of numbers are followed by those of their rests, if there are any.
pub const TERMS: usize = 32;

/// C\[m\]\[n\] = Σ over segments (a, b), Σ over k < `len` of A\[a + k\]\[m\] · B\[b + k\]\[n\].
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub parts: Parts,
    pub a: &'a [u16],
    /// The first rows of one or two times `n_rows` rows.
    pub runs: &'a [usize],
    /// From 1 to 16. Tiles are read as if there were 16, so numbers must be there.
    pub n_rows: usize,
    /// From one row to the next.
    pub row: usize,
    /// From [`TERMS`] terms of A to the next.
    pub step: usize,
    /// Pairs of k of 16 columns, `[k / 2][part][16][2]`.
    pub b: &'a [u16],
    /// Where k = 0 of one or two times 16 columns is.
    pub columns: &'a [usize],
    /// Places in A and B that are added to those above.
    pub segments: &'a [[usize; 2]],
    /// A multiple of [`TERMS`].
    pub len: usize,
    /// What is read or written soon, and asked for meanwhile.
    pub soon: [Lines; 2],
}

/// Cache lines that are asked for: hints only, which are never read.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    pub at: *const u16,
    pub n: usize,
}

impl Lines {
    /// None.
    pub const NONE: Self = Self { at: std::ptr::null(), n: 0 };

    /// Those of `range`.
    pub fn of(range: &[u16]) -> Self {
        Self { at: range.as_ptr(), n: range.len().div_ceil(TERMS) }
    }

    /// The first `n`, or as many as there are, which are then no more among these.
    #[inline(always)]
    pub fn take(&mut self, n: usize) -> Self {
        let taken = Self { at: self.at, n: n.min(self.n) };
        *self = Self { at: self.at.wrapping_add(taken.n * TERMS), n: self.n - taken.n };
        taken
    }

    #[inline(always)]
    fn ask<S: Simd>(self, s: S) {
        for i in 0..self.n {
            s.prefetch(self.at.wrapping_add(i * TERMS).cast());
        }
    }
}

/// Numbers of the result of a [`Block`]: `[run][columns][16][16]`, two of each whether used or not.
pub const BLOCK: usize = 4 * TILE;

/// What multiplies, and the vectors to prepare operands with.
pub trait Products {
    type C: Conversion;
    fn conversion(&self) -> Self::C;
    /// The block's sums, added to what is in `c` if `add`. Rows beyond those of a run, and unused parts, are left as they are or
    /// become arbitrary.
    fn multiply(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]);
}

/// Products by tile registers.
pub struct Tiles<T: TileUnit, C> {
    unit: T,
    conversion: C,
    /// For which the tiles are configured.
    n_rows: usize,
}

impl<T: TileUnit, C> Tiles<T, C> {
    /// By a unit with [`Config::FULL`].
    #[inline(always)]
    fn new(unit: T, conversion: C) -> Self {
        Self { unit, conversion, n_rows: ROWS }
    }
}

impl<T: TileUnit, C: Conversion> Products for Tiles<T, C> {
    type C = C;

    #[inline(always)]
    fn conversion(&self) -> C {
        self.conversion
    }

    #[inline(always)]
    fn multiply(&mut self, block: &Block<'_>, add: bool, c: &mut [f32]) {
        if block.n_rows != self.n_rows {
            self.unit.configure(&Config::with_rows(block.n_rows));
            self.n_rows = block.n_rows;
        }
        match (block.parts, block.runs.len(), block.columns.len()) {
            (Parts::One, 1, 1) => self.tiles::<false, 1, 1>(block, add, c),
            (Parts::One, 1, 2) => self.tiles::<false, 1, 2>(block, add, c),
            (Parts::One, 2, 1) => self.tiles::<false, 2, 1>(block, add, c),
            (Parts::One, 2, 2) => self.tiles::<false, 2, 2>(block, add, c),
            (Parts::Two, 1, 1) => self.tiles::<true, 1, 1>(block, add, c),
            (Parts::Two, 1, 2) => self.tiles::<true, 1, 2>(block, add, c),
            (Parts::Two, 2, 1) => self.tiles::<true, 2, 1>(block, add, c),
            (Parts::Two, 2, 2) => self.tiles::<true, 2, 2>(block, add, c),
            sizes => unreachable!("a block of {sizes:?} tiles"),
        }
    }
}

/// 16 rows of a tile: where the first is, and how many numbers it is from one to the next.
#[derive(Clone, Copy)]
struct Rows {
    from: *const u16,
    pitch: usize,
}

/// C += A·B, perhaps asking for rows that are soon loaded.
#[inline(always)]
fn product<T: TileUnit, const C: usize, const A: usize, const B: usize>(unit: &mut T, ask: Option<Rows>) {
    match ask {
        Some(Rows { from, pitch }) => unit.multiply_asking::<C, A, B>(from, pitch),
        None => unit.multiply::<C, A, B>(),
    }
}

impl<T: TileUnit, C: Conversion> Tiles<T, C> {
    /// Tiles 0 to 3 are sums (two of each run), 4 and 5 rows of A, 6 and 7 columns of B: four products for four loads, or with
    /// `SPLIT` numbers twelve for eight.
    #[inline(always)]
    fn tiles<const SPLIT: bool, const RUNS: usize, const COLUMNS: usize>(
        &mut self,
        block: &Block<'_>,
        add: bool,
        c: &mut [f32],
    ) {
        let Block { a, runs, row, step, b, columns, segments, len, mut soon, .. } = *block;
        let (unit, simd) = (&mut self.unit, self.conversion.simd());
        let n_each = soon.map(|lines| lines.n.div_ceil((segments.len() * len / TERMS).max(1)));
        let parts = if SPLIT { 2 } else { 1 };
        let a_runs = [runs[0], runs[RUNS - 1]];
        let b_columns = [columns[0], columns[COLUMNS - 1]];
        assert!(c.len() == BLOCK && len.is_multiple_of(TERMS));
        if add {
            unit.load_sums::<0>(c);
            unit.load_sums::<1>(&c[TILE..]);
            unit.load_sums::<2>(&c[2 * TILE..]);
            unit.load_sums::<3>(&c[3 * TILE..]);
        } else {
            unit.zero::<0>();
            unit.zero::<1>();
            unit.zero::<2>();
            unit.zero::<3>();
        }
        macro_rules! load_a {
            ($at:expr) => {
                unit.load::<4>(&a[a_runs[0] + $at..], row);
                if RUNS == 2 {
                    unit.load::<5>(&a[a_runs[1] + $at..], row);
                }
            };
        }
        macro_rules! load_b {
            ($at:expr) => {
                unit.load::<6>(&b[b_columns[0] + $at..], TERMS * parts);
                if COLUMNS == 2 {
                    unit.load::<7>(&b[b_columns[1] + $at..], TERMS * parts);
                }
            };
        }
        macro_rules! multiply {
            ($ask:expr) => {
                let ask: [Option<Rows>; 4] = $ask;
                product::<T, 0, 4, 6>(unit, ask[0]);
                if COLUMNS == 2 {
                    product::<T, 1, 4, 7>(unit, ask[1]);
                }
                if RUNS == 2 {
                    product::<T, 2, 5, 6>(unit, ask[2]);
                    if COLUMNS == 2 {
                        product::<T, 3, 5, 7>(unit, ask[3]);
                    }
                }
            };
        }
        for (segment, &[a_first, b_first]) in segments.iter().enumerate() {
            for k in 0..len / TERMS {
                let (a_at, b_at) = (a_first + k * step, b_first + k * TERMS * 16 * parts);
                let [a_next, b_next] = match segments.get(segment + 1) {
                    _ if k + 1 < len / TERMS => [a_at + step, b_at + TERMS * 16 * parts],
                    Some(&next) => next,
                    None => [a_at, b_at],
                };
                let next_a = |run: usize, part: usize| {
                    Some(Rows { from: a.as_ptr().wrapping_add(a_runs[run] + a_next + part * TERMS), pitch: row })
                };
                let next_b = |column: usize, part: usize| {
                    let from = b.as_ptr().wrapping_add(b_columns[column] + b_next + part * TERMS);
                    Some(Rows { from, pitch: TERMS * parts })
                };
                // A whole block's tiles of the next step come into the L1 cache meanwhile. Without `SPLIT` there are so many
                // for each product that asking for them takes longer than it saves.
                let ask = |rows: [Option<Rows>; 4]| if RUNS == 2 && COLUMNS == 2 { rows } else { [None; 4] };
                soon[0].take(n_each[0]).ask(simd);
                soon[1].take(n_each[1]).ask(simd);
                load_b!(b_at);
                if SPLIT {
                    load_a!(a_at + TERMS);
                    multiply!(ask([next_b(0, 0), next_b(1, 0), next_a(0, 1), next_a(1, 1)]));
                    load_a!(a_at);
                    multiply!(ask([next_a(0, 0), next_a(1, 0), next_b(0, 1), next_b(1, 1)]));
                    load_b!(b_at + TERMS);
                    multiply!([None; 4]);
                } else {
                    load_a!(a_at);
                    multiply!([None; 4]);
                }
            }
        }
        unit.store::<0>(c);
        if COLUMNS == 2 {
            unit.store::<1>(&mut c[TILE..]);
        }
        if RUNS == 2 {
            unit.store::<2>(&mut c[2 * TILE..]);
            if COLUMNS == 2 {
                unit.store::<3>(&mut c[3 * TILE..]);
            }
        }
    }
}

/// In plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Software;

impl Conversion for Software {
    type S = Portable;

    fn simd(self) -> Portable {
        Portable
    }

    fn pairs(self, even: FourNumbers, odd: FourNumbers) -> FourNumbers {
        FourNumbers(std::array::from_fn(|i| pair(even.0[i], odd.0[i])))
    }

    fn in_order(self, first: FourNumbers, second: FourNumbers) -> FourNumbers {
        let (FourNumbers([a, b, c, d]), FourNumbers([e, f, g, h])) = (first, second);
        FourNumbers([pair(a, b), pair(c, d), pair(e, f), pair(g, h)])
    }
}

/// Two bf16 in the place of an f32.
fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(u32::from(bf16(first)) | u32::from(bf16(second)) << 16)
}

/// The nearest bf16, halves to even.
fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Quiet, so that cutting digits off does not leave infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    // The half of the last digit that is kept, less one unless that digit is odd.
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_bf16_and_halves_to_even() {
        for (x, expected) in [
            (1.0, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 1.001 / 256.0, 0x3f81),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (-1.0 - 2.999 / 256.0, 0xbf81),
            (0.0, 0),
            (-0.0, 0x8000),
            (f32::MAX, 0x7f80),
            (f32::NEG_INFINITY, 0xff80),
        ] {
            assert_eq!(bf16(x), expected, "{x}");
        }
        assert!(f32::from_bits(u32::from(bf16(f32::from_bits(0x7f80_0001))) << 16).is_nan());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_processor_rounds_as_plain_rust() {
        struct Rounded<'a>(&'a [f32], &'a mut [f32]);

        impl Work for Rounded<'_> {
            #[inline(always)]
            fn run<P: Products>(self, products: &mut P) {
                let (c, s) = (products.conversion(), products.conversion().simd());
                let lanes = <P::C as Conversion>::S::LANES;
                for (x, out) in self.0.chunks_exact(2 * lanes).zip(self.1.chunks_exact_mut(2 * lanes)) {
                    let (first, second) = (s.load(x), s.load(&x[lanes..]));
                    s.store(out, c.in_order(first, second));
                    s.store(&mut out[lanes..], c.pairs(first, second));
                }
            }
        }

        if !Isa::Avx512Bf16.is_available() {
            return;
        }
        // All exponents and signs, and what is no number; denormal numbers may become zero.
        let numbers = (0..1u32 << 16).map(|i| f32::from_bits(i << 16 ^ i.wrapping_mul(0x9e37_79b9) >> 16));
        let numbers: Vec<f32> = numbers.map(|x| if x.is_subnormal() { 0.0 } else { x }).collect();
        let mut out = vec![0.0; numbers.len()];
        Unit::Avx512Bf16.run(Rounded(&numbers, &mut out));
        for (x, out) in numbers.chunks_exact(32).zip(out.chunks_exact(32)) {
            let found: Vec<u16> = out.iter().flat_map(|x| [x.to_bits() as u16, (x.to_bits() >> 16) as u16]).collect();
            let in_order = x.iter().map(|&x| bf16(x));
            let pairs = (0..32).map(|i| bf16(x[i / 2 + 16 * (i % 2)]));
            assert_eq!(found, in_order.chain(pairs).collect::<Vec<_>>(), "{x:?}");
        }
    }
}
