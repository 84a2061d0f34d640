//! Slots for coefficients: each recorded step has its own part of one uniform buffer until the GPU has done with it.
//!
//! One uniform that is rewritten between recordings would give its last value to all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Gpu, kernel};
use crate::error::{Error, Result};
use crate::settings::ROW_HEAD;

/// Steps that may be recorded and not yet finished.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// The most coefficients that a rule may have.
pub(crate) const MAX_HYPER: usize = 32;
/// The largest row, in bytes: the driver's numbers, and a rule's `Hyper`.
pub(crate) const ROW: u64 = 4 * (ROW_HEAD + MAX_HYPER) as u64;

#[derive(Debug)]
pub(crate) struct Slots {
    buffer: wgpu::Buffer,
    pub(crate) bind_group: wgpu::BindGroup,
    /// Bytes from row to row.
    stride: u64,
    /// Rows in a slot.
    rows: usize,
    free: Arc<Mutex<Vec<usize>>>,
}

/// A slot in use. Dropped when the GPU has finished the step, or when its encoder is dropped without a submission.
#[derive(Debug)]
pub(crate) struct Slot {
    index: usize,
    free: Arc<Mutex<Vec<usize>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.free).push(self.index);
    }
}

fn lock(free: &Mutex<Vec<usize>>) -> MutexGuard<'_, Vec<usize>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    /// Slots of at least this many rows each. Those of another size, which are still in use, live on until they are released.
    pub(crate) fn new(gpu: &Gpu, rows: usize) -> Result<Self> {
        let rows = rows.next_power_of_two();
        let limits = gpu.device().limits();
        let stride = ROW.next_multiple_of(limits.min_uniform_buffer_offset_alignment.into());
        let size = stride * rows as u64 * MAX_IN_FLIGHT as u64;
        if size > limits.max_buffer_size {
            let name = format!("{rows} rows of coefficients");
            let available = limits.max_buffer_size;
            return Err(Error::OverLimit { name, limit: "max_buffer_size", needed: size, available });
        }
        gpu.scoped("a uniform buffer", || {
            let label = Some("wgpu-optim rows");
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
            let buffer = gpu.device().create_buffer(&descriptor);
            let layout = kernel::row_layout(gpu.device());
            let row = wgpu::BufferBinding { buffer: &buffer, offset: 0, size: wgpu::BufferSize::new(ROW) };
            let bind_group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
                label,
                layout: &layout,
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(row) }],
            });
            let free = Arc::new(Mutex::new((0..MAX_IN_FLIGHT).collect()));
            Self { buffer, bind_group, stride, rows, free }
        })
    }

    pub(crate) fn holds(&self, rows: usize) -> bool {
        rows <= self.rows
    }

    /// A free slot, or [`Error::TooManyStepsInFlight`].
    pub(crate) fn acquire(&self) -> Result<Slot> {
        let index = lock(&self.free).pop().ok_or(Error::TooManyStepsInFlight { limit: MAX_IN_FLIGHT })?;
        Ok(Slot { index, free: self.free.clone() })
    }

    /// Words from row to row, for [`Slots::write`].
    pub(crate) fn stride(&self) -> usize {
        (self.stride / 4) as usize
    }

    /// Writes the slot's rows, all with one call, before the next submission. This is also where a lost device shows that is not
    /// ours to watch: it has no staging memory.
    pub(crate) fn write(&self, gpu: &Gpu, slot: &Slot, rows: &[u32]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(rows);
        let Some(size) = wgpu::BufferSize::new(bytes.len() as u64) else {
            return Ok(());
        };
        gpu.scoped("coefficients", || {
            let view = gpu.queue().write_buffer_with(&self.buffer, self.start(slot), size);
            view.map(|mut view| view.copy_from_slice(bytes)).ok_or(Error::DeviceLost)
        })?
    }

    /// The dynamic offset of a row.
    pub(crate) fn offset(&self, slot: &Slot, row: usize) -> u32 {
        (self.start(slot) + row as u64 * self.stride) as u32
    }

    fn start(&self, slot: &Slot) -> u64 {
        (slot.index * self.rows) as u64 * self.stride
    }
}
