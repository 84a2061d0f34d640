//! bfloat16, the upper half of an f32: of gradients, mirrors, parameters and states. WGSL half:
//! shaders/formats/bf16.wgsl.

use super::{Lane, Wgsl, halves};

pub(super) const TEXT: &str = include_str!("../../shaders/formats/bf16.wgsl");

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[halves::TEXT, TEXT],
    four: "Bf16Four",
    one: "Bf16Two",
    load: |lane, buffer, at| match lane {
        Lane::Four => format!("bf16_four({buffer}[{at}])"),
        _ => format!("bf16_one({buffer}[({at}) >> 1u], {at})"),
    },
    store: |lane, buffer, at, x| halves::store_halves(lane, buffer, at, &format!("bf16_words({x})")),
};

/// Each rounded to the nearest number, half to even. NaN stays NaN, and what is larger than any number becomes
/// infinite.
pub(super) fn encode(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| near(x).to_ne_bytes()).collect()
}

pub(super) fn decode(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|two| wide(u16::from_ne_bytes([two[0], two[1]]))).collect()
}

/// Exactly: it is the upper half of an f32. `to_f32` would look for NaN, which keeps a loop from the vector unit.
#[inline(always)]
pub(super) fn wide(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

/// The nearest number, half to even, rounded once.
pub(super) fn nearest(x: f64) -> u16 {
    near(odd(x))
}

/// One of the two numbers around x, so that the mean is x: the twin of `bf16_random`. Of the 32 random bits the upper
/// 16 count. NaN and ∞ stay what they are, and what is finite stays finite.
#[inline(always)]
pub(crate) fn random(x: f32, random: u32) -> u16 {
    let (sign, magnitude) = (x.to_bits() >> 16 & 0x8000, x.to_bits() & 0x7fff_ffff);
    let near = ((magnitude + (random >> 16)) >> 16).min(0x7f7f);
    let other = magnitude >> 16 | if magnitude > 0x7f80_0000 { 0x40 } else { 0 };
    (sign | if magnitude >= 0x7f80_0000 { other } else { near }) as u16
}

/// The nearest number, half to even: the twin of `bf16_words`, without a branch.
#[inline(always)]
pub(crate) fn near(x: f32) -> u16 {
    let bits = x.to_bits();
    let upper = bits >> 16;
    let near = bits.wrapping_add(0x7fff + (upper & 1)) >> 16;
    (if bits & 0x7fff_ffff > 0x7f80_0000 { upper | 0x40 } else { near }) as u16
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
    use half::bf16;

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

    /// Every upper half with lower ones around the tie: the nearest is that of the `half` crate, the random one is one
    /// of the two around, as often as it should.
    #[test]
    fn every_number_is_rounded_to_its_neighbours() {
        for high in 0..=u32::from(u16::MAX) {
            for low in [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff, high.wrapping_mul(40503) & 0xffff] {
                let x = f32::from_bits(high << 16 | low);
                let nearest = bf16::from_f32(x);
                assert!(near(x) == nearest.to_bits() || (x.is_nan() && wide(near(x)).is_nan()), "{x:e}");
                let [never, always] = [random(x, 0), random(x, u32::MAX)];
                match x.is_finite() {
                    false => assert!(never == always && (wide(never).is_nan() == x.is_nan()), "{x:e}"),
                    true => {
                        assert_eq!(u32::from(never), high, "{x:e}");
                        let up = (high + u32::from(low > 0)).min((high & 0x8000) | 0x7f7f);
                        assert_eq!(u32::from(always), up, "{x:e}");
                        // It goes up for so many of the 65,536 draws as its lower half counts.
                        let last = random(x, (0xffff - low) << 16);
                        assert_eq!(u32::from(last), high, "{x:e}");
                        let first = if low > 0 { random(x, (0x10000 - low) << 16) } else { last };
                        assert_eq!(u32::from(first), up, "{x:e}");
                    }
                }
            }
        }
    }
}
