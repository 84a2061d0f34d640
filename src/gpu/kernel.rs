//! From a rule to a pipeline: the rule's text, the driver around it, and the bindings that this configuration uses.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Gpu;
use super::passes::storage;
use crate::error::{Error, Result};
use crate::rule::AnyRule;

const DRIVER: &str = include_str!("../../shaders/update.wgsl");
const LOOK_AHEAD: &str = include_str!("../../shaders/look_ahead.wgsl");
const SWAP: &str = include_str!("../../shaders/swap.wgsl");

/// The parameter's average over the steps, a state beside the rule's.
pub(crate) const AVERAGE: &str = "average";
/// The state that a look-ahead reads.
pub(crate) const MOMENTUM: &str = "momentum_buffer";

/// Threads in a workgroup; the driver's `@workgroup_size`.
pub(crate) const WORKGROUP: u64 = 256;

/// Elements that a thread updates: four, or one of the up to three that are left at the end of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// `vec4<f32>`.
    Four,
    /// `f32`, for the elements behind the last whole four.
    Tail,
}

/// How a kernel binds the gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GradientAccess {
    /// Not at all: the look-ahead reads none.
    None,
    /// Read-only.
    Read,
    /// Read-write, since another binding is the same buffer: one buffer bound both ways in a dispatch is an error in wgpu.
    Aliased,
    /// Read, then written with 0.
    Zero,
}

/// What one kernel is made of; see [`shader`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KernelKey {
    rule: &'static str,
    shader: &'static str,
    declared: &'static [&'static str],
    used: Vec<&'static str>,
    overrides: Vec<(&'static str, bool)>,
    lane: Lane,
    gradient: GradientAccess,
    extras: Extras,
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
}

impl KernelKey {
    pub(crate) fn update(rule: &AnyRule, lane: Lane, gradient: GradientAccess, extras: Extras) -> Self {
        Self {
            rule: rule.name(),
            shader: rule.shader(),
            declared: rule.declared_slots(),
            used: rule.slots(),
            overrides: rule.overrides(),
            lane,
            gradient,
            extras,
        }
    }

    pub(crate) fn look_ahead(lane: Lane) -> Self {
        Self::of_one_state("look_ahead", LOOK_AHEAD, &[MOMENTUM], lane)
    }

    pub(crate) fn swap(lane: Lane) -> Self {
        Self::of_one_state("swap", SWAP, &[AVERAGE], lane)
    }

    fn of_one_state(rule: &'static str, shader: &'static str, state: &'static [&'static str], lane: Lane) -> Self {
        let (used, overrides) = (state.to_vec(), Vec::new());
        Self {
            rule,
            shader,
            declared: state,
            used,
            overrides,
            lane,
            gradient: GradientAccess::None,
            extras: Extras::default(),
        }
    }

    /// The WGSL: head (on the rule's first line, so that line numbers are the rule's own), rule, driver.
    fn compose(&self) -> String {
        let head = match self.lane {
            Lane::Four => {
                "alias Lane = vec4<f32>; alias Bits = vec4<u32>; alias Mask = vec4<bool>; const TAIL = false; "
            }
            Lane::Tail => "alias Lane = f32; alias Bits = u32; alias Mask = bool; const TAIL = true; ",
        };
        let binding = |k: usize, access: &str, name: &str| {
            format!("@group(1) @binding({k}) var<storage, {access}> {name}: array<Lane>;\n")
        };
        let (mut bindings, mut load, mut store) = (binding(0, "read_write", "param"), String::new(), String::new());
        match self.gradient {
            GradientAccess::None => load.push_str("let g = Lane(0.0);\n"),
            GradientAccess::Read => bindings += &binding(1, "read", "grad"),
            GradientAccess::Aliased | GradientAccess::Zero => bindings += &binding(1, "read_write", "grad"),
        }
        if self.gradient != GradientAccess::None {
            let raw = if self.extras.zero { "only_finite(grad[i])" } else { "grad[i]" };
            let scaled = format!("row.grad_scale * {raw}");
            let clipped = if self.extras.clip { format!("clip({scaled}, row.clip_value)") } else { scaled };
            _ = writeln!(load, "    let g = {clipped} + row.l2 * w;");
        }
        let first = self.bindings_before_slots();
        if !self.declared.is_empty() {
            load.push_str("    var s: State;\n");
        }
        for (k, slot) in self.used.iter().enumerate() {
            bindings += &binding(first + k, "read_write", slot);
            _ = writeln!(load, "    s.{slot} = {slot}[i];");
            _ = writeln!(store, "    {slot}[i] = s.{slot};");
        }
        if self.extras.average {
            bindings += &binding(first + self.used.len(), "read_write", AVERAGE);
            store
                .push_str("    if row.average == 1.0 {\n        average[i] = p;\n    } else if row.average != 0.0 {\n");
            store.push_str("        average[i] += row.average * (p - average[i]);\n    }\n");
        }
        if self.gradient == GradientAccess::Zero {
            store.push_str("    grad[i] = Lane(0.0);\n");
        }
        let state = if self.declared.is_empty() { "" } else { "&s, " };
        let driver = DRIVER
            .replace("//: bindings", bindings.trim())
            .replace("//: load", load.trim())
            .replace("/*: update */", &format!("update(w - row.decay * w, g, {state}row.hyper)"))
            .replace("//: skipped", if self.gradient == GradientAccess::Zero { "grad[i] = Lane(0.0);" } else { "" })
            .replace("//: store", store.trim());
        format!("{head}{}\n{driver}", self.shader)
    }

    /// Parameter, gradient, states, average.
    fn bindings(&self) -> usize {
        self.bindings_before_slots() + self.used.len() + usize::from(self.extras.average)
    }

    fn bindings_before_slots(&self) -> usize {
        if self.gradient == GradientAccess::None { 1 } else { 2 }
    }
}

/// The WGSL that runs for this rule: what `wgpu-optim shader` prints and the tests translate to every backend's language.
///
/// ```
/// use wgpu_optim::{Extras, GradientAccess, Lane, rules::Adam, shader};
/// let wgsl = shader(&Adam::default().into(), Lane::Four, GradientAccess::Read, Extras::default());
/// assert!(wgsl.contains("fn update(") && wgsl.contains("@compute"));
/// ```
pub fn shader(rule: &AnyRule, lane: Lane, gradient: GradientAccess, extras: Extras) -> String {
    KernelKey::update(rule, lane, gradient, extras).compose()
}

/// The WGSL that swaps parameters and averages.
pub fn swap_shader(lane: Lane) -> String {
    KernelKey::swap(lane).compose()
}

/// The WGSL of the look-ahead pass.
pub fn look_ahead_shader(lane: Lane) -> String {
    KernelKey::look_ahead(lane).compose()
}

/// A compiled kernel. Group 0 is the row of coefficients at a dynamic offset, group 1 parameter, gradient and states.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) ranges: wgpu::BindGroupLayout,
}

/// The layout of group 0: a uniform buffer with a dynamic offset.
pub(crate) fn row_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let ty = wgpu::BufferBindingType::Uniform;
    layout(
        device,
        "wgpu-optim row",
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
    pub(crate) fn kernel(&self, key: KernelKey) -> Result<Arc<Kernel>> {
        if let Some(kernel) = self.kernels().get(&key) {
            return Ok(kernel.clone());
        }
        let storage = key.bindings() as u64;
        let available = u64::from(self.device().limits().max_storage_buffers_per_shader_stage);
        if storage > available {
            let limit = "max_storage_buffers_per_shader_stage";
            return Err(Error::OverLimit { name: key.rule.into(), limit, needed: storage, available });
        }
        let mut module = None;
        let compiled = self.scoped("a shader", || self.compile(&key, &mut module));
        let kernel = match (compiled, module) {
            (Ok(kernel), _) => Arc::new(kernel),
            (Err(Error::Rejected { reason, .. }), Some(module)) => {
                return Err(rejection(&key, &module, reason));
            }
            (Err(e), _) => return Err(e),
        };
        self.kernels().insert(key, kernel.clone());
        Ok(kernel)
    }

    fn compile(&self, key: &KernelKey, module: &mut Option<wgpu::ShaderModule>) -> Kernel {
        let device = self.device();
        let label = Some(key.rule);
        let source = wgpu::ShaderSource::Wgsl(key.compose().into());
        let module = module.insert(device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source }));
        let mut types = vec![storage(false); key.bindings()];
        if key.gradient == GradientAccess::Read {
            types[1] = storage(true);
        }
        let ranges = layout(device, key.rule, &types);
        let row = row_layout(device);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&row), Some(&ranges)],
            immediate_size: 0,
        });
        let constants: Vec<_> = key.overrides.iter().map(|&(name, on)| (name, f64::from(u8::from(on)))).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions { constants: &constants, ..Default::default() },
            cache: None,
        });
        Kernel { pipeline, ranges }
    }
}

/// The error of a shader that did not compile, with the line of the first message.
#[cfg(not(target_family = "wasm"))]
fn rejection(key: &KernelKey, module: &wgpu::ShaderModule, reason: String) -> Error {
    let info = pollster::block_on(module.get_compilation_info());
    let rule = key.rule.to_owned();
    match info.messages.into_iter().find(|m| m.message_type == wgpu::CompilationMessageType::Error) {
        Some(m) => Error::Shader { rule, line: m.location.map(|l| l.line_number), message: m.message },
        None => Error::Shader { rule, line: None, message: reason },
    }
}

#[cfg(target_family = "wasm")]
fn rejection(key: &KernelKey, _: &wgpu::ShaderModule, message: String) -> Error {
    Error::Shader { rule: key.rule.into(), line: None, message }
}
