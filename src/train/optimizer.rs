//! Adam (with and without AMSGrad), RMSProp and SGD, with PyTorch's arithmetic and state names.

use burn::module::Module;
use burn::tensor::Tensor;
use ncsn_kernels::ops::optimizer::{self as ops, Verdict};
use ncsn_kernels::optimizer as kernel;

use super::ema::{Ema, blend};
use crate::device::{self, upload};
use crate::error::{Error, Result};
use crate::net::params::{self, HostTensor};

/// An update rule and its constants. `weight_decay` is L2: it is added to the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Kingma & Ba 2015; with `amsgrad`, Reddi et al. 2018.
    Adam {
        /// Learning rate.
        lr: f64,
        /// Decay of the mean of gradients and of the mean of their squares.
        betas: [f64; 2],
        /// Added to the root of the squares' mean.
        eps: f64,
        /// L2 coefficient.
        weight_decay: f64,
        /// Divide by the largest mean of squares so far.
        amsgrad: bool,
    },
    /// Tieleman & Hinton 2012, without momentum.
    RmsProp {
        /// Learning rate.
        lr: f64,
        /// Decay of the mean of squares.
        alpha: f64,
        /// Added to the root of the squares' mean.
        eps: f64,
        /// L2 coefficient.
        weight_decay: f64,
    },
    /// Stochastic gradient descent with momentum, no dampening.
    Sgd {
        /// Learning rate.
        lr: f64,
        /// Decay of the momentum.
        momentum: f64,
        /// L2 coefficient.
        weight_decay: f64,
    },
}

impl Default for Rule {
    /// Adam as in PyTorch: a learning rate of 10⁻³, without weight decay.
    fn default() -> Self {
        Self::Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, amsgrad: false }
    }
}

impl Rule {
    /// PyTorch's names of the state kept for each parameter.
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Rule::Adam { amsgrad: false, .. } => &["exp_avg", "exp_avg_sq"],
            Rule::Adam { amsgrad: true, .. } => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
            Rule::RmsProp { .. } => &["square_avg"],
            Rule::Sgd { .. } => &["momentum_buffer"],
        }
    }

    fn weight_decay(self) -> f64 {
        match self {
            Rule::Adam { weight_decay, .. } | Rule::RmsProp { weight_decay, .. } | Rule::Sgd { weight_decay, .. } => {
                weight_decay
            }
        }
    }

    /// The rule of step `t` (from 1) as one pass over a parameter.
    fn at(self, t: u64) -> kernel::Rule {
        match self {
            Rule::Adam { lr, betas, eps, .. } => kernel::Rule::Adam { lr, betas, eps, t },
            Rule::RmsProp { lr, alpha, eps, .. } => kernel::Rule::RmsProp { lr, alpha, eps },
            Rule::Sgd { lr, momentum, .. } => kernel::Rule::Sgd { lr, momentum },
        }
    }
}

/// How a step is made, and whether.
pub(super) enum Decision<'a> {
    /// It is, with the gradients times `clip`.
    Go {
        /// Below 1 where their norm is too large.
        clip: f64,
    },
    /// What a device decides that the host does not wait for.
    OnDevice(&'a Verdict),
}

/// Parameters after a step, of which those with gradients move, all of them in one go; shadows follow the others too.
fn move_together(
    step: &kernel::Step,
    verdict: Option<&Verdict>,
    gradients: Vec<Option<Tensor<1>>>,
    parameters: Vec<ops::Parameter>,
) -> Vec<ops::Parameter> {
    let moves: Vec<bool> = gradients.iter().map(Option::is_some).collect();
    let (mut moving, mut still) = (Vec::new(), Vec::new());
    for (gradient, parameter) in gradients.into_iter().zip(parameters) {
        match gradient {
            Some(gradient) => moving.push((gradient, parameter)),
            None => still.push(parameter),
        }
    }
    let (mut moved, mut still) = (ops::step(step, verdict, moving).into_iter(), still.into_iter());
    let follow = |parameter: ops::Parameter| {
        let shadow = parameter.shadow.map(|shadow| {
            let after = blend(step.ema_rate, shadow.clone(), parameter.value.clone());
            verdict.map_or(after.clone(), |verdict| verdict.choose(after, shadow))
        });
        ops::Parameter { shadow, ..parameter }
    };
    let next = |moves| if moves { moved.next() } else { still.next().map(follow) };
    moves.into_iter().map(next).map(|parameter| parameter.expect("as many as before")).collect()
}

/// A rule with the state it keeps for each parameter.
#[derive(Clone, Debug)]
pub struct Optimizer {
    rule: Rule,
    n_steps: u64,
    /// By registration order, then as [`Rule::state_names`]; empty before the first step.
    state: Vec<Vec<Tensor<1>>>,
}

impl Optimizer {
    /// Before the first step.
    pub fn new(rule: Rule) -> Self {
        Self { rule, n_steps: 0, state: Vec::new() }
    }

    /// The rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Goes on with another learning rate.
    pub fn set_lr(&mut self, new: f64) {
        let (Rule::Adam { lr, .. } | Rule::RmsProp { lr, .. } | Rule::Sgd { lr, .. }) = &mut self.rule;
        *lr = new;
    }

    /// How many steps were made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// One step: every parameter of `module` moves against its gradient, given in registration order. A parameter
    /// without a gradient stays.
    ///
    /// # Panics
    /// If there are not as many gradients as parameters, or they are not f32.
    pub fn step<M: Module>(&mut self, mut module: M, gradients: Vec<Option<Tensor<1>>>) -> M {
        self.advance(&mut module, gradients, Decision::Go { clip: 1.0 }, None);
        module
    }

    /// [`Self::step`] if and as it was decided, and one of the moving average.
    pub(super) fn advance<M: Module>(
        &mut self,
        module: &mut M,
        gradients: Vec<Option<Tensor<1>>>,
        decision: Decision<'_>,
        ema: Option<&mut Ema<M>>,
    ) {
        self.n_steps += 1;
        let (rule, weight_decay) = (self.rule.at(self.n_steps), self.rule.weight_decay());
        let (clip, verdict) = match decision {
            Decision::Go { clip } => (clip, None),
            Decision::OnDevice(verdict) => (1.0, Some(verdict)),
        };
        let step = |ema_rate| kernel::Step { rule, clip, weight_decay, ema_rate };
        match ema {
            None => {
                self.advance_all(module, gradients, step(0.0), verdict, Vec::new());
            }
            Some(Ema { rate, shadow }) => {
                let step = step(*rate);
                let advance = |shadows| self.advance_all(module, gradients, step, verdict, shadows);
                params::map_values(shadow, advance);
            }
        }
    }

    /// The step on every parameter; `shadows` after it, which may be none.
    fn advance_all<M: Module>(
        &mut self,
        module: &mut M,
        gradients: Vec<Option<Tensor<1>>>,
        step: kernel::Step,
        verdict: Option<&Verdict>,
        shadows: Vec<Tensor<1>>,
    ) -> Vec<Tensor<1>> {
        let mut shadows_after = Vec::new();
        params::map_values(module, |values| {
            assert_eq!(values.len(), gradients.len(), "gradients of as many parameters");
            let mut parameters: Vec<ops::Parameter> = Vec::with_capacity(values.len());
            let mut shadows = shadows.into_iter();
            for (index, value) in values.into_iter().enumerate() {
                if self.state.len() <= index {
                    let zeros = self.rule.state_names().iter().map(|_| value.zeros_like());
                    self.state.push(zeros.collect());
                }
                let state = std::mem::take(&mut self.state[index]);
                parameters.push(ops::Parameter { value, state, shadow: shadows.next() });
            }
            let after = move_together(&step, verdict, gradients, parameters);
            let mut values = Vec::with_capacity(after.len());
            for (kept, ops::Parameter { value, state, shadow }) in self.state.iter_mut().zip(after) {
                *kept = state;
                shadows_after.extend(shadow);
                values.push(value);
            }
            values
        });
        shadows_after
    }

    /// The state on the host, as `(state name, parameter name, values)`.
    ///
    /// # Errors
    /// [`Error::Device`] when a device cannot give it.
    pub fn to_host(&self, names: &[(String, Vec<usize>)]) -> Result<Vec<(String, HostTensor)>> {
        let mut out = Vec::new();
        for (tensors, (name, shape)) in self.state.iter().zip(names) {
            for (state, tensor) in self.rule.state_names().iter().zip(tensors) {
                let values = device::values(tensor.clone())?;
                out.push((format!("{state}.{name}"), HostTensor { shape: shape.clone(), values }));
            }
        }
        Ok(out)
    }

    /// An optimiser that has made `n_steps` steps, with the state that `get` gives for each `STATE.PARAMETER`.
    ///
    /// # Errors
    /// When `get` lacks one, or one has another shape than its parameter.
    pub fn from_host<M: Module>(
        rule: Rule,
        n_steps: u64,
        module: &M,
        mut get: impl FnMut(&str) -> Option<HostTensor>,
    ) -> Result<Self> {
        let mut result = Ok(());
        let mut state = Vec::new();
        if n_steps > 0 {
            params::visit(module, |name, shape, value| {
                let mut load = |kind: &&str| {
                    let key = format!("{kind}.{name}");
                    let found = get(&key).ok_or_else(|| {
                        Error::unexpected(format!("no optimiser state {key}"), "one of each parameter")
                    })?;
                    if found.shape != shape {
                        return Err(Error::shape(key, format!("{:?}", found.shape), format!("{shape:?}")));
                    }
                    let n = found.values.len();
                    Ok(upload(found.values, [n], &value.device().inner()))
                };
                match rule.state_names().iter().map(&mut load).collect::<Result<Vec<_>>>() {
                    Ok(tensors) => state.push(tensors),
                    Err(error) => result = Err(error),
                }
            });
        }
        result.map(|()| Self { rule, n_steps, state })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_parameter_without_a_gradient_stays_between_those_that_move_and_its_shadow_follows() {
        let tensor = |x: f32| Tensor::<1>::from_floats([x; 5], &Device::flex());
        let parameter =
            |x: f32| ops::Parameter { value: tensor(x), state: vec![tensor(10.0 * x)], shadow: Some(tensor(0.0)) };
        let rule = kernel::Rule::Sgd { lr: 1.0, momentum: 0.5 };
        let step = kernel::Step { rule, clip: 1.0, weight_decay: 0.0, ema_rate: 0.75 };
        let gradients = vec![Some(tensor(1.0)), None, Some(tensor(2.0))];
        let after = move_together(&step, None, gradients, [1.0, 2.0, 3.0].map(parameter).into());
        // Momentum 0.5·10x + g, the weight less that, and a quarter of it.
        let expected = [[-5.0, 6.0, -1.25], [2.0, 20.0, 0.5], [-14.0, 17.0, -3.5]];
        assert_eq!(after.len(), 3);
        for (ops::Parameter { value, state, shadow }, expected) in after.into_iter().zip(expected) {
            for (tensor, expected) in [Some(value), state.into_iter().next(), shadow].into_iter().zip(expected) {
                let values: Vec<f32> = tensor.expect("a tensor").try_into_vec_as().expect("f32");
                assert_eq!(values, [expected; 5]);
            }
        }
    }
}
