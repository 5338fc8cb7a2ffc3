//! Sizes that callers give may be any: near the powers of two at which products wrap, and such that they wrap to the length of a
//! slice that is there. What returns has sizes that are true, and the right result; everything else is a panic, also of a worker
//! thread, which the caller sees. All of this is safe code: nothing that it does may crash the process.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use ncsn_kernels::buffer::{Aligned, Scratch};
use ncsn_kernels::conv::half::{self, Method};
use ncsn_kernels::conv::{self, ConvShape, reference};
use ncsn_kernels::cpu::{Isa, Precision};
use ncsn_kernels::filter::{self, Filter};
use ncsn_kernels::max_pool::{self, Windows};
use ncsn_kernels::norm::batch::{BatchNorm, moments};
use ncsn_kernels::norm::{Activation, Kind, Norm, NormShape};
use ncsn_kernels::optimizer::{self, Parameter, Rule, Step};
use ncsn_kernels::{elementwise, order, parallel};

mod generator;
use generator::Random;

impl Random {
    fn small(&mut self) -> usize {
        self.one_of(&[0, 1, 1, 1, 2, 2, 3, 4, 5, 8, 16, 17])
    }

    /// Small, or near where products wrap.
    fn size(&mut self) -> usize {
        match self.below(4) {
            0 => {
                let near = 1usize << self.one_of(&[31, 32, 47, 60, 61, 62, 63]);
                near.wrapping_add(self.below(5)).wrapping_sub(2)
            }
            1 if self.below(3) == 0 => usize::MAX / (1 + self.below(17)) - self.below(2),
            _ => self.small(),
        }
    }

    /// Some sizes: any, or two of them such that the product of all wraps to a small number.
    fn sizes<const N: usize>(&mut self) -> [usize; N] {
        let mut sizes = [(); N].map(|()| if self.below(3) == 0 { self.size() } else { self.small() });
        if N > 1 && self.below(2) == 0 {
            let (first, second) = (self.below(N), self.below(N));
            if first != second {
                [sizes[first], sizes[second]] = self.wrapping_pair();
            }
        }
        sizes
    }

    /// Two sizes whose product wraps to a small number.
    fn wrapping_pair(&mut self) -> [usize; 2] {
        let small = self.small();
        if self.below(2) == 0 {
            let twos = self.below(8) as u32;
            return [1 << twos, (small >> twos) + (1 << (usize::BITS - twos - 1)) * 2usize.pow(u32::from(twos > 0))];
        }
        let odd = self.next() as usize | 1;
        // Newton's iteration doubles the digits of an inverse.
        let inverse = (0..6).fold(odd, |x, _| x.wrapping_mul(2usize.wrapping_sub(odd.wrapping_mul(x))));
        [odd, small.wrapping_mul(inverse)]
    }

    /// As many numbers as wrapping arithmetic expects, if they are few, else some.
    fn values_of(&mut self, sizes: &[usize]) -> Vec<f32> {
        let wrapped = sizes.iter().fold(1usize, |product, &size| product.wrapping_mul(size));
        let n = if wrapped <= 4096 { wrapped } else { self.below(40) };
        self.values(n)
    }
}

/// Whether the product of `sizes` is that length.
fn is_true(sizes: &[usize], len: usize) -> bool {
    let product = sizes.iter().try_fold(1u128, |product, &size| product.checked_mul(size as u128));
    product == Some(len as u128) || len == 0 && sizes.contains(&0)
}

/// Calls `work` many times without printing its panics; each says whether it returned.
fn many_times(n: usize, mut work: impl FnMut(&mut Random) -> bool) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let returned = (0..n).filter(|_| work(&mut random)).count();
    // Some sizes are good, and most are not.
    assert!(returned > n / 500 && returned < n - n / 500, "{returned} of {n} returned");
}

/// What `work` gives, if it does not panic.
fn returned<T>(work: impl FnOnce() -> T) -> Option<T> {
    returned_of("", work)
}

/// What `work` with `what` gives, if it does not panic. Panics have a message that is not one of arithmetic or of slices.
fn returned_of<T>(what: &str, work: impl FnOnce() -> T) -> Option<T> {
    let message = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => return Some(result),
        Err(panic) => panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|&s| s.to_string())),
    };
    let message = message.expect("a message");
    for arithmetic in
        ["overflow", "divide by zero", "remainder with a divisor of zero", "out of range", "out of bounds"]
    {
        assert!(!message.contains(arithmetic), "{message}: {what}");
    }
    None
}

/// Panics here are many, and expected: only those of the tests themselves are shown.
fn quietly() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|place| place.file().contains("tests")) {
                shown(info);
            }
        }));
    });
}

fn any_shape(random: &mut Random) -> ConvShape {
    let [n, c_in, c_out, h, w] = random.sizes();
    let kernel = random.one_of(&[[1, 1], [3, 3], [2, 5], [3, 1], [0, 1]]);
    let kernel = if random.below(8) == 0 { random.sizes() } else { kernel };
    let [mut stride, mut dilation] = [(); 2].map(|()| if random.below(4) == 0 { random.size() } else { 1 });
    let mut padding = [(); 2].map(|()| if random.below(4) == 0 { random.size() } else { random.below(4) });
    if random.below(6) == 0 {
        // An image far smaller than everything around it, of which there is a small output.
        let far = 1usize << (20 + random.below(40));
        (stride, padding, dilation) = (far + random.below(3), [far + random.below(3); 2], far / (1 + random.below(4)));
    }
    ConvShape { n, c_in, c_out, size: [h, w], kernel, stride, padding, dilation }
}

/// The size of the output in wrapping arithmetic.
fn wrapped_out_size(shape: &ConvShape) -> [usize; 2] {
    [0, 1].map(|axis| {
        let reach = shape.dilation.wrapping_mul(shape.kernel[axis].wrapping_sub(1)).wrapping_add(1);
        let padded = shape.size[axis].wrapping_add(shape.padding[axis].wrapping_mul(2));
        (padded.wrapping_sub(reach) / shape.stride.max(1)).wrapping_add(1)
    })
}

fn assert_near(found: &[f32], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= bound * largest, "{what}: {found}, not {expected}");
    }
}

#[test]
fn convolutions_of_any_sizes_are_right_or_refused() {
    quietly();
    let isas = Isa::available();
    many_times(20_000, |random| {
        let shape = any_shape(random);
        let (isa, precision) = (random.one_of(&isas), random.one_of(&Precision::ALL));
        let method = random.one_of(&Method::available());
        let in_half = random.below(3) == 0;
        let out_size = wrapped_out_size(&shape);
        let x = random.values_of(&[shape.n, shape.c_in, shape.size[0], shape.size[1]]);
        let weights = random.values_of(&[shape.c_out, shape.c_in, shape.kernel[0], shape.kernel[1]]);
        let grad = random.values_of(&[shape.n, shape.c_out, out_size[0], out_size[1]]);
        let what = format!("{shape:?} on {isa}, {precision}, {}", if in_half { "in bf16" } else { "" });
        // Twice the bound: rounding is relative to the largest output that random numbers give, which here may be few.
        let bound = if in_half { 2e-2 } else { 2.0 * precision.bound() };
        let mut any = false;

        let mut out = vec![f32::NAN; grad.len()];
        let forward = returned_of(&what, || match in_half {
            true => half::forward(method, &shape, &x, &weights, None, None, &mut out),
            false => conv::forward(isa, precision, &shape, &x, &weights, None, None, &mut out),
        });
        if forward.is_some() {
            any = true;
            assert!(is_true(&[shape.n, shape.c_in, shape.size[0], shape.size[1]], x.len()), "{what}");
            assert!(is_true(&[shape.c_out, shape.c_in, shape.kernel[0], shape.kernel[1]], weights.len()), "{what}");
            assert_near(&out, &reference::forward(&shape, &x, &weights), bound, &what);
        }
        let mut grad_x = vec![f32::NAN; x.len()];
        let transposed = returned_of(&what, || match in_half {
            true => half::transposed(method, &shape, &grad, &weights, None, &mut grad_x),
            false => conv::transposed(isa, precision, &shape, &grad, &weights, None, &mut grad_x),
        });
        assert_eq!(transposed.is_some(), forward.is_some(), "{what}");
        if any {
            assert_near(&grad_x, &reference::transposed(&shape, &grad, &weights), bound, &what);
        }
        let mut grad_weights = vec![f32::NAN; weights.len()];
        let in_half = in_half && shape.stride == 1;
        let gradient = returned_of(&what, || match in_half {
            true => half::weight_gradient(method, &shape, &x, &grad, &mut grad_weights),
            false => conv::weight_gradient(isa, precision, &shape, &x, &grad, &mut grad_weights),
        });
        assert_eq!(gradient.is_some(), forward.is_some(), "{what}");
        if any {
            assert_near(&grad_weights, &reference::weight_gradient(&shape, &x, &grad), bound, &what);
        }
        any
    });
}

#[test]
fn shapes_that_once_wrapped_to_the_length_of_a_slice_are_refused_by_their_sizes() {
    quietly();
    let shape = ConvShape {
        n: 1,
        c_in: 2,
        c_out: 1,
        size: [1, (1 << 63) + 1],
        kernel: [1, 1],
        stride: 1 << 60,
        padding: [0, 0],
        dilation: 1,
    };
    let refused = |work: &mut dyn FnMut()| {
        let panic = catch_unwind(AssertUnwindSafe(work)).expect_err("a panic");
        panic.downcast_ref::<String>().expect("a message").clone()
    };
    for isa in Isa::available() {
        for stride in [1 << 60, 1 << 61] {
            let shape = ConvShape { stride, ..shape };
            let mut out = vec![0.0; (1 << 63) / stride + 1];
            let found = refused(&mut || {
                conv::forward(isa, Precision::Highest, &shape, &[1.0; 2], &[1.0; 2], None, None, &mut out);
            });
            assert!(found.contains("9223372036854775809"), "{found}");
            let grad = out.clone();
            let found = refused(&mut || {
                conv::weight_gradient(isa, Precision::Highest, &shape, &[1.0; 2], &grad, &mut [0.0; 2]);
            });
            assert!(found.contains("9223372036854775809"), "{found}");
        }
        for (n, c_out) in [(1, 1 << 60), (32, (1 << 60) + 2)] {
            let found = refused(&mut || drop(conv::bias_gradient(isa, &vec![1.0; n], 16, c_out)));
            assert!(found.contains(&c_out.to_string()), "{found}");
        }
    }
    for (shape, expected) in [
        (ConvShape { stride: 0, ..shape }, "a stride of 0"),
        (ConvShape { dilation: 0, ..shape }, "a dilation of 0"),
        (ConvShape { kernel: [1, 0], ..shape }, "a kernel without pixels"),
    ] {
        assert!(refused(&mut || assert_eq!(shape.out_size(), [0; 2])).contains(expected));
        assert_eq!(shape.checked_out_size(), None);
    }
}

#[test]
fn sums_and_orders_of_any_sizes_are_right_or_refused() {
    quietly();
    let isas = Isa::available();
    many_times(40_000, |random| {
        let isa = random.one_of(&isas);
        let [n, a, b] = random.sizes();
        let x = random.values_of(&[n, a, b]);
        let mut out = vec![f32::NAN; x.len()];
        let exchanged = returned(|| order::exchange(isa, &x, [n, a, b], &mut out)).is_some();
        if exchanged {
            assert!(is_true(&[n, a, b], x.len()), "{n} times {a} times {b}");
            for (at, found) in out.iter().enumerate() {
                assert_eq!(*found, x[(at / (a * b) * a + at % a) * b + at / a % b], "{n} times {a} times {b}");
            }
        }
        // A result of so many zeros would be right, and take all memory.
        let [channels, pixels] = if x.is_empty() && a > 1 << 20 { [7, b] } else { [a, b] };
        let sums = returned(|| conv::bias_gradient(isa, &x, channels, pixels));
        if let Some(sums) = &sums {
            assert_eq!(sums.len(), channels);
            for (channel, sum) in sums.iter().enumerate() {
                let expected: f64 = x.iter().skip(channel).step_by(channels).map(|&x| f64::from(x)).sum();
                assert!((f64::from(*sum) - expected).abs() <= 1e-4, "{channels} channels of {pixels} pixels");
            }
        }
        let lens = [a, b];
        let (mut first, mut second) = (x.clone(), out);
        let mut n_parts = 0;
        let parts = std::sync::atomic::AtomicUsize::new(0);
        let cut = returned(|| {
            parallel::for_each_pair_of_parts([&mut first, &mut second], lens, |_, [x, y]| {
                assert_eq!([x.len(), y.len()], lens, "a part");
                parts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        });
        if cut.is_some() {
            n_parts += parts.into_inner();
            assert!(is_true(&[n_parts, a], x.len()) && is_true(&[n_parts, b], x.len()), "parts of {lens:?}");
        }
        exchanged
    });
}

#[test]
fn norms_of_any_sizes_are_finite_or_refused() {
    quietly();
    let isas = Isa::available();
    many_times(40_000, |random| {
        let isa = random.one_of(&isas);
        let [n, c, pixels] = random.sizes();
        let shape = NormShape { n, c, pixels };
        let groups = [0, 1, 2, 3, usize::MAX].map(|n_groups| Kind::Group { n_groups });
        let kinds = [&[Kind::Instance, Kind::InstancePlus, Kind::Variance], &groups[..]].concat();
        let kind = random.one_of(&kinds);
        let n_rows = 1 + random.below(3);
        let (x, table) = (random.values_of(&[n, c, pixels]), random.values_of(&[n_rows, kind.n_columns(), c]));
        let statistics_len = random.values_of(&[n, 2, c]).len();
        let rows: Vec<usize> = (0..n.min(64)).map(|_| random.one_of(&[0, n_rows - 1, n_rows])).collect();
        let activation = random.one_of(&Activation::ALL);
        let norm = Norm { shape, kind, table: &table, rows: &rows, epsilon: 1e-5, activation };
        let (mut statistics, mut out) = (vec![f32::NAN; statistics_len], vec![f32::NAN; x.len()]);
        let forward = returned(|| norm.forward(isa, &x, &mut statistics, &mut out)).is_some();
        let (mut grad_table, mut grad_x) = (vec![f32::NAN; table.len()], vec![f32::NAN; x.len()]);
        let more = Some(&x[..]).filter(|_| n_rows == 2);
        let backward = returned(|| norm.backward(isa, &x, &statistics, &x, more, &mut grad_table, &mut grad_x));
        assert_eq!(forward, backward.is_some(), "{shape:?}");
        if forward {
            assert!(is_true(&[n, c, pixels], x.len()) && is_true(&[n, 2, c], statistics_len), "{shape:?}");
            assert!(out.iter().chain(&grad_x).chain(&grad_table).all(|x| x.is_finite()), "{shape:?}");
        }
        forward
    });
}

#[test]
fn batch_norms_of_any_sizes_are_finite_or_refused() {
    quietly();
    let isas = Isa::available();
    many_times(40_000, |random| {
        let isa = random.one_of(&isas);
        let [n, c, pixels] = random.sizes();
        let shape = NormShape { n, c, pixels };
        let n_rows = 1 + random.below(3);
        let (x, table) = (random.values_of(&[n, c, pixels]), random.values_of(&[n_rows, 2, c]));
        let rows: Vec<usize> = (0..n.min(64)).map(|_| random.one_of(&[0, n_rows - 1, n_rows])).collect();
        let mut found = vec![1.0f32; random.values_of(&[2, c]).len()];
        let measured = returned(|| moments(isa, shape, &x, &mut found)).is_some();
        if measured {
            assert!(is_true(&[n, c, pixels], x.len()) && found.iter().all(|x| x.is_finite()), "{shape:?}");
        }
        let (of_batch, activation) = (random.below(2) == 0, random.one_of(&Activation::ALL));
        let norm =
            BatchNorm { shape, table: &table, rows: &rows, moments: &found, of_batch, epsilon: 1e-5, activation };
        let mut out = vec![f32::NAN; x.len()];
        let forward = returned(|| norm.forward(isa, &x, &mut out)).is_some();
        let (mut grad_table, mut grad_x) = (vec![f32::NAN; table.len()], vec![f32::NAN; x.len()]);
        let backward = returned(|| norm.backward(isa, &x, &x, &mut grad_table, &mut grad_x));
        assert_eq!(forward, backward.is_some(), "{shape:?}");
        if forward {
            assert!(is_true(&[n, c, pixels], x.len()), "{shape:?}");
            assert!(out.iter().chain(&grad_x).chain(&grad_table).all(|x| x.is_finite()), "{shape:?}");
        }
        forward
    });
}

#[test]
fn maxima_and_filters_of_any_sizes_are_right_or_refused() {
    quietly();
    let isas = Isa::available();
    many_times(40_000, |random| {
        let isa = random.one_of(&isas);
        let [n, h, w, c] = random.sizes();
        let windows = Windows { stride: random.size(), padding: random.below(3) };
        let count = |n: usize| returned(|| windows.count(n)).unwrap_or(1);
        let (x, len) = (random.values_of(&[n, h, w, c]), random.values_of(&[n, count(h), count(w), c]).len());
        let mut out = vec![f32::NAN; len];
        let pooled = returned(|| max_pool::forward(isa, &x, [n, c], [h, w], windows, &mut out)).is_some();
        if pooled {
            assert!(is_true(&[n, h, w, c], x.len()) && is_true(&[n, count(h), count(w), c], len));
            assert!(out.iter().all(|y| x.contains(y)), "{n} images of {h}×{w}×{c} by {windows:?}");
        }

        // Of sides between, a filter itself would take all memory.
        let side = |random: &mut Random| Some(random.size()).filter(|n| !(100..=1 << 40).contains(n)).unwrap_or(7);
        let (a, b) = (side(random), side(random));
        let filter = returned(|| match random.below(5) {
            0 => Filter::window_mean(a, b),
            1 => Filter::window_mean_inside(a, b),
            2 => Filter::cell_mean(a.min(99), b),
            3 => Filter::interpolation(a, b),
            _ => Filter::interpolation(a, b).transposed(),
        });
        if let Some(filter) = filter {
            assert!(filter.n_out() < 100, "{a}, {b}");
            let ones = vec![1.0; if filter.n_in() < 100 { filter.n_in() * 3 } else { 30 }];
            let mut out = vec![f32::NAN; filter.n_out() * 3];
            let one = Filter::window_mean(1, 1);
            let applied = returned(|| filter::apply(isa, &ones, [1, 3], &filter, &one, &mut out));
            assert!(applied.is_none() || is_true(&[filter.n_in(), 3], ones.len()), "{a}, {b}");
            for (i, y) in out.iter().enumerate().filter(|_| applied.is_some()) {
                let sum: f32 = filter.bands().nth(i / 3).expect("a band").1.iter().sum();
                assert!((y - sum).abs() < 1e-5, "{a}, {b}: {y}, not {sum}");
            }
            let [n, c] = random.sizes();
            let x = random.values_of(&[n, filter.n_in(), filter.n_in(), c]);
            let mut out = vec![f32::NAN; random.values_of(&[n, filter.n_out(), filter.n_out(), c]).len()];
            if returned(|| filter::apply(isa, &x, [n, c], &filter, &filter, &mut out)).is_some() {
                assert!(is_true(&[n, filter.n_in(), filter.n_in(), c], x.len()));
                assert!(is_true(&[n, filter.n_out(), filter.n_out(), c], out.len()));
                assert!(out.iter().all(|y| y.is_finite()));
            }
        }
        pooled
    });
}

#[test]
fn lengths_that_differ_are_refused_whatever_they_are() {
    quietly();
    let isas = Isa::available();
    many_times(20_000, |random| {
        let isa = random.one_of(&isas);
        let n = random.small();
        let mut len = || if random.below(6) == 0 { random.small() } else { n };
        let lens = [len(), len(), len(), len(), len()];
        let [x, y] = [lens[0], lens[1]].map(|n| vec![0.5f32; n]);
        let mut out = vec![f32::NAN; lens[2]];
        let is_same = lens[0] == lens[1] && lens[1] == lens[2];
        let activation = random.one_of(&Activation::ALL);
        assert_eq!(returned(|| elementwise::add(isa, &x, &y, &mut out)).is_some(), is_same);
        assert_eq!(returned(|| elementwise::activate_backward(isa, activation, &x, &y, &mut out)).is_some(), is_same);
        assert_eq!(returned(|| elementwise::activate(isa, activation, &x, &mut out)).is_some(), lens[0] == lens[2]);
        assert_eq!(returned(|| elementwise::add_to(isa, &mut out, &x)).is_some(), lens[0] == lens[2]);

        let [mut value, mut momentum, mut shadow] = [lens[1], lens[3], lens[4]].map(|n| vec![0.5f32; n]);
        let step = Step { rule: Rule::Sgd { lr: 0.1, momentum: 0.9 }, clip: 1.0, weight_decay: 0.0, ema_rate: 0.9 };
        let state = [&mut momentum[..], &mut [], &mut []];
        let parameter = Parameter { value: &mut value, state, shadow: &mut shadow };
        let stepped = returned(|| optimizer::step(isa, &step, [(&x[..], parameter)])).is_some();
        let fit = lens[1] == lens[0] && lens[3] == lens[0] && (lens[4] == 0 || lens[4] == lens[0]);
        assert_eq!(stepped, fit, "{lens:?}");
        stepped
    });
}

#[test]
fn memory_that_is_not_there_is_refused() {
    quietly();
    for n in [1 << 50, 1 << 59, 1 << 60, (1 << 63) - 1, usize::MAX - 14, usize::MAX] {
        assert!(returned(|| drop(Aligned::zeros(n))).is_none(), "{n}");
        assert!(returned(|| drop(Scratch::take([n]))).is_none(), "{n}");
        assert!(returned(|| drop(Scratch::take([n, n, 17]))).is_none(), "{n}");
        assert!(catch_unwind(|| Scratch::take([5]).pieces([n])[0].len()).is_err(), "{n}");
    }
    assert!(catch_unwind(|| Scratch::take([5]).pieces([1000, 1 << 40]).len()).is_err());
}

#[test]
fn a_panic_of_a_worker_reaches_the_caller_and_leaves_the_others_at_work() {
    quietly();
    let pool = rayon_of_three();
    for _ in 0..20 {
        let failed = returned(|| pool.install(|| parallel::for_each(64, |i| assert!(i != 37, "part {i}"))));
        assert!(failed.is_none());
    }
    // Instructions that no processor of this architecture has, asked for on every thread.
    let foreign = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    let mut values = vec![1.0f32; 1 << 20];
    let x = values.clone();
    assert!(returned(|| pool.install(|| elementwise::activate(foreign, Activation::Elu, &x, &mut values))).is_none());
    pool.install(|| elementwise::activate(Isa::chosen(), Activation::Elu, &x, &mut values));
    assert!(values.iter().all(|&y| y == 1.0));
}

fn rayon_of_three() -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("threads")
}
