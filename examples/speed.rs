//! scratch
use burn::tensor::{Device, Tensor, TensorData, Int};
use ncsn::{net::*, noise::Noise, loss::annealed_dsm, sde::NoiseLevels};
use std::time::Instant;
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    let (size, width, batch) = (a[0], a[1], a[2]);
    let device = Device::flex().autodiff();
    let cfg = NetworkConfig { architecture: Architecture::Ncsn, channels: 1, width, n_levels: 10, input: InputRange::Unit };
    let net = RefineNet::new(&cfg, &mut Noise::new(0).stream("i", 0), &device).unwrap();
    let levels = NoiseLevels::geometric(1.0, 0.01, 10).unwrap();
    let mut v = vec![0.0; batch * size * size];
    Noise::new(0).stream("x", 0).normal(&mut v);
    let labels: Vec<i64> = (0..batch).map(|i| (i % 10) as i64).collect();
    for _ in 0..4 {
        let x = Tensor::<4>::from_data(TensorData::new(v.clone(), [batch, 1, size, size]), &device);
        let l = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [batch]), &device);
        let t = Instant::now();
        let loss = annealed_dsm(&net, &levels, x.clone(), &l, x, 2.0);
        let f = t.elapsed();
        let g = loss.backward();
        let n = params::gradients(&net, &g).len();
        println!("fwd {:.3} total {:.3} {n}", f.as_secs_f64(), t.elapsed().as_secs_f64());
    }
    use burn::module::Module;
    let net = net.valid();
    let d = Device::flex();
    for _ in 0..3 {
        let x = Tensor::<4>::from_data(TensorData::new(v.clone(), [batch, 1, size, size]), &d);
        let l = Tensor::<1, Int>::from_data(TensorData::new(labels.clone(), [batch]), &d);
        let t = Instant::now();
        let _ = net.forward(x, &l).into_data();
        println!("inference {:.3}", t.elapsed().as_secs_f64());
    }
}
