//! Ordinary differential equations: Dormand and Prince's method of order 5(4), in f64 on the host.

use std::ops::Range;

use serde::Serialize;

use crate::error::{Error, Result};

/// Dormand and Prince's method of order 5(4) (1980) with the step control of SciPy's `RK45` (Hairer, Nørsett & Wanner, "Solving
/// Ordinary Differential Equations I", II.4): a step is as long as lets its error, the root mean square of error/(atol +
/// rtol·|y|), stay below 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DormandPrince {
    /// Tolerance relative to y.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// Over what the mean of the errors is taken.
    #[serde(rename = "error_norm")]
    pub norm: ErrorNorm,
}

/// Over what the mean of the errors is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorNorm {
    /// Each example's own numbers; each has steps of its own, and so does not depend on the others in its batch.
    #[default]
    PerSample,
    /// All numbers of the batch, which has common steps, as in the published program.
    Batch,
}

/// Some examples at which a derivative is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// Their numbers in the batch.
    pub examples: Vec<usize>,
    /// The time of each.
    pub t: Vec<f64>,
    /// Their states, one after the other.
    pub y: Vec<f64>,
}

/// A solution, at its end or on the way there.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The states.
    pub y: Vec<f64>,
    /// How many times the derivative of each example was asked for: 2 and 6 for each step that was tried.
    pub n_evaluations: Vec<usize>,
}

impl Default for DormandPrince {
    /// The tolerances of Song et al. 2021.
    fn default() -> Self {
        Self { rtol: 1e-5, atol: 1e-5, norm: ErrorNorm::PerSample }
    }
}

/// Times of the stages, as parts of a step.
const C: [f64; 6] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0];
/// Weights of the derivatives before each stage.
const A: [&[f64]; 6] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
];
/// Weights of the solution.
const B: [f64; 6] = [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0];
/// Weights of its error.
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339200.0, -22.0 / 525.0, 1.0 / 40.0];
/// Part of the step that would just do.
const SAFETY: f64 = 0.9;
/// How much shorter and longer the next step may be.
const FACTORS: [f64; 2] = [0.2, 10.0];

/// Examples with common steps.
struct Group {
    examples: Range<usize>,
    t: f64,
    y: Vec<f64>,
    /// Length of the next step.
    h: f64,
    /// The step in hand, signed, its end, and the state there.
    step: f64,
    end: f64,
    y_end: Vec<f64>,
    /// Derivatives at the stages of a step; the last is the first of the next one.
    k: [Vec<f64>; 7],
    was_rejected: bool,
    n_evaluations: usize,
}

impl DormandPrince {
    /// The solution of y′ = f(t, y) at `to` that is `y` at `from`, for `n` examples of equal size, one after the other in `y`. The
    /// derivatives of all examples that are not there yet are asked for at once; each example may be at another time.
    ///
    /// # Errors
    /// Those of `f`; when a tolerance is not positive; when no step is short enough, because of a derivative that is not finite, say.
    ///
    /// # Panics
    /// If `y` is no multiple of `n`, or `f` gives another number of derivatives than of states.
    pub fn solve(
        &self,
        mut f: impl FnMut(Points) -> Result<Vec<f64>>,
        ends: [f64; 2],
        y: &[f64],
        n: usize,
    ) -> Result<Solution> {
        let mut solving = self.begin(&mut f, ends, y, n)?;
        while !solving.is_done() {
            solving.step(&mut f)?;
        }
        Ok(solving.solution())
    }

    /// The beginning of [`Self::solve`], for those who want to see the states between, or to stop.
    ///
    /// # Errors
    /// As [`Self::solve`].
    ///
    /// # Panics
    /// As [`Self::solve`].
    pub fn begin(
        &self,
        mut f: impl FnMut(Points) -> Result<Vec<f64>>,
        [from, to]: [f64; 2],
        y: &[f64],
        n: usize,
    ) -> Result<Solving> {
        for (name, tolerance) in [("rtol", self.rtol), ("atol", self.atol)] {
            if !(tolerance > 0.0 && tolerance.is_finite()) {
                return Err(Error::value(name, tolerance, "a positive number"));
            }
        }
        assert!(n > 0 && y.len().is_multiple_of(n), "{} numbers of {n} examples", y.len());
        let n_each = if self.norm == ErrorNorm::Batch { n } else { 1 };
        let groups = y.chunks(n_each * (y.len() / n)).enumerate();
        let mut groups: Vec<Group> = groups.map(|(i, y)| Group::new(i * n_each..(i + 1) * n_each, from, y)).collect();
        let (direction, interval) = ((to - from).signum(), (to - from).abs());

        let mut all: Vec<&mut Group> = groups.iter_mut().filter(|_| interval > 0.0).collect();
        evaluate(&mut all, &mut f, 0, |group| (group.t, group.y.clone()))?;
        for group in &mut all {
            group.step = direction * self.first_guess(group, interval);
        }
        evaluate(&mut all, &mut f, 1, |group| (group.t + group.step, group.at(&[1.0])))?;
        for group in all {
            group.h = self.first_step(group, interval);
        }
        Ok(Solving { solver: *self, groups, direction, to })
    }

    /// The length of Euler's step that tells how much the derivative changes.
    fn first_guess(&self, group: &Group, interval: f64) -> f64 {
        let [d0, d1] = [&group.y, &group.k[0]].map(|v| self.scaled(v, &group.y, &group.y));
        let h = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 };
        h.min(interval)
    }

    /// The length of the first step, after that of Euler.
    fn first_step(&self, group: &Group, interval: f64) -> f64 {
        let (h0, [f0, f1, ..]) = (group.step.abs(), &group.k);
        let change: Vec<f64> = f1.iter().zip(f0).map(|(f1, f0)| f1 - f0).collect();
        let [d1, d2] = [f0, &change].map(|v| self.scaled(v, &group.y, &group.y));
        let d2 = d2 / h0;
        let h1 = if d1 <= 1e-15 && d2 <= 1e-15 { (h0 * 1e-3).max(1e-6) } else { (0.01 / d1.max(d2)).powf(0.2) };
        (100.0 * h0).min(h1).min(interval)
    }

    /// The error of the step in hand; it should be below 1.
    fn error(&self, group: &Group) -> f64 {
        let error: Vec<f64> = combination(&E, &group.k).map(|sum| group.step * sum).collect();
        self.scaled(&error, &group.y, &group.y_end)
    }

    /// The root mean square of v/(atol + rtol·max(|a|, |b|)).
    fn scaled(&self, v: &[f64], a: &[f64], b: &[f64]) -> f64 {
        let scale = |a: f64, b: f64| self.atol + self.rtol * a.abs().max(b.abs());
        let squares = v.iter().zip(a.iter().zip(b)).map(|(v, (a, b))| (v / scale(*a, *b)).powi(2));
        (squares.sum::<f64>() / v.len() as f64).sqrt()
    }
}

/// A solution under way, of [`DormandPrince::begin`].
pub struct Solving {
    solver: DormandPrince,
    groups: Vec<Group>,
    direction: f64,
    to: f64,
}

impl Solving {
    /// Tries a step of each example that is not at the end yet.
    ///
    /// # Errors
    /// As [`DormandPrince::solve`].
    ///
    /// # Panics
    /// As [`DormandPrince::solve`].
    pub fn step(&mut self, mut f: impl FnMut(Points) -> Result<Vec<f64>>) -> Result<()> {
        let Self { solver, groups, direction, to } = self;
        let mut active: Vec<&mut Group> = groups.iter_mut().filter(|group| group.t != *to).collect();
        for group in &mut active {
            group.begin_step(*to, *direction)?;
        }
        for stage in 1..6 {
            evaluate(&mut active, &mut f, stage, |group| (group.t + C[stage] * group.step, group.at(A[stage])))?;
        }
        for group in &mut active {
            group.y_end = group.at(&B);
        }
        evaluate(&mut active, &mut f, 6, |group| (group.end, group.y_end.clone()))?;
        for group in active {
            group.finish_step(solver.error(group));
        }
        Ok(())
    }

    /// Whether all examples are at the end.
    pub fn is_done(&self) -> bool {
        self.groups.iter().all(|group| group.t == self.to)
    }

    /// The time of the example that is farthest from the end.
    pub fn t(&self) -> f64 {
        let farthest = |a: f64, b: f64| if (self.to - b).abs() > (self.to - a).abs() { b } else { a };
        self.groups.iter().map(|group| group.t).fold(self.to, farthest)
    }

    /// The states, and how many derivatives were asked for, up to here.
    pub fn solution(&self) -> Solution {
        let n_evaluations = self.groups.iter().flat_map(|g| vec![g.n_evaluations; g.examples.len()]).collect();
        Solution { y: self.groups.iter().flat_map(|group| &group.y).copied().collect(), n_evaluations }
    }
}

impl Group {
    fn new(examples: Range<usize>, t: f64, y: &[f64]) -> Self {
        let (y, k) = (y.to_vec(), Default::default());
        Self { examples, t, y, h: 0.0, step: 0.0, end: t, y_end: Vec::new(), k, was_rejected: false, n_evaluations: 0 }
    }

    /// y and the step in hand times a sum of derivatives.
    fn at(&self, weights: &[f64]) -> Vec<f64> {
        self.y.iter().zip(combination(weights, &self.k)).map(|(y, sum)| y + self.step * sum).collect()
    }

    fn begin_step(&mut self, to: f64, direction: f64) -> Result<()> {
        let next = if direction > 0.0 { self.t.next_up() } else { self.t.next_down() };
        let shortest = 10.0 * (next - self.t).abs();
        if self.was_rejected && self.h < shortest {
            let found = format!("no step from t = {} with an error within the tolerances", self.t);
            return Err(Error::unexpected(found, "a derivative that is smooth and finite"));
        }
        let end = self.t + direction * self.h.max(shortest);
        self.end = if direction * (end - to) > 0.0 { to } else { end };
        self.step = self.end - self.t;
        Ok(())
    }

    /// Takes the step in hand if its error is below 1, and chooses the next one's length.
    fn finish_step(&mut self, error: f64) {
        let [shorter, longer] = FACTORS;
        let factor = SAFETY * error.powf(-0.2);
        // Comparisons with NaN are false: the step is rejected.
        let is_good = error < 1.0;
        let factor = match is_good {
            true if self.was_rejected => factor.min(1.0),
            true => factor.min(longer),
            false => factor.max(shorter),
        };
        self.h = self.step.abs() * factor;
        self.was_rejected = !is_good;
        if is_good {
            self.t = self.end;
            self.y = std::mem::take(&mut self.y_end);
            self.k.swap(0, 6);
        }
    }
}

/// Σ weights[j]·k[j], number by number.
fn combination<'a>(weights: &'a [f64], k: &'a [Vec<f64>; 7]) -> impl Iterator<Item = f64> + 'a {
    (0..k[0].len()).map(move |i| weights.iter().zip(k).map(|(w, k)| w * k[i]).sum())
}

/// Asks for the derivatives of all groups at once: number `slot` of their steps.
fn evaluate(
    groups: &mut [&mut Group],
    f: &mut impl FnMut(Points) -> Result<Vec<f64>>,
    slot: usize,
    point: impl Fn(&Group) -> (f64, Vec<f64>),
) -> Result<()> {
    let mut points = Points { examples: Vec::new(), t: Vec::new(), y: Vec::new() };
    for group in groups.iter() {
        let (t, y) = point(group);
        points.examples.extend(group.examples.clone());
        points.t.resize(points.examples.len(), t);
        points.y.extend(y);
    }
    if groups.is_empty() {
        return Ok(());
    }
    let n_numbers = points.y.len();
    let derivatives = f(points)?;
    assert_eq!(derivatives.len(), n_numbers, "derivatives of as many numbers");
    let mut rest = &derivatives[..];
    for group in groups {
        let (own, others) = rest.split_at(group.y.len());
        group.k[slot] = own.to_vec();
        group.n_evaluations += 1;
        rest = others;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sde::{Marginal, Process, Rates, Reverse, Vp};

    /// The largest error at t = 3 of a rotation that gets faster, y′ = t·(−y₁, y₀), and the evaluations of each example.
    fn rotation(solver: DormandPrince, starts: &[[f64; 2]], to: f64) -> (f64, Solution) {
        let f = |points: Points| {
            let pairs = points.y.as_chunks::<2>().0.iter().zip(&points.t);
            Ok(pairs.flat_map(|([a, b], t)| [-t * b, t * a]).collect())
        };
        let solution = solver.solve(f, [0.0, to], starts.as_flattened(), starts.len()).expect("a solution");
        let (sin, cos) = (to * to / 2.0).sin_cos();
        let expected = starts.iter().flat_map(|[a, b]| [a * cos - b * sin, a * sin + b * cos]);
        let error = solution.y.iter().zip(expected).map(|(y, e)| (y - e).abs()).fold(0.0, f64::max);
        (error, solution)
    }

    /// The end of `n` equal steps.
    fn equal_steps(
        mut f: impl FnMut(Points) -> Result<Vec<f64>>,
        [from, to]: [f64; 2],
        y: &[f64],
        n: usize,
    ) -> Vec<f64> {
        let mut group = Group::new(0..1, from, y);
        for i in 0..n {
            group.t = from + (to - from) * i as f64 / n as f64;
            group.step = (to - from) / n as f64;
            for stage in 0..6 {
                let point = |group: &Group| match stage {
                    0 => (group.t, group.y.clone()),
                    _ => (group.t + C[stage] * group.step, group.at(A[stage])),
                };
                evaluate(&mut [&mut group], &mut f, stage, point).expect("values");
            }
            group.y = group.at(&B);
        }
        group.y
    }

    #[test]
    fn the_error_is_of_fifth_order() {
        let error = |n: usize| {
            let f = |points: Points| Ok(vec![-points.t[0] * points.y[1], points.t[0] * points.y[0]]);
            let y = equal_steps(f, [0.0, 3.0], &[1.0, 0.5], n);
            let (sin, cos) = 4.5f64.sin_cos();
            (y[0] - (cos - 0.5 * sin)).hypot(y[1] - (sin + 0.5 * cos))
        };
        for n in [20, 40] {
            let order = (error(n) / error(2 * n)).log2();
            assert!((order - 5.0).abs() < 0.15, "{order}");
        }
        assert!((E.iter().sum::<f64>()).abs() < 1e-15);
    }

    #[test]
    fn the_error_of_a_probability_flow_is_at_least_of_fifth_order() {
        // Of N(0.5, 0.3²) under VP, from t = 1 to 1e-3: x keeps its place in units of the standard deviation.
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let at = |t: f64| {
            let Marginal { alpha, std } = vp.marginal(t);
            (alpha * 0.5, (alpha * 0.3).hypot(std))
        };
        let f = |points: Points| {
            let (t, (mean, scale)) = (points.t[0], at(points.t[0]));
            let Rates { x: a, score, .. } = Reverse::ProbabilityFlow.rates(&vp, t);
            Ok(points.y.iter().map(|x| a * x + score * (mean - x) / (scale * scale)).collect())
        };
        let ((mean, scale), (mean_end, scale_end)) = (at(1.0), at(1e-3));
        let error = |n: usize| {
            let x = equal_steps(f, [1.0, 1e-3], &[2.0], n)[0];
            (x - (mean_end + scale_end / scale * (2.0 - mean))).abs()
        };
        // The first term of the error is nearly 0 here.
        for n in [20, 40, 80] {
            let order = (error(n) / error(2 * n)).log2();
            assert!(order > 5.0, "{order}");
        }
    }

    #[test]
    fn errors_follow_the_tolerance_and_evaluations_are_those_of_scipy() {
        // nfev of SciPy 1.17.1's RK45 on the same problem.
        for (tolerance, n_expected) in [(1e-4, 110), (1e-6, 176), (1e-8, 314)] {
            let solver = DormandPrince { rtol: tolerance, atol: tolerance, norm: ErrorNorm::Batch };
            let (error, solution) = rotation(solver, &[[1.0, 0.0], [0.3, -2.0]], 3.0);
            assert!((1.0..10.0).contains(&(error / tolerance)), "{error} at {tolerance}");
            assert_eq!(solution.n_evaluations, [n_expected; 2]);
        }
    }

    #[test]
    fn steps_that_are_rejected_are_too() {
        // Van der Pol's oscillator, μ = 5, from (2, 0) at t = 0 to t = 20: SciPy 1.17.1 takes 154 steps and rejects 29.
        let f = |points: Points| {
            let [x, v] = [points.y[0], points.y[1]];
            Ok(vec![v, 5.0 * (1.0 - x * x) * v - x])
        };
        let solution = DormandPrince::default().solve(f, [0.0, 20.0], &[2.0, 0.0], 1).expect("a solution");
        assert_eq!(solution.n_evaluations, [2 + 6 * (154 + 29)]);
        for (found, expected) in solution.y.iter().zip([-1.6012950472353207, 0.19833035818542663]) {
            assert!((found - expected).abs() < 1e-10, "{found}, expected {expected}");
        }
    }

    #[test]
    fn the_probability_flow_of_a_gaussian_is_solved_as_by_scipy() {
        // Of N(0.5, 0.3²) under VP, from t = 1 to 1e-3; nfev and ends of SciPy 1.17.1's RK45, all five as one vector and each alone.
        let vp = Vp::new(0.1, 20.0, 1000).expect("valid");
        let f = |points: Points| {
            let n_each = points.y.len() / points.t.len();
            let slope = |(i, x): (usize, &f64)| {
                let t = points.t[i / n_each];
                let (Marginal { alpha, std }, Rates { x: a, score, .. }) =
                    (vp.marginal(t), Reverse::ProbabilityFlow.rates(&vp, t));
                a * x + score * (alpha * 0.5 - x) / ((alpha * 0.3).powi(2) + std * std)
            };
            Ok(points.y.iter().enumerate().map(slope).collect())
        };
        let z = [-2.0, -0.5, 0.0, 1.0, 3.0];
        let [together, apart] =
            [1, 5].map(|n| DormandPrince::default().solve(f, [1.0, 1e-3], &z, n).expect("a solution"));
        assert_eq!(together.n_evaluations, [92]);
        let expected =
            [-0.10135868109258558, 0.3488999202481342, 0.4989861206950406, 0.7991585215888534, 1.3995033233764795];
        for (found, expected) in together.y.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-10, "{found}, expected {expected}");
        }
        for (i, n_expected, expected) in
            [(0, 80, -0.10135587987999439), (3, 68, 0.7991522922974011), (4, 86, 1.399501848593135)]
        {
            assert_eq!(apart.n_evaluations[i], n_expected);
            assert!((apart.y[i] - expected).abs() < 1e-10, "{}, expected {expected}", apart.y[i]);
        }
    }

    #[test]
    fn a_solution_can_be_watched() {
        // y′ = −c·y from 1, three examples of which the last is the fastest to change.
        let rates = [0.1, 1.0, 30.0];
        let f = |points: Points| Ok(points.examples.iter().zip(&points.y).map(|(&i, y)| -rates[i] * y).collect());
        let solver = DormandPrince::default();
        let mut solving = solver.begin(f, [0.0, 1.0], &[1.0; 3], 3).expect("a beginning");
        let mut times = vec![solving.t()];
        while !solving.is_done() {
            solving.step(f).expect("a step");
            times.push(solving.t());
        }
        assert_eq!([times[0], times[times.len() - 1]], [0.0, 1.0]);
        assert!(times.is_sorted(), "{times:?}");
        // As many rounds as the example with the most steps has.
        let solution = solving.solution();
        assert_eq!(solution, solver.solve(f, [0.0, 1.0], &[1.0; 3], 3).expect("a solution"));
        assert_eq!(solution.n_evaluations.iter().max(), Some(&(2 + 6 * (times.len() - 1))));
    }

    #[test]
    fn an_example_has_its_own_steps_by_default() {
        let solver = DormandPrince::default();
        let starts = [[1.0, 0.0], [300.0, -2e4], [1e-3, 0.0]];
        let (_, together) = rotation(solver, &starts, 3.0);
        for (i, start) in starts.into_iter().enumerate() {
            let (_, alone) = rotation(solver, &[start], 3.0);
            assert_eq!(alone.y, together.y[2 * i..][..2]);
            assert_eq!(alone.n_evaluations[0], together.n_evaluations[i]);
        }
        assert!(together.n_evaluations[0] != together.n_evaluations[2], "{:?}", together.n_evaluations);
        let (_, common) = rotation(DormandPrince { norm: ErrorNorm::Batch, ..solver }, &starts, 3.0);
        assert_ne!(common.y[..2], together.y[..2]);
    }

    #[test]
    fn time_may_run_backwards_or_not_at_all() {
        let solver = DormandPrince { rtol: 1e-9, atol: 1e-9, norm: ErrorNorm::PerSample };
        let f = |points: Points| Ok(points.y.iter().map(|y| -y).collect());
        let back = solver.solve(f, [1.0, -1.0], &[1.0], 1).expect("a solution");
        assert!((back.y[0] - 2f64.exp()).abs() < 1e-7, "{}", back.y[0]);
        let nothing = solver.solve(f, [1.0, 1.0], &[1.0], 1).expect("a solution");
        assert_eq!(nothing.y, [1.0]);
    }

    #[test]
    fn what_is_not_finite_and_what_is_no_tolerance_are_refused() {
        let solver = DormandPrince::default();
        let f = |points: Points| Ok(points.t.iter().map(|t| 1.0 / (0.5 - t).max(0.0)).collect());
        let message = solver.solve(f, [0.0, 1.0], &[1.0], 1).expect_err("a pole").to_string();
        assert!(
            message.contains("found no step from t = 0.4") || message.contains("found no step from t = 0.5"),
            "{message}"
        );
        let message = DormandPrince { rtol: 0.0, ..solver }.solve(f, [0.0, 1.0], &[1.0], 1).expect_err("0").to_string();
        assert_eq!(message, "rtol is 0, expected a positive number");
    }
}
