//! Dispatches that are recorded, submitted together, and followed by one read-back.

use std::sync::Arc;

use super::replay::{STRIDE, argument_group};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::own::OwnBuffer;
use crate::gpu::passes::Pass;
use crate::gpu::recording::{Dispatch, Group, Inputs, record};

/// The most dispatches of a submission.
const MOST: usize = 1024;
/// Words that a dispatch has for arguments.
pub(super) const WORDS: usize = 8;

#[derive(Debug)]
pub(super) struct Dispatcher {
    pub(super) gpu: Gpu,
    buffer: OwnBuffer,
    arguments: wgpu::BindGroup,
    words: Vec<u8>,
    /// Dispatches that are not in a compute pass yet.
    dispatches: Vec<Dispatch>,
    encoder: Option<wgpu::CommandEncoder>,
    staging: OwnBuffer,
    /// The error of an earlier submission. The next read-back reports it.
    failed: Option<Error>,
}

impl Dispatcher {
    /// With room to read this many numbers back.
    pub(super) fn new(gpu: &Gpu, most: usize) -> Result<Self> {
        let (buffer, staging, arguments) = gpu.scoped("a solver's buffers", || {
            let buffer = |label, size: usize, usage| {
                let size = size as u64;
                OwnBuffer::new(gpu.device().create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: usage | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }))
            };
            let words = buffer("wgpu-optim solver arguments", MOST * STRIDE, wgpu::BufferUsages::UNIFORM);
            let staging = buffer("wgpu-optim solver read-back", 4 * most.max(1), wgpu::BufferUsages::MAP_READ);
            let group = argument_group(gpu, &words, WORDS);
            (words, staging, group)
        })?;
        let (words, dispatches) = (Vec::new(), Vec::new());
        Ok(Self { gpu: gpu.clone(), buffer, arguments, words, dispatches, encoder: None, staging, failed: None })
    }

    /// Records a dispatch; its arguments are group 0.
    pub(super) fn push(
        &mut self,
        kernel: &Arc<Pass>,
        group: &wgpu::BindGroup,
        arguments: [u32; WORDS],
        [x, y]: [u32; 2],
    ) {
        if self.words.len() == MOST * STRIDE {
            let submitted = self.submit();
            self.failed = self.failed.take().or(submitted.err());
        }
        let at = self.words.len();
        self.words.extend_from_slice(bytemuck::cast_slice(&arguments));
        self.words.resize(at + STRIDE, 0);
        let groups = vec![Group::Coefficients(at / STRIDE), Group::Bound(group.clone())];
        self.dispatches.push(Dispatch { kernel: kernel.clone(), groups, workgroups: [x, y, 1] });
    }

    /// The encoder, after all dispatches so far are recorded into it.
    pub(super) fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        let encoder = self.encoder.get_or_insert_with(|| {
            // If there is no memory for it, the submission says so.
            let _no_panic = self.gpu.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            self.gpu.encoder()
        });
        if !self.dispatches.is_empty() {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            record(&self.dispatches, Inputs { step: None, coefficients: (&self.arguments, STRIDE as u32) }, &mut pass);
            drop(pass);
            self.dispatches.clear();
        }
        encoder
    }

    /// Forgets what is recorded and not submitted.
    pub(super) fn discard(&mut self) {
        self.encoder = None;
        self.dispatches.clear();
        self.words.clear();
    }

    fn submit(&mut self) -> Result<Option<wgpu::SubmissionIndex>> {
        self.encoder();
        let Some(encoder) = self.encoder.take() else { return Ok(None) };
        let words = std::mem::take(&mut self.words);
        self.gpu.scoped("a solver's step", || {
            if !words.is_empty() {
                self.gpu.queue().write_buffer(&self.buffer, 0, &words);
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
