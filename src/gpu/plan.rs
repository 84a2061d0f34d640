//! What a step dispatches: made once, replayed until a parameter, a gradient or a group changes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::Gpu;
use super::kernel::{GradientAccess, KernelKey, Lane, WORKGROUP};
use super::memory::{ALIGN, BufferRange};
use super::norm::{Measured, Preparation, Tiled, Trust};
use super::passes::Pass;
use super::pool::{Padding, Pool, pools};
use super::tiles::{Batch, Part, Tiles};
use super::units::Units;
use crate::error::Result;

/// Bind groups by what they bind; the flags are a gradient bound read-only, and all of it.
pub(crate) type BindGroups = HashMap<(Vec<BufferRange>, [bool; 2]), wgpu::BindGroup>;

/// The dispatches of one step, in order.
#[derive(Debug)]
pub(crate) struct Plan {
    dispatches: Vec<Dispatch>,
    /// Who takes part, in order, and in which row.
    pub(crate) members: Vec<(u64, usize)>,
    /// A member of each row's cohort.
    pub(crate) rows: Vec<u64>,
    /// The partial results of each group's gradients.
    pub(crate) spans: HashMap<usize, Span>,
    /// What comes before the updates, where the device decides about the step.
    pub(crate) preparation: Option<Preparation>,
    /// What comes before that.
    pub(crate) units: Option<Units>,
    tiles: Tiles,
    measures: Vec<Tiled>,
}

#[derive(Debug)]
struct Dispatch {
    kernel: Arc<Pass>,
    ranges: wgpu::BindGroup,
    workgroups: [u32; 2],
    place: Place,
}

/// Partial results that lie behind each other, and the elements that they measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) len: usize,
}

/// Where a dispatch finds its coefficients.
#[derive(Debug)]
enum Place {
    /// In this row.
    Row(usize),
    /// In the rows of these tiles.
    Tiles(Batch),
    /// The same, bound.
    Bound(wgpu::BindGroup),
    /// In this row, for all of these tiles.
    Pool(usize, Batch),
    /// The same, bound.
    BoundPool(usize, wgpu::BindGroup),
}

/// Tensors that lie behind each other in each of some buffers.
#[derive(Debug)]
pub(crate) struct Run {
    /// Parameter, gradient, states.
    pub(crate) ranges: Vec<BufferRange>,
    pub(crate) access: GradientAccess,
    pub(crate) parts: Vec<Part>,
    /// Each part has its own row; otherwise all have the first one's.
    pub(crate) tiled: bool,
    /// In the arena, where padding belongs to a tensor.
    pub(crate) owned: bool,
}

impl Run {
    /// Its tensors. Where padding counts and all have one row, they are one.
    pub(crate) fn tensors(&self, padding: Padding) -> impl Iterator<Item = Part> + '_ {
        let all = self.parts.first().filter(|_| padding == Padding::With && !self.tiled);
        let len = self.ranges.first().map_or(0, |range| range.len as u64);
        let joined = all.map(|first| Part { padded: len, len, ..*first });
        let apart = if joined.is_some() { &[][..] } else { &self.parts };
        joined.into_iter().chain(apart.iter().copied())
    }
}

impl Plan {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        Self {
            dispatches: Vec::new(),
            members: Vec::new(),
            rows: Vec::new(),
            spans: HashMap::new(),
            preparation: None,
            units: None,
            tiles: Tiles::new(gpu),
            measures: Vec::new(),
        }
    }

    /// Partial results of a tensor of this many elements.
    pub(crate) fn results(&self, len: usize) -> u32 {
        self.tiles.results(len as u64)
    }

    /// Adds the dispatches that update one run.
    ///
    /// The run is cut where a binding or a dispatch would exceed the device's limits. Elements behind the last whole
    /// four have a dispatch of their own, so that nothing beside the ranges is touched.
    pub(crate) fn add_run(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: impl Fn(Lane) -> KernelKey,
        run: &Run,
    ) -> Result<()> {
        let (Some(len), Some(first)) = (run.ranges.first().map(|range| range.len as u64), run.parts.first()) else {
            return Ok(());
        };
        let limits = gpu.device().limits();
        let most = limits.max_compute_workgroups_per_dimension;
        let bound = limits.max_storage_buffer_binding_size / 4;
        let dispatched = if run.tiled { u64::MAX } else { u64::from(most) * WORKGROUP * 4 };
        let window = (bound.min(dispatched) / ALIGN * ALIGN).max(ALIGN);
        let whole = len / 4 * 4;
        for start in (0..whole).step_by(window as usize) {
            let elements = start..whole.min(start + window);
            let (kernel, ranges) = bind(gpu, bind_groups, key(Lane::Four), run, elements.clone())?;
            if run.tiled {
                self.add_tiles(run, &kernel, &ranges, elements, 4, most);
            } else {
                let workgroups = ((elements.end - elements.start) / 4).div_ceil(WORKGROUP) as u32;
                self.dispatches.push(Dispatch {
                    kernel,
                    ranges,
                    workgroups: [workgroups, 1],
                    place: Place::Row(first.row),
                });
            }
        }
        if whole < len {
            let start = whole / ALIGN * ALIGN;
            let (kernel, ranges) = bind(gpu, bind_groups, key(Lane::Tail), run, start..len)?;
            if run.tiled {
                self.add_tail(run, &kernel, &ranges, start, whole..len);
            } else {
                self.dispatches.push(Dispatch { kernel, ranges, workgroups: [1, 1], place: Place::Row(first.row) });
            }
        }
        Ok(())
    }

    fn add_tiles(
        &mut self,
        run: &Run,
        kernel: &Arc<Pass>,
        ranges: &wgpu::BindGroup,
        window: Range<u64>,
        width: u64,
        most: u32,
    ) {
        let mut batches = Vec::new();
        for part in &run.parts {
            let piece = part.start.max(window.start)..(part.start + part.padded).min(window.end);
            if piece.is_empty() {
                continue;
            }
            let before = piece.start - part.start;
            let end = piece.start + (piece.end - piece.start) / width * width;
            self.tiles.cut(
                &mut batches,
                most,
                piece.start - window.start..end - window.start,
                width,
                |tile, offset| {
                    tile.row = part.row as u32;
                    (tile.first, tile.limit) = (((before + offset) / width) as u32, part.len as u32);
                },
            );
        }
        self.push_batches(kernel, ranges, batches);
    }

    /// The elements behind the last whole four of a run of one tensor.
    fn add_tail(&mut self, run: &Run, kernel: &Arc<Pass>, ranges: &wgpu::BindGroup, bound: u64, elements: Range<u64>) {
        let (mut batches, part) = (Vec::new(), run.parts[0]);
        self.tiles.cut(&mut batches, 1, elements.start - bound..elements.end - bound, 1, |tile, _| {
            tile.row = part.row as u32;
            (tile.first, tile.limit) = (elements.start as u32, part.len as u32);
        });
        self.push_batches(kernel, ranges, batches);
    }

    fn push_batches(&mut self, kernel: &Arc<Pass>, ranges: &wgpu::BindGroup, batches: Vec<Batch>) {
        self.dispatches.extend(batches.into_iter().map(|batch| Dispatch {
            kernel: kernel.clone(),
            ranges: ranges.clone(),
            workgroups: batch.workgroups(),
            place: Place::Tiles(batch),
        }));
    }

    /// Adds the dispatches that update runs anywhere in the same or in different buffers.
    pub(crate) fn add_pools<'a>(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: impl Fn(Lane) -> KernelKey,
        access: GradientAccess,
        runs: impl IntoIterator<Item = &'a Run>,
    ) -> Result<()> {
        let most = gpu.device().limits().max_compute_workgroups_per_dimension;
        let tile = self.tiles.size;
        for pool in pools(gpu, runs, access != GradientAccess::None, 4, tile, Padding::With) {
            let lane = if pool.width == 4 { Lane::Four } else { Lane::Tail };
            let key = key(lane).pooled(pool.bindings.clone());
            let tiled = key.tiled();
            let (kernel, ranges) = bind_windows(gpu, bind_groups, key, access, &pool.windows)?;
            for batch in self.cut_pool(&pool, most) {
                let (kernel, ranges, row) = (kernel.clone(), ranges.clone(), pool.pieces[0].row);
                let place = if tiled { Place::Tiles(batch) } else { Place::Pool(row, batch) };
                self.dispatches.push(Dispatch { kernel, ranges, workgroups: batch.workgroups(), place });
            }
        }
        Ok(())
    }

    fn cut_pool(&mut self, pool: &Pool, most: u32) -> Vec<Batch> {
        let (mut batches, width, size) = (Vec::new(), pool.width, self.tiles.size);
        for piece in &pool.pieces {
            let start = piece.starts[0];
            self.tiles.cut(&mut batches, most, start..start + piece.len / width * width, width, |tile, offset| {
                [tile.start, tile.grad, tile.state] = piece.starts.map(|start| ((start + offset) / width) as u32);
                (tile.row, tile.out) = (piece.row as u32, piece.out + (offset / size) as u32);
                (tile.first, tile.limit) = (((piece.first + offset) / width) as u32, piece.limit as u32);
            });
        }
        batches
    }

    /// Adds the dispatches that measure one run for a norm-based rule: parameter, gradient, and the states that it
    /// measures.
    pub(crate) fn add_measure(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: impl Fn() -> KernelKey,
        run: &Run,
    ) -> Result<()> {
        let Some(len) = run.ranges.first().map(|range| range.len as u64) else { return Ok(()) };
        let limits = gpu.device().limits();
        let most = limits.max_compute_workgroups_per_dimension;
        let window = (limits.max_storage_buffer_binding_size / 4 / ALIGN * ALIGN).max(ALIGN);
        let size = self.tiles.size;
        // Windows start where a tile does, so that none is cut.
        let mut windows = Vec::<(Range<u64>, Vec<Batch>)>::new();
        for part in &run.parts {
            let mut first = 0;
            while first < part.len {
                let start = part.start + first;
                if windows.last().is_none_or(|(window, _)| start + size.min(part.len - first) > window.end) {
                    windows.push((start..len.min(start + window), Vec::new()));
                }
                let Some((window, batches)) = windows.last_mut() else { break };
                let (left, room) = (part.len - first, window.end - start);
                let taken = if left <= room { left } else { (room / size * size).max(1) };
                let piece = start - window.start..start - window.start + taken;
                self.tiles.cut(batches, most, piece, 1, |tile, offset| {
                    (tile.row, tile.out) = (part.row as u32, part.out + ((first + offset) / size) as u32);
                    (tile.first, tile.limit) = ((first + offset) as u32, part.len as u32);
                });
                first += taken;
            }
        }
        for (elements, batches) in windows {
            let (kernel, ranges) = bind(gpu, bind_groups, key(), run, elements)?;
            let tiled = |batch| Tiled { kernel: kernel.clone(), ranges: ranges.clone(), batch };
            self.measures.extend(batches.into_iter().map(tiled));
        }
        Ok(())
    }

    /// [`Plan::add_measure`] of runs anywhere in buffers.
    pub(crate) fn add_pooled_measures<'a>(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        key: impl Fn() -> KernelKey,
        runs: impl IntoIterator<Item = &'a Run>,
    ) -> Result<()> {
        let most = gpu.device().limits().max_compute_workgroups_per_dimension;
        for pool in pools(gpu, runs, true, 1, self.tiles.size, Padding::Without) {
            let key = key().pooled(pool.bindings.clone());
            let (kernel, ranges) = bind_windows(gpu, bind_groups, key, GradientAccess::Read, &pool.windows)?;
            let tiled = |batch| Tiled { kernel: kernel.clone(), ranges: ranges.clone(), batch };
            let batches = self.cut_pool(&pool, most);
            self.measures.extend(batches.into_iter().map(tiled));
        }
        Ok(())
    }

    /// Completes a plan without decisions: the table of its pools.
    pub(crate) fn finish(&mut self, gpu: &Gpu) -> Result<()> {
        if !self.tiles.tiles.is_empty() {
            let table = gpu.scoped("a plan's table", || self.tiles.buffer(gpu))?;
            self.tiles.tiles = Vec::new();
            self.bind_pools(gpu, &table)?;
        }
        Ok(())
    }

    fn bind_pools(&mut self, gpu: &Gpu, table: &wgpu::Buffer) -> Result<()> {
        for dispatch in &mut self.dispatches {
            if let Place::Pool(row, batch) = dispatch.place {
                let bind = || dispatch.kernel.bind(gpu, 2, &[batch.binding(table)]);
                dispatch.place = Place::BoundPool(row, gpu.scoped("a bind group", bind)?);
            }
        }
        Ok(())
    }

    /// Completes a plan of steps about which the device decides, with this many partial results. `norm` is the kind of
    /// norm, and whether elements that are not finite count as 0.
    pub(crate) fn prepare(
        &mut self,
        gpu: &Gpu,
        control: &wgpu::Buffer,
        norm: (u32, bool),
        measured: &[Measured],
        trusts: &[Trust],
        results: u32,
    ) -> Result<()> {
        let measures = std::mem::take(&mut self.measures);
        let tiles = &mut self.tiles;
        let preparation =
            Preparation::new(gpu, control, self.rows.len(), norm, measured, tiles, measures, trusts, results)?;
        self.tiles.tiles = Vec::new();
        for dispatch in &mut self.dispatches {
            if let Place::Tiles(batch) = dispatch.place {
                dispatch.place = Place::Bound(preparation.bind(gpu, &dispatch.kernel, batch)?);
            }
        }
        self.bind_pools(gpu, &preparation.tiles)?;
        self.preparation = Some(preparation);
        Ok(())
    }

    /// Records the updates, each with its row of `rows` at this dynamic offset.
    pub(crate) fn record(
        &self,
        rows: &wgpu::BindGroup,
        offset: impl Fn(usize) -> u32,
        pass: &mut wgpu::ComputePass<'_>,
    ) {
        let mut current: Option<&Arc<Pass>> = None;
        for dispatch in &self.dispatches {
            if !current.is_some_and(|kernel| Arc::ptr_eq(kernel, &dispatch.kernel)) {
                pass.set_pipeline(&dispatch.kernel.pipeline);
                current = Some(&dispatch.kernel);
            }
            match &dispatch.place {
                Place::Row(row) => pass.set_bind_group(0, rows, &[offset(*row)]),
                Place::Bound(tables) => pass.set_bind_group(0, tables, &[]),
                Place::BoundPool(row, table) => {
                    pass.set_bind_group(0, rows, &[offset(*row)]);
                    pass.set_bind_group(2, table, &[]);
                }
                Place::Tiles(_) | Place::Pool(..) => continue,
            }
            pass.set_bind_group(1, &dispatch.ranges, &[]);
            let [x, y] = dispatch.workgroups;
            pass.dispatch_workgroups(x, y, 1);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.dispatches.is_empty()
    }

    /// Dispatches of the updates.
    pub(crate) fn len(&self) -> usize {
        self.dispatches.len()
    }
}

/// The kernel, and these elements of each range bound for it.
fn bind(
    gpu: &Gpu,
    bind_groups: &mut BindGroups,
    key: KernelKey,
    run: &Run,
    elements: Range<u64>,
) -> Result<(Arc<Pass>, wgpu::BindGroup)> {
    let len = (elements.end - elements.start) as usize;
    let cut = |range: &BufferRange| BufferRange::new(&range.buffer, range.offset + 4 * elements.start, len);
    let ranges: Vec<_> = run.ranges.iter().map(cut).collect();
    bind_windows(gpu, bind_groups, key, run.access, &ranges)
}

/// The kernel, and what it binds in group 1.
fn bind_windows(
    gpu: &Gpu,
    bind_groups: &mut BindGroups,
    key: KernelKey,
    access: GradientAccess,
    ranges: &[BufferRange],
) -> Result<(Arc<Pass>, wgpu::BindGroup)> {
    let (measures, kernel) = (key.measures(), gpu.kernel(key)?);
    let key = (ranges.to_vec(), [access == GradientAccess::Read, measures]);
    let bind_group = match bind_groups.get(&key) {
        Some(bind_group) => bind_group.clone(),
        None => {
            let resources: Vec<_> = key.0.iter().map(BufferRange::binding).collect();
            let bind_group = gpu.scoped("a bind group", || kernel.bind(gpu, 1, &resources))?;
            bind_groups.insert(key, bind_group.clone());
            bind_group
        }
    };
    Ok((kernel, bind_group))
}
