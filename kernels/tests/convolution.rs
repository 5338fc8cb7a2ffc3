//! Convolutions of random shapes against the definition in f64, on every instruction set and at every precision.

use ncsn_kernels::conv::half::{self, Method, Parts, Unit};
use ncsn_kernels::conv::{self, ConvShape, reference};
use ncsn_kernels::cpu::{Isa, Precision};

mod generator;
use generator::Random;

/// Any shape: odd sizes, one pixel, one channel, kernels whose dilation is larger than the image.
fn any_shape(random: &mut Random) -> ConvShape {
    loop {
        let kernel = [[1, 1], [3, 3], [3, 3], [3, 3], [5, 5], [2, 3], [7, 7], [4, 4], [1, 7], [7, 1]][random.below(10)];
        let channels = [1, 2, 3, 4, 8, 15, 16, 17, 24, 32, 40, 64, 80];
        let shape = ConvShape {
            n: random.between(1, 3),
            c_in: channels[random.below(13)],
            c_out: channels[random.below(13)],
            size: [random.between(1, 15), random.between(1, 15)],
            kernel,
            stride: random.between(1, 3),
            padding: [random.between(0, 5), random.between(0, 5)],
            dilation: [1, 1, 2, 3, 4, 9][random.below(6)],
        };
        if shape.checked_out_size().is_some() {
            return shape;
        }
    }
}

/// One that Winograd's filtering may take.
fn three_by_three(random: &mut Random) -> ConvShape {
    loop {
        let shape = ConvShape { kernel: [3, 3], stride: 1, ..any_shape(random) };
        let shape = ConvShape { c_in: shape.c_in.max(8), c_out: shape.c_out.max(8), ..shape };
        if shape.checked_out_size().is_some() {
            return shape;
        }
    }
}

/// The largest difference, relative to the largest expected number.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(&a, &b)| (f64::from(a) - b).abs());
    differences.fold(0.0, f64::max) / largest
}

fn check(isa: Isa, precision: Precision, shape: &ConvShape, random: &mut Random) {
    let (x, weights) = (random.values(shape.input_len()), random.values(shape.weight_len()));
    let (bias, residual) = (random.values(shape.c_out), random.values(shape.output_len()));
    let within = |what: &str, found: &[f32], expected: &[f64]| {
        let error = error(found, expected);
        assert!(error <= precision.bound(), "{what} of {shape:?} on {isa}, {precision}: error {error:.1e}");
    };

    let plain = reference::forward(shape, &x, &weights);
    // Whatever is in the output before must not matter.
    let mut out = vec![f32::NAN; shape.output_len()];
    conv::forward(isa, precision, shape, &x, &weights, None, None, &mut out);
    within("output", &out, &plain);
    let n_pixels = shape.out_size().iter().product::<usize>();
    let with_bias = plain.iter().enumerate().map(|(i, x)| x + f64::from(bias[i % shape.c_out]));
    let with_both: Vec<f64> = with_bias.zip(&residual).map(|(x, &r)| x + f64::from(r)).collect();
    conv::forward(isa, precision, shape, &x, &weights, Some(&bias), Some(&residual), &mut out);
    within("output with bias and residual", &out, &with_both);

    let grad = random.values(shape.output_len());
    let mut grad_x = vec![f32::NAN; shape.input_len()];
    conv::transposed(isa, precision, shape, &grad, &weights, None, &mut grad_x);
    within("gradient of the input", &grad_x, &reference::transposed(shape, &grad, &weights));
    let bias = random.values(shape.c_in);
    let mut with_bias = vec![f32::NAN; shape.input_len()];
    conv::transposed(isa, precision, shape, &grad, &weights, Some(&bias), &mut with_bias);
    let expected: Vec<f32> = grad_x.iter().enumerate().map(|(i, x)| x + bias[i % shape.c_in]).collect();
    assert_eq!(with_bias, expected, "transposed convolution of {shape:?} on {isa}");

    let mut found = vec![f32::NAN; shape.weight_len()];
    conv::weight_gradient(isa, precision, shape, &x, &grad, &mut found);
    within("gradient of the weights", &found, &reference::weight_gradient(shape, &x, &grad));
    let found = conv::bias_gradient(isa, &grad, shape.c_out, n_pixels);
    let mut expected = vec![0.0; shape.c_out];
    grad.iter().enumerate().for_each(|(i, &g)| expected[i % shape.c_out] += f64::from(g));
    within("gradient of the bias", &found, &expected);
}

#[test]
fn any_convolution_and_its_gradients_are_those_of_the_definition() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..120 {
        let shape = any_shape(&mut random);
        for isa in Isa::available() {
            check(isa, Precision::High, &shape, &mut random);
        }
    }
}

#[test]
fn three_by_three_kernels_keep_the_bound_of_every_precision() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..60 {
        let shape = three_by_three(&mut random);
        for isa in Isa::available() {
            for precision in Precision::ALL {
                check(isa, precision, &shape, &mut random);
            }
        }
    }
}

/// Against the definition in f64, number by number: both factors of a product are rounded to 8 binary digits, an error of 2⁻⁸
/// each, so a sum is off by 2⁻⁷ of the sum of the products' sizes, and little more for the rounding of sums of f32. In two parts they
/// are rounded to 16 digits, and the product of the two rests is 2⁻¹⁶ at the most, so it is off by 3·2⁻¹⁶. 1-D Winograd F(2, 3) keeps both
/// for the largest of the sums only: a small sum is the difference of products that belong to its neighbours, too. Where everything lies is
/// the same for both.
fn check_half(method: Method, shape: &ConvShape, random: &mut Random) {
    let [x, weights] = [shape.input_len(), shape.weight_len()].map(|n| random.values(n));
    let [grad, residual] = [(); 2].map(|()| random.values(shape.output_len()));
    let part = match method.parts {
        Parts::One => 1.0 / 125.0,
        Parts::Two => 1.0 / 21_000.0,
    };
    let sizes = |values: &[f32]| values.iter().map(|x| x.abs()).collect::<Vec<f32>>();
    let tiles = method.unit.has_tiles() && shape.kernel == [3, 3] && shape.stride == 1;
    let filtered = |width: usize| tiles && width > shape.dilation;
    let within = |what: &str, found: &[f32], expected: &[f64], sizes: &[f64], filtered: bool| {
        assert_eq!(found.len(), expected.len());
        let largest = sizes.iter().copied().fold(0.0, f64::max);
        for (i, ((&found, expected), &size)) in found.iter().zip(expected).zip(sizes).enumerate() {
            let size = if filtered { largest } else { size };
            let error = (f64::from(found) - expected).abs();
            // Not a number is no good either.
            assert!(error <= size * part + 1e-6, "{what} {i} of {shape:?} by {method:?}: {found}, expected {expected}");
        }
    };

    let (plain, size) =
        (reference::forward(shape, &x, &weights), reference::forward(shape, &sizes(&x), &sizes(&weights)));
    let mut out = vec![f32::NAN; shape.output_len()];
    half::forward(method, shape, &x, &weights, None, None, &mut out);
    within("output", &out, &plain, &size, filtered(shape.out_size()[1]));
    let bias = random.values(shape.c_out);
    let mut with_both = vec![f32::NAN; shape.output_len()];
    half::forward(method, shape, &x, &weights, Some(&bias), Some(&residual), &mut with_both);
    let added = |(i, x): (usize, &f32)| x + bias[i % shape.c_out] + residual[i];
    assert_eq!(with_both, out.iter().enumerate().map(added).collect::<Vec<_>>(), "bias and residual of {shape:?}");

    let mut grad_x = vec![f32::NAN; shape.input_len()];
    half::transposed(method, shape, &grad, &weights, None, &mut grad_x);
    let size = reference::transposed(shape, &sizes(&grad), &sizes(&weights));
    let expected = reference::transposed(shape, &grad, &weights);
    within("gradient of the input", &grad_x, &expected, &size, filtered(shape.size[1]));
    let bias = random.values(shape.c_in);
    let mut with_bias = vec![f32::NAN; shape.input_len()];
    half::transposed(method, shape, &grad, &weights, Some(&bias), &mut with_bias);
    let added = |(i, x): (usize, &f32)| x + bias[i % shape.c_in];
    assert_eq!(with_bias, grad_x.iter().enumerate().map(added).collect::<Vec<_>>(), "bias of {shape:?}");

    if shape.stride == 1 {
        let size = reference::weight_gradient(shape, &sizes(&x), &sizes(&grad));
        let mut found = vec![f32::NAN; shape.weight_len()];
        half::weight_gradient(method, shape, &x, &grad, &mut found);
        let expected = reference::weight_gradient(shape, &x, &grad);
        within("gradient of the weights", &found, &expected, &size, filtered(shape.out_size()[1]));
    }
}

#[test]
fn products_of_bf16_are_off_by_the_rounding_of_their_factors_alone() {
    let mut random = Random(0xd1b5_4a32_d192_ed03);
    let largest = ConvShape {
        n: 2,
        c_in: 33,
        c_out: 49,
        size: [19, 18],
        kernel: [3, 3],
        stride: 1,
        padding: [1; 2],
        dilation: 1,
    };
    let shapes = (0..60).map(|_| any_shape(&mut random)).collect::<Vec<_>>();
    for shape in [largest, MANY_CHANNELS].into_iter().chain(shapes) {
        for method in Method::available() {
            let mut shape = shape;
            if method.unit == Unit::Emulated {
                // It is slow.
                match shape == MANY_CHANNELS {
                    true => shape.n = 1,
                    false => {
                        (shape.n, shape.c_in, shape.c_out) = (shape.n.min(3), shape.c_in.min(35), shape.c_out.min(50));
                    }
                }
            }
            check_half(method, &shape, &mut random);
        }
    }
}

#[test]
fn half_precision_is_taken_where_it_is_faster_and_keeps_its_bound() {
    let mut random = Random(0xa076_1d64_78bd_642f);
    for _ in 0..40 {
        // Fewer channels than this are not computed in bf16 by vectors, and of a few numbers all can be small by chance.
        let shape = any_shape(&mut random);
        let shape = ConvShape { c_in: shape.c_in.max(24), c_out: shape.c_out.max(24), ..shape };
        for isa in Isa::available() {
            check(isa, Precision::Medium, &shape, &mut random);
        }
    }
}

/// The bits of all that `results` computes, by one thread, must be those by several.
fn check_threads(what: &str, results: impl Fn() -> Vec<Vec<f32>> + Send + Sync) {
    let bits = |n_threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
        pool.install(|| results().concat().into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let one = bits(1);
    for n_threads in [2, 5] {
        assert!(bits(n_threads) == one, "{what} by {n_threads} threads");
    }
}

/// A convolution of more channels than the others.
const MANY_CHANNELS: ConvShape =
    ConvShape { n: 9, c_in: 200, c_out: 136, size: [5, 6], kernel: [3, 3], stride: 1, padding: [1; 2], dilation: 1 };

/// Of every way to convolve: plain sums, tiles of two and of four, one image and more images than groups of the sums, so many
/// channels that sums are cut into strips, and so many pixels that an image is cut into bands.
const THREADS: [ConvShape; 7] = {
    let shape =
        ConvShape { n: 5, c_in: 40, c_out: 70, size: [10, 9], kernel: [3, 3], stride: 1, padding: [1; 2], dilation: 1 };
    [
        shape,
        ConvShape { n: 1, c_in: 72, c_out: 33, size: [14, 14], padding: [2; 2], dilation: 2, ..shape },
        ConvShape { n: 7, c_in: 33, c_out: 9, size: [5, 6], padding: [2; 2], dilation: 2, ..shape },
        ConvShape { n: 19, c_in: 3, c_out: 40, size: [11, 8], kernel: [4, 4], stride: 2, ..shape },
        ConvShape { n: 18, c_in: 40, c_out: 24, size: [6, 5], kernel: [1, 1], padding: [0; 2], ..shape },
        MANY_CHANNELS,
        ConvShape { n: 2, c_in: 17, c_out: 18, size: [33, 18], ..shape },
    ]
};

#[test]
fn threads_do_not_change_a_bit() {
    let mut random = Random(0x9fb2_1c65_1e98_df25);
    for shape in THREADS {
        let [x, weights] = [shape.input_len(), shape.weight_len()].map(|n| random.values(n));
        let [grad, residual] = [(); 2].map(|()| random.values(shape.output_len()));
        let bias = random.values(shape.c_out);
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| Precision::ALL.map(|p| (isa, p))) {
            check_threads(&format!("{shape:?} on {isa}, {precision}"), || {
                let [mut out, mut grad_x, mut grad_weights] =
                    [shape.output_len(), shape.input_len(), shape.weight_len()].map(|n| vec![f32::NAN; n]);
                conv::forward(isa, precision, &shape, &x, &weights, Some(&bias), Some(&residual), &mut out);
                conv::transposed(isa, precision, &shape, &grad, &weights, None, &mut grad_x);
                conv::weight_gradient(isa, precision, &shape, &x, &grad, &mut grad_weights);
                let grad_bias = conv::bias_gradient(isa, &grad, shape.c_out, shape.out_size().iter().product());
                vec![out, grad_x, grad_weights, grad_bias]
            });
        }
    }
}

#[test]
fn threads_do_not_change_a_bit_in_bf16() {
    let mut random = Random(0xe703_7ed1_a0b4_28db);
    for shape in THREADS {
        let [x, weights] = [shape.input_len(), shape.weight_len()].map(|n| random.values(n));
        let grad = random.values(shape.output_len());
        for method in Method::available() {
            // It is slow, so it gets those of the fewest channels.
            if method.unit == Unit::Emulated && ![THREADS[2], THREADS[4], THREADS[6]].contains(&shape) {
                continue;
            }
            check_threads(&format!("{shape:?} by {method:?}"), || {
                let [mut out, mut grad_x] = [shape.output_len(), shape.input_len()].map(|n| vec![f32::NAN; n]);
                half::forward(method, &shape, &x, &weights, None, None, &mut out);
                half::transposed(method, &shape, &grad, &weights, None, &mut grad_x);
                let mut results = vec![out, grad_x];
                if shape.stride == 1 {
                    let mut grad_weights = vec![f32::NAN; shape.weight_len()];
                    half::weight_gradient(method, &shape, &x, &grad, &mut grad_weights);
                    results.push(grad_weights);
                }
                results
            });
        }
    }
}

#[test]
fn no_images_have_a_gradient_of_zeros() {
    let shape = ConvShape { n: 0, ..MANY_CHANNELS };
    let mut found = vec![f32::NAN; shape.weight_len()];
    for method in Method::available() {
        half::weight_gradient(method, &shape, &[], &[], &mut found);
        assert!(found.iter().all(|&x| x == 0.0), "{method:?}");
        found.fill(f32::NAN);
    }
}

#[test]
fn images_in_bf16_do_not_depend_on_the_rest_of_the_batch() {
    let mut random = Random(0x8cb9_2ba7_2f3d_8dd7);
    let small =
        ConvShape { n: 3, c_in: 20, c_out: 24, size: [9, 7], kernel: [3, 3], stride: 1, padding: [1; 2], dilation: 1 };
    // Alone it is cut into bands of rows, the last of them shorter.
    let large = ConvShape { c_in: 5, c_out: 17, n: 17, size: [33, 18], ..small };
    let padded = ConvShape { padding: [3; 2], ..large };
    for shape in [small, large, padded, ConvShape { dilation: 3, ..padded }] {
        let [x, weights] = [shape.input_len(), shape.weight_len()].map(|n| random.values(n));
        let [residual, grad] = [(); 2].map(|()| random.values(shape.output_len()));
        let one = ConvShape { n: 1, ..shape };
        for method in Method::available() {
            let [mut out, mut grad_x] = [shape.output_len(), shape.input_len()].map(|n| vec![f32::NAN; n]);
            half::forward(method, &shape, &x, &weights, None, Some(&residual), &mut out);
            half::transposed(method, &shape, &grad, &weights, None, &mut grad_x);
            for i in 0..shape.n {
                let [x, grad_x] = [&x, &grad_x].map(|x| &x[i * one.input_len()..][..one.input_len()]);
                let [out, residual, grad] =
                    [&out, &residual, &grad].map(|x| &x[i * one.output_len()..][..one.output_len()]);
                let [mut alone, mut grad_alone] = [one.output_len(), one.input_len()].map(|n| vec![f32::NAN; n]);
                half::forward(method, &one, x, &weights, None, Some(residual), &mut alone);
                half::transposed(method, &one, grad, &weights, None, &mut grad_alone);
                assert!(alone == out && grad_alone == grad_x, "{method:?} {shape:?}");
            }
        }
    }
}
