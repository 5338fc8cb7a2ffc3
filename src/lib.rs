//! Score-based generative modelling: estimate ∇ₓ log p(x) of data at many noise levels, and draw new data from it.
//!
//! # The theory on one page
//!
//! **Blur.** Data x ~ p(x) are blurred to noise levels σ₁ > … > σ_L, x̃ = x + σᵢz with z ~ N(0, I): p_σ(x̃). With σ₁ of the
//! size of the data, p_σ₁ is smooth and nowhere empty; with σ_L too small to see, p_σ_L is the data's own distribution.
//! → [`sde::NoiseLevels`]
//!
//! **Score.** One network s(x, i) estimates ∇ₓ log p_σᵢ(x), the direction in which blurred data become more probable, at all
//! levels at once. → [`score::Score`], [`net::RefineNet`]
//!
//! **Learn.** The score of the blur of one known x is known: ∇ log N(x̃; x, σ²I) = −(x̃ − x)/σ². Its mean over all x that
//! could lie behind x̃ is ∇ log p_σ(x̃), and least squares finds means. So minimise
//!
//! ```text
//! ℓ = E ½‖s(x̃, i) + (x̃ − x)/σᵢ²‖² · σᵢ²        over data x, levels i, noise z
//! ```
//!
//! where σᵢ² makes all levels count alike. → [`loss::annealed_dsm`], [`train::Trainer`]
//!
//! Or without knowing any score: E ½‖s − ∇ log p‖² = E ½‖s‖² + tr ∂s/∂x + a constant, and E vᵀ(∂s/∂x)v over random v is the
//! trace. One Jacobian–vector product a step, which every network gives exactly ([`score::Differentiable`]), because its layers
//! are written for values that carry a tangent ([`net::Dual`]). → [`loss::ssm_vr`]
//!
//! **Draw.** Langevin dynamics x ← x + α·s(x, i) + √(2α)·z walks towards p_σᵢ and stays there. Start from uniform noise, walk at
//! σ₁, where every mode is reached, then at each smaller level, with α ∝ σᵢ²: the walk arrives at the data.
//! → [`sample::Langevin`], [`sample::annealed_steps`] (Algorithm 1)
//!
//! **Fill in.** Walk the same way, the known pixels put back after every step. → [`sample::Inpainting`]
//!
//! # From paper to module
//!
//! | paper | here |
//! |---|---|
//! | Hyvärinen 2005, score matching; Vincent 2011, denoising score matching | [`loss`] |
//! | Song et al. 2019, sliced score matching | [`loss::ssm`], [`loss::ssm_vr`], [`loss::annealed_ssm_vr`] |
//! | Pang et al. 2020, its finite differences | [`loss::Slicing::FiniteDifference`] |
//! | Song & Ermon 2019 (NCSN), §3.1 noise levels | [`sde::NoiseLevels`] |
//! | — §4.2 eqs. 5 and 6, the loss over all levels | [`loss::annealed_dsm`] |
//! | — §4.3 Algorithm 1, annealed Langevin dynamics | [`sample::annealed_steps`], [`sample::Langevin`] |
//! | — §3.2, figures 2 and 3, the plane | [`toy`] |
//! | — figure 1, ScoreNet | [`net::ResScore`] |
//! | — appendix A, the network; A.1 conditional instance norm++ | [`net::RefineNet`], [`net::Norm`] |
//! | — appendix B.3 Algorithm 2, inpainting | [`sample::Inpainting`] |
//! | Lin et al. 2017 (RefineNet), the blocks | [`net::RefineBlock`], [`net::ResidualConvUnit`], [`net::ChainedPool`], [`net::Fusion`] |
//! | Song & Ermon 2020, technique 5, moving average of the weights | [`train::Ema`] |
//! | Kingma & Ba 2015; Reddi et al. 2018 (AMSGrad) | [`train::Optimizer`] |
//! | Salimans et al. 2016 (inception score); Heusel et al. 2017 (FID); Bińkowski et al. 2018 (KID) | [`eval`] |
//! | Salmon et al. 2011 (Philox) | [`noise`] |
//!
//! # In ten lines
//!
//! Points of a mixture of two Gaussians, from its exact score:
//!
//! ```
//! use ncsn::{device::upload, noise::Noise, sample::*, score::GaussianMixture, sde::NoiseLevels};
//! # fn main() -> ncsn::Result<()> {
//! let levels = NoiseLevels::geometric(20.0, 1.0, 10)?;
//! let score = GaussianMixture::new(&[(0.8, &[5.0, 5.0]), (0.2, &[-5.0, -5.0])], 0.0, &levels);
//! let (n, device) = (16, burn::tensor::Device::flex());
//! let mut stream = Noise::new(7).stream("example", 0);
//! let mut normal = || {
//!     let mut z = vec![0.0; 2 * n];
//!     stream.normal(&mut z);
//!     upload::<2>(z, [n, 2], &device)
//! };
//! let start = normal() * 20.0;
//! for state in Langevin::new(&score, annealed_steps(&levels, 100, 0.05), start, normal) {
//!     // state.x: [16, 2], after state.n_done of 1000 updates
//! #   assert_eq!(state.x.dims(), [16, 2]);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! `examples/toy.rs` measures what comes out of it; `examples/sample_grid.rs` trains a network and draws images.

#![forbid(unsafe_code)]

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
pub mod sample;
pub mod score;
pub mod sde;
pub mod toy;
pub mod train;
mod zip;

pub use error::{Error, Result};
