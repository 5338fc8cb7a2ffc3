//! Pixels to the input of a model and back.

/// The range in which a model sees pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// [0, 1]
    #[default]
    Unit,
    /// [−1, 1]: 2x − 1 (`rescaled` in NCSNv2's files).
    Symmetric,
    /// Logits, see [`logit`].
    Logit,
}

/// What is added to pixels, which are multiples of 1/255, so that the data have a density.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dequantise {
    /// Nothing.
    #[default]
    None,
    /// Uniform noise, see [`dequantise`].
    Uniform,
    /// 0.01·z with z ~ N(0, 1), after which pixels may lie outside of [0, 1] (NCSNv2).
    Gaussian,
}

/// How images become the input of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transform {
    /// Of training data only.
    pub dequantise: Dequantise,
    /// Of all that a model sees.
    pub range: Range,
}

impl Range {
    /// x in [0, 1] as a model sees it.
    pub fn forward(self, x: f32) -> f32 {
        match self {
            Self::Unit => x,
            Self::Symmetric => 2.0 * x - 1.0,
            Self::Logit => logit(x),
        }
    }

    /// What a model sees, as x in [0, 1] or beside it.
    pub fn inverse(self, y: f32) -> f32 {
        match self {
            Self::Unit => y,
            Self::Symmetric => (y + 1.0) / 2.0,
            Self::Logit => sigmoid(y),
        }
    }

    /// ln dx/dy of the pixel x at `y`, as a model sees it: ln p(y) is ln p(x) and this.
    /// The margin of [`logit`], which [`Self::inverse`] leaves out, is counted.
    pub fn log_slope(self, y: f32) -> f64 {
        match self {
            Self::Unit => 0.0,
            Self::Symmetric => -std::f64::consts::LN_2,
            Self::Logit => {
                // p(1 − p) = e⁻ʸ/(1 + e⁻ʸ)², which is the same at −y.
                let y = -f64::from(y).abs();
                y - 2.0 * y.exp().ln_1p() - (-2.0 * LOGIT_MARGIN).ln_1p()
            }
        }
    }
}

/// λ of [`logit`]: keeps its argument away from 0 and 1.
const LOGIT_MARGIN: f64 = 1e-6;

/// Mirrors rows of `width` pixels in place.
pub fn flip(pixels_u8: &mut [u8], width: usize) {
    pixels_u8.chunks_mut(width).for_each(<[u8]>::reverse);
}

/// x = p/255.
pub fn to_unit(pixels_u8: &[u8], x: &mut [f32]) {
    x.iter_mut().zip(pixels_u8).for_each(|(x, &p)| *x = f32::from(p) / 255.0);
}

/// x = p/255·255/256 + u/256: spreads each of the 256 values evenly over its share of [0, 1), with u ~ U[0, 1)
/// (Uria et al. 2013), so that the data have a density.
pub fn dequantise(pixels_u8: &[u8], u: &[f32], x: &mut [f32]) {
    for ((x, &p), &u) in x.iter_mut().zip(pixels_u8).zip(u) {
        *x = dequantise_one(f32::from(p) / 255.0, u);
    }
}

/// [`dequantise`] for one value in [0, 1].
pub fn dequantise_one(x: f32, u: f32) -> f32 {
    x / 256.0 * 255.0 + u / 256.0
}

/// ln p − ln(1 − p) with p = λ + (1 − 2λ)·x and λ = 1e-6, in f64: f32 would lose two digits near x = 1.
pub fn logit(x: f32) -> f32 {
    let p = LOGIT_MARGIN + (1.0 - 2.0 * LOGIT_MARGIN) * f64::from(x);
    (p.ln() - (-p).ln_1p()) as f32
}

/// 1/(1 + e⁻ʸ): logits back to [0, 1].
pub fn sigmoid(y: f32) -> f32 {
    1.0 / (1.0 + (-y).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dequantised_pixels_fall_back_to_themselves() {
        for p in 0..=255u8 {
            for u in [0.0, 0.5, 0.99] {
                let mut x = [0.0];
                dequantise(&[p], &[u], &mut x);
                assert!((0.0..1.0).contains(&x[0]));
                // 1e-3: p/256·256 may round below p by an ulp of f32.
                assert_eq!((x[0] * 256.0 + 1e-3).floor() as u8, p);
            }
        }
    }

    #[test]
    fn sigmoid_undoes_the_logit_up_to_its_margin() {
        for i in 0..=100 {
            let x = i as f32 / 100.0;
            // The margin moves x by at most 1e-6; f32 rounding of the logit adds about as much.
            assert!((sigmoid(logit(x)) - x).abs() < 3e-6);
        }
    }

    #[test]
    fn what_a_model_sees_goes_back_to_pixels() {
        for range in [Range::Unit, Range::Symmetric, Range::Logit] {
            for i in 0..=10 {
                let x = i as f32 / 10.0;
                assert!((range.inverse(range.forward(x)) - x).abs() < 3e-6, "{range:?}: {x}");
            }
        }
        assert_eq!([0.0, 1.0].map(|x| Range::Symmetric.forward(x)), [-1.0, 1.0]);
    }

    #[test]
    fn slopes_are_those_of_differences() {
        for range in [Range::Unit, Range::Symmetric, Range::Logit] {
            for i in 1..10 {
                let (x, h) = (i as f32 / 10.0, 0.01);
                let [before, after] = [x - h, x + h].map(|x| f64::from(range.forward(x)));
                let found = (2.0 * f64::from(h) / (after - before)).ln();
                // h²/6 times the logit's third derivative, at most 4/x³, of the slope, at least 1/x.
                let tolerance = f64::from(h * h) / f64::from((x.min(1.0 - x)).powi(2)) + 1e-5;
                let expected = range.log_slope(range.forward(x));
                assert!((found - expected).abs() < tolerance, "{range:?} at {x}: {found}, expected {expected}");
            }
        }
        assert_eq!(Range::Logit.log_slope(-80.0), Range::Logit.log_slope(80.0));
    }

    #[test]
    fn flipping_mirrors_each_row() {
        let mut pixels = [1, 2, 3, 4, 5, 6];
        flip(&mut pixels, 3);
        assert_eq!(pixels, [3, 2, 1, 6, 5, 4]);
    }
}
