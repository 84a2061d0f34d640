//! A parameter group: what its parameters have in common.

use super::parameter::Memory;
use super::storage::Stored;
use crate::any_rule::AnyRule;
use crate::averaging::Averaging;
use crate::formats::Extent;
use crate::gpu::arena::Arena;
use crate::gpu::kernel::Extras;
use crate::precision::Precision;
use crate::schedule::Schedule;
use crate::settings::Settings;

#[derive(Debug)]
pub(super) struct Group {
    pub(super) rule: AnyRule,
    pub(super) settings: Settings,
    pub(super) schedule: Option<Schedule>,
    pub(super) averaging: Option<Averaging>,
    /// The averages stand where the parameters belong.
    pub(super) swapped: bool,
    /// Its parameters stand where the model is evaluated.
    pub(super) evaluating: bool,
    /// How its parameters' memory is stored.
    pub(super) precision: Precision,
    /// Steps that the schedule has seen for certain.
    pub(super) steps: u64,
    /// Recorded steps that the device may have skipped, by `StepLog::bit`.
    pub(super) pending: u128,
    /// All that it keeps: parameter, gradient, states and average, in this order.
    pub(super) storage: Vec<Stored>,
    /// The memory of elements, of parameters whose states are in f32, and of those whose states are in blocks.
    pub(super) arenas: [Arenas; 2],
    /// An arena for each storage of another extent than [`Extent::Element`], in their order.
    pub(super) others: Vec<Arena>,
    /// The states that are the group's own: `f64` on the CPU.
    pub(super) shared: Memory,
}

/// Where the elements of a group's parameters are.
#[derive(Debug)]
pub(super) struct Arenas {
    /// Of [`Optimizer::add`]: parameters, gradients and states.
    pub(super) owned: Arena,
    /// Of [`Optimizer::add_buffer`]: states.
    pub(super) states: Arena,
}

impl Group {
    /// The arenas of parameters with or without states in blocks.
    pub(super) fn arenas(&mut self, narrow: bool) -> &mut Arenas {
        &mut self.arenas[usize::from(narrow)]
    }

    pub(super) fn extras(&self, zero: bool) -> Extras {
        self.extras_with(&self.settings, zero)
    }

    /// What its kernels would do besides with these settings.
    pub(super) fn extras_with(&self, settings: &Settings, zero: bool) -> Extras {
        Extras {
            average: self.averaging.is_some(),
            clip: settings.clip_value.is_some(),
            zero,
            per_tensor: self.per_parameter_with(settings),
            pooled: false,
            two_factors: settings.two_factors(),
            noise: settings.noise.is_some(),
            encoding: self.precision.encoding(),
        }
    }

    /// Whether each of its parameters has coefficients of its own.
    pub(super) fn per_parameter(&self) -> bool {
        self.per_parameter_with(&self.settings)
    }

    pub(super) fn per_parameter_with(&self, settings: &Settings) -> bool {
        let Settings { clip_norm, noise, .. } = settings;
        clip_norm.is_some() || noise.is_some() || self.rule.reduces_over() == Some(Extent::Tensor)
    }

    /// Steps of its schedule so far, if none of those that are not known was skipped.
    pub(super) fn recorded(&self) -> u64 {
        self.steps + u64::from(self.pending.count_ones())
    }

    /// The settings at the schedule's present step.
    pub(super) fn now(&self) -> Settings {
        self.settings_at(self.recorded())
    }

    pub(super) fn settings_at(&self, step: u64) -> Settings {
        let factor = self.schedule.as_ref().map_or(1.0, |schedule| schedule.at(step));
        Settings { lr_factor: self.settings.lr_factor * factor, ..self.settings }
    }
}
