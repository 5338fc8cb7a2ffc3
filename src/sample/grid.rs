//! Noise levels between which solvers step.

use std::fmt;

use serde::Serialize;

use crate::sde::{Process, Vp};

/// How the levels σ lie between the largest and the smallest of a process.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "grid", rename_all = "snake_case")]
pub enum Grid {
    /// Uniform in σ^{1/ρ} (Karras et al. 2022, eq. 5).
    Karras {
        /// ρ, 7: more puts more levels where there is little noise.
        rho: f64,
    },
    /// Uniform in ln σ.
    Exponential,
    /// ln σ uniform to the power of ρ.
    Polyexponential {
        /// ρ: 1 is exponential.
        rho: f64,
    },
    /// Those of the process VP (β from 0.1 to 20) at times that are uniform from 1 to 1e-3.
    Vp,
    /// Uniform in the process's own time.
    Uniform,
    /// These, descending; if the last is not 0, the noise of that stays.
    Given {
        /// σ
        levels: Vec<f64>,
    },
}

impl Default for Grid {
    fn default() -> Self {
        Self::Karras { rho: 7.0 }
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Karras { rho } => write!(f, "karras rho {rho}"),
            Self::Exponential => f.write_str("exponential"),
            Self::Polyexponential { rho } => write!(f, "polyexponential rho {rho}"),
            Self::Vp => f.write_str("vp"),
            Self::Uniform => f.write_str("uniform"),
            Self::Given { levels } => write!(f, "{} given levels", levels.len()),
        }
    }
}

impl Grid {
    /// `n` levels from the largest to the smallest of `range`, and 0. `of_time`: the process's σ at a part of its time, from the most noise
    /// to the least.
    pub(super) fn sigmas(&self, [min, max]: [f64; 2], n: usize, of_time: impl Fn(f64) -> f64) -> Vec<f64> {
        let part = |i: usize| i as f64 / (n.max(2) - 1) as f64;
        let level = |part: f64| -> f64 {
            match self {
                Self::Karras { rho } => {
                    let [first, last] = [max, min].map(|sigma| sigma.powf(1.0 / rho));
                    (first + part * (last - first)).powf(*rho)
                }
                Self::Exponential => (max.ln() + part * (min / max).ln()).exp(),
                Self::Polyexponential { rho } => (min.ln() + (1.0 - part).powf(*rho) * (max / min).ln()).exp(),
                Self::Vp => {
                    let vp = Vp::new(0.1, 20.0, 1000).expect("the published one");
                    let marginal = vp.marginal(1.0 + part * (1e-3 - 1.0));
                    (marginal.std / marginal.alpha).clamp(min, max)
                }
                Self::Uniform => of_time(part),
                Self::Given { .. } => f64::NAN,
            }
        };
        match self {
            Self::Given { levels } => levels.clone(),
            _ => (0..n).map(|i| level(part(i))).chain([0.0]).collect(),
        }
    }
}
