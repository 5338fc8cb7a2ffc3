//! RefineNet's blocks (Lin et al. 2017), conditional on the noise level.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use super::{Conv2d, Dual, Norm, Parts, elu};

/// Norm → ELU → convolution (no bias). Published as `{i}_{j}_norm`, `{i}_{j}_conv`, counted from 1.
#[derive(Module, Debug)]
pub struct Stage {
    norm: Norm,
    conv: Conv2d,
}

/// RCU, the residual convolution unit: blocks of stages, each block added to its input.
#[derive(Module, Debug)]
pub struct ResidualConvUnit {
    blocks: Vec<Vec<Stage>>,
}

impl ResidualConvUnit {
    /// `n_blocks` blocks of `n_stages` stages over `n_features` channels.
    pub fn new(n_features: usize, n_blocks: usize, n_stages: usize, parts: &mut Parts<'_>) -> Self {
        let mut stage =
            || Stage { norm: parts.norm(n_features), conv: parts.conv(n_features, n_features, 3, 1, false) };
        Self { blocks: (0..n_blocks).map(|_| (0..n_stages).map(|_| stage()).collect()).collect() }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, mut x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        for stages in &self.blocks {
            let residual = x.clone();
            for stage in stages {
                x = stage.conv.forward(elu(stage.norm.forward(x, labels)));
            }
            x = x + residual;
        }
        x
    }
}

/// CRP, chained residual pooling: x + Σ of a chain of conv(pool(norm(·))).
#[derive(Module, Debug)]
pub struct ChainedPool {
    convs: Vec<Conv2d>,
    norms: Vec<Norm>,
}

impl ChainedPool {
    /// A chain of `n_stages` over `n_features` channels.
    pub fn new(n_features: usize, n_stages: usize, parts: &mut Parts<'_>) -> Self {
        let convs = (0..n_stages).map(|_| parts.conv(n_features, n_features, 3, 1, false)).collect();
        let norms = (0..n_stages).map(|_| parts.norm(n_features)).collect();
        Self { convs, norms }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, x: Dual<4>, labels: &Tensor<1, Int>) -> Dual<4> {
        let mut x = elu(x);
        let mut path = x.clone();
        for (conv, norm) in self.convs.iter().zip(&self.norms) {
            path = conv.forward(norm.forward(path, labels).linear(average_pool_5));
            x = x + path.clone();
        }
        x
    }
}

/// MSF, multi-resolution fusion: the sum of its inputs, each normalised, convolved and brought to one size.
#[derive(Module, Debug)]
pub struct Fusion {
    convs: Vec<Conv2d>,
    norms: Vec<Norm>,
}

impl Fusion {
    /// From inputs of `n_in` channels to `n_features`.
    pub fn new(n_in: &[usize], n_features: usize, parts: &mut Parts<'_>) -> Self {
        let convs = n_in.iter().map(|&n| parts.conv(n, n_features, 3, 1, true)).collect();
        let norms = n_in.iter().map(|&n| parts.norm(n)).collect();
        Self { convs, norms }
    }

    /// # Shapes
    /// `xs`: `[batch, in[i], hᵢ, wᵢ]` → `[batch, features, size[0], size[1]]`
    pub fn forward(&self, xs: Vec<Dual<4>>, labels: &Tensor<1, Int>, size: [usize; 2]) -> Dual<4> {
        let terms = self.convs.iter().zip(&self.norms).zip(xs);
        let terms = terms.map(|((conv, norm), x)| conv.forward(norm.forward(x, labels)).linear(|h| bilinear(h, size)));
        terms.reduce(|sum, term| sum + term).expect("a fusion has inputs")
    }
}

/// Bilinear resize with the corner pixels' centres aligned.
fn bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    if [h, w] == size { x } else { separable(x, interpolation(h, size[0]), interpolation(w, size[1])) }
}

/// Means over 5×5 windows, stride 1. Padding counts: the border is divided by 25 as well.
pub fn average_pool_5(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    separable(x, window_mean(h, 5), window_mean(w, 5))
}

/// `[n_out, n_in]` weights of output pixels in input pixels, along one side of an image.
struct Filter {
    weights: Vec<f64>,
    n_out: usize,
}

/// A filter along the height, then one along the width: R·x·Cᵀ for each channel.
///
/// Two constant matrices instead of Burn's own operations: its `interpolate` has no gradient on GPUs, and its pooling of
/// 25 pixels costs more than the convolution behind it (28×28, 16 channels, two cores: 8 ms against 4 ms).
fn separable(x: Tensor<4>, rows: Filter, columns: Filter) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (device, dtype) = (x.device(), x.dtype());
    let matrix = |filter: &Filter, n_in| {
        Tensor::<2>::from_data(TensorData::new(filter.weights.clone(), [filter.n_out, n_in]), (&device, dtype))
    };
    // One small product for each channel, never one large one: the large one's rounding depends on the batch's size.
    let left = matrix(&rows, h).reshape([1, rows.n_out, h]).expand([n * c, rows.n_out, h]);
    let right = matrix(&columns, w).transpose().reshape([1, w, columns.n_out]).expand([n * c, w, columns.n_out]);
    left.matmul(x.reshape([n * c, h, w]).matmul(right)).reshape([n, c, rows.n_out, columns.n_out])
}

/// Linear interpolation between `n_in` points, the ends aligned.
fn interpolation(n_in: usize, n_out: usize) -> Filter {
    let mut weights = vec![0.0; n_out * n_in];
    let scale = if n_out > 1 { (n_in - 1) as f64 / (n_out - 1) as f64 } else { 0.0 };
    for (i, row) in weights.chunks_mut(n_in).enumerate() {
        let position = scale * i as f64;
        let left = (position.floor() as usize).min(n_in - 1);
        let fraction = position - left as f64;
        row[left] += 1.0 - fraction;
        row[(left + 1).min(n_in - 1)] += fraction;
    }
    Filter { weights, n_out }
}

/// Means of `width` neighbours, zeros beyond the ends.
fn window_mean(n: usize, width: usize) -> Filter {
    let near = |i: usize, j: usize| i.abs_diff(j) <= width / 2;
    let weight = |k: usize| if near(k / n, k % n) { 1.0 / width as f64 } else { 0.0 };
    Filter { weights: (0..n * n).map(weight).collect(), n_out: n }
}

/// A refine block: RCU on each input, fusion if there are several, chained pooling, RCU.
#[derive(Module, Debug)]
pub struct RefineBlock {
    adapt_convs: Vec<ResidualConvUnit>,
    output_convs: ResidualConvUnit,
    msf: Option<Fusion>,
    crp: ChainedPool,
}

impl RefineBlock {
    /// From inputs of `n_in` channels to `n_features`, with `n_output_blocks` blocks in the last RCU (3 at the end of
    /// the network, 1 elsewhere).
    pub fn new(n_in: &[usize], n_features: usize, n_output_blocks: usize, parts: &mut Parts<'_>) -> Self {
        Self {
            adapt_convs: n_in.iter().map(|&n| ResidualConvUnit::new(n, 2, 2, parts)).collect(),
            output_convs: ResidualConvUnit::new(n_features, n_output_blocks, 2, parts),
            msf: (n_in.len() > 1).then(|| Fusion::new(n_in, n_features, parts)),
            crp: ChainedPool::new(n_features, 2, parts),
        }
    }

    /// # Shapes
    /// `xs`: `[batch, in[i], hᵢ, wᵢ]` → `[batch, features, size[0], size[1]]`; without fusion `size` is that of the input.
    pub fn forward(&self, xs: Vec<Dual<4>>, labels: &Tensor<1, Int>, size: [usize; 2]) -> Dual<4> {
        let mut adapted: Vec<_> = self.adapt_convs.iter().zip(xs).map(|(rcu, x)| rcu.forward(x, labels)).collect();
        let h = match &self.msf {
            Some(msf) => msf.forward(adapted, labels, size),
            None => adapted.pop().expect("a refine block has inputs"),
        };
        self.output_convs.forward(self.crp.forward(h, labels), labels)
    }
}
