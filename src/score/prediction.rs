//! What the output of a network means: from it to the score.

use crate::sde::{Marginal, Process};

/// The meaning of a network's output F, with which the score is
///
/// s(x, t) = skip(t)·x + scale(t)·F(input(t)·x, label(t)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The score itself (NCSN, Song & Ermon 2019).
    Score,
    /// The score times the standard deviation of the noise: s = F/σ (NCSNv2, Song & Ermon 2020, technique 3).
    ScaledScore,
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
    /// The factors where the perturbation kernel is `marginal`.
    pub fn factors(self, marginal: Marginal) -> Factors {
        match self {
            Self::Score => Factors { input: 1.0, skip: 0.0, scale: 1.0 },
            Self::ScaledScore => Factors { input: 1.0, skip: 0.0, scale: 1.0 / marginal.std },
        }
    }

    /// What tells the network the time `t`: the index of the level, 0 being that of the most noise.
    pub fn label(self, process: &dyn Process, t: f64) -> f64 {
        match self {
            Self::Score | Self::ScaledScore => process.level(t) as f64,
        }
    }
}
