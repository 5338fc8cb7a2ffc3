//! Where tensors live, and how exact their products are.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor, TensorData};

pub use ncsn_kernels::cpu::{Isa, Precision};

use crate::error::{Error, Result};

/// A way to compute on GPUs, each a cargo feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// NVIDIA's.
    Cuda,
    /// Apple's.
    Metal,
    /// Everybody's.
    Vulkan,
}

impl Api {
    /// The best first.
    pub const ALL: [Api; 3] = [Api::Cuda, Api::Metal, Api::Vulkan];

    /// Its name, which is also the feature's.
    pub fn name(self) -> &'static str {
        match self {
            Api::Cuda => "cuda",
            Api::Metal => "metal",
            Api::Vulkan => "vulkan",
        }
    }

    /// The devices that it reaches here; `None` if it was not compiled in.
    pub fn devices(self) -> Option<Vec<Device>> {
        #[cfg(feature = "gpu")]
        use burn::tensor::DeviceType;
        match self {
            #[cfg(feature = "cuda")]
            Api::Cuda => Some(Device::enumerate(DeviceType::Cuda).into_iter().collect()),
            #[cfg(feature = "metal")]
            Api::Metal => Some(Device::enumerate(DeviceType::Metal).into_iter().collect()),
            #[cfg(feature = "vulkan")]
            Api::Vulkan => Some(Device::enumerate(DeviceType::Vulkan).into_iter().collect()),
            #[allow(unreachable_patterns, reason = "with every feature there is nothing else")]
            _ => None,
        }
    }
}

/// A device that can be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceKind {
    /// The best that is compiled in and present.
    #[default]
    Auto,
    /// The processor, always there.
    Cpu,
    /// One of an API's devices, counted from 0.
    Gpu(Api, usize),
}

impl FromStr for DeviceKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            let expected = "auto, cpu, cuda, metal or vulkan, perhaps with a number: cuda:1";
            Error::unexpected(format!("device {text}"), expected)
        };
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index.parse::<usize>().map_err(|_| unknown())?)),
            None => (text, None),
        };
        match (name, index) {
            ("auto", None) => Ok(Self::Auto),
            ("cpu", None) => Ok(Self::Cpu),
            _ => {
                let api = Api::ALL.into_iter().find(|api| api.name() == name).ok_or_else(unknown)?;
                Ok(Self::Gpu(api, index.unwrap_or(0)))
            }
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Cpu => f.pad("cpu"),
            Self::Gpu(api, index) => f.pad(&format!("{}:{index}", api.name())),
        }
    }
}

impl DeviceKind {
    /// Which one it is: [`Self::Auto`] becomes the first GPU, or else the processor. A program that acts as a GPU is none.
    pub fn chosen(self) -> Self {
        let is_there = |api: &Api| api.devices().is_some_and(|devices| devices.first().is_some_and(is_hardware));
        match self {
            Self::Auto => Api::ALL.into_iter().find(is_there).map_or(Self::Cpu, |api| Self::Gpu(api, 0)),
            other => other,
        }
    }

    /// The device, without gradients.
    ///
    /// # Errors
    /// When it is not compiled in, or not there.
    pub fn open(self) -> Result<Device> {
        let Self::Gpu(api, index) = self.chosen() else { return Ok(Device::flex()) };
        let name = api.name();
        let devices = api.devices().ok_or_else(|| {
            Error::Usage(format!("found device {self}, but this build has no {name}: build it with --features {name}"))
        })?;
        let n = devices.len();
        let there = match n {
            0 => format!("no {name} device"),
            1 => format!("one {name} device, {name}:0"),
            n => format!("{n} {name} devices, {name}:0 to {name}:{}", n - 1),
        };
        devices.into_iter().nth(index).ok_or_else(|| {
            let hint = if n == 0 { ": is the driver installed?" } else { "" };
            Error::Usage(format!("found device {self}, but there is {there}{hint}"))
        })
    }
}

/// What a device calls itself; `None` for the processor.
pub fn name(device: &Device) -> Option<String> {
    #[cfg(feature = "gpu")]
    return device.identity().map(|identity| identity.name);
    #[cfg(not(feature = "gpu"))]
    {
        let _ = device;
        None
    }
}

/// How much of a GPU's memory is taken, in MiB; it is not given back, so this is the most there was. `None` for the processor.
pub fn reserved_mib(device: &Device) -> Option<f64> {
    device.memory_pool_usage().map(|usage| usage.bytes_reserved as f64 / f64::from(1 << 20))
}

/// Waits until a device has done all that was asked of it. The processor never has anything left to do.
///
/// # Errors
/// [`Error::Device`] if it could not.
pub fn wait(device: &Device) -> Result<()> {
    device.sync().map_err(|error| Error::Device(error.to_string()))
}

/// A tensor of `values`, row-major.
///
/// # Panics
/// If `shape` is not that of as many values.
pub fn upload<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The numbers of a tensor, once its device has made them.
///
/// # Errors
/// [`Error::Device`] if it could not.
pub fn values<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>> {
    x.try_into_vec_as().map_err(|error| Error::Device(error.to_string()))
}

/// The only number of a tensor, once its device has made it.
///
/// # Errors
/// [`Error::Device`] if it could not.
pub fn scalar(x: Tensor<1>) -> Result<f64> {
    values(x).map(|values| f64::from(values[0]))
}

/// Whether there is a card behind a GPU's device, or only a program.
fn is_hardware(device: &Device) -> bool {
    #[cfg(any(feature = "vulkan", feature = "metal"))]
    {
        use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
        !matches!(device.as_dispatch(), DispatchDevice::Cube(CubeDevice::Wgpu(device)) if device.kind == WgpuDeviceKind::Cpu)
    }
    #[cfg(not(any(feature = "vulkan", feature = "metal")))]
    {
        let _ = device;
        true
    }
}

/// The instruction set in use: the fastest that the processor has, or the one that `NCSN_CPU` names.
///
/// # Errors
/// When the variable names none, or one that the processor lacks.
pub fn instructions() -> Result<Isa> {
    Isa::from_environment().map_err(Error::Usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_read_and_written_alike() {
        for name in ["auto", "cpu", "cuda:0", "cuda:1", "vulkan:12", "metal:0"] {
            assert_eq!(name.parse::<DeviceKind>().expect(name).to_string(), name);
        }
        assert_eq!("vulkan".parse::<DeviceKind>().expect("a name"), DeviceKind::Gpu(Api::Vulkan, 0));
        for name in ["", "gpu", "cpu:0", "auto:1", "cuda:", "cuda:-1", "cuda:1:2", "CUDA"] {
            let message = name.parse::<DeviceKind>().expect_err(name).to_string();
            assert!(message.contains(&format!("found device {name}, expected auto, cpu, cuda")), "{message}");
        }
    }

    #[test]
    fn what_is_not_compiled_in_is_refused_with_the_feature_that_would_help() {
        for api in Api::ALL.into_iter().filter(|api| api.devices().is_none()) {
            let message = DeviceKind::Gpu(api, 0).open().expect_err("no device").to_string();
            assert!(message.contains(&format!("--features {}", api.name())), "{message}");
        }
        for (api, devices) in Api::ALL.into_iter().filter_map(|api| Some((api, api.devices()?))) {
            let message = DeviceKind::Gpu(api, devices.len()).open().expect_err("too large a number").to_string();
            assert!(
                message.contains(&format!("found device {}:{}, but there is", api.name(), devices.len())),
                "{message}"
            );
        }
    }

    #[test]
    fn auto_is_always_there() {
        assert_ne!(DeviceKind::Auto.chosen(), DeviceKind::Auto);
        DeviceKind::Auto.open().expect("a device");
    }
}
