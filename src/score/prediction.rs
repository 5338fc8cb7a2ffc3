//! What the output of a network means: from it to the score.

use crate::sde::{Marginal, Process};

/// The meaning of a network's output F, with which the score is
///
/// s(x, t) = skip(t)·x + scale(t)·F(input(t)·x, label(t)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The score itself (NCSN, Song & Ermon 2019).
    Score(Label),
    /// The score times the standard deviation of the noise: s = F/std (NCSNv2, Song & Ermon 2020, technique 3; VE with
    /// `scale_by_sigma`).
    ScaledScore(Label),
    /// The noise z of x_t = alpha·x_0 + std·z: s = −F/std (VP and sub-VP; Ho et al. 2020).
    Noise(Label),
    /// ln p(y | x, t) of classes y, up to what is the same for all of them, and no score: see [`Model::log_probabilities`].
    ///
    /// [`Model::log_probabilities`]: super::Model::log_probabilities
    Classes(Label),
}

/// What tells the network the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// The number of the level, 0 having the most noise (NCSN, NCSNv2, discrete VE).
    Level,
    /// The standard deviation of the noise (continuous VE).
    Std,
    /// 999·t (continuous VP, sub-VP).
    Time,
    /// (N − 1)·t with the process's N levels, which is k at the time of the discrete level k and is not rounded in between (discrete
    /// VP).
    Index,
}

/// The factors of [`Prediction`] at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// Factor of the network's input.
    pub input: f64,
    /// Factor of x in the score.
    pub skip: f64,
    /// Factor of the network's output in the score.
    pub scale: f64,
}

impl Prediction {
    /// The factors at time `t` of a process.
    pub fn factors(self, process: &dyn Process, t: f64) -> Factors {
        let scale = match self {
            Self::Score(_) | Self::Classes(_) => 1.0,
            Self::ScaledScore(label) => 1.0 / label.marginal(process, t).std,
            Self::Noise(label) => -1.0 / label.marginal(process, t).std,
        };
        Factors { input: 1.0, skip: 0.0, scale }
    }

    /// What tells the network the time `t`.
    pub fn label(self, process: &dyn Process, t: f64) -> f64 {
        self.told().at(process, t)
    }

    /// What kind of label tells the network the time.
    pub fn told(self) -> Label {
        let (Self::Score(label) | Self::ScaledScore(label) | Self::Noise(label) | Self::Classes(label)) = self;
        label
    }
}

impl Label {
    /// The label of the time `t`.
    pub fn at(self, process: &dyn Process, t: f64) -> f64 {
        match self {
            Self::Level => process.level(t) as f64,
            Self::Std => process.marginal(t).std,
            Self::Time => 999.0 * t,
            Self::Index => (process.n_levels() - 1) as f64 * t,
        }
    }

    /// The time that the label tells: what [`Self::at`] makes the label of. Of labels that tell none it is the nearest.
    pub fn time(self, process: &dyn Process, label: f64) -> f64 {
        let [_, last] = process.times();
        match self {
            Self::Level => process.time((label.max(0.0) as usize).min(process.n_levels() - 1)),
            Self::Time => label / 999.0,
            Self::Index => label / (process.n_levels().max(2) - 1) as f64,
            Self::Std => {
                // The deviation grows with time: bisection, until an interval of f64 has no middle.
                let (mut below, mut above) = (0.0, last);
                for _ in 0..1100 {
                    let middle = below + (above - below) / 2.0;
                    if middle == below || middle == above {
                        break;
                    }
                    *(if process.marginal(middle).std < label { &mut below } else { &mut above }) = middle;
                }
                above
            }
        }
    }

    /// The labels from the smallest time to the largest.
    pub fn range(self, process: &dyn Process) -> [f64; 2] {
        match self {
            Self::Level => [0.0, (process.n_levels() - 1) as f64],
            _ => [0.0, process.times()[1]].map(|t| self.at(process, t)),
        }
    }

    /// The perturbation kernel that the network is told of: of one that knows levels only, the level's.
    fn marginal(self, process: &dyn Process, t: f64) -> Marginal {
        match self {
            Self::Level => process.discrete(process.n_levels() - 1 - process.level(t)),
            Self::Index => process.discrete(process.index(t)),
            Self::Std | Self::Time => process.marginal(t),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sde::{NoiseLevels, SubVp, Ve, Vp};

    /// Label and scale of each prediction at one time, by the formulas of Song et al. 2021's programs.
    #[test]
    fn labels_and_scales_are_those_of_the_papers() {
        let levels = NoiseLevels::geometric(50.0, 0.01, 1000).expect("valid");
        let ve = Ve::new(0.01, 50.0, 1000).expect("valid");
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let sub_vp = SubVp::new(0.1, 20.0, 1000).expect("valid");
        let (t, sigma) = (0.4321f64, 0.01 * 5000f64.powf(0.4321));
        // The nearest level to (1 − t)·999 = 567.33 is 567, which is k = 432; but DDPM's k is ⌊t·999⌋ = ⌊431.67⌋.
        let sigma_432 = 0.01 * 5000f64.powf(432.0 / 999.0);
        let square = (-0.5 * t * t * 19.9 - t * 0.1).exp();
        let product: f64 = (0..=431).map(|k| 1.0 - (0.1 + 19.9 * f64::from(k) / 999.0) / 1000.0).product();
        let rows: [(Prediction, &dyn Process, f64, f64); 8] = [
            (Prediction::Score(Label::Level), &levels, 567.0, 1.0),
            (Prediction::ScaledScore(Label::Level), &levels, 567.0, 1.0 / sigma_432),
            (Prediction::Score(Label::Std), &ve, sigma, 1.0),
            (Prediction::ScaledScore(Label::Std), &ve, sigma, 1.0 / sigma),
            (Prediction::ScaledScore(Label::Level), &ve, 567.0, 1.0 / sigma_432),
            (Prediction::Noise(Label::Time), &vp, 431.6679, -1.0 / (1.0 - square).sqrt()),
            (Prediction::Noise(Label::Time), &sub_vp, 431.6679, -1.0 / (1.0 - square)),
            (Prediction::Noise(Label::Index), &vp, 431.6679, -1.0 / (1.0 - product).sqrt()),
        ];
        for (prediction, process, label, scale) in rows {
            let found = [prediction.label(process, t), prediction.factors(process, t).scale];
            for (found, expected) in found.into_iter().zip([label, scale]) {
                assert!(
                    (found / expected - 1.0).abs() < 1e-10,
                    "{prediction:?} of {process:?}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn a_label_tells_the_time_that_it_was_made_of() {
        let ve = Ve::new(0.01, 50.0, 1000).expect("valid");
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        for t in [1e-5, 0.1234, 0.5, 1.0] {
            for (label, process) in [(Label::Std, &ve as &dyn Process), (Label::Time, &vp), (Label::Index, &vp)] {
                let found = label.time(process, label.at(process, t));
                assert!((found - t).abs() < 1e-14, "{label:?}: {found}, expected {t}");
                let [least, most] = label.range(process);
                assert!((least..=most).contains(&label.at(process, t)));
            }
        }
        for level in [0, 1, 500, 999] {
            let t = Label::Level.time(&ve, f64::from(level));
            assert_eq!(Label::Level.at(&ve, t), f64::from(level));
        }
        assert_eq!([Label::Std.time(&ve, 0.0), Label::Std.time(&ve, 60.0)], [f64::from_bits(1), 1.0]);
    }

    #[test]
    fn the_label_of_a_discrete_level_is_its_number() {
        for n in [1, 2, 10, 50, 999, 1000] {
            let vp = Vp::new(0.1, 0.5, n).expect("valid");
            for level in 0..n {
                let t = vp.time(level);
                let index = Label::Index.at(&vp, t);
                assert_eq!(Label::Level.at(&vp, t), level as f64);
                assert!(n == 1 || (index - (n - 1 - level) as f64).abs() < 1e-9, "{n}, {level}: {index}");
                let expected = -1.0 / vp.discrete(n - 1 - level).std;
                assert_eq!(Prediction::Noise(Label::Index).factors(&vp, t).scale, expected);
            }
        }
    }
}
