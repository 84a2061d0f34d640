//! Where a parameter's numbers are: in ranges of the caller's buffers, or of our arena.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::formats::{BLOCK, Format};

/// Bytes. The strictest alignment that a device may demand of what is bound.
pub(super) const STRICTEST: u64 = 256;
/// Elements, of any format: at least [`STRICTEST`] bytes.
pub(crate) const ALIGN: u64 = STRICTEST / Format::SMALLEST;
/// What kernels read as gradients.
const GRADIENTS: &[Format] = &[Format::F32, Format::F16, Format::Bf16];

/// `len` consecutive numbers of a buffer, from a byte offset on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufferRange {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// Where the range starts, in bytes.
    pub offset: u64,
    /// How many elements it has.
    pub len: usize,
    /// How its elements are stored.
    pub format: Format,
}

/// Finds two uses of memory that overlap, at least one of which writes. Returns their indices. A use is a range, and
/// whether it is written.
pub(crate) fn conflict(uses: &[(&BufferRange, bool)]) -> Option<(usize, usize)> {
    let mut order: Vec<_> = (0..uses.len()).filter(|&k| uses[k].0.len > 0).collect();
    order.sort_by(|&a, &b| (&uses[a].0.buffer, uses[a].0.offset).cmp(&(&uses[b].0.buffer, uses[b].0.offset)));
    // Of the uses before this one in the same buffer: the read that ends last, and the write that ends last.
    let mut furthest: [Option<usize>; 2] = [None; 2];
    for k in order {
        let (range, written) = uses[k];
        for (before, is_written) in furthest.iter().zip([false, true]) {
            if let Some(before) = before.filter(|&before| (written || is_written) && uses[before].0.overlaps(range)) {
                return Some((before, k));
            }
        }
        let reaches = |other: usize| uses[other].0.buffer == range.buffer && uses[other].0.end() > range.end();
        let of_kind = &mut furthest[usize::from(written)];
        *of_kind = of_kind.filter(|&other| reaches(other)).or(Some(k));
    }
    None
}

impl BufferRange {
    /// `len` elements of `f32` from byte `offset` on.
    pub fn new(buffer: &wgpu::Buffer, offset: u64, len: usize) -> Self {
        Self::of(buffer, offset, len, Format::F32)
    }

    /// `len` elements of this format from byte `offset` on. A range of an odd number of 16-bit elements owns its last
    /// word: writing the range and clearing it set the other half to 0.
    pub fn of(buffer: &wgpu::Buffer, offset: u64, len: usize, format: Format) -> Self {
        Self { buffer: buffer.clone(), offset, len, format }
    }

    /// The whole buffer, as `f32`.
    pub fn whole(buffer: &wgpu::Buffer) -> Self {
        Self::new(buffer, 0, (buffer.size() / Format::F32.size()) as usize)
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        (self.len as u64).saturating_mul(self.format.size())
    }

    /// Where the range ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size())
    }

    /// Bytes of the words that it lies in.
    pub(crate) fn words(&self) -> u64 {
        self.size().next_multiple_of(4)
    }

    /// The range as a resource of your bind groups.
    pub fn binding(&self) -> wgpu::BindingResource<'_> {
        // An empty range cannot be bound. Its padding can. What is bound has whole words.
        let size = wgpu::BufferSize::new(self.words().max(4));
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size })
    }

    /// As kernels of ours bind it: of blocks all of its buffer, with their largest magnitudes.
    pub(crate) fn bound(&self) -> wgpu::BindingResource<'_> {
        if self.format.is_scaled() { self.buffer.as_entire_binding() } else { self.binding() }
    }

    /// The range extended to the left, so that every device can bind it, and the element at which the original range
    /// starts in it.
    pub(crate) fn aligned(&self) -> (Self, u32) {
        let before = self.offset % STRICTEST / self.format.size();
        let offset = self.offset - self.format.size() * before;
        (Self { offset, len: self.len + before as usize, ..self.clone() }, before as u32)
    }

    /// How many elements of its format lie before it in its buffer.
    pub(crate) fn first(&self) -> u64 {
        self.offset / self.format.size()
    }

    /// How many elements of its format its buffer holds in whole words and blocks.
    pub(crate) fn all(&self) -> u64 {
        self.format.numbers(self.buffer.size())
    }

    /// Of a range of [blocks](Format::is_scaled) in a buffer of the optimizer, which begins with a block: where the
    /// largest magnitude of each block is.
    pub(crate) fn absmax(&self) -> Option<Self> {
        let block = BLOCK as u64;
        let (offset, len) = (self.all() + self.first() / block * 4, self.len.div_ceil(BLOCK));
        self.format.is_scaled().then(|| Self::new(&self.buffer, offset, len))
    }

    /// These elements of it.
    pub(crate) fn part(&self, elements: Range<u64>) -> Self {
        let (offset, len) = (self.offset + self.format.size() * elements.start, elements.end - elements.start);
        Self { offset, len: len as usize, ..self.clone() }
    }

    /// Up to `len` elements of its buffer, from element `first` of the buffer on.
    pub(crate) fn window(&self, first: u64, len: u64) -> Self {
        Self { offset: 0, ..self.clone() }.part(first..first + len.min(self.all() - first))
    }

    /// The smallest range that contains both, which have one format.
    pub(crate) fn around(&self, other: &Self) -> Self {
        let (offset, end) = (self.offset.min(other.offset), self.end().max(other.end()));
        Self { offset, len: ((end - offset) / self.format.size()) as usize, ..self.clone() }
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }

    /// Checks that kernels can work on the range, as on a parameter in this format.
    pub(crate) fn check(&self, name: &str, format: Format) -> Result<()> {
        self.check_as(name, &[format], format.name())
    }

    /// Checks that kernels can read the range as a gradient.
    pub(crate) fn check_gradient(&self, name: &str) -> Result<()> {
        self.check_as(name, GRADIENTS, "f32, f16 or bf16")
    }

    fn check_as(&self, name: &str, formats: &[Format], expected: &'static str) -> Result<()> {
        if !formats.contains(&self.format) {
            let found = self.format.name();
            return Err(Error::ElementType { name: name.into(), expected, found });
        }
        let (usage, found) = (wgpu::BufferUsages::STORAGE, self.buffer.usage());
        if !found.contains(usage) {
            return Err(Error::MissingUsage { name: name.into(), usage, found });
        }
        // WGSL addresses words.
        let end = self.offset.saturating_add(self.words());
        if end > self.buffer.size() {
            return Err(Error::OutOfBounds { name: name.into(), end, size: self.buffer.size() });
        }
        let alignment = self.format.size().max(4);
        if !self.offset.is_multiple_of(alignment) {
            return Err(Error::Misaligned { name: name.into(), offset: self.offset, alignment });
        }
        Ok(())
    }

    pub(crate) fn check_usage(&self, name: &str, usage: wgpu::BufferUsages) -> Result<()> {
        let found = self.buffer.usage();
        if found.contains(usage) { Ok(()) } else { Err(Error::MissingUsage { name: name.into(), usage, found }) }
    }
}

/// A part of a chunk of an arena: the same elements in each of its buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Allocation {
    pub(crate) chunk: usize,
    /// In elements, a multiple of the arena's alignment.
    pub(crate) start: u64,
    /// In elements, a multiple of the arena's alignment.
    pub(crate) len: u64,
}

/// One parameter's memory on the GPU.
#[derive(Debug, Default)]
pub(crate) struct Tensor {
    /// Parameter and gradient lie in the group's arena, with padding. Otherwise they lie in the caller's buffers.
    pub(crate) owned: bool,
    /// The group whose arena it lies in: that in which it was added.
    pub(crate) home: usize,
    /// Its states are in blocks: it lies in the arenas for those.
    pub(crate) narrow: bool,
    /// Its allocation in the arena: of parameter, gradient and states, or of the states alone.
    pub(crate) allocation: Allocation,
    /// `None` while it is unbound: see `Optimizer::relocate`.
    pub(crate) parameter: Option<BufferRange>,
    /// What the next step reads.
    pub(crate) gradient: Option<BufferRange>,
    /// The gradient in the arena.
    pub(crate) own_gradient: Option<BufferRange>,
    /// 16 bits beside the parameter: its mirror, or what a parameter in bf16 lacks of f32.
    pub(crate) beside: Option<BufferRange>,
    /// All of its states, in the order of the group's storage.
    pub(crate) states: Vec<BufferRange>,
    /// Where the states of other extents than its elements are: which of the group's arenas, and the allocation in it.
    pub(crate) others: Vec<(usize, Allocation)>,
}

impl Tensor {
    /// Whether the kernel writes to this buffer.
    pub(crate) fn binds(&self, buffer: &wgpu::Buffer) -> bool {
        self.states.iter().chain(&self.parameter).chain(&self.beside).any(|range| range.buffer == *buffer)
    }
}
