//! A parameter: its memory, its steps, and what the next step does to it.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use super::accumulate::Held;
use super::group::Group;
use crate::averaging::Averaging;
use crate::cpu::Numbers;
use crate::error::{Error, Result};
use crate::gpu::memory::Tensor;
use crate::rule::{Real, Step};
use crate::settings::{Accumulation, Coefficients, Options, Settings};

#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) group: usize,
    pub(super) len: usize,
    /// Steps taken for certain.
    pub(super) steps: u64,
    /// Recorded steps in which it took part and which the device may have skipped, by `StepLog::bit`.
    pub(super) pending: u128,
    /// It stands at `x + shift·v`.
    pub(super) shift: f64,
    pub(super) gradient: Held,
    /// Somebody took the range of its gradient, to write there.
    pub(super) handed_out: AtomicBool,
    pub(super) options: Options,
    /// The step behind which its average began; `None` for an average that somebody wrote, which counts all steps.
    pub(super) average_begun: Option<u64>,
    /// The largest magnitude that the host wrote, where it says whether a learning rate is too small.
    pub(super) largest: f64,
    pub(super) memory: Memory,
}

#[derive(Debug)]
pub(super) enum Memory {
    Gpu(Box<Tensor>),
    F32(HostMemory<f32>),
    F64(HostMemory<f64>),
}

/// One parameter's memory on the CPU.
#[derive(Debug)]
pub(super) struct HostMemory<F> {
    /// `None` for a parameter in the caller's slice.
    pub(super) own: Option<Own<F>>,
    /// All of its states, in the order of the group's storage.
    pub(super) states: Vec<Numbers<F>>,
}

#[derive(Debug)]
pub(super) struct Own<F> {
    pub(super) parameter: Numbers<F>,
    pub(super) gradient: Numbers<F>,
}

/// Where a parameter stands before the step that is recorded: the steps that it and its group's schedule have taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub(super) steps: u64,
    pub(super) schedule: u64,
    /// Micro-batches in the window that this step ends.
    pub(super) window: u32,
}

/// What makes parameters step together: the group, the options, the step count and what is not known of it, the
/// beginning of the average, the look-ahead, whether the gradient was accumulated; and who it is, where each has
/// coefficients of its own.
pub(super) type Cohort = (usize, u64, bool, (u64, u128, u64), u64, bool, Option<u64>);

pub(super) fn cohort_of(id: u64, parameter: &Parameter, groups: &[Group]) -> Cohort {
    let Parameter { group, options, steps, pending, shift, .. } = parameter;
    let begun = if groups[*group].averaging.is_some() { parameter.begun() } else { 0 };
    let counts = (*steps, *pending, begun);
    let (alone, accumulated) = (groups[*group].per_parameter().then_some(id), parameter.is_accumulated());
    (*group, options.lr_scale.to_bits(), options.weight_decay, counts, shift.to_bits(), accumulated, alone)
}

impl Parameter {
    /// Steps so far, if none of those that are not known was skipped.
    pub(super) fn recorded(&self) -> u64 {
        self.steps + u64::from(self.pending.count_ones())
    }

    /// Schedule steps to offer for each of its own step counts: one, unless the two may have come apart.
    pub(super) fn width(&self, group: &Group) -> u32 {
        let apart = group.schedule.is_some() && self.pending != group.pending && group.pending != 0;
        if apart { group.pending.count_ones() + 1 } else { 1 }
    }

    /// The factor on its accumulated gradient, where `window` micro-batches are in the window.
    pub(super) fn share(&self, group: &Group, window: u32) -> f64 {
        match (self.gradient, group.settings.accumulation) {
            (Held::Batches(_), Accumulation::Mean) => 1.0 / f64::from(window.max(1)),
            _ => 1.0,
        }
    }

    /// The step behind which its average began.
    pub(super) fn begun(&self) -> u64 {
        self.average_begun.unwrap_or(0)
    }

    /// Whether it has an average of this kind, as far as its steps are known.
    pub(super) fn has_average(&self, averaging: Option<Averaging>) -> bool {
        averaging.is_some_and(|averaging| averaging.has(self.recorded(), self.begun()))
    }

    pub(super) fn at(&self, group: &Group, window: u32) -> At {
        At { steps: self.recorded(), schedule: group.recorded(), window }
    }

    /// Its group's settings, with its own options.
    pub(super) fn settings(&self, group: &Group, at: At) -> Settings {
        self.options.apply(group.settings_at(at.schedule))
    }

    /// What the driver around the rule gets for the next step.
    pub(super) fn coefficients(&self, group: &Group, at: At) -> Coefficients {
        let average = group.averaging.map(|averaging| averaging.rate(at.steps + 1, self.begun()));
        let settings = self.settings(group, at);
        let noise = settings.noise.map(|noise| noise.stream(&self.name, at.steps + 1));
        let mut plain = settings.coefficients();
        plain.grad_scale *= self.share(group, at.window);
        let decay = if group.rule.0.decays() && settings.decoupled() > 0.0 { 0.0 } else { plain.decay };
        let (encoding, draws) = (group.precision.encoding(), group.precision.draws(at.steps + 1));
        Coefficients { average, noise, decay, encoding, draws, ..plain }
    }

    /// What the host knows of the next step.
    pub(super) fn next_step(&self, group: &Group, at: At) -> Step {
        let momentum = group.schedule.as_ref().and_then(|schedule| schedule.momentum(at.schedule));
        let settings = self.settings(group, at);
        let weight_decay = if group.rule.0.decays() { settings.decoupled() } else { 0.0 };
        Step { t: at.steps + 1, lr: settings.effective_lr(), momentum, weight_decay, look_ahead: self.shift }
    }

    /// Whether the next step leaves it out.
    pub(super) fn stays(&self) -> bool {
        !self.has_gradient() || self.options.frozen
    }

    pub(super) fn element(&self) -> &'static str {
        match self.memory {
            Memory::F64(_) => f64::NAME,
            _ => f32::NAME,
        }
    }

    pub(super) fn check_len(&self, found: usize) -> Result<()> {
        let (expected, name) = (self.len, self.name.clone());
        if found == expected { Ok(()) } else { Err(Error::Length { name, expected, found }) }
    }

    pub(super) fn unsupported(&self, operation: &'static str, reason: &'static str) -> Error {
        Error::Unsupported { operation, name: self.name.clone(), reason }
    }

    /// Whether a step finds a gradient.
    pub(super) fn has_gradient(&self) -> bool {
        match self.gradient {
            Held::Unwritten => self.handed_out.load(Relaxed),
            Held::Nothing => false,
            Held::Values | Held::Batches(_) => true,
        }
    }

    /// Whether the next step takes micro-batches.
    pub(super) fn is_accumulated(&self) -> bool {
        matches!(self.gradient, Held::Batches(_))
    }

    /// Micro-batches in its gradient.
    pub(super) fn batches(&self) -> u32 {
        if let Held::Batches(n) = self.gradient { n } else { 0 }
    }

    /// Forgets its micro-batches.
    pub(super) fn end_window(&mut self) {
        if self.is_accumulated() {
            self.gradient = Held::Nothing;
        }
    }

    /// Whether a step on a GPU moves it.
    pub(super) fn is_stepped(&self) -> bool {
        let bound =
            matches!(&self.memory, Memory::Gpu(tensor) if tensor.gradient.is_some() && tensor.parameter.is_some());
        bound && !self.stays()
    }
}
