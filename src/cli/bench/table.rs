//! Measurements as lines of text.

use ncsn::device::Isa;

use super::workload::{CORES, Counted, Measurement, name};

/// What they have in common, and the names of the columns.
pub fn header(isa: Isa, device: &str, n_steps: u64, count: bool) -> [String; 2] {
    let threads = rayon::current_num_threads();
    if count {
        return [
            format!(
                "one thread, instructions: {isa}; projected for more cores: serial + time of regions in rounds of parts"
            ),
            format!(
                "{:18}{:>10}{:>10}{:>18}{}",
                "workload",
                "precision",
                "s/step",
                "serial s",
                CORES.map(|n_cores| format!("{:>22}", format!("s on {n_cores} cores"))).concat()
            ),
        ];
    }
    let on = match device {
        "cpu" => format!("threads: {threads}, instructions: {isa}"),
        gpu => format!("device: {gpu}"),
    };
    [
        format!("steps timed: {n_steps}, {on}; medians, GFLOP/s of the convolutions alone"),
        format!(
            "{:18}{:>10}{:>10}{:>10}{:>10}{:>16}{:>10}",
            "workload", "precision", "s/step", "images/s", "GFLOP/s", "of the ceiling", "peak MiB"
        ),
    ]
}

/// One measurement; `ceiling` is the processor's, in FLOP/s. On a GPU it is that of its matrix units.
pub fn row(measurement: &Measurement, ceiling: impl FnOnce() -> f64) -> String {
    let Measurement {
        what,
        net,
        batch,
        precision,
        seconds_per_step,
        images_per_second,
        gflops,
        peak_mib,
        count,
        ceilings,
        ..
    } = measurement;
    let workload = format!("{} {} {batch}", name(*what), name(*net));
    if let Some(counted) = count {
        return format!("{workload:18}{precision:>10}{}", projections(counted));
    }
    let ceiling = match ceilings {
        None => Some(ceiling() / 1e9),
        Some(of_gpu) => of_gpu.ceiling_bf16_gflops.or(of_gpu.ceiling_f32_gflops),
    };
    let share =
        ceiling.map_or_else(|| "?".to_string(), |ceiling| format!("{:.0}% of {ceiling:.0}", 100.0 * gflops / ceiling));
    let peak_mib = peak_mib.map_or_else(|| "?".to_string(), |mib| format!("{mib:.0}"));
    format!(
        "{workload:18}{precision:>10}{seconds_per_step:>10.4}{images_per_second:>10.1}{gflops:>10.0}{share:>16}{peak_mib:>10}"
    )
}

fn projections(counted: &Counted) -> String {
    let serial = format!("{:.4} ({:.2}%)", counted.serial_seconds, 100.0 * counted.serial_share);
    let speedups = counted.projected_seconds.iter().zip(counted.projected_speedup.values());
    let projected = speedups.map(|((_, seconds), speedup)| format!("{:>22}", format!("{seconds:.4} ({speedup:.1}x)")));
    format!("{:>10.4}{serial:>18}{}", counted.seconds, projected.collect::<String>())
}
