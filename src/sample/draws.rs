//! Where the noise of a chain comes from.

use burn::tensor::{Device, Tensor};

use crate::noise::{self, Distribution, Stream};
use crate::sde::Rates;

/// A source of standard normal z: a function that gives tensors shaped as x, or [`Streams`].
pub trait Draws<const D: usize> {
    /// z of the given shape.
    fn normal(&mut self, shape: [usize; D], device: &Device) -> Tensor<D>;

    /// x + b·s + c·z.
    fn update(&mut self, x: Tensor<D>, s: Tensor<D>, [b, c]: [f64; 2]) -> Tensor<D> {
        let z = self.normal(x.dims(), &x.device());
        x + s * b + z * c
    }

    /// a·x + b·s + c·z; without z if c is 0.
    fn combine(&mut self, x: Tensor<D>, s: Tensor<D>, factors: Rates) -> Tensor<D> {
        let Rates { x: a, score: b, noise: c } = factors;
        let x = if a == 1.0 { x } else { x * a };
        match c {
            0.0 => x + s * b,
            _ => self.update(x, s, [b, c]),
        }
    }
}

impl<const D: usize, Z: FnMut() -> Tensor<D>> Draws<D> for Z {
    fn normal(&mut self, _: [usize; D], _: &Device) -> Tensor<D> {
        self()
    }
}

/// A stream for each example of a batch. On the processor an update is one pass, in which z is never in memory.
#[derive(Clone, Debug)]
pub struct Streams(pub Vec<Stream>);

impl<const D: usize> Draws<D> for Streams {
    fn normal(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        noise::tensor(Distribution::Normal, &mut self.0, shape, device)
    }

    fn update(&mut self, x: Tensor<D>, s: Tensor<D>, factors: [f64; 2]) -> Tensor<D> {
        noise::langevin_update(&mut self.0, x, s, factors)
    }
}
