//! The exponential moving average of the weights (Song & Ermon 2020, technique 5).

use std::fmt;

use burn::module::Module;
use burn::tensor::Tensor;

use crate::net::params::{self, Replace};

/// The rate of a moving average: how much of it stays in each update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EmaRate {
    /// The same rate in all updates (Song & Ermon 2020).
    Constant(f64),
    /// min(rate, (1 + n)/(10 + n)) in update n, counted from 1: early averages forget the first weights soon (the program of Song et
    /// al. 2021).
    WarmedUp(f64),
}

impl EmaRate {
    /// The rate of update `n`, counted from 1.
    pub fn at(self, n: u64) -> f64 {
        match self {
            Self::Constant(rate) => rate,
            Self::WarmedUp(rate) => rate.min((1.0 + n as f64) / (10.0 + n as f64)),
        }
    }

    /// The rate of late updates, the largest one.
    pub fn limit(self) -> f64 {
        match self {
            Self::Constant(rate) | Self::WarmedUp(rate) => rate,
        }
    }
}

impl fmt::Display for EmaRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(rate) => write!(f, "{rate}"),
            Self::WarmedUp(rate) => write!(f, "{rate}, warmed up"),
        }
    }
}

/// shadow ← rate·shadow + (1 − rate)·weights, after each step, starting from the first weights.
#[derive(Clone, Debug)]
pub struct Ema<M> {
    rate: EmaRate,
    n_updates: u64,
    pub(super) shadow: M,
}

/// rate·shadow + (1 − rate)·weights
pub(super) fn blend<const D: usize>(rate: f64, shadow: Tensor<D>, weights: Tensor<D>) -> Tensor<D> {
    shadow * rate + weights * (1.0 - rate)
}

impl<M: Module> Ema<M> {
    /// Starts at `module`'s weights, without their gradients.
    pub fn new(rate: EmaRate, module: &M) -> Self {
        Self { rate, n_updates: 0, shadow: module.valid() }
    }

    /// Goes on from a saved average, after `n_updates` updates.
    pub fn resume(rate: EmaRate, n_updates: u64, shadow: M) -> Self {
        Self { rate, n_updates, shadow: shadow.valid() }
    }

    /// Counts one more update; gives its rate.
    pub(super) fn advance(&mut self) -> f64 {
        self.n_updates += 1;
        self.rate.at(self.n_updates)
    }

    /// Moves towards `module`.
    pub fn update(&mut self, module: &M) {
        struct Blend(f64, Vec<Tensor<1>>);
        impl Replace for Blend {
            fn replace<const D: usize>(&mut self, index: usize, value: Tensor<D>) -> Tensor<D> {
                let target = self.1[index].clone().reshape(value.dims());
                blend(self.0, value, target)
            }
        }
        let rate = self.advance();
        let mut weights = Vec::new();
        params::visit(module, |_, _, value| weights.push(value.inner()));
        self.shadow = params::replace(self.shadow.clone(), Blend(rate, weights)).0;
    }

    /// Takes over `module`'s buffers, which are not averaged.
    pub fn copy_buffers(&mut self, module: &M) {
        let values = params::buffer_values(module);
        if !values.is_empty() {
            self.shadow = params::map_buffers(self.shadow.clone(), |index, _| values[index].clone());
        }
    }

    /// The averaged module, for evaluation.
    pub fn module(&self) -> &M {
        &self.shadow
    }

    /// Updates so far.
    pub fn n_updates(&self) -> u64 {
        self.n_updates
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Weight {
        w: Param<Tensor<1>>,
    }

    fn weight(x: f32) -> Weight {
        Weight { w: Param::from_tensor(Tensor::from_floats([x], &Device::flex())) }
    }

    fn value(ema: &Ema<Weight>) -> f64 {
        f64::from(ema.module().w.val().into_scalar::<f32>())
    }

    #[test]
    fn a_warmed_up_rate_rises_from_two_elevenths_to_its_bound() {
        let rate = EmaRate::WarmedUp(0.999);
        assert_eq!([1, 2, 8].map(|n| rate.at(n)), [2.0 / 11.0, 0.25, 0.5]);
        // (1 + n)/(10 + n) = 0.999 at n = 8990.
        assert!(rate.at(8_989) < 0.999 && rate.at(8_991) == 0.999 && rate.at(u64::MAX) == 0.999);
        assert_eq!([1, 9].map(|n| EmaRate::Constant(0.999).at(n)), [0.999; 2]);
    }

    #[test]
    fn a_warmed_up_average_is_the_weighted_sum_of_all_weights() {
        let rate = EmaRate::WarmedUp(0.4);
        let weights: Vec<f64> = (0..=12).map(|i| f64::from((i * i) % 7)).collect();
        let mut ema = Ema::new(rate, &weight(weights[0] as f32));
        for (n, &w) in weights.iter().enumerate().skip(1) {
            ema.update(&weight(w as f32));
            // Weights n′ ≤ n count (1 − rate(n′))·∏ rate over the updates after n′, and the first ones the whole product.
            let kept = |from: usize| (from..=n).map(|m| rate.at(m as u64)).product::<f64>();
            let of = |(m, &w): (usize, &f64)| (1.0 - rate.at(m as u64)) * kept(m + 1) * w;
            let sum = kept(1) * weights[0] + weights.iter().enumerate().skip(1).take(n).map(of).sum::<f64>();
            // Rounding in f32 of numbers up to 6.
            assert!((value(&ema) - sum).abs() <= 2e-6, "update {n}: {} and {sum}", value(&ema));
        }
    }

    #[test]
    fn an_average_that_is_resumed_goes_on_with_the_rate_of_its_next_update() {
        let rate = EmaRate::WarmedUp(0.9);
        let mut straight = Ema::new(rate, &weight(1.0));
        (2..8).for_each(|w| straight.update(&weight(w as f32)));
        let mut resumed = Ema::new(rate, &weight(1.0));
        (2..5).for_each(|w| resumed.update(&weight(w as f32)));
        resumed = Ema::resume(rate, resumed.n_updates(), resumed.module().clone());
        (5..8).for_each(|w| resumed.update(&weight(w as f32)));
        assert_eq!((resumed.n_updates(), value(&resumed)), (6, value(&straight)));
    }
}
