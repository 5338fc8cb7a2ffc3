//! The forward process p(x_t | x_0): how data are blurred. Scalars (`f64`) only, no tensor in sight.

mod levels;

pub use levels::NoiseLevels;
