//! Vectors of f32, written once for every instruction set.
//!
//! A value of a type that implements [`Simd`] proves that the processor has those instructions: it can only be had from
//! [`Isa`](crate::cpu::Isa), which asked. So arithmetic is safe; only loads and stores by pointer are not.

/// One instruction set's vectors of f32.
///
/// Everything is `#[inline(always)]`: the bodies end up in the one function that enables the instructions, see
/// [`Isa::run`](crate::cpu::Isa::run).
pub trait Simd: Copy + Send + Sync {
    /// A vector.
    type V: Copy;
    /// How many numbers it holds: 4, 8 or 16.
    const LANES: usize;
    /// Whether there are 32 vector registers, not 16.
    const MANY_REGISTERS: bool;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// # Safety
    /// `p` is valid for reading `LANES` numbers. Any alignment.
    unsafe fn load_ptr(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` is valid for writing `LANES` numbers. Any alignment.
    unsafe fn store_ptr(self, p: *mut f32, v: Self::V);
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a/b
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a·b + c, rounded once
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where `a` is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where `a` is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// √a
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest integer, halves to even; of numbers below 2²², whatever their sign.
    fn round(self, a: Self::V) -> Self::V;
    /// 2ⁿ for integers n from −126 to 127.
    fn exp2i(self, n: Self::V) -> Self::V;
    /// `a` where `x` > 0, else `b` (also where `x` is not a number).
    fn if_positive(self, x: Self::V, a: Self::V, b: Self::V) -> Self::V;
    /// Rows and columns exchanged of the square in the first `LANES` vectors.
    fn transpose(self, rows: &mut [Self::V; 16]);

    /// The first `LANES` numbers of `x`, which has at least so many.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: just asserted.
        unsafe { self.load_ptr(x.as_ptr()) }
    }

    /// Writes the first `LANES` numbers of `x`, which has at least so many.
    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: just asserted.
        unsafe { self.store_ptr(x.as_mut_ptr(), v) }
    }

    /// The numbers of `x`, at most `LANES`, then zeros.
    #[inline(always)]
    fn load_first(self, x: &[f32]) -> Self::V {
        let mut buffer = [0.0; 16];
        let n = x.len().min(Self::LANES);
        buffer[..n].copy_from_slice(&x[..n]);
        self.load(&buffer)
    }

    /// Writes as many numbers as `x` has room for, at most `LANES`.
    #[inline(always)]
    fn store_first(self, x: &mut [f32], v: Self::V) {
        let mut buffer = [0.0; 16];
        self.store(&mut buffer, v);
        let n = x.len().min(Self::LANES);
        x[..n].copy_from_slice(&buffer[..n]);
    }

    /// Asks for the cache line at `p` to be brought near: a hint, for which nothing needs to be there.
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        let _ = p;
    }

    /// The numbers of `x`, at most `LANES`, then zeros: as [`Self::load_first`], but fastest for whole vectors.
    #[inline(always)]
    fn load_some(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES { self.load(x) } else { self.load_first(x) }
    }

    /// Writes as many numbers as `x` has room for, at most `LANES`: as [`Self::store_first`], but fastest for whole vectors.
    #[inline(always)]
    fn store_some(self, x: &mut [f32], v: Self::V) {
        if x.len() >= Self::LANES { self.store(x, v) } else { self.store_first(x, v) }
    }

    /// eˣ, relative error below 2e-7; 0 below −87, the value at 88 above it.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let clamped = self.max(self.min(x, self.splat(88.0)), self.splat(-87.0));
        // x = n·ln 2 + r with |r| ≤ ln 2 / 2; ln 2 in two parts, so that n·ln 2 is exact to twice f32's precision.
        let n = self.round(self.mul(clamped, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-0.693_359_4), clamped);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        // Taylor's series to r⁷/7!: the rest is below 2⁻²⁶.
        let mut p = self.splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = self.fma(p, r, self.splat(c));
        }
        self.mul(p, self.exp2i(n))
    }
}

/// Plain Rust: loops over four numbers, which the compiler turns into whatever vectors any processor of an architecture has.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

/// A number so large that the last digit is 1, also of what is up to 2²² more or less.
const LAST_DIGIT_ONE: f32 = 1.5 * (1 << 23) as f32;

/// Four numbers.
#[derive(Clone, Copy, Debug)]
pub struct FourNumbers(pub(crate) [f32; 4]);

impl FourNumbers {
    /// Number i: f(a\[i\], b\[i\]).
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let (Self([a0, a1, a2, a3]), Self([b0, b1, b2, b3])) = (self, other);
        Self([f(a0, b0), f(a1, b1), f(a2, b2), f(a3, b3)])
    }
}

impl Simd for Portable {
    type V = FourNumbers;
    const LANES: usize = 4;
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> FourNumbers {
        FourNumbers([x; 4])
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> FourNumbers {
        // SAFETY: the caller's promise.
        FourNumbers(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: FourNumbers) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(v.0) }
    }
    #[inline(always)]
    fn add(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| a / b)
    }
    /// Rounded twice: without the instruction, one rounding would be a call for every product.
    #[inline(always)]
    fn fma(self, a: FourNumbers, b: FourNumbers, c: FourNumbers) -> FourNumbers {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        a.zip(b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: FourNumbers) -> FourNumbers {
        a.zip(a, |a, _| a.sqrt())
    }
    /// The standard library's function would be a call where the processor has no instruction for it.
    #[inline(always)]
    fn round(self, a: FourNumbers) -> FourNumbers {
        a.zip(a, |a, _| (a + LAST_DIGIT_ONE) - LAST_DIGIT_ONE)
    }
    #[inline(always)]
    fn exp2i(self, n: FourNumbers) -> FourNumbers {
        // The sum's last digits are n + 127, the exponent of 2ⁿ; the shift leaves nothing of the others.
        n.zip(n, |n, _| f32::from_bits((n + (LAST_DIGIT_ONE + 127.0)).to_bits() << 23))
    }
    #[inline(always)]
    fn if_positive(self, x: FourNumbers, a: FourNumbers, b: FourNumbers) -> FourNumbers {
        let chosen = |i: usize| if x.0[i] > 0.0 { a.0[i] } else { b.0[i] };
        FourNumbers([chosen(0), chosen(1), chosen(2), chosen(3)])
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [FourNumbers; 16]) {
        let [a, b, c, d, ..] = *rows;
        for (i, row) in rows.iter_mut().enumerate().take(4) {
            *row = FourNumbers([a.0[i], b.0[i], c.0[i], d.0[i]]);
        }
    }
}

/// Methods that are one intrinsic each.
#[allow(unused_macros, reason = "not on every architecture")]
macro_rules! intrinsics {
    ($v:ty; $($name:ident($($arg:ident),*) = $intrinsic:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $v),*) -> $v {
            // SAFETY: `self` proves that the processor has the instruction.
            unsafe { $intrinsic($($arg),*) }
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// AVX2 and FMA.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx2(());

    impl Avx2 {
        /// If the processor has it.
        pub fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
        }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        const MANY_REGISTERS: bool = false;

        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> __m256 {
            // SAFETY: the caller's promise; `self` for the instruction.
            unsafe { _mm256_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, v: __m256) {
            // SAFETY: the caller's promise; `self` for the instruction.
            unsafe { _mm256_storeu_ps(p, v) }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: `self` proves that the processor has the instruction.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            // SAFETY: a hint, which no address makes fail.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        intrinsics! { __m256;
            add(a, b) = _mm256_add_ps;
            sub(a, b) = _mm256_sub_ps;
            mul(a, b) = _mm256_mul_ps;
            div(a, b) = _mm256_div_ps;
            fma(a, b, c) = _mm256_fmadd_ps;
            max(a, b) = _mm256_max_ps;
            min(a, b) = _mm256_min_ps;
            sqrt(a) = _mm256_sqrt_ps;
            round(a) = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
        }
        #[inline(always)]
        fn load_first(self, x: &[f32]) -> __m256 {
            // SAFETY: masked lanes are not read; `self` for the instructions.
            unsafe { _mm256_maskload_ps(x.as_ptr(), first_lanes(x.len())) }
        }
        #[inline(always)]
        fn store_first(self, x: &mut [f32], v: __m256) {
            // SAFETY: masked lanes are not written; `self` for the instructions.
            unsafe { _mm256_maskstore_ps(x.as_mut_ptr(), first_lanes(x.len()), v) }
        }
        #[inline(always)]
        fn exp2i(self, n: __m256) -> __m256 {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            }
        }
        #[inline(always)]
        fn if_positive(self, x: __m256, a: __m256, b: __m256) -> __m256 {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe { _mm256_blendv_ps(b, a, _mm256_cmp_ps::<_CMP_GT_OQ>(x, _mm256_setzero_ps())) }
        }
        #[inline(always)]
        fn transpose(self, r: &mut [__m256; 16]) {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe {
                let mut t = *r;
                for i in 0..4 {
                    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let mut u = t;
                for i in 0..2 {
                    let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
                    u[4 * i] = _mm256_shuffle_ps::<0x44>(a, c);
                    u[4 * i + 1] = _mm256_shuffle_ps::<0xee>(a, c);
                    u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(b, d);
                    u[4 * i + 3] = _mm256_shuffle_ps::<0xee>(b, d);
                }
                for i in 0..4 {
                    r[i] = _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]);
                    r[i + 4] = _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]);
                }
            }
        }
    }

    /// −1 in the first `n` lanes, at most 8, then 0.
    ///
    /// # Safety
    /// The processor has AVX.
    #[inline(always)]
    unsafe fn first_lanes(n: usize) -> __m256i {
        const MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the caller's promise; 8 numbers follow the index, which is at most 8.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
    }

    /// AVX-512: F, BW, DQ and VL.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx512(());

    impl Avx512 {
        /// If the processor has it.
        pub fn detect() -> Option<Self> {
            let has = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma");
            has.then_some(Self(()))
        }
    }

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> __m512 {
            // SAFETY: the caller's promise; `self` for the instruction.
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, v: __m512) {
            // SAFETY: the caller's promise; `self` for the instruction.
            unsafe { _mm512_storeu_ps(p, v) }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: `self` proves that the processor has the instruction.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn prefetch(self, p: *const f32) {
            // SAFETY: a hint, which no address makes fail.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        intrinsics! { __m512;
            add(a, b) = _mm512_add_ps;
            sub(a, b) = _mm512_sub_ps;
            mul(a, b) = _mm512_mul_ps;
            div(a, b) = _mm512_div_ps;
            fma(a, b, c) = _mm512_fmadd_ps;
            max(a, b) = _mm512_max_ps;
            min(a, b) = _mm512_min_ps;
            sqrt(a) = _mm512_sqrt_ps;
            round(a) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
        }
        #[inline(always)]
        fn load_first(self, x: &[f32]) -> __m512 {
            let n = x.len().min(16) as u32;
            // SAFETY: masked lanes are not read; `self` for the instruction.
            unsafe { _mm512_maskz_loadu_ps(((1u32 << n) - 1) as u16, x.as_ptr()) }
        }
        #[inline(always)]
        fn store_first(self, x: &mut [f32], v: __m512) {
            let n = x.len().min(16) as u32;
            // SAFETY: masked lanes are not written; `self` for the instruction.
            unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), ((1u32 << n) - 1) as u16, v) }
        }
        #[inline(always)]
        fn exp2i(self, n: __m512) -> __m512 {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe {
                let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
            }
        }
        #[inline(always)]
        fn if_positive(self, x: __m512, a: __m512, b: __m512) -> __m512 {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps()), b, a) }
        }
        #[inline(always)]
        fn transpose(self, r: &mut [__m512; 16]) {
            // SAFETY: `self` proves that the processor has the instructions.
            unsafe {
                let mut t = *r;
                for i in 0..8 {
                    t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                // r[4i + j]: columns j, j + 4, j + 8, j + 12 of rows 4i to 4i + 3, one in each quarter.
                for i in 0..4 {
                    let [a, b, c, d] = [t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]];
                    r[4 * i] = _mm512_shuffle_ps::<0x44>(a, c);
                    r[4 * i + 1] = _mm512_shuffle_ps::<0xee>(a, c);
                    r[4 * i + 2] = _mm512_shuffle_ps::<0x44>(b, d);
                    r[4 * i + 3] = _mm512_shuffle_ps::<0xee>(b, d);
                }
                for j in 0..4 {
                    let [a, b, c, d] = [r[j], r[4 + j], r[8 + j], r[12 + j]];
                    let (ab_low, ab_high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                    let (cd_low, cd_high) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                    t[j] = _mm512_shuffle_f32x4::<0x88>(ab_low, cd_low);
                    t[4 + j] = _mm512_shuffle_f32x4::<0x88>(ab_high, cd_high);
                    t[8 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_low, cd_low);
                    t[12 + j] = _mm512_shuffle_f32x4::<0xdd>(ab_high, cd_high);
                }
                *r = t;
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Simd;

    /// NEON, which every 64-bit ARM processor has.
    #[derive(Clone, Copy, Debug)]
    pub struct Neon(());

    impl Neon {
        /// Always there.
        pub fn detect() -> Option<Self> {
            Some(Self(()))
        }
    }

    impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;
        const MANY_REGISTERS: bool = true;

        #[inline(always)]
        unsafe fn load_ptr(self, p: *const f32) -> float32x4_t {
            // SAFETY: the caller's promise.
            unsafe { vld1q_f32(p) }
        }
        #[inline(always)]
        unsafe fn store_ptr(self, p: *mut f32, v: float32x4_t) {
            // SAFETY: the caller's promise.
            unsafe { vst1q_f32(p, v) }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instruction.
            unsafe { vdupq_n_f32(x) }
        }
        intrinsics! { float32x4_t;
            add(a, b) = vaddq_f32;
            sub(a, b) = vsubq_f32;
            mul(a, b) = vmulq_f32;
            div(a, b) = vdivq_f32;
            sqrt(a) = vsqrtq_f32;
            round(a) = vrndnq_f32;
        }
        #[inline(always)]
        fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instruction.
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instructions.
            unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
        }
        #[inline(always)]
        fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instructions.
            unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
        }
        #[inline(always)]
        fn exp2i(self, n: float32x4_t) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instructions.
            unsafe {
                let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
                vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
            }
        }
        #[inline(always)]
        fn if_positive(self, x: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: every processor of this architecture has the instructions.
            unsafe { vbslq_f32(vcgtq_f32(x, vdupq_n_f32(0.0)), a, b) }
        }
        #[inline(always)]
        fn transpose(self, r: &mut [float32x4_t; 16]) {
            // SAFETY: every processor of this architecture has the instructions.
            unsafe {
                let (a, b) = (vtrn1q_f32(r[0], r[1]), vtrn2q_f32(r[0], r[1]));
                let (c, d) = (vtrn1q_f32(r[2], r[3]), vtrn2q_f32(r[2], r[3]));
                let pairs = |v| vreinterpretq_f64_f32(v);
                r[0] = vreinterpretq_f32_f64(vtrn1q_f64(pairs(a), pairs(c)));
                r[1] = vreinterpretq_f32_f64(vtrn1q_f64(pairs(b), pairs(d)));
                r[2] = vreinterpretq_f32_f64(vtrn2q_f64(pairs(a), pairs(c)));
                r[3] = vreinterpretq_f32_f64(vtrn2q_f64(pairs(b), pairs(d)));
            }
        }
    }
}
