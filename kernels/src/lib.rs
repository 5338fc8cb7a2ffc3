//! Fast CPU kernels for score networks, and the same as Burn operations with their own gradients, on GPUs too.
//!
//! The modules hold plain functions on slices, each for every instruction set of [`cpu::Isa`]. Their results do not depend on
//! the number of threads: sums are taken in one order, however the work is cut.
//!
//! Sizes may be any: those that do not fit into memory, or not to the slices, are a panic that names them.

pub mod activation;
pub mod amx;
pub mod attention;
pub mod buffer;
mod channels;
pub mod channels_last;
pub mod conv;
pub mod cpu;
pub mod elementwise;
pub mod filter;
pub mod max_pool;
pub mod norm;
#[cfg(feature = "burn")]
pub mod ops;
pub mod optimizer;
pub mod order;
pub mod parallel;
pub mod random;
pub mod simd;
mod size;
