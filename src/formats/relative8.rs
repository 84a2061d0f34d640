//! Eight bits an unsigned number, in blocks of 256: how far its bits are below those of the largest of its block. WGSL
//! half: shaders/formats/relative8.wgsl, with the same arithmetic.
//!
//! The difference of two positive floats' bits is nearly that of their logarithms. A code has three bits of mantissa and
//! reaches down 31 octaves. It takes integers alone, so that every device finds the same codes of the same numbers.
//!
//! ```text
//! code = 255 − ((bits(absmax) − bits(x) + r) >> 20)      r = 2¹⁹ to nearest, or random in 0 … 2²⁰ − 1; 1 at least
//! bits(x) = bits(absmax) − ((255 − code) << 20)          code 0 is 0
//! ```

use super::Wgsl;
use super::block8::{Encoding, TEXT};

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[TEXT, include_str!("../../shaders/formats/relative8.wgsl")],
    four: "Block8Four",
    one: "Block8Four",
    load: |_, word, absmax| format!("relative8({word}, {absmax})"),
    store: |_, word, absmax, x| format!("{word} = relative8_codes({x}, {absmax}, random);"),
};

#[inline(always)]
fn number(code: u8, absmax: u32) -> f32 {
    let below = (255 - u32::from(code)) << 20;
    f32::from_bits(if code == 0 || absmax < below { 0 } else { absmax - below })
}

/// The numbers of a block.
#[inline(always)]
pub(crate) fn decode(codes: &[u8], absmax: f32, to: &mut [f32]) {
    to.iter_mut().zip(codes).for_each(|(x, &code)| *x = number(code, absmax.to_bits()));
}

/// The codes of a block's numbers, of which those that are not finite count as 0. Returns the largest. `random` gives 32
/// bits for each.
#[inline(always)]
pub(crate) fn encode(from: &[f32], encoding: Encoding, random: impl Fn(usize) -> u32, codes: &mut [u8]) -> f32 {
    let bits = |x: f32| if x.is_finite() { x.abs().to_bits() } else { 0 };
    let absmax = from.iter().fold(0, |most: u32, &x| most.max(bits(x)));
    for (k, (code, &x)) in codes.iter_mut().zip(from).enumerate() {
        let r = if encoding == Encoding::Stochastic { random(k) >> 12 } else { 1 << 19 };
        let below = (absmax - bits(x) + r) >> 20;
        *code = if bits(x) == 0 { 0 } else { 255 - below.min(254) as u8 };
    }
    f32::from_bits(absmax)
}
