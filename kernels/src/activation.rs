//! Activations: what follows a norm or a convolution.

use crate::simd::Simd;

/// An activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The identity.
    None,
    /// ELU with α = 1 (Clevert et al. 2016): x for x > 0, else eˣ − 1. Relative error below 4e-7, also near 0.
    Elu,
    /// max(x, 0)
    Relu,
    /// x for x > 0, else 0.2·x.
    LeakyRelu,
    /// x·sigmoid(x) (Ramachandran et al. 2017).
    Swish,
}

impl Activation {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Elu, Self::Relu, Self::LeakyRelu, Self::Swish];

    /// Whether its gradient needs its input. The others' is found from the output, which whatever follows keeps anyway.
    pub fn keeps_input(self) -> bool {
        self == Self::Swish
    }
}

/// An [`Activation`] that is known at compile time.
pub(crate) trait Slope {
    /// Whether it does nothing, so that its input need not be known.
    const IS_IDENTITY: bool = false;

    /// f(x) of each lane; not a number where `x` is none.
    fn value<S: Simd>(s: S, x: S::V) -> S::V;

    /// f′(x) of each lane.
    fn slope<S: Simd>(s: S, x: S::V) -> S::V;

    /// grad·f′, from what is [kept](Activation::keeps_input).
    #[inline(always)]
    fn gradient<S: Simd>(s: S, kept: S::V, grad: S::V) -> S::V {
        // Of those that keep their output: positive where the input is.
        s.mul(grad, Self::slope(s, kept))
    }
}

/// `$body` with the type `$A` of an [`Activation`].
macro_rules! with_slope {
    ($activation:expr, |$A:ident| $body:expr) => {
        match $activation {
            $crate::activation::Activation::None => {
                type $A = $crate::activation::Identity;
                $body
            }
            $crate::activation::Activation::Elu => {
                type $A = $crate::activation::Elu;
                $body
            }
            $crate::activation::Activation::Relu => {
                type $A = $crate::activation::Relu;
                $body
            }
            $crate::activation::Activation::LeakyRelu => {
                type $A = $crate::activation::LeakyRelu;
                $body
            }
            $crate::activation::Activation::Swish => {
                type $A = $crate::activation::Swish;
                $body
            }
        }
    };
}
pub(crate) use with_slope;

pub(crate) struct Identity;
pub(crate) struct Elu;
pub(crate) struct Relu;
pub(crate) struct LeakyRelu;
pub(crate) struct Swish;

impl Slope for Identity {
    const IS_IDENTITY: bool = true;

    #[inline(always)]
    fn value<S: Simd>(_: S, x: S::V) -> S::V {
        x
    }

    #[inline(always)]
    fn slope<S: Simd>(s: S, _: S::V) -> S::V {
        s.splat(1.0)
    }

    #[inline(always)]
    fn gradient<S: Simd>(_: S, _: S::V, grad: S::V) -> S::V {
        grad
    }
}

impl Slope for Elu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        // eˣ − 1 = 2ⁿ·(eʳ − 1) + (2ⁿ − 1) for x = n·ln 2 + r, like Simd::exp, but without its cancellation near 0. The order
        // of the arguments of min and max lets NaN through.
        let negative = s.max(s.splat(-87.0), s.min(s.splat(0.0), x));
        let n = s.round(s.mul(negative, s.splat(std::f32::consts::LOG2_E)));
        let r = s.fma(n, s.splat(-0.693_359_4), negative);
        let r = s.fma(n, s.splat(2.121_944_4e-4), r);
        // (eʳ − 1)/r, Taylor's series to r⁶/7!: the rest is below 2⁻²⁵.
        let mut p = s.splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
            p = s.fma(p, r, s.splat(c));
        }
        let scale = s.exp2i(n);
        let exp_minus_1 = s.fma(s.mul(p, r), scale, s.sub(scale, s.splat(1.0)));
        s.if_positive(x, x, exp_minus_1)
    }

    #[inline(always)]
    fn slope<S: Simd>(s: S, x: S::V) -> S::V {
        s.if_positive(x, s.splat(1.0), s.exp(x))
    }

    #[inline(always)]
    fn gradient<S: Simd>(s: S, y: S::V, grad: S::V) -> S::V {
        // eˣ = y + 1
        s.if_positive(y, grad, s.fma(grad, y, grad))
    }
}

impl Slope for Relu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        // In this order NaN goes through.
        s.max(s.splat(0.0), x)
    }

    #[inline(always)]
    fn slope<S: Simd>(s: S, x: S::V) -> S::V {
        s.if_positive(x, s.splat(1.0), s.splat(0.0))
    }
}

impl LeakyRelu {
    /// Of what is not positive.
    pub const SLOPE: f64 = 0.2;
}

impl Slope for LeakyRelu {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        s.if_positive(x, x, s.mul(x, s.splat(Self::SLOPE as f32)))
    }

    #[inline(always)]
    fn slope<S: Simd>(s: S, x: S::V) -> S::V {
        s.if_positive(x, s.splat(1.0), s.splat(Self::SLOPE as f32))
    }
}

impl Swish {
    #[inline(always)]
    fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
        let one = s.splat(1.0);
        s.div(one, s.add(one, s.exp(s.sub(s.splat(0.0), x))))
    }
}

impl Slope for Swish {
    #[inline(always)]
    fn value<S: Simd>(s: S, x: S::V) -> S::V {
        s.mul(x, Self::sigmoid(s, x))
    }

    #[inline(always)]
    fn slope<S: Simd>(s: S, x: S::V) -> S::V {
        // σ·(1 + x·(1 − σ))
        let (one, sigmoid) = (s.splat(1.0), Self::sigmoid(s, x));
        s.mul(sigmoid, s.fma(x, s.sub(one, sigmoid), one))
    }
}

#[cfg(test)]
impl Activation {
    /// f(x) and f′(x) in f64, by the definition.
    pub(crate) fn definition(self, x: f64) -> (f64, f64) {
        let (is_positive, sigmoid) = (x > 0.0, 1.0 / (1.0 + (-x).exp()));
        // As f32, which kernels compute in.
        let slope = f64::from(LeakyRelu::SLOPE as f32);
        match self {
            Self::None => (x, 1.0),
            Self::Elu | Self::Relu | Self::LeakyRelu if is_positive => (x, 1.0),
            Self::Elu => (x.exp_m1(), x.exp()),
            Self::Relu => (0.0, 0.0),
            Self::LeakyRelu => (slope * x, slope),
            Self::Swish => (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))),
        }
    }
}
