use super::*;

#[test]
fn the_emulation_multiplies_tiles_as_the_definition_says() {
    let sums = trial(Emulated::new(&Config::FULL));
    let value = |i: usize, factor: usize| ((i * factor) % 17) as f32 - 8.0;
    for (tile, [a, b]) in [[3, 7], [3, 11], [5, 7], [5, 11]].into_iter().enumerate() {
        for (m, n) in (0..16).flat_map(|m| (0..16).map(move |n| (m, n))) {
            let at = tile * TILE + m * 16 + n;
            // Row m of A has 32 numbers, row k of B pairs of 16 columns; rows are 40 apart.
            let product = |k: usize| value(40 * m + k, a) * value(40 * (k / 2) + 2 * n + k % 2, b);
            let first = if tile < 3 { at as f32 } else { 0.0 };
            assert_eq!(sums[at], first + 2.0 * (0..32).map(product).sum::<f32>(), "tile {tile}, row {m}, column {n}");
        }
    }
}

#[test]
fn the_emulation_refuses_what_the_processor_would() {
    let change = |f: &dyn Fn(&mut Config)| {
        let mut config = Config::FULL;
        f(&mut config);
        config.is_valid()
    };
    assert!(change(&|_| ()));
    assert!(change(&|config| (config.rows[7], config.row_bytes[7]) = (0, 0)));
    assert!(!change(&|config| config.rows[0] = 17));
    assert!(!change(&|config| config.row_bytes[0] = 68));
    assert!(!change(&|config| config.rows[3] = 0));
    assert!(!change(&|config| (config.rows[8], config.row_bytes[8]) = (1, 4)));
    assert!(!change(&|config| config.palette = 2));
    assert!(!change(&|config| config.reserved[0] = 1));
    assert_eq!(size_of::<Config>(), 64);
}

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
mod instructions {
    //! The hardware's instructions themselves, on processors that lack them: an instruction that a processor does not know
    //! raises a signal, whose handler here reads the instruction's bytes and its registers, does its work by the emulation
    //! and goes on behind it. Encodings are those of the manual, volume 2, "Instruction set reference".

    use std::cell::RefCell;
    use std::ffi::{c_int, c_void};
    use std::sync::Once;

    use super::super::*;
    use crate::conv::ConvShape;
    use crate::conv::half::{self, Method, Parts, Unit};

    thread_local!(static UNIT: RefCell<(Emulated, usize)> = RefCell::new((Emulated::released(), 0)));

    /// glibc's `struct sigaction`.
    #[repr(C)]
    struct Action {
        handler: extern "C" fn(c_int, *mut c_void, *mut Context),
        mask: [u64; 16],
        flags: c_int,
        restorer: *const c_void,
    }

    /// The beginning of glibc's `ucontext_t`.
    #[repr(C)]
    struct Context {
        flags: u64,
        link: *const c_void,
        stack: [u64; 3],
        registers: [u64; 23],
    }

    unsafe extern "C" {
        fn sigaction(signal: c_int, action: *const Action, old: *mut c_void) -> c_int;
    }

    /// Where in [`Context::registers`] the general registers are, by their numbers in instructions: rax, rcx, rdx, rbx, rsp,
    /// rbp, rsi, rdi, r8 to r15.
    const NUMBERED: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
    const RIP: usize = 16;

    extern "C" fn handle(_: c_int, _: *mut c_void, context: *mut Context) {
        // SAFETY: the system gives what it saved of the thread, which is ours as long as the handler runs.
        let registers = unsafe { &mut (*context).registers };
        // SAFETY: instructions are followed by others, or by the padding of functions.
        let code = unsafe { std::slice::from_raw_parts(registers[RIP] as *const u8, 16) };
        let length = UNIT.with_borrow_mut(|(unit, n)| {
            *n += 1;
            execute(unit, code, registers)
        });
        match length {
            Some(length) => registers[RIP] += length,
            // To panic is not possible here.
            None => std::process::abort(),
        }
    }

    /// Does the instruction that `code` begins with; gives its length.
    fn execute(unit: &mut Emulated, code: &[u8], registers: &[u64; 23]) -> Option<u64> {
        // VEX with three bytes, map 0F38, W = 0, L = 0; the last bits stand for a prefix.
        let [0xc4, second, third, opcode, modrm, ..] = *code else { return None };
        if second & 0x1f != 2 || third & 0x84 != 0 {
            return None;
        }
        const NONE: u8 = 0;
        const F3: u8 = 2;
        const F2: u8 = 3;
        let (vvvv, prefix) = (usize::from(!third >> 3 & 15), third & 3);
        let (in_memory, reg, rm) = (modrm >> 6 != 3, usize::from(modrm >> 3 & 7), usize::from(modrm & 7));
        match (opcode, prefix) {
            (0x49, NONE) if !in_memory && reg == 0 && rm == 0 && vvvv == 0 => {
                *unit = Emulated::released();
                Some(5)
            }
            (0x49, F2) if !in_memory && rm == 0 && vvvv == 0 => {
                unit.tiles[reg] = [[0; COLUMNS]; ROWS];
                Some(5)
            }
            (0x49, NONE) if in_memory && reg == 0 && vvvv == 0 => {
                let (at, _, length) = operand(code, registers)?;
                // SAFETY: the instruction would read there.
                unit.configure(unsafe { &*(at as *const Config) });
                Some(length)
            }
            // TILELOADD and TILESTORED have an index always: the pitch.
            (0x4b, F2 | F3) if in_memory && rm == 4 && vvvv == 0 => {
                let (at, pitch, length) = operand(code, registers)?;
                let [rows, columns] = unit.shape(reg);
                for (m, n) in (0..rows).flat_map(|m| (0..columns).map(move |n| (m, n))) {
                    let at = (at as *mut u32).wrapping_byte_add(m * pitch as usize + 4 * n);
                    let number = &mut unit.tiles[reg][m][n];
                    // SAFETY: the instruction would read or write there.
                    unsafe {
                        match prefix {
                            F2 => *number = at.read_unaligned(),
                            _ => at.write_unaligned(*number),
                        }
                    }
                }
                Some(length)
            }
            (0x5c, F3) if !in_memory => {
                unit.add_product(reg, rm, vvvv);
                Some(5)
            }
            _ => None,
        }
    }

    /// The address in memory without its index, the index, and the length of an instruction.
    fn operand(code: &[u8], registers: &[u64; 23]) -> Option<(u64, u64, u64)> {
        let extended = !code[1] >> 5;
        let register = |number: u8, bit: u8| registers[NUMBERED[usize::from(number + 8 * (extended >> bit & 1))]];
        let (mode, rm) = (code[4] >> 6, code[4] & 7);
        let (base, index, length) = match rm {
            4 => {
                let (scale, index, base) = (code[5] >> 6, code[5] >> 3 & 7, code[5] & 7);
                let none = index == 4 && extended >> 1 & 1 == 0;
                if scale != 0 {
                    return None;
                }
                (base, if none { 0 } else { register(index, 1) }, 6)
            }
            base => (base, 0, 5),
        };
        let displacement = match mode {
            // Relative to the instruction, or no base at all.
            0 if base == 5 => return None,
            0 => 0,
            1 => code[length] as i8 as i64,
            _ => return None,
        };
        Some((register(base, 0).wrapping_add_signed(displacement), index, length as u64 + u64::from(mode)))
    }

    /// Does `work` by the hardware, or with its instructions emulated one by one; gives how many were.
    fn with_instructions(work: impl FnOnce()) -> usize {
        static INSTALLED: Once = Once::new();
        const SIGILL: c_int = 4;
        const SA_SIGINFO: c_int = 4;
        if Amx::detect().is_none() {
            INSTALLED.call_once(|| {
                let action = Action { handler: handle, mask: [0; 16], flags: SA_SIGINFO, restorer: std::ptr::null() };
                // SAFETY: the structure is as the system library has it; the handler keeps to what signals may do, because
                // the signal comes from our own instructions, never from within the library.
                assert_eq!(unsafe { sigaction(SIGILL, &action, std::ptr::null_mut()) }, 0);
            });
        }
        UNIT.with_borrow_mut(|(_, n)| *n = 0);
        work();
        UNIT.with_borrow(|(unit, n)| {
            assert!(unit.config.is_none(), "tiles that were not released");
            *n
        })
    }

    #[test]
    fn every_instruction_is_encoded_as_in_the_manual_and_does_what_it_should() {
        let n = with_instructions(|| {
            let tiles = Amx::unchecked().configure(&Config::FULL);
            assert_eq!(trial(tiles), trial(Emulated::new(&Config::FULL)));
        });
        assert!(Amx::detect().is_some() || n == 1 + 4 + 4 + 2 * 4 + 4 + 1, "{n} instructions");
    }

    #[test]
    fn convolutions_by_the_instructions_are_those_by_the_emulation() {
        let values = |n: usize, factor: usize| -> Vec<f32> {
            (0..n).map(|i| ((i * factor) % 1009) as f32 / 504.0 - 1.0).collect()
        };
        let shapes = [
            ([33, 40], [5, 9], 3, 1, 1, 1),
            ([3, 17], [6, 4], 2, 2, 0, 1),
            ([64, 16], [3, 18], 3, 1, 2, 2),
            ([40, 20], [9, 5], 3, 1, 4, 4),
            ([8, 8], [2, 3], 3, 1, 20, 20),
            ([1, 1], [1, 1], 1, 1, 0, 1),
        ];
        for (channels, size, kernel, stride, padding, dilation) in shapes {
            let [c_in, c_out] = channels;
            let shape =
                ConvShape { n: 1, c_in, c_out, size, kernel: [kernel; 2], stride, padding: [padding; 2], dilation };
            let [x, weights, grad] = [(shape.input_len(), 389), (shape.weight_len(), 577), (shape.output_len(), 823)]
                .map(|(n, factor)| values(n, factor));
            let results = |unit: Unit, parts: Parts| {
                let method = Method { unit, parts };
                let mut out = vec![0.0; shape.output_len()];
                half::forward(method, &shape, &x, &weights, None, Some(&grad), &mut out);
                let mut grad_x = vec![0.0; shape.input_len()];
                half::transposed(method, &shape, &grad, &weights, None, &mut grad_x);
                let mut grad_weights = vec![0.0; shape.weight_len()];
                if stride == 1 {
                    half::weight_gradient(method, &shape, &x, &grad, &mut grad_weights);
                }
                (out, grad_x, grad_weights)
            };
            if !crate::cpu::Isa::Avx512Bf16.is_available() {
                return;
            }
            for parts in [Parts::One, Parts::Two] {
                let n = with_instructions(|| {
                    let same = results(Unit::Unchecked, parts) == results(Unit::Emulated, parts);
                    assert!(same, "{shape:?}, {parts:?}");
                });
                assert!(Amx::detect().is_some() || n >= 24, "{n} instructions");
            }
        }
    }

    #[test]
    fn tiles_are_released_when_work_panics() {
        let n = with_instructions(|| {
            let work = || {
                let mut tiles = Amx::unchecked().configure(&Config::FULL);
                tiles.zero::<0>();
                panic!("work");
            };
            assert!(std::panic::catch_unwind(work).is_err());
        });
        assert!(Amx::detect().is_some() || n == 3, "{n} instructions");
    }

    #[test]
    fn tiles_are_one_works_at_a_time_on_each_thread() {
        with_instructions(|| {
            let amx = Amx::unchecked();
            let mut tiles = amx.configure(&Config::FULL);
            let second = std::panic::catch_unwind(|| drop(amx.configure(&Config::FULL)));
            assert!(second.is_err());
            // Those of the first are as they were, and another thread has its own.
            tiles.load_sums::<0>(&[1.0; TILE]);
            std::thread::scope(|scope| {
                scope.spawn(|| amx.configure(&Config::with_rows(3)).zero::<0>());
            });
            let mut sums = [0.0; TILE];
            tiles.store::<0>(&mut sums);
            assert_eq!(sums, [1.0; TILE]);
            drop(tiles);
            amx.configure(&Config::with_rows(1)).zero::<5>();
        });
    }
}

#[test]
fn the_emulation_refuses_tiles_that_do_not_fit_together_or_are_not_configured() {
    let refused = |work: fn()| std::panic::catch_unwind(work).is_err();
    assert!(refused(|| Emulated::new(&Config::with_rows(3)).multiply::<0, 1, 2>()));
    assert!(!refused(|| Emulated::new(&Config::with_rows(3)).multiply::<0, 1, 6>()));
    assert!(refused(|| Emulated::released().zero::<0>()));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_stay_on_their_thread() {
    trait Ambiguous<A> {
        fn is_not() {}
    }
    struct Yes;
    impl<T: ?Sized> Ambiguous<()> for T {}
    impl<T: ?Sized + Send> Ambiguous<Yes> for T {}
    struct Sent;
    impl<T: ?Sized + Sync> Ambiguous<Sent> for T {}
    // Does not compile if tiles are `Send` or `Sync`: which function is meant would not be clear.
    <Tiles as Ambiguous<_>>::is_not();
}
