//! The reverse: from noise to data. Each sampler is an iterator of states; whoever wants frames keeps them.

mod images;
mod inpaint;
mod langevin;

pub use images::{completion_chain, image_chain};
pub use inpaint::{Draw, Inpainting};
pub use langevin::{Langevin, State, Step, Streams, Updates, annealed_steps, plain_steps};
