//! What the optimizer does about a step as a whole: clipping by the norm of all gradients, overflow, loss scaling.

use super::{At, Change, Group, Optimizer};
use crate::clipping::{ClipNorm, Limit, NonFinite};
use crate::error::{Error, Result};
use crate::gpu::memory::BufferRange;
use crate::gpu::program::Program;
use crate::gpu::step_log::{StepEntry, StepHead, StepLog};
use crate::gpu::{Device, Gpu};
use crate::scaling::{LossScaler, Report, factors};
use crate::settings::{COEFFICIENT_HEAD, Settings};

/// The most sets of coefficients that a step offers the device to choose from.
const MAX_CANDIDATES: usize = 1 << 14;
/// Words of what a step uploads before coefficients.
const HEAD_WORDS: usize = size_of::<StepHead>() / 4;
const ENTRY_WORDS: usize = size_of::<StepEntry>() / 4;

impl Optimizer {
    /// Limits the norm of all gradients together, of every group, from the next recorded step on; `None` for no limit.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`], [`Error::Unsupported`] beside limits on another norm.
    pub fn set_clip_norm(&mut self, clip: impl Into<Option<ClipNorm>>) -> Result<()> {
        let clip = clip.into();
        clip.as_ref().map_or(Ok(()), ClipNorm::check)?;
        self.check_clipping(clip.as_ref(), usize::MAX, None)?;
        let kind = |clip: Option<ClipNorm>| clip.map(|clip| clip.norm.kind());
        if kind(self.safeguards.clip) != kind(clip) {
            self.invalidate(Change::Step);
        }
        self.safeguards.clip = clip;
        Ok(())
    }

    /// What becomes of a step whose gradients hold NaN or ∞, from the next recorded step on. With clipping by norm or
    /// loss scaling the step is skipped unless another policy is set; without them gradients are not looked at until a
    /// policy is set here.
    pub fn set_non_finite(&mut self, policy: NonFinite) {
        self.safeguards.policy = Some(policy);
        self.invalidate(Change::Step);
    }

    /// Divides the gradients by a scale that follows their overflows, from the next recorded step on; `None` for no
    /// scaling. The scale restarts at `init_scale`; [`Optimizer::set_loss_scale`] sets another one.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`]; on a GPU [`Error::Rejected`], [`Error::DeviceLost`].
    pub fn set_loss_scaler(&mut self, scaler: impl Into<Option<LossScaler>>) -> Result<()> {
        let scaler = scaler.into();
        scaler.as_ref().map_or(Ok(()), LossScaler::check)?;
        let loss_scale = scaler.map_or(1.0, |scaler| scaler.init_scale);
        self.set_report(Report { loss_scale, growth_tracker: 0, ..self.report() }, false)?;
        self.safeguards.scaler = scaler;
        self.invalidate(Change::Step);
        Ok(())
    }

    /// Sets the scale and the counters, to go on where another run stopped.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`] for a scale that is no normal f32 above 0; on a GPU [`Error::Rejected`],
    /// [`Error::DeviceLost`].
    pub fn set_loss_scale(&mut self, scale: f64, growth_tracker: u32, skipped_steps: u64) -> Result<()> {
        LossScaler { init_scale: scale, ..LossScaler::default() }.check()?;
        self.set_report(Report { loss_scale: scale, growth_tracker, skipped_steps, ..self.report() }, true)
    }

    /// Where the device keeps the scale of the next loss, one f32: for your kernels to bind as a storage or a uniform
    /// buffer, and to multiply the loss or its gradient by. Always there; 1 without a scaler.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on the CPU, where [`Optimizer::report`] has it; [`Error::Rejected`],
    /// [`Error::DeviceLost`].
    pub fn loss_scale(&mut self) -> Result<BufferRange> {
        let gpu = self.gpu("loss_scale")?;
        gpu.check_alive()?;
        Ok(BufferRange::new(&self.step_log(&gpu)?.buffer, 0, 1))
    }

    /// The report of the last step whose result the host has: on the CPU the last step, on a GPU the last finished one.
    /// Does not wait. Steps that measure no gradients have no report, but for [`Report::lr_too_small`].
    pub fn report(&self) -> Report {
        let report = match (&self.log, &self.device) {
            (Some(log), Device::Gpu(gpu)) => {
                // A lost device answers nothing; then the last report stands. A browser polls by itself.
                #[cfg(not(target_family = "wasm"))]
                drop(gpu.poll());
                #[cfg(target_family = "wasm")]
                let _ = gpu;
                log.latest()
            }
            _ => self.report,
        };
        Report { lr_too_small: self.lr_too_small(), ..report }
    }

    /// What the last submitted step says, once it has finished: the norm of its gradients among it.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::DeviceLost`].
    pub async fn read_report(&self) -> Result<Report> {
        match (&self.log, &self.device) {
            (Some(log), Device::Gpu(gpu)) => log.read(gpu).await,
            (None, Device::Gpu(gpu)) => gpu.check_alive().map(|()| self.report),
            _ => Ok(self.report),
        }
    }

    /// [`Optimizer::read_report`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::read_report`].
    #[cfg(not(target_family = "wasm"))]
    pub fn read_report_blocking(&self) -> Result<Report> {
        pollster::block_on(self.read_report())
    }

    /// Waits until it is known which of the submitted steps were taken: [`Optimizer::steps`] is then exact.
    ///
    /// # Errors
    /// [`Error::TooManyStepsInFlight`] if some are recorded in encoders that were not submitted, [`Error::ReadBack`],
    /// [`Error::DeviceLost`].
    pub async fn settle(&mut self) -> Result<()> {
        if let Device::Gpu(gpu) = &self.device {
            gpu.check_alive()?;
        }
        // A first half whose second never came would never resolve.
        self.measured = None;
        self.resolve();
        if self.unresolved() > 0 {
            self.read_report().await?;
            let Device::Gpu(gpu) = self.device.clone() else { return Ok(()) };
            let settled = |optimizer: &mut Self| {
                optimizer.resolve();
                optimizer.unresolved() == 0
            };
            self.poll_until(&gpu, settled).await?;
        }
        match self.unresolved() {
            0 => Ok(()),
            limit => Err(Error::TooManyStepsInFlight { limit }),
        }
    }

    /// [`Optimizer::settle`], waiting for it.
    ///
    /// # Errors
    /// As [`Optimizer::settle`].
    #[cfg(not(target_family = "wasm"))]
    pub fn settle_blocking(&mut self) -> Result<()> {
        pollster::block_on(self.settle())
    }

    /// After a wait for the device: another thread that polls it may still be calling us back, and a browser calls back
    /// when it likes.
    pub(super) async fn poll_until(&mut self, gpu: &Gpu, done: impl Fn(&mut Self) -> bool) -> Result<()> {
        for _ in 0..100 {
            if done(self) {
                break;
            }
            gpu.pause().await?;
        }
        Ok(())
    }

    pub(super) fn unresolved(&self) -> usize {
        self.log.as_ref().map_or(0, StepLog::unresolved)
    }

    /// Counts the steps whose outcome has arrived.
    pub(super) fn resolve(&mut self) {
        let Some(log) = &mut self.log else { return };
        let (mut known, mut taken) = (0u128, 0u128);
        for (step, was_taken) in log.resolve() {
            known |= StepLog::bit(step);
            taken |= if was_taken { StepLog::bit(step) } else { 0 };
        }
        if known == 0 {
            return;
        }
        let of_parameters = self.parameters.values_mut().map(|p| (&mut p.steps, &mut p.pending));
        let of_groups = self.groups.iter_mut().map(|group| (&mut group.steps, &mut group.pending));
        for (steps, pending) in of_parameters.chain(of_groups) {
            *steps += u64::from((*pending & taken).count_ones());
            *pending &= !known;
        }
    }

    /// Whether the device has to decide something about the next step.
    pub(super) fn device_decides(&self) -> bool {
        let apart = |group: &Group| group.per_parameter() || group.rule.reduce().is_some() || group.settings.reshapes();
        let pending = || self.parameters.values().any(|parameter| parameter.pending != 0);
        self.measures() || self.groups.iter().any(|group| group.pending != 0 || apart(group)) || pending()
    }

    /// Whether the next step may be skipped.
    pub(super) fn can_skip(&self) -> bool {
        self.measures() && self.safeguards.policy() == NonFinite::Skip
    }

    /// Whether gradients are measured before the step.
    pub(super) fn measures(&self) -> bool {
        self.safeguards.measures() || self.groups.iter().any(|group| group.settings.norm_limits().next().is_some())
    }

    /// Whether elements that are not finite count as 0.
    pub(super) fn zeroes(&self) -> bool {
        self.measures() && self.safeguards.policy() == NonFinite::Zero
    }

    /// The norm that is measured.
    pub(super) fn norm_kind(&self) -> u32 {
        let of_groups = self.groups.iter().flat_map(|group| group.settings.norm_limits());
        let mut clips = of_groups.chain(&self.safeguards.clip);
        clips.next().map_or(1, |clip| clip.norm.kind())
    }

    pub(super) fn step_log(&mut self, gpu: &Gpu) -> Result<&mut StepLog> {
        let log = match self.log.take() {
            Some(log) => log,
            None => StepLog::new(gpu, self.report)?,
        };
        Ok(self.log.insert(log))
    }

    pub(super) fn set_report(&mut self, report: Report, skipped: bool) -> Result<()> {
        match self.device.clone() {
            Device::Gpu(gpu) => self.step_log(&gpu)?.set_report(&gpu, report, skipped),
            Device::Cpu => {
                self.report = report;
                Ok(())
            }
        }
    }

    /// Until earlier steps resolve, a step uploads one set of coefficients per possible outcome, at most 16,384. With
    /// many parameters that have coefficients of their own, that limit comes before 128 steps.
    pub(super) fn check_candidates(&self, program: &Program) -> Result<()> {
        let of = |id: &u64| {
            let parameter = self.parameters.get(id)?;
            let width = parameter.width(&self.groups[parameter.group]);
            Some((parameter.pending.count_ones() as usize + 1) * width as usize)
        };
        let candidates: usize = program.cohorts.iter().filter_map(of).sum();
        match self.unresolved() {
            limit if limit > 0 && candidates > MAX_CANDIDATES.max(program.cohorts.len()) => {
                Err(Error::TooManyStepsInFlight { limit })
            }
            _ => Ok(()),
        }
    }

    /// What the device reads of the next step: a head, an entry for each cohort, each cohort's possible coefficients.
    /// `measured` is true behind [`Optimizer::encode_measure`].
    pub(super) fn step_words(&mut self, program: &Program, measured: bool) -> Result<Vec<u32>> {
        self.check_candidates(program)?;
        let Some(decision) = &program.decision else { return Ok(Vec::new()) };
        let (step, window) = (self.log.as_ref().map_or(1, StepLog::next), self.window);
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        let len =
            program.members.iter().filter_map(|(id, _)| self.parameters.get(id)).map(|parameter| parameter.len).sum();
        words.extend(bytemuck::cast::<_, [u32; HEAD_WORDS]>(StepHead {
            step: step as u32,
            policy: self.safeguards.policy() as u32,
            partials: decision.partials,
            clip: Limit { kind: self.norm_kind(), ..ClipNorm::limit(self.safeguards.clip.as_ref(), len) },
            scaling: self.safeguards.scaler.is_some().into(),
            scaler: self.safeguards.scaler.unwrap_or_default().factors(),
            measures: self.measures().into(),
            nan: f32::NAN,
            cohorts: program.cohorts.len() as u32,
            measured: measured.into(),
            unused: 0,
        }));
        words.resize(HEAD_WORDS + ENTRY_WORDS * program.cohorts.len(), 0);
        for (cohort, leader) in program.cohorts.iter().enumerate() {
            let Some(parameter) = self.parameters.get(leader) else { continue };
            let group = &self.groups[parameter.group];
            let (taken, seen) = (parameter.pending, group.pending);
            let width = parameter.width(group);
            let apart = width > 1;
            let first = words.len() as u32;
            for skipped in 0..=taken.count_ones() {
                for unseen in 0..width {
                    let steps = parameter.recorded() - u64::from(skipped);
                    let schedule =
                        group.recorded().saturating_sub(u64::from(if apart || seen == 0 { unseen } else { skipped }));
                    let at = At { steps, schedule, window };
                    words.extend(parameter.coefficients(group, at).words());
                    group.rule.0.hyper_f32(&parameter.next_step(group, at), &mut words);
                }
            }
            let clip = group.settings.clip_norm;
            let [start, count] = if clip.is_some() { decision.ranges[cohort] } else { [0, 0] };
            let [weight, weight_power] = factors(parameter.share(group, window) * group.settings.grad_scale.abs());
            let group_clip = group.settings.group_clip_norm;
            let span = program.spans.get(&parameter.group).filter(|_| group_clip.is_some()).copied();
            let span = span.unwrap_or_default();
            let steps = |set: u128| std::array::from_fn(|k| (set >> (32 * k)) as u32);
            let entry: [u32; ENTRY_WORDS] = bytemuck::cast(StepEntry {
                candidates: first,
                width,
                words: (COEFFICIENT_HEAD + group.rule.hyper_names().len()) as u32,
                weight,
                taken: steps(taken),
                scheduled: steps(seen),
                first: start,
                count,
                weight_power,
                clip: ClipNorm::limit(clip.as_ref(), parameter.len),
                group_first: span.first,
                group_count: span.count,
                group_clip: ClipNorm::limit(group_clip.as_ref(), span.len),
                unused: 0,
            });
            words[HEAD_WORDS + ENTRY_WORDS * cohort..][..ENTRY_WORDS].copy_from_slice(&entry);
        }
        Ok(words)
    }

    /// All limits are on one norm, which is measured once; with `clip` for all gradients, and `of` for this group.
    pub(super) fn check_clipping(&self, clip: Option<&ClipNorm>, group: usize, of: Option<&Settings>) -> Result<()> {
        let others = self.groups.iter().enumerate().filter(|(k, _)| *k != group).map(|(_, group)| &group.settings);
        let limits = others.chain(of).flat_map(Settings::norm_limits).chain(clip);
        let mut kinds = limits.map(|limit| limit.norm.kind());
        let first = kinds.next();
        if kinds.any(|kind| Some(kind) != first) {
            let (operation, name) = ("clip_norm", "the optimizer".into());
            let reason = "all limits are on the same norm (L2 and RMS are one)";
            return Err(Error::Unsupported { operation, name, reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::rules::Sgd;
    use crate::{Device, Gpu, NonFinite, Optimizer, Result, Schedule};

    /// 25 days at a thousand steps a second, and twice as many.
    #[test]
    fn step_numbers_wrap() -> Result<()> {
        let gpu = match Gpu::new_blocking() {
            Err(e) if std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|v| v == "1") => return Err(e),
            Err(e) => {
                eprintln!("not tested: {e}");
                return Ok(());
            }
            Ok(gpu) => gpu,
        };
        for last in [(1u64 << 31) - 5, (1 << 32) - 5] {
            let mut optimizer = Optimizer::new(&Device::from(&gpu), Sgd, 1.0)?;
            optimizer.set_non_finite(NonFinite::Skip);
            optimizer.set_schedule(0, Schedule::linear(1.0, 0.0, 20))?;
            optimizer.step_log(&gpu)?.start_behind(last);
            optimizer.add(0, "w", &[0.0f32])?;
            for t in 0..10 {
                optimizer.write_gradient("w", &[if t == 3 || t == 6 { f32::NAN } else { 1.0 }])?;
                optimizer.step()?;
                if t == 8 {
                    optimizer.settle_blocking()?;
                }
            }
            optimizer.settle_blocking()?;
            assert_eq!(
                (optimizer.steps("w")?, optimizer.schedule_step(0)?, optimizer.report().skipped_steps),
                (8, 8, 2)
            );
            let expected: f32 = (0..8).map(|k| 1.0 - k as f32 / 20.0).sum();
            let w: Vec<f32> = optimizer.read_blocking("w")?;
            assert!((w[0] + expected).abs() < 1e-5, "{w:?}, not {}", -expected);
        }
        Ok(())
    }
}
