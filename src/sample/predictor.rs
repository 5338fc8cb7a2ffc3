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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sde::{Marginal, SubVp, Ve, Vp};

    /// Mean and standard deviation after all steps of a predictor from the marginal at the largest time, for data of N(0.5, 0.3²): their
    /// score is linear in x, so both are known without a draw.
    fn end(predictor: Predictor, process: &dyn Process) -> [f64; 2] {
        let start = process.marginal(1.0);
        let (mut mean, mut variance) = (start.alpha * 0.5, (start.alpha * 0.3).powi(2) + start.std.powi(2));
        for t in (0..process.n_levels()).map(|i| process.step_time(i)) {
            let Marginal { alpha, std } = process.marginal(t);
            let v = (alpha * 0.3).powi(2) + std * std;
            // a·x + b·s + c·z with s = (α·0.5 − x)/v.
            let Rates { x: a, score: b, noise: c } = predictor.factors(process, t);
            mean = (a - b / v) * mean + b * alpha * 0.5 / v;
            variance = (a - b / v).powi(2) * variance + c * c;
        }
        [mean, variance.sqrt()]
    }

    #[test]
    fn every_predictor_is_of_first_order() {
        let predictors = [Reverse::Sde, Reverse::ProbabilityFlow]
            .into_iter()
            .flat_map(|reverse| [Predictor::EulerMaruyama(reverse), Predictor::ReverseDiffusion(reverse)])
            .chain([Predictor::AncestralSampling]);
        type OfSteps = fn(usize) -> Box<dyn Process>;
        let processes: [(&str, OfSteps); 3] = [
            ("VE", |n| Box::new(Ve::new(0.01, 10.0, n).expect("valid"))),
            ("VP", |n| Box::new(Vp::new(0.1, 20.0, n).expect("valid"))),
            ("sub-VP", |n| Box::new(SubVp::new(0.1, 20.0, n).expect("valid"))),
        ];
        for predictor in predictors {
            for (name, process) in processes {
                let ends = [2000, 4000, 8000, 16_000].map(|n| end(predictor, &*process(n)));
                for (i, expected) in [0.5, 0.3].into_iter().enumerate() {
                    let ends = ends.map(|end| end[i]);
                    let what = format!("{predictor} of {name}, {i}: {ends:?}");
                    // What is left after the last step, at 1e-3 for VP, is 3e-4.
                    assert!((ends[3] - expected).abs() < 5e-4, "{what}");
                    let changes = [0, 1, 2].map(|k| ends[k + 1] - ends[k]);
                    let ratios = [changes[0] / changes[1], changes[1] / changes[2]];
                    match (name, predictor) {
                        // VE leaves a mean that is right.
                        ("VE", _) if i == 0 => assert_eq!(changes, [0.0; 3], "{what}"),
                        // The levels of DDPM are not quite at the times of the steps; where errors of first order are small, that shows.
                        ("VP", Predictor::ReverseDiffusion(_) | Predictor::AncestralSampling) => {
                            assert!(ratios.iter().all(|ratio| ratio.abs() > 2.0), "{what}");
                        }
                        _ => assert!(ratios.iter().all(|ratio| (ratio - 2.0).abs() < 0.02), "{what}"),
                    }
                }
            }
        }
    }
}
