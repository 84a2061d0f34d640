//! Slots for coefficients: each recorded step has a buffer of its own until the GPU has finished it.
//!
//! If all steps shared one buffer, all would read what was written last. A slot is made when a step finds none free,
//! and stays while steps need it: a loop with few steps in flight has few slots.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Gpu, kernel};
use crate::error::{Error, Result};
use crate::settings::ROW_HEAD;

/// Steps that may be recorded and not yet finished.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

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
pub(crate) struct Pool<S>(Arc<Mutex<Kept<S>>>);

#[derive(Debug)]
struct Kept<S> {
    free: Vec<S>,
    in_use: usize,
    /// Since slots were dropped last: how many were taken, the most bytes that one was taken for, and the fewest that
    /// were left free.
    taken: usize,
    largest: u64,
    spare: usize,
}

/// A slot in use. Dropped when the GPU has finished the step, or when its encoder is dropped without a submission.
#[derive(Debug)]
pub(crate) struct Taken<S: Slot> {
    slot: S,
    /// It can be used again.
    sound: bool,
    pool: Arc<Mutex<Kept<S>>>,
}

impl<S: Slot> Deref for Taken<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.slot
    }
}

impl<S: Slot> Taken<S> {
    /// Lets go of the slot after this use.
    pub(crate) fn discard(&mut self) {
        self.sound = false;
    }
}

impl<S: Slot> Drop for Taken<S> {
    fn drop(&mut self) {
        let mut kept = lock(&self.pool);
        kept.in_use -= 1;
        kept.free.extend(self.sound.then(|| self.slot.clone()));
    }
}

fn lock<S>(kept: &Mutex<Kept<S>>) -> MutexGuard<'_, Kept<S>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Slot> Pool<S> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Kept { free: Vec::new(), in_use: 0, taken: 0, largest: 0, spare: usize::MAX })))
    }

    /// [`Error::TooManyStepsInFlight`] if no slot can be taken now.
    pub(crate) fn check_room(&self) -> Result<()> {
        let full = lock(&self.0).in_use >= MAX_IN_FLIGHT;
        if full { Err(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT }) } else { Ok(()) }
    }

    /// The smallest free slot of at least `size` bytes. If there is none, `make` makes one, and one that is too small
    /// goes.
    pub(crate) fn take(&self, size: u64, make: impl FnOnce() -> Result<S>) -> Result<Taken<S>> {
        self.check_room()?;
        let free = {
            let mut kept = lock(&self.0);
            kept.let_go(size);
            let fitting = kept.free.iter().enumerate().filter(|(_, slot)| slot.size() >= size);
            let free = match fitting.min_by_key(|(_, slot)| slot.size()).map(|(at, _)| at) {
                Some(at) => Some(kept.free.swap_remove(at)),
                None => {
                    kept.free.pop();
                    None
                }
            };
            kept.spare = kept.spare.min(kept.free.len());
            free
        };
        let slot = free.map_or_else(make, Ok)?;
        lock(&self.0).in_use += 1;
        Ok(Taken { slot, sound: true, pool: self.0.clone() })
    }
}

impl<S: Slot> Kept<S> {
    /// Counts a step that wants `size` bytes. Now and then, drops the slots that no step has needed since the last
    /// time.
    fn let_go(&mut self, size: u64) {
        if self.taken == MAX_IN_FLIGHT {
            let most = self.largest.next_power_of_two();
            self.free.truncate(self.free.len().saturating_sub(self.spare));
            self.free.retain(|slot| slot.size() <= most);
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

    pub(crate) fn check_room(&self) -> Result<()> {
        self.pool.check_room()
    }

    /// A free slot of this many rows, or [`Error::TooManyStepsInFlight`].
    pub(crate) fn acquire(&self, gpu: &Gpu, rows: usize) -> Result<Taken<Rows>> {
        let size = self.stride * rows as u64;
        self.pool.take(size, || self.rows(gpu, size))
    }

    fn rows(&self, gpu: &Gpu, size: u64) -> Result<Rows> {
        let available = gpu.device().limits().max_buffer_size;
        if size > available {
            let name = format!("{} rows of coefficients", size / self.stride);
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
            Rows { buffer, bind_group }
        })
    }

    /// Words from row to row, for [`Slots::write`].
    pub(crate) fn stride(&self) -> usize {
        (self.stride / 4) as usize
    }

    /// Writes all rows of the slot, before the next submission.
    pub(crate) fn write(&self, gpu: &Gpu, slot: &Rows, rows: &[u32]) -> Result<()> {
        gpu.write_words(&slot.buffer, rows)
    }

    /// The dynamic offset of a row.
    pub(crate) fn offset(&self, row: usize) -> u32 {
        (row as u64 * self.stride) as u32
    }
}
