//! Numbers of a file that are narrower than the optimizer's: 16-bit ones, and f32 where the optimizer has f64. Widening
//! is exact.

use safetensors::Dtype;

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
        Dtype::F16 => halves.map(|bits| F::of(from_f16(bits).into())).collect(),
        Dtype::BF16 => halves.map(|bits| F::of(f32::from_bits(u32::from(bits) << 16).into())).collect(),
        _ => {
            let singles = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            singles.map(|single| F::of(single.into())).collect()
        }
    }
}

/// IEEE 754's binary16: a sign, 5 bits of exponent, 10 of fraction.
fn from_f16(bits: u16) -> f32 {
    let [sign, exponent, fraction] = [bits >> 15, bits >> 10 & 0x1f, bits & 0x3ff].map(u32::from);
    let magnitude = match exponent {
        // Subnormals count in 2⁻²⁴.
        0 => (fraction as f32 * f32::from_bits((127 - 24) << 23)).to_bits(),
        0x1f => 0xff << 23 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign << 31 | magnitude)
}
