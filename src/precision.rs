//! How a group's memory is stored: parameters and gradients in 16 bits, states in 16 or 8.

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
#[serde(default)]
pub struct Precision {
    /// How parameters are stored: [`Format::F32`] or [`Format::Bf16`]. One in your buffer has to be stored in the same
    /// way: [`BufferRange::of`](crate::BufferRange::of). Rounding to bf16, as [`Precision::rounding`] says, is the last
    /// thing that a step does, behind the decay.
    pub parameters: Format,
    /// For parameters in [`Format::Bf16`]: whether the 16 bits that they lack of f32 are kept beside them. Steps are
    /// then those of f32 parameters, bit for bit, and the parameter in bf16 is its nearest number, ties away from 0.
    pub exact_master: bool,
    /// How gradients in the optimizer's memory are stored: [`Format::F32`], or in 16 bits [`Format::F16`] or
    /// [`Format::Bf16`]. A gradient in your buffer says it itself: [`BufferRange::of`](crate::BufferRange::of).
    pub gradients: Format,
    /// A second copy of each parameter in [`Format::F16`] or [`Format::Bf16`], rounded to the nearest, for forward
    /// passes to bind: see [`Optimizer::mirror`](crate::Optimizer::mirror). Steps write it with the parameter.
    pub mirror: Option<Format>,
    /// How states of elements that are [moments](crate::Rule::is_moment) are stored. Others, such as Schedule-Free's z,
    /// averages, and states of a whole tensor or group stay in f32.
    pub states: States,
    /// How parameters and states are rounded to bf16, and states that are never below 0, such as second moments, to 8
    /// bits. Other states are rounded to the nearest of 8 bits.
    pub rounding: Rounding,
    /// Of states in 8 bits: parameters with fewer elements keep them in f32. `min_8bit_size` in bitsandbytes.
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
    /// bf16. To the nearest, a second moment would never fall: at β₂ = 0.999 it changes by at most 0.1 % a step, and
    /// two numbers in bf16 are 0.4 to 0.8 % apart. So keep [`Rounding::Stochastic`].
    Bf16,
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
            parameters: Format::F32,
            exact_master: false,
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

    /// Parameters in bf16 with what they lack of f32 beside them, and gradients in bf16: steps as in f32, bit for bit,
    /// which leave the parameter rounded for a forward pass to bind.
    ///
    /// Adam has 12 bytes a parameter, and moves 26 in a step where f32 moves 28; with [`States::Block8`] 6.03 and 14.1.
    pub const fn bf16_exact_master() -> Self {
        Self { parameters: Format::Bf16, exact_master: true, gradients: Format::Bf16, ..Self::f32() }
    }

    /// Parameters, gradients and states in bf16, rounded stochastically. Adam has 6 bytes a parameter, and moves 14 in
    /// a step; with [`States::Block8`] 4.03 and 10.1.
    pub const fn bf16() -> Self {
        Self { parameters: Format::Bf16, gradients: Format::Bf16, states: States::Bf16, ..Self::f32() }
    }

    /// What is kept beside a parameter on a GPU: a mirror, or what a parameter in bf16 lacks of f32.
    pub(crate) fn beside(self) -> Option<Format> {
        if self.exact_master { Some(Format::Remainder) } else { self.mirror }
    }

    /// How a parameter is stored on the CPU, where nobody binds its upper half.
    pub(crate) fn parameters_on_cpu(self) -> Format {
        if self.exact_master { Format::F32 } else { self.parameters }
    }

    /// Whether steps round parameters.
    pub(crate) fn rounds_parameters(self) -> bool {
        self.parameters_on_cpu() != Format::F32
    }

    /// Whether steps round parameters to the nearest, so that small updates are lost.
    pub(crate) fn loses_updates(self) -> bool {
        self.rounds_parameters() && self.rounding == Rounding::Nearest
    }

    /// Why these formats do not go together, if they do not.
    pub(crate) fn refused(self) -> Option<&'static str> {
        let as_others = matches!(self.states, States::BitsandbytesCpu | States::Torchao);
        let checks = [
            (!matches!(self.parameters, Format::F32 | Format::Bf16), "parameters are F32 or Bf16"),
            (!matches!(self.gradients, Format::F32 | Format::F16 | Format::Bf16), "gradients are F32, F16 or Bf16"),
            (!matches!(self.mirror, None | Some(Format::F16 | Format::Bf16)), "mirrors are F16 or Bf16"),
            (self.exact_master && self.parameters != Format::Bf16, "exact_master is for parameters in Bf16"),
            (self.mirror.is_some() && self.parameters != Format::F32, "parameters in Bf16 are their own mirrors"),
            (as_others && self.rounds_parameters(), "states as in other libraries need parameters in f32"),
        ];
        checks.into_iter().find_map(|(refused, why)| refused.then_some(why))
    }

    /// The format of state k of the elements of a long parameter. `signed`: whether it may be below 0.
    pub(crate) fn of_state(self, k: usize, signed: bool) -> Format {
        match (self.states, signed) {
            (States::F32, _) => Format::F32,
            (States::Bf16, _) => Format::Bf16,
            (_, true) => Format::Block8Signed,
            (States::BitsandbytesCpu, false) if k == 0 => Format::Block8Signed,
            (States::Relative8, false) => Format::Relative8,
            (_, false) => Format::Block8Unsigned,
        }
    }

    /// Whether a parameter of this length has states in 8 bits.
    pub(crate) fn narrows(self, len: usize) -> bool {
        !matches!(self.states, States::F32 | States::Bf16) && len >= self.min_8bit_size
    }

    pub(crate) fn encoding(self) -> Encoding {
        let rounds = self.states != States::F32 || self.rounds_parameters();
        match (self.states, self.rounding) {
            _ if !rounds => Encoding::Nearest,
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
        Draws::new([a, b])
    }
}
