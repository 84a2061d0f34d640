//! Numbers of a file that are narrower than the optimizer's: 16-bit ones, and f32 where the optimizer has f64. Widening
//! is exact.

use safetensors::Dtype;

use crate::formats::Format;
use crate::rule::Real;

/// Whether `to` has every number of `from`.
pub(super) fn widens(from: Dtype, to: Dtype) -> bool {
    match from {
        Dtype::F16 | Dtype::BF16 => matches!(to, Dtype::F32 | Dtype::F64),
        Dtype::F32 => matches!(to, Dtype::F32 | Dtype::F64),
        _ => from == to,
    }
}

/// Bytes of a file as wider numbers.
pub(super) fn widen<F: Real>(bytes: &[u8], from: Dtype) -> Vec<F> {
    let halves = bytes.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    match from {
        Dtype::F16 => halves.map(|bits| F::of(Format::F16.wide(bits).into())).collect(),
        Dtype::BF16 => halves.map(|bits| F::of(Format::Bf16.wide(bits).into())).collect(),
        _ => {
            let singles = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            singles.map(|single| F::of(single.into())).collect()
        }
    }
}
