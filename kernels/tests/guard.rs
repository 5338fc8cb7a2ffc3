//! Every slice that kernels read or write lies against a page that cannot be accessed: a read or write past either of its ends
//! kills the test. And neither where slices lie nor what is around them changes a bit of the results.
#![cfg(target_os = "linux")]

use std::ops::{Deref, DerefMut};

use ncsn_kernels::amx::{COLUMNS, Config, Emulated, ROWS, TILE, TileUnit};
use ncsn_kernels::channels_last;
use ncsn_kernels::conv::half::{self, Method, Unit};
use ncsn_kernels::conv::{self, ConvShape};
use ncsn_kernels::cpu::{Isa, Kernel, Precision};
use ncsn_kernels::elementwise;
use ncsn_kernels::filter::{self, Filter};
use ncsn_kernels::max_pool::{self, Windows};
use ncsn_kernels::norm::batch::{BatchNorm, moments};
use ncsn_kernels::norm::{Activation, EPSILON, Kind, Norm, NormShape};
use ncsn_kernels::optimizer::{self, Parameter, Rule, Step};
use ncsn_kernels::order;
use ncsn_kernels::random::{self, Position};
use ncsn_kernels::simd::Simd;

mod generator;
use generator::Random;

/// Which end of a slice lies against a page that cannot be accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    /// Neither: what the others are compared with.
    None,
    Begin,
    End,
}

/// A copy of some numbers, between two pages that cannot be accessed.
struct Guarded<T> {
    map: *mut libc::c_void,
    map_len: usize,
    values: *mut T,
    len: usize,
}

impl<T: Copy> Guarded<T> {
    fn new(values: &[T], edge: Edge, writable: bool) -> Self {
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("the size of a page");
        let (size, len) = (size_of_val(values), values.len());
        // One page more where numbers are to lie against neither end.
        let room = (size + usize::from(edge == Edge::None) * page).next_multiple_of(page).max(page);
        let map_len = room + 2 * page;
        // SAFETY: new memory, of which nothing else knows.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(map, libc::MAP_FAILED, "memory");
        let shift = match edge {
            Edge::None => 64,
            Edge::Begin => 0,
            Edge::End => room - size,
        };
        // SAFETY: the pages between the first and the last are ours; the numbers fit between `shift` and their end, aligned
        // because `size` is a multiple of the alignment; none of them is written by anyone else.
        unsafe {
            let inside = map.byte_add(page);
            assert_eq!(libc::mprotect(inside, room, libc::PROT_READ | libc::PROT_WRITE), 0);
            let to = inside.byte_add(shift).cast::<T>();
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, len);
            if !writable {
                assert_eq!(libc::mprotect(inside, room, libc::PROT_READ), 0);
            }
            Self { map, map_len, values: to, len }
        }
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `new` put so many numbers there.
        unsafe { std::slice::from_raw_parts(self.values, self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; where it is not writable, no test calls this.
        unsafe { std::slice::from_raw_parts_mut(self.values, self.len) }
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, which is used no more.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}

impl Edge {
    /// `n` numbers that can only be read.
    fn input(self, random: &mut Random, n: usize) -> Guarded<f32> {
        Guarded::new(&random.values(n), self, false)
    }

    /// `n` numbers that are read and written.
    fn state(self, random: &mut Random, n: usize) -> Guarded<f32> {
        Guarded::new(&random.values(n), self, true)
    }

    /// Room for `n` numbers.
    fn output(self, n: usize) -> Guarded<f32> {
        Guarded::new(&vec![f32::NAN; n], self, true)
    }
}

/// Calls `results` for numbers against both edges and against none: they must be the same, bit for bit.
fn at_every_edge(what: &str, results: impl Fn(Edge, &mut Random) -> Vec<Vec<f32>>) {
    let bits = |edge| {
        let values = results(edge, &mut Random(0x9e37_79b9_7f4a_7c15)).concat();
        values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let expected = bits(Edge::None);
    for edge in [Edge::Begin, Edge::End] {
        assert!(bits(edge) == expected, "{what} differs at the edge {edge:?}");
    }
}

/// Awkward shapes: one pixel, one channel, one image, odd sides, a dilation larger than the image, strides, no padding, more
/// padding than image, channels beside whole vectors and tiles; then random ones.
fn shapes() -> Vec<ConvShape> {
    let shape = |n, c_in, c_out, size, kernel, [stride, padding, dilation]: [usize; 3]| ConvShape {
        n,
        c_in,
        c_out,
        size,
        kernel,
        stride,
        padding: [padding; 2],
        dilation,
    };
    let mut shapes = vec![
        shape(1, 1, 1, [1, 1], [1, 1], [1, 0, 1]),
        shape(1, 1, 1, [1, 1], [3, 3], [1, 1, 1]),
        shape(1, 1, 1, [3, 3], [3, 3], [1, 0, 1]),
        shape(2, 3, 5, [1, 7], [3, 3], [1, 9, 9]),
        shape(1, 9, 11, [5, 3], [3, 3], [1, 4, 4]),
        shape(1, 8, 8, [2, 2], [3, 3], [1, 1, 1]),
        shape(2, 17, 9, [7, 6], [3, 3], [1, 1, 1]),
        shape(1, 16, 33, [9, 13], [3, 3], [1, 2, 2]),
        shape(1, 24, 8, [11, 11], [3, 3], [1, 0, 1]),
        shape(1, 8, 31, [4, 5], [3, 3], [1, 3, 1]),
        shape(2, 1, 40, [9, 9], [3, 3], [2, 1, 1]),
        shape(1, 40, 1, [8, 5], [4, 4], [2, 1, 1]),
        shape(1, 33, 31, [6, 10], [5, 5], [3, 2, 1]),
        shape(3, 25, 37, [5, 1], [1, 1], [1, 0, 1]),
        shape(1, 32, 32, [7, 3], [1, 1], [2, 0, 1]),
        shape(1, 27, 26, [3, 8], [2, 3], [1, 2, 1]),
        shape(1, 18, 17, [33, 18], [3, 3], [1, 1, 1]),
    ];
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    while shapes.len() < 41 {
        let mut side = || random.one_of(&[1, 2, 3, 5, 8, 13]);
        let size = [side(), side()];
        let mut channels = || random.one_of(&[1, 2, 7, 8, 15, 16, 17, 24, 31, 33]);
        let channels = [channels(), channels()];
        let kernel = random.one_of(&[[1, 1], [3, 3], [3, 3], [2, 3], [7, 7]]);
        let places = [random.one_of(&[1, 1, 2, 3]), random.one_of(&[0, 1, 2, 4]), random.one_of(&[1, 1, 2, 5])];
        let shape = shape(random.one_of(&[1, 1, 3]), channels[0], channels[1], size, kernel, places);
        if shape.checked_out_size().is_some() {
            shapes.push(shape);
        }
    }
    shapes
}

#[test]
fn convolutions_stay_inside_their_slices() {
    for shape in shapes() {
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| Precision::ALL.map(|p| (isa, p))) {
            at_every_edge(&format!("{shape:?} on {isa}, {precision}"), |edge, random| {
                let x = edge.input(random, shape.input_len());
                let weights = edge.input(random, shape.weight_len());
                let [grad, residual] = [(); 2].map(|()| edge.input(random, shape.output_len()));
                let [bias, bias_in] = [shape.c_out, shape.c_in].map(|n| edge.input(random, n));
                let [mut out, mut with_both] = [(); 2].map(|()| edge.output(shape.output_len()));
                conv::forward(isa, precision, &shape, &x, &weights, None, None, &mut out);
                conv::forward(isa, precision, &shape, &x, &weights, Some(&bias), Some(&residual), &mut with_both);
                let [mut grad_x, mut with_bias] = [(); 2].map(|()| edge.output(shape.input_len()));
                conv::transposed(isa, precision, &shape, &grad, &weights, None, &mut grad_x);
                conv::transposed(isa, precision, &shape, &grad, &weights, Some(&bias_in), &mut with_bias);
                let mut grad_weights = edge.output(shape.weight_len());
                conv::weight_gradient(isa, precision, &shape, &x, &grad, &mut grad_weights);
                let grad_bias = conv::bias_gradient(isa, &grad, shape.c_out, shape.out_size().iter().product());
                let outputs = [out, with_both, grad_x, with_bias, grad_weights];
                outputs.iter().map(|out| out.to_vec()).chain([grad_bias]).collect()
            });
        }
    }
}

#[test]
fn convolutions_in_bf16_stay_inside_their_slices() {
    for shape in shapes() {
        for method in Method::available() {
            let mut shape = shape;
            if method.unit == Unit::Emulated {
                // It is slow.
                (shape.size, shape.n) = (shape.size.map(|side| side.min(7)), 1);
                if shape.checked_out_size().is_none() {
                    continue;
                }
            }
            at_every_edge(&format!("{shape:?} by {method:?}"), |edge, random| {
                let x = edge.input(random, shape.input_len());
                let weights = edge.input(random, shape.weight_len());
                let [grad, residual] = [(); 2].map(|()| edge.input(random, shape.output_len()));
                let [bias, bias_in] = [shape.c_out, shape.c_in].map(|n| edge.input(random, n));
                let (mut out, mut grad_x) = (edge.output(shape.output_len()), edge.output(shape.input_len()));
                half::forward(method, &shape, &x, &weights, Some(&bias), Some(&residual), &mut out);
                half::transposed(method, &shape, &grad, &weights, Some(&bias_in), &mut grad_x);
                let mut results = vec![out.to_vec(), grad_x.to_vec()];
                if shape.stride == 1 {
                    let mut grad_weights = edge.output(shape.weight_len());
                    half::weight_gradient(method, &shape, &x, &grad, &mut grad_weights);
                    results.push(grad_weights.to_vec());
                }
                results
            });
        }
    }
}

#[test]
fn tiles_stay_inside_their_slices() {
    fn sums<T: TileUnit>(mut unit: T, edge: Edge, random: &mut Random) -> Vec<Vec<f32>> {
        const PITCH: usize = 37;
        let numbers = random.values((ROWS - 1) * PITCH + 2 * COLUMNS);
        // Neither infinite nor not a number.
        let halves: Vec<u16> = numbers.iter().map(|x| x.to_bits() as u16 & 0x3fff).collect();
        let operand = Guarded::new(&halves, edge, false);
        let (before, mut after) = (edge.input(random, TILE), edge.output(TILE));
        unit.load_sums::<0>(&before);
        unit.load::<4>(&operand, PITCH);
        unit.load::<6>(&operand, PITCH);
        unit.multiply::<0, 4, 6>();
        unit.store::<0>(&mut after);
        vec![after.to_vec()]
    }

    at_every_edge("a product of emulated tiles", |edge, random| sums(Emulated::new(&Config::FULL), edge, random));
    #[cfg(target_arch = "x86_64")]
    if let Some(amx) = ncsn_kernels::amx::Amx::detect() {
        at_every_edge("a product of tiles", |edge, random| sums(amx.configure(&Config::FULL), edge, random));
    }
}

#[test]
fn norms_stay_inside_their_slices() {
    let shapes = [[1, 2, 1], [1, 1, 1], [2, 7, 3], [1, 17, 5], [1, 49, 2], [3, 64, 2], [1, 131, 3], [1, 3, 131]];
    for ([n, c, pixels], isa) in shapes.into_iter().flat_map(|s| Isa::available().into_iter().map(move |i| (s, i))) {
        let shape = NormShape { n, c, pixels };
        for activation in Activation::ALL {
            at_every_edge(&format!("{shape:?}, {activation:?} on {isa}"), |edge, random| {
                let [x, grad, more] = [(); 3].map(|()| edge.input(random, n * c * pixels));
                let rows: Vec<usize> = (0..n).rev().collect();
                let mut results = Vec::new();
                let groups = [1, 2, 7, 64].into_iter().filter(|n_groups| c.is_multiple_of(*n_groups));
                let groups = groups.map(|n_groups| Kind::Group { n_groups });
                for kind in [Kind::Instance, Kind::InstancePlus, Kind::Variance].into_iter().chain(groups) {
                    if kind == Kind::InstancePlus && c == 1 || kind == Kind::Variance && pixels == 1 {
                        continue;
                    }
                    let columns = kind.n_columns() * c;
                    let table = edge.input(random, n * columns);
                    let norm = Norm { shape, kind, table: &table, rows: &rows, epsilon: EPSILON, activation };
                    let [mut out, mut grad_x] = [(); 2].map(|()| edge.output(n * c * pixels));
                    let [mut statistics, mut grad_table] = [2 * c, columns].map(|len| edge.output(n * len));
                    norm.forward(isa, &x, &mut statistics, &mut out);
                    for more in [None, Some(&*more)] {
                        norm.backward(isa, &x, &statistics, &grad, more, &mut grad_table, &mut grad_x);
                        results.extend([&grad_table, &grad_x].map(|values| values.to_vec()));
                    }
                    results.extend([&out, &statistics].map(|values| values.to_vec()));
                }
                results
            });
        }
    }
}

#[test]
fn what_u_nets_do_to_channels_stays_inside_its_slices() {
    let shapes = [[1, 1, 1], [2, 7, 3], [1, 17, 5], [3, 64, 2], [1, 131, 33]];
    for ([n, c, pixels], isa) in shapes.into_iter().flat_map(|s| Isa::available().into_iter().map(move |i| (s, i))) {
        at_every_edge(&format!("{n}×{pixels}×{c} on {isa}"), |edge, random| {
            let [x, y] = [(); 2].map(|()| edge.input(random, n * c * pixels));
            let [mut out, mut first, mut second] = [(); 3].map(|()| edge.output(n * c * pixels));
            let (mut both, mut sums) = (edge.output(2 * n * c * pixels), edge.output(n * c));
            channels_last::join(&x, &y, [c, c], &mut both);
            channels_last::split(&both, [c, c], &mut first, &mut second);
            channels_last::sum_pixels(isa, &x, &mut sums, [n, c]);
            let at: Vec<Position> =
                (0..n).map(|index| Position { key: [1, 2], index: index as u64, block: 0 }).collect();
            channels_last::dropout(isa, &x, &at, 0.5, &mut out);
            channels_last::shift(&mut out, &sums, [n, c]);
            channels_last::scale(&mut out, 3.0);
            vec![both.to_vec(), first.to_vec(), second.to_vec(), sums.to_vec(), out.to_vec()]
        });
    }
}

#[test]
fn batch_norms_stay_inside_their_slices() {
    for ([n, c, pixels], isa) in [[1, 1, 2], [2, 7, 3], [3, 17, 5], [2, 49, 2], [3, 64, 1], [1, 3, 131]]
        .into_iter()
        .flat_map(|shape| Isa::available().into_iter().map(move |isa| (shape, isa)))
    {
        let shape = NormShape { n, c, pixels };
        for (activation, of_batch) in Activation::ALL.into_iter().flat_map(|act| [(act, false), (act, true)]) {
            at_every_edge(&format!("{shape:?}, {activation:?}, {of_batch} on {isa}"), |edge, random| {
                let [x, grad] = [(); 2].map(|()| edge.input(random, n * c * pixels));
                let rows: Vec<usize> = (0..n).rev().collect();
                let table = edge.input(random, n * 2 * c);
                let mut found = edge.output(2 * c);
                moments(isa, shape, &x, &mut found);
                let norm = BatchNorm {
                    shape,
                    table: &table,
                    rows: &rows,
                    moments: &found,
                    of_batch,
                    epsilon: 1e-5,
                    activation,
                };
                let [mut out, mut grad_x] = [(); 2].map(|()| edge.output(n * c * pixels));
                let mut grad_table = edge.output(n * 2 * c);
                norm.forward(isa, &x, &mut out);
                norm.backward(isa, &x, &grad, &mut grad_table, &mut grad_x);
                [&*found, &*out, &*grad_table, &*grad_x].map(<[f32]>::to_vec).to_vec()
            });
        }
    }
}

/// Lengths around those of vectors and of blocks of vectors, and one of several parts.
const LENGTHS: [usize; 14] = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 63, 1000, 200_003];

fn lengths() -> impl Iterator<Item = (Isa, usize)> {
    Isa::available().into_iter().flat_map(|isa| LENGTHS.map(|n| (isa, n)))
}

#[test]
fn activations_and_sums_stay_inside_their_slices() {
    for ((isa, n), activation) in lengths().flat_map(|at| Activation::ALL.map(|activation| (at, activation))) {
        at_every_edge(&format!("{activation:?} of {n} on {isa}"), |edge, random| {
            let [x, grad] = [(); 2].map(|()| edge.input(random, n));
            let [mut y, mut grad_x, mut sum] = [(); 3].map(|()| edge.output(n));
            let mut state = edge.state(random, n);
            elementwise::activate(isa, activation, &x, &mut y);
            elementwise::activate_backward(isa, activation, &x, &grad, &mut grad_x);
            elementwise::add(isa, &x, &grad, &mut sum);
            elementwise::add_to(isa, &mut state, &x);
            [y, grad_x, sum, state].iter().map(|out| out.to_vec()).collect()
        });
    }
}

#[test]
fn filters_stay_inside_their_slices() {
    let filters = [
        [Filter::window_mean(7, 5), Filter::window_mean(3, 3)],
        [Filter::cell_mean(6, 2), Filter::cell_mean(5, 2)],
        [Filter::interpolation(3, 8), Filter::interpolation(1, 5)],
        [Filter::interpolation(9, 4), Filter::window_mean(13, 7)],
        [Filter::window_mean(1, 5), Filter::window_mean(1, 1)],
        [Filter::cell_mean(5, 2).transposed(), Filter::cell_mean(4, 4).transposed()],
    ];
    for ([rows, columns], isa) in filters.iter().flat_map(|f| Isa::available().into_iter().map(move |isa| (f, isa))) {
        for [n, c] in [[0, 1], [1, 1], [2, 3], [1, 16], [3, 17], [1, 70]] {
            at_every_edge(
                &format!("{n} images of {c} channels by {rows:?} and {columns:?} on {isa}"),
                |edge, random| {
                    let x = edge.input(random, n * c * rows.n_in() * columns.n_in());
                    let mut out = edge.output(n * c * rows.n_out() * columns.n_out());
                    filter::apply(isa, &x, [n, c], rows, columns, &mut out);
                    vec![out.to_vec()]
                },
            );
        }
    }
}

#[test]
fn changes_of_order_stay_inside_their_slices() {
    let all = [[1, 1, 1], [2, 3, 70], [1, 16, 17], [1, 40, 33]].into_iter();
    for (shape, isa) in all.flat_map(|s| Isa::available().into_iter().map(move |i| (s, i))) {
        at_every_edge(&format!("{shape:?} on {isa}"), |edge, random| {
            let n = shape.iter().product();
            let (x, mut out) = (edge.input(random, n), edge.output(n));
            order::exchange(isa, &x, shape, &mut out);
            vec![out.to_vec()]
        });
    }
}

#[test]
fn maxima_stay_inside_their_slices() {
    let all =
        [[1, 1], [1, 16], [2, 17], [1, 35]].into_iter().flat_map(|s| Isa::available().into_iter().map(move |i| (s, i)));
    for ([n, c], isa) in all {
        for (size, stride, padding) in [([3, 3], 1, 0), ([1, 2], 1, 1), ([7, 6], 2, 0), ([5, 9], 2, 1)] {
            let windows = Windows { stride, padding };
            at_every_edge(&format!("{n} images of {c} channels, {size:?} by {windows:?} on {isa}"), |edge, random| {
                let x = edge.input(random, n * c * size[0] * size[1]);
                let mut out = edge.output(n * c * windows.count(size[0]) * windows.count(size[1]));
                max_pool::forward(isa, &x, [n, c], size, windows, &mut out);
                let grad = edge.input(random, out.len());
                let mut grad_x = edge.output(x.len());
                max_pool::backward(isa, [&x, &out, &grad], [n, c], size, windows, &mut grad_x);
                vec![out.to_vec(), grad_x.to_vec()]
            });
        }
    }
}

#[test]
fn optimizers_stay_inside_their_slices() {
    let rules = [
        (Rule::Adam { lr: 0.01, betas: [0.9, 0.999], eps: 1e-8, t: 3 }, 2),
        (Rule::Adam { lr: 0.01, betas: [0.5, 0.9], eps: 1e-3, t: 1 }, 3),
        (Rule::RmsProp { lr: 0.01, alpha: 0.99, eps: 1e-8 }, 1),
        (Rule::Sgd { lr: 0.1, momentum: 0.9 }, 1),
    ];
    for (isa, n) in lengths() {
        for ((rule, n_states), with_shadow) in rules.into_iter().flat_map(|rule| [(rule, true), (rule, false)]) {
            at_every_edge(&format!("{rule:?} of {n} on {isa}"), |edge, random| {
                let gradient = edge.input(random, n);
                let mut value = edge.state(random, n);
                let mut states = [0, 1, 2].map(|i| {
                    let squares: Vec<f32> =
                        random.values(n * usize::from(i < n_states)).iter().map(|x| x * x).collect();
                    Guarded::new(&squares, edge, true)
                });
                let mut shadow = edge.state(random, n * usize::from(with_shadow));
                let step = Step { rule, clip: 0.7, weight_decay: 0.1, ema_rate: 0.9 };
                let state = states.each_mut().map(|state| &mut **state);
                let parameter = Parameter { value: &mut value, state, shadow: &mut shadow };
                optimizer::step(isa, &step, [(&*gradient, parameter)]);
                let [sum] = optimizer::sums_of_squares(isa, &[&gradient]).try_into().expect("one sum");
                let [a, b, c] = states;
                [value, a, b, c, shadow].iter().map(|out| out.to_vec()).chain([vec![sum as f32]]).collect()
            });
        }
    }
}

#[test]
fn random_numbers_stay_inside_their_slices() {
    let at = Position { key: [1, 2], index: 3, block: 4 };
    for (isa, n) in lengths() {
        at_every_edge(&format!("{n} random numbers on {isa}"), |edge, random| {
            let [mut normal, mut uniform] = [(); 2].map(|()| edge.output(n));
            random::fill_normal(isa, at, &mut normal);
            random::fill_uniform(isa, at, &mut uniform);
            let (mut x, score) = (edge.state(random, n), edge.input(random, n));
            random::langevin_update(isa, &mut x, &score, at, [0.1, 0.2]);
            [normal, uniform, x].iter().map(|out| out.to_vec()).collect()
        });
    }
}

/// Loads and stores of whole vectors and of parts of them, of slices of `n`.
struct Parts {
    edge: Edge,
    n: usize,
}

impl Kernel for Parts {
    type Output = Vec<Vec<f32>>;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Self::Output {
        let (x, mut out) = (self.edge.input(&mut Random(1), self.n), self.edge.output(self.n));
        s.store_first(&mut out, s.load_first(&x));
        let first = out.to_vec();
        if self.n >= S::LANES {
            s.store(&mut out, s.load(&x));
        }
        vec![first, out.to_vec()]
    }
}

#[test]
fn loads_and_stores_stay_inside_their_slices() {
    for (isa, n) in Isa::available().into_iter().flat_map(|isa| (0..=33).map(move |n| (isa, n))) {
        at_every_edge(&format!("{n} numbers on {isa}"), |edge, _| isa.run(Parts { edge, n }));
    }
}

#[test]
fn a_guard_stands_at_the_edge() {
    // Of a child, because that dies of it.
    for (edge, offset) in [(Edge::Begin, -1), (Edge::End, 5)] {
        let values = Guarded::new(&[1.0f32; 5], edge, true);
        // SAFETY: the child reads one number, which must kill it, and calls nothing but `_exit` before it is gone.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                // No report of a dead child is wanted.
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                std::ptr::read_volatile(values.as_ptr().wrapping_offset(offset));
                libc::_exit(0);
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            status
        };
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "{edge:?}: {status}");
    }
}
