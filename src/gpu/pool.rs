//! Tensors anywhere in a few buffers, such as the caller's pools: a dispatch for all that lie in the same ones.

use std::collections::HashMap;

use super::Gpu;
use super::memory::{ALIGN, BufferRange};
use super::runs::Run;
use crate::formats::{Format, Lane};

/// A part of a tensor all of which one dispatch can reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Of parameter, gradient and states: in elements, from the start of what is bound.
    pub(crate) starts: [u64; 3],
    /// Of ranges that are bound whole (see `Run::is_whole`): in elements, from the start of their buffer.
    pub(crate) own: u64,
    /// In elements, from the start of the tensor.
    pub(crate) first: u64,
    /// In elements.
    pub(crate) len: u64,
    /// Elements of the tensor.
    pub(crate) limit: u64,
    pub(crate) cohort: usize,
    /// The first of its partial results.
    pub(crate) out: u32,
    /// The hash of the tensor's name.
    pub(crate) tensor: u32,
}

/// What one dispatch binds, and all pieces that lie there.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) windows: Vec<BufferRange>,
    /// Of parameter, gradient and states, in order: its window.
    pub(crate) bindings: Vec<usize>,
    pub(crate) lane: Lane,
    pub(crate) pieces: Vec<Piece>,
}

/// Whether padding behind a tensor is a part of it: to an update it is, in a norm it must not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    With,
    /// Lanes that the tensor fills in part are read whole.
    Without,
    /// As [`Padding::Without`], but the pass also writes: a last lane that is filled in part is written whole only
    /// where its padding is ours. Of runs that write fewer bits than f32 (see `Run::is_narrow`).
    Written,
}

/// The pools of some runs; of those with one cohort, unless a block says which. A run has a gradient or not. Pieces are
/// cut at multiples of `block` elements of their tensor.
pub(crate) fn pools<'a>(
    gpu: &Gpu,
    runs: impl IntoIterator<Item = &'a Run>,
    has_gradient: bool,
    block: u64,
    padding: Padding,
) -> Vec<Pool> {
    // Windows overlap by half, so that none cuts a block.
    let half = (gpu.device().limits().max_storage_buffer_binding_size / 8 / ALIGN * ALIGN).max(ALIGN);
    let window = 2 * half;
    let (mut pools, mut known) = (Vec::<Pool>::new(), HashMap::new());
    for (run, part) in runs.into_iter().flat_map(|run| run.tensors(padding).map(move |part| (run, part))) {
        let len = if padding == Padding::With { part.padded } else { part.len };
        let whole = (0..run.ranges.len()).find(|&k| run.is_whole(k));
        let windowed = || (0..run.ranges.len()).filter(|&k| !run.is_whole(k)).map(|k| &run.ranges[k]);
        let mut first = 0;
        while first < len {
            // Up to where the first of the ranges leaves its window.
            let at = |range: &BufferRange| range.first() + part.start + first;
            let room = windowed().map(|range| window - at(range) % half).min().unwrap_or(block);
            let end = if len - first <= room { len } else { first + (room / block * block).max(1) };
            let aligned = windowed().all(|range| at(range).is_multiple_of(4));
            let (fours, rest) = match padding {
                _ if !aligned => (first, if padding == Padding::With { Lane::Tail } else { Lane::Gathered }),
                Padding::With => (first + (end - first) / 4 * 4, Lane::Tail),
                // A lane that the tensor fills in part is read whole. Where that leaves the buffer, or where what is
                // behind is not ours to write, the last block is gathered.
                Padding::Without | Padding::Written => {
                    let all = (end - first).next_multiple_of(4);
                    let ours = padding == Padding::Without || run.owned || all == end - first;
                    let fits = ours && windowed().all(|range| at(range) + all <= range.all());
                    (if fits { end } else { first + (end - first - 1) / block * block }, Lane::Gathered)
                }
            };
            let bound = |k: usize| match (&run.ranges[k], run.is_whole(k)) {
                (range, true) => range.window(0, u64::MAX),
                (range, false) => range.window(at(range) / half * half, window),
            };
            let of_all: Vec<_> = (0..run.ranges.len()).map(bound).collect();
            let start = |k: usize| run.ranges.get(k).map_or(0, |range| at(range) % half);
            let behind = if has_gradient { 2 } else { 1 };
            let state = (behind..run.ranges.len()).find(|&k| !run.is_whole(k)).unwrap_or(behind);
            let own = whole.map_or(0, |k| at(&run.ranges[k]));
            for (from, to, lane) in [(first, fours, Lane::Four), (fours, end, rest)] {
                if from == to {
                    continue;
                }
                let key = (of_all.clone(), lane, (!run.per_tensor).then_some(part.cohort));
                let pool = *known.entry(key).or_insert_with(|| {
                    pools.push(Pool::new(&of_all, lane));
                    pools.len() - 1
                });
                let starts = [start(0), start(1), start(state)].map(|start| start + from - first);
                let (len, out, own) = (to - from, part.out + (from / block) as u32, own + from - first);
                let (limit, cohort, tensor) = (part.len, part.cohort, part.tensor);
                pools[pool].pieces.push(Piece { starts, own, first: from, len, limit, cohort, out, tensor });
            }
            first = end;
        }
    }
    pools
}

impl Pool {
    /// How parameter, gradient and states in it are stored.
    pub(crate) fn formats(&self) -> Vec<Format> {
        self.bindings.iter().map(|&at| self.windows[at].format).collect()
    }

    fn new(of_all: &[BufferRange], lane: Lane) -> Self {
        let (mut windows, mut bindings) = (Vec::<BufferRange>::new(), Vec::new());
        for window in of_all {
            let known = windows.iter().position(|known| known == window);
            bindings.push(known.unwrap_or_else(|| {
                windows.push(window.clone());
                windows.len() - 1
            }));
        }
        Self { windows, bindings, lane, pieces: Vec::new() }
    }
}
