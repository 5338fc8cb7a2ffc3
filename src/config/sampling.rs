//! `sampling:` (ours), Langevin dynamics.

use super::fields::{Fields, Flag, NOT_NEGATIVE, OrNone, POSITIVE, Section};
use crate::error::Result;
use crate::sample::{
    AnnealedLangevin, Churn, Corrector, DormandPrince, ErrorNorm, Form, Grid, Norms, Predictor, PredictorCorrector,
    ProbabilityFlow, Sampler, Solver, SolverRule,
};
use crate::sde::Reverse;

/// Langevin dynamics, whose constants the published program fixes.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Score-SDE: how samples are drawn; by annealed Langevin dynamics if the file does not say it.
    pub method: Method,
    /// Score-SDE: the predictor of predictor–corrector sampling.
    pub predictor: PredictorName,
    /// Score-SDE: the corrector.
    pub corrector: CorrectorName,
    /// Score-SDE: the signal-to-noise ratio of the corrector.
    pub snr: f64,
    /// Score-SDE: whether the last step adds no noise.
    pub noise_removal: bool,
    /// Score-SDE: whether the predictor follows the probability flow.
    pub probability_flow: bool,
    /// Ours: whether the corrector's step size comes from means over the batch, as in the published program.
    pub batch_mean_norms: bool,
    /// Ours: tolerance of the probability flow's solver relative to x.
    pub rtol: f64,
    /// Ours: its absolute tolerance.
    pub atol: f64,
    /// Ours: the fast solver of `method: solver`.
    pub solver: SolverName,
    /// Ours: how its noise levels lie.
    pub grid: GridName,
    /// Ours: ρ of the grid; its own default if the file does not say it.
    pub rho: Option<f64>,
    /// Ours: the share of the noise that ancestral and SDE solvers add; their own default if the file does not say it.
    pub eta: Option<f64>,
    /// EDM: S_churn of Heun's method.
    pub s_churn: f64,
    /// EDM: S_tmin.
    pub s_tmin: f64,
    /// EDM: S_tmax; without a bound if the file does not say it.
    pub s_tmax: Option<f64>,
    /// EDM: S_noise, the factor of what solvers add.
    pub s_noise: f64,
    /// Ours: the steps of a solver, or of a chain of a network that is told any time; 18, or as many as the process has levels, if the file
    /// does not say it.
    pub n_steps: Option<usize>,
    /// T, steps at each level.
    pub n_steps_each: usize,
    /// Step size at σ_L.
    pub step_lr: f64,
    /// NCSNv2: whether a last step removes the noise that is left.
    pub denoise: bool,
    /// NCSNv2: images drawn at a time.
    pub batch_size: Option<u64>,
    /// NCSNv2: whether chains begin at perturbed training images.
    pub data_init: bool,
    /// NCSNv2: the step of the checkpoint to draw from; the newest if the file does not say it.
    pub ckpt_id: Option<u64>,
    /// NCSNv2: whether only the last states are kept.
    pub final_only: bool,
    /// NCSNv2: whether samples are for FID, an image a file.
    pub fid: bool,
    /// NCSNv2: how many of them.
    pub num_samples4fid: u64,
    /// NCSNv2: whether images are completed.
    pub inpainting: bool,
    /// NCSNv2: whether rows between two images are drawn.
    pub interpolation: bool,
    /// NCSNv2: images of such a row.
    pub n_interpolations: u64,
    /// Samples drawn at each snapshot; 0 for none.
    pub snapshot_images: u64,
    /// Samples drawn when training is done.
    pub final_images: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            method: Method::Langevin,
            predictor: PredictorName::ReverseDiffusion,
            corrector: CorrectorName::Langevin,
            snr: 0.16,
            noise_removal: true,
            probability_flow: false,
            batch_mean_norms: false,
            rtol: 1e-5,
            atol: 1e-5,
            solver: SolverName::Heun,
            grid: GridName::Karras,
            rho: None,
            eta: None,
            s_churn: 0.0,
            s_tmin: 0.0,
            s_tmax: None,
            s_noise: 1.0,
            n_steps: None,
            n_steps_each: 100,
            step_lr: 2e-5,
            denoise: false,
            batch_size: None,
            data_init: false,
            ckpt_id: None,
            final_only: false,
            fid: false,
            num_samples4fid: 10_000,
            inpainting: false,
            interpolation: false,
            n_interpolations: 15,
            snapshot_images: 9,
            final_images: 25,
        }
    }
}

impl Section for Sampling {
    const NAME: &'static str = "sampling";

    fn fields(&mut self, f: &mut impl Fields) -> Result<()> {
        f.key("method", &mut self.method, &METHODS)?;
        f.key("predictor", &mut self.predictor, &PREDICTORS)?;
        f.key("corrector", &mut self.corrector, &CORRECTORS)?;
        f.key("snr", &mut self.snr, POSITIVE)?;
        f.key("noise_removal", &mut self.noise_removal, Flag)?;
        f.key("probability_flow", &mut self.probability_flow, Flag)?;
        f.check("probability_flow", !self.probability_flow || self.predictor != PredictorName::AncestralSampling, || {
            "sampling.probability_flow is true, expected false with sampling.predictor ancestral_sampling, which has none"
                .into()
        })?;
        f.key("batch_mean_norms", &mut self.batch_mean_norms, Flag)?;
        f.key("rtol", &mut self.rtol, POSITIVE)?;
        f.key("atol", &mut self.atol, POSITIVE)?;
        f.key("solver", &mut self.solver, &SOLVERS)?;
        f.key("grid", &mut self.grid, &GRIDS)?;
        f.key("rho", &mut self.rho, OrNone(POSITIVE))?;
        f.key("eta", &mut self.eta, OrNone(NOT_NEGATIVE))?;
        f.key("s_churn", &mut self.s_churn, NOT_NEGATIVE)?;
        f.key("s_tmin", &mut self.s_tmin, NOT_NEGATIVE)?;
        f.key("s_tmax", &mut self.s_tmax, OrNone(POSITIVE))?;
        f.key("s_noise", &mut self.s_noise, POSITIVE)?;
        f.key("n_steps", &mut self.n_steps, OrNone(1..=100_000))?;
        f.key("n_steps_each", &mut self.n_steps_each, 1..=1_000_000)?;
        f.key("step_lr", &mut self.step_lr, POSITIVE)?;
        f.key("denoise", &mut self.denoise, Flag)?;
        f.key("batch_size", &mut self.batch_size, OrNone(1..=65_536))?;
        f.key("data_init", &mut self.data_init, Flag)?;
        f.key("ckpt_id", &mut self.ckpt_id, OrNone(0..=u64::MAX))?;
        f.key("final_only", &mut self.final_only, Flag)?;
        f.key("fid", &mut self.fid, Flag)?;
        f.key("num_samples4fid", &mut self.num_samples4fid, 1..=10_000_000)?;
        f.key("inpainting", &mut self.inpainting, Flag)?;
        f.key("interpolation", &mut self.interpolation, Flag)?;
        f.key("n_interpolations", &mut self.n_interpolations, 2..=1000)?;
        f.key("snapshot_images", &mut self.snapshot_images, 0..=400)?;
        f.key("final_images", &mut self.final_images, 1..=400)
    }
}

/// Steps of a solver, if a file does not say it: those of EDM on CIFAR-10.
const N_STEPS: usize = 18;

/// A way to draw samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Annealed Langevin dynamics.
    Langevin,
    /// Predictor–corrector sampling.
    PredictorCorrector,
    /// The probability flow.
    Ode,
    /// A fast solver.
    Solver,
}

const METHODS: [(&str, Method); 4] = [
    ("langevin", Method::Langevin),
    ("pc", Method::PredictorCorrector),
    ("ode", Method::Ode),
    ("solver", Method::Solver),
];

/// A fast solver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see SolverRule, which has the same names")]
pub enum SolverName {
    Ddim,
    Heun,
    Dpm2M,
    Dpm2MSde,
    Dpm2MSdeHeun,
    Dpm3MSde,
    Dpm3MSdeCorrected,
}

/// The solvers by their names in files.
pub const SOLVERS: [(&str, SolverName); 7] = [
    ("ddim", SolverName::Ddim),
    ("heun", SolverName::Heun),
    ("dpmpp_2m", SolverName::Dpm2M),
    ("dpmpp_2m_sde", SolverName::Dpm2MSde),
    ("dpmpp_2m_sde_heun", SolverName::Dpm2MSdeHeun),
    ("dpmpp_3m_sde", SolverName::Dpm3MSde),
    ("dpmpp_3m_sde_corrected", SolverName::Dpm3MSdeCorrected),
];

/// How the noise levels of a solver lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Grid, which has the same names")]
pub enum GridName {
    Karras,
    Exponential,
    Polyexponential,
    Vp,
    Uniform,
}

const GRIDS: [(&str, GridName); 5] = [
    ("karras", GridName::Karras),
    ("exponential", GridName::Exponential),
    ("polyexponential", GridName::Polyexponential),
    ("vp", GridName::Vp),
    ("uniform", GridName::Uniform),
];

/// A predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Predictor, which has the same names")]
pub enum PredictorName {
    EulerMaruyama,
    ReverseDiffusion,
    AncestralSampling,
    None,
}

const PREDICTORS: [(&str, PredictorName); 4] = [
    ("euler_maruyama", PredictorName::EulerMaruyama),
    ("reverse_diffusion", PredictorName::ReverseDiffusion),
    ("ancestral_sampling", PredictorName::AncestralSampling),
    ("none", PredictorName::None),
];

/// A corrector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "see Corrector, which has the same names")]
pub enum CorrectorName {
    Langevin,
    Ald,
    None,
}

const CORRECTORS: [(&str, CorrectorName); 3] =
    [("langevin", CorrectorName::Langevin), ("ald", CorrectorName::Ald), ("none", CorrectorName::None)];

impl Sampling {
    /// How samples are drawn, from a network that is told any time or, with `at_levels`, those of its levels.
    pub(super) fn sampler(&self, at_levels: bool) -> Sampler {
        let Self { step_lr, n_steps_each, denoise, noise_removal, snr, .. } = *self;
        match self.method {
            Method::Langevin => Sampler::AnnealedLangevin(AnnealedLangevin { step_lr, n_steps_each, denoise }),
            Method::PredictorCorrector => {
                let (predictor, corrector) = (self.predictor(), self.corrector(snr));
                Sampler::PredictorCorrector(PredictorCorrector { predictor, corrector, n_steps_each, noise_removal })
            }
            Method::Ode => Sampler::ProbabilityFlow(self.flow()),
            Method::Solver => Sampler::Solver(Solver {
                rule: self.rule(),
                grid: self.levels(),
                n_steps: self.n_steps.unwrap_or(N_STEPS),
                at_levels,
            }),
        }
    }

    fn rule(&self) -> SolverRule {
        let Self { s_churn, s_tmin, s_tmax, s_noise, .. } = *self;
        let eta = |default: f64| self.eta.unwrap_or(default);
        let two = |form| SolverRule::Dpm2MSde { eta: eta(1.0), s_noise, form };
        let three = |corrected| SolverRule::Dpm3MSde { eta: eta(1.0), s_noise, corrected };
        match self.solver {
            SolverName::Ddim => SolverRule::Ddim { eta: eta(0.0) },
            SolverName::Heun => {
                let s_max = s_tmax.unwrap_or(f64::INFINITY);
                SolverRule::Heun(Churn { s_churn, s_min: s_tmin, s_max, s_noise })
            }
            SolverName::Dpm2M => SolverRule::Dpm2M,
            SolverName::Dpm2MSde => two(Form::Midpoint),
            SolverName::Dpm2MSdeHeun => two(Form::Heun),
            SolverName::Dpm3MSde => three(false),
            SolverName::Dpm3MSdeCorrected => three(true),
        }
    }

    fn levels(&self) -> Grid {
        match self.grid {
            GridName::Karras => Grid::Karras { rho: self.rho.unwrap_or(7.0) },
            GridName::Exponential => Grid::Exponential,
            GridName::Polyexponential => Grid::Polyexponential { rho: self.rho.unwrap_or(1.0) },
            GridName::Vp => Grid::Vp,
            GridName::Uniform => Grid::Uniform,
        }
    }

    /// The probability flow, whether samples are drawn by it or not.
    pub(super) fn flow(&self) -> ProbabilityFlow {
        let Self { rtol, atol, noise_removal, .. } = *self;
        let norm = if self.batch_mean_norms { ErrorNorm::Batch } else { ErrorNorm::PerSample };
        ProbabilityFlow { solver: DormandPrince { rtol, atol, norm }, noise_removal }
    }

    fn predictor(&self) -> Predictor {
        let reverse = if self.probability_flow { Reverse::ProbabilityFlow } else { Reverse::Sde };
        match self.predictor {
            PredictorName::EulerMaruyama => Predictor::EulerMaruyama(reverse),
            PredictorName::ReverseDiffusion => Predictor::ReverseDiffusion(reverse),
            PredictorName::AncestralSampling => Predictor::AncestralSampling,
            PredictorName::None => Predictor::None,
        }
    }

    fn corrector(&self, snr: f64) -> Corrector {
        let norms = if self.batch_mean_norms { Norms::BatchMean } else { Norms::PerSample };
        match self.corrector {
            CorrectorName::Langevin => Corrector::Langevin { snr, norms },
            CorrectorName::Ald => Corrector::Ald { snr },
            CorrectorName::None => Corrector::None,
        }
    }
}
