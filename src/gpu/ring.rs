//! The coefficient ring: each recorded step has a buffer of its own until the GPU has finished it.
//!
//! If all steps shared one buffer, all would read what was written last. An entry is made when a step finds none free,
//! and stays while steps need it: a loop with few steps in flight has few entries.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::own::OwnBuffer;
use super::{Gpu, kernel};
use crate::error::{Error, Result};
use crate::settings::COEFFICIENT_HEAD;

/// Steps that may be recorded and not yet finished.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// Bytes of the smallest entry of a step about which the device decides.
pub(crate) const SMALLEST: u64 = 1024;

/// The most coefficients that a rule may have.
pub(crate) const MAX_HYPER: usize = 32;
/// Bytes of the most coefficients of a cohort: the driver's numbers, and a rule's `Hyper`.
pub(crate) const MOST_COEFFICIENTS: u64 = 4 * (COEFFICIENT_HEAD + MAX_HYPER) as u64;

/// What a [`Ring`] keeps: handles of wgpu objects. A clone is another handle of the same objects.
pub(crate) trait Entry: Clone {
    /// Bytes that it holds.
    fn size(&self) -> u64;
}

/// Entries of one kind, free and in use.
#[derive(Debug)]
pub(crate) struct Ring<S> {
    /// By index. One that went leaves `None`, and its index in `vacant`.
    entries: Vec<Option<S>>,
    vacant: Vec<usize>,
    free: Vec<usize>,
    in_use: usize,
    /// What steps have given back since the last one was recorded.
    back: Back,
    /// Since entries were dropped last: how many were taken, the most bytes that one was taken for, and the fewest that
    /// were left free.
    taken: usize,
    largest: u64,
    spare: usize,
}

/// Indices, and whether the entry can be used again. In a browser wgpu's objects stay on their thread, indices need
/// not.
type Back = Arc<Mutex<Vec<(usize, bool)>>>;

/// An entry in use. Dropped when the GPU has finished the step, or when its encoder is dropped without a submission.
#[derive(Debug)]
pub(crate) struct InUse {
    index: usize,
    sound: bool,
    back: Back,
}

impl InUse {
    /// Lets go of the entry after this use.
    pub(crate) fn discard(&mut self) {
        self.sound = false;
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        lock(&self.back).push((self.index, self.sound));
    }
}

fn lock(back: &Back) -> MutexGuard<'_, Vec<(usize, bool)>> {
    back.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Entry> Ring<S> {
    pub(crate) fn new() -> Self {
        let (entries, vacant, free, back) = (Vec::new(), Vec::new(), Vec::new(), Back::default());
        Self { entries, vacant, free, in_use: 0, back, taken: 0, largest: 0, spare: usize::MAX }
    }

    /// [`Error::TooManyStepsInFlight`] if no entry can be taken now.
    pub(crate) fn check_room(&self) -> Result<()> {
        let full = self.in_use - lock(&self.back).len() >= MAX_IN_FLIGHT;
        if full { Err(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT }) } else { Ok(()) }
    }

    /// The smallest free entry of at least `size` bytes. If there is none, `make` makes one, and one that is too small
    /// goes.
    pub(crate) fn take(&mut self, size: u64, make: impl FnOnce() -> Result<S>) -> Result<(InUse, S)> {
        self.check_room()?;
        self.take_back();
        self.let_go(size);
        let fitting = self.free.iter().enumerate().map(|(at, &index)| (at, self.size(index)));
        let smallest = fitting.filter(|(_, bytes)| *bytes >= size).min_by_key(|(_, bytes)| *bytes);
        let found = match smallest {
            Some((at, _)) => Some(self.free.swap_remove(at)),
            None => {
                let small = self.free.pop();
                small.into_iter().for_each(|index| self.drop_entry(index));
                None
            }
        };
        self.spare = self.spare.min(self.free.len());
        let known = found.and_then(|index| Some((index, self.entries[index].clone()?)));
        let (index, entry) = match known {
            Some(known) => known,
            None => {
                let entry = make()?;
                let index = self.vacant.pop().unwrap_or(self.entries.len());
                self.entries.resize_with(self.entries.len().max(index + 1), || None);
                self.entries[index] = Some(entry.clone());
                (index, entry)
            }
        };
        self.in_use += 1;
        Ok((InUse { index, sound: true, back: self.back.clone() }, entry))
    }

    fn size(&self, index: usize) -> u64 {
        self.entries[index].as_ref().map_or(0, Entry::size)
    }

    fn drop_entry(&mut self, index: usize) {
        self.entries[index] = None;
        self.vacant.push(index);
    }

    /// Frees what steps have given back.
    fn take_back(&mut self) {
        let back = std::mem::take(&mut *lock(&self.back));
        self.in_use -= back.len();
        for (index, sound) in back {
            match sound {
                true => self.free.push(index),
                false => self.drop_entry(index),
            }
        }
    }

    /// Counts a step that wants `size` bytes. Now and then, drops the entries that no step has needed since the last
    /// time.
    fn let_go(&mut self, size: u64) {
        if self.taken == MAX_IN_FLIGHT {
            let most = self.largest.next_power_of_two().max(SMALLEST);
            let needed = self.free.len().saturating_sub(self.spare);
            let (free, entries) = (std::mem::take(&mut self.free), &self.entries);
            let fits = |index: usize| entries[index].as_ref().is_some_and(|entry| entry.size() <= most);
            let keep = |(at, index): &(usize, usize)| *at < needed && fits(*index);
            let (kept, gone): (Vec<_>, Vec<_>) = free.into_iter().enumerate().partition(keep);
            self.free.extend(kept.into_iter().map(|(_, index)| index));
            gone.into_iter().for_each(|(_, index)| self.drop_entry(index));
            (self.taken, self.largest, self.spare) = (0, 0, usize::MAX);
        }
        self.taken += 1;
        self.largest = self.largest.max(size);
    }
}

/// Of steps about which the device decides nothing: coefficients in a uniform buffer.
#[derive(Debug)]
pub(crate) struct CoefficientRing {
    ring: Ring<StepCoefficients>,
    /// Bytes from one cohort's coefficients to the next one's.
    stride: u64,
}

/// The coefficients of one step, cohort by cohort.
#[derive(Clone, Debug)]
pub(crate) struct StepCoefficients {
    buffer: OwnBuffer,
    pub(crate) bind_group: wgpu::BindGroup,
}

impl Entry for StepCoefficients {
    fn size(&self) -> u64 {
        self.buffer.size()
    }
}

impl CoefficientRing {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        let stride =
            MOST_COEFFICIENTS.next_multiple_of(gpu.device().limits().min_uniform_buffer_offset_alignment.into());
        Self { ring: Ring::new(), stride }
    }

    pub(crate) fn check_room(&self) -> Result<()> {
        self.ring.check_room()
    }

    /// A free entry for this many cohorts, or [`Error::TooManyStepsInFlight`].
    pub(crate) fn acquire(&mut self, gpu: &Gpu, cohorts: usize) -> Result<(InUse, StepCoefficients)> {
        let size = self.stride * cohorts as u64;
        self.ring.take(size, || StepCoefficients::new(gpu, cohorts, size))
    }

    /// Words from one cohort's coefficients to the next one's, for [`CoefficientRing::write`].
    pub(crate) fn stride(&self) -> usize {
        (self.stride / 4) as usize
    }

    /// Writes all of an entry, before the next submission.
    pub(crate) fn write(&self, gpu: &Gpu, entry: &StepCoefficients, words: &[u32]) -> Result<()> {
        gpu.write_words(&entry.buffer, words)
    }
}

impl StepCoefficients {
    fn new(gpu: &Gpu, cohorts: usize, size: u64) -> Result<Self> {
        let available = gpu.device().limits().max_buffer_size;
        if size > available {
            let name = format!("coefficients of {cohorts} cohorts");
            return Err(Error::OverLimit { name, limit: "max_buffer_size", needed: size, available });
        }
        gpu.scoped("a uniform buffer", || {
            let (label, size) = (Some("wgpu-optim coefficients"), size.next_power_of_two().min(available));
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
            let buffer = OwnBuffer::new(gpu.device().create_buffer(&descriptor));
            let one =
                wgpu::BufferBinding { buffer: &buffer, offset: 0, size: wgpu::BufferSize::new(MOST_COEFFICIENTS) };
            let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label,
                layout: &kernel::coefficients_layout(gpu.device()),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(one) }],
            });
            Self { buffer, bind_group }
        })
    }
}

impl Gpu {
    /// Writes a step's coefficients to the start of a buffer, before the next submission. A lost device shows here, at
    /// no further cost: it has no staging memory.
    pub(crate) fn write_words(&self, buffer: &wgpu::Buffer, words: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(words);
        let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else { return self.check_alive() };
        // In a browser there is staging memory always: only the callback tells.
        self.check_flag()?;
        self.caught("coefficients", || {
            let view = self.queue().write_buffer_with(buffer, 0, size);
            view.map(|mut view| view.copy_from_slice(bytes)).ok_or(Error::DeviceLost)
        })?
    }
}
