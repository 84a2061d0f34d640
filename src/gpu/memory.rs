//! Where a parameter's numbers are: in ranges of the caller's buffers, or of our arena.

use std::collections::{BTreeMap, BTreeSet};

use super::Gpu;
use crate::error::{Error, Result};

/// Tensors of an arena start at multiples of this many elements. 256 bytes are the strictest alignment that a device
/// may demand.
pub(crate) const ALIGN: u64 = 64;
/// Elements up to which an arena makes room for 16 times what it holds.
const SMALL: u64 = 1 << 12;
const SIBLINGS: u64 = 16;

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

    /// The range as a resource of your bind groups.
    pub fn binding(&self) -> wgpu::BindingResource<'_> {
        // An empty range cannot be bound. Its padding can.
        let size = wgpu::BufferSize::new(self.size().max(4));
        wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer: &self.buffer, offset: self.offset, size })
    }

    /// The range extended to the left, so that every device can bind it, and the element at which the original range
    /// starts in it.
    pub(crate) fn aligned(&self) -> (Self, u32) {
        let before = self.offset % (4 * ALIGN) / 4;
        (Self::new(&self.buffer, self.offset - 4 * before, self.len + before as usize), before as u32)
    }

    /// The smallest range that contains both.
    pub(crate) fn around(&self, other: &Self) -> Self {
        let (start, end) = (self.offset.min(other.offset), self.end().max(other.end()));
        Self::new(&self.buffer, start, ((end - start) / 4) as usize)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.buffer == other.buffer && self.offset < other.end() && other.offset < self.end()
    }

    /// Checks that kernels can work on the range.
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
    /// Parameter and gradient lie in the group's arena, with padding. Otherwise they lie in the caller's buffers.
    pub(crate) owned: bool,
    /// The group whose arena it lies in: that in which it was added.
    pub(crate) home: usize,
    /// Its place in the arena: of parameter, gradient and states, or of the states alone.
    pub(crate) place: Place,
    /// `None` while it has no place: see `Optimizer::place`.
    pub(crate) parameter: Option<BufferRange>,
    /// What the next step reads.
    pub(crate) gradient: Option<BufferRange>,
    /// The gradient in the arena.
    pub(crate) own_gradient: Option<BufferRange>,
    pub(crate) slots: Vec<BufferRange>,
    /// The number that a norm-based rule keeps for the tensor.
    pub(crate) scalar: Option<(Place, BufferRange)>,
}

impl Tensor {
    /// Whether the kernel writes to this buffer.
    pub(crate) fn binds(&self, buffer: &wgpu::Buffer) -> bool {
        self.slots.iter().chain(&self.parameter).any(|range| range.buffer == *buffer)
    }
}

/// A part of a chunk: the same elements in each of its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) chunk: usize,
    /// In elements, a multiple of [`ALIGN`].
    pub(crate) start: u64,
    /// In elements, a multiple of [`ALIGN`].
    pub(crate) len: u64,
}

/// A few large buffers, cut into aligned places. What is in use never moves, so that ranges handed out stay valid.
///
/// Tensors that come together get a chunk of just their size. Those that come one by one get chunks with room for more,
/// so that chunks, and with them dispatches, stay few: while nothing is removed, no more is free than half of what is
/// in use, or 16 KiB of a buffer ([`SMALL`]) if that is more. A place that becomes free is used again. A chunk that
/// becomes free goes at once; one stays while anything in it is in use.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    labels: Vec<String>,
    /// By index, which places name. One that went leaves an empty chunk.
    chunks: Vec<Chunk>,
    /// Free places by length: (length, chunk, start).
    free: BTreeSet<(u64, usize, u64)>,
    /// Elements of all chunks, and of those the ones in use.
    total: u64,
    in_use: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    buffers: Vec<wgpu::Buffer>,
    len: u64,
    /// Free places: start → length.
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// An arena whose chunks have a buffer for each label.
    pub(crate) fn new(labels: Vec<String>) -> Self {
        Self { labels, ..Self::default() }
    }

    /// Elements that a tensor occupies.
    pub(crate) fn padded(len: usize) -> u64 {
        (len as u64).max(1).next_multiple_of(ALIGN)
    }

    /// Makes a new chunk for `len` padded elements, unless a present one has such a place free. `exact` leaves no room
    /// for more.
    pub(crate) fn reserve(&mut self, gpu: &Gpu, name: &str, len: u64, exact: bool) -> Result<()> {
        if self.labels.is_empty() || self.free.last().is_some_and(|&(free, ..)| free >= len) {
            return Ok(());
        }
        let most = gpu.device().limits().max_buffer_size / 4 / ALIGN * ALIGN;
        if len > most {
            let (needed, available) = (4 * len, 4 * most);
            return Err(Error::OverLimit { name: name.into(), limit: "max_buffer_size", needed, available });
        }
        let room = if exact { len } else { self.room(len).min(most) };
        let buffers = gpu.scoped("a buffer of the arena", || {
            self.labels.iter().map(|label| chunk_buffer(gpu, label, room)).collect()
        })?;
        self.add_chunk(buffers, room);
        Ok(())
    }

    /// Whether its chunks have no buffers: of a rule without states.
    pub(crate) fn is_without_buffers(&self) -> bool {
        self.labels.is_empty()
    }

    /// One buffer more for each chunk, for [`Arena::widen`].
    pub(crate) fn buffers_like(&self, gpu: &Gpu, label: &str) -> Result<Vec<wgpu::Buffer>> {
        gpu.scoped("a buffer of the arena", || {
            self.chunks.iter().filter(|chunk| chunk.len > 0).map(|chunk| chunk_buffer(gpu, label, chunk.len)).collect()
        })
    }

    /// Gives each chunk one of these buffers, as its last one.
    pub(crate) fn widen(&mut self, label: String, buffers: Vec<wgpu::Buffer>) {
        self.labels.push(label);
        let chunks = self.chunks.iter_mut().filter(|chunk| chunk.len > 0);
        chunks.zip(buffers).for_each(|(chunk, buffer)| chunk.buffers.push(buffer));
    }

    /// Elements of a new chunk for this many and what may come after them.
    fn room(&self, len: u64) -> u64 {
        let all = self.in_use + len;
        let spare = (self.in_use / 2).max(SMALL.min(SIBLINGS * all).saturating_sub(all));
        (len + spare.saturating_sub(self.total - self.in_use)).next_multiple_of(ALIGN)
    }

    fn add_chunk(&mut self, buffers: Vec<wgpu::Buffer>, len: u64) {
        let at = self.chunks.iter().position(|chunk| chunk.len == 0).unwrap_or(self.chunks.len());
        self.chunks.resize_with(self.chunks.len().max(at + 1), Chunk::default);
        self.chunks[at] = Chunk { buffers, len, free: BTreeMap::new() };
        self.total += len;
        self.set_free(at, 0, len);
    }

    /// The smallest free place of `len` padded elements. After [`Arena::reserve`] there is one.
    pub(crate) fn take(&mut self, len: u64) -> Option<Place> {
        if self.labels.is_empty() {
            return Some(Place { chunk: 0, start: 0, len: 0 });
        }
        let &(free, chunk, start) = self.free.range((len, 0, 0)..).next()?;
        self.unset_free(chunk, start, free);
        if free > len {
            self.set_free(chunk, start + len, free - len);
        }
        self.in_use += len;
        Some(Place { chunk, start, len })
    }

    /// Gives a place back, joined with free neighbours. If its chunk is then all free, the chunk goes; these were its
    /// buffers.
    pub(crate) fn release(&mut self, place: Place) -> Vec<wgpu::Buffer> {
        let Some(chunk) = self.chunks.get(place.chunk).filter(|_| place.len > 0) else {
            return Vec::new();
        };
        let (mut start, mut end) = (place.start, place.start + place.len);
        let before =
            chunk.free.range(..start).next_back().map(|(&s, &len)| (s, len)).filter(|(s, len)| s + len == start);
        let behind = chunk.free.get(&end).map(|&len| (end, len));
        for (s, len) in before.into_iter().chain(behind) {
            self.unset_free(place.chunk, s, len);
            (start, end) = (start.min(s), end.max(s + len));
        }
        self.in_use -= place.len;
        if end - start < self.chunks[place.chunk].len {
            self.set_free(place.chunk, start, end - start);
            return Vec::new();
        }
        let gone = std::mem::take(&mut self.chunks[place.chunk]);
        self.total -= gone.len;
        while self.chunks.pop_if(|chunk| chunk.len == 0).is_some() {}
        gone.buffers
    }

    fn set_free(&mut self, chunk: usize, start: u64, len: u64) {
        self.chunks[chunk].free.insert(start, len);
        self.free.insert((len, chunk, start));
    }

    fn unset_free(&mut self, chunk: usize, start: u64, len: u64) {
        self.chunks[chunk].free.remove(&start);
        self.free.remove(&(len, chunk, start));
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

    fn arena() -> Arena {
        Arena::new(vec!["param".into()])
    }

    /// Adds a tensor as [`Arena::reserve`] and [`Arena::take`] do, with no buffers behind it.
    fn add(arena: &mut Arena, len: u64) -> Place {
        if arena.free.last().is_none_or(|&(free, ..)| free < len) {
            arena.add_chunk(Vec::new(), arena.room(len));
        }
        arena.take(len).unwrap()
    }

    fn chunks(arena: &Arena) -> usize {
        arena.chunks.iter().filter(|chunk| chunk.len > 0).count()
    }

    #[test]
    fn released_places_join_and_are_taken_again() {
        let mut arena = arena();
        arena.add_chunk(Vec::new(), 4 * ALIGN);
        let places: Vec<_> = (0..4).map(|_| arena.take(ALIGN).unwrap()).collect();
        assert_eq!(places[3].start, 3 * ALIGN);
        assert_eq!(arena.take(ALIGN), None);
        for k in [0, 2, 1] {
            arena.release(places[k]);
        }
        assert_eq!(chunks(&arena), 1, "the fourth is in use");
        assert_eq!(arena.chunks[0].free, BTreeMap::from([(0, 3 * ALIGN)]));
        let again = arena.take(3 * ALIGN).unwrap();
        assert_eq!(again, Place { chunk: 0, start: 0, len: 3 * ALIGN });
        arena.release(again);
        arena.release(places[3]);
        assert!(arena.chunks.is_empty() && arena.free.is_empty(), "nothing is in use");
        assert_eq!((arena.total, arena.in_use), (0, 0));
    }

    #[test]
    fn a_free_chunk_goes_and_its_index_is_used_again() {
        let mut arena = arena();
        let places: Vec<_> = (0..3).map(|_| add(&mut arena, 1 << 20)).collect();
        assert_eq!(places.iter().map(|place| place.chunk).collect::<Vec<_>>(), [0, 1, 2]);
        arena.release(places[1]);
        assert_eq!((chunks(&arena), arena.in_use), (2, 2 << 20));
        assert_eq!(add(&mut arena, 1 << 21).chunk, 1);
    }

    /// Of all sizes, one by one: no more is free than half of what is in use, or the smallest chunk; and chunks stay
    /// few.
    #[test]
    fn waste_is_bounded() {
        let mut random = 1u64;
        for bits in [6, 10, 14, 20] {
            let mut arena = arena();
            for _ in 0..2000 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                add(&mut arena, Arena::padded((random >> 33) as usize % (1 << bits)));
                let free = arena.total - arena.in_use;
                assert!(free <= (arena.in_use / 2).max(SMALL), "{free} free beside {} in use", arena.in_use);
            }
            assert!(chunks(&arena) <= 24, "{} chunks", chunks(&arena));
        }
    }
}
