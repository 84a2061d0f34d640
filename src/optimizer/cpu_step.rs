//! The same step on the CPU: of the optimizer's own vectors, and of the caller's slices.

use std::collections::{HashMap, HashSet};

use super::{Group, HostMemory, Memory, Optimizer, Own, Parameter, ParameterId};
use crate::cpu::{self, AnyJob, Job, Numbers, NumbersMut};
use crate::error::{Error, Result};
use crate::formats::{Extent, Format};
use crate::gpu::kernel::MOMENTUM;
use crate::noise;
use crate::rule::{Real, Step};
use crate::scaling::{Report, Safeguards};
use crate::settings::Coefficients;

/// A parameter in the caller's slices; see [`Optimizer::step_slices`].
#[derive(Debug)]
pub struct Slices<'a, F> {
    /// Which parameter.
    pub id: ParameterId,
    /// Its values, updated in place.
    pub parameter: &'a mut [F],
    /// Its gradient; `None` leaves it out of this step.
    pub gradient: Option<&'a [F]>,
}

/// One parameter's part of a step.
struct Work<'a> {
    id: u64,
    name: &'a str,
    group: usize,
    shape: Option<[usize; 2]>,
    step: Step,
    coefficients: Coefficients,
    job: AnyJob<'a>,
    /// What its rule's reduction says.
    ratio: f64,
}

impl<'a> Work<'a> {
    fn new(
        id: u64,
        parameter: &'a mut Parameter,
        (groups, window): (&[Group], u32),
        job: impl FnOnce(&Group, &'a mut Memory) -> Option<AnyJob<'a>>,
    ) -> Option<Self> {
        let group = &groups[parameter.group];
        let at = parameter.at(group, window);
        let (step, mut coefficients) = (parameter.next_step(group, at), parameter.coefficients(group, at));
        coefficients.draws = coefficients.draws.of_tensor(noise::hash(&parameter.name));
        let shape = parameter.options.shape;
        let Parameter { name, memory, group: k, .. } = parameter;
        let job = job(group, memory)?;
        Some(Self { id, name, group: *k, shape, step, coefficients, job, ratio: 1.0 })
    }
}

impl Work<'_> {
    fn update(self, groups: &[Group]) {
        let Work { group, step, coefficients, job, ratio, .. } = self;
        groups[group].rule.0.update(job, &coefficients, &step, ratio);
    }
}

/// What concerns all parameters of a step.
struct Whole {
    safeguards: Safeguards,
    kind: u32,
    measures: bool,
    zero: bool,
}

impl Whole {
    /// Whether a parameter's step depends on the others'.
    fn gathers(&self, groups: &[Group]) -> bool {
        self.measures || groups.iter().any(|group| group.settings.reshapes() || group.rule.reduce().is_some())
    }

    /// What the limit on each group's norm multiplies its gradients by, behind this coefficient.
    fn group_limits(
        &self,
        groups: &[Group],
        work: &[Work<'_>],
        norms: &[cpu::Measure],
        coefficient: f64,
    ) -> HashMap<usize, f64> {
        let mut limits = HashMap::new();
        let mut at = 0;
        for ours in work.chunk_by(|a, b| a.group == b.group) {
            let norms = &norms[at..at + ours.len()];
            at += ours.len();
            let Some(clip) = groups[ours[0].group].settings.group_clip_norm else { continue };
            let weighted = ours.iter().zip(norms).map(|(work, norm)| work.coefficients.grad_scale.abs() * norm.value);
            let factor = clip.norm.factor(ours.iter().map(|work| work.job.len()).sum());
            limits.insert(ours[0].group, clip.coefficient(coefficient * factor * cpu::join(weighted, self.kind)));
        }
        limits
    }

    /// The step, unless it is skipped: who has taken it. The twin of shaders/prepare.wgsl and what is recorded behind
    /// it.
    fn step(&self, groups: &mut [Group], mut work: Vec<Work<'_>>, report: &mut Report) -> Option<Vec<u64>> {
        // Sums go by groups and names: a norm's last bit does not depend on the order in which parameters were added.
        work.sort_unstable_by_key(|work| (work.group, work.name));
        let unscale = self.safeguards.inverse_scale(report);
        for Work { group, shape, coefficients, job, .. } in &mut work {
            let settings = &groups[*group].settings;
            if settings.reshapes() {
                job.reshape(*shape, settings, unscale * coefficients.grad_scale.abs(), self.zero);
            }
        }
        if self.measures {
            let norms = cpu::map(work.iter().collect(), |work| work.job.norm(self.kind, self.zero));
            let weighted = work.iter().zip(&norms).map(|(work, norm)| work.coefficients.grad_scale.abs() * norm.value);
            let whole = cpu::join(weighted, self.kind);
            let len = work.iter().map(|work| work.job.len()).sum();
            let factor = self.safeguards.clip.map_or(1.0, |clip| clip.norm.factor(len));
            let grad_norm = factor * whole * unscale;
            let coefficient = unscale * self.safeguards.clip.map_or(1.0, |clip| clip.coefficient(grad_norm));
            let mut bad = norms.iter().any(|norm| norm.bad);
            let mut limits = self.group_limits(groups, &work, &norms, coefficient);
            for (work, norm) in work.iter_mut().zip(&norms) {
                let limit = limits.entry(work.group).or_insert(1.0);
                let scaled = coefficient * *limit * work.coefficients.grad_scale;
                let own = groups[work.group]
                    .settings
                    .clip_norm
                    .map_or(1.0, |clip| clip.coefficient(scaled.abs() * norm.value * clip.norm.factor(work.job.len())));
                work.coefficients.grad_scale = scaled * own;
                work.coefficients.zero_non_finite = self.zero;
                bad = bad || work.job.overflows(norm.value, work.coefficients.grad_scale);
            }
            if !self.safeguards.decide(grad_norm, bad, report) {
                work.iter_mut().filter(|work| work.coefficients.zero_grad).for_each(|work| work.job.zero_gradient());
                return None;
            }
        }
        let taken = work.iter().map(|work| work.id).collect();
        trust(groups, &mut work);
        cpu::map(work, |work| work.update(groups));
        Some(taken)
    }
}

/// Measures what norm-based rules need, and gives each its ratio: the twin of shaders/trust.wgsl.
fn trust(groups: &mut [Group], work: &mut [Work<'_>]) {
    for ours in work.chunk_by_mut(|a, b| a.group == b.group) {
        let Some(group) = ours.first().map(|first| &mut groups[first.group]) else { continue };
        let (Some(over), rule) = (group.rule.reduces_over(), &group.rule.0) else { continue };
        let measure = |work: &Work<'_>| rule.measure(&work.job, &work.coefficients, &work.step);
        let norms = cpu::map(ours.iter().collect(), measure);
        match over {
            Extent::Tensor => {
                for (work, norms) in ours.iter_mut().zip(norms) {
                    let mut kept = work.job.kept();
                    work.ratio = rule.trust(norms, &mut kept, work.job.format(), &work.step);
                    work.job.keep(kept);
                }
            }
            _ => {
                let join = |a: [f64; 2], b: [f64; 2]| [cpu::hypot(a[0], b[0]), cpu::hypot(a[1], b[1])];
                let whole = norms.into_iter().fold([0.0; 2], join);
                let mut none = 0.0;
                let kept = match &mut group.shared {
                    Memory::F64(shared) => {
                        shared.states.first_mut().and_then(Numbers::same_mut).and_then(|state| state.first_mut())
                    }
                    _ => None,
                };
                let ratio = rule.trust(whole, kept.unwrap_or(&mut none), Format::F64, &ours[0].step);
                ours.iter_mut().for_each(|work| work.ratio = ratio);
            }
        }
    }
}

impl Optimizer {
    pub(super) fn step_vectors(&mut self) {
        let whole = Whole {
            safeguards: self.safeguards,
            kind: self.norm_kind(),
            measures: self.measures(),
            zero: self.zeroes(),
        };
        // Groups of nothing but slices step in `step_slices` alone.
        let mut kinds = vec![[false; 2]; self.groups.len()];
        self.parameters.values().for_each(|p| kinds[p.group][usize::from(p.in_slice())] = true);
        let stepped: Vec<_> = kinds.into_iter().map(|[own, slices]| own || !slices).collect();
        let window = self.window;
        let members = self.parameters.iter_mut().filter(|(_, parameter)| !parameter.stays());
        let job = |group: &Group, memory| match memory {
            &mut Memory::Gpu(_) => None,
            Memory::F32(v) => v.job(group).map(AnyJob::F32),
            Memory::F64(v) => v.job(group).map(AnyJob::F64),
        };
        let taken = match whole.gathers(&self.groups) {
            true => {
                let work = members
                    .filter_map(|(id, parameter)| Work::new(*id, parameter, (&self.groups, window), job))
                    .collect();
                whole.step(&mut self.groups, work, &mut self.report)
            }
            // What each needs is found on its own thread, too.
            false => {
                let groups = &self.groups;
                let step = |(id, parameter): (&u64, _)| {
                    Work::new(*id, parameter, (groups, window), job).map(|work| (work.update(groups), *id).1)
                };
                Some(cpu::map(members.collect(), step).into_iter().flatten().collect())
            }
        };
        self.end_window();
        self.count_taken(taken, |group| stepped[group]);
    }

    /// Counts a step for these parameters, and for the schedules of these groups.
    fn count_taken(&mut self, taken: Option<Vec<u64>>, stepped: impl Fn(usize) -> bool) {
        let Some(taken) = taken else { return };
        for id in taken {
            self.parameters.entry(id).and_modify(|parameter| {
                parameter.steps += 1;
                parameter.shift = 0.0;
            });
        }
        self.groups.iter_mut().enumerate().filter(|(k, _)| stepped(*k)).for_each(|(_, group)| group.steps += 1);
    }

    /// One step of parameters in the caller's slices, on the CPU: all of a group in one call, which takes its schedule
    /// one further.
    ///
    /// ```
    /// use wgpu_optim::{Device, Optimizer, Slices, rules::Momentum};
    /// let mut optimizer = Optimizer::new(&Device::Cpu, Momentum::default(), 0.1)?;
    /// let id = optimizer.add_slice::<f64>(0, "w", 2)?;
    /// let mut w = [1.0, 2.0];
    /// optimizer.step_slices(&mut [Slices { id, parameter: &mut w, gradient: Some(&[1.0, 0.0]) }])?;
    /// assert_eq!(w, [0.9, 2.0]);
    /// # Ok::<(), wgpu_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] for a parameter that is not of [`Optimizer::add_slice`] or
    /// is given twice, [`Error::ElementType`], [`Error::Length`]; all checked before the first slice changes.
    pub fn step_slices<F: Real>(&mut self, tensors: &mut [Slices<'_, F>]) -> Result<()> {
        let group = |tensor: &Slices<'_, F>| Some(self.parameters.get(&tensor.id.0)?.group);
        let stepped: HashSet<_> = tensors.iter().filter_map(group).collect();
        self.step_slices_of(tensors, |group| stepped.contains(&group))
    }

    /// The same; as on a GPU, the schedules of all groups go on with it, of those without gradients, too.
    #[cfg(feature = "burn")]
    pub(crate) fn step_all_slices<F: Real>(&mut self, tensors: &mut [Slices<'_, F>]) -> Result<()> {
        self.step_slices_of(tensors, |_| true)
    }

    fn step_slices_of<F: Real>(
        &mut self,
        tensors: &mut [Slices<'_, F>],
        stepped: impl Fn(usize) -> bool,
    ) -> Result<()> {
        self.check_groups()?;
        let (kind, measures, zero) = (self.norm_kind(), self.measures(), self.zeroes());
        let mut by_parameter = self.check_slices(tensors)?;
        let mut work = Vec::new();
        for (id, parameter) in self.parameters.iter_mut().filter(|(_, parameter)| !parameter.options.frozen) {
            let Some(Slices { parameter: w, gradient: Some(g), .. }) = by_parameter.remove(id) else { continue };
            work.extend(Work::new(*id, parameter, (&self.groups, 0), |group, memory| match memory {
                Memory::Gpu(_) => None,
                Memory::F32(v) => {
                    Some(AnyJob::F32(v.job_on(group, bytemuck::cast_slice_mut(w), bytemuck::cast_slice(g))))
                }
                Memory::F64(v) => {
                    Some(AnyJob::F64(v.job_on(group, bytemuck::cast_slice_mut(w), bytemuck::cast_slice(g))))
                }
            }));
        }
        let taken =
            Whole { safeguards: self.safeguards, kind, measures, zero }.step(&mut self.groups, work, &mut self.report);
        self.count_taken(taken, stepped);
        Ok(())
    }

    /// [`Optimizer::look_ahead`] of parameters in the caller's slices; their gradients are not read.
    ///
    /// # Errors
    /// As [`Optimizer::step_slices`].
    pub fn look_ahead_slices<F: Real>(&mut self, tensors: &mut [Slices<'_, F>]) -> Result<()> {
        self.check_groups()?;
        self.check_look_ahead()?;
        let mut by_parameter = self.check_slices(tensors)?;
        let groups = &self.groups;
        for (id, parameter) in &mut self.parameters {
            let (Some(tensor), Some(shift)) = (by_parameter.remove(id), parameter.look_ahead(groups)) else { continue };
            let v = parameter.momentum(groups);
            match &mut parameter.memory {
                Memory::Gpu(_) => {}
                Memory::F32(vectors) => {
                    cpu::look_ahead(bytemuck::cast_slice_mut(tensor.parameter), &vectors.states[v].decoded(), shift);
                }
                Memory::F64(vectors) => {
                    cpu::look_ahead(bytemuck::cast_slice_mut(tensor.parameter), &vectors.states[v].decoded(), shift);
                }
            }
            parameter.shift = shift;
        }
        Ok(())
    }

    /// The tensors by parameter, if all of them fit.
    fn check_slices<'s, 'a, F: Real>(
        &self,
        tensors: &'s mut [Slices<'a, F>],
    ) -> Result<HashMap<u64, &'s mut Slices<'a, F>>> {
        let mut by_parameter = HashMap::new();
        for tensor in tensors {
            let parameter = self.get(tensor.id)?;
            if !parameter.in_slice() {
                return Err(parameter.unsupported("a step on slices", "it was not added with add_slice"));
            }
            if parameter.element() != F::NAME {
                let (expected, name) = (parameter.element(), parameter.name.clone());
                return Err(Error::ElementType { name, expected, found: F::NAME });
            }
            parameter.check_len(tensor.parameter.len())?;
            parameter.check_len(tensor.gradient.map_or(parameter.len, <[F]>::len))?;
            if by_parameter.insert(tensor.id.0, tensor).is_some() {
                return Err(parameter.unsupported("a step on slices", "it is given twice"));
            }
        }
        Ok(by_parameter)
    }
}

impl Parameter {
    pub(super) fn in_slice(&self) -> bool {
        match &self.memory {
            Memory::Gpu(_) => false,
            Memory::F32(vectors) => vectors.own.is_none(),
            Memory::F64(vectors) => vectors.own.is_none(),
        }
    }

    /// The shift of a look-ahead, unless its rule has none or the parameter stands there already.
    pub(super) fn look_ahead(&self, groups: &[Group]) -> Option<f64> {
        let group = &groups[self.group];
        group
            .rule
            .0
            .look_ahead(&self.next_step(group, self.at(group, 0)))
            .filter(|_| self.shift == 0.0 && !self.options.frozen)
    }

    /// Which of its states is the velocity; a rule with a look-ahead has one.
    pub(super) fn momentum(&self, groups: &[Group]) -> usize {
        self.state_named(groups, MOMENTUM)
    }

    /// Which of its states has this name; its rule has one.
    pub(super) fn state_named(&self, groups: &[Group], name: &str) -> usize {
        groups[self.group].states_of_parameters().position(|state| state.name == name).unwrap_or(0)
    }
}

impl<F: Real> HostMemory<F> {
    fn job(&mut self, group: &Group) -> Option<Job<'_, F>> {
        let Own { parameter, gradient } = self.own.as_mut()?;
        let (states, others) = by_extent(group, &mut self.states);
        let gradient = match gradient.all() {
            NumbersMut::Same(g) => cpu::Gradient::Ours(g),
            NumbersMut::Halves { format, halves } => cpu::Gradient::Half(format, halves),
            NumbersMut::Blocks { .. } => return None,
        };
        Some(Job { parameter: parameter.all(), gradient, states, others })
    }

    fn job_on<'a>(&'a mut self, group: &Group, parameter: &'a mut [F], gradient: &'a [F]) -> Job<'a, F> {
        let (states, others) = by_extent(group, &mut self.states);
        Job { parameter: NumbersMut::Same(parameter), gradient: cpu::Gradient::Callers(gradient), states, others }
    }

    /// The average is the last of the states. `back`: it stands where the parameter belongs.
    pub(super) fn swap(&mut self, back: bool) {
        match (&mut self.own, self.states.last_mut()) {
            (Some(Own { parameter: Numbers::Halves { halves, .. }, .. }), Some(Numbers::Same(average))) => {
                if let Ok(average) = bytemuck::try_cast_slice_mut(average) {
                    cpu::swap_halves(halves, average, back);
                }
            }
            (Some(own), Some(average)) => std::mem::swap(&mut own.parameter, average),
            _ => {}
        }
    }

    pub(super) fn toward(&mut self, z: usize, shift: f64) {
        let parameter = self.own.as_mut().and_then(|own| own.parameter.same_mut());
        if let (Some(parameter), Some(z)) = (parameter, self.states.get(z)) {
            cpu::toward(parameter, &z.decoded(), shift);
        }
    }

    pub(super) fn look_ahead(&mut self, v: usize, shift: f64) {
        let parameter = self.own.as_mut().and_then(|own| own.parameter.same_mut());
        if let (Some(parameter), Some(v)) = (parameter, self.states.get(v)) {
            cpu::look_ahead(parameter, &v.decoded(), shift);
        }
    }
}

/// A parameter's states of its elements, and those of other extents.
fn by_extent<'a, F: Real>(group: &Group, states: &'a mut [Numbers<F>]) -> (Vec<NumbersMut<'a, F>>, Vec<&'a mut [F]>) {
    let (mut of_elements, mut others) = (Vec::with_capacity(states.len()), Vec::new());
    for (state, storage) in states.iter_mut().zip(group.states_of_parameters()) {
        match storage.extent {
            Extent::Element => of_elements.push(state.all()),
            _ => others.extend(state.same_mut().map(Vec::as_mut_slice)),
        }
    }
    (of_elements, others)
}
