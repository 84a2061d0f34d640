//! A step: on the GPU recorded from the plan, on the CPU computed.

use std::collections::{HashMap, HashSet};

use super::{Group, Memory, Optimizer, Own, Parameter, ParameterId, Vectors};
use crate::cpu::{self, AnyJob, Job};
use crate::error::{Error, Result};
use crate::gpu::kernel::{Extras, GradientAccess, KernelKey, Lane, MOMENTUM};
use crate::gpu::plan::Plan;
use crate::gpu::slots::Slots;
use crate::gpu::{Device, Gpu};
use crate::rule::{AnyRule, Real};
use crate::settings::{ROW_HEAD, Settings};

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

/// Compiles what a group's first step will need.
pub(super) fn compile(gpu: &Gpu, rule: &AnyRule, settings: &Settings, extras: Extras) -> Result<()> {
    let access = if settings.zero_grad { GradientAccess::Zero } else { GradientAccess::Read };
    gpu.kernel(KernelKey::update(rule, Lane::Four, access, extras)).map(|_| ())
}

impl Optimizer {
    /// One step of every parameter that has a gradient. On a GPU this is one submission, and it waits only if 128 steps have not
    /// finished yet.
    ///
    /// Parameters of [`Optimizer::add_slice`] have their gradients in [`Optimizer::step_slices`]; this leaves them out.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Rejected`] if the GPU has no memory left or a caller's buffer was destroyed,
    /// [`Error::Unsupported`] while averages are swapped in, [`Error::TooManyStepsInFlight`] if 128 steps are recorded in encoders that were not submitted.
    pub fn step(&mut self) -> Result<()> {
        match self.device.clone() {
            Device::Gpu(gpu) => self.submit(&gpu, Self::encode),
            Device::Cpu => {
                self.check_groups()?;
                self.step_vectors();
                self.advance_schedules_but_of_slices();
                Ok(())
            }
        }
    }

    /// Records one step into the caller's encoder, in one compute pass. Submits nothing and waits for nothing.
    ///
    /// The step counts from now on, with the settings that the groups have now; an encoder that is dropped instead of submitted
    /// leaves the counts one ahead. Several steps may be recorded into one encoder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU, [`Error::TooManyStepsInFlight`] once 128 recorded steps have not finished,
    /// [`Error::DeviceLost`], [`Error::Rejected`]; then nothing is recorded.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode")?;
        gpu.check_flag()?;
        self.check_groups()?;
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => self.make_plan(&gpu)?,
        };
        let recorded = self.record(&gpu, &plan, encoder, |parameter, group, row| {
            row.extend(parameter.coefficients(group).row());
            group.rule.0.hyper_f32(&parameter.next_step(group), row);
        });
        if recorded.is_ok() {
            for id in &plan.members {
                if let Some(parameter) = self.parameters.get_mut(id) {
                    parameter.steps += 1;
                    parameter.shift = 0.0;
                }
            }
            self.advance_schedules(|_| true);
        }
        self.plan = Some(plan);
        recorded
    }

    /// Waits until one more step may be recorded; returns at once unless 128 submitted steps have not finished. For loops that
    /// [`encode`](Optimizer::encode) and submit without ever polling the device.
    ///
    /// # Errors
    /// [`Error::TooManyStepsInFlight`] if the 128 are recorded in encoders that were not submitted, [`Error::DeviceLost`].
    #[cfg(not(target_family = "wasm"))]
    pub fn wait_for_room(&self) -> Result<()> {
        let (Device::Gpu(gpu), Some(slots)) = (&self.device, &self.slots) else { return Ok(()) };
        for poll in [wgpu::PollType::Poll, wgpu::PollType::wait_indefinitely()] {
            gpu.check_flag()?;
            if slots.acquire().is_ok() {
                return Ok(());
            }
            if let Err(e) = gpu.device().poll(poll) {
                return Err(Error::Rejected { operation: "waiting", reason: e.to_string() });
            }
        }
        slots.acquire().map(drop)
    }

    /// Records Nesterov's look-ahead: parameters move to `x + c·v`, where the next gradient is to be taken, and the next step takes
    /// that back. Of groups with [`Momentum`](crate::rules::Momentum) without `nesterov`; others stay. A parameter that stands
    /// there already stays too. Between this and the step, reading a parameter gives the look-ahead point, and writing it takes it
    /// from there. A look-ahead counts as a step for the 128 that may be recorded and not finished.
    ///
    /// # Errors
    /// As [`Optimizer::encode`].
    pub fn encode_look_ahead(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode_look_ahead")?;
        gpu.check_flag()?;
        self.check_groups()?;
        let members = self.look_ahead_members();
        let plan = match self.look_ahead_plan.take() {
            Some(plan) if plan.members.iter().eq(members.iter().map(|(id, _)| id)) => plan,
            _ => self.make_look_ahead_plan(&gpu, &members)?,
        };
        let recorded = self.record(&gpu, &plan, encoder, |parameter, group, row| {
            row.extend([0.0; ROW_HEAD]);
            row.push(f32::of(group.rule.0.look_ahead(&parameter.next_step(group)).unwrap_or(0.0)));
        });
        self.look_ahead_plan = Some(plan);
        if recorded.is_ok() {
            self.shift(&members);
        }
        recorded
    }

    /// [`Optimizer::encode_look_ahead`] with a submission of its own; on the CPU, the look-ahead itself.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn look_ahead(&mut self) -> Result<()> {
        match self.device.clone() {
            Device::Gpu(gpu) => self.submit(&gpu, Self::encode_look_ahead),
            Device::Cpu => {
                self.check_groups()?;
                let members = self.look_ahead_members();
                for &(id, shift) in &members {
                    let Some(parameter) = self.parameters.get_mut(&id) else { continue };
                    let v = parameter.momentum_slot(&self.groups);
                    match &mut parameter.memory {
                        Memory::Gpu(_) => {}
                        Memory::F32(vectors) => vectors.look_ahead(v, shift),
                        Memory::F64(vectors) => vectors.look_ahead(v, shift),
                    }
                }
                self.shift(&members);
                Ok(())
            }
        }
    }

    /// One step of parameters in the caller's slices, on the CPU: all of a group in one call, which takes its schedule one further.
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
    /// [`Error::UnknownParameter`], [`Error::Unsupported`] for a parameter that is not of [`Optimizer::add_slice`] or is given
    /// twice, [`Error::ElementType`], [`Error::Length`]; all checked before the first slice changes.
    pub fn step_slices<F: Real>(&mut self, tensors: &mut [Slices<'_, F>]) -> Result<()> {
        self.check_groups()?;
        let mut places = self.check_slices(tensors)?;
        let stepped: HashSet<_> = places.keys().filter_map(|id| Some(self.parameters.get(id)?.group)).collect();
        let groups = &self.groups;
        let mut work = Vec::new();
        for (id, parameter) in self.parameters.iter_mut().filter(|(_, parameter)| !parameter.options.frozen) {
            if let Some(Slices { parameter: w, gradient: Some(g), .. }) = places.remove(id) {
                work.push((parameter, &mut **w, *g));
            }
        }
        for_each(work, |(parameter, w, g): (&mut Parameter, &mut [F], &[F])| {
            parameter.step(groups, |memory| match memory {
                Memory::Gpu(_) => None,
                Memory::F32(v) => Some(AnyJob::F32(v.job_on(bytemuck::cast_slice_mut(w), bytemuck::cast_slice(g)))),
                Memory::F64(v) => Some(AnyJob::F64(v.job_on(bytemuck::cast_slice_mut(w), bytemuck::cast_slice(g)))),
            });
        });
        self.advance_schedules(|group| stepped.contains(&group));
        Ok(())
    }

    /// [`Optimizer::look_ahead`] of parameters in the caller's slices; their gradients are not read.
    ///
    /// # Errors
    /// As [`Optimizer::step_slices`].
    pub fn look_ahead_slices<F: Real>(&mut self, tensors: &mut [Slices<'_, F>]) -> Result<()> {
        self.check_groups()?;
        let mut places = self.check_slices(tensors)?;
        let groups = &self.groups;
        for (id, parameter) in &mut self.parameters {
            let (Some(tensor), Some(shift)) = (places.remove(id), parameter.look_ahead(groups)) else { continue };
            let v = parameter.momentum_slot(groups);
            match &mut parameter.memory {
                Memory::Gpu(_) => {}
                Memory::F32(vectors) => {
                    cpu::look_ahead(bytemuck::cast_slice_mut(tensor.parameter), &vectors.slots[v], shift);
                }
                Memory::F64(vectors) => {
                    cpu::look_ahead(bytemuck::cast_slice_mut(tensor.parameter), &vectors.slots[v], shift);
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
        let mut places = HashMap::new();
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
            if places.insert(tensor.id.0, tensor).is_some() {
                return Err(parameter.unsupported("a step on slices", "it is given twice"));
            }
        }
        Ok(places)
    }

    /// Exchanges a group's parameters with their averages, to evaluate the model on them, and back. A parameter without an average
    /// yet, such as a frozen one, stays. In between no step is possible, nor a change to the group's parameters and states.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::Unsupported`] for a group without [`Optimizer::set_averaging`], with parameters in the
    /// caller's slices, or at their look-ahead point; on a GPU those of [`Optimizer::step`].
    pub fn swap_averages(&mut self, group: usize) -> Result<()> {
        let refuse =
            |reason| Err(Error::Unsupported { operation: "swap_averages", name: format!("group {group}"), reason });
        if self.group(group)?.averaging.is_none() {
            return refuse("it keeps no average");
        }
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.in_slice()) {
            return refuse("some of its parameters are in the caller's slices");
        }
        if self.parameters.values().any(|parameter| parameter.group == group && parameter.shift != 0.0) {
            return refuse("some of its parameters stand at their look-ahead point: step first");
        }
        if let Device::Gpu(gpu) = self.device.clone() {
            self.submit(&gpu, |optimizer, encoder| {
                let plan = optimizer.make_swap_plan(&gpu, group)?;
                optimizer.record(&gpu, &plan, encoder, |_, _, row| row.extend([0.0; ROW_HEAD + 1]))
            })?;
        }
        let averaging = self.groups[group].averaging;
        let has = |parameter: &&mut Parameter| averaging.is_some_and(|averaging| averaging.has(parameter.steps));
        for parameter in self.parameters.values_mut().filter(|parameter| parameter.group == group).filter(has) {
            match &mut parameter.memory {
                Memory::Gpu(_) => {}
                Memory::F32(vectors) => vectors.swap(),
                Memory::F64(vectors) => vectors.swap(),
            }
        }
        self.groups[group].swapped ^= true;
        Ok(())
    }

    /// No step starts from averages, or at a rate that is none in f32.
    fn check_groups(&self) -> Result<()> {
        for (k, group) in self.groups.iter().enumerate() {
            self.check_swapped(k, "a step")?;
            group.now().check()?;
        }
        Ok(())
    }

    /// Takes the schedules of these groups one further.
    fn advance_schedules(&mut self, stepped: impl Fn(usize) -> bool) {
        let groups = self.groups.iter_mut().enumerate().filter(|(k, _)| stepped(*k));
        groups.for_each(|(_, group)| group.steps += 1);
    }

    /// Groups of nothing but slices step in [`Optimizer::step_slices`] alone.
    fn advance_schedules_but_of_slices(&mut self) {
        let of = |group, slices| self.parameters.values().any(|p| p.group == group && p.in_slice() == slices);
        let stepped: Vec<_> = (0..self.groups.len()).map(|group| of(group, false) || !of(group, true)).collect();
        self.advance_schedules(|group| stepped[group]);
    }

    fn step_vectors(&mut self) {
        let groups = &self.groups;
        let work: Vec<_> = self.parameters.values_mut().filter(|parameter| !parameter.stays()).collect();
        for_each(work, |parameter| {
            parameter.step(groups, |memory| match memory {
                Memory::Gpu(_) => None,
                Memory::F32(v) => v.job().map(AnyJob::F32),
                Memory::F64(v) => v.job().map(AnyJob::F64),
            });
        });
    }

    pub(super) fn gpu(&self, operation: &'static str) -> Result<Gpu> {
        match &self.device {
            Device::Gpu(gpu) => Ok(gpu.clone()),
            Device::Cpu => {
                let reason = "the optimizer runs on the CPU";
                Err(Error::Unsupported { operation, name: "the optimizer".into(), reason })
            }
        }
    }

    /// Encodes and submits, waiting for a slot if there is none free. If wgpu refuses the submission, the counts go back.
    fn submit(
        &mut self,
        gpu: &Gpu,
        mut encode: impl FnMut(&mut Self, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        gpu.check_flag()?;
        self.before.parameters.clear();
        self.before.parameters.extend(self.parameters.values().map(|parameter| (parameter.steps, parameter.shift)));
        self.before.groups.clear();
        self.before.groups.extend(self.groups.iter().map(|group| group.steps));
        let submitted = gpu.scoped("a step", || {
            let mut encoder = gpu.device().create_command_encoder(&Default::default());
            let encoded = encode(self, &mut encoder);
            #[cfg(not(target_family = "wasm"))]
            let encoded = [wgpu::PollType::Poll, wgpu::PollType::wait_indefinitely()].into_iter().fold(
                encoded,
                |encoded, poll| {
                    let full = matches!(encoded, Err(Error::TooManyStepsInFlight { .. }));
                    if full && gpu.device().poll(poll).is_ok() { encode(self, &mut encoder) } else { encoded }
                },
            );
            if encoded.is_ok() {
                gpu.queue().submit([encoder.finish()]);
            }
            encoded
        });
        if submitted.is_err() {
            for (group, before) in self.groups.iter_mut().zip(&self.before.groups) {
                group.steps = *before;
            }
            for (parameter, before) in self.parameters.values_mut().zip(&self.before.parameters) {
                (parameter.steps, parameter.shift) = *before;
            }
        }
        submitted?
    }

    /// Fills a slot with a row a cohort and records the plan.
    fn record(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        encoder: &mut wgpu::CommandEncoder,
        fill: impl Fn(&Parameter, &Group, &mut Vec<f32>),
    ) -> Result<()> {
        if plan.is_empty() {
            return Ok(());
        }
        if !self.slots.as_ref().is_some_and(|slots| slots.holds(plan.rows.len())) {
            self.slots = Some(Slots::new(gpu, plan.rows.len())?);
        }
        let Some(slots) = &self.slots else {
            return Ok(());
        };
        let slot = slots.acquire()?;
        self.rows.clear();
        for (row, &leader) in plan.rows.iter().enumerate() {
            self.rows.resize(row * slots.stride(), 0.0);
            if let Some(parameter) = self.parameters.get(&leader) {
                fill(parameter, &self.groups[parameter.group], &mut self.rows);
            }
        }
        slots.write(gpu, &slot, &self.rows)?;
        plan.record(slots, slot, encoder);
        Ok(())
    }

    /// Parameters that a look-ahead moves, and their shift.
    fn look_ahead_members(&self) -> Vec<(u64, f64)> {
        let ours = self.parameters.iter().filter(|(_, parameter)| !parameter.in_slice());
        ours.filter_map(|(&id, parameter)| Some((id, parameter.look_ahead(&self.groups)?))).collect()
    }

    fn shift(&mut self, members: &[(u64, f64)]) {
        for (id, shift) in members {
            if let Some(parameter) = self.parameters.get_mut(id) {
                parameter.shift = *shift;
            }
        }
    }
}

impl Parameter {
    /// One step on the CPU, of the job that its memory makes.
    fn step<'a>(&'a mut self, groups: &[Group], job: impl FnOnce(&'a mut Memory) -> Option<AnyJob<'a>>) {
        let group = &groups[self.group];
        let (step, c) = (self.next_step(group), self.coefficients(group));
        if let Some(job) = job(&mut self.memory) {
            group.rule.0.update(job, &c, &step);
            self.steps += 1;
            self.shift = 0.0;
        }
    }

    fn in_slice(&self) -> bool {
        match &self.memory {
            Memory::Gpu(_) => false,
            Memory::F32(vectors) => vectors.own.is_none(),
            Memory::F64(vectors) => vectors.own.is_none(),
        }
    }

    /// The shift of a look-ahead, unless its rule has none or the parameter stands there already.
    fn look_ahead(&self, groups: &[Group]) -> Option<f64> {
        let group = &groups[self.group];
        group.rule.0.look_ahead(&self.next_step(group)).filter(|_| self.shift == 0.0 && !self.options.frozen)
    }

    /// Which of its states is the velocity; a rule with a look-ahead has one.
    pub(super) fn momentum_slot(&self, groups: &[Group]) -> usize {
        groups[self.group].rule.slots().iter().position(|slot| *slot == MOMENTUM).unwrap_or(0)
    }
}

impl<F: Real> Vectors<F> {
    fn job(&mut self) -> Option<Job<'_, F>> {
        let Own { parameter, gradient } = self.own.as_mut()?;
        let slots = self.slots.iter_mut().map(Vec::as_mut_slice).collect();
        Some(Job { parameter, gradient: cpu::Gradient::Ours(gradient), slots })
    }

    fn job_on<'a>(&'a mut self, parameter: &'a mut [F], gradient: &'a [F]) -> Job<'a, F> {
        let slots = self.slots.iter_mut().map(Vec::as_mut_slice).collect();
        Job { parameter, gradient: cpu::Gradient::Callers(gradient), slots }
    }

    /// The average is the last of the states.
    fn swap(&mut self) {
        if let (Some(own), Some(average)) = (&mut self.own, self.slots.last_mut()) {
            std::mem::swap(&mut own.parameter, average);
        }
    }

    fn look_ahead(&mut self, v: usize, shift: f64) {
        if let (Some(own), Some(v)) = (&mut self.own, self.slots.get(v)) {
            cpu::look_ahead(&mut own.parameter, v, shift);
        }
    }
}

#[cfg(not(target_family = "wasm"))]
fn for_each<T: Send>(work: Vec<T>, f: impl Fn(T) + Send + Sync) {
    use rayon::prelude::*;
    work.into_par_iter().for_each(f);
}

#[cfg(target_family = "wasm")]
fn for_each<T>(work: Vec<T>, f: impl Fn(T)) {
    work.into_iter().for_each(f);
}
