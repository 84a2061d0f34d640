//! A step: on the GPU recorded from the plan, on the CPU computed.

use super::{Group, Memory, Optimizer, Parameter, Recorded};
use crate::any_rule::AnyRule;
use crate::error::{Error, Result};
use crate::gpu::control::Control;
use crate::gpu::kernel::{Driver, Extras, GradientAccess, KernelKey, Lane};
use crate::gpu::norm::ROW_STRIDE;
use crate::gpu::plan::Plan;
use crate::gpu::slots::Slots;
use crate::gpu::{Device, Gpu};
use crate::rule::Real;
use crate::settings::{ROW_HEAD, Settings};

/// Compiles what a group's first step will need.
pub(super) fn compile(gpu: &Gpu, rule: &AnyRule, settings: &Settings, extras: Extras) -> Result<()> {
    let description = rule.description();
    let access = if settings.zero_grad { GradientAccess::Zero } else { GradientAccess::Read };
    gpu.kernel(KernelKey::update(description, Lane::Four, access, extras))?;
    if rule.reduce().is_some() {
        gpu.kernel(KernelKey::of_norms(description, Driver::Measure, extras))?;
        gpu.kernel(KernelKey::of_norms(description, Driver::Trust, Extras::default()))?;
    }
    Ok(())
}

impl Optimizer {
    /// One step of every parameter that has a gradient. On a GPU this is one submission, and it waits only if 128 steps
    /// have not finished yet.
    ///
    /// Parameters of [`Optimizer::add_slice`] have their gradients in [`Optimizer::step_slices`]; this leaves them out.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Rejected`] if the GPU has no memory left or a caller's buffer was destroyed,
    /// [`Error::Unsupported`] while averages are swapped in, [`Error::TooManyStepsInFlight`] if 128 steps are recorded
    /// in encoders that were not submitted.
    pub fn step(&mut self) -> Result<()> {
        match self.device.clone() {
            Device::Gpu(gpu) => self.submit(&gpu, Self::encode),
            Device::Cpu => {
                self.check_groups()?;
                self.step_vectors();
                Ok(())
            }
        }
    }

    /// Records one step into the caller's encoder, in one compute pass. Submits nothing and waits for nothing.
    ///
    /// The step counts from now on, with the settings that the groups have now; an encoder that is dropped instead of
    /// submitted leaves the counts one ahead (unless the step may be skipped: then it was). Several steps may be
    /// recorded into one encoder, and encoders are submitted in the order of their steps.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU, [`Error::TooManyStepsInFlight`] once 128 recorded steps have not finished,
    /// [`Error::DeviceLost`], [`Error::Rejected`]; then nothing is recorded.
    pub fn encode(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode")?;
        self.check_groups()?;
        self.resolve();
        let plan = self.current_plan(&gpu)?;
        let window = self.window;
        let recorded = match plan.preparation {
            Some(_) => self.record_controlled(&gpu, &plan, encoder),
            None => self.record(&gpu, &plan, encoder, |parameter, group, row| {
                let at = parameter.at(group, window);
                row.extend(parameter.coefficients(group, at).row());
                group.rule.0.hyper_f32(&parameter.next_step(group, at), row);
            }),
        };
        match recorded {
            Ok(recorded) => {
                self.count(&plan, recorded, |steps, pending, bit| match bit {
                    None => *steps += 1,
                    Some(bit) => *pending |= bit,
                });
                for (id, _) in &plan.members {
                    self.parameters.entry(*id).and_modify(|parameter| parameter.shift = 0.0);
                }
                self.end_window();
                self.recorded = Some(recorded);
                self.plan = Some(plan);
                Ok(())
            }
            Err(e) => {
                self.plan = Some(plan);
                Err(e)
            }
        }
    }

    /// The plan of the next step: the last one, if it still holds.
    fn current_plan(&mut self, gpu: &Gpu) -> Result<Plan> {
        match self.plan.take() {
            Some(plan) if self.holds(&plan) => Ok(plan),
            _ => self.make_plan(gpu),
        }
    }

    /// Counts a recorded step, or takes it back: of the plan's members, and of all schedules.
    fn count(&mut self, plan: &Plan, recorded: Recorded, f: impl Fn(&mut u64, &mut u128, Option<u128>)) {
        let bit = match recorded {
            Recorded::Counted => None,
            Recorded::Pending(step) => Some(Control::bit(step)),
        };
        for (id, _) in &plan.members {
            self.parameters.entry(*id).and_modify(|p| f(&mut p.steps, &mut p.pending, bit));
        }
        self.groups.iter_mut().for_each(|group| f(&mut group.steps, &mut group.pending, bit));
    }

    /// Waits until one more step may be recorded; returns at once unless 128 submitted steps have not finished (fewer,
    /// where steps may be skipped and hundreds of parameters have coefficients of their own: 16,384 sets for all
    /// outcomes). For loops that [`encode`](Optimizer::encode) and submit without ever polling the device.
    ///
    /// # Errors
    /// [`Error::TooManyStepsInFlight`] if they are recorded in encoders that were not submitted, [`Error::DeviceLost`];
    /// those of [`encode`](Optimizer::encode) for the step that comes.
    #[cfg(not(target_family = "wasm"))]
    pub fn wait_for_room(&mut self) -> Result<()> {
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(()) };
        gpu.poll()?;
        let full = |room: &Result<()>| matches!(room, Err(Error::TooManyStepsInFlight { .. }));
        let room = self.has_room();
        if !full(&room) {
            return room;
        }
        gpu.wait_for_all()?;
        self.linger(|optimizer| !full(&optimizer.has_room()));
        self.has_room()
    }

    #[cfg(not(target_family = "wasm"))]
    fn has_room(&mut self) -> Result<()> {
        self.resolve();
        self.control.as_ref().map_or(Ok(()), Control::check_room)?;
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(()) };
        // Of the step that comes, whose plan may be another one than the last.
        let plan = self.current_plan(&gpu)?;
        let candidates = self.check_candidates(&plan);
        self.plan = Some(plan);
        candidates?;
        self.slots.as_ref().map_or(Ok(()), Slots::check_room)
    }

    /// Records Nesterov's look-ahead: parameters move to `x + c·v`, where the next gradient is to be taken, and the
    /// next step takes that back. Of groups with [`Momentum`](crate::rules::Momentum) without `nesterov`; others stay.
    /// A parameter that stands there already stays too. Not where a step may be skipped, which could not take it back:
    /// see [`NonFinite`](crate::NonFinite). Between this and the step, reading a parameter gives the look-ahead point,
    /// and writing it takes it from there. A look-ahead counts as a step for the 128 that may be recorded and not
    /// finished.
    ///
    /// # Errors
    /// As [`Optimizer::encode`].
    pub fn encode_look_ahead(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode_look_ahead")?;
        self.check_groups()?;
        self.resolve();
        self.check_look_ahead()?;
        let members = self.look_ahead_members();
        let plan = match self.look_ahead_plan.take() {
            Some(plan) if plan.members.iter().map(|(id, _)| id).eq(members.iter().map(|(id, _)| id)) => plan,
            _ => self.make_look_ahead_plan(&gpu, &members)?,
        };
        let recorded = self.record(&gpu, &plan, encoder, |parameter, group, row| {
            row.extend([0; ROW_HEAD]);
            let shift = group.rule.0.look_ahead(&parameter.next_step(group, parameter.at(group, 0)));
            row.push(f32::of(shift.unwrap_or(0.0)).to_bits());
        });
        self.look_ahead_plan = Some(plan);
        if recorded.is_ok() {
            self.shift(&members);
        }
        recorded.map(drop)
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
                self.check_look_ahead()?;
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

    /// A step that is skipped cannot take a look-ahead back.
    pub(super) fn check_look_ahead(&self) -> Result<()> {
        let unknown = self.parameters.values().any(|parameter| parameter.pending != 0);
        let reason = match self.can_skip() {
            true => "the next step may be skipped, and then not take it back: set another policy than NonFinite::Skip",
            false if unknown => "it is not known yet which steps were skipped: settle first",
            false => return Ok(()),
        };
        Err(Error::Unsupported { operation: "a look-ahead", name: "the optimizer".into(), reason })
    }

    /// No step starts from averages, or at a rate that is none in f32.
    pub(super) fn check_groups(&self) -> Result<()> {
        if self.can_skip() && self.parameters.values().any(|parameter| parameter.shift != 0.0) {
            let reason = "a parameter stands at its look-ahead point, and the step may be skipped: write the parameter, \
                          or set another NonFinite";
            return Err(Error::Unsupported { operation: "a step", name: "the optimizer".into(), reason });
        }
        for (k, group) in self.groups.iter().enumerate() {
            self.check_swapped(k, "a step")?;
            group.now().check()?;
        }
        Ok(())
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

    /// Encodes and submits, waiting for a slot if there is none free. If wgpu refuses the submission, the counts go
    /// back.
    pub(super) fn submit(
        &mut self,
        gpu: &Gpu,
        mut encode: impl FnMut(&mut Self, &mut wgpu::CommandEncoder) -> Result<()>,
    ) -> Result<()> {
        self.recorded = None;
        self.before.0.clear();
        self.before.0.extend(self.parameters.values().map(|parameter| (parameter.shift, parameter.gradient)));
        self.before.1 = self.window;
        // Recording has seen whether the device is there: this asks no more, since steps are to be cheap.
        let submitted = gpu.caught("a step", || {
            let mut encoder = gpu.encoder();
            let encoded = encode(self, &mut encoder);
            #[cfg(not(target_family = "wasm"))]
            let encoded = match encoded {
                Err(Error::TooManyStepsInFlight { .. }) => {
                    self.wait_for_room().and_then(|()| encode(self, &mut encoder))
                }
                encoded => encoded,
            };
            if encoded.is_ok() {
                gpu.queue().submit([encoder.finish()]);
            }
            encoded
        });
        let submitted = submitted.and_then(|encoded| gpu.check_flag().map(|()| encoded));
        if submitted.is_err() {
            if let (Some(recorded), Some(plan)) = (self.recorded.take(), self.plan.take()) {
                self.count(&plan, recorded, |steps, pending, bit| match bit {
                    None => *steps -= 1,
                    Some(bit) => *pending &= !bit,
                });
                if let (Recorded::Pending(step), Some(control)) = (recorded, &mut self.control) {
                    control.take_back(step);
                }
                self.plan = Some(plan);
            }
            for (parameter, before) in self.parameters.values_mut().zip(&self.before.0) {
                (parameter.shift, parameter.gradient) = *before;
            }
            self.window = self.before.1;
        }
        submitted?
    }

    /// Fills a slot with a row a cohort and records the plan.
    pub(super) fn record(
        &mut self,
        gpu: &Gpu,
        plan: &Plan,
        encoder: &mut wgpu::CommandEncoder,
        fill: impl Fn(&Parameter, &Group, &mut Vec<u32>),
    ) -> Result<Recorded> {
        if plan.is_empty() {
            return gpu.check_alive().map(|()| Recorded::Counted);
        }
        let slots = self.slots.get_or_insert_with(|| Slots::new(gpu));
        let (slot, rows) = slots.acquire(gpu, plan.rows.len())?;
        self.rows.clear();
        for (row, &leader) in plan.rows.iter().enumerate() {
            self.rows.resize(row * slots.stride(), 0);
            if let Some(parameter) = self.parameters.get(&leader) {
                fill(parameter, &self.groups[parameter.group], &mut self.rows);
            }
        }
        slots.write(gpu, &rows, &self.rows)?;
        let mut pass = encoder.begin_compute_pass(&compute_pass());
        grouped(&mut pass, "update", |pass| plan.record(&rows.bind_group, |row| slots.offset(row), pass));
        drop(pass);
        encoder.on_submitted_work_done(move || drop(slot));
        Ok(Recorded::Counted)
    }

    /// Fills a slot with all that the device may need to decide about the step, and records the plan.
    fn record_controlled(&mut self, gpu: &Gpu, plan: &Plan, encoder: &mut wgpu::CommandEncoder) -> Result<Recorded> {
        let Some(preparation) = &plan.preparation else { return Ok(Recorded::Counted) };
        self.control(gpu)?;
        let words = self.slot_words(plan, preparation)?;
        let control = self.control(gpu)?;
        let in_flight = control.begin(gpu, &words)?;
        let (step, slot) = (in_flight.step, in_flight.group());
        let mut pass = encoder.begin_compute_pass(&compute_pass());
        if let Some(units) = &plan.units {
            grouped(&mut pass, "rows and columns", |pass| units.record(slot, pass));
        }
        grouped(&mut pass, "norms and coefficients", |pass| preparation.record(slot, pass));
        grouped(&mut pass, "update", |pass| plan.record(&preparation.row, |row| ROW_STRIDE * row as u32, pass));
        drop(pass);
        control.end(gpu, in_flight, encoder);
        self.rows = words;
        Ok(if self.can_skip() { Recorded::Pending(step) } else { Recorded::Counted })
    }

    /// Parameters that a look-ahead moves, and their shift.
    fn look_ahead_members(&self) -> Vec<(u64, f64)> {
        let ours = self.parameters.iter().filter(|(_, parameter)| !parameter.in_slice() && !parameter.is_nowhere());
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

/// A part of the pass that a capture shows by its name.
fn grouped(pass: &mut wgpu::ComputePass<'_>, name: &str, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
    pass.push_debug_group(name);
    record(pass);
    pass.pop_debug_group();
}

fn compute_pass() -> wgpu::ComputePassDescriptor<'static> {
    wgpu::ComputePassDescriptor { label: Some("wgpu-optim"), timestamp_writes: None }
}
