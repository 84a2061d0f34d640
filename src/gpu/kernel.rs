//! From a rule to a pipeline: the rule's text, the driver around it, and the bindings that this configuration uses.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Gpu;
use super::norm::ROW_STRIDE;
use super::passes::{Pass, REDUCE};
use crate::error::Result;
use crate::rule::AnyRule;
use crate::settings::ROW_HEAD;

const LANE: &str = include_str!("../../shaders/lane.wgsl");
const UPDATE: &str = include_str!("../../shaders/update.wgsl");
const MEASURE: &str = include_str!("../../shaders/measure.wgsl");
const TRUST: &str = include_str!("../../shaders/trust.wgsl");
const NOISE: &str = include_str!("../../shaders/noise.wgsl");
const ACCUMULATE: &str = include_str!("../../shaders/accumulate.wgsl");
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
    /// States that it binds.
    used: Vec<&'static str>,
    overrides: Vec<(&'static str, bool)>,
    /// Numbers in its `Hyper`.
    hyper: usize,
    stage: Stage,
    /// Whether a norm-based rule keeps a number.
    scalar: bool,
    lane: Lane,
    gradient: GradientAccess,
    extras: Extras,
}

/// Which driver stands around the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The step itself.
    Update,
    /// Of a norm-based rule: partial norms, a tile each.
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
    /// Each tensor has coefficients of its own: a table of tiles says which.
    pub tiled: bool,
    /// Noise on the gradients: [`Noise`](crate::Noise). Only with `tiled`.
    pub noise: bool,
}

impl KernelKey {
    pub(crate) fn update(rule: &AnyRule, lane: Lane, gradient: GradientAccess, extras: Extras) -> Self {
        Self {
            rule: rule.name(),
            shader: rule.shader(),
            declared: rule.declared_slots(),
            used: rule.slots(),
            overrides: rule.overrides(),
            hyper: rule.hyper_names().len(),
            stage: Stage::Update,
            scalar: rule.scalar().is_some(),
            lane,
            gradient,
            extras,
        }
    }

    /// A norm-based rule's other passes.
    pub(crate) fn of_norms(rule: &AnyRule, stage: Stage, extras: Extras) -> Self {
        let used = rule.0.measured_slots().to_vec();
        let extras = Extras { average: false, tiled: true, ..extras };
        Self { stage, used, ..Self::update(rule, Lane::Tail, GradientAccess::Read, extras) }
    }

    /// Whether it only reads.
    pub(crate) fn measures(&self) -> bool {
        self.stage == Stage::Measure
    }

    pub(crate) fn look_ahead(lane: Lane) -> Self {
        Self::of_one_state("look_ahead", LOOK_AHEAD, &[MOMENTUM], lane)
    }

    pub(crate) fn swap(lane: Lane) -> Self {
        Self::of_one_state("swap", SWAP, &[AVERAGE], lane)
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
            stage: Stage::Update,
            scalar: false,
            lane,
            gradient: GradientAccess::None,
            extras: Extras::default(),
        }
    }

    /// The WGSL: head (on the rule's first line, so that line numbers are the rule's own), rule, what all lanes need, driver.
    fn compose(&self) -> String {
        let head = match self.lane {
            Lane::Four => {
                "alias Lane = vec4<f32>; alias Bits = vec4<u32>; alias Mask = vec4<bool>; const TAIL = false; \
                 fn of_four(x: vec4<f32>, at: u32) -> Lane { return x; } "
            }
            Lane::Tail => {
                "alias Lane = f32; alias Bits = u32; alias Mask = bool; const TAIL = true; \
                 fn of_four(x: vec4<f32>, at: u32) -> Lane { return x[at & 3u]; } "
            }
        };
        let noise = if self.extras.noise { NOISE } else { "" };
        let driver = match self.stage {
            Stage::Update => self.update_driver(),
            Stage::Measure => format!("{REDUCE}\n{}", self.measure_driver()),
            Stage::Trust => format!("{REDUCE}\n{}", trust_driver(self.scalar)),
        };
        // Behind a row of whole 16 bytes, whole 16 bytes up to the next.
        let rest = (ROW_STRIDE as usize - 4 * (ROW_HEAD + self.hyper).next_multiple_of(4)) / 16;
        let lane = LANE.replace("/*: rest */", &rest.to_string());
        format!("{head}{}\n{lane}\n{noise}\n{driver}", self.shader)
    }

    fn update_driver(&self) -> String {
        let binding = |k: usize, access: &str, name: &str| {
            format!("@group(1) @binding({k}) var<storage, {access}> {name}: array<Lane>;\n")
        };
        let (mut bindings, place) = if self.extras.tiled {
            let tables = "@group(0) @binding(0) var<storage, read> rows: array<Slot>;\n\
                          @group(0) @binding(1) var<storage, read> tiles: array<Tile>;\n";
            let place = "let tile = tiles[group.x];\n    let row = rows[tile.row].row;\n    \
                         for (var k = lane; k < tile.len; k += 256u) {\n        let i = tile.start + k;";
            (tables.to_owned(), place)
        } else {
            let place = "let i = id.x + select(0u, arrayLength(&param) & ~3u, TAIL);\n    if i < arrayLength(&param) {";
            ("@group(0) @binding(0) var<uniform> row: Row;\n".to_owned(), place)
        };
        bindings += &binding(0, "read_write", "param");
        match self.gradient {
            GradientAccess::None => {}
            GradientAccess::Read => bindings += &binding(1, "read", "grad"),
            GradientAccess::Aliased | GradientAccess::Zero => bindings += &binding(1, "read_write", "grad"),
        }
        let first = if self.gradient == GradientAccess::None { 1 } else { 2 };
        let mut store = String::new();
        for (k, slot) in self.used.iter().enumerate() {
            bindings += &binding(first + k, "read_write", slot);
            _ = writeln!(store, "            {slot}[i] = s.{slot};");
        }
        if self.extras.average {
            bindings += &binding(first + self.used.len(), "read_write", AVERAGE);
            store.push_str(concat!(
                "            if row.average == 1.0 {\n                average[i] = p;\n",
                "            } else if row.average != 0.0 {\n",
                "                average[i] += row.average * (p - average[i]);\n            }\n",
            ));
        }
        let zero = if self.gradient == GradientAccess::Zero { "grad[i] = Lane(0.0);" } else { "" };
        store += &format!("            {zero}");
        let state = if self.declared.is_empty() { "" } else { "&s, " };
        UPDATE
            .replace("//: bindings", bindings.trim())
            .replace("//: place", place)
            .replace("//: skipped", zero)
            .replace("//: load", self.load().trim())
            .replace("/*: update */", &format!("update(w - row.decay * w, g, {state}row.hyper)"))
            .replace("//: store", store.trim())
    }

    fn measure_driver(&self) -> String {
        let mut bindings = String::new();
        for (k, name) in ["param", "grad"].iter().chain(&self.used).enumerate() {
            _ = writeln!(bindings, "@group(1) @binding({k}) var<storage, read> {name}: array<f32>;");
        }
        let state = if self.declared.is_empty() { "" } else { "s, " };
        MEASURE
            .replace("//: bindings", bindings.trim())
            .replace("//: load", self.load().trim())
            .replace("/*: measure */", &format!("measure(w - row.decay * w, g, {state}row.hyper)"))
    }

    /// Gradient and states, as every rule gets them.
    fn load(&self) -> String {
        let mut g = "grad[i]".to_owned();
        if self.extras.zero {
            g = format!("only_finite({g})");
        }
        g = format!("row.grad_scale * {g}");
        if self.extras.clip {
            g = format!("clip({g}, row.clip_value)");
        }
        if self.extras.noise {
            g += " + noise(row, tile.first + k, tile.limit)";
        }
        let mut load = match self.gradient {
            GradientAccess::None => "let g = Lane(0.0);\n".to_owned(),
            // Nothing of what stands there may reach the first gradient, least of all a NaN.
            _ if self.shader == ACCUMULATE => "let g = grad[i];\n".to_owned(),
            _ => format!("let g = {g} + row.l2 * w;\n"),
        };
        if !self.declared.is_empty() {
            load.push_str("            var s: State;\n");
        }
        for slot in &self.used {
            _ = writeln!(load, "            s.{slot} = {slot}[i];");
        }
        load
    }

    /// Storage buffers of each group, read-only or not; group 0 of a flat update is the row, a uniform.
    fn groups(&self) -> Vec<Vec<bool>> {
        match self.stage {
            Stage::Update => {
                let mut ranges = vec![false];
                match self.gradient {
                    GradientAccess::None => {}
                    access => ranges.push(access == GradientAccess::Read),
                }
                ranges.extend(self.used.iter().map(|_| false));
                ranges.extend(self.extras.average.then_some(false));
                vec![if self.extras.tiled { vec![true, true] } else { Vec::new() }, ranges]
            }
            Stage::Measure => vec![vec![true, true, false], vec![true; 2 + self.used.len()]],
            Stage::Trust => vec![[true, true, false].into_iter().chain(self.scalar.then_some(false)).collect()],
        }
    }
}

fn trust_driver(scalar: bool) -> String {
    let (binding, load, store) = match scalar {
        true => (
            "@group(0) @binding(3) var<storage, read_write> scalars: array<f32>;",
            "var s = scalars[unit.scalar];",
            "scalars[unit.scalar] = s;",
        ),
        false => ("", "var s = 0.0;", ""),
    };
    TRUST.replace("//: bindings", binding).replace("//: load", load).replace("//: store", store)
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

/// The WGSL of a norm-based rule's own passes.
pub fn norm_shader(rule: &AnyRule, stage: Stage, extras: Extras) -> String {
    KernelKey::of_norms(rule, stage, extras).compose()
}

/// The WGSL that swaps parameters and averages.
pub fn swap_shader(lane: Lane) -> String {
    KernelKey::swap(lane).compose()
}

/// The WGSL of gradient accumulation.
pub fn accumulate_shader(lane: Lane) -> String {
    KernelKey::accumulate(lane, GradientAccess::Read).compose()
}

/// The WGSL of the look-ahead pass.
pub fn look_ahead_shader(lane: Lane) -> String {
    KernelKey::look_ahead(lane).compose()
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
    pub(crate) fn kernel(&self, key: KernelKey) -> Result<Arc<Pass>> {
        if let Some(kernel) = self.kernels().get(&key) {
            return Ok(kernel.clone());
        }
        let pass = self.compile(key.rule, &key.compose(), "main", &key.groups(), &key.overrides)?;
        let pass = Arc::new(pass);
        self.kernels().insert(key, pass.clone());
        Ok(pass)
    }
}
