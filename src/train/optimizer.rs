//! Adam (with and without AMSGrad), RMSProp and SGD, with PyTorch's arithmetic and state names.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::error::{Error, Result};
use crate::net::params::{self, HostTensor, Replace};

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

    /// The change of a parameter with gradient `g` in step `t` (from 1); `state` is that of [`Self::state_names`].
    fn update(self, t: u64, g: Tensor<1>, state: &mut [Tensor<1>]) -> Tensor<1> {
        match self {
            Rule::Adam { lr, betas: [beta1, beta2], eps, .. } => {
                state[0] = state[0].clone() * beta1 + g.clone() * (1.0 - beta1);
                state[1] = state[1].clone() * beta2 + g.square() * (1.0 - beta2);
                let mut v = state[1].clone();
                if let Some(largest) = state.get_mut(2) {
                    *largest = largest.clone().max_pair(v);
                    v = largest.clone();
                }
                let (correction1, correction2) = (1.0 - beta1.powf(t as f64), 1.0 - beta2.powf(t as f64));
                let denominator = v.sqrt() / correction2.sqrt() + eps;
                state[0].clone() / denominator * (-lr / correction1)
            }
            Rule::RmsProp { lr, alpha, eps, .. } => {
                state[0] = state[0].clone() * alpha + g.clone().square() * (1.0 - alpha);
                g / (state[0].clone().sqrt() + eps) * -lr
            }
            Rule::Sgd { lr, momentum, .. } => {
                state[0] = state[0].clone() * momentum + g;
                state[0].clone() * -lr
            }
        }
    }
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

    /// How many steps were made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// One step: every parameter of `module` moves against its gradient, given in registration order. A parameter
    /// without a gradient stays.
    pub fn step<M: Module>(&mut self, module: M, gradients: Vec<Option<Tensor<1>>>) -> M {
        struct Apply<'a>(&'a mut Optimizer, Vec<Option<Tensor<1>>>);
        impl Replace for Apply<'_> {
            fn replace<const D: usize>(&mut self, index: usize, _: &str, value: Tensor<D>) -> Tensor<D> {
                let Apply(optimizer, gradients) = self;
                let (shape, value) = (value.dims(), value.inner().reshape([-1]));
                if optimizer.state.len() <= index {
                    let zeros = optimizer.rule.state_names().iter().map(|_| value.zeros_like());
                    optimizer.state.push(zeros.collect());
                }
                let value = match gradients[index].take() {
                    None => value,
                    Some(g) => {
                        let decay = optimizer.rule.weight_decay();
                        let g = if decay == 0.0 { g } else { g + value.clone() * decay };
                        value + optimizer.rule.update(optimizer.n_steps, g, &mut optimizer.state[index])
                    }
                };
                Tensor::from_inner(value.reshape(shape))
            }
        }
        self.n_steps += 1;
        params::replace(module, Apply(self, gradients)).0
    }

    /// The state on the host, as `(state name, parameter name, values)`.
    pub fn to_host(&self, names: &[(String, Vec<usize>)]) -> Vec<(String, HostTensor)> {
        let mut out = Vec::new();
        for (tensors, (name, shape)) in self.state.iter().zip(names) {
            for (state, tensor) in self.rule.state_names().iter().zip(tensors) {
                let values = tensor.clone().try_into_vec_as::<f32>().expect("state is f32");
                out.push((format!("{state}.{name}"), HostTensor { shape: shape.clone(), values }));
            }
        }
        out
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
                    let found = get(&key).ok_or_else(|| Error::Usage(format!("found no optimiser state {key}")))?;
                    if found.shape != shape {
                        return Err(Error::Usage(format!("{key} has shape {:?}, expected {shape:?}", found.shape)));
                    }
                    let n = found.values.len();
                    Ok(params::upload(found.values, [n], &value.device().inner()))
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
