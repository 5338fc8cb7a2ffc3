//! A workload in a process of its own.

use std::process::{Command, Stdio};

use ncsn::{Error, Result};

use super::BenchArgs;
use super::workload::{Measurement, Workload, name};

/// What the same program measures, called for this workload alone.
pub fn measure(workload: &Workload, args: &BenchArgs) -> Result<Measurement> {
    let program = std::env::current_exe().map_err(Error::io("this program"))?;
    let mut command = Command::new(&program);
    command.args(["bench", "--json", "--what", &name(workload.what), "--net", &name(workload.net)]);
    let [batch, steps] = [workload.batch, args.steps].map(|n| n.to_string());
    command.args(["--batch", &batch, "--steps", &steps, "--precision", workload.precision.name()]);
    command.args(["--device", &args.device.to_string()]);
    if args.count {
        command.arg("--count");
    }
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = command.stdin(Stdio::null()).output().map_err(Error::io(&program))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = stderr.lines().next().unwrap_or_default().trim_start_matches("error: ");
    match serde_json::from_slice(&output.stdout) {
        Ok(measurement) if output.status.success() => Ok(measurement),
        // Nobody says a word who is killed, which is what happens when memory runs out.
        _ if said.is_empty() => Err(Error::Usage(format!("{workload}: its process ended with {}", output.status))),
        _ => Err(Error::Usage(format!("{workload}: {said}"))),
    }
}
