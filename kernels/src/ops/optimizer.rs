//! Steps of optimisers on tensors, in place where nobody else holds them.

use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Bool, Tensor};
use burn_flex::FlexTensor;

use super::{composed, is_for_kernels, whole};
use crate::cpu::Isa;
use crate::optimizer::{self, Step};

/// A parameter and all that belongs to it, each `[n]` and without gradients of its own.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The weights.
    pub value: Tensor<1>,
    /// The states of the rule, in its order.
    pub state: Vec<Tensor<1>>,
    /// The moving average of the weights, if there is one.
    pub shadow: Option<Tensor<1>>,
}

/// What is decided about a step on the device, without the host.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Factor of gradients beside the step's own, `[1]`.
    pub clip: Tensor<1>,
    /// Whether the step is made, `[1]`.
    pub go: Tensor<1, Bool>,
}

/// The parameter after a step against its `gradient`, `[n]`. See [`optimizer::step`].
///
/// # Panics
/// If shapes differ, or the states are not those of the rule.
pub fn step(step: &Step, gradient: Tensor<1>, parameter: Parameter) -> Parameter {
    if !is_for_kernels(&gradient) {
        return composed::step(step, gradient, parameter);
    }
    let Parameter { value, state, shadow } = parameter;
    assert!(state.len() <= 3, "found {} states, expected at most 3", state.len());
    let mut state = state.into_iter().map(Tensor::into_dispatch);
    let before = Primitives {
        value: value.into_dispatch(),
        state0: state.next().into(),
        state1: state.next().into(),
        state2: state.next().into(),
        shadow: shadow.map(Tensor::into_dispatch).into(),
    };
    let after = <Dispatch as OptimizerOps>::optimizer_step(gradient.into_dispatch(), before, *step);
    let tensor = Tensor::from_dispatch;
    Parameter {
        value: tensor(after.value),
        state: [after.state0, after.state1, after.state2]
            .into_iter()
            .filter_map(Slot::into_option)
            .map(tensor)
            .collect(),
        shadow: after.shadow.into_option().map(tensor),
    }
}

/// [`step()`] if the verdict is to go, the same parameter otherwise. Made of tensor operations, on every device.
///
/// # Panics
/// As [`step()`].
pub fn step_if(verdict: &Verdict, step: &Step, gradient: Tensor<1>, parameter: Parameter) -> Parameter {
    let before = parameter.clone();
    let after = composed::step(step, gradient * verdict.clip.clone(), parameter);
    let choose = |after: Tensor<1>, before: Tensor<1>| chosen(&verdict.go, after, before);
    Parameter {
        value: choose(after.value, before.value),
        state: after.state.into_iter().zip(before.state).map(|(after, before)| choose(after, before)).collect(),
        shadow: after.shadow.zip(before.shadow).map(|(after, before)| choose(after, before)),
    }
}

/// `after` if to go, else `before`: `[n]`, whatever is in the other, also if that is not finite.
pub fn chosen(go: &Tensor<1, Bool>, after: Tensor<1>, before: Tensor<1>) -> Tensor<1> {
    let go = go.clone().expand(after.dims());
    before.mask_where(go, after)
}

/// The sum of squares, of a tensor of the processor. See [`optimizer::sum_of_squares`].
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> f64 {
    <Dispatch as OptimizerOps>::sum_of_squares(x.into_dispatch())
}

/// A tensor of a backend, or none: extensions know enums, but no [`Option`].
#[derive(Debug, ExtensionType)]
pub enum Slot<B: Backend> {
    /// None.
    Empty,
    /// One.
    Full(FloatTensor<B>),
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Slot<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        tensor.map_or(Slot::Empty, Slot::Full)
    }
}

impl<B: Backend> Slot<B> {
    /// The tensor, if there is one.
    pub fn into_option(self) -> Option<FloatTensor<B>> {
        match self {
            Slot::Empty => None,
            Slot::Full(tensor) => Some(tensor),
        }
    }
}

/// A [`Parameter`] in a backend's own tensors.
#[derive(Debug, ExtensionType)]
pub struct Primitives<B: Backend> {
    /// The weights.
    pub value: FloatTensor<B>,
    /// The first state of the rule.
    #[extension_type]
    pub state0: Slot<B>,
    /// The second.
    #[extension_type]
    pub state1: Slot<B>,
    /// The third.
    #[extension_type]
    pub state2: Slot<B>,
    /// The moving average.
    #[extension_type]
    pub shadow: Slot<B>,
}

/// What a backend has for optimisers.
#[backend_extension(Flex)]
pub trait OptimizerOps: Backend {
    /// The parameter after a step.
    fn optimizer_step(
        gradient: FloatTensor<Self>,
        #[extension_type] parameter: Primitives<Self>,
        step: Step,
    ) -> Primitives<Self>;

    /// The sum of squares.
    fn sum_of_squares(x: FloatTensor<Self>) -> f64;
}

impl OptimizerOps for Flex {
    fn optimizer_step(gradient: FlexTensor, parameter: Primitives<Self>, step: Step) -> Primitives<Self> {
        let gradient = whole(gradient);
        let Primitives { value, state0, state1, state2, shadow } = parameter;
        let mut value = whole(value);
        let [mut state0, mut state1, mut state2, mut shadow] =
            [state0, state1, state2, shadow].map(|slot| slot.into_option().map(whole));
        let numbers = optimizer::Parameter {
            value: value.storage_mut(),
            state: [numbers(&mut state0), numbers(&mut state1), numbers(&mut state2)],
            shadow: numbers(&mut shadow),
        };
        optimizer::step(Isa::chosen(), &step, gradient.storage(), numbers);
        let [state0, state1, state2, shadow] = [state0, state1, state2, shadow].map(Slot::from);
        Primitives { value, state0, state1, state2, shadow }
    }

    fn sum_of_squares(x: FlexTensor) -> f64 {
        optimizer::sum_of_squares(Isa::chosen(), whole(x).storage())
    }
}

/// The numbers of a tensor, a copy of its own if others hold them too; none of no tensor.
fn numbers(tensor: &mut Option<FlexTensor>) -> &mut [f32] {
    tensor.as_mut().map_or(&mut [], FlexTensor::storage_mut)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::optimizer::Rule;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn values(tensor: Tensor<1>) -> Vec<f32> {
        tensor.try_into_vec_as().expect("f32")
    }

    #[test]
    fn a_step_on_tensors_is_that_on_slices_and_leaves_other_holders_alone() {
        let (start, gradient) = ([1.0, -2.0, 3.0], [0.5, 0.25, -1.0]);
        let step_of = Step {
            rule: Rule::Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, t: 1 },
            clip: 0.5,
            weight_decay: 0.1,
            ema_rate: 0.9,
        };
        let (mut value, mut shadow, mut m, mut v) = (start, start, [0.0; 3], [0.0; 3]);
        let state = [&mut m[..], &mut v, &mut []];
        let numbers = optimizer::Parameter { value: &mut value, state, shadow: &mut shadow };
        optimizer::step(Isa::chosen(), &step_of, &gradient, numbers);

        let held = tensor(&start);
        let before = Parameter {
            value: held.clone(),
            state: vec![tensor(&[0.0; 3]), tensor(&[0.0; 3])],
            shadow: Some(held.clone()),
        };
        let after = step(&step_of, tensor(&gradient), before);
        assert_eq!(values(after.value), value);
        assert_eq!(after.state.into_iter().map(values).collect::<Vec<_>>(), [m, v]);
        assert_eq!(values(after.shadow.expect("a shadow")), shadow);
        assert_eq!(values(held), start);
    }

    #[test]
    fn a_step_made_of_tensor_operations_is_that_of_the_kernel() {
        let rules = [
            (Rule::Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, t: 3 }, 2),
            (Rule::Adam { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, t: 3 }, 3),
            (Rule::RmsProp { lr: 0.1, alpha: 0.9, eps: 1e-8 }, 1),
            (Rule::Sgd { lr: 0.1, momentum: 0.9 }, 1),
        ];
        let verdict = |clip: f32, go| Verdict { clip: tensor(&[clip]), go: Tensor::from_bool([go], &Device::flex()) };
        for (rule, n_states) in rules {
            let (gradient, one) = ([0.5, 0.25, -1.0], tensor(&[1.0, 4.0, 0.5]));
            let before = Parameter {
                value: tensor(&[1.0, -2.0, 3.0]),
                state: vec![one.clone(); n_states],
                shadow: Some(one.clone()),
            };
            let step_of = |clip| Step { rule, clip, weight_decay: 0.1, ema_rate: 0.9 };
            let all = |p: Parameter| {
                p.state.into_iter().chain([p.value]).chain(p.shadow).flat_map(values).collect::<Vec<f32>>()
            };
            let expected = all(step(&step_of(0.5), tensor(&gradient), before.clone()));
            let found = all(step_if(&verdict(0.5, true), &step_of(1.0), tensor(&gradient), before.clone()));
            // Roundings of a few operations more or less.
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found} {expected} {rule:?}");
            }
            let not_finite = tensor(&[f32::NAN, f32::INFINITY, 1.0]);
            let stays = all(step_if(&verdict(1.0, false), &step_of(1.0), not_finite, before.clone()));
            assert_eq!(stays, all(before), "{rule:?}");
        }
    }

    #[test]
    fn a_tensor_that_nobody_else_holds_is_changed_in_place() {
        let address = |x: &Tensor<1>| match x.clone().into_dispatch().kind {
            burn::backend::DispatchTensorKind::Flex(x) => x.float().storage::<f32>().as_ptr(),
            _ => panic!("a tensor of the processor"),
        };
        let rule = Rule::Sgd { lr: 0.1, momentum: 0.9 };
        let step_of = Step { rule, clip: 1.0, weight_decay: 0.0, ema_rate: 0.9 };
        let [value, momentum, shadow] = [1.0, 2.0, 3.0].map(|x| tensor(&[x; 100]));
        let before = [&value, &momentum, &shadow].map(address);
        let parameter = Parameter { value, state: vec![momentum], shadow: Some(shadow) };
        let Parameter { value, state, shadow } = step(&step_of, tensor(&[1.0; 100]), parameter);
        assert_eq!([&value, &state[0], &shadow.expect("a shadow")].map(address), before);
    }

    #[test]
    fn the_sum_of_squares_is_that_of_the_tensors_own_numbers() {
        let x = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::flex());
        assert_eq!(sum_of_squares(x.clone()), 91.0);
        assert_eq!(sum_of_squares(x.clone().transpose()), 91.0);
        assert_eq!(sum_of_squares(x.slice([0..2, 1..2])), 29.0);
    }
}
