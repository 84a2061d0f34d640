//! Dispatches that stay the same: made once, recorded as often as they are wanted.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::passes::Pass;

/// Bytes from row to row: the strictest alignment that a device may demand.
pub(super) const STRIDE: usize = 256;
/// Turns that all loops of a thread may have in a dispatch, a quarter of the 65,535 after which Mesa's llvmpipe leaves
/// them (`LP_MAX_TGSI_LOOP_ITERATIONS`): nobody would see that the results are wrong.
pub(super) const TURNS: usize = 16_384;
/// The most words of a row.
const WORDS: usize = 12;

/// A dispatch: what it runs and binds, its row, its workgroups.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) pass: Arc<Pass>,
    pub(super) group: wgpu::BindGroup,
    pub(super) row: Vec<u32>,
    pub(super) workgroups: [usize; 3],
}

#[derive(Debug)]
pub(super) struct Program {
    rows: wgpu::BindGroup,
    ops: Vec<Op>,
}

/// A row of so many words, at a dynamic offset into these.
pub(super) fn row_group(gpu: &Gpu, rows: &wgpu::Buffer, words: usize) -> wgpu::BindGroup {
    let one = wgpu::BufferBinding { buffer: rows, offset: 0, size: wgpu::BufferSize::new(4 * words as u64) };
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("wgpu-optim solver row"),
        layout: &crate::gpu::kernel::row_layout(gpu.device()),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
    })
}

impl Program {
    pub(super) fn new(gpu: &Gpu, ops: Vec<Op>) -> Result<Self> {
        let available = gpu.device().limits().max_compute_workgroups_per_dimension.into();
        let needed = ops.iter().flat_map(|op| op.workgroups).max().unwrap_or_default() as u64;
        if needed > available {
            let limit = "max_compute_workgroups_per_dimension";
            return Err(Error::OverLimit { name: "a solver's dispatch".into(), limit, needed, available });
        }
        let mut words = vec![0u32; ops.len().max(1) * STRIDE / 4];
        for (to, op) in words.chunks_mut(STRIDE / 4).zip(&ops) {
            to[..op.row.len()].copy_from_slice(&op.row);
        }
        let rows = gpu.scoped("a solver's rows", || {
            let usage = wgpu::BufferUsages::UNIFORM;
            let rows = gpu.buffer_of("wgpu-optim solver rows", bytemuck::cast_slice(&words), usage);
            row_group(gpu, &rows, WORDS)
        })?;
        Ok(Self { rows, ops })
    }

    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (k, op) in self.ops.iter().enumerate() {
            pass.set_pipeline(&op.pass.pipeline);
            pass.set_bind_group(0, &self.rows, &[(k * STRIDE) as u32]);
            pass.set_bind_group(1, &op.group, &[]);
            let [x, y, z] = op.workgroups.map(|count| count as u32);
            pass.dispatch_workgroups(x, y, z);
        }
    }
}
