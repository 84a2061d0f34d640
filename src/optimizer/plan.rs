//! Which tensors step together, and in which runs: the plan that `step.rs` records.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::{Group, Memory, Optimizer, Parameter};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::kernel::{AVERAGE, GradientAccess, KernelKey, Lane, MOMENTUM};
use crate::gpu::memory::{Arena, BufferRange, Tensor};
use crate::gpu::norm::{Measured, Preparation};
use crate::gpu::plan::Plan;

/// What makes parameters step together: the group, the options, the step count and what is not known of it, the look-ahead; and who
/// it is, where each has coefficients of its own.
type Cohort = (usize, u64, bool, (u64, u128), u64, Option<u64>);

fn cohort(id: u64, parameter: &Parameter, groups: &[Group]) -> Cohort {
    let Parameter { group, options, steps, pending, shift, .. } = parameter;
    let alone = groups[*group].settings.clip_norm.map(|_| id);
    (*group, options.lr_scale.to_bits(), options.weight_decay, (*steps, *pending), shift.to_bits(), alone)
}

/// Adjacent tensors of one cohort in the arena, or one tensor elsewhere.
struct Run {
    ranges: Vec<BufferRange>,
    row: usize,
    access: GradientAccess,
}

impl Run {
    /// Joins a tensor that lies just behind, padding included.
    fn extend(&mut self, next: &Self, owned: bool) -> bool {
        let pairs = || self.ranges.iter().zip(&next.ranges);
        let adjacent = |(a, b): (&BufferRange, &BufferRange)| a.buffer == b.buffer && a.end() == b.offset;
        let same = (self.row, self.access) == (next.row, next.access) && self.ranges.len() == next.ranges.len();
        if !owned || !same || !pairs().all(adjacent) {
            return false;
        }
        for (a, b) in self.ranges.iter_mut().zip(&next.ranges) {
            a.len += b.len;
        }
        true
    }
}

impl Optimizer {
    pub(super) fn make_plan(&mut self, gpu: &Gpu) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut cohorts = HashMap::<Cohort, usize>::new();
        let mut runs = Vec::<(usize, Run)>::new();
        let mut measured = Vec::new();
        let (kind, zero) = (self.norm_kind(), self.zeroes());
        for (id, parameter, tensor) in self.tensors_in_place() {
            let Some(gradient) = tensor.gradient.as_ref().filter(|_| !parameter.stays()) else {
                continue;
            };
            let row = *cohorts.entry(cohort(id, parameter, &self.groups)).or_insert_with(|| {
                plan.rows.push(id);
                plan.rows.len() - 1
            });
            plan.members.push(id);
            let access = match self.groups[parameter.group].settings.zero_grad {
                true => GradientAccess::Zero,
                false if tensor.binds(&gradient.buffer) => GradientAccess::Aliased,
                false => GradientAccess::Read,
            };
            let in_arena = tensor.owned && tensor.gradient == tensor.own_gradient;
            let ranges = ranges(tensor, Some(gradient), 0..tensor.slots.len(), in_arena);
            push_run(&mut runs, parameter.group, Run { ranges, row, access }, in_arena);
            if self.measures() {
                measured.push(Measured { range: gradient.clone(), row, kind, zero });
            }
        }
        self.keep_bind_groups(runs.len());
        for (group, run) in runs {
            let Group { rule, .. } = &self.groups[group];
            let extras = self.groups[group].extras(zero);
            let key = |lane| KernelKey::update(rule, lane, run.access, extras);
            plan.add_run(gpu, &mut self.bind_groups, key, run.access, &run.ranges, run.row)?;
        }
        if self.controlled() && !plan.is_empty() {
            measured.sort_by_key(|part| part.row);
            let control = self.control(gpu)?.buffer.clone();
            plan.preparation = Some(Preparation::new(gpu, &control, plan.rows.len(), &measured)?);
        }
        Ok(plan)
    }

    pub(super) fn make_look_ahead_plan(&mut self, gpu: &Gpu, members: &[(u64, f64)]) -> Result<Plan> {
        let members = members.iter().map(|&(id, _)| id).collect();
        self.make_plan_of_one_state(gpu, members, MOMENTUM, KernelKey::look_ahead)
    }

    pub(super) fn make_swap_plan(&mut self, gpu: &Gpu, group: usize) -> Result<Plan> {
        let averaging = self.groups[group].averaging;
        let has = |parameter: &Parameter| averaging.is_some_and(|averaging| averaging.has(parameter.steps));
        let ours = self.parameters.iter().filter(|(_, parameter)| parameter.group == group && has(parameter));
        let members = ours.map(|(id, _)| *id).collect();
        self.make_plan_of_one_state(gpu, members, AVERAGE, KernelKey::swap)
    }

    /// The plan of a kernel that binds the parameters of these members, sorted, and one of their states.
    fn make_plan_of_one_state(
        &mut self,
        gpu: &Gpu,
        members: Vec<u64>,
        state: &str,
        key: impl Fn(Lane) -> KernelKey,
    ) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut cohorts = HashMap::<Cohort, usize>::new();
        let mut runs = Vec::<(usize, Run)>::new();
        for (id, parameter, tensor) in self.tensors_in_place() {
            let slot = self.groups[parameter.group].slots().iter().position(|slot| *slot == state);
            let Some(slot) = slot.filter(|_| members.binary_search(&id).is_ok()) else { continue };
            let row = *cohorts.entry(cohort(id, parameter, &self.groups)).or_insert_with(|| {
                plan.rows.push(id);
                plan.rows.len() - 1
            });
            let ranges = ranges(tensor, None, slot..slot + 1, tensor.owned);
            push_run(&mut runs, parameter.group, Run { ranges, row, access: GradientAccess::None }, tensor.owned);
        }
        plan.members = members;
        for (_, run) in runs {
            plan.add_run(gpu, &mut self.bind_groups, &key, run.access, &run.ranges, run.row)?;
        }
        Ok(plan)
    }

    /// The tensors on the GPU, those of a group's arena in the order of their places.
    fn tensors_in_place(&self) -> Vec<(u64, &Parameter, &Tensor)> {
        let mut tensors = Vec::new();
        for (&id, parameter) in &self.parameters {
            if let Memory::Gpu(tensor) = &parameter.memory {
                tensors.push((id, parameter, tensor));
            }
        }
        tensors.sort_by_key(|(_, parameter, tensor)| (parameter.group, tensor.owned, tensor.place));
        tensors
    }

    /// Forgets the bind groups of buffers that no parameter has any more, which they would keep alive, and all once they are many.
    fn keep_bind_groups(&mut self, runs: usize) {
        let mut known = HashSet::new();
        for (_, _, tensor) in self.tensors_in_place() {
            let gradients = tensor.gradient.iter().chain(&tensor.own_gradient);
            known.extend(gradients.chain([&tensor.parameter]).chain(&tensor.slots).map(|range| range.buffer.clone()));
        }
        let many = self.bind_groups.len() > 256 + 8 * runs;
        self.bind_groups.retain(|(ranges, _), _| !many && ranges.iter().all(|range| known.contains(&range.buffer)));
    }

    /// Dispatches of the last recorded step: for tests and the curious.
    pub fn dispatches(&self) -> usize {
        self.plan.as_ref().map_or(0, Plan::len)
    }
}

/// Parameter, gradient and these states, in binding order. In the arena, padding belongs to a tensor.
fn ranges(tensor: &Tensor, gradient: Option<&BufferRange>, slots: Range<usize>, padded: bool) -> Vec<BufferRange> {
    let ranges = [Some(&tensor.parameter), gradient].into_iter().flatten().chain(&tensor.slots[slots]);
    let pad = |range: &BufferRange| {
        let len = if padded { Arena::padded(range.len) as usize } else { range.len };
        BufferRange { len, ..range.clone() }
    };
    ranges.map(pad).collect()
}

fn push_run(runs: &mut Vec<(usize, Run)>, group: usize, run: Run, in_arena: bool) {
    let joined = runs.last_mut().is_some_and(|(g, last)| *g == group && last.extend(&run, in_arena));
    if !joined {
        runs.push((group, run));
    }
}
