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
    /// The nearest, 0 included, and the middle between two numbers goes up: as torchao.
    Torchao,
}

/// What quarters of numbers are multiplied with. Neither the quarter nor its inverse is subnormal.
#[inline(always)]
pub(crate) fn inverse_of(absmax: f32) -> f32 {
    let quarter = 0.25 * absmax;
    if quarter >= f32::MIN_POSITIVE { 1.0 / quarter } else { 0.0 }
}

/// The number at place q. Only the last product is rounded, and the one before it from q = 64 on.
const fn at_place(q: u32, unit: f32) -> f32 {
    let x = q as f32;
    let n = f32::from_bits(x.to_bits() & 0xff80_0000);
    let e = (x.to_bits() >> 23).wrapping_add(1);
    let one = if e & 1 != 0 { 5.0 } else { 1.0 };
    let two = if e & 2 != 0 { 25.0 } else { 1.0 };
    let four = if e & 4 != 0 { 625.0 } else { 1.0 };
    ((18.0 * x + 9.0) - 16.0 * n) * (one * two * four) * unit
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
/// 8/9, and the least less or more that lets the middle between two numbers go down or up.
const fn shift(encoding: u8) -> f32 {
    if encoding == TORCHAO { 0.88888913 } else { 0.88888866 }
}

/// [`Encoding`]s for which loops are compiled apart.
const NEAREST: u8 = Encoding::Nearest as u8;
const BINNED: u8 = Encoding::Binned as u8;
const TORCHAO: u8 = Encoding::Torchao as u8;

/// The maps. A table is faster on a CPU; on a GPU there is none.
static NUMBERS: [[f32; 256]; 2] = [map(false), map(true)];

const fn map(signed: bool) -> [f32; 256] {
    let (mut numbers, mut code) = ([0.0; 256], 0);
    while code < 256 {
        numbers[code] = if signed { of_signed(code as i32 - 127) } else { of_unsigned(code as u32) };
        code += 1;
    }
    numbers
}

const fn of_signed(code: i32) -> f32 {
    let x = match code.unsigned_abs() {
        0 => 0.0,
        128 => 1.0,
        q => at_place(q, 5e-8),
    };
    if code < 0 { -x } else { x }
}

const fn of_unsigned(code: u32) -> f32 {
    match code {
        0 => 0.0,
        255 => 1.0,
        code => at_place(code + 1, 5e-9),
    }
}

/// The middle of the bin of a number in [−1, 1].
#[inline(always)]
fn binned<const ENCODING: u8>(x: f32) -> f32 {
    if ENCODING == BINNED { 2.0 * ((x + 1.0) * 0.5 * 65535.0 + 0.5).trunc() / 65535.0 - 1.0 } else { x }
}

/// The whole part of a number from 0 to 2²², without the checks of `as`.
#[inline(always)]
fn whole(x: f32) -> i32 {
    const UNIT: f32 = 8_388_608.0; // the next number is 1 more
    let nearest = x + UNIT;
    let above = nearest - UNIT > x;
    nearest.to_bits() as i32 - UNIT.to_bits() as i32 - i32::from(above)
}

#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn signed_code<const ENCODING: u8>(x: f32, inverse: f32) -> u8 {
    let scaled = binned::<ENCODING>(inverse * (0.25 * x));
    let y = scaled.abs();
    let (n, a) = decade(y, &SIGNED_MIDDLES, 1.0, &SIGNED);
    let place = least(y * a + shift(ENCODING) * n, 2.0 * n - 1.0);
    let inner = if y > 0.996_484_4 { 128 } else { whole(place) };
    let q = if y <= 2.75e-7 { 0 } else { inner };
    (127 + if scaled < 0.0 { -q.min(127) } else { q }) as u8
}

#[inline(always)]
fn unsigned_nearest<const ENCODING: u8>(x: f32, inverse: f32) -> u8 {
    let y = binned::<ENCODING>(inverse * (0.25 * x));
    let (n, a) = decade(y, &UNSIGNED_MIDDLES, 2.0, &UNSIGNED);
    let place = least(y * a + shift(ENCODING) * n, 2.0 * n - 1.0);
    let code = if y > 0.9982422 { 255 } else { whole(place) - 1 };
    // A bin of bitsandbytes' reaches from 0 to code 7.
    match ENCODING {
        BINNED => code as u8,
        TORCHAO => (if y < 1.625e-7 { 0 } else { code }) as u8,
        _ => (if x == 0.0 { 0 } else { code.max(1) }) as u8,
    }
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
    let code = whole(place + (random >> 8) as i32 as f32 * 5.9604645e-8) - 1;
    (if x == 0.0 { 0 } else { code.clamp(1, 255) }) as u8
}

/// Elements that are decoded and encoded beside each other, for the vector unit.
const LANES: usize = 32;

/// The numbers of a block.
#[inline(always)]
pub(crate) fn decode(signed: bool, codes: &[u8], absmax: f32, to: &mut [f32]) {
    let numbers = &NUMBERS[usize::from(signed)];
    each(codes, to, |code| numbers[usize::from(code)] * absmax);
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
    let absmax = largest(from);
    let inverse = inverse_of(absmax);
    match (signed, encoding) {
        (true, Encoding::Binned) => each(from, codes, |x| signed_code::<BINNED>(finite(x), inverse)),
        (true, Encoding::Torchao) => each(from, codes, |x| signed_code::<TORCHAO>(finite(x), inverse)),
        (true, _) => each(from, codes, |x| signed_code::<NEAREST>(finite(x), inverse)),
        (false, Encoding::Binned) => each(from, codes, |x| unsigned_nearest::<BINNED>(positive(x), inverse)),
        (false, Encoding::Torchao) => each(from, codes, |x| unsigned_nearest::<TORCHAO>(positive(x), inverse)),
        (false, Encoding::Nearest) => each(from, codes, |x| unsigned_nearest::<NEAREST>(positive(x), inverse)),
        (false, Encoding::Stochastic) => {
            each_at(from, codes, |k, x| unsigned_stochastic(positive(x), inverse, random(k)));
        }
    }
    absmax
}

#[inline(always)]
pub(super) fn finite(x: f32) -> f32 {
    if x.abs() < f32::INFINITY { x } else { 0.0 }
}

/// A number that should not be below 0.
#[inline(always)]
pub(super) fn positive(x: f32) -> f32 {
    if x > 0.0 && x < f32::INFINITY { x } else { 0.0 }
}

/// The largest magnitude of those that are finite.
#[inline(always)]
pub(super) fn largest(from: &[f32]) -> f32 {
    let mut most = [0f32; LANES];
    let (whole, rest) = from.as_chunks::<LANES>();
    let mut take = |at: usize, x: f32| {
        let x = finite(x).abs();
        most[at] = if x > most[at] { x } else { most[at] };
    };
    for x in whole {
        (0..LANES).for_each(|i| take(i, x[i]));
    }
    rest.iter().enumerate().for_each(|(i, &x)| take(i, x));
    let mut lanes = LANES;
    while lanes > 1 {
        lanes /= 2;
        for i in 0..lanes {
            most[i] = if most[i + lanes] > most[i] { most[i + lanes] } else { most[i] };
        }
    }
    most[0]
}

/// `f` of each.
#[inline(always)]
pub(super) fn each<X: Copy, Y: Copy + Default>(from: &[X], to: &mut [Y], f: impl Fn(X) -> Y) {
    each_at(from, to, |_, x| f(x));
}

/// `f` of each, with its index.
#[inline(always)]
pub(super) fn each_at<X: Copy, Y: Copy + Default>(from: &[X], to: &mut [Y], f: impl Fn(usize, X) -> Y) {
    let ((whole, rest), (to, to_rest)) = (from.as_chunks::<LANES>(), to.as_chunks_mut::<LANES>());
    for (k, (from, to)) in whole.iter().zip(to).enumerate() {
        let mut made = [Y::default(); LANES];
        for i in 0..LANES {
            made[i] = f(k * LANES + i, from[i]);
        }
        *to = made;
    }
    for (k, (&from, to)) in rest.iter().zip(to_rest).enumerate() {
        *to = f(whole.len() * LANES + k, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All codes of a block whose largest magnitude this is.
    fn numbers(signed: bool, absmax: f32) -> Vec<f32> {
        let codes: Vec<u8> = (0..=255).collect();
        let mut numbers = vec![0.0; 256];
        decode(signed, &codes, absmax, &mut numbers);
        numbers
    }

    /// Values of `qmap1` and `qmap2` in bitsandbytes' files.
    #[test]
    fn the_maps_are_those_of_bitsandbytes() {
        let near = |x: f32, expected: f64| (f64::from(x) - expected).abs() <= 1.2e-7 * expected.abs();
        let (signed, unsigned) = (numbers(true, 1.0), numbers(false, 1.0));
        for (code, expected) in
            [(0, -0.99296875), (127, 0.0), (128, 5.5e-7), (255, 1.0), (129, 3.25e-6), (130, 7.75e-6)]
        {
            assert!(near(signed[code], expected), "{code}: {}", signed[code]);
        }
        for (code, expected) in [(0, 0.0), (1, 3.25e-7), (2, 7.75e-7), (3, 2.125e-6), (255, 1.0), (254, 0.996484375)] {
            assert!(near(unsigned[code], expected), "{code}: {}", unsigned[code]);
        }
        assert!(signed.is_sorted() && unsigned.is_sorted());
        // From the definition: middles of equal intervals of each decade.
        for e in 0..7 {
            for j in 0..1 << e {
                let n = f64::from(1 << e);
                let x = 10f64.powi(e - 6) * (0.1 + 0.9 * (f64::from(j) + 0.5) / n);
                let code = 127 + (1 << e) + j as usize;
                assert!(near(signed[code], x) && near(signed[254 - code], -x), "{e} {j}");
            }
        }
    }

    /// Of every 2^14th number below 1, and its opposite; the largest of the block is 1. Numbers near the middle of two
    /// may get either.
    #[test]
    fn the_code_of_each_number_is_the_nearest() {
        for signed in [false, true] {
            let map = numbers(signed, 1.0);
            let sweep = (0..1f32.to_bits()).step_by(1 << 14).map(f32::from_bits);
            let all: Vec<f32> = sweep.flat_map(|y| if signed { [y, -y] } else { [y, y] }).collect();
            for part in all.chunks(255) {
                let block: Vec<f32> = part.iter().copied().chain([1.0]).collect();
                let mut codes = vec![0; block.len()];
                assert_eq!(encode(signed, &block, Encoding::Nearest, |_| 0, &mut codes), 1.0);
                for (&y, code) in part.iter().zip(codes) {
                    let off = |code: u8| (f64::from(map[usize::from(code)]) - f64::from(y)).abs();
                    // A number above 0 never becomes 0 where all are above it.
                    let codes = u8::from(!signed && y > 0.0)..=255;
                    let best = codes.map(off).fold(f64::INFINITY, f64::min);
                    assert!(off(code) <= best + 2e-6 * f64::from(y.abs()), "{signed} {y}: {code}, {best}");
                }
            }
        }
    }

    #[test]
    fn every_code_comes_back() {
        for absmax in [1e-30, 3.7e-5, 1.0, 65504.0, 1e38] {
            for signed in [false, true] {
                for encoding in [Encoding::Nearest, Encoding::Stochastic] {
                    let mut codes = [0; 256];
                    let found = encode(signed, &numbers(signed, absmax), encoding, |_| 1 << 31, &mut codes);
                    assert_eq!(found, absmax);
                    assert!((0..=255).eq(codes), "{absmax} {signed} {encoding:?}: {codes:?}");
                }
            }
        }
    }
}
