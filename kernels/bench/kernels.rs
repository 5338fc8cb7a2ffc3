//! Every kernel at the sizes of the published networks: `cargo bench -p ncsn-kernels-bench`, and
//! `-- conv/forward` behind it for one group.
//!
//! Throughput is what a kernel is bound by: for convolutions FLOP/s of the definition (a multiply-add counted twice), shown
//! as elements, whatever the algorithm saves; for the others numbers a second.
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use ncsn_kernels::conv::{self, ConvShape};
use ncsn_kernels::cpu::{Isa, Precision};
use ncsn_kernels::elementwise::{activate, activate_backward};
use ncsn_kernels::filter::{self, Filter};
use ncsn_kernels::norm::{Activation, Kind, Norm, NormShape};
use ncsn_kernels::optimizer::{self, Parameter, Rule, Step};
use ncsn_kernels::random::{self, Position};

/// Images of a call.
const N: usize = 8;
/// `[channels, side]` of the stages: MNIST with ngf 64, CIFAR-10 with ngf 128.
const STAGES: [[usize; 2]; 4] = [[64, 28], [128, 14], [128, 32], [256, 16]];

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

/// `n` numbers between −1 and 1, none of them special.
fn values(n: usize) -> Vec<f32> {
    let mut out = vec![0.0; n];
    random::fill_uniform(Isa::chosen(), Position { key: [1, 2], index: n as u64, block: 0 }, &mut out);
    out.iter_mut().for_each(|x| *x = 2.0 * *x - 1.0);
    out
}

fn same(c_in: usize, c_out: usize, side: usize, kernel: usize, dilation: usize) -> ConvShape {
    let padding = dilation * (kernel - 1) / 2;
    ConvShape { n: N, c_in, c_out, size: [side; 2], kernel: [kernel; 2], stride: 1, padding: [padding; 2], dilation }
}

fn convolutions(criterion: &mut Criterion) {
    let shapes = [
        same(1, 64, 28, 3, 1),
        same(64, 64, 28, 3, 1),
        same(64, 128, 28, 1, 1),
        same(128, 128, 14, 3, 1),
        same(128, 128, 14, 3, 2),
        same(128, 128, 14, 3, 4),
        same(128, 128, 32, 3, 1),
        same(256, 256, 16, 3, 1),
    ];
    for kernel in ["forward", "input_gradient", "weight_gradient"] {
        let mut group = group(criterion, &format!("conv/{kernel}"));
        for shape in &shapes {
            let isa = Isa::chosen();
            let [x, weights, grad] = [shape.input_len(), shape.weight_len(), shape.output_len()].map(values);
            let ConvShape { c_in, c_out, size: [side, _], kernel: [k, _], dilation, .. } = *shape;
            let name = format!("{c_in}-{c_out}x{side}x{side}_{k}x{k}_dilation{dilation}");
            group.throughput(Throughput::Elements((2 * shape.output_len() * c_in * k * k) as u64));
            for precision in Precision::ALL {
                let id = BenchmarkId::new(name.as_str(), precision);
                let mut out = vec![0.0; x.len().max(grad.len())];
                let mut grad_weights = vec![0.0; weights.len()];
                group.bench_function(id, |bencher| match kernel {
                    "forward" => {
                        let out = &mut out[..grad.len()];
                        bencher.iter(|| conv::forward(isa, precision, shape, &x, &weights, None, None, out));
                    }
                    "input_gradient" => {
                        let out = &mut out[..x.len()];
                        bencher.iter(|| conv::transposed(isa, precision, shape, &grad, &weights, None, out));
                    }
                    _ => bencher.iter(|| conv::weight_gradient(isa, precision, shape, &x, &grad, &mut grad_weights)),
                });
            }
        }
        group.finish();
    }
}

fn norms(criterion: &mut Criterion) {
    let isa = Isa::chosen();
    let mut group = group(criterion, "norm_elu");
    for [c, side] in STAGES {
        let shape = NormShape { n: N, c, pixels: side * side };
        let [x, grad] = [(); 2].map(|()| values(N * c * side * side));
        let (table, rows): (_, Vec<usize>) = (values(N * 3 * c), (0..N).collect());
        let norm = Norm { shape, kind: Kind::InstancePlus, table: &table, rows: &rows, activation: Activation::Elu };
        let [mut out, mut statistics, mut grad_table] = [x.len(), N * 2 * c, table.len()].map(|len| vec![0.0; len]);
        norm.forward(isa, &x, &mut statistics, &mut out);
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(format!("forward/{c}x{side}x{side}"), |bencher| {
            bencher.iter(|| norm.forward(isa, &x, &mut statistics, &mut out));
        });
        group.bench_function(format!("backward/{c}x{side}x{side}"), |bencher| {
            bencher.iter(|| norm.backward(isa, &x, &statistics, &grad, None, &mut grad_table, &mut out));
        });
    }
    group.finish();
}

fn elus(criterion: &mut Criterion) {
    let isa = Isa::chosen();
    let mut group = group(criterion, "elu");
    for [c, side] in STAGES {
        let [x, grad] = [(); 2].map(|()| values(N * c * side * side));
        let mut out = vec![0.0; x.len()];
        let mut y = vec![0.0; x.len()];
        activate(isa, Activation::Elu, &x, &mut y);
        group.throughput(Throughput::Elements(x.len() as u64));
        group.bench_function(format!("forward/{c}x{side}x{side}"), |bencher| {
            bencher.iter(|| activate(isa, Activation::Elu, &x, &mut out));
        });
        group.bench_function(format!("backward/{c}x{side}x{side}"), |bencher| {
            bencher.iter(|| activate_backward(isa, Activation::Elu, &y, &grad, &mut out));
        });
    }
    group.finish();
}

fn filters(criterion: &mut Criterion) {
    let isa = Isa::chosen();
    let mut group = group(criterion, "filter");
    for [c, side] in STAGES {
        let x = values(N * c * side * side);
        group.throughput(Throughput::Elements(x.len() as u64));
        for (name, filter) in [
            ("mean5x5", Filter::window_mean(side, 5)),
            ("mean2x2", Filter::cell_mean(side, 2)),
            ("double", Filter::interpolation(side, 2 * side)),
        ] {
            let mut out = vec![0.0; N * c * filter.n_out() * filter.n_out()];
            group.bench_function(format!("{name}/{c}x{side}x{side}"), |bencher| {
                bencher.iter(|| filter::apply(isa, &x, [N, c], &filter, &filter, &mut out));
            });
        }
    }
    group.finish();
}

fn optimizers(criterion: &mut Criterion) {
    let isa = Isa::chosen();
    let mut group = group(criterion, "optimizer");
    // The largest weights of MNIST's and of CIFAR-10's network.
    for n in [128 * 128 * 9, 256 * 256 * 9] {
        let gradient = values(n);
        let [mut value, mut mean, mut squares, mut shadow] = [(); 4].map(|()| vec![0.0; n]);
        group.throughput(Throughput::Elements(n as u64));
        let rules = [
            ("adam", Rule::Adam { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, t: 100 }),
            ("rmsprop", Rule::RmsProp { lr: 1e-3, alpha: 0.99, eps: 1e-8 }),
            ("sgd", Rule::Sgd { lr: 1e-3, momentum: 0.9 }),
        ];
        for (name, rule) in rules {
            let step = Step { rule, clip: 1.0, weight_decay: 0.0, ema_rate: 0.999 };
            let n_squares = if name == "adam" { n } else { 0 };
            group.bench_function(format!("{name}_ema/{n}"), |bencher| {
                bencher.iter(|| {
                    let state = [&mut mean[..], &mut squares[..n_squares], &mut []];
                    let parameter = Parameter { value: &mut value, state, shadow: &mut shadow };
                    optimizer::step(isa, &step, [(&gradient[..], parameter)]);
                });
            });
        }
        group.bench_function(format!("sums_of_squares/{n}"), |bencher| {
            bencher.iter(|| optimizer::sums_of_squares(isa, black_box(&[&gradient])));
        });
    }
    group.finish();
}

fn randoms(criterion: &mut Criterion) {
    let isa = Isa::chosen();
    let mut group = group(criterion, "random");
    let at = Position { key: [1, 2], index: 3, block: 0 };
    // 25 images of MNIST and of CIFAR-10.
    for n in [25 * 28 * 28, 25 * 3 * 32 * 32] {
        let score = values(n);
        let mut out = vec![0.0; n];
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(format!("normal/{n}"), |bencher| bencher.iter(|| random::fill_normal(isa, at, &mut out)));
        group
            .bench_function(format!("uniform/{n}"), |bencher| bencher.iter(|| random::fill_uniform(isa, at, &mut out)));
        group.bench_function(format!("langevin_update/{n}"), |bencher| {
            bencher.iter(|| random::langevin_update(isa, &mut out, &score, at, [2e-5, 6.3e-3]));
        });
    }
    group.finish();
}

criterion_group!(benches, convolutions, norms, elus, filters, optimizers, randoms);
criterion_main!(benches);
