//! Where tensors live, and how exact their products are.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

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

/// How matrix products treat f32, named as in PyTorch's `set_float32_matmul_precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32 multiply-adds.
    #[default]
    Highest,
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "highest" => Ok(Self::Highest),
            "high" | "medium" => {
                Err(Error::Usage(format!("found precision {name}, expected highest: this build has no faster one yet")))
            }
            _ => Err(Error::Usage(format!("found precision {name}, expected highest"))),
        }
    }
}
