//! `optim:`, the optimiser.

use super::fields::{FRACTION, Fields, Flag, NOT_NEGATIVE, POSITIVE, Section};
use crate::error::Result;

/// The optimiser and its constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Optim {
    /// The update rule.
    pub optimizer: Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Score-SDE: steps over which the learning rate rises from 0.
    pub warmup: u64,
    /// Adam's decay of the mean.
    pub beta1: f64,
    /// Ours: Adam's decay of the squares.
    pub beta2: f64,
    /// Ours: the number added to the root of the squares.
    pub eps: f64,
    /// Ours: SGD's momentum.
    pub momentum: f64,
    /// Factor of the weights that is added to their gradient (L2).
    pub weight_decay: f64,
    /// Whether Adam is AMSGrad.
    pub amsgrad: bool,
}

impl Default for Optim {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Adam,
            lr: 0.001,
            warmup: 0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            momentum: 0.9,
            weight_decay: 0.0,
            amsgrad: false,
        }
    }
}

impl Section for Optim {
    const NAME: &'static str = "optim";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("optimizer", &mut self.optimizer, &OPTIMIZERS)?;
        f.key("lr", &mut self.lr, POSITIVE)?;
        f.key("warmup", &mut self.warmup, 0..=u64::MAX)?;
        f.key("beta1", &mut self.beta1, FRACTION)?;
        f.key("beta2", &mut self.beta2, FRACTION)?;
        f.key("eps", &mut self.eps, POSITIVE)?;
        f.key("momentum", &mut self.momentum, FRACTION)?;
        f.key("weight_decay", &mut self.weight_decay, NOT_NEGATIVE)?;
        f.key("amsgrad", &mut self.amsgrad, Flag)
    }
}

/// An update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// Adam, with AMSGrad if `amsgrad`.
    Adam,
    /// RMSProp.
    RmsProp,
    /// SGD with momentum.
    Sgd,
}

const OPTIMIZERS: [(&str, Optimizer); 3] =
    [("Adam", Optimizer::Adam), ("RMSProp", Optimizer::RmsProp), ("SGD", Optimizer::Sgd)];
