//! IEEE 754 binary16: of gradients and mirrors. WGSL half: shaders/formats/f16.wgsl.

use half::f16;

use super::bf16::odd;
use super::{Lane, Wgsl, halves};

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[halves::TEXT, include_str!("../../shaders/formats/f16.wgsl")],
    four: "F16Four",
    one: "F16Two",
    load: |lane, buffer, at| match lane {
        Lane::Four => format!("f16_four({buffer}[{at}])"),
        _ => format!("f16_one({buffer}[({at}) >> 1u], {at})"),
    },
    store: |lane, buffer, at, x| halves::store_halves(lane, buffer, at, &format!("f16_words({x})")),
};

/// Each rounded to the nearest number, half to even. NaN stays NaN, and what is larger than any number becomes
/// infinite.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| f16::from_f32(x).to_ne_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|two| wide(u16::from_ne_bytes([two[0], two[1]]))).collect()
}

/// Exactly, and without a branch, for the vector unit.
#[inline(always)]
pub(crate) fn wide(half: u16) -> f32 {
    let (sign, magnitude) = ((u32::from(half) & 0x8000) << 16, u32::from(half) & 0x7fff);
    let normal = (magnitude << 13) + 0x3800_0000;
    // Subnormal numbers count in 2⁻²⁴.
    let small = (magnitude as i32 as f32 * 5.960_464_5e-8).to_bits();
    let large = (magnitude << 13) + 0x7000_0000;
    let finite = if magnitude >= 0x7c00 { large } else { normal };
    f32::from_bits(sign | if magnitude < 0x400 { small } else { finite })
}

/// The nearest number, half to even, of an f64: rounded once.
pub(super) fn nearest(x: f64) -> u16 {
    f16::from_f32(odd(x)).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every half. Of NaN the payload may differ.
    #[test]
    fn every_half_is_widened_as_in_the_half_crate() {
        for half in 0..=u16::MAX {
            let (ours, theirs) = (wide(half), f16::from_bits(half).to_f32());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{half:x}: {ours}");
        }
    }

    #[test]
    fn numbers_are_rounded_once() {
        let next = 1.0 + 2f64.powi(-10);
        for (x, expected) in [(1.0 + 2f64.powi(-11), 1.0), (1.0 + 2f64.powi(-11) + 1e-13, next), (65519.0, 65504.0)] {
            assert_eq!(f64::from(wide(nearest(x))), expected, "{x}");
        }
        assert!(wide(nearest(f64::NAN)).is_nan() && wide(nearest(65520.0)).is_infinite());
    }
}
