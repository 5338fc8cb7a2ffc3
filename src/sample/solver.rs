//! Fast solvers: samples in ten to fifty evaluations of the score.

use std::fmt;

use burn::tensor::Tensor;
use serde::Serialize;

use super::grid::Grid;
use super::{Draws, Method, Stage};
use crate::score::Score;
use crate::sde::{Marginal, Process};

/// A solver of the probability flow, or of a reverse SDE, along a grid of noise levels.
///
/// All work on y = x/alpha, data with noise of the deviation σ = std/alpha, and on D, the estimate of the clean data that follows from the
/// score, so that one implementation serves every process. A step to σ = 0 gives D.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Solver {
    /// The step.
    #[serde(flatten)]
    pub rule: SolverRule,
    /// The noise levels.
    #[serde(flatten)]
    pub grid: Grid,
    /// Steps.
    pub n_steps: usize,
    /// Whether levels are those of the process that are nearest: for a network that is told no others.
    pub at_levels: bool,
}

impl Default for Solver {
    /// Heun's method in 18 steps, 35 evaluations (Karras et al. 2022).
    fn default() -> Self {
        Self { rule: SolverRule::Heun(Churn::default()), grid: Grid::default(), n_steps: 18, at_levels: false }
    }
}

/// A step from σ to the next level σ′. D₋ and D₋₋ are what D was one and two steps before, h = ln(σ/σ′).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "solver", rename_all = "snake_case")]
pub enum SolverRule {
    /// Euler's method, DDIM (Song et al. 2020); with `eta` the ancestral sampler with that share of its noise, 1 being DDPM's.
    Ddim {
        /// η, from 0.
        eta: f64,
    },
    /// Heun's method, of second order (Karras et al. 2022, alg. 1; with churn alg. 2). Two evaluations a step, the last but one.
    Heun(Churn),
    /// DPM-Solver++(2M), of second order (Lu et al. 2022).
    #[serde(rename = "dpmpp_2m")]
    Dpm2M,
    /// The same of the SDE (SDE-DPM-Solver++(2M)).
    #[serde(rename = "dpmpp_2m_sde")]
    Dpm2MSde {
        /// The share of the SDE's noise: 0 is the probability flow, 1 the reverse SDE.
        eta: f64,
        /// Factor of the noise, 1.
        s_noise: f64,
        /// Which of the two coefficients of second order.
        form: Form,
    },
    /// The same with D₋₋. As published it is of second order, like 2M, because a factor of 2 is missing.
    #[serde(rename = "dpmpp_3m_sde")]
    Dpm3MSde {
        /// As of 2M.
        eta: f64,
        /// As of 2M.
        s_noise: f64,
        /// Whether the factor is there: of third order where `eta` is 0.
        corrected: bool,
    },
}

/// The coefficient of D − D₋ in 2M of the SDE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// ½(1 − e^{−H}), H = (1 + η)·h
    #[default]
    Midpoint,
    /// 1 − (1 − e^{−H})/H
    Heun,
}

/// Noise that is added before a step and removed by it (Karras et al. 2022, alg. 2).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Churn {
    /// S_churn: how much of it; 0 for none.
    pub s_churn: f64,
    /// S_tmin: below this σ there is none.
    pub s_min: f64,
    /// S_tmax: above this σ there is none.
    #[serde(skip_serializing_if = "is_infinite")]
    pub s_max: f64,
    /// S_noise: factor of its deviation.
    pub s_noise: f64,
}

fn is_infinite(x: &f64) -> bool {
    x.is_infinite()
}

impl Default for Churn {
    /// None.
    fn default() -> Self {
        Self { s_churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 }
    }
}

impl Churn {
    /// γ of a step of `n`, by which σ grows.
    fn gamma(self, sigma: f64, n: usize) -> f64 {
        let is_inside = (self.s_min..=self.s_max).contains(&sigma);
        if is_inside { (self.s_churn / n as f64).min(std::f64::consts::SQRT_2 - 1.0) } else { 0.0 }
    }
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, grid, n_steps, .. } = self;
        write!(f, "{rule} {n_steps} {grid}")
    }
}

impl fmt::Display for SolverRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ddim { eta: 0.0 } => f.write_str("ddim"),
            Self::Ddim { eta } => write!(f, "ddim eta {eta}"),
            Self::Heun(Churn { s_churn: 0.0, .. }) => f.write_str("heun"),
            Self::Heun(Churn { s_churn, .. }) => write!(f, "heun churn {s_churn}"),
            Self::Dpm2M => f.write_str("dpmpp_2m"),
            Self::Dpm2MSde { eta, .. } => write!(f, "dpmpp_2m_sde eta {eta}"),
            Self::Dpm3MSde { eta, corrected, .. } => {
                write!(f, "dpmpp_3m_sde eta {eta}{}", if *corrected { " corrected" } else { "" })
            }
        }
    }
}

/// A point of the way: the time and what is there.
#[derive(Clone, Copy)]
struct Point {
    t: f64,
    alpha: f64,
    /// std/alpha
    sigma: f64,
    std: f64,
}

impl Solver {
    /// The method of one chain.
    pub fn steps<const D: usize>(self) -> SolverSteps<D> {
        SolverSteps { solver: self, before: Vec::new() }
    }

    /// The noise levels σ of a chain, from the largest to the smallest, and then 0 unless the grid says otherwise.
    pub fn sigmas(&self, process: &dyn Process) -> Vec<f64> {
        let (times, is_clean) = self.times(process);
        times.into_iter().map(|t| self.at(process, t).sigma).chain(is_clean.then_some(0.0)).collect()
    }

    /// The times of the levels above 0, and whether 0 follows.
    fn times(&self, process: &dyn Process) -> (Vec<f64>, bool) {
        let [first, last] = process.times();
        let range = [first, last].map(|t| self.at(process, t).sigma);
        let levels = self.grid.sigmas(range, self.n_steps, |part| self.at(process, last + part * (first - last)).sigma);
        let is_clean = levels.last() == Some(&0.0);
        let above = levels.into_iter().filter(|sigma| *sigma > 0.0);
        let mut times: Vec<f64> = above.map(|sigma| self.time(process, sigma)).collect();
        // Of few levels one may be nearest to several.
        times.dedup();
        (times, is_clean)
    }

    /// The time at which the noise has the deviation `sigma`, or, if only levels are told, that of the nearest.
    fn time(&self, process: &dyn Process, sigma: f64) -> f64 {
        let [first, last] = process.times();
        if self.at_levels {
            let distance = |level: usize| (self.at(process, process.time(level)).sigma / sigma).ln().abs();
            let nearest = (0..process.n_levels()).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
            return process.time(nearest.expect("a process has levels"));
        }
        // The deviation grows with time: bisection, until an interval of f64 has no middle.
        let (mut below, mut above) = (first, last);
        if sigma <= self.at(process, first).sigma {
            return first;
        }
        loop {
            let middle = below + (above - below) / 2.0;
            if middle <= below || middle >= above {
                return above;
            }
            *(if self.at(process, middle).sigma < sigma { &mut below } else { &mut above }) = middle;
        }
    }

    fn at(&self, process: &dyn Process, t: f64) -> Point {
        let Marginal { alpha, std } = match self.at_levels {
            true => process.discrete(process.index(t)),
            false => process.marginal(t),
        };
        Point { t, alpha, sigma: std / alpha, std }
    }
}

/// A [`Solver`] on the way, with what it remembers.
#[derive(Debug)]
pub struct SolverSteps<const D: usize> {
    solver: Solver,
    /// D of the steps before, and their h, the last one first; as many as the rule wants.
    before: Vec<(Tensor<D>, f64)>,
}

impl<const D: usize> Method<D> for SolverSteps<D> {
    fn stages(&self, process: &dyn Process) -> Vec<Stage> {
        let (times, is_clean) = self.solver.times(process);
        let steps = times.windows(2).map(|pair| Stage::Predict { from: pair[0], to: pair[1] });
        let last = times.last().filter(|_| is_clean).map(|&t| Stage::Denoise { t });
        steps.chain(last).collect()
    }

    fn step(
        &mut self,
        stage: Stage,
        score: &dyn Score<D>,
        process: &dyn Process,
        x: Tensor<D>,
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        let from = self.solver.at(process, stage.t());
        let y = scaled(x, 1.0 / from.alpha);
        let Stage::Predict { to, .. } = stage else {
            // Churn adds noise before the last step, too.
            let (y, from) = self.churned(process, y, from, draws);
            return denoised(score, y, from);
        };
        let to = self.solver.at(process, to);
        let y = match self.solver.rule {
            SolverRule::Ddim { eta } => {
                let d = denoised(score, y.clone(), from);
                let [down, up] = ancestral([from.sigma, to.sigma], eta);
                let y = towards(y, d, down / from.sigma);
                with_noise(y, up, draws)
            }
            SolverRule::Heun(_) => {
                let (y, from) = self.churned(process, y, from, draws);
                let slope = (y.clone() - denoised(score, y.clone(), from)) / from.sigma;
                let h = to.sigma - from.sigma;
                let ahead = y.clone() + slope.clone() * h;
                let there = (ahead.clone() - denoised(score, ahead, to)) / to.sigma;
                y + (slope + there) * (h / 2.0)
            }
            SolverRule::Dpm2M => self.multistep(score, y, [from, to], [0.0, 0.0], draws),
            SolverRule::Dpm2MSde { eta, s_noise, .. } | SolverRule::Dpm3MSde { eta, s_noise, .. } => {
                self.multistep(score, y, [from, to], [eta, s_noise], draws)
            }
        };
        scaled(y, to.alpha)
    }

    fn n_evaluations(&self, stage: Stage) -> usize {
        match (self.solver.rule, stage) {
            (SolverRule::Heun(_), Stage::Predict { .. }) => 2,
            _ => 1,
        }
    }
}

impl<const D: usize> SolverSteps<D> {
    /// y with more noise, and where it then is.
    fn churned(
        &self,
        process: &dyn Process,
        y: Tensor<D>,
        from: Point,
        draws: &mut dyn Draws<D>,
    ) -> (Tensor<D>, Point) {
        let SolverRule::Heun(churn) = self.solver.rule else { return (y, from) };
        if churn.s_churn == 0.0 {
            return (y, from);
        }
        let z = draws.normal(y.dims(), &y.device());
        let gamma = churn.gamma(from.sigma, self.solver.n_steps);
        let [_, last] = process.times();
        // Beyond the largest time there is no more noise.
        let most = self.solver.at(process, last).sigma;
        let sigma = (from.sigma * (1.0 + gamma)).min(most);
        if sigma <= from.sigma {
            return (y, from);
        }
        let to = self.solver.at(process, self.solver.time(process, sigma));
        let more = (to.sigma.powi(2) - from.sigma.powi(2)).max(0.0).sqrt();
        (y + z * (more * churn.s_noise), to)
    }

    /// A step of DPM-Solver++ with what is remembered: of first order at first.
    fn multistep(
        &mut self,
        score: &dyn Score<D>,
        y: Tensor<D>,
        [from, to]: [Point; 2],
        [eta, s_noise]: [f64; 2],
        draws: &mut dyn Draws<D>,
    ) -> Tensor<D> {
        let d = denoised(score, y.clone(), from);
        let h = (from.sigma / to.sigma).ln();
        let wide = (1.0 + eta) * h;
        let a = -(-wide).exp_m1();
        let second = 1.0 - a / wide;
        let mut next = y * (1.0 - a) + d.clone() * a;
        match (self.solver.rule, &self.before[..]) {
            (_, []) => {}
            (SolverRule::Dpm3MSde { corrected, .. }, [(d1, h1), (d2, h2)]) => {
                let [r0, r1] = [h1 / h, h2 / h];
                let first = (d.clone() - d1.clone()) / r0;
                let change = first.clone() - (d1.clone() - d2.clone()) / r1;
                let third = (second / wide - 0.5) * if corrected { 2.0 } else { 1.0 };
                next = next + first * second + change * ((second * r0 - third) / (r0 + r1));
            }
            (rule, [(d1, h1), ..]) => {
                let factor = match rule {
                    SolverRule::Dpm2MSde { form: Form::Heun, .. } | SolverRule::Dpm3MSde { .. } => second,
                    _ => a / 2.0,
                };
                next = next + (d.clone() - d1.clone()) * (factor * h / h1);
            }
        }
        self.before.insert(0, (d, h));
        let n_kept = if matches!(self.solver.rule, SolverRule::Dpm3MSde { .. }) { 2 } else { 1 };
        self.before.truncate(n_kept);
        let noise = to.sigma * (-(-2.0 * eta * h).exp_m1()).sqrt() * s_noise;
        with_noise(next, noise, draws)
    }
}

/// D = y + σ²·(score in y): the estimate of the clean data.
fn denoised<const D: usize>(score: &dyn Score<D>, y: Tensor<D>, at: Point) -> Tensor<D> {
    let s = score.score(scaled(y.clone(), at.alpha), &vec![at.t; y.dims()[0]]);
    y + s * (at.sigma * at.std)
}

/// Euler's step: `share` of y, the rest of D.
fn towards<const D: usize>(y: Tensor<D>, d: Tensor<D>, share: f64) -> Tensor<D> {
    y * share + d * (1.0 - share)
}

/// The level to which an ancestral step from σ to σ′ goes, and the deviation of the noise that it then adds.
fn ancestral([from, to]: [f64; 2], eta: f64) -> [f64; 2] {
    let up = (eta * to * (from * from - to * to).max(0.0).sqrt() / from).min(to);
    [(to * to - up * up).sqrt(), up]
}

fn with_noise<const D: usize>(y: Tensor<D>, factor: f64, draws: &mut dyn Draws<D>) -> Tensor<D> {
    if factor == 0.0 {
        return y;
    }
    let z = draws.normal(y.dims(), &y.device());
    y + z * factor
}

fn scaled<const D: usize>(x: Tensor<D>, factor: f64) -> Tensor<D> {
    if factor == 1.0 { x } else { x * factor }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use burn::tensor::{DType, Device, TensorData};

    use super::*;
    use crate::sample::Chain;
    use crate::sde::{NoiseLevels, Vp};

    /// The noise is added, and its deviation is the time.
    #[derive(Debug)]
    struct Plain;

    impl Process for Plain {
        fn marginal(&self, t: f64) -> Marginal {
            Marginal { alpha: 1.0, std: t }
        }

        fn times(&self) -> [f64; 2] {
            [0.05, 20.0]
        }

        fn n_levels(&self) -> usize {
            100
        }
    }

    const MEAN: f64 = 0.7;
    const STD: f64 = 0.5;

    /// The score of N(0.7, 0.5²) under a process.
    struct Gaussian(Arc<dyn Process>);

    impl Score<2> for Gaussian {
        fn score(&self, x: Tensor<2>, t: &[f64]) -> Tensor<2> {
            let Marginal { alpha, std } = self.0.marginal(t[0]);
            (x - alpha * MEAN) * (-1.0 / ((alpha * STD).powi(2) + std * std))
        }
    }

    fn numbers(values: &[f64]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len(), 1]), (&Device::flex(), DType::F64))
    }

    fn drawn(solver: Solver, process: Arc<dyn Process>, start: &[f64]) -> Vec<f64> {
        let draws = || -> Tensor<2> { unreachable!("no noise is asked for") };
        let chain = Chain::new(Gaussian(process.clone()), process, solver.steps(), numbers(start), draws);
        chain.finish().try_into_vec_as().expect("f64")
    }

    #[test]
    fn errors_fall_with_the_order_of_each_solver() {
        let rules = [
            (SolverRule::Ddim { eta: 0.0 }, 0.9..1.1),
            (SolverRule::Heun(Churn::default()), 1.8..2.2),
            (SolverRule::Dpm2M, 1.8..2.2),
            (SolverRule::Dpm2MSde { eta: 0.0, s_noise: 1.0, form: Form::Heun }, 1.8..2.2),
            (SolverRule::Dpm3MSde { eta: 0.0, s_noise: 1.0, corrected: false }, 1.7..2.4),
            (SolverRule::Dpm3MSde { eta: 0.0, s_noise: 1.0, corrected: true }, 2.8..5.0),
        ];
        let (from, to) = (20.0f64, 0.05f64);
        let exact = MEAN + (15.0 - MEAN) * ((STD * STD + to * to) / (STD * STD + from * from)).sqrt();
        for (rule, order) in rules {
            let error = |n: usize| {
                let level = |i: usize| from * (to / from).powf(i as f64 / n as f64);
                let levels = (0..=n).map(level).collect();
                let solver = Solver { rule, grid: Grid::Given { levels }, n_steps: n, at_levels: false };
                (drawn(solver, Arc::new(Plain), &[15.0])[0] - exact).abs()
            };
            let found = (error(64) / error(128)).log2();
            // Of third order, errors of either sign cancel in part.
            assert!(order.contains(&found), "{rule}: order {found}");
        }
    }

    #[test]
    fn the_flow_of_a_process_that_shrinks_data_is_that_of_one_that_does_not() {
        let vp: Arc<dyn Process> = Arc::new(Vp::new(0.1, 20.0, 1000).expect("valid"));
        let solver = Solver { n_steps: 200, ..Solver::default() };
        let sigmas = solver.sigmas(&*vp);
        assert_eq!(sigmas.len(), 201);
        let Marginal { alpha, std } = vp.marginal(1.0);
        assert!((sigmas[0] / (std / alpha) - 1.0).abs() < 1e-12 && sigmas[200] == 0.0);
        let start = [1.3, -0.4];
        let found = drawn(solver.clone(), vp.clone(), &start);
        for (found, start) in found.iter().zip(start) {
            let sigma = std / alpha;
            let exact = MEAN + (start / alpha - MEAN) * (STD * STD / (STD * STD + sigma * sigma)).sqrt();
            assert!((found - exact).abs() < 3e-3, "{found}, expected {exact}");
        }
        // A network that is told levels is asked at these alone.
        let levels = NoiseLevels::geometric(10.0, 0.1, 5).expect("valid");
        let at_levels = Solver { at_levels: true, ..solver };
        let found = at_levels.sigmas(&levels);
        assert_eq!(found, [levels.sigmas(), &[0.0]].concat());
        let discrete = at_levels.sigmas(&*vp);
        assert!(discrete.windows(2).all(|pair| pair[0] > pair[1]), "{discrete:?}");
    }
}
