//! Two distributions with an edge: a filled square and a ring.

use burn::tensor::Tensor;

use crate::noise::Stream;
use crate::score::Score;

/// The uniform distribution on a square around the origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Square {
    /// Half its side.
    pub half_width: f64,
}

impl Square {
    /// ln p(x); −∞ outside.
    pub fn log_density(&self, [x, y]: [f64; 2]) -> f64 {
        let inside = x.abs().max(y.abs()) <= self.half_width;
        if inside { -2.0 * (2.0 * self.half_width).ln() } else { f64::NEG_INFINITY }
    }

    /// A point.
    pub fn sample(&self, stream: &mut Stream) -> [f64; 2] {
        let mut u = [0.0; 2];
        stream.uniform(&mut u);
        u.map(|u| self.half_width * (2.0 * f64::from(u) - 1.0))
    }
}

/// A ring: the distance from the origin is N(`radius`, `width`²), every direction equally likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ring {
    /// Mean distance.
    pub radius: f64,
    /// Standard deviation of the distance.
    pub width: f64,
}

impl Ring {
    /// ln p(x) = ln N(r; radius, width²) − ln 2πr.
    pub fn log_density(&self, [x, y]: [f64; 2]) -> f64 {
        let (r, tau) = (x.hypot(y), std::f64::consts::TAU);
        let z = (r - self.radius) / self.width;
        -0.5 * z * z - self.width.ln() - 0.5 * tau.ln() - (tau * r).ln()
    }

    /// A point. A distance below 0 counts in the opposite direction, as |r|.
    pub fn sample(&self, stream: &mut Stream) -> [f64; 2] {
        let (mut z, mut u) = ([0.0], [0.0]);
        stream.normal(&mut z);
        stream.uniform(&mut u);
        let r = self.radius + self.width * f64::from(z[0]);
        let (sin, cos) = (std::f64::consts::TAU * f64::from(u[0])).sin_cos();
        [r * cos, r * sin]
    }
}

impl Score<2> for Ring {
    /// −((r − radius)/width² + 1/r)·x/r, the same at every time.
    fn score(&self, x: Tensor<2>, _: &[f64]) -> Tensor<2> {
        let r = x.clone().square().sum_dim(1).sqrt();
        let slope = (r.clone() - self.radius) / -self.width.powi(2) - r.clone().recip();
        x * (slope / r)
    }
}
