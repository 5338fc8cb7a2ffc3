//! Score-based generative modelling: estimate ∇ₓ log p(x) of data at many noise levels, and draw new data from it.
//!
//! # The theory on one page
//!
//! **Perturb.** Data x ~ p(x) are perturbed more and more over time, x_t = α(t)·x + std(t)·z with z ~ N(0, I): p_t(x_t). In NCSN
//! only noise is added, at levels σ₁ > … > σ_L. With σ₁ of the size of the data, p_σ₁ is smooth and nowhere empty; with σ_L too
//! small to see, p_σ_L is the data's own distribution. → [`sde::Process`], [`sde::NoiseLevels`]
//!
//! **Score.** One network, with what its output means, estimates s(x, t) ≈ ∇ₓ log p_t(x), the direction in which perturbed data
//! become more probable, at all times at once. → [`score::Model`], [`score::Prediction`], [`net::RefineNet`]
//!
//! **Learn.** The score of one known x that is perturbed is known: ∇ log N(x_t; αx, std²I) = −z/std. Its mean over all x that could
//! lie behind x_t is ∇ log p_t(x_t), and least squares finds means. So minimise
//!
//! ```text
//! ℓ = E λ(t)·½‖s(x_t, t) + z/std‖²        over data x, times t, noise z
//! ```
//!
//! where λ = std² makes all times count alike. → [`loss::denoising`], [`loss::Objective`], [`train::Trainer`]
//!
//! Or without knowing any score: E ½‖s − ∇ log p‖² = E ½‖s‖² + tr ∂s/∂x + a constant, and E vᵀ(∂s/∂x)v over random v is the
//! trace. One Jacobian–vector product a step, which every network gives exactly ([`score::Differentiable`]), because its layers
//! are written for values that carry a tangent ([`net::Dual`]). → [`loss::ssm_vr`]
//!
//! **Draw.** Langevin dynamics x ← x + α·s(x, t) + √(2α)·z walks towards p_t and stays there. Start from uniform noise, walk at
//! σ₁, where every mode is reached, then at each smaller level, with α ∝ σ²: the walk arrives at the data.
//! → [`sample::AnnealedLangevin`] (Algorithm 1), [`sample::Chain`]
//!
//! Or run the perturbing process backwards, dx = [f(t)·x − g²·s(x, t)] dt + g dw̄, from its prior: predictors step back in time,
//! correctors walk at one time. Without noise and with ½g² the same marginals are those of an ordinary differential equation.
//! → [`sde::Reverse`], [`sample::PredictorCorrector`], [`sample::ProbabilityFlow`]
//!
//! **Fill in.** Walk the same way, the known pixels, or the grey image, put back. → [`sample::Known`]. Or under any other condition y,
//! by the score of p_t(x | y). → [`score::Guided`]
//!
//! # From paper to module
//!
//! | paper | here |
//! |---|---|
//! | Hyvärinen 2005, score matching; Vincent 2011, denoising score matching | [`loss`] |
//! | Song et al. 2019, sliced score matching | [`loss::ssm`], [`loss::ssm_vr`], [`loss::perturbed_ssm_vr`] |
//! | Pang et al. 2020, its finite differences | [`loss::Slicing::FiniteDifference`] |
//! | Song & Ermon 2019 (NCSN), §3.1 noise levels | [`sde::NoiseLevels`] |
//! | — §4.2 eqs. 5 and 6, the loss over all levels | [`loss::denoising`], [`loss::Weight`] |
//! | — §4.3 Algorithm 1, annealed Langevin dynamics | [`sample::AnnealedLangevin`] |
//! | — §3.2, figures 2 and 3, toy experiments in two dimensions | [`toy`] |
//! | — figure 1, ScoreNet | [`net::ResScore`] |
//! | — appendix A, the network; A.1 conditional instance norm++ | [`net::RefineNet`], [`net::Norm`] |
//! | — appendix B.3 Algorithm 2, inpainting | [`sample::Known`] |
//! | Lin et al. 2017 (RefineNet), the blocks | [`net::RefineBlock`], [`net::ResidualConvUnit`], [`net::ChainedPool`], [`net::Fusion`] |
//! | Song & Ermon 2020 (NCSNv2), technique 3, one network for all levels | [`score::Prediction::ScaledScore`] |
//! | — technique 5, moving average of the weights | [`train::Ema`] |
//! | — its program's mean of the scores of several checkpoints | [`score::Ensemble`] |
//! | Song et al. 2021 (Score-SDE), eqs. 5 to 13, processes and their reverse | [`sde::Ve`], [`sde::Vp`], [`sde::SubVp`], [`sde::Reverse`] |
//! | — eq. 7, the loss over continuous times; its likelihood weighting | [`loss::Times::Uniform`], [`loss::Weight::Likelihood`] |
//! | — algorithm 1, predictors and correctors | [`sample::PredictorCorrector`] |
//! | — §4.3, the probability flow; Dormand & Prince 1980 | [`sample::ProbabilityFlow`], [`sample::DormandPrince`] |
//! | — its likelihood (appendix D.2); Skilling 1989; Hutchinson 1990 | [`sample::Likelihood`] |
//! | — §5 and appendix I, conditions: classes, inpainting, colourisation | [`score::Guided`], [`score::ClassGuidance`], [`sample::Known`] |
//! | Kingma & Ba 2015; Reddi et al. 2018 (AMSGrad) | [`train::Optimizer`] |
//! | Salimans et al. 2016 (inception score); Heusel et al. 2017 (FID); Bińkowski et al. 2018 (KID) | [`eval`] |
//! | Salmon et al. 2011 (Philox) | [`noise`] |
//!
//! # In ten lines
//!
//! Images from a run, or from a checkpoint of ours or of the published programs:
//!
//! ```no_run
//! # fn main() -> ncsn::Result<()> {
//! use burn::tensor::Device;
//! use ncsn::checkpoint::{Saved, Which};
//! use ncsn::{image::write_png, noise::Noise};
//!
//! let device = Device::flex();
//! let saved = Saved::open("run/logs/quickstart")?;
//! let model = saved.model(Which::Averaged, &device)?;
//! let x = saved.sample(&model, 0..9, Noise::new(7), &device).finish()?;
//! for (k, picture) in saved.pictures(x)?.iter().enumerate() {
//!     write_png(format!("sample_{k}.png").as_ref(), picture)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Points of a mixture of two Gaussians, from its exact score:
//!
//! ```
//! use ncsn::{device::upload, noise::Noise, sample::*, score::GaussianMixture, sde::NoiseLevels};
//! # fn main() -> ncsn::Result<()> {
//! let levels = NoiseLevels::geometric(20.0, 1.0, 10)?;
//! let score = GaussianMixture::new(&[(0.8, &[5.0, 5.0]), (0.2, &[-5.0, -5.0])], 0.0, levels);
//! let (n, device) = (16, burn::tensor::Device::flex());
//! let mut stream = Noise::new(7).stream("example", 0);
//! let mut normal = || {
//!     let mut z = vec![0.0; 2 * n];
//!     stream.normal(&mut z);
//!     upload::<2>(z, [n, 2], &device)
//! };
//! let (start, langevin) = (normal() * 20.0, AnnealedLangevin { step_lr: 0.05, ..AnnealedLangevin::default() });
//! for state in Chain::new(&score, score.process().clone(), langevin, start, normal) {
//!     // state.x: [16, 2], after state.n_done of 1000 updates
//! #   assert_eq!(state.x.dims(), [16, 2]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The examples train a network on images in memory, draw from a checkpoint, complete an image, and define a process, a sampler and a
//! network of one's own. `docs/extending.md` says which files an addition to this crate touches.

#![forbid(unsafe_code)]

/// The listings of the page on extending, compiled.
#[cfg(doctest)]
#[doc = include_str!("../docs/extending.md")]
mod extending {}

pub mod board;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod file;
pub mod guard;
pub mod image;
pub mod loss;
pub mod net;
pub mod noise;
pub mod pickle;
pub mod plot;
pub mod record;
pub mod sample;
pub mod score;
pub mod sde;
pub mod toy;
pub mod train;
mod zip;

pub use error::{Error, Result};
