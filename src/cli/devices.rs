//! Where this build can compute: `ncsn info --devices`.

use ncsn::Result;
use ncsn::device::{self, Api, DeviceKind, instructions};

use super::say;

/// Says it, and which device `auto` is.
pub fn describe() -> Result<()> {
    say(format!("cpu       {}", instructions()?));
    for api in Api::ALL {
        let name = api.name();
        match api.devices().map(|devices| devices.len()) {
            None => say(format!("{name:9} not in this build, which --features {name} adds")),
            Some(0) => say(format!("{name:9} no device found")),
            Some(n) => {
                for kind in (0..n).map(|index| DeviceKind::Gpu(api, index)) {
                    say(format!("{kind:9} {}", device::name(&kind.open()?).unwrap_or_else(|| "no name".into())));
                }
            }
        }
    }
    say(format!("auto is   {}", DeviceKind::Auto.chosen()));
    Ok(())
}
