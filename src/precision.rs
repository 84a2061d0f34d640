//! How a group's memory is stored: gradients in 16 bits, states in 8.

use serde::{Deserialize, Serialize};

use crate::formats::draws::Draws;
use crate::formats::{Encoding, Format};
use crate::noise::philox;

/// How the memory of a group's parameters is stored; see [`Optimizer::set_precision`](crate::Optimizer::set_precision).
/// Arithmetic is f32 in all of them: a step updates parameters with its new states before those are rounded.
///
/// ```
/// use wgpu_optim::{Precision, States};
/// let precision = Precision { states: States::Block8, ..Precision::f32() };
/// assert_eq!(precision, Precision::block8());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Precision {
    /// How gradients in the optimizer's memory are stored: [`Format::F32`], or in 16 bits [`Format::F16`] or
    /// [`Format::Bf16`]. A gradient in your buffer says it itself: [`BufferRange::of`](crate::BufferRange::of).
    pub gradients: Format,
    /// A second copy of each parameter in [`Format::F16`] or [`Format::Bf16`], rounded to the nearest, for forward
    /// passes to bind: see [`Optimizer::mirror`](crate::Optimizer::mirror). Steps write it with the parameter.
    pub mirror: Option<Format>,
    /// How the states of elements are stored. Averages, and states of a whole tensor or group, stay in f32.
    pub states: States,
    /// How a state that is never below 0, such as a second moment, is rounded to 8 bits.
    pub rounding: Rounding,
    /// Parameters with fewer elements keep their states in f32: `min_8bit_size` in bitsandbytes.
    pub min_8bit_size: usize,
    /// Another seed, another stochastic rounding.
    pub seed: u64,
}

/// How the states of elements are stored.
///
/// In 8 bits, each block of 256 elements, counted from the tensor's start, has its largest magnitude in f32 beside it:
/// 1.016 bytes an element.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum States {
    /// f32.
    #[default]
    F32,
    /// 8 bits by the dynamic maps of [bitsandbytes](https://arxiv.org/abs/2110.02861), in its layout. Better than its
    /// rounding: a second moment above 0 is never stored as 0, and is rounded stochastically. Second moments are the
    /// states for which [`Rule::signed`](crate::Rule::signed) is false.
    Block8,
    /// As [`States::Block8`], but states that are never below 0 hold the logarithm of what they are of their block's
    /// largest. It takes integers alone, and reaches further down, at 3 bits of mantissa.
    Relative8,
    /// As [`States::Block8`], rounded through 65,536 bins, and with the signed map for the first state: bit for bit
    /// what bitsandbytes does on the CPU.
    BitsandbytesCpu,
    /// As [`States::Block8`], rounded to the nearest, and to 0 where that is nearest: what torchao does.
    Torchao,
}

/// How a number is rounded to a shorter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To one of the two numbers around it, at random, so that the mean is the number. There are two exceptions: the
    /// smallest code is never rounded down to 0, and in [`States::Relative8`] the mean is slightly off where the two
    /// numbers lie on either side of a power of two. What changes by less than the distance of
    /// two numbers still changes, as 0.1 % a step of a second moment at β₂ = 0.999. The random bits come from the seed,
    /// the parameter's name, its step and the element: the same on every device, and after a checkpoint.
    #[default]
    Stochastic,
    /// To the nearest. A second moment at β₂ = 0.999 then stays where it is while its gradients are 0.
    Nearest,
}

impl Default for Precision {
    fn default() -> Self {
        Self::f32()
    }
}

impl Precision {
    /// Everything in f32.
    pub const fn f32() -> Self {
        Self {
            gradients: Format::F32,
            mirror: None,
            states: States::F32,
            rounding: Rounding::Stochastic,
            min_8bit_size: 4096,
            seed: 0,
        }
    }

    /// States in 8 bits.
    pub const fn block8() -> Self {
        Self { states: States::Block8, ..Self::f32() }
    }

    /// The format of state k of the elements of a long parameter. `signed`: whether it may be below 0.
    pub(crate) fn of_state(self, k: usize, signed: bool) -> Format {
        match (self.states, signed) {
            (States::F32, _) => Format::F32,
            (_, true) => Format::Block8Signed,
            (States::BitsandbytesCpu, false) if k == 0 => Format::Block8Signed,
            (States::Relative8, false) => Format::Relative8,
            (_, false) => Format::Block8Unsigned,
        }
    }

    /// Whether a parameter of this length has states in 8 bits.
    pub(crate) fn narrows(self, len: usize) -> bool {
        self.states != States::F32 && len >= self.min_8bit_size
    }

    pub(crate) fn encoding(self) -> Encoding {
        match (self.states, self.rounding) {
            (States::F32, _) => Encoding::Nearest,
            (States::BitsandbytesCpu, _) => Encoding::Binned,
            (States::Torchao, _) => Encoding::Torchao,
            (_, Rounding::Nearest) => Encoding::Nearest,
            (_, Rounding::Stochastic) => Encoding::Stochastic,
        }
    }

    /// The random bits of a parameter's step t, counted from 1.
    pub(crate) fn draws(self, t: u64) -> Draws {
        if self.encoding() != Encoding::Stochastic {
            return Draws::default();
        }
        let seed = [self.seed as u32, (self.seed >> 32) as u32];
        // Gradient noise has 0 in the last place.
        let [a, b, ..] = philox([t as u32, (t >> 32) as u32, 0, 1], seed);
        Draws { keys: [a, b] }
    }
}
