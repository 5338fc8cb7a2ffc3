//! Steps of optimisers on tensors, in place where nobody else holds them.

use burn::backend::{Backend, Dispatch, ExtensionType, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Bool, Device, Tensor};
use burn_flex::FlexTensor;

use super::{has_kernels, is_cpu, whole};
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

/// What is decided about a step on a GPU, without the host: a factor of the gradients beside the step's own, and whether the step
/// is made.
#[derive(Clone, Debug)]
pub struct Verdict(Tensor<1>);

impl Verdict {
    /// Of `clip` and `go`, `[1]` each.
    pub fn new(clip: Tensor<1>, go: Tensor<1, Bool>) -> Self {
        Self(Tensor::cat(vec![clip, go.float()], 0))
    }

    /// `after` if to go, else `before`: `[n]`, whatever is in the other, also if that is not finite.
    pub fn choose(&self, after: Tensor<1>, before: Tensor<1>) -> Tensor<1> {
        let go = self.0.clone().narrow(0, 1, 1).expand(after.dims()).equal_elem(1.0);
        before.mask_where(go, after)
    }
}

/// Parameters, all on one device, after a step against their gradients, `[n]` each, see [`optimizer::step`]; the same parameters if
/// the verdict, which only a GPU takes, is not to go.
///
/// # Panics
/// If shapes differ, or the states are not those of the rule, or numbers are not f32.
pub fn step(step: &Step, verdict: Option<&Verdict>, parameters: Vec<(Tensor<1>, Parameter)>) -> Vec<Parameter> {
    for (gradient, Parameter { value, state, shadow }) in &parameters {
        assert!(step.rule.takes(state.len()), "{} states of {:?}", state.len(), step.rule);
        for x in state.iter().chain([gradient, value]).chain(shadow) {
            assert!(has_kernels(x), "found {:?}, expected f32", x.dtype());
            assert_eq!(x.dims(), value.dims(), "lengths of a parameter and what belongs to it");
        }
    }
    match parameters.first().is_some_and(|(gradient, _)| is_cpu(&gradient.device())) {
        true => {
            assert!(verdict.is_none(), "found a verdict, which only GPUs take");
            step_on_cpu(step, parameters)
        }
        false => parameters
            .into_iter()
            .map(|(gradient, parameter)| step_on_gpu(step, verdict, gradient, parameter))
            .collect(),
    }
}

fn step_on_cpu(step: &Step, parameters: Vec<(Tensor<1>, Parameter)>) -> Vec<Parameter> {
    struct Held {
        gradient: FlexTensor,
        value: FlexTensor,
        state: Vec<FlexTensor>,
        shadow: Option<FlexTensor>,
    }
    let held = |(gradient, Parameter { value, state, shadow })| Held {
        gradient: of_cpu(gradient),
        value: of_cpu(value),
        state: state.into_iter().map(of_cpu).collect(),
        shadow: shadow.map(of_cpu),
    };
    let mut parameters: Vec<Held> = parameters.into_iter().map(held).collect();
    let numbers = parameters.iter_mut().map(|Held { gradient, value, state, shadow }| {
        let mut state = state.iter_mut();
        // Numbers that others hold too are copied.
        let parameter = optimizer::Parameter {
            value: value.storage_mut(),
            state: [(); 3].map(|()| state.next().map_or(&mut [][..], FlexTensor::storage_mut)),
            shadow: shadow.as_mut().map_or(&mut [], FlexTensor::storage_mut),
        };
        (gradient.storage(), parameter)
    });
    optimizer::step(Isa::chosen(), step, numbers);
    let tensor = Tensor::from_primitive::<Flex>;
    let after = |Held { value, state, shadow, .. }| Parameter {
        value: tensor(value),
        state: state.into_iter().map(tensor).collect(),
        shadow: shadow.map(tensor),
    };
    parameters.into_iter().map(after).collect()
}

/// A tensor of the processor, without gradients of its own.
fn of_cpu<const D: usize>(x: Tensor<D>) -> FlexTensor {
    whole(x.try_into_primitive::<Flex>().expect("a tensor of the processor without gradients"))
}

fn step_on_gpu(step: &Step, verdict: Option<&Verdict>, gradient: Tensor<1>, parameter: Parameter) -> Parameter {
    let Parameter { value, state, shadow } = parameter;
    let mut state = state.into_iter().map(Tensor::into_dispatch);
    let before = Primitives {
        value: value.into_dispatch(),
        state0: state.next().into(),
        state1: state.next().into(),
        state2: state.next().into(),
        shadow: shadow.map(Tensor::into_dispatch).into(),
    };
    let verdict = verdict.map(|verdict| verdict.0.clone().into_dispatch()).into();
    let after = <Dispatch as OptimizerOps>::optimizer_step(gradient.into_dispatch(), before, verdict, *step);
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

/// The sum of squares of each of some tensors of the processor, 0 of none. See [`optimizer::sums_of_squares`].
///
/// # Panics
/// If numbers are not f32, or a GPU's.
pub fn sums_of_squares(xs: &[Option<Tensor<1>>]) -> Vec<f64> {
    let xs: Vec<_> = xs.iter().map(|x| x.clone().map(of_cpu)).collect();
    let numbers: Vec<&[f32]> = xs.iter().map(|x| x.as_ref().map_or(&[][..], FlexTensor::storage)).collect();
    optimizer::sums_of_squares(Isa::chosen(), &numbers)
}

/// The sum of squares of each of some tensors of one GPU, `[xs.len()]`, on it: nobody waits for it. 0 of none.
///
/// # Panics
/// If numbers are not f32, or the processor's.
pub fn sums_of_squares_on_gpu(xs: &[Option<Tensor<1>>], device: &Device) -> Tensor<1> {
    assert!(xs.iter().flatten().all(|x| has_kernels(x) && !is_cpu(&x.device())), "expected f32 of a GPU");
    let mut parts = Tensor::<2>::zeros([xs.len(), N_PARTS], device).into_dispatch();
    for (row, x) in xs.iter().enumerate() {
        if let Some(x) = x {
            parts = <Dispatch as OptimizerOps>::parts_of_squares(parts, x.clone().into_dispatch(), row);
        }
    }
    Tensor::<2>::from_dispatch(parts).sum_dim(1).reshape([xs.len()])
}

/// Parts into which a tensor is cut, whose sums are found side by side.
pub(super) const N_PARTS: usize = 64;

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

/// What GPUs have for optimisers. The processor's parameters are no backend's own: all of them are changed in one pass.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"))]
pub trait OptimizerOps: Backend {
    /// See [`step()`].
    fn optimizer_step(
        gradient: FloatTensor<Self>,
        #[extension_type] parameter: Primitives<Self>,
        #[extension_type] verdict: Slot<Self>,
        step: Step,
    ) -> Primitives<Self>;

    /// `parts`, `[rows, N_PARTS]`, in whose row `row` are the sums of squares of parts of `x`.
    fn parts_of_squares(parts: FloatTensor<Self>, x: FloatTensor<Self>, row: usize) -> FloatTensor<Self>;
}

impl OptimizerOps for Flex {
    fn optimizer_step(_: FlexTensor, _: Primitives<Self>, _: Slot<Self>, _: Step) -> Primitives<Self> {
        unreachable!("the processor's parameters go together")
    }

    fn parts_of_squares(_: FlexTensor, _: FlexTensor, _: usize) -> FlexTensor {
        unreachable!("the processor's numbers are waited for")
    }
}

#[cfg(test)]
mod tests {
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
        optimizer::step(Isa::chosen(), &step_of, [(&gradient[..], numbers)]);

        let held = tensor(&start);
        let before = Parameter {
            value: held.clone(),
            state: vec![tensor(&[0.0; 3]), tensor(&[0.0; 3])],
            shadow: Some(held.clone()),
        };
        let [after] = step(&step_of, None, vec![(tensor(&gradient), before)]).try_into().expect("one parameter");
        assert_eq!(values(after.value), value);
        assert_eq!(after.state.into_iter().map(values).collect::<Vec<_>>(), [m, v]);
        assert_eq!(values(after.shadow.expect("a shadow")), shadow);
        assert_eq!(values(held), start);
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
        let after = step(&step_of, None, vec![(tensor(&[1.0; 100]), parameter)]);
        let [Parameter { value, state, shadow }] = after.try_into().expect("one parameter");
        assert_eq!([&value, &state[0], &shadow.expect("a shadow")].map(address), before);
    }

    #[test]
    fn sums_of_squares_are_those_of_the_tensors_own_numbers() {
        let row = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let column = row.clone().reshape([2, 3]).slice([0..2, 1..2]).reshape([2]);
        let xs = [Some(row.clone()), None, Some(column), Some(row.narrow(0, 1, 2))];
        assert_eq!(sums_of_squares(&xs), [91.0, 0.0, 29.0, 13.0]);
    }
}
