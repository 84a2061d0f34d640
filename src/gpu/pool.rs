//! Tensors anywhere in a few buffers, such as the caller's pools: a dispatch for all that lie in the same ones.

use std::collections::HashMap;

use super::Gpu;
use super::kernel::GradientAccess;
use super::memory::{ALIGN, BufferRange};
use super::runs::Run;
use crate::formats::Format;

/// A part of a tensor all of which one dispatch can reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Of parameter, gradient and states: in elements, from the start of what is bound.
    pub(crate) starts: [u64; 3],
    /// In elements, from the start of the tensor.
    pub(crate) first: u64,
    /// In elements.
    pub(crate) len: u64,
    /// Elements of the tensor.
    pub(crate) limit: u64,
    pub(crate) cohort: usize,
    /// The first of its partial results.
    pub(crate) out: u32,
}

/// What one dispatch binds, and all pieces that lie there.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) windows: Vec<BufferRange>,
    /// Of parameter, gradient and states, in order: its window.
    pub(crate) bindings: Vec<usize>,
    /// Elements of a lane.
    pub(crate) width: u64,
    pub(crate) pieces: Vec<Piece>,
}

/// Whether a kernel reads the padding behind a tensor: an update may, a norm must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    With,
    Without,
}

/// The pools of some runs; of those with one cohort, unless a block says which. A run has a gradient or not. `width` 4
/// has elements four at a time where all ranges are aligned to that, 1 has each alone. Pieces are cut at multiples of
/// `block` elements of their tensor.
pub(crate) fn pools<'a>(
    gpu: &Gpu,
    runs: impl IntoIterator<Item = &'a Run>,
    has_gradient: bool,
    width: u64,
    block: u64,
    padding: Padding,
) -> Vec<Pool> {
    // Windows overlap by half, so that none cuts a block.
    let half = (gpu.device().limits().max_storage_buffer_binding_size / 8 / ALIGN * ALIGN).max(ALIGN);
    let window = 2 * half;
    let (mut pools, mut known) = (Vec::<Pool>::new(), HashMap::new());
    for (run, part) in runs.into_iter().flat_map(|run| run.tensors(padding).map(move |part| (run, part))) {
        let len = if padding == Padding::With { part.padded } else { part.len };
        let mut first = 0;
        while first < len {
            // Up to where the first of the ranges leaves its window.
            let at = |range: &BufferRange| range.first() + part.start + first;
            let room = run.ranges.iter().map(|range| window - at(range) % half).min().unwrap_or(block);
            let end = if len - first <= room { len } else { first + (room / block * block).max(1) };
            let aligned = width == 4 && run.ranges.iter().all(|range| at(range).is_multiple_of(4));
            let whole = if aligned { first + (end - first) / 4 * 4 } else { first };
            let bound = |range: &BufferRange| range.window(at(range) / half * half, window);
            let of_all: Vec<_> = run.ranges.iter().map(bound).collect();
            let start = |k: usize| run.ranges.get(k).map_or(0, |range| at(range) % half);
            let state = if has_gradient { 2 } else { 1 };
            for (from, to, width) in [(first, whole, 4), (whole, end, 1)] {
                if from == to {
                    continue;
                }
                let key = (of_all.clone(), width, (!run.per_tensor).then_some(part.cohort));
                let pool = *known.entry(key).or_insert_with(|| {
                    pools.push(Pool::new(&of_all, width));
                    pools.len() - 1
                });
                let starts = [start(0), start(1), start(state)].map(|start| start + from - first);
                let (len, out) = (to - from, part.out + (from / block) as u32);
                pools[pool].pieces.push(Piece { starts, first: from, len, limit: part.len, cohort: part.cohort, out });
            }
            first = end;
        }
    }
    pools
}

impl Pool {
    /// How the gradients in it are stored.
    pub(crate) fn gradient_format(&self, access: GradientAccess) -> Format {
        let gradient = if access == GradientAccess::None { None } else { self.bindings.get(1) };
        gradient.map_or(Format::F32, |&at| self.windows[at].format)
    }

    fn new(of_all: &[BufferRange], width: u64) -> Self {
        let (mut windows, mut bindings) = (Vec::<BufferRange>::new(), Vec::new());
        for window in of_all {
            let known = windows.iter().position(|known| known == window);
            bindings.push(known.unwrap_or_else(|| {
                windows.push(window.clone());
                windows.len() - 1
            }));
        }
        Self { windows, bindings, width, pieces: Vec::new() }
    }
}
