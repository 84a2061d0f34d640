//! Loss scaling, for gradients that are computed in 16 bits, and what a step says about itself.

use serde::{Deserialize, Serialize};

use crate::clipping::{ClipNorm, NonFinite};
use crate::error::{Result, require};

/// PyTorch's `torch.amp.GradScaler`: the loss is multiplied by a scale, the step divides the gradients by it again, and the scale is
/// halved whenever they overflow.
///
/// ```text
/// some gradient is NaN or ∞:   the step is skipped, scale ← backoff_factor·scale
/// growth_interval good steps:  scale ← growth_factor·scale, unless that is ∞ in f32
/// ```
/// On a GPU the scale lives in a buffer, [`Optimizer::loss_scale`](crate::Optimizer::loss_scale), for the kernel that computes the loss
/// or its gradient: no step waits for the host. It does not fall below 2⁻¹²⁶ (PyTorch's does, down to 0).
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
}

impl Default for LossScaler {
    /// 2¹⁶, growing by 2 every 2,000 good steps, halved by a bad one.
    fn default() -> Self {
        Self { init_scale: 65536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
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
        require(interval > 0, "growth_interval", interval.into(), "1 or more")
    }
}

/// What a step that measures its gradients (for clipping by norm, loss scaling, or [`NonFinite`]) says about itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Norm of all gradients as the step got them, unscaled, before clipping; L2 unless the clipping has another. NaN or ∞ if they are;
    /// with [`NonFinite::Zero`] the norm of the rest.
    pub grad_norm: f64,
    /// Whether a gradient held NaN or ∞.
    pub found_inf: bool,
    /// The scale for the next loss; 1 without a [`LossScaler`].
    pub loss_scale: f64,
    /// Good steps since the scale last changed.
    pub growth_tracker: u32,
    /// Steps skipped so far; a GPU counts to 2³² − 1.
    pub skipped_steps: u64,
}

impl Default for Report {
    /// Before the first step.
    fn default() -> Self {
        Self { grad_norm: 0.0, found_inf: false, loss_scale: 1.0, growth_tracker: 0, skipped_steps: 0 }
    }
}

/// The whole optimizer's part of a step.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Guard {
    pub(crate) clip: Option<ClipNorm>,
    pub(crate) policy: Option<NonFinite>,
    pub(crate) scaler: Option<LossScaler>,
}

impl Guard {
    /// Whether gradients are looked at before the step.
    pub(crate) fn measures(&self) -> bool {
        self.clip.is_some() || self.scaler.is_some() || self.policy.is_some_and(|policy| policy != NonFinite::Propagate)
    }

    pub(crate) fn policy(&self) -> NonFinite {
        self.policy.unwrap_or_default()
    }

    /// Decides about a step on the CPU: what its gradients are multiplied by; `None` to skip it. The twin of `prepare` in
    /// shaders/prepare.wgsl.
    pub(crate) fn decide(&self, norm: f64, bad: bool, report: &mut Report) -> Option<f64> {
        let mut inverse_scale = 1.0;
        if let Some(scaler) = &self.scaler {
            inverse_scale = 1.0 / report.loss_scale;
            if bad {
                let backed = (report.loss_scale * scaler.backoff_factor) as f32;
                report.loss_scale = backed.max(f32::MIN_POSITIVE).into();
                report.growth_tracker = 0;
            } else if report.growth_tracker.saturating_add(1) >= scaler.growth_interval {
                let grown = (report.loss_scale * scaler.growth_factor) as f32;
                if grown.is_finite() {
                    report.loss_scale = grown.into();
                }
                report.growth_tracker = 0;
            } else {
                report.growth_tracker += 1;
            }
        }
        (report.grad_norm, report.found_inf) = (norm * inverse_scale, bad);
        if bad && self.policy() == NonFinite::Skip {
            report.skipped_steps = report.skipped_steps.saturating_add(1);
            return None;
        }
        Some(inverse_scale * self.clip.map_or(1.0, |clip| clip.coefficient(report.grad_norm)))
    }
}
