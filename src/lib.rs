//! x
pub mod board;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod file;
pub mod image;
pub mod loss;
pub mod net;
pub mod noise;
pub mod sample;
pub mod score;
pub mod sde;
pub mod train;
pub use error::{Error, Result};
