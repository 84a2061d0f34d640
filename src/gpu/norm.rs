//! The passes before the update, of one plan: which tiles of which gradients are measured, and where the rows go.

use std::sync::Arc;

use wgpu::util::DeviceExt;

use super::Gpu;
use super::kernel::row_layout;
use super::memory::BufferRange;
use super::passes::Pass;
use super::slots::ROW;
use crate::error::Result;

/// Elements of a tile: one workgroup's.
const TILE: u64 = 4096;
/// Tiles that start a dispatch lie at multiples of this many: 256 bytes.
const TILES_ALIGN: usize = 8;
/// Bytes from row to row.
pub(crate) const ROW_STRIDE: u32 = 256;

/// One gradient, or several behind each other, to be measured for a row.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) range: BufferRange,
    pub(crate) row: usize,
    /// As [`Norm::kind`](crate::Norm).
    pub(crate) kind: u32,
    /// Non-finite elements count as 0.
    pub(crate) zero: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct Tile {
    start: u32,
    len: u32,
    out: u32,
    row: u32,
    kind: u32,
    zero: u32,
    unused: [u32; 2],
}

/// What a controlled plan records before its updates.
#[derive(Debug)]
pub(crate) struct Preparation {
    passes: [Arc<Pass>; 3],
    norms: Vec<(wgpu::BindGroup, u32)>,
    group: wgpu::BindGroup,
    rows: u32,
    /// The rows, for the update to bind one at a dynamic offset.
    pub(crate) row: wgpu::BindGroup,
    pub(crate) partials: u32,
    /// Of each row: its first partial result, and how many.
    pub(crate) ranges: Vec<[u32; 2]>,
}

impl Preparation {
    /// `measured` is in the order of rows.
    pub(crate) fn new(gpu: &Gpu, control: &wgpu::Buffer, rows: usize, measured: &[Measured]) -> Result<Self> {
        let limits = gpu.device().limits();
        let window = limits.max_storage_buffer_binding_size / 256 * 64;
        let most = limits.max_compute_workgroups_per_dimension;
        let (mut tiles, mut dispatches) = (Vec::<Tile>::new(), Vec::<(BufferRange, usize, u32)>::new());
        let (mut partials, mut ranges) = (0, vec![[0, 0]; rows]);
        for part in measured {
            if ranges[part.row][1] == 0 {
                ranges[part.row][0] = partials;
            }
            let (mut at, end) = (part.range.offset / 4, part.range.end() / 4);
            while at < end {
                let base = at / window * window;
                let len = TILE.min(end - at).min(base + window - at);
                let same = |(bound, _, count): &&mut (BufferRange, usize, u32)| {
                    bound.buffer == part.range.buffer && bound.offset == 4 * base && *count < most
                };
                match dispatches.last_mut().filter(same) {
                    Some((_, _, count)) => *count += 1,
                    None => {
                        tiles.resize(tiles.len().next_multiple_of(TILES_ALIGN), Tile::default());
                        let len = window.min(part.range.buffer.size() / 4 - base) as usize;
                        dispatches.push((BufferRange::new(&part.range.buffer, 4 * base, len), tiles.len(), 1));
                    }
                }
                let (row, zero) = (part.row as u32, part.zero.into());
                let (start, len) = ((at - base) as u32, len as u32);
                tiles.push(Tile { start, len, out: partials, row, kind: part.kind, zero, unused: [0; 2] });
                partials += 1;
                ranges[part.row][1] += 1;
                at += u64::from(len);
            }
        }
        if tiles.is_empty() {
            tiles.push(Tile::default());
        }
        let passes = [gpu.norm_pass()?, gpu.prepare_pass()?, gpu.rows_pass()?];
        gpu.scoped("a plan's tables", || {
            let storage = |label, size: u64, usage| {
                let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
                gpu.device().create_buffer(&descriptor)
            };
            let usage = wgpu::BufferUsages::STORAGE;
            let results = storage("wgpu-optim partial norms", 16 * u64::from(partials.max(1)), usage);
            let size = u64::from(ROW_STRIDE) * rows as u64;
            let row_buffer = storage("wgpu-optim rows", size, usage | wgpu::BufferUsages::UNIFORM);
            let table = gpu.device().create_buffer_init(&wgpu::util::BufferInitDescriptor {
                label: Some("wgpu-optim tiles"),
                contents: bytemuck::cast_slice(&tiles),
                usage,
            });
            let bind = |(bound, first, count): &(BufferRange, usize, u32)| {
                let tiles = wgpu::BufferBinding {
                    buffer: &table,
                    offset: (first * size_of::<Tile>()) as u64,
                    size: wgpu::BufferSize::new(u64::from(*count) * size_of::<Tile>() as u64),
                };
                let tiles = wgpu::BindingResource::Buffer(tiles);
                (passes[0].bind(gpu, 0, &[tiles, bound.binding(), results.as_entire_binding()]), *count)
            };
            let norms = dispatches.iter().map(bind).collect();
            let all = [&results, control, &row_buffer].map(wgpu::Buffer::as_entire_binding);
            let group = passes[1].bind(gpu, 1, &all);
            let one = wgpu::BufferBinding { buffer: &row_buffer, offset: 0, size: wgpu::BufferSize::new(ROW) };
            let row = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("wgpu-optim row"),
                layout: &row_layout(gpu.device()),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
            });
            Self { passes, norms, group, rows: rows as u32, row, partials, ranges }
        })
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
        pass.dispatch_workgroups(self.rows, 1, 1);
    }
}
