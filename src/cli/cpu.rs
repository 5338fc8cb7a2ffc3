//! What the processor can do, found and chosen: `ncsn info --cpu`.

use std::path::Path;

use ncsn::Result;
use ncsn::device::{Isa, Precision, instructions};
use ncsn_kernels::conv;
use ncsn_kernels::cpu::VARIABLE;

use super::say;

/// Says it; `current` is the precision asked for.
pub fn describe(current: Precision) -> Result<()> {
    let isa = instructions()?;
    if let Some(name) = model_name() {
        say(format!("processor         {name}"));
    }
    let available: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    say(format!("instruction sets  {}", available.join(", ")));
    let why = match std::env::var_os(VARIABLE) {
        Some(_) => format!("forced by {VARIABLE}"),
        None => format!("the fastest; {VARIABLE} forces another"),
    };
    say(format!("in use            {isa} ({why})"));
    say(format!("threads           {}", rayon::current_num_threads()));
    let caches = caches();
    if !caches.is_empty() {
        say(format!("caches            {}", caches.join(", ")));
    }
    say("convolutions at the precision");
    for precision in Precision::ALL {
        let mark = if precision == current { "*" } else { " " };
        say(format!("{mark} {:15} {}", precision.name(), conv::describe(isa, precision)));
    }
    Ok(())
}

/// As Linux gives it.
fn model_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_string())
}

/// The first core's caches for data, as Linux gives them: "L2 1024K".
fn caches() -> Vec<String> {
    let cache = |index: usize| {
        let folder = Path::new("/sys/devices/system/cpu/cpu0/cache").join(format!("index{index}"));
        let read = |name| std::fs::read_to_string(folder.join(name)).ok().map(|text| text.trim().to_string());
        Some((read("type")?, format!("L{} {}", read("level")?, read("size")?)))
    };
    (0..).map_while(cache).filter(|(kind, _)| kind != "Instruction").map(|(_, cache)| cache).collect()
}
