//! Which tensors step together, and in which runs: the plan that `step.rs` records.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::{Group, Memory, Optimizer, Parameter, Scalar};
use crate::error::Result;
use crate::formats::Extent;
use crate::gpu::Gpu;
use crate::gpu::kernel::{AVERAGE, Driver, Extras, GradientAccess, KernelKey, Lane, MOMENTUM};
use crate::gpu::memory::{Arena, BufferRange, Tensor};
use crate::gpu::norm::{Measured, Trust};
use crate::gpu::plan::{BindGroups, Plan, Run, Span};
use crate::gpu::tiles::{Part, Unit};
use crate::gpu::units::{Shaped, Units};
use crate::settings::Settings;

/// Elements of a tensor that shares a dispatch with others in the same buffers. A larger one has its own, which needs
/// no table.
pub(crate) const POOLED: u64 = 1 << 18;

/// What makes parameters step together: the group, the options, the step count and what is not known of it, the
/// beginning of the average, the look-ahead, whether the gradient was accumulated; and who it is, where each has
/// coefficients of its own.
pub(super) type Cohort = (usize, u64, bool, (u64, u128, u64), u64, bool, Option<u64>);

fn cohort(id: u64, parameter: &Parameter, groups: &[Group]) -> Cohort {
    let Parameter { group, options, steps, pending, shift, .. } = parameter;
    let begun = if groups[*group].averaging.is_some() { parameter.begun() } else { 0 };
    let counts = (*steps, *pending, begun);
    let (alone, accumulated) = (groups[*group].alone().then_some(id), parameter.is_accumulated());
    (*group, options.lr_scale.to_bits(), options.weight_decay, counts, shift.to_bits(), accumulated, alone)
}

impl Parameter {
    /// Whether a step on a GPU moves it.
    fn is_stepped(&self) -> bool {
        let bound =
            matches!(&self.memory, Memory::Gpu(tensor) if tensor.gradient.is_some() && tensor.parameter.is_some());
        bound && !self.stays()
    }
}

impl Run {
    /// A run of one tensor.
    pub(super) fn of(ranges: Vec<BufferRange>, access: GradientAccess, row: usize, len: usize, tiled: bool) -> Self {
        let padded = ranges.first().map_or(0, |range| range.len as u64);
        let parts = vec![Part { start: 0, padded, len: len as u64, row, out: 0 }];
        Self { ranges, access, parts, tiled, owned: false }
    }

    /// The buffers that it lies in, how, and the row of all of it, if it has one.
    fn place(&self) -> (Vec<wgpu::Buffer>, GradientAccess, Option<usize>) {
        let buffers = self.ranges.iter().map(|range| range.buffer.clone()).collect();
        (buffers, self.access, (!self.tiled).then_some(self.parts[0].row))
    }

    /// Joins a tensor that lies just behind, padding included.
    fn extend(&mut self, next: &Self) -> bool {
        let pairs = || self.ranges.iter().zip(&next.ranges);
        let adjacent = |(a, b): (&BufferRange, &BufferRange)| a.buffer == b.buffer && a.end() == b.offset;
        let same = (self.access, self.tiled) == (next.access, next.tiled) && self.ranges.len() == next.ranges.len();
        let one_row = self.parts[0].row == next.parts[0].row;
        if !self.owned || !next.owned || !same || !(self.tiled || one_row) || !pairs().all(adjacent) {
            return false;
        }
        let start = self.ranges[0].len as u64;
        for (a, b) in self.ranges.iter_mut().zip(&next.ranges) {
            a.len += b.len;
        }
        self.parts.extend(next.parts.iter().map(|part| Part { start: start + part.start, ..*part }));
        true
    }
}

impl Optimizer {
    /// Whether the plan is what [`Optimizer::make_plan`] would make: the same parameters in the same cohorts. What else
    /// a plan depends on takes it away when it changes.
    pub(super) fn holds(&mut self, plan: &Plan) -> bool {
        if plan.preparation.is_some() != (self.controlled() && (self.measures() || !plan.is_empty())) {
            return false;
        }
        let mut cohorts = std::mem::take(&mut self.cohorts);
        cohorts.clear();
        let leaders = plan.rows.iter().filter_map(|id| Some((*id, self.parameters.get(id)?)));
        cohorts.extend(leaders.map(|(id, parameter)| cohort(id, parameter, &self.groups)));
        let same = cohorts.len() == plan.rows.len() && {
            let mut members = plan.members.iter();
            let ours = self.parameters.iter().filter(|(_, parameter)| parameter.is_stepped());
            let known = |(id, parameter): (&u64, &Parameter)| {
                members
                    .next()
                    .is_some_and(|&(member, row)| member == *id && cohorts[row] == cohort(*id, parameter, &self.groups))
            };
            ours.into_iter().all(known) && members.next().is_none()
        };
        // Cohorts that have become equal are one again. Those of one parameter each never are.
        cohorts.retain(|(.., alone)| alone.is_none());
        cohorts.sort_unstable();
        let apart = cohorts.windows(2).all(|pair| pair[0] != pair[1]);
        self.cohorts = cohorts;
        same && apart
    }

    pub(super) fn make_plan(&mut self, gpu: &Gpu) -> Result<Plan> {
        let mut plan = Plan::new(gpu);
        let mut cohorts = HashMap::<Cohort, usize>::new();
        let mut runs = Vec::<(usize, Run)>::new();
        let (mut measured, mut shaped) = (Vec::new(), Vec::new());
        let (kind, zero, measures) = (self.norm_kind(), self.zeroes(), self.measures());
        let (outs, results) = self.results(&mut plan);
        for (id, parameter, tensor) in self.tensors_in_place() {
            let Some(gradient) = tensor.gradient.as_ref().filter(|_| parameter.is_stepped()) else { continue };
            let row = *cohorts.entry(cohort(id, parameter, &self.groups)).or_insert_with(|| {
                plan.rows.push(id);
                plan.rows.len() - 1
            });
            plan.members.push((id, row));
            let access = match self.groups[parameter.group].settings.zero_grad {
                true => GradientAccess::Zero,
                false if tensor.binds(&gradient.buffer) => GradientAccess::Aliased,
                false => GradientAccess::Read,
            };
            let in_arena = tensor.owned && tensor.gradient == tensor.own_gradient;
            let ranges = ranges(tensor, Some(gradient), 0..tensor.slots.len(), in_arena);
            let tiled = self.groups[parameter.group].alone();
            let out = outs.get(&id).copied().unwrap_or_default();
            let mut run = Run { owned: in_arena, ..Run::of(ranges, access, row, parameter.len, tiled) };
            run.parts[0].out = out;
            push_run(&mut runs, parameter.group, run);
            if self.groups[parameter.group].settings.reshapes() {
                shaped.push((id, row));
            }
            if measures {
                measured.push(Measured { range: gradient.clone(), row, out });
            }
        }
        self.keep_bind_groups(runs.len());
        let bind_groups = &mut self.bind_groups;
        let mut runs = runs.into_iter().peekable();
        while let Some(&(k, _)) = runs.peek() {
            let group = &self.groups[k];
            let extras = group.extras(zero);
            let extras = Extras { two_factors: extras.two_factors || measures, ..extras };
            let measure = || KernelKey::of_norms(group.rule.description(), Driver::Measure, extras);
            let ours = std::iter::from_fn(|| runs.next_if(|(of, _)| *of == k)).map(|(_, run)| run).collect();
            let (alone, pooled) = split(gpu, ours);
            for run in alone {
                plan.add_run(
                    gpu,
                    bind_groups,
                    |lane| KernelKey::update(group.rule.description(), lane, run.access, extras),
                    &run,
                )?;
                if group.rule.reduce().is_some() {
                    plan.add_measure(gpu, bind_groups, measure, &to_measure(group, &run))?;
                }
            }
            for (access, runs) in pooled {
                let key = |lane| KernelKey::update(group.rule.description(), lane, access, extras);
                plan.add_pools(gpu, bind_groups, key, access, &runs)?;
                if group.rule.reduce().is_some() {
                    let runs: Vec<_> = runs.iter().map(|run| to_measure(group, run)).collect();
                    plan.add_pooled_measures(gpu, bind_groups, measure, &runs)?;
                }
            }
        }
        if self.controlled() && (measures || !plan.is_empty()) {
            let trusts = self.trusts(gpu, &plan, &outs)?;
            let control = self.control(gpu)?.buffer.clone();
            plan.prepare(gpu, &control, (kind, zero), &measured, &trusts, results)?;
            plan.units = Some(Units::new(gpu, &control, &self.shaped(&shaped))?);
        }
        plan.members.sort_unstable();
        plan.finish(gpu)?;
        Ok(plan)
    }

    /// The first partial result of each parameter that steps, and how many there are in all. Their order is that of
    /// groups and names: a norm's last bit depends neither on where parameters lie nor on what the host knows of them.
    fn results(&self, plan: &mut Plan) -> (HashMap<u64, u32>, u32) {
        let mut stepped: Vec<_> = self.parameters.iter().filter(|(_, parameter)| parameter.is_stepped()).collect();
        stepped.sort_unstable_by_key(|(_, parameter)| (parameter.group, parameter.name.as_str()));
        let mut all = 0;
        let first = |(&id, parameter): (&u64, &Parameter)| {
            let (first, count) = (all, plan.results(parameter.len));
            all += count;
            let span = plan.spans.entry(parameter.group).or_insert(Span { first, ..Span::default() });
            (span.count, span.len) = (span.count + count, span.len + parameter.len);
            (id, first)
        };
        (stepped.into_iter().map(first).collect(), all)
    }

    /// What is done to the gradients of these parameters, with these rows, before anything else.
    fn shaped(&self, members: &[(u64, usize)]) -> Vec<Shaped<'_>> {
        let of = |&(id, row): &(u64, usize)| {
            let parameter = self.parameters.get(&id)?;
            let Memory::Gpu(tensor) = &parameter.memory else { return None };
            let Settings { centralize, adaptive_clip: adaptive, .. } = self.groups[parameter.group].settings;
            let (gradient, shape) = (tensor.gradient.as_ref()?, parameter.options.shape);
            let (name, parameter) = (parameter.name.as_str(), tensor.parameter.as_ref()?);
            Some(Shaped { name, parameter, gradient, shape, row, centralize, adaptive })
        };
        members.iter().filter_map(of).collect()
    }

    /// What norm-based groups make of their norms: a unit for each tensor, or one for the group.
    fn trusts(&self, gpu: &Gpu, plan: &Plan, outs: &HashMap<u64, u32>) -> Result<Vec<Trust>> {
        let mut trusts = Vec::<Trust>::new();
        let wgpu::Limits { max_compute_workgroups_per_dimension: most, .. } = gpu.device().limits();
        let window = gpu.device().limits().max_storage_buffer_binding_size / 256 * 256;
        let mut push = |group: &Group, scalar: Option<&BufferRange>, unit: Unit| -> Result<()> {
            let kernel = gpu.kernel(KernelKey::of_norms(group.rule.description(), Driver::Trust, Extras::default()))?;
            // What is bound of the buffer is cut to what the device binds.
            let bound = scalar.map(|range| {
                let BufferRange { buffer, offset, .. } = range;
                let base = offset / window * window;
                (BufferRange::new(buffer, base, (window.min(buffer.size() - base) / 4) as usize), (offset - base) / 4)
            });
            let (scalars, at) = bound.unzip();
            let unit = Unit { scalar: at.unwrap_or(0) as u32, ..unit };
            let same = |last: &&mut Trust| {
                let room = last.units.len() < most as usize;
                room && last.scalars == scalars && std::sync::Arc::ptr_eq(&last.kernel, &kernel)
            };
            match trusts.last_mut().filter(same) {
                Some(last) => last.units.push(unit),
                None => trusts.push(Trust { kernel, scalars, units: vec![unit] }),
            }
            Ok(())
        };
        // Of a group with one number: its rows, which lie behind each other, and its partial results, which do, too.
        let mut whole = BTreeMap::<usize, Unit>::new();
        let members = plan.members.iter().filter_map(|(id, row)| Some((id, *row as u32, self.parameters.get(id)?)));
        for (id, row, parameter) in members {
            let group = &self.groups[parameter.group];
            let Some(over) = group.rule.reduces_over() else { continue };
            let (first, count) = (outs.get(id).copied().unwrap_or_default(), plan.results(parameter.len));
            match (over, &parameter.memory) {
                (Extent::Tensor, Memory::Gpu(tensor)) => {
                    let unit = Unit { first, count, row, rows: 1, ..Unit::default() };
                    push(group, tensor.scalar.as_ref().map(|(_, range)| range), unit)?;
                }
                (Extent::Tensor, _) => {}
                (_, _) => {
                    let unit = whole.entry(parameter.group).or_insert(Unit { first, row, ..Unit::default() });
                    let last = row.max((unit.row + unit.rows).saturating_sub(1));
                    (unit.first, unit.row) = (unit.first.min(first), unit.row.min(row));
                    (unit.count, unit.rows) = (unit.count + count, last - unit.row + 1);
                }
            }
        }
        for (k, unit) in whole {
            let group = &self.groups[k];
            let scalar = if let Some(Scalar::Gpu(range)) = &group.scalar { Some(range) } else { None };
            push(group, scalar, unit)?;
        }
        Ok(trusts)
    }

    pub(super) fn make_look_ahead_plan(&mut self, gpu: &Gpu, members: &[(u64, f64)]) -> Result<Plan> {
        let members = members.iter().map(|&(id, _)| id).collect();
        self.make_plan_of_one_state(gpu, members, MOMENTUM, KernelKey::look_ahead)
    }

    pub(super) fn make_swap_plan(&mut self, gpu: &Gpu, group: usize) -> Result<Plan> {
        let averaging = self.groups[group].averaging;
        let has = |parameter: &Parameter| parameter.has_average(averaging);
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
        let mut plan = Plan::new(gpu);
        let mut cohorts = HashMap::<Cohort, usize>::new();
        let mut runs = Vec::<(usize, Run)>::new();
        for (id, parameter, tensor) in self.tensors_in_place() {
            let slot = self.groups[parameter.group].slots().iter().position(|slot| *slot == state);
            let Some(slot) = slot.filter(|_| members.binary_search(&id).is_ok()) else { continue };
            let row = *cohorts.entry(cohort(id, parameter, &self.groups)).or_insert_with(|| {
                plan.rows.push(id);
                plan.rows.len() - 1
            });
            plan.members.push((id, row));
            let ranges = ranges(tensor, None, slot..slot + 1, tensor.owned);
            let run = Run::of(ranges, GradientAccess::None, row, parameter.len, false);
            push_run(&mut runs, parameter.group, Run { owned: tensor.owned, ..run });
        }
        plan.members.sort_unstable();
        plan.add_runs(gpu, &mut self.bind_groups, runs.into_iter().map(|(_, run)| run).collect(), |lane, _| key(lane))?;
        plan.finish(gpu)?;
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
        tensors.sort_by_key(|(_, parameter, tensor)| (parameter.group, tensor.owned, tensor.home, tensor.place));
        tensors
    }

    /// Forgets the bind groups of buffers that no parameter has any more, which they would keep alive, and all once
    /// they are many.
    pub(super) fn keep_bind_groups(&mut self, runs: usize) {
        let mut known = HashSet::new();
        for (_, _, tensor) in self.tensors_in_place() {
            let gradients = tensor.gradient.iter().chain(&tensor.own_gradient);
            known.extend(gradients.chain(&tensor.parameter).chain(&tensor.slots).map(|range| range.buffer.clone()));
        }
        let many = self.bind_groups.len() > 256 + 8 * runs;
        self.bind_groups.retain(|(ranges, _), _| !many && ranges.iter().all(|range| known.contains(&range.buffer)));
    }

    /// Dispatches of the last recorded step that update parameters: for tests and the curious.
    pub fn dispatches(&self) -> usize {
        self.plan.as_ref().map_or(0, Plan::len)
    }

    /// Its dispatches before those: norms, the decision about the step, coefficients.
    pub fn preparing_dispatches(&self) -> usize {
        let preparation = self.plan.as_ref().and_then(|plan| plan.preparation.as_ref());
        let units = self.plan.as_ref().and_then(|plan| plan.units.as_ref());
        preparation.map_or(0, |preparation| preparation.len()) + units.map_or(0, |units| units.len())
    }
}

/// Parameter, gradient and these states, in binding order. In the arena, padding belongs to a tensor.
fn ranges(tensor: &Tensor, gradient: Option<&BufferRange>, slots: Range<usize>, padded: bool) -> Vec<BufferRange> {
    let ranges = tensor.parameter.iter().chain(gradient).chain(&tensor.slots[slots]);
    let pad = |range: &BufferRange| {
        let len = if padded { Arena::padded(range.len) as usize } else { range.len };
        BufferRange { len, ..range.clone() }
    };
    ranges.map(pad).collect()
}

fn push_run(runs: &mut Vec<(usize, Run)>, group: usize, run: Run) {
    let joined = runs.last_mut().is_some_and(|(g, last)| *g == group && last.extend(&run));
    if !joined {
        runs.push((group, run));
    }
}

impl Plan {
    /// Adds the dispatches of a pass over these runs.
    pub(super) fn add_runs(
        &mut self,
        gpu: &Gpu,
        bind_groups: &mut BindGroups,
        runs: Vec<Run>,
        key: impl Fn(Lane, GradientAccess) -> KernelKey,
    ) -> Result<()> {
        let (alone, pooled) = split(gpu, runs);
        for run in &alone {
            self.add_run(gpu, bind_groups, |lane| key(lane, run.access), run)?;
        }
        for (access, runs) in pooled {
            self.add_pools(gpu, bind_groups, |lane| key(lane, access), access, &runs)?;
        }
        Ok(())
    }
}

/// Runs that go through a table, by what they do with the gradient.
type Pooled = Vec<(GradientAccess, Vec<Run>)>;

/// Which runs have dispatches of their own; the others go through a table: those that cannot be bound where they are,
/// and small ones that lie in the same buffers, such as those that the arena's holes part.
fn split(gpu: &Gpu, runs: Vec<Run>) -> (Vec<Run>, Pooled) {
    let limits = gpu.device().limits();
    let alignment = u64::from(limits.min_storage_buffer_offset_alignment);
    // The table is one more, where a row for each tensor does not need it anyway.
    let buffers = |run: &Run| run.place().0.into_iter().collect::<HashSet<_>>().len();
    let room = |run: &Run| run.tiled || buffers(run) < limits.max_storage_buffers_per_shader_stage as usize;
    let small = |run: &Run| run.ranges[0].len as u64 <= POOLED;
    let mut beside = HashMap::new();
    for run in runs.iter().filter(|run| small(run)) {
        *beside.entry(run.place()).or_insert(0) += 1;
    }
    let (mut alone, mut pooled) = (Vec::new(), Pooled::new());
    for run in runs {
        let bindable = run.ranges.iter().all(|range| range.offset.is_multiple_of(alignment));
        if bindable && !(small(&run) && beside[&run.place()] > 1 && room(&run)) {
            alone.push(run);
        } else if let Some((_, runs)) = pooled.iter_mut().find(|(access, _)| *access == run.access) {
            runs.push(run);
        } else {
            pooled.push((run.access, vec![run]));
        }
    }
    (alone, pooled)
}

/// What a norm-based rule measures of a run.
fn to_measure(group: &Group, run: &Run) -> Run {
    let slots = group.slots();
    let measured = group.rule.reduce().map_or(&[][..], |reduce| reduce.reads);
    let at = |slot: &&str| slots.iter().position(|name| name == slot);
    let states = measured.iter().filter_map(at).map(|k| run.ranges[2 + k].clone());
    let ranges = run.ranges[..2].iter().cloned().chain(states).collect();
    Run { ranges, access: GradientAccess::Read, parts: run.parts.clone(), tiled: true, owned: run.owned }
}
