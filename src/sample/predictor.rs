//! Predictors: steps from a time to the next smaller one.

use std::fmt;

use serde::Serialize;

use crate::sde::{Process, Rates, Reverse};

/// How a state goes from a time to the next smaller one (Song et al. 2021, §3.3 and appendices D to F). N is the process's number of
/// levels, f, g, F and G are those of the process, c is 1 for the reverse-time SDE and ½ for the probability flow, which has no noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Predictor {
    /// Euler–Maruyama: x ← x − (f·x − c·g²·s)/N + g·z/√N.
    EulerMaruyama(Reverse),
    /// Reverse diffusion, the discretised process backwards: x ← x − F·x + c·G²·s + G·z (alg. 2 and 3).
    ReverseDiffusion(Reverse),
    /// Ancestral sampling, DDPM's, and the like for other processes: x ← (x + G²·s)/(1 + F) plus noise whose standard deviation is
    /// [`Process::ancestral_std`] (eq. 4; appendix F).
    AncestralSampling,
    /// None: the corrector alone.
    None,
}

impl fmt::Display for Predictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, reverse) = match self {
            Self::EulerMaruyama(reverse) => ("euler_maruyama", *reverse),
            Self::ReverseDiffusion(reverse) => ("reverse_diffusion", *reverse),
            Self::AncestralSampling => ("ancestral_sampling", Reverse::Sde),
            Self::None => ("none", Reverse::Sde),
        };
        f.write_str(name)?;
        f.write_str(if reverse == Reverse::ProbabilityFlow { " probability_flow" } else { "" })
    }
}

impl Predictor {
    /// The factors a, b and c of x ← a·x + b·s + c·z at time `t`.
    pub fn factors(self, process: &dyn Process, t: f64) -> Rates {
        match self {
            Self::EulerMaruyama(reverse) => {
                let (n, drift) = (process.n_levels() as f64, reverse.rates(process, t));
                Rates { x: 1.0 - drift.x / n, score: -drift.score / n, noise: drift.noise / n.sqrt() }
            }
            Self::ReverseDiffusion(reverse) => {
                let step = reverse.transition(process, t);
                Rates { x: 1.0 - step.x, score: -step.score, noise: step.noise }
            }
            Self::AncestralSampling => {
                let step = process.transition(t);
                let (x, noise) = (1.0 / (1.0 + step.drift), process.ancestral_std(t));
                Rates { x, score: step.diffusion.powi(2) * x, noise }
            }
            Self::None => Rates { x: 1.0, score: 0.0, noise: 0.0 },
        }
    }
}
