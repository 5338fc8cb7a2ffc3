//! Correctors: Langevin dynamics at one time, with step sizes from a signal-to-noise ratio.

use std::fmt;

use burn::tensor::Tensor;
use serde::Serialize;

use super::Draws;
use crate::sde::Process;

/// How a state is changed at its time: x ← x + ε·s + √(2ε)·z (Song et al. 2021, alg. 4 and 5). In the step sizes ε, a is the process's
/// [`Process::retention`]: 1 for VE, α_k for VP and sub-VP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Corrector {
    /// ε = 2a·(snr·‖z‖/‖s‖)².
    Langevin {
        /// The ratio of the lengths of the score's part and the noise, r in the paper: 0.05 to 0.2.
        snr: f64,
        /// Whose norms.
        norms: Norms,
    },
    /// Annealed Langevin dynamics, ε = 2a·(snr·std(t))². NCSN's has snr = √(ε_L/2)/σ_L with its step size ε_L at the last level.
    Ald {
        /// r.
        snr: f64,
    },
    /// None: the predictor alone.
    None,
}

/// Whose norms of z and s a step size has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Norms {
    /// Each example's own, so that it does not depend on the others in its batch. Norms of images are nearly all alike; in a few
    /// dimensions they are not, and steps as long as the own score asks for lead elsewhere than to p_t.
    #[default]
    PerSample,
    /// Means over the batch, as in the published program.
    BatchMean,
}

impl fmt::Display for Corrector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Langevin { snr, norms } => {
                write!(f, "langevin {snr}{}", if *norms == Norms::BatchMean { " batch norms" } else { "" })
            }
            Self::Ald { snr } => write!(f, "ald {snr}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl Corrector {
    /// x after an update at time `t`, where its score is `s`.
    pub fn step<const D: usize>(
        self,
        process: &dyn Process,
        t: f64,
        x: Tensor<D>,
        s: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        let a = process.retention(t);
        match self {
            Self::None => x,
            Self::Ald { snr } => {
                let epsilon = 2.0 * a * (snr * process.marginal(t).std).powi(2);
                draws.update(x, s, [epsilon, (2.0 * epsilon).sqrt()])
            }
            Self::Langevin { snr, norms } => {
                let z = draws.normal(x.dims(), &x.device());
                let norm_of_s = norm(s.clone(), norms);
                // A score of 0 asks for no step.
                let ratio = (norm(z.clone(), norms) / norm_of_s.clone()).mask_fill(norm_of_s.equal_elem(0.0), 0.0);
                let epsilon = (ratio * snr).square() * (2.0 * a);
                x + s * epsilon.clone() + z * (epsilon * 2.0).sqrt()
            }
        }
    }
}

/// ‖x‖ of each example, or their mean, to be broadcast: `[batch, 1, …]` or `[1, 1, …]`.
fn norm<const D: usize>(x: Tensor<D>, norms: Norms) -> Tensor<D> {
    let mut shape = [1; D];
    let n = x.dims()[0];
    let each = x.reshape([n as isize, -1]).square().sum_dim(1).sqrt();
    match norms {
        Norms::PerSample => {
            shape[0] = n;
            each.reshape(shape)
        }
        Norms::BatchMean => each.mean_dim(0).reshape(shape),
    }
}
