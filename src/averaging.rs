//! Averages of the parameters over the steps, for a model that is evaluated on them.

use serde::{Deserialize, Serialize};

use crate::error::{Result, require};

/// How a group averages its parameters: one more state, `average`, updated in the same pass (8 bytes of traffic an element).
///
/// ```text
/// a ← a + rate(t)·(w − a)        after each step of the parameter, t = 1, 2, …; w itself for rate 1
/// ```
/// Until its first step that counts a parameter has no average: the state is 0, and a swap leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Averaging {
    /// `a ← decay·a + (1 − decay)·w`, with a = w after the first step: PyTorch's `get_ema_multi_avg_fn`.
    Ema(f64),
    /// The same from a = 0 and divided by 1 − decayᵗ, which this state holds divided: optax' `ema(debias=True)`.
    EmaDebiased(f64),
    /// The same from a = 0, not divided: optax' `ema(debias=False)`.
    EmaFromZero(f64),
    /// The mean of the parameters after step `from` and each `every` steps behind it: stochastic weight averaging,
    /// [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407); PyTorch's `AveragedModel`.
    Swa {
        /// The first step that counts, from 1 on.
        from: u64,
        /// Steps between two that count.
        every: u64,
    },
}

impl Averaging {
    pub(crate) fn check(&self) -> Result<()> {
        match *self {
            Self::Ema(decay) | Self::EmaDebiased(decay) | Self::EmaFromZero(decay) => {
                require((0.0..1.0).contains(&decay), "decay", decay, "0 to below 1")
            }
            Self::Swa { from, every } => {
                require(from > 0, "from", from as f64, "1 or more")?;
                require(every > 0, "every", every as f64, "1 or more")
            }
        }
    }

    /// Whether there is an average after this many steps.
    pub(crate) fn has(&self, steps: u64) -> bool {
        match *self {
            Self::Swa { from, .. } => steps >= from,
            _ => steps > 0,
        }
    }

    /// How far the average goes towards the parameter after its step t.
    pub(crate) fn rate(&self, t: u64) -> f64 {
        match *self {
            Self::Ema(_) if t == 1 => 1.0,
            Self::Ema(decay) | Self::EmaFromZero(decay) => 1.0 - decay,
            Self::EmaDebiased(decay) => (1.0 - decay) / (1.0 - decay.powf(t as f64)),
            Self::Swa { from, every } if t >= from && (t - from).is_multiple_of(every) => {
                1.0 / ((t - from) / every + 1) as f64
            }
            Self::Swa { .. } => 0.0,
        }
    }
}
