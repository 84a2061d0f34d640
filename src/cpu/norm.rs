//! Norms of vectors: the twin of shaders/norm.wgsl and shaders/reduce.wgsl.

use super::{CHUNK, LANES, map, prefetch, widest};
use crate::rule::Real;
use crate::scaling::factors;

/// A norm, and whether the vector holds NaN or ∞.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measure {
    pub(crate) value: f64,
    pub(crate) bad: bool,
}

/// √(a² + b²); NaN of a NaN, where `f64::hypot` prefers an ∞.
pub(crate) fn hypot(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.hypot(b) }
}

/// The norm of a vector whose parts have these norms.
pub(crate) fn join(norms: impl Iterator<Item = f64>, kind: u32) -> f64 {
    norms.fold(0.0, |a, b| match kind {
        0 => a + b,
        1 => hypot(a, b),
        _ if a.is_nan() || a > b => a,
        _ => b,
    })
}

/// The norm of this kind, in f64 and in a fixed order; with `zero`, of the finite elements. The twin of
/// shaders/norm.wgsl.
pub(super) fn norm<X: Copy + Sync>(x: &[X], wide: impl Fn(X) -> f64 + Sync, kind: u32, zero: bool) -> Measure {
    let of = |x: &[X]| {
        widest(
            #[inline(always)]
            || part_of_norm(x, &wide, kind, zero),
        )
    };
    // From the last part on: the update then starts where the memory is still in the caches.
    let parts = map(x.chunks(CHUNK).rev().collect(), of);
    Measure { value: join(parts.iter().rev().map(|part| part.value), kind), bad: parts.iter().any(|part| part.bad) }
}

/// Whether a finite element, times `scale`, is infinite. Any norm is at least the largest element: mostly it says
/// enough.
pub(super) fn overflows<X: Copy, F: Real>(x: &[X], load: impl Fn(X) -> F, norm: f64, scale: f64) -> bool {
    let most = F::max_value().to_f64().unwrap_or(f64::MAX);
    let [scale_by, power] = factors::<F>(scale);
    let infinite = |x: F| x.is_finite() && !(scale_by * (power * x)).is_finite();
    norm * scale.abs() > 0.5 * most && x.iter().any(|&x| infinite(load(x)))
}

#[inline(always)]
fn part_of_norm<X: Copy>(x: &[X], wide: impl Fn(X) -> f64, kind: u32, zero: bool) -> Measure {
    let wide = |x: X| wide(x).abs();
    let kept = |x: X| Some(wide(x)).filter(|x| !zero || x.is_finite()).unwrap_or(0.0);
    let largest = |a: f64, b: f64| if a.is_nan() || a > b { a } else { b };
    let value = match kind {
        0 => fold(x, wide, |a, b| a + b),
        1 => fold(x, |x| wide(x) * wide(x), |a, b| a + b).sqrt(),
        _ => fold(x, wide, largest),
    };
    // NaN and ∞ show in the sum; in f64 a finite square may be ∞, too.
    let bad = !value.is_finite() && x.iter().any(|&x| !wide(x).is_finite());
    let value = match kind {
        _ if value.is_finite() => value,
        0 => fold(x, kept, |a, b| a + b),
        1 => fold(x, kept, hypot),
        _ => fold(x, kept, largest),
    };
    Measure { value, bad }
}

/// Joins terms, which may be joined in any order, in lanes beside each other for the vector unit.
#[inline(always)]
fn fold<X: Copy>(x: &[X], get: impl Fn(X) -> f64, join: impl Fn(f64, f64) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        prefetch(x);
        for i in 0..LANES {
            lanes[i] = join(lanes[i], get(x[i]));
        }
    }
    rest.iter().map(|&x| get(x)).chain(lanes).fold(0.0, join)
}
