//! The block table of a program: which part of which tensor each workgroup has, where its coefficients are and where
//! its results go.

use super::{Gpu, memory};
use crate::formats::Lane;

/// Elements of a block, where a device binds at least twice as many.
const BLOCK: u64 = 4096;
/// Blocks that start a dispatch lie at multiples of this many: 1,280 bytes, five times the strictest alignment.
const ALIGN: usize = 32;

/// `Block` of the shaders.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Block {
    /// Of the parameter: an index of the buffer, from the start of what is bound.
    pub(crate) start: u32,
    /// Of the gradient.
    pub(crate) grad: u32,
    /// Of each state.
    pub(crate) state: u32,
    /// In lanes.
    pub(crate) len: u32,
    /// Its place among the partial results.
    pub(crate) out: u32,
    pub(crate) cohort: u32,
    /// In lanes, from the start of the tensor.
    pub(crate) first: u32,
    /// Elements of the tensor.
    pub(crate) limit: u32,
    /// Of ranges whose buffers are bound whole (see `Run::is_whole`): in lanes of four.
    pub(crate) own: u32,
    /// The hash of the tensor's name.
    pub(crate) tensor: u32,
}

/// `Owner` of shaders/trust.wgsl: the partial norms of a tensor or a group, its cohorts, and the number that is kept
/// for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Owner {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) cohort: u32,
    pub(crate) cohorts: u32,
    pub(crate) kept: u32,
    pub(crate) unused: [u32; 3],
}

/// A tensor within a run of tensors that lie behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// In elements, from the start of the run.
    pub(crate) start: u64,
    /// In elements, with padding.
    pub(crate) padded: u64,
    /// In elements.
    pub(crate) len: u64,
    pub(crate) cohort: usize,
    /// The first of its partial results.
    pub(crate) out: u32,
    /// The hash of its name.
    pub(crate) tensor: u32,
}

/// The blocks of a program in the making.
#[derive(Debug)]
pub(crate) struct BlockTable {
    pub(crate) blocks: Vec<Block>,
    /// Elements of a block.
    pub(crate) size: u64,
}

/// Consecutive blocks that one dispatch takes, a workgroup each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    pub(crate) first: usize,
    pub(crate) count: u32,
}

impl Blocks {
    pub(crate) fn binding<'a>(&self, blocks: &'a wgpu::Buffer) -> wgpu::BindingResource<'a> {
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: blocks,
            offset: (self.first * size_of::<Block>()) as u64,
            size: wgpu::BufferSize::new(u64::from(self.count) * size_of::<Block>() as u64),
        })
    }
}

impl BlockTable {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        // Windows that overlap by half hold each block whole.
        let half = gpu.device().limits().max_storage_buffer_binding_size / 8;
        Self { blocks: Vec::new(), size: BLOCK.min(half / memory::ALIGN * memory::ALIGN).max(memory::ALIGN) }
    }

    /// Partial results of a tensor. They depend on its elements alone: blocks are cut from its start, wherever it lies.
    pub(crate) fn results(&self, len: u64) -> u32 {
        len.div_ceil(self.size) as u32
    }

    /// Cuts `part` (elements from the start of what is bound) into blocks of such lanes, and appends them to the batch
    /// or, where it is full, to a new one. `fill` completes each block, given its offset in the part in elements.
    pub(crate) fn cut(
        &mut self,
        batches: &mut Vec<Blocks>,
        most: u32,
        part: std::ops::Range<u64>,
        lane: Lane,
        fill: impl Fn(&mut Block, u64),
    ) {
        for start in (part.start..part.end).step_by(self.size as usize) {
            if batches.last().is_none_or(|batch| batch.count == most) {
                self.blocks.resize(self.blocks.len().next_multiple_of(ALIGN), Block::default());
                batches.push(Blocks { first: self.blocks.len(), count: 0 });
            }
            let len = self.size.min(part.end - start).div_ceil(lane.elements()) as u32;
            let at = lane.index(start);
            let mut block = Block { start: at, grad: at, state: at, len, ..Block::default() };
            fill(&mut block, start - part.start);
            self.blocks.push(block);
            if let Some(batch) = batches.last_mut() {
                batch.count += 1;
            }
        }
    }

    /// The table on the device.
    pub(crate) fn buffer(&self, gpu: &Gpu) -> wgpu::Buffer {
        let none = [Block::default()];
        let blocks = if self.blocks.is_empty() { &none[..] } else { &self.blocks };
        gpu.buffer_of("wgpu-optim blocks", bytemuck::cast_slice(blocks), wgpu::BufferUsages::STORAGE)
    }
}
