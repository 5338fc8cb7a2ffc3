//! x
pub mod data;
pub mod error;
pub mod loss;
pub mod net;
pub mod noise;
pub mod sample;
pub mod score;
pub mod sde;
pub use error::{Error, Result};
