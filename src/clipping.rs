//! Limits on the norm of gradients, and what becomes of a step whose gradients are not finite.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at_least_0, in_f32, require};
use crate::formats::Extent;

/// A norm of a vector x of n elements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// Σ|x|.
    L1,
    /// √Σx².
    #[default]
    L2,
    /// max|x|: PyTorch's `norm_type=inf`.
    Max,
    /// √(Σx²/n).
    Rms,
}

impl Norm {
    /// The shaders' number for it; the RMS is the L2 norm with a factor.
    pub(crate) fn kind(self) -> u32 {
        match self {
            Self::L1 => 0,
            Self::L2 | Self::Rms => 1,
            Self::Max => 2,
        }
    }

    /// The factor on the shaders' norm.
    pub(crate) fn factor(self, len: usize) -> f64 {
        if self == Self::Rms { 1.0 / (len.max(1) as f64).sqrt() } else { 1.0 }
    }
}

/// A limit on a gradient's norm: of all gradients together with
/// [`Optimizer::set_clip_norm`](crate::Optimizer::set_clip_norm), of each parameter's with
/// [`Settings::clip_norm`](crate::Settings::clip_norm).
///
/// ```text
/// g ← min(1, max_norm / (‖g‖ + eps))·g
/// ```
/// A `max_norm` of ∞ measures the norm for [`Report::grad_norm`](crate::Report::grad_norm), and clips nothing.
///
/// The norm of finite gradients never overflows on the way, and no product of factors underflows: 1/scale, clipping and
/// the [settings'](crate::Settings::grad_scale) factor are multiplied with exponents of their own. (PyTorch's float32
/// norm is ∞ once a square is, and its clipped gradients are then 0.) Where a norm is needed, it costs one more pass
/// over the gradients: 4 bytes of traffic an element.
///
/// ```
/// use wgpu_optim::{ClipNorm, Device, Optimizer, rules::Sgd};
/// let mut sgd = Optimizer::new(&Device::Cpu, Sgd, 1.0)?;
/// sgd.set_clip_norm(ClipNorm::optax(1.0))?;
/// sgd.add(0, "w", &[0.0f32, 0.0])?;
/// sgd.write_gradient("w", &[3.0f32, 4.0])?;
/// sgd.step()?;
/// assert_eq!(sgd.read_blocking::<f32>("w")?, [-0.6, -0.8]);
/// assert_eq!(sgd.report().grad_norm, 5.0);
/// # Ok::<(), wgpu_optim::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct ClipNorm {
    /// The largest norm: 0 or more; ∞ for no limit, if `only_down`. JSON has no ∞: there it is `null`.
    #[serde(with = "infinity_as_null")]
    pub max_norm: f64,
    /// Which norm.
    pub norm: Norm,
    /// Added to the norm; 0 or more.
    pub eps: f64,
    /// Whether a smaller norm stays: the min(1, …) above. Without it every gradient gets this norm.
    pub only_down: bool,
}

impl ClipNorm {
    /// PyTorch's `clip_grad_norm_`: L2, ε = 1e-6.
    pub fn torch(max_norm: f64) -> Self {
        Self { max_norm, norm: Norm::L2, eps: 1e-6, only_down: true }
    }
    /// optax' `clip_by_global_norm`, Keras' `global_clipnorm` and, for each parameter, `clipnorm`: L2, no ε.
    pub fn optax(max_norm: f64) -> Self {
        Self { eps: 0.0, ..Self::torch(max_norm) }
    }
    /// optax' `normalize_by_update_norm`: to this norm, from below, too.
    pub fn normalize(norm: f64) -> Self {
        Self { only_down: false, ..Self::torch(norm) }
    }
    /// optax' `clip_by_block_rms`, for each parameter: its root mean square.
    pub fn block_rms(threshold: f64) -> Self {
        Self { norm: Norm::Rms, ..Self::optax(threshold) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let Self { max_norm, eps, only_down, .. } = *self;
        // What is clipped stays finite: an element is at most max_norm, or √n times that with the RMS of n < 2³²
        // elements.
        let (most, range) = match self.norm {
            Norm::Rms => (111, "0, or 1.2e-38 to 2.5e33, or ∞ with only_down"),
            _ => (127, "0, or 1.2e-38 to 1.7e38, or ∞ with only_down"),
        };
        let limit = in_f32(max_norm) && (0.0..=f64::from(most).exp2()).contains(&max_norm);
        require(limit || (only_down && max_norm == f64::INFINITY), "max_norm", max_norm, range)?;
        at_least_0("eps", eps)
    }

    /// What a gradient of this norm is multiplied by: the twin of `limited` in shaders/prepare.wgsl.
    pub(crate) fn coefficient(&self, norm: f64) -> f64 {
        match self.max_norm / (norm + self.eps) {
            _ if self.max_norm == f64::INFINITY => 1.0,
            c if norm.is_nan() => c,
            c if self.only_down && (c >= 1.0 || self.max_norm >= norm + self.eps) => 1.0,
            _ if norm + self.eps == 0.0 => 0.0,
            c => c,
        }
    }

    /// What the shaders get of this limit on a norm of `len` elements.
    pub(crate) fn limit(clip: Option<&Self>, len: usize) -> Limit {
        let Some(clip) = clip else {
            return Limit { kind: Norm::L2.kind(), max_norm: 0.0, eps: 0.0, form: Limit::NONE, factor: 1.0 };
        };
        // No limit is a form of its own: a device may assume that no number is infinite.
        let limited = clip.max_norm.is_finite();
        let (max_norm, form) = if limited { (clip.max_norm, clip.only_down.into()) } else { (0.0, Limit::NONE) };
        let (eps, factor) = (clip.eps as f32, clip.norm.factor(len) as f32);
        Limit { kind: clip.norm.kind(), max_norm: max_norm as f32, eps, form, factor }
    }
}

/// A limit on a norm, as shaders/step_input.wgsl reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Limit {
    pub(crate) kind: u32,
    pub(crate) max_norm: f32,
    pub(crate) eps: f32,
    /// 1 if it only shrinks.
    pub(crate) form: u32,
    pub(crate) factor: f32,
}

impl Limit {
    /// The form of no limit.
    pub(crate) const NONE: u32 = 2;
}

mod infinity_as_null {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        Some(*x).filter(|x| x.is_finite()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(deserializer)?.unwrap_or(f64::INFINITY))
    }
}

/// Adaptive gradient clipping, unit by unit: [Brock et al., 2021](https://arxiv.org/abs/2102.06171).
///
/// ```text
/// g ← g·min(1, clipping·max(‖w‖, eps) / max(‖g‖, 1e-6))        for each row, or each column, of a matrix
/// ```
/// Matrices are the parameters with an [`Options::shape`](crate::Options::shape); any other parameter is one unit. It
/// rewrites the gradients in place, in a pass of its own (16 bytes of traffic an element). A unit of more than 2¹⁸
/// elements in a row, or 4,096 in a column, is cut into parts, which are measured in one pass, joined in a second and
/// rewritten in a third.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct AdaptiveClip {
    /// The largest ratio of the norms, 0 or more; the paper has 0.01.
    pub clipping: f64,
    /// The least norm of a parameter, 0 or more; the paper has 1e-3.
    pub eps: f64,
    /// Whose norms are compared: those of each [`Extent::Row`], or of each [`Extent::Column`].
    #[serde(alias = "unit")]
    pub over: Extent,
}

impl AdaptiveClip {
    /// For matrices out × in, ε = 1e-3: timm's `adaptive_clip_grad`.
    pub fn torch(clipping: f64) -> Self {
        Self { clipping, eps: 1e-3, over: Extent::Row }
    }
    /// For matrices in × out, ε = 1e-3: optax' `adaptive_grad_clip`.
    pub fn optax(clipping: f64) -> Self {
        Self { over: Extent::Column, ..Self::torch(clipping) }
    }

    pub(crate) fn check(&self) -> Result<()> {
        at_least_0("clipping", self.clipping)?;
        at_least_0("eps", self.eps)?;
        let known = matches!(self.over, Extent::Row | Extent::Column);
        let reason = "it is over Row or Column";
        let refused = || Error::Unsupported { operation: "adaptive_clip", name: "the settings".into(), reason };
        if known { Ok(()) } else { Err(refused()) }
    }

    /// What a unit's gradient is multiplied by.
    pub(crate) fn coefficient(&self, w: f64, g: f64) -> f64 {
        let limit = self.clipping * w.max(self.eps);
        match g {
            _ if g.is_nan() => g,
            _ if g < limit => 1.0,
            _ => limit / g.max(1e-6),
        }
    }
}

/// What becomes of a step in which some gradient is not finite.
///
/// Judged is what the rule would get, before [`Settings::clip_value`](crate::Settings::clip_value): a NaN or ∞ in a
/// gradient, and a finite element that becomes ∞ by its factors. These are 1/scale of
/// [`LossScaler`](crate::LossScaler), [`Settings::grad_scale`](crate::Settings::grad_scale), the mean over
/// micro-batches, and clipping by norm. A gradient that clipping keeps finite is finite, however large it was before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NonFinite {
    /// The whole step is left out, of every group: parameters, states, averages, step counts and schedules stay bit for
    /// bit.
    #[default]
    Skip,
    /// They go on into the step. Clipping by norm then does what PyTorch does: an ∞ in a gradient makes it NaN and all
    /// else 0, a NaN makes all NaN.
    Propagate,
    /// They count as 0, in norms too (optax' `zero_nans` for NaN; here ∞ as well). An element that only its factors
    /// make infinite is a part of the norm, on which the factors depend.
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_name_of_over_is_read() -> Result<(), serde_json::Error> {
        for (unit, over) in [("row", Extent::Row), ("column", Extent::Column)] {
            let clip: AdaptiveClip =
                serde_json::from_str(&format!(r#"{{"clipping": 0.1, "eps": 0.01, "unit": "{unit}"}}"#))?;
            assert_eq!(clip, AdaptiveClip { clipping: 0.1, eps: 0.01, over });
            assert_eq!(serde_json::to_value(clip)?["over"], unit);
        }
        Ok(())
    }

    #[test]
    fn a_clip_is_over_rows_or_columns() {
        for over in [Extent::Element, Extent::Tensor, Extent::Group] {
            assert!(AdaptiveClip { over, ..AdaptiveClip::torch(0.1) }.check().is_err(), "{over:?}");
        }
    }
}
