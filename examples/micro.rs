//! scratch
use burn::tensor::{Device, Tensor, TensorData, Int};
use ncsn::{net::*, noise::Noise};
use std::time::Instant;
fn time(name: &str, x: &Tensor<4>, f: impl Fn(Tensor<4>) -> Tensor<4>) {
    let mut best = (1e9f64, 1e9f64);
    for _ in 0..8 {
        let x = x.clone().detach().require_grad();
        let t = Instant::now();
        let y = f(x.clone());
        let fw = t.elapsed().as_secs_f64();
        let s = y.sum();
        let t = Instant::now();
        let g = s.backward();
        let _ = x.grad(&g).unwrap();
        best = (best.0.min(fw * 1e3), best.1.min(t.elapsed().as_secs_f64() * 1e3));
    }
    println!("{name}: fwd {:.2} ms bwd {:.2} ms", best.0, best.1);
}
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    let (size, width, batch) = (a[0], a[1], a[2]);
    let device = Device::flex().autodiff();
    let mut v = vec![0.0; batch * width * size * size];
    Noise::new(0).stream("x", 0).normal(&mut v);
    let x = Tensor::<4>::from_data(TensorData::new(v, [batch, width, size, size]), &device);
    let labels = Tensor::<1, Int>::zeros([batch], &device);
    let mut s = Noise::new(0).stream("w", 0);
    let c3 = Conv2d::new(width, width, 3, 1, false, &mut s, &device);
    let norm = Norm::new(NormKind::InstancePlus, width, 10, &mut s, &device);
    time("conv3", &x, |x| c3.forward(x));
    time("elu", &x, elu);
    time("elu burn", &x, |x| burn::tensor::activation::elu(x, 1.0));
    time("relu", &x, burn::tensor::activation::relu);
    time("norm", &x, |x| norm.forward(x, &labels));
    time("exp", &x, |x| x.exp());
    time("clamp", &x, |x| x.clamp_max(0.0));
    time("add", &x, |x| x.clone() + x);
    time("mean", &x, |x| { let [n,c,h,w] = x.dims(); x.reshape([n, c, h*w]).mean_dim(2).reshape([n,c,1,1]) });
    time("pool5", &x, |x| burn::tensor::module::avg_pool2d(x, burn::tensor::ops::AvgPoolOptions::new([5,5]).with_stride([1,1]).with_padding([2,2])));
    time("pool5m", &x, average_pool_5);
    time("pool2", &x, |x| burn::tensor::module::avg_pool2d(x, burn::tensor::ops::AvgPoolOptions::new([2,2])));
}
