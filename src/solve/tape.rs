//! Dispatches that are recorded, submitted together, and followed by one read-back.

use std::sync::Arc;

use super::program::{STRIDE, row_group};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::passes::Pass;

/// Rows of a submission.
const ROWS: usize = 1024;
/// The words of a row.
pub(super) const WORDS: usize = 8;

/// A dispatch that waits for its pass.
#[derive(Debug)]
struct Op {
    pass: Arc<Pass>,
    group: wgpu::BindGroup,
    row: u32,
    workgroups: (u32, u32),
}

#[derive(Debug)]
pub(super) struct Tape {
    pub(super) gpu: Gpu,
    rows: wgpu::Buffer,
    row_group: wgpu::BindGroup,
    words: Vec<u8>,
    ops: Vec<Op>,
    encoder: Option<wgpu::CommandEncoder>,
    staging: wgpu::Buffer,
    /// What is wrong with what is submitted already, for the next read-back to report.
    failed: Option<Error>,
}

impl Tape {
    /// With room to read this many numbers back.
    pub(super) fn new(gpu: &Gpu, most: usize) -> Result<Self> {
        let (rows, staging, row_group) = gpu.scoped("a solver's buffers", || {
            let buffer = |label, size: usize, usage| {
                let size = size as u64;
                gpu.device().create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: usage | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            let rows = buffer("wgpu-optim solver rows", ROWS * STRIDE, wgpu::BufferUsages::UNIFORM);
            let staging = buffer("wgpu-optim solver read-back", 4 * most.max(1), wgpu::BufferUsages::MAP_READ);
            let group = row_group(gpu, &rows, WORDS);
            (rows, staging, group)
        })?;
        let (words, ops) = (Vec::new(), Vec::new());
        Ok(Self { gpu: gpu.clone(), rows, row_group, words, ops, encoder: None, staging, failed: None })
    }

    /// Records a dispatch; its row is group 0.
    pub(super) fn push(
        &mut self,
        pass: &Arc<Pass>,
        group: &wgpu::BindGroup,
        row: [u32; WORDS],
        workgroups: (u32, u32),
    ) {
        if self.words.len() == ROWS * STRIDE {
            let submitted = self.submit();
            self.failed = self.failed.take().or(submitted.err());
        }
        let row_at = self.words.len() as u32;
        self.words.extend_from_slice(bytemuck::cast_slice(&row));
        self.words.resize(row_at as usize + STRIDE, 0);
        self.ops.push(Op { pass: pass.clone(), group: group.clone(), row: row_at, workgroups });
    }

    /// The encoder, with all that is recorded so far in it.
    pub(super) fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let encoder = self.encoder.get_or_insert_with(|| {
            // If there is no memory for it, the submission says so.
            let _no_panic = self.gpu.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            self.gpu.encoder()
        });
        if !self.ops.is_empty() {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for op in self.ops.drain(..) {
                pass.set_pipeline(&op.pass.pipeline);
                pass.set_bind_group(0, &self.row_group, &[op.row]);
                pass.set_bind_group(1, &op.group, &[]);
                pass.dispatch_workgroups(op.workgroups.0, op.workgroups.1, 1);
            }
        }
        encoder
    }

    /// Forgets what is recorded and not submitted.
    pub(super) fn discard(&mut self) {
        self.encoder = None;
        self.ops.clear();
        self.words.clear();
    }

    fn submit(&mut self) -> Result<Option<wgpu::SubmissionIndex>> {
        self.encoder();
        let Some(encoder) = self.encoder.take() else { return Ok(None) };
        let words = std::mem::take(&mut self.words);
        self.gpu.scoped("a solver's step", || {
            if !words.is_empty() {
                self.gpu.queue().write_buffer(&self.rows, 0, &words);
            }
            Some(self.gpu.queue().submit([encoder.finish()]))
        })
    }

    /// Submits, and reads these ranges back one behind the other.
    pub(super) async fn fetch(&mut self, ranges: &[BufferRange]) -> Result<Vec<f32>> {
        let size = ranges.iter().map(BufferRange::size).sum::<u64>();
        let staging = self.staging.clone();
        let encoder = self.encoder();
        let mut at = 0;
        for range in ranges {
            encoder.copy_buffer_to_buffer(&range.buffer, range.offset, &staging, at, range.size());
            at += range.size();
        }
        let submitted = self.submit()?;
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        let Some(submission) = submitted.filter(|_| size > 0) else { return Ok(Vec::new()) };
        let (sender, mapped) = futures_channel::oneshot::channel();
        let map = || staging.map_async(wgpu::MapMode::Read, ..size, move |result| _ = sender.send(result));
        self.gpu.scoped("a solver's read-back", map)?;
        self.gpu.mapped(&submission, mapped).await?;
        let found = self.gpu.scoped("a solver's read-back", || {
            let found = staging.get_mapped_range(..size).map(|view| bytemuck::pod_collect_to_vec(&view));
            staging.unmap();
            found
        })?;
        found.map_err(|e| Error::ReadBack { name: "a solver's numbers".into(), reason: e.to_string() })
    }
}
