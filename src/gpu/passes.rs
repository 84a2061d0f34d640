//! Pipelines beside the update: each a text, an entry point, and what its groups bind.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use super::Gpu;
use super::kernel::{coefficients_layout, layout};
use crate::error::{Error, Result};
use crate::formats::{Format, Lane};

pub(crate) const BLOCK: &str = include_str!("../../shaders/block.wgsl");
const REDUCE: &str = include_str!("../../shaders/reduce.wgsl");
const NORM: &str = include_str!("../../shaders/norm.wgsl");
const WIDE: &str = include_str!("../../shaders/wide.wgsl");
const STEP_INPUT: &str = include_str!("../../shaders/step_input.wgsl");
const LINES: &str = include_str!("../../shaders/lines.wgsl");
const PREPARE: &str = include_str!("../../shaders/prepare.wgsl");

/// Of lines that one workgroup takes; of longer ones, in order.
pub(crate) const LINE_ENTRIES: [&str; 4] = ["main", "sums", "combine", "apply"];

/// A compiled pass.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) pipeline: wgpu::ComputePipeline,
    layouts: Vec<wgpu::BindGroupLayout>,
}

impl Pass {
    /// A bind group of these resources, in order.
    pub(crate) fn bind(&self, gpu: &Gpu, group: usize, resources: &[wgpu::BindingResource<'_>]) -> wgpu::BindGroup {
        let mut entries = Vec::new();
        for (binding, resource) in (0..).zip(resources) {
            entries.push(wgpu::BindGroupEntry { binding, resource: resource.clone() });
        }
        gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("wgpu-optim"),
            layout: &self.layouts[group],
            entries: &entries,
        })
    }
}

/// A storage buffer in a pass.
fn storage(read_only: bool) -> wgpu::BindingType {
    wgpu::BindingType::Buffer {
        ty: wgpu::BufferBindingType::Storage { read_only },
        has_dynamic_offset: false,
        min_binding_size: None,
    }
}

/// The WGSL of the passes before the update: name, entry point, text.
pub(crate) fn shaders() -> Vec<(&'static str, &'static str, String)> {
    let norm = |format, lane| norm_text(1, true, format, lane);
    let mut shaders = vec![("norm", "main", norm(Format::F32, Lane::Four))];
    shaders.push(("norm, gathered", "main", norm(Format::F32, Lane::Gathered)));
    shaders.push(("norm of bf16", "main", norm(Format::Bf16, Lane::Four)));
    shaders.push(("norm of bf16, gathered", "main", norm(Format::Bf16, Lane::Gathered)));
    shaders.push(("norm of f16", "main", norm(Format::F16, Lane::Four)));
    shaders.push(("norm of f16, gathered", "main", norm(Format::F16, Lane::Gathered)));
    for entry in ["total", "prepare", "choose"] {
        shaders.push(("prepare", entry, prepare_text(entry)));
    }
    for entry in LINE_ENTRIES {
        shaders.push(("lines", entry, lines_text(false)));
        shaders.push(("lines in one window", entry, lines_text(true)));
    }
    shaders
}

/// A buffer of group `group` with numbers of this format, and a function that loads one.
fn loaded(name: &str, group: u32, binding: u32, access: &str, format: Format) -> String {
    let (ty, load) = (format.lane_type(Lane::Tail), format.load(Lane::Tail, name, "at"));
    format!(
        "@group({group}) @binding({binding}) var<storage, {access}> {name}: array<{ty}>;\n\
         fn load_{name}(at: u32) -> f32 {{ return {load}; }}\n"
    )
}

/// What block.wgsl needs to know of a lane.
pub(super) fn indices(lane: Lane) -> String {
    format!("const INDICES = {}u;\n", lane.indices())
}

/// Root of the threads of a workgroup that reduces, where there are many workgroups: an adapter on a CPU pays a barrier
/// for each thread.
pub(super) const MANY: u32 = 8;
/// Where one workgroup joins what the others found: the GPU has nothing else to do.
pub(super) const ONE: u32 = 16;

/// reduce.wgsl for workgroups of `root`² threads.
pub(super) fn reduce(root: u32) -> String {
    format!("const THREADS = {}u;\nconst ROOT = {root}u;\n{REDUCE}", root * root)
}

/// The norm's pass for this [`Norm::kind`](crate::Norm); with `zero`, of the finite elements.
fn norm_text(kind: u32, zero: bool, format: Format, lane: Lane) -> String {
    let (ty, load) = (format.lane_type(lane), format.load(lane, "grad", "at.param"));
    format!(
        "{BLOCK}{}{}{}const KIND = {kind}u;\nconst ZERO = {zero};\n\
         @group(1) @binding(0) var<storage, read> grad: array<{ty}>;\n\
         fn load_grad(at: At) -> vec4<f32> {{ return {load}; }}\n{NORM}",
        reduce(MANY),
        format.shader().concat(),
        indices(lane)
    )
}

/// The decision about a step, or the coefficients of each cohort.
fn prepare_text(entry: &str) -> String {
    let root = if entry == "choose" { MANY } else { ONE };
    format!("{}{WIDE}{STEP_INPUT}{PREPARE}", reduce(root))
}

/// The pass over rows or columns. A buffer is bound once where both windows of it overlap: WebGPU allows no two that
/// are written.
fn lines_text(shared: bool) -> String {
    let format = Format::F32;
    let (first, param) = match shared {
        true => (1, "fn load_param(at: u32) -> f32 { return load_grad(at); }\n".to_owned()),
        false => (2, loaded("param", 1, 1, "read_write", format)),
    };
    let grad = loaded("grad", 1, first, "read_write", format);
    let store = format.store(Lane::Tail, "grad", "at", "x");
    let (scale, parts) = (first + 1, first + 2);
    format!(
        "{}{WIDE}{STEP_INPUT}{}{param}{grad}\
         fn store_grad(at: u32, x: f32) {{ {store} }}\n\
         @group(1) @binding({scale}) var<storage, read> loss_scale: f32;\n\
         @group(1) @binding({parts}) var<storage, read_write> parts: array<vec4<f32>>;\n{LINES}",
        reduce(ONE),
        format.shader().concat()
    )
}

impl Gpu {
    /// Partial norms of gradients that are stored in this format.
    pub(crate) fn norm_pass(&self, kind: u32, zero: bool, format: Format, lane: Lane) -> Result<Arc<Pass>> {
        self.pass("norm", norm_text(kind, zero, format, lane), "main", &[&[true, false], &[true]])
    }

    /// Rows or columns of a gradient; with `shared`, of one that lies in the parameter's window. Only
    /// [`LINE_ENTRIES`]' first needs no room for parts.
    pub(crate) fn lines_pass(&self, shared: bool, entry: &'static str) -> Result<Arc<Pass>> {
        let mut group = if shared { vec![true, false, true] } else { vec![true, false, false, true] };
        group.extend((entry != LINE_ENTRIES[0]).then_some(false));
        self.pass("lines", lines_text(shared), entry, &[&[true], &group])
    }

    /// An entry of prepare.wgsl: the sum of all partial norms, the decision about a step, or the coefficients of each
    /// cohort.
    pub(crate) fn prepare_pass(&self, entry: &'static str) -> Result<Arc<Pass>> {
        self.pass(entry, prepare_text(entry), entry, &[&[true], &[true, false, false]])
    }

    /// The pass, compiled at its first use. Each group is a list of storage buffers: whether they are read-only.
    pub(crate) fn pass(
        &self,
        name: &'static str,
        source: String,
        entry: &'static str,
        groups: &[&[bool]],
    ) -> Result<Arc<Pass>> {
        self.pass_with(name, source, entry, groups, true)
    }

    /// The same, where a shader writes what it reads of workgroup memory, without zeroing it first: in GLSL that is one
    /// constructor of all of it, which for large structures takes a minute to compile.
    pub(crate) fn pass_with(
        &self,
        name: &'static str,
        source: String,
        entry: &'static str,
        groups: &[&[bool]],
        zeroed: bool,
    ) -> Result<Arc<Pass>> {
        let key = (source, entry);
        if let Some(pass) = self.passes().get(&key) {
            return Ok(pass.clone());
        }
        let groups: Vec<_> = groups.iter().map(|group| group.to_vec()).collect();
        let pass = Arc::new(self.compile(name, &key.0, entry, &groups, (&[], zeroed))?);
        self.passes().insert(key, pass.clone());
        Ok(pass)
    }

    /// Compiles a text. An empty group 0 is coefficients, a uniform at a dynamic offset.
    pub(crate) fn compile(
        &self,
        name: &'static str,
        text: &str,
        entry: &'static str,
        groups: &[Vec<bool>],
        (overrides, zeroed): (&[(&'static str, bool)], bool),
    ) -> Result<Pass> {
        let needed = groups.iter().map(|group| group.len() as u64).sum();
        let available = self.device().limits().max_storage_buffers_per_shader_stage.into();
        if needed > available {
            let limit = "max_storage_buffers_per_shader_stage";
            return Err(Error::OverLimit { name: name.into(), limit, needed, available });
        }
        let created = Rc::new(OnceCell::new());
        let failed = created.clone();
        // Its own answers would otherwise keep it alive.
        #[cfg(target_family = "wasm")]
        let gpu = Arc::downgrade(&self.0);
        let explain = async move |reason| {
            // In a browser it is kept by now: the next one who asks is to see the error, too.
            #[cfg(target_family = "wasm")]
            if let Some(gpu) = gpu.upgrade().map(Gpu) {
                gpu.kernels().clear();
                gpu.passes().clear();
            }
            match failed.get() {
                Some(module) => rejection(name, module, reason).await,
                None => Error::Rejected { operation: "a shader", reason },
            }
        };
        let make = || {
            let (device, label) = (self.device(), Some(name));
            let source = wgpu::ShaderSource::Wgsl(text.into());
            let descriptor = wgpu::ShaderModuleDescriptor { label, source };
            let module = created.get_or_init(|| device.create_shader_module(descriptor));
            let of = |group: &Vec<bool>| {
                let types: Vec<_> = group.iter().map(|&read_only| storage(read_only)).collect();
                if group.is_empty() { coefficients_layout(device) } else { layout(device, name, &types) }
            };
            let layouts: Vec<_> = groups.iter().map(of).collect();
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &layouts.iter().map(Some).collect::<Vec<_>>(),
                immediate_size: 0,
            });
            let constants: Vec<_> = overrides.iter().map(|&(name, on)| (name, f64::from(u8::from(on)))).collect();
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &constants,
                    zero_initialize_workgroup_memory: zeroed,
                },
                cache: self.pipeline_cache(),
            });
            Pass { pipeline, layouts }
        };
        let pass = self.explained(make, explain)?;
        self.check_alive().map(|()| pass)
    }
}

/// The error of a shader that did not compile, with the line of the first message.
async fn rejection(name: &str, module: &wgpu::ShaderModule, reason: String) -> Error {
    let info = module.get_compilation_info().await;
    let rule = name.to_owned();
    match info.messages.into_iter().find(|m| m.message_type == wgpu::CompilationMessageType::Error) {
        Some(m) => Error::Shader { rule, line: m.location.map(|l| l.line_number), message: m.message },
        None => Error::Shader { rule, line: None, message: reason },
    }
}
