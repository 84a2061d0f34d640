//! Loss scaling, for gradients that are computed in 16 bits, and what a step says about itself.

use serde::{Deserialize, Serialize};

use crate::clipping::{ClipNorm, NonFinite};
use crate::error::{Result, require};
use crate::rule::Real;

/// PyTorch's `torch.amp.GradScaler`: the loss is multiplied by a scale, and the step divides the gradients by it again.
/// The scale falls when the gradients overflow, and grows after good steps.
///
/// ```text
/// some gradient is NaN or ∞:   the step is skipped, scale ← max(backoff_factor·scale, min_scale)
/// growth_interval good steps:  scale ← growth_factor·scale, unless that is above 2¹²⁶
/// ```
/// Both products are rounded to f64 and then to f32, as PyTorch rounds them, on every device. On a GPU the scale lives
/// in a buffer, [`Optimizer::loss_scale`](crate::Optimizer::loss_scale), for the kernel that computes the loss or its
/// gradient: no step waits for the host.
///
/// The scale stays between `min_scale` and 2¹²⁶, so that 1/scale is a normal number, too (PyTorch's falls to 0, and
/// grows to 2¹²⁷). At `min_scale`, steps whose gradients overflow are still skipped, and the scale no longer falls:
/// [`Report::loss_scale`] stays at `min_scale` while [`Report::skipped_steps`] goes on. fairseq and DeepSpeed stop the
/// run there; a step that does not wait for the device cannot, so look at the report now and then. A scale that was set
/// outside of these bounds is used as it is: above 2¹²⁶ it does not grow, below `min_scale` it does not fall.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct LossScaler {
    /// The first scale, a normal f32 above 0.
    pub init_scale: f64,
    /// Above 1.
    pub growth_factor: f64,
    /// Between 0 and 1.
    pub backoff_factor: f64,
    /// Good steps in a row until the scale grows, 1 or more.
    pub growth_interval: u32,
    /// What the scale does not fall below: a normal f32, at most `init_scale`. fairseq's `min_loss_scale` is 1e-4,
    /// DeepSpeed's `min_loss_scale` 1.
    #[serde(default = "least_scale")]
    pub min_scale: f64,
}

fn least_scale() -> f64 {
    f32::MIN_POSITIVE.into()
}

/// The scale does not grow beyond it: its inverse is a normal f32.
const MOST_SCALE: f64 = (1u128 << 126) as f64;

impl Default for LossScaler {
    /// 2¹⁶, growing by 2 every 2,000 good steps, halved by a bad one down to 2⁻¹²⁶.
    fn default() -> Self {
        Self {
            init_scale: 65536.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
            min_scale: least_scale(),
        }
    }
}

impl LossScaler {
    pub(crate) fn check(&self) -> Result<()> {
        let normal = |x: f64| x >= f64::from(f32::MIN_POSITIVE) && x <= f64::from(f32::MAX);
        require(normal(self.init_scale), "init_scale", self.init_scale, "a normal f32 above 0")?;
        let (growth, backoff) = (self.growth_factor, self.backoff_factor);
        require(growth > 1.0 && normal(growth), "growth_factor", growth, "above 1, and finite in f32")?;
        require(backoff < 1.0 && normal(backoff), "backoff_factor", backoff, "between 0 and 1")?;
        let interval = self.growth_interval;
        require(interval > 0, "growth_interval", interval.into(), "1 or more")?;
        let least = self.min_scale;
        require(normal(least) && least <= self.init_scale, "min_scale", least, "a normal f32, at most init_scale")
    }

    /// What the shaders get of it.
    pub(crate) fn factors(&self) -> ScaleFactors {
        let halves = |x: f64| [(x.to_bits() >> 32) as u32, x.to_bits() as u32];
        let [growth, backoff] = [self.growth_factor, self.backoff_factor].map(halves);
        ScaleFactors { growth, backoff, interval: self.growth_interval, min_scale: self.min_scale as f32 }
    }
}

/// How the loss scale changes, as shaders/step_input.wgsl reads it. Of an f64 the upper half comes first.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct ScaleFactors {
    pub(crate) growth: [u32; 2],
    pub(crate) backoff: [u32; 2],
    pub(crate) interval: u32,
    pub(crate) min_scale: f32,
}

/// A factor as x·y, y a power of two: 1 where x is then 0 or a normal number. x·(y·g) loses nothing where x·y alone
/// would be infinite, or subnormal and so perhaps flushed to 0. The twin of `factors` in shaders/wide.wgsl.
pub(crate) fn factors<F: Real>(c: f64) -> [F; 2] {
    let x = F::of(c);
    if c == 0.0 || !c.is_finite() || x.is_normal() {
        return [x, F::one()];
    }
    // Of a normal f64; any other is far too small.
    let exponent = ((c.to_bits() >> 52) & 0x7ff) as i32 - 1023;
    if exponent < -252 {
        return [F::zero(), F::one()];
    }
    let mantissa = c * f64::from(-exponent).exp2();
    let (exponent, two) = (exponent.min(254), |e: i32| f64::from(e).exp2());
    [F::of(mantissa * two(exponent / 2)), F::of(two(exponent - exponent / 2))]
}

/// What a step that measures its gradients (for clipping by norm, loss scaling, or [`NonFinite`]) says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Norm of all gradients as the step got them, unscaled, before clipping; L2 unless the clipping has another. NaN
    /// or ∞ if they are; with [`NonFinite::Zero`] the norm of the rest.
    pub grad_norm: f64,
    /// Whether a gradient held NaN or ∞, or a finite element became ∞ by the factors on it: 1/scale, clipping by norm,
    /// [`Settings::grad_scale`](crate::Settings::grad_scale) and the mean over micro-batches.
    pub found_inf: bool,
    /// The scale for the next loss; 1 without a [`LossScaler`].
    pub loss_scale: f64,
    /// Good steps since the scale last changed.
    pub growth_tracker: u32,
    /// Steps skipped so far; a GPU counts to 2³² − 1.
    pub skipped_steps: u64,
    /// A group whose learning rate is too small for its parameters, which are rounded to the nearest bf16: an update of
    /// a tenth of the rate is below two places of the largest parameter, 0.1·lr < 2^⌊log₂ max|w|⌋ · 2⁻⁷/0.49, so that
    /// it is lost. `check_numerics` in [FlashOptim](https://github.com/databricks/flashoptim) fails there. Known of
    /// parameters whose values came from the host, with [`Rounding::Nearest`](crate::Rounding::Nearest): rounded at
    /// random, no update is lost in the mean.
    pub lr_too_small: Option<usize>,
}

impl Default for Report {
    /// Before the first step.
    fn default() -> Self {
        Self {
            grad_norm: 0.0,
            found_inf: false,
            loss_scale: 1.0,
            growth_tracker: 0,
            skipped_steps: 0,
            lr_too_small: None,
        }
    }
}

/// The whole optimizer's part of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Safeguards {
    pub(crate) clip: Option<ClipNorm>,
    pub(crate) policy: Option<NonFinite>,
    pub(crate) scaler: Option<LossScaler>,
}

impl Safeguards {
    /// Whether gradients are looked at before the step.
    pub(crate) fn measures(&self) -> bool {
        self.clip.is_some() || self.scaler.is_some() || self.policy.is_some_and(|policy| policy != NonFinite::Propagate)
    }

    pub(crate) fn policy(&self) -> NonFinite {
        self.policy.unwrap_or_default()
    }

    /// 1 / scale.
    pub(crate) fn inverse_scale(&self, report: &Report) -> f64 {
        self.scaler.map_or(1.0, |_| 1.0 / report.loss_scale)
    }

    /// Decides on the CPU whether a step is taken. `bad` says that what the rule would get is not finite. The twin of
    /// `decide` in shaders/prepare.wgsl.
    pub(crate) fn decide(&self, grad_norm: f64, bad: bool, report: &mut Report) -> bool {
        if let Some(scaler) = &self.scaler {
            let scale = report.loss_scale;
            if bad {
                let backed = f64::from((scale * scaler.backoff_factor) as f32);
                // Where it stands below the least one already, it stays.
                report.loss_scale = backed.max(scaler.min_scale.min(scale));
                report.growth_tracker = 0;
            } else if report.growth_tracker.saturating_add(1) >= scaler.growth_interval {
                let grown = f64::from((scale * scaler.growth_factor) as f32);
                if grown <= MOST_SCALE {
                    report.loss_scale = grown;
                }
                report.growth_tracker = 0;
            } else {
                report.growth_tracker += 1;
            }
        }
        (report.grad_norm, report.found_inf) = (grad_norm, bad);
        let skipped = bad && self.policy() == NonFinite::Skip;
        report.skipped_steps = report.skipped_steps.saturating_add(skipped.into());
        !skipped
    }
}
