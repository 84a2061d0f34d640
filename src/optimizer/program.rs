//! Which tensors step together, and in which runs: the program that `step.rs` records.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::parameter::{Cohort, cohort_of};
use super::{Memory, Optimizer, Parameter};
use crate::error::Result;
use crate::formats::Extent;
use crate::gpu::Gpu;
use crate::gpu::block_table::Owner;
use crate::gpu::decision::Ratio;
use crate::gpu::kernel::{AVERAGE, Driver, Extras, GradientAccess, ITERATE, KernelKey, Lane, MOMENTUM};
use crate::gpu::lines::{self, Shaped};
use crate::gpu::memory::{BufferRange, Tensor};
use crate::gpu::program::{BindGroups, Builder, Program, Span};
use crate::gpu::runs::Run;
use crate::noise;
use crate::settings::Settings;

impl Optimizer {
    /// Whether the program is what [`Optimizer::make_program`] would make: the same parameters in the same cohorts.
    /// What else it depends on calls [`Optimizer::invalidate`] when it changes.
    pub(super) fn holds(&mut self, program: &Program) -> bool {
        if program.decision.is_some() != (self.device_decides() && (self.measures() || !program.is_empty())) {
            return false;
        }
        let mut cohorts = std::mem::take(&mut self.cohorts);
        cohorts.clear();
        let leaders = program.cohorts.iter().filter_map(|id| Some((*id, self.parameters.get(id)?)));
        cohorts.extend(leaders.map(|(id, parameter)| cohort_of(id, parameter, &self.groups)));
        let same = cohorts.len() == program.cohorts.len() && {
            let mut members = program.members.iter();
            let ours = self.parameters.iter().filter(|(_, parameter)| parameter.is_stepped());
            let known = |(id, parameter): (&u64, &Parameter)| {
                members.next().is_some_and(|&(member, cohort)| {
                    member == *id && cohorts[cohort] == cohort_of(*id, parameter, &self.groups)
                })
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

    pub(super) fn make_program(&mut self, gpu: &Gpu) -> Result<Program> {
        let log = if self.device_decides() { Some(self.step_log(gpu)?.buffer.clone()) } else { None };
        self.with_bind_groups(|optimizer, bind_groups| optimizer.build(gpu, bind_groups, log.as_deref()))
    }

    fn build(&self, gpu: &Gpu, bind_groups: &mut BindGroups, log: Option<&wgpu::Buffer>) -> Result<Program> {
        let mut builder = Builder::new(gpu, bind_groups);
        let mut cohorts = HashMap::<Cohort, usize>::new();
        let mut runs = Vec::<(usize, Run)>::new();
        let (mut gradients, mut shaped) = (Vec::new(), Vec::new());
        let (zero, measures) = (self.zeroes(), self.measures());
        let (outs, results) = self.results(&mut builder);
        for (id, parameter, tensor) in self.tensors_in_place() {
            let Some(gradient) = tensor.gradient.as_ref().filter(|_| parameter.is_stepped()) else { continue };
            let cohort = builder.join(id, cohort_of(id, parameter, &self.groups), &mut cohorts);
            let access = match self.groups[parameter.group].settings.zero_grad {
                true => GradientAccess::Zero,
                false if tensor.binds(&gradient.buffer) => GradientAccess::Aliased,
                false => GradientAccess::Read,
            };
            let in_arena = tensor.owned && tensor.gradient == tensor.own_gradient;
            let states = self.groups[parameter.group].states_of_elements().map(|(k, _)| k);
            let ranges = ranges(tensor, Some(gradient), states, in_arena);
            let per_tensor = self.groups[parameter.group].per_parameter();
            let out = outs.get(&id).copied().unwrap_or_default();
            let tensor = noise::hash(&parameter.name);
            let run = Run::of(ranges, access, cohort, parameter.len, per_tensor).of_tensor(out, tensor);
            push_run(&mut runs, parameter.group, Run { owned: in_arena, ..run });
            if self.groups[parameter.group].settings.reshapes() {
                shaped.push((id, cohort));
            }
            if measures {
                let run = Run::of(vec![gradient.clone()], GradientAccess::Read, cohort, parameter.len, true);
                gradients.push(run.of_tensor(out, 0));
            }
        }
        let mut ratios = self.ratios(gpu, &builder, &outs)?;
        let mut runs = runs.into_iter().peekable();
        while let Some(&(k, _)) = runs.peek() {
            let group = &self.groups[k];
            let extras = group.extras(zero);
            let extras = Extras { two_factors: extras.two_factors || measures, ..extras };
            let ours: Vec<_> = std::iter::from_fn(|| runs.next_if(|(of, _)| *of == k)).map(|(_, run)| run).collect();
            if let Some(reduce) = group.rule.reduce() {
                let key = |lane| KernelKey::of_norms(group.rule.description(), Driver::Measure, lane, extras);
                let at = |state: &&str| group.states_of_elements().position(|(_, name)| name == *state);
                let read = || reduce.reads.iter().filter_map(at);
                let measured: Vec<_> = ours.iter().map(|run| run.measured(read())).collect();
                builder.add_reduction(reduce, key, &measured, ratios.remove(&k).unwrap_or_default())?;
            }
            builder
                .add_updates(ours, |lane, access| KernelKey::update(group.rule.description(), lane, access, extras))?;
        }
        match log {
            Some(log) if measures || !builder.is_empty() => {
                if measures {
                    builder.add_norms(self.norm_kind(), zero, &gradients)?;
                }
                let lines = lines::stages(gpu, log, &self.shaped(&shaped))?;
                builder.finish_decided(log, lines, results)
            }
            _ => builder.finish(),
        }
    }

    /// Runs `f` with the bind groups of the buffers that there are.
    fn with_bind_groups<T>(&mut self, f: impl FnOnce(&Self, &mut BindGroups) -> T) -> T {
        self.keep_bind_groups();
        let mut bind_groups = std::mem::take(&mut self.bind_groups);
        let made = f(self, &mut bind_groups);
        self.bind_groups = bind_groups;
        made
    }

    /// The first partial result of each parameter that steps, and how many there are in all. Their order is that of
    /// groups and names: a norm's last bit depends neither on where parameters lie nor on what the host knows of them.
    fn results(&self, builder: &mut Builder<'_>) -> (HashMap<u64, u32>, u32) {
        let mut stepped: Vec<_> = self.parameters.iter().filter(|(_, parameter)| parameter.is_stepped()).collect();
        stepped.sort_unstable_by_key(|(_, parameter)| (parameter.group, parameter.name.as_str()));
        let mut all = 0;
        let first = |(&id, parameter): (&u64, &Parameter)| {
            let (first, count) = (all, builder.results(parameter.len));
            all += count;
            let span = builder.spans.entry(parameter.group).or_insert(Span { first, ..Span::default() });
            (span.count, span.len) = (span.count + count, span.len + parameter.len);
            (id, first)
        };
        (stepped.into_iter().map(first).collect(), all)
    }

    /// What is done to the gradients of these parameters, in these cohorts, before anything else.
    fn shaped(&self, members: &[(u64, usize)]) -> Vec<Shaped<'_>> {
        let of = |&(id, cohort): &(u64, usize)| {
            let parameter = self.parameters.get(&id)?;
            let Memory::Gpu(tensor) = &parameter.memory else { return None };
            let Settings { centralize, adaptive_clip: adaptive, .. } = self.groups[parameter.group].settings;
            let (gradient, shape) = (tensor.gradient.as_ref()?, parameter.options.shape);
            let (name, parameter) = (parameter.name.as_str(), tensor.parameter.as_ref()?);
            Some(Shaped { name, parameter, gradient, shape, cohort, centralize, adaptive })
        };
        members.iter().filter_map(of).collect()
    }

    /// What norm-based groups make of their norms: an owner for each tensor, or one for the group.
    fn ratios(&self, gpu: &Gpu, builder: &Builder<'_>, outs: &HashMap<u64, u32>) -> Result<HashMap<usize, Vec<Ratio>>> {
        let mut ratios = HashMap::<usize, Vec<Ratio>>::new();
        let wgpu::Limits { max_compute_workgroups_per_dimension: most, .. } = gpu.device().limits();
        let window = gpu.device().limits().max_storage_buffer_binding_size / 256 * 256;
        let mut push = |k: usize, kept: Option<&BufferRange>, owner: Owner| -> Result<()> {
            let rule = self.groups[k].rule.description();
            let kernel = gpu.kernel(KernelKey::of_norms(rule, Driver::Trust, Lane::Four, Extras::default()))?;
            // What is bound of the buffer is cut to what the device binds.
            let bound = kept.map(|range| {
                let most = window / range.format.size();
                let base = range.first() / most * most;
                (range.window(base, most), range.first() - base)
            });
            let (kept, at) = bound.unzip();
            let owner = Owner { kept: at.unwrap_or(0) as u32, ..owner };
            let ours = ratios.entry(k).or_default();
            let room = |last: &&mut Ratio| last.owners.len() < most as usize && last.kept == kept;
            match ours.last_mut().filter(room) {
                Some(last) => last.owners.push(owner),
                None => ours.push(Ratio { kernel, kept, owners: vec![owner] }),
            }
            Ok(())
        };
        // Of a group with one number: its cohorts have indices behind each other, and so have its partial results.
        let mut whole = BTreeMap::<usize, Owner>::new();
        let mut members = builder.members.clone();
        members.sort_unstable();
        let members = members.iter().filter_map(|(id, cohort)| Some((id, *cohort as u32, self.parameters.get(id)?)));
        for (id, cohort, parameter) in members {
            let Some(over) = self.groups[parameter.group].rule.reduces_over() else { continue };
            let (first, count) = (outs.get(id).copied().unwrap_or_default(), builder.results(parameter.len));
            match over {
                Extent::Tensor => {
                    let owner = Owner { first, count, cohort, cohorts: 1, ..Owner::default() };
                    let group = &self.groups[parameter.group];
                    push(parameter.group, group.kept().and_then(|role| group.range(parameter, role)), owner)?;
                }
                _ => {
                    let owner = whole.entry(parameter.group).or_insert(Owner { first, cohort, ..Owner::default() });
                    let last = cohort.max((owner.cohort + owner.cohorts).saturating_sub(1));
                    (owner.first, owner.cohort) = (owner.first.min(first), owner.cohort.min(cohort));
                    (owner.count, owner.cohorts) = (owner.count + count, last - owner.cohort + 1);
                }
            }
        }
        for (k, owner) in whole {
            let group = &self.groups[k];
            push(k, group.kept().and_then(|role| group.shared_range(role)), owner)?;
        }
        Ok(ratios)
    }

    pub(super) fn make_look_ahead_program(&mut self, gpu: &Gpu, members: &[(u64, f64)]) -> Result<Program> {
        let members: Vec<_> = members.iter().map(|&(id, _)| id).collect();
        self.make_program_of_one_state(gpu, &members, MOMENTUM, KernelKey::look_ahead)
    }

    /// The program that moves these members towards their z.
    pub(super) fn make_toward_program(&mut self, gpu: &Gpu, members: &[u64]) -> Result<Program> {
        self.make_program_of_one_state(gpu, members, ITERATE, KernelKey::toward)
    }

    pub(super) fn make_swap_program(&mut self, gpu: &Gpu, group: usize) -> Result<Program> {
        let averaging = self.groups[group].averaging;
        let has = |parameter: &Parameter| parameter.has_average(averaging);
        let ours = self.parameters.iter().filter(|(_, parameter)| parameter.group == group && has(parameter));
        let members: Vec<_> = ours.map(|(id, _)| *id).collect();
        let halves = self.groups[group].precision.rounds_parameters();
        let back = halves.then_some(self.groups[group].swapped);
        self.make_program_of_one_state(gpu, &members, AVERAGE, |lane| KernelKey::swap(lane, back))
    }

    /// The program that writes the mirrors of all parameters.
    pub(super) fn make_mirror_program(&mut self, gpu: &Gpu) -> Result<Program> {
        self.with_bind_groups(|optimizer, bind_groups| {
            let mut builder = Builder::new(gpu, bind_groups);
            let (mut cohorts, mut runs) = (HashMap::<(), usize>::new(), Vec::new());
            for (id, parameter, tensor) in optimizer.tensors_in_place() {
                let has_mirror = optimizer.groups[parameter.group].precision.mirror.is_some();
                if !has_mirror || tensor.parameter.is_none() {
                    continue;
                }
                let cohort = builder.join(id, (), &mut cohorts);
                let ranges = ranges(tensor, None, [], tensor.owned);
                let run = Run::of(ranges, GradientAccess::None, cohort, parameter.len, false);
                runs.push(Run { owned: tensor.owned, ..run });
            }
            builder.add_updates(runs, |lane, _| KernelKey::mirror(lane))?;
            builder.finish()
        })
    }

    /// The program of a kernel that binds the parameters of these members, sorted, and one of their states.
    fn make_program_of_one_state(
        &mut self,
        gpu: &Gpu,
        members: &[u64],
        state: &str,
        key: impl Fn(Lane) -> KernelKey,
    ) -> Result<Program> {
        self.with_bind_groups(|optimizer, bind_groups| {
            let mut builder = Builder::new(gpu, bind_groups);
            let mut cohorts = HashMap::<Cohort, usize>::new();
            let mut runs = Vec::<(usize, Run)>::new();
            for (id, parameter, tensor) in optimizer.tensors_in_place() {
                let found = optimizer.groups[parameter.group].states_of_elements().find(|(_, name)| *name == state);
                let Some((found, _)) = found.filter(|_| members.binary_search(&id).is_ok()) else { continue };
                let cohort = builder.join(id, cohort_of(id, parameter, &optimizer.groups), &mut cohorts);
                let ranges = ranges(tensor, None, [found], tensor.owned);
                let run = Run::of(ranges, GradientAccess::None, cohort, parameter.len, false);
                push_run(&mut runs, parameter.group, Run { owned: tensor.owned, ..run });
            }
            builder.add_updates(runs.into_iter().map(|(_, run)| run).collect(), |lane, _| key(lane))?;
            builder.finish()
        })
    }

    /// The tensors on the GPU, those of a group's arena in the order of their ranges.
    fn tensors_in_place(&self) -> Vec<(u64, &Parameter, &Tensor)> {
        let mut tensors = Vec::new();
        for (&id, parameter) in &self.parameters {
            if let Memory::Gpu(tensor) = &parameter.memory {
                tensors.push((id, parameter, &**tensor));
            }
        }
        tensors.sort_by_key(|(_, parameter, tensor)| {
            (parameter.group, tensor.narrow, tensor.owned, tensor.home, tensor.allocation)
        });
        tensors
    }

    /// Forgets the bind groups of buffers that no parameter has any more, which they would keep alive, and all once
    /// they are many.
    fn keep_bind_groups(&mut self) {
        let mut known = HashSet::new();
        for (_, _, tensor) in self.tensors_in_place() {
            let gradients = tensor.gradient.iter().chain(&tensor.own_gradient);
            let ours = tensor.states.iter().chain(&tensor.beside);
            known.extend(gradients.chain(&tensor.parameter).chain(ours).map(|range| range.buffer.clone()));
        }
        let many = self.bind_groups.len() > 256 + 8 * self.parameters.len();
        self.bind_groups.retain(|(ranges, _), _| !many && ranges.iter().all(|range| known.contains(&range.buffer)));
    }

    /// Dispatches of the last recorded step that update parameters: for tests and the curious.
    pub fn dispatches(&self) -> usize {
        self.program.as_ref().map_or(0, |program| program.count(true))
    }

    /// Its dispatches before those: norms, the decision about the step, coefficients.
    pub fn preparing_dispatches(&self) -> usize {
        self.program.as_ref().map_or(0, |program| program.count(false))
    }
}

/// Parameter, gradient, these states and what is beside the parameter, in binding order. In the arena, padding belongs
/// to a tensor.
fn ranges(
    tensor: &Tensor,
    gradient: Option<&BufferRange>,
    states: impl IntoIterator<Item = usize>,
    padded: bool,
) -> Vec<BufferRange> {
    let states = states.into_iter().filter_map(|k| tensor.states.get(k));
    let ranges = tensor.parameter.iter().chain(gradient).chain(states).chain(&tensor.beside);
    let pad = |range: &BufferRange| {
        let len = if padded { tensor.allocation.len as usize } else { range.len };
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
