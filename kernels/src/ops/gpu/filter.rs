//! Separable filters: a unit for each output pixel of a channel, which sums over its few input pixels.

use std::sync::{Mutex, PoisonError};

use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn::tensor::TensorData;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use super::{laid_out, laid_out_unset, one_unit_each};
use crate::filter::Filter;
use crate::ops::pixels::FilterOps;

/// The filter on the device: for each output pixel, where its input pixels begin, how many there are, and their weights. A
/// network has a handful of filters, which stay there.
fn table(filter: &Filter, device: &CubeDevice) -> CubeTensor {
    static TABLES: Mutex<Vec<(CubeDevice, Filter, CubeTensor)>> = Mutex::new(Vec::new());
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
    let values = TensorData::new(values, [filter.n_out(), longest + 2]);
    let table = into_contiguous(CubeBackend::float_from_data(values, device));
    tables.push((device.clone(), filter.clone(), table.clone()));
    table
}

impl FilterOps for CubeBackend {
    fn separable(x: CubeTensor, rows: Filter, columns: Filter) -> CubeTensor {
        let x = laid_out(x);
        let [images, channels, h, w] = x.shape().dims();
        let (h_out, w_out) = (rows.n_out(), columns.n_out());
        let n = images * channels * h_out * w_out;
        let out = laid_out_unset(&x, [images, channels, h_out, w_out].into());
        if n == 0 {
            return out;
        }
        let (count, dim) = one_unit_each(&x, n);
        let [rows, columns] = [rows, columns].map(|filter| table(&filter, &x.device));
        kernel::filter_planes::launch(
            &out.client.clone(),
            count,
            dim,
            x.into_tensor_arg(),
            rows.into_tensor_arg(),
            columns.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            channels,
            h,
            w,
            h_out,
            w_out,
        );
        out
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
        channels: usize,
        h: usize,
        w: usize,
        h_out: usize,
        w_out: usize,
    ) {
        let place = ABSOLUTE_POS;
        if place >= out.len() {
            terminate!();
        }
        let (channel, pixel) = (place % channels, place / channels);
        let (image, pixel) = (pixel / (h_out * w_out), pixel % (h_out * w_out));
        let row = (pixel / w_out) * rows.stride(0);
        let column = (pixel % w_out) * columns.stride(0);
        let (first_row, n_rows) = (usize::cast_from(rows[row]), usize::cast_from(rows[row + 1]));
        let (first_column, n_columns) = (usize::cast_from(columns[column]), usize::cast_from(columns[column + 1]));
        let mut sum = 0.0f32;
        for i in 0..n_rows {
            let begin = ((image * h + first_row + i) * w + first_column) * channels + channel;
            let mut sum_of_row = 0.0f32;
            for j in 0..n_columns {
                sum_of_row += x[begin + j * channels] * columns[column + 2 + j];
            }
            sum += sum_of_row * rows[row + 2 + i];
        }
        out[place] = sum;
    }
}
