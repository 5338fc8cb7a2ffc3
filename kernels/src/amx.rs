//! The matrix unit of Intel's processors (AMX: "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1,
//! chapter 18): eight tile registers of 16 rows of 64 bytes, and products of tiles of bf16 with sums in f32.
//!
//! [`TileUnit`] is what it does once it is configured. [`Tiles`] is the hardware, in inline assembly, because Rust's
//! intrinsics for it are not stable; [`Emulated`] is its definition in plain Rust, which any processor runs: whatever is
//! written for the one is tested with the other.
//!
//! Tile registers belong to a thread, and are there only as long as they are configured. So [`Tiles`] is what
//! [`Amx::configure`] gives, stays on its thread, is the only one there, and releases the registers when it goes.

#[cfg(target_arch = "x86_64")]
mod hardware;
#[cfg(test)]
mod tests;

#[cfg(target_arch = "x86_64")]
pub use hardware::{Amx, Tiles};

/// Rows of a tile.
pub const ROWS: usize = 16;

/// Numbers of 32 bits, f32 or pairs of bf16, in a row of a tile.
pub const COLUMNS: usize = 16;

/// Numbers of f32 in a tile.
pub const TILE: usize = ROWS * COLUMNS;

/// Configured tile registers and the instructions on them: `T` from 0 to 7, `A` and `C` from 0 to 5, `B` 6 or 7, so that
/// products are of tiles that fit together in every [`Config`].
pub trait TileUnit {
    /// Gives the tiles other shapes, and clears them.
    fn configure(&mut self, config: &Config);
    /// T = 0
    fn zero<const T: usize>(&mut self);
    /// T = 16 rows of 16 pairs of bf16, each row `pitch` numbers after the one before.
    fn load<const T: usize>(&mut self, from: &[u16], pitch: usize);
    /// T = 16 rows of 16 sums, one after the other.
    fn load_sums<const T: usize>(&mut self, from: &[f32]);
    /// C\[m\]\[n\] += Σ over pairs k of A\[m\]\[k\] · B\[k\]\[n\]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);
    /// [`Self::multiply`], and asks for 16 rows from `from` on, each `pitch` numbers after the one before, which are soon loaded: a
    /// hint, for which nothing needs to be there.
    #[inline(always)]
    fn multiply_asking<const C: usize, const A: usize, const B: usize>(&mut self, from: *const u16, pitch: usize) {
        let _ = (from, pitch);
        self.multiply::<C, A, B>();
    }
    /// Writes T's 16 rows of 16 sums, one after the other.
    fn store<const T: usize>(&mut self, to: &mut [f32]);
}

/// The shapes of all tiles, as the processor reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, of each tile.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Eight tiles of the largest shape.
    pub const FULL: Config = Config::with_rows(ROWS);

    /// Tiles 0 to 5 have `n_rows` rows, from 1 to 16, and are as wide as can be; 6 and 7 are of the largest shape. So products of
    /// 4 or 5 with 6 or 7 can be added to 0 to 3, and take as long as there are rows.
    pub const fn with_rows(n_rows: usize) -> Config {
        assert!(1 <= n_rows && n_rows <= ROWS);
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        let mut tile = 0;
        while tile < 8 {
            row_bytes[tile] = 4 * COLUMNS as u16;
            rows[tile] = if tile < 6 { n_rows as u8 } else { ROWS as u8 };
            tile += 1;
        }
        Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }

    /// Whether the processor would take it, by the description of `LDTILECFG`.
    fn is_valid(&self) -> bool {
        let within = |tile: usize| {
            let (bytes, rows) = (self.row_bytes[tile], self.rows[tile]);
            let there = tile < 8 && bytes <= 64 && usize::from(rows) <= ROWS && (bytes == 0) == (rows == 0);
            there || bytes == 0 && rows == 0
        };
        self.palette == 1 && self.start_row == 0 && self.reserved == [0; 14] && (0..16).all(within)
    }
}

/// The tile registers in memory, and the arithmetic of `TDPBF16PS`. What the processor would refuse is a panic.
#[derive(Clone, Debug)]
pub struct Emulated {
    config: Option<Config>,
    /// The 32-bit numbers of each tile.
    tiles: [[[u32; COLUMNS]; ROWS]; 8],
}

impl Emulated {
    /// With tiles of these shapes, all zero.
    pub fn new(config: &Config) -> Self {
        let mut unit = Self::released();
        unit.configure(config);
        unit
    }

    /// Not configured: the state in which a thread begins.
    fn released() -> Self {
        Self { config: None, tiles: [[[0; COLUMNS]; ROWS]; 8] }
    }

    /// Rows of a tile and numbers of 32 bits in a row.
    fn shape(&self, tile: usize) -> [usize; 2] {
        let config = self.config.as_ref().expect("configured tiles");
        assert!(config.rows[tile] > 0, "tile {tile} has no shape");
        [usize::from(config.rows[tile]), usize::from(config.row_bytes[tile]) / 4]
    }

    /// Fills tile `T`; what is beyond its shape becomes zero.
    fn fill<const T: usize>(&mut self, number: impl Fn(usize, usize) -> u32) {
        let [rows, columns] = self.shape(T);
        self.tiles[T] = [[0; COLUMNS]; ROWS];
        for (m, row) in self.tiles[T].iter_mut().enumerate().take(rows) {
            for (n, value) in row.iter_mut().enumerate().take(columns) {
                *value = number(m, n);
            }
        }
    }

    /// C += A·B
    fn add_product(&mut self, c: usize, a: usize, b: usize) {
        let ([rows, columns], [a_rows, n_pairs], [b_rows, b_columns]) = (self.shape(c), self.shape(a), self.shape(b));
        assert!(c != a && c != b && a != b, "three tiles");
        assert!(rows == a_rows && n_pairs == b_rows && columns == b_columns, "tiles that fit together");
        for m in 0..rows {
            for n in 0..columns {
                let (mut even, mut odd) = (0.0, 0.0);
                for k in 0..n_pairs {
                    let (x, y) = (self.tiles[a][m][k], self.tiles[b][k][n]);
                    // A product of two bf16 is exact in f32: adding it is one rounding, as in a fused multiply-add.
                    even = flushed(even + low(x) * low(y));
                    odd = flushed(odd + high(x) * high(y));
                }
                let sum = flushed(f32::from_bits(self.tiles[c][m][n])) + flushed(even + odd);
                self.tiles[c][m][n] = flushed(sum).to_bits();
            }
        }
    }
}

impl TileUnit for Emulated {
    fn configure(&mut self, config: &Config) {
        assert!(config.is_valid(), "{config:?}");
        *self = Self { config: Some(*config), ..Self::released() };
    }

    fn zero<const T: usize>(&mut self) {
        self.fill::<T>(|_, _| 0);
    }

    fn load<const T: usize>(&mut self, from: &[u16], pitch: usize) {
        self.fill::<T>(|m, n| {
            let at = m * pitch + 2 * n;
            u32::from(from[at]) | u32::from(from[at + 1]) << 16
        });
    }

    fn load_sums<const T: usize>(&mut self, from: &[f32]) {
        self.fill::<T>(|m, n| from[m * COLUMNS + n].to_bits());
    }

    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        self.add_product(C, A, B);
    }

    fn store<const T: usize>(&mut self, to: &mut [f32]) {
        let [rows, columns] = self.shape(T);
        for m in 0..rows {
            for n in 0..columns {
                to[m * COLUMNS + n] = f32::from_bits(self.tiles[T][m][n]);
            }
        }
    }
}

/// The first number of a pair.
fn low(pair: u32) -> f32 {
    flushed(f32::from_bits(pair << 16))
}

/// The second number of a pair.
fn high(pair: u32) -> f32 {
    flushed(f32::from_bits(pair & 0xffff_0000))
}

/// Zero for numbers so small that they have fewer digits.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// Products of small whole numbers in all tiles of a unit with [`Config::FULL`], which any order of adding gives exactly: what
/// a unit computes for them tells whether it is one.
#[cfg(any(test, target_arch = "x86_64"))]
fn trial(mut unit: impl TileUnit) -> [f32; 4 * TILE] {
    const PITCH: usize = 40;
    let whole = |i: usize, factor: usize| ((((i * factor) % 17) as f32 - 8.0).to_bits() >> 16) as u16;
    let operand = |factor: usize| -> [u16; ROWS * PITCH] { std::array::from_fn(|i| whole(i, factor)) };
    let mut sums: [f32; 4 * TILE] = std::array::from_fn(|i| i as f32);
    unit.load_sums::<0>(&sums);
    unit.load_sums::<1>(&sums[TILE..]);
    unit.load_sums::<2>(&sums[2 * TILE..]);
    unit.zero::<3>();
    unit.load::<4>(&operand(3), PITCH);
    unit.load::<5>(&operand(5), PITCH);
    unit.load::<6>(&operand(7), PITCH);
    unit.load::<7>(&operand(11), PITCH);
    for _ in 0..2 {
        unit.multiply::<0, 4, 6>();
        unit.multiply::<1, 4, 7>();
        unit.multiply::<2, 5, 6>();
        unit.multiply::<3, 5, 7>();
    }
    unit.store::<0>(&mut sums);
    unit.store::<1>(&mut sums[TILE..]);
    unit.store::<2>(&mut sums[2 * TILE..]);
    unit.store::<3>(&mut sums[3 * TILE..]);
    sums
}
