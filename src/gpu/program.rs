//! What a step dispatches: stages in order, made once and recorded until a parameter, a gradient or a group changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::sync::Arc;

use super::Gpu;
use super::block_table::{BlockTable, Blocks};
use super::decision::{Decision, Ratio};
use super::kernel::{GradientAccess, KernelKey, Lane, WORKGROUP};
use super::memory::{ALIGN, BufferRange};
use super::passes::Pass;
use super::pool::{Padding, Pool, pools};
use super::recording::{Dispatch, Group, Inputs, record};
use super::runs::{Run, split};
use crate::error::Result;
use crate::rule::{Reduce, Stage};

/// Bind groups by what they bind, and which of it is only read.
pub(crate) type BindGroups = HashMap<(Vec<BufferRange>, Vec<bool>), wgpu::BindGroup>;

/// The dispatches of a step.
#[derive(Debug)]
pub(crate) struct Program {
    stages: Vec<(Stage, Vec<Dispatch>)>,
    /// Who takes part, in order, and in which cohort.
    pub(crate) members: Vec<(u64, usize)>,
    /// A member of each cohort.
    pub(crate) cohorts: Vec<u64>,
    /// The partial results of each group's gradients.
    pub(crate) spans: HashMap<usize, Span>,
    /// Where the device decides about the step.
    pub(crate) decision: Option<Decision>,
}

/// Partial results that lie behind each other, and the elements that they measure.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) len: usize,
}

impl Program {
    /// Records these stages.
    pub(crate) fn record(&self, stages: Range<usize>, inputs: Inputs<'_>, pass: &mut wgpu::ComputePass<'_>) {
        for (stage, dispatches) in &self.stages[stages] {
            // A capture shows each stage by its name.
            pass.push_debug_group(match stage {
                Stage::Map => "update",
                Stage::Decide => "decision and coefficients",
                Stage::Reduce(reduce) => reduce.into,
            });
            record(dispatches, inputs, pass);
            pass.pop_debug_group();
        }
    }

    /// Records the sum of all partial norms, for [`Optimizer::encode_measure`](crate::Optimizer::encode_measure).
    pub(crate) fn record_total(&self, inputs: Inputs<'_>, pass: &mut wgpu::ComputePass<'_>) {
        if let Some(decision) = &self.decision {
            record(std::slice::from_ref(&decision.total), inputs, pass);
        }
    }

    pub(crate) fn all(&self) -> Range<usize> {
        0..self.stages.len()
    }

    /// Stages before the device decides about the step.
    pub(crate) fn before_decision(&self) -> usize {
        self.stages.iter().position(|(stage, _)| *stage == Stage::Decide).unwrap_or(0)
    }

    /// Whether it updates nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.count(true) == 0
    }

    /// Dispatches that update parameters, or those before them.
    pub(crate) fn count(&self, updates: bool) -> usize {
        let ours = self.stages.iter().filter(|(stage, _)| (*stage == Stage::Map) == updates);
        ours.map(|(_, dispatches)| dispatches.len()).sum()
    }
}

/// A program in the making.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    gpu: &'a Gpu,
    bind_groups: &'a mut BindGroups,
    pub(crate) members: Vec<(u64, usize)>,
    pub(crate) cohorts: Vec<u64>,
    pub(crate) spans: HashMap<usize, Span>,
    blocks: BlockTable,
    updates: Vec<Pending>,
    norms: Vec<Pending>,
    reductions: Vec<(Reduce, Vec<Pending>, Vec<Ratio>)>,
    /// Of each cohort with one gradient that is measured: its first partial result, and how many.
    ranges: HashMap<usize, [u32; 2]>,
}

/// A dispatch whose tables do not exist yet.
#[derive(Debug)]
struct Pending {
    kernel: Arc<Pass>,
    ranges: wgpu::BindGroup,
    coefficients: Source,
    workgroups: u32,
}

/// Where a dispatch finds its coefficients, and the blocks that it works on.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// These, for all that is bound.
    One(usize),
    /// These, for all blocks.
    Pool(usize, Blocks),
    /// Those that each block names.
    Blocks(Blocks),
}

impl<'a> Builder<'a> {
    pub(crate) fn new(gpu: &'a Gpu, bind_groups: &'a mut BindGroups) -> Self {
        Self {
            gpu,
            bind_groups,
            members: Vec::new(),
            cohorts: Vec::new(),
            spans: HashMap::new(),
            blocks: BlockTable::new(gpu),
            updates: Vec::new(),
            norms: Vec::new(),
            reductions: Vec::new(),
            ranges: HashMap::new(),
        }
    }

    /// Whether it updates nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// Takes a parameter into its cohort, and returns the cohort's index.
    pub(crate) fn join<C: Hash + Eq>(&mut self, id: u64, key: C, known: &mut HashMap<C, usize>) -> usize {
        let cohort = *known.entry(key).or_insert_with(|| {
            self.cohorts.push(id);
            self.cohorts.len() - 1
        });
        self.members.push((id, cohort));
        cohort
    }

    /// Partial results of a tensor of this many elements.
    pub(crate) fn results(&self, len: usize) -> u32 {
        self.blocks.results(len as u64)
    }

    /// Adds the dispatches that update these runs.
    pub(crate) fn add_updates(
        &mut self,
        runs: Vec<Run>,
        key: impl Fn(Lane, GradientAccess) -> KernelKey,
    ) -> Result<()> {
        let (alone, pooled) = split(self.gpu, runs);
        for run in &alone {
            self.add_run(|lane| key(lane, run.access).stored(run.formats()), run)?;
        }
        for ((access, padding), runs) in &pooled {
            self.add_pools(|lane| key(lane, *access), *access != GradientAccess::None, *padding, runs)?;
        }
        Ok(())
    }

    /// Adds the dispatches that update one run.
    ///
    /// The run is cut where a binding or a dispatch would exceed the device's limits. Elements behind the last whole
    /// four have a dispatch of their own, so that nothing beside the ranges is touched.
    fn add_run(&mut self, key: impl Fn(Lane) -> KernelKey, run: &Run) -> Result<()> {
        let (Some(len), Some(first)) = (run.ranges.first().map(|range| range.len as u64), run.parts.first()) else {
            return Ok(());
        };
        let limits = self.gpu.device().limits();
        let most = limits.max_compute_workgroups_per_dimension;
        let bound = limits.max_storage_buffer_binding_size / run.widest();
        let dispatched = if run.per_tensor { u64::MAX } else { u64::from(most) * WORKGROUP * 4 };
        let window = (bound.min(dispatched) / ALIGN * ALIGN).max(ALIGN);
        let whole = len / 4 * 4;
        for start in (0..whole).step_by(window as usize) {
            let elements = start..whole.min(start + window);
            let (kernel, ranges) = self.bind(key(Lane::Four), run, elements.clone())?;
            if run.per_tensor {
                let batches = self.cut_run(run, elements, most);
                self.push_batches(&kernel, &ranges, batches);
            } else {
                let workgroups = ((elements.end - elements.start) / 4).div_ceil(WORKGROUP) as u32;
                let coefficients = Source::One(first.cohort);
                self.updates.push(Pending { kernel, ranges, coefficients, workgroups });
            }
        }
        if whole < len {
            let start = whole / ALIGN * ALIGN;
            let (kernel, ranges) = self.bind(key(Lane::Tail), run, start..len)?;
            if run.per_tensor {
                let batches = self.cut_tail(run, start, whole..len);
                self.push_batches(&kernel, &ranges, batches);
            } else {
                let coefficients = Source::One(first.cohort);
                self.updates.push(Pending { kernel, ranges, coefficients, workgroups: 1 });
            }
        }
        Ok(())
    }

    fn cut_run(&mut self, run: &Run, window: Range<u64>, most: u32) -> Vec<Blocks> {
        let mut batches = Vec::new();
        for part in &run.parts {
            let piece = part.start.max(window.start)..(part.start + part.padded).min(window.end);
            if piece.is_empty() {
                continue;
            }
            let before = piece.start - part.start;
            let end = piece.start + (piece.end - piece.start) / 4 * 4;
            self.blocks.cut(
                &mut batches,
                most,
                piece.start - window.start..end - window.start,
                Lane::Four,
                |block, offset| {
                    block.cohort = part.cohort as u32;
                    (block.first, block.limit) = (((before + offset) / 4) as u32, part.len as u32);
                },
            );
        }
        batches
    }

    /// The elements behind the last whole four of a run of one tensor.
    fn cut_tail(&mut self, run: &Run, bound: u64, elements: Range<u64>) -> Vec<Blocks> {
        let (mut batches, part) = (Vec::new(), run.parts[0]);
        self.blocks.cut(&mut batches, 1, elements.start - bound..elements.end - bound, Lane::Tail, |block, _| {
            block.cohort = part.cohort as u32;
            (block.first, block.limit) = (elements.start as u32, part.len as u32);
        });
        batches
    }

    fn push_batches(&mut self, kernel: &Arc<Pass>, ranges: &wgpu::BindGroup, batches: Vec<Blocks>) {
        self.updates.extend(batches.into_iter().map(|batch| Pending::of_blocks(kernel, ranges, batch)));
    }

    /// Adds the dispatches that update runs anywhere in the same or in different buffers.
    fn add_pools(
        &mut self,
        key: impl Fn(Lane) -> KernelKey,
        has_gradient: bool,
        padding: Padding,
        runs: &[Run],
    ) -> Result<()> {
        let most = self.gpu.device().limits().max_compute_workgroups_per_dimension;
        for pool in pools(self.gpu, runs, has_gradient, self.blocks.size, padding) {
            let key = key(pool.lane).pooled(pool.bindings.clone()).stored(pool.formats());
            let key = key.with_blocks(self.gpu.gives_a_thread_a_block());
            let per_tensor = key.per_tensor();
            let (kernel, ranges) = self.bind_windows(key, &pool.windows)?;
            for batch in self.cut_pool(&pool, most) {
                let pending = Pending::of_blocks(&kernel, &ranges, batch);
                let one = Source::Pool(pool.pieces[0].cohort, batch);
                self.updates.push(if per_tensor { pending } else { Pending { coefficients: one, ..pending } });
            }
        }
        Ok(())
    }

    fn cut_pool(&mut self, pool: &Pool, most: u32) -> Vec<Blocks> {
        let (mut batches, lane, size) = (Vec::new(), pool.lane, self.blocks.size);
        for piece in &pool.pieces {
            let start = piece.starts[0];
            self.blocks.cut(&mut batches, most, start..start + piece.len, lane, |block, offset| {
                [block.start, block.grad, block.state] = piece.starts.map(|start| lane.index(start + offset));
                (block.cohort, block.out) = (piece.cohort as u32, piece.out + (offset / size) as u32);
                (block.first, block.limit) = (((piece.first + offset) / lane.elements()) as u32, piece.limit as u32);
                (block.own, block.tensor) = (((piece.own + offset) / 4) as u32, piece.tensor);
            });
        }
        batches
    }

    /// Adds the norms of this kind of gradients: runs of one tensor and one range each. With `zero`, of finite
    /// elements.
    pub(crate) fn add_norms(&mut self, kind: u32, zero: bool, gradients: &[Run]) -> Result<()> {
        for part in gradients.iter().flat_map(|run| &run.parts) {
            self.ranges.insert(part.cohort, [part.out, self.blocks.results(part.len)]);
        }
        let most = self.gpu.device().limits().max_compute_workgroups_per_dimension;
        for pool in pools(self.gpu, gradients, false, self.blocks.size, Padding::Without) {
            let kernel = self.gpu.norm_pass(kind, zero, pool.windows[0].format, pool.lane)?;
            let ranges = self.bind_group(&kernel, &pool.windows, vec![true])?;
            for batch in self.cut_pool(&pool, most) {
                self.norms.push(Pending::of_blocks(&kernel, &ranges, batch));
            }
        }
        Ok(())
    }

    /// Adds what a norm-based rule measures of these runs (see [`Run::measured`]), and what it makes of it.
    pub(crate) fn add_reduction(
        &mut self,
        reduce: Reduce,
        key: impl Fn(Lane) -> KernelKey,
        runs: &[Run],
        ratios: Vec<Ratio>,
    ) -> Result<()> {
        let most = self.gpu.device().limits().max_compute_workgroups_per_dimension;
        let mut measures = Vec::new();
        for pool in pools(self.gpu, runs, true, self.blocks.size, Padding::Without) {
            let key = key(pool.lane).pooled(pool.bindings.clone()).stored(pool.formats());
            let (kernel, ranges) = self.bind_windows(key, &pool.windows)?;
            for batch in self.cut_pool(&pool, most) {
                measures.push(Pending::of_blocks(&kernel, &ranges, batch));
            }
        }
        self.reductions.push((reduce, measures, ratios));
        Ok(())
    }

    /// The program of a step about which the device decides nothing.
    pub(crate) fn finish(mut self) -> Result<Program> {
        let gpu = self.gpu;
        let table = match self.blocks.blocks.is_empty() {
            true => None,
            false => Some(gpu.scoped("a program's table", || self.blocks.buffer(gpu))?),
        };
        let updates = bind_updates(gpu, self.updates, table.as_ref(), None)?;
        self.members.sort_unstable();
        let (members, cohorts, spans) = (self.members, self.cohorts, self.spans);
        Ok(Program { stages: vec![(Stage::Map, updates)], members, cohorts, spans, decision: None })
    }

    /// The program of a step about which the device decides, with this many partial results. `lines` comes before all
    /// else.
    pub(crate) fn finish_decided(
        mut self,
        log: &wgpu::Buffer,
        lines: Vec<(Stage, Vec<Dispatch>)>,
        results: u32,
    ) -> Result<Program> {
        let gpu = self.gpu;
        let table = gpu.scoped("a program's table", || self.blocks.buffer(gpu))?;
        let ranges = (0..self.cohorts.len()).map(|k| self.ranges.get(&k).copied().unwrap_or_default()).collect();
        let partials = if self.norms.is_empty() { 0 } else { results };
        let decision = Decision::new(gpu, log, ranges, partials, results)?;
        let mut stages = lines;
        let norms = |pending: Pending| {
            let bind = |batch: Blocks| pending.kernel.bind(gpu, 0, &[batch.binding(&table), decision.partials()]);
            pending.bound(gpu, bind)
        };
        stages.push((Stage::Reduce(NORMS), self.norms.into_iter().map(norms).collect::<Result<_>>()?));
        stages.push((Stage::Decide, decision.dispatches(gpu, log)?));
        for (reduce, measures, ratios) in self.reductions {
            let measure = |pending: Pending| {
                let bind = |batch: Blocks| {
                    let [coefficients, norms] = decision.of_rules();
                    pending.kernel.bind(gpu, 0, &[coefficients, batch.binding(&table), norms])
                };
                pending.bound(gpu, bind)
            };
            let mut dispatches = measures.into_iter().map(measure).collect::<Result<Vec<_>>>()?;
            for ratio in &ratios {
                dispatches.push(decision.ratio(gpu, ratio)?);
            }
            stages.push((Stage::Reduce(reduce), dispatches));
        }
        stages.push((Stage::Map, bind_updates(gpu, self.updates, Some(&table), Some(&decision))?));
        self.members.sort_unstable();
        let (members, cohorts, spans) = (self.members, self.cohorts, self.spans);
        Ok(Program { stages, members, cohorts, spans, decision: Some(decision) })
    }

    /// The kernel, and these elements of each range bound for it.
    fn bind(&mut self, key: KernelKey, run: &Run, elements: Range<u64>) -> Result<(Arc<Pass>, wgpu::BindGroup)> {
        let ranges: Vec<_> = run.ranges.iter().map(|range| range.part(elements.clone())).collect();
        self.bind_windows(key, &ranges)
    }

    /// The kernel, and what it binds in group 1.
    fn bind_windows(&mut self, key: KernelKey, ranges: &[BufferRange]) -> Result<(Arc<Pass>, wgpu::BindGroup)> {
        let reads = key.reads();
        let kernel = self.gpu.kernel(key)?;
        let group = self.bind_group(&kernel, ranges, reads)?;
        Ok((kernel, group))
    }

    fn bind_group(&mut self, kernel: &Pass, ranges: &[BufferRange], reads: Vec<bool>) -> Result<wgpu::BindGroup> {
        let key = (ranges.to_vec(), reads);
        if let Some(group) = self.bind_groups.get(&key) {
            return Ok(group.clone());
        }
        let resources: Vec<_> = ranges.iter().map(BufferRange::bound).collect();
        let group = self.gpu.scoped("a bind group", || kernel.bind(self.gpu, 1, &resources))?;
        self.bind_groups.insert(key, group.clone());
        Ok(group)
    }
}

/// Norms of gradients, tensor by tensor, of which the decision makes a part of each gradient's scale. Only the name is
/// used.
const NORMS: Reduce = Reduce {
    over: crate::formats::Extent::Tensor,
    parameter: false,
    reads: &[],
    keeps: None,
    into: "norms of gradients",
};

impl Pending {
    fn of_blocks(kernel: &Arc<Pass>, ranges: &wgpu::BindGroup, batch: Blocks) -> Self {
        let (kernel, ranges, workgroups) = (kernel.clone(), ranges.clone(), batch.count);
        Self { kernel, ranges, coefficients: Source::Blocks(batch), workgroups }
    }

    /// With this group 0 of its blocks.
    fn bound(&self, gpu: &Gpu, tables: impl FnOnce(Blocks) -> wgpu::BindGroup) -> Result<Dispatch> {
        let mut groups = Vec::new();
        if let Source::Blocks(batch) = self.coefficients {
            groups.push(Group::Bound(gpu.scoped("a bind group", || tables(batch))?));
        }
        groups.push(Group::Bound(self.ranges.clone()));
        Ok(Dispatch { kernel: self.kernel.clone(), groups, workgroups: [self.workgroups, 1, 1] })
    }
}

/// Binds coefficients and tables of updates.
fn bind_updates(
    gpu: &Gpu,
    updates: Vec<Pending>,
    table: Option<&wgpu::Buffer>,
    decision: Option<&Decision>,
) -> Result<Vec<Dispatch>> {
    let mut dispatches = Vec::new();
    for Pending { kernel, ranges, coefficients, workgroups } in updates {
        let mut groups = match (coefficients, decision) {
            (Source::One(cohort) | Source::Pool(cohort, _), _) => vec![Group::Coefficients(cohort)],
            (Source::Blocks(batch), Some(decision)) => {
                let [all, _] = decision.of_rules();
                let resources: Vec<_> = [all].into_iter().chain(table.map(|table| batch.binding(table))).collect();
                vec![Group::Bound(gpu.scoped("a bind group", || kernel.bind(gpu, 0, &resources))?)]
            }
            // Coefficients of each tensor are in a step about which the device decides.
            (Source::Blocks(_), None) => continue,
        };
        groups.push(Group::Bound(ranges));
        if let (Source::Pool(_, batch), Some(table)) = (coefficients, table) {
            groups.push(Group::Bound(gpu.scoped("a bind group", || kernel.bind(gpu, 2, &[batch.binding(table)]))?));
        }
        dispatches.push(Dispatch { kernel, groups, workgroups: [workgroups, 1, 1] });
    }
    Ok(dispatches)
}
