//! Adam (with and without AMSGrad), RMSProp and SGD, with PyTorch's arithmetic and state names, and what their steps are made by.

use burn::module::Module;
use burn::tensor::Tensor;
use ncsn_kernels::ops::is_cpu;
use ncsn_kernels::ops::optimizer::{self as ops, Verdict, sums_of_squares, sums_of_squares_on_gpu};
use ncsn_kernels::optimizer as kernel;

use super::Schedule;
use super::ema::{Ema, blend};
use crate::device::{self, upload};
use crate::error::{Error, Result};
use crate::loss;
use crate::net::params::{self, HostTensor};

/// An update rule and its constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Kingma & Ba 2015; with `amsgrad`, Reddi et al. 2018.
    Adam {
        /// Decay of the mean of gradients and of the mean of their squares.
        betas: [f64; 2],
        /// Added to the root of the squares' mean.
        eps: f64,
        /// Divide by the largest mean of squares so far.
        amsgrad: bool,
    },
    /// Tieleman & Hinton 2012, without momentum.
    RmsProp {
        /// Decay of the mean of squares.
        alpha: f64,
        /// Added to the root of the squares' mean.
        eps: f64,
    },
    /// Stochastic gradient descent with momentum, no dampening.
    Sgd {
        /// Decay of the momentum.
        momentum: f64,
    },
}

impl Rule {
    /// Adam with PyTorch's constants.
    pub const ADAM: Self = Self::Adam { betas: [0.9, 0.999], eps: 1e-8, amsgrad: false };

    /// PyTorch's names of the state kept for each parameter.
    pub fn state_names(self) -> &'static [&'static str] {
        match self {
            Rule::Adam { amsgrad: false, .. } => &["exp_avg", "exp_avg_sq"],
            Rule::Adam { amsgrad: true, .. } => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
            Rule::RmsProp { .. } => &["square_avg"],
            Rule::Sgd { .. } => &["momentum_buffer"],
        }
    }

    /// The rule of step `t` (from 1), which has the learning rate `lr`, as one pass over a parameter.
    fn at(self, t: u64, lr: f64) -> kernel::Rule {
        match self {
            Rule::Adam { betas, eps, .. } => kernel::Rule::Adam { lr, betas, eps, t },
            Rule::RmsProp { alpha, eps } => kernel::Rule::RmsProp { lr, alpha, eps },
            Rule::Sgd { momentum } => kernel::Rule::Sgd { lr, momentum },
        }
    }
}

/// All that a step of optimisation is made by: gradient ← clipped gradient + `weight_decay`·weights, then the rule with the learning
/// rate of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// How a gradient becomes a step.
    pub rule: Rule,
    /// The learning rate.
    pub lr: Schedule,
    /// L2 coefficient: the factor of the weights that is added to their gradient.
    pub weight_decay: f64,
    /// c, the largest global norm of the gradient g, which becomes g·min(1, c/(‖g‖ + 10⁻⁶)), PyTorch's `clip_grad_norm_`; `None`
    /// leaves it as it is.
    pub clip: Option<f64>,
}

impl OptimizerConfig {
    /// `rule` with the same learning rate in all steps, without weight decay or clipping.
    pub const fn new(rule: Rule, lr: f64) -> Self {
        Self { rule, lr: Schedule::Constant(lr), weight_decay: 0.0, clip: None }
    }

    /// The factor of gradients with these sums of squares.
    pub(super) fn clip_factor(&self, squares: &[f64]) -> f64 {
        let factor = |max_norm: f64| (max_norm / (squares.iter().sum::<f64>().sqrt() + 1e-6)).min(1.0);
        self.clip.map_or(1.0, factor)
    }

    /// The same on a device, `[1]`, of sums of squares `[n]`: nobody waits for it.
    pub(super) fn clip_factor_on_device(&self, squares: &Tensor<1>) -> Tensor<1> {
        let sum = loss::sum(squares.clone());
        match self.clip {
            Some(max_norm) => ((sum.sqrt() + 1e-6).recip() * max_norm).clamp_max(1.0),
            None => sum.ones_like(),
        }
    }
}

impl Default for OptimizerConfig {
    /// Adam as in PyTorch: a learning rate of 10⁻³, without weight decay.
    fn default() -> Self {
        Self::new(Rule::ADAM, 1e-3)
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

/// A rule at a step, with the state it keeps for each parameter.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    n_steps: u64,
    /// By registration order, then as [`Rule::state_names`]; empty before the first step.
    state: Vec<Vec<Tensor<1>>>,
}

impl Optimizer {
    /// Before the first step.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, n_steps: 0, state: Vec::new() }
    }

    /// What its steps are made by.
    pub fn config(&self) -> OptimizerConfig {
        self.config
    }

    /// How many steps were made.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// One step: every parameter of `module` moves against its gradient, given in registration order and clipped if the configuration
    /// says so. A parameter without a gradient stays.
    ///
    /// # Panics
    /// If there are not as many gradients as parameters, or they are not f32.
    pub fn step<M: Module>(&mut self, mut module: M, gradients: Vec<Option<Tensor<1>>>) -> M {
        let device = gradients.iter().flatten().next().map(Tensor::device);
        match device.filter(|_| self.config.clip.is_some()) {
            None => self.advance(&mut module, gradients, Decision::Go { clip: 1.0 }, None),
            Some(device) if is_cpu(&device) => {
                let clip = self.config.clip_factor(&sums_of_squares(&gradients));
                self.advance(&mut module, gradients, Decision::Go { clip }, None);
            }
            Some(device) => {
                let clip = self.config.clip_factor_on_device(&sums_of_squares_on_gpu(&gradients, &device));
                let verdict = Verdict::new(clip.clone(), clip.ones_like().equal_elem(1.0));
                self.advance(&mut module, gradients, Decision::OnDevice(&verdict), None);
            }
        }
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
        let OptimizerConfig { rule, lr, weight_decay, .. } = self.config;
        let lr = lr.at(self.n_steps);
        self.n_steps += 1;
        let rule = rule.at(self.n_steps, lr);
        let (clip, verdict) = match decision {
            Decision::Go { clip } => (clip, None),
            Decision::OnDevice(verdict) => (1.0, Some(verdict)),
        };
        let step = |ema_rate| kernel::Step { rule, clip, weight_decay, ema_rate };
        match ema {
            None => {
                self.advance_all(module, gradients, step(0.0), verdict, Vec::new());
            }
            Some(ema) => {
                let step = step(ema.advance());
                let advance = |shadows| self.advance_all(module, gradients, step, verdict, shadows);
                params::map_values(&mut ema.shadow, advance);
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
                    let zeros = self.config.rule.state_names().iter().map(|_| value.zeros_like());
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
            for (state, tensor) in self.config.rule.state_names().iter().zip(tensors) {
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
        config: OptimizerConfig,
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
                match config.rule.state_names().iter().map(&mut load).collect::<Result<Vec<_>>>() {
                    Ok(tensors) => state.push(tensors),
                    Err(error) => result = Err(error),
                }
            });
        }
        result.map(|()| Self { config, n_steps, state })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;

    use super::*;
    use crate::train::EmaRate;

    #[derive(Module, Debug)]
    struct Weights {
        w: Param<Tensor<1>>,
    }

    fn weights(w: [f32; 2]) -> Weights {
        Weights { w: Param::from_tensor(Tensor::from_floats(w, &Device::flex())) }
    }

    fn values(module: &Weights) -> Vec<f32> {
        module.w.val().try_into_vec_as().expect("f32")
    }

    fn gradient(g: [f32; 2]) -> Vec<Option<Tensor<1>>> {
        vec![Some(Tensor::from_floats(g, &Device::flex()))]
    }

    #[test]
    fn steps_of_a_warm_up_are_as_long_as_the_schedule_says_also_after_a_break() {
        let lr = Schedule::WarmUp { lr: 1.0, n_steps: 4 };
        let config = OptimizerConfig { lr, ..OptimizerConfig::new(Rule::Sgd { momentum: 0.0 }, 0.0) };
        let (mut optimizer, mut net) = (Optimizer::new(config), weights([0.0, 8.0]));
        let mut after = Vec::new();
        for step in 0..6 {
            if step == 3 {
                let state = HostTensor { shape: vec![2], values: vec![0.0; 2] };
                optimizer = Optimizer::from_host(config, 3, &net, |_| Some(state.clone())).expect("a state");
            }
            net = optimizer.step(net, gradient([-1.0, 1.0]));
            after.push(values(&net));
        }
        // 0, 1/4, 2/4, 3/4, 1, 1, summed.
        let way = [0.0, 0.25, 0.75, 1.5, 2.5, 3.5];
        assert_eq!(after, way.map(|way| vec![way, 8.0 - way]));
    }

    #[test]
    fn the_first_step_of_a_warm_up_moves_no_weight_but_the_state_of_adam() {
        let lr = Schedule::WarmUp { lr: 1.0, n_steps: 4 };
        let mut optimizer = Optimizer::new(OptimizerConfig { lr, ..OptimizerConfig::default() });
        let net = optimizer.step(weights([3.0, -5.0]), gradient([2.0, 0.5]));
        assert_eq!(values(&net), [3.0, -5.0]);
        let state = optimizer.to_host(&[("w".into(), vec![2])]).expect("a state");
        let mean = &state.iter().find(|(name, _)| name == "exp_avg.w").expect("Adam's").1.values;
        // A tenth of the gradient, in f32.
        assert!((mean[0] - 0.2).abs() < 1e-7 && (mean[1] - 0.05).abs() < 1e-7, "{mean:?}");
    }

    #[test]
    fn gradients_are_clipped_to_their_global_norm() {
        let moved = |clip| {
            let config = OptimizerConfig { clip, ..OptimizerConfig::new(Rule::Sgd { momentum: 0.0 }, 1.0) };
            values(&Optimizer::new(config).step(weights([0.0; 2]), gradient([-3.0, 4.0])))
        };
        assert_eq!((moved(None), moved(Some(6.0))), (vec![3.0, -4.0], vec![3.0, -4.0]));
        // 2/(5 + 1e-6) of it, in f32.
        let clipped = moved(Some(2.0));
        assert!((clipped[0] - 1.2).abs() < 1e-6 && (clipped[1] + 1.6).abs() < 1e-6, "{clipped:?}");
        assert!(clipped[0].hypot(clipped[1]) < 2.0);
    }

    #[test]
    fn a_step_moves_the_average_as_an_update_of_its_own_would() {
        let rate = EmaRate::WarmedUp(0.5);
        let mut optimizer = Optimizer::new(OptimizerConfig::new(Rule::Sgd { momentum: 0.5 }, 0.25));
        let mut net = weights([1.0, -2.0]);
        let (mut fused, mut apart) = (Ema::new(rate, &net), Ema::new(rate, &net));
        for g in [[1.0, 2.0], [-3.0, 0.5], [0.25, 0.25]] {
            optimizer.advance(&mut net, gradient(g), Decision::Go { clip: 1.0 }, Some(&mut fused));
            apart.update(&net);
            for (a, b) in values(fused.module()).into_iter().zip(values(apart.module())) {
                // A product may be rounded by itself or with the sum.
                assert!((a - b).abs() <= 4e-7, "{a} and {b}");
            }
        }
        assert_eq!((fused.n_updates(), apart.n_updates()), (3, 3));
    }

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
