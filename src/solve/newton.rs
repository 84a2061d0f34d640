//! Newton's equations on the device.

use super::cholesky::{self, Equations};
use super::device::buffer;
use super::dispatcher::Dispatcher;
use super::replay::{Call, Replay};
use super::vectors::FREE_SCALAR;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::gpu::memory::BufferRange;
use crate::gpu::own::OwnBuffer;

pub(super) const SHADER: &str = include_str!("../../shaders/shift.wgsl");
/// The most shifts that are tried, as on the host. Each is twice the one before.
const SHIFTS: usize = 200;

/// (A + τ·1)·δ = −g, where τ is 0 or the first shift for which there is a factor.
#[derive(Debug)]
pub(super) struct Newton {
    /// The attempt with the first τ, and the attempt with the next one.
    attempts: [Replay; 2],
    /// The status of the equations and τ; and ‖A‖².
    status: BufferRange,
    square: BufferRange,
}

impl Newton {
    pub(super) fn new(
        gpu: &Gpu,
        own: &mut Vec<OwnBuffer>,
        matrix: &BufferRange,
        g: &BufferRange,
        delta: &BufferRange,
        scalars: &BufferRange,
    ) -> Result<Self> {
        let n = g.len;
        let mut make = |label, len| buffer(gpu, own, label, len);
        let (added, status) = (make("Newton's shift", n as u64)?, make("Newton's status", 3)?);
        let equations = Equations { matrix, g, added: &added, delta, status: &status };
        let factor = cholesky::calls(gpu, own, &equations)?;
        let pass = gpu.pass("shift", SHADER.into(), "shift", &[&[], &[true, true, false, false]])?;
        let group = gpu.scoped("a shift's bind group", || {
            pass.bind(gpu, 1, &[scalars, matrix, &added, &status].map(BufferRange::binding))
        })?;
        let attempt = |attempt| {
            let arguments = vec![n as u32, attempt, FREE_SCALAR as u32];
            let (kernel, group) = (pass.clone(), group.clone());
            let mut calls = vec![Call { kernel, group, arguments, workgroups: [1, 1, 1] }];
            calls.extend(factor.iter().cloned());
            Replay::new(gpu, calls)
        };
        let square = BufferRange::new(&scalars.buffer, scalars.offset + 4 * FREE_SCALAR as u64, 1);
        Ok(Self { attempts: [attempt(0)?, attempt(1)?], status, square })
    }

    /// Needs ‖A‖² in its scalar. Returns `false` if that is not finite, as with elements beyond 1e19, or if no shift
    /// gives a factor.
    pub(super) async fn solve(&self, dispatcher: &mut Dispatcher) -> Result<bool> {
        let ranges = [self.status.clone(), self.square.clone()];
        for attempt in 0..SHIFTS {
            self.attempts[attempt.min(1)].encode(dispatcher.encoder());
            let found = dispatcher.fetch(&ranges).await?;
            if !found[3].is_finite() {
                return Ok(false);
            }
            if found[1].to_bits() == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
