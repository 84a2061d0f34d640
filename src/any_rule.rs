//! Any rule, its type erased.

use std::sync::Arc;

use crate::cpu::{self, AnyJob};
use crate::formats::{Extent, Format, Storage};
use crate::rule::{Description, Real, Reduce, Rule, Stage, Step};
use crate::settings::Coefficients;

/// Any [`Rule`], its type erased: what a parameter group holds, and what [`rules::by_name`](crate::rules::by_name)
/// returns.
#[derive(Clone, Debug)]
pub struct AnyRule(pub(crate) Arc<dyn Erased>);

impl<R: Rule> From<R> for AnyRule {
    fn from(rule: R) -> Self {
        Self(Arc::new(rule))
    }
}

impl AnyRule {
    /// What both executors ask of it.
    pub(crate) fn description(&self) -> &dyn Description {
        &*self.0
    }
    /// The rule's name.
    pub fn name(&self) -> &'static str {
        self.0.name()
    }
    /// Its WGSL.
    pub fn shader(&self) -> &'static str {
        self.0.shader()
    }
    /// PyTorch's default learning rate.
    pub fn default_lr(&self) -> f64 {
        self.0.default_lr()
    }
    /// What this configuration keeps: the states of each element, then what is kept for each tensor or for the group.
    pub fn storage(&self) -> Vec<Storage> {
        self.0.storage()
    }
    /// The names of all states that this configuration keeps.
    pub fn states(&self) -> Vec<&'static str> {
        self.storage().iter().map(|state| state.name).collect()
    }
    /// The states of each element that are [moments](Rule::is_moment), which [`Precision`](crate::Precision) may store
    /// in 16 or 8 bits.
    pub fn moments(&self) -> Vec<&'static str> {
        let moment = |state: &Storage| state.extent == Extent::Element && self.0.is_moment(state.name);
        self.storage().iter().filter(|state| moment(state)).map(|state| state.name).collect()
    }
    /// All states of an element that the shader declares, kept by this configuration or not.
    pub fn declared_states(&self) -> &'static [&'static str] {
        self.0.state_names()
    }
    /// Names of the coefficients, in order.
    pub fn hyper_names(&self) -> &'static [&'static str] {
        self.0.hyper_names()
    }
    /// Values of the shader's `override` constants.
    pub fn overrides(&self) -> Vec<(&'static str, bool)> {
        self.0.overrides()
    }
    /// What a step does, in order.
    pub fn stages(&self) -> &'static [Stage] {
        self.0.stages()
    }
    /// The reduction of a norm-based rule; `None` for a rule that is elementwise.
    pub fn reduce(&self) -> Option<Reduce> {
        self.0.reduce()
    }
    /// Whose norms it needs.
    pub(crate) fn reduces_over(&self) -> Option<Extent> {
        self.reduce().map(|reduce| reduce.over)
    }
    /// Whether the other compiles to the same and keeps the same.
    pub(crate) fn compatible_with(&self, other: &Self) -> bool {
        let kept = |rule: &Self| rule.storage().iter().map(|state| (state.name, state.extent)).collect::<Vec<_>>();
        let of = |rule: &Self| (rule.name(), rule.shader(), rule.stages(), kept(rule), rule.overrides());
        of(self) == of(other)
    }
    /// Bytes that a step moves for each f32 parameter: parameter and states read and written, gradient read; for norms,
    /// those that they need are read once more.
    pub fn bytes_per_parameter(&self) -> usize {
        let states = self.storage().iter().filter(|state| state.extent == Extent::Element).count();
        let measured = self.reduce().map_or(0, |reduce| 1 + usize::from(reduce.parameter) + reduce.reads.len());
        4 * (3 + 2 * states + measured)
    }
}

/// [`Rule`] without its associated types, with what the CPU runs of it.
pub(crate) trait Erased: Description {
    fn restore(&self, saved: &str) -> Option<AnyRule>;
    /// The norms of the parameter and of what the rule measures.
    fn measure(&self, job: &AnyJob<'_>, c: &Coefficients, step: &Step) -> [f64; 2];
    /// What the rule makes of its norms, in the arithmetic of this format; `kept` is the number that it keeps.
    fn trust(&self, norms: [f64; 2], kept: &mut f64, format: Format, step: &Step) -> f64;
    fn update(&self, job: AnyJob<'_>, c: &Coefficients, step: &Step, ratio: f64);
}

impl<R: Rule> Erased for R {
    fn restore(&self, saved: &str) -> Option<AnyRule> {
        Rule::restore(self, saved).map(AnyRule::from)
    }
    fn measure(&self, job: &AnyJob<'_>, c: &Coefficients, step: &Step) -> [f64; 2] {
        if !R::MEASURES {
            return [0.0; 2];
        }
        match job {
            AnyJob::F32(job) => cpu::measure(self, job, c, step),
            AnyJob::F64(job) => cpu::measure(self, job, c, step),
        }
    }
    fn trust(&self, norms: [f64; 2], kept: &mut f64, format: Format, step: &Step) -> f64 {
        match format {
            Format::F64 => cpu::trust::<R, f64>(self, norms, kept, step),
            _ => {
                let mut narrow = f32::of(*kept);
                let ratio = cpu::trust::<R, f32>(self, norms, &mut narrow, step);
                *kept = narrow.into();
                ratio
            }
        }
    }
    fn update(&self, job: AnyJob<'_>, c: &Coefficients, step: &Step, ratio: f64) {
        match job {
            AnyJob::F32(job) => cpu::update(self, job, c, step, ratio),
            AnyJob::F64(job) => cpu::update(self, job, c, step, ratio),
        }
    }
}
