//! The decision about a step on the device: norms, and the coefficients that it chooses.

use std::sync::Arc;

use super::Gpu;
use super::block_table::Owner;
use super::kernel::coefficients_layout;
use super::memory::BufferRange;
use super::passes::Pass;
use super::recording::{Dispatch, Group};
use super::ring::MOST_COEFFICIENTS;
use crate::error::Result;

/// Bytes from one cohort's coefficients to the next one's.
pub(crate) const COEFFICIENT_STRIDE: u32 = 256;
/// Bytes of a partial norm.
pub(crate) const PARTIAL: u64 = 16;

/// Buffers of a program about whose steps the device decides.
#[derive(Debug)]
pub(crate) struct Decision {
    /// Coefficients that the device has chosen, for an update to bind one cohort's at a dynamic offset.
    pub(crate) coefficients: wgpu::BindGroup,
    chosen: wgpu::Buffer,
    partial_norms: wgpu::Buffer,
    /// Partial norms of what norm-based rules measure.
    rule_norms: wgpu::Buffer,
    /// The sum of all partial norms, into the step log.
    pub(super) total: Dispatch,
    /// Partial norms of all gradients.
    pub(crate) partials: u32,
    /// Of each cohort with one gradient: its first partial norm, and how many.
    pub(crate) ranges: Vec<[u32; 2]>,
}

/// Norm-based rules that keep their numbers in one range, or none.
#[derive(Debug)]
pub(crate) struct Ratio {
    pub(crate) kernel: Arc<Pass>,
    pub(crate) kept: Option<BufferRange>,
    pub(crate) owners: Vec<Owner>,
}

impl Decision {
    /// `ranges` has one entry a cohort. Of the `results` partial results, gradients have `partials`.
    pub(super) fn new(
        gpu: &Gpu,
        log: &wgpu::Buffer,
        ranges: Vec<[u32; 2]>,
        partials: u32,
        results: u32,
    ) -> Result<Self> {
        let (coefficients, chosen, partial_norms, rule_norms) = gpu.scoped("a program's buffers", || {
            let storage = |label, size: u64, usage| {
                let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
                gpu.device().create_buffer(&descriptor)
            };
            let usage = wgpu::BufferUsages::STORAGE;
            let partial_norms = storage("wgpu-optim partial norms", PARTIAL * u64::from(partials.max(1)), usage);
            let rule_norms = storage("wgpu-optim norms of rules", 16 * u64::from(results.max(1)), usage);
            let size = u64::from(COEFFICIENT_STRIDE) * ranges.len().max(1) as u64;
            let chosen = storage("wgpu-optim coefficients", size, usage | wgpu::BufferUsages::UNIFORM);
            let one =
                wgpu::BufferBinding { buffer: &chosen, offset: 0, size: wgpu::BufferSize::new(MOST_COEFFICIENTS) };
            let coefficients = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("wgpu-optim coefficients"),
                layout: &coefficients_layout(gpu.device()),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
            });
            (coefficients, chosen, partial_norms, rule_norms)
        })?;
        let total = of_step(gpu, "total", [&partial_norms, log, &chosen], [1, 1, 1])?;
        Ok(Self { coefficients, chosen, partial_norms, rule_norms, total, partials, ranges })
    }

    pub(super) fn partials(&self) -> wgpu::BindingResource<'_> {
        self.partial_norms.as_entire_binding()
    }

    /// The coefficients of all cohorts, and the norms of norm-based rules.
    pub(super) fn of_rules(&self) -> [wgpu::BindingResource<'_>; 2] {
        [&self.chosen, &self.rule_norms].map(wgpu::Buffer::as_entire_binding)
    }

    /// The decision, and the coefficients of each cohort.
    pub(super) fn dispatches(&self, gpu: &Gpu, log: &wgpu::Buffer) -> Result<Vec<Dispatch>> {
        let most = gpu.device().limits().max_compute_workgroups_per_dimension;
        let (buffers, cohorts) = (self.buffers(log), self.ranges.len() as u32);
        let mut dispatches = vec![of_step(gpu, "prepare", buffers, [1, 1, 1])?];
        if cohorts > 0 {
            let choose = [cohorts.min(most), cohorts.div_ceil(most), 1];
            dispatches.push(of_step(gpu, "choose", buffers, choose)?);
        }
        Ok(dispatches)
    }

    fn buffers<'a>(&'a self, log: &'a wgpu::Buffer) -> [&'a wgpu::Buffer; 3] {
        [&self.partial_norms, log, &self.chosen]
    }

    /// What norm-based rules make of their norms.
    pub(super) fn ratio(&self, gpu: &Gpu, Ratio { kernel, kept, owners }: &Ratio) -> Result<Dispatch> {
        let group = gpu.scoped("a bind group", || {
            let usage = wgpu::BufferUsages::STORAGE;
            let table = gpu.buffer_of("wgpu-optim owners", bytemuck::cast_slice(owners), usage);
            let mut all = [&table, &self.rule_norms, &self.chosen].map(wgpu::Buffer::as_entire_binding).to_vec();
            all.extend(kept.as_ref().map(BufferRange::binding));
            kernel.bind(gpu, 0, &all)
        })?;
        let (kernel, workgroups) = (kernel.clone(), [owners.len() as u32, 1, 1]);
        Ok(Dispatch { kernel, groups: vec![Group::Bound(group)], workgroups })
    }
}

/// A dispatch of an entry of prepare.wgsl.
fn of_step(gpu: &Gpu, entry: &'static str, buffers: [&wgpu::Buffer; 3], workgroups: [u32; 3]) -> Result<Dispatch> {
    let kernel = gpu.prepare_pass(entry)?;
    let all = buffers.map(wgpu::Buffer::as_entire_binding);
    let group = gpu.scoped("a bind group", || kernel.bind(gpu, 1, &all))?;
    Ok(Dispatch { kernel, groups: vec![Group::Step, Group::Bound(group)], workgroups })
}
