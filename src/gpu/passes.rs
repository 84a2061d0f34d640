//! Pipelines beside the update: each a text, an entry point, and what its groups bind.

use std::sync::Arc;

use super::Gpu;
use super::kernel::layout;
use crate::error::{Error, Result};

const REDUCE: &str = include_str!("../../shaders/reduce.wgsl");
const NORM: &str = include_str!("../../shaders/norm.wgsl");
const PREPARE: &str = include_str!("../../shaders/prepare.wgsl");

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
pub(crate) fn storage(read_only: bool) -> wgpu::BindingType {
    wgpu::BindingType::Buffer {
        ty: wgpu::BufferBindingType::Storage { read_only },
        has_dynamic_offset: false,
        min_binding_size: None,
    }
}

/// The WGSL of the passes before the update: name, entry point, text.
pub fn pass_shaders() -> [(&'static str, &'static str, String); 3] {
    let (norm, prepare) = (format!("{REDUCE}{NORM}"), format!("{REDUCE}{PREPARE}"));
    [("norm", "main", norm), ("prepare", "prepare", prepare.clone()), ("rows", "rows_main", prepare)]
}

impl Gpu {
    /// Partial norms.
    pub(crate) fn norm_pass(&self) -> Result<Arc<Pass>> {
        self.pass("norm", format!("{REDUCE}{NORM}"), "main", &[&[true, true, false]])
    }

    /// The decision about a step.
    pub(crate) fn prepare_pass(&self) -> Result<Arc<Pass>> {
        self.pass("prepare", format!("{REDUCE}{PREPARE}"), "prepare", &[&[true], &[true, false, false]])
    }

    /// The coefficients of each row.
    pub(crate) fn rows_pass(&self) -> Result<Arc<Pass>> {
        self.pass("rows", format!("{REDUCE}{PREPARE}"), "rows_main", &[&[true], &[true, false, false]])
    }

    /// The pass, compiled at its first use. Each group is a list of storage buffers: whether they are read-only.
    pub(crate) fn pass(
        &self,
        name: &'static str,
        source: String,
        entry: &'static str,
        groups: &[&[bool]],
    ) -> Result<Arc<Pass>> {
        let key = (source, entry);
        if let Some(pass) = self.passes().get(&key) {
            return Ok(pass.clone());
        }
        let needed = groups.iter().map(|group| group.len() as u64).sum();
        let available = self.device().limits().max_storage_buffers_per_shader_stage.into();
        if needed > available {
            let limit = "max_storage_buffers_per_shader_stage";
            return Err(Error::OverLimit { name: name.into(), limit, needed, available });
        }
        let compiled = self.scoped("a shader", || {
            let (device, label) = (self.device(), Some(name));
            let source = wgpu::ShaderSource::Wgsl(key.0.as_str().into());
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
            let of = |group: &&[bool]| {
                let types: Vec<_> = group.iter().map(|&read_only| storage(read_only)).collect();
                layout(device, name, &types)
            };
            let layouts: Vec<_> = groups.iter().map(of).collect();
            let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label,
                bind_group_layouts: &layouts.iter().map(Some).collect::<Vec<_>>(),
                immediate_size: 0,
            });
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label,
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(entry),
                compilation_options: Default::default(),
                cache: None,
            });
            Pass { pipeline, layouts }
        });
        let pass = Arc::new(compiled.map_err(|e| match e {
            Error::Rejected { reason, .. } => Error::Shader { rule: name.into(), line: None, message: reason },
            e => e,
        })?);
        self.passes().insert(key, pass.clone());
        Ok(pass)
    }
}
