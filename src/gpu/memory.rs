//! Where a parameter's numbers are: ranges of the caller's buffers, or of our arena.

use std::collections::BTreeMap;

use super::Gpu;
use crate::error::{Error, Result};

/// Tensors of an arena start at multiples of this many elements: 256 bytes, the strictest alignment that a device may demand.
pub(crate) const ALIGN: u64 = 64;
/// The smallest chunk of an arena, in elements.
const MIN_CHUNK: u64 = 1 << 14;

/// `len` consecutive `f32` of a buffer, from a byte offset on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufferRange {
    /// The buffer.
    pub buffer: wgpu::Buffer,
    /// Where the range starts, in bytes.
    pub offset: u64,
    /// How many elements it has.
    pub len: usize,
}

/// Two uses of memory that overlap, one of them a write: their places in the list of ranges, each written or read.
pub(crate) fn conflict(uses: &[(&BufferRange, bool)]) -> Option<(usize, usize)> {
    let mut order: Vec<_> = (0..uses.len()).filter(|&k| uses[k].0.len > 0).collect();
    order.sort_by(|&a, &b| (&uses[a].0.buffer, uses[a].0.offset).cmp(&(&uses[b].0.buffer, uses[b].0.offset)));
    // Of those before in the same buffer, the one that is read and the one that is written furthest.
    let mut furthest: [Option<usize>; 2] = [None; 2];
    for k in order {
        let (range, written) = uses[k];
        for (before, is_written) in furthest.iter().zip([false, true]) {
            if let Some(before) = before.filter(|&before| (written || is_written) && uses[before].0.overlaps(range)) {
                return Some((before, k));
            }
        }
        let reaches = |other: usize| uses[other].0.buffer == range.buffer && uses[other].0.end() > range.end();
        let place = &mut furthest[usize::from(written)];
        *place = place.filter(|&other| reaches(other)).or(Some(k));
    }
    None
}

impl BufferRange {
    /// `len` elements from byte `offset` on.
    pub fn new(buffer: &wgpu::Buffer, offset: u64, len: usize) -> Self {
        Self { buffer: buffer.clone(), offset, len }
    }

    /// The whole buffer.
    pub fn whole(buffer: &wgpu::Buffer) -> Self {
        Self::new(buffer, 0, (buffer.size() / 4) as usize)
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        (self.len as u64).saturating_mul(4)
    }

    /// Where the range ends, in bytes.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.size())
    }

    /// What a caller's bind group binds.
    pub fn binding(&self) -> wgpu::BindingResource<'_> {
        // An empty range cannot be bound: its padding then.
        let size = wgpu::BufferSize::new(self.size().max(4));
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size })
    }

    /// The range from the last place before it at which a device binds, and at which element of that it starts.
    pub(crate) fn aligned(&self) -> (Self, u32) {
        let before = self.offset % (4 * ALIGN) / 4;
        (Self::new(&self.buffer, self.offset - 4 * before, self.len + before as usize), before as u32)
    }

    /// Both, and what lies between them.
    pub(crate) fn around(&self, other: &Self) -> Self {
        let (start, end) = (self.offset.min(other.offset), self.end().max(other.end()));
        Self::new(&self.buffer, start, ((end - start) / 4) as usize)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }

    /// Whether kernels can work on the range.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        let (usage, found) = (wgpu::BufferUsages::STORAGE, self.buffer.usage());
        if !found.contains(usage) {
            return Err(Error::MissingUsage { name: name.into(), usage, found });
        }
        if self.end() > self.buffer.size() {
            return Err(Error::OutOfBounds { name: name.into(), end: self.end(), size: self.buffer.size() });
        }
        if !self.offset.is_multiple_of(4) {
            return Err(Error::Misaligned { name: name.into(), offset: self.offset, alignment: 4 });
        }
        Ok(())
    }

    pub(crate) fn check_usage(&self, name: &str, usage: wgpu::BufferUsages) -> Result<()> {
        let found = self.buffer.usage();
        if found.contains(usage) { Ok(()) } else { Err(Error::MissingUsage { name: name.into(), usage, found }) }
    }
}

fn chunk_buffer(gpu: &Gpu, label: &str, len: u64) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let (label, size) = (Some(label), 4 * len);
    gpu.device().create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
}

/// One parameter's memory on the GPU.
#[derive(Debug)]
pub(crate) struct Tensor {
    /// Parameter and gradient lie in the group's arena, padded; else in the caller's buffers.
    pub(crate) owned: bool,
    /// The group whose arena it lies in: that in which it was added.
    pub(crate) home: usize,
    /// Where its part of the arena is: all of it, or the states alone.
    pub(crate) place: Place,
    /// `None` while it is nowhere: see `Optimizer::place`.
    pub(crate) parameter: Option<BufferRange>,
    /// What the next step reads, if anything.
    pub(crate) gradient: Option<BufferRange>,
    /// The gradient in the arena.
    pub(crate) own_gradient: Option<BufferRange>,
    pub(crate) slots: Vec<BufferRange>,
    /// What a norm-based rule keeps for the tensor.
    pub(crate) scalar: Option<(Place, BufferRange)>,
}

impl Tensor {
    /// Whether the kernel writes to this buffer.
    pub(crate) fn binds(&self, buffer: &wgpu::Buffer) -> bool {
        self.slots.iter().chain(&self.parameter).any(|range| range.buffer == *buffer)
    }
}

/// A part of a chunk: the same elements of each of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) chunk: usize,
    /// In elements, a multiple of [`ALIGN`].
    pub(crate) start: u64,
    /// In elements, a multiple of [`ALIGN`].
    pub(crate) len: u64,
}

/// A few large buffers, cut into aligned places. What is in use never moves, so that ranges handed out stay valid.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    labels: Vec<String>,
    chunks: Vec<Chunk>,
}

#[derive(Debug)]
struct Chunk {
    buffers: Vec<wgpu::Buffer>,
    len: u64,
    /// Free places: start → length.
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// An arena whose chunks have a buffer for each label.
    pub(crate) fn new(labels: Vec<String>) -> Self {
        Self { labels, chunks: Vec::new() }
    }

    /// Elements that a tensor occupies.
    pub(crate) fn padded(len: usize) -> u64 {
        (len as u64).max(1).next_multiple_of(ALIGN)
    }

    /// Makes a new chunk for `len` padded elements, unless a present one has such a place free. `exact` leaves no room for more.
    pub(crate) fn reserve(&mut self, gpu: &Gpu, name: &str, len: u64, exact: bool) -> Result<()> {
        let fits = |chunk: &Chunk| chunk.free.values().any(|&free| free >= len);
        if self.labels.is_empty() || self.chunks.iter().any(fits) {
            return Ok(());
        }
        let most = gpu.device().limits().max_buffer_size / 4 / ALIGN * ALIGN;
        if len > most {
            let (needed, available) = (4 * len, 4 * most);
            return Err(Error::OverLimit { name: name.into(), limit: "max_buffer_size", needed, available });
        }
        // Tensors added one by one: chunks grow by half of what there is, so that they stay few.
        let half = self.chunks.iter().map(|chunk| chunk.len).sum::<u64>() / 2;
        let room = if exact { len } else { len.max(half).max(MIN_CHUNK).next_multiple_of(ALIGN).min(most) };
        let buffers = gpu.scoped("a buffer of the arena", || {
            self.labels.iter().map(|label| chunk_buffer(gpu, label, room)).collect()
        })?;
        self.chunks.push(Chunk { buffers, len: room, free: BTreeMap::from([(0, room)]) });
        Ok(())
    }

    /// Whether its chunks have no buffers: of a rule without states.
    pub(crate) fn is_without_buffers(&self) -> bool {
        self.labels.is_empty()
    }

    /// One buffer more for each chunk, for [`Arena::widen`].
    pub(crate) fn buffers_like(&self, gpu: &Gpu, label: &str) -> Result<Vec<wgpu::Buffer>> {
        gpu.scoped("a buffer of the arena", || {
            self.chunks.iter().map(|chunk| chunk_buffer(gpu, label, chunk.len)).collect()
        })
    }

    /// Gives each chunk one of these buffers, as its last one.
    pub(crate) fn widen(&mut self, label: String, buffers: Vec<wgpu::Buffer>) {
        self.labels.push(label);
        self.chunks.iter_mut().zip(buffers).for_each(|(chunk, buffer)| chunk.buffers.push(buffer));
    }

    /// The first free place of `len` padded elements. After [`Arena::reserve`] there is one.
    pub(crate) fn take(&mut self, len: u64) -> Option<Place> {
        if self.labels.is_empty() {
            return Some(Place { chunk: 0, start: 0, len: 0 });
        }
        for (chunk, c) in self.chunks.iter_mut().enumerate() {
            if let Some((&start, &free)) = c.free.iter().find(|&(_, &free)| free >= len) {
                c.free.remove(&start);
                if free > len {
                    c.free.insert(start + len, free - len);
                }
                return Some(Place { chunk, start, len });
            }
        }
        None
    }

    /// Gives a place back, joined with free neighbours; chunks at the end that are all free are let go.
    pub(crate) fn release(&mut self, place: Place) {
        let Some(chunk) = self.chunks.get_mut(place.chunk).filter(|_| place.len > 0) else {
            return;
        };
        let (mut start, mut len) = (place.start, place.len);
        if let Some((&before, &free)) = chunk.free.range(..start).next_back().filter(|&(&s, &l)| s + l == start) {
            chunk.free.remove(&before);
            (start, len) = (before, free + len);
        }
        if let Some(behind) = chunk.free.remove(&(start + len)) {
            len += behind;
        }
        chunk.free.insert(start, len);
        while self.chunks.pop_if(|chunk| chunk.free.get(&0) == Some(&chunk.len)).is_some() {}
    }

    /// The first `len` elements of a place, in each of its chunk's buffers.
    pub(crate) fn ranges(&self, place: Place, len: usize) -> Vec<BufferRange> {
        let buffers = self.chunks.get(place.chunk).map(|chunk| chunk.buffers.as_slice()).unwrap_or_default();
        buffers.iter().map(|buffer| BufferRange::new(buffer, 4 * place.start, len)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(len: u64) -> Arena {
        let chunk = Chunk { buffers: Vec::new(), len, free: BTreeMap::from([(0, len)]) };
        Arena { labels: vec!["param".into()], chunks: vec![chunk] }
    }

    #[test]
    fn released_places_join_and_are_taken_again() {
        let mut arena = arena(4 * ALIGN);
        let places: Vec<_> = (0..4).map(|_| arena.take(ALIGN).unwrap()).collect();
        assert_eq!(places[3].start, 3 * ALIGN);
        assert_eq!(arena.take(ALIGN), None);
        for k in [0, 2, 1] {
            arena.release(places[k]);
        }
        assert_eq!(arena.chunks.len(), 1, "the fourth is in use");
        assert_eq!(arena.chunks[0].free, BTreeMap::from([(0, 3 * ALIGN)]));
        let again = arena.take(3 * ALIGN).unwrap();
        assert_eq!(again, Place { chunk: 0, start: 0, len: 3 * ALIGN });
        arena.release(again);
        arena.release(places[3]);
        assert!(arena.chunks.is_empty(), "nothing is in use");
    }
}
