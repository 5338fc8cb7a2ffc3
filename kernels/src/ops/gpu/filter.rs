//! Separable filters: a unit for each output pixel, which sums over its few input pixels.

use std::sync::{Mutex, PoisonError};

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Shape, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use super::{one_unit_each, unset};
use crate::filter::Filter;

/// R·x·Cᵀ for each channel.
pub(crate) fn separable(x: Tensor<4>, rows: &Filter, columns: &Filter) -> Tensor<4> {
    let device = x.device().without_autodiff();
    let there = [rows, columns].map(|filter| table(filter, &device).into_dispatch());
    // The gradient's filters.
    let back = [rows, columns].map(|filter| table(&filter.transposed(), &device).into_dispatch());
    let sizes = [[rows.n_in(), columns.n_in()], [rows.n_out(), columns.n_out()]];
    let ([rows, columns], [rows_back, columns_back]) = (there, back);
    Tensor::from_dispatch(<Dispatch as GpuFilterOps>::gpu_separable(
        x.into_dispatch(),
        rows,
        columns,
        rows_back,
        columns_back,
        sizes,
    ))
}

/// The filter on the device: for each output pixel, where its input pixels begin, how many there are, and their weights. A
/// network has a handful of filters, which stay there.
fn table(filter: &Filter, device: &Device) -> Tensor<2> {
    static TABLES: Mutex<Vec<(Device, Filter, Tensor<2>)>> = Mutex::new(Vec::new());
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., table)) = tables.iter().find(|(place, known, _)| place == device && known == filter) {
        return table.clone();
    }
    let longest = filter.bands().map(|(_, weights)| weights.len()).max().unwrap_or(0);
    let mut values = Vec::with_capacity(filter.n_out() * (longest + 2));
    for (first, weights) in filter.bands() {
        values.extend([first as f32, weights.len() as f32]);
        values.extend(weights);
        values.extend(std::iter::repeat_n(0.0, longest - weights.len()));
    }
    let table = Tensor::from_data(TensorData::new(values, [filter.n_out(), longest + 2]), device);
    tables.push((device.clone(), filter.clone(), table.clone()));
    table
}

/// What a backend on a GPU has for filters.
#[backend_extension(Cube, Autodiff)]
pub trait GpuFilterOps: Backend {
    /// See [`separable`]; the filters as [`table`]s, those of the gradient last, and the sizes of an input and of an output.
    fn gpu_separable(
        x: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        columns: FloatTensor<Self>,
        rows_back: FloatTensor<Self>,
        columns_back: FloatTensor<Self>,
        sizes: [[usize; 2]; 2],
    ) -> FloatTensor<Self>;
}

fn shape_of_output(x: &Shape, [_, [h, w]]: &[[usize; 2]; 2]) -> Shape {
    [x[0], x[1], *h, *w].into()
}

impl GpuFilterOps for CubeBackend {
    fn gpu_separable(
        x: CubeTensor,
        rows: CubeTensor,
        columns: CubeTensor,
        _: CubeTensor,
        _: CubeTensor,
        sizes: [[usize; 2]; 2],
    ) -> CubeTensor {
        let [x, rows, columns] = [x, rows, columns].map(into_contiguous);
        let shape = shape_of_output(&x.shape(), &sizes);
        let out = unset(&x, shape.clone());
        let n = shape.num_elements();
        if n == 0 {
            return out;
        }
        let (count, dim) = one_unit_each(&x, n);
        let [[h, w], [h_out, w_out]] = sizes;
        kernel::filter_planes::launch(
            &out.client.clone(),
            count,
            dim,
            x.into_tensor_arg(),
            rows.into_tensor_arg(),
            columns.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            h,
            w,
            h_out,
            w_out,
        );
        out
    }
}

impl<B: GpuFilterOps, C: CheckpointStrategy> GpuFilterOps for Autodiff<B, C> {
    fn gpu_separable(
        x: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        columns: FloatTensor<Self>,
        rows_back: FloatTensor<Self>,
        columns_back: FloatTensor<Self>,
        sizes: [[usize; 2]; 2],
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct SeparableStep;
        impl<B: GpuFilterOps> Backward<B, 1> for SeparableStep {
            type State = ([FloatTensor<B>; 4], [[usize; 2]; 2]);
            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let grad = grads.consume::<B>(&ops.node);
                let ([rows, columns, rows_back, columns_back], [size_in, size_out]) = ops.state;
                if let [Some(node)] = ops.parents {
                    let sizes = [size_out, size_in];
                    let grad = B::gpu_separable(grad, rows_back, columns_back, rows, columns, sizes);
                    grads.register::<B>(node.id, grad);
                }
            }
        }
        let prep = SeparableStep.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let tables = [rows, columns, rows_back, columns_back].map(|table| table.into_primitive());
        let [rows, columns, rows_back, columns_back] = tables.clone();
        let out = B::gpu_separable(x, rows, columns, rows_back, columns_back, sizes);
        match prep {
            OpsKind::Tracked(prep) => prep.finish((tables, sizes), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

mod kernel {
    use cubecl::prelude::*;

    #[cube(launch)]
    pub(super) fn filter_planes(
        x: &Tensor<f32>,
        rows: &Tensor<f32>,
        columns: &Tensor<f32>,
        out: &mut Tensor<f32>,
        h: usize,
        w: usize,
        h_out: usize,
        w_out: usize,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let (plane, pixel) = (place / (h_out * w_out), place % (h_out * w_out));
        let row = (pixel / w_out) * rows.stride(0);
        let column = (pixel % w_out) * columns.stride(0);
        let (first_row, n_rows) = (usize::cast_from(rows[row]), usize::cast_from(rows[row + 1]));
        let (first_column, n_columns) = (usize::cast_from(columns[column]), usize::cast_from(columns[column + 1]));
        let mut sum = 0.0f32;
        for i in 0..n_rows {
            let begin = plane * h * w + (first_row + i) * w + first_column;
            let mut sum_of_row = 0.0f32;
            for j in 0..n_columns {
                sum_of_row += x[begin + j] * columns[column + 2 + j];
            }
            sum += sum_of_row * rows[row + 2 + i];
        }
        out[place] = sum;
    }
}
