//! The instructions, in inline assembly, and whether there are any.

use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

use super::{COLUMNS, Config, Emulated, ROWS, TILE, TileUnit, trial};

/// A proof that this processor has tile registers, and that this process may use them.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

/// The tile registers of the thread that this was made on, configured as long as it lives.
#[derive(Debug)]
pub struct Tiles {
    /// Registers are a thread's: neither `Send` nor `Sync`.
    of_thread: PhantomData<*mut ()>,
}

thread_local!(static IN_USE: Cell<bool> = const { Cell::new(false) });

impl Amx {
    /// If the processor has it, the system lets this process use it, and it computes what it should.
    pub fn detect() -> Option<Self> {
        static WORKS: OnceLock<bool> = OnceLock::new();
        let works = || {
            let is_there = has_tiles() && is_permitted();
            is_there && trial(Self(()).configure(&Config::FULL)) == trial(Emulated::new(&Config::FULL))
        };
        WORKS.get_or_init(works).then_some(Self(()))
    }

    /// The thread's tile registers, with these shapes and all zero.
    ///
    /// # Panics
    /// If they are in use on this thread: what is released first would take them from the other.
    #[inline(always)]
    pub fn configure(self, config: &Config) -> Tiles {
        assert!(!IN_USE.replace(true), "found tile registers that are in use on this thread");
        let mut tiles = Tiles { of_thread: PhantomData };
        tiles.configure(config);
        tiles
    }

    /// Without asking whether the processor has it.
    #[cfg(test)]
    pub(crate) fn unchecked() -> Self {
        Self(())
    }
}

/// Whether the processor multiplies tiles of bf16, of the size that this module knows, and the system saves them.
#[allow(unused_unsafe, reason = "safe since Rust 1.93")]
fn has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// Tile configuration and tile data.
    const SAVED: u32 = 1 << 17 | 1 << 18;
    // SAFETY: every 64-bit processor has the instruction; leaves are asked for only where they exist.
    let (tiles, shapes) = unsafe {
        if __cpuid(0).eax < 0x1d || __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        (__cpuid_count(7, 0).edx, __cpuid_count(0x1d, 1))
    };
    if tiles & AMX_BF16 == 0 || tiles & AMX_TILE == 0 {
        return false;
    }
    let (saved, _high): (u32, u32);
    // SAFETY: OSXSAVE says that the instruction is there.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") saved, out("edx") _high, options(nomem, nostack)) };
    let (bytes, rows) = (4 * COLUMNS as u32, ROWS as u32);
    let sizes = shapes.eax >> 16 == bytes * rows && shapes.ebx == (8 << 16 | bytes) && shapes.ecx & 0xffff == rows;
    saved & SAVED == SAVED && sizes
}

/// Asks Linux to let this process use tile data, which makes what it saves of every thread larger.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers, and touches no memory of ours.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result == 0
}

/// Of other systems we do not know how they are asked.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// An instruction on a tile, and eight behind it that do nothing. Where something else slows the core's matrix unit down, as its other
/// hardware thread may, instructions on tiles that follow one another within less than these take up to two thirds longer; elsewhere
/// there is time enough for them (measured on Emerald Rapids, see `docs/performance.md`).
macro_rules! spaced {
    ($instruction:literal) => {
        concat!($instruction, "\n.fill 8, 1, 0x90")
    };
}

/// Asks for four rows of a tile, into the L1 cache, and goes on to the next. Behind a product they are the space that
/// [`spaced!`] makes.
macro_rules! four_rows {
    () => {
        "prefetcht0 [{from}]\n\
         prefetcht0 [{from} + {pitch}]\n\
         prefetcht0 [{from} + {pitch}*2]\n\
         prefetcht0 [{from} + {three}]\n\
         lea {from}, [{from} + {pitch}*4]\n"
    };
}

/// One instruction that changes tile `$t` alone. The compiler has no use for tile registers of its own (it gets none
/// without a target feature that is never enabled), so they keep what one instruction left there for the next.
macro_rules! on_tile {
    ($t:expr, $instruction:expr, [$($operand:tt)*], $($option:ident),*) => {
        on_tile!(@each $t, $instruction, [$($operand)*], [$($option),*],
            0 "tmm0", 1 "tmm1", 2 "tmm2", 3 "tmm3", 4 "tmm4", 5 "tmm5", 6 "tmm6", 7 "tmm7")
    };
    (@each $t:expr, $instruction:expr, $operands:tt, $options:tt, $($n:tt $register:tt),*) => {
        match $t {
            $($n => on_tile!(@one $instruction, $operands, $options, $register),)*
            _ => unreachable!("eight tiles"),
        }
    };
    (@one $instruction:expr, [$($operand:tt)*], [$($option:ident),*], $register:tt) => {
        asm!($instruction, $($operand)* out($register) _, options(nostack, preserves_flags, $($option),*))
    };
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as for `configure`; no memory is touched.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, nomem)
            );
        }
        IN_USE.set(false);
    }
}

impl TileUnit for Tiles {
    #[inline(always)]
    fn configure(&mut self, config: &Config) {
        // SAFETY: `self` comes from `Amx`, which proves that the processor has the instruction and may use it; it reads the
        // 64 bytes, which the processor takes, because a `Config` can only be had from its constructors.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                config = in(reg) config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags, readonly)
            );
        }
    }

    #[inline(always)]
    fn zero<const T: usize>(&mut self) {
        const { assert!(T < 8) };
        // SAFETY: the tile is configured, on this thread and no other, as long as `self` lives; no memory is touched.
        unsafe { on_tile!(T, "tilezero tmm{t}", [t = const T,], nomem) };
    }

    #[inline(always)]
    fn load<const T: usize>(&mut self, from: &[u16], pitch: usize) {
        const { assert!(T < 8) };
        // Not wrapping: a pitch beyond all memory is refused too.
        let needed = pitch.checked_mul(ROWS - 1).and_then(|n| n.checked_add(2 * COLUMNS));
        assert!(needed.is_some_and(|needed| from.len() >= needed));
        // SAFETY: as for `zero`; no tile is larger than what is in `from`, as asserted.
        unsafe {
            on_tile!(
                T,
                spaced!("tileloadd tmm{t}, [{from} + {pitch}*1]"),
                [t = const T, from = in(reg) from.as_ptr(), pitch = in(reg) 2 * pitch,],
                readonly
            );
        }
    }

    #[inline(always)]
    fn load_sums<const T: usize>(&mut self, from: &[f32]) {
        const { assert!(T < 8) };
        assert!(from.len() >= TILE);
        // SAFETY: as for `load`.
        unsafe {
            on_tile!(
                T,
                "tileloadd tmm{t}, [{from} + {pitch}*1]",
                [t = const T, from = in(reg) from.as_ptr(), pitch = in(reg) 4 * COLUMNS,],
                readonly
            );
        }
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        const { assert!(C != A && C < 6 && A < 6 && (B == 6 || B == 7)) };
        // SAFETY: as for `zero`; in every `Config` these tiles fit together; no memory is touched.
        unsafe {
            on_tile!(C, spaced!("tdpbf16ps tmm{c}, tmm{a}, tmm{b}"), [c = const C, a = const A, b = const B,], nomem);
        }
    }

    #[inline(always)]
    fn multiply_asking<const C: usize, const A: usize, const B: usize>(&mut self, from: *const u16, pitch: usize) {
        const { assert!(C != A && C < 6 && A < 6 && (B == 6 || B == 7)) };
        // SAFETY: as for `multiply`; memory is only asked for, a hint that no address makes fail.
        unsafe {
            on_tile!(
                C,
                concat!(
                    "tdpbf16ps tmm{c}, tmm{a}, tmm{b}\n",
                    "lea {three}, [{pitch} + {pitch}*2]\n",
                    four_rows!(),
                    four_rows!(),
                    four_rows!(),
                    four_rows!(),
                ),
                [
                    c = const C,
                    a = const A,
                    b = const B,
                    from = inout(reg) from => _,
                    pitch = in(reg) pitch.wrapping_mul(2),
                    three = out(reg) _,
                ],
                readonly
            );
        }
    }

    #[inline(always)]
    fn store<const T: usize>(&mut self, to: &mut [f32]) {
        const { assert!(T < 8) };
        assert!(to.len() >= TILE);
        // SAFETY: as for `zero`; no tile is larger than what is in `to`, as asserted.
        unsafe {
            asm!(
                "tilestored [{to} + {pitch}*1], tmm{t}",
                t = const T,
                to = in(reg) to.as_mut_ptr(),
                pitch = in(reg) 4 * COLUMNS,
                options(nostack, preserves_flags)
            );
        }
    }
}
