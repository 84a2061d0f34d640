//! A gradient on the CPU: whose it is, and how it is stored.

use std::ops::Range;

use half::bf16;

use super::{TILE, norm, prefetch};
use crate::rule::Real;

/// A gradient, ours to clear or the caller's to read.
#[derive(Debug)]
pub(crate) enum Gradient<'a, F> {
    Ours(&'a mut [F]),
    Callers(&'a [F]),
    /// A copy of the caller's, rewritten.
    Changed(Vec<F>),
    /// Stored in bfloat16, which is only read.
    Bf16(&'a [bf16]),
}

/// A gradient to read.
#[derive(Clone, Copy, Debug)]
pub(super) enum View<'a, F> {
    Same(&'a [F]),
    Bf16(&'a [bf16]),
}

/// It is the upper half of an f32. `to_f32` would look for NaN, which keeps the loop from the vector unit.
#[inline(always)]
fn wide<F: Real>(x: bf16) -> F {
    F::of(f32::from_bits(u32::from(x.to_bits()) << 16).into())
}

impl<'a, F: Real> Gradient<'a, F> {
    pub(super) fn view(&self) -> View<'_, F> {
        match self {
            Self::Ours(g) => View::Same(g),
            Self::Callers(g) => View::Same(g),
            Self::Changed(g) => View::Same(g),
            Self::Bf16(g) => View::Bf16(g),
        }
    }

    /// To be rewritten. What is not ours in this type is copied for that.
    pub(super) fn change(&mut self) -> &mut [F] {
        match self {
            Self::Callers(g) => *self = Self::Changed(g.to_vec()),
            Self::Bf16(g) => *self = Self::Changed(g.iter().map(|&x| wide(x)).collect()),
            Self::Ours(_) | Self::Changed(_) => {}
        }
        match self {
            Self::Ours(g) => g,
            Self::Changed(g) => g,
            Self::Callers(_) | Self::Bf16(_) => &mut [],
        }
    }

    pub(super) fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Ours(g) => {
                let (a, b) = g.split_at_mut(at);
                (Self::Ours(a), Self::Ours(b))
            }
            Self::Callers(g) => {
                let (a, b) = g.split_at(at);
                (Self::Callers(a), Self::Callers(b))
            }
            Self::Changed(mut a) => {
                let b = a.split_off(at);
                (Self::Changed(a), Self::Changed(b))
            }
            Self::Bf16(g) => {
                let (a, b) = g.split_at(at);
                (Self::Bf16(a), Self::Bf16(b))
            }
        }
    }
}

impl<'a, F: Real> View<'a, F> {
    pub(super) fn part(self, part: Range<usize>) -> Self {
        match self {
            Self::Same(g) => Self::Same(&g[part]),
            Self::Bf16(g) => Self::Bf16(&g[part]),
        }
    }

    /// A whole tile. One branch a tile costs less than the loop compiled twice for each rule.
    #[inline(always)]
    pub(super) fn tile(self, at: usize) -> [F; TILE] {
        *self.tile_in(at, &mut [F::zero(); TILE])
    }

    /// A whole tile where it lies, or in `converted` if it has another type. Loops that mostly read are faster with it.
    #[inline(always)]
    pub(super) fn tile_in<'b>(self, at: usize, converted: &'b mut [F; TILE]) -> &'b [F; TILE]
    where
        'a: 'b,
    {
        match self {
            Self::Same(g) => {
                let tile = &g.as_chunks::<TILE>().0[at];
                prefetch(tile);
                tile
            }
            Self::Bf16(g) => {
                let tile = &g.as_chunks::<TILE>().0[at];
                prefetch(tile);
                *converted = tile.map(wide);
                converted
            }
        }
    }

    /// What is behind the whole tiles, with 0 behind it.
    pub(super) fn rest(self) -> [F; TILE] {
        let mut tile = [F::zero(); TILE];
        match self {
            Self::Same(g) => tile.iter_mut().zip(g.as_chunks::<TILE>().1).for_each(|(x, &g)| *x = g),
            Self::Bf16(g) => tile.iter_mut().zip(g.as_chunks::<TILE>().1).for_each(|(x, &g)| *x = wide(g)),
        }
        tile
    }

    /// The norm of this kind; with `zero`, of the finite elements.
    pub(super) fn norm(self, kind: u32, zero: bool) -> norm::Measure {
        match self {
            Self::Same(g) => norm::norm(g, |x: F| x.to_f64().unwrap_or(f64::NAN), kind, zero),
            Self::Bf16(g) => norm::norm(g, bf16::to_f64, kind, zero),
        }
    }

    /// Whether a finite element of a gradient of this norm, times `scale`, is infinite.
    pub(super) fn overflows(self, norm: f64, scale: f64) -> bool {
        match self {
            Self::Same(g) => norm::overflows(g, |x| x, norm, scale),
            Self::Bf16(g) => norm::overflows(g, wide::<F>, norm, scale),
        }
    }
}
