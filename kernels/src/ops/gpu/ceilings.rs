//! What a GPU can do at most, measured.

use burn::backend::cubecl::{MemoryAccess, ThroughputError, ThroughputKey, ThroughputMode, ThroughputValue};
use burn::tensor::Device;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::throughput::{CmmaDims, ComputeCmmaConfig};

/// Peaks of a device, as loops reach them that do nothing else; `None` for what it has not got.
#[derive(Clone, Copy, Debug)]
pub struct Ceilings {
    /// FLOP/s of products and sums of f32.
    pub f32_flops: Option<f64>,
    /// FLOP/s of products of bf16, summed in f32 by matrix units.
    pub bf16_flops: Option<f64>,
    /// Bytes read and written in a second, of a copy.
    pub bytes: Option<f64>,
}

/// Measures the ceilings of `device`, which takes about a second. Nothing is known of a processor.
pub fn ceilings(device: &Device) -> Ceilings {
    let [f32_type, bf16_type] = [FloatKind::F32, FloatKind::BF16].map(ElemType::Float);
    let config = ComputeCmmaConfig { accumulator_type: f32_type, cmma_dims: CmmaDims { m: 16, n: 16, k: 16 } };
    let modes = [
        ThroughputMode::ComputeDirect { dtype: f32_type },
        ThroughputMode::ComputeCmma { dtype: bf16_type, config },
        ThroughputMode::memory(MemoryAccess::Copy),
    ];
    let keys = modes.map(|mode| ThroughputKey { mode });
    let mut found = device.performance_stats(&keys).into_iter();
    let mut next = |rate: fn(&ThroughputValue, &ThroughputKey) -> f64| {
        let peak: Result<ThroughputValue, ThroughputError> = found.next()?.value;
        Some(rate(&peak.ok()?, &keys[2])).filter(|rate| rate.is_finite())
    };
    Ceilings {
        f32_flops: next(|peak, _| peak.ops_per_s()),
        bf16_flops: next(|peak, _| peak.ops_per_s()),
        bytes: next(|peak, key| peak.bytes_per_s(key)),
    }
}
