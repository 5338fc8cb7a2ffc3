//! The generator and Box and Muller's transform, in 32 bits.

use cubecl::prelude::*;

/// A unit makes a block of four numbers.
#[cube(launch)]
pub(super) fn draw_blocks(at: &Tensor<i32>, out: &mut Tensor<f32>, n_each: usize, #[comptime] normal: bool) {
    let blocks_each = n_each.div_ceil(4);
    let stream = ABSOLUTE_POS / blocks_each;
    let block = ABSOLUTE_POS % blocks_each;
    if stream >= at.shape(0) {
        terminate!();
    }

    // The counter: the block's number, of two words, and the index.
    let row = stream * 6;
    let low = u32::reinterpret(at[row]);
    let mut c0 = low + u32::cast_from(block);
    let carry = select(c0 < low, 1u32, 0u32);
    let mut c1 = u32::reinterpret(at[row + 1]) + carry;
    let mut c2 = u32::reinterpret(at[row + 2]);
    let mut c3 = u32::reinterpret(at[row + 3]);
    let mut k0 = u32::reinterpret(at[row + 4]);
    let mut k1 = u32::reinterpret(at[row + 5]);
    for _ in 0..10u32 {
        let (high0, low0) = (c0.mul_hi(0xd251_1f53u32), c0 * 0xd251_1f53u32);
        let (high1, low1) = (c2.mul_hi(0xcd9e_8d57u32), c2 * 0xcd9e_8d57u32);
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9e37_79b9u32;
        k1 += 0xbb67_ae85u32;
    }

    let first = block * 4;
    let begin = stream * n_each + first;
    if comptime!(normal) {
        let (r0, r1) = (radius(c0), radius(c2));
        write(out, begin, first < n_each, r0 * cosine_of_turn(c1));
        write(out, begin + 1, first + 1 < n_each, r0 * sine_of_turn(c1));
        write(out, begin + 2, first + 2 < n_each, r1 * cosine_of_turn(c3));
        write(out, begin + 3, first + 3 < n_each, r1 * sine_of_turn(c3));
    } else {
        write(out, begin, first < n_each, uniform(c0));
        write(out, begin + 1, first + 1 < n_each, uniform(c1));
        write(out, begin + 2, first + 2 < n_each, uniform(c2));
        write(out, begin + 3, first + 3 < n_each, uniform(c3));
    }
}

#[cube]
fn write(out: &mut Tensor<f32>, place: usize, is_there: bool, value: f32) {
    if is_there {
        out[place] = value;
    }
}

/// U[0, 1), multiples of 2⁻²⁴.
#[cube]
fn uniform(word: u32) -> f32 {
    f32::cast_from(word >> 8u32) * (1.0f32 / 16_777_216.0f32)
}

/// √(−2 ln((a + 1)/2³²)). GPUs may have no f64: so the logarithm of a fraction near 1 is taken from its distance to 1, which
/// is an exact integer.
#[cube]
fn radius(a: u32) -> f32 {
    let is_near_one = a >= 0xb504_f333u32;
    // 1 − δ with δ below 1 − √½.
    let delta = f32::cast_from(0xffff_ffffu32 - a) * (1.0f32 / 4_294_967_296.0f32);
    // a + 1 = m·2ᵉ with m from √½ to √2; 0x3f3504f3 is √½.
    let bits = u32::reinterpret(f32::cast_from(select(is_near_one, 1u32, a + 1u32)));
    let e = (bits - 0x3f35_04f3u32) >> 23u32;
    let m = f32::reinterpret(bits - (e << 23u32));
    let ln_of_power = select(is_near_one, 0.0f32, (f32::cast_from(e) - 32.0f32) * std::f32::consts::LN_2);
    let s = select(is_near_one, -delta / (2.0f32 - delta), (m - 1.0f32) / (m + 1.0f32));
    // 2 artanh s with |s| < 0.172: the next term is 5e-11 of the first.
    let q = s * s;
    let series = 0.181_818_18f32;
    let series = series * q + 0.222_222_22f32;
    let series = series * q + 0.285_714_3f32;
    let series = series * q + 0.4f32;
    let series = series * q + 0.666_666_7f32;
    let series = series * q + 2.0f32;
    (-2.0f32 * (ln_of_power + s * series)).sqrt()
}

/// The cosine of b/2³² of a turn.
#[cube]
fn cosine_of_turn(b: u32) -> f32 {
    // To the nearest quarter of a turn, in integers: the angle that is left is exact but for its last bits.
    let from_eighth = b + 0x2000_0000u32;
    let quarter = from_eighth >> 30u32;
    let left = i32::cast_from(from_eighth & 0x3fff_ffffu32) - 0x2000_0000i32;
    let x = f32::cast_from(left) * 1.462_918_1e-9f32;
    // |x| ≤ π/4: Taylor's series to x⁹ and x¹⁰, of which the next terms are below 2e-9.
    let y = x * x;
    let sine = 2.755_731_9e-6f32;
    let sine = sine * y - 1.984_127e-4f32;
    let sine = sine * y + 8.333_333e-3f32;
    let sine = sine * y - 0.166_666_67f32;
    let sine = (sine * y + 1.0f32) * x;
    let cosine = -2.755_732e-7f32;
    let cosine = cosine * y + 2.480_158_7e-5f32;
    let cosine = cosine * y - 1.388_888_9e-3f32;
    let cosine = cosine * y + 0.041_666_667f32;
    let cosine = cosine * y - 0.5f32;
    let cosine = cosine * y + 1.0f32;
    // Each quarter turns (cos, sin) into (−sin, cos).
    let value = select(quarter & 1u32 == 0u32, cosine, sine);
    let is_negative = quarter == 1u32 || quarter == 2u32;
    select(is_negative, -value, value)
}

/// The sine: the cosine a quarter of a turn before.
#[cube]
fn sine_of_turn(b: u32) -> f32 {
    cosine_of_turn(b - 0x4000_0000u32)
}
