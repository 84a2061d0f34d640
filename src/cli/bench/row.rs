//! What `bench` has measured: the rows of its tables.

use super::clock::Pair;
use super::shapes::Shape;
use super::subject::Memory;

/// The largest allowed difference between CPU and GPU after the compared steps, as a part of each parameter's
/// magnitude.
pub(super) const TOLERANCE: f64 = 5e-6;
/// Steps before CPU and GPU are compared.
pub(super) const COMPARED: usize = 3;

/// One rule, shape and memory on one device.
pub(super) struct Row {
    pub(super) rule: &'static str,
    pub(super) variant: String,
    /// `None` for the CPU.
    pub(super) adapter: Option<String>,
    pub(super) clock: &'static str,
    pub(super) memory: Memory,
    pub(super) shape: Shape,
    /// Memory traffic of a step, for each parameter.
    pub(super) bytes: usize,
    pub(super) copy_bytes: usize,
    pub(super) pair: Pair,
    /// On a GPU: dispatches of a step, bytes on the device, the worst error against the CPU.
    pub(super) on_gpu: Option<(usize, Option<u64>, f64)>,
    pub(super) state_bytes: usize,
    /// Many tensors beside one tensor with as many elements in the optimizer's own memory.
    pub(super) of_one: Option<Pair>,
}

impl Row {
    pub(super) fn gbps(&self) -> f64 {
        self.bytes as f64 * self.shape.elements() as f64 / self.pair.ms[0] / 1e6
    }

    pub(super) fn copy_gbps(&self) -> f64 {
        self.copy_bytes as f64 * self.shape.elements() as f64 / self.pair.ms[1] / 1e6
    }

    /// The step's speed as a part of the copy's.
    pub(super) fn of_copy(&self) -> f64 {
        self.pair.ratio * self.bytes as f64 / self.copy_bytes as f64
    }

    pub(super) fn differs(&self) -> bool {
        self.on_gpu.is_some_and(|(_, _, error)| error > TOLERANCE)
    }

    /// Bytes of parameters, gradients and states.
    pub(super) fn needed(&self) -> u64 {
        (8 + self.state_bytes) as u64 * self.shape.elements() as u64
    }
}

/// Our Adam beside what a user would run instead.
pub(super) struct Baseline {
    pub(super) name: &'static str,
    pub(super) adapter: Option<String>,
    pub(super) shape: Shape,
    pub(super) bytes: usize,
    pub(super) pair: Pair,
}
