//! Slots for coefficients: each recorded step has a buffer of its own until the GPU has finished it.
//!
//! If all steps shared one buffer, all would read what was written last. A slot is made when a step finds none free,
//! and stays while steps need it: a loop with few steps in flight has few slots.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Gpu, kernel};
use crate::error::{Error, Result};
use crate::settings::ROW_HEAD;

/// Steps that may be recorded and not yet finished.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// Bytes of the smallest slot of a step about which the device decides.
pub(crate) const SMALLEST: u64 = 1024;

/// The most coefficients that a rule may have.
pub(crate) const MAX_HYPER: usize = 32;
/// Bytes of the largest row of coefficients: the driver's numbers, and a rule's `Hyper`.
pub(crate) const ROW: u64 = 4 * (ROW_HEAD + MAX_HYPER) as u64;

/// What a [`Pool`] keeps: handles of wgpu objects. A clone is another handle of the same objects.
pub(crate) trait Slot: Clone {
    /// Bytes that it holds.
    fn size(&self) -> u64;
}

/// Slots of one kind, free and in use.
#[derive(Debug)]
pub(crate) struct Pool<S> {
    /// By index. One that went leaves `None`, and its index in `vacant`.
    slots: Vec<Option<S>>,
    vacant: Vec<usize>,
    free: Vec<usize>,
    in_use: usize,
    /// What steps have given back since the last one was recorded.
    back: Back,
    /// Since slots were dropped last: how many were taken, the most bytes that one was taken for, and the fewest that
    /// were left free.
    taken: usize,
    largest: u64,
    spare: usize,
}

/// Indices, and whether the slot can be used again. In a browser wgpu's objects stay on their thread, indices need not.
type Back = Arc<Mutex<Vec<(usize, bool)>>>;

/// A slot in use. Dropped when the GPU has finished the step, or when its encoder is dropped without a submission.
#[derive(Debug)]
pub(crate) struct Taken {
    index: usize,
    sound: bool,
    back: Back,
}

impl Taken {
    /// Lets go of the slot after this use.
    pub(crate) fn discard(&mut self) {
        self.sound = false;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.back).push((self.index, self.sound));
    }
}

fn lock(back: &Back) -> MutexGuard<'_, Vec<(usize, bool)>> {
    back.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Slot> Pool<S> {
    pub(crate) fn new() -> Self {
        let (slots, vacant, free, back) = (Vec::new(), Vec::new(), Vec::new(), Back::default());
        Self { slots, vacant, free, in_use: 0, back, taken: 0, largest: 0, spare: usize::MAX }
    }

    /// [`Error::TooManyStepsInFlight`] if no slot can be taken now.
    pub(crate) fn check_room(&self) -> Result<()> {
        let full = self.in_use - lock(&self.back).len() >= MAX_IN_FLIGHT;
        if full { Err(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT }) } else { Ok(()) }
    }

    /// The smallest free slot of at least `size` bytes. If there is none, `make` makes one, and one that is too small
    /// goes.
    pub(crate) fn take(&mut self, size: u64, make: impl FnOnce() -> Result<S>) -> Result<(Taken, S)> {
        self.check_room()?;
        self.take_back();
        self.let_go(size);
        let fitting = self.free.iter().enumerate().map(|(at, &index)| (at, self.size(index)));
        let smallest = fitting.filter(|(_, bytes)| *bytes >= size).min_by_key(|(_, bytes)| *bytes);
        let found = match smallest {
            Some((at, _)) => Some(self.free.swap_remove(at)),
            None => {
                let small = self.free.pop();
                small.into_iter().for_each(|index| self.drop_slot(index));
                None
            }
        };
        self.spare = self.spare.min(self.free.len());
        let known = found.and_then(|index| Some((index, self.slots[index].clone()?)));
        let (index, slot) = match known {
            Some(known) => known,
            None => {
                let slot = make()?;
                let index = self.vacant.pop().unwrap_or(self.slots.len());
                self.slots.resize_with(self.slots.len().max(index + 1), || None);
                self.slots[index] = Some(slot.clone());
                (index, slot)
            }
        };
        self.in_use += 1;
        Ok((Taken { index, sound: true, back: self.back.clone() }, slot))
    }

    fn size(&self, index: usize) -> u64 {
        self.slots[index].as_ref().map_or(0, Slot::size)
    }

    fn drop_slot(&mut self, index: usize) {
        self.slots[index] = None;
        self.vacant.push(index);
    }

    /// Frees what steps have given back.
    fn take_back(&mut self) {
        let back = std::mem::take(&mut *lock(&self.back));
        self.in_use -= back.len();
        for (index, sound) in back {
            match sound {
                true => self.free.push(index),
                false => self.drop_slot(index),
            }
        }
    }

    /// Counts a step that wants `size` bytes. Now and then, drops the slots that no step has needed since the last
    /// time.
    fn let_go(&mut self, size: u64) {
        if self.taken == MAX_IN_FLIGHT {
            let most = self.largest.next_power_of_two().max(SMALLEST);
            let needed = self.free.len().saturating_sub(self.spare);
            let (free, slots) = (std::mem::take(&mut self.free), &self.slots);
            let fits = |index: usize| slots[index].as_ref().is_some_and(|slot| slot.size() <= most);
            let keep = |(at, index): &(usize, usize)| *at < needed && fits(*index);
            let (kept, gone): (Vec<_>, Vec<_>) = free.into_iter().enumerate().partition(keep);
            self.free.extend(kept.into_iter().map(|(_, index)| index));
            gone.into_iter().for_each(|(_, index)| self.drop_slot(index));
            (self.taken, self.largest, self.spare) = (0, 0, usize::MAX);
        }
        self.taken += 1;
        self.largest = self.largest.max(size);
    }
}

/// The slots of steps about which the device decides nothing: rows of coefficients in a uniform buffer.
#[derive(Debug)]
pub(crate) struct Slots {
    pool: Pool<Rows>,
    /// Bytes from row to row.
    stride: u64,
}

/// The rows of one step.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    buffer: wgpu::Buffer,
    pub(crate) bind_group: wgpu::BindGroup,
}

impl Slot for Rows {
    fn size(&self) -> u64 {
        self.buffer.size()
    }
}

impl Slots {
    pub(crate) fn new(gpu: &Gpu) -> Self {
        let stride = ROW.next_multiple_of(gpu.device().limits().min_uniform_buffer_offset_alignment.into());
        Self { pool: Pool::new(), stride }
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn check_room(&self) -> Result<()> {
        self.pool.check_room()
    }

    /// A free slot of this many rows, or [`Error::TooManyStepsInFlight`].
    pub(crate) fn acquire(&mut self, gpu: &Gpu, rows: usize) -> Result<(Taken, Rows)> {
        let size = self.stride * rows as u64;
        self.pool.take(size, || Rows::new(gpu, rows, size))
    }

    /// Words from row to row, for [`Slots::write`].
    pub(crate) fn stride(&self) -> usize {
        (self.stride / 4) as usize
    }

    /// Writes all rows of the slot, before the next submission.
    pub(crate) fn write(&self, gpu: &Gpu, slot: &Rows, rows: &[u32]) -> Result<()> {
        gpu.write_words(&slot.buffer, rows)
    }
}

impl Rows {
    fn new(gpu: &Gpu, rows: usize, size: u64) -> Result<Self> {
        let available = gpu.device().limits().max_buffer_size;
        if size > available {
            let name = format!("{rows} rows of coefficients");
            return Err(Error::OverLimit { name, limit: "max_buffer_size", needed: size, available });
        }
        gpu.scoped("a uniform buffer", || {
            let (label, size) = (Some("wgpu-optim rows"), size.next_power_of_two().min(available));
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
            let buffer = gpu.device().create_buffer(&descriptor);
            let row = wgpu::BufferBinding { buffer: &buffer, offset: 0, size: wgpu::BufferSize::new(ROW) };
            let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label,
                layout: &kernel::row_layout(gpu.device()),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(row) }],
            });
            Self { buffer, bind_group }
        })
    }
}
