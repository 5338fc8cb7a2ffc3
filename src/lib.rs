//! x
pub mod checkpoint;
pub mod data;
pub mod error;
pub mod file;
pub mod loss;
pub mod net;
pub mod noise;
pub mod sample;
pub mod score;
pub mod sde;
pub mod train;
pub use error::{Error, Result};
