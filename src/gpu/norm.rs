//! What a controlled plan does before its updates: norms of gradients, the decision, rows, and the ratios of norm-based
//! rules.

use std::sync::Arc;

use super::Gpu;
use super::kernel::row_layout;
use super::memory::{ALIGN, BufferRange};
use super::passes::Pass;
use super::slots::ROW;
use super::tiles::{Batch, Tiles, Unit};
use crate::error::Result;

/// Bytes from row to row.
pub(crate) const ROW_STRIDE: u32 = 256;

/// A gradient to be measured for a row.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) range: BufferRange,
    pub(crate) row: usize,
    /// The first of its partial results.
    pub(crate) out: u32,
}

/// Tiles of gradients by what a dispatch binds, and each row's partial results (of a row with one gradient). No window
/// cuts a tile: each starts where a tile does, or where the one before does.
type Cut = (Vec<(BufferRange, Vec<Batch>)>, Vec<[u32; 2]>);

fn cut(limits: &wgpu::Limits, measured: &[Measured], rows: usize, tiles: &mut Tiles) -> Cut {
    let window = (limits.max_storage_buffer_binding_size / 4 / ALIGN * ALIGN).max(ALIGN);
    let (most, size) = (limits.max_compute_workgroups_per_dimension, tiles.size);
    let (mut dispatches, mut ranges) = (Vec::<(BufferRange, Vec<Batch>)>::new(), vec![[0, 0]; rows]);
    let mut in_place: Vec<_> = measured.iter().collect();
    in_place.sort_by(|a, b| (&a.range.buffer, a.range.offset).cmp(&(&b.range.buffer, b.range.offset)));
    for Measured { range, row, out } in in_place {
        let (start, end) = (range.offset / 4, range.end() / 4);
        ranges[*row] = [*out, tiles.results(end - start)];
        let mut at = start;
        while at < end {
            let reach = 4 * end.min(at + size);
            if dispatches.last().is_none_or(|(bound, _)| bound.buffer != range.buffer || reach > bound.end()) {
                let base = at / ALIGN * ALIGN;
                let len = window.min(range.buffer.size() / 4 - base) as usize;
                dispatches.push((BufferRange::new(&range.buffer, 4 * base, len), Vec::new()));
            }
            let Some((bound, batches)) = dispatches.last_mut() else { break };
            let (base, left, room) = (bound.offset / 4, end - at, bound.end() / 4 - at);
            let taken = if left <= room { left } else { (room / size * size).max(1) };
            tiles.cut(batches, most, at - base..at - base + taken, 1, |tile, offset| {
                (tile.row, tile.out) = (*row as u32, out + ((at - start + offset) / size) as u32);
            });
            at += taken;
        }
    }
    (dispatches, ranges)
}

/// A dispatch over tiles: what it binds beside them.
#[derive(Debug)]
pub(crate) struct Tiled {
    pub(crate) kernel: Arc<Pass>,
    pub(crate) ranges: wgpu::BindGroup,
    pub(crate) batch: Batch,
}

/// Norm-based rules that keep their numbers in one range, or none.
#[derive(Debug)]
pub(crate) struct Trust {
    pub(crate) kernel: Arc<Pass>,
    pub(crate) scalars: Option<BufferRange>,
    pub(crate) units: Vec<Unit>,
}

/// A pass with its groups, and how many workgroups.
type Bound = (Arc<Pass>, Vec<wgpu::BindGroup>, u32);

/// What a controlled plan records before its updates.
#[derive(Debug)]
pub(crate) struct Preparation {
    norms: Vec<(wgpu::BindGroup, u32)>,
    passes: [Arc<Pass>; 3],
    group: wgpu::BindGroup,
    /// Workgroups that pick coefficients, a row each.
    rows: [u32; 2],
    ratios: Vec<Bound>,
    /// The rows, for the update to bind one at a dynamic offset.
    pub(crate) row: wgpu::BindGroup,
    row_buffer: wgpu::Buffer,
    pub(crate) tiles: wgpu::Buffer,
    pub(crate) partials: u32,
    /// Of each row with one gradient: its first partial result, and how many.
    pub(crate) ranges: Vec<[u32; 2]>,
}

impl Preparation {
    /// `kind` is [`Norm::kind`](crate::Norm); with `zero`, non-finite elements count as 0. `results` counts partial
    /// results.
    #[allow(clippy::too_many_arguments, reason = "once called; each is a part of the plan")]
    pub(crate) fn new(
        gpu: &Gpu,
        control: &wgpu::Buffer,
        rows: usize,
        (kind, zero): (u32, bool),
        measured: &[Measured],
        tiles: &mut Tiles,
        measures: Vec<Tiled>,
        trusts: &[Trust],
        results: u32,
    ) -> Result<Self> {
        let limits = gpu.device().limits();
        let most = limits.max_compute_workgroups_per_dimension;
        let (dispatches, ranges) = cut(&limits, measured, rows, tiles);
        let partials = if measured.is_empty() { 0 } else { results };
        let passes = [gpu.norm_pass(kind, zero)?, gpu.prepare_pass()?, gpu.rows_pass()?];
        gpu.scoped("a plan's tables", || {
            let storage = |label, size: u64, usage| {
                let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
                gpu.device().create_buffer(&descriptor)
            };
            let usage = wgpu::BufferUsages::STORAGE;
            let partial_norms = storage("wgpu-optim partial norms", 16 * u64::from(partials.max(1)), usage);
            let size = u64::from(ROW_STRIDE) * rows.max(1) as u64;
            let row_buffer = storage("wgpu-optim rows", size, usage | wgpu::BufferUsages::UNIFORM);
            let tiles = tiles.buffer(gpu);
            let bind = |bound: &BufferRange, batch: &Batch| {
                let resources = [batch.binding(&tiles), bound.binding(), partial_norms.as_entire_binding()];
                (passes[0].bind(gpu, 0, &resources), batch.count)
            };
            let all = dispatches.iter().flat_map(|(bound, batches)| batches.iter().map(move |batch| (bound, batch)));
            let norms = all.map(|(bound, batch)| bind(bound, batch)).collect();
            let all = [&partial_norms, control, &row_buffer].map(wgpu::Buffer::as_entire_binding);
            let group = passes[1].bind(gpu, 1, &all);
            let mut ratios = Vec::<Bound>::new();
            let rule_norms = storage("wgpu-optim norms of rules", 16 * u64::from(results.max(1)), usage);
            for Tiled { kernel, ranges, batch } in measures {
                let tables = [row_buffer.as_entire_binding(), batch.binding(&tiles), rule_norms.as_entire_binding()];
                let tables = kernel.bind(gpu, 0, &tables);
                ratios.push((kernel, vec![tables, ranges], batch.count));
            }
            for Trust { kernel, scalars, units } in trusts {
                let table = gpu.buffer_of("wgpu-optim units", bytemuck::cast_slice(units), usage);
                let mut resources = [&table, &rule_norms, &row_buffer].map(wgpu::Buffer::as_entire_binding).to_vec();
                resources.extend(scalars.as_ref().map(BufferRange::binding));
                ratios.push((kernel.clone(), vec![kernel.bind(gpu, 0, &resources)], units.len() as u32));
            }
            let one = wgpu::BufferBinding { buffer: &row_buffer, offset: 0, size: wgpu::BufferSize::new(ROW) };
            let row = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("wgpu-optim row"),
                layout: &row_layout(gpu.device()),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
            });
            Self {
                passes,
                norms,
                group,
                rows: [(rows as u32).min(most), (rows as u32).div_ceil(most)],
                ratios,
                row,
                row_buffer,
                tiles,
                partials,
                ranges,
            }
        })
    }

    /// Rows and tiles of an update: its group 0.
    pub(crate) fn bind(&self, gpu: &Gpu, kernel: &Pass, batch: Batch) -> Result<wgpu::BindGroup> {
        let resources = [self.row_buffer.as_entire_binding(), batch.binding(&self.tiles)];
        gpu.scoped("a bind group", || kernel.bind(gpu, 0, &resources))
    }

    /// Records the passes that lead to the rows.
    pub(crate) fn record(&self, slot: &wgpu::BindGroup, pass: &mut wgpu::ComputePass<'_>) {
        let [norm, prepare, rows] = &self.passes;
        pass.set_pipeline(&norm.pipeline);
        for (group, tiles) in &self.norms {
            pass.set_bind_group(0, group, &[]);
            pass.dispatch_workgroups(*tiles, 1, 1);
        }
        pass.set_pipeline(&prepare.pipeline);
        pass.set_bind_group(0, slot, &[]);
        pass.set_bind_group(1, &self.group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        pass.set_pipeline(&rows.pipeline);
        let [x, y] = self.rows;
        pass.dispatch_workgroups(x, y, 1);
        for (kernel, groups, workgroups) in &self.ratios {
            pass.set_pipeline(&kernel.pipeline);
            for (k, group) in (0..).zip(groups) {
                pass.set_bind_group(k, group, &[]);
            }
            pass.dispatch_workgroups(*workgroups, 1, 1);
        }
    }

    /// Dispatches of these passes.
    pub(crate) fn len(&self) -> usize {
        self.norms.len() + 2 + self.ratios.len()
    }
}
