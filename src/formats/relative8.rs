//! Eight bits an unsigned number, in blocks of 256: how far its bits are below those of the largest of its block. WGSL
//! half: shaders/formats/relative8.wgsl, with the same arithmetic.
//!
//! The difference of two positive floats' bits is nearly that of their logarithms. A code has three bits of mantissa
//! and reaches down 31 octaves. It takes integers alone, so that every device finds the same codes of the same numbers.
//!
//! ```text
//! code = 255 − ((bits(absmax) − bits(x) + r) >> 20)      r = 2¹⁹ to nearest, or random in 0 … 2²⁰ − 1; 1 at least
//! bits(x) = bits(absmax) − ((255 − code) << 20)          code 0 is 0
//! ```

use super::Wgsl;
use super::block8::{Encoding, TEXT, each, each_at, largest, positive};

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
    each(codes, to, |code| number(code, absmax.to_bits()));
}

#[inline(always)]
fn code(x: f32, absmax: u32, r: u32) -> u8 {
    let bits = positive(x).to_bits();
    let below = (absmax - bits + r) >> 20;
    (if bits == 0 { 0 } else { 255 - below.min(254) }) as u8
}

/// The codes of a block's numbers, of which those that are not finite count as 0. Returns the largest. `random` gives
/// 32 bits for each.
#[inline(always)]
pub(crate) fn encode(from: &[f32], encoding: Encoding, random: impl Fn(usize) -> u32, codes: &mut [u8]) -> f32 {
    let absmax = largest(from);
    let bits = absmax.to_bits();
    match encoding {
        Encoding::Stochastic => each_at(from, codes, |k, x| code(x, bits, random(k) >> 12)),
        _ => each(from, codes, |x| code(x, bits, 1 << 19)),
    }
    absmax
}
