//! What the device decides for itself: overflow, clipping, loss scale, step counts. `shaders/prepare.wgsl` is its other half.
//!
//! A controlled step has its data in a slot of its own, and tells the host what became of it by a copy of the head of `Control` that
//! is mapped once the step has finished. Nothing waits for that: until then the host offers coefficients for each outcome.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Gpu;
use super::slots::MAX_IN_FLIGHT;
use crate::error::{Error, Result};
use crate::scaling::Report;

/// Bytes of `Control` that a step hands to the host, and all of it.
const HEAD: u64 = 32;
const SIZE: u64 = HEAD + 4 * MAX_IN_FLIGHT as u64 + 8;
/// Words of the head of a slot, and of an entry: as in prepare.wgsl.
pub(crate) const SLOT_HEAD: usize = 20;
pub(crate) const ENTRY: usize = 20;

/// The device's state, and the steps that it has not told about yet.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) buffer: wgpu::Buffer,
    shared: Arc<Mutex<Shared>>,
    /// Number of the last recorded step.
    last: u32,
    /// Steps whose outcome is not known, oldest first.
    pending: VecDeque<(u32, Option<Outcome>)>,
}

/// `None` for a step that the device has not executed: never submitted, or refused.
type Outcome = Option<Head>;
/// The head of `Control` in the shader.
type Head = [u32; 8];

#[derive(Debug, Default)]
struct Shared {
    free: Vec<Slot>,
    outcomes: Vec<(u32, Outcome)>,
    /// What the last finished step said, and its number.
    latest: (u32, Report),
    /// The last step when somebody set the number of skips: later ones count from there.
    counted: u32,
}

#[derive(Debug)]
struct Slot {
    data: wgpu::Buffer,
    group: wgpu::BindGroup,
    staging: wgpu::Buffer,
}

/// A recorded step. Dropped with its encoder, it counts as never taken.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) step: u32,
    slot: Option<Slot>,
    outcome: Outcome,
    shared: Arc<Mutex<Shared>>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.outcomes.push((self.step, self.outcome));
        // Threads that poll may call back in any order.
        if let Some(now) = self.outcome.map(report) {
            let skipped = if self.step > shared.counted { now.skipped_steps } else { 0 };
            let most = skipped.max(shared.latest.1.skipped_steps);
            if self.step > shared.latest.0 {
                shared.latest = (self.step, now);
            }
            shared.latest.1.skipped_steps = most;
        }
        shared.free.extend(self.slot.take());
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    pub(crate) fn new(gpu: &Gpu, report: Report) -> Result<Self> {
        use wgpu::BufferUsages as Usage;
        let buffer = gpu.scoped("the control buffer", || {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("wgpu-optim control"),
                size: SIZE,
                usage: Usage::STORAGE | Usage::UNIFORM | Usage::COPY_SRC | Usage::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let mut control = Self { buffer, shared: Arc::default(), last: 0, pending: VecDeque::new() };
        control.set_report(gpu, report, true)?;
        Ok(control)
    }

    /// Sets the device's scale and counters, before the work that is submitted next.
    pub(crate) fn set_report(&mut self, gpu: &Gpu, report: Report, skipped: bool) -> Result<()> {
        let words = [
            (report.loss_scale as f32).to_bits(),
            report.growth_tracker,
            u32::try_from(report.skipped_steps).unwrap_or(u32::MAX),
        ];
        // The device may know of more skips than the host.
        let words = &words[..if skipped { 3 } else { 2 }];
        gpu.scoped("the control buffer", || gpu.queue().write_buffer(&self.buffer, 0, bytemuck::cast_slice(words)))?;
        let mut shared = lock(&self.shared);
        shared.latest = (self.last, report);
        if skipped {
            shared.counted = self.last;
        }
        Ok(())
    }

    /// What the last finished step said.
    pub(crate) fn latest(&self) -> Report {
        lock(&self.shared).latest.1
    }

    /// The next step's number.
    pub(crate) fn next(&self) -> u32 {
        self.last + 1
    }

    /// Its place in a set of steps.
    pub(crate) fn bit(step: u32) -> u128 {
        1 << (step % MAX_IN_FLIGHT as u32)
    }

    /// What has become of the oldest steps: (number, taken). A step is known once all before it are.
    pub(crate) fn resolve(&mut self) -> Vec<(u32, bool)> {
        for (step, outcome) in std::mem::take(&mut lock(&self.shared).outcomes) {
            if let Some(pending) = self.pending.iter_mut().find(|(pending, _)| *pending == step) {
                pending.1 = Some(outcome);
            }
        }
        let mut known = Vec::new();
        while let Some((step, outcome)) = self.pending.front().and_then(|(step, outcome)| Some((*step, (*outcome)?))) {
            self.pending.pop_front();
            known.push((step, outcome.is_some_and(|head| head[7] == 2 * step)));
        }
        known
    }

    pub(crate) fn unresolved(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn check_room(&self) -> Result<()> {
        // A place among the outcomes is a step's until it is known.
        let full = self.pending.front().is_some_and(|(oldest, _)| self.last - oldest + 1 >= MAX_IN_FLIGHT as u32);
        if full { Err(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT }) } else { Ok(()) }
    }

    /// A slot of at least this many words, filled.
    pub(crate) fn begin(&mut self, gpu: &Gpu, words: &[u32]) -> Result<InFlight> {
        self.check_room()?;
        let size = 4 * words.len() as u64;
        let free = {
            let mut shared = lock(&self.shared);
            match shared.free.iter().position(|slot| slot.data.size() >= size) {
                Some(at) => Some(shared.free.swap_remove(at)),
                None => {
                    // One that is too small makes room for a larger one.
                    shared.free.pop();
                    None
                }
            }
        };
        let slot = match free {
            Some(slot) => slot,
            None => Slot::new(gpu, size)?,
        };
        gpu.scoped("coefficients", || {
            let size = wgpu::BufferSize::new(size).ok_or(Error::DeviceLost)?;
            let mut view = gpu.queue().write_buffer_with(&slot.data, 0, size).ok_or(Error::DeviceLost)?;
            view.copy_from_slice(bytemuck::cast_slice(words));
            Ok::<(), Error>(())
        })??;
        self.last += 1;
        self.pending.push_back((self.last, None));
        Ok(InFlight { step: self.last, slot: Some(slot), outcome: None, shared: self.shared.clone() })
    }

    /// Takes back the step that was recorded last: its submission was refused.
    pub(crate) fn take_back(&mut self, step: u32) {
        self.pending.retain(|(pending, _)| *pending != step);
    }

    /// After a step's passes: lets it tell the host what has become of it.
    pub(crate) fn end(&self, mut step: InFlight, encoder: &mut wgpu::CommandEncoder) {
        let Some(staging) = step.slot.as_ref().map(|slot| slot.staging.clone()) else { return };
        encoder.copy_buffer_to_buffer(&self.buffer, 0, &staging, 0, HEAD);
        let mapped = staging.clone();
        encoder.map_buffer_on_submit(&staging, wgpu::MapMode::Read, .., move |result| {
            if result.is_ok() {
                if let Ok(view) = mapped.get_mapped_range(..) {
                    let word = |k: usize| u32::from_le_bytes(std::array::from_fn(|byte| view[4 * k + byte]));
                    let head: Head = std::array::from_fn(word);
                    // A submission that was refused is mapped all the same, and still says what another step said.
                    step.outcome = Some(head).filter(|head| head[7] / 2 == step.step);
                }
                mapped.unmap();
            }
            drop(step);
        });
    }

    /// The state after all work submitted so far.
    pub(crate) async fn read(&self, gpu: &Gpu) -> Result<Report> {
        let range = super::memory::BufferRange::new(&self.buffer, 0, HEAD as usize / 4);
        let words = gpu.read(&range, "the control buffer").await?;
        Ok(report(std::array::from_fn(|k| words[k].to_bits())))
    }
}

impl InFlight {
    /// Group 0 of prepare.wgsl.
    pub(crate) fn group(&self) -> Result<&wgpu::BindGroup> {
        self.slot.as_ref().map(|slot| &slot.group).ok_or(Error::DeviceLost)
    }
}

impl Slot {
    fn new(gpu: &Gpu, size: u64) -> Result<Self> {
        let size = size.next_power_of_two().max(1024);
        let available = gpu.device().limits().max_storage_buffer_binding_size;
        if size > available {
            let (name, limit) = ("a step's coefficients".into(), "max_storage_buffer_binding_size");
            return Err(Error::OverLimit { name, limit, needed: size, available });
        }
        let prepare = gpu.prepare_pass()?;
        gpu.scoped("a step's slot", || {
            let buffer = |label, size, usage| {
                gpu.device().create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size,
                    usage: usage | wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                })
            };
            let data = buffer("wgpu-optim step", size, wgpu::BufferUsages::STORAGE);
            let staging = buffer("wgpu-optim report", HEAD, wgpu::BufferUsages::MAP_READ);
            let group = prepare.bind(gpu, 0, &[data.as_entire_binding()]);
            Self { data, group, staging }
        })
    }
}

fn report(head: Head) -> Report {
    let [scale, growth_tracker, skipped, bad, norm_scale, norm_root, norm_exponent, _] = head;
    let number = |bits| f64::from(f32::from_bits(bits));
    // Elements that count as 0 leave a norm.
    let grad_norm = match if bad & 4 == 0 { bad & 3 } else { 0 } {
        0 => number(norm_scale) * number(norm_root) * f64::from(norm_exponent as i32).exp2(),
        1 => f64::INFINITY,
        _ => f64::NAN,
    };
    let found_inf = bad & !4 > 0;
    let skipped_steps = skipped.into();
    Report { grad_norm, found_inf, loss_scale: number(scale), growth_tracker, skipped_steps }
}
