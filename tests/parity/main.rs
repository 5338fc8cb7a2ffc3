//! Numbers of the published program, reproduced. The fixtures lie in `../shared/fixtures`, the few small ones that every
//! clone needs in `tests/golden`; without the former the tests that need them say so and fail unless
//! `NCSN_WITHOUT_FIXTURES=1` is set.
#![allow(clippy::unwrap_used)]

mod blocks;
mod fixture;
mod langevin;
mod network;
mod pixels;
