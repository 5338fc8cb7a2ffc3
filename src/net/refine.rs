//! RefineNet's blocks (Lin et al. 2017): with norms and average pooling as in NCSN, or without norms and with max pooling as in NCSNv2.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::max_pool2d_with_indices;
use burn::tensor::ops::MaxPoolOptions;
use ncsn_kernels::filter::Filter;
use ncsn_kernels::max_pool::Windows;
use ncsn_kernels::ops::max_pool::max_pool_3x3;
use ncsn_kernels::ops::pixels::separable;

use super::{Activation, Condition, Conv2d, Dual, Norm, Parts, Work};

/// What chained residual pooling takes of each window of 5×5 pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The mean.
    Mean,
    /// The largest.
    Max,
}

impl Pool {
    fn forward(self, x: Dual<4>) -> Dual<4> {
        match self {
            Self::Mean => x.linear(average_pool_5),
            Self::Max => max_pool_5(x),
        }
    }
}

/// Norm → activation → convolution (no bias). Published as `{i}_{j}_norm`, `{i}_{j}_conv`, counted from 1.
#[derive(Module, Debug)]
pub struct Stage {
    norm: Norm,
    conv: Conv2d,
}

/// RCU, the residual convolution unit: blocks of stages, each block added to its input.
#[derive(Module, Debug)]
pub struct ResidualConvUnit {
    blocks: Vec<Vec<Stage>>,
    #[module(skip)]
    activation: Activation,
}

impl ResidualConvUnit {
    /// `n_blocks` blocks of `n_stages` stages over `n_features` channels.
    pub fn new(n_features: usize, n_blocks: usize, n_stages: usize, parts: &mut Parts<'_>) -> Self {
        let mut stage =
            || Stage { norm: parts.refine_norm(n_features), conv: parts.conv(n_features, n_features, 3, 1, false) };
        let blocks = (0..n_blocks).map(|_| (0..n_stages).map(|_| stage()).collect()).collect();
        Self { blocks, activation: parts.activation }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, mut x: Dual<4>, given: &Condition) -> Dual<4> {
        for stages in &self.blocks {
            let mut residual = None;
            for (i, stage) in stages.iter().enumerate() {
                let (h, same) = stage.norm.forward_keeping(Some(self.activation), x, given);
                let residual = residual.get_or_insert(same);
                x = match i + 1 == stages.len() {
                    true => stage.conv.forward_plus(h, residual.clone()),
                    false => stage.conv.forward(h),
                };
            }
        }
        x
    }

    /// What its convolutions do for one image.
    fn work(&self, mut side: usize) -> Work {
        self.blocks.iter().flatten().map(|stage| stage.conv.work(&mut side)).sum()
    }
}

/// `blocks.0.1.norm` → `1_2_norm`, which is no Rust identifier.
pub(super) fn published(path: &[&str]) -> Option<(usize, String)> {
    match path {
        ["blocks", block, stage, layer, ..] => {
            let [block, stage] = [block, stage].map(|i| i.parse::<usize>().ok().map(|i| i + 1));
            Some((4, format!("{}_{}_{layer}", block?, stage?)))
        }
        _ => None,
    }
}

/// CRP, chained residual pooling: x + Σ of a chain of conv(pool(norm(·))), x behind an activation.
#[derive(Module, Debug)]
pub struct ChainedPool {
    convs: Vec<Conv2d>,
    norms: Vec<Norm>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    pool: Pool,
}

impl ChainedPool {
    /// A chain of `n_stages` over `n_features` channels.
    pub fn new(n_features: usize, n_stages: usize, parts: &mut Parts<'_>) -> Self {
        let convs = (0..n_stages).map(|_| parts.conv(n_features, n_features, 3, 1, false)).collect();
        let norms = (0..n_stages).map(|_| parts.refine_norm(n_features)).collect();
        Self { convs, norms, activation: parts.activation, pool: parts.pool }
    }

    /// # Shapes
    /// `[batch, features, height, width]`, unchanged.
    pub fn forward(&self, x: Dual<4>, given: &Condition) -> Dual<4> {
        let mut sum: Option<Dual<4>> = None;
        let mut path = self.activation.forward(x);
        for (i, (conv, norm)) in self.convs.iter().zip(&self.norms).enumerate() {
            let (h, same) = norm.forward_keeping(None, path, given);
            let so_far = match sum {
                Some(sum) => sum + same,
                None => same,
            };
            let h = self.pool.forward(h);
            if i + 1 == self.convs.len() {
                return conv.forward_plus(h, so_far);
            }
            path = conv.forward(h);
            sum = Some(so_far);
        }
        path
    }
}

/// MSF, multi-resolution fusion: the sum of its inputs, each normalised (in NCSN), convolved and brought to one size.
#[derive(Module, Debug)]
pub struct Fusion {
    convs: Vec<Conv2d>,
    norms: Vec<Norm>,
}

impl Fusion {
    /// From inputs of `n_in` channels to `n_features`.
    pub fn new(n_in: &[usize], n_features: usize, parts: &mut Parts<'_>) -> Self {
        let convs = n_in.iter().map(|&n| parts.conv(n, n_features, 3, 1, true)).collect();
        let norms = n_in.iter().map(|&n| parts.refine_norm(n)).collect();
        Self { convs, norms }
    }

    /// # Shapes
    /// `xs`: `[batch, in[i], hᵢ, wᵢ]` → `[batch, features, size[0], size[1]]`
    pub fn forward(&self, xs: Vec<Dual<4>>, given: &Condition, size: [usize; 2]) -> Dual<4> {
        let mut sum = None;
        for ((conv, norm), x) in self.convs.iter().zip(&self.norms).zip(xs) {
            let [_, _, h, w] = x.dims();
            let normalised = norm.forward(x, given);
            sum = Some(match sum {
                None => conv.forward(normalised).linear(|h| bilinear(h, size)),
                Some(sum) if [h, w] == size => conv.forward_plus(normalised, sum),
                Some(sum) => sum + conv.forward(normalised).linear(|h| bilinear(h, size)),
            });
        }
        sum.expect("a fusion has inputs")
    }
}

/// Bilinear resize with the corner pixels' centres aligned.
fn bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    match [h, w] == size {
        true => x,
        false => separable(x, Filter::interpolation(h, size[0]), Filter::interpolation(w, size[1])),
    }
}

/// Means over 5×5 windows, stride 1. Padding counts: the border is divided by 25 as well.
pub fn average_pool_5(x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    separable(x, Filter::window_mean(h, 5), Filter::window_mean(w, 5))
}

/// The largest of each window of 5×5 pixels, stride 1; what lies beyond the border counts for nothing.
pub fn max_pool_5(x: Dual<4>) -> Dual<4> {
    match x.tangent {
        None => {
            // The largest of the largest: windows of 3×3 around all pixels of one of 3×3 are one of 5×5.
            let windows = Windows { stride: 1, padding: 1 };
            max_pool_3x3(max_pool_3x3(x.value, windows), windows).into()
        }
        Some(tangent) => {
            // The tangent of a maximum is that of the pixel which is the largest.
            let [n, c, h, w] = x.value.dims();
            let options = MaxPoolOptions::new([5, 5]).with_stride([1, 1]).with_padding([2, 2]);
            let (value, places) = max_pool2d_with_indices(x.value, options);
            let tangent = tangent.reshape([n, c, h * w]).gather(2, places.reshape([n, c, h * w]));
            Dual::along(value, tangent.reshape([n, c, h, w]))
        }
    }
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
    pub fn forward(&self, xs: Vec<Dual<4>>, given: &Condition, size: [usize; 2]) -> Dual<4> {
        let mut adapted: Vec<_> = self.adapt_convs.iter().zip(xs).map(|(rcu, x)| rcu.forward(x, given)).collect();
        let h = match &self.msf {
            Some(msf) => msf.forward(adapted, given, size),
            None => adapted.pop().expect("a refine block has inputs"),
        };
        self.output_convs.forward(self.crp.forward(h, given), given)
    }

    /// What its convolutions do for one image, given the sides of its inputs, the first of which is the output's.
    pub(super) fn work(&self, sides: &[usize]) -> Work {
        let mut work: Work = self.adapt_convs.iter().zip(sides).map(|(rcu, &side)| rcu.work(side)).sum();
        if let Some(msf) = &self.msf {
            work += msf.convs.iter().zip(sides).map(|(conv, &side)| conv.work(&mut { side })).sum();
        }
        let mut side = sides[0];
        work += self.crp.convs.iter().map(|conv| conv.work(&mut side)).sum();
        work + self.output_convs.work(side)
    }
}
