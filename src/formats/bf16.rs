//! bfloat16, the upper half of an f32: of gradients, which are read, and of mirrors, which are written. WGSL half:
//! shaders/formats/bf16.wgsl.

use half::bf16;

use super::{Lane, Wgsl};

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[include_str!("../../shaders/formats/bf16.wgsl")],
    four: "Bf16Four",
    one: "Bf16Two",
    load: |lane, buffer, at| match lane {
        Lane::Four => format!("bf16_four({buffer}[{at}])"),
        _ => format!("bf16_one({buffer}[({at}) >> 1u], {at})"),
    },
    // Gradients are only read, and mirrors are whole lanes.
    store: |lane, buffer, at, x| match lane {
        Lane::Four => format!("{buffer}[{at}] = bf16_words({x});"),
        _ => String::new(),
    },
};

/// Each rounded to the nearest number, half to even. NaN stays NaN, and what is larger than any number becomes
/// infinite.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_ne_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|two| bf16::from_ne_bytes([two[0], two[1]]).to_f32()).collect()
}

/// Exactly: it is the upper half of an f32. `to_f32` would look for NaN, which keeps a loop from the vector unit.
#[inline(always)]
pub(super) fn wide(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// The nearest number, half to even, rounded once.
pub(super) fn nearest(x: f64) -> u16 {
    bf16::from_f32(odd(x)).to_bits()
}

/// The f32 next to x whose last bit is 1, unless x is an f32. From there to 16 bits it is rounded as from x: no tie of
/// theirs is odd. `from_f64` drops bits before it rounds, and f64 → f32 → 16 bits rounds twice.
pub(super) fn odd(x: f64) -> f32 {
    let near = x as f32;
    if x.is_nan() || f64::from(near) == x {
        return near;
    }
    let beyond = f64::from(near).abs() > x.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_once() {
        let one = f64::from(f32::from_bits(0x3f80_8000)); // halfway from 1 to the next number
        for (x, bits) in [
            (one, 0x3f80),
            (f64::from(f32::from_bits(0x3f80_8001)), 0x3f81),
            (one + 1e-12, 0x3f81),
            (one - 1e-12, 0x3f80),
            (-one - 1e-12, 0xbf81),
            (f64::from(f32::from_bits(0x3f81_8000)), 0x3f82),
            (0.0, 0),
            (-0.0, 0x8000),
            (1e300, 0x7f80),
            (f64::NEG_INFINITY, 0xff80),
        ] {
            assert_eq!(nearest(x), bits, "{x:e}");
        }
        assert!(wide(nearest(f64::NAN)).is_nan());
    }
}
