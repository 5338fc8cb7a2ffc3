//! A step of an optimiser: one kernel a parameter, in place where nobody else holds its numbers.

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{cubes, one_unit_each};
use crate::ops::optimizer::{N_PARTS, OptimizerOps, Primitives, Slot};
use crate::optimizer::{Formula, Step};

/// Numbers that a kernel may write over.
fn owned(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    if x.can_mut() { x } else { x.copy() }
}

/// The numbers of a step as they enter.
fn numbers(step: &Step) -> kernel::NumbersLaunch {
    let [clip, weight_decay, ema_rate, ema_share] =
        [step.clip, step.weight_decay, step.ema_rate, 1.0 - step.ema_rate].map(|x| x as f32);
    let ([decay0, decay1], [share0, share1], root_correction, eps, factor) = match Formula::new(step.rule) {
        Formula::Adam { decay, share, root_correction, eps, factor } => (decay, share, root_correction, eps, factor),
        Formula::RmsProp { decay, share, eps, factor } => ([decay, 0.0], [share, 0.0], 1.0, eps, factor),
        Formula::Sgd { decay, factor } => ([decay, 0.0], [1.0, 0.0], 1.0, 0.0, factor),
    };
    kernel::NumbersLaunch::new(
        clip,
        weight_decay,
        ema_rate,
        ema_share,
        decay0,
        decay1,
        share0,
        share1,
        root_correction,
        eps,
        factor,
    )
}

impl OptimizerOps for CubeBackend {
    fn optimizer_step(
        gradient: CubeTensor,
        parameter: Primitives<Self>,
        verdict: Slot<Self>,
        step: Step,
    ) -> Primitives<Self> {
        let (gradient, verdict) = (into_contiguous(gradient), verdict.into_option().map(into_contiguous));
        let Primitives { value, state0, state1, state2, shadow } = parameter;
        let value = owned(value);
        let [state0, state1, state2, shadow] =
            [state0, state1, state2, shadow].map(|slot| slot.into_option().map(owned));
        let n = gradient.shape().num_elements();
        if n > 0 {
            let (count, dim) = one_unit_each(&gradient, n);
            let n_states = [&state0, &state1, &state2].into_iter().flatten().count();
            let (has_shadow, has_verdict) = (shadow.is_some(), verdict.is_some());
            // In the place of what there is not is something that the kernel does not touch there.
            let arg = |tensor: Option<&CubeTensor>| tensor.unwrap_or(&gradient).clone().into_tensor_arg();
            let [grad, verdict, value, a, b, c, shadow] = [
                None,
                verdict.as_ref(),
                Some(&value),
                state0.as_ref(),
                state1.as_ref(),
                state2.as_ref(),
                shadow.as_ref(),
            ]
            .map(arg);
            let kind = kernel::Kind::new(step.rule);
            kernel::step::launch(
                &gradient.client,
                count,
                dim,
                grad,
                verdict,
                value,
                a,
                b,
                c,
                shadow,
                numbers(&step),
                kind,
                n_states,
                has_shadow,
                has_verdict,
            );
        }
        let [state0, state1, state2, shadow] = [state0, state1, state2, shadow].map(Slot::from);
        Primitives { value, state0, state1, state2, shadow }
    }

    fn parts_of_squares(parts: CubeTensor, x: CubeTensor, row: usize) -> CubeTensor {
        let (parts, x) = (owned(parts), into_contiguous(x));
        let (count, dim) = cubes(&x, N_PARTS);
        let arg = parts.clone().into_tensor_arg();
        kernel::parts_of_squares::launch(&parts.client, count, dim, x.into_tensor_arg(), arg, row);
        parts
    }
}

mod kernel {
    use cubecl::prelude::*;

    use crate::ops::gpu::{UNITS, sum_of_lane};
    use crate::ops::optimizer::N_PARTS;
    use crate::optimizer::Rule;

    #[cube(launch)]
    pub(super) fn parts_of_squares(x: &Tensor<f32>, parts: &mut Tensor<f32>, row: usize) {
        let part = CUBE_POS;
        if part >= N_PARTS {
            terminate!();
        }
        let mut sum = 0.0f32;
        let mut i = part * UNITS + UNIT_POS as usize;
        while i < x.len() {
            sum += x[i] * x[i];
            i += N_PARTS * UNITS;
        }
        let sum = sum_of_lane(sum, 1usize);
        if UNIT_POS == 0 {
            parts[row * N_PARTS + part] = sum;
        }
    }

    /// Which rule, without its numbers: there is a kernel for each.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(super) enum Kind {
        Adam,
        RmsProp,
        Sgd,
    }

    impl Kind {
        pub(super) fn new(rule: Rule) -> Self {
            match rule {
                Rule::Adam { .. } => Self::Adam,
                Rule::RmsProp { .. } => Self::RmsProp,
                Rule::Sgd { .. } => Self::Sgd,
            }
        }
    }

    #[derive(CubeType, CubeLaunch, Clone, Copy)]
    pub(super) struct Numbers {
        pub clip: f32,
        pub weight_decay: f32,
        pub ema_rate: f32,
        pub ema_share: f32,
        pub decay0: f32,
        pub decay1: f32,
        pub share0: f32,
        pub share1: f32,
        pub root_correction: f32,
        pub eps: f32,
        pub factor: f32,
    }

    /// The step of [`crate::optimizer::step`]. `verdict` is a factor of the gradient and whether the step is made.
    #[cube(launch)]
    pub(super) fn step(
        gradient: &Tensor<f32>,
        verdict: &Tensor<f32>,
        value: &mut Tensor<f32>,
        state0: &mut Tensor<f32>,
        state1: &mut Tensor<f32>,
        state2: &mut Tensor<f32>,
        shadow: &mut Tensor<f32>,
        numbers: &Numbers,
        #[comptime] kind: Kind,
        #[comptime] n_states: usize,
        #[comptime] has_shadow: bool,
        #[comptime] has_verdict: bool,
    ) {
        let i = ABSOLUTE_POS;
        if i >= gradient.len() {
            terminate!();
        }
        let mut clip = numbers.clip;
        if has_verdict {
            if verdict[1] == 0.0f32 {
                terminate!();
            }
            clip *= verdict[0];
        }
        let mut p = value[i];
        let g = gradient[i] * clip + p * numbers.weight_decay;
        if comptime!(kind == Kind::Adam) {
            let mean = state0[i] * numbers.decay0 + g * numbers.share0;
            let squares = state1[i] * numbers.decay1 + g * g * numbers.share1;
            state0[i] = mean;
            state1[i] = squares;
            let mut largest = squares;
            if comptime!(n_states == 3usize) {
                largest = state2[i].max(squares);
                state2[i] = largest;
            }
            p += mean / (largest.sqrt() / numbers.root_correction + numbers.eps) * numbers.factor;
        } else if comptime!(kind == Kind::RmsProp) {
            let squares = state0[i] * numbers.decay0 + g * g * numbers.share0;
            state0[i] = squares;
            p += g / (squares.sqrt() + numbers.eps) * numbers.factor;
        } else {
            let momentum = state0[i] * numbers.decay0 + g;
            state0[i] = momentum;
            p += momentum * numbers.factor;
        }
        value[i] = p;
        if has_shadow {
            shadow[i] = shadow[i] * numbers.ema_rate + p * numbers.ema_share;
        }
    }
}
