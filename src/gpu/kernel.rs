//! From a rule to a pipeline: what each kernel is made of, and what it binds.

use std::sync::Arc;

use super::Gpu;
use super::passes::Pass;
use crate::error::Result;
pub use crate::formats::Lane;
use crate::formats::{Encoding, Extent, Format};
use crate::rule::{Description, Reduce};

const ACCUMULATE: &str = include_str!("../../shaders/accumulate.wgsl");
const LOOK_AHEAD: &str = include_str!("../../shaders/look_ahead.wgsl");
const TOWARD: &str = include_str!("../../shaders/toward.wgsl");
const SWAP: &str = include_str!("../../shaders/swap.wgsl");
const SWAP_HALVES: &str =
    concat!(include_str!("../../shaders/swap_halves.wgsl"), include_str!("../../shaders/formats/remainder.wgsl"));
const COPY: &str = include_str!("../../shaders/mirror.wgsl");

/// The parameter's average over the steps, a state beside the rule's.
pub(crate) const AVERAGE: &str = "average";
/// The parameter in 16 bits, bound last.
pub(crate) const MIRROR: &str = "mirror";
/// The lower halves of parameters, bound last.
pub(crate) const REMAINDER: &str = "remainder";
/// The state that a look-ahead reads.
pub(crate) const MOMENTUM: &str = "momentum_buffer";
/// The state that a parameter moves from and to for evaluation.
pub(crate) const ITERATE: &str = "z";

/// Threads in a workgroup of an update; its `@workgroup_size`.
pub(crate) const WORKGROUP: u64 = 256;

/// How a kernel binds the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradientAccess {
    /// Not at all: the look-ahead reads none.
    None,
    /// Read-only.
    Read,
    /// Read-write, since another binding is the same buffer: one buffer bound both ways in a dispatch is an error in
    /// wgpu.
    Aliased,
    /// Read, then written with 0.
    Zero,
}

/// What one kernel is made of; see [`shader`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelKey {
    pub(super) rule: &'static str,
    pub(super) shader: &'static str,
    pub(super) declared: &'static [&'static str],
    /// States that it binds.
    pub(super) used: Vec<&'static str>,
    pub(super) overrides: Vec<(&'static str, bool)>,
    /// Numbers in its `Hyper`.
    pub(super) hyper: usize,
    pub(super) stage: Driver,
    /// Of a norm-based rule.
    pub(super) reduce: Option<Reduce>,
    /// Whether scale, clipping, noise and decay act: in steps. Elsewhere `0 · ∞` would make an infinite number NaN.
    pub(super) settings: bool,
    pub(super) lane: Lane,
    pub(super) gradient: GradientAccess,
    /// How parameter, gradient, states, average and what is beside the parameter are stored, in order. Empty: all in
    /// f32, with nothing beside.
    pub(super) formats: Vec<Format>,
    /// Of states in blocks of 256: whether a thread has a block of its own.
    pub(super) block_a_thread: bool,
    pub(super) extras: Extras,
    /// Of parameter, gradient and states, in order: the binding that they lie in. Empty: each has its own.
    pub(super) bindings: Vec<usize>,
}

/// Which driver stands around the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// The step itself.
    Update,
    /// Of a norm-based rule: partial norms, a block each.
    Measure,
    /// Of a norm-based rule: what becomes of its norms. It keeps a number, or does not.
    Trust,
}

/// What the driver does besides; each costs nothing where it is off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extras {
    /// The parameter's average is bound behind the states and follows the step: [`Averaging`](crate::Averaging).
    pub average: bool,
    /// Gradients are clipped to [`Settings::clip_value`](crate::Settings::clip_value).
    pub clip: bool,
    /// Elements of gradients that are not finite count as 0: [`NonFinite::Zero`](crate::NonFinite).
    pub zero: bool,
    /// Each tensor has coefficients of its own: a table of blocks says which.
    pub per_tensor: bool,
    /// Tensors lie anywhere in the buffers that are bound: a table of blocks says where.
    pub pooled: bool,
    /// Gradients have two factors, whose product may be no normal f32: where norms or a loss scale make a part of it.
    pub two_factors: bool,
    /// Noise on the gradients: [`Noise`](crate::Noise). Only with `per_tensor`.
    pub noise: bool,
    /// How parameters and states become shorter numbers.
    pub encoding: Encoding,
}

impl KernelKey {
    pub(crate) fn update(rule: &dyn Description, lane: Lane, gradient: GradientAccess, extras: Extras) -> Self {
        Self {
            rule: rule.name(),
            shader: rule.shader(),
            declared: rule.state_names(),
            used: of_elements(rule),
            overrides: rule.overrides(),
            hyper: rule.hyper_names().len(),
            stage: Driver::Update,
            reduce: rule.reduce(),
            settings: true,
            lane,
            gradient,
            formats: Vec::new(),
            block_a_thread: false,
            extras,
            bindings: Vec::new(),
        }
    }

    /// The same of tensors anywhere in shared buffers: `bindings` says in which of them parameter, gradient and states
    /// lie.
    pub(crate) fn pooled(self, bindings: Vec<usize>) -> Self {
        Self { extras: Extras { pooled: true, ..self.extras }, bindings, ..self }
    }

    /// The same of parameter, gradient and states that are stored in these formats.
    pub(crate) fn stored(self, mut formats: Vec<Format>) -> Self {
        if formats.iter().all(|&format| format == Format::F32) {
            formats.clear();
        }
        Self { formats, ..self }
    }

    /// The same, where threads have blocks of their own or share them.
    pub(crate) fn with_blocks(self, block_a_thread: bool) -> Self {
        Self { block_a_thread: block_a_thread && self.is_scaled(), ..self }
    }

    /// What it binds behind all else: a mirror, or remainders.
    pub(super) fn beside(&self) -> Option<&'static str> {
        let gradient = usize::from(self.gradient != GradientAccess::None);
        let all = 1 + gradient + self.used.len() + usize::from(self.extras.average);
        self.formats.get(all).map(|format| if *format == Format::Remainder { REMAINDER } else { MIRROR })
    }

    /// Whether some of what it binds is in blocks of 256.
    pub(super) fn is_scaled(&self) -> bool {
        self.formats.iter().any(|format| format.is_scaled())
    }

    /// Which of its ranges are only read.
    pub(super) fn reads(&self) -> Vec<bool> {
        self.ranges().into_iter().map(|range| range.reads).collect()
    }

    /// A norm-based rule's other passes.
    pub(crate) fn of_norms(rule: &dyn Description, stage: Driver, lane: Lane, extras: Extras) -> Self {
        let used = rule.reduce().map(|reduce| reduce.reads.to_vec()).unwrap_or_default();
        let extras = Extras { average: false, per_tensor: true, ..extras };
        Self { stage, used, ..Self::update(rule, lane, GradientAccess::Read, extras) }
    }

    /// Whether it only reads.
    pub(super) fn measures(&self) -> bool {
        self.stage == Driver::Measure
    }

    /// Whether each block says which coefficients it takes.
    pub(crate) fn per_tensor(&self) -> bool {
        self.extras.per_tensor
    }

    pub(crate) fn look_ahead(lane: Lane) -> Self {
        Self::of_one_state("look_ahead", LOOK_AHEAD, &[MOMENTUM], lane)
    }

    pub(crate) fn toward(lane: Lane) -> Self {
        Self::of_one_state("toward", TOWARD, &[ITERATE], lane)
    }

    /// `halves`: of parameters in bf16; whether averages stand where these belong.
    pub(crate) fn swap(lane: Lane, halves: Option<bool>) -> Self {
        match halves {
            None => Self::of_one_state("swap", SWAP, &[AVERAGE], lane),
            Some(back) => Self {
                overrides: vec![("BACK", back)],
                ..Self::of_one_state("swap of halves", SWAP_HALVES, &[AVERAGE], lane)
            },
        }
    }

    /// Writes mirrors.
    pub(crate) fn mirror(lane: Lane) -> Self {
        Self::of_one_state("mirror", COPY, &[], lane)
    }

    /// Adds a gradient to what is bound as the parameter.
    pub(crate) fn accumulate(lane: Lane, gradient: GradientAccess) -> Self {
        Self { gradient, ..Self::of_one_state("accumulate", ACCUMULATE, &[], lane) }
    }

    fn of_one_state(rule: &'static str, shader: &'static str, declared: &'static [&'static str], lane: Lane) -> Self {
        Self {
            rule,
            shader,
            declared,
            used: declared.to_vec(),
            overrides: Vec::new(),
            hyper: 1,
            stage: Driver::Update,
            reduce: None,
            settings: false,
            lane,
            gradient: GradientAccess::None,
            formats: Vec::new(),
            block_a_thread: false,
            extras: Extras::default(),
            bindings: Vec::new(),
        }
    }

    /// Whether a norm-based rule keeps a number.
    pub(super) fn keeps(&self) -> bool {
        self.reduce.is_some_and(|reduce| reduce.keeps.is_some())
    }

    /// Storage buffers of each group, read-only or not. An empty group 0 is the coefficients, a uniform.
    fn groups(&self) -> Vec<Vec<bool>> {
        let ranges = || self.reads();
        match (self.stage, self.extras) {
            (Driver::Update, Extras { per_tensor: true, .. }) => vec![vec![true, true], ranges()],
            (Driver::Update, Extras { pooled: true, .. }) => vec![Vec::new(), ranges(), vec![true]],
            (Driver::Update, _) => vec![Vec::new(), ranges()],
            (Driver::Measure, _) => vec![vec![true, true, false], ranges()],
            (Driver::Trust, _) => vec![[true, true, false].into_iter().chain(self.keeps().then_some(false)).collect()],
        }
    }
}

/// The names of a rule's states of each element.
fn of_elements(rule: &dyn Description) -> Vec<&'static str> {
    rule.storage().iter().filter(|state| state.extent == Extent::Element).map(|state| state.name).collect()
}

/// The WGSL that swaps parameters and averages.
pub fn swap_shader(lane: Lane) -> String {
    KernelKey::swap(lane, None).compose()
}

/// The WGSL that swaps parameters in bf16 and averages, and back.
pub fn swaps_of_halves(lane: Lane) -> [String; 2] {
    [false, true].map(|back| KernelKey::swap(lane, Some(back)).stored(vec![Format::Bf16, Format::F32]).compose())
}

/// The WGSL of gradient accumulation.
pub fn accumulate_shader(lane: Lane) -> String {
    KernelKey::accumulate(lane, GradientAccess::Read).compose()
}

/// The WGSL of the look-ahead pass.
pub fn look_ahead_shader(lane: Lane) -> String {
    KernelKey::look_ahead(lane).compose()
}

/// The WGSL of the pass between where Schedule-Free trains and where it is evaluated.
pub fn toward_shader(lane: Lane) -> String {
    KernelKey::toward(lane).compose()
}

/// The layout of group 0: a uniform buffer with a dynamic offset.
pub(crate) fn coefficients_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let ty = wgpu::BufferBindingType::Uniform;
    layout(
        device,
        "wgpu-optim coefficients",
        &[wgpu::BindingType::Buffer { ty, has_dynamic_offset: true, min_binding_size: None }],
    )
}

pub(crate) fn layout(device: &wgpu::Device, label: &str, types: &[wgpu::BindingType]) -> wgpu::BindGroupLayout {
    let entry = |(binding, &ty)| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty,
        count: None,
    };
    let entries: Vec<_> = (0..).zip(types).map(entry).collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries })
}

impl Gpu {
    /// The kernel, compiled at its first use.
    pub(crate) fn kernel(&self, key: KernelKey) -> Result<Arc<Pass>> {
        if let Some(kernel) = self.kernels().get(&key) {
            return Ok(kernel.clone());
        }
        let pass = self.compile(key.rule, &key.compose(), "main", &key.groups(), (&key.overrides, true))?;
        let pass = Arc::new(pass);
        self.kernels().insert(key, pass.clone());
        Ok(pass)
    }
}
