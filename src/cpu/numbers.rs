//! A parameter, gradient or state on the CPU, as it is stored.

use std::borrow::Cow;
use std::ops::Range;

use crate::formats::draws::Draws;
use crate::formats::{BLOCK, Encoding, Format, bf16};
use crate::rule::Real;

/// The numbers of a parameter, of its gradient or of a state.
#[derive(Clone, Debug)]
pub(crate) enum Numbers<F> {
    /// In the parameter's type.
    Same(Vec<F>),
    /// In 16 bits.
    Halves { format: Format, halves: Vec<u16> },
    /// In blocks: codes, and the largest magnitude of each.
    Blocks { format: Format, codes: Vec<u8>, absmax: Vec<f32> },
}

/// Some of them, from the start of a block on.
#[derive(Debug)]
pub(crate) enum NumbersMut<'a, F> {
    Same(&'a mut [F]),
    Halves { format: Format, halves: &'a mut [u16] },
    Blocks { format: Format, codes: &'a mut [u8], absmax: &'a mut [f32] },
}

impl<F: Real> Numbers<F> {
    /// So many of this number.
    pub(crate) fn filled(format: Format, len: usize, value: f64) -> Self {
        let mut numbers = match format {
            Format::F32 | Format::F64 => return Self::Same(vec![F::of(value); len]),
            _ if format.is_scaled() => {
                Self::Blocks { format, codes: vec![0; len], absmax: vec![0.0; len.div_ceil(BLOCK)] }
            }
            _ => Self::Halves { format, halves: vec![0; len] },
        };
        if value != 0.0 {
            numbers.set_part(0, &vec![F::of(value); len]);
        }
        numbers
    }

    /// Sets all of them to this number.
    pub(crate) fn fill(&mut self, value: f64) {
        match self {
            Self::Same(x) => x.fill(F::of(value)),
            Self::Halves { format, halves } => halves.fill(format.nearest(value)),
            Self::Blocks { format, codes, .. } => *self = Self::filled(*format, codes.len(), value),
        }
    }

    /// These numbers, each the nearest.
    pub(crate) fn of(format: Format, values: &[F]) -> Self {
        let mut numbers = Self::filled(format, values.len(), 0.0);
        numbers.set_part(0, values);
        numbers
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Same(x) => x.len(),
            Self::Halves { halves, .. } => halves.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Same(_) if F::NAME == f64::NAME => Format::F64,
            Self::Same(_) => Format::F32,
            Self::Halves { format, .. } | Self::Blocks { format, .. } => *format,
        }
    }

    pub(crate) fn all(&mut self) -> NumbersMut<'_, F> {
        match self {
            Self::Same(x) => NumbersMut::Same(x),
            Self::Halves { format, halves } => NumbersMut::Halves { format: *format, halves },
            Self::Blocks { format, codes, absmax } => NumbersMut::Blocks { format: *format, codes, absmax },
        }
    }

    /// Where they are in the parameter's type.
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
            Self::Halves { format, halves } => halves[part].iter().map(|&x| F::of(format.wide(x).into())).collect(),
            Self::Blocks { format, codes, absmax } => {
                let first = part.start / BLOCK;
                let values = format.decode(&codes[part], &absmax[first..]);
                values.iter().map(|&x| F::of(x.into())).collect()
            }
        }
    }

    /// Sets those from `at` on, which begin with a block, to the nearest numbers.
    pub(crate) fn set_part(&mut self, at: usize, from: &[F]) {
        self.all().encode_part(at, from, Encoding::Nearest, (Draws::default(), &[]), 0);
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
            Self::Halves { format, halves } => {
                let (a, b) = halves.split_at_mut(at);
                (Self::Halves { format, halves: a }, Self::Halves { format, halves: b })
            }
            Self::Blocks { format, codes, absmax } => {
                let ((a, b), (c, d)) = (codes.split_at_mut(at), absmax.split_at_mut(at / BLOCK));
                (Self::Blocks { format, codes: a, absmax: c }, Self::Blocks { format, codes: b, absmax: d })
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Same(x) => x.len(),
            Self::Halves { halves, .. } => halves.len(),
            Self::Blocks { codes, .. } => codes.len(),
        }
    }

    /// All of them in the parameter's type.
    pub(super) fn decoded(&self) -> Cow<'_, [F]> {
        match self {
            Self::Same(x) => Cow::Borrowed(x),
            _ => {
                let mut all = vec![F::zero(); self.len()];
                self.decode(0..self.len(), &mut all);
                Cow::Owned(all)
            }
        }
    }

    /// Whether they are in the parameter's type.
    pub(super) fn is_same(&self) -> bool {
        matches!(self, Self::Same(_))
    }

    /// Whether they are in 16 bits.
    pub(super) fn is_half(&self) -> bool {
        matches!(self, Self::Halves { .. })
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
            // A loop for each format, for the vector unit.
            Self::Halves { format: Format::Bf16, halves } => {
                to.iter_mut().zip(&halves[part]).for_each(|(to, &x)| *to = F::of(Format::Bf16.wide(x).into()));
            }
            Self::Halves { format, halves } => {
                to.iter_mut().zip(&halves[part]).for_each(|(to, &x)| *to = F::of(format.wide(x).into()));
            }
            Self::Blocks { format, codes, absmax } => {
                // Parameters in f64 have no states in blocks.
                let Ok(to) = bytemuck::try_cast_slice_mut::<F, f32>(to) else { return };
                format.decode_blocks(&codes[part.clone()], &absmax[part.start / BLOCK..], to);
            }
        }
    }

    /// Sets those from `at` on, which begin with a block. `first` is their first element, of the tensor. Of numbers
    /// that are rounded at random in 16 bits, `hashes` has that of each.
    #[inline(always)]
    pub(super) fn encode_part(
        &mut self,
        at: usize,
        from: &[F],
        encoding: Encoding,
        (draws, hashes): (Draws, &[u32]),
        first: usize,
    ) {
        match self {
            Self::Same(x) => x[at..at + from.len()].copy_from_slice(from),
            Self::Halves { format, halves } => {
                let to = halves[at..at + from.len()].iter_mut();
                // f64 would be cast, too, to other numbers.
                let singles = bytemuck::try_cast_slice::<F, f32>(from).ok().filter(|_| F::NAME == f32::NAME);
                match (*format, singles, encoding) {
                    (Format::Bf16, Some(from), Encoding::Stochastic) => {
                        let (both, draws) = (to.zip(from).zip(hashes), draws);
                        both.for_each(move |((to, &x), &hash)| *to = bf16::random(x, draws.of_hash(hash)));
                    }
                    (Format::Bf16, Some(from), _) => to.zip(from).for_each(|(to, &x)| *to = bf16::near(x)),
                    (format, ..) => {
                        to.zip(from).for_each(|(to, x)| *to = format.nearest(x.to_f64().unwrap_or(f64::NAN)))
                    }
                }
            }
            Self::Blocks { format, codes, absmax } => {
                let Ok(from) = bytemuck::try_cast_slice::<F, f32>(from) else { return };
                // Copies, which nothing that is written can alias.
                let (draws, first) = (draws, first as u32);
                let random = move |k: usize| draws.of(first.wrapping_add(k as u32));
                let (codes, absmax) = (&mut codes[at..at + from.len()], &mut absmax[at / BLOCK..]);
                format.encode_blocks(from, encoding, random, codes, absmax);
            }
        }
    }
}
