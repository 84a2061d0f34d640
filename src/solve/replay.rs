//! Dispatches that are made once and recorded many times.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::passes::Pass;
use crate::gpu::recording::{Dispatch, Group, Inputs, record};

/// Bytes from one dispatch's arguments to the next one's: the strictest alignment that a device may demand.
pub(super) const STRIDE: usize = 256;
/// The most turns of all loops of a thread in a dispatch: a quarter of the 65,535 turns after which Mesa's llvmpipe
/// leaves loops (`LP_MAX_TGSI_LOOP_ITERATIONS`). It does so without an error, and the results are wrong.
pub(super) const TURNS: usize = 16_384;
/// The most words of arguments.
const WORDS: usize = 12;

/// A dispatch: what it runs and binds, its arguments, its workgroups.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) kernel: Arc<Pass>,
    pub(super) group: wgpu::BindGroup,
    pub(super) arguments: Vec<u32>,
    pub(super) workgroups: [usize; 3],
}

/// Calls with their arguments on the device.
#[derive(Debug)]
pub(super) struct Replay {
    arguments: wgpu::BindGroup,
    dispatches: Vec<Dispatch>,
}

/// A bind group of `words` words of arguments, at a dynamic offset into `all`.
pub(super) fn argument_group(gpu: &Gpu, all: &wgpu::Buffer, words: usize) -> wgpu::BindGroup {
    let one = wgpu::BufferBinding { buffer: all, offset: 0, size: wgpu::BufferSize::new(4 * words as u64) };
    gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("wgpu-optim solver arguments"),
        layout: &crate::gpu::kernel::coefficients_layout(gpu.device()),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
    })
}

impl Replay {
    pub(super) fn new(gpu: &Gpu, calls: Vec<Call>) -> Result<Self> {
        let available = gpu.device().limits().max_compute_workgroups_per_dimension.into();
        let needed = calls.iter().flat_map(|call| call.workgroups).max().unwrap_or_default() as u64;
        if needed > available {
            let limit = "max_compute_workgroups_per_dimension";
            return Err(Error::OverLimit { name: "a solver's dispatch".into(), limit, needed, available });
        }
        let mut words = vec![0u32; calls.len().max(1) * STRIDE / 4];
        for (to, call) in words.chunks_mut(STRIDE / 4).zip(&calls) {
            to[..call.arguments.len()].copy_from_slice(&call.arguments);
        }
        let arguments = gpu.scoped("a solver's arguments", || {
            let usage = wgpu::BufferUsages::UNIFORM;
            let all = gpu.buffer_of("wgpu-optim solver arguments", bytemuck::cast_slice(&words), usage);
            argument_group(gpu, &all, WORDS)
        })?;
        let dispatch = |(k, Call { kernel, group, workgroups, .. })| {
            let groups = vec![Group::Coefficients(k), Group::Bound(group)];
            Dispatch { kernel, groups, workgroups: workgroups.map(|count| count as u32) }
        };
        Ok(Self { arguments, dispatches: calls.into_iter().enumerate().map(dispatch).collect() })
    }

    pub(super) fn encode(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        record(&self.dispatches, Inputs { step: None, coefficients: (&self.arguments, STRIDE as u32) }, &mut pass);
    }
}
