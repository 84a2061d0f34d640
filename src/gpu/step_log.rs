//! What the device decides by itself: overflow, clipping, loss scale, step counts. `shaders/prepare.wgsl` is the other
//! half.
//!
//! A step about which the device decides has its data in an entry of its own. Behind its passes it copies the head of
//! the step log to the entry's staging buffer, which is mapped once the step has finished: so the host learns the
//! outcome. Nothing waits for it. Until an outcome is known, the host uploads coefficients for each possible one, and
//! the device picks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gpu;
use super::own::OwnBuffer;
use super::ring::{self, InUse, MAX_IN_FLIGHT, Ring};
use crate::clipping::Limit;
use crate::error::{Error, Result};
use crate::scaling::{Report, ScaleFactors};

/// Bytes of the step log's head, which a step copies to the host, and of the whole buffer.
const HEAD: u64 = size_of::<Head>() as u64;
pub(crate) const SIZE: u64 = MEASURED + 32;
/// Where the buffer has the norm that `Optimizer::encode_measure` leaves.
pub(crate) const MEASURED: u64 = 768;
/// In [`Head::bad`]: elements that are not finite count as 0.
pub(crate) const ZEROED: u32 = 4;

/// What the host says about a step that the device decides, as shaders/step_input.wgsl reads it: behind it a
/// [`StepEntry`] for each cohort, and then each cohort's possible coefficients.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct StepHead {
    pub(crate) step: u32,
    pub(crate) policy: u32,
    pub(crate) partials: u32,
    pub(crate) clip: Limit,
    pub(crate) scaling: u32,
    pub(crate) scaler: ScaleFactors,
    pub(crate) measures: u32,
    pub(crate) nan: f32,
    pub(crate) cohorts: u32,
    pub(crate) measured: u32,
    pub(crate) unused: u32,
}

/// What the host says about one cohort.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct StepEntry {
    /// Where its possible coefficients begin, in words.
    pub(crate) candidates: u32,
    /// How many sets there are for each step count.
    pub(crate) width: u32,
    /// Words of one set.
    pub(crate) words: u32,
    pub(crate) weight: f32,
    /// Steps whose outcome is not known: those that it took part in, and those that moved its group's schedule.
    pub(crate) taken: [u32; 4],
    pub(crate) scheduled: [u32; 4],
    /// Its partial norms.
    pub(crate) first: u32,
    pub(crate) count: u32,
    pub(crate) weight_power: f32,
    pub(crate) clip: Limit,
    /// Its group's partial norms.
    pub(crate) group_first: u32,
    pub(crate) group_count: u32,
    pub(crate) group_clip: Limit,
    pub(crate) unused: u32,
}

/// The step log, and the steps whose outcomes the host does not know yet.
#[derive(Debug)]
pub(crate) struct StepLog {
    pub(crate) buffer: OwnBuffer,
    ring: Ring<StepBuffers>,
    shared: Arc<Mutex<Shared>>,
    /// Number of the step that was recorded last.
    last: u64,
    /// Steps whose outcome the host does not know yet, the oldest first. An outcome may arrive before an older one.
    pending: VecDeque<(u64, Option<Outcome>)>,
}

/// `None` for a step that the device did not execute: it was never submitted, or wgpu refused it.
type Outcome = Option<Head>;

/// The head of the step log.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct Head {
    pub(crate) scale: f32,
    pub(crate) growth_tracker: u32,
    pub(crate) skipped: u32,
    pub(crate) bad: u32,
    pub(crate) norm: [f32; 2],
    pub(crate) norm_exponent: i32,
    pub(crate) last: u32,
}

#[derive(Debug, Default)]
struct Shared {
    outcomes: Vec<(u64, Outcome)>,
    /// Number and report of the last step that has finished.
    latest: (u64, Report),
    /// The last step that was recorded before somebody set the number of skipped steps. What older steps report about
    /// it is out of date.
    counted: u64,
}

/// The objects of one step in flight.
#[derive(Clone, Debug)]
struct StepBuffers {
    data: OwnBuffer,
    /// Group 0 of prepare.wgsl.
    group: wgpu::BindGroup,
    staging: OwnBuffer,
}

impl ring::Entry for StepBuffers {
    fn size(&self) -> u64 {
        self.data.size()
    }
}

/// A recorded step. If it is dropped with its encoder, it counts as not taken.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) step: u64,
    in_use: InUse,
    objects: StepBuffers,
    outcome: Outcome,
    shared: Arc<Mutex<Shared>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.outcomes.push((self.step, self.outcome));
        // Several threads may poll, so callbacks may come in any order.
        if let Some(now) = self.outcome.map(report) {
            let skipped = if self.step > shared.counted { now.skipped_steps } else { 0 };
            let most = skipped.max(shared.latest.1.skipped_steps);
            if self.step > shared.latest.0 {
                shared.latest = (self.step, now);
            }
            shared.latest.1.skipped_steps = most;
        }
    }
}

/// What the device writes of this step if it takes it, and one more if it skips it. The device counts steps modulo 2³¹,
/// of which at most 128 are in flight.
fn taken(step: u64) -> u32 {
    (2 * step) as u32
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StepLog {
    pub(crate) fn new(gpu: &Gpu, report: Report) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let buffer = gpu.scoped("the step log", || {
            OwnBuffer::new(gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-optim step log"),
                size: SIZE,
                usage: Usage::STORAGE | Usage::UNIFORM | Usage::COPY_SRC | Usage::COPY_DST,
                mapped_at_creation: false,
            }))
        })?;
        let (ring, shared, pending) = (Ring::new(), Arc::default(), VecDeque::new());
        let mut log = Self { buffer, ring, shared, last: 0, pending };
        log.set_report(gpu, report, true)?;
        Ok(log)
    }

    /// Sets the loss scale and the counters on the device, before the work that is submitted next.
    pub(crate) fn set_report(&mut self, gpu: &Gpu, report: Report, skipped: bool) -> Result<()> {
        let words = [
            (report.loss_scale as f32).to_bits(),
            report.growth_tracker,
            u32::try_from(report.skipped_steps).unwrap_or(u32::MAX),
        ];
        // Without `skipped` the number of skips stays: the device may know of more than the host.
        let words = &words[..if skipped { 3 } else { 2 }];
        gpu.scoped("the step log", || gpu.queue().write_buffer(&self.buffer, 0, bytemuck::cast_slice(words)))?;
        let mut shared = lock(&self.shared);
        shared.latest = (self.last, report);
        if skipped {
            shared.counted = self.last;
        }
        Ok(())
    }

    /// The report of the last step that has finished.
    pub(crate) fn latest(&self) -> Report {
        lock(&self.shared).latest.1
    }

    /// Number of the next step.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// As if this many steps had been recorded.
    #[cfg(test)]
    pub(crate) fn start_behind(&mut self, step: u64) {
        self.last = step;
    }

    /// The bit of this step in a set of steps.
    pub(crate) fn bit(step: u64) -> u128 {
        1 << (step % MAX_IN_FLIGHT as u64)
    }

    /// The steps that are resolved since the last call: (number, taken). A step is resolved once its outcome and all
    /// older ones are known.
    pub(crate) fn resolve(&mut self) -> Vec<(u64, bool)> {
        for (step, outcome) in std::mem::take(&mut lock(&self.shared).outcomes) {
            if let Some(pending) = self.pending.iter_mut().find(|(pending, _)| *pending == step) {
                pending.1 = Some(outcome);
            }
        }
        let mut known = Vec::new();
        while let Some((step, outcome)) = self.pending.front().and_then(|(step, outcome)| Some((*step, (*outcome)?))) {
            self.pending.pop_front();
            known.push((step, outcome.is_some_and(|head| head.last == taken(step))));
        }
        known
    }

    pub(crate) fn unresolved(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn check_room(&self) -> Result<()> {
        // The device keeps outcomes in a ring. A step has its place there until it is resolved.
        let full = self.pending.front().is_some_and(|(oldest, _)| self.last - oldest + 1 >= MAX_IN_FLIGHT as u64);
        if full { Err(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT }) } else { self.ring.check_room() }
    }

    /// Takes an entry of the ring for the next step, and writes these words to it.
    pub(crate) fn begin(&mut self, gpu: &Gpu, words: &[u32]) -> Result<InFlight> {
        self.check_room()?;
        let size = 4 * words.len() as u64;
        let (in_use, objects) = self.ring.take(size, || StepBuffers::new(gpu, size))?;
        gpu.write_words(&objects.data, words)?;
        self.last += 1;
        self.pending.push_back((self.last, None));
        Ok(InFlight { step: self.last, in_use, objects, outcome: None, shared: self.shared.clone() })
    }

    /// Forgets this step, whose submission was refused.
    pub(crate) fn take_back(&mut self, step: u64) {
        self.pending.retain(|(pending, _)| *pending != step);
    }

    /// Records the report to the host, behind the step's passes.
    pub(crate) fn end(&self, gpu: &Gpu, mut step: InFlight, encoder: &mut wgpu::CommandEncoder) {
        let staging = step.objects.staging.clone();
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &staging, 0, HEAD);
        let (mapped, device) = (staging.clone(), gpu.device().clone());
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |result| {
            // This runs in whatever call polls, maybe the caller's. If the device was destroyed meanwhile, wgpu reports
            // errors here.
            let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
            let view = result.ok().and_then(|()| mapped.get_mapped_range(..).ok());
            match view {
                Some(view) => {
                    let word = |k: usize| u32::from_le_bytes(std::array::from_fn(|byte| view[4 * k + byte]));
                    let words: [u32; HEAD as usize / 4] = std::array::from_fn(word);
                    // The staging buffer of a refused submission is mapped, too. It holds the report of an earlier
                    // step.
                    step.outcome = Some(bytemuck::cast(words)).filter(|head: &Head| head.last & !1 == taken(step.step));
                    drop(view);
                    mapped.unmap();
                }
                None => step.in_use.discard(),
            }
            drop(scope);
            drop(step);
        });
    }

    /// The report after all work that is submitted by now.
    pub(crate) async fn read(&self, gpu: &Gpu) -> Result<Report> {
        let range = super::memory::BufferRange::new(&self.buffer, 0, HEAD as usize / 4);
        let words = gpu.read(&range, "the step log").await?;
        let words: [f32; HEAD as usize / 4] = std::array::from_fn(|k| words[k]);
        Ok(report(bytemuck::cast(words)))
    }
}

impl InFlight {
    /// Group 0 of prepare.wgsl.
    pub(crate) fn group(&self) -> &wgpu::BindGroup {
        &self.objects.group
    }
}

impl StepBuffers {
    fn new(gpu: &Gpu, size: u64) -> Result<Self> {
        let size = size.next_power_of_two().max(ring::SMALLEST);
        let available = gpu.device().limits().max_storage_buffer_binding_size;
        if size > available {
            let (name, limit) = ("a step's coefficients".into(), "max_storage_buffer_binding_size");
            return Err(Error::OverLimit { name, limit, needed: size, available });
        }
        let prepare = gpu.prepare_pass("prepare")?;
        gpu.scoped("a step's buffers", || {
            let buffer = |label, size, usage| {
                OwnBuffer::new(gpu.device().create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: usage | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                }))
            };
            let data = buffer("wgpu-optim step", size, wgpu::BufferUsages::STORAGE);
            let staging = buffer("wgpu-optim report", HEAD, wgpu::BufferUsages::MAP_READ);
            let group = prepare.bind(gpu, 0, &[data.as_entire_binding()]);
            Self { data, group, staging }
        })
    }
}

fn report(head: Head) -> Report {
    let Head { scale, growth_tracker, skipped, bad, norm, norm_exponent, .. } = head;
    // With `NonFinite::Zero` the norm is that of the finite elements.
    let grad_norm = match if bad & ZEROED == 0 { bad & 3 } else { 0 } {
        0 => f64::from(norm[0]) * f64::from(norm[1]) * f64::from(norm_exponent).exp2(),
        1 => f64::INFINITY,
        _ => f64::NAN,
    };
    let found_inf = bad & !ZEROED > 0;
    let skipped_steps = skipped.into();
    Report { grad_norm, found_inf, loss_scale: scale.into(), growth_tracker, skipped_steps, ..Report::default() }
}
