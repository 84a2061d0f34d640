//! From a rule to a pipeline: the rule's text, the driver around it, and the bindings that this configuration uses.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::Gpu;
use super::decision::COEFFICIENT_STRIDE;
use super::passes::{Pass, REDUCE};
use crate::error::Result;
use crate::formats::Extent;
use crate::rule::{Description, Reduce};
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

/// Where lane `k` of a tile is.
const TILE_INDICES: &str =
    "let i = tile.start + k;\n    let i_grad = tile.grad + k;\n    let i_state = tile.state + k;";

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
    /// Read-write, since another binding is the same buffer: one buffer bound both ways in a dispatch is an error in
    /// wgpu.
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
    stage: Driver,
    /// Of a norm-based rule.
    reduce: Option<Reduce>,
    /// Whether parameters decay before the rule sees them: in steps. Elsewhere `0 · ∞` would make an infinite one NaN.
    decays: bool,
    lane: Lane,
    gradient: GradientAccess,
    extras: Extras,
    /// Of parameter, gradient and states, in order: the binding that they lie in. Empty: each has its own.
    bindings: Vec<usize>,
}

/// Which driver stands around the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
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
    /// Tensors lie anywhere in the buffers that are bound: a table of tiles says where.
    pub pooled: bool,
    /// Gradients have two factors, whose product may be no normal f32: where norms or a loss scale make a part of it.
    pub two_factors: bool,
    /// Noise on the gradients: [`Noise`](crate::Noise). Only with `tiled`.
    pub noise: bool,
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
            decays: true,
            lane,
            gradient,
            extras,
            bindings: Vec::new(),
        }
    }

    /// The same of tensors anywhere in shared buffers: `bindings` says in which of them parameter, gradient and states
    /// lie.
    pub(crate) fn pooled(self, bindings: Vec<usize>) -> Self {
        Self { extras: Extras { pooled: true, ..self.extras }, bindings, ..self }
    }

    /// A norm-based rule's other passes.
    pub(crate) fn of_norms(rule: &dyn Description, stage: Driver, extras: Extras) -> Self {
        let used = rule.reduce().map(|reduce| reduce.reads.to_vec()).unwrap_or_default();
        let extras = Extras { average: false, tiled: true, ..extras };
        Self { stage, used, ..Self::update(rule, Lane::Tail, GradientAccess::Read, extras) }
    }

    /// Whether it only reads.
    pub(crate) fn measures(&self) -> bool {
        self.stage == Driver::Measure
    }

    /// Whether each tile says which row it takes.
    pub(crate) fn tiled(&self) -> bool {
        self.extras.tiled
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
            stage: Driver::Update,
            reduce: None,
            decays: false,
            lane,
            gradient: GradientAccess::None,
            extras: Extras::default(),
            bindings: Vec::new(),
        }
    }

    /// The WGSL: head (on the rule's first line, so that line numbers are the rule's own), rule, what all lanes need,
    /// driver.
    pub(crate) fn compose(&self) -> String {
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
            Driver::Update => self.update_driver(),
            Driver::Measure => format!("{REDUCE}\n{}", self.measure_driver()),
            Driver::Trust => format!("{REDUCE}\n{}", trust_driver(self.reduce)),
        };
        // Behind a row of whole 16 bytes, whole 16 bytes up to the next.
        let rest = (COEFFICIENT_STRIDE as usize - 4 * (ROW_HEAD + self.hyper).next_multiple_of(4)) / 16;
        let lane = LANE.replace("/*: rest */", &rest.to_string());
        format!("{head}{}\n{lane}\n{noise}\n{driver}", self.shader)
    }

    /// What the kernel binds in group 1 and whether it only reads it; and as what parameter, gradient and states stand
    /// in the text.
    fn ranges(&self) -> (Vec<(&'static str, bool)>, HashMap<&'static str, String>) {
        let gradient =
            (self.gradient != GradientAccess::None).then_some(("grad", self.gradient == GradientAccess::Read));
        let states =
            self.used.iter().copied().chain(self.extras.average.then_some(AVERAGE)).map(|state| (state, false));
        let all = [("param", false)].into_iter().chain(gradient).chain(states);
        let (mut bound, mut names) = (Vec::<(&str, bool)>::new(), HashMap::new());
        for (k, (name, reads)) in all.enumerate() {
            let at = self.bindings.get(k).copied().unwrap_or(k);
            match bound.get_mut(at) {
                Some((_, only_reads)) => *only_reads &= reads,
                None => bound.push((name, reads)),
            }
            let index = match name {
                _ if !self.has_tiles() => "i",
                "param" => "i",
                "grad" => "i_grad",
                _ => "i_state",
            };
            names.insert(name, format!("{}[{index}]", bound[at].0));
        }
        if self.measures() {
            bound.iter_mut().for_each(|(_, reads)| *reads = true);
        }
        (bound, names)
    }

    /// Whether a norm-based rule keeps a number.
    fn keeps(&self) -> bool {
        self.reduce.is_some_and(|reduce| reduce.keeps.is_some())
    }

    /// Whether a table says what a workgroup does.
    fn has_tiles(&self) -> bool {
        self.extras.tiled || self.extras.pooled
    }

    fn update_driver(&self) -> String {
        let row = match self.extras.tiled {
            true => "@group(0) @binding(0) var<storage, read> rows: array<Slot>;",
            false => "@group(0) @binding(0) var<uniform> row: Row;",
        };
        let table = match self.extras {
            Extras { tiled: true, .. } => "@group(0) @binding(1) var<storage, read> tiles: array<Tile>;\n",
            Extras { pooled: true, .. } => "@group(2) @binding(0) var<storage, read> tiles: array<Tile>;\n",
            _ => "",
        };
        let place = match self.has_tiles() {
            true => {
                let row = if self.extras.tiled { "\n    let row = rows[tile.row].row;" } else { "" };
                format!(
                    "let tile = tiles[group.y];{row}\n    let k = group.x * 256u + lane;\n    {TILE_INDICES}\n    let inside = k < tile.len;"
                )
            }
            false => {
                "let i = id.x + select(0u, arrayLength(&param) & ~3u, TAIL);\n    let inside = i < arrayLength(&param);"
                    .to_owned()
            }
        };
        let (bound, names) = self.ranges();
        let bindings = format!("{row}\n{table}{}", declare(&bound, "Lane"));
        let mut store = String::new();
        for slot in &self.used {
            _ = writeln!(store, "        {} = s.{slot};", names[slot]);
        }
        if let Some(average) = names.get(AVERAGE) {
            _ = write!(
                store,
                "        if row.average == 1.0 {{\n            {average} = p;\n        }} else if row.average != 0.0 {{\n            \
                 {average} += row.average * (p - {average});\n        }}\n",
            );
        }
        let zero = match self.gradient {
            GradientAccess::Zero => format!("{} = Lane(0.0);", names["grad"]),
            _ => String::new(),
        };
        let skipped = match self.gradient {
            GradientAccess::Zero => format!("if inside & (row.skip == 1u) {{ {zero} }}"),
            _ => String::new(),
        };
        store += &format!("        {zero}");
        let state = if self.declared.is_empty() { "" } else { "&s, " };
        let w = if self.decays { "w - row.decay * w" } else { "w" };
        UPDATE
            .replace("//: bindings", bindings.trim())
            .replace("//: place", &place)
            .replace("//: skipped", &skipped)
            .replace("//: load", self.load(&names).trim())
            .replace("/*: update */", &format!("update({w}, g, {state}row.hyper)"))
            .replace("//: store", store.trim())
    }

    fn measure_driver(&self) -> String {
        let (bound, names) = self.ranges();
        let state = if self.declared.is_empty() { "" } else { "s, " };
        MEASURE
            .replace("//: bindings", declare(&bound, "f32").trim())
            .replace("//: place", TILE_INDICES)
            .replace("//: load", self.load(&names).trim())
            .replace("/*: measure */", &format!("measure(w - row.decay * w, g, {state}row.hyper)"))
    }

    /// Gradient and states, as every rule gets them.
    fn load(&self, names: &HashMap<&str, String>) -> String {
        let mut g = names.get("grad").cloned().unwrap_or_default();
        g = if self.extras.two_factors { format!("scaled({g}, row)") } else { format!("row.grad_scale * {g}") };
        if self.extras.zero {
            g = format!("only_finite({g})");
        }
        if self.extras.clip {
            g = format!("clip({g}, row.clip_value)");
        }
        if self.extras.noise {
            g += " + noise(row, tile.first + k, tile.limit)";
        }
        let mut load = match self.gradient {
            GradientAccess::None => "let g = Lane(0.0);\n".to_owned(),
            // Nothing of what stands there may reach the first gradient, least of all a NaN.
            _ if self.shader == ACCUMULATE => format!("let g = {};\n", names["grad"]),
            _ => format!("let g = {g} + row.l2 * w;\n"),
        };
        if !self.declared.is_empty() {
            load.push_str("        var s: State;\n");
        }
        for slot in &self.used {
            _ = writeln!(load, "        s.{slot} = {};", names[slot]);
        }
        load
    }

    /// Storage buffers of each group, read-only or not. An empty group 0 is the row, a uniform.
    fn groups(&self) -> Vec<Vec<bool>> {
        let ranges = || self.ranges().0.into_iter().map(|(_, reads)| reads).collect();
        match (self.stage, self.extras) {
            (Driver::Update, Extras { tiled: true, .. }) => vec![vec![true, true], ranges()],
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

/// Group 1.
fn declare(bound: &[(&str, bool)], element: &str) -> String {
    let mut text = String::new();
    for (k, (name, reads)) in bound.iter().enumerate() {
        let access = if *reads { "read" } else { "read_write" };
        _ = writeln!(text, "@group(1) @binding({k}) var<storage, {access}> {name}: array<{element}>;");
    }
    text
}

fn trust_driver(reduce: Option<Reduce>) -> String {
    let (binding, load, store) = match reduce.is_some_and(|reduce| reduce.keeps.is_some()) {
        true => (
            "@group(0) @binding(3) var<storage, read_write> scalars: array<f32>;",
            "var s = scalars[unit.scalar];",
            "scalars[unit.scalar] = s;",
        ),
        false => ("", "var s = 0.0;", ""),
    };
    let text = TRUST.replace("//: bindings", binding).replace("//: load", load).replace("//: store", store);
    text.replace("/*: into */", reduce.map_or("", |reduce| reduce.into))
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
        let pass = self.compile(key.rule, &key.compose(), "main", &key.groups(), (&key.overrides, true))?;
        let pass = Arc::new(pass);
        self.kernels().insert(key, pass.clone());
        Ok(pass)
    }
}
