//! Where tensors live, and how exact their products are.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

pub use ncsn_kernels::cpu::{Isa, Precision};

use crate::error::{Error, Result};

/// A device that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The best that is compiled in and present.
    #[default]
    Auto,
    /// The processor, always there.
    Cpu,
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            _ => {
                Err(Error::Usage(format!("found device {name}, expected cpu or auto: this build runs on the CPU only")))
            }
        }
    }
}

impl DeviceKind {
    /// The device, without gradients.
    pub fn open(self) -> Device {
        match self {
            Self::Auto | Self::Cpu => Device::flex(),
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
        })
    }
}

/// The instruction set in use: the fastest that the processor has, or the one that `NCSN_CPU` names.
///
/// # Errors
/// When the variable names none, or one that the processor lacks.
pub fn instructions() -> Result<Isa> {
    Isa::from_environment().map_err(Error::Usage)
}
