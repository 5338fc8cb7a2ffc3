//! Instance norms, variance norm and group norm of tensors, with the activation behind them in the same pass.

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{
    AutodiffBackend, Backend, Dispatch, Flex, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Int, Tensor};
use burn_flex::FlexTensor;

use super::again::{Waiting, again};
use super::optimizer::Slot;
use super::pixels::activate;
use super::{Order, by_pixels, has_kernels, is_cpu, made, made_images, whole};
use crate::cpu::Isa;
pub use crate::norm::Activation;
use crate::norm::{EPSILON, Kind, Norm, NormShape};

/// The activation of an instance norm or variance norm, see [`Kind`], and `x` itself, to be used beside the result.
///
/// What uses the second `x` gives its gradient to this norm's, which adds it in its own pass: Burn would add the two on one
/// thread. Whoever uses it must use the result too.
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`, as both results; `table`: `[levels, 3·channels]` with rows (γ, α, β), or
/// `[levels, 2·channels]` with rows (γ, β) for instance norm, or on the processor `[levels, channels]` for variance norm; `rows`: that of each image, `[batch]`.
///
/// # Panics
/// If shapes do not fit together, `x` is not [for the kernels](has_kernels), norm++ has one channel, or, on the processor, there is no
/// such row.
pub fn instance_norm(x: Tensor<4>, table: Tensor<2>, rows: Tensor<1, Int>, activation: Activation) -> [Tensor<4>; 2] {
    assert!(has_kernels(&x), "found {:?}, expected f32", x.dtype());
    let ([n, c, ..], [_, columns]) = (x.dims(), table.dims());
    let kind = kind_of(columns, c);
    assert!(kind != Kind::InstancePlus || c > 1, "found one channel, expected several for instance norm++");
    assert!(kind != Kind::Variance || is_cpu(&x.device()), "variance norm has kernels on the processor only");
    assert_eq!(rows.dims(), [n], "rows of {n} images");
    if !activation.has_kernel_on(&x.device()) {
        let [out, x] = instance_norm(x, table, rows, Activation::None);
        return [activate(out, activation), x];
    }
    normalised(x, table, rows, Setting { kind, epsilon: EPSILON, activation })
}

/// The activation of group norm, and `x` itself, to be used beside the result as that of [`instance_norm`].
///
/// # Shapes
/// `x`: `[batch, channels, h, w]`, as both results; `gamma`, `beta`: `[channels]`
///
/// # Panics
/// If shapes do not fit together, the groups do not divide the channels, or `x` is not f32 on the processor.
pub fn group_norm(
    x: Tensor<4>,
    [gamma, beta]: [Tensor<1>; 2],
    n_groups: usize,
    epsilon: f32,
    activation: Activation,
) -> [Tensor<4>; 2] {
    assert!(has_kernels(&x) && is_cpu(&x.device()), "group norm has kernels for f32 on the processor only");
    let [n, c, ..] = x.dims();
    assert_eq!([gamma.dims(), beta.dims()], [[c]; 2], "scales and shifts of {c} channels");
    let rows = Tensor::zeros([n], &x.device());
    let table = Tensor::cat(vec![gamma, beta], 0).unsqueeze();
    normalised(x, table, rows, Setting { kind: Kind::Group { n_groups }, epsilon, activation })
}

fn normalised(x: Tensor<4>, table: Tensor<2>, rows: Tensor<1, Int>, setting: Setting) -> [Tensor<4>; 2] {
    let (x, table, rows) = (x.into_dispatch(), table.into_dispatch(), rows.into_dispatch());
    let (out, x, _) = <Dispatch as NormOps>::normalise(x, table, rows, setting);
    [out, x].map(Tensor::from_dispatch)
}

/// A norm without its parameters, and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub(super) kind: Kind,
    pub(super) epsilon: f32,
    pub(super) activation: Activation,
}

/// What a backend has for norms; a GPU has instance norms.
#[backend_extension(Flex, Cube: cfg(feature = "gpu"), Autodiff)]
pub trait NormOps: Backend {
    /// The output, the input again, and statistics for the gradients.
    fn normalise(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        setting: Setting,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gradients for x, to which `more` is added, and for the table.
    fn normalise_backward(
        x: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        table: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        #[extension_type] more: Slot<Self>,
        rows: IntTensor<Self>,
        setting: Setting,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// The norm that a table stands for, of images of these sizes.
fn norm_of<'a>([n, c, h, w]: [usize; 4], table: &'a FlexTensor, rows: &'a [usize], setting: Setting) -> Norm<'a> {
    let Setting { kind, epsilon, activation } = setting;
    Norm { shape: NormShape { n, c, pixels: h * w }, kind, table: table.storage(), rows, epsilon, activation }
}

/// Which norm has a table of so many columns.
fn kind_of(columns: usize, n_channels: usize) -> Kind {
    let kinds = [Kind::Instance, Kind::InstancePlus, Kind::Variance];
    let found = kinds.into_iter().find(|kind| kind.n_columns() * n_channels == columns);
    found.unwrap_or_else(|| panic!("a table of {columns} columns for {n_channels} channels"))
}

/// The numbers of rows of `table`.
pub(super) fn numbers_of_rows(rows: FlexTensor, table: &FlexTensor) -> Vec<usize> {
    let [n_rows, _] = table.layout().shape().dims();
    let number = |row: i64| usize::try_from(row).ok().filter(|&row| row < n_rows);
    let checked = |row| number(row).unwrap_or_else(|| panic!("found row {row} of a table of {n_rows}"));
    let rows = whole(rows);
    match rows.dtype() {
        DType::I32 => rows.storage::<i32>().iter().map(|&row| checked(i64::from(row))).collect(),
        _ => rows.into_data().iter().map(checked).collect(),
    }
}

impl NormOps for Flex {
    fn normalise(
        x: FlexTensor,
        table: FlexTensor,
        rows: FlexTensor,
        setting: Setting,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let (order, table) = (Order::of(&x), whole(table));
        let x = by_pixels(x);
        let dims: [usize; 4] = x.layout().shape().dims();
        let [n, c, ..] = dims;
        let rows = numbers_of_rows(rows, &table);
        let norm = norm_of(dims, &table, &rows, setting);
        let mut out = None;
        let statistics = made([n, 2, c], |statistics| {
            out = Some(made_images(order, dims, |out| norm.forward(Isa::chosen(), x.storage(), statistics, out)));
        });
        (out.expect("set above"), x, statistics)
    }

    fn normalise_backward(
        x: FlexTensor,
        grad: FlexTensor,
        table: FlexTensor,
        statistics: FlexTensor,
        more: Slot<Self>,
        rows: FlexTensor,
        setting: Setting,
    ) -> (FlexTensor, FlexTensor) {
        let order = Order::of(&x);
        let ([x, grad], [table, statistics]) = ([x, grad].map(by_pixels), [table, statistics].map(whole));
        let more = more.into_option().map(by_pixels);
        let dims = x.layout().shape().dims();
        let rows = numbers_of_rows(rows, &table);
        let norm = norm_of(dims, &table, &rows, setting);
        let mut grad_x = None;
        let grad_table = made(table.shape().dims::<2>(), |grad_table| {
            let (x, grad, more) = (x.storage(), grad.storage(), more.as_ref().map(FlexTensor::storage));
            grad_x = Some(made_images(order, dims, |grad_x| {
                norm.backward(Isa::chosen(), x, statistics.storage(), grad, more, grad_table, grad_x);
            }));
        });
        (grad_x.expect("set above"), grad_table)
    }
}

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn normalise(
        x: FloatTensor<Self>,
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        setting: Setting,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        #[derive(Debug)]
        struct NormStep;
        impl<B: NormOps> Backward<B, 2> for NormStep {
            type State = ([FloatTensor<B>; 3], IntTensor<B>, Waiting<B>, Setting);
            fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([x, table, statistics], rows, more, setting) = ops.state;
                let more = more.take().into();
                let (x, table) = B::normalise_backward(x, grad, table, statistics, more, rows, setting);
                for (node, grad) in ops.parents.into_iter().zip([x, table]) {
                    if let Some(node) = node {
                        grads.register::<B>(node.id, grad);
                    }
                }
            }
        }
        let nodes = [x.node(), table.node()];
        let (x, table) = (x.into_primitive(), table.into_primitive());
        let (out, x, statistics) = B::normalise(x, table.clone(), rows.clone(), setting);
        let constant = Autodiff::<B, C>::from_inner(statistics.clone());
        let waiting = Waiting::<B>::new();
        let out = match NormStep.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                prep.finish(([x.clone(), table, statistics], rows, waiting.clone(), setting), out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        };
        let again = again::<B, C>(x, &out, waiting);
        (out, again, constant)
    }

    fn normalise_backward(
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: FloatTensor<Self>,
        _: Slot<Self>,
        _: IntTensor<Self>,
        _: Setting,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        unreachable!("first-order gradients only")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.try_into_vec_as().expect("f32")
    }

    fn numbers<const D: usize>(shape: [usize; D], scale: f32, device: &Device) -> Tensor<D> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    fn row_numbers(rows: &[i64], device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(TensorData::new(rows.to_vec(), [rows.len()]), device)
    }

    #[test]
    fn the_gradient_of_an_input_used_twice_is_the_sum_and_that_of_a_row_the_sum_over_its_images() {
        let device = Device::flex().autodiff();
        let (shape, rows) = ([3, 4, 5, 2], [1, 0, 1]);
        let table = numbers([2, 12], 1.5, &device).require_grad();
        let weights = [numbers(shape, 0.7, &device), numbers(shape, -0.4, &device) + 0.3];
        // The second use: through the tensor that the norm gives back, or beside the norm, where Burn adds.
        let gradients = |again: bool| {
            let x = numbers(shape, 2.0, &device).require_grad();
            let [out, same] = instance_norm(x.clone(), table.clone(), row_numbers(&rows, &device), Activation::Elu);
            let beside = if again { same } else { x.clone() };
            let [a, b] = weights.clone();
            let loss = (out * a).sum() + (beside.square() * b).sum();
            let gradients = loss.backward();
            (values(x.grad(&gradients).expect("a gradient")), values(table.grad(&gradients).expect("a gradient")))
        };
        let (x, of_table) = gradients(true);
        let (x_by_burn, same_table) = gradients(false);
        assert_eq!(of_table, same_table);
        for (found, expected) in x.iter().zip(&x_by_burn) {
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{found}, not {expected}");
        }
        // One image at a time: the gradients of a row's images add up, in their order.
        let mut sums = vec![0.0f32; 24];
        for (image, &row) in rows.iter().enumerate() {
            let x = numbers(shape, 2.0, &device).narrow(0, image, 1).require_grad();
            let [out, _] = instance_norm(x, table.clone(), row_numbers(&[row], &device), Activation::Elu);
            let [a, _] = weights.clone();
            let gradients = (out * a.narrow(0, image, 1)).sum().backward();
            let of_image = values(table.grad(&gradients).expect("a gradient"));
            sums.iter_mut().zip(of_image).for_each(|(sum, x)| *sum += x);
        }
        assert_eq!(of_table, sums);
    }

    #[test]
    fn a_norm_of_which_only_the_output_is_used_has_its_own_gradient() {
        let device = Device::flex().autodiff();
        let x = numbers([1, 2, 3, 3], 2.0, &device).require_grad();
        let table = Tensor::from_data(TensorData::new(vec![1.0f32, 2.0, 0.5, -0.5], [1, 4]), &device);
        let [out, _] = instance_norm(x.clone(), table, row_numbers(&[0], &device), Activation::None);
        let weights = numbers([1, 2, 3, 3], 1.0, &device).exp();
        let gradients = (out * weights).sum().backward();
        let gradient = values(x.grad(&gradients).expect("a gradient"));
        // A norm takes the mean away.
        let sum: f32 = gradient[..9].iter().sum();
        assert!(sum.abs() < 1e-5 && gradient.iter().any(|g| g.abs() > 1e-3), "{gradient:?}");
    }
}
