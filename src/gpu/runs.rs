//! Runs: tensors that lie behind each other in each of some buffers, and which of them share a dispatch.

use std::collections::{HashMap, HashSet};

use super::Gpu;
use super::block_table::Segment;
use super::kernel::GradientAccess;
use super::memory::BufferRange;
use super::pool::Padding;
use crate::formats::Format;

/// Elements of a tensor that shares a dispatch with others in the same buffers. A larger one has its own, which needs
/// no table.
pub(crate) const POOLED: u64 = 1 << 18;

/// Tensors that lie behind each other in each of some buffers.
#[derive(Debug)]
pub(crate) struct Run {
    /// Parameter, gradient, states.
    pub(crate) ranges: Vec<BufferRange>,
    pub(crate) access: GradientAccess,
    pub(crate) parts: Vec<Segment>,
    /// Each part has coefficients of its own; otherwise all have the first one's.
    pub(crate) per_tensor: bool,
    /// In the arena, where padding belongs to a tensor.
    pub(crate) owned: bool,
}

impl Run {
    /// A run of one tensor.
    pub(crate) fn of(
        ranges: Vec<BufferRange>,
        access: GradientAccess,
        cohort: usize,
        len: usize,
        per_tensor: bool,
    ) -> Self {
        let padded = ranges.first().map_or(0, |range| range.len as u64);
        let parts = vec![Segment { start: 0, padded, len: len as u64, cohort, out: 0, tensor: 0 }];
        Self { ranges, access, parts, per_tensor, owned: false }
    }

    /// How parameter, gradient and states are stored.
    pub(crate) fn formats(&self) -> Vec<Format> {
        self.ranges.iter().map(|range| range.format).collect()
    }

    /// Whether range k is ours, and in fewer bits than f32: states in 16 or 8 bits, and what is beside a parameter. It
    /// is bound whole, and begins with a whole lane.
    pub(super) fn is_whole(&self, k: usize) -> bool {
        let states = if self.access == GradientAccess::None { 1 } else { 2 };
        k >= states && self.ranges[k].format != Format::F32
    }

    /// See [`is_narrow`].
    pub(super) fn is_narrow(&self) -> bool {
        is_narrow(&self.formats(), self.access)
    }

    /// Bytes of an element of the largest of its formats.
    pub(crate) fn widest(&self) -> u64 {
        self.ranges.iter().map(|range| range.format.size()).max().unwrap_or(1)
    }

    /// Its first partial result is this one, and the hash of its name this.
    pub(crate) fn of_tensor(mut self, out: u32, tensor: u32) -> Self {
        self.parts.iter_mut().for_each(|part| (part.out, part.tensor) = (out, tensor));
        self
    }

    /// Its tensors. Where padding counts and all have the same coefficients, they are one.
    pub(crate) fn tensors(&self, padding: Padding) -> impl Iterator<Item = Segment> + '_ {
        let all = self.parts.first().filter(|_| padding == Padding::With && !self.per_tensor);
        let len = self.ranges.first().map_or(0, |range| range.len as u64);
        let joined = all.map(|first| Segment { padded: len, len, ..*first });
        let apart = if joined.is_some() { &[][..] } else { &self.parts };
        joined.into_iter().chain(apart.iter().copied())
    }

    /// The buffers that it lies in, how, and the coefficients of all of it, if they are the same.
    fn key(&self) -> (Vec<wgpu::Buffer>, GradientAccess, Vec<Format>, Option<usize>) {
        let buffers = self.ranges.iter().map(|range| range.buffer.clone()).collect();
        (buffers, self.access, self.formats(), (!self.per_tensor).then_some(self.parts[0].cohort))
    }

    /// Joins a tensor that lies just behind, padding included.
    pub(crate) fn extend(&mut self, next: &Self) -> bool {
        let pairs = || self.ranges.iter().zip(&next.ranges);
        let adjacent = |(a, b): (&BufferRange, &BufferRange)| a.buffer == b.buffer && a.end() == b.offset;
        let kind = |run: &Self| (run.access, run.per_tensor, run.formats());
        let same = kind(self) == kind(next);
        let one_cohort = self.parts[0].cohort == next.parts[0].cohort;
        if !self.owned || !next.owned || !same || !(self.per_tensor || one_cohort) || !pairs().all(adjacent) {
            return false;
        }
        let start = self.ranges[0].len as u64;
        for (a, b) in self.ranges.iter_mut().zip(&next.ranges) {
            a.len += b.len;
        }
        self.parts.extend(next.parts.iter().map(|part| Segment { start: start + part.start, ..*part }));
        true
    }

    /// What a norm-based rule measures: parameter with its remainders, gradient, and these of its states.
    pub(crate) fn measured(&self, states: impl Iterator<Item = usize>) -> Self {
        let states = states.map(|k| self.ranges[2 + k].clone());
        let remainder = self.ranges.last().filter(|range| range.format == Format::Remainder).cloned();
        let ranges = self.ranges[..2].iter().cloned().chain(states).chain(remainder).collect();
        Self { ranges, access: GradientAccess::Read, parts: self.parts.clone(), per_tensor: true, owned: self.owned }
    }
}

/// Whether an update of ranges in these formats writes numbers of fewer bits than f32. They share words, so that a
/// thread writes whole lanes of four, and a table says where.
pub(crate) fn is_narrow(formats: &[Format], access: GradientAccess) -> bool {
    let only_read = |k: usize| k == 1 && matches!(access, GradientAccess::Read | GradientAccess::Aliased);
    formats.iter().enumerate().any(|(k, &format)| format != Format::F32 && !only_read(k))
}

/// Runs that go through a table, by what they do with the gradient, and with padding.
pub(super) type Pooled = Vec<((GradientAccess, Padding), Vec<Run>)>;

/// Which runs have dispatches of their own; the others go through a table: those that write numbers of fewer bits than
/// f32, those that cannot be bound where they are, and small ones that lie in the same buffers, such as those that the
/// arena's holes part.
pub(super) fn split(gpu: &Gpu, runs: Vec<Run>) -> (Vec<Run>, Pooled) {
    let limits = gpu.device().limits();
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    // The table is one more, where coefficients for each tensor do not need it anyway.
    let buffers = |run: &Run| run.key().0.into_iter().collect::<HashSet<_>>().len();
    let room = |run: &Run| run.per_tensor || buffers(run) < limits.max_storage_buffers_per_shader_stage as usize;
    let small = |run: &Run| run.ranges[0].len as u64 <= POOLED;
    let mut beside = HashMap::new();
    for run in runs.iter().filter(|run| small(run)) {
        *beside.entry(run.key()).or_insert(0) += 1;
    }
    let (mut alone, mut pooled) = (Vec::new(), Pooled::new());
    for run in runs {
        let bindable = run.ranges.iter().all(|range| range.offset.is_multiple_of(alignment));
        let kind = (run.access, if run.is_narrow() { Padding::Written } else { Padding::With });
        if !run.is_narrow() && bindable && !(small(&run) && beside[&run.key()] > 1 && room(&run)) {
            alone.push(run);
        } else if let Some((_, runs)) = pooled.iter_mut().find(|(of, _)| *of == kind) {
            runs.push(run);
        } else {
            pooled.push((kind, vec![run]));
        }
    }
    (alone, pooled)
}
