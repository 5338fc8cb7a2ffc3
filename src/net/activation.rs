//! Activations: what stands between a normalisation and a convolution.

use burn::tensor::activation;
use ncsn_kernels::ops::pixels::{Activation as Kernel, activate};

use super::Dual;

/// An elementwise function, the same everywhere in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// ELU with α = 1: x for x > 0, eˣ − 1 otherwise (Clevert et al. 2016).
    #[default]
    Elu,
    /// max(x, 0)
    Relu,
    /// x for x > 0, 0.2·x otherwise.
    LeakyRelu,
    /// x·sigmoid(x) (Ramachandran et al. 2017).
    Swish,
}

/// The slope of [`Activation::LeakyRelu`] below 0.
const SLOPE: f64 = 0.2;

impl Activation {
    /// # Shapes
    /// Any, unchanged.
    pub fn forward<const D: usize>(self, x: Dual<D>) -> Dual<D> {
        let value = |x| activate(x, self.kernel());
        match self {
            Self::Elu => elu(x),
            // The sign of max(x, 0) is 1 where x is positive, else 0; and no gradient goes through it.
            Self::Relu => x.map(value, |x, _| x.clamp_min(0.0).sign()),
            Self::LeakyRelu => x.map(value, |x, _| x.clamp_min(0.0).sign() * (1.0 - SLOPE) + SLOPE),
            Self::Swish => x.map(value, |x, y| {
                let sigmoid = activation::sigmoid(x);
                // σ + xσ(1 − σ), where xσ is the output.
                y * (1.0 - sigmoid.clone()) + sigmoid
            }),
        }
    }

    /// The same among the kernels.
    pub(super) fn kernel(self) -> Kernel {
        match self {
            Self::Elu => Kernel::Elu,
            Self::Relu => Kernel::Relu,
            Self::LeakyRelu => Kernel::LeakyRelu,
            Self::Swish => Kernel::Swish,
        }
    }
}

/// ELU with α = 1: x for x > 0, eˣ − 1 otherwise.
pub fn elu<const D: usize>(x: Dual<D>) -> Dual<D> {
    // e^min(x, 0) is the derivative.
    x.map(|x| activate(x, Kernel::Elu), |x, _| x.clamp_max(0.0).exp())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor, TensorData};

    use super::*;

    const ALL: [Activation; 4] = [Activation::Elu, Activation::Relu, Activation::LeakyRelu, Activation::Swish];

    #[test]
    fn values_are_those_of_the_definitions_and_tangents_their_slopes() {
        let xs = [-3.0f64, -0.5, 0.25, 2.0];
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let definition = |activation: Activation, x: f64| match activation {
            Activation::Elu => {
                if x > 0.0 {
                    x
                } else {
                    x.exp() - 1.0
                }
            }
            Activation::Relu => x.max(0.0),
            Activation::LeakyRelu => {
                if x > 0.0 {
                    x
                } else {
                    0.2 * x
                }
            }
            Activation::Swish => x * sigmoid(x),
        };
        let tensor = |values: &[f64]| -> Tensor<1> {
            Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (&Device::flex(), DType::F64))
        };
        for activation in ALL {
            let [value, tangent] = activation.forward(Dual::along(tensor(&xs), tensor(&[2.0; 4]))).parts();
            let [value, tangent] = [value, tangent].map(|x| x.try_into_vec_as::<f64>().expect("f64"));
            for (i, x) in xs.into_iter().enumerate() {
                let slope = (definition(activation, x + 1e-6) - definition(activation, x - 1e-6)) / 2e-6;
                assert!((value[i] - definition(activation, x)).abs() < 1e-12, "{activation:?} of {x}: {}", value[i]);
                assert!((tangent[i] - 2.0 * slope).abs() < 1e-8, "slope of {activation:?} at {x}: {}", tangent[i]);
            }
        }
    }
}
