//! Processes run backwards: the reverse-time SDE, and the ordinary differential equation with the same marginals.

use serde::Serialize;

use super::{Process, Transition};

/// Which of the processes runs back from noise to data with the marginals of the forward process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reverse {
    /// The reverse-time SDE dx = [f(t)·x − g²·s(x, t)] dt + g dw̄ (Anderson 1982; Song et al. 2021, eq. 6).
    #[default]
    Sde,
    /// The probability flow dx = [f(t)·x − ½g²·s(x, t)] dt, without noise (Song et al. 2021, eq. 13).
    ProbabilityFlow,
}

/// Factors of x, of the score and of the noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Factor of x.
    pub x: f64,
    /// Factor of the score.
    pub score: f64,
    /// Factor of the noise.
    pub noise: f64,
}

impl Reverse {
    /// c, the part of g²·s in the drift: 1 or ½.
    pub fn share(self) -> f64 {
        match self {
            Self::Sde => 1.0,
            Self::ProbabilityFlow => 0.5,
        }
    }

    /// f, −c·g² and the diffusion, g or 0, at time `t`. Time runs forward in them: a step back subtracts the drift.
    pub fn rates(self, process: &dyn Process, t: f64) -> Rates {
        self.of(Transition { drift: process.drift(t), diffusion: process.diffusion(t) })
    }

    /// The same of the discretised process: F, −c·G², and G or 0.
    pub fn transition(self, process: &dyn Process, t: f64) -> Rates {
        self.of(process.transition(t))
    }

    fn of(self, forward: Transition) -> Rates {
        Rates {
            x: forward.drift,
            score: -self.share() * forward.diffusion.powi(2),
            noise: match self {
                Self::Sde => forward.diffusion,
                Self::ProbabilityFlow => 0.0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Marginal, NoiseLevels, SubVp, Ve, Vp};
    use super::*;
    use crate::noise::Noise;

    /// N steps each.
    fn processes(n: usize) -> [(&'static str, Box<dyn Process>); 3] {
        [
            ("VE", Box::new(Ve::new(0.1, 10.0, n).expect("valid"))),
            ("VP", Box::new(Vp::new(0.1, 20.0, n).expect("valid"))),
            ("sub-VP", Box::new(SubVp::new(0.1, 20.0, n).expect("valid"))),
        ]
    }

    #[test]
    fn the_forward_equation_leads_to_the_marginals() {
        const N_PATHS: usize = 4000;
        const N_STEPS: usize = 400;
        for (name, process) in processes(1000) {
            let mut stream = Noise::new(1).stream(name, 0);
            let mut z = vec![0.0; N_PATHS];
            let mut normals = || {
                stream.normal(&mut z);
                z.iter().map(|&z| f64::from(z)).collect::<Vec<f64>>()
            };
            let start = process.marginal(0.0);
            let mut x: Vec<f64> = normals().iter().map(|z| 1.5 + start.std * z).collect();
            for step in 0..N_STEPS {
                // At the middle of the step, where its error is of second order: far below the standard error.
                let t = (step as f64 + 0.5) / N_STEPS as f64;
                let (f, g) = (process.drift(t) / N_STEPS as f64, process.diffusion(t) / (N_STEPS as f64).sqrt());
                x.iter_mut().zip(normals()).for_each(|(x, z)| *x += f * *x + g * z);
                if (step + 1) % 100 != 0 {
                    continue;
                }
                let t = (step + 1) as f64 / N_STEPS as f64;
                let Marginal { alpha, std } = process.marginal(t);
                let n = N_PATHS as f64;
                let mean = x.iter().sum::<f64>() / n;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
                // Three standard errors of a mean and of a variance.
                assert!((mean - 1.5 * alpha).abs() < 3.0 * std / n.sqrt(), "{name}, t {t}: {mean}");
                assert!((variance / std.powi(2) - 1.0).abs() < 3.0 * (2.0 / n).sqrt(), "{name}, t {t}: {variance}");
            }
        }
    }

    #[test]
    fn marginals_obey_the_forward_equation() {
        // (ln alpha)′ = f and (std²)′ = 2·f·std² + g², by the differences that stand in for them if a process has only marginals.
        #[derive(Debug)]
        struct Marginals(Box<dyn Process>);
        impl Process for Marginals {
            fn marginal(&self, t: f64) -> Marginal {
                self.0.marginal(t)
            }
            fn n_levels(&self) -> usize {
                self.0.n_levels()
            }
        }
        for (name, process) in processes(1000) {
            let expected: Vec<_> = [0.01, 0.3, 0.9].map(|t| (t, process.drift(t), process.diffusion(t))).into();
            let found = Marginals(process);
            for (t, drift, diffusion) in expected {
                assert!((found.drift(t) - drift).abs() < 1e-7 * (1.0 + drift.abs()), "{name}: {}", found.drift(t));
                // Of sub-VP the third derivative is 1e4 times g² at t = 0.01.
                assert!((found.diffusion(t) / diffusion - 1.0).abs() < 1e-6, "{name}: {}", found.diffusion(t));
            }
        }
    }

    /// Mean and standard deviation after `n_steps` steps from the largest time, for data N(0.5, 0.3²): their score is linear in x, so
    /// both are known without a draw.
    fn backwards(process: &dyn Process, n_steps: usize, step: impl Fn(f64) -> Rates) -> [f64; 2] {
        let start = process.marginal(1.0);
        let (mut mean, mut variance) = (start.alpha * 0.5, (start.alpha * 0.3).powi(2) + start.std.powi(2));
        for t in (0..n_steps).map(|i| process.step_time(i)) {
            let Marginal { alpha, std } = process.marginal(t);
            let v = (alpha * 0.3).powi(2) + std * std;
            // x − F·x − score·s with s = (alpha·0.5 − x)/v.
            let Rates { x, score, noise } = step(t);
            let factor = 1.0 - x + score / v;
            mean = factor * mean - score * alpha * 0.5 / v;
            variance = factor.powi(2) * variance + noise.powi(2);
        }
        [mean, variance.sqrt()]
    }

    /// The relative errors of mean and standard deviation, with steps of 1/N: Euler's, or those of the discretised process.
    fn error(reverse: Reverse, process: &dyn Process, is_discrete: bool) -> f64 {
        let n = process.n_levels();
        let (found, end) = if is_discrete {
            // But for the last step, from the level of the least noise to the data.
            (backwards(process, n - 1, |t| reverse.transition(process, t)), process.discrete(0))
        } else {
            let euler = |t| {
                let Rates { x, score, noise } = reverse.rates(process, t);
                Rates { x: x / n as f64, score: score / n as f64, noise: noise / (n as f64).sqrt() }
            };
            (backwards(process, n, euler), process.marginal(0.0))
        };
        let expected = [end.alpha * 0.5, (end.alpha * 0.3).hypot(end.std)];
        found.iter().zip(expected).map(|(found, expected)| (found / expected - 1.0).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn the_reverse_of_a_gaussian_returns_it_and_errors_fall_with_the_step() {
        for (reverse, is_discrete) in [
            (Reverse::Sde, false),
            (Reverse::Sde, true),
            (Reverse::ProbabilityFlow, false),
            (Reverse::ProbabilityFlow, true),
        ] {
            for ((name, coarse), (_, fine)) in processes(500).into_iter().zip(processes(1000)) {
                let [coarse, fine] = [coarse, fine].map(|process| error(reverse, &*process, is_discrete));
                let what = format!("{reverse:?} of {name}, discrete {is_discrete}: {coarse:.2e}, then {fine:.2e}");
                assert!(fine < 0.03 && fine < 0.95 * coarse, "{what}");
                // Euler's order; where steps of 1/N end at 1e-3, as those of VP, that stays.
                assert!(name != "VE" || (fine / coarse - 0.5).abs() < 0.02, "{what}");
            }
        }
    }

    #[test]
    fn levels_are_a_process_too() {
        let levels = NoiseLevels::geometric(10.0, 0.1, 50).expect("valid");
        let Rates { x, score, noise } = Reverse::Sde.transition(&levels, 0.0);
        assert_eq!(x, 0.0);
        assert!((noise - 0.1).abs() < 1e-12 && (score + 0.01).abs() < 1e-12);
        assert_eq!(Reverse::ProbabilityFlow.transition(&levels, 0.0).noise, 0.0);
        assert!((levels.diffusion(0.0) - 0.1 * 50f64.sqrt()).abs() < 1e-12);
        assert_eq!([levels.prior_std(), levels.ancestral_std(0.0)], [levels.sigmas()[0], 0.0]);
    }
}
