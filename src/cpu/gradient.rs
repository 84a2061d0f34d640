//! A gradient on the CPU: whose it is, and how it is stored.

use std::ops::Range;

use super::{TILE, norm, prefetch};
use crate::formats::Format;
use crate::rule::Real;

/// A gradient, ours to clear or the caller's to read.
#[derive(Debug)]
pub(crate) enum Gradient<'a, F> {
    Ours(&'a mut [F]),
    Callers(&'a [F]),
    /// A copy of the caller's, rewritten.
    Changed(Vec<F>),
    /// Ours, stored in 16 bits.
    Half(Format, &'a mut [u16]),
}

/// A gradient to read.
#[derive(Clone, Copy, Debug)]
pub(super) enum View<'a, F> {
    Same(&'a [F]),
    Half(Format, &'a [u16]),
}

/// A number of 16 bits in the parameter's type.
#[inline(always)]
fn wide<F: Real>(format: Format, half: u16) -> F {
    F::of(format.wide(half).into())
}

impl<'a, F: Real> Gradient<'a, F> {
    pub(super) fn view(&self) -> View<'_, F> {
        match self {
            Self::Ours(g) => View::Same(g),
            Self::Callers(g) => View::Same(g),
            Self::Changed(g) => View::Same(g),
            Self::Half(format, g) => View::Half(*format, g),
        }
    }

    /// To be rewritten. What is not ours in this type is copied for that.
    pub(super) fn change(&mut self) -> &mut [F] {
        match self {
            Self::Callers(g) => *self = Self::Changed(g.to_vec()),
            Self::Half(format, g) => *self = Self::Changed(g.iter().map(|&x| wide(*format, x)).collect()),
            Self::Ours(_) | Self::Changed(_) => {}
        }
        match self {
            Self::Ours(g) => g,
            Self::Changed(g) => g,
            Self::Callers(_) | Self::Half(..) => &mut [],
        }
    }

    /// Sets one that is ours to 0.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Ours(g) => g.fill(F::zero()),
            Self::Half(_, g) => g.fill(0),
            Self::Callers(_) | Self::Changed(_) => {}
        }
    }

    pub(super) fn is_half(&self) -> bool {
        matches!(self, Self::Half(..))
    }

    /// One in 16 bits, in the parameter's type. A loop for each format, for the vector unit.
    #[inline(always)]
    pub(super) fn widen(&self, to: &mut [F]) {
        let Self::Half(format, g) = self else { return };
        let both = to.iter_mut().zip(&**g);
        match format {
            Format::F16 => both.for_each(|(x, &half)| *x = wide(Format::F16, half)),
            _ => both.for_each(|(x, &half)| *x = wide(Format::Bf16, half)),
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
            Self::Half(format, g) => {
                let (a, b) = g.split_at_mut(at);
                (Self::Half(format, a), Self::Half(format, b))
            }
        }
    }
}

impl<'a, F: Real> View<'a, F> {
    pub(super) fn part(self, part: Range<usize>) -> Self {
        match self {
            Self::Same(g) => Self::Same(&g[part]),
            Self::Half(format, g) => Self::Half(format, &g[part]),
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
            Self::Half(format, g) => {
                let tile = &g.as_chunks::<TILE>().0[at];
                prefetch(tile);
                // A loop for each, for the vector unit.
                *converted = match format {
                    Format::F16 => tile.map(|x| wide(Format::F16, x)),
                    _ => tile.map(|x| wide(Format::Bf16, x)),
                };
                converted
            }
        }
    }

    /// What is behind the whole tiles, with 0 behind it.
    pub(super) fn rest(self) -> [F; TILE] {
        let mut tile = [F::zero(); TILE];
        match self {
            Self::Same(g) => tile.iter_mut().zip(g.as_chunks::<TILE>().1).for_each(|(x, &g)| *x = g),
            Self::Half(format, g) => {
                tile.iter_mut().zip(g.as_chunks::<TILE>().1).for_each(|(x, &g)| *x = wide(format, g));
            }
        }
        tile
    }

    /// The norm of this kind; with `zero`, of the finite elements.
    pub(super) fn norm(self, kind: u32, zero: bool) -> norm::Measure {
        match self {
            Self::Same(g) => norm::norm(g, |x: F| x.to_f64().unwrap_or(f64::NAN), kind, zero),
            Self::Half(format, g) => norm::norm(g, |x| format.wide(x).into(), kind, zero),
        }
    }

    /// Whether a finite element of a gradient of this norm, times `scale`, is infinite.
    pub(super) fn overflows(self, norm: f64, scale: f64) -> bool {
        match self {
            Self::Same(g) => norm::overflows(g, |x| x, norm, scale),
            Self::Half(format, g) => norm::overflows(g, |x| wide::<F>(format, x), norm, scale),
        }
    }
}
