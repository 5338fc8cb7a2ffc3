//! What training minimises.

mod denoising;

pub use denoising::annealed_dsm;
