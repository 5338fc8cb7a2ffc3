//! Which instructions the processor has, which of them are used, and how exact products are.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::simd::{Portable, Simd};

/// The environment variable that forces an instruction set: one of the names of [`Isa::ALL`].
pub const VARIABLE: &str = "NCSN_CPU";

/// An instruction set, from the slowest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust: any processor.
    Portable,
    /// Vectors of 4: 64-bit ARM.
    Neon,
    /// Vectors of 8, with fused multiply-add.
    Avx2,
    /// Vectors of 16.
    Avx512,
    /// The same, with products of bf16.
    Avx512Bf16,
    /// The same, with a unit for products of matrices of bf16.
    Amx,
}

/// Work that is written for any instruction set.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// Does it. To be marked `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Isa {
    /// All of them, slowest first.
    pub const ALL: [Isa; 6] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// Its name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        }
    }

    /// Whether this processor has it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => crate::simd::Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => crate::simd::Avx512::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Isa::Avx512.is_available() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512Bf16.is_available() && crate::amx::Amx::detect().is_some(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => false,
        }
    }

    /// Those that this processor has, slowest first.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one to use: that of [`VARIABLE`], else the fastest.
    ///
    /// # Errors
    /// A message, when the variable names none or one that the processor lacks.
    pub fn from_environment() -> Result<Isa, String> {
        let available = Self::available();
        let names = || available.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ");
        match std::env::var_os(VARIABLE) {
            None => Ok(*available.last().expect("portable is always there")),
            Some(name) => {
                let found = name.to_str().and_then(|name| name.parse().ok()).filter(|isa| available.contains(isa));
                found.ok_or_else(|| {
                    format!("found {VARIABLE}={}, expected one that this processor has: {}", name.display(), names())
                })
            }
        }
    }

    /// The one in use, chosen when first asked for; the fastest if the environment names none that is there.
    pub fn chosen() -> Isa {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            Self::from_environment().unwrap_or_else(|_| *Self::available().last().expect("portable is always there"))
        })
    }

    /// Does `kernel`'s work with these instructions.
    ///
    /// # Panics
    /// If the processor lacks them.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Isa::Portable => kernel.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                unsafe fn run<K: Kernel>(kernel: K, simd: crate::simd::Avx2) -> K::Output {
                    kernel.run(simd)
                }
                let simd = crate::simd::Avx2::detect().expect("a processor with AVX2");
                // SAFETY: just detected.
                unsafe { run(kernel, simd) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                unsafe fn run<K: Kernel>(kernel: K, simd: crate::simd::Avx512) -> K::Output {
                    kernel.run(simd)
                }
                let simd = crate::simd::Avx512::detect().expect("a processor with AVX-512");
                // SAFETY: just detected.
                unsafe { run(kernel, simd) }
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => kernel.run(crate::simd::Neon::detect().expect("a 64-bit ARM processor")),
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => panic!("{self} is of another architecture"),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = || Self::ALL.map(Isa::name).join(", ");
        let found = Self::ALL.into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| format!("found instruction set {name}, expected one of {}", all()))
    }
}

/// How exact products are, named as in PyTorch's `set_float32_matmul_precision`. The bounds are errors relative to the
/// largest output, against f64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// At most 2e-6.
    Highest,
    /// At most 1e-5.
    #[default]
    High,
    /// At most 1e-2.
    Medium,
}

impl Precision {
    /// From the most exact to the fastest.
    pub const ALL: [Precision; 3] = [Precision::Highest, Precision::High, Precision::Medium];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Highest => "highest",
            Precision::High => "high",
            Precision::Medium => "medium",
        }
    }

    /// The largest error that is allowed, relative to the largest output.
    pub fn bound(self) -> f64 {
        match self {
            Precision::Highest => 2e-6,
            Precision::High => 1e-5,
            Precision::Medium => 1e-2,
        }
    }

    /// The precision of the operations on tensors, of the whole process.
    pub fn current() -> Precision {
        Self::ALL[usize::from(CURRENT.load(Ordering::Relaxed))]
    }

    /// Sets [`Self::current`]. It holds for operations that begin afterwards, on every thread.
    pub fn set_current(self) {
        CURRENT.store(self as u8, Ordering::Relaxed);
    }
}

static CURRENT: AtomicU8 = AtomicU8::new(Precision::High as u8);

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| format!("found precision {name}, expected highest, high or medium"))
    }
}

/// A function that is compiled for every instruction set: its first argument says for which it runs, and in its body
/// the first name is the [`Simd`] value, of type `S`.
macro_rules! kernel {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$life:lifetime>($simd:ident; $($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels")]
        $vis fn $name<$life>(isa: $crate::cpu::Isa, $($arg: $type),*) $(-> $out)? {
            struct Arguments<$life> { $($arg: $type,)* life: std::marker::PhantomData<&$life ()> }
            impl<$life> $crate::cpu::Kernel for Arguments<$life> {
                type Output = kernel!(@output $($out)?);
                #[inline(always)]
                fn run<S: $crate::simd::Simd>(self, $simd: S) -> Self::Output {
                    let Self { $($arg,)* .. } = self;
                    $body
                }
            }
            isa.run(Arguments { $($arg,)* life: std::marker::PhantomData })
        }
    };
    (@output) => { () };
    (@output $out:ty) => { $out };
}
pub(crate) use kernel;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs every method on the lanes of one vector; the results in a row.
    struct Methods<'a>(&'a [f32], &'a [f32]);

    impl Kernel for Methods<'_> {
        type Output = Vec<Vec<f32>>;

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let Methods(a, b) = self;
            let mut out = vec![vec![0.0; a.len()]; 12];
            for i in (0..a.len()).step_by(S::LANES) {
                let (x, y) = (s.load(&a[i..]), s.load(&b[i..]));
                let results = [
                    s.add(x, y),
                    s.sub(x, y),
                    s.mul(x, y),
                    s.div(x, y),
                    s.fma(x, y, x),
                    s.max(x, y),
                    s.min(x, y),
                    s.sqrt(s.mul(x, x)),
                    s.round(x),
                    s.exp2i(s.round(x)),
                    s.if_positive(x, y, s.splat(2.0)),
                    s.exp(x),
                ];
                for (out, v) in out.iter_mut().zip(results) {
                    s.store(&mut out[i..], v);
                }
            }
            out
        }
    }

    #[test]
    fn every_instruction_set_computes_the_same() {
        let a: Vec<f32> = (0..64).map(|i| (i as f32 - 31.0) * 1.37).collect();
        let b: Vec<f32> = (0..64).map(|i| ((i * 29 % 64) as f32 - 17.5) * 0.61).collect();
        let expected = |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect::<Vec<_>>();
        for isa in Isa::available() {
            let found = isa.run(Methods(&a, &b));
            let exact: [&dyn Fn(f32, f32) -> f32; 11] = [
                &|a, b| a + b,
                &|a, b| a - b,
                &|a, b| a * b,
                &|a, b| a / b,
                &|a, b| if isa == Isa::Portable { a * b + a } else { a.mul_add(b, a) },
                &|a, b| a.max(b),
                &|a, b| a.min(b),
                &|a, _| (a * a).sqrt(),
                &|a, _| a.round_ties_even(),
                &|a, _| a.round_ties_even().exp2(),
                &|a, b| if a > 0.0 { b } else { 2.0 },
            ];
            for (i, f) in exact.iter().enumerate() {
                assert_eq!(found[i], expected(f), "method {i} of {isa}");
            }
            for (found, &x) in found[11].iter().zip(&a) {
                let exp = f64::from(x).exp();
                assert!((f64::from(*found) - exp).abs() <= 2e-7 * exp, "exp({x}) = {found} on {isa}");
            }
        }
    }

    struct Transposed<'a>(&'a [f32]);

    impl Kernel for Transposed<'_> {
        type Output = (usize, Vec<f32>, Vec<f32>);

        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let mut rows = [s.splat(0.0); 16];
            for (i, row) in rows.iter_mut().enumerate().take(S::LANES) {
                *row = s.load(&self.0[i * S::LANES..]);
            }
            s.transpose(&mut rows);
            let mut out = vec![0.0; S::LANES * S::LANES];
            for (i, row) in rows.iter().enumerate().take(S::LANES) {
                s.store(&mut out[i * S::LANES..], *row);
            }
            let mut part = vec![-1.0; S::LANES.div_ceil(2)];
            s.store_first(&mut part, s.load_first(&self.0[..S::LANES.div_ceil(2)]));
            (S::LANES, out, part)
        }
    }

    #[test]
    fn squares_are_transposed_and_parts_of_vectors_loaded_and_stored() {
        let values: Vec<f32> = (0..256).map(|i| i as f32).collect();
        for isa in Isa::available() {
            let (n, found, part) = isa.run(Transposed(&values));
            for i in 0..n {
                for j in 0..n {
                    assert_eq!(found[i * n + j], values[j * n + i], "{isa}: row {i}, column {j}");
                }
            }
            assert_eq!(part, values[..n.div_ceil(2)], "{isa}");
        }
    }

    #[test]
    fn names_are_read_back() {
        for isa in Isa::ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        assert!("mmx".parse::<Isa>().is_err() && "low".parse::<Precision>().is_err());
    }
}
