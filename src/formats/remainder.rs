//! An f32 in two halves: the nearest bfloat16, ties away from 0, for forward passes to bind; and the lower 16 bits of
//! the f32. Together they are the f32, bit for bit. WGSL half: shaders/formats/remainder.wgsl.
//!
//! ```text
//! remainder = b & 0xffff
//! upper     = (b >> 16) + (remainder >> 15)
//! b         = (upper − (remainder >> 15)) << 16 | remainder
//! ```
//! Ties to even could not be undone: two f32 would have the same halves. A NaN becomes the one whose remainder is 0:
//! rounding others up would make them 0.

use super::{Lane, Wgsl, bf16, halves};

pub(super) const WGSL: Wgsl = Wgsl {
    texts: &[halves::TEXT, bf16::TEXT, include_str!("../../shaders/formats/remainder.wgsl")],
    four: "RemainderFour",
    one: "RemainderFour",
    // The words: `joined` makes numbers of them and the upper halves.
    load: |_, buffer, at| format!("{buffer}[{at}]"),
    store: |lane, buffer, at, x| match lane {
        Lane::Four => format!("{buffer}[{at}] = lower_words({x});"),
        _ => String::new(),
    },
};

/// The upper half and the remainder.
pub(crate) fn split(x: f32) -> (u16, u16) {
    let bits = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
    (((bits >> 16) + (bits >> 15 & 1)) as u16, bits as u16)
}

/// The number of both.
pub(crate) fn join((upper, lower): (u16, u16)) -> f32 {
    f32::from_bits(u32::from(upper.wrapping_sub(lower >> 15)) << 16 | u32::from(lower))
}

/// The upper halves.
pub(crate) fn uppers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| split(x).0.to_ne_bytes()).collect()
}

/// The remainders.
pub(super) fn lowers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| split(x).1.to_ne_bytes()).collect()
}

/// The numbers of upper halves and remainders.
pub(crate) fn joined(uppers: &[u8], lowers: &[u8]) -> Vec<f32> {
    let halves = |bytes: &'_ [u8]| -> Vec<u16> { bytemuck::pod_collect_to_vec(bytes) };
    halves(uppers).into_iter().zip(halves(lowers)).map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Format;

    /// Every upper half with remainders around both ends and the tie, and every remainder with upper halves at the ends
    /// of their range: what is no NaN comes back, and the upper half is the nearest. A remainder says all that an upper
    /// half loses, and what it does to one it does to all: it adds 1 or nothing.
    #[test]
    fn halves_are_the_number_and_its_rounding() {
        let all = 0..=u32::from(u16::MAX);
        let around = |high: u32| {
            let lows = [0u32, 1, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff, high.wrapping_mul(40503) & 0xffff];
            lows.map(|low| f32::from_bits(high << 16 | low)).to_vec()
        };
        let with_all = |high: u32| all.clone().map(|low| f32::from_bits(high << 16 | low)).collect();
        let ends = [0, 0x7f, 0x80, 0x3f7f, 0x3f80, 0x7eff, 0x7f7f, 0x7f80].map(|high| [high, high | 0x8000]);
        let groups: Vec<Vec<f32>> = all.clone().map(around).chain(ends.concat().into_iter().map(with_all)).collect();
        for values in groups {
            let uppers = uppers(&values);
            let back = joined(&uppers, &lowers(&values));
            let rounded = Format::Bf16.decode(&uppers, &[]);
            for ((x, back), rounded) in values.iter().zip(back).zip(rounded.iter()) {
                if x.is_nan() {
                    assert!(back.is_nan() && rounded.is_nan(), "{x:?}");
                    continue;
                }
                assert_eq!(x.to_bits(), back.to_bits());
                let even = Format::Bf16.wide(Format::Bf16.nearest(f64::from(*x)));
                let tie = x.to_bits() & 0xffff == 0x8000;
                assert!(if tie { rounded.abs() >= x.abs() } else { rounded.to_bits() == even.to_bits() }, "{x:e}");
            }
        }
    }
}
