//! Inception-v3 as the Fréchet inception distance has it: the TensorFlow graph of 2015-12-05, as its PyTorch ports write it.
//!
//! It differs from torchvision's Inception-v3, and its weights rely on that: 1008 classes, average pools that count only
//! pixels inside the image, and a maximum instead of a mean before the last block's pooled branch.

use burn::tensor::{Device, Tensor, activation::relu};
use ncsn_kernels::filter::Filter;
use ncsn_kernels::max_pool::Windows;
use ncsn_kernels::ops::conv::{Conv, conv2d};
use ncsn_kernels::ops::max_pool::max_pool_3x3;
use ncsn_kernels::ops::pixels::{channels_last, separable};

use crate::device::upload;
use crate::error::Result;

/// Added to the variance in batch norms.
const EPS: f64 = 1e-3;

/// The network for evaluation: its batch norms are a part of its convolutions.
#[derive(Clone, Debug)]
pub struct Inception {
    /// In the order in which [`graph`] meets them.
    units: Vec<Unit>,
    /// `[1008, 2048, 1, 1]`
    weight: Tensor<4>,
    /// `[1008]`
    bias: Tensor<1>,
}

/// A convolution and its batch norm.
#[derive(Clone, Debug)]
struct Unit {
    weight: Tensor<4>,
    bias: Tensor<1>,
}

/// What the network makes of a batch.
#[derive(Clone, Debug)]
pub struct InceptionMaps<M = Tensor<4>> {
    /// After the first maximum pool, `[batch, 64, 73, 73]`. Its means over the map are for debugging only, as those of the next two.
    pub first_pool: M,
    /// After the second maximum pool, `[batch, 192, 35, 35]`.
    pub second_pool: M,
    /// After the block `Mixed_6e`, `[batch, 768, 17, 17]`.
    pub mixed_6e: M,
    /// After the last block, `[batch, 2048, 8, 8]`.
    pub last: M,
}

impl InceptionMaps {
    /// The features that distances are of ("pool3"): the means of the last map, `[batch, 2048]`.
    pub fn features(&self) -> Tensor<2> {
        global_mean(&self.last)
    }
}

/// The mean over each map, `[batch, channels, height, width]` → `[batch, channels]`.
pub fn global_mean(map: &Tensor<4>) -> Tensor<2> {
    let [n, channels, height, width] = map.dims();
    map.clone().reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels])
}

impl Inception {
    /// How many features there are.
    pub const N_FEATURES: usize = 2048;
    /// How many logits there are.
    pub const N_CLASSES: usize = 1008;
    /// Height and width of the images it was trained on.
    pub const SIDE: usize = 299;

    /// The network with the weights that `get` gives for a published name (`Mixed_5b.branch1x1.conv.weight`) and a shape.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn new(device: &Device, get: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<Self> {
        let mut loader = Loader { get, device, units: Vec::new(), failed: None };
        graph(&mut loader, &3);
        let Loader { mut get, units, failed, .. } = loader;
        if let Some(error) = failed {
            return Err(error);
        }
        let shape = [Self::N_CLASSES, Self::N_FEATURES];
        let weight = upload(get("fc.weight", &shape)?, [shape[0], shape[1], 1, 1], device);
        let bias = upload(get("fc.bias", &shape[..1])?, [shape[0]], device);
        Ok(Self { units, weight, bias })
    }

    /// # Shapes
    /// `x`: `[batch, 3, 299, 299]` with values in [−1, 1], see [`crate::eval::ResizeRule`]; other sides from 75 on are possible.
    pub fn forward(&self, x: Tensor<4>) -> InceptionMaps {
        graph(&mut Runner { units: self.units.iter() }, &channels_last(x))
    }

    /// The logits without bias, which the inception score is of: `[batch, 2048]` → `[batch, 1008]`.
    pub fn logits(&self, features: Tensor<2>) -> Tensor<2> {
        // As a convolution of single pixels: what an image gets does not depend on how many there are.
        let n = features.dims()[0];
        let one_pixel = Conv { stride: 1, padding: [0; 2], dilation: 1 };
        let features = features.reshape([n, Self::N_FEATURES, 1, 1]);
        conv2d(features, self.weight.clone(), None, None, one_pixel).reshape([n, Self::N_CLASSES])
    }

    /// What classification adds to the logits, `[1008]`.
    pub fn bias(&self) -> Tensor<1> {
        self.bias.clone()
    }
}

/// What the graph is made of. A map is a tensor, or the number of its channels where weights are loaded.
trait Parts {
    type Map: Clone;

    /// Convolution, batch norm and ReLU, called `name`, to `n_out` channels.
    fn unit(&mut self, name: &str, x: &Self::Map, n_out: usize, laid: Laid) -> Self::Map;
    /// Means over 3×3 pixels, of those inside the image.
    fn mean(&mut self, x: &Self::Map) -> Self::Map;
    /// Maxima over 3×3 pixels.
    fn max(&mut self, x: &Self::Map, stride: usize, padding: usize) -> Self::Map;
    /// All channels of all maps.
    fn join(&mut self, maps: Vec<Self::Map>) -> Self::Map;
}

/// How a kernel is laid over an image.
#[derive(Clone, Copy)]
struct Laid {
    kernel: [usize; 2],
    stride: usize,
    padding: [usize; 2],
}

/// A kernel that keeps the size.
const fn same(height: usize, width: usize) -> Laid {
    Laid { kernel: [height, width], stride: 1, padding: [height / 2, width / 2] }
}

/// A 3×3 kernel that does not reach beyond the image.
const fn valid(stride: usize) -> Laid {
    Laid { kernel: [3, 3], stride, padding: [0, 0] }
}

/// The whole network.
fn graph<P: Parts>(p: &mut P, x: &P::Map) -> InceptionMaps<P::Map> {
    let x = p.unit("Conv2d_1a_3x3", x, 32, valid(2));
    let x = p.unit("Conv2d_2a_3x3", &x, 32, valid(1));
    let x = p.unit("Conv2d_2b_3x3", &x, 64, same(3, 3));
    let first_pool = p.max(&x, 2, 0);
    let x = p.unit("Conv2d_3b_1x1", &first_pool, 80, same(1, 1));
    let x = p.unit("Conv2d_4a_3x3", &x, 192, valid(1));
    let second_pool = p.max(&x, 2, 0);
    let x = block_a(p, "Mixed_5b", &second_pool, 32);
    let x = block_a(p, "Mixed_5c", &x, 64);
    let x = block_a(p, "Mixed_5d", &x, 64);
    let x = block_b(p, "Mixed_6a", &x);
    let x = block_c(p, "Mixed_6b", &x, 128);
    let x = block_c(p, "Mixed_6c", &x, 160);
    let x = block_c(p, "Mixed_6d", &x, 160);
    let mixed_6e = block_c(p, "Mixed_6e", &x, 192);
    let x = block_d(p, "Mixed_7a", &mixed_6e);
    let pooled = p.mean(&x);
    let x = block_e(p, "Mixed_7b", &x, &pooled);
    let pooled = p.max(&x, 1, 1);
    let last = block_e(p, "Mixed_7c", &x, &pooled);
    InceptionMaps { first_pool, second_pool, mixed_6e, last }
}

/// Units one after the other, from their `(name, channels, kernel)` in the block `block`.
fn chain<P: Parts>(p: &mut P, block: &str, x: &P::Map, units: &[(&str, usize, Laid)]) -> P::Map {
    units.iter().fold(x.clone(), |x, &(name, n_out, laid)| p.unit(&format!("{block}.{name}"), &x, n_out, laid))
}

fn block_a<P: Parts>(p: &mut P, name: &str, x: &P::Map, n_pooled: usize) -> P::Map {
    let one = chain(p, name, x, &[("branch1x1", 64, same(1, 1))]);
    let five = chain(p, name, x, &[("branch5x5_1", 48, same(1, 1)), ("branch5x5_2", 64, same(5, 5))]);
    let twice =
        [("branch3x3dbl_1", 64, same(1, 1)), ("branch3x3dbl_2", 96, same(3, 3)), ("branch3x3dbl_3", 96, same(3, 3))];
    let twice = chain(p, name, x, &twice);
    let pooled = p.mean(x);
    let pooled = chain(p, name, &pooled, &[("branch_pool", n_pooled, same(1, 1))]);
    p.join(vec![one, five, twice, pooled])
}

fn block_b<P: Parts>(p: &mut P, name: &str, x: &P::Map) -> P::Map {
    let three = chain(p, name, x, &[("branch3x3", 384, valid(2))]);
    let twice =
        [("branch3x3dbl_1", 64, same(1, 1)), ("branch3x3dbl_2", 96, same(3, 3)), ("branch3x3dbl_3", 96, valid(2))];
    let twice = chain(p, name, x, &twice);
    let pooled = p.max(x, 2, 0);
    p.join(vec![three, twice, pooled])
}

fn block_c<P: Parts>(p: &mut P, name: &str, x: &P::Map, c: usize) -> P::Map {
    let one = chain(p, name, x, &[("branch1x1", 192, same(1, 1))]);
    let seven = [("branch7x7_1", c, same(1, 1)), ("branch7x7_2", c, same(1, 7)), ("branch7x7_3", 192, same(7, 1))];
    let seven = chain(p, name, x, &seven);
    let twice = [
        ("branch7x7dbl_1", c, same(1, 1)),
        ("branch7x7dbl_2", c, same(7, 1)),
        ("branch7x7dbl_3", c, same(1, 7)),
        ("branch7x7dbl_4", c, same(7, 1)),
        ("branch7x7dbl_5", 192, same(1, 7)),
    ];
    let twice = chain(p, name, x, &twice);
    let pooled = p.mean(x);
    let pooled = chain(p, name, &pooled, &[("branch_pool", 192, same(1, 1))]);
    p.join(vec![one, seven, twice, pooled])
}

fn block_d<P: Parts>(p: &mut P, name: &str, x: &P::Map) -> P::Map {
    let three = chain(p, name, x, &[("branch3x3_1", 192, same(1, 1)), ("branch3x3_2", 320, valid(2))]);
    let seven = [
        ("branch7x7x3_1", 192, same(1, 1)),
        ("branch7x7x3_2", 192, same(1, 7)),
        ("branch7x7x3_3", 192, same(7, 1)),
        ("branch7x7x3_4", 192, valid(2)),
    ];
    let seven = chain(p, name, x, &seven);
    let pooled = p.max(x, 2, 0);
    p.join(vec![three, seven, pooled])
}

/// `pooled` is a mean of `x` in the first such block, a maximum in the second.
fn block_e<P: Parts>(p: &mut P, name: &str, x: &P::Map, pooled: &P::Map) -> P::Map {
    let one = chain(p, name, x, &[("branch1x1", 320, same(1, 1))]);
    let three = chain(p, name, x, &[("branch3x3_1", 384, same(1, 1))]);
    let three_a = chain(p, name, &three, &[("branch3x3_2a", 384, same(1, 3))]);
    let three_b = chain(p, name, &three, &[("branch3x3_2b", 384, same(3, 1))]);
    let twice = chain(p, name, x, &[("branch3x3dbl_1", 448, same(1, 1)), ("branch3x3dbl_2", 384, same(3, 3))]);
    let twice_a = chain(p, name, &twice, &[("branch3x3dbl_3a", 384, same(1, 3))]);
    let twice_b = chain(p, name, &twice, &[("branch3x3dbl_3b", 384, same(3, 1))]);
    let pooled = chain(p, name, pooled, &[("branch_pool", 192, same(1, 1))]);
    p.join(vec![one, three_a, three_b, twice_a, twice_b, pooled])
}

/// Loads weights; a map is the number of its channels.
struct Loader<'a, G> {
    get: G,
    device: &'a Device,
    units: Vec<Unit>,
    failed: Option<crate::Error>,
}

impl<G: FnMut(&str, &[usize]) -> Result<Vec<f32>>> Loader<'_, G> {
    fn load(&mut self, name: &str, shape: [usize; 4]) -> Result<Unit> {
        let mut weight = (self.get)(&format!("{name}.conv.weight"), &shape)?;
        let mut norm = |part: &str| (self.get)(&format!("{name}.bn.{part}"), &shape[..1]);
        let [scale, shift, mean, variance] =
            [norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?];
        let mut bias = Vec::with_capacity(shape[0]);
        for (channel, weight) in weight.chunks_exact_mut(shape[1..].iter().product()).enumerate() {
            let [scale, shift, mean, variance] =
                [&scale, &shift, &mean, &variance].map(|values| f64::from(values[channel]));
            let factor = scale / (variance + EPS).sqrt();
            weight.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
            bias.push((shift - mean * factor) as f32);
        }
        Ok(Unit { weight: upload(weight, shape, self.device), bias: upload(bias, [shape[0]], self.device) })
    }
}

impl<G: FnMut(&str, &[usize]) -> Result<Vec<f32>>> Parts for Loader<'_, G> {
    type Map = usize;

    fn unit(&mut self, name: &str, n_in: &usize, n_out: usize, laid: Laid) -> usize {
        if self.failed.is_none() {
            match self.load(name, [n_out, *n_in, laid.kernel[0], laid.kernel[1]]) {
                Ok(unit) => self.units.push(unit),
                Err(error) => self.failed = Some(error),
            }
        }
        n_out
    }

    fn mean(&mut self, x: &usize) -> usize {
        *x
    }

    fn max(&mut self, x: &usize, _: usize, _: usize) -> usize {
        *x
    }

    fn join(&mut self, maps: Vec<usize>) -> usize {
        maps.into_iter().sum()
    }
}

/// Computes, unit after unit.
struct Runner<'a> {
    units: std::slice::Iter<'a, Unit>,
}

impl Parts for Runner<'_> {
    type Map = Tensor<4>;

    fn unit(&mut self, _: &str, x: &Tensor<4>, _: usize, laid: Laid) -> Tensor<4> {
        let Unit { weight, bias } = self.units.next().expect("as many units as were loaded").clone();
        let conv = Conv { stride: laid.stride, padding: laid.padding, dilation: 1 };
        // In place: Burn does so for tensors in the order of their axes only.
        images(relu(pixels(conv2d(x.clone(), weight, Some(bias), None, conv))))
    }

    fn mean(&mut self, x: &Tensor<4>) -> Tensor<4> {
        let [.., height, width] = x.dims();
        separable(x.clone(), Filter::window_mean_inside(height, 3), Filter::window_mean_inside(width, 3))
    }

    fn max(&mut self, x: &Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
        max_pool_3x3(x.clone(), Windows { stride, padding })
    }

    fn join(&mut self, maps: Vec<Tensor<4>>) -> Tensor<4> {
        images(Tensor::cat(maps.into_iter().map(pixels).collect(), 3))
    }
}

/// `[n, c, h, w]` as `[n, h, w, c]`, the order in which kernels leave numbers.
fn pixels(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 2, 3, 1])
}

/// The inverse of [`pixels`].
fn images(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}
