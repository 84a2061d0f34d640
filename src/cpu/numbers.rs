//! A state on the CPU, as it is stored.

use std::borrow::Cow;
use std::ops::Range;

use crate::formats::draws::Draws;
use crate::formats::{BLOCK, Encoding, Format};
use crate::rule::Real;

/// The numbers of a state of a parameter.
#[derive(Clone, Debug)]
pub(crate) enum Numbers<F> {
    /// In the parameter's type.
    Same(Vec<F>),
    /// In blocks: codes, and the largest magnitude of each.
    Blocks { format: Format, codes: Vec<u8>, absmax: Vec<f32> },
}

/// Some of them, from the start of a block on.
#[derive(Debug)]
pub(crate) enum NumbersMut<'a, F> {
    Same(&'a mut [F]),
    Blocks { format: Format, codes: &'a mut [u8], absmax: &'a mut [f32] },
}

impl<F: Real> Numbers<F> {
    /// So many of this number.
    pub(crate) fn filled(format: Format, len: usize, value: f64) -> Self {
        let mut numbers = match format.is_scaled() {
            false => Self::Same(vec![F::of(value); len]),
            true => Self::Blocks { format, codes: vec![0; len], absmax: vec![0.0; len.div_ceil(BLOCK)] },
        };
        if format.is_scaled() && value != 0.0 {
            numbers.set_part(0, &vec![F::of(value); len]);
        }
        numbers
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Same(x) => x.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Same(_) if F::NAME == f64::NAME => Format::F64,
            Self::Same(_) => Format::F32,
            Self::Blocks { format, .. } => *format,
        }
    }

    pub(crate) fn all(&mut self) -> NumbersMut<'_, F> {
        match self {
            Self::Same(x) => NumbersMut::Same(x),
            Self::Blocks { format, codes, absmax } => NumbersMut::Blocks { format: *format, codes, absmax },
        }
    }

    /// Where they are in the parameter's type.
    pub(crate) fn same(&self) -> Option<&[F]> {
        if let Self::Same(x) = self { Some(x) } else { None }
    }

    pub(crate) fn same_mut(&mut self) -> Option<&mut Vec<F>> {
        if let Self::Same(x) = self { Some(x) } else { None }
    }

    /// As numbers of the parameter's type.
    pub(crate) fn decoded(&self) -> Cow<'_, [F]> {
        self.decoded_part(0..self.len())
    }

    /// These of them, which begin with a block, as numbers of the parameter's type.
    pub(crate) fn decoded_part(&self, part: Range<usize>) -> Cow<'_, [F]> {
        match self {
            Self::Same(x) => Cow::Borrowed(&x[part]),
            Self::Blocks { format, codes, absmax } => {
                let first = part.start / BLOCK;
                let values = format.decode(&codes[part], &absmax[first..]);
                values.iter().map(|&x| F::of(x.into())).collect()
            }
        }
    }

    /// Sets those from `at` on, which begin with a block, to the nearest numbers.
    pub(crate) fn set_part(&mut self, at: usize, from: &[F]) {
        self.all().encode_part(at, from, Encoding::Nearest, Draws::default(), 0);
    }
}

impl<'a, F: Real> NumbersMut<'a, F> {
    #[cfg(not(target_family = "wasm"))]
    pub(super) fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Same(x) => {
                let (a, b) = x.split_at_mut(at);
                (Self::Same(a), Self::Same(b))
            }
            Self::Blocks { format, codes, absmax } => {
                let ((a, b), (c, d)) = (codes.split_at_mut(at), absmax.split_at_mut(at / BLOCK));
                (Self::Blocks { format, codes: a, absmax: c }, Self::Blocks { format, codes: b, absmax: d })
            }
        }
    }

    /// Whether they are in the parameter's type.
    pub(super) fn is_same(&self) -> bool {
        matches!(self, Self::Same(_))
    }

    /// Where they are in the parameter's type.
    pub(super) fn same(self) -> Option<&'a mut [F]> {
        if let Self::Same(x) = self { Some(x) } else { None }
    }

    /// These of them, which begin with a block, as numbers of the parameter's type.
    #[inline(always)]
    pub(super) fn decode(&self, part: Range<usize>, to: &mut [F]) {
        match self {
            Self::Same(x) => to.copy_from_slice(&x[part]),
            Self::Blocks { format, codes, absmax } => {
                // Parameters in f64 have no states in blocks.
                let Ok(to) = bytemuck::try_cast_slice_mut::<F, f32>(to) else { return };
                format.decode_blocks(&codes[part.clone()], &absmax[part.start / BLOCK..], to);
            }
        }
    }

    /// Sets those from `at` on, which begin with a block. `first` is their first element, of the tensor.
    #[inline(always)]
    pub(super) fn encode_part(&mut self, at: usize, from: &[F], encoding: Encoding, draws: Draws, first: usize) {
        match self {
            Self::Same(x) => x[at..at + from.len()].copy_from_slice(from),
            Self::Blocks { format, codes, absmax } => {
                let Ok(from) = bytemuck::try_cast_slice::<F, f32>(from) else { return };
                let random = |k: usize| draws.of((first + k) as u32);
                let (codes, absmax) = (&mut codes[at..at + from.len()], &mut absmax[at / BLOCK..]);
                format.encode_blocks(from, encoding, random, codes, absmax);
            }
        }
    }
}
