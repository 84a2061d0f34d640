//! What a step dispatches: made once, replayed until a parameter, a gradient or a group changes.

use std::collections::HashMap;
use std::sync::Arc;

use super::Gpu;
use super::kernel::{GradientAccess, Kernel, KernelKey, Lane, WORKGROUP};
use super::memory::{ALIGN, BufferRange};
use super::norm::Preparation;
use crate::error::Result;

/// Bind groups by what they bind; the flag is a gradient bound read-only.
pub(crate) type BindGroups = HashMap<(Vec<BufferRange>, bool), wgpu::BindGroup>;

/// The dispatches of one step, in order.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    dispatches: Vec<Dispatch>,
    /// Who takes part.
    pub(crate) members: Vec<u64>,
    /// A member of each row's cohort.
    pub(crate) rows: Vec<u64>,
    /// What comes before the updates, where the device decides about the step.
    pub(crate) preparation: Option<Preparation>,
}

#[derive(Debug)]
struct Dispatch {
    kernel: Arc<Kernel>,
    bind_group: wgpu::BindGroup,
    workgroups: u32,
    row: usize,
}

impl Plan {
    /// Adds the dispatches that update one run: the same `len` elements from the start of each range on.
    ///
    /// The run is cut where a binding or a dispatch would exceed the device's limits. Elements behind the last whole four have a
    /// dispatch of their own, so that nothing beside the ranges is touched.
    pub(crate) fn add_run(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: impl Fn(Lane) -> KernelKey,
        access: GradientAccess,
        ranges: &[BufferRange],
        row: usize,
    ) -> Result<()> {
        let Some(len) = ranges.first().map(|range| range.len as u64) else {
            return Ok(());
        };
        let limits = gpu.device().limits();
        let bound = limits.max_storage_buffer_binding_size / 4;
        let dispatched = u64::from(limits.max_compute_workgroups_per_dimension) * WORKGROUP * 4;
        let window = (bound.min(dispatched) / ALIGN * ALIGN).max(ALIGN);
        let whole = len / 4 * 4;
        for start in (0..whole).step_by(window as usize) {
            let part = window.min(whole - start);
            let workgroups = (part / 4).div_ceil(WORKGROUP);
            self.add(gpu, bind_groups, key(Lane::Four), access, ranges, start..start + part, workgroups, row)?;
        }
        if whole < len {
            let start = whole / ALIGN * ALIGN;
            self.add(gpu, bind_groups, key(Lane::Tail), access, ranges, start..len, 1, row)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the one private caller is above")]
    fn add(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: KernelKey,
        access: GradientAccess,
        ranges: &[BufferRange],
        elements: std::ops::Range<u64>,
        workgroups: u64,
        row: usize,
    ) -> Result<()> {
        let kernel = gpu.kernel(key)?;
        let len = (elements.end - elements.start) as usize;
        let cut = |range: &BufferRange| BufferRange::new(&range.buffer, range.offset + 4 * elements.start, len);
        let cut: Vec<_> = ranges.iter().map(cut).collect();
        let key = (cut, access == GradientAccess::Read);
        let bind_group = match bind_groups.get(&key) {
            Some(bind_group) => bind_group.clone(),
            None => {
                let entry = |(binding, range)| wgpu::BindGroupEntry { binding, resource: BufferRange::binding(range) };
                let entries: Vec<_> = (0..).zip(&key.0).map(entry).collect();
                let bind_group = gpu.scoped("a bind group", || {
                    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                        label: Some("wgpu-optim"),
                        layout: &kernel.ranges,
                        entries: &entries,
                    })
                })?;
                bind_groups.insert(key, bind_group.clone());
                bind_group
            }
        };
        self.dispatches.push(Dispatch { kernel, bind_group, workgroups: workgroups as u32, row });
        Ok(())
    }

    /// Records the updates, each with its row of `rows` at this dynamic offset.
    pub(crate) fn record(
        &self,
        rows: &wgpu::BindGroup,
        offset: impl Fn(usize) -> u32,
        pass: &mut wgpu::ComputePass<'_>,
    ) {
        let mut current: Option<&Arc<Kernel>> = None;
        for dispatch in &self.dispatches {
            if !current.is_some_and(|kernel| Arc::ptr_eq(kernel, &dispatch.kernel)) {
                pass.set_pipeline(&dispatch.kernel.pipeline);
                current = Some(&dispatch.kernel);
            }
            pass.set_bind_group(0, rows, &[offset(dispatch.row)]);
            pass.set_bind_group(1, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(dispatch.workgroups, 1, 1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.dispatches.len()
    }
}
