//! Dual numbers: a value and its derivative along one direction, carried through a network together (forward-mode
//! differentiation).
//!
//! A layer is written once, for duals. Without a tangent it is the plain layer and costs the same; with the tangent v it
//! gives the product (∂f/∂x)·v beside f(x), exactly, and both can be differentiated backwards with respect to the
//! parameters. That is what sliced score matching needs: Burn has first-order gradients only.

use std::ops::{Add, Mul, Sub};

use burn::tensor::{Tensor, activation};
use ncsn_kernels::ops::channels::join;
use ncsn_kernels::ops::pixels::{add, twice};

/// A value, and perhaps its derivative along one direction.
#[derive(Clone, Debug)]
pub struct Dual<const D: usize> {
    /// f(x)
    pub value: Tensor<D>,
    /// (∂f/∂x)·v, shaped as the value; `None` where it is zero or not asked for.
    pub tangent: Option<Tensor<D>>,
}

impl<const D: usize> From<Tensor<D>> for Dual<D> {
    fn from(value: Tensor<D>) -> Self {
        Self { value, tangent: None }
    }
}

impl<const D: usize> Dual<D> {
    /// The input of a network, with the direction along which its output is to be differentiated.
    pub fn along(value: Tensor<D>, tangent: Tensor<D>) -> Self {
        Self { value, tangent: Some(tangent) }
    }

    /// The value and its tangent, of what was computed from an input with a tangent.
    pub fn parts(self) -> [Tensor<D>; 2] {
        [self.value, self.tangent.expect("a tangent in gives a tangent out")]
    }

    /// The value's shape.
    pub fn dims(&self) -> [usize; D] {
        self.value.dims()
    }

    /// The same, to be used twice, see [`twice`]: whoever uses the second must use the first too.
    pub fn twice(self) -> [Self; 2] {
        let [value, again] = twice(self.value);
        match self.tangent.map(twice) {
            None => [value.into(), again.into()],
            Some([tangent, again_tangent]) => [Self::along(value, tangent), Self::along(again, again_tangent)],
        }
    }

    /// f(x) for a linear f, which is its own derivative.
    pub fn linear<const E: usize>(self, f: impl Fn(Tensor<D>) -> Tensor<E>) -> Dual<E> {
        Dual { value: f(self.value), tangent: self.tangent.map(f) }
    }

    /// f(x) for an elementwise f. `derivative` gives f′(x) from x and f(x); it is asked only if there is a tangent.
    pub fn map(
        self,
        f: impl FnOnce(Tensor<D>) -> Tensor<D>,
        derivative: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<D>,
    ) -> Self {
        match self.tangent {
            None => f(self.value).into(),
            Some(tangent) => {
                let value = f(self.value.clone());
                Self { tangent: Some(derivative(self.value, value.clone()) * tangent), value }
            }
        }
    }

    /// x²
    pub fn square(self) -> Self {
        self.map(|x| x.square(), |x, _| x * 2.0)
    }

    /// 1/√x
    pub fn rsqrt(self) -> Self {
        self.map(|x| x.sqrt().recip(), |_, y| y.clone().square() * y * -0.5)
    }

    /// The mean over one dimension, which is kept with size 1.
    pub fn mean_dim(self, dim: usize) -> Self {
        self.linear(|x| x.mean_dim(dim))
    }

    /// The matrix product over the last two dimensions.
    pub fn matmul(self, other: Self) -> Self {
        let left = self.tangent.map(|t| t.matmul(other.value.clone()));
        let right = other.tangent.map(|t| self.value.clone().matmul(t));
        Self { value: self.value.matmul(other.value), tangent: both(left, right, |a, b| a + b, |b| b) }
    }

    /// eˣ divided by its sum along `dim`.
    pub fn softmax(self, dim: usize) -> Self {
        let value = activation::softmax(self.value, dim);
        let tangent = self.tangent.map(|t| {
            let weighted = value.clone() * t;
            weighted.clone() - value.clone() * weighted.sum_dim(dim)
        });
        Self { value, tangent }
    }

    /// The same values in another shape.
    pub fn reshape<const E: usize>(self, shape: [usize; E]) -> Dual<E> {
        self.linear(|x| x.reshape(shape))
    }
}

impl Dual<4> {
    /// The channels of `self`, and behind them those of `other`.
    pub fn join(self, other: Self) -> Self {
        let tangent = match (self.tangent, other.tangent) {
            (None, None) => None,
            (a, b) => {
                let zeros =
                    |tangent: Option<Tensor<4>>, value: &Tensor<4>| tangent.unwrap_or_else(|| value.zeros_like());
                Some(join(zeros(a, &self.value), zeros(b, &other.value)))
            }
        };
        Self { value: join(self.value, other.value), tangent }
    }
}

fn both<const D: usize>(
    a: Option<Tensor<D>>,
    b: Option<Tensor<D>>,
    join: impl FnOnce(Tensor<D>, Tensor<D>) -> Tensor<D>,
    only_b: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Option<Tensor<D>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(join(a, b)),
        (Some(a), None) => Some(a),
        (None, b) => b.map(only_b),
    }
}

// The operators broadcast as Burn's do. A tangent that is present on one side only may be smaller than the value it
// belongs to; it is then the same for all that it is broadcast to, so `shaped` brings it to the value's shape.
fn shaped<const D: usize>(tangent: Option<Tensor<D>>, value: &Tensor<D>) -> Option<Tensor<D>> {
    tangent.map(|t| if t.dims() == value.dims() { t } else { t.expand(value.dims()) })
}

/// a + b, on all cores if the shapes are the same.
fn sum<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if a.dims() == b.dims() { add(a, b) } else { a + b }
}

impl<const D: usize> Add for Dual<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let value = sum(self.value, other.value);
        let tangent = both(self.tangent, other.tangent, sum, |b| b);
        Self { tangent: shaped(tangent, &value), value }
    }
}

impl<const D: usize> Sub for Dual<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let value = self.value - other.value;
        let tangent = both(self.tangent, other.tangent, |a, b| a - b, |b| -b);
        Self { tangent: shaped(tangent, &value), value }
    }
}

impl<const D: usize> Mul for Dual<D> {
    type Output = Self;

    #[expect(clippy::suspicious_arithmetic_impl, reason = "the product rule is a sum")]
    fn mul(self, other: Self) -> Self {
        let left = self.tangent.map(|t| t * other.value.clone());
        let right = other.tangent.map(|t| t * self.value.clone());
        Self { value: self.value * other.value, tangent: both(left, right, |a, b| a + b, |b| b) }
    }
}

impl<const D: usize> Add<f64> for Dual<D> {
    type Output = Self;

    fn add(self, constant: f64) -> Self {
        Self { value: self.value + constant, ..self }
    }
}

impl<const D: usize> Mul<f64> for Dual<D> {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        self.linear(|x| x * factor)
    }
}
