//! What surrounds every rule: learning rate, weight decay, clipping, sign and scale of the gradient.

use serde::{Deserialize, Serialize};

use crate::clipping::{AdaptiveClip, ClipNorm};
use crate::error::{Result, at_least_0, in_f32, require};
use crate::formats::Encoding;
use crate::formats::draws::Draws;
use crate::noise::{Noise, Stream};
use crate::rule::coefficient;
use crate::scaling::factors;

/// How parameters are pulled towards 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightDecay {
    /// Not at all.
    #[default]
    None,
    /// `g + λw`: added to the gradient, before any momentum. In PyTorch, `weight_decay` of every optimizer but `AdamW`.
    L2(f64),
    /// `w − lr·λ·w`, beside the gradient's step: `AdamW` in PyTorch, optax and Keras, and `weight_decay` of every Keras
    /// optimizer.
    Decoupled(f64),
    /// `w − η·λ·w`, where η is the schedule's factor [`Settings::lr_factor`] and the learning rate does not count:
    /// [Loshchilov and Hutter, 2019](https://arxiv.org/abs/1711.05101), algorithm 2.
    DecoupledFromLr(f64),
}

/// What a group does around its rule. Settings may change between any two steps; a change holds from the next recorded
/// step on.
///
/// A step applies them in this order:
///
/// Each number is 0 or a normal f32 (1.2e-38 to 3.4e38). A device may take a subnormal number for 0, so it is an
/// [`Error::Hyperparameter`](crate::Error::Hyperparameter). A product with a schedule's factor may become smaller: it
/// then counts as 0, on every device. The factors on a gradient never do.
///
/// ```text
/// g ← g − mean(g)                      centralize, row by row
/// g ← adaptive_clip(g, w)              row by row, or column by column
/// g ← ±grad_scale·g                    minus to maximize
/// g ← min(1, max_norm / ‖g‖)·g         set_clip_norm, group_clip_norm, clip_norm: of all, of the group, of each
/// g ← min(max(g, −clip_value), clip_value)
/// g ← g + N(0, noise)
/// g ← g + λw                           WeightDecay::L2
/// w ← w − lr·lr_factor·λ·w             WeightDecay::Decoupled
/// w ← rule(w, g)
/// ```
///
/// ```
/// use wgpu_optim::{Settings, WeightDecay};
/// let settings = Settings { weight_decay: WeightDecay::Decoupled(0.01), ..Settings::lr(1e-3) };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Settings {
    /// The base learning rate: 0 or more.
    pub lr: f64,
    /// The schedule's factor on `lr`, 0 or more: η in the AdamW paper.
    pub lr_factor: f64,
    /// Climb instead of descend: negates the gradient before the decay, as in PyTorch.
    pub maximize: bool,
    /// How parameters are pulled towards 0.
    pub weight_decay: WeightDecay,
    /// Multiplies the gradient first: 1/n for a sum over n samples, 1/scale for a scaled loss.
    pub grad_scale: f64,
    /// Clip each element of the gradient to ±this, after `grad_scale`; 0 or more. NaN stays NaN. PyTorch's
    /// `clip_grad_value_`, `clip` in optax, `clipvalue` in Keras.
    pub clip_value: Option<f64>,
    /// Limit the norm of each parameter's gradient, after `grad_scale`: `clipnorm` in Keras, `clip_by_block_rms` in
    /// optax. Each parameter then has coefficients of its own.
    /// [`Optimizer::set_clip_norm`](crate::Optimizer::set_clip_norm) limits the norm of all gradients together.
    pub clip_norm: Option<ClipNorm>,
    /// Limit the norm of the group's gradients together, after the limit of [`Optimizer::set_clip_norm`] and before
    /// `clip_norm`.
    ///
    /// [`Optimizer::set_clip_norm`]: crate::Optimizer::set_clip_norm
    pub group_clip_norm: Option<ClipNorm>,
    /// Subtract from each row of a matrix' gradient the mean of that row: gradient centralization,
    /// [Yong et al., 2020](https://arxiv.org/abs/2004.01461), `centralize` in optax. It applies to parameters with an
    /// [`Options::shape`], in a pass that rewrites the gradient (12 bytes of traffic an element). On a GPU such a
    /// parameter has at most `max_storage_buffer_binding_size` bytes; beyond that a step returns
    /// [`Error::OverLimit`](crate::Error::OverLimit).
    pub centralize: bool,
    /// Limit the gradient's norm of each row or column by the norm of its weights. The limit in bytes is that of
    /// `centralize`.
    pub adaptive_clip: Option<AdaptiveClip>,
    /// Noise that is added to the gradient.
    pub noise: Option<Noise>,
    /// Whether a step takes the mean or the sum of accumulated micro-batches.
    pub accumulation: Accumulation,
    /// Write 0 to the gradient once the step has read it: 4 more bytes of traffic an element, no separate pass.
    pub zero_grad: bool,
}

impl Settings {
    /// A learning rate and nothing else: no decay, no clipping, descending, gradient scale 1.
    pub const fn lr(lr: f64) -> Self {
        Self {
            lr,
            lr_factor: 1.0,
            maximize: false,
            weight_decay: WeightDecay::None,
            grad_scale: 1.0,
            clip_value: None,
            clip_norm: None,
            group_clip_norm: None,
            centralize: false,
            adaptive_clip: None,
            noise: None,
            accumulation: Accumulation::Mean,
            zero_grad: false,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        at_least_0("lr", self.lr)?;
        // A schedule's factor and what it is multiplied with may become as small as they like.
        let product =
            |name, x: f64| require(x >= 0.0 && x <= f64::from(f32::MAX), name, x, "0 or more, and finite in f32");
        product("lr_factor", self.lr_factor)?;
        product("lr · lr_factor", self.effective_lr())?;
        at_least_0("clip_value", self.clip_value.unwrap_or(0.0))?;
        self.norm_limits().try_for_each(ClipNorm::check)?;
        self.noise.map_or(Ok(()), |noise| noise.check())?;
        self.adaptive_clip.map_or(Ok(()), |clip| clip.check())?;
        let grad_scale = self.grad_scale;
        require(in_f32(grad_scale), "grad_scale", grad_scale, "0, or 1.2e-38 to 3.4e38 in magnitude")?;
        let (WeightDecay::L2(lambda) | WeightDecay::Decoupled(lambda) | WeightDecay::DecoupledFromLr(lambda)) =
            self.weight_decay
        else {
            return Ok(());
        };
        at_least_0("weight_decay", lambda)?;
        product("weight_decay · lr", self.coefficients().decay)
    }

    /// Limits on norms within the group.
    pub(crate) fn norm_limits(&self) -> impl Iterator<Item = &ClipNorm> {
        self.group_clip_norm.iter().chain(&self.clip_norm)
    }

    pub(crate) fn effective_lr(&self) -> f64 {
        self.lr * self.lr_factor
    }

    /// Whether a step rewrites the gradient before it reads it.
    pub(crate) fn reshapes(&self) -> bool {
        self.centralize || self.adaptive_clip.is_some()
    }

    /// Whether a step writes to the gradient.
    pub(crate) fn writes_gradient(&self) -> bool {
        self.zero_grad || self.reshapes()
    }

    /// Whether `grad_scale`, divided by some number of micro-batches, may be no normal f32.
    pub(crate) fn two_factors(&self) -> bool {
        self.grad_scale != 0.0 && self.grad_scale.abs() < 1e-28
    }

    /// λ of decoupled decay.
    pub(crate) fn decoupled(&self) -> f64 {
        if let WeightDecay::Decoupled(lambda) = self.weight_decay { lambda } else { 0.0 }
    }

    pub(crate) fn coefficients(&self) -> Coefficients {
        let (l2, decay) = match self.weight_decay {
            WeightDecay::None => (0.0, 0.0),
            WeightDecay::L2(x) => (x, 0.0),
            WeightDecay::Decoupled(x) => (0.0, self.effective_lr() * x),
            WeightDecay::DecoupledFromLr(x) => (0.0, self.lr_factor * x),
        };
        let sign = if self.maximize { -1.0 } else { 1.0 };
        let Self { clip_value, zero_grad, .. } = *self;
        Coefficients {
            grad_scale: sign * self.grad_scale,
            clip_value,
            l2,
            decay,
            zero_grad,
            zero_non_finite: false,
            average: None,
            noise: None,
            encoding: Encoding::Nearest,
            draws: Draws::default(),
        }
    }
}

/// What a step takes of gradients that were accumulated over micro-batches: see
/// [`Optimizer::accumulate`](crate::Optimizer::accumulate) and
/// [`Optimizer::encode_accumulate`](crate::Optimizer::encode_accumulate).
///
/// A step ends the window: whatever was accumulated is used up, of every parameter, and is missing until it is written
/// again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Accumulation {
    /// Their sum, divided by the most micro-batches that any parameter of the optimizer received since the last step,
    /// as `MultiSteps` in optax. For losses that are means over their micro-batch.
    #[default]
    Mean,
    /// Their sum, undivided.
    Sum,
}

/// What sets one parameter apart from its group; see [`Optimizer::set_options`](crate::Optimizer::set_options).
///
/// Parameters with equal options step together. Each distinct set of options in a group costs at least one more
/// dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Options {
    /// Multiplies the group's learning rate; 0 or more.
    pub lr_scale: f64,
    /// Whether the group's weight decay acts on it.
    pub weight_decay: bool,
    /// Leaves it out of every step, as `requires_grad = False` in PyTorch: values, states and step count stay as they
    /// are.
    pub frozen: bool,
    /// Rows and columns of a matrix, for [`Settings::centralize`] and [`Settings::adaptive_clip`]. A convolution's rows
    /// are its outputs.
    pub shape: Option<[usize; 2]>,
}

impl Default for Options {
    /// Nothing apart from the group: scale 1, with its decay, not frozen, no shape.
    fn default() -> Self {
        Self { lr_scale: 1.0, weight_decay: true, frozen: false, shape: None }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<()> {
        at_least_0("lr_scale", self.lr_scale)
    }

    /// The group's settings for this parameter.
    pub(crate) fn apply(&self, group: Settings) -> Settings {
        let weight_decay = if self.weight_decay { group.weight_decay } else { WeightDecay::None };
        Settings { lr: group.lr * self.lr_scale, weight_decay, ..group }
    }
}

impl From<f64> for Settings {
    fn from(lr: f64) -> Self {
        Self::lr(lr)
    }
}

/// Words in a row before the rule's own.
pub(crate) const COEFFICIENT_HEAD: usize = size_of::<CoefficientHead>() / 4;

/// The shader's `Row` before the rule's own numbers.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct CoefficientHead {
    pub(crate) grad_scale: f32,
    pub(crate) l2: f32,
    pub(crate) decay: f32,
    pub(crate) average: f32,
    pub(crate) clip_value: f32,
    pub(crate) skip: u32,
    pub(crate) noise: f32,
    pub(crate) grad_power: f32,
    pub(crate) draw: [u32; 4],
    pub(crate) rounding: [u32; 2],
    pub(crate) unused: [u32; 2],
}

/// [`Settings`] as the driver around a rule uses them, each with a neutral value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub(crate) grad_scale: f64,
    pub(crate) clip_value: Option<f64>,
    pub(crate) l2: f64,
    pub(crate) decay: f64,
    pub(crate) zero_grad: bool,
    /// Elements of the gradient that are not finite count as 0.
    pub(crate) zero_non_finite: bool,
    /// The rate of the average, where the group keeps one.
    pub(crate) average: Option<f64>,
    pub(crate) noise: Option<Stream>,
    /// How states are rounded to what they are stored in.
    pub(crate) encoding: Encoding,
    /// The random bits of this step for that; on the CPU, of this tensor.
    pub(crate) draws: Draws,
}

impl Coefficients {
    /// Whether a gradient is more than scaled and decayed.
    pub(crate) fn extras(&self) -> bool {
        let scaled_twice = factors::<f32>(self.grad_scale)[1] != 1.0;
        self.clip_value.is_some() || self.zero_non_finite || self.noise.is_some() || scaled_twice
    }

    /// The head of a row of the uniform buffer.
    pub(crate) fn words(&self) -> [u32; COEFFICIENT_HEAD] {
        let [grad_scale, grad_power] = factors(self.grad_scale);
        let (noise, draw) = match self.noise {
            Some(Stream { deviation, step, seed, tensor }) => (deviation, [step, seed[0], seed[1], tensor]),
            None => (0.0, [0; 4]),
        };
        bytemuck::cast(CoefficientHead {
            grad_scale,
            l2: coefficient(self.l2),
            decay: coefficient(self.decay),
            average: coefficient(self.average.unwrap_or(0.0)),
            clip_value: coefficient(self.clip_value.unwrap_or(0.0)),
            skip: 0,
            noise: coefficient(noise),
            grad_power,
            draw,
            rounding: self.draws.keys,
            unused: [0; 2],
        })
    }
}
