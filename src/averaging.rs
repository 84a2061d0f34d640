//! Averages of the parameters over the steps, for a model that is evaluated on them.

use serde::{Deserialize, Serialize};

use crate::error::{Result, require};

/// How a group averages its parameters: one more state, `average`, updated in the same pass (8 bytes of traffic an
/// element).
///
/// ```text
/// a ← a + rate(t, n)·(w − a)        after step t of the parameter, the n-th since its average began
/// ```
/// An average begins with the parameter's first step that counts; until then a swap leaves the parameter out. If
/// [`Optimizer::set_averaging`](crate::Optimizer::set_averaging) or
/// [`Optimizer::set_steps`](crate::Optimizer::set_steps) is called before there is an average, n counts from there: an
/// average never starts from a 0 that nobody meant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Averaging {
    /// `a ← decay·a + (1 − decay)·w`, and a = w for n = 1: PyTorch's `get_ema_multi_avg_fn`.
    Ema(f64),
    /// Bias-corrected EMA that starts from 0; the stored state is already divided by 1 − decayⁿ: optax'
    /// `ema(debias=True)`.
    EmaDebiased(f64),
    /// EMA that starts from 0, without bias correction: optax' `ema(debias=False)`.
    EmaFromZero(f64),
    /// EMA that begins with step `from`, with a = w there, and whose decay may warm up.
    EmaFrom {
        /// The decay, 0 to below 1.
        decay: f64,
        /// The first step that counts, from 1 on.
        from: u64,
        /// How the decay grows; `None` for the whole decay from the start.
        warmup: Option<Warmup>,
    },
    /// The mean of the parameters after step `from` and each `every` steps behind it: stochastic weight averaging,
    /// [Izmailov et al., 2018](https://arxiv.org/abs/1803.05407); PyTorch's `AveragedModel`.
    Swa {
        /// The first step that counts, from 1 on.
        from: u64,
        /// Steps between two that count.
        every: u64,
    },
}

/// A decay that grows from 0: `min(decay, 1 − (1 + (n − 1)/inv_gamma)^−power)`, as diffusers' `EMAModel` and timm's
/// `ModelEmaV3`.
///
/// An average follows the first steps closely and forgets them. With `inv_gamma` 1, power ⅔ reaches 0.999 at n =
/// 31,623, power ¾ at n = 10,000.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Steps in which the decay gets going; above 0.
    pub inv_gamma: f64,
    /// How fast it grows; above 0.
    pub power: f64,
}

impl Averaging {
    pub(crate) fn check(&self) -> Result<()> {
        let of = |decay: f64| require((0.0..1.0).contains(&decay), "decay", decay, "0 to below 1");
        match *self {
            Self::Ema(decay) | Self::EmaDebiased(decay) | Self::EmaFromZero(decay) => of(decay),
            Self::EmaFrom { decay, from, warmup } => {
                of(decay)?;
                require(from > 0, "from", from as f64, "1 or more")?;
                let Some(Warmup { inv_gamma, power }) = warmup else { return Ok(()) };
                let above_0 = |name, x: f64| require(x > 0.0 && x.is_finite(), name, x, "above 0, and finite");
                above_0("inv_gamma", inv_gamma).and(above_0("power", power))
            }
            Self::Swa { from, every } => {
                require(from > 0, "from", from as f64, "1 or more")?;
                require(every > 0, "every", every as f64, "1 or more")
            }
        }
    }

    /// The first step that counts, of an average that begins behind step `begun`.
    fn first(&self, begun: u64) -> u64 {
        match *self {
            Self::EmaFrom { from, .. } | Self::Swa { from, .. } => from.max(begun + 1),
            _ => begun + 1,
        }
    }

    /// Whether there is an average after this many steps.
    pub(crate) fn has(&self, steps: u64, begun: u64) -> bool {
        steps >= self.first(begun)
    }

    /// How far the average goes towards the parameter after its step t.
    pub(crate) fn rate(&self, t: u64, begun: u64) -> f64 {
        let first = self.first(begun);
        let Some(since) = t.checked_sub(first) else { return 0.0 };
        match *self {
            Self::Ema(_) | Self::EmaFrom { .. } if since == 0 => 1.0,
            Self::Ema(decay) | Self::EmaFromZero(decay) => 1.0 - decay,
            Self::EmaDebiased(decay) => (1.0 - decay) / (1.0 - decay.powf((since + 1) as f64)),
            Self::EmaFrom { decay, warmup, .. } => {
                let grown = |of: Warmup| 1.0 - (1.0 + since as f64 / of.inv_gamma).powf(-of.power);
                1.0 - warmup.map_or(decay, |of| decay.min(grown(of)))
            }
            Self::Swa { every, .. } if since.is_multiple_of(every) => 1.0 / (since / every + 1) as f64,
            Self::Swa { .. } => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_average_begins_with_the_parameter() {
        for (kind, from) in [
            (Averaging::Ema(0.9), 1),
            (Averaging::EmaDebiased(0.9), 1),
            (Averaging::EmaFrom { decay: 0.9, from: 20, warmup: None }, 20),
            (Averaging::Swa { from: 20, every: 3 }, 20),
        ] {
            for begun in [0, 10, 100] {
                let first = from.max(begun + 1);
                assert!(!kind.has(first - 1, begun) && kind.has(first, begun), "{kind:?} behind {begun}");
                assert!((kind.rate(first, begun) - 1.0).abs() < 1e-15, "{kind:?} behind {begun}");
                assert!(kind.rate(first + 3, begun) < 1.0);
            }
        }
    }

    /// diffusers' `EMAModel(decay=0.999, use_ema_warmup=True, inv_gamma=1, power=2/3)`: `get_decay` of steps 0, 1, 2,
    /// 10, 10⁶.
    #[test]
    fn the_decay_warms_up() {
        let warmup = Some(Warmup { inv_gamma: 1.0, power: 2.0 / 3.0 });
        let kind = Averaging::EmaFrom { decay: 0.999, from: 5, warmup };
        for (since, decay) in
            [(0, 0.0), (1, 0.3700394750525634), (2, 0.5192501432308638), (10, 0.7978199917664258), (1_000_000, 0.999)]
        {
            assert!((1.0 - kind.rate(5 + since, 0) - decay).abs() < 1e-15, "{since}");
        }
    }
}
