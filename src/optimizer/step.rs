//! A step: on the GPU recorded from the program, on the CPU computed.

use super::storage::{formats, measured_formats};
use super::{Group, Memory, Optimizer, Parameter, Recorded};
use crate::error::{Error, Result};
use crate::gpu::decision::COEFFICIENT_STRIDE;
use crate::gpu::kernel::{Driver, Extras, GradientAccess, KernelKey, Lane};
use crate::gpu::memory::BufferRange;
use crate::gpu::program::Program;
use crate::gpu::recording::Inputs;
use crate::gpu::ring::CoefficientRing;
use crate::gpu::runs::is_narrow;
use crate::gpu::step_log::{InFlight, MEASURED, StepLog};
use crate::gpu::{Device, Gpu};
use crate::rule::Real;
use crate::settings::{COEFFICIENT_HEAD, Settings};

impl Group {
    /// Compiles what its first step with these settings will need.
    pub(super) fn compile(&self, gpu: &Gpu, settings: &Settings, extras: Extras) -> Result<()> {
        let rule = self.rule.description();
        let access = if settings.zero_grad { GradientAccess::Zero } else { GradientAccess::Read };
        let formats = formats(&self.rule, extras.average, self.precision);
        let key = KernelKey::update(rule, Lane::Four, access, extras);
        let key = match is_narrow(&formats, access) {
            true => key.pooled((0..formats.len()).collect()),
            false => key,
        };
        gpu.kernel(key.stored(formats).with_blocks(gpu.gives_a_thread_a_block()))?;
        if self.rule.reduce().is_some() {
            let measured = measured_formats(&self.rule, self.precision);
            gpu.kernel(KernelKey::of_norms(rule, Driver::Measure, Lane::Four, extras).stored(measured))?;
            gpu.kernel(KernelKey::of_norms(rule, Driver::Trust, Lane::Four, Extras::default()))?;
        }
        Ok(())
    }
}

impl Optimizer {
    /// One step of every parameter that has a gradient. On a GPU this is one submission, and it waits only if 128 steps
    /// have not finished yet.
    ///
    /// Parameters of [`Optimizer::add_slice`] have their gradients in [`Optimizer::step_slices`]; this leaves them out.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::Rejected`] if the GPU has no memory left or a caller's buffer was destroyed,
    /// [`Error::Unsupported`] while averages are swapped in or parameters stand where the model is
    /// [evaluated](Optimizer::evaluate), [`Error::TooManyStepsInFlight`] if 128 steps are recorded
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
        self.measured = None;
        self.resolve();
        let program = self.current_program(&gpu)?;
        let window = self.window;
        let recorded = match program.decision {
            Some(_) => self.record_decided(&gpu, &program, encoder),
            None => self.record(&gpu, &program, encoder, |parameter, group, words| {
                let at = parameter.at(group, window);
                words.extend(parameter.coefficients(group, at).words());
                group.rule.0.hyper_f32(&parameter.next_step(group, at), words);
            }),
        };
        self.count_recorded(program, recorded)
    }

    /// Counts a step that was recorded with this program, and keeps the program.
    fn count_recorded(&mut self, program: Program, recorded: Result<Recorded>) -> Result<()> {
        if let Ok(recorded) = recorded {
            self.count(&program, recorded, |steps, pending, bit| match bit {
                None => *steps += 1,
                Some(bit) => *pending |= bit,
            });
            for (id, _) in &program.members {
                self.parameters.entry(*id).and_modify(|parameter| parameter.shift = 0.0);
            }
            self.end_window();
            self.recorded = Some(recorded);
        }
        self.program = Some(program);
        recorded.map(drop)
    }

    /// Records the first half of a step: gradients are centralized and clipped by rows or columns, and their norms are
    /// taken. [`Optimizer::measured`] then holds the norm of all gradients, for your kernels to read and change;
    /// [`Optimizer::encode_apply`] records the other half. `encode` is both, without the 32 bytes between them.
    ///
    /// This is for a norm that is not one optimizer's alone: of two optimizers, or of gradients on other devices.
    ///
    /// ```no_run
    /// # fn f(mut a: wgpu_optim::Optimizer, mut b: wgpu_optim::Optimizer, encoder: &mut wgpu::CommandEncoder)
    /// # -> wgpu_optim::Result<()> {
    /// a.encode_measure(encoder)?;
    /// b.encode_measure(encoder)?;
    /// let ranges = [a.measured()?, b.measured()?];
    /// // … record a kernel that joins the two norms and writes the result to both …
    /// a.encode_apply(encoder)?;
    /// b.encode_apply(encoder)?;
    /// # let _ = ranges; Ok(())
    /// # }
    /// ```
    ///
    /// Nothing about the optimizer may change between the two halves: neither its parameters and gradients nor its
    /// settings, and it must not [settle](Optimizer::settle). A first half without a second changes gradients only
    /// where [`Settings::centralize`](crate::Settings::centralize) or
    /// [`Settings::adaptive_clip`](crate::Settings::adaptive_clip) do; the next step forgets it. A step in two halves
    /// takes an element of 2¹²⁷ and more for an infinite one.
    ///
    /// # Errors
    /// As [`Optimizer::encode`], and [`Error::Unsupported`] if nothing is measured: without
    /// [`Optimizer::set_clip_norm`], a loss scaler or [`Optimizer::set_non_finite`].
    pub fn encode_measure(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode_measure")?;
        self.check_groups()?;
        self.measured = None;
        self.resolve();
        let name = || "the optimizer".to_owned();
        if !self.measures() {
            let reason = "no gradient is measured: see set_clip_norm, whose max_norm may be infinite";
            return Err(Error::Unsupported { operation: "encode_measure", name: name(), reason });
        }
        let program = self.current_program(&gpu)?;
        let begun = self.begin_step(&gpu, &program, true);
        if let (Ok(in_flight), Some(decision)) = (&begun, &program.decision) {
            let inputs =
                Inputs { step: Some(in_flight.group()), coefficients: (&decision.coefficients, COEFFICIENT_STRIDE) };
            let mut pass = encoder.begin_compute_pass(&compute_pass());
            program.record(0..program.before_decision(), inputs, &mut pass);
            program.record_total(inputs, &mut pass);
        }
        self.program = Some(program);
        self.measured = Some((begun?, self.words.clone()));
        Ok(())
    }

    /// Records the other half of a step behind [`Optimizer::encode_measure`]: the decision about the step, with the
    /// norm and the fault that [`Optimizer::measured`] has by then, and the update.
    ///
    /// # Errors
    /// [`Error::Unsupported`] without the first half, or if the optimizer has changed since. Then record both halves
    /// into another encoder, and drop this one.
    pub fn encode_apply(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let gpu = self.gpu("encode_apply")?;
        let reason = "encode_measure comes before it, and nothing about the optimizer may change in between";
        let refused = || Error::Unsupported { operation: "encode_apply", name: "the optimizer".into(), reason };
        let ((in_flight, uploaded), program) = self.measured.take().zip(self.program.take()).ok_or_else(refused)?;
        // What the first half uploaded must be what a step uploads now, but for the step's number, which is the first.
        let now = self.step_words(&program, true);
        let same = now.as_ref().is_ok_and(|now| now[1..] == uploaded[1..]) && self.holds(&program);
        self.words = now.unwrap_or_default();
        let recorded = match same {
            true => self.finish_recording(&gpu, &program, in_flight, encoder, program.before_decision()),
            false => Err(refused()),
        };
        self.count_recorded(program, recorded)
    }

    /// What [`Optimizer::encode_measure`] leaves, 32 bytes in a buffer that your kernels may bind as storage, with
    /// `COPY_SRC` and `COPY_DST`:
    ///
    /// ```text
    /// struct Measured {
    ///     scale: f32,     // the norm of all gradients is scale · 2^exponent · sum:
    ///     exponent: i32,  // with factors of settings and micro-batches, before 1/scale of a loss scaler
    ///     sum: f32,
    ///     fault: u32,     // 0, or 1 if an element of a gradient is infinite, 2 if one is NaN
    ///     reach: i32,     // at least the exponent of the largest element
    ///     unused: array<u32, 3>,
    /// }
    /// ```
    ///
    /// [`ClipNorm`](crate::ClipNorm) says which norm it is. To write another norm n, write `(n, 0, 1)`. Who joins
    /// several optimizers takes the largest `fault` and the largest `reach`, so that all of them skip the same steps.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU; [`Error::Rejected`], [`Error::DeviceLost`].
    pub fn measured(&mut self) -> Result<BufferRange> {
        let gpu = self.gpu("measured")?;
        gpu.check_alive()?;
        Ok(BufferRange::new(&self.step_log(&gpu)?.buffer, MEASURED, 8))
    }

    /// The program of the next step: the last one, if it still holds.
    fn current_program(&mut self, gpu: &Gpu) -> Result<Program> {
        match self.program.take() {
            Some(program) if self.holds(&program) => Ok(program),
            _ => {
                self.measured = None;
                self.make_program(gpu)
            }
        }
    }

    /// Counts a recorded step, or takes it back: of the program's members, and of all schedules.
    fn count(&mut self, program: &Program, recorded: Recorded, f: impl Fn(&mut u64, &mut u128, Option<u128>)) {
        let bit = match recorded {
            Recorded::Counted => None,
            Recorded::Pending(step) => Some(StepLog::bit(step)),
        };
        for (id, _) in &program.members {
            self.parameters.entry(*id).and_modify(|p| f(&mut p.steps, &mut p.pending, bit));
        }
        self.groups.iter_mut().for_each(|group| f(&mut group.steps, &mut group.pending, bit));
    }

    /// Waits until one more step may be recorded; returns at once unless 128 submitted steps have not finished (fewer,
    /// where steps may be skipped and hundreds of parameters have coefficients of their own: 16,384 sets for all
    /// outcomes). For loops that [`encode`](Optimizer::encode) and submit without ever polling the device, and in a
    /// browser for every loop: there [`step`](Optimizer::step) cannot wait by itself.
    ///
    /// # Errors
    /// [`Error::TooManyStepsInFlight`] if they are recorded in encoders that were not submitted, [`Error::DeviceLost`];
    /// those of [`encode`](Optimizer::encode) for the step that comes.
    pub async fn room(&mut self) -> Result<()> {
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(()) };
        #[cfg(not(target_family = "wasm"))]
        gpu.poll()?;
        let full = |room: &Result<()>| matches!(room, Err(Error::TooManyStepsInFlight { .. }));
        let room = self.has_room();
        if !full(&room) {
            return room;
        }
        gpu.idle().await?;
        self.poll_until(&gpu, |optimizer| !full(&optimizer.has_room())).await?;
        self.has_room()
    }

    /// [`Optimizer::room`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::room`].
    #[cfg(not(target_family = "wasm"))]
    pub fn wait_for_room(&mut self) -> Result<()> {
        pollster::block_on(self.room())
    }

    pub(crate) fn has_room(&mut self) -> Result<()> {
        self.resolve();
        self.log.as_ref().map_or(Ok(()), StepLog::check_room)?;
        let Device::Gpu(gpu) = self.device.clone() else { return Ok(()) };
        gpu.check_flag()?;
        // Of the step that comes, whose program may be another one than the last.
        let program = self.current_program(&gpu)?;
        let candidates = self.check_candidates(&program);
        self.program = Some(program);
        candidates?;
        self.ring.as_ref().map_or(Ok(()), CoefficientRing::check_room)
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
        let program = match self.look_ahead_program.take() {
            Some(program) if program.members.iter().map(|(id, _)| id).eq(members.iter().map(|(id, _)| id)) => program,
            _ => self.make_look_ahead_program(&gpu, &members)?,
        };
        let recorded = self.record(&gpu, &program, encoder, |parameter, group, words| {
            words.extend([0; COEFFICIENT_HEAD]);
            let shift = group.rule.0.look_ahead(&parameter.next_step(group, parameter.at(group, 0)));
            words.push(f32::of(shift.unwrap_or(0.0)).to_bits());
        });
        self.look_ahead_program = Some(program);
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
                    let v = parameter.momentum(&self.groups);
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
        let rounds = |parameter: &Parameter| self.groups[parameter.group].precision.rounds_parameters();
        let rounded =
            self.parameters.values().any(|parameter| rounds(parameter) && parameter.look_ahead(&self.groups).is_some());
        let reason = match self.can_skip() {
            true => "the next step may be skipped, and then not take it back: set another policy than NonFinite::Skip",
            false if unknown => "it is not known yet which steps were skipped: settle first",
            false if rounded => "a parameter in bf16 would be rounded twice: see Precision::exact_master",
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
            self.check_in_place(k, "a step")?;
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

    /// Encodes and submits, waiting for room if there is none. If wgpu refuses the submission, the counts go
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
            if let (Some(recorded), Some(program)) = (self.recorded.take(), self.program.take()) {
                self.count(&program, recorded, |steps, pending, bit| match bit {
                    None => *steps -= 1,
                    Some(bit) => *pending &= !bit,
                });
                if let (Recorded::Pending(step), Some(log)) = (recorded, &mut self.log) {
                    log.take_back(step);
                }
                self.program = Some(program);
            }
            for (parameter, before) in self.parameters.values_mut().zip(&self.before.0) {
                (parameter.shift, parameter.gradient) = *before;
            }
            self.window = self.before.1;
        }
        submitted?
    }

    /// Fills an entry of the ring with each cohort's coefficients, and records the program.
    pub(super) fn record(
        &mut self,
        gpu: &Gpu,
        program: &Program,
        encoder: &mut wgpu::CommandEncoder,
        fill: impl Fn(&Parameter, &Group, &mut Vec<u32>),
    ) -> Result<Recorded> {
        if program.is_empty() {
            return gpu.check_alive().map(|()| Recorded::Counted);
        }
        let ring = self.ring.get_or_insert_with(|| CoefficientRing::new(gpu));
        let (in_use, coefficients) = ring.acquire(gpu, program.cohorts.len())?;
        self.words.clear();
        for (cohort, &leader) in program.cohorts.iter().enumerate() {
            self.words.resize(cohort * ring.stride(), 0);
            if let Some(parameter) = self.parameters.get(&leader) {
                fill(parameter, &self.groups[parameter.group], &mut self.words);
            }
        }
        ring.write(gpu, &coefficients, &self.words)?;
        let mut pass = encoder.begin_compute_pass(&compute_pass());
        let inputs = Inputs { step: None, coefficients: (&coefficients.bind_group, 4 * ring.stride() as u32) };
        program.record(program.all(), inputs, &mut pass);
        drop(pass);
        encoder.on_submitted_work_done(move || drop(in_use));
        Ok(Recorded::Counted)
    }

    /// Records a step about which the device decides.
    fn record_decided(&mut self, gpu: &Gpu, program: &Program, encoder: &mut wgpu::CommandEncoder) -> Result<Recorded> {
        let in_flight = self.begin_step(gpu, program, false)?;
        self.finish_recording(gpu, program, in_flight, encoder, 0)
    }

    /// Takes an entry of the ring with all that the device may need to decide about the step. `measured` says that the
    /// norm is what [`Optimizer::measured`] has.
    fn begin_step(&mut self, gpu: &Gpu, program: &Program, measured: bool) -> Result<InFlight> {
        self.step_log(gpu)?;
        let words = self.step_words(program, measured)?;
        let begun = self.step_log(gpu)?.begin(gpu, &words);
        self.words = words;
        begun
    }

    /// Records the program from this stage on, and how the host learns what became of it.
    fn finish_recording(
        &mut self,
        gpu: &Gpu,
        program: &Program,
        in_flight: InFlight,
        encoder: &mut wgpu::CommandEncoder,
        stage: usize,
    ) -> Result<Recorded> {
        let Some(decision) = &program.decision else { return Ok(Recorded::Counted) };
        let (step, group) = (in_flight.step, in_flight.group());
        let inputs = Inputs { step: Some(group), coefficients: (&decision.coefficients, COEFFICIENT_STRIDE) };
        let mut pass = encoder.begin_compute_pass(&compute_pass());
        program.record(stage..program.all().end, inputs, &mut pass);
        drop(pass);
        self.step_log(gpu)?.end(gpu, in_flight, encoder);
        Ok(if self.can_skip() { Recorded::Pending(step) } else { Recorded::Counted })
    }

    /// Parameters that a look-ahead moves, and their shift.
    fn look_ahead_members(&self) -> Vec<(u64, f64)> {
        let ours = self.parameters.iter().filter(|(_, parameter)| !parameter.in_slice() && !parameter.is_unbound());
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

fn compute_pass() -> wgpu::ComputePassDescriptor<'static> {
    wgpu::ComputePassDescriptor { label: Some("wgpu-optim"), timestamp_writes: None }
}
