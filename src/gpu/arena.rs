//! The optimizer's own memory on the GPU: large buffers, cut into allocations.

use std::collections::{BTreeMap, BTreeSet};

use super::Gpu;
#[cfg(test)]
use super::memory::ALIGN;
use super::memory::{Allocation, BufferRange, STRICTEST};
use super::own::OwnBuffer;
use crate::error::{Error, Result};
use crate::formats::Format;

/// Elements up to which an arena makes room for 16 times what it holds.
const SMALL: u64 = 1 << 12;
const SIBLINGS: u64 = 16;

/// What each chunk of an arena has a buffer of.
#[derive(Clone, Debug)]
pub(crate) struct Kind {
    pub(crate) label: String,
    pub(crate) format: Format,
    /// Kernels bind the buffer whole, and not in windows.
    pub(crate) whole: bool,
}

fn chunk_buffer(gpu: &Gpu, Kind { label, format, .. }: &Kind, len: u64) -> OwnBuffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let (label, size) = (Some(label.as_str()), format.bytes(len));
    OwnBuffer::new(gpu.device().create_buffer(&wgpu::BufferDescriptor {
        label,
        size,
        usage,
        mapped_at_creation: false,
    }))
}

/// A few large buffers, cut into aligned allocations. What is in use never moves, so that ranges handed out stay valid.
/// Lengths are in elements; a chunk has a buffer for each kind of storage, of as many bytes as its format needs.
///
/// Tensors that come together get a chunk of just their size. Those that come one by one get chunks with room for more,
/// so that chunks, and with them dispatches, stay few: while nothing is removed, no more is free than half of what is
/// in use, or 16 KiB of a buffer ([`SMALL`]) if that is more. An allocation that becomes free is used again. A chunk
/// that becomes free goes at once; one stays while anything in it is in use.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Of each buffer of a chunk.
    kinds: Vec<Kind>,
    /// Elements. Places start at multiples of it, and so at multiples of [`STRICTEST`] bytes in every buffer.
    align: u64,
    /// By index, which allocations name. One that went leaves an empty chunk.
    chunks: Vec<Chunk>,
    /// Free allocations by length: (length, chunk, start).
    free: BTreeSet<(u64, usize, u64)>,
    /// Elements of all chunks, and of those the ones in use.
    total: u64,
    in_use: u64,
}

#[derive(Debug, Default)]
struct Chunk {
    buffers: Vec<OwnBuffer>,
    len: u64,
    /// Free allocations: start → length.
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// An arena whose chunks have a buffer of each kind.
    pub(crate) fn new(kinds: Vec<Kind>) -> Self {
        let align = STRICTEST / smallest(&kinds);
        Self { kinds, align, chunks: Vec::new(), free: BTreeSet::new(), total: 0, in_use: 0 }
    }

    /// Elements that a tensor occupies.
    pub(crate) fn padded(&self, len: usize) -> u64 {
        (len as u64).max(1).next_multiple_of(self.align)
    }

    /// The most elements that a chunk may have: each of its buffers has a size that the device allows, and so has one
    /// of f32 that may come, for averages.
    pub(crate) fn most(&self, gpu: &Gpu) -> u64 {
        self.limit(gpu).0
    }

    /// The most elements of a chunk; and which limit of the device it is, in bytes, and the format that it limits.
    fn limit(&self, gpu: &Gpu) -> (u64, &'static str, u64, Format) {
        let limits = gpu.device().limits();
        let buffer = ("max_buffer_size", limits.max_buffer_size);
        let binding = ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size);
        let of = |format: Format, whole: bool| {
            let (name, bytes) = if whole && binding.1 < buffer.1 { binding } else { buffer };
            (format.numbers(bytes) / self.align * self.align, name, bytes, format)
        };
        let (mut limit, kinds) = (of(Format::F32, false), self.kinds.iter().map(|kind| of(kind.format, kind.whole)));
        for kind in kinds {
            limit = if kind.0 < limit.0 { kind } else { limit };
        }
        limit
    }

    /// Makes a new chunk for `len` padded elements, unless a present one has such an allocation free. `exact` leaves no
    /// room for more.
    pub(crate) fn reserve(&mut self, gpu: &Gpu, name: &str, len: u64, exact: bool) -> Result<()> {
        if self.kinds.is_empty() || self.free.last().is_some_and(|&(free, ..)| free >= len) {
            return Ok(());
        }
        let (most, limit, available, format) = self.limit(gpu);
        if len > most {
            return Err(Error::OverLimit { name: name.into(), limit, needed: format.bytes(len), available });
        }
        let room = if exact { len } else { self.room(len).min(most) };
        let buffers = gpu.scoped("a buffer of the arena", || {
            self.kinds.iter().map(|kind| chunk_buffer(gpu, kind, room)).collect()
        })?;
        self.add_chunk(buffers, room);
        Ok(())
    }

    /// Whether its chunks have no buffers: of a rule without states.
    pub(crate) fn is_without_buffers(&self) -> bool {
        self.kinds.is_empty()
    }

    /// One buffer more for each chunk, for [`Arena::widen`].
    pub(crate) fn buffers_like(&self, gpu: &Gpu, kind: &Kind) -> Result<Vec<OwnBuffer>> {
        gpu.scoped("a buffer of the arena", || {
            self.chunks.iter().filter(|chunk| chunk.len > 0).map(|chunk| chunk_buffer(gpu, kind, chunk.len)).collect()
        })
    }

    /// Gives each chunk one of these buffers, as its last one. Their format is no smaller than the smallest of the
    /// arena, so that the allocations that are taken stay aligned.
    pub(crate) fn widen(&mut self, kind: Kind, buffers: Vec<OwnBuffer>) {
        self.kinds.push(kind);
        let chunks = self.chunks.iter_mut().filter(|chunk| chunk.len > 0);
        chunks.zip(buffers).for_each(|(chunk, buffer)| chunk.buffers.push(buffer));
    }

    /// Elements of a new chunk for this many and what may come after them.
    fn room(&self, len: u64) -> u64 {
        let all = self.in_use + len;
        let spare = (self.in_use / 2).max(SMALL.min(SIBLINGS * all).saturating_sub(all));
        // For whole tensors of this length: parts that are too short for the next one would only be free.
        let more = spare.saturating_sub(self.total - self.in_use) / len;
        (len + more * len).next_multiple_of(self.align)
    }

    fn add_chunk(&mut self, buffers: Vec<OwnBuffer>, len: u64) {
        let at = self.chunks.iter().position(|chunk| chunk.len == 0).unwrap_or(self.chunks.len());
        self.chunks.resize_with(self.chunks.len().max(at + 1), Chunk::default);
        self.chunks[at] = Chunk { buffers, len, free: BTreeMap::new() };
        self.total += len;
        self.set_free(at, 0, len);
    }

    /// The smallest free allocation of `len` padded elements. After [`Arena::reserve`] there is one.
    pub(crate) fn take(&mut self, len: u64) -> Option<Allocation> {
        if self.kinds.is_empty() {
            return Some(Allocation::default());
        }
        let &(free, chunk, start) = self.free.range((len, 0, 0)..).next()?;
        self.unset_free(chunk, start, free);
        if free > len {
            self.set_free(chunk, start + len, free - len);
        }
        self.in_use += len;
        Some(Allocation { chunk, start, len })
    }

    /// Gives an allocation back, joined with free neighbours. If its chunk is then all free, the chunk goes; these were
    /// its buffers.
    pub(crate) fn release(&mut self, allocation: Allocation) -> Vec<OwnBuffer> {
        let Some(chunk) = self.chunks.get(allocation.chunk).filter(|_| allocation.len > 0) else {
            return Vec::new();
        };
        let (mut start, mut end) = (allocation.start, allocation.start + allocation.len);
        let before =
            chunk.free.range(..start).next_back().map(|(&s, &len)| (s, len)).filter(|(s, len)| s + len == start);
        let behind = chunk.free.get(&end).map(|&len| (end, len));
        for (s, len) in before.into_iter().chain(behind) {
            self.unset_free(allocation.chunk, s, len);
            (start, end) = (start.min(s), end.max(s + len));
        }
        self.in_use -= allocation.len;
        if end - start < self.chunks[allocation.chunk].len {
            self.set_free(allocation.chunk, start, end - start);
            return Vec::new();
        }
        let gone = std::mem::take(&mut self.chunks[allocation.chunk]);
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

    /// The first `len` elements of an allocation, in each of its chunk's buffers.
    pub(crate) fn ranges(&self, allocation: Allocation, len: usize) -> Vec<BufferRange> {
        let buffers = self.chunks.get(allocation.chunk).map(|chunk| chunk.buffers.as_slice()).unwrap_or_default();
        let range = |(buffer, Kind { format, .. }): (&OwnBuffer, &Kind)| {
            BufferRange::of(buffer, format.size() * allocation.start, len, *format)
        };
        buffers.iter().zip(&self.kinds).map(range).collect()
    }
}

/// Bytes of an element of the smallest of these formats; without any, of `f32`.
fn smallest(kinds: &[Kind]) -> u64 {
    kinds.iter().map(|kind| kind.format.size()).min().unwrap_or(Format::F32.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arena {
        Arena::new(vec![Kind { label: "param".into(), format: Format::F32, whole: false }])
    }

    /// Adds a tensor as [`Arena::reserve`] and [`Arena::take`] do, with no buffers behind it.
    fn add(arena: &mut Arena, len: u64) -> Allocation {
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
        let allocations: Vec<_> = (0..4).map(|_| arena.take(ALIGN).unwrap()).collect();
        assert_eq!(allocations[3].start, 3 * ALIGN);
        assert_eq!(arena.take(ALIGN), None);
        for k in [0, 2, 1] {
            arena.release(allocations[k]);
        }
        assert_eq!(chunks(&arena), 1, "the fourth is in use");
        assert_eq!(arena.chunks[0].free, BTreeMap::from([(0, 3 * ALIGN)]));
        let again = arena.take(3 * ALIGN).unwrap();
        assert_eq!(again, Allocation { chunk: 0, start: 0, len: 3 * ALIGN });
        arena.release(again);
        arena.release(allocations[3]);
        assert!(arena.chunks.is_empty() && arena.free.is_empty(), "nothing is in use");
        assert_eq!((arena.total, arena.in_use), (0, 0));
    }

    #[test]
    fn a_free_chunk_goes_and_its_index_is_used_again() {
        let mut arena = arena();
        let allocations: Vec<_> = (0..3).map(|_| add(&mut arena, 1 << 20)).collect();
        assert_eq!(allocations.iter().map(|allocation| allocation.chunk).collect::<Vec<_>>(), [0, 1, 2]);
        arena.release(allocations[1]);
        assert_eq!((chunks(&arena), arena.in_use), (2, 2 << 20));
        assert_eq!(add(&mut arena, 1 << 21).chunk, 1);
    }

    /// The smallest format decides: its buffer has the fewest bytes to an allocation.
    #[test]
    fn ranges_are_aligned_in_every_format() {
        let kind = |&format: &Format| Kind { label: String::new(), format, whole: false };
        let kinds = |formats: &[Format]| formats.iter().map(kind).collect();
        let blocks = [Format::F32, Format::Block8Signed];
        for formats in [&[Format::F32][..], &[Format::F64], &[Format::F64, Format::F32], &blocks, &[]] {
            let arena = Arena::new(kinds(formats));
            for format in formats {
                assert_eq!(arena.padded(1) * format.size() % STRICTEST, 0, "{formats:?}");
            }
        }
        assert_eq!(Arena::new(kinds(&[Format::F64])).padded(33), 64);
        assert_eq!(Arena::new(kinds(&blocks)).padded(257), 512);
        assert_eq!(Arena::new(kinds(&[Format::F64, Format::F32])).padded(1), 64);
    }

    /// Many of one size, one by one, as a network's layers come: few chunks, whatever the size.
    #[test]
    fn equal_tensors_share_chunks() {
        for len in [1, 1003, 4096, 100_000] {
            let mut arena = arena();
            let padded = arena.padded(len);
            (0..200).for_each(|_| _ = add(&mut arena, padded));
            assert!(chunks(&arena) <= 16, "{} chunks of tensors of {len}", chunks(&arena));
        }
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
                let len = arena.padded((random >> 33) as usize % (1 << bits));
                add(&mut arena, len);
                let free = arena.total - arena.in_use;
                assert!(free <= (arena.in_use / 2).max(SMALL), "{free} free beside {} in use", arena.in_use);
            }
            assert!(chunks(&arena) <= 24, "{} chunks", chunks(&arena));
        }
    }
}
