//! Eight bits a number, in blocks of 256 with the largest magnitude of each block: the dynamic map of
//! [bitsandbytes](https://arxiv.org/abs/2110.02861). WGSL half: shaders/formats/block8.wgsl, with the same arithmetic.
//!
//! A block's numbers are divided by its largest magnitude. Of a signed number, seven decades have the places q from 1
//! on: decade e, which ends at 10ᵉ⁻⁶, has n = 2ᵉ of them, and their numbers are the middles of n equal intervals of
//! the decade. Place 128 is 1, and place 0 is 0. With q = n + j the number is
//!
//! ```text
//! 10ᵉ⁻⁶ (0.1 + 0.9 (j + ½)/n) = (18q + 9 − 16n) · 5ᵉ · 5e-8
//! ```
//! which needs no table, and is at most one unit in the last place off `qmap1` and `qmap2` in bitsandbytes. Unsigned
//! numbers have twice as many places in each decade: they begin with n = 2 and a tenth of the unit. The code of place q
//! is 127 ± q if signed, and q − 1 if not.
//!
//! Within a decade y · a + n · 8/9 is the place of y, whose whole part is that of the nearest number. The whole part of
//! that − ½ + u, with u random in [0, 1), is one of the two around y, and is y in the mean.

use super::Wgsl;

pub(super) const TEXT: &str = include_str!("../../shaders/formats/block8.wgsl");

/// In WGSL a lane is one word, and the largest magnitude of its block is a variable: see `src/gpu/wgsl.rs`.
pub(super) const SIGNED_WGSL: Wgsl = Wgsl {
    texts: &[TEXT],
    four: "Block8Four",
    one: "Block8Four",
    load: |_, word, absmax| format!("block8_signed({word}, {absmax})"),
    store: |_, word, absmax, x| format!("{word} = block8_signed_codes({x}, inverse_of({absmax}));"),
};
pub(super) const UNSIGNED_WGSL: Wgsl = Wgsl {
    load: |_, word, absmax| format!("block8_unsigned({word}, {absmax})"),
    store: |_, word, absmax, x| format!("{word} = block8_unsigned_codes({x}, inverse_of({absmax}), random);"),
    ..SIGNED_WGSL
};

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 256;

/// How a number of a block becomes a code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// The nearest, but what is above 0 never becomes 0.
    #[default]
    Nearest,
    /// One of the two around an unsigned number, by 32 random bits of each; a signed number is [`Encoding::Nearest`].
    Stochastic,
    /// The nearest to the middle of one of 65,536 bins, as bitsandbytes on the CPU.
    Binned,
}

/// What quarters of numbers are multiplied with. Neither the quarter nor its inverse is subnormal.
#[inline(always)]
pub(crate) fn inverse_of(absmax: f32) -> f32 {
    let quarter = 0.25 * absmax;
    if quarter >= f32::MIN_POSITIVE { 1.0 / quarter } else { 0.0 }
}

/// The number at place q. Only the last product is rounded, and the one before it from q = 64 on.
#[inline(always)]
fn at_place(q: u32, unit: f32) -> f32 {
    let x = q as f32;
    let n = f32::from_bits(x.to_bits() & 0xff80_0000);
    let e = (x.to_bits() >> 23).wrapping_add(1);
    let factor = |bit: u32, five: f32| if e & bit != 0 { five } else { 1.0 };
    ((18.0 * x + 9.0) - 16.0 * n) * (factor(1, 5.0) * factor(2, 25.0) * factor(4, 625.0)) * unit
}

/// The decade of y, of those that begin behind `from`: n intervals, and the factor a.
#[inline(always)]
fn decade(y: f32, from: &[f32; 6], n: f32, a: &[f32; 7]) -> (f32, f32) {
    let (mut of, mut next) = ((n, a[0]), n);
    for i in 0..6 {
        next *= 2.0;
        of = if y > from[i] { (next, a[i + 1]) } else { of };
    }
    of
}

const SIGNED: [f32; 7] = [1111111.1, 222222.22, 44444.445, 8888.889, 1777.7778, 355.55556, 71.111115];
const UNSIGNED: [f32; 7] = [2222222.2, 444444.44, 88888.89, 17777.778, 3555.5556, 711.1111, 142.22223];
/// Middles between the last number of a decade and the first of the next.
const SIGNED_MIDDLES: [f32; 6] = [1.9e-6, 1.45e-5, 1.225e-4, 1.1125e-3, 1.05625e-2, 0.1028125];
const UNSIGNED_MIDDLES: [f32; 6] = [1.45e-6, 1.225e-5, 1.1125e-4, 1.05625e-3, 1.028125e-2, 0.10140625];
/// The first numbers of the decades.
const UNSIGNED_FIRST: [f32; 6] = [2.125e-6, 1.5625e-5, 1.28125e-4, 1.140625e-3, 1.0703125e-2, 0.103515625];
/// 8/9, less the least that lets the middle between two numbers go down.
const SHIFT: f32 = 0.88888866;

#[inline(always)]
fn of_signed(code: u8, absmax: f32) -> f32 {
    let code = i32::from(code) - 127;
    let q = code.unsigned_abs();
    let x = if q == 128 { 1.0 } else { at_place(q, 5e-8) };
    let y = if q == 0 { 0.0 } else { x };
    (if code < 0 { -y } else { y }) * absmax
}

#[inline(always)]
fn of_unsigned(code: u8, absmax: f32) -> f32 {
    let x = if code == 255 { 1.0 } else { at_place(u32::from(code) + 1, 5e-9) };
    (if code == 0 { 0.0 } else { x }) * absmax
}

/// The middle of the bin of a number in [−1, 1].
#[inline(always)]
fn binned(x: f32, encoding: Encoding) -> f32 {
    match encoding {
        Encoding::Binned => 2.0 * ((x + 1.0) * 0.5 * 65535.0 + 0.5).trunc() / 65535.0 - 1.0,
        _ => x,
    }
}

#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn signed_code(x: f32, inverse: f32, encoding: Encoding) -> u8 {
    let scaled = binned(inverse * (0.25 * x), encoding);
    let y = scaled.abs();
    let (n, a) = decade(y, &SIGNED_MIDDLES, 1.0, &SIGNED);
    let place = least(y * a + SHIFT * n, 2.0 * n - 1.0);
    let inner = if y > 0.99648437 { 128 } else { place as i32 };
    let q = if y <= 2.75e-7 { 0 } else { inner };
    (127 + if scaled < 0.0 { -q.min(127) } else { q }) as u8
}

#[inline(always)]
fn unsigned_nearest(x: f32, inverse: f32, encoding: Encoding) -> u8 {
    let y = binned(inverse * (0.25 * x), encoding);
    let (n, a) = decade(y, &UNSIGNED_MIDDLES, 2.0, &UNSIGNED);
    let place = least(y * a + SHIFT * n, 2.0 * n - 1.0);
    let code = if y > 0.9982422 { 255 } else { place as i32 - 1 };
    (if x == 0.0 { 0 } else { code.max(1) }) as u8
}

#[inline(always)]
fn unsigned_stochastic(x: f32, inverse: f32, random: u32) -> u8 {
    let y = least(inverse * (0.25 * x), 1.0);
    let (n, a) = decade(y, &UNSIGNED_FIRST, 2.0, &UNSIGNED);
    // From the last number of a decade to the first of the next it is three intervals; from the last of all to 1, half.
    let last = 2.0 * n - 1.0;
    let behind = y * a + (0.8888889 * n - 0.5) - last;
    let gap = if n == 128.0 { 2.0 } else { 0.33333334 };
    let place = last + if behind > 0.0 { gap * behind } else { behind };
    let code = (place + (random >> 8) as f32 * 5.9604645e-8) as i32 - 1;
    (if x == 0.0 { 0 } else { code.clamp(1, 255) }) as u8
}

/// The numbers of a block.
#[inline(always)]
pub(crate) fn decode(signed: bool, codes: &[u8], absmax: f32, to: &mut [f32]) {
    let both = to.iter_mut().zip(codes);
    match signed {
        true => both.for_each(|(x, &code)| *x = of_signed(code, absmax)),
        false => both.for_each(|(x, &code)| *x = of_unsigned(code, absmax)),
    }
}

/// The codes of a block's numbers, of which those that are not finite count as 0. Returns the largest magnitude.
/// `random` gives 32 bits for each.
#[inline(always)]
pub(crate) fn encode(
    signed: bool,
    from: &[f32],
    encoding: Encoding,
    random: impl Fn(usize) -> u32,
    codes: &mut [u8],
) -> f32 {
    let finite = |x: f32| if x.is_finite() { x } else { 0.0 };
    let absmax = f32::from_bits(from.iter().fold(0, |most: u32, &x| most.max(finite(x).abs().to_bits())));
    let inverse = inverse_of(absmax);
    let both = codes.iter_mut().zip(from).enumerate();
    match (signed, encoding) {
        (true, _) => both.for_each(|(_, (code, &x))| *code = signed_code(finite(x), inverse, encoding)),
        (false, Encoding::Stochastic) => {
            both.for_each(|(k, (code, &x))| *code = unsigned_stochastic(finite(x), inverse, random(k)))
        }
        (false, _) => both.for_each(|(_, (code, &x))| *code = unsigned_nearest(finite(x), inverse, encoding)),
    }
    absmax
}
